/* jtext.c: str() and repr() of values as Python writes them, and HTML escapes. A bracket, comma or quote is as trusted as the value it belongs to. */
#include "server/chat/jeval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/juni.h"

bool jtext_trusted(const struct jval *v)
{
    return v->type == J_STR ? jstr_trusted(v->u.s) : v->trusted;
}

/* The shortest decimal that reads back as f, laid out as repr() does: an exponent below 1e-4 and from 1e16. */
size_t jtext_float(double f, char out[40])
{
    if (isnan(f))
        return (size_t)snprintf(out, 40, "nan");
    if (isinf(f))
        return (size_t)snprintf(out, 40, f < 0 ? "-inf" : "inf");
    char digits[40];
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - exponent > 1 ? precision - exponent : 1;
        return (size_t)snprintf(out, 40, "%.*f", decimals, f);
    }
    *strchr(digits, 'e') = '\0';
    return (size_t)snprintf(out, 40, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
}

static int jtext_repr_char(struct jbuild *b, const struct jstr *s, size_t at, size_t n, uint32_t c, char quote)
{
    bool trusted = jstr_trusted_at(s, at);
    char text[16];
    if (c == (uint32_t)quote || c == '\\')
        snprintf(text, sizeof text, "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (juni_is_printable(c))
        return jbuild_sub(b, s, at, at + n);
    else
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    return jbuild_puts(b, text, trusted);
}

static int jtext_repr_str(struct jbuild *b, struct jstr *s)
{
    if (jstr_flat(b->run, s) < 0 || jrun_spend_bytes(b->run, s->n) < 0)
        return -1;
    bool trusted = jstr_trusted(s);
    char quote[2] = {s->n > 0 && memchr(s->p, '\'', s->n) != NULL && memchr(s->p, '"', s->n) == NULL ? '"' : '\'', '\0'};
    if ((s->markup && jbuild_puts(b, "Markup(", trusted) < 0) || jbuild_puts(b, quote, trusted) < 0)
        return -1;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        size_t n = juni_decode(s->p + i, s->n - i, &c);
        if (jtext_repr_char(b, s, i, n, c, quote[0]) < 0)
            return -1;
        i += n;
    }
    if (jbuild_puts(b, quote, trusted) < 0)
        return -1;
    return s->markup ? jbuild_puts(b, ")", trusted) : 0;
}

static int jtext_repr_seq(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    bool tuple = v->type == J_TUPLE;
    if (jbuild_puts(b, tuple ? "(" : "[", v->trusted) < 0)
        return -1;
    for (size_t i = 0; i < v->u.seq->n; i++)
        if ((i > 0 && jbuild_puts(b, ", ", v->trusted) < 0) || jtext_repr(r, b, &v->u.seq->v[i]) < 0)
            return -1;
    return jbuild_puts(b, !tuple ? "]" : v->u.seq->n == 1 ? ",)" : ")", v->trusted);
}

static int jtext_repr_dict(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    const struct jdict *d = v->u.dict;
    if (jbuild_puts(b, "{", v->trusted) < 0)
        return -1;
    for (size_t i = 0; i < d->n; i++)
        if ((i > 0 && jbuild_puts(b, ", ", v->trusted) < 0) || jtext_repr(r, b, &d->v[i].key) < 0 || jbuild_puts(b, ": ", v->trusted) < 0 ||
            jtext_repr(r, b, &d->v[i].value) < 0)
            return -1;
    return jbuild_puts(b, "}", v->trusted);
}

static int jtext_repr_view(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    static const char *const names[] = {"dict_keys(", "dict_values(", "dict_items("};
    struct jseq *s;
    if (jbuild_puts(b, names[v->sub], v->trusted) < 0 || jiter_collect(r, v, &s) < 0)
        return -1;
    struct jval list = jval_seq(J_LIST, s, v->trusted);
    return jtext_repr_seq(r, b, &list) < 0 ? -1 : jbuild_puts(b, ")", v->trusted);
}

static int jtext_number(struct jbuild *b, const struct jval *v)
{
    char text[64];
    const struct jrange *range = v->u.range;
    switch (v->type) {
    case J_NONE: return jbuild_puts(b, "None", v->trusted);
    case J_BOOL: return jbuild_puts(b, v->u.b ? "True" : "False", v->trusted);
    case J_INT: snprintf(text, sizeof text, "%lld", (long long)v->u.i); break;
    case J_FLOAT: return jbuild_bytes(b, text, jtext_float(v->u.f, text), v->trusted);
    default: {
        long long stop = range->n == 0 ? range->start : range->start + range->n * range->step;
        if (range->step == 1)
            snprintf(text, sizeof text, "range(%lld, %lld)", (long long)range->start, stop);
        else
            snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)range->start, stop, (long long)range->step);
    }
    }
    return jbuild_puts(b, text, v->trusted);
}

static int jtext_repr_kind(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    switch (v->type) {
    case J_UNDEF: return jbuild_puts(b, "Undefined", true);
    case J_STR: return jtext_repr_str(b, v->u.s);
    case J_LIST: case J_TUPLE: return jtext_repr_seq(r, b, v);
    case J_DICT: return jtext_repr_dict(r, b, v);
    case J_VIEW: return jtext_repr_view(r, b, v);
    case J_NS:
        if (jbuild_puts(b, "<Namespace ", true) < 0 || jtext_repr_dict(r, b, v) < 0)
            return -1;
        return jbuild_puts(b, ">", true);
    case J_MACRO:
        if (v->u.macro->def->name == NULL)
            return jbuild_puts(b, "<Macro anonymous>", true);
        if (jbuild_puts(b, "<Macro '", true) < 0 || jbuild_puts(b, v->u.macro->def->name->p, true) < 0)
            return -1;
        return jbuild_puts(b, "'>", true);
    case J_ITER: case J_METHOD: case J_FUNC: case J_LOOP:
        return jrun_unsupported(r, "printing a %s is not supported", jval_type_name(v->type)); /* Python prints an address */
    default: return jtext_number(b, v);
    }
}

int jtext_repr(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    if (jrun_spend(r, 1) < 0 || jrun_enter(r) < 0 || jtext_repr_kind(r, b, v) < 0)
        return -1;
    jrun_leave(r);
    return 0;
}

int jtext_str(struct jrun *r, struct jbuild *b, const struct jval *v)
{
    if (v->type == J_STR)
        return jbuild_str(b, v->u.s);
    return v->type == J_UNDEF ? 0 : jtext_repr(r, b, v);
}

int jtext_of(struct jrun *r, const struct jval *v, struct jstr **out)
{
    if (v->type == J_STR) {
        *out = v->u.s;
        return jstr_flat(r, v->u.s);
    }
    struct jbuild b;
    jbuild_init(&b, r);
    return jtext_str(r, &b, v) < 0 ? -1 : jbuild_finish(&b, out);
}

int jtext_escape(struct jrun *r, struct jbuild *b, struct jstr *s)
{
    if (jstr_flat(r, s) < 0 || jrun_spend_bytes(r, s->n) < 0)
        return -1;
    size_t from = 0;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i];
        const char *to = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : NULL;
        if (to == NULL)
            continue;
        if (jbuild_sub(b, s, from, i) < 0 || jbuild_puts(b, to, jstr_trusted_at(s, i)) < 0)
            return -1;
        from = i + 1;
    }
    return jbuild_sub(b, s, from, s->n);
}

int jtext_markup(struct jrun *r, const struct jval *v, struct jstr **out)
{
    struct jstr *s;
    struct jbuild b;
    if (jtext_of(r, v, &s) < 0)
        return -1;
    if (s->markup) {
        *out = s;
        return 0;
    }
    jbuild_init(&b, r);
    b.markup = true;
    return jtext_escape(r, &b, s) < 0 ? -1 : jbuild_finish(&b, out);
}

/* jfilter.c: the table of filters, and the filters on one value; those on sequences are in jfilter_seq.c. */
#include "server/chat/jfilter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/jstrfn.h"
#include "server/chat/juni.h"

/* ---- text ----------------------------------------------------------------------------------------------------------------------------------- */

static int jfilter_default(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"default_value", "boolean"};
    struct jval v[2] = {jval_str(jstr_ref(r, "", 0, true)), jval_bool(false)};
    bool by_truth, truth = true;
    if (v[0].u.s == NULL || jcall_bind(r, call, "default", names, 0, 2, v, NULL) < 0 || jval_truth(r, &v[1], &by_truth) < 0 ||
        (by_truth && jval_truth(r, in, &truth) < 0))
        return -1;
    *out = in->type == J_UNDEF || !truth ? v[0] : *in;
    return 0;
}

static int jfilter_length(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    int64_t n;
    if (jcall_bind(r, call, "length", NULL, 0, 0, NULL, NULL) < 0 || jval_length(r, in, &n) < 0)
        return -1;
    *out = jval_int(n, jtext_trusted(in));
    return 0;
}

static int jfilter_string(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s;
    if (jcall_bind(r, call, "string", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jfilter_case(struct jrun *r, const struct jval *in, const struct jcall *call, enum jcase how, struct jval *out)
{
    struct jstr *s;
    if (jcall_bind(r, call, "this filter", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0)
        return -1;
    return how == JCASE_TITLE ? jstrfn_title_words(r, s, out) : jstrfn_case(r, s, how, out);
}

static int jfilter_upper(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_case(r, in, call, JCASE_UPPER, out);
}

static int jfilter_lower(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_case(r, in, call, JCASE_LOWER, out);
}

static int jfilter_capitalize(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_case(r, in, call, JCASE_CAPITALIZE, out);
}

static int jfilter_title(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_case(r, in, call, JCASE_TITLE, out);
}

static int jfilter_trim(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"chars"};
    struct jval chars = jval_none();
    struct jstr *s, *set = NULL;
    if (jcall_bind(r, call, "trim", names, 0, 1, &chars, NULL) < 0 || jtext_of(r, in, &s) < 0)
        return -1;
    if (chars.type != J_NONE && chars.type != J_STR)
        return jrun_fail(r, "trim: chars must be a str or none");
    if (chars.type == J_STR && jtext_of(r, &chars, &set) < 0)
        return -1;
    return jstrfn_strip(r, s, set, true, true, out);
}

static int jfilter_replace(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"old", "new", "count"};
    struct jval v[3];
    struct jstr *s, *old, *new;
    int64_t count = -1;
    v[2] = jval_none();
    if (jcall_bind(r, call, "replace", names, 2, 3, v, NULL) < 0 || jtext_of(r, in, &s) < 0 || jtext_of(r, &v[0], &old) < 0 ||
        jtext_of(r, &v[1], &new) < 0 ||
        (v[2].type != J_NONE && jval_index(r, &v[2], &count) < 0))
        return -1;
    if (s->markup) { /* str() of it is plain */
        struct jstr *plain = jrun_alloc(r, sizeof *plain);
        if (plain == NULL)
            return -1;
        *plain = *s;
        plain->markup = false;
        s = plain;
    }
    return jstrfn_replace(r, s, old, new, count, out);
}

static int jfilter_safe(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s, *copy = jrun_alloc(r, sizeof *copy);
    if (copy == NULL || jcall_bind(r, call, "safe", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0)
        return -1;
    *copy = *s;
    copy->markup = true;
    *out = jval_str(copy);
    return 0;
}

static int jfilter_escape(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s;
    if (jcall_bind(r, call, "escape", NULL, 0, 0, NULL, NULL) < 0 || jtext_markup(r, in, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jfilter_forceescape(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jbuild b;
    struct jstr *s;
    jbuild_init(&b, r);
    b.markup = true;
    if (jcall_bind(r, call, "forceescape", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0 || jtext_escape(r, &b, s) < 0 ||
        jbuild_finish(&b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jfilter_indent(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"width", "first", "blank"};
    struct jval v[3] = {jval_int(4, true), jval_bool(false), jval_bool(false)};
    struct jbuild b;
    struct jstr *s = in->u.s, *by;
    int64_t width;
    bool first, blank;
    if (in->type != J_STR)
        return in->type == J_UNDEF ? jval_fail_undef(r, in) : jrun_fail(r, "indent: the value must be a str, not %s", jval_type_name(in->type));
    if (jcall_bind(r, call, "indent", names, 0, 3, v, NULL) < 0 || jval_truth(r, &v[1], &first) < 0 || jval_truth(r, &v[2], &blank) < 0 ||
        jstr_flat(r, s) < 0 || jrun_spend_bytes(r, s->n) < 0)
        return -1;
    if (v[0].type == J_STR) {
        if (jtext_of(r, &v[0], &by) < 0)
            return -1;
    } else {
        jbuild_init(&b, r);
        if (jval_index(r, &v[0], &width) < 0 || (width > 0 && jbuild_fill(&b, " ", 1, (size_t)width, v[0].trusted) < 0) || jbuild_finish(&b, &by) < 0)
            return -1;
    }
    jbuild_init(&b, r);
    b.markup = s->markup;
    bool trusted = true;
    for (size_t at = 0, line = 0, next; at < s->n || line == 0 || at == s->n; line++, at = next) {
        size_t end = jstrfn_line_end(s, at, &next);
        bool ended = end < next; /* what follows the last newline is a line too, maybe an empty one */
        if (line > 0 && jbuild_puts(&b, "\n", trusted) < 0)
            return -1;
        bool wanted = line == 0 ? first : blank || end > at;
        if (jrun_spend(r, 1) < 0 || (wanted && jbuild_str(&b, by) < 0) || jbuild_sub(&b, s, at, end) < 0)
            return -1;
        if (!ended)
            break;
        trusted = jstr_trusted_at(s, end);
    }
    if (jbuild_finish(&b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jfilter_center(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"width"};
    struct jval width = jval_int(80, true);
    struct jstr *s, *blank = jstr_ref(r, " ", 1, true);
    int64_t n;
    if (blank == NULL || jcall_bind(r, call, "center", names, 0, 1, &width, NULL) < 0 || jval_index(r, &width, &n) < 0 || jtext_of(r, in, &s) < 0)
        return -1;
    return jstrfn_pad(r, s, blank, n, JPAD_BOTH, out);
}

static int jfilter_truncate(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"length", "killwords", "end", "leeway"};
    struct jval v[4] = {jval_int(255, true), jval_bool(false), jval_str(jstr_ref(r, "...", 3, true)), jval_int(5, true)};
    struct jstr *s, *end, *cut;
    int64_t length, leeway;
    int64_t n;
    bool kill;
    if (v[2].u.s == NULL || jcall_bind(r, call, "truncate", names, 0, 4, v, NULL) < 0 || jval_index(r, &v[0], &length) < 0 ||
        jval_truth(r, &v[1], &kill) < 0 ||
        jtext_of(r, &v[2], &end) < 0 || (v[3].type != J_NONE && jval_index(r, &v[3], &leeway) < 0) || jval_length(r, in, &n) < 0)
        return -1;
    if (v[3].type == J_NONE)
        leeway = 5;
    int64_t n_end = (int64_t)jstr_n_chars(end);
    if (length < n_end || leeway < 0)
        return jrun_fail(r, "truncate: the length must be at least %lld and the leeway at least 0", (long long)n_end);
    if (length > INT32_MAX || leeway > INT32_MAX || n <= length + leeway) {
        *out = *in;
        return 0;
    }
    if (in->type != J_STR)
        return jrun_fail(r, "truncate: only a str can be cut, not %s", jval_type_name(in->type));
    s = in->u.s;
    size_t keep = jstr_byte_of(s, (size_t)(length - n_end)), space = kill ? SIZE_MAX : jstr_rfind(s, " ", 1, 0, keep);
    if ((cut = jstr_sub(r, s, 0, space == SIZE_MAX ? keep : space)) == NULL)
        return -1;
    struct jval a = jval_str(cut), b = jval_str(end);
    return jop_binary(r, JT_ADD, &a, &b, out);
}

static int jfilter_wordcount(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s;
    int64_t n = 0;
    bool inside = false;
    if (jcall_bind(r, call, "wordcount", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0 || jrun_spend_bytes(r, s->n * 8) < 0)
        return -1;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        i += juni_decode(s->p + i, s->n - i, &c);
        bool word = c == '_' || juni_is_alpha(c) || juni_is_numeric(c);
        n += word && !inside;
        inside = word;
    }
    *out = jval_int(n, jstr_trusted(s));
    return 0;
}

static int jfilter_urlencode(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char hex[] = "0123456789ABCDEF";
    struct jbuild b;
    struct jstr *s;
    if (in->type != J_STR && jiter_can_walk(in))
        return jrun_unsupported(r, "urlencode of a %s is not supported", jval_type_name(in->type));
    if (jcall_bind(r, call, "urlencode", NULL, 0, 0, NULL, NULL) < 0 || jtext_of(r, in, &s) < 0 || jrun_spend_bytes(r, s->n * 4) < 0)
        return -1;
    jbuild_init(&b, r);
    for (size_t i = 0; i < s->n; i++) {
        unsigned char c = (unsigned char)s->p[i];
        char text[3] = {'%', hex[c >> 4], hex[c & 15]};
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c != 0 && strchr("_.-~/", c) != NULL);
        if (plain ? jbuild_sub(&b, s, i, i + 1) < 0 : jbuild_bytes(&b, text, 3, jstr_trusted_at(s, i)) < 0)
            return -1;
    }
    if (jbuild_finish(&b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jfilter_format(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s;
    struct jval arg;
    if (call->n > 0 && call->n_kw > 0)
        return jrun_fail(r, "format cannot take positional and keyword arguments at the same time");
    if (jtext_of(r, in, &s) < 0)
        return -1;
    if (call->n_kw > 0) {
        struct jdict *d = jdict_new(r);
        for (size_t i = 0; d != NULL && i < call->n_kw; i++)
            if (jdict_set(r, d, jval_str((struct jstr *)call->kw_names[i]), call->kw[i]) < 0)
                return -1;
        if (d == NULL)
            return -1;
        arg = jval_dict(d, true);
    } else {
        struct jseq *t = jseq_new(r, call->n);
        for (size_t i = 0; t != NULL && i < call->n; i++)
            if (jseq_push(r, t, call->v[i]) < 0)
                return -1;
        if (t == NULL)
            return -1;
        arg = jval_seq(J_TUPLE, t, true);
    }
    return jformat_percent(r, s, &arg, out);
}

/* ---- numbers -------------------------------------------------------------------------------------------------------------------------------- */

/* Text without white space around it and without the underscores between digits, NUL-terminated; false if that is malformed or longer than out. */
static bool jfilter_number_text(const struct jstr *s, char *out, size_t cap)
{
    size_t from = 0, to = s->n, n = 0;
    uint32_t c;
    while (from < to && (juni_decode(s->p + from, to - from, &c), juni_is_space(c)))
        from += juni_length(s->p + from, to - from);
    while (to > from) {
        size_t len = juni_length_before(s->p + from, to - from);
        juni_decode(s->p + to - len, len, &c);
        if (!juni_is_space(c))
            break;
        to -= len;
    }
    for (size_t i = from; i < to; i++) {
        bool digit_before = i > from && ((s->p[i - 1] >= '0' && s->p[i - 1] <= '9') || ((s->p[i - 1] | 0x20) >= 'a' && (s->p[i - 1] | 0x20) <= 'z'));
        bool digit_after = i + 1 < to && ((s->p[i + 1] >= '0' && s->p[i + 1] <= '9') || ((s->p[i + 1] | 0x20) >= 'a' && (s->p[i + 1] | 0x20) <= 'z'));
        if (s->p[i] == '_') {
            if (!digit_before || !digit_after)
                return false;
            continue;
        }
        if (n + 1 >= cap || s->p[i] == '\0')
            return false;
        out[n++] = s->p[i];
    }
    out[n] = '\0';
    return n > 0;
}

/* 1 with *out, 0 if it is no integer in that base, -1 on overflow. */
static int jfilter_parse_int(struct jrun *r, const char *text, int64_t base, int64_t *out)
{
    bool negative = *text == '-';
    int64_t v = 0;
    text += *text == '-' || *text == '+';
    char prefix = text[0] == '0' ? (char)(text[1] | 0x20) : 0;
    int64_t from_prefix = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
    if (from_prefix != 0 && (base == from_prefix || base == 0)) {
        base = from_prefix;
        text += 2;
    } else if (base == 0) {
        base = 10;
        if (text[0] == '0' && strspn(text, "0") != strlen(text))
            return 0;
    }
    if (*text == '\0')
        return 0;
    bool over = false;
    for (; *text != '\0'; text++) {
        int d = *text >= '0' && *text <= '9' ? *text - '0' : (*text | 0x20) >= 'a' && (*text | 0x20) <= 'z' ? (*text | 0x20) - 'a' + 10 : 99;
        if (d >= base)
            return 0;
        over |= __builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, d, &v);
    }
    over |= !negative && v == INT64_MIN;
    if (over)
        return jrun_unsupported(r, "an integer of more than 64 bits");
    *out = negative ? v : -v;
    return 1;
}

static bool jfilter_parse_float(const char *text, double *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    static const char *const words[] = {"inf", "infinity", "nan"};
    for (int i = 0; i < 3; i++) {
        if (strcasecmp(p, words[i]) == 0) {
            double v = i == 2 ? NAN : INFINITY;
            *out = *text == '-' ? -v : v;
            return true;
        }
    }
    size_t whole = strspn(p, "0123456789"), fraction = 0;
    p += whole;
    if (*p == '.') {
        fraction = strspn(p + 1, "0123456789");
        p += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t digits = strspn(p, "0123456789");
        if (digits == 0)
            return false;
        p += digits;
    }
    if (*p != '\0')
        return false;
    *out = strtod(text, NULL);
    return true;
}

static int jfilter_int(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"default", "base"};
    struct jval v[2] = {jval_int(0, true), jval_int(10, true)};
    char text[400];
    int64_t base, i = 0;
    double f;
    if (jcall_bind(r, call, "int", names, 0, 2, v, NULL) < 0 || jval_index(r, &v[1], &base) < 0)
        return -1;
    *out = v[0];
    if (in->type == J_UNDEF)
        return jval_fail_undef(r, in);
    if (in->type == J_INT || in->type == J_BOOL) {
        *out = jval_int(in->type == J_INT ? in->u.i : in->u.b, in->trusted);
        return 0;
    }
    if (in->type == J_STR) {
        if (jstr_flat(r, in->u.s) < 0 || jrun_spend_bytes(r, in->u.s->n) < 0)
            return -1;
        if (base != 0 && (base < 2 || base > 36))
            return 0;
        if (!jfilter_number_text(in->u.s, text, sizeof text))
            return 0;
        int rc = jfilter_parse_int(r, text, base, &i);
        if (rc != 0) {
            *out = rc > 0 ? jval_int(i, jstr_trusted(in->u.s)) : *out;
            return rc < 0 ? -1 : 0;
        }
        if (!jfilter_parse_float(text, &f) || !isfinite(f))
            return 0;
    } else if (in->type == J_FLOAT) {
        f = in->u.f;
        if (isinf(f))
            return jrun_fail(r, "cannot convert float infinity to integer");
        if (isnan(f))
            return 0;
    } else {
        return 0;
    }
    if (!(fabs(f) < 9.2e18))
        return jrun_unsupported(r, "an integer of more than 64 bits");
    *out = jval_int((int64_t)f, jtext_trusted(in));
    return 0;
}

static int jfilter_float(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"default"};
    struct jval v = jval_float(0, true);
    char text[400];
    double f;
    if (jcall_bind(r, call, "float", names, 0, 1, &v, NULL) < 0)
        return -1;
    *out = v;
    if (in->type == J_UNDEF)
        return jval_fail_undef(r, in);
    if (jval_is_number(in)) {
        *out = jval_float(jval_as_double(in), in->trusted);
    } else if (in->type == J_STR) {
        if (jstr_flat(r, in->u.s) < 0 || jrun_spend_bytes(r, in->u.s->n) < 0)
            return -1;
        if (jfilter_number_text(in->u.s, text, sizeof text) && jfilter_parse_float(text, &f))
            *out = jval_float(f, jstr_trusted(in->u.s));
    }
    return 0;
}

static int jfilter_abs(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    if (jcall_bind(r, call, "abs", NULL, 0, 0, NULL, NULL) < 0)
        return -1;
    if (in->type == J_UNDEF)
        return jval_fail_undef(r, in);
    if (!jval_is_number(in))
        return jrun_fail(r, "bad operand type for abs(): '%s'", jval_type_name(in->type));
    if (in->type == J_FLOAT) {
        *out = jval_float(fabs(in->u.f), in->trusted);
        return 0;
    }
    bool negative = in->type == J_INT && in->u.i < 0;
    return jop_negate(r, in, negative, out);
}

static int jfilter_round(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"precision", "method"};
    struct jval v[2] = {jval_int(0, true), jval_str(jstr_ref(r, "common", 6, true))};
    char text[400];
    int64_t precision;
    struct jstr *method;
    if (v[1].u.s == NULL || jcall_bind(r, call, "round", names, 0, 2, v, NULL) < 0 || jval_index(r, &v[0], &precision) < 0 ||
        jtext_of(r, &v[1], &method) < 0)
        return -1;
    bool common = jstr_is(method, "common"), ceiling = jstr_is(method, "ceil");
    if (!common && !ceiling && !jstr_is(method, "floor"))
        return jrun_fail(r, "round: method must be common, ceil or floor");
    if (in->type == J_UNDEF)
        return jval_fail_undef(r, in);
    if (!jval_is_number(in))
        return jrun_fail(r, "round: the value must be a number, not %s", jval_type_name(in->type));
    if (precision < 0 || precision > 300)
        return jrun_unsupported(r, "round: a precision outside of 0 to 300 is not supported");
    if (common && in->type != J_FLOAT) {
        *out = jval_int(in->type == J_INT ? in->u.i : in->u.b, in->trusted);
        return 0;
    }
    double f = jval_as_double(in);
    if (!common) {
        double scale = pow(10, (double)precision), scaled = f * scale;
        if (!isfinite(scaled))
            return jrun_fail(r, "round: the value is not finite");
        f = (ceiling ? ceil(scaled) : floor(scaled)) / scale;
    } else if (isfinite(f) && fabs(f) < 1e16) { /* from there on there is nothing behind the point */
        snprintf(text, sizeof text, "%.*f", (int)precision, f);
        f = strtod(text, NULL);
    }
    *out = jval_float(f, in->trusted);
    return 0;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    jfilter_fn *fn; /* NULL: jinja2 has it, we refuse it */
} jfilter_table[] = {
    {"abs", jfilter_abs}, {"batch", jfilter_batch}, {"capitalize", jfilter_capitalize}, {"center", jfilter_center}, {"count", jfilter_length},
    {"d", jfilter_default}, {"default", jfilter_default}, {"dictsort", jfilter_dictsort}, {"e", jfilter_escape}, {"escape", jfilter_escape},
    {"first", jfilter_first}, {"float", jfilter_float}, {"forceescape", jfilter_forceescape}, {"format", jfilter_format},
    {"groupby", jfilter_groupby}, {"indent", jfilter_indent}, {"int", jfilter_int}, {"items", jfilter_items}, {"join", jfilter_join},
    {"last", jfilter_last}, {"length", jfilter_length}, {"list", jfilter_list}, {"lower", jfilter_lower}, {"map", jfilter_map}, {"max", jfilter_max},
    {"min", jfilter_min}, {"reject", jfilter_reject}, {"rejectattr", jfilter_rejectattr}, {"replace", jfilter_replace}, {"reverse", jfilter_reverse},
    {"round", jfilter_round}, {"safe", jfilter_safe}, {"select", jfilter_select}, {"selectattr", jfilter_selectattr}, {"slice", jfilter_slice},
    {"sort", jfilter_sort}, {"string", jfilter_string}, {"sum", jfilter_sum}, {"title", jfilter_title}, {"tojson", jjson_dump},
    {"trim", jfilter_trim}, {"truncate", jfilter_truncate}, {"unique", jfilter_unique}, {"upper", jfilter_upper}, {"urlencode", jfilter_urlencode},
    {"wordcount", jfilter_wordcount}, {"attr", NULL}, {"filesizeformat", NULL}, {"pprint", NULL}, {"random", NULL}, {"striptags", NULL},
    {"urlize", NULL}, {"wordwrap", NULL}, {"xmlattr", NULL}};

uint16_t jfilter_lookup(const char *p, size_t n, bool *refused)
{
    for (size_t i = 0; i < sizeof jfilter_table / sizeof jfilter_table[0]; i++) {
        if (strlen(jfilter_table[i].name) == n && memcmp(jfilter_table[i].name, p, n) == 0) {
            *refused = jfilter_table[i].fn == NULL;
            return (uint16_t)i;
        }
    }
    return JOP_UNKNOWN;
}

int jfilter_call(struct jrun *r, uint16_t filter, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_table[filter].fn(r, in, call, out);
}

int jfilter_call_named(struct jrun *r, const struct jval *name, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jstr *s;
    bool refused = false;
    if (jtext_of(r, name, &s) < 0)
        return -1;
    uint16_t filter = jfilter_lookup(s->p, s->n, &refused);
    if (filter == JOP_UNKNOWN || refused)
        return jrun_unsupported(r, "%s filter '%.*s'", refused ? "not supported: the" : "there is no", (int)(s->n < 80 ? s->n : 80), s->p);
    return jfilter_call(r, filter, in, call, out);
}

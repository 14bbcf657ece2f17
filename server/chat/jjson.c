/* jjson.c: the tojson filter as transformers defines it: json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False). Quotes and
 * brackets are as trusted as the value they enclose, escapes as the character they stand for. */
#include "server/chat/jeval.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/chat/juni.h"

struct jjson {
    struct jrun *run;
    struct jbuild b;
    bool ascii, sort, indented;
    struct jstr *indent, *item_separator, *key_separator; /* flat */
    size_t level;
};

static int jjson_value(struct jjson *j, const struct jval *v);

static int jjson_escape(struct jjson *j, const struct jstr *s, size_t at, uint32_t c)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    char text[16];
    const char *simple = c != 0 && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (simple != NULL)
        snprintf(text, sizeof text, "\\%c", to[simple - from]);
    else if (c < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", c);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
    return jbuild_puts(&j->b, text, jstr_trusted_at(s, at));
}

static int jjson_str(struct jjson *j, struct jstr *s)
{
    if (jstr_flat(j->run, s) < 0 || jrun_spend_bytes(j->run, s->n) < 0)
        return -1;
    bool trusted = jstr_trusted(s);
    size_t from = 0;
    if (jbuild_puts(&j->b, "\"", trusted) < 0)
        return -1;
    for (size_t i = 0; i < s->n;) {
        uint32_t c = (unsigned char)s->p[i];
        size_t n = c < 0x80 ? 1 : juni_decode(s->p + i, s->n - i, &c);
        if (c < 0x20 || c == '"' || c == '\\' || (j->ascii && c >= 0x7f)) {
            if (jbuild_sub(&j->b, s, from, i) < 0 || jjson_escape(j, s, i, c) < 0)
                return -1;
            from = i + n;
        }
        i += n;
    }
    return jbuild_sub(&j->b, s, from, s->n) < 0 ? -1 : jbuild_puts(&j->b, "\"", trusted);
}

static int jjson_float(struct jjson *j, double f, bool trusted)
{
    char text[40];
    if (isnan(f))
        return jbuild_puts(&j->b, "NaN", trusted);
    if (isinf(f))
        return jbuild_puts(&j->b, f < 0 ? "-Infinity" : "Infinity", trusted);
    size_t n = jtext_float(f, text);
    return jbuild_bytes(&j->b, text, n, trusted);
}

static int jjson_newline(struct jjson *j, bool trusted)
{
    if (!j->indented)
        return 0;
    if (jbuild_puts(&j->b, "\n", trusted) < 0 || jrun_spend(j->run, j->level / 8) < 0)
        return -1;
    for (size_t i = 0; i < j->level; i++)
        if (jbuild_sub(&j->b, j->indent, 0, j->indent->n) < 0)
            return -1;
    return 0;
}

static int jjson_list(struct jjson *j, const struct jval *v)
{
    const struct jseq *s = v->u.seq;
    if (s->n == 0)
        return jbuild_puts(&j->b, "[]", v->trusted);
    if (jbuild_puts(&j->b, "[", v->trusted) < 0)
        return -1;
    j->level++;
    for (size_t i = 0; i < s->n; i++)
        if ((i > 0 && jbuild_sub(&j->b, j->item_separator, 0, j->item_separator->n) < 0) || jjson_newline(j, v->trusted) < 0 ||
            jjson_value(j, &s->v[i]) < 0)
            return -1;
    j->level--;
    return jjson_newline(j, v->trusted) < 0 ? -1 : jbuild_puts(&j->b, "]", v->trusted);
}

static int jjson_key(struct jjson *j, const struct jval *key)
{
    if (key->type == J_STR)
        return jjson_str(j, key->u.s);
    if (key->type != J_NONE && !jval_is_number(key))
        return jrun_fail(j->run, "keys must be str, int, float, bool or None, not %s", jval_type_name(key->type));
    if (jbuild_puts(&j->b, "\"", key->trusted) < 0 || jjson_value(j, key) < 0)
        return -1;
    return jbuild_puts(&j->b, "\"", key->trusted);
}

/* The pairs by key: a stable insertion into a sorted copy would be quadratic, so merge sort bottom up. */
static int jjson_sorted(struct jjson *j, const struct jdict *d, struct jpair **out)
{
    struct jpair *v = jrun_alloc(j->run, d->n * sizeof *v), *w = jrun_alloc(j->run, d->n * sizeof *w);
    if (v == NULL || w == NULL)
        return -1;
    memcpy(v, d->v, d->n * sizeof *v);
    for (size_t width = 1; width < d->n; width *= 2) {
        for (size_t low = 0; low < d->n; low += 2 * width) {
            size_t mid = low + width < d->n ? low + width : d->n, high = mid + width < d->n ? mid + width : d->n, a = low, b = mid;
            for (size_t k = low; k < high; k++) {
                int order = -1;
                bool unordered;
                if (a < mid && b < high && jval_compare(j->run, &v[b].key, &v[a].key, "<", &order, &unordered) < 0)
                    return -1;
                bool take_b = a == mid || (b < high && order < 0);
                w[k] = take_b ? v[b++] : v[a++];
            }
        }
        struct jpair *t = v;
        v = w;
        w = t;
    }
    *out = v;
    return 0;
}

static int jjson_dict(struct jjson *j, const struct jval *v)
{
    const struct jdict *d = v->u.dict;
    struct jpair *pairs = d->v;
    if (d->n == 0)
        return jbuild_puts(&j->b, "{}", v->trusted);
    if ((j->sort && jjson_sorted(j, d, &pairs) < 0) || jbuild_puts(&j->b, "{", v->trusted) < 0)
        return -1;
    j->level++;
    for (size_t i = 0; i < d->n; i++)
        if ((i > 0 && jbuild_sub(&j->b, j->item_separator, 0, j->item_separator->n) < 0) || jjson_newline(j, v->trusted) < 0 ||
            jjson_key(j, &pairs[i].key) < 0 || jbuild_sub(&j->b, j->key_separator, 0, j->key_separator->n) < 0 || jjson_value(j, &pairs[i].value) < 0)
            return -1;
    j->level--;
    return jjson_newline(j, v->trusted) < 0 ? -1 : jbuild_puts(&j->b, "}", v->trusted);
}

static int jjson_kind(struct jjson *j, const struct jval *v)
{
    char text[32];
    switch (v->type) {
    case J_NONE: return jbuild_puts(&j->b, "null", v->trusted);
    case J_BOOL: return jbuild_puts(&j->b, v->u.b ? "true" : "false", v->trusted);
    case J_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->u.i);
        return jbuild_puts(&j->b, text, v->trusted);
    case J_FLOAT: return jjson_float(j, v->u.f, v->trusted);
    case J_STR: return jjson_str(j, v->u.s);
    case J_LIST: case J_TUPLE: return jjson_list(j, v);
    case J_DICT: return jjson_dict(j, v);
    default: return jrun_fail(j->run, "object of type %s is not JSON serializable", jval_type_name(v->type));
    }
}

static int jjson_value(struct jjson *j, const struct jval *v)
{
    if (jrun_spend(j->run, 1) < 0 || jrun_enter(j->run) < 0 || jjson_kind(j, v) < 0)
        return -1;
    jrun_leave(j->run);
    return 0;
}

static int jjson_options(struct jjson *j, const struct jval *indent, const struct jval *separators)
{
    struct jrun *r = j->run;
    j->indented = indent->type != J_NONE;
    j->indent = jstr_ref(r, "", 0, true);
    j->item_separator = jstr_ref(r, ", ", j->indented ? 1 : 2, true);
    j->key_separator = jstr_ref(r, ": ", 2, true);
    if (j->indent == NULL || j->item_separator == NULL || j->key_separator == NULL)
        return -1;
    if (indent->type == J_STR) {
        j->indent = indent->u.s;
        if (jstr_flat(r, j->indent) < 0)
            return -1;
    } else if (j->indented) {
        int64_t n;
        struct jbuild b;
        jbuild_init(&b, r);
        if (jval_index(r, indent, &n) < 0 || (n > 0 && jbuild_fill(&b, " ", 1, (size_t)n, true) < 0) || jbuild_finish(&b, &j->indent) < 0)
            return -1;
    }
    if (separators->type == J_NONE)
        return 0;
    if ((separators->type != J_TUPLE && separators->type != J_LIST) || separators->u.seq->n != 2 || separators->u.seq->v[0].type != J_STR ||
        separators->u.seq->v[1].type != J_STR)
        return jrun_fail(r, "tojson: separators must be a pair of strings");
    j->item_separator = separators->u.seq->v[0].u.s;
    j->key_separator = separators->u.seq->v[1].u.s;
    return jstr_flat(r, j->item_separator) < 0 ? -1 : jstr_flat(r, j->key_separator);
}

int jjson_dump(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    struct jval v[4] = {jval_bool(false), jval_none(), jval_none(), jval_bool(false)};
    struct jjson j = {.run = r};
    struct jstr *s;
    jbuild_init(&j.b, r);
    if (jcall_bind(r, call, "tojson", names, 0, 4, v, NULL) < 0 || jval_truth(r, &v[0], &j.ascii) < 0 || jval_truth(r, &v[3], &j.sort) < 0 ||
        jjson_options(&j, &v[1], &v[2]) < 0 || jjson_value(&j, in) < 0 || jbuild_finish(&j.b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

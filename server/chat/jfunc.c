/* jfunc.c: the functions every template finds: range, dict, namespace, raise_exception, strftime_now. */
#include <string.h>

#include "server/chat/jeval.h"

#define RANGE_MAX 100000 /* as jinja2's sandbox */

bool jfunc_lookup(const struct jstr *name, struct jval *out)
{
    static const struct {
        const char *name;
        uint8_t func;
    } funcs[] = {{"range", JFUNC_RANGE}, {"dict", JFUNC_DICT}, {"namespace", JFUNC_NAMESPACE}, {"raise_exception", JFUNC_RAISE},
                 {"strftime_now", JFUNC_NOW}};
    for (size_t i = 0; i < sizeof funcs / sizeof funcs[0]; i++) {
        if (jstr_is(name, funcs[i].name)) {
            *out = (struct jval){.type = J_FUNC, .sub = funcs[i].func, .trusted = true};
            return true;
        }
    }
    return false;
}

static int jfunc_range(struct jrun *r, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"start", "stop", "step"};
    int64_t v[3] = {0, 0, 1};
    struct jval arg[3];
    bool trusted = true;
    if (call->n_kw > 0 || call->n == 0)
        return jrun_fail(r, "range takes one to three arguments without names");
    if (jcall_bind(r, call, "range", names, 1, 3, arg, NULL) < 0)
        return -1;
    for (size_t i = 0; i < call->n; i++) {
        if (jval_index(r, &arg[i], &v[i]) < 0)
            return -1;
        trusted = trusted && arg[i].trusted;
    }
    if (call->n == 1) {
        v[1] = v[0];
        v[0] = 0;
    }
    if (v[2] == 0)
        return jrun_fail(r, "range() arg 3 must not be zero");
    uint64_t span = v[2] > 0 ? (v[1] > v[0] ? (uint64_t)v[1] - (uint64_t)v[0] : 0) : v[0] > v[1] ? (uint64_t)v[0] - (uint64_t)v[1] : 0;
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2], n = span / step + (span % step != 0);
    if (n > RANGE_MAX)
        return jrun_fail(r, "range too big: at most %d items", RANGE_MAX);
    struct jrange *range = jrun_alloc(r, sizeof *range);
    if (range == NULL)
        return -1;
    *range = (struct jrange){.start = v[0], .step = v[2], .n = (int64_t)n};
    *out = (struct jval){.type = J_RANGE, .trusted = trusted, .u.range = range};
    return 0;
}

static int jfunc_pairs(struct jrun *r, struct jdict *d, const struct jval *from)
{
    struct jiter *it;
    struct jval item;
    struct jseq *pair;
    int rc;
    if (from->type == J_DICT) {
        for (size_t i = 0; i < from->u.dict->n; i++)
            if (jdict_set(r, d, from->u.dict->v[i].key, from->u.dict->v[i].value) < 0)
                return -1;
        return 0;
    }
    if (jiter_open(r, from, &it) < 0)
        return -1;
    while ((rc = jiter_next(r, it, &item)) > 0) {
        if (jiter_collect(r, &item, &pair) < 0)
            return -1;
        if (pair->n != 2)
            return jrun_fail(r, "a dict is made of pairs; one item has %zu", pair->n);
        if (jdict_set(r, d, pair->v[0], pair->v[1]) < 0)
            return -1;
    }
    return rc;
}

/* dict(mapping or pairs, a=1), and the same for namespace(). */
static int jfunc_dict(struct jrun *r, bool ns, const struct jcall *call, struct jval *out)
{
    struct jdict *d = jdict_new(r);
    if (d == NULL)
        return -1;
    if (call->n > 1)
        return jrun_fail(r, "%s takes at most one argument without a name", ns ? "namespace" : "dict");
    if (call->n == 1 && jfunc_pairs(r, d, &call->v[0]) < 0)
        return -1;
    for (size_t i = 0; i < call->n_kw; i++)
        if (jdict_set(r, d, jval_str((struct jstr *)call->kw_names[i]), call->kw[i]) < 0)
            return -1;
    for (size_t i = 0; ns && i < d->n; i++)
        if (d->v[i].key.type == J_STR && d->v[i].key.u.s->n > 0 && d->v[i].key.u.s->p[0] == '_')
            return jrun_fail(r, "a namespace's attribute may not begin with an underscore");
    *out = (struct jval){.type = ns ? J_NS : J_DICT, .trusted = true, .u.dict = d};
    return 0;
}

int jcall_func(struct jrun *r, uint8_t func, const struct jcall *call, struct jval *out)
{
    static const char *const message[] = {"message"}, *const format[] = {"format"};
    struct jval v;
    struct jstr *s;
    switch (func) {
    case JFUNC_RANGE: return jfunc_range(r, call, out);
    case JFUNC_DICT: return jfunc_dict(r, false, call, out);
    case JFUNC_NAMESPACE: return jfunc_dict(r, true, call, out);
    case JFUNC_NOW: return jcall_bind(r, call, "strftime_now", format, 1, 1, &v, NULL) < 0 ? -1 : jtime_format(r, &v, out);
    default:
        if (jcall_bind(r, call, "raise_exception", message, 1, 1, &v, NULL) < 0 || jtext_of(r, &v, &s) < 0)
            return -1;
        return jrun_fail(r, "%.*s", (int)(s->n < 300 ? s->n : 300), s->p);
    }
}

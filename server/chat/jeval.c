/* jeval.c: expressions. One function per kind of node keeps the recursive frame small; every level counts against max_depth and costs one step. */
#include "server/chat/jeval.h"

#include <stdio.h>
#include <string.h>

/* ---- scopes --------------------------------------------------------------------------------------------------------------------------------- */

struct jscope *jscope_new(struct jrun *r, struct jscope *parent)
{
    struct jscope *sc = jrun_alloc(r, sizeof *sc);
    if (sc != NULL)
        *sc = (struct jscope){.parent = parent};
    return sc;
}

int jscope_set(struct jrun *r, struct jscope *sc, uint32_t name, struct jval v)
{
    for (size_t i = 0; i < sc->n; i++) {
        if (sc->v[i].name == name) {
            sc->v[i].value = v;
            return 0;
        }
    }
    if (sc->n == sc->cap) {
        size_t cap = sc->cap == 0 ? 4 : sc->cap * 2;
        struct jvar *vars = jrun_alloc(r, cap * sizeof *vars);
        if (vars == NULL)
            return -1;
        if (sc->n > 0)
            memcpy(vars, sc->v, sc->n * sizeof *vars);
        sc->v = vars;
        sc->cap = cap;
    }
    sc->v[sc->n++] = (struct jvar){.name = name, .value = v};
    return 0;
}

const struct jval *jscope_get(const struct jscope *sc, uint32_t name)
{
    for (; sc != NULL; sc = sc->parent)
        for (size_t i = 0; i < sc->n; i++)
            if (sc->v[i].name == name)
                return &sc->v[i].value;
    return NULL;
}

static int jeval_name(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    const struct jval *v = jscope_get(sc, node->name);
    if (v != NULL)
        *out = *v;
    else if (!jfunc_lookup(r->tmpl->names[node->name], out))
        *out = jval_undef(r, r->tmpl->names[node->name]);
    return 0;
}

/* ---- displays ------------------------------------------------------------------------------------------------------------------------------- */

static int jeval_list(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jseq *s = jseq_new(r, node->kids.n);
    if (s == NULL)
        return -1;
    for (size_t i = 0; i < node->kids.n; i++) {
        struct jval v;
        if (jeval(r, sc, node->kids.v[i], &v) < 0 || jseq_push(r, s, v) < 0)
            return -1;
    }
    *out = jval_seq(node->kind == JX_LIST ? J_LIST : J_TUPLE, s, true);
    return 0;
}

static int jeval_dict(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jdict *d = jdict_new(r);
    if (d == NULL)
        return -1;
    for (size_t i = 0; i + 1 < node->kids.n; i += 2) {
        struct jval key, value;
        if (jeval(r, sc, node->kids.v[i], &key) < 0 || jeval(r, sc, node->kids.v[i + 1], &value) < 0 || jdict_set(r, d, key, value) < 0)
            return -1;
    }
    *out = jval_dict(d, true);
    return 0;
}

/* ---- access --------------------------------------------------------------------------------------------------------------------------------- */

static int jeval_attr(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval object;
    if (jeval(r, sc, node->a, &object) < 0)
        return -1;
    r->line = node->line;
    return jattr_get(r, &object, node->str, out);
}

static int jeval_item(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval object, index;
    if (jeval(r, sc, node->a, &object) < 0 || jeval(r, sc, node->b, &index) < 0)
        return -1;
    r->line = node->line;
    return jattr_item(r, &object, &index, out);
}

static int jeval_slice(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval object, part[3];
    if (jeval(r, sc, node->a, &object) < 0)
        return -1;
    for (int i = 0; i < 3; i++) {
        part[i] = jval_none();
        if (node->kids.v[i] != NULL && jeval(r, sc, node->kids.v[i], &part[i]) < 0)
            return -1;
    }
    r->line = node->line;
    return jattr_slice(r, &object, part, out);
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------------------------- */

static int jcall_add_keyword(struct jrun *r, struct jcall *call, const struct jstr *name, struct jval v)
{
    for (size_t i = 0; i < call->n_kw; i++)
        if (jstr_same(call->kw_names[i], name))
            return jrun_fail(r, "got multiple values for keyword argument '%.*s'", (int)(name->n < 80 ? name->n : 80), name->p);
    call->kw_names[call->n_kw] = name;
    call->kw[call->n_kw++] = v;
    return 0;
}

/* **mapping */
static int jcall_spread(struct jrun *r, struct jcall *call, const struct jval *mapping)
{
    if (mapping->type != J_DICT)
        return jrun_fail(r, "argument after ** must be a mapping, not %s", jval_type_name(mapping->type));
    for (size_t i = 0; i < mapping->u.dict->n; i++) {
        const struct jpair *pair = &mapping->u.dict->v[i];
        if (pair->key.type != J_STR)
            return jrun_fail(r, "keywords must be strings");
        if (jstr_flat(r, pair->key.u.s) < 0 || jcall_add_keyword(r, call, pair->key.u.s, pair->value) < 0)
            return -1;
    }
    return 0;
}

static int jcall_evaluate(struct jrun *r, struct jscope *sc, const struct jargs *args, const struct jval *caller, struct jcall *out)
{
    struct jcall call = {0};
    struct jval star = jval_none(), mapping = jval_none(), v;
    struct jseq *positional = jseq_new(r, args->positional.n);
    if (positional == NULL)
        return -1;
    for (size_t i = 0; i < args->positional.n; i++)
        if (jeval(r, sc, args->positional.v[i], &v) < 0 || jseq_push(r, positional, v) < 0)
            return -1;
    if (args->star != NULL) {
        struct jiter *it;
        int rc;
        if (jeval(r, sc, args->star, &star) < 0 || jiter_open(r, &star, &it) < 0)
            return -1;
        while ((rc = jiter_next(r, it, &v)) > 0)
            if (jseq_push(r, positional, v) < 0)
                return -1;
        if (rc < 0)
            return -1;
    }
    call.v = positional->v;
    call.n = positional->n;
    struct jval *values = args->keyword_values.n > 0 ? jrun_alloc(r, args->keyword_values.n * sizeof *values) : NULL;
    for (size_t i = 0; i < args->keyword_values.n; i++)
        if (values == NULL || jeval(r, sc, args->keyword_values.v[i], &values[i]) < 0)
            return -1;
    if (args->star_star != NULL && jeval(r, sc, args->star_star, &mapping) < 0)
        return -1;
    size_t n_kw = args->keyword_values.n + (mapping.type == J_DICT ? mapping.u.dict->n : 0) + 1;
    if (n_kw > 1 || caller != NULL) {
        call.kw_names = jrun_alloc(r, n_kw * sizeof *call.kw_names);
        call.kw = jrun_alloc(r, n_kw * sizeof *call.kw);
        if (call.kw_names == NULL || call.kw == NULL)
            return -1;
    }
    for (size_t i = 0; i < args->keyword_values.n; i++)
        if (jcall_add_keyword(r, &call, args->keyword_names[i], values[i]) < 0)
            return -1;
    if (caller != NULL && jcall_add_keyword(r, &call, r->tmpl->names[r->tmpl->id_caller], *caller) < 0)
        return -1;
    if (args->star_star != NULL && jcall_spread(r, &call, &mapping) < 0)
        return -1;
    *out = call;
    return 0;
}

int jcall_bind(struct jrun *r, const struct jcall *call, const char *what, const char *const *names, size_t n_required, size_t n_names,
               struct jval *out, bool *given)
{
    bool have[16] = {false};
    if (call->n > n_names)
        return jrun_fail(r, "%s takes at most %zu arguments (%zu given)", what, n_names, call->n);
    for (size_t i = 0; i < call->n; i++) {
        out[i] = call->v[i];
        have[i] = true;
    }
    for (size_t k = 0; k < call->n_kw; k++) {
        size_t i = 0;
        while (i < n_names && !jstr_is(call->kw_names[k], names[i]))
            i++;
        if (i == n_names || have[i])
            return jrun_fail(r, "%s got %s keyword argument '%.*s'", what, i == n_names ? "an unexpected" : "a second value for the",
                             (int)(call->kw_names[k]->n < 80 ? call->kw_names[k]->n : 80), call->kw_names[k]->p);
        out[i] = call->kw[k];
        have[i] = true;
    }
    for (size_t i = 0; i < n_required; i++)
        if (!have[i])
            return jrun_fail(r, "%s misses the argument '%s'", what, names[i]);
    if (given != NULL)
        memcpy(given, have, n_names * sizeof *given);
    return 0;
}

int jcall_value(struct jrun *r, const struct jval *callee, const struct jcall *call, struct jval *out)
{
    int rc;
    if (jrun_enter(r) < 0)
        return -1;
    switch (callee->type) {
    case J_UNDEF: return jval_fail_undef(r, callee);
    case J_MACRO: rc = jcall_macro(r, callee->u.macro, call, out); break;
    case J_METHOD: rc = jmethod_call(r, callee->u.method, call, out); break;
    case J_FUNC: rc = jcall_func(r, callee->sub, call, out); break;
    case J_LOOP: rc = jexec_loop_recurse(r, callee->u.loop, call, out); break;
    default: return jrun_fail(r, "'%s' object is not callable", jval_type_name(callee->type));
    }
    if (rc == 0)
        jrun_leave(r);
    return rc;
}

int jeval_call(struct jrun *r, struct jscope *sc, const struct jnode *node, const struct jval *caller, struct jval *out)
{
    struct jval callee;
    struct jcall call;
    if (jeval(r, sc, node->a, &callee) < 0 || jcall_evaluate(r, sc, node->args, caller, &call) < 0)
        return -1;
    r->line = node->line;
    return jcall_value(r, &callee, &call, out);
}

/* ---- filters and tests ---------------------------------------------------------------------------------------------------------------------- */

int jeval_filter(struct jrun *r, struct jscope *sc, const struct jnode *node, const struct jval *input, struct jval *out)
{
    struct jval in;
    struct jcall call;
    if (node->a == NULL)
        in = *input;
    else if (node->a->kind == JX_FILTER && input != NULL ? jeval_filter(r, sc, node->a, input, &in) < 0 : jeval(r, sc, node->a, &in) < 0)
        return -1;
    r->line = node->line;
    if (node->op == JOP_UNKNOWN)
        return jrun_unsupported(r, "there is no filter '%s'", node->str->p);
    if (jcall_evaluate(r, sc, node->args, NULL, &call) < 0)
        return -1;
    r->line = node->line;
    return jfilter_call(r, node->op, &in, &call, out);
}

static int jeval_test(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval in;
    struct jcall call;
    bool result;
    if (jeval(r, sc, node->a, &in) < 0)
        return -1;
    r->line = node->line;
    if (node->op == JOP_UNKNOWN)
        return jrun_unsupported(r, "there is no test '%s'", node->str->p);
    if (jcall_evaluate(r, sc, node->args, NULL, &call) < 0 || jtest_call(r, node->op, &in, &call, &result) < 0)
        return -1;
    *out = jval_bool(result);
    return 0;
}

/* ---- logic and arithmetic ------------------------------------------------------------------------------------------------------------------- */

static int jeval_logic(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    bool truth;
    if (jeval(r, sc, node->a, out) < 0 || jval_truth(r, out, &truth) < 0)
        return -1;
    return truth == (node->kind == JX_AND) ? jeval(r, sc, node->b, out) : 0;
}

static int jeval_not(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval v;
    bool truth;
    if (jeval(r, sc, node->a, &v) < 0 || jval_truth(r, &v, &truth) < 0)
        return -1;
    *out = jval_bool(!truth);
    return 0;
}

static int jeval_cond(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval v;
    bool truth;
    if (jeval(r, sc, node->b, &v) < 0 || jval_truth(r, &v, &truth) < 0)
        return -1;
    if (truth)
        return jeval(r, sc, node->a, out);
    if (node->c != NULL)
        return jeval(r, sc, node->c, out);
    *out = jval_undef_hint(r, "the inline if-expression evaluated to false and no else section was defined");
    return 0;
}

static int jeval_binary(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval a, b;
    if (jeval(r, sc, node->a, &a) < 0 || jeval(r, sc, node->b, &b) < 0)
        return -1;
    r->line = node->line;
    return jop_binary(r, node->op, &a, &b, out);
}

static int jeval_sign(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval a;
    if (jeval(r, sc, node->a, &a) < 0)
        return -1;
    r->line = node->line;
    return jop_negate(r, &a, node->kind == JX_NEG, out);
}

static int jeval_concat(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval *v = jrun_alloc(r, node->kids.n * sizeof *v);
    if (v == NULL)
        return -1;
    for (size_t i = 0; i < node->kids.n; i++)
        if (jeval(r, sc, node->kids.v[i], &v[i]) < 0)
            return -1;
    r->line = node->line;
    return jop_concat(r, v, node->kids.n, out);
}

static int jeval_compare(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    struct jval left, right;
    bool holds = true;
    if (jeval(r, sc, node->a, &left) < 0)
        return -1;
    for (size_t i = 0; i < node->kids.n && holds; i++) {
        if (jeval(r, sc, node->kids.v[i], &right) < 0)
            return -1;
        r->line = node->line;
        if (jop_compare(r, (enum jcompare_op)node->compare_ops[i], &left, &right, &holds) < 0)
            return -1;
        left = right;
    }
    *out = jval_bool(holds);
    return 0;
}

static int jeval_kind(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    switch (node->kind) {
    case JX_CONST: *out = node->value; return 0;
    case JX_NAME: return jeval_name(r, sc, node, out);
    case JX_LIST: case JX_TUPLE: return jeval_list(r, sc, node, out);
    case JX_DICT: return jeval_dict(r, sc, node, out);
    case JX_ATTR: return jeval_attr(r, sc, node, out);
    case JX_ITEM: return jeval_item(r, sc, node, out);
    case JX_SLICE: return jeval_slice(r, sc, node, out);
    case JX_CALL: return jeval_call(r, sc, node, NULL, out);
    case JX_FILTER: return jeval_filter(r, sc, node, NULL, out);
    case JX_TEST: return jeval_test(r, sc, node, out);
    case JX_COND: return jeval_cond(r, sc, node, out);
    case JX_AND: case JX_OR: return jeval_logic(r, sc, node, out);
    case JX_NOT: return jeval_not(r, sc, node, out);
    case JX_NEG: case JX_POS: return jeval_sign(r, sc, node, out);
    case JX_BINARY: return jeval_binary(r, sc, node, out);
    case JX_CONCAT: return jeval_concat(r, sc, node, out);
    default: return jeval_compare(r, sc, node, out);
    }
}

int jeval(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out)
{
    r->line = node->line;
    if (jrun_spend(r, 1) < 0 || jrun_enter(r) < 0 || jeval_kind(r, sc, node, out) < 0)
        return -1;
    jrun_leave(r);
    return 0;
}

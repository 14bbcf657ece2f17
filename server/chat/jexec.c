/* jexec.c: statements: text and printing, if, for, set, with, macros and call blocks. See jeval.h.
 *
 * Scopes follow jinja2: a for body, a macro, a call block, with, a filter block and a block set have a scope of their own, which an assignment cannot
 * leave; an if has none. A loop's scope is emptied before each turn. Macros see the variables around their definition as they are when the macro is
 * called. */
#include "server/chat/jeval.h"

#include <string.h>

/* ---- assignment ----------------------------------------------------------------------------------------------------------------------------- */

static int jexec_unpack(struct jrun *r, struct jscope *sc, const struct jnode *target, const struct jval *v)
{
    struct jiter *it;
    struct jval item;
    size_t n = 0;
    int rc;
    if (jiter_open(r, v, &it) < 0)
        return -1;
    while ((rc = jiter_next(r, it, &item)) > 0) {
        if (n == target->kids.n)
            return jrun_fail(r, "too many values to unpack (expected %zu)", target->kids.n);
        if (jexec_assign(r, sc, target->kids.v[n++], &item) < 0)
            return -1;
    }
    if (rc == 0 && n < target->kids.n)
        return jrun_fail(r, "not enough values to unpack (expected %zu, got %zu)", target->kids.n, n);
    return rc;
}

int jexec_assign(struct jrun *r, struct jscope *sc, const struct jnode *target, const struct jval *v)
{
    if (target->kind == JX_NAME)
        return jscope_set(r, sc, target->name, *v);
    if (target->kind == JX_TUPLE) {
        if (jrun_enter(r) < 0 || jexec_unpack(r, sc, target, v) < 0)
            return -1;
        jrun_leave(r);
        return 0;
    }
    const struct jval *ns = jscope_get(sc, target->name);
    if (ns == NULL || ns->type != J_NS)
        return jrun_fail(r, "cannot assign an attribute on '%s', which is not a namespace", r->tmpl->names[target->name]->p);
    if (target->str->p[0] == '_')
        return jrun_fail(r, "a namespace's attribute may not begin with an underscore: '%s'", target->str->p);
    return jdict_set(r, ns->u.dict, jval_str((struct jstr *)target->str), *v);
}

/* ---- printing ------------------------------------------------------------------------------------------------------------------------------- */

static int jexec_print(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval v;
    if (jeval(r, sc, node->a, &v) < 0)
        return -1;
    r->line = node->line;
    return v.type == J_STR ? jbuild_str(out, v.u.s) : jtext_str(r, out, &v);
}

/* Runs a body into a text of its own. */
static int jexec_capture(struct jrun *r, struct jscope *sc, const struct jnodes *body, struct jval *out)
{
    struct jbuild b;
    struct jstr *s;
    jbuild_init(&b, r);
    int rc = jexec_body(r, sc, body, &b);
    if (rc != 0)
        return rc;
    if (jbuild_finish(&b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

static int jexec_set_block(struct jrun *r, struct jscope *sc, const struct jnode *node)
{
    struct jval v;
    struct jscope *inner = jscope_new(r, sc);
    int rc = inner == NULL ? -1 : jexec_capture(r, inner, &node->body, &v);
    if (rc != 0)
        return rc;
    if (node->b != NULL && jeval_filter(r, sc, node->b, &v, &v) < 0)
        return -1;
    return jexec_assign(r, sc, node->a, &v);
}

static int jexec_filter_block(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval v;
    struct jscope *inner = jscope_new(r, sc);
    int rc = inner == NULL ? -1 : jexec_capture(r, inner, &node->body, &v);
    if (rc != 0)
        return rc;
    return jeval_filter(r, sc, node->a, &v, &v) < 0 ? -1 : jtext_str(r, out, &v);
}

/* ---- loops ---------------------------------------------------------------------------------------------------------------------------------- */

struct jexec_condition {
    const struct jnode *node; /* the for statement */
    struct jscope *scope;     /* around it */
};

/* The items for which the loop's own `if` holds, asked one at a time. */
static int jexec_next_wanted(struct jrun *r, struct jiter *it, struct jval *out)
{
    const struct jexec_condition *c = it->ctx;
    int rc;
    while ((rc = jiter_next(r, it->inner, out)) > 0) {
        struct jval v;
        bool wanted;
        struct jscope *sc = jscope_new(r, c->scope);
        if (sc == NULL || jexec_assign(r, sc, c->node->a, out) < 0 || jeval(r, sc, c->node->c, &v) < 0 || jval_truth(r, &v, &wanted) < 0)
            return -1;
        if (wanted)
            return 1;
    }
    return rc;
}

static int jexec_open_loop(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *iterable, struct jloop **out)
{
    struct jiter *it;
    if (jiter_open(r, iterable, &it) < 0)
        return -1;
    if (node->c != NULL) {
        struct jexec_condition *c = jrun_alloc(r, sizeof *c);
        if (c == NULL)
            return -1;
        *c = (struct jexec_condition){.node = node, .scope = sc};
        if ((it = jiter_new(r, jexec_next_wanted, it, c)) == NULL)
            return -1;
        *iterable = jval_iter(it, true);
    }
    if (jloop_open(r, iterable, it, out) < 0)
        return -1;
    (*out)->scope = sc;
    (*out)->node = node->flag ? node : NULL;
    return 0;
}

static int jexec_turns(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jloop *loop, struct jbuild *out)
{
    struct jscope *inner = jscope_new(r, sc);
    struct jval item;
    int rc;
    if (inner == NULL)
        return -1;
    while ((rc = jloop_next(r, loop, &item)) > 0) {
        inner->n = 0;
        if (jscope_set(r, inner, r->tmpl->id_loop, (struct jval){.type = J_LOOP, .trusted = true, .u.loop = loop}) < 0 ||
            jexec_assign(r, inner, node->a, &item) < 0)
            return -1;
        int left = jexec_body(r, inner, &node->body, out);
        if (left < 0)
            return -1;
        if (left == JEXEC_BREAK)
            return 0;
    }
    if (rc < 0 || loop->index0 >= 0 || node->orelse.n == 0)
        return rc;
    inner->n = 0;
    return jexec_body(r, inner, &node->orelse, out);
}

static int jexec_for(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval iterable;
    struct jloop *loop;
    if (jeval(r, sc, node->b, &iterable) < 0)
        return -1;
    r->line = node->line;
    return jexec_open_loop(r, sc, node, &iterable, &loop) < 0 ? -1 : jexec_turns(r, sc, node, loop, out);
}

/* loop(children) inside a recursive loop: the same body over other items, as text. */
int jexec_loop_recurse(struct jrun *r, struct jloop *l, const struct jcall *call, struct jval *out)
{
    struct jloop *inner;
    struct jbuild b;
    struct jstr *s;
    if (l->node == NULL)
        return jrun_fail(r, "the loop is not recursive, so 'loop' cannot be called");
    if (call->n != 1 || call->n_kw != 0)
        return jrun_fail(r, "'loop' takes one argument");
    struct jval iterable = call->v[0];
    jbuild_init(&b, r);
    if (jexec_open_loop(r, l->scope, l->node, &iterable, &inner) < 0)
        return -1;
    inner->depth0 = l->depth0 + 1;
    if (jexec_turns(r, l->scope, l->node, inner, &b) != 0 || jbuild_finish(&b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

/* ---- macros --------------------------------------------------------------------------------------------------------------------------------- */

static int jexec_macro(struct jrun *r, struct jscope *sc, const struct jmacro_def *def, struct jval *out)
{
    struct jmacro *m = jrun_alloc(r, sizeof *m);
    if (m == NULL)
        return -1;
    *m = (struct jmacro){.def = def, .scope = sc};
    *out = (struct jval){.type = J_MACRO, .trusted = true, .u.macro = m};
    return 0;
}

static const char *jmacro_name(const struct jmacro_def *def)
{
    return def->name == NULL ? "caller" : def->name->p;
}

/* What was passed beyond the named arguments: kwargs, varargs, caller; taken if the body uses them, refused otherwise. */
static int jmacro_bind_rest(struct jrun *r, const struct jmacro_def *def, const struct jcall *call, bool *taken, struct jscope *sc)
{
    bool bind_caller = def->uses_caller && !def->caller_is_arg;
    struct jdict *kwargs = jdict_new(r);
    struct jseq *varargs = jseq_new(r, 0);
    if (kwargs == NULL || varargs == NULL)
        return -1;
    if (bind_caller && jscope_set(r, sc, r->tmpl->id_caller, jval_undef_hint(r, "No caller defined")) < 0)
        return -1;
    for (size_t k = 0; k < call->n_kw; k++) {
        if (taken[k])
            continue;
        if (bind_caller && jstr_is(call->kw_names[k], "caller")) {
            if (call->kw[k].type != J_NONE && jscope_set(r, sc, r->tmpl->id_caller, call->kw[k]) < 0)
                return -1;
        } else if (!def->uses_kwargs) {
            return jrun_fail(r, "macro '%s' takes no keyword argument '%.*s'", jmacro_name(def),
                             (int)(call->kw_names[k]->n < 80 ? call->kw_names[k]->n : 80), call->kw_names[k]->p);
        } else if (jdict_set(r, kwargs, jval_str((struct jstr *)call->kw_names[k]), call->kw[k]) < 0) {
            return -1;
        }
    }
    if (call->n > def->n_args && !def->uses_varargs)
        return jrun_fail(r, "macro '%s' takes not more than %zu arguments", jmacro_name(def), def->n_args);
    for (size_t i = def->n_args; i < call->n; i++)
        if (jseq_push(r, varargs, call->v[i]) < 0)
            return -1;
    if (def->uses_kwargs && jscope_set(r, sc, r->tmpl->id_kwargs, jval_dict(kwargs, true)) < 0)
        return -1;
    return def->uses_varargs ? jscope_set(r, sc, r->tmpl->id_varargs, jval_seq(J_TUPLE, varargs, true)) : 0;
}

static int jmacro_bind(struct jrun *r, const struct jmacro_def *def, const struct jcall *call, struct jscope *sc)
{
    bool *taken = jrun_alloc(r, call->n_kw), *missing = jrun_alloc(r, def->n_args);
    if (taken == NULL || missing == NULL)
        return -1;
    memset(taken, 0, call->n_kw);
    memset(missing, 0, def->n_args);
    for (size_t i = 0; i < def->n_args; i++) {
        size_t k = 0;
        if (i < call->n) {
            if (jscope_set(r, sc, def->arg_ids[i], call->v[i]) < 0)
                return -1;
            continue;
        }
        while (k < call->n_kw && !jstr_same(call->kw_names[k], def->arg_names[i]))
            k++;
        missing[i] = k == call->n_kw;
        if (!missing[i])
            taken[k] = true;
        if (jscope_set(r, sc, def->arg_ids[i], missing[i] ? jval_undef_hint(r, "a parameter was not provided") : call->kw[k]) < 0)
            return -1;
    }
    if (jmacro_bind_rest(r, def, call, taken, sc) < 0)
        return -1;
    for (size_t i = 0; i < def->n_args; i++) { /* defaults see the arguments before them */
        struct jval v;
        if (missing[i] && def->defaults[i] != NULL && (jeval(r, sc, def->defaults[i], &v) < 0 || jscope_set(r, sc, def->arg_ids[i], v) < 0))
            return -1;
    }
    return 0;
}

int jcall_macro(struct jrun *r, const struct jmacro *m, const struct jcall *call, struct jval *out)
{
    struct jscope *sc = jscope_new(r, m->scope);
    int line = r->line;
    if (sc == NULL || jmacro_bind(r, m->def, call, sc) < 0 || jexec_capture(r, sc, &m->def->body, out) != 0)
        return -1;
    r->line = line;
    return 0;
}

static int jexec_call_block(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval caller, v;
    if (jexec_macro(r, sc, node->macro, &caller) < 0 || jeval_call(r, sc, node->a, &caller, &v) < 0)
        return -1;
    return jtext_str(r, out, &v);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------------------- */

static int jexec_with(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jscope *inner = jscope_new(r, sc);
    if (inner == NULL)
        return -1;
    for (size_t i = 0; i + 1 < node->kids.n; i += 2) {
        struct jval v;
        if (jeval(r, sc, node->kids.v[i + 1], &v) < 0 || jexec_assign(r, inner, node->kids.v[i], &v) < 0)
            return -1;
    }
    return jexec_body(r, inner, &node->body, out);
}

static int jexec_if(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval v;
    bool truth;
    for (;;) { /* a chain of elifs is a list, not a recursion */
        if (jeval(r, sc, node->a, &v) < 0 || jval_truth(r, &v, &truth) < 0)
            return -1;
        if (truth)
            return jexec_body(r, sc, &node->body, out);
        if (node->orelse.n != 1 || node->orelse.v[0]->kind != JS_IF)
            return jexec_body(r, sc, &node->orelse, out);
        node = node->orelse.v[0];
    }
}

static int jexec_statement(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jbuild *out)
{
    struct jval v;
    struct jscope *inner;
    switch (node->kind) {
    case JS_TEXT: return jbuild_ref(out, node->str->p, node->str->n, true);
    case JS_PRINT: return jexec_print(r, sc, node, out);
    case JS_IF: return jexec_if(r, sc, node, out);
    case JS_FOR: return jexec_for(r, sc, node, out);
    case JS_SET: return jeval(r, sc, node->b, &v) < 0 ? -1 : jexec_assign(r, sc, node->a, &v);
    case JS_SET_BLOCK: return jexec_set_block(r, sc, node);
    case JS_MACRO: return jexec_macro(r, sc, node->macro, &v) < 0 ? -1 : jscope_set(r, sc, node->name, v);
    case JS_CALL: return jexec_call_block(r, sc, node, out);
    case JS_FILTER: return jexec_filter_block(r, sc, node, out);
    case JS_WITH: return jexec_with(r, sc, node, out);
    case JS_BREAK: return JEXEC_BREAK;
    case JS_CONTINUE: return JEXEC_CONTINUE;
    default: /* JS_SCOPE */
        inner = jscope_new(r, sc);
        return inner == NULL ? -1 : jexec_body(r, inner, &node->body, out);
    }
}

int jexec_body(struct jrun *r, struct jscope *sc, const struct jnodes *body, struct jbuild *out)
{
    if (jrun_enter(r) < 0)
        return -1;
    for (size_t i = 0; i < body->n; i++) {
        r->line = body->v[i]->line;
        if (jrun_spend(r, 1) < 0)
            return -1;
        int rc = jexec_statement(r, sc, body->v[i], out);
        if (rc < 0)
            return -1;
        if (rc != 0) {
            jrun_leave(r);
            return rc;
        }
    }
    jrun_leave(r);
    return 0;
}

/* jparse_expr.c: expressions, by recursive descent in jinja2's order of binding, loosest first:
 *
 *   a if b else c  ·  or  ·  and  ·  not  ·  == != < <= > >= in, not in (chained)  ·  + -  ·  ~  ·  * / // %  ·  **  ·  unary - +
 *   ·  .x [x] (x)  ·  |filter, is test
 *
 * Filters and tests bind tighter than any operator and follow a unary expression. */
#include <string.h>

#include "server/chat/jparse.h"

static int jparse_or(struct jparse *p, struct jnode **out);
static int jparse_concat(struct jparse *p, struct jnode **out);
static int jparse_primary(struct jparse *p, struct jnode **out);

static struct jnode *jparse_const(struct jparse *p, struct jval value, int line)
{
    struct jnode *node = jparse_node(p, JX_CONST, line);
    if (node != NULL)
        node->value = value;
    return node;
}

static struct jnode *jparse_const_str(struct jparse *p, const char *s, size_t n, int line)
{
    struct jnode *node = jparse_node(p, JX_CONST, line);
    const struct jstr *str = node != NULL ? jparse_str(p, s, n) : NULL;
    if (str == NULL)
        return NULL;
    node->value = jval_str((struct jstr *)str);
    return node;
}

/* (a, b=1, *c, **d), the current token being the parenthesis. */
int jparse_call_args(struct jparse *p, struct jargs **out)
{
    struct jargs *args = jparse_alloc(p, sizeof *args);
    int line = p->tok->line;
    if (args == NULL || jparse_expect(p, JT_LPAREN, "'('") < 0)
        return -1;
    size_t cap = 0;
    for (bool first = true; p->tok->type != JT_RPAREN; first = false) {
        if (!first && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (!first && p->tok->type == JT_RPAREN)
            break;
        struct jnode *value;
        bool ok;
        if (p->tok->type == JT_MUL || p->tok->type == JT_POW) {
            bool doubled = p->tok++->type == JT_POW;
            ok = doubled ? args->star_star == NULL : args->star == NULL && args->star_star == NULL;
            if (jparse_expression(p, true, &value) < 0)
                return -1;
            if (doubled)
                args->star_star = value;
            else
                args->star = value;
        } else if (p->tok->type == JT_NAME && p->tok[1].type == JT_ASSIGN) {
            ok = args->star_star == NULL;
            const struct jstr *name = jparse_str(p, p->tok->p, p->tok->n);
            p->tok += 2;
            if (name == NULL || jparse_expression(p, true, &value) < 0 || jparse_push(p, &args->keyword_values, value) < 0)
                return -1;
            if (args->keyword_values.n > cap) {
                cap = cap == 0 ? 4 : cap * 2;
                const struct jstr **names = jparse_alloc(p, cap * sizeof *names);
                if (names == NULL)
                    return -1;
                if (args->keyword_names != NULL)
                    memcpy(names, args->keyword_names, (args->keyword_values.n - 1) * sizeof *names);
                args->keyword_names = names;
            }
            for (size_t i = 0; i + 1 < args->keyword_values.n; i++)
                if (args->keyword_names[i]->n == name->n && memcmp(args->keyword_names[i]->p, name->p, name->n) == 0)
                    return jparse_fail(p, line, ERR_FORMAT, "the keyword argument '%s' stands twice", name->p);
            args->keyword_names[args->keyword_values.n - 1] = name;
        } else {
            ok = args->star == NULL && args->star_star == NULL && args->keyword_values.n == 0;
            if (jparse_expression(p, true, &value) < 0 || jparse_push(p, &args->positional, value) < 0)
                return -1;
        }
        if (!ok)
            return jparse_fail(p, line, ERR_FORMAT, "invalid order of arguments in a call");
    }
    *out = args;
    return jparse_expect(p, JT_RPAREN, "')'");
}

/* start:stop:step or an expression, inside brackets. */
static int jparse_subscribed(struct jparse *p, struct jnode *object, struct jnode **out)
{
    int line = p->tok->line;
    struct jnode *part[3] = {NULL, NULL, NULL};
    if (p->tok->type != JT_COLON) {
        if (jparse_expression(p, true, &part[0]) < 0)
            return -1;
        if (p->tok->type != JT_COLON) {
            *out = part[0];
            return 0;
        }
    }
    p->tok++;
    if (p->tok->type != JT_COLON && p->tok->type != JT_RBRACKET && p->tok->type != JT_COMMA && jparse_expression(p, true, &part[1]) < 0)
        return -1;
    if (jparse_skip(p, JT_COLON) && p->tok->type != JT_RBRACKET && p->tok->type != JT_COMMA && jparse_expression(p, true, &part[2]) < 0)
        return -1;
    struct jnode *slice = jparse_node(p, JX_SLICE, line);
    if (slice == NULL)
        return -1;
    slice->a = object;
    for (int i = 0; i < 3; i++)
        if (jparse_push(p, &slice->kids, part[i]) < 0)
            return -1;
    *out = slice;
    return 0;
}

static int jparse_subscript(struct jparse *p, struct jnode **node)
{
    int line = p->tok->line;
    if (jparse_skip(p, JT_DOT)) {
        struct jnode *attr = jparse_node(p, p->tok->type == JT_NAME ? JX_ATTR : JX_ITEM, line);
        if (attr == NULL)
            return -1;
        attr->a = *node;
        if (p->tok->type == JT_NAME) {
            if ((attr->str = jparse_str(p, p->tok->p, p->tok->n)) == NULL)
                return -1;
        } else if (p->tok->type != JT_INT) {
            return jparse_expected(p, "a name or a number");
        } else if ((attr->b = jparse_const(p, jval_int(p->tok->i, true), line)) == NULL) {
            return -1;
        }
        p->tok++;
        *node = attr;
        return 0;
    }
    p->tok++; /* [ */
    struct jnode *index;
    if (p->tok->type == JT_RBRACKET)
        return jparse_expected(p, "an index");
    if (jparse_subscribed(p, *node, &index) < 0)
        return -1;
    if (p->tok->type == JT_COMMA)
        return jparse_fail(p, line, ERR_UNSUPPORTED, "an index of several parts (x[a, b]) is not supported");
    if (jparse_expect(p, JT_RBRACKET, "']'") < 0)
        return -1;
    if (index->kind == JX_SLICE && index->a == *node) {
        *node = index;
        return 0;
    }
    struct jnode *item = jparse_node(p, JX_ITEM, line);
    if (item == NULL)
        return -1;
    item->a = *node;
    item->b = index;
    *node = item;
    return 0;
}

static int jparse_call(struct jparse *p, struct jnode **node)
{
    static const char *const refused[] = {"lipsum", "cycler", "joiner"};
    struct jnode *call = jparse_node(p, JX_CALL, p->tok->line);
    if (call == NULL)
        return -1;
    if ((*node)->kind == JX_NAME)
        for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
            if (jstr_is(p->tmpl->names[(*node)->name], refused[i]))
                return jparse_fail(p, call->line, ERR_UNSUPPORTED, "the function '%s' is not supported", refused[i]);
    call->a = *node;
    *node = call;
    return jparse_call_args(p, &call->args);
}

int jparse_postfix(struct jparse *p, struct jnode **node)
{
    for (;;) {
        int rc;
        if (p->tok->type == JT_DOT || p->tok->type == JT_LBRACKET)
            rc = jparse_subscript(p, node);
        else if (p->tok->type == JT_LPAREN)
            rc = jparse_call(p, node);
        else
            return 0;
        if (rc < 0)
            return -1;
    }
}

/* A filter's or test's name, which may hold dots. */
static int jparse_dotted(struct jparse *p, char *name, size_t cap, size_t *n_out)
{
    size_t n = 0;
    do {
        if (p->tok->type != JT_NAME)
            return jparse_expected(p, "a name");
        if (p->tok->n + 1 > cap - n)
            return jparse_fail(p, p->tok->line, ERR_FORMAT, "a name is too long");
        if (n > 0)
            name[n++] = '.';
        memcpy(name + n, p->tok->p, p->tok->n);
        n += p->tok->n;
        p->tok++;
    } while (jparse_skip(p, JT_DOT));
    *n_out = n;
    return 0;
}

int jparse_one_filter(struct jparse *p, struct jnode *input, struct jnode **out)
{
    char name[128];
    size_t n;
    struct jnode *filter = jparse_node(p, JX_FILTER, p->tok->line);
    if (filter == NULL || jparse_dotted(p, name, sizeof name, &n) < 0)
        return -1;
    bool refused = false;
    filter->a = input;
    filter->op = jfilter_lookup(name, n, &refused);
    filter->str = jparse_str(p, name, n);
    if (filter->str == NULL)
        return -1;
    if (refused)
        return jparse_fail(p, filter->line, ERR_UNSUPPORTED, "the filter '%.*s' is not supported", (int)n, name);
    if (filter->op == JOP_UNKNOWN && !p->soft && p->unknown == NULL)
        p->unknown = filter;
    *out = filter;
    if (p->tok->type == JT_LPAREN)
        return jparse_call_args(p, &filter->args);
    return (filter->args = jparse_alloc(p, sizeof *filter->args)) == NULL ? -1 : 0;
}

int jparse_filters(struct jparse *p, struct jnode **node)
{
    while (jparse_skip(p, JT_PIPE))
        if (jparse_one_filter(p, *node, node) < 0)
            return -1;
    return 0;
}

/* "is [not] name [argument | (arguments)]", the current token being `is`. */
static int jparse_test(struct jparse *p, struct jnode **node)
{
    char name[128];
    size_t n;
    struct jnode *test = jparse_node(p, JX_TEST, p->tok->line);
    p->tok++;
    bool negated = jparse_skip_name(p, "not");
    if (test == NULL || jparse_dotted(p, name, sizeof name, &n) < 0)
        return -1;
    test->a = *node;
    test->op = jtest_lookup(name, n);
    test->str = jparse_str(p, name, n);
    if (test->str == NULL)
        return -1;
    if (test->op == JOP_UNKNOWN && !p->soft && p->unknown == NULL)
        p->unknown = test;
    uint8_t next = p->tok->type;
    if (next == JT_LPAREN) {
        if (jparse_call_args(p, &test->args) < 0)
            return -1;
    } else {
        if ((test->args = jparse_alloc(p, sizeof *test->args)) == NULL)
            return -1;
        bool takes = next == JT_NAME || next == JT_STRING || next == JT_INT || next == JT_FLOAT || next == JT_LBRACKET || next == JT_LBRACE;
        if (takes && !jparse_is_name(p->tok, "else") && !jparse_is_name(p->tok, "or") && !jparse_is_name(p->tok, "and")) {
            struct jnode *arg;
            if (jparse_is_name(p->tok, "is"))
                return jparse_fail(p, test->line, ERR_FORMAT, "tests cannot be chained with 'is'");
            if (jparse_primary(p, &arg) < 0 || jparse_postfix(p, &arg) < 0 || jparse_push(p, &test->args->positional, arg) < 0)
                return -1;
        }
    }
    *node = test;
    if (!negated)
        return 0;
    struct jnode *not = jparse_node(p, JX_NOT, test->line);
    if (not == NULL)
        return -1;
    not->a = test;
    *node = not;
    return 0;
}

static int jparse_filter_expr(struct jparse *p, struct jnode **node)
{
    for (;;) {
        int rc;
        if (p->tok->type == JT_PIPE)
            rc = jparse_filters(p, node);
        else if (jparse_is_name(p->tok, "is"))
            rc = jparse_test(p, node);
        else if (p->tok->type == JT_LPAREN)
            rc = jparse_call(p, node);
        else
            return 0;
        if (rc < 0)
            return -1;
    }
}

static int jparse_strings(struct jparse *p, struct jnode **out)
{
    int line = p->tok->line;
    if (p->tok[1].type != JT_STRING) {
        *out = jparse_const_str(p, p->tok->p, p->tok->n, line);
        p->tok++;
        return *out == NULL ? -1 : 0;
    }
    size_t n = 0;
    for (const struct jtoken *t = p->tok; t->type == JT_STRING; t++)
        n += t->n;
    char *all = jparse_alloc(p, n + 1);
    if (all == NULL)
        return -1;
    n = 0;
    for (; p->tok->type == JT_STRING; p->tok++) {
        memcpy(all + n, p->tok->p, p->tok->n);
        n += p->tok->n;
    }
    *out = jparse_const_str(p, all, n, line);
    return *out == NULL ? -1 : 0;
}

/* [a, b] or {a: b, c: d} */
static int jparse_display(struct jparse *p, bool dict, struct jnode **out)
{
    struct jnode *node = jparse_node(p, dict ? JX_DICT : JX_LIST, p->tok->line);
    enum jtoken_type end = dict ? JT_RBRACE : JT_RBRACKET;
    p->tok++;
    for (bool first = true; node != NULL && p->tok->type != end; first = false) {
        struct jnode *key, *value;
        if (!first && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (!first && p->tok->type == end)
            break;
        if (dict && (jparse_expression(p, true, &key) < 0 || jparse_push(p, &node->kids, key) < 0 || jparse_expect(p, JT_COLON, "':'") < 0))
            return -1;
        if (jparse_expression(p, true, &value) < 0 || jparse_push(p, &node->kids, value) < 0)
            return -1;
    }
    if (node == NULL)
        return -1;
    *out = node;
    return jparse_expect(p, end, dict ? "'}'" : "']'");
}

static int jparse_name_or_const(struct jparse *p, struct jnode **out)
{
    const struct jtoken *t = p->tok++;
    if (jparse_is_name(t, "true") || jparse_is_name(t, "True"))
        *out = jparse_const(p, jval_bool(true), t->line);
    else if (jparse_is_name(t, "false") || jparse_is_name(t, "False"))
        *out = jparse_const(p, jval_bool(false), t->line);
    else if (jparse_is_name(t, "none") || jparse_is_name(t, "None"))
        *out = jparse_const(p, jval_none(), t->line);
    else
        return jparse_name(p, t, out);
    return *out == NULL ? -1 : 0;
}

static int jparse_primary(struct jparse *p, struct jnode **out)
{
    const struct jtoken *t = p->tok;
    switch (t->type) {
    case JT_NAME: return jparse_name_or_const(p, out);
    case JT_STRING: return jparse_strings(p, out);
    case JT_INT: case JT_FLOAT:
        p->tok++;
        *out = jparse_const(p, t->type == JT_INT ? jval_int(t->i, true) : jval_float(t->f, true), t->line);
        return *out == NULL ? -1 : 0;
    case JT_LPAREN:
        p->tok++;
        return jparse_tuple(p, JTUPLE_PARENS, NULL, out) < 0 ? -1 : jparse_expect(p, JT_RPAREN, "')'");
    case JT_LBRACKET: return jparse_display(p, false, out);
    case JT_LBRACE: return jparse_display(p, true, out);
    default: return jparse_expected(p, "an expression");
    }
}

static int jparse_unary(struct jparse *p, bool with_filter, struct jnode **out)
{
    uint8_t type = p->tok->type;
    if (jparse_enter(p) < 0)
        return -1;
    if (type == JT_SUB || type == JT_ADD) {
        struct jnode *node = jparse_node(p, type == JT_SUB ? JX_NEG : JX_POS, p->tok->line);
        p->tok++;
        if (node == NULL || jparse_unary(p, false, &node->a) < 0)
            return -1;
        *out = node;
    } else if (jparse_primary(p, out) < 0) {
        return -1;
    }
    if (jparse_postfix(p, out) < 0 || (with_filter && jparse_filter_expr(p, out) < 0))
        return -1;
    jparse_leave(p);
    return 0;
}

static struct jnode *jparse_binary(struct jparse *p, enum jkind kind, uint16_t op, struct jnode *a, struct jnode *b, int line)
{
    struct jnode *node = jparse_node(p, kind, line);
    if (node == NULL)
        return NULL;
    node->op = op;
    node->a = a;
    node->b = b;
    return node;
}

/* The left-associative binary operators, tightest first: level 0 is **, 1 is * / // %, 2 is + - */
static int jparse_arithmetic(struct jparse *p, int level, struct jnode **out)
{
    int line = p->tok->line;
    struct jnode *right;
    int rc = level == 0 ? jparse_unary(p, true, out) : level == 1 ? jparse_arithmetic(p, 0, out) : jparse_concat(p, out);
    while (rc == 0) {
        uint8_t type = p->tok->type;
        bool here = level == 0   ? type == JT_POW
                    : level == 1 ? type == JT_MUL || type == JT_DIV || type == JT_FLOORDIV || type == JT_MOD
                                 : type == JT_ADD || type == JT_SUB;
        if (!here)
            return 0;
        p->tok++;
        rc = level == 0 ? jparse_unary(p, true, &right) : level == 1 ? jparse_arithmetic(p, 0, &right) : jparse_concat(p, &right);
        if (rc == 0 && (*out = jparse_binary(p, JX_BINARY, type, *out, right, line)) == NULL)
            return -1;
    }
    return -1;
}

static int jparse_concat(struct jparse *p, struct jnode **out)
{
    int line = p->tok->line;
    if (jparse_arithmetic(p, 1, out) < 0)
        return -1;
    if (p->tok->type != JT_TILDE)
        return 0;
    struct jnode *node = jparse_node(p, JX_CONCAT, line), *part;
    if (node == NULL || jparse_push(p, &node->kids, *out) < 0)
        return -1;
    while (jparse_skip(p, JT_TILDE))
        if (jparse_arithmetic(p, 1, &part) < 0 || jparse_push(p, &node->kids, part) < 0)
            return -1;
    *out = node;
    return 0;
}

/* The comparison operator at the current token, stepped over; -1 if there is none. */
static int jparse_compare_op(struct jparse *p)
{
    if (p->tok->type >= JT_EQ && p->tok->type <= JT_GTEQ)
        return JC_EQ + (p->tok++->type - JT_EQ);
    if (jparse_skip_name(p, "in"))
        return JC_IN;
    if (jparse_is_name(p->tok, "not") && jparse_is_name(p->tok + 1, "in")) {
        p->tok += 2;
        return JC_NOTIN;
    }
    return -1;
}

static int jparse_compare(struct jparse *p, struct jnode **out)
{
    int line = p->tok->line;
    if (jparse_arithmetic(p, 2, out) < 0)
        return -1;
    struct jnode *node = NULL;
    size_t cap = 0;
    for (int op; (op = jparse_compare_op(p)) >= 0;) {
        struct jnode *right;
        if (node == NULL) {
            if ((node = jparse_node(p, JX_COMPARE, line)) == NULL)
                return -1;
            node->a = *out;
        }
        if (jparse_arithmetic(p, 2, &right) < 0 || jparse_push(p, &node->kids, right) < 0)
            return -1;
        if (node->kids.n > cap) {
            cap = cap == 0 ? 4 : cap * 2;
            uint8_t *ops = jparse_alloc(p, cap);
            if (ops == NULL)
                return -1;
            if (node->compare_ops != NULL)
                memcpy(ops, node->compare_ops, node->kids.n - 1);
            node->compare_ops = ops;
        }
        node->compare_ops[node->kids.n - 1] = (uint8_t)op;
    }
    if (node != NULL)
        *out = node;
    return 0;
}

static int jparse_not(struct jparse *p, struct jnode **out)
{
    if (!jparse_is_name(p->tok, "not"))
        return jparse_compare(p, out);
    struct jnode *node = jparse_node(p, JX_NOT, p->tok->line);
    p->tok++;
    if (node == NULL || jparse_enter(p) < 0 || jparse_not(p, &node->a) < 0)
        return -1;
    jparse_leave(p);
    *out = node;
    return 0;
}

static int jparse_and(struct jparse *p, struct jnode **out)
{
    int line = p->tok->line;
    struct jnode *right;
    if (jparse_not(p, out) < 0)
        return -1;
    while (jparse_skip_name(p, "and"))
        if (jparse_not(p, &right) < 0 || (*out = jparse_binary(p, JX_AND, 0, *out, right, line)) == NULL)
            return -1;
    return 0;
}

static int jparse_or(struct jparse *p, struct jnode **out)
{
    int line = p->tok->line;
    struct jnode *right;
    if (jparse_and(p, out) < 0)
        return -1;
    while (jparse_skip_name(p, "or"))
        if (jparse_and(p, &right) < 0 || (*out = jparse_binary(p, JX_OR, 0, *out, right, line)) == NULL)
            return -1;
    return 0;
}

/* The first operand's filters are parsed before the `if` that makes them conditional is seen; unknown ones are forgotten then. */
int jparse_expression(struct jparse *p, bool with_cond, struct jnode **out)
{
    int line = p->tok->line;
    const struct jnode *unknown_before = p->unknown;
    if (jparse_enter(p) < 0 || jparse_or(p, out) < 0)
        return -1;
    while (with_cond && jparse_skip_name(p, "if")) {
        struct jnode *node = jparse_node(p, JX_COND, line);
        if (node == NULL)
            return -1;
        bool soft = p->soft;
        p->soft = true;
        node->a = *out;
        if (jparse_or(p, &node->b) < 0)
            return -1;
        if (jparse_skip_name(p, "else") && jparse_expression(p, true, &node->c) < 0)
            return -1;
        p->soft = soft;
        p->unknown = unknown_before;
        *out = node;
    }
    jparse_leave(p);
    return 0;
}

int jparse_tuple(struct jparse *p, enum jparse_tuple mode, const char *end_name, struct jnode **out)
{
    struct jnodes list = {0};
    bool is_tuple = false;
    int line = p->tok->line;
    for (;;) {
        struct jnode *item;
        if (list.n > 0 && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (p->tok->type == JT_VARIABLE_END || p->tok->type == JT_BLOCK_END || p->tok->type == JT_RPAREN ||
            (end_name != NULL && jparse_is_name(p->tok, end_name)))
            break;
        if (jparse_expression(p, mode != JTUPLE_NO_COND, &item) < 0 || jparse_push(p, &list, item) < 0)
            return -1;
        if (p->tok->type != JT_COMMA)
            break;
        is_tuple = true;
    }
    if (!is_tuple && list.n > 0) {
        *out = list.v[0];
        return 0;
    }
    if (!is_tuple && mode != JTUPLE_PARENS)
        return jparse_expected(p, "an expression");
    if ((*out = jparse_node(p, JX_TUPLE, line)) == NULL)
        return -1;
    (*out)->kids = list;
    return 0;
}

static int jparse_one_target(struct jparse *p, bool for_target, struct jnode **out)
{
    const struct jtoken *t = p->tok;
    if (t->type == JT_LPAREN) {
        p->tok++;
        if (jparse_enter(p) < 0 || jparse_target(p, for_target, out) < 0)
            return -1;
        jparse_leave(p);
        return jparse_expect(p, JT_RPAREN, "')'");
    }
    if (t->type != JT_NAME)
        return jparse_expected(p, "a name to assign to");
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (jparse_is_name(t, constants[i]))
            return jparse_fail(p, t->line, ERR_FORMAT, "cannot assign to '%s'", constants[i]);
    bool attr = !for_target && t[1].type == JT_DOT;
    struct jnode *node = jparse_node(p, attr ? JX_NSREF : JX_NAME, t->line);
    if (node == NULL || jparse_intern(p, t->p, t->n, &node->name) < 0)
        return -1;
    if (for_target && node->name == p->tmpl->id_loop)
        return jparse_fail(p, t->line, ERR_FORMAT, "a for loop cannot assign to 'loop'");
    p->tok++;
    if (attr) {
        p->tok++;
        if (p->tok->type != JT_NAME)
            return jparse_expected(p, "a name");
        if ((node->str = jparse_str(p, p->tok->p, p->tok->n)) == NULL)
            return -1;
        p->tok++;
    }
    *out = node;
    return 0;
}

int jparse_target(struct jparse *p, bool for_target, struct jnode **out)
{
    struct jnodes list = {0};
    bool is_tuple = false;
    int line = p->tok->line;
    for (;;) {
        struct jnode *item;
        if (list.n > 0 && (p->tok->type == JT_ASSIGN || p->tok->type == JT_RPAREN || p->tok->type == JT_BLOCK_END || jparse_is_name(p->tok, "in")))
            break;
        if (jparse_one_target(p, for_target, &item) < 0 || jparse_push(p, &list, item) < 0)
            return -1;
        if (!jparse_skip(p, JT_COMMA))
            break;
        is_tuple = true;
    }
    if (!is_tuple) {
        *out = list.v[0];
        return 0;
    }
    if ((*out = jparse_node(p, JX_TUPLE, line)) == NULL)
        return -1;
    (*out)->kids = list;
    return 0;
}

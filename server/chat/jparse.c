/* jparse.c: statements, and the parser's tools.
 *
 * A body is parsed until one of the tags that may end it stands at the current token. `soft` and `in_loop` follow the nesting: a loop's or macro's
 * body is a scope of its own, where an unknown filter is refused at once; inside an `if` it is refused when reached, as jinja2 does, because
 * templates ask there whether something exists. `break` cannot leave a macro. */
#include "server/chat/jparse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int jparse_statement(struct jparse *p, struct jnode **out);

/* ---- tools ---------------------------------------------------------------------------------------------------------------------------------- */

int jparse_fail(struct jparse *p, int line, enum err_code code, const char *format, ...)
{
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return err_set(p->err, code, "chat template, line %d: %s", line, what);
}

int jparse_expected(struct jparse *p, const char *what)
{
    char scratch[80];
    return jparse_fail(p, p->tok->line, ERR_FORMAT, "expected %s, got %s", what, jlex_describe(p->tok, scratch, sizeof scratch));
}

void *jparse_alloc(struct jparse *p, size_t n)
{
    void *mem = arena_alloc(&p->tmpl->arena, n);
    if (mem == NULL)
        jparse_fail(p, p->tok->line, ERR_NOMEM, "the template needs more memory than it may take");
    else
        memset(mem, 0, n);
    return mem;
}

struct jnode *jparse_node(struct jparse *p, enum jkind kind, int line)
{
    struct jnode *node = jparse_alloc(p, sizeof *node);
    if (node != NULL) {
        node->kind = (uint8_t)kind;
        node->line = line;
    }
    return node;
}

int jparse_push(struct jparse *p, struct jnodes *list, struct jnode *node)
{
    if (list->n == list->cap) {
        size_t cap = list->cap == 0 ? 4 : list->cap * 2;
        struct jnode **v = jparse_alloc(p, cap * sizeof *v);
        if (v == NULL)
            return -1;
        if (list->n > 0)
            memcpy(v, list->v, list->n * sizeof *v);
        list->v = v;
        list->cap = cap;
    }
    list->v[list->n++] = node;
    return 0;
}

int jparse_enter(struct jparse *p)
{
    if (p->depth >= JPARSE_MAX_DEPTH)
        return jparse_fail(p, p->tok->line, ERR_FORMAT, "nested deeper than %d levels", JPARSE_MAX_DEPTH);
    p->depth++;
    return 0;
}

void jparse_leave(struct jparse *p)
{
    p->depth--;
}

bool jparse_is_name(const struct jtoken *t, const char *name)
{
    return t->type == JT_NAME && t->n == strlen(name) && memcmp(t->p, name, t->n) == 0;
}

bool jparse_skip(struct jparse *p, enum jtoken_type type)
{
    if (p->tok->type != type)
        return false;
    p->tok++;
    return true;
}

bool jparse_skip_name(struct jparse *p, const char *name)
{
    if (!jparse_is_name(p->tok, name))
        return false;
    p->tok++;
    return true;
}

int jparse_expect(struct jparse *p, enum jtoken_type type, const char *what)
{
    return jparse_skip(p, type) ? 0 : jparse_expected(p, what);
}

const struct jstr *jparse_str(struct jparse *p, const char *s, size_t n)
{
    struct jstr *str = jparse_alloc(p, sizeof *str);
    char *copy = str != NULL ? jparse_alloc(p, n + 1) : NULL;
    if (copy == NULL)
        return NULL;
    if (n > 0)
        memcpy(copy, s, n);
    jstr_init(str, copy, n, true);
    str->n_chars = jstr_n_chars(str);
    return str;
}

int jparse_intern(struct jparse *p, const char *s, size_t n, uint32_t *id)
{
    struct chat_template *t = p->tmpl;
    for (size_t i = 0; i < t->n_names; i++) {
        if (t->names[i]->n == n && memcmp(t->names[i]->p, s, n) == 0) {
            *id = (uint32_t)i;
            return 0;
        }
    }
    if (t->n_names == JPARSE_MAX_NAMES)
        return jparse_fail(p, p->tok->line, ERR_UNSUPPORTED, "the template uses more than %d names", JPARSE_MAX_NAMES);
    if (t->n_names == t->names_cap) {
        size_t cap = t->names_cap == 0 ? 64 : t->names_cap * 2;
        struct jstr **names = jparse_alloc(p, cap * sizeof *names);
        if (names == NULL)
            return -1;
        if (t->n_names > 0)
            memcpy(names, t->names, t->n_names * sizeof *names);
        t->names = names;
        t->names_cap = cap;
    }
    const struct jstr *str = jparse_str(p, s, n);
    if (str == NULL)
        return -1;
    *id = (uint32_t)t->n_names;
    t->names[t->n_names++] = (struct jstr *)str;
    return 0;
}

int jparse_name(struct jparse *p, const struct jtoken *t, struct jnode **out)
{
    struct jnode *node = jparse_node(p, JX_NAME, t->line);
    if (node == NULL || jparse_intern(p, t->p, t->n, &node->name) < 0)
        return -1;
    for (struct jparse_macro *m = p->macro; m != NULL; m = m->outer) {
        m->def->uses_caller |= node->name == p->tmpl->id_caller;
        m->def->uses_kwargs |= node->name == p->tmpl->id_kwargs;
        m->def->uses_varargs |= node->name == p->tmpl->id_varargs;
    }
    *out = node;
    return 0;
}

/* ---- bodies --------------------------------------------------------------------------------------------------------------------------------- */

/* Statements up to a tag named in ends (NULL-terminated, the usual one last; NULL for the whole template). The current token is then that tag's name.
 * line is where the block began. */
static int jparse_body(struct jparse *p, const char *const *ends, int line, struct jnodes *out)
{
    size_t n_ends = 0;
    while (ends != NULL && ends[n_ends] != NULL)
        n_ends++;
    for (;;) {
        struct jnode *node = NULL;
        switch (p->tok->type) {
        case JT_EOF:
            return ends == NULL ? 0 : jparse_fail(p, line, ERR_FORMAT, "the block that begins here has no '%s'", ends[n_ends - 1]);
        case JT_DATA:
            if ((node = jparse_node(p, JS_TEXT, p->tok->line)) == NULL || (node->str = jparse_str(p, p->tok->p, p->tok->n)) == NULL)
                return -1;
            p->tok++;
            break;
        case JT_VARIABLE_BEGIN:
            if ((node = jparse_node(p, JS_PRINT, p->tok->line)) == NULL)
                return -1;
            p->tok++;
            if (jparse_tuple(p, JTUPLE_PLAIN, NULL, &node->a) < 0 || jparse_expect(p, JT_VARIABLE_END, "'}}'") < 0)
                return -1;
            break;
        default:
            p->tok++; /* block begin: text and expressions are the only other things between tags */
            for (size_t i = 0; i < n_ends; i++)
                if (jparse_is_name(p->tok, ends[i]))
                    return 0;
            if (jparse_statement(p, &node) < 0 || jparse_expect(p, JT_BLOCK_END, "'%}'") < 0)
                return -1;
        }
        if (p->unknown != NULL)
            return jparse_fail(p, p->unknown->line, ERR_UNSUPPORTED, "there is no %s '%s'", p->unknown->kind == JX_TEST ? "test" : "filter",
                               p->unknown->str->p);
        if (jparse_push(p, out, node) < 0)
            return -1;
    }
}

/* "%} body {% end", the current token being what stands before "%}" was. */
static int jparse_block(struct jparse *p, const char *const *ends, struct jnodes *out)
{
    jparse_skip(p, JT_COLON);
    int line = p->tok->line;
    return jparse_expect(p, JT_BLOCK_END, "'%}'") < 0 ? -1 : jparse_body(p, ends, line, out);
}

/* A block in a scope of its own that ends with one tag, which is stepped over. */
static int jparse_scoped_block(struct jparse *p, const char *end, bool in_loop, struct jnodes *out)
{
    const char *const ends[] = {end, NULL};
    bool soft = p->soft, loop = p->in_loop;
    p->soft = false;
    p->in_loop = in_loop;
    int rc = jparse_block(p, ends, out);
    p->soft = soft;
    p->in_loop = loop;
    p->tok += rc == 0;
    return rc;
}

/* ---- statements ----------------------------------------------------------------------------------------------------------------------------- */

static int jparse_if(struct jparse *p, struct jnode *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        if (jparse_tuple(p, JTUPLE_NO_COND, NULL, &node->a) < 0 || jparse_block(p, ends, &node->body) < 0)
            return -1;
        const struct jtoken *end = p->tok++;
        if (jparse_is_name(end, "elif")) {
            struct jnode *next = jparse_node(p, JS_IF, end->line);
            if (next == NULL || jparse_push(p, &node->orelse, next) < 0)
                return -1;
            node = next;
            continue;
        }
        if (jparse_is_name(end, "else")) {
            if (jparse_block(p, last, &node->orelse) < 0)
                return -1;
            p->tok++;
        }
        p->soft = soft;
        return 0;
    }
}

static int jparse_for(struct jparse *p, struct jnode *node)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    bool soft = p->soft, in_loop = p->in_loop;
    if (jparse_target(p, true, &node->a) < 0)
        return -1;
    if (!jparse_skip_name(p, "in"))
        return jparse_expected(p, "'in'");
    if (jparse_tuple(p, JTUPLE_NO_COND, "recursive", &node->b) < 0)
        return -1;
    p->soft = false;
    if (jparse_skip_name(p, "if") && jparse_expression(p, true, &node->c) < 0)
        return -1;
    node->flag = jparse_skip_name(p, "recursive");
    p->in_loop = true;
    if (jparse_block(p, ends, &node->body) < 0)
        return -1;
    p->in_loop = in_loop;
    if (jparse_is_name(p->tok++, "else")) {
        if (jparse_block(p, last, &node->orelse) < 0)
            return -1;
        p->tok++;
    }
    p->soft = soft;
    return 0;
}

static int jparse_set(struct jparse *p, struct jnode *node)
{
    if (jparse_target(p, false, &node->a) < 0)
        return -1;
    if (jparse_skip(p, JT_ASSIGN))
        return jparse_tuple(p, JTUPLE_PLAIN, NULL, &node->b);
    node->kind = JS_SET_BLOCK;
    return jparse_filters(p, &node->b) < 0 ? -1 : jparse_scoped_block(p, "endset", p->in_loop, &node->body);
}

/* (a, b=1) of a macro or call block. */
static int jparse_signature(struct jparse *p, struct jmacro_def *def)
{
    size_t cap = 0;
    if (jparse_expect(p, JT_LPAREN, "'('") < 0)
        return -1;
    while (p->tok->type != JT_RPAREN) {
        if (def->n_args > 0 && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (def->n_args == cap) {
            cap = cap == 0 ? 8 : cap * 2;
            uint32_t *ids = jparse_alloc(p, cap * sizeof *ids);
            const struct jstr **names = jparse_alloc(p, cap * sizeof *names);
            struct jnode **defaults = jparse_alloc(p, cap * sizeof *defaults);
            if (ids == NULL || names == NULL || defaults == NULL)
                return -1;
            if (def->n_args > 0) {
                memcpy(ids, def->arg_ids, def->n_args * sizeof *ids);
                memcpy(names, def->arg_names, def->n_args * sizeof *names);
                memcpy(defaults, def->defaults, def->n_args * sizeof *defaults);
            }
            def->arg_ids = ids;
            def->arg_names = names;
            def->defaults = defaults;
        }
        const struct jtoken *t = p->tok;
        size_t i = def->n_args;
        if (t->type != JT_NAME)
            return jparse_expected(p, "an argument's name");
        p->tok++;
        if (jparse_intern(p, t->p, t->n, &def->arg_ids[i]) < 0)
            return -1;
        def->arg_names[i] = p->tmpl->names[def->arg_ids[i]];
        for (size_t k = 0; k < i; k++)
            if (def->arg_ids[k] == def->arg_ids[i])
                return jparse_fail(p, t->line, ERR_FORMAT, "the argument '%s' stands twice", def->arg_names[i]->p);
        if (jparse_skip(p, JT_ASSIGN)) {
            if (jparse_expression(p, true, &def->defaults[i]) < 0)
                return -1;
        } else if (i > 0 && def->defaults[i - 1] != NULL) {
            return jparse_fail(p, t->line, ERR_FORMAT, "an argument without a default follows one with a default");
        }
        def->n_args++;
    }
    p->tok++;
    return 0;
}

/* The body of a macro or call block; works out which of caller, kwargs and varargs it uses without naming them as arguments. */
static int jparse_macro_body(struct jparse *p, struct jmacro_def *def, const char *end, int line)
{
    struct jparse_macro here = {.outer = p->macro, .def = def};
    p->macro = &here;
    int rc = jparse_scoped_block(p, end, false, &def->body);
    p->macro = here.outer;
    if (rc < 0)
        return -1;
    for (size_t i = 0; i < def->n_args; i++) {
        if (def->arg_ids[i] == p->tmpl->id_caller) {
            if (def->uses_caller && def->defaults[i] == NULL)
                return jparse_fail(p, line, ERR_FORMAT, "an argument named 'caller' needs a default");
            def->caller_is_arg = true;
        }
        if (def->arg_ids[i] == p->tmpl->id_kwargs)
            def->uses_kwargs = false;
        if (def->arg_ids[i] == p->tmpl->id_varargs)
            def->uses_varargs = false;
    }
    return 0;
}

static int jparse_macro(struct jparse *p, struct jnode *node)
{
    struct jmacro_def *def = jparse_alloc(p, sizeof *def);
    const struct jtoken *t = p->tok;
    if (def == NULL)
        return -1;
    if (t->type != JT_NAME)
        return jparse_expected(p, "the macro's name");
    p->tok++;
    if (jparse_intern(p, t->p, t->n, &node->name) < 0)
        return -1;
    def->name = p->tmpl->names[node->name];
    node->macro = def;
    return jparse_signature(p, def) < 0 ? -1 : jparse_macro_body(p, def, "endmacro", node->line);
}

static int jparse_call_block(struct jparse *p, struct jnode *node)
{
    struct jmacro_def *def = jparse_alloc(p, sizeof *def);
    if (def == NULL)
        return -1;
    node->macro = def;
    if (p->tok->type == JT_LPAREN && jparse_signature(p, def) < 0)
        return -1;
    if (jparse_expression(p, true, &node->a) < 0)
        return -1;
    if (node->a->kind != JX_CALL)
        return jparse_fail(p, node->line, ERR_FORMAT, "a call block needs a call");
    return jparse_macro_body(p, def, "endcall", node->line);
}

static int jparse_filter_block(struct jparse *p, struct jnode *node)
{
    if (jparse_one_filter(p, NULL, &node->a) < 0 || jparse_filters(p, &node->a) < 0)
        return -1;
    return jparse_scoped_block(p, "endfilter", p->in_loop, &node->body);
}

static int jparse_with(struct jparse *p, struct jnode *node)
{
    while (p->tok->type != JT_BLOCK_END) {
        struct jnode *target, *value;
        if (node->kids.n > 0 && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (jparse_target(p, true, &target) < 0 || jparse_expect(p, JT_ASSIGN, "'='") < 0 || jparse_expression(p, true, &value) < 0)
            return -1;
        if (jparse_push(p, &node->kids, target) < 0 || jparse_push(p, &node->kids, value) < 0)
            return -1;
    }
    return jparse_scoped_block(p, "endwith", p->in_loop, &node->body);
}

static int jparse_print(struct jparse *p, struct jnode *node)
{
    struct jnode *all = jparse_node(p, JX_CONCAT, node->line), *part;
    if (all == NULL)
        return -1;
    node->a = all;
    while (p->tok->type != JT_BLOCK_END) {
        if (all->kids.n > 0 && jparse_expect(p, JT_COMMA, "','") < 0)
            return -1;
        if (jparse_expression(p, true, &part) < 0 || jparse_push(p, &all->kids, part) < 0)
            return -1;
    }
    return 0;
}

static int jparse_generation(struct jparse *p, struct jnode *node)
{
    return jparse_scoped_block(p, "endgeneration", false, &node->body);
}

static int jparse_loop_control(struct jparse *p, struct jnode *node)
{
    if (!p->in_loop)
        return jparse_fail(p, node->line, ERR_FORMAT, "'%s' outside of a loop", node->kind == JS_BREAK ? "break" : "continue");
    return 0;
}

static int jparse_statement(struct jparse *p, struct jnode **out)
{
    static const struct {
        const char *tag;
        enum jkind kind;
        int (*parse)(struct jparse *p, struct jnode *node); /* NULL: jinja2 has it, we refuse it */
    } statements[] = {{"if", JS_IF, jparse_if}, {"for", JS_FOR, jparse_for}, {"set", JS_SET, jparse_set}, {"macro", JS_MACRO, jparse_macro},
                      {"call", JS_CALL, jparse_call_block}, {"filter", JS_FILTER, jparse_filter_block}, {"with", JS_WITH, jparse_with},
                      {"print", JS_PRINT, jparse_print}, {"generation", JS_SCOPE, jparse_generation}, {"break", JS_BREAK, jparse_loop_control},
                      {"continue", JS_CONTINUE, jparse_loop_control}, {"block", JS_SCOPE, NULL}, {"extends", JS_SCOPE, NULL},
                      {"include", JS_SCOPE, NULL}, {"import", JS_SCOPE, NULL}, {"from", JS_SCOPE, NULL}, {"autoescape", JS_SCOPE, NULL}};
    if (p->tok->type != JT_NAME)
        return jparse_expected(p, "a statement");
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!jparse_is_name(p->tok, statements[i].tag))
            continue;
        if (statements[i].parse == NULL)
            return jparse_fail(p, p->tok->line, ERR_UNSUPPORTED, "the statement '%s' is not supported", statements[i].tag);
        struct jnode *node = jparse_node(p, statements[i].kind, p->tok->line);
        if (node == NULL || jparse_enter(p) < 0)
            return -1;
        p->tok++;
        if (statements[i].parse(p, node) < 0)
            return -1;
        jparse_leave(p);
        *out = node;
        return 0;
    }
    char scratch[80];
    return jparse_fail(p, p->tok->line, ERR_FORMAT, "unknown or misplaced statement %s", jlex_describe(p->tok, scratch, sizeof scratch));
}

int jparse_run(struct chat_template *t, const struct jtokens *tokens, struct err *err)
{
    struct jparse p = {.tmpl = t, .tok = tokens->v, .err = err};
    if (jparse_intern(&p, "loop", 4, &t->id_loop) < 0 || jparse_intern(&p, "caller", 6, &t->id_caller) < 0 ||
        jparse_intern(&p, "kwargs", 6, &t->id_kwargs) < 0 || jparse_intern(&p, "varargs", 7, &t->id_varargs) < 0)
        return -1;
    return jparse_body(&p, NULL, 1, &t->body);
}

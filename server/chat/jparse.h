/* jparse.h: what the two halves of the parser share: statements in jparse.c, expressions in jparse_expr.c. */
#ifndef NEXTD_CHAT_JPARSE_H
#define NEXTD_CHAT_JPARSE_H

#include "server/chat/jsyntax.h"

#define JPARSE_MAX_DEPTH 120
#define JPARSE_MAX_NAMES 4096 /* they are looked up one by one */

/* A macro or call block whose body is being parsed. */
struct jparse_macro {
    struct jparse_macro *outer;
    struct jmacro_def *def;
};

struct jparse {
    struct chat_template *tmpl;
    const struct jtoken *tok; /* the current token; [1] is there unless this is JT_EOF */
    struct jparse_macro *macro;
    int depth;
    bool soft;    /* inside an if (and no deeper scope): unknown filters and tests are errors only when reached, as in jinja2 */
    const struct jnode *unknown; /* the first unknown filter or test outside of any condition; refused when its statement ends */
    bool in_loop; /* break and continue mean something */
    struct err *err;
};

int jparse_fail(struct jparse *p, int line, enum err_code code, const char *format, ...) __attribute__((format(printf, 4, 5)));
int jparse_expected(struct jparse *p, const char *what); /* "expected <what>, got <token>" */
void *jparse_alloc(struct jparse *p, size_t n);          /* cleared; NULL with the error set */
struct jnode *jparse_node(struct jparse *p, enum jkind kind, int line);
int jparse_push(struct jparse *p, struct jnodes *list, struct jnode *node);
int jparse_enter(struct jparse *p);
void jparse_leave(struct jparse *p);
bool jparse_is_name(const struct jtoken *t, const char *name);
bool jparse_skip(struct jparse *p, enum jtoken_type type);
bool jparse_skip_name(struct jparse *p, const char *name);
int jparse_expect(struct jparse *p, enum jtoken_type type, const char *what);
const struct jstr *jparse_str(struct jparse *p, const char *s, size_t n);
int jparse_intern(struct jparse *p, const char *s, size_t n, uint32_t *id);
int jparse_name(struct jparse *p, const struct jtoken *t, struct jnode **out); /* JX_NAME; notes the use of caller, kwargs, varargs */

/* Expressions; *out is set on success. */
int jparse_expression(struct jparse *p, bool with_cond, struct jnode **out);
enum jparse_tuple { JTUPLE_PLAIN, JTUPLE_NO_COND, JTUPLE_PARENS };
/* A tuple, or the one expression where there is no comma. end_name (may be NULL) is a name that also ends it. */
int jparse_tuple(struct jparse *p, enum jparse_tuple mode, const char *end_name, struct jnode **out);
/* for_target: up to `in`, no namespace attributes. */
int jparse_target(struct jparse *p, bool for_target, struct jnode **out);
int jparse_postfix(struct jparse *p, struct jnode **node);
int jparse_call_args(struct jparse *p, struct jargs **out);
/* One filter name with arguments, the current token being the name. */
int jparse_one_filter(struct jparse *p, struct jnode *input, struct jnode **out);
/* "|name(args)" as often as it stands there. */
int jparse_filters(struct jparse *p, struct jnode **node);

#endif

/* jeval.h: evaluating expressions and running statements. Expressions in jeval.c, statements, loops and macros in jexec.c. */
#ifndef NEXTD_CHAT_JEVAL_H
#define NEXTD_CHAT_JEVAL_H

#include "server/chat/jiter.h"
#include "server/chat/jstr.h"
#include "server/chat/jsyntax.h"

struct jvar {
    uint32_t name;
    struct jval value;
};

/* Variables of one block; a lookup goes outwards. The outermost holds the request's variables. */
struct jscope {
    struct jscope *parent;
    struct jvar *v;
    size_t n, cap;
};

struct jscope *jscope_new(struct jrun *r, struct jscope *parent);
int jscope_set(struct jrun *r, struct jscope *sc, uint32_t name, struct jval v);
const struct jval *jscope_get(const struct jscope *sc, uint32_t name); /* NULL if it is nowhere */

struct jmacro {
    const struct jmacro_def *def;
    struct jscope *scope; /* where it was defined */
};

/* The arguments of one call, evaluated. */
struct jcall {
    struct jval *v;
    size_t n;
    const struct jstr **kw_names;
    struct jval *kw;
    size_t n_kw;
};

/* Puts arguments in the order of names: the first n_required must be given; given[i] tells which are (may be NULL with all required). */
int jcall_bind(struct jrun *r, const struct jcall *call, const char *what, const char *const *names, size_t n_required, size_t n_names,
               struct jval *out, bool *given);

enum jfunc { JFUNC_RANGE, JFUNC_DICT, JFUNC_NAMESPACE, JFUNC_RAISE, JFUNC_NOW };

int jeval(struct jrun *r, struct jscope *sc, const struct jnode *node, struct jval *out);
/* a chain; input for its start */
int jeval_filter(struct jrun *r, struct jscope *sc, const struct jnode *node, const struct jval *input, struct jval *out);
int jcall_value(struct jrun *r, const struct jval *callee, const struct jcall *call, struct jval *out);
int jcall_macro(struct jrun *r, const struct jmacro *m, const struct jcall *call, struct jval *out);
int jcall_func(struct jrun *r, uint8_t func, const struct jcall *call, struct jval *out);
bool jfunc_lookup(const struct jstr *name, struct jval *out);
/* caller is the call block's macro, or NULL. */
int jeval_call(struct jrun *r, struct jscope *sc, const struct jnode *node, const struct jval *caller, struct jval *out);

enum jexec { JEXEC_BREAK = 1, JEXEC_CONTINUE = 2 };
/* 0, -1 or what left the body: enum jexec. */
int jexec_body(struct jrun *r, struct jscope *sc, const struct jnodes *body, struct jbuild *out);
int jexec_assign(struct jrun *r, struct jscope *sc, const struct jnode *target, const struct jval *v);
int jexec_loop_recurse(struct jrun *r, struct jloop *l, const struct jcall *call, struct jval *out);

/* jattr.c */
int jattr_get(struct jrun *r, const struct jval *object, const struct jstr *name, struct jval *out);   /* object.name */
int jattr_item(struct jrun *r, const struct jval *object, const struct jval *index, struct jval *out); /* object[index] */
int jattr_slice(struct jrun *r, const struct jval *object, const struct jval part[3], struct jval *out);
/* jmethod.c */
bool jmethod_find(const struct jval *self, const struct jstr *name, uint16_t *id);
int jmethod_call(struct jrun *r, const struct jmethod *m, const struct jcall *call, struct jval *out);

/* jop.c: operators, str() and repr() */
int jop_binary(struct jrun *r, uint16_t op, const struct jval *a, const struct jval *b, struct jval *out);
int jop_negate(struct jrun *r, const struct jval *a, bool minus, struct jval *out);
int jop_compare(struct jrun *r, enum jcompare_op op, const struct jval *a, const struct jval *b, bool *out);
int jop_concat(struct jrun *r, const struct jval *v, size_t n, struct jval *out); /* a ~ b ~ c */

/* jtext.c */
int jtext_str(struct jrun *r, struct jbuild *b, const struct jval *v);  /* str(v) */
int jtext_repr(struct jrun *r, struct jbuild *b, const struct jval *v); /* repr(v) */
int jtext_of(struct jrun *r, const struct jval *v, struct jstr **out);  /* str(v), flat */
size_t jtext_float(double f, char out[40]);                             /* repr(f) */
bool jtext_trusted(const struct jval *v);                               /* what is printed from a scalar v */
int jtext_escape(struct jrun *r, struct jbuild *b, struct jstr *s);     /* HTML, as markupsafe */
int jtext_markup(struct jrun *r, const struct jval *v, struct jstr **out); /* escape(v): as it is if it is markup already */

/* jformat.c */
int jformat_percent(struct jrun *r, struct jstr *format, const struct jval *arg, struct jval *out);
int jformat_braces(struct jrun *r, struct jstr *format, const struct jcall *call, struct jval *out);

/* jjson.c */
int jjson_dump(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out); /* the tojson filter */
/* jtime.c */
int jtime_format(struct jrun *r, const struct jval *format, struct jval *out);

/* jfilter.c, jfilter_seq.c, jtest.c */
int jfilter_call(struct jrun *r, uint16_t filter, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_call_named(struct jrun *r, const struct jval *name, const struct jval *in, const struct jcall *call, struct jval *out);
int jtest_call(struct jrun *r, uint16_t test, const struct jval *in, const struct jcall *call, bool *out);
int jtest_call_named(struct jrun *r, const struct jval *name, const struct jval *in, const struct jcall *call, bool *out);

#endif

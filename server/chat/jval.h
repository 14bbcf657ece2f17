/* jval.h: what a chat template computes with: Python's values as jinja2 shows them, in one render's arena.
 *
 * Every value belongs to one render (or, for constants, to the compiled template) and is never freed alone. Strings know the provenance of every
 * byte: `trusted` bytes were written by the template, the others came with the request. Scalars and containers carry the same bit, so that a number
 * or a bracket printed from a request stays untrusted. Integers are 64 bits wide (Python's are unbounded); an overflow is an error, never a wrong
 * number.
 *
 * jrun is the state of one render: memory, fuel, depth, the line being evaluated, the error. Every fallible function returns 0 or -1 with the error
 * set; lists and dicts are immutable once a template can see them, as in jinja2's immutable sandbox. */
#ifndef NEXTD_CHAT_JVAL_H
#define NEXTD_CHAT_JVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"
#include "server/arena.h"
#include "server/chat/chat_template.h"

enum jtype {
    J_UNDEF, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STR, J_LIST, J_TUPLE, J_DICT,
    J_RANGE,   /* range(a, b, c) */
    J_VIEW,    /* dict.keys(), .values(), .items(); `sub` says which */
    J_ITER,    /* a generator: may be walked once */
    J_NS,      /* namespace() */
    J_MACRO, J_METHOD, J_FUNC, J_LOOP
};

enum jview { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS };

struct jstr;
struct jseq;
struct jdict;
struct jiter;
struct jmacro;
struct jmethod;
struct jloop;
struct jundef;
struct jrange;

struct jval {
    uint8_t type;  /* enum jtype */
    uint8_t sub;   /* J_VIEW: enum jview; J_FUNC: enum jfunc */
    bool trusted;  /* of a scalar's or container's own bytes; a string keeps its own runs */
    union {
        bool b;
        int64_t i;
        double f;
        struct jstr *s;
        struct jseq *seq;
        struct jdict *dict; /* J_DICT, J_VIEW, J_NS */
        struct jrange *range;
        struct jiter *iter;
        struct jmacro *macro;
        struct jmethod *method;
        struct jloop *loop;
        struct jundef *undef;
    } u;
};

/* Why a value is undefined, for the message when it is used: "'x' is undefined", "'dict' has no attribute 'x'", or the hint. */
struct jundef {
    const char *hint;        /* whole message, or NULL */
    const struct jstr *name; /* NULL with a hint */
    bool of_object;
    uint8_t object_type;
};

struct jseq {
    struct jval *v;
    size_t n, cap;
    bool group; /* a tuple of groupby: has .grouper and .list */
};

struct jpair {
    struct jval key, value;
    uint64_t hash;
};

/* Insertion order, Python's equality of keys (1 == 1.0 == True). */
struct jdict {
    struct jpair *v;
    size_t n, cap;
    uint32_t *slots; /* open addressing, entry index + 1; NULL while small */
    size_t n_slots;  /* a power of two */
};

struct jrange {
    int64_t start, step, n;
};

struct jmethod {
    struct jval self;
    uint16_t id; /* enum jmethod_id */
};

struct jrun {
    struct arena *arena;
    struct err *err;
    const struct chat_template *tmpl;
    uint64_t steps_left;
    int depth, max_depth;
    size_t max_bytes; /* of any one string, and of the output */
    int line;         /* of the construct being evaluated */
    int64_t now_s;
    bool used_now;
};

/* Errors and limits. jrun_fail formats "chat template, line N: ..." as ERR_INVALID and returns -1. */
int jrun_fail(struct jrun *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
int jrun_unsupported(struct jrun *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
int jrun_spend(struct jrun *r, uint64_t steps);
int jrun_spend_bytes(struct jrun *r, size_t n); /* work proportional to n bytes */
int jrun_spend_search(struct jrun *r, size_t n, size_t n_needle); /* a search backwards, whose worst case is the product */
int jrun_enter(struct jrun *r);                 /* one level deeper; pair with jrun_leave on success */
void jrun_leave(struct jrun *r);
void *jrun_alloc(struct jrun *r, size_t n);     /* not cleared; NULL with the error set */

/* Scalars. */
static inline struct jval jval_none(void) { return (struct jval){.type = J_NONE, .trusted = true}; }
static inline struct jval jval_bool(bool b) { return (struct jval){.type = J_BOOL, .trusted = true, .u.b = b}; }
static inline struct jval jval_int(int64_t i, bool trusted) { return (struct jval){.type = J_INT, .trusted = trusted, .u.i = i}; }
static inline struct jval jval_float(double f, bool trusted) { return (struct jval){.type = J_FLOAT, .trusted = trusted, .u.f = f}; }
static inline struct jval jval_str(struct jstr *s) { return (struct jval){.type = J_STR, .u.s = s}; }
struct jval jval_undef(struct jrun *r, const struct jstr *name);                              /* "'name' is undefined" */
struct jval jval_undef_attr(struct jrun *r, uint8_t object_type, const struct jstr *name);    /* "'dict' has no attribute 'name'" */
struct jval jval_undef_hint(struct jrun *r, const char *hint);                                /* hint outlives the render */
int jval_fail_undef(struct jrun *r, const struct jval *v);                                    /* using an undefined value */

const char *jval_type_name(uint8_t type); /* Python's: "str", "NoneType" */
bool jval_is_number(const struct jval *v); /* bool, int, float */
int jval_truth(struct jrun *r, const struct jval *v, bool *out);
int jval_length(struct jrun *r, const struct jval *v, int64_t *out);
int jval_equal(struct jrun *r, const struct jval *a, const struct jval *b, bool *out);
/* <0, 0, >0 by Python's `<`; values that Python does not order are an error naming `op`. A NaN compares as unordered: *unordered. */
int jval_compare(struct jrun *r, const struct jval *a, const struct jval *b, const char *op, int *out, bool *unordered);
/* `item in container`. */
int jval_contains(struct jrun *r, const struct jval *container, const struct jval *item, bool *out);
/* An index or count: int or bool. */
int jval_index(struct jrun *r, const struct jval *v, int64_t *out);
double jval_as_double(const struct jval *v); /* of a number */

/* Sequences under construction. */
struct jseq *jseq_new(struct jrun *r, size_t cap);
int jseq_push(struct jrun *r, struct jseq *s, struct jval v);
static inline struct jval jval_seq(enum jtype type, struct jseq *s, bool trusted)
{
    return (struct jval){.type = (uint8_t)type, .trusted = trusted, .u.seq = s};
}
int jval_pair(struct jrun *r, struct jval a, struct jval b, bool trusted, struct jval *out); /* a tuple of two */

struct jdict *jdict_new(struct jrun *r);
int jdict_set(struct jrun *r, struct jdict *d, struct jval key, struct jval value); /* a key of an unhashable type is an error */
/* *out is NULL when there is no such key. */
int jdict_get(struct jrun *r, const struct jdict *d, const struct jval *key, struct jval **out);
struct jval *jdict_get_str(const struct jdict *d, const char *p, size_t n);
static inline struct jval jval_dict(struct jdict *d, bool trusted) { return (struct jval){.type = J_DICT, .trusted = trusted, .u.dict = d}; }

#endif

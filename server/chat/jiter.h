/* jiter.h: walking values. An iterator is lazy, as Python's are: what a template never takes is never computed. Loops keep the item before and, when
 * a template asks for it, the item after. */
#ifndef NEXTD_CHAT_JITER_H
#define NEXTD_CHAT_JITER_H

#include "server/chat/jval.h"

struct jiter {
    int (*next)(struct jrun *r, struct jiter *it, struct jval *out); /* 1 with *out, 0 at the end, -1 on error */
    struct jval source;   /* what is walked */
    struct jiter *inner;  /* of an iterator over an iterator */
    void *ctx;            /* of whoever made it */
    size_t at;
};

/* Fails if v cannot be walked. A generator is its own iterator. */
int jiter_open(struct jrun *r, const struct jval *v, struct jiter **out);
struct jiter *jiter_new(struct jrun *r, int (*next)(struct jrun *, struct jiter *, struct jval *), struct jiter *inner, void *ctx);
int jiter_next(struct jrun *r, struct jiter *it, struct jval *out);
int jiter_open_reversed(struct jrun *r, const struct jval *v, struct jiter **out); /* of a sequence or dict; fails for others */
bool jiter_can_walk(const struct jval *v);
bool jiter_can_reverse(const struct jval *v);
/* All that is left, as a new sequence. */
int jiter_collect(struct jrun *r, const struct jval *v, struct jseq **out);
static inline struct jval jval_iter(struct jiter *it, bool trusted) { return (struct jval){.type = J_ITER, .trusted = trusted, .u.iter = it}; }
/* The i-th of a range, for lists of them too. */
static inline int64_t jrange_at(const struct jrange *range, int64_t i) { return range->start + i * range->step; }

struct jnode;
struct jscope;

struct jloop {
    struct jval iterable;
    struct jiter *it;
    struct jval before, current, after;
    bool has_after;
    int64_t index0, length; /* length < 0: not known yet */
    int64_t depth0;
    bool has_changed;
    struct jval changed;       /* the tuple that loop.changed saw last */
    const struct jnode *node;  /* of a recursive loop; NULL otherwise */
    struct jscope *scope;
};

int jloop_open(struct jrun *r, const struct jval *iterable, struct jiter *it, struct jloop **out);
int jloop_next(struct jrun *r, struct jloop *l, struct jval *out);   /* as an iterator's next */
int jloop_peek(struct jrun *r, struct jloop *l, bool *has, struct jval *out);
int jloop_length(struct jrun *r, struct jloop *l, int64_t *out);

#endif

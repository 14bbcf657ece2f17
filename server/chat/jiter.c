/* jiter.c: iterators over every kind of value, and the loop's own. See jiter.h. */
#include "server/chat/jiter.h"

#include "server/chat/jstr.h"
#include "server/chat/juni.h"

static int jiter_next_nothing(struct jrun *r, struct jiter *it, struct jval *out)
{
    (void)r, (void)it, (void)out;
    return 0;
}

static int jiter_next_seq(struct jrun *r, struct jiter *it, struct jval *out)
{
    (void)r;
    if (it->at >= it->source.u.seq->n)
        return 0;
    *out = it->source.u.seq->v[it->at++];
    return 1;
}

static int jiter_next_char(struct jrun *r, struct jiter *it, struct jval *out)
{
    const struct jstr *s = it->source.u.s;
    if (it->at >= s->n)
        return 0;
    size_t n = juni_length(s->p + it->at, s->n - it->at);
    struct jstr *c = jstr_sub(r, s, it->at, it->at + n);
    if (c == NULL)
        return -1;
    it->at += n;
    *out = jval_str(c);
    return 1;
}

static int jiter_pair_at(struct jrun *r, const struct jval *source, size_t i, struct jval *out)
{
    const struct jpair *pair = &source->u.dict->v[i];
    if (source->type == J_VIEW && source->sub == JVIEW_ITEMS)
        return jval_pair(r, pair->key, pair->value, source->trusted, out);
    *out = source->type == J_VIEW && source->sub == JVIEW_VALUES ? pair->value : pair->key;
    return 0;
}

static int jiter_next_pair(struct jrun *r, struct jiter *it, struct jval *out)
{
    if (it->at >= it->source.u.dict->n)
        return 0;
    return jiter_pair_at(r, &it->source, it->at++, out) < 0 ? -1 : 1;
}

static int jiter_next_range(struct jrun *r, struct jiter *it, struct jval *out)
{
    (void)r;
    const struct jrange *range = it->source.u.range;
    if ((int64_t)it->at >= range->n)
        return 0;
    *out = jval_int(jrange_at(range, (int64_t)it->at++), it->source.trusted);
    return 1;
}

static int jiter_next_loop(struct jrun *r, struct jiter *it, struct jval *out)
{
    return jloop_next(r, it->source.u.loop, out);
}

/* Backwards; `at` counts what is left. */
static int jiter_next_back(struct jrun *r, struct jiter *it, struct jval *out)
{
    if (it->at == 0)
        return 0;
    size_t i = --it->at;
    const struct jval *v = &it->source;
    switch (v->type) {
    case J_STR: {
        size_t n = juni_length_before(v->u.s->p, i + 1);
        struct jstr *c = jstr_sub(r, v->u.s, i + 1 - n, i + 1);
        if (c == NULL)
            return -1;
        it->at = i + 1 - n;
        *out = jval_str(c);
        return 1;
    }
    case J_RANGE: *out = jval_int(jrange_at(v->u.range, (int64_t)i), v->trusted); return 1;
    case J_DICT: case J_VIEW: return jiter_pair_at(r, v, i, out) < 0 ? -1 : 1;
    default: *out = v->u.seq->v[i]; return 1;
    }
}

struct jiter *jiter_new(struct jrun *r, int (*next)(struct jrun *, struct jiter *, struct jval *), struct jiter *inner, void *ctx)
{
    struct jiter *it = jrun_alloc(r, sizeof *it);
    if (it != NULL)
        *it = (struct jiter){.next = next, .inner = inner, .ctx = ctx};
    return it;
}

bool jiter_can_walk(const struct jval *v)
{
    switch (v->type) {
    case J_UNDEF: case J_STR: case J_LIST: case J_TUPLE: case J_DICT: case J_RANGE: case J_VIEW: case J_ITER: case J_LOOP: return true;
    default: return false;
    }
}

bool jiter_can_reverse(const struct jval *v)
{
    return v->type == J_STR || v->type == J_LIST || v->type == J_TUPLE || v->type == J_DICT || v->type == J_VIEW || v->type == J_RANGE;
}

int jiter_open(struct jrun *r, const struct jval *v, struct jiter **out)
{
    int (*next)(struct jrun *, struct jiter *, struct jval *);
    switch (v->type) {
    case J_ITER: *out = v->u.iter; return 0;
    case J_UNDEF: next = jiter_next_nothing; break;
    case J_STR:
        if (jstr_flat(r, v->u.s) < 0)
            return -1;
        next = jiter_next_char;
        break;
    case J_LIST: case J_TUPLE: next = jiter_next_seq; break;
    case J_DICT: case J_VIEW: next = jiter_next_pair; break;
    case J_RANGE: next = jiter_next_range; break;
    case J_LOOP: next = jiter_next_loop; break;
    default: return jrun_fail(r, "'%s' object is not iterable", jval_type_name(v->type));
    }
    struct jiter *it = jiter_new(r, next, NULL, NULL);
    if (it == NULL)
        return -1;
    it->source = *v;
    *out = it;
    return 0;
}

int jiter_open_reversed(struct jrun *r, const struct jval *v, struct jiter **out)
{
    if (!jiter_can_reverse(v))
        return jrun_fail(r, "'%s' object is not reversible", jval_type_name(v->type));
    if (v->type == J_STR && jstr_flat(r, v->u.s) < 0)
        return -1;
    struct jiter *it = jiter_new(r, jiter_next_back, NULL, NULL);
    if (it == NULL)
        return -1;
    it->source = *v;
    switch (v->type) {
    case J_STR: it->at = v->u.s->n; break;
    case J_RANGE: it->at = (size_t)v->u.range->n; break;
    case J_DICT: case J_VIEW: it->at = v->u.dict->n; break;
    default: it->at = v->u.seq->n;
    }
    *out = it;
    return 0;
}

int jiter_next(struct jrun *r, struct jiter *it, struct jval *out)
{
    if (jrun_spend(r, 1) < 0 || jrun_enter(r) < 0) /* iterators stand on iterators: map of map of map */
        return -1;
    int rc = it->next(r, it, out);
    if (rc >= 0)
        jrun_leave(r);
    return rc;
}

int jiter_collect(struct jrun *r, const struct jval *v, struct jseq **out)
{
    struct jiter *it;
    struct jval item;
    struct jseq *s;
    int rc;
    if (jiter_open(r, v, &it) < 0 || (s = jseq_new(r, 0)) == NULL)
        return -1;
    while ((rc = jiter_next(r, it, &item)) > 0)
        if (jseq_push(r, s, item) < 0)
            return -1;
    if (rc == 0)
        *out = s;
    return rc;
}

/* ---- loops ---------------------------------------------------------------------------------------------------------------------------------- */

int jloop_open(struct jrun *r, const struct jval *iterable, struct jiter *it, struct jloop **out)
{
    struct jloop *l = jrun_alloc(r, sizeof *l);
    if (l == NULL)
        return -1;
    *l = (struct jloop){.iterable = *iterable, .it = it, .index0 = -1, .length = -1};
    *out = l;
    return 0;
}

int jloop_peek(struct jrun *r, struct jloop *l, bool *has, struct jval *out)
{
    if (!l->has_after) {
        int rc = jiter_next(r, l->it, &l->after);
        if (rc < 0)
            return -1;
        l->has_after = rc > 0;
    }
    *has = l->has_after;
    if (l->has_after)
        *out = l->after;
    return 0;
}

int jloop_next(struct jrun *r, struct jloop *l, struct jval *out)
{
    struct jval v;
    if (l->has_after) {
        v = l->after;
        l->has_after = false;
    } else {
        int rc = jiter_next(r, l->it, &v);
        if (rc <= 0)
            return rc;
    }
    l->index0++;
    l->before = l->current;
    l->current = v;
    *out = v;
    return 1;
}

int jloop_length(struct jrun *r, struct jloop *l, int64_t *out)
{
    if (l->length < 0 && l->iterable.type != J_ITER) {
        if (jval_length(r, &l->iterable, &l->length) < 0)
            return -1;
    } else if (l->length < 0) { /* a generator: take all of it, then walk that */
        struct jval rest = jval_iter(l->it, true);
        struct jseq *s;
        if (jiter_collect(r, &rest, &s) < 0)
            return -1;
        rest = jval_seq(J_LIST, s, true);
        if (jiter_open(r, &rest, &l->it) < 0)
            return -1;
        l->length = (int64_t)s->n + l->index0 + 1 + l->has_after;
    }
    *out = l->length;
    return 0;
}

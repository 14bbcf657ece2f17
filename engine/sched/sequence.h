/* sequence.h: one stream of tokens and how much of it the KV pages hold.
 *
 * A step may be launched before the token that the one before it drew has come to the host. Such a token is pending: tokens[] has ~slot in its place,
 * which says where the device keeps it (batch.h). Only the newest tokens of a running sequence can be pending.
 *
 * There is no prefill and no decode: a sequence has n_tokens and n_computed, and the scheduler closes the gap. The memory of tokens and pages belongs
 * to whoever created the sequence; scheduler.c owns the meaning of every other field while the sequence is with it. */
#ifndef NEXTD_SEQUENCE_H
#define NEXTD_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/batch.h"

enum seq_state { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING, SEQ_DONE };

struct seq {
    /* Set by the creator before sched_add. */
    uint64_t scope;     /* whose prefix pages may be shared */
    int32_t *tokens;    /* [cap] prompt, then output; below 0: pending */
    int cap;            /* most tokens ever */
    int32_t *pages;     /* [ceil(cap / KV_PAGE)] */
    int n_prompt;
    int n_tokens;       /* known or pending: n_prompt at first */
    int n_to_score;     /* positions 0 .. n_to_score-1 whose logits are wanted (echo, prompt logprobs) */
    bool wants_next;    /* the logits of the newest token are wanted */
    struct seq *leader; /* computes the same prompt first, or NULL; outlives this sequence's waiting */
    void *owner;

    /* Kept by the scheduler. */
    enum seq_state state;
    uint64_t order;     /* of arrival: smaller is older */
    bool paused;
    int n_computed;     /* positions 0 .. n_computed-1 are in the pages, or will be when what was launched has landed */
    int n_scored;       /* positions 0 .. n_scored-1 of those to score are done, likewise */
    int n_pages;        /* pages held */
    int n_published;    /* leading pages that are nodes of the prefix cache */
    int n_cached;       /* prompt tokens that the cache or the leader gave at the first admission */
    bool was_admitted;
    struct seq *prev, *next; /* waiting list */
};

/* Zeroes the scheduler's part. */
void seq_init(struct seq *s);

/* A token is drawn, or ~slot while it is pending: it becomes the newest. */
void seq_append(struct seq *s, int32_t token);

/* The row of the token at `pos` has to be computed again, and what was drawn from it is void. */
void seq_rewind(struct seq *s, int pos);

static inline int seq_pages_for(int n_tokens)
{
    return (n_tokens + KV_PAGE - 1) / KV_PAGE;
}

/* Positions that are to be in the pages: those of all tokens, but of the last that the sequence may have, for nothing follows it. */
static inline int seq_end(const struct seq *s)
{
    return s->n_tokens - (s->wants_next && s->n_tokens == s->cap);
}

/* Those that are not there yet. */
static inline int seq_gap(const struct seq *s)
{
    return seq_end(s) - s->n_computed;
}

/* All but the newest drawn token is computed: its next row is the next token of a stream. */
static inline bool seq_is_decoding(const struct seq *s)
{
    return s->n_tokens > s->n_prompt && seq_gap(s) == 1;
}

#endif

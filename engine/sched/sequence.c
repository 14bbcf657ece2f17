/* sequence.c: see sequence.h. */
#include "engine/sched/sequence.h"

#include <assert.h>
#include <stddef.h>

void seq_init(struct seq *s)
{
    s->state = SEQ_NEW;
    s->order = 0;
    s->paused = false;
    s->n_computed = s->n_scored = s->n_pages = s->n_published = s->n_cached = 0;
    s->was_admitted = false;
    s->prev = s->next = NULL;
}

void seq_append(struct seq *s, int32_t token)
{
    assert(s->n_tokens < s->cap);
    assert(s->n_computed == s->n_tokens);
    s->tokens[s->n_tokens++] = token;
}

void seq_rewind(struct seq *s, int pos)
{
    assert(pos < s->n_tokens);
    assert(pos <= s->n_computed);
    assert(pos >= s->n_published * KV_PAGE);
    s->n_tokens = pos + 1;
    s->n_computed = pos;
}

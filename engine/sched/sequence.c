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

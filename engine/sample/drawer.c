/* drawer.c: as many samplers as there are threads to draw on, and rows that they take one after another.
 *
 * share() is called with one item for each sampler, and an item is "take rows until none is left". So nobody needs to know which thread runs what: a
 * sampler is in one hand at a time, and a thread that comes late finds nothing to do. */
#include "engine/sample/drawer.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MAX_SAMPLERS 8 /* each may touch 32 bytes for every token of the vocabulary */

struct drawer {
    struct runner runner;
    int n_samplers;
    struct sampler *samplers[MAX_SAMPLERS];
    struct drawer_row *rows; /* [runner.max_out] */
    const struct scores *scores; /* of the group being drawn */
    atomic_int next_row;
};

struct drawer *drawer_create(const struct runner *runner)
{
    assert(runner->n_threads >= 1);
    assert(runner->n_threads == 1 || runner->share != NULL);
    struct drawer *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->runner = *runner;
    d->rows = calloc((size_t)runner->max_out, sizeof *d->rows);
    if (d->rows == NULL)
        goto fail;
    for (; d->n_samplers < runner->n_threads && d->n_samplers < MAX_SAMPLERS; d->n_samplers++) {
        d->samplers[d->n_samplers] = sampler_create(runner->n_vocab);
        if (d->samplers[d->n_samplers] == NULL)
            goto fail;
    }
    return d;

fail:
    drawer_destroy(d);
    return NULL;
}

void drawer_destroy(struct drawer *d)
{
    if (d == NULL)
        return;
    for (int i = 0; i < d->n_samplers; i++)
        sampler_destroy(d->samplers[i]);
    free(d->rows);
    free(d);
}

struct drawer_row *drawer_rows(struct drawer *d)
{
    return d->rows;
}

static void draw_row(struct sampler *s, const struct scores *scores, int i, struct drawer_row *row)
{
    row->draw.will_score = row->n_top >= 0;
    if (row->params != NULL)
        row->id = sampler_next(s, row->params, &row->draw, scores, i);
    if (row->n_top >= 0)
        sampler_logprobs(s, scores, i, row->id, row->n_top, &row->chosen, row->top);
}

/* What sampler number `i` does. */
static void draw_rows(void *arg, int i)
{
    struct drawer *d = arg;
    for (;;) {
        int k = atomic_fetch_add_explicit(&d->next_row, 1, memory_order_relaxed);
        if (k >= d->scores->n_out)
            break;
        draw_row(d->samplers[i], d->scores, d->scores->first + k, &d->rows[k]);
    }
}

void drawer_draw(struct drawer *d, const struct scores *scores)
{
    int n = scores->n_out < d->n_samplers ? scores->n_out : d->n_samplers;
    assert(scores->n_out <= d->runner.max_out);
    d->scores = scores;
    atomic_store_explicit(&d->next_row, 0, memory_order_relaxed);
    if (n > 1)
        d->runner.share(d->runner.ctx, n, draw_rows, d);
    else
        draw_rows(d, 0);
}

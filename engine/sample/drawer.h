/* drawer.h: the rows of a group of scores to tokens and log-probabilities, several rows at once.
 *
 * Each row is sampler.h's business and knows of no other, so rows may be drawn in any order, on any thread, by any of several samplers: the results
 * wait in the rows' own places, and who applies them does so in the order he likes. Engine thread only, but for what runner.share does inside. */
#ifndef NEXTD_DRAWER_H
#define NEXTD_DRAWER_H

#include "engine/sample/sampler.h"

/* What to do with a row of scores, and what came of it. */
struct drawer_row {
    const struct sampler_params *params; /* NULL: nothing is drawn, `id` is given */
    struct sampler_draw draw;            /* will_score is set here */
    int n_top;                           /* that many log-probabilities beside id's; -1: none at all */
    int32_t id;
    struct token_logprob chosen, top[SAMPLER_MAX_TOP]; /* min(n_top, n_vocab) entries */
};

struct drawer;
/* For groups of up to runner->max_out rows. The runner's threads and share() are kept. NULL when memory is short. */
struct drawer *drawer_create(const struct runner *runner);
void drawer_destroy(struct drawer *d); /* NULL is fine */

/* The rows to fill: entry i is row scores->first + i of the group that drawer_draw is called with. */
struct drawer_row *drawer_rows(struct drawer *d);
/* Draws and scores all rows of the group. What their pointers point to must not change meanwhile. */
void drawer_draw(struct drawer *d, const struct scores *scores);

#endif

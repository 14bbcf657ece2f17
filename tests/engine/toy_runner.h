/* toy_runner.h: a runner whose KV cache is checked and whose scores betray any bookkeeping mistake.
 *
 * Each KV cell holds its token, its position and a hash chained over all cells before it, read back through the page table, as real keys and values
 * depend on all earlier positions. The logits of a row are a function of its cell's hash alone. So a wrong page, a stale cell, a lost copy or a write
 * to a shared page changes bits of the output, and mostly fails an assertion here first.
 *
 * With max_draws it is a device that draws, as late as it may: what was launched is computed when it is landed (now and then at once), in the order
 * of its coming, copies included. What a launch points to may change when it has returned; scores may be asked for as runner.h allows and no longer;
 * no launched step may write to a page that an earlier one, not landed, knows as another sequence's. Some rows it declares undecided. */
#ifndef NEXTD_TOY_RUNNER_H
#define NEXTD_TOY_RUNNER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/runner.h"
#include "engine/text/tokenizer.h"

#define TOY_VOCAB 600 /* three score blocks, the last one short */
#define TOY_BOS 0
#define TOY_EOS 1
#define TOY_EOT 2

struct toy_options {
    int n_ctx, n_pages, max_rows, max_out;
    int max_scores; /* rows of scores at once; 0: three */
    int n_threads;  /* that draw; 0: one */
    long fail_at;   /* the call of forward that fails, from 1; 0: none */
    long fail_at_group; /* the call of next_scores that fails, from 1; 0: none */
    int max_draws;  /* wanted rows in a launched step; 0: no launch and land */
    int undecided;  /* one of so many draws is; 0: none */
    long fail_at_launch, fail_at_land; /* the call that fails, from 1; 0: none */
};

#define TOY_FLIGHTS 2

struct toy {
    struct toy_options opt;
    struct toy_cell *cells; /* [n_pages * KV_PAGE] */
    float *logits;          /* [max_scores * TOY_VOCAB] */
    float *block_max;       /* [max_scores * blocks] */
    int first_score, n_scores; /* the wanted rows in logits */
    long n_forward, n_groups, n_rows, n_copies, n_shared;
    int most_rows;          /* in one step */
    struct pool *pool;

    /* Of a device that draws. */
    struct toy_flight *flights; /* [TOY_FLIGHTS] step number n is flights[n % TOY_FLIGHTS] */
    struct toy_copy *copies;    /* [n_pages] for the step that comes next */
    int n_waiting_copies;
    int32_t *slots;             /* [2 * max_draws] */
    struct sampler *sampler;
    struct sampler_counts *counts;
    struct toy_hint *hints;
    long n_launched, n_computed, n_landed;
    long n_beside, n_pending, n_undecided; /* launches beside a step in flight, rows fed from a slot, draws left to the host */
    bool is_lost;
};

struct toy *toy_create(const struct toy_options *opt);
void toy_destroy(struct toy *t);
struct runner toy_runner(struct toy *t);

/* A vocabulary of TOY_VOCAB tokens: three control tokens, single bytes (so characters are cut by tokens), short words. */
struct tokenizer *toy_tokenizer(void);

#endif

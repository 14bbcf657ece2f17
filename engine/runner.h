/* runner.h: seam A, all that the engine's step() knows of a model.
 *
 * forward() takes a batch and leaves the scores of the first wanted rows, next_scores() those of the next: a row of a large vocabulary is a megabyte,
 * so they come in groups that the runner has room for. Tests plug in a toy runner and drive the whole engine in milliseconds.
 * `scores` is not a dense matrix by contract: a consumer asks for what it needs, so that a device need not copy what nobody reads.
 * Engine thread only, but for what share() runs; everything a `scores` hands out stays valid until the next forward() or next_scores(). */
#ifndef NEXTD_RUNNER_H
#define NEXTD_RUNNER_H

#include "engine/batch.h"
#include "engine/draw.h"
#include "engine/err.h"

/* Logits whose maximum is kept together in block_max. */
#define SCORES_BLOCK 256

struct scores {
    int first;   /* these are the wanted rows first .. first + n_out - 1, */
    int n_out;   /* in the order of batch.out */
    int n_vocab; /* columns */
    void *ctx;
    /* The whole row i, first <= i < first + n_out: [n_vocab] raw f32 logits. */
    const float *(*row)(void *ctx, int i);
    /* Maxima of row i: [ceil(n_vocab / SCORES_BLOCK)], block b covering ids b * SCORES_BLOCK and up. */
    const float *(*block_max)(void *ctx, int i);
};

struct runner {
    void *ctx;
    int n_vocab;
    int n_ctx_train; /* positions that the model was trained for */
    int n_pages;     /* KV pages that batch.pages may name: 0 <= page < n_pages */
    int max_rows;    /* most rows in one batch */
    int max_out;     /* most wanted rows in one batch */
    int n_threads;   /* that share() has, the engine thread included */
    /* Computes one step and the scores of a first group of its wanted rows, one or more where any is wanted. On failure the device is lost: every
     * later call fails with the same ERR_DEVICE. */
    int (*forward)(void *ctx, const struct batch *batch, struct scores *scores_out, struct err *err);
    /* Goes on to the next group of the wanted rows, of which some must be left. `batch` is the one that the last forward() was given, in its place
     * and unchanged. Fails as forward() does. */
    int (*next_scores)(void *ctx, const struct batch *batch, struct scores *scores, struct err *err);
    /* Where the device draws; both NULL where the host does. launch() enqueues a step and a draw for each wanted row, and returns; what it was given
     * may change then. n_out is at most max_draws, and at most two steps are launched and not landed. A slot keeps what the last launch drew into
     * it; one that was not decided makes its row compute with token 0. land() waits for the oldest launched step: drawn_out[n_out], and the scores
     * of those rows that were not decided, the only ones that may be asked for, valid until the next land. forward() is for when all has landed.
     * Both fail as forward() does; a step whose landing failed has landed. */
    int (*launch)(void *ctx, const struct batch *batch, const struct draw *draws, struct err *err);
    int (*land)(void *ctx, struct drawn *drawn_out, struct scores *scores_out, struct err *err);
    int max_draws;
    /* Rows of scores that crossed to the host so far; NULL where they are computed there. */
    uint64_t (*rows_fetched)(void *ctx);
    /* Copies the first n_pos positions of page src to page dst in every layer; ordered after what was launched and before the next forward() or
     * launch(). */
    void (*copy_page)(void *ctx, int dst, int src, int n_pos);
    /* Lends the threads between two of the calls above: calls fn(arg, i) once for each 0 <= i < n, in any order, on any of n_threads threads; returns
     * when all have returned. May be NULL where n_threads is 1. */
    void (*share)(void *ctx, int n, void (*fn)(void *arg, int i), void *arg);
};

#endif

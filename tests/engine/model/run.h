/* run.h: for tests of whole models: opens one and feeds ids through its runner as one sequence. */
#ifndef NEXTD_TESTS_MODEL_RUN_H
#define NEXTD_TESTS_MODEL_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/model.h"

#define RUN_MAX_PAGES 512

struct run {
    struct model *model;
    struct runner runner;
    int32_t pages[RUN_MAX_PAGES]; /* page table of the one sequence; the identity unless a test shuffles it */
};

static inline void run_open(struct run *r, const char *path, const char *device, int n_threads, int max_rows, int max_out, int n_pages)
{
    struct err err;
    const struct model_options options = {
        .device = device, .n_threads = n_threads, .max_rows = max_rows, .max_out = max_out, .n_pages = n_pages};
    assert_true(n_pages <= RUN_MAX_PAGES);
    if (model_open(path, &r->model, &err) != 0 || model_load(r->model, &options, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
    r->runner = model_runner(r->model);
    for (int i = 0; i < n_pages; i++)
        r->pages[i] = i;
}

static inline void run_close(struct run *r)
{
    model_close(r->model);
}

/* Called with the scores of n rows that stand at positions pos .. pos + n - 1; row i is scores->row(scores->ctx, scores->first + i). */
typedef void (*run_sink)(void *arg, const struct scores *scores, int pos, int n);

/* Feeds ids[first .. last) in steps of `chunk` and hands on the scores of every row. */
static inline void run_feed(struct run *r, const int32_t *ids, int first, int last, int chunk, run_sink sink, void *arg)
{
    const int32_t *tables[1] = {r->pages};
    int32_t *pos = calloc((size_t)chunk * 3, sizeof *pos), *seq = pos + chunk, *out = seq + chunk;
    for (int at = first; at < last; at += chunk) {
        struct err err;
        struct scores scores;
        int n = last - at < chunk ? last - at : chunk;
        for (int i = 0; i < n; i++) {
            pos[i] = at + i;
            seq[i] = 0;
            out[i] = i;
        }
        const struct batch batch = {
            .n_rows = n, .token = ids + at, .pos = pos, .seq = seq, .n_seqs = 1, .pages = tables, .n_out = n, .out = out};
        if (r->runner.forward(r->runner.ctx, &batch, &scores, &err) != 0)
            fail_msg("%s", err.msg);
        sink(arg, &scores, at, scores.n_out);
        while (scores.first + scores.n_out < n) {
            if (r->runner.next_scores(r->runner.ctx, &batch, &scores, &err) != 0)
                fail_msg("%s", err.msg);
            sink(arg, &scores, at + scores.first, scores.n_out);
        }
        assert_int_equal(scores.first + scores.n_out, n);
    }
    free(pos);
}

#endif

/* model_steps.h: steps of a real model, all layers, on the emulated device and on the CPU: the same logits, bit for bit, however the rows come
 * together. test_smollm2.c and test_qwen.c are its programs.
 *
 * The model must lie under models/ (scripts/get-model); a missing one is a failure. Logits are compared right after the steps that made them, so both
 * devices run side by side. */
#ifndef NEXTD_TESTS_CUDA_MODEL_STEPS_H
#define NEXTD_TESTS_CUDA_MODEL_STEPS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/model/model.h"

#define N_PROMPT 16
#define MAX_ROWS 32

/* Any tokens will do; these are spread over the vocabulary. */
static inline int32_t token_at(int seq, int pos, size_t n_vocab)
{
    return (int32_t)(((uint32_t)seq * 2654435761u + (uint32_t)pos * 40503u + 977u) % n_vocab);
}

struct side {
    struct model *model;
    struct runner runner;
    size_t n_vocab;
};

static inline struct side open_side(const char *path, const char *device)
{
    struct side s = {0};
    struct err err;
    const struct model_options opt = {.device = device, .n_threads = 2, .max_rows = MAX_ROWS, .max_out = MAX_ROWS, .n_pages = 4};
    if (model_open(path, &s.model, &err) != 0 || model_load(s.model, &opt, &err) != 0)
        fail_msg("%s: %s: %s", path, device, err.msg);
    assert_string_equal(strchr(device, ':') != NULL ? model_device(s.model) : device, device);
    s.runner = model_runner(s.model);
    s.n_vocab = (size_t)s.runner.n_vocab;
    return s;
}

struct row {
    int seq, pos;
};

/* Sequence s lives in a page of its own. The logits of all rows, [n][n_vocab], with a hole between block maxima and logits checked on the way. */
static inline float *run(const struct side *s, const struct row *rows, int n)
{
    static const int32_t page[3][1] = {{2}, {0}, {3}};
    static const int32_t *const pages[3] = {page[0], page[1], page[2]};
    int32_t token[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], out[MAX_ROWS];
    for (int i = 0; i < n; i++) {
        seq[i] = rows[i].seq;
        pos[i] = rows[i].pos;
        token[i] = token_at(seq[i], pos[i], s->n_vocab);
        out[i] = i;
    }
    const struct batch b = {n, token, pos, seq, 3, pages, n, out};
    float *logits = malloc((size_t)n * s->n_vocab * sizeof *logits);
    struct scores scores;
    struct err err;
    if (s->runner.forward(s->runner.ctx, &b, &scores, &err) != 0)
        fail_msg("%s: %s", model_device(s->model), err.msg);
    for (;;) {
        for (int i = scores.first; i < scores.first + scores.n_out; i++) {
            const float *row = scores.row(scores.ctx, i), *most = scores.block_max(scores.ctx, i);
            memcpy(logits + (size_t)i * s->n_vocab, row, s->n_vocab * sizeof *logits);
            for (size_t k = 0; k < s->n_vocab; k++)
                assert_true(row[k] <= most[k / SCORES_BLOCK]);
        }
        if (scores.first + scores.n_out == n)
            return logits;
        assert_int_equal(s->runner.next_scores(s->runner.ctx, &b, &scores, &err), 0);
    }
}

static inline void assert_same(const float *want, const float *got, int n_rows, size_t n_vocab, const char *what)
{
    for (size_t i = 0; i < (size_t)n_rows * n_vocab; i++)
        if (memcmp(&want[i], &got[i], sizeof *want) != 0)
            fail_msg("%s: row %zu, logit %zu: %a, not %a", what, i / n_vocab, i % n_vocab, (double)got[i], (double)want[i]);
}

static inline void fill_rows(struct row *rows, int seq, int first_pos, int n)
{
    for (int i = 0; i < n; i++)
        rows[i] = (struct row){seq, first_pos + i};
}

static inline void compare(const struct side *cpu, const struct side *gpu, const struct row *rows, int n, const char *what)
{
    float *want = run(cpu, rows, n), *got = run(gpu, rows, n);
    assert_same(want, got, n, cpu->n_vocab, what);
    free(want);
    free(got);
}

/* The prompt at once and, where asked, again in two chunks; then token by token; then one that goes on beside one that begins and a single token. */
static inline void check_model(const char *path, bool chunks, int n_decode, bool mixed)
{
    struct side cpu = open_side(path, "cpu"), gpu = open_side(path, "cuda:0");
    struct row rows[MAX_ROWS];
    fill_rows(rows, 0, 0, N_PROMPT);
    float *whole = run(&cpu, rows, N_PROMPT), *got = run(&gpu, rows, N_PROMPT);
    assert_same(whole, got, N_PROMPT, cpu.n_vocab, "16 tokens at once");
    free(got);
    for (int first = 0, n = 5; chunks && first < N_PROMPT; first += n, n = N_PROMPT - n) {
        got = run(&gpu, rows + first, n);
        assert_same(whole + (size_t)first * cpu.n_vocab, got, n, cpu.n_vocab, first == 0 ? "the first 5 of them" : "the other 11");
        free(got);
    }
    free(whole);
    for (int i = 0; i < n_decode; i++) {
        fill_rows(rows, 0, N_PROMPT + i, 1);
        compare(&cpu, &gpu, rows, 1, "one token");
    }
    if (mixed) {
        fill_rows(rows, 0, N_PROMPT + n_decode, 1);
        fill_rows(rows + 1, 1, 0, 7);
        fill_rows(rows + 8, 2, 0, 1);
        compare(&cpu, &gpu, rows, 9, "a mixed step");
    }
    model_close(cpu.model);
    model_close(gpu.model);
}

#endif

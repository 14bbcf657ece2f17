/* test_smollm2.c: a real model, all layers, on the emulated device and on the CPU: the same logits, bit for bit, however the rows come together.
 *
 * The model must lie under models/ (scripts/get-model); a missing one is a failure. Logits are compared right after the steps that made them, so each
 * test runs both devices side by side. Some 40 rows on the emulated device, a second or so each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/model/model.h"

#define SMOLLM2 "models/smollm2-135m-instruct-q4_1.gguf"
#define N_PROMPT 16
#define N_DECODE 8
#define N_VOCAB 49152
#define MAX_ROWS 32

/* Any tokens will do; these are spread over the vocabulary. */
static int32_t token_at(int seq, int pos)
{
    return (int32_t)(((uint32_t)seq * 2654435761u + (uint32_t)pos * 40503u + 977u) % N_VOCAB);
}

struct side {
    struct model *model;
    struct runner runner;
};

static struct side open_side(const char *device)
{
    struct side s = {0};
    struct err err;
    const struct model_options opt = {.device = device, .n_threads = 2, .max_rows = MAX_ROWS, .max_out = MAX_ROWS, .n_pages = 4};
    if (model_open(SMOLLM2, &s.model, &err) != 0 || model_load(s.model, &opt, &err) != 0)
        fail_msg("%s: %s", device, err.msg);
    assert_string_equal(strchr(device, ':') != NULL ? model_device(s.model) : device, device);
    s.runner = model_runner(s.model);
    assert_int_equal(s.runner.n_vocab, N_VOCAB);
    return s;
}

struct row {
    int seq, pos;
};

/* Sequence s lives in page s. The logits of all rows, [n][N_VOCAB], with a hole between block maxima and logits checked on the way. */
static float *run(const struct side *s, const struct row *rows, int n)
{
    static const int32_t page[3][1] = {{2}, {0}, {3}};
    static const int32_t *const pages[3] = {page[0], page[1], page[2]};
    int32_t token[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], out[MAX_ROWS];
    for (int i = 0; i < n; i++) {
        seq[i] = rows[i].seq;
        pos[i] = rows[i].pos;
        token[i] = token_at(seq[i], pos[i]);
        out[i] = i;
    }
    const struct batch b = {n, token, pos, seq, 3, pages, n, out};
    float *logits = malloc((size_t)n * N_VOCAB * sizeof *logits);
    struct scores scores;
    struct err err;
    if (s->runner.forward(s->runner.ctx, &b, &scores, &err) != 0)
        fail_msg("%s: %s", model_device(s->model), err.msg);
    for (;;) {
        for (int i = scores.first; i < scores.first + scores.n_out; i++) {
            const float *row = scores.row(scores.ctx, i), *most = scores.block_max(scores.ctx, i);
            memcpy(logits + (size_t)i * N_VOCAB, row, N_VOCAB * sizeof *logits);
            for (int k = 0; k < N_VOCAB; k++)
                assert_true(row[k] <= most[k / SCORES_BLOCK]);
        }
        if (scores.first + scores.n_out == n)
            return logits;
        assert_int_equal(s->runner.next_scores(s->runner.ctx, &b, &scores, &err), 0);
    }
}

static void assert_same(const float *want, const float *got, int n_rows, const char *what)
{
    for (size_t i = 0; i < (size_t)n_rows * N_VOCAB; i++)
        if (memcmp(&want[i], &got[i], sizeof *want) != 0)
            fail_msg("%s: row %zu, logit %zu: %a, not %a", what, i / N_VOCAB, i % N_VOCAB, (double)got[i], (double)want[i]);
}

static void fill_rows(struct row *rows, int seq, int first_pos, int n)
{
    for (int i = 0; i < n; i++)
        rows[i] = (struct row){seq, first_pos + i};
}

static void compare(const struct side *cpu, const struct side *gpu, const struct row *rows, int n, const char *what)
{
    float *want = run(cpu, rows, n), *got = run(gpu, rows, n);
    assert_same(want, got, n, what);
    free(want);
    free(got);
}

static void test_prefill_decode_and_a_mixed_step_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    struct side cpu = open_side("cpu"), gpu = open_side("cuda:0");
    struct row rows[MAX_ROWS];
    fill_rows(rows, 0, 0, N_PROMPT);
    float *whole = run(&cpu, rows, N_PROMPT), *got = run(&gpu, rows, N_PROMPT);
    assert_same(whole, got, N_PROMPT, "16 tokens at once");
    free(got);
    got = run(&gpu, rows, 5); /* again, in two chunks */
    assert_same(whole, got, 5, "the first 5 of them");
    free(got);
    got = run(&gpu, rows + 5, N_PROMPT - 5);
    assert_same(whole + 5 * N_VOCAB, got, N_PROMPT - 5, "the other 11");
    free(got);
    free(whole);
    for (int i = 0; i < N_DECODE; i++) {
        fill_rows(rows, 0, N_PROMPT + i, 1);
        compare(&cpu, &gpu, rows, 1, "one token");
    }
    fill_rows(rows, 0, N_PROMPT + N_DECODE, 1); /* one goes on, one begins, one is a single token */
    fill_rows(rows + 1, 1, 0, 7);
    fill_rows(rows + 8, 2, 0, 1);
    compare(&cpu, &gpu, rows, 9, "a mixed step");
    model_close(cpu.model);
    model_close(gpu.model);
}

int main(void)
{
    assert(backend_cuda.open != NULL); /* named here, so that it is linked */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prefill_decode_and_a_mixed_step_give_the_bits_of_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

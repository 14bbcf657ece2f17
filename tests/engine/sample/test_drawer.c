/* Rows that several samplers draw come out as one sampler draws them one by one, whoever takes which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "engine/numerics/numerics.h"
#include "engine/sample/drawer.h"

#define N_VOCAB 5000
#define N_BLOCKS ((N_VOCAB + SCORES_BLOCK - 1) / SCORES_BLOCK)
#define N_ROWS 24
#define FIRST 7 /* of the group */

static float logits[N_ROWS][N_VOCAB], maxima[N_ROWS][N_BLOCKS];

static const float *row_of(void *ctx, int i)
{
    (void)ctx;
    return logits[i - FIRST];
}

static const float *maxima_of(void *ctx, int i)
{
    (void)ctx;
    return maxima[i - FIRST];
}

static const struct scores scores = {.first = FIRST, .n_out = N_ROWS, .n_vocab = N_VOCAB, .row = row_of, .block_max = maxima_of};

/* Stands for threads: `ctx` says how late the first comes. */
static void share_in_turn(void *ctx, int n, void (*fn)(void *arg, int i), void *arg)
{
    for (int i = 0; i < n; i++)
        fn(arg, (i + *(const int *)ctx) % n);
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_ROWS; i++)
        for (int b = 0; b < N_BLOCKS; b++) {
            maxima[i][b] = -INFINITY;
            for (int v = b * SCORES_BLOCK; v < N_VOCAB && v < (b + 1) * SCORES_BLOCK; v++) {
                logits[i][v] = (float)(12 * num_rng(1, (uint32_t)i, (uint32_t)v));
                maxima[i][b] = fmaxf(maxima[i][b], logits[i][v]);
            }
        }
    return 0;
}

/* Row i of the group: every fourth one is only scored, others are not scored at all, and each has settings of its own. */
static struct drawer_row row_to_draw(int i, struct sampler_params *params)
{
    struct drawer_row row = {.draw = {.choice = 1, .output_idx = (uint32_t)i}, .n_top = i % 3 == 0 ? -1 : i % (SAMPLER_MAX_TOP + 1)};
    *params = sampler_defaults();
    params->temperature = (float)(i % 5) * 0.5f;
    params->top_p = i % 2 ? 0.9f : 1;
    params->top_k = i % 7 == 0 ? 50 : 0;
    params->seed = (uint64_t)i;
    if (i % 4 == 1)
        return (struct drawer_row){.id = i, .n_top = 3};
    row.params = params;
    return row;
}

static void assert_as_one_by_one(struct drawer *d, struct sampler *s, int n_rows)
{
    struct sampler_params params[N_ROWS];
    struct scores group = scores;
    group.n_out = n_rows;
    for (int i = 0; i < n_rows; i++)
        drawer_rows(d)[i] = row_to_draw(i, &params[i]);
    drawer_draw(d, &group);
    for (int i = 0; i < n_rows; i++) {
        struct drawer_row want = row_to_draw(i, &params[i]);
        const struct drawer_row *got = &drawer_rows(d)[i];
        if (want.params != NULL)
            want.id = sampler_next(s, &params[i], &want.draw, &group, FIRST + i);
        assert_int_equal(got->id, want.id);
        if (want.n_top < 0)
            continue;
        sampler_logprobs(s, &group, FIRST + i, want.id, want.n_top, &want.chosen, want.top);
        assert_memory_equal(&got->chosen, &want.chosen, sizeof want.chosen);
        assert_memory_equal(got->top, want.top, (size_t)want.n_top * sizeof want.top[0]);
    }
}

static void rows_come_out_as_one_by_one(void **state)
{
    (void)state;
    struct sampler *s = sampler_create(N_VOCAB);
    for (int n_threads = 1; n_threads <= 20; n_threads += 3) /* more than there are samplers */
        for (int late = 0; late < 3; late++) {
            struct runner runner = {.ctx = &late, .n_vocab = N_VOCAB, .max_out = N_ROWS, .n_threads = n_threads, .share = share_in_turn};
            struct drawer *d = drawer_create(&runner);
            assert_non_null(d);
            assert_as_one_by_one(d, s, N_ROWS);
            assert_as_one_by_one(d, s, 1);
            assert_as_one_by_one(d, s, 5);
            drawer_destroy(d);
        }
    sampler_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_come_out_as_one_by_one)};
    return cmocka_run_group_tests(tests, setup, NULL);
}

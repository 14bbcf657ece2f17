/* Sums over a row of logits and lists from it: every instruction set gives the bits of the generic specification, and those are right. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/numerics/rows.h"

#define N_MAX 5000

static void fill(float *x, int n, uint64_t seed, float spread)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)(num_rng(seed, 0, (uint32_t)i) - 0.5) * spread;
    for (int i = 0; i < n; i += 97)
        x[i] = i % 2 == 0 ? -INFINITY : 0x1p-140f;
}

static void every_instruction_set_gives_the_same_bits(void **state)
{
    (void)state;
    static const int sizes[] = {1, 7, 15, 16, 17, 255, 256, 257, 271, 272, 512, 1000, 4999};
    static float x[N_MAX];
    int n_compared = 0;
    for (size_t t = 0; rows_tables[t] != NULL; t++) {
        const struct rows_ops *ops = rows_tables[t];
        if (ops == &rows_generic || !rows_supported(ops))
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t seed = 0; seed < 20; seed++) {
                int n = sizes[s];
                fill(x, n, seed, seed % 2 ? 30.0f : 400.0f);
                float max = rows_generic.max(x, n), other = ops->max(x, n), scale = seed % 3 ? 1.0f : 1.0f / 0.7f;
                float sums[2][N_MAX / ROWS_BLOCK + 1] = {{0}};
                double total = rows_generic.sum_exp(x, n, max, scale, sums[0]), total2 = ops->sum_exp(x, n, max, scale, sums[1]);
                assert_memory_equal(&max, &other, sizeof max);
                assert_memory_equal(&total, &total2, sizeof total);
                assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
                memset(sums[1], 0, sizeof sums[1]);
                double plain = rows_generic.sum_exp(x, n, max, 1.0f, NULL), plain2;
                total2 = rows_sum_exp_twice(ops, x, n, max, scale, sums[1], &plain2);
                assert_memory_equal(&total, &total2, sizeof total);
                assert_memory_equal(&plain, &plain2, sizeof plain);
                assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
                n_compared++;
            }
    }
    if (n_compared == 0)
        skip();
}

/* Odd sizes, minus infinity, values at and beside the borders of a window, and weights that are denormal or 0. */
static void lists_and_moments_are_the_same_on_every_instruction_set(void **state)
{
    (void)state;
    static const int sizes[] = {0, 1, 7, 8, 15, 16, 17, 31, 255, 256, 257, 1000, 4999};
    static float x[N_MAX], values[2][N_MAX + ROWS_SLACK], weights[2][N_MAX];
    static int32_t ids[2][N_MAX + ROWS_SLACK];
    int n_compared = 0;
    for (size_t t = 0; rows_tables[t] != NULL; t++) {
        const struct rows_ops *ops = rows_tables[t];
        if (ops == &rows_generic || !rows_supported(ops))
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t seed = 0; seed < 20; seed++) {
                int n = sizes[s];
                fill(x, n, seed, seed % 2 ? 30.0f : 400.0f);
                for (int i = 5; i < n; i += 11)
                    x[i] = x[i / 2];
                float max = rows_generic.max(x, n) + (seed % 5 == 0 ? 40.0f : 0.0f), scale = seed % 3 ? 1.0f : 1.0f / 0.7f;
                float low = seed % 4 == 0 ? -3.4e38f : n > 2 ? x[n / 3] : -1.0f, high = seed % 7 < 3 ? INFINITY : n > 2 ? x[n / 2] : 1.0f;
                int n_found = rows_generic.gather(x, n, low, high, 1000, ids[0], values[0]);
                assert_int_equal(ops->gather(x, n, low, high, 1000, ids[1], values[1]), n_found);
                assert_memory_equal(ids[0], ids[1], (size_t)n_found * sizeof ids[0][0]);
                assert_memory_equal(values[0], values[1], (size_t)n_found * sizeof values[0][0]);
                rows_generic.weights(x, n, max, scale, weights[0]);
                ops->weights(x, n, max, scale, weights[1]);
                assert_memory_equal(weights[0], weights[1], (size_t)n * sizeof weights[0][0]);
                double above = rows_generic.mass_above(x, weights[0], n, low), above2 = ops->mass_above(x, weights[0], n, low);
                assert_memory_equal(&above, &above2, sizeof above);
                struct rows_moments a = rows_generic.moments(x, n, max, scale), b = ops->moments(x, n, max, scale);
                assert_memory_equal(&a, &b, sizeof a);
                n_compared++;
            }
    }
    if (n_compared == 0)
        skip();
}

static void a_gathered_list_is_what_lies_between(void **state)
{
    (void)state;
    static const float x[] = {1, -INFINITY, 2, 3, 2.5f, -1, 3, 0};
    int32_t ids[8 + ROWS_SLACK];
    float values[8 + ROWS_SLACK];
    assert_int_equal(rows_best()->gather(x, 8, 1, 2.5f, 40, ids, values), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ids[i], ((int32_t[]){40, 42, 44})[i]);
        assert_true(values[i] == x[ids[i] - 40]);
    }
}

static void the_mass_above_a_border_leaves_out_what_equals_it(void **state)
{
    (void)state;
    float x[40], w[40];
    for (int i = 0; i < 40; i++) {
        x[i] = (float)(i % 20);
        w[i] = (float)(1 + i);
    }
    assert_true(rows_best()->mass_above(x, w, 40, 17.0f) == 19 + 20 + 39 + 40);
    assert_true(rows_best()->mass_above(x, w, 39, 17.0f) == 19 + 20 + 39);
    assert_true(rows_best()->mass_above(x, w, 40, -INFINITY) == 820);
    assert_true(rows_best()->mass_above(x, w, 40, 19.0f) == 0);
}

static void moments_are_close_to_f64(void **state)
{
    (void)state;
    static float x[N_MAX];
    fill(x, 4999, 9, 30.0f);
    float max = rows_generic.max(x, 4999);
    double sum = 0, sum_y = 0;
    for (int i = 0; i < 4999; i++) {
        double y = ((double)x[i] - (double)max) * 0.5;
        sum += exp(y);
        sum_y += y > -80 ? exp(y) * y : 0;
    }
    struct rows_moments m = rows_best()->moments(x, 4999, max, 0.5f);
    assert_true(fabs(m.sum / sum - 1.0) < 1e-6);
    assert_true(fabs(m.sum_y / sum_y - 1.0) < 1e-5);
}

static void sum_of_exponentials_is_close_to_f64(void **state)
{
    (void)state;
    static float x[N_MAX];
    fill(x, 4999, 3, 30.0f);
    float max = rows_generic.max(x, 4999);
    double want = 0;
    for (int i = 0; i < 4999; i++)
        want += exp((double)x[i] - (double)max);
    double got = rows_best()->sum_exp(x, 4999, max, 1.0f, NULL);
    assert_true(fabs(got / want - 1.0) < 1e-6);
    assert_true(fabs(rows_log_sum_exp(rows_best(), x, 4999, max) - (max + log(want))) < 1e-6);
}

static void a_row_of_minus_infinity_has_no_mass(void **state)
{
    (void)state;
    float x[20];
    for (int i = 0; i < 20; i++)
        x[i] = -INFINITY;
    assert_true(rows_best()->max(x, 20) == -INFINITY);
    assert_true(rows_log_sum_exp(rows_best(), x, 20, -INFINITY) == -INFINITY);
}

static void the_order_is_the_frozen_one(void **state)
{
    (void)state;
    /* One golden value: a change of order or of the exponential shows here, and bumps NUMERICS_VERSION. */
    static float x[700];
    for (int i = 0; i < 700; i++)
        x[i] = (float)((i * 7919) % 701) * 0.03125f;
    float max = rows_generic.max(x, 700);
    double got = rows_generic.sum_exp(x, 700, max, 1.0f, NULL);
    assert_int_equal(num_bits_from_f64(got), 0x4040402280000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_gives_the_same_bits),
        cmocka_unit_test(lists_and_moments_are_the_same_on_every_instruction_set),
        cmocka_unit_test(a_gathered_list_is_what_lies_between),
        cmocka_unit_test(the_mass_above_a_border_leaves_out_what_equals_it),
        cmocka_unit_test(moments_are_close_to_f64),
        cmocka_unit_test(sum_of_exponentials_is_close_to_f64),
        cmocka_unit_test(a_row_of_minus_infinity_has_no_mass),
        cmocka_unit_test(the_order_is_the_frozen_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

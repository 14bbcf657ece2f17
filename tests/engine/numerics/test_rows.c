/* The sums over a row of logits: every instruction set gives the bits of the generic specification, and those are right. */
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
    static const struct rows_ops *const tables[] = {&rows_avx2, &rows_avx512};
    static const int sizes[] = {1, 7, 15, 16, 17, 255, 256, 257, 271, 272, 512, 1000, 4999};
    static float x[N_MAX];
    int n_compared = 0;
    for (size_t t = 0; t < 2; t++) {
        if (!rows_supported(tables[t]))
            continue;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t seed = 0; seed < 20; seed++) {
                int n = sizes[s];
                fill(x, n, seed, seed % 2 ? 30.0f : 400.0f);
                float max = rows_generic.max(x, n), other = tables[t]->max(x, n), scale = seed % 3 ? 1.0f : 1.0f / 0.7f;
                float sums[2][N_MAX / ROWS_BLOCK + 1] = {{0}};
                double total = rows_generic.sum_exp(x, n, max, scale, sums[0]), total2 = tables[t]->sum_exp(x, n, max, scale, sums[1]);
                assert_memory_equal(&max, &other, sizeof max);
                assert_memory_equal(&total, &total2, sizeof total);
                assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
                n_compared++;
            }
    }
    if (n_compared == 0)
        skip();
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
        cmocka_unit_test(sum_of_exponentials_is_close_to_f64),
        cmocka_unit_test(a_row_of_minus_infinity_has_no_mass),
        cmocka_unit_test(the_order_is_the_frozen_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

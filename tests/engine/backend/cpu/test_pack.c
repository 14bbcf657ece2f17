/* test_pack.c: tiles take no more memory than they may, and hold exactly what the file's blocks mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cpu/lanes.h"

static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                         TENSOR_Q8_0, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
#define N_TYPES ((int)(sizeof types / sizeof types[0]))

static void a_stripe_takes_at_most_103_percent_of_the_file(void **state)
{
    (void)state;
    for (int i = 0; i < N_TYPES; i++)
        for (int n_cols = 256; n_cols <= 8192; n_cols += 256) {
            size_t file = CPU_STRIPE * quant_row_bytes(types[i], n_cols), packed = pack_stripe_bytes(types[i], n_cols);
            if (packed * 100 > file * 103)
                fail_msg("type %d, %d columns: %zu bytes for %zu of the file", types[i], n_cols, packed, file);
        }
}

/* Any bytes are blocks of some values; NaN scales are left out, for they equal nothing. */
static void fill(uint8_t *p, size_t n)
{
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (uint8_t)(x >> 24) & 0xbf; /* no f16 or f32 with this exponent is infinite */
    }
}

static void every_value_comes_back(void **state)
{
    (void)state;
    static const int n_cols_of[] = {256, 768, 2560}; /* 8, 24 and 80 blocks */
    for (int i = 0; i < N_TYPES; i++)
        for (int k = 0; k < 6; k++) {
            int n_cols = n_cols_of[k / 2], n_rows = k % 2 ? 32 : 13;
            if (k == 5)
                n_cols = quant_is_float(types[i]) ? 77 : 256; /* a short last block */
            size_t row_bytes = quant_row_bytes(types[i], n_cols);
            uint8_t *rows = malloc(row_bytes * (size_t)n_rows), *stripe = calloc(1, pack_stripe_bytes(types[i], n_cols));
            float *want = malloc(sizeof(float) * (size_t)n_cols), *got = malloc(sizeof(float) * (size_t)n_cols);
            fill(rows, row_bytes * (size_t)n_rows);
            pack_stripe(types[i], rows, n_rows, n_cols, stripe);
            for (int r = 0; r < n_rows; r++) {
                quant_dequantise_row(types[i], rows + (size_t)r * row_bytes, n_cols, want);
                lanes_dequantise(&(struct stripe){.w = stripe, .type = types[i]}, r, n_cols, got);
                if (memcmp(want, got, sizeof(float) * (size_t)n_cols) != 0)
                    fail_msg("type %d, %d columns: row %d of %d differs", types[i], n_cols, r, n_rows);
            }
            free(rows);
            free(stripe);
            free(want);
            free(got);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stripe_takes_at_most_103_percent_of_the_file),
        cmocka_unit_test(every_value_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

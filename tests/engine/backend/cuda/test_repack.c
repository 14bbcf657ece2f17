/* test_repack.c: the planes take no more memory than they may, and unpacked by the formulas of layout.h, written down here a second time, they hold
 * exactly what the file's blocks mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/repack.h"
#include "engine/numerics/quant.h"

static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                         TENSOR_Q8_0, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
#define N_TYPES ((int)(sizeof types / sizeof types[0]))

static bool is_k(int type)
{
    return type >= TENSOR_Q2_K && type <= TENSOR_Q6_K;
}

static void a_tensor_takes_at_most_103_percent_of_the_file(void **state)
{
    (void)state;
    for (int i = 0; i < N_TYPES; i++)
        for (int n_cols = 256; n_cols <= 8192; n_cols += 256)
            for (int n_rows = 576; n_rows <= 50000; n_rows *= 7) {
                size_t file = (size_t)n_rows * quant_row_bytes(types[i], n_cols), packed = repack_bytes(types[i], n_rows, n_cols);
                if (packed * 100 > file * 103)
                    fail_msg("type %d, %d rows of %d: %zu bytes for %zu of the file", types[i], n_rows, n_cols, packed, file);
            }
}

/* ---- unpacking, value by value ---- */

struct entry {
    const uint8_t *stripe;
    size_t n_blocks, r, b;
};

/* Where (row, block), chunk c of `chunks`, is in a plane, in chunks. */
static size_t place(const struct entry *e, size_t c, size_t chunks)
{
    size_t first = e->b / 8 * 8, n = e->n_blocks - first < 8 ? e->n_blocks - first : 8;
    return (e->r / 4 * 4 * e->n_blocks + first * 4) * chunks + c * 4 * n + e->r % 4 * n + e->b % 8;
}

/* A plane begins where `bytes` for each block and `tops` for each superblock lie before it. */
static const uint8_t *plane(const struct entry *e, size_t bytes, size_t tops)
{
    return e->stripe + 32 * (e->n_blocks * bytes + e->n_blocks / 8 * tops);
}

static const uint8_t *chunk(const struct entry *e, size_t before, size_t bytes)
{
    return plane(e, before, 0) + place(e, 0, 1) * bytes;
}

static const uint8_t *top(const struct entry *e, size_t before, size_t tops, size_t bytes)
{
    return plane(e, before, tops) + (e->r / 4 * 4 * (e->n_blocks / 8) + e->b / 8 * 4 + e->r % 4) * bytes;
}

static int nibble(const uint8_t *p, int k)
{
    return p[k % 16] >> k / 16 * 4 & 15;
}

static int pair(const uint8_t *p, int k)
{
    return p[k / 16 * 4 + k % 4] >> k % 16 / 4 * 2 & 3;
}

static int bit(const uint8_t *p, int k)
{
    return p[k % 4] >> k / 4 & 1;
}

static void unpack_simple(int type, const struct entry *e, struct quant_w *w)
{
    bool five = type == TENSOR_Q5_0 || type == TENSOR_Q5_1, has_min = type == TENSOR_Q4_1 || type == TENSOR_Q5_1;
    int offset = type == TENSOR_Q4_0 ? 8 : type == TENSOR_Q5_0 ? 16 : 0;
    const uint8_t *quants = chunk(e, 0, 16), *high = chunk(e, 16, 4);
    const uint8_t *scales = chunk(e, type == TENSOR_Q8_0 ? 32 : five ? 20 : 16, has_min ? 4 : 2);
    w->d = quant_f16(scales);
    w->n_min = has_min;
    w->min[0] = w->min[1] = has_min ? quant_f16(scales + 2) : 0.0f;
    w->scale[0] = w->scale[1] = 1;
    for (int k = 0; k < 32 && type != TENSOR_Q8_0; k++)
        w->q[k] = (int8_t)((nibble(quants, k) | (five ? bit(high, k) << 4 : 0)) - offset);
    for (size_t c = 0; c < 2 && type == TENSOR_Q8_0; c++)
        memcpy(w->q + 16 * c, e->stripe + place(e, c, 2) * 16, 16);
}

static void unpack_k45(int type, const struct entry *e, struct quant_w *w)
{
    size_t five = type == TENSOR_Q5_K ? 4 : 0;
    const uint8_t *quants = chunk(e, 0, 16), *high = chunk(e, 16, 4), *scales = chunk(e, 16 + five, 2), *super = top(e, 18 + five, 0, 4);
    w->d = quant_f16(super);
    w->n_min = 1;
    w->min[0] = w->min[1] = -(quant_f16(super + 2) * (float)scales[1]);
    w->scale[0] = w->scale[1] = scales[0];
    for (int k = 0; k < 32; k++)
        w->q[k] = (int8_t)(nibble(quants, k) | (five ? bit(high, k) << 4 : 0));
}

static void unpack_k236(int type, const struct entry *e, struct quant_w *w)
{
    const uint8_t *quants = chunk(e, 0, type == TENSOR_Q6_K ? 16 : 8), *high = chunk(e, type == TENSOR_Q6_K ? 16 : 8, type == TENSOR_Q6_K ? 8 : 4);
    const uint8_t *scales = type == TENSOR_Q6_K ? chunk(e, 24, 2) : type == TENSOR_Q3_K ? chunk(e, 12, 1) : chunk(e, 8, 2);
    const uint8_t *super = type == TENSOR_Q6_K ? top(e, 26, 0, 2) : type == TENSOR_Q3_K ? top(e, 13, 0, 2) : top(e, 10, 0, 4);
    const uint8_t *sixes = top(e, 13, 2, 4);
    w->halves = true;
    w->d = quant_f16(super);
    w->n_min = type == TENSOR_Q2_K ? 2 : 0;
    for (int h = 0; h < 2; h++) {
        int six = 4 * (int)(e->b % 8) + 2 * h;
        w->min[h] = type == TENSOR_Q2_K ? -(quant_f16(super + 2) * (float)(scales[h] >> 4)) : 0.0f;
        w->scale[h] = type == TENSOR_Q2_K   ? scales[h] & 15
                      : type == TENSOR_Q6_K ? (int8_t)scales[h]
                                            : (int16_t)(((scales[0] >> 4 * h & 15) | (sixes[six / 8] >> six % 8 & 3) << 4) - 32);
    }
    for (int k = 0; k < 32; k++)
        w->q[k] = (int8_t)(type == TENSOR_Q6_K   ? (nibble(quants, k) | pair(high, k) << 4) - 32
                           : type == TENSOR_Q3_K ? (pair(quants, k) | bit(high, k) << 2) - 4
                                                 : pair(quants, k));
}

static void unpack(int type, const struct entry *e, struct quant_w *w)
{
    memset(w, 0, sizeof *w);
    if (type == TENSOR_Q4_K || type == TENSOR_Q5_K)
        unpack_k45(type, e, w);
    else if (is_k(type))
        unpack_k236(type, e, w);
    else
        unpack_simple(type, e, w);
}

static void unpack_float(int type, const struct entry *e, float out[QUANT_BLOCK])
{
    size_t elem = type == TENSOR_F32 ? 4 : 2, chunks = elem * 2;
    uint8_t bytes[128];
    for (size_t c = 0; c < chunks; c++)
        memcpy(bytes + 16 * c, e->stripe + place(e, c, chunks) * 16, 16);
    quant_unpack_float(type, bytes, QUANT_BLOCK, 0, out);
}

/* ---- and the file's ---- */

/* Any bytes are blocks of some values; NaN scales are left out, for they equal nothing. */
static void fill(uint8_t *p, size_t n)
{
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (uint8_t)(x >> 24) & 0xbf; /* no f16 or f32 with this exponent is infinite */
    }
}

static void check_entry(int type, const uint8_t *row, int n_cols, const struct entry *e)
{
    int b = (int)e->b;
    bool same;
    if (quant_is_float(type)) {
        float want[QUANT_BLOCK], got[QUANT_BLOCK];
        quant_unpack_float(type, row, n_cols, b, want);
        unpack_float(type, e, got);
        same = memcmp(want, got, sizeof want) == 0;
    } else {
        struct quant_w want, got;
        memset(&want, 0, sizeof want);
        quant_unpack(type, row, b, &want);
        unpack(type, e, &got);
        same = memcmp(&want, &got, sizeof want) == 0;
    }
    if (!same)
        fail_msg("type %d, %d columns: block %d of row %zu differs", type, n_cols, b, e->r);
}

static void check_stripe(int type, int n_rows, int n_cols)
{
    size_t row_bytes = quant_row_bytes(type, n_cols), bytes = repack_stripe_bytes(type, n_cols);
    uint8_t *rows = malloc(row_bytes * (size_t)n_rows), *stripe = malloc(bytes);
    fill(rows, row_bytes * (size_t)n_rows);
    memset(stripe, 0xa5, bytes);
    repack_rows(type, rows, n_rows, n_cols, stripe);
    struct entry e = {.stripe = stripe, .n_blocks = (size_t)quant_n_blocks(n_cols)};
    for (e.r = 0; e.r < (size_t)n_rows; e.r++)
        for (e.b = 0; e.b < e.n_blocks; e.b++)
            check_entry(type, rows + e.r * row_bytes, n_cols, &e);
    for (; e.r < 32 && !is_k(type); e.r++) /* zeros mean zeros but where an offset or a sign bit comes in */
        for (e.b = 0; e.b < e.n_blocks; e.b++) {
            struct quant_w w = {.d = 0.0f};
            float values[QUANT_BLOCK] = {0}, none[QUANT_BLOCK] = {0};
            if (quant_is_float(type))
                unpack_float(type, &e, values);
            else
                unpack(type, &e, &w);
            assert_memory_equal(values, none, sizeof none);
            assert_true(w.d == 0.0f);
            assert_true(w.min[0] == 0.0f);
        }
    free(rows);
    free(stripe);
}

static void every_block_comes_back(void **state)
{
    (void)state;
    static const int rows[] = {32, 13, 1, 4, 31}, blocks[] = {8, 18, 20, 72, 1, 7, 9};
    for (int i = 0; i < N_TYPES; i++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            for (size_t b = 0; b < sizeof blocks / sizeof blocks[0]; b++)
                if (!is_k(types[i]) || blocks[b] % 8 == 0)
                    check_stripe(types[i], rows[r], blocks[b] * QUANT_BLOCK);
}

static void a_short_last_block_is_filled_up(void **state)
{
    (void)state;
    static const int n_cols[] = {1, 31, 77, 258, 287};
    for (int i = 0; i < N_TYPES; i++)
        for (size_t c = 0; c < sizeof n_cols / sizeof n_cols[0] && quant_is_float(types[i]); c++)
            check_stripe(types[i], 5, n_cols[c]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tensor_takes_at_most_103_percent_of_the_file),
        cmocka_unit_test(every_block_comes_back),
        cmocka_unit_test(a_short_last_block_is_filled_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

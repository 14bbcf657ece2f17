/* test_rows.c: what the CUDA backend does to rows, against the scalar code of engine/numerics and the CPU backend, bit by bit, under three schedules.
 * Columns beyond a row's values hold NaN, and so does the operand before it is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend/cpu/lanes.h"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/repack.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/cuda/memory.h"

#define EPS 1e-5f
#define N_SCHEDULES 3

static const int widths[] = {64, 576, 640, 1536, 32, 2, 90, 100, 130, 1000, 8192 + 36};
#define N_WIDTHS (sizeof widths / sizeof *widths)

static int padded(int n)
{
    return (n + 31) / 32 * 32;
}

/* An operand in device memory, and what the host reads back. */
struct operand_pair {
    struct device_operand to, got;
    size_t n; /* blocks */
};

static void operand_open(struct operand_pair *p, int n_cols, int n_rows)
{
    const int n_blocks = quant_n_blocks(n_cols);
    p->n = (size_t)n_blocks * (size_t)n_rows;
    p->to = (struct device_operand){device_new(p->n * QUANT_BLOCK), device_new(p->n * sizeof(float)), device_new(p->n * 2 * sizeof(int16_t)),
                                    device_new(p->n * QUANT_BLOCK * sizeof(float)), n_cols, n_blocks};
    p->got = (struct device_operand){host_new(p->n * QUANT_BLOCK), host_new(p->n * sizeof(float)), host_new(p->n * 2 * sizeof(int16_t)),
                                     host_new(p->n * QUANT_BLOCK * sizeof(float)), n_cols, n_blocks};
}

static void operand_read(struct operand_pair *p)
{
    must(cudaDeviceSynchronize());
    device_read(p->got.q, p->to.q, p->n * QUANT_BLOCK);
    device_read(p->got.d, p->to.d, p->n * sizeof(float));
    device_read(p->got.sums, p->to.sums, p->n * 2 * sizeof(int16_t));
    device_read(p->got.f, p->to.f, p->n * QUANT_BLOCK * sizeof(float));
}

static void operand_close(struct operand_pair *p)
{
    void *device[] = {p->to.q, p->to.d, p->to.sums, p->to.f}, *host[] = {p->got.q, p->got.d, p->got.sums, p->got.f};
    for (int i = 0; i < 4; i++) {
        must(cudaFree(device[i]));
        free(host[i]);
    }
}

/* Row r of the operand is that of x. */
static void check_operand(const struct operand_pair *p, int r, const float *x, int needs, const char *what)
{
    const struct device_operand *got = &p->got;
    for (int b = 0; b < got->n_blocks; b++) {
        float values[QUANT_BLOCK] = {0};
        const size_t at = (size_t)r * (size_t)got->n_blocks + (size_t)b;
        const int left = got->n_cols - b * QUANT_BLOCK, n = left < QUANT_BLOCK ? left : QUANT_BLOCK;
        struct quant_x want;
        memcpy(values, x + b * QUANT_BLOCK, (size_t)n * sizeof *x);
        quant_quantise(values, &want);
        if ((needs & OPERAND_Q) && (memcmp(got->q + at * QUANT_BLOCK, want.q, QUANT_BLOCK) != 0 || memcmp(&got->d[at], &want.d, 4) != 0 ||
                                    memcmp(got->sums + 2 * at, want.sum, sizeof want.sum) != 0))
            fail_msg("%s: row %d, block %d is scaled by %a, not %a, or else differs", what, r, b, (double)got->d[at], (double)want.d);
        if ((needs & OPERAND_F) && memcmp(got->f + at * QUANT_BLOCK, values, sizeof values) != 0)
            fail_msg("%s: row %d, block %d differs in its floats", what, r, b);
    }
}

/* n_rows rows of n values, padded by NaN to ld. */
static float *rows_new(uint64_t seed, int n_rows, int n, int ld)
{
    float *x = host_new((size_t)n_rows * (size_t)ld * sizeof *x);
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < ld; i++)
            x[r * ld + i] = i >= n ? NAN : test_value(seed, (uint32_t)(r * n + i)) * (i % 53 == 7 ? 30.0f : 1.0f);
    return x;
}

static void check_fault(int *fault, int want)
{
    int got = -1;
    device_read(&got, fault, sizeof got);
    assert_int_equal(got, want);
}

static void compare_norm(int n, int needs)
{
    enum { N_ROWS = 3, N_FROM = 4 };
    static const int32_t rows[N_ROWS] = {3, -1, 0};
    const int ld = padded(n) + 32, zero = 0;
    float *x = rows_new(1, N_FROM, n, ld), *w = host_new((size_t)n * sizeof *w), *want = host_new((size_t)n * sizeof *want);
    struct operand_pair p;
    test_values(2, w, (size_t)n);
    float *on_x = device_copy_of(x, (size_t)(N_FROM * ld) * sizeof *x), *on_w = device_copy_of(w, (size_t)n * sizeof *w);
    int32_t *on_rows = device_copy_of(rows, sizeof rows);
    int *fault = device_copy_of(&zero, sizeof zero);
    for (int gathers = 0; gathers < 2; gathers++) {
        operand_open(&p, n, N_ROWS);
        operand_read(&p);
        const size_t row_bytes = (size_t)p.got.n_blocks * QUANT_BLOCK;
        int8_t *before = host_new(row_bytes);
        memcpy(before, p.got.q + row_bytes, row_bytes);
        const struct device_norm norm = {.x = on_x, .ld = ld, .rows = gathers ? on_rows : NULL, .n_rows = N_ROWS, .w = on_w, .eps = EPS,
                                         .to = p.to, .needs = needs, .fault = fault};
        must(launch_norm(&norm, 0));
        operand_read(&p);
        for (int r = 0; r < N_ROWS; r++) {
            const int from = gathers ? rows[r] : r;
            if (from < 0) { /* padding: as it was */
                assert_int_equal(r, 1);
                assert_memory_equal(p.got.q + row_bytes, before, row_bytes);
                continue;
            }
            const float factor = num_rms_factor(x + from * ld, n, EPS);
            for (int i = 0; i < n; i++)
                want[i] = (x[from * ld + i] * factor) * w[i];
            check_operand(&p, r, want, needs, gathers ? "norm of chosen rows" : "norm");
        }
        free(before);
        operand_close(&p);
    }
    check_fault(fault, 0);
    must(cudaFree(on_x));
    must(cudaFree(on_w));
    must(cudaFree(on_rows));
    must(cudaFree(fault));
    free(x);
    free(w);
    free(want);
}

static void test_normed_operands_are_canonical(void **state)
{
    (void)state;
    for (int schedule = 0; schedule < N_SCHEDULES; schedule++) {
        emulator_set_schedule((enum emulator_schedule)schedule, 5);
        for (size_t i = 0; i < N_WIDTHS; i++)
            for (int needs = i < 2 ? OPERAND_Q : OPERAND_Q | OPERAND_F; needs <= (OPERAND_Q | OPERAND_F); needs++)
                compare_norm(widths[i], needs);
    }
}

/* A post norm, alone and with the norm that follows; the last row is padding and stays as it was. */
static void compare_post(int n, bool followed)
{
    enum { N_ROWS = 3, N_LIVE = 2 };
    const int ld = padded(n), ldt = padded(n) + 64, zero = 0, n_live = N_LIVE;
    const size_t n_x = (size_t)(N_ROWS * ld), n_t = (size_t)(N_ROWS * ldt);
    float *x = rows_new(1, N_ROWS, n, ld), *t = rows_new(2, N_ROWS, n, ldt), *got = host_new(n_x * sizeof *got);
    float *w = host_new((size_t)(2 * n) * sizeof *w), *want = host_new((size_t)n * sizeof *want);
    struct operand_pair p;
    operand_open(&p, n, N_ROWS);
    operand_read(&p);
    const size_t at = (size_t)(N_LIVE * p.got.n_blocks), n_padding = (size_t)p.got.n_blocks;
    int8_t *before = host_new(n_padding * QUANT_BLOCK);
    memcpy(before, p.got.q + at * QUANT_BLOCK, n_padding * QUANT_BLOCK);
    test_values(3, w, (size_t)(2 * n));
    float *on_x = device_copy_of(x, n_x * sizeof *x), *on_t = device_copy_of(t, n_t * sizeof *t);
    float *on_w[2] = {device_copy_of(w, (size_t)n * sizeof *w), device_copy_of(w + n, (size_t)n * sizeof *w)};
    int *fault = device_copy_of(&zero, sizeof zero);
    int32_t *live = device_copy_of(&n_live, sizeof n_live);
    const struct device_post post = {.t = on_t, .ldt = ldt, .w = on_w[0], .eps = EPS, .x = on_x, .ldx = ld, .n = n, .n_rows = N_ROWS, .live = live};
    const struct device_norm norm = {.x = on_x, .ld = ld, .n_rows = N_ROWS, .live = live, .w = on_w[1], .eps = 2 * EPS, .to = p.to,
                                     .needs = OPERAND_Q | OPERAND_F, .fault = fault};
    must(followed ? launch_post_norm(&post, &norm, 0) : launch_post(&post, 0));
    operand_read(&p);
    device_read(got, on_x, n_x * sizeof *got);
    for (int r = 0; r < N_LIVE; r++) {
        const float factor = num_rms_factor(t + r * ldt, n, EPS);
        for (int i = 0; i < n; i++) {
            const float normed = (t[r * ldt + i] * factor) * w[i];
            x[r * ld + i] += normed;
        }
        const float next = num_rms_factor(x + r * ld, n, 2 * EPS);
        for (int i = 0; i < n; i++)
            want[i] = (x[r * ld + i] * next) * w[n + i];
        if (followed)
            check_operand(&p, r, want, OPERAND_Q | OPERAND_F, "post norm and norm");
    }
    assert_memory_equal(got, x, n_x * sizeof *got);
    assert_memory_equal(p.got.q + at * QUANT_BLOCK, before, n_padding * QUANT_BLOCK);
    check_fault(fault, 0);
    operand_close(&p);
    void *const on_device[] = {on_x, on_t, on_w[0], on_w[1], fault, live}, *const on_host[] = {x, t, got, w, want, before};
    for (int i = 0; i < 6; i++) {
        must(cudaFree(on_device[i]));
        free(on_host[i]);
    }
}

static void test_post_norms_are_canonical(void **state)
{
    (void)state;
    for (int schedule = 0; schedule < N_SCHEDULES; schedule++) {
        emulator_set_schedule((enum emulator_schedule)schedule, 6);
        for (size_t i = 0; i < N_WIDTHS; i++)
            for (int followed = 0; followed < 2; followed++)
                compare_post(widths[i], followed);
    }
}

/* Blocks of all magnitudes: zero, below and at the limit under which a block is zero, denormal, halves that round to even, the largest. */
static void fill_blocks(float *x, int n)
{
    static const float scales[] = {1.0f, 0.0f, 0x1p-101f, 0x1p-100f, 0x1p-149f, 0x1p100f, 3.4e38f, 0x1p-99f};
    for (int i = 0; i < n; i++) {
        const float scale = scales[i / QUANT_BLOCK % 8];
        x[i] = i % QUANT_BLOCK == 5 ? -scale : (float)(int)(test_bits(8, (uint32_t)i) % 255 - 127) / 127.0f * scale;
        if (i / QUANT_BLOCK % 8 == 0)
            x[i] = i % QUANT_BLOCK == 0 ? 127.0f : (float)(i % 64) - 31.5f;
    }
}

static void test_quantised_rows_are_canonical_for_all_magnitudes(void **state)
{
    (void)state;
    enum { N_ROWS = 2 };
    for (int schedule = 0; schedule < N_SCHEDULES; schedule++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            const int n = widths[i], ld = padded(n), zero = 0;
            float *x = rows_new(4, N_ROWS, n, ld);
            struct operand_pair p;
            emulator_set_schedule((enum emulator_schedule)schedule, 7);
            fill_blocks(x, n);
            float *on_x = device_copy_of(x, (size_t)(N_ROWS * ld) * sizeof *x);
            int *fault = device_copy_of(&zero, sizeof zero);
            operand_open(&p, n, N_ROWS);
            must(launch_quantise(on_x, ld, N_ROWS, &p.to, OPERAND_Q | OPERAND_F, fault, 0));
            operand_read(&p);
            for (int r = 0; r < N_ROWS; r++)
                check_operand(&p, r, x + r * ld, OPERAND_Q | OPERAND_F, "quantise");
            check_fault(fault, 0);
            operand_close(&p);
            must(cudaFree(on_x));
            must(cudaFree(fault));
            free(x);
        }
}

static void test_a_value_that_is_not_finite_sets_the_fault(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    enum { N = 90, LD = 96 };
    for (int i = 0; i < 12; i++) {
        const int zero = 0, at = i < 6 ? 89 : 31, needs = i % 2 ? OPERAND_F : OPERAND_Q;
        float *x = rows_new(4, 2, N, LD);
        struct operand_pair p;
        x[LD + at] = bad[i % 3];
        float *on_x = device_copy_of(x, 2 * LD * sizeof *x);
        int *fault = device_copy_of(&zero, sizeof zero);
        operand_open(&p, N, 2);
        must(launch_quantise(on_x, LD, 2, &p.to, needs, fault, 0));
        operand_read(&p);
        check_operand(&p, 0, x, needs, "fault");
        if (needs == OPERAND_Q) /* the block of the bad value is zero */
            check_operand(&p, 1, x + LD, needs, "fault");
        check_fault(fault, 1);
        operand_close(&p);
        must(cudaFree(on_x));
        must(cudaFree(fault));
        free(x);
    }
}

static void test_rope_tables_are_the_canonical_cosines_and_sines(void **state)
{
    (void)state;
    enum { N_ROWS = 24, N = 45 };
    double freq[N];
    int32_t pos[N_ROWS];
    float got[N_ROWS * N * 2];
    for (int i = 0; i < N; i++)
        freq[i] = 1.0 / (1 + i * i % 7 + i);
    for (int r = 0; r < N_ROWS; r++)
        pos[r] = (1 << r) - r % 2;
    for (int schedule = 0; schedule < N_SCHEDULES; schedule++) {
        emulator_set_schedule((enum emulator_schedule)schedule, 8);
        double *on_freq = device_copy_of(freq, sizeof freq);
        int32_t *on_pos = device_copy_of(pos, sizeof pos);
        float *cs = device_new(sizeof got);
        must(launch_angles(on_freq, N, on_pos, N_ROWS, cs, 0));
        must(cudaDeviceSynchronize());
        device_read(got, cs, sizeof got);
        for (int r = 0; r < N_ROWS; r++) {
            float want[2 * N];
            lanes_angles(freq, N, pos[r], want);
            assert_memory_equal(got + 2 * N * r, want, sizeof want);
        }
        must(cudaFree(on_freq));
        must(cudaFree(on_pos));
        must(cudaFree(cs));
    }
}

/* ---- embedding ---- */

/* Rows as a file may hold them: any bits, but scales (f16 at these bytes of a unit) of modest size. */
static void fill_tensor(int type, uint8_t *rows, size_t n_bytes)
{
    static const struct {
        short type, at[2];
    } scales[] = {{TENSOR_Q4_0, {0, 0}}, {TENSOR_Q4_1, {0, 2}}, {TENSOR_Q5_0, {0, 0}},     {TENSOR_Q5_1, {0, 2}},     {TENSOR_Q8_0, {0, 0}},
                  {TENSOR_Q2_K, {80, 82}}, {TENSOR_Q3_K, {108, 108}}, {TENSOR_Q4_K, {0, 2}}, {TENSOR_Q5_K, {0, 2}}, {TENSOR_Q6_K, {208, 208}}};
    int n_values, unit_bytes;
    quant_unit(type, &n_values, &unit_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        rows[i] = (uint8_t)test_bits(10, (uint32_t)i);
    for (size_t u = 0; u < n_bytes / (size_t)unit_bytes; u++) {
        const float value = test_value(11, (uint32_t)u);
        const uint16_t half = num_f16_from_f32(value);
        if (type == TENSOR_F32)
            memcpy(rows + 4 * u, &value, sizeof value);
        else if (type == TENSOR_F16)
            memcpy(rows + 2 * u, &half, sizeof half);
        else if (type == TENSOR_BF16)
            rows[2 * u + 1] &= 0xbf; /* no infinities */
        for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
            if (scales[i].type == type)
                for (int k = 0; k < 2; k++)
                    memcpy(rows + u * (size_t)unit_bytes + scales[i].at[k], &half, sizeof half);
    }
}

static void compare_embed(int type, int n_cols, float scale)
{
    enum { N_ROWS = 6, N_VOCAB = 70, N_LIVE = 5 }; /* the last row is padding */
    static const int32_t tokens[N_ROWS] = {69, ~2, 31, ~0, 37, 1 << 30}, slots[3] = {32, 5, -1}, ids[N_LIVE] = {69, 0, 31, 32, 37}, n_live = N_LIVE;
    const int ld = padded(n_cols) + 32;
    const size_t row_bytes = quant_row_bytes(type, n_cols), stripe = repack_stripe_bytes(type, n_cols), n_out = (size_t)(N_ROWS * ld);
    uint8_t *rows = host_new(N_VOCAB * row_bytes), *packed = host_new(repack_bytes(type, N_VOCAB, n_cols));
    float *want = host_new(n_out * sizeof *want), *got = host_new(n_out * sizeof *got);
    struct device_matrix m;
    fill_tensor(type, rows, N_VOCAB * row_bytes);
    for (int r = 0; r < N_VOCAB; r += 32)
        repack_rows(type, rows + (size_t)r * row_bytes, N_VOCAB - r < 32 ? N_VOCAB - r : 32, n_cols, packed + (size_t)(r / 32) * stripe);
    memset(&m, 0, sizeof m);
    m.n_parts = 1;
    m.n_rows = N_VOCAB;
    m.n_cols = n_cols;
    m.n_blocks = quant_n_blocks(n_cols);
    m.parts[0].type = type;
    m.parts[0].n_rows = N_VOCAB;
    m.parts[0].w = device_copy_of(packed, repack_bytes(type, N_VOCAB, n_cols));
    int32_t *on_tokens = device_copy_of(tokens, sizeof tokens), *live = device_copy_of(&n_live, sizeof n_live);
    int32_t *on_slots = device_copy_of(slots, sizeof slots);
    float *x = device_copy_of(want, n_out * sizeof *want); /* what lies beyond the columns stays */
    must(launch_embed(&m, on_tokens, on_slots, N_ROWS, live, scale, x, ld, 0));
    must(cudaDeviceSynchronize());
    device_read(got, x, n_out * sizeof *got);
    for (int r = 0; r < N_LIVE; r++) {
        quant_dequantise_row(type, rows + (size_t)ids[r] * row_bytes, n_cols, want + r * ld);
        for (int i = 0; i < n_cols && scale != 1.0f; i++)
            want[r * ld + i] *= scale;
    }
    if (memcmp(got, want, n_out * sizeof *got) != 0)
        fail_msg("type %d, %d columns, scale %g: embedding differs", type, n_cols, (double)scale);
    must(cudaFree((void *)m.parts[0].w));
    must(cudaFree(on_tokens));
    must(cudaFree(on_slots));
    must(cudaFree(live));
    must(cudaFree(x));
    free(rows);
    free(packed);
    free(want);
    free(got);
}

static void test_embeddings_are_the_rows_of_the_file_for_every_type(void **state)
{
    (void)state;
    static const int types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                TENSOR_Q8_0, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    for (int schedule = 0; schedule < N_SCHEDULES; schedule++) {
        emulator_set_schedule((enum emulator_schedule)schedule, 9);
        for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
            const bool k = types[i] >= TENSOR_Q2_K && types[i] <= TENSOR_Q6_K;
            compare_embed(types[i], k ? 768 : quant_is_float(types[i]) ? 90 : 416, 1.0f);
            compare_embed(types[i], k ? 256 : quant_is_float(types[i]) ? 577 : 32, 25.3f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normed_operands_are_canonical),
        cmocka_unit_test(test_post_norms_are_canonical),
        cmocka_unit_test(test_quantised_rows_are_canonical_for_all_magnitudes),
        cmocka_unit_test(test_a_value_that_is_not_finite_sets_the_fault),
        cmocka_unit_test(test_rope_tables_are_the_canonical_cosines_and_sines),
        cmocka_unit_test(test_embeddings_are_the_rows_of_the_file_for_every_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_cpu.c: the CPU backend gives the same bits on every instruction set, for every batch, chunking and thread count.
 *
 * Random transformers of two layers run through the table of operations, and a record keeps what each left in every row (backend_matrix.h). The
 * specification is "cpu:generic" on one thread with each sequence whole and alone; all other runs must equal its records byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cpu/cpu.h"
#include "tests/engine/backend/backend_matrix.h"
#include "tests/engine/backend/cpu/devices.h"

static void compare_all(const struct spec *s)
{
    struct rig rig;
    rig_open(&rig, s, &cpu_probe, "cpu:generic", 1);
    float *want = run_schedule(&rig, WHOLE);
    backend_cpu.close(rig.be);
    for (size_t d = 0; d < N_DEVICES; d++) {
        if (!device_runs(devices[d]))
            continue;
        for (int how = ONE_BY_ONE; how <= TOGETHER; how++) {
            if (d == 0 && how != RAGGED)
                continue; /* the text is slow */
            char who[64];
            rig_open(&rig, s, &cpu_probe, devices[d], 1 + how % 3);
            float *got = run_schedule(&rig, (enum schedule)how);
            snprintf(who, sizeof who, "%s, schedule %d", devices[d], how);
            assert_records(s, want, got, who);
            free(got);
            backend_cpu.close(rig.be);
        }
    }
    free(want);
}

/* ---- tests ---- */

/* How many of n types to try: threads share the work in one way whatever the type, so under ThreadSanitizer, which is slow, one of a kind will do. */
static int n_tried(int n)
{
#ifdef __SANITIZE_THREAD__
    return n > 0;
#else
    return n;
#endif
}

static void test_every_type_gives_the_same_bits_everywhere(void **state)
{
    (void)state;
    static const enum tensor_type floats[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16},
                                  simple[] = {TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0},
                                  super[] = {TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    for (int i = 0; i < n_tried(3); i++) /* a width that is not a whole number of blocks */
        compare_all(&(struct spec){"float", 66, 90, 70, 3, 1, 30, 45, 30, false, false, false, false, 0, ACT_SILU, ALL(floats[i])});
    for (int i = 0; i < n_tried(5); i++)
        compare_all(&(struct spec){"simple", 66, 96, 160, 2, 1, 80, 45, 80, true, false, false, true, 0, ACT_SILU, ALL(simple[i])});
    for (int i = 0; i < n_tried(5); i++)
        compare_all(&(struct spec){"super", 66, 256, 256, 4, 2, 64, 45, 64, false, false, false, false, 0, ACT_SILU, ALL(super[i])});
}

static void test_long_rows_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    static const enum tensor_type types[] = {TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q5_1, TENSOR_Q2_K,
                                             TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_F16};
    for (int i = 0; i < n_tried(11); i++) /* slots of 9 and 10 blocks; kernels cut them at 8 */
        compare_all(&(struct spec){.name = "long", .n_pos = 66, .d_model = 32, .d_ff = 2304 + 256 * (i % 2), .n_head = 1, .n_kv = 1, .head_dim = 32,
                                   .n_vocab = 33, .rope_dims = 32, .act = ACT_SILU, .q = TENSOR_Q8_0, .k = TENSOR_Q8_0, .v = TENSOR_Q8_0,
                                   .o = TENSOR_Q8_0, .gate = TENSOR_Q8_0, .up = TENSOR_Q8_0, .down = types[i], .vocab = TENSOR_Q8_0});
}

static void test_mixed_types_windows_and_norms_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    compare_all(&(struct spec){.name = "gemma-like", .n_pos = N_POS, .d_model = 256, .d_ff = 256,
                               .n_head = 2, .n_kv = 1, .head_dim = 256, .n_vocab = 300,
                               .rope_dims = 256, .neox = true, .qk_norm = true, .post = true, .window = 20, .act = ACT_GELU_TANH, .q = TENSOR_Q5_0,
                               .k = TENSOR_Q5_0, .v = TENSOR_Q8_0, .o = TENSOR_Q4_K, .gate = TENSOR_Q5_0, .up = TENSOR_F16, .down = TENSOR_Q6_K,
                               .vocab = TENSOR_Q8_0});
    compare_all(&(struct spec){.name = "qwen-like", .n_pos = N_POS, .d_model = 224, .d_ff = 256,
                               .n_head = 14, .n_kv = 2, .head_dim = 16, .n_vocab = 513,
                               .rope_dims = 8, .neox = true, .bias = true, .window = 65, .act = ACT_SILU, .q = TENSOR_Q5_0, .k = TENSOR_Q8_0,
                               .v = TENSOR_F32, .o = TENSOR_Q5_1, .gate = TENSOR_F32, .up = TENSOR_Q4_0, .down = TENSOR_Q4_K, .vocab = TENSOR_Q4_1});
    compare_all(&(struct spec){.name = "wide heads", .n_pos = N_POS, .d_model = 96, .d_ff = 64,
                               .n_head = 6, .n_kv = 6, .head_dim = 96, .n_vocab = 33,
                               .rope_dims = 96, .window = 1, .act = ACT_SILU, ALL(TENSOR_Q8_0)});
}

static void nothing(void *arg)
{
    ++*(int *)arg;
}

/* qkv over one row of activations equals quant_dot for each output. Activations of full magnitude and equal or matching signs drive the integer
 * sums to their ends, where 16-bit sums would saturate. */
static void assert_canonical_dot(const char *device, enum tensor_type type, int pattern)
{
    const int n_cols = 768, n_rows = 128;
    struct backend_shape shape = {1, n_cols, 64, 2, 1, 32, 64, 32, false, 1, 1, 1, 1, device, 0};
    struct backend *be = NULL;
    struct matrix *m = NULL;
    struct vector *w = NULL;
    struct err err;
    assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
    struct cpu *c = (struct cpu *)be;
    struct sample t = random_tensor(type, n_rows, n_cols);
    assert_int_equal(backend_cpu.matrix_stack(be, &t.shape, 1, &m, &err), 0);
    float x[768], normed[768], ones[768];
    for (int i = 0; i < n_cols; i++) {
        x[i] = pattern == 0 ? rng_float(3.0f) : pattern == 1 ? 1.0f : pattern == 2 ? -1.0f : rng() % 2 ? 1.0f : -1.0f;
        ones[i] = 1.0f;
    }
    assert_int_equal(backend_cpu.vector(be, n_cols, &w, &err), 0);
    assert_int_equal(backend_cpu.reserve(be, &err), 0);
    int n_calls = 0;
    backend_cpu.fill(be, &(struct fill){m, 0, 0, n_rows, t.rows}, 1, nothing, &n_calls);
    backend_cpu.fill_vector(be, w, 0, ones, n_cols);
    int32_t zero = 0;
    const int32_t *pages[1] = {page_tables[0]};
    struct batch b = {1, &zero, &zero, &zero, 1, pages, 0, &zero};
    backend_cpu.begin(be, &b, NULL, 0);
    memcpy(c->x, x, sizeof x);
    backend_cpu.norm(be, w, 1e-5f, m);
    backend_cpu.qkv(be, m, NULL);
    float factor = num_rms_factor(x, n_cols, 1e-5f);
    for (int i = 0; i < n_cols; i++)
        normed[i] = x[i] * factor;
    for (int n = 0; n < n_rows; n++) {
        float want = quant_dot(type, t.rows + (size_t)n * quant_row_bytes(type, n_cols), normed, n_cols);
        if (memcmp(&want, &c->qkv[n], sizeof want) != 0)
            fail_msg("%s, type %d, pattern %d, output %d: %a, not %a", device, (int)type, pattern, n, (double)c->qkv[n], (double)want);
    }
    free(t.rows);
    backend_cpu.close(be);
}

static void test_a_product_is_the_canonical_dot(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DEVICES; d++)
        for (size_t t = 0; t < N_TYPES && device_runs(devices[d]); t++)
            for (int pattern = 0; pattern < 4; pattern++)
                assert_canonical_dot(devices[d], all_types[t], pattern);
}

#define SHAPE_ROWS (CPU_ITEM_ROWS + 1)
#define SHAPE_OUTPUTS 72

/* Wide matrices take minutes there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define INSTRUMENTED true
#else
#define INSTRUMENTED false
#endif

/* A matrix of 37 + 34 + 1 outputs over n_cols inputs, times the first n_rows rows, which are always the same; out is [n_rows][SHAPE_OUTPUTS]. */
static void multiply(const char *device, enum tensor_type type, int n_cols, const int *n_rows, int n_steps, float (*out)[SHAPE_ROWS][SHAPE_OUTPUTS])
{
    struct backend_shape shape = {1, n_cols, 64, 1, 1, 24, 64, 24, false, SHAPE_ROWS, 1, 1, 2, device, 0};
    struct backend *be = NULL;
    struct matrix *m = NULL;
    struct err err;
    assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
    struct cpu *c = (struct cpu *)be;
    rng_state = 99;
    struct sample parts[3] = {random_tensor(type, 37, n_cols), random_tensor(type, 34, n_cols), random_tensor(type, 1, n_cols)};
    const struct tensor shapes[3] = {parts[0].shape, parts[1].shape, parts[2].shape};
    assert_int_equal(backend_cpu.matrix_stack(be, shapes, 3, &m, &err), 0);
    for (int i = 0; i < 3; i++)
        await(m, i, parts[i]);
    struct vector *norm = random_vector(be, n_cols, 1.0f, 0.5f);
    fill_all(be);
    for (int step = 0; step < n_steps; step++) {
        int32_t zeros[SHAPE_ROWS] = {0}, pos[SHAPE_ROWS];
        const int32_t *pages[1] = {zeros};
        for (int i = 0; i < SHAPE_ROWS; i++)
            pos[i] = i;
        struct batch b = {n_rows[step], zeros, pos, zeros, 1, pages, 0, zeros};
        backend_cpu.begin(be, &b, NULL, 0);
        rng_state = 5;
        for (int i = 0; i < n_rows[step] * n_cols; i++)
            c->x[i] = rng_float(2.0f);
        backend_cpu.norm(be, norm, 1e-5f, m);
        backend_cpu.qkv(be, m, NULL);
        for (int i = 0; i < n_rows[step]; i++)
            memcpy(out[step][i], c->qkv + (size_t)i * (size_t)c->qkv_cols, sizeof out[step][i]);
    }
    backend_cpu.close(be);
}

static void test_odd_shapes_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    /* Slots of all sizes: many, few or one fit into what a kernel unpacks at a time, or not even one. */
    static const int n_rows[] = {SHAPE_ROWS, 1, 2, 3, 4, 5, 7, 8, 13, 23};
    static const int widths[3][5] = {{1, 95}, {32, 288, 1120, 2016, 3360}, {256, 768, 1024, 2048, 3328}};
    enum { N_STEPS = sizeof n_rows / sizeof *n_rows };
    static float want[1][SHAPE_ROWS][SHAPE_OUTPUTS], got[N_STEPS][SHAPE_ROWS][SHAPE_OUTPUTS];
    for (size_t t = 0; t < N_TYPES; t++)
        for (int k = 0; k < 5; k++) {
            int n_values, n_bytes, n_cols;
            quant_unit(all_types[t], &n_values, &n_bytes);
            n_cols = widths[n_values == 1 ? 0 : n_values == 32 ? 1 : 2][k];
            if (n_cols == 0 || (n_cols > 768 && INSTRUMENTED))
                continue;
            multiply("cpu:generic", all_types[t], n_cols, n_rows, 1, want);
            for (size_t d = 1; d < N_DEVICES; d++) {
                if (!device_runs(devices[d]))
                    continue;
                multiply(devices[d], all_types[t], n_cols, n_rows, N_STEPS, got);
                for (int s = 0; s < N_STEPS; s++)
                    if (memcmp(want[0], got[s], (size_t)n_rows[s] * sizeof want[0][0]) != 0)
                        fail_msg("%s, type %d: %d rows times %d outputs of %d inputs differ", devices[d], (int)all_types[t], n_rows[s], SHAPE_OUTPUTS,
                                 n_cols);
            }
        }
}

#define WIDE_ROWS 16
#define WIDE_VOCAB 66001 /* 4 MiB of scores, and not a whole number of stripes */
#define WIDE_BLOCKS ((WIDE_VOCAB + SCORES_BLOCK - 1) / SCORES_BLOCK)

/* The scores of the first WIDE_ROWS of n_rows rows over a wide vocabulary, then their block maxima. */
static void score_widely(const char *device, int n_rows, float *out)
{
    enum { N_COLS = 32 };
    struct backend_shape shape = {1, N_COLS, 32, 1, 1, 24, WIDE_VOCAB, 24, false, WIDE_ROWS + 1, WIDE_ROWS + 1, 1, 2, device, 0};
    struct backend *be = NULL;
    struct scores scores;
    struct err err;
    int32_t zeros[WIDE_ROWS + 1] = {0}, each[WIDE_ROWS + 1];
    const int32_t *pages[1] = {zeros};
    struct batch b = {n_rows, zeros, each, zeros, 1, pages, n_rows, each};
    assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
    rng_state = 7;
    struct matrix *m = random_matrix(be, TENSOR_Q8_0, WIDE_VOCAB, N_COLS);
    struct vector *norm = random_vector(be, N_COLS, 1.0f, 0.5f);
    fill_all(be);
    for (int i = 0; i < n_rows; i++)
        each[i] = i;
    backend_cpu.begin(be, &b, NULL, 0);
    for (int i = 0; i < n_rows * N_COLS; i++)
        ((struct cpu *)be)->x[i] = rng_float(2.0f);
    backend_cpu.vocab(be, m, norm, 1e-5f, 0, n_rows);
    assert_int_equal(backend_cpu.sync(be, &scores, &err), 0);
    for (int i = 0; i < WIDE_ROWS; i++, out += WIDE_VOCAB + WIDE_BLOCKS) {
        memcpy(out, scores.row(scores.ctx, i), WIDE_VOCAB * sizeof *out);
        memcpy(out + WIDE_VOCAB, scores.block_max(scores.ctx, i), WIDE_BLOCKS * sizeof *out);
    }
    backend_cpu.close(be);
}

/* Few rows of many scores go to memory another way than more rows do. */
static void test_wide_vocabularies_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    static float want[WIDE_ROWS * (WIDE_VOCAB + WIDE_BLOCKS)], got[WIDE_ROWS * (WIDE_VOCAB + WIDE_BLOCKS)];
    score_widely("cpu:generic", WIDE_ROWS + 1, want);
    for (size_t d = 0; d < N_DEVICES; d++)
        for (int n_rows = WIDE_ROWS; n_rows <= WIDE_ROWS + 1 && device_runs(devices[d]); n_rows++) {
            score_widely(devices[d], n_rows, got);
            if (memcmp(want, got, sizeof want) != 0)
                fail_msg("%s: the scores of %d rows differ", devices[d], n_rows);
        }
}

static void test_a_copied_page_continues_as_the_original(void **state)
{
    (void)state;
    static const int32_t copied[3] = {7, 9, 5};
    struct spec s = {"copy", 75, 96, 64, 4, 2, 24, 40, 24, false, false, false, false, 0, ACT_SILU, ALL(TENSOR_Q5_0)};
    for (size_t d = 0; d < N_DEVICES; d++) {
        if (!device_runs(devices[d]))
            continue;
        struct rig rig;
        rig_open(&rig, &s, &cpu_probe, devices[d], 1);
        float *want = run_schedule(&rig, RAGGED);
        int rows[40][2];
        const int32_t *pages[N_SEQS] = {copied, page_tables[1], page_tables[2]};
        backend_cpu.copy_page(rig.be, 7, 3, 41); /* positions 0..40 of sequence 0 */
        float *got = calloc((size_t)N_SEQS * N_POS, (size_t)record_floats(&s) * sizeof *got);
        memcpy(got, want, (size_t)N_SEQS * N_POS * (size_t)record_floats(&s) * sizeof *got);
        memset(got + 41 * record_floats(&s), 0, (size_t)34 * (size_t)record_floats(&s) * sizeof *got);
        for (int i = 0; i < 34; i++) {
            rows[i][0] = 0;
            rows[i][1] = 41 + i;
        }
        forward_rows(&rig, (const int (*)[2])rows, 34, pages, got);
        assert_records(&s, want, got, devices[d]);
        free(want);
        free(got);
        backend_cpu.close(rig.be);
    }
}

static void test_a_value_that_is_not_finite_is_a_sticky_fault(void **state)
{
    (void)state;
    struct spec s = {"fault", 1, 64, 64, 2, 1, 32, 64, 32, false, false, false, false, 0, ACT_SILU, ALL(TENSOR_Q4_1)};
    for (size_t d = 0; d < N_DEVICES; d++) {
        if (!device_runs(devices[d]))
            continue;
        static const float bad[] = {NAN, INFINITY, -INFINITY};
        for (int i = 0; i < 3; i++) {
            struct rig rig;
            rig_open(&rig, &s, &cpu_probe, devices[d], 1);
            struct cpu *c = (struct cpu *)rig.be;
            struct err err;
            struct scores scores;
            int32_t zeros[9] = {0}; /* rows enough for any kernel to take some together */
            const int32_t *pages[1] = {page_tables[0]};
            struct batch b = {9, zeros, zeros, zeros, 1, pages, 0, zeros};
            backend_cpu.begin(rig.be, &b, NULL, 0);
            backend_cpu.embed(rig.be, rig.vocab, 1.0f);
            assert_int_equal(backend_cpu.sync(rig.be, &scores, &err), 0);
            c->x[4 * i * s.d_model + 17] = bad[i];
            backend_cpu.norm(rig.be, rig.layers[0].norm, 1e-5f, rig.layers[0].qkv);
            assert_int_equal(backend_cpu.sync(rig.be, &scores, &err), -1);
            assert_int_equal(err.code, ERR_DEVICE);
            backend_cpu.begin(rig.be, &b, NULL, 0);
            assert_int_equal(backend_cpu.sync(rig.be, &scores, &err), -1);
            backend_cpu.close(rig.be);
        }
    }
}

/* Whether the kernel would let this process write there. */
static bool is_writable(const void *at)
{
    unsigned long lo, hi;
    char line[512], mode[8];
    bool found = false, writable = true;
    FILE *f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "%lx-%lx %7s", &lo, &hi, mode) == 3 && (uintptr_t)at >= lo && (uintptr_t)at < hi) {
            found = true;
            writable = mode[1] == 'w';
        }
    fclose(f);
    assert_true(found);
    return writable;
}

static void test_sealed_weights_cannot_be_written(void **state)
{
    (void)state;
    struct spec spec = {"seal", 1, 64, 64, 2, 1, 32, 64, 32, false, false, false, false, 0, ACT_SILU, ALL(TENSOR_Q4_1)};
    struct rig rig;
    rig_open(&rig, &spec, &cpu_probe, "cpu", 1);
    assert_false(is_writable(rig.vocab->parts[0].w));
    assert_false(is_writable(rig.out_norm->values));
    for (int i = 0; i < N_LAYERS; i++) {
        const struct model *m = &rig.layers[i];
        const struct matrix *const matrices[] = {m->qkv, m->o, m->pair, m->down};
        const struct vector *const vectors[] = {m->norm, m->ffn_norm, m->bias, m->q_norm, m->k_norm, m->post};
        for (size_t k = 0; k < sizeof matrices / sizeof *matrices; k++)
            assert_false(is_writable(matrices[k]->parts[0].w));
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
            assert_false(is_writable(vectors[k]->values));
    }
    assert_true(is_writable(((struct cpu *)rig.be)->kv));
    backend_cpu.close(rig.be);
}

static void test_an_unknown_device_is_refused_with_a_sentence(void **state)
{
    (void)state;
    struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, "cpu:mmx", 0};
    struct backend *be = NULL;
    struct err err;
    assert_int_equal(backend_cpu.open(&shape, &be, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "cpu:mmx"));
    assert_null(be);
}

#ifdef DEVICE_THAT_MUST_RUN
/* Where the processor is known, as under an emulator, no kernel may be left out for want of it, and "cpu" means the best. */
static void test_the_kernels_of_this_processor_run(void **state)
{
    (void)state;
    struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, "cpu", 0};
    struct backend *be = NULL;
    struct err err;
    assert_true(device_runs(DEVICE_THAT_MUST_RUN));
    assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
    assert_string_equal(be->device, DEVICE_THAT_MUST_RUN);
    be->ops->close(be);
}
#endif

static void test_a_malformed_tensor_is_refused(void **state)
{
    (void)state;
    struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, "cpu", 0};
    struct backend *be = NULL;
    struct matrix *m = NULL;
    struct err err;
    assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
    struct tensor short_row = {TENSOR_Q4_K, 1, 32}, unknown = {(enum tensor_type)23, 1, 32};
    assert_int_equal(be->ops->matrix_stack(be, &short_row, 1, &m, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_int_equal(be->ops->matrix_pair(be, &unknown, &unknown, &m, &err), -1);
    assert_null(m);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_gives_the_same_bits_everywhere),
        cmocka_unit_test(test_long_rows_give_the_same_bits_everywhere),
        cmocka_unit_test(test_mixed_types_windows_and_norms_give_the_same_bits_everywhere),
        cmocka_unit_test(test_a_product_is_the_canonical_dot),
        cmocka_unit_test(test_odd_shapes_give_the_same_bits_everywhere),
        cmocka_unit_test(test_wide_vocabularies_give_the_same_bits_everywhere),
        cmocka_unit_test(test_a_copied_page_continues_as_the_original),
        cmocka_unit_test(test_a_value_that_is_not_finite_is_a_sticky_fault),
        cmocka_unit_test(test_sealed_weights_cannot_be_written),
        cmocka_unit_test(test_an_unknown_device_is_refused_with_a_sentence),
#ifdef DEVICE_THAT_MUST_RUN
        cmocka_unit_test(test_the_kernels_of_this_processor_run),
#endif
        cmocka_unit_test(test_a_malformed_tensor_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_cuda.c: the whole CUDA backend, on the emulated device, gives the CPU backend's bits; and what fails there is said and survived.
 *
 * The transformers of backend_matrix.h run on both: every type, mixed types, windows, norms, biases, short blocks, long slots, more than two pages,
 * rows one by one, ragged and together. Then memory that cannot be had, devices that will not do and faults in mid-step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/model/device.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/engine/backend/backend_matrix.h"

/* ---- the probe ---- */

static void spoil_pages(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    size_t n = be->ops->kv_bytes(be);
    assert_int_equal(cudaMemsetAsync(c->kv_pages, 0xff, n, c->stream), cudaSuccess);
}

static void peek(struct backend *be, enum buffer which, int n_rows, int n, float *out)
{
    struct cuda *c = cuda_of(be);
    const struct device_rows *from = which == BUFFER_X ? &c->x : which == BUFFER_QKV ? &c->qkv : &c->o;
    const size_t n_bytes = (size_t)n_rows * (size_t)from->ld * sizeof(float);
    float *rows = malloc(n_bytes), *before = malloc(n_bytes);
    const bool rotates = which == BUFFER_QKV && c->ropes, posts = which == BUFFER_X && c->posts; /* the next operation will, and wants it as it is */
    if (rotates || posts)
        assert_int_equal(cudaMemcpyAsync(before, from->p, n_bytes, cudaMemcpyDeviceToHost, c->stream), cudaSuccess);
    if (rotates)
        assert_int_equal(launch_rope_store(&c->rope, c->stream), cudaSuccess);
    if (posts)
        assert_int_equal(launch_post(&c->post, c->stream), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(rows, from->p, (size_t)n_rows * (size_t)from->ld * sizeof *rows, cudaMemcpyDeviceToHost, c->stream), 0);
    if (rotates || posts)
        assert_int_equal(cudaMemcpyAsync(from->p, before, n_bytes, cudaMemcpyHostToDevice, c->stream), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(c->stream), cudaSuccess);
    for (int r = 0; r < n_rows; r++)
        memcpy(out + (size_t)r * (size_t)n, rows + (size_t)r * (size_t)from->ld, (size_t)n * sizeof *out);
    free(rows);
    free(before);
}

static const struct probe gpu_probe = {&backend_cuda, spoil_pages, peek};

/* ---- the same bits ---- */

static void compare(const struct spec *s, int first_schedule, int last_schedule)
{
    struct rig rig;
    rig_open(&rig, s, &cpu_probe, "cpu", 1);
    float *want = run_schedule(&rig, WHOLE);
    backend_cpu.close(rig.be);
    for (int how = first_schedule; how <= last_schedule; how++) {
        char who[64];
        rig_open(&rig, s, &gpu_probe, "cuda:0", 1 + how % 2);
        float *got = run_schedule(&rig, (enum schedule)how);
        snprintf(who, sizeof who, "cuda:0, schedule %d", how);
        assert_records(s, want, got, who);
        free(got);
        backend_cuda.close(rig.be);
    }
    free(want);
}

static void test_every_type_gives_the_bits_of_the_cpu(void **state)
{
    (void)state;
    for (int i = 0; i < N_TYPES; i++) {
        int n_values, n_bytes;
        quant_unit(all_types[i], &n_values, &n_bytes);
        const enum tensor_type t = all_types[i];
        const struct spec kinds[3] = {
            {"float", 66, 90, 70, 3, 1, 30, 45, 30, false, false, false, false, 0, ACT_SILU, ALL(t)}, /* not a whole number of blocks */
            {"simple", 66, 96, 160, 2, 1, 80, 45, 80, true, false, false, true, 0, ACT_SILU, ALL(t)},
            {"super", 66, 256, 256, 4, 2, 64, 45, 64, false, false, false, false, 0, ACT_SILU, ALL(t)},
        };
        compare(&kinds[n_values == 1 ? 0 : n_values == 32 ? 1 : 2], RAGGED, RAGGED);
    }
}

static void test_long_rows_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    for (int i = 0; i < N_TYPES; i++) /* slots of 9 and 10 blocks */
        compare(&(struct spec){.name = "long", .n_pos = 21, .d_model = 32, .d_ff = 2304 + 256 * (i % 2), .n_head = 1, .n_kv = 1, .head_dim = 32,
                               .n_vocab = 33, .rope_dims = 32, .act = ACT_SILU, .q = TENSOR_Q8_0, .k = TENSOR_Q8_0, .v = TENSOR_Q8_0,
                               .o = TENSOR_Q8_0, .gate = TENSOR_Q8_0, .up = TENSOR_Q8_0, .down = all_types[i], .vocab = TENSOR_Q8_0},
                RAGGED, RAGGED);
}

static void test_mixed_types_windows_and_norms_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    compare(&(struct spec){.name = "gemma-like", .n_pos = N_POS, .d_model = 256, .d_ff = 256, .n_head = 2, .n_kv = 1, .head_dim = 256, .n_vocab = 300,
                           .rope_dims = 256, .neox = true, .qk_norm = true, .post = true, .window = 20, .act = ACT_GELU_TANH, .q = TENSOR_Q5_0,
                           .k = TENSOR_Q5_0, .v = TENSOR_Q8_0, .o = TENSOR_Q4_K, .gate = TENSOR_Q5_0, .up = TENSOR_F16, .down = TENSOR_Q6_K,
                           .vocab = TENSOR_Q8_0},
            RAGGED, TOGETHER);
    compare(&(struct spec){.name = "qwen-like", .n_pos = N_POS, .d_model = 224, .d_ff = 256, .n_head = 14, .n_kv = 2, .head_dim = 16, .n_vocab = 513,
                           .rope_dims = 8, .neox = true, .bias = true, .window = 65, .act = ACT_SILU, .q = TENSOR_Q5_0, .k = TENSOR_Q8_0,
                           .v = TENSOR_F32, .o = TENSOR_Q5_1, .gate = TENSOR_F32, .up = TENSOR_Q4_0, .down = TENSOR_Q4_K, .vocab = TENSOR_Q4_1},
            RAGGED, TOGETHER);
    compare(&(struct spec){.name = "wide heads", .n_pos = N_POS, .d_model = 96, .d_ff = 64, .n_head = 6, .n_kv = 6, .head_dim = 96, .n_vocab = 33,
                           .rope_dims = 96, .window = 1, .act = ACT_SILU, ALL(TENSOR_Q8_0)},
            RAGGED, RAGGED);
    compare(&(struct spec){.name = "one by one", .n_pos = 67, .d_model = 64, .d_ff = 64, .n_head = 4, .n_kv = 2, .head_dim = 128, .n_vocab = 257,
                           .rope_dims = 64, .act = ACT_SILU, ALL(TENSOR_Q4_1)},
            ONE_BY_ONE, ONE_BY_ONE);
}

static const struct spec tiny = {"tiny", 5, 64, 64, 2, 1, 32, 40, 32, false, false, false, false, 0, ACT_SILU, ALL(TENSOR_Q4_1)};

static void test_any_order_of_the_device_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct spec s = {"orders", 66, 96, 160, 2, 1, 80, 45, 80, true, true, true, true, 30, ACT_SILU, ALL(TENSOR_Q5_1)};
    emulator_set_schedule(EMULATOR_REVERSE, 0);
    compare(&s, RAGGED, RAGGED);
    emulator_set_schedule(EMULATOR_RANDOM, 7);
    compare(&s, RAGGED, RAGGED);
    emulator_set_schedule(EMULATOR_FORWARD, 0);
}

static void test_a_copied_page_continues_as_the_original(void **state)
{
    (void)state;
    static const int32_t copied[3] = {7, 9, 5};
    static const struct spec s = {"copy", 75, 96, 64, 4, 2, 24, 40, 24, false, false, false, false, 0, ACT_SILU, ALL(TENSOR_Q5_0)};
    struct rig rig;
    rig_open(&rig, &s, &gpu_probe, "cuda:0", 1);
    float *want = run_schedule(&rig, RAGGED);
    size_t floats = (size_t)record_floats(&s);
    int rows[34][2];
    const int32_t *pages[N_SEQS] = {copied, NULL, NULL}; /* sequences without rows need no table */
    backend_cuda.copy_page(rig.be, 7, 3, 41); /* positions 0..40 of sequence 0 */
    float *got = calloc((size_t)N_SEQS * N_POS, floats * sizeof *got);
    memcpy(got, want, (size_t)N_SEQS * N_POS * floats * sizeof *got);
    memset(got + 41 * floats, 0, 34 * floats * sizeof *got);
    for (int i = 0; i < 34; i++) {
        rows[i][0] = 0;
        rows[i][1] = 41 + i;
    }
    forward_rows(&rig, (const int (*)[2])rows, 34, pages, got);
    assert_records(&s, want, got, "cuda:0");
    free(want);
    free(got);
    backend_cuda.close(rig.be);
}

/* ---- what fails ---- */

static void step(struct rig *rig, int n_out)
{
    const struct backend_ops *ops = rig->be->ops;
    static const int32_t zeros[9], rows[1];
    const int32_t *pages[1] = {page_tables[0]};
    struct batch b = {9, zeros, zeros, zeros, 1, pages, n_out, rows};
    ops->begin(rig->be, &b, NULL, 0);
    ops->embed(rig->be, rig->vocab, 1.0f);
    if (n_out > 0)
        ops->vocab(rig->be, rig->vocab, rig->out_norm, 1e-5f, 0, n_out);
}

static void test_a_value_that_is_not_finite_is_a_sticky_fault(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        struct rig rig;
        rig_open(&rig, &tiny, &gpu_probe, "cuda:0", 1);
        struct cuda *c = cuda_of(rig.be);
        struct err err;
        struct scores scores;
        step(&rig, 0);
        assert_int_equal(backend_cuda.sync(rig.be, &scores, &err), 0);
        assert_int_equal(scores.n_out, 0);
        assert_int_equal(cudaMemcpyAsync(c->x.p + 4 * i * c->x.ld + 17, &bad[i], sizeof *bad, cudaMemcpyHostToDevice, c->stream), cudaSuccess);
        backend_cuda.norm(rig.be, rig.layers[0].norm, 1e-5f, rig.layers[0].qkv);
        assert_int_equal(backend_cuda.sync(rig.be, &scores, &err), -1);
        assert_int_equal(err.code, ERR_DEVICE);
        step(&rig, 1);
        assert_int_equal(backend_cuda.sync(rig.be, &scores, &err), -1);
        backend_cuda.close(rig.be);
    }
}

static void assert_nothing_is_left(const struct emulator_counts *before)
{
    struct emulator_counts now;
    emulator_get_counts(&now);
    assert_int_equal(now.n_device_buffers, before->n_device_buffers);
    assert_int_equal(now.n_pinned_buffers, before->n_pinned_buffers);
    assert_int_equal(now.n_streams, before->n_streams);
    assert_int_equal(now.n_events, before->n_events);
}

/* Opens, makes one matrix and reserves; the failure that `err` tells, or 0. */
static int open_and_reserve(const char *device, struct err *err)
{
    struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, device, 0};
    struct tensor t = {TENSOR_Q8_0, 32, 32};
    struct backend *be = NULL;
    struct matrix *m;
    int rc = backend_cuda.open(&shape, &be, err);
    if (rc == 0)
        rc = be->ops->matrix_stack(be, &t, 1, &m, err) != 0 || be->ops->reserve(be, err) != 0 ? -1 : 0;
    backend_cuda.close(be);
    return rc;
}

static void test_memory_that_cannot_be_had_is_said_and_nothing_is_left(void **state)
{
    (void)state;
    struct emulator_counts before;
    struct err err;
    int n_failed = 0;
    emulator_get_counts(&before);
    for (int n = 1;; n++) {
        emulator_fail_malloc_at(n);
        int rc = open_and_reserve("cuda:0", &err);
        emulator_fail_malloc_at(0);
        assert_nothing_is_left(&before);
        if (rc == 0)
            break;
        assert_int_equal(err.code, ERR_NOMEM);
        assert_non_null(strstr(err.msg, "cuda:0"));
        n_failed++;
    }
    assert_int_equal(n_failed, 16); /* work, pages, two for inputs, three for results, six for draws, weights, two for them */
}

static void test_a_device_that_will_not_do_is_refused_with_its_version(void **state)
{
    (void)state;
    struct emulator_device normal, device;
    struct err err;
    emulator_get_device(&normal);
    static const char *const unknown[] = {"cuda:", "cuda:x", "cuda:0x", "cuda:-1", "cuda:7", "gpu"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_int_equal(open_and_reserve(unknown[i], &err), -1);
        assert_int_equal(err.code, strcmp(unknown[i], "cuda:7") == 0 ? ERR_NOT_FOUND : ERR_UNSUPPORTED);
        assert_non_null(strstr(err.msg, unknown[i]));
    }
    device = normal;
    device.capability = 75;
    emulator_set_device(&device);
    assert_int_equal(open_and_reserve("cuda:0", &err), -1);
    assert_non_null(strstr(err.msg, "compute capability 7.5"));
    assert_non_null(strstr(err.msg, "8.0"));
    device = normal;
    device.driver_version = 11020;
    emulator_set_device(&device);
    assert_int_equal(open_and_reserve("cuda:0", &err), -1);
    assert_non_null(strstr(err.msg, "CUDA 11.2"));
    assert_non_null(strstr(err.msg, "11.8"));
    device.driver_version = 0;
    emulator_set_device(&device);
    assert_int_equal(open_and_reserve("cuda", &err), -1);
    assert_non_null(strstr(err.msg, "no NVIDIA driver"));
    emulator_set_device(&normal);
    emulator_reset();
    assert_int_equal(open_and_reserve("cuda", &err), 0);
}

static void test_auto_takes_the_first_gpu_or_says_why_not(void **state)
{
    (void)state;
    struct emulator_device normal, device;
    struct device_choice d;
    struct err err;
    emulator_get_device(&normal);
    assert_int_equal(device_choose("auto", 1 << 20, &d, &err), 0);
    assert_ptr_equal(d.ops, &backend_cuda);
    assert_string_equal(d.name, "cuda:0");
    assert_string_equal(d.note, "");
    assert_true(d.free_bytes > 0 && d.free_bytes <= normal.memory_bytes);
    assert_int_equal(device_choose("auto", normal.memory_bytes + 1, &d, &err), 0);
    assert_ptr_equal(d.ops, &backend_cpu);
    assert_non_null(strstr(d.note, "MiB free; the model needs"));
    device = normal;
    device.capability = 75;
    emulator_set_device(&device);
    assert_int_equal(device_choose("cuda:0", 1 << 20, &d, &err), -1);
    assert_int_equal(device_choose("auto", 1 << 20, &d, &err), 0);
    assert_ptr_equal(d.ops, &backend_cpu);
    assert_int_equal(d.free_bytes, 0);
    assert_non_null(strstr(d.note, "compute capability 7.5"));
    assert_non_null(strstr(d.note, "the CPU computes"));
    emulator_set_device(&normal);
    assert_int_equal(device_choose("gpu", 1 << 20, &d, &err), -1);
    assert_non_null(strstr(err.msg, "cuda:1"));
}

static void test_a_fault_of_the_device_is_said_at_sync_and_stays(void **state)
{
    (void)state;
    struct emulator_counts before;
    struct err err;
    emulator_get_counts(&before);
    for (int n = 1;; n++) {
        struct scores scores = {.n_out = 77};
        struct rig rig;
        rig_open(&rig, &tiny, &gpu_probe, "cuda:0", 1);
        assert_int_equal(cudaStreamSynchronize(cuda_of(rig.be)->stream), cudaSuccess);
        emulator_fault_at(n, cudaErrorIllegalAddress);
        step(&rig, 1);
        int rc = backend_cuda.sync(rig.be, &scores, &err);
        if (rc != 0) {
            assert_int_equal(err.code, ERR_DEVICE);
            assert_non_null(strstr(err.msg, "cuda:0"));
            assert_int_equal(scores.n_out, 77);
            step(&rig, 1);
            backend_cuda.copy_page(rig.be, 1, 0, 3);
            assert_int_equal(backend_cuda.sync(rig.be, &scores, &err), -1);
        }
        backend_cuda.close(rig.be);
        emulator_fault_at(0, cudaSuccess);
        emulator_reset();
        assert_nothing_is_left(&before);
        if (rc == 0) {
            assert_true(n > 6);
            return;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_gives_the_bits_of_the_cpu),
        cmocka_unit_test(test_long_rows_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_mixed_types_windows_and_norms_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_any_order_of_the_device_gives_the_same_bits),
        cmocka_unit_test(test_a_copied_page_continues_as_the_original),
        cmocka_unit_test(test_a_value_that_is_not_finite_is_a_sticky_fault),
        cmocka_unit_test(test_memory_that_cannot_be_had_is_said_and_nothing_is_left),
        cmocka_unit_test(test_a_device_that_will_not_do_is_refused_with_its_version),
        cmocka_unit_test(test_auto_takes_the_first_gpu_or_says_why_not),
        cmocka_unit_test(test_a_fault_of_the_device_is_said_at_sync_and_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

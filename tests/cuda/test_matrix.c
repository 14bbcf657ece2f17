/* test_matrix.c: the matrix kernels give the bits of numerics/quant.h for every weight type, under three schedules of the emulated device.
 *
 * Each case makes rows of any bytes that are finite weights, repacks them as the backend does, runs a launcher and compares all of the result's
 * buffer - what must not be written, too - with quant_mac's chains, computed here block by block. Shapes are odd on purpose: rows that end within
 * a group of four, a stripe, a tile of scores; numbers of blocks that end within a group of eight; rows of x that end within a pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <emulator.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/repack.h"
#include "engine/numerics/quant.h"

#define must(call) assert_int_equal((call), cudaSuccess)

static const int types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                            TENSOR_Q8_0, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
#define N_TYPES ((int)(sizeof types / sizeof types[0]))

typedef cudaError_t launcher(const struct device_product *p, cudaStream_t stream);

/* ---- random content ---- */

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Bytes that are blocks of some finite values, whatever the type. */
static uint8_t *random_rows(size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(next(&seed) >> 8) & 0xbf;
    return p;
}

/* Activations of several magnitudes; some blocks are zero, some too small to be quantised. */
static float *random_floats(size_t n, uint32_t seed)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint32_t kind = ((uint32_t)(i / QUANT_BLOCK) * 2654435761u) >> 28;
        float scale = kind == 0 ? 0.0f : kind == 1 ? 0x1p-110f : kind < 6 ? 30.0f : 0.7f;
        x[i] = ((float)next(&seed) * 0x1p-23f - 1.0f) * scale;
    }
    return x;
}

/* ---- what must come out ---- */

struct tensor_rows {
    int type, n_rows;
    uint8_t *rows;
};

/* One output over all rows of x. */
static void expect_output(const struct tensor_rows *t, int o, int n_cols, const struct quant_x *xq, const float *xf, int n_rows, float *y, size_t ld)
{
    int n_blocks = quant_n_blocks(n_cols);
    const uint8_t *row = t->rows + (size_t)o * quant_row_bytes(t->type, n_cols);
    float (*slots)[QUANT_SLOTS] = calloc((size_t)n_rows, sizeof *slots);
    for (int b = 0; b < n_blocks; b++) {
        struct quant_w w;
        float wf[QUANT_BLOCK];
        if (quant_is_float(t->type))
            quant_unpack_float(t->type, row, n_cols, b, wf);
        else
            quant_unpack(t->type, row, b, &w);
        for (int r = 0; r < n_rows; r++) {
            size_t at = (size_t)r * (size_t)n_blocks + (size_t)b;
            float *slot = &slots[r][b % QUANT_SLOTS];
            *slot = quant_is_float(t->type) ? quant_mac_float(wf, xf + at * QUANT_BLOCK, *slot) : quant_mac(&w, &xq[at], *slot);
        }
    }
    for (int r = 0; r < n_rows; r++)
        y[(size_t)r * ld] = quant_fold(slots[r]);
    free(slots);
}

/* ---- device memory ---- */

static void *to_device(const void *from, size_t n)
{
    void *p = NULL;
    must(cudaMalloc(&p, n));
    must(cudaMemcpy(p, from, n, cudaMemcpyHostToDevice));
    return p;
}

/* Room for n bytes that hold a pattern. Not cudaMemset: that may come after the kernel of another stream. */
static void *pattern_on_device(size_t n)
{
    void *pattern = malloc(n);
    memset(pattern, 0x5a, n);
    void *p = to_device(pattern, n);
    free(pattern);
    return p;
}

static void check_device(const char *what, const void *device, const void *want, size_t n)
{
    uint8_t *got = malloc(n);
    must(cudaMemcpy(got, device, n, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++)
        if (got[i] != ((const uint8_t *)want)[i])
            fail_msg("%s: byte %zu of %zu differs (as f32: element %zu, %.9g for %.9g)", what, i, n, i / 4, (double)((float *)got)[i / 4],
                     (double)((const float *)want)[i / 4]);
    free(got);
}

static void free_device(const void *p)
{
    must(cudaFree((void *)p));
}

/* An operand of n blocks on the device and what it means. */
struct operand_copy {
    struct device_operand on_device;
    size_t n;
    struct quant_x *xq;
    float *xf;
};

/* The operand of x [n_rows][n_cols]. */
static struct operand_copy operand_create(const float *x, int n_rows, int n_cols)
{
    int n_blocks = quant_n_blocks(n_cols);
    size_t n = (size_t)n_rows * (size_t)n_blocks, row = (size_t)n_blocks * QUANT_BLOCK;
    struct operand_copy o = {.n = n, .xq = calloc(n, sizeof *o.xq), .xf = calloc(n * QUANT_BLOCK, sizeof *o.xf)};
    int8_t *q = malloc(n * QUANT_BLOCK);
    float *d = malloc(n * sizeof *d);
    int16_t *sums = malloc(n * 2 * sizeof *sums);
    for (int r = 0; r < n_rows; r++)
        memcpy(o.xf + (size_t)r * row, x + (size_t)r * (size_t)n_cols, (size_t)n_cols * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        quant_quantise(o.xf + i * QUANT_BLOCK, &o.xq[i]);
        memcpy(q + i * QUANT_BLOCK, o.xq[i].q, QUANT_BLOCK);
        d[i] = o.xq[i].d;
        memcpy(sums + 2 * i, o.xq[i].sum, 2 * sizeof *sums);
    }
    o.on_device = (struct device_operand){to_device(q, n * QUANT_BLOCK), to_device(d, n * sizeof *d), to_device(sums, n * 2 * sizeof *sums),
                                          to_device(o.xf, n * QUANT_BLOCK * sizeof *o.xf), n_cols, n_blocks};
    free(q);
    free(d);
    free(sums);
    return o;
}

static struct operand_copy operand_pattern(int n_rows, int n_cols)
{
    int n_blocks = quant_n_blocks(n_cols);
    size_t n = (size_t)n_rows * (size_t)n_blocks;
    struct operand_copy o = {.n = n};
    o.on_device = (struct device_operand){pattern_on_device(n * QUANT_BLOCK), pattern_on_device(n * 4), pattern_on_device(n * 4),
                                          pattern_on_device(n * QUANT_BLOCK * 4), n_cols, n_blocks};
    return o;
}

/* The parts of an operand that `needs` names are those of `want`, the others the pattern. */
static void operand_check(const struct device_operand *got, const struct operand_copy *want, int needs)
{
    size_t n = want->n;
    uint8_t *q = malloc(n * QUANT_BLOCK), *f = malloc(n * QUANT_BLOCK * 4), *d = malloc(n * 4), *sums = malloc(n * 4);
    memset(q, 0x5a, n * QUANT_BLOCK);
    memset(f, 0x5a, n * QUANT_BLOCK * 4);
    memset(d, 0x5a, n * 4);
    memset(sums, 0x5a, n * 4);
    for (size_t i = 0; i < n && (needs & OPERAND_Q); i++) {
        memcpy(q + i * QUANT_BLOCK, want->xq[i].q, QUANT_BLOCK);
        memcpy(d + 4 * i, &want->xq[i].d, 4);
        memcpy(sums + 4 * i, want->xq[i].sum, 4);
    }
    check_device("q", got->q, q, n * QUANT_BLOCK);
    check_device("d", got->d, d, n * 4);
    check_device("sums", got->sums, sums, n * 4);
    check_device("f", got->f, needs & OPERAND_F ? (const void *)want->xf : f, n * QUANT_BLOCK * 4);
    free(q);
    free(f);
    free(d);
    free(sums);
}

static void operand_destroy(struct operand_copy *o)
{
    free_device(o->on_device.q);
    free_device(o->on_device.d);
    free_device(o->on_device.sums);
    free_device(o->on_device.f);
    free(o->xq);
    free(o->xf);
}

/* ---- a case ---- */

struct product_case {
    int n_parts;
    int type[DEVICE_PARTS], n_outputs[DEVICE_PARTS];
    int n_cols, n_rows, epilogue;
    bool bias;
    int act, needs;
    bool infinite; /* a weight is: F32 alone */
};

struct product {
    struct product_case c;
    struct tensor_rows parts[DEVICE_PARTS];
    struct device_product p;
    struct operand_copy x, to;
    float *dots;  /* [n_rows][all outputs] what quant.h says */
    float *bias;
    float *out;   /* what was in the result before, then what must be */
    size_t n_out;
};

static void part_create(struct product *t, int i, int first_out)
{
    const struct product_case *c = &t->c;
    size_t row_bytes = quant_row_bytes(c->type[i], c->n_cols), stripe = repack_stripe_bytes(c->type[i], c->n_cols);
    size_t bytes = repack_bytes(c->type[i], c->n_outputs[i], c->n_cols);
    struct tensor_rows *rows = &t->parts[i];
    *rows = (struct tensor_rows){c->type[i], c->n_outputs[i], random_rows(row_bytes * (size_t)c->n_outputs[i], (uint32_t)(31 * i + c->n_cols))};
    if (c->infinite)
        memcpy(rows->rows, &(float){INFINITY}, sizeof(float));
    uint8_t *packed = malloc(bytes);
    for (int r = 0; r < c->n_outputs[i]; r += 32) {
        int n = c->n_outputs[i] - r < 32 ? c->n_outputs[i] - r : 32;
        repack_rows(c->type[i], rows->rows + (size_t)r * row_bytes, n, c->n_cols, packed + (size_t)(r / 32) * stripe);
    }
    t->p.m.parts[i] = (struct device_part){c->type[i], c->n_outputs[i], first_out, to_device(packed, bytes)};
    free(packed);
}

static void result_create(struct product *t, int total)
{
    const struct product_case *c = &t->c;
    t->p.fault = to_device(&(int){0}, sizeof(int));
    if (t->p.m.pair) {
        t->to = operand_pattern(c->n_rows, c->n_outputs[0]);
        t->p.to = t->to.on_device;
        return;
    }
    t->p.ld = total + 3;
    t->n_out = (size_t)c->n_rows * (size_t)t->p.ld;
    t->out = random_floats(t->n_out, 99);
    t->p.out = to_device(t->out, t->n_out * sizeof *t->out);
    if (c->bias) {
        t->bias = random_floats((size_t)total, 5);
        t->p.bias = to_device(t->bias, (size_t)total * sizeof *t->bias);
    }
    if (c->epilogue == EPILOGUE_SCORES)
        t->p.most = pattern_on_device((size_t)c->n_rows * (size_t)((total + 255) / 256) * sizeof(float));
}

static void product_create(struct product *t, const struct product_case *c)
{
    memset(t, 0, sizeof *t);
    t->c = *c;
    t->p.m = (struct device_matrix){.n_parts = c->n_parts, .pair = c->epilogue == EPILOGUE_PAIR, .n_cols = c->n_cols,
                                    .n_blocks = quant_n_blocks(c->n_cols)};
    int total = 0;
    for (int i = 0; i < c->n_parts; i++) {
        part_create(t, i, t->p.m.pair ? 0 : total);
        total += c->n_outputs[i];
    }
    t->p.m.n_rows = t->p.m.pair ? c->n_outputs[0] : total;
    float *x = random_floats((size_t)c->n_rows * (size_t)c->n_cols, 7);
    t->x = operand_create(x, c->n_rows, c->n_cols);
    free(x);
    t->dots = malloc((size_t)c->n_rows * (size_t)total * sizeof *t->dots);
    for (int i = 0, at = 0; i < c->n_parts; at += c->n_outputs[i++])
        for (int o = 0; o < c->n_outputs[i]; o++)
            expect_output(&t->parts[i], o, c->n_cols, t->x.xq, t->x.xf, c->n_rows, t->dots + at + o, (size_t)total);
    t->p.x = t->x.on_device;
    t->p.n_rows = c->n_rows;
    t->p.epilogue = c->epilogue;
    t->p.act = c->act;
    t->p.needs = c->needs;
    result_create(t, total);
}

static void product_destroy(struct product *t)
{
    for (int i = 0; i < t->c.n_parts; i++) {
        free(t->parts[i].rows);
        free_device(t->p.m.parts[i].w);
    }
    operand_destroy(&t->x);
    if (t->p.m.pair)
        operand_destroy(&t->to);
    free_device(t->p.out);
    free_device(t->p.bias);
    free_device(t->p.most);
    free_device(t->p.fault);
    free(t->dots);
    free(t->bias);
    free(t->out);
}

static void check_pair(struct product *t)
{
    const struct product_case *c = &t->c;
    int n = c->n_outputs[0];
    float *h = malloc((size_t)c->n_rows * (size_t)n * sizeof *h);
    for (int i = 0; i < c->n_rows * n; i++) {
        const float *dots = t->dots + i / n * 2 * n;
        float gate = dots[i % n], up = dots[n + i % n];
        h[i] = (c->act == DEVICE_SILU ? num_silu(gate) : num_gelu_tanh(gate)) * up;
    }
    struct operand_copy want = operand_create(h, c->n_rows, n);
    operand_check(&t->p.to, &want, c->needs);
    operand_destroy(&want);
    free(h);
}

static void check_out(struct product *t)
{
    const struct product_case *c = &t->c;
    int n = t->p.m.n_rows, n_most = (n + 255) / 256;
    float *most = malloc((size_t)c->n_rows * (size_t)n_most * sizeof *most);
    for (int r = 0; r < c->n_rows; r++)
        for (int o = 0; o < n; o++) {
            float *place = &t->out[(size_t)r * (size_t)t->p.ld + (size_t)o], y = t->dots[(size_t)r * (size_t)n + (size_t)o];
            if (c->bias)
                y = y + t->bias[o];
            *place = c->epilogue == EPILOGUE_ADD ? *place + y : y;
            float *top = &most[(size_t)r * (size_t)n_most + (size_t)(o / 256)];
            *top = o % 256 == 0 || *place > *top ? *place : *top;
        }
    check_device("out", t->p.out, t->out, t->n_out * sizeof *t->out);
    if (c->epilogue == EPILOGUE_SCORES)
        check_device("most", t->p.most, most, (size_t)c->n_rows * (size_t)n_most * sizeof *most);
    free(most);
}

static void check_product(const struct product_case *c, launcher *launch)
{
    struct product t;
    product_create(&t, c);
    cudaStream_t stream;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    must(launch(&t.p, stream));
    must(cudaStreamSynchronize(stream));
    int fault = -1;
    must(cudaMemcpy(&fault, t.p.fault, sizeof fault, cudaMemcpyDeviceToHost));
    bool looks = c->epilogue == EPILOGUE_PAIR || c->epilogue == EPILOGUE_SCORES;
    if (fault != (looks && c->infinite))
        fail_msg("fault is %d; an infinite weight: %d", fault, c->infinite);
    if (!c->infinite) {
        if (c->epilogue == EPILOGUE_PAIR)
            check_pair(&t);
        else
            check_out(&t);
    }
    must(cudaStreamDestroy(stream));
    product_destroy(&t);
}

/* Cases by the kernel for few rows, by the backend's choice, and where no type is a float by the kernel for many. */
static void check_cases(const struct product_case *cases, size_t n, int epilogue)
{
    for (size_t i = 0; i < n; i++) {
        struct product_case c = cases[i];
        bool floats = false;
        for (int k = 0; k < c.n_parts; k++)
            floats = floats || quant_is_float(c.type[k]);
        c.epilogue = epilogue;
        check_product(&c, launch_product_few);
        check_product(&c, launch_product);
        if (!floats)
            check_product(&c, launch_product_many);
        if (!floats && (epilogue != EPILOGUE_PAIR || c.type[0] == c.type[1]))
            check_product(&c, launch_product_large);
    }
}

/* ---- the tests ---- */

static void shapes(launcher *launch, bool floats)
{
    static const int columns[] = {32, 77, 224, 256, 576, 640, 768, 2304}, rows[] = {1, 2, 3, 5, 19, 33, 71}, outputs[] = {35, 1, 32, 66};
    int n = 0;
    for (int i = 0; i < N_TYPES; i++)
        for (size_t k = 0; k < sizeof columns / sizeof columns[0]; k++)
            for (size_t r = 0; r < sizeof rows / sizeof rows[0] && quant_row_bytes(types[i], columns[k]) != 0; r++) {
                if (quant_is_float(types[i]) && !floats)
                    continue;
                n++;
                struct product_case c = {.n_parts = 1, .type = {types[i]}, .n_outputs = {outputs[(r + k) % 4]}, .n_cols = columns[k],
                                         .n_rows = rows[r], .epilogue = n % 2 ? EPILOGUE_STORE : EPILOGUE_ADD, .bias = n % 3 == 0};
                if (columns[k] == 2304 && rows[r] > 5)
                    c.n_outputs[0] = 7;
                check_product(&c, launch);
            }
    assert_in_range(n, 100, 1000);
}

static void every_type_and_shape(void **state)
{
    (void)state;
    shapes(launch_product_few, true);
}

static void every_type_and_shape_on_tensor_cores(void **state)
{
    (void)state;
    shapes(launch_product_many, false);
}

static void every_type_and_shape_by_large_tiles(void **state)
{
    (void)state;
    shapes(launch_product_large, false);
}

/* The parts of a stack have types and ends of their own. */
static const struct product_case stacks[] = {
    {.n_parts = 3, .type = {TENSOR_Q4_K, TENSOR_Q6_K, TENSOR_F16}, .n_outputs = {35, 33, 7}, .n_cols = 256, .n_rows = 3},
    {.n_parts = 3, .type = {TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q8_0}, .n_outputs = {64, 32, 32}, .n_cols = 288, .n_rows = 19, .bias = true},
    {.n_parts = 2, .type = {TENSOR_Q5_K, TENSOR_Q3_K}, .n_outputs = {1, 66}, .n_cols = 512, .n_rows = 5, .bias = true},
};

static void parts_of_a_stack_differ(void **state)
{
    (void)state;
    check_cases(stacks, sizeof stacks / sizeof stacks[0], EPILOGUE_STORE);
    check_cases(stacks, sizeof stacks / sizeof stacks[0], EPILOGUE_ADD);
}

static const struct product_case pairs[] = {
    {.n_parts = 2, .type = {TENSOR_Q4_K, TENSOR_Q4_K}, .n_outputs = {64, 64}, .n_cols = 256, .n_rows = 1, .needs = OPERAND_Q},
    {.n_parts = 2, .type = {TENSOR_Q4_1, TENSOR_Q8_0}, .n_outputs = {96, 96}, .n_cols = 576, .n_rows = 5, .act = DEVICE_GELU_TANH,
     .needs = OPERAND_Q},
    {.n_parts = 2, .type = {TENSOR_Q5_0, TENSOR_F32}, .n_outputs = {45, 45}, .n_cols = 96, .n_rows = 3, .needs = OPERAND_F},
    {.n_parts = 2, .type = {TENSOR_Q2_K, TENSOR_Q6_K}, .n_outputs = {32, 32}, .n_cols = 512, .n_rows = 19, .needs = OPERAND_Q | OPERAND_F},
    {.n_parts = 2, .type = {TENSOR_Q5_1, TENSOR_Q5_0}, .n_outputs = {96, 96}, .n_cols = 96, .n_rows = 70, .needs = OPERAND_Q},
    {.n_parts = 2, .type = {TENSOR_Q6_K, TENSOR_Q6_K}, .n_outputs = {70, 70}, .n_cols = 256, .n_rows = 101, .needs = OPERAND_Q | OPERAND_F},
    {.n_parts = 2, .type = {TENSOR_Q5_0, TENSOR_Q5_0}, .n_outputs = {45, 45}, .n_cols = 608, .n_rows = 35, .act = DEVICE_GELU_TANH,
     .needs = OPERAND_Q},
    {.n_parts = 2, .type = {TENSOR_F16, TENSOR_BF16}, .n_outputs = {33, 33}, .n_cols = 77, .n_rows = 9, .act = DEVICE_GELU_TANH, .needs = OPERAND_F},
    {.n_parts = 2, .type = {TENSOR_F32, TENSOR_F32}, .n_outputs = {33, 33}, .n_cols = 77, .n_rows = 4, .needs = OPERAND_F, .infinite = true},
};

static void pairs_become_operands(void **state)
{
    (void)state;
    check_cases(pairs, sizeof pairs / sizeof pairs[0], EPILOGUE_PAIR);
}

static const struct product_case scores[] = {
    {.n_parts = 1, .type = {TENSOR_Q8_0}, .n_outputs = {256}, .n_cols = 64, .n_rows = 1},
    {.n_parts = 1, .type = {TENSOR_Q6_K}, .n_outputs = {300}, .n_cols = 256, .n_rows = 3},
    {.n_parts = 1, .type = {TENSOR_F16}, .n_outputs = {31}, .n_cols = 77, .n_rows = 11},
    {.n_parts = 1, .type = {TENSOR_Q4_0}, .n_outputs = {521}, .n_cols = 96, .n_rows = 19},
    {.n_parts = 1, .type = {TENSOR_Q3_K}, .n_outputs = {289}, .n_cols = 256, .n_rows = 37},
    {.n_parts = 1, .type = {TENSOR_Q5_1}, .n_outputs = {350}, .n_cols = 416, .n_rows = 67},
    {.n_parts = 1, .type = {TENSOR_F32}, .n_outputs = {290}, .n_cols = 32, .n_rows = 2, .infinite = true},
};

static void scores_come_with_their_maxima(void **state)
{
    (void)state;
    check_cases(scores, sizeof scores / sizeof scores[0], EPILOGUE_SCORES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_shape),
        cmocka_unit_test(every_type_and_shape_on_tensor_cores),
        cmocka_unit_test(every_type_and_shape_by_large_tiles),
        cmocka_unit_test(parts_of_a_stack_differ),
        cmocka_unit_test(pairs_become_operands),
        cmocka_unit_test(scores_come_with_their_maxima),
    };
    static const enum emulator_schedule schedules[] = {EMULATOR_FORWARD, EMULATOR_REVERSE, EMULATOR_RANDOM};
    int n_failed = 0;
    for (size_t i = 0; i < sizeof schedules / sizeof schedules[0]; i++) {
        emulator_set_schedule(schedules[i], 11);
        n_failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return n_failed;
}

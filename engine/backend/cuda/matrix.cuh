/* matrix.cuh: what both kernels of the matrix products share: which stripe a block of threads has, and one block of 32 values times another. */
#ifndef NEXTD_CUDA_MATRIX_CUH
#define NEXTD_CUDA_MATRIX_CUH

#include <assert.h>

#include "engine/backend/cuda/operand.cuh"
#include "engine/backend/cuda/weights.cuh"

/* Stripe i of a matrix; of a pair, gate and up of stripe i / 2 alternate. */
struct matrix_stripe {
    const uint8_t *w; /* of the part */
    int type, idx;    /* stripe of the part */
    int first_out;    /* first output in the result */
    int n;            /* outputs, <= 32 */
};

static __host__ __device__ __forceinline__ int matrix_part_stripes(const struct device_part &p)
{
    return (p.n_rows + LAYOUT_ROWS - 1) / LAYOUT_ROWS;
}

static __device__ __forceinline__ struct matrix_stripe matrix_stripe_of(const struct device_matrix &m, int i)
{
    int chosen = 0, before = 0;
    if (m.pair) {
        chosen = i % 2;
        before = i - i / 2;
    } else {
        int first = 0;
        DEVICE_UNROLL
        for (int p = 1; p < DEVICE_PARTS; p++) {
            first += matrix_part_stripes(m.parts[p - 1]);
            if (p < m.n_parts && i >= first) {
                chosen = p;
                before = first;
            }
        }
    }
    struct matrix_stripe s = {m.parts[0].w, m.parts[0].type, 0, m.parts[0].first_out, m.parts[0].n_rows};
    DEVICE_UNROLL
    for (int p = 1; p < DEVICE_PARTS; p++) /* by constant indices: the kernel's arguments need no copy */
        if (chosen == p)
            s = {m.parts[p].w, m.parts[p].type, 0, m.parts[p].first_out, m.parts[p].n_rows};
    s.idx = i - before;
    s.first_out += s.idx * LAYOUT_ROWS;
    s.n -= s.idx * LAYOUT_ROWS;
    s.n = s.n < LAYOUT_ROWS ? s.n : LAYOUT_ROWS;
    return s;
}

/* Where the integer sum of half h of a block starts, or of the whole block: at MATRIX_MAGIC, so that the sum's bits are those of the float
 * MATRIX_MAGIC + sum (|sum| < 2^22, quant.h) and need no conversion; less what the stored weights' offset adds to it. */
#define MATRIX_MAGIC 12582912.0f
#define MATRIX_MAGIC_BITS 0x4b400000

template <int TYPE> static __device__ __forceinline__ int matrix_start(uint32_t sums, int h)
{
    typedef weights_type<TYPE> T;
    const int low = (int16_t)sums, high = (int)sums >> 16;
    return MATRIX_MAGIC_BITS - T::offset * (!T::halves ? low + high : h == 0 ? low : high);
}

/* One block into a slot: quant_mac. sum0 and sum1 are those of the halves, sum0 that of the block where there is one scale; d and sums are those of
 * the operand. fma(MAGIC + sum, factor, -MAGIC factor) is factor * sum rounded once, for MAGIC * factor is exact; it differs only where that is -0,
 * and an accumulator is never -0. */
template <int TYPE>
static __device__ __forceinline__ float matrix_mac(const struct weights_factors &w, int sum0, int sum1, float d, uint32_t sums, float acc)
{
    typedef weights_type<TYPE> T;
    const int low = (int16_t)sums, high = (int)sums >> 16;
    acc = fmaf(fmaf(__int_as_float(sum0), w.d[0], -MATRIX_MAGIC * w.d[0]), d, acc);
    if (T::halves)
        acc = fmaf(fmaf(__int_as_float(sum1), w.d[1], -MATRIX_MAGIC * w.d[1]), d, acc);
    if (T::n_min == 1)
        acc = fmaf(w.min[0], d * (float)(low + high), acc);
    if (T::n_min == 2) {
        acc = fmaf(w.min[0], d * (float)low, acc);
        acc = fmaf(w.min[1], d * (float)high, acc);
    }
    return acc;
}

/* Rows of x that there are; the others are padding. */
static __device__ __forceinline__ int matrix_rows(const struct device_product &p)
{
    return p.live == NULL ? p.n_rows : *p.live;
}

static __device__ __forceinline__ float matrix_activate(int act, float x)
{
    return act == DEVICE_SILU ? num_silu(x) : num_gelu_tanh(x);
}

static inline bool matrix_is_float(int type)
{
    return type == DEVICE_F32 || type == DEVICE_F16 || type == DEVICE_BF16;
}

/* What a launcher relies on. */
static inline void matrix_check(const struct device_product *p)
{
    assert(p->n_rows > 0);
    assert(p->m.pair == (p->epilogue == EPILOGUE_PAIR));
    assert(p->epilogue != EPILOGUE_SCORES || p->m.n_parts == 1);
    assert(p->m.n_cols == p->x.n_cols);
}

/* Blocks of threads of a launch: stripes, pairs of stripes, or as many as share a maximum. */
#define MATRIX_SCORES_STRIPES (DEVICE_SCORES / LAYOUT_ROWS)

static inline int matrix_n_tiles(const struct device_product &p)
{
    int stripes = 0;
    for (int i = 0; i < p.m.n_parts; i++)
        stripes += matrix_part_stripes(p.m.parts[i]);
    const int per_tile = p.epilogue == EPILOGUE_SCORES ? MATRIX_SCORES_STRIPES : p.epilogue == EPILOGUE_PAIR ? 2 : 1;
    return (stripes + per_tile - 1) / per_tile;
}

/* Stores one output of STORE, ADD or SCORES. Returns the value stored. */
static __device__ __forceinline__ float matrix_put(const struct device_product &p, int row, int out, float x)
{
    float *place = p.out + (size_t)row * (size_t)p.ld + out;
    if (p.bias != NULL)
        x = x + p.bias[out];
    if (p.epilogue == EPILOGUE_ADD)
        x = *place + x;
    *place = x;
    return x;
}

#endif

/* matrix.cuh: what both kernels of the matrix products share: which stripe a block of threads has, and one block of 32 values times another. */
#ifndef NEXTD_CUDA_MATRIX_CUH
#define NEXTD_CUDA_MATRIX_CUH

#include <assert.h>

#include "engine/backend/cuda/operand.cuh"
#include "engine/backend/cuda/weights.cuh"

/* A stripe of a matrix. */
struct matrix_stripe {
    const uint8_t *w; /* of the part */
    int type, idx;    /* stripe of the part */
    int first_out;    /* first output in the result */
    int n;            /* outputs from here to the part's end */
};

/* Tiles of `stripes` stripes side by side, the last of a part may be short. */
static __host__ __device__ __forceinline__ int matrix_part_tiles(const struct device_part &p, int stripes)
{
    return (p.n_rows + LAYOUT_ROWS * stripes - 1) / (LAYOUT_ROWS * stripes);
}

/* The first stripe of tile i of a matrix; of a pair, gate and up of stripe i / 2 alternate. */
static __device__ __forceinline__ struct matrix_stripe matrix_stripe_of(const struct device_matrix &m, int i, int stripes)
{
    int chosen = 0, before = 0;
    if (m.pair) {
        chosen = i % 2;
        before = i - i / 2;
    } else {
        int first = 0;
        DEVICE_UNROLL
        for (int p = 1; p < DEVICE_PARTS; p++) {
            first += matrix_part_tiles(m.parts[p - 1], stripes);
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
    s.idx = (i - before) * stripes;
    s.first_out += s.idx * LAYOUT_ROWS;
    s.n -= s.idx * LAYOUT_ROWS;
    return s;
}

/* What a block of 32 activations contributes beside its quants: d; and of both halves v, or of the whole block v[0]: where integer sums start, if the
 * stored weights have an offset; d times the sum of its quants, an f32, if they have a minimum. */
struct matrix_x {
    float d;
    uint32_t v[2];
};

/* Integer sums start at MATRIX_MAGIC, so that a sum's bits are those of the float MATRIX_MAGIC + sum (|sum| < 2^22, quant.h) and need no conversion;
 * less what the offset adds to it. */
#define MATRIX_MAGIC 12582912.0f
#define MATRIX_MAGIC_BITS 0x4b400000

template <int TYPE> static __device__ __forceinline__ struct matrix_x matrix_x_of(float d, uint32_t sums)
{
    typedef weights_type<TYPE> T;
    static_assert(T::offset == 0 || T::n_min == 0, "v is one or the other");
    const int low = (int16_t)sums, high = (int)sums >> 16, parts[2] = {T::halves ? low : low + high, high};
    struct matrix_x x = {d, {0, 0}};
    DEVICE_UNROLL
    for (int h = 0; h < 2; h++)
        x.v[h] = T::n_min > 0 ? num_bits_from_f32(d * (float)parts[h]) : (uint32_t)(MATRIX_MAGIC_BITS - T::offset * parts[h]);
    return x;
}

/* Where the integer sum of half h of a block starts, or of the whole block. */
template <int TYPE> static __device__ __forceinline__ int matrix_start(const struct matrix_x &x, int h)
{
    return weights_type<TYPE>::offset != 0 ? (int)x.v[h] : MATRIX_MAGIC_BITS;
}

/* One block into a slot: quant_mac. sum0 and sum1 are those of the halves, sum0 that of the block where there is one scale.
 * fma(MAGIC + sum, factor, -MAGIC factor) is factor * sum rounded once, for MAGIC * factor is exact; it differs only where that is -0, and an
 * accumulator is never -0. */
template <int TYPE>
static __device__ __forceinline__ float matrix_mac(const struct weights_factors &w, int sum0, int sum1, const struct matrix_x &x, float acc)
{
    typedef weights_type<TYPE> T;
    acc = fmaf(fmaf(__int_as_float(sum0), w.d[0], -MATRIX_MAGIC * w.d[0]), x.d, acc);
    if (T::halves)
        acc = fmaf(fmaf(__int_as_float(sum1), w.d[1], -MATRIX_MAGIC * w.d[1]), x.d, acc);
    if (T::n_min > 0)
        acc = fmaf(w.min[0], num_f32_from_bits(x.v[0]), acc);
    if (T::n_min == 2)
        acc = fmaf(w.min[1], num_f32_from_bits(x.v[1]), acc);
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

#define MATRIX_SCORES_STRIPES (DEVICE_SCORES / LAYOUT_ROWS)

/* Blocks of threads of a launch: tiles of `stripes` stripes; or pairs of stripes, or as many as share a maximum. */
static inline int matrix_n_tiles(const struct device_product &p, int stripes)
{
    if (p.epilogue == EPILOGUE_SCORES)
        return matrix_part_tiles(p.m.parts[0], MATRIX_SCORES_STRIPES);
    if (p.epilogue == EPILOGUE_PAIR)
        return matrix_part_tiles(p.m.parts[0], 1);
    int n = 0;
    for (int i = 0; i < p.m.n_parts; i++)
        n += matrix_part_tiles(p.m.parts[i], stripes);
    return n;
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

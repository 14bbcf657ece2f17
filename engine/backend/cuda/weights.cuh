/* weights.cuh: loads blocks of weights from the stripes of layout.h and gives them their meaning (numerics/quant.h), for every kernel that reads
 * weights.
 *
 * A block is loaded raw (weights_load: a few registers, so that several can be on their way at once) and unpacked when it is used: eight words of
 * four values, as dp4a and mma take them, still with the offset that the file adds; and the factors of its two halves. The offset leaves a dot
 * product exactly: sum((q + offset) q') - offset sum(q'). Types are template arguments; weights_four switches at run time. */
#ifndef NEXTD_CUDA_WEIGHTS_CUH
#define NEXTD_CUDA_WEIGHTS_CUH

#include "engine/backend/cuda/device.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/layout.h"
#include "engine/numerics/numerics.h"

static __device__ __forceinline__ float weights_f16(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

/* Bytes in the planes; see LAYOUT_TABLE. */
template <int TYPE> struct weights_planes;
#define WEIGHTS_PLANES(type, n_chunks, n_chunk_bytes, n_high, n_scale, n_super, n_six)                                                  \
    template <> struct weights_planes<type> {                                                                                           \
        static constexpr int chunks = n_chunks, chunk_bytes = n_chunk_bytes, quant_bytes = n_chunks * n_chunk_bytes, high = n_high,     \
                             scale = n_scale, super = n_super, six = n_six;                                                             \
    };
LAYOUT_TABLE(WEIGHTS_PLANES)
#undef WEIGHTS_PLANES

template <int TYPE> struct weights_type : weights_planes<TYPE> {
    static constexpr bool is_float = TYPE == DEVICE_F32 || TYPE == DEVICE_F16 || TYPE == DEVICE_BF16;
    static constexpr bool is_k = TYPE >= DEVICE_Q2_K && TYPE <= DEVICE_Q6_K;
    static constexpr bool halves = TYPE == DEVICE_Q2_K || TYPE == DEVICE_Q3_K || TYPE == DEVICE_Q6_K; /* a scale for every 16 values */
    static constexpr bool five = TYPE == DEVICE_Q5_0 || TYPE == DEVICE_Q5_1 || TYPE == DEVICE_Q5_K;
    static constexpr int n_min = TYPE == DEVICE_Q2_K ? 2 : TYPE == DEVICE_Q4_1 || TYPE == DEVICE_Q5_1 || TYPE == DEVICE_Q4_K || TYPE == DEVICE_Q5_K;
    static constexpr int offset = TYPE == DEVICE_Q4_0 ? 8 : TYPE == DEVICE_Q5_0 ? 16 : TYPE == DEVICE_Q6_K ? 32 : TYPE == DEVICE_Q3_K ? 4 : 0;
};

/* Bytes of a stripe. */
template <int TYPE> static __device__ __forceinline__ size_t weights_stripe_bytes(int n_blocks)
{
    typedef weights_type<TYPE> T;
    size_t n_supers = ((size_t)n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS;
    return LAYOUT_ROWS * ((size_t)n_blocks * (T::quant_bytes + T::high + T::scale) + n_supers * (T::super + T::six));
}

/* Where a row's block is in the planes of its stripe. */
struct weights_place {
    uint32_t group; /* entries before its group of 8 blocks */
    uint32_t n;     /* entries of the group: 4 rows of up to 8 blocks */
    uint32_t i;     /* of them, those before this one */
    uint32_t top;   /* entry of its superblock */
};

/* Block b of row r of a stripe. */
static __device__ __forceinline__ struct weights_place weights_place_of(int n_blocks, int r, int b)
{
    int first = b & ~(LAYOUT_SLOTS - 1), n = n_blocks - first < LAYOUT_SLOTS ? n_blocks - first : LAYOUT_SLOTS, rows = r & ~(LAYOUT_WARP_ROWS - 1);
    struct weights_place at;
    at.group = (uint32_t)(rows * n_blocks + first * LAYOUT_WARP_ROWS);
    at.n = (uint32_t)(n * LAYOUT_WARP_ROWS);
    at.i = (uint32_t)(r % LAYOUT_WARP_ROWS * n + (b - first));
    at.top = (uint32_t)(rows * ((n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS) + first / LAYOUT_SLOTS * LAYOUT_WARP_ROWS + r % LAYOUT_WARP_ROWS);
    return at;
}

/* A block of a quantised type as the planes have it. */
template <int TYPE> struct weights_block {
    uint32_t quants[weights_type<TYPE>::quant_bytes / 4];
    uint32_t high[2];
    uint32_t scale, super, six; /* six: of all 8 blocks of the superblock */
};

template <int TYPE>
static __device__ __forceinline__ struct weights_block<TYPE> weights_load(const uint8_t *stripe, int n_blocks, const struct weights_place &at)
{
    typedef weights_type<TYPE> T;
    struct weights_block<TYPE> w;
    const uint32_t entries = (uint32_t)(LAYOUT_ROWS * n_blocks), tops = (uint32_t)(LAYOUT_ROWS / LAYOUT_SLOTS * n_blocks), e = at.group + at.i;
    DEVICE_UNROLL
    for (int c = 0; c < T::chunks; c++) {
        const uint8_t *p = stripe + (at.group * T::chunks + c * at.n + at.i) * T::chunk_bytes;
        if (T::chunk_bytes == 16) {
            const uint4 v = *(const uint4 *)p;
            w.quants[4 * c] = v.x;
            w.quants[4 * c + 1] = v.y;
            w.quants[(4 * c + 2) % (T::quant_bytes / 4)] = v.z;
            w.quants[(4 * c + 3) % (T::quant_bytes / 4)] = v.w;
        } else {
            const uint2 v = *(const uint2 *)p;
            w.quants[0] = v.x;
            w.quants[1] = v.y;
        }
    }
    const uint8_t *high = stripe + entries * T::quant_bytes, *scales = high + entries * T::high, *supers = scales + entries * T::scale;
    if (T::high == 4)
        w.high[0] = *(const uint32_t *)(high + e * 4);
    if (T::high == 8) {
        const uint2 v = *(const uint2 *)(high + e * 8);
        w.high[0] = v.x;
        w.high[1] = v.y;
    }
    w.scale = T::scale == 4 ? *(const uint32_t *)(scales + e * 4) : T::scale == 2 ? *(const uint16_t *)(scales + e * 2) : scales[e];
    if (T::super == 4)
        w.super = *(const uint32_t *)(supers + at.top * 4);
    if (T::super == 2)
        w.super = *(const uint16_t *)(supers + at.top * 2);
    if (T::six == 4)
        w.six = *(const uint32_t *)(supers + tops * T::super + at.top * 4);
    return w;
}

/* Word i of a block: values 4 i .. 4 i + 3, plus the type's offset. */
template <int TYPE> static __device__ __forceinline__ uint32_t weights_word(const struct weights_block<TYPE> &w, int i)
{
    typedef weights_type<TYPE> T;
    if (TYPE == DEVICE_Q8_0)
        return w.quants[i % (T::quant_bytes / 4)];
    uint32_t v;
    if (T::chunk_bytes == 8)
        v = w.quants[i / 4] >> (2 * (i % 4)) & 0x03030303u;
    else
        v = w.quants[i % 4] >> (i / 4 * 4) & 0x0f0f0f0fu;
    if (T::five)
        v |= (w.high[0] >> i & 0x01010101u) << 4;
    if (TYPE == DEVICE_Q3_K)
        v |= (w.high[0] >> i & 0x01010101u) << 2;
    if (TYPE == DEVICE_Q6_K)
        v |= (w.high[i / 4] >> (2 * (i % 4)) & 0x03030303u) << 4;
    return v;
}

/* d * scale and min of either half of a block; slot: the block's number mod 8. */
struct weights_factors {
    float d[2], min[2];
};

template <int TYPE> static __device__ __forceinline__ struct weights_factors weights_factors_of(const struct weights_block<TYPE> &w, int slot)
{
    typedef weights_type<TYPE> T;
    struct weights_factors f = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    const float d = weights_f16((uint16_t)(T::is_k ? w.super : w.scale));
    if constexpr (!T::is_k) {
        f.d[0] = f.d[1] = d;
        if (T::n_min == 1)
            f.min[0] = f.min[1] = weights_f16((uint16_t)(w.scale >> 16));
    } else if constexpr (!T::halves) {
        f.d[0] = f.d[1] = d * (float)(int)(w.scale & 0xff);
        f.min[0] = f.min[1] = -(weights_f16((uint16_t)(w.super >> 16)) * (float)(int)(w.scale >> 8));
    } else {
        DEVICE_UNROLL
        for (int h = 0; h < 2; h++) {
            int scale = TYPE == DEVICE_Q6_K   ? (int)(int8_t)(w.scale >> 8 * h)
                        : TYPE == DEVICE_Q2_K ? (int)(w.scale >> 8 * h & 15)
                                              : (int)((w.scale >> 4 * h & 15) | (w.six >> (4 * slot + 2 * h) & 3) << 4) - 32;
            f.d[h] = d * (float)scale;
            if (TYPE == DEVICE_Q2_K)
                f.min[h] = -(weights_f16((uint16_t)(w.super >> 16)) * (float)(int)(w.scale >> (8 * h + 4) & 15));
        }
    }
    return f;
}

/* Four floats of 16 bits: values 2 i and 2 i + 1 of a word. */
template <int TYPE> static __device__ __forceinline__ float weights_float(uint32_t word, int i)
{
    uint16_t half = (uint16_t)(word >> 16 * i);
    return TYPE == DEVICE_F16 ? weights_f16(half) : num_f32_from_bf16(half);
}

/* Values 4 i .. 4 i + 3 of block b of row r of a stripe, dequantised. */
template <int TYPE>
static __device__ __forceinline__ void weights_four_of(const uint8_t *stripe, int n_blocks, int r, int b, int i, float out[4])
{
    const struct weights_place at = weights_place_of(n_blocks, r, b);
    if constexpr (weights_type<TYPE>::is_float) {
        const int per_chunk = TYPE == DEVICE_F32 ? 4 : 8, c = 4 * i / per_chunk;
        const uint8_t *p = stripe + (at.group * weights_type<TYPE>::chunks + (uint32_t)c * at.n + at.i) * 16;
        for (int k = 0; k < 4; k++)
            out[k] = TYPE == DEVICE_F32 ? ((const float *)p)[k] : weights_float<TYPE>(((const uint32_t *)p)[i % 2 * 2 + k / 2], k % 2);
    } else {
        const struct weights_block<TYPE> w = weights_load<TYPE>(stripe, n_blocks, at);
        const struct weights_factors f = weights_factors_of<TYPE>(w, b % LAYOUT_SLOTS);
        uint32_t word = 0;
        DEVICE_UNROLL
        for (int j = 0; j < 8; j++) /* by constant indices: the block stays in registers */
            word = j == i ? weights_word<TYPE>(w, j) : word;
        float d = i < 4 ? f.d[0] : f.d[1], min = i < 4 ? f.min[0] : f.min[1];
        for (int k = 0; k < 4; k++)
            out[k] = fmaf(d, (float)((int)(int8_t)(word >> 8 * k) - weights_type<TYPE>::offset), min);
    }
}

/* Calls f.template run<TYPE>() for the type. */
template <class F> static __device__ __forceinline__ void weights_switch(int type, F &f)
{
    switch (type) {
    case DEVICE_F32: f.template run<DEVICE_F32>(); break;
    case DEVICE_F16: f.template run<DEVICE_F16>(); break;
    case DEVICE_BF16: f.template run<DEVICE_BF16>(); break;
    case DEVICE_Q4_0: f.template run<DEVICE_Q4_0>(); break;
    case DEVICE_Q4_1: f.template run<DEVICE_Q4_1>(); break;
    case DEVICE_Q5_0: f.template run<DEVICE_Q5_0>(); break;
    case DEVICE_Q5_1: f.template run<DEVICE_Q5_1>(); break;
    case DEVICE_Q8_0: f.template run<DEVICE_Q8_0>(); break;
    case DEVICE_Q2_K: f.template run<DEVICE_Q2_K>(); break;
    case DEVICE_Q3_K: f.template run<DEVICE_Q3_K>(); break;
    case DEVICE_Q4_K: f.template run<DEVICE_Q4_K>(); break;
    case DEVICE_Q5_K: f.template run<DEVICE_Q5_K>(); break;
    case DEVICE_Q6_K: f.template run<DEVICE_Q6_K>(); break;
    default: break;
    }
}

struct weights_four_call {
    const uint8_t *w;
    int n_blocks, row, b, i;
    float *out;
    template <int TYPE> __device__ __forceinline__ void run()
    {
        const uint8_t *stripe = w + (size_t)(row / LAYOUT_ROWS) * weights_stripe_bytes<TYPE>(n_blocks);
        weights_four_of<TYPE>(stripe, n_blocks, row % LAYOUT_ROWS, b, i, out);
    }
};

/* Values 4 i .. 4 i + 3 of block b of a row of a part, dequantised: quant_dequantise_row's. Beyond the columns, 0. */
static __device__ __forceinline__ void weights_four(const struct device_part &part, int n_blocks, int row, int b, int i, float out[4])
{
    struct weights_four_call call = {part.w, n_blocks, row, b, i, out};
    weights_switch(part.type, call);
}

#endif

/* gemm_simd.h: stripes of 32 outputs times up to 3 rows at once, once for all widths but 512 bits; the same tiles and the same bits as
 * gemm_avx512.c, which tells the story. Include after simd_<isa>.h.
 *
 * A pass covers 16 outputs (half g of the stripe) in VECTORS vectors: with 256 bits 3 x 2 float and 3 x 2 integer accumulators in 16 registers, with
 * 128 bits 3 x 4 of each in 32. What instruction sets differ in is how they sum the integer products of a block; gemm_<isa>.c defines
 *
 *   OFFSET_8     what it makes of 8-bit weights, which lie in memory as w + 128: 128 if it takes them so, 0 if it makes them w
 *   half_sums    see its declaration below */
#ifndef NEXTD_CPU_GEMM_SIMD_H
#define NEXTD_CPU_GEMM_SIMD_H

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/pack.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define MR_MAX 3
#define VECTORS (16 / VF_LANES)
#define AHEAD_BYTES 4096

struct pass {
    const uint8_t *stripe;
    int n_cols;
    const struct operand *x;
    int row, g;
    float *out;
    size_t ld;
};

/* Adds to sums[m][e] the products of half h of a block: 16 values of lanes VF_LANES e .. of half g, times those of row m at q + 32 m + 16 h. */
ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, int g, const int8_t *q, const int h, vi sums[MR_MAX][VECTORS]);

ALWAYS_INLINE vf u8_as_floats(const uint8_t *p)
{
    return vf_from_vi(vi_load_u8(p));
}

ALWAYS_INLINE vf load_f16(const uint8_t *p)
{
    return vf_load_f16((const uint16_t *)(const void *)p);
}

/* What the sums of a block start with: the bits of QUANT_MAGIC, less offset * sum(q'); `start` has it for offset 128. */
ALWAYS_INLINE vi start_value(const int offset, int32_t start)
{
    if (offset == 0)
        return vi_set1(QUANT_MAGIC_BITS);
    if (offset == 128)
        return vi_set1(start);
    return vi_set1(QUANT_MAGIC_BITS + ((start - QUANT_MAGIC_BITS) >> (offset == 16 ? 3 : 4)));
}

ALWAYS_INLINE void block_whole(const int bits, const int offset, const int scale, const int mr, const uint8_t *tile, const uint8_t *header,
                               size_t min_at, int g, const struct operand *x, size_t at, vf acc[MR_MAX][VECTORS])
{
    vi sums[MR_MAX][VECTORS];
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int e = 0; e < VECTORS; e++)
            sums[m][e] = start_value(offset, x->start[at + (size_t)m]);
    half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, 0, sums);
    half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, 1, sums);
    const uint8_t *scales = tile + bits * 128;
    UNROLL for (int e = 0; e < VECTORS; e++) {
        int lane = 16 * g + VF_LANES * e;
        vf d = scale == PACK_K_MIN ? load_f16(header + 2 * lane) : load_f16(scales + 2 * lane), min;
        if (scale == PACK_K_MIN) {
            d = vf_mul(d, u8_as_floats(scales + lane));
            min = vf_mul(load_f16(header + min_at + 2 * lane), u8_as_floats(scales + 32 + lane));
        } else if (scale == PACK_F16_MIN) {
            min = load_f16(scales + 64 + 2 * lane);
        }
        vf less = vf_mul(d, vf_set1(-QUANT_MAGIC));
        UNROLL for (int m = 0; m < mr; m++) {
            acc[m][e] = vf_fma(vf_fma(vf_from_bits(sums[m][e]), d, less), vf_set1(x->d[at + (size_t)m]), acc[m][e]);
            if (scale == PACK_K_MIN)
                acc[m][e] = vf_fnma(min, vf_set1(x->s[at + (size_t)m]), acc[m][e]);
            if (scale == PACK_F16_MIN)
                acc[m][e] = vf_fma(min, vf_set1(x->s[at + (size_t)m]), acc[m][e]);
        }
    }
}

/* The same of a half; `half` has it for offset 32. */
ALWAYS_INLINE vi half_start(const int scale, int32_t half)
{
    if (scale == PACK_K_HALVES_MIN)
        return vi_set1(QUANT_MAGIC_BITS);
    return vi_set1(scale == PACK_K_HALVES ? half : QUANT_MAGIC_BITS + ((half - QUANT_MAGIC_BITS) >> 3));
}

/* The integer sub-scale of half h, for vector e of half g: a signed byte, six bits less 32, or a low nibble beside its minimum. */
ALWAYS_INLINE vf half_scale(const int scale, const uint8_t *scales, int g, const int e, const int h)
{
    const uint8_t *p = scales + 32 * h + 16 * g + VF_LANES * e;
    if (scale == PACK_K_HALVES)
        return vf_from_vi(vi_load_i8(p));
    if (scale == PACK_K_HALVES_MIN)
        return vf_from_vi(vi_field(vi_load_u8(p), 0, 15));
    vi low = vi_field(vi_load_u8(scales + 16 * g + VF_LANES * e), 4 * h, 15);
    vi high = vi_field(vi_load_u8(scales + 32 + VF_LANES * e), 4 * g + 2 * h, 3);
    return vf_fma(vf_from_vi(high), vf_set1(16.0f), vf_sub(vf_from_vi(low), vf_set1(32.0f)));
}

/* The integer minimum of half h: the high nibble. */
ALWAYS_INLINE vf half_min(const uint8_t *scales, int g, const int e, const int h)
{
    return vf_from_vi(vi_field(vi_load_u8(scales + 32 * h + 16 * g + VF_LANES * e), 4, 15));
}

ALWAYS_INLINE void block_halves(const int bits, const int scale, const int mr, const uint8_t *tile, const uint8_t *header, size_t min_at, int g,
                                const struct operand *x, size_t at, vf acc[MR_MAX][VECTORS])
{
    const uint8_t *scales = tile + bits * 128;
    UNROLL for (int h = 0; h < 2; h++) {
        vi sums[MR_MAX][VECTORS];
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < VECTORS; e++)
                sums[m][e] = half_start(scale, x->half[h][at + (size_t)m]);
        half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, h, sums);
        UNROLL for (int e = 0; e < VECTORS; e++) {
            vf d = vf_mul(load_f16(header + 2 * (16 * g + VF_LANES * e)), half_scale(scale, scales, g, e, h));
            vf less = vf_mul(d, vf_set1(-QUANT_MAGIC));
            UNROLL for (int m = 0; m < mr; m++)
                acc[m][e] = vf_fma(vf_fma(vf_from_bits(sums[m][e]), d, less), vf_set1(x->d[at + (size_t)m]), acc[m][e]);
        }
    }
    if (scale != PACK_K_HALVES_MIN)
        return;
    UNROLL for (int e = 0; e < VECTORS; e++) {
        UNROLL for (int h = 0; h < 2; h++) {
            vf min = vf_mul(load_f16(header + min_at + 2 * (16 * g + VF_LANES * e)), half_min(scales, g, e, h));
            UNROLL for (int m = 0; m < mr; m++) {
                float s = x->d[at + (size_t)m] * (float)operand_sum(x, h, at + (size_t)m);
                acc[m][e] = vf_fnma(min, vf_set1(s), acc[m][e]);
            }
        }
    }
}

ALWAYS_INLINE void block_float(const int type, const int mr, const uint8_t *tile, int g, const struct operand *x, size_t at, vf acc[MR_MAX][VECTORS])
{
    for (int k = 0; k < QUANT_BLOCK; k++) {
        vf w[VECTORS];
        UNROLL for (int e = 0; e < VECTORS; e++) {
            const uint8_t *p = tile + (size_t)(k * CPU_STRIPE + 16 * g + VF_LANES * e) * (type == TENSOR_F32 ? 4 : 2);
            if (type == TENSOR_F32)
                w[e] = vf_load((const float *)(const void *)p);
            else if (type == TENSOR_F16)
                w[e] = load_f16(p);
            else
                w[e] = vf_load_bf16((const uint16_t *)(const void *)p);
        }
        UNROLL for (int m = 0; m < mr; m++) {
            vf a = vf_set1(x->f[(at + (size_t)m) * QUANT_BLOCK + (size_t)k]);
            UNROLL for (int e = 0; e < VECTORS; e++)
                acc[m][e] = vf_fma(w[e], a, acc[m][e]);
        }
    }
}

ALWAYS_INLINE void fold(const int mr, int j, float part[3][MR_MAX * 16], vf acc[MR_MAX][VECTORS])
{
    int level = 0;
    for (; j & 1; j >>= 1, level++)
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < VECTORS; e++)
                acc[m][e] = vf_add(vf_load(part[level] + 16 * m + VF_LANES * e), acc[m][e]);
    if (level < 3)
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < VECTORS; e++)
                vf_store(part[level] + 16 * m + VF_LANES * e, acc[m][e]);
}

/* mr rows x 16 outputs. */
ALWAYS_INLINE void tile_pass(const int type, const int bits, const int offset, const int scale, const int tile_bytes, const int mr,
                             const struct pass *p)
{
    _Alignas(64) float part[3][MR_MAX * 16];
    vf acc[MR_MAX][VECTORS];
    const struct operand *x = p->x;
    const bool k_type = scale != PACK_F16 && scale != PACK_F16_MIN && scale != PACK_FLOAT;
    size_t min_at = (size_t)(p->n_cols / 256) * 64, at = (size_t)p->row;
    const uint8_t *tile = p->stripe + (k_type ? min_at * (scale == PACK_K_HALVES || scale == PACK_K_HALVES6 ? 1 : 2) : 0);
    for (int j = 0; j < QUANT_SLOTS; j++) {
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < VECTORS; e++)
                acc[m][e] = vf_set1(0.0f);
        int n = operand_slot_start(x->n_blocks, j + 1) - operand_slot_start(x->n_blocks, j);
        const uint8_t *header = p->stripe;
        for (int i = 0; i < n; i++, tile += tile_bytes, at += (size_t)x->stride, header += 64) {
            for (int line = 0; line < tile_bytes / 2; line += 64)
                __builtin_prefetch(tile + AHEAD_BYTES + line);
            if (scale == PACK_FLOAT)
                block_float(type, mr, tile, p->g, x, at, acc);
            else if (scale == PACK_K_HALVES || scale == PACK_K_HALVES6 || scale == PACK_K_HALVES_MIN)
                block_halves(bits, scale, mr, tile, header, min_at, p->g, x, at, acc);
            else
                block_whole(bits, offset, scale, mr, tile, header, min_at, p->g, x, at, acc);
        }
        fold(mr, j, part, acc);
    }
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int e = 0; e < VECTORS; e++)
            vf_store(p->out + (size_t)m * p->ld + VF_LANES * e, acc[m][e]);
}

ALWAYS_INLINE void all_rows(const int type, const int bits, const int offset, const int scale, const int tile_bytes, struct pass *p, int n_rows)
{
    int n_tiles = (n_rows + MR_MAX - 1) / MR_MAX;
    float *out = p->out;
    for (int i = 0; i < n_tiles; i++) {
        int mr = (n_rows + n_tiles - 1 - i) / n_tiles;
        for (p->g = 0; p->g < 2; p->g++) {
            p->out = out + 16 * p->g;
            if (mr == 1)
                tile_pass(type, bits, offset, scale, tile_bytes, 1, p);
            else if (mr == 2)
                tile_pass(type, bits, offset, scale, tile_bytes, 2, p);
            else
                tile_pass(type, bits, offset, scale, tile_bytes, 3, p);
        }
        p->row += mr;
        out += (size_t)mr * p->ld;
    }
}

/* `gemm` of struct cpu_kernels without its `ahead`: two passes over a tile leave time enough for the processor's own prefetcher. */
static void gemm_simd(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld)
{
    struct pass p = {s->w, n_cols, x, r0, 0, out, ld};
    int n = r1 - r0;
    switch (s->type) {
    case TENSOR_F32: all_rows(TENSOR_F32, 32, 0, PACK_FLOAT, 4096, &p, n); break;
    case TENSOR_F16: all_rows(TENSOR_F16, 16, 0, PACK_FLOAT, 2048, &p, n); break;
    case TENSOR_BF16: all_rows(TENSOR_BF16, 16, 0, PACK_FLOAT, 2048, &p, n); break;
    case TENSOR_Q4_0: all_rows(TENSOR_Q4_0, 4, 8, PACK_F16, 576, &p, n); break;
    case TENSOR_Q4_1: all_rows(TENSOR_Q4_1, 4, 0, PACK_F16_MIN, 640, &p, n); break;
    case TENSOR_Q5_0: all_rows(TENSOR_Q5_0, 5, 16, PACK_F16, 704, &p, n); break;
    case TENSOR_Q5_1: all_rows(TENSOR_Q5_1, 5, 0, PACK_F16_MIN, 768, &p, n); break;
    case TENSOR_Q8_0: all_rows(TENSOR_Q8_0, 8, OFFSET_8, PACK_F16, 1088, &p, n); break;
    case TENSOR_Q2_K: all_rows(TENSOR_Q2_K, 2, 0, PACK_K_HALVES_MIN, 320, &p, n); break;
    case TENSOR_Q3_K: all_rows(TENSOR_Q3_K, 3, 4, PACK_K_HALVES6, 432, &p, n); break;
    case TENSOR_Q4_K: all_rows(TENSOR_Q4_K, 4, 0, PACK_K_MIN, 576, &p, n); break;
    case TENSOR_Q5_K: all_rows(TENSOR_Q5_K, 5, 0, PACK_K_MIN, 704, &p, n); break;
    case TENSOR_Q6_K: all_rows(TENSOR_Q6_K, 6, 32, PACK_K_HALVES, 832, &p, n); break;
    default: assert(!"a stripe has one of the 13 types");
    }
}

#endif

/* gemm_neon.c: the matrix kernel gemm_simd.h with Advanced SIMD and its dot product (sdot, optional from Armv8.2 on).
 *
 * sdot adds 4 products s8 x s8 to an i32 lane, so weights go in as they are: w + offset is at most 63 and fits; 8-bit weights, which lie in memory as
 * w + 128, become w by turning their highest bit. One operand may be the same 4 bytes of a register for all lanes, so the 16 activations of a
 * row's half are loaded once and never broadcast. */
#define OFFSET_8 0

#include "engine/backend/cpu/simd_neon.h"
#include "engine/backend/cpu/gemm_simd.h"

/* Byte i of the result is `value` where bit i of the mask's 16 bits is set. */
ALWAYS_INLINE uint8x16_t masked_bits(const uint8_t *mask, const int value)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t set = vtstq_u8(vcombine_u8(vdup_n_u8(mask[0]), vdup_n_u8(mask[1])), vld1q_u8(bit));
    return vandq_u8(set, vdupq_n_u8((uint8_t)value));
}

/* 16 weights: 4 k of lanes 4 e .. 4 e + 3 of half g. */
ALWAYS_INLINE int8x16_t weights(const int bits, const uint8_t *tile, const int v, int g, const int e, const int h)
{
    if (bits == 8)
        return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(tile + ((4 * h + v) * 2 + g) * 64 + 16 * e), vdupq_n_u8(0x80)));
    if (bits <= 3) {
        uint8x16_t low = vandq_u8(vshlq_u8(vld1q_u8(tile + (h * 2 + g) * 64 + 16 * e), vdupq_n_s8((int8_t)(-2 * v))), vdupq_n_u8(3));
        if (bits == 3)
            low = vorrq_u8(low, masked_bits(tile + 256 + ((v * 2 + g) * 2 + h) * 8 + 2 * e, 4));
        return vreinterpretq_s8_u8(low);
    }
    uint8x16_t nibbles = vld1q_u8(tile + (v * 2 + g) * 64 + 16 * e);
    uint8x16_t w = h == 0 ? vandq_u8(nibbles, vdupq_n_u8(15)) : vshrq_n_u8(nibbles, 4);
    if (bits == 5)
        w = vorrq_u8(w, masked_bits(tile + 512 + ((v * 2 + g) * 2 + h) * 8 + 2 * e, 16));
    if (bits == 6) {
        uint8x16_t p = vld1q_u8(tile + 512 + (h * 2 + g) * 64 + 16 * e);
        p = v == 0 ? vshlq_n_u8(p, 4) : v == 1 ? vshlq_n_u8(p, 2) : v == 2 ? p : vshrq_n_u8(p, 2);
        w = vorrq_u8(w, vandq_u8(p, vdupq_n_u8(0x30)));
    }
    return vreinterpretq_s8_u8(w);
}

/* sum += w . bytes 4 v .. 4 v + 3 of a. The lane must be a literal. */
ALWAYS_INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t a, const int v)
{
    return v == 0 ? vdotq_laneq_s32(sum, w, a, 0) : v == 1 ? vdotq_laneq_s32(sum, w, a, 1) : v == 2 ? vdotq_laneq_s32(sum, w, a, 2)
                                                                                                   : vdotq_laneq_s32(sum, w, a, 3);
}

ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, int g, const int8_t *q, const int h, vi sums[MR_MAX][VECTORS])
{
    int8x16_t a[MR_MAX];
    UNROLL for (int m = 0; m < mr; m++)
        a[m] = vld1q_s8(q + m * QUANT_BLOCK + 16 * h);
    UNROLL for (int v = 0; v < 4; v++)
        UNROLL for (int e = 0; e < VECTORS; e++) {
            int8x16_t w = weights(bits, tile, v, g, e, h);
            UNROLL for (int m = 0; m < mr; m++)
                sums[m][e] = dot(sums[m][e], w, a[m], v);
        }
}

void gemm_neon(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    (void)ahead;
    gemm_simd(s, n_cols, x, r0, r1, out, ld);
}

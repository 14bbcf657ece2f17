/* simd_neon.h: 4 f32 lanes of Advanced SIMD under the names that simd_rows.h, attend_simd.h and gemm_simd.h use; see simd_avx512.h. For *_neon.c. */
#ifndef NEXTD_CPU_SIMD_NEON_H
#define NEXTD_CPU_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>

#include "engine/numerics/numerics.h"

#define VF_LANES 4
#define VF_QUERIES 6
#define SIMD_LOT 1    /* rows quantised together */
#define VF_LINES 4

typedef float32x4_t vf;
typedef int32x4_t vi;

static inline vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}

static inline vf vf_load(const float *p)
{
    return vld1q_f32(p);
}

static inline void vf_store(float *p, vf v)
{
    vst1q_f32(p, v);
}

/* No intrinsic stores around the caches. */
static inline void vf_store_far(float *p, vf v)
{
    vst1q_f32(p, v);
}

static inline void vf_end_far(void)
{
}

static inline vf vf_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static inline vf vf_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

static inline uint8x8_t load_4_bytes(const uint8_t *p)
{
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vcreate_u8(bytes);
}

static inline vi vi_load_u8(const uint8_t *p)
{
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_4_bytes(p)))));
}

static inline vi vi_load_i8(const uint8_t *p)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_4_bytes(p)))));
}

/* v >> from & mask. */
static inline vi vi_field(vi v, int from, int mask)
{
    return vandq_s32(vshlq_s32(v, vdupq_n_s32(-from)), vdupq_n_s32(mask));
}

static inline vi vi_set1(int32_t x)
{
    return vdupq_n_s32(x);
}

/* The floats whose bits these are. */
static inline vf vf_from_bits(vi v)
{
    return vreinterpretq_f32_s32(v);
}

static inline vf vf_from_vi(vi v)
{
    return vcvtq_f32_s32(v);
}

static inline void vf_store_f16(uint16_t *p, vf v)
{
    v = vminq_f32(vdupq_n_f32(65504.0f), vmaxq_f32(vdupq_n_f32(-65504.0f), v));
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

static inline vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}

/* c - a b, one rounding. */
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return vfmsq_f32(c, a, b);
}

static inline vf vf_negate(vf a)
{
    return vnegq_f32(a);
}

/* NaN where either operand is. */
static inline vf vf_min(vf a, vf b)
{
    return vminq_f32(a, b);
}

static inline vf vf_max(vf a, vf b)
{
    return vmaxq_f32(a, b);
}

static inline vf vf_rint(vf a)
{
    return vrndnq_f32(a);
}

/* p 2^n for whole n in -126..127, rounded once. */
static inline vf vf_scale(vf p, vf n)
{
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)));
}

static inline vf vf_zero_below(vf v, vf x, float limit)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, vdupq_n_f32(limit))));
}

static inline int vf_any_nan(vf v)
{
    return vminvq_u32(vceqq_f32(v, v)) == 0;
}

static inline float vf_reduce_max(vf v)
{
    return vmaxvq_f32(v);
}

/* The tail of num_fold64: lane j += lane j + 2, 1. */
static inline float vf_fold(vf v)
{
    float32x2_t b = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

static inline uint32_t simd_max_bits(const float *x)
{
    const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
    uint32x4_t m = vdupq_n_u32(0);
    for (int i = 0; i < 32; i += 4)
        m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), magnitude));
    return vmaxvq_u32(m);
}

static inline void simd_quantise_block(const float *x, float inverse, int8_t *q, int32_t sum[2])
{
    for (int h = 0; h < 2; h++, x += 16, q += 16) {
        int32x4_t v[4];
        for (int i = 0; i < 4; i++)
            v[i] = vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + 4 * i), vdupq_n_f32(inverse)));
        int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1])), high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
        vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
        sum[h] = vaddvq_s32(vaddq_s32(vaddq_s32(v[0], v[1]), vaddq_s32(v[2], v[3])));
    }
}

#endif

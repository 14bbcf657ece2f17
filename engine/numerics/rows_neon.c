/* rows_neon.c: rows.h with 16 lanes in four registers of Advanced SIMD. The polynomial is num_exp_f32, operation by operation; a block's tail is
 * filled up with -infinity, whose weight is +0, and adding +0 to a sum of exponentials changes no bit. */
#include "engine/numerics/rows.h"

#include <arm_neon.h>
#include <math.h>
#include <stddef.h>

#include "engine/numerics/numerics.h"

/* num_exp_f32 of y <= 0. */
static inline float32x4_t exp4(float32x4_t y)
{
    float32x4_t n = vrndnq_f32(vmulq_f32(y, vdupq_n_f32(1.44269504f)));
    float32x4_t r = vfmaq_f32(y, n, vdupq_n_f32(-0.693359375f));
    r = vfmaq_f32(r, n, vdupq_n_f32(2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0f)), p, vmulq_f32(r, r));
    int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    uint32x4_t w = vreinterpretq_u32_f32(vmulq_f32(p, vreinterpretq_f32_s32(power)));
    return vreinterpretq_f32_u32(vbicq_u32(w, vcltq_f32(y, vdupq_n_f32(NUM_EXP_MIN))));
}

static float neon_max(const float *x, int n)
{
    float32x4_t m = vdupq_n_f32(-INFINITY);
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t v = vld1q_f32(x + i);
        m = vbslq_f32(vcgtq_f32(v, m), v, m); /* passes over NaN, as the specification does */
    }
    float max = vmaxvq_f32(m);
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static inline float32x4_t load_y(const float *x, float max, float scale)
{
    return vmulq_f32(vsubq_f32(vld1q_f32(x), vdupq_n_f32(max)), vdupq_n_f32(scale));
}

/* The last 1 to 15 values, padded by what weighs nothing. */
static inline const float *padded(const float *x, int n, float *memory)
{
    for (int j = 0; j < 16; j++)
        memory[j] = j < n ? x[j] : -INFINITY;
    return memory;
}

static double neon_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    float tail[16];
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK;
        float32x4_t lanes[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
        for (int i = begin; i < end; i += 16) {
            const float *from = end - i >= 16 ? x + i : padded(x + i, end - i, tail);
            for (int j = 0; j < 4; j++)
                lanes[j] = vaddq_f32(lanes[j], exp4(load_y(from + 4 * j, max, scale)));
        }
        float32x4_t a = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3])); /* halves: 8, 4, then 2, 1 */
        float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
        float block = vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = block;
        total += (double)block;
    }
    return total;
}

/* 16 f64 lanes to one value by halves. */
static inline double fold16d(const float64x2_t v[8])
{
    float64x2_t a[4];
    for (int j = 0; j < 4; j++)
        a[j] = vaddq_f64(v[j], v[j + 4]);
    float64x2_t b = vaddq_f64(vaddq_f64(a[0], a[2]), vaddq_f64(a[1], a[3]));
    return vgetq_lane_f64(b, 0) + vgetq_lane_f64(b, 1);
}

static struct rows_moments neon_moments(const float *x, int n, float max, float scale)
{
    float tail[16];
    float64x2_t sum[8], sum_y[8];
    for (int q = 0; q < 8; q++)
        sum[q] = sum_y[q] = vdupq_n_f64(0.0);
    for (int i = 0; i < n; i += 16) {
        const float *from = n - i >= 16 ? x + i : padded(x + i, n - i, tail);
        for (int j = 0; j < 4; j++) {
            float32x4_t y = load_y(from + 4 * j, max, scale), w = exp4(y);
            y = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vceqzq_f32(w))); /* 0 times infinity would be NaN */
            for (int half = 0; half < 2; half++) {
                float64x2_t wd = vcvt_f64_f32(half == 0 ? vget_low_f32(w) : vget_high_f32(w));
                float64x2_t yd = vcvt_f64_f32(half == 0 ? vget_low_f32(y) : vget_high_f32(y));
                sum[2 * j + half] = vaddq_f64(sum[2 * j + half], wd);
                sum_y[2 * j + half] = vfmaq_f64(sum_y[2 * j + half], wd, yd);
            }
        }
    }
    return (struct rows_moments){fold16d(sum), fold16d(sum_y)};
}

static void neon_weights(const float *x, int n, float max, float scale, float *out)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, exp4(load_y(x + i, max, scale)));
    for (; i < n; i++)
        out[i] = num_exp_f32((x[i] - max) * scale);
}

static double neon_mass_above(const float *x, const float *w, int n, float border)
{
    float tail[2][16];
    float64x2_t sum[8];
    for (int q = 0; q < 8; q++)
        sum[q] = vdupq_n_f64(0.0);
    for (int i = 0; i < n; i += 16) {
        bool whole = n - i >= 16;
        const float *from = whole ? x + i : padded(x + i, n - i, tail[0]), *weights = whole ? w + i : padded(w + i, n - i, tail[1]);
        for (int j = 0; j < 4; j++) {
            uint32x4_t above = vcgtq_f32(vld1q_f32(from + 4 * j), vdupq_n_f32(border));
            float32x4_t v = vreinterpretq_f32_u32(vandq_u32(above, vreinterpretq_u32_f32(vld1q_f32(weights + 4 * j))));
            sum[2 * j] = vaddq_f64(sum[2 * j], vcvt_f64_f32(vget_low_f32(v)));
            sum[2 * j + 1] = vaddq_f64(sum[2 * j + 1], vcvt_f64_f32(vget_high_f32(v)));
        }
    }
    return fold16d(sum);
}

/* Few are found among many: four at a time are looked at, and one by one only where one of them is in. */
static int neon_gather(const float *x, int n, float low, float high, int32_t first_id, int32_t *ids, float *values)
{
    int count = 0;
    for (int i = 0; i < n; i += 4) {
        if (i + 4 <= n) {
            float32x4_t v = vld1q_f32(x + i);
            if (vmaxvq_u32(vandq_u32(vcgeq_f32(v, vdupq_n_f32(low)), vcleq_f32(v, vdupq_n_f32(high)))) == 0)
                continue;
        }
        for (int j = i; j < n && j < i + 4; j++)
            if (x[j] >= low && x[j] <= high) {
                ids[count] = first_id + j;
                values[count++] = x[j];
            }
    }
    return count;
}

const struct rows_ops rows_neon = {.name = "neon",
                                   .max = neon_max,
                                   .sum_exp = neon_sum_exp,
                                   .moments = neon_moments,
                                   .weights = neon_weights,
                                   .mass_above = neon_mass_above,
                                   .gather = neon_gather};

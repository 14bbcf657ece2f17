/* simd_rows.h: the row loops that a compiler does not vectorise by itself, once for all widths. Include after simd_<isa>.h.
 *
 * Each is a function of numerics.h or lanes.h, operation by operation the same; lanes are different values, so the width changes no bit. */
#ifndef NEXTD_CPU_SIMD_ROWS_H
#define NEXTD_CPU_SIMD_ROWS_H

#include "engine/backend/cpu/lanes.h"

#define FOLD_VECTORS (64 / VF_LANES)

/* num_exp_f32 of NUM_EXP_MIN <= c <= NUM_EXP_MAX, and of NaN. */
static inline vf vf_exp_within(vf c)
{
    vf n = vf_rint(vf_mul(c, vf_set1(1.44269504f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), c);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_scale(p, n);
}

/* num_exp_f32. */
static inline vf vf_exp(vf x)
{
    return vf_zero_below(vf_exp_within(vf_min(vf_set1(NUM_EXP_MAX), x)), x, NUM_EXP_MIN);
}

/* num_fold64 of 64 lanes in FOLD_VECTORS vectors, which are overwritten. */
static inline float vf_fold64(vf *v)
{
    for (int half = FOLD_VECTORS / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            v[j] = vf_add(v[j], v[j + half]);
    return vf_fold(v[0]);
}

static inline void simd_norm(const float *x, const float *w, int n, float eps, float *out)
{
    if (n % 64 != 0) {
        lanes_norm(x, w, n, eps, out);
        return;
    }
    vf sum[FOLD_VECTORS];
    for (int g = 0; g < FOLD_VECTORS; g++)
        sum[g] = vf_set1(0.0f);
    for (int i = 0; i < n; i += 64)
        for (int g = 0; g < FOLD_VECTORS; g++) {
            vf v = vf_load(x + i + VF_LANES * g);
            sum[g] = vf_fma(v, v, sum[g]);
        }
    vf factor = vf_set1(1.0f / sqrtf(vf_fold64(sum) / (float)n + eps));
    for (int i = 0; i < n; i += VF_LANES)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), factor), vf_load(w + i)));
}

/* quant_quantise of a row's blocks, one after the other. */
static inline int quantise_row(const float *x, struct operand *o, int row, int first_block, int n_blocks, int needs)
{
    int rc = 0;
    for (int b = first_block; b < first_block + n_blocks; b++, x += QUANT_BLOCK) {
        size_t at = operand_at(o, b, row);
        uint32_t max_bits = simd_max_bits(x);
        float amax = num_f32_from_bits(max_bits), d = 0.0f;
        int32_t sum[2] = {0, 0};
        if (max_bits >= 0x7f800000u || amax < QUANT_TINY) {
            memset(o->q + at * QUANT_BLOCK, 0, QUANT_BLOCK);
            rc = max_bits >= 0x7f800000u ? -1 : rc;
        } else {
            simd_quantise_block(x, 127.0f / amax, o->q + at * QUANT_BLOCK, sum);
            d = amax / 127.0f;
        }
        o->d[at] = d;
        if (needs & NEEDS_S)
            o->s[at] = d * (float)(sum[0] + sum[1]);
        if (needs & NEEDS_START)
            o->start[at] = QUANT_MAGIC_BITS - 128 * (sum[0] + sum[1]);
        if (needs & NEEDS_HALF) {
            o->half[0][at] = QUANT_MAGIC_BITS - 32 * sum[0];
            o->half[1][at] = QUANT_MAGIC_BITS - 32 * sum[1];
        }
    }
    return rc;
}

#if SIMD_LOT > 1
/* The same of SIMD_LOT rows, which share a block's divisions and the ends of its maxima and sums and whose scales are neighbours. */
static inline int quantise_lot(const float *x, size_t ld, struct operand *o, int row, int first_block, int n_blocks, int needs)
{
    for (int b = first_block; b < first_block + n_blocks; b++, x += QUANT_BLOCK) {
        size_t at = operand_at(o, b, row);
        float d[SIMD_LOT], s[SIMD_LOT];
        int32_t sum[2][SIMD_LOT], start[SIMD_LOT];
        if (!simd_quantise_lot(x, ld, o->q + at * QUANT_BLOCK, d, sum)) {
            for (int i = 0; i < SIMD_LOT; i++)
                quantise_row(x + (size_t)i * ld, o, row + i, b, 1, needs);
            return -1;
        }
        for (int i = 0; i < SIMD_LOT; i++) {
            s[i] = d[i] * (float)(sum[0][i] + sum[1][i]);
            start[i] = QUANT_MAGIC_BITS - 128 * (sum[0][i] + sum[1][i]);
            sum[0][i] = QUANT_MAGIC_BITS - 32 * sum[0][i];
            sum[1][i] = QUANT_MAGIC_BITS - 32 * sum[1][i];
        }
        memcpy(o->d + at, d, sizeof d);
        if (needs & NEEDS_S)
            memcpy(o->s + at, s, sizeof s);
        if (needs & NEEDS_START)
            memcpy(o->start + at, start, sizeof start);
        if (needs & NEEDS_HALF) {
            memcpy(o->half[0] + at, sum[0], sizeof sum[0]);
            memcpy(o->half[1] + at, sum[1], sizeof sum[1]);
        }
    }
    return 0;
}
#endif

static inline int simd_quantise(const float *x, size_t ld, struct operand *o, int row, int n_rows, int first_block, int n_blocks, int needs)
{
    if ((needs & NEEDS_F) || o->n_cols % QUANT_BLOCK != 0)
        return lanes_quantise(x, ld, o, row, n_rows, first_block, n_blocks, needs);
    int rc = 0, r = 0;
#if SIMD_LOT > 1
    for (; r + SIMD_LOT <= n_rows; r += SIMD_LOT)
        rc |= quantise_lot(x + (size_t)r * ld, ld, o, row + r, first_block, n_blocks, needs);
#endif
    for (; r < n_rows; r++)
        rc |= quantise_row(x + (size_t)r * ld, o, row + r, first_block, n_blocks, needs);
    return rc;
}

/* x / (1 + e^-u) as num_silu has it, u clamped where the sum is 1 whatever follows, so that nothing needs to be compared. */
static inline vf vf_gated(vf x, vf u)
{
    vf c = vf_min(vf_set1(-NUM_EXP_MIN), vf_max(vf_set1(-NUM_EXP_MAX), u)); /* minus the exponent */
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp_within(vf_negate(c))));
}

static inline void simd_activate(enum activation act, float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i += VF_LANES) {
        vf x = vf_load(gate + i), u = x;
        if (act == ACT_GELU_TANH)
            u = vf_mul(x, vf_fma(vf_mul(x, x), vf_set1(0.0713548163f), vf_set1(1.5957691216f)));
        vf_store(gate + i, vf_mul(vf_gated(x, u), vf_load(up + i)));
    }
}

static inline void simd_to_f16(const float *x, int n, uint16_t *out)
{
    int i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES)
        vf_store_f16(out + i, vf_load(x + i));
    lanes_to_f16(x + i, n - i, out + i);
}

static inline float simd_max(const float *x, int n)
{
    vf max = vf_load(x);
    int nan = 0;
    for (int i = 0; i < n; i += VF_LANES) {
        vf v = vf_load(x + i);
        nan |= vf_any_nan(v);
        max = vf_max(max, v);
    }
    return nan ? NAN : vf_reduce_max(max);
}

static inline int simd_max_columns(const float *x, size_t ld, int n_rows, float *most, bool first)
{
    const vf zero = vf_set1(0.0f);
    vf sum = zero; /* of zero times each value: NaN once one is not finite */
    for (int r = 0; r < n_rows; r++, x += ld, most += CPU_STRIPE)
        for (int i = 0; i < CPU_STRIPE; i += VF_LANES) {
            vf v = vf_load(x + i);
            sum = vf_fma(v, zero, sum);
            vf_store(most + i, first ? v : vf_max(vf_load(most + i), v));
        }
    return vf_any_nan(sum) ? -1 : 0;
}

static inline void simd_put_far(const float *tile, int n_rows, float *to, size_t ld)
{
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < CPU_STRIPE; i += VF_LANES)
            vf_store_far(to + (size_t)r * ld + i, vf_load(tile + r * CPU_STRIPE + i));
}

#endif

/* quant.h: the weight formats of GGUF, the quantised activations and the canonical dot product. Frozen with numerics.h.
 *
 * A row of weights is cut into blocks of 32 values. Whatever its type stores - nibbles, bit planes, scales of scales - a block means
 *
 *   w[k] = d * scale[h] * q[k] + min[h]        h = 0 for k < 16, 1 for k >= 16;  q, scale: small integers;  d, min: f32
 *
 * and `struct quant_w` is that meaning. Everything else follows from it: a dequantised value is fma(d * scale, q, min) (d * scale is exact), and the
 * dot product with activations (q', d') in blocks of 32 is
 *
 *   acc = fma((d * scale) * (float)isum, d', acc)          isum = sum(q q') over the values of one scale: 32, or k < 16, then k >= 16
 *   acc = fma(min, d' * sum(q'), acc)                      types with one minimum per 32
 *   acc = fma(min[0], d' * sum(q', k < 16), acc), then min[1] and k >= 16     types with two
 *
 * (d * scale is exact, and so is the float: |isum| < 2^22 for every type; the product with isum is rounded once. So a kernel that starts its sums at
 * the bits of QUANT_MAGIC = 1.5 * 2^23 has QUANT_MAGIC + isum without a conversion, and fma(QUANT_MAGIC + isum, d scale, -QUANT_MAGIC d scale) is the
 * product: -QUANT_MAGIC d scale is exact, too.)
 *
 * where acc is one of 8 slots: block b goes to slot b mod 8, ascending; the result is ((0+1)+(2+3)) + ((4+5)+(6+7)). Integer sums have no order, so
 * the 8 slots are the only freedom an implementation has: lanes, warps or passes. Weights of F32, F16 and BF16 take f32 activations: acc =
 * fma(w[k], x[k], acc), k ascending within the block, in the same slots. A short last block (float types only) is filled up with zeros.
 *
 * This scalar code is the specification; the kernels of every instruction set must equal it bit for bit. */
#ifndef NEXTD_QUANT_H
#define NEXTD_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/numerics/numerics.h"

#define QUANT_BLOCK 32
#define QUANT_SLOTS 8

/* Tensor types, numbered as GGUF numbers them. */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q5_0 = 6,
    TENSOR_Q5_1 = 7,
    TENSOR_Q8_0 = 8,
    TENSOR_Q2_K = 10,
    TENSOR_Q3_K = 11,
    TENSOR_Q4_K = 12,
    TENSOR_Q5_K = 13,
    TENSOR_Q6_K = 14,
    TENSOR_BF16 = 30
};
#define TENSOR_TYPES 31 /* one more than the highest number */

/* Values in one unit of storage of a type (1, 32 or 256) and its bytes; both 0 for an unknown type. A row holds whole units. */
static inline void quant_unit(int type, int *n_values_out, int *n_bytes_out)
{
    static const struct {
        short n_values, n_bytes;
    } unit[TENSOR_TYPES] = {[TENSOR_F32] = {1, 4},     [TENSOR_F16] = {1, 2},     [TENSOR_BF16] = {1, 2},    [TENSOR_Q4_0] = {32, 18},
                            [TENSOR_Q4_1] = {32, 20},  [TENSOR_Q5_0] = {32, 22},  [TENSOR_Q5_1] = {32, 24},  [TENSOR_Q8_0] = {32, 34},
                            [TENSOR_Q2_K] = {256, 84}, [TENSOR_Q3_K] = {256, 110}, [TENSOR_Q4_K] = {256, 144}, [TENSOR_Q5_K] = {256, 176},
                            [TENSOR_Q6_K] = {256, 210}};
    bool known = type >= 0 && type < TENSOR_TYPES;
    *n_values_out = known ? unit[type].n_values : 0;
    *n_bytes_out = known ? unit[type].n_bytes : 0;
}

static inline bool quant_is_float(int type)
{
    return type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16;
}

/* Bytes of a row of n_cols values; 0 if the type is unknown or the row is not made of whole units. */
static inline size_t quant_row_bytes(int type, int n_cols)
{
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    if (n_values == 0 || n_cols <= 0 || n_cols % n_values != 0)
        return 0;
    return (size_t)(n_cols / n_values) * (size_t)n_bytes;
}

static inline int quant_n_blocks(int n_cols)
{
    return (n_cols + QUANT_BLOCK - 1) / QUANT_BLOCK;
}

/* ---- weights ---- */

#define QUANT_MAGIC 12582912.0f
#define QUANT_MAGIC_BITS 0x4b400000

/* The meaning of one block of quantised weights; see the top. */
struct quant_w {
    int8_t q[QUANT_BLOCK];
    bool halves; /* each half has a scale; else scale[0] == scale[1] */
    int16_t scale[2];
    float d;
    float min[2];
    int n_min; /* 0: none; 1: min[0] == min[1]; 2 */
};

static inline uint16_t quant_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline float quant_f16(const uint8_t *p)
{
    return num_f32_from_f16(quant_u16(p));
}

/* Q4_0: d, 16 bytes; low nibbles are values 0..15, high nibbles 16..31; q - 8.
 * Q4_1: d, min, 16 bytes.  Q5_0: d, 32 fifth bits, 16 bytes; q - 16.  Q5_1: d, min, 32 fifth bits, 16 bytes.  Q8_0: d, 32 signed bytes. */
static inline void quant_unpack_simple(int type, const uint8_t *p, struct quant_w *w)
{
    bool has_min = type == TENSOR_Q4_1 || type == TENSOR_Q5_1, five = type == TENSOR_Q5_0 || type == TENSOR_Q5_1;
    int offset = type == TENSOR_Q4_0 ? 8 : type == TENSOR_Q5_0 ? 16 : 0;
    w->d = quant_f16(p);
    w->n_min = has_min;
    w->min[0] = w->min[1] = has_min ? quant_f16(p + 2) : 0.0f;
    w->halves = false;
    w->scale[0] = w->scale[1] = 1;
    const uint8_t *high = p + (has_min ? 4 : 2), *low = high + (five ? 4 : 0);
    if (type == TENSOR_Q8_0) {
        memcpy(w->q, low, QUANT_BLOCK);
        return;
    }
    for (int k = 0; k < QUANT_BLOCK; k++) {
        int v = k < 16 ? low[k] & 15 : low[k - 16] >> 4;
        if (five)
            v |= (high[k / 8] >> k % 8 & 1) << 4;
        w->q[k] = (int8_t)(v - offset);
    }
}

/* Q4_K: d, dmin, 8 six-bit scales and 8 six-bit minima in 12 bytes, 128 bytes: 64 values per 32 bytes, low nibbles first.
 * Q5_K: the same, with 32 bytes between whose bit j is the fifth bit of sub-block j. */
static inline void quant_unpack_k45(int type, const uint8_t *p, int j, struct quant_w *w)
{
    const uint8_t *s = p + 4, *high = p + 16, *low = type == TENSOR_Q5_K ? p + 48 : p + 16;
    int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    int min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    w->d = quant_f16(p);
    w->n_min = 1;
    w->min[0] = w->min[1] = -(quant_f16(p + 2) * (float)min);
    w->halves = false;
    w->scale[0] = w->scale[1] = (int16_t)scale;
    for (int k = 0; k < QUANT_BLOCK; k++) {
        int v = low[j / 2 * 32 + k] >> (j % 2 * 4) & 15;
        if (type == TENSOR_Q5_K)
            v |= (high[k] >> j & 1) << 4;
        w->q[k] = (int8_t)v;
    }
}

/* Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16 values), d; q - 32. */
static inline void quant_unpack_k6(const uint8_t *p, int j, struct quant_w *w)
{
    const uint8_t *low = p + 64 * (j / 4) + 32 * (j % 2), *high = p + 128 + 32 * (j / 4), *s = p + 192;
    int i = j % 4;
    w->halves = true;
    w->d = quant_f16(p + 208);
    w->n_min = 0;
    w->min[0] = w->min[1] = 0.0f;
    for (int h = 0; h < 2; h++)
        w->scale[h] = (int16_t)(s[2 * j + h] < 128 ? s[2 * j + h] : s[2 * j + h] - 256);
    for (int k = 0; k < QUANT_BLOCK; k++)
        w->q[k] = (int8_t)(((low[k] >> (i / 2 * 4) & 15) | (high[k] >> 2 * i & 3) << 4) - 32);
}

/* Q2_K: 16 bytes of four-bit scales (low) and minima (high), one per 16 values, 64 bytes of bit pairs, d, dmin. */
static inline void quant_unpack_k2(const uint8_t *p, int j, struct quant_w *w)
{
    float dmin = quant_f16(p + 82);
    w->halves = true;
    w->d = quant_f16(p + 80);
    w->n_min = 2;
    for (int h = 0; h < 2; h++) {
        w->scale[h] = p[2 * j + h] & 15;
        w->min[h] = -(dmin * (float)(p[2 * j + h] >> 4));
    }
    for (int k = 0; k < QUANT_BLOCK; k++)
        w->q[k] = p[16 + 32 * (j / 4) + k] >> (2 * (j % 4)) & 3;
}

/* Q3_K: 32 bytes whose bit j is set where sub-block j is not lowered by 4, 64 bytes of bit pairs, 16 six-bit scales (less 32) in 12 bytes, d. */
static inline void quant_unpack_k3(const uint8_t *p, int j, struct quant_w *w)
{
    const uint8_t *s = p + 96;
    w->halves = true;
    w->d = quant_f16(p + 108);
    w->n_min = 0;
    w->min[0] = w->min[1] = 0.0f;
    for (int h = 0; h < 2; h++) {
        int i = 2 * j + h, low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        w->scale[h] = (int16_t)((low | high << 4) - 32);
    }
    for (int k = 0; k < QUANT_BLOCK; k++)
        w->q[k] = (int8_t)((p[32 + 32 * (j / 4) + k] >> (2 * (j % 4)) & 3) - (p[k] >> j & 1 ? 0 : 4));
}

/* Block b of a row of a quantised type. */
static inline void quant_unpack(int type, const void *row, int b, struct quant_w *w)
{
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    const uint8_t *p = (const uint8_t *)row + (size_t)(n_values == 256 ? b / 8 : b) * (size_t)n_bytes;
    if (n_values == 32)
        quant_unpack_simple(type, p, w);
    else if (type == TENSOR_Q2_K)
        quant_unpack_k2(p, b % 8, w);
    else if (type == TENSOR_Q3_K)
        quant_unpack_k3(p, b % 8, w);
    else if (type == TENSOR_Q6_K)
        quant_unpack_k6(p, b % 8, w);
    else
        quant_unpack_k45(type, p, b % 8, w);
}

static inline float quant_w_value(const struct quant_w *w, int k)
{
    return fmaf(w->d * (float)w->scale[k / 16], (float)w->q[k], w->min[k / 16]);
}

/* Block b of a row of a float type, zeros beyond n_cols. */
static inline void quant_unpack_float(int type, const void *row, int n_cols, int b, float w_out[QUANT_BLOCK])
{
    const uint8_t *p = row;
    for (int k = 0; k < QUANT_BLOCK; k++) {
        size_t i = (size_t)b * QUANT_BLOCK + (size_t)k;
        if (i >= (size_t)n_cols)
            w_out[k] = 0.0f;
        else if (type == TENSOR_F16)
            w_out[k] = quant_f16(p + 2 * i);
        else if (type == TENSOR_BF16)
            w_out[k] = num_f32_from_bf16(quant_u16(p + 2 * i));
        else
            memcpy(&w_out[k], p + 4 * i, 4);
    }
}

/* A whole row to f32. */
static inline void quant_dequantise_row(int type, const void *row, int n_cols, float *out)
{
    for (int b = 0; b < quant_n_blocks(n_cols); b++) {
        float values[QUANT_BLOCK];
        int n = n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
        if (quant_is_float(type)) {
            quant_unpack_float(type, row, n_cols, b, values);
        } else {
            struct quant_w w;
            quant_unpack(type, row, b, &w);
            for (int k = 0; k < n; k++)
                values[k] = quant_w_value(&w, k);
        }
        memcpy(out + (size_t)b * QUANT_BLOCK, values, (size_t)n * sizeof *out);
    }
}

/* ---- activations ---- */

/* 32 activations as int8: x[k] ~ d * q[k], |q| <= 127. */
struct quant_x {
    int8_t q[QUANT_BLOCK];
    int16_t sum[2]; /* of q[0..15] and q[16..31] */
    float d;
};

/* Below this magnitude a block is zero: 127 / amax would overflow. */
#define QUANT_TINY 0x1p-100f

/* amax = max |x|; q = rint(x * (127 / amax)); d = amax / 127. Returns 0, or -1 (q = 0, d = 0) if an x is not finite, which is a fault of the
 * engine. */
static inline int quant_quantise(const float x[QUANT_BLOCK], struct quant_x *out)
{
    uint32_t max_bits = 0; /* the order of magnitudes is the order of their bits; NaN and infinity come last */
    for (int k = 0; k < QUANT_BLOCK; k++) {
        uint32_t bits = num_bits_from_f32(x[k]) & 0x7fffffffu;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    float amax = num_f32_from_bits(max_bits);
    bool finite = max_bits < 0x7f800000u, zero = !finite || amax < QUANT_TINY;
    float inverse = zero ? 0.0f : 127.0f / amax;
    out->d = zero ? 0.0f : amax / 127.0f;
    out->sum[0] = out->sum[1] = 0;
    for (int k = 0; k < QUANT_BLOCK; k++) {
        out->q[k] = zero ? 0 : (int8_t)rintf(x[k] * inverse);
        out->sum[k / 16] = (int16_t)(out->sum[k / 16] + out->q[k]);
    }
    return finite ? 0 : -1;
}

/* ---- the dot product ---- */

/* One block of quantised weights times one block of activations into a slot. */
static inline float quant_mac(const struct quant_w *w, const struct quant_x *x, float acc)
{
    int32_t sum[2] = {0, 0};
    for (int k = 0; k < QUANT_BLOCK; k++)
        sum[k / 16] += (int32_t)w->q[k] * (int32_t)x->q[k];
    if (!w->halves) {
        acc = fmaf((w->d * (float)w->scale[0]) * (float)(sum[0] + sum[1]), x->d, acc);
    } else {
        acc = fmaf((w->d * (float)w->scale[0]) * (float)sum[0], x->d, acc);
        acc = fmaf((w->d * (float)w->scale[1]) * (float)sum[1], x->d, acc);
    }
    if (w->n_min == 1)
        acc = fmaf(w->min[0], x->d * (float)(x->sum[0] + x->sum[1]), acc);
    if (w->n_min == 2) {
        acc = fmaf(w->min[0], x->d * (float)x->sum[0], acc);
        acc = fmaf(w->min[1], x->d * (float)x->sum[1], acc);
    }
    return acc;
}

static inline float quant_mac_float(const float w[QUANT_BLOCK], const float x[QUANT_BLOCK], float acc)
{
    for (int k = 0; k < QUANT_BLOCK; k++)
        acc = fmaf(w[k], x[k], acc);
    return acc;
}

static inline float quant_fold(const float s[QUANT_SLOTS])
{
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* A row of any type times f32 activations x[n_cols], quantised on the way if the type asks for it. For tests: slow. */
static inline float quant_dot(int type, const void *row, const float *x, int n_cols)
{
    float slots[QUANT_SLOTS] = {0};
    for (int b = 0; b < quant_n_blocks(n_cols); b++) {
        float values[QUANT_BLOCK] = {0};
        int n = n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
        memcpy(values, x + (size_t)b * QUANT_BLOCK, (size_t)n * sizeof *x);
        float *slot = &slots[b % QUANT_SLOTS];
        if (quant_is_float(type)) {
            float w[QUANT_BLOCK];
            quant_unpack_float(type, row, n_cols, b, w);
            *slot = quant_mac_float(w, values, *slot);
        } else {
            struct quant_w w;
            struct quant_x xq;
            quant_unpack(type, row, b, &w);
            quant_quantise(values, &xq);
            *slot = quant_mac(&w, &xq, *slot);
        }
    }
    return quant_fold(slots);
}

#endif

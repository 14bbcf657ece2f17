/* rows_avx512.c: rows.h with 16 lanes in one register. The polynomial is num_exp_f32, operation by operation; a block's tail is masked to +0, and
 * adding +0 to a sum of exponentials changes no bit. */
#include "engine/numerics/rows.h"

#include <immintrin.h>
#include <math.h>
#include <stddef.h>

#include "engine/numerics/numerics.h"

#define ROUNDER 12582912.0f /* 1.5 * 2^23: added and taken away again it leaves |x| < 2^22 rounded to the nearest even integer, as rintf does */
#define AHEAD 2048          /* floats between the load and the prefetch: rows come from the outer caches, and the hardware stops at every page */

/* Lanes whose num_exp_f32 is not 0; NaN counts. */
static inline __mmask16 has_weight(__m512 y)
{
    return _mm512_cmp_ps_mask(y, _mm512_set1_ps(NUM_EXP_MIN), _CMP_NLT_UQ);
}

/* num_exp_f32 of y <= 0 in the lanes of has_weight; anything in the others. Every operation counts, for two ports share them all: rounding by an
 * addition, scaling by one instruction and leaving the blends to the caller's mask took the sum over 262,144 logits from 77 to 39 us. */
static inline __m512 exp16(__m512 y)
{
    __m512 n = _mm512_add_ps(_mm512_mul_ps(y, _mm512_set1_ps(1.44269504f)), _mm512_set1_ps(ROUNDER));
    n = _mm512_sub_ps(n, _mm512_set1_ps(ROUNDER));
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), y);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

static inline __mmask16 tail_mask(int left)
{
    return left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << left) - 1);
}

/* Lanes to one value by halves, 8, 4, 2, 1. */
static inline float fold16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

static float avx512_max(const float *x, int n)
{
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (int i = 0; i < n; i += 16)
        max = _mm512_max_ps(_mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), tail_mask(n - i), x + i), max);
    float largest = _mm512_reduce_max_ps(max);
    _mm256_zeroupper(); /* compilers leave it out at -O1, and every scalar operation after that pays */
    return largest;
}

static inline __m512 load_y(const float *x, __m512 max, __m512 scale)
{
    return _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x), max), scale);
}

/* The last 1 to 15 values, padded by what weighs nothing. Masks made in every turn would cost the ports that the exponential needs. */
static inline __m512 load_tail_y(const float *x, int n, __m512 max, __m512 scale)
{
    __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), tail_mask(n), x);
    return _mm512_mul_ps(_mm512_sub_ps(v, max), scale);
}

static inline __m512 add_weights(__m512 lanes, __m512 y)
{
    return _mm512_mask_add_ps(lanes, has_weight(y), lanes, exp16(y));
}

static double avx512_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    __m512 vmax = _mm512_set1_ps(max), vscale = _mm512_set1_ps(scale);
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK, i = begin;
        __m512 lanes = _mm512_setzero_ps();
        for (; i + 16 <= end; i += 16) {
            _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
            lanes = add_weights(lanes, load_y(x + i, vmax, vscale));
        }
        if (i < end)
            lanes = add_weights(lanes, load_tail_y(x + i, end - i, vmax, vscale));
        float sum = fold16(lanes);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = sum;
        total += (double)sum;
    }
    _mm256_zeroupper();
    return total;
}

static double avx512_sum_exp_twice(const float *x, int n, float max, float scale, float *block_sums, double *plain_out)
{
    double total = 0, plain_total = 0;
    __m512 vmax = _mm512_set1_ps(max), vscale = _mm512_set1_ps(scale), one = _mm512_set1_ps(1.0f);
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK, i = begin;
        __m512 lanes = _mm512_setzero_ps(), plain = _mm512_setzero_ps();
        for (; i + 16 <= end; i += 16) {
            _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
            __m512 below = _mm512_sub_ps(_mm512_loadu_ps(x + i), vmax);
            lanes = add_weights(lanes, _mm512_mul_ps(below, vscale));
            plain = add_weights(plain, below);
        }
        if (i < end) {
            lanes = add_weights(lanes, load_tail_y(x + i, end - i, vmax, vscale));
            plain = add_weights(plain, load_tail_y(x + i, end - i, vmax, one));
        }
        float sum = fold16(lanes);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = sum;
        total += (double)sum;
        plain_total += (double)fold16(plain);
    }
    _mm256_zeroupper();
    *plain_out = plain_total;
    return total;
}

/* 16 f64 lanes to one value by halves. */
static inline double fold16d(__m512d low, __m512d high)
{
    __m512d a = _mm512_add_pd(low, high);
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/* By blocks that wait in the nearest cache: widening what comes from memory is one operation, and three for the upper half of a register. */
static struct rows_moments avx512_moments(const float *x, int n, float max, float scale)
{
    float w[ROWS_BLOCK], y[ROWS_BLOCK];
    __m512 vmax = _mm512_set1_ps(max), vscale = _mm512_set1_ps(scale);
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()}, sum_y[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK;
        for (int i = begin; i < end; i += 16) {
            _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
            __m512 v = end - i >= 16 ? load_y(x + i, vmax, vscale) : load_tail_y(x + i, end - i, vmax, vscale);
            __mmask16 mask = has_weight(v);
            _mm512_storeu_ps(w + (i - begin), _mm512_maskz_mov_ps(mask, exp16(v)));
            _mm512_storeu_ps(y + (i - begin), _mm512_maskz_mov_ps(mask, v));
        }
        for (int i = 0; i < end - begin; i += 16)
            for (int h = 0; h < 2; h++) {
                __m512d wd = _mm512_cvtps_pd(_mm256_loadu_ps(w + i + 8 * h)), yd = _mm512_cvtps_pd(_mm256_loadu_ps(y + i + 8 * h));
                sum[h] = _mm512_add_pd(sum[h], wd);
                sum_y[h] = _mm512_fmadd_pd(wd, yd, sum_y[h]);
            }
    }
    struct rows_moments m = {fold16d(sum[0], sum[1]), fold16d(sum_y[0], sum_y[1])};
    _mm256_zeroupper();
    return m;
}

static void avx512_weights(const float *x, int n, float max, float scale, float *out)
{
    __m512 vmax = _mm512_set1_ps(max), vscale = _mm512_set1_ps(scale);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 y = load_y(x + i, vmax, vscale);
        _mm512_storeu_ps(out + i, _mm512_maskz_mov_ps(has_weight(y), exp16(y)));
    }
    if (i < n) {
        __m512 y = load_tail_y(x + i, n - i, vmax, vscale);
        _mm512_mask_storeu_ps(out + i, tail_mask(n - i), _mm512_maskz_mov_ps(has_weight(y), exp16(y)));
    }
    _mm256_zeroupper();
}

static double avx512_mass_above(const float *x, const float *w, int n, float border)
{
    __m512 vborder = _mm512_set1_ps(border);
    __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __mmask16 above = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), vborder, _CMP_GT_OQ);
        sum[0] = _mm512_add_pd(sum[0], _mm512_maskz_cvtps_pd((__mmask8)above, _mm256_loadu_ps(w + i)));
        sum[1] = _mm512_add_pd(sum[1], _mm512_maskz_cvtps_pd((__mmask8)(above >> 8), _mm256_loadu_ps(w + i + 8)));
    }
    if (i < n) {
        __mmask16 here = tail_mask(n - i);
        here = _mm512_mask_cmp_ps_mask(here, _mm512_maskz_loadu_ps(here, x + i), vborder, _CMP_GT_OQ);
        __m512 tail = _mm512_maskz_loadu_ps(here, w + i);
        sum[0] = _mm512_add_pd(sum[0], _mm512_cvtps_pd(_mm512_castps512_ps256(tail)));
        sum[1] = _mm512_add_pd(sum[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(tail, 1)));
    }
    double total = fold16d(sum[0], sum[1]);
    _mm256_zeroupper();
    return total;
}

/* Values between low and high, and where they are listed. */
struct window {
    __m512 low, high;
    __m512i id; /* of the 16 values that come next */
    int32_t *ids;
    float *values;
};

static inline __mmask16 inside(const struct window *w, __m512 v)
{
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, w->low, _CMP_GE_OQ), v, w->high, _CMP_LE_OQ);
}

/* Packed in a register and stored whole: packing stores are slow on some machines. */
static inline void pack(struct window *w, __mmask16 mask, __m512 v)
{
    _mm512_storeu_si512(w->ids, _mm512_maskz_compress_epi32(mask, w->id));
    _mm512_storeu_ps(w->values, _mm512_maskz_compress_ps(mask, v));
    w->ids += __builtin_popcount(mask);
    w->values += __builtin_popcount(mask);
    w->id = _mm512_add_epi32(w->id, _mm512_set1_epi32(16));
}

/* 64 at a time are passed over where none is in. Within them nothing branches: where one in twenty is in, a branch for every 16 is mispredicted so
 * often that the whole took twice as long. */
static int avx512_gather(const float *x, int n, float low, float high, int32_t first_id, int32_t *ids, float *values)
{
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct window w = {_mm512_set1_ps(low), _mm512_set1_ps(high), _mm512_add_epi32(steps, _mm512_set1_epi32(first_id)), ids, values};
    int i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512 v[4];
        __mmask16 in[4];
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)(x + i + 16 * j + AHEAD), _MM_HINT_T0);
            v[j] = _mm512_loadu_ps(x + i + 16 * j);
            in[j] = inside(&w, v[j]);
        }
        if ((in[0] | in[1] | in[2] | in[3]) == 0) {
            w.id = _mm512_add_epi32(w.id, _mm512_set1_epi32(64));
            continue;
        }
        for (int j = 0; j < 4; j++)
            pack(&w, in[j], v[j]);
    }
    for (; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
        pack(&w, inside(&w, v) & tail_mask(n - i), v);
    }
    _mm256_zeroupper();
    return (int)(w.values - values);
}

const struct rows_ops rows_avx512 = {.name = "avx512",
                                     .max = avx512_max,
                                     .sum_exp = avx512_sum_exp,
                                     .sum_exp_twice = avx512_sum_exp_twice,
                                     .moments = avx512_moments,
                                     .weights = avx512_weights,
                                     .mass_above = avx512_mass_above,
                                     .gather = avx512_gather};

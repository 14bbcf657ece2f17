/* rows_avx2.c: rows.h with 16 lanes in two registers. The polynomial is num_exp_f32, operation by operation; a block's tail is copied to a padded
 * buffer and masked to +0, and adding +0 to a sum of exponentials changes no bit. */
#include "engine/numerics/rows.h"

#include <immintrin.h>
#include <math.h>
#include <stddef.h>

#include "engine/numerics/numerics.h"

#define ROUNDER 12582912.0f /* 1.5 * 2^23: added and taken away again it leaves |x| < 2^22 rounded to the nearest even integer, as rintf does */
#define AHEAD 2048          /* floats between the load and the prefetch: rows come from the outer caches, and the hardware stops at every page */

/* num_exp_f32 of y <= 0. The low bits of `shifted` are n as an integer: moved up beside the bias they are 2^n, for every y that has a weight. */
static inline __m256 exp8(__m256 y)
{
    __m256 shifted = _mm256_add_ps(_mm256_mul_ps(y, _mm256_set1_ps(1.44269504f)), _mm256_set1_ps(ROUNDER));
    __m256 n = _mm256_sub_ps(shifted, _mm256_set1_ps(ROUNDER));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), y);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    __m256i power = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23), _mm256_set1_epi32(127 << 23));
    return _mm256_andnot_ps(_mm256_cmp_ps(y, _mm256_set1_ps(NUM_EXP_MIN), _CMP_LT_OQ), _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

static float avx2_max(const float *x, int n)
{
    __m256 m = _mm256_set1_ps(-INFINITY);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
    float lane[8], max = -INFINITY;
    _mm256_storeu_ps(lane, m);
    _mm256_zeroupper(); /* compilers leave it out at -O1, and every scalar operation after that pays */
    for (int j = 0; j < 8; j++)
        max = lane[j] > max ? lane[j] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

struct lanes {
    __m256 low, high; /* lanes 0-7 and 8-15 */
};

static inline float fold16(struct lanes v)
{
    __m256 a = _mm256_add_ps(v.low, v.high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

static inline __m256 load_y(const float *x, __m256 max, __m256 scale)
{
    return _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x), max), scale);
}

/* The last 1 to 15 values, padded by what weighs nothing. */
static inline const float *padded(const float *x, int n, float *memory)
{
    for (int j = 0; j < 16; j++)
        memory[j] = j < n ? x[j] : -INFINITY;
    return memory;
}

static double avx2_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    float tail[16];
    __m256 vmax = _mm256_set1_ps(max), vscale = _mm256_set1_ps(scale);
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK;
        struct lanes sum = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int i = begin; i < end; i += 16) {
            _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
            const float *from = end - i >= 16 ? x + i : padded(x + i, end - i, tail);
            sum.low = _mm256_add_ps(sum.low, exp8(load_y(from, vmax, vscale)));
            sum.high = _mm256_add_ps(sum.high, exp8(load_y(from + 8, vmax, vscale)));
        }
        float block = fold16(sum);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = block;
        total += (double)block;
    }
    _mm256_zeroupper();
    return total;
}

/* 16 f64 lanes to one value by halves. */
static inline double fold16d(const __m256d *lanes)
{
    __m256d a = _mm256_add_pd(_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3]));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

static struct rows_moments avx2_moments(const float *x, int n, float max, float scale)
{
    float tail[16];
    __m256 vmax = _mm256_set1_ps(max), vscale = _mm256_set1_ps(scale);
    __m256d sum[4], sum_y[4];
    for (int q = 0; q < 4; q++)
        sum[q] = sum_y[q] = _mm256_setzero_pd();
    for (int i = 0; i < n; i += 16) {
        _mm_prefetch((const char *)(x + i + AHEAD), _MM_HINT_T0);
        const float *from = n - i >= 16 ? x + i : padded(x + i, n - i, tail);
        for (int h = 0; h < 2; h++) {
            __m256 y = load_y(from + 8 * h, vmax, vscale), w = exp8(y);
            y = _mm256_andnot_ps(_mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_EQ_OQ), y); /* 0 times infinity would be NaN */
            for (int q = 0; q < 2; q++) {
                __m256d wd = _mm256_cvtps_pd(q == 0 ? _mm256_castps256_ps128(w) : _mm256_extractf128_ps(w, 1));
                __m256d yd = _mm256_cvtps_pd(q == 0 ? _mm256_castps256_ps128(y) : _mm256_extractf128_ps(y, 1));
                sum[2 * h + q] = _mm256_add_pd(sum[2 * h + q], wd);
                sum_y[2 * h + q] = _mm256_fmadd_pd(wd, yd, sum_y[2 * h + q]);
            }
        }
    }
    struct rows_moments m = {fold16d(sum), fold16d(sum_y)};
    _mm256_zeroupper();
    return m;
}

static void avx2_weights(const float *x, int n, float max, float scale, float *out)
{
    __m256 vmax = _mm256_set1_ps(max), vscale = _mm256_set1_ps(scale);
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, exp8(load_y(x + i, vmax, vscale)));
    _mm256_zeroupper();
    for (; i < n; i++)
        out[i] = num_exp_f32((x[i] - max) * scale);
}

static double avx2_mass_above(const float *x, const float *w, int n, float border)
{
    float tail[2][16];
    __m256 vborder = _mm256_set1_ps(border);
    __m256d sum[4];
    for (int q = 0; q < 4; q++)
        sum[q] = _mm256_setzero_pd();
    for (int i = 0; i < n; i += 16) {
        bool whole = n - i >= 16;
        const float *from = whole ? x + i : padded(x + i, n - i, tail[0]), *weights = whole ? w + i : padded(w + i, n - i, tail[1]);
        for (int h = 0; h < 2; h++) {
            __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(from + 8 * h), vborder, _CMP_GT_OQ);
            __m256 v = _mm256_and_ps(above, _mm256_loadu_ps(weights + 8 * h));
            sum[2 * h] = _mm256_add_pd(sum[2 * h], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
            sum[2 * h + 1] = _mm256_add_pd(sum[2 * h + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
        }
    }
    double total = fold16d(sum);
    _mm256_zeroupper();
    return total;
}

static int avx2_gather(const float *x, int n, float low, float high, int32_t first_id, int32_t *ids, float *values)
{
    int count = 0, i = 0;
    __m256 vlow = _mm256_set1_ps(low), vhigh = _mm256_set1_ps(high);
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        __m256 in = _mm256_and_ps(_mm256_cmp_ps(v, vlow, _CMP_GE_OQ), _mm256_cmp_ps(v, vhigh, _CMP_LE_OQ));
        for (unsigned mask = (unsigned)_mm256_movemask_ps(in); mask != 0; mask &= mask - 1) {
            int at = i + __builtin_ctz(mask);
            ids[count] = first_id + at;
            values[count++] = x[at];
        }
    }
    _mm256_zeroupper();
    for (; i < n; i++)
        if (x[i] >= low && x[i] <= high) {
            ids[count] = first_id + i;
            values[count++] = x[i];
        }
    return count;
}

const struct rows_ops rows_avx2 = {.name = "avx2",
                                   .max = avx2_max,
                                   .sum_exp = avx2_sum_exp,
                                   .moments = avx2_moments,
                                   .weights = avx2_weights,
                                   .mass_above = avx2_mass_above,
                                   .gather = avx2_gather};

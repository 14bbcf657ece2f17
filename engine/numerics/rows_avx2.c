/* rows_avx2.c: rows.h with 16 lanes in two registers. The polynomial is num_exp_f32, operation by operation; a block's tail is copied to a padded
 * buffer and masked to +0, and adding +0 to a sum of exponentials changes no bit. */
#include "engine/numerics/rows.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine/numerics/numerics.h"

static inline __m256 exp8(__m256 x)
{
    __m256 c = _mm256_blendv_ps(x, _mm256_set1_ps(NUM_EXP_MAX), _mm256_cmp_ps(x, _mm256_set1_ps(NUM_EXP_MAX), _CMP_GT_OQ));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(c, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375f), c);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    __m256 y = _mm256_mul_ps(p, _mm256_castsi256_ps(bits));
    y = _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(NUM_EXP_MIN), _CMP_LT_OQ), y);
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

static inline __m256 weights8(const float *x, __m256 max, __m256 scale)
{
    return exp8(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x), max), scale));
}

static double avx2_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    __m256 vmax = _mm256_set1_ps(max), vscale = _mm256_set1_ps(scale);
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK, i = begin;
        struct lanes sum = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (; i + 16 <= end; i += 16) {
            sum.low = _mm256_add_ps(sum.low, weights8(x + i, vmax, vscale));
            sum.high = _mm256_add_ps(sum.high, weights8(x + i + 8, vmax, vscale));
        }
        if (i < end) {
            float tail[16], weight[16];
            for (int j = 0; j < 16; j++)
                tail[j] = i + j < end ? x[i + j] : max;
            _mm256_storeu_ps(weight, weights8(tail, vmax, vscale));
            _mm256_storeu_ps(weight + 8, weights8(tail + 8, vmax, vscale));
            memset(weight + (end - i), 0, (size_t)(16 - (end - i)) * sizeof *weight);
            sum.low = _mm256_add_ps(sum.low, _mm256_loadu_ps(weight));
            sum.high = _mm256_add_ps(sum.high, _mm256_loadu_ps(weight + 8));
        }
        float block = fold16(sum);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = block;
        total += (double)block;
    }
    _mm256_zeroupper();
    return total;
}

const struct rows_ops rows_avx2 = {.name = "avx2", .max = avx2_max, .sum_exp = avx2_sum_exp};
#else
const struct rows_ops rows_avx2 = {.name = "avx2"};
#endif

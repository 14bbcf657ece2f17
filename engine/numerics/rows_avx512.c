/* rows_avx512.c: rows.h with 16 lanes in one register. The polynomial is num_exp_f32, operation by operation; a block's tail is masked to +0, and
 * adding +0 to a sum of exponentials changes no bit. */
#include "engine/numerics/rows.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stddef.h>

#include "engine/numerics/numerics.h"

static inline __m512 exp16(__m512 x)
{
    __m512 c = _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_set1_ps(NUM_EXP_MAX), _CMP_GT_OQ), _mm512_set1_ps(NUM_EXP_MAX));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(c, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), c);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    __m512 y = _mm512_mul_ps(p, _mm512_castsi512_ps(bits));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(NUM_EXP_MIN), _CMP_LT_OQ), _mm512_setzero_ps());
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

static double avx512_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    __m512 vmax = _mm512_set1_ps(max), vscale = _mm512_set1_ps(scale);
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        int end = n - begin < ROWS_BLOCK ? n : begin + ROWS_BLOCK;
        __m512 lanes = _mm512_setzero_ps();
        for (int i = begin; i < end; i += 16) {
            __mmask16 mask = tail_mask(end - i);
            __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), vmax), vscale);
            lanes = _mm512_add_ps(lanes, _mm512_maskz_mov_ps(mask, exp16(v)));
        }
        float sum = fold16(lanes);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = sum;
        total += (double)sum;
    }
    _mm256_zeroupper();
    return total;
}

const struct rows_ops rows_avx512 = {.name = "avx512", .max = avx512_max, .sum_exp = avx512_sum_exp};
#else
const struct rows_ops rows_avx512 = {.name = "avx512"};
#endif

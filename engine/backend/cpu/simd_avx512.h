/* simd_avx512.h: 16 f32 lanes under the names that simd_rows.h and attend_simd.h use; simd_avx2.h is the same for 8. Each is one instruction or a
 * fixed few, so the order of operations is what the including file writes. For *_avx512.c only. */
#ifndef NEXTD_CPU_SIMD_AVX512_H
#define NEXTD_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "engine/numerics/quant.h"

#define VF_LANES 16
#define VF_QUERIES 6 /* queries in one pass of attention: their accumulators fill the registers */
#define SIMD_LOT 8   /* rows quantised together */
#define VF_LINES 4   /* vectors of dimensions in one pass */

typedef __m512 vf; /* the one typedef: a register, not a struct of ours */

static inline vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

/* Around the caches; p is aligned. Such stores are in no order until vf_end_far. */
static inline void vf_store_far(float *p, vf v)
{
    _mm512_stream_ps(p, v);
}

static inline void vf_end_far(void)
{
    _mm_sfence();
}

static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* num_f16_from_f32: saturating, to nearest even; NaN stays NaN. */
static inline void vf_store_f16(uint16_t *p, vf v)
{
    v = _mm512_min_ps(_mm512_set1_ps(65504.0f), _mm512_max_ps(_mm512_set1_ps(-65504.0f), v));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf vf_negate(vf a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

/* The second operand where one is NaN. */
static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf vf_rint(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* p 2^n for whole n in -126..127, rounded once. */
static inline vf vf_scale(vf p, vf n)
{
    return _mm512_scalef_ps(p, n);
}

/* v, but +0 in lanes where x < limit. */
static inline vf vf_zero_below(vf v, vf x, float limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), v);
}

static inline int vf_any_nan(vf v)
{
    return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0;
}

static inline float vf_reduce_max(vf v)
{
    return _mm512_reduce_max_ps(v); /* a maximum has no order */
}

/* The tail of num_fold64: lane j += lane j + 8, 4, 2, 1. */
static inline float vf_fold(vf v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

/* The greatest magnitude of 32 values, as bits: NaN and infinity order above all numbers. */
static inline uint32_t simd_max_bits(const float *x)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), magnitude), b = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
    return _mm512_reduce_max_epu32(_mm512_max_epu32(a, b));
}

/* q = rint(x * inverse) of 32 values, |q| <= 127, and its sums by halves. */
static inline void simd_quantise_block(const float *x, float inverse, int8_t *q, int32_t sum[2])
{
    __m128i a = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse))));
    __m128i b = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), _mm512_set1_ps(inverse))));
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    _mm256_storeu_si256((__m256i *)q, both);
    both = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), both); /* four bytes to a lane; then lanes within each half */
    both = _mm256_add_epi32(both, _mm256_shuffle_epi32(both, 0x4e));
    both = _mm256_add_epi32(both, _mm256_shuffle_epi32(both, 0xb1));
    sum[0] = _mm256_cvtsi256_si32(both);
    sum[1] = _mm256_extract_epi32(both, 4);
}

/* simd_max_bits of a block in eight rows. Each step folds two registers into one, halves of lanes first. */
static inline __m256i max_bits_lot(const float *x, size_t ld)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i m[8];
    for (size_t i = 0; i < 8; i++)
        m[i] = _mm512_max_epu32(_mm512_and_si512(_mm512_loadu_si512(x + i * ld), magnitude),
                                _mm512_and_si512(_mm512_loadu_si512(x + i * ld + 16), magnitude));
    for (int i = 0; i < 4; i++) /* eight lanes of row i, eight of row i + 4 */
        m[i] = _mm512_max_epu32(_mm512_shuffle_i64x2(m[i], m[i + 4], 0x44), _mm512_shuffle_i64x2(m[i], m[i + 4], 0xee));
    for (int i = 0; i < 2; i++) /* four lanes of each of rows i, i + 4, i + 2, i + 6 */
        m[i] = _mm512_max_epu32(_mm512_shuffle_i32x4(m[i], m[i + 2], 0x88), _mm512_shuffle_i32x4(m[i], m[i + 2], 0xdd));
    __m512i two = _mm512_max_epu32(_mm512_unpacklo_epi64(m[0], m[1]), _mm512_unpackhi_epi64(m[0], m[1]));
    two = _mm512_max_epu32(two, _mm512_shuffle_epi32(two, 0xb1)); /* rows 0 0 1 1, 4 4 5 5, 2 2 3 3, 6 6 7 7 */
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(_mm512_setr_epi32(0, 2, 8, 10, 4, 6, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0), two));
}

/* A block in eight rows as quant_quantise has it; 0, and nothing written, where a value is not finite. */
static inline int simd_quantise_lot(const float *x, size_t ld, int8_t *q, float *d, int32_t (*sum)[8])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i max_bits = max_bits_lot(x, ld);
    if (_mm256_cmpge_epu32_mask(max_bits, _mm256_set1_epi32(0x7f800000)) != 0)
        return 0;
    __m256 amax = _mm256_castsi256_ps(max_bits), most = _mm256_set1_ps(127.0f);
    __mmask8 some = _mm256_cmp_ps_mask(amax, _mm256_set1_ps(QUANT_TINY), _CMP_GE_OQ);
    _Alignas(32) float inverse[8];
    _mm256_store_ps(inverse, _mm256_maskz_div_ps(some, most, amax));
    _mm256_storeu_ps(d, _mm256_maskz_div_ps(some, amax, most));
    __m512i s[4];
    for (int i = 0; i < 4; i++) {
        __m512i v[4];
        for (int k = 0; k < 4; k++) { /* halves of row i, of row i + 4 */
            const float *half = x + (size_t)(i + k / 2 * 4) * ld + k % 2 * 16;
            v[k] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(half), _mm512_set1_ps(inverse[i + k / 2 * 4])));
        }
        __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
        bytes = _mm512_permutexvar_epi32(order, bytes); /* undoes the packing's interleave of 128-bit lanes */
        _mm256_storeu_si256((__m256i *)(q + i * 32), _mm512_castsi512_si256(bytes));
        _mm256_storeu_si256((__m256i *)(q + (i + 4) * 32), _mm512_extracti64x4_epi64(bytes, 1));
        s[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
    }
    for (int i = 0; i < 4; i += 2)
        s[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[i], s[i + 1]), _mm512_unpackhi_epi32(s[i], s[i + 1]));
    s[0] = _mm512_add_epi32(_mm512_unpacklo_epi64(s[0], s[2]), _mm512_unpackhi_epi64(s[0], s[2])); /* by lanes: rows 0..3, 0..3, 4..7, 4..7 */
    s[0] = _mm512_shuffle_i32x4(s[0], s[0], 0xd8);
    _mm256_storeu_si256((__m256i *)sum[0], _mm512_castsi512_si256(s[0]));
    _mm256_storeu_si256((__m256i *)sum[1], _mm512_extracti64x4_epi64(s[0], 1));
    return 1;
}

#endif

/* weights_avx2.h: a tile's weights as bytes in 256-bit registers, for the matrix kernels gemm_avx2.c and gemm_avxvnni.c. pack.h has the layout. */
#ifndef NEXTD_CPU_WEIGHTS_AVX2_H
#define NEXTD_CPU_WEIGHTS_AVX2_H

#include "engine/backend/cpu/simd_avx2.h"
#include "engine/backend/cpu/gemm_simd.h"

/* Four values to all lanes. */
ALWAYS_INLINE __m256i broadcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* Byte i of the result is `value` where bit i of the mask is set. */
ALWAYS_INLINE __m256i masked_bits(const uint8_t *mask, const int value)
{
    int32_t bits;
    memcpy(&bits, mask, sizeof bits);
    const __m256i which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), which), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8((char)value));
}

/* 32 weights, unsigned (value + offset): 4 k of lanes 8 e .. 8 e + 7 of half g. */
ALWAYS_INLINE __m256i weights(const int bits, const uint8_t *tile, const int v, int g, const int e, const int h)
{
    const __m256i low4 = _mm256_set1_epi8(15);
    if (bits == 8)
        return _mm256_loadu_si256((const __m256i *)(tile + ((4 * h + v) * 2 + g) * 64 + 32 * e));
    if (bits <= 3) {
        __m256i low = _mm256_srli_epi16(_mm256_loadu_si256((const __m256i *)(tile + (h * 2 + g) * 64 + 32 * e)), 2 * v);
        low = _mm256_and_si256(low, _mm256_set1_epi8(3));
        return bits == 2 ? low : _mm256_or_si256(low, masked_bits(tile + 256 + ((v * 2 + g) * 2 + h) * 8 + 4 * e, 4));
    }
    __m256i nibbles = _mm256_loadu_si256((const __m256i *)(tile + (v * 2 + g) * 64 + 32 * e));
    __m256i w = _mm256_and_si256(h == 0 ? nibbles : _mm256_srli_epi16(nibbles, 4), low4);
    if (bits == 5)
        w = _mm256_or_si256(w, masked_bits(tile + 512 + ((v * 2 + g) * 2 + h) * 8 + 4 * e, 16));
    if (bits == 6) {
        __m256i p = _mm256_loadu_si256((const __m256i *)(tile + 512 + (h * 2 + g) * 64 + 32 * e));
        p = v == 0 ? _mm256_slli_epi16(p, 4) : v == 1 ? _mm256_slli_epi16(p, 2) : v == 2 ? p : _mm256_srli_epi16(p, 2);
        w = _mm256_or_si256(w, _mm256_and_si256(p, _mm256_set1_epi8(0x30)));
    }
    return w;
}

#endif

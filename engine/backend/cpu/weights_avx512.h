/* weights_avx512.h: what a tile (pack.h) means, 64 weights or 16 scales at a time. For gemm_avx512.c only, whose formats are constants here. */
#ifndef NEXTD_CPU_WEIGHTS_AVX512_H
#define NEXTD_CPU_WEIGHTS_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/backend/cpu/pack.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE bool has_halves(const int scale)
{
    return scale == PACK_K_HALVES || scale == PACK_K_HALVES6 || scale == PACK_K_HALVES_MIN;
}

ALWAYS_INLINE __m512 f16x16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

ALWAYS_INLINE __m512 u8x16(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

ALWAYS_INLINE __m512 i8x16(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* The integer sub-scale of half h, 16 lanes: a signed byte, six bits less 32, or a low nibble beside its minimum. */
ALWAYS_INLINE __m512 half_scale(const int scale, const uint8_t *scales, const int g, const int h)
{
    if (scale == PACK_K_HALVES)
        return i8x16(scales + 32 * h + 16 * g);
    const __m512i low4 = _mm512_set1_epi32(15);
    if (scale == PACK_K_HALVES_MIN)
        return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(scales + 32 * h + 16 * g))), low4));
    __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(scales + 16 * g)));
    __m512i high = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(scales + 32)));
    low = _mm512_and_si512(_mm512_srli_epi32(low, 4 * h), low4);
    high = _mm512_and_si512(_mm512_srli_epi32(high, 4 * g + 2 * h), _mm512_set1_epi32(3));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32)));
}

/* The integer minimum of half h: the high nibble. */
ALWAYS_INLINE __m512 half_min(const uint8_t *scales, const int g, const int h)
{
    __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(scales + 32 * h + 16 * g)));
    return _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
}

/* 64 weights of 2 or 3 bits: those of line (v, g), half h. */
ALWAYS_INLINE __m512i small_weights(const int bits, const uint8_t *tile, const int v, const int g, const int h)
{
    __m512i w = _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(tile + (h * 2 + g) * 64), 2 * v), _mm512_set1_epi8(3));
    if (bits == 3) {
        uint64_t mask;
        memcpy(&mask, tile + 256 + ((v * 2 + g) * 2 + h) * 8, sizeof mask);
        w = _mm512_mask_add_epi8(w, mask, w, _mm512_set1_epi8(4));
    }
    return w;
}

/* What unpacking adds to unsigned weights to make their offset 128: the operand carries what that adds too much, -128 sum(q'). */
ALWAYS_INLINE int base_of(const int bits, const int offset, const int scale)
{
    return scale == PACK_F16 && bits != 8 ? 128 - offset : 0;
}

/* 64 unsigned weights: those of line (v, g), half h, of a tile whose nibbles are loaded. */
ALWAYS_INLINE __m512i weights(const int bits, const int base, const uint8_t *tile, __m512i nibbles, const int v, const int g, const int h)
{
    const __m512i low4 = _mm512_set1_epi8(15);
    __m512i w = h == 0 ? nibbles : _mm512_srli_epi16(nibbles, 4);
    if (base == 112)
        w = _mm512_ternarylogic_epi32(w, low4, _mm512_set1_epi8(112), 0xea); /* (w & 15) | 112 */
    else
        w = _mm512_add_epi8(_mm512_and_si512(w, low4), _mm512_set1_epi8((char)base));
    if (bits == 5) {
        uint64_t mask;
        memcpy(&mask, tile + 512 + ((v * 2 + g) * 2 + h) * 8, sizeof mask);
        w = _mm512_mask_add_epi8(w, mask, w, _mm512_set1_epi8(16));
    }
    if (bits == 6) {
        __m512i pairs = _mm512_loadu_si512(tile + 512 + (h * 2 + g) * 64);
        pairs = v == 0 ? _mm512_slli_epi16(pairs, 4) : v == 1 ? _mm512_slli_epi16(pairs, 2) : v == 2 ? pairs : _mm512_srli_epi16(pairs, 2);
        w = _mm512_or_si512(w, _mm512_and_si512(pairs, _mm512_set1_epi8(0x30)));
    }
    return w;
}

/* d * scale of half h of a block, 16 lanes; of the whole block where it has one scale. `header` is the superblock's d (and dmin min_at bytes later)
 * for K types. */
ALWAYS_INLINE __m512 factor(const int scale, const uint8_t *scales, const uint8_t *header, const int g, const int h)
{
    if (scale == PACK_F16 || scale == PACK_F16_MIN)
        return f16x16(scales + 32 * g);
    return _mm512_mul_ps(f16x16(header + 32 * g), scale == PACK_K_MIN ? u8x16(scales + 16 * g) : half_scale(scale, scales, g, h));
}

/* The minimum beside it: added where it is an f16, taken away where it is a product. Zero where there is none. */
ALWAYS_INLINE __m512 minimum(const int scale, const uint8_t *scales, const uint8_t *header, size_t min_at, const int g, const int h)
{
    if (scale == PACK_F16_MIN)
        return f16x16(scales + 64 + 32 * g);
    if (scale == PACK_K_MIN)
        return _mm512_mul_ps(f16x16(header + min_at + 32 * g), u8x16(scales + 32 + 16 * g));
    if (scale == PACK_K_HALVES_MIN)
        return _mm512_mul_ps(f16x16(header + min_at + 32 * g), half_min(scales, g, h));
    return _mm512_setzero_ps();
}

#endif

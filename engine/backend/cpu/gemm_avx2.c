/* gemm_avx2.c: the matrix kernel gemm_simd.h with AVX2.
 *
 * There is no u8 x s8 sum to i32 here: vpmaddubsw adds two products to i16, saturating, and vpmaddwd widens. Saturation must not happen, so the
 * i16 sums are widened before they can reach 2^15: weights of up to 5 bits after 4 steps (31 * 127 * 2 * 4 = 31496), 6-bit after 2 (32004), 8-bit
 * after each. 8-bit weights go in as |w| with their sign moved to the activation (128 * 127 * 2 = 32512), so they need no offset. */
#define OFFSET_8 0

#include "engine/backend/cpu/weights_avx2.h"

ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, int g, const int8_t *q, const int h, vi sums[MR_MAX][VECTORS])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int steps = bits <= 5 ? 4 : bits == 6 ? 2 : 1; /* before i16 could saturate */
    __m256i words[MR_MAX][VECTORS];
    UNROLL for (int v = 0; v < 4; v++) {
        UNROLL for (int e = 0; e < VECTORS; e++) {
            __m256i w = weights(bits, tile, v, g, e, h);
            if (bits == 8)
                w = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
            UNROLL for (int m = 0; m < mr; m++) {
                __m256i a = broadcast4(q + m * QUANT_BLOCK + 16 * h + 4 * v), pairs;
                if (bits == 8)
                    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
                else
                    pairs = _mm256_maddubs_epi16(w, a);
                words[m][e] = v % steps == 0 ? pairs : _mm256_add_epi16(words[m][e], pairs);
                if (v % steps == steps - 1)
                    sums[m][e] = _mm256_add_epi32(sums[m][e], _mm256_madd_epi16(words[m][e], ones));
            }
        }
    }
}

void gemm_avx2(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    (void)ahead;
    gemm_simd(s, n_cols, x, r0, r1, out, ld);
}

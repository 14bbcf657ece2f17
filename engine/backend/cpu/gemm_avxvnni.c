/* gemm_avxvnni.c: the matrix kernel gemm_simd.h with AVX-VNNI: vpdpbusd in 256-bit registers, for processors that have it but no AVX-512.
 *
 * It adds 4 products u8 x s8 to an i32 lane. The unsaturating form is used; the sums cannot overflow (|isum| < 2^24, quant.h). */
#define OFFSET_8 128

#include "engine/backend/cpu/weights_avx2.h"

ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, int g, const int8_t *q, const int h, vi sums[MR_MAX][VECTORS])
{
    UNROLL for (int v = 0; v < 4; v++) {
        __m256i w[VECTORS];
        UNROLL for (int e = 0; e < VECTORS; e++)
            w[e] = weights(bits, tile, v, g, e, h);
        UNROLL for (int m = 0; m < mr; m++) {
            __m256i a = broadcast4(q + m * QUANT_BLOCK + 16 * h + 4 * v);
            UNROLL for (int e = 0; e < VECTORS; e++)
                sums[m][e] = _mm256_dpbusd_avx_epi32(sums[m][e], w[e], a);
        }
    }
}

void gemm_avxvnni(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    (void)ahead;
    gemm_simd(s, n_cols, x, r0, r1, out, ld);
}

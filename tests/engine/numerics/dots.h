/* dots.h: the scalar dot products, to be compiled by files *_<isa>.c with the flags of the kernels of that instruction set (Makefile).
 *
 * GCC 12, where it may use VNNI, compiles a loop that sums (int8_t)u8[i] * s8[i] into one that takes u8[i] as unsigned, from -O2 on. Read through a
 * const int8_t * the same bytes come out right, and that is how this project writes it; scripts/tidy refuses the other form. test_numerics.c compares
 * what these flags make of the specification and of such a loop with plain code. */
#ifndef NEXTD_TESTS_DOTS_H
#define NEXTD_TESTS_DOTS_H

#include "engine/numerics/quant.h"

struct dots {
    float (*quant)(int type, const void *row, const float *x, int n); /* quant_dot */
    float (*mac)(const struct quant_w *w, const struct quant_x *x, float acc); /* quant_mac, its bytes out of the compiler's sight */
    int32_t (*bytes)(const uint8_t *w, const int8_t *x, int n);       /* w holds signed bytes */
};

static inline float dots_quant(int type, const void *row, const float *x, int n)
{
    return quant_dot(type, row, x, n);
}

static inline float dots_mac(const struct quant_w *w, const struct quant_x *x, float acc)
{
    return quant_mac(w, x, acc);
}

static inline int32_t dots_bytes(const uint8_t *w, const int8_t *x, int n)
{
    const int8_t *s = (const int8_t *)w;
    int32_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += s[i] * x[i];
    return sum;
}

#if defined(__x86_64__)
extern const struct dots dots_avxvnni, dots_avx512;
#endif

#endif

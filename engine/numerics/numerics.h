/* numerics.h: the frozen arithmetic. Included by the backends, the sampler and the model; NUMERICS_VERSION names the bits.
 *
 * Why this exists: nextd promises the same bits alone or in a batch, on any instruction set and device. That holds only if each float result has one
 * order of operations, and if no library owns a step of it. So here are our own exp, log, sine, cosine, SiLU, GELU, the orders of every sum and the
 * random numbers; no libm function but the exactly rounded ones (fma, sqrt, rint) reaches an output bit. Everything is IEEE 754, round to nearest
 * even, denormals on, each fma written out (build with -ffp-contract=off).
 *
 * The orders:
 *   fold64   a sum over n values: 64 lanes, value i added to lane i mod 64, ascending; then lanes folded by halves: lane j += lane j+32, 16, 8, 4,
 * 2, 1.
 *            Used for the sum of squares of a norm and for the sum of exponentials of an attention chunk.
 *   slots    a dot product over blocks of 32: quant.h.
 *   rows     a sum over the vocabulary: rows.h.
 * A change of any bit bumps NUMERICS_VERSION and regenerates tests/fixtures/numerics.json. */
#ifndef NEXTD_NUMERICS_H
#define NEXTD_NUMERICS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define NUMERICS_VERSION 2

/* In a kernel these are functions of the device too. */
#ifdef __CUDACC__
#define NUM_FUNCTION static inline __host__ __device__
#else
#define NUM_FUNCTION static inline
#endif

NUM_FUNCTION float num_f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

NUM_FUNCTION uint32_t num_bits_from_f32(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

NUM_FUNCTION double num_f64_from_bits(uint64_t u)
{
    double f;
    memcpy(&f, &u, sizeof f);
    return f;
}

NUM_FUNCTION uint64_t num_bits_from_f64(double f)
{
    uint64_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* ---- 16-bit floats ---- */

/* IEEE binary16 to f32, exact. */
NUM_FUNCTION float num_f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31)
        return num_f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0)
        return num_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f; /* denormal: exact */
    return num_f32_from_bits(sign | num_bits_from_f32(f));
}

/* f32 to binary16, round to nearest even, saturating: |x| above 65504 (infinity too) becomes 65504 of the same sign. NaN stays NaN. */
NUM_FUNCTION uint16_t num_f16_from_f32(float x)
{
    uint32_t bits = num_bits_from_f32(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (a > 0x477fe000u)
        return (uint16_t)(sign | 0x7bffu);
    if (a < 0x38800000u) { /* below 2^-14: the sum's last place is 2^-24, so the addition rounds to the denormal's grid */
        float f = num_f32_from_bits(a) + 0.5f;
        return (uint16_t)(sign | (num_bits_from_f32(f) - 0x3f000000u));
    }
    a += 0xfffu + (a >> 13 & 1u);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

NUM_FUNCTION float num_f32_from_bf16(uint16_t h)
{
    return num_f32_from_bits((uint32_t)h << 16);
}

/* ---- f32 functions ---- */

#define NUM_EXP_MIN (-87.3f)
#define NUM_EXP_MAX 88.37f

/* e^x within 1.5 ulp. x below NUM_EXP_MIN gives 0, above NUM_EXP_MAX the value there; never infinite. NaN gives NaN.
 * Cody-Waite reduction and the degree-5 polynomial of Cephes expf, written with fma. */
NUM_FUNCTION float num_exp_f32(float x)
{
    if (x < NUM_EXP_MIN)
        return 0.0f;
    float c = x > NUM_EXP_MAX ? NUM_EXP_MAX : x;
    float n = rintf(c * 1.44269504f);
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r + 1.0f);
    if (!(n >= -126.0f && n <= 127.0f))
        return x; /* NaN */
    return p * num_f32_from_bits((uint32_t)((int32_t)n + 127) << 23);
}

/* x / (1 + e^-x). */
NUM_FUNCTION float num_silu(float x)
{
    return x / (1.0f + num_exp_f32(-x));
}

/* GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), written as x / (1 + e^-2u) with 2u = x (1.5957691 + 0.0713548 x^2). */
NUM_FUNCTION float num_gelu_tanh(float x)
{
    float u = x * fmaf(x * x, 0.0713548163f, 1.5957691216f);
    return x / (1.0f + num_exp_f32(-u));
}

/* lanes[64] to one value by halves; lanes is overwritten. */
NUM_FUNCTION float num_fold64(float *lanes)
{
    for (int half = 32; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

/* The factor of an RMS norm: 1 / sqrt(mean(x^2) + eps), the sum of squares by fma in fold64 order. y[i] = (x[i] * factor) * w[i]. */
NUM_FUNCTION float num_rms_factor(const float *x, int n, float eps)
{
    float lanes[64] = {0};
    for (int i = 0; i < n; i++)
        lanes[i % 64] = fmaf(x[i], x[i], lanes[i % 64]);
    return 1.0f / sqrtf(num_fold64(lanes) / (float)n + eps);
}

/* ---- f64 functions (log-probabilities, rope tables, meters) ---- */

/* e^x within 2 ulp for -708 <= x <= 709; 0 below, the value at 709 above. */
NUM_FUNCTION double num_exp(double x)
{
    if (x < -708.0)
        return 0.0;
    double c = x > 709.0 ? 709.0 : x;
    double n = rint(c * 1.4426950408889634);
    double r = fma(n, -0x1.62e42fefa39efp-1, c);
    r = fma(n, -0x1.abc9e3b39803fp-56, r);
    static const double inverse_factorial[14] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
                                                 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    double p = inverse_factorial[13];
    for (int i = 12; i >= 0; i--)
        p = fma(p, r, inverse_factorial[i]);
    if (!(n >= -1022.0 && n <= 1023.0))
        return x; /* NaN */
    return p * num_f64_from_bits((uint64_t)((int64_t)n + 1023) << 52);
}

/* Natural logarithm within 2 ulp for normal x > 0; -infinity for 0 and denormals, NaN below 0, infinity for infinity. */
NUM_FUNCTION double num_log(double x)
{
    if (!(x >= 0x1p-1022))
        return x >= 0 ? -INFINITY : NAN;
    if (x > 0x1.fffffffffffffp1023)
        return x;
    uint64_t bits = num_bits_from_f64(x);
    int64_t n = (int64_t)(bits >> 52) - 1023;
    double m = num_f64_from_bits((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        n++;
    }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, p = 1.0 / 25;
    for (int k = 23; k >= 3; k -= 2)
        p = fma(p, s2, 1.0 / k);
    double tail = fma(s * s2 * 2.0, p, (double)n * 0x1.abc9e3b39803fp-56);
    return fma((double)n, 0x1.62e42fefa39efp-1, fma(2.0, s, tail));
}

/* Sine and cosine of x, |x| < 2^24, within 2^-50 of the true values. Reduction by multiples of pi/2 in three parts with fma; Taylor series. */
NUM_FUNCTION void num_sincos(double x, double *sin_out, double *cos_out)
{
    double n = rint(x * 0.63661977236758134308);
    double r = fma(n, -0x1.921fb54442d18p+0, x);
    r = fma(n, -0x1.1a62633145c07p-54, r);
    double r2 = r * r, s = -1.0 / 121645100408832000.0, c = 1.0 / 20922789888000.0;
    s = fma(s, r2, 1.0 / 355687428096000.0);
    s = fma(s, r2, -1.0 / 1307674368000.0);
    s = fma(s, r2, 1.0 / 6227020800.0);
    s = fma(s, r2, -1.0 / 39916800.0);
    s = fma(s, r2, 1.0 / 362880.0);
    s = fma(s, r2, -1.0 / 5040.0);
    s = fma(s, r2, 1.0 / 120.0);
    s = fma(s, r2, -1.0 / 6.0);
    s = fma(s * r2, r, r);
    c = fma(c, r2, -1.0 / 87178291200.0);
    c = fma(c, r2, 1.0 / 479001600.0);
    c = fma(c, r2, -1.0 / 3628800.0);
    c = fma(c, r2, 1.0 / 40320.0);
    c = fma(c, r2, -1.0 / 720.0);
    c = fma(c, r2, 1.0 / 24.0);
    c = fma(c, r2, -0.5);
    c = fma(c, r2, 1.0);
    int32_t q = (int32_t)n & 3; /* 32 bits: what AVX2 can convert many of at once */
    *sin_out = q == 0 ? s : q == 1 ? c : q == 2 ? -s : -c;
    *cos_out = q == 0 ? c : q == 1 ? -s : q == 2 ? -c : s;
}

/* ---- random numbers ---- */

/* Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): key = seed, counter = (output index, choice, 0, 0).
 * Counter-based: the number of a position is a function of (seed, choice, position), so batching, preemption and replay cannot move it. */
NUM_FUNCTION void num_philox(uint64_t seed, uint32_t choice, uint32_t output_idx, uint32_t words_out[4])
{
    uint32_t c0 = output_idx, c1 = choice, c2 = 0, c3 = 0, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words_out[0] = c0;
    words_out[1] = c1;
    words_out[2] = c2;
    words_out[3] = c3;
}

/* Uniform in [0, 1), a multiple of 2^-53. */
NUM_FUNCTION double num_rng(uint64_t seed, uint32_t choice, uint32_t output_idx)
{
    uint32_t w[4];
    num_philox(seed, choice, output_idx, w);
    return ((double)(w[0] >> 5) * 67108864.0 + (double)(w[1] >> 6)) * 0x1p-53;
}

#endif

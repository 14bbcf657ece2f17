/* kernels_avx512.c: the kernel table for processors with AVX-512 F, BW, VL, DQ and VNNI.
 *
 * The matrix kernels and attention have files of their own; here are the row loops. Where a loop of lanes.h is enough for the compiler it is used as it
 * is; what it cannot vectorise (exponentials, requantisation, comparisons that know NaN) is written out, operation by operation as numerics.h has it. */
#include <immintrin.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/lanes.h"
#include "engine/backend/cpu/lanes_avx512.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

/* quant_quantise of one full block. */
static int quantise_block(const float *x, struct operand *o, size_t at)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude), _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    uint32_t max_bits = _mm512_reduce_max_epu32(bits);
    float amax = num_f32_from_bits(max_bits);
    bool finite = max_bits < 0x7f800000u;
    int32_t sum0 = 0, sum1 = 0;
    float d = 0.0f;
    if (!finite || amax < QUANT_TINY) {
        _mm256_storeu_si256((__m256i *)(o->q + at * QUANT_BLOCK), _mm256_setzero_si256());
    } else {
        __m512 inverse = _mm512_set1_ps(127.0f / amax);
        __m512i ia = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), ib = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        _mm_storeu_si128((__m128i *)(o->q + at * QUANT_BLOCK), _mm512_cvtepi32_epi8(ia));
        _mm_storeu_si128((__m128i *)(o->q + at * QUANT_BLOCK + 16), _mm512_cvtepi32_epi8(ib));
        sum0 = _mm512_reduce_add_epi32(ia);
        sum1 = _mm512_reduce_add_epi32(ib);
        d = amax / 127.0f;
    }
    o->d[at] = d;
    o->s[at] = d * (float)(sum0 + sum1);
    o->bias[at] = -128 * (sum0 + sum1);
    o->half[0][at] = -32 * sum0;
    o->half[1][at] = -32 * sum1;
    return finite ? 0 : -1;
}

static int avx512_quantise(const float *x, struct operand *o, int row, int first_block, int n_blocks, int needs)
{
    if (needs != NEEDS_Q || o->n_cols % QUANT_BLOCK != 0)
        return lanes_quantise(x, o, row, first_block, n_blocks, needs);
    int rc = 0;
    for (int b = first_block; b < first_block + n_blocks; b++, x += QUANT_BLOCK)
        if (quantise_block(x, o, (size_t)operand_place(o->n_blocks, b) * (size_t)o->stride + (size_t)row) != 0)
            rc = -1;
    return rc;
}

static void avx512_norm(const float *x, const float *w, int n, float eps, float *out)
{
    __m512 lanes[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int i = 0;
    for (; i + 64 <= n; i += 64)
        for (int g = 0; g < 4; g++) {
            __m512 v = _mm512_loadu_ps(x + i + 16 * g);
            lanes[g] = _mm512_fmadd_ps(v, v, lanes[g]);
        }
    for (int g = 0; i < n; g++, i += 16) { /* lanes without a value keep their sum */
        __mmask16 some = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
        __m512 v = _mm512_maskz_loadu_ps(some, x + i);
        lanes[g] = _mm512_mask3_fmadd_ps(v, v, lanes[g], some);
    }
    float factor = 1.0f / sqrtf(avx512_fold64(lanes) / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] = (x[i] * factor) * w[i];
}

static void avx512_activate(enum activation act, const float *gate, const float *up, float *out)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < CPU_STRIPE; i += 16) {
        __m512 x = _mm512_loadu_ps(gate + i), u = x;
        if (act == ACT_GELU_TANH)
            u = _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.0713548163f), _mm512_set1_ps(1.5957691216f)));
        __m512 minus = _mm512_xor_ps(u, _mm512_set1_ps(-0.0f));
        __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, avx512_exp(minus)));
        _mm512_storeu_ps(out + i, _mm512_mul_ps(y, _mm512_loadu_ps(up + i)));
    }
}

static void avx512_add(float *x, const float *y, int n)
{
    lanes_add(x, y, n);
}

static void avx512_rotate(float *x, int rope_dims, bool neox, const float *cs)
{
    lanes_rotate(x, rope_dims, neox, cs);
}

/* num_f16_from_f32: saturating, to nearest even. */
static void avx512_to_f16(const float *x, int n, uint16_t *out)
{
    const __m512 top = _mm512_set1_ps(65504.0f), bottom = _mm512_set1_ps(-65504.0f);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_min_ps(top, _mm512_max_ps(bottom, _mm512_loadu_ps(x + i)));
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    lanes_to_f16(x + i, n - i, out + i);
}

static float avx512_max(const float *x, int n)
{
    __m512 max = _mm512_set1_ps(-INFINITY);
    __mmask16 nan = 0;
    for (int i = 0; i < n; i += 16) {
        __mmask16 some = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
        __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), some, x + i);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        max = _mm512_max_ps(max, v);
    }
    return nan ? NAN : _mm512_reduce_max_ps(max);
}

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "cpu:avx512",
    .supported = supported,
    .tiled = true,
    .gemm = gemm_avx512,
    .quantise = avx512_quantise,
    .norm = avx512_norm,
    .activate = avx512_activate,
    .add = avx512_add,
    .rotate = avx512_rotate,
    .to_f16 = avx512_to_f16,
    .attend = attend_avx512,
    .max = avx512_max,
};

/* gemm_avx2.c: stripes of 32 outputs times up to 3 rows at once, AVX2; the same tiles and the same bits as gemm_avx512.c, which tells the story.
 *
 * There is no u8 x s8 sum to i32 here: vpmaddubsw adds two products to i16, saturating, and vpmaddwd widens. Saturation must not happen, so the
 * i16 sums are widened before they can reach 2^15: weights of up to 5 bits after 4 steps (31 * 127 * 2 * 4 = 31496), 6-bit after 2 (32004), 8-bit
 * after each. 8-bit weights go in as |w| with their sign moved to the activation (128 * 127 * 2 = 32512), so they need no offset. A pass covers 16
 * outputs (half g of the stripe): 3 x 2 float and 3 x 2 integer accumulators in 16 registers. */
#include <immintrin.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/pack.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define MR_MAX 3
#define AHEAD_BYTES 4096

struct pass {
    const uint8_t *stripe;
    int n_cols;
    const struct operand *x;
    int row, g;
    float *out;
    size_t ld;
};

ALWAYS_INLINE __m256i broadcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

ALWAYS_INLINE __m256 f16x8(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

ALWAYS_INLINE __m256 u8x8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

ALWAYS_INLINE __m256 i8x8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* The integer sub-scale of half h, 8 lanes from 8 e of half g: a signed byte, six bits less 32, or a low nibble beside its minimum. */
ALWAYS_INLINE __m256 half_scale(const int scale, const uint8_t *scales, int g, const int e, const int h)
{
    const uint8_t *p = scales + 32 * h + 16 * g + 8 * e;
    if (scale == PACK_K_HALVES)
        return i8x8(p);
    const __m256i low4 = _mm256_set1_epi32(15);
    if (scale == PACK_K_HALVES_MIN)
        return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), low4));
    __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(scales + 16 * g + 8 * e)));
    __m256i high = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(scales + 32 + 8 * e)));
    low = _mm256_and_si256(_mm256_srli_epi32(low, 4 * h), low4);
    high = _mm256_and_si256(_mm256_srli_epi32(high, 4 * g + 2 * h), _mm256_set1_epi32(3));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32)));
}

/* The integer minimum of half h: the high nibble. */
ALWAYS_INLINE __m256 half_min(const uint8_t *scales, int g, const int e, const int h)
{
    __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(scales + 32 * h + 16 * g + 8 * e)));
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(both, 4));
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

/* 32 weights: 4 k of lanes 8 e .. 8 e + 7 of half g. Unsigned (value + offset), but signed for 8 bits. */
ALWAYS_INLINE __m256i weights(const int bits, const uint8_t *tile, const int v, int g, const int e, const int h)
{
    const __m256i low4 = _mm256_set1_epi8(15);
    if (bits == 8)
        return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(tile + ((4 * h + v) * 2 + g) * 64 + 32 * e)), _mm256_set1_epi8((char)0x80));
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

/* Adds half h of the block to sums[m][e]. */
ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, int g, const int8_t *q, const int h, __m256i sums[MR_MAX][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int steps = bits <= 5 ? 4 : bits == 6 ? 2 : 1; /* before i16 could saturate */
    __m256i words[MR_MAX][2];
    UNROLL for (int v = 0; v < 4; v++) {
        UNROLL for (int e = 0; e < 2; e++) {
            __m256i w = weights(bits, tile, v, g, e, h);
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

ALWAYS_INLINE __m256i start_value(const int offset, int32_t bias)
{
    if (offset == 0 || offset == 128)
        return _mm256_setzero_si256();
    return _mm256_set1_epi32(offset == 16 ? bias >> 3 : bias >> 4);
}

ALWAYS_INLINE void block_whole(const int bits, const int offset, const int scale, const int mr, const uint8_t *tile, const uint8_t *header,
                               size_t min_at, int g, const struct operand *x, size_t at, __m256 acc[MR_MAX][2])
{
    __m256i sums[MR_MAX][2];
    UNROLL for (int m = 0; m < mr; m++)
        sums[m][0] = sums[m][1] = start_value(offset, x->bias[at + (size_t)m]);
    half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, 0, sums);
    half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, 1, sums);
    const uint8_t *scales = tile + bits * 128;
    UNROLL for (int e = 0; e < 2; e++) {
        int lane = 16 * g + 8 * e;
        __m256 d = scale == PACK_K_MIN ? f16x8(header + 2 * lane) : f16x8(scales + 2 * lane), sub, min;
        if (scale == PACK_K_MIN) {
            sub = u8x8(scales + lane);
            min = _mm256_mul_ps(f16x8(header + min_at + 2 * lane), u8x8(scales + 32 + lane));
        } else if (scale == PACK_F16_MIN) {
            min = f16x8(scales + 64 + 2 * lane);
        }
        UNROLL for (int m = 0; m < mr; m++) {
            __m256 isum = _mm256_cvtepi32_ps(sums[m][e]);
            if (scale == PACK_K_MIN)
                isum = _mm256_mul_ps(isum, sub);
            acc[m][e] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x->d[at + (size_t)m])), isum, acc[m][e]);
            if (scale == PACK_K_MIN)
                acc[m][e] = _mm256_fnmadd_ps(min, _mm256_set1_ps(x->s[at + (size_t)m]), acc[m][e]);
            if (scale == PACK_F16_MIN)
                acc[m][e] = _mm256_fmadd_ps(min, _mm256_set1_ps(x->s[at + (size_t)m]), acc[m][e]);
        }
    }
}

/* -offset * sum(q') of half h, from half = -32 sum(q'). */
ALWAYS_INLINE __m256i half_start(const int scale, int32_t half)
{
    return scale == PACK_K_HALVES_MIN ? _mm256_setzero_si256() : _mm256_set1_epi32(scale == PACK_K_HALVES ? half : half >> 3);
}

ALWAYS_INLINE void block_halves(const int bits, const int scale, const int mr, const uint8_t *tile, const uint8_t *header, size_t min_at, int g,
                                const struct operand *x, size_t at, __m256 acc[MR_MAX][2])
{
    const uint8_t *scales = tile + bits * 128;
    __m256 isum[MR_MAX][2];
    UNROLL for (int h = 0; h < 2; h++) {
        __m256i sums[MR_MAX][2];
        UNROLL for (int m = 0; m < mr; m++)
            sums[m][0] = sums[m][1] = half_start(scale, x->half[h][at + (size_t)m]);
        half_sums(bits, mr, tile, g, x->q + at * QUANT_BLOCK, h, sums);
        UNROLL for (int e = 0; e < 2; e++) {
            __m256 sub = half_scale(scale, scales, g, e, h);
            UNROLL for (int m = 0; m < mr; m++) {
                __m256 s = _mm256_cvtepi32_ps(sums[m][e]);
                isum[m][e] = h == 0 ? _mm256_mul_ps(s, sub) : _mm256_fmadd_ps(s, sub, isum[m][e]);
            }
        }
    }
    UNROLL for (int e = 0; e < 2; e++) {
        int lane = 16 * g + 8 * e;
        __m256 d = f16x8(header + 2 * lane);
        UNROLL for (int m = 0; m < mr; m++)
            acc[m][e] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x->d[at + (size_t)m])), isum[m][e], acc[m][e]);
        if (scale != PACK_K_HALVES_MIN)
            continue;
        UNROLL for (int h = 0; h < 2; h++) {
            __m256 min = _mm256_mul_ps(f16x8(header + min_at + 2 * lane), half_min(scales, g, e, h));
            UNROLL for (int m = 0; m < mr; m++) {
                float s = x->d[at + (size_t)m] * ((float)x->half[h][at + (size_t)m] * -0x1p-5f);
                acc[m][e] = _mm256_fnmadd_ps(min, _mm256_set1_ps(s), acc[m][e]);
            }
        }
    }
}

ALWAYS_INLINE void block_float(const int type, const int mr, const uint8_t *tile, int g, const struct operand *x, size_t at, __m256 acc[MR_MAX][2])
{
    for (int k = 0; k < QUANT_BLOCK; k++) {
        __m256 w[2];
        UNROLL for (int e = 0; e < 2; e++) {
            const uint8_t *p = tile + (size_t)(k * CPU_STRIPE + 16 * g + 8 * e) * (type == TENSOR_F32 ? 4 : 2);
            if (type == TENSOR_F32)
                w[e] = _mm256_loadu_ps((const float *)(const void *)p);
            else if (type == TENSOR_F16)
                w[e] = f16x8(p);
            else
                w[e] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
        }
        UNROLL for (int m = 0; m < mr; m++) {
            __m256 a = _mm256_set1_ps(x->f[(at + (size_t)m) * QUANT_BLOCK + (size_t)k]);
            acc[m][0] = _mm256_fmadd_ps(w[0], a, acc[m][0]);
            acc[m][1] = _mm256_fmadd_ps(w[1], a, acc[m][1]);
        }
    }
}

ALWAYS_INLINE void fold(const int mr, int j, float part[3][MR_MAX * 16], __m256 acc[MR_MAX][2])
{
    int level = 0;
    for (; j & 1; j >>= 1, level++)
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < 2; e++)
                acc[m][e] = _mm256_add_ps(_mm256_load_ps(part[level] + 16 * m + 8 * e), acc[m][e]);
    if (level < 3)
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int e = 0; e < 2; e++)
                _mm256_store_ps(part[level] + 16 * m + 8 * e, acc[m][e]);
}

/* mr rows x 16 outputs. */
ALWAYS_INLINE void tile_pass(const int type, const int bits, const int offset, const int scale, const int tile_bytes, const int mr,
                             const struct pass *p)
{
    _Alignas(32) float part[3][MR_MAX * 16];
    __m256 acc[MR_MAX][2];
    const struct operand *x = p->x;
    const bool k_type = scale != PACK_F16 && scale != PACK_F16_MIN && scale != PACK_FLOAT;
    size_t min_at = (size_t)(p->n_cols / 256) * 64, at = (size_t)p->row;
    const uint8_t *tile = p->stripe + (k_type ? min_at * (scale == PACK_K_HALVES || scale == PACK_K_HALVES6 ? 1 : 2) : 0);
    for (int j = 0; j < QUANT_SLOTS; j++) {
        UNROLL for (int m = 0; m < mr; m++)
            acc[m][0] = acc[m][1] = _mm256_setzero_ps();
        int n = operand_slot_start(x->n_blocks, j + 1) - operand_slot_start(x->n_blocks, j);
        const uint8_t *header = p->stripe;
        for (int i = 0; i < n; i++, tile += tile_bytes, at += (size_t)x->stride, header += 64) {
            for (int line = 0; line < tile_bytes / 2; line += 64)
                _mm_prefetch((const char *)tile + AHEAD_BYTES + line, _MM_HINT_T0);
            if (scale == PACK_FLOAT)
                block_float(type, mr, tile, p->g, x, at, acc);
            else if (scale == PACK_K_HALVES || scale == PACK_K_HALVES6 || scale == PACK_K_HALVES_MIN)
                block_halves(bits, scale, mr, tile, header, min_at, p->g, x, at, acc);
            else
                block_whole(bits, offset, scale, mr, tile, header, min_at, p->g, x, at, acc);
        }
        fold(mr, j, part, acc);
    }
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int e = 0; e < 2; e++)
            _mm256_storeu_ps(p->out + (size_t)m * p->ld + 8 * e, acc[m][e]);
}

ALWAYS_INLINE void all_rows(const int type, const int bits, const int offset, const int scale, const int tile_bytes, struct pass *p, int n_rows)
{
    int n_tiles = (n_rows + MR_MAX - 1) / MR_MAX;
    float *out = p->out;
    for (int i = 0; i < n_tiles; i++) {
        int mr = (n_rows + n_tiles - 1 - i) / n_tiles;
        for (p->g = 0; p->g < 2; p->g++) {
            p->out = out + 16 * p->g;
            if (mr == 1)
                tile_pass(type, bits, offset, scale, tile_bytes, 1, p);
            else if (mr == 2)
                tile_pass(type, bits, offset, scale, tile_bytes, 2, p);
            else
                tile_pass(type, bits, offset, scale, tile_bytes, 3, p);
        }
        p->row += mr;
        out += (size_t)mr * p->ld;
    }
}

void gemm_avx2(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    (void)ahead; /* two passes over a tile leave time enough for the processor's own prefetcher */
    struct pass p = {s->w, n_cols, x, r0, 0, out, ld};
    int n = r1 - r0;
    switch (s->type) {
    case TENSOR_F32: all_rows(TENSOR_F32, 32, 0, PACK_FLOAT, 4096, &p, n); break;
    case TENSOR_F16: all_rows(TENSOR_F16, 16, 0, PACK_FLOAT, 2048, &p, n); break;
    case TENSOR_BF16: all_rows(TENSOR_BF16, 16, 0, PACK_FLOAT, 2048, &p, n); break;
    case TENSOR_Q4_0: all_rows(TENSOR_Q4_0, 4, 8, PACK_F16, 576, &p, n); break;
    case TENSOR_Q4_1: all_rows(TENSOR_Q4_1, 4, 0, PACK_F16_MIN, 640, &p, n); break;
    case TENSOR_Q5_0: all_rows(TENSOR_Q5_0, 5, 16, PACK_F16, 704, &p, n); break;
    case TENSOR_Q5_1: all_rows(TENSOR_Q5_1, 5, 0, PACK_F16_MIN, 768, &p, n); break;
    case TENSOR_Q8_0: all_rows(TENSOR_Q8_0, 8, 128, PACK_F16, 1088, &p, n); break;
    case TENSOR_Q2_K: all_rows(TENSOR_Q2_K, 2, 0, PACK_K_HALVES_MIN, 320, &p, n); break;
    case TENSOR_Q3_K: all_rows(TENSOR_Q3_K, 3, 4, PACK_K_HALVES6, 432, &p, n); break;
    case TENSOR_Q4_K: all_rows(TENSOR_Q4_K, 4, 0, PACK_K_MIN, 576, &p, n); break;
    case TENSOR_Q5_K: all_rows(TENSOR_Q5_K, 5, 0, PACK_K_MIN, 704, &p, n); break;
    case TENSOR_Q6_K: all_rows(TENSOR_Q6_K, 6, 32, PACK_K_HALVES, 832, &p, n); break;
    default: assert(!"a stripe has one of the 13 types");
    }
}

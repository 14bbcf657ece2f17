/* gemm_avx512.c: stripes of 32 outputs times rows, AVX-512 with VNNI.
 *
 * For output n of lane l and row m:  out[m][n] = dot(w[n], x[m]) in the order of quant.h.
 *
 * A lane is an output, so no sum ever crosses lanes and the order of operations per output is that of the scalar text: per block an exact integer sum
 * (vpdpbusd: 4 products u8 x s8 added to i32, never saturating here), one fma for its product with the scale (sums start at the bits of QUANT_MAGIC,
 * so they need no conversion to float; quant.h), one fma with d', one per minimum. Unsigned weights are w + offset; the start of the sums, which the
 * operand carries, has -offset * sum(q') in it, so the offset is free. A tile keeps MR x 2 integer and MR x 2 float accumulators in registers (MR =
 * 6: 24 of 32). The 8 slots are 8 passes of one set of float accumulators over the tile's blocks, which lie slot-major in memory; sums of finished
 * slots wait in first-level cache as the partial results of a binary counter, 3 at most.
 *
 * One tile or two (`by_tiles`), and the one of 7 or 8 rows (`big_pass`), unpack weights in registers as they are used: memory is the limit there. For
 * more rows (`by_panels`), the blocks of as many whole slots as fit, or of a part of one, are unpacked once into a panel in first-level cache - bytes
 * as Q8_0 has them, scales as f32 - and all tiles of rows run over the panel. While they do, they ask for the lines of the next one.
 *
 * 7 or 8 rows have 16 integer sums in registers and the float sums in first-level cache, so that weights are unpacked once instead of twice:
 * 1.1 to 1.2 times as fast alone. Q8_0 has nothing to unpack and stays with two tiles (the other way took 1.2 times as long), so does Q2_K.
 *
 * Bounds: of the two ports that execute 512-bit arithmetic, a block of 32 x 32 takes 16 slots a row for products and 4 for the two fma (6 with a
 * minimum, 8 with halves): 80, 73 and 67 % of vpdpbusd's own rate. The tile alone, all in first-level cache, runs at 97 to 100 % of that; unpacking
 * takes 3 to 7 % then, ending slots of 2 or 3 blocks 8 %. Measured on a Xeon of the Sapphire Rapids kind against unpacking in each tile of rows, 48
 * rows: Q5_0 1.3, Q6_K 1.3, Q4_K 1.2, Q4_1 1.1 times as fast; Q8_0, with nothing to unpack but scales, 0.95, so it stays with tiles. Panels of 12
 * blocks are 1 to 6 % faster than of 8 or 20; a panel for each slot loses 5 to 9 % where slots are short. Up to SPREAD_ROWS
 * ask for the next panel's lines block by block: at 16 rows 1.03 to 1.25 times as fast as all at a tile's start, at 32 rows of Qwen 1.5B 1.05;
 * prompts, which hardly wait for memory, lose 2 % by it. Two tiles of rows over a panel are as fast alone as unpacking twice, but 4 % slower from
 * memory.
 *
 * For few rows weights come from memory. Lines are asked for early into the second-level cache and again, shortly before their use, into the first.
 * Two things decide how well that overlaps with arithmetic. The requests are spread evenly over a block's instructions (`ask_step`): all at its start
 * they fill the buffers that its own loads need, which made eight rows of Q4_K 1.15, of Q6_K 1.2 times slower. And one row of a K type does not go
 * far: 4 KiB ahead, where the processor's own read-ahead has already been, it is 1.12 to 1.19 times as fast from memory as 12 KiB ahead; 2 and 6 KiB
 * are worse. Eight rows, and types without superblocks, do best with 8 to 12 KiB (SmolLM2, which stays in a large third-level cache: 1.1 times as
 * fast as with 4). Two tiles ask for the next stripe's lines, half each, six and more a sixth each until all are asked for; the first takes its own
 * into the first-level cache: without that, 8 rows of Q8_0 took 1.08 times as long.
 *
 * Tried there and slower: 8 rows x 16 outputs twice (0.7), embedded broadcasts of the activations (0.83 of the rate of products alone), tiles of 4
 * vectors x 3 rows (0.95), two tiles slot by slot instead of stripe by stripe (0.95), two blocks of a slot at once for more chains of sums (no gain),
 * 16 sums written in C instead of assembly (0.8: GCC 12 keeps half of them on the stack). Tried on the prototype and slower: 8 unrolled slot passes,
 * asm.
 *
 * Each tile function is inlined into a copy for each (format, MR): every branch on a format is decided by the compiler. Literal array bounds, or
 * the accumulators would live on the stack. */
#include <immintrin.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/pack.h"
#include "engine/backend/cpu/weights_avx512.h"

#define UNROLL _Pragma("GCC unroll 16")
#define MR_MAX 6 /* rows of a tile whose float sums are in registers too */
#define MR_BIG 8 /* of one whose float sums are in first-level cache */
#define PANEL_BLOCKS 12 /* that are unpacked at a time */
#define SPREAD_ROWS 40 /* of no more, a panel's tiles ask block by block */
#define NEAR_BYTES 2048 /* how far a pass over weights asks for its own lines, into the first-level cache */
#define FAR_BYTES 8192  /* and into the second-level cache, where the stripe is read once only; */
#define FAR_BYTES_K 4096 /* one tile of a K type */

ALWAYS_INLINE bool is_k(const int scale)
{
    return scale != PACK_F16 && scale != PACK_F16_MIN && scale != PACK_FLOAT;
}

/* d of a stripe's superblocks; of dmin where there are minima. */
ALWAYS_INLINE size_t header_bytes_of(const int scale, size_t min_at)
{
    if (!is_k(scale))
        return 0;
    return scale == PACK_K_MIN || scale == PACK_K_HALVES_MIN ? 2 * min_at : min_at;
}

struct pass {
    const uint8_t *stripe;
    int n_cols;
    const struct operand *x;
    int row; /* first row of the operand */
    float *out;
    size_t ld;
    const uint8_t *far; /* where its blocks begin to ask */
};

/* What is asked for while a block is computed: lines from `far` on, into the second-level cache, and from `near` on, into the first. */
struct ask {
    const uint8_t *far, *near;
    int n_far, n_near;
};

/* The part of it that belongs to one of the eight steps of a block. In volatile assembly: a compiler moves all prefetches to the block's start. */
ALWAYS_INLINE void ask_step(const struct ask *ask, const int step)
{
    UNROLL for (int line = ask->n_far * step / 8; line < ask->n_far * (step + 1) / 8; line++)
        __asm__ volatile("prefetcht1 %0" : : "m"(ask->far[64 * line]));
    UNROLL for (int line = ask->n_near * step / 8; line < ask->n_near * (step + 1) / 8; line++)
        __asm__ volatile("prefetcht0 %0" : : "m"(ask->near[64 * line]));
}

/* Asks for n lines at once: from `far` on, and those NEAR_BYTES after `here`. Returns the end of the former. */
ALWAYS_INLINE const uint8_t *ask_lines(const uint8_t *far, const uint8_t *here, int n)
{
    for (int line = 0; line < n; line++, far += 64) {
        _mm_prefetch((const char *)far, _MM_HINT_T1);
        _mm_prefetch((const char *)here + NEAR_BYTES + 64 * line, _MM_HINT_T0);
    }
    return far;
}

ALWAYS_INLINE __m512i broadcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Adds to sums[m][g] half h of the block: all of it is h = 0, then h = 1. `q` is the first row's 32 bytes. */
ALWAYS_INLINE void half_sums(const int bits, const int mr, const uint8_t *tile, const int8_t *q, const int h, const struct ask *ask,
                             __m512i sums[MR_MAX][2])
{
    UNROLL for (int v = 0; v < 4; v++) {
        ask_step(ask, 4 * h + v);
        __m512i w[2];
        UNROLL for (int g = 0; g < 2; g++) {
            if (bits == 8)
                w[g] = _mm512_loadu_si512(tile + ((4 * h + v) * 2 + g) * 64);
            else if (bits <= 3)
                w[g] = small_weights(bits, tile, v, g, h);
            else
                w[g] = weights(bits, 0, tile, _mm512_loadu_si512(tile + (v * 2 + g) * 64), v, g, h);
        }
        UNROLL for (int m = 0; m < mr; m++) {
            __m512i a = broadcast4(q + m * QUANT_BLOCK + 16 * h + 4 * v);
            sums[m][0] = _mm512_dpbusd_epi32(sums[m][0], w[0], a);
            sums[m][1] = _mm512_dpbusd_epi32(sums[m][1], w[1], a);
        }
    }
}

/* Both halves, each nibble line loaded once. */
ALWAYS_INLINE void whole_sums(const int bits, const int base, const int mr, const uint8_t *tile, const int8_t *q, const struct ask *ask,
                              __m512i sums[MR_MAX][2])
{
    if (bits == 8) {
        half_sums(8, mr, tile, q, 0, ask, sums);
        half_sums(8, mr, tile, q, 1, ask, sums);
        return;
    }
    UNROLL for (int v = 0; v < 4; v++) {
        __m512i lines[2] = {_mm512_loadu_si512(tile + v * 128), _mm512_loadu_si512(tile + v * 128 + 64)};
        UNROLL for (int h = 0; h < 2; h++) {
            ask_step(ask, 2 * v + h);
            __m512i w0 = weights(bits, base, tile, lines[0], v, 0, h), w1 = weights(bits, base, tile, lines[1], v, 1, h);
            UNROLL for (int m = 0; m < mr; m++) {
                __m512i a = broadcast4(q + m * QUANT_BLOCK + 16 * h + 4 * v);
                sums[m][0] = _mm512_dpbusd_epi32(sums[m][0], w0, a);
                sums[m][1] = _mm512_dpbusd_epi32(sums[m][1], w1, a);
            }
        }
    }
}

/* What the sums of a block start with: the bits of QUANT_MAGIC, less what the offset adds too much. */
ALWAYS_INLINE __m512i start_value(const int offset, int32_t start)
{
    return _mm512_set1_epi32(offset == 0 ? QUANT_MAGIC_BITS : start);
}

/* The same of half h: `half` has it for Q6_K's offset 32; Q3_K's is 4. */
ALWAYS_INLINE __m512i half_start(const int scale, int32_t half)
{
    if (scale == PACK_K_HALVES_MIN)
        return _mm512_set1_epi32(QUANT_MAGIC_BITS);
    return _mm512_set1_epi32(scale == PACK_K_HALVES ? half : QUANT_MAGIC_BITS + ((half - QUANT_MAGIC_BITS) >> 3));
}

/* acc = fma((d * scale) * isum, d', acc), where `less` is -QUANT_MAGIC * d * scale. */
ALWAYS_INLINE __m512 add_product(__m512i sums, __m512 d, __m512 less, float dx, __m512 acc)
{
    return _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_castsi512_ps(sums), d, less), _mm512_set1_ps(dx), acc);
}

/* The float part of block i of a row, one scale for all of it: acc with the product and the minimum. */
ALWAYS_INLINE __m512 add_scaled(const int scale, __m512i sums, __m512 d, __m512 less, __m512 min, const struct operand *x, size_t i, __m512 acc)
{
    acc = add_product(sums, d, less, x->d[i], acc);
    if (scale == PACK_K_MIN)
        acc = _mm512_fnmadd_ps(min, _mm512_set1_ps(x->s[i]), acc);
    if (scale == PACK_F16_MIN)
        acc = _mm512_fmadd_ps(min, _mm512_set1_ps(x->s[i]), acc);
    return acc;
}

/* One block of a type with one scale per 32 values. */
ALWAYS_INLINE void block_whole(const int bits, const int offset, const int scale, const int mr, const uint8_t *tile, const uint8_t *header,
                               size_t min_at, const struct operand *x, size_t at, const struct ask *ask, __m512 acc[MR_MAX][2])
{
    __m512i sums[MR_MAX][2];
    UNROLL for (int m = 0; m < mr; m++)
        sums[m][0] = sums[m][1] = start_value(offset, x->start[at + (size_t)m]);
    whole_sums(bits, base_of(bits, offset, scale), mr, tile, x->q + at * QUANT_BLOCK, ask, sums);
    const uint8_t *scales = tile + bits * 128;
    UNROLL for (int g = 0; g < 2; g++) {
        __m512 d = factor(scale, scales, header, g, 0), less = _mm512_mul_ps(d, _mm512_set1_ps(-QUANT_MAGIC));
        __m512 min = minimum(scale, scales, header, min_at, g, 0);
        UNROLL for (int m = 0; m < mr; m++)
            acc[m][g] = add_scaled(scale, sums[m][g], d, less, min, x, at + (size_t)m, acc[m][g]);
    }
}

/* The minima of both halves, for block i of mr rows: min[h][g] times d' sum(q' of half h). */
ALWAYS_INLINE void sub_half_minima(const int mr, const struct operand *x, size_t at, __m512 min[2][2], __m512 acc[MR_MAX][2])
{
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int h = 0; h < 2; h++) {
            __m512 s = _mm512_set1_ps(x->d[at + (size_t)m] * (float)operand_sum(x, h, at + (size_t)m));
            UNROLL for (int g = 0; g < 2; g++)
                acc[m][g] = _mm512_fnmadd_ps(min[h][g], s, acc[m][g]);
        }
}

/* One block of a type with a scale per 16 values. */
ALWAYS_INLINE void block_halves(const int bits, const int scale, const int mr, const uint8_t *tile, const uint8_t *header, size_t min_at,
                                const struct operand *x, size_t at, const struct ask *ask, __m512 acc[MR_MAX][2])
{
    const uint8_t *scales = tile + bits * 128;
    __m512 min[2][2];
    UNROLL for (int h = 0; h < 2; h++) {
        __m512i sums[MR_MAX][2];
        UNROLL for (int m = 0; m < mr; m++)
            sums[m][0] = sums[m][1] = half_start(scale, x->half[h][at + (size_t)m]);
        half_sums(bits, mr, tile, x->q + at * QUANT_BLOCK, h, ask, sums);
        UNROLL for (int g = 0; g < 2; g++) {
            __m512 d = factor(scale, scales, header, g, h), less = _mm512_mul_ps(d, _mm512_set1_ps(-QUANT_MAGIC));
            UNROLL for (int m = 0; m < mr; m++)
                acc[m][g] = add_product(sums[m][g], d, less, x->d[at + (size_t)m], acc[m][g]);
            min[h][g] = minimum(scale, scales, header, min_at, g, h);
        }
    }
    if (scale == PACK_K_HALVES_MIN)
        sub_half_minima(mr, x, at, min, acc);
}

/* One block of float weights: one fma per value, ascending. */
ALWAYS_INLINE void block_float(const int type, const int mr, const uint8_t *tile, const struct operand *x, size_t at, const struct ask *ask,
                               __m512 acc[MR_MAX][2])
{
    for (int k = 0; k < QUANT_BLOCK; k++) {
        if (k % 4 == 0)
            ask_step(ask, k / 4);
        __m512 w[2];
        UNROLL for (int g = 0; g < 2; g++) {
            const uint8_t *p = tile + (size_t)(k * CPU_STRIPE + 16 * g) * (type == TENSOR_F32 ? 4 : 2);
            if (type == TENSOR_F32)
                w[g] = _mm512_loadu_ps(p);
            else if (type == TENSOR_F16)
                w[g] = f16x16(p);
            else
                w[g] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
        }
        UNROLL for (int m = 0; m < mr; m++) {
            __m512 a = _mm512_set1_ps(x->f[(at + (size_t)m) * QUANT_BLOCK + (size_t)k]);
            acc[m][0] = _mm512_fmadd_ps(w[0], a, acc[m][0]);
            acc[m][1] = _mm512_fmadd_ps(w[1], a, acc[m][1]);
        }
    }
}

/* acc += the partial sums at `below`, [mr][32]. */
ALWAYS_INLINE void add_part(const int mr, const float *below, __m512 acc[MR_MAX][2])
{
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int g = 0; g < 2; g++)
            acc[m][g] = _mm512_add_ps(_mm512_load_ps(below + 32 * m + 16 * g), acc[m][g]);
}

ALWAYS_INLINE void put(const int mr, __m512 acc[MR_MAX][2], float *to, size_t ld)
{
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int g = 0; g < 2; g++)
            _mm512_storeu_ps(to + (size_t)m * ld + 16 * g, acc[m][g]);
}

/* Slot j is done: acc joins the partial sums below it, as the carries of a binary counter: ((0+1)+(2+3)) + ((4+5)+(6+7)). */
ALWAYS_INLINE void fold(const int mr, int j, float part[3][MR_MAX * 32], __m512 acc[MR_MAX][2])
{
    int level = 0;
    for (; j & 1; j >>= 1, level++)
        add_part(mr, part[level], acc);
    if (level < 3)
        put(mr, acc, part[level], 32);
}

/* mr rows x 32 outputs. */
ALWAYS_INLINE void tile_pass(const int type, const int bits, const int offset, const int scale, const int tile_bytes, const int mr,
                             const int n_far, const int n_near, const struct pass *p)
{
    _Alignas(64) float part[3][MR_MAX * 32];
    __m512 acc[MR_MAX][2];
    const struct operand *x = p->x;
    size_t min_at = (size_t)(p->n_cols / 256) * 64, at = (size_t)p->row;
    const uint8_t *tile = p->stripe + header_bytes_of(scale, min_at), *far = p->far;
    if (n_far > 0 && n_far == n_near) /* the only tile */
        far = ask_lines(p->far, p->stripe, (int)(header_bytes_of(scale, min_at) / 64));
    UNROLL for (int m = 0; m < mr; m++)
        UNROLL for (int g = 0; g < 2; g++)
            _mm_prefetch((const char *)(p->out + (size_t)m * p->ld + 16 * g), _MM_HINT_T0);
    for (int j = 0; j < QUANT_SLOTS; j++) {
        UNROLL for (int m = 0; m < mr; m++)
            acc[m][0] = acc[m][1] = _mm512_setzero_ps();
        int n = operand_slot_start(x->n_blocks, j + 1) - operand_slot_start(x->n_blocks, j);
        const uint8_t *header = p->stripe;
        for (int i = 0; i < n; i++, tile += tile_bytes, at += (size_t)x->stride, header += 64, far += 64 * n_far) {
            const struct ask ask = {far, tile + NEAR_BYTES, n_far, n_near};
            if (scale == PACK_FLOAT)
                block_float(type, mr, tile, x, at, &ask, acc);
            else if (has_halves(scale))
                block_halves(bits, scale, mr, tile, header, min_at, x, at, &ask, acc);
            else
                block_whole(bits, offset, scale, mr, tile, header, min_at, x, at, &ask, acc);
        }
        fold(mr, j, part, acc);
    }
    put(mr, acc, p->out, p->ld);
}

/* ---- seven and eight rows: integer sums in registers, float sums in memory ---- */

/* sums[0] and sums[1] += two lines of weights times four values of a row. In assembly: GCC 12 keeps half of 16 sums on the stack otherwise. */
ALWAYS_INLINE void add_products(__m512i sums[2], __m512i w0, __m512i w1, const int8_t *q)
{
    __m512i values;
    __asm__("vpbroadcastd %[q], %[values]\n\tvpdpbusd %[values], %[w0], %[sum0]\n\tvpdpbusd %[values], %[w1], %[sum1]"
            : [sum0] "+v"(sums[0]), [sum1] "+v"(sums[1]), [values] "=&v"(values)
            : [w0] "v"(w0), [w1] "v"(w1), [q] "m"(*(const int8_t(*)[4])q));
}

/* Halves `first` to `last` of a block. */
ALWAYS_INLINE void big_sums(const int bits, const int base, const int mr, const uint8_t *tile, const int8_t *q, const int first, const int last,
                            const struct ask *ask, __m512i sums[MR_BIG][2])
{
    UNROLL for (int v = 0; v < 4; v++) {
        for (int h = first; h <= last; h++) {
            ask_step(ask, first == last ? 4 * h + v : 2 * v + h);
            __m512i w[2];
            UNROLL for (int g = 0; g < 2; g++)
                w[g] = bits <= 3 ? small_weights(bits, tile, v, g, h)
                                 : weights(bits, base, tile, _mm512_loadu_si512(tile + v * 128 + 64 * g), v, g, h);
            UNROLL for (int m = 0; m < mr; m++)
                add_products(sums[m], w[0], w[1], q + m * QUANT_BLOCK + 16 * h + 4 * v);
        }
    }
}

/* One block: to[m][32] = from[m][32] and the block's products. `from` and `to` may be the same. */
ALWAYS_INLINE void big_block(const int bits, const int offset, const int scale, const int mr, const uint8_t *tile, const uint8_t *header,
                             size_t min_at, const struct operand *x, size_t at, const struct ask *ask, const float *from, float *to)
{
    const uint8_t *scales = tile + bits * 128;
    const int n_parts = has_halves(scale) ? 2 : 1;
    UNROLL for (int h = 0; h < n_parts; h++) {
        __m512i sums[MR_BIG][2];
        UNROLL for (int m = 0; m < mr; m++)
            sums[m][0] = sums[m][1] = n_parts == 2 ? half_start(scale, x->half[h][at + (size_t)m])
                                                   : start_value(offset, x->start[at + (size_t)m]);
        big_sums(bits, base_of(bits, offset, scale), mr, tile, x->q + at * QUANT_BLOCK, h, n_parts == 1 ? 1 : h, ask, sums);
        UNROLL for (int g = 0; g < 2; g++) {
            __m512 d = factor(scale, scales, header, g, h), less = _mm512_mul_ps(d, _mm512_set1_ps(-QUANT_MAGIC));
            __m512 min = minimum(scale, scales, header, min_at, g, h);
            UNROLL for (int m = 0; m < mr; m++) {
                __m512 acc = _mm512_load_ps((h == 0 ? from : to) + 32 * m + 16 * g);
                _mm512_store_ps(to + 32 * m + 16 * g, add_scaled(scale, sums[m][g], d, less, min, x, at + (size_t)m, acc));
            }
        }
    }
}

/* mr rows x 32 outputs of a quantised type. */
ALWAYS_INLINE void big_pass(const int bits, const int offset, const int scale, const int tile_bytes, const int mr, const struct pass *p)
{
    static const _Alignas(64) float zeros[MR_BIG * 32];
    _Alignas(64) float part[3][MR_BIG * 32], sums[MR_BIG * 32];
    const struct operand *x = p->x;
    size_t min_at = (size_t)(p->n_cols / 256) * 64, at = (size_t)p->row;
    const uint8_t *tile = p->stripe + header_bytes_of(scale, min_at), *far = ask_lines(p->far, p->stripe, (int)(header_bytes_of(scale, min_at) / 64));
    const int n_ask = (tile_bytes + 63) / 64;
    for (int j = 0; j < QUANT_SLOTS; j++) {
        int n = operand_slot_start(x->n_blocks, j + 1) - operand_slot_start(x->n_blocks, j);
        const uint8_t *header = p->stripe;
        const float *from = zeros;
        for (int i = 0; i < n; i++, tile += tile_bytes, at += (size_t)x->stride, header += 64, far += 64 * n_ask) {
            const struct ask ask = {far, tile + NEAR_BYTES, n_ask, n_ask};
            big_block(bits, offset, scale, mr, tile, header, min_at, x, at, &ask, from, sums);
            from = sums;
        }
        int level = __builtin_ctz((unsigned)j + 1); /* the parts that join, and where the result goes */
        UNROLL for (int i = 0; i < mr * 2; i++) {
            __m512 acc = _mm512_load_ps(from + 16 * i);
            for (int k = 0; k < level; k++)
                acc = _mm512_add_ps(_mm512_load_ps(part[k] + 16 * i), acc);
            if (j == QUANT_SLOTS - 1)
                _mm512_storeu_ps(p->out + (size_t)(i / 2) * p->ld + 16 * (i % 2), acc);
            else
                _mm512_store_ps(part[level] + 16 * i, acc);
        }
    }
}

/* ---- more rows than a tile: weights unpacked once for all of them ---- */

/* Up to PANEL_BLOCKS blocks of a stripe: bytes as Q8_0's tile has them, and in f32, for both halves where they differ, d * scale, -QUANT_MAGIC times
 * it, and minima. */
struct panel {
    _Alignas(64) uint8_t bytes[PANEL_BLOCKS][1024];
    float d[PANEL_BLOCKS][2][32], less[PANEL_BLOCKS][2][32], min[PANEL_BLOCKS][2][32];
};

/* All rows over a panel: over n_slots whole slots, or over part of one. */
struct panel_rows {
    const struct operand *x;
    size_t at;               /* the first block of the first row in the operand */
    int slot, n_slots;       /* n_slots is 1, 2, 4 or 8 and slot a multiple of it */
    int n_blocks;            /* of all of them */
    const float *unfinished; /* [m][32] the slot's sums so far, or NULL if it begins here */
    bool ends;               /* the last slot ends here */
    float *part;             /* [3][CPU_ITEM_ROWS][32] partial sums of earlier panels */
    float *to;               /* where the sums go then, rows ld apart */
    size_t ld;
    const uint8_t *ask;      /* what the tiles of rows ask for: */
    int ask_bytes;           /* so much a block of each */
};

ALWAYS_INLINE void unpack(const int bits, const int scale, const int base, const uint8_t *tile, const uint8_t *header, size_t min_at,
                          struct panel *to, int i)
{
    if (bits <= 3) {
        UNROLL for (int v = 0; v < 8; v++) {
            UNROLL for (int g = 0; g < 2; g++) { /* Q3_K moves to Q6_K's offset */
                __m512i w = small_weights(bits, tile, v % 4, g, v / 4);
                _mm512_store_si512(to->bytes[i] + (2 * v + g) * 64, _mm512_add_epi8(w, _mm512_set1_epi8(scale == PACK_K_HALVES6 ? 28 : 0)));
            }
        }
    }
    if (bits == 4 || bits == 5 || bits == 6) {
        UNROLL for (int v = 0; v < 4; v++) {
            UNROLL for (int g = 0; g < 2; g++) {
                __m512i line = _mm512_loadu_si512(tile + (v * 2 + g) * 64);
                _mm512_store_si512(to->bytes[i] + (2 * v + g) * 64, weights(bits, base, tile, line, v, g, 0));
                _mm512_store_si512(to->bytes[i] + (2 * (v + 4) + g) * 64, weights(bits, base, tile, line, v, g, 1));
            }
        }
    }
    const uint8_t *scales = tile + bits * 128;
    const int n_scales = has_halves(scale) ? 2 : 1;
    UNROLL for (int h = 0; h < n_scales; h++) {
        UNROLL for (int g = 0; g < 2; g++) {
            __m512 d = factor(scale, scales, header, g, h);
            _mm512_store_ps(to->d[i][h] + 16 * g, d);
            _mm512_store_ps(to->less[i][h] + 16 * g, _mm512_mul_ps(d, _mm512_set1_ps(-QUANT_MAGIC)));
            if (scale == PACK_F16_MIN || scale == PACK_K_MIN || scale == PACK_K_HALVES_MIN)
                _mm512_store_ps(to->min[i][h] + 16 * g, minimum(scale, scales, header, min_at, g, h));
        }
    }
}

/* Adds to sums[m][g] the values of lines `first` to `last` of a block, `q` being the first row's 32 bytes; asks for a line with every other one. */
ALWAYS_INLINE void panel_sums(const int mr, const uint8_t *bytes, const int8_t *q, const int first, const int last, const bool spread,
                              const uint8_t *ask, __m512i sums[MR_MAX][2])
{
    UNROLL for (int v = first; v < last; v++) {
        if (spread && v % 2 == 0)
            __asm__ volatile("prefetcht0 %0" : : "m"(ask[32 * v]));
        __m512i w0 = _mm512_loadu_si512(bytes + v * 128), w1 = _mm512_loadu_si512(bytes + v * 128 + 64);
        UNROLL for (int m = 0; m < mr; m++) {
            __m512i a = broadcast4(q + m * QUANT_BLOCK + 4 * v);
            sums[m][0] = _mm512_dpbusd_epi32(sums[m][0], w0, a);
            sums[m][1] = _mm512_dpbusd_epi32(sums[m][1], w1, a);
        }
    }
}

/* One block of mr rows, added to the slot's sums. */
ALWAYS_INLINE void panel_block(const int scale, const int mr, const struct panel *w, int i, const struct operand *x, size_t at,
                               const bool spread, const uint8_t *ask, __m512 acc[MR_MAX][2])
{
    __m512i sums[MR_MAX][2];
    UNROLL for (int m = 0; m < mr; m++)
        sums[m][0] = sums[m][1] = start_value(scale == PACK_F16, x->start[at + (size_t)m]);
    panel_sums(mr, w->bytes[i], x->q + at * QUANT_BLOCK, 0, 8, spread, ask, sums);
    UNROLL for (int g = 0; g < 2; g++) {
        __m512 d = _mm512_load_ps(w->d[i][0] + 16 * g), less = _mm512_load_ps(w->less[i][0] + 16 * g), min = _mm512_load_ps(w->min[i][0] + 16 * g);
        UNROLL for (int m = 0; m < mr; m++)
            acc[m][g] = add_scaled(scale, sums[m][g], d, less, min, x, at + (size_t)m, acc[m][g]);
    }
}

/* The same of a type with a scale per 16 values. */
ALWAYS_INLINE void panel_block_halves(const int scale, const int mr, const struct panel *w, int i, const struct operand *x, size_t at,
                                      const bool spread, const uint8_t *ask, __m512 acc[MR_MAX][2])
{
    UNROLL for (int h = 0; h < 2; h++) {
        __m512i sums[MR_MAX][2];
        UNROLL for (int m = 0; m < mr; m++)
            sums[m][0] = sums[m][1] = half_start(scale, x->half[h][at + (size_t)m]);
        panel_sums(mr, w->bytes[i], x->q + at * QUANT_BLOCK, 4 * h, 4 * h + 4, spread, ask, sums);
        UNROLL for (int g = 0; g < 2; g++) {
            __m512 d = _mm512_load_ps(w->d[i][h] + 16 * g), less = _mm512_load_ps(w->less[i][h] + 16 * g);
            UNROLL for (int m = 0; m < mr; m++)
                acc[m][g] = add_product(sums[m][g], d, less, x->d[at + (size_t)m], acc[m][g]);
        }
    }
    if (scale != PACK_K_HALVES_MIN)
        return;
    __m512 min[2][2];
    UNROLL for (int h = 0; h < 2; h++)
        UNROLL for (int g = 0; g < 2; g++)
            min[h][g] = _mm512_load_ps(w->min[i][h] + 16 * g);
    sub_half_minima(mr, x, at, min, acc);
}

/* mr rows of a panel. Where a slot ends, its sums join the partial sums below, as the carries of a binary counter: those of this panel's slots are
 * kept here, those of earlier panels in p->part. */
ALWAYS_INLINE void panel_tile(const int scale, const int mr, const bool spread, const struct panel *w, const struct panel_rows *p)
{
    _Alignas(64) float own[3][MR_MAX * 32];
    size_t at = p->at;
    int i = 0, last = p->slot + p->n_slots - 1;
    const uint8_t *ask = p->ask;
    for (int line = 0; !spread && 64 * line < p->n_blocks * p->ask_bytes; line++)
        _mm_prefetch((const char *)ask + 64 * line, _MM_HINT_T0);
    for (int j = p->slot; j <= last; j++) {
        __m512 acc[MR_MAX][2];
        UNROLL for (int m = 0; m < mr; m++)
            UNROLL for (int g = 0; g < 2; g++)
                acc[m][g] = p->unfinished != NULL ? _mm512_load_ps(p->unfinished + 32 * m + 16 * g) : _mm512_setzero_ps();
        int end = j == last ? p->n_blocks : i + operand_slot_start(p->x->n_blocks, j + 1) - operand_slot_start(p->x->n_blocks, j);
        for (; i < end; i++, at += (size_t)p->x->stride, ask += p->ask_bytes) {
            if (has_halves(scale))
                panel_block_halves(scale, mr, w, i, p->x, at, spread, ask, acc);
            else
                panel_block(scale, mr, w, i, p->x, at, spread, ask, acc);
        }
        int level = 0;
        for (; p->ends && j >> level & 1; level++)
            add_part(mr, 2 << level <= p->n_slots ? own[level] : p->part + level * CPU_ITEM_ROWS * 32, acc);
        put(mr, acc, j == last ? p->to : own[level], j == last ? p->ld : 32);
    }
}

/* Rows of a panel, in tiles as even as can be. One copy for each kind of scale, and for few rows and many. */
ALWAYS_INLINE void panel_tiles(const int scale, const bool spread, const struct panel *w, struct panel_rows p, int n_rows)
{
    int n_tiles = (n_rows + MR_MAX - 1) / MR_MAX;
    for (int t = 0; t < n_tiles; t++) {
        int mr = (n_rows + n_tiles - 1 - t) / n_tiles;
        switch (mr) { /* 7 rows are 4 + 3 */
        case 3: panel_tile(scale, 3, spread, w, &p); break;
        case 4: panel_tile(scale, 4, spread, w, &p); break;
        case 5: panel_tile(scale, 5, spread, w, &p); break;
        case 6: panel_tile(scale, 6, spread, w, &p); break;
        }
        p.at += (size_t)mr;
        p.part += (size_t)mr * 32;
        if (p.unfinished != NULL)
            p.unfinished += (size_t)mr * 32;
        p.to += (size_t)mr * p.ld;
        p.ask += p.n_blocks * p.ask_bytes;
    }
}

static __attribute__((noinline)) void panel_f16(const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (n_rows <= SPREAD_ROWS)
        panel_tiles(PACK_F16, true, w, *p, n_rows);
    else
        panel_tiles(PACK_F16, false, w, *p, n_rows);
}

static __attribute__((noinline)) void panel_f16_min(const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (n_rows <= SPREAD_ROWS)
        panel_tiles(PACK_F16_MIN, true, w, *p, n_rows);
    else
        panel_tiles(PACK_F16_MIN, false, w, *p, n_rows);
}

static __attribute__((noinline)) void panel_k_min(const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (n_rows <= SPREAD_ROWS)
        panel_tiles(PACK_K_MIN, true, w, *p, n_rows);
    else
        panel_tiles(PACK_K_MIN, false, w, *p, n_rows);
}

static __attribute__((noinline)) void panel_halves(const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (n_rows <= SPREAD_ROWS)
        panel_tiles(PACK_K_HALVES, true, w, *p, n_rows);
    else
        panel_tiles(PACK_K_HALVES, false, w, *p, n_rows);
}

static __attribute__((noinline)) void panel_halves_min(const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (n_rows <= SPREAD_ROWS)
        panel_tiles(PACK_K_HALVES_MIN, true, w, *p, n_rows);
    else
        panel_tiles(PACK_K_HALVES_MIN, false, w, *p, n_rows);
}

/* The tiles of rows of one kind of scale. */
ALWAYS_INLINE void panel_any(const int scale, const struct panel *w, const struct panel_rows *p, int n_rows)
{
    if (scale == PACK_F16)
        panel_f16(w, p, n_rows);
    else if (scale == PACK_F16_MIN)
        panel_f16_min(w, p, n_rows);
    else if (scale == PACK_K_MIN)
        panel_k_min(w, p, n_rows);
    else if (scale != PACK_K_HALVES_MIN)
        panel_halves(w, p, n_rows);
    else
        panel_halves_min(w, p, n_rows);
}

/* More rows than a tile, CPU_ITEM_ROWS at most: panel after panel, all rows of each. */
ALWAYS_INLINE void by_panels(const int bits, const int offset, const int scale, const int tile_bytes, const struct pass *pass, int n_rows)
{
    _Alignas(64) float part[4][CPU_ITEM_ROWS * 32];
    struct panel w;
    const struct operand *x = pass->x;
    const int n_tiles = (n_rows + MR_MAX - 1) / MR_MAX, n_superblocks = pass->n_cols / 256;
    size_t min_at = (size_t)n_superblocks * 64;
    const uint8_t *tile = pass->stripe + header_bytes_of(scale, min_at);
    struct panel_rows p = {.x = x, .at = (size_t)pass->row, .n_slots = QUANT_SLOTS, .ends = true};
    while (p.n_slots > 1 && operand_slot_start(x->n_blocks, p.n_slots) > PANEL_BLOCKS)
        p.n_slots /= 2;
    for (; p.slot < QUANT_SLOTS; p.slot += p.n_slots) {
        int begin = operand_slot_start(x->n_blocks, p.slot), n = operand_slot_start(x->n_blocks, p.slot + p.n_slots) - begin, done = 0;
        int next = p.slot + p.n_slots;
        do {
            int n_panels = (n - done + PANEL_BLOCKS - 1) / PANEL_BLOCKS;
            p.n_blocks = n_panels == 0 ? 0 : (n - done + n_panels - 1) / n_panels;
            for (int i = 0; i < p.n_blocks; i++, tile += tile_bytes) {
                int superblock = n_superblocks == 0 ? 0 : (done + i) % n_superblocks; /* each slot has one block of each */
                unpack(bits, scale, base_of(bits, offset, scale), tile, pass->stripe + (size_t)superblock * 64, min_at, &w, i);
            }
            p.unfinished = done > 0 ? part[3] : NULL;
            done += p.n_blocks;
            p.ends = done == n;
            p.part = part[0];
            bool complete = p.ends && next == QUANT_SLOTS;
            p.to = complete ? pass->out : part[p.ends ? __builtin_ctz((unsigned)next) : 3];
            p.ld = complete ? pass->ld : 32;
            p.ask = tile;
            p.ask_bytes = (tile_bytes + n_tiles - 1) / n_tiles;
            panel_any(scale, &w, &p, n_rows);
            p.at += (size_t)p.n_blocks * (size_t)x->stride;
        } while (done < n);
    }
}

/* Rows in one or more tiles, as even as can be. One asks for its own stripe's lines, the first of more together for those of `next`; the very first
 * takes what it reads into the first-level cache for the others. */
ALWAYS_INLINE void by_tiles(const int type, const int bits, const int offset, const int scale, const int tile_bytes, struct pass *p,
                            int n_rows, const uint8_t *next)
{
#define PASS(mr, n_far, n_near) tile_pass(type, bits, offset, scale, tile_bytes, mr, n_far, n_near, p)
    const int lines = (tile_bytes + 63) / 64, half = (lines + 1) / 2, sixth = (lines + 5) / 6; /* of a block */
    const bool many = bits >= 8; /* others have panels for more than two */
    int n_tiles = (n_rows + MR_MAX - 1) / MR_MAX;
    p->far = n_tiles == 1 ? p->stripe + (is_k(scale) ? FAR_BYTES_K : FAR_BYTES) : next != NULL ? next : p->stripe;
    switch (n_tiles == 1 ? n_rows : 0) {
    case 1: PASS(1, lines, lines); return;
    case 2: PASS(2, lines, lines); return;
    case 3: PASS(3, lines, lines); return;
    case 4: PASS(4, lines, lines); return;
    case 5: PASS(5, lines, lines); return;
    case 6: PASS(6, lines, lines); return;
    }
    const bool few = n_tiles < 6;
    for (int i = 0, asked = 0; i < n_tiles; i++) {
        int mr = (n_rows + n_tiles - 1 - i) / n_tiles, n_far = asked >= lines ? 0 : few ? half : sixth; /* 7 rows are 4 + 3, 13 are 5 + 4 + 4 */
        switch (10 * (n_far == 0 ? 4 : few ? i > 0 : 2 + (i > 0)) + mr) { /* the way of asking, and the rows */
        case 4: PASS(4, half, lines); break;
        case 5: PASS(5, half, lines); break;
        case 6: PASS(6, half, lines); break;
        case 13: PASS(3, half, 0); break;
        case 14: PASS(4, half, 0); break;
        case 15: PASS(5, half, 0); break;
        case 16: PASS(6, half, 0); break;
        case 26: if (many) PASS(6, sixth, lines); break;
        case 35: if (many) PASS(5, sixth, 0); break;
        case 36: if (many) PASS(6, sixth, 0); break;
        case 44: if (many) PASS(4, 0, 0); break;
        case 45: if (many) PASS(5, 0, 0); break;
        case 46: if (many) PASS(6, 0, 0); break;
        default: assert(!"a tile has 3 to 6 rows");
        }
        p->row += mr;
        p->out += (size_t)mr * p->ld;
        p->far += (size_t)n_far * (size_t)p->x->n_blocks * 64;
        asked += n_far;
    }
#undef PASS
}

/* type, bits of a weight, offset, scales, bytes of a tile */
#define FLAT_TYPES(X)                    \
    X(F32, 32, 0, PACK_FLOAT, 4096)      \
    X(F16, 16, 0, PACK_FLOAT, 2048)      \
    X(BF16, 16, 0, PACK_FLOAT, 2048)     \
    X(Q8_0, 8, 128, PACK_F16, 1088)
#define PACKED_TYPES(X)                    \
    X(Q4_0, 4, 8, PACK_F16, 576)           \
    X(Q4_1, 4, 0, PACK_F16_MIN, 640)       \
    X(Q5_0, 5, 16, PACK_F16, 704)          \
    X(Q5_1, 5, 0, PACK_F16_MIN, 768)       \
    X(Q2_K, 2, 0, PACK_K_HALVES_MIN, 320)  \
    X(Q3_K, 3, 4, PACK_K_HALVES6, 432)     \
    X(Q4_K, 4, 0, PACK_K_MIN, 576)         \
    X(Q5_K, 5, 0, PACK_K_MIN, 704)         \
    X(Q6_K, 6, 32, PACK_K_HALVES, 832)

/* In a function of their own: a frame of 90 KiB is touched page by page when it is made (-fstack-clash-protection), and that, all in one set of the
 * first-level cache, took 2.5 % of a step of one row of Qwen 1.5B. */
static __attribute__((noinline)) void many_rows(int type, struct pass *p, int n_rows)
{
    switch (type) {
#define CASE(name, bits, offset, scale, tile_bytes) \
    case TENSOR_##name: by_panels(bits, offset, scale, tile_bytes, p, n_rows); break;
        PACKED_TYPES(CASE)
#undef CASE
    }
}

/* Those of no more than two tiles, or of a type that is used as it lies. */
ALWAYS_INLINE void few_rows(const int type, const int bits, const int offset, const int scale, const int tile_bytes, struct pass *p, int n_rows,
                            const uint8_t *ahead)
{
    if (n_rows > MR_MAX && n_rows <= MR_BIG && bits < 8 && scale != PACK_K_HALVES_MIN) {
        p->far = p->stripe + FAR_BYTES;
        if (n_rows == 7)
            big_pass(bits, offset, scale, tile_bytes, 7, p);
        else
            big_pass(bits, offset, scale, tile_bytes, 8, p);
    } else if (n_rows > 0)
        by_tiles(type, bits, offset, scale, tile_bytes, p, n_rows, ahead);
}

void gemm_avx512(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    struct pass p = {s->w, n_cols, x, r0, out, ld, NULL};
#define IS(name, bits, offset, scale, tile_bytes) s->type == TENSOR_##name ||
    const bool flat = FLAT_TYPES(IS) false;
#undef IS
    while (!flat && r1 - p.row > 2 * MR_MAX) {
        int n = r1 - p.row < CPU_ITEM_ROWS ? r1 - p.row : CPU_ITEM_ROWS;
        many_rows(s->type, &p, n);
        p.row += n;
        p.out += (size_t)n * p.ld;
    }
    switch (s->type) {
#define CASE(name, bits, offset, scale, tile_bytes) \
    case TENSOR_##name: few_rows(TENSOR_##name, bits, offset, scale, tile_bytes, &p, r1 - p.row, ahead); break;
        FLAT_TYPES(CASE)
        PACKED_TYPES(CASE)
#undef CASE
    default: assert(!"a stripe has one of the 13 types");
    }
}

/* repack.c: from the file's blocks to planes; see layout.h for the order.
 *
 * Loading packs every byte of a model, so blocks move in words of four values: read_block makes the words that one (row, block) has in each plane,
 * whatever the file's order of nibbles and bit planes, and put_block lays them down. Nothing computes with the values; a test unpacks the planes by
 * the page's formulas and compares with quant.h's meaning of the file's bytes. */
#include "engine/backend/cuda/repack.h"

#include <assert.h>
#include <string.h>

#include "engine/backend/cuda/layout.h"
#include "engine/numerics/quant.h"

_Static_assert((int)DEVICE_F32 == (int)TENSOR_F32, "numbered alike");
_Static_assert((int)DEVICE_F16 == (int)TENSOR_F16, "numbered alike");
_Static_assert((int)DEVICE_BF16 == (int)TENSOR_BF16, "numbered alike");
_Static_assert((int)DEVICE_Q4_0 == (int)TENSOR_Q4_0, "numbered alike");
_Static_assert((int)DEVICE_Q4_1 == (int)TENSOR_Q4_1, "numbered alike");
_Static_assert((int)DEVICE_Q5_0 == (int)TENSOR_Q5_0, "numbered alike");
_Static_assert((int)DEVICE_Q5_1 == (int)TENSOR_Q5_1, "numbered alike");
_Static_assert((int)DEVICE_Q8_0 == (int)TENSOR_Q8_0, "numbered alike");
_Static_assert((int)DEVICE_Q2_K == (int)TENSOR_Q2_K, "numbered alike");
_Static_assert((int)DEVICE_Q3_K == (int)TENSOR_Q3_K, "numbered alike");
_Static_assert((int)DEVICE_Q4_K == (int)TENSOR_Q4_K, "numbered alike");
_Static_assert((int)DEVICE_Q5_K == (int)TENSOR_Q5_K, "numbered alike");
_Static_assert((int)DEVICE_Q6_K == (int)TENSOR_Q6_K, "numbered alike");
_Static_assert(LAYOUT_SLOTS == QUANT_SLOTS, "a group has a block of every slot");

struct format {
    int chunks, chunk_bytes, high_bytes, scale_bytes, super_bytes, six_bytes;
};

static const struct format formats[TENSOR_TYPES] = {
#define FORMAT(type, chunks, chunk_bytes, high, scales, supers, sixes) [type] = {chunks, chunk_bytes, high, scales, supers, sixes},
    LAYOUT_TABLE(FORMAT)
#undef FORMAT
};

/* A stripe's planes: where the next group of four rows goes. */
struct planes {
    uint8_t *quants, *high, *scales, *supers, *sixes;
};

/* What one (row, block) has in each plane, and what its superblock has. */
struct block {
    uint32_t quants[4]; /* of quantised types but Q8_0, which go without a copy */
    uint32_t high[2];
    uint8_t scales[4], supers[4];
    uint32_t six; /* the 4 bits of this block */
};

size_t repack_stripe_bytes(int type, int n_cols)
{
    assert(type >= 0 && type < TENSOR_TYPES);
    const struct format *f = &formats[type];
    assert(f->chunks > 0);
    size_t n_blocks = (size_t)quant_n_blocks(n_cols), n_supers = (n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS;
    size_t block_bytes = (size_t)(f->chunks * f->chunk_bytes + f->high_bytes + f->scale_bytes);
    return LAYOUT_ROWS * (n_blocks * block_bytes + n_supers * (size_t)(f->super_bytes + f->six_bytes));
}

size_t repack_bytes(int type, int n_rows, int n_cols)
{
    assert(n_rows > 0);
    return (size_t)((n_rows + LAYOUT_ROWS - 1) / LAYOUT_ROWS) * repack_stripe_bytes(type, n_cols);
}

/* ---- a block of the file ---- */

static uint32_t word_at(const uint8_t *p, int i)
{
    uint32_t v;
    memcpy(&v, p + 4 * i, sizeof v);
    return v;
}

/* Nibbles `high` (or the low ones) of 32 bytes, values 0..15 low and 16..31 high. */
static void gather_nibbles(const uint8_t *p, bool high, uint32_t words[4])
{
    for (int v = 0; v < 4; v++) {
        uint32_t a = word_at(p, v), b = word_at(p, 4 + v);
        words[v] = high ? (a >> 4 & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u) : (a & 0x0f0f0f0fu) | (b & 0x0f0f0f0fu) << 4;
    }
}

/* Bits shift .. shift + 1 of 32 bytes as pairs. */
static void gather_pairs(const uint8_t *p, int shift, uint32_t pairs[2])
{
    for (int h = 0; h < 2; h++) {
        pairs[h] = 0;
        for (int v = 0; v < 4; v++)
            pairs[h] |= (word_at(p, 4 * h + v) >> shift & 0x03030303u) << 2 * v;
    }
}

/* Bit j of 32 bytes as bits. */
static uint32_t gather_bits(const uint8_t *p, int j)
{
    uint32_t bits = 0;
    for (int w = 0; w < 8; w++)
        bits |= (word_at(p, w) >> j & 0x01010101u) << w;
    return bits;
}

/* 32 bits, bit k of value k, as bits: every fourth one to a byte. */
static uint32_t spread_bits(uint32_t in)
{
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t x = in >> i & 0x11111111u;
        x = (x | x >> 3) & 0x03030303u;
        x = (x | x >> 6) & 0x000f000fu;
        out |= ((x | x >> 12) & 0xffu) << 8 * i;
    }
    return out;
}

/* Block p of a type with blocks of 32 but Q8_0. */
static inline void read_simple(const int type, const uint8_t *p, struct block *b)
{
    const int header = type == TENSOR_Q4_1 || type == TENSOR_Q5_1 ? 4 : 2, five = type == TENSOR_Q5_0 || type == TENSOR_Q5_1 ? 4 : 0;
    memcpy(b->scales, p, (size_t)header);
    b->high[0] = five ? spread_bits(word_at(p + header, 0)) : 0;
    memcpy(b->quants, p + header + five, 16);
}

/* Block j of superblock p of a K type; quant.h tells the formats. */
static inline void read_k(const int type, const uint8_t *p, int j, struct block *b)
{
    const uint8_t *s = p + 4;
    if (type == TENSOR_Q4_K || type == TENSOR_Q5_K) {
        gather_nibbles(p + (type == TENSOR_Q5_K ? 48 : 16) + j / 2 * 32, j % 2, b->quants);
        b->high[0] = type == TENSOR_Q5_K ? gather_bits(p + 16, j) : 0;
        b->scales[0] = (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        b->scales[1] = (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
        memcpy(b->supers, p, 4);
    } else if (type == TENSOR_Q6_K) {
        gather_nibbles(p + 64 * (j / 4) + 32 * (j % 2), j % 4 / 2, b->quants);
        gather_pairs(p + 128 + 32 * (j / 4), 2 * (j % 4), b->high);
        memcpy(b->scales, p + 192 + 2 * j, 2);
        memcpy(b->supers, p + 208, 2);
    } else if (type == TENSOR_Q2_K) {
        gather_pairs(p + 16 + 32 * (j / 4), 2 * (j % 4), b->quants);
        memcpy(b->scales, p + 2 * j, 2);
        memcpy(b->supers, p + 80, 4);
    } else {
        gather_pairs(p + 32 + 32 * (j / 4), 2 * (j % 4), b->quants);
        b->high[0] = gather_bits(p, j);
        int i = 2 * j, low = i < 8 ? (p[96 + i] & 15) | (p[97 + i] & 15) << 4 : p[88 + i] >> 4 | (p[89 + i] & 0xf0);
        b->scales[0] = (uint8_t)low;
        b->six = (p[104 + i % 4] >> 2 * (i / 4) & 3u) | (p[105 + i % 4] >> 2 * (i / 4) & 3u) << 2;
        memcpy(b->supers, p + 108, 2);
    }
}

/* ---- into planes ---- */

/* Four rows of a type with blocks of 32, of which n_rows are there; the others become zeros. */
static inline void pack_simple(const int type, const uint8_t *rows, size_t row_bytes, int n_rows, int n_blocks, const struct planes *at)
{
    const struct format f = formats[type];
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    for (int first = 0; first < n_blocks; first += LAYOUT_SLOTS) {
        int n = n_blocks - first < LAYOUT_SLOTS ? n_blocks - first : LAYOUT_SLOTS;
        for (int i = 0; i < LAYOUT_WARP_ROWS * n; i++) {
            struct block b = {{0}, {0}, {0}, {0}, 0};
            size_t e = (size_t)(first * LAYOUT_WARP_ROWS + i);
            const uint8_t *p = rows + (size_t)(i / n) * row_bytes + (size_t)(first + i % n) * (size_t)n_bytes;
            if (type == TENSOR_Q8_0) {
                uint8_t *group = at->quants + (size_t)first * LAYOUT_WARP_ROWS * 32, zeros[34] = {0};
                p = i / n < n_rows ? p : zeros;
                memcpy(group + i * 16, p + 2, 16);
                memcpy(group + (LAYOUT_WARP_ROWS * n + i) * 16, p + 18, 16);
                memcpy(at->scales + 2 * e, p, 2);
                continue;
            }
            if (i / n < n_rows)
                read_simple(type, p, &b);
            memcpy(at->quants + 16 * e, b.quants, 16);
            memcpy(at->high + (size_t)f.high_bytes * e, b.high, (size_t)f.high_bytes);
            memcpy(at->scales + (size_t)f.scale_bytes * e, b.scales, (size_t)f.scale_bytes);
        }
    }
}

/* Likewise of a K type, whose groups are whole. */
static inline void pack_k(const int type, const uint8_t *rows, size_t row_bytes, int n_rows, int n_blocks, const struct planes *at)
{
    const struct format f = formats[type];
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    for (int i = 0; i < LAYOUT_WARP_ROWS * (n_blocks / LAYOUT_SLOTS); i++) {
        int super = i / LAYOUT_WARP_ROWS, row = i % LAYOUT_WARP_ROWS;
        const uint8_t *p = rows + (size_t)row * row_bytes + (size_t)super * (size_t)n_bytes;
        struct block b = {{0}, {0}, {0}, {0}, 0};
        uint32_t sixes = 0;
        for (int j = 0; j < LAYOUT_SLOTS; j++) {
            size_t e = (size_t)(i * LAYOUT_SLOTS + j);
            if (row < n_rows)
                read_k(type, p, j, &b);
            sixes |= b.six << 4 * j;
            memcpy(at->quants + (size_t)f.chunk_bytes * e, b.quants, (size_t)f.chunk_bytes);
            memcpy(at->high + (size_t)f.high_bytes * e, b.high, (size_t)f.high_bytes);
            memcpy(at->scales + (size_t)f.scale_bytes * e, b.scales, (size_t)f.scale_bytes);
        }
        memcpy(at->supers + (size_t)(f.super_bytes * i), b.supers, (size_t)f.super_bytes);
        memcpy(at->sixes + (size_t)(f.six_bytes * i), &sixes, (size_t)f.six_bytes);
    }
}

/* Likewise of floats of elem bytes; a short last block is filled up with zeros. */
static void pack_floats(int elem, const uint8_t *rows, size_t row_bytes, int n_rows, int n_blocks, const struct planes *at)
{
    size_t block_bytes = (size_t)elem * QUANT_BLOCK;
    for (int first = 0; first < n_blocks; first += LAYOUT_SLOTS) {
        int n = n_blocks - first < LAYOUT_SLOTS ? n_blocks - first : LAYOUT_SLOTS, n_entries = LAYOUT_WARP_ROWS * n;
        uint8_t *group = at->quants + (size_t)first * LAYOUT_WARP_ROWS * block_bytes;
        for (int i = 0; i < n_entries; i++) {
            uint8_t block[128] = {0};
            size_t from = (size_t)(first + i % n) * block_bytes, left = row_bytes - from;
            if (i / n < n_rows)
                memcpy(block, rows + (size_t)(i / n) * row_bytes + from, left < block_bytes ? left : block_bytes);
            for (size_t c = 0; c < block_bytes / 16; c++)
                memcpy(group + (c * (size_t)n_entries + (size_t)i) * 16, block + 16 * c, 16);
        }
    }
}

static void pack_four(int type, const uint8_t *rows, size_t row_bytes, int n_rows, int n_blocks, const struct planes *at)
{
    switch (type) { /* a copy of the loops for each type */
    case TENSOR_F32: pack_floats(4, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_F16:
    case TENSOR_BF16: pack_floats(2, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q4_0: pack_simple(TENSOR_Q4_0, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q4_1: pack_simple(TENSOR_Q4_1, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q5_0: pack_simple(TENSOR_Q5_0, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q5_1: pack_simple(TENSOR_Q5_1, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q8_0: pack_simple(TENSOR_Q8_0, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q2_K: pack_k(TENSOR_Q2_K, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q3_K: pack_k(TENSOR_Q3_K, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q4_K: pack_k(TENSOR_Q4_K, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q5_K: pack_k(TENSOR_Q5_K, rows, row_bytes, n_rows, n_blocks, at); break;
    case TENSOR_Q6_K: pack_k(TENSOR_Q6_K, rows, row_bytes, n_rows, n_blocks, at); break;
    default: assert(!"a tensor has one of the 13 types");
    }
}

void repack_rows(int type, const void *rows, int n_rows, int n_cols, uint8_t *out)
{
    assert(n_rows > 0 && n_rows <= LAYOUT_ROWS);
    assert(type >= 0 && type < TENSOR_TYPES);
    const struct format *f = &formats[type];
    size_t row_bytes = quant_row_bytes(type, n_cols);
    int n_blocks = quant_n_blocks(n_cols), n_supers = (n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS;
    assert(row_bytes > 0);
    size_t n_entries = (size_t)(LAYOUT_WARP_ROWS * n_blocks), n_tops = (size_t)(LAYOUT_WARP_ROWS * n_supers);
    const size_t n_groups = LAYOUT_ROWS / LAYOUT_WARP_ROWS;
    size_t quants = n_entries * (size_t)(f->chunks * f->chunk_bytes), high = n_entries * (size_t)f->high_bytes;
    size_t scales = n_entries * (size_t)f->scale_bytes, supers = n_tops * (size_t)f->super_bytes, sixes = n_tops * (size_t)f->six_bytes;
    for (size_t g = 0; g < n_groups; g++) {
        int n = n_rows - (int)g * LAYOUT_WARP_ROWS;
        struct planes at = {.quants = out + g * quants};
        at.high = out + n_groups * quants + g * high;
        at.scales = out + n_groups * (quants + high) + g * scales;
        at.supers = out + n_groups * (quants + high + scales) + g * supers;
        at.sixes = out + n_groups * (quants + high + scales + supers) + g * sixes;
        n = n < 0 ? 0 : n < LAYOUT_WARP_ROWS ? n : LAYOUT_WARP_ROWS;
        const uint8_t *from = n > 0 ? (const uint8_t *)rows + g * LAYOUT_WARP_ROWS * row_bytes : rows;
        pack_four(type, from, row_bytes, n, n_blocks, &at);
    }
}

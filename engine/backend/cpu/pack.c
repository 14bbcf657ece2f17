/* pack.c: from the file's blocks to tiles and back; see pack.h for the layout.
 *
 * Loading packs every byte of a model, so the way there moves words of four values: read_words turns a block of a row into the words of the tile's
 * lines, whatever the file's order of nibbles and bit planes, and put_words lays them into a lane. The words hold the file's bits, which are the
 * stored values of pack.h in every format but Q8_0 (sign bits flipped). The way back goes through the meaning of a block (struct quant_w), value by
 * value, and tests hold it to quant.h's; so do the kernels, whose products are compared with quant_dot. */
#include "engine/backend/cpu/pack.h"

#include <assert.h>
#include <string.h>

#include "engine/backend/cpu/cpu.h"

#define LANES 16

static const struct pack_format formats[TENSOR_TYPES] = {
    [TENSOR_F32] = {32, 0, PACK_FLOAT, 4096},
    [TENSOR_F16] = {16, 0, PACK_FLOAT, 2048},
    [TENSOR_BF16] = {16, 0, PACK_FLOAT, 2048},
    [TENSOR_Q4_0] = {4, 8, PACK_F16, 576},
    [TENSOR_Q4_1] = {4, 0, PACK_F16_MIN, 640},
    [TENSOR_Q5_0] = {5, 16, PACK_F16, 704},
    [TENSOR_Q5_1] = {5, 0, PACK_F16_MIN, 768},
    [TENSOR_Q8_0] = {8, 128, PACK_F16, 1088},
    [TENSOR_Q2_K] = {2, 0, PACK_K_HALVES_MIN, 320},
    [TENSOR_Q3_K] = {3, 4, PACK_K_HALVES6, 432},
    [TENSOR_Q4_K] = {4, 0, PACK_K_MIN, 576},
    [TENSOR_Q5_K] = {5, 0, PACK_K_MIN, 704},
    [TENSOR_Q6_K] = {6, 32, PACK_K_HALVES, 832},
};

const struct pack_format *pack_format(int type)
{
    assert(type >= 0 && type < TENSOR_TYPES);
    return &formats[type];
}

static bool has_header(enum pack_scale s)
{
    return s >= PACK_K_MIN && s <= PACK_K_HALVES_MIN;
}

static bool has_min(enum pack_scale s)
{
    return s == PACK_F16_MIN || s == PACK_K_MIN || s == PACK_K_HALVES_MIN;
}

size_t pack_header_bytes(int type, int n_cols)
{
    enum pack_scale s = formats[type].scale;
    if (!has_header(s))
        return 0;
    return (size_t)(n_cols / 256) * CPU_STRIPE * sizeof(uint16_t) * (has_min(s) ? 2 : 1);
}

size_t pack_stripe_bytes(int type, int n_cols)
{
    return pack_header_bytes(type, n_cols) + (size_t)quant_n_blocks(n_cols) * (size_t)formats[type].tile_bytes;
}

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- a block of the file, as the tile has it ---- */

struct words {
    uint32_t values[8]; /* [4] nibbles or [8] bytes: word v is the lane's part of line v */
    uint32_t pairs[2];  /* likewise of the bit pairs */
    uint32_t bits;      /* bit k of value k: the fifth or third bit */
    uint16_t d, min;
    uint8_t sub[2], sub_min[2]; /* integer sub-scales and minima of the halves; six-bit scales as the file has them */
};

static uint32_t word_at(const uint8_t *p, int i)
{
    uint32_t v;
    memcpy(&v, p + 4 * i, sizeof v);
    return v;
}

/* Bit j of 32 bytes. */
static uint32_t gather_bits(const uint8_t *p, int j)
{
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t x;
        memcpy(&x, p + 8 * i, sizeof x);
        x = x >> j & 0x0101010101010101u;
        bits |= (uint32_t)(x * 0x0102040810204080u >> 56) << 8 * i; /* byte n's bit moves to bit 56 + n */
    }
    return bits;
}

/* Bits shift .. shift + 1 of 32 bytes: value 16 h + 4 v + i in bits 2 v of byte i of word h. */
static void gather_pairs(const uint8_t *p, int shift, uint32_t pairs[2])
{
    for (int h = 0; h < 2; h++) {
        pairs[h] = 0;
        for (int v = 0; v < 4; v++)
            pairs[h] |= (word_at(p, 4 * h + v) >> shift & 0x03030303u) << 2 * v;
    }
}

/* Nibbles `high` (or the low ones) of 32 bytes, values 0..15 low and 16..31 high. */
static void gather_nibbles(const uint8_t *p, bool high, uint32_t values[8])
{
    for (int v = 0; v < 4; v++) {
        uint32_t a = word_at(p, v), b = word_at(p, 4 + v);
        values[v] = high ? (a >> 4 & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u) : (a & 0x0f0f0f0fu) | (b & 0x0f0f0f0fu) << 4;
    }
}

/* Block p of a 32-value type. */
static inline void read_simple(const int type, const uint8_t *p, struct words *w)
{
    const bool has_min = type == TENSOR_Q4_1 || type == TENSOR_Q5_1, five = type == TENSOR_Q5_0 || type == TENSOR_Q5_1;
    w->d = get_u16(p);
    w->min = has_min ? get_u16(p + 2) : 0;
    const uint8_t *high = p + (has_min ? 4 : 2), *low = high + (five ? 4 : 0);
    w->bits = five ? word_at(high, 0) : 0;
    for (int v = 0; v < (type == TENSOR_Q8_0 ? 8 : 4); v++)
        w->values[v] = type == TENSOR_Q8_0 ? word_at(low, v) ^ 0x80808080u : word_at(low, v);
}

/* Block j of superblock p of a K type; the formats are told in quant.h. */
static inline void read_k(const int type, const uint8_t *p, int j, struct words *w)
{
    const uint8_t *s = p + 4;
    if (type == TENSOR_Q4_K || type == TENSOR_Q5_K) {
        gather_nibbles(p + (type == TENSOR_Q5_K ? 48 : 16) + j / 2 * 32, j % 2, w->values);
        w->bits = type == TENSOR_Q5_K ? gather_bits(p + 16, j) : 0;
        w->sub[0] = (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        w->sub_min[0] = (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
    } else if (type == TENSOR_Q6_K) {
        gather_nibbles(p + 64 * (j / 4) + 32 * (j % 2), j % 4 / 2, w->values);
        gather_pairs(p + 128 + 32 * (j / 4), 2 * (j % 4), w->pairs);
        memcpy(w->sub, p + 192 + 2 * j, 2);
    } else if (type == TENSOR_Q2_K) {
        gather_pairs(p + 16 + 32 * (j / 4), 2 * (j % 4), w->pairs);
        memcpy(w->sub, p + 2 * j, 2); /* each with its minimum, as the tile has them */
    } else {
        gather_pairs(p + 32 + 32 * (j / 4), 2 * (j % 4), w->pairs);
        w->bits = gather_bits(p, j);
        for (int h = 0; h < 2; h++) {
            int i = 2 * j + h, low = i < 8 ? p[96 + i] & 15 : p[96 + i - 8] >> 4;
            w->sub[h] = (uint8_t)(low | (p[104 + i % 4] >> 2 * (i / 4) & 3) << 4);
        }
    }
}

/* ---- into a lane of a tile ---- */

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

static void put_word(uint8_t *lines, int line, int r, uint32_t v)
{
    memcpy(lines + (line * 2 + r / LANES) * 64 + r % LANES * 4, &v, sizeof v);
}

/* The values of output r; masks and six-bit scales are or-ed into zeros. */
static inline void put_words(const int type, uint8_t *tile, int r, const struct words *w)
{
    const struct pack_format *f = &formats[type];
    const int n_lines = f->bits == 8 ? 8 : f->bits >= 4 ? 4 : 0;
    uint8_t *rest = tile + n_lines * 128;
    for (int v = 0; v < n_lines; v++)
        put_word(tile, v, r, w->values[v]);
    for (int h = 0; h < 2 && (f->bits == 6 || f->bits <= 3); h++)
        put_word(rest, h, r, w->pairs[h]);
    uint8_t *masks = f->bits == 3 ? rest + 256 : rest;
    for (int i = 0; i < 8 && (f->bits == 3 || f->bits == 5); i++) /* line i / 2, half i % 2 */
        masks[((i / 2 * 2 + r / LANES) * 2 + i % 2) * 8 + r % LANES / 2] |= (uint8_t)((w->bits >> (16 * (i % 2) + 4 * (i / 2)) & 15) << r % 2 * 4);
}

static inline void put_scales(const int type, uint8_t *scales, int r, const struct words *w)
{
    switch (formats[type].scale) {
    case PACK_F16_MIN: put_u16(scales + 64 + 2 * r, w->min); /* fall through */
    case PACK_F16: put_u16(scales + 2 * r, w->d); break;
    case PACK_K_MIN:
        scales[r] = w->sub[0];
        scales[32 + r] = w->sub_min[0];
        break;
    case PACK_K_HALVES6:
        scales[r] = (uint8_t)((w->sub[0] & 15) | (w->sub[1] & 15) << 4);
        scales[32 + r % LANES] |= (uint8_t)((w->sub[0] >> 4 | w->sub[1] >> 4 << 2) << r / LANES * 4);
        break;
    default: /* a byte a half */
        scales[r] = w->sub[0];
        scales[32 + r] = w->sub[1];
    }
}

/* ---- stripes ---- */

static inline void pack_simple(const int type, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out)
{
    size_t row_bytes = quant_row_bytes(type, n_cols);
    int n_blocks = n_cols / QUANT_BLOCK, n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    for (int b = 0; b < n_blocks; b++) {
        uint8_t *tile = out + (size_t)operand_place(n_blocks, b) * (size_t)formats[type].tile_bytes;
        for (int r = 0; r < n_rows; r++) {
            struct words w;
            read_simple(type, rows + (size_t)r * row_bytes + (size_t)b * (size_t)n_bytes, &w);
            put_words(type, tile, r, &w);
            put_scales(type, tile + formats[type].bits * 128, r, &w);
        }
    }
}

static inline void pack_k(const int type, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out)
{
    static const short d_at[TENSOR_TYPES] = {[TENSOR_Q2_K] = 80, [TENSOR_Q3_K] = 108, [TENSOR_Q6_K] = 208};
    const int min_at = d_at[type] + 2;
    size_t row_bytes = quant_row_bytes(type, n_cols), header_min = (size_t)(n_cols / 256) * 64;
    uint8_t *tiles = out + pack_header_bytes(type, n_cols);
    int n_blocks = n_cols / QUANT_BLOCK, n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    for (int b = 0; b < n_blocks; b++) {
        uint8_t *tile = tiles + (size_t)operand_place(n_blocks, b) * (size_t)formats[type].tile_bytes;
        uint8_t *header = out + (size_t)(b / 8) * 64;
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *p = rows + (size_t)r * row_bytes + (size_t)(b / 8) * (size_t)n_bytes;
            struct words w;
            read_k(type, p, b % 8, &w);
            put_words(type, tile, r, &w);
            put_scales(type, tile + formats[type].bits * 128, r, &w);
            if (b % 8 == 0)
                put_u16(header + 2 * r, get_u16(p + d_at[type]));
            if (b % 8 == 0 && has_min(formats[type].scale))
                put_u16(header + header_min + 2 * r, get_u16(p + min_at));
        }
    }
}

static void pack_floats(int elem, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out)
{
    int n_blocks = quant_n_blocks(n_cols);
    for (int b = 0; b < n_blocks; b++) {
        uint8_t *tile = out + (size_t)operand_place(n_blocks, b) * QUANT_BLOCK * CPU_STRIPE * (size_t)elem;
        int n = n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *row = rows + ((size_t)r * (size_t)n_cols + (size_t)b * QUANT_BLOCK) * (size_t)elem;
            for (int k = 0; k < n && elem == 2; k++)
                put_u16(tile + (k * CPU_STRIPE + r) * 2, get_u16(row + 2 * k));
            for (int k = 0; k < n && elem == 4; k++)
                memcpy(tile + (k * CPU_STRIPE + r) * 4, row + 4 * k, 4);
        }
    }
}

void pack_stripe(int type, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out)
{
    assert(n_rows <= CPU_STRIPE);
    switch (type) { /* a copy of the loops for each type */
    case TENSOR_F32: pack_floats(4, rows, n_rows, n_cols, out); break;
    case TENSOR_F16:
    case TENSOR_BF16: pack_floats(2, rows, n_rows, n_cols, out); break;
    case TENSOR_Q4_0: pack_simple(TENSOR_Q4_0, rows, n_rows, n_cols, out); break;
    case TENSOR_Q4_1: pack_simple(TENSOR_Q4_1, rows, n_rows, n_cols, out); break;
    case TENSOR_Q5_0: pack_simple(TENSOR_Q5_0, rows, n_rows, n_cols, out); break;
    case TENSOR_Q5_1: pack_simple(TENSOR_Q5_1, rows, n_rows, n_cols, out); break;
    case TENSOR_Q8_0: pack_simple(TENSOR_Q8_0, rows, n_rows, n_cols, out); break;
    case TENSOR_Q2_K: pack_k(TENSOR_Q2_K, rows, n_rows, n_cols, out); break;
    case TENSOR_Q3_K: pack_k(TENSOR_Q3_K, rows, n_rows, n_cols, out); break;
    case TENSOR_Q4_K: pack_k(TENSOR_Q4_K, rows, n_rows, n_cols, out); break;
    case TENSOR_Q5_K: pack_k(TENSOR_Q5_K, rows, n_rows, n_cols, out); break;
    case TENSOR_Q6_K: pack_k(TENSOR_Q6_K, rows, n_rows, n_cols, out); break;
    default: assert(!"a tensor has one of the 13 types");
    }
}

/* ---- and back ---- */

const uint8_t *pack_tile(int type, const uint8_t *stripe, int n_cols, int b)
{
    return stripe + pack_header_bytes(type, n_cols) + (size_t)operand_place(quant_n_blocks(n_cols), b) * (size_t)formats[type].tile_bytes;
}

static uint32_t get_word(const uint8_t *lines, int line, int r)
{
    return word_at(lines + (line * 2 + r / LANES) * 64, r % LANES);
}

/* The mask bits of values 16 h + 4 v .. + 3 of output r, one a byte. */
static uint32_t get_bits(const uint8_t *masks, int v, int h, int r)
{
    uint32_t bits = masks[((v * 2 + r / LANES) * 2 + h) * 8 + r % LANES / 2] >> r % 2 * 4 & 15;
    return bits * 0x00204081u & 0x01010101u; /* bit i moves to bit 8 i */
}

/* Values 16 h + 4 v .. + 3 of output r. */
static inline uint32_t get_values(const int bits, const int offset, const uint8_t *tile, int v, int h, int r)
{
    uint32_t stored;
    if (bits == 8) {
        return get_word(tile, 4 * h + v, r) ^ 0x80808080u;
    } else if (bits <= 3) {
        stored = get_word(tile, h, r) >> 2 * v & 0x03030303u;
        stored |= bits == 3 ? get_bits(tile + 256, v, h, r) << 2 : 0;
    } else {
        stored = get_word(tile, v, r) >> 4 * h & 0x0f0f0f0fu;
        stored |= bits == 5 ? get_bits(tile + 512, v, h, r) << 4 : 0;
        stored |= bits == 6 ? (get_word(tile + 512, h, r) >> 2 * v & 0x03030303u) << 4 : 0;
    }
    return ((stored | 0x80808080u) - 0x01010101u * (unsigned)offset) ^ 0x80808080u; /* no byte borrows from the next */
}

static inline void get_block(const int bits, const int offset, const uint8_t *tile, int r, int8_t *q)
{
    for (int i = 0; i < 8; i++) {
        uint32_t values = get_values(bits, offset, tile, i % 4, i / 4, r);
        memcpy(q + 4 * i, &values, sizeof values);
    }
}

static void get_subs(enum pack_scale s, const uint8_t *scales, int r, int h, int *scale_out, unsigned *min_out)
{
    *min_out = 0;
    if (s == PACK_K_HALVES) {
        *scale_out = (int8_t)scales[32 * h + r];
    } else if (s == PACK_K_HALVES_MIN) {
        *scale_out = scales[32 * h + r] & 15;
        *min_out = scales[32 * h + r] >> 4;
    } else if (s == PACK_K_HALVES6) {
        *scale_out = ((scales[r] >> 4 * h & 15) | (scales[32 + r % LANES] >> (r / LANES * 4 + 2 * h) & 3) << 4) - 32;
    } else {
        *scale_out = scales[r];
        *min_out = scales[32 + r];
    }
}

void pack_ask(int type, const uint8_t *stripe, int r, int n_cols)
{
    const struct pack_format *f = &formats[type];
    const uint8_t *tile = stripe + pack_header_bytes(type, n_cols);
    for (int b = 0; b < quant_n_blocks(n_cols); b++, tile += f->tile_bytes) {
        for (int at = r / LANES * 64; at < f->bits * 128; at += 128)
            __builtin_prefetch(tile + at);
        for (int at = f->bits * 128; at < f->tile_bytes; at += 64)
            __builtin_prefetch(tile + at);
    }
}

void pack_unpack(int type, const uint8_t *stripe, int r, int n_cols, int b, struct quant_w *w)
{
    const struct pack_format *f = &formats[type];
    const uint8_t *tile = pack_tile(type, stripe, n_cols, b);
    switch (f->bits) { /* a copy of the loop for each */
    case 2: get_block(2, f->offset, tile, r, w->q); break;
    case 3: get_block(3, f->offset, tile, r, w->q); break;
    case 4: get_block(4, f->offset, tile, r, w->q); break;
    case 5: get_block(5, f->offset, tile, r, w->q); break;
    case 6: get_block(6, f->offset, tile, r, w->q); break;
    case 8: get_block(8, f->offset, tile, r, w->q); break;
    default: assert(!"a quantised format has one of six widths");
    }
    const uint8_t *scales = tile + (size_t)f->bits * 128;
    w->scale[0] = w->scale[1] = 1;
    w->min[0] = w->min[1] = 0.0f;
    if (!has_header(f->scale)) {
        w->d = num_f32_from_f16(get_u16(scales + 2 * r));
        if (has_min(f->scale))
            w->min[0] = w->min[1] = num_f32_from_f16(get_u16(scales + 64 + 2 * r));
        return;
    }
    const uint8_t *header = stripe + (size_t)(b / 8) * 64;
    w->d = num_f32_from_f16(get_u16(header + 2 * r));
    float dmin = has_min(f->scale) ? num_f32_from_f16(get_u16(header + (size_t)(n_cols / 256) * 64 + 2 * r)) : 0.0f;
    for (int h = 0; h < 2; h++) {
        int scale;
        unsigned min;
        get_subs(f->scale, scales, r, h, &scale, &min);
        w->scale[h] = (int16_t)scale;
        if (has_min(f->scale))
            w->min[h] = -(dmin * (float)min);
    }
}

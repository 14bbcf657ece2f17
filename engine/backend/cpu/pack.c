/* pack.c: from the file's blocks to tiles and back; see pack.h for the layout.
 *
 * Both ways go through the meaning of a block (struct quant_w), one block at a time: loading takes a fraction of a second anyway, and there is one
 * place that knows the file's formats (quant.h) and one that knows the tiles (here). */
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

static void put_u16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

static uint16_t get_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- the quantised values of one output in a tile; each part writes or reads value k of lane r of half g ---- */

static void put_value(const struct pack_format *f, uint8_t *tile, int g, int r, int k, unsigned v)
{
    int i = k % 4, line = k / 4 % 4;
    if (f->bits == 8) {
        tile[((k / 4) * 2 + g) * 64 + 4 * r + i] = (uint8_t)v;
        return;
    }
    int bit = 4 * r + i;
    if (f->bits <= 3) {
        tile[((k / 16) * 2 + g) * 64 + bit] |= (uint8_t)((v & 3) << 2 * line);
        if (f->bits == 3)
            tile[256 + ((line * 2 + g) * 2 + k / 16) * 8 + bit / 8] |= (uint8_t)((v >> 2 & 1) << bit % 8);
        return;
    }
    uint8_t *nibble = &tile[(line * 2 + g) * 64 + 4 * r + i];
    *nibble = (uint8_t)(*nibble | (v & 15) << (k < 16 ? 0 : 4));
    if (f->bits == 5)
        tile[512 + ((line * 2 + g) * 2 + k / 16) * 8 + bit / 8] |= (uint8_t)((v >> 4 & 1) << bit % 8);
    if (f->bits == 6)
        tile[512 + ((k / 16) * 2 + g) * 64 + bit] |= (uint8_t)((v >> 4 & 3) << 2 * line);
}

static unsigned get_value(const struct pack_format *f, const uint8_t *tile, int g, int r, int k)
{
    int i = k % 4, line = k / 4 % 4, bit = 4 * r + i;
    if (f->bits == 8)
        return tile[((k / 4) * 2 + g) * 64 + bit];
    if (f->bits <= 3) {
        unsigned low = tile[((k / 16) * 2 + g) * 64 + bit] >> 2 * line & 3;
        return f->bits == 2 ? low : low | (unsigned)(tile[256 + ((line * 2 + g) * 2 + k / 16) * 8 + bit / 8] >> bit % 8 & 1) << 2;
    }
    unsigned v = tile[(line * 2 + g) * 64 + bit] >> (k < 16 ? 0 : 4) & 15;
    if (f->bits == 5)
        v |= (unsigned)(tile[512 + ((line * 2 + g) * 2 + k / 16) * 8 + bit / 8] >> bit % 8 & 1) << 4;
    if (f->bits == 6)
        v |= (unsigned)(tile[512 + ((k / 16) * 2 + g) * 64 + bit] >> 2 * line & 3) << 4;
    return v;
}

static size_t values_bytes(const struct pack_format *f)
{
    return (size_t)f->bits * 128;
}

/* ---- the integer sub-scales of one output in a tile, by half of the block ---- */

static void put_subs(enum pack_scale s, uint8_t *scales, int r, int h, int scale, unsigned min)
{
    if (s == PACK_K_HALVES) {
        scales[32 * h + r] = (uint8_t)scale;
    } else if (s == PACK_K_HALVES_MIN) {
        scales[32 * h + r] = (uint8_t)((unsigned)scale | min << 4);
    } else if (s == PACK_K_HALVES6) {
        unsigned v = (unsigned)(scale + 32);
        scales[r] |= (uint8_t)((v & 15) << 4 * h);
        scales[32 + r % LANES] |= (uint8_t)(v >> 4 << (r / LANES * 4 + 2 * h));
    } else if (h == 0) {
        scales[r] = (uint8_t)scale;
        scales[32 + r] = (uint8_t)min;
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

/* ---- stripes ---- */

/* The f16 scale and minimum as the file has them: d of the block for 32-value types, d and dmin of the superblock for K types. */
static void raw_scales(int type, const uint8_t *row, int b, uint16_t *d_out, uint16_t *min_out)
{
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    const uint8_t *p = row + (size_t)(n_values == 256 ? b / 8 : b) * (size_t)n_bytes;
    static const short d_at[TENSOR_TYPES] = {[TENSOR_Q2_K] = 80, [TENSOR_Q3_K] = 108, [TENSOR_Q6_K] = 208};
    static const short min_at[TENSOR_TYPES] = {[TENSOR_Q4_1] = 2, [TENSOR_Q5_1] = 2, [TENSOR_Q2_K] = 82, [TENSOR_Q4_K] = 2, [TENSOR_Q5_K] = 2};
    *d_out = quant_u16(p + d_at[type]);
    *min_out = quant_u16(p + min_at[type]);
}

/* The integer minimum of half h of a K block, as the file has it. */
static uint8_t raw_min(int type, const uint8_t *row, int b, int h)
{
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    const uint8_t *p = row + (size_t)(b / 8) * (size_t)n_bytes, *s = p + 4;
    int j = b % 8;
    if (type == TENSOR_Q2_K)
        return (uint8_t)(p[2 * j + h] >> 4);
    return (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
}

static void pack_block(int type, const uint8_t *row, int b, int r, int n_cols, uint8_t *stripe, uint8_t *tile)
{
    const struct pack_format *f = &formats[type];
    struct quant_w w;
    quant_unpack(type, row, b, &w);
    for (int k = 0; k < QUANT_BLOCK; k++)
        put_value(f, tile, r / LANES, r % LANES, k, (unsigned)(w.q[k] + f->offset));
    uint16_t d, min;
    raw_scales(type, row, b, &d, &min);
    uint8_t *scales = tile + values_bytes(f);
    if (!has_header(f->scale)) {
        put_u16(scales + 2 * r, d);
        if (has_min(f->scale))
            put_u16(scales + 64 + 2 * r, min);
        return;
    }
    uint8_t *header = stripe + (size_t)(b / 8) * 64;
    put_u16(header + 2 * r, d);
    if (has_min(f->scale))
        put_u16(header + (size_t)(n_cols / 256) * 64 + 2 * r, min);
    for (int h = 0; h < 2; h++)
        put_subs(f->scale, scales, r, h, w.scale[h], has_min(f->scale) ? raw_min(type, row, b, h) : 0);
}

static void pack_float_block(int type, const uint8_t *row, int b, int r, int n_cols, uint8_t *tile)
{
    size_t elem = type == TENSOR_F32 ? 4 : 2;
    for (int k = 0; k < QUANT_BLOCK && b * QUANT_BLOCK + k < n_cols; k++)
        memcpy(tile + ((size_t)k * CPU_STRIPE + (size_t)r) * elem, row + (size_t)(b * QUANT_BLOCK + k) * elem, elem);
}

void pack_stripe(int type, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out)
{
    assert(n_rows <= CPU_STRIPE);
    size_t row_bytes = quant_row_bytes(type, n_cols), header = pack_header_bytes(type, n_cols);
    int n_blocks = quant_n_blocks(n_cols);
    for (int r = 0; r < n_rows; r++) {
        const uint8_t *row = rows + (size_t)r * row_bytes;
        for (int b = 0; b < n_blocks; b++) {
            uint8_t *tile = out + header + (size_t)operand_place(n_blocks, b) * (size_t)formats[type].tile_bytes;
            if (quant_is_float(type))
                pack_float_block(type, row, b, r, n_cols, tile);
            else
                pack_block(type, row, b, r, n_cols, out, tile);
        }
    }
}

/* ---- and back ---- */

/* Rebuilds the meaning of block b of output r. */
static void unpack_block(int type, const uint8_t *stripe, const uint8_t *tile, int b, int r, int n_cols, struct quant_w *w)
{
    const struct pack_format *f = &formats[type];
    for (int k = 0; k < QUANT_BLOCK; k++)
        w->q[k] = (int8_t)((int)get_value(f, tile, r / LANES, r % LANES, k) - f->offset);
    const uint8_t *scales = tile + values_bytes(f);
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

void pack_dequantise_row(int type, const uint8_t *stripe, int row, int n_cols, float *out)
{
    const uint8_t *tiles = stripe + pack_header_bytes(type, n_cols);
    int n_blocks = quant_n_blocks(n_cols);
    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *tile = tiles + (size_t)operand_place(n_blocks, b) * (size_t)formats[type].tile_bytes;
        int n = n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
        struct quant_w w = {0};
        if (!quant_is_float(type))
            unpack_block(type, stripe, tile, b, row, n_cols, &w);
        for (int k = 0; k < n; k++) {
            size_t at = (size_t)k * CPU_STRIPE + (size_t)row, i = (size_t)b * QUANT_BLOCK + (size_t)k;
            if (type == TENSOR_F32)
                memcpy(&out[i], tile + 4 * at, 4);
            else if (type == TENSOR_F16)
                out[i] = num_f32_from_f16(get_u16(tile + 2 * at));
            else if (type == TENSOR_BF16)
                out[i] = num_f32_from_bf16(get_u16(tile + 2 * at));
            else
                out[i] = quant_w_value(&w, k);
        }
    }
}

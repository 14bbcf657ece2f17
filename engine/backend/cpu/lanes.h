/* lanes.h: the loops of a step that need no intrinsics. Each kernels_<isa>.c includes this and compiles it with its own flags: the operations and
 * their order are written out, so a compiler can only choose how many lanes do them at once, never the bits.
 *
 * Attention of one query row q over the visible positions first..last (all earlier ones, or a window of them), scale given:
 *
 *   positions are cut into chunks of 64 from position 0; chunks without a visible position are skipped; in each chunk, for visible positions t:
 *     s[t] = scale * chain,  chain = fma(k[t][d], q[d], chain) for d = 0, 1, ...   from 0, f16 widened to f32
 *     m    = max s[t]
 *     p[t] = exp(s[t] - m)                                                      0 for t not visible
 *     l    = fold64(p)                                                          lane t mod 64
 *     o[d] = fma(v[t][d], p[t], o[d])            for t ascending, visible only  from 0
 *   chunks are merged in ascending order; the first one is taken as it is (M, L, O), then for each
 *     M' = max(M, m),  a = exp(M - M'),  b = exp(m - M')
 *     L  = fma(l, b, L * a),  O[d] = fma(o[d], b, O[d] * a),  M = M'
 *   result[d] = O[d] * (1 / L)
 *
 * Nothing of it depends on other rows, on heads computed together or on threads. Positions that are not visible are never multiplied, not even by 0:
 * a page may hold anything beyond its written length. */
#ifndef NEXTD_CPU_LANES_H
#define NEXTD_CPU_LANES_H

#include <assert.h>

#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/pack.h"

/* out = (x * factor) * w. */
static inline void lanes_norm(const float *restrict x, const float *restrict w, int n, float eps, float *restrict out)
{
    _Alignas(64) float lanes[64] = {0};
    int i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j++)
            lanes[j] = fmaf(x[i + j], x[i + j], lanes[j]);
    for (; i < n; i++)
        lanes[i % 64] = fmaf(x[i], x[i], lanes[i % 64]);
    float factor = 1.0f / sqrtf(num_fold64(lanes) / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] = (x[i] * factor) * w[i];
}

/* One block of 32 at index `at` of an operand. */
static inline int lanes_quantise_block(const float *restrict x, struct operand *o, size_t at)
{
    struct quant_x q;
    int rc = quant_quantise(x, &q);
    memcpy(o->q + at * QUANT_BLOCK, q.q, QUANT_BLOCK);
    o->d[at] = q.d;
    o->s[at] = q.d * (float)(q.sum[0] + q.sum[1]);
    o->start[at] = QUANT_MAGIC_BITS - 128 * (q.sum[0] + q.sum[1]);
    o->half[0][at] = QUANT_MAGIC_BITS - 32 * q.sum[0];
    o->half[1][at] = QUANT_MAGIC_BITS - 32 * q.sum[1];
    return rc;
}

static inline bool lanes_finite(const float x[QUANT_BLOCK])
{
    uint32_t max_bits = 0;
    for (int k = 0; k < QUANT_BLOCK; k++) {
        uint32_t bits = num_bits_from_f32(x[k]) & 0x7fffffffu;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    return max_bits < 0x7f800000u;
}

/* x holds n_blocks blocks from first_block on; the operand's last block may be short. */
static inline int lanes_quantise_row(const float *x, struct operand *o, int row, int first_block, int n_blocks, int needs)
{
    int rc = 0;
    for (int b = first_block; b < first_block + n_blocks; b++, x += QUANT_BLOCK) {
        float padded[QUANT_BLOCK] = {0};
        const float *block = x;
        int n = o->n_cols - b * QUANT_BLOCK;
        if (n < QUANT_BLOCK) {
            memcpy(padded, x, (size_t)n * sizeof *x);
            block = padded;
        }
        size_t at = operand_at(o, b, row);
        if (needs & NEEDS_Q) {
            if (lanes_quantise_block(block, o, at) != 0)
                rc = -1;
        } else if (!lanes_finite(block)) {
            rc = -1;
        }
        if (needs & NEEDS_F)
            memcpy(o->f + at * QUANT_BLOCK, block, QUANT_BLOCK * sizeof *block);
    }
    return rc;
}

static inline int lanes_quantise(const float *x, size_t ld, struct operand *o, int row, int n_rows, int first_block, int n_blocks, int needs)
{
    int rc = 0;
    for (int r = 0; r < n_rows; r++)
        if (lanes_quantise_row(x + (size_t)r * ld, o, row + r, first_block, n_blocks, needs) != 0)
            rc = -1;
    return rc;
}

static inline void lanes_add_row(float *restrict x, const float *restrict y, int n)
{
    for (int i = 0; i < n; i++)
        x[i] += y[i];
}

static inline void lanes_add(float *x, size_t ldx, const float *y, size_t ldy, int n, int n_rows)
{
    for (int r = 0; r < n_rows; r++, x += ldx, y += ldy) {
        if (n == CPU_STRIPE) /* a loop of known length */
            lanes_add_row(x, y, CPU_STRIPE);
        else
            lanes_add_row(x, y, n);
    }
}

static inline void lanes_angles(const double *restrict freq, int n, int pos, float *restrict cs_out)
{
    for (int i = 0; i < n; i++) {
        double sine, cosine;
        num_sincos((double)pos * freq[i], &sine, &cosine);
        cs_out[2 * i] = (float)cosine;
        cs_out[2 * i + 1] = (float)sine;
    }
}

/* Rotates the first rope_dims values of a head in place: (a, b) -> (a c - b s, b c + a s), each with one fma. */
static inline void lanes_rotate(float *restrict x, int rope_dims, bool neox, const float *restrict cs)
{
    int half = rope_dims / 2;
    if (neox) {
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half], c = cs[2 * i], s = cs[2 * i + 1];
            x[i] = fmaf(a, c, -(b * s));
            x[i + half] = fmaf(b, c, a * s);
        }
        return;
    }
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], c = cs[2 * i], s = cs[2 * i + 1];
        x[2 * i] = fmaf(a, c, -(b * s));
        x[2 * i + 1] = fmaf(b, c, a * s);
    }
}

/* quant_dequantise_row of the row that was packed. */
static inline void lanes_dequantise(const struct stripe *s, int row, int n_cols, float *restrict out)
{
    if (!quant_is_float(s->type))
        pack_ask(s->type, s->w, row, n_cols);
    for (int b = 0; b < quant_n_blocks(n_cols); b++, out += QUANT_BLOCK) {
        int n = n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
        if (quant_is_float(s->type)) {
            int bytes = s->type == TENSOR_F32 ? 4 : 2;
            const uint8_t *tile = pack_tile(s->type, s->w, n_cols, b) + row * bytes;
            for (int k = 0; k < n; k++, tile += CPU_STRIPE * bytes)
                if (s->type == TENSOR_F32)
                    memcpy(&out[k], tile, sizeof *out);
                else
                    out[k] = s->type == TENSOR_F16 ? quant_f16(tile) : num_f32_from_bf16(quant_u16(tile));
            continue;
        }
        struct quant_w w;
        pack_unpack(s->type, s->w, row, n_cols, b, &w);
        for (int k = 0; k < QUANT_BLOCK / 2; k++) /* by halves: their scales and minima do not change within */
            out[k] = quant_w_value(&w, k);
        for (int k = QUANT_BLOCK / 2; k < QUANT_BLOCK; k++)
            out[k] = quant_w_value(&w, k);
    }
}

static inline void lanes_to_f16(const float *restrict x, int n, uint16_t *restrict out)
{
    for (int i = 0; i < n; i++)
        out[i] = num_f16_from_f32(x[i]);
}

static inline float lanes_max(const float *x, int n)
{
    float max = x[0];
    bool nan = false;
    for (int i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        nan |= x[i] != x[i];
    }
    return nan ? NAN : max;
}

/* Merges a chunk (m, l, o) into the running (M, L, O); see the top. */
static inline void lanes_attend_merge(float m, float l, const float *restrict o, int head_dim, float *m_run, float *l_run, float *restrict o_run)
{
    float top = m > *m_run ? m : *m_run, a = num_exp_f32(*m_run - top), b = num_exp_f32(m - top);
    *l_run = fmaf(l, b, *l_run * a);
    for (int d = 0; d < head_dim; d++)
        o_run[d] = fmaf(o[d], b, o_run[d] * a);
    *m_run = top;
}

/* n partials of a head (cpu.h), ascending, to its result. */
static inline void lanes_attend_finish(const float *partials, int n, int head_dim, int v_stride, float *restrict out)
{
    float m_run = partials[v_stride], l_run = partials[v_stride + 1];
    memcpy(out, partials, (size_t)head_dim * sizeof *out);
    for (int i = 1; i < n; i++) {
        const float *p = partials + (size_t)i * partial_floats(v_stride);
        lanes_attend_merge(p[v_stride], p[v_stride + 1], p, head_dim, &m_run, &l_run, out);
    }
    float inverse = 1.0f / l_run;
    for (int d = 0; d < head_dim; d++)
        out[d] *= inverse;
}

#endif

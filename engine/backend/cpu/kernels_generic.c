/* kernels_generic.c: the CPU backend in plain C: the executable specification.
 *
 * Weights stay in the rows and blocks of the file; every product goes through quant.h, every function through numerics.h. The other tables are
 * compared with this one bit by bit. It runs wherever C does, slowly. */
#include "engine/backend/cpu/lanes.h"

static bool always(void)
{
    return true;
}

/* One output for the rows r0 .. r1-1: 8 slots per row. */
static void gemm_row(int type, const uint8_t *row, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld)
{
    float slots[CPU_ITEM_ROWS][QUANT_SLOTS] = {{0}};
    assert(r1 - r0 <= CPU_ITEM_ROWS);
    for (int b = 0; b < x->n_blocks; b++) {
        size_t at = operand_at(x, b, r0);
        if (quant_is_float(type)) {
            float w[QUANT_BLOCK];
            quant_unpack_float(type, row, n_cols, b, w);
            for (int r = r0; r < r1; r++, at++)
                slots[r - r0][b % QUANT_SLOTS] = quant_mac_float(w, x->f + at * QUANT_BLOCK, slots[r - r0][b % QUANT_SLOTS]);
            continue;
        }
        struct quant_w w;
        quant_unpack(type, row, b, &w);
        for (int r = r0; r < r1; r++, at++) {
            struct quant_x xq = {.sum = {operand_sum(x, 0, at), operand_sum(x, 1, at)}, .d = x->d[at]};
            memcpy(xq.q, x->q + at * QUANT_BLOCK, QUANT_BLOCK);
            slots[r - r0][b % QUANT_SLOTS] = quant_mac(&w, &xq, slots[r - r0][b % QUANT_SLOTS]);
        }
    }
    for (int r = r0; r < r1; r++)
        out[(size_t)(r - r0) * ld] = quant_fold(slots[r - r0]);
}

static void generic_gemm(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead)
{
    (void)ahead;
    size_t row_bytes = quant_row_bytes(s->type, n_cols);
    for (int i = 0; i < CPU_STRIPE; i++) {
        if (i < s->n)
            gemm_row(s->type, s->w + (size_t)i * row_bytes, n_cols, x, r0, r1, out + i, ld);
        else
            for (int r = r0; r < r1; r++)
                out[(size_t)(r - r0) * ld + (size_t)i] = 0.0f;
    }
}

static void generic_norm(const float *x, const float *w, int n, float eps, float *out)
{
    float factor = num_rms_factor(x, n, eps);
    for (int i = 0; i < n; i++)
        out[i] = (x[i] * factor) * w[i];
}

static void generic_activate(enum activation act, float *gate, const float *up, int n)
{
    for (int i = 0; i < n; i++)
        gate[i] = (act == ACT_SILU ? num_silu(gate[i]) : num_gelu_tanh(gate[i])) * up[i];
}

static void generic_dequantise(const struct stripe *s, int row, int n_cols, float *out)
{
    quant_dequantise_row(s->type, s->w + (size_t)row * quant_row_bytes(s->type, n_cols), n_cols, out);
}

static int generic_max_columns(const float *x, size_t ld, int n_rows, float *most, bool first)
{
    bool finite = true;
    for (int i = 0; i < n_rows * CPU_STRIPE; i++) {
        float v = x[(size_t)(i / CPU_STRIPE) * ld + (size_t)(i % CPU_STRIPE)];
        most[i] = first || v > most[i] ? v : most[i];
        finite &= v - v == 0.0f;
    }
    return finite ? 0 : -1;
}

static void generic_put_far(const float *tile, int n_rows, float *to, size_t ld)
{
    for (int r = 0; r < n_rows; r++)
        memcpy(to + (size_t)r * ld, tile + r * CPU_STRIPE, CPU_STRIPE * sizeof *to);
}

static void generic_end_far(void)
{
}

/* One head over one chunk whose visible positions are lo..hi (0..63): its max, sum and values. */
static void attend_chunk(const struct attend_job *j, const float *q, const struct kv_page *page, int lo, int hi, float *m_out, float *l_out, float *o)
{
    float p[KV_PAGE] = {0}, m = -INFINITY;
    for (int t = lo; t <= hi; t++) {
        float chain = 0.0f;
        const uint16_t *k = page->k + kv_key(t, j->head_dim);
        for (int d = 0; d < j->head_dim; d++)
            chain = fmaf(num_f32_from_f16(k[d * CPU_KEYS]), q[d], chain);
        p[t] = j->scale * chain;
        m = p[t] > m ? p[t] : m;
    }
    for (int d = 0; d < j->head_dim; d++)
        o[d] = 0.0f;
    for (int t = lo; t <= hi; t++) {
        p[t] = num_exp_f32(p[t] - m);
        for (int d = 0; d < j->head_dim; d++)
            o[d] = fmaf(num_f32_from_f16(page->v[(size_t)t * (size_t)j->v_stride + (size_t)d]), p[t], o[d]);
    }
    *m_out = m;
    *l_out = num_fold64(p);
}

/* Chunk c of one head of row i, into a partial. */
static void attend_partial(const struct attend_job *j, int i, int c, const float *q, float *partial)
{
    int first = attend_first(j, i), last = j->pos + i;
    uint16_t *kv = j->layer_kv + (size_t)j->pages[c] * j->page_elems;
    struct kv_page page = {kv, kv + (size_t)j->head_dim * KV_PAGE};
    int lo = first > c * KV_PAGE ? first - c * KV_PAGE : 0;
    int hi = last < c * KV_PAGE + KV_PAGE - 1 ? last - c * KV_PAGE : KV_PAGE - 1;
    attend_chunk(j, q, &page, lo, hi, &partial[j->v_stride], &partial[j->v_stride + 1], partial);
}

/* One head of row i, all its chunks. */
static void attend_query(const struct attend_job *j, int i, const float *q, float *scratch, float *out)
{
    int c0 = attend_first(j, i) / KV_PAGE;
    float m_run = 0.0f, l_run = 0.0f;
    for (int c = c0; c <= (j->pos + i) / KV_PAGE; c++) {
        attend_partial(j, i, c, q, scratch);
        float m = scratch[j->v_stride], l = scratch[j->v_stride + 1];
        if (c > c0) {
            lanes_attend_merge(m, l, scratch, j->head_dim, &m_run, &l_run, out);
            continue;
        }
        m_run = m;
        l_run = l;
        memcpy(out, scratch, (size_t)j->head_dim * sizeof *out);
    }
    float inverse = 1.0f / l_run;
    for (int d = 0; d < j->head_dim; d++)
        out[d] *= inverse;
}

static void generic_attend(const struct attend_job *j, float *scratch)
{
    for (int h = 0; h < j->n_heads; h++) {
        const float *q = j->q + (size_t)h * (size_t)j->head_dim;
        float *out = j->out + (size_t)h * (size_t)j->head_dim;
        for (int i = 0; i < j->n_rows && j->partials == NULL; i++)
            attend_query(j, i, q + (size_t)i * j->q_stride, scratch, out + (size_t)i * j->out_stride);
        for (int c = j->chunk_first; c <= j->chunk_last && j->partials != NULL; c++) {
            size_t at = (size_t)(c - attend_first(j, 0) / KV_PAGE) * partial_floats(j->v_stride);
            attend_partial(j, 0, c, q, j->partials + (size_t)h * j->partials_stride + at);
        }
    }
}

static void generic_attend_merge(const float *partials, int n, int head_dim, int v_stride, float *out)
{
    lanes_attend_finish(partials, n, head_dim, v_stride, out);
}

const struct cpu_kernels cpu_kernels_generic = {
    .name = "cpu:generic",
    .supported = always,
    .tiled = false,
    .gemm = generic_gemm,
    .quantise = lanes_quantise,
    .norm = generic_norm,
    .activate = generic_activate,
    .add = lanes_add,
    .angles = lanes_angles,
    .rotate = lanes_rotate,
    .dequantise = generic_dequantise,
    .to_f16 = lanes_to_f16,
    .attend = generic_attend,
    .attend_merge = generic_attend_merge,
    .max = lanes_max,
    .max_columns = generic_max_columns,
    .put_far = generic_put_far,
    .end_far = generic_end_far,
};

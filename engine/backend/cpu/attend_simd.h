/* attend_simd.h: attention over the KV pages, once for all widths; include after simd_<isa>.h. The formula is in lanes.h.
 *
 * Up to VF_QUERIES queries (heads that share a kv head, of one or more consecutive rows) pass over a page together, so that each f16 line is widened
 * once for all:
 *
 *   scores   a lane is a key: K lies transposed, [d][64]; per d two vectors of keys times each query's broadcast q[d]
 *   values   a lane is a dimension: V lies [64][d]; per key VF_LINES vectors of dimensions times each query's broadcast p[t]
 *
 * Queries of one pass may see different ranges of a chunk (the diagonal, a window's edge). Score lanes that a query does not see are selected
 * away. Values must not be touched there, so a chunk's keys are walked in up to three stretches: those that only the earlier queries see, those
 * that all see (together), those that only the later ones see (alone again); per query the order is ascending all the same. */
#ifndef NEXTD_CPU_ATTEND_SIMD_H
#define NEXTD_CPU_ATTEND_SIMD_H

#include "engine/backend/cpu/simd_rows.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* The queries of one pass and their running results. */
struct queries {
    int n;
    const float *q[VF_QUERIES];
    float *out[VF_QUERIES];
    float *partial[VF_QUERIES];                /* where its first chunk's partial belongs, or NULL */
    int first[VF_QUERIES], last[VF_QUERIES]; /* visible positions */
    int lo[VF_QUERIES], hi[VF_QUERIES];      /* visible keys of the current chunk; lo > hi: none */
    bool started[VF_QUERIES];
    float m[VF_QUERIES], l[VF_QUERIES];       /* running */
    float *p;                                   /* [n][64] scores, then weights */
    float *o, *run;                             /* [n][v_stride] of the chunk, running */
};

/* Asks for `lines` lines from line `at` on. */
ALWAYS_INLINE void ask_for(const uint16_t *p, int at, int lines)
{
    for (int i = 0; i < lines; i++)
        __builtin_prefetch((const char *)p + (size_t)(at + i) * 64);
}

/* Raw q.k of keys 0 .. n_keys - 1 (a multiple of two vectors), for n queries. Asks for the page's V meanwhile. */
ALWAYS_INLINE void dots(const int n, const struct queries *s, const uint16_t *k, int head_dim, int n_keys, const uint16_t *v)
{
    for (int key = 0; key < n_keys; key += 2 * VF_LANES) {
        vf acc[VF_QUERIES][2];
        UNROLL for (int i = 0; i < n; i++)
            acc[i][0] = acc[i][1] = vf_set1(0.0f);
        const uint16_t *line = k + key;
        for (int d = 0; d < head_dim; d++, line += KV_PAGE) {
            if (key == 0)
                ask_for(v, 2 * d, 2);
            vf k0 = vf_load_f16(line), k1 = vf_load_f16(line + VF_LANES);
            UNROLL for (int i = 0; i < n; i++) {
                vf a = vf_set1(s->q[i][d]);
                acc[i][0] = vf_fma(k0, a, acc[i][0]);
                acc[i][1] = vf_fma(k1, a, acc[i][1]);
            }
        }
        UNROLL for (int i = 0; i < n; i++) {
            vf_store(s->p + 64 * i + key, acc[i][0]);
            vf_store(s->p + 64 * i + key + VF_LANES, acc[i][1]);
        }
    }
}

/* Query i: scores to weights, in place; the chunk's max and sum. What the query does not see becomes -infinity, whose weight is +0. */
ALWAYS_INLINE void weigh(struct queries *s, int i, float scale, float *m_out, float *l_out)
{
    float *p = s->p + 64 * i;
    vf v[FOLD_VECTORS], max = vf_set1(-INFINITY);
    UNROLL for (int g = 0; g < FOLD_VECTORS; g++)
        vf_store(p + VF_LANES * g, vf_mul(vf_set1(scale), vf_load(p + VF_LANES * g)));
    for (int t = 0; t < s->lo[i]; t++)
        p[t] = -INFINITY;
    for (int t = s->hi[i] + 1; t < KV_PAGE; t++)
        p[t] = -INFINITY;
    UNROLL for (int g = 0; g < FOLD_VECTORS; g++)
        max = vf_max(max, vf_load(p + VF_LANES * g));
    float m = vf_reduce_max(max);
    UNROLL for (int g = 0; g < FOLD_VECTORS; g++) {
        v[g] = vf_exp(vf_sub(vf_load(p + VF_LANES * g), vf_set1(m)));
        vf_store(p + VF_LANES * g, v[g]);
    }
    *m_out = m;
    *l_out = vf_fold64(v);
}

/* Adds keys lo..hi to the values of queries i0 .. i0+n-1, `lines` vectors of dimensions from dimension d on. */
ALWAYS_INLINE void add_values(const int n, const int lines, struct queries *s, int i0, const uint16_t *v, int v_stride, int d, int lo, int hi,
                              const uint16_t *next)
{
    vf acc[VF_QUERIES][VF_LINES];
    float *o = s->o + (size_t)i0 * (size_t)v_stride + d;
    const float *p = s->p + 64 * i0;
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            acc[i][g] = vf_load(o + i * v_stride + VF_LANES * g);
    const int lines_ahead = v_stride * 2 / KV_PAGE; /* a key's share of the next page's K */
    const uint16_t *line = v + (size_t)lo * (size_t)v_stride + d;
    for (int t = lo; t <= hi; t++, line += v_stride) {
        vf x[VF_LINES];
        if (next != NULL)
            ask_for(next, t * lines_ahead, lines_ahead);
        UNROLL for (int g = 0; g < lines; g++)
            x[g] = vf_load_f16(line + VF_LANES * g);
        UNROLL for (int i = 0; i < n; i++) {
            vf a = vf_set1(p[64 * i + t]);
            UNROLL for (int g = 0; g < lines; g++)
                acc[i][g] = vf_fma(x[g], a, acc[i][g]);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            vf_store(o + i * v_stride + VF_LANES * g, acc[i][g]);
}

ALWAYS_INLINE void add_stretch(const int n, struct queries *s, int i0, const uint16_t *v, int v_stride, int lo, int hi,
                               const uint16_t *next)
{
    if (lo > hi)
        return;
    int d = 0;
    for (; d + VF_LINES * VF_LANES <= v_stride; d += VF_LINES * VF_LANES)
        add_values(n, VF_LINES, s, i0, v, v_stride, d, lo, hi, d == 0 ? next : NULL);
    for (; d < v_stride; d += VF_LANES)
        add_values(n, 1, s, i0, v, v_stride, d, lo, hi, NULL);
}

/* The values of a chunk, in stretches; see the top. `next`: the K that will be read after, asked for meanwhile. */
ALWAYS_INLINE void chunk_values(const int n, struct queries *s, const uint16_t *v, int v_stride, const uint16_t *next)
{
    int from = 0, to = KV_PAGE - 1;
    for (int i = 0; i < n; i++) {
        from = s->lo[i] > from ? s->lo[i] : from;
        to = s->hi[i] < to ? s->hi[i] : to;
    }
    memset(s->o, 0, (size_t)n * (size_t)v_stride * sizeof *s->o);
    if (from > to) {
        for (int i = 0; i < n; i++)
            add_stretch(1, s, i, v, v_stride, s->lo[i], s->hi[i], NULL);
        return;
    }
    for (int i = 0; i < n; i++)
        add_stretch(1, s, i, v, v_stride, s->lo[i], from - 1, NULL);
    add_stretch(n, s, 0, v, v_stride, from, to, next);
    for (int i = 0; i < n; i++)
        add_stretch(1, s, i, v, v_stride, to + 1, s->hi[i], NULL);
}

/* Chunk number `chunk` of those that query i sees is done: it becomes a partial or joins the running result. */
static void merge(struct queries *s, int i, int chunk, float m, float l, int v_stride)
{
    float *o = s->o + (size_t)i * (size_t)v_stride, *run = s->run + (size_t)i * (size_t)v_stride;
    if (s->partial[i] != NULL) {
        float *p = s->partial[i] + (size_t)chunk * partial_floats(v_stride);
        memcpy(p, o, (size_t)v_stride * sizeof *o);
        p[v_stride] = m;
        p[v_stride + 1] = l;
        return;
    }
    if (!s->started[i]) {
        s->started[i] = true;
        s->m[i] = m;
        s->l[i] = l;
        memcpy(run, o, (size_t)v_stride * sizeof *o);
        return;
    }
    lanes_attend_merge(m, l, o, v_stride, &s->m[i], &s->l[i], run);
}

/* The K that will be read after chunk c: the next chunk's, or, most likely, the next kv head's first. Asked for only; it need not exist. */
static inline const uint16_t *read_next(const struct attend_job *j, int c, int first, int last)
{
    if (c < last / KV_PAGE)
        return j->layer_kv + (size_t)j->pages[c + 1] * j->page_elems;
    return j->layer_kv + (size_t)j->pages[first / KV_PAGE] * j->page_elems + (size_t)KV_PAGE * (size_t)(j->head_dim + j->v_stride);
}

/* n queries over all their chunks. */
ALWAYS_INLINE void pass(const int n, struct queries *s, const struct attend_job *j)
{
    int first = s->first[0], last = s->last[0];
    for (int i = 0; i < n; i++) {
        first = s->first[i] < first ? s->first[i] : first;
        last = s->last[i] > last ? s->last[i] : last;
        s->started[i] = false;
    }
    bool parts = j->partials != NULL;
    for (int c = parts ? j->chunk_first : first / KV_PAGE; c <= (parts ? j->chunk_last : last / KV_PAGE); c++) {
        const uint16_t *k = j->layer_kv + (size_t)j->pages[c] * j->page_elems, *v = k + (size_t)j->head_dim * KV_PAGE;
        int most = 0;
        for (int i = 0; i < n; i++) {
            s->lo[i] = s->first[i] > c * KV_PAGE ? s->first[i] - c * KV_PAGE : 0;
            s->hi[i] = s->last[i] < c * KV_PAGE + KV_PAGE - 1 ? s->last[i] - c * KV_PAGE : KV_PAGE - 1;
            most = s->hi[i] > most ? s->hi[i] : most;
        }
        int unit = 2 * VF_LANES, n_keys = (most + unit) / unit * unit; /* beyond: no query looks */
        dots(n, s, k, j->head_dim, n_keys, v);
        float m[VF_QUERIES] = {0}, l[VF_QUERIES] = {0};
        for (int i = 0; i < n; i++)
            if (s->lo[i] <= s->hi[i])
                weigh(s, i, j->scale, &m[i], &l[i]);
        chunk_values(n, s, v, j->v_stride, read_next(j, c, first, last));
        for (int i = 0; i < n; i++)
            if (s->lo[i] <= s->hi[i])
                merge(s, i, c - s->first[i] / KV_PAGE, m[i], l[i], j->v_stride);
    }
    for (int i = 0; i < n && !parts; i++) {
        float inverse = 1.0f / s->l[i];
        for (int d = 0; d < j->head_dim; d++)
            s->out[i][d] = s->run[(size_t)i * (size_t)j->v_stride + (size_t)d] * inverse;
    }
}

static void pass_any(struct queries *s, const struct attend_job *j)
{
    switch (s->n) {
    case 1: pass(1, s, j); break;
    case 2: pass(2, s, j); break;
    case 3: pass(3, s, j); break;
#if VF_QUERIES > 3
    case 4: pass(4, s, j); break;
    case 5: pass(5, s, j); break;
    case 6: pass(6, s, j); break;
#endif
    default: assert(!"a pass has 1 to VF_QUERIES queries");
    }
}

static void simd_attend(const struct attend_job *j, float *scratch)
{
    int total = j->n_rows * j->n_heads, n_passes = (total + VF_QUERIES - 1) / VF_QUERIES, at = 0;
    struct queries s;
    s.p = scratch;
    s.o = s.p + VF_QUERIES * KV_PAGE;
    s.run = s.o + VF_QUERIES * j->v_stride;
    for (int pass_idx = 0; pass_idx < n_passes; pass_idx++) {
        s.n = (total + n_passes - 1 - pass_idx) / n_passes;
        for (int i = 0; i < s.n; i++, at++) {
            int row = at / j->n_heads, head = at % j->n_heads;
            s.q[i] = j->q + (size_t)row * j->q_stride + (size_t)head * (size_t)j->head_dim;
            s.out[i] = j->out + (size_t)row * j->out_stride + (size_t)head * (size_t)j->head_dim;
            s.first[i] = attend_first(j, row);
            s.last[i] = j->pos + row;
            s.partial[i] = j->partials == NULL ? NULL : j->partials + (size_t)head * j->partials_stride;
        }
        pass_any(&s, j);
    }
}

#endif

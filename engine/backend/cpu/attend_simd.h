/* attend_simd.h: attention over the KV pages, once for all widths; include after simd_<isa>.h. The formula is in lanes.h.
 *
 * Up to CPU_QUERIES queries (heads that share a kv head, of one or more consecutive rows) walk over the pages together, chunk by chunk, in tiles of
 * up to VF_QUERIES whose sums stay in registers, so that each line of a page is loaded once for a tile and comes from the first-level cache for all
 * tiles but one:
 *
 *   scores   a lane is a key: K lies transposed in groups of 16 keys, [4][d][16]; per d the groups' keys times each query's broadcast q[d]
 *   weights  exponentials, keys in lanes
 *   values   a lane is a dimension: V lies [64][d]; per key VF_LINES vectors of dimensions times each query's broadcast p[t]
 *   merge    the scalars of all queries of the tile in lanes
 *
 * Widening f16 shares the ports of multiplication, so where WIDE_TILES tiles or more share a page it is widened once, into scratch: 12 % for heads of
 * 64, nothing for heads of 256, whose page in f32 leaves the first-level cache.
 *
 * Queries of one tile may see different ranges of a chunk (the diagonal, a window's edge). Score lanes that a query does not see are selected
 * away. Values must not be touched there, so a chunk's keys are walked in up to three stretches: those that only the earlier queries see, those
 * that all see (together), those that only the later ones see (alone again); per query the order is ascending all the same.
 *
 * Pages of many sequences come from memory, 16 KiB here and 16 KiB there, and each break costs the processor's own read-ahead its stride. So while a
 * page is computed, the one that follows is asked for, across jobs, line for line, into the second-level cache; a last page of few keys asks at its
 * end for the values that they left out. Against asking for lines into the first-level cache 3 KiB before their use that is 1.15 times as fast at 32
 * streams of 161 positions. Requests of a processor are few at a time, though, and its own read-ahead is not among them. Pages of heads of 256
 * (64 KiB) are long enough for it: there K comes by read-ahead while its loop asks for V, and V's loop asks for the first half of the next K, 1.06
 * times as fast (heads of 64: 0.97). Into the first-level cache: 1.0. Both caches, the second request 1 KiB ahead: the same as one. Every other line:
 * 0.75. A quarter of K at a time, in the order of memory, with or without requests: slower. A loop that only reads the pages takes 0.9 of the time.
 *
 * Tried and no better: 24 queries to a walk (prompts 0.92, K and V are widened more often) or 96 (the same, 0.97 for heads of 256); scores kept in
 * registers from their scaling to their sum (prompts 0.9); sums after all exponentials, or after the values (within 2 %).
 * Requantising an item's heads inside of it, not in a pass over rows, was 5 % slower: rows lie close in the operand, and threads share lines. */
#ifndef NEXTD_CPU_ATTEND_SIMD_H
#define NEXTD_CPU_ATTEND_SIMD_H

#include "engine/backend/cpu/simd_rows.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define GROUP_VECTORS (CPU_KEYS / VF_LANES)    /* vectors of a group's keys */
#define GROUPS_AT_ONCE (VF_LANES == 16 ? 4 : 1) /* groups whose sums are computed together */
#define ASK_BYTES (2 * CPU_KEYS * GROUPS_AT_ONCE) /* of the next K, per dimension */
#define WIDE_TILES 3
#define WIDE_DIM 128

/* The queries of a job and their running results. */
struct queries {
    int n;
    const float *q[CPU_QUERIES];
    float *out[CPU_QUERIES];
    float *partial[CPU_QUERIES];                 /* where its first chunk's partial belongs, or NULL */
    int first[CPU_QUERIES], last[CPU_QUERIES];   /* visible positions */
    bool started[CPU_QUERIES];
    float m[CPU_QUERIES + VF_LANES], l[CPU_QUERIES + VF_LANES]; /* running */
    float *run;                                  /* [n][v_stride] */
    float *p, *o;                                /* of a tile: [n][64] scores, then weights; [n][v_stride] values of the chunk */
    float *wide_k, *wide_v;                      /* a page in f32 */
};

/* Queries at, at + 1, ... of a job at a chunk. */
struct tile {
    int at;
    int lo[VF_QUERIES], hi[VF_QUERIES];          /* visible keys; lo > hi: none */
    float m[VF_QUERIES + VF_LANES], l[VF_QUERIES + VF_LANES];
    float *o;                                    /* [n][v_stride] values of the chunk */
};

/* What is asked for: [at, end) */
struct span {
    const uint16_t *at, *end;
};

/* A chunk's page, as it lies and, where `wide`, in f32; and what is asked for while K, and while V, is walked over. */
struct chunk {
    const uint16_t *k, *v;
    const float *wide_k, *wide_v;
    struct span by_k, by_v;
};

/* Into the second-level cache, unless it begins at or beyond `end`. */
ALWAYS_INLINE void ask_for(const uint16_t *p, const uint16_t *end, size_t bytes)
{
    if (p < end)
        UNROLL for (size_t i = 0; i < bytes; i += 64)
            __builtin_prefetch((const char *)p + i, 0, 2);
}

/* Raw q.k of n_groups groups of keys from `group` on, for n queries. */
ALWAYS_INLINE void dot_groups(const int n, const int n_groups, const bool wide, const struct queries *s, const struct tile *t,
                              const struct chunk *c, int head_dim, int group)
{
    vf acc[VF_QUERIES][GROUPS_AT_ONCE * GROUP_VECTORS];
    const size_t group_elems = (size_t)head_dim * CPU_KEYS;
    const uint16_t *line = c->k + (size_t)group * group_elems;
    const float *wide_line = wide ? c->wide_k + (size_t)group * group_elems : NULL;
    const uint16_t *ask = c->by_k.at + (size_t)group * group_elems;
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < n_groups * GROUP_VECTORS; g++)
            acc[i][g] = vf_set1(0.0f);
    for (int d = 0; d < head_dim; d++) {
        vf a[VF_QUERIES];
        if (!wide)
            ask_for(ask, c->by_k.end, ASK_BYTES);
        UNROLL for (int i = 0; i < n; i++)
            a[i] = vf_set1(s->q[t->at + i][d]);
        UNROLL for (int g = 0; g < n_groups * GROUP_VECTORS; g++) {
            size_t at = (size_t)(g / GROUP_VECTORS) * group_elems + (size_t)(g % GROUP_VECTORS * VF_LANES);
            vf x = wide ? vf_load(wide_line + at) : vf_load_f16(line + at);
            UNROLL for (int i = 0; i < n; i++)
                acc[i][g] = vf_fma(x, a[i], acc[i][g]);
        }
        line += CPU_KEYS;
        wide_line += wide ? CPU_KEYS : 0;
        ask += ASK_BYTES / 2;
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < n_groups * GROUP_VECTORS; g++)
            vf_store(s->p + KV_PAGE * i + CPU_KEYS * group + VF_LANES * g, acc[i][g]);
}

/* Raw q.k of the first n_groups groups of a page. */
ALWAYS_INLINE void dots(const int n, const bool wide, const struct queries *s, const struct tile *t, const struct chunk *c, int head_dim,
                        int n_groups)
{
#if VF_LANES == 16
    switch (n_groups) {
    case 1: dot_groups(n, 1, wide, s, t, c, head_dim, 0); break;
    case 2: dot_groups(n, 2, wide, s, t, c, head_dim, 0); break;
    case 3: dot_groups(n, 3, wide, s, t, c, head_dim, 0); break;
    default: dot_groups(n, 4, wide, s, t, c, head_dim, 0); break;
    }
#else
    for (int group = 0; group < n_groups; group++)
        dot_groups(n, 1, wide, s, t, c, head_dim, group);
#endif
}

/* Scores of n queries to weights, in place; the chunk's max and sum. What a query does not see weighs +0. */
ALWAYS_INLINE void weigh(const int n, const struct queries *s, struct tile *t, float scale)
{
    for (int i = 0; i < n; i++) {
        float *p = s->p + KV_PAGE * i;
        vf max = vf_set1(-INFINITY);
        UNROLL for (int g = 0; g < FOLD_VECTORS; g++)
            if (VF_LANES * g <= t->hi[i])
                vf_store(p + VF_LANES * g, vf_mul(vf_set1(scale), vf_load(p + VF_LANES * g)));
        for (int key = 0; key < t->lo[i]; key++)
            p[key] = -INFINITY;
        for (int key = t->hi[i] + 1; key % VF_LANES != 0; key++)
            p[key] = -INFINITY;
        UNROLL for (int g = 0; g < FOLD_VECTORS; g++)
            if (VF_LANES * g <= t->hi[i])
                max = vf_max(max, vf_load(p + VF_LANES * g));
        t->m[i] = vf_reduce_max(max);
    }
    for (int i = 0; i < n; i++) {
        float *p = s->p + KV_PAGE * i;
        vf v[FOLD_VECTORS];
        UNROLL for (int g = 0; g < FOLD_VECTORS; g++) {
            v[g] = vf_set1(0.0f);
            if (VF_LANES * g > t->hi[i])
                continue;
            v[g] = vf_exp(vf_sub(vf_load(p + VF_LANES * g), vf_set1(t->m[i])));
            vf_store(p + VF_LANES * g, v[g]);
        }
        t->l[i] = vf_fold64(v);
    }
}

/* Adds keys lo..hi to the values of queries i0 .. i0+n-1 of a tile, `lines` vectors of dimensions from dimension d on; `fresh`: to nothing yet. */
ALWAYS_INLINE void add_values(const int n, const int lines, const bool wide, const struct queries *s, const struct tile *t, int i0,
                              const struct chunk *c, int v_stride, int d, int lo, int hi, bool fresh)
{
    vf acc[VF_QUERIES][VF_LINES];
    float *o = t->o + (size_t)i0 * (size_t)v_stride + d;
    const size_t at = (size_t)lo * (size_t)v_stride + (size_t)d;
    const uint16_t *line = c->v + at, *ask = c->by_v.at + at;
    const float *wide_line = wide ? c->wide_v + at : NULL, *p = s->p + KV_PAGE * i0 + lo, *end = p + (hi - lo);
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            acc[i][g] = fresh ? vf_set1(0.0f) : vf_load(o + i * v_stride + VF_LANES * g);
    for (; p <= end; p++) {
        vf x[VF_LINES];
        if (!wide)
            ask_for(ask, c->by_v.end, 2 * VF_LANES * (size_t)lines);
        UNROLL for (int g = 0; g < lines; g++)
            x[g] = wide ? vf_load(wide_line + VF_LANES * g) : vf_load_f16(line + VF_LANES * g);
        UNROLL for (int i = 0; i < n; i++) {
            vf a = vf_set1(p[KV_PAGE * i]);
            UNROLL for (int g = 0; g < lines; g++)
                acc[i][g] = vf_fma(x[g], a, acc[i][g]);
        }
        line += v_stride;
        ask += v_stride;
        wide_line += wide ? v_stride : 0;
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            vf_store(o + i * v_stride + VF_LANES * g, acc[i][g]);
}

ALWAYS_INLINE void add_stretch(const int n, const bool wide, const struct queries *s, const struct tile *t, int i0, const struct chunk *c,
                               int v_stride, int lo, int hi, bool fresh)
{
    if (lo > hi)
        return;
    int d = 0;
    for (; d + VF_LINES * VF_LANES <= v_stride; d += VF_LINES * VF_LANES)
        add_values(n, VF_LINES, wide, s, t, i0, c, v_stride, d, lo, hi, fresh);
    for (; d < v_stride; d += VF_LANES)
        add_values(n, 1, wide, s, t, i0, c, v_stride, d, lo, hi, fresh);
}

/* One query's stretch that not all of its tile see: rare, so one copy of the code. */
static __attribute__((noinline)) void add_alone(const struct queries *s, const struct tile *t, int i, const struct chunk *c, int v_stride, int lo,
                                                int hi)
{
    add_stretch(1, false, s, t, i, c, v_stride, lo, hi, false);
}

/* The values of a chunk, in stretches; see the top. */
ALWAYS_INLINE void chunk_values(const int n, const bool wide, const struct queries *s, const struct tile *t, const struct chunk *c, int v_stride)
{
    int from = 0, to = KV_PAGE - 1;
    bool fresh = true; /* no query has an earlier stretch */
    for (int i = 0; i < n; i++) {
        from = t->lo[i] > from ? t->lo[i] : from;
        to = t->hi[i] < to ? t->hi[i] : to;
    }
    for (int i = 0; i < n; i++)
        fresh = fresh && t->lo[i] == from;
    if (from > to)
        fresh = false;
    if (!fresh)
        memset(t->o, 0, (size_t)n * (size_t)v_stride * sizeof *t->o);
    for (int i = 0; i < n && !fresh; i++)
        add_alone(s, t, i, c, v_stride, t->lo[i], from <= to ? from - 1 : t->hi[i]);
    if (from > to)
        return;
    add_stretch(n, wide, s, t, 0, c, v_stride, from, to, fresh);
    for (int i = 0; i < n; i++)
        if (to < t->hi[i])
            add_alone(s, t, i, c, v_stride, to + 1, t->hi[i]);
}

/* The chunk of query i of the tile joins the running result: a and b scale them; see lanes.h. */
ALWAYS_INLINE void join(const struct queries *s, const struct tile *t, int i, float a, float b, int v_stride)
{
    const float *o = t->o + (size_t)i * (size_t)v_stride;
    float *run = s->run + (size_t)(t->at + i) * (size_t)v_stride;
    const vf va = vf_set1(a), vb = vf_set1(b);
    for (int d = 0; d < v_stride; d += VF_LANES)
        vf_store(run + d, vf_fma(vf_load(o + d), vb, vf_mul(vf_load(run + d), va)));
}

/* Chunk number `chunk` of its query's becomes a partial. */
static void keep_partial(const struct queries *s, const struct tile *t, int i, int chunk, int v_stride)
{
    float *p = s->partial[t->at + i] + (size_t)chunk * partial_floats(v_stride);
    memcpy(p, t->o + (size_t)i * (size_t)v_stride, (size_t)v_stride * sizeof *p);
    p[v_stride] = t->m[i];
    p[v_stride + 1] = t->l[i];
}

/* What the tile's n queries found in a chunk joins what they found before. */
ALWAYS_INLINE void merge(const int n, struct queries *s, const struct tile *t, int v_stride)
{
    float a[VF_QUERIES + VF_LANES], b[VF_QUERIES + VF_LANES], top[VF_QUERIES + VF_LANES], sum[VF_QUERIES + VF_LANES];
    for (int i = 0; i < n; i += VF_LANES) {
        vf m = vf_load(t->m + i), m_run = vf_load(s->m + t->at + i), m_top = vf_max(m, m_run);
        vf va = vf_exp(vf_sub(m_run, m_top)), vb = vf_exp(vf_sub(m, m_top));
        vf_store(a + i, va);
        vf_store(b + i, vb);
        vf_store(top + i, m_top);
        vf_store(sum + i, vf_fma(vf_load(t->l + i), vb, vf_mul(vf_load(s->l + t->at + i), va)));
    }
    for (int i = 0; i < n; i++) {
        int at = t->at + i;
        if (t->lo[i] > t->hi[i])
            continue;
        if (s->started[at]) {
            s->m[at] = top[i];
            s->l[at] = sum[i];
            join(s, t, i, a[i], b[i], v_stride);
            continue;
        }
        s->started[at] = true;
        s->m[at] = t->m[i];
        s->l[at] = t->l[i];
        if (t->o == s->o)
            memcpy(s->run + (size_t)at * (size_t)v_stride, t->o + (size_t)i * (size_t)v_stride, (size_t)v_stride * sizeof *s->run);
    }
}

/* Queries at .. at + n - 1 at chunk number c. */
ALWAYS_INLINE void pass(const int n, const bool wide, struct queries *s, const struct attend_job *j, int at, int c, const struct chunk *page)
{
    struct tile t = {.at = at};
    int most = -1;
    bool first = j->partials == NULL; /* chunk of all of them: its values are the result so far */
    for (int i = 0; i < n; i++) {
        t.lo[i] = s->first[at + i] > c * KV_PAGE ? s->first[at + i] - c * KV_PAGE : 0;
        t.hi[i] = s->last[at + i] < c * KV_PAGE + KV_PAGE - 1 ? s->last[at + i] - c * KV_PAGE : KV_PAGE - 1;
        if (t.lo[i] > t.hi[i]) { /* not this query's chunk */
            t.lo[i] = 0;
            t.hi[i] = -1;
        }
        most = t.hi[i] > most ? t.hi[i] : most;
        first = first && !s->started[at + i];
    }
    if (most < 0)
        return;
    t.o = first ? s->run + (size_t)at * (size_t)j->v_stride : s->o;
    dots(n, wide, s, &t, page, j->head_dim, most / CPU_KEYS + 1);
    weigh(n, s, &t, j->scale);
    chunk_values(n, wide, s, &t, page, j->v_stride);
    if (j->partials == NULL) {
        merge(n, s, &t, j->v_stride);
        return;
    }
    for (int i = 0; i < n; i++)
        if (t.lo[i] <= t.hi[i])
            keep_partial(s, &t, i, c - s->first[at + i] / KV_PAGE, j->v_stride);
}

ALWAYS_INLINE void pass_any(const bool wide, int n, struct queries *s, const struct attend_job *j, int at, int c, const struct chunk *page)
{
    switch (n) {
    case 1: pass(1, wide, s, j, at, c, page); break;
    case 2: pass(2, wide, s, j, at, c, page); break;
    case 3: pass(3, wide, s, j, at, c, page); break;
#if VF_QUERIES > 3
    case 4: pass(4, wide, s, j, at, c, page); break;
    case 5: pass(5, wide, s, j, at, c, page); break;
    case 6: pass(6, wide, s, j, at, c, page); break;
#endif
    default: assert(!"a tile has 1 to VF_QUERIES queries");
    }
}

static void pass_narrow(int n, struct queries *s, const struct attend_job *j, int at, int c, const struct chunk *page)
{
    pass_any(false, n, s, j, at, c, page);
}

static void pass_wide(int n, struct queries *s, const struct attend_job *j, int at, int c, const struct chunk *page)
{
    pass_any(true, n, s, j, at, c, page);
}

static void widen(const uint16_t *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += VF_LANES)
        vf_store(out + i, vf_load_f16(x + i));
}

/* What is asked for during chunk c, of n_keys keys: see the top. The next page is the next chunk's, or the next job's first. */
static void look_ahead(const struct attend_job *j, int c, int last, int n_keys, struct chunk *page)
{
    const size_t head_dim = (size_t)j->head_dim, v_stride = (size_t)j->v_stride;
    bool inside = c < last / KV_PAGE;
    int n = inside ? last - (c + 1) * KV_PAGE + 1 : j->n_next;
    n = n < KV_PAGE ? n : KV_PAGE;
    const uint16_t *next = inside ? j->layer_kv + (size_t)j->pages[c + 1] * j->page_elems : n > 0 ? j->next : page->k;
    struct span k = {next, next + (size_t)((n + CPU_KEYS - 1) / CPU_KEYS * CPU_KEYS) * head_dim};
    struct span v = {next + head_dim * KV_PAGE, next + head_dim * KV_PAGE + (size_t)n * v_stride};
    if (j->head_dim > WIDE_DIM) {
        page->by_k = (struct span){page->v, page->v + (size_t)n_keys * v_stride};
        page->by_v = (struct span){k.at, k.at + (k.end - k.at) / 2};
    } else {
        page->by_k = k;
        page->by_v = v;
    }
}

/* The running results are complete. */
static void finish(const struct queries *s, const struct attend_job *j)
{
    for (int i = 0; i < s->n; i++) {
        const float *run = s->run + (size_t)i * (size_t)j->v_stride, inverse = 1.0f / s->l[i];
        float *out = s->out[i];
        int d = 0;
        for (; d + VF_LANES <= j->head_dim; d += VF_LANES)
            vf_store(out + d, vf_mul(vf_load(run + d), vf_set1(inverse)));
        for (; d < j->head_dim; d++)
            out[d] = run[d] * inverse;
    }
}

/* All queries over all their chunks. */
static void walk(struct queries *s, const struct attend_job *j)
{
    int first = s->first[0], last = s->last[0], n_tiles = (s->n + VF_QUERIES - 1) / VF_QUERIES;
    for (int i = 0; i < s->n; i++) {
        first = s->first[i] < first ? s->first[i] : first;
        last = s->last[i] > last ? s->last[i] : last;
        s->started[i] = false;
    }
    bool parts = j->partials != NULL, wide = n_tiles >= WIDE_TILES && j->head_dim <= WIDE_DIM;
    int c_last = parts ? j->chunk_last : last / KV_PAGE;
    for (int c = parts ? j->chunk_first : first / KV_PAGE; c <= c_last; c++) {
        struct chunk page = {.k = j->layer_kv + (size_t)j->pages[c] * j->page_elems, .wide_k = s->wide_k, .wide_v = s->wide_v};
        page.v = page.k + (size_t)j->head_dim * KV_PAGE;
        const int n_keys = last - c * KV_PAGE < KV_PAGE ? last - c * KV_PAGE + 1 : KV_PAGE;
        look_ahead(j, c, last, n_keys, &page);
        const struct span rest = {page.by_v.at + (size_t)n_keys * (size_t)j->v_stride, page.by_v.end};
        if (wide) {
            widen(page.k, (size_t)((n_keys + CPU_KEYS - 1) / CPU_KEYS * CPU_KEYS) * (size_t)j->head_dim, s->wide_k);
            widen(page.v, (size_t)n_keys * (size_t)j->v_stride, s->wide_v);
        }
        for (int tile = 0, at = 0; tile < n_tiles; tile++) {
            int n = (s->n + n_tiles - 1 - tile) / n_tiles;
            if (wide)
                pass_wide(n, s, j, at, c, &page);
            else
                pass_narrow(n, s, j, at, c, &page);
            at += n;
            page.by_k.end = page.by_v.end = NULL; /* once is enough */
        }
        for (const uint16_t *p = rest.at; p < rest.end; p += 32) /* this page has fewer keys than the next, and each asked for one */
            ask_for(p, rest.end, 64);
    }
    if (!parts)
        finish(s, j);
}

static void simd_attend(const struct attend_job *j, float *scratch)
{
    int row = 0, head = 0;
    struct queries s;
    memset(s.m, 0, sizeof s.m);
    memset(s.l, 0, sizeof s.l);
    s.p = scratch;
    s.o = s.p + CPU_TILE * KV_PAGE;
    s.run = s.o + CPU_TILE * j->v_stride;
    s.wide_k = s.run + CPU_QUERIES * j->v_stride;
    s.wide_v = s.wide_k + KV_PAGE * j->head_dim;
    while (row < j->n_rows) {
        for (s.n = 0; s.n < CPU_QUERIES && row < j->n_rows; s.n++) {
            int i = s.n;
            s.q[i] = j->q + (size_t)row * j->q_stride + (size_t)head * (size_t)j->head_dim;
            s.out[i] = j->out + (size_t)row * j->out_stride + (size_t)head * (size_t)j->head_dim;
            s.first[i] = attend_first(j, row);
            s.last[i] = j->pos + row;
            s.partial[i] = j->partials == NULL ? NULL : j->partials + (size_t)head * j->partials_stride;
            head = head + 1 < j->n_heads ? head + 1 : 0;
            row += head == 0;
        }
        walk(&s, j);
    }
}

#endif

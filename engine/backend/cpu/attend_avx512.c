/* attend_avx512.c: attention over the KV pages, AVX-512. The formula is in lanes.h.
 *
 * Up to 6 queries (heads that share a kv head, of one or more consecutive rows) pass over a page together, so that each f16 line is widened once for all:
 *
 *   scores   a lane is a key: K lies transposed, [d][64]; per d one line of 16 keys times 6 broadcast q[d]; 2 x 6 chains in flight
 *   values   a lane is a dimension: V lies [64][d]; per key 4 lines of 16 dimensions times 6 broadcast p[t]
 *
 * Queries of one pass may see different ranges of a chunk (the diagonal, a window's edge). Score lanes that a query does not see are selected away. Values
 * must not be touched there, so a chunk's keys are walked in up to three stretches: those that only the earlier queries see, those that all see (together),
 * those that only the later ones see (alone again); per query the order is ascending all the same. */
#include <immintrin.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/lanes.h"
#include "engine/backend/cpu/lanes_avx512.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* The queries of one pass and their running results. */
struct queries {
    int n;
    const float *q[CPU_QUERIES];
    float *out[CPU_QUERIES];
    int first[CPU_QUERIES], last[CPU_QUERIES]; /* visible positions */
    int lo[CPU_QUERIES], hi[CPU_QUERIES];      /* visible keys of the current chunk; lo > hi: none */
    bool started[CPU_QUERIES];
    float m[CPU_QUERIES], l[CPU_QUERIES];       /* running */
    float *p;                                   /* [n][64] scores, then weights */
    float *o, *run;                             /* [n][v_stride] of the chunk, running */
};

ALWAYS_INLINE __m512 widen(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Raw q.k of all 64 keys (32 where no query sees the upper half), for n queries. */
ALWAYS_INLINE void dots(const int n, const struct queries *s, const uint16_t *k, int head_dim, int key_halves)
{
    for (int half = 0; half < key_halves; half++) {
        __m512 acc[CPU_QUERIES][2];
        UNROLL for (int i = 0; i < n; i++)
            acc[i][0] = acc[i][1] = _mm512_setzero_ps();
        const uint16_t *line = k + 32 * half;
        for (int d = 0; d < head_dim; d++, line += KV_PAGE) {
            __m512 k0 = widen(line), k1 = widen(line + 16);
            UNROLL for (int i = 0; i < n; i++) {
                __m512 a = _mm512_set1_ps(s->q[i][d]);
                acc[i][0] = _mm512_fmadd_ps(k0, a, acc[i][0]);
                acc[i][1] = _mm512_fmadd_ps(k1, a, acc[i][1]);
            }
        }
        UNROLL for (int i = 0; i < n; i++) {
            _mm512_store_ps(s->p + 64 * i + 32 * half, acc[i][0]);
            _mm512_store_ps(s->p + 64 * i + 32 * half + 16, acc[i][1]);
        }
    }
}

/* Query i: scores to weights, in place; the chunk's max and sum. */
ALWAYS_INLINE void weigh(struct queries *s, int i, float scale, float *m_out, float *l_out)
{
    float *p = s->p + 64 * i;
    uint64_t seen = (s->hi[i] == 63 ? ~0ull : (1ull << (s->hi[i] + 1)) - 1) & ~0ull << s->lo[i];
    const __m512 low = _mm512_set1_ps(-INFINITY);
    __m512 v[4], max = low;
    UNROLL for (int g = 0; g < 4; g++) {
        v[g] = _mm512_mask_mul_ps(low, (__mmask16)(seen >> 16 * g), _mm512_set1_ps(scale), _mm512_load_ps(p + 16 * g));
        max = _mm512_max_ps(max, v[g]);
    }
    float m = _mm512_reduce_max_ps(max); /* a maximum has no order */
    UNROLL for (int g = 0; g < 4; g++) {
        v[g] = _mm512_maskz_mov_ps((__mmask16)(seen >> 16 * g), avx512_exp(_mm512_sub_ps(v[g], _mm512_set1_ps(m))));
        _mm512_store_ps(p + 16 * g, v[g]);
    }
    *m_out = m;
    *l_out = avx512_fold64(v);
}

/* Adds keys lo..hi to the values of queries i0 .. i0+n-1, `lines` lines of 16 dimensions from dimension d on. */
ALWAYS_INLINE void add_values(const int n, const int lines, struct queries *s, int i0, const uint16_t *v, int v_stride, int d, int lo, int hi)
{
    __m512 acc[CPU_QUERIES][4];
    float *o = s->o + (size_t)i0 * (size_t)v_stride + d;
    const float *p = s->p + 64 * i0;
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            acc[i][g] = _mm512_loadu_ps(o + i * v_stride + 16 * g);
    const uint16_t *line = v + (size_t)lo * (size_t)v_stride + d;
    for (int t = lo; t <= hi; t++, line += v_stride) {
        __m512 x[4];
        UNROLL for (int g = 0; g < lines; g++)
            x[g] = widen(line + 16 * g);
        UNROLL for (int i = 0; i < n; i++) {
            __m512 a = _mm512_set1_ps(p[64 * i + t]);
            UNROLL for (int g = 0; g < lines; g++)
                acc[i][g] = _mm512_fmadd_ps(x[g], a, acc[i][g]);
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int g = 0; g < lines; g++)
            _mm512_storeu_ps(o + i * v_stride + 16 * g, acc[i][g]);
}

ALWAYS_INLINE void add_stretch(const int n, struct queries *s, int i0, const uint16_t *v, int v_stride, int lo, int hi)
{
    if (lo > hi)
        return;
    int d = 0;
    for (; d + 64 <= v_stride; d += 64)
        add_values(n, 4, s, i0, v, v_stride, d, lo, hi);
    for (; d < v_stride; d += 16)
        add_values(n, 1, s, i0, v, v_stride, d, lo, hi);
}

/* The values of a chunk, in stretches; see the top. */
ALWAYS_INLINE void chunk_values(const int n, struct queries *s, const uint16_t *v, int v_stride)
{
    int from = 0, to = KV_PAGE - 1;
    for (int i = 0; i < n; i++) {
        from = s->lo[i] > from ? s->lo[i] : from;
        to = s->hi[i] < to ? s->hi[i] : to;
    }
    memset(s->o, 0, (size_t)n * (size_t)v_stride * sizeof *s->o);
    if (from > to) {
        for (int i = 0; i < n; i++)
            add_stretch(1, s, i, v, v_stride, s->lo[i], s->hi[i]);
        return;
    }
    for (int i = 0; i < n; i++)
        add_stretch(1, s, i, v, v_stride, s->lo[i], from - 1);
    add_stretch(n, s, 0, v, v_stride, from, to);
    for (int i = 0; i < n; i++)
        add_stretch(1, s, i, v, v_stride, to + 1, s->hi[i]);
}

static void merge(struct queries *s, int i, float m, float l, int v_stride)
{
    float *o = s->o + (size_t)i * (size_t)v_stride, *run = s->run + (size_t)i * (size_t)v_stride;
    if (!s->started[i]) {
        s->started[i] = true;
        s->m[i] = m;
        s->l[i] = l;
        memcpy(run, o, (size_t)v_stride * sizeof *o);
        return;
    }
    lanes_attend_merge(m, l, o, v_stride, &s->m[i], &s->l[i], run);
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
    for (int c = first / KV_PAGE; c <= last / KV_PAGE; c++) {
        const uint16_t *k = j->layer_kv + (size_t)j->pages[c] * j->page_elems, *v = k + (size_t)j->head_dim * KV_PAGE;
        int most = 0;
        for (int i = 0; i < n; i++) {
            s->lo[i] = s->first[i] > c * KV_PAGE ? s->first[i] - c * KV_PAGE : 0;
            s->hi[i] = s->last[i] < c * KV_PAGE + KV_PAGE - 1 ? s->last[i] - c * KV_PAGE : KV_PAGE - 1;
            most = s->hi[i] > most ? s->hi[i] : most;
        }
        dots(n, s, k, j->head_dim, most < 32 ? 1 : 2);
        float m[CPU_QUERIES] = {0}, l[CPU_QUERIES] = {0};
        for (int i = 0; i < n; i++)
            if (s->lo[i] <= s->hi[i])
                weigh(s, i, j->scale, &m[i], &l[i]);
        chunk_values(n, s, v, j->v_stride);
        for (int i = 0; i < n; i++)
            if (s->lo[i] <= s->hi[i])
                merge(s, i, m[i], l[i], j->v_stride);
    }
    for (int i = 0; i < n; i++) {
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
    case 4: pass(4, s, j); break;
    case 5: pass(5, s, j); break;
    case 6: pass(6, s, j); break;
    default: assert(!"a pass has 1 to 6 queries");
    }
}

void attend_avx512(const struct attend_job *j, float *scratch)
{
    int total = j->n_rows * j->n_heads, n_passes = (total + CPU_QUERIES - 1) / CPU_QUERIES, at = 0;
    struct queries s;
    s.p = scratch;
    s.o = s.p + CPU_QUERIES * KV_PAGE;
    s.run = s.o + CPU_QUERIES * j->v_stride;
    for (int pass_idx = 0; pass_idx < n_passes; pass_idx++) {
        s.n = (total + n_passes - 1 - pass_idx) / n_passes;
        for (int i = 0; i < s.n; i++, at++) {
            int row = at / j->n_heads, head = at % j->n_heads;
            s.q[i] = j->q + (size_t)row * j->q_stride + (size_t)head * (size_t)j->head_dim;
            s.out[i] = j->out + (size_t)row * j->out_stride + (size_t)head * (size_t)j->head_dim;
            s.first[i] = attend_first(j, row);
            s.last[i] = j->pos + row;
        }
        pass_any(&s, j);
    }
}

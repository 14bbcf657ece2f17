/* attend.cu: attention over the KV pages, in the order of engine/backend/cpu/lanes.h, whose formula this computes bit for bit:
 *
 *   chunks of 64 positions from position 0 (a page each); those without a visible position are skipped; in each, for visible positions t:
 *     s[t] = scale * chain, chain = fma(k[t][d], q[d], chain), d ascending;  m = max s;  p[t] = exp(s[t] - m);  l = fold64(p)
 *     o[d] = fma(v[t][d], p[t], o[d]), t ascending
 *   merged ascending, the first one taken as it is: M' = max(M, m), a = exp(M - M'), b = exp(m - M'), L = fma(l, b, L a), O = fma(o, b, O a)
 *   result = O * (1 / L)
 *
 * A thread owns a key in the scores (K lies [d / 8][64][8]: 16 bytes are 8 dimensions of a key, neighbours are neighbouring keys) and two dimensions
 * in the values (V lies [64][d]), so every chain is a thread's own. Query heads that share a kv head are computed together: a K or V that was
 * loaded serves all of them. A chunk takes three phases with a barrier after each:
 *
 *   scores   K_THREAD keys x S queries in registers                     -> shared [key][query]
 *   weights  a warp has 4 queries, a lane 2 keys of each: max, exp, sum  -> in place, -1 where a query does not see the key
 *   values   two dimensions x Q queries in registers                     -> partials, or merged into shared [query][d]
 *
 * Keys beyond the last visible one are never read; those that only some of a tile's queries see are selected away.
 *
 * Two ways with the same bits. `split`, few rows: a block has one (row, kv head, chunk) at a time and leaves a partial; another kernel merges a row's
 * partials and makes the operand. `walk`, prompts: a block has a tile of queries (rows x heads) of a kv head, walks over all chunks and merges as it
 * goes.
 *
 * The grid of split does not tell the step: blocks take the items (row, chunk) of a list in device memory by turns. So a captured launch serves rows
 * of any length, and rows of unequal lengths leave no block idle.
 *
 *   attend_   grid                                       threads  shared
 *   split     items at most, n_kv * tiles of heads (y)      64     values of the chunk, queries and scores of up to 8: 23 KiB for heads of 128;
 *                                                                  no more blocks than max_blocks, about
 *   rope_split as split                                     64     the same and a key
 *   merge     n_splits, groups of heads                    128     values of a group, factors of 64 chunks
 *   walk      n_walks, n_kv, tiles of queries              128     queries, scores and values of up to 32: 42 KiB for heads of 128
 *   round     16 n_walks, n_blocks / 16                    128     - */
#include <assert.h>

#include "engine/backend/cuda/kv.cuh"

#define SPLIT_THREADS 64
#define WALK_THREADS 128
#define MERGE_THREADS 128
#define MERGE_CHUNKS 64       /* whose factors are computed together */
#define HIDDEN (-1.0f)        /* the weight of a key that a query does not see; weights are never negative */
#define SHARED_LIMIT 49152    /* bytes of a block without asking for more */
#define MAX_HEAD_DIM 512

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static __device__ __forceinline__ int at_most(int a, int b)
{
    return a < b ? a : b;
}

/* ---- a chunk: scores, weights, values ---- */

/* The queries of a block and what they share, all of it in shared memory. n is a multiple of what its template computes together; queries beyond
 * those that exist see nothing. */
struct tile {
    int n, head_dim, head_pad;
    int q_stride, s_stride;
    float *q;           /* [n][q_stride]: 4 floats more than head_pad, so that queries 4 apart lie in different banks */
    float *s;           /* [64][s_stride]: scores, then weights; read 4 queries at a time without bank conflicts */
    float *o;           /* [n][head_pad] running values; walk */
    float *m, *l;       /* [n] maximum and sum: of the chunk (split), running (walk) */
    float *a, *b;       /* [n] factors of the merge; walk */
    int *first, *last;  /* [n] visible positions; last -1: none */
};

static __host__ __device__ __forceinline__ int s_stride_of(int n)
{
    return n < 4 ? n : n + 4;
}

/* Bytes of shared memory of a tile of n queries. */
static size_t tile_bytes(int n, int head_pad, bool walks)
{
    const size_t floats = (size_t)n * (size_t)(head_pad + 4) + (size_t)(PAGE * s_stride_of(n)) + (size_t)(6 * n);
    return sizeof(float) * (floats + (walks ? (size_t)n * (size_t)head_pad : 0));
}

/* Bytes of a page's values. */
static size_t values_bytes(int head_pad)
{
    return sizeof(uint16_t) * PAGE * (size_t)head_pad;
}

static __device__ __forceinline__ struct tile tile_at(unsigned char *shared, const struct device_kv &kv, int n, bool walks)
{
    struct tile t;
    t.n = n;
    t.head_dim = kv.head_dim;
    t.head_pad = kv.head_pad;
    t.q_stride = kv.head_pad + 4;
    t.s_stride = s_stride_of(n);
    t.q = (float *)shared;
    t.s = t.q + n * t.q_stride;
    t.o = t.s + PAGE * t.s_stride;
    t.m = t.o + (walks ? n * kv.head_pad : 0);
    t.l = t.m + n;
    t.a = t.l + n;
    t.b = t.a + n;
    t.first = (int *)(t.b + n);
    t.last = t.first + n;
    return t;
}

/* Two f16 that lie in a word. */
static __device__ __forceinline__ void widen(uint32_t word, float *low, float *high)
{
    *low = __half2float(__ushort_as_half((unsigned short)(word & 0xffffu)));
    *high = __half2float(__ushort_as_half((unsigned short)(word >> 16)));
}

/* N neighbouring floats of shared memory, N a power of two: 4 at a time where there are as many, and then they are aligned to it. */
template <int N>
static __device__ __forceinline__ void read_floats(const float *from, float out[N])
{
    if constexpr (N % 4 == 0) {
        for (int i = 0; i < N; i += 4) {
            const float4 all = *(const float4 *)(from + i);
            out[i] = all.x;
            out[i + 1] = all.y;
            out[i + 2] = all.z;
            out[i + 3] = all.w;
        }
    } else {
        for (int i = 0; i < N; i++)
            out[i] = from[i];
    }
}

template <int N>
static __device__ __forceinline__ void write_floats(float *to, const float x[N])
{
    if constexpr (N % 4 == 0) {
        for (int i = 0; i < N; i += 4)
            *(float4 *)(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
        for (int i = 0; i < N; i++)
            to[i] = x[i];
    }
}

/* 8 dimensions of K keys times those of S queries. */
template <int K, int S>
static __device__ __forceinline__ void dot8(const uint4 k[K], const float *q, int q_stride, float acc[K][S])
{
    for (int part = 0; part < 2; part++) {
        float4 x[S];
        for (int i = 0; i < S; i++)
            x[i] = *(const float4 *)(q + i * q_stride + 4 * part);
        for (int j = 0; j < K; j++) {
            float w[4];
            widen(part == 0 ? k[j].x : k[j].z, &w[0], &w[1]);
            widen(part == 0 ? k[j].y : k[j].w, &w[2], &w[3]);
            for (int i = 0; i < S; i++) {
                acc[j][i] = fmaf(w[0], x[i].x, acc[j][i]);
                acc[j][i] = fmaf(w[1], x[i].y, acc[j][i]);
                acc[j][i] = fmaf(w[2], x[i].z, acc[j][i]);
                acc[j][i] = fmaf(w[3], x[i].w, acc[j][i]);
            }
        }
    }
}

/* The dimensions beyond the last whole 8, of which there are n. */
template <int K, int S>
static __device__ __forceinline__ void dot_rest(const uint16_t *const k[K], int n, const float *q, int q_stride, float acc[K][S])
{
    for (int d = 0; d < n; d++)
        for (int j = 0; j < K; j++) {
            const float w = __half2float(__ushort_as_half(k[j][d]));
            for (int i = 0; i < S; i++)
                acc[j][i] = fmaf(w, q[i * q_stride + d], acc[j][i]);
        }
}

/* Scores of keys 0 .. hi of a page; of later keys those of key hi again, which nobody uses. A thread has K keys, 64 / K apart, and S queries, and
 * loads G pieces of its keys before it uses them. */
template <int THREADS, int K, int S, int G>
static __device__ __forceinline__ void score(const struct tile &t, const uint16_t *page, int hi, float scale)
{
    const int columns = PAGE / K, groups = t.head_dim / 8;
    for (int item = (int)threadIdx.x; item < columns * (t.n / S); item += THREADS) {
        const int column = item % columns, query = item / columns * S;
        const float *q = t.q + query * t.q_stride;
        const uint16_t *k[K];
        float acc[K][S];
        for (int j = 0; j < K; j++) {
            k[j] = page + 8 * at_most(column + j * columns, hi);
            for (int i = 0; i < S; i++)
                acc[j][i] = 0.0f;
        }
        int g = 0;
        for (; g + G <= groups; g += G) {
            uint4 raw[G][K];
            for (int h = 0; h < G; h++)
                for (int j = 0; j < K; j++)
                    raw[h][j] = *(const uint4 *)(k[j] + (g + h) * (PAGE * 8));
            for (int h = 0; h < G; h++)
                dot8<K, S>(raw[h], q + 8 * (g + h), t.q_stride, acc);
        }
        for (; g < groups; g++) {
            uint4 raw[K];
            for (int j = 0; j < K; j++)
                raw[j] = *(const uint4 *)(k[j] + g * (PAGE * 8));
            dot8<K, S>(raw, q + 8 * g, t.q_stride, acc);
        }
        if (t.head_dim % 8 != 0) {
            const uint16_t *rest[K];
            for (int j = 0; j < K; j++)
                rest[j] = k[j] + groups * (PAGE * 8);
            dot_rest<K, S>(rest, t.head_dim % 8, q + 8 * groups, t.q_stride, acc);
        }
        for (int j = 0; j < K; j++) {
            for (int i = 0; i < S; i++)
                acc[j][i] = scale * acc[j][i];
            write_floats<S>(t.s + (column + j * columns) * t.s_stride + query, acc[j]);
        }
    }
}

/* A query's running maximum and sum take a chunk in; what its values are to be multiplied with. */
static __device__ __forceinline__ void merge_sums(const struct tile &t, int query, int chunk, float m, float l)
{
    const bool sees = t.last[query] >= chunk * PAGE && t.first[query] < (chunk + 1) * PAGE;
    float a = 0.0f, b = -1.0f; /* b below 0: the chunk does not count; a below 0: it is the first one */
    if (sees && chunk == t.first[query] / PAGE) {
        a = -1.0f;
        b = 1.0f;
        t.m[query] = m;
        t.l[query] = l;
    } else if (sees) {
        const float run = t.m[query], top = m > run ? m : run;
        a = num_exp_f32(run - top);
        b = num_exp_f32(m - top);
        t.m[query] = top;
        t.l[query] = fmaf(l, b, t.l[query] * a);
    }
    t.a[query] = a;
    t.b[query] = b;
}

/* Scores to weights in place, W queries to a warp at once; a lane has keys `lane` and `lane` + 32. */
template <int THREADS, int W, bool WALKS>
static __device__ __forceinline__ void weigh(const struct tile &t, int chunk)
{
    const int lane = (int)threadIdx.x % 32;
    for (int query = (int)threadIdx.x / 32 * W; query < t.n; query += THREADS / 32 * W) {
        float *low = t.s + lane * t.s_stride + query, *high = low + 32 * t.s_stride;
        float x[2][W], m[W], l[W];
        bool sees[2][W];
        read_floats<W>(low, x[0]);
        read_floats<W>(high, x[1]);
        DEVICE_UNROLL
        for (int i = 0; i < W; i++) {
            const int first = t.first[query + i] - chunk * PAGE, last = t.last[query + i] - chunk * PAGE;
            sees[0][i] = lane >= first && lane <= last;
            sees[1][i] = lane + 32 >= first && lane + 32 <= last;
            m[i] = sees[0][i] && x[0][i] > -INFINITY ? x[0][i] : -INFINITY;
            m[i] = sees[1][i] && x[1][i] > m[i] ? x[1][i] : m[i];
        }
        for (int lanes = 16; lanes > 0; lanes /= 2)
            DEVICE_UNROLL
            for (int i = 0; i < W; i++) {
                const float other = __shfl_xor_sync(ALL_LANES, m[i], lanes);
                m[i] = other > m[i] ? other : m[i];
            }
        DEVICE_UNROLL
        for (int i = 0; i < W; i++) {
            for (int h = 0; h < 2; h++)
                x[h][i] = sees[h][i] ? num_exp_f32(x[h][i] - m[i]) : HIDDEN;
            l[i] = fold64(sees[0][i] ? x[0][i] : 0.0f, sees[1][i] ? x[1][i] : 0.0f);
        }
        write_floats<W>(low, x[0]);
        write_floats<W>(high, x[1]);
        float mine = m[0], sum = l[0]; /* lane i takes those of query i */
        DEVICE_UNROLL
        for (int i = 1; i < W; i++) {
            mine = lane == i ? m[i] : mine;
            sum = lane == i ? l[i] : sum;
        }
        if (lane < W && WALKS) {
            merge_sums(t, query + lane, chunk, mine, sum);
        } else if (lane < W) {
            t.m[query + lane] = mine;
            t.l[query + lane] = sum;
        }
    }
}

/* One key's two values times the weights of Q queries. ALL: every query that matters sees the key. */
template <int Q, bool ALL>
static __device__ __forceinline__ void add_key(uint32_t word, const float *p, float o[Q][2])
{
    float v[2], weights[Q];
    widen(word, &v[0], &v[1]);
    read_floats<Q>(p, weights);
    for (int i = 0; i < Q; i++)
        for (int e = 0; e < 2; e++) {
            const float sum = fmaf(v[e], weights[i], o[i][e]);
            o[i][e] = ALL || !(weights[i] < 0.0f) ? sum : o[i][e];
        }
}

/* o[i] = the values of dimensions d and d + 1 over keys lo .. hi, for Q queries from `query` on. */
template <int Q, bool ALL>
static __device__ __forceinline__ void add_keys(const struct tile &t, const uint16_t *v, int d, int query, int lo, int hi, float o[Q][2])
{
    const float *p = t.s + query;
    for (int i = 0; i < Q; i++)
        o[i][0] = o[i][1] = 0.0f;
    v += d;
    int key = lo;
    for (; key + 4 <= hi + 1; key += 4) {
        uint32_t word[4];
        for (int j = 0; j < 4; j++)
            word[j] = *(const uint32_t *)(v + (key + j) * t.head_pad);
        for (int j = 0; j < 4; j++)
            add_key<Q, ALL>(word[j], p + (key + j) * t.s_stride, o);
    }
    for (; key <= hi; key++)
        add_key<Q, ALL>(*(const uint32_t *)(v + key * t.head_pad), p + key * t.s_stride, o);
}

/* ---- split ---- */

/* Queries of a tile to shared memory: query i is head `head` + i of row `row`, or, where heads of several rows follow each other, query from + i of
 * the walk's rows times heads; those from n_queries on are zero and see nothing. */
static __device__ __forceinline__ void load_query(const struct device_attend &p, const struct tile &t, int i, int row, int head, int lane, int lanes)
{
    const int pos = row >= 0 ? p.batch.pos[row] : -1;
    const float *q = p.qkv + (size_t)(row >= 0 ? row : 0) * (size_t)p.ld + (size_t)head * (size_t)t.head_dim;
    for (int d = lane; d < t.head_dim; d += lanes)
        t.q[i * t.q_stride + d] = row >= 0 ? q[d] : 0.0f;
    if (lane == 0) {
        t.first[i] = first_visible(pos, p.window);
        t.last[i] = pos;
    }
}

static __device__ __forceinline__ float *partial_at(const struct device_attend &p, int item, int head)
{
    return p.partials + ((size_t)item * (size_t)p.n_head + (size_t)head) * ATTEND_PARTIAL(p.kv.head_pad);
}

/* Asks for the values of keys lo .. hi; each thread waits for its own. */
static __device__ __forceinline__ void stage_values(uint16_t *to, const uint16_t *v, int lo, int hi, int head_pad)
{
    for (int i = lo * head_pad + 8 * (int)threadIdx.x; i < (hi + 1) * head_pad; i += 8 * SPLIT_THREADS)
        dev_cp_async16(to + i, v + i);
    dev_cp_commit();
}

/* The values of one chunk for up to Q heads, to their partials. */
template <int Q>
static __device__ __forceinline__ void split_values(const struct device_attend &p, const struct tile &t, const uint16_t *v, int lo, int hi, int item,
                                                    int head, int n_queries)
{
    for (int pair = (int)threadIdx.x; pair < t.head_dim / 2; pair += SPLIT_THREADS) {
        float o[Q][2];
        add_keys<Q, true>(t, v, 2 * pair, 0, lo, hi, o);
        for (int i = 0; i < Q; i++)
            if (i < n_queries)
                *(float2 *)(partial_at(p, item, head + i) + 2 * pair) = make_float2(o[i][0], o[i][1]);
    }
}

/* Queries of a tile, still as they were multiplied, to what rope_store makes of them; and if the row's own position is `fresh`, its key and value to
 * their page. A warp has a head. Each thread of the block sees all of it after the next barrier. */
static __device__ __forceinline__ void rope_tile(const struct device_rope &r, const struct tile &t, int row, int kv_head, int n_queries,
                                                 uint16_t *fresh, float *scratch)
{
    const int lane = (int)threadIdx.x % 32, n = t.head_dim, pos = r.batch.pos[row];
    const float *cs = r.cs + (size_t)row * (size_t)r.rope_dims;
    const float *k = r.qkv + (size_t)row * (size_t)r.ld + (size_t)(r.n_head + kv_head) * (size_t)n, *v = k + r.kv.n_kv * n;
    DEVICE_LOOP
    for (int i = (int)threadIdx.x / 32; i < n_queries + (fresh != NULL ? 2 : 0); i += SPLIT_THREADS / 32) {
        if (i < n_queries) {
            rope_head(r, t.q + i * t.q_stride, r.q_norm, cs, NULL);
        } else if (i == n_queries) {
            DEVICE_LOOP
            for (int d = lane; d < n; d += 32)
                scratch[d] = k[d]; /* until rope_head's barrier a lane reads there what it wrote */
            rope_head(r, scratch, r.k_norm, cs, fresh + pos % PAGE * 8);
        } else {
            DEVICE_LOOP
            for (int d = lane; d < n; d += 32)
                fresh[PAGE * t.head_pad + pos % PAGE * t.head_pad + d] = num_f16_from_f32(v[d]);
        }
    }
}

/* One chunk of one row for up to Q heads of a kv head. STAGES: values are asked for at once, into shared memory, and come while the scores are
 * computed. r: what rope_store would have done is done here, NULL: has been done. */
template <int Q, bool STAGES>
static __device__ __forceinline__ void split_chunk(const struct device_attend &p, const struct device_rope *r, unsigned char *shared, int item)
{
    const struct tile t = tile_at(STAGES ? shared + PAGE * 2 * p.kv.head_pad : shared, p.kv, Q, false);
    const int heads = p.n_head / p.kv.n_kv, tiles = (heads + Q - 1) / Q, me = (int)threadIdx.x;
    const int kv_head = (int)blockIdx.y / tiles, head = kv_head * heads + (int)blockIdx.y % tiles * Q;
    const int n_queries = at_most(Q, (kv_head + 1) * heads - head);
    const int row = p.batch.items[2 * item], chunk = p.batch.items[2 * item + 1], pos = p.batch.pos[row], first = first_visible(pos, p.window);
    if (chunk >= first / PAGE) {
        uint16_t *k = kv_head_at(p.kv, page_of(p.batch, row, chunk), p.layer, kv_head), *v = k + PAGE * t.head_pad;
        const int hi = at_most(pos - chunk * PAGE, PAGE - 1), lo = first > chunk * PAGE ? first - chunk * PAGE : 0;
        const bool fresh = r != NULL && chunk == pos / PAGE;
        if (STAGES && !fresh)
            stage_values((uint16_t *)shared, v, lo, hi, t.head_pad);
        for (int i = 0; i < Q; i++)
            load_query(p, t, i, i < n_queries ? row : -1, i < n_queries ? head + i : 0, me, SPLIT_THREADS);
        __syncthreads();
        if (r != NULL) {
            rope_tile(*r, t, row, kv_head, n_queries, fresh ? k : NULL, (float *)(t.last + Q));
            __syncthreads();
            if (STAGES && fresh)
                stage_values((uint16_t *)shared, v, lo, hi, t.head_pad);
        }
        score<SPLIT_THREADS, 1, Q, 4>(t, k, hi, p.scale);
        __syncthreads();
        weigh<SPLIT_THREADS, (Q < 4 ? Q : 4), false>(t, chunk);
        if (STAGES)
            dev_cp_wait(0);
        __syncthreads();
        split_values<Q>(p, t, STAGES ? (const uint16_t *)shared : v, lo, hi, item, head, n_queries);
        if (me < n_queries) {
            float *sums = partial_at(p, item, head + me) + t.head_pad;
            sums[0] = t.m[me];
            sums[1] = t.l[me];
        }
    }
}

/* The items of a block, whose tile is used again for each. */
template <int Q, bool STAGES>
static __device__ __forceinline__ void split_items(const struct device_attend &p, const struct device_rope *r, unsigned char *shared)
{
    const int n_items = *p.batch.n_items;
    DEVICE_LOOP
    for (int item = (int)blockIdx.x; item < n_items; item += (int)gridDim.x) {
        if (item != (int)blockIdx.x)
            __syncthreads();
        split_chunk<Q, STAGES>(p, r, shared, item);
    }
}

template <int Q, bool STAGES>
__global__ void __launch_bounds__(SPLIT_THREADS, 8) attend_split(struct device_attend p)
{
    DYNAMIC_SHARED(shared);
    split_items<Q, STAGES>(p, NULL, shared);
}

/* The same for rows whose q, k and v come straight from the matrix, one row to a sequence: a block rotates its own queries, and who has the last
 * chunk writes the row's key and value before anybody of the block reads them. No other block does. */
template <int Q>
__global__ void __launch_bounds__(SPLIT_THREADS, 8) attend_rope_split(struct device_attend p, struct device_rope r)
{
    DYNAMIC_SHARED(shared);
    split_items<Q, true>(p, &r, shared);
}

/* What merging needs, in shared memory: of up to n heads. */
struct merge {
    float *values;   /* [n][head_dim], then zeros up to a whole block */
    float *a, *b;    /* [n][MERGE_CHUNKS] factors; a below 0: the first chunk */
    float *m, *l;    /* [n][MERGE_CHUNKS] of the chunks */
    float *run;      /* [n][2] maximum and sum so far */
};

/* Heads whose values are whole blocks of 32. */
static __host__ __device__ __forceinline__ int heads_of_blocks(int head_dim)
{
    int heads = 1;
    while (heads * head_dim % DEVICE_BLOCK != 0)
        heads *= 2;
    return heads;
}

static size_t merge_bytes(int heads, int head_dim)
{
    return sizeof(float) * ((size_t)(heads * head_dim) + (size_t)heads * (4 * MERGE_CHUNKS + 2));
}

/* Loads maxima and sums of visible chunks base .. base + n - 1, of which the first one is `item`, and turns them to factors. */
static __device__ __forceinline__ void merge_factors(const struct device_attend &p, const struct merge &g, int item, int heads, int head, int base,
                                                     int n)
{
    for (int i = (int)threadIdx.x; i < heads * n; i += MERGE_THREADS) {
        const float *sums = partial_at(p, item + base + i % n, head + i / n) + p.kv.head_pad;
        g.m[i / n * MERGE_CHUNKS + i % n] = sums[0];
        g.l[i / n * MERGE_CHUNKS + i % n] = sums[1];
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < heads * n; i += MERGE_THREADS) { /* each looks up the running maximum before its chunk */
        const int h = i / n, c = i % n;
        const float *m = g.m + h * MERGE_CHUNKS;
        float run = base > 0 ? g.run[2 * h] : m[0], a = -1.0f, b = 1.0f;
        for (int j = base > 0 ? 0 : 1; j < c; j++)
            run = m[j] > run ? m[j] : run;
        if (base + c > 0) {
            const float top = m[c] > run ? m[c] : run;
            a = num_exp_f32(run - top);
            b = num_exp_f32(m[c] - top);
        }
        g.a[h * MERGE_CHUNKS + c] = a;
        g.b[h * MERGE_CHUNKS + c] = b;
    }
    __syncthreads();
    for (int h = (int)threadIdx.x; h < heads; h += MERGE_THREADS) {
        const float *m = g.m + h * MERGE_CHUNKS, *l = g.l + h * MERGE_CHUNKS, *a = g.a + h * MERGE_CHUNKS, *b = g.b + h * MERGE_CHUNKS;
        float top = g.run[2 * h], sum = g.run[2 * h + 1];
        for (int c = 0; c < n; c++) {
            top = base + c == 0 || m[c] > top ? m[c] : top;
            sum = a[c] < 0.0f ? l[c] : fmaf(l[c], b[c], sum * a[c]);
        }
        g.run[2 * h] = top;
        g.run[2 * h + 1] = sum;
    }
}

/* A row's partials of as many heads as make whole blocks (fewer at the end) to O and its operand. */
__global__ void __launch_bounds__(MERGE_THREADS) attend_merge(struct device_attend p)
{
    DYNAMIC_SHARED(shared);
    const int n_dim = p.kv.head_dim, most = heads_of_blocks(n_dim), head = (int)blockIdx.y * most, me = (int)threadIdx.x;
    const int heads = at_most(most, p.n_head - head), n = heads * n_dim;
    const int row = p.batch.splits[2 * blockIdx.x], pos = row >= 0 ? p.batch.pos[row] : -1, skipped = first_visible(pos, p.window) / PAGE;
    const int item = p.batch.splits[2 * blockIdx.x + 1] + skipped;
    struct merge g;
    g.values = (float *)shared;
    g.a = g.values + most * n_dim;
    g.b = g.a + most * MERGE_CHUNKS;
    g.m = g.b + most * MERGE_CHUNKS;
    g.l = g.m + most * MERGE_CHUNKS;
    g.run = g.l + most * MERGE_CHUNKS;
    if (pos >= 0) {
        const int n_chunks = pos / PAGE - skipped + 1;
        for (int i = me; i < 2 * heads; i += MERGE_THREADS)
            g.run[i] = 0.0f;
        for (int base = 0; base < n_chunks; base += MERGE_CHUNKS) {
            const int m = at_most(MERGE_CHUNKS, n_chunks - base);
            __syncthreads();
            merge_factors(p, g, item, heads, head, base, m);
            for (int i = me; i < n; i += MERGE_THREADS) {
                const int h = i / n_dim;
                const float *o = partial_at(p, item + base, head + h) + i % n_dim, *a = g.a + h * MERGE_CHUNKS, *b = g.b + h * MERGE_CHUNKS;
                float run = base > 0 ? g.values[i] : 0.0f;
                for (int c = 0; c < m; c++, o += (size_t)p.n_head * ATTEND_PARTIAL(p.kv.head_pad))
                    run = a[c] < 0.0f ? *o : fmaf(*o, b[c], run * a[c]);
                g.values[i] = run;
            }
        }
        __syncthreads();
        float *out = p.o + (size_t)row * (size_t)p.ldo + (size_t)head * (size_t)n_dim;
        for (int i = me; i < n; i += MERGE_THREADS) {
            g.values[i] *= 1.0f / g.run[2 * (i / n_dim) + 1];
            out[i] = g.values[i];
        }
        __syncthreads();
        for (int block = me / 8; block - me % 32 / 8 < (n + DEVICE_BLOCK - 1) / DEVICE_BLOCK; block += MERGE_THREADS / 8) {
            const struct quad x = quad_load(g.values, block * DEVICE_BLOCK + me % 8 * OPERAND_QUAD, n);
            const int place = block * DEVICE_BLOCK < n ? head * n_dim / DEVICE_BLOCK + block : p.to.n_blocks; /* beyond: nowhere */
            operand_put(p.to, p.needs, row, place, x, p.fault);
        }
    }
}

/* ---- walk ---- */

/* A chunk's values for all queries of a tile, merged into the running ones. */
template <int Q>
static __device__ __forceinline__ void walk_values(const struct tile &t, const uint16_t *v, int lo, int hi, bool all)
{
    const int pairs = t.head_dim / 2;
    for (int item = (int)threadIdx.x; item < pairs * (t.n / Q); item += WALK_THREADS) {
        const int d = item % pairs * 2, query = item / pairs * Q;
        float o[Q][2];
        if (all)
            add_keys<Q, true>(t, v, d, query, lo, hi, o);
        else
            add_keys<Q, false>(t, v, d, query, lo, hi, o);
        for (int i = 0; i < Q; i++) {
            const float a = t.a[query + i], b = t.b[query + i];
            float *run = t.o + (query + i) * t.head_pad + d;
            for (int e = 0; e < 2 && b >= 0.0f; e++)
                run[e] = a < 0.0f ? o[i][e] : fmaf(o[i][e], b, run[e] * a);
        }
    }
}

/* A tile of n queries, a multiple of Q: of rows times heads of a kv head, those from blockIdx.z * n on. */
template <int Q>
__global__ void __launch_bounds__(WALK_THREADS, 4) attend_walk(struct device_attend p, int n)
{
    DYNAMIC_SHARED(shared);
    const struct tile t = tile_at(shared, p.kv, n, true);
    const int heads = p.n_head / p.kv.n_kv, kv_head = (int)blockIdx.y, me = (int)threadIdx.x;
    const int first_row = p.batch.walks[2 * blockIdx.x], n_rows = p.batch.walks[2 * blockIdx.x + 1];
    const int from = (int)blockIdx.z * n, n_queries = at_most(n, n_rows * heads - from);
    if (n_queries > 0) {
        const int row_lo = first_row + from / heads, row_hi = first_row + (from + n_queries - 1) / heads;
        const int pos_lo = p.batch.pos[row_lo], pos_hi = p.batch.pos[row_hi];
        const int seen_lo = first_visible(pos_lo, p.window), seen_all = first_visible(pos_hi, p.window);
        for (int i = me / 32; i < n; i += WALK_THREADS / 32) {
            const int query = from + i;
            load_query(p, t, i, i < n_queries ? first_row + query / heads : -1, i < n_queries ? kv_head * heads + query % heads : 0, me % 32, 32);
        }
        __syncthreads();
        for (int chunk = seen_lo / PAGE; chunk <= pos_hi / PAGE; chunk++) {
            const uint16_t *k = kv_head_at(p.kv, page_of(p.batch, row_lo, chunk), p.layer, kv_head);
            const int start = chunk * PAGE, hi = at_most(pos_hi - start, PAGE - 1), lo = seen_lo > start ? seen_lo - start : 0;
            score<WALK_THREADS, 4, 4, 1>(t, k, hi, p.scale);
            __syncthreads();
            weigh<WALK_THREADS, 4, true>(t, chunk);
            __syncthreads();
            walk_values<Q>(t, k + PAGE * t.head_pad, lo, hi, seen_all <= start + lo && pos_lo >= start + hi);
            __syncthreads();
        }
        for (int i = me; i < n_queries * t.head_dim; i += WALK_THREADS) {
            const int j = i / t.head_dim, query = from + j, row = first_row + query / heads, head = kv_head * heads + query % heads;
            p.o[(size_t)row * (size_t)p.ldo + (size_t)(head * t.head_dim + i % t.head_dim)] = t.o[j * t.head_pad + i % t.head_dim] * (1.0f / t.l[j]);
        }
    }
}

/* The rows of the walks to their operand; a warp has 4 blocks of a row. */
__global__ void __launch_bounds__(WALK_THREADS) attend_round(struct device_attend p)
{
    const int walk = (int)blockIdx.x / ATTEND_ROWS, i = (int)blockIdx.x % ATTEND_ROWS;
    if (i < p.batch.walks[2 * walk + 1]) {
        const int row = p.batch.walks[2 * walk] + i, block = ((int)blockIdx.y * WALK_THREADS + (int)threadIdx.x) / 8;
        const float *o = p.o + (size_t)row * (size_t)p.ldo;
        const struct quad x = quad_load(o, block * DEVICE_BLOCK + (int)threadIdx.x % 8 * OPERAND_QUAD, p.to.n_cols);
        operand_put(p.to, p.needs, row, block, x, p.fault);
    }
}

/* ---- launch ---- */

/* Bytes of a block that has q and values staged, and room for a key. */
static size_t rope_split_bytes(int n, int head_pad)
{
    return tile_bytes(n, head_pad, false) + values_bytes(head_pad) + sizeof(float) * (size_t)head_pad;
}

template <int Q>
static void launch_split(const struct device_attend *p, const struct device_rope *r, cudaStream_t stream)
{
    const int y = p->kv.n_kv * ceil_div(p->n_head / p->kv.n_kv, Q), most = ceil_div(p->max_blocks, y);
    const dim3 grid((unsigned)(p->batch.max_items < most ? p->batch.max_items : most), (unsigned)y);
    const size_t bytes = tile_bytes(Q, p->kv.head_pad, false), staged = bytes + values_bytes(p->kv.head_pad);
    if (r != NULL)
        LAUNCH(attend_rope_split<Q>, grid, dim3(SPLIT_THREADS), rope_split_bytes(Q, p->kv.head_pad), stream, *p, *r);
    else if (staged <= SHARED_LIMIT)
        LAUNCH((attend_split<Q, true>), grid, dim3(SPLIT_THREADS), staged, stream, *p);
    else
        LAUNCH((attend_split<Q, false>), grid, dim3(SPLIT_THREADS), bytes, stream, *p);
}

static void launch_splits(const struct device_attend *p, const struct device_rope *r, cudaStream_t stream)
{
    const int heads = p->n_head / p->kv.n_kv, most = heads_of_blocks(p->kv.head_dim);
    if (heads == 1)
        launch_split<1>(p, r, stream);
    else if (heads == 2)
        launch_split<2>(p, r, stream);
    else if (heads <= 4)
        launch_split<4>(p, r, stream);
    else
        launch_split<8>(p, r, stream);
    LAUNCH(attend_merge, dim3((unsigned)p->batch.n_splits, (unsigned)ceil_div(p->n_head, most)), dim3(MERGE_THREADS),
           merge_bytes(most, p->kv.head_dim), stream, *p);
}

/* Tiles of as many queries as a block's shared memory holds, at most 32. */
static void launch_walks(const struct device_attend *p, cudaStream_t stream)
{
    const int queries = ATTEND_ROWS * (p->n_head / p->kv.n_kv);
    int n = 32;
    while (n > 8 && tile_bytes(n, p->kv.head_pad, true) > SHARED_LIMIT)
        n /= 2;
    const dim3 grid((unsigned)p->batch.n_walks, (unsigned)p->kv.n_kv, (unsigned)ceil_div(queries, n));
    const size_t bytes = tile_bytes(n, p->kv.head_pad, true);
    if (n == 8)
        LAUNCH(attend_walk<8>, grid, dim3(WALK_THREADS), bytes, stream, *p, n);
    else
        LAUNCH(attend_walk<16>, grid, dim3(WALK_THREADS), bytes, stream, *p, n);
    const int blocks = WALK_THREADS / 8;
    LAUNCH(attend_round, dim3((unsigned)(p->batch.n_walks * ATTEND_ROWS), (unsigned)ceil_div(p->to.n_blocks, blocks)), dim3(WALK_THREADS), 0, stream,
           *p);
}

static void assert_attend(const struct device_attend *p)
{
    assert(p->kv.head_dim % 2 == 0 && p->kv.head_dim <= MAX_HEAD_DIM);
    assert(p->n_head % p->kv.n_kv == 0);
    assert(p->to.n_cols == p->n_head * p->kv.head_dim);
    assert(p->ldo % 4 == 0);
    assert(p->batch.n_splits == 0 || (p->batch.max_items > 0 && p->max_blocks > 0));
}

extern "C" cudaError_t launch_attend(const struct device_attend *p, cudaStream_t stream)
{
    assert_attend(p);
    if (p->batch.n_splits > 0)
        launch_splits(p, NULL, stream);
    if (p->batch.n_walks > 0)
        launch_walks(p, stream);
    return cudaGetLastError();
}

extern "C" bool attend_ropes(const struct device_batch *batch, const struct device_kv *kv, int n_head)
{
    return batch->n_walks == 0 && n_head / kv->n_kv <= 8 && rope_split_bytes(8, kv->head_pad) <= SHARED_LIMIT;
}

extern "C" cudaError_t launch_rope_attend(const struct device_rope *r, const struct device_attend *p, cudaStream_t stream)
{
    assert_attend(p);
    assert(attend_ropes(&p->batch, &p->kv, p->n_head));
    assert(r->layer == p->layer && r->n_head == p->n_head && r->qkv == p->qkv);
    assert((r->q_norm == NULL) == (r->k_norm == NULL));
    if (p->batch.n_splits > 0)
        launch_splits(p, r, stream);
    return cudaGetLastError();
}

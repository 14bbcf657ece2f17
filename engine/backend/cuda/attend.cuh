/* attend.cuh: attention over one chunk of 64 positions for the queries of a block, the common part of attend.cu's kernels, whose formula it quotes.
 *
 * A thread owns a key in the scores (K lies [d / 8][64][8]: 16 bytes are 8 dimensions of a key, neighbours are neighbouring keys) and two dimensions
 * in the values (V lies [64][d]), so every chain is a thread's own. Query heads that share a kv head are computed together: a K or V that was
 * loaded serves all of them. A chunk takes three phases with a barrier after each:
 *
 *   scores   K_THREAD keys x S queries in registers                     -> shared [key][query]
 *   weights  a warp has 4 queries, a lane 2 keys of each: max, exp, sum  -> in place, -1 where a query does not see the key
 *   values   two dimensions x Q queries in registers                     -> partials, or merged into shared [query][d]
 *
 * Keys beyond the last visible one are never read; those that only some of a tile's queries see are selected away. */
#ifndef NEXTD_CUDA_ATTEND_CUH
#define NEXTD_CUDA_ATTEND_CUH

#include "engine/backend/cuda/kv.cuh"

#define HIDDEN (-1.0f) /* the weight of a key that a query does not see; weights are never negative */

static __device__ __forceinline__ int at_most(int a, int b)
{
    return a < b ? a : b;
}

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

#endif

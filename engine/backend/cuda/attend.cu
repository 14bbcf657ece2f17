/* attend.cu: attention over the KV pages, in the order of engine/backend/cpu/lanes.h, whose formula this computes bit for bit:
 *
 *   chunks of 64 positions from position 0 (a page each); those without a visible position are skipped; in each, for visible positions t:
 *     s[t] = scale * chain, chain = fma(k[t][d], q[d], chain), d ascending;  m = max s;  p[t] = exp(s[t] - m);  l = fold64(p)
 *     o[d] = fma(v[t][d], p[t], o[d]), t ascending
 *   merged ascending, the first one taken as it is: M' = max(M, m), a = exp(M - M'), b = exp(m - M'), L = fma(l, b, L a), O = fma(o, b, O a)
 *   result = O * (1 / L)
 *
 * Three ways with the same bits, made of the same chunks (attend.cuh). `split`, few rows: a block has one (row, kv head, chunk) at a time and leaves
 * a partial; another kernel merges a row's partials and makes the operand. `whole`, rows enough to keep the device busy: a block has all chunks of a
 * row and merges as it goes, so that no partial is written and read again. `walk`, prompts: a block has a tile of queries (rows x heads) of a kv
 * head, and goes on as `whole`.
 *
 * The grid of split does not tell the step: blocks take the items (row, chunk) of a list in device memory by turns. So a captured launch serves rows
 * of any length, and rows of unequal lengths leave no block idle.
 *
 *   attend_   grid                                       threads  shared
 *   split     items at most, n_kv * tiles of heads (y)      64     values of the chunk, queries and scores of up to 8: 23 KiB for heads of 128;
 *                                                                  no more blocks than max_blocks, about
 *   rope_split as split                                     64     the same and a key
 *   merge     n_splits, groups of heads                    128     values of a group, factors of 64 chunks
 *   whole, rope_whole  n_splits, n_kv * tiles of heads      64     as split, and the running values
 *   walk      n_walks, n_kv, tiles of queries              128     queries, scores and values of up to 32: 42 KiB for heads of 128
 *   round     16 n_walks or n_splits, n_blocks / 16        128     - */
#include <assert.h>

#include "engine/backend/cuda/attend.cuh"

#define SPLIT_THREADS 64
#define WALK_THREADS 128
#define MERGE_THREADS 128
#define MERGE_CHUNKS 64       /* whose factors are computed together */
#define MERGE_AHEAD 8         /* whose values are asked for together */
#define SHARED_LIMIT 49152    /* bytes of a block without asking for more */
#define MAX_HEAD_DIM 512

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
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
    float *l;        /* [n][MERGE_CHUNKS] sums of the chunks */
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
    return sizeof(float) * ((size_t)(heads * head_dim) + (size_t)heads * (3 * MERGE_CHUNKS + 2));
}

/* The maximum of lanes 0 .. lane; of equals the first, as one after another would have it. */
static __device__ __forceinline__ float scan_max(float x)
{
    const int lane = (int)threadIdx.x % 32;
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        const float other = __shfl_sync(ALL_LANES, x, (lane - lanes) & 31);
        x = lane < lanes || x > other ? x : other;
    }
    return x;
}

/* What a chunk of maximum m does to what ran up to maximum `run`. */
static __device__ __forceinline__ void put_factors(const struct merge &g, int at, bool first, float run, float m, float l)
{
    const float top = m > run ? m : run;
    g.a[at] = first ? -1.0f : num_exp_f32(run - top);
    g.b[at] = first ? 1.0f : num_exp_f32(m - top);
    g.l[at] = l;
}

/* Loads maxima and sums of visible chunks base .. base + n - 1, of which the first one is `item`, and turns them to factors. A warp has a head, a
 * lane two chunks. */
static __device__ __forceinline__ void merge_factors(const struct device_attend &p, const struct merge &g, int item, int heads, int head, int base,
                                                     int n)
{
    const int lane = (int)threadIdx.x % 32;
    for (int h = (int)threadIdx.x / 32; h < heads; h += MERGE_THREADS / 32) {
        float m[2], l[2];
        for (int i = 0; i < 2; i++) {
            const int c = lane + 32 * i;
            const float *sums = partial_at(p, item + base + (c < n ? c : 0), head + h) + p.kv.head_pad;
            m[i] = c < n ? sums[0] : -INFINITY;
            l[i] = c < n ? sums[1] : 0.0f;
        }
        const float before = base > 0 ? g.run[2 * h] : -INFINITY;
        float low = scan_max(m[0]), high = scan_max(m[1]);
        low = low > before ? low : before;
        const float middle = __shfl_sync(ALL_LANES, low, 31);
        high = high > middle ? high : middle;
        const float run[2] = {__shfl_sync(ALL_LANES, low, (lane - 1) & 31), __shfl_sync(ALL_LANES, high, (lane - 1) & 31)};
        const float top = __shfl_sync(ALL_LANES, high, 31);
        put_factors(g, h * MERGE_CHUNKS + lane, base + lane == 0, lane == 0 ? before : run[0], m[0], l[0]);
        put_factors(g, h * MERGE_CHUNKS + lane + 32, false, lane == 0 ? middle : run[1], m[1], l[1]);
        __syncwarp(); /* all lanes have read what the first one writes: `before` */
        if (lane == 0)
            g.run[2 * h] = top;
    }
    __syncthreads();
    for (int h = (int)threadIdx.x; h < heads; h += MERGE_THREADS) {
        float sum = g.run[2 * h + 1];
        for (int c = 0; c < n; c += 4) {
            float a[4], b[4], l[4];
            read_floats<4>(g.a + h * MERGE_CHUNKS + c, a);
            read_floats<4>(g.b + h * MERGE_CHUNKS + c, b);
            read_floats<4>(g.l + h * MERGE_CHUNKS + c, l);
            DEVICE_UNROLL
            for (int k = 0; k < 4; k++)
                if (c + k < n)
                    sum = a[k] < 0.0f ? l[k] : fmaf(l[k], b[k], sum * a[k]);
        }
        g.run[2 * h + 1] = sum;
    }
}

/* The values of dimension d of a head over n chunks from `item` on, merged into `run`. */
static __device__ __forceinline__ float merge_values(const struct device_attend &p, const struct merge &g, int item, int h, int head, int d, int n,
                                                     float run)
{
    const float *o = partial_at(p, item, head + h) + d, *a = g.a + h * MERGE_CHUNKS, *b = g.b + h * MERGE_CHUNKS;
    const size_t stride = (size_t)p.n_head * ATTEND_PARTIAL(p.kv.head_pad);
    for (int c = 0; c < n; c += MERGE_AHEAD) {
        float x[MERGE_AHEAD];
        DEVICE_UNROLL
        for (int k = 0; k < MERGE_AHEAD; k++)
            x[k] = c + k < n ? o[(size_t)(c + k) * stride] : 0.0f;
        DEVICE_UNROLL
        for (int k = 0; k < MERGE_AHEAD; k++)
            if (c + k < n)
                run = a[c + k] < 0.0f ? x[k] : fmaf(x[k], b[c + k], run * a[c + k]);
    }
    return run;
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
    g.l = g.b + most * MERGE_CHUNKS;
    g.run = g.l + most * MERGE_CHUNKS;
    if (pos >= 0) {
        const int n_chunks = pos / PAGE - skipped + 1;
        for (int i = me; i < 2 * heads; i += MERGE_THREADS)
            g.run[i] = 0.0f;
        for (int base = 0; base < n_chunks; base += MERGE_CHUNKS) {
            const int m = at_most(MERGE_CHUNKS, n_chunks - base);
            __syncthreads();
            merge_factors(p, g, item, heads, head, base, m);
            for (int i = me; i < n; i += MERGE_THREADS)
                g.values[i] = merge_values(p, g, item + base, i / n_dim, head, i % n_dim, m, base > 0 ? g.values[i] : 0.0f);
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
template <int THREADS, int Q>
static __device__ __forceinline__ void walk_values(const struct tile &t, const uint16_t *v, int lo, int hi, bool all)
{
    const int pairs = t.head_dim / 2;
    for (int item = (int)threadIdx.x; item < pairs * (t.n / Q); item += THREADS) {
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

/* A tile of N queries: of rows times heads of a kv head, those from blockIdx.z * N on. */
template <int N>
__global__ void __launch_bounds__(WALK_THREADS, 4) attend_walk(struct device_attend p)
{
    DYNAMIC_SHARED(shared);
    constexpr int n = N, Q = N < 16 ? N : 16; /* queries of a thread's values */
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
            walk_values<WALK_THREADS, Q>(t, k + PAGE * t.head_pad, lo, hi, seen_all <= start + lo && pos_lo >= start + hi);
            __syncthreads();
        }
        for (int i = me; i < n_queries * t.head_dim; i += WALK_THREADS) {
            const int j = i / t.head_dim, query = from + j, row = first_row + query / heads, head = kv_head * heads + query % heads;
            p.o[(size_t)row * (size_t)p.ldo + (size_t)(head * t.head_dim + i % t.head_dim)] = t.o[j * t.head_pad + i % t.head_dim] * (1.0f / t.l[j]);
        }
    }
}

/* ---- whole ---- */

/* All chunks of one row for up to Q heads of a kv head; values are staged as in split, of one chunk at a time. r as in split: the row's key and value
 * are written before any chunk, and no other block reads them. */
template <int Q>
static __device__ __forceinline__ void whole_row(const struct device_attend &p, const struct device_rope *r, unsigned char *shared)
{
    const struct tile t = tile_at(shared + PAGE * 2 * p.kv.head_pad, p.kv, Q, true);
    const int heads = p.n_head / p.kv.n_kv, tiles = (heads + Q - 1) / Q, me = (int)threadIdx.x;
    const int kv_head = (int)blockIdx.y / tiles, head = kv_head * heads + (int)blockIdx.y % tiles * Q;
    const int n_queries = at_most(Q, (kv_head + 1) * heads - head), row = p.batch.splits[2 * blockIdx.x], pos = row >= 0 ? p.batch.pos[row] : -1;
    if (pos >= 0) {
        const int first = first_visible(pos, p.window);
        for (int i = 0; i < Q; i++)
            load_query(p, t, i, i < n_queries ? row : -1, i < n_queries ? head + i : 0, me, SPLIT_THREADS);
        __syncthreads();
        if (r != NULL) {
            rope_tile(*r, t, row, kv_head, n_queries, kv_head_at(p.kv, page_of(p.batch, row, pos / PAGE), p.layer, kv_head), (float *)(t.last + Q));
            __syncthreads();
        }
        DEVICE_LOOP
        for (int chunk = first / PAGE; chunk <= pos / PAGE; chunk++) {
            const uint16_t *k = kv_head_at(p.kv, page_of(p.batch, row, chunk), p.layer, kv_head);
            const int start = chunk * PAGE, hi = at_most(pos - start, PAGE - 1), lo = first > start ? first - start : 0;
            stage_values((uint16_t *)shared, k + PAGE * t.head_pad, lo, hi, t.head_pad);
            score<SPLIT_THREADS, 1, Q, 4>(t, k, hi, p.scale);
            __syncthreads();
            weigh<SPLIT_THREADS, (Q < 4 ? Q : 4), true>(t, chunk);
            dev_cp_wait(0);
            __syncthreads();
            walk_values<SPLIT_THREADS, Q>(t, (const uint16_t *)shared, lo, hi, true);
            __syncthreads();
        }
        float *out = p.o + (size_t)row * (size_t)p.ldo + (size_t)head * (size_t)t.head_dim;
        for (int i = me; i < n_queries * t.head_dim; i += SPLIT_THREADS)
            out[i] = t.o[i / t.head_dim * t.head_pad + i % t.head_dim] * (1.0f / t.l[i / t.head_dim]);
    }
}

template <int Q>
__global__ void __launch_bounds__(SPLIT_THREADS, 8) attend_whole(struct device_attend p)
{
    DYNAMIC_SHARED(shared);
    whole_row<Q>(p, NULL, shared);
}

template <int Q>
__global__ void __launch_bounds__(SPLIT_THREADS, 8) attend_rope_whole(struct device_attend p, struct device_rope r)
{
    DYNAMIC_SHARED(shared);
    whole_row<Q>(p, &r, shared);
}

/* The rows of the walks, or of the splits, to their operand; a warp has 4 blocks of a row. */
__global__ void __launch_bounds__(WALK_THREADS) attend_round(struct device_attend p, bool walks)
{
    const int walk = (int)blockIdx.x / ATTEND_ROWS, i = (int)blockIdx.x % ATTEND_ROWS;
    const int first = walks ? p.batch.walks[2 * walk] : p.batch.splits[2 * blockIdx.x];
    if (walks ? i < p.batch.walks[2 * walk + 1] : first >= 0) {
        const int row = walks ? first + i : first, block = ((int)blockIdx.y * WALK_THREADS + (int)threadIdx.x) / 8;
        const float *o = p.o + (size_t)row * (size_t)p.ldo;
        const struct quad x = quad_load(o, block * DEVICE_BLOCK + (int)threadIdx.x % 8 * OPERAND_QUAD, p.to.n_cols);
        operand_put(p.to, p.needs, row, block, x, p.fault);
    }
}

/* ---- launch ---- */

/* Bytes of a block that has q and values staged, and room for a key. */
static size_t rope_bytes(int n, int head_pad, bool whole)
{
    return tile_bytes(n, head_pad, whole) + values_bytes(head_pad) + sizeof(float) * (size_t)head_pad;
}

static void launch_round(const struct device_attend *p, bool walks, cudaStream_t stream)
{
    const int n = walks ? p->batch.n_walks * ATTEND_ROWS : p->batch.n_splits, blocks = WALK_THREADS / 8;
    LAUNCH(attend_round, dim3((unsigned)n, (unsigned)ceil_div(p->to.n_blocks, blocks)), dim3(WALK_THREADS), 0, stream, *p, walks);
}

template <int Q>
static void launch_whole(const struct device_attend *p, const struct device_rope *r, cudaStream_t stream)
{
    const int tiles = ceil_div(p->n_head / p->kv.n_kv, Q);
    const dim3 grid((unsigned)p->batch.n_splits, (unsigned)(p->kv.n_kv * tiles));
    const size_t bytes = rope_bytes(Q, p->kv.head_pad, true);
    if (r != NULL)
        LAUNCH(attend_rope_whole<Q>, grid, dim3(SPLIT_THREADS), bytes, stream, *p, *r);
    else
        LAUNCH(attend_whole<Q>, grid, dim3(SPLIT_THREADS), bytes, stream, *p);
}

template <int Q>
static void launch_split(const struct device_attend *p, const struct device_rope *r, cudaStream_t stream)
{
    const int y = p->kv.n_kv * ceil_div(p->n_head / p->kv.n_kv, Q), most = ceil_div(p->max_blocks, y);
    const dim3 grid((unsigned)(p->batch.max_items < most ? p->batch.max_items : most), (unsigned)y);
    const size_t bytes = tile_bytes(Q, p->kv.head_pad, false), staged = bytes + values_bytes(p->kv.head_pad);
    if (r != NULL)
        LAUNCH(attend_rope_split<Q>, grid, dim3(SPLIT_THREADS), rope_bytes(Q, p->kv.head_pad, false), stream, *p, *r);
    else if (staged <= SHARED_LIMIT)
        LAUNCH((attend_split<Q, true>), grid, dim3(SPLIT_THREADS), staged, stream, *p);
    else
        LAUNCH((attend_split<Q, false>), grid, dim3(SPLIT_THREADS), bytes, stream, *p);
}

static void launch_splits(const struct device_attend *p, const struct device_rope *r, cudaStream_t stream)
{
    const int heads = p->n_head / p->kv.n_kv, most = heads_of_blocks(p->kv.head_dim);
    const int q = heads <= 2 ? heads : heads <= 4 ? 4 : 8;
    const bool whole = p->whole && rope_bytes(q, p->kv.head_pad, true) <= SHARED_LIMIT;
    if (q == 1)
        (whole ? launch_whole<1> : launch_split<1>)(p, r, stream);
    else if (q == 2)
        (whole ? launch_whole<2> : launch_split<2>)(p, r, stream);
    else if (q == 4)
        (whole ? launch_whole<4> : launch_split<4>)(p, r, stream);
    else
        (whole ? launch_whole<8> : launch_split<8>)(p, r, stream);
    if (whole)
        launch_round(p, false, stream);
    else
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
        LAUNCH(attend_walk<8>, grid, dim3(WALK_THREADS), bytes, stream, *p);
    else if (n == 16)
        LAUNCH(attend_walk<16>, grid, dim3(WALK_THREADS), bytes, stream, *p);
    else
        LAUNCH(attend_walk<32>, grid, dim3(WALK_THREADS), bytes, stream, *p);
    launch_round(p, true, stream);
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
    return batch->n_walks == 0 && n_head / kv->n_kv <= 8 && rope_bytes(8, kv->head_pad, false) <= SHARED_LIMIT;
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

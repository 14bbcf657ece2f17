/* draw.cu: rows of scores to tokens and log-probabilities on the device; sampler.h says what, sampler.c is what every bit is held against.
 *
 *   draw_    grid                   threads  shared
 *   edit     n_rows                 512      4 B a block of 256 ids
 *   sum      n_blocks / 32, n_rows  256      -                        block sums of exponentials, in the order of rows.h
 *   choose   n_rows, 2              512      8 B a block, >= 4 KiB    y = 0: the token; y = 1: log-sum-exp and the most likely tokens
 *
 * Greedy, and the draw by temperature alone, are sampler.c's own order: block sums, their running total in f64, one block walked. They are always
 * decided. Truncations are survivors.cuh's, and so is the draw from what they leave: a row in doubt - a few draws in a million of the flattest rows,
 * more by typical_p - is not decided. Its id is -1, and the host draws from it. */
#include <assert.h>

#include "engine/backend/cuda/survivors.cuh"

#define SUM_THREADS 256
#define SUM_BLOCKS 32 /* of ids, that a block of threads sums */
#define LANES 16      /* that add up a block of ids */

/* ---- edits ---- */

static __device__ __forceinline__ float penalised(const struct device_draw &d, float z, uint32_t n_output)
{
    z = z > 0 ? z / d.repetition_penalty : z * d.repetition_penalty;
    if (n_output > 0) {
        z -= (float)n_output * d.frequency_penalty;
        z -= d.presence_penalty;
    }
    return z;
}

#define UNTOUCHED (-1)
#define TAKEN (-2)

static __device__ __forceinline__ float *changed_at(const struct device_draws &p, const int *touched, int id)
{
    return &p.changed[touched[id / DEVICE_SCORES]][id % DEVICE_SCORES];
}

/* Touched blocks of a row are copied, then changed: bias, bans, penalties. Ids of a kind are distinct, or are banned twice. */
__global__ void __launch_bounds__(THREADS) draw_edit(struct device_draws p)
{
    DYNAMIC_SHARED(shared);
    SHARED(int, n_taken, 1);
    int *touched = (int *)shared; /* where a block of ids lies in p.changed */
    const int row = (int)blockIdx.x, me = (int)threadIdx.x, lane = me % 32;
    const struct device_draw d = p.draws[row];
    const int n_edits = d.n_bias + d.n_bans + d.n_counts;
    const struct device_edit *bias = p.edits + d.first_edit, *bans = bias + d.n_bias, *counts = bans + d.n_bans;
    const float *raw = p.scores + (size_t)row * (size_t)p.ld, *most = p.most + (size_t)row * (size_t)p.n_blocks;
    float *changed_most = p.changed_most + (size_t)row * (size_t)p.n_blocks;
    if (n_edits > 0) {
        for (int b = me; b < p.n_blocks; b += THREADS)
            touched[b] = UNTOUCHED;
        if (me == 0)
            *n_taken = 0;
        __syncthreads();
        for (int i = me; i < n_edits; i += THREADS) {
            int *at = &touched[bias[i].id / DEVICE_SCORES];
            if (atomicCAS(at, UNTOUCHED, TAKEN) == UNTOUCHED)
                atomicExch(at, d.first_block + atomicAdd(n_taken, 1));
        }
        __syncthreads();
        for (int b = me / 32; b < p.n_blocks; b += WARPS)
            for (int i = lane; touched[b] >= 0 && i < DEVICE_SCORES && b * DEVICE_SCORES + i < p.n_vocab; i += 32)
                p.changed[touched[b]][i] = raw[b * DEVICE_SCORES + i];
        __syncthreads();
        for (int i = me; i < d.n_bias; i += THREADS)
            *changed_at(p, touched, bias[i].id) += num_f32_from_bits(bias[i].bits);
        __syncthreads();
        for (int i = me; i < d.n_bans; i += THREADS)
            atomicExch((int *)changed_at(p, touched, bans[i].id), (int)0xff800000u); /* -infinity */
        __syncthreads();
        for (int i = me; i < d.n_counts; i += THREADS) {
            float *at = changed_at(p, touched, counts[i].id);
            *at = penalised(d, *at, counts[i].bits);
        }
        __syncthreads();
        for (int b = me / 32; b < p.n_blocks; b += WARPS) {
            float m = touched[b] >= 0 ? -INFINITY : most[b];
            for (int i = lane; touched[b] >= 0 && i < DEVICE_SCORES && b * DEVICE_SCORES + i < p.n_vocab; i += 32)
                m = p.changed[touched[b]][i] > m ? p.changed[touched[b]][i] : m;
            m = warp_max(m);
            if (lane == 0) {
                changed_most[b] = m;
                p.touched[(size_t)row * (size_t)p.n_blocks + (size_t)b] = touched[b];
            }
        }
    }
}

/* ---- the token ---- */

/* The first id of the largest logit; max is the largest of v.most. */
static __device__ __forceinline__ int first_best(struct common *c, const struct picture &v, float max)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        c->first = v.n_blocks - 1;
        c->last = DEVICE_SCORES - 1;
    }
    __syncthreads();
    for (int b = (int)threadIdx.x; b < v.n_blocks; b += THREADS)
        if (v.most[b] == max)
            atomicMin(&c->first, b);
    __syncthreads();
    const int b = c->first;
    const float *x = values_of(v, b);
    for (int i = (int)threadIdx.x; i < size_of(v, b); i += THREADS)
        if (x[i] == max)
            atomicMin(&c->last, i);
    __syncthreads();
    return b * DEVICE_SCORES + c->last;
}

/* Running totals of the blocks' sums, in order; returns the last. */
static __device__ __forceinline__ double add_sums(const float *sums, int n, double *running)
{
    for (int b = (int)threadIdx.x; b < n; b += THREADS)
        running[b] = (double)sums[b];
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        for (int b = 0; b < n; b++)
            running[b] = sum += running[b];
    }
    __syncthreads();
    return running[n - 1];
}

/* The inverse CDF over the whole row: the block in which the sums pass the target, then the weights in it. */
static __device__ __forceinline__ int draw_plain(struct common *c, const struct picture &v, const float *sums, const double *running, double target)
{
    float *weights = (float *)c->items;
    __syncthreads();
    if (threadIdx.x == 0) {
        c->first = v.n_blocks;
        c->last = 0;
    }
    __syncthreads();
    for (int b = (int)threadIdx.x; b < v.n_blocks; b += THREADS) {
        if (sums[b] > 0 && running[b] > target)
            atomicMin(&c->first, b);
        if (sums[b] > 0)
            atomicMax(&c->last, b);
    }
    __syncthreads();
    const bool found = c->first < v.n_blocks;
    const int b = found ? c->first : c->last;
    const float *x = values_of(v, b);
    for (int i = (int)threadIdx.x; i < DEVICE_SCORES; i += THREADS)
        weights[i] = i < size_of(v, b) ? weight_of(v, x[i]) : 0.0f;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = !found ? running[v.n_blocks - 1] : b > 0 ? running[b - 1] : 0;
        int last = -1;
        for (int i = 0; i < DEVICE_SCORES && (last < 0 || !(sum > target)); i++)
            if (weights[i] > 0) {
                last = i;
                sum += (double)weights[i];
            }
        c->last = last;
    }
    __syncthreads();
    return c->last < 0 ? -1 : b * DEVICE_SCORES + c->last;
}

/* The same over the survivors, by masses; -1 in doubt. */
static __device__ __forceinline__ int draw_survivor(struct common *c, const struct picture &v, mass_t *cells, double u)
{
    const auto all = [](float) { return true; };
    const mass_t total = total_of(c, v, cells); /* leaves the blocks' masses */
    const double target = u * from_mass(total, false), slack = slack_of(v, total);
    const int id = find_id<false>(c, v, cells, 0, target, all);
    const bool sure = from_mass(c->before, false) < target - slack && from_mass(c->before + c->mass, false) > target + slack;
    return id >= 0 && sure ? id : -1;
}

static __device__ __forceinline__ int draw_truncated(struct common *c, struct picture *v, const struct device_draw &d, const float *sums,
                                                     mass_t *cells)
{
    bool listed = d.top_k > 0;
    if (d.top_k > 0)
        top_k(c, v, cells, d.top_k);
    if (d.typical_p < 1) {
        if (!typical(c, v, cells, d.typical_p))
            return -1;
        listed = true;
    }
    if (d.top_p < 1) {
        const double total = listed ? -1 : add_sums(sums, v->n_blocks, (double *)cells);
        if (!top_p(c, v, cells, d.top_p, total))
            return -1;
    }
    if (d.min_p > 0)
        min_p(c, v, d.min_p, d.min_p_depth);
    return draw_survivor(c, *v, cells, d.u);
}

/* The id of a row, for all threads. */
static __device__ __forceinline__ int choose(const struct device_draws &p, int row, const struct device_draw &d, struct common *c, void *cells)
{
    struct picture v = picture_of(p, row, d.n_bias + d.n_bans + d.n_counts > 0);
    const float *sums = p.sums + (size_t)row * (size_t)p.n_blocks;
    v.max = block_max(v.most, v.n_blocks, c->warps, THREADS);
    v.scale = d.scale;
    if (!(v.max > -INFINITY)) { /* all are banned: the best of the raw ones */
        v = picture_of(p, row, false);
        return first_best(c, v, block_max(v.most, v.n_blocks, c->warps, THREADS));
    }
    if (d.scale == 0 || v.max == INFINITY)
        return first_best(c, v, v.max);
    if (d.top_k > 0 || d.typical_p < 1 || d.top_p < 1 || d.min_p > 0)
        return draw_truncated(c, &v, d, sums, (mass_t *)cells);
    const double total = add_sums(sums, v.n_blocks, (double *)cells);
    return draw_plain(c, v, sums, (const double *)cells, d.u * total);
}

/* ---- log-probabilities ---- */

/* The n most likely tokens by one warp: the block with the best head gives it and looks for its next. A head is the largest logit of a block that
 * comes after the last one taken. */
static __device__ __forceinline__ void find_top(const struct picture &v, float *heads, int n, struct drawn *out)
{
    const int lane = (int)threadIdx.x % 32;
    float taken = INFINITY;
    int taken_id = -1;
    for (int b = lane; b < v.n_blocks; b += 32)
        heads[b] = v.most[b];
    __syncwarp();
    for (int k = 0; k < n; k++) {
        float best = -INFINITY;
        int block = v.n_blocks;
        for (int b = lane; b < v.n_blocks; b += 32)
            if (heads[b] > best || block == v.n_blocks) {
                best = heads[b];
                block = b;
            }
        const float max = warp_max(best);
        block = __reduce_min_sync(ALL_LANES, best == max ? block : v.n_blocks);
        block = block < v.n_blocks ? block : v.n_blocks - 1;
        const int begin = block * DEVICE_SCORES, end = begin + size_of(v, block);
        int id = v.n_vocab - 1;
        for (int i = end - 32 + lane; i >= begin - 31; i -= 32) /* from the end, so that the lowest id stays */
            if (i >= begin && v.raw[i] == max && (max < taken || i > taken_id))
                id = i;
        taken_id = __reduce_min_sync(ALL_LANES, id);
        taken = max;
        float next = -INFINITY;
        for (int i = begin + lane; i < end; i += 32)
            if ((v.raw[i] < taken || (v.raw[i] == taken && i > taken_id)) && v.raw[i] > next)
                next = v.raw[i];
        next = warp_max(next);
        __syncwarp();
        if (lane == 0) {
            heads[block] = next;
            out->top_id[k] = taken_id;
            out->top[k] = taken;
        }
        __syncwarp();
    }
    if (lane == 0)
        out->n_top = n;
}

static __device__ __forceinline__ void score(const struct device_draws &p, int row, const struct device_draw &d, struct common *c, void *cells)
{
    const struct picture v = picture_of(p, row, false);
    const float max = block_max(v.most, v.n_blocks, c->warps, THREADS);
    const double total = add_sums(p.raw_sums + (size_t)row * (size_t)p.n_blocks, v.n_blocks, (double *)cells);
    if (threadIdx.x == 0)
        p.drawn[row].log_sum_exp = max == -INFINITY ? (double)-INFINITY : (double)max + num_log(total);
    __syncthreads();
    if (threadIdx.x / 32 == 0)
        find_top(v, (float *)cells, d.n_top < v.n_vocab ? d.n_top : v.n_vocab, &p.drawn[row]);
}

/* ---- kernels ---- */

/* Sum of e^((x - max) * scale) over a block of ids, by 16 lanes, for the first of them. */
static __device__ __forceinline__ float sum_exp(const float *x, int n, float max, float scale)
{
    float sum = 0.0f;
    for (int i = (int)threadIdx.x % LANES; i < n; i += LANES)
        sum += num_exp_f32((x[i] - max) * scale);
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    return sum;
}

/* Both sums of 32 blocks of a row: the raw one where log-probabilities are wanted, the other where something is drawn. */
__global__ void __launch_bounds__(SUM_THREADS) draw_sum(struct device_draws p)
{
    SHARED(float, warps, SUM_THREADS / 32);
    const int row = (int)blockIdx.y;
    const struct device_draw d = p.draws[row];
    const bool scores = d.n_top >= 0, draws = d.id == -1 && d.scale > 0;
    const struct picture raw = picture_of(p, row, false), v = picture_of(p, row, d.n_bias + d.n_bans + d.n_counts > 0);
    if (scores || draws) {
        const float raw_max = block_max(raw.most, v.n_blocks, warps, SUM_THREADS);
        const float max = v.touched == NULL ? raw_max : block_max(v.most, v.n_blocks, warps, SUM_THREADS);
        const bool same = v.touched == NULL && d.scale == 1;
        const size_t at = (size_t)row * (size_t)p.n_blocks;
        for (int k = 0; k < SUM_BLOCKS * LANES / SUM_THREADS; k++) {
            const int b = (int)blockIdx.x * SUM_BLOCKS + k * (SUM_THREADS / LANES) + (int)threadIdx.x / LANES, begin = b * DEVICE_SCORES;
            const int n = b < p.n_blocks ? size_of(v, b) : 0;
            const bool mine = n > 0 && threadIdx.x % LANES == 0;
            const float plain = scores || same ? sum_exp(raw.raw + begin, n, raw_max, 1.0f) : 0.0f;
            const float sum = draws && !same ? sum_exp(values_of(v, n > 0 ? b : 0), n, max, d.scale) : plain;
            if (mine && scores)
                p.raw_sums[at + (size_t)b] = plain;
            if (mine && draws)
                p.sums[at + (size_t)b] = sum;
        }
    }
}

__global__ void __launch_bounds__(THREADS, 1) draw_choose(struct device_draws p)
{
    DYNAMIC_SHARED(cells);
    SHARED(struct common, c, 1);
    const int row = (int)blockIdx.x;
    const struct device_draw d = p.draws[row];
    const float *raw = p.scores + (size_t)row * (size_t)p.ld;
    if (blockIdx.y == 1) {
        if (d.n_top >= 0)
            score(p, row, d, c, cells);
        else if (threadIdx.x == 0)
            p.drawn[row].n_top = 0;
    } else {
        const int id = d.id >= 0 ? d.id : d.id == -2 ? -1 : choose(p, row, d, c, cells);
        if (threadIdx.x == 0) {
            p.drawn[row].id = id;
            p.drawn[row].logit = id < 0 ? 0.0f : raw[id];
            if (d.slot >= 0)
                p.slots[d.slot] = id;
        }
    }
}

extern "C" cudaError_t launch_draws(const struct device_draws *p, cudaStream_t stream)
{
    assert(p->n_rows > 0 && p->n_vocab > 0 && p->n_vocab <= DRAW_MAX_VOCAB && p->ld >= p->n_vocab);
    assert(p->n_blocks == (p->n_vocab + DEVICE_SCORES - 1) / DEVICE_SCORES);
    const size_t cells = (size_t)(p->n_blocks > CELLS ? p->n_blocks : CELLS);
    const dim3 sums((unsigned)((p->n_blocks + SUM_BLOCKS - 1) / SUM_BLOCKS), (unsigned)p->n_rows);
    if (p->edits_any)
        LAUNCH(draw_edit, dim3((unsigned)p->n_rows), dim3(THREADS), (size_t)p->n_blocks * sizeof(int), stream, *p);
    if (p->sums_any)
        LAUNCH(draw_sum, sums, dim3(SUM_THREADS), 0, stream, *p);
    LAUNCH(draw_choose, dim3((unsigned)p->n_rows, 2), dim3(THREADS), cells * sizeof(mass_t), stream, *p);
    return cudaGetLastError();
}

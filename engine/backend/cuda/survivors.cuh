/* survivors.cuh: which tokens of a row survive its truncations, and where a mass of them ends, without a list of them.
 *
 * What survives is told by a few bounds (struct picture), and whoever walks over the row asks them. top_k, typical_p, top_p and min_p are one
 * question each: which items, in some order, does a mass reach? Its answer is a border, found by histograms of 512 cells, best first: over the depth
 * below the maximum, then over the bits of an order-preserving key of those in the cell that has the border, until one score is left; among equals
 * the lowest ids come first.
 *
 * Masses are integers, floor(weight * 2^43): their sums have no order, so that all threads add at once, and they lie within n * 2^-43 of any sum of
 * f64 over the same weights, plus what such sums differ by. An item whose mass begins and ends further than that from the target is where sampler.c
 * finds it, too; otherwise it is in doubt, and so is the row. A border by count (top_k) is never in doubt, one of typical_p also where rounding might
 * swap another logit with the one at the border.
 *
 * All functions are called by all threads of a block of THREADS, unless they say so. */
#ifndef NEXTD_CUDA_SURVIVORS_CUH
#define NEXTD_CUDA_SURVIVORS_CUH

#include <float.h>

#include "engine/backend/cuda/device.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/numerics/numerics.h"

#define ALL_LANES 0xffffffffu
#define THREADS 512
#define WARPS (THREADS / 32)
#define CELLS 512            /* of a histogram */
#define DEPTH_CELLS 16.0f    /* to a unit of depth */
#define ONE 8796093022208.0f /* 2^43: the mass of weight 1 */

typedef unsigned long long mass_t;

/* ---- what a block of threads has together ---- */

struct common {
    float warps[WARPS];
    double warps_sum[WARPS], warps_more[WARPS];
    mass_t items[DEVICE_SCORES];
    mass_t mass, before; /* what find_cell found */
    int cell, first, last;
    unsigned low_key, high_key;
    float max;
};

static __device__ __forceinline__ float warp_max(float m)
{
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, m, lanes);
        m = other > m ? other : m;
    }
    return m;
}

/* The largest of x[0 .. n-1], for all threads. */
static __device__ __forceinline__ float block_max(const float *x, int n, float *warps, int n_threads)
{
    float m = -INFINITY;
    for (int i = (int)threadIdx.x; i < n; i += n_threads)
        m = x[i] > m ? x[i] : m;
    m = warp_max(m);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = m;
    __syncthreads();
    m = warps[0];
    for (int i = 1; i < n_threads / 32; i++)
        m = warps[i] > m ? warps[i] : m;
    return m;
}

/* ---- a row as the steps after the edits see it ---- */

struct picture {
    const float *raw, *most;
    const int32_t *touched; /* where changed blocks lie; NULL: none is changed */
    const float (*changed)[DEVICE_SCORES];
    int n_vocab, n_blocks;
    float max, scale;
    /* Who has survived so far: above `low`, or equal to it and an id of at most `last`; of a weight of at least `least`; and as typical. */
    float low, least;
    int last;
    bool typical;
    float typical_low;
    int typical_last;
    double log_total, entropy;
    float bar; /* none in a block whose maximum is below */
};

static __device__ __forceinline__ struct picture picture_of(const struct device_draws &p, int row, bool edited)
{
    const size_t blocks_at = (size_t)row * (size_t)p.n_blocks;
    struct picture v = {};
    v.raw = p.scores + (size_t)row * (size_t)p.ld;
    v.changed = p.changed;
    v.touched = edited ? p.touched + blocks_at : NULL;
    v.most = (edited ? p.changed_most : p.most) + blocks_at;
    v.n_vocab = p.n_vocab;
    v.n_blocks = p.n_blocks;
    v.low = v.bar = -FLT_MAX; /* minus infinity never survives */
    v.least = -1.0f;
    v.last = v.typical_last = p.n_vocab;
    return v;
}

/* Logits of a block of ids. */
static __device__ __forceinline__ const float *values_of(const struct picture &v, int b)
{
    return v.touched != NULL && v.touched[b] >= 0 ? v.changed[v.touched[b]] : v.raw + b * DEVICE_SCORES;
}

static __device__ __forceinline__ int size_of(const struct picture &v, int b)
{
    const int left = v.n_vocab - b * DEVICE_SCORES;
    return left < DEVICE_SCORES ? left : DEVICE_SCORES;
}

static __device__ __forceinline__ float log_weight(const struct picture &v, float x)
{
    return (x - v.max) * v.scale;
}

static __device__ __forceinline__ float weight_of(const struct picture &v, float x)
{
    return num_exp_f32(log_weight(v, x));
}

static __device__ __forceinline__ double oddity(const struct picture &v, float x)
{
    const double surprise = -((double)log_weight(v, x) - v.log_total), d = surprise - v.entropy;
    return d < 0 ? -d : d;
}

static __device__ __forceinline__ bool survives(const struct picture &v, float x, int id)
{
    bool yes = x > v.low || (x == v.low && id <= v.last);
    if (yes && v.typical) {
        const float score = (float)-oddity(v, x);
        yes = score > v.typical_low || (score == v.typical_low && id <= v.typical_last);
    }
    if (yes && v.least >= 0.0f)
        yes = weight_of(v, x) >= v.least;
    return yes;
}

/* What an item adds to a sum: 1 where items are counted. */
template <bool COUNTS> static __device__ __forceinline__ mass_t mass_of(const struct picture &v, float x)
{
    return COUNTS ? 1 : (mass_t)(weight_of(v, x) * ONE);
}

/* fn(logit) for each survivor, by some thread. */
template <class F> static __device__ __forceinline__ void each(const struct picture &v, F fn)
{
    for (int b = (int)threadIdx.x / 32; b < v.n_blocks; b += WARPS) {
        const float *x = values_of(v, b);
        if (v.most[b] >= v.bar)
            for (int i = (int)threadIdx.x % 32, n = size_of(v, b); i < n; i += 32)
                if (survives(v, x[i], b * DEVICE_SCORES + i))
                    fn(x[i]);
    }
}

/* ---- cells of masses ---- */

static __device__ __forceinline__ double from_mass(mass_t mass, bool counts)
{
    return counts ? (double)mass : (double)mass * (1.0 / (double)ONE);
}

/* The first cell of some mass at which `above` and the masses up to it reach the target: common's cell, its mass and what was before it. Cell -1
 * where none does; then all is before it. */
static __device__ __forceinline__ void find_cell(struct common *c, const mass_t *cells, int n, mass_t above, double target, bool counts)
{
    const int lane = (int)threadIdx.x, of_lane = (n + 31) / 32;
    __syncthreads();
    if (lane < 32) {
        const int begin = lane * of_lane, end = begin + of_lane < n ? begin + of_lane : n;
        mass_t mine = 0;
        for (int i = begin; i < end; i++)
            mine += cells[i];
        mass_t upto = mine;
        for (int lanes = 1; lanes < 32; lanes *= 2) {
            const mass_t other = __shfl_up_sync(ALL_LANES, upto, lanes);
            upto += lane >= lanes ? other : 0;
        }
        const bool reached = mine > 0 && from_mass(above + upto, counts) >= target;
        const unsigned lanes_there = __ballot_sync(ALL_LANES, reached);
        const int winner = lanes_there == 0 ? 31 : __ffs((int)lanes_there) - 1;
        if (lane == winner) {
            mass_t sum = above + upto - mine;
            int found = -1;
            for (int i = begin; i < end && found < 0; i++) {
                if (cells[i] > 0 && from_mass(sum + cells[i], counts) >= target) {
                    found = i;
                    c->mass = cells[i];
                } else {
                    sum += cells[i];
                }
            }
            c->cell = found;
            c->before = sum;
        }
    }
    __syncthreads();
}

/* Masses of the survivors of each block of ids that `wanted` is true of. */
template <bool COUNTS, class F> static __device__ __forceinline__ void sum_blocks(const struct picture &v, mass_t *cells, F wanted)
{
    const int lane = (int)threadIdx.x % 32;
    __syncthreads();
    for (int b = (int)threadIdx.x / 32; b < v.n_blocks; b += WARPS) {
        const float *x = values_of(v, b);
        mass_t mass = 0;
        if (v.most[b] >= v.bar)
            for (int i = lane, n = size_of(v, b); i < n; i += 32)
                if (survives(v, x[i], b * DEVICE_SCORES + i) && wanted(x[i]))
                    mass += mass_of<COUNTS>(v, x[i]);
        for (int lanes = 16; lanes > 0; lanes /= 2)
            mass += __shfl_xor_sync(ALL_LANES, mass, lanes);
        if (lane == 0)
            cells[b] = mass;
    }
}

/* After sum_blocks: the first id at which `above` and the masses up to it reach the target, its mass and what was before it; -1 where none does. */
template <bool COUNTS, class F>
static __device__ __forceinline__ int find_id(struct common *c, const struct picture &v, const mass_t *cells, mass_t above, double target, F wanted)
{
    find_cell(c, cells, v.n_blocks, above, target, COUNTS);
    const int b = c->cell;
    const mass_t before = c->before;
    if (b < 0)
        return -1;
    const float *x = values_of(v, b);
    for (int i = (int)threadIdx.x; i < DEVICE_SCORES; i += THREADS) {
        const bool counted = i < size_of(v, b) && survives(v, x[i], b * DEVICE_SCORES + i) && wanted(x[i]);
        c->items[i] = counted ? mass_of<COUNTS>(v, x[i]) : 0;
    }
    find_cell(c, c->items, DEVICE_SCORES, before, target, COUNTS);
    return c->cell < 0 ? -1 : b * DEVICE_SCORES + c->cell;
}

/* ---- borders ---- */

/* What sums of weights of the row can differ by, in f64 of any order and as masses, and a target that is a part of one. */
static __device__ __forceinline__ double slack_of(const struct picture &v, mass_t total)
{
    return 4 * (double)v.n_vocab * (1.0 / (double)ONE + from_mass(total, false) * 0x1p-52);
}

/* Unsigned integers in the order of the floats; -0 and +0 are one value. */
static __device__ __forceinline__ uint32_t ordered_key(float x)
{
    const uint32_t u = num_bits_from_f32(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float value_of_key(uint32_t key)
{
    return num_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* By what survivors are ordered: the logit, or how typical it is. */
template <bool TYPICAL> static __device__ __forceinline__ float score_of(const struct picture &v, float x)
{
    return TYPICAL ? (float)-oddity(v, x) : x + 0.0f;
}

/* Falls as the score rises. */
template <bool TYPICAL> static __device__ __forceinline__ int depth_cell(const struct picture &v, float score)
{
    const float depth = (TYPICAL ? -score : -log_weight(v, score)) * DEPTH_CELLS;
    return depth < (float)(CELLS - 1) ? (int)depth : CELLS - 1;
}

struct border {
    float score;
    int last;            /* -1: in doubt */
    mass_t better, mass; /* of the survivors: without the last of them, and with it */
};

/* A histogram of those whose key lies in base .. top, cells 2^shift wide from the top down. */
template <bool TYPICAL, bool COUNTS>
static __device__ __forceinline__ void count_keys(const struct picture &v, mass_t *cells, uint32_t base, uint32_t top, int shift)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < CELLS; i += THREADS)
        cells[i] = 0;
    __syncthreads();
    each(v, [&](float x) {
        const uint32_t key = ordered_key(score_of<TYPICAL>(v, x));
        if (key >= base && key <= top)
            atomicAdd(&cells[(top - key) >> shift], mass_of<COUNTS>(v, x));
    });
}

/* The cell of depth that has the border, as the range of keys in it. False where the target is not reached. */
template <bool TYPICAL, bool COUNTS>
static __device__ __forceinline__ bool find_depth(struct common *c, const struct picture &v, mass_t *cells, double target)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < CELLS; i += THREADS)
        cells[i] = 0;
    if (threadIdx.x == 0) {
        c->low_key = UINT32_MAX;
        c->high_key = 0;
    }
    __syncthreads();
    each(v, [&](float x) { atomicAdd(&cells[depth_cell<TYPICAL>(v, score_of<TYPICAL>(v, x))], mass_of<COUNTS>(v, x)); });
    find_cell(c, cells, CELLS, 0, target, COUNTS);
    const int cell = c->cell;
    if (cell < 0)
        return false;
    each(v, [&](float x) {
        const float score = score_of<TYPICAL>(v, x);
        if (depth_cell<TYPICAL>(v, score) == cell) {
            atomicMin(&c->low_key, (unsigned)ordered_key(score));
            atomicMax(&c->high_key, (unsigned)ordered_key(score));
        }
    });
    __syncthreads();
    return true;
}

/* Where the survivors in order of their scores, ties by lowest id, reach a mass, or a number. */
template <bool TYPICAL, bool COUNTS>
static __device__ __forceinline__ struct border find_border(struct common *c, const struct picture &v, mass_t *cells, double target)
{
    struct border border = {0.0f, -1, 0, 0};
    if (!find_depth<TYPICAL, COUNTS>(c, v, cells, target))
        return border;
    uint32_t base = c->low_key, top = c->high_key;
    mass_t above = c->before;
    int shift = 32;
    while (shift > 0) {
        for (shift = 0; (top - base) >> shift >= CELLS; shift++) {
        }
        count_keys<TYPICAL, COUNTS>(v, cells, base, top, shift);
        find_cell(c, cells, CELLS, above, target, COUNTS);
        above = c->before;
        if (c->cell < 0)
            return border;
        top -= (uint32_t)c->cell << shift;
        base = top - base < (1u << shift) ? base : top - ((1u << shift) - 1);
    }
    const auto equal = [&](float x) { return ordered_key(score_of<TYPICAL>(v, x)) == top; };
    sum_blocks<COUNTS>(v, cells, equal);
    border.score = value_of_key(top);
    border.last = find_id<COUNTS>(c, v, cells, above, target, equal);
    border.better = c->before;
    border.mass = c->before + c->mass;
    return border;
}

/* Whether any sum of the weights finds this border. The best item is one in any case. */
static __device__ __forceinline__ bool certain(const struct picture &v, struct border b, double target, mass_t total)
{
    const double slack = slack_of(v, total);
    return b.last >= 0 && ((!v.typical && b.better == 0) || from_mass(b.better, false) < target - slack) && from_mass(b.mass, false) > target + slack;
}

/* ---- the truncations: each narrows the picture; false in doubt ---- */

static __device__ __forceinline__ void narrow(struct picture *v, struct border b)
{
    v->low = v->bar = b.score;
    v->last = b.last;
}

static __device__ __forceinline__ mass_t total_of(struct common *c, const struct picture &v, mass_t *cells)
{
    sum_blocks<false>(v, cells, [](float) { return true; });
    find_cell(c, cells, v.n_blocks, 0, INFINITY, false);
    return c->before;
}

static __device__ __forceinline__ void top_k(struct common *c, struct picture *v, mass_t *cells, int k)
{
    const struct border b = find_border<false, true>(c, *v, cells, (double)k);
    if (b.last >= 0)
        narrow(v, b); /* otherwise there are fewer than k */
}

/* Sums of weights and of weight * log-weight, for the entropy. */
static __device__ __forceinline__ void find_moments(struct common *c, const struct picture &v, double *sum_out, double *sum_y_out)
{
    double sum = 0, sum_y = 0;
    each(v, [&](float x) {
        const float y = log_weight(v, x), w = num_exp_f32(y);
        if (w > 0) {
            sum += (double)w;
            sum_y = fma((double)w, (double)y, sum_y);
        }
    });
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
        sum_y += __shfl_xor_sync(ALL_LANES, sum_y, lanes);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        c->warps_sum[threadIdx.x / 32] = sum;
        c->warps_more[threadIdx.x / 32] = sum_y;
    }
    __syncthreads();
    *sum_out = *sum_y_out = 0;
    for (int i = 0; i < WARPS; i++) {
        *sum_out += c->warps_sum[i];
        *sum_y_out += c->warps_more[i];
    }
}

/* The estimates of log-weight and entropy lie within 1e-8 of those in order. Another logit so near to the border's that they might swap: in doubt. */
static __device__ __forceinline__ bool typical(struct common *c, struct picture *v, mass_t *cells, float typical_p)
{
    double sum, sum_y;
    find_moments(c, *v, &sum, &sum_y);
    v->log_total = num_log(sum);
    v->entropy = v->log_total - sum_y / sum;
    const double target = (double)typical_p * sum;
    const struct border b = find_border<true, false>(c, *v, cells, target);
    struct picture narrowed = *v;
    narrowed.typical = true;
    if (!certain(narrowed, b, target, (mass_t)(sum * (double)ONE)))
        return false;
    const float at_border = values_of(*v, b.last / DEVICE_SCORES)[b.last % DEVICE_SCORES];
    const double odd = (double)-b.score, margin = 1e-7 + odd * 0x1p-22;
    __syncthreads();
    if (threadIdx.x == 0)
        c->first = 0;
    __syncthreads();
    each(*v, [&](float x) {
        const double d = oddity(*v, x) - odd;
        if (d <= margin && d >= -margin && x != at_border)
            atomicOr(&c->first, 1);
    });
    __syncthreads();
    narrowed.typical_low = b.score;
    narrowed.typical_last = b.last;
    *v = narrowed;
    return c->first == 0;
}

/* A nucleus among `total`, where that is known from the blocks' sums, or among the survivors. */
static __device__ __forceinline__ bool top_p(struct common *c, struct picture *v, mass_t *cells, float part, double total)
{
    if (total < 0)
        total = from_mass(total_of(c, *v, cells), false);
    const double target = (double)part * total;
    const struct border b = find_border<false, false>(c, *v, cells, target);
    const bool sure = certain(*v, b, target, (mass_t)(total * (double)ONE));
    narrow(v, b);
    return sure;
}

/* depth: a logit that far below the maximum weighs less than that part of it. */
static __device__ __forceinline__ void min_p(struct common *c, struct picture *v, float part, float depth)
{
    float best = 1.0f; /* of the maximum; no weight is larger */
    if (v->typical) {
        __syncthreads();
        if (threadIdx.x == 0)
            c->high_key = 0;
        __syncthreads();
        each(*v, [&](float x) { atomicMax(&c->high_key, (unsigned)num_bits_from_f32(weight_of(*v, x))); });
        __syncthreads();
        best = num_f32_from_bits(c->high_key);
    } else {
        const float low = v->max - depth;
        v->bar = low > v->bar ? low : v->bar;
    }
    v->least = part * best;
}

#endif

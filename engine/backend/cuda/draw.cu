/* draw.cu: rows of scores to tokens and log-probabilities on the device; sampler.h says what, sampler.c is what every bit is held against.
 *
 *   draw_    grid                   threads  shared
 *   edit     n_rows                 512      4 B a block of 256 ids
 *   sum      n_blocks / 32, n_rows  256      -                        block sums of exponentials, in the order of rows.h
 *   choose   n_rows, 2              512      8 B a block, >= 4 KiB    y = 0: the token; y = 1: log-sum-exp and the most likely tokens
 *
 * Greedy, and the draw by temperature alone, are sampler.c's own order: block sums, their running total in f64, one block walked. They are always
 * decided.
 *
 * A truncation asks which items a mass in some order reaches. Masses are integers here, floor(weight * 2^43): their sums have no order, so that all
 * threads add to histograms at once, and they lie within n * 2^-43 of any sum of f64 over the same weights, plus what such sums differ by. An item
 * whose mass ends further than that from the target is where sampler.c finds it, too. In doubt - a few draws in a million of the flattest rows; for
 * typical_p where rounding might swap two logits at the border - the row is not decided: its id is -1, it is copied to where the next step leaves it
 * alone, and the host draws from it. A border by count (top_k) is never in doubt.
 *
 * What survives is never listed: a few bounds tell (struct picture), and whoever walks over the row asks them. A border is found by histograms of 512
 * cells, best first: over the depth below the maximum, then over the bits of an order-preserving key of those in the cell that has the border, until
 * one score is left; among equals the lowest ids come first. typical_p: Meister et al., 2022. */
#include <assert.h>
#include <float.h>

#include "engine/backend/cuda/device.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/numerics/numerics.h"

#define ALL_LANES 0xffffffffu
#define THREADS 512
#define WARPS (THREADS / 32)
#define SUM_THREADS 256
#define SUM_BLOCKS 32 /* of ids, that a block of threads sums */
#define LANES 16      /* that add up a block of ids */
#define CELLS 512     /* of a histogram */
#define CELL_BITS 9
#define DEPTH_CELLS 16.0f /* to a unit of depth */
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

/* Touched blocks of a row are copied, then changed: bias, bans, penalties. Ids of a kind are distinct, or are banned twice. */
__global__ void __launch_bounds__(THREADS) draw_edit(struct device_draws p)
{
    DYNAMIC_SHARED(shared);
    int *touched = (int *)shared;
    const int row = (int)blockIdx.x, me = (int)threadIdx.x, lane = me % 32;
    const struct device_draw d = p.draws[row];
    const int n_edits = d.n_bias + d.n_bans + d.n_counts;
    const struct device_edit *bias = p.edits + d.first_edit, *bans = bias + d.n_bias, *counts = bans + d.n_bans;
    const float *raw = p.scores + (size_t)row * (size_t)p.ld, *most = p.most + (size_t)row * (size_t)p.n_blocks;
    float *changed = p.changed + (size_t)row * (size_t)p.ld, *changed_most = p.changed_most + (size_t)row * (size_t)p.n_blocks;
    if (n_edits > 0) {
        for (int b = me; b < p.n_blocks; b += THREADS)
            touched[b] = 0;
        __syncthreads();
        for (int i = me; i < n_edits; i += THREADS)
            atomicExch(&touched[bias[i].id / DEVICE_SCORES], 1);
        __syncthreads();
        for (int b = me / 32; b < p.n_blocks; b += WARPS)
            for (int i = b * DEVICE_SCORES + lane; touched[b] && i < (b + 1) * DEVICE_SCORES && i < p.n_vocab; i += 32)
                changed[i] = raw[i];
        __syncthreads();
        for (int i = me; i < d.n_bias; i += THREADS)
            changed[bias[i].id] += num_f32_from_bits(bias[i].bits);
        __syncthreads();
        for (int i = me; i < d.n_bans; i += THREADS)
            atomicExch((int *)&changed[bans[i].id], (int)0xff800000u); /* -infinity */
        __syncthreads();
        for (int i = me; i < d.n_counts; i += THREADS)
            changed[counts[i].id] = penalised(d, changed[counts[i].id], counts[i].bits);
        __syncthreads();
        for (int b = me / 32; b < p.n_blocks; b += WARPS) {
            float m = -INFINITY;
            for (int i = b * DEVICE_SCORES + lane; touched[b] && i < (b + 1) * DEVICE_SCORES && i < p.n_vocab; i += 32)
                m = changed[i] > m ? changed[i] : m;
            m = warp_max(m);
            if (lane == 0) {
                changed_most[b] = touched[b] ? m : most[b];
                p.touched[(size_t)row * (size_t)p.n_blocks + (size_t)b] = touched[b];
            }
        }
    }
}

/* ---- a row as the steps after the edits see it ---- */

struct picture {
    const float *raw, *changed, *most; /* changed NULL: no edits */
    const int32_t *touched;
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
    const size_t at = (size_t)row * (size_t)p.ld, blocks_at = (size_t)row * (size_t)p.n_blocks;
    struct picture v = {};
    v.raw = p.scores + at;
    v.changed = edited ? p.changed + at : NULL;
    v.touched = edited ? p.touched + blocks_at : NULL;
    v.most = (edited ? p.changed_most : p.most) + blocks_at;
    v.n_vocab = p.n_vocab;
    v.n_blocks = p.n_blocks;
    v.low = v.bar = -FLT_MAX; /* minus infinity never survives */
    v.least = -1.0f;
    v.last = v.typical_last = p.n_vocab;
    return v;
}

/* Logits of a block of ids, as a pointer that takes ids. */
static __device__ __forceinline__ const float *values_of(const struct picture &v, int b)
{
    return v.changed != NULL && v.touched[b] ? v.changed : v.raw;
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

/* fn(x, id) for each survivor, by some thread. */
template <class F> static __device__ __forceinline__ void each(const struct picture &v, F fn)
{
    for (int b = (int)threadIdx.x / 32; b < v.n_blocks; b += WARPS) {
        const float *x = values_of(v, b);
        if (v.most[b] >= v.bar)
            for (int id = b * DEVICE_SCORES + (int)threadIdx.x % 32; id < (b + 1) * DEVICE_SCORES && id < v.n_vocab; id += 32)
                if (survives(v, x[id], id))
                    fn(x[id], id);
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
            for (int id = b * DEVICE_SCORES + lane; id < (b + 1) * DEVICE_SCORES && id < v.n_vocab; id += 32)
                if (survives(v, x[id], id) && wanted(x[id]))
                    mass += mass_of<COUNTS>(v, x[id]);
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
        const int id = b * DEVICE_SCORES + i;
        const bool counted = id < v.n_vocab && survives(v, x[id], id) && wanted(x[id]);
        c->items[i] = counted ? mass_of<COUNTS>(v, x[id]) : 0;
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
    each(v, [&](float x, int) {
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
    each(v, [&](float x, int) { atomicAdd(&cells[depth_cell<TYPICAL>(v, score_of<TYPICAL>(v, x))], mass_of<COUNTS>(v, x)); });
    find_cell(c, cells, CELLS, 0, target, COUNTS);
    const int cell = c->cell;
    if (cell < 0)
        return false;
    each(v, [&](float x, int) {
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
    each(v, [&](float x, int) {
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
    const float at_border = values_of(*v, b.last / DEVICE_SCORES)[b.last];
    const double odd = (double)-b.score, margin = 1e-7 + odd * 0x1p-22;
    __syncthreads();
    if (threadIdx.x == 0)
        c->first = 0;
    __syncthreads();
    each(*v, [&](float x, int) {
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

static __device__ __forceinline__ void min_p(struct common *c, struct picture *v, float part)
{
    float best = 1.0f; /* of the maximum; no weight is larger */
    if (v->typical) {
        __syncthreads();
        if (threadIdx.x == 0)
            c->high_key = 0;
        __syncthreads();
        each(*v, [&](float x, int) { atomicMax(&c->high_key, (unsigned)num_bits_from_f32(weight_of(*v, x))); });
        __syncthreads();
        best = num_f32_from_bits(c->high_key);
    } else {
        const float reach = v->max + ((float)num_log((double)part) - 1) / v->scale; /* whoever is below weighs less than that part */
        v->bar = reach > v->bar ? reach : v->bar;
    }
    v->least = part * best;
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
    const int begin = c->first * DEVICE_SCORES;
    const float *x = values_of(v, c->first);
    for (int i = (int)threadIdx.x; i < DEVICE_SCORES && begin + i < v.n_vocab; i += THREADS)
        if (x[begin + i] == max)
            atomicMin(&c->last, i);
    __syncthreads();
    return begin + c->last;
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
        weights[i] = b * DEVICE_SCORES + i < v.n_vocab ? weight_of(v, x[b * DEVICE_SCORES + i]) : 0.0f;
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
        min_p(c, v, d.min_p);
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
        const int begin = block * DEVICE_SCORES, end = begin + DEVICE_SCORES < v.n_vocab ? begin + DEVICE_SCORES : v.n_vocab;
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
        const float max = v.changed == NULL ? raw_max : block_max(v.most, v.n_blocks, warps, SUM_THREADS);
        const bool same = v.changed == NULL && d.scale == 1;
        const size_t at = (size_t)row * (size_t)p.n_blocks;
        for (int k = 0; k < SUM_BLOCKS * LANES / SUM_THREADS; k++) {
            const int b = (int)blockIdx.x * SUM_BLOCKS + k * (SUM_THREADS / LANES) + (int)threadIdx.x / LANES, begin = b * DEVICE_SCORES;
            const int left = p.n_vocab - begin, n = b >= p.n_blocks ? 0 : left < DEVICE_SCORES ? left : DEVICE_SCORES;
            const bool mine = n > 0 && threadIdx.x % LANES == 0;
            const float plain = scores || same ? sum_exp(raw.raw + begin, n, raw_max, 1.0f) : 0.0f;
            const float sum = draws && !same ? sum_exp(values_of(v, n > 0 ? b : 0) + begin, n, max, d.scale) : plain;
            if (mine && scores)
                p.raw_sums[at + (size_t)b] = plain;
            if (mine && draws)
                p.sums[at + (size_t)b] = sum;
        }
    }
}

__global__ void __launch_bounds__(THREADS) draw_choose(struct device_draws p)
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
        for (int i = (int)threadIdx.x; id < 0 && i < p.n_vocab; i += THREADS)
            p.kept[(size_t)row * (size_t)p.ld + (size_t)i] = raw[i];
        for (int b = (int)threadIdx.x; id < 0 && b < p.n_blocks; b += THREADS)
            p.kept_most[(size_t)row * (size_t)p.n_blocks + (size_t)b] = p.most[(size_t)row * (size_t)p.n_blocks + (size_t)b];
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

/* sampler.c: one row of scores to the next token, in the order that sampler.h writes down.
 *
 * The vocabulary is never sorted. Greedy looks at block maxima and into one block. The plain draw (temperature alone) sums exponentials block by
 * block (numerics/rows.h) and walks one block. The truncations work on a list of survivors, ids ascending, with their weights e^((logit - max) / T);
 * block maxima tell which blocks can hold any. All of top_k, typical_p and top_p are one selection (selection.c), "keep an item while the mass of
 * strictly better items is below the target", with mass 1 each for top_k.
 *
 * The sums that decide: weights are f32 (num_exp_f32), added in f64 in the selection's order; the total of a list is added in f64 in ascending id.
 * Scalar and the same on every machine.
 *
 * Those sums are chains of dependent additions, 0.4 ms for a list of 262,144. But a sum only decides: which side of a target, which token. So where a
 * list is long, and for typical_p over a whole row, a sum in any faster order is taken first. It lies within selection_slack() of the one in order,
 * and whatever stays on its side of the target by more than that is decided. What is left in doubt - a few draws in a billion; for typical_p one in
 * a thousand on a model's rows - is done in order. The fast way never changes a token.
 *
 * A nucleus is looked for among the ids near the maximum. How near is guessed from the blocks' maxima and, where those say that it may be wide, from
 * the mass that every 32nd block has at each depth; a guess that was too near is found out by the list's sum.
 *
 * Of a changed row (bias, bans, penalties) only the touched blocks are copied and get new maxima; the others are read where they are. */
#include "engine/sample/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"
#include "engine/numerics/rows.h"
#include "engine/sample/selection.h"

static_assert(SCORES_BLOCK == ROWS_BLOCK, "block maxima and block sums cover the same ids");

#define MAX_INVERSE_TEMPERATURE 1e30f /* 0 * infinity would be NaN */
#define LONG_LIST 2048 /* items from which a sum is worth an estimate */
#define SPAN 256       /* items that an estimated walk steps over at once */
#define DEPTH 7.0f     /* how far below the maximum, as a logarithm of weight, a nucleus is looked for first */
#define DEEPEST 16     /* what lies deeper weighs next to nothing */
#define SAMPLE 32      /* one block of so many is looked at to guess how deep the mass lies */

struct sampler {
    const struct rows_ops *rows;
    int n_vocab, n_blocks;
    float *changed;      /* [n_vocab] the touched blocks of a changed row, at their places */
    float *block_max;    /* [n_blocks] of the changed row */
    bool *touched;       /* [n_blocks] */
    float *block_sums;   /* [n_blocks] */
    bool will_score;     /* the next call asks for the row's log-probabilities */
    const float *summed; /* the row whose log_sum_exp is known, or NULL; from a draw to the next call */
    double log_sum_exp;
    int n_items;         /* survivors */
    int32_t *ids;        /* [n_vocab + ROWS_SLACK] ascending */
    float *values;       /* [n_vocab + ROWS_SLACK] logits of the survivors */
    float *weights;      /* [n_vocab] of the survivors */
    float *typical;      /* [n_vocab] of the survivors: larger is more typical */
    struct selection *selection;
};

/* A row as the steps see it. */
struct row {
    const float *raw;
    const float *changed; /* holds the touched blocks, at their places */
    const bool *touched;  /* [n_blocks]; NULL: none is */
    const float *block_max;
    float max;
    float scale; /* 1 / temperature */
};

struct sampler_params sampler_defaults(void)
{
    return (struct sampler_params){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
}

struct sampler *sampler_create(int n_vocab)
{
    assert(n_vocab >= 1);
    struct sampler *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->rows = rows_best();
    s->n_vocab = n_vocab;
    s->n_blocks = (n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
    size_t n = (size_t)n_vocab, blocks = (size_t)s->n_blocks;
    s->changed = malloc(n * sizeof *s->changed);
    s->block_max = malloc(blocks * sizeof *s->block_max);
    s->touched = malloc(blocks * sizeof *s->touched);
    s->block_sums = malloc(blocks * sizeof *s->block_sums);
    s->ids = malloc((n + ROWS_SLACK) * sizeof *s->ids);
    s->values = malloc((n + ROWS_SLACK) * sizeof *s->values);
    s->weights = malloc(n * sizeof *s->weights);
    s->typical = malloc(n * sizeof *s->typical);
    s->selection = selection_create(n_vocab);
    if (!s->changed || !s->block_max || !s->touched || !s->block_sums || !s->ids || !s->values || !s->weights || !s->typical ||
        !s->selection) {
        sampler_destroy(s);
        return NULL;
    }
    return s;
}

void sampler_destroy(struct sampler *s)
{
    if (s == NULL)
        return;
    free(s->changed);
    free(s->block_max);
    free(s->touched);
    free(s->block_sums);
    free(s->ids);
    free(s->values);
    free(s->weights);
    free(s->typical);
    selection_destroy(s->selection);
    free(s);
}

static int block_size(const struct sampler *s, int b)
{
    return b + 1 < s->n_blocks ? SCORES_BLOCK : s->n_vocab - b * SCORES_BLOCK;
}

static bool is_touched(const struct row *r, int b)
{
    return r->touched != NULL && r->touched[b];
}

static const float *block_of(const struct row *r, int b)
{
    return (is_touched(r, b) ? r->changed : r->raw) + (size_t)b * SCORES_BLOCK;
}

/* The first id behind block b and those that follow it in the same memory with a maximum of at least `low`. */
static int32_t run_end(const struct sampler *s, const struct row *r, int b, float low)
{
    int end = b + 1;
    if (r->touched == NULL && low == -INFINITY)
        return s->n_vocab;
    while (end < s->n_blocks && is_touched(r, end) == is_touched(r, b) && r->block_max[end] >= low)
        end++;
    return end < s->n_blocks ? end * SCORES_BLOCK : s->n_vocab;
}

/* The largest logit's id, ties by lowest id. */
static int32_t argmax(const struct sampler *s, const struct row *r)
{
    float max = s->rows->max(r->block_max, s->n_blocks);
    int b = 0;
    while (b + 1 < s->n_blocks && r->block_max[b] != max)
        b++;
    const float *logits = block_of(r, b);
    int32_t i = 0, n = block_size(s, b);
    while (i + 1 < n && logits[i] != max)
        i++;
    return b * SCORES_BLOCK + i;
}

/* Sum of the weights in the order of rows.h; leaves the blocks' sums. */
static double sum_weights(struct sampler *s, const struct row *r)
{
    if (r->touched == NULL && s->will_score) {
        double plain, sum;
        if (r->scale != 1)
            sum = rows_sum_exp_twice(s->rows, r->raw, s->n_vocab, r->max, r->scale, s->block_sums, &plain);
        else
            sum = plain = s->rows->sum_exp(r->raw, s->n_vocab, r->max, 1, s->block_sums);
        s->summed = r->raw;
        s->log_sum_exp = (double)r->max + num_log(plain);
        return sum;
    }
    if (r->touched == NULL)
        return s->rows->sum_exp(r->raw, s->n_vocab, r->max, r->scale, s->block_sums);
    for (int32_t id = 0, end; id < s->n_vocab; id = end) {
        int b = id / SCORES_BLOCK;
        end = run_end(s, r, b, -INFINITY);
        s->rows->sum_exp(block_of(r, b), end - id, r->max, r->scale, s->block_sums + b);
    }
    double total = 0;
    for (int b = 0; b < s->n_blocks; b++)
        total += (double)s->block_sums[b];
    return total;
}

/* What log-probabilities need. Of a row that is changed first: this sum hides the time that the row takes to come into the near caches, and what
 * follows finds it there. */
static void sum_raw(struct sampler *s, const struct row *r)
{
    s->summed = r->raw;
    s->log_sum_exp = rows_log_sum_exp(s->rows, r->raw, s->n_vocab, s->rows->max(r->block_max, s->n_blocks));
}

/* ---- steps 1 to 3: bias, bans, penalties ---- */

static bool changes(const struct sampler_params *p, const struct sampler_draw *d)
{
    return p->n_bias > 0 || d->n_bans > 0 ||
           (d->counts != NULL && (p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0));
}

/* The place of a logit to change. */
static float *touch(struct sampler *s, const float *raw, int32_t id)
{
    assert(id >= 0 && id < s->n_vocab);
    int b = id / SCORES_BLOCK;
    size_t begin = (size_t)b * SCORES_BLOCK;
    if (!s->touched[b])
        memcpy(s->changed + begin, raw + begin, (size_t)block_size(s, b) * sizeof *raw);
    s->touched[b] = true;
    return &s->changed[id];
}

static void penalise(struct sampler *s, const struct sampler_params *p, const struct sampler_counts *counts, const float *raw);

static void change_row(struct sampler *s, const struct sampler_params *p, const struct sampler_draw *d, struct row *r)
{
    memcpy(s->block_max, r->block_max, (size_t)s->n_blocks * sizeof *s->block_max);
    memset(s->touched, 0, (size_t)s->n_blocks * sizeof *s->touched);
    for (int i = 0; i < p->n_bias; i++)
        *touch(s, r->raw, p->bias[i].id) += p->bias[i].bias;
    for (int i = 0; i < d->n_bans; i++)
        *touch(s, r->raw, d->bans[i]) = -INFINITY;
    if (d->counts != NULL)
        penalise(s, p, d->counts, r->raw);
    for (int b = 0; b < s->n_blocks; b++)
        if (s->touched[b])
            s->block_max[b] = s->rows->max(s->changed + (size_t)b * SCORES_BLOCK, block_size(s, b));
    r->changed = s->changed;
    r->touched = s->touched;
    r->block_max = s->block_max;
}

/* ---- step 5: truncation ---- */

static float weight_of(const struct row *r, float logit)
{
    return num_exp_f32((logit - r->max) * r->scale);
}

/* Survivors: every id whose logit lies between low and high. */
static void gather(struct sampler *s, const struct row *r, float low, float high)
{
    int n = 0;
    if (!(low >= -FLT_MAX))
        low = -FLT_MAX; /* minus infinity never survives */
    for (int32_t id = 0, end; id < s->n_vocab; id = end) {
        int b = id / SCORES_BLOCK;
        end = (b + 1) * SCORES_BLOCK;
        if (!(r->block_max[b] >= low))
            continue;
        end = run_end(s, r, b, low);
        n += s->rows->gather(block_of(r, b), end - id, low, high, id, s->ids + n, s->values + n);
    }
    s->n_items = n;
    s->rows->weights(s->values, n, r->max, r->scale, s->weights);
}

static double total_weight(const struct sampler *s)
{
    double total = 0;
    for (int i = 0; i < s->n_items; i++)
        total += (double)s->weights[i];
    return total;
}

/* The list's weights from index `begin` on, added in any order. */
static double quick_sum(const struct sampler *s, int begin, int n)
{
    return s->rows->mass_above(s->values + begin, s->weights + begin, n, -INFINITY);
}

/* Whether the weights' sum is above the target in whatever order they are added. */
static bool outweighs(const struct sampler *s, double target)
{
    double total = quick_sum(s, 0, s->n_items);
    return total > target + selection_slack(total, s->n_items);
}

/* Where the list is to be cut by its scores. */
static struct selection_border find_border(struct sampler *s, const float *scores, float low, double target)
{
    return selection_find(s->selection, scores, s->weights, s->n_items, low, target);
}

static void keep_best(struct sampler *s, const float *scores, struct selection_border border)
{
    int32_t *ids = s->ids;
    float *values = s->values, *weights = s->weights;
    int n = 0;
    for (int i = 0; i < s->n_items; i++) {
        bool keep = (scores[i] > border.score) | ((scores[i] == border.score) & (i <= border.last)); /* || would branch, often wrongly */
        ids[n] = ids[i];
        values[n] = values[i];
        weights[n] = weights[i];
        n += keep;
    }
    s->n_items = n;
}

/* The same where the scores are the logits and nobody but min_p and the draw looks at the list again: the others stay and weigh nothing. */
static void mute_rest(struct sampler *s, struct selection_border border)
{
    const float *values = s->values, low = border.score;
    float *weights = s->weights;
    const int n_first = border.last + 1, n = s->n_items;
    for (int i = 0; i < n_first; i++) {
        float w = weights[i];
        weights[i] = values[i] >= low ? w : 0.0f;
    }
    for (int i = n_first; i < n; i++) {
        float w = weights[i];
        weights[i] = values[i] > low ? w : 0.0f;
    }
}

/* A logit that at least k ids reach, k <= n_blocks: the k-th largest block maximum. Its block maximum is its own id, so k blocks give k ids. */
static float kth_block_max(struct sampler *s, const struct row *r, int k)
{
    return selection_find(s->selection, r->block_max, NULL, s->n_blocks, -INFINITY, (double)k).score;
}

/* The k-th largest block maximum lets k ids through for certain, and not many more while k is small beside the blocks. A larger k would reach down
 * into blocks that are no good at all, and a higher bar mostly lets k through as well: the block that has one of them has others. */
static void top_k(struct sampler *s, const struct row *r, int k)
{
    int n = s->n_blocks, lowest = k < n ? k : n, bar = k <= n / 4 ? k : (lowest + 1) / 2;
    gather(s, r, kth_block_max(s, r, bar), INFINITY);
    while (s->n_items < k && bar < lowest) {
        bar += (lowest + 3) / 4;
        bar = bar < lowest ? bar : lowest;
        gather(s, r, kth_block_max(s, r, bar), INFINITY);
    }
    if (s->n_items < k)
        gather(s, r, -INFINITY, INFINITY);
    if (s->n_items <= k)
        return;
    keep_best(s, s->values, selection_find(s->selection, s->values, NULL, s->n_items, -INFINITY, (double)k));
}

/* The logarithm of an item's weight. */
static double log_weight(const struct sampler *s, const struct row *r, int i)
{
    return (double)((s->values[i] - r->max) * r->scale);
}

/* How far an item's surprise is from the entropy. */
static double oddity(const struct sampler *s, const struct row *r, double log_total, double entropy, int i)
{
    double log_p = log_weight(s, r, i) - log_total;
    return fabs(-log_p - entropy);
}

static void score_typicality(struct sampler *s, const struct row *r, double log_total, double entropy)
{
    for (int i = 0; i < s->n_items; i++)
        s->typical[i] = (float)-oddity(s, r, log_total, entropy, i);
}

/* Locally typical sampling (Meister et al., 2022): the survivors whose surprise is nearest to the entropy, up to mass typical_p. */
static void typical(struct sampler *s, const struct row *r, float typical_p)
{
    double total = total_weight(s), log_total = num_log(total), entropy = 0;
    for (int i = 0; i < s->n_items; i++)
        if (s->weights[i] > 0)
            entropy -= (double)s->weights[i] / total * (log_weight(s, r, i) - log_total);
    score_typicality(s, r, log_total, entropy);
    keep_best(s, s->typical, find_border(s, s->typical, -DEEPEST, (double)typical_p * total));
}

/* The same over the whole row, by estimates: log-weight and entropy from sums in another order (both within 1e-8 of those in order, for they are
 * below 100), and only ids whose surprise is within `reach` of the entropy, wider while those have too little mass. Returns false in doubt: the
 * border's sums are near the target, or another logit is so near to the border's that rounding might put it on the other side. */
static bool typical_of_row(struct sampler *s, const struct row *r, float typical_p)
{
    struct rows_moments m = {0, 0};
    for (int32_t id = 0, end; id < s->n_vocab; id = end) {
        end = run_end(s, r, id / SCORES_BLOCK, -INFINITY);
        struct rows_moments run = s->rows->moments(block_of(r, id / SCORES_BLOCK), end - id, r->max, r->scale);
        m = (struct rows_moments){m.sum + run.sum, m.sum_y + run.sum_y};
    }
    double mean = m.sum_y / m.sum, log_total = num_log(m.sum), entropy = log_total - mean, scale = (double)r->scale;
    double target = (double)typical_p * m.sum, slack = selection_slack(m.sum, s->n_vocab);
    for (double reach = 3; reach < 100; reach *= 1.5) {
        double low = (double)r->max + (mean - reach) / scale, high = (double)r->max + (mean + reach) / scale;
        double rounding = 1e-6 * (fabs(low) + fabs(high) + fabs((double)r->max) + (reach - mean) / scale);
        gather(s, r, (float)(low - rounding), (float)(high + rounding));
        if (!outweighs(s, target))
            continue;
        score_typicality(s, r, log_total, entropy);
        struct selection_border border = find_border(s, s->typical, (float)-reach, target);
        double odd = (double)-border.score, margin = 1e-7 + odd * 0x1p-22;
        if (border.last < 0 || !(border.mass > target + slack) || !(odd + margin < reach))
            continue;
        if (!(border.better < target - slack))
            return false;
        for (int i = 0; i < s->n_items; i++)
            if (fabs(oddity(s, r, log_total, entropy, i) - odd) <= margin && s->values[i] != s->values[border.last])
                return false;
        keep_best(s, s->typical, border);
        return true;
    }
    return false;
}

/* A depth below which probably no more than `rest` lies, and not much less: by the blocks that are looked at. */
static float sampled_depth(struct sampler *s, const struct row *r, double rest)
{
    float low = fmaxf(r->max - DEEPEST / r->scale, -FLT_MAX), high = r->max - DEPTH / r->scale;
    int n = 0;
    for (int b = 0; b < s->n_blocks; b += SAMPLE)
        n += s->rows->gather(block_of(r, b), block_size(s, b), low, high, 0, s->ids + n, s->values + n);
    s->rows->weights(s->values, n, r->max, r->scale, s->weights);
    s->n_items = n;
    selection_narrow(s->rows, s->values, s->weights, n, quick_sum(s, 0, n) - rest / SAMPLE, &low, &high);
    return (r->max - low) * r->scale;
}

/* Whether so many blocks reach near the maximum that a nucleus is likely to go deeper. */
static bool is_wide(const struct sampler *s, const struct row *r)
{
    float low = r->max - DEPTH / r->scale;
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++)
        n += r->block_max[b] >= low;
    return n > s->n_blocks / 16;
}

/* From the whole row: ids far below the maximum are left out first, unless the nucleus turns out to reach down to them. */
static void top_p_of_row(struct sampler *s, const struct row *r, float top_p)
{
    double total = sum_weights(s, r), target = (double)top_p * total, rest = (total - target) * 0.8;
    float low = -INFINITY;
    bool found = false, sampled = is_wide(s, r);
    for (float depth = sampled ? sampled_depth(s, r, rest) : DEPTH; depth < 40 && !found;) {
        low = r->max - depth / r->scale;
        gather(s, r, low, INFINITY);
        found = outweighs(s, target);
        depth *= 1.25f; /* a larger step would list ten times what it needs */
        if (!found && !sampled)
            depth = fmaxf(depth, sampled_depth(s, r, rest));
        sampled = true;
    }
    if (!found)
        gather(s, r, -INFINITY, INFINITY);
    mute_rest(s, find_border(s, s->values, low, target));
}

static void min_p(struct sampler *s, float min)
{
    int n = 0;
    for (int i = 0; i < s->n_items; i++) {
        bool keep = s->weights[i] >= min;
        s->ids[n] = s->ids[i];
        s->values[n] = s->values[i];
        s->weights[n] = s->weights[i];
        n += keep;
    }
    s->n_items = n;
}

/* Leaves the survivors in ids and weights. Returns false when no truncation is on: all ids survive, none is listed. */
static bool truncate_row(struct sampler *s, const struct sampler_params *p, const struct row *r)
{
    bool listed = false;
    if (p->top_k > 0 && p->top_k < s->n_vocab) {
        top_k(s, r, p->top_k);
        listed = true;
    }
    if (p->typical_p < 1 && (listed || !typical_of_row(s, r, p->typical_p))) {
        if (!listed)
            gather(s, r, -INFINITY, INFINITY);
        typical(s, r, p->typical_p);
    }
    listed = listed || p->typical_p < 1;
    if (p->top_p < 1 && listed) {
        float low = r->max - DEEPEST / r->scale;
        keep_best(s, s->values, find_border(s, s->values, low, (double)p->top_p * total_weight(s)));
    } else if (p->top_p < 1) {
        top_p_of_row(s, r, p->top_p);
        listed = true;
    }
    if (p->min_p > 0) {
        if (!listed)
            gather(s, r, r->max + ((float)num_log((double)p->min_p) - 1) / r->scale, INFINITY);
        min_p(s, p->min_p * s->rows->max(s->weights, s->n_items));
        listed = true;
    }
    return listed;
}

/* ---- step 6: the draw ---- */

/* draw_from_list by estimates; -1 in doubt. */
static int32_t draw_from_long_list(const struct sampler *s, double u)
{
    int n = s->n_items, i = 0;
    double total = quick_sum(s, 0, n), target = u * total, slack = selection_slack(total, n), sum = 0;
    while (i + SPAN <= n) {
        double span = quick_sum(s, i, SPAN);
        if (sum + span > target)
            break;
        sum += span;
        i += SPAN;
    }
    for (; i < n; i++) {
        double next = sum + (double)s->weights[i];
        if (next > target)
            return next > target + slack && sum < target - slack ? s->ids[i] : -1;
        sum = next;
    }
    return -1;
}

static int32_t draw_from_list(const struct sampler *s, double u)
{
    int32_t quick = s->n_items >= LONG_LIST ? draw_from_long_list(s, u) : -1;
    if (quick >= 0)
        return quick;
    double target = u * total_weight(s), sum = 0;
    int32_t last = s->ids[0];
    for (int i = 0; i < s->n_items; i++) {
        if (s->weights[i] == 0)
            continue;
        sum += (double)s->weights[i];
        last = s->ids[i];
        if (sum > target)
            break;
    }
    return last;
}

static int32_t draw_from_row(struct sampler *s, const struct row *r, double u)
{
    double target = u * sum_weights(s, r), sum = 0;
    int block = -1;
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->block_sums[b] == 0)
            continue;
        block = b;
        if (sum + (double)s->block_sums[b] > target)
            break;
        sum += (double)s->block_sums[b];
    }
    assert(block >= 0);
    const float *logits = block_of(r, block);
    int32_t last = -1;
    for (int32_t i = 0, n = block_size(s, block); i < n; i++) {
        float w = weight_of(r, logits[i]);
        if (w == 0)
            continue;
        last = i;
        sum += (double)w;
        if (sum > target)
            break;
    }
    assert(last >= 0);
    return block * SCORES_BLOCK + last;
}

int32_t sampler_next(struct sampler *s, const struct sampler_params *p, const struct sampler_draw *d, const struct scores *scores, int i)
{
    assert(scores->n_vocab == s->n_vocab);
    const struct row raw = {.raw = scores->row(scores->ctx, i), .block_max = scores->block_max(scores->ctx, i)};
    struct row r = raw;
    s->will_score = d->will_score;
    s->summed = NULL;
    if (changes(p, d)) {
        if (d->will_score)
            sum_raw(s, &raw);
        change_row(s, p, d, &r);
    }
    int32_t best = argmax(s, &r);
    r.max = block_of(&r, best / SCORES_BLOCK)[best % SCORES_BLOCK];
    if (!(r.max > -INFINITY))
        return argmax(s, &raw);
    if (p->temperature <= 0 || r.max == INFINITY)
        return best;
    r.scale = 1.0f / p->temperature;
    if (!(r.scale < MAX_INVERSE_TEMPERATURE))
        r.scale = MAX_INVERSE_TEMPERATURE;
    double u = num_rng(p->seed, d->choice, d->output_idx);
    if (!truncate_row(s, p, &r))
        return draw_from_row(s, &r, u);
    assert(s->n_items > 0);
    return draw_from_list(s, u);
}

/* ---- log-probabilities ---- */

void sampler_logprobs(struct sampler *s, const struct scores *scores, int i, int32_t id, int n_top, struct token_logprob *chosen_out,
                      struct token_logprob *top_out)
{
    assert(scores->n_vocab == s->n_vocab);
    assert(id >= 0 && id < s->n_vocab);
    assert(n_top <= SAMPLER_MAX_TOP);
    const float *logits = scores->row(scores->ctx, i), *block_max = scores->block_max(scores->ctx, i);
    float max = s->rows->max(block_max, s->n_blocks);
    double norm = s->summed == logits ? s->log_sum_exp : rows_log_sum_exp(s->rows, logits, s->n_vocab, max);
    s->summed = NULL;
    *chosen_out = (struct token_logprob){.id = id, .logprob = (float)((double)logits[id] - norm)};
    if (n_top > s->n_vocab)
        n_top = s->n_vocab;
    int n = 0;
    for (int b = 0; b < s->n_blocks && n_top > 0; b++) {
        if (n == n_top && !(block_max[b] > top_out[n - 1].logprob))
            continue;
        for (int32_t k = b * SCORES_BLOCK, end = k + block_size(s, b); k < end; k++) { /* top_out holds raw logits until the end */
            if (n == n_top && !(logits[k] > top_out[n - 1].logprob))
                continue;
            int at = n < n_top ? n++ : n - 1;
            for (; at > 0 && logits[k] > top_out[at - 1].logprob; at--)
                top_out[at] = top_out[at - 1];
            top_out[at] = (struct token_logprob){.id = k, .logprob = logits[k]};
        }
    }
    for (int k = 0; k < n; k++)
        top_out[k].logprob = (float)((double)top_out[k].logprob - norm);
}

/* ---- counts for penalties ---- */

/* Entries in order of first sight, found through an open hash table of twice their number. */
struct sampler_counts {
    int capacity, n;
    uint32_t n_slots;   /* power of two */
    int32_t *slots;     /* [n_slots] entry index, or -1 */
    struct draw_count *entries; /* [capacity] */
};

struct sampler_counts *sampler_counts_create(int capacity)
{
    struct sampler_counts *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->capacity = capacity;
    c->n_slots = 16;
    while (c->n_slots < (uint32_t)capacity * 2)
        c->n_slots *= 2;
    c->slots = malloc(c->n_slots * sizeof *c->slots);
    c->entries = malloc(((size_t)capacity + 1) * sizeof *c->entries);
    if (!c->slots || !c->entries) {
        sampler_counts_destroy(c);
        return NULL;
    }
    sampler_counts_reset(c);
    return c;
}

void sampler_counts_destroy(struct sampler_counts *c)
{
    if (c == NULL)
        return;
    free(c->slots);
    free(c->entries);
    free(c);
}

void sampler_counts_reset(struct sampler_counts *c)
{
    c->n = 0;
    memset(c->slots, 0xff, c->n_slots * sizeof *c->slots);
}

void sampler_counts_add(struct sampler_counts *c, int32_t id, bool output)
{
    uint32_t slot = ((uint32_t)id * 0x9e3779b1u >> 7) & (c->n_slots - 1);
    while (c->slots[slot] >= 0 && c->entries[c->slots[slot]].id != id)
        slot = (slot + 1) & (c->n_slots - 1);
    if (c->slots[slot] < 0) {
        assert(c->n < c->capacity);
        c->slots[slot] = c->n;
        c->entries[c->n++] = (struct draw_count){.id = id};
    }
    c->entries[c->slots[slot]].n_output += output;
}

const struct draw_count *sampler_counts_list(const struct sampler_counts *c, int *n_out)
{
    *n_out = c->n;
    return c->entries;
}

static void penalise(struct sampler *s, const struct sampler_params *p, const struct sampler_counts *counts, const float *raw)
{
    for (int i = 0; i < counts->n; i++) {
        float *at = touch(s, raw, counts->entries[i].id), z = *at;
        z = z > 0 ? z / p->repetition_penalty : z * p->repetition_penalty;
        if (counts->entries[i].n_output > 0) {
            z -= (float)counts->entries[i].n_output * p->frequency_penalty;
            z -= p->presence_penalty;
        }
        *at = z;
    }
}

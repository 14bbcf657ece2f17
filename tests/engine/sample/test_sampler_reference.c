/* The sampler's fast ways (block maxima, gathered lists, estimated sums) against the plain statement of sampler.h: everything is listed, sorted and
 * added up in order, and the token must be the same for every row and setting. The rows are those that fast ways trip over: sizes beside the blocks
 * and beyond the length where estimates begin, equals everywhere, constant and nearly constant rows, minus infinity, one peak. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/numerics/rows.h"
#include "engine/sample/sampler.h"

#define N_MAX 6000
#define N_COUNTED 40

/* Instrumented code is slow and is there for its memory errors. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define N_SETTINGS 3
#else
#define N_SETTINGS 24
#endif

struct desk {
    int n;
    float logits[N_MAX], block_max[N_MAX / SCORES_BLOCK + 1];
    struct scores scores;
    struct sampler *s;
    struct sampler_params p;
    struct sampler_draw d;
    struct logit_bias bias[8];
    int32_t bans[3];
    int n_seen[N_MAX]; /* -1: not counted; else times drawn */
    struct sampler_counts *counts;
    uint32_t next_random;
};

static const float *desk_row(void *ctx, int i)
{
    (void)i;
    return ((struct desk *)ctx)->logits;
}

static const float *desk_max(void *ctx, int i)
{
    (void)i;
    return ((struct desk *)ctx)->block_max;
}

static double uniform(struct desk *k)
{
    return num_rng(77, 0, k->next_random++);
}

static int below(struct desk *k, int n)
{
    return (int)(uniform(k) * n);
}

/* ---- the plain way ---- */

struct item {
    int32_t id;
    float logit, weight, key;
};

struct list {
    struct item items[N_MAX];
    int n;
};

static int best_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? -1 : 1;
    return x->id - y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct item *)a)->id - ((const struct item *)b)->id;
}

static double total_of(const struct list *l)
{
    double total = 0;
    for (int i = 0; i < l->n; i++)
        total += (double)l->items[i].weight;
    return total;
}

/* Keeps the best while the mass of the better ones is below target. */
static void cut(struct list *l, double target, bool unit)
{
    qsort(l->items, (size_t)l->n, sizeof l->items[0], best_first);
    double better = 0;
    int n = 0;
    for (; n < l->n && (n == 0 || better < target); n++)
        better += unit ? 1.0 : (double)l->items[n].weight;
    l->n = n;
    qsort(l->items, (size_t)l->n, sizeof l->items[0], by_id);
}

static void key_by_logit(struct list *l)
{
    for (int i = 0; i < l->n; i++)
        l->items[i].key = l->items[i].logit;
}

static void cut_typical(struct list *l, float typical_p, float max, float scale)
{
    double total = total_of(l), log_total = num_log(total), entropy = 0;
    for (int i = 0; i < l->n; i++)
        if (l->items[i].weight > 0)
            entropy -= (double)l->items[i].weight / total * ((double)((l->items[i].logit - max) * scale) - log_total);
    for (int i = 0; i < l->n; i++)
        l->items[i].key = (float)-fabs(-((double)((l->items[i].logit - max) * scale) - log_total) - entropy);
    cut(l, (double)typical_p * total, false);
}

static void cut_all(const struct desk *k, struct list *l, const float *logits, float max, float scale)
{
    const struct sampler_params *p = &k->p;
    bool whole = true;
    if (p->top_k > 0 && p->top_k < k->n) {
        key_by_logit(l);
        cut(l, p->top_k, true);
        whole = false;
    }
    if (p->typical_p < 1) {
        cut_typical(l, p->typical_p, max, scale);
        whole = false;
    }
    if (p->top_p < 1) {
        key_by_logit(l);
        cut(l, (double)p->top_p * (whole ? rows_generic.sum_exp(logits, k->n, max, scale, NULL) : total_of(l)), false);
    }
    if (p->min_p > 0) {
        float best = 0;
        int n = 0;
        for (int i = 0; i < l->n; i++)
            best = l->items[i].weight > best ? l->items[i].weight : best;
        for (int i = 0; i < l->n; i++)
            if (l->items[i].weight >= p->min_p * best)
                l->items[n++] = l->items[i];
        l->n = n;
    }
}

/* Without truncation the sums are those of blocks, in lanes (rows.h). */
static int32_t draw_from_blocks(const struct desk *k, const struct list *l, const float *logits, float max, float scale, double u)
{
    static float block_sums[N_MAX / ROWS_BLOCK + 1];
    double target = u * rows_generic.sum_exp(logits, k->n, max, scale, block_sums), sum = 0;
    int block = -1;
    for (int b = 0; b * ROWS_BLOCK < k->n; b++) {
        if (block_sums[b] == 0)
            continue;
        block = b;
        if (sum + (double)block_sums[b] > target)
            break;
        sum += (double)block_sums[b];
    }
    int32_t last = -1;
    for (int i = 0; i < l->n; i++) {
        if (l->items[i].id / ROWS_BLOCK != block || l->items[i].weight == 0)
            continue;
        last = l->items[i].id;
        sum += (double)l->items[i].weight;
        if (sum > target)
            break;
    }
    return last;
}

static void change(const struct desk *k, float *logits)
{
    memcpy(logits, k->logits, (size_t)k->n * sizeof *logits);
    for (int i = 0; i < k->p.n_bias; i++)
        logits[k->bias[i].id] += k->bias[i].bias;
    for (int i = 0; i < k->d.n_bans; i++)
        logits[k->bans[i]] = -INFINITY;
    for (int i = 0; i < k->n && k->d.counts != NULL; i++) {
        if (k->n_seen[i] < 0)
            continue;
        logits[i] = logits[i] > 0 ? logits[i] / k->p.repetition_penalty : logits[i] * k->p.repetition_penalty;
        if (k->n_seen[i] > 0) {
            logits[i] -= (float)k->n_seen[i] * k->p.frequency_penalty;
            logits[i] -= k->p.presence_penalty;
        }
    }
}

static int32_t largest(const float *logits, int n)
{
    int32_t best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int32_t plain_next(const struct desk *k)
{
    static float logits[N_MAX];
    static struct list l;
    change(k, logits);
    int32_t best = largest(logits, k->n);
    if (logits[best] == -INFINITY)
        return largest(k->logits, k->n);
    if (k->p.temperature <= 0)
        return best;
    float max = logits[best], scale = 1.0f / k->p.temperature;
    double u = num_rng(k->p.seed, k->d.choice, k->d.output_idx);
    l.n = 0;
    for (int i = 0; i < k->n; i++)
        if (logits[i] > -INFINITY)
            l.items[l.n++] = (struct item){.id = i, .logit = logits[i], .weight = num_exp_f32((logits[i] - max) * scale)};
    bool truncates = (k->p.top_k > 0 && k->p.top_k < k->n) || k->p.typical_p < 1 || k->p.top_p < 1 || k->p.min_p > 0;
    if (!truncates)
        return draw_from_blocks(k, &l, logits, max, scale, u);
    cut_all(k, &l, logits, max, scale);
    double target = u * total_of(&l), sum = 0;
    int32_t last = l.items[0].id;
    for (int i = 0; i < l.n; i++) {
        if (l.items[i].weight == 0)
            continue;
        sum += (double)l.items[i].weight;
        last = l.items[i].id;
        if (sum > target)
            break;
    }
    return last;
}

/* ---- rows and settings ---- */

enum row_kind { NORMAL, ON_A_GRID, MOSTLY_BANNED, CONSTANT, NEARLY_CONSTANT, PEAKED, STEEP, N_KINDS };

static void fill(struct desk *k, enum row_kind kind)
{
    for (int i = 0; i < k->n; i++) {
        float x = 0;
        for (int j = 0; j < 4; j++)
            x += (float)uniform(k) - 0.5f;
        k->logits[i] = kind == ON_A_GRID         ? rintf(x * 16) * 0.25f
                       : kind == MOSTLY_BANNED   ? (below(k, 3) > 0 ? -INFINITY : x * 4)
                       : kind == CONSTANT        ? -1.5f
                       : kind == NEARLY_CONSTANT ? x * 0.001f
                       : kind == PEAKED          ? x * 2 + (i == k->n / 2 ? 9.0f : 0.0f)
                       : kind == STEEP           ? x * 60
                                                 : x * 3;
    }
    for (int begin = 0; begin < k->n; begin += SCORES_BLOCK)
        k->block_max[begin / SCORES_BLOCK] = rows_generic.max(k->logits + begin, k->n - begin < SCORES_BLOCK ? k->n - begin : SCORES_BLOCK);
}

static void desk_open(struct desk *k, int n, enum row_kind kind)
{
    uint32_t next_random = k->next_random;
    memset(k, 0, sizeof *k);
    k->next_random = next_random;
    k->n = n;
    k->scores = (struct scores){.n_out = 1, .n_vocab = n, .ctx = k, .row = desk_row, .block_max = desk_max};
    k->s = sampler_create(n);
    k->counts = sampler_counts_create(N_COUNTED);
    fill(k, kind);
    memset(k->n_seen, 0xff, sizeof k->n_seen);
    for (int i = 0; i < N_COUNTED; i++) {
        int32_t id = below(k, n);
        bool output = below(k, 2) > 0;
        k->n_seen[id] = (k->n_seen[id] < 0 ? 0 : k->n_seen[id]) + output;
        sampler_counts_add(k->counts, id, output);
    }
}

static void desk_finish(struct desk *k)
{
    sampler_destroy(k->s);
    sampler_counts_destroy(k->counts);
}

static void choose_setting(struct desk *k)
{
    struct sampler_params *p = &k->p;
    *p = sampler_defaults();
    p->temperature = below(k, 3) > 0 ? 0.2f + (float)uniform(k) * 2 : 1;
    p->top_k = below(k, 3) > 0 ? 0 : below(k, 2) > 0 ? 1 + below(k, 50) : 1 + below(k, k->n);
    p->top_p = below(k, 2) > 0 ? 1 : below(k, 4) > 0 ? (float)uniform(k) : 0.5f;
    p->min_p = below(k, 4) > 0 ? 0 : (float)uniform(k) * 0.3f;
    p->typical_p = below(k, 3) > 0 ? 1 : below(k, 4) > 0 ? (float)uniform(k) : 0.5f;
    p->seed = (uint64_t)k->next_random;
    k->d = (struct sampler_draw){.choice = 1, .output_idx = k->next_random, .bans = k->bans};
    if (below(k, 3) == 0) {
        p->repetition_penalty = 0.7f + (float)uniform(k);
        p->frequency_penalty = (float)uniform(k) * 2 - 1;
        p->presence_penalty = (float)uniform(k) * 2 - 1;
        k->d.counts = k->counts;
    }
    p->bias = k->bias;
    for (int id = below(k, k->n); below(k, 2) > 0 && p->n_bias < 8 && id < k->n; id += 1 + below(k, k->n))
        k->bias[p->n_bias++] = (struct logit_bias){.id = id, .bias = below(k, 4) > 0 ? (float)uniform(k) * 12 - 6 : -INFINITY};
    while (k->d.n_bans < 3 && below(k, 2) > 0)
        k->bans[k->d.n_bans++] = below(k, k->n);
}

static void every_setting_draws_what_the_plain_way_draws(void **state)
{
    (void)state;
    static struct desk k;
    static const int sizes[] = {1, 2, 15, 255, 256, 257, 1000, 2049, 4999, 6000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            desk_open(&k, sizes[i], (enum row_kind)kind);
            for (int j = 0; j < N_SETTINGS; j++) {
                choose_setting(&k);
                int32_t got = sampler_next(k.s, &k.p, &k.d, &k.scores, 0), want = plain_next(&k);
                if (got != want)
                    fail_msg("vocabulary %d, kind %d: T %g, top_k %d, top_p %g, min_p %g, typical_p %g draws %d, plainly %d", k.n, kind,
                             (double)k.p.temperature, k.p.top_k, (double)k.p.top_p, (double)k.p.min_p, (double)k.p.typical_p, got, want);
            }
            desk_finish(&k);
        }
}

/* A draw that says so leaves its sum to the log-probabilities of the same row; they are the same as without. */
static void log_probabilities_after_a_draw_are_those_without(void **state)
{
    (void)state;
    static struct desk k;
    struct token_logprob chosen[2];
    for (int i = 0; i < 60; i++) {
        desk_open(&k, 4999 - i, (enum row_kind)(i % N_KINDS));
        choose_setting(&k);
        k.p.top_k = i % 3 == 0 ? k.p.top_k : 0;
        k.p.temperature = i % 4 == 0 ? 1 : k.p.temperature;
        sampler_logprobs(k.s, &k.scores, 0, 5, 0, &chosen[0], NULL);
        k.d.will_score = true;
        assert_int_equal(sampler_next(k.s, &k.p, &k.d, &k.scores, 0), plain_next(&k));
        sampler_logprobs(k.s, &k.scores, 0, 5, 0, &chosen[1], NULL);
        assert_memory_equal(&chosen[0], &chosen[1], sizeof chosen[0]);
        k.logits[7] = k.block_max[0] = 500; /* another row at the same place, with no draw before */
        sampler_logprobs(k.s, &k.scores, 0, 7, 0, &chosen[1], NULL);
        assert_true(chosen[1].logprob == 0);
        desk_finish(&k);
    }
}

/* On a constant row every sum is exact, and targets meet them exactly: all is in doubt and must be done in order. */
static void targets_that_are_met_exactly_are_decided_in_order(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 4096, CONSTANT);
    for (int half = 0; half < 3; half++)
        for (uint32_t i = 0; i < 200; i++) {
            k.p = sampler_defaults();
            k.p.top_p = half == 0 ? 0.5f : 1;
            k.p.typical_p = half == 1 ? 0.5f : 1;
            k.p.min_p = half == 2 ? 0.5f : 0;
            k.d = (struct sampler_draw){.output_idx = i};
            int32_t got = sampler_next(k.s, &k.p, &k.d, &k.scores, 0);
            assert_int_equal(got, plain_next(&k));
            assert_true(half == 2 || got < 2048);
        }
    desk_finish(&k);
}

static void log_probabilities_are_those_of_the_plain_way(void **state)
{
    (void)state;
    static struct desk k;
    static struct list l;
    for (int kind = 0; kind < N_KINDS; kind++) {
        desk_open(&k, 4999, (enum row_kind)kind);
        float max = k.logits[largest(k.logits, k.n)];
        double norm = (double)max + num_log(rows_generic.sum_exp(k.logits, k.n, max, 1, NULL));
        l.n = k.n;
        for (int i = 0; i < k.n; i++)
            l.items[i] = (struct item){.id = i, .logit = k.logits[i], .key = k.logits[i]};
        qsort(l.items, (size_t)l.n, sizeof l.items[0], best_first);
        struct token_logprob chosen, top[SAMPLER_MAX_TOP];
        sampler_logprobs(k.s, &k.scores, 0, 3, SAMPLER_MAX_TOP, &chosen, top);
        assert_true(chosen.logprob == (float)((double)k.logits[3] - norm));
        for (int i = 0; i < SAMPLER_MAX_TOP; i++) {
            assert_int_equal(top[i].id, l.items[i].id);
            assert_true(top[i].logprob == (float)((double)l.items[i].logit - norm));
        }
        desk_finish(&k);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_setting_draws_what_the_plain_way_draws),
        cmocka_unit_test(log_probabilities_after_a_draw_are_those_without),
        cmocka_unit_test(targets_that_are_met_exactly_are_decided_in_order),
        cmocka_unit_test(log_probabilities_are_those_of_the_plain_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

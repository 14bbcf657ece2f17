/* The sampler: each step by hand-made rows, the documented order by combinations, the draw against exact probabilities. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/sample/sampler.h"

#define N_MAX 2000

/* A row as `scores` hands it out. */
struct desk {
    float logits[N_MAX], block_max[N_MAX / SCORES_BLOCK + 1];
    struct scores scores;
    struct sampler *s;
    struct sampler_params p;
    struct sampler_draw d;
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

static void desk_seal(struct desk *k)
{
    for (int b = 0; b * SCORES_BLOCK < k->scores.n_vocab; b++) {
        k->block_max[b] = -INFINITY;
        for (int i = b * SCORES_BLOCK; i < k->scores.n_vocab && i < (b + 1) * SCORES_BLOCK; i++)
            k->block_max[b] = k->logits[i] > k->block_max[b] ? k->logits[i] : k->block_max[b];
    }
}

static void desk_open(struct desk *k, int n_vocab, const float *logits)
{
    memset(k, 0, sizeof *k);
    k->scores = (struct scores){.n_out = 1, .n_vocab = n_vocab, .ctx = k, .row = desk_row, .block_max = desk_max};
    for (int i = 0; i < n_vocab; i++)
        k->logits[i] = logits != NULL ? logits[i] : -INFINITY;
    k->s = sampler_create(n_vocab);
    k->p = sampler_defaults();
    desk_seal(k);
}

static void desk_random(struct desk *k, int n_vocab, uint64_t seed, float spread)
{
    desk_open(k, n_vocab, NULL);
    for (int i = 0; i < n_vocab; i++)
        k->logits[i] = (float)(num_rng(seed, 1, (uint32_t)i) - 0.5) * spread;
    desk_seal(k);
}

static int32_t next(struct desk *k)
{
    return sampler_next(k->s, &k->p, &k->d, &k->scores, 0);
}

/* Which ids are ever drawn in many draws, as a bit mask (ids below 64). */
static uint64_t support(struct desk *k)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        k->d.output_idx = i;
        int32_t id = next(k);
        assert_in_range(id, 0, 63);
        seen |= 1ull << id;
    }
    return seen;
}

static void greedy_takes_the_largest_and_the_lowest_id_of_equals(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 1000, NULL);
    k.p.temperature = 0;
    k.logits[700] = k.logits[300] = k.logits[301] = 2.5f;
    desk_seal(&k);
    assert_int_equal(next(&k), 300);
    k.logits[999] = 2.6f;
    desk_seal(&k);
    assert_int_equal(next(&k), 999);
    sampler_destroy(k.s);
    sampler_destroy(NULL);
}

static void greedy_ignores_truncations_and_seed(void **state)
{
    (void)state;
    static struct desk k;
    desk_random(&k, 600, 4, 10);
    k.p.temperature = 0;
    int32_t want = next(&k);
    k.p.seed = 99;
    k.p.top_k = 3;
    k.p.top_p = 0.1f;
    k.p.typical_p = 0.1f;
    k.d.output_idx = 7;
    assert_int_equal(next(&k), want);
    sampler_destroy(k.s);
}

static void bias_comes_before_everything(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 4, (float[]){1, 2, 3, 0});
    k.p.temperature = 0;
    struct logit_bias bias[2] = {{.id = 0, .bias = 2.5f}, {.id = 2, .bias = -INFINITY}};
    k.p.bias = bias;
    k.p.n_bias = 1;
    assert_int_equal(next(&k), 0);
    bias[0].bias = 0;
    k.p.n_bias = 2;
    assert_int_equal(next(&k), 1);
    k.p.temperature = 1;
    k.p.top_k = 2; /* counts what is left after the ban: ids 1 and 0 */
    assert_int_equal(support(&k), 0x3);
    sampler_destroy(k.s);
}

static void bans_outdo_bias_and_if_all_is_banned_the_raw_logits_decide(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 3, (float[]){1, 5, 3});
    struct logit_bias bias = {.id = 1, .bias = 100};
    int32_t bans[3] = {1, 2, 0};
    k.p.bias = &bias;
    k.p.n_bias = 1;
    k.d.bans = bans;
    k.d.n_bans = 1;
    assert_int_equal(support(&k), 0x5);
    k.d.n_bans = 3;
    assert_int_equal(next(&k), 1);
    sampler_destroy(k.s);
}

static void repetition_counts_prompt_and_output_the_others_output_alone(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 4, (float[]){4, 3.9f, -1, -1.5f});
    k.p.temperature = 0;
    struct sampler_counts *c = sampler_counts_create(8);
    k.d.counts = c;
    sampler_counts_add(c, 0, false);
    k.p.frequency_penalty = 5;
    k.p.presence_penalty = 5;
    assert_int_equal(next(&k), 0); /* a prompt token is no output */
    k.p.frequency_penalty = k.p.presence_penalty = 0;
    k.p.repetition_penalty = 1.1f;
    assert_int_equal(next(&k), 1);
    sampler_counts_reset(c);
    k.p.repetition_penalty = 1;
    k.p.presence_penalty = 0.15f;
    sampler_counts_add(c, 0, true);
    assert_int_equal(next(&k), 1);
    sampler_counts_add(c, 1, true);
    sampler_counts_add(c, 1, true);
    assert_int_equal(next(&k), 0); /* presence does not count */
    k.p.presence_penalty = 0;
    k.p.frequency_penalty = 0.06f;
    assert_int_equal(next(&k), 0); /* 4 - 0.06 over 3.9 - 0.12 */
    sampler_counts_add(c, 0, true);
    sampler_counts_add(c, 0, true);
    assert_int_equal(next(&k), 0); /* 4 - 0.18 over 3.78 */
    sampler_counts_add(c, 0, true);
    assert_int_equal(next(&k), 1); /* 4 - 0.24 under 3.78 */
    sampler_counts_destroy(c);
    sampler_destroy(k.s);
}

static void repetition_pushes_negative_logits_down_too(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 2, (float[]){-1, -1.5f});
    k.p.temperature = 0;
    struct sampler_counts *c = sampler_counts_create(2);
    sampler_counts_add(c, 0, false);
    k.d.counts = c;
    k.p.repetition_penalty = 1.4f;
    assert_int_equal(next(&k), 0); /* -1.4 */
    k.p.repetition_penalty = 1.6f;
    assert_int_equal(next(&k), 1); /* -1.6 */
    sampler_counts_destroy(c);
    sampler_destroy(k.s);
}

static void counts_hold_many_tokens(void **state)
{
    (void)state;
    static struct desk k;
    desk_random(&k, N_MAX, 3, 4);
    k.p.temperature = 0;
    k.p.presence_penalty = 50;
    struct sampler_counts *c = sampler_counts_create(N_MAX);
    k.d.counts = c;
    static bool seen[N_MAX];
    for (int i = 0; i < N_MAX; i++) { /* each token once, in order of its logit */
        int32_t id = next(&k);
        assert_false(seen[id]);
        seen[id] = true;
        sampler_counts_add(c, id, true);
    }
    sampler_counts_destroy(c);
    sampler_destroy(k.s);
}

static void top_k_keeps_k_and_the_lowest_ids_of_equals(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 6, (float[]){1, 2, 1, 2, 1, -50});
    k.p.top_k = 1;
    assert_int_equal(support(&k), 1 << 1);
    k.p.top_k = 2;
    assert_int_equal(support(&k), 1 << 1 | 1 << 3);
    k.p.top_k = 4;
    assert_int_equal(support(&k), 1 << 1 | 1 << 3 | 1 << 0 | 1 << 2);
    k.p.top_k = 100;
    assert_int_equal(support(&k), 0x1f);
    sampler_destroy(k.s);
}

static const double *reference_p;

/* By probability, then id. */
static int by_probability(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    if (reference_p[x] != reference_p[y])
        return reference_p[x] > reference_p[y] ? -1 : 1;
    return x - y;
}

/* The plainest statement of the order of truncations: sort, cut, renormalise. p receives the probabilities that are left. */
static void reference_survivors(const struct desk *k, bool *kept, double *p)
{
    static int order[N_MAX];
    int n = k->scores.n_vocab, n_kept = n;
    double max = -INFINITY, total = 0;
    for (int i = 0; i < n; i++)
        max = k->logits[i] > max ? (double)k->logits[i] : max;
    for (int i = 0; i < n; i++) {
        p[i] = exp(((double)k->logits[i] - max) / (double)k->p.temperature);
        order[i] = i;
    }
    reference_p = p;
    qsort(order, (size_t)n, sizeof *order, by_probability);
    if (k->p.top_k > 0 && k->p.top_k < n_kept)
        n_kept = k->p.top_k;
    for (int i = 0; i < n_kept; i++)
        total += p[order[i]];
    if (k->p.top_p < 1) {
        double sum = 0;
        int i = 0;
        do
            sum += p[order[i++]];
        while (i < n_kept && sum < (double)k->p.top_p * total);
        n_kept = i;
    }
    for (int i = 0; i < n_kept; i++)
        if (p[order[i]] < (double)k->p.min_p * p[order[0]])
            n_kept = i;
    memset(kept, 0, N_MAX * sizeof *kept);
    total = 0;
    for (int i = 0; i < n_kept; i++) {
        kept[order[i]] = true;
        total += p[order[i]];
    }
    for (int i = 0; i < n; i++)
        p[i] = kept[i] ? p[i] / total : 0;
}

/* Random rows and settings: whatever is drawn survived the reference, and all survivors of some weight are drawn. */
static void truncations_agree_with_a_sorted_reference(void **state)
{
    (void)state;
    static struct desk k;
    static bool kept[N_MAX];
    static int n_drawn[N_MAX];
    static double p[N_MAX];
    for (uint64_t seed = 1; seed <= 60; seed++) {
        desk_random(&k, seed % 2 ? 300 : 700, seed, seed % 3 ? 12.0f : 3.0f);
        k.p.temperature = seed % 4 ? 1.0f : 0.6f;
        k.p.top_k = seed % 5 < 3 ? (int)(seed * 7 % 90) : 0;
        k.p.top_p = seed % 3 ? (float)(seed * 37 % 100) / 100 : 1;
        k.p.min_p = seed % 4 == 1 ? 0.02f : 0;
        k.p.seed = seed;
        reference_survivors(&k, kept, p);
        memset(n_drawn, 0, sizeof n_drawn);
        for (uint32_t i = 0; i < 1500; i++) {
            k.d.output_idx = i;
            int32_t id = next(&k);
            if (!kept[id])
                fail_msg("seed %d drew %d, which does not survive", (int)seed, id);
            n_drawn[id]++;
        }
        for (int i = 0; i < k.scores.n_vocab; i++) /* e^-15: never by chance */
            if (p[i] * 1500 > 15 && n_drawn[i] == 0)
                fail_msg("seed %d never drew %d, which survives", (int)seed, i);
        sampler_destroy(k.s);
    }
}

static void top_p_reaches_deep_into_a_flat_row(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 1000, NULL);
    for (int i = 0; i < 1000; i++)
        k.logits[i] = i == 0 ? 20 : 0; /* the others are e^-20 each: below the first looks' depth */
    desk_seal(&k);
    k.p.top_p = 0.9999f;
    k.p.temperature = 4; /* e^-5 each: 1,000 of them outweigh the first */
    int n_above = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        k.d.output_idx = i;
        n_above += next(&k) >= 500;
    }
    assert_in_range(n_above, 700, 1000); /* 500 e^-5 / (1 + 999 e^-5) = 0.436 */
    k.p.top_p = 0;
    assert_int_equal(next(&k), 0);
    sampler_destroy(k.s);
}

static void typical_p_keeps_what_is_near_the_entropy(void **state)
{
    (void)state;
    static struct desk k;
    /* Probabilities 0.5, 0.25, 0.125, 0.125: entropy 1.75 bits; surprises 1, 2, 3, 3; distances 0.75, 0.25, 1.25, 1.25. */
    desk_open(&k, 4, (float[]){0, -0.69314718f, -1.38629436f, -1.38629436f});
    k.p.typical_p = 0.2f;
    assert_int_equal(support(&k), 1 << 1);
    k.p.typical_p = 0.3f;
    assert_int_equal(support(&k), 1 << 1 | 1 << 0);
    k.p.typical_p = 0.8f;
    assert_int_equal(support(&k), 1 << 1 | 1 << 0 | 1 << 2);
    k.p.typical_p = 0.99f;
    assert_int_equal(support(&k), 0xf);
    sampler_destroy(k.s);
}

static void min_p_is_relative_to_the_best(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 4, (float[]){0, -0.7f, -2.3f, -2.4f});
    k.p.min_p = 0.5f; /* e^-0.7 = 0.497 */
    assert_int_equal(support(&k), 1);
    k.p.min_p = 0.49f;
    assert_int_equal(support(&k), 3);
    k.p.min_p = 0.1f; /* e^-2.3 = 0.1003 */
    assert_int_equal(support(&k), 7);
    k.p.temperature = 2;
    assert_int_equal(support(&k), 15);
    sampler_destroy(k.s);
}

static void each_truncation_sees_the_survivors_of_the_one_before(void **state)
{
    (void)state;
    static struct desk k;
    /* Probabilities 0.4, 0.3, 0.2, 0.1. */
    desk_open(&k, 4, (float[]){-0.91629073f, -1.2039728f, -1.60943791f, -2.30258509f});
    k.p.top_p = 0.65f;
    assert_int_equal(support(&k), 3); /* 0.4 + 0.3 */
    k.p.top_k = 2;
    assert_int_equal(support(&k), 3); /* of the two: 0.571 is too little */
    k.p.top_p = 0.55f;
    assert_int_equal(support(&k), 1); /* of the two 0.571 suffices; of all four 0.4 would not */
    sampler_destroy(k.s);
}

/* Enough to see a bias of a few percent; instrumented code draws a hundred times slower and is there for its memory errors. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define N_DRAWS 3000
#else
#define N_DRAWS 60000
#endif

/* Chi-square of many draws against exact probabilities; fixed seeds, so the outcome is one of two for ever. */
static void draws_follow(struct desk *k, const double *p, int n)
{
    static int seen[N_MAX];
    double chi2 = 0, expected_small = 0;
    int cells = 0, small = 0;
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < N_DRAWS; i++) {
        k->d.output_idx = (uint32_t)i % 20000;
        k->d.choice = (uint32_t)i / 20000;
        seen[next(k)]++;
    }
    for (int i = 0; i < n; i++) {
        double expected = p[i] * N_DRAWS;
        if (expected < 5) {
            expected_small += expected;
            small += seen[i];
            continue;
        }
        chi2 += (seen[i] - expected) * (seen[i] - expected) / expected;
        cells++;
    }
    if (expected_small > 5) {
        chi2 += (small - expected_small) * (small - expected_small) / expected_small;
        cells++;
    }
    double limit = cells - 1 + 4 * sqrt(2.0 * cells); /* four standard deviations */
    assert_true(chi2 < limit);
}

static void the_draw_follows_the_distribution(void **state)
{
    (void)state;
    static struct desk k;
    static double p[N_MAX];
    for (int truncated = 0; truncated < 2; truncated++) {
        desk_random(&k, 700, 21, 9);
        k.p.temperature = 0.8f;
        k.p.seed = 4242;
        static bool kept[N_MAX];
        if (truncated)
            k.p.top_k = 100;
        reference_survivors(&k, kept, p);
        draws_follow(&k, p, 700);
        sampler_destroy(k.s);
    }
}

static void the_draw_is_keyed_by_seed_choice_and_position(void **state)
{
    (void)state;
    static struct desk k;
    desk_random(&k, 1000, 2, 2);
    int32_t first = next(&k);
    assert_int_equal(next(&k), first); /* no hidden state */
    int differ[3] = {0};
    for (int i = 1; i < 20; i++) {
        k.d = (struct sampler_draw){.output_idx = (uint32_t)i};
        differ[0] += next(&k) != first;
        k.d = (struct sampler_draw){.choice = (uint32_t)i};
        differ[1] += next(&k) != first;
        k.d = (struct sampler_draw){0};
        k.p.seed = (uint64_t)i;
        differ[2] += next(&k) != first;
        k.p.seed = 0;
    }
    for (int i = 0; i < 3; i++)
        assert_true(differ[i] >= 17);
    sampler_destroy(k.s);
}

static void a_token_without_probability_is_never_drawn(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 600, NULL);
    k.logits[5] = 0;
    k.logits[599] = -0.5f;
    desk_seal(&k);
    for (int setting = 0; setting < 4; setting++) {
        k.p = sampler_defaults();
        k.p.top_k = setting == 1 ? 50 : 0;
        k.p.top_p = setting == 2 ? 0.999f : 1;
        k.p.typical_p = setting == 3 ? 0.999f : 1;
        for (uint32_t i = 0; i < 2000; i++) {
            k.d.output_idx = i;
            int32_t id = next(&k);
            assert_true(id == 5 || id == 599);
        }
    }
    sampler_destroy(k.s);
}

static void extreme_temperatures_are_survived(void **state)
{
    (void)state;
    static struct desk k;
    desk_random(&k, 900, 6, 10);
    k.p.temperature = 0;
    int32_t best = next(&k);
    static const float cold[] = {1e-6f, 1e-30f, 1e-45f};
    for (int i = 0; i < 3; i++)
        for (int setting = 0; setting < 4; setting++) {
            k.p = sampler_defaults();
            k.p.temperature = cold[i];
            k.p.top_k = setting == 1 ? 40 : 0;
            k.p.top_p = setting == 2 ? 0.9f : 1;
            k.p.typical_p = setting == 3 ? 0.9f : 1;
            assert_int_equal(next(&k), best);
        }
    k.p = sampler_defaults();
    k.p.temperature = 100;
    k.p.min_p = 0.9f;
    assert_in_range(next(&k), 0, 899);
    sampler_destroy(k.s);
}

static void logprobs_are_log_softmax_of_the_raw_row(void **state)
{
    (void)state;
    static struct desk k;
    desk_random(&k, 1999, 8, 12);
    k.logits[100] = k.logits[1500] = k.logits[7] = 6.5f; /* equals at the top */
    k.logits[55] = -INFINITY;
    desk_seal(&k);
    double max = 6.5, sum = 0;
    for (int i = 0; i < 1999; i++)
        sum += exp((double)k.logits[i] - max);
    struct token_logprob chosen, top[SAMPLER_MAX_TOP];
    sampler_logprobs(k.s, &k.scores, 0, 42, 20, &chosen, top);
    assert_int_equal(chosen.id, 42);
    assert_true(fabs((double)chosen.logprob - ((double)k.logits[42] - max - log(sum))) < 1e-5);
    assert_int_equal(top[0].id, 7);
    assert_int_equal(top[1].id, 100);
    assert_int_equal(top[2].id, 1500);
    for (int i = 0; i < 20; i++) {
        assert_true(fabs((double)top[i].logprob - ((double)k.logits[top[i].id] - max - log(sum))) < 1e-5);
        int n_better = 0;
        for (int v = 0; v < 1999; v++)
            n_better += k.logits[v] > k.logits[top[i].id] || (k.logits[v] == k.logits[top[i].id] && v < top[i].id);
        assert_int_equal(n_better, i);
    }
    sampler_logprobs(k.s, &k.scores, 0, 55, 0, &chosen, top);
    assert_true(chosen.logprob == -INFINITY);
    sampler_destroy(k.s);
}

static void logprobs_of_a_small_vocabulary_list_all_of_it(void **state)
{
    (void)state;
    static struct desk k;
    desk_open(&k, 3, (float[]){0, -INFINITY, 0});
    struct token_logprob chosen, top[SAMPLER_MAX_TOP];
    sampler_logprobs(k.s, &k.scores, 0, 2, 3, &chosen, top);
    assert_int_equal(top[0].id, 0);
    assert_int_equal(top[1].id, 2);
    assert_int_equal(top[2].id, 1);
    assert_true(top[2].logprob == -INFINITY);
    assert_true(fabs((double)chosen.logprob + log(2)) < 1e-6);
    sampler_destroy(k.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_and_the_lowest_id_of_equals),
        cmocka_unit_test(greedy_ignores_truncations_and_seed),
        cmocka_unit_test(bias_comes_before_everything),
        cmocka_unit_test(bans_outdo_bias_and_if_all_is_banned_the_raw_logits_decide),
        cmocka_unit_test(repetition_counts_prompt_and_output_the_others_output_alone),
        cmocka_unit_test(repetition_pushes_negative_logits_down_too),
        cmocka_unit_test(counts_hold_many_tokens),
        cmocka_unit_test(top_k_keeps_k_and_the_lowest_ids_of_equals),
        cmocka_unit_test(truncations_agree_with_a_sorted_reference),
        cmocka_unit_test(top_p_reaches_deep_into_a_flat_row),
        cmocka_unit_test(typical_p_keeps_what_is_near_the_entropy),
        cmocka_unit_test(min_p_is_relative_to_the_best),
        cmocka_unit_test(each_truncation_sees_the_survivors_of_the_one_before),
        cmocka_unit_test(the_draw_follows_the_distribution),
        cmocka_unit_test(the_draw_is_keyed_by_seed_choice_and_position),
        cmocka_unit_test(a_token_without_probability_is_never_drawn),
        cmocka_unit_test(extreme_temperatures_are_survived),
        cmocka_unit_test(logprobs_are_log_softmax_of_the_raw_row),
        cmocka_unit_test(logprobs_of_a_small_vocabulary_list_all_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

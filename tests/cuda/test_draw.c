/* test_draw.c: what the device draws, against sampler.c on the same rows: every id and every bit of a log-probability, under three schedules. Rows
 * that were not decided are drawn from what the device set aside, and they are few. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/numerics/rows.h"
#include "engine/sample/sampler.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/cuda/memory.h"

#define MAX_ROWS 40
#define MAX_COUNTS 64

/* Sanitizers are slow. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { REDUCED = 1 };
#else
enum { REDUCED = 0 };
#endif

/* What a row of logits looks like. */
enum look {
    PEAKED, /* as a model's: most far below a few */
    WIDE,   /* a nucleus of thousands */
    FLAT,   /* nearly all alike */
    TIED,   /* few distinct values */
    EQUAL,
    N_LOOKS
};

enum edit { NO_EDITS = 0, LIFT_WORST = 1, BAN_BEST = 2, BAN_SOME = 4, BAN_ALL = 8, COUNT = 16, BIAS_SOME = 32 };

struct setting {
    const char *name;
    struct sampler_params p;
    unsigned edits;
    int n_top;
    int most_undecided; /* in a hundred rows */
};

#define PENALTIES .repetition_penalty = 1.3f, .frequency_penalty = 0.4f, .presence_penalty = -0.7f
/* Parts and factors of 0 are off. */
static const struct setting settings[] = {
    {"temperature 1", {.temperature = 1}, NO_EDITS, 5, 0},
    {"temperature 1, no log-probabilities", {.temperature = 1}, NO_EDITS, -1, 0},
    {"temperature 2", {.temperature = 2}, NO_EDITS, 0, 0},
    {"temperature 0.01", {.temperature = 0.01f}, NO_EDITS, 20, 0},
    {"hardly any temperature", {.temperature = 1e-35f}, NO_EDITS, 1, 0},
    {"greedy", {.temperature = 0, .top_k = 3}, NO_EDITS, 20, 0},
    {"greedy, no log-probabilities", {.temperature = 0}, NO_EDITS, -1, 0},
    {"greedy with edits", {.temperature = 0, PENALTIES}, BIAS_SOME | BAN_BEST | COUNT, 3, 0},
    {"top_p 0.9", {.temperature = 1, .top_p = 0.9f}, NO_EDITS, 1, 1},
    {"top_p 0.999", {.temperature = 1, .top_p = 0.999f}, NO_EDITS, -1, 2},
    {"top_p 0.95, temperature 2", {.temperature = 2, .top_p = 0.95f}, NO_EDITS, 2, 1},
    {"next to no top_p", {.temperature = 1, .top_p = 1e-12f}, NO_EDITS, -1, 1},
    {"top_k 1", {.temperature = 1, .top_k = 1}, NO_EDITS, 1, 1},
    {"top_k 40", {.temperature = 1.5f, .top_k = 40}, NO_EDITS, 0, 1},
    {"top_k 5000", {.temperature = 2, .top_k = 5000}, BAN_SOME, -1, 1},
    {"min_p 0.05", {.temperature = 1, .min_p = 0.05f}, NO_EDITS, -1, 1},
    {"min_p 1", {.temperature = 1, .min_p = 1}, NO_EDITS, -1, 1},
    {"top_k, top_p, min_p", {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .min_p = 0.02f}, NO_EDITS, 4, 1},
    {"typical_p 0.9", {.temperature = 1, .typical_p = 0.9f}, NO_EDITS, 1, 5},
    {"typical_p 0.2 and the rest", {.temperature = 1, .top_k = 500, .typical_p = 0.2f, .top_p = 0.8f, .min_p = 0.1f}, NO_EDITS, -1, 5},
    {"the worst lifted", {.temperature = 1}, LIFT_WORST, 2, 0},
    {"the worst lifted, top_p 0.9", {.temperature = 1, .top_p = 0.9f}, LIFT_WORST, 2, 1},
    {"the best banned", {.temperature = 1}, BAN_BEST, 1, 0},
    {"some banned, typical_p", {.temperature = 1, .typical_p = 0.6f}, BAN_SOME, -1, 5},
    {"all banned", {.temperature = 1, .top_p = 0.6f}, BAN_ALL, 1, 0},
    {"penalties", {.temperature = 1, PENALTIES}, COUNT, 1, 0},
    {"all edits, top_k", {.temperature = 1.1f, PENALTIES, .top_k = 20}, BIAS_SOME | BAN_SOME | COUNT | LIFT_WORST, 20, 1},
};
#define N_SETTINGS ((int)(sizeof settings / sizeof *settings))

/* A backend for one vocabulary, rows of scores and what is to be drawn from them. */
struct rig {
    struct backend *be;
    bool owns;
    struct cuda *c;
    struct sampler *sampler;
    int n_vocab, n_blocks;
    float *logits, *block_max; /* [MAX_ROWS] */
    const struct setting *setting[MAX_ROWS];
    struct logit_bias bias[MAX_ROWS][8];
    struct sampler_params params[MAX_ROWS];
    struct sampler_counts *counts[MAX_ROWS];
    int32_t *bans[MAX_ROWS];
    struct sampler_draw how[MAX_ROWS];
    struct draw draws[MAX_ROWS];
    uint32_t n_steps;
};

/* be: another rig's backend, or NULL. */
static void rig_open(struct rig *g, int n_vocab, struct backend *be)
{
    struct err err;
    const struct backend_shape shape = {.n_layers = 1, .d_model = 32, .d_ff = 32, .n_head = 1, .n_kv = 1, .head_dim = 32, .n_vocab = n_vocab,
                                        .rope_dims = 32, .max_rows = MAX_ROWS, .max_scores = MAX_ROWS, .n_pages = 1, .n_threads = 1,
                                        .device = "cuda:0"};
    memset(g, 0, sizeof *g);
    g->be = be;
    g->owns = be == NULL;
    if (g->owns)
        assert_int_equal(backend_cuda.open(&shape, &g->be, &err), 0);
    g->c = cuda_of(g->be);
    g->sampler = sampler_create(n_vocab);
    g->n_vocab = n_vocab;
    g->n_blocks = (n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
    g->logits = host_new(MAX_ROWS * g->c->scores_ld * sizeof *g->logits);
    g->block_max = host_new((size_t)(MAX_ROWS * g->n_blocks) * sizeof *g->block_max);
    for (int r = 0; r < MAX_ROWS; r++)
        g->bans[r] = host_new(((size_t)n_vocab + 3) * sizeof **g->bans);
    assert_non_null(g->sampler);
}

static void rig_close(struct rig *g)
{
    sampler_destroy(g->sampler);
    free(g->logits);
    free(g->block_max);
    for (int r = 0; r < MAX_ROWS; r++) {
        free(g->bans[r]);
        sampler_counts_destroy(g->counts[r]);
    }
    if (g->owns)
        backend_cuda.close(g->be);
}

static float *row_of(struct rig *g, int r)
{
    return g->logits + (size_t)r * g->c->scores_ld;
}

/* About normal: the sum of three. */
static float noise(uint64_t seed, int i)
{
    return test_value(seed, (uint32_t)i) + test_value(seed + 1, (uint32_t)i) + test_value(seed + 2, (uint32_t)i);
}

static void fill_row(struct rig *g, int r, enum look look, uint64_t seed)
{
    float *x = row_of(g, r);
    for (int i = 0; i < g->n_vocab; i++) {
        const float z = noise(seed, i);
        x[i] = look == PEAKED ? 3 * z - 7 + (test_bits(seed + 9, (uint32_t)i) % 997 == 0 ? 12 + z : 0)
               : look == WIDE ? 2.5f * z
               : look == FLAT ? 0.01f * z + 4
               : look == TIED ? rintf(2 * z) * 0.5f
                              : 1.25f;
    }
    for (int b = 0; b < g->n_blocks; b++) {
        const int begin = b * SCORES_BLOCK, left = g->n_vocab - begin;
        g->block_max[r * g->n_blocks + b] = rows_generic.max(x + begin, left < SCORES_BLOCK ? left : SCORES_BLOCK);
    }
}

static int32_t extreme(const float *x, int n, float sign)
{
    int32_t at = 0;
    for (int i = 1; i < n; i++)
        if (x[i] * sign > x[at] * sign)
            at = i;
    return at;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct logit_bias *)a)->id - ((const struct logit_bias *)b)->id;
}

/* Each id once, ascending. */
static int tidy_bias(struct logit_bias *bias, int n)
{
    int kept = 0;
    qsort(bias, (size_t)n, sizeof *bias, by_id);
    for (int i = 0; i < n; i++)
        if (kept == 0 || bias[kept - 1].id != bias[i].id)
            bias[kept++] = bias[i];
    return kept;
}

static void edit_row(struct rig *g, int r, unsigned edits, uint64_t seed)
{
    const float *x = row_of(g, r);
    const int n = g->n_vocab;
    int n_bias = 0, n_bans = 0;
    struct logit_bias *bias = g->bias[r];
    if (edits & LIFT_WORST)
        bias[n_bias++] = (struct logit_bias){extreme(x, n, -1), 100};
    if (edits & BAN_BEST)
        bias[n_bias++] = (struct logit_bias){extreme(x, n, 1), -INFINITY};
    for (int i = 0; i < 4 && (edits & BIAS_SOME); i++)
        bias[n_bias++] = (struct logit_bias){(int32_t)(test_bits(seed, (uint32_t)i) % (uint32_t)n), noise(seed, i) * 3};
    g->params[r].bias = bias;
    g->params[r].n_bias = tidy_bias(bias, n_bias);
    if (edits & BAN_SOME)
        for (int i = 0; i < 3; i++)
            g->bans[r][n_bans++] = i == 2 ? g->bans[r][0] : (int32_t)(test_bits(seed + 1, (uint32_t)i) % (uint32_t)n); /* one twice */
    for (int i = 0; i < n && n < 10000 && (edits & BAN_ALL); i++) /* edits are bounded */
        g->bans[r][n_bans++] = i;
    sampler_counts_destroy(g->counts[r]);
    g->counts[r] = NULL;
    if (edits & COUNT) {
        g->counts[r] = sampler_counts_create(MAX_COUNTS);
        assert_non_null(g->counts[r]);
        for (int i = 0; i < MAX_COUNTS; i++) /* biased and banned ones among them */
            sampler_counts_add(g->counts[r], i < g->params[r].n_bias ? bias[i].id : (int32_t)(test_bits(seed + 2, (uint32_t)i / 2) % (uint32_t)n),
                               i % 3 > 0);
    }
    g->how[r].bans = g->bans[r];
    g->how[r].n_bans = n_bans;
    g->how[r].counts = g->counts[r];
}

/* What row r is to become; setting NULL: its id is given. */
static void plan_row(struct rig *g, int r, const struct setting *s, uint64_t seed)
{
    struct draw *d = &g->draws[r];
    g->setting[r] = s;
    *d = (struct draw){.id = (int32_t)(test_bits(seed, 77) % (uint32_t)g->n_vocab), .n_top = r % 21, .slot = r % 5 == 4 ? -1 : r};
    if (s == NULL)
        return;
    g->params[r] = s->p;
    float *const off[] = {&g->params[r].top_p, &g->params[r].typical_p, &g->params[r].repetition_penalty};
    for (int i = 0; i < 3; i++)
        *off[i] = *off[i] == 0 ? 1 : *off[i];
    g->params[r].seed = seed;
    g->how[r] = (struct sampler_draw){.choice = (uint32_t)r, .output_idx = g->n_steps};
    edit_row(g, r, s->edits, seed);
    d->params = &g->params[r];
    d->id = -1;
    d->u = num_rng(seed, g->how[r].choice, g->how[r].output_idx);
    d->bans = g->how[r].bans;
    d->n_bans = g->how[r].n_bans;
    if (g->counts[r] != NULL)
        d->counts = sampler_counts_list(g->counts[r], &d->n_counts);
    d->n_top = s->n_top;
}

static const float *host_row(void *ctx, int i)
{
    return row_of(ctx, i);
}

static const float *host_block_max(void *ctx, int i)
{
    const struct rig *g = ctx;
    return g->block_max + i * g->n_blocks;
}

/* As if a step had left the rows. */
static void put_rows(struct rig *g, int n_rows)
{
    const struct flight *f = &g->c->flights[g->c->next_flight];
    must(cudaMemcpy(f->scores, g->logits, (size_t)n_rows * g->c->scores_ld * sizeof *g->logits, cudaMemcpyHostToDevice));
    must(cudaMemcpy(f->block_max, g->block_max, (size_t)(n_rows * g->n_blocks) * sizeof *g->block_max, cudaMemcpyHostToDevice));
    g->c->first_score = 0;
    g->c->n_scores = n_rows;
    g->n_steps++;
}

static void check_logprobs(const struct rig *g, int r, int32_t id, const struct drawn *got, const struct scores *host)
{
    struct token_logprob chosen, top[SAMPLER_MAX_TOP];
    const int n_top = g->draws[r].n_top, n = n_top < g->n_vocab ? n_top : g->n_vocab;
    sampler_logprobs(g->sampler, host, r, id, n_top, &chosen, top);
    const float logprob = (float)((double)got->logit - got->log_sum_exp);
    if (memcmp(&logprob, &chosen.logprob, sizeof logprob) != 0)
        fail_msg("row %d of %d: log-probability %a, not %a", r, g->n_vocab, (double)logprob, (double)chosen.logprob);
    assert_int_equal(got->n_top, n);
    for (int k = 0; k < n; k++) {
        const float of_top = (float)((double)got->top[k] - got->log_sum_exp);
        if (got->top_id[k] != top[k].id || memcmp(&of_top, &top[k].logprob, sizeof of_top) != 0)
            fail_msg("row %d of %d: token %d of the most likely is %d at %a, not %d at %a", r, g->n_vocab, k, got->top_id[k], (double)of_top,
                     top[k].id, (double)top[k].logprob);
    }
}

/* Lands a step of n_rows and compares; counts the undecided by setting. */
static void land_and_check(struct rig *g, int n_rows, int *undecided)
{
    struct drawn drawn[MAX_ROWS];
    struct scores landed, host = {0, n_rows, g->n_vocab, g, host_row, host_block_max};
    struct err err;
    const uint64_t fetched = backend_cuda.rows_fetched(g->be);
    uint64_t n_undecided = 0;
    int32_t slots[2 * MAX_ROWS];
    assert_int_equal(backend_cuda.land(g->be, drawn, &landed, &err), 0);
    device_read(slots, g->c->draw.slots, sizeof slots);
    for (int r = 0; r < n_rows; r++) {
        const struct setting *s = g->setting[r];
        int32_t want = g->draws[r].id;
        if (s != NULL)
            want = sampler_next(g->sampler, &g->params[r], &g->how[r], &host, r);
        if (g->draws[r].slot >= 0)
            assert_int_equal(slots[g->draws[r].slot], drawn[r].id);
        if (drawn[r].id >= 0) {
            if (drawn[r].id != want)
                fail_msg("%s, row %d of %d tokens: token %d, not %d", s != NULL ? s->name : "given", r, g->n_vocab, drawn[r].id, want);
            if (g->draws[r].n_top >= 0)
                check_logprobs(g, r, want, &drawn[r], &host);
        } else {
            n_undecided++;
            assert_non_null(s);
            undecided[s - settings]++;
            assert_memory_equal(landed.row(landed.ctx, r), row_of(g, r), (size_t)g->n_vocab * sizeof(float));
            assert_memory_equal(landed.block_max(landed.ctx, r), host_block_max(g, r), (size_t)g->n_blocks * sizeof(float));
            assert_int_equal(sampler_next(g->sampler, &g->params[r], &g->how[r], &landed, r), want);
        }
    }
    assert_int_equal(backend_cuda.rows_fetched(g->be) - fetched, n_undecided);
}

/* Steps of n_rows until each setting has seen so many looks. */
static void sweep(int n_vocab, int n_rows, int n_looks, int *undecided, int *seen)
{
    struct rig g;
    rig_open(&g, n_vocab, NULL);
    const int n = N_SETTINGS * n_looks;
    for (int first = 0; first < n; first += n_rows) {
        const int m = n - first < n_rows ? n - first : n_rows;
        for (int r = 0; r < m; r++) {
            const int k = first + r, setting = k % N_SETTINGS;
            const uint64_t seed = (uint64_t)(k * 31 + n_vocab) * 64;
            fill_row(&g, r, (enum look)((k / N_SETTINGS + k) % N_LOOKS), seed);
            plan_row(&g, r, k % 23 == 22 ? NULL : &settings[setting], seed + 32);
            if (k % 23 != 22)
                seen[setting]++;
        }
        put_rows(&g, m);
        backend_cuda.draw(g.be, g.draws, m);
        land_and_check(&g, m, undecided);
    }
    rig_close(&g);
}

static void check_undecided(const int *undecided, const int *seen)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (undecided[i] * 100 > settings[i].most_undecided * seen[i] + (settings[i].most_undecided > 0 ? 100 : 0))
            fail_msg("%s: %d of %d rows are not decided", settings[i].name, undecided[i], seen[i]);
}

static void test_every_setting_draws_as_the_sampler(void **state)
{
    (void)state;
    static const int vocabs[] = {257, 700, 1, 2, 255, 256, 8193};
    const size_t n_vocabs = REDUCED ? 2 : sizeof vocabs / sizeof *vocabs;
    for (int schedule = 0; schedule < 3; schedule++) {
        int undecided[N_SETTINGS] = {0}, seen[N_SETTINGS] = {0};
        emulator_set_schedule((enum emulator_schedule)schedule, 3);
        for (size_t i = 0; i < n_vocabs; i++)
            sweep(vocabs[i], i % 3 == 0 ? 32 : i % 3 == 1 ? 1 : 7, REDUCED ? 1 : schedule == 0 ? 2 * N_LOOKS : N_LOOKS, undecided, seen);
        check_undecided(undecided, seen);
    }
    emulator_set_schedule(EMULATOR_FORWARD, 0);
}

static void test_large_vocabularies(void **state)
{
    (void)state;
    int undecided[N_SETTINGS] = {0}, seen[N_SETTINGS] = {0};
    if (REDUCED)
        return;
    sweep(49152, 16, N_LOOKS, undecided, seen);
    sweep(151936, 8, N_LOOKS, undecided, seen);
    check_undecided(undecided, seen);
}

/* One setting for n rows of one look. */
static void plan_rows(struct rig *g, int n, const struct setting *s, uint64_t seed)
{
    for (int r = 0; r < n; r++) {
        fill_row(g, r, WIDE, seed + (uint64_t)r);
        plan_row(g, r, s, seed + (uint64_t)r);
    }
    put_rows(g, n);
}

static const struct setting *setting_of(const char *name)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(settings[i].name, name) == 0)
            return &settings[i];
    fail_msg("there is no setting '%s'", name);
    return NULL;
}

/* Two steps are enqueued before the first one lands, time and again: what a step draws comes from its own scores, buffers and edits. */
static void test_steps_land_in_their_order(void **state)
{
    (void)state;
    enum { N_ROWS = 4, N_STEPS = 5 };
    int undecided[N_SETTINGS] = {0};
    for (int schedule = 0; schedule < 3; schedule++) {
        struct rig steps[N_STEPS]; /* of one backend; each has its rows */
        emulator_set_schedule((enum emulator_schedule)schedule, 9);
        for (int k = 0; k < N_STEPS; k++)
            rig_open(&steps[k], 700, k > 0 ? steps[0].be : NULL);
        for (int k = 0; k <= N_STEPS; k++) {
            if (k < N_STEPS) {
                plan_rows(&steps[k], N_ROWS + k, setting_of(k % 2 ? "all edits, top_k" : "temperature 1"), (uint64_t)k * 100);
                for (int r = 0; r < N_ROWS + k; r++)
                    steps[k].draws[r].slot = k % 2 * MAX_ROWS + r;
                backend_cuda.draw(steps[k].be, steps[k].draws, N_ROWS + k);
            }
            if (k > 0)
                land_and_check(&steps[k - 1], N_ROWS + k - 1, undecided);
        }
        for (int k = N_STEPS - 1; k >= 0; k--)
            rig_close(&steps[k]);
    }
    emulator_set_schedule(EMULATOR_FORWARD, 0);
}

/* Rows whose edits find no room are left to the host; those before them and those without edits are not. */
static void test_edits_are_bounded(void **state)
{
    (void)state;
    struct rig g;
    int undecided[N_SETTINGS] = {0};
    const struct setting *few = setting_of("all edits, top_k"), *all = setting_of("all banned"), *none = setting_of("temperature 1");
    rig_open(&g, 513, NULL);
    plan_rows(&g, MAX_ROWS, few, 1); /* each may touch all 3 blocks, and there is room for 32 rows' */
    backend_cuda.draw(g.be, g.draws, MAX_ROWS);
    land_and_check(&g, MAX_ROWS, undecided);
    assert_int_equal(undecided[few - settings], MAX_ROWS - 32);
    plan_rows(&g, 8, all, 2); /* each bans 10,000 tokens, some of them often */
    static int32_t bans[10000];
    for (int i = 0; i < 10000; i++)
        bans[i] = i % 513;
    for (int r = 0; r < 7; r++) {
        g.draws[r].bans = g.how[r].bans = bans;
        g.draws[r].n_bans = g.how[r].n_bans = 10000;
    }
    plan_row(&g, 7, none, 3);
    backend_cuda.draw(g.be, g.draws, 8);
    land_and_check(&g, 8, undecided);
    assert_int_equal(undecided[all - settings], 1);
    assert_int_equal(undecided[none - settings], 0);
    rig_close(&g);
}

static void test_a_step_without_draws_lands_and_a_fault_is_told(void **state)
{
    (void)state;
    struct rig g;
    struct scores scores;
    struct err err;
    const int one = 1;
    rig_open(&g, 300, NULL);
    backend_cuda.draw(g.be, NULL, 0);
    assert_int_equal(backend_cuda.land(g.be, NULL, &scores, &err), 0);
    assert_int_equal(scores.n_out, 0);
    must(cudaMemcpy(g.c->fault, &one, sizeof one, cudaMemcpyHostToDevice));
    backend_cuda.draw(g.be, NULL, 0);
    backend_cuda.draw(g.be, NULL, 0);
    for (int i = 0; i < 2; i++) {
        err.code = ERR_NONE;
        assert_int_equal(backend_cuda.land(g.be, NULL, &scores, &err), -1);
        assert_int_equal(err.code, ERR_DEVICE);
        assert_non_null(strstr(err.msg, "not finite"));
    }
    rig_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_setting_draws_as_the_sampler),
        cmocka_unit_test(test_large_vocabularies),
        cmocka_unit_test(test_steps_land_in_their_order),
        cmocka_unit_test(test_edits_are_bounded),
        cmocka_unit_test(test_a_step_without_draws_lands_and_a_fault_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

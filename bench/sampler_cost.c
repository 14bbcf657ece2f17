/* sampler_cost.c: what a drawn token costs beside the step that scored it.
 *
 *   build/bench/sampler_cost [-threads N] MODEL.gguf...
 *
 * For each model: N_ROWS sequences begin at different places of a text, and their rows of scores are kept - a real model's rows on real text, as many
 * as a step of N_ROWS streams leaves, so that they lie in the caches as they do there. Steps of N_ROWS rows are timed (median), then every setting of
 * the sampler over all kept rows (medians of PASSES): on one thread, in processor time, and on the model's threads as the engine does it, by the
 * clock on the wall. Printed: microseconds per row on one thread, milliseconds of N_ROWS rows on all, and those as a share of the step. A second
 * table has the same over rows that no model writes, where truncations keep nearly everything: normal noise of deviation 1, at the vocabulary of the
 * last model. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/numerics/numerics.h"
#include "engine/sample/drawer.h"

#define N_ROWS 32
#define N_PROMPT 48
#define N_SEEN 500
#define N_STEPS 15
#define PASSES 5
#define TEXT_FILE "LICENSE"

struct setting {
    const char *name;
    float temperature, top_p, min_p, typical_p, frequency_penalty;
    int top_k, n_bias, n_logprobs; /* n_logprobs -1: none */
};

static const struct setting settings[] = {
    {"greedy", 0, 1, 0, 1, 0, 0, 0, -1},
    {"T 1", 1, 1, 0, 1, 0, 0, 0, -1},
    {"T 0.7", 0.7f, 1, 0, 1, 0, 0, 0, -1},
    {"T 0.7, top_p 0.95", 0.7f, 0.95f, 0, 1, 0, 0, 0, -1},
    {"T 1, top_p 0.95", 1, 0.95f, 0, 1, 0, 0, 0, -1},
    {"T 1.5, top_p 0.95", 1.5f, 0.95f, 0, 1, 0, 0, 0, -1},
    {"top_k 40", 1, 1, 0, 1, 0, 40, 0, -1},
    {"T 0.7, top_k 40, top_p 0.95", 0.7f, 0.95f, 0, 1, 0, 40, 0, -1},
    {"min_p 0.05", 1, 1, 0.05f, 1, 0, 0, 0, -1},
    {"typical_p 0.95", 1, 1, 0, 0.95f, 0, 0, 0, -1},
    {"T 0.7, top_p 0.95, penalties, bias", 0.7f, 0.95f, 0, 1, 0.5f, 0, 64, -1},
    {"greedy, logprobs", 0, 1, 0, 1, 0, 0, 0, 0},
    {"greedy, logprobs 5", 0, 1, 0, 1, 0, 0, 0, 5},
    {"greedy, logprobs 20", 0, 1, 0, 1, 0, 0, 0, 20},
    {"T 1, logprobs 20", 1, 1, 0, 1, 0, 0, 0, 20},
    {"T 0.7, top_p 0.95, logprobs 20", 0.7f, 0.95f, 0, 1, 0, 0, 0, 20},
    {"T 0.7, top_k 40, top_p 0.95, logprobs 20", 0.7f, 0.95f, 0, 1, 0, 40, 0, 20},
    {"all truncations, penalties, bias, logprobs 20", 0.7f, 0.95f, 0.05f, 0.95f, 0.5f, 1000, 64, 20},
};
#define N_SETTINGS (int)(sizeof settings / sizeof settings[0])

/* N_ROWS rows as a step hands them out. */
struct desk {
    int n_vocab, n_blocks;
    float *logits, *block_max;
    int32_t seen[N_SEEN]; /* tokens to penalise: a text's */
    struct scores scores;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "sampler_cost: %s: %s\n", what, why);
    exit(1);
}

static void *memory(size_t n)
{
    void *p = malloc(n);
    if (p == NULL)
        die("memory", "short");
    return p;
}

static double now_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

/* ---- rows ---- */

static const float *desk_row(void *ctx, int i)
{
    const struct desk *d = ctx;
    return d->logits + (size_t)i * (size_t)d->n_vocab;
}

static const float *desk_max(void *ctx, int i)
{
    const struct desk *d = ctx;
    return d->block_max + (size_t)i * (size_t)d->n_blocks;
}

static void desk_open(struct desk *d, int n_vocab)
{
    d->n_vocab = n_vocab;
    d->n_blocks = (n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
    d->logits = memory(sizeof(float) * N_ROWS * (size_t)n_vocab);
    d->block_max = memory(sizeof(float) * N_ROWS * (size_t)d->n_blocks);
    d->scores = (struct scores){.n_out = N_ROWS, .n_vocab = n_vocab, .ctx = d, .row = desk_row, .block_max = desk_max};
}

static void desk_finish(struct desk *d)
{
    free(d->logits);
    free(d->block_max);
}

/* Box-Muller over two uniform numbers. */
static void fill_flat(struct desk *d)
{
    for (int i = 0; i < N_ROWS; i++)
        for (int v = 0; v < d->n_vocab; v++) {
            double u = 1 - num_rng(7, (uint32_t)i, (uint32_t)v), w = num_rng(8, (uint32_t)i, (uint32_t)v);
            d->logits[(size_t)i * (size_t)d->n_vocab + (size_t)v] = (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * w));
        }
    for (int i = 0; i < N_ROWS; i++)
        for (int b = 0; b < d->n_blocks; b++) {
            float max = -INFINITY;
            for (int v = b * SCORES_BLOCK; v < d->n_vocab && v < (b + 1) * SCORES_BLOCK; v++)
                max = fmaxf(max, desk_row(d, i)[v]);
            d->block_max[(size_t)i * (size_t)d->n_blocks + (size_t)b] = max;
        }
}

/* ---- the model ---- */

static struct engine_ids text_ids(const char *path)
{
    static char text[1 << 15];
    struct engine_tokenizer *tok;
    struct engine_ids ids = {0};
    struct err err;
    FILE *f = fopen(TEXT_FILE, "rb");
    if (f == NULL)
        die(TEXT_FILE, strerror(errno));
    struct engine_span span = {.p = text, .n = fread(text, 1, sizeof text, f)};
    fclose(f);
    if (engine_tokenizer_open(path, &tok, &err) != 0 || engine_tokenizer_encode(tok, &span, 1, true, 100000, &ids, &err) != 0)
        die(path, err.msg);
    engine_tokenizer_close(tok);
    if (ids.n < N_ROWS * N_PROMPT)
        die(TEXT_FILE, "is too short");
    return ids;
}

/* Rows [first, last) of each of n_seqs sequences from seq0 on; the last one's scores are wanted, and kept in the desk where there is one. */
static void forward(const struct runner *r, const int32_t *ids, int n_seqs, int seq0, int first, int last, struct desk *d)
{
    static int32_t token[N_ROWS * N_PROMPT], pos[N_ROWS * N_PROMPT], seq[N_ROWS * N_PROMPT], wanted[N_ROWS], page[N_ROWS];
    static const int32_t *pages[N_ROWS];
    struct batch b = {.token = token, .pos = pos, .seq = seq, .n_seqs = n_seqs, .pages = pages, .n_out = n_seqs, .out = wanted};
    for (int s = 0; s < n_seqs; s++) {
        page[s] = seq0 + s;
        pages[s] = &page[s];
        for (int p = first; p < last; p++) {
            token[b.n_rows] = ids[(seq0 + s) * N_PROMPT + p];
            pos[b.n_rows] = p;
            seq[b.n_rows++] = s;
        }
        wanted[s] = b.n_rows - 1;
    }
    struct err err;
    struct scores scores;
    if (r->forward(r->ctx, &b, &scores, &err) != 0)
        die("forward", err.msg);
    for (;;) {
        for (int i = scores.first; d != NULL && i < scores.first + scores.n_out; i++) {
            memcpy(d->logits + (size_t)i * (size_t)d->n_vocab, scores.row(scores.ctx, i), sizeof(float) * (size_t)d->n_vocab);
            memcpy(d->block_max + (size_t)i * (size_t)d->n_blocks, scores.block_max(scores.ctx, i), sizeof(float) * (size_t)d->n_blocks);
        }
        if (scores.first + scores.n_out == n_seqs)
            break;
        if (r->next_scores(r->ctx, &b, &scores, &err) != 0)
            die("next_scores", err.msg);
    }
}

/* Fills the desk with the rows of N_ROWS streams; returns the model, and microseconds of a step of N_ROWS rows. */
static struct model *run_model(const char *path, int n_threads, struct desk *d, double *step_us_out)
{
    struct engine_ids ids = text_ids(path);
    struct model_options opt = {.device = "auto", .n_threads = n_threads, .max_rows = N_ROWS * 2, .max_out = N_ROWS, .n_pages = N_ROWS};
    struct model *m;
    struct err err;
    if (model_open(path, &m, &err) != 0 || model_load(m, &opt, &err) != 0)
        die(path, err.msg);
    struct runner r = model_runner(m);
    double us[N_STEPS];
    for (int s = 0; s < N_ROWS; s++)
        forward(&r, ids.ids, 1, s, 0, N_PROMPT - N_STEPS, NULL);
    for (int i = 0; i < N_STEPS; i++) {
        double begin = now_us(CLOCK_MONOTONIC);
        forward(&r, ids.ids, N_ROWS, 0, N_PROMPT - N_STEPS + i, N_PROMPT - N_STEPS + i + 1, NULL);
        us[i] = now_us(CLOCK_MONOTONIC) - begin;
    }
    desk_open(d, r.n_vocab);
    forward(&r, ids.ids, N_ROWS, 0, N_PROMPT - 1, N_PROMPT, d);
    memcpy(d->seen, ids.ids, sizeof d->seen);
    engine_ids_finish(&ids);
    *step_us_out = median(us, N_STEPS);
    return m;
}

/* ---- the sampler ---- */

/* Microseconds of all rows. */
static double draw_all(struct drawer *drawer, clockid_t clock, const struct setting *set, const struct desk *d, const struct sampler_counts *counts)
{
    struct logit_bias bias[64];
    for (int i = 0; i < set->n_bias; i++)
        bias[i] = (struct logit_bias){.id = i * (d->n_vocab / 64), .bias = -1};
    struct sampler_params p = sampler_defaults();
    p.temperature = set->temperature;
    p.top_k = set->top_k;
    p.top_p = set->top_p;
    p.min_p = set->min_p;
    p.typical_p = set->typical_p;
    p.frequency_penalty = p.presence_penalty = set->frequency_penalty;
    p.bias = bias;
    p.n_bias = set->n_bias;
    double us[PASSES];
    for (int pass = 0; pass < PASSES; pass++) {
        double begin = now_us(clock);
        for (int i = 0; i < N_ROWS; i++)
            drawer_rows(drawer)[i] = (struct drawer_row){
                .params = &p, .draw = {.output_idx = (uint32_t)i, .counts = set->frequency_penalty != 0 ? counts : NULL}, .n_top = set->n_logprobs};
        drawer_draw(drawer, &d->scores);
        us[pass] = now_us(clock) - begin;
    }
    return median(us, PASSES);
}

static void table(const struct runner *runner, const struct desk *d, double step_us)
{
    struct runner alone = *runner;
    alone.n_threads = 1;
    struct drawer *one = drawer_create(&alone), *all = drawer_create(runner);
    struct sampler_counts *counts = sampler_counts_create(N_SEEN);
    if (one == NULL || all == NULL || counts == NULL)
        die("memory", "short");
    for (int i = 0; i < N_SEEN; i++)
        sampler_counts_add(counts, d->seen[i], true);
    for (int k = 0; k < N_SETTINGS; k++) {
        double cpu_us = draw_all(one, CLOCK_THREAD_CPUTIME_ID, &settings[k], d, counts), us = draw_all(all, CLOCK_MONOTONIC, &settings[k], d, counts);
        printf("  %-46s %9.1f us/row %8.2f ms on %d threads", settings[k].name, cpu_us / N_ROWS, us / 1000, runner->n_threads);
        if (step_us > 0)
            printf(" %7.1f %% of a step", 100 * us / step_us);
        printf("\n");
    }
    sampler_counts_destroy(counts);
    drawer_destroy(one);
    drawer_destroy(all);
}

int main(int argc, char **argv)
{
    int n_threads = 2, first = 1;
    if (argc > 2 && strcmp(argv[1], "-threads") == 0) {
        n_threads = (int)strtol(argv[2], NULL, 10);
        first = 3;
    }
    if (first >= argc || n_threads < 1)
        die("usage", "sampler_cost [-threads N] MODEL.gguf...");
    struct model *m = NULL;
    struct runner runner = {0};
    struct desk d;
    for (int i = first; i < argc; i++) {
        double step_us;
        model_close(m);
        m = run_model(argv[i], n_threads, &d, &step_us);
        runner = model_runner(m);
        printf("%s: vocabulary %d; a step of %d rows takes %.2f ms on %d threads\n", argv[i], d.n_vocab, N_ROWS, step_us / 1000, n_threads);
        table(&runner, &d, step_us);
        desk_finish(&d);
    }
    desk_open(&d, runner.n_vocab);
    fill_flat(&d);
    for (int i = 0; i < N_SEEN; i++)
        d.seen[i] = (int32_t)(num_rng(9, 0, (uint32_t)i) * runner.n_vocab);
    printf("flat rows: vocabulary %d\n", runner.n_vocab);
    table(&runner, &d, 0);
    desk_finish(&d);
    model_close(m);
    return 0;
}

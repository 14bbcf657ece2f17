/* cases.c: see cases.h.
 *
 * The steps, for sequences 0, 1, 2 ... : a prompt; 5 rows and 11 more of another; both token by token; one alone; a copy of the first one's pages
 * that goes its own way; a step that mixes them with a prompt that begins; and many sequences of one row at a time. */
#include "tests/gpu/cases.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEQ_PAGES 3
#define FIRST_WIDE 4
#define N_MIXED 9 /* rows of the prompt that begins in the mixed step */

#define ALL(t) .q = (t), .k = (t), .v = (t), .o = (t), .gate = (t), .up = (t), .down = (t), .embed = (t)
#define FLOATS(t) .n_layers = 2, .d_model = 90, .d_ff = 70, .n_head = 3, .n_kv = 1, .head_dim = 30, .n_vocab = 300, ALL(t)
#define SIMPLE(t) .n_layers = 2, .d_model = 96, .d_ff = 160, .n_head = 2, .n_kv = 1, .head_dim = 80, .n_vocab = 300, .bias = true, ALL(t)
#define SUPER(t) .n_layers = 2, .d_model = 256, .d_ff = 256, .n_head = 4, .n_kv = 2, .head_dim = 64, .n_vocab = 300, ALL(t)
#define TINY .cheap = true, .n_prompt = 70, .n_wide = 9

const struct check_case check_cases[] = {
    /* every type, odd shapes */
    {{"type-f32", "llama", 1, FLOATS(TENSOR_F32)}, TINY},
    {{"type-f16", "llama", 2, FLOATS(TENSOR_F16)}, TINY},
    {{"type-bf16", "llama", 3, FLOATS(TENSOR_BF16)}, TINY},
    {{"type-q4_0", "llama", 4, SIMPLE(TENSOR_Q4_0)}, TINY},
    {{"type-q4_1", "llama", 5, SIMPLE(TENSOR_Q4_1)}, TINY},
    {{"type-q5_0", "llama", 6, SIMPLE(TENSOR_Q5_0)}, TINY},
    {{"type-q5_1", "llama", 7, SIMPLE(TENSOR_Q5_1)}, TINY},
    {{"type-q8_0", "llama", 8, SIMPLE(TENSOR_Q8_0)}, TINY},
    {{"type-q2_k", "llama", 9, SUPER(TENSOR_Q2_K)}, TINY},
    {{"type-q3_k", "llama", 10, SUPER(TENSOR_Q3_K)}, TINY},
    {{"type-q4_k", "llama", 11, SUPER(TENSOR_Q4_K)}, TINY},
    {{"type-q5_k", "llama", 12, SUPER(TENSOR_Q5_K)}, TINY},
    {{"type-q6_k", "llama", 13, SUPER(TENSOR_Q6_K)}, TINY},
    /* every family, windows, head sizes, mixed types */
    {{"llama-window-factors", "llama", 21, .n_layers = 2, .d_model = 96, .d_ff = 64, .n_head = 6, .n_kv = 6, .head_dim = 96, .n_vocab = 513,
      .window = 40, .bias = true, .factors = true, ALL(TENSOR_Q8_0), .untied = true, .output = TENSOR_F16}, TINY},
    {{"qwen2-biases", "qwen2", 22, .n_layers = 2, .d_model = 224, .d_ff = 256, .n_head = 14, .n_kv = 2, .head_dim = 16, .n_vocab = 513, .bias = true,
      .q = TENSOR_Q5_0, .k = TENSOR_Q8_0, .v = TENSOR_F32, .o = TENSOR_Q5_1, .gate = TENSOR_F32, .up = TENSOR_Q4_0, .down = TENSOR_Q4_K,
      .embed = TENSOR_Q4_1}, TINY},
    {{"qwen3-norms", "qwen3", 23, .n_layers = 2, .d_model = 128, .d_ff = 96, .n_head = 4, .n_kv = 2, .head_dim = 128, .n_vocab = 300,
      ALL(TENSOR_Q4_0), .untied = true, .output = TENSOR_Q8_0}, TINY},
    {{"gemma3-windows", "gemma3", 24, .n_layers = 6, .d_model = 64, .d_ff = 256, .n_head = 2, .n_kv = 1, .head_dim = 256, .n_vocab = 300,
      .window = 20, .q = TENSOR_Q5_0, .k = TENSOR_Q5_0, .v = TENSOR_Q8_0, .o = TENSOR_Q4_K, .gate = TENSOR_Q5_0, .up = TENSOR_F16,
      .down = TENSOR_Q6_K, .embed = TENSOR_Q8_0}, TINY},
    /* the shapes of real models */
    {{"smollm2-like", "llama", 31, .n_layers = 2, .d_model = 576, .d_ff = 1536, .n_head = 9, .n_kv = 3, .head_dim = 64, .n_vocab = 16384,
      .q = TENSOR_Q4_1, .k = TENSOR_Q4_1, .v = TENSOR_Q4_1, .o = TENSOR_Q4_1, .gate = TENSOR_Q4_1, .up = TENSOR_Q4_1, .down = TENSOR_Q4_1,
      .embed = TENSOR_Q8_0}, .cheap = true, .n_prompt = 16, .n_wide = 2},
    {{"smollm2-like-deep", "llama", 32, .n_layers = 30, .d_model = 576, .d_ff = 1536, .n_head = 9, .n_kv = 3, .head_dim = 64, .n_vocab = 49152,
      ALL(TENSOR_Q4_1)}, .n_prompt = 130, .n_wide = 128},
    {{"qwen-like", "qwen2", 33, .n_layers = 3, .d_model = 896, .d_ff = 4864, .n_head = 14, .n_kv = 2, .head_dim = 64, .n_vocab = 151936, .bias = true,
      .q = TENSOR_Q5_0, .k = TENSOR_Q5_0, .v = TENSOR_Q8_0, .o = TENSOR_Q5_0, .gate = TENSOR_Q5_0, .up = TENSOR_Q5_0, .down = TENSOR_Q6_K,
      .embed = TENSOR_Q8_0}, .n_prompt = 70, .n_wide = 64},
    {{"gemma-like", "gemma3", 34, .n_layers = 6, .d_model = 640, .d_ff = 2048, .n_head = 4, .n_kv = 1, .head_dim = 256, .n_vocab = 262144,
      .window = 48, .q = TENSOR_Q5_0, .k = TENSOR_Q5_0, .v = TENSOR_Q8_0, .o = TENSOR_Q4_K, .gate = TENSOR_Q5_0, .up = TENSOR_Q5_0,
      .down = TENSOR_Q6_K, .embed = TENSOR_Q8_0}, .n_prompt = 70, .n_wide = 33},
    {{"8b-like-layer", "llama", 35, .n_layers = 1, .d_model = 4096, .d_ff = 14336, .n_head = 32, .n_kv = 8, .head_dim = 128, .n_vocab = 16384,
      .q = TENSOR_Q4_K, .k = TENSOR_Q4_K, .v = TENSOR_Q6_K, .o = TENSOR_Q4_K, .gate = TENSOR_Q4_K, .up = TENSOR_Q4_K, .down = TENSOR_Q6_K,
      .embed = TENSOR_Q4_K, .untied = true, .output = TENSOR_Q6_K}, .n_prompt = 130, .n_wide = 128},
};
const int n_check_cases = (int)(sizeof check_cases / sizeof *check_cases);

/* ---- worlds ---- */

int world_open(struct world *w, const char *path, const char *device, int n_threads, int n_prompt, int n_wide, struct err *err)
{
    assert(n_prompt <= CASE_MAX_ROWS && n_prompt + 8 <= SEQ_PAGES * KV_PAGE && n_wide <= CASE_MAX_ROWS);
    *w = (struct world){.n_prompt = n_prompt, .n_wide = n_wide, .n_seqs = FIRST_WIDE + n_wide};
    w->n_pages = w->n_seqs * SEQ_PAGES;
    const struct model_options opt = {.device = device, .n_threads = n_threads, .max_rows = CASE_MAX_ROWS, .max_out = CASE_MAX_ROWS,
                                      .n_pages = w->n_pages};
    w->pages = malloc((size_t)w->n_pages * sizeof *w->pages);
    w->tables = malloc((size_t)w->n_seqs * sizeof *w->tables);
    if (w->pages == NULL || w->tables == NULL || model_open(path, &w->model, err) != 0 || model_load(w->model, &opt, err) != 0) {
        world_close(w);
        return -1;
    }
    w->runner = model_runner(w->model);
    for (int i = 0; i < w->n_pages; i++)
        w->pages[i] = (int32_t)((long)i * 7919 % w->n_pages); /* a prime: each page once */
    for (int s = 0; s < w->n_seqs; s++)
        w->tables[s] = w->pages + s * SEQ_PAGES;
    return 0;
}

void world_close(struct world *w)
{
    model_close(w->model);
    free(w->pages);
    free(w->tables);
    *w = (struct world){0};
}

/* ---- steps ---- */

static void add(const struct world *w, struct step_rows *r, int seq, int first, int n)
{
    for (int p = first; p < first + n; p++) {
        int i = r->batch.n_rows++;
        assert(i < CASE_MAX_ROWS);
        r->token[i] = (int32_t)(((uint32_t)seq * 2654435761u + (uint32_t)p * 40503u + 977u) % (uint32_t)w->runner.n_vocab);
        r->pos[i] = p;
        r->seq[i] = seq;
        r->out[i] = i;
    }
}

static void finish(const struct world *w, struct step_rows *r)
{
    r->batch.token = r->token;
    r->batch.pos = r->pos;
    r->batch.seq = r->seq;
    r->batch.out = r->out;
    r->batch.n_out = r->batch.n_rows;
    r->batch.n_seqs = w->n_seqs;
    r->batch.pages = w->tables;
}

/* Sequence 2 becomes the first one's prompt. */
static void copy_prompt(struct world *w)
{
    for (int left = w->n_prompt, i = 0; left > 0; left -= KV_PAGE, i++)
        w->runner.copy_page(w->runner.ctx, w->tables[2][i], w->tables[0][i], left < KV_PAGE ? left : KV_PAGE);
}

void world_step(struct world *w, int i, struct step_rows *r)
{
    static const char *const names[CASE_STEPS] = {"prompt",       "5-rows", "11-rows", "two-decode", "two-decode", "two-decode",
                                                  "one-decodes", "copied", "mixed",   "many-begin", "many-decode"};
    int n = w->n_prompt;
    memset(r, 0, sizeof *r);
    snprintf(r->name, sizeof r->name, "%d-%s", i, names[i]);
    if (i == 0)
        add(w, r, 0, 0, n);
    else if (i == 1)
        add(w, r, 1, 0, 5);
    else if (i == 2)
        add(w, r, 1, 5, 11);
    for (int s = 0; s < 2 && i >= 3 && i <= 5; s++)
        add(w, r, s, (s == 0 ? n : 16) + i - 3, 1);
    if (i == 6)
        add(w, r, 1, 19, 1);
    if (i == 7)
        copy_prompt(w);
    if (i == 7 || i == 8) {
        add(w, r, 0, n + i - 4, 1);
        if (i == 8)
            add(w, r, 1, 20, 1);
        add(w, r, 2, n + i - 7, 1);
        if (i == 8)
            add(w, r, 3, 0, N_MIXED);
    }
    for (int s = 0; s < w->n_wide && i >= 9; s++)
        add(w, r, FIRST_WIDE + s, i - 9, 1);
    finish(w, r);
}

void world_rows_to_draw(const struct world *w, struct step_rows *r, int n)
{
    memset(r, 0, sizeof *r);
    add(w, r, 3, N_MIXED, n);
    finish(w, r);
}

static uint64_t hash_floats(uint64_t h, const float *v, int n)
{
    for (int i = 0; i < n; i++)
        h = (h ^ num_bits_from_f32(v[i])) * 0x100000001b3u;
    return h ^ h >> 32;
}

int world_run(struct world *w, int i, uint64_t *hash_out, char *name_out, size_t n_name, struct err *err)
{
    struct step_rows *r = malloc(sizeof *r);
    struct scores scores;
    uint64_t h = 0xcbf29ce484222325u;
    if (r == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a step");
    world_step(w, i, r);
    snprintf(name_out, n_name, "%s", r->name);
    int rc = w->runner.forward(w->runner.ctx, &r->batch, &scores, err);
    while (rc == 0) {
        for (int k = scores.first; k < scores.first + scores.n_out; k++) {
            h = hash_floats(h, scores.row(scores.ctx, k), scores.n_vocab);
            h = hash_floats(h, scores.block_max(scores.ctx, k), (scores.n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK);
        }
        if (scores.first + scores.n_out >= r->batch.n_out)
            break;
        rc = w->runner.next_scores(w->runner.ctx, &r->batch, &scores, err);
    }
    free(r);
    *hash_out = h;
    return rc;
}

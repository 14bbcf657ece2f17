/* toy_runner.c: see toy_runner.h. Assertions are the point here; tests are built without NDEBUG. */
#include "tests/engine/toy_runner.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/pool.h"
#include "engine/numerics/numerics.h"
#include "engine/numerics/rows.h"
#include "engine/sample/sampler.h"

#define N_BLOCKS ((TOY_VOCAB + SCORES_BLOCK - 1) / SCORES_BLOCK)
#define CHAIN_SEED 0x243f6a8885a308d3u

struct toy_cell {
    int32_t token, pos; /* pos -1: never written */
    uint64_t chain;
};

struct toy_copy {
    int dst, src, n_pos;
};

#define MAX_BIAS 1024
#define MAX_BANS 128
#define MAX_PAGES 64 /* of a sequence */

struct toy_draw {
    struct draw draw; /* its pointers lead to what follows */
    struct sampler_params params;
    struct logit_bias bias[MAX_BIAS];
    int32_t bans[MAX_BANS];
    struct draw_count counts[TOY_VOCAB];
};

struct toy_table {
    const int32_t *owner; /* the table that was given: tells sequences apart */
    int32_t page[MAX_PAGES];
    int n;
};

/* A step that was launched, all of it in memory of its own. */
struct toy_flight {
    struct batch batch; /* its pointers lead to what follows */
    int32_t *token, *pos, *seq, *out;
    const int32_t **pages;
    struct toy_table *tables; /* [max_rows] */
    struct toy_copy *copies;  /* [n_pages] before the rows */
    int n_copies;
    struct toy_draw *draws;   /* [max_draws] */
    struct drawn *drawn;
    float *logits, *block_max; /* [max_draws] rows */
    bool has_scores;
};

/* Which choice and output index a sequence's last draw had: its number u is found again from there. */
struct toy_hint {
    const int32_t *owner;
    uint32_t choice, output_idx;
};
#define N_HINTS 256

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static void *array(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    assert(p != NULL);
    return p;
}

static void create_device(struct toy *t)
{
    size_t rows = (size_t)t->opt.max_rows, pages = (size_t)t->opt.n_pages, draws = (size_t)t->opt.max_draws;
    t->flights = array(TOY_FLIGHTS, sizeof *t->flights);
    t->copies = array(pages, sizeof *t->copies);
    t->slots = array(2 * draws, sizeof *t->slots);
    t->hints = array(N_HINTS, sizeof *t->hints);
    t->sampler = sampler_create(TOY_VOCAB);
    t->counts = sampler_counts_create(TOY_VOCAB);
    assert(t->sampler != NULL);
    assert(t->counts != NULL);
    for (int i = 0; i < TOY_FLIGHTS; i++) {
        struct toy_flight *f = &t->flights[i];
        f->token = array(rows, sizeof *f->token);
        f->pos = array(rows, sizeof *f->pos);
        f->seq = array(rows, sizeof *f->seq);
        f->out = array(rows, sizeof *f->out);
        f->pages = array(rows, sizeof *f->pages);
        f->tables = array(rows, sizeof *f->tables);
        f->copies = array(pages, sizeof *f->copies);
        f->draws = array(draws, sizeof *f->draws);
        f->drawn = array(draws, sizeof *f->drawn);
        f->logits = array(draws * TOY_VOCAB, sizeof *f->logits);
        f->block_max = array(draws * N_BLOCKS, sizeof *f->block_max);
    }
}

static void destroy_device(struct toy *t)
{
    assert(t->n_landed == t->n_launched); /* nobody leaves while the device works */
    for (int i = 0; t->flights != NULL && i < TOY_FLIGHTS; i++) {
        struct toy_flight *f = &t->flights[i];
        void *arrays[] = {f->token, f->pos, f->seq, f->out, f->pages, f->tables, f->copies, f->draws, f->drawn, f->logits, f->block_max};
        for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++)
            free(arrays[k]);
    }
    free(t->flights);
    free(t->copies);
    free(t->slots);
    free(t->hints);
    sampler_destroy(t->sampler);
    sampler_counts_destroy(t->counts);
}

struct toy *toy_create(const struct toy_options *opt)
{
    struct toy *t = calloc(1, sizeof *t);
    assert(t != NULL);
    t->opt = *opt;
    if (t->opt.max_scores == 0)
        t->opt.max_scores = 3; /* few, so that every test meets groups */
    t->opt.n_threads = opt->n_threads == 0 ? 1 : opt->n_threads;
    struct err err;
    int rc = pool_create(t->opt.n_threads, &t->pool, &err);
    assert(rc == 0);
    t->cells = malloc(sizeof *t->cells * (size_t)opt->n_pages * KV_PAGE);
    t->logits = malloc(sizeof *t->logits * (size_t)t->opt.max_scores * TOY_VOCAB);
    t->block_max = malloc(sizeof *t->block_max * (size_t)t->opt.max_scores * N_BLOCKS);
    assert(t->cells != NULL);
    assert(t->logits != NULL);
    assert(t->block_max != NULL);
    for (int i = 0; i < opt->n_pages * KV_PAGE; i++)
        t->cells[i] = (struct toy_cell){.token = -1, .pos = -1};
    if (opt->max_draws > 0)
        create_device(t);
    return t;
}

void toy_destroy(struct toy *t)
{
    destroy_device(t);
    pool_destroy(t->pool);
    free(t->cells);
    free(t->logits);
    free(t->block_max);
    free(t);
}

static struct toy_cell *cell(struct toy *t, const struct batch *b, int seq, int pos)
{
    int32_t page = b->pages[seq][pos / KV_PAGE];
    assert(page >= 0);
    assert(page < t->opt.n_pages);
    return &t->cells[page * KV_PAGE + pos % KV_PAGE];
}

/* The cells of positions 0 .. pos of the sequence are written, in their places, and each continues the one before. */
static void check_chain(struct toy *t, const struct batch *b, int seq, int pos)
{
    uint64_t chain = CHAIN_SEED;
    for (int i = 0; i <= pos; i++) {
        const struct toy_cell *c = cell(t, b, seq, i);
        assert(c->pos == i);
        chain = mix(mix(chain, (uint64_t)c->token), (uint64_t)i);
        assert(c->chain == chain);
    }
}

/* slots: a token may be what a slot keeps. */
static void check_batch(const struct toy *t, const struct batch *b, bool slots)
{
    assert(b->n_rows >= 1);
    assert(b->n_rows <= t->opt.max_rows);
    assert(b->n_out <= t->opt.max_out);
    assert(b->seq[0] == 0);
    assert(b->seq[b->n_rows - 1] == b->n_seqs - 1);
    for (int r = 0; r < b->n_rows; r++) {
        assert(b->token[r] >= (slots ? -2 * t->opt.max_draws : 0) && b->token[r] < TOY_VOCAB);
        assert(b->pos[r] >= 0 && b->pos[r] < t->opt.n_ctx);
        if (r == 0)
            continue;
        if (b->seq[r] == b->seq[r - 1])
            assert(b->pos[r] == b->pos[r - 1] + 1);
        else
            assert(b->seq[r] == b->seq[r - 1] + 1);
    }
    for (int i = 0; i < b->n_out; i++) {
        assert(b->out[i] >= 0 && b->out[i] < b->n_rows);
        assert(i == 0 || b->out[i] > b->out[i - 1]);
    }
}

/* Multiples of 1/8 between -4 and 4, so that ties abound, with some peaks; end tokens come now and then. */
static void fill_logits(float *row, float *max, uint64_t chain)
{
    for (int b = 0; b < N_BLOCKS; b++)
        max[b] = -INFINITY;
    for (int v = 0; v < TOY_VOCAB; v++) {
        uint64_t h = mix(chain, (uint64_t)v + 1000003u);
        row[v] = (float)((int)(h % 65) - 32) * 0.125f + (h >> 40) % 41 / 40 * 5.0f + (v == TOY_EOS || v == TOY_EOT ? 0.25f : 0.0f);
        if (row[v] > max[v / SCORES_BLOCK])
            max[v / SCORES_BLOCK] = row[v];
    }
}

static const float *toy_row(void *ctx, int i)
{
    const struct toy *t = ctx;
    assert(i >= t->first_score && i < t->first_score + t->n_scores);
    return t->logits + (size_t)(i - t->first_score) * TOY_VOCAB;
}

static const float *toy_block_max(void *ctx, int i)
{
    const struct toy *t = ctx;
    assert(i >= t->first_score && i < t->first_score + t->n_scores);
    return t->block_max + (size_t)(i - t->first_score) * N_BLOCKS;
}

/* The scores of at most max_scores wanted rows from `first` on. */
static void toy_scores(struct toy *t, const struct batch *b, int first, struct scores *scores_out)
{
    t->first_score = first;
    t->n_scores = b->n_out - first < t->opt.max_scores ? b->n_out - first : t->opt.max_scores;
    for (int i = 0; i < t->n_scores; i++) {
        int row = b->out[first + i];
        fill_logits(t->logits + (size_t)i * TOY_VOCAB, t->block_max + (size_t)i * N_BLOCKS, cell(t, b, b->seq[row], b->pos[row])->chain);
    }
    *scores_out = (struct scores){
        .first = first, .n_out = t->n_scores, .n_vocab = TOY_VOCAB, .ctx = t, .row = toy_row, .block_max = toy_block_max};
}

/* Writes the rows' cells. */
static void compute_rows(struct toy *t, const struct batch *b)
{
    t->n_rows += b->n_rows;
    t->most_rows = b->n_rows > t->most_rows ? b->n_rows : t->most_rows;
    for (int r = 0; r < b->n_rows; r++) {
        int pos = b->pos[r];
        int32_t token = b->token[r] >= 0 ? b->token[r] : t->slots[~b->token[r]];
        t->n_pending += b->token[r] < 0;
        token = token < 0 ? 0 : token; /* undecided */
        uint64_t before = pos > 0 ? cell(t, b, b->seq[r], pos - 1)->chain : CHAIN_SEED;
        *cell(t, b, b->seq[r], pos) = (struct toy_cell){.token = token, .pos = pos, .chain = mix(mix(before, (uint64_t)token), (uint64_t)pos)};
    }
    for (int r = 0; r < b->n_rows; r++) /* after all writes: nobody wrote into a neighbour's page */
        if (r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r])
            check_chain(t, b, b->seq[r], b->pos[r]);
}

static void copy_cells(struct toy *t, struct toy_copy c)
{
    struct toy_cell *to = t->cells + c.dst * KV_PAGE, *from = t->cells + c.src * KV_PAGE;
    memcpy(to, from, sizeof *to * (size_t)c.n_pos);
    for (int i = c.n_pos; i < KV_PAGE; i++)
        to[i] = (struct toy_cell){.token = -1, .pos = -1};
}

static int lost(struct toy *t, struct err *err, const char *what, long n)
{
    t->is_lost = true;
    return err_set(err, ERR_DEVICE, "the toy broke at %s %ld", what, n);
}

static int toy_forward(void *ctx, const struct batch *b, struct scores *scores_out, struct err *err)
{
    struct toy *t = ctx;
    t->n_forward++;
    if (t->is_lost || (t->opt.fail_at != 0 && t->n_forward >= t->opt.fail_at))
        return lost(t, err, "step", t->n_forward);
    assert(t->n_landed == t->n_launched);
    check_batch(t, b, false);
    for (int i = 0; i < t->n_waiting_copies; i++)
        copy_cells(t, t->copies[i]);
    t->n_waiting_copies = 0;
    compute_rows(t, b);
    toy_scores(t, b, 0, scores_out);
    return 0;
}

static int toy_next_scores(void *ctx, const struct batch *b, struct scores *scores, struct err *err)
{
    struct toy *t = ctx;
    assert(scores->first + scores->n_out < b->n_out);
    if (t->opt.fail_at_group != 0 && ++t->n_groups >= t->opt.fail_at_group)
        return lost(t, err, "group", t->n_groups);
    toy_scores(t, b, scores->first + scores->n_out, scores);
    return 0;
}

/* ---- a device that draws ---- */

/* No step in flight knows the page. */
static void check_copy(const struct toy *t, int dst)
{
    for (long n = t->n_landed; n < t->n_launched; n++) {
        const struct toy_flight *f = &t->flights[n % TOY_FLIGHTS];
        for (int s = 0; s < f->batch.n_seqs; s++)
            for (int i = 0; i < f->tables[s].n; i++)
                assert(f->tables[s].page[i] != dst);
    }
}

/* The pages that a sequence's rows are written to: no step in flight knows them but as the same pages of the same sequence. */
static void check_pages(const struct toy *t, const struct toy_table *table, int first_page)
{
    for (long n = t->n_landed; n < t->n_launched; n++) {
        const struct toy_flight *f = &t->flights[n % TOY_FLIGHTS];
        for (int s = 0; s < f->batch.n_seqs; s++)
            for (int i = 0; i < f->tables[s].n; i++)
                for (int k = first_page; k < table->n; k++)
                    assert(f->tables[s].page[i] != table->page[k] || (i == k && f->tables[s].owner == table->owner));
    }
}

static void take_table(struct toy *t, struct toy_flight *f, const struct batch *b, int seq, int first_pos, int last_pos)
{
    struct toy_table *table = &f->tables[seq];
    *table = (struct toy_table){.owner = b->pages[seq], .n = last_pos / KV_PAGE + 1};
    assert(table->n <= MAX_PAGES);
    memcpy(table->page, b->pages[seq], sizeof *table->page * (size_t)table->n);
    f->pages[seq] = table->page;
    check_pages(t, table, first_pos / KV_PAGE);
}

static void take_batch(struct toy *t, struct toy_flight *f, const struct batch *b)
{
    memcpy(f->token, b->token, sizeof *f->token * (size_t)b->n_rows);
    memcpy(f->pos, b->pos, sizeof *f->pos * (size_t)b->n_rows);
    memcpy(f->seq, b->seq, sizeof *f->seq * (size_t)b->n_rows);
    memcpy(f->out, b->out, sizeof *f->out * (size_t)b->n_out);
    for (int r = 0, first = 0; r < b->n_rows; r++) {
        first = r > 0 && b->seq[r] != b->seq[r - 1] ? r : first;
        if (r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r])
            take_table(t, f, b, b->seq[r], b->pos[first], b->pos[r]);
    }
    f->batch = (struct batch){.n_rows = b->n_rows, .token = f->token, .pos = f->pos, .seq = f->seq, .n_seqs = b->n_seqs, .pages = f->pages,
                              .n_out = b->n_out, .out = f->out};
}

static void take_draw(struct toy_draw *to, const struct draw *from, int max_slots)
{
    to->draw = *from;
    assert(from->slot < max_slots);
    assert(from->n_top <= DRAW_MAX_TOP);
    if (from->params == NULL) {
        assert(from->id >= 0 && from->id < TOY_VOCAB);
        return;
    }
    assert(from->params->n_bias <= MAX_BIAS);
    assert(from->n_bans <= MAX_BANS);
    assert(from->n_counts <= TOY_VOCAB);
    to->params = *from->params;
    memcpy(to->bias, from->params->bias, sizeof *to->bias * (size_t)from->params->n_bias);
    if (from->n_bans > 0)
        memcpy(to->bans, from->bans, sizeof *to->bans * (size_t)from->n_bans);
    if (from->n_counts > 0)
        memcpy(to->counts, from->counts, sizeof *to->counts * (size_t)from->n_counts);
    to->params.bias = to->bias;
    to->draw.params = &to->params;
    to->draw.bans = to->bans;
    to->draw.counts = to->counts;
}

/* Only what was left undecided may be asked for, until the next landing. */
static void check_asked(const struct toy_flight *f, int i)
{
    assert(f->has_scores);
    assert(i >= 0 && i < f->batch.n_out);
    assert(f->drawn[i].id < 0);
}

static const float *flight_row_of(void *ctx, int i)
{
    const struct toy_flight *f = ctx;
    check_asked(f, i);
    return f->logits + (size_t)i * TOY_VOCAB;
}

static const float *flight_block_max(void *ctx, int i)
{
    const struct toy_flight *f = ctx;
    check_asked(f, i);
    return f->block_max + (size_t)i * N_BLOCKS;
}

static struct scores flight_scores(struct toy_flight *f)
{
    return (struct scores){.first = 0, .n_out = f->batch.n_out, .n_vocab = TOY_VOCAB, .ctx = f, .row = flight_row_of, .block_max = flight_block_max};
}

/* The sampler wants choice and output index, not the number that comes of them: those of the sequence's last draw and one on, or else a search. */
static void find_number(struct toy *t, const struct draw *d, const int32_t *owner, int pos, struct sampler_draw *out)
{
    struct toy_hint *h = &t->hints[mix(1, (uint64_t)(uintptr_t)owner) % N_HINTS];
    uint32_t choice = h->choice, idx = h->output_idx + 1;
    if (h->owner != owner || num_rng(d->params->seed, choice, idx) != d->u)
        for (choice = 64, idx = 0; choice == 64; idx += choice == 64) {
            assert(idx <= (uint32_t)pos);
            for (choice = 0; choice < 64 && num_rng(d->params->seed, choice, idx) != d->u;)
                choice++;
        }
    *h = (struct toy_hint){.owner = owner, .choice = choice, .output_idx = idx};
    out->choice = choice;
    out->output_idx = idx;
}

static int32_t draw_row(struct toy *t, struct toy_flight *f, int k)
{
    const struct draw *d = &f->draws[k].draw;
    int row = f->out[k];
    struct sampler_draw draw = {.bans = d->bans, .n_bans = d->n_bans};
    struct scores scores = flight_scores(f);
    find_number(t, d, f->tables[f->seq[row]].owner, f->pos[row], &draw);
    if (d->n_counts > 0) {
        sampler_counts_reset(t->counts);
        for (int i = 0; i < d->n_counts; i++) {
            sampler_counts_add(t->counts, d->counts[i].id, false);
            for (uint32_t n = 0; n < d->counts[i].n_output; n++)
                sampler_counts_add(t->counts, d->counts[i].id, true);
        }
        draw.counts = t->counts;
    }
    return sampler_next(t->sampler, d->params, &draw, &scores, k);
}

/* The id and raw logits; they come by another way than the host's. */
static void score_row(struct drawn *out, int32_t id, int n_top, const float *logits)
{
    float max = logits[0];
    for (int v = 1; v < TOY_VOCAB; v++)
        max = logits[v] > max ? logits[v] : max;
    out->id = id;
    out->logit = logits[id];
    out->log_sum_exp = rows_log_sum_exp(&rows_generic, logits, TOY_VOCAB, max);
    for (out->n_top = 0; out->n_top < n_top; out->n_top++) {
        int32_t best = -1;
        for (int32_t v = 0; v < TOY_VOCAB; v++) {
            bool taken = false;
            for (int i = 0; i < out->n_top; i++)
                taken = taken || out->top_id[i] == v;
            if (!taken && (best < 0 || logits[v] > logits[best]))
                best = v;
        }
        out->top_id[out->n_top] = best;
        out->top[out->n_top] = logits[best];
    }
}

static void compute_draws(struct toy *t, struct toy_flight *f)
{
    const struct batch *b = &f->batch;
    f->has_scores = true; /* to draw from; for others when it has landed */
    for (int k = 0; k < b->n_out; k++) {
        uint64_t chain = cell(t, b, b->seq[b->out[k]], b->pos[b->out[k]])->chain;
        fill_logits(f->logits + (size_t)k * TOY_VOCAB, f->block_max + (size_t)k * N_BLOCKS, chain);
    }
    for (int k = 0; k < b->n_out; k++) {
        const struct draw *d = &f->draws[k].draw;
        const float *logits = f->logits + (size_t)k * TOY_VOCAB;
        bool undecided = t->opt.undecided > 0 && mix((uint64_t)(logits[5] * 8), (uint64_t)f->pos[b->out[k]]) % (uint64_t)t->opt.undecided == 0;
        memset(&f->drawn[k], 0x7e, sizeof f->drawn[k]);
        f->drawn[k].id = -1;
        if (!undecided)
            f->drawn[k].id = d->params != NULL ? draw_row(t, f, k) : d->id;
        if (d->slot >= 0)
            t->slots[d->slot] = f->drawn[k].id;
        if (!undecided && d->n_top >= 0)
            score_row(&f->drawn[k], f->drawn[k].id, d->n_top, logits);
        t->n_undecided += undecided;
    }
    f->has_scores = false;
}

/* Everything up to the step, in its order. */
static void compute_until(struct toy *t, long n)
{
    for (; t->n_computed <= n; t->n_computed++) {
        struct toy_flight *f = &t->flights[t->n_computed % TOY_FLIGHTS];
        for (int i = 0; i < f->n_copies; i++)
            copy_cells(t, f->copies[i]);
        compute_rows(t, &f->batch);
        compute_draws(t, f);
    }
}

static int toy_launch(void *ctx, const struct batch *b, const struct draw *draws, struct err *err)
{
    struct toy *t = ctx;
    if (t->is_lost || (t->opt.fail_at_launch != 0 && t->n_launched + 1 >= t->opt.fail_at_launch))
        return lost(t, err, "launch", t->n_launched + 1);
    assert(t->n_launched - t->n_landed < TOY_FLIGHTS);
    assert(b->n_out <= t->opt.max_draws);
    check_batch(t, b, true);
    struct toy_flight *f = &t->flights[t->n_launched % TOY_FLIGHTS];
    take_batch(t, f, b);
    for (int k = 0; k < b->n_out; k++)
        take_draw(&f->draws[k], &draws[k], 2 * t->opt.max_draws);
    f->n_copies = t->n_waiting_copies;
    memcpy(f->copies, t->copies, sizeof *f->copies * (size_t)f->n_copies);
    t->n_waiting_copies = 0;
    t->n_beside += t->n_launched > t->n_landed;
    t->n_launched++;
    if (t->n_launched % 5 == 0) /* the device is done before anybody asks */
        compute_until(t, t->n_launched - 1);
    return 0;
}

static int toy_land(void *ctx, struct drawn *drawn_out, struct scores *scores_out, struct err *err)
{
    struct toy *t = ctx;
    assert(t->n_landed < t->n_launched);
    long n = t->n_landed++;
    if (t->is_lost || (t->opt.fail_at_land != 0 && t->n_landed >= t->opt.fail_at_land)) {
        t->n_computed = t->n_landed > t->n_computed ? t->n_landed : t->n_computed;
        return lost(t, err, "landing", t->n_landed);
    }
    compute_until(t, n);
    struct toy_flight *f = &t->flights[n % TOY_FLIGHTS];
    t->flights[(n + 1) % TOY_FLIGHTS].has_scores = false; /* those of the step before end here */
    f->has_scores = true;
    memcpy(drawn_out, f->drawn, sizeof *drawn_out * (size_t)f->batch.n_out);
    *scores_out = flight_scores(f);
    return 0;
}

static void toy_copy_page(void *ctx, int dst, int src, int n_pos)
{
    struct toy *t = ctx;
    assert(dst != src);
    assert(n_pos > 0 && n_pos < KV_PAGE);
    t->n_copies++;
    if (t->flights == NULL) {
        copy_cells(t, (struct toy_copy){.dst = dst, .src = src, .n_pos = n_pos});
        return;
    }
    assert(t->n_waiting_copies < t->opt.n_pages);
    check_copy(t, dst);
    t->copies[t->n_waiting_copies++] = (struct toy_copy){.dst = dst, .src = src, .n_pos = n_pos};
}

static void toy_share(void *ctx, int n, void (*fn)(void *arg, int i), void *arg)
{
    struct toy *t = ctx;
    assert(n <= t->opt.n_threads);
    t->n_shared++;
    pool_share(t->pool, n, fn, arg);
}

struct runner toy_runner(struct toy *t)
{
    return (struct runner){.ctx = t,
                           .n_vocab = TOY_VOCAB,
                           .n_ctx_train = t->opt.n_ctx,
                           .n_pages = t->opt.n_pages,
                           .max_rows = t->opt.max_rows,
                           .max_out = t->opt.max_out,
                           .n_threads = t->opt.n_threads,
                           .forward = toy_forward,
                           .next_scores = toy_next_scores,
                           .launch = t->flights != NULL ? toy_launch : NULL,
                           .land = t->flights != NULL ? toy_land : NULL,
                           .max_draws = t->opt.max_draws,
                           .copy_page = toy_copy_page,
                           .share = toy_share};
}

/* The character that stands for a byte in a byte-level vocabulary, as UTF-8 (GPT-2's table: printable bytes are themselves, others follow U+0100). */
static int spell_byte(int byte, char *out)
{
    int code = byte, next = 256;
    for (int b = 0; b <= byte; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        code = itself ? b : next;
        next += !itself;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

struct tokenizer *toy_tokenizer(void)
{
    static const char *const control[3] = {"<s>", "</s>", "<|im_end|>"};
    static char spelling[TOY_VOCAB][16], merge[TOY_VOCAB][4];
    struct token_str tokens[TOY_VOCAB], merges[TOY_VOCAB];
    int32_t types[TOY_VOCAB];
    size_t n_merges = 0;
    for (int i = 0; i < TOY_VOCAB; i++) {
        int n = 2, pair = i - 259;
        types[i] = i < 3 ? TOKEN_CONTROL : TOKEN_NORMAL;
        if (i < 3) {
            n = snprintf(spelling[i], sizeof spelling[i], "%s", control[i]);
        } else if (i < 259) {
            n = spell_byte(i - 3, spelling[i]);
        } else {
            spelling[i][0] = (char)('a' + pair % 26);
            spelling[i][1] = (char)('a' + pair / 26);
            snprintf(merge[n_merges], sizeof merge[0], "%c %c", spelling[i][0], spelling[i][1]);
            merges[n_merges] = (struct token_str){.p = merge[n_merges], .n = 3};
            n_merges++;
        }
        tokens[i] = (struct token_str){.p = spelling[i], .n = (size_t)n};
    }
    struct vocab vocab = {.model = "gpt2", .pre = "gpt-2", .n_tokens = TOY_VOCAB, .tokens = tokens, .types = types, .n_merges = n_merges,
                          .merges = merges, .bos = TOY_BOS, .eos = TOY_EOS, .eot = TOY_EOT, .eom = -1, .unk = -1, .pad = -1,
                          .add_bos = 0, .add_eos = 0, .add_space_prefix = 0};
    struct tokenizer *tok;
    struct err err;
    if (tokenizer_create(&vocab, &tok, &err) != 0) {
        fprintf(stderr, "toy_tokenizer: %s\n", err.msg);
        abort();
    }
    return tok;
}

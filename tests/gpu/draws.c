/* draws.c: see draws.h. */
#include "tests/gpu/draws.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sample/sampler.h"

#define SEED 4711

enum { FULL_BIAS = 1, BAN = 2, PENALISE = 4 };

static const struct {
    const char *name;
    float temperature, top_p, min_p, typical_p;
    int top_k, n_top;
    unsigned edits;
} settings[N_DRAWS] = {
    {"temperature 1", 1, 1, 0, 1, 0, 5, 0},
    {"temperature 2", 2, 1, 0, 1, 0, 0, 0},
    {"greedy", 0, 1, 0, 1, 0, 20, 0},
    {"top_p 0.9", 1, 0.9f, 0, 1, 0, 1, 0},
    {"top_p 0.999", 1, 0.999f, 0, 1, 0, -1, 0},
    {"top_k 40", 1.5f, 1, 0, 1, 40, 3, 0},
    {"min_p 0.05", 1, 1, 0.05f, 1, 0, -1, 0},
    {"typical_p 0.9", 1, 1, 0, 0.9f, 0, 2, 0},
    {"bias of 100 and a ban", 1, 1, 0, 1, 0, 4, FULL_BIAS | BAN},
    {"penalties", 1, 1, 0, 1, 0, 1, PENALISE},
};

const char *draw_name(int i)
{
    return settings[i].name;
}

/* All that one row's draw points to. */
struct plan {
    struct sampler_params params;
    struct sampler_draw how;
    struct logit_bias bias[2];
    int32_t bans[1];
    struct sampler_counts *counts;
};

static void plan_row(struct plan *p, struct draw *d, int i)
{
    p->params = sampler_defaults();
    p->params.temperature = settings[i].temperature;
    p->params.top_p = settings[i].top_p;
    p->params.min_p = settings[i].min_p;
    p->params.typical_p = settings[i].typical_p;
    p->params.top_k = settings[i].top_k;
    p->params.seed = SEED;
    p->how = (struct sampler_draw){.choice = (uint32_t)i, .output_idx = 3};
    if (settings[i].edits & FULL_BIAS) {
        p->bias[0] = (struct logit_bias){7, 100};
        p->bias[1] = (struct logit_bias){11, -INFINITY};
        p->params.bias = p->bias;
        p->params.n_bias = 2;
    }
    if (settings[i].edits & BAN) {
        p->bans[0] = 3;
        p->how.bans = p->bans;
        p->how.n_bans = 1;
    }
    if (settings[i].edits & PENALISE) {
        p->params.repetition_penalty = 1.3f;
        p->params.frequency_penalty = 0.4f;
        p->params.presence_penalty = -0.7f;
        p->how.counts = p->counts;
        for (int k = 0; k < 12; k++)
            sampler_counts_add(p->counts, k * k, k % 3 > 0);
    }
    *d = (struct draw){.params = &p->params, .id = -1, .u = num_rng(SEED, p->how.choice, p->how.output_idx), .bans = p->how.bans,
                       .n_bans = p->how.n_bans, .n_top = settings[i].n_top, .slot = -1};
    if (p->how.counts != NULL)
        d->counts = sampler_counts_list(p->how.counts, &d->n_counts);
}

static void draw_here(struct sampler *s, const struct plan *p, const struct scores *scores, int i, struct drawn_row *out)
{
    struct token_logprob chosen, top[SAMPLER_MAX_TOP];
    out->id = sampler_next(s, &p->params, &p->how, scores, i);
    if (settings[i].n_top < 0)
        return;
    sampler_logprobs(s, scores, i, out->id, settings[i].n_top, &chosen, top);
    out->logprob = chosen.logprob;
    for (int k = 0; k < settings[i].n_top; k++) {
        out->top_id[k] = top[k].id;
        out->top[k] = top[k].logprob;
    }
}

static void take(const struct drawn *d, int n_top, struct drawn_row *out)
{
    out->id = d->id;
    if (n_top < 0)
        return;
    out->logprob = (float)((double)d->logit - d->log_sum_exp);
    for (int k = 0; k < n_top; k++) {
        out->top_id[k] = d->top_id[k];
        out->top[k] = (float)((double)d->top[k] - d->log_sum_exp);
    }
}

struct drawing {
    struct plan plans[N_DRAWS];
    struct draw draws[N_DRAWS];
    struct drawn drawn[N_DRAWS];
    struct step_rows rows;
    struct sampler *sampler;
};

static int draw_all(struct world *w, struct drawing *d, struct drawn_row *out, int *n_left_out, struct err *err)
{
    const struct runner *r = &w->runner;
    struct scores scores;
    bool on_device = r->launch != NULL && r->max_draws >= N_DRAWS;
    *n_left_out = 0;
    world_rows_to_draw(w, &d->rows, N_DRAWS);
    int rc = on_device ? r->launch(r->ctx, &d->rows.batch, d->draws, err) : r->forward(r->ctx, &d->rows.batch, &scores, err);
    if (rc == 0 && on_device)
        rc = r->land(r->ctx, d->drawn, &scores, err);
    if (rc != 0)
        return -1;
    for (int i = 0; i < N_DRAWS; i++) {
        out[i] = (struct drawn_row){0};
        if (on_device && d->drawn[i].id >= 0) {
            take(&d->drawn[i], settings[i].n_top, &out[i]);
            continue;
        }
        draw_here(d->sampler, &d->plans[i], &scores, i, &out[i]);
        *n_left_out += on_device;
    }
    return 0;
}

int world_draw(struct world *w, struct drawn_row rows_out[N_DRAWS], int *n_left_out, struct err *err)
{
    struct drawing *d = calloc(1, sizeof *d);
    int rc = d != NULL && (d->sampler = sampler_create(w->runner.n_vocab)) != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory to draw with");
    for (int i = 0; i < N_DRAWS && rc == 0; i++) {
        d->plans[i].counts = sampler_counts_create(32);
        rc = d->plans[i].counts != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory to draw with");
        if (rc == 0)
            plan_row(&d->plans[i], &d->draws[i], i);
    }
    if (rc == 0)
        rc = draw_all(w, d, rows_out, n_left_out, err);
    for (int i = 0; i < N_DRAWS && d != NULL; i++)
        sampler_counts_destroy(d->plans[i].counts);
    if (d != NULL)
        sampler_destroy(d->sampler);
    free(d);
    return rc;
}

uint64_t draws_hash(const struct drawn_row rows[N_DRAWS])
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < N_DRAWS; i++) {
        h = (h ^ (uint32_t)rows[i].id) * 0x100000001b3u;
        h = (h ^ num_bits_from_f32(rows[i].logprob)) * 0x100000001b3u;
        for (int k = 0; k < DRAW_MAX_TOP; k++) {
            h = (h ^ (uint32_t)rows[i].top_id[k]) * 0x100000001b3u;
            h = (h ^ num_bits_from_f32(rows[i].top[k])) * 0x100000001b3u;
        }
    }
    return h ^ h >> 32;
}

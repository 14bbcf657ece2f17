/* flight.c: a step's way through the runner.
 *
 *   plan ──▶ begin ──▶ in flight ──▶ land ──▶ row, row, ... ──▶ finish
 *            launch()                land()   what the device drew; where it could not decide, drawn here from the row's scores
 *            forward()                        drawn here, a group of rows after the other (next_scores)
 *
 * The device keeps a drawn id in a slot, and the sequence has ~slot for its newest token, which the next step's row is fed with. A slot is the place
 * of the wanted row in its step; two steps in flight use two halves of the slots.
 *
 * An id that the device could not decide is drawn when its step has landed. If the sequence has a row in the step after it, that row was fed with a
 * wrong token: it is dropped, and the sequence rewound, so that the next plan computes the row again. It lies in the same place of the same page, and
 * whoever reads it comes later; the page was not published, for one of its tokens was pending.
 *
 * Penalties look at all tokens before the one to be drawn, so a step that draws for a sequence with penalties lands before the next one begins. */
#include "engine/flight.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/engine_internal.h"
#include "engine/numerics/numerics.h"

struct flights *flights_create(const struct runner *runner, int max_seqs, bool lockstep)
{
    struct flights *fs = calloc(1, sizeof *fs);
    if (fs == NULL)
        return NULL;
    fs->max_draws = runner->launch != NULL ? runner->max_draws : 0;
    fs->most = fs->max_draws > 0 && !lockstep ? MAX_FLIGHTS - 1 : 0;
    size_t n_draws = (size_t)fs->max_draws;
    fs->draws = calloc(n_draws + 1, sizeof *fs->draws);
    bool complete = fs->draws != NULL;
    for (int i = 0; i < MAX_FLIGHTS; i++) {
        struct flight *f = &fs->at[i];
        f->items = calloc((size_t)max_seqs, sizeof *f->items);
        f->pos = calloc((size_t)runner->max_out, sizeof *f->pos);
        f->drawn = calloc(n_draws + 1, sizeof *f->drawn);
        complete = complete && f->items != NULL && f->pos != NULL && f->drawn != NULL;
    }
    if (complete)
        return fs;
    flights_destroy(fs);
    return NULL;
}

void flights_destroy(struct flights *fs)
{
    if (fs == NULL)
        return;
    assert(fs->n == 0);
    for (int i = 0; i < MAX_FLIGHTS; i++) {
        free(fs->at[i].items);
        free(fs->at[i].pos);
        free(fs->at[i].drawn);
    }
    free(fs->draws);
    free(fs);
}

static const struct flight *newest(const struct flights *fs)
{
    assert(fs->n > 0);
    return &fs->at[(fs->first + fs->n - 1) % MAX_FLIGHTS];
}

bool flights_have_room(const struct flights *fs)
{
    return fs->n == 0 || (fs->n <= fs->most && !newest(fs)->is_alone);
}

bool flights_must_land(const struct flights *fs, bool begun)
{
    return fs->n > fs->most || (fs->n > 0 && (!begun || newest(fs)->is_alone));
}

/* ---- begin ---- */

/* What to do with a wanted row. */
static struct drawer_row row_to_draw(const struct seq *seq, int pos)
{
    const struct choice *c = seq->owner;
    const struct request *r = c->req;
    if (pos < seq->n_to_score)
        return (struct drawer_row){.id = r->prompt_tokens[pos + 1].id, .n_top = r->n_prompt_logprobs};
    int output_idx = pos + 1 - seq->n_prompt;
    bool too_few = output_idx < r->min_tokens;
    return (struct drawer_row){.params = &r->params,
                               .draw = {.choice = (uint32_t)c->index,
                                        .output_idx = (uint32_t)output_idx,
                                        .bans = r->stop_ids,
                                        .n_bans = too_few ? r->n_end + r->n_stop_ids : r->ignore_eos ? r->n_end : 0,
                                        .counts = c->counts},
                               .n_top = r->n_logprobs};
}

/* The same for the device. */
static struct draw draw_for(const struct seq *seq, int pos, int32_t slot)
{
    struct drawer_row row = row_to_draw(seq, pos);
    struct draw draw = {.params = row.params, .id = row.id, .n_top = row.n_top, .slot = -1};
    if (row.params == NULL)
        return draw;
    draw.u = num_rng(row.params->seed, row.draw.choice, row.draw.output_idx);
    draw.bans = row.draw.bans;
    draw.n_bans = row.draw.n_bans;
    if (row.draw.counts != NULL)
        draw.counts = sampler_counts_list(row.draw.counts, &draw.n_counts);
    draw.slot = slot;
    return draw;
}

/* Writes down what will be asked when it has landed: the plan's arrays are void by then. */
static void note_plan(struct flight *f, const struct sched_step *step)
{
    const struct batch *b = &step->batch;
    f->n_items = b->n_seqs;
    f->n_out = b->n_out;
    f->n_catch_up = step->n_catch_up;
    f->has_landed = false;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sched_item *item = &step->items[i];
        const struct seq *seq = item->seq;
        int end = seq->n_computed + item->n_rows;
        f->items[i] = (struct flight_item){.seq = item->seq,
                                           .first_out = item->first_out,
                                           .n_out = item->n_out,
                                           .is_scored = seq->n_scored == seq->n_to_score || end >= seq->n_to_score,
                                           .is_caught_up = !seq->wants_next && end == seq->n_tokens};
    }
    for (int k = 0; k < b->n_out; k++)
        f->pos[k] = b->pos[b->out[k]];
}

/* Whether a row's item draws the next token: by its last wanted row, if that is none to be scored. */
static bool item_draws(const struct flight *f, const struct flight_item *item)
{
    return item->n_out > 0 && f->pos[item->first_out + item->n_out - 1] >= item->seq->n_to_score;
}

static int32_t slot_of(const struct flights *fs, const struct flight *f, int k)
{
    return (int32_t)(f - fs->at) * fs->max_draws + k;
}

static int launch(struct engine *e, struct flight *f, const struct batch *batch)
{
    struct flights *fs = e->flights;
    f->is_alone = false;
    for (int i = 0; i < f->n_items; i++)
        for (int k = f->items[i].first_out, end = k + f->items[i].n_out; k < end; k++) {
            fs->draws[k] = draw_for(f->items[i].seq, f->pos[k], slot_of(fs, f, k));
            f->is_alone = f->is_alone || fs->draws[k].n_counts > 0;
        }
    return e->runner.launch(e->runner.ctx, batch, fs->draws, &e->fault);
}

static int forward(struct engine *e, struct flight *f, const struct batch *batch)
{
    assert(e->flights->n == 0);
    f->is_alone = true;
    f->batch = *batch;
    return e->runner.forward(e->runner.ctx, batch, &f->scores, &e->fault);
}

int flight_begin(struct engine *e, const struct sched_step *step, uint64_t begin_ms)
{
    struct flights *fs = e->flights;
    assert(flights_have_room(fs));
    struct flight *f = &fs->at[(fs->first + fs->n) % MAX_FLIGHTS];
    note_plan(f, step);
    f->begin_ms = begin_ms;
    f->is_launched = fs->max_draws > 0 && f->n_out <= fs->max_draws;
    if ((f->is_launched ? launch(e, f, &step->batch) : forward(e, f, &step->batch)) != 0)
        return -1;
    fs->n++;
    sched_commit(e->sched);
    for (int i = 0; i < f->n_items; i++) {
        const struct flight_item *item = &f->items[i];
        if (item_draws(f, item))
            seq_append(item->seq, ~slot_of(fs, f, item->first_out + item->n_out - 1));
    }
    return 0;
}

/* ---- land ---- */

/* Draws the group of rows that the scores of a forwarded step have reached. */
static void draw_group(struct engine *e, const struct flight *f)
{
    struct drawer_row *rows = drawer_rows(e->drawer);
    for (int i = 0; i < f->n_items; i++)
        for (int k = f->items[i].first_out, end = k + f->items[i].n_out; k < end; k++)
            if (k >= f->scores.first && k < f->scores.first + f->scores.n_out)
                rows[k - f->scores.first] = row_to_draw(f->items[i].seq, f->pos[k]);
    drawer_draw(e->drawer, &f->scores);
}

struct flight *flight_land(struct engine *e)
{
    struct flights *fs = e->flights;
    assert(fs->n > 0);
    struct flight *f = &fs->at[fs->first];
    assert(!f->has_landed);
    f->has_landed = true;
    int rc = f->is_launched ? e->runner.land(e->runner.ctx, f->drawn, &f->scores, &e->fault) : 0;
    sched_landed(e->sched);
    if (rc != 0)
        return NULL;
    if (!f->is_launched && f->n_out > 0)
        draw_group(e, f);
    return f;
}

/* The device's result in the form of the drawer's. */
static void take_drawn(struct drawer_row *row, const struct drawn *d)
{
    row->id = d->id;
    if (row->n_top < 0)
        return;
    row->chosen = (struct token_logprob){.id = d->id, .logprob = (float)((double)d->logit - d->log_sum_exp)};
    for (int i = 0; i < d->n_top; i++)
        row->top[i] = (struct token_logprob){.id = d->top_id[i], .logprob = (float)((double)d->top[i] - d->log_sum_exp)};
}

/* Draws row k of a launched step from its scores. What was launched with the token undecided is void. */
static void draw_late(struct engine *e, const struct flight *f, struct seq *seq, int k)
{
    struct scores scores = f->scores;
    scores.first = k;
    scores.n_out = 1;
    drawer_draw(e->drawer, &scores);
    if (f->pos[k] < seq->n_to_score)
        return;
    struct flight *next = &e->flights->at[(e->flights->first + 1) % MAX_FLIGHTS];
    for (int i = 0; e->flights->n > 1 && i < next->n_items; i++)
        if (next->items[i].seq == seq)
            next->items[i].seq = NULL;
    seq_rewind(seq, f->pos[k] + 1);
}

const struct drawer_row *flight_row(struct engine *e, struct flight *f, const struct flight_item *item, int k)
{
    struct drawer_row *rows = drawer_rows(e->drawer);
    if (f->is_launched) {
        rows[0] = row_to_draw(item->seq, f->pos[k]);
        if (f->drawn[k].id >= 0)
            take_drawn(&rows[0], &f->drawn[k]);
        else
            draw_late(e, f, item->seq, k);
        return &rows[0];
    }
    if (k == f->scores.first + f->scores.n_out) {
        if (e->runner.next_scores(e->runner.ctx, &f->batch, &f->scores, &e->fault) != 0)
            return NULL;
        draw_group(e, f);
    }
    return &rows[k - f->scores.first];
}

void flight_finish(struct engine *e)
{
    struct flights *fs = e->flights;
    assert(fs->n > 0 && fs->at[fs->first].has_landed);
    fs->first = (fs->first + 1) % MAX_FLIGHTS;
    fs->n--;
}

void flights_abandon(struct engine *e)
{
    struct err ignored;
    while (e->flights->n > 0) {
        struct flight *f = &e->flights->at[e->flights->first];
        if (f->is_launched && !f->has_landed)
            e->runner.land(e->runner.ctx, f->drawn, &f->scores, &ignored);
        if (!f->has_landed)
            sched_landed(e->sched);
        f->has_landed = true;
        flight_finish(e);
    }
}

void flights_drop(struct flights *fs, const struct seq *seq)
{
    for (int i = 0; i < fs->n; i++) {
        struct flight *f = &fs->at[(fs->first + i) % MAX_FLIGHTS];
        for (int k = 0; k < f->n_items; k++)
            if (f->items[k].seq == seq)
                f->items[k].seq = NULL;
    }
}

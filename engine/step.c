/* step.c: the engine thread's side: take commands, schedule, compute, draw, emit.
 *
 * A turn is engine_take (commands since the last turn) and engine_step. A step's rows come from the scheduler, what they yield from its flight; each
 * wanted row either scores a prompt token (row p scores token p+1) or yields the next token of its sequence. A drawn token is recorded, fed to the
 * detokeniser and judged in one order: end token or stop id, stop string, length. What it says to the loop is one TEXT event, or CHOICE when it
 * was the last; the request's END follows its last CHOICE. Cancel, fault and a natural end meet in end_choice.
 *
 * A turn begins one step and lands one: the same where the host draws, else the one before, so that the device has work while the host reads, judges
 * and plans. Then a sequence may have ended while a row of it was under way. An end by length is known when the last token is pending, and no row
 * follows it; any other end drops the row, and its pages rest until the step has landed.
 *
 * Nothing here allocates: a request brought its memory along, events live in the mailbox. No clock reaches a decision; times are for figures. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine/engine_internal.h"
#include "engine/flight.h"

#define FIGURES_WEIGHT 0.1 /* of the newest value in a running mean */

uint64_t engine_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static double mean(double old, double value)
{
    return old == 0 ? value : old + (value - old) * FIGURES_WEIGHT;
}

/* ---- saying things ---- */

static struct engine_event *event_for(struct choice *c, enum engine_event_type type)
{
    struct engine_event *event = mailbox_event(c->req->engine->mail);
    event->type = type;
    event->id = c->req->id;
    event->user = c->req->user;
    event->choice = c->index;
    event->matched_stop = event->matched_stop_id = -1;
    event->n_prompt = c->req->n_prompt;
    event->n_cached = c->req->choices[0].seq.n_cached;
    event->n_output = c->n_output;
    return event;
}

static void emit_end(struct request *r)
{
    struct engine *e = r->engine;
    struct engine_event *event = event_for(&r->choices[0], ENGINE_END);
    event->finish = r->finish;
    event->n_output = r->n_output;
    event->queue_ms = r->first_row_ms != 0 ? (int64_t)(r->first_row_ms - r->submitted_ms) : -1;
    if (r->finish == ENGINE_FINISH_ERROR)
        event->err = e->fault;
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        e->live = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    mailbox_ended(e->mail, &r->mail);
}

/* `event` is the choice's last; it becomes its CHOICE. */
static void end_choice(struct choice *c, enum engine_finish finish, struct engine_event *event)
{
    struct request *r = c->req;
    struct engine *e = r->engine;
    assert(!c->done);
    c->done = true;
    event->type = ENGINE_CHOICE;
    event->finish = c->finish = finish;
    if (finish == ENGINE_FINISH_ERROR)
        event->err = e->fault;
    if (finish > r->finish)
        r->finish = finish;
    sched_remove(e->sched, &c->seq);
    flights_drop(e->flights, &c->seq);
    mailbox_release(e->mail, 1);
    uint64_t now = engine_now_ms();
    if (e->last_end_ms != 0)
        e->figures.end_interval_ms = mean(e->figures.end_interval_ms, (double)(now - e->last_end_ms));
    e->last_end_ms = now;
    if (--r->n_live == 0)
        emit_end(r);
}

/* Ends a choice from outside: with the text that was held back, and no token. */
static void cut_choice(struct choice *c, enum engine_finish finish)
{
    struct engine_event *event = event_for(c, ENGINE_CHOICE);
    size_t most = detok_max_out(&c->detok, 0);
    char *text = mailbox_bytes(c->req->engine->mail, most);
    event->n_text = detok_flush(&c->detok, text);
    event->text = text;
    mailbox_trim(c->req->engine->mail, text, event->n_text);
    end_choice(c, finish, event);
}

static void cut_request(struct request *r, enum engine_finish finish)
{
    for (int i = 0, n = r->n_choices; i < n; i++)
        if (!r->choices[i].done)
            cut_choice(&r->choices[i], finish);
}

/* ---- commands ---- */

static void start_request(struct engine *e, struct request *r)
{
    r->prev = NULL;
    r->next = e->live;
    if (e->live != NULL)
        e->live->prev = r;
    e->live = r;
    for (int i = 0; i < r->n_choices; i++)
        sched_add(e->sched, &r->choices[i].seq);
}

void engine_take(struct engine *e, struct mail_node *taken)
{
    struct mail_node *next;
    for (struct mail_node *node = taken; node != NULL; node = next) {
        next = node->taken_next;
        struct request *r = (struct request *)((char *)node - offsetof(struct request, mail));
        unsigned bits = node->taken_bits;
        if (bits & MAIL_SUBMIT)
            start_request(e, r);
        if (r->n_live == 0)
            continue;
        if (e->faulted) {
            cut_request(r, ENGINE_FINISH_ERROR);
        } else if (bits & MAIL_CANCEL) {
            cut_request(r, ENGINE_FINISH_CANCELLED);
        } else if (bits & (MAIL_PAUSE | MAIL_RESUME)) {
            for (int i = 0; i < r->n_choices; i++)
                sched_pause(e->sched, &r->choices[i].seq, bits & MAIL_PAUSE);
        }
    }
}

/* ---- one row's scores ---- */

/* A row's log-probabilities into *token; top_memory holds n_top entries. */
static void take_scores(const struct engine *e, const struct drawer_row *row, struct engine_logprob *top_memory, struct engine_token *token)
{
    int n = row->n_top < e->info.n_vocab ? row->n_top : e->info.n_vocab;
    for (int i = 0; i < n; i++)
        top_memory[i] = (struct engine_logprob){.id = row->top[i].id, .logprob = row->top[i].logprob};
    *token = (struct engine_token){.id = row->id, .logprob = row->chosen.logprob, .n_top = n, .top = top_memory};
}

static void take_prompt_scores(const struct engine *e, struct choice *c, const struct drawer_row *row, int pos)
{
    struct request *r = c->req;
    int i = pos + 1;
    take_scores(e, row, r->prompt_top + (size_t)i * (size_t)r->n_prompt_logprobs, &r->prompt_tokens[i]);
}

static void emit_prompt(struct choice *c)
{
    struct request *r = c->req;
    struct engine_event *event = event_for(c, ENGINE_PROMPT);
    event->tokens = r->prompt_tokens;
    event->n_tokens = (size_t)r->n_prompt;
    r->prompt_sent = true;
}

/* Whether the token ends its choice by itself. */
static bool is_stop_id(const struct request *r, int32_t id)
{
    for (int i = r->ignore_eos ? r->n_end : 0; i < r->n_end + r->n_stop_ids; i++)
        if (r->stop_ids[i] == id)
            return true;
    return false;
}

/* The token's text into the event; returns true when it completed a stop string. */
static bool push_text(struct engine *e, struct choice *c, int32_t id, bool last, struct engine_event *event)
{
    const char *bytes;
    size_t n_bytes = tokenizer_bytes(e->tok, id, false, &bytes), n = 0;
    char *text = mailbox_bytes(e->mail, detok_max_out(&c->detok, n_bytes) + detok_max_out(&c->detok, 0));
    /* A stop string counts when a token beyond the first min_tokens completes it, wherever it began. */
    c->detok.armed = c->n_output > c->req->min_tokens;
    bool stopped = detok_push(&c->detok, id, text, &n);
    if (!stopped && last)
        n += detok_flush(&c->detok, text + n);
    event->text = text;
    event->n_text = n;
    mailbox_trim(e->mail, text, n);
    return stopped;
}

static void flush_text(struct engine *e, struct choice *c, struct engine_event *event)
{
    char *text = mailbox_bytes(e->mail, detok_max_out(&c->detok, 0));
    event->n_text = detok_flush(&c->detok, text);
    event->text = text;
    mailbox_trim(e->mail, text, event->n_text);
}

static void next_token(struct engine *e, struct choice *c, const struct drawer_row *row)
{
    struct request *r = c->req;
    int32_t id = row->id;
    sched_learn(e->sched, &c->seq, r->n_prompt + c->n_output, id);
    c->n_output++;
    r->n_output++;
    e->figures.stats.generation_tokens++;
    if (c->counts != NULL)
        sampler_counts_add(c->counts, id, true);

    struct engine_event *event = event_for(c, ENGINE_TEXT);
    struct engine_token *token = mailbox_bytes(e->mail, sizeof *token);
    *token = (struct engine_token){.id = id, .logprob = NAN};
    if (r->n_logprobs >= 0)
        take_scores(e, row, mailbox_bytes(e->mail, sizeof(struct engine_logprob) * (size_t)r->n_logprobs), token);
    event->tokens = token;
    event->n_tokens = 1;

    bool last = c->n_output == c->max_new;
    if (is_stop_id(r, id)) {
        flush_text(e, c, event);
        event->matched_stop_id = id;
        end_choice(c, ENGINE_FINISH_STOP, event);
    } else if (push_text(e, c, id, last, event)) {
        event->matched_stop = c->detok.matched;
        end_choice(c, ENGINE_FINISH_STOP, event);
    } else if (last) {
        end_choice(c, ENGINE_FINISH_LENGTH, event);
    }
}

/* ---- the step ---- */

/* Applies what was drawn and scored for a sequence. Returns -1 on a fault. */
static int finish_item(struct engine *e, struct flight *f, const struct flight_item *item)
{
    struct choice *c = item->seq->owner;
    struct request *r = c->req;
    const struct drawer_row *drawn = NULL;
    for (int k = item->first_out; k < item->first_out + item->n_out; k++) {
        const struct drawer_row *row = flight_row(e, f, item, k);
        if (row == NULL)
            return -1;
        if (f->pos[k] < item->seq->n_to_score)
            take_prompt_scores(e, c, row, f->pos[k]);
        else
            drawn = row;
    }
    if (r->prompt_tokens != NULL && c->index == 0 && !r->prompt_sent && item->is_scored)
        emit_prompt(c);
    if (drawn != NULL)
        next_token(e, c, drawn);
    else if (item->is_caught_up)
        cut_choice(c, ENGINE_FINISH_LENGTH);
    return 0;
}

/* Milliseconds until the first of the step's sequences will have drawn all it may. */
static double first_end_ms(const struct engine *e, const struct flight *f)
{
    int least = 0;
    for (int i = 0; i < f->n_items; i++) {
        const struct choice *c = f->items[i].seq != NULL ? f->items[i].seq->owner : NULL;
        if (c != NULL && (least == 0 || c->max_new - c->n_output < least))
            least = c->max_new - c->n_output;
    }
    return (double)least * e->step_ms;
}

/* The device is lost: everyone hears it. */
static void fault(struct engine *e)
{
    e->faulted = true;
    e->figures.stats.faulted = true;
    sched_abandon(e->sched);
    flights_abandon(e);
    while (e->live != NULL)
        cut_request(e->live, ENGINE_FINISH_ERROR);
}

/* Plans a step and hands it to the runner. Returns whether there was one. */
static bool begin_step(struct engine *e)
{
    struct sched_step step;
    uint64_t now = engine_now_ms();
    sched_plan(e->sched, &step);
    if (step.batch.n_rows == 0)
        return false;
    for (int i = 0; i < step.n_copies; i++)
        e->runner.copy_page(e->runner.ctx, step.copies[i].dst, step.copies[i].src, step.copies[i].n_pos);
    if (flight_begin(e, &step, now) != 0) {
        fault(e);
        return true;
    }
    for (int i = 0; i < step.batch.n_seqs; i++) {
        struct request *r = ((struct choice *)step.items[i].seq->owner)->req;
        r->first_row_ms = r->first_row_ms != 0 ? r->first_row_ms : now;
    }
    return true;
}

/* Waits for the oldest step and applies what it yields. */
static void land_step(struct engine *e)
{
    struct engine_stats *stats = &e->figures.stats;
    struct flight *f = flight_land(e);
    for (int i = 0; f != NULL && i < f->n_items; i++) {
        struct flight_item item = f->items[i]; /* the sequence's end drops the original */
        if (item.seq != NULL && finish_item(e, f, &item) != 0)
            f = NULL;
    }
    if (f == NULL) {
        fault(e);
        return;
    }
    uint64_t since = f->begin_ms > stats->last_step_ms ? f->begin_ms : stats->last_step_ms; /* it waited for the one before */
    stats->prompt_tokens += (uint64_t)f->n_catch_up;
    stats->steps++;
    stats->last_step_ms = engine_now_ms();
    e->step_ms = mean(e->step_ms, (double)(stats->last_step_ms - since));
    e->figures.first_end_ms = first_end_ms(e, f);
    flight_finish(e);
}

bool engine_is_idle(const struct engine *e)
{
    return e->faulted || (!sched_has_work(e->sched) && e->flights->n == 0);
}

static void update_figures(struct engine *e)
{
    struct engine_stats *stats = &e->figures.stats;
    struct sched_figures f = sched_figures(e->sched);
    stats->n_running = f.n_running;
    stats->n_waiting = f.n_waiting;
    stats->paused = (uint64_t)f.n_paused;
    stats->preemptions = f.preemptions;
    stats->prefix_queries = f.prefix_queries;
    stats->prefix_hits = f.prefix_hits;
    stats->rows_fetched = e->runner.rows_fetched != NULL ? e->runner.rows_fetched(e->runner.ctx) : 0;
    stats->n_pages = kvpool_n_pages(e->pool);
    stats->n_pages_used = kvpool_n_held(e->pool);
    stats->n_pages_cached = kvpool_n_cached(e->pool);
    stats->idle = engine_is_idle(e);
    if (stats->idle)
        e->last_end_ms = 0; /* the time until the next end will be no sign of the rate */
}

/* Whether a step may be begun before the one in flight, if any, has landed. */
static bool may_begin(const struct engine *e)
{
    if (!sched_has_work(e->sched) || !flights_have_room(e->flights))
        return false;
    return e->flights->n == 0 || !sched_must_settle(e->sched);
}

void engine_step(struct engine *e)
{
    if (!e->faulted) {
        bool begun = may_begin(e) && begin_step(e);
        if (!e->faulted && flights_must_land(e->flights, begun))
            land_step(e);
    }
    update_figures(e);
}

void engine_step_bounds(const struct engine *e, size_t *events_out, size_t *bytes_out)
{
    struct detok none;
    detok_init(&none, e->tok, NULL, 0);
    size_t n_seqs = (size_t)e->info.max_seqs, n_live = n_seqs + (size_t)e->info.max_queue, held = 3 * (DETOK_MAX_STOP_BYTES + 16) + 64;
    size_t text = 3 * (e->max_token_bytes + 16) + 2 * held;
    size_t token = sizeof(struct engine_token) + ENGINE_MAX_TOP_LOGPROBS * sizeof(struct engine_logprob) + 64;
    *events_out = 2 * n_seqs + 2 * n_live + 8;
    *bytes_out = n_seqs * (text + token) + n_live * held;
}

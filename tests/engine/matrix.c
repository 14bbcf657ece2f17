/* matrix.c: see matrix.h. */
#include "tests/engine/matrix.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"

/* ---- outcomes ---- */

struct recording {
    struct outcome choice[ENGINE_MAX_CHOICES]; /* kept apart, for choices interleave differently in every run */
    struct outcome prompt;
};

static void put(struct outcome *o, const void *bytes, size_t n)
{
    if (n == 0)
        return;
    if (o->n + n > o->cap) {
        o->cap = (o->n + n) * 2;
        o->bytes = realloc(o->bytes, o->cap);
        assert(o->bytes != NULL);
    }
    memcpy(o->bytes + o->n, bytes, n);
    o->n += n;
}

static void put_tokens(struct outcome *o, const struct engine_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        put(o, &tokens[i].id, sizeof tokens[i].id);
        put(o, &tokens[i].logprob, sizeof tokens[i].logprob);
        for (int k = 0; k < tokens[i].n_top; k++) {
            put(o, &tokens[i].top[k].id, sizeof tokens[i].top[k].id);
            put(o, &tokens[i].top[k].logprob, sizeof tokens[i].top[k].logprob);
        }
    }
}

void outcome_finish(struct outcome *o)
{
    free(o->bytes);
    *o = (struct outcome){0};
}

bool outcome_equal(const struct outcome *a, const struct outcome *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->bytes, b->bytes, a->n) == 0);
}

/* ---- the driver ---- */

void drive_notify(void *arg)
{
    sem_post(arg);
}

struct live {
    uint64_t id;
    int job; /* -1: noise */
    bool paused;
    struct recording *rec;
};

struct drive {
    struct engine *e;
    sem_t *wake;
    const struct job *jobs;
    struct outcome *outcomes;
    struct live live[512];
    int n_live, n_noise;
    uint32_t rolls;
    const struct drive_options *opt;
};

static uint32_t roll(struct drive *d, uint32_t below)
{
    return (uint32_t)(num_rng(d->opt->noise_seed, 7, d->rolls++) * below);
}

static void record(struct drive *d, struct live *l, const struct engine_event *event)
{
    struct outcome *o = &l->rec->choice[event->choice];
    if (event->type == ENGINE_PROMPT) {
        put_tokens(&l->rec->prompt, event->tokens, event->n_tokens);
        return;
    }
    assert(event->type == ENGINE_TEXT || event->type == ENGINE_CHOICE);
    put_tokens(o, event->tokens, event->n_tokens);
    put(o, event->text, event->n_text);
    d->outcomes[l->job].n_texts++;
    if (event->type == ENGINE_CHOICE) {
        put(o, &event->finish, sizeof event->finish);
        put(o, &event->matched_stop, sizeof event->matched_stop);
        put(o, &event->matched_stop_id, sizeof event->matched_stop_id);
        put(o, &event->n_output, sizeof event->n_output);
        d->outcomes[l->job].n_choices_ended++;
    }
}

/* Joins what the choices recorded, in their order. */
static void conclude(struct drive *d, struct live *l, const struct engine_event *event)
{
    if (l->rec != NULL) {
        struct outcome *o = &d->outcomes[l->job];
        put(o, l->rec->prompt.bytes, l->rec->prompt.n);
        outcome_finish(&l->rec->prompt);
        for (int i = 0; i < d->jobs[l->job].req.n_choices; i++) {
            put(o, l->rec->choice[i].bytes, l->rec->choice[i].n);
            outcome_finish(&l->rec->choice[i]);
        }
        o->n_ends++;
        o->finish = event->finish;
        o->err = event->err;
        o->n_output = event->n_output;
        o->n_cached = event->n_cached;
        free(l->rec);
    } else {
        d->n_noise--;
    }
    *l = d->live[--d->n_live];
}

static struct live *find_live(struct drive *d, uint64_t id)
{
    int i = 0;
    while (i < d->n_live && d->live[i].id != id)
        i++;
    assert(i < d->n_live); /* an event after its END */
    return &d->live[i];
}

static void take_events(struct drive *d)
{
    const struct engine_event *events;
    size_t n = engine_poll(d->e, &events);
    for (size_t i = 0; i < n; i++) {
        struct live *l = find_live(d, events[i].id);
        if (events[i].type == ENGINE_END)
            conclude(d, l, &events[i]);
        else if (l->rec != NULL)
            record(d, l, &events[i]);
    }
}

static void wait_events(struct drive *d)
{
    while (sem_wait(d->wake) != 0)
        assert(errno == EINTR);
    take_events(d);
}

static bool submit(struct drive *d, const struct engine_request *req, int job)
{
    struct live *l = &d->live[d->n_live];
    struct err err;
    assert(d->n_live < 512);
    *l = (struct live){.job = job};
    if (engine_submit(d->e, req, 1, &l->id, &err) != 0) {
        if (err.code != ERR_BUSY)
            fprintf(stderr, "submit: %s\n", err.msg);
        assert(err.code == ERR_BUSY);
        assert(err.retry_after_s >= 1);
        return false;
    }
    if (job >= 0) {
        l->rec = calloc(1, sizeof *l->rec);
        assert(l->rec != NULL);
    }
    d->n_live++;
    return true;
}

/* One random disturbance: another request, the end of one, a pause or a resumption. */
static void disturb(struct drive *d)
{
    const struct matrix_text *text = d->opt->noise_text;
    struct engine_request req;
    uint32_t what = roll(d, 8), pick = d->n_live > 0 ? roll(d, (uint32_t)d->n_live) : 0;
    if (what < 3 && d->n_noise < 8) {
        engine_request_defaults(&req);
        size_t n = 1 + roll(d, 200), at = roll(d, 2) * 100;
        req.prompt = text->ids + at;
        req.n_prompt = n;
        req.n_choices = 1 + (int)roll(d, 3);
        req.max_tokens = (int)roll(d, 60);
        req.seed = roll(d, 1000);
        d->n_noise += submit(d, &req, -1);
    } else if (d->n_live > 0 && what < 6) {
        if (d->live[pick].job < 0)
            engine_cancel(d->e, d->live[pick].id);
    } else if (d->n_live > 0) {
        struct live *l = &d->live[pick];
        l->paused = !l->paused;
        (l->paused ? engine_pause : engine_resume)(d->e, l->id);
    }
}

static void resume_all(struct drive *d)
{
    for (int i = 0; i < d->n_live; i++) {
        d->live[i].paused = false;
        engine_resume(d->e, d->live[i].id);
    }
}

void drive(struct engine *e, sem_t *wake, const struct job *jobs, int n_jobs, const struct drive_options *opt, struct outcome *outcomes)
{
    struct drive *d = calloc(1, sizeof *d);
    assert(d != NULL);
    *d = (struct drive){.e = e, .wake = wake, .jobs = jobs, .outcomes = outcomes, .opt = opt};
    memset(outcomes, 0, sizeof *outcomes * (size_t)n_jobs);
    for (int i = 0; i < n_jobs; i++) {
        while (!submit(d, &jobs[i].req, i)) {
            resume_all(d);
            wait_events(d);
        }
        if (opt->noise_seed != 0)
            disturb(d);
        while (opt->alone && d->n_live > 0)
            wait_events(d);
    }
    for (int round = 0; d->n_live > 0; round++) {
        if (opt->noise_seed != 0 && round < 400) {
            disturb(d);
            take_events(d);
        } else {
            resume_all(d);
            wait_events(d);
        }
    }
    for (int i = 0; i < n_jobs; i++)
        assert(outcomes[i].n_ends == 1);
    free(d);
}

/* ---- the jobs ---- */

struct builder {
    struct job *jobs;
    int n, n_new;
    const struct matrix_text *text;
};

static struct job *add(struct builder *b, const char *name, size_t at, size_t n_prompt)
{
    assert(b->n < MATRIX_MAX_JOBS);
    assert(at + n_prompt <= b->text->n);
    struct job *j = &b->jobs[b->n++];
    *j = (struct job){.name = name};
    engine_request_defaults(&j->req);
    j->req.prompt = b->text->ids + at;
    j->req.n_prompt = n_prompt;
    j->req.max_tokens = b->n_new;
    j->req.temperature = 0;
    j->req.seed = (uint64_t)b->n * 1000003u;
    j->req.n_logprobs = 0;
    return j;
}

static struct job *add_sampled(struct builder *b, const char *name, size_t at, size_t n_prompt)
{
    struct job *j = add(b, name, at, n_prompt);
    j->req.temperature = 1;
    return j;
}

static void add_prompts(struct builder *b)
{
    add(b, "greedy, short", 0, 5);
    add(b, "greedy, one token", 3, 1);
    add(b, "greedy, a page less one", 0, 63);
    add(b, "greedy, one page", 0, 64);
    add(b, "greedy, a page and one", 0, 65);
    add(b, "greedy, two pages less one", 0, 127);
    add(b, "greedy, two pages", 0, 128);
    add(b, "greedy, two pages again: full hit", 0, 128);
    add(b, "greedy, two pages and one", 0, 129);
    add(b, "greedy, shared prefix, three pages", 0, 192);
    add(b, "greedy, long", 40, 300);
    add(b, "greedy, long, another scope", 40, 300)->req.cache_scope = 9;
    add(b, "greedy, long output", 20, 30)->req.max_tokens = b->n_new * 2 + 70;
    add(b, "one token out", 10, 64)->req.max_tokens = 1;
    add(b, "nothing out", 10, 100)->req.max_tokens = 0;
}

static void add_samplers(struct builder *b)
{
    struct job *j;
    add_sampled(b, "sampled", 0, 40);
    add_sampled(b, "sampled, same prompt, other seed", 0, 40);
    j = add_sampled(b, "top_p", 5, 64);
    j->req.temperature = 0.7f;
    j->req.top_p = 0.9f;
    add_sampled(b, "top_k", 5, 70)->req.top_k = 40;
    add_sampled(b, "top_k 1", 5, 70)->req.top_k = 1;
    add_sampled(b, "top_p 0", 5, 71)->req.top_p = 0;
    add_sampled(b, "min_p", 6, 20)->req.min_p = 0.05f;
    add_sampled(b, "typical_p", 7, 33)->req.typical_p = 0.8f;
    j = add_sampled(b, "all truncations", 8, 128);
    j->req.top_k = 50;
    j->req.typical_p = 0.95f;
    j->req.top_p = 0.9f;
    j->req.min_p = 0.02f;
    add_sampled(b, "hot", 9, 64)->req.temperature = 2;
    add_sampled(b, "cold", 9, 65)->req.temperature = 0.01f;
    j = add_sampled(b, "n=3", 11, 70);
    j->req.n_choices = 3;
    j = add_sampled(b, "n=3, two pages, logprobs", 0, 128);
    j->req.n_choices = 3;
    j->req.n_logprobs = 4;
    j = add_sampled(b, "n=8, long output", 13, 30);
    j->req.n_choices = 8;
    j->req.max_tokens = 130;
    j->req.ignore_eos = true;
    j = add_sampled(b, "n=4, short", 12, 5);
    j->req.n_choices = 4;
    j->req.top_p = 0.95f;
}

static void add_penalties(struct builder *b)
{
    struct job *j;
    add(b, "repetition penalty", 100, 80)->req.repetition_penalty = 1.3f;
    add(b, "frequency penalty", 100, 81)->req.frequency_penalty = 0.8f;
    add(b, "presence penalty", 100, 82)->req.presence_penalty = 0.9f;
    for (int n = 1; n <= 2; n++) {
        j = add_sampled(b, n == 1 ? "all penalties" : "all penalties, n=2", 100, 64);
        j->req.repetition_penalty = 1.1f;
        j->req.frequency_penalty = 0.2f;
        j->req.presence_penalty = 0.3f;
        j->req.top_k = 30;
        j->req.n_choices = n;
    }
}

static void add_scores(struct builder *b)
{
    struct job *j;
    add(b, "logprobs 5", 30, 64)->req.n_logprobs = 5;
    add_sampled(b, "logprobs 20", 30, 10)->req.n_logprobs = 20;
    j = add(b, "echo and logprobs", 0, 65);
    j->req.n_logprobs = j->req.n_prompt_logprobs = 5;
    j = add(b, "echo alone", 0, 128);
    j->req.n_prompt_logprobs = 1;
    j->req.max_tokens = 0;
    j = add(b, "echo of one token", 4, 1);
    j->req.n_prompt_logprobs = 2;
    j = add_sampled(b, "echo, n=2", 0, 130);
    j->req.n_prompt_logprobs = j->req.n_logprobs = 3;
    j->req.n_choices = 2;
}

/* The i-th token of a greedy job's output, and text that begins inside one token and ends inside a later one. */
struct aim {
    int32_t ids[64];
    int n_ids;
    char text[512];
    size_t n_text;
};

static struct aim take_aim(struct engine *e, sem_t *wake, const struct engine_request *req)
{
    struct aim aim = {0};
    uint64_t id;
    struct err err;
    int rc = engine_submit(e, req, 1, &id, &err);
    assert(rc == 0);
    for (bool ended = false; !ended;) {
        const struct engine_event *events;
        while (sem_wait(wake) != 0)
            assert(errno == EINTR);
        size_t n = engine_poll(e, &events);
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < events[i].n_tokens && aim.n_ids < 64; k++)
                aim.ids[aim.n_ids++] = events[i].tokens[k].id;
            if (events[i].n_text > 0 && aim.n_text + events[i].n_text < sizeof aim.text) {
                memcpy(aim.text + aim.n_text, events[i].text, events[i].n_text);
                aim.n_text += events[i].n_text;
            }
            ended = ended || events[i].type == ENGINE_END;
        }
    }
    return aim;
}

static void set_stop(struct job *j, int i, const char *text, size_t n)
{
    assert(n >= 1 && n <= sizeof j->stop_bytes[i]);
    memcpy(j->stop_bytes[i], text, n);
    j->stops[i] = (struct engine_text){.p = j->stop_bytes[i], .n = n};
    j->req.stops = j->stops;
    j->req.n_stops = i + 1;
}

static void add_aimed(struct builder *b, const struct aim *aim, size_t at, size_t n_prompt)
{
    struct job *j;
    size_t middle = aim->n_text / 2;
    j = add(b, "stop string over tokens", at, n_prompt);
    set_stop(j, 0, "\x01 never \x02", 9);
    set_stop(j, 1, aim->text + middle, aim->n_text - middle < 7 ? aim->n_text - middle : 7);
    j = add(b, "stop string and min_tokens", at, n_prompt);
    set_stop(j, 0, aim->text + middle / 2, 2);
    j->req.min_tokens = b->n_new / 2;
    j = add_sampled(b, "stop string, sampled, n=2", at, n_prompt);
    set_stop(j, 0, aim->text, 1);
    j->req.n_choices = 2;
    j = add(b, "stop id", at, n_prompt);
    j->stop_ids[0] = aim->ids[aim->n_ids / 2];
    j->req.stop_ids = j->stop_ids;
    j->req.n_stop_ids = 1;
    j = add(b, "stop id and min_tokens", at, n_prompt);
    j->stop_ids[0] = aim->ids[0];
    j->req.stop_ids = j->stop_ids;
    j->req.n_stop_ids = 1;
    j->req.min_tokens = 4;
    j = add(b, "bias bans the first token", at, n_prompt);
    j->bias[0] = (struct engine_bias){.id = aim->ids[0], .bias = -INFINITY};
    j->bias[1] = (struct engine_bias){.id = aim->ids[aim->n_ids / 2], .bias = 3.5f};
    j->req.bias = j->bias;
    j->req.n_bias = aim->ids[0] != aim->ids[aim->n_ids / 2] ? 2 : 1;
    j = add_sampled(b, "bias, sampled", at, n_prompt);
    j->bias[0] = (struct engine_bias){.id = aim->ids[0], .bias = -2};
    j->req.bias = j->bias;
    j->req.n_bias = 1;
    add_sampled(b, "ignore_eos", at, n_prompt)->req.ignore_eos = true;
    add_sampled(b, "min_tokens", at, n_prompt + 1)->req.min_tokens = b->n_new * 3 / 4;
}

int matrix_build(struct job *jobs, const struct matrix_text *text, int n_new, struct engine *e, sem_t *wake)
{
    assert(text->n >= 700);
    struct builder b = {.jobs = jobs, .text = text, .n_new = n_new};
    add_prompts(&b);
    add_samplers(&b);
    add_penalties(&b);
    add_scores(&b);
    struct engine_request probe = jobs[3].req; /* a page; begins where the output is long enough to aim at */
    struct aim aim = take_aim(e, wake, &probe);
    while (aim.n_ids < (n_new < 64 ? n_new : 64) || aim.n_text < 16) {
        probe.prompt++;
        assert(probe.prompt + probe.n_prompt < text->ids + text->n);
        aim = take_aim(e, wake, &probe);
    }
    add_aimed(&b, &aim, (size_t)(probe.prompt - text->ids), probe.n_prompt);
    assert(b.n >= 40);
    return b.n;
}

int matrix_keep(struct job *jobs, int n_jobs, const char *const *names, int n_names)
{
    int n = 0;
    for (int i = 0; i < n_jobs; i++) {
        bool keep = false;
        for (int k = 0; k < n_names; k++)
            keep = keep || strcmp(jobs[i].name, names[k]) == 0;
        if (!keep)
            continue;
        jobs[n] = jobs[i];
        jobs[n].req.stops = jobs[n].stops; /* they moved along */
        for (int k = 0; k < jobs[n].req.n_stops; k++)
            jobs[n].stops[k].p = jobs[n].stop_bytes[k];
        jobs[n].req.bias = jobs[n].bias;
        jobs[n].req.stop_ids = jobs[n].stop_ids;
        n++;
    }
    assert(n == n_names);
    return n;
}

/* What the engine promises to whoever submits: one end for each request, whatever happens; refusals with numbers; limits kept; nothing leaked. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine_internal.h"
#include "engine/numerics/numerics.h"
#include "tests/engine/matrix.h"
#include "tests/engine/toy_runner.h"

#define N_CTX 512

/* ---- counting allocations of the engine thread ---- */

static _Thread_local unsigned long n_allocs;
static unsigned long allocs_at_first_step, allocs_at_last_step;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCS true
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t m);
extern void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n)
{
    n_allocs++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
    n_allocs++;
    return __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
    n_allocs++;
    return __libc_realloc(p, n);
}
#else
#define COUNTS_ALLOCS false
#endif

/* ---- an engine over the toy ---- */

struct rig {
    struct engine *e;
    struct toy *toy;
    struct runner inner;
    sem_t wake;
    long n_steps;
    sem_t *gate; /* each step waits for it, where given */
};

struct setting {
    int n_pages, max_seqs, max_queue, chunk;
    bool cache;
    long fail_at, fail_at_group, fail_at_land;
    sem_t *gate;
};

static struct tokenizer *tok;
static int32_t text_ids[1000];

/* How steps go through the runner. */
static const struct mode {
    const char *name;
    bool draws, lockstep;
} modes[] = {{"the host draws", false, false}, {"the device draws, in lockstep", true, true}, {"the device draws a step ahead", true, false}};
static const struct mode *mode;

/* Between engine and toy: counts allocations and lets a test hold the engine between two steps. */
static void rig_pass(struct rig *r)
{
    if (r->n_steps++ == 0)
        allocs_at_first_step = n_allocs;
    allocs_at_last_step = n_allocs;
    if (r->gate != NULL)
        while (sem_wait(r->gate) != 0)
            ;
}

static int rig_forward(void *ctx, const struct batch *batch, struct scores *scores_out, struct err *err)
{
    struct rig *r = ctx;
    rig_pass(r);
    return r->inner.forward(r->inner.ctx, batch, scores_out, err);
}

static int rig_launch(void *ctx, const struct batch *batch, const struct draw *draws, struct err *err)
{
    struct rig *r = ctx;
    rig_pass(r);
    return r->inner.launch(r->inner.ctx, batch, draws, err);
}

static int rig_land(void *ctx, struct drawn *drawn_out, struct scores *scores_out, struct err *err)
{
    struct rig *r = ctx;
    return r->inner.land(r->inner.ctx, drawn_out, scores_out, err);
}

static int rig_next_scores(void *ctx, const struct batch *batch, struct scores *scores, struct err *err)
{
    return ((struct rig *)ctx)->inner.next_scores(((struct rig *)ctx)->toy, batch, scores, err);
}

static void rig_copy_page(void *ctx, int dst, int src, int n_pos)
{
    struct rig *r = ctx;
    r->inner.copy_page(r->inner.ctx, dst, src, n_pos);
}

static void rig_open(struct rig *r, struct setting s)
{
    struct toy_options toy = {
        .n_ctx = N_CTX, .n_pages = s.n_pages, .max_rows = s.max_seqs + s.chunk, .max_out = s.max_seqs + 2,
        .max_scores = s.fail_at_group != 0 ? 1 : 0, .fail_at = s.fail_at, .fail_at_group = s.fail_at_group,
        .max_draws = mode->draws ? s.max_seqs + 1 : 0, .undecided = 11, .fail_at_launch = s.fail_at, .fail_at_land = s.fail_at_land};
    struct engine_options opt = {.max_seqs = s.max_seqs,
                                 .max_queue = s.max_queue,
                                 .chunk = s.chunk,
                                 .prefix_cache = s.cache,
                                 .notify = drive_notify,
                                 .notify_arg = &r->wake};
    struct err err;
    *r = (struct rig){.toy = toy_create(&toy), .gate = s.gate};
    r->inner = toy_runner(r->toy);
    sem_init(&r->wake, 0, 0);
    struct engine_parts parts = {.runner = r->inner, .tok = tok, .lockstep = mode->lockstep};
    parts.runner.ctx = r;
    parts.runner.forward = rig_forward;
    parts.runner.next_scores = rig_next_scores;
    parts.runner.copy_page = rig_copy_page;
    if (mode->draws) {
        parts.runner.launch = rig_launch;
        parts.runner.land = rig_land;
    }
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    toy_destroy(r->toy);
    sem_destroy(&r->wake);
}

static const struct setting usual = {.n_pages = 64, .max_seqs = 4, .max_queue = 16, .chunk = 32, .cache = true};

/* What one choice said, collected. */
struct story {
    int32_t ids[N_CTX];
    float logprobs[N_CTX];
    int n_ids;
    char text[8192];
    size_t n_text;
    enum engine_finish finish;
    int matched_stop;
    int32_t matched_stop_id;
    struct engine_token prompt[N_CTX];
    int n_prompt_tokens;
    bool ended;
    struct engine_event end; /* of the request; its pointers are void */
};

static void story_take(struct story *s, const struct engine_event *event)
{
    assert_false(s->ended);
    if (event->type == ENGINE_END) {
        s->ended = true;
        s->end = *event;
        return;
    }
    if (event->type == ENGINE_PROMPT) {
        assert_int_equal(s->n_ids, 0);
        assert_int_equal(s->n_prompt_tokens, 0);
        for (size_t i = 0; i < event->n_tokens; i++)
            s->prompt[s->n_prompt_tokens++] = event->tokens[i];
        return;
    }
    assert_int_equal(s->finish, ENGINE_FINISH_NONE);
    for (size_t i = 0; i < event->n_tokens; i++) {
        s->logprobs[s->n_ids] = event->tokens[i].logprob;
        s->ids[s->n_ids++] = event->tokens[i].id;
    }
    if (event->n_text > 0)
        memcpy(s->text + s->n_text, event->text, event->n_text);
    s->n_text += event->n_text;
    if (event->type == ENGINE_CHOICE) {
        s->finish = event->finish;
        s->matched_stop = event->matched_stop;
        s->matched_stop_id = event->matched_stop_id;
    }
}

static size_t rig_wait(struct rig *r, const struct engine_event **events)
{
    while (sem_wait(&r->wake) != 0)
        assert_int_equal(errno, EINTR);
    return engine_poll(r->e, events);
}

/* One request of one choice, from submission to its end. */
static struct story *tell(struct rig *r, const struct engine_request *q)
{
    static struct story s;
    uint64_t id;
    struct err err;
    memset(&s, 0, sizeof s);
    assert_int_equal(engine_submit(r->e, q, 1, &id, &err), 0);
    while (!s.ended) {
        const struct engine_event *events;
        for (size_t i = 0, n = rig_wait(r, &events); i < n; i++)
            story_take(&s, &events[i]);
    }
    return &s;
}

static struct engine_request ask(size_t at, size_t n_prompt, int max_tokens)
{
    struct engine_request q;
    engine_request_defaults(&q);
    q.prompt = text_ids + at;
    q.n_prompt = n_prompt;
    q.max_tokens = max_tokens;
    q.temperature = 0;
    return q;
}

static void wait_ends(struct rig *r, int n_ends)
{
    const struct engine_event *events;
    while (n_ends > 0)
        for (size_t i = 0, n = rig_wait(r, &events); i < n; i++)
            n_ends -= events[i].type == ENGINE_END;
}

static struct engine_stats idle_stats(struct rig *r)
{
    struct engine_stats stats;
    do {
        engine_stats(r->e, &stats);
        sched_yield();
    } while (!stats.idle);
    return stats;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++)
        text_ids[i] = 3 + (int32_t)(num_rng(11, 0, (uint32_t)i) * (TOY_VOCAB - 3));
    tok = toy_tokenizer();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_destroy(tok);
    return 0;
}

/* ---- the door ---- */

static void refused(struct rig *r, const struct engine_request *q, enum err_code code, const char *param, const char *words)
{
    uint64_t id = 77;
    struct err err = {0};
    assert_int_equal(engine_submit(r->e, q, 1, &id, &err), -1);
    assert_int_equal(err.code, code);
    assert_string_equal(err.param, param);
    assert_non_null(strstr(err.msg, words));
    assert_int_equal(id, 77);
}

static void what_can_never_fit_is_refused_with_the_numbers(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 512, 1);
    refused(&r, &q, ERR_CONTEXT, "prompt", "prompt is 512 tokens; the context holds 512");
    q = ask(0, 500, 13);
    refused(&r, &q, ERR_CONTEXT, "max_tokens", "prompt is 500 tokens and max_tokens is 13, together 513; the context holds 512");
    q = ask(0, 500, 12);
    q.ignore_eos = true;
    assert_int_equal(tell(&r, &q)->n_ids, 12);
    rig_close(&r);
    struct setting small = usual;
    small.n_pages = 3; /* the pool bounds the context */
    rig_open(&r, small);
    assert_int_equal(engine_info(r.e)->n_ctx, 192);
    q = ask(0, 192, 1);
    refused(&r, &q, ERR_CONTEXT, "prompt", "the context holds 192");
    q = ask(0, 191, -1);
    q.ignore_eos = true;
    assert_int_equal(tell(&r, &q)->n_ids, 1);
    rig_close(&r);
}

static void nonsense_is_refused_by_name(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 0, 4);
    refused(&r, &q, ERR_INVALID, "prompt", "no tokens");
    int32_t wrong[2] = {5, TOY_VOCAB};
    q = ask(0, 2, 4);
    q.prompt = wrong;
    refused(&r, &q, ERR_INVALID, "prompt", "token id 600");
    q = ask(0, 5, 4);
    q.n_choices = 65;
    refused(&r, &q, ERR_INVALID, "n", "n is 65");
    q.n_choices = 21;
    refused(&r, &q, ERR_INVALID, "n", "21 sequences; the server takes 20");
    q = ask(0, 5, 4);
    q.min_tokens = 5;
    refused(&r, &q, ERR_INVALID, "min_tokens", "min_tokens is 5");
    q = ask(0, 12, -1);
    q.min_tokens = N_CTX - 11;
    refused(&r, &q, ERR_CONTEXT, "min_tokens", "min_tokens is 501, together 513; the context holds 512");
    q = ask(0, 5, 4);
    q.temperature = NAN;
    refused(&r, &q, ERR_INVALID, "temperature", "temperature");
    q = ask(0, 5, 4);
    q.repetition_penalty = 0;
    refused(&r, &q, ERR_INVALID, "repetition_penalty", "above 0");
    q = ask(0, 5, 4);
    q.n_logprobs = 21;
    refused(&r, &q, ERR_INVALID, "logprobs", "limit is 20");
    struct engine_text stop = {.p = "", .n = 0};
    q = ask(0, 5, 4);
    q.stops = &stop;
    q.n_stops = 1;
    refused(&r, &q, ERR_INVALID, "stop", "stop[0] is 0 bytes");
    struct engine_bias bias = {.id = -1};
    q = ask(0, 5, 4);
    q.bias = &bias;
    q.n_bias = 1;
    refused(&r, &q, ERR_INVALID, "logit_bias", "token id -1");
    rig_close(&r);
}

static void a_full_queue_is_busy_and_takes_all_or_nothing(void **state)
{
    (void)state;
    struct rig r;
    sem_t gate;
    sem_init(&gate, 0, 0);
    struct setting s = usual;
    s.max_seqs = 2;
    s.max_queue = 3;
    s.gate = &gate;
    rig_open(&r, s);
    struct engine_request three[3] = {ask(0, 10, 20), ask(5, 10, 20), ask(9, 10, 20)};
    three[2].n_choices = 2;
    uint64_t ids[3];
    struct err err;
    assert_int_equal(engine_submit(r.e, three, 3, ids, &err), 0); /* 4 of 5 places */
    uint64_t before = ids[2];
    assert_int_equal(engine_submit(r.e, three, 2, ids, &err), -1);
    assert_int_equal(err.code, ERR_BUSY);
    assert_in_range(err.retry_after_s, 1, 600);
    assert_int_equal(ids[2], before);
    assert_int_equal(engine_submit(r.e, three, 1, ids, &err), 0);
    assert_int_equal(ids[0], before + 1); /* nothing of the refused two was taken */
    assert_int_equal(engine_submit(r.e, three, 1, ids, &err), -1);
    for (int i = 0; i < 1000; i++)
        sem_post(&gate);
    wait_ends(&r, 4);
    idle_stats(&r);
    assert_int_equal(engine_submit(r.e, three, 3, ids, &err), 0); /* the places are free again */
    rig_close(&r);
    sem_destroy(&gate);
}

static void after_drain_nothing_new_is_taken_and_the_rest_finishes(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 10, 30), other = ask(3, 3, 3);
    q.ignore_eos = true;
    uint64_t id;
    struct err err;
    assert_int_equal(engine_submit(r.e, &q, 1, &id, &err), 0);
    engine_drain(r.e);
    refused(&r, &other, ERR_STOPPING, "", "stopping");
    struct story *s = calloc(1, sizeof *s);
    while (!s->ended) {
        const struct engine_event *events;
        for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++)
            story_take(s, &events[i]);
    }
    assert_int_equal(s->n_ids, 30);
    free(s);
    rig_close(&r);
}

/* ---- ends ---- */

static void limits_end_a_choice_by_length(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 64, 0);
    struct story *s = tell(&r, &q);
    assert_int_equal(s->n_ids, 0);
    assert_int_equal(s->finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(s->end.n_prompt, 64);
    q = ask(0, 64, 1);
    q.ignore_eos = true;
    assert_int_equal(tell(&r, &q)->n_ids, 1);
    q.max_tokens = -1;
    s = tell(&r, &q);
    assert_int_equal(s->n_ids, N_CTX - 64);
    assert_int_equal(s->finish, ENGINE_FINISH_LENGTH);
    assert_int_equal(s->end.n_output, N_CTX - 64);
    rig_close(&r);
}

static bool is_end(int32_t id)
{
    return id == TOY_EOS || id == TOY_EOT;
}

static void end_tokens_end_it_unless_banned(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    int n_stopped = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct engine_request q = ask(0, 20, 400);
        q.temperature = 1;
        q.seed = seed;
        struct story *s = tell(&r, &q);
        int n_natural = s->n_ids;
        for (int i = 0; i + 1 < s->n_ids; i++)
            assert_false(is_end(s->ids[i]));
        if (s->finish == ENGINE_FINISH_STOP) {
            assert_true(is_end(s->ids[s->n_ids - 1]));
            assert_int_equal(s->matched_stop_id, s->ids[s->n_ids - 1]);
            n_stopped++;
        }
        q.min_tokens = n_natural < 200 ? n_natural * 2 : 400;
        s = tell(&r, &q);
        assert_true(s->n_ids >= q.min_tokens);
        q.min_tokens = 0;
        q.ignore_eos = true;
        s = tell(&r, &q);
        assert_int_equal(s->n_ids, 400);
        for (int i = 0; i < s->n_ids; i++)
            assert_false(is_end(s->ids[i]));
    }
    assert_true(n_stopped > 5);
    rig_close(&r);
}

static void a_stop_string_cuts_the_text_before_it_and_keeps_the_tokens(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(30, 20, 60);
    q.ignore_eos = true;
    struct story whole = *tell(&r, &q);
    char wanted[4];
    memcpy(wanted, whole.text + 20, 3);
    wanted[3] = 0;
    struct engine_text stops[2] = {{.p = "\x01\x02nowhere", .n = 9}, {.p = wanted, .n = 3}};
    q.stops = stops;
    q.n_stops = 2;
    struct story *s = tell(&r, &q);
    assert_int_equal(s->finish, ENGINE_FINISH_STOP);
    assert_int_equal(s->matched_stop, 1);
    assert_int_equal(s->matched_stop_id, -1);
    assert_true(s->n_text <= 20);
    assert_memory_equal(s->text, whole.text, s->n_text);
    assert_memory_equal(whole.text + s->n_text, wanted, 3);
    assert_true(s->n_ids < whole.n_ids);
    assert_memory_equal(s->ids, whole.ids, sizeof *s->ids * (size_t)s->n_ids);
    rig_close(&r);
}

static void a_stop_id_ends_it_without_its_text(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(30, 20, 60);
    q.ignore_eos = true;
    struct story whole = *tell(&r, &q);
    int at = 0;
    for (int i = 1; i < 30 && at == 0; i++) { /* a token that was not drawn before */
        bool fresh = true;
        for (int k = 0; k < i; k++)
            fresh = fresh && whole.ids[k] != whole.ids[i];
        at = fresh && i > 10 ? i : 0;
    }
    assert_true(at > 0);
    q.stop_ids = &whole.ids[at];
    q.n_stop_ids = 1;
    struct story *s = tell(&r, &q);
    assert_int_equal(s->n_ids, at + 1);
    assert_int_equal(s->finish, ENGINE_FINISH_STOP);
    assert_int_equal(s->matched_stop_id, whole.ids[at]);
    assert_true(s->n_text < whole.n_text);
    rig_close(&r);
}

/* ---- scores ---- */

static void scoring_what_was_generated_gives_the_same_log_probabilities(void **state)
{
    (void)state;
    struct rig r;
    struct setting s = usual;
    s.chunk = 7;
    rig_open(&r, s);
    struct engine_request q = ask(0, 70, 40);
    q.temperature = 1;
    q.seed = 5;
    q.n_logprobs = 0;
    q.ignore_eos = true;
    struct story drawn = *tell(&r, &q);
    int32_t all[110];
    memcpy(all, text_ids, 70 * sizeof *all);
    memcpy(all + 70, drawn.ids, 40 * sizeof *all);
    q = ask(0, 110, 0);
    q.prompt = all;
    q.n_prompt_logprobs = 2;
    struct story *scored = tell(&r, &q);
    assert_int_equal(scored->n_prompt_tokens, 110);
    assert_true(isnan(scored->prompt[0].logprob));
    assert_int_equal(scored->prompt[0].n_top, 0);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(scored->prompt[70 + i].id, drawn.ids[i]);
        assert_memory_equal(&scored->prompt[70 + i].logprob, &drawn.logprobs[i], sizeof(float));
        assert_int_equal(scored->prompt[70 + i].n_top, 2);
    }
    rig_close(&r);
}

static void cached_tokens_are_told_truly(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 129, 1);
    assert_int_equal(tell(&r, &q)->end.n_cached, 0);
    assert_int_equal(tell(&r, &q)->end.n_cached, 128);
    q = ask(0, 128, 1); /* the last prompt token is computed anew, in a page of its own */
    assert_int_equal(tell(&r, &q)->end.n_cached, 64);
    q.cache_scope = 3;
    assert_int_equal(tell(&r, &q)->end.n_cached, 0);
    q.n_prompt_logprobs = 0; /* logits cannot come from the cache */
    assert_int_equal(tell(&r, &q)->end.n_cached, 0);
    rig_close(&r);
}

/* ---- cancel, pause, fault, close ---- */

static void cancel_frees_pages_within_one_step(void **state)
{
    (void)state;
    struct rig r;
    sem_t gate;
    sem_init(&gate, 0, 0);
    struct setting s = usual;
    s.max_seqs = 2;
    s.gate = &gate;
    rig_open(&r, s);
    /* One decodes, one is in its prompt, one waits. */
    struct engine_request q[3] = {ask(0, 5, 400), ask(0, 450, 20), ask(7, 5, 20)};
    q[0].ignore_eos = true;
    uint64_t ids[3];
    struct err err;
    assert_int_equal(engine_submit(r.e, q, 3, ids, &err), 0);
    for (int i = 0; i < 5; i++)
        sem_post(&gate);
    const struct engine_event *events;
    for (bool drawn = false; !drawn;) /* the first has begun to speak */
        for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++)
            drawn = drawn || events[i].n_tokens > 0;
    for (int i = 0; i < 3; i++)
        engine_cancel(r.e, ids[i]);
    sem_post(&gate); /* the step that was under way, where all that was granted is used up */
    int n_ends = 0;
    while (n_ends < 3)
        for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++)
            if (events[i].type == ENGINE_END) {
                assert_int_equal(events[i].finish, ENGINE_FINISH_CANCELLED);
                n_ends++;
            }
    struct engine_stats stats = idle_stats(&r);
    assert_int_equal(stats.n_pages_used, 0);
    assert_int_equal(stats.n_running + stats.n_waiting, 0);
    assert_true(stats.steps <= 6);
    engine_cancel(r.e, ids[0]); /* unknown by now: ignored */
    engine_cancel(r.e, 999);
    rig_close(&r);
    sem_destroy(&gate);
}

static void a_paused_request_gets_no_rows_until_resumed(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q = ask(0, 5, 300), other = ask(3, 5, 50);
    q.ignore_eos = other.ignore_eos = true;
    struct story alone = *tell(&r, &q);
    rig_close(&r);
    sem_t gate;
    sem_init(&gate, 0, 0);
    struct setting s = usual;
    s.gate = &gate;
    rig_open(&r, s);
    uint64_t id;
    struct err err;
    assert_int_equal(engine_submit(r.e, &q, 1, &id, &err), 0);
    for (int i = 0; i < 10; i++)
        sem_post(&gate);
    engine_pause(r.e, id); /* after eleven steps at most it stands */
    for (int i = 0; i < 1000; i++)
        sem_post(&gate);
    struct story *paused = calloc(1, sizeof *paused), *second = calloc(1, sizeof *second);
    uint64_t other_id;
    assert_int_equal(engine_submit(r.e, &other, 1, &other_id, &err), 0);
    const struct engine_event *events;
    while (!second->ended)
        for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++)
            story_take(events[i].id == id ? paused : second, &events[i]);
    assert_false(paused->ended);
    struct engine_stats stats = idle_stats(&r); /* nothing to compute though a request lives */
    assert_int_equal(stats.paused, 1);
    engine_resume(r.e, id);
    while (!paused->ended)
        for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++)
            story_take(paused, &events[i]);
    assert_int_equal(paused->n_ids, alone.n_ids);
    assert_memory_equal(paused->ids, alone.ids, sizeof *alone.ids * (size_t)alone.n_ids);
    free(paused);
    free(second);
    rig_close(&r);
    sem_destroy(&gate);
}

static void a_fault_ends_every_request_once(void **state)
{
    (void)state;
    for (long at = 1; at < 40; at += 3) { /* in a step, then between the groups of its scores or at its end */
        struct rig r;
        struct setting s = usual;
        s.max_seqs = 3;
        s.fail_at = at % 2 ? at : 0;
        s.fail_at_group = at % 2 || mode->draws ? 0 : at;
        s.fail_at_land = at % 2 ? 0 : at;
        rig_open(&r, s);
        struct engine_request q[6];
        uint64_t ids[6];
        int n_choices = 0, n_choice_ends = 0, n_ends = 0, n_errors = 0;
        struct err err;
        for (int i = 0; i < 6; i++) {
            q[i] = ask((size_t)i, 40, 30);
            q[i].n_choices = 1 + i % 2;
            q[i].ignore_eos = true;
            n_choices += q[i].n_choices;
        }
        assert_int_equal(engine_submit(r.e, q, 6, ids, &err), 0);
        while (n_ends < 6) {
            const struct engine_event *events;
            for (size_t i = 0, n = rig_wait(&r, &events); i < n; i++) {
                n_choice_ends += events[i].type == ENGINE_CHOICE;
                if (events[i].type != ENGINE_END)
                    continue;
                n_ends++;
                if (events[i].finish == ENGINE_FINISH_ERROR) {
                    n_errors++;
                    assert_int_equal(events[i].err.code, ERR_DEVICE);
                    assert_non_null(strstr(events[i].err.msg, "the toy broke"));
                }
            }
        }
        assert_int_equal(n_choice_ends, n_choices);
        assert_true(n_errors > 0);
        struct engine_stats stats = idle_stats(&r);
        assert_true(stats.faulted);
        assert_int_equal(stats.n_pages_used, 0);
        refused(&r, &q[0], ERR_DEVICE, "", "failed");
        rig_close(&r);
    }
}

static void close_drops_what_runs(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, usual);
    struct engine_request q[4] = {ask(0, 100, 300), ask(1, 100, 300), ask(2, 100, 300), ask(3, 100, 300)};
    for (int i = 0; i < 4; i++)
        q[i].n_choices = 3;
    uint64_t ids[4];
    struct err err;
    assert_int_equal(engine_submit(r.e, q, 4, ids, &err), 0);
    const struct engine_event *events;
    rig_wait(&r, &events);
    rig_close(&r);
    engine_close(NULL);
}

static void two_engines_live_side_by_side(void **state)
{
    (void)state;
    struct rig a, b;
    rig_open(&a, usual);
    rig_open(&b, usual);
    struct engine_request q = ask(0, 90, 50);
    struct story first = *tell(&a, &q), *second = tell(&b, &q);
    assert_int_equal(first.n_ids, second->n_ids);
    assert_memory_equal(first.ids, second->ids, sizeof *first.ids * (size_t)first.n_ids);
    rig_close(&a);
    rig_close(&b);
}

static void the_engine_thread_does_not_allocate(void **state)
{
    (void)state;
    if (!COUNTS_ALLOCS)
        skip();
    struct rig r;
    struct setting s = usual;
    s.n_pages = 12; /* preemption too */
    rig_open(&r, s);
    struct engine_request q[6];
    uint64_t ids[6];
    struct err err;
    for (int i = 0; i < 6; i++) {
        q[i] = ask((size_t)i, 60, 200);
        q[i].ignore_eos = true; /* or some end before others begin, and nobody is preempted */
        q[i].n_choices = 1 + i % 2;
        q[i].n_logprobs = i;
        q[i].temperature = (float)(i % 3);
        q[i].top_p = 0.9f;
        q[i].frequency_penalty = i % 2 ? 0.5f : 0;
        q[i].n_prompt_logprobs = i - 1;
    }
    assert_int_equal(engine_submit(r.e, q, 6, ids, &err), 0);
    wait_ends(&r, 6);
    assert_true(idle_stats(&r).preemptions > 0);
    assert_true(r.n_steps > 100);
    assert_true(n_allocs > 0); /* the counter counts: this thread has allocated */
    assert_int_equal(allocs_at_last_step, allocs_at_first_step);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_can_never_fit_is_refused_with_the_numbers),
        cmocka_unit_test(nonsense_is_refused_by_name),
        cmocka_unit_test(a_full_queue_is_busy_and_takes_all_or_nothing),
        cmocka_unit_test(after_drain_nothing_new_is_taken_and_the_rest_finishes),
        cmocka_unit_test(limits_end_a_choice_by_length),
        cmocka_unit_test(end_tokens_end_it_unless_banned),
        cmocka_unit_test(a_stop_string_cuts_the_text_before_it_and_keeps_the_tokens),
        cmocka_unit_test(a_stop_id_ends_it_without_its_text),
        cmocka_unit_test(scoring_what_was_generated_gives_the_same_log_probabilities),
        cmocka_unit_test(cached_tokens_are_told_truly),
        cmocka_unit_test(cancel_frees_pages_within_one_step),
        cmocka_unit_test(a_paused_request_gets_no_rows_until_resumed),
        cmocka_unit_test(a_fault_ends_every_request_once),
        cmocka_unit_test(close_drops_what_runs),
        cmocka_unit_test(two_engines_live_side_by_side),
        cmocka_unit_test(the_engine_thread_does_not_allocate),
    };
    int n_failed = 0;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        mode = &modes[i];
        n_failed += cmocka_run_group_tests_name(mode->name, tests, setup, teardown);
    }
    return n_failed;
}

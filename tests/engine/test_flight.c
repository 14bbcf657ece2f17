/* Steps in flight, over the toy that draws as late as it may. The engine is turned by hand, so a schedule is the same in every run: which turn takes
 * which command is in the test's hand, and everything can be looked at between two turns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine_internal.h"
#include "engine/flight.h"
#include "engine/numerics/numerics.h"
#include "tests/engine/toy_runner.h"

#define N_CTX 384
#define N_TEXT 600
#define MAX_JOBS 10
#define MAX_CHOICES 4
#define N_SCHEDULES 240
#define QUIET_TURN 160 /* from there on nobody disturbs */

static struct tokenizer *tok;
static int32_t text[N_TEXT];

enum mode { HOST_DRAWS, LOCKSTEP, AHEAD, N_MODES };

struct setting {
    enum mode mode;
    int n_pages, max_seqs, chunk, max_out, max_draws, undecided;
    bool cache;
    long fail_at_launch, fail_at_land;
};

static const struct setting usual = {.mode = AHEAD, .n_pages = 60, .max_seqs = 4, .chunk = 32, .max_out = 8, .max_draws = 8, .cache = true};

struct rig {
    struct engine *e;
    struct toy *toy;
};

static void rig_open(struct rig *r, const struct setting *s)
{
    struct toy_options toy = {.n_ctx = N_CTX, .n_pages = s->n_pages, .max_rows = s->max_seqs + s->chunk, .max_out = s->max_out};
    if (s->mode != HOST_DRAWS) {
        toy.max_draws = s->max_draws;
        toy.undecided = s->undecided;
        toy.fail_at_launch = s->fail_at_launch;
        toy.fail_at_land = s->fail_at_land;
    }
    struct engine_options opt = {.max_seqs = s->max_seqs, .max_queue = 64, .chunk = s->chunk, .prefix_cache = s->cache};
    struct err err;
    r->toy = toy_create(&toy);
    struct engine_parts parts = {.runner = toy_runner(r->toy), .tok = tok, .lockstep = s->mode == LOCKSTEP, .by_hand = true};
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    toy_destroy(r->toy); /* asserts that everything has landed */
}

/* ---- what a request yields ---- */

struct tape {
    char tokens[16384], text[2048]; /* ids, log-probabilities; characters */
    size_t n_tokens, n_text;
    int n_drawn;
    enum engine_finish finish;
    int matched_stop;
    int32_t matched_stop_id;
};

struct story {
    uint64_t id;
    bool is_live, has_ended;
    int n_cached, n_events;
    enum engine_finish finish;
    struct tape prompt, choice[MAX_CHOICES];
};

static void put_tokens(struct tape *t, const struct engine_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_true(t->n_tokens + 8 * (size_t)(1 + tokens[i].n_top) <= sizeof t->tokens);
        memcpy(t->tokens + t->n_tokens, &tokens[i].id, 4);
        memcpy(t->tokens + t->n_tokens + 4, &tokens[i].logprob, 4);
        t->n_tokens += 8;
        for (int k = 0; k < tokens[i].n_top; k++, t->n_tokens += 8) {
            memcpy(t->tokens + t->n_tokens, &tokens[i].top[k].id, 4);
            memcpy(t->tokens + t->n_tokens + 4, &tokens[i].top[k].logprob, 4);
        }
    }
}

static void take_event(struct story *s, const struct engine_event *event)
{
    assert_true(s->is_live);
    s->n_events++;
    if (event->type == ENGINE_END) {
        s->is_live = false;
        s->has_ended = true;
        s->finish = event->finish;
        s->n_cached = event->n_cached;
        return;
    }
    if (event->type == ENGINE_PROMPT) {
        assert_int_equal(s->n_events, 1);
        put_tokens(&s->prompt, event->tokens, event->n_tokens);
        return;
    }
    struct tape *t = &s->choice[event->choice];
    assert_int_equal(t->finish, ENGINE_FINISH_NONE);
    put_tokens(t, event->tokens, event->n_tokens);
    t->n_drawn += (int)event->n_tokens;
    assert_true(t->n_text + event->n_text <= sizeof t->text);
    if (event->n_text > 0)
        memcpy(t->text + t->n_text, event->text, event->n_text);
    t->n_text += event->n_text;
    if (event->type != ENGINE_CHOICE)
        return;
    assert_int_equal(event->n_output, t->n_drawn);
    t->finish = event->finish;
    t->matched_stop = event->matched_stop;
    t->matched_stop_id = event->matched_stop_id;
}

static void turn(struct rig *r, struct story *stories, int n)
{
    const struct engine_event *events;
    engine_turn(r->e, false);
    sched_check(r->e->sched);
    for (size_t i = 0, n_events = engine_poll(r->e, &events); i < n_events; i++) {
        int k = 0;
        while (k < n && !(stories[k].is_live && stories[k].id == events[i].id))
            k++;
        assert_true(k < n); /* no event after an END */
        take_event(&stories[k], &events[i]);
    }
}

static void submit(struct rig *r, struct story *s, const struct engine_request *q)
{
    struct err err;
    *s = (struct story){.is_live = true};
    assert_int_equal(engine_submit(r->e, q, 1, &s->id, &err), 0);
}

/* A request from its submission to its end, and to the end of what was launched for it. */
static void tell(struct rig *r, const struct engine_request *q, struct story *s)
{
    submit(r, s, q);
    while (s->is_live || !engine_is_idle(r->e))
        turn(r, s, 1);
}

static void is_clean(const struct rig *r)
{
    assert_true(engine_is_idle(r->e));
    assert_int_equal(r->e->flights->n, 0);
    assert_int_equal(r->toy->n_launched, r->toy->n_landed);
    assert_int_equal(kvpool_n_in_flight(r->e->pool), 0);
    assert_int_equal(kvpool_n_held(r->e->pool), 0);
    assert_int_equal(kvpool_n_available(r->e->pool), kvpool_n_pages(r->e->pool));
    kvpool_check(r->e->pool);
}

static bool same_tape(const struct tape *a, const struct tape *b)
{
    return a->n_tokens == b->n_tokens && memcmp(a->tokens, b->tokens, a->n_tokens) == 0 && a->n_text == b->n_text &&
           memcmp(a->text, b->text, a->n_text) == 0 && a->finish == b->finish && a->matched_stop == b->matched_stop &&
           a->matched_stop_id == b->matched_stop_id;
}

/* a was cut short: what it has begins b. Its text may hold what b still held back or swallowed with a stop string. */
static bool begins(const struct tape *a, const struct tape *b)
{
    return a->n_tokens <= b->n_tokens && memcmp(a->tokens, b->tokens, a->n_tokens) == 0;
}

static struct engine_request ask(size_t at, size_t n_prompt, int max_tokens)
{
    struct engine_request q;
    engine_request_defaults(&q);
    q.prompt = text + at;
    q.n_prompt = n_prompt;
    q.max_tokens = max_tokens;
    q.temperature = 0;
    q.ignore_eos = true;
    q.n_logprobs = 0;
    return q;
}

/* ---- one thing at a time ---- */

static void a_step_is_begun_before_the_last_one_has_landed(void **state)
{
    (void)state;
    static struct story s[N_MODES];
    long n_rows[N_MODES];
    struct engine_request q = ask(0, 40, 100);
    for (int mode = 0; mode < N_MODES; mode++) {
        struct setting set = usual;
        struct rig r;
        set.mode = (enum mode)mode;
        rig_open(&r, &set);
        tell(&r, &q, &s[mode]);
        n_rows[mode] = r.toy->n_rows;
        assert_int_equal(r.toy->n_beside, mode == AHEAD ? 100 : 0); /* all but the first step */
        assert_int_equal(r.toy->n_pending, mode == AHEAD ? 99 : 0);
        assert_int_equal(r.e->figures.stats.steps, 101);
        is_clean(&r);
        rig_close(&r);
        assert_true(same_tape(&s[mode].choice[0], &s[0].choice[0]));
        assert_int_equal(n_rows[mode], 40 + 99); /* the end by length is known before: no row is wasted on it */
    }
}

static void the_row_after_an_end_is_dropped_and_its_pages_rest(void **state)
{
    (void)state;
    static struct story s;
    struct rig r;
    struct engine_request q = ask(0, 60, 100);
    rig_open(&r, &usual);
    tell(&r, &q, &s);
    int32_t stop = -1;
    int at = 0;
    for (int i = 10; i < 60 && stop < 0; i++) { /* a token that comes first at `i` */
        memcpy(&stop, s.choice[0].tokens + 8 * i, 4);
        for (at = 0; memcmp(s.choice[0].tokens + 8 * at, &stop, 4) != 0;)
            at++;
        stop = at == i ? stop : -1;
    }
    assert_true(stop >= 0);
    q.stop_ids = &stop;
    q.n_stop_ids = 1;
    long before = r.toy->n_rows;
    submit(&r, &s, &q);
    do
        turn(&r, &s, 1);
    while (r.e->live != NULL);
    assert_int_equal(r.e->flights->n, 1); /* a row of it is under way */
    assert_false(engine_is_idle(r.e));
    assert_int_equal(sched_figures(r.e->sched).n_running, 0);
    assert_int_equal(kvpool_n_held(r.e->pool), seq_pages_for(60 + at + 1));
    turn(&r, &s, 1);
    assert_int_equal(kvpool_n_held(r.e->pool), 0);
    assert_int_equal(s.choice[0].n_drawn, at + 1);
    assert_int_equal(s.finish, ENGINE_FINISH_STOP);
    assert_int_equal(r.toy->n_rows - before, 60 + at + 1); /* one more than it needed */
    is_clean(&r);
    rig_close(&r);
}

static void a_cancel_is_heard_at_once_and_the_pages_follow(void **state)
{
    (void)state;
    static struct story s;
    struct rig r;
    struct engine_request q = ask(0, 20, 100);
    rig_open(&r, &usual);
    submit(&r, &s, &q);
    for (int i = 0; i < 10; i++)
        turn(&r, &s, 1);
    assert_int_equal(r.e->flights->n, 1);
    engine_cancel(r.e, s.id);
    turn(&r, &s, 1); /* takes the command, and lands what was in flight */
    is_clean(&r);
    turn(&r, &s, 1);
    assert_int_equal(s.finish, ENGINE_FINISH_CANCELLED);
    rig_close(&r);
}

static void a_pause_lets_the_pending_token_arrive_and_no_more(void **state)
{
    (void)state;
    static struct story s, whole;
    struct rig r;
    struct engine_request q = ask(0, 20, 50);
    rig_open(&r, &usual);
    tell(&r, &q, &whole);
    submit(&r, &s, &q);
    for (int i = 0; i < 10; i++)
        turn(&r, &s, 1);
    engine_pause(r.e, s.id);
    turn(&r, &s, 1);
    assert_true(engine_is_idle(r.e));
    turn(&r, &s, 1);
    int n = s.choice[0].n_drawn;
    long rows = r.toy->n_rows;
    for (int i = 0; i < 5; i++)
        turn(&r, &s, 1);
    assert_int_equal(s.choice[0].n_drawn, n);
    assert_int_equal(r.toy->n_rows, rows);
    engine_resume(r.e, s.id);
    while (s.is_live)
        turn(&r, &s, 1);
    assert_true(same_tape(&s.choice[0], &whole.choice[0]));
    is_clean(&r);
    rig_close(&r);
}

/* Whoever waits for a paused one's pages gets them, though others never leave the device idle. */
static void a_paused_one_makes_room_beside_steps_in_flight(void **state)
{
    (void)state;
    static struct story s[3];
    struct setting set = usual;
    struct rig r;
    set.n_pages = 7;
    struct engine_request q[3] = {ask(0, 20, 200), ask(50, 150, 100), ask(250, 180, 20)};
    rig_open(&r, &set);
    submit(&r, &s[0], &q[0]);
    submit(&r, &s[1], &q[1]);
    for (int i = 0; i < 12; i++)
        turn(&r, s, 2);
    engine_pause(r.e, s[1].id);
    submit(&r, &s[2], &q[2]);
    for (int i = 0; i < 60; i++)
        turn(&r, s, 3);
    assert_true(s[0].is_live);
    assert_true(s[2].has_ended);
    assert_int_equal(sched_figures(r.e->sched).preemptions, 1);
    engine_resume(r.e, s[1].id);
    while (s[1].is_live || s[0].is_live)
        turn(&r, s, 3);
    assert_int_equal(s[1].choice[0].n_drawn, 100);
    rig_close(&r);
}

static void penalties_wait_for_the_newest_token(void **state)
{
    (void)state;
    static struct story s[2];
    struct engine_request q = ask(0, 20, 50);
    q.repetition_penalty = 1.3f;
    q.presence_penalty = 0.5f;
    for (int mode = 0; mode < 2; mode++) {
        struct setting set = usual;
        struct rig r;
        set.mode = mode == 0 ? HOST_DRAWS : AHEAD;
        rig_open(&r, &set);
        tell(&r, &q, &s[mode]);
        assert_int_equal(r.toy->n_beside, 0);
        assert_int_equal(r.toy->n_launched, mode == 0 ? 0 : 50);
        rig_close(&r);
    }
    assert_true(same_tape(&s[1].choice[0], &s[0].choice[0]));
}

static void what_the_device_leaves_undecided_is_drawn_here(void **state)
{
    (void)state;
    static struct story whole, s;
    struct engine_request q = ask(0, 20, 120);
    q.temperature = 1;
    q.n_logprobs = 3;
    for (int undecided = 0; undecided < 4; undecided++) { /* 1: all of them */
        struct setting set = usual;
        struct rig r;
        set.undecided = undecided;
        rig_open(&r, &set);
        tell(&r, &q, undecided == 0 ? &whole : &s);
        assert_int_equal(r.toy->n_undecided > 0, undecided > 0);
        is_clean(&r);
        rig_close(&r);
        assert_true(undecided == 0 || same_tape(&s.choice[0], &whole.choice[0]));
    }
}

/* A page of the cache is as good as computed. Whoever comes next reads it, and must read what belongs there. */
static void pages_are_cached_when_their_tokens_are_known(void **state)
{
    (void)state;
    static struct story first, again;
    for (int undecided = 0; undecided < 3; undecided++)
        for (int mode = 0; mode < N_MODES; mode++) {
            struct setting set = usual;
            struct rig r;
            int32_t whole[200];
            set.mode = (enum mode)mode;
            set.undecided = undecided;
            rig_open(&r, &set);
            struct engine_request q = ask(0, 30, 163); /* the last row that is computed completes the third page */
            tell(&r, &q, &first);
            memcpy(whole, text, sizeof *whole * 30);
            for (int i = 0; i < 163; i++)
                memcpy(&whole[30 + i], first.choice[0].tokens + 8 * i, 4);
            q = ask(0, 193, 5);
            q.prompt = whole;
            tell(&r, &q, &again);
            assert_int_equal(again.n_cached, 192);
            is_clean(&r);
            rig_close(&r);
        }
}

/* More wanted rows than the device draws at a time: the prompt is scored by groups beside a stream, which goes on. */
static void scoring_a_prompt_goes_the_other_way(void **state)
{
    (void)state;
    static struct story s[N_MODES][2];
    struct engine_request q[2] = {ask(0, 20, 60), ask(100, 150, 10)};
    q[1].n_prompt_logprobs = 2;
    for (int mode = 0; mode < N_MODES; mode++) {
        struct setting set = usual;
        struct rig r;
        set.mode = (enum mode)mode;
        set.max_out = 30;
        rig_open(&r, &set);
        for (int i = 0; i < 2; i++)
            submit(&r, &s[mode][i], &q[i]);
        while (s[mode][0].is_live || s[mode][1].is_live)
            turn(&r, s[mode], 2);
        if (mode == AHEAD) {
            assert_true(r.toy->n_forward > 3);
            assert_true(r.toy->n_beside > 30);
        }
        is_clean(&r);
        rig_close(&r);
        for (int i = 0; i < 2; i++) {
            assert_true(same_tape(&s[mode][i].choice[0], &s[0][i].choice[0]));
            assert_int_equal(s[mode][i].prompt.n_tokens, s[0][i].prompt.n_tokens);
            assert_memory_equal(s[mode][i].prompt.tokens, s[0][i].prompt.tokens, s[0][i].prompt.n_tokens);
        }
    }
}

static void streams_do_not_take_all_draws_from_a_prompt(void **state)
{
    (void)state;
    static struct story s[5];
    struct setting set = usual;
    struct rig r;
    set.max_draws = 3;
    set.max_seqs = 5;
    rig_open(&r, &set);
    for (int i = 0; i < 5; i++) {
        struct engine_request q = i < 3 ? ask((size_t)i, 10, 200) : ask((size_t)i, 100, 20);
        submit(&r, &s[i], &q);
        for (int k = 0; k < 10; k++)
            turn(&r, s, i + 1);
    }
    for (int k = 0; k < 30; k++)
        turn(&r, s, 5);
    assert_true(s[0].is_live && s[1].is_live && s[2].is_live);
    assert_true(s[3].has_ended);
    assert_true(s[4].has_ended);
    long n_forward = r.toy->n_forward, n_beside = r.toy->n_beside;
    assert_true(n_forward > 0);
    for (int k = 0; k < 10; k++)
        turn(&r, s, 5);
    assert_int_equal(r.toy->n_forward, n_forward); /* the three fit again */
    assert_int_equal(r.toy->n_beside, n_beside + 10);
    rig_close(&r);
}

static void close_lets_what_is_in_flight_land(void **state)
{
    (void)state;
    static struct story s;
    for (int n_turns = 0; n_turns < 8; n_turns++) {
        struct rig r;
        struct engine_request q = ask(0, 100, 50);
        rig_open(&r, &usual);
        submit(&r, &s, &q);
        for (int i = 0; i < n_turns; i++)
            turn(&r, &s, 1);
        assert_int_equal(r.e->flights->n, n_turns > 0);
        rig_close(&r);
    }
}

/* ---- everything at once ---- */

struct job {
    struct engine_request req;
    struct engine_bias bias[2];
    struct engine_text stop;
    char stop_bytes[2];
    int32_t stop_id;
    int begin_turn, cancel_turn; /* cancel_turn -1: never */
    int pause_turn, resume_turn;
};

struct schedule {
    uint64_t seed;
    uint32_t rolls;
    struct setting setting;
    struct job jobs[MAX_JOBS];
    int n_jobs;
    bool breaks;
};

static int roll(struct schedule *s, int below)
{
    return (int)(num_rng(s->seed, 0, s->rolls++) * below);
}

static float roll_one_of(struct schedule *s, int one_in, float on, float off)
{
    return roll(s, one_in) == 0 ? on : off;
}

static void make_job(struct schedule *s, struct job *j)
{
    struct engine_request *q = &j->req;
    int turn_of = roll(s, 40), most = s->setting.n_pages * KV_PAGE < N_CTX ? s->setting.n_pages * KV_PAGE : N_CTX;
    int n_prompt = roll(s, 3) == 0 ? KV_PAGE * (1 + roll(s, 2)) + roll(s, 3) - 1 : 1 + roll(s, 100);
    int max_tokens = roll(s, 6) == 0 ? roll(s, 3) : 1 + roll(s, 90);
    n_prompt = n_prompt < most - max_tokens ? n_prompt : most - max_tokens - 1;
    *q = ask((size_t)roll(s, 2) * 50, (size_t)n_prompt, max_tokens);
    q->n_choices = roll(s, 4) == 0 ? 1 + roll(s, MAX_CHOICES) : 1;
    q->temperature = roll_one_of(s, 3, 0, 0.5f + (float)roll(s, 3) * 0.5f);
    q->top_p = roll_one_of(s, 3, 0.9f, 1);
    q->top_k = roll(s, 4) == 0 ? 20 : 0;
    q->seed = (uint64_t)roll(s, 1000);
    q->ignore_eos = roll(s, 2);
    q->min_tokens = roll(s, 3) == 0 ? roll(s, max_tokens + 1) : 0;
    q->n_logprobs = roll(s, 4) - 1;
    q->n_prompt_logprobs = roll(s, 5) == 0 ? roll(s, 3) : -1;
    q->frequency_penalty = roll_one_of(s, 8, 0.4f, 0);
    q->repetition_penalty = roll_one_of(s, 8, 1.2f, 1);
    j->stop_bytes[0] = (char)('a' + roll(s, 26));
    j->stop = (struct engine_text){.p = j->stop_bytes, .n = 1};
    q->stops = &j->stop;
    q->n_stops = roll(s, 3) == 0;
    j->stop_id = 3 + roll(s, TOY_VOCAB - 3);
    q->stop_ids = &j->stop_id;
    q->n_stop_ids = roll(s, 3) == 0;
    j->bias[0] = (struct engine_bias){.id = 3 + roll(s, 200), .bias = 2};
    j->bias[1] = (struct engine_bias){.id = 300 + roll(s, 200), .bias = -100};
    q->bias = j->bias;
    q->n_bias = roll(s, 3) == 0 ? 2 : 0;
    j->begin_turn = turn_of;
    j->cancel_turn = roll(s, 4) == 0 ? turn_of + roll(s, 60) : -1;
    j->pause_turn = roll(s, 4) == 0 ? turn_of + roll(s, 40) : -1;
    j->resume_turn = j->pause_turn + 1 + roll(s, 40);
}

static void make_schedule(struct schedule *s, uint64_t seed)
{
    static const int chunks[] = {1, 7, 33, 64};
    *s = (struct schedule){.seed = seed};
    struct setting *set = &s->setting;
    set->max_seqs = 2 + roll(s, 8);
    set->n_pages = roll(s, 3) == 0 ? 40 : 4 + roll(s, 7);
    set->chunk = chunks[roll(s, 4)];
    set->max_out = set->max_seqs + roll(s, 10);
    set->max_draws = roll(s, 3) == 0 ? 1 + roll(s, set->max_out) : set->max_out;
    set->undecided = roll(s, 2) == 0 ? 1 + roll(s, 12) : 0;
    set->cache = roll(s, 3) > 0;
    s->n_jobs = 3 + roll(s, MAX_JOBS - 2);
    for (int i = 0; i < s->n_jobs; i++)
        make_job(s, &s->jobs[i]);
    s->breaks = roll(s, 5) == 0;
    if (s->breaks && roll(s, 2) == 0)
        set->fail_at_launch = 1 + roll(s, 60);
    else if (s->breaks)
        set->fail_at_land = 1 + roll(s, 60);
}

static void command(struct rig *r, const struct job *j, struct story *s, int now)
{
    if (now == j->begin_turn && !r->e->faulted)
        submit(r, s, &j->req);
    if (!s->is_live)
        return;
    if (now == j->cancel_turn)
        engine_cancel(r->e, s->id);
    if (now == j->pause_turn)
        engine_pause(r->e, s->id);
    if (now == j->resume_turn || now == QUIET_TURN)
        engine_resume(r->e, s->id);
}

static struct {
    long n_beside, n_pending, n_undecided, n_forward;
    uint64_t n_preempted, n_hits;
    int n_cut, n_faulted;
} seen;

static void check_stories(const struct schedule *s, const struct story *alone, const struct story *got, enum mode mode, bool faulted)
{
    for (int i = 0; i < s->n_jobs; i++) {
        if (!got[i].has_ended) { /* the engine was broken before it could be submitted */
            assert_true(faulted);
            continue;
        }
        bool is_cut = got[i].finish == ENGINE_FINISH_CANCELLED || got[i].finish == ENGINE_FINISH_ERROR, equal = true;
        seen.n_cut += is_cut;
        assert_true(got[i].finish != ENGINE_FINISH_CANCELLED || s->jobs[i].cancel_turn >= 0);
        assert_true(got[i].finish != ENGINE_FINISH_ERROR || faulted);
        for (int k = 0; k < s->jobs[i].req.n_choices; k++) {
            const struct tape *a = &got[i].choice[k], *b = &alone[i].choice[k];
            assert_int_not_equal(a->finish, ENGINE_FINISH_NONE);
            equal = equal && (a->finish == ENGINE_FINISH_CANCELLED || a->finish == ENGINE_FINISH_ERROR ? begins(a, b) : same_tape(a, b));
        }
        if (!is_cut || got[i].prompt.n_tokens > 0)
            equal = equal && got[i].prompt.n_tokens == alone[i].prompt.n_tokens &&
                    memcmp(got[i].prompt.tokens, alone[i].prompt.tokens, alone[i].prompt.n_tokens) == 0;
        if (!equal)
            fail_msg("schedule %llu, job %d differs in mode %d", (unsigned long long)s->seed, i, mode);
    }
}

static void run_schedule(struct schedule *s, const struct story *alone, enum mode mode)
{
    static struct story got[MAX_JOBS];
    struct rig r;
    memset(got, 0, sizeof got);
    s->setting.mode = mode;
    rig_open(&r, &s->setting);
    for (int now = 0, n_live = 0; now <= QUIET_TURN || n_live > 0 || !engine_is_idle(r.e); now++) {
        assert_true(now < 20000);
        for (int i = 0; i < s->n_jobs; i++)
            command(&r, &s->jobs[i], &got[i], now);
        turn(&r, got, s->n_jobs);
        assert_true(r.e->flights->n <= (mode == AHEAD));
        n_live = 0;
        for (int i = 0; i < s->n_jobs; i++)
            n_live += got[i].is_live;
    }
    is_clean(&r);
    check_stories(s, alone, got, mode, r.e->faulted);
    assert_int_equal(r.toy->n_beside > 0 && mode != AHEAD, 0);
    seen.n_beside += r.toy->n_beside;
    seen.n_pending += r.toy->n_pending;
    seen.n_undecided += r.toy->n_undecided;
    seen.n_forward += mode == AHEAD ? r.toy->n_forward : 0;
    seen.n_preempted += mode == AHEAD ? sched_figures(r.e->sched).preemptions : 0;
    seen.n_hits += mode == AHEAD ? sched_figures(r.e->sched).prefix_hits : 0;
    seen.n_faulted += r.e->faulted;
    rig_close(&r);
}

static void random_schedules_yield_what_each_request_yields_alone(void **state)
{
    (void)state;
    static struct story alone[MAX_JOBS];
    static struct schedule s;
    for (uint64_t seed = 1; seed <= N_SCHEDULES; seed++) {
        make_schedule(&s, seed);
        struct setting plain = {.mode = HOST_DRAWS, .n_pages = 40, .max_seqs = MAX_CHOICES, .chunk = 64, .max_out = 64};
        struct rig r;
        rig_open(&r, &plain);
        for (int i = 0; i < s.n_jobs; i++)
            tell(&r, &s.jobs[i].req, &alone[i]);
        rig_close(&r);
        for (int mode = 0; mode < N_MODES; mode++)
            run_schedule(&s, alone, (enum mode)mode);
    }
    assert_true(seen.n_beside > 20000);
    assert_true(seen.n_pending > 15000);
    assert_true(seen.n_undecided > 5000);
    assert_true(seen.n_forward > 100);
    assert_true(seen.n_preempted > 100);
    assert_true(seen.n_hits > 1000);
    assert_true(seen.n_cut > 100);
    assert_true(seen.n_faulted > 20);
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_TEXT; i++)
        text[i] = 3 + (int32_t)(num_rng(17, 0, (uint32_t)i) * (TOY_VOCAB - 3));
    tok = toy_tokenizer();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_destroy(tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_begun_before_the_last_one_has_landed),
        cmocka_unit_test(the_row_after_an_end_is_dropped_and_its_pages_rest),
        cmocka_unit_test(a_cancel_is_heard_at_once_and_the_pages_follow),
        cmocka_unit_test(a_pause_lets_the_pending_token_arrive_and_no_more),
        cmocka_unit_test(a_paused_one_makes_room_beside_steps_in_flight),
        cmocka_unit_test(penalties_wait_for_the_newest_token),
        cmocka_unit_test(what_the_device_leaves_undecided_is_drawn_here),
        cmocka_unit_test(pages_are_cached_when_their_tokens_are_known),
        cmocka_unit_test(scoring_a_prompt_goes_the_other_way),
        cmocka_unit_test(streams_do_not_take_all_draws_from_a_prompt),
        cmocka_unit_test(close_lets_what_is_in_flight_land),
        cmocka_unit_test(random_schedules_yield_what_each_request_yields_alone),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* The scheduler without a model: budgets by counts, order of admission, preemption, pause, forks; and a seeded fuzz of everything at once. */
#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/sched/scheduler.h"

#define CAP 1024

struct desk {
    struct kvpool *pool;
    struct sched *sched;
    struct sched_limits limits;
    struct sched_step step;
};

static void desk_open(struct desk *d, int n_pages, bool cache, int max_seqs, int chunk, int max_out)
{
    d->limits = (struct sched_limits){
        .max_seqs = max_seqs, .chunk = chunk, .max_rows = max_seqs + chunk, .max_out = max_out, .max_beside = max_out / 2 + 1};
    d->pool = kvpool_create(n_pages, cache);
    d->sched = sched_create(&d->limits, d->pool);
    assert_non_null(d->sched);
}

static void desk_close(struct desk *d)
{
    sched_destroy(d->sched);
    kvpool_destroy(d->pool);
}

static struct seq *seq_create(int n_prompt, int cap, int32_t first)
{
    struct seq *s = calloc(1, sizeof *s);
    s->cap = cap;
    s->tokens = malloc(sizeof *s->tokens * (size_t)cap);
    s->pages = malloc(sizeof *s->pages * (size_t)seq_pages_for(cap));
    s->n_prompt = s->n_tokens = n_prompt;
    s->wants_next = true;
    for (int i = 0; i < n_prompt; i++)
        s->tokens[i] = first + i % 7;
    seq_init(s);
    return s;
}

static void seq_destroy(struct seq *s)
{
    free(s->tokens);
    free(s->pages);
    free(s);
}

static const struct sched_item *item_of(const struct desk *d, const struct seq *s)
{
    for (int i = 0; i < d->step.batch.n_seqs; i++)
        if (d->step.items[i].seq == s)
            return &d->step.items[i];
    return NULL;
}

static int rows_of(const struct desk *d, const struct seq *s)
{
    const struct sched_item *item = item_of(d, s);
    return item != NULL ? item->n_rows : 0;
}

/* One step; each sequence whose next token was wanted draws token 1. */
static void turn(struct desk *d)
{
    sched_plan(d->sched, &d->step);
    if (d->step.batch.n_rows > 0) {
        sched_commit(d->sched);
        sched_landed(d->sched);
    }
    for (int i = 0; i < d->step.batch.n_seqs; i++) {
        struct seq *s = d->step.items[i].seq;
        if (s->n_computed == s->n_tokens && s->n_tokens < s->cap)
            seq_append(s, 1);
    }
    sched_check(d->sched);
}

static void streams_get_their_row_and_prompts_share_the_chunk(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 100, false, 8, 10, 8);
    struct seq *stream = seq_create(3, CAP, 5), *a = seq_create(200, CAP, 6), *b = seq_create(200, CAP, 7), *c = seq_create(4, CAP, 8);
    sched_add(d.sched, stream);
    turn(&d);
    assert_int_equal(rows_of(&d, stream), 3);
    sched_add(d.sched, a);
    sched_add(d.sched, b);
    sched_add(d.sched, c);
    int first_rows[3] = {0};
    for (int i = 0; i < 6; i++) {
        turn(&d);
        assert_int_equal(rows_of(&d, stream), 1); /* in every step */
        assert_true(item_of(&d, stream)->decode);
        assert_true(d.step.n_catch_up <= 10);
        first_rows[0] += rows_of(&d, a);
        first_rows[1] += rows_of(&d, b);
        first_rows[2] += rows_of(&d, c) > 0 && !item_of(&d, c)->decode ? rows_of(&d, c) : 0;
    }
    assert_int_equal(first_rows[2], 4);
    assert_int_equal(first_rows[0] + first_rows[1], 6 * 10 - 4); /* nothing of the budget is wasted */
    assert_in_range(first_rows[0], first_rows[1] - 4, first_rows[1] + 4);
    desk_close(&d);
    seq_destroy(stream);
    seq_destroy(a);
    seq_destroy(b);
    seq_destroy(c);
}

/* Equal parts of few rows would give all of them their first token when the last one has it. */
static void prompts_that_come_together_are_read_a_page_at_a_time(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 100, false, 8, 2 * KV_PAGE, 8);
    struct seq *s[4];
    for (int i = 0; i < 4; i++)
        sched_add(d.sched, s[i] = seq_create(KV_PAGE + 20, CAP, 5 + i));
    for (int i = 0; i < 4; i++) {
        turn(&d);
        for (int k = 0; k < 4; k++) {
            int expected[4][4] = {{KV_PAGE, KV_PAGE, 0, 0}, {0, 0, KV_PAGE, KV_PAGE}, {20, 20, 20, 20}, {1, 1, 1, 1}};
            assert_int_equal(rows_of(&d, s[k]), expected[i][k]);
        }
    }
    for (int i = 0; i < 4; i++)
        seq_destroy(s[i]);
    desk_close(&d);
}

static void a_chunk_of_one_goes_round(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 100, false, 8, 1, 8);
    struct seq *s[4];
    for (int i = 0; i < 4; i++)
        sched_add(d.sched, s[i] = seq_create(50, CAP, 5 + i));
    for (int i = 0; i < 40; i++)
        turn(&d);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s[i]->n_computed, 10);
        seq_destroy(s[i]);
    }
    desk_close(&d);
}

static void wanted_rows_stay_within_max_out(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 100, false, 4, 64, 6);
    struct seq *stream = seq_create(3, CAP, 5), *scored = seq_create(100, CAP, 6), *plain = seq_create(100, CAP, 7);
    scored->n_to_score = 99;
    sched_add(d.sched, stream);
    turn(&d);
    sched_add(d.sched, scored);
    sched_add(d.sched, plain);
    int n_steps = 0, n_out = 0;
    while (scored->n_computed < 100) {
        turn(&d);
        assert_true(d.step.batch.n_out <= 6);
        assert_int_equal(rows_of(&d, stream), 1);
        n_out += item_of(&d, scored) != NULL ? item_of(&d, scored)->n_out : 0;
        assert_true(++n_steps < 30); /* 5 at a time beside the stream */
    }
    assert_int_equal(n_out, 100);
    assert_true(plain->n_tokens > 100); /* was not starved */
    desk_close(&d);
    seq_destroy(stream);
    seq_destroy(scored);
    seq_destroy(plain);
}

static void the_queue_keeps_the_order_of_arrival(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 10, false, 8, 1000, 8);
    struct seq *big = seq_create(500, 512, 5), *huge = seq_create(400, 512, 6), *small = seq_create(5, 64, 7);
    sched_add(d.sched, big);
    sched_add(d.sched, huge);
    sched_add(d.sched, small);
    turn(&d);
    assert_int_equal(big->state, SEQ_RUNNING);
    assert_int_equal(huge->state, SEQ_WAITING);
    assert_int_equal(small->state, SEQ_WAITING); /* it would fit, but may not overtake */
    sched_remove(d.sched, big);
    assert_int_equal(kvpool_n_held(d.pool), 0);
    turn(&d);
    assert_int_equal(huge->state, SEQ_RUNNING);
    assert_int_equal(small->state, SEQ_RUNNING);
    desk_close(&d);
    seq_destroy(big);
    seq_destroy(huge);
    seq_destroy(small);
}

static void the_newest_is_preempted_and_the_oldest_never(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 8, false, 4, 1000, 4);
    struct seq *s[4];
    for (int i = 0; i < 4; i++)
        sched_add(d.sched, s[i] = seq_create(40, 8 * KV_PAGE, 5 + i));
    int n_preempted = 0;
    bool was_running[4] = {false};
    for (int step = 0; step < 3000 && s[3]->state != SEQ_DONE; step++) {
        turn(&d);
        int oldest = 0;
        while (s[oldest]->state == SEQ_DONE)
            oldest++;
        for (int i = 0; i < 4; i++) {
            if (s[i]->state == SEQ_WAITING && was_running[i]) {
                assert_int_not_equal(i, oldest);
                for (int k = i + 1; k < 4; k++)
                    assert_int_not_equal(s[k]->state, SEQ_RUNNING); /* whoever is newer went first */
                n_preempted++;
            }
            was_running[i] = s[i]->state == SEQ_RUNNING;
            if (was_running[i] && s[i]->n_tokens == s[i]->cap)
                sched_remove(d.sched, s[i]);
        }
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s[i]->state, SEQ_DONE);
        assert_int_equal(s[i]->n_tokens, 8 * KV_PAGE);
        seq_destroy(s[i]);
    }
    assert_true(n_preempted >= 3);
    assert_int_equal(sched_figures(d.sched).preemptions, n_preempted);
    assert_int_equal(kvpool_n_held(d.pool), 0);
    desk_close(&d);
}

static void cached_pages_go_before_anyone_is_preempted(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 8, true, 4, 1000, 4);
    struct seq *past = seq_create(300, 8 * KV_PAGE, 100), *a = seq_create(40, 4 * KV_PAGE, 5), *b = seq_create(40, 4 * KV_PAGE, 6);
    sched_add(d.sched, past);
    turn(&d);
    sched_remove(d.sched, past);
    assert_int_equal(kvpool_n_cached(d.pool), 4);
    sched_add(d.sched, a);
    sched_add(d.sched, b);
    while (a->n_tokens < a->cap || b->n_tokens < b->cap)
        turn(&d);
    assert_int_equal(sched_figures(d.sched).preemptions, 0);
    desk_close(&d);
    seq_destroy(past);
    seq_destroy(a);
    seq_destroy(b);
}

static void a_paused_one_makes_room(void **state)
{
    (void)state;
    struct desk d;
    desk_open(&d, 6, false, 4, 1000, 4);
    struct seq *old = seq_create(250, 6 * KV_PAGE, 5), *young = seq_create(250, 6 * KV_PAGE, 6);
    sched_add(d.sched, old);
    turn(&d);
    sched_pause(d.sched, old, true);
    turn(&d);
    assert_int_equal(d.step.batch.n_rows, 0);
    assert_false(sched_has_work(d.sched));
    sched_add(d.sched, young);
    turn(&d);
    assert_int_equal(young->state, SEQ_RUNNING);
    assert_int_equal(old->state, SEQ_WAITING);
    sched_pause(d.sched, old, false);
    turn(&d);
    assert_int_equal(old->state, SEQ_WAITING); /* it returns when it fits */
    sched_remove(d.sched, young);
    turn(&d);
    assert_int_equal(old->state, SEQ_RUNNING);
    assert_int_equal(rows_of(&d, old), 251);
    desk_close(&d);
    seq_destroy(old);
    seq_destroy(young);
}

static void forks_share_full_pages_and_copy_the_partial_one(void **state)
{
    (void)state;
    for (int cache = 0; cache < 2; cache++) {
        struct desk d;
        desk_open(&d, 20, cache, 4, 100, 4);
        struct seq *lead = seq_create(150, 200, 5), *follower = seq_create(150, 200, 5);
        follower->leader = lead;
        sched_add(d.sched, lead);
        sched_add(d.sched, follower);
        turn(&d);
        assert_int_equal(rows_of(&d, lead), 100);
        assert_int_equal(follower->state, SEQ_WAITING); /* its prompt is being computed */
        turn(&d);
        assert_int_equal(rows_of(&d, lead), 50);
        turn(&d);
        assert_int_equal(rows_of(&d, follower), 1);
        assert_false(item_of(&d, follower)->decode);
        assert_int_equal(d.step.n_copies, 1);
        assert_int_equal(d.step.copies[0].n_pos, 149 - 128);
        assert_int_equal(d.step.copies[0].src, lead->pages[2]);
        assert_int_equal(d.step.copies[0].dst, follower->pages[2]);
        assert_memory_equal(lead->pages, follower->pages, 2 * sizeof *lead->pages);
        assert_int_not_equal(lead->pages[2], follower->pages[2]);
        assert_int_equal(kvpool_n_held(d.pool), 4);
        sched_remove(d.sched, lead);
        turn(&d);
        assert_int_equal(rows_of(&d, follower), 1);
        sched_remove(d.sched, follower);
        assert_int_equal(kvpool_n_held(d.pool), 0);
        desk_close(&d);
        seq_destroy(lead);
        seq_destroy(follower);
    }
}

static void a_hit_recomputes_at_least_the_last_token(void **state)
{
    (void)state;
    static const int sizes[] = {1, 63, 64, 65, 128, 129, 192};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int n = sizes[i];
        struct desk d;
        desk_open(&d, 20, true, 4, 1000, 4);
        struct seq *first = seq_create(n, 300, 5), *again = seq_create(n, 300, 5);
        sched_add(d.sched, first);
        turn(&d);
        sched_add(d.sched, again);
        turn(&d);
        int cached = (n - 1) / KV_PAGE * KV_PAGE;
        assert_int_equal(again->n_cached, cached);
        assert_int_equal(rows_of(&d, again), n - cached);
        desk_close(&d);
        seq_destroy(first);
        seq_destroy(again);
    }
}

/* ---- everything at once ---- */

#define FUZZ_SEQS 24

/* A step that was launched: whose token it draws, and where that will stand. */
struct fuzz_flight {
    struct seq *seq[FUZZ_SEQS]; /* by place; NULL: none, or it ended meanwhile */
    int pos[FUZZ_SEQS];
};

struct fuzz {
    struct desk d;
    struct fuzz_flight flights[2]; /* the oldest first */
    int n_flights;
    int most_flights;              /* that may be in flight at the end of a step */
    struct seq *seqs[FUZZ_SEQS];
    int drawn_since[FUZZ_SEQS]; /* catch-up rows of all since this stream's last token; -1: not streaming */
    uint64_t seed;
    uint32_t rolls;
    uint64_t n_steps, n_done, n_beside;
};

static int roll(struct fuzz *f, int below)
{
    return (int)(num_rng(f->seed, 0, f->rolls++) * below);
}

static void fuzz_add(struct fuzz *f, int i, struct seq *leader)
{
    int pages = kvpool_n_pages(f->d.pool), most = pages * KV_PAGE < CAP ? pages * KV_PAGE : CAP;
    int n_prompt = leader != NULL ? leader->n_prompt : 1 + roll(f, most - 1);
    if (roll(f, 3) == 0 && leader == NULL)
        n_prompt = (n_prompt + KV_PAGE - 1) / KV_PAGE * KV_PAGE < most ? (n_prompt + KV_PAGE - 1) / KV_PAGE * KV_PAGE : n_prompt;
    int cap = n_prompt + roll(f, most - n_prompt + 1);
    struct seq *s = seq_create(n_prompt, cap, roll(f, 2));
    s->wants_next = cap > n_prompt;
    s->scope = (uint64_t)roll(f, 2);
    s->leader = leader;
    if (leader != NULL) {
        s->scope = leader->scope;
        memcpy(s->tokens, leader->tokens, sizeof *s->tokens * (size_t)n_prompt);
    } else if (roll(f, 4) == 0) {
        s->n_to_score = n_prompt - 1;
    }
    f->seqs[i] = s;
    f->drawn_since[i] = -1;
    sched_add(f->d.sched, s);
}

static void fuzz_drop(struct fuzz *f, int i)
{
    for (int k = 0; k < FUZZ_SEQS; k++) /* followers go with their leader, as a request's choices do */
        if (k != i && f->seqs[k] != NULL && f->seqs[k]->leader == f->seqs[i])
            fuzz_drop(f, k);
    sched_remove(f->d.sched, f->seqs[i]);
    for (int k = 0; k < f->n_flights; k++)
        f->flights[k].seq[i] = NULL;
    seq_destroy(f->seqs[i]);
    f->seqs[i] = NULL;
    f->n_done++;
}

static void fuzz_command(struct fuzz *f)
{
    int i = roll(f, FUZZ_SEQS), what = roll(f, 20);
    if (f->seqs[i] == NULL && what < 14) {
        int l = roll(f, FUZZ_SEQS);
        fuzz_add(f, i, f->seqs[l] != NULL && f->seqs[l]->leader == NULL && what < 5 ? f->seqs[l] : NULL);
    } else if (f->seqs[i] != NULL && what == 14) {
        fuzz_drop(f, i);
    } else if (f->seqs[i] != NULL && what >= 16) {
        bool paused = what >= 18 && f->n_steps % 3 == 0;
        struct seq *head = f->seqs[i]->leader != NULL ? f->seqs[i]->leader : f->seqs[i];
        for (int k = 0; k < FUZZ_SEQS; k++) /* a request is paused whole */
            if (f->seqs[k] != NULL && (f->seqs[k] == head || f->seqs[k]->leader == head))
                sched_pause(f->d.sched, f->seqs[k], paused);
        sched_pause(f->d.sched, f->seqs[i], paused);
    }
}

/* A pure function of the sequence, as a model is: so recomputation cannot change what follows. */
static int32_t fuzz_next(const struct seq *s, int pos)
{
    return (s->tokens[pos - 1] * 7 + pos) % 3;
}

/* The oldest step has landed: what it drew is known. Now and then an id came too late for the row that was launched with it. */
static void fuzz_land(struct fuzz *f)
{
    struct fuzz_flight *landed = &f->flights[0], *next = &f->flights[1];
    sched_landed(f->d.sched);
    for (int i = 0; i < FUZZ_SEQS; i++) {
        struct seq *s = landed->seq[i];
        if (s == NULL)
            continue;
        int pos = landed->pos[i];
        if (f->most_flights > 0 && roll(f, 8) == 0) {
            seq_rewind(s, pos);
            next->seq[i] = NULL;
        }
        assert_int_equal(s->state, SEQ_RUNNING); /* nobody is preempted while a token of his is pending */
        sched_learn(f->d.sched, s, pos, fuzz_next(s, pos));
        if (pos + 1 == s->cap)
            fuzz_drop(f, i);
    }
    *landed = *next;
    f->n_flights--;
}

static void fuzz_check_plan(struct fuzz *f, const struct sched_step *step)
{
    const struct batch *b = &step->batch;
    assert_true(step->n_catch_up <= f->d.limits.chunk);
    assert_true(b->n_rows <= f->d.limits.max_rows);
    assert_true(b->n_out <= (f->n_flights > 0 ? f->d.limits.max_beside : f->d.limits.max_out));
    int n_decode = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const struct sched_item *item = &step->items[i];
        assert_false(item->seq->paused);
        assert_true(item->seq->n_computed + item->n_rows < item->seq->cap || !item->seq->wants_next); /* no row after the last token */
        n_decode += item->decode;
        assert_true(!item->decode || (item->n_rows == 1 && item->n_out == 1));
    }
    assert_int_equal(b->n_rows - n_decode, step->n_catch_up);
    assert_int_equal(kvpool_n_held(f->d.pool) + kvpool_n_available(f->d.pool), kvpool_n_pages(f->d.pool));
}

/* Plans a step and launches it. */
static void fuzz_launch(struct fuzz *f)
{
    struct sched_step *step = &f->d.step;
    sched_plan(f->d.sched, step);
    fuzz_check_plan(f, step);
    if (step->batch.n_rows == 0)
        return;
    sched_commit(f->d.sched);
    struct fuzz_flight *flight = &f->flights[f->n_flights++];
    *flight = (struct fuzz_flight){.pos = {0}};
    for (int i = 0; i < FUZZ_SEQS; i++) {
        struct seq *s = f->seqs[i];
        if (s == NULL)
            continue;
        const struct sched_item *item = item_of(&f->d, s);
        if (f->drawn_since[i] >= 0) /* a running stream: in the next step it has its token, whatever prompts wait */
            assert_true(item != NULL || s->state == SEQ_WAITING || s->paused || s->n_tokens == s->cap);
        f->drawn_since[i] = -1;
        if (item == NULL || s->n_computed < s->n_tokens)
            continue;
        if (!s->wants_next) {
            fuzz_drop(f, i);
            continue;
        }
        flight->seq[i] = s;
        flight->pos[i] = s->n_tokens;
        seq_append(s, ~i);
        f->drawn_since[i] = 0;
    }
}

static void fuzz_step(struct fuzz *f)
{
    int n_before = f->n_flights;
    if (n_before == 0 || !sched_must_settle(f->d.sched))
        fuzz_launch(f);
    if (f->n_flights > f->most_flights || (f->n_flights > 0 && f->n_flights == n_before))
        fuzz_land(f);
    f->n_beside += n_before > 0 && f->n_flights > 0;
    sched_check(f->d.sched);
    f->n_steps++;
}

static void random_schedules_keep_every_promise(void **state)
{
    (void)state;
    uint64_t preemptions = 0, hits = 0, done = 0, beside = 0;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        struct fuzz f = {.seed = seed, .most_flights = seed % 2};
        int max_seqs = 1 + roll(&f, 10), chunks[] = {1, 7, 64, 512};
        desk_open(&f.d, 2 + roll(&f, 25), roll(&f, 3) > 0, max_seqs, chunks[roll(&f, 4)], max_seqs + roll(&f, 20));
        for (int i = 0; i < 1500; i++) {
            if (roll(&f, 3) == 0)
                fuzz_command(&f);
            fuzz_step(&f);
        }
        for (int i = 0; i < FUZZ_SEQS; i++)
            if (f.seqs[i] != NULL)
                sched_pause(f.d.sched, f.seqs[i], false);
        for (long left = 200000; sched_has_work(f.d.sched); left--) { /* nobody is stuck */
            assert_true(left > 0);
            int n_flights = f.n_flights;
            fuzz_step(&f);
            assert_true(f.d.step.batch.n_rows > 0 || n_flights > 0 || sched_figures(f.d.sched).n_running == 0);
        }
        while (f.n_flights > 0)
            fuzz_land(&f);
        for (int i = 0; i < FUZZ_SEQS; i++)
            assert_null(f.seqs[i]);
        assert_int_equal(kvpool_n_held(f.d.pool), 0);
        preemptions += sched_figures(f.d.sched).preemptions;
        hits += sched_figures(f.d.sched).prefix_hits;
        done += f.n_done;
        beside += f.n_beside;
        desk_close(&f.d);
    }
    assert_true(beside > 10000);
    assert_true(preemptions > 100);
    assert_true(hits > 10000);
    assert_true(done > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_get_their_row_and_prompts_share_the_chunk),
        cmocka_unit_test(prompts_that_come_together_are_read_a_page_at_a_time),
        cmocka_unit_test(a_chunk_of_one_goes_round),
        cmocka_unit_test(wanted_rows_stay_within_max_out),
        cmocka_unit_test(the_queue_keeps_the_order_of_arrival),
        cmocka_unit_test(the_newest_is_preempted_and_the_oldest_never),
        cmocka_unit_test(cached_pages_go_before_anyone_is_preempted),
        cmocka_unit_test(a_paused_one_makes_room),
        cmocka_unit_test(forks_share_full_pages_and_copy_the_partial_one),
        cmocka_unit_test(a_hit_recomputes_at_least_the_last_token),
        cmocka_unit_test(random_schedules_keep_every_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

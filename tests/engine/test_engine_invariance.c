/* The proof of invariance on the toy: whatever else happens in the engine, a request yields the same bytes as alone. */
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
#define N_TEXT 1000
#define N_NEW 150

struct rig {
    struct engine *e;
    struct toy *toy;
    sem_t wake;
};

static struct {
    int32_t ids[N_TEXT];
    struct matrix_text text;
    struct tokenizer *tok;
    struct job jobs[MATRIX_MAX_JOBS];
    int n_jobs;
    struct outcome alone[MATRIX_MAX_JOBS];
} proof;

struct config {
    int chunk, n_pages, max_seqs;
    bool cache;
    int n_threads; /* that draw; 0: one */
};

/* How steps go through the runner. */
static const struct mode {
    const char *name;
    int draws; /* the device's, in percent of max_out; 0: the host draws */
    int undecided;
    bool lockstep;
} modes[] = {
    {.name = "the host draws"},
    {.name = "the device draws, in lockstep", .draws = 100, .undecided = 9, .lockstep = true},
    {.name = "the device draws a step ahead", .draws = 100},
    {.name = "the device draws a step ahead, a few rows, with doubts", .draws = 50, .undecided = 5},
};
static const struct mode *mode;

static void rig_open(struct rig *r, const struct config *c)
{
    struct toy_options toy = {.n_ctx = N_CTX, .n_pages = c->n_pages, .max_rows = c->max_seqs + c->chunk, .max_out = c->max_seqs + 3,
                              .n_threads = c->n_threads, .max_draws = (c->max_seqs + 3) * mode->draws / 100, .undecided = mode->undecided};
    struct engine_options opt = {
        .max_seqs = c->max_seqs, .max_queue = 256, .chunk = c->chunk, .prefix_cache = c->cache, .notify = drive_notify, .notify_arg = &r->wake};
    struct err err;
    r->toy = toy_create(&toy);
    sem_init(&r->wake, 0, 0);
    struct engine_parts parts = {.runner = toy_runner(r->toy), .tok = proof.tok, .lockstep = mode->lockstep};
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    toy_destroy(r->toy);
    sem_destroy(&r->wake);
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

/* Runs the matrix in a configuration and compares. */
static void prove(const struct config *c, const struct drive_options *opt, struct engine_stats *stats_out)
{
    struct rig r;
    static struct outcome got[MATRIX_MAX_JOBS];
    rig_open(&r, c);
    drive(r.e, &r.wake, proof.jobs, proof.n_jobs, opt, got);
    for (int i = 0; i < proof.n_jobs; i++) {
        if (!outcome_equal(&got[i], &proof.alone[i]))
            fail_msg("\"%s\" differs: chunk %d, %d pages, %d seqs, cache %d, %d threads, noise %llu, %s", proof.jobs[i].name, c->chunk,
                     c->n_pages, c->max_seqs, c->cache, c->n_threads, (unsigned long long)opt->noise_seed, mode->name);
        assert_int_equal(got[i].n_choices_ended, proof.jobs[i].req.n_choices);
        outcome_finish(&got[i]);
    }
    *stats_out = idle_stats(&r);
    assert_int_equal(stats_out->n_running + stats_out->n_waiting, 0);
    assert_int_equal(stats_out->n_pages_used, 0);
    assert_int_equal(r.toy->n_shared > 0, c->n_threads > 1 && (mode->draws == 0 || r.toy->n_forward > 0));
    assert_int_equal(r.toy->n_beside > 0, mode->draws > 0 && !mode->lockstep);
    assert_int_equal(r.toy->n_undecided > 0, mode->undecided > 0);
    rig_close(&r);
}

static void setup(void)
{
    for (int i = 0; i < N_TEXT; i++)
        proof.ids[i] = 3 + (int32_t)(num_rng(5, 0, (uint32_t)i) * (TOY_VOCAB - 3));
    proof.text = (struct matrix_text){.ids = proof.ids, .n = N_TEXT};
    proof.tok = toy_tokenizer();
    struct rig r;
    struct config c = {.chunk = 64, .n_pages = 64, .max_seqs = 4};
    mode = &modes[0];
    rig_open(&r, &c);
    proof.n_jobs = matrix_build(proof.jobs, &proof.text, N_NEW, r.e, &r.wake);
    struct drive_options alone = {.alone = true};
    drive(r.e, &r.wake, proof.jobs, proof.n_jobs, &alone, proof.alone);
    rig_close(&r);
}

static void the_matrix_reaches_every_kind_of_end(void **state)
{
    (void)state;
    int n_stop = 0, n_length = 0;
    for (int i = 0; i < proof.n_jobs; i++) {
        n_stop += proof.alone[i].finish == ENGINE_FINISH_STOP;
        n_length += proof.alone[i].finish == ENGINE_FINISH_LENGTH;
        assert_true(proof.alone[i].finish == ENGINE_FINISH_STOP || proof.alone[i].finish == ENGINE_FINISH_LENGTH);
    }
    assert_true(n_stop >= 4);
    assert_true(n_length >= 10);
}

static void alone_with_any_chunk_and_cache_the_bytes_are_equal(void **state)
{
    (void)state;
    static const int chunks[] = {1, 7, 512};
    struct drive_options alone = {.alone = true};
    struct engine_stats stats;
    for (int i = 0; i < 3; i++) {
        struct config c = {.chunk = chunks[i], .n_pages = 64, .max_seqs = 4, .cache = true};
        prove(&c, &alone, &stats);
        assert_true(stats.prefix_hits > 0);
    }
}

static void all_at_once_the_bytes_are_equal(void **state)
{
    (void)state;
    static const int chunks[] = {1, 7, 64, 512};
    struct drive_options all = {0};
    struct engine_stats stats;
    for (int i = 0; i < 8; i++) {
        struct config c = {.chunk = chunks[i / 2], .n_pages = 400, .max_seqs = 48, .cache = i % 2, .n_threads = i % 3};
        prove(&c, &all, &stats);
        assert_int_equal(stats.preemptions, 0);
        assert_int_equal(stats.prefix_hits > 0, 1); /* without a cache: the choices of n>1 */
    }
}

static void with_preemption_the_bytes_are_equal(void **state)
{
    (void)state;
    struct drive_options all = {0};
    struct engine_stats stats;
    for (int i = 0; i < 8; i++) {
        struct config c = {.chunk = i & 2 ? 7 : 64, .n_pages = i & 4 ? 9 : 14, .max_seqs = 12, .cache = i & 1, .n_threads = i % 4};
        prove(&c, &all, &stats);
        assert_true(stats.preemptions > 0);
    }
}

static void with_cancellations_and_pauses_around_the_bytes_are_equal(void **state)
{
    (void)state;
    struct engine_stats stats;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct drive_options noise = {.noise_seed = seed, .noise_text = &proof.text};
        struct config c = {.chunk = seed % 3 ? 33 : 7, .n_pages = seed % 2 ? 16 : 100, .max_seqs = seed % 4 ? 9 : 32, .cache = seed % 5 != 0,
                           .n_threads = seed % 3};
        prove(&c, &noise, &stats);
    }
}

static void overcommit_gives_every_stream_all_its_tokens(void **state)
{
    (void)state;
    struct rig r;
    struct job jobs[16];
    struct outcome alone[16], together[16];
    for (int i = 0; i < 16; i++) {
        jobs[i] = (struct job){.name = "400 tokens"};
        engine_request_defaults(&jobs[i].req);
        jobs[i].req.prompt = proof.ids + i * 7;
        jobs[i].req.n_prompt = 20 + (size_t)i;
        jobs[i].req.max_tokens = 400;
        jobs[i].req.ignore_eos = true;
        jobs[i].req.temperature = (float)(i % 2);
        jobs[i].req.seed = (uint64_t)i;
        jobs[i].req.n_logprobs = 0;
    }
    for (int cache = 0; cache < 2; cache++) {
        struct config c = {.chunk = 64, .n_pages = 1536 / KV_PAGE, .max_seqs = 8, .cache = cache};
        struct drive_options one = {.alone = true}, all = {0};
        struct engine_stats stats;
        rig_open(&r, &c);
        drive(r.e, &r.wake, jobs, 16, &one, alone);
        engine_stats(r.e, &stats);
        assert_int_equal(stats.preemptions, 0);
        rig_close(&r);
        rig_open(&r, &c);
        drive(r.e, &r.wake, jobs, 16, &all, together);
        stats = idle_stats(&r);
        assert_true(stats.preemptions > 0);
        assert_int_equal(stats.n_pages_used, 0);
        rig_close(&r);
        for (int i = 0; i < 16; i++) {
            assert_int_equal(together[i].n_output, 400);
            assert_true(outcome_equal(&together[i], &alone[i]));
            outcome_finish(&together[i]);
            outcome_finish(&alone[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_matrix_reaches_every_kind_of_end),
        cmocka_unit_test(alone_with_any_chunk_and_cache_the_bytes_are_equal),
        cmocka_unit_test(all_at_once_the_bytes_are_equal),
        cmocka_unit_test(with_preemption_the_bytes_are_equal),
        cmocka_unit_test(with_cancellations_and_pauses_around_the_bytes_are_equal),
        cmocka_unit_test(overcommit_gives_every_stream_all_its_tokens),
    };
    int n_failed = 0;
    setup();
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        mode = &modes[i];
        n_failed += cmocka_run_group_tests_name(mode->name, tests, NULL, NULL);
    }
    for (int i = 0; i < proof.n_jobs; i++)
        outcome_finish(&proof.alone[i]);
    tokenizer_destroy(proof.tok);
    return n_failed;
}

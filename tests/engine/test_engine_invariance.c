/* The proof of invariance on the toy: whatever else happens in the engine, a request yields the same bytes as alone. */
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

static void rig_open(struct rig *r, const struct config *c)
{
    struct toy_options toy = {.n_ctx = N_CTX, .n_pages = c->n_pages, .max_rows = c->max_seqs + c->chunk, .max_out = c->max_seqs + 3,
                              .n_threads = c->n_threads};
    struct engine_options opt = {
        .max_seqs = c->max_seqs, .max_queue = 256, .chunk = c->chunk, .prefix_cache = c->cache, .notify = drive_notify, .notify_arg = &r->wake};
    struct err err;
    r->toy = toy_create(&toy);
    sem_init(&r->wake, 0, 0);
    struct engine_parts parts = {.runner = toy_runner(r->toy), .tok = proof.tok};
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    toy_destroy(r->toy);
    sem_destroy(&r->wake);
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
            fail_msg("\"%s\" differs: chunk %d, %d pages, %d seqs, cache %d, %d threads, noise %llu", proof.jobs[i].name, c->chunk, c->n_pages,
                     c->max_seqs, c->cache, c->n_threads, (unsigned long long)opt->noise_seed);
        assert_int_equal(got[i].n_choices_ended, proof.jobs[i].req.n_choices);
        outcome_finish(&got[i]);
    }
    do {
        engine_stats(r.e, stats_out);
    } while (!stats_out->idle);
    assert_int_equal(stats_out->n_running + stats_out->n_waiting, 0);
    assert_int_equal(stats_out->n_pages_used, 0);
    assert_int_equal(r.toy->n_shared > 0, c->n_threads > 1);
    rig_close(&r);
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < N_TEXT; i++)
        proof.ids[i] = 3 + (int32_t)(num_rng(5, 0, (uint32_t)i) * (TOY_VOCAB - 3));
    proof.text = (struct matrix_text){.ids = proof.ids, .n = N_TEXT};
    proof.tok = toy_tokenizer();
    struct rig r;
    struct config c = {.chunk = 64, .n_pages = 64, .max_seqs = 4};
    rig_open(&r, &c);
    proof.n_jobs = matrix_build(proof.jobs, &proof.text, N_NEW, r.e, &r.wake);
    struct drive_options alone = {.alone = true};
    drive(r.e, &r.wake, proof.jobs, proof.n_jobs, &alone, proof.alone);
    rig_close(&r);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < proof.n_jobs; i++)
        outcome_finish(&proof.alone[i]);
    tokenizer_destroy(proof.tok);
    return 0;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_matrix_reaches_every_kind_of_end),
        cmocka_unit_test(alone_with_any_chunk_and_cache_the_bytes_are_equal),
        cmocka_unit_test(all_at_once_the_bytes_are_equal),
        cmocka_unit_test(with_preemption_the_bytes_are_equal),
        cmocka_unit_test(with_cancellations_and_pauses_around_the_bytes_are_equal),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* model_invariance.c: see model_invariance.h. The baseline is every request alone, one thread, no cache; then company, chunks, threads, a prefix
 * cache, a pool so small that sequences are preempted, and requests that come, pause and are cancelled around. */
#include "tests/engine/model_invariance.h"

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/matrix.h"

#define N_NEW 24
#define TEXT_FILE "LICENSE"

struct config {
    const char *name;
    int n_threads, chunk, max_seqs;
    bool cache, small_pool, alone;
    uint64_t noise_seed;
};

static struct {
    const struct model_proof *what;
    const char *path;
    bool whole_matrix;
    struct engine_ids ids;
    struct matrix_text text;
    struct job jobs[MATRIX_MAX_JOBS];
    int n_jobs;
    struct outcome alone[MATRIX_MAX_JOBS], got[MATRIX_MAX_JOBS];
} run;

static int n_ctx(void)
{
    return run.what->long_prompt > 400 ? run.what->long_prompt + 100 : 512;
}

static struct engine *open_engine(const struct config *c, sem_t *wake)
{
    int pool = c->small_pool ? n_ctx() + 128 : 16384;
    struct engine_options opt = {.model_path = run.path,
                                 .device = "cpu",
                                 .n_threads = c->n_threads,
                                 .n_ctx = n_ctx(),
                                 .n_kv_tokens = pool,
                                 .max_seqs = c->max_seqs,
                                 .max_queue = 256,
                                 .chunk = c->chunk,
                                 .prefix_cache = c->cache,
                                 .notify = drive_notify,
                                 .notify_arg = wake};
    struct engine *e;
    struct err err;
    sem_init(wake, 0, 0);
    if (engine_open(&opt, &e, &err) != 0)
        fail_msg("%s: %s", run.path, err.msg);
    return e;
}

static void read_text(struct engine *e)
{
    static char text[1 << 16];
    FILE *f = fopen(TEXT_FILE, "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    struct engine_span span = {.p = text, .n = n};
    struct err err;
    assert_int_equal(engine_tokenize(e, &span, 1, true, 100000, &run.ids, &err), 0);
    run.text = (struct matrix_text){.ids = run.ids.ids, .n = run.ids.n};
}

/* Twelve that differ in kind, and one that crowds the pool. */
static void keep_few(void)
{
    static const char *const names[] = {"greedy, short",  "greedy, two pages", "greedy, two pages again: full hit",
                                        "greedy, long",   "sampled",           "all truncations",
                                        "n=3",            "all penalties",     "echo and logprobs",
                                        "logprobs 20",    "bias, sampled",     "stop string over tokens",
                                        "n=8, long output"};
    run.n_jobs = matrix_keep(run.jobs, run.n_jobs, names, sizeof names / sizeof *names);
}

static int baseline(void **state)
{
    (void)state;
    if (access(run.path, R_OK) != 0)
        return 0;
    static const struct config c = {.n_threads = 1, .chunk = 64, .max_seqs = 4};
    sem_t wake;
    struct engine *e = open_engine(&c, &wake);
    read_text(e);
    run.n_jobs = matrix_build(run.jobs, &run.text, N_NEW, e, &wake);
    if (!run.whole_matrix)
        keep_few();
    if (run.what->long_prompt > 0) {
        struct job *j = &run.jobs[run.n_jobs++];
        *j = (struct job){.name = "beyond twice the window"};
        engine_request_defaults(&j->req);
        j->req.prompt = run.ids.ids;
        j->req.n_prompt = (size_t)run.what->long_prompt;
        j->req.max_tokens = N_NEW;
        j->req.n_logprobs = 3;
        assert_true(run.ids.n >= j->req.n_prompt);
    }
    struct drive_options alone = {.alone = true};
    drive(e, &wake, run.jobs, run.n_jobs, &alone, run.alone);
    engine_close(e);
    sem_destroy(&wake);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    for (int i = 0; i < run.n_jobs; i++)
        outcome_finish(&run.alone[i]);
    engine_ids_finish(&run.ids);
    return 0;
}

static void prove(void **state)
{
    const struct config *c = *state;
    if (run.n_jobs == 0)
        skip();
    sem_t wake;
    struct engine *e = open_engine(c, &wake);
    struct drive_options opt = {.alone = c->alone, .noise_seed = c->noise_seed, .noise_text = &run.text};
    drive(e, &wake, run.jobs, run.n_jobs, &opt, run.got);
    for (int i = 0; i < run.n_jobs; i++) {
        if (!outcome_equal(&run.got[i], &run.alone[i]))
            fail_msg("\"%s\" differs from its run alone", run.jobs[i].name);
        outcome_finish(&run.got[i]);
    }
    struct engine_stats stats;
    do {
        engine_stats(e, &stats);
    } while (!stats.idle);
    assert_int_equal(stats.n_pages_used, 0);
    if (c->small_pool)
        assert_true(stats.preemptions > 0);
    if (c->cache)
        assert_true(stats.prefix_hits > 0);
    engine_close(e);
    sem_destroy(&wake);
}

int model_proof_main(const struct model_proof *proof, int argc, char **argv)
{
    static struct config configs[] = {
        {.name = "all at once, chunk 512, cache, 2 threads", .n_threads = 2, .chunk = 512, .max_seqs = 48, .cache = true},
        {.name = "all at once, chunk 7, 1 thread", .n_threads = 1, .chunk = 7, .max_seqs = 16},
        {.name = "preempted, chunk 64, cache, 2 threads", .n_threads = 2, .chunk = 64, .max_seqs = 12, .cache = true, .small_pool = true},
        {.name = "cancellations around, chunk 64, cache, 2 threads", .n_threads = 2, .chunk = 64, .max_seqs = 12, .cache = true, .noise_seed = 1},
        {.name = "alone, chunk 1, cache, 2 threads", .n_threads = 2, .chunk = 1, .max_seqs = 4, .cache = true, .alone = true},
    };
    run.what = proof;
    run.path = proof->path;
    run.whole_matrix = proof->whole_matrix;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--full") == 0)
            run.whole_matrix = true;
        else
            run.path = argv[i];
    }
    int n = run.whole_matrix ? 5 : 4;
    struct CMUnitTest tests[5];
    for (int i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){.name = configs[i].name, .test_func = prove, .initial_state = &configs[i]};
    return _cmocka_run_group_tests(proof->path, tests, (size_t)n, baseline, finish);
}

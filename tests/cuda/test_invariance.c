/* test_invariance.c: the proof of invariance on the emulated device, for tiny models of every family: whatever else happens in the engine, a request
 * yields there the bytes that it yields alone on the CPU.
 *
 * Requests run through a whole engine whose runner computes by the CUDA backend: alone, all at once, in chunks, with a prefix cache, in so small a
 * pool that sequences are preempted and come back, and among others that come, are paused, resumed and cancelled. What they gave on the CPU, one by
 * one, is the measure. The families' fixtures have f16 weights, the toy has quantised ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/engine_internal.h"
#include "engine/model/model.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/engine/matrix.h"
#include "tests/engine/toy_runner.h"

#define N_CTX 512
#define N_TEXT 800
#define N_NEW 20 /* enough for the matrix to aim at; */
#define N_RUN 12 /* so many are asked for */

static const char *const jobs_to_keep[] = {"greedy, one token", "greedy, one page", "greedy, a page and one", "sampled", "all penalties"};
#define PAGE_AND_ONE 2
#define N_KEPT ((int)(sizeof jobs_to_keep / sizeof *jobs_to_keep))

struct config {
    const char *name;
    const char *device;
    int chunk, n_pages, max_seqs;
    bool cache, alone;
    bool small; /* one request preempts itself */
    bool again; /* and then one that finds its prompt in the cache */
    uint64_t noise_seed;
};

/* An engine over a model's runner. The vocabulary of the toy's tokenizer is larger than the models': what they draw has a spelling. */
struct rig {
    struct engine *e;
    struct model *model;
    struct tokenizer *tok;
    sem_t wake;
};

static void rig_open(struct rig *r, const char *path, const struct config *c)
{
    const struct model_options m = {.device = c->device, .n_threads = 1, .max_rows = c->max_seqs + c->chunk, .max_out = c->max_seqs + 5,
                                    .n_pages = c->n_pages};
    const struct engine_options opt = {.max_seqs = c->max_seqs, .max_queue = 64, .chunk = c->chunk, .n_ctx = N_CTX, .prefix_cache = c->cache,
                                       .notify = drive_notify, .notify_arg = &r->wake};
    struct err err;
    sem_init(&r->wake, 0, 0);
    r->tok = toy_tokenizer();
    if (model_open(path, &r->model, &err) != 0 || model_load(r->model, &m, &err) != 0)
        fail_msg("%s on %s: %s", path, c->device, err.msg);
    assert_int_equal(strncmp(model_device(r->model), c->device, strlen(c->device)), 0);
    struct engine_parts parts = {.runner = model_runner(r->model), .tok = r->tok};
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    model_close(r->model);
    tokenizer_destroy(r->tok);
    sem_destroy(&r->wake);
}

static struct {
    int32_t ids[N_TEXT];
    struct matrix_text text;
    struct job jobs[MATRIX_MAX_JOBS];
    int n_jobs;
    struct outcome alone[MATRIX_MAX_JOBS], got[MATRIX_MAX_JOBS];
} proof;

/* Four that share a prompt and cross the end of a page together. */
static void add_crowd(void)
{
    struct job *j = &proof.jobs[proof.n_jobs++];
    *j = (struct job){.name = "a crowd"};
    engine_request_defaults(&j->req);
    j->req.prompt = proof.ids;
    j->req.n_prompt = 50;
    j->req.n_choices = 4;
    j->req.max_tokens = 24;
    j->req.temperature = 5; /* or they would draw the same tokens, and their full pages be one */
    j->req.seed = 5;
    j->req.min_tokens = j->req.max_tokens;
}

static void measure(const char *path, int n_vocab)
{
    static const struct config cpu = {.name = "alone", .device = "cpu", .chunk = 64, .n_pages = 64, .max_seqs = 4};
    struct drive_options alone = {.alone = true};
    struct rig r;
    for (int i = 0; i < N_TEXT; i++)
        proof.ids[i] = 3 + (int32_t)(num_rng(6, 0, (uint32_t)i) * (n_vocab - 3));
    proof.text = (struct matrix_text){.ids = proof.ids, .n = N_TEXT};
    rig_open(&r, path, &cpu);
    proof.n_jobs = matrix_build(proof.jobs, &proof.text, N_NEW, r.e, &r.wake);
    proof.n_jobs = matrix_keep(proof.jobs, proof.n_jobs, jobs_to_keep, N_KEPT);
    for (int i = 0; i < proof.n_jobs; i++)
        proof.jobs[i].req.max_tokens = N_RUN;
    add_crowd();
    drive(r.e, &r.wake, proof.jobs, proof.n_jobs, &alone, proof.alone);
    rig_close(&r);
}

/* Runs jobs first .. first + n - 1 and compares what they gave. */
static void compare(struct rig *r, const char *what, const struct drive_options *opt, int first, int n)
{
    drive(r->e, &r->wake, proof.jobs + first, n, opt, proof.got);
    for (int i = 0; i < n; i++) {
        if (!outcome_equal(&proof.got[i], &proof.alone[first + i]))
            fail_msg("%s: \"%s\" differs from its run alone on the CPU", what, proof.jobs[first + i].name);
        outcome_finish(&proof.got[i]);
    }
}

static struct engine_stats stats_at_rest(struct engine *e)
{
    struct engine_stats stats;
    do {
        engine_stats(e, &stats);
    } while (!stats.idle);
    assert_int_equal(stats.n_pages_used, 0);
    return stats;
}

static void prove(const char *path, const struct config *c)
{
    struct drive_options opt = {.alone = c->alone, .noise_seed = c->noise_seed, .noise_text = &proof.text}, plain = {0};
    int crowd = proof.n_jobs - 1;
    char what[120];
    struct rig r;
    snprintf(what, sizeof what, "%s, %s", path, c->name);
    rig_open(&r, path, c);
    compare(&r, what, &opt, 0, c->small ? crowd : proof.n_jobs);
    struct engine_stats before = stats_at_rest(r.e);
    if (c->small)
        compare(&r, what, &plain, crowd, 1); /* by itself: it fills the pool for sure */
    if (c->again)
        compare(&r, what, &plain, PAGE_AND_ONE, 1);
    struct engine_stats after = stats_at_rest(r.e);
    print_message("%s: %llu steps, %llu preemptions, %llu tokens shared\n", what, (unsigned long long)after.steps,
                  (unsigned long long)after.preemptions, (unsigned long long)after.prefix_hits);
    if (c->small)
        assert_true(after.preemptions > before.preemptions);
    if (c->again)
        assert_int_equal(after.prefix_hits - before.prefix_hits, 64);
    rig_close(&r);
}

/* The pool holds four sequences of one page, but not their second pages. */
static const struct config configs[] = {
    {.name = "all at once, chunk 512, cache", .device = "cuda:0", .chunk = 512, .n_pages = 64, .max_seqs = 16, .cache = true, .again = true},
    {.name = "preempted, chunk 19, cache", .device = "cuda:0", .chunk = 19, .n_pages = 7, .max_seqs = 9, .cache = true, .small = true},
    {.name = "among others, chunk 64, cache", .device = "cuda:0", .chunk = 64, .n_pages = 40, .max_seqs = 8, .cache = true, .noise_seed = 3},
    {.name = "alone, chunk 33", .device = "cuda:0", .chunk = 33, .n_pages = 64, .max_seqs = 4, .alone = true},
};

static void family(void **state)
{
    const char *path = *state;
    int n = strstr(path, "toy") != NULL ? 4 : 3;
    measure(path, n == 4 ? 384 : 96);
    for (int i = 0; i < n; i++) {
        emulator_set_schedule((enum emulator_schedule)(i % 3), 17);
        prove(path, &configs[i]);
    }
    for (int i = 0; i < proof.n_jobs; i++)
        outcome_finish(&proof.alone[i]);
}

int main(void)
{
    static const char *const paths[] = {"tests/fixtures/tiny/llama3.gguf", "tests/fixtures/tiny/llama-linear.gguf",
                                        "tests/fixtures/tiny/mistral-window.gguf", "tests/fixtures/tiny/qwen2.gguf",
                                        "tests/fixtures/tiny/qwen3.gguf", "tests/fixtures/tiny/gemma3.gguf", "tests/fixtures/toy.gguf"};
    enum { N = sizeof paths / sizeof *paths };
    struct CMUnitTest tests[N];
    if (backend_cuda.open == NULL) /* named here, so that it is linked */
        return 1;
    for (int i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){.name = paths[i], .test_func = family, .initial_state = (void *)(uintptr_t)paths[i]};
    return _cmocka_run_group_tests("invariance on the emulated device", tests, N, NULL, NULL);
}

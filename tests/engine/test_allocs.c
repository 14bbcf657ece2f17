/* test_allocs.c: once the engine is open, neither its thread nor a worker allocates: over a model file and the real backend, whatever the request
 * asks for. test_engine.c has the same for the engine over the toy runner, with preemption. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/engine.h"

#define N_REQUESTS 40 /* more than a group of scores */
#define N_PROMPT 90   /* more than one step's chunk, more than a page */

static atomic_ulong n_allocs; /* of all threads but the test's */
static _Thread_local bool is_test;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCS true
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t m);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);

#define SHARED __attribute__((visibility("default"))) /* libraries too come here */

static void count(void)
{
    if (!is_test)
        atomic_fetch_add(&n_allocs, 1);
}

SHARED void *malloc(size_t n)
{
    count();
    return __libc_malloc(n);
}

SHARED void *calloc(size_t n, size_t m)
{
    count();
    return __libc_calloc(n, m);
}

SHARED void *realloc(void *p, size_t n)
{
    count();
    return __libc_realloc(p, n);
}

SHARED void *aligned_alloc(size_t alignment, size_t n)
{
    count();
    return __libc_memalign(alignment, n);
}
#else
#define COUNTS_ALLOCS false
#endif

static void wake(void *arg)
{
    sem_post(arg);
}

static struct engine_request ask(int i, const int32_t *prompt)
{
    struct engine_request q;
    engine_request_defaults(&q);
    q.prompt = prompt;
    q.n_prompt = (size_t)(N_PROMPT - i);
    q.max_tokens = 60;
    q.ignore_eos = true;
    q.n_logprobs = i % 5;
    q.temperature = (float)(i % 3);
    q.top_p = i % 2 ? 0.9f : 1;
    q.frequency_penalty = i % 4 == 1 ? 0.5f : 0;
    q.n_prompt_logprobs = i % 6 - 1;
    q.seed = (uint64_t)i;
    return q;
}

static void no_thread_of_the_engine_allocates_while_it_generates(void **state)
{
    (void)state;
    is_test = true;
    if (!COUNTS_ALLOCS)
        skip();
    sem_t ready;
    struct engine *e;
    struct err err;
    sem_init(&ready, 0, 0);
    struct engine_options opt = {.model_path = "tests/fixtures/toy.gguf", .device = "auto", .n_threads = 2, .max_seqs = N_REQUESTS,
                                 .max_queue = N_REQUESTS, .chunk = 64, .prefix_cache = true, .notify = wake, .notify_arg = &ready};
    assert_int_equal(engine_open(&opt, &e, &err), 0);
    unsigned long before = atomic_load(&n_allocs);
    struct engine_request q[N_REQUESTS];
    uint64_t ids[N_REQUESTS];
    int32_t prompts[N_REQUESTS][N_PROMPT];
    for (int i = 0; i < N_REQUESTS; i++) {
        for (int k = 0; k < N_PROMPT; k++)
            prompts[i][k] = 3 + (k * (i + 7) + i) % 256;
        q[i] = ask(i, prompts[i]);
    }
    assert_int_equal(engine_submit(e, q, N_REQUESTS, ids, &err), 0);
    for (int n_ends = 0; n_ends < N_REQUESTS;) {
        const struct engine_event *events;
        while (sem_wait(&ready) != 0)
            ;
        for (size_t i = 0, n = engine_poll(e, &events); i < n; i++)
            n_ends += events[i].type == ENGINE_END;
    }
    assert_int_equal(atomic_load(&n_allocs), before);
    engine_close(e);
    sem_destroy(&ready);
}

static void *allocate(void *arg)
{
    void *volatile p = malloc(10); /* volatile, or the compiler would leave it out */
    free(p);
    return arg;
}

/* Else the test above could not fail. */
static void what_another_thread_allocates_is_counted(void **state)
{
    (void)state;
    if (!COUNTS_ALLOCS)
        skip();
    unsigned long before = atomic_load(&n_allocs);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, allocate, NULL), 0);
    pthread_join(thread, NULL);
    assert_true(atomic_load(&n_allocs) > before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_another_thread_allocates_is_counted),
        cmocka_unit_test(no_thread_of_the_engine_allocates_while_it_generates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

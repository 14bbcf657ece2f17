/* pool.c: fork and join a thousand times per token.
 *
 * A step of a small model is some 150 loops of 5 to 50 us. A barrier of the system's costs as much as such a loop, so workers spin for a short while
 * and sleep only after that. Two things keep a busy machine from hurting: ranges are claimed (each thread eats its own share first, then the
 * others'), and a worker that comes late, asleep or preempted, is not waited for.
 *
 *   caller                                worker
 *   writes the job, opens the gate  ───▶  sees an unknown gate number, enters (n_inside + 1), looks at the gate again:
 *   eats ranges                             open: eats ranges, leaves (n_inside - 1)
 *   closes the gate                         closed: leaves
 *   waits until n_inside is 0
 *
 * Entering and closing are sequentially consistent, so either the caller sees the worker inside or the worker sees the gate closed. A worker that is
 * late may enter the next job instead; it never touches the fields of a closed one.
 *
 * Denormals matter to the bits, so every thread starts from the default floating-point environment. */
#include "engine/backend/cpu/pool.h"

#include <assert.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPIN_NS 50000        /* a worker without a job spins this long before it sleeps */
#define SPINS_PER_CHECK 64   /* pauses between looks at the clock */
#define SPINS_BEFORE_YIELD 4000

struct share {
    _Alignas(64) atomic_int next; /* first item not claimed */
    int end;
};

struct worker {
    struct pool *pool;
    int thread;
    pthread_t id;
};

struct pool {
    int n_threads;
    int n_started;
    struct worker *workers; /* [n_threads - 1] */
    struct share *shares;   /* [n_threads] */

    /* the job; written while the gate is closed and nobody is inside */
    void (*fn)(void *ctx, int thread, int first, int last);
    void *ctx;
    int grain;

    _Alignas(64) atomic_uint gate; /* 0: closed; else the number of the open job */
    unsigned n_jobs;
    _Alignas(64) atomic_int n_inside;

    _Alignas(64) atomic_int n_asleep;
    atomic_bool stopping;
    pthread_mutex_t lock; /* guards going to sleep */
    pthread_cond_t wake;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* Claims ranges, own share first, until none is left. */
static void eat(struct pool *p, int thread)
{
    for (int i = 0; i < p->n_threads; i++) {
        struct share *s = &p->shares[(thread + i) % p->n_threads];
        for (;;) {
            if (atomic_load_explicit(&s->next, memory_order_relaxed) >= s->end)
                break;
            int first = atomic_fetch_add_explicit(&s->next, p->grain, memory_order_relaxed);
            if (first >= s->end)
                break;
            p->fn(p->ctx, thread, first, first + p->grain < s->end ? first + p->grain : s->end);
        }
    }
}

/* Sleeps until a job other than `last` is open or the pool stops. */
static void sleep_until_job(struct pool *p, unsigned last)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    for (;;) {
        unsigned gate = atomic_load(&p->gate);
        if ((gate != 0 && gate != last) || atomic_load(&p->stopping))
            break;
        pthread_cond_wait(&p->wake, &p->lock);
    }
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned last = 0;
    fesetenv(FE_DFL_ENV);
    while (!atomic_load(&p->stopping)) {
        unsigned gate = atomic_load_explicit(&p->gate, memory_order_relaxed);
        long start = 0;
        for (int spin = 1; gate == 0 || gate == last; spin++) {
            pause_briefly();
            if (spin % SPINS_PER_CHECK == 0) {
                long now = now_ns();
                start = start == 0 ? now : start;
                if (now - start > SPIN_NS) {
                    sleep_until_job(p, last);
                    if (atomic_load(&p->stopping))
                        return NULL;
                    start = 0;
                }
            }
            gate = atomic_load_explicit(&p->gate, memory_order_relaxed);
        }
        atomic_fetch_add(&p->n_inside, 1);
        gate = atomic_load(&p->gate);
        if (gate != 0) {
            eat(p, w->thread);
            last = gate;
        }
        atomic_fetch_sub(&p->n_inside, 1);
    }
    return NULL;
}

/* Signals are the main thread's: workers start with all of them blocked. Returns 0 or an errno. */
static int start_workers(struct pool *p)
{
    sigset_t all, old;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < p->n_threads - 1; i++) {
        struct worker *w = &p->workers[i];
        w->pool = p;
        w->thread = i + 1;
        rc = pthread_create(&w->id, NULL, worker_main, w);
        if (rc != 0)
            break;
        pthread_setname_np(w->id, "nextd-worker");
        p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int pool_create(int n_threads, struct pool **out, struct err *err)
{
    assert(n_threads >= 1);
    struct pool *p = aligned_alloc(64, sizeof *p);
    if (p == NULL)
        return err_set(err, ERR_NOMEM, "cannot allocate the worker pool");
    memset(p, 0, sizeof *p);
    p->n_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->shares = aligned_alloc(64, (size_t)n_threads * sizeof *p->shares);
    p->workers = calloc((size_t)n_threads, sizeof *p->workers);
    if (p->shares == NULL || p->workers == NULL) {
        pool_destroy(p);
        return err_set(err, ERR_NOMEM, "cannot allocate the worker pool");
    }
    int rc = start_workers(p);
    if (rc != 0) {
        err_set(err, ERR_NOMEM, "cannot start worker thread %d of %d: %s", p->n_started + 2, n_threads, strerror(rc));
        pool_destroy(p);
        return -1;
    }
    *out = p;
    return 0;
}

void pool_destroy(struct pool *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stopping, true);
    /* a spinning worker looks at the gate alone: an empty job lets it out */
    if (p->n_started > 0) {
        for (int i = 0; i < p->n_threads; i++) {
            atomic_store(&p->shares[i].next, 0);
            p->shares[i].end = 0;
        }
        p->n_jobs = p->n_jobs == UINT32_MAX ? 1 : p->n_jobs + 1;
        atomic_store(&p->gate, p->n_jobs);
    }
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->shares);
    free(p);
}

void pool_run(struct pool *p, int n_items, int grain, void (*fn)(void *ctx, int thread, int first, int last), void *ctx)
{
    assert(grain >= 1);
    if (n_items <= 0)
        return;
    if (p->n_threads == 1 || n_items <= grain) {
        for (int first = 0; first < n_items; first += grain)
            fn(ctx, 0, first, first + grain < n_items ? first + grain : n_items);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->grain = grain;
    for (int i = 0; i < p->n_threads; i++) {
        atomic_store_explicit(&p->shares[i].next, (int)((long)n_items * i / p->n_threads), memory_order_relaxed);
        p->shares[i].end = (int)((long)n_items * (i + 1) / p->n_threads);
    }
    p->n_jobs = p->n_jobs == UINT32_MAX ? 1 : p->n_jobs + 1;
    atomic_store(&p->gate, p->n_jobs);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    eat(p, 0);
    atomic_store(&p->gate, 0);
    for (int spin = 0; atomic_load(&p->n_inside) > 0; spin++) {
        if (spin < SPINS_BEFORE_YIELD)
            pause_briefly();
        else
            sched_yield();
    }
}

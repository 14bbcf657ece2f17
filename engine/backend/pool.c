/* pool.c: fork and join a thousand times per token.
 *
 * A step of a small model is some 150 loops of 5 to 50 us. A barrier of the system's costs as much as such a loop, so threads spin for a short while
 * and sleep only after that. Three things keep a busy machine from hurting: ranges are claimed (each thread eats its own share first, then the
 * others'), so the most that a preempted thread holds up is one range; a worker that comes late, asleep or preempted, is not waited for; and a worker
 * that was put on the caller's processor moves to another.
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
 * Measured with bench/pool.c on two processors: a loop of 16 empty items costs 0.4 to 0.8 us with its 16 claims, one of 18 items of 0.7 us runs at
 * 85 % of two processors. With a spinning process beside it the kernel leaves caller and worker on one processor for seconds (two tasks here, one
 * there: balanced); stepping aside, and sleeping at the end of a loop instead of yielding, took SmolLM2 from 159 to 202 tokens/s at one stream and
 * from 548 to 670 at eight. Tried and dropped: spinning for 20 us only (better with more threads than processors, but 2 to 6 % worse where nobody
 * disturbs), workers that yield the processor of their own accord between loops, so as not to be preempted inside one (+10 % beside one neighbour,
 * -20 to -40 % beside two: since Linux 6.18 a yield forfeits its turn), shorter time slices (nothing), ranges a quarter as long (nothing).
 *
 * Denormals matter to the bits, so every thread starts from the default floating-point environment. */
#include "engine/backend/pool.h"

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

#define SPIN_NS 50000       /* a thread with nothing to do spins this long before it sleeps */
#define SPINS_PER_CHECK 64  /* pauses between looks at the clock */
#define ASIDE_NS 10000000   /* between two moves of a worker to another processor */
#define JOBS_PER_LOOK 16    /* jobs between looks at which processor one runs on */

struct share {
    _Alignas(64) atomic_int next; /* first item not claimed */
    int end;
};

struct worker {
    struct pool *pool;
    int thread;
    pthread_t id;
    long aside_ns; /* when it last stepped aside */
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
    atomic_int caller_cpu; /* where the job was opened */
    _Alignas(64) atomic_int n_inside;
    atomic_bool caller_waits;

    _Alignas(64) atomic_int n_asleep;
    atomic_bool stopping;
    pthread_mutex_t lock; /* guards going to sleep */
    pthread_cond_t wake;  /* workers: there is a job */
    pthread_cond_t empty; /* the caller: nobody is inside */
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

/* Counts pauses; true once SPIN_NS have passed since the first of them. */
static bool spun_enough(int *spins, long *start_ns)
{
    pause_briefly();
    if (++*spins % SPINS_PER_CHECK != 0)
        return false;
    long now = now_ns();
    *start_ns = *start_ns == 0 ? now : *start_ns;
    return now - *start_ns > SPIN_NS;
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

/* A worker that runs where the caller runs takes time from it instead of adding some. Leaving that processor out of its mask for a moment makes the
 * kernel move it; the mask is put back at once, so this binds it to nothing. It fails silently where it is forbidden or there is one processor. */
static void step_aside(struct worker *w)
{
    cpu_set_t all, others;
    int here = sched_getcpu();
    long now;
    if (here < 0 || here >= CPU_SETSIZE || here != atomic_load_explicit(&w->pool->caller_cpu, memory_order_relaxed))
        return;
    now = now_ns();
    if (now - w->aside_ns < ASIDE_NS || sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    w->aside_ns = now;
    others = all;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof all, &all);
}

/* Returns the gate's number when it is not `last`, 0 when the pool stops. */
static unsigned wait_for_job(struct pool *p, unsigned last)
{
    int spins = 0;
    long start_ns = 0;
    unsigned gate;
    while (gate = atomic_load_explicit(&p->gate, memory_order_relaxed), gate == 0 || gate == last) {
        if (!spun_enough(&spins, &start_ns))
            continue;
        sleep_until_job(p, last);
        if (atomic_load(&p->stopping))
            return 0;
        start_ns = 0;
    }
    return gate;
}

static void leave(struct pool *p)
{
    if (atomic_fetch_sub(&p->n_inside, 1) != 1 || !atomic_load(&p->caller_waits))
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->empty);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned last = 0;
    fesetenv(FE_DFL_ENV);
    for (unsigned n = 0; !atomic_load(&p->stopping) && wait_for_job(p, last) != 0; n++) {
        if (n % JOBS_PER_LOOK == 0)
            step_aside(w);
        atomic_fetch_add(&p->n_inside, 1);
        unsigned gate = atomic_load(&p->gate);
        if (gate != 0) {
            eat(p, w->thread);
            last = gate;
        }
        leave(p);
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
    pthread_cond_init(&p->empty, NULL);
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
    pthread_cond_destroy(&p->empty);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p->shares);
    free(p);
}

/* The gate is closed; whoever is still inside finishes its range. */
static void wait_until_empty(struct pool *p)
{
    int spins = 0;
    long start_ns = 0;
    while (atomic_load(&p->n_inside) > 0) {
        if (!spun_enough(&spins, &start_ns))
            continue;
        atomic_store(&p->caller_waits, true);
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->n_inside) > 0)
            pthread_cond_wait(&p->empty, &p->lock);
        pthread_mutex_unlock(&p->lock);
        atomic_store(&p->caller_waits, false);
    }
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
    if (p->n_jobs % JOBS_PER_LOOK == 1)
        atomic_store_explicit(&p->caller_cpu, sched_getcpu(), memory_order_relaxed);
    atomic_store(&p->gate, p->n_jobs);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    eat(p, 0);
    atomic_store(&p->gate, 0);
    wait_until_empty(p);
}

struct share_job {
    void (*fn)(void *arg, int i);
    void *arg;
};

static void share_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct share_job *j = ctx;
    for (int i = first; i < last; i++)
        j->fn(j->arg, i);
}

void pool_share(struct pool *p, int n_items, void (*fn)(void *arg, int i), void *arg)
{
    struct share_job job = {fn, arg};
    pool_run(p, n_items, 1, share_items, &job);
}

/* test_pool.c: every item is done once, by one thread at a time, whether workers spin, sleep, come late or move. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "engine/backend/pool.h"

#define MAX_ITEMS 1000
#define MAX_THREADS 5

struct count {
    atomic_int done[MAX_ITEMS];
    atomic_int inside[MAX_THREADS]; /* calls of one thread number at once */
    atomic_int wrong;
    int n_items, grain;
};

static void count_items(void *ctx, int thread, int first, int last)
{
    struct count *c = ctx;
    if (thread < 0 || thread >= MAX_THREADS || first < 0 || first >= last || last > c->n_items || last - first > c->grain) {
        atomic_fetch_add(&c->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&c->inside[thread], 1) != 0)
        atomic_fetch_add(&c->wrong, 1);
    if (fegetround() != FE_TONEAREST)
        atomic_fetch_add(&c->wrong, 1);
    for (int i = first; i < last; i++)
        atomic_fetch_add(&c->done[i], 1);
    atomic_fetch_sub(&c->inside[thread], 1);
}

static void run_once(struct pool *p, int n_items, int grain)
{
    static struct count c;
    memset(&c, 0, sizeof c);
    c.n_items = n_items;
    c.grain = grain;
    pool_run(p, n_items, grain, count_items, &c);
    assert_int_equal(atomic_load(&c.wrong), 0);
    for (int i = 0; i < n_items; i++)
        assert_int_equal(atomic_load(&c.done[i]), 1);
}

static void test_every_item_is_done_once_at_any_thread_count(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads++) {
        struct err err;
        struct pool *p = NULL;
        assert_int_equal(pool_create(n_threads, &p, &err), 0);
        for (int n = 0; n < MAX_ITEMS; n = n * 3 / 2 + 1)
            for (int grain = 1; grain < 20; grain += 6)
                run_once(p, n, grain);
        pool_destroy(p);
    }
}

static void test_workers_that_fell_asleep_wake_for_the_next_job(void **state)
{
    (void)state;
    struct err err;
    struct pool *p = NULL;
    assert_int_equal(pool_create(3, &p, &err), 0);
    for (int i = 0; i < 50; i++) {
        struct timespec nap = {0, i % 5 * 100000}; /* longer and shorter than the workers spin */
        nanosleep(&nap, NULL);
        run_once(p, 64, 1);
    }
    pool_destroy(p);
}

/* Every thread takes one item and none leaves before all have begun; those of the workers then take long. */
struct meeting {
    int n;
    atomic_int begun, ended;
};

static void meet(void *ctx, int thread, int first, int last)
{
    struct meeting *m = ctx;
    struct timespec nap = {0, 300000}; /* longer than the caller spins */
    atomic_fetch_add(&m->begun, last - first);
    while (atomic_load(&m->begun) < m->n)
        sched_yield();
    if (thread != 0)
        nanosleep(&nap, NULL);
    atomic_fetch_add(&m->ended, last - first);
}

static void test_the_caller_sleeps_until_the_last_range_is_done(void **state)
{
    (void)state;
    struct err err;
    struct pool *p = NULL;
    assert_int_equal(pool_create(3, &p, &err), 0);
    for (int i = 0; i < 50; i++) {
        struct meeting m = {.n = 3};
        pool_run(p, 3, 1, meet, &m);
        assert_int_equal(atomic_load(&m.ended), 3);
    }
    pool_destroy(p);
}

struct masks {
    cpu_set_t ours;
    atomic_int wrong;
};

static void compare_mask(void *ctx, int thread, int first, int last)
{
    (void)thread;
    struct masks *m = ctx;
    cpu_set_t now;
    for (volatile int i = 0; i < 1000 * (last - first); i++) {
    }
    if (sched_getaffinity(0, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &m->ours))
        atomic_fetch_add(&m->wrong, 1);
}

/* More threads than most machines that test this have processors: some are on the caller's. */
static void test_workers_that_step_aside_stay_free_to_run_anywhere(void **state)
{
    (void)state;
    struct err err;
    struct pool *p = NULL;
    struct masks m = {0};
    assert_int_equal(sched_getaffinity(0, sizeof m.ours, &m.ours), 0);
    assert_int_equal(pool_create(9, &p, &err), 0);
    for (int i = 0; i < 2000; i++)
        pool_run(p, 36, 1, compare_mask, &m);
    pool_destroy(p);
    assert_int_equal(atomic_load(&m.wrong), 0);
}

static void *run_many(void *arg)
{
    struct count *c = arg;
    struct err err;
    struct pool *p = NULL;
    if (pool_create(3, &p, &err) != 0)
        return NULL;
    for (int i = 0; i < 300; i++)
        pool_run(p, c->n_items, c->grain, count_items, c);
    pool_destroy(p);
    return c;
}

static void test_two_pools_run_at_once(void **state)
{
    (void)state;
    static struct count counts[2];
    pthread_t thread;
    void *other;
    for (int i = 0; i < 2; i++) {
        counts[i].n_items = 100;
        counts[i].grain = 3;
    }
    assert_int_equal(pthread_create(&thread, NULL, run_many, &counts[1]), 0);
    assert_ptr_equal(run_many(&counts[0]), &counts[0]);
    assert_int_equal(pthread_join(thread, &other), 0);
    assert_ptr_equal(other, &counts[1]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(atomic_load(&counts[i].wrong), 0);
        for (int k = 0; k < 100; k++)
            assert_int_equal(atomic_load(&counts[i].done[k]), 300);
    }
}

static void test_a_pool_that_never_worked_is_destroyed(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct err err;
        struct pool *p = NULL;
        assert_int_equal(pool_create(4, &p, &err), 0);
        pool_destroy(p);
    }
    pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_is_done_once_at_any_thread_count),
        cmocka_unit_test(test_workers_that_fell_asleep_wake_for_the_next_job),
        cmocka_unit_test(test_the_caller_sleeps_until_the_last_range_is_done),
        cmocka_unit_test(test_workers_that_step_aside_stay_free_to_run_anywhere),
        cmocka_unit_test(test_two_pools_run_at_once),
        cmocka_unit_test(test_a_pool_that_never_worked_is_destroyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* pool.c: what the worker pool costs and what it keeps when the machine is busy; see engine/backend/pool.c.
 *
 *     build/bench/pool [threads [neighbours [milliseconds]]]
 *
 * Each line is one shape of loop: items, the time of an item (calibrated, computing without memory), the grain. `fork` is the time that a loop of
 * empty items takes. `rate` is the items done per second over what one thread alone does in the calibration, so it reads as processors kept at
 * work; `cpu` is the processor time that the threads were given, in processors, and `useful` their quotient. Neighbours are processes that spin. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/backend/pool.h"

#define MAX_NEIGHBOURS 64

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void compute(long n)
{
    for (volatile long i = 0; i < n; i++) {
    }
}

/* Turns of compute() per microsecond, the best of several tries. */
static double turns_per_us(void)
{
    double best = 0;
    for (int i = 0; i < 30; i++) {
        double begun = seconds(CLOCK_THREAD_CPUTIME_ID);
        compute(1000000);
        double rate = 1000000 / ((seconds(CLOCK_THREAD_CPUTIME_ID) - begun) * 1e6);
        best = rate > best ? rate : best;
    }
    return best;
}

static void do_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const long *turns = ctx;
    for (int i = first; i < last; i++)
        compute(*turns);
}

static void neighbour(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
        compute(1000000);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int n_items, grain;
        double us;
    } shapes[] = {
        {"empty", 16, 1, 0},        {"small loop", 18, 1, 0.7},   {"one row", 48, 3, 0.7},
        {"eight rows", 48, 3, 2.5}, {"a prompt", 144, 9, 5},
    };
    int n_threads = argc > 1 ? atoi(argv[1]) : 2, n_neighbours = argc > 2 ? atoi(argv[2]) : 0, ms = argc > 3 ? atoi(argv[3]) : 1000;
    if (n_threads < 1 || n_neighbours < 0 || n_neighbours > MAX_NEIGHBOURS || ms < 1) {
        fprintf(stderr, "usage: pool [threads [neighbours [milliseconds]]]\n");
        return 2;
    }
    double rate = turns_per_us();
    pid_t pids[MAX_NEIGHBOURS];
    for (int i = 0; i < n_neighbours; i++)
        if ((pids[i] = fork()) == 0)
            neighbour();
    struct err err;
    struct pool *p;
    if (pool_create(n_threads, &p, &err) != 0) {
        fprintf(stderr, "pool: %s\n", err.msg);
        return 1;
    }
    printf("| %d threads, %d neighbours | items | us an item | grain | us a loop | rate | cpu | useful |\n", n_threads, n_neighbours);
    printf("|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        long turns = (long)(shapes[i].us * rate), n = 0;
        double begun = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = 0;
        for (; wall < ms * 1e-3; wall = seconds(CLOCK_MONOTONIC) - begun, n += 10)
            for (int k = 0; k < 10; k++)
                pool_run(p, shapes[i].n_items, shapes[i].grain, do_items, &turns);
        cpu = (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / wall;
        double done = (double)n * shapes[i].n_items * (double)turns / rate * 1e-6 / wall;
        printf("| %s | %d | %.1f | %d | %.2f | %.2f | %.2f | %.2f |\n", shapes[i].name, shapes[i].n_items, shapes[i].us, shapes[i].grain,
               wall / (double)n * 1e6, done, cpu, done / cpu);
    }
    pool_destroy(p);
    for (int i = 0; i < n_neighbours; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return 0;
}

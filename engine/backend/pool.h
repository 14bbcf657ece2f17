/* pool.h: the worker threads of a backend; one loop over items at a time, shared by all of them. */
#ifndef NEXTD_POOL_H
#define NEXTD_POOL_H

#include "engine/err.h"

struct pool;

/* Starts n_threads - 1 workers; the thread that calls pool_run is the last. */
int pool_create(int n_threads, struct pool **out, struct err *err);
void pool_destroy(struct pool *p); /* NULL is fine */

/* Calls fn(ctx, thread, first, last) over ranges that together cover items 0 .. n_items-1 once, at most `grain` items a call, on any thread (0 <=
 * thread < n_threads, never two calls of one number at once). Returns when all are done. Which thread computes what never changes a bit. */
void pool_run(struct pool *p, int n_items, int grain, void (*fn)(void *ctx, int thread, int first, int last), void *ctx);

/* The same for items that need no thread's number: fn(arg, i) for each. */
void pool_share(struct pool *p, int n_items, void (*fn)(void *arg, int i), void *arg);

#endif

/* walk.h: where two devices part. A case's steps are computed once more on both, operation by operation, and what each operation left is compared:
 * the first that differs is told, with its layer, row, value and bits; or the one in which a device fails. */
#ifndef NEXTD_TESTS_GPU_WALK_H
#define NEXTD_TESTS_GPU_WALK_H

#include "tests/gpu/cases.h"
#include "tests/gpu/peek.h"

struct difference {
    bool found;
    char text[400]; /* the place, a sentence */
};

/* Called after an operation of the second device, before it is looked at: for tests. */
typedef void (*walk_hook)(void *arg, struct backend *be, const char *op, int layer);

/* 0 whether or not there is one; -1 where a device failed. */
int walk(struct world *want, const struct peeks *want_peeks, struct world *got, const struct peeks *got_peeks, walk_hook hook, void *arg,
         struct difference *out, struct err *err);

#endif

/* peek.h: a look at what an operation left in a backend's buffers, as rows of f32 in one order for all backends. */
#ifndef NEXTD_TESTS_GPU_PEEK_H
#define NEXTD_TESTS_GPU_PEEK_H

#include <stdbool.h>

#include "engine/backend/backend.h"

enum peek_at {
    PEEK_X,
    PEEK_QKV,
    PEEK_O,
    PEEK_A,  /* operands: of each block the 32 quantised values and their scale, then the 32 values of float weights, what its consumer reads */
    PEEK_OO,
    PEEK_H,
    PEEK_KV, /* keys, then values of the step's rows in a layer */
    PEEK_S   /* scores and block maxima of the last vocab */
};

struct peeked {
    int n_rows, n; /* 0 rows: nothing to see, the operation is done with the next one */
    float *v;      /* [n_rows][n], malloc'd */
    bool lost;     /* the device failed, by now; the values are none */
};

struct peek_args {
    enum peek_at at;
    const struct batch *batch;
    const struct matrix *consumer; /* of an operand */
    int layer;                     /* of KV */
    int n_rows;
};

struct peeks {
    struct peeked (*look)(struct backend *be, const struct peek_args *a);
};

extern const struct peeks peek_cpu;  /* peek_cpu.c */
extern const struct peeks peek_cuda; /* peek_cuda.c */

#endif

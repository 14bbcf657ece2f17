/* backend_matrix.h: what every backend must compute alike: random transformers, schedules of their rows, and records of every operation.
 *
 * A small random transformer of two layers runs over a few sequences through the table of operations, as model/forward.c would. For each
 * (sequence, position) a record keeps what every operation left in the row: q, k, v before and after rotation, the attention's output, the
 * residual stream, the scores and their block maxima. Two runs of one spec must leave equal records, byte for byte, whatever the backend, the
 * instruction set, the threads and the way in which rows came together. How a backend's buffers are read is its probe's business. */
#ifndef NEXTD_TESTS_BACKEND_MATRIX_H
#define NEXTD_TESTS_BACKEND_MATRIX_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend/backend.h"

#define N_SEQS 3
#define N_POS 135 /* more than two pages */
#define N_LAYERS 2
#define MAX_ROWS 240

enum buffer { BUFFER_X, BUFFER_QKV, BUFFER_O };

/* A backend and a look inside. */
struct probe {
    const struct backend_ops *ops;
    /* Fills the KV pages with NaN: nothing may depend on what a page held before. */
    void (*spoil_pages)(struct backend *be);
    /* The first n values of each of the first n_rows rows of a buffer: out is [n_rows][n]. */
    void (*peek)(struct backend *be, enum buffer which, int n_rows, int n, float *out);
};

extern const struct probe cpu_probe; /* cpu/cpu_probe.c */

extern uint32_t rng_state;
uint32_t rng(void);
float rng_float(float scale);

#define N_TYPES 13
extern const enum tensor_type all_types[N_TYPES];

struct spec {
    const char *name;
    int n_pos; /* of the first sequence; the others have 20 and 3 */
    int d_model, d_ff, n_head, n_kv, head_dim, n_vocab, rope_dims;
    bool neox, qk_norm, post, bias;
    int window;
    enum activation act;
    enum tensor_type q, k, v, o, gate, up, down, vocab;
};

#define ALL(t) .q = (t), .k = (t), .v = (t), .o = (t), .gate = (t), .up = (t), .down = (t), .vocab = (t)

struct sample {
    struct tensor shape;
    uint8_t *rows;
};

/* Rows of random bits whose f16 scales are sane. Integers and sub-scales take every value, the extremes too. */
struct sample random_tensor(enum tensor_type type, int n_rows, int n_cols);

struct model {
    struct matrix *qkv, *o, *pair, *down;
    struct vector *norm, *ffn_norm, *bias, *q_norm, *k_norm, *post;
};

struct rig {
    struct spec spec;
    const struct probe *probe;
    struct backend *be;
    struct model layers[N_LAYERS];
    struct matrix *vocab;
    struct vector *out_norm;
};

/* Made at once, filled by fill_all. A tensor given to await is freed then. */
struct vector *random_vector(struct backend *be, int n, float middle, float scale);
struct matrix *random_matrix(struct backend *be, enum tensor_type type, int n_rows, int n_cols);
void await(struct matrix *m, int part, struct sample t);
/* Memory for all, then the values: matrices stripe by stripe, the last stripe first, so that no fill leans on another. */
void fill_all(struct backend *be);

/* The same weights for the same spec whatever the device. Closed by rig->be->ops->close. */
void rig_open(struct rig *rig, const struct spec *s, const struct probe *probe, const char *device, int n_threads);

extern const int32_t page_tables[N_SEQS][3];

/* Of one row; a run's records are [N_SEQS][N_POS][record_floats]. */
int record_floats(const struct spec *s);
/* One step over rows of (sequence, position). Tokens are a function of both. */
void forward_rows(struct rig *rig, const int (*rows)[2], int n_rows, const int32_t *const *pages, float *records);

enum schedule { WHOLE, ONE_BY_ONE, RAGGED, TOGETHER };
/* All rows of all sequences; the caller frees the records. */
float *run_schedule(struct rig *rig, enum schedule how);
void assert_records(const struct spec *s, const float *want, const float *got, const char *who);

#endif

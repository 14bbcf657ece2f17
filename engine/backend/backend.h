/* backend.h: seam B, the table of coarse operations under the one transformer of model/forward.c.
 *
 * A backend owns the weights in its own layout, the KV pages and the working buffers of a step. The buffers are few and named, so that an
 * operation needs no buffer arguments and forward.c reads like the paper:
 *
 *   X    [n_rows][d_model]    f32     the residual stream
 *   A    [n_rows][d_model]    operand the normed input of the next matrices
 *   QKV  [n_rows][(n_head + 2 n_kv) head_dim]  f32
 *   O    [n_rows][n_head head_dim]    operand, the attention's output
 *   H    [n_rows][d_ff]       operand the hidden layer of the feed-forward network
 *   S    [max_scores][n_vocab] f32    the scores of a group of wanted rows
 *
 * An "operand" is what a matrix is multiplied with: int8 blocks with scales for quantised weights (numerics/quant.h), f32 for float weights,
 * both when a group mixes them. It is quantised once, by the operation that writes it.
 *
 * Every result is bit-identical across backends and instruction sets: engine/numerics/ fixes each order. Operations on rows never look at other
 * rows but through the KV pages. Operations enqueue and return; a device fault is sticky and sync() reports it. Engine thread only.
 * A slot enters this table with its second implementation and its test. */
#ifndef NEXTD_BACKEND_H
#define NEXTD_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/batch.h"
#include "engine/draw.h"
#include "engine/err.h"
#include "engine/numerics/quant.h" /* enum tensor_type */
#include "engine/runner.h"

/* The shape of a tensor of the file: n_rows rows of n_cols values. */
struct tensor {
    enum tensor_type type;
    int n_rows;
    int n_cols; /* the reduction dimension */
};

/* Rows of a tensor, as the file holds them, on their way into a matrix. They begin at a multiple of FILL_ROWS and are as many, or end the tensor. */
#define FILL_ROWS 32
struct fill {
    const struct matrix *to;
    int part; /* of the matrix: as numbered in matrix_stack; of a pair, 0 is gate and 1 is up */
    int first_row, n_rows;
    const void *rows;
};

#define ROPE_TABLES 2 /* of a model, at most */

enum activation { ACT_SILU, ACT_GELU_TANH };

/* Fixed sizes of a model and of its steps; the backend sizes every buffer from them at open. */
struct backend_shape {
    int n_layers, d_model, d_ff, n_head, n_kv, head_dim, n_vocab;
    int rope_dims;       /* leading dimensions of a head that rotate; even, <= head_dim */
    bool rope_neox;      /* pairs (i, i + rope_dims/2) as in NeoX, else (2i, 2i+1) */
    int max_rows;        /* rows of a step */
    int max_scores;      /* rows of scores held at once */
    int n_pages;         /* KV pages, shared by all sequences */
    int n_threads;       /* CPU threads, the calling one included */
    const char *device;  /* "cpu", "cuda:0", ...; a test may name an instruction set, such as "cpu:generic", or "cuda:0:eager" without captures */
    int max_pos;         /* positions of a sequence; 0: as many as the pages have */
};

/* What capturing came to, for the log. */
struct captures {
    int n;          /* kinds of steps */
    int n_nodes;    /* launches of one of them */
    double ms;      /* that it took in all */
    size_t n_bytes; /* of device memory */
};

/* One attention's constants. */
struct attend_params {
    int layer;
    int window;  /* a query at position p sees keys p-window+1 .. p; 0: all */
    float scale; /* multiplies q.k */
};

struct matrix; /* a weight matrix (or a fused group of them) in the backend's layout */
struct vector; /* f32 values in the backend's memory: norm weights, biases */
struct backend;

struct backend_ops {
    const char *name;

    /* ---- life ---- */
    /* Whether open would take the device, and the memory of its own that can be had: 0 where it computes in the host's. ERR_NOT_FOUND where there is
     * no such device, and none after it. */
    int (*probe)(const char *device, size_t *free_bytes_out, struct err *err);
    int (*open)(const struct backend_shape *shape, struct backend **be_out, struct err *err);
    void (*close)(struct backend *be); /* NULL is fine; frees matrices and vectors too */
    /* Matrices and vectors are made first, then all memory is reserved, then values are filled in, in any order, then all is sealed. */
    /* One fused matrix of n_parts tensors stacked along the rows (q, k, v). Types may differ; n_cols may not. */
    int (*matrix_stack)(struct backend *be, const struct tensor *parts, int n_parts, struct matrix **out, struct err *err);
    /* gate and up interleaved, so that one pass yields act(gate) * up. Same shape; types may differ. */
    int (*matrix_pair)(struct backend *be, const struct tensor *gate, const struct tensor *up, struct matrix **out, struct err *err);
    int (*vector)(struct backend *be, int n, struct vector **out, struct err *err);
    /* One arena for the values of all of them, in the order in which they were made. */
    int (*reserve)(struct backend *be, struct err *err);
    /* Packs rows, on all threads; `meanwhile`(arg) runs once, on one of them, at the same time. n may be 0. */
    void (*fill)(struct backend *be, const struct fill *fills, int n, void (*meanwhile)(void *arg), void *arg);
    /* Values first .. first + n - 1 of a vector. */
    void (*fill_vector)(struct backend *be, struct vector *v, int first, const float *values, int n);
    /* The arena becomes read-only. */
    int (*seal)(struct backend *be, struct err *err);
    size_t (*weight_bytes)(const struct backend *be);
    size_t (*kv_bytes)(const struct backend *be);
    /* After seal, from i = 0 on: embed and all layers' operations that come between capture and captured are noted, not done, for the i-th kind of
     * step; replay then does them at once. False: there are no more. NULL, as the next three, where operations are not launched but done. */
    bool (*capture)(struct backend *be, int i);
    int (*captured)(struct backend *be, struct err *err);
    struct captures (*captures)(const struct backend *be);

    /* ---- a step, in this order ---- */
    /* Takes the batch (valid until the last sync) and, for each rope table t, freq[t]: [rope_dims/2] the angles of position 1, by which it fills the
     * table: the cosine and sine (num_sincos, then f32) of position * freq[t][i], for each row. */
    void (*begin)(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables);
    /* Embed and all layers, if this step is of a kind that was captured; false: nothing was done. */
    bool (*replay)(struct backend *be);
    /* X[r] = row token[r] of m, times scale. m may be the vocabulary matrix itself (tied embeddings). */
    void (*embed)(struct backend *be, const struct matrix *m, float scale);
    /* A = operand(rmsnorm(X) * w). */
    void (*norm)(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer);
    /* QKV = m . A (+ bias). bias may be NULL. */
    void (*qkv)(struct backend *be, const struct matrix *m, const struct vector *bias);
    /* Norms q and k per head where weights are given (both NULL or both set), rotates them by the table, writes k and v as f16 into the KV
     * pages of `layer`. */
    void (*rope_store)(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps);
    /* O = operand(attention). */
    void (*attend)(struct backend *be, const struct attend_params *p, const struct matrix *consumer);
    /* X += m . O, or X += rmsnorm(m . O) * post where post is given. */
    void (*project_o)(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps);
    /* H = operand(act(gate . A) * (up . A)), m made by matrix_pair. */
    void (*gate_up)(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer);
    /* X += m . H, or X += rmsnorm(m . H) * post. */
    void (*project_h)(struct backend *be, const struct matrix *m, const struct vector *post, float eps);
    /* S = m . operand(rmsnorm(X[out[first + i]]) * w), 0 <= i < n <= max_scores, with block maxima. May come again for other rows after sync. */
    void (*vocab)(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n);
    /* Waits for all of it. scores_out, of the last vocab, stays valid until the next vocab or begin. */
    int (*sync)(struct backend *be, struct scores *scores_out, struct err *err);
    /* In the place of sync, where the backend draws by itself (all three NULL where not): draws from row i of S what draws[i] says, 0 <= i < n, n
     * that of the last vocab or 0; then land, once for each draw, oldest first, at most two draws behind. See runner.h. */
    void (*draw)(struct backend *be, const struct draw *draws, int n);
    int (*land)(struct backend *be, struct drawn *drawn_out, struct scores *scores_out, struct err *err);
    uint64_t (*rows_fetched)(const struct backend *be);
    /* Copies positions 0 .. n_pos-1 of page src to page dst in every layer. Between steps. */
    void (*copy_page)(struct backend *be, int dst, int src, int n_pos);
    /* Lends the backend's threads of the host, after sync: runner.h's share(). */
    void (*share)(struct backend *be, int n, void (*fn)(void *arg, int i), void *arg);
};

/* What every backend's struct begins with. */
struct backend {
    const struct backend_ops *ops;
    const char *device; /* what was chosen, for the log: "cpu:avx512"; static text */
};

extern const struct backend_ops backend_cpu;

#endif

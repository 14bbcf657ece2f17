/* kernels.h: what the host code (C) and the kernels (.cu) of the CUDA backend share: the layouts in device memory and the launchers.
 *
 * A launcher checks its arguments by assert, enqueues one or a few kernels on a stream and returns what CUDA says of the launch. It takes structs
 * by pointer and passes them to its kernels by value, so that they need not outlive the call. Nothing here waits.
 *
 * What changes from step to step (tokens, positions, page tables, work lists) lies in device memory, at places that never move. A launch's arguments
 * are then the same for all steps that were given the same n_rows, and it can be captured for them: a smaller step tells by `live`, one int in device
 * memory, how many of the rows it has. The others are padding, for which nothing is read or written. live NULL: all n_rows.
 *
 * `fault` is one int in device memory, 0 until a kernel finds a value that is not finite and sets it.
 *
 * A plain C header: quant.h is C only, and kernels never include it; cuda.c asserts that the numbers here are its numbers. */
#ifndef NEXTD_CUDA_KERNELS_H
#define NEXTD_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/draw.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DEVICE_BLOCK 32     /* values of a block: QUANT_BLOCK */
#define DEVICE_SLOTS 8      /* QUANT_SLOTS */
#define DEVICE_PAGE 64      /* positions of a KV page and of an attention chunk: KV_PAGE */
#define DEVICE_SCORES 256   /* logits whose maximum is kept: SCORES_BLOCK */
#define DEVICE_PARTS 3      /* tensors of a matrix, at most */
#define ATTEND_ROWS 16      /* rows of a group that walks its pages together, at most */

/* enum activation. */
enum device_act { DEVICE_SILU, DEVICE_GELU_TANH };

/* Parts of an operand that somebody reads: q, d and sums; f. */
enum { OPERAND_Q = 1, OPERAND_F = 2 };

/* What a matrix is multiplied with: rows of activations cut into blocks of 32, the last one filled up with zeros. */
struct device_operand {
    int8_t *q;     /* [n_rows][n_blocks][32] */
    float *d;      /* [n_rows][n_blocks] */
    int16_t *sums; /* [n_rows][n_blocks][2] of q[0..15] and q[16..31] */
    float *f;      /* [n_rows][n_blocks][32] the values themselves, for float weights */
    int n_cols, n_blocks;
};

/* A tensor of a matrix: whole stripes of 32 rows, as layout.h lays them out. */
struct device_part {
    int type;      /* enum tensor_type */
    int n_rows;
    int first_out; /* its first output in the matrix's result; 0 for both of a pair */
    const uint8_t *w;
};

struct device_matrix {
    int n_parts;
    bool pair; /* parts 0 and 1 are gate and up, of the same shape */
    int n_rows, n_cols, n_blocks; /* n_rows: outputs; of a pair, those of one part */
    struct device_part parts[DEVICE_PARTS];
};

/* The arrays of a step, in device memory. See batch.h for the first four. */
struct device_batch {
    int n_rows;
    int max_pages;         /* from one page table to the next */
    const int32_t *token, *pos; /* [n_rows]; pos below 0: padding */
    const int32_t *out;    /* [n_out] */
    const int32_t *table;  /* [n_rows] which page table a row's is */
    int32_t *pages;        /* [tables][max_pages] */
    /* Who attends how; the bits are the same. A row is in one list. */
    int n_walks;
    const int32_t *walks;  /* [n_walks][2] first row and number of rows, <= ATTEND_ROWS, of a group of consecutive positions of a sequence, which
                            * walks its pages together */
    int n_splits;
    const int32_t *splits; /* [n_splits][2] a row whose chunks are computed apart, into partials, and merged; and the first of its items. A row below
                            * 0 is padding */
    const int32_t *n_items;
    int max_items;         /* >= *n_items */
    int32_t *items;        /* [*n_items][2] row and chunk: of a row all, from chunk 0 to its position's, one after another */
};

/* The KV pages: for (page, layer, kv head), head_elems f16 at base + ((page * n_layers + layer) * n_kv + head) * head_elems:
 *   K [head_pad / 8][64][8]   position t, dimension d at ((d / 8) * 64 + t) * 8 + d % 8
 *   V [64][head_pad]
 * head_pad is head_dim rounded up to 8; nobody reads dimensions from head_dim on. */
struct device_kv {
    uint16_t *base;
    int n_layers, n_kv, head_dim, head_pad;
    size_t head_elems; /* 2 * 64 * head_pad */
};

/* ---- matrix.cu ---- */

enum epilogue {
    EPILOGUE_STORE,  /* out = m . x (+ bias) */
    EPILOGUE_ADD,    /* out = out + (m . x (+ bias)) */
    EPILOGUE_SCORES, /* out = m . x, most[r][b] = the maximum of out[r][256 b ..]; m has one part */
    EPILOGUE_PAIR    /* to = operand(act(gate . x) * (up . x)) */
};

struct device_product {
    struct device_matrix m;
    struct device_operand x;
    int n_rows; /* of x */
    const int32_t *live;
    int epilogue;
    float *out;        /* [n_rows][ld]; all but PAIR */
    int ld;            /* >= m.n_rows */
    const float *bias; /* [m.n_rows] or NULL; STORE, ADD */
    float *most;       /* SCORES: [n_rows][ceil(m.n_rows / 256)] */
    int act;           /* PAIR, as the next two */
    struct device_operand to; /* to.n_cols == m.n_rows */
    int needs;         /* OPERAND_... of `to` */
    int *fault;        /* PAIR, SCORES: a value is not finite */
};

cudaError_t launch_product(const struct device_product *p, cudaStream_t stream);
/* The same by the kernel for few rows (matrix.cu) or for many, by small tiles or by large ones (matrix_many.cu), whatever their number. The latter
 * two: no part is of a float type; large: a pair has one type. */
cudaError_t launch_product_few(const struct device_product *p, cudaStream_t stream);
cudaError_t launch_product_many(const struct device_product *p, cudaStream_t stream);
cudaError_t launch_product_large(const struct device_product *p, cudaStream_t stream);

/* ---- rows.cu ---- */

/* x[r] = row token[r] of m (one part), times scale unless that is 1; 0 <= r < n_rows. A token below 0 is the one that slots[~token] keeps, or token 0
 * where that keeps none. */
cudaError_t launch_embed(const struct device_matrix *m, const int32_t *token, const int32_t *slots, int n_rows, const int32_t *live, float scale,
                         float *x, int ld, cudaStream_t stream);

/* x[r] += rmsnorm(t[r]) * w, n values. */
struct device_post {
    const float *t; /* [n_rows][ldt] */
    int ldt;
    const float *w;
    float eps;
    float *x; /* [n_rows][ldx] */
    int ldx, n, n_rows;
    const int32_t *live;
};

cudaError_t launch_post(const struct device_post *p, cudaStream_t stream);

/* to[r] = operand(rmsnorm(x[rows[r]]) * w), 0 <= r < n_rows; rows NULL: all in order. A value that is not finite sets *fault. */
struct device_norm {
    const float *x;
    int ld;
    const int32_t *rows; /* [n_rows]; below 0: padding */
    int n_rows;
    const int32_t *live;
    const float *w;
    float eps;
    struct device_operand to;
    int needs;
    int *fault;
};

cudaError_t launch_norm(const struct device_norm *p, cudaStream_t stream);
/* Both at once: the post norm of all rows, then their norm; of the same x. */
cudaError_t launch_post_norm(const struct device_post *post, const struct device_norm *p, cudaStream_t stream);

/* cs[r][i] = cosine and sine of pos[r] * freq[i], f64 until the end; cs [n_rows][n][2]. */
cudaError_t launch_angles(const double *freq, int n, const int32_t *pos, int n_rows, float *cs, cudaStream_t stream);

/* to[r] = operand(x[r]). */
cudaError_t launch_quantise(const float *x, int ld, int n_rows, const struct device_operand *to, int needs, int *fault, cudaStream_t stream);

/* ---- kv.cu ---- */

/* Rows of qkv: n_head heads of q, n_kv of k, n_kv of v. Norms q and k per head (q_norm and k_norm both given or both NULL), rotates them in place,
 * writes k and v to their page of `layer`. */
struct device_rope {
    struct device_batch batch;
    struct device_kv kv;
    int layer, n_head;
    float *qkv;
    int ld;
    const float *cs;    /* [n_rows][rope_dims / 2][2] */
    int rope_dims;
    bool neox;
    const float *q_norm, *k_norm; /* [head_dim] */
    float eps;
};

cudaError_t launch_rope_store(const struct device_rope *p, cudaStream_t stream);

/* Copies the first n_pos positions of page src to page dst, in every layer. */
cudaError_t launch_copy_page(const struct device_kv *kv, int dst, int src, int n_pos, cudaStream_t stream);

/* What begins a step: n_changes entries of page tables, [n_changes][2] of place and page, go to where they belong, and the items of all splits are
 * written. */
cudaError_t launch_tables(const struct device_batch *batch, const int32_t *changes, int n_changes, cudaStream_t stream);

/* ---- attend.cu ---- */

/* Floats of one partial: values at 0 .. head_dim - 1, maximum at head_pad, sum at head_pad + 1. */
#define ATTEND_PARTIAL(head_pad) ((size_t)(head_pad) + 8)

/* o[r] = attention of row r (lanes.h of the CPU backend tells the formula), to = operand(o). */
struct device_attend {
    struct device_batch batch;
    struct device_kv kv;
    int layer, n_head, window; /* window: 0: all */
    float scale;
    const float *qkv;
    int ld;
    int max_blocks;   /* of a split, about: more items than they are taken by turns */
    bool whole;       /* a block takes a row of `splits` whole, if it has room: no partials */
    float *partials;  /* [*n_items][n_head][ATTEND_PARTIAL]; not where whole */
    float *o;         /* [n_rows][ldo] */
    int ldo;
    struct device_operand to;
    int needs;
    int *fault;
};

cudaError_t launch_attend(const struct device_attend *p, cudaStream_t stream);

/* Both at once, a launch less, for a step without walks, whose rows are of different sequences: attend_ropes says whether it can be. qkv stays as it
 * is. Rows that are not in `splits` write no key. */
bool attend_ropes(const struct device_batch *batch, const struct device_kv *kv, int n_head);
cudaError_t launch_rope_attend(const struct device_rope *r, const struct device_attend *p, cudaStream_t stream);

/* ---- draw.cu ---- */

#define DRAW_MAX_VOCAB (1 << 20)

/* A change of a logit: the bits of a bias, or how often the token was drawn; nothing for a ban. */
struct device_edit {
    int32_t id;
    uint32_t bits;
};

/* struct draw, as a kernel reads it. */
struct device_draw {
    int32_t id;   /* >= 0: given; -1: to be drawn; -2: to be left undecided */
    int32_t slot, n_top;
    int top_k;    /* 0: off */
    double u;
    float scale;  /* 1 / temperature; 0: greedy */
    float top_p, min_p, typical_p;
    float min_p_depth; /* a logit that far below the maximum weighs less than min_p of it */
    float repetition_penalty, frequency_penalty, presence_penalty;
    int n_bias, n_bans, n_counts; /* edits, one after another */
    int first_edit, first_block; /* its edits; its changed blocks, of which there are at most as many as edits */
};

struct device_draws {
    int n_rows, n_vocab, n_blocks; /* n_blocks: of DEVICE_SCORES ids */
    int ld;                        /* of rows of scores */
    const struct device_draw *draws;  /* [n_rows] */
    const struct device_edit *edits;
    const float *scores, *most;    /* raw, and their blocks' maxima */
    float (*changed)[DEVICE_SCORES]; /* blocks of logits after the edits */
    float *changed_most;           /* all blocks' maxima after the edits */
    int32_t *touched;              /* [n_rows][n_blocks] where a changed block is; below 0: it is as it was */
    float *raw_sums, *sums;        /* [n_rows][n_blocks] of exponentials: raw ones, and those that the draw is about */
    struct drawn *drawn;           /* [n_rows] */
    int32_t *slots;
    bool edits_any, sums_any;      /* whether a row has edits; whether one needs sums */
};

/* Draws and scores all rows, as sampler.h says. */
cudaError_t launch_draws(const struct device_draws *p, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif

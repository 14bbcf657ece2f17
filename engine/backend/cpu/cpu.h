/* cpu.h: what the files of the CPU backend share: the layouts of weights, operands and KV pages, and the table of kernels.
 *
 * cpu.c       life: open, matrices, seal            cpu_step.c   the operations of a step, split over threads
 * pack.[ch]   weights to tiles and back             ../pool.[ch] worker threads
 * kernels_generic.c, kernels_avx2.c, kernels_avx512.c, kernels_neon.c            the kernel tables
 * lanes.h     loops that every instruction set compiles for itself
 * simd_<isa>.h    vectors under common names, for   simd_rows.h, attend_simd.h, gemm_simd.h    the loops written in those names */
#ifndef NEXTD_CPU_H
#define NEXTD_CPU_H

#include <stdatomic.h>

#include "engine/backend/backend.h"
#include "engine/backend/pool.h"

#define CPU_STRIPE 32     /* outputs of a matrix computed together */
#define CPU_ITEM_ROWS 128 /* rows of a step that one work item takes: for so many a stripe is unpacked once */
#define CPU_MAX_PARTS 3   /* tensors of a matrix */
#define CPU_ROWS 8        /* rows that are quantised together, where there are as many */
#define CPU_KEYS 16       /* keys of a KV page that lie together */
#define CPU_QUERIES 72    /* query heads, of one or more rows, that share one walk over KV pages */
#define CPU_TILE 6        /* of them, those whose sums are in registers together, at most */

/* An operand: n_rows rows of activations cut into blocks of 32. Blocks lie in slot-major order (all of slot 0, then slot 1, ...; operand_place), so
 * that a kernel that walks slot after slot reads memory forward; within a block the rows follow each other. Index of block b of row r:
 * i = operand_place(b) * stride + r: operand_at. */
struct operand {
    int n_cols, n_blocks;
    int stride;          /* rows from block to block, >= n_rows; odd where large, lest blocks collide in the cache's sets */
    int8_t *q;           /* [i][32] */
    float *d;            /* [i] */
    float *s;            /* [i] d * sum(q) */
    int32_t *start;      /* [i] QUANT_MAGIC_BITS - 128 sum(q): where sums of unsigned weights (w + 128) start */
    int32_t *half[2];    /* [i] QUANT_MAGIC_BITS - 32 sum(q) of either half */
    float *f;            /* [i][32] the values themselves, for float weights */
};

static inline int operand_slot_start(int n_blocks, int slot)
{
    int whole = n_blocks / QUANT_SLOTS, extra = n_blocks % QUANT_SLOTS;
    return slot * whole + (slot < extra ? slot : extra);
}

static inline int operand_place(int n_blocks, int b)
{
    return operand_slot_start(n_blocks, b % QUANT_SLOTS) + b / QUANT_SLOTS;
}

/* Index of block b of a row. */
static inline size_t operand_at(const struct operand *o, int b, int row)
{
    return (size_t)operand_place(o->n_blocks, b) * (size_t)o->stride + (size_t)row;
}

/* The sum of half h of block i. */
static inline int16_t operand_sum(const struct operand *x, int h, size_t i)
{
    return (int16_t)((QUANT_MAGIC_BITS - x->half[h][i]) / 32);
}

/* Which parts of an operand a matrix reads; Q: q and d. */
enum { NEEDS_Q = 1, NEEDS_S = 2, NEEDS_START = 4, NEEDS_HALF = 8, NEEDS_F = 16 };

/* 32 outputs (fewer in the last of a part) of one type. */
struct stripe {
    const uint8_t *w; /* plain rows of the file's format (generic), or tiles (pack.h) */
    int type;         /* enum tensor_type */
    int col;          /* first output in the matrix's result */
    int n;            /* outputs, <= 32 */
};

/* A tensor of a matrix. */
struct part {
    const uint8_t *w;   /* its first stripe */
    size_t step;        /* bytes from one of its stripes to the next */
    int type, n_rows;
    int first;          /* which stripe of the matrix its first one is; for a pair see below */
    int col;            /* first output in the matrix's result */
};

struct matrix {
    int n_rows, n_cols, n_blocks;
    int needs;         /* NEEDS_... of its stripes together */
    size_t at;         /* in the arena */
    bool pair;         /* stripes 2c and 2c + 1 are gate and up of outputs 32 c .. */
    int n_stripes, n_parts;
    struct part parts[CPU_MAX_PARTS];
    struct matrix *next; /* the backend's list, for close */
};

/* Stripe i of a part, and of a matrix. Computed: a table of them would come from memory, and while the processor waits for an entry it asks for no
 * weights. One row of Qwen 1.5B took 1.15 times as long with a table, prefetched or not. */
static inline struct stripe part_stripe(const struct part *p, int i)
{
    int left = p->n_rows - i * CPU_STRIPE;
    return (struct stripe){p->w + (size_t)i * p->step, p->type, p->col + i * CPU_STRIPE, left < CPU_STRIPE ? left : CPU_STRIPE};
}

static inline struct stripe matrix_stripe(const struct matrix *m, int i)
{
    if (m->pair)
        return part_stripe(&m->parts[i % 2], i / 2);
    const struct part *p = m->parts;
    while (p + 1 < m->parts + m->n_parts && i >= p[1].first)
        p++;
    return part_stripe(p, i - p->first);
}

struct vector {
    int n;
    float *values; /* in the arena */
    size_t at;
    struct vector *next; /* the backend's list, for close */
};

/* The KV page of one (layer, page, kv head): K transposed, so that a thread or lane owns a key; V plain, so that it owns a dimension. K is cut into
 * groups of keys: a page that is not full is read no further than its last group, and storing a key touches half as many lines. */
struct kv_page {
    uint16_t *k; /* [KV_PAGE / CPU_KEYS][head_dim][CPU_KEYS] f16 */
    uint16_t *v; /* [KV_PAGE][v_stride] f16 */
};

/* Index of value 0 of key t of a page; value d is d * CPU_KEYS further. */
static inline size_t kv_key(int t, int head_dim)
{
    return (size_t)(t / CPU_KEYS) * (size_t)head_dim * CPU_KEYS + (size_t)(t % CPU_KEYS);
}

/* The attention of n_rows consecutive positions of a sequence, the n_heads query heads that share a kv head. See lanes.h for the formula. */
struct attend_job {
    const float *q;              /* row i, head h: q + i * q_stride + h * head_dim; rotated */
    float *out;                  /* row i, head h: out + i * out_stride + h * head_dim */
    size_t q_stride, out_stride;
    int n_rows, n_heads, head_dim, v_stride;
    int pos, window;             /* row i sits at pos + i and sees the last `window` positions up to its own; 0: all */
    float scale;
    const int32_t *pages;        /* of the sequence */
    uint16_t *layer_kv;          /* page p, this kv head: layer_kv + p * page_elems */
    size_t page_elems;           /* distance of two pages */
    const uint16_t *next;        /* the page that is read after this job's, most likely, and how many of its keys; or NULL and 0 */
    int n_next;
    /* NULL: all chunks are computed, merged and finished. Else only chunks chunk_first .. chunk_last of the one row are computed, and chunk c of
     * head h is left at partials + h * partials_stride + (c - first chunk seen) * partial_floats(v_stride). */
    float *partials;
    size_t partials_stride;
    int chunk_first, chunk_last;
};

/* A chunk's result by itself: maximum, sum, values. */
static inline size_t partial_floats(int v_stride)
{
    return (size_t)v_stride + 16; /* m and l at v_stride and v_stride + 1 */
}

/* First position that row i of a job sees. */
static inline int attend_first(const struct attend_job *j, int i)
{
    return j->window > 0 && j->pos + i >= j->window ? j->pos + i - j->window + 1 : 0;
}

struct cpu_kernels {
    const char *name;
    bool (*supported)(void);
    bool tiled; /* weights are packed into tiles */
    /* out[r - r0][0 .. 31] = stripe . x[r] for r0 <= r < r1; writes 32 columns whatever s->n. `ahead`: bytes that will be read next, or NULL. */
    void (*gemm)(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead);
    /* Rows x, x + ld, ... of n_blocks blocks into rows and blocks of an operand. -1 if a value is not finite. */
    int (*quantise)(const float *x, size_t ld, struct operand *o, int row, int n_rows, int first_block, int n_blocks, int needs);
    void (*norm)(const float *x, const float *w, int n, float eps, float *out);
    /* gate[i] = act(gate[i]) * up[i], n values, n a multiple of 32 */
    void (*activate)(enum activation act, float *gate, const float *up, int n);
    /* x[i] += y[i], n values in each of n_rows rows */
    void (*add)(float *x, size_t ldx, const float *y, size_t ldy, int n, int n_rows);
    /* cs_out[i] = cosine and sine of pos * freq[i], n pairs */
    void (*angles)(const double *freq, int n, int pos, float *cs_out);
    void (*rotate)(float *x, int rope_dims, bool neox, const float *cs);
    /* Output `row` (0..31) of a stripe as f32. */
    void (*dequantise)(const struct stripe *s, int row, int n_cols, float *out);
    void (*to_f16)(const float *x, int n, uint16_t *out);
    void (*attend)(const struct attend_job *job, float *scratch);
    /* Merges n consecutive partials of a head and finishes them. */
    void (*attend_merge)(const float *partials, int n, int head_dim, int v_stride, float *out);
    float (*max)(const float *x, int n); /* NaN if one is; n is a multiple of CPU_STRIPE */
    /* most[n_rows][32] = each column's maximum of x and, unless x is the `first`, of what was there. -1 if a value is not finite. */
    int (*max_columns)(const float *x, size_t ld, int n_rows, float *most, bool first);
    /* Copies n_rows rows of a tile of 32 columns to where nobody reads them soon: around the caches, if the processor can. `to` and ld are multiples
     * of 64 bytes. Other threads may read there once end_far has been called. */
    void (*put_far)(const float *tile, int n_rows, float *to, size_t ld);
    void (*end_far)(void);
};

extern const struct cpu_kernels cpu_kernels_generic;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avxvnni, cpu_kernels_avx512;
#elif defined(__aarch64__)
extern const struct cpu_kernels cpu_kernels_neon;
#endif

struct cpu {
    struct backend base;
    struct backend_shape shape;
    const struct cpu_kernels *k;
    struct pool *pool;

    struct matrix *matrices;
    struct vector *vectors;
    size_t weight_bytes;
    uint8_t *arena; /* the values of both; read-only once sealed */
    size_t arena_size;

    /* buffers of a step, carved from `work` */
    uint8_t *work;
    size_t work_size;
    float *x, *qkv, *o, *t, *scores, *block_max; /* t: a row-wise temporary, [max_rows][max(d_model, n_head head_dim)] */
    int qkv_cols, o_cols, t_cols, scores_stride, n_score_blocks;
    struct operand a, oo, h, v; /* A, O, H and the wanted rows */
    float **scratch;            /* [n_threads] */

    uint16_t *kv;
    /* Page by page, so that memory is touched as pages are used: huge pages of the system would else be touched in every layer. */
    size_t kv_size, head_elems, layer_elems, page_elems; /* elements of one head's K and V, of a layer's part of a page, of a page */
    int v_stride;

    const struct batch *batch; /* of the step */
    int first_score, n_scores; /* the wanted rows whose scores are held */
    int32_t *groups;           /* [n_groups + 1] rows whose attention is computed together: consecutive positions of a sequence */
    int n_groups;
    float *partials;           /* [n_partials] of attention split over threads */
    size_t n_partials;
    float *cs[ROPE_TABLES];    /* [max_rows][rope_dims / 2][2] each: cosine and sine */
    int n_tables;
    atomic_bool fault; /* a value was not finite; sticky */
};

/* Floats of scratch per thread: a gate and an up tile, or the temporaries of a page of attention. */
size_t cpu_scratch_floats(const struct backend_shape *shape);

/* cpu_step.c */
void cpu_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables);
void cpu_embed(struct backend *be, const struct matrix *m, float scale);
void cpu_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer);
void cpu_qkv(struct backend *be, const struct matrix *m, const struct vector *bias);
void cpu_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps);
void cpu_attend(struct backend *be, const struct attend_params *p, const struct matrix *consumer);
void cpu_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps);
void cpu_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer);
void cpu_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps);
void cpu_vocab(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n);
int cpu_sync(struct backend *be, struct scores *scores_out, struct err *err);
void cpu_copy_page(struct backend *be, int dst, int src, int n_pos);

#endif

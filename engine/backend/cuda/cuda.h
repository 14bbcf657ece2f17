/* cuda.h: what the host files of the CUDA backend share: matrices and buffers, and how errors are kept.
 *
 * cuda.c         life: the device, its memory, weights         cuda_inputs.c  begin: a batch on its way to the device, page tables
 * cuda_step.c    the operations of a step, each a launch or two  cuda_graph.c   decode steps captured and replayed
 * cuda_draw.c    drawing on the device, and landing
 * repack.[ch]    weights to stripes of layout.h                kernels.h      the launchers of the .cu files, and what they read
 *
 * Everything goes to one stream, so what is enqueued later sees what was enqueued before; the host waits in sync(), in seal() and where a pinned
 * buffer is about to be written again. An error of CUDA is kept, the first one, as a sentence; from then on nothing is enqueued and sync() reports
 * it. */
#ifndef NEXTD_CUDA_H
#define NEXTD_CUDA_H

#include <cuda_runtime_api.h>

#include "engine/backend/backend.h"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/pool.h"

#define CUDA_ALIGN 256
#define CUDA_MAX_ROWS 256                    /* of a captured step */
#define CUDA_CAPTURES 18                     /* at most: of 1, 2, 4 ... CUDA_MAX_ROWS rows, with attention split and whole */
#define CUDA_MAX_CHANGES 32768               /* of page tables in a pinned buffer */

struct matrix {
    struct device_matrix d;
    size_t at[DEVICE_PARTS]; /* of its parts, in the arena */
    int needs;               /* OPERAND_... of its parts together */
    struct matrix *next;     /* the backend's list, for close */
};

struct vector {
    int n;
    float *values; /* in the arena */
    size_t at;
    struct vector *next;
};

/* A pinned buffer that the device reads: it may be written again when `read` has come to pass. */
struct staging {
    uint8_t *bytes;
    cudaEvent_t read;
    bool pending;
};

/* A step's scores, and its draws until they land. */
struct flight {
    int n_out;
    cudaEvent_t done;
    struct drawn *drawn;          /* [max_scores] pinned, like the next */
    int *fault;
    float *scores, *block_max;    /* in device memory: S, which stays until the step has landed */
};

#define FLIGHTS 2

/* Rows of f32 in device memory; ld is a multiple of 32. */
struct device_rows {
    float *p;
    int ld;
};

/* Page tables in device memory, and what the host knows of them. */
struct page_tables {
    int n, max_pages;      /* places, a power of 2; entries of each */
    int32_t *on_device;    /* [n][max_pages] */
    int32_t *sent;         /* [n][max_pages] the page and 1; 0: none yet */
    const int32_t **whose; /* [n] table of the host that was there last */
    uint32_t *step, now;   /* [n] when it was; which step this is */
};

struct cuda {
    struct backend base;
    char name[24]; /* base.device */
    int device;
    bool eager;     /* nothing is captured */
    int max_blocks; /* that the device runs at once, about */
    struct backend_shape shape;
    struct pool *pool;
    cudaStream_t stream;

    bool lost; /* `why` says how; nothing is enqueued any more */
    struct err why;

    struct matrix *matrices;
    struct vector *vectors;
    size_t weight_bytes, stripe_bytes; /* of all; of the largest stripe of any tensor */
    uint8_t *arena;
    struct staging fills[2]; /* from reserve to seal */
    size_t fill_bytes;
    int fill;                /* which is next */

    /* The buffers of a step, carved from `work`. */
    uint8_t *work;
    struct device_rows x, qkv, o, t; /* t: what a post norm waits for */
    struct device_operand a, oo, h, v; /* A, O, H and the wanted rows */
    size_t scores_ld;
    int n_score_blocks;
    float *partials;                 /* [n_pages][n_head] of attention */
    int32_t *items;                  /* [n_pages][2] */
    float *cs[ROPE_TABLES];          /* [max_rows][rope_dims / 2][2] */
    int *fault;
    uint8_t *inputs;                 /* of a step; see cuda_inputs.c */
    size_t input_bytes, freq_at, changes_at;
    int max_changes;
    struct page_tables tables;

    uint16_t *kv_pages;
    struct device_kv kv;

    struct staging steps[2]; /* inputs on their way */
    int step;
    struct { /* what sync copies back, pinned */
        float *scores, *block_max;
        int *fault;
    } host;

    /* Drawing; see cuda_draw.c. */
    struct device_draws draw;        /* what no step changes */
    size_t draw_bytes, edits_at;     /* of a step's draws */
    int n_changed_blocks;            /* that there is room for */
    uint8_t *draws;                  /* in device memory */
    struct staging draw_steps[2];    /* on their way */
    int draw_step;
    struct flight flights[FLIGHTS];
    int next_flight, n_flights;
    cudaStream_t fetches;            /* rows of a landed step come while the next one runs */
    uint64_t n_fetched;

    struct device_batch batch; /* of the step */
    const int32_t *live;       /* rows that are there, where a step is captured; else NULL */
    struct device_rope rope;   /* what rope_store left to attend to do, */
    bool ropes;                /* if it did */
    struct device_post post;   /* what a projection left to the next norm */
    bool posts;
    bool whole;                /* how splits are attended: device_attend */
    int replay;                /* the capture that does it, or -1 */
    int n_out, n_tables;
    int first_score, n_scores;

    bool capturing;
    struct {
        struct {
            int n_rows;
            bool whole;
        } kind[CUDA_CAPTURES]; /* ascending by rows */
        cudaGraphExec_t exec[CUDA_CAPTURES];
        int n_kinds, n; /* to be captured; captured */
        struct captures sum;
        double began_ms;   /* of the one under way, */
        size_t free_bytes; /* and the memory that was left */
    } captures;
};

static inline struct cuda *cuda_of(struct backend *be)
{
    return (struct cuda *)be;
}

/* Makes the backend's device the thread's. False where the backend is lost: then nothing is to be done. */
bool cuda_enter(struct cuda *c);
/* Keeps an error. `doing` completes "... while <doing>". True where there is none. */
bool cuda_check(struct cuda *c, cudaError_t rc, const char *doing);
/* Waits until the device has read the buffer. */
bool cuda_acquire(struct cuda *c, struct staging *s);
/* Says that all copies from the buffer are enqueued. */
void cuda_release(struct cuda *c, struct staging *s);

static inline size_t cuda_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* cuda_inputs.c */
/* Of shape: the sizes of inputs and page tables. */
void cuda_size_inputs(struct cuda *c);
/* A batch without rows, whose arrays are where a step's will be. */
struct device_batch cuda_batch_of(struct cuda *c);
/* Whether rows that are alone in their sequences, of n_chunks chunks in all and at most `longest`, are better attended a row to a block: there are
 * enough of them for half of the blocks that the device runs at once, and none keeps the others waiting for long. */
bool cuda_attends_whole(const struct cuda *c, int n_rows, long n_chunks, long longest);
/* Where begin() says how many rows a step has. */
const int32_t *cuda_live(struct cuda *c);
void cuda_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables);

/* cuda_graph.c */
/* Of shape and device: the kinds of steps that are captured. */
void cuda_plan_captures(struct cuda *c);
bool cuda_capture(struct backend *be, int i);
int cuda_captured(struct backend *be, struct err *err);
struct captures cuda_captures(const struct backend *be);
bool cuda_replay(struct backend *be);
void cuda_close_graphs(struct cuda *c);

/* Enqueues a copy to the host; n may be 0. */
void cuda_copy_back(struct cuda *c, void *to, const void *from, size_t n, cudaStream_t stream);
/* 0, or -1 and what was lost; a fault that the device told is one. */
int cuda_report(struct cuda *c, const int *fault, struct err *err);

/* cuda_step.c */
/* The post norm that no other norm followed, if there is one. */
void cuda_finish_post(struct cuda *c);
void cuda_embed(struct backend *be, const struct matrix *m, float scale);
void cuda_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer);
void cuda_qkv(struct backend *be, const struct matrix *m, const struct vector *bias);
void cuda_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps);
void cuda_attend(struct backend *be, const struct attend_params *p, const struct matrix *consumer);
void cuda_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps);
void cuda_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer);
void cuda_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps);
void cuda_vocab(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n);
int cuda_sync(struct backend *be, struct scores *scores_out, struct err *err);
void cuda_copy_page(struct backend *be, int dst, int src, int n_pos);

/* cuda_draw.c */
void cuda_draw(struct backend *be, const struct draw *draws, int n);
int cuda_land(struct backend *be, struct drawn *drawn_out, struct scores *scores_out, struct err *err);
uint64_t cuda_rows_fetched(const struct backend *be);

extern const struct backend_ops backend_cuda;

#endif

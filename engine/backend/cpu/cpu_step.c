/* cpu_step.c: the operations of a step, each cut into items for the pool.
 *
 * Two kinds of loops. Row loops (norms, rotation, requantisation) hand out rows; small ones stay on the calling thread, since waking a loop costs as
 * much as they do. Matrix loops hand out (group of stripes, block of rows) pairs, stripe-major, so that a stripe's weights stay in the
 * first-level cache for all rows; an item computes its tile into thread scratch or its final place and finishes it there (bias, residual,
 * activation and requantisation, block maxima). Every item writes its own elements and every element has one order of operations, so neither the
 * cut nor the thread changes a bit.
 *
 * Nothing here computes: arithmetic lives in the kernel table. */
#include <assert.h>
#include <fenv.h>
#include <string.h>

#include "engine/backend/cpu/cpu.h"

/* Scores of few rows that would not stay in the caches go around them: an ordinary store reads its line first, and at few rows it is reading that a
 * step waits for. Steps of 8 and 16 rows take 0.98 of the time for Gemma 270M, 0.99 for Qwen 0.5B. At 32 rows arithmetic hides the reading, and the
 * copy costs 2 % of the projection; SmolLM2's scores (8 rows: 1.5 MiB) stay in the caches. Tried and no faster: copies of whole blocks of scores,
 * stores from the matrix kernel's registers. */
#define FAR_ROWS 16
#define FAR_BYTES ((size_t)4 << 20)
/* Pairs of stripes whose activations one row computes together. Activation and quantising end in a few stores to lines that the other thread has, and
 * while a thread waits for those it asks for no weights: one by one they take 8 % of the time of gate and up of Qwen 1.5B. More rows wait less, and
 * their tiles would not stay in first-level cache (8 rows: no faster; 32 rows: 2 to 5 % slower). At most CPU_ITEM_ROWS, for the thread's scratch. */
#define PAIRS 64
#define ALONE 12288 /* values; row loops of no more are not worth a fork */

static struct cpu *cpu_of(struct backend *be)
{
    return (struct cpu *)be;
}

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static void set_fault(struct cpu *c)
{
    atomic_store_explicit(&c->fault, true, memory_order_relaxed);
}

/* Runs a row loop: alone if it is short. */
static void run_rows(struct cpu *c, int n_rows, int row_values, void (*fn)(void *ctx, int thread, int first, int last), void *ctx)
{
    bool alone = (long)n_rows * row_values <= ALONE;
    int share = (n_rows + c->shape.n_threads - 1) / c->shape.n_threads;
    int grain = alone ? n_rows : min_int(share, (n_rows / (c->shape.n_threads * 4) / CPU_ROWS + 1) * CPU_ROWS);
    if (n_rows > 0)
        pool_run(c->pool, n_rows, grain, fn, ctx);
}

static void operand_rows(struct operand *o, int n_rows)
{
    o->stride = n_rows < 16 ? n_rows : (n_rows | 1) + 2;
}

/* ---- begin, embed, norm ---- */

/* Cuts the rows into groups of consecutive positions, so that up to CPU_QUERIES query heads share a walk over the pages, and threads find work. */
static void group_rows(struct cpu *c)
{
    const struct batch *b = c->batch;
    int most = min_int(CPU_QUERIES / (c->shape.n_head / c->shape.n_kv), b->n_rows * c->shape.n_kv / (8 * c->shape.n_threads)), n = 0;
    for (int r = 0; r < b->n_rows; r++) {
        bool joins = n > 0 && r - c->groups[n - 1] < most && b->seq[r] == b->seq[r - 1] && b->pos[r] == b->pos[r - 1] + 1;
        if (!joins)
            c->groups[n++] = r;
    }
    c->groups[n] = b->n_rows;
    c->n_groups = n;
}

struct angles_job {
    struct cpu *c;
    const double *const *freq;
};

static void angle_rows(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct angles_job *j = ctx;
    struct cpu *c = j->c;
    int dims = c->shape.rope_dims;
    for (int t = 0; t < c->n_tables; t++)
        for (int r = first; r < last; r++)
            c->k->angles(j->freq[t], dims / 2, c->batch->pos[r], c->cs[t] + (size_t)r * (size_t)dims);
}

void cpu_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables)
{
    struct cpu *c = cpu_of(be);
    assert(batch->n_rows > 0 && batch->n_rows <= c->shape.max_rows);
    assert(batch->n_out >= 0 && batch->n_out <= batch->n_rows);
    assert(n_tables <= ROPE_TABLES);
    fesetenv(FE_DFL_ENV); /* denormals are part of the bits; see pool.c for the workers */
    c->batch = batch;
    c->n_tables = n_tables;
    c->first_score = c->n_scores = 0;
    group_rows(c);
    operand_rows(&c->a, batch->n_rows);
    operand_rows(&c->oo, batch->n_rows);
    operand_rows(&c->h, batch->n_rows);
    struct angles_job job = {c, freq};
    run_rows(c, batch->n_rows, n_tables * c->shape.rope_dims, angle_rows, &job);
}

struct embed_job {
    struct cpu *c;
    const struct matrix *m;
    float scale;
};

static void embed_rows(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct embed_job *j = ctx;
    struct cpu *c = j->c;
    int d_model = c->shape.d_model;
    for (int r = first; r < last; r++) {
        int token = c->batch->token[r];
        assert(token >= 0 && token < j->m->n_rows);
        float *x = c->x + (size_t)r * (size_t)d_model;
        const struct stripe s = matrix_stripe(j->m, token / CPU_STRIPE);
        c->k->dequantise(&s, token % CPU_STRIPE, d_model, x);
        if (j->scale != 1.0f)
            for (int i = 0; i < d_model; i++)
                x[i] *= j->scale;
    }
}

void cpu_embed(struct backend *be, const struct matrix *m, float scale)
{
    struct cpu *c = cpu_of(be);
    assert(m->n_cols == c->shape.d_model);
    struct embed_job job = {c, m, scale};
    run_rows(c, c->batch->n_rows, c->shape.d_model, embed_rows, &job);
}

struct norm_job {
    struct cpu *c;
    const float *w;
    float eps;
    const int32_t *rows; /* rows of X to take, or NULL: all */
    struct operand *to;
    int needs;
};

static void norm_rows(void *ctx, int thread, int first, int last)
{
    const struct norm_job *j = ctx;
    struct cpu *c = j->c;
    int n = c->shape.d_model;
    float *normed = c->scratch[thread];
    size_t ld = (size_t)n;
    for (int i = first, m; i < last; i += m) {
        m = min_int(last - i, CPU_ROWS);
        for (int k = 0; k < m; k++) {
            int r = j->rows == NULL ? i + k : j->rows[i + k];
            c->k->norm(c->x + (size_t)r * ld, j->w, n, j->eps, normed + (size_t)k * ld);
        }
        if (c->k->quantise(normed, ld, j->to, i, m, 0, j->to->n_blocks, j->needs) != 0)
            set_fault(c);
    }
}

void cpu_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer)
{
    struct cpu *c = cpu_of(be);
    assert(w->n == c->shape.d_model);
    assert(consumer->n_cols == c->shape.d_model);
    struct norm_job job = {c, w->values, eps, NULL, &c->a, consumer->needs};
    run_rows(c, c->batch->n_rows, c->shape.d_model, norm_rows, &job);
}

/* ---- matrices ---- */

enum finish { FINISH_STORE, FINISH_ADD, FINISH_PAIR, FINISH_SCORES };

struct matrix_job {
    struct cpu *c;
    const struct matrix *m;
    const struct operand *x;
    int n_rows, n_row_blocks, group; /* group: stripes of an item */
    enum finish finish;
    float *out;
    int ld;
    const float *bias;
    enum activation act;
    int needs; /* of H */
    bool far;  /* scores go around the caches */
};

/* Where the reader goes after stripe s at this row block: the next stripe, or nowhere while the same stripe is read again. */
static const uint8_t *ahead_of(const struct matrix_job *j, int stripe, bool last_rows)
{
    return last_rows && stripe + 1 < j->m->n_stripes ? matrix_stripe(j->m, stripe + 1).w : NULL;
}

static void finish_store(const struct matrix_job *j, int stripe, int r0, int r1, float *tile, const uint8_t *ahead)
{
    const struct stripe s = matrix_stripe(j->m, stripe);
    bool direct = s.n == CPU_STRIPE;
    float *out = j->out + (size_t)r0 * (size_t)j->ld + s.col;
    j->c->k->gemm(&s, j->m->n_cols, j->x, r0, r1, direct ? out : tile, direct ? (size_t)j->ld : CPU_STRIPE, ahead);
    for (int r = r0; r < r1 && !direct; r++)
        memcpy(out + (size_t)(r - r0) * (size_t)j->ld, tile + (size_t)(r - r0) * CPU_STRIPE, (size_t)s.n * sizeof *out);
    if (j->bias != NULL)
        j->c->k->add(out, (size_t)j->ld, j->bias + s.col, 0, s.n, r1 - r0);
}

static void finish_add(const struct matrix_job *j, int stripe, int r0, int r1, float *tile, const uint8_t *ahead)
{
    const struct stripe s = matrix_stripe(j->m, stripe);
    j->c->k->gemm(&s, j->m->n_cols, j->x, r0, r1, tile, CPU_STRIPE, ahead);
    if (j->bias != NULL)
        j->c->k->add(tile, CPU_STRIPE, j->bias + s.col, 0, s.n, r1 - r0);
    j->c->k->add(j->out + (size_t)r0 * (size_t)j->ld + s.col, (size_t)j->ld, tile, CPU_STRIPE, s.n, r1 - r0);
}

/* Pairs `first` to `last` of stripes, which all wait for the last (PAIRS): one pair of any rows, or any pairs of one row,
 * whose blocks lie in order. */
static void finish_pairs(const struct matrix_job *j, int first, int last, int r0, int r1, float *tile, bool last_rows)
{
    struct cpu *c = j->c;
    int n_rows = r1 - r0, tile_floats = n_rows * CPU_STRIPE;
    assert(n_rows == 1 || last - first == 1);
    float *ups = tile + CPU_ITEM_ROWS * CPU_STRIPE;
    for (int i = first; i < last; i++) {
        const struct stripe gate = matrix_stripe(j->m, 2 * i), up = matrix_stripe(j->m, 2 * i + 1);
        c->k->gemm(&gate, j->m->n_cols, j->x, r0, r1, tile + (i - first) * tile_floats, CPU_STRIPE, up.w);
        c->k->gemm(&up, j->m->n_cols, j->x, r0, r1, ups + (i - first) * tile_floats, CPU_STRIPE, ahead_of(j, 2 * i + 1, last_rows));
    }
    c->k->activate(j->act, tile, ups, (last - first) * tile_floats);
    if (c->k->quantise(tile, CPU_STRIPE, &c->h, r0, n_rows, first, last - first, j->needs) != 0)
        set_fault(c);
}

/* A block of scores. Its maxima are kept by column, since a maximum across lanes costs more than all of a tile's row. */
static void finish_scores(const struct matrix_job *j, int block, int end, int r0, int r1, float *tile, bool last_rows)
{
    struct cpu *c = j->c;
    int first = block * j->group, n = r1 - r0;
    float *most = tile + CPU_ITEM_ROWS * CPU_STRIPE;
    for (int i = first; i < end; i++) {
        const struct stripe s = matrix_stripe(j->m, i);
        float *place = j->out + (size_t)r0 * (size_t)j->ld + s.col, *x = j->far ? tile : place;
        size_t ld = j->far ? CPU_STRIPE : (size_t)j->ld;
        c->k->gemm(&s, j->m->n_cols, j->x, r0, r1, x, ld, ahead_of(j, i, last_rows));
        for (int r = 0; r < n && s.n < CPU_STRIPE; r++) /* columns beyond the vocabulary count for nothing */
            for (int col = s.n; col < CPU_STRIPE; col++)
                x[(size_t)r * ld + (size_t)col] = x[(size_t)r * ld];
        if (c->k->max_columns(x, ld, n, most, i == first) != 0)
            set_fault(c);
        if (j->far)
            c->k->put_far(tile, n, place, (size_t)j->ld);
    }
    for (int r = 0; r < n; r++)
        c->block_max[(size_t)(r0 + r) * (size_t)c->n_score_blocks + (size_t)block] = c->k->max(most + (size_t)r * CPU_STRIPE, CPU_STRIPE);
}

static void matrix_items(void *ctx, int thread, int first, int last)
{
    const struct matrix_job *j = ctx;
    float *tile = j->c->scratch[thread];
    for (int item = first; item < last; item++) {
        int group = item / j->n_row_blocks, rows = item % j->n_row_blocks;
        int r0 = (int)((long)j->n_rows * rows / j->n_row_blocks), r1 = (int)((long)j->n_rows * (rows + 1) / j->n_row_blocks);
        int end = min_int((group + 1) * j->group, j->m->n_stripes);
        bool last_rows = rows == j->n_row_blocks - 1;
        if (j->finish == FINISH_PAIR) {
            int n = j->n_rows == 1 ? min_int(last - item, PAIRS) : 1;
            finish_pairs(j, group, group + n, r0, r1, tile, last_rows);
            item += n - 1;
            continue;
        }
        if (j->finish == FINISH_SCORES) {
            finish_scores(j, group, end, r0, r1, tile, last_rows);
            continue;
        }
        for (int s = group * j->group; s < end; s++) {
            if (j->finish == FINISH_ADD)
                finish_add(j, s, r0, r1, tile, ahead_of(j, s, last_rows));
            else
                finish_store(j, s, r0, r1, tile, ahead_of(j, s, last_rows));
        }
    }
    if (j->far)
        j->c->k->end_far();
}

static void run_matrix(struct matrix_job *j)
{
    int n_groups = (j->m->n_stripes + j->group - 1) / j->group;
    j->n_row_blocks = (j->n_rows + CPU_ITEM_ROWS - 1) / CPU_ITEM_ROWS;
    int n_items = n_groups * j->n_row_blocks, grain = n_items / (j->c->shape.n_threads * 8);
    if (n_items > 0)
        pool_run(j->c->pool, n_items, grain > 0 ? grain : 1, matrix_items, j);
}

void cpu_qkv(struct backend *be, const struct matrix *m, const struct vector *bias)
{
    struct cpu *c = cpu_of(be);
    assert(m->n_rows == (c->shape.n_head + 2 * c->shape.n_kv) * c->shape.head_dim);
    assert(bias == NULL || bias->n == m->n_rows);
    struct matrix_job job = {.c = c, .m = m, .x = &c->a, .n_rows = c->batch->n_rows, .group = 1, .finish = FINISH_STORE, .out = c->qkv,
                             .ld = c->qkv_cols, .bias = bias == NULL ? NULL : bias->values};
    run_matrix(&job);
}

void cpu_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer)
{
    struct cpu *c = cpu_of(be);
    assert(m->pair);
    assert(m->n_rows == c->shape.d_ff);
    assert(consumer->n_cols == c->shape.d_ff);
    struct matrix_job job = {.c = c, .m = m, .x = &c->a, .n_rows = c->batch->n_rows, .group = 2, .finish = FINISH_PAIR, .act = act,
                             .needs = consumer->needs};
    run_matrix(&job);
}

/* ---- projections back to X ---- */

struct post_job {
    struct cpu *c;
    const float *post;
    float eps;
};

static void post_rows(void *ctx, int thread, int first, int last)
{
    const struct post_job *j = ctx;
    struct cpu *c = j->c;
    int n = c->shape.d_model;
    for (int r = first; r < last; r++) {
        float *normed = c->scratch[thread];
        c->k->norm(c->t + (size_t)r * (size_t)c->t_cols, j->post, n, j->eps, normed);
        c->k->add(c->x + (size_t)r * (size_t)n, 0, normed, 0, n, 1);
    }
}

static void project(struct cpu *c, const struct matrix *m, const struct operand *x, const struct vector *bias, const struct vector *post, float eps)
{
    assert(m->n_rows == c->shape.d_model);
    assert(m->n_cols == x->n_cols);
    struct matrix_job job = {.c = c, .m = m, .x = x, .n_rows = c->batch->n_rows, .group = 1, .finish = post == NULL ? FINISH_ADD : FINISH_STORE,
                             .out = post == NULL ? c->x : c->t, .ld = post == NULL ? c->shape.d_model : c->t_cols,
                             .bias = bias == NULL ? NULL : bias->values};
    run_matrix(&job);
    if (post != NULL) {
        struct post_job rows = {c, post->values, eps};
        run_rows(c, c->batch->n_rows, c->shape.d_model, post_rows, &rows);
    }
}

void cpu_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps)
{
    project(cpu_of(be), m, &cpu_of(be)->oo, bias, post, eps);
}

void cpu_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps)
{
    project(cpu_of(be), m, &cpu_of(be)->h, NULL, post, eps);
}

/* ---- rotation, KV, attention ---- */

static uint16_t *kv_of(struct cpu *c, int layer, int page, int head)
{
    assert(page >= 0 && page < c->shape.n_pages);
    return c->kv + (size_t)layer * c->layer_elems + (size_t)page * c->page_elems + (size_t)head * c->head_elems;
}

struct rope_job {
    struct cpu *c;
    int layer;
    const float *cs;
    const float *q_norm, *k_norm;
    float eps;
};

static void rotate_head(const struct rope_job *j, float *x, const float *norm, const float *cs, float *scratch)
{
    const struct backend_shape *s = &j->c->shape;
    if (norm != NULL) {
        j->c->k->norm(x, norm, s->head_dim, j->eps, scratch);
        memcpy(x, scratch, (size_t)s->head_dim * sizeof *x);
    }
    j->c->k->rotate(x, s->rope_dims, s->rope_neox, cs);
}

/* Asks for the lines that a row's keys and values go to, a line for every two values of a key, unless the row before has been there. */
static void ask_for_places(struct cpu *c, int layer, int row)
{
    const struct batch *b = c->batch;
    if (row > 0 && b->seq[row] == b->seq[row - 1] && b->pos[row] % CPU_KEYS != 0)
        return;
    int n = c->shape.head_dim, page = b->pages[b->seq[row]][b->pos[row] / KV_PAGE], t = b->pos[row] % KV_PAGE;
    for (int h = 0; h < c->shape.n_kv; h++) {
        uint16_t *kv = kv_of(c, layer, page, h), *key = kv + kv_key(t, n), *value = kv + n * KV_PAGE + t * c->v_stride;
        for (int d = 0; d < n; d += 2)
            __builtin_prefetch(key + d * CPU_KEYS, 1);
        for (int d = 0; d < n; d += 32)
            __builtin_prefetch(value + d, 1);
    }
}

static void rope_rows(void *ctx, int thread, int first, int last)
{
    const struct rope_job *j = ctx;
    struct cpu *c = j->c;
    const struct backend_shape *s = &c->shape;
    const struct batch *b = c->batch;
    int n = s->head_dim;
    for (int r = first; r < last; r++) {
        ask_for_places(c, j->layer, r);
        float *q = c->qkv + (size_t)r * (size_t)c->qkv_cols, *k = q + s->n_head * n, *v = k + s->n_kv * n, *scratch = c->scratch[thread];
        const float *cs = j->cs + (size_t)r * (size_t)s->rope_dims;
        for (int h = 0; h < s->n_head; h++)
            rotate_head(j, q + h * n, j->q_norm, cs, scratch);
        int page = b->pages[b->seq[r]][b->pos[r] / KV_PAGE], t = b->pos[r] % KV_PAGE;
        uint16_t *half = (uint16_t *)scratch;
        for (int h = 0; h < s->n_kv; h++) {
            rotate_head(j, k + h * n, j->k_norm, cs, scratch);
            uint16_t *kv = kv_of(c, j->layer, page, h), *key = kv + kv_key(t, n);
            c->k->to_f16(k + h * n, n, half);
            for (int d = 0; d < n; d++)
                key[d * CPU_KEYS] = half[d];
            c->k->to_f16(v + h * n, n, kv + n * KV_PAGE + t * c->v_stride);
        }
    }
}

void cpu_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps)
{
    struct cpu *c = cpu_of(be);
    assert(layer >= 0 && layer < c->shape.n_layers);
    assert(table >= 0 && table < c->n_tables);
    assert((q_norm == NULL) == (k_norm == NULL));
    struct rope_job job = {c, layer, c->cs[table], q_norm == NULL ? NULL : q_norm->values, k_norm == NULL ? NULL : k_norm->values, eps};
    run_rows(c, c->batch->n_rows, 4 * c->qkv_cols, rope_rows, &job); /* K goes to a line of memory for every two values */
}

struct attend_step {
    struct cpu *c;
    const struct attend_params *p;
    int needs;
    int n_pieces;   /* each item is cut into so many ranges of chunks; 1: it is not */
    int max_chunks; /* of a row, where it is */
};

static struct attend_job attend_job_of(const struct attend_step *j, int group, int head)
{
    struct cpu *c = j->c;
    const struct backend_shape *s = &c->shape;
    const struct batch *b = c->batch;
    int r = c->groups[group], heads = s->n_head / s->n_kv;
    size_t head_at = (size_t)head * (size_t)heads * (size_t)s->head_dim;
    return (struct attend_job){
        .q = c->qkv + (size_t)r * (size_t)c->qkv_cols + head_at,
        .out = c->o + (size_t)r * (size_t)c->o_cols + head_at,
        .q_stride = (size_t)c->qkv_cols,
        .out_stride = (size_t)c->o_cols,
        .n_rows = c->groups[group + 1] - r,
        .n_heads = heads,
        .head_dim = s->head_dim,
        .v_stride = c->v_stride,
        .pos = b->pos[r],
        .window = j->p->window,
        .scale = j->p->scale,
        .pages = b->pages[b->seq[r]],
        .layer_kv = kv_of(c, j->p->layer, 0, head),
        .page_elems = c->page_elems,
    };
}

/* Items are (group of rows, kv head), head-minor: neighbours share the sequence. */
static void attend_items(void *ctx, int thread, int first, int last)
{
    const struct attend_step *j = ctx;
    int n_kv = j->c->shape.n_kv, n_items = j->c->n_groups * n_kv;
    struct attend_job job = attend_job_of(j, first / n_kv, first % n_kv), next = job;
    for (int i = first; i < last; i++, job = next) {
        if (i + 1 < n_items) {
            next = attend_job_of(j, (i + 1) / n_kv, (i + 1) % n_kv);
            int chunk = attend_first(&next, 0) / KV_PAGE;
            job.next = next.layer_kv + (size_t)next.pages[chunk] * next.page_elems;
            job.n_next = next.pos + next.n_rows - chunk * KV_PAGE;
        }
        j->c->k->attend(&job, j->c->scratch[thread]);
    }
}

/* The partials of a row's query head. */
static float *partials_of(const struct attend_step *j, int row, int head)
{
    struct cpu *c = j->c;
    return c->partials + ((size_t)row * (size_t)c->shape.n_head + (size_t)head) * (size_t)j->max_chunks * partial_floats(c->v_stride);
}

static int first_chunk(const struct attend_step *j, int pos)
{
    return j->p->window > 0 && pos >= j->p->window ? (pos - j->p->window + 1) / KV_PAGE : 0;
}

/* Items are (row, kv head, range of chunks). */
static void attend_pieces(void *ctx, int thread, int first, int last)
{
    const struct attend_step *j = ctx;
    struct cpu *c = j->c;
    int n_kv = c->shape.n_kv;
    for (int i = first; i < last; i++) {
        int piece = i % j->n_pieces, head = i / j->n_pieces % n_kv, row = i / j->n_pieces / n_kv;
        struct attend_job job = attend_job_of(j, row, head);
        int c0 = first_chunk(j, job.pos), n = job.pos / KV_PAGE + 1 - c0;
        job.partials = partials_of(j, row, head * job.n_heads);
        job.partials_stride = (size_t)j->max_chunks * partial_floats(c->v_stride);
        job.chunk_first = c0 + n * piece / j->n_pieces;
        job.chunk_last = c0 + n * (piece + 1) / j->n_pieces - 1;
        c->k->attend(&job, c->scratch[thread]);
    }
}

static void merge_heads(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct attend_step *j = ctx;
    struct cpu *c = j->c;
    for (int i = first; i < last; i++) {
        int row = i / c->shape.n_head, head = i % c->shape.n_head, pos = c->batch->pos[row];
        float *out = c->o + (size_t)row * (size_t)c->o_cols + (size_t)head * (size_t)c->shape.head_dim;
        c->k->attend_merge(partials_of(j, row, head), pos / KV_PAGE + 1 - first_chunk(j, pos), c->shape.head_dim, c->v_stride, out);
    }
}

/* Few rows on many threads: chunks are independent until they are merged, so their ranges are items too. Decides whether that pays and fits. */
static bool attend_splits(struct attend_step *j)
{
    struct cpu *c = j->c;
    const struct batch *b = c->batch;
    int n_items = b->n_rows * c->shape.n_kv, want = 4 * c->shape.n_threads;
    if (c->shape.n_threads == 1 || c->n_groups != b->n_rows || n_items >= want)
        return false;
    j->max_chunks = 0;
    for (int r = 0; r < b->n_rows; r++) {
        int n = b->pos[r] / KV_PAGE + 1 - first_chunk(j, b->pos[r]);
        j->max_chunks = n > j->max_chunks ? n : j->max_chunks;
    }
    j->n_pieces = min_int((want + n_items - 1) / n_items, j->max_chunks);
    size_t need = (size_t)b->n_rows * (size_t)c->shape.n_head * (size_t)j->max_chunks * partial_floats(c->v_stride);
    return j->n_pieces > 1 && need <= c->n_partials;
}

static void requantise_rows(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct attend_step *j = ctx;
    struct cpu *c = j->c;
    size_t ld = (size_t)c->o_cols;
    if (c->k->quantise(c->o + (size_t)first * ld, ld, &c->oo, first, last - first, 0, c->oo.n_blocks, j->needs) != 0)
        set_fault(c);
}

void cpu_attend(struct backend *be, const struct attend_params *p, const struct matrix *consumer)
{
    struct cpu *c = cpu_of(be);
    assert(p->layer >= 0 && p->layer < c->shape.n_layers);
    assert(consumer->n_cols == c->oo.n_cols);
    struct attend_step job = {c, p, consumer->needs, 1, 0};
    if (attend_splits(&job)) {
        pool_run(c->pool, c->batch->n_rows * c->shape.n_kv * job.n_pieces, 1, attend_pieces, &job);
        run_rows(c, c->batch->n_rows * c->shape.n_head, job.max_chunks * c->v_stride, merge_heads, &job);
    } else {
        pool_run(c->pool, c->n_groups * c->shape.n_kv, 1, attend_items, &job); /* the last items of a prompt are long: one by one */
    }
    run_rows(c, c->batch->n_rows, c->o_cols, requantise_rows, &job);
}

/* ---- scores, sync, pages ---- */

void cpu_vocab(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n)
{
    struct cpu *c = cpu_of(be);
    assert(m->n_rows == c->shape.n_vocab);
    assert(m->n_cols == c->shape.d_model);
    assert(n > 0 && n <= c->shape.max_scores);
    assert(first >= 0 && first + n <= c->batch->n_out);
    c->first_score = first;
    c->n_scores = n;
    operand_rows(&c->v, n);
    struct norm_job norm = {c, w->values, eps, c->batch->out + first, &c->v, m->needs};
    run_rows(c, n, c->shape.d_model, norm_rows, &norm);
    bool far = n <= FAR_ROWS && (size_t)n * (size_t)c->scores_stride * sizeof *c->scores >= FAR_BYTES;
    struct matrix_job job = {.c = c, .m = m, .x = &c->v, .n_rows = n, .group = SCORES_BLOCK / CPU_STRIPE, .finish = FINISH_SCORES,
                             .out = c->scores, .ld = c->scores_stride, .far = far};
    run_matrix(&job);
}

static const float *scores_row(void *ctx, int i)
{
    const struct cpu *c = ctx;
    return c->scores + (size_t)(i - c->first_score) * (size_t)c->scores_stride;
}

static const float *scores_block_max(void *ctx, int i)
{
    const struct cpu *c = ctx;
    return c->block_max + (size_t)(i - c->first_score) * (size_t)c->n_score_blocks;
}

int cpu_sync(struct backend *be, struct scores *scores_out, struct err *err)
{
    struct cpu *c = cpu_of(be);
    if (atomic_load_explicit(&c->fault, memory_order_relaxed))
        return err_set(err, ERR_DEVICE, "a computed value is not finite; the model file is damaged or does not fit this arithmetic");
    *scores_out = (struct scores){c->first_score, c->n_scores, c->shape.n_vocab, c, scores_row, scores_block_max};
    return 0;
}

void cpu_copy_page(struct backend *be, int dst, int src, int n_pos)
{
    struct cpu *c = cpu_of(be);
    assert(n_pos >= 0 && n_pos <= KV_PAGE);
    size_t k_elems = (size_t)c->shape.head_dim * KV_PAGE, group_elems = (size_t)c->shape.head_dim * CPU_KEYS;
    for (int layer = 0; layer < c->shape.n_layers; layer++) {
        for (int h = 0; h < c->shape.n_kv; h++) {
            uint16_t *to = kv_of(c, layer, dst, h);
            const uint16_t *from = kv_of(c, layer, src, h);
            memcpy(to, from, (size_t)((n_pos + CPU_KEYS - 1) / CPU_KEYS) * group_elems * sizeof *to); /* whole groups; nobody reads beyond n_pos */
            memcpy(to + k_elems, from + k_elems, (size_t)n_pos * (size_t)c->v_stride * sizeof *to);
        }
    }
}

/* cuda_step.c: the operations of a step, each one or two launches on the backend's stream.
 *
 * What the device reads of a batch (tokens, positions, page tables, who attends how, the angles of the rope tables) is written into one of two
 * pinned buffers by begin() and copied as a whole to one place in device memory:
 *
 *   token | pos | seq | out | splits | walks (2)      max_rows each     then freq, then page tables of the sequences that have rows, stride max_pages
 *
 * so that the host may write the next step's while the device still computes this one. Sequences without rows are left out, and the others numbered
 * anew: their tables need not even exist.
 *
 * Nothing here computes. Operations return nothing: what fails is kept (cuda.h) and said by sync(), the only one that waits. */
#include <assert.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"

/* ---- begin ---- */

/* Places of the arrays of a step, in a pinned buffer and in device memory alike. */
static int32_t *column(const struct cuda *c, uint8_t *base, int i)
{
    return (int32_t *)base + (size_t)i * (size_t)c->shape.max_rows;
}

enum { COL_TOKEN, COL_POS, COL_SEQ, COL_OUT, COL_SPLITS, COL_WALKS };

static bool follows(const struct batch *b, int r)
{
    return b->seq[r] == b->seq[r - 1] && b->pos[r] == b->pos[r - 1] + 1;
}

/* Rows in company walk their sequence's pages together. A row that is alone, as in decode, has its chunks computed apart, as long as there is room
 * for the partials: n_pages chunks in all. Otherwise it walks as well. */
static void plan_attention(struct cuda *c, const struct batch *b, int32_t *splits, int32_t *walks)
{
    struct device_batch *d = &c->batch;
    d->n_walks = d->n_splits = d->max_chunks = 0;
    for (int r = 0, n; r < b->n_rows; r += n) {
        for (n = 1; n < ATTEND_ROWS && r + n < b->n_rows && follows(b, r + n); n++) {
        }
        int n_chunks = b->pos[r] / KV_PAGE + 1, most = n_chunks > d->max_chunks ? n_chunks : d->max_chunks;
        if (n == 1 && (long)(d->n_splits + 1) * most <= c->shape.n_pages) {
            splits[d->n_splits++] = r;
            d->max_chunks = most;
        } else {
            walks[2 * d->n_walks] = r;
            walks[2 * d->n_walks++ + 1] = n;
        }
    }
}

/* Numbers the sequences that have rows and writes the tables' stride and them; returns the bytes of the tables. */
static size_t write_pages(struct cuda *c, const struct batch *b, int32_t *seq, int32_t *pages)
{
    struct device_batch *d = &c->batch;
    d->max_pages = d->n_seqs = 0;
    for (int r = 0; r < b->n_rows; r++) {
        int n = b->pos[r] / KV_PAGE + 1;
        d->max_pages = n > d->max_pages ? n : d->max_pages;
    }
    assert(d->max_pages <= c->shape.n_pages);
    for (int r = 0; r < b->n_rows; r++) {
        bool last = r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r];
        seq[r] = d->n_seqs;
        if (!last)
            continue;
        const int32_t *from = b->pages[b->seq[r]];
        int32_t *to = pages + (size_t)d->n_seqs++ * (size_t)d->max_pages;
        int n = b->pos[r] / KV_PAGE + 1;
        for (int i = 0; i < n; i++) {
            assert(from[i] >= 0 && from[i] < c->shape.n_pages);
            to[i] = from[i];
        }
    }
    return (size_t)d->n_seqs * (size_t)d->max_pages * sizeof *pages;
}

static void point_to_inputs(struct cuda *c)
{
    struct device_batch *d = &c->batch;
    d->token = column(c, c->inputs, COL_TOKEN);
    d->pos = column(c, c->inputs, COL_POS);
    d->seq = column(c, c->inputs, COL_SEQ);
    d->out = column(c, c->inputs, COL_OUT);
    d->splits = column(c, c->inputs, COL_SPLITS);
    d->walks = column(c, c->inputs, COL_WALKS);
    d->pages = (const int32_t *)(c->inputs + c->pages_at);
}

void cuda_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables)
{
    struct cuda *c = cuda_of(be);
    assert(batch->n_rows > 0 && batch->n_rows <= c->shape.max_rows);
    assert(batch->n_out >= 0 && batch->n_out <= batch->n_rows);
    assert(n_tables <= ROPE_TABLES);
    c->first_score = c->n_scores = 0;
    c->n_out = batch->n_out;
    c->n_tables = n_tables;
    c->batch = (struct device_batch){.n_rows = batch->n_rows};
    struct staging *s = &c->steps[c->step];
    if (!cuda_enter(c) || !cuda_acquire(c, s))
        return;
    c->step ^= 1;
    size_t n = (size_t)batch->n_rows, half = (size_t)c->shape.rope_dims / 2;
    for (size_t i = 0; i < n; i++)
        assert(batch->token[i] >= 0 && batch->token[i] < c->shape.n_vocab);
    memcpy(column(c, s->bytes, COL_TOKEN), batch->token, n * sizeof *batch->token);
    memcpy(column(c, s->bytes, COL_POS), batch->pos, n * sizeof *batch->pos);
    if (batch->n_out > 0)
        memcpy(column(c, s->bytes, COL_OUT), batch->out, (size_t)batch->n_out * sizeof *batch->out);
    plan_attention(c, batch, column(c, s->bytes, COL_SPLITS), column(c, s->bytes, COL_WALKS));
    double *angles = (double *)(s->bytes + c->freq_at);
    for (int t = 0; t < n_tables; t++)
        memcpy(angles + (size_t)t * half, freq[t], half * sizeof *angles);
    size_t used = c->pages_at + write_pages(c, batch, column(c, s->bytes, COL_SEQ), (int32_t *)(s->bytes + c->pages_at));
    point_to_inputs(c);
    cuda_check(c, cudaMemcpyAsync(c->inputs, s->bytes, used, cudaMemcpyHostToDevice, c->stream), "taking a batch");
    cuda_release(c, s);
    for (int t = 0; t < n_tables && half > 0 && !c->lost; t++)
        cuda_check(c, launch_angles((const double *)(c->inputs + c->freq_at) + (size_t)t * half, (int)half, c->batch.pos, batch->n_rows, c->cs[t],
                                    c->stream), "computing angles");
}

/* ---- rows ---- */

void cuda_embed(struct backend *be, const struct matrix *m, float scale)
{
    struct cuda *c = cuda_of(be);
    assert(m->d.n_parts == 1 && m->d.n_cols == c->shape.d_model && m->d.n_rows == c->shape.n_vocab);
    if (!c->lost)
        cuda_check(c, launch_embed(&m->d, c->batch.token, c->batch.n_rows, scale, c->x.p, c->x.ld, c->stream), "looking up tokens");
}

void cuda_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer)
{
    struct cuda *c = cuda_of(be);
    assert(w->n == c->shape.d_model);
    assert(consumer->d.n_cols == c->shape.d_model);
    if (!c->lost)
        cuda_check(c, launch_norm(c->x.p, c->x.ld, NULL, c->batch.n_rows, w->values, eps, &c->a, consumer->needs, c->fault, c->stream), "norming");
}

/* ---- matrices ---- */

static void multiply(struct cuda *c, struct device_product *p, const char *doing)
{
    p->n_rows = c->batch.n_rows;
    p->fault = c->fault;
    if (!c->lost)
        cuda_check(c, launch_product(p, c->stream), doing);
}

void cuda_qkv(struct backend *be, const struct matrix *m, const struct vector *bias)
{
    struct cuda *c = cuda_of(be);
    assert(m->d.n_rows <= c->qkv.ld && m->d.n_cols == c->shape.d_model && !m->d.pair);
    assert(bias == NULL || bias->n == m->d.n_rows);
    struct device_product p = {.m = m->d, .x = c->a, .epilogue = EPILOGUE_STORE, .out = c->qkv.p, .ld = c->qkv.ld,
                               .bias = bias == NULL ? NULL : bias->values};
    multiply(c, &p, "multiplying by q, k and v");
}

void cuda_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer)
{
    struct cuda *c = cuda_of(be);
    assert(m->d.pair);
    assert(m->d.n_rows == c->shape.d_ff && m->d.n_cols == c->shape.d_model);
    assert(consumer->d.n_cols == c->shape.d_ff);
    struct device_product p = {.m = m->d, .x = c->a, .epilogue = EPILOGUE_PAIR, .act = (int)act, .to = c->h, .needs = consumer->needs};
    multiply(c, &p, "multiplying by gate and up");
}

static void project(struct cuda *c, const struct matrix *m, const struct device_operand *x, const struct vector *bias, const struct vector *post,
                    float eps)
{
    assert(m->d.n_rows == c->shape.d_model);
    assert(m->d.n_cols == x->n_cols);
    const struct device_rows *to = post == NULL ? &c->x : &c->t;
    struct device_product p = {.m = m->d, .x = *x, .epilogue = post == NULL ? EPILOGUE_ADD : EPILOGUE_STORE, .out = to->p, .ld = to->ld,
                               .bias = bias == NULL ? NULL : bias->values};
    multiply(c, &p, "projecting");
    if (post != NULL && !c->lost)
        cuda_check(c, launch_post(c->t.p, c->t.ld, c->batch.n_rows, post->values, c->shape.d_model, eps, c->x.p, c->x.ld, c->stream), "norming");
}

void cuda_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps)
{
    project(cuda_of(be), m, &cuda_of(be)->oo, bias, post, eps);
}

void cuda_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps)
{
    project(cuda_of(be), m, &cuda_of(be)->h, NULL, post, eps);
}

/* ---- rotation, KV, attention ---- */

void cuda_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps)
{
    struct cuda *c = cuda_of(be);
    assert(layer >= 0 && layer < c->shape.n_layers);
    assert(table >= 0 && table < c->n_tables);
    assert((q_norm == NULL) == (k_norm == NULL));
    const struct device_rope p = {.batch = c->batch, .kv = c->kv, .layer = layer, .n_head = c->shape.n_head, .qkv = c->qkv.p, .ld = c->qkv.ld,
                                  .cs = c->cs[table], .rope_dims = c->shape.rope_dims, .neox = c->shape.rope_neox,
                                  .q_norm = q_norm == NULL ? NULL : q_norm->values, .k_norm = k_norm == NULL ? NULL : k_norm->values, .eps = eps};
    c->rope = p;
    c->ropes = attend_ropes(&c->batch, &c->kv, c->shape.n_head);
    if (!c->lost && !c->ropes)
        cuda_check(c, launch_rope_store(&p, c->stream), "storing keys and values");
}

void cuda_attend(struct backend *be, const struct attend_params *params, const struct matrix *consumer)
{
    struct cuda *c = cuda_of(be);
    assert(params->layer >= 0 && params->layer < c->shape.n_layers);
    assert(consumer->d.n_cols == c->oo.n_cols);
    const struct device_attend p = {.batch = c->batch, .kv = c->kv, .layer = params->layer, .n_head = c->shape.n_head, .window = params->window,
                                    .scale = params->scale, .qkv = c->qkv.p, .ld = c->qkv.ld, .partials = c->partials, .o = c->o.p, .ldo = c->o.ld,
                                    .to = c->oo, .needs = consumer->needs, .fault = c->fault};
    assert(c->rope.layer == params->layer);
    if (!c->lost)
        cuda_check(c, c->ropes ? launch_rope_attend(&c->rope, &p, c->stream) : launch_attend(&p, c->stream), "attending");
    c->ropes = false;
}

/* ---- scores, sync, pages ---- */

void cuda_vocab(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n)
{
    struct cuda *c = cuda_of(be);
    assert(m->d.n_rows == c->shape.n_vocab);
    assert(m->d.n_cols == c->shape.d_model);
    assert(n > 0 && n <= c->shape.max_scores);
    assert(first >= 0 && first + n <= c->n_out);
    c->first_score = first;
    c->n_scores = n;
    if (c->lost)
        return;
    cuda_check(c, launch_norm(c->x.p, c->x.ld, c->batch.out + first, n, w->values, eps, &c->v, m->needs, c->fault, c->stream), "norming");
    const struct device_product p = {.m = m->d, .x = c->v, .n_rows = n, .epilogue = EPILOGUE_SCORES, .out = c->scores, .ld = (int)c->scores_ld,
                                     .most = c->block_max, .fault = c->fault};
    if (!c->lost)
        cuda_check(c, launch_product(&p, c->stream), "scoring");
}

static const float *scores_row(void *ctx, int i)
{
    const struct cuda *c = ctx;
    return c->host.scores + (size_t)(i - c->first_score) * c->scores_ld;
}

static const float *scores_block_max(void *ctx, int i)
{
    const struct cuda *c = ctx;
    return c->host.block_max + (size_t)(i - c->first_score) * (size_t)c->n_score_blocks;
}

/* Enqueues a copy to the host; n may be 0. */
static void copy_back(struct cuda *c, void *to, const void *from, size_t n)
{
    if (n > 0 && !c->lost)
        cuda_check(c, cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, c->stream), "returning scores");
}

int cuda_sync(struct backend *be, struct scores *scores_out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    size_t n = (size_t)c->n_scores;
    if (cuda_enter(c)) {
        copy_back(c, c->host.scores, c->scores, n * c->scores_ld * sizeof *c->scores);
        copy_back(c, c->host.block_max, c->block_max, n * (size_t)c->n_score_blocks * sizeof *c->block_max);
        copy_back(c, c->host.fault, c->fault, sizeof *c->fault);
        if (!c->lost && cuda_check(c, cudaStreamSynchronize(c->stream), "computing a step") && *c->host.fault != 0) {
            err_set(&c->why, ERR_DEVICE, "a computed value is not finite; the model file is damaged or does not fit this arithmetic");
            c->lost = true;
        }
    }
    if (c->lost) {
        if (err != NULL)
            *err = c->why;
        return -1;
    }
    *scores_out = (struct scores){c->first_score, c->n_scores, c->shape.n_vocab, c, scores_row, scores_block_max};
    return 0;
}

void cuda_copy_page(struct backend *be, int dst, int src, int n_pos)
{
    struct cuda *c = cuda_of(be);
    assert(dst >= 0 && dst < c->shape.n_pages && src >= 0 && src < c->shape.n_pages);
    assert(n_pos >= 0 && n_pos <= KV_PAGE);
    if (n_pos > 0 && cuda_enter(c))
        cuda_check(c, launch_copy_page(&c->kv, dst, src, n_pos, c->stream), "copying a page");
}

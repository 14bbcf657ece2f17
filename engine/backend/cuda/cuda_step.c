/* cuda_step.c: the operations of a step, each one or two launches on the backend's stream.
 *
 * Two operations may wait for the one that follows and be done by the same launch, so that a layer of a decode step has eight: rotation and the
 * writing of keys by attention, where attend_ropes says so, and a post norm by the norm after it. Who looks at QKV or X in between sees what is not
 * done yet (c->ropes, c->posts).
 *
 * Nothing here computes. Operations return nothing: what fails is kept (cuda.h) and said by sync(), the only one that waits. */
#include <assert.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"

/* ---- rows ---- */

void cuda_embed(struct backend *be, const struct matrix *m, float scale)
{
    struct cuda *c = cuda_of(be);
    assert(m->d.n_parts == 1 && m->d.n_cols == c->shape.d_model && m->d.n_rows == c->shape.n_vocab);
    if (!c->lost)
        cuda_check(c, launch_embed(&m->d, c->batch.token, c->draw.slots, c->batch.n_rows, c->live, scale, c->x.p, c->x.ld, c->stream),
                   "looking up tokens");
}

void cuda_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer)
{
    struct cuda *c = cuda_of(be);
    assert(w->n == c->shape.d_model);
    assert(consumer->d.n_cols == c->shape.d_model);
    const struct device_norm p = {.x = c->x.p, .ld = c->x.ld, .n_rows = c->batch.n_rows, .live = c->live, .w = w->values, .eps = eps, .to = c->a,
                                  .needs = consumer->needs, .fault = c->fault};
    if (!c->lost)
        cuda_check(c, c->posts ? launch_post_norm(&c->post, &p, c->stream) : launch_norm(&p, c->stream), "norming");
    c->posts = false;
}

void cuda_finish_post(struct cuda *c)
{
    if (c->posts && !c->lost)
        cuda_check(c, launch_post(&c->post, c->stream), "norming");
    c->posts = false;
}

/* ---- matrices ---- */

static void multiply(struct cuda *c, struct device_product *p, const char *doing)
{
    p->n_rows = c->batch.n_rows;
    p->live = c->live;
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
    c->posts = post != NULL;
    if (c->posts)
        c->post = (struct device_post){.t = c->t.p, .ldt = c->t.ld, .w = post->values, .eps = eps, .x = c->x.p, .ldx = c->x.ld,
                                       .n = c->shape.d_model, .n_rows = c->batch.n_rows, .live = c->live};
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
                                    .scale = params->scale, .qkv = c->qkv.p, .ld = c->qkv.ld, .max_blocks = c->max_blocks, .whole = c->whole,
                                    .partials = c->partials, .o = c->o.p, .ldo = c->o.ld, .to = c->oo, .needs = consumer->needs,
                                    .fault = c->fault};
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
    const struct flight *f = &c->flights[c->next_flight];
    c->first_score = first;
    c->n_scores = n;
    cuda_finish_post(c);
    if (c->lost)
        return;
    const struct device_norm norm = {.x = c->x.p, .ld = c->x.ld, .rows = c->batch.out + first, .n_rows = n, .w = w->values, .eps = eps, .to = c->v,
                                     .needs = m->needs, .fault = c->fault};
    cuda_check(c, launch_norm(&norm, c->stream), "norming");
    const struct device_product p = {.m = m->d, .x = c->v, .n_rows = n, .epilogue = EPILOGUE_SCORES, .out = f->scores, .ld = (int)c->scores_ld,
                                     .most = f->block_max, .fault = c->fault};
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

void cuda_copy_back(struct cuda *c, void *to, const void *from, size_t n, cudaStream_t stream)
{
    if (n > 0 && !c->lost)
        cuda_check(c, cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToHost, stream), "returning scores");
}

int cuda_report(struct cuda *c, const int *fault, struct err *err)
{
    if (!c->lost && *fault != 0) {
        err_set(&c->why, ERR_DEVICE, "a computed value is not finite; the model file is damaged or does not fit this arithmetic");
        c->lost = true;
    }
    if (c->lost && err != NULL)
        *err = c->why;
    return c->lost ? -1 : 0;
}

int cuda_sync(struct backend *be, struct scores *scores_out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    const struct flight *f = &c->flights[c->next_flight];
    size_t n = (size_t)c->n_scores;
    assert(c->n_flights == 0);
    if (cuda_enter(c)) {
        cuda_copy_back(c, c->host.scores, f->scores, n * c->scores_ld * sizeof *f->scores, c->stream);
        cuda_copy_back(c, c->host.block_max, f->block_max, n * (size_t)c->n_score_blocks * sizeof *f->block_max, c->stream);
        cuda_copy_back(c, c->host.fault, c->fault, sizeof *c->fault, c->stream);
        if (!c->lost)
            cuda_check(c, cudaStreamSynchronize(c->stream), "computing a step");
    }
    if (cuda_report(c, c->host.fault, err) != 0)
        return -1;
    c->n_fetched += n;
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

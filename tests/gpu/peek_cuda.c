/* peek_cuda.c: peek.h for the CUDA backend. Every look waits for the device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "tests/gpu/peek.h"

/* A copy of device memory; zeros where the device is lost, which sync() will say. */
static void *fetch(struct cuda *c, const void *from, size_t n_bytes)
{
    void *p = calloc(1, n_bytes + 1);
    if (p != NULL && !c->lost)
        cuda_check(c, cudaMemcpyAsync(p, from, n_bytes, cudaMemcpyDeviceToHost, c->stream), "looking at a buffer");
    if (p != NULL && !c->lost)
        cuda_check(c, cudaStreamSynchronize(c->stream), "looking at a buffer");
    return p;
}

static struct peeked rows_of(struct cuda *c, const float *from, size_t ld, int n_rows, int n)
{
    struct peeked p = {.n_rows = n_rows, .n = n, .v = malloc((size_t)n_rows * (size_t)n * sizeof(float))};
    float *rows = fetch(c, from, (size_t)n_rows * ld * sizeof *rows);
    for (int r = 0; r < n_rows; r++)
        memcpy(p.v + (size_t)r * (size_t)n, rows + (size_t)r * ld, (size_t)n * sizeof *rows);
    free(rows);
    return p;
}

static struct peeked operand_of(struct cuda *c, const struct device_operand *o, int n_rows, int needs)
{
    bool has_q = (needs & OPERAND_Q) != 0, has_f = (needs & OPERAND_F) != 0;
    int n_block = (has_q ? DEVICE_BLOCK + 1 : 0) + (has_f ? DEVICE_BLOCK : 0);
    size_t n_blocks = (size_t)n_rows * (size_t)o->n_blocks;
    struct peeked p = {.n_rows = n_rows, .n = o->n_blocks * n_block, .v = malloc(n_blocks * (size_t)n_block * sizeof(float))};
    int8_t *q = has_q ? fetch(c, o->q, n_blocks * DEVICE_BLOCK) : NULL;
    float *d = has_q ? fetch(c, o->d, n_blocks * sizeof *d) : NULL, *f = has_f ? fetch(c, o->f, n_blocks * DEVICE_BLOCK * sizeof *f) : NULL;
    float *to = p.v;
    for (size_t i = 0; i < n_blocks; i++) {
        for (int k = 0; has_q && k < DEVICE_BLOCK; k++)
            *to++ = (float)q[i * DEVICE_BLOCK + (size_t)k];
        if (has_q)
            *to++ = d[i];
        if (has_f) {
            memcpy(to, f + i * DEVICE_BLOCK, DEVICE_BLOCK * sizeof *to);
            to += DEVICE_BLOCK;
        }
    }
    free(q);
    free(d);
    free(f);
    return p;
}

static struct peeked kv_of(struct cuda *c, const struct batch *b, int layer)
{
    int n_kv = c->shape.n_kv, dim = c->shape.head_dim, n = 2 * n_kv * dim;
    struct peeked p = {.n_rows = b->n_rows, .n = n, .v = malloc((size_t)b->n_rows * (size_t)n * sizeof(float))};
    for (int r = 0; r < b->n_rows; r++) {
        int page = b->pages[b->seq[r]][b->pos[r] / KV_PAGE], t = b->pos[r] % KV_PAGE;
        size_t at = ((size_t)page * (size_t)c->kv.n_layers + (size_t)layer) * (size_t)n_kv * c->kv.head_elems;
        uint16_t *heads = fetch(c, c->kv.base + at, (size_t)n_kv * c->kv.head_elems * sizeof *heads);
        for (int h = 0; h < n_kv; h++) {
            const uint16_t *k = heads + (size_t)h * c->kv.head_elems, *v = k + (size_t)KV_PAGE * (size_t)c->kv.head_pad;
            float *to = p.v + (size_t)r * (size_t)n + (size_t)h * (size_t)dim;
            for (int d = 0; d < dim; d++) {
                to[d] = num_f32_from_f16(k[((size_t)(d / 8) * KV_PAGE + (size_t)t) * 8 + (size_t)(d % 8)]);
                to[n_kv * dim + d] = num_f32_from_f16(v[(size_t)t * (size_t)c->kv.head_pad + (size_t)d]);
            }
        }
        free(heads);
    }
    return p;
}

static struct peeked scores_of(struct cuda *c)
{
    const struct flight *last = &c->flights[c->next_flight]; /* nothing is launched and not landed */
    int n_vocab = c->shape.n_vocab, n = n_vocab + c->n_score_blocks;
    struct peeked p = {.n_rows = c->n_scores, .n = n, .v = malloc((size_t)c->n_scores * (size_t)n * sizeof(float))};
    float *scores = fetch(c, last->scores, (size_t)c->n_scores * c->scores_ld * sizeof *scores);
    float *most = fetch(c, last->block_max, (size_t)c->n_scores * (size_t)c->n_score_blocks * sizeof *most);
    for (int r = 0; r < c->n_scores; r++) {
        float *to = p.v + (size_t)r * (size_t)n;
        memcpy(to, scores + (size_t)r * c->scores_ld, (size_t)n_vocab * sizeof *to);
        memcpy(to + n_vocab, most + (size_t)r * (size_t)c->n_score_blocks, (size_t)c->n_score_blocks * sizeof *to);
    }
    free(scores);
    free(most);
    return p;
}

static struct peeked look_at(struct cuda *c, const struct peek_args *a)
{
    int needs = a->consumer != NULL ? a->consumer->needs : 0;
    const struct peeked later = {0};
    switch (a->at) {
    case PEEK_X:
        return c->posts ? later : rows_of(c, c->x.p, (size_t)c->x.ld, a->n_rows, c->shape.d_model);
    case PEEK_QKV:
        return c->ropes ? later
                        : rows_of(c, c->qkv.p, (size_t)c->qkv.ld, a->n_rows, (c->shape.n_head + 2 * c->shape.n_kv) * c->shape.head_dim);
    case PEEK_O:
        return rows_of(c, c->o.p, (size_t)c->o.ld, a->n_rows, c->shape.n_head * c->shape.head_dim);
    case PEEK_A:
        return operand_of(c, &c->a, a->n_rows, needs);
    case PEEK_OO:
        return operand_of(c, &c->oo, a->n_rows, needs);
    case PEEK_H:
        return operand_of(c, &c->h, a->n_rows, needs);
    case PEEK_KV:
        return c->ropes ? later : kv_of(c, a->batch, a->layer);
    case PEEK_S:
        break;
    }
    return scores_of(c);
}

static struct peeked look(struct backend *be, const struct peek_args *a)
{
    struct peeked p = look_at(cuda_of(be), a);
    p.lost = cuda_of(be)->lost;
    return p;
}

const struct peeks peek_cuda = {look};

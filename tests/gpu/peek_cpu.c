/* peek_cpu.c: peek.h for the CPU backend. */
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cpu/cpu.h"
#include "tests/gpu/peek.h"

static struct peeked rows_of(const float *from, size_t ld, int n_rows, int n)
{
    struct peeked p = {.n_rows = n_rows, .n = n, .v = malloc((size_t)n_rows * (size_t)n * sizeof(float))};
    for (int r = 0; r < n_rows; r++)
        memcpy(p.v + (size_t)r * (size_t)n, from + (size_t)r * ld, (size_t)n * sizeof(float));
    return p;
}

static struct peeked operand_of(const struct operand *o, int n_rows, int needs)
{
    bool q = (needs & NEEDS_Q) != 0, f = (needs & NEEDS_F) != 0;
    int n_block = (q ? QUANT_BLOCK + 1 : 0) + (f ? QUANT_BLOCK : 0);
    struct peeked p = {.n_rows = n_rows, .n = o->n_blocks * n_block, .v = malloc((size_t)n_rows * (size_t)(o->n_blocks * n_block) * sizeof(float))};
    float *to = p.v;
    for (int r = 0; r < n_rows; r++)
        for (int b = 0; b < o->n_blocks; b++) {
            size_t i = operand_at(o, b, r);
            for (int k = 0; q && k < QUANT_BLOCK; k++)
                *to++ = (float)o->q[i * QUANT_BLOCK + (size_t)k];
            if (q)
                *to++ = o->d[i];
            if (f) {
                memcpy(to, o->f + i * QUANT_BLOCK, QUANT_BLOCK * sizeof *to);
                to += QUANT_BLOCK;
            }
        }
    return p;
}

static struct peeked kv_of(const struct cpu *c, const struct batch *b, int layer)
{
    int n_kv = c->shape.n_kv, dim = c->shape.head_dim, n = 2 * n_kv * dim;
    struct peeked p = {.n_rows = b->n_rows, .n = n, .v = malloc((size_t)b->n_rows * (size_t)n * sizeof(float))};
    for (int r = 0; r < b->n_rows; r++) {
        int page = b->pages[b->seq[r]][b->pos[r] / KV_PAGE], t = b->pos[r] % KV_PAGE;
        for (int h = 0; h < n_kv; h++) {
            const uint16_t *k = c->kv + (size_t)page * c->page_elems + (size_t)layer * c->layer_elems + (size_t)h * c->head_elems;
            const uint16_t *v = k + (size_t)KV_PAGE * (size_t)dim;
            float *to = p.v + (size_t)r * (size_t)n + (size_t)h * (size_t)dim;
            for (int d = 0; d < dim; d++) {
                to[d] = num_f32_from_f16(k[kv_key(t, dim) + (size_t)d * CPU_KEYS]);
                to[n_kv * dim + d] = num_f32_from_f16(v[(size_t)t * (size_t)c->v_stride + (size_t)d]);
            }
        }
    }
    return p;
}

static struct peeked scores_of(const struct cpu *c)
{
    int n_vocab = c->shape.n_vocab, n = n_vocab + c->n_score_blocks;
    struct peeked p = {.n_rows = c->n_scores, .n = n, .v = malloc((size_t)c->n_scores * (size_t)n * sizeof(float))};
    for (int r = 0; r < c->n_scores; r++) {
        float *to = p.v + (size_t)r * (size_t)n;
        memcpy(to, c->scores + (size_t)r * (size_t)c->scores_stride, (size_t)n_vocab * sizeof *to);
        memcpy(to + n_vocab, c->block_max + (size_t)r * (size_t)c->n_score_blocks, (size_t)c->n_score_blocks * sizeof *to);
    }
    return p;
}

static struct peeked look(struct backend *be, const struct peek_args *a)
{
    const struct cpu *c = (const struct cpu *)be;
    int needs = a->consumer != NULL ? a->consumer->needs : 0;
    switch (a->at) {
    case PEEK_X:
        return rows_of(c->x, (size_t)c->shape.d_model, a->n_rows, c->shape.d_model);
    case PEEK_QKV:
        return rows_of(c->qkv, (size_t)c->qkv_cols, a->n_rows, (c->shape.n_head + 2 * c->shape.n_kv) * c->shape.head_dim);
    case PEEK_O:
        return rows_of(c->o, (size_t)c->o_cols, a->n_rows, c->shape.n_head * c->shape.head_dim);
    case PEEK_A:
        return operand_of(&c->a, a->n_rows, needs);
    case PEEK_OO:
        return operand_of(&c->oo, a->n_rows, needs);
    case PEEK_H:
        return operand_of(&c->h, a->n_rows, needs);
    case PEEK_KV:
        return kv_of(c, a->batch, a->layer);
    case PEEK_S:
        break;
    }
    return scores_of(c);
}

const struct peeks peek_cpu = {look};

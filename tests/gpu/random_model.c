/* random_model.c: see random_model.h.
 *
 * A file is written front to back: what it holds is listed first, as a reader will look for it, then described, then filled. Integers of blocks take
 * every value, whole blocks the extreme ones; scales are such that a row's dot product with values around 1 stays around 1, however long the row,
 * so that a deep model neither dies out nor overflows. */
#include "tests/gpu/random_model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"

#define ALIGN 32
#define MAX_TENSORS 512
#define CHUNK_BYTES ((size_t)1 << 20)

struct planned {
    char name[64];
    int type;
    int n_rows, n_cols; /* n_rows 0: a vector */
    float middle;       /* of a vector's values */
    uint64_t offset;
};

struct writer {
    const struct random_model *m;
    FILE *f;
    uint64_t at, rng;
    struct planned tensors[MAX_TENSORS];
    int n_tensors, n_keys;
};

/* splitmix64. */
static uint64_t next_bits(struct writer *w)
{
    uint64_t z = w->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static float next_float(struct writer *w, float scale)
{
    return (float)((int)(next_bits(w) >> 48) - 32768) * 0x1p-15f * scale;
}

static void put(struct writer *w, const void *p, size_t n)
{
    w->at += fwrite(p, 1, n, w->f);
}

static void put_u32(struct writer *w, uint32_t v)
{
    put(w, &v, sizeof v);
}

static void put_u64(struct writer *w, uint64_t v)
{
    put(w, &v, sizeof v);
}

static void put_text(struct writer *w, const char *s)
{
    put_u64(w, strlen(s));
    put(w, s, strlen(s));
}

/* ---- what there is ---- */

static void plan(struct writer *w, int layer, const char *name, int type, int n_rows, int n_cols, float middle)
{
    assert(w->n_tensors < MAX_TENSORS);
    struct planned *t = &w->tensors[w->n_tensors++];
    *t = (struct planned){.type = type, .n_rows = n_rows, .n_cols = n_cols, .middle = middle};
    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
}

static void plan_layer(struct writer *w, int layer)
{
    const struct random_model *m = w->m;
    int q = m->n_head * m->head_dim, kv = m->n_kv * m->head_dim;
    bool gemma = strcmp(m->arch, "gemma3") == 0, norms = gemma || strcmp(m->arch, "qwen3") == 0;
    plan(w, layer, "attn_norm.weight", TENSOR_F32, 0, m->d_model, 1);
    plan(w, layer, "attn_q.weight", m->q, q, m->d_model, 0);
    plan(w, layer, "attn_k.weight", m->k, kv, m->d_model, 0);
    plan(w, layer, "attn_v.weight", m->v, kv, m->d_model, 0);
    if (m->bias) {
        plan(w, layer, "attn_q.bias", TENSOR_F32, 0, q, 0);
        plan(w, layer, "attn_k.bias", TENSOR_F32, 0, kv, 0);
        plan(w, layer, "attn_v.bias", TENSOR_F32, 0, kv, 0);
        if (strcmp(m->arch, "llama") == 0)
            plan(w, layer, "attn_output.bias", TENSOR_F32, 0, m->d_model, 0);
    }
    if (norms) {
        plan(w, layer, "attn_q_norm.weight", TENSOR_F32, 0, m->head_dim, 1);
        plan(w, layer, "attn_k_norm.weight", TENSOR_F32, 0, m->head_dim, 1);
    }
    plan(w, layer, "attn_output.weight", m->o, m->d_model, q, 0);
    plan(w, layer, "ffn_norm.weight", TENSOR_F32, 0, m->d_model, 1);
    plan(w, layer, "ffn_gate.weight", m->gate, m->d_ff, m->d_model, 0);
    plan(w, layer, "ffn_up.weight", m->up, m->d_ff, m->d_model, 0);
    plan(w, layer, "ffn_down.weight", m->down, m->d_model, m->d_ff, 0);
    if (gemma) {
        plan(w, layer, "post_attention_norm.weight", TENSOR_F32, 0, m->d_model, 1);
        plan(w, layer, "post_ffw_norm.weight", TENSOR_F32, 0, m->d_model, 1);
    }
}

static size_t tensor_bytes(const struct planned *t)
{
    return quant_row_bytes(t->type, t->n_cols) * (size_t)(t->n_rows > 0 ? t->n_rows : 1);
}

static void plan_all(struct writer *w)
{
    const struct random_model *m = w->m;
    plan(w, -1, "token_embd.weight", m->embed, m->n_vocab, m->d_model, 0);
    plan(w, -1, "output_norm.weight", TENSOR_F32, 0, m->d_model, 1);
    if (m->untied)
        plan(w, -1, "output.weight", m->output, m->n_vocab, m->d_model, 0);
    if (m->factors)
        plan(w, -1, "rope_freqs.weight", TENSOR_F32, 0, m->head_dim / 2, 2);
    for (int i = 0; i < m->n_layers; i++)
        plan_layer(w, i);
    uint64_t at = 0;
    for (int i = 0; i < w->n_tensors; at += tensor_bytes(&w->tensors[i]), i++) {
        at = (at + ALIGN - 1) / ALIGN * ALIGN;
        w->tensors[i].offset = at;
        assert(quant_row_bytes(w->tensors[i].type, w->tensors[i].n_cols) > 0);
    }
}

/* ---- the head ---- */

static void key(struct writer *w, const char *name, uint32_t type)
{
    char full[96];
    snprintf(full, sizeof full, strncmp(name, "general.", 8) == 0 ? "%.0s%s" : "%s.%s", w->m->arch, name);
    put_text(w, full);
    put_u32(w, type);
    w->n_keys++;
}

static void key_u32(struct writer *w, const char *name, int v)
{
    key(w, name, 4);
    put_u32(w, (uint32_t)v);
}

static void key_f32(struct writer *w, const char *name, float v)
{
    key(w, name, 6);
    put(w, &v, sizeof v);
}

static void key_text(struct writer *w, const char *name, const char *v)
{
    key(w, name, 8);
    put_text(w, v);
}

static void put_keys(struct writer *w)
{
    const struct random_model *m = w->m;
    key_text(w, "general.architecture", m->arch);
    key_text(w, "general.name", m->name);
    key_u32(w, "context_length", 8192);
    key_u32(w, "embedding_length", m->d_model);
    key_u32(w, "block_count", m->n_layers);
    key_u32(w, "feed_forward_length", m->d_ff);
    key_u32(w, "attention.head_count", m->n_head);
    key_u32(w, "attention.head_count_kv", m->n_kv);
    key_f32(w, "attention.layer_norm_rms_epsilon", 1e-5f);
    key_u32(w, "attention.key_length", m->head_dim);
    key_u32(w, "attention.value_length", m->head_dim);
    key_f32(w, "rope.freq_base", 500000.0f);
    if (m->window > 0)
        key_u32(w, "attention.sliding_window", m->window);
}

static void put_head(struct writer *w)
{
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, (uint64_t)w->n_tensors);
    long n_keys_at = (long)w->at;
    put_u64(w, 0);
    put_keys(w);
    for (int i = 0; i < w->n_tensors; i++) {
        const struct planned *t = &w->tensors[i];
        put_text(w, t->name);
        put_u32(w, t->n_rows > 0 ? 2 : 1);
        put_u64(w, (uint64_t)t->n_cols);
        if (t->n_rows > 0)
            put_u64(w, (uint64_t)t->n_rows);
        put_u32(w, (uint32_t)t->type);
        put_u64(w, t->offset);
    }
    uint64_t end = w->at;
    fseek(w->f, n_keys_at, SEEK_SET);
    put_u64(w, (uint64_t)w->n_keys);
    fseek(w->f, 0, SEEK_END);
    w->at = end;
}

/* ---- the values ---- */

/* Where a block has its f16 scale and minimum (-1: none), and how large they are for rows of one value. */
static const struct {
    int type, scale_at, min_at;
    float scale, min;
} scales[] = {{TENSOR_Q4_0, 0, -1, 0.36f, 0},       {TENSOR_Q4_1, 0, 2, 0.3f, 1.6f},       {TENSOR_Q5_0, 0, -1, 0.18f, 0},
              {TENSOR_Q5_1, 0, 2, 0.14f, 1.6f},     {TENSOR_Q8_0, 0, -1, 0.023f, 0},       {TENSOR_Q2_K, 80, 82, 0.1f, 0.1f},
              {TENSOR_Q3_K, 108, -1, 0.04f, 0},     {TENSOR_Q4_K, 0, 2, 0.0045f, 0.03f},   {TENSOR_Q5_K, 0, 2, 0.0023f, 0.03f},
              {TENSOR_Q6_K, 208, -1, 0.00125f, 0}};

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = num_f16_from_f32(v);
    memcpy(p, &h, sizeof h);
}

static void random_block(struct writer *w, int type, int n_bytes, float unit, uint8_t *p)
{
    uint64_t extreme = next_bits(w) % 16;
    for (int b = 0; b < n_bytes; b += 8) {
        uint64_t bits = next_bits(w);
        if (extreme < 3)
            memset(&bits, extreme == 0 ? 0xff : extreme == 1 ? 0x80 : 0, sizeof bits);
        memcpy(p + b, &bits, (size_t)(n_bytes - b < 8 ? n_bytes - b : 8));
    }
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        if (scales[i].type != type)
            continue;
        put_f16(p + scales[i].scale_at, next_float(w, scales[i].scale * unit));
        if (scales[i].min_at >= 0)
            put_f16(p + scales[i].min_at, next_float(w, scales[i].min * unit));
    }
}

static void random_value(struct writer *w, const struct planned *t, float unit, uint8_t *p)
{
    float v = t->n_rows > 0 ? next_float(w, 1.7f * unit) : t->middle + next_float(w, 0.5f);
    if (t->type == TENSOR_F32)
        memcpy(p, &v, sizeof v);
    else if (t->type == TENSOR_F16)
        put_f16(p, v);
    else
        memcpy(p, (const uint8_t *)&v + 2, 2);
}

static void put_values(struct writer *w, const struct planned *t, uint8_t *chunk)
{
    int n_values, n_bytes;
    float unit = 1.0f / sqrtf((float)t->n_cols);
    size_t left = tensor_bytes(t);
    quant_unit(t->type, &n_values, &n_bytes);
    for (size_t n; left > 0; left -= n) {
        n = CHUNK_BYTES / (size_t)n_bytes * (size_t)n_bytes;
        n = n < left ? n : left;
        for (size_t at = 0; at < n; at += (size_t)n_bytes) {
            if (quant_is_float(t->type))
                random_value(w, t, unit, chunk + at);
            else
                random_block(w, t->type, n_bytes, unit, chunk + at);
        }
        put(w, chunk, n);
    }
}

static void pad(struct writer *w)
{
    static const uint8_t zeros[ALIGN];
    put(w, zeros, (ALIGN - w->at % ALIGN) % ALIGN);
}

int random_model_write(const struct random_model *m, const char *path)
{
    struct writer *w = calloc(1, sizeof *w);
    uint8_t *chunk = malloc(CHUNK_BYTES);
    FILE *f = fopen(path, "wb");
    int rc = -1;
    if (w != NULL && chunk != NULL && f != NULL) {
        w->m = m;
        w->f = f;
        w->rng = m->seed;
        plan_all(w);
        put_head(w);
        for (int i = 0; i < w->n_tensors; i++) {
            pad(w);
            put_values(w, &w->tensors[i], chunk);
        }
        rc = ferror(f) != 0 ? -1 : 0;
    }
    if (f != NULL && fclose(f) != 0)
        rc = -1;
    if (rc != 0) {
        fprintf(stderr, "cannot write %s\n", path);
        remove(path);
    }
    free(chunk);
    free(w);
    return rc;
}

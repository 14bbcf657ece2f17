/* hparams.h: the numbers of a transformer, read from a file's metadata and checked against each other.
 *
 * Absent optional keys take the defaults that llama.cpp gives them, because the files were written for it. */
#ifndef NEXTD_HPARAMS_H
#define NEXTD_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend/backend.h"
#include "engine/err.h"
#include "engine/model/gguf.h"

#define MODEL_MAX_LAYERS 512

struct family;

struct hparams {
    int n_layers, d_model, d_ff, n_head, n_kv, head_dim, n_vocab, n_ctx_train;
    int rope_dims;
    bool rope_neox;
    enum activation act;
    float norm_eps;
    float embed_scale; /* 1: none */
    float attn_scale;
    double rope_base[2];  /* table 0: every layer that is not windowed, or all; table 1: windowed layers with a base of their own */
    double rope_scale[2]; /* multiplies the frequencies */
    int n_tables;
    int window;                       /* 0: none */
    bool windowed[MODEL_MAX_LAYERS];  /* layers that see only the window */
};

/* All but n_vocab, which the embedding's shape gives (weights.h). */
int hparams_read(const struct gguf *g, const struct family *family, struct hparams *out, struct err *err);

#endif

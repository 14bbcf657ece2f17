/* forward.h: the transformer, as hyperparameters and weights that lie in a backend, and one step of it. */
#ifndef NEXTD_FORWARD_H
#define NEXTD_FORWARD_H

#include "engine/backend/backend.h"
#include "engine/batch.h"
#include "engine/err.h"
#include "engine/model/hparams.h"
#include "engine/model/rope.h"
#include "engine/runner.h"

struct layer {
    const struct vector *attn_norm;      /* [d_model] */
    const struct matrix *qkv;            /* [(n_head + 2 n_kv) head_dim][d_model]: q, k, v stacked */
    const struct vector *qkv_bias;       /* [(n_head + 2 n_kv) head_dim] or NULL */
    const struct vector *q_norm, *k_norm; /* [head_dim] or both NULL */
    const struct matrix *o;              /* [d_model][n_head head_dim] */
    const struct vector *o_bias;         /* [d_model] or NULL */
    const struct vector *attn_post_norm; /* [d_model] or NULL */
    const struct vector *ffn_norm;       /* [d_model] */
    const struct matrix *gate_up;        /* [d_ff][d_model] twice, interleaved */
    const struct matrix *down;           /* [d_model][d_ff] */
    const struct vector *ffn_post_norm;  /* [d_model] or NULL */
};

struct transformer {
    struct hparams hp;
    const struct backend_ops *ops;
    struct backend *be;
    const struct matrix *embed;  /* [n_vocab][d_model] */
    const struct matrix *output; /* the same, or embed itself where they are tied */
    const struct vector *out_norm;
    struct layer *layers; /* [hp.n_layers] */
    struct rope rope[ROPE_TABLES]; /* [hp.n_tables] */
    int max_scores;       /* rows of scores that the backend holds */
};

/* Once, before the first step: lets the backend prepare for steps that come again and again. */
int forward_capture(struct transformer *t, struct err *err);
/* One step, and the scores of its next wanted rows; the contracts are runner.h's. */
int forward(struct transformer *t, const struct batch *batch, struct scores *scores_out, struct err *err);
int forward_next_scores(struct transformer *t, const struct batch *batch, struct scores *scores, struct err *err);
/* The same step, its wanted rows drawn by the backend; batch->n_out <= max_scores. The backend's land() tells what came of it. */
void forward_launch(struct transformer *t, const struct batch *batch, const struct draw *draws);

#endif

/* forward.c: the transformer, once, for every family and every backend.
 *
 *   x = E[token] * embed_scale
 *   for each layer:
 *       q, k, v = Wqkv norm(x) + bqkv
 *       q, k    = rotate(norm(q)), rotate(norm(k))          k and v join the sequence's pages
 *       x      += post(Wo softmax(q k^T * attn_scale) v)    over the window, causal
 *       x      += post(Wdown (act(Wgate norm(x)) * Wup norm(x)))
 *   scores = E' norm(x)                                     of the wanted rows, group by group
 *
 * Biases, the norms of q and k and the post norms are there where the family has them. Vaswani et al. 2017; Su et al. 2021 (rotate);
 * Zhang and Sennrich 2019 (norm); Shazeer 2020 (the gated feed-forward). Every operation works on all rows of the step. */
#include "engine/model/forward.h"

#include <assert.h>
#include <stdbool.h>

/* The vocabulary for as many of the wanted rows from `first` on as there is room for. */
static int project_scores(struct transformer *t, const struct batch *batch, int first, struct scores *scores_out, struct err *err)
{
    int left = batch->n_out - first, n = left < t->max_scores ? left : t->max_scores;
    if (n > 0)
        t->ops->vocab(t->be, t->output, t->out_norm, t->hp.norm_eps, first, n);
    return t->ops->sync(t->be, scores_out, err);
}

static void embed_and_layers(const struct transformer *t)
{
    const struct hparams *hp = &t->hp;
    const struct backend_ops *ops = t->ops;
    struct backend *be = t->be;
    const float eps = hp->norm_eps;

    ops->embed(be, t->embed, hp->embed_scale);

    for (int i = 0; i < hp->n_layers; i++) {
        const struct layer *l = &t->layers[i];
        const bool windowed = hp->windowed[i];
        const int table = windowed ? hp->n_tables - 1 : 0;
        const struct attend_params attend = {.layer = i, .window = windowed ? hp->window : 0, .scale = hp->attn_scale};

        ops->norm(be, l->attn_norm, eps, l->qkv);
        ops->qkv(be, l->qkv, l->qkv_bias);
        ops->rope_store(be, i, table, l->q_norm, l->k_norm, eps);
        ops->attend(be, &attend, l->o);
        ops->project_o(be, l->o, l->o_bias, l->attn_post_norm, eps);

        ops->norm(be, l->ffn_norm, eps, l->gate_up);
        ops->gate_up(be, l->gate_up, hp->act, l->down);
        ops->project_h(be, l->down, l->ffn_post_norm, eps);
    }
}

int forward_capture(struct transformer *t, struct err *err)
{
    for (int i = 0; t->ops->capture != NULL && t->ops->capture(t->be, i); i++) {
        embed_and_layers(t);
        if (t->ops->captured(t->be, err) != 0)
            return -1;
    }
    return 0;
}

static void begin_and_layers(struct transformer *t, const struct batch *batch)
{
    const double *const freq[ROPE_TABLES] = {t->rope[0].freq, t->rope[1].freq};
    t->ops->begin(t->be, batch, freq, t->hp.n_tables);
    if (t->ops->replay == NULL || !t->ops->replay(t->be))
        embed_and_layers(t);
}

int forward(struct transformer *t, const struct batch *batch, struct scores *scores_out, struct err *err)
{
    begin_and_layers(t, batch);
    return project_scores(t, batch, 0, scores_out, err);
}

void forward_launch(struct transformer *t, const struct batch *batch, const struct draw *draws)
{
    assert(batch->n_out <= t->max_scores);
    begin_and_layers(t, batch);
    if (batch->n_out > 0)
        t->ops->vocab(t->be, t->output, t->out_norm, t->hp.norm_eps, 0, batch->n_out);
    t->ops->draw(t->be, draws, batch->n_out);
}

int forward_next_scores(struct transformer *t, const struct batch *batch, struct scores *scores, struct err *err)
{
    assert(scores->first + scores->n_out < batch->n_out);
    return project_scores(t, batch, scores->first + scores->n_out, scores, err);
}

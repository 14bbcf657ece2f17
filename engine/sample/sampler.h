/* sampler.h: one row of scores to the next token. Pure: the same inputs give the same token, whatever else runs.
 *
 * The order, fixed and documented (each step sees the result of the one before):
 *   1. logit_bias            logit[id] += bias, -inf bans
 *   2. bans                  end tokens while ignore_eos or fewer than min_tokens were output
 *   3. penalties             repetition (prompt and output), then frequency and presence (output)
 *   4. temperature           0: greedy, ties by lowest id, and nothing below applies
 *   5. top_k, typical_p, top_p, min_p, each over the survivors of the one before, ties at a border by lowest id
 *   6. the draw              inverse CDF in token-id order with u = num_rng(seed, choice, output index)
 * Log-probabilities are log-softmax of the raw logits at T=1, before all of that. */
#ifndef NEXTD_SAMPLER_H
#define NEXTD_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/draw.h"
#include "engine/runner.h"

/* All features off: temperature 1, the predictor's own distribution. */
struct sampler_params sampler_defaults(void);

/* Counts of a sequence's tokens, for penalties. Sparse: one entry per distinct token. Survives preemption because it is rebuilt from the
 * recorded tokens or kept. Created only for sequences that penalise. */
struct sampler_counts;
struct sampler_counts *sampler_counts_create(int capacity); /* distinct tokens at most; NULL when memory is short */
void sampler_counts_destroy(struct sampler_counts *c);
void sampler_counts_reset(struct sampler_counts *c);
void sampler_counts_add(struct sampler_counts *c, int32_t id, bool output);
/* The entries, valid until the next call; *n_out of them. */
const struct draw_count *sampler_counts_list(const struct sampler_counts *c, int *n_out);

/* Working memory of a sampler for one vocabulary: one for each thread that draws. */
struct sampler;
struct sampler *sampler_create(int n_vocab); /* NULL when memory is short */
void sampler_destroy(struct sampler *s);

struct sampler_draw {
    uint32_t choice;      /* index of the choice within its prompt */
    uint32_t output_idx;  /* index of the token within its output */
    const int32_t *bans;  /* tokens banned at this position (end tokens) */
    int n_bans;
    const struct sampler_counts *counts; /* NULL: no penalties */
    bool will_score;      /* sampler_logprobs of the same row is the next call: what both need is computed once */
};

/* The next token from row `i` of scores. Returns a token id in [0, n_vocab). Where everything is banned, the highest raw logit wins. */
int32_t sampler_next(struct sampler *s, const struct sampler_params *p, const struct sampler_draw *d, const struct scores *scores, int i);

/* Raw log-probabilities of row i. */
struct token_logprob {
    int32_t id;
    float logprob; /* -INFINITY where the logit is */
};
/* *chosen_out = that of `id`; top_out[0 .. n_top-1] = the n_top most likely, descending, ties by lowest id. n_top <= SAMPLER_MAX_TOP. */
#define SAMPLER_MAX_TOP DRAW_MAX_TOP
void sampler_logprobs(struct sampler *s, const struct scores *scores, int i, int32_t id, int n_top, struct token_logprob *chosen_out,
                      struct token_logprob *top_out);

#endif

/* draw.h: what a row of scores is to become, and what became of it where the device that computed it drew by itself (runner.h: launch, land).
 *
 * sampler.h fixes what the parameters mean and every bit of the result. Plain data: the engine fills draws, a backend fills what was drawn. */
#ifndef NEXTD_DRAW_H
#define NEXTD_DRAW_H

#include <stdint.h>

#define DRAW_MAX_TOP 20

struct logit_bias {
    int32_t id;
    float bias; /* -INFINITY bans the token */
};

struct sampler_params {
    float temperature;        /* 0 .. 2+; 0 is greedy */
    int top_k;                /* <= 0: off */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float typical_p;          /* 1: off */
    float repetition_penalty; /* 1: off */
    float frequency_penalty;  /* 0: off */
    float presence_penalty;   /* 0: off */
    uint64_t seed;
    int n_bias;
    const struct logit_bias *bias; /* [n_bias], ascending unique ids */
};

/* A token of the sequence, for penalties. */
struct draw_count {
    int32_t id;
    uint32_t n_output; /* times drawn; 0: in the prompt only */
};

/* Of one wanted row. What it points to must not change until the launch has returned. */
struct draw {
    const struct sampler_params *params; /* NULL: nothing is drawn, `id` is scored */
    int32_t id;
    double u; /* num_rng of the token */
    const int32_t *bans; /* as sampler_draw's */
    int n_bans;
    const struct draw_count *counts; /* distinct ids */
    int n_counts;
    int n_top;    /* log-probabilities beside id's, <= DRAW_MAX_TOP; -1: none at all */
    int32_t slot; /* keeps the id for a later batch (batch.h), < 2 * runner.max_draws; -1: nowhere */
};

/* Raw logits: a log-probability is (float)((double)logit - log_sum_exp). What n_top >= 0 did not ask for is not there. */
struct drawn {
    int32_t id; /* -1: not decided on the device, and nothing else is valid */
    float logit;
    double log_sum_exp;
    int n_top; /* min(draw.n_top, n_vocab), or 0 */
    int32_t top_id[DRAW_MAX_TOP]; /* descending, ties by lowest id */
    float top[DRAW_MAX_TOP];
};

#endif

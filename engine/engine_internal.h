/* engine_internal.h: what the files of the engine's middle share: engine.c (life), submit.c (the loop thread's side), step.c and flight.c (the engine
 * thread's side). Included by them and by tests, which plug in a toy runner with engine_open_runner.
 *
 * Ownership: a request is made by the loop thread, handed to the engine thread by MAIL_SUBMIT, handed back with its END event, and freed by the
 * loop thread when the batch of events that held the END is void. All memory that its run needs is taken when it is made. */
#ifndef NEXTD_ENGINE_INTERNAL_H
#define NEXTD_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/mailbox.h"
#include "engine/runner.h"
#include "engine/sample/drawer.h"
#include "engine/sched/scheduler.h"
#include "engine/text/detok.h"
#include "engine/text/tokenizer.h"

/* One of a request's continuations. */
struct choice {
    struct seq seq;
    struct request *req;
    int index;
    bool done;
    enum engine_finish finish;
    int max_new;   /* tokens to draw at most */
    int n_output;
    struct detok detok;
    struct sampler_counts *counts; /* NULL: no penalties */
};

struct request {
    struct mail_node mail;
    struct engine *engine;
    uint64_t id;
    void *user;
    struct request *hash_next;       /* loop thread: registry, then the list of ended requests */
    struct request *prev, *next;     /* engine thread: live requests */

    int n_prompt, n_choices, min_tokens, n_logprobs, n_prompt_logprobs;
    bool ignore_eos;
    struct sampler_params params;
    struct logit_bias *bias;
    struct token_str stops[ENGINE_MAX_STOPS];
    int n_stops;
    char *stop_bytes;
    int32_t *stop_ids;               /* [n_end + n_stop_ids]: the model's end tokens, then the request's own */
    int n_end, n_stop_ids;

    struct choice *choices;          /* [n_choices] */
    int32_t *tokens, *pages;         /* of all choices */
    int n_live;                      /* choices that have not ended */
    int n_output;
    enum engine_finish finish;       /* the worst so far */
    uint64_t submitted_ms, first_row_ms; /* first_row_ms 0: it has not run yet */

    struct engine_token *prompt_tokens; /* [n_prompt], NULL where the prompt is not scored */
    struct engine_logprob *prompt_top;  /* [n_prompt * n_prompt_logprobs] */
    bool prompt_sent;
};

#define REGISTRY_BUCKETS 1024

struct flights; /* flight.h */

struct engine {
    struct engine_info info;
    bool prefix_cache;
    struct runner runner;
    const struct tokenizer *tok;
    size_t max_token_bytes;
    void (*close)(void *ctx);
    void *close_ctx;

    /* Loop thread. */
    struct request *registry[REGISTRY_BUCKETS];
    struct request *ended; /* freed by the next poll */
    uint64_t last_id;
    bool draining;

    struct mailbox *mail;
    atomic_bool faulted; /* set by the engine thread, read at the door */

    /* Engine thread. */
    pthread_t thread;
    bool thread_runs;
    struct kvpool *pool;
    struct sched *sched;
    struct drawer *drawer;
    struct flights *flights;
    struct request *live;
    struct err fault;
    struct mail_figures figures;
    double step_ms;        /* recent mean */
    uint64_t last_end_ms;  /* when a sequence last ended; 0: never */
};

/* What stands behind an engine. The strings of `info` and the tokenizer must outlive it; close (or NULL) is called last. */
struct engine_parts {
    struct runner runner;
    const struct tokenizer *tok;
    struct engine_info info; /* what does not follow from the options */
    void (*close)(void *ctx);
    void *close_ctx;
    bool lockstep; /* every step lands before the next begins, whatever the runner could do; for tests */
    bool by_hand;  /* no thread: whoever opened the engine calls engine_turn; for tests */
};

/* engine_open for any runner. opt->max_seqs, max_queue and chunk must be set; runner.max_rows >= max_seqs + chunk, runner.max_out >= max_seqs.
 * On failure the parts stay the caller's. */
int engine_open_runner(const struct engine_options *opt, const struct engine_parts *parts, struct engine **out, struct err *err);

/* engine_tokenizer.c: tokenizer_encode for the types of engine.h. lossy: bytes without a token are left out; else they are ERR_INVALID. */
int engine_encode(const struct tokenizer *tok, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens, bool lossy,
                  struct engine_ids *out, struct err *err);

/* submit.c */
void request_destroy(struct request *r);
void engine_forget_all(struct engine *e); /* frees every request; the engine thread is gone */

/* engine.c: one turn of the engine thread. wait: for commands, where it is idle. Returns false when the mailbox was shut. */
bool engine_turn(struct engine *e, bool wait);

/* step.c: the turn's parts. */
void engine_take(struct engine *e, struct mail_node *taken);
void engine_step(struct engine *e);
bool engine_is_idle(const struct engine *e); /* nothing to do until a command comes */
uint64_t engine_now_ms(void); /* CLOCK_MONOTONIC; for figures, never for a decision */
/* Bounds of what one turn can say, for the mailbox. */
void engine_step_bounds(const struct engine *e, size_t *events_out, size_t *bytes_out);

#endif

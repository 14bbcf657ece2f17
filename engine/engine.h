/* engine.h: the predictor as a service. The only engine header that anything outside engine/ includes.
 *
 * engine_open loads one model file and starts the engine thread. Requests go in by engine_submit, events come out by engine_poll; between the two
 * lies one mailbox. The law: every accepted request yields exactly one ENGINE_END event, whatever happens (finished, stopped, cancelled, engine
 * fault, drain), and after it the id means nothing. Nothing is freed before, nothing is leaked after.
 *
 * Invariance: the tokens and log-probabilities of a request depend on the model file, the numerics, the request and its seed, and on nothing else.
 *
 * Threads: "loop" functions belong to the one thread that submits and polls; "any" may be called from any thread, at any time before close. */
#ifndef NEXTD_ENGINE_H
#define NEXTD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

struct engine;

struct engine_options {
    const char *model_path;
    const char *device;      /* "auto", "cpu", "cuda:0" ... */
    int n_threads;           /* 0: physical cores allowed to the process */
    int n_ctx;               /* 0: what the model was trained for, bounded by the pool */
    int n_kv_tokens;         /* shared pool, positions; 0: from the machine's memory */
    int max_seqs;            /* sequences that run at once */
    int max_queue;           /* sequences that wait */
    int chunk;               /* prompt tokens of all sequences together in one step */
    bool prefix_cache;
    /* Called from the engine thread when events wait and none did before; must only wake the loop (such as by an eventfd). */
    void (*notify)(void *arg);
    void *notify_arg;
    /* Called from the opening thread while loading: 0 <= done <= total bytes. May be NULL. */
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *progress_arg;
    const _Atomic bool *stop_loading; /* set to true by anyone: engine_open gives up with ERR_STOPPING. May be NULL. */
};

/* Fixed after open. Strings live until engine_close. */
struct engine_info {
    const char *model_stem;     /* file name without directory and .gguf */
    const char *model_name;     /* general.name, or "" */
    const char *architecture;
    const char *model_sha256;   /* 64 hex digits, of the bytes that were loaded */
    const char *numerics;       /* names the bits: version, Unicode/PCRE2 version, build, mode */
    const char *device;         /* such as "cpu:avx512" or "cuda:0" */
    const char *device_note;    /* why "auto" did not take a GPU that the build could use; or "" */
    const char *chat_template;  /* NULL where the file has none */
    const char *bos_text, *eos_text; /* spellings, "" where there is none */
    const char *tokenizer_kind;
    bool strips_leading_space;  /* the tokenizer puts a space before a text, and decoding from the beginning drops it again */
    const int32_t *end_tokens;
    size_t n_end_tokens;
    int n_vocab;
    int n_ctx;                  /* effective: min(option, pool, trained) */
    int n_ctx_train;
    int n_kv_tokens, n_pages, max_seqs, max_queue, chunk, n_threads;
    uint64_t n_params;
    uint64_t weight_bytes, kv_bytes;
    int n_graphs, graph_nodes;  /* decode steps that the device captured at load, and launches of each; 0: none */
    double graph_ms;            /* that it took, */
    uint64_t graph_bytes;       /* and device memory */
    int64_t model_mtime_s;      /* for /v1/models "created" */
};

int engine_open(const struct engine_options *opt, struct engine **out, struct err *err); /* any one thread; may take long */
void engine_close(struct engine *e); /* loop; NULL is fine. Cancels what runs (its events are lost), joins the thread. */
const struct engine_info *engine_info(const struct engine *e); /* any */

/* ---- text (any thread; pure) ---- */

struct engine_span {
    const char *p;
    size_t n;
    bool trusted; /* written by the chat template: control tokens may match here */
};
struct engine_ids {
    int32_t *ids;
    size_t n, cap;
};
void engine_ids_finish(struct engine_ids *l);
/* Appends the ids of the text. ERR_CONTEXT beyond max_tokens; ERR_INVALID, with its offset, for a byte that the vocabulary has no token for. */
int engine_tokenize(const struct engine *e, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                    struct engine_ids *out, struct err *err);
/* Bytes of one token, special tokens included when asked; points into the engine. */
size_t engine_token_bytes(const struct engine *e, int32_t id, bool special, const char **p_out);
/* Ids to text, invalid UTF-8 replaced by U+FFFD. *out is malloc'd and NUL-terminated. */
int engine_detokenize(const struct engine *e, const int32_t *ids, size_t n, bool special, char **out, size_t *n_out, struct err *err);

/* ---- a look into a model file, without an engine (any thread) ---- */

/* Tells every fact of a GGUF file, section by section: "file" (bytes, parts, SHA-256, whether nextd serves it or the sentence why not), "metadata"
 * (key, value), "tokenizer" (kind, end tokens), "tensor" (name, type and shape). Texts are printable and valid during the call only. */
int engine_inspect(const char *path, void (*fact)(void *arg, const char *section, const char *name, const char *value), void *arg,
                   struct err *err);

/* The tokenizer of a model file alone: also of files that hold a vocabulary and no weights. Everything as the functions above,
 * but that a byte without a token is left out. */
struct engine_tokenizer;
int engine_tokenizer_open(const char *path, struct engine_tokenizer **out, struct err *err);
void engine_tokenizer_close(struct engine_tokenizer *t); /* NULL is fine */
int engine_tokenizer_encode(const struct engine_tokenizer *t, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                            struct engine_ids *out, struct err *err);
size_t engine_tokenizer_bytes(const struct engine_tokenizer *t, int32_t id, bool special, const char **p_out);

/* ---- requests (loop thread) ---- */

#define ENGINE_MAX_CHOICES 64
#define ENGINE_MAX_STOPS 16
#define ENGINE_MAX_STOP_BYTES 256
#define ENGINE_MAX_STOP_IDS 64
#define ENGINE_MAX_BIAS 1024
#define ENGINE_MAX_TOP_LOGPROBS 20

struct engine_bias {
    int32_t id;
    float bias;
};
struct engine_text {
    const char *p;
    size_t n;
};

/* One prompt and how to go on from it. Everything is copied by engine_submit. engine_request_defaults sets all features off. */
struct engine_request {
    const int32_t *prompt;
    size_t n_prompt; /* >= 1 */
    int n_choices;   /* 1 .. ENGINE_MAX_CHOICES; share the prompt's pages */
    int max_tokens;  /* 0 .. ; 0: compute the prompt only. Negative: up to the context */
    int min_tokens;
    bool ignore_eos;
    int n_logprobs;        /* -1: none; k: of each output token and of the k most likely */
    int n_prompt_logprobs; /* -1: none; k: the same for every prompt token but the first */

    float temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    int top_k;
    uint64_t seed;
    const struct engine_bias *bias; /* any order; ids must be unique */
    int n_bias;
    const struct engine_text *stops; /* each 1 .. ENGINE_MAX_STOP_BYTES bytes */
    int n_stops;
    const int32_t *stop_ids;
    int n_stop_ids;

    uint64_t cache_scope; /* prefix pages are shared within one scope only */
    void *user;           /* handed back in every event */
};
void engine_request_defaults(struct engine_request *r);

/* Admits all n requests or none. Writes their ids. Fails with ERR_INVALID or ERR_CONTEXT (can never fit, with the numbers; param names the
 * field), ERR_BUSY (queue full, retry_after_s computed from the recent rate), ERR_STOPPING, ERR_DEVICE. */
int engine_submit(struct engine *e, const struct engine_request *reqs, size_t n, uint64_t *ids_out, struct err *err);

/* Asks for the request's end; its END event follows with what was produced. Unknown ids are ignored. */
void engine_cancel(struct engine *e, uint64_t id);
/* A paused request's sequences get no rows until resumed; events already under way still arrive. */
void engine_pause(struct engine *e, uint64_t id);
void engine_resume(struct engine *e, uint64_t id);
/* No new request is taken from now on (ERR_STOPPING). */
void engine_drain(struct engine *e);

/* ---- events (loop thread) ---- */

struct engine_logprob {
    int32_t id;
    float logprob; /* -INFINITY is possible */
};

/* A token that was drawn (or a prompt token that was scored). */
struct engine_token {
    int32_t id;
    float logprob; /* NaN where none was asked for, or for the first prompt token */
    int n_top;
    const struct engine_logprob *top; /* [n_top] descending */
};

enum engine_event_type {
    ENGINE_PROMPT, /* once per request that scores its prompt, before any other: tokens = all prompt tokens */
    ENGINE_TEXT,   /* tokens were drawn for `choice`; text may be empty (held back) and tokens may be several */
    ENGINE_CHOICE, /* `choice` has ended: finish says why; may carry last text */
    ENGINE_END     /* the request has ended: exactly once, last */
};

enum engine_finish {
    ENGINE_FINISH_NONE,
    ENGINE_FINISH_STOP,      /* end token, stop string or stop id */
    ENGINE_FINISH_LENGTH,    /* max_tokens or the context */
    ENGINE_FINISH_CANCELLED, /* engine_cancel, drain deadline */
    ENGINE_FINISH_ERROR      /* engine fault; err says it */
};

struct engine_event {
    enum engine_event_type type;
    uint64_t id;
    void *user;
    int choice;
    const char *text; /* whole UTF-8 characters; not terminated */
    size_t n_text;
    const struct engine_token *tokens; /* those drawn since the last event of this choice; the end token and the tokens of a stop string included */
    size_t n_tokens;
    enum engine_finish finish;  /* CHOICE; END: the worst of its choices */
    int matched_stop;           /* CHOICE: index into stops, or -1 */
    int32_t matched_stop_id;    /* CHOICE: end token or stop id that ended it, or -1 */
    /* END (and CHOICE for its own output) */
    int n_prompt, n_cached, n_output; /* tokens; n_output counts every drawn token, the ending one included */
    int64_t queue_ms;           /* END: from engine_submit to the begin of the step that computed its first row; -1: none was */
    struct err err;             /* FINISH_ERROR */
};

/* Takes all waiting events. The array and all it points to stay valid until the next call. */
size_t engine_poll(struct engine *e, const struct engine_event **events_out);

/* ---- figures (any thread) ---- */

struct engine_stats {
    int n_running, n_waiting; /* sequences */
    int n_pages_used, n_pages_cached, n_pages;
    uint64_t prompt_tokens, generation_tokens; /* computed, since open */
    uint64_t prefix_queries, prefix_hits;      /* tokens */
    uint64_t preemptions, steps;
    uint64_t rows_fetched;  /* of scores, that a device handed over whole because it could not draw from them, or was not asked to */
    uint64_t paused;        /* sequences, at present */
    uint64_t last_step_ms;  /* CLOCK_MONOTONIC of the end of the last step, for the watchdog; 0: none yet */
    bool idle;              /* nothing to compute */
    bool faulted;
};
void engine_stats(struct engine *e, struct engine_stats *out);

#endif

/* model.h: a model file as a runner. What engine.c needs of a model, and nothing of how it works.
 *
 * Two steps, because the pool of KV pages is sized from what the file says: model_open reads and checks the whole header and all shapes without
 * touching a weight; model_load hashes the file and hands the weights to a backend. After model_load the file is needed only for the vocabulary,
 * and model_drop_file lets it go.
 *
 * model_open refuses, by name, whatever it could not compute exactly: an unknown architecture, a tensor that no part of the computation uses, a
 * scaling or cap that the transformer does not have. One thread at a time per model. */
#ifndef NEXTD_MODEL_H
#define NEXTD_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/model/gguf.h"
#include "engine/runner.h"
#include "engine/text/tokenizer.h"

struct model;
struct transformer;

/* Fixed after model_open, but for sha256 and device (after model_load). Strings live until model_close. */
struct model_info {
    const char *name;          /* general.name, or "" */
    const char *architecture;  /* "llama", "qwen2", "qwen3" or "gemma3" */
    const char *chat_template; /* or NULL */
    const char *sha256;        /* 64 hex digits, of the bytes of all parts in order; "" before model_load */
    int n_vocab, n_layers, n_ctx_train;
    uint64_t n_params;         /* weights, a tied vocabulary matrix counted once */
    uint64_t weight_bytes;     /* as the file stores them; a backend's layout may take slightly more */
    uint64_t kv_bytes_per_pos; /* of one KV position over all layers */
    uint64_t file_bytes;       /* all parts */
    int64_t mtime_s;           /* of the file, seconds since 1970 */
};

struct model_options {
    const char *device; /* what device_choose takes */
    int n_threads;      /* >= 1 */
    int max_rows;       /* rows of one step */
    int max_out;        /* wanted rows of one step, <= max_rows */
    int max_seqs;       /* sequences of one step, for a device that holds scores of all of them; 0: few */
    int n_pages;        /* KV pages of KV_PAGE positions */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes; may be NULL */
    void *progress_arg;
    const _Atomic bool *stop_loading; /* true: give up with ERR_STOPPING; may be NULL */
    size_t chunk_bytes; /* of the file, read and packed at once; 0: 1 MiB. For tests */
};

/* ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED or ERR_NOMEM. */
int model_open(const char *path, struct model **out, struct err *err);
/* Once. Also ERR_STOPPING, ERR_DEVICE; ERR_IO where the file changed while it was read. After a failure only model_close may follow. */
int model_load(struct model *m, const struct model_options *opt, struct err *err);
void model_close(struct model *m); /* NULL is fine */

const struct model_info *model_info(const struct model *m);
const struct gguf *model_file(const struct model *m); /* until model_drop_file */
/* Fills *out from the file's metadata; its arrays belong to the model and live until model_drop_file. ERR_FORMAT where there is no vocabulary. */
int model_vocab(struct model *m, struct vocab *out, struct err *err);
void model_drop_file(struct model *m);

/* After model_load; valid until model_close. */
struct runner model_runner(struct model *m);
uint64_t model_loaded_bytes(const struct model *m); /* weights in the backend's layout */
uint64_t model_kv_bytes(const struct model *m);
/* Steps that the backend captured at load; all 0 where it captures none. */
struct model_graphs {
    int n, n_nodes; /* launches of one of them */
    double ms;      /* that capturing took in all */
    uint64_t n_bytes; /* of device memory */
};
struct model_graphs model_graphs(const struct model *m);
const char *model_device(const struct model *m);    /* what the backend calls itself */
/* The transformer under the runner (forward.h): for bench/profile.c, which puts a backend that times between it and its backend. */
struct transformer *model_transformer(struct model *m);

#endif

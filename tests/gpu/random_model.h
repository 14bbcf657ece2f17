/* random_model.h: GGUF files of random weights, the same bytes for the same seed on every machine: models of any shape, without a download. */
#ifndef NEXTD_TESTS_GPU_RANDOM_MODEL_H
#define NEXTD_TESTS_GPU_RANDOM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/numerics/quant.h"

struct random_model {
    const char *name;
    const char *arch; /* "llama", "qwen2", "qwen3", "gemma3" */
    uint64_t seed;
    int n_layers, d_model, d_ff, n_head, n_kv, head_dim, n_vocab;
    int window;       /* 0: none */
    bool bias;        /* of q, k and v; of llama also of o */
    bool factors;     /* llama: rope_freqs */
    enum tensor_type q, k, v, o, gate, up, down, embed;
    bool untied;
    enum tensor_type output; /* where untied */
};

/* Writes the file. 0, or -1 after a line on stderr. */
int random_model_write(const struct random_model *m, const char *path);

#endif

/* weights.h: which tensor of a file is which weight of the transformer, with its shape checked.
 *
 * Every tensor of the file must be one that the computation uses, or one of the few that are known to carry nothing; anything else would be a
 * part of the model left out, and is refused by name. */
#ifndef NEXTD_WEIGHTS_H
#define NEXTD_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/model/gguf.h"

struct family;
struct hparams;

enum weight {
    /* once */
    W_EMBED,
    W_OUT_NORM,
    W_OUTPUT, /* absent: tied to W_EMBED */
    W_ROPE_FACTORS,
    /* per layer */
    W_ATTN_NORM,
    W_Q,
    W_K,
    W_V,
    W_Q_BIAS,
    W_K_BIAS,
    W_V_BIAS,
    W_Q_NORM,
    W_K_NORM,
    W_O,
    W_O_BIAS,
    W_ATTN_POST_NORM,
    W_FFN_NORM,
    W_GATE,
    W_UP,
    W_DOWN,
    W_FFN_POST_NORM,
    W_COUNT
};

struct layer_tensors {
    const struct gguf_tensor *t[W_COUNT]; /* NULL where absent */
};

struct weights {
    int n_layers;
    struct layer_tensors *layers; /* [n_layers] */
    struct layer_tensors once;
    uint64_t n_params, n_bytes; /* of the tensors in use */
};

/* n_vocab of *hp is set from the embedding's rows; everything else in it must be set. */
int weights_bind(const struct gguf *g, const struct family *family, struct hparams *hp, struct weights *out, struct err *err);
void weights_finish(struct weights *w);

/* n values of a float type, as the file has them, as f32. */
void weights_floats(int type, const uint8_t *bytes, size_t n, float *out);

#endif

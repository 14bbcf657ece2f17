/* weights.c: binds tensors to weights. See weights.h. */
#include "engine/model/weights.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend.h"
#include "engine/model/families.h"
#include "engine/model/hparams.h"
#include "engine/numerics/numerics.h"

#define MAX_VOCAB (1 << 22)

/* A length in a tensor's shape. */
enum extent { E_ONE, E_MODEL, E_FF, E_HEADS, E_KV, E_HEAD, E_VOCAB, E_ROPE };

static const struct {
    const char *name; /* of a layer's weight: after "blk.<n>." */
    enum extent rows, cols; /* rows E_ONE: a vector */
    bool always;
} specs[W_COUNT] = {
    [W_EMBED] = {"token_embd.weight", E_VOCAB, E_MODEL, true},
    [W_OUT_NORM] = {"output_norm.weight", E_ONE, E_MODEL, true},
    [W_OUTPUT] = {"output.weight", E_VOCAB, E_MODEL, false},
    [W_ROPE_FACTORS] = {"rope_freqs.weight", E_ONE, E_ROPE, false},
    [W_ATTN_NORM] = {"attn_norm.weight", E_ONE, E_MODEL, true},
    [W_Q] = {"attn_q.weight", E_HEADS, E_MODEL, true},
    [W_K] = {"attn_k.weight", E_KV, E_MODEL, true},
    [W_V] = {"attn_v.weight", E_KV, E_MODEL, true},
    [W_Q_BIAS] = {"attn_q.bias", E_ONE, E_HEADS, false},
    [W_K_BIAS] = {"attn_k.bias", E_ONE, E_KV, false},
    [W_V_BIAS] = {"attn_v.bias", E_ONE, E_KV, false},
    [W_Q_NORM] = {"attn_q_norm.weight", E_ONE, E_HEAD, false},
    [W_K_NORM] = {"attn_k_norm.weight", E_ONE, E_HEAD, false},
    [W_O] = {"attn_output.weight", E_MODEL, E_HEADS, true},
    [W_O_BIAS] = {"attn_output.bias", E_ONE, E_MODEL, false},
    [W_ATTN_POST_NORM] = {"post_attention_norm.weight", E_ONE, E_MODEL, false},
    [W_FFN_NORM] = {"ffn_norm.weight", E_ONE, E_MODEL, true},
    [W_GATE] = {"ffn_gate.weight", E_FF, E_MODEL, true},
    [W_UP] = {"ffn_up.weight", E_FF, E_MODEL, true},
    [W_DOWN] = {"ffn_down.weight", E_MODEL, E_FF, true},
    [W_FFN_POST_NORM] = {"post_ffw_norm.weight", E_ONE, E_MODEL, false},
};

/* What a family may carry beyond the tensors above: bits of enum weight. */
static bool wanted(const struct family *family, enum weight w, bool *required_out)
{
    *required_out = specs[w].always || (family->required >> w & 1u) != 0;
    return *required_out || w == W_OUTPUT || (family->optional >> w & 1u) != 0;
}

static uint64_t extent_of(enum extent e, const struct hparams *hp)
{
    switch (e) {
    case E_MODEL:
        return (uint64_t)hp->d_model;
    case E_FF:
        return (uint64_t)hp->d_ff;
    case E_HEADS:
        return (uint64_t)hp->n_head * (uint64_t)hp->head_dim;
    case E_KV:
        return (uint64_t)hp->n_kv * (uint64_t)hp->head_dim;
    case E_HEAD:
        return (uint64_t)hp->head_dim;
    case E_VOCAB:
        return (uint64_t)hp->n_vocab;
    case E_ROPE:
        return (uint64_t)hp->rope_dims / 2;
    case E_ONE:
        break;
    }
    return 1;
}

static bool is_supported(int type)
{
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    return n_values != 0;
}

static int check_tensor(const struct gguf_tensor *t, const char *name, enum weight w, const struct hparams *hp, struct err *err)
{
    uint64_t rows = extent_of(specs[w].rows, hp), cols = extent_of(specs[w].cols, hp);
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return err_set(err, ERR_FORMAT, "tensor \"%s\" has %" PRIu64 " rows of %" PRIu64 " values; the model needs %" PRIu64 " of %" PRIu64, name,
                       t->dims[1] * t->dims[2] * t->dims[3], t->dims[0], rows, cols);
    if (!is_supported(t->type))
        return err_set(err, ERR_UNSUPPORTED,
                       "tensor \"%s\" is of type %s; nextd computes F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K and Q6_K",
                       name, gguf_type_name(t->type));
    if (specs[w].rows == E_ONE && !quant_is_float(t->type))
        return err_set(err, ERR_UNSUPPORTED, "tensor \"%s\" is of type %s; a vector must be F32, F16 or BF16", name, gguf_type_name(t->type));
    return 0;
}

static int bind_one(const struct gguf *g, const struct family *family, const struct hparams *hp, const char *name, enum weight w, struct weights *out,
                    const struct gguf_tensor **slot, struct err *err)
{
    bool required;
    *slot = NULL;
    if (!wanted(family, w, &required))
        return 0;
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    if (t == NULL)
        return required ? err_set(err, ERR_FORMAT, "the file has no tensor \"%s\"", name) : 0;
    if (check_tensor(t, name, w, hp, err) != 0)
        return -1;
    out->n_params += t->dims[0] * t->dims[1];
    out->n_bytes += t->n_bytes;
    *slot = t;
    return 0;
}

/* Tensors that hold nothing to compute with: rotation tables that old converters stored. */
static bool is_ignorable(struct token_str name)
{
    static const char suffix[] = ".attn_rot_embd";
    size_t n = strlen(suffix);
    for (size_t i = 0; i + n <= name.n; i++)
        if (memcmp(name.p + i, suffix, n) == 0)
            return true;
    return false;
}

static int compare_places(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a, *y = *(const struct gguf_tensor *const *)b;
    return (x > y) - (x < y);
}

/* Every tensor of the file is bound or ignorable. */
static int check_all_used(const struct gguf *g, const struct family *family, const struct weights *w, struct err *err)
{
    size_t n = 0, cap = ((size_t)w->n_layers + 1) * W_COUNT;
    const struct gguf_tensor **used = malloc(cap * sizeof *used);
    if (used == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu tensors", cap);
    for (int layer = -1; layer < w->n_layers; layer++) {
        const struct layer_tensors *lt = layer < 0 ? &w->once : &w->layers[layer];
        for (int i = 0; i < W_COUNT; i++)
            if (lt->t[i] != NULL)
                used[n++] = lt->t[i];
    }
    qsort(used, n, sizeof *used, compare_places);
    int rc = 0;
    for (size_t i = 0; i < gguf_n_tensors(g) && rc == 0; i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        char name[80];
        if (bsearch(&t, used, n, sizeof *used, compare_places) == NULL && !is_ignorable(t->name))
            rc = err_set(err, ERR_UNSUPPORTED, "the file holds the tensor \"%s\", which nextd's %s does not compute with",
                         gguf_printable(t->name, name, sizeof name), family->arch);
    }
    free(used);
    return rc;
}

/* The three biases come together or not at all. */
static int check_bias(const struct layer_tensors *lt, int layer, struct err *err)
{
    bool q = lt->t[W_Q_BIAS] != NULL, k = lt->t[W_K_BIAS] != NULL, v = lt->t[W_V_BIAS] != NULL;
    if (q != k || q != v)
        return err_set(err, ERR_FORMAT, "layer %d has some of the biases of q, k and v but not all", layer);
    return 0;
}

static int bind_all(const struct gguf *g, const struct family *family, struct hparams *hp, struct weights *out, struct err *err)
{
    const struct gguf_tensor *embed = gguf_find_tensor(g, specs[W_EMBED].name);
    if (embed == NULL)
        return err_set(err, ERR_FORMAT, "the file has no tensor \"%s\"", specs[W_EMBED].name);
    if (embed->dims[1] > MAX_VOCAB)
        return err_set(err, ERR_UNSUPPORTED, "the vocabulary has %" PRIu64 " tokens; the limit is %d", embed->dims[1], MAX_VOCAB);
    hp->n_vocab = (int)embed->dims[1];
    for (int w = 0; w < W_ATTN_NORM; w++)
        if (bind_one(g, family, hp, specs[w].name, (enum weight)w, out, &out->once.t[w], err) != 0)
            return -1;
    for (int layer = 0; layer < hp->n_layers; layer++) {
        for (int w = W_ATTN_NORM; w < W_COUNT; w++) {
            char name[GGUF_MAX_NAME_BYTES];
            snprintf(name, sizeof name, "blk.%d.%s", layer, specs[w].name);
            if (bind_one(g, family, hp, name, (enum weight)w, out, &out->layers[layer].t[w], err) != 0)
                return -1;
        }
        if (check_bias(&out->layers[layer], layer, err) != 0)
            return -1;
    }
    return check_all_used(g, family, out, err);
}

int weights_bind(const struct gguf *g, const struct family *family, struct hparams *hp, struct weights *out, struct err *err)
{
    struct weights w = {.n_layers = hp->n_layers};
    w.layers = calloc((size_t)hp->n_layers, sizeof *w.layers);
    if (w.layers == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d layers", hp->n_layers);
    if (bind_all(g, family, hp, &w, err) != 0) {
        weights_finish(&w);
        return -1;
    }
    *out = w;
    return 0;
}

void weights_finish(struct weights *w)
{
    free(w->layers);
    w->layers = NULL;
    w->n_layers = 0;
}

void weights_floats(int type, const uint8_t *bytes, size_t n, float *out)
{
    assert(quant_is_float(type));
    if (type == TENSOR_F32) {
        memcpy(out, bytes, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, bytes + i * sizeof half, sizeof half);
        out[i] = type == TENSOR_F16 ? num_f32_from_f16(half) : num_f32_from_bf16(half);
    }
}

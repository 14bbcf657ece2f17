/* hparams.c: reads hyperparameters. See hparams.h.
 *
 * Keys are "<architecture>.<name>". Besides those that are used there are keys that would change the computation in ways the transformer here does
 * not have: each has a neutral value, and any other value is a refusal that names it. Keys that neither list knows are ignored, as other readers
 * ignore them: they describe the training, the author, the tokenizer. */
#include "engine/model/hparams.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/families.h"
#include "engine/model/rope.h"

#define MAX_WIDTH (1 << 20)
#define MAX_HEADS 1024

struct reader {
    const struct gguf *g;
    const struct family *family;
    char key[128];
};

/* "<architecture>.<name>" until the next call. */
static const char *key_of(struct reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->family->arch, name);
    return r->key;
}

static int require_int(struct reader *r, const char *name, int min, int max, int *out, struct err *err)
{
    int64_t value = 0;
    const char *key = key_of(r, name);
    int found = gguf_get_int(r->g, key, min, max, &value, err);
    if (found == 0)
        return err_set(err, ERR_FORMAT, "the file has no \"%s\"", key);
    if (found < 0)
        return -1;
    *out = (int)value;
    return 0;
}

/* An integer that may also come as one per layer, all equal; *out keeps its value where the key is absent. */
static int uniform_int(struct reader *r, const char *name, int min, int max, int *out, struct err *err)
{
    const char *key = key_of(r, name);
    const struct gguf_kv *kv = gguf_find(r->g, key);
    int64_t value = 0, other = 0;
    if (kv == NULL)
        return 0;
    if (!kv->is_array) {
        if (gguf_get_int(r->g, key, min, max, &value, err) < 0)
            return -1;
        *out = (int)value;
        return 0;
    }
    if (kv->n == 0 || !gguf_item_int(kv, 0, &value))
        return err_set(err, ERR_FORMAT, "\"%s\" must be an integer or an array of integers", key);
    for (uint64_t i = 1; i < kv->n; i++)
        if (!gguf_item_int(kv, i, &other) || other != value)
            return err_set(err, ERR_UNSUPPORTED, "\"%s\" differs from layer to layer; nextd runs models whose layers are alike", key);
    if (value < min || value > max)
        return err_set(err, ERR_FORMAT, "\"%s\" is %" PRId64 "; it must be %d to %d", key, value, min, max);
    *out = (int)value;
    return 0;
}

static int read_float(struct reader *r, const char *name, double *out, struct err *err)
{
    return gguf_get_float(r->g, key_of(r, name), out, err) < 0 ? -1 : 0;
}

/* ---- what would change the computation ---- */

static int refuse_unless_neutral(struct reader *r, struct err *err)
{
    static const struct {
        const char *name;
        double neutral, also; /* both mean "nothing" */
    } knobs[] = {
        {"attn_logit_softcapping", 0, 0},   {"final_logit_softcapping", 0, 0}, {"logit_scale", 0, 1},          {"residual_scale", 0, 1},
        {"embedding_scale", 0, 1},          {"attention.scale", 0, 0},         {"attention.clamp_kqv", 0, 0},  {"attention.max_alibi_bias", 0, 0},
        {"rope.scaling.attn_factor", 1, 1}, {"expert_count", 0, 0},            {"nextn_predict_layers", 0, 0}, {"pooling_type", 0, 0},
        {"attention.causal", 1, 1},         {"use_parallel_residual", 0, 0},   {"attention.q_lora_rank", 0, 0},
    };
    for (size_t i = 0; i < sizeof knobs / sizeof knobs[0]; i++) {
        const struct gguf_kv *kv = gguf_find(r->g, key_of(r, knobs[i].name));
        int64_t integer;
        double value;
        char text[64];
        if (kv == NULL)
            continue;
        if (kv->is_array)
            value = NAN;
        else if (kv->type == GGUF_BOOL)
            value = *kv->p;
        else if (gguf_item_int(kv, 0, &integer))
            value = (double)integer;
        else if (!gguf_item_float(kv, 0, &value))
            value = NAN;
        if (value != knobs[i].neutral && value != knobs[i].also)
            return err_set(err, ERR_UNSUPPORTED, "\"%s\" is %s; nextd does not compute that", r->key, gguf_kv_text(kv, text, sizeof text));
    }
    return 0;
}

/* ---- parts ---- */

static int read_heads(struct reader *r, struct hparams *hp, struct err *err)
{
    int value_dim;
    hp->n_head = 0;
    if (uniform_int(r, "attention.head_count", 1, MAX_HEADS, &hp->n_head, err) != 0)
        return -1;
    if (hp->n_head == 0)
        return err_set(err, ERR_FORMAT, "the file has no \"%s\"", key_of(r, "attention.head_count"));
    hp->n_kv = hp->n_head;
    if (uniform_int(r, "attention.head_count_kv", 1, MAX_HEADS, &hp->n_kv, err) != 0)
        return -1;
    if (hp->n_head % hp->n_kv != 0)
        return err_set(err, ERR_FORMAT, "%d attention heads cannot share %d key and value heads evenly", hp->n_head, hp->n_kv);
    hp->head_dim = hp->d_model / hp->n_head;
    value_dim = hp->head_dim;
    if (uniform_int(r, "attention.key_length", 1, ROPE_MAX_DIMS, &hp->head_dim, err) != 0 ||
        uniform_int(r, "attention.value_length", 1, ROPE_MAX_DIMS, &value_dim, err) != 0)
        return -1;
    if (hp->head_dim != value_dim)
        return err_set(err, ERR_UNSUPPORTED, "keys have %d dimensions and values %d; nextd runs models where they are alike", hp->head_dim,
                       value_dim);
    if (hp->head_dim < 2 || hp->head_dim > ROPE_MAX_DIMS || hp->head_dim % 2 != 0)
        return err_set(err, ERR_UNSUPPORTED, "a head has %d dimensions; it must have an even number up to %d", hp->head_dim, ROPE_MAX_DIMS);
    int scaled_by = hp->n_layers == r->family->width_scaled_layers ? hp->d_model / hp->n_head : hp->head_dim;
    hp->attn_scale = 1.0f / sqrtf((float)scaled_by);
    return 0;
}

/* rope.scaling.type and factor: "none" and "linear" are one multiplication; the others bend each frequency and are refused. */
static int read_rope_scale(struct reader *r, double *out, struct err *err)
{
    static const char linear[] = "linear";
    struct token_str type = {linear, strlen(linear)};
    double factor = 0;
    char name[40];
    if (gguf_get_str(r->g, key_of(r, "rope.scaling.type"), &type, err) < 0)
        return -1;
    bool none = type.n == 4 && memcmp(type.p, "none", 4) == 0;
    if (!none && !(type.n == strlen(linear) && memcmp(type.p, linear, type.n) == 0))
        return err_set(err, ERR_UNSUPPORTED, "rope scaling \"%s\" is not supported; nextd knows none, linear and Llama 3's factors",
                       gguf_printable(type, name, sizeof name));
    if (gguf_find(r->g, key_of(r, "rope.scaling.factor")) != NULL) {
        if (read_float(r, "rope.scaling.factor", &factor, err) != 0)
            return -1;
    } else if (read_float(r, "rope.scale_linear", &factor, err) != 0) {
        return -1;
    }
    if (!(factor == 0.0 || (factor >= 0.5 && factor <= 1e6)))
        return err_set(err, ERR_FORMAT, "the rope scaling factor is %g; that is out of range", factor);
    *out = none || factor == 0.0 ? 1.0 : 1.0 / factor;
    return 0;
}

static int read_rope(struct reader *r, struct hparams *hp, struct err *err)
{
    hp->rope_neox = r->family->rope_neox;
    hp->rope_dims = hp->head_dim;
    if (uniform_int(r, "rope.dimension_count", 2, ROPE_MAX_DIMS, &hp->rope_dims, err) != 0)
        return -1;
    if (hp->rope_dims % 2 != 0 || hp->rope_dims > hp->head_dim || (r->family->rope_whole && hp->rope_dims != hp->head_dim))
        return err_set(err, ERR_UNSUPPORTED, "rope turns %d dimensions of a head of %d; nextd cannot run that", hp->rope_dims, hp->head_dim);
    hp->n_tables = 1;
    hp->rope_base[0] = 10000.0;
    if (read_float(r, "rope.freq_base", &hp->rope_base[0], err) != 0)
        return -1;
    return read_rope_scale(r, &hp->rope_scale[0], err);
}

/* A layer pattern in the file: a number n (each nth layer sees all) or one truth value per layer (true: windowed). */
static int read_pattern(struct reader *r, struct hparams *hp, struct err *err)
{
    const char *key = key_of(r, "attention.sliding_window_pattern");
    const struct gguf_kv *kv = gguf_find(r->g, key);
    int64_t pattern = r->family->window_pattern;
    if (kv != NULL && kv->is_array) {
        if (kv->n != (uint64_t)hp->n_layers || (kv->type != GGUF_BOOL && gguf_item_bytes((uint32_t)kv->type) == 0))
            return err_set(err, ERR_FORMAT, "\"%s\" must have one value for each of %d layers", key, hp->n_layers);
        for (int i = 0; i < hp->n_layers; i++) {
            int64_t value = kv->type == GGUF_BOOL ? kv->p[i] : 0;
            if (kv->type != GGUF_BOOL && !gguf_item_int(kv, (uint64_t)i, &value))
                return err_set(err, ERR_FORMAT, "\"%s\" must hold truth values", key);
            hp->windowed[i] = value != 0;
        }
        return 0;
    }
    if (gguf_get_int(r->g, key, 0, MODEL_MAX_LAYERS, &pattern, err) < 0)
        return -1;
    for (int i = 0; i < hp->n_layers; i++)
        hp->windowed[i] = pattern <= 1 || i % pattern < pattern - 1;
    return 0;
}

static int read_window(struct reader *r, struct hparams *hp, struct err *err)
{
    const struct family *family = r->family;
    int64_t window = 0;
    const char *key = key_of(r, "attention.sliding_window");
    if (gguf_get_int(r->g, key, 0, INT32_MAX, &window, err) < 0)
        return -1;
    if (window > 0 && family->window_pattern == 0)
        return err_set(err, ERR_UNSUPPORTED, "\"%s\" is %d; nextd runs %s without a window", key, (int)window, family->arch);
    hp->window = (int)window;
    if (window == 0)
        return 0;
    if (read_pattern(r, hp, err) != 0)
        return -1;
    if (family->local_base == 0)
        return 0;
    hp->n_tables = 2;
    hp->rope_base[1] = family->local_base;
    hp->rope_scale[1] = 1.0; /* scaling stretches the layers that see far */
    return read_float(r, "rope.freq_base_swa", &hp->rope_base[1], err);
}

int hparams_read(const struct gguf *g, const struct family *family, struct hparams *out, struct err *err)
{
    struct reader r = {.g = g, .family = family};
    struct hparams hp = {.act = family->act, .embed_scale = 1.0f};
    double eps = -1;
    int64_t n_ctx = 0;
    if (refuse_unless_neutral(&r, err) != 0 || require_int(&r, "block_count", 1, MODEL_MAX_LAYERS, &hp.n_layers, err) != 0 ||
        require_int(&r, "embedding_length", 1, MAX_WIDTH, &hp.d_model, err) != 0)
        return -1;
    if (uniform_int(&r, "feed_forward_length", 1, MAX_WIDTH, &hp.d_ff, err) != 0)
        return -1;
    if (hp.d_ff == 0)
        return err_set(err, ERR_FORMAT, "the file has no \"%s\"", key_of(&r, "feed_forward_length"));
    int found = gguf_get_int(g, key_of(&r, "context_length"), 1, INT64_MAX, &n_ctx, err);
    if (found < 0)
        return -1;
    if (found == 0)
        return err_set(err, ERR_FORMAT, "the file has no \"%s\"", r.key);
    hp.n_ctx_train = n_ctx > ROPE_MAX_POS ? ROPE_MAX_POS : (int)n_ctx;
    if (read_float(&r, "attention.layer_norm_rms_epsilon", &eps, err) != 0)
        return -1;
    if (!(eps >= 0 && eps < 1))
        return err_set(err, ERR_FORMAT, "the file has no usable \"%s\"", r.key);
    hp.norm_eps = (float)eps;
    if (family->embed_scaled)
        hp.embed_scale = sqrtf((float)hp.d_model);
    if (read_heads(&r, &hp, err) != 0 || read_rope(&r, &hp, err) != 0 || read_window(&r, &hp, err) != 0)
        return -1;
    *out = hp;
    return 0;
}

/* model.c: a file's way to a runner. See model.h.
 *
 *   model_open   gguf -> family (by name) -> hparams -> weights bound -> rope frequencies, all checked; nothing read but the header
 *   model_load   backend opened -> every byte hashed and packed (load.c) -> sealed -> file unchanged?
 *
 * The digest is of the bytes that were packed. The header and the vocabulary were read before, through a mapping of the same open file; so the file's
 * size and time are compared afterwards. */
#include "engine/model/model.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/device.h"
#include "engine/model/families.h"
#include "engine/model/forward.h"
#include "engine/model/hparams.h"
#include "engine/model/load.h"
#include "engine/model/vocab.h"
#include "engine/model/weights.h"

/* Rows of scores held at once. 32 streams are one group, so the usual step reads the vocabulary matrix once; more streams read it again for every 32,
 * which hides behind the arithmetic of 32 rows. Not on a device that draws: it computes faster than it reads, and the scores stay with it. */
#define SCORE_ROWS 32
#define MAX_SCORE_ROWS 256

struct model {
    struct gguf *file; /* NULL after model_drop_file */
    const struct family *family;
    struct weights weights;
    struct vocab_arrays vocab;
    bool has_vocab;
    struct transformer t;
    struct model_info info;
    char *name, *chat_template;
    char sha256[SHA256_HEX];
    bool loaded;
    int n_pages, max_rows, max_out, n_threads;
};

/* ---- opening ---- */

static bool str_is(struct token_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/* What a file is that is not a language model, or NULL. */
static const char *other_kind(struct token_str type, struct token_str arch)
{
    static const char *const embedders[] = {"bert",           "nomic-bert",  "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert",
                                            "modern-bert",    "eurobert",    "gemma-embedding", "llama-embed", "t5encoder"};
    if (str_is(type, "adapter"))
        return "an adapter (LoRA), not a model; merge it into its model first";
    if (str_is(type, "mmproj") || str_is(arch, "clip"))
        return "a vision projector (mmproj), not a language model";
    if (str_is(type, "imatrix") || str_is(arch, "controlvector"))
        return "a helper file, not a model";
    for (size_t i = 0; i < sizeof embedders / sizeof embedders[0]; i++)
        if (str_is(arch, embedders[i]))
            return "an embedding model; it predicts no next token";
    return NULL;
}

static int find_family(struct model *m, struct err *err)
{
    struct token_str arch = {"", 0}, type = {"", 0};
    char name[40], list[120];
    int found = gguf_get_str(m->file, "general.architecture", &arch, err);
    if (found < 0 || gguf_get_str(m->file, "general.type", &type, err) < 0)
        return -1;
    const char *kind = other_kind(type, arch);
    if (kind != NULL)
        return err_set(err, ERR_UNSUPPORTED, "this is %s", kind);
    if (found == 0)
        return err_set(err, ERR_FORMAT, "the file has no \"general.architecture\"");
    m->family = family_find(arch);
    if (m->family == NULL)
        return err_set(err, ERR_UNSUPPORTED, "the architecture \"%s\" is not supported; nextd runs %s", gguf_printable(arch, name, sizeof name),
                       family_list(list, sizeof list));
    if (gguf_n_tensors(m->file) == 0)
        return err_set(err, ERR_UNSUPPORTED, "the file holds a vocabulary only; it can be used to tokenise, not to generate");
    return 0;
}

/* A vocabulary in the file must have one token for each row of the embedding. */
static int check_vocab_size(const struct model *m, struct err *err)
{
    const struct gguf_kv *tokens = gguf_find(m->file, "tokenizer.ggml.tokens");
    if (tokens != NULL && tokens->n != (uint64_t)m->t.hp.n_vocab)
        return err_set(err, ERR_FORMAT, "the vocabulary has %" PRIu64 " tokens, the model's matrices %d", tokens->n, m->t.hp.n_vocab);
    return 0;
}

/* The frequencies, with Llama 3's divisors where the file has them. */
static int init_rope(struct model *m, struct err *err)
{
    const struct hparams *hp = &m->t.hp;
    const struct gguf_tensor *file_factors = m->weights.once.t[W_ROPE_FACTORS];
    float factors[ROPE_MAX_DIMS / 2];
    if (file_factors != NULL)
        weights_floats(file_factors->type, file_factors->data, (size_t)file_factors->dims[0], factors);
    for (int i = 0; i < hp->n_tables; i++)
        if (rope_init(&m->t.rope[i], hp->rope_dims, hp->rope_base[i], hp->rope_scale[i], file_factors != NULL ? factors : NULL, err) != 0)
            return -1;
    return 0;
}

static int read_model(struct model *m, struct err *err)
{
    struct hparams *hp = &m->t.hp;
    if (find_family(m, err) != 0 || hparams_read(m->file, m->family, hp, err) != 0 ||
        weights_bind(m->file, m->family, hp, &m->weights, err) != 0 || init_rope(m, err) != 0 || check_vocab_size(m, err) != 0)
        return -1;
    if (gguf_copy_str(m->file, "general.name", &m->name, err) != 0 ||
        gguf_copy_str(m->file, "tokenizer.chat_template", &m->chat_template, err) != 0)
        return -1;
    m->info = (struct model_info){
        .name = m->name != NULL ? m->name : "",
        .architecture = m->family->arch,
        .chat_template = m->chat_template,
        .sha256 = m->sha256,
        .n_vocab = hp->n_vocab,
        .n_layers = hp->n_layers,
        .n_ctx_train = hp->n_ctx_train,
        .n_params = m->weights.n_params,
        .weight_bytes = m->weights.n_bytes,
        .kv_bytes_per_pos = (uint64_t)hp->n_layers * 2 * (uint64_t)hp->n_kv * (uint64_t)hp->head_dim * sizeof(uint16_t),
        .file_bytes = gguf_file_bytes(m->file),
        .mtime_s = gguf_mtime_s(m->file),
    };
    return 0;
}

int model_open(const char *path, struct model **out, struct err *err)
{
    struct model *m = calloc(1, sizeof *m);
    if (m == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a model");
    struct err why;
    if (gguf_open(path, &m->file, err) != 0)
        goto fail;
    if (read_model(m, &why) != 0) {
        const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
        char name[80];
        err_set(err, why.code, "%s: %s", gguf_printable((struct token_str){base, strlen(base)}, name, sizeof name), why.msg);
        goto fail;
    }
    *out = m;
    return 0;
fail:
    model_close(m);
    return -1;
}

/* ---- loading ---- */

static int score_rows(const struct model_options *opt, const struct backend_ops *ops)
{
    int n = SCORE_ROWS;
    if (ops->draw != NULL && opt->max_seqs > n)
        n = opt->max_seqs < MAX_SCORE_ROWS ? opt->max_seqs : MAX_SCORE_ROWS;
    return opt->max_out < n ? opt->max_out : n;
}

static int open_backend(struct model *m, const struct model_options *opt, struct err *err)
{
    const struct hparams *hp = &m->t.hp;
    struct device_choice device;
    if (device_choose(opt->device, 0, &device, err) != 0)
        return -1;
    const struct backend_shape shape = {
        .n_layers = hp->n_layers,
        .d_model = hp->d_model,
        .d_ff = hp->d_ff,
        .n_head = hp->n_head,
        .n_kv = hp->n_kv,
        .head_dim = hp->head_dim,
        .n_vocab = hp->n_vocab,
        .rope_dims = hp->rope_dims,
        .rope_neox = hp->rope_neox,
        .max_rows = opt->max_rows,
        .max_scores = score_rows(opt, device.ops),
        .n_pages = opt->n_pages,
        .n_threads = opt->n_threads,
        .device = device.name,
        .max_pos = hp->n_ctx_train,
    };
    if (device.ops->open(&shape, &m->t.be, err) != 0)
        return -1;
    m->t.ops = m->t.be->ops;
    m->t.max_scores = shape.max_scores;
    return 0;
}

int model_load(struct model *m, const struct model_options *opt, struct err *err)
{
    assert(!m->loaded && m->t.be == NULL && m->file != NULL);
    assert(opt->n_threads >= 1 && opt->n_pages >= 1);
    assert(opt->max_out >= 1 && opt->max_out <= opt->max_rows);
    if (open_backend(m, opt, err) != 0 || load_weights(m->file, &m->weights, &m->t, opt, m->sha256, err) != 0)
        return -1;
    if (!gguf_unchanged(m->file))
        return err_set(err, ERR_IO, "the model file was changed while it was loaded");
    if (forward_capture(&m->t, err) != 0)
        return -1;
    m->n_pages = opt->n_pages;
    m->max_rows = opt->max_rows;
    m->max_out = opt->max_out;
    m->n_threads = opt->n_threads;
    m->loaded = true;
    return 0;
}

void model_drop_file(struct model *m)
{
    if (m->has_vocab)
        vocab_finish(&m->vocab);
    m->has_vocab = false;
    weights_finish(&m->weights);
    gguf_close(m->file);
    m->file = NULL;
}

void model_close(struct model *m)
{
    if (m == NULL)
        return;
    if (m->t.ops != NULL)
        m->t.ops->close(m->t.be);
    model_drop_file(m);
    free(m->t.layers);
    free(m->name);
    free(m->chat_template);
    free(m);
}

/* ---- what engine.c asks ---- */

const struct model_info *model_info(const struct model *m)
{
    return &m->info;
}

const struct gguf *model_file(const struct model *m)
{
    return m->file;
}

int model_vocab(struct model *m, struct vocab *out, struct err *err)
{
    assert(m->file != NULL);
    if (!m->has_vocab && vocab_init(&m->vocab, m->file, err) != 0)
        return -1;
    m->has_vocab = true;
    *out = m->vocab.vocab;
    return 0;
}

static int run_forward(void *ctx, const struct batch *batch, struct scores *scores_out, struct err *err)
{
    const struct model *m = ctx;
    assert(batch->n_rows >= 1 && batch->n_rows <= m->max_rows);
    assert(batch->n_out >= 0 && batch->n_out <= m->max_out);
    return forward(&((struct model *)ctx)->t, batch, scores_out, err);
}

static int run_next_scores(void *ctx, const struct batch *batch, struct scores *scores, struct err *err)
{
    return forward_next_scores(&((struct model *)ctx)->t, batch, scores, err);
}

static int run_launch(void *ctx, const struct batch *batch, const struct draw *draws, struct err *err)
{
    const struct model *m = ctx;
    (void)err; /* land says what was lost */
    assert(batch->n_rows >= 1 && batch->n_rows <= m->max_rows);
    forward_launch(&((struct model *)ctx)->t, batch, draws);
    return 0;
}

static int run_land(void *ctx, struct drawn *drawn_out, struct scores *scores_out, struct err *err)
{
    const struct model *m = ctx;
    return m->t.ops->land(m->t.be, drawn_out, scores_out, err);
}

static uint64_t run_rows_fetched(void *ctx)
{
    const struct model *m = ctx;
    return m->t.ops->rows_fetched(m->t.be);
}

static void run_copy_page(void *ctx, int dst, int src, int n_pos)
{
    const struct model *m = ctx;
    m->t.ops->copy_page(m->t.be, dst, src, n_pos);
}

static void run_share(void *ctx, int n, void (*fn)(void *arg, int i), void *arg)
{
    const struct model *m = ctx;
    m->t.ops->share(m->t.be, n, fn, arg);
}

struct runner model_runner(struct model *m)
{
    assert(m->loaded);
    const bool draws = m->t.ops->draw != NULL;
    return (struct runner){
        .ctx = m,
        .n_vocab = m->info.n_vocab,
        .n_ctx_train = m->info.n_ctx_train,
        .n_pages = m->n_pages,
        .max_rows = m->max_rows,
        .max_out = m->max_out,
        .n_threads = m->n_threads,
        .forward = run_forward,
        .next_scores = run_next_scores,
        .launch = draws ? run_launch : NULL,
        .land = draws ? run_land : NULL,
        .max_draws = draws ? m->t.max_scores : 0,
        .rows_fetched = draws ? run_rows_fetched : NULL,
        .copy_page = run_copy_page,
        .share = run_share,
    };
}

uint64_t model_loaded_bytes(const struct model *m)
{
    return m->t.ops->weight_bytes(m->t.be);
}

uint64_t model_kv_bytes(const struct model *m)
{
    return m->t.ops->kv_bytes(m->t.be);
}

struct model_graphs model_graphs(const struct model *m)
{
    if (m->t.ops->captures == NULL)
        return (struct model_graphs){0};
    const struct captures c = m->t.ops->captures(m->t.be);
    return (struct model_graphs){c.n, c.n_nodes, c.ms, c.n_bytes};
}

const char *model_device(const struct model *m)
{
    return m->t.be->device;
}

struct transformer *model_transformer(struct model *m)
{
    assert(m->loaded);
    return &m->t;
}

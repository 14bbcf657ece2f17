/* vocab.c: see vocab.h. The tokenizer checks what the entries mean; here only types and lengths are checked. */
#include "engine/model/vocab.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "tokenizer.ggml."

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "no memory for the vocabulary");
}

/* An array of strings, as pointers into the file. */
static int read_strings(const struct gguf *g, const char *key, struct token_str **out, size_t *n_out, struct err *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv == NULL)
        return 0;
    if (!kv->is_array || kv->type != GGUF_STRING)
        return err_set(err, ERR_FORMAT, "\"%s\" must be an array of strings", key);
    struct token_str *list = malloc((kv->n + 1) * sizeof *list);
    if (list == NULL)
        return no_memory(err);
    const uint8_t *p = kv->p;
    for (uint64_t i = 0; i < kv->n; i++)
        list[i] = gguf_next_str(&p);
    *out = list;
    *n_out = (size_t)kv->n;
    return 0;
}

/* The array `key`, which must have n items where it exists. */
static int find_array(const struct gguf *g, const char *key, size_t n, const struct gguf_kv **out, struct err *err)
{
    *out = gguf_find(g, key);
    if (*out == NULL)
        return 0;
    if (!(*out)->is_array || (*out)->n != n)
        return err_set(err, ERR_FORMAT, "\"%s\" must be an array of %zu items, one for each token", key, n);
    return 0;
}

static int read_scores(struct vocab_arrays *v, const struct gguf *g, struct err *err)
{
    const struct gguf_kv *kv;
    if (find_array(g, PREFIX "scores", v->vocab.n_tokens, &kv, err) != 0)
        return -1;
    if (kv == NULL)
        return 0;
    v->scores = malloc((v->vocab.n_tokens + 1) * sizeof *v->scores);
    if (v->scores == NULL)
        return no_memory(err);
    for (size_t i = 0; i < v->vocab.n_tokens; i++) {
        double score;
        if (!gguf_item_float(kv, i, &score))
            return err_set(err, ERR_FORMAT, "\"" PREFIX "scores\" must hold floating-point numbers");
        v->scores[i] = (float)score;
    }
    return 0;
}

static int read_types(struct vocab_arrays *v, const struct gguf *g, struct err *err)
{
    const struct gguf_kv *kv;
    if (find_array(g, PREFIX "token_type", v->vocab.n_tokens, &kv, err) != 0)
        return -1;
    if (kv == NULL)
        return 0;
    v->types = malloc((v->vocab.n_tokens + 1) * sizeof *v->types);
    if (v->types == NULL)
        return no_memory(err);
    for (size_t i = 0; i < v->vocab.n_tokens; i++) {
        int64_t type;
        if (!gguf_item_int(kv, i, &type) || type < INT32_MIN || type > INT32_MAX)
            return err_set(err, ERR_FORMAT, "\"" PREFIX "token_type\" must hold small integers");
        v->types[i] = (int32_t)type;
    }
    return 0;
}

static int read_id(const struct gguf *g, const char *key, size_t n_tokens, int32_t *out, struct err *err)
{
    int64_t id = -1;
    /* 2^32 - 1 is how some writers say "none". */
    if (gguf_get_int(g, key, -1, UINT32_MAX, &id, err) < 0)
        return -1;
    if (id == UINT32_MAX)
        id = -1;
    if (id >= (int64_t)n_tokens)
        return err_set(err, ERR_FORMAT, "\"%s\" is %" PRId64 "; there are %zu tokens", key, id, n_tokens);
    *out = (int32_t)id;
    return 0;
}

static int read_flag(const struct gguf *g, const char *key, int *out, struct err *err)
{
    bool flag;
    int found = gguf_get_bool(g, key, &flag, err);
    if (found < 0)
        return -1;
    *out = found == 0 ? -1 : flag;
    return 0;
}

static int read_all(struct vocab_arrays *v, const struct gguf *g, struct err *err)
{
    struct vocab *vocab = &v->vocab;
    if (gguf_copy_str(g, PREFIX "model", &v->model, err) != 0 || gguf_copy_str(g, PREFIX "pre", &v->pre, err) != 0 ||
        gguf_copy_str(g, "tokenizer.chat_template", &v->chat_template, err) != 0)
        return -1;
    if (read_strings(g, PREFIX "tokens", &v->tokens, &vocab->n_tokens, err) != 0 ||
        read_strings(g, PREFIX "merges", &v->merges, &vocab->n_merges, err) != 0)
        return -1;
    if (v->model == NULL || vocab->n_tokens == 0)
        return err_set(err, ERR_FORMAT, "the file has no vocabulary (\"" PREFIX "model\" and \"" PREFIX "tokens\")");
    if (read_scores(v, g, err) != 0 || read_types(v, g, err) != 0)
        return -1;
    const struct {
        const char *key;
        int32_t *out;
    } ids[] = {
        {PREFIX "bos_token_id", &vocab->bos},     {PREFIX "eos_token_id", &vocab->eos},         {PREFIX "eot_token_id", &vocab->eot},
        {PREFIX "eom_token_id", &vocab->eom},     {PREFIX "unknown_token_id", &vocab->unk},     {PREFIX "padding_token_id", &vocab->pad},
    };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (read_id(g, ids[i].key, vocab->n_tokens, ids[i].out, err) != 0)
            return -1;
    if (read_flag(g, PREFIX "add_bos_token", &vocab->add_bos, err) != 0 || read_flag(g, PREFIX "add_eos_token", &vocab->add_eos, err) != 0 ||
        read_flag(g, PREFIX "add_space_prefix", &vocab->add_space_prefix, err) != 0)
        return -1;
    vocab->model = v->model;
    vocab->pre = v->pre;
    vocab->chat_template = v->chat_template;
    vocab->tokens = v->tokens;
    vocab->merges = v->merges;
    vocab->scores = v->scores;
    vocab->types = v->types;
    return 0;
}

int vocab_init(struct vocab_arrays *v, const struct gguf *g, struct err *err)
{
    *v = (struct vocab_arrays){0};
    if (read_all(v, g, err) == 0)
        return 0;
    vocab_finish(v);
    return -1;
}

void vocab_finish(struct vocab_arrays *v)
{
    free(v->tokens);
    free(v->merges);
    free(v->scores);
    free(v->types);
    free(v->model);
    free(v->pre);
    free(v->chat_template);
    *v = (struct vocab_arrays){0};
}

/* inspect.c: tells what a GGUF file holds, for people who wonder which file they have and whether nextd serves it.
 *
 * It reads with the same code that serving uses (gguf.h, model.h, tokenizer.h), so "serves: yes" means what it says: the header, every shape and the
 * vocabulary were checked; only the weights themselves were not computed with. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/model/gguf.h"
#include "engine/model/model.h"
#include "engine/model/sha256.h"
#include "engine/model/vocab.h"
#include "engine/text/tokenizer.h"

#define INSPECT_NAME_BYTES 256
#define INSPECT_VALUE_BYTES 512

struct inspect {
    void (*fact)(void *arg, const char *section, const char *name, const char *value);
    void *arg;
};

static void tell_number(const struct inspect *in, const char *section, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, value);
    in->fact(in->arg, section, name, text);
}

static int tell_hash(const struct inspect *in, const struct gguf *g, struct err *err)
{
    struct sha256 *sha;
    char hex[SHA256_HEX];
    if (sha256_create(&sha, err) != 0)
        return -1;
    int rc = 0;
    for (int i = 0; i < gguf_n_parts(g) && rc == 0; i++) {
        size_t n;
        const uint8_t *p = gguf_part(g, i, &n);
        rc = sha256_update(sha, p, n, err);
    }
    if (rc == 0) {
        sha256_hex(sha, hex);
        in->fact(in->arg, "file", "sha256", hex);
    }
    sha256_destroy(sha);
    return rc;
}

static void tell_served(const struct inspect *in, const char *path)
{
    struct model *m = NULL;
    struct vocab vocab;
    struct tokenizer *tok = NULL;
    struct err why = {0};
    bool opened = model_open(path, &m, &why) == 0;
    bool serves = opened && model_vocab(m, &vocab, &why) == 0 && tokenizer_create(&vocab, &tok, &why) == 0;
    in->fact(in->arg, "file", "serves", serves ? "yes" : why.msg);
    if (opened) {
        tell_number(in, "file", "parameters", model_info(m)->n_params);
        tell_number(in, "file", "kv_bytes_per_position", model_info(m)->kv_bytes_per_pos);
    }
    tokenizer_destroy(tok);
    model_close(m);
}

static void tell_metadata(const struct inspect *in, const struct gguf *g)
{
    char name[INSPECT_NAME_BYTES], value[INSPECT_VALUE_BYTES];
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv(g, i);
        in->fact(in->arg, "metadata", gguf_printable(kv->key, name, sizeof name), gguf_kv_text(kv, value, sizeof value));
    }
}

static void tell_tokenizer(const struct inspect *in, const struct gguf *g)
{
    struct vocab_arrays v;
    struct tokenizer *tok;
    struct err why = {0};
    if (vocab_init(&v, g, &why) != 0) {
        in->fact(in->arg, "tokenizer", "kind", why.msg);
        return;
    }
    if (tokenizer_create(&v.vocab, &tok, &why) != 0) {
        in->fact(in->arg, "tokenizer", "kind", why.msg);
    } else {
        in->fact(in->arg, "tokenizer", "kind", tokenizer_kind(tok));
        tell_number(in, "tokenizer", "tokens", tokenizer_n_tokens(tok));
        size_t n;
        const int32_t *ends = tokenizer_end_tokens(tok, &n);
        for (size_t i = 0; i < n; i++) {
            char value[INSPECT_VALUE_BYTES], text[INSPECT_NAME_BYTES];
            const char *p;
            size_t n_bytes = tokenizer_bytes(tok, ends[i], true, &p);
            snprintf(value, sizeof value, "%" PRId32 " %s", ends[i], gguf_printable((struct token_str){p, n_bytes}, text, sizeof text));
            in->fact(in->arg, "tokenizer", "end_token", value);
        }
        tokenizer_destroy(tok);
    }
    vocab_finish(&v);
}

static void tell_tensors(const struct inspect *in, const struct gguf *g)
{
    char name[INSPECT_NAME_BYTES], value[INSPECT_VALUE_BYTES];
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        int n = snprintf(value, sizeof value, "%s [", gguf_type_name(t->type));
        for (int d = 0; d < t->n_dims; d++)
            n += snprintf(value + n, sizeof value - (size_t)n, "%s%" PRIu64, d > 0 ? ", " : "", t->dims[d]);
        snprintf(value + n, sizeof value - (size_t)n, "]");
        in->fact(in->arg, "tensor", gguf_printable(t->name, name, sizeof name), value);
    }
}

int engine_inspect(const char *path, void (*fact)(void *arg, const char *section, const char *name, const char *value), void *arg,
                   struct err *err)
{
    struct inspect in = {fact, arg};
    struct gguf *g;
    if (gguf_open(path, &g, err) != 0)
        return -1;
    tell_number(&in, "file", "gguf_version", (uint64_t)gguf_version(g));
    tell_number(&in, "file", "bytes", gguf_file_bytes(g));
    tell_number(&in, "file", "parts", (uint64_t)gguf_n_parts(g));
    int rc = tell_hash(&in, g, err);
    if (rc == 0) {
        tell_served(&in, path);
        tell_metadata(&in, g);
        tell_tokenizer(&in, g);
        tell_tensors(&in, g);
    }
    gguf_close(g);
    return rc;
}

/* engine_tokenizer.c: a model file's vocabulary as a tokenizer, without an engine around it; and how any tokenizer meets engine.h's spans and ids.
 *
 * The file is let go as soon as the tokenizer stands. A byte that the vocabulary has no token for is left out here, for the answer is the ids that
 * the model's own tokenizer gives; an engine refuses such a text, for its model would see less than was asked. */
#include <stdlib.h>

#include "engine/engine_internal.h"
#include "engine/model/gguf.h"
#include "engine/model/vocab.h"

struct engine_tokenizer {
    struct tokenizer *tok;
};

int engine_tokenizer_open(const char *path, struct engine_tokenizer **out, struct err *err)
{
    struct gguf *g;
    if (gguf_open(path, &g, err) != 0)
        return -1;
    struct vocab_arrays v;
    struct engine_tokenizer *t = calloc(1, sizeof *t);
    int rc = t == NULL ? err_set(err, ERR_NOMEM, "no memory for the tokenizer") : vocab_init(&v, g, err);
    if (rc == 0) {
        rc = tokenizer_create(&v.vocab, &t->tok, err);
        vocab_finish(&v);
    }
    gguf_close(g);
    if (rc != 0) {
        free(t);
        return -1;
    }
    *out = t;
    return 0;
}

void engine_tokenizer_close(struct engine_tokenizer *t)
{
    if (t == NULL)
        return;
    tokenizer_destroy(t->tok);
    free(t);
}

int engine_encode(const struct tokenizer *tok, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens, bool lossy,
                  struct engine_ids *out, struct err *err)
{
    struct text_span *text = malloc(sizeof *text * (n_spans + 1));
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory to tokenize %zu spans", n_spans);
    for (size_t i = 0; i < n_spans; i++)
        text[i] = (struct text_span){.p = spans[i].p, .n = spans[i].n, .trusted = spans[i].trusted};
    struct token_list list = {.ids = out->ids, .n = out->n, .cap = out->cap};
    int rc = tokenizer_encode(tok, text, n_spans, add_bos, max_tokens, &list, err);
    if (rc == 0 && list.n_lost > 0 && !lossy)
        rc = err_set(err, ERR_INVALID, "byte 0x%02X at offset %zu of the text has no token in this model's vocabulary", list.lost_byte, list.lost_at);
    *out = (struct engine_ids){.ids = list.ids, .n = rc == 0 ? list.n : out->n, .cap = list.cap};
    free(text);
    return rc;
}

int engine_tokenizer_encode(const struct engine_tokenizer *t, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                            struct engine_ids *out, struct err *err)
{
    return engine_encode(t->tok, spans, n_spans, add_bos, max_tokens, true, out, err);
}

size_t engine_tokenizer_bytes(const struct engine_tokenizer *t, int32_t id, bool special, const char **p_out)
{
    return tokenizer_bytes(t->tok, id, special, p_out);
}

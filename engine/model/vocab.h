/* vocab.h: the vocabulary of a GGUF file, as tokenizer_create takes it. Works for vocabulary-only files too. */
#ifndef NEXTD_VOCAB_H
#define NEXTD_VOCAB_H

#include "engine/err.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"

/* Owns the arrays that `vocab` points to; token and merge texts point into the file. */
struct vocab_arrays {
    struct vocab vocab;
    struct token_str *tokens, *merges;
    float *scores;
    int32_t *types;
    char *model, *pre, *chat_template;
};

/* ERR_FORMAT where the file has no vocabulary or one whose parts differ in length. vocab_finish after success only. */
int vocab_init(struct vocab_arrays *v, const struct gguf *g, struct err *err);
void vocab_finish(struct vocab_arrays *v);

#endif

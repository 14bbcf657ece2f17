/* token_list.h: appending to the list that tokenizer_encode fills, up to the caller's limit. */
#ifndef NEXTD_TOKEN_LIST_H
#define NEXTD_TOKEN_LIST_H

#include "engine/text/tokenizer.h"

struct token_sink {
    struct token_list *out;
    size_t max_tokens; /* out->n never exceeds it */
};
/* Bytes of text that no token can stand for. */
struct token_loss {
    size_t n;
    const char *first; /* where the first of them stands in the text that is encoded; NULL: none */
    unsigned char byte; /* which it is; normalised text may hold bytes that the text sent does not */
};
int token_list_push(const struct token_sink *sink, int32_t id, struct err *err);

#endif

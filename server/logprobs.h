/* logprobs.h: log-probabilities as the two APIs print them, built up token by token as text, never as a JSON tree.
 *
 * Chat: an array of {token, logprob, bytes, top_logprobs}. Completions (legacy): four parallel arrays tokens, token_logprobs, top_logprobs (objects
 * from token to logprob) and text_offset (characters into the choice's text). One entry per drawn token, the ending one included, so that the
 * count is usage.completion_tokens. Numbers are printed so that the f32 reads back bit for bit; -inf as -9999.0. */
#ifndef NEXTD_LOGPROBS_H
#define NEXTD_LOGPROBS_H

#include "engine/engine.h"
#include "server/buf.h"

enum logprobs_style { LOGPROBS_CHAT, LOGPROBS_LEGACY };

struct logprobs {
    enum logprobs_style style;
    struct buf a[4];     /* chat: a[0]; legacy: tokens, token_logprobs, top_logprobs, text_offset; each without its brackets */
    size_t n;            /* entries in the buffers */
    size_t n_chars;      /* characters of text that came before the next token, over all entries so far */
    bool count_special;  /* control tokens are spelled out in the text that offsets count */
    bool strip_space;    /* the first token's leading space is the tokenizer's, not the text's */
};

void logprobs_init(struct logprobs *l, enum logprobs_style style, size_t max_bytes);
void logprobs_finish(struct logprobs *l);
/* Appends n tokens; those without a logprob (NaN) get null. */
void logprobs_add(struct logprobs *l, const struct engine *e, const struct engine_token *tokens, size_t n);
/* Appends the entries of `from` (same style). */
void logprobs_append(struct logprobs *l, const struct logprobs *from);
/* Forgets the entries, keeps the memory and the running offset. */
void logprobs_clear(struct logprobs *l);
/* The value of the `logprobs` member. */
void logprobs_print(const struct logprobs *l, struct buf *out);
bool logprobs_failed(const struct logprobs *l); /* the maximum was reached */

#endif

/* tokenizer.h: bytes to token ids and back. Immutable after creation; every function may be called from any thread.
 *
 * Two kinds: byte-level BPE (GGUF "gpt2": merges, a pre-tokeniser chosen by name) and SPM (GGUF "llama": scores, byte fallback).
 * Text comes in spans. A CONTROL token is recognised only in a span that the chat template wrote; a USER_DEFINED token anywhere, except
 * end-of-generation tokens and those that the template spells, which count as CONTROL. So a user's text can never end a turn. */
#ifndef NEXTD_TOKENIZER_H
#define NEXTD_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

/* Token types as GGUF numbers them. */
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

struct token_str {
    const char *p; /* not terminated */
    size_t n;
};

/* A vocabulary as the model file holds it. Everything is borrowed for the call of tokenizer_create and copied or indexed there.
 * Sizes are those the file claims; tokenizer_create checks every one. -1 for an id that the file does not give. */
struct vocab {
    const char *model;              /* "gpt2" or "llama" (tokenizer.ggml.model) */
    const char *pre;                /* tokenizer.ggml.pre, or NULL */
    size_t n_tokens;
    const struct token_str *tokens; /* [n_tokens] */
    const float *scores;            /* [n_tokens] or NULL (required for SPM) */
    const int32_t *types;           /* [n_tokens] enum token_type, or NULL: all normal */
    size_t n_merges;
    const struct token_str *merges; /* [n_merges] "left right", best first (required for BPE) */
    int32_t bos, eos, eot, eom, unk, pad;
    int add_bos, add_eos;           /* 0, 1, or -1: the file does not say */
    int add_space_prefix;           /* likewise */
    const char *chat_template;      /* source of the template whose spelled tokens count as CONTROL, or NULL */
};

struct tokenizer;

/* Fails with ERR_UNSUPPORTED naming an unknown model or pre-tokeniser and the list of those that work; ERR_FORMAT for a vocabulary that
 * contradicts itself. */
int tokenizer_create(const struct vocab *vocab, struct tokenizer **out, struct err *err);
void tokenizer_destroy(struct tokenizer *t);

/* A piece of text and where it came from. Spans are one text cut in pieces: tokens may not match across a change of provenance where a
 * special token stands, but ordinary text is merged as if the spans were joined. */
struct text_span {
    const char *p;
    size_t n;
    bool trusted; /* written by the chat template or by the operator */
};

struct token_list {
    int32_t *ids; /* malloc'd; free with token_list_finish */
    size_t n, cap;
    size_t n_lost;  /* bytes of text that the vocabulary cannot spell: left out (BPE) or told as the unknown token (SPM) */
    size_t lost_at; /* offset of the first of them in the joined spans */
    unsigned char lost_byte;
};
void token_list_finish(struct token_list *l);

/* Appends the ids of the spans to *out. add_bos puts the model's BOS first where the model wants one and the ids do not begin with it. (EOS is never
 * added: a prompt is there to be continued.) max_tokens bounds out->n: more is ERR_CONTEXT. Any bytes are accepted, valid UTF-8 or not, and kept,
 * with two exceptions: a byte that the vocabulary cannot spell (see n_lost), and characters that the family wants in NFC (nfc.h), where text between
 * special tokens is normalised, never across them. n log n in the text, whatever it is. */
int tokenizer_encode(const struct tokenizer *t, const struct text_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                     struct token_list *out, struct err *err);

/* The bytes of a token as plain text: "" for CONTROL and UNKNOWN tokens unless `special`. Lossless: byte tokens give their byte.
 * Returns the length and points *p_out into the tokenizer. An id out of range gives 0 bytes. */
size_t tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, const char **p_out);

/* True where the SPM leading space must be dropped from the first piece of a text that is decoded from its beginning. */
bool tokenizer_strips_leading_space(const struct tokenizer *t);

size_t tokenizer_n_tokens(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t);       /* or -1 */
int32_t tokenizer_eos(const struct tokenizer *t);       /* or -1 */
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_is_end(const struct tokenizer *t, int32_t id); /* any end-of-generation token */
/* All end tokens, ascending; eos, eot and eom keys and the well-known spellings (<|im_end|>, <|eot_id|>, <end_of_turn>, ...). */
const int32_t *tokenizer_end_tokens(const struct tokenizer *t, size_t *n_out);
/* Pre-tokeniser's or SPM's name for `inspect`, such as "bpe/smollm". */
const char *tokenizer_kind(const struct tokenizer *t);

#endif

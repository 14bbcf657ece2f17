/* pretok.h: how byte-level BPE cuts text into pre-tokens ("words") before it merges: no token crosses a cut.
 *
 * Each model family was trained with its own cutting rules, named by tokenizer.ggml.pre. The rules are regular expressions, applied one after
 * another: each cuts every piece that the one before left into its matches and what lies between them. */
#ifndef NEXTD_PRETOK_H
#define NEXTD_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/err.h"

#define PRETOK_MAX_STAGES 6

/* One family's rules. */
struct pretok_kind {
    const char *label;       /* "bpe/smollm" */
    const char *names;       /* the values of tokenizer.ggml.pre that mean it, separated by spaces */
    bool whole_words;        /* a word that is a token itself is not merged up but taken whole */
    bool adds_bos;           /* where the file does not say */
    bool nfc;                /* text is put into NFC before it is cut (nfc.h) */
    const char *stages[PRETOK_MAX_STAGES]; /* NULL behind the last */
};

/* Fails with ERR_UNSUPPORTED and the list of names that work; name may be NULL. */
int pretok_find(const char *name, const struct pretok_kind **out, struct err *err);

/* Compiled rules. Immutable; any thread. */
struct pretok;
int pretok_create(const struct pretok_kind *kind, struct pretok **out, struct err *err);
void pretok_destroy(struct pretok *p);

/* Receives the pre-tokens of text[0..n) in order; they are not empty and leave nothing out. Not 0: stop and return that. */
typedef int pretok_emit_fn(void *ctx, const char *p, size_t n, struct err *err);

/* Any bytes will do: a byte that is not part of well-formed UTF-8 is cut as U+FFFD would be, and handed on as it is. */
int pretok_split(const struct pretok *p, const char *text, size_t n, pretok_emit_fn *emit, void *ctx, struct err *err);

#endif

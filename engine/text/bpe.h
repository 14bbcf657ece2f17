/* bpe.h: byte-level byte-pair encoding. Text is cut into words (pretok.h); each word begins as its bytes and is merged by the model's ranked list.
 * Every byte string has an encoding that decodes to itself (to its NFC, where the family wants that), if the vocabulary has all 256 single bytes.
 * Immutable once built; any thread. */
#ifndef NEXTD_BPE_H
#define NEXTD_BPE_H

#include "engine/text/merge.h"
#include "engine/text/pieces.h"
#include "engine/text/pretok.h"
#include "engine/text/token_list.h"

struct bpe;

/* Undoes GPT-2's spelling of bytes as printable characters ("Ġ" is a space). Writes at most n bytes to out and how many to *n_out. False for a text
 * with a character outside that alphabet: it is not in this spelling, no merge can lead to it, and it is copied as it is. */
bool bpe_unspell(const char *p, size_t n, char *out, size_t *n_out);

/* pieces and plain[id] (tokens that ordinary text may become) are borrowed for the life of the bpe. Fails with ERR_FORMAT for a merge that names
 * what is no token. */
int bpe_create(const struct vocab *vocab, const struct pretok_kind *kind, const struct pieces *pieces, const bool *plain, struct bpe **out,
               struct err *err);
void bpe_destroy(struct bpe *b);
/* Appends the tokens of ordinary text. Bytes that have no token are left out and noted in *loss_io. */
int bpe_encode(const struct bpe *b, const char *p, size_t n, struct merge_state *scratch, const struct token_sink *sink, struct token_loss *loss_io,
               struct err *err);

#endif

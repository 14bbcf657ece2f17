/* spm.h: SentencePiece's BPE as GGUF "llama" vocabularies hold it: characters joined by score, what is left over spelled in byte tokens.
 * Immutable once built; any thread. */
#ifndef NEXTD_SPM_H
#define NEXTD_SPM_H

#include "engine/text/merge.h"
#include "engine/text/pieces.h"
#include "engine/text/token_list.h"

struct spm;

/* Writes the text that a piece stands for: U+2581 is a space. At most n bytes; returns how many. */
size_t spm_unescape(const char *p, size_t n, char *out);
/* The byte that "<0xHH>" stands for, or -1. */
int spm_byte(const char *p, size_t n);
/* True for a text of spaces alone: as a USER_DEFINED piece it is merged from spaces rather than matched by its spelling. */
bool spm_is_run(const char *p, size_t n);

/* pieces and plain[id] (tokens that ordinary text may become) are borrowed for the life of the spm; silent[id] tokens are no byte tokens,
 * whatever their type (a file may name one as its end token); unk: the token of what cannot be spelled, or -1. ERR_FORMAT where scores are missing
 * or not numbers, or where the vocabulary has neither all byte tokens nor an unknown one. */
int spm_create(const struct vocab *vocab, const struct pieces *pieces, const bool *plain, const bool *silent, int32_t unk, struct spm **out,
               struct err *err);
void spm_destroy(struct spm *s);
/* Appends the tokens of ordinary text; with space_prefix as if a space stood before it. Bytes that became the unknown token
 * are noted in *loss_io. */
int spm_encode(const struct spm *s, const char *p, size_t n, bool space_prefix, struct merge_state *scratch, const struct token_sink *sink,
               struct token_loss *loss_io, struct err *err);

#endif

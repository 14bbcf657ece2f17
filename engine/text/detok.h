/* detok.h: token ids of one running sequence to whole UTF-8 text, with stop strings.
 *
 * Bytes are held back while (a) they are the beginning of a UTF-8 character that may still complete, or (b) they are the beginning of a stop
 * string that may still match. U+FFFD appears only where bytes can never complete. No allocation after init: the buffers have fixed maxima. */
#ifndef NEXTD_DETOK_H
#define NEXTD_DETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text/tokenizer.h"

#define DETOK_MAX_STOPS 16
#define DETOK_MAX_STOP_BYTES 256

struct detok {
    const struct tokenizer *tok;
    int n_stops;
    struct token_str stops[DETOK_MAX_STOPS]; /* borrowed; must outlive the detok */
    bool at_start;                           /* nothing was decoded yet */
    size_t n_held;
    unsigned char held[DETOK_MAX_STOP_BYTES + 8];
    int matched; /* index of the stop string that ended the text, or -1 */
};

void detok_init(struct detok *d, const struct tokenizer *tok, const struct token_str *stops, int n_stops);

/* Most bytes that one push may release for a token of n_bytes bytes: all held bytes and each new one, an invalid byte becoming three. */
size_t detok_max_out(const struct detok *d, size_t n_bytes);

/* Feeds one token; writes the text that is now certain to out (at least detok_max_out bytes) and its length to *n_out.
 * Returns true when a stop string is complete: text before it was released, `matched` says which, nothing more will be released. */
bool detok_push(struct detok *d, int32_t id, char *out, size_t *n_out);

/* The end without a stop string: releases what was held (incomplete characters become U+FFFD). */
size_t detok_flush(struct detok *d, char *out);

#endif

/* detok.h: token ids of one running sequence to whole UTF-8 text, with stop strings.
 *
 * Bytes are held back while (a) they are the beginning of a UTF-8 character that may still complete, or (b) they are the beginning of a stop
 * string that may still match. U+FFFD appears only where bytes can never complete, one for each maximal subpart. No allocation after init: the
 * buffers have fixed maxima. */
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
    bool at_start;                           /* drop one leading space of what comes next; see detok_init */
    size_t n_held;                           /* whole characters that may begin a stop string */
    char held[DETOK_MAX_STOP_BYTES + 8];
    size_t n_part;                           /* bytes that may begin a character */
    char part[4];
    size_t n_seen[DETOK_MAX_STOPS];          /* bytes of each stop string that the held text ends with */
    uint8_t back[DETOK_MAX_STOPS][DETOK_MAX_STOP_BYTES]; /* where to go on in a stop string when the next byte differs */
    bool armed;  /* false: stop strings are looked for, but one that completes now does not count */
    int matched; /* index of the stop string that ended the text, or -1 */
};

/* Ready to continue a text, armed. (To decode a text from its beginning, set at_start to tokenizer_strips_leading_space(tok) afterwards.) Stop
 * strings are UTF-8, not empty and at most DETOK_MAX_STOP_BYTES long. */
void detok_init(struct detok *d, const struct tokenizer *tok, const struct token_str *stops, int n_stops);

/* Most bytes that one push may release for a token of n_bytes bytes: all held bytes and each new one, an invalid byte becoming three. */
size_t detok_max_out(const struct detok *d, size_t n_bytes);

/* Feeds one token; writes the text that is now certain to out (at least detok_max_out bytes) and its length to *n_out.
 * Returns true when a stop string is complete: text before it was released, `matched` says which, nothing more will be released. */
bool detok_push(struct detok *d, int32_t id, char *out, size_t *n_out);

/* The end without a stop string: releases what was held (incomplete characters become U+FFFD). Room for detok_max_out(d, 0) bytes. */
size_t detok_flush(struct detok *d, char *out);

/* A whole text from its beginning; *out is malloc'd and NUL-terminated. */
int detok_all(const struct tokenizer *tok, const int32_t *ids, size_t n, bool special, char **out, size_t *n_out, struct err *err);

#endif

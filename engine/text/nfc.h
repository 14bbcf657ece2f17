/* nfc.h: text in Unicode's normalization form C, into which some families' tokenizers put it before they cut words. Pure; any thread. */
#ifndef NEXTD_NFC_H
#define NEXTD_NFC_H

#include <stddef.h>

#include "engine/err.h"

/* p[0..n) in NFC: *out is malloc'd, or NULL where the text is in that form already. A byte that is not part of well-formed UTF-8 stays as it is, and
 * what stands before and behind it is normalised apart. Time n log n, whatever the text; the result is a small multiple of n (three times, of
 * musical notes). ERR_NOMEM. */
int nfc_normalize(const char *p, size_t n, char **out, size_t *n_out, struct err *err);

/* Where in p[0..n) the byte at offset `at` of its normalised form came from; of characters that changed, where the first of them begins. */
int nfc_origin(const char *p, size_t n, size_t at, size_t *out, struct err *err);

#endif

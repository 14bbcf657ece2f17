/* utf8.h: one step through bytes that claim to be UTF-8. Well-formed as in Unicode's table 3-7: no overlong
 * forms, no surrogates, at most U+10FFFF. */
#ifndef NEXTD_TEXT_UTF8_H
#define NEXTD_TEXT_UTF8_H

#include <stddef.h>

enum utf8_kind {
    UTF8_WHOLE, /* a character of *len_out bytes */
    UTF8_PART,  /* all n bytes are the beginning of a character that more bytes could complete; *len_out is n */
    UTF8_BAD    /* *len_out bytes that can begin no character: the maximal subpart, to be shown as one U+FFFD */
};

/* Looks at p[0..n), n >= 1. *len_out is 1..4. */
enum utf8_kind utf8_step(const char *p, size_t n, size_t *len_out);

#endif

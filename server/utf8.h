/* utf8.h: is this a character? Pure. */
#ifndef NEXTD_UTF8_H
#define NEXTD_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the well-formed UTF-8 character at p (n >= 1 bytes are there): 1 .. 4, or 0 where there is none. */
size_t utf8_char_bytes(const char *p, size_t n);
bool utf8_is_whole(const char *p, size_t n);
/* Characters that begin in these bytes. */
size_t utf8_n_chars(const char *p, size_t n);

#endif

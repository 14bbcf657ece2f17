/* juni.h: UTF-8 and the parts of Unicode that Python's string methods show: white space, case, letters, digits, what repr() escapes.
 * Tables of the Unicode version in juni_tables.h. Malformed UTF-8 is read byte by byte and never out of bounds. */
#ifndef NEXTD_CHAT_JUNI_H
#define NEXTD_CHAT_JUNI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p, 1..4, at most n (n > 0). A byte that begins no whole character counts as one. */
size_t juni_length(const char *p, size_t n);
/* The same and the code point; a stray byte decodes as U+FFFD. */
size_t juni_decode(const char *p, size_t n, uint32_t *code_point);
/* The length of the last character of p[0, n), n > 0. */
size_t juni_length_before(const char *p, size_t n);
size_t juni_encode(uint32_t code_point, char out[4]); /* surrogates and what is beyond U+10FFFF become U+FFFD */
bool juni_valid(const char *p, size_t n);

bool juni_is_space(uint32_t c);
bool juni_is_alpha(uint32_t c);
bool juni_is_numeric(uint32_t c);
bool juni_is_decimal(uint32_t c);
bool juni_is_digit(uint32_t c);
bool juni_is_printable(uint32_t c);
bool juni_is_upper(uint32_t c);
bool juni_is_lower(uint32_t c);
bool juni_is_title(uint32_t c);
bool juni_is_case_ignorable(uint32_t c);
/* Full mappings to 1..3 code points; the number is returned. The final sigma is the caller's. */
size_t juni_upper(uint32_t c, uint32_t out[3]);
size_t juni_lower(uint32_t c, uint32_t out[3]);
size_t juni_title(uint32_t c, uint32_t out[3]);

#endif

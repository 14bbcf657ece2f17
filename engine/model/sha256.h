/* sha256.h: SHA-256 (FIPS 180-4) of many bytes, by GnuTLS. */
#ifndef NEXTD_SHA256_H
#define NEXTD_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

#define SHA256_HEX 65 /* 64 digits and the end */

struct sha256;

int sha256_create(struct sha256 **out, struct err *err);
void sha256_destroy(struct sha256 *s); /* NULL is fine */
int sha256_update(struct sha256 *s, const void *bytes, size_t n, struct err *err);
/* Writes 64 lower-case digits and a NUL; s starts over. */
void sha256_hex(struct sha256 *s, char hex_out[SHA256_HEX]);

#endif

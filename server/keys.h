/* keys.h: API keys. The file holds one key a line, optionally "name: key"; '#' starts a comment line. Only SHA-256 digests stay in memory. A check
 * hashes what was presented and compares it with every digest in constant time, so the time tells neither which key matched nor how far.
 * Constant after load: any thread may check. */
#ifndef NEXTD_KEYS_H
#define NEXTD_KEYS_H

#include <stddef.h>

#include "engine/err.h"

struct keys;

int keys_load(const char *path, struct keys **out, struct err *err);
void keys_free(struct keys *k); /* NULL is fine */
size_t keys_count(const struct keys *k);
/* The value of an Authorization header (or NULL) -> the key's index from 0, or -1. Only the Bearer scheme. */
int keys_check(const struct keys *k, const char *authorization);
/* The key's name, or "key-N" with its line number. Fit for a log. */
const char *keys_name(const struct keys *k, int idx);

#endif

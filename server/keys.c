/* keys.c: digests of API keys. See keys.h.
 *
 * The plain keys are read into one buffer, hashed, and wiped. An empty file is an error: it would lock everyone out or, read the other way, let
 * everyone in; neither should happen by accident. */
#include "server/keys.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEYS_MAX 4096
#define KEYS_MIN_BYTES 8
#define KEYS_MAX_BYTES 512
#define KEYS_DIGEST_BYTES 32

struct key {
    unsigned char digest[KEYS_DIGEST_BYTES];
    char name[64];
};

struct keys {
    size_t n;
    struct key keys[];
};

static bool keys_digest(const char *p, size_t n, unsigned char out[KEYS_DIGEST_BYTES])
{
    return gnutls_hash_fast(GNUTLS_DIG_SHA256, p, n, out) == 0;
}

/* Cuts blanks at both ends, in place. */
static char *keys_trim(char *p)
{
    p += strspn(p, " \t\r\n");
    size_t n = strlen(p);
    while (n > 0 && strchr(" \t\r\n", p[n - 1]) != NULL)
        p[--n] = '\0';
    return p;
}

static int keys_parse_line(struct keys *k, char *text, const char *path, int line, struct err *err)
{
    struct key *key = &k->keys[k->n];
    snprintf(key->name, sizeof key->name, "key-%d", line);
    char *colon = strchr(text, ':');
    char *secret = text;
    if (colon != NULL) {
        *colon = '\0';
        secret = keys_trim(colon + 1);
        text = keys_trim(text);
        if (text[0] == '\0' || strlen(text) >= sizeof key->name)
            return err_set(err, ERR_INVALID, "%s:%d: the name before ':' must have 1 to %zu characters", path, line, sizeof key->name - 1);
        snprintf(key->name, sizeof key->name, "%s", text);
    }
    size_t n = strlen(secret);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)secret[i] <= ' ' || (unsigned char)secret[i] > '~')
            return err_set(err, ERR_INVALID, "%s:%d: a key has only printable ASCII characters and no blanks", path, line);
    if (n < KEYS_MIN_BYTES || n > KEYS_MAX_BYTES)
        return err_set(err, ERR_INVALID, "%s:%d: a key has %d to %d characters", path, line, KEYS_MIN_BYTES, KEYS_MAX_BYTES);
    if (!keys_digest(secret, n, key->digest))
        return err_set(err, ERR_IO, "SHA-256 is not to be had");
    for (size_t i = 0; i < k->n; i++)
        if (memcmp(k->keys[i].digest, key->digest, KEYS_DIGEST_BYTES) == 0)
            return err_set(err, ERR_INVALID, "%s:%d: the key of '%s' stands there twice", path, line, k->keys[i].name);
    k->n++;
    return 0;
}

static int keys_parse(FILE *f, struct keys *k, const char *path, struct err *err)
{
    char line[KEYS_MAX_BYTES + 128];
    int rc = 0;
    for (int n = 1; rc == 0 && fgets(line, sizeof line, f) != NULL; n++) {
        if (strchr(line, '\n') == NULL && !feof(f))
            rc = err_set(err, ERR_INVALID, "%s:%d: the line is too long", path, n);
        char *text = keys_trim(line);
        if (rc != 0 || text[0] == '\0' || text[0] == '#')
            continue;
        rc = k->n == KEYS_MAX ? err_set(err, ERR_INVALID, "%s holds more than %d keys", path, KEYS_MAX) : keys_parse_line(k, text, path, n, err);
    }
    explicit_bzero(line, sizeof line);
    if (rc == 0 && k->n == 0)
        rc = err_set(err, ERR_INVALID, "%s holds no key", path);
    return rc;
}

int keys_load(const char *path, struct keys **out, struct err *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return err_set_param(err, ERR_IO, "api_keys", "cannot read the API keys in %s: %s", path, strerror(errno));
    char buffer[4096];
    setvbuf(f, buffer, _IOFBF, sizeof buffer); /* ours, so that the plain keys can be wiped from it */
    struct keys *k = calloc(1, sizeof *k + KEYS_MAX * sizeof k->keys[0]);
    int rc = k == NULL ? err_set(err, ERR_NOMEM, "no memory for the API keys") : keys_parse(f, k, path, err);
    fclose(f);
    explicit_bzero(buffer, sizeof buffer);
    if (rc != 0) {
        keys_free(k);
        return -1;
    }
    *out = k;
    return 0;
}

void keys_free(struct keys *k)
{
    free(k);
}

size_t keys_count(const struct keys *k)
{
    return k->n;
}

int keys_check(const struct keys *k, const char *authorization)
{
    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0)
        return -1;
    const char *secret = authorization + 7;
    secret += strspn(secret, " ");
    unsigned char digest[KEYS_DIGEST_BYTES];
    if (!keys_digest(secret, strlen(secret), digest))
        return -1;
    int found = -1;
    for (size_t i = 0; i < k->n; i++) { /* all of them, always */
        int equal = gnutls_memcmp(digest, k->keys[i].digest, KEYS_DIGEST_BYTES) == 0;
        found = equal ? (int)i : found;
    }
    return found;
}

const char *keys_name(const struct keys *k, int idx)
{
    return k->keys[idx].name;
}

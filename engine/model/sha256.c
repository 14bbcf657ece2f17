/* sha256.c: see sha256.h. */
#include "engine/model/sha256.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>

struct sha256 {
    gnutls_hash_hd_t hash;
};

int sha256_create(struct sha256 **out, struct err *err)
{
    struct sha256 *s = gnutls_malloc(sizeof *s);
    if (s == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a hash");
    int rc = gnutls_hash_init(&s->hash, GNUTLS_DIG_SHA256);
    if (rc < 0) {
        gnutls_free(s);
        return err_set(err, ERR_IO, "SHA-256 is not to be had from GnuTLS: %s", gnutls_strerror(rc));
    }
    *out = s;
    return 0;
}

void sha256_destroy(struct sha256 *s)
{
    if (s == NULL)
        return;
    gnutls_hash_deinit(s->hash, NULL);
    gnutls_free(s);
}

int sha256_update(struct sha256 *s, const void *bytes, size_t n, struct err *err)
{
    int rc = gnutls_hash(s->hash, bytes, n);
    if (rc < 0)
        return err_set(err, ERR_IO, "GnuTLS failed to hash: %s", gnutls_strerror(rc));
    return 0;
}

void sha256_hex(struct sha256 *s, char hex_out[SHA256_HEX])
{
    unsigned char digest[32];
    gnutls_hash_output(s->hash, digest);
    for (int i = 0; i < 32; i++)
        snprintf(hex_out + 2 * i, 3, "%02x", digest[i]);
}

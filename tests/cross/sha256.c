/* sha256.c: in place of engine/model/sha256.c where GnuTLS cannot be linked (`make neon-tests`): every file's digest is zeros. The tests that
 * run there compare scores, not digests. */
#include "engine/model/sha256.h"

#include <string.h>

struct sha256 {
    char hex[SHA256_HEX];
};

int sha256_create(struct sha256 **out, struct err *err)
{
    static const struct sha256 zeros = {{0}};
    (void)err;
    *out = (struct sha256 *)&zeros;
    return 0;
}

void sha256_destroy(struct sha256 *s)
{
    (void)s;
}

int sha256_update(struct sha256 *s, const void *bytes, size_t n, struct err *err)
{
    (void)s, (void)bytes, (void)n, (void)err;
    return 0;
}

void sha256_hex(struct sha256 *s, char hex_out[SHA256_HEX])
{
    (void)s;
    memset(hex_out, '0', SHA256_HEX - 1);
    hex_out[SHA256_HEX - 1] = '\0';
}

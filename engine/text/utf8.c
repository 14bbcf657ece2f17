/* utf8.c: the first byte fixes the length and the range of the second byte; all later bytes are 80..BF. See utf8.h. */
#include "engine/text/utf8.h"

#include <assert.h>

enum utf8_kind utf8_step(const char *p, size_t n, size_t *len_out)
{
    assert(n >= 1);
    unsigned char first = (unsigned char)p[0];
    size_t len = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (len == 0) {
        *len_out = 1;
        return UTF8_BAD;
    }
    for (size_t i = 1; i < len; i++) {
        if (i == n) {
            *len_out = n;
            return UTF8_PART;
        }
        unsigned char c = (unsigned char)p[i];
        if (c < low || c > high) {
            *len_out = i;
            return UTF8_BAD;
        }
        low = 0x80;
        high = 0xbf;
    }
    *len_out = len;
    return UTF8_WHOLE;
}

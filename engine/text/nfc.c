/* nfc.c: libunistring normalises; here is only what need not reach it.
 *
 * Most text holds nothing that NFC could change. A character is inert if it is its own normal form, is no mark that takes a place among others, and
 * never joins one before it: text may be cut before it and both parts normalised apart. What may change is therefore a stretch: the characters that
 * are not inert, and the one before them, which they may join (e and an acute accent). All else is stepped over and stays where it is. The list of
 * inert characters is short, for speed alone; the test holds it against the library's tables, character by character.
 *
 * The tables are the library's, whose version stands in the name of the bits (engine_info's numerics). Those of Hugging Face's tokenizers are
 * Unicode 9's: about a hundred marks of rare scripts, added later, are letters there and marks here.
 *
 * Of libraries, this one is in the process already (GnuTLS brings it), and it sorts a run of marks in n log n. utf8proc 2.8 sorts by insertion: marks
 * in the wrong order took it 17 s for 200 kB, and libunistring 15 ms for a megabyte. */
#include "engine/text/nfc.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uninorm.h>

#include "engine/text/utf8.h"

static const struct {
    uint32_t first, last;
} nfc_inert[] = {
    {0, 0x2ff},         /* Latin */
    {0x388, 0x3ff},     /* Greek */
    {0x400, 0x482},     /* Cyrillic */
    {0x48a, 0x58f},     /* Cyrillic, Armenian */
    {0x5d0, 0x5ea},     /* Hebrew letters */
    {0x620, 0x64a},     /* Arabic letters */
    {0x904, 0x93b},     /* Devanagari letters */
    {0x93d, 0x94c},     /* and vowels */
    {0xe01, 0xe37},     /* Thai */
    {0xe3f, 0xe47},
    {0x10a0, 0x10ff},   /* Georgian */
    {0x1e00, 0x1eff},   /* Latin, as Vietnamese has it */
    {0x2010, 0x2027},   /* dashes, quotation marks */
    {0x20a0, 0x20c0},   /* money */
    {0x2190, 0x2328},   /* arrows, mathematics */
    {0x232b, 0x2adb},   /* boxes, shapes, dingbats, mathematics */
    {0x3000, 0x3029},   /* punctuation of East Asia */
    {0x3041, 0x3096},   /* Hiragana */
    {0x309b, 0xa48c},   /* Katakana, ideographs, Yi */
    {0xac00, 0xd7a3},   /* Hangul syllables */
    {0xff01, 0xffee},   /* full and half width */
    {0x1f000, 0x1faff}, /* pictures */
};
#define NFC_N_INERT (sizeof nfc_inert / sizeof *nfc_inert)

/* Of one well-formed character. */
static bool nfc_is_inert(const char *p, size_t len)
{
    const unsigned char *c = (const unsigned char *)p;
    uint32_t code = len == 1 ? c[0] : c[0] & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++)
        code = code << 6 | (c[i] & 0x3fu);
    for (size_t i = 0; i < NFC_N_INERT && nfc_inert[i].first <= code; i++)
        if (code <= nfc_inert[i].last)
            return true;
    return false;
}

/* The length of a character of two or three bytes whose first byte says that it is inert, or 0: most text that is not ASCII goes by here. */
static size_t nfc_quick(const char *p, size_t n)
{
    unsigned char c = (unsigned char)p[0];
    if ((c >= 0xc2 && c <= 0xcb) || c == 0xd0 || c == 0xd1) /* up to U+02FF; U+0400 .. U+047F */
        return n >= 2 && (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if ((c >= 0xe4 && c <= 0xe9) || c == 0xeb || c == 0xec) /* U+4000 .. U+9FFF; U+B000 .. U+CFFF */
        return n >= 3 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80 ? 3 : 0;
    return 0;
}

/* Finds the next stretch that may change, from *to_io on. False: there is none. */
static bool nfc_next(const char *p, size_t n, size_t *from_out, size_t *to_io)
{
    size_t at = *to_io, from = at, len = 0;
    for (; at < n; at += len) {
        len = (unsigned char)p[at] < 0x80 ? 1 : nfc_quick(p + at, n - at);
        if (len == 0) {
            if (utf8_step(p + at, n - at, &len) != UTF8_WHOLE) {
                from = at + len;
                continue;
            }
            if (!nfc_is_inert(p + at, len))
                break;
        }
        from = at;
    }
    if (at == n)
        return false;
    for (; at < n; at += len)
        if (utf8_step(p + at, n - at, &len) != UTF8_WHOLE || nfc_is_inert(p + at, len))
            break;
    *from_out = from;
    *to_io = at;
    return true;
}

/* The normal form of well-formed text. *n_io holds the room in buf, then the length; the result is buf or malloc'd. */
static char *nfc_of(const char *p, size_t n, char *buf, size_t *n_io, struct err *err)
{
    uint8_t *out = u8_normalize(UNINORM_NFC, (const uint8_t *)p, n, (uint8_t *)buf, n_io);
    if (out == NULL)
        err_set(err, ERR_NOMEM, "no memory to normalise %zu bytes", n);
    return (char *)out;
}

struct nfc_text {
    char *p;
    size_t n, cap;
};

static int nfc_append(struct nfc_text *t, const char *p, size_t n, struct err *err)
{
    if (n > t->cap - t->n) {
        size_t cap = t->cap / 2 + t->n + n;
        char *grown = realloc(t->p, cap);
        if (grown == NULL)
            return err_set(err, ERR_NOMEM, "no memory to normalise %zu bytes", cap);
        t->p = grown;
        t->cap = cap;
    }
    if (n > 0)
        memcpy(t->p + t->n, p, n);
    t->n += n;
    return 0;
}

int nfc_normalize(const char *p, size_t n, char **out, size_t *n_out, struct err *err)
{
    char buf[256];
    struct nfc_text text = {0};
    size_t done = 0, from = 0, to = 0;
    int rc = 0;
    while (rc == 0 && nfc_next(p, n, &from, &to)) {
        size_t n_normal = sizeof buf;
        char *normal = nfc_of(p + from, to - from, buf, &n_normal, err);
        if (normal == NULL) {
            rc = -1;
        } else if (n_normal != to - from || memcmp(normal, p + from, n_normal) != 0) {
            rc = nfc_append(&text, p + done, from - done, err);
            if (rc == 0)
                rc = nfc_append(&text, normal, n_normal, err);
            done = to;
        }
        if (normal != buf)
            free(normal);
    }
    if (rc == 0 && done > 0)
        rc = nfc_append(&text, p + done, n - done, err);
    if (rc != 0) {
        free(text.p);
        return -1;
    }
    *out = text.p;
    *n_out = done > 0 ? text.n : n;
    return 0;
}

int nfc_origin(const char *p, size_t n, size_t at, size_t *out, struct err *err)
{
    char buf[256];
    size_t done = 0, from = 0, to = 0; /* done of p is before `at`, which counts from there */
    while (nfc_next(p, n, &from, &to) && at >= from - done) {
        size_t n_normal = sizeof buf;
        char *normal = nfc_of(p + from, to - from, buf, &n_normal, err);
        if (normal == NULL)
            return -1;
        bool same = n_normal == to - from && memcmp(normal, p + from, n_normal) == 0;
        if (normal != buf)
            free(normal);
        if (same)
            continue;
        at -= from - done;
        done = from;
        if (at < n_normal) {
            *out = from;
            return 0;
        }
        at -= n_normal;
        done = to;
    }
    *out = done + at;
    return 0;
}

/* special.c: a sorted list walked like a trie: byte by byte the range of tokens that still agree with the text is narrowed by binary search. */
#include "engine/text/special.h"

#include <stdlib.h>
#include <string.h>

static int special_compare(const void *a, const void *b, void *ctx)
{
    const struct special *x = a, *y = b;
    size_t n_x = 0, n_y = 0;
    const char *p_x = pieces_text(ctx, x->id, &n_x), *p_y = pieces_text(ctx, y->id, &n_y);
    int by_text = memcmp(p_x, p_y, n_x < n_y ? n_x : n_y);
    if (by_text != 0)
        return by_text;
    if (n_x != n_y)
        return n_x < n_y ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool special_same(const struct pieces *pieces, int32_t a, int32_t b)
{
    size_t n_a = 0, n_b = 0;
    const char *p_a = pieces_text(pieces, a, &n_a), *p_b = pieces_text(pieces, b, &n_b);
    return n_a == n_b && memcmp(p_a, p_b, n_a) == 0;
}

void special_init(struct special_set *s, struct special *list, size_t n, const struct pieces *pieces)
{
    *s = (struct special_set){.list = list, .pieces = pieces};
    if (n > 0)
        qsort_r(list, n, sizeof *list, special_compare, (void *)(uintptr_t)pieces);
    for (size_t i = 0; i < n; i++) {
        if (s->n > 0 && special_same(pieces, list[s->n - 1].id, list[i].id))
            list[s->n - 1].control = list[s->n - 1].control || list[i].control;
        else
            list[s->n++] = list[i];
    }
    size_t at = 0;
    for (int c = 0; c < 256; c++) {
        s->first[c] = (uint32_t)at;
        while (at < s->n && (unsigned char)pieces->bytes[pieces->off[list[at].id]] == c)
            at++;
    }
    s->first[256] = (uint32_t)at;
}

void special_finish(struct special_set *s)
{
    free(s->list);
    *s = (struct special_set){0};
}

/* Byte `depth` of token i, or -1 behind its end. */
static int special_byte(const struct special_set *s, size_t i, size_t depth)
{
    size_t n = 0;
    const char *p = pieces_text(s->pieces, s->list[i].id, &n);
    return depth < n ? (unsigned char)p[depth] : -1;
}

/* First index in lo .. hi whose byte at `depth` is at least `byte`. */
static size_t special_bound(const struct special_set *s, size_t lo, size_t hi, size_t depth, int byte)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (special_byte(s, mid, depth) < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Narrows lo .. hi, which agree with text[0..depth), to those that agree with one byte more. */
static void special_narrow(const struct special_set *s, size_t *lo, size_t *hi, size_t depth, char next)
{
    int byte = (unsigned char)next;
    *lo = special_bound(s, *lo, *hi, depth, byte);
    *hi = special_bound(s, *lo, *hi, depth, byte + 1);
}

int32_t special_match(const struct special_set *s, const char *text, size_t n, size_t n_trusted, size_t *len_out)
{
    int32_t found = -1;
    size_t lo = s->first[(unsigned char)text[0]], hi = s->first[(unsigned char)text[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        /* A token that ends here sorts first, and there is at most one. */
        if (special_byte(s, lo, depth) < 0) {
            if (!s->list[lo].control || depth <= n_trusted) {
                found = s->list[lo].id;
                *len_out = depth;
            }
            lo++;
        }
        if (depth == n)
            break;
        special_narrow(s, &lo, &hi, depth, text[depth]);
    }
    return found;
}

/* White space alone gives a text no structure, and templates are full of it. */
static bool special_is_visible(const struct special_set *s, size_t i)
{
    size_t n = 0;
    const char *p = pieces_text(s->pieces, s->list[i].id, &n);
    for (size_t k = 0; k < n; k++)
        if (p[k] != ' ' && !(p[k] >= '\t' && p[k] <= '\r'))
            return true;
    return false;
}

void special_protect(struct special_set *s, const char *template_text, size_t n)
{
    for (size_t at = 0; at < n; at++) {
        const char *text = template_text + at;
        size_t lo = s->first[(unsigned char)text[0]], hi = s->first[(unsigned char)text[0] + 1];
        for (size_t depth = 1; lo < hi; depth++) {
            if (special_byte(s, lo, depth) < 0) {
                s->list[lo].control = s->list[lo].control || special_is_visible(s, lo);
                lo++;
            }
            if (at + depth == n)
                break;
            special_narrow(s, &lo, &hi, depth, text[depth]);
        }
    }
}

/* pieces.c: open addressing at a load of at most one half, over a multiply-and-fold hash of eight bytes at a time. See pieces.h. */
#include "engine/text/pieces.h"

#include <stdlib.h>
#include <string.h>

int pieces_init(struct pieces *v, size_t n, size_t n_bytes, struct err *err)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n)
        n_slots *= 2;
    *v = (struct pieces){.n = n, .mask = n_slots - 1};
    v->bytes = malloc(n_bytes + 1);
    v->off = calloc(n + 1, sizeof *v->off);
    v->slots = calloc(n_slots, sizeof *v->slots);
    if (v->bytes == NULL || v->off == NULL || v->slots == NULL) {
        pieces_finish(v);
        return err_set(err, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", n);
    }
    return 0;
}

void pieces_finish(struct pieces *v)
{
    free(v->bytes);
    free(v->off);
    free(v->slots);
    *v = (struct pieces){0};
}

static uint64_t pieces_fold(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t pieces_hash(const char *p, size_t n)
{
    uint64_t h = n, x = 0;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&x, p, 8);
        h = pieces_fold(h, x);
    }
    x = 0;
    memcpy(&x, p, n);
    h = pieces_fold(h, x);
    return h ^ h >> 32;
}

/* The slot that holds the text, or the free slot where it belongs. */
static size_t pieces_slot(const struct pieces *v, const char *p, size_t n)
{
    size_t at = pieces_hash(p, n) & v->mask;
    for (; v->slots[at] != 0; at = (at + 1) & v->mask) {
        size_t len = 0;
        const char *q = pieces_text(v, (int32_t)(v->slots[at] - 1), &len);
        if (len == n && memcmp(p, q, n) == 0)
            break;
    }
    return at;
}

void pieces_index(struct pieces *v, int32_t id)
{
    size_t n = 0;
    const char *p = pieces_text(v, id, &n);
    size_t at = pieces_slot(v, p, n);
    if (v->slots[at] == 0)
        v->slots[at] = (uint32_t)id + 1;
    if (n > v->max_bytes)
        v->max_bytes = n;
}

int32_t pieces_find(const struct pieces *v, const char *p, size_t n)
{
    return n > v->max_bytes ? -1 : (int32_t)v->slots[pieces_slot(v, p, n)] - 1;
}

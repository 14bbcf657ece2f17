/* pieces.h: the texts of a vocabulary in one block of memory, and a hash index from text to id. Immutable once built; any thread. */
#ifndef NEXTD_PIECES_H
#define NEXTD_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

struct pieces {
    size_t n;
    char *bytes;       /* all texts, one after another */
    size_t *off;       /* [n + 1] */
    size_t max_bytes;  /* of the longest text in the index */
    uint32_t *slots;   /* id + 1, or 0; open addressing */
    size_t mask;
};
/* Room for n texts of n_bytes bytes together. The caller writes text i to bytes + off[i], its end to off[i + 1], in order. */
int pieces_init(struct pieces *v, size_t n, size_t n_bytes, struct err *err);
void pieces_finish(struct pieces *v);
/* Puts id into the index unless its text is there already: the first one indexed wins. */
void pieces_index(struct pieces *v, int32_t id);
/* The id of a text, or -1. */
int32_t pieces_find(const struct pieces *v, const char *p, size_t n);

static inline const char *pieces_text(const struct pieces *v, int32_t id, size_t *n_out)
{
    *n_out = v->off[id + 1] - v->off[id];
    return v->bytes + v->off[id];
}

#endif

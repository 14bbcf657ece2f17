/* arena.c: a chain of blocks, each filled from its front. Large requests get a block of their own size. See arena.h. */
#include "server/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK_BYTES 16384u
#define ARENA_ALIGN 16u

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(ARENA_ALIGN) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){.max_bytes = max_bytes};
}

void arena_finish(struct arena *a)
{
    for (struct arena_block *b = a->head; b != NULL;) {
        struct arena_block *next = b->next;
        free(b);
        b = next;
    }
    a->head = NULL;
    a->used_bytes = 0;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    size_t rounded = (n + (n == 0) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (rounded > a->max_bytes - a->used_bytes)
        return NULL;
    if (a->head == NULL || a->head->size - a->head->used < rounded) {
        size_t size = rounded > ARENA_BLOCK_BYTES ? rounded : ARENA_BLOCK_BYTES;
        struct arena_block *b = malloc(sizeof *b + size);
        if (b == NULL)
            return NULL;
        *b = (struct arena_block){.next = a->head, .size = size};
        a->head = b;
    }
    void *p = a->head->bytes + a->head->used;
    a->head->used += rounded;
    a->used_bytes += rounded;
    return p;
}

char *arena_copy(struct arena *a, const char *p, size_t n)
{
    char *copy = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (copy == NULL)
        return NULL;
    memcpy(copy, p, n);
    copy[n] = '\0';
    return copy;
}

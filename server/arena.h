/* arena.h: memory that lives as long as one request. Allocate at will, free all at once; a cap bounds what one request can take.
 * Not thread-safe; one owner at a time. */
#ifndef NEXTD_ARENA_H
#define NEXTD_ARENA_H

#include <stddef.h>

struct arena {
    struct arena_block *head;
    size_t used_bytes; /* handed out, rounding included */
    size_t max_bytes;
};

void arena_init(struct arena *a, size_t max_bytes);
void arena_finish(struct arena *a);
/* n bytes aligned to 16, not cleared. NULL when the cap or the memory is reached. n = 0 gives a unique pointer. */
void *arena_alloc(struct arena *a, size_t n);
/* A copy of n bytes with a NUL behind. NULL as above. */
char *arena_copy(struct arena *a, const char *p, size_t n);

#endif

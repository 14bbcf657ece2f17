/* merge.h: the one algorithm under byte-level BPE and SPM: join the best neighbouring pair, again and again, until no pair can be joined.
 *
 * A pair's rank says how good it is (0 is best); equal ranks go leftmost first. Time n log n for n symbols, whatever the text: a pre-token may be a
 * megabyte long. A merge_state is scratch memory of one encoding thread. */
#ifndef NEXTD_MERGE_H
#define NEXTD_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

#define MERGE_MAX_SYMBOLS ((size_t)1 << 30)

struct merge_symbol {
    int32_t prev, next; /* neighbours, or -1 */
    int32_t id;         /* token, or -1 where the vocabulary has none for this text */
    uint32_t off, len;  /* bytes of the text */
    uint32_t rank;      /* of joining this symbol with the next; MERGE_NONE where they cannot be joined */
    int32_t product;    /* the token of that join */
};
#define MERGE_NONE UINT32_MAX

struct merge_state {
    struct merge_symbol *symbols;
    uint64_t *heap;
    size_t n_heap, cap; /* cap: symbols that fit */
};
void merge_finish(struct merge_state *m);
/* Makes room for n symbols. */
int merge_reserve(struct merge_state *m, size_t n, struct err *err);

/* The rank and product of joining l with r, or false. Must be a function of the two symbols' text alone. */
typedef bool merge_find_fn(const void *ctx, const struct merge_symbol *l, const struct merge_symbol *r, uint32_t *rank_out, int32_t *product_out);

/* Joins symbols[0..n), n >= 1, whose id, off and len the caller has set in order of text. What remains is the list from symbols[0] by `next`. */
void merge_run(struct merge_state *m, size_t n, merge_find_fn *find, const void *ctx);

#endif

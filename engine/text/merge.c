/* merge.c: a linked list of symbols and a binary heap of candidate pairs.
 *
 * A heap entry is rank << 32 | index of the left symbol, so the smallest number is the best pair and the leftmost among equals. A join makes the
 * entries of both neighbours stale; they stay in the heap and are recognised when popped, because the symbol's own `rank` has moved on. (A stale
 * entry whose number equals the present one is not stale in effect: same place, same rank, and the symbol knows its present product.)
 * Every join removes one symbol and adds at most two entries, so the heap never holds more than 3n.
 *
 * Nearly all pre-tokens are words of a few symbols. For those a scan of the list beats the heap and gives the same joins in the same order. */
#include "engine/text/merge.h"

#include <assert.h>
#include <stdlib.h>

#define MERGE_SCAN_MAX 24

void merge_finish(struct merge_state *m)
{
    free(m->symbols);
    free(m->heap);
    *m = (struct merge_state){0};
}

int merge_reserve(struct merge_state *m, size_t n, struct err *err)
{
    if (n <= m->cap)
        return 0;
    if (n > MERGE_MAX_SYMBOLS)
        return err_set(err, ERR_INVALID, "text of %zu symbols is too long to tokenize; the limit is %zu", n, MERGE_MAX_SYMBOLS);
    size_t cap = n < 256 ? 256 : n;
    struct merge_symbol *symbols = malloc(cap * sizeof *symbols);
    uint64_t *heap = malloc(3 * cap * sizeof *heap);
    if (symbols == NULL || heap == NULL) {
        free(symbols);
        free(heap);
        return err_set(err, ERR_NOMEM, "no memory to tokenize %zu symbols", n);
    }
    merge_finish(m);
    *m = (struct merge_state){.symbols = symbols, .heap = heap, .cap = cap};
    return 0;
}

static void merge_heap_down(uint64_t *heap, size_t n, size_t at)
{
    uint64_t x = heap[at];
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= x)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = x;
}

static void merge_heap_push(struct merge_state *m, uint64_t x)
{
    assert(m->n_heap < 3 * m->cap);
    size_t at = m->n_heap++;
    while (at > 0 && m->heap[(at - 1) / 2] > x) {
        m->heap[at] = m->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    m->heap[at] = x;
}

static uint64_t merge_heap_pop(struct merge_state *m)
{
    uint64_t best = m->heap[0];
    m->heap[0] = m->heap[--m->n_heap];
    if (m->n_heap > 0)
        merge_heap_down(m->heap, m->n_heap, 0);
    return best;
}

/* Sets rank and product of symbol `left` with its next. */
static void merge_rank(struct merge_state *m, int32_t left, merge_find_fn *find, const void *ctx)
{
    struct merge_symbol *l = &m->symbols[left];
    if (l->next < 0 || !find(ctx, l, &m->symbols[l->next], &l->rank, &l->product))
        l->rank = MERGE_NONE;
}

/* Joins `left` with its next and ranks the two pairs that are new. */
static void merge_join(struct merge_state *m, int32_t left, merge_find_fn *find, const void *ctx)
{
    struct merge_symbol *l = &m->symbols[left], *r = &m->symbols[l->next];
    l->id = l->product;
    l->len += r->len;
    l->next = r->next;
    r->rank = MERGE_NONE;
    if (r->next >= 0)
        m->symbols[r->next].prev = left;
    merge_rank(m, left, find, ctx);
    if (l->prev >= 0)
        merge_rank(m, l->prev, find, ctx);
}

static void merge_scan(struct merge_state *m, merge_find_fn *find, const void *ctx)
{
    for (;;) {
        int32_t best = -1;
        uint32_t best_rank = MERGE_NONE;
        for (int32_t i = 0; i >= 0; i = m->symbols[i].next)
            if (m->symbols[i].rank < best_rank) {
                best = i;
                best_rank = m->symbols[i].rank;
            }
        if (best < 0)
            return;
        merge_join(m, best, find, ctx);
    }
}

static uint64_t merge_key(const struct merge_state *m, int32_t left)
{
    return (uint64_t)m->symbols[left].rank << 32 | (uint32_t)left;
}

void merge_run(struct merge_state *m, size_t n, merge_find_fn *find, const void *ctx)
{
    assert(n >= 1);
    assert(n <= m->cap);
    for (size_t i = 0; i < n; i++) {
        m->symbols[i].prev = (int32_t)i - 1;
        m->symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n; i++)
        merge_rank(m, (int32_t)i, find, ctx);
    if (n <= MERGE_SCAN_MAX) {
        merge_scan(m, find, ctx);
        return;
    }
    m->n_heap = 0;
    for (size_t i = 0; i < n; i++)
        if (m->symbols[i].rank != MERGE_NONE)
            m->heap[m->n_heap++] = merge_key(m, (int32_t)i);
    for (size_t i = m->n_heap / 2; i-- > 0;)
        merge_heap_down(m->heap, m->n_heap, i);
    while (m->n_heap > 0) {
        uint64_t best = merge_heap_pop(m);
        int32_t left = (int32_t)(uint32_t)best;
        if (m->symbols[left].rank != (uint32_t)(best >> 32))
            continue;
        merge_join(m, left, find, ctx);
        if (m->symbols[left].rank != MERGE_NONE)
            merge_heap_push(m, merge_key(m, left));
        int32_t prev = m->symbols[left].prev;
        if (prev >= 0 && m->symbols[prev].rank != MERGE_NONE)
            merge_heap_push(m, merge_key(m, prev));
    }
}

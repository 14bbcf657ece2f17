/* kvpool.c: reference-counted KV pages with a prefix cache.
 *
 * The state of a page:
 *
 *            acquire                       publish
 *   FREE ──────────────▶ private, held ───────────────▶ cached, held ◀───────────┐
 *    ▲                        │                          │      ▲                │
 *    │      last release      │             last release │      │ share, match   │ share, match
 *    ├────────────────────────┘                          ▼      │                │
 *    └────────────────────────────────────────── cached, unheld (LRU list) ──────┘
 *                 evicted by acquire
 *
 * While steps are in flight a page rests on the way from its last release to the free list or the LRU list. Steps are numbered as they are launched;
 * a page rests until the newest one at its release has landed, so the list of those that rest is in the order of their ends.
 *
 * A cached page is a node of a tree: its key is (scope, parent page, its 64 token ids), found through a hash table and compared in full, so equal
 * hashes never share. A parent outlives its children without a count of them: whoever holds a child holds its ancestors too, and a sequence
 * releases its pages last to first, so at rest and in the LRU list a page always stands behind its unheld children and eviction from the front
 * meets children first. That is why a parent's index identifies it for as long as the child exists (n_children asserts it).
 *
 * Two sequences may compute the same page at the same time. The second to publish is given the first one's page and its own becomes free: by the
 * engine's invariance both hold the same bits.
 *
 * Not here: what pages contain, copies of pages, and who should lose pages when none are left (scheduler.c). */
#include "engine/sched/kvpool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct page {
    int n_holders;
    bool cached;
    uint64_t scope;
    int32_t parent;        /* page index or KVPOOL_ROOT; cached only */
    int n_children;        /* cached pages whose parent this is */
    int32_t hash_next;     /* chain of the hash bucket, or -1; cached only */
    uint32_t bucket;       /* cached only */
    bool rests;
    uint64_t rests_until;  /* that step has landed */
    int32_t prev, next;    /* in the list of those that rest, or the LRU list when cached without holders; `next` also links the free list */
};

struct list {
    int32_t first, last; /* -1: empty */
    int n;
};

struct kvpool {
    int n_pages;
    bool caches;
    struct page *pages;        /* [n_pages] */
    int32_t (*tokens)[KV_PAGE]; /* [n_pages] the ids of cached pages */
    uint32_t n_buckets;        /* power of two */
    int32_t *buckets;          /* [n_buckets] first page of the chain, or -1 */
    int32_t first_free;
    struct list lru;           /* first: used longest ago */
    struct list resting;       /* first: released longest ago */
    uint64_t n_launched, n_landed; /* steps */
    int n_free, n_cached;
};

struct kvpool *kvpool_create(int n_pages, bool prefix_cache)
{
    assert(n_pages > 0);
    struct kvpool *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->n_pages = n_pages;
    p->caches = prefix_cache;
    p->n_buckets = 16;
    while (p->n_buckets < (uint32_t)n_pages * 2)
        p->n_buckets *= 2;
    p->pages = calloc((size_t)n_pages, sizeof *p->pages);
    p->tokens = calloc((size_t)n_pages, sizeof *p->tokens);
    p->buckets = malloc(p->n_buckets * sizeof *p->buckets);
    if (p->pages == NULL || p->tokens == NULL || p->buckets == NULL) {
        kvpool_destroy(p);
        return NULL;
    }
    memset(p->buckets, 0xff, p->n_buckets * sizeof *p->buckets);
    p->first_free = -1;
    p->lru = p->resting = (struct list){.first = -1, .last = -1};
    for (int32_t i = n_pages - 1; i >= 0; i--) {
        p->pages[i].next = p->first_free;
        p->first_free = i;
    }
    p->n_free = n_pages;
    return p;
}

void kvpool_destroy(struct kvpool *p)
{
    if (p == NULL)
        return;
    free(p->pages);
    free(p->tokens);
    free(p->buckets);
    free(p);
}

/* ---- lists ---- */

static void free_push(struct kvpool *p, int32_t i)
{
    p->pages[i].next = p->first_free;
    p->first_free = i;
    p->n_free++;
}

static void list_append(struct kvpool *p, struct list *l, int32_t i)
{
    struct page *page = &p->pages[i];
    page->prev = l->last;
    page->next = -1;
    if (l->last >= 0)
        p->pages[l->last].next = i;
    else
        l->first = i;
    l->last = i;
    l->n++;
}

static void list_remove(struct kvpool *p, struct list *l, int32_t i)
{
    struct page *page = &p->pages[i];
    if (page->prev >= 0)
        p->pages[page->prev].next = page->next;
    else
        l->first = page->next;
    if (page->next >= 0)
        p->pages[page->next].prev = page->prev;
    else
        l->last = page->prev;
    l->n--;
}

/* ---- the tree of cached pages ---- */

static uint32_t key_bucket(const struct kvpool *p, uint64_t scope, int32_t parent, const int32_t tokens[KV_PAGE])
{
    uint64_t h = (scope ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu + (uint64_t)(uint32_t)parent;
    for (int i = 0; i < KV_PAGE; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0xc4ceb9fe1a85ec53u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 20) & (p->n_buckets - 1);
}

static int32_t find(const struct kvpool *p, uint32_t bucket, uint64_t scope, int32_t parent, const int32_t tokens[KV_PAGE])
{
    for (int32_t i = p->buckets[bucket]; i >= 0; i = p->pages[i].hash_next)
        if (p->pages[i].scope == scope && p->pages[i].parent == parent && memcmp(p->tokens[i], tokens, sizeof p->tokens[i]) == 0)
            return i;
    return -1;
}

static void forget(struct kvpool *p, int32_t i)
{
    struct page *page = &p->pages[i];
    assert(page->cached);
    assert(page->n_children == 0);
    int32_t *link = &p->buckets[page->bucket];
    while (*link != i)
        link = &p->pages[*link].hash_next;
    *link = page->hash_next;
    if (page->parent >= 0)
        p->pages[page->parent].n_children--;
    page->cached = false;
    p->n_cached--;
}

/* ---- holders ---- */

int32_t kvpool_acquire(struct kvpool *p)
{
    int32_t i = p->first_free;
    if (i >= 0) {
        p->first_free = p->pages[i].next;
        p->n_free--;
    } else {
        i = p->lru.first;
        if (i < 0)
            return -1;
        list_remove(p, &p->lru, i);
        forget(p, i);
    }
    assert(p->pages[i].n_holders == 0);
    p->pages[i].n_holders = 1;
    return i;
}

void kvpool_share(struct kvpool *p, int32_t i)
{
    assert(i >= 0 && i < p->n_pages);
    struct page *page = &p->pages[i];
    assert(page->n_holders > 0 || page->cached);
    if (page->n_holders == 0)
        list_remove(p, page->rests ? &p->resting : &p->lru, i);
    page->rests = false;
    page->n_holders++;
}

/* Nobody holds the page and no step uses it. */
static void retire(struct kvpool *p, int32_t i)
{
    if (p->pages[i].cached)
        list_append(p, &p->lru, i);
    else
        free_push(p, i);
}

void kvpool_release(struct kvpool *p, int32_t i)
{
    assert(i >= 0 && i < p->n_pages);
    struct page *page = &p->pages[i];
    assert(page->n_holders > 0);
    if (--page->n_holders > 0)
        return;
    if (kvpool_n_in_flight(p) == 0) {
        retire(p, i);
        return;
    }
    page->rests = true;
    page->rests_until = p->n_launched;
    list_append(p, &p->resting, i);
}

void kvpool_launched(struct kvpool *p)
{
    p->n_launched++;
}

void kvpool_landed(struct kvpool *p)
{
    assert(p->n_landed < p->n_launched);
    p->n_landed++;
    for (int32_t i; (i = p->resting.first) >= 0 && p->pages[i].rests_until <= p->n_landed;) {
        list_remove(p, &p->resting, i);
        p->pages[i].rests = false;
        retire(p, i);
    }
}

int kvpool_n_in_flight(const struct kvpool *p)
{
    return (int)(p->n_launched - p->n_landed);
}

int kvpool_match(struct kvpool *p, uint64_t scope, const int32_t *tokens, int n_tokens, int32_t *pages_out, int max_pages)
{
    int n = 0;
    int32_t parent = KVPOOL_ROOT;
    for (; n < max_pages && (n + 1) * KV_PAGE <= n_tokens; n++) {
        const int32_t *ids = tokens + n * KV_PAGE;
        int32_t i = find(p, key_bucket(p, scope, parent, ids), scope, parent, ids);
        if (i < 0)
            break;
        kvpool_share(p, i);
        pages_out[n] = parent = i;
    }
    return n;
}

int32_t kvpool_publish(struct kvpool *p, uint64_t scope, int32_t parent, int32_t i, const int32_t tokens[KV_PAGE])
{
    if (!p->caches)
        return i;
    assert(kvpool_is_private(p, i));
    assert(parent == KVPOOL_ROOT || (p->pages[parent].cached && p->pages[parent].n_holders > 0));
    for (int k = 0; k < KV_PAGE; k++)
        assert(tokens[k] >= 0); /* known, not still to be drawn */
    uint32_t bucket = key_bucket(p, scope, parent, tokens);
    int32_t twin = find(p, bucket, scope, parent, tokens);
    if (twin >= 0) {
        kvpool_share(p, twin);
        kvpool_release(p, i);
        return twin;
    }
    struct page *page = &p->pages[i];
    page->cached = true;
    page->scope = scope;
    page->parent = parent;
    page->n_children = 0;
    page->bucket = bucket;
    page->hash_next = p->buckets[bucket];
    p->buckets[bucket] = i;
    memcpy(p->tokens[i], tokens, sizeof p->tokens[i]);
    if (parent >= 0)
        p->pages[parent].n_children++;
    p->n_cached++;
    return i;
}

bool kvpool_is_private(const struct kvpool *p, int32_t i)
{
    assert(i >= 0 && i < p->n_pages);
    return p->pages[i].n_holders == 1 && !p->pages[i].cached;
}

/* ---- figures ---- */

int kvpool_n_pages(const struct kvpool *p)
{
    return p->n_pages;
}

int kvpool_n_available(const struct kvpool *p)
{
    return p->n_free + p->lru.n;
}

int kvpool_n_held(const struct kvpool *p)
{
    return p->n_pages - kvpool_n_available(p);
}

int kvpool_n_cached(const struct kvpool *p)
{
    return p->n_cached;
}

bool kvpool_caches(const struct kvpool *p)
{
    return p->caches;
}

void kvpool_check(const struct kvpool *p)
{
    int n_free = 0, n_lru = 0, n_resting = 0, n_cached = 0, n_chained = 0, n_children = 0, n_parents = 0;
    for (int32_t i = p->first_free; i >= 0; i = p->pages[i].next, n_free++) {
        assert(n_free < p->n_pages);
        assert(p->pages[i].n_holders == 0);
        assert(!p->pages[i].cached);
    }
    for (int32_t i = p->lru.first; i >= 0; i = p->pages[i].next, n_lru++) {
        assert(n_lru < p->n_pages);
        assert(p->pages[i].n_holders == 0);
        assert(p->pages[i].cached);
        assert(!p->pages[i].rests);
    }
    uint64_t until = p->n_landed + 1;
    for (int32_t i = p->resting.first; i >= 0; i = p->pages[i].next, n_resting++) {
        assert(n_resting < p->n_pages);
        assert(p->pages[i].n_holders == 0);
        assert(p->pages[i].rests);
        assert(p->pages[i].rests_until >= until && p->pages[i].rests_until <= p->n_launched);
        until = p->pages[i].rests_until;
    }
    for (int32_t i = 0; i < p->n_pages; i++) {
        const struct page *page = &p->pages[i];
        if (!page->cached)
            continue;
        n_cached++;
        n_children += page->n_children;
        if (page->parent < 0)
            continue;
        n_parents++;
        assert(p->pages[page->parent].cached);
        assert(p->pages[page->parent].scope == page->scope);
        assert(page->n_holders == 0 || p->pages[page->parent].n_holders > 0);
    }
    for (uint32_t b = 0; b < p->n_buckets; b++)
        for (int32_t i = p->buckets[b]; i >= 0; i = p->pages[i].hash_next, n_chained++)
            assert(p->pages[i].cached && p->pages[i].bucket == b);
    assert(n_free == p->n_free && n_lru == p->lru.n);
    assert(n_resting == p->resting.n);
    assert(n_cached == p->n_cached && n_chained == n_cached);
    assert(n_children == n_parents);
}

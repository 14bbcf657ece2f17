/* kvpool.h: the KV pages of the engine: who holds which, and which ones may be used again by others (the prefix cache).
 *
 * A page is an index; what it contains is the backend's affair. Single-threaded; allocates only in kvpool_create.
 *
 * A step that was launched may use pages until it has landed, whoever held them. So a page that loses its last holder meanwhile rests, and can be
 * acquired only when every step that was launched before has landed. */
#ifndef NEXTD_KVPOOL_H
#define NEXTD_KVPOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/batch.h"

#define KVPOOL_ROOT (-1) /* the parent of a first page */

struct kvpool;

/* prefix_cache false: published pages are not remembered. NULL when memory is short. */
struct kvpool *kvpool_create(int n_pages, bool prefix_cache);
void kvpool_destroy(struct kvpool *p);

/* A private page with one holder, or -1 when every page is held. Takes a free page, else the unreferenced cached page that was used longest ago. */
int32_t kvpool_acquire(struct kvpool *p);
/* One holder more, one holder less. A cached page without holders stays cached until it is needed; any other becomes free, both after their rest. */
void kvpool_share(struct kvpool *p, int32_t page);
void kvpool_release(struct kvpool *p, int32_t page);

/* The longest cached prefix of tokens[0 .. n_tokens-1] within a scope, in whole pages, compared token by token. Writes its pages to pages_out
 * (at most max_pages) and returns their number; each gains a holder. */
int kvpool_match(struct kvpool *p, uint64_t scope, const int32_t *tokens, int n_tokens, int32_t *pages_out, int max_pages);

/* Offers a full private page for sharing. parent: the published page before it, held by the caller, or KVPOOL_ROOT. Returns the page to use from
 * now on: the same one, or an equal page that is cached already, to which the caller's hold has moved. */
int32_t kvpool_publish(struct kvpool *p, uint64_t scope, int32_t parent, int32_t page, const int32_t tokens[KV_PAGE]);

/* A step was launched; the oldest of those that were has landed. */
void kvpool_launched(struct kvpool *p);
void kvpool_landed(struct kvpool *p);
int kvpool_n_in_flight(const struct kvpool *p); /* steps */

/* True when the page may be written: one holder, not cached. */
bool kvpool_is_private(const struct kvpool *p, int32_t page);

int kvpool_n_pages(const struct kvpool *p);
int kvpool_n_available(const struct kvpool *p); /* free, or cached without holders; not those that rest */
int kvpool_n_held(const struct kvpool *p);      /* pages with holders, and those that rest */
int kvpool_n_cached(const struct kvpool *p);    /* cached pages, held or not */
bool kvpool_caches(const struct kvpool *p);

/* Walks everything and asserts the invariants. For tests. */
void kvpool_check(const struct kvpool *p);

#endif

/* Pages: counted holders, a prefix cache that compares tokens, eviction of what nobody holds, oldest first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/sched/kvpool.h"

static void ramp(int32_t *tokens, int n, int32_t first)
{
    for (int i = 0; i < n; i++)
        tokens[i] = first + i;
}

/* Acquires and publishes n pages of tokens; pages[] receives them, held. */
static void fill(struct kvpool *p, uint64_t scope, const int32_t *tokens, int n, int32_t *pages)
{
    for (int i = 0; i < n; i++) {
        int32_t page = kvpool_acquire(p);
        assert_true(page >= 0);
        pages[i] = kvpool_publish(p, scope, i > 0 ? pages[i - 1] : KVPOOL_ROOT, page, tokens + i * KV_PAGE);
    }
}

static void release(struct kvpool *p, const int32_t *pages, int n)
{
    while (n > 0)
        kvpool_release(p, pages[--n]);
}

static void every_page_can_be_had_once(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(5, true);
    bool seen[5] = {false};
    for (int i = 0; i < 5; i++) {
        int32_t page = kvpool_acquire(p);
        assert_in_range(page, 0, 4);
        assert_false(seen[page]);
        assert_true(kvpool_is_private(p, page));
        seen[page] = true;
    }
    assert_int_equal(kvpool_acquire(p), -1);
    assert_int_equal(kvpool_n_available(p), 0);
    kvpool_release(p, 3);
    assert_int_equal(kvpool_acquire(p), 3);
    kvpool_check(p);
    kvpool_destroy(p);
    kvpool_destroy(NULL);
}

static void a_hit_needs_equal_tokens_scope_and_ancestors(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(20, true);
    int32_t tokens[4 * KV_PAGE], other[4 * KV_PAGE], pages[4], got[4];
    ramp(tokens, 4 * KV_PAGE, 1000);
    fill(p, 7, tokens, 3, pages);
    assert_int_equal(kvpool_match(p, 7, tokens, 4 * KV_PAGE, got, 4), 3);
    assert_memory_equal(got, pages, 3 * sizeof *got);
    release(p, got, 3);
    assert_int_equal(kvpool_match(p, 7, tokens, 3 * KV_PAGE - 1, got, 4), 2); /* whole pages only */
    release(p, got, 2);
    assert_int_equal(kvpool_match(p, 7, tokens, 4 * KV_PAGE, got, 1), 1);
    release(p, got, 1);
    for (uint64_t scope = 8; scope < 200; scope++) /* some share the bucket; none shares the pages */
        assert_int_equal(kvpool_match(p, scope, tokens, 4 * KV_PAGE, got, 4), 0);
    for (int at = 0; at < 3 * KV_PAGE; at++) { /* one token differs */
        memcpy(other, tokens, sizeof other);
        other[at] ^= 1 << (at % 16);
        int n = kvpool_match(p, 7, other, 4 * KV_PAGE, got, 4);
        assert_int_equal(n, at / KV_PAGE);
        release(p, got, n);
    }
    assert_int_equal(kvpool_match(p, 7, tokens + KV_PAGE, 3 * KV_PAGE, got, 4), 0); /* the second page is no first page */
    kvpool_check(p);
    kvpool_destroy(p);
}

static void without_cache_nothing_is_remembered(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(4, false);
    int32_t tokens[2 * KV_PAGE], pages[2], got[2];
    ramp(tokens, 2 * KV_PAGE, 5);
    fill(p, 0, tokens, 2, pages);
    assert_int_equal(kvpool_match(p, 0, tokens, 2 * KV_PAGE, got, 2), 0);
    release(p, pages, 2);
    assert_int_equal(kvpool_n_cached(p), 0);
    assert_int_equal(kvpool_n_available(p), 4);
    kvpool_destroy(p);
}

static void the_second_of_two_equal_pages_is_dropped(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(6, true);
    int32_t tokens[2 * KV_PAGE], a[2], b[2];
    ramp(tokens, 2 * KV_PAGE, 9);
    fill(p, 0, tokens, 2, a);
    fill(p, 0, tokens, 2, b);
    assert_memory_equal(a, b, sizeof a);
    assert_int_equal(kvpool_n_held(p), 2);
    assert_false(kvpool_is_private(p, a[0]));
    release(p, a, 2);
    assert_int_equal(kvpool_n_held(p), 2);
    release(p, b, 2);
    assert_int_equal(kvpool_n_held(p), 0);
    assert_int_equal(kvpool_n_cached(p), 2);
    kvpool_check(p);
    kvpool_destroy(p);
}

static void eviction_takes_the_longest_unused_and_children_before_parents(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(6, true);
    int32_t x[3 * KV_PAGE], y[3 * KV_PAGE], px[3], py[3], got[3];
    ramp(x, 3 * KV_PAGE, 100);
    ramp(y, 3 * KV_PAGE, 900);
    fill(p, 0, x, 3, px);
    fill(p, 0, y, 3, py);
    release(p, px, 3);
    release(p, py, 3);
    int n = kvpool_match(p, 0, x, 3 * KV_PAGE, got, 3); /* x is used once more */
    assert_int_equal(n, 3);
    release(p, got, n);
    assert_int_equal(kvpool_acquire(p), py[2]);
    assert_int_equal(kvpool_acquire(p), py[1]);
    kvpool_check(p);
    n = kvpool_match(p, 0, y, 3 * KV_PAGE, got, 3);
    assert_int_equal(n, 1);
    assert_int_equal(kvpool_acquire(p), px[2]); /* y's first page is held now */
    kvpool_check(p);
    kvpool_destroy(p);
}

static void a_held_page_is_never_evicted(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(3, true);
    int32_t tokens[2 * KV_PAGE], pages[2];
    ramp(tokens, 2 * KV_PAGE, 1);
    fill(p, 0, tokens, 2, pages);
    assert_true(kvpool_acquire(p) >= 0);
    assert_int_equal(kvpool_acquire(p), -1);
    kvpool_release(p, pages[1]);
    assert_int_equal(kvpool_acquire(p), pages[1]);
    assert_int_equal(kvpool_acquire(p), -1);
    kvpool_destroy(p);
}

static void a_page_rests_until_the_steps_before_its_release_have_landed(void **state)
{
    (void)state;
    struct kvpool *p = kvpool_create(4, true);
    int32_t tokens[2 * KV_PAGE], pages[2], got[2];
    ramp(tokens, 2 * KV_PAGE, 5);
    fill(p, 0, tokens, 1, pages);
    pages[1] = kvpool_acquire(p);
    kvpool_launched(p);
    kvpool_launched(p);
    kvpool_release(p, pages[1]);
    kvpool_release(p, pages[0]);
    assert_int_equal(kvpool_n_available(p), 2);
    assert_int_equal(kvpool_n_held(p), 2);
    kvpool_check(p);
    assert_int_equal(kvpool_match(p, 0, tokens, KV_PAGE, got, 1), 1); /* a cached page may be read meanwhile */
    assert_int_equal(got[0], pages[0]);
    kvpool_landed(p);
    kvpool_launched(p);
    kvpool_release(p, got[0]); /* it rests anew, for the third step */
    kvpool_check(p);
    assert_int_equal(kvpool_n_available(p), 2);
    kvpool_landed(p);
    assert_int_equal(kvpool_n_available(p), 3);
    for (int i = 0; i < 3; i++)
        assert_int_not_equal(kvpool_acquire(p), pages[0]);
    assert_int_equal(kvpool_acquire(p), -1);
    kvpool_landed(p);
    assert_int_equal(kvpool_n_in_flight(p), 0);
    assert_int_equal(kvpool_acquire(p), pages[0]);
    kvpool_check(p);
    kvpool_destroy(p);
}

/* Random chains over a small alphabet, so that prefixes are shared, pages are published twice and evicted while others hold their parents. */
static void random_use_keeps_the_invariants(void **state)
{
    (void)state;
    enum { N_SEQS = 6, MAX_PAGES = 5, N_PAGES = 17 };
    struct {
        int32_t tokens[MAX_PAGES * KV_PAGE], pages[MAX_PAGES];
        int n;
    } seqs[N_SEQS] = {0};
    struct kvpool *p = kvpool_create(N_PAGES, true);
    uint32_t rolls = 0;
    int n_hits = 0, n_dry = 0;
    for (int round = 0; round < 20000; round++) {
        if (num_rng(3, 3, rolls++) < 0.5 && kvpool_n_in_flight(p) < 2)
            kvpool_launched(p);
        else if (kvpool_n_in_flight(p) > 0)
            kvpool_landed(p);
        int i = (int)(num_rng(3, 0, rolls++) * N_SEQS), n = seqs[i].n;
        if (n == 0) { /* begin: tokens of each page are one of two patterns; take what is cached */
            for (int k = 0; k < MAX_PAGES; k++)
                ramp(seqs[i].tokens + k * KV_PAGE, KV_PAGE, num_rng(3, 1, rolls++) < 0.5 ? 1 : 2);
            seqs[i].n = kvpool_match(p, 0, seqs[i].tokens, MAX_PAGES * KV_PAGE, seqs[i].pages, MAX_PAGES);
            n_hits += seqs[i].n;
        }
        n = seqs[i].n;
        if (n == MAX_PAGES || num_rng(3, 2, rolls++) < 0.2) {
            release(p, seqs[i].pages, n);
            seqs[i].n = 0;
        } else {
            int32_t page = kvpool_acquire(p);
            if (page < 0) {
                n_dry++;
                release(p, seqs[i].pages, n);
                seqs[i].n = 0;
            } else {
                seqs[i].pages[n] =
                    kvpool_publish(p, 0, n > 0 ? seqs[i].pages[n - 1] : KVPOOL_ROOT, page, seqs[i].tokens + n * KV_PAGE);
                seqs[i].n++;
            }
        }
        kvpool_check(p);
    }
    for (int i = 0; i < N_SEQS; i++)
        release(p, seqs[i].pages, seqs[i].n);
    while (kvpool_n_in_flight(p) > 0)
        kvpool_landed(p);
    assert_int_equal(kvpool_n_held(p), 0);
    assert_int_equal(kvpool_n_available(p), N_PAGES);
    assert_true(n_hits > 1000);
    assert_true(n_dry > 0);
    kvpool_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_can_be_had_once),
        cmocka_unit_test(a_hit_needs_equal_tokens_scope_and_ancestors),
        cmocka_unit_test(without_cache_nothing_is_remembered),
        cmocka_unit_test(the_second_of_two_equal_pages_is_dropped),
        cmocka_unit_test(eviction_takes_the_longest_unused_and_children_before_parents),
        cmocka_unit_test(a_held_page_is_never_evicted),
        cmocka_unit_test(a_page_rests_until_the_steps_before_its_release_have_landed),
        cmocka_unit_test(random_use_keeps_the_invariants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

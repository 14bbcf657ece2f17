/* test_merge.c: the heap and the scan join as the definition says: always the best pair, the leftmost among equals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/text/merge.h"

/* Symbols are small numbers; two may be joined where table[l][r] >= 0, into that number. Lower products are better, several share a rank. */
#define N_IDS 32
struct rules {
    int32_t product[N_IDS][N_IDS];
    uint32_t rank[N_IDS][N_IDS];
};

static bool find(const void *ctx, const struct merge_symbol *l, const struct merge_symbol *r, uint32_t *rank_out, int32_t *product_out)
{
    const struct rules *rules = ctx;
    if (rules->product[l->id][r->id] < 0)
        return false;
    *rank_out = rules->rank[l->id][r->id];
    *product_out = rules->product[l->id][r->id];
    return true;
}

static size_t slow(const struct rules *rules, int32_t *ids, size_t n)
{
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (rules->product[ids[i]][ids[i + 1]] >= 0 &&
                (best == n || rules->rank[ids[i]][ids[i + 1]] < rules->rank[ids[best]][ids[best + 1]]))
                best = i;
        if (best == n)
            return n;
        ids[best] = rules->product[ids[best]][ids[best + 1]];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static uint32_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void joins_are_those_of_the_definition(void **state)
{
    (void)state;
    uint64_t seed = 3;
    struct merge_state m = {0};
    struct err err;
    for (int round = 0; round < 3000; round++) {
        struct rules rules;
        uint32_t density = 1 + draw(&seed) % 8;
        for (int l = 0; l < N_IDS; l++)
            for (int r = 0; r < N_IDS; r++) {
                rules.product[l][r] = draw(&seed) % 8 < density ? (int32_t)(draw(&seed) % N_IDS) : -1;
                rules.rank[l][r] = draw(&seed) % (round % 2 ? 1000 : 5);
            }
        int32_t ids[200];
        size_t n = 1 + draw(&seed) % (round % 3 ? 40 : 200), at = 0;
        assert_int_equal(merge_reserve(&m, n, &err), 0);
        for (size_t i = 0; i < n; i++) {
            ids[i] = (int32_t)(draw(&seed) % (1 + round % N_IDS));
            m.symbols[i] = (struct merge_symbol){.id = ids[i], .off = (uint32_t)i, .len = 1};
        }
        merge_run(&m, n, find, &rules);
        n = slow(&rules, ids, n);
        uint32_t off = 0;
        for (int32_t i = 0; i >= 0; i = m.symbols[i].next) {
            assert_true(at < n);
            assert_int_equal(m.symbols[i].id, ids[at++]);
            assert_int_equal(m.symbols[i].off, off);
            off += m.symbols[i].len;
        }
        assert_int_equal(at, n);
    }
    merge_finish(&m);
}

static void too_much_is_refused(void **state)
{
    (void)state;
    struct merge_state m = {0};
    struct err err;
    assert_int_equal(merge_reserve(&m, MERGE_MAX_SYMBOLS + 1, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    merge_finish(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(joins_are_those_of_the_definition), cmocka_unit_test(too_much_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The border that a selection finds is that of a sorted list. Weights are small integers: their sums are exact in every order, and targets are met
 * exactly as often as not, so that each way - all at once, narrowed first, in order because of a doubt - has to find the same one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/numerics/numerics.h"
#include "engine/sample/selection.h"

#define N_MAX 5000

struct item {
    float score, weight;
    int index;
};

static float scores[N_MAX], weights[N_MAX];

static int best_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index - y->index;
}

static struct selection_border sorted_border(int n, bool unit, double target)
{
    static struct item items[N_MAX];
    struct selection_border border = {.last = -1};
    for (int i = 0; i < n; i++)
        items[i] = (struct item){scores[i], unit ? 1.0f : weights[i], i};
    qsort(items, (size_t)n, sizeof items[0], best_first);
    for (int i = 0; i < n && (i == 0 || border.mass < target); i++)
        border = (struct selection_border){items[i].score, items[i].index, border.mass, border.mass + (double)items[i].weight};
    return border;
}

/* Kinds: spread around 0, many equals and both zeros, one score for all, one far above the others. */
static void fill(int n, int kind, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        float x = (float)(num_rng(seed, 0, (uint32_t)i) - 0.5) * 20;
        scores[i] = kind == 0 ? x : kind == 1 ? rintf(x) * 0.5f : kind == 2 ? -3.0f : i == n / 3 ? 1e30f : x - 50;
        weights[i] = (float)(int)(num_rng(seed, 1, (uint32_t)i) * 5);
    }
    weights[0] = 1;
}

static void the_border_is_that_of_a_sorted_list(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 7, 100, 2047, 2048, 2049, N_MAX};
    struct selection *s = selection_create(N_MAX);
    assert_non_null(s);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t j = 0; j < 80; j++) {
            int n = sizes[i];
            bool unit = j % 5 == 4;
            fill(n, (int)j % 4, j);
            double total = sorted_border(n, unit, INFINITY).mass, target = total * num_rng(5, j, 0);
            target = j % 3 == 0 ? floor(target) + 1 : target;
            float low = j % 7 == 0 ? 5.0f : j % 2 ? -60.0f : -INFINITY; /* 5: above the border */
            struct selection_border want = sorted_border(n, unit, target);
            struct selection_border got = selection_find(s, scores, unit ? NULL : weights, n, low, target);
            assert_true(got.score == want.score);
            assert_int_equal(got.last, want.last);
            assert_true(got.better == want.better);
            assert_true(got.mass == want.mass);
        }
    selection_destroy(s);
}

static void the_best_item_survives_a_target_of_nothing(void **state)
{
    (void)state;
    struct selection *s = selection_create(N_MAX);
    assert_non_null(s);
    fill(N_MAX, 0, 1);
    scores[77] = 11;
    weights[77] = 3;
    struct selection_border border = selection_find(s, scores, weights, N_MAX, -20, 0);
    assert_true(border.score == 11 && border.last == 77 && border.better == 0 && border.mass == 3);
    selection_destroy(s);
}

static void narrowing_keeps_the_border_in_the_range(void **state)
{
    (void)state;
    fill(N_MAX, 0, 2);
    double target = sorted_border(N_MAX, false, INFINITY).mass * 0.7;
    float border = sorted_border(N_MAX, false, target).score, low = -10, high = 10;
    double above = selection_narrow(rows_best(), scores, weights, N_MAX, target, &low, &high);
    assert_true(low <= border && border <= high && high - low < 0.1f);
    assert_true(above == rows_generic.mass_above(scores, weights, N_MAX, high));
    assert_true(above < target);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_border_is_that_of_a_sorted_list),
        cmocka_unit_test(the_best_item_survives_a_target_of_nothing),
        cmocka_unit_test(narrowing_keeps_the_border_in_the_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

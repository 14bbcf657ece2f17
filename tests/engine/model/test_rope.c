/* The rope tables against libm, at the first and the last positions, with scale and factors; and what is out of range is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/model/rope.h"

static void check_table(int dims, double base, double scale, const float *factors)
{
    static const int32_t pos[] = {0, 1, 63, 64, 8191, 131071, ROPE_MAX_POS - 1};
    enum { N = sizeof pos / sizeof pos[0] };
    struct rope r;
    struct err err;
    float *cs = malloc((size_t)N * (size_t)dims * sizeof *cs);
    assert_int_equal(rope_init(&r, dims, base, scale, factors, &err), 0);
    assert_int_equal(r.half, dims / 2);
    rope_fill(&r, pos, N, cs);
    for (int row = 0; row < N; row++)
        for (int i = 0; i < dims / 2; i++) {
            double angle = pos[row] * (scale * pow(base, -2.0 * i / dims) / (factors != NULL ? (double)factors[i] : 1.0));
            /* a relative error of 1e-15 in the frequency moves the angle by that much of itself */
            double slack = 1e-7 + angle * 4e-15;
            assert_true(fabs((double)cs[(row * (dims / 2) + i) * 2] - cos(angle)) < slack);
            assert_true(fabs((double)cs[(row * (dims / 2) + i) * 2 + 1] - sin(angle)) < slack);
        }
    free(cs);
}

static void tables_hold_the_cosines_and_sines_of_the_angles(void **state)
{
    float factors[32];
    (void)state;
    for (int i = 0; i < 32; i++)
        factors[i] = 1.0f + 0.5f * (float)i;
    check_table(64, 10000.0, 1.0, NULL);
    check_table(64, 500000.0, 1.0, factors);
    check_table(256, 1000000.0, 0.125, NULL);
    check_table(2, 10000.0, 1.0, NULL);
}

static void a_row_depends_on_its_position_alone(void **state)
{
    const int32_t pos[3] = {5, 1000, 77}, alone[1] = {1000};
    float together[3 * 64], single[64];
    struct rope r;
    struct err err;
    (void)state;
    assert_int_equal(rope_init(&r, 64, 10000.0, 1.0, NULL, &err), 0);
    rope_fill(&r, pos, 3, together);
    rope_fill(&r, alone, 1, single);
    assert_memory_equal(together + 64, single, sizeof single);
}

static void numbers_out_of_range_are_refused(void **state)
{
    static const double bases[] = {0.5, -1.0, INFINITY, NAN}, scales[] = {0.0, -1.0, 3.0, NAN};
    static const float factors[] = {0.0f, -1.0f, 0.25f, INFINITY, NAN};
    struct rope r;
    struct err err;
    (void)state;
    for (size_t i = 0; i < sizeof bases / sizeof bases[0]; i++)
        assert_int_equal(rope_init(&r, 2, bases[i], 1.0, NULL, &err), -1);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        assert_int_equal(rope_init(&r, 2, 10000.0, scales[i], NULL, &err), -1);
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        assert_int_equal(rope_init(&r, 2, 10000.0, 1.0, &factors[i], &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_hold_the_cosines_and_sines_of_the_angles),
        cmocka_unit_test(a_row_depends_on_its_position_alone),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

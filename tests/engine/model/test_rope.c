/* The angles of rope and their cosines and sines against libm, at the first and the last positions, with scale and factors; and what is out of
 * range is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/model/rope.h"
#include "engine/numerics/numerics.h"

static void check_table(int dims, double base, double scale, const float *factors)
{
    static const int32_t pos[] = {0, 1, 63, 64, 8191, 131071, ROPE_MAX_POS - 1};
    enum { N = sizeof pos / sizeof pos[0] };
    struct rope r;
    struct err err;
    assert_int_equal(rope_init(&r, dims, base, scale, factors, &err), 0);
    assert_int_equal(r.half, dims / 2);
    for (int row = 0; row < N; row++)
        for (int i = 0; i < dims / 2; i++) {
            double angle = pos[row] * (scale * pow(base, -2.0 * i / dims) / (factors != NULL ? (double)factors[i] : 1.0));
            /* a relative error of 1e-15 in the frequency moves the angle by that much of itself */
            double slack = 1e-7 + angle * 4e-15;
            double sine, cosine;
            num_sincos(pos[row] * r.freq[i], &sine, &cosine);
            assert_true(fabs((double)(float)cosine - cos(angle)) < slack);
            assert_true(fabs((double)(float)sine - sin(angle)) < slack);
        }
}

static void the_angles_have_their_cosines_and_sines(void **state)
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
        cmocka_unit_test(the_angles_have_their_cosines_and_sines),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_lanes.c: the loops over single rows, of every instruction set, against numerics.h: where a model would rarely go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "engine/backend/cpu/cpu.h"
#include "tests/engine/backend/cpu/devices.h"

static void test_rope_tables_are_the_canonical_cosines_and_sines(void **state)
{
    (void)state;
    enum { N = 23, DIMS = 2 * 45 };
    double freq[2][DIMS / 2];
    int32_t zeros[N] = {0}, pos[N];
    const int32_t *pages[1] = {zeros};
    for (int i = 0; i < DIMS / 2; i++) {
        freq[0][i] = 2.0 / (1 + i);
        freq[1][i] = 1.0 / (1 + i * i);
    }
    for (int r = 0; r < N; r++)
        pos[r] = (1 << r) - r % 2;
    for (size_t d = 0; d < N_DEVICES; d++) {
        struct backend_shape shape = {1, 32, 32, 1, 1, DIMS, 32, DIMS, false, N, 1, 1, 2, devices[d], 0};
        struct batch b = {N, zeros, pos, zeros, 1, pages, 0, zeros};
        struct backend *be = NULL;
        struct err err;
        if (!device_runs(devices[d]))
            continue;
        assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
        backend_cpu.begin(be, &b, (const double *const[]){freq[0], freq[1]}, 2);
        for (int i = 0; i < N * DIMS; i++) { /* table i % 2 */
            const int t = i % 2, r = i / DIMS, pair = i % DIMS / 2;
            const float *got = ((struct cpu *)be)->cs[t] + r * DIMS + 2 * pair;
            double sine, cosine;
            num_sincos(pos[r] * freq[t][pair], &sine, &cosine);
            float want[2] = {(float)cosine, (float)sine};
            if (memcmp(got, want, sizeof want) != 0)
                fail_msg("%s: table %d, position %d, pair %d differs", devices[d], t, pos[r], pair);
        }
        backend_cpu.close(be);
    }
}

static void test_activations_are_canonical_for_all_magnitudes(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static float x[N], got[N], ups[N];
    for (int i = 0; i < N; i++) {
        x[i] = num_f32_from_bits((uint32_t)i << 16 | (uint32_t)i % 251 * 257);
        ups[i] = 1.0f;
    }
    for (size_t d = 0; d < N_DEVICES; d++) {
        struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, devices[d], 0};
        struct backend *be = NULL;
        struct err err;
        if (!device_runs(devices[d]))
            continue;
        assert_int_equal(backend_cpu.open(&shape, &be, &err), 0);
        for (int act = ACT_SILU; act <= ACT_GELU_TANH; act++) {
            memcpy(got, x, sizeof x);
            ((struct cpu *)be)->k->activate((enum activation)act, got, ups, N);
            for (int i = 0; i < N; i++) {
                float want = act == ACT_SILU ? num_silu(x[i]) : num_gelu_tanh(x[i]);
                if (isnan(want) ? !isnan(got[i]) : memcmp(&want, &got[i], sizeof want) != 0)
                    fail_msg("%s, activation %d: %a gives %a, not %a", devices[d], act, (double)x[i], (double)got[i], (double)want);
            }
        }
        backend_cpu.close(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope_tables_are_the_canonical_cosines_and_sines),
        cmocka_unit_test(test_activations_are_canonical_for_all_magnitudes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_numerics.c: the frozen arithmetic is what it was (golden bits), and it is right (accuracy against libm and against double sums).
 *
 * The golden vectors are tests/fixtures/numerics.json: one line per function, input and output as bits. The same text is made here and compared.
 * After a change that is meant to change bits: raise NUMERICS_VERSION and run `build/tests/engine/numerics/test_numerics write >
 * tests/fixtures/numerics.json`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"
#include "engine/numerics/quant.h"
#include "tests/engine/numerics/dots.h"

#define FIXTURE "tests/fixtures/numerics.json"

static uint32_t rng_state;

static uint32_t rng(void)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return rng_state >> 8;
}

/* In [-1, 1), a multiple of 2^-15. */
static float rng_unit(void)
{
    return (float)(rng() & 0xffff) / 32768.0f - 1.0f;
}

/* ---- golden vectors ---- */

static const float f32_inputs[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 2.0f, -2.5f, 10.0f, -10.0f, 30.0f, -30.0f, 80.0f, -80.0f, -87.3f, -87.31f,
                                   88.37f, 88.38f, 100.0f, -100.0f, 1e-8f, -1e-8f, 3e38f, -3e38f, 0.6931f, -0.3466f, 1e-40f, INFINITY, 65504.0f,
                                   65519.9f, 65520.0f, 65536.0f, -70000.0f, 6.1e-5f, 5.9e-8f, 2.98e-8f, 2.99e-8f, 0.333333f};
static const double f64_inputs[] = {0.0, 1.0, -1.0, 0.5, 2.0, 3.141592653589793, 100.0, -100.0, 700.0, -700.0, -708.0, -709.0, 709.0, 710.0, 1e-300,
                                    1e300, 1e-320, 0.1, 12345.678, 8191.5, 16777215.0, 1.4142135623730951, 0.7071067811865476};

struct text {
    char *p;
    size_t n, size;
};

static void say(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->p + t->n, t->size - t->n, format, args);
    va_end(args);
    assert_true(n >= 0 && t->n + (size_t)n < t->size);
    t->n += (size_t)n;
}

static uint16_t f16_of(float x)
{
    return num_f16_from_f32(x);
}

static void say_f32_function(struct text *t, const char *name, float (*fn)(float))
{
    say(t, "  \"%s\": [", name);
    for (size_t i = 0; i < sizeof f32_inputs / sizeof *f32_inputs; i++)
        say(t, "%s[\"%08" PRIx32 "\", \"%08" PRIx32 "\"]", i ? ", " : "", num_bits_from_f32(f32_inputs[i]), num_bits_from_f32(fn(f32_inputs[i])));
    say(t, "],\n");
}

static void say_f64_function(struct text *t, const char *name, double (*fn)(double))
{
    say(t, "  \"%s\": [", name);
    for (size_t i = 0; i < sizeof f64_inputs / sizeof *f64_inputs; i++)
        say(t, "%s[\"%016" PRIx64 "\", \"%016" PRIx64 "\"]", i ? ", " : "", num_bits_from_f64(f64_inputs[i]), num_bits_from_f64(fn(f64_inputs[i])));
    say(t, "],\n");
}

static double sine(double x)
{
    double s, c;
    num_sincos(x, &s, &c);
    return s;
}

static double cosine(double x)
{
    double s, c;
    num_sincos(x, &s, &c);
    return c;
}

static const struct {
    const char *name;
    int type, d_at, min_at;
} types[] = {{"f32", TENSOR_F32, -1, -1}, {"f16", TENSOR_F16, -1, -1}, {"bf16", TENSOR_BF16, -1, -1}, {"q4_0", TENSOR_Q4_0, 0, -1},
             {"q4_1", TENSOR_Q4_1, 0, 2}, {"q5_0", TENSOR_Q5_0, 0, -1}, {"q5_1", TENSOR_Q5_1, 0, 2}, {"q8_0", TENSOR_Q8_0, 0, -1},
             {"q2_k", TENSOR_Q2_K, 80, 82}, {"q3_k", TENSOR_Q3_K, 108, -1}, {"q4_k", TENSOR_Q4_K, 0, 2}, {"q5_k", TENSOR_Q5_K, 0, 2},
             {"q6_k", TENSOR_Q6_K, 208, -1}};
#define N_TYPES (sizeof types / sizeof *types)
#define MAX_COLS 2560

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = num_f16_from_f32(v);
    memcpy(p, &h, sizeof h);
}

/* A row of random bits with f16 scales below 1/64; floats in [-1, 1). */
static void random_row(size_t type_idx, int n_cols, uint8_t *row)
{
    int n_values, n_bytes, type = types[type_idx].type;
    quant_unit(type, &n_values, &n_bytes);
    for (int u = 0; u < n_cols / n_values; u++, row += n_bytes) {
        float value = rng_unit();
        if (type == TENSOR_F32)
            memcpy(row, &value, 4);
        else if (type == TENSOR_F16)
            put_f16(row, value);
        else if (type == TENSOR_BF16)
            memcpy(row, (uint8_t *)&value + 2, 2);
        if (quant_is_float(type))
            continue;
        for (int b = 0; b < n_bytes; b++)
            row[b] = (uint8_t)rng();
        put_f16(row + types[type_idx].d_at, rng_unit() / 64.0f);
        if (types[type_idx].min_at >= 0)
            put_f16(row + types[type_idx].min_at, rng_unit() / 64.0f);
    }
}

/* Dots of the first `dots_cols` lengths for one type: inputs come from the generator above, seeded with the length. */
static void say_dots(struct text *t, size_t type_idx)
{
    static const int lengths[] = {256, 768, 2304, 2560};
    uint8_t row[MAX_COLS * 4];
    float x[MAX_COLS];
    say(t, "  \"dot %s\": [", types[type_idx].name);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        rng_state = (uint32_t)lengths[i];
        random_row(type_idx, lengths[i], row);
        for (int k = 0; k < lengths[i]; k++)
            x[k] = rng_unit() * 4.0f;
        float y = quant_dot(types[type_idx].type, row, x, lengths[i]);
        say(t, "%s[\"%d\", \"%08" PRIx32 "\"]", i ? ", " : "", lengths[i], num_bits_from_f32(y));
    }
    say(t, "],\n");
}

static void say_reductions(struct text *t)
{
    float x[1000];
    rng_state = 7;
    for (int i = 0; i < 1000; i++)
        x[i] = rng_unit() * 3.0f;
    say(t, "  \"rms_factor\": [");
    for (int n = 1; n <= 1000; n = n * 3 + 1)
        say(t, "%s[\"%d\", \"%08" PRIx32 "\"]", n > 1 ? ", " : "", n, num_bits_from_f32(num_rms_factor(x, n, 1e-5f)));
    struct quant_x q;
    assert_int_equal(quant_quantise(x, &q), 0);
    say(t, "],\n  \"quantise\": [[\"d\", \"%08" PRIx32 "\"], [\"sums\", \"%d %d\"], [\"q\", \"", num_bits_from_f32(q.d), q.sum[0], q.sum[1]);
    for (int k = 0; k < QUANT_BLOCK; k++)
        say(t, "%02x", (uint8_t)q.q[k]);
    say(t, "\"]],\n  \"rng\": [");
    for (uint32_t i = 0; i < 8; i++)
        say(t, "%s[\"%u\", \"%016" PRIx64 "\"]", i ? ", " : "", i, num_bits_from_f64(num_rng(42 + ((uint64_t)i << 40), i % 3, i * 1000)));
    say(t, "]\n");
}

static char *golden_text(void)
{
    struct text t = {malloc(1 << 16), 0, 1 << 16};
    say(&t, "{\n  \"version\": %d,\n", NUMERICS_VERSION);
    say_f32_function(&t, "exp_f32", num_exp_f32);
    say_f32_function(&t, "silu", num_silu);
    say_f32_function(&t, "gelu_tanh", num_gelu_tanh);
    say(&t, "  \"f16_from_f32\": [");
    for (size_t i = 0; i < sizeof f32_inputs / sizeof *f32_inputs; i++)
        say(&t, "%s[\"%08" PRIx32 "\", \"%04x\"]", i ? ", " : "", num_bits_from_f32(f32_inputs[i]), f16_of(f32_inputs[i]));
    say(&t, "],\n");
    say_f64_function(&t, "exp", num_exp);
    say_f64_function(&t, "log", num_log);
    for (size_t type_idx = 0; type_idx < N_TYPES; type_idx++)
        say_dots(&t, type_idx);
    say(&t, "  \"sin\": [");
    for (int i = 0; i < 20; i++) {
        double x = i * i * 1234.5678 - 3.0;
        say(&t, "%s[\"%016" PRIx64 "\", \"%016" PRIx64 "\", \"%016" PRIx64 "\"]", i ? ", " : "", num_bits_from_f64(x), num_bits_from_f64(sine(x)),
            num_bits_from_f64(cosine(x)));
    }
    say(&t, "],\n");
    say_reductions(&t);
    say(&t, "}\n");
    return t.p;
}

static void test_the_bits_are_those_of_the_fixture(void **state)
{
    (void)state;
    char *want = calloc(1, 1 << 16), *got = golden_text(), *rest_want, *rest_got;
    FILE *f = fopen(FIXTURE, "r");
    if (f == NULL)
        fail_msg("cannot open %s; run the tests from the root of the repository", FIXTURE);
    size_t n = fread(want, 1, (1 << 16) - 1, f);
    fclose(f);
    assert_true(n > 1000);
    for (char *a = strtok_r(want, "\n", &rest_want), *b = strtok_r(got, "\n", &rest_got); a != NULL || b != NULL;
         a = strtok_r(NULL, "\n", &rest_want), b = strtok_r(NULL, "\n", &rest_got)) {
        assert_non_null(a);
        assert_non_null(b);
        assert_string_equal(a, b);
    }
    free(want);
    free(got);
}

/* ---- accuracy ---- */

static double ulps_f32(float got, double want)
{
    int exponent;
    frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static double ulps_f64(double got, long double want)
{
    int exponent;
    frexpl(want, &exponent);
    return (double)(fabsl((long double)got - want) / ldexpl(1.0L, exponent - 53));
}

static void test_exp_f32_is_within_1_5_ulp(void **state)
{
    (void)state;
    for (int i = 0; i <= 1756000; i++) {
        float x = -87.3f + (float)i * 1e-4f;
        if (x < NUM_EXP_MIN || x > NUM_EXP_MAX)
            continue;
        if (ulps_f32(num_exp_f32(x), exp((double)x)) > 1.5)
            fail_msg("exp(%a) is %a", (double)x, (double)num_exp_f32(x));
    }
    assert_true(num_exp_f32(0.0f) == 1.0f && num_exp_f32(-0.0f) == 1.0f);
    assert_true(num_exp_f32(-INFINITY) == 0.0f && isfinite(num_exp_f32(INFINITY)));
    assert_true(isnan(num_exp_f32(NAN)));
}

static void test_exp_and_log_are_within_2_ulp(void **state)
{
    (void)state;
    rng_state = 3;
    for (int i = 0; i < 200000; i++) {
        double x = ((double)rng() / 8388608.0 - 1.0) * 700.0, y = exp(((double)rng() / 8388608.0 - 1.0) * (i % 2 ? 700.0 : 0.5));
        if (ulps_f64(num_exp(x), expl((long double)x)) > 2.0)
            fail_msg("exp(%a) is %a", x, num_exp(x));
        if (y != 1.0 && ulps_f64(num_log(y), logl((long double)y)) > 2.0)
            fail_msg("log(%a) is %a", y, num_log(y));
    }
    assert_true(num_log(1.0) == 0.0);
    assert_true(num_log(0.0) == -INFINITY && num_log(INFINITY) == INFINITY);
    assert_true(isnan(num_log(-1.0)) && isnan(num_log(NAN)) && isnan(num_exp(NAN)));
}

static void test_sine_and_cosine_are_within_2_to_the_minus_50(void **state)
{
    (void)state;
    rng_state = 5;
    for (int i = 0; i < 200000; i++) {
        double x = ((double)rng() / 8388608.0 - 1.0) * (i % 2 ? 16777215.0 : 10.0), s, c;
        num_sincos(x, &s, &c);
        if (fabsl(s - sinl((long double)x)) > 0x1p-50L || fabsl(c - cosl((long double)x)) > 0x1p-50L)
            fail_msg("sine and cosine of %a are %a and %a", x, s, c);
    }
}

static void test_f16_converts_exactly_and_to_nearest(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        if (exponent == 31)
            continue;
        double value = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
        float f = num_f32_from_f16((uint16_t)h);
        assert_true((double)f == (h & 0x8000 ? -value : value));
        assert_int_equal(num_f16_from_f32(f), h);
        if (h >= 0x7bff)
            continue; /* a value, the middle to its upper neighbour, and just beside the middle */
        double next = exponent == 0 ? ldexp(mantissa + 1, -24) : ldexp(1025 + mantissa, exponent - 25);
        float middle = (float)((value + next) / 2);
        assert_int_equal(num_f16_from_f32(middle), h + (h & 1));
        assert_int_equal(num_f16_from_f32(nextafterf(middle, 0.0f)), h);
        assert_int_equal(num_f16_from_f32(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(num_f16_from_f32(INFINITY), 0x7bff);
    assert_int_equal(num_f16_from_f32(-1e30f), 0xfbff);
    assert_int_equal(num_f16_from_f32(NAN) & 0x7fff, 0x7e00);
}

static void test_philox_gives_its_published_numbers(void **state)
{
    (void)state;
    uint32_t w[4];
    num_philox(0, 0, 0, w);
    assert_int_equal(w[0], 0x6627e8d5);
    assert_int_equal(w[1], 0xe169c58d);
    assert_int_equal(w[2], 0xbc57ac4c);
    assert_int_equal(w[3], 0x9b00dbd8);
}

static void test_a_dot_is_close_to_the_sum_of_dequantised_products(void **state)
{
    (void)state;
    uint8_t row[MAX_COLS * 4];
    float x[MAX_COLS], w[MAX_COLS];
    rng_state = 11;
    for (size_t i = 0; i < N_TYPES; i++) {
        for (int n = 256; n <= MAX_COLS; n += 768) {
            random_row(i, n, row);
            quant_dequantise_row(types[i].type, row, n, w);
            double want = 0.0, size = 0.0;
            for (int k = 0; k < n; k++) {
                x[k] = rng_unit();
                want += (double)w[k] * (double)x[k];
                size += (double)w[k] * (double)w[k];
            }
            /* quantising x to 1/127 of its block's maximum errs by 1/254 at most, at random: sqrt(sum w^2) / 254 / sqrt(3), taken 6 times */
            double bound = quant_is_float(types[i].type) ? 1e-5 * sqrt(size * n) : 6.0 * sqrt(size) / 440.0;
            double got = (double)quant_dot(types[i].type, row, x, n);
            if (!(fabs(got - want) <= bound))
                fail_msg("%s, %d values: %g, not %g +- %g", types[i].name, n, got, want, bound);
        }
    }
}

static void test_quantising_tells_what_is_not_finite_and_zeroes_what_is_tiny(void **state)
{
    (void)state;
    struct quant_x q;
    float x[QUANT_BLOCK] = {0};
    assert_int_equal(quant_quantise(x, &q), 0);
    assert_true(q.d == 0.0f && q.q[0] == 0);
    x[3] = 0x1p-101f;
    assert_int_equal(quant_quantise(x, &q), 0);
    assert_true(q.d == 0.0f && q.q[3] == 0);
    x[3] = -0x1p-100f;
    assert_int_equal(quant_quantise(x, &q), 0);
    assert_true(q.d == 0x1p-100f / 127.0f && q.q[3] == -127);
    x[31] = 3e38f;
    assert_int_equal(quant_quantise(x, &q), 0);
    assert_int_equal(q.q[31], 127);
    x[30] = NAN;
    assert_int_equal(quant_quantise(x, &q), -1);
    assert_true(q.d == 0.0f && q.q[31] == 0);
    x[30] = -INFINITY;
    assert_int_equal(quant_quantise(x, &q), -1);
}

#if defined(__x86_64__)
static bool has_avxvnni(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVXVNNI);
}

/* Why: dots.h. */
static void assert_same_dots(const struct dots *dots, const char *name)
{
    uint8_t row[MAX_COLS * 4];
    int8_t q[MAX_COLS];
    float x[MAX_COLS];
    rng_state = 13;
    for (size_t i = 0; i < N_TYPES; i++) {
        random_row(i, 1024, row);
        for (int k = 0; k < 1024; k++)
            x[k] = k % 3 ? -1.0f : rng_unit();
        float a = dots->quant(types[i].type, row, x, 1024), b = quant_dot(types[i].type, row, x, 1024);
        struct quant_w w;
        struct quant_x xq;
        quant_quantise(x, &xq);
        for (int k = 0; k < 32 && !quant_is_float(types[i].type); k++) {
            quant_unpack(types[i].type, row, k, &w);
            a = dots->mac(&w, &xq, a);
            b = quant_mac(&w, &xq, b);
        }
        if (memcmp(&a, &b, sizeof a) != 0)
            fail_msg("%s: %a with %s, %a without", types[i].name, (double)a, name, (double)b);
    }
    for (int n = 1; n <= 1024; n += 93) {
        int32_t want = 0;
        for (int k = 0; k < n; k++) {
            int w = k % 5 == 0 ? -128 : (int)(rng() % 256) - 128; /* an int: nothing here to take for a product of bytes */
            row[k] = (uint8_t)w;
            q[k] = (int8_t)(rng() % 255 - 127);
            want += w * q[k];
        }
        assert_int_equal(dots->bytes(row, q, n), want);
    }
}

static void test_signed_products_survive_vector_instructions(void **state)
{
    (void)state;
    bool avx512 = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"), avxvnni = has_avxvnni();
    if (!avx512 && !avxvnni)
        skip();
    if (avx512)
        assert_same_dots(&dots_avx512, "AVX-512 VNNI");
    if (avxvnni)
        assert_same_dots(&dots_avxvnni, "AVX-VNNI");
}
#endif

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "write") == 0) {
        char *text = golden_text();
        fputs(text, stdout);
        free(text);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_bits_are_those_of_the_fixture),
        cmocka_unit_test(test_exp_f32_is_within_1_5_ulp),
        cmocka_unit_test(test_exp_and_log_are_within_2_ulp),
        cmocka_unit_test(test_sine_and_cosine_are_within_2_to_the_minus_50),
        cmocka_unit_test(test_f16_converts_exactly_and_to_nearest),
        cmocka_unit_test(test_philox_gives_its_published_numbers),
        cmocka_unit_test(test_a_dot_is_close_to_the_sum_of_dequantised_products),
        cmocka_unit_test(test_quantising_tells_what_is_not_finite_and_zeroes_what_is_tiny),
#if defined(__x86_64__)
        cmocka_unit_test(test_signed_products_survive_vector_instructions),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

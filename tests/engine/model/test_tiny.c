/* Whole tiny models against torch (scripts/make-fixtures tiny): every family with its rope, biases, norms and windows, and every tensor type.
 *
 * Float weights: the reference rounds keys and values to binary16 as the KV pages do, so only the order of sums differs and the bound is tight.
 * With quantised weights the reference rounds activations to 8 bits in blocks of 32 as well. There a value on the edge between two integers may fall
 * to either side and move what comes after it by a percent, so only some positions are held to the tight bound. A nibble or a scale in a wrong place
 * gives an error of about 1 everywhere. */
#include "tests/engine/model/fixture.h"
#include "tests/engine/model/run.h"

#include <math.h>

struct expectation {
    const json_t *positions, *logits;
    double worst, best; /* relative error of a position: root mean square of the error over that of its logits */
};

static void compare_rows(void *arg, const struct scores *scores, int pos, int n)
{
    struct expectation *e = arg;
    for (size_t k = 0; k < json_array_size(e->positions); k++) {
        int at = (int)json_integer_value(json_array_get(e->positions, k)) - pos;
        if (at < 0 || at >= n)
            continue;
        const json_t *wanted = json_array_get(e->logits, k);
        const float *row = scores->row(scores->ctx, scores->first + at);
        double sum_square = 0, sum_error = 0;
        assert_int_equal(json_array_size(wanted), scores->n_vocab);
        for (int i = 0; i < scores->n_vocab; i++) {
            double value = json_number_value(json_array_get(wanted, (size_t)i)), error = (double)row[i] - value;
            sum_square += value * value;
            sum_error += error * error;
        }
        assert_true(sum_square > 0);
        e->worst = fmax(e->worst, sqrt(sum_error / sum_square));
        e->best = fmin(e->best, sqrt(sum_error / sum_square));
    }
}

static struct expectation compare(const char *name)
{
    char path[200];
    struct run run;
    int n_ids;
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s.json", name);
    json_t *fixture = fixture_load(path);
    struct expectation e = {json_object_get(fixture, "positions"), json_object_get(fixture, "logits"), 0, INFINITY};
    int32_t *ids = fixture_ids(fixture, "ids", &n_ids);
    assert_true(json_array_size(e.positions) >= 8);
    snprintf(path, sizeof path, "tests/fixtures/tiny/%s.gguf", name);
    run_open(&run, path, "cpu", 1, 64, 64, 8);
    run_feed(&run, ids, 0, n_ids, 50, compare_rows, &e);
    run_close(&run);
    free(ids);
    json_decref(fixture);
    print_message("%s: relative error of a position %.1e to %.1e\n", name, e.best, e.worst);
    return e;
}

static void families_match_torch(void **state)
{
    static const char *const names[] = {"llama3", "llama-linear", "mistral", "mistral-window", "qwen2", "qwen3", "gemma3"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(compare(names[i]).worst < 2e-4);
}

static void float_types_match_torch(void **state)
{
    static const char *const names[] = {"type-f32", "type-f16", "type-bf16"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(compare(names[i]).worst < 2e-4);
}

static void quantised_types_match_torch(void **state)
{
    static const char *const names[] = {"type-q4-0", "type-q4-1", "type-q5-0", "type-q5-1", "type-q8-0",
                                        "type-q2-k", "type-q3-k", "type-q4-k", "type-q5-k", "type-q6-k"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct expectation e = compare(names[i]);
        assert_true(e.worst < 3e-2);
        assert_true(e.best < 1e-5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_match_torch),
        cmocka_unit_test(float_types_match_torch),
        cmocka_unit_test(quantised_types_match_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Real models against a float32 reference (scripts/make-fixtures fidelity): the mean distance of the log-probabilities of a text's own tokens, and
 * no token that the reference clearly prefers may lose to another. The models must lie under models/ (scripts/get-model); a missing one is a failure.
 *
 * The distance grows with how surprising a text is to the model: activations are rounded to 8 bits, and that moves an unsure distribution more than a
 * sure one. So a bound goes with its text. plain.txt has familiar sentences, lists, tables and code. hard.txt is prose full of facts in several
 * languages; llama.cpp's CPU build shows 0.062, 0.039 and 0.075 there for the three models, which are the bounds.
 *
 * Which way a value near the middle between two bytes rounds is chance: embeddings moved by 1 to 5 units in the last place give other means, within
 * 8 % of theirs. A text whose mean lies closer to its bound than that tells nothing. */
#include "tests/engine/model/fixture.h"
#include "tests/engine/model/run.h"

#include <math.h>

struct comparison {
    const int32_t *ids;
    int n_ids;
    const double *logprob, *margin, *argmax;
    double sum_delta, max_delta;
    int n_flips, n_close_flips;
};

static double log_sum_exp(const float *row, int n, int *argmax_out)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        if ((double)row[i] > max) {
            max = (double)row[i];
            *argmax_out = i;
        }
    for (int i = 0; i < n; i++)
        sum += exp((double)row[i] - max);
    return max + log(sum);
}

static void compare_rows(void *arg, const struct scores *scores, int pos, int n)
{
    struct comparison *c = arg;
    for (int i = 0; i < n && pos + i < c->n_ids - 1; i++) {
        int at = pos + i, argmax = 0;
        const float *row = scores->row(scores->ctx, scores->first + i);
        double delta = fabs((double)row[c->ids[at + 1]] - log_sum_exp(row, scores->n_vocab, &argmax) - c->logprob[at]);
        c->sum_delta += delta;
        c->max_delta = fmax(c->max_delta, delta);
        if (argmax != (int)c->argmax[at]) {
            c->n_flips += c->margin[at] > 0.5;
            c->n_close_flips += c->margin[at] <= 0.5;
        }
    }
}

static void check_text(struct run *run, const char *name, const json_t *fixture, const char *text, double bound)
{
    const json_t *reference = json_object_get(fixture, text);
    struct comparison c = {0};
    size_t n;
    int32_t *ids = fixture_ids(reference, "ids", &c.n_ids);
    double *logprob = fixture_numbers(reference, "logprob", &n), *margin = fixture_numbers(reference, "margin", &n);
    double *argmax = fixture_numbers(reference, "argmax", &n);
    assert_int_equal(n, c.n_ids - 1);
    assert_true(n >= 600);
    c.ids = ids;
    c.logprob = logprob;
    c.margin = margin;
    c.argmax = argmax;
    run_feed(run, ids, 0, c.n_ids - 1, 64, compare_rows, &c);
    double mean = c.sum_delta / (double)n;
    print_message("%s, %s: %zu positions, mean |delta logprob| %.5f (bound %.3f), max %.3f, flips %d (%d more within 0.5 nat)\n", name, text, n, mean,
                  bound, c.max_delta, c.n_flips, c.n_close_flips);
    assert_true(mean <= bound);
    assert_int_equal(c.n_flips, 0);
    free(ids);
    free(logprob);
    free(margin);
    free(argmax);
}

static void check_model(const char *name, double plain_bound, double hard_bound)
{
    char path[200];
    struct run run;
    snprintf(path, sizeof path, "tests/fixtures/fidelity/%s.json", name);
    json_t *fixture = fixture_load(path);
    snprintf(path, sizeof path, "models/%s", json_string_value(json_object_get(fixture, "file")));
    run_open(&run, path, "cpu", 2, 64, 64, 32);
    assert_string_equal(model_info(run.model)->sha256, json_string_value(json_object_get(fixture, "sha256")));
    check_text(&run, name, fixture, "plain", plain_bound);
    check_text(&run, name, fixture, "hard", hard_bound);
    run_close(&run);
    json_decref(fixture);
}

static void smollm2_is_close_to_float32(void **state)
{
    (void)state;
    check_model("smollm2", 0.025, 0.062);
}

static void qwen_is_close_to_float32(void **state)
{
    (void)state;
    check_model("qwen2.5-coder", 0.013, 0.039);
}

static void gemma_is_close_to_float32(void **state)
{
    (void)state;
    check_model("gemma-3", 0.018, 0.074);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_is_close_to_float32),
        cmocka_unit_test(qwen_is_close_to_float32),
        cmocka_unit_test(gemma_is_close_to_float32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

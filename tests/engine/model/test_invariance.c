/* The runner's invariance on the toy and on the tiny models of every family and tensor type; see invariance.h. */
#include "tests/engine/model/invariance.h"

static const struct {
    const char *path;
    int n_vocab;
} small[] = {
    {"tests/fixtures/toy.gguf", 384},           {"tests/fixtures/tiny/llama3.gguf", 96},    {"tests/fixtures/tiny/llama-linear.gguf", 96},
    {"tests/fixtures/tiny/mistral-window.gguf", 96}, {"tests/fixtures/tiny/qwen2.gguf", 96}, {"tests/fixtures/tiny/qwen3.gguf", 96},
    {"tests/fixtures/tiny/gemma3.gguf", 96},    {"tests/fixtures/tiny/type-f32.gguf", 96},  {"tests/fixtures/tiny/type-bf16.gguf", 96},
    {"tests/fixtures/tiny/type-q4-0.gguf", 96}, {"tests/fixtures/tiny/type-q4-1.gguf", 96}, {"tests/fixtures/tiny/type-q5-0.gguf", 96},
    {"tests/fixtures/tiny/type-q5-1.gguf", 96}, {"tests/fixtures/tiny/type-q8-0.gguf", 96}, {"tests/fixtures/tiny/type-q2-k.gguf", 96},
    {"tests/fixtures/tiny/type-q3-k.gguf", 96}, {"tests/fixtures/tiny/type-q4-k.gguf", 96}, {"tests/fixtures/tiny/type-q5-k.gguf", 96},
    {"tests/fixtures/tiny/type-q6-k.gguf", 96},
};
#define N_SMALL (sizeof small / sizeof small[0])
#define N_FAMILIES 7 /* those that differ in more than the type of their tensors */

static void small_models_do_not_depend_on_chunks_threads_or_pages(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SMALL; i++)
        check_chunks_and_threads(small[i].path, small[i].n_vocab, 140);
}

static void small_models_do_not_depend_on_their_neighbours(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++)
        check_mixed(small[i].path, small[i].n_vocab);
}

static void small_models_do_not_depend_on_the_instruction_set(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SMALL; i++)
        check_instruction_sets(small[i].path, small[i].n_vocab, 80);
}

/* A sequence that goes on from a copied part of a page computes what one with its own pages computes. */
static void a_copied_page_is_as_good_as_a_computed_one(void **state)
{
    int32_t ids[150];
    struct run run;
    struct table wanted, got = {0};
    (void)state;
    fill_ids(ids, 150, 384, 3);
    wanted = compute("tests/fixtures/toy.gguf", "cpu", 1, 50, false, ids, 150);
    run_open(&run, "tests/fixtures/toy.gguf", "cpu", 1, 100, 100, 8);
    run_feed(&run, ids, 0, 100, 100, keep_rows, &got);
    run.runner.copy_page(run.runner.ctx, 5, run.pages[1], 100 - KV_PAGE);
    run.pages[1] = 5;
    run_feed(&run, ids, 100, 150, 9, keep_rows, &got);
    assert_same_rows(&wanted, &got, 150, "after a copy");
    run_close(&run);
    free(wanted.rows);
    free(got.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_models_do_not_depend_on_chunks_threads_or_pages),
        cmocka_unit_test(small_models_do_not_depend_on_their_neighbours),
        cmocka_unit_test(small_models_do_not_depend_on_the_instruction_set),
        cmocka_unit_test(a_copied_page_is_as_good_as_a_computed_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

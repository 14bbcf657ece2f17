/* The runner's invariance on a real model; see invariance.h. */
#include "tests/engine/model/invariance.h"

#define SMOLLM2 "models/smollm2-135m-instruct-q4_1.gguf"

static void smollm2_does_not_depend_on_chunks_threads_or_pages(void **state)
{
    (void)state;
    check_chunks_and_threads(SMOLLM2, 49152, 150);
}

static void smollm2_does_not_depend_on_its_neighbours(void **state)
{
    (void)state;
    check_mixed(SMOLLM2, 49152);
}

static void smollm2_does_not_depend_on_the_instruction_set(void **state)
{
    (void)state;
    check_instruction_sets(SMOLLM2, 49152, 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_does_not_depend_on_chunks_threads_or_pages),
        cmocka_unit_test(smollm2_does_not_depend_on_its_neighbours),
        cmocka_unit_test(smollm2_does_not_depend_on_the_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

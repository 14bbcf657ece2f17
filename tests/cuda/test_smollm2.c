/* test_smollm2.c: SmolLM2 135M (llama, Q4_1): some 50 rows on the emulated device. */
#include "tests/cuda/model_steps.h"

static void test_prefill_chunks_decode_and_a_mixed_step_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    check_model("models/smollm2-135m-instruct-q4_1.gguf", true, 8, true);
}

int main(void)
{
    assert(backend_cuda.open != NULL); /* named here, so that it is linked */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prefill_chunks_decode_and_a_mixed_step_give_the_bits_of_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

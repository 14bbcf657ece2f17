/* test_qwen.c: Qwen2.5-Coder 0.5B (qwen2: biases, K-quants, 152 thousand tokens): 18 rows on the emulated device. */
#include "tests/cuda/model_steps.h"

static void test_prefill_and_decode_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    check_model("models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", false, 2, false);
}

int main(void)
{
    assert(backend_cuda.open != NULL); /* named here, so that it is linked */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prefill_and_decode_give_the_bits_of_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

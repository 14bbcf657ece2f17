/* Qwen2.5-Coder 0.5B (K-quants, biases): twelve requests. */
#include "tests/engine/model_invariance.h"

int main(int argc, char **argv)
{
    static const struct model_proof proof = {.path = "models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"};
    return model_proof_main(&proof, argc, argv);
}

/* Gemma 3 270M (windows of 512 positions, a vocabulary of 262,144): twelve requests and one beyond twice the window. */
#include "tests/engine/model_invariance.h"

int main(int argc, char **argv)
{
    static const struct model_proof proof = {.path = "models/gemma-3-270m-q4_k_m.gguf", .long_prompt = 1100};
    return model_proof_main(&proof, argc, argv);
}

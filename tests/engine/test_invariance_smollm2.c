/* SmolLM2: the whole matrix. */
#include "tests/engine/model_invariance.h"

int main(int argc, char **argv)
{
    static const struct model_proof proof = {.path = "models/smollm2-135m-instruct-q4_1.gguf", .whole_matrix = true};
    return model_proof_main(&proof, argc, argv);
}

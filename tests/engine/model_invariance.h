/* model_invariance.h: the proof of invariance on a model file; test_invariance_<model>.c are its programs. */
#ifndef NEXTD_TESTS_MODEL_INVARIANCE_H
#define NEXTD_TESTS_MODEL_INVARIANCE_H

#include <stdbool.h>

struct model_proof {
    const char *path;      /* from the repository's root; a test is skipped where the file is not there */
    bool whole_matrix;     /* else twelve requests */
    int long_prompt;       /* tokens of one more request; 0: none. Beyond twice the window for windowed models */
};

/* Runs the proof as a cmocka suite. A path in argv[1] replaces the model's; --full runs every request. */
int model_proof_main(const struct model_proof *proof, int argc, char **argv);

#endif

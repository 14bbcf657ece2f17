// bugs.cu: runs planted bugs, for tests/cuda/run-bugs.
//
//   bugs --list       the names
//   bugs --right      each without its fault, in one process: 0 if all results are right
//   bugs NAME         one with its fault: 0 if the result is right all the same, so that nothing was noticed
#include <stdlib.h>

#include "bugs.h"

void bugs_must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorName(error));
    exit(3);
}

static const struct bug *nth(int i)
{
    if (i < n_kernel_bugs)
        return &kernel_bugs[i];
    i -= n_kernel_bugs;
    return i < n_matrix_bugs ? &matrix_bugs[i] : &host_bugs[i - n_matrix_bugs];
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    int n = n_kernel_bugs + n_matrix_bugs + n_host_bugs, n_wrong = 0;
    if (strcmp(what, "--list") == 0) {
        for (int i = 0; i < n; i++)
            printf("%s\n", nth(i)->name);
        return 0;
    }
    if (strcmp(what, "--right") == 0) {
        for (int i = 0; i < n; i++)
            if (!nth(i)->right()) {
                printf("wrong: %s\n", nth(i)->name);
                n_wrong++;
            }
        return n_wrong != 0;
    }
    for (int i = 0; i < n; i++)
        if (strcmp(what, nth(i)->name) == 0)
            return nth(i)->wrong() ? 0 : 1;
    fprintf(stderr, "usage: bugs --list | --right | NAME\n");
    return 2;
}

/* rate.h: how fast a GPU is: tokens a second of 1, 8, 32 and 128 streams and of a prompt, and what part of its memory's bandwidth that is. */
#ifndef NEXTD_TESTS_GPU_RATE_H
#define NEXTD_TESTS_GPU_RATE_H

#include <stdio.h>

#include "engine/err.h"

struct bandwidth {
    double copied_gbps, nominal_gbps; /* device.h */
};

/* Prints a table for the model of the file: each line is measured for some `seconds`. */
int rate_measure(const char *path, const char *name, const char *device, int n_threads, double seconds, int context, int prompt, int max_streams,
                 const struct bandwidth *b, FILE *out, struct err *err);

#endif

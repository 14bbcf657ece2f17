/* limits.h: what this machine can do at most, measured in the run whose figures are held against it: memory read by size of the working set, and
 * the peaks of the int8 and f32 multiply-add instructions that the kernels are made of. An absolute number from another hour means nothing: a
 * neighbour on the host moves the memory by half. */
#ifndef NEXTD_BENCH_LIMITS_H
#define NEXTD_BENCH_LIMITS_H

#include <stddef.h>

#define LIMITS_SIZES 6

/* Memory to read: weights, or a buffer of ours. */
struct limits_span {
    const void *base;
    size_t bytes;
};

struct limits {
    int n_threads;
    const char *int8_name, *f32_name;         /* the instructions that were timed */
    double int8_gops[2], f32_gops[2];       /* by 1 and by n_threads threads; a multiply-add counts as 2 */
    size_t read_bytes[LIMITS_SIZES];          /* working sets, ascending, over all threads */
    double read_gbps[LIMITS_SIZES][2];        /* 10^9 bytes a second, by 1 and by n_threads threads; the best of some passes */
};

/* Some two seconds and 512 MiB. -1 without memory or threads. */
int limits_measure(int n_threads, struct limits *out);

/* One plain read of all spans by n_threads threads (which it starts and ends, outside of the time): GB/s of the median and the best of n_passes
 * passes. -1 without memory or threads. */
int limits_read(int n_threads, const struct limits_span *spans, int n_spans, int n_passes, double *median_gbps_out, double *best_gbps_out);

/* GB/s that `bytes` of a working set can be read with, by n_threads: between the measured sizes, the next smaller one's figure. */
double limits_read_gbps(const struct limits *l, size_t bytes);

void limits_print(const struct limits *l);

#endif

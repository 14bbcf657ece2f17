/* emulator.h: what tests ask of the emulated device beyond CUDA's own calls: schedules, failures at the n-th call, another device. C and C++.
 *
 * A process has one emulated device. Its first use reads the environment, so that a whole server can be driven from outside:
 *   EMULATOR_SCHEDULE  forward | reverse | random:SEED          EMULATOR_FAIL_MALLOC_AT  n        EMULATOR_FAULT_AT  n
 *   EMULATOR_MEMORY    device memory in MiB                     EMULATOR_CAPABILITY  80           EMULATOR_DRIVER    13000
 *   EMULATOR_DEVICES   number of devices                        EMULATOR_PROTECT  0: host code may touch device memory (for debuggers)
 *   EMULATOR_SKIP      FILE:LINE, a barrier or wait of a kernel that is left out: whoever tests the kernel must notice (run-mutants) */
#ifndef NEXTD_EMULATOR_H
#define NEXTD_EMULATOR_H

#include <stdint.h>

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The order in which runnable threads, blocks and streams go on. Correct code gives the same bits under each.
 *   forward  ascending; a stream's work waits until somebody needs it
 *   reverse  descending; whoever synchronises with one stream first runs all work of the others
 *   random   by the seed, blocks and threads and streams, a new draw at each barrier, exchange, atomic and call
 * The schedule also chooses what uninitialised memory holds: NaN and -1, huge numbers, a byte of the seed. */
enum emulator_schedule { EMULATOR_FORWARD, EMULATOR_REVERSE, EMULATOR_RANDOM };
void emulator_set_schedule(enum emulator_schedule schedule, uint64_t seed);

/* The n-th allocation (device or pinned) from here on fails once; 1 is the next, 0 none. */
void emulator_fail_malloc_at(long n);

/* The n-th operation that the device executes from here on (kernel, copy, fill) faults with `error`, say cudaErrorIllegalAddress: nothing runs any
 * more and every call returns the error, until emulator_reset. 0: none. */
void emulator_fault_at(long n, cudaError_t error);

/* Forgets pending work, errors and injected failures. Buffers stay. */
void emulator_reset(void);

struct emulator_device {
    int n_devices;
    int driver_version;  /* 13000; below runtime_version each call fails with cudaErrorInsufficientDriver */
    int runtime_version; /* 11080 */
    int capability;      /* 80: compute capability 8.0 */
    int n_sms;
    size_t memory_bytes;
};
void emulator_get_device(struct emulator_device *device_out);
void emulator_set_device(const struct emulator_device *device);

/* Sums since the start of the process, and what is alive. */
struct emulator_counts {
    uint64_t n_launches, n_blocks, n_threads, n_switches;
    uint64_t n_copies, copied_to_device_bytes, copied_to_host_bytes;
    uint64_t n_graph_launches, n_graph_nodes; /* nodes executed */
    uint64_t n_device_buffers, device_bytes, n_pinned_buffers, pinned_bytes, n_streams, n_events, n_graphs;
};
void emulator_get_counts(struct emulator_counts *counts_out);

#ifdef __cplusplus
}
#endif

#endif

/* device.h: the device itself: what it is, and how fast it copies its own memory. */
#ifndef NEXTD_TESTS_GPU_DEVICE_H
#define NEXTD_TESTS_GPU_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/err.h"

struct gpu_facts {
    char name[256];
    int capability, n_sms, driver, runtime, l2_bytes; /* capability 80: 8.0; versions 13000: 13.0 */
    size_t memory_bytes;
    double nominal_gbps; /* from clock and bus width; 0 where the driver does not tell */
};

int gpu_describe(int device, struct gpu_facts *out, struct err *err);
/* Bytes read and written by a copy within the device, 10^9 a second. emulated: of a few. */
int gpu_copy_rate(int device, bool emulated, double *gbps_out, struct err *err);

#endif

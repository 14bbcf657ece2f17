/* device.h: which backend computes: from what an option names to a table of operations, asked before anything is opened. */
#ifndef NEXTD_DEVICE_H
#define NEXTD_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/backend/backend.h"
#include "engine/err.h"

struct device_choice {
    const struct backend_ops *ops;
    char name[48];       /* what its open takes */
    size_t free_bytes;   /* memory of the device's own that can be had; 0: it computes in the host's */
    char note[400];      /* "auto" could not take a GPU: why not the first, a whole sentence; or "" */
};

/* `wanted`: "auto" takes the first GPU that will do and has least_bytes free, where the build knows GPUs, else the CPU; "cpu", "cpu:<isa>";
 * "cuda", "cuda:<n>". ERR_UNSUPPORTED, ERR_NOT_FOUND, ERR_DEVICE. */
int device_choose(const char *wanted, uint64_t least_bytes, struct device_choice *out, struct err *err);

#endif

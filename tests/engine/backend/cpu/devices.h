/* devices.h: the instruction sets that tests force one by one; those that this machine lacks are left out. cpu:generic, the specification, comes
 * first. */
#ifndef NEXTD_TESTS_CPU_DEVICES_H
#define NEXTD_TESTS_CPU_DEVICES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend/backend.h"

static const char *const devices[] = {
    "cpu:generic",
#if defined(__x86_64__)
    "cpu:avx2",
    "cpu:avxvnni",
    "cpu:avx512",
#elif defined(__aarch64__)
    "cpu:neon",
#endif
};
#define N_DEVICES (sizeof devices / sizeof *devices)

static inline bool device_runs(const char *device)
{
    struct backend_shape shape = {1, 32, 32, 1, 1, 32, 32, 32, false, 1, 1, 1, 1, device, 0};
    struct backend *be = NULL;
    struct err err;
    if (backend_cpu.open(&shape, &be, &err) != 0) {
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        return false;
    }
    assert_string_equal(be->device, device);
    be->ops->close(be);
    return true;
}

#endif

// runtime.cpp: what the device is, what went wrong, and what tests make go wrong.
//
// Two kinds of errors, as in CUDA: one that a call returns and cudaGetLastError forgets, and the sticky one of a device that faulted, which every
// later call returns. A capture that saw an unsafe call is a third thing, kept with the capture (stream.cpp).
#include <stdlib.h>

#include "internal.h"

std::recursive_mutex emu_mutex;
emulator_counts emu_counts;
emulator_schedule emu_schedule = EMULATOR_FORWARD;
emulator_device emu_device = {1, 13000, CUDART_VERSION, 80, 8, (size_t)2 << 30};

static uint64_t random_state = 88172645463325252ull;
static cudaError_t last_error, sticky, planned_fault;
static long mallocs_to_failure, operations_to_fault;
static bool environment_read;

uint64_t emu_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 11;
}

static long environment(const char *name)
{
    const char *e = getenv(name);
    return e ? strtol(e, NULL, 10) : 0;
}

int emu_skipped_line;
static char skipped_file[256];

bool emu_is_skipped(const char *file)
{
    size_t n = strlen(file), m = strlen(skipped_file);
    return n >= m && strcmp(file + n - m, skipped_file) == 0;
}

static void read_skip(const char *place)
{
    const char *colon = place ? strrchr(place, ':') : NULL;
    if (!place)
        return;
    if (!colon || (size_t)(colon - place) >= sizeof skipped_file)
        emu_die("EMULATOR_SKIP is %s; it is FILE:LINE", place);
    memcpy(skipped_file, place, (size_t)(colon - place));
    emu_skipped_line = (int)strtol(colon + 1, NULL, 10);
}

static void read_environment(void)
{
    if (environment_read)
        return;
    environment_read = true;
    const char *schedule = getenv("EMULATOR_SCHEDULE");
    if (schedule && strcmp(schedule, "reverse") == 0)
        emulator_set_schedule(EMULATOR_REVERSE, 0);
    else if (schedule && strncmp(schedule, "random:", 7) == 0)
        emulator_set_schedule(EMULATOR_RANDOM, strtoull(schedule + 7, NULL, 10));
    else if (schedule && strcmp(schedule, "forward") != 0)
        emu_die("EMULATOR_SCHEDULE is %s; it is forward, reverse or random:SEED", schedule);
    read_skip(getenv("EMULATOR_SKIP"));
    mallocs_to_failure = environment("EMULATOR_FAIL_MALLOC_AT");
    operations_to_fault = environment("EMULATOR_FAULT_AT");
    planned_fault = cudaErrorIllegalAddress;
    if (environment("EMULATOR_MEMORY"))
        emu_device.memory_bytes = (size_t)environment("EMULATOR_MEMORY") << 20;
    if (environment("EMULATOR_CAPABILITY"))
        emu_device.capability = (int)environment("EMULATOR_CAPABILITY");
    if (getenv("EMULATOR_DRIVER"))
        emu_device.driver_version = (int)environment("EMULATOR_DRIVER");
    if (getenv("EMULATOR_DEVICES"))
        emu_device.n_devices = (int)environment("EMULATOR_DEVICES");
}

// ---- errors ----

cudaError_t emu_error(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

void emu_set_sticky(cudaError_t error)
{
    sticky = error;
}

cudaError_t emu_sticky(void)
{
    return sticky == cudaSuccess ? cudaSuccess : emu_error(sticky);
}

cudaError_t emu_enter(emu_need need)
{
    read_environment();
    if (emu_in_kernel())
        emu_die("a kernel calls the host's API");
    if (emu_device.driver_version < emu_device.runtime_version)
        return emu_error(cudaErrorInsufficientDriver);
    if (emu_device.n_devices <= 0)
        return emu_error(cudaErrorNoDevice);
    if (sticky != cudaSuccess)
        return emu_sticky();
    return need == EMU_UNSAFE ? emu_capture_forbids() : cudaSuccess;
}

bool emu_malloc_fails(void)
{
    return mallocs_to_failure > 0 && --mallocs_to_failure == 0;
}

bool emu_operation_faults(void)
{
    if (operations_to_fault <= 0 || --operations_to_fault != 0)
        return false;
    sticky = planned_fault;
    return true;
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaGetLastError(void)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    cudaError_t e = sticky != cudaSuccess ? sticky : last_error;
    last_error = cudaSuccess;
    return e;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
#define ERROR(name, text) {name, #name, text}
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR(cudaErrorInsufficientDriver, "driver version is insufficient for runtime version"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image for the device"),
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "illegal memory access"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchTimeout, "launch timed out"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted while a stream captures"),
    ERROR(cudaErrorStreamCaptureInvalidated, "the capture was invalidated by an earlier error"),
    ERROR(cudaErrorStreamCaptureMerge, "operation would merge two captures"),
    ERROR(cudaErrorStreamCaptureUnmatched, "the capture was not begun in this stream"),
    ERROR(cudaErrorStreamCaptureUnjoined, "the capture has a fork that was not joined"),
    ERROR(cudaErrorStreamCaptureIsolation, "the capture would depend on work outside it"),
    ERROR(cudaErrorStreamCaptureImplicit, "the capture would depend on the legacy stream"),
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event recorded in a capture"),
    ERROR(cudaErrorStreamCaptureWrongThread, "the capture was begun by another thread"),
    ERROR(cudaErrorUnknown, "unknown error"),
#undef ERROR
};

static size_t error_idx(cudaError_t error)
{
    size_t n = sizeof errors / sizeof errors[0];
    for (size_t i = 0; i < n; i++)
        if (errors[i].error == error)
            return i;
    return n - 1;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return errors[error_idx(error)].name;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return errors[error_idx(error)].text;
}

// ---- the device ----

cudaError_t cudaDriverGetVersion(int *version_out)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    *version_out = emu_device.driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version_out)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    *version_out = emu_device.runtime_version;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count_out)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    *count_out = 0;
    cudaError_t e = emu_enter(EMU_ANY);
    if (e != cudaSuccess)
        return e;
    *count_out = emu_device.n_devices;
    return cudaSuccess;
}

static bool known_device(int device)
{
    return device >= 0 && device < emu_device.n_devices;
}

// All devices are one: the emulated device has one memory.
cudaError_t cudaSetDevice(int device)
{
    EMU_ENTER(EMU_ANY);
    return known_device(device) ? cudaSuccess : emu_error(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device_out)
{
    EMU_ENTER(EMU_ANY);
    *device_out = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned int flags)
{
    EMU_ENTER(EMU_ANY);
    return flags > 7 ? emu_error(cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop_out, int device)
{
    EMU_ENTER(EMU_ANY);
    if (!known_device(device))
        return emu_error(cudaErrorInvalidDevice);
    memset(prop_out, 0, sizeof *prop_out);
    snprintf(prop_out->name, sizeof prop_out->name, "emulated device");
    prop_out->totalGlobalMem = emu_device.memory_bytes;
    prop_out->sharedMemPerBlock = EMU_STATIC_SHARED_BYTES;
    prop_out->sharedMemPerBlockOptin = EMU_MAX_SHARED_BYTES;
    prop_out->sharedMemPerMultiprocessor = EMU_MAX_SHARED_BYTES + 1024;
    prop_out->regsPerBlock = 65536;
    prop_out->warpSize = 32;
    prop_out->maxThreadsPerBlock = prop_out->maxThreadsDim[0] = prop_out->maxThreadsDim[1] = 1024;
    prop_out->maxThreadsDim[2] = 64;
    prop_out->maxGridSize[0] = 0x7fffffff;
    prop_out->maxGridSize[1] = prop_out->maxGridSize[2] = 65535;
    prop_out->major = emu_device.capability / 10;
    prop_out->minor = emu_device.capability % 10;
    prop_out->multiProcessorCount = emu_device.n_sms;
    prop_out->l2CacheSize = 4 << 20;
    prop_out->memoryBusWidth = 256;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value_out, enum cudaDeviceAttr attr, int device)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess)
        return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value_out = p.maxThreadsPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value_out = (int)p.sharedMemPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value_out = (int)p.sharedMemPerBlockOptin; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value_out = (int)p.sharedMemPerMultiprocessor; return cudaSuccess;
    case cudaDevAttrWarpSize: *value_out = p.warpSize; return cudaSuccess;
    case cudaDevAttrClockRate: *value_out = 1000000; return cudaSuccess;
    case cudaDevAttrMemoryClockRate: *value_out = 1000000; return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth: *value_out = p.memoryBusWidth; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value_out = p.l2CacheSize; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value_out = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrIntegrated: *value_out = 0; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value_out = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value_out = p.minor; return cudaSuccess;
    }
    return emu_error(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *id_out, int len, int device)
{
    EMU_ENTER(EMU_ANY);
    if (!known_device(device) || len < 13)
        return emu_error(cudaErrorInvalidValue);
    snprintf(id_out, (size_t)len, "0000:%02x:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_out, size_t *total_out)
{
    EMU_ENTER(EMU_ANY);
    *total_out = emu_device.memory_bytes;
    *free_out = emu_device.memory_bytes > emu_counts.device_bytes ? emu_device.memory_bytes - emu_counts.device_bytes : 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    emulator_reset();
    emu_release_all();
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attr, int value)
{
    EMU_ENTER(EMU_ANY);
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
        return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > EMU_MAX_SHARED_BYTES)
        return emu_error(cudaErrorInvalidValue);
    emu_allow_shared(function, (size_t)value);
    return cudaSuccess;
}

// ---- allocation ----

static cudaError_t allocate(emu_kind kind, void **p_out, size_t n_bytes)
{
    EMU_ENTER(EMU_UNSAFE);
    if (!p_out)
        return emu_error(cudaErrorInvalidValue);
    if (n_bytes == 0) {
        *p_out = NULL;
        return cudaSuccess;
    }
    void *p = emu_malloc_fails() ? NULL : emu_alloc(kind, n_bytes);
    if (!p)
        return emu_error(cudaErrorMemoryAllocation);
    *p_out = p;
    return cudaSuccess;
}

// Freeing waits for the device, as CUDA does; a lost device lets go of its memory, too, and says what it lost.
static cudaError_t release(emu_kind kind, void *p)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (!p)
        return emu_sticky();
    if (sticky == cudaSuccess) {
        cudaError_t e = emu_enter(EMU_UNSAFE);
        if (e != cudaSuccess)
            return e;
        emu_synchronize_all();
    }
    if (!emu_release(kind, p))
        return emu_error(cudaErrorInvalidValue);
    return emu_sticky();
}

cudaError_t cudaMalloc(void **p_out, size_t n_bytes)
{
    return allocate(EMU_DEVICE, p_out, n_bytes);
}

cudaError_t cudaFree(void *p)
{
    return release(EMU_DEVICE, p);
}

cudaError_t cudaMallocHost(void **p_out, size_t n_bytes)
{
    return allocate(EMU_PINNED, p_out, n_bytes);
}

cudaError_t cudaHostAlloc(void **p_out, size_t n_bytes, unsigned int flags)
{
    (void)flags;
    return allocate(EMU_PINNED, p_out, n_bytes);
}

cudaError_t cudaFreeHost(void *p)
{
    return release(EMU_PINNED, p);
}

// ---- what tests ask ----

void emulator_set_schedule(enum emulator_schedule schedule, uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    emu_schedule = schedule;
    random_state = (seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < 8; i++)
        emu_random();
}

void emulator_fail_malloc_at(long n)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    mallocs_to_failure = n;
}

void emulator_fault_at(long n, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    operations_to_fault = n;
    planned_fault = error;
}

void emulator_reset(void)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    emu_drop_streams();
    last_error = sticky = cudaSuccess;
    mallocs_to_failure = operations_to_fault = 0;
}

void emulator_get_device(struct emulator_device *device_out)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    *device_out = emu_device;
}

void emulator_set_device(const struct emulator_device *device)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    read_environment();
    emu_device = *device;
}

void emulator_get_counts(struct emulator_counts *counts_out)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    *counts_out = emu_counts;
}

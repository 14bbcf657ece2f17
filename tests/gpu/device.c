/* device.c: see device.h. */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "tests/gpu/device.h"

#define COPY_BYTES ((size_t)256 << 20)
#define N_COPIES 20

static int check(cudaError_t rc, const char *doing, struct err *err)
{
    return rc == cudaSuccess ? 0 : err_set(err, ERR_DEVICE, "%s: %s", doing, cudaGetErrorString(rc));
}

int gpu_describe(int device, struct gpu_facts *out, struct err *err)
{
    struct cudaDeviceProp prop;
    size_t left = 0, total = 0;
    *out = (struct gpu_facts){0};
    int clock_khz = 0, bus_bits = 0;
    if (check(cudaGetDeviceProperties(&prop, device), "asking what the device is", err) != 0 ||
        check(cudaSetDevice(device), "selecting the device", err) != 0 || check(cudaMemGetInfo(&left, &total), "asking for its memory", err) != 0)
        return -1;
    snprintf(out->name, sizeof out->name, "%s", prop.name);
    out->capability = prop.major * 10 + prop.minor;
    out->n_sms = prop.multiProcessorCount;
    out->memory_bytes = total;
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    cudaDeviceGetAttribute(&out->l2_bytes, cudaDevAttrL2CacheSize, device);
    if (cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, device) == cudaSuccess)
        out->nominal_gbps = 2.0 * clock_khz * 1e3 * bus_bits / 8 / 1e9; /* two transfers a clock */
    cudaGetLastError();
    return 0;
}

/* What is not made stays NULL, and is not destroyed. */
struct copies {
    void *from, *to;
    cudaStream_t stream;
    cudaEvent_t start, end;
};

static int copy(struct copies *c, size_t n_bytes, int n, double *gbps_out, struct err *err)
{
    float ms = 0;
    if (check(cudaMalloc(&c->from, n_bytes), "reserving memory", err) != 0 || check(cudaMalloc(&c->to, n_bytes), "reserving memory", err) != 0 ||
        check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "creating a stream", err) != 0 ||
        check(cudaEventCreate(&c->start), "creating an event", err) != 0 || check(cudaEventCreate(&c->end), "creating an event", err) != 0 ||
        check(cudaMemsetAsync(c->from, 1, n_bytes, c->stream), "filling memory", err) != 0)
        return -1;
    for (int i = 0; i <= n; i++) { /* the first is not counted */
        if (i == 1 && check(cudaEventRecord(c->start, c->stream), "timing", err) != 0)
            return -1;
        if (check(cudaMemcpyAsync(c->to, c->from, n_bytes, cudaMemcpyDeviceToDevice, c->stream), "copying", err) != 0)
            return -1;
    }
    if (check(cudaEventRecord(c->end, c->stream), "timing", err) != 0 || check(cudaEventSynchronize(c->end), "copying", err) != 0 ||
        check(cudaEventElapsedTime(&ms, c->start, c->end), "timing", err) != 0)
        return -1;
    *gbps_out = ms > 0 ? 2.0 * (double)n_bytes * n / (ms * 1e-3) / 1e9 : 0;
    return 0;
}

int gpu_copy_rate(int device, bool emulated, double *gbps_out, struct err *err)
{
    struct copies c = {0};
    if (check(cudaSetDevice(device), "selecting the device", err) != 0)
        return -1;
    int rc = copy(&c, emulated ? 1 << 20 : COPY_BYTES, emulated ? 2 : N_COPIES, gbps_out, err);
    if (c.stream != NULL)
        cudaStreamDestroy(c.stream);
    if (c.start != NULL)
        cudaEventDestroy(c.start);
    if (c.end != NULL)
        cudaEventDestroy(c.end);
    if (c.from != NULL)
        cudaFree(c.from);
    if (c.to != NULL)
        cudaFree(c.to);
    return rc;
}

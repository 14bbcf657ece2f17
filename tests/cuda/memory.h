/* memory.h: device memory for tests of kernels, and values for it. A call that fails ends the test. */
#ifndef NEXTD_TESTS_CUDA_MEMORY_H
#define NEXTD_TESTS_CUDA_MEMORY_H

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"

#define must(call) assert_int_equal((call), cudaSuccess)

static inline void *device_new(size_t n_bytes)
{
    void *p = NULL;
    must(cudaMalloc(&p, n_bytes));
    return p;
}

static inline void *device_copy_of(const void *from, size_t n_bytes)
{
    void *p = device_new(n_bytes);
    must(cudaMemcpy(p, from, n_bytes, cudaMemcpyHostToDevice));
    return p;
}

static inline void device_read(void *to, const void *from, size_t n_bytes)
{
    must(cudaMemcpy(to, from, n_bytes, cudaMemcpyDeviceToHost));
}

static inline void *host_new(size_t n_bytes)
{
    void *p = malloc(n_bytes);
    assert_non_null(p);
    memset(p, 0xee, n_bytes);
    return p;
}

/* The i-th number of a seed, and a value in [-1, 1). */
static inline uint32_t test_bits(uint64_t seed, uint32_t i)
{
    uint32_t words[4];
    num_philox(seed, 0, i / 4, words);
    return words[i % 4];
}

static inline float test_value(uint64_t seed, uint32_t i)
{
    return (float)(int32_t)test_bits(seed, i) * 0x1p-31f;
}

static inline void test_values(uint64_t seed, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = test_value(seed, (uint32_t)i);
}

#endif

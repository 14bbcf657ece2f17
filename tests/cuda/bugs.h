// bugs.h: what the planted bugs share. bugs_kernel.cu plants them in small kernels, bugs_matrix.cu in those of the matrix products, bugs_host.cu in
// what the host does with a device.
//
// A bug is a function template of one bool, written twice in one: bug<true> has the fault, bug<false> is what it should have been. It returns whether
// the result is right. A row of the table names both; bugs.cu runs them, tests/cuda/run-bugs judges.
#ifndef NEXTD_CUDA_BUGS_H
#define NEXTD_CUDA_BUGS_H

#include <vector>

#include "emulator.h"
#include "engine/backend/cuda/device.cuh"

#define ALL_LANES 0xffffffffu

struct bug {
    const char *name;
    bool (*right)(void);
    bool (*wrong)(void);
};
#define BUG(name) {#name, name<false>, name<true>}

extern const struct bug kernel_bugs[], matrix_bugs[], host_bugs[];
extern const int n_kernel_bugs, n_matrix_bugs, n_host_bugs;

// A call that may not fail here ends the program.
void bugs_must(cudaError_t error, const char *what);
#define MUST(call) bugs_must(call, #call)

// A buffer of the device for the life of a test.
template <class T> struct device {
    T *p;
    int n;
    explicit device(int n_) : p(NULL), n(n_) { MUST(cudaMalloc((void **)&p, sizeof(T) * (size_t)n)); }
    device(const device &) = delete;
    ~device() { cudaFree(p); }
    void put(const std::vector<T> &v) { MUST(cudaMemcpy(p, v.data(), sizeof(T) * v.size(), cudaMemcpyHostToDevice)); }
    void clear() { MUST(cudaMemset(p, 0, sizeof(T) * (size_t)n)); }
    std::vector<T> get()
    {
        std::vector<T> v((size_t)n);
        MUST(cudaMemcpy(v.data(), p, sizeof(T) * v.size(), cudaMemcpyDeviceToHost));
        return v;
    }
};

struct stream {
    cudaStream_t s;
    stream() { MUST(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking)); }
    stream(const stream &) = delete;
    ~stream() { cudaStreamDestroy(s); }
    void wait() { MUST(cudaStreamSynchronize(s)); }
};

// n numbers that differ: first, first + step ...
template <class T> std::vector<T> count_up(int n, T first = 0, T step = 1)
{
    std::vector<T> v((size_t)n);
    for (int i = 0; i < n; i++)
        v[(size_t)i] = (T)(first + (T)i * step);
    return v;
}

#endif

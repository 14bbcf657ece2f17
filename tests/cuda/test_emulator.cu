// test_emulator.cu: the emulated device does what CUDA says, and refuses what CUDA refuses. What it must notice in kernels is in bugs.cu.
#include <vector>

#include "emulator.h"
#include "engine/backend/cuda/device.cuh"
#include "engine/numerics/numerics.h"

static int n_passed, n_failed;

static void expect(bool ok, const char *what, int line)
{
    (ok ? n_passed : n_failed)++;
    printf("%s %d - %s\n", ok ? "ok" : "not ok", n_passed + n_failed, what);
    if (!ok)
        printf("# %s:%d\n", __FILE__, line);
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)
#define MUST(call)                                                                                     \
    do {                                                                                               \
        cudaError_t error = (call);                                                                    \
        if (error != cudaSuccess)                                                                      \
            expect(false, cudaGetErrorName(error), __LINE__);                                          \
    } while (0)

// ---- threads, barriers, shared memory, streams ----

__global__ void rotate(float *out, const float *in, int n)
{
    SHARED(float, s, 64);
    int i = threadIdx.x, at = blockIdx.x * 64 + i;
    s[i] = at < n ? in[at] : 0.0f;
    __syncthreads();
    float next = s[(i + 1) % 64], other = __shfl_xor_sync(0xffffffffu, next, 1);
    if (at < n)
        out[at] = next + 1000.0f * other + num_silu(0.0f);
}

static void launch_rotate(float *out, const float *in, int n, cudaStream_t stream)
{
    LAUNCH(rotate, dim3((unsigned)(n + 63) / 64), dim3(64), 0, stream, out, in, n);
}

static void test_kernel(void)
{
    enum { N = 200 };
    float *in, *out, *pinned;
    cudaStream_t stream;
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaMalloc((void **)&in, N * sizeof(float)));
    MUST(cudaMalloc((void **)&out, N * sizeof(float)));
    MUST(cudaMallocHost((void **)&pinned, N * sizeof(float)));
    for (int i = 0; i < N; i++)
        pinned[i] = (float)i;
    MUST(cudaMemcpyAsync(in, pinned, N * sizeof(float), cudaMemcpyHostToDevice, stream));
    launch_rotate(out, in, N, stream);
    MUST(cudaGetLastError());
    std::vector<float> got(N);
    MUST(cudaMemcpyAsync(got.data(), out, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    MUST(cudaStreamSynchronize(stream));
    bool same = true;
    auto next = [](int i) { int k = i / 64 * 64 + (i + 1) % 64; return k < N ? (float)k : 0.0f; };
    for (int i = 0; i < N; i++)
        same &= got[(size_t)i] == next(i) + 1000.0f * next(i ^ 1);
    EXPECT(same);
    MUST(cudaFree(in));
    MUST(cudaFree(out));
    MUST(cudaFreeHost(pinned));
    MUST(cudaStreamDestroy(stream));
}

int main(void)
{
    static const struct {
        enum emulator_schedule schedule;
        uint64_t seed;
    } schedules[] = {{EMULATOR_FORWARD, 0}, {EMULATOR_REVERSE, 0}, {EMULATOR_RANDOM, 1}, {EMULATOR_RANDOM, 2}};
    for (const auto &s : schedules) {
        emulator_set_schedule(s.schedule, s.seed);
        test_kernel();
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

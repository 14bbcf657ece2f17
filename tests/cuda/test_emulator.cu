// test_emulator.cu: the emulated device does what CUDA says, and refuses what CUDA refuses. What it must notice in kernels is in bugs_kernel.cu; what
// a warp's fragments hold is in test_fragments.cu.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
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
static void must(cudaError_t error, int line)
{
    if (error != cudaSuccess)
        expect(false, cudaGetErrorName(error), line);
}
#define MUST(call) must(call, __LINE__)

enum { N = 200 };

struct buffers {
    float *in, *out, *pinned;
    cudaStream_t s;
};

static void make(struct buffers *b)
{
    MUST(cudaMalloc((void **)&b->in, N * sizeof(float)));
    MUST(cudaMalloc((void **)&b->out, N * sizeof(float)));
    MUST(cudaMallocHost((void **)&b->pinned, N * sizeof(float)));
    MUST(cudaStreamCreateWithFlags(&b->s, cudaStreamNonBlocking));
    for (int i = 0; i < N; i++)
        b->pinned[i] = (float)i;
    MUST(cudaMemcpyAsync(b->in, b->pinned, N * sizeof(float), cudaMemcpyHostToDevice, b->s));
    MUST(cudaMemsetAsync(b->out, 0, N * sizeof(float), b->s));
    MUST(cudaStreamSynchronize(b->s));
}

static void unmake(struct buffers *b)
{
    cudaFree(b->in);
    cudaFree(b->out);
    cudaFreeHost(b->pinned);
    cudaStreamDestroy(b->s);
}

static float read_one(const float *p, int i)
{
    float x = -1.0f;
    MUST(cudaMemcpy(&x, p + i, sizeof x, cudaMemcpyDeviceToHost));
    return x;
}

// ---- threads, barriers, shared memory ----

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

static void launch_rotate(const struct buffers *b)
{
    LAUNCH(rotate, dim3((N + 63) / 64), dim3(64), 0, b->s, b->out, b->in, N);
}

static void test_rotate(void)
{
    struct buffers b;
    make(&b);
    launch_rotate(&b);
    MUST(cudaGetLastError());
    std::vector<float> got(N);
    MUST(cudaMemcpyAsync(got.data(), b.out, N * sizeof(float), cudaMemcpyDeviceToHost, b.s));
    MUST(cudaStreamSynchronize(b.s));
    bool rotated = true;
    auto next = [](int i) {
        int k = i / 64 * 64 + (i + 1) % 64;
        return k < N ? (float)k : 0.0f;
    };
    for (int i = 0; i < N; i++)
        rotated &= got[(size_t)i] == next(i) + 1000.0f * next(i ^ 1);
    EXPECT(rotated);
    unmake(&b);
}

__global__ void warp_functions(int *out)
{
    int i = (int)threadIdx.x, lane = i % 32;
    int v = lane * lane - 100;
    out[i * 8] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
    out[i * 8 + 1] = __shfl_sync(0xffffffffu, v, 5);
    out[i * 8 + 2] = __shfl_down_sync(0xffffffffu, v, 4);
    out[i * 8 + 3] = __shfl_up_sync(0xffffffffu, v, 4);
    out[i * 8 + 4] = __reduce_add_sync(0xffffffffu, v);
    out[i * 8 + 5] = __reduce_max_sync(0xffffffffu, v) - __reduce_min_sync(0xffffffffu, v);
    out[i * 8 + 6] = __any_sync(0xffffffffu, v == -100) + 2 * __all_sync(0xffffffffu, v < 0);
    out[i * 8 + 7] = __dp4a(lane | 0x80ff01 << 8, 0x7f807f80 ^ lane, v); // bytes lane, 1, -1, -128
}

static void test_warp_functions(void)
{
    int *out, h[64 * 8];
    MUST(cudaMalloc((void **)&out, sizeof h));
    LAUNCH(warp_functions, dim3(1), dim3(64), 0, NULL, out);
    MUST(cudaMemcpy(h, out, sizeof h, cudaMemcpyDeviceToHost));
    bool same = true;
    auto v = [](int lane) { return lane * lane - 100; };
    int sum = 0;
    for (int l = 0; l < 32; l++)
        sum += v(l);
    for (int i = 0; i < 64; i++) {
        int l = i % 32, dots = l * (int8_t)(0x80 ^ l) + 0x7f - (int8_t)0x80 - 128 * 0x7f;
        int expected[8] = {0x49249249, v(5), v(l + 4 > 31 ? l : l + 4), v(l < 4 ? l : l - 4), sum, 31 * 31, 1, v(l) + dots};
        same &= memcmp(h + i * 8, expected, sizeof expected) == 0;
    }
    EXPECT(same);
    MUST(cudaFree(out));
}

__global__ void convert(int *out, const float *in)
{
    int i = (int)threadIdx.x;
    float x = in[i];
    out[i * 4] = __float2int_rn(x);
    out[i * 4 + 1] = __float2int_rz(x);
    out[i * 4 + 2] = (int)__float2uint_rn(x);
    out[i * 4 + 3] = (int)__half_as_ushort(__float2half_rn(x));
}

static void test_conversions_of_what_does_not_fit(void)
{
    const float in[32] = {NAN, INFINITY, -INFINITY, 3e9f, -3e9f, 2.5f, 3.5f, -1.5f, 5e9f, 2147483520.0f, 65504.0f, 65520.0f, 0x1p-24f, 0x1p-25f};
    const int rn[14] = {0, 0x7fffffff, -0x7fffffff - 1, 0x7fffffff, -0x7fffffff - 1, 2, 4, -2, 0x7fffffff, 2147483520, 65504, 65520, 0, 0};
    const unsigned un[14] = {0, 0xffffffffu, 0, 3000000000u, 0, 2, 4, 0, 0xffffffffu, 2147483520u, 65504, 65520, 0, 0};
    const int half[14] = {0x7e00, 0x7c00, 0xfc00, 0x7c00, 0xfc00, 0x4100, 0x4300, 0xbe00, 0x7c00, 0x7c00, 0x7bff, 0x7c00, 1, 0};
    float *device_in;
    int *out, h[32 * 4];
    MUST(cudaMalloc((void **)&device_in, sizeof in));
    MUST(cudaMalloc((void **)&out, sizeof h));
    MUST(cudaMemcpy(device_in, in, sizeof in, cudaMemcpyHostToDevice));
    LAUNCH(convert, dim3(1), dim3(32), 0, NULL, out, (const float *)device_in);
    MUST(cudaMemcpy(h, out, sizeof h, cudaMemcpyDeviceToHost));
    bool near = true, zero = h[5 * 4 + 1] == 2 && h[7 * 4 + 1] == -1, unsigned_too = true, halves = true;
    for (int i = 0; i < 14; i++) {
        near &= h[i * 4] == rn[i];
        unsigned_too &= (unsigned)h[i * 4 + 2] == un[i];
        halves &= h[i * 4 + 3] == half[i];
    }
    EXPECT(near && zero && unsigned_too && halves);
    MUST(cudaFree(out));
    MUST(cudaFree(device_in));
}

// ---- streams, events ----

static void add_ten(void *arg)
{
    *(int *)arg += 10;
}

static void test_streams_are_lazy_and_in_order(void)
{
    struct buffers b;
    make(&b);
    int order = 1;
    cudaEvent_t start, end;
    MUST(cudaEventCreate(&start));
    MUST(cudaEventCreate(&end));
    MUST(cudaEventRecord(start, b.s));
    launch_rotate(&b);
    MUST(cudaLaunchHostFunc(b.s, add_ten, &order));
    MUST(cudaEventRecord(end, b.s));
    EXPECT(order == 1 && cudaEventQuery(end) == cudaErrorNotReady);
    float ms = -1.0f;
    MUST(cudaEventSynchronize(end));
    EXPECT(order == 11 && cudaEventQuery(end) == cudaSuccess);
    EXPECT(cudaEventElapsedTime(&ms, start, end) == cudaSuccess && ms >= 0.0f);
    EXPECT(cudaStreamQuery(b.s) == cudaSuccess);
    MUST(cudaEventDestroy(start));
    MUST(cudaEventDestroy(end));
    unmake(&b);
}

static void test_a_wait_takes_the_event_as_it_is(void)
{
    struct buffers b;
    make(&b);
    cudaStream_t second;
    cudaEvent_t event;
    int late = 0;
    MUST(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    emulator_set_schedule(EMULATOR_FORWARD, 0);
    MUST(cudaEventRecord(event, b.s));
    MUST(cudaStreamWaitEvent(second, event, 0));
    MUST(cudaLaunchHostFunc(b.s, add_ten, &late));
    MUST(cudaEventRecord(event, b.s));
    MUST(cudaStreamSynchronize(second));
    EXPECT(late == 0);
    MUST(cudaStreamSynchronize(b.s));
    EXPECT(late == 10);
    MUST(cudaEventDestroy(event));
    MUST(cudaStreamDestroy(second));
    unmake(&b);
}

// ---- captures and graphs ----

static void test_graph_runs_often_with_frozen_arguments(void)
{
    struct buffers b;
    make(&b);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    enum cudaStreamCaptureStatus status;
    size_t n_nodes = 0;
    MUST(cudaStreamBeginCapture(b.s, cudaStreamCaptureModeThreadLocal));
    MUST(cudaMemcpyAsync(b.in, b.pinned, N * sizeof(float), cudaMemcpyHostToDevice, b.s));
    launch_rotate(&b);
    MUST(cudaStreamIsCapturing(b.s, &status));
    EXPECT(status == cudaStreamCaptureStatusActive);
    MUST(cudaStreamEndCapture(b.s, &graph));
    MUST(cudaGraphGetNodes(graph, NULL, &n_nodes));
    EXPECT(n_nodes == 2);
    EXPECT(read_one(b.out, 1) == 0.0f); // a capture runs nothing
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cudaGraphDestroy(graph));
    bool right = true;
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < N; i++)
            b.pinned[i] = (float)(i + k); // what changes lies in memory
        MUST(cudaGraphLaunch(exec, b.s));
        MUST(cudaStreamSynchronize(b.s));
        right &= read_one(b.out, 0) == (float)(1 + k) + 1000.0f * (float)(2 + k);
    }
    EXPECT(right);
    MUST(cudaGraphExecDestroy(exec));
    unmake(&b);
}

// What each call says while a stream captures, and that the capture is lost by it.
template <class F> static bool lost_by(F call, cudaError_t says, cudaStreamCaptureMode mode)
{
    struct buffers b;
    make(&b);
    cudaGraph_t graph = NULL;
    MUST(cudaStreamBeginCapture(b.s, mode));
    launch_rotate(&b);
    bool right = call(&b) == says;
    launch_rotate(&b); // refused from now on
    right &= cudaGetLastError() == cudaErrorStreamCaptureInvalidated || says == cudaSuccess;
    cudaError_t end = cudaStreamEndCapture(b.s, &graph);
    right &= says == cudaSuccess ? end == cudaSuccess && graph : end == cudaErrorStreamCaptureInvalidated && !graph;
    if (graph)
        MUST(cudaGraphDestroy(graph));
    cudaGetLastError();
    right &= cudaStreamSynchronize(b.s) == cudaSuccess; // the stream itself is fine
    unmake(&b);
    return right;
}

static void test_capture_refuses(void)
{
    const cudaStreamCaptureMode local = cudaStreamCaptureModeThreadLocal, relaxed = cudaStreamCaptureModeRelaxed;
    const cudaError_t refused = cudaErrorStreamCaptureUnsupported;
    void *p = NULL;
    float h[4] = {};
    cudaEvent_t event;
    MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    EXPECT(lost_by([&](struct buffers *) { return cudaMalloc(&p, 16); }, refused, local));
    EXPECT(lost_by([&](struct buffers *) { return cudaMallocHost(&p, 16); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaFree(b->in); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaMemcpy(b->in, h, sizeof h, cudaMemcpyHostToDevice); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaMemcpyAsync(b->in, h, sizeof h, cudaMemcpyHostToDevice, b->s); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaMemcpyAsync(h, b->in, sizeof h, cudaMemcpyDeviceToHost, b->s); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaMemset(b->in, 0, 16); }, refused, local));
    EXPECT(lost_by([&](struct buffers *) { return cudaDeviceSynchronize(); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaStreamSynchronize(b->s); }, refused, local));
    EXPECT(lost_by([&](struct buffers *b) { return cudaStreamSynchronize(b->s); }, refused, relaxed));
    EXPECT(lost_by([&](struct buffers *b) { return cudaStreamQuery(b->s); }, refused, relaxed));
    EXPECT(lost_by([&](struct buffers *b) { return cudaStreamBeginCapture(b->s, local); }, refused, local));
    EXPECT(lost_by([&](struct buffers *) { return cudaMalloc(&p, 16); }, cudaSuccess, relaxed));
    MUST(cudaFree(p));
    auto ask_captured = [&](struct buffers *b) {
        MUST(cudaEventRecord(event, b->s));
        return cudaEventSynchronize(event);
    };
    EXPECT(lost_by(ask_captured, cudaErrorCapturedEvent, relaxed));
    auto wait_outside = [&](struct buffers *b) {
        cudaStream_t other;
        MUST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
        MUST(cudaEventRecord(event, other));
        cudaError_t e = cudaStreamWaitEvent(b->s, event, 0);
        MUST(cudaStreamDestroy(other));
        return e;
    };
    EXPECT(lost_by(wait_outside, cudaErrorStreamCaptureIsolation, relaxed));
    MUST(cudaEventDestroy(event));
}

static void test_null_stream_is_not_for_captures(void)
{
    cudaStream_t blocking;
    cudaGraph_t graph;
    float *p;
    MUST(cudaMalloc((void **)&p, 64));
    EXPECT(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeRelaxed) == cudaErrorStreamCaptureUnsupported);
    MUST(cudaStreamCreate(&blocking));
    MUST(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
    EXPECT(cudaMemsetAsync(p, 0, 64, NULL) == cudaErrorStreamCaptureImplicit);
    EXPECT(cudaStreamEndCapture(blocking, &graph) == cudaErrorStreamCaptureInvalidated);
    EXPECT(cudaStreamEndCapture(blocking, &graph) == cudaErrorInvalidValue);
    MUST(cudaStreamDestroy(blocking));
    MUST(cudaFree(p));
    cudaGetLastError();
}

static void test_capture_belongs_to_its_thread(void)
{
    struct buffers b;
    make(&b);
    cudaGraph_t graph;
    cudaError_t end = cudaSuccess, other_malloc = cudaErrorUnknown;
    MUST(cudaStreamBeginCapture(b.s, cudaStreamCaptureModeThreadLocal));
    std::thread([&] {
        void *p = NULL;
        end = cudaStreamEndCapture(b.s, &graph);
        other_malloc = cudaMalloc(&p, 16); // the other thread captures nothing
        cudaFree(p);
    }).join();
    EXPECT(end == cudaErrorStreamCaptureWrongThread && other_malloc == cudaSuccess);
    MUST(cudaStreamEndCapture(b.s, &graph));
    MUST(cudaGraphDestroy(graph));
    cudaGetLastError();
    unmake(&b);
}

// ---- failures ----

static void test_launch_that_does_not_fit(void)
{
    struct buffers b;
    make(&b);
    const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t says;
    } cases[] = {
        {dim3(1), dim3(1025), 0, cudaErrorInvalidConfiguration},          {dim3(0), dim3(64), 0, cudaErrorInvalidConfiguration},
        {dim3(1, 65536), dim3(64), 0, cudaErrorInvalidConfiguration},     {dim3(1, 1, 65536), dim3(64), 0, cudaErrorInvalidConfiguration},
        {dim3(1), dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration},      {dim3(1), dim3(64), (48 << 10) + 1, cudaErrorInvalidConfiguration},
        {dim3(4), dim3(64), 0, cudaSuccess},
    };
    bool right = true;
    for (const auto &c : cases) {
        LAUNCH(rotate, c.grid, c.block, c.shared, b.s, b.out, b.in, N);
        right &= cudaPeekAtLastError() == c.says && cudaGetLastError() == c.says && cudaGetLastError() == cudaSuccess;
    }
    EXPECT(right);
    EXPECT(cudaFuncSetAttribute((const void *)rotate, cudaFuncAttributeMaxDynamicSharedMemorySize, (99 << 10) + 1) == cudaErrorInvalidValue);
    cudaGetLastError();
    unmake(&b);
}

static void test_memory_runs_out(void)
{
    struct emulator_device before, small;
    void *p = NULL, *q = NULL;
    size_t n_free, total;
    emulator_get_device(&before);
    small = before;
    small.memory_bytes = 1 << 20;
    emulator_set_device(&small);
    MUST(cudaMalloc(&p, 700 << 10));
    MUST(cudaMemGetInfo(&n_free, &total));
    EXPECT(total == 1 << 20 && n_free == (324 << 10));
    EXPECT(cudaMalloc(&q, 400 << 10) == cudaErrorMemoryAllocation && q == NULL && cudaGetLastError() == cudaErrorMemoryAllocation);
    EXPECT(cudaDeviceSynchronize() == cudaSuccess); // nothing is lost by it
    MUST(cudaFree(p));
    emulator_set_device(&before);
    emulator_fail_malloc_at(2);
    MUST(cudaMalloc(&p, 16));
    EXPECT(cudaMallocHost(&q, 16) == cudaErrorMemoryAllocation && q == NULL);
    MUST(cudaMallocHost(&q, 16));
    MUST(cudaFree(p));
    MUST(cudaFreeHost(q));
    EXPECT(cudaFree((void *)&q) == cudaErrorInvalidValue);
    cudaGetLastError();
}

static void test_fault_is_sticky(void)
{
    struct buffers b;
    make(&b);
    int reached = 0;
    void *p;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamBeginCapture(b.s, cudaStreamCaptureModeThreadLocal));
    launch_rotate(&b);
    MUST(cudaStreamEndCapture(b.s, &graph));
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    emulator_set_schedule(EMULATOR_FORWARD, 0);
    emulator_fault_at(2, cudaErrorIllegalAddress);
    launch_rotate(&b);
    launch_rotate(&b);
    MUST(cudaLaunchHostFunc(b.s, add_ten, &reached));
    EXPECT(cudaPeekAtLastError() == cudaSuccess); // launches tell nothing yet
    EXPECT(cudaStreamSynchronize(b.s) == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress);
    EXPECT(cudaMalloc(&p, 16) == cudaErrorIllegalAddress && cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    launch_rotate(&b);
    EXPECT(cudaStreamQuery(b.s) == cudaErrorIllegalAddress);
    EXPECT(cudaGraphExecDestroy(exec) == cudaErrorIllegalAddress && cudaGraphDestroy(graph) == cudaErrorIllegalAddress); // gone all the same
    struct emulator_counts before, after;
    emulator_get_counts(&before);
    EXPECT(cudaFree(b.in) == cudaErrorIllegalAddress); // freed all the same
    emulator_get_counts(&after);
    EXPECT(after.n_device_buffers == before.n_device_buffers - 1);
    emulator_reset();
    b.in = NULL;
    EXPECT(cudaDeviceSynchronize() == cudaSuccess);
    unmake(&b);
}

static void test_other_devices(void)
{
    struct emulator_device before, d;
    int n = -1;
    emulator_get_device(&before);
    d = before;
    d.driver_version = 11000;
    emulator_set_device(&d);
    EXPECT(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0);
    EXPECT(cudaDriverGetVersion(&n) == cudaSuccess && n == 11000);
    d = before;
    d.n_devices = 0;
    emulator_set_device(&d);
    EXPECT(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
    d = before;
    d.capability = 75;
    emulator_set_device(&d);
    struct cudaDeviceProp prop;
    MUST(cudaGetDeviceProperties(&prop, 0));
    EXPECT(prop.major == 7 && prop.minor == 5 && cudaSetDevice(1) == cudaErrorInvalidDevice);
    emulator_set_device(&before);
    cudaGetLastError();
    EXPECT(strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0 && *cudaGetErrorString(cudaErrorNoDevice));
}

// In a process of its own, which the environment tells to fail: 0 if all was as it says.
static int obey_environment(void)
{
    struct emulator_device d;
    void *p = NULL;
    int n = 0;
    emulator_get_device(&d);
    bool right = d.memory_bytes == 3 << 20 && d.capability == 89 && d.driver_version == 12040 && d.n_devices == 2;
    right &= cudaGetDeviceCount(&n) == cudaSuccess && n == 2;
    right &= cudaMalloc(&p, 16) == cudaSuccess && cudaMalloc(&p, 16) == cudaErrorMemoryAllocation && cudaMalloc(&p, 16) == cudaSuccess;
    for (int i = 1; i <= 3; i++) {
        right &= cudaMemsetAsync(p, 0, 16, NULL) == cudaSuccess;
        right &= cudaStreamSynchronize(NULL) == (i < 3 ? cudaSuccess : cudaErrorIllegalAddress);
    }
    return right ? 0 : 1;
}

static void test_environment(const char *program)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        setenv("EMULATOR_MEMORY", "3", 1);
        setenv("EMULATOR_CAPABILITY", "89", 1);
        setenv("EMULATOR_DRIVER", "12040", 1);
        setenv("EMULATOR_DEVICES", "2", 1);
        setenv("EMULATOR_FAIL_MALLOC_AT", "2", 1);
        setenv("EMULATOR_FAULT_AT", "3", 1);
        execl(program, program, "--obey-environment", (char *)NULL);
        _exit(127);
    }
    EXPECT(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_nothing_is_left(void)
{
    struct emulator_counts c;
    emulator_get_counts(&c);
    EXPECT(c.n_device_buffers == 0 && c.device_bytes == 0 && c.n_pinned_buffers == 0 && c.pinned_bytes == 0);
    EXPECT(c.n_streams == 0 && c.n_events == 0 && c.n_graphs == 0);
    EXPECT(c.n_launches > 0 && c.n_blocks > c.n_launches && c.n_graph_nodes >= 2 * c.n_graph_launches && c.n_graph_launches > 0);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--obey-environment") == 0)
        return obey_environment();
    static const struct {
        enum emulator_schedule schedule;
        uint64_t seed;
    } schedules[] = {{EMULATOR_FORWARD, 0}, {EMULATOR_REVERSE, 0}, {EMULATOR_RANDOM, 1}, {EMULATOR_RANDOM, 2}};
    for (const auto &s : schedules) {
        emulator_set_schedule(s.schedule, s.seed);
        test_rotate();
        test_warp_functions();
        test_graph_runs_often_with_frozen_arguments();
    }
    emulator_set_schedule(EMULATOR_FORWARD, 0);
    test_conversions_of_what_does_not_fit();
    test_streams_are_lazy_and_in_order();
    test_a_wait_takes_the_event_as_it_is();
    test_capture_refuses();
    test_null_stream_is_not_for_captures();
    test_capture_belongs_to_its_thread();
    test_launch_that_does_not_fit();
    test_memory_runs_out();
    test_fault_is_sticky();
    test_other_devices();
    test_environment(argv[0]);
    test_nothing_is_left();
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}

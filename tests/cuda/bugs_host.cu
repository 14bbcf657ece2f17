// bugs_host.cu: planted bugs of the host side: pointers, lifetimes, launches, streams and events, captures and graphs.
#include "bugs.h"

#define N 128

__global__ void add_to(float *out, const float *in, float x)
{
    int i = threadIdx.x;
    out[i] = in[i] + x;
}

static void launch_add(float *out, const float *in, float x, cudaStream_t s)
{
    LAUNCH(add_to, dim3(1), dim3(N), 0, s, out, in, x);
}

// ---- pointers and lifetimes ----

template <bool BUGGY> static bool host_pointer(void)
{
    device<float> out(N), in(N);
    std::vector<float> h = count_up<float>(N);
    in.put(h);
    launch_add(out.p, BUGGY ? h.data() : in.p, 1.0f, NULL);
    return out.get()[3] == 4.0f;
}

struct planes {
    int n;
    const float *a, *b;
};
__global__ void add_planes(float *out, planes p)
{
    int i = threadIdx.x;
    if (i < p.n)
        out[i] = p.a[i] + p.b[i];
}
template <bool BUGGY> static bool host_pointer_in_struct(void)
{
    device<float> out(N), in(N);
    std::vector<float> h = count_up<float>(N);
    in.put(h);
    LAUNCH(add_planes, dim3(1), dim3(N), 0, NULL, out.p, (planes{N, in.p, BUGGY ? h.data() : in.p}));
    return out.get()[3] == 6.0f;
}

template <bool BUGGY> static bool use_after_free(void)
{
    device<float> out(N);
    float *in;
    MUST(cudaMalloc((void **)&in, N * sizeof(float)));
    MUST(cudaMemset(in, 0, N * sizeof(float)));
    if (BUGGY)
        MUST(cudaFree(in));
    launch_add(out.p, in, 1.0f, NULL);
    bool right = out.get()[3] == 1.0f;
    if (!BUGGY)
        MUST(cudaFree(in));
    return right;
}

template <bool BUGGY> static bool double_free(void)
{
    void *p;
    MUST(cudaMalloc(&p, 64));
    MUST(cudaFree(p));
    return !BUGGY || cudaFree(p) == cudaSuccess;
}

template <bool BUGGY> static bool copy_past_buffer(void)
{
    device<float> a(N), b(N);
    a.put(count_up<float>(N));
    MUST(cudaMemcpy(b.p, a.p, (N + (BUGGY ? 1 : 0)) * sizeof(float), cudaMemcpyDeviceToDevice));
    return b.get()[5] == 5.0f;
}

template <bool BUGGY> static bool copy_past_host_buffer(void)
{
    device<float> a(N);
    a.put(count_up<float>(N));
    std::vector<float> h(N - (BUGGY ? 1 : 0));
    MUST(cudaMemcpy(h.data(), a.p, N * sizeof(float), cudaMemcpyDeviceToHost));
    return h[5] == 5.0f;
}

template <bool BUGGY> static bool copy_the_wrong_way(void)
{
    device<float> a(N);
    std::vector<float> h = count_up<float>(N);
    a.clear();
    if (cudaMemcpy(a.p, h.data(), N * sizeof(float), BUGGY ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice) != cudaSuccess)
        return false;
    return a.get()[5] == 5.0f;
}

template <bool BUGGY> static bool host_follows_device_pointer(void)
{
    device<float> a(N);
    a.put(count_up<float>(N));
    return BUGGY ? *(volatile float *)(a.p + 5) == 5.0f : a.get()[5] == 5.0f;
}

// ---- launches ----

__global__ void fill(float *out, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[i] = 1.0f;
}
static bool fill_with(dim3 grid, dim3 block, size_t shared_bytes)
{
    device<float> out(N);
    out.clear();
    LAUNCH(fill, grid, block, shared_bytes, NULL, out.p, N);
    return out.get()[N - 1] == 1.0f;
}
template <bool BUGGY> static bool too_many_threads(void) { return fill_with(dim3(1), dim3(BUGGY ? 1056 : 1024), 0); }
template <bool BUGGY> static bool too_many_rows_of_blocks(void) { return fill_with(dim3(1, BUGGY ? 65536 : 1), dim3(32), 0); }
template <bool BUGGY> static bool no_blocks(void) { return fill_with(dim3(BUGGY ? 0 : 1), dim3(32), 0); }
template <bool BUGGY> static bool shared_memory_not_allowed(void)
{
    cudaError_t e = BUGGY ? cudaSuccess : cudaFuncSetAttribute((const void *)fill, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10);
    bool right = fill_with(dim3(1), dim3(32), 64 << 10);
    MUST(cudaFuncSetAttribute((const void *)fill, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 << 10));
    return right && e == cudaSuccess;
}

// ---- streams and events ----

template <bool BUGGY> static bool no_event_between_streams(void)
{
    device<float> a(N), b(N), c(N);
    stream first, second;
    cudaEvent_t event;
    MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    a.clear();
    b.clear();
    MUST(cudaDeviceSynchronize());
    launch_add(b.p, a.p, 1.0f, first.s);
    MUST(cudaEventRecord(event, first.s));
    if (!BUGGY)
        MUST(cudaStreamWaitEvent(second.s, event, 0));
    launch_add(c.p, b.p, 1.0f, second.s);
    second.wait();
    bool right = c.get()[0] == 2.0f;
    first.wait();
    MUST(cudaEventDestroy(event));
    return right;
}

template <bool BUGGY> static bool event_recorded_too_early(void)
{
    device<float> a(N), b(N), c(N);
    stream first, second;
    cudaEvent_t event;
    MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    a.clear();
    b.clear();
    MUST(cudaDeviceSynchronize());
    if (BUGGY)
        MUST(cudaEventRecord(event, first.s));
    launch_add(b.p, a.p, 1.0f, first.s);
    if (!BUGGY)
        MUST(cudaEventRecord(event, first.s));
    MUST(cudaStreamWaitEvent(second.s, event, 0));
    launch_add(c.p, b.p, 1.0f, second.s);
    second.wait();
    bool right = c.get()[0] == 2.0f;
    first.wait();
    MUST(cudaEventDestroy(event));
    return right;
}

// The null stream waits for no stream that does not block.
template <bool BUGGY> static bool result_read_by_null_stream(void)
{
    device<float> a(N), b(N);
    stream s;
    a.clear();
    b.clear();
    MUST(cudaDeviceSynchronize());
    launch_add(b.p, a.p, 1.0f, s.s);
    if (!BUGGY)
        s.wait();
    bool right = b.get()[0] == 1.0f;
    s.wait();
    return right;
}

template <bool BUGGY> static bool host_reads_too_early(void)
{
    device<float> a(N), b(N);
    stream s;
    float *pinned;
    MUST(cudaMallocHost((void **)&pinned, N * sizeof(float)));
    memset(pinned, 0, N * sizeof(float));
    a.clear();
    MUST(cudaDeviceSynchronize());
    launch_add(b.p, a.p, 1.0f, s.s);
    MUST(cudaMemcpyAsync(pinned, b.p, N * sizeof(float), cudaMemcpyDeviceToHost, s.s));
    if (!BUGGY)
        s.wait();
    bool right = pinned[0] == 1.0f;
    s.wait();
    MUST(cudaFreeHost(pinned));
    return right;
}

// Two pinned buffers take turns; before one is written again, its copy must have been made.
template <bool BUGGY> static bool pinned_buffer_reused(void)
{
    device<float> in(N), out(4 * N);
    stream s;
    float *pinned[2];
    cudaEvent_t copied[2];
    for (int i = 0; i < 2; i++) {
        MUST(cudaMallocHost((void **)&pinned[i], N * sizeof(float)));
        MUST(cudaEventCreateWithFlags(&copied[i], cudaEventDisableTiming));
    }
    for (int step = 0; step < 4; step++) {
        int k = step % 2;
        if (!BUGGY && step >= 2)
            MUST(cudaEventSynchronize(copied[k]));
        for (int i = 0; i < N; i++)
            pinned[k][i] = (float)(10 * step);
        MUST(cudaMemcpyAsync(in.p, pinned[k], N * sizeof(float), cudaMemcpyHostToDevice, s.s));
        MUST(cudaEventRecord(copied[k], s.s));
        launch_add(out.p + N * step, in.p, 1.0f, s.s);
    }
    s.wait();
    auto got = out.get();
    for (int i = 0; i < 2; i++) {
        MUST(cudaFreeHost(pinned[i]));
        MUST(cudaEventDestroy(copied[i]));
    }
    return got[0] == 1.0f && got[N] == 11.0f && got[2 * N] == 21.0f && got[3 * N] == 31.0f;
}

// A page goes to its next owner only after the last step that reads it.
template <bool BUGGY> static bool page_reused_early(void)
{
    device<float> page(N), out(N);
    stream steps, owner;
    cudaEvent_t done;
    MUST(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    page.put(count_up<float>(N));
    MUST(cudaDeviceSynchronize());
    launch_add(out.p, page.p, 1.0f, steps.s);
    MUST(cudaEventRecord(done, steps.s));
    if (!BUGGY)
        MUST(cudaStreamWaitEvent(owner.s, done, 0));
    MUST(cudaMemsetAsync(page.p, 0, N * sizeof(float), owner.s));
    owner.wait();
    steps.wait();
    bool right = out.get()[7] == 8.0f;
    MUST(cudaEventDestroy(done));
    return right;
}

// ---- captures and graphs ----

// Captures out = in + x with whatever `during` does, and tells whether the graph came to be and gives the right result.
template <class F> static bool capture(F during, cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal)
{
    device<float> in(N), out(N);
    stream s;
    in.clear();
    out.clear();
    MUST(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamBeginCapture(s.s, mode));
    launch_add(out.p, in.p, 1.0f, s.s);
    during(s.s, in.p);
    if (cudaStreamEndCapture(s.s, &graph) != cudaSuccess)
        return false;
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cudaGraphLaunch(exec, s.s));
    s.wait();
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    return out.get()[0] == 1.0f;
}
template <bool BUGGY> static bool malloc_in_capture(void)
{
    void *p = NULL;
    bool right = capture([&p](cudaStream_t, float *) {
        if (BUGGY)
            cudaMalloc(&p, 64);
    });
    cudaFree(p);
    return right;
}
template <bool BUGGY> static bool synchronize_in_capture(void)
{
    return capture([](cudaStream_t s, float *) {
        if (BUGGY)
            cudaStreamSynchronize(s);
    });
}
template <bool BUGGY> static bool plain_copy_in_capture(void)
{
    float h = 0;
    return capture([&h](cudaStream_t, float *in) {
        if (BUGGY)
            cudaMemcpy(in, &h, sizeof h, cudaMemcpyHostToDevice);
    });
}
template <bool BUGGY> static bool pageable_copy_in_capture(void)
{
    std::vector<float> h(N);
    return capture([&h](cudaStream_t s, float *in) {
        if (BUGGY)
            cudaMemcpyAsync(in, h.data(), N * sizeof(float), cudaMemcpyHostToDevice, s);
    });
}
template <bool BUGGY> static bool fork_not_joined(void)
{
    stream other;
    device<float> side(N);
    cudaEvent_t fork, join;
    MUST(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    MUST(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    bool right = capture([&](cudaStream_t s, float *in) {
        MUST(cudaEventRecord(fork, s));
        MUST(cudaStreamWaitEvent(other.s, fork, 0));
        launch_add(side.p, in, 2.0f, other.s);
        MUST(cudaEventRecord(join, other.s));
        if (!BUGGY)
            MUST(cudaStreamWaitEvent(s, join, 0));
    });
    MUST(cudaEventDestroy(fork));
    MUST(cudaEventDestroy(join));
    return right;
}

// Two nodes of a graph that no edge orders, although the second reads what the first writes.
template <bool BUGGY> static bool edge_missing_in_graph(void)
{
    stream s, other;
    device<float> a(N), b(N), c(N);
    cudaEvent_t fork, join;
    MUST(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    MUST(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    a.clear();
    b.clear();
    MUST(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeThreadLocal));
    if (BUGGY)
        MUST(cudaEventRecord(fork, s.s));
    launch_add(b.p, a.p, 1.0f, s.s);
    if (!BUGGY)
        MUST(cudaEventRecord(fork, s.s));
    MUST(cudaStreamWaitEvent(other.s, fork, 0));
    launch_add(c.p, b.p, 1.0f, other.s);
    MUST(cudaEventRecord(join, other.s));
    MUST(cudaStreamWaitEvent(s.s, join, 0));
    MUST(cudaStreamEndCapture(s.s, &graph));
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cudaGraphLaunch(exec, s.s));
    s.wait();
    bool right = c.get()[0] == 2.0f;
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaEventDestroy(fork));
    MUST(cudaEventDestroy(join));
    return right;
}

// A graph keeps the arguments of its launches; what changes from step to step lies in device memory.
__global__ void add_number(float *out, float x, const float *y)
{
    out[threadIdx.x] = x + *y;
}
template <bool BUGGY> static bool argument_changed_after_capture(void)
{
    stream s;
    device<float> out(32), y(1);
    float x = 1.0f;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    y.clear();
    MUST(cudaDeviceSynchronize());
    MUST(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeThreadLocal));
    LAUNCH(add_number, dim3(1), dim3(32), 0, s.s, out.p, x, (const float *)y.p);
    MUST(cudaStreamEndCapture(s.s, &graph));
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cudaGraphLaunch(exec, s.s));
    s.wait();
    if (BUGGY)
        x = 5.0f; // who thinks that the graph reads it
    else
        y.put({4.0f});
    MUST(cudaGraphLaunch(exec, s.s));
    s.wait();
    bool right = out.get()[0] == (BUGGY ? x : 5.0f);
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    return right;
}

template <bool BUGGY> static bool buffer_freed_under_graph(void)
{
    stream s;
    device<float> out(N);
    float *in;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MUST(cudaMalloc((void **)&in, N * sizeof(float)));
    MUST(cudaMemset(in, 0, N * sizeof(float)));
    MUST(cudaDeviceSynchronize());
    MUST(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeThreadLocal));
    launch_add(out.p, in, 1.0f, s.s);
    MUST(cudaStreamEndCapture(s.s, &graph));
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    if (BUGGY)
        MUST(cudaFree(in));
    MUST(cudaGraphLaunch(exec, s.s));
    s.wait();
    if (!BUGGY)
        MUST(cudaFree(in));
    bool right = out.get()[0] == 1.0f;
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    return right;
}

// ---- failures ----

template <bool BUGGY> static bool malloc_not_checked(void)
{
    float *p = NULL;
    device<float> in(N);
    in.clear();
    emulator_fail_malloc_at(BUGGY ? 1 : 0);
    cudaMalloc((void **)&p, N * sizeof(float));
    launch_add(p, in.p, 1.0f, NULL);
    bool right = cudaDeviceSynchronize() == cudaSuccess;
    cudaFree(p);
    return right;
}

const struct bug host_bugs[] = {
    BUG(host_pointer), BUG(host_pointer_in_struct), BUG(use_after_free), BUG(double_free), BUG(copy_past_buffer), BUG(copy_past_host_buffer),
    BUG(copy_the_wrong_way), BUG(host_follows_device_pointer),
    BUG(too_many_threads), BUG(too_many_rows_of_blocks), BUG(no_blocks), BUG(shared_memory_not_allowed),
    BUG(no_event_between_streams), BUG(event_recorded_too_early), BUG(result_read_by_null_stream), BUG(host_reads_too_early),
    BUG(pinned_buffer_reused), BUG(page_reused_early),
    BUG(malloc_in_capture), BUG(synchronize_in_capture), BUG(plain_copy_in_capture), BUG(pageable_copy_in_capture), BUG(fork_not_joined),
    BUG(edge_missing_in_graph), BUG(argument_changed_after_capture), BUG(buffer_freed_under_graph),
    BUG(malloc_not_checked),
};
const int n_host_bugs = sizeof host_bugs / sizeof host_bugs[0];

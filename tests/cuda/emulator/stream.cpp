// stream.cpp: streams, events, captures and graphs.
//
// A stream is a queue of operations that nobody has run. They run when somebody synchronises with the stream, or, by the schedule, earlier: a program
// that forgot an event, reads a result early or changes a pinned source too soon gives different results, and under the forward schedule, where
// everything is as late as it can be, wrong ones.
//
// An event is a record: a mark in one stream's queue. Waiting for it takes the mark as it is at the time of the call, as on a device.
//
// While a stream captures, operations become nodes of a graph, each with the nodes it comes after; a launch of the graph runs them in an order that
// those permit, chosen by the schedule. Arguments were frozen when the operation was captured.
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <deque>
#include <thread>
#include <vector>

#include "internal.h"

#define MAX_PENDING (1 << 20)

typedef std::function<void()> work;

struct node {
    work run;
    std::vector<int> after;
};
struct graph_nodes {
    std::vector<node> nodes;
};
struct capture {
    std::shared_ptr<graph_nodes> graph;
    cudaStreamCaptureMode mode;
    std::thread::id owner;
    CUstream_st *origin;
    cudaError_t invalid; // cudaSuccess while it is good
};
struct mark {
    CUstream_st *stream; // NULL once it was passed
    double passed_s;
    // In a capture: what the event stands for.
    std::shared_ptr<struct capture> capture;
    std::vector<int> tail;
};
struct CUstream_st {
    bool is_blocking;
    std::deque<work> pending;
    std::shared_ptr<struct capture> capture;
    std::vector<int> tail; // the nodes that the next one comes after
    bool draining;
};
struct CUevent_st {
    std::shared_ptr<mark> last; // NULL: never recorded
    bool timed;
};
struct CUgraph_st {
    std::shared_ptr<graph_nodes> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<const graph_nodes> nodes;
};

static CUstream_st null_stream = {true, {}, nullptr, {}, false};
static std::vector<CUstream_st *> streams = {&null_stream};
static std::vector<CUevent_st *> events;
static std::vector<CUgraph_st *> graphs;
static std::vector<CUgraphExec_st *> execs;
static int depth; // of drain()s: the outermost opens and closes the device's memory

template <class T> static bool is_known(const std::vector<T *> &all, T *one)
{
    return std::find(all.begin(), all.end(), one) != all.end();
}

template <class T> static void forget(std::vector<T *> &all, T *one)
{
    all.erase(std::find(all.begin(), all.end(), one));
    delete one;
}

static CUstream_st *resolve(cudaStream_t s)
{
    return s ? is_known(streams, s) ? s : NULL : &null_stream;
}

// ---- running ----

static void run_one(CUstream_st *s)
{
    work w = std::move(s->pending.front());
    s->pending.pop_front();
    s->draining = true;
    if (depth++ == 0)
        emu_open_memory();
    w();
    if (--depth == 0)
        emu_close_memory();
    s->draining = false;
}

static void drain(CUstream_st *s)
{
    if (depth++ == 0)
        emu_open_memory();
    while (!s->pending.empty() && !s->draining)
        run_one(s);
    if (--depth == 0)
        emu_close_memory();
}

static void drain_until(const std::shared_ptr<mark> &m)
{
    while (m->stream && !m->stream->pending.empty() && !m->stream->draining)
        run_one(m->stream);
}

// Somebody synchronises with s: what else may have happened by then?
static void drain_for(CUstream_st *s)
{
    if (emu_schedule == EMULATOR_REVERSE)
        for (size_t i = streams.size(); i-- > 0;)
            drain(streams[i]);
    if (emu_schedule == EMULATOR_RANDOM)
        while (!s->pending.empty() && !s->draining) {
            CUstream_st *any = streams[emu_random() % streams.size()];
            if (!any->pending.empty() && !any->draining)
                run_one(any);
        }
    drain(s);
}

void emu_synchronize_all(void)
{
    for (size_t i = 0; i < streams.size(); i++)
        drain(streams[emu_schedule == EMULATOR_REVERSE ? streams.size() - 1 - i : i]);
}

void emu_maybe_progress(void)
{
    if (emu_schedule != EMULATOR_RANDOM || depth)
        return;
    for (int i = (int)(emu_random() % 4); i > 0; i--) {
        CUstream_st *s = streams[emu_random() % streams.size()];
        if (!s->pending.empty())
            run_one(s);
    }
}

void emu_drop_streams(void)
{
    for (CUstream_st *s : streams) {
        s->pending.clear();
        s->capture = NULL;
        s->tail.clear();
    }
    for (CUevent_st *e : events)
        e->last = NULL;
}

// An operation of the device: nothing after a fault.
static work device_work(work w)
{
    return [w] {
        if (emu_sticky() == cudaSuccess && !emu_operation_faults())
            w();
    };
}

static std::shared_ptr<mark> mark_end(CUstream_st *s)
{
    auto m = std::make_shared<mark>();
    m->stream = s;
    m->passed_s = 0;
    s->pending.push_back([m] {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        m->stream = NULL;
        m->passed_s = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    });
    return m;
}

static void wait_for(CUstream_st *s, std::shared_ptr<mark> m)
{
    if (m->stream && m->stream != s)
        s->pending.push_back([m] { drain_until(m); });
}

// The legacy null stream and blocking streams wait for each other.
static void order_with_null(CUstream_st *s)
{
    if (s == &null_stream) {
        for (CUstream_st *other : streams)
            if (other != s && other->is_blocking && !other->pending.empty())
                wait_for(s, mark_end(other));
    } else if (s->is_blocking && !null_stream.pending.empty()) {
        wait_for(s, mark_end(&null_stream));
    }
}

// ---- captures ----

static cudaError_t invalidate(const std::shared_ptr<struct capture> &c, cudaError_t why)
{
    if (c->invalid == cudaSuccess)
        c->invalid = why;
    return emu_error(why);
}

cudaError_t emu_capture_forbids(void)
{
    for (CUstream_st *s : streams)
        if (s->capture && s->capture->mode != cudaStreamCaptureModeRelaxed &&
            (s->capture->mode == cudaStreamCaptureModeGlobal || s->capture->owner == std::this_thread::get_id()))
            return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    return cudaSuccess;
}

// The null stream cannot be used while a stream that waits for it captures.
static cudaError_t null_stream_forbidden(const CUstream_st *s)
{
    if (s == &null_stream)
        for (CUstream_st *other : streams)
            if (other->capture && other->is_blocking)
                return invalidate(other->capture, cudaErrorStreamCaptureImplicit);
    return cudaSuccess;
}

static cudaError_t push(CUstream_st *s, work w)
{
    if (!s)
        return emu_error(cudaErrorInvalidResourceHandle);
    cudaError_t e = null_stream_forbidden(s);
    if (e != cudaSuccess)
        return e;
    if (s->capture) {
        if (s->capture->invalid != cudaSuccess)
            return emu_error(cudaErrorStreamCaptureInvalidated);
        auto &nodes = s->capture->graph->nodes;
        nodes.push_back({std::move(w), s->tail});
        s->tail.assign(1, (int)nodes.size() - 1);
        return cudaSuccess;
    }
    if (s->pending.size() >= MAX_PENDING)
        emu_die("more than %d operations pending in a stream that nobody waits for", MAX_PENDING);
    order_with_null(s);
    s->pending.push_back(std::move(w));
    emu_maybe_progress();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!s)
        return emu_error(cudaErrorInvalidResourceHandle);
    if (s == &null_stream)
        return emu_error(cudaErrorStreamCaptureUnsupported);
    if (s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    s->capture = std::make_shared<struct capture>(
        capture{std::make_shared<graph_nodes>(), mode, std::this_thread::get_id(), s, cudaSuccess});
    s->tail.clear();
    return cudaSuccess;
}

static void mark_ancestors(const graph_nodes &g, int i, std::vector<bool> &seen)
{
    if (seen[(size_t)i])
        return;
    seen[(size_t)i] = true;
    for (int j : g.nodes[(size_t)i].after)
        mark_ancestors(g, j, seen);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph_out)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!s || !s->capture)
        return emu_error(cudaErrorInvalidValue);
    std::shared_ptr<struct capture> c = s->capture;
    if (c->origin != s)
        return invalidate(c, cudaErrorStreamCaptureUnmatched);
    if (c->mode != cudaStreamCaptureModeRelaxed && c->owner != std::this_thread::get_id())
        return emu_error(cudaErrorStreamCaptureWrongThread);
    std::vector<bool> joined(c->graph->nodes.size());
    for (int i : s->tail)
        mark_ancestors(*c->graph, i, joined);
    cudaError_t e = c->invalid == cudaSuccess ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
    for (CUstream_st *other : streams)
        if (other->capture == c) {
            for (int i : other->tail)
                if (e == cudaSuccess && !joined[(size_t)i])
                    e = cudaErrorStreamCaptureUnjoined;
            other->capture = NULL;
            other->tail.clear();
        }
    if (e != cudaSuccess) {
        *graph_out = NULL;
        return emu_error(e);
    }
    graphs.push_back(new CUgraph_st{c->graph});
    emu_counts.n_graphs++;
    *graph_out = graphs.back();
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status_out)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!s)
        return emu_error(cudaErrorInvalidResourceHandle);
    *status_out = !s->capture                         ? cudaStreamCaptureStatusNone
                  : s->capture->invalid == cudaSuccess ? cudaStreamCaptureStatusActive
                                                       : cudaStreamCaptureStatusInvalidated;
    return cudaSuccess;
}

// ---- graphs ----

static bool known_graph(cudaGraph_t g) { return is_known(graphs, g); }
static bool known_exec(cudaGraphExec_t g) { return is_known(execs, g); }

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes_out, size_t *n_nodes)
{
    EMU_ENTER(EMU_ANY);
    if (!known_graph(graph) || !n_nodes)
        return emu_error(cudaErrorInvalidValue);
    if (nodes_out)
        return emu_error(cudaErrorNotSupported);
    *n_nodes = graph->nodes->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec_out, cudaGraph_t graph, unsigned long long flags)
{
    EMU_ENTER(EMU_ANY);
    if (!known_graph(graph) || flags != 0)
        return emu_error(cudaErrorInvalidValue);
    execs.push_back(new CUgraphExec_st{std::make_shared<const graph_nodes>(*graph->nodes)});
    *exec_out = execs.back();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    return known_exec(exec) && resolve(stream) ? cudaSuccess : emu_error(cudaErrorInvalidValue);
}

static void run_graph(const graph_nodes &g)
{
    size_t n = g.nodes.size();
    std::vector<bool> done(n);
    emu_counts.n_graph_launches++;
    for (size_t k = 0; k < n; k++) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < n && (emu_schedule != EMULATOR_FORWARD || ready.empty()); i++) {
            const auto &after = g.nodes[i].after;
            if (!done[i] && std::all_of(after.begin(), after.end(), [&](int j) { return done[(size_t)j]; }))
                ready.push_back(i);
        }
        size_t i = emu_schedule == EMULATOR_RANDOM ? ready[emu_random() % ready.size()] : ready.back();
        done[i] = true;
        emu_counts.n_graph_nodes++;
        g.nodes[i].run();
    }
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!known_exec(exec))
        return emu_error(cudaErrorInvalidValue);
    if (s && s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    auto nodes = exec->nodes;
    return push(s, [nodes] { run_graph(*nodes); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (!known_graph(graph))
        return emu_error(cudaErrorInvalidValue);
    emu_counts.n_graphs--;
    forget(graphs, graph);
    return emu_sticky();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (!known_exec(exec))
        return emu_error(cudaErrorInvalidValue);
    forget(execs, exec);
    return emu_sticky();
}

// ---- streams ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream_out, unsigned int flags)
{
    EMU_ENTER(EMU_ANY);
    if (flags & ~(unsigned)cudaStreamNonBlocking)
        return emu_error(cudaErrorInvalidValue);
    streams.push_back(new CUstream_st{!(flags & cudaStreamNonBlocking), {}, nullptr, {}, false});
    emu_counts.n_streams++;
    *stream_out = streams.back();
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream_out)
{
    return cudaStreamCreateWithFlags(stream_out, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (!stream || !is_known(streams, stream))
        return emu_error(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        invalidate(stream->capture, cudaErrorStreamCaptureInvalidated);
    drain(stream);
    emu_counts.n_streams--;
    forget(streams, stream);
    return emu_sticky();
}

// Waiting for a stream that captures is an error in every mode.
static cudaError_t may_wait(CUstream_st *s)
{
    if (!s)
        return emu_error(cudaErrorInvalidResourceHandle);
    if (s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    return null_stream_forbidden(s);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    cudaError_t e = may_wait(s);
    if (e != cudaSuccess)
        return e;
    order_with_null(s);
    drain_for(s);
    return emu_sticky();
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    cudaError_t e = may_wait(s);
    if (e != cudaSuccess)
        return e;
    // Whoever polls gets on: one operation per question.
    if (!s->pending.empty())
        run_one(s);
    return emu_sticky() != cudaSuccess ? emu_sticky() : s->pending.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    EMU_ENTER(EMU_UNSAFE);
    for (CUstream_st *s : streams)
        if (s->capture)
            return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    emu_synchronize_all();
    return emu_sticky();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    EMU_ENTER(EMU_ANY);
    return push(resolve(stream), [fn, arg] { fn(arg); });
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event_out, unsigned int flags)
{
    EMU_ENTER(EMU_ANY);
    events.push_back(new CUevent_st{nullptr, !(flags & cudaEventDisableTiming)});
    emu_counts.n_events++;
    *event_out = events.back();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event_out)
{
    return cudaEventCreateWithFlags(event_out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (!event || !is_known(events, event))
        return emu_error(cudaErrorInvalidResourceHandle);
    emu_counts.n_events--;
    forget(events, event);
    return emu_sticky();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!s || !event || !is_known(events, event))
        return emu_error(cudaErrorInvalidResourceHandle);
    cudaError_t e = null_stream_forbidden(s);
    if (e != cudaSuccess)
        return e;
    if (s->capture) {
        if (s->capture->invalid != cudaSuccess)
            return emu_error(cudaErrorStreamCaptureInvalidated);
        event->last = std::make_shared<mark>();
        event->last->stream = NULL;
        event->last->capture = s->capture;
        event->last->tail = s->tail;
        return cudaSuccess;
    }
    order_with_null(s);
    event->last = mark_end(s);
    emu_maybe_progress();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    EMU_ENTER(EMU_ANY);
    CUstream_st *s = resolve(stream);
    if (!s || !event || !is_known(events, event))
        return emu_error(cudaErrorInvalidResourceHandle);
    if (flags)
        return emu_error(cudaErrorInvalidValue);
    std::shared_ptr<mark> m = event->last;
    if (!m)
        return cudaSuccess; // as on a device: an event that was never recorded holds nobody up
    if (m->capture && m->capture->origin && m->capture->origin->capture == m->capture) {
        if (s == &null_stream)
            return invalidate(m->capture, cudaErrorStreamCaptureImplicit);
        if (s->capture && s->capture != m->capture)
            return invalidate(s->capture, cudaErrorStreamCaptureMerge);
        s->capture = m->capture;
        for (int i : m->tail)
            if (std::find(s->tail.begin(), s->tail.end(), i) == s->tail.end())
                s->tail.push_back(i);
        return cudaSuccess;
    }
    if (s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureIsolation);
    wait_for(s, m);
    return cudaSuccess;
}

static cudaError_t may_ask(cudaEvent_t event)
{
    if (!event || !is_known(events, event))
        return emu_error(cudaErrorInvalidResourceHandle);
    if (event->last && event->last->capture) {
        if (event->last->capture->origin->capture == event->last->capture)
            return invalidate(event->last->capture, cudaErrorCapturedEvent);
        return emu_error(cudaErrorCapturedEvent);
    }
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    EMU_ENTER(EMU_UNSAFE);
    cudaError_t e = may_ask(event);
    if (e != cudaSuccess)
        return e;
    if (event->last)
        drain_until(event->last);
    return emu_sticky();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    EMU_ENTER(EMU_UNSAFE);
    cudaError_t e = may_ask(event);
    if (e != cudaSuccess)
        return e;
    if (event->last && event->last->stream && !event->last->stream->pending.empty())
        run_one(event->last->stream);
    return emu_sticky() != cudaSuccess ? emu_sticky() : event->last && event->last->stream ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms_out, cudaEvent_t start, cudaEvent_t end)
{
    EMU_ENTER(EMU_ANY);
    if (!start || !end || !is_known(events, start) || !is_known(events, end) || !start->last || !end->last || !start->timed || !end->timed)
        return emu_error(cudaErrorInvalidResourceHandle);
    if (start->last->stream || end->last->stream)
        return cudaErrorNotReady;
    *ms_out = (float)((end->last->passed_s - start->last->passed_s) * 1e3);
    return cudaSuccess;
}

// ---- kernels ----

static bool fits(const emu_call &c)
{
    uint64_t threads = (uint64_t)c.block.x * c.block.y * c.block.z;
    return c.grid.x && c.grid.y && c.grid.z && c.grid.x <= 0x7fffffffu && c.grid.y <= 65535 && c.grid.z <= 65535 && threads && threads <= 1024 &&
           c.block.x <= 1024 && c.block.y <= 1024 && c.block.z <= 64 && c.shared_bytes <= emu_allowed_shared(c.function);
}

void emu_launch(std::shared_ptr<emu_call> call, cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);
    if (emu_enter(EMU_ANY) != cudaSuccess)
        return;
    if (!fits(*call)) {
        emu_error(cudaErrorInvalidConfiguration);
        return;
    }
    std::shared_ptr<const emu_call> c = call;
    push(resolve(stream), device_work([c] {
             c->check();
             emu_run_grid(*c);
         }));
}

// ---- copies ----

struct copy {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, n_rows;
};

static size_t reach(size_t pitch, const copy &c)
{
    return c.n_rows ? (c.n_rows - 1) * pitch + c.width : 0;
}

static void must_hold(const void *p, size_t n_bytes, const char *what)
{
    if (emu_holds(EMU_DEVICE, p, n_bytes))
        return;
    emu_describe(p);
    emu_die("a copy of %zu bytes: the %s is not within one device buffer", n_bytes, what);
}

static void run_copy(const copy &c, bool to_device, bool from_device)
{
    if (to_device)
        must_hold(c.to, reach(c.to_pitch, c), "target");
    if (from_device)
        must_hold(c.from, reach(c.from_pitch, c), "source");
    emu_counts.n_copies++;
    if (!from_device)
        emu_counts.copied_to_device_bytes += c.width * c.n_rows;
    if (!to_device)
        emu_counts.copied_to_host_bytes += c.width * c.n_rows;
    for (size_t i = 0; i < c.n_rows; i++)
        memmove(c.to + i * c.to_pitch, c.from + i * c.from_pitch, c.width);
}

// A source that is not pinned is copied at the call, a target that is not pinned is waited for: so CUDA does, and so neither can be captured.
static cudaError_t copy_async(copy c, enum cudaMemcpyKind kind, CUstream_st *s)
{
    if (!s)
        return emu_error(cudaErrorInvalidResourceHandle);
    if (c.width == 0 || c.n_rows == 0)
        return cudaSuccess;
    if (kind == cudaMemcpyDefault || kind == cudaMemcpyHostToHost)
        return emu_error(cudaErrorNotSupported);
    if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice)
        return emu_error(cudaErrorInvalidMemcpyDirection);
    bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
    const char *host = to_device ? from_device ? NULL : c.from : c.to;
    bool pageable = host && !emu_holds(EMU_PINNED, host, reach(to_device ? c.from_pitch : c.to_pitch, c));
    if (host && (emu_holds(EMU_DEVICE, host, 1) || (pageable && emu_holds(EMU_PINNED, host, 1))))
        return emu_error(cudaErrorInvalidValue);
    if (pageable && s->capture)
        return invalidate(s->capture, cudaErrorStreamCaptureUnsupported);
    std::shared_ptr<std::vector<char>> staged;
    if (pageable && to_device) {
        staged = std::make_shared<std::vector<char>>(c.from, c.from + reach(c.from_pitch, c));
        c.from = staged->data();
    }
    cudaError_t e = push(s, device_work([c, staged, to_device, from_device] { run_copy(c, to_device, from_device); }));
    if (e != cudaSuccess)
        return e;
    if (pageable && !to_device) {
        drain_for(s);
        return emu_sticky();
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    return copy_async({(char *)to, (const char *)from, n_bytes, n_bytes, n_bytes, 1}, kind, resolve(stream));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width_bytes, size_t n_rows,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    if (width_bytes > to_pitch || width_bytes > from_pitch)
        return emu_error(cudaErrorInvalidValue);
    return copy_async({(char *)to, (const char *)from, to_pitch, from_pitch, width_bytes, n_rows}, kind, resolve(stream));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind)
{
    EMU_ENTER(EMU_UNSAFE);
    cudaError_t e = copy_async({(char *)to, (const char *)from, n_bytes, n_bytes, n_bytes, 1}, kind, &null_stream);
    if (e != cudaSuccess)
        return e;
    drain_for(&null_stream);
    return emu_sticky();
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream)
{
    EMU_ENTER(EMU_ANY);
    if (n_bytes == 0)
        return cudaSuccess;
    return push(resolve(stream), device_work([to, value, n_bytes] {
                    must_hold(to, n_bytes, "target");
                    memset(to, value, n_bytes);
                }));
}

cudaError_t cudaMemset(void *to, int value, size_t n_bytes)
{
    {
        EMU_ENTER(EMU_UNSAFE);
    }
    return cudaMemsetAsync(to, value, n_bytes, NULL);
}

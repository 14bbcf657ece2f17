/* cuda_graph.c: decode steps as graphs, captured once and launched whole.
 *
 * A step of one row a sequence is a few hundred short kernels, and launching them one by one would take longer than running them. So embed and all
 * layers are captured when the model has been loaded, for 1, 2, 4 ... 256 rows; a step takes the next larger one, whose other rows are padding. A
 * graph's arguments are frozen: what differs between its steps is in device memory, at places that never move, written by begin(). Nothing of a graph
 * knows how long the sequences are, as attention takes its items from a list, so all exist before the first request: one for each number of rows, and
 * from where rows keep the device busy by themselves a second one, in which a block attends a row whole (attend.cu). Steps with more rows, or with
 * prompts in them, are launched operation by operation; their kernels are long.
 *
 * Outside of the graph remain begin()'s copy and the scores, which not every step wants of every row.
 *
 * Device "cuda:0:eager" captures nothing: the bits are the same, which tests show. */
#include <assert.h>
#include <time.h>

#include "engine/backend/cuda/cuda.h"

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void cuda_plan_captures(struct cuda *c)
{
    int n = 0;
    for (int rows = 1; rows <= c->shape.max_rows && rows <= CUDA_MAX_ROWS && !c->eager; rows *= 2)
        for (int whole = 0; whole < 2; whole++)
            if (whole == 0 || cuda_attends_whole(c, rows, rows, 1)) {
                c->captures.kind[n].n_rows = rows;
                c->captures.kind[n++].whole = whole;
            }
    assert(n <= CUDA_CAPTURES);
    c->captures.n_kinds = n;
}

bool cuda_capture(struct backend *be, int i)
{
    struct cuda *c = cuda_of(be);
    assert(i == c->captures.n && !c->capturing);
    size_t total = 0;
    if (i == c->captures.n_kinds)
        return false;
    const int n_rows = c->captures.kind[i].n_rows;
    long most = (long)n_rows * c->tables.max_pages;
    c->batch = cuda_batch_of(c);
    c->batch.n_rows = c->batch.n_splits = n_rows;
    c->batch.max_items = most < c->shape.n_pages ? (int)most : c->shape.n_pages;
    c->live = n_rows > 2 ? cuda_live(c) : NULL; /* of 1 or 2 rows none is padding */
    c->whole = c->captures.kind[i].whole;
    c->n_tables = ROPE_TABLES;
    c->posts = c->ropes = false;
    if (cuda_enter(c) && cuda_check(c, cudaMemGetInfo(&c->captures.free_bytes, &total), "asking for its memory")) {
        c->captures.began_ms = now_ms();
        c->capturing = cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "capturing a step");
    }
    return true;
}

int cuda_captured(struct backend *be, struct err *err)
{
    struct cuda *c = cuda_of(be);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t *exec = &c->captures.exec[c->captures.n];
    size_t n_nodes = 0, left = 0, total = 0;
    cuda_finish_post(c);
    if (c->capturing)
        cuda_check(c, cudaStreamEndCapture(c->stream, &graph), "capturing a step"); /* also where a launch failed: it ends the capture */
    c->capturing = false;
    c->live = NULL;
    if (!c->lost && cuda_check(c, cudaGraphGetNodes(graph, NULL, &n_nodes), "capturing a step") &&
        cuda_check(c, cudaGraphInstantiateWithFlags(exec, graph, 0), "preparing a captured step") &&
        cuda_check(c, cudaGraphUpload(*exec, c->stream), "preparing a captured step") &&
        cuda_check(c, cudaStreamSynchronize(c->stream), "preparing a captured step") &&
        cuda_check(c, cudaMemGetInfo(&left, &total), "asking for its memory")) {
        c->captures.n++;
        c->captures.sum.n++;
        c->captures.sum.n_nodes = (int)n_nodes;
        c->captures.sum.ms += now_ms() - c->captures.began_ms;
        c->captures.sum.n_bytes += left < c->captures.free_bytes ? c->captures.free_bytes - left : 0;
    }
    if (graph != NULL)
        cudaGraphDestroy(graph);
    if (c->lost)
        *err = c->why;
    return c->lost ? -1 : 0;
}

bool cuda_replay(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    if (c->lost || c->replay < 0)
        return false;
    cuda_check(c, cudaGraphLaunch(c->captures.exec[c->replay], c->stream), "launching a captured step");
    return true;
}

struct captures cuda_captures(const struct backend *be)
{
    return ((const struct cuda *)be)->captures.sum;
}

void cuda_close_graphs(struct cuda *c)
{
    for (int i = 0; i < CUDA_CAPTURES; i++)
        if (c->captures.exec[i] != NULL)
            cudaGraphExecDestroy(c->captures.exec[i]);
}

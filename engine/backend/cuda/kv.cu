/* kv.cu: writes the KV pages: rope_store rotates the heads of a row and stores its keys and values, copy_page copies the start of a page. And the
 * page tables, which stay in device memory: only what changed comes with a step.
 *
 *   kv_      grid                                   threads
 *   rope     n_rows, (n_head + 2 n_kv) / 4           128, a warp a head
 *   copy     n_layers * n_kv                         128
 *   tables   the larger of n_changes / 128, n_splits  128, each some changes and a split
 *
 * A key's dimensions lie 8 by 8, 1 KiB apart, so that attention reads 16 bytes of each of 32 neighbouring keys at once; a store writes 16 bytes here
 * and there, once for each position. Rows at positions below 0 are padding: nothing is read or written for them. */
#include <assert.h>

#include "engine/backend/cuda/kv.cuh"

#define ROPE_THREADS 128
#define ROPE_WARPS (ROPE_THREADS / 32)

/* ---- rope_store ---- */

/* A warp has a head of q, k or v of a row. */
__global__ void __launch_bounds__(ROPE_THREADS) kv_rope(struct device_rope p)
{
    const int row = (int)blockIdx.x, head = (int)blockIdx.y * ROPE_WARPS + (int)threadIdx.x / 32;
    const int pos = p.batch.pos[row], n_kv = p.kv.n_kv, n = p.kv.head_dim;
    if (pos >= 0 && head < p.n_head + 2 * n_kv) {
        float *x = p.qkv + (size_t)row * (size_t)p.ld + (size_t)head * (size_t)n;
        const float *cs = p.cs + (size_t)row * (size_t)p.rope_dims;
        const int page = page_of(p.batch, row, pos / PAGE), t = pos % PAGE;
        if (head < p.n_head) {
            rope_head(p, x, p.q_norm, cs, NULL);
        } else if (head < p.n_head + n_kv) {
            rope_head(p, x, p.k_norm, cs, kv_head_at(p.kv, page, p.layer, head - p.n_head) + t * 8);
        } else {
            uint16_t *v = kv_head_at(p.kv, page, p.layer, head - p.n_head - n_kv) + PAGE * p.kv.head_pad + t * p.kv.head_pad;
            for (int d = (int)threadIdx.x % 32; d < n; d += 32)
                v[d] = num_f16_from_f32(x[d]);
        }
    }
}

extern "C" cudaError_t launch_rope_store(const struct device_rope *p, cudaStream_t stream)
{
    assert(p->batch.n_rows > 0 && p->rope_dims % 2 == 0 && p->rope_dims <= p->kv.head_dim);
    assert((p->q_norm == NULL) == (p->k_norm == NULL));
    const int n_heads = p->n_head + 2 * p->kv.n_kv;
    LAUNCH(kv_rope, dim3((unsigned)p->batch.n_rows, (unsigned)((n_heads + ROPE_WARPS - 1) / ROPE_WARPS)), dim3(ROPE_THREADS), 0, stream, *p);
    return cudaGetLastError();
}

/* ---- copy_page ---- */

/* A block has a kv head of a layer: K in pieces of 8 dimensions of a position, then V alike. */
__global__ void __launch_bounds__(128) kv_copy(struct device_kv kv, int dst, int src, int n_pos)
{
    const int layer = (int)blockIdx.x / kv.n_kv, head = (int)blockIdx.x % kv.n_kv, groups = kv.head_pad / 8;
    const uint4 *from = (const uint4 *)kv_head_at(kv, src, layer, head);
    uint4 *to = (uint4 *)kv_head_at(kv, dst, layer, head);
    for (int i = (int)threadIdx.x; i < groups * n_pos; i += 128) {
        const int at = i / n_pos * PAGE + i % n_pos;
        to[at] = from[at];
        to[groups * PAGE + i] = from[groups * PAGE + i];
    }
}

extern "C" cudaError_t launch_copy_page(const struct device_kv *kv, int dst, int src, int n_pos, cudaStream_t stream)
{
    assert(n_pos >= 0 && n_pos <= PAGE);
    if (n_pos == 0)
        return cudaSuccess;
    LAUNCH(kv_copy, dim3((unsigned)(kv->n_layers * kv->n_kv)), dim3(128), 0, stream, *kv, dst, src, n_pos);
    return cudaGetLastError();
}

/* ---- tables ---- */

#define TABLES_THREADS 128

__global__ void __launch_bounds__(TABLES_THREADS) kv_tables(struct device_batch b, const int32_t *changes, int n_changes)
{
    const int split = (int)blockIdx.x, me = (int)threadIdx.x, change = split * TABLES_THREADS + me;
    if (change < n_changes)
        b.pages[changes[2 * change]] = changes[2 * change + 1];
    const int row = split < b.n_splits ? b.splits[2 * split] : -1;
    if (row >= 0) {
        int32_t *items = b.items + 2 * (size_t)b.splits[2 * split + 1];
        for (int chunk = me; chunk <= b.pos[row] / PAGE; chunk += TABLES_THREADS) {
            items[2 * chunk] = row;
            items[2 * chunk + 1] = chunk;
        }
    }
}

extern "C" cudaError_t launch_tables(const struct device_batch *batch, const int32_t *changes, int n_changes, cudaStream_t stream)
{
    const int for_changes = (n_changes + TABLES_THREADS - 1) / TABLES_THREADS;
    const int n_blocks = for_changes > batch->n_splits ? for_changes : batch->n_splits;
    if (n_blocks == 0)
        return cudaSuccess;
    LAUNCH(kv_tables, dim3((unsigned)n_blocks), dim3(TABLES_THREADS), 0, stream, *batch, changes, n_changes);
    return cudaGetLastError();
}

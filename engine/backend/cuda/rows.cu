/* rows.cu: what a step does to rows one by one: embedding, norms, rope tables, activations to operands.
 *
 * A block of 256 threads has a row. The sum of squares of an RMS norm has one order (fold64 of numerics.h): 64 chains, value i in chain i mod 64. All
 * threads bring the row into shared memory with 16-byte loads, 64 of them run the chains there without bank conflicts, then every warp folds the 64
 * sums for itself, so that no thread waits for the factor. Rows longer than what is staged go through it piece by piece.
 *
 *   launch         grid                       shared
 *   launch_norm    n_rows                     256 B + 4 B a value, at most 32 KiB; launch_post and launch_post_norm the same
 *   launch_embed   n_rows, n_blocks / 8       -
 *   launch_angles  n_rows * n / 256           -
 *   launch_quantise n_rows, n_blocks / 32     -
 *
 * A row from *live on, or that `rows` numbers below 0, is padding: nothing is read or written for it. */
#include <assert.h>

#include "engine/backend/cuda/operand.cuh"
#include "engine/backend/cuda/weights.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define STAGED 8192 /* values; a multiple of 64, lest a chain change its thread */

static __device__ __forceinline__ bool is_live(const int32_t *live)
{
    return live == NULL || (int)blockIdx.x < *live;
}

/* The factor of the RMS norm of a row, for all threads. Of a row of no more than STAGED values, `staged` holds the values from then on. */
static __device__ __forceinline__ float row_factor(const float *x, int n, float eps, float *staged, float *sums)
{
    const int me = (int)threadIdx.x, lane = me % 32;
    float chain = 0.0f;
    for (int base = 0; base < n; base += STAGED) {
        const int m = n - base < STAGED ? n - base : STAGED;
        if (base > 0)
            __syncthreads();
        for (int i = OPERAND_QUAD * me; i < m; i += OPERAND_QUAD * THREADS) {
            const struct quad q = quad_load(x + base, i, m);
            *(float4 *)(staged + i) = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
        }
        __syncthreads();
        if (me < 64)
            for (int i = me; i < m; i += 64)
                chain = fmaf(staged[i], staged[i], chain);
    }
    if (me < 64)
        sums[me] = chain;
    __syncthreads();
    return 1.0f / sqrtf(fold64(sums[lane], sums[lane + 32]) / (float)n + eps);
}

/* x += (t * factor) * w, of the block's row. */
static __device__ __forceinline__ void add_post(const struct device_post &p, float *staged, float *sums)
{
    const float *row = p.t + (size_t)blockIdx.x * (size_t)p.ldt;
    float *out = p.x + (size_t)blockIdx.x * (size_t)p.ldx;
    const float factor = row_factor(row, p.n, p.eps, staged, sums);
    const float *again = p.n <= STAGED ? staged : row;
    for (int i = (int)threadIdx.x; i < p.n; i += THREADS)
        out[i] += (again[i] * factor) * p.w[i];
}

/* operand((x * factor) * w) of row `from` of x. */
static __device__ __forceinline__ void put_norm(const struct device_norm &p, int from, float *staged, float *sums)
{
    const float *row = p.x + (size_t)from * (size_t)p.ld;
    const int n = p.to.n_cols, part = (int)threadIdx.x % 8;
    const float factor = row_factor(row, n, p.eps, staged, sums);
    const float *again = n <= STAGED ? staged : row;
    for (int b = (int)threadIdx.x / 32 * OPERAND_WARP; b < p.to.n_blocks; b += WARPS * OPERAND_WARP) {
        const int block = b + (int)threadIdx.x % 32 / 8, i = block * DEVICE_BLOCK + part * OPERAND_QUAD;
        struct quad v = quad_load(again, i, n);
        const struct quad weight = quad_load(p.w, i, n);
        for (int k = 0; k < OPERAND_QUAD; k++)
            v.v[k] = (v.v[k] * factor) * weight.v[k];
        operand_put(p.to, p.needs, (int)blockIdx.x, block, v, p.fault);
    }
}

__global__ void __launch_bounds__(THREADS) rows_norm(struct device_norm p)
{
    DYNAMIC_SHARED(shared);
    SHARED(float, sums, 64);
    const int from = !is_live(p.live) ? -1 : p.rows == NULL ? (int)blockIdx.x : p.rows[blockIdx.x];
    if (from >= 0)
        put_norm(p, from, (float *)shared, sums);
}

__global__ void __launch_bounds__(THREADS) rows_post(struct device_post p)
{
    DYNAMIC_SHARED(shared);
    SHARED(float, sums, 64);
    if (is_live(p.live))
        add_post(p, (float *)shared, sums);
}

__global__ void __launch_bounds__(THREADS) rows_post_norm(struct device_post post, struct device_norm p)
{
    DYNAMIC_SHARED(shared);
    SHARED(float, sums, 64);
    if (is_live(p.live)) {
        add_post(post, (float *)shared, sums);
        __syncthreads(); /* x is there for all, and nobody needs what is staged any more */
        put_norm(p, (int)blockIdx.x, (float *)shared, sums);
    }
}

/* A warp has 4 blocks of a row. */
__global__ void __launch_bounds__(THREADS) rows_quantise(const float *x, int ld, struct device_operand to, int needs, int *fault)
{
    const int r = (int)blockIdx.x, lane = (int)threadIdx.x % 32;
    const int block = ((int)blockIdx.y * WARPS + (int)threadIdx.x / 32) * OPERAND_WARP + lane / 8;
    const struct quad v = quad_load(x + (size_t)r * (size_t)ld, block * DEVICE_BLOCK + lane % 8 * OPERAND_QUAD, to.n_cols);
    operand_put(to, needs, r, block, v, fault);
}

/* cs[r][i] = cosine and sine of pos[r] * freq[i]; a thread has one. */
__global__ void __launch_bounds__(THREADS) rows_angles(const double *freq, int n, const int32_t *pos, int n_rows, float *cs)
{
    const int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (at < n_rows * n) {
        double sine, cosine;
        num_sincos((double)pos[at / n] * freq[at % n], &sine, &cosine);
        *(float2 *)(cs + 2 * (size_t)at) = make_float2((float)cosine, (float)sine);
    }
}

/* x[r] = row token[r] of a tensor, times scale; a thread has 4 values. */
__global__ void __launch_bounds__(THREADS)
rows_embed(struct device_part part, int n_cols, int n_blocks, const int32_t *token, const int32_t *slots, const int32_t *live, float scale,
           float *x, int ld)
{
    const int r = (int)blockIdx.x, at = (int)(blockIdx.y * THREADS + threadIdx.x), block = at / 8, i = at % 8;
    if (block < n_blocks && is_live(live)) {
        const int32_t given = token[r], kept = given < 0 ? slots[~given] : given;
        float v[OPERAND_QUAD];
        float *out = x + (size_t)r * (size_t)ld;
        weights_four(part, n_blocks, kept < 0 ? 0 : kept, block, i, v);
        for (int k = 0; k < OPERAND_QUAD; k++) {
            const int col = block * DEVICE_BLOCK + i * OPERAND_QUAD + k;
            if (col < n_cols)
                out[col] = scale == 1.0f ? v[k] : v[k] * scale;
        }
    }
}

/* ---- launch ---- */

static unsigned blocks_for(int n, int of)
{
    return (unsigned)((n + of - 1) / of);
}

/* Of a row of n values: what row_factor stages. */
static size_t staged_bytes(int n)
{
    return sizeof(float) * (size_t)(n < STAGED ? (n + OPERAND_QUAD - 1) / OPERAND_QUAD * OPERAND_QUAD : STAGED);
}

extern "C" cudaError_t launch_embed(const struct device_matrix *m, const int32_t *token, const int32_t *slots, int n_rows, const int32_t *live,
                                    float scale, float *x, int ld, cudaStream_t stream)
{
    assert(m->n_parts == 1 && n_rows > 0 && ld >= m->n_cols);
    const dim3 grid((unsigned)n_rows, blocks_for(m->n_blocks * 8, THREADS));
    LAUNCH(rows_embed, grid, dim3(THREADS), 0, stream, m->parts[0], m->n_cols, m->n_blocks, token, slots, live, scale, x, ld);
    return cudaGetLastError();
}

static void check_norm(const struct device_norm *p)
{
    assert(p->n_rows > 0 && p->ld >= p->to.n_cols && p->ld % OPERAND_QUAD == 0);
}

static void check_post(const struct device_post *p)
{
    assert(p->n_rows > 0 && p->ldt >= p->n && p->ldx >= p->n && p->ldt % OPERAND_QUAD == 0);
}

extern "C" cudaError_t launch_norm(const struct device_norm *p, cudaStream_t stream)
{
    check_norm(p);
    LAUNCH(rows_norm, dim3((unsigned)p->n_rows), dim3(THREADS), staged_bytes(p->to.n_cols), stream, *p);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_post(const struct device_post *p, cudaStream_t stream)
{
    check_post(p);
    LAUNCH(rows_post, dim3((unsigned)p->n_rows), dim3(THREADS), staged_bytes(p->n), stream, *p);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_post_norm(const struct device_post *post, const struct device_norm *p, cudaStream_t stream)
{
    check_post(post);
    check_norm(p);
    assert(post->x == p->x && post->ldx == p->ld && post->n == p->to.n_cols && post->n_rows == p->n_rows && post->live == p->live);
    assert(p->rows == NULL);
    LAUNCH(rows_post_norm, dim3((unsigned)p->n_rows), dim3(THREADS), staged_bytes(p->to.n_cols), stream, *post, *p);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_angles(const double *freq, int n, const int32_t *pos, int n_rows, float *cs, cudaStream_t stream)
{
    assert(n >= 0 && n_rows > 0);
    if (n == 0)
        return cudaSuccess;
    LAUNCH(rows_angles, dim3(blocks_for(n_rows * n, THREADS)), dim3(THREADS), 0, stream, freq, n, pos, n_rows, cs);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_quantise(const float *x, int ld, int n_rows, const struct device_operand *to, int needs, int *fault,
                                       cudaStream_t stream)
{
    assert(n_rows > 0 && ld >= to->n_cols && ld % OPERAND_QUAD == 0);
    const dim3 grid((unsigned)n_rows, blocks_for(to->n_blocks, WARPS * OPERAND_WARP));
    LAUNCH(rows_quantise, grid, dim3(THREADS), 0, stream, x, ld, *to, needs, fault);
    return cudaGetLastError();
}

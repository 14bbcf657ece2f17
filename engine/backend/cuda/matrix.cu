/* matrix.cu: weights times activations, a few rows of them at a time.
 *
 *   y[r][o] = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)),   slot s_j: the blocks j, j + 8, ... of 32 values, ascending (numerics/quant.h)
 *
 * The problem: with few rows of x the time is that of reading the weights, once, in whole lines. The idea: a warp has four rows of weights, a lane
 * one of them and one slot. Its blocks come by loads of 16 bytes that lie side by side for the warp's lanes (layout.h), four groups of 8 blocks at
 * once for one row of x, to keep memory busy; the chain of fmas of the slot is the lane's own, so nothing is exchanged until the end, where three
 * shuffles fold the slots. A block's words meet N rows of x by dp4a.
 *
 *   launch   grid (groups of N rows of x, stripes of 32 outputs: all of them; pairs of gate and up; eights of them for scores), 256 threads
 *   shared   N x 32 floats
 *   numbers  bit-identical for every N, and to matrix_many.cu: N and the grid choose who computes an element, never in which order
 *
 * The types of a matrix's parts may differ: a block of threads switches once, by its part. */
#include "engine/backend/cuda/matrix.cuh"

#define FEW_THREADS 256
#define FEW_WARPS (FEW_THREADS / 32)
/* What is tuning; the bits are the same. Up to so many rows of x this kernel is taken, which then reads the weights once. From so many tiles of
 * 64 x 64 on large ones are: they keep all multiprocessors of an A100 (108), H100 (132) or 4090 (128) busy. */
#define MATRIX_FEW_ROWS 8
#define MATRIX_LARGE_TILES 128

/* The dot products of a warp's four rows with N rows of x; lane 8 r + s gets slot s of row r. */
template <int N> struct few_dots {
    const struct device_operand &x;
    const uint8_t *part;
    int stripe, warp, lane;
    int *row;   /* [N] of x; the last one again where there are no more */
    float *acc; /* [N] */

    /* Rows of x that are met before the next ones are loaded: the compiler would ask for all of them at once, and run out of registers. */
    static constexpr int pass = N < 4 ? N : 4;

    /* Brings the next rows to the front: registers have no index. After all passes everything is in its place. */
    __device__ __forceinline__ void turn()
    {
        if constexpr (N > pass) {
            DEVICE_UNROLL
            for (int t = 0; t < pass; t++) {
                const float a = acc[t];
                const int r = row[t];
                acc[t] = acc[t + pass];
                row[t] = row[t + pass];
                acc[t + pass] = a;
                row[t + pass] = r;
            }
        }
    }

    template <int TYPE> __device__ __forceinline__ void block(const struct weights_block<TYPE> &w, int b)
    {
        const struct weights_factors f = weights_factors_of<TYPE>(w, b % LAYOUT_SLOTS);
        uint32_t words[8];
        DEVICE_UNROLL
        for (int i = 0; i < 8; i++)
            words[i] = weights_word<TYPE>(w, i);
        DEVICE_LOOP
        for (int i = 0; i < N; i += pass, turn())
            tokens<TYPE>(f, words, b);
    }

    template <int TYPE> __device__ __forceinline__ void tokens(const struct weights_factors &f, const uint32_t words[8], int b)
    {
        DEVICE_UNROLL
        for (int t = 0; t < pass; t++) {
            const uint32_t at = (uint32_t)(row[t] * x.n_blocks + b);
            const int4 low = ((const int4 *)x.q)[2 * at], high = ((const int4 *)x.q)[2 * at + 1];
            const struct matrix_x v = matrix_x_of<TYPE>(x.d[at], ((const uint32_t *)x.sums)[at]);
            int sum0 = matrix_start<TYPE>(v, 0);
            sum0 = __dp4a((int)words[0], low.x, sum0);
            sum0 = __dp4a((int)words[1], low.y, sum0);
            sum0 = __dp4a((int)words[2], low.z, sum0);
            sum0 = __dp4a((int)words[3], low.w, sum0);
            int sum1 = weights_type<TYPE>::halves ? matrix_start<TYPE>(v, 1) : sum0;
            sum1 = __dp4a((int)words[4], high.x, sum1);
            sum1 = __dp4a((int)words[5], high.y, sum1);
            sum1 = __dp4a((int)words[6], high.z, sum1);
            sum1 = __dp4a((int)words[7], high.w, sum1);
            acc[t] = matrix_mac<TYPE>(f, weights_type<TYPE>::halves ? sum0 : sum1, sum1, v, acc[t]);
        }
    }

    /* Chunk c, of 16 bytes, of block b. */
    template <int TYPE> __device__ __forceinline__ void floats(const uint4 &w, int b, int c)
    {
        const uint32_t words[4] = {w.x, w.y, w.z, w.w};
        DEVICE_LOOP
        for (int i = 0; i < N; i += pass, turn())
            float_tokens<TYPE>(words, b, c);
    }

    template <int TYPE> __device__ __forceinline__ void float_tokens(const uint32_t words[4], int b, int c)
    {
        DEVICE_UNROLL
        for (int i = 0; i < 4; i += TYPE == DEVICE_F32 ? 4 : 2) { /* four values */
            DEVICE_UNROLL
            for (int t = 0; t < pass; t++) {
                const uint32_t at = (uint32_t)(row[t] * x.n_blocks + b);
                const float4 v = ((const float4 *)x.f)[8 * at + (uint32_t)(TYPE == DEVICE_F32 ? c : 2 * c + i / 2)];
                const float values[4] = {v.x, v.y, v.z, v.w};
                DEVICE_UNROLL
                for (int k = 0; k < 4; k++)
                    acc[t] = fmaf(TYPE == DEVICE_F32 ? num_f32_from_bits(words[k]) : weights_float<TYPE>(words[(i + k / 2) % 4], k % 2), values[k],
                                  acc[t]);
            }
        }
    }

    template <int TYPE> __device__ __forceinline__ void run()
    {
        typedef weights_type<TYPE> T;
        const int n_blocks = x.n_blocks, row4 = LAYOUT_WARP_ROWS * warp + lane / LAYOUT_SLOTS, slot = lane % LAYOUT_SLOTS;
        const uint8_t *w = part + (size_t)stripe * weights_stripe_bytes<TYPE>(n_blocks);
        if constexpr (T::is_float) {
            for (int b = slot; b < n_blocks; b += LAYOUT_SLOTS) {
                const struct weights_place at = weights_place_of(n_blocks, row4, b);
                constexpr int ahead = N < 4 ? 4 : 2;
                DEVICE_LOOP
                for (int first = 0; first < T::chunks; first += ahead) {
                    uint4 chunks[ahead];
                    DEVICE_UNROLL
                    for (int c = 0; c < ahead; c++)
                        chunks[c] = *(const uint4 *)(w + (at.group * T::chunks + (first + c) * at.n + at.i) * 16);
                    DEVICE_UNROLL
                    for (int c = 0; c < ahead; c++)
                        floats<TYPE>(chunks[c], b, first + c);
                }
            }
        } else {
            constexpr int ahead = N == 1 ? 4 : N == 2 ? 2 : 1;
            int b = slot;
            for (; ahead > 1 && b + (ahead - 1) * LAYOUT_SLOTS < n_blocks; b += ahead * LAYOUT_SLOTS) {
                struct weights_block<TYPE> blocks[ahead];
                DEVICE_UNROLL
                for (int i = 0; i < ahead; i++)
                    blocks[i] = weights_load<TYPE>(w, n_blocks, weights_place_of(n_blocks, row4, b + i * LAYOUT_SLOTS));
                DEVICE_UNROLL
                for (int i = 0; i < ahead; i++)
                    block<TYPE>(blocks[i], b + i * LAYOUT_SLOTS);
            }
            for (; b < n_blocks; b += LAYOUT_SLOTS)
                block<TYPE>(weights_load<TYPE>(w, n_blocks, weights_place_of(n_blocks, row4, b)), b);
        }
    }
};

/* The dot product of a lane's row of weights with row lane % 8 of the N of x; the other lanes of an eight get the other rows'. */
template <int N>
static __device__ __forceinline__ float few_dot(const struct device_product &p, const struct matrix_stripe &s, int warp, int lane, int row[N])
{
    float acc[N], mine = 0.0f;
    DEVICE_UNROLL
    for (int t = 0; t < N; t++)
        acc[t] = 0.0f;
    struct few_dots<N> dots = {p.x, s.w, s.idx, warp, lane, row, acc};
    weights_switch(s.type, dots);
    DEVICE_UNROLL
    for (int t = 0; t < N; t++) {
        float v = acc[t];
        v = v + __shfl_xor_sync(0xffffffffu, v, 1);
        v = v + __shfl_xor_sync(0xffffffffu, v, 2);
        v = v + __shfl_xor_sync(0xffffffffu, v, 4);
        mine = t == lane % LAYOUT_SLOTS ? v : mine;
    }
    return mine;
}

template <int N> __global__ void __launch_bounds__(FEW_THREADS, 2) matrix_few(const struct device_product p)
{
    SHARED(float, tile, N * LAYOUT_ROWS); /* PAIR: the outputs of a row of x; SCORES: maxima by warp */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, r0 = (int)blockIdx.x * N, mine = r0 + lane % LAYOUT_SLOTS;
    const int n_rows = matrix_rows(p);
    const int per_block = r0 >= n_rows ? 0 : p.epilogue == EPILOGUE_SCORES ? MATRIX_SCORES_STRIPES : p.m.pair ? 2 : 1;
    const int in_stripe = LAYOUT_WARP_ROWS * warp + lane / LAYOUT_SLOTS;
    const bool counts = lane % LAYOUT_SLOTS < N && mine < n_rows;
    int row[N];
    DEVICE_UNROLL
    for (int t = 0; t < N; t++)
        row[t] = r0 + t < n_rows ? r0 + t : n_rows - 1;
    float gate = 0.0f, most = -INFINITY;
    bool finite = true;
    DEVICE_LOOP
    for (int i = 0; i < per_block; i++) {
        const int stripe = (int)blockIdx.y * per_block + i;
        if (stripe * LAYOUT_ROWS >= p.m.n_rows && p.epilogue == EPILOGUE_SCORES)
            break;
        const struct matrix_stripe s = matrix_stripe_of(p.m, stripe, 1);
        const float x = few_dot<N>(p, s, warp, lane, row);
        if (p.epilogue == EPILOGUE_PAIR) {
            if (i == 0)
                gate = x;
            else if (counts)
                tile[(mine - r0) * LAYOUT_ROWS + in_stripe] = matrix_activate(p.act, gate) * x;
        } else if (counts && in_stripe < s.n) {
            const float y = matrix_put(p, mine, s.first_out + in_stripe, x);
            most = y > most ? y : most;
            finite = finite && y - y == 0.0f;
        }
    }
    if (p.epilogue == EPILOGUE_PAIR) {
        __syncthreads();
        if (warp < (N + OPERAND_WARP - 1) / OPERAND_WARP) { /* eight lanes a row of x, four values a lane */
            const int r = warp * OPERAND_WARP + lane / 8;
            const bool writes = r < N && r0 + r < n_rows;
            struct quad values = {{0.0f, 0.0f, 0.0f, 0.0f}};
            if (writes)
                values = quad_load(tile + r * LAYOUT_ROWS, lane % 8 * OPERAND_QUAD, LAYOUT_ROWS);
            operand_put(p.to, p.needs, r0 + r, writes ? (int)blockIdx.y : p.to.n_blocks, values, p.fault);
        }
    } else if (p.epilogue == EPILOGUE_SCORES) {
        for (int step = LAYOUT_SLOTS; step < 32; step *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, most, step);
            most = other > most ? other : most;
        }
        if (lane < N)
            tile[warp * N + lane] = most;
        __syncthreads();
        if (warp == 0 && lane < N && counts) {
            for (int w = 1; w < FEW_WARPS; w++)
                most = tile[w * N + lane] > most ? tile[w * N + lane] : most;
            p.most[(size_t)mine * gridDim.y + blockIdx.y] = most;
        }
        if (!finite)
            atomicOr(p.fault, 1);
    }
}

template <int N> static cudaError_t launch_few(const struct device_product *p, cudaStream_t stream)
{
    const dim3 grid((unsigned)(p->n_rows + N - 1) / N, (unsigned)matrix_n_tiles(*p, 1));
    LAUNCH(matrix_few<N>, grid, dim3(FEW_THREADS), 0, stream, *p);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_product_few(const struct device_product *p, cudaStream_t stream)
{
    matrix_check(p);
    if (p->n_rows == 1)
        return launch_few<1>(p, stream);
    if (p->n_rows == 2)
        return launch_few<2>(p, stream);
    if (p->n_rows <= 4)
        return launch_few<4>(p, stream);
    return launch_few<8>(p, stream);
}

/* Large tiles, if there are enough of them; their stripes are computed together: the types of a pair must be one. */
static bool takes_large_tiles(const struct device_product *p)
{
    const int n = matrix_n_tiles(*p, 2) * ((p->n_rows + 63) / 64);
    return p->n_rows > 32 && n >= MATRIX_LARGE_TILES && (!p->m.pair || p->m.parts[0].type == p->m.parts[1].type);
}

extern "C" cudaError_t launch_product(const struct device_product *p, cudaStream_t stream)
{
    bool many = p->n_rows > MATRIX_FEW_ROWS;
    for (int i = 0; i < p->m.n_parts; i++)
        many = many && !matrix_is_float(p->m.parts[i].type);
    return !many ? launch_product_few(p, stream) : takes_large_tiles(p) ? launch_product_large(p, stream) : launch_product_many(p, stream);
}

/* matrix_many.cu: weights times activations, many rows of them at once, on tensor cores. The bits are those of matrix.cu.
 *
 * The problem: with many rows of x arithmetic takes the time, and the order of it is fixed: eight chains, one for each slot of 8 blocks. The idea:
 * the eight warps of a block of threads are the eight slots. A warp multiplies its slot's block of 32 values - 32 outputs by 32 rows of x - by mma
 * of int8, whose sums are exact, and adds the products to 32 x 32 chains of its own, 32 a lane. Nothing is exchanged until the end, where the chains
 * meet in shared memory and are folded. mma.m16n8k32 does a block at once; where each half of it has a scale, m16n8k16 does the halves.
 *
 *   step     a group of 8 blocks: quants of 32 outputs and of 32 rows of x come by cp.async, into one buffer while the other is multiplied. Scales
 *            are few and come by registers, and leave as the factors that the chains need
 *   launch   grid (groups of 32 rows of x, stripes of 32 outputs: all of them; pairs of gate and up; eights of them for scores), 256 threads
 *   shared   two buffers of at most 19 KiB; then 8 x 32 x 36 floats in their place
 *   numbers  sums start at the bits of 1.5 * 2^23, less the offset's part (matrix.cuh)
 *
 * Pieces of 16 bytes lie swizzled in shared memory: the eight rows that a warp reads at once are in different banks. High bits and factors meet two
 * to a bank, once for 32 rows of x. */
#include "engine/backend/cuda/matrix.cuh"

#define MANY_THREADS 256
#define MANY_ROWS 32   /* of x, of a block of threads */
#define MANY_STRIDE 36 /* floats from one row of x to the next when chains are folded: a warp's stores meet no bank twice */
#define MANY_PIECE 16  /* bytes */
#define MANY_SCALES 34 /* pairs (d, sums) of x from one slot to the next: stores of two rows and eight slots meet no bank twice */

/* A buffer: what a group of 8 blocks takes, in bytes. */
template <int TYPE> struct many_buffer {
    typedef weights_type<TYPE> T;
    static constexpr int n_factors = (T::halves ? 2 : 1) + T::n_min; /* of a block, f32: d of each half, then minima */
    static constexpr int q = 0, quants = q + MANY_ROWS * LAYOUT_SLOTS * DEVICE_BLOCK, high = quants + LAYOUT_ROWS * LAYOUT_SLOTS * T::quant_bytes;
    static constexpr int factors = high + LAYOUT_ROWS * LAYOUT_SLOTS * T::high, scales = factors + LAYOUT_ROWS * LAYOUT_SLOTS * n_factors * 4;
    static constexpr int bytes = scales + LAYOUT_SLOTS * MANY_SCALES * 8;
};

/* The value, of which the compiler knows nothing any more: what is computed from it is computed where it is used. Addresses would else be computed
 * before the loop over groups, and there are too many of them to be kept in registers. */
static __device__ __forceinline__ int many_fresh(int v)
{
    asm volatile("" : "+r"(v));
    return v;
}

static constexpr int many_most(int a, int b)
{
    return a > b ? a : b;
}

#define MANY_FOLD (LAYOUT_SLOTS * MANY_ROWS * MANY_STRIDE * (int)sizeof(float))
#define MANY_SHARED                                                                                                                    \
    many_most(MANY_FOLD, 2 * many_most(many_most(many_buffer<DEVICE_Q8_0>::bytes, many_buffer<DEVICE_Q6_K>::bytes),                    \
                                       many_most(many_buffer<DEVICE_Q5_1>::bytes, many_buffer<DEVICE_Q2_K>::bytes)))

/* The chains of a stripe's 32 outputs and of 32 rows of x. */
struct many_dots {
    const struct device_operand &x;
    const uint8_t *part;
    int stripe, r0, n_rows; /* of x */
    int warp, lane;
    unsigned char *shared;

    /* Row of x that stands in place i; the last one where there are no more. */
    __device__ __forceinline__ int row(int i) const { return r0 + i < n_rows ? r0 + i : n_rows - 1; }

    /* Asks for the quants of group g. */
    template <int TYPE> __device__ __forceinline__ void copy(const uint8_t *w, int g, unsigned char *buffer) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE> B;
        const int n_blocks = x.n_blocks, first = g * LAYOUT_SLOTS, n = n_blocks - first < LAYOUT_SLOTS ? n_blocks - first : LAYOUT_SLOTS;
        const int i = many_fresh(warp * 32 + lane), in_row = 2 * LAYOUT_SLOTS; /* pieces of a row of x */
        DEVICE_UNROLL
        for (int k = i; k < MANY_ROWS * in_row; k += MANY_THREADS) {
            const int r = k / in_row, piece = k % in_row;
            const uint8_t *from = (const uint8_t *)x.q + ((size_t)row(r) * (size_t)n_blocks + first) * DEVICE_BLOCK + piece * MANY_PIECE;
            if (piece / 2 < n)
                dev_cp_async16(buffer + B::q + (r * in_row + (piece ^ r % 8)) * MANY_PIECE, from);
        }
        if constexpr (T::chunk_bytes == MANY_PIECE) { /* a thread has a block: row i / 8 of the stripe, slot i % 8 */
            const int r = i / LAYOUT_SLOTS, slot = i % LAYOUT_SLOTS;
            const struct weights_place at = weights_place_of(n_blocks, r, first);
            DEVICE_UNROLL
            for (int c = 0; c < T::chunks; c++)
                if (slot < n)
                    dev_cp_async16(buffer + B::quants + ((c * LAYOUT_ROWS + r) * LAYOUT_SLOTS + (slot ^ r % 8)) * MANY_PIECE,
                                   w + (at.group * T::chunks + c * at.n + at.i + (uint32_t)slot) * MANY_PIECE);
        } else if (i < MANY_THREADS / 2) { /* two blocks; groups of these types are whole */
            const int r = i / 4, piece = i % 4;
            const struct weights_place at = weights_place_of(n_blocks, r, first);
            dev_cp_async16(buffer + B::quants + (r * 4 + (piece ^ r / 2 % 4)) * MANY_PIECE, w + (at.group + at.i) * 8 + piece * MANY_PIECE);
        }
        if constexpr (T::high != 0) { /* what four rows have lies together */
            const int pieces = LAYOUT_WARP_ROWS * LAYOUT_SLOTS * T::high / MANY_PIECE, four = i / pieces, piece = i % pieces;
            const uint8_t *high = w + (uint32_t)(LAYOUT_ROWS * n_blocks) * T::quant_bytes;
            if (four < LAYOUT_ROWS / LAYOUT_WARP_ROWS && piece * MANY_PIECE < LAYOUT_WARP_ROWS * n * T::high) {
                const struct weights_place at = weights_place_of(n_blocks, four * LAYOUT_WARP_ROWS, first);
                dev_cp_async16(buffer + B::high + (four * pieces + piece) * MANY_PIECE, high + at.group * T::high + piece * MANY_PIECE);
            }
        }
        dev_cp_commit();
    }

    /* A thread's block of the group's weights and of x: row i / 8, slot i % 8; beyond the last block that one again, for a slot that nobody reads. */
    template <int TYPE> struct scales {
        struct weights_block<TYPE> w; /* its scales alone */
        float d;
        uint32_t sums;
    };

    template <int TYPE> __device__ __forceinline__ void load(const uint8_t *w, int g, struct scales<TYPE> *out) const
    {
        const int i = many_fresh(warp * 32 + lane), wanted = g * LAYOUT_SLOTS + i % LAYOUT_SLOTS, b = wanted < x.n_blocks ? wanted : x.n_blocks - 1;
        const uint32_t at = (uint32_t)(row(i / LAYOUT_SLOTS) * x.n_blocks + b);
        out->w = weights_load<TYPE>(w, x.n_blocks, weights_place_of(x.n_blocks, i / LAYOUT_SLOTS, b));
        out->d = x.d[at];
        out->sums = ((const uint32_t *)x.sums)[at];
    }

    template <int TYPE> __device__ __forceinline__ void put(const struct scales<TYPE> &s, unsigned char *buffer) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE> B;
        const int i = many_fresh(warp * 32 + lane), slot = i % LAYOUT_SLOTS;
        const struct weights_factors f = weights_factors_of<TYPE>(s.w, slot);
        float *to = (float *)(buffer + B::factors) + i * B::n_factors;
        to[0] = f.d[0];
        if (T::halves)
            to[1 % B::n_factors] = f.d[1];
        if (T::n_min > 0)
            to[(T::halves ? 2 : 1) % B::n_factors] = f.min[0];
        if (T::n_min == 2)
            to[3 % B::n_factors] = f.min[1];
        ((uint2 *)(buffer + B::scales))[slot * MANY_SCALES + i / LAYOUT_SLOTS] = make_uint2(num_bits_from_f32(s.d), s.sums);
    }

    /* Words t and 4 + t of row r of the stripe, of this warp's slot; n: blocks of the group. */
    template <int TYPE> __device__ __forceinline__ void words(const unsigned char *buffer, int r, int t, int n, int out[2]) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE> B;
        uint32_t low, high;
        if constexpr (T::chunk_bytes == 8) {
            const uint2 v = *(const uint2 *)(buffer + B::quants + (r * 4 + (warp / 2 ^ r / 2 % 4)) * MANY_PIECE + warp % 2 * 8);
            low = v.x >> (2 * t) & 0x03030303u;
            high = v.y >> (2 * t) & 0x03030303u;
        } else {
            const uint32_t *v = (const uint32_t *)(buffer + B::quants + (r * LAYOUT_SLOTS + (warp ^ r % 8)) * MANY_PIECE) + t;
            low = TYPE == DEVICE_Q8_0 ? v[0] : v[0] & 0x0f0f0f0fu;
            high = TYPE == DEVICE_Q8_0 ? v[T::chunks == 2 ? LAYOUT_ROWS * LAYOUT_SLOTS * 4 : 0] : v[0] >> 4 & 0x0f0f0f0fu;
        }
        const int in_four = r % LAYOUT_WARP_ROWS * n + warp;
        const unsigned char *bits = buffer + B::high + (r / LAYOUT_WARP_ROWS * LAYOUT_WARP_ROWS * LAYOUT_SLOTS + in_four) * T::high;
        if constexpr (T::high == 4) {
            const uint32_t v = *(const uint32_t *)bits;
            const int shift = T::five ? 4 : 2;
            low |= (v >> t & 0x01010101u) << shift;
            high |= (v >> (4 + t) & 0x01010101u) << shift;
        } else if constexpr (T::high == 8) {
            const uint2 v = *(const uint2 *)bits;
            low |= (v.x >> (2 * t) & 0x03030303u) << 4;
            high |= (v.y >> (2 * t) & 0x03030303u) << 4;
        }
        out[0] = (int)low;
        out[1] = (int)high;
    }

    template <int TYPE> __device__ __forceinline__ struct weights_factors factors(const unsigned char *buffer, int r) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE> B;
        const float *from = (const float *)(buffer + B::factors) + (r * LAYOUT_SLOTS + warp) * B::n_factors;
        struct weights_factors f = {{from[0], T::halves ? from[1 % B::n_factors] : from[0]}, {0.0f, 0.0f}};
        if (T::n_min > 0)
            f.min[0] = from[(T::halves ? 2 : 1) % B::n_factors];
        if (T::n_min == 2)
            f.min[1] = from[3 % B::n_factors];
        return f;
    }

    /* The warp's block of a group, into acc[m][j][2 h + c]: output 16 m + lane / 4 + 8 h, row of x 8 j + 2 (lane % 4) + c. */
    template <int TYPE> __device__ __forceinline__ void multiply(const unsigned char *buffer, int n, float acc[2][4][4]) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE> B;
        const int l = many_fresh(lane), g = l / 4, t = l % 4;
        int a[2][2][2]; /* tile of outputs, upper or lower eight, word */
        struct weights_factors f[2][2];
        DEVICE_UNROLL
        for (int m = 0; m < 2; m++)
            DEVICE_UNROLL
            for (int h = 0; h < 2; h++) {
                words<TYPE>(buffer, 16 * m + 8 * h + g, t, n, a[m][h]);
                f[m][h] = factors<TYPE>(buffer, 16 * m + 8 * h + g);
            }
        DEVICE_UNROLL
        for (int j = 0; j < MANY_ROWS / 8; j++) {
            if (r0 + 8 * j >= n_rows) /* the whole block of threads agrees */
                continue;
            const unsigned char *q = buffer + B::q + (8 * j + g) * 2 * LAYOUT_SLOTS * MANY_PIECE + 4 * t;
            const int b[2] = {*(const int *)(q + (2 * warp ^ g) * MANY_PIECE), *(const int *)(q + ((2 * warp + 1) ^ g) * MANY_PIECE)};
            const uint4 scales = *(const uint4 *)(buffer + B::scales + (warp * MANY_SCALES + 8 * j + 2 * t) * 8);
            const float d[2] = {num_f32_from_bits(scales.x), num_f32_from_bits(scales.z)};
            const uint32_t sums[2] = {scales.y, scales.w};
            DEVICE_UNROLL
            for (int m = 0; m < 2; m++) {
                int sum[2][4];
                DEVICE_UNROLL
                for (int i = 0; i < 4; i++) {
                    sum[0][i] = matrix_start<TYPE>(sums[i % 2], 0);
                    sum[1][i] = T::halves ? matrix_start<TYPE>(sums[i % 2], 1) : 0;
                }
                if constexpr (T::halves) {
                    const int low[2] = {a[m][0][0], a[m][1][0]}, high[2] = {a[m][0][1], a[m][1][1]};
                    dev_mma_s8_k16(sum[0], low, b);
                    dev_mma_s8_k16(sum[1], high, b + 1);
                } else {
                    const int both[4] = {a[m][0][0], a[m][1][0], a[m][0][1], a[m][1][1]};
                    dev_mma_s8_k32(sum[0], both, b);
                }
                DEVICE_UNROLL
                for (int i = 0; i < 4; i++)
                    acc[m][j][i] = matrix_mac<TYPE>(f[m][i / 2], sum[0][i], sum[1][i], d[i % 2], sums[i % 2], acc[m][j][i]);
            }
        }
    }

    /* Leaves the chains in shared memory: slot warp, row of x, output. */
    template <int TYPE> __device__ __forceinline__ void run()
    {
        if constexpr (!weights_type<TYPE>::is_float) {
            typedef many_buffer<TYPE> B;
            const uint8_t *w = part + (size_t)stripe * weights_stripe_bytes<TYPE>(x.n_blocks);
            const int n_groups = (x.n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS;
            float acc[2][4][4];
            DEVICE_UNROLL
            for (int i = 0; i < 32; i++)
                acc[i / 16][i / 4 % 4][i % 4] = 0.0f;
            struct scales<TYPE> next;
            copy<TYPE>(w, 0, shared);
            load<TYPE>(w, 0, &next);
            put<TYPE>(next, shared);
            DEVICE_LOOP
            for (int g = 0; g < n_groups; g++) {
                unsigned char *buffer = shared + g % 2 * B::bytes, *other = shared + (g + 1) % 2 * B::bytes;
                const int left = x.n_blocks - g * LAYOUT_SLOTS, n = left < LAYOUT_SLOTS ? left : LAYOUT_SLOTS;
                dev_cp_wait(0);
                __syncthreads(); /* all of this group is here, and nobody reads the other buffer any more */
                if (g + 1 < n_groups) {
                    copy<TYPE>(w, g + 1, other);
                    load<TYPE>(w, g + 1, &next);
                }
                if (warp < n)
                    multiply<TYPE>(buffer, n, acc);
                if (g + 1 < n_groups)
                    put<TYPE>(next, other);
            }
            __syncthreads(); /* the buffers become the chains' place */
            DEVICE_UNROLL
            for (int i = 0; i < 32; i++) {
                const int m = i / 16, j = i / 4 % 4, r = 8 * j + 2 * (lane % 4) + i % 2, o = 16 * m + lane / 4 + 8 * (i / 2 % 2);
                ((float *)shared)[(warp * MANY_ROWS + r) * MANY_STRIDE + o] = acc[m][j][i % 4];
            }
        }
    }
};

__global__ void __launch_bounds__(MANY_THREADS, 2) matrix_many(const struct device_product p)
{
    DYNAMIC_SHARED(shared);
    constexpr int mine = MANY_ROWS * LAYOUT_ROWS / MANY_THREADS; /* elements of a thread: output lane of rows warp, warp + 8, ... of x */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, r0 = (int)blockIdx.x * MANY_ROWS;
    const int n_rows = matrix_rows(p);
    const int per_block = r0 >= n_rows ? 0 : p.epilogue == EPILOGUE_SCORES ? MATRIX_SCORES_STRIPES : p.m.pair ? 2 : 1;
    const float *chains = (const float *)shared;
    float kept[mine]; /* PAIR: gate, then the activated product; SCORES: the maximum so far */
    DEVICE_UNROLL
    for (int k = 0; k < mine; k++)
        kept[k] = -INFINITY;
    bool finite = true;
    DEVICE_LOOP
    for (int i = 0; i < per_block; i++) {
        const int stripe = (int)blockIdx.y * per_block + i;
        if (stripe * LAYOUT_ROWS >= p.m.n_rows && p.epilogue == EPILOGUE_SCORES)
            break;
        const struct matrix_stripe s = matrix_stripe_of(p.m, stripe);
        struct many_dots dots = {p.x, s.w, s.idx, r0, n_rows, warp, lane, shared};
        weights_switch(s.type, dots);
        __syncthreads();
        DEVICE_UNROLL
        for (int k = 0; k < mine; k++) {
            const int r = warp + k * (MANY_THREADS / 32);
            float v[LAYOUT_SLOTS];
            DEVICE_UNROLL
            for (int j = 0; j < LAYOUT_SLOTS; j++)
                v[j] = chains[(j * MANY_ROWS + r) * MANY_STRIDE + lane];
            const float x = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
            if (p.epilogue == EPILOGUE_PAIR) {
                kept[k] = i == 0 ? x : matrix_activate(p.act, kept[k]) * x;
            } else if (r0 + r < n_rows && lane < s.n) {
                const float y = matrix_put(p, r0 + r, s.first_out + lane, x);
                kept[k] = y > kept[k] ? y : kept[k];
                finite = finite && y - y == 0.0f;
            }
        }
        __syncthreads(); /* the chains have been read */
    }
    if (p.epilogue == EPILOGUE_PAIR) {
        float *tile = (float *)shared; /* [rows of x][outputs] */
        DEVICE_UNROLL
        for (int k = 0; k < mine; k++)
            tile[(warp + k * (MANY_THREADS / 32)) * LAYOUT_ROWS + lane] = kept[k];
        __syncthreads();
        const int r = warp * OPERAND_WARP + lane / 8; /* eight lanes a row of x, four values a lane */
        const struct quad values = quad_load(tile + r * LAYOUT_ROWS, lane % 8 * OPERAND_QUAD, LAYOUT_ROWS);
        operand_put(p.to, p.needs, r0 + r, r0 + r < n_rows ? (int)blockIdx.y : p.to.n_blocks, values, p.fault);
    } else if (p.epilogue == EPILOGUE_SCORES) {
        DEVICE_UNROLL
        for (int k = 0; k < mine; k++) {
            for (int step = 16; step > 0; step /= 2) {
                const float other = __shfl_xor_sync(ALL_LANES, kept[k], step);
                kept[k] = other > kept[k] ? other : kept[k];
            }
            const int r = r0 + warp + k * (MANY_THREADS / 32);
            if (lane == 0 && r < n_rows)
                p.most[(size_t)r * gridDim.y + blockIdx.y] = kept[k];
        }
        if (!finite)
            atomicOr(p.fault, 1);
    }
}

extern "C" cudaError_t launch_product_many(const struct device_product *p, cudaStream_t stream)
{
    matrix_check(p);
    for (int i = 0; i < p->m.n_parts; i++)
        assert(!matrix_is_float(p->m.parts[i].type));
    const dim3 grid((unsigned)(p->n_rows + MANY_ROWS - 1) / MANY_ROWS, (unsigned)matrix_n_tiles(*p));
    static_assert(MANY_SHARED <= 48 * 1024, "more must be asked for");
    LAUNCH(matrix_many, grid, dim3(MANY_THREADS), MANY_SHARED, stream, *p);
    return cudaGetLastError();
}

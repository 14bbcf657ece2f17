/* matrix_many.cu: weights times activations, many rows of them at once, on tensor cores. The bits are those of matrix.cu.
 *
 * The problem: with many rows of x arithmetic takes the time, and the order of it is fixed: eight chains, one for each slot of 8 blocks. Each chain
 * needs a register, so a block of threads that ran all of them side by side could have no large tile, and would read weights and x too often. The
 * idea: S of the eight slots run side by side, each slot on the warps of its own, and the slots are taken in 8 / S passes over the columns. A warp
 * multiplies its slot's block of 32 values - 32 outputs by up to 64 rows of x - by mma of int8, whose sums are exact, and adds the products to chains
 * of its own. Nothing is exchanged until the end of a pass, where the chains meet in shared memory and are folded: the fold is a tree, so (0..3) of
 * the first pass wait for (4..7) of the second.
 *
 *              slots side by side   passes   tile (outputs x rows of x)   chains of a lane
 *   S = 8      8                    1        32 x 32                      32               few rows: as many blocks of threads as there are stripes
 *   S = 4      4                    2        64 x 64                      64               half the bytes for the same sums
 *
 *   step     S blocks of 32 columns. Quants of 16 bytes and x come by cp.async into a ring of four buffers; what is small - scales, high bits, x's d
 *            and sums - comes by registers a step ahead and leaves them as the factors that the chains need. A thread has one of the 256 blocks of
 *            weights and one of the 256 blocks of x of a step. A barrier a step
 *   mma      m16n8k32, or m16n8k16 twice where each half of a block has a scale. Row 16 m + 8 h + g of a fragment is output 4 g + 2 m + h, so that a
 *            lane's four outputs lie side by side: their factors are one load
 *   launch   grid (groups of 32 or 64 rows of x, tiles: all of them; of a pair, gate and up of 32; the tiles of 256 outputs for scores), 256 threads
 *   shared   sums that wait [rows][outputs] and maxima; then the ring and the factors of two steps, in their place the chains: 49 to 89 KiB
 *   registers  S = 8: two blocks of threads share a multiprocessor. S = 4: up to 190, for 64 chains and two tiles' fragments; with 128 they would be
 *            spilled, and one block hides its latencies by the ring and by independent chains
 *   numbers  sums start at the bits of 1.5 * 2^23, less the offset's part (matrix.cuh)
 *
 * No access to shared memory meets a bank twice: pieces of 16 bytes lie swizzled, rows of words are padded. Rows of padding in a tile that has others
 * are computed, too, and dropped. */
#include "engine/backend/cuda/matrix.cuh"

#define MANY_THREADS 256
#define MANY_ROUND 32 /* rows of x whose chains are folded at once */
#define MANY_PIECE 16 /* bytes */
#define MANY_ENTRIES 256 /* (output, slot) or (row of x, slot) of a step */
#define MANY_STAGES 4

template <int S> struct many_shape {
    static constexpr int stripes = LAYOUT_SLOTS / S, passes = LAYOUT_SLOTS / S; /* stripes of a tile, side by side */
    static constexpr int rows = MANY_ROUND * stripes, outputs = LAYOUT_ROWS * stripes;
    /* From one slot to the next, in words, pairs and words; from one row of x to the next in chains, in floats. */
    static constexpr int plane = LAYOUT_ROWS + 32 / S, pairs = rows + 16 / S, thirds = rows + 32 / S, chain = outputs + 4;
};

/* Where things are in shared memory, in bytes. */
template <int TYPE, int S> struct many_buffer {
    typedef weights_type<TYPE> T;
    typedef many_shape<S> M;
    static constexpr bool pieces = T::chunk_bytes == MANY_PIECE; /* quants come by cp.async; else as words */
    /* A stage of the ring: x, then quants by chunk. */
    static constexpr int quants = MANY_ENTRIES * DEVICE_BLOCK, stage = quants + (pieces ? MANY_ENTRIES * T::quant_bytes : 0);
    /* What is small: planes of words, one for each output and slot: d of each half, minima, high bits, quants; then of x (d, v), then the other v. */
    static constexpr int n_d = T::halves ? 2 : 1, n_high = T::high / 4, n_quants = pieces ? 0 : T::quant_bytes / 4;
    static constexpr int n_planes = n_d + T::n_min + n_high + n_quants, plane_words = LAYOUT_SLOTS * M::plane;
    static constexpr int pairs = n_planes * plane_words * 4, thirds = pairs + S * M::pairs * 8, small = thirds + (T::halves ? S * M::thirds * 4 : 0);
    static constexpr int bytes = MANY_STAGES * stage + 2 * small;
    static constexpr int at_once = pieces ? 2 : 1; /* tiles of 16 outputs of a warp: their words and factors need registers */
};

/* Before the ring, at its front and after it: sums that wait [rows][outputs], maxima [rows], then what the types need, or chains. */
template <int S> struct many_shared {
    typedef many_shape<S> M;
    static constexpr int maxima = M::rows * M::outputs * 4, ring = maxima + M::rows * 4, chains = S * MANY_ROUND * M::chain * 4;
};

/* The value, of which the compiler knows nothing any more: what is computed from it is computed where it is used, not before a loop, where it would
 * take a register. */
static __device__ __forceinline__ unsigned many_fresh(unsigned v)
{
    asm volatile("" : "+r"(v));
    return v;
}

/* The chains of a warp's stripe and its slot of pass `pass`: acc[m][j][2 h + c] is output 4 (lane / 4) + 2 m + h, row of x 8 j + 2 (lane % 4) + c. */
template <int S> struct many_dots {
    typedef many_shape<S> M;
    const struct device_operand &x;
    const uint8_t *part;
    int stripe, pass, r0, n_rows; /* of x */
    unsigned thread;
    unsigned char *shared;
    float (&acc)[2][M::rows / 8][4];

    __device__ __forceinline__ unsigned warp() const { return thread / 32; }
    /* The thread; where registers are few, what is computed from it is not kept from step to step. */
    template <int TYPE> __device__ __forceinline__ unsigned lean() const
    {
        return S == LAYOUT_SLOTS && weights_type<TYPE>::halves ? many_fresh(thread) : thread;
    }

    /* Row of x that stands in place i; the last one where there are no more. */
    __device__ __forceinline__ uint32_t row(unsigned i) const { return r0 + (int)i < n_rows ? (uint32_t)r0 + i : (uint32_t)n_rows - 1; }

    /* Place of output r's piece of a slot in a chunk. */
    static __device__ __forceinline__ unsigned piece(unsigned r, unsigned slot)
    {
        if (S == LAYOUT_SLOTS)
            return r * S + (slot ^ r / 4);
        const unsigned g = r / 4, q = r % 4; /* the eight outputs of one q are read at once, and two neighbours are written at once */
        return (g / 2 + 4 * q) * 8 + (g + q) % 2 * 4 + (slot ^ g / 2);
    }

    /* The block of thread i's output in group g, which has n blocks; the last one for a slot that the group lacks. */
    __device__ __forceinline__ struct weights_place place(unsigned i, int g, unsigned n) const
    {
        const unsigned r = i / S % LAYOUT_ROWS, slot = (unsigned)pass * S + i % S, four = r / 4 * 4, n_blocks = (unsigned)x.n_blocks;
        struct weights_place at;
        at.group = four * n_blocks + (unsigned)g * (LAYOUT_WARP_ROWS * LAYOUT_SLOTS);
        at.n = n * LAYOUT_WARP_ROWS;
        at.i = r % 4 * n + (slot < n ? slot : n - 1);
        at.top = four * ((n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS) + (unsigned)g * LAYOUT_WARP_ROWS + r % 4;
        return at;
    }

    /* Blocks of group g: 0 beyond the last. */
    __device__ __forceinline__ unsigned in_group(int g) const
    {
        const int left = x.n_blocks - g * LAYOUT_SLOTS;
        return left < 0 ? 0 : left < LAYOUT_SLOTS ? (unsigned)left : LAYOUT_SLOTS;
    }

    /* Asks for the pieces of group g; one group of copies, if empty. */
    template <int TYPE> __device__ __forceinline__ void copy(const uint8_t *w, int g) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE, S> B;
        const unsigned n = in_group(g), i = lean<TYPE>(), first = (unsigned)pass * S;
        unsigned char *to = shared + g % MANY_STAGES * B::stage;
        const unsigned in_row = 2 * S, at = i % in_row; /* pieces of a row of x */
        if (first + at / 2 < n) {
            DEVICE_UNROLL
            for (int k = 0; k < 2; k++) {
                const unsigned r = i / in_row + (unsigned)k * (MANY_THREADS / in_row);
                const size_t b = row(r) * (uint32_t)x.n_blocks + (uint32_t)g * LAYOUT_SLOTS + first;
                dev_cp_async16(to + (r * in_row + (at ^ r % 8)) * MANY_PIECE, x.q + b * DEVICE_BLOCK + at * MANY_PIECE);
            }
        }
        if constexpr (B::pieces) {
            const unsigned r = i / S % LAYOUT_ROWS, slot = i % S, stripe_at = i / S / LAYOUT_ROWS * LAYOUT_ROWS * S;
            const struct weights_place e = place(i, g, n);
            if (first + slot < n) {
                DEVICE_UNROLL
                for (int c = 0; c < T::chunks; c++)
                    dev_cp_async16(to + B::quants + (c * MANY_ENTRIES + stripe_at + piece(r, slot)) * MANY_PIECE,
                                   w + (e.group * T::chunks + c * e.n + e.i) * MANY_PIECE);
            }
        }
        dev_cp_commit();
    }

    /* A thread's block of weights and block of x: output and row i / S, slot i % S. */
    template <int TYPE> struct entry {
        struct weights_block<TYPE> w; /* but for pieces */
        float d;
        uint32_t sums;
    };

    template <int TYPE> __device__ __forceinline__ void load(const uint8_t *w, int g, struct entry<TYPE> *out) const
    {
        const unsigned n = in_group(g), i = lean<TYPE>(), slot = (unsigned)pass * S + i % S;
        const uint32_t at = row(i / S) * (uint32_t)x.n_blocks + (uint32_t)g * LAYOUT_SLOTS + (slot < n ? slot : n - 1);
        out->w = weights_load<TYPE>(w, x.n_blocks, place(i, g, n));
        out->d = x.d[at];
        out->sums = ((const uint32_t *)x.sums)[at];
    }

    /* Leaves it for the warps, as what they need. */
    template <int TYPE> __device__ __forceinline__ void put(const struct entry<TYPE> &e, int g) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE, S> B;
        const unsigned i = lean<TYPE>(), slot = i % S, r = i / S;
        unsigned char *to = shared + MANY_STAGES * B::stage + g % 2 * B::small;
        uint32_t *word = (uint32_t *)to + (r / LAYOUT_ROWS * S + slot) * M::plane + r % LAYOUT_ROWS;
        const struct weights_factors f = weights_factors_of<TYPE>(e.w, pass * S + (int)slot);
        DEVICE_UNROLL
        for (int h = 0; h < B::n_d; h++)
            word[h * B::plane_words] = num_bits_from_f32(f.d[h]);
        DEVICE_UNROLL
        for (int h = 0; h < T::n_min; h++)
            word[(B::n_d + h) * B::plane_words] = num_bits_from_f32(f.min[h]);
        DEVICE_UNROLL
        for (int h = 0; h < B::n_high; h++)
            word[(B::n_d + T::n_min + h) * B::plane_words] = e.w.high[h];
        DEVICE_UNROLL
        for (int h = 0; h < B::n_quants; h++)
            word[(B::n_d + T::n_min + B::n_high + h) * B::plane_words] = e.w.quants[h];
        const struct matrix_x v = matrix_x_of<TYPE>(e.d, e.sums);
        ((uint2 *)(to + B::pairs))[slot * M::pairs + r] = make_uint2(num_bits_from_f32(v.d), v.v[0]);
        if (T::halves)
            ((uint32_t *)(to + B::thirds))[slot * M::thirds + r] = v.v[1];
    }

    /* Plane k of the lane's four outputs. */
    template <int TYPE> __device__ __forceinline__ void plane(const unsigned char *small, int k, uint32_t out[4]) const
    {
        const uint32_t *at = (const uint32_t *)small + k * many_buffer<TYPE, S>::plane_words + warp() * M::plane;
        const uint4 v = *(const uint4 *)(at + thread % 32 / 4 * 4);
        out[0] = v.x;
        out[1] = v.y;
        out[2] = v.z;
        out[3] = v.w;
    }

    /* Words t and 4 + t, t = lane % 4, of the lane's four outputs. */
    template <int TYPE> __device__ __forceinline__ void words(const unsigned char *stage, const unsigned char *small, int a[4][2]) const
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE, S> B;
        const unsigned l = thread % 32, t = l % 4;
        uint32_t high[2][4] = {{0}};
        DEVICE_UNROLL
        for (int h = 0; h < B::n_high; h++)
            plane<TYPE>(small, B::n_d + T::n_min + h, high[h]);
        int low[2][4];
        if constexpr (B::pieces) {
            const unsigned char *at = stage + B::quants + (warp() / S * LAYOUT_ROWS * S + piece(4 * (l % 8) + l / 8, warp() % S)) * MANY_PIECE;
            DEVICE_UNROLL
            for (int c = 0; c < T::chunks; c++)
                dev_ldmatrix_x4(low[c], at + c * MANY_ENTRIES * MANY_PIECE);
        } else {
            uint32_t pairs[2][4];
            DEVICE_UNROLL
            for (int h = 0; h < 2; h++)
                plane<TYPE>(small, B::n_d + T::n_min + B::n_high + h, pairs[h]);
            DEVICE_UNROLL
            for (int h = 0; h < 8; h++)
                low[h / 4][h % 4] = (int)(pairs[h / 4][h % 4] >> 2 * t & 0x03030303u);
        }
        DEVICE_UNROLL
        for (int q = 0; q < 4; q++) {
            uint32_t v[2] = {(uint32_t)low[0][q], (uint32_t)low[B::pieces && T::chunks == 1 ? 0 : 1][q]};
            if (B::pieces && T::chunks == 1) {
                v[0] = v[0] & 0x0f0f0f0fu;
                v[1] = v[1] >> 4 & 0x0f0f0f0fu;
            }
            DEVICE_UNROLL
            for (int h = 0; h < 2; h++)
                if (T::high == 4)
                    v[h] |= (high[0][q] >> (4 * h + t) & 0x01010101u) << (T::five ? 4 : 2);
                else if (T::high == 8)
                    v[h] |= (high[h][q] >> 2 * t & 0x03030303u) << 4;
            a[q][0] = (int)v[0];
            a[q][1] = (int)v[1];
        }
    }

    /* Factors of the lane's four outputs. */
    template <int TYPE> __device__ __forceinline__ void factors(const unsigned char *small, struct weights_factors f[4]) const
    {
        typedef many_buffer<TYPE, S> B;
        uint32_t d[2][4], min[2][4] = {{0}};
        DEVICE_UNROLL
        for (int h = 0; h < B::n_d; h++)
            plane<TYPE>(small, h, d[h]);
        DEVICE_UNROLL
        for (int h = 0; h < weights_type<TYPE>::n_min; h++)
            plane<TYPE>(small, B::n_d + h, min[h]);
        DEVICE_UNROLL
        for (int q = 0; q < 4; q++)
            f[q] = {{num_f32_from_bits(d[0][q]), num_f32_from_bits(d[B::n_d - 1][q])}, {num_f32_from_bits(min[0][q]), num_f32_from_bits(min[1][q])}};
    }

    /* The warp's block of a group into the chains of tiles m0 .. m0 + n - 1 of 16 outputs. */
    template <int TYPE> __device__ __forceinline__ void multiply(const unsigned char *stage, const unsigned char *small, int m0, int n)
    {
        typedef weights_type<TYPE> T;
        typedef many_buffer<TYPE, S> B;
        const unsigned slot = warp() % S, l = thread % 32, r = l / 16 * 8 + l % 8;
        const unsigned char *q = stage + (r * 2 * S + ((2 * slot + l / 8 % 2) ^ l % 8)) * MANY_PIECE;
        const unsigned char *pairs_at = small + B::pairs + (slot * M::pairs + 2 * (l % 4)) * 8;
        const unsigned char *thirds_at = small + B::thirds + (slot * M::thirds + 2 * (l % 4)) * 4;
        int a[4][2];
        words<TYPE>(stage, small, a);
        struct weights_factors f[4];
        factors<TYPE>(small, f);
        DEVICE_UNROLL
        for (int j = 0; j < M::rows / 8; j += 2) {
            if (r0 + 8 * j >= n_rows) /* the whole block of threads agrees */
                continue;
            int b[4]; /* both words of row 8 j + l / 4 of x, then of row 8 j + 8 + l / 4 */
            dev_ldmatrix_x4(b, q + 8 * j * 2 * S * MANY_PIECE);
            DEVICE_UNROLL
            for (int k = 0; k < 2; k++) {
                const uint4 pairs = *(const uint4 *)(pairs_at + 8 * (j + k) * 8);
                struct matrix_x v[2] = {{num_f32_from_bits(pairs.x), {pairs.y, 0}}, {num_f32_from_bits(pairs.z), {pairs.w, 0}}};
                if constexpr (T::halves) {
                    const uint2 thirds = *(const uint2 *)(thirds_at + 8 * (j + k) * 4);
                    v[0].v[1] = thirds.x;
                    v[1].v[1] = thirds.y;
                }
                DEVICE_UNROLL
                for (int m = m0; m < m0 + n; m++)
                    tile<TYPE>(f + 2 * m, a[2 * m], a[2 * m + 1], b + 2 * k, v, acc[m][j + k]);
            }
        }
    }

    /* 16 outputs, upper and lower eight, by 8 rows of x. */
    template <int TYPE>
    __device__ __forceinline__ void tile(const struct weights_factors f[2], const int upper[2], const int lower[2], const int b[2],
                                         const struct matrix_x v[2], float to[4])
    {
        typedef weights_type<TYPE> T;
        int sum[2][4];
        DEVICE_UNROLL
        for (int i = 0; i < 4; i++) {
            sum[0][i] = matrix_start<TYPE>(v[i % 2], 0);
            sum[1][i] = T::halves ? matrix_start<TYPE>(v[i % 2], 1) : 0;
        }
        if constexpr (T::halves) {
            const int first[2] = {upper[0], lower[0]}, second[2] = {upper[1], lower[1]};
            dev_mma_s8_k16(sum[0], first, b);
            dev_mma_s8_k16(sum[1], second, b + 1);
        } else {
            const int both[4] = {upper[0], lower[0], upper[1], lower[1]};
            dev_mma_s8_k32(sum[0], both, b);
        }
        DEVICE_UNROLL
        for (int i = 0; i < 4; i++)
            to[i] = matrix_mac<TYPE>(f[i / 2], sum[0][i], sum[1][i], v[i % 2], to[i]);
    }

    template <int TYPE> __device__ __forceinline__ void run()
    {
        if constexpr (!weights_type<TYPE>::is_float) {
            typedef many_buffer<TYPE, S> B;
            thread = many_fresh(thread); /* nothing is computed for all types at once */
            const uint8_t *w = part + (size_t)stripe * weights_stripe_bytes<TYPE>(x.n_blocks);
            const int n_groups = (x.n_blocks + LAYOUT_SLOTS - 1) / LAYOUT_SLOTS;
            struct entry<TYPE> next;
            load<TYPE>(w, 0, &next);
            DEVICE_LOOP
            for (int g = 0; g < MANY_STAGES - 1; g++)
                copy<TYPE>(w, g);
            put<TYPE>(next, 0);
            DEVICE_LOOP
            for (int g = 0; g < n_groups; g++) {
                dev_cp_wait(MANY_STAGES - 2);
                __syncthreads(); /* all of this group is here, and nobody reads what the last one had any more */
                if (g + 1 < n_groups)
                    load<TYPE>(w, g + 1, &next);
                copy<TYPE>(w, g + MANY_STAGES - 1);
                if (g * LAYOUT_SLOTS + pass * S + (int)(warp() % S) < x.n_blocks) {
                    const unsigned char *stage = shared + g % MANY_STAGES * B::stage, *small = shared + MANY_STAGES * B::stage + g % 2 * B::small;
                    DEVICE_UNROLL
                    for (int m = 0; m < 2; m += B::at_once)
                        multiply<TYPE>(stage, small, m, B::at_once);
                }
                if (g + 1 < n_groups)
                    put<TYPE>(next, g + 1);
            }
        }
    }
};

/* Leaves the chains of 32 rows of x, from row 8 J on, in shared memory: slot, row, output. */
template <int S, int J>
static __device__ __forceinline__ void many_leave(const float (&acc)[2][many_shape<S>::rows / 8][4], unsigned thread, float *chains)
{
    typedef many_shape<S> M;
    const unsigned warp = thread / 32, lane = thread % 32;
    DEVICE_UNROLL
    for (int i = 0; i < 8; i++) {
        const int j = J + i / 2, c = i % 2;
        const unsigned r = 8 * (unsigned)(i / 2) + 2 * (lane % 4) + (unsigned)c;
        *(float4 *)(chains + (warp % S * MANY_ROUND + r) * M::chain + warp / S * LAYOUT_ROWS + lane / 4 * 4) =
            make_float4(acc[0][j][c], acc[0][j][2 + c], acc[1][j][c], acc[1][j][2 + c]);
    }
}

/* One output of one row of x: the fold of half the slots, or of all. */
template <int S> static __device__ __forceinline__ float many_fold(const float *chain)
{
    float v[S];
    DEVICE_UNROLL
    for (int j = 0; j < S; j++)
        v[j] = chain[j * MANY_ROUND * many_shape<S>::chain];
    const float half = (v[0] + v[1]) + (v[2] + v[3]);
    return S == 4 ? half : half + ((v[4 % S] + v[5 % S]) + (v[6 % S] + v[7 % S]));
}

/* What a block of threads does in turn: passes of its tile, or of its tiles. */
template <int S> struct many_turn {
    typedef many_shape<S> M;
    const struct device_product &p;
    int k, r0;
    __device__ __forceinline__ int tiles() const
    {
        const int epilogue = (int)many_fresh((unsigned)p.epilogue);
        return epilogue == EPILOGUE_SCORES ? DEVICE_SCORES / M::outputs : epilogue == EPILOGUE_PAIR && M::stripes == 1 ? 2 : 1;
    }
    __device__ __forceinline__ int tile() const { return (int)blockIdx.y * tiles() + k / M::passes; }
    __device__ __forceinline__ bool first_tile() const { return k < M::passes; }
    __device__ __forceinline__ bool first_pass() const { return k % M::passes == 0; }
    __device__ __forceinline__ bool last_pass() const { return k % M::passes == M::passes - 1; }
    __device__ __forceinline__ bool last() const { return k == tiles() * M::passes - 1; }
};

/* The chains of 32 rows of x become outputs, or wait: a warp has rows, a lane has outputs. */
template <int S>
static __device__ __forceinline__ void many_finish(const struct device_product &p, const struct many_turn<S> &turn, int round, unsigned char *shared)
{
    typedef many_shape<S> M;
    const struct matrix_stripe s = matrix_stripe_of(p.m, turn.tile(), M::stripes); /* of a pair, unused */
    const unsigned thread = many_fresh(threadIdx.x);
    const int warp = (int)(thread / 32), lane = (int)(thread % 32);
    const bool pair = p.epilogue == EPILOGUE_PAIR, last = turn.last(), gate_waits = pair && M::stripes == 1 && !last;
    const int n_rows = matrix_rows(p);
    float *maxima = (float *)(shared + many_shared<S>::maxima);
    bool finite = true;
    DEVICE_LOOP
    for (int r = warp; r < MANY_ROUND; r += MANY_THREADS / 32) {
        const int row = round * MANY_ROUND + r;
        const float *chain = (const float *)(shared + many_shared<S>::ring) + r * M::chain + lane;
        float *waits = (float *)shared + row * M::outputs + lane, most = -INFINITY, x[M::stripes];
        DEVICE_UNROLL
        for (int o = 0; o < M::stripes; o++) {
            const int out = o * LAYOUT_ROWS + lane;
            x[o] = many_fold<S>(chain + o * LAYOUT_ROWS);
            if (!turn.first_pass())
                x[o] = waits[o * LAYOUT_ROWS] + x[o];
            if (!turn.last_pass() || gate_waits) {
                waits[o * LAYOUT_ROWS] = x[o];
            } else if (!pair && turn.r0 + row < n_rows && out < s.n) {
                const float y = matrix_put(p, turn.r0 + row, s.first_out + out, x[o]);
                most = y > most ? y : most;
                finite = finite && y - y == 0.0f;
            }
        }
        if (pair && last)
            waits[0] = matrix_activate(p.act, M::stripes == 1 ? waits[0] : x[0]) * x[M::stripes - 1];
        if (p.epilogue == EPILOGUE_SCORES && turn.last_pass()) {
            for (int step = 16; step > 0; step /= 2) {
                const float other = __shfl_xor_sync(ALL_LANES, most, step);
                most = other > most ? other : most;
            }
            if (lane == 0)
                maxima[row] = turn.first_tile() || most > maxima[row] ? most : maxima[row];
        }
    }
    if (p.epilogue == EPILOGUE_SCORES && !finite)
        atomicOr(p.fault, 1);
}

template <int S> __global__ void __launch_bounds__(MANY_THREADS, S == LAYOUT_SLOTS ? 2 : 1) matrix_many(const struct device_product p)
{
    DYNAMIC_SHARED(shared);
    typedef many_shape<S> M;
    const bool pair = p.epilogue == EPILOGUE_PAIR, scores = p.epilogue == EPILOGUE_SCORES;
    struct many_turn<S> turn = {p, 0, (int)blockIdx.x * M::rows};
    unsigned char *ring = shared + many_shared<S>::ring;
    DEVICE_LOOP
    for (; turn.r0 < matrix_rows(p) && turn.k < turn.tiles() * M::passes; turn.k++) {
        const int tile = turn.tile(), which = (int)(many_fresh(threadIdx.x) / (32 * S));
        if (scores && tile * M::outputs >= p.m.n_rows)
            break;
        struct matrix_stripe s = pair ? matrix_stripe_of(p.m, tile * M::stripes + which, 1) : matrix_stripe_of(p.m, tile, M::stripes);
        if (!pair && which * LAYOUT_ROWS < s.n) /* there is another beside it */
            s.idx += which;
        float acc[2][M::rows / 8][4];
        DEVICE_UNROLL
        for (int j = 0; j < M::rows; j++)
            acc[j % 2][j / 8][j / 2 % 4] = 0.0f;
        struct many_dots<S> dots = {p.x, s.w, s.idx, turn.k % M::passes, turn.r0, p.n_rows, threadIdx.x, ring, acc};
        weights_switch(s.type, dots);
        DEVICE_LOOP
        for (int round = 0; round < M::rows / MANY_ROUND; round++) {
            __syncthreads(); /* the ring has been read, or the last round's chains */
            if (round == 0)
                many_leave<S, 0>(acc, many_fresh(threadIdx.x), (float *)ring);
            else
                many_leave<S, M::rows / 8 - 4>(acc, many_fresh(threadIdx.x), (float *)ring);
            __syncthreads();
            many_finish<S>(p, turn, round, shared);
        }
        __syncthreads(); /* the last chains have been read, and all of a pair is here */
    }
    const int n_rows = matrix_rows(p);
    if (pair) {
        DEVICE_LOOP
        for (int r = (int)threadIdx.x / 8; r < M::rows; r += MANY_THREADS / 8) { /* eight lanes a row of x, four values a lane */
            const struct quad values = quad_load((const float *)shared + r * M::outputs, (int)threadIdx.x % 8 * OPERAND_QUAD, LAYOUT_ROWS);
            operand_put(p.to, p.needs, turn.r0 + r, turn.r0 + r < n_rows ? (int)blockIdx.y : p.to.n_blocks, values, p.fault);
        }
    } else if (scores) {
        for (int r = (int)threadIdx.x; r < M::rows; r += MANY_THREADS)
            if (turn.r0 + r < n_rows)
                p.most[(size_t)(turn.r0 + r) * gridDim.y + blockIdx.y] = ((const float *)(shared + many_shared<S>::maxima))[r];
    }
}

/* Bytes of shared memory that a type needs for its ring. */
template <int S> static int many_bytes(int type)
{
    switch (type) {
#define MANY_BYTES(t, ...)     case t: return many_buffer<t, S>::bytes;
        LAYOUT_TABLE(MANY_BYTES)
#undef MANY_BYTES
    default: return 0;
    }
}

template <int S> static cudaError_t launch_many(const struct device_product *p, cudaStream_t stream)
{
    typedef many_shape<S> M;
    matrix_check(p);
    int bytes = many_shared<S>::chains;
    for (int i = 0; i < p->m.n_parts; i++) {
        assert(!matrix_is_float(p->m.parts[i].type));
        const int needed = many_bytes<S>(p->m.parts[i].type);
        bytes = needed > bytes ? needed : bytes;
    }
    bytes += many_shared<S>::ring;
    cudaError_t error = cudaFuncSetAttribute((const void *)matrix_many<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess)
        return error;
    const dim3 grid((unsigned)((p->n_rows + M::rows - 1) / M::rows), (unsigned)matrix_n_tiles(*p, M::stripes));
    LAUNCH(matrix_many<S>, grid, dim3(MANY_THREADS), (size_t)bytes, stream, *p);
    return cudaGetLastError();
}

extern "C" cudaError_t launch_product_many(const struct device_product *p, cudaStream_t stream)
{
    return launch_many<8>(p, stream);
}

extern "C" cudaError_t launch_product_large(const struct device_product *p, cudaStream_t stream)
{
    assert(!p->m.pair || p->m.parts[0].type == p->m.parts[1].type);
    return launch_many<4>(p, stream);
}

// bugs_kernel.cu: planted bugs of kernels: races, barriers, bounds, memory that nobody wrote, alignment, arithmetic that a GPU does otherwise.
#include "bugs.h"

#define N 128

// ---- barriers ----

// Each thread takes its neighbour's value of shared memory: it must have been written.
template <bool BUGGY> __global__ void read_after_write(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    s[i] = (float)i;
    if (!BUGGY)
        __syncthreads();
    out[blockIdx.x * N + i] = s[(i + 1) % N];
}

template <bool BUGGY> __global__ void write_after_read(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    s[i] = (float)i;
    __syncthreads();
    float v = s[(i + 1) % N];
    if (!BUGGY)
        __syncthreads();
    s[i] = v * 2.0f;
    out[blockIdx.x * N + i] = v;
}

template <bool BUGGY> __global__ void no_sync_warp(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    s[i] = (float)i;
    float zero = __shfl_xor_sync(ALL_LANES, 0.0f, 1); // exchanges, but orders no memory
    if (!BUGGY)
        __syncwarp();
    out[blockIdx.x * N + i] = s[i / 32 * 32 + (i + 1) % 32] + zero + ((i + 1) % 32 == 0 && i + 1 < N ? 32.0f : i + 1 == N ? -96.0f : 0.0f);
}

// A sum over rounds through one array: between rounds a barrier, too.
template <bool BUGGY> __global__ void barrier_of_next_round(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    float sum = 0.0f;
    for (int round = 0; round < 4; round++) {
        s[i] = (float)(i + round);
        __syncthreads();
        sum += s[(i + 1) % N];
        if (!BUGGY || round == 3)
            __syncthreads();
    }
    out[blockIdx.x * N + i] = (sum - 6.0f) / 4.0f;
}

template <bool BUGGY> __global__ void divergent_barrier(float *out)
{
    int i = threadIdx.x;
    if (!BUGGY || i < 64)
        __syncthreads();
    out[blockIdx.x * N + i] = (float)((i + 1) % N);
}

template <bool BUGGY> __global__ void two_barriers(float *out)
{
    int i = threadIdx.x;
    if (BUGGY && i < 64) {
        __syncthreads();
    } else {
        out[blockIdx.x * N + i] = 2.0f;
        __syncthreads();
    }
    out[blockIdx.x * N + i] = (float)((i + 1) % N);
}

template <bool BUGGY> __global__ void early_return(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    if (BUGGY && i >= 100)
        return;
    s[i] = (float)i;
    __syncthreads();
    out[blockIdx.x * N + i] = s[(i + 1) % N];
}

template <bool BUGGY> __global__ void divergent_shuffle(float *out)
{
    int i = threadIdx.x;
    float v = (float)i;
    if (!BUGGY || i % 32 < 16)
        v = __shfl_xor_sync(ALL_LANES, v, 1);
    out[blockIdx.x * N + i] = (float)(((int)v ^ 1) + 1 == N ? 0 : ((int)v ^ 1) + 1);
}

// Lanes that leave a loop before the others, which still exchange.
template <bool BUGGY> __global__ void uneven_loop(float *out)
{
    int i = threadIdx.x, rounds = BUGGY ? 1 + i % 3 : 3;
    float v = 0.0f;
    for (int r = 0; r < rounds; r++)
        v = __shfl_sync(ALL_LANES, (float)r, 0);
    out[blockIdx.x * N + i] = (float)((i + 1) % N) + v - 2.0f;
}

// Runs a kernel that gives out[i] = (i + 1) % 128 in each of four blocks.
static bool neighbours(void (*kernel)(float *))
{
    device<float> out(4 * N);
    out.clear();
    LAUNCH(kernel, dim3(4), dim3(N), 0, NULL, out.p);
    auto got = out.get();
    bool same = true;
    for (int i = 0; i < 4 * N; i++)
        same &= got[(size_t)i] == (float)((i + 1) % N);
    return same;
}
#define NEIGHBOURS(kernel)                                          \
    template <bool BUGGY> static bool kernel##_test(void) \
    {                                                     \
        return neighbours(kernel<BUGGY>);                 \
    }
NEIGHBOURS(read_after_write)
NEIGHBOURS(write_after_read)
NEIGHBOURS(no_sync_warp)
NEIGHBOURS(barrier_of_next_round)
NEIGHBOURS(divergent_barrier)
NEIGHBOURS(two_barriers)
NEIGHBOURS(early_return)
NEIGHBOURS(divergent_shuffle)
NEIGHBOURS(uneven_loop)

__global__ void whole_warps(int *out)
{
    out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, (int)threadIdx.x, 1);
}
template <bool BUGGY> static bool partial_warp(void)
{
    device<int> out(64);
    out.clear();
    LAUNCH(whole_warps, dim3(1), dim3(BUGGY ? 48 : 64), 0, NULL, out.p);
    return out.get()[47] == 46;
}

// ---- bounds ----

template <bool BUGGY> __global__ void copy_next(float *out, const float *in, int n)
{
    int i = threadIdx.x;
    out[i] = i + 1 < n || BUGGY ? in[i + 1] : 0.0f;
}
template <bool BUGGY> static bool read_past_end(void)
{
    device<float> out(N), in(N);
    in.put(count_up<float>(N));
    LAUNCH(copy_next<BUGGY>, dim3(1), dim3(N), 0, NULL, out.p, (const float *)in.p, N);
    return out.get()[0] == 1.0f;
}

__global__ void write_at(float *out, int offset)
{
    out[(int)threadIdx.x + offset] = 1.0f;
}
template <bool BUGGY> static bool write_past_end(void)
{
    device<float> out(N);
    LAUNCH(write_at, dim3(1), dim3(N), 0, NULL, out.p, BUGGY ? 1 : 0);
    return out.get()[N - 1] == 1.0f;
}
template <bool BUGGY> static bool write_past_odd_end(void) // between the end and the page that nobody may touch
{
    device<float> out(N + 1);
    LAUNCH(write_at, dim3(1), dim3(N), 0, NULL, out.p, BUGGY ? 2 : 1);
    return out.get()[N] == 1.0f;
}
template <bool BUGGY> static bool write_far_away(void)
{
    device<float> out(N);
    LAUNCH(write_at, dim3(1), dim3(N), 0, NULL, out.p, BUGGY ? 1 << 16 : 0);
    return BUGGY || out.get()[0] == 1.0f;
}
template <bool BUGGY> static bool write_before_start(void)
{
    device<float> out(N);
    LAUNCH(write_at, dim3(1), dim3(N), 0, NULL, out.p, BUGGY ? -1 : 0);
    return out.get()[0] == 1.0f;
}

template <bool BUGGY> __global__ void fill_shared(float *out)
{
    SHARED(float, a, 100);
    SHARED(float, b, 100);
    int i = threadIdx.x;
    if (i < 100)
        b[i] = 0.0f;
    if (i < (BUGGY ? 101 : 100))
        a[i] = (float)i;
    __syncthreads();
    out[i] = a[i % 100] + b[i % 100];
}
template <bool BUGGY> static bool shared_overrun(void)
{
    device<float> out(N);
    LAUNCH(fill_shared<BUGGY>, dim3(1), dim3(N), 0, NULL, out.p);
    return out.get()[99] == 99.0f;
}

__global__ void fill_dynamic(float *out)
{
    DYNAMIC_SHARED(bytes);
    float *s = (float *)bytes;
    s[threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[N - 1 - threadIdx.x];
}
template <bool BUGGY> static bool dynamic_overrun(void)
{
    device<float> out(N);
    LAUNCH(fill_dynamic, dim3(1), dim3(N), (N - (BUGGY ? 1 : 0)) * sizeof(float), NULL, out.p);
    return out.get()[1] == N - 2;
}

// ---- memory that nobody wrote ----

template <bool BUGGY> __global__ void reverse(float *out)
{
    SHARED(float, s, N);
    int i = threadIdx.x;
    if (!BUGGY || i < N - 1)
        s[i] = (float)i;
    __syncthreads();
    out[i] = s[N - 1 - i];
}
template <bool BUGGY> static bool unwritten_shared(void)
{
    device<float> out(N);
    LAUNCH(reverse<BUGGY>, dim3(1), dim3(N), 0, NULL, out.p);
    return out.get()[0] == N - 1;
}

__global__ void add_one(float *out, const float *in)
{
    out[threadIdx.x] = in[threadIdx.x] + 1.0f;
}
template <bool BUGGY> static bool unwritten_global(void)
{
    device<float> out(N), in(N);
    if (!BUGGY)
        in.clear();
    LAUNCH(add_one, dim3(1), dim3(N), 0, NULL, out.p, (const float *)in.p);
    return out.get()[5] == 1.0f;
}

// A maximum swallows NaN; huge numbers it does not.
__global__ void largest(float *out, const float *in)
{
    float m = in[threadIdx.x];
    for (int k = 16; k > 0; k /= 2)
        m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, k));
    out[threadIdx.x] = m;
}
template <bool BUGGY> static bool unwritten_maximum(void)
{
    device<float> out(32), in(32);
    auto v = count_up<float>(BUGGY ? 31 : 32, 32.0f, -1.0f);
    in.put(v);
    LAUNCH(largest, dim3(1), dim3(32), 0, NULL, out.p, (const float *)in.p);
    return out.get()[0] == 32.0f;
}

template <bool BUGGY> __global__ void sum_local(float *out, int n)
{
    float v[4], sum = 0.0f;
    for (int i = 0; i < (BUGGY ? n - 1 : n); i++)
        v[i] = 1.0f;
    for (int i = 0; i < n; i++)
        sum += v[i];
    out[threadIdx.x] = sum;
}
template <bool BUGGY> static bool unwritten_local(void)
{
    device<float> out(32);
    LAUNCH(sum_local<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p, 4);
    return out.get()[3] == 4.0f;
}

__global__ void count_in(int *count)
{
    atomicAdd(count, 1);
}
template <bool BUGGY> static bool counter_not_cleared(void)
{
    device<int> count(1);
    if (!BUGGY)
        count.clear();
    LAUNCH(count_in, dim3(4), dim3(N), 0, NULL, count.p);
    return count.get()[0] == 4 * N;
}

// ---- blocks and order ----

template <bool BUGGY> __global__ void one_cell(int *out)
{
    if (threadIdx.x == 0)
        out[BUGGY ? 0 : blockIdx.x] = (int)blockIdx.x;
}
template <bool BUGGY> static bool blocks_write_one_cell(void)
{
    device<int> out(8);
    out.clear();
    LAUNCH(one_cell<BUGGY>, dim3(8), dim3(32), 0, NULL, out.p);
    return out.get()[0] == (BUGGY ? 7 : 0); // what an ascending order gives
}

template <bool BUGGY> __global__ void add_to_cell(int *out)
{
    if (threadIdx.x == 0) {
        if (BUGGY)
            *out += 1;
        else
            atomicAdd(out, 1);
    }
}
template <bool BUGGY> static bool plain_addition(void)
{
    device<int> out(1);
    out.clear();
    LAUNCH(add_to_cell<BUGGY>, dim3(8), dim3(32), 0, NULL, out.p);
    return out.get()[0] == 8;
}

// A float added by compare-and-swap: no race, but the sum depends on who came first.
__global__ void float_atomic(unsigned *sum)
{
    float v = 1.0f / (float)(1 + threadIdx.x + blockIdx.x * 37);
    unsigned old = atomicOr(sum, 0u), seen;
    do {
        seen = old;
        old = atomicCAS(sum, seen, __float_as_uint(__uint_as_float(seen) + v));
    } while (old != seen);
}
__global__ void float_in_order(unsigned *sum)
{
    float s = 0.0f;
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < N; i++)
            s += 1.0f / (float)(1 + i + b * 37);
    if (threadIdx.x == 0)
        *sum = __float_as_uint(s);
}
template <bool BUGGY> static bool float_atomic_order(void)
{
    device<unsigned> sum(1);
    sum.clear();
    if (BUGGY)
        LAUNCH(float_atomic, dim3(4), dim3(N), 0, NULL, sum.p);
    else
        LAUNCH(float_in_order, dim3(1), dim3(N), 0, NULL, sum.p);
    float expected = 0.0f;
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < N; i++)
            expected += 1.0f / (float)(1 + i + b * 37);
    return __uint_as_float(sum.get()[0]) == expected;
}

// A list filled through an atomic counter: complete, in nobody's order.
template <bool BUGGY> __global__ void fill_list(int *count, int *list)
{
    int i = threadIdx.x, at = BUGGY ? atomicAdd(count, 1) : i;
    list[at] = i;
}
template <bool BUGGY> static bool list_by_atomic(void)
{
    device<int> count(1), list(N);
    count.clear();
    LAUNCH(fill_list<BUGGY>, dim3(1), dim3(N), 0, NULL, count.p, list.p);
    return list.get() == count_up<int>(N);
}

// ---- cp.async, ldmatrix, mma ----

enum copy_bug { COPY_GOOD, COPY_NO_WAIT, COPY_NO_BARRIER, COPY_WAIT_SHORT, COPY_REUSE, COPY_MISALIGNED };

// Two tiles of 32 x 16 bytes through a double buffer; each thread reads what its neighbour copied.
template <int BUGGY> __global__ void two_tiles(int *out, const int *in)
{
    SHARED(int4, s, 2 * 33);
    int i = threadIdx.x, sum = 0;
    for (int tile = 0; tile < 2; tile++) {
        int4 *to = s + 33 * tile + i;
        dev_cp_async16(BUGGY == COPY_MISALIGNED ? (void *)((char *)to + 8) : (void *)to, in + 128 * tile + 4 * i);
        dev_cp_commit();
    }
    for (int tile = 0; tile < 2; tile++) {
        if (BUGGY == COPY_NO_WAIT || (BUGGY == COPY_WAIT_SHORT && tile == 1)) {
        } else if (tile == 0) {
            dev_cp_wait(1);
        } else {
            dev_cp_wait(0);
        }
        if (BUGGY != COPY_NO_BARRIER)
            __syncthreads();
        sum += s[33 * tile + (i + 1) % 32].x;
        if (BUGGY == COPY_REUSE && tile == 0) { // the first tile's place is taken again while others still read it
            dev_cp_async16(s + i, in + 4 * i + 256);
            dev_cp_commit();
        }
    }
    dev_cp_wait(0);
    out[i] = sum;
}
template <int BUGGY> static bool copy_tiles(void)
{
    device<int> out(32), in(384);
    in.put(count_up<int>(384));
    LAUNCH(two_tiles<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p, (const int *)in.p);
    return out.get()[7] == 32 + 160;
}
template <bool BUGGY> static bool copy_not_waited_for(void) { return copy_tiles<BUGGY ? COPY_NO_WAIT : COPY_GOOD>(); }
template <bool BUGGY> static bool copy_without_barrier(void) { return copy_tiles<BUGGY ? COPY_NO_BARRIER : COPY_GOOD>(); }
template <bool BUGGY> static bool copy_one_group_short(void) { return copy_tiles<BUGGY ? COPY_WAIT_SHORT : COPY_GOOD>(); }
template <bool BUGGY> static bool copy_into_used_buffer(void) { return copy_tiles<BUGGY ? COPY_REUSE : COPY_GOOD>(); }
template <bool BUGGY> static bool copy_misaligned(void) { return copy_tiles<BUGGY ? COPY_MISALIGNED : COPY_GOOD>(); }

template <bool BUGGY> __global__ void load_rows(int *out)
{
    SHARED(int, s, 40 * 16);
    int i = threadIdx.x, pitch = BUGGY ? 9 : 12, r[4];
    for (int k = i; k < 40 * 16; k += 32)
        s[k] = k;
    __syncthreads();
    dev_ldmatrix_x4(r, s + i * pitch);
    out[i] = r[0];
}
template <bool BUGGY> static bool ldmatrix_misaligned(void)
{
    device<int> out(32);
    LAUNCH(load_rows<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p);
    return out.get()[5] == 13;
}

// D = A B with A[i][k] = 16 i + k: registers 1 and 2 are rows 8 on and columns 16 on, not the other way round.
template <bool BUGGY> __global__ void multiply_tile(int *out)
{
    int lane = threadIdx.x, g = lane / 4, t = lane % 4, a[4], b[2], d[4] = {0, 0, 0, 0};
    for (int r = 0; r < 4; r++) {
        int row = g + (BUGGY ? r / 2 : r % 2) * 8, column = 4 * t + (BUGGY ? r % 2 : r / 2) * 16;
        a[r] = 0;
        for (int k = 0; k < 4; k++)
            a[r] |= (int)((unsigned)(row * 3 + column + k) << 8 * k);
    }
    b[0] = t == 0 ? 1 : 0; // B[k][n]: 1 at k = 0
    b[1] = t == 1 ? 2 : 0; // 2 at k = 20
    dev_mma_s8_k32(d, a, b);
    out[lane] = d[2];
}
template <bool BUGGY> static bool fragments_swapped(void)
{
    device<int> out(32);
    LAUNCH(multiply_tile<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p);
    int row = 2 + 8; // of d[2] in lane 8
    return out.get()[8] == row * 3 + 2 * (row * 3 + 20);
}

// ---- alignment and arithmetic ----

template <bool BUGGY> __global__ void load_vector(int *out, const int *in)
{
    int4 v = *(const int4 *)(in + (BUGGY ? 1 : 4) * threadIdx.x);
    out[threadIdx.x] = v.x;
}
template <bool BUGGY> static bool vector_misaligned(void)
{
    device<int> out(32), in(128);
    in.put(count_up<int>(128));
    LAUNCH(load_vector<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p, (const int *)in.p);
    return out.get()[8] == (BUGGY ? 8 : 32);
}

// Casts of what does not fit: a GPU saturates, and gives 0 for NaN; the intrinsic says so everywhere.
template <bool BUGGY> __global__ void round_down(int *out, const float *in)
{
    float v = in[threadIdx.x];
    out[threadIdx.x] = BUGGY ? (int)v : __float2int_rz(v);
}
template <bool BUGGY> static bool cast_out_of_range(void)
{
    device<int> out(32);
    device<float> in(32);
    auto v = count_up<float>(32, 0.0f, 4e8f);
    v[1] = NAN;
    in.put(v);
    LAUNCH(round_down<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p, (const float *)in.p);
    auto got = out.get();
    return got[1] == 0 && got[2] == 800000000 && got[31] == 2147483647;
}

template <bool BUGGY> __global__ void wide_index(long long *out, int row, int columns)
{
    out[threadIdx.x] = BUGGY ? row * columns : (long long)row * columns;
}
template <bool BUGGY> static bool index_overflow(void)
{
    device<long long> out(32);
    LAUNCH(wide_index<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p, 100000, 50000);
    return out.get()[0] == 5000000000ll;
}

template <bool BUGGY> __global__ void shift(int *out)
{
    int n = (int)threadIdx.x + (BUGGY ? 1 : 0);
    out[threadIdx.x] = (int)(1u << n);
}
template <bool BUGGY> static bool shift_by_32(void)
{
    device<int> out(32);
    LAUNCH(shift<BUGGY>, dim3(1), dim3(32), 0, NULL, out.p);
    return out.get()[3] == (BUGGY ? 16 : 8);
}

const struct bug kernel_bugs[] = {
#define TESTED(name) {#name, name##_test<false>, name##_test<true>}
    TESTED(read_after_write), TESTED(write_after_read), TESTED(no_sync_warp), TESTED(barrier_of_next_round), TESTED(divergent_barrier),
    TESTED(two_barriers), TESTED(early_return), TESTED(divergent_shuffle), TESTED(uneven_loop),
    BUG(partial_warp),
    BUG(read_past_end), BUG(write_past_end), BUG(write_past_odd_end), BUG(write_far_away), BUG(write_before_start), BUG(shared_overrun),
    BUG(dynamic_overrun),
    BUG(unwritten_shared), BUG(unwritten_global), BUG(unwritten_maximum), BUG(unwritten_local), BUG(counter_not_cleared),
    BUG(blocks_write_one_cell), BUG(plain_addition), BUG(float_atomic_order), BUG(list_by_atomic),
    BUG(copy_not_waited_for), BUG(copy_without_barrier), BUG(copy_one_group_short), BUG(copy_into_used_buffer), BUG(copy_misaligned),
    BUG(ldmatrix_misaligned), BUG(fragments_swapped),
    BUG(vector_misaligned), BUG(cast_out_of_range), BUG(index_overflow), BUG(shift_by_32),
};
const int n_kernel_bugs = sizeof kernel_bugs / sizeof kernel_bugs[0];

// bugs_matrix.cu: bugs planted in the kernels of engine/backend/cuda/matrix_many.cu themselves. They are read here with words of the vocabulary
// (device.cuh) that go wrong when told to: a bug changes one instruction of the real kernel. The right result is what the kernel gives unharmed; that
// this is right is test_matrix.c's business.
#include "bugs.h"

enum planted { NOTHING, NO_WAIT, NO_COMMIT, LONG_COPY, FRAGMENT, WRONG_ROW, ODD_ROW, SHORT_SHARED, NO_BARRIER };
static enum planted planted;

// Barriers in the order in which the kernel comes to them; the unharmed run learns their lines, and which is left out.
static int barrier_lines[8], left_out;
static bool barrier_is_left_out(int line)
{
    int i = 0;
    for (int seen = -1; i < 8; i++) {
        seen = __atomic_load_n(&barrier_lines[i], __ATOMIC_RELAXED);
        if (seen == 0 && planted == NOTHING)
            __atomic_store_n(&barrier_lines[i], line, __ATOMIC_RELAXED);
        if (seen == line || seen == 0)
            break;
    }
    return planted == NO_BARRIER && i == left_out;
}
#undef __syncthreads
#define __syncthreads() (barrier_is_left_out(__LINE__) ? (void)0 : emu_barrier(__FILE__, __LINE__))

#undef dev_cp_wait
#define dev_cp_wait(n) (planted == NO_WAIT ? (void)0 : emu_cp_wait(n, __FILE__, __LINE__))
#undef dev_cp_commit
#define dev_cp_commit() ((void)(emu_self->group += planted != NO_COMMIT))
#undef dev_cp_async16
#define dev_cp_async16(to, from) emu_cp_async16(to, (from) + (planted == LONG_COPY ? 2048 : 0), __FILE__, __LINE__)
#undef dev_ldmatrix_x4
#define dev_ldmatrix_x4(r, row) emu_ldmatrix_x4(r, (row) + (planted == WRONG_ROW ? 16 : planted == ODD_ROW ? 8 : 0), __FILE__, __LINE__)

// Registers 1 and 2 of A: lower rows and later columns.
static inline void multiply_k32(int *d, const int *a, const int *b, const char *file, int line)
{
    const int swapped[4] = {a[0], a[2], a[1], a[3]};
    emu_mma_s8(32, d, planted == FRAGMENT ? swapped : a, b, file, line);
}
#undef dev_mma_s8_k32
#define dev_mma_s8_k32(d, a, b) multiply_k32(d, a, b, __FILE__, __LINE__)

#undef LAUNCH
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    emu_launch_kernel(#kernel, kernel, grid, block, (shared_bytes) - (planted == SHORT_SHARED ? 64 : 0), stream, __VA_ARGS__)

#include "engine/backend/cuda/matrix_many.cu"

enum { OUTPUTS = 72, ROWS = 37, BLOCKS = 41, STRIPES = 3, STRIPE_BYTES = 32 * BLOCKS * (16 + 2) };

static std::vector<uint8_t> finite_bytes(size_t n)
{
    std::vector<uint8_t> v(n);
    uint32_t seed = 7;
    for (uint8_t &b : v)
        b = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24) & 0xbf;
    return v;
}

// Q4_0: 72 x 1312 by 37 rows of x.
static std::vector<float> product(bool large)
{
    device<uint8_t> w(STRIPES * STRIPE_BYTES);
    device<int8_t> q(ROWS * BLOCKS * 32);
    device<float> d(ROWS * BLOCKS), out(ROWS * OUTPUTS);
    device<int16_t> sums(ROWS * BLOCKS * 2);
    w.put(finite_bytes(STRIPES * STRIPE_BYTES));
    q.put(count_up<int8_t>(ROWS * BLOCKS * 32, 3, 89));
    d.put(count_up<float>(ROWS * BLOCKS, 0.5f, 0.01f));
    sums.put(count_up<int16_t>(ROWS * BLOCKS * 2, -50, 1));
    struct device_product p = {};
    p.m.parts[0] = {DEVICE_Q4_0, OUTPUTS, 0, w.p};
    p.m.n_parts = 1;
    p.m.n_rows = OUTPUTS;
    p.m.n_cols = p.x.n_cols = BLOCKS * 32;
    p.m.n_blocks = p.x.n_blocks = BLOCKS;
    p.x.q = q.p;
    p.x.d = d.p;
    p.x.sums = sums.p;
    p.n_rows = ROWS;
    p.epilogue = EPILOGUE_STORE;
    p.out = out.p;
    p.ld = OUTPUTS;
    MUST(large ? launch_product_large(&p, NULL) : launch_product_many(&p, NULL));
    return out.get();
}

static bool same_with(enum planted bug, int barrier, bool large)
{
    std::vector<float> right = product(large);
    planted = bug;
    left_out = barrier;
    std::vector<float> got = product(large);
    planted = NOTHING;
    return memcmp(right.data(), got.data(), sizeof(float) * got.size()) == 0;
}
template <bool BUGGY> static bool tiles_not_waited_for(void) { return same_with(BUGGY ? NO_WAIT : NOTHING, 0, false); }
template <bool BUGGY> static bool tiles_not_committed(void) { return same_with(BUGGY ? NO_COMMIT : NOTHING, 0, true); }
template <bool BUGGY> static bool tiles_copied_beyond_end(void) { return same_with(BUGGY ? LONG_COPY : NOTHING, 0, false); }
template <bool BUGGY> static bool tiles_fragment_swapped(void) { return same_with(BUGGY ? FRAGMENT : NOTHING, 0, true); }
template <bool BUGGY> static bool tiles_wrong_row(void) { return same_with(BUGGY ? WRONG_ROW : NOTHING, 0, false); }
template <bool BUGGY> static bool tiles_odd_row(void) { return same_with(BUGGY ? ODD_ROW : NOTHING, 0, true); }
template <bool BUGGY> static bool tiles_shared_overrun(void) { return same_with(BUGGY ? SHORT_SHARED : NOTHING, 0, false); }
template <bool BUGGY> static bool tiles_step_without_barrier(void) { return same_with(BUGGY ? NO_BARRIER : NOTHING, 0, true); }
template <bool BUGGY> static bool tiles_chains_into_ring(void) { return same_with(BUGGY ? NO_BARRIER : NOTHING, 1, true); }
template <bool BUGGY> static bool tiles_folded_early(void) { return same_with(BUGGY ? NO_BARRIER : NOTHING, 2, false); }
template <bool BUGGY> static bool tiles_ring_into_chains(void) { return same_with(BUGGY ? NO_BARRIER : NOTHING, 3, true); }

const struct bug matrix_bugs[] = {
    BUG(tiles_not_waited_for), BUG(tiles_not_committed), BUG(tiles_copied_beyond_end), BUG(tiles_fragment_swapped), BUG(tiles_wrong_row),
    BUG(tiles_odd_row), BUG(tiles_shared_overrun), BUG(tiles_step_without_barrier), BUG(tiles_chains_into_ring), BUG(tiles_folded_early),
    BUG(tiles_ring_into_chains),
};
const int n_matrix_bugs = sizeof matrix_bugs / sizeof matrix_bugs[0];

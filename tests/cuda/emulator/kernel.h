// kernel.h: CUDA C++ as kernels see it, for g++: the vocabulary of device.cuh on the emulated device.
//
// A CUDA thread is a fiber (fiber.h), a block runs on one thread of the process, and fibers change only inside the functions declared here:
// barriers, warp collectives, atomics. So a kernel is plain C++ for every tool of the CPU: gdb, ASan, UBSan, TSan. What a thread knows of itself
// (threadIdx ...) hangs on emu_self and emu_grid, which the runtime sets when it changes fibers.
//
// Accesses to the kernel's own memory (cp.async, ldmatrix, atomics) are inline here, so that they are instrumented like the kernel; the runtime
// itself is not. A plain cast of a float that does not fit an int is undefined in C++ and saturates on a GPU: UBSan stops at it, the intrinsics below
// are exact.
#ifndef NEXTD_EMULATED_KERNEL_H
#define NEXTD_EMULATED_KERNEL_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct char2 { signed char x, y; };
struct alignas(4) char4 { signed char x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(4) short2 { short x, y; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) short4 { short x, y, z, w; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(2) __half { uint16_t bits; };

static inline short2 make_short2(short x, short y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- what a thread knows of itself ----

#define EMU_MAX_COPIES 256 // cp.async in flight per thread

struct emu_copy {
    void *to;
    const void *from;
    int group;
};
struct emu_thread {
    uint3 index;
    int lane, warp;
    int n_copies, group; // cp.async: copies[0..n_copies) in order, group is the one not yet committed
    emu_copy copies[EMU_MAX_COPIES];
};
struct emu_grid_view {
    dim3 grid, block;
    uint3 index;
};
extern emu_thread *emu_self;
extern emu_grid_view emu_grid;

#define threadIdx (emu_self->index)
#define blockIdx (emu_grid.index)
#define blockDim (emu_grid.block)
#define gridDim (emu_grid.grid)
static const int warpSize = 32;

[[noreturn]] void emu_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// ---- barriers and warp collectives (block.cpp) ----

void emu_barrier(const char *file, int line);
void emu_warp_barrier(unsigned mask, const char *file, int line);
// Each lane gives 8 bytes, then takes those of lane `from`. Orders no memory, as on a GPU.
uint64_t emu_exchange(unsigned mask, uint64_t value, int from, const char *what, const char *file, int line);
// The same, and the values of all lanes: out[32].
void emu_gather(unsigned mask, uint64_t value, uint64_t *out, const char *what, const char *file, int line);
void emu_mma_s8(int k, int *d, const int *a, const int *b, const char *file, int line);
// A point where a random schedule may run another thread.
void emu_maybe_switch(void);
// The block's shared array of this place in the source, and the launch's dynamic shared memory.
void *emu_shared(const void *key, size_t n_bytes, const char *name);
void *emu_dynamic_shared(void);
unsigned char emu_poison(void);
// The place that EMULATOR_SKIP leaves out; line 0: none.
extern int emu_skipped_line;
bool emu_is_skipped(const char *file);

#define __syncthreads() emu_barrier(__FILE__, __LINE__)
static inline void emu_sync_warp(const char *file, int line, unsigned mask = 0xffffffffu)
{
    emu_warp_barrier(mask, file, line);
}
#define __syncwarp(...) emu_sync_warp(__FILE__, __LINE__ __VA_OPT__(,) __VA_ARGS__)

template <class T> static inline T emu_shuffle(unsigned mask, T v, int from, const char *what, const char *file, int line)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    u = emu_exchange(mask, u, from & 31, what, file, line);
    memcpy(&v, &u, sizeof v);
    return v;
}
#define EMU_LANE (emu_self->lane)
#define __shfl_sync(mask, v, from) emu_shuffle(mask, v, from, "__shfl_sync", __FILE__, __LINE__)
#define __shfl_xor_sync(mask, v, x) emu_shuffle(mask, v, EMU_LANE ^ (x), "__shfl_xor_sync", __FILE__, __LINE__)
#define __shfl_down_sync(mask, v, n) emu_shuffle(mask, v, EMU_LANE + (n) > 31 ? EMU_LANE : EMU_LANE + (n), "__shfl_down_sync", __FILE__, __LINE__)
#define __shfl_up_sync(mask, v, n) emu_shuffle(mask, v, EMU_LANE < (n) ? EMU_LANE : EMU_LANE - (n), "__shfl_up_sync", __FILE__, __LINE__)

static inline unsigned emu_ballot(unsigned mask, bool p, const char *what, const char *file, int line)
{
    uint64_t all[32];
    emu_gather(mask, p, all, what, file, line);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (unsigned)(all[i] & 1) << i;
    return bits;
}
#define __ballot_sync(mask, p) emu_ballot(mask, p, "__ballot_sync", __FILE__, __LINE__)
#define __any_sync(mask, p) (emu_ballot(mask, p, "__any_sync", __FILE__, __LINE__) != 0)
#define __all_sync(mask, p) (emu_ballot(mask, p, "__all_sync", __FILE__, __LINE__) == 0xffffffffu)

template <class T> static inline T emu_reduce(unsigned mask, T v, int how, const char *what, const char *file, int line)
{
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, "warp reductions take 32-bit integers");
    uint64_t all[32];
    emu_gather(mask, (uint32_t)v, all, what, file, line);
    T r = (T)(uint32_t)all[0];
    for (int i = 1; i < 32; i++) {
        T w = (T)(uint32_t)all[i];
        r = how == 0 ? (T)((uint32_t)r + (uint32_t)w) : how == 1 ? (r > w ? r : w) : (r < w ? r : w);
    }
    return r;
}
#define __reduce_add_sync(mask, v) emu_reduce(mask, v, 0, "__reduce_add_sync", __FILE__, __LINE__)
#define __reduce_max_sync(mask, v) emu_reduce(mask, v, 1, "__reduce_max_sync", __FILE__, __LINE__)
#define __reduce_min_sync(mask, v) emu_reduce(mask, v, 2, "__reduce_min_sync", __FILE__, __LINE__)

// ---- tensor cores, ldmatrix, cp.async ----

#define dev_mma_s8_k32(d, a, b) emu_mma_s8(32, d, a, b, __FILE__, __LINE__)
#define dev_mma_s8_k16(d, a, b) emu_mma_s8(16, d, a, b, __FILE__, __LINE__)

// Four 8x8 matrices of 16-bit values: lane 8 j + i names row i of matrix j; lane l takes values 2 (l % 4), +1 of row l / 4 of each.
static inline void emu_ldmatrix_x4(int *r, const void *row, const char *file, int line)
{
    if ((uintptr_t)row & 15)
        emu_die("%s:%d: ldmatrix: row at %p is not aligned to 16 bytes", file, line, row);
    uint64_t rows[32];
    emu_gather(0xffffffffu, (uint64_t)(uintptr_t)row, rows, "ldmatrix", file, line);
    for (int j = 0; j < 4; j++)
        r[j] = ((const int *)(uintptr_t)rows[j * 8 + (EMU_LANE >> 2)])[EMU_LANE & 3];
}
#define dev_ldmatrix_x4(r, row) emu_ldmatrix_x4(r, row, __FILE__, __LINE__)

// The destination holds nonsense until the thread has waited for the copy's group; the source is read at the wait, as late as a GPU may.
static inline void emu_cp_async16(void *to, const void *from, const char *file, int line)
{
    if (((uintptr_t)to | (uintptr_t)from) & 15)
        emu_die("%s:%d: cp.async: %p <- %p is not aligned to 16 bytes", file, line, to, from);
    emu_thread *t = emu_self;
    if (t->n_copies == EMU_MAX_COPIES)
        emu_die("%s:%d: cp.async: more than %d copies in flight", file, line, EMU_MAX_COPIES);
    t->copies[t->n_copies++] = {to, from, t->group};
    unsigned poison = emu_poison() * 0x01010101u;
    *(uint4 *)to = {poison, poison, poison, poison};
}
static inline void emu_cp_wait(int n_pending, const char *file, int line)
{
    emu_thread *t = emu_self;
    if (line == emu_skipped_line && emu_is_skipped(file))
        return;
    int n = 0;
    for (; n < t->n_copies && t->copies[n].group < t->group - n_pending; n++)
        *(uint4 *)t->copies[n].to = *(const uint4 *)t->copies[n].from;
    for (int i = n; i < t->n_copies; i++)
        t->copies[i - n] = t->copies[i];
    t->n_copies -= n;
}
#define dev_cp_async16(to, from) emu_cp_async16(to, from, __FILE__, __LINE__)
#define dev_cp_commit() ((void)emu_self->group++)
#define dev_cp_wait(n) emu_cp_wait(n, __FILE__, __LINE__)

// ---- shared memory ----

#define SHARED(type, name, n)    \
    static const char name##_at = 0; \
    type *const name = (type *)emu_shared(&name##_at, sizeof(type) * (n), #name)
#define DYNAMIC_SHARED(name) unsigned char *const name = (unsigned char *)emu_dynamic_shared()

// ---- arithmetic ----

static inline int __dp4a(int a, int b, int c)
{
    uint32_t sum = (uint32_t)c;
    for (int i = 0; i < 32; i += 8)
        sum += (uint32_t)((int)(int8_t)(a >> i) * (int)(int8_t)(b >> i));
    return (int)sum;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 32; i += 8)
        c += (a >> i & 255) * (b >> i & 255);
    return c;
}
static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}
static inline float __uint_as_float(unsigned u) { return __int_as_float((int)u); }
static inline int __float_as_int(float f)
{
    int i;
    memcpy(&i, &f, sizeof i);
    return i;
}
static inline unsigned __float_as_uint(float f) { return (unsigned)__float_as_int(f); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

// As cvt does on a GPU: NaN gives 0, what does not fit the nearest end.
static inline int emu_to_int(double x) { return x != x ? 0 : x >= 2147483647.0 ? 2147483647 : x <= -2147483648.0 ? -2147483647 - 1 : (int)x; }
static inline unsigned emu_to_uint(double x) { return !(x > 0) ? 0 : x >= 4294967295.0 ? 4294967295u : (unsigned)x; }
static inline int __float2int_rn(float f) { return emu_to_int(rintf(f)); }
static inline int __float2int_rz(float f) { return emu_to_int(truncf(f)); }
static inline int __float2int_rd(float f) { return emu_to_int(floorf(f)); }
static inline int __float2int_ru(float f) { return emu_to_int(ceilf(f)); }
static inline unsigned __float2uint_rn(float f) { return emu_to_uint(rintf(f)); }
static inline unsigned __float2uint_rz(float f) { return emu_to_uint(truncf(f)); }
static inline int __double2int_rn(double f) { return emu_to_int(rint(f)); }
static inline int __double2int_rz(double f) { return emu_to_int(trunc(f)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __int2float_rn(int i) { return (float)i; }
// IEEE binary16: beyond 65519 infinity, as CUDA's (numerics.h's own conversion saturates).
static inline float __half2float(__half h)
{
    _Float16 f;
    memcpy(&f, &h.bits, sizeof f);
    return (float)f;
}
static inline __half __float2half_rn(float x)
{
    _Float16 f = (_Float16)x;
    __half h;
    memcpy(&h.bits, &f, sizeof f);
    return h;
}
static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }

// CUDA's overloads for what kernels use; those of <stdlib.h> take int only.
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }

template <class T> static inline T __ldg(const T *p) { return *p; }

// ---- integer atomics: relaxed, and a place to switch ----

template <class T> static inline T atomicAdd(T *p, T v)
{
    static_assert(std::is_integral<T>::value, "float atomics have no order");
    emu_maybe_switch();
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicMax(T *p, T v)
{
    static_assert(std::is_integral<T>::value, "integers only");
    emu_maybe_switch();
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}
template <class T> static inline T atomicMin(T *p, T v)
{
    static_assert(std::is_integral<T>::value, "integers only");
    emu_maybe_switch();
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old > v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}
template <class T> static inline T atomicOr(T *p, T v)
{
    emu_maybe_switch();
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicExch(T *p, T v)
{
    static_assert(std::is_integral<T>::value, "integers only");
    emu_maybe_switch();
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicCAS(T *p, T expected, T v)
{
    static_assert(std::is_integral<T>::value, "integers only");
    emu_maybe_switch();
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

// ---- launches (stream.cpp) ----

// What launches are called from now on, for those who list them: a word, kept by reference.
extern const char *emu_label;
// What a launch keeps: the arguments as they were. `run` is one thread's life.
struct emu_call {
    const char *name, *label = emu_label;
    const void *function;
    dim3 grid, block;
    size_t shared_bytes;
    virtual void run() const = 0;
    virtual void check() const = 0; // pointers among the arguments must be the device's, at the time of running
    virtual void visit(const std::function<void(const void *value, size_t n_bytes)> &take) const = 0; // the arguments in order
    virtual ~emu_call() {}
};
// Checks the arguments' bytes for pointers to what the device cannot see.
void emu_check_pointer(const char *kernel, int arg, const void *p);
void emu_check_bytes(const char *kernel, int arg, const void *bytes, size_t n_bytes);
void emu_launch(std::shared_ptr<emu_call> call, cudaStream_t stream);

template <class... P> struct emu_kernel_call : emu_call {
    void (*kernel)(P...);
    std::tuple<P...> args;
    emu_kernel_call(void (*k)(P...), P... a) : kernel(k), args(a...) {}
    void run() const override { std::apply(kernel, args); }
    void visit(const std::function<void(const void *, size_t)> &take) const override
    {
        std::apply([&](const P &...a) { (take(&a, sizeof a), ...); }, args);
    }
    // Padding of a struct may hold halves of old pointers, and is no argument. A copy, because GCC 12 clears a little more than padding where an
    // array of structs is followed by something.
    template <class T> void check_one(int i, const T &v) const
    {
        T copy = v;
        __builtin_clear_padding(&copy);
        emu_check_bytes(name, i, &copy, sizeof copy);
    }
    template <class T> void check_one(int i, T *const &v) const { emu_check_pointer(name, i, (const void *)v); }
    void check() const override
    {
        std::apply([this](const P &...a) { int i = 0; (check_one(i++, a), ...); }, args);
    }
};
template <class... P, class... A>
static inline void emu_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                                     A... args)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel has no default arguments");
    static_assert((std::is_trivially_copyable<P>::value && ...), "arguments are copied as bytes");
    static_assert((sizeof(P) + ... + 0) <= 4096, "arguments take at most 4096 bytes");
    auto call = std::make_shared<emu_kernel_call<P...>>(kernel, (P)args...);
    call->name = name;
    call->function = (const void *)kernel;
    call->grid = grid;
    call->block = block;
    call->shared_bytes = shared_bytes;
    emu_launch(call, stream);
}
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    emu_launch_kernel(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(,) __VA_ARGS__)

#endif

// device.cuh: the vocabulary of the kernels. The only header beside kernels.h and numerics.h that a kernel includes.
//
// One source, two readers. nvcc sees CUDA and the few instructions that CUDA C++ has no name for, as inline PTX. g++ sees the emulated device
// (tests/cuda/emulator/kernel.h, docs/cuda-emulator.md), where a thread is a fiber, so that every kernel can be run, sanitised and compared bit for
// bit on a machine without a GPU.
//
//   LAUNCH(kernel, grid, block, shared_bytes, stream, args...)    a template's name in parentheses: LAUNCH((rows<4>), ...)
//   SHARED(type, name, n)            a shared array of n, aligned to 16 bytes, as a pointer: no sizeof(name)
//   DYNAMIC_SHARED(name)             the launch's shared_bytes, unsigned char *, aligned to 16 bytes
//   dev_mma_s8_k32(d, a, b)          int d[4] += a[4] x b[2]: mma.m16n8k32, s8
//   dev_mma_s8_k16(d, a, b)          int d[4] += a[2] x b[1]: mma.m16n8k16, s8
//   dev_ldmatrix_x4(r, row)          int r[4]: four 8x8 matrices of 16-bit values from shared memory, lane 8 j + i naming row i of matrix j
//   dev_cp_async16(to, from)         16 bytes from global to shared memory, not before dev_cp_wait
//   dev_cp_commit(), dev_cp_wait(n)  closes a group; waits until at most n (a constant) of the thread's groups are pending. Others need a barrier.
//   DEVICE_UNROLL, DEVICE_LOOP       before a loop: all of it in a row, for registers have no index; and never. g++ has no use for either
//
// and of CUDA itself: threadIdx and its kin, __syncthreads, __syncwarp(), __shfl_sync, __shfl_xor_sync, __ballot_sync, __reduce_add_sync with full
// masks, __dp4a, integer atomics. Not: a `return` before a barrier, blocks of incomplete warps, float atomics, libdevice's exp and its like, a cast
// of a float to an integer that may not fit, an fma that is not written fmaf().
#ifndef NEXTD_CUDA_DEVICE_CUH
#define NEXTD_CUDA_DEVICE_CUH

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) (kernel)<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define SHARED(type, name, n) __shared__ __align__(16) type name[n]
#define DYNAMIC_SHARED(name)                                      \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    unsigned char *const name = dynamic_shared

static __device__ __forceinline__ void dev_mma_s8_k32(int d[4], const int a[4], const int b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void dev_mma_s8_k16(int d[4], const int a[2], const int b[1])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}

static __device__ __forceinline__ void dev_ldmatrix_x4(int r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void dev_cp_async16(void *to, const void *from)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

#define dev_cp_commit() asm volatile("cp.async.commit_group;" ::: "memory")
#define dev_cp_wait(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#define DEVICE_UNROLL _Pragma("unroll")
#define DEVICE_LOOP _Pragma("unroll 1")

#else

#include "kernel.h"

#define DEVICE_UNROLL
#define DEVICE_LOOP

#endif

#endif

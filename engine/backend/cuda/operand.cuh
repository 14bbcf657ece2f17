/* operand.cuh: what every kernel does that ends in an operand: 32 activations to int8 and a scale, as quant_quantise of quant.h writes them.
 *
 *   amax = max |x|, by bits;  d = amax / 127;  q = rint(x * (127 / amax));  sums of q[0..15] and q[16..31]
 *   q = 0, d = 0 where amax < 2^-100, or where an x is not finite: that sets the fault flag
 *
 * A thread holds 4 consecutive values, 8 threads a block, a warp 4 blocks: 16-byte loads, 4-byte stores of quants, and 3 exchanges for the maximum
 * and 2 for the sums do for 4 values. Maxima of bits and sums of integers have no order. */
#ifndef NEXTD_CUDA_OPERAND_CUH
#define NEXTD_CUDA_OPERAND_CUH

#include "engine/backend/cuda/device.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/numerics/numerics.h"

#define ALL_LANES 0xffffffffu
#define OPERAND_QUAD 4                                     /* values of a thread */
#define OPERAND_WARP (32 / (DEVICE_BLOCK / OPERAND_QUAD)) /* blocks of a warp */
#define OPERAND_TINY 0x1p-100f                             /* QUANT_TINY */

struct quad {
    float v[OPERAND_QUAD];
};

/* Values i .. i + 3 of n at x, zeros beyond; i is a multiple of 4, x aligned to 16 bytes. */
static __device__ __forceinline__ struct quad quad_load(const float *x, int i, int n)
{
    struct quad out = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (i + OPERAND_QUAD <= n) {
        const float4 all = *(const float4 *)(x + i);
        out.v[0] = all.x;
        out.v[1] = all.y;
        out.v[2] = all.z;
        out.v[3] = all.w;
        return out;
    }
    for (int k = 0; k < OPERAND_QUAD; k++)
        if (i + k < n)
            out.v[k] = x[i + k];
    return out;
}

/* Writes the values 4 part .. 4 part + 3 of a block, part = lane % 8, as block `block` of a row; blocks from n_blocks on are not written. All lanes
 * of a warp come here together. */
static __device__ __forceinline__ void operand_put(const struct device_operand &to, int needs, int row, int block, const struct quad &x, int *fault)
{
    const int part = (int)threadIdx.x % (DEVICE_BLOCK / OPERAND_QUAD);
    const bool mine = block < to.n_blocks;
    const size_t at = (size_t)row * (size_t)to.n_blocks + (size_t)block;
    uint32_t max_bits = 0;
    for (int k = 0; k < OPERAND_QUAD; k++) {
        const uint32_t bits = num_bits_from_f32(x.v[k]) & 0x7fffffffu;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    for (int lanes = 1; lanes < DEVICE_BLOCK / OPERAND_QUAD; lanes *= 2) {
        const uint32_t bits = __shfl_xor_sync(ALL_LANES, max_bits, lanes);
        max_bits = bits > max_bits ? bits : max_bits;
    }
    const float amax = num_f32_from_bits(max_bits);
    const bool finite = max_bits < 0x7f800000u, zero = !finite || amax < OPERAND_TINY;
    const float inverse = zero ? 0.0f : 127.0f / amax;
    uint32_t word = 0;
    int sum = 0;
    for (int k = 0; k < OPERAND_QUAD; k++) {
        const int q = zero ? 0 : (int)rintf(x.v[k] * inverse);
        word |= ((uint32_t)q & 0xffu) << 8 * k;
        sum += q;
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    if (mine && !finite && part == 0)
        atomicOr(fault, 1);
    if (mine && (needs & OPERAND_Q) != 0) {
        *(uint32_t *)(to.q + at * DEVICE_BLOCK + part * OPERAND_QUAD) = word;
        if (part % 4 == 0)
            to.sums[2 * at + (size_t)(part / 4)] = (int16_t)sum;
        if (part == 0)
            to.d[at] = zero ? 0.0f : amax / 127.0f;
    }
    if (mine && (needs & OPERAND_F) != 0)
        *(float4 *)(to.f + at * DEVICE_BLOCK + part * OPERAND_QUAD) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}

/* The sum of 64 lanes by halves (fold64 of numerics.h), of which this lane of a warp holds two: `low` is lane j, `high` lane j + 32. Every lane gets
 * it: a + b has the bits of b + a, so an exchange of both ways is the fold. */
static __device__ __forceinline__ float fold64(float low, float high)
{
    float sum = low + high;
    for (int lanes = 16; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    return sum;
}

#endif

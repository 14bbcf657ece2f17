// micro.cu: small kernels with known answers, compiled by nvcc for the tests of the interpreter (test_micro.cpp).
//
// Each takes its inputs from memory so that the compiler can fold nothing. Kernels that are wrong on purpose are at the end.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "engine/numerics/numerics.h"

#define KERNEL extern "C" __global__ void

// ---- arithmetic: out[k][i] for thread i ----

KERNEL integers(const int *a, const int *b, unsigned *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    int x = a[i], y = b[i];
    unsigned u = x, v = y;
    out[k++ * n + i] = x + y;
    out[k++ * n + i] = x - y;
    out[k++ * n + i] = x * y;
    out[k++ * n + i] = __mulhi(x, y);
    out[k++ * n + i] = __umulhi(u, v);
    out[k++ * n + i] = x / (y | 1);
    out[k++ * n + i] = x % (y | 1);
    out[k++ * n + i] = u / (v | 1);
    out[k++ * n + i] = u % (v | 1);
    out[k++ * n + i] = min(x, y) ^ max(u, v);
    out[k++ * n + i] = abs(x);
    out[k++ * n + i] = u << (y & 31);
    out[k++ * n + i] = x >> (y & 31);
    out[k++ * n + i] = u >> (y & 31);
    out[k++ * n + i] = __popc(x) + 100 * __clz(x) + 10000 * __ffs(y);
    out[k++ * n + i] = __brev(u);
    out[k++ * n + i] = __byte_perm(u, v, y & 0xffff);
    out[k++ * n + i] = __funnelshift_l(u, v, y);
    out[k++ * n + i] = __funnelshift_r(u, v, y);
    out[k++ * n + i] = __dp4a(x, y, 7);
    out[k++ * n + i] = __dp4a(u, v, 7u);
    out[k++ * n + i] = (u & v) ^ (~u | (v & 0x0f0f0f0f));
    out[k++ * n + i] = (short)x * (short)y + (unsigned char)x;
    out[k++ * n + i] = x > y ? (x >= 0 && y != 3 ? 1 : 2) : (u < v || x == y ? 3 : 4);
}

KERNEL shifts_of_asm(const unsigned *a, const unsigned *b, unsigned *out, int n)
{
    int i = threadIdx.x;
    unsigned r;
    asm("shl.b32 %0, %1, %2;" : "=r"(r) : "r"(a[i]), "r"(b[i]));
    out[i] = r;
    asm("shr.u32 %0, %1, %2;" : "=r"(r) : "r"(a[i]), "r"(b[i]));
    out[n + i] = r;
    asm("shr.s32 %0, %1, %2;" : "=r"(r) : "r"(a[i]), "r"(b[i]));
    out[2 * n + i] = r;
    asm("bfe.u32 %0, %1, %2, 7;" : "=r"(r) : "r"(a[i]), "r"(b[i]));
    out[3 * n + i] = r;
    asm("bfe.s32 %0, %1, %2, 7;" : "=r"(r) : "r"(a[i]), "r"(b[i]));
    out[4 * n + i] = r;
    asm("bfi.b32 %0, %1, %2, %3, 9;" : "=r"(r) : "r"(a[i]), "r"(~a[i]), "r"(b[i]));
    out[5 * n + i] = r;
}

KERNEL wide_integers(const long long *a, const long long *b, unsigned long long *out, int n)
{
    int i = threadIdx.x, k = 0;
    long long x = a[i], y = b[i];
    unsigned long long u = x, v = y;
    out[k++ * n + i] = x + y;
    out[k++ * n + i] = x - y;
    out[k++ * n + i] = x * y;
    out[k++ * n + i] = __mul64hi(x, y);
    out[k++ * n + i] = __umul64hi(u, v);
    out[k++ * n + i] = x / (y | 1);
    out[k++ * n + i] = u % (v | 1);
    out[k++ * n + i] = (u << (y & 63)) ^ (x >> (y & 63));
    out[k++ * n + i] = __popcll(u) + 100 * __clzll(x);
    out[k++ * n + i] = (unsigned long long)(unsigned)x * (unsigned)y + ((long long)(int)x * (int)y);
    out[k++ * n + i] = x < y ? u : v & 0xffffffff00ull;
}

KERNEL floats(const float *a, const float *b, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
    if (i >= n)
        return;
    float x = a[i], y = b[i];
    out[k++ * n + i] = x + y;
    out[k++ * n + i] = x - y;
    out[k++ * n + i] = x * y;
    out[k++ * n + i] = x / y;
    out[k++ * n + i] = sqrtf(x);
    out[k++ * n + i] = fmaf(x, y, 1.5f);
    out[k++ * n + i] = fminf(x, y);
    out[k++ * n + i] = fmaxf(x, y);
    out[k++ * n + i] = rintf(x);
    out[k++ * n + i] = truncf(x);
    out[k++ * n + i] = floorf(x);
    out[k++ * n + i] = ceilf(x);
    out[k++ * n + i] = fabsf(x) + -y;
    out[k++ * n + i] = copysignf(x, y);
    out[k++ * n + i] = (float)((x < y) + 2 * (x <= y) + 4 * (x == y) + 8 * (x != y) + 16 * (x > y) + 32 * (x >= y) + 64 * !(x < y) + 128 * !(x > y));
}

KERNEL doubles(const double *a, const double *b, double *out, int n)
{
    int i = threadIdx.x, k = 0;
    double x = a[i], y = b[i], s, c;
    out[k++ * n + i] = x + y;
    out[k++ * n + i] = x - y;
    out[k++ * n + i] = x * y;
    out[k++ * n + i] = x / y;
    out[k++ * n + i] = sqrt(fabs(x));
    out[k++ * n + i] = fma(x, y, -0.25);
    out[k++ * n + i] = rint(x) + (double)(float)y;
    out[k++ * n + i] = num_exp(x);
    out[k++ * n + i] = num_log(fabs(x) + 1e-300);
    num_sincos(x, &s, &c);
    out[k++ * n + i] = s;
    out[k++ * n + i] = c;
    out[k++ * n + i] = num_rng((unsigned long long)i * 0x9e3779b97f4a7c15ull, i, n);
}

KERNEL functions(const float *a, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    out[i] = num_exp_f32(a[i]);
    out[n + i] = num_silu(a[i]);
    out[2 * n + i] = num_gelu_tanh(a[i]);
    uint16_t h = num_f16_from_f32(a[i]);
    out[3 * n + i] = num_f32_from_f16(h);
    out[4 * n + i] = num_f32_from_bf16((uint16_t)(h * 3));
}

KERNEL conversions(const float *a, const double *d, int *out, long long *wide, int n)
{
    int i = threadIdx.x, k = 0, w = 0;
    out[k++ * n + i] = __float2int_rn(a[i]);
    out[k++ * n + i] = __float2int_rz(a[i]);
    out[k++ * n + i] = __float2int_rd(a[i]);
    out[k++ * n + i] = __float2int_ru(a[i]);
    out[k++ * n + i] = __float2uint_rn(a[i]);
    out[k++ * n + i] = __double2int_rn(d[i]);
    out[k++ * n + i] = __half_as_ushort(__float2half_rn(a[i]));
    out[k++ * n + i] = __float_as_int(__half2float(__ushort_as_half((unsigned short)(i * 2053))));
    out[k++ * n + i] = __float_as_int((float)(int)(i * 0x1234567));
    out[k++ * n + i] = __float_as_int((float)(unsigned)(i * 0x87654321u));
    int saturated;
    asm("cvt.sat.s8.s32 %0, %1;" : "=r"(saturated) : "r"(i * 37 - 500));
    out[k++ * n + i] = saturated;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(saturated) : "f"(a[i]));
    out[k++ * n + i] = saturated;
    wide[w++ * n + i] = __float2ll_rz(a[i]);
    wide[w++ * n + i] = __double2ll_rn(d[i]);
    wide[w++ * n + i] = __double_as_longlong((double)a[i]);
    wide[w++ * n + i] = __double_as_longlong((double)(i * -12345678901ll));
    wide[w++ * n + i] = __float_as_int((float)d[i]);
}

// ---- memory ----

struct triple {
    double d;
    int i[5];
    signed char c;
};

__constant__ double table[6] = {1.5, -2.25, 3e100, 4.0, 5e-5, 6.125};

KERNEL memory(const float4 *f4, const uchar4 *u4, const signed char *s1, const short *s2, struct triple t, float4 *out, double *from_table)
{
    int i = threadIdx.x;
    float4 v = f4[31 - i];
    uchar4 c = u4[i];
    out[i] = make_float4(v.w + t.i[i % 5], v.z + s1[i], v.y + s2[i], v.x + c.x + c.w + t.c);
    int local[16];
    for (int k = 0; k < 16; k++)
        local[(k * 7 + i) & 15] = k * i;
    from_table[i] = table[i % 6] + t.d + local[(i * 5) & 15];
}

KERNEL shared(const int *in, int *out, int n_per_thread)
{
    __shared__ int fixed[64];
    __shared__ unsigned char bytes[128];
    extern __shared__ int dynamic[];
    int t = threadIdx.x, n = blockDim.x;
    in += blockIdx.x * n;
    fixed[t] = in[t];
    bytes[t + 1] = (unsigned char)in[t];
    for (int k = 0; k < n_per_thread; k++)
        dynamic[k * n + t] = in[t] * (k + 1);
    __syncthreads();
    int sum = fixed[n - 1 - t] + bytes[(t ^ 5) + 1];
    for (int k = 0; k < n_per_thread; k++)
        sum += dynamic[k * n + (t + 33 * k) % n];
    const int *either = (t & 1) != 0 ? fixed : in; // a generic address
    __syncthreads();
    for (int step = n / 2; step > 0; step /= 2) {
        if (t < step)
            fixed[t] += fixed[t + step];
        __syncthreads();
    }
    out[blockIdx.x * n + t] = sum + 1000 * fixed[0] + either[2];
}

KERNEL diverge(const unsigned *in, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, steps = 0;
    if (i >= n)
        return;
    for (unsigned x = in[i]; x != 1; steps++) {
        if (x % 2 == 0) {
            x /= 2;
        } else {
            x = 3 * x + 1;
            if (steps > 60)
                break;
        }
    }
    out[i] = steps;
}

KERNEL meet(const int *in, int *out)
{
    int i = threadIdx.x, x = in[i];
    if (i % 3 == 0)
        for (int k = 0; k < i; k++)
            x = x * 5 + k;
    else if (i % 3 == 1)
        x ^= 0x55;
    x += __shfl_xor_sync(~0u, x, 7);
    out[i] = x;
}

// ---- lanes together ----

KERNEL lanes(const int *in, int *out, int n)
{
    int i = threadIdx.x, x = in[i], k = 0;
    out[k++ * n + i] = __shfl_sync(~0u, x, x & 31);
    out[k++ * n + i] = __shfl_up_sync(~0u, x, 3);
    out[k++ * n + i] = __shfl_down_sync(~0u, x, 5);
    out[k++ * n + i] = __shfl_xor_sync(~0u, x, 17);
    out[k++ * n + i] = __shfl_sync(~0u, x, 3, 8);
    out[k++ * n + i] = __shfl_up_sync(~0u, x, 2, 16);
    out[k++ * n + i] = __shfl_down_sync(~0u, x, 1, 4);
    out[k++ * n + i] = __ballot_sync(~0u, x & 1);
    out[k++ * n + i] = __any_sync(~0u, x == in[5]) + 2 * __all_sync(~0u, x > -1000);
    out[k++ * n + i] = __reduce_add_sync(~0u, x);
    out[k++ * n + i] = __reduce_max_sync(~0u, x);
    out[k++ * n + i] = __reduce_min_sync(~0u, (unsigned)x);
}

KERNEL atomics(int *cells, const int *in, int *old)
{
    int x = in[threadIdx.x];
    __shared__ unsigned most;
    if (threadIdx.x == 0)
        most = 0;
    __syncthreads();
    atomicMax(&most, (unsigned)x & 0xffff);
    old[threadIdx.x] = atomicAdd(&cells[0], x);
    atomicMin(&cells[1], x);
    atomicOr(&cells[2], x);
    atomicExch(&cells[3], x);
    atomicCAS(&cells[4], 5, x);
    __syncthreads();
    cells[5] = most;
}

// ---- tensor cores: fragments come as they are, lane by lane ----

KERNEL mma32(const int *a, const int *b, const int *c, int *d)
{
    int l = threadIdx.x, r[4];
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]), "r"(c[4 * l]),
                   "r"(c[4 * l + 1]), "r"(c[4 * l + 2]), "r"(c[4 * l + 3]));
    for (int e = 0; e < 4; e++)
        d[4 * l + e] = r[e];
}

KERNEL mma16(const int *a, const int *b, const int *c, int *d)
{
    int l = threadIdx.x, r[4];
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a[2 * l]), "r"(a[2 * l + 1]), "r"(b[l]), "r"(c[4 * l]), "r"(c[4 * l + 1]), "r"(c[4 * l + 2]), "r"(c[4 * l + 3]));
    for (int e = 0; e < 4; e++)
        d[4 * l + e] = r[e];
}

// Rows lie 48 bytes apart; lane l names row l, in memory order of the matrices.
KERNEL matrices(const int4 *in, int *out)
{
    __shared__ __align__(16) unsigned char rows[32 * 48];
    int l = threadIdx.x, r[4];
    *(int4 *)(rows + 48 * l) = in[l];
    __syncwarp();
    unsigned at = (unsigned)__cvta_generic_to_shared(rows + 48 * l);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
    for (int e = 0; e < 4; e++)
        out[4 * l + e] = r[e];
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    out[128 + 2 * l] = r[0];
    out[128 + 2 * l + 1] = r[1];
}

// Two copies in flight; the thread reads what it was promised, and in between what it was not.
KERNEL copies(const int4 *in, int4 *out, int4 *early)
{
    __shared__ __align__(16) int4 buffer[2][32];
    int l = threadIdx.x;
    for (int k = 0; k < 2; k++) {
        unsigned at = (unsigned)__cvta_generic_to_shared(&buffer[k][l]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(in + 32 * k + l) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    out[l] = buffer[0][l];
    early[l] = buffer[1][l];
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    out[32 + l] = buffer[1][l];
}

// ---- with known costs ----

// 4 bytes a lane, side by side, from a float that may lie off a sector's begin; 16 bytes a lane to out.
KERNEL count_rows(const float *in, float4 *out, int stride)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float x = in[i * stride];
    out[i] = make_float4(x, x, x, x);
}

// A word a lane, `stride` words apart, and 16 bytes a lane, `stride` times 16 apart.
KERNEL count_banks(int4 *out, int stride)
{
    __shared__ __align__(16) int words[32 * 32];
    int l = threadIdx.x;
    for (int k = 0; k < 32; k++)
        words[32 * k + l] = k;
    __syncthreads();
    int x = words[l * stride];
    int4 v = *(int4 *)&words[l * stride * 4 % 1024];
    out[l] = make_int4(v.x + x, v.y, v.z, v.w);
}

// Lane l takes l % 5 + 1 turns; odd lanes read elsewhere than even ones.
KERNEL count_turns(const int *in, int *out)
{
    int l = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k <= l % 5; k++) {
        sum += in[32 * k + l];
        asm volatile("" ::: "memory"); // nothing is read ahead
        if (l % 2 == 1)
            sum += in[1024 + k];
    }
    out[l] = sum;
}

// Even lanes read in turns 0, 2 ... 8, odd ones in turns 1, 3 ... 9: all read as often, none together.
KERNEL count_apart(const int *in, int *out)
{
    int l = threadIdx.x, sum = 0;
#pragma unroll 1
    for (int k = 0; k < 10; k++)
        if ((k + l) % 2 == 0)
            sum += in[32 * (k / 2) + l];
    out[l] = sum;
}

// n fused multiply-adds, n products of matrices, n asynchronous copies of 16 bytes a lane and n ldmatrix of rows 16 bytes or more apart.
KERNEL count_work(const int4 *in, float *out, float a, int n, int row_bytes)
{
    extern __shared__ __align__(16) int4 rows[];
    int l = threadIdx.x, d[4] = {0, 0, 0, 0}, r[4] = {0, 0, 0, 0};
    unsigned at = (unsigned)__cvta_generic_to_shared((char *)rows + l * row_bytes);
    float x = a;
#pragma unroll 1
    for (int k = 0; k < n; k++) {
        x = __fmaf_rn(x, a, 1.0f);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(in + l) : "memory");
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncwarp();
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                     : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(l), "r"(k));
    }
    out[l] = x + (float)(d[0] + d[1] + d[2] + d[3]);
}

// ---- wrong on purpose ----

KERNEL wrong_alignment(const char *in, int *out) { out[threadIdx.x] = *(const int *)(in + 2 * threadIdx.x); }
KERNEL wrong_read(const int *in, int *out, int n) { out[threadIdx.x] = in[threadIdx.x + n]; }
KERNEL wrong_write(const int *in, int *out, int n) { out[threadIdx.x + n] = in[threadIdx.x]; }
KERNEL wrong_division(const int *in, int *out, int by) { out[threadIdx.x] = in[threadIdx.x] / (by + (int)threadIdx.x); }

KERNEL wrong_shared(int *out, int at)
{
    __shared__ int cells[32];
    cells[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x + at];
}

KERNEL wrong_barrier(int *out, int from)
{
    if ((int)threadIdx.x >= from)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

KERNEL two_barriers(int *out, int from)
{
    if ((int)threadIdx.x < from) {
        out[threadIdx.x] = 1;
        asm volatile("bar.sync 0;" ::: "memory");
        out[threadIdx.x] = 2;
    } else {
        out[threadIdx.x] = 3;
        asm volatile("bar.sync 0;" ::: "memory");
        out[threadIdx.x] = 4;
    }
}

KERNEL wrong_shuffle(int *out, int from)
{
    int x = threadIdx.x;
    if (x < from)
        x = __shfl_xor_sync(~0u, x, 1);
    out[threadIdx.x] = x;
}

KERNEL partial_mask(int *out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, threadIdx.x, 1); }

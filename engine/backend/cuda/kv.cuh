/* kv.cuh: where a key and a value lie in the KV pages (kernels.h tells the layout), and how a head is normed and rotated on its way there, for every
 * kernel that does either.
 *
 *   norm      x[i] = (x[i] * factor) * w[i], the sum of squares in fold64 order
 *   rotation  (a, b) -> (fma(a, c, -(b s)), fma(b, c, a s)) for the first rope_dims values, in pairs (i, i + rope_dims / 2) or (2 i, 2 i + 1)
 *   f16       num_f16_from_f32: to nearest even, saturating
 *
 * A warp has a head. Loops are kept loops: a head is a few times 32 values, and where this runs inside of attention the registers are wanted
 * there. */
#ifndef NEXTD_CUDA_KV_CUH
#define NEXTD_CUDA_KV_CUH

#include "engine/backend/cuda/operand.cuh"

#define PAGE DEVICE_PAGE

/* ---- pages ---- */

static __device__ __forceinline__ uint16_t *kv_head_at(const struct device_kv &kv, int page, int layer, int head)
{
    return kv.base + (((size_t)page * (size_t)kv.n_layers + (size_t)layer) * (size_t)kv.n_kv + (size_t)head) * kv.head_elems;
}

static __device__ __forceinline__ int page_of(const struct device_batch &b, int row, int chunk)
{
    return b.pages[(size_t)b.table[row] * (size_t)b.max_pages + (size_t)chunk];
}

static __device__ __forceinline__ int first_visible(int pos, int window)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* ---- rotation ---- */

/* The factor of a head's norm for all lanes of a warp: lane j of fold64 has values j, j + 64, ...; a lane here has two of them, and reads every
 * 32nd value. */
static __device__ __forceinline__ float head_factor(const float *x, int n, float eps)
{
    const int lane = (int)threadIdx.x % 32;
    float low = 0.0f, high = 0.0f;
    DEVICE_LOOP
    for (int i = lane; i < n; i += 64)
        low = fmaf(x[i], x[i], low);
    DEVICE_LOOP
    for (int i = lane + 32; i < n; i += 64)
        high = fmaf(x[i], x[i], high);
    return 1.0f / sqrtf(fold64(low, high) / (float)n + eps);
}

/* Where a rotated or plain value goes: back to its row, and for keys to the page. */
static __device__ __forceinline__ void put_value(float *x, uint16_t *key, int d, float value)
{
    x[d] = value;
    if (key != NULL)
        key[d / 8 * (PAGE * 8) + d % 8] = num_f16_from_f32(value);
}

/* A warp's head of q or k: norm, rotation, and the page of a key; key: dimension 0 of the position, or NULL. Each value is read and written by one
 * lane once the factor is known. */
static __device__ __forceinline__ void rope_head(const struct device_rope &p, float *x, const float *w, const float *cs, uint16_t *key)
{
    const int lane = (int)threadIdx.x % 32, half = p.rope_dims / 2, n = p.kv.head_dim;
    const float factor = w == NULL ? 0.0f : head_factor(x, n, p.eps);
    __syncwarp(ALL_LANES);
    DEVICE_LOOP
    for (int i = lane; i < half; i += 32) {
        const int da = p.neox ? i : 2 * i, db = p.neox ? i + half : 2 * i + 1;
        float a = x[da], b = x[db];
        if (w != NULL) {
            a = (a * factor) * w[da];
            b = (b * factor) * w[db];
        }
        const float c = cs[2 * i], s = cs[2 * i + 1];
        put_value(x, key, da, fmaf(a, c, -(b * s)));
        put_value(x, key, db, fmaf(b, c, a * s));
    }
    DEVICE_LOOP
    for (int d = 2 * half + lane; d < n; d += 32)
        put_value(x, key, d, w == NULL ? x[d] : (x[d] * factor) * w[d]);
}

#endif

/* kernels_avx2.c: the kernel table for processors with AVX2, FMA and F16C. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx2.h"
#include "engine/backend/cpu/simd_rows.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "cpu:avx2",
    .supported = supported,
    .tiled = true,
    .gemm = gemm_avx2,
    .quantise = simd_quantise,
    .norm = simd_norm,
    .activate = simd_activate,
    .add = simd_add,
    .rotate = simd_rotate,
    .to_f16 = simd_to_f16,
    .attend = attend_avx2,
    .max = simd_max,
};

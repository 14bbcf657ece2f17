/* kernels_avx512.c: the kernel table for processors with AVX-512 F, BW, VL, DQ and VNNI. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx512.h"
#include "engine/backend/cpu/simd_rows.h"

static bool supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "cpu:avx512",
    .supported = supported,
    .tiled = true,
    .gemm = gemm_avx512,
    .quantise = simd_quantise,
    .norm = simd_norm,
    .activate = simd_activate,
    .add = lanes_add,
    .angles = lanes_angles,
    .rotate = lanes_rotate,
    .dequantise = lanes_dequantise,
    .to_f16 = simd_to_f16,
    .attend = attend_avx512,
    .attend_merge = attend_merge_avx512,
    .max = simd_max,
    .max_columns = simd_max_columns,
    .put_far = simd_put_far,
    .end_far = vf_end_far,
};

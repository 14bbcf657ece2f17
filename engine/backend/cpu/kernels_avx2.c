/* kernels_avx2.c: the kernel tables for processors with AVX2, FMA and F16C, with AVX-VNNI and without: they differ in the matrix kernel alone. */
#include <cpuid.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx2.h"
#include "engine/backend/cpu/simd_rows.h"

static bool has_avx2(void)
{
    unsigned a, b, c, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* clang's __builtin_cpu_supports does not know the name */
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avxvnni(void)
{
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVXVNNI);
}

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "cpu:avx2",
    .supported = has_avx2,
    .tiled = true,
    .gemm = gemm_avx2,
    .quantise = simd_quantise,
    .norm = simd_norm,
    .activate = simd_activate,
    .add = lanes_add,
    .angles = lanes_angles,
    .rotate = lanes_rotate,
    .dequantise = lanes_dequantise,
    .to_f16 = simd_to_f16,
    .attend = attend_avx2,
    .attend_merge = attend_merge_avx2,
    .max = simd_max,
    .max_columns = simd_max_columns,
    .put_far = simd_put_far,
    .end_far = vf_end_far,
};

const struct cpu_kernels cpu_kernels_avxvnni = {
    .name = "cpu:avxvnni",
    .supported = has_avxvnni,
    .tiled = true,
    .gemm = gemm_avxvnni,
    .quantise = simd_quantise,
    .norm = simd_norm,
    .activate = simd_activate,
    .add = lanes_add,
    .angles = lanes_angles,
    .rotate = lanes_rotate,
    .dequantise = lanes_dequantise,
    .to_f16 = simd_to_f16,
    .attend = attend_avx2,
    .attend_merge = attend_merge_avx2,
    .max = simd_max,
    .max_columns = simd_max_columns,
    .put_far = simd_put_far,
    .end_far = vf_end_far,
};

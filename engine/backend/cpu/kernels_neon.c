/* kernels_neon.c: the kernel table for 64-bit Arm processors with the dot product of Armv8.2 (asimddp). */
#include <sys/auxv.h>

#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_neon.h"
#include "engine/backend/cpu/simd_rows.h"

static bool supported(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

const struct cpu_kernels cpu_kernels_neon = {
    .name = "cpu:neon",
    .supported = supported,
    .tiled = true,
    .gemm = gemm_neon,
    .quantise = simd_quantise,
    .norm = simd_norm,
    .activate = simd_activate,
    .add = lanes_add,
    .angles = lanes_angles,
    .rotate = lanes_rotate,
    .dequantise = lanes_dequantise,
    .to_f16 = simd_to_f16,
    .attend = attend_neon,
    .attend_merge = attend_merge_neon,
    .max = simd_max,
    .max_columns = simd_max_columns,
    .put_far = simd_put_far,
    .end_far = vf_end_far,
};

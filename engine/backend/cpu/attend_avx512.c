/* attend_avx512.c: attention in AVX-512; see attend_simd.h. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx512.h"
#include "engine/backend/cpu/attend_simd.h"

void attend_avx512(const struct attend_job *j, float *scratch)
{
    simd_attend(j, scratch);
}

void attend_merge_avx512(const float *partials, int n, int head_dim, int v_stride, float *out)
{
    lanes_attend_finish(partials, n, head_dim, v_stride, out);
}

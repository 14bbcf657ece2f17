/* attend_avx2.c: attention in AVX2; see attend_simd.h. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx2.h"
#include "engine/backend/cpu/attend_simd.h"

void attend_avx2(const struct attend_job *j, float *scratch)
{
    simd_attend(j, scratch);
}

void attend_merge_avx2(const float *partials, int n, int head_dim, int v_stride, float *out)
{
    lanes_attend_finish(partials, n, head_dim, v_stride, out);
}

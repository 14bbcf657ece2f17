/* attend_neon.c: attention in Advanced SIMD; see attend_simd.h. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_neon.h"
#include "engine/backend/cpu/attend_simd.h"

void attend_neon(const struct attend_job *j, float *scratch)
{
    simd_attend(j, scratch);
}

void attend_merge_neon(const float *partials, int n, int head_dim, int v_stride, float *out)
{
    lanes_attend_finish(partials, n, head_dim, v_stride, out);
}

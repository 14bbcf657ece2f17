/* attend_avx2.c: attention in AVX2; see attend_simd.h. */
#include "engine/backend/cpu/gemm.h"
#include "engine/backend/cpu/simd_avx2.h"
#include "engine/backend/cpu/attend_simd.h"

void attend_avx2(const struct attend_job *j, float *scratch)
{
    simd_attend(j, scratch);
}

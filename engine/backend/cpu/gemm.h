/* gemm.h: the matrix kernels of the tiled instruction sets, for the kernel tables; see cpu.h for what they compute. */
#ifndef NEXTD_CPU_GEMM_H
#define NEXTD_CPU_GEMM_H

#include <assert.h>

#include "engine/backend/cpu/cpu.h"

void gemm_avx2(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead);
void gemm_avxvnni(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead);
void gemm_avx512(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead);
void gemm_neon(const struct stripe *s, int n_cols, const struct operand *x, int r0, int r1, float *out, size_t ld, const uint8_t *ahead);

void attend_avx2(const struct attend_job *job, float *scratch);
void attend_merge_avx2(const float *partials, int n, int head_dim, int v_stride, float *out);
void attend_avx512(const struct attend_job *job, float *scratch);
void attend_merge_avx512(const float *partials, int n, int head_dim, int v_stride, float *out);
void attend_neon(const struct attend_job *job, float *scratch);
void attend_merge_neon(const float *partials, int n, int head_dim, int v_stride, float *out);

#endif

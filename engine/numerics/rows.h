/* rows.h: sums over the vocabulary, in one frozen order on every instruction set.
 *
 * A row is n_vocab raw f32 logits. Log-probabilities and the draw need its maximum and the sum of the exponentials; both walk the row once per
 * token, so they are vectorised, and since they reach output bits their order is fixed:
 *
 *   blocks   of ROWS_BLOCK ids, ascending, the last one short
 *   lanes    within a block, id mod 16; each lane adds num_exp_f32((x - max) * scale) in f32, ascending in id; a missing id adds nothing
 *   fold     lane j += lane j+8, then +4, +2, +1: the block's sum, f32
 *   total    the blocks' sums added in f64, ascending
 *
 * Every table below gives the same bits (tests/engine/numerics/test_rows.c compares them by memcmp). A NaN in a row is an engine fault that the
 * backend reports; here it only must not crash. */
#ifndef NEXTD_ROWS_H
#define NEXTD_ROWS_H

#include <stdbool.h>

#define ROWS_BLOCK 256

struct rows_ops {
    const char *name;
    /* The largest of x[0 .. n-1]; -infinity for n = 0. */
    float (*max)(const float *x, int n);
    /* Sum of num_exp_f32((x[i] - max) * scale) in the order above. block_sums (NULL, or [ceil(n / ROWS_BLOCK)]) receives each block's sum. */
    double (*sum_exp)(const float *x, int n, float max, float scale, float *block_sums);
};

extern const struct rows_ops rows_generic; /* the specification */
extern const struct rows_ops rows_avx2;
extern const struct rows_ops rows_avx512;

/* Whether this CPU can run the table. */
bool rows_supported(const struct rows_ops *ops);
/* The fastest table of this CPU. Constant for the life of the process. */
const struct rows_ops *rows_best(void);

/* log(sum of e^x[i]), f64: max + num_log(sum_exp(x, n, max, 1)). -infinity where every x is. */
double rows_log_sum_exp(const struct rows_ops *ops, const float *x, int n, float max);

#endif

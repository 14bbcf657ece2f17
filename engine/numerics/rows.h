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
 * The truncations work on lists of survivors (gather), their weights and how much those above a border weigh (mass_above). typical_p needs two sums
 * more (moments). Both add in f64, in 16 lanes, index mod 16, folded by halves.
 *
 * max is at least every x, so that no exponent is above 0 and the vector forms need not look for large ones.
 *
 * Every table below gives the same bits (tests/engine/numerics/test_rows.c compares them by memcmp). A NaN in a row is an engine fault that the
 * backend reports; here it only must not crash. */
#ifndef NEXTD_ROWS_H
#define NEXTD_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#define ROWS_BLOCK 256
#define ROWS_SLACK 16 /* entries behind the last one of a gathered list that may be overwritten */

/* Over weights w = num_exp_f32(y), y = (x - max) * scale: their sum, and the sum of w * y over those that are not 0. */
struct rows_moments {
    double sum, sum_y;
};

struct rows_ops {
    const char *name;
    /* The largest of x[0 .. n-1]; -infinity for n = 0. */
    float (*max)(const float *x, int n);
    /* Sum of num_exp_f32((x[i] - max) * scale) in the order above. block_sums (NULL, or [ceil(n / ROWS_BLOCK)]) receives each block's sum. */
    double (*sum_exp)(const float *x, int n, float max, float scale, float *block_sums);
    /* sum_exp, and *plain_out = sum_exp(x, n, max, 1, NULL), in one pass; NULL where that would gain nothing over two (rows_sum_exp_twice). */
    double (*sum_exp_twice)(const float *x, int n, float max, float scale, float *block_sums, double *plain_out);
    struct rows_moments (*moments)(const float *x, int n, float max, float scale);
    /* out[i] = num_exp_f32((x[i] - max) * scale) */
    void (*weights)(const float *x, int n, float max, float scale, float *out);
    /* Sum of the weights w[i] >= 0 of those with x[i] > border. */
    double (*mass_above)(const float *x, const float *w, int n, float border);
    /* Lists i with low <= x[i] <= high, ascending: ids first_id + i and values x[i]. Both arrays have ROWS_SLACK entries more than are found. */
    int (*gather)(const float *x, int n, float low, float high, int32_t first_id, int32_t *ids, float *values);
};

extern const struct rows_ops rows_generic; /* the specification */
/* All tables of this build, the fastest first, the specification last; then NULL. */
extern const struct rows_ops *const rows_tables[];

/* Whether this CPU can run the table. */
bool rows_supported(const struct rows_ops *ops);
/* The fastest table of this CPU. Constant for the life of the process. */
const struct rows_ops *rows_best(void);

/* ops->sum_exp_twice, or the same in two passes. */
double rows_sum_exp_twice(const struct rows_ops *ops, const float *x, int n, float max, float scale, float *block_sums, double *plain_out);

/* log(sum of e^x[i]), f64: max + num_log(sum_exp(x, n, max, 1)). -infinity where every x is. */
double rows_log_sum_exp(const struct rows_ops *ops, const float *x, int n, float max);

#endif

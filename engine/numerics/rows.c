/* rows.c: the specification of the sums over a row of logits, and the choice among its vector forms. See rows.h for the order.
 *
 * The lanes stand in an array so that the compiler may vectorise what it likes: every addition is written out and -ffp-contract=off keeps it so. */
#include "engine/numerics/rows.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <math.h>
#include <stddef.h>

#include "engine/numerics/numerics.h"

#if defined(__x86_64__)
extern const struct rows_ops rows_avx2, rows_avx512;
const struct rows_ops *const rows_tables[] = {&rows_avx512, &rows_avx2, &rows_generic, NULL};
#elif defined(__aarch64__)
extern const struct rows_ops rows_neon;
const struct rows_ops *const rows_tables[] = {&rows_neon, &rows_generic, NULL};
#else
const struct rows_ops *const rows_tables[] = {&rows_generic, NULL};
#endif

static float generic_max(const float *x, int n)
{
    float max = -INFINITY;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static float block_sum_exp(const float *x, int n, float max, float scale)
{
    float lane[16] = {0};
    for (int i = 0; i < n; i++)
        lane[i % 16] += num_exp_f32((x[i] - max) * scale);
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

static double generic_sum_exp(const float *x, int n, float max, float scale, float *block_sums)
{
    double total = 0;
    for (int begin = 0; begin < n; begin += ROWS_BLOCK) {
        float sum = block_sum_exp(x + begin, n - begin < ROWS_BLOCK ? n - begin : ROWS_BLOCK, max, scale);
        if (block_sums != NULL)
            block_sums[begin / ROWS_BLOCK] = sum;
        total += (double)sum;
    }
    return total;
}

static struct rows_moments generic_moments(const float *x, int n, float max, float scale)
{
    double sum[16] = {0}, sum_y[16] = {0};
    for (int i = 0; i < n; i++) {
        float y = (x[i] - max) * scale, w = num_exp_f32(y);
        if (w == 0)
            continue;
        sum[i % 16] += (double)w;
        sum_y[i % 16] = fma((double)w, (double)y, sum_y[i % 16]);
    }
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++) {
            sum[j] += sum[j + half];
            sum_y[j] += sum_y[j + half];
        }
    return (struct rows_moments){sum[0], sum_y[0]};
}

static void generic_weights(const float *x, int n, float max, float scale, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = num_exp_f32((x[i] - max) * scale);
}

static double generic_mass_above(const float *x, const float *w, int n, float border)
{
    double sum[16] = {0};
    for (int i = 0; i < n; i++)
        sum[i % 16] += x[i] > border ? (double)w[i] : 0.0;
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            sum[j] += sum[j + half];
    return sum[0];
}

static int generic_gather(const float *x, int n, float low, float high, int32_t first_id, int32_t *ids, float *values)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        ids[count] = first_id + i;
        values[count] = x[i];
        count += x[i] >= low && x[i] <= high;
    }
    return count;
}

const struct rows_ops rows_generic = {.name = "generic",
                                      .max = generic_max,
                                      .sum_exp = generic_sum_exp,
                                      .moments = generic_moments,
                                      .weights = generic_weights,
                                      .mass_above = generic_mass_above,
                                      .gather = generic_gather};

bool rows_supported(const struct rows_ops *ops)
{
#if defined(__x86_64__)
    if (ops == &rows_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
    if (ops == &rows_avx2) {
        unsigned a, b, c, d;
        bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* clang's __builtin_cpu_supports does not know the name */
        return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#elif defined(__aarch64__)
    if (ops == &rows_neon) /* rounding, fma and the conversions used are in every processor of the kind */
        return true;
#endif
    return ops == &rows_generic;
}

const struct rows_ops *rows_best(void)
{
    int i = 0;
    while (!rows_supported(rows_tables[i]))
        i++;
    return rows_tables[i];
}

double rows_sum_exp_twice(const struct rows_ops *ops, const float *x, int n, float max, float scale, float *block_sums, double *plain_out)
{
    if (ops->sum_exp_twice != NULL)
        return ops->sum_exp_twice(x, n, max, scale, block_sums, plain_out);
    *plain_out = ops->sum_exp(x, n, max, 1.0f, NULL);
    return ops->sum_exp(x, n, max, scale, block_sums);
}

double rows_log_sum_exp(const struct rows_ops *ops, const float *x, int n, float max)
{
    if (max == -INFINITY)
        return -INFINITY;
    return (double)max + num_log(ops->sum_exp(x, n, max, 1.0f, NULL));
}

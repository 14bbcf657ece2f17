/* selection.h: the best items of a list, up to a mass. No comparison of two items, no sorting. */
#ifndef NEXTD_SELECTION_H
#define NEXTD_SELECTION_H

#include "engine/numerics/rows.h"

/* Working memory. */
struct selection;
struct selection *selection_create(int n_max); /* NULL when memory is short */
void selection_destroy(struct selection *s);

/* The item at the border: an item survives when its score is above `score`, or equal and its index is at most `last`. */
struct selection_border {
    float score;
    int last;
    double better, mass; /* of the survivors: without the last of them, and with it */
};

/* Finds the border such that an item survives iff the mass of strictly better items (higher score, or equal score and lower index) is below target.
 * The mass of an item is its weight, or 1 where weights is NULL. The best item always survives. n >= 1. A border below `low` takes longer to find. */
struct selection_border selection_find(struct selection *s, const float *scores, const float *weights, int n, float low, double target);

/* Halves the range of scores low .. high that has the border of n items, several times. Returns the mass of the items above it. */
double selection_narrow(const struct rows_ops *rows, const float *scores, const float *weights, int n, double target, float *low, float *high);

/* What two sums of n weights in different orders, each at most `total`, can differ by, and a target that is a part of them with it: twice the bound
 * n 2^-53 for each of the two, twice over. */
static inline double selection_slack(double total, int n)
{
    return total * (double)n * 0x1p-50;
}

#endif

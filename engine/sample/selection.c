/* selection.c: where a list is to be cut, by a walk over the bits of an order-preserving key.
 *
 * A histogram of the masks' upper bits tells the cell that has the border; the next one, over the items in that cell alone, takes the bits that
 * follow, until no bit is left and only the order among equals decides.
 *
 * The sums that decide: weights in f64, added in ascending index within a cell, cells from the best down, of 11, 11 and 10 bits of the key. Scores
 * of a kind have much the same upper bits, so that nearly all items meet in a few cells there, each addition waiting for the one before. But a sum
 * only decides on which side of the target an item is. So the cells are first laid over the range that the items have, and of a long list only those
 * are looked at that a few sums over the whole list, in any order, leave in question. A border that is further from the target than the sums can be
 * wrong is the border; in doubt - a target that is met exactly - all is done again in order. The fast way never changes a border. */
#include "engine/sample/selection.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/numerics/numerics.h"

#define ORDERED_BITS 11 /* of a key that a histogram takes in: the order of the sums */
#define QUICK_BITS 9    /* the same where any order will do */
#define LONG_LIST 2048  /* items from which the border's range is narrowed first */
#define HALVINGS 8

struct selection {
    const struct rows_ops *rows;
    int32_t *among; /* [n_max + ROWS_SLACK] the items that are still in question, as indices into the list */
    float *scores;  /* [n_max + ROWS_SLACK] of those items */
    uint32_t *keys; /* [n_max] of those items: their scores' order */
    double *hist;   /* [1 << ORDERED_BITS] */
};

struct selection *selection_create(int n_max)
{
    struct selection *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    size_t n = (size_t)n_max;
    s->rows = rows_best();
    s->among = malloc((n + ROWS_SLACK) * sizeof *s->among);
    s->scores = malloc((n + ROWS_SLACK) * sizeof *s->scores);
    s->keys = malloc(n * sizeof *s->keys);
    s->hist = malloc(sizeof *s->hist << ORDERED_BITS);
    if (!s->among || !s->scores || !s->keys || !s->hist) {
        selection_destroy(s);
        return NULL;
    }
    return s;
}

void selection_destroy(struct selection *s)
{
    if (s == NULL)
        return;
    free(s->among);
    free(s->scores);
    free(s->keys);
    free(s->hist);
    free(s);
}

/* Unsigned integers in the order of the floats; -0 and +0 are one value. */
static uint32_t ordered_key(float x)
{
    uint32_t u = num_bits_from_f32(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static float value_of_key(uint32_t key)
{
    return num_f32_from_bits(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* The border among n items, listed in `among` with their scores, where those that are better than all of them have mass `above`. */
static struct selection_border walk(struct selection *s, const float *scores, const float *weights, int n, double above, double target, bool in_order)
{
    uint32_t *keys = s->keys, base = UINT32_MAX, top = 0;
    int32_t *among = s->among;
    double *hist = s->hist;
    for (int k = 0; k < n; k++) {
        uint32_t key = keys[k] = ordered_key(scores[k]);
        base = key < base ? key : base;
        top = key > top ? key : top;
    }
    base = in_order ? 0 : base;
    int bits = in_order ? ORDERED_BITS : QUICK_BITS, shift = in_order ? 32 - ORDERED_BITS : 0;
    while ((top - base) >> shift >> bits > 0)
        shift++;
    for (;;) {
        int lowest = 1 << bits, highest = 0, n_left = 0;
        memset(hist, 0, sizeof *hist << bits);
        for (int k = 0; k < n; k++) {
            int cell = (int)((keys[k] - base) >> shift);
            hist[cell] += weights == NULL ? 1.0 : (double)weights[among[k]];
            lowest = cell < lowest ? cell : lowest;
            highest = cell > highest ? cell : highest;
        }
        int cell = highest;
        while (cell > lowest && above + hist[cell] < target)
            above += hist[cell--];
        base += (uint32_t)cell << shift;
        for (int k = 0; k < n; k++) {
            uint32_t key = keys[k];
            among[n_left] = among[k];
            keys[n_left] = key;
            n_left += (key - base) >> shift == 0;
        }
        n = n_left;
        if (shift == 0)
            break;
        shift = shift > bits ? shift - bits : 0;
    }
    struct selection_border border = {.score = value_of_key(base), .last = -1};
    for (int k = 0; k < n && (k == 0 || above < target); k++) {
        border.last = among[k];
        border.better = above;
        border.mass = above += weights == NULL ? 1.0 : (double)weights[border.last];
    }
    return border;
}

static struct selection_border walk_all(struct selection *s, const float *scores, const float *weights, int n, double target, bool in_order)
{
    for (int i = 0; i < n; i++)
        s->among[i] = i;
    return walk(s, scores, weights, n, 0, target, in_order);
}

double selection_narrow(const struct rows_ops *rows, const float *scores, const float *weights, int n, double target, float *low, float *high)
{
    double above = 0;
    for (int i = 0; i < HALVINGS; i++) {
        float middle = 0.5f * *low + 0.5f * *high;
        double mass = rows->mass_above(scores, weights, n, middle);
        if (mass > target) {
            *low = middle;
        } else {
            *high = middle;
            above = mass;
        }
    }
    return above;
}

struct selection_border selection_find(struct selection *s, const float *scores, const float *weights, int n, float low, double target)
{
    struct selection_border border;
    assert(n >= 1);
    if (weights == NULL)
        return walk_all(s, scores, weights, n, target, false);
    if (n < LONG_LIST) {
        border = walk_all(s, scores, weights, n, target, false);
    } else {
        float high = s->rows->max(scores, n);
        double above = selection_narrow(s->rows, scores, weights, n, target, &low, &high);
        int n_left = s->rows->gather(scores, n, low, high, 0, s->among, s->scores);
        border = walk(s, s->scores, weights, n_left, above, target, false);
    }
    double slack = selection_slack(border.mass, n);
    if (border.last >= 0 && border.better < target - slack && border.mass > target + slack)
        return border;
    return walk_all(s, scores, weights, n, target, true);
}

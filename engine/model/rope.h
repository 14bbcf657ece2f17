/* rope.h: the frequencies of rotary position embedding (Su et al., "RoFormer", 2021).
 *
 * Dimension pair i of a head at position p is turned by the angle p * freq[i], freq[i] = scale * base^(-2i / dims) / factor[i]. Backends compute
 * angles, sine and cosine in f64 by numerics.h and round them to f32 once, so that they depend on the position alone. */
#ifndef NEXTD_ROPE_H
#define NEXTD_ROPE_H

#include <stdint.h>

#include "engine/err.h"

#define ROPE_MAX_DIMS 512
#define ROPE_MAX_POS (1 << 23) /* positions that there can be */

struct rope {
    int half; /* pairs */
    double freq[ROPE_MAX_DIMS / 2];
};

/* dims is even, 2 .. ROPE_MAX_DIMS. factors: [dims / 2] divisors, or NULL. ERR_UNSUPPORTED where a frequency is not a number that positions below
 * ROPE_MAX_POS can be multiplied with. */
int rope_init(struct rope *r, int dims, double base, double scale, const float *factors, struct err *err);

#endif

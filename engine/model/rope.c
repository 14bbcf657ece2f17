/* rope.c: see rope.h. */
#include "engine/model/rope.h"

#include <assert.h>
#include <math.h>

#include "engine/numerics/numerics.h"

int rope_init(struct rope *r, int dims, double base, double scale, const float *factors, struct err *err)
{
    assert(dims >= 2 && dims <= ROPE_MAX_DIMS && dims % 2 == 0);
    if (!(base >= 1.0 && base <= 1e15) || !(scale > 0.0 && scale <= 2.0))
        return err_set(err, ERR_UNSUPPORTED, "rope with base %g and frequency scale %g is out of range", base, scale);
    double log_base = num_log(base);
    r->half = dims / 2;
    for (int i = 0; i < r->half; i++) {
        double factor = factors != NULL ? (double)factors[i] : 1.0;
        r->freq[i] = num_exp(-2.0 * i / dims * log_base) * scale / factor;
        /* num_sincos reduces angles below 2^24. */
        if (!(r->freq[i] > 0.0 && r->freq[i] <= 2.0))
            return err_set(err, ERR_UNSUPPORTED, "rope factor %d is %g; that is out of range", i, factor);
    }
    return 0;
}

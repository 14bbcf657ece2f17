/* dots_avx512.c: see dots.h. */
#include "tests/engine/numerics/dots.h"

const struct dots dots_avx512 = {dots_quant, dots_mac, dots_bytes};

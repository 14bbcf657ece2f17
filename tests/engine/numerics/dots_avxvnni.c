/* dots_avxvnni.c: see dots.h. */
#include "tests/engine/numerics/dots.h"

const struct dots dots_avxvnni = {dots_quant, dots_mac, dots_bytes};

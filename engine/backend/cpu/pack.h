/* pack.h: weights in the order in which the kernels read them: tiles of 32 outputs x 32 inputs, one load per 64-byte line.
 *
 * A stripe is 32 outputs (rows of the tensor) over all inputs. It is a header, then one tile per block of 32 inputs, tiles in slot-major order
 * (operand_place). Output r of a stripe is lane r mod 16 of half g = r / 16. Parts of a tile, in this order, by format:
 *
 *   twos     [2][2][64]  line (j, g): bits 2 v .. 2 v + 1 of byte 4 r + i are value k = 16 j + 4 v + i
 *   third    [4][2] two u64 masks (low, high): bit 4 r + i is bit 2 of value k = 4 v + i (low) or 16 + 4 v + i (high) of lane r of half g
 *   nibbles  [4][2][64]  line (v, g): byte 4 r + i holds values k = 4 v + i (low) and k = 16 + 4 v + i (high) of lane r
 *   fifth    [4][2] two u64 masks (low, high): bit 4 r + i is the fifth bit of the value that line (v, g) holds in byte 4 r + i
 *   pairs    [2][2][64]  line (j, g): bits 2 v .. 2 v + 1 of byte 4 r + i are bits 4 and 5 of value k = 16 j + 4 v + i
 *   bytes    [8][2][64]  line (v, g): byte 4 r + i is value k = 4 v + i, plus 128
 *   d, min   [2][16] f16 of the block
 *   scale    [2][16] u8, or [2][2][16] i8 by half of the block;  m [2][16] u8: the integer sub-scales of K types
 *   both     [2][2][16] by half of the block: scale in the low nibble, m in the high one
 *   six      [2][16] low nibbles of scale + 32, of the block's first half low, of its second half high;  [16] the bits above: bits 4 g + 2 h ..
 *            4 g + 2 h + 1 of byte r are those of half h of the block, lane r of half g
 *   floats   [32][2][16] of the element type
 *
 * The header of K types is [superblocks][2][16] f16 of d, then the same of dmin where there are minima.
 *
 *              nibbles  fifth  pairs  bytes  d   min  scale  m    bytes a tile
 *   Q4_0          x                          x                    576
 *   Q4_1          x                          x    x               640
 *   Q5_0          x       x                  x                    704
 *   Q5_1          x       x                  x    x               768
 *   Q8_0                                x    x                    1088
 *   Q4_K          x                                    1     1    576
 *   Q5_K          x       x                            1     1    704
 *   Q6_K          x              x                     2          832
 *   Q3_K       twos, third, six                                   432    unaligned: a byte for each scale would be 104 % of the file
 *   Q2_K       twos, both                                         320
 * Outputs beyond the tensor are zero. */
#ifndef NEXTD_CPU_PACK_H
#define NEXTD_CPU_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/numerics/quant.h"

enum pack_scale { PACK_F16, PACK_F16_MIN, PACK_K_MIN, PACK_K_HALVES, PACK_K_HALVES6, PACK_K_HALVES_MIN, PACK_FLOAT };

struct pack_format {
    int bits;   /* 2, 3, 4, 5, 6 or 8; 16 or 32 for floats */
    int offset; /* stored = value + offset */
    enum pack_scale scale;
    int tile_bytes;
};

/* Format of a tensor type. */
const struct pack_format *pack_format(int type);
/* Bytes of the header and of a whole stripe. */
size_t pack_header_bytes(int type, int n_cols);
size_t pack_stripe_bytes(int type, int n_cols);
/* Packs n_rows <= 32 rows of the file's format. `out` is zeroed memory. */
void pack_stripe(int type, const uint8_t *rows, int n_rows, int n_cols, uint8_t *out);
/* Tile b of a packed stripe. */
const uint8_t *pack_tile(int type, const uint8_t *stripe, int n_cols, int b);
/* Asks memory for what an output's blocks need: their lines are far apart, too many for the processor to find by itself. Not for float types. */
void pack_ask(int type, const uint8_t *stripe, int r, int n_cols);
/* The meaning of block b of output r (0..31); its n_min is not told. Not for float types. */
void pack_unpack(int type, const uint8_t *stripe, int r, int n_cols, int b, struct quant_w *w);

#endif

/* layout.h: how weights lie in the device's memory. Plain C that C++ and CUDA read too: the host packs by it, the kernels load by it.
 *
 * The problem: a warp reads fast where its 32 lanes take 16 bytes each, one after another, and the file's blocks of 18 or 34 bytes allow nothing
 * of the kind. The idea: a lane owns one (row, slot) of four rows and eight slots (numerics/quant.h), takes whole blocks of 32 values and so
 * needs nobody else until the slots are folded. What lanes read together lies together.
 *
 * A tensor is a sequence of stripes of 32 rows (the last is filled up with zeros), so that a fill of 32 rows is one copy to the device. A stripe is
 * five planes, one after another:
 *
 *   quants   8 or 16 bytes, or several chunks of 16, a block: what the low bits or the whole values are; floats as they are
 *   high     further bits of the values
 *   scales   what a block has for itself
 *   supers   what 8 blocks of a K type share: d, or d and dmin, f16
 *   sixes    Q3_K alone: the upper two bits of 16 scales, 4 bytes for 8 blocks
 *
 * Order inside a plane: groups of 4 rows; in them groups of 8 blocks (the last may be short, n of them); in it chunks; in a chunk row after row, in
 * it block after block. So block b of row r, chunk c of `chunks`, is at
 *
 *   (r / 4 * 4 * n_blocks + b / 8 * 32) * chunks + c * 4 * n + r % 4 * n + b % 8,   n = min(8, n_blocks - b / 8 * 8)
 *
 * times the chunk's bytes; supers and sixes have r / 4 * 4 * n_supers + b / 8 * 4 + r % 4. Every plane of a stripe is a multiple of 32 bytes.
 *
 *   nibbles  byte i holds value i (low) and value 16 + i (high)                                     Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K
 *   pairs    two words: bits 2 v .. 2 v + 1 of byte i of word h are those of value 16 h + 4 v + i      quants of Q2_K Q3_K, high of Q6_K
 *   bits     one word: bit w of byte i is that of value 4 w + i                                     high of Q5_0 Q5_1 Q5_K Q3_K
 *
 * so that a shift and a mask make a word of four values. Values are stored with the offset of the file (Q4_0: q + 8, Q5_0: q + 16, Q6_K: q + 32,
 * Q3_K: q + 4). Scales: f16 d of Q4_0, Q5_0, Q8_0; d and min of Q4_1, Q5_1; bytes scale and min of Q4_K, Q5_K; a byte for each half of the block:
 * scale of Q6_K, scale and min as nibbles of Q2_K; the low nibbles of both halves' scales in one byte of Q3_K, whose sixes hold the bits above: those
 * of half h of block b are bits 4 (b % 8) + 2 h and the next. */
#ifndef NEXTD_CUDA_LAYOUT_H
#define NEXTD_CUDA_LAYOUT_H

#include <stddef.h>

#define LAYOUT_ROWS 32     /* of a stripe */
#define LAYOUT_WARP_ROWS 4 /* of a warp */
#define LAYOUT_SLOTS 8     /* blocks of a group, and slots of a dot product */

/* enum tensor_type: its header is C alone. */
enum device_type {
    DEVICE_F32 = 0,
    DEVICE_F16 = 1,
    DEVICE_Q4_0 = 2,
    DEVICE_Q4_1 = 3,
    DEVICE_Q5_0 = 6,
    DEVICE_Q5_1 = 7,
    DEVICE_Q8_0 = 8,
    DEVICE_Q2_K = 10,
    DEVICE_Q3_K = 11,
    DEVICE_Q4_K = 12,
    DEVICE_Q5_K = 13,
    DEVICE_Q6_K = 14,
    DEVICE_BF16 = 30
};

/* X(type, chunks and bytes of a chunk of the quants, bytes of high, of scales, of supers, of sixes). Both languages make their table of it. */
#define LAYOUT_TABLE(X)               \
    X(DEVICE_F32, 8, 16, 0, 0, 0, 0)  \
    X(DEVICE_F16, 4, 16, 0, 0, 0, 0)  \
    X(DEVICE_BF16, 4, 16, 0, 0, 0, 0) \
    X(DEVICE_Q4_0, 1, 16, 0, 2, 0, 0) \
    X(DEVICE_Q4_1, 1, 16, 0, 4, 0, 0) \
    X(DEVICE_Q5_0, 1, 16, 4, 2, 0, 0) \
    X(DEVICE_Q5_1, 1, 16, 4, 4, 0, 0) \
    X(DEVICE_Q8_0, 2, 16, 0, 2, 0, 0) \
    X(DEVICE_Q2_K, 1, 8, 0, 2, 4, 0)  \
    X(DEVICE_Q3_K, 1, 8, 4, 1, 2, 4)  \
    X(DEVICE_Q4_K, 1, 16, 0, 2, 4, 0) \
    X(DEVICE_Q5_K, 1, 16, 4, 2, 4, 0) \
    X(DEVICE_Q6_K, 1, 16, 8, 2, 2, 0)

#endif

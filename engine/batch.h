/* batch.h: the flat arrays of one step. The scheduler fills them, the model and the backends read them.
 *
 * A row is one token of one sequence at one position. Rows of a sequence are contiguous and ascending in position; a sequence appears at most
 * once. Nothing says "prefill" or "decode": a row is a row, and what it computes depends on its sequence's earlier positions alone. */
#ifndef NEXTD_BATCH_H
#define NEXTD_BATCH_H

#include <stdint.h>

/* Positions in one KV page, and in one attention chunk (numerics: a chunk starts at a multiple of this from position 0). */
#define KV_PAGE 64

struct batch {
    int n_rows;
    const int32_t *token; /* [n_rows] token ids; below 0: the id that slot ~token keeps (draw.h), which an earlier launch drew */
    const int32_t *pos;   /* [n_rows] positions, from 0 */
    const int32_t *seq;   /* [n_rows] index of the row's sequence, 0 <= seq < n_seqs, non-decreasing */

    int n_seqs;
    const int32_t *const *pages; /* [n_seqs] page table of each sequence: position p lives in page pages[s][p / KV_PAGE] at p % KV_PAGE */

    int n_out;
    const int32_t *out; /* [n_out] rows whose logits are wanted, ascending */
};

#endif

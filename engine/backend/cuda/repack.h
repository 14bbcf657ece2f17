/* repack.h: from the file's blocks to the stripes of layout.h. Pure functions of the host: any number of threads may pack stripes at once. */
#ifndef NEXTD_CUDA_REPACK_H
#define NEXTD_CUDA_REPACK_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of a stripe of 32 rows, and of a tensor: whole stripes. n_cols is what quant_row_bytes takes for the type. */
size_t repack_stripe_bytes(int type, int n_cols);
size_t repack_bytes(int type, int n_rows, int n_cols);
/* Packs 1 <= n_rows <= 32 rows, as the file holds them, into a stripe; the rows beyond are zeros. `out` need not be clear. */
void repack_rows(int type, const void *rows, int n_rows, int n_cols, uint8_t *out);

#endif

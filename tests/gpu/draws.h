/* draws.h: tokens that a device draws, against sampler.c on the CPU: one of each kind of drawing, with their log-probabilities. */
#ifndef NEXTD_TESTS_GPU_DRAWS_H
#define NEXTD_TESTS_GPU_DRAWS_H

#include "engine/draw.h"
#include "tests/gpu/cases.h"

#define N_DRAWS 10

struct drawn_row {
    int32_t id, top_id[DRAW_MAX_TOP];
    float logprob, top[DRAW_MAX_TOP]; /* 0 where none was asked for */
};

/* After the last step: computes N_DRAWS rows more and draws a token from each, on the device where the runner draws there, else by sampler.c. Rows
 * that the device leaves to the host are counted. */
int world_draw(struct world *w, struct drawn_row rows_out[N_DRAWS], int *n_left_out, struct err *err);

const char *draw_name(int i);
uint64_t draws_hash(const struct drawn_row rows[N_DRAWS]);

#endif

/* cases.h: what gpu_check computes: random models of every type, family and of the shapes of real models, and the steps that each of them takes.
 *
 * A step's scores come down to one number. golden.txt has the CPU backend's numbers for all cases; they are the same on every machine, as the models
 * are. So a GPU can be held against them without a second machine, and where it differs walk.h looks for the place. */
#ifndef NEXTD_TESTS_GPU_CASES_H
#define NEXTD_TESTS_GPU_CASES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/model/model.h"
#include "tests/gpu/random_model.h"

#define CASE_STEPS 11
#define CASE_MAX_ROWS 160

struct check_case {
    struct random_model model;
    bool cheap;     /* an emulated device computes it in a few seconds */
    int n_prompt;   /* of the first sequence */
    int n_wide;     /* sequences of one row each, at the end */
};

extern const struct check_case check_cases[];
extern const int n_check_cases;

/* A model, random or real, on a device, with the pages of its sequences. */
struct world {
    struct model *model;
    struct runner runner;
    int n_prompt, n_wide;
    int32_t *pages;               /* [n_seqs][3] */
    const int32_t **tables;       /* [n_seqs] */
    int n_seqs, n_pages;
};

/* Opens the file on the device. */
int world_open(struct world *w, const char *path, const char *device, int n_threads, int n_prompt, int n_wide, struct err *err);
void world_close(struct world *w);

/* The rows of a step; its arrays live in `rows`. */
struct step_rows {
    int32_t token[CASE_MAX_ROWS], pos[CASE_MAX_ROWS], seq[CASE_MAX_ROWS], out[CASE_MAX_ROWS];
    struct batch batch;
    char name[32]; /* one word */
};
/* Step 0 <= i < CASE_STEPS; copies pages first where the step wants it. */
void world_step(struct world *w, int i, struct step_rows *rows);

/* n rows more, of the prompt that began in the mixed step; for draws.h. */
void world_rows_to_draw(const struct world *w, struct step_rows *rows, int n);

/* Computes step i; *hash_out is of all its scores and their maxima. */
int world_run(struct world *w, int i, uint64_t *hash_out, char *name_out, size_t n_name, struct err *err);

#endif

/* matrix.h: the mixed requests of the proof of invariance, and a driver that runs them through an engine and writes down everything they yield.
 *
 * The same matrix runs on the toy (test_engine_invariance.c) and on real models (test_invariance.c). What a request yields is one string of bytes:
 * texts, token ids, the bits of every log-probability, why it ended. Two runs agree if and only if those strings are equal. */
#ifndef NEXTD_TESTS_MATRIX_H
#define NEXTD_TESTS_MATRIX_H

#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

#define MATRIX_MAX_JOBS 64

struct job {
    const char *name;
    struct engine_request req;
    struct engine_bias bias[4];
    struct engine_text stops[4];
    char stop_bytes[4][64];
    int32_t stop_ids[2];
};

/* What a run of a job gave. */
struct outcome {
    char *bytes;
    size_t n, cap;
    int n_ends, n_choices_ended, n_texts, n_output, n_cached;
    enum engine_finish finish;
    struct err err;
};

/* A source of prompts: slices of one stream of token ids. */
struct matrix_text {
    const int32_t *ids;
    size_t n; /* >= 700 */
};

/* Fills jobs (at least MATRIX_MAX_JOBS places) and returns their number. n_new: typical output length. Jobs that need an output to aim at (stop
 * strings, stop ids, bias) take it from `e`, which must be idle. The jobs live as long as `text`. */
int matrix_build(struct job *jobs, const struct matrix_text *text, int n_new, struct engine *e, sem_t *wake);

/* Keeps the jobs of these names, in their place, and returns their number, n_names. */
int matrix_keep(struct job *jobs, int n_jobs, const char *const *names, int n_names);

struct drive_options {
    bool alone;          /* one after the other */
    uint64_t noise_seed; /* not 0: other requests come, are paused and cancelled around the jobs; jobs are paused and resumed */
    const struct matrix_text *noise_text;
};

/* Runs all jobs to their END; outcomes[i] belongs to jobs[i]. `wake` is posted by the engine's notify. */
void drive(struct engine *e, sem_t *wake, const struct job *jobs, int n_jobs, const struct drive_options *opt, struct outcome *outcomes);

bool outcome_equal(const struct outcome *a, const struct outcome *b);
void outcome_finish(struct outcome *o);
/* For engine_options.notify; arg is the semaphore. */
void drive_notify(void *arg);

#endif

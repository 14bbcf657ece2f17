/* flight.h: steps on their way through the runner, from their begin until what they yielded was taken. Engine thread only.
 *
 * A runner that draws by itself is given step k+1 before the host has seen what step k drew: two steps are in flight then, and landed in their order.
 * Without that (no launch(), more wanted rows than it can draw, or in lockstep) a step is landed before the next one is begun. What a step yields is
 * asked of it in the same way in every case. */
#ifndef NEXTD_FLIGHT_H
#define NEXTD_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/draw.h"
#include "engine/runner.h"
#include "engine/sample/drawer.h"
#include "engine/sched/scheduler.h"

struct engine;

/* A sequence's part of a step. */
struct flight_item {
    struct seq *seq;    /* NULL: it was dropped; nobody is interested any more */
    int first_out, n_out;
    bool is_scored;     /* with this step all of the prompt is scored that was to be */
    bool is_caught_up;  /* all of the sequence is computed, and nothing is to be drawn */
};

struct flight {
    struct flight_item *items; /* [max_seqs] */
    int32_t *pos;              /* [max_out] positions of the wanted rows */
    int n_items, n_out, n_catch_up;
    uint64_t begin_ms;
    bool is_launched; /* and draws by itself; else forward() has computed it, and its scores are drawn from here */
    bool is_alone;    /* is to land before the next one begins */
    bool has_landed;
    struct drawn *drawn; /* [max_draws], once landed */
    struct scores scores;
    struct batch batch;  /* of forward() */
};

#define MAX_FLIGHTS 2

struct flights {
    struct flight at[MAX_FLIGHTS];
    int first, n;        /* at[first] is the oldest */
    int most;            /* steps that may stay in flight while the next one is begun */
    int max_draws;       /* wanted rows in a launched step; 0: none is launched */
    struct draw *draws;  /* [max_draws] */
};

/* NULL when memory is short. lockstep: every step is landed before the next. */
struct flights *flights_create(const struct runner *runner, int max_seqs, bool lockstep);
void flights_destroy(struct flights *fs); /* NULL is fine */

/* Whether another step may be begun now, without regard to what it would be. */
bool flights_have_room(const struct flights *fs);
/* Whether the oldest step is to land before the turn ends. begun: in this turn a step was begun. */
bool flights_must_land(const struct flights *fs, bool begun);

/* Hands a plan with rows to the runner, and commits it. From then on its sequences have the tokens that it draws, pending. On failure the device is
 * lost and e->fault says why; so with the two below. */
int flight_begin(struct engine *e, const struct sched_step *step, uint64_t begin_ms);
/* Waits for the oldest step and returns it; NULL on failure. */
struct flight *flight_land(struct engine *e);
/* What became of wanted row k of an item of the step that has landed; rows are asked for in ascending order, each at most once. Valid until the next
 * call; NULL on failure. */
const struct drawer_row *flight_row(struct engine *e, struct flight *f, const struct flight_item *item, int k);
/* All was taken from the step that has landed. */
void flight_finish(struct engine *e);
/* Whatever is in flight still lands; nothing is taken from it. */
void flights_abandon(struct engine *e);

/* The sequence has ended: its rows in flight are of no interest. */
void flights_drop(struct flights *fs, const struct seq *seq);

#endif

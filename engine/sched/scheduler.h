/* scheduler.h: decides what the next step computes. Knows no backend, clock or thread; allocates only in sched_create.
 *
 * One step: sched_plan, the copies and rows it names are launched, sched_commit, then seq_append for those whose next token they draw. When it has
 * landed: sched_landed, then sched_learn for each of these tokens, or sched_remove. In between, the next step may be planned and launched. */
#ifndef NEXTD_SCHEDULER_H
#define NEXTD_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/batch.h"
#include "engine/sched/kvpool.h"
#include "engine/sched/sequence.h"

struct sched_limits {
    int max_seqs; /* that hold pages at once */
    int chunk;    /* rows of all sequences together in one step that are not the next token of a stream; >= 1 */
    int max_rows; /* >= max_seqs + chunk */
    int max_out;  /* >= max_seqs */
    int max_beside; /* the same for a plan while a step is in flight */
};

/* One sequence's part of a step. */
struct sched_item {
    struct seq *seq;
    int n_rows;    /* positions seq->n_computed .. + n_rows - 1, as of the plan */
    int first_out; /* index into batch.out of the first wanted row */
    int n_out;
    bool decode;   /* the next token of a stream, not prompt or recompute */
};

struct sched_copy {
    int32_t dst, src; /* pages */
    int n_pos;
};

struct sched_step {
    struct batch batch;             /* n_rows 0: nothing to do */
    const struct sched_item *items; /* [batch.n_seqs] */
    const struct sched_copy *copies; /* in order, before the rows */
    int n_copies;
    int n_catch_up; /* rows that are not the next token of a stream; <= chunk */
};

struct sched_figures {
    int n_running, n_waiting, n_paused;
    uint64_t preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens */
};

struct sched;

/* The pool is borrowed. NULL when memory is short. */
struct sched *sched_create(const struct sched_limits *limits, struct kvpool *pool);
void sched_destroy(struct sched *s);

/* A new sequence joins the end of the queue. seq_pages_for(cap) must not exceed the pool. */
void sched_add(struct sched *s, struct seq *seq);
/* Ends a sequence in any state: its pages are released now, and rest until no launched step can touch them. Not between plan and commit. */
void sched_remove(struct sched *s, struct seq *seq);
/* A paused sequence gets no rows, and may lose its pages first. */
void sched_pause(struct sched *s, struct seq *seq, bool paused);

/* Whether the next plan must wait until nothing is in flight: it may have to preempt, or to want more than max_beside rows. */
bool sched_must_settle(const struct sched *s);
/* Fills *out; its arrays stay valid until the next plan. Where it has rows, a commit must follow. */
void sched_plan(struct sched *s, struct sched_step *out);
/* The planned rows were launched: sequences go on as if they were computed. */
void sched_commit(struct sched *s);
/* The oldest of the launched steps has landed. */
void sched_landed(struct sched *s);
/* The pending token at `pos` has become known. */
void sched_learn(struct sched *s, struct seq *seq, int pos, int32_t token);
/* The planned rows were not computed and never will be: the device is lost. Only sched_remove may follow. */
void sched_abandon(struct sched *s);

/* Whether a plan could find work: some sequence is not paused. */
bool sched_has_work(const struct sched *s);
struct sched_figures sched_figures(const struct sched *s);
/* Walks everything and asserts the invariants. For tests. */
void sched_check(const struct sched *s);

#endif

/* mailbox.h: what passes between the loop thread and the engine thread: commands one way, events the other.
 *
 * Commands are bits on a node that belongs to a request, so a cancel never allocates and never queues twice. Events are written by the engine thread
 * into a buffer of its own during a step and handed over once per step under the lock; mailbox_poll swaps the whole lot out. The buffers are sized at
 * creation for the most that one step can say, and the engine thread waits when the loop has not polled for so long that the next step's events
 * might not fit: nothing grows, nothing is lost. */
#ifndef NEXTD_MAILBOX_H
#define NEXTD_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

enum mail_command { MAIL_SUBMIT = 1, MAIL_CANCEL = 2, MAIL_PAUSE = 4, MAIL_RESUME = 8 };

struct mail_node {
    struct mail_node *prev, *next; /* under the lock, while linked */
    unsigned bits;                 /* under the lock */
    bool linked;                   /* under the lock */
    bool ended;                    /* under the lock; its END was handed over: the engine thread must not touch it any more */
    /* Engine thread, between mailbox_exchange and the next. */
    struct mail_node *taken_next;
    unsigned taken_bits;
};

/* Engine thread's figures, copied under the lock once per step. */
struct mail_figures {
    struct engine_stats stats;
    double end_interval_ms; /* between two ends of sequences, recently; 0: unknown */
    double first_end_ms;    /* until the sequence with the fewest tokens to go has them all, by the recent step time; 0: unknown */
};

struct mailbox;

/* `figures` stand until the first exchange. NULL when memory is short. */
struct mailbox *mailbox_create(size_t step_events, size_t step_bytes, const struct mail_figures *figures, void (*notify)(void *arg),
                               void *notify_arg);
void mailbox_destroy(struct mailbox *m);

/* ---- loop thread ---- */

/* Adds a command. MAIL_PAUSE and MAIL_RESUME replace each other. */
void mailbox_post(struct mailbox *m, struct mail_node *node, unsigned command);
/* Takes all events; what the last call gave is void. */
size_t mailbox_poll(struct mailbox *m, const struct engine_event **events_out);
/* The node's memory is about to go: its END was polled. */
void mailbox_forget(struct mailbox *m, struct mail_node *node);
/* Reserves `n` of `capacity` places for sequences. Returns false when they are taken, with the number of live ones. */
bool mailbox_reserve(struct mailbox *m, int n, int capacity, int *n_live_out);
void mailbox_unreserve(struct mailbox *m, int n); /* places that were not used after all */
/* Makes mailbox_exchange return false. */
void mailbox_shut(struct mailbox *m);
struct mail_figures mailbox_figures(struct mailbox *m); /* any thread */

/* ---- engine thread ---- */

/* A zeroed event of this step, and memory that lives as long as it. Asserts that the step stays within its bounds. */
struct engine_event *mailbox_event(struct mailbox *m);
void *mailbox_bytes(struct mailbox *m, size_t n);
/* Gives back the tail of the last mailbox_bytes. */
void mailbox_trim(struct mailbox *m, const void *bytes, size_t n);
/* This node's END is among the step's events; n_seqs places become free. */
void mailbox_ended(struct mailbox *m, struct mail_node *node);
void mailbox_release(struct mailbox *m, int n_seqs);

/* The meeting point, once per step: hands over the step's events, waits while there is no room for another step's (or, with `idle`, no command), and
 * takes the commands. Returns false when the mailbox was shut. */
bool mailbox_exchange(struct mailbox *m, const struct mail_figures *figures, bool idle, struct mail_node **taken_out);

#endif

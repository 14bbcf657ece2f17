/* completion.h: one request's stay in the engine: submitted as parts (one for each prompt), fed by engine events, ended exactly once. */
#ifndef NEXTD_COMPLETION_H
#define NEXTD_COMPLETION_H

#include "server/call.h"

struct completion;

/* The body of a completions or chat request is prepared (c->rc, c->prepared): submits it, or answers with the error. A call_prepare `ready`. */
void completion_start(struct call *c);
/* ev->user of every event leads here. */
void completion_event(const struct engine_event *ev);
/* Asks the engine for the end of all parts; the completion lives on until their ENDs came. */
void completion_cancel(struct completion *c);
/* The client has read its backlog: the engine may go on. */
void completion_drained(struct completion *c);
/* Once a second: a comment where a stream has been silent for too long. */
void completion_tick(struct completion *c, uint64_t now_ns);
/* For app_destroy: the engine's events will not be heard any more. */
void completion_drop(struct completion *c);

#endif

/* sse.h: the events of a streamed answer. What all events of one stream share is formatted once; an event is a few copies and one escape.
 * Every function appends whole events ("data: {...}\n\n") to `out`. */
#ifndef NEXTD_SSE_H
#define NEXTD_SSE_H

#include "server/arena.h"
#include "server/reply.h"

struct sse {
    bool chat;
    bool usage_null; /* stream_options.include_usage: every chunk but the last says usage: null */
    const char *prefix; /* `data: {... "choices":[` */
    size_t n_prefix;
};

#define SSE_DONE "data: [DONE]\n\n"
#define SSE_KEEPALIVE ": keep-alive\n\n"

int sse_init(struct sse *s, const struct reply_head *head, bool include_usage, struct arena *arena, struct err *err);
/* Chat only: the first chunk of a choice. */
void sse_role(const struct sse *s, struct buf *out, int index);
void sse_text(const struct sse *s, struct buf *out, int index, const char *text, size_t n, const struct logprobs *logprobs);
/* The last chunk of a choice; it carries the seed. Chat's holds no text, so text and logprobs that are left go before it. */
void sse_finish(const struct sse *s, struct buf *out, int index, const struct reply_finish *finish, const struct reply_origin *origin);
void sse_usage(const struct sse *s, struct buf *out, const struct reply_usage *usage);
/* An error in mid-stream. */
void sse_error(struct buf *out, const struct err *err);

#endif

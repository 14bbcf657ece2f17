/* reply.h: the JSON of answers that are not streamed, and the pieces that streamed ones share. Text goes straight into a buffer; no trees. */
#ifndef NEXTD_REPLY_H
#define NEXTD_REPLY_H

#include "engine/engine.h"
#include "server/buf.h"
#include "server/logprobs.h"

/* What all objects of one answer have in common. */
struct reply_head {
    bool chat;
    const char *id;          /* "chatcmpl-...", "cmpl-..." */
    int64_t created_s;
    const char *model;
    const char *fingerprint;
};

/* Why a choice ended. */
struct reply_finish {
    enum engine_finish why;
    const struct engine_text *stop; /* the stop string that matched, or NULL */
    int32_t stop_id;                /* the request's stop_token_ids entry that matched, or -1 */
};

struct reply_usage {
    uint64_t n_prompt, n_output, n_cached;
};

/* What the answer says about how it came to be, so that it can be asked for again. */
struct reply_origin {
    int64_t seed;
    bool used_now;  /* the chat template asked for the time */
    int64_t now_s;
};

/* "stop" or "length"; "abort" and "error" for choices that did not come to their own end. */
const char *reply_finish_name(enum engine_finish why);

/* begin, choices in ascending index, end. */
void reply_begin(struct buf *out, const struct reply_head *head);
void reply_choice(struct buf *out, const struct reply_head *head, int index, const struct buf *text, const struct logprobs *logprobs,
                  const struct reply_finish *finish);
void reply_end(struct buf *out, const struct reply_usage *usage, const struct reply_origin *origin);

/* Shared with sse.c. */
void reply_print_head(struct buf *out, const struct reply_head *head, const char *object);
void reply_print_finish(struct buf *out, const struct reply_finish *finish); /* "finish_reason":...,"stop_reason":... */
void reply_print_usage(struct buf *out, const struct reply_usage *usage);    /* the object */
void reply_print_origin(struct buf *out, const struct reply_origin *origin); /* ,"seed":... */

#endif

/* call.h: one HTTP request to the service, from accepted headers to its last trace. It joins three lives that end in any order:
 *
 *     exchange   x != NULL    until http says `closed`
 *     pool       in_pool      while the body is prepared on a pool thread
 *     engine     completion   until each prompt's ENGINE_END came
 *
 * and frees itself, with its one arena, when all three are over. Whoever ends one of them calls call_release and touches the call no more.
 * Loop thread only, but for the work function of call_prepare. */
#ifndef NEXTD_CALL_H
#define NEXTD_CALL_H

#include "server/app_state.h"

#define CALL_ID_BYTES 48

struct completion;
struct route;

struct call {
    struct app *app;
    struct call *prev, *next;
    const struct route *route;
    struct http_exchange *x;   /* NULL once closed */
    struct arena arena;
    int key_idx;               /* API key, or -1 */
    char id[CALL_ID_BYTES];    /* "chatcmpl-...", or "req-..." */
    uint64_t arrived_ns;       /* uv_hrtime when the body was whole */
    int64_t created_s;
    bool active;               /* the body was taken: counted in app->n_active */
    bool gone;                 /* the client left, or the server gave the request up */
    int status;                /* sent, or 0 */
    bool logged;               /* its line was written */

    bool in_pool, held;        /* held: a function of ours still looks at it */
    uv_work_t work;
    enum api_kind kind;
    const char *body;
    size_t n_body;
    int rc;                    /* of the preparation */
    struct err err;
    struct prepared prepared;
    void (*ready)(struct call *c); /* called on the loop with rc, err and prepared filled, unless the call is gone */

    struct completion *completion; /* in the arena; NULL before and after its life */
};

/* A fresh id, CALL_ID_BYTES at most; route NULL: of a request that found none. */
void call_name(char out[CALL_ID_BYTES], const struct route *route);
/* NULL when memory is short. */
struct call *call_create(struct app *app, struct http_exchange *x, const struct route *route, int key_idx);
void call_release(struct call *c);

/* Runs prepare() on the body: here when it is small, else in libuv's pool; then `ready`. */
void call_prepare(struct call *c, enum api_kind kind, const char *body, size_t n, void (*ready)(struct call *c));
/* The client left. Ends what can be ended; `closed` may follow at once or later. */
void call_gone(struct call *c, const char *why);
/* The exchange is over: x must not be used any more. */
void call_closed(struct call *c);

/* Answers. Nothing is sent where the exchange is over or the client gone; false then. Headers every answer has (CORS, request id, ignored fields)
 * are added here. */
bool call_reply(struct call *c, int status, const struct buf *json);
bool call_reply_text(struct call *c, int status, const char *content_type, const struct buf *text);
bool call_fail(struct call *c, const struct err *err);
bool call_stream_begin(struct call *c);

/* For refusals before a call exists. Writes at most CALL_MAX_HEADERS. */
#define CALL_MAX_HEADERS 8
int call_cors_headers(const struct app *app, const struct http_exchange *x, struct http_header *out);

#endif

/* call.c: see call.h.
 *
 *     accepted ──body──► PREPARING (loop or pool) ──ready──► answered at once (tokenize, errors) ────────► closed ─► freed
 *                            │                       └─────► completion: parts in the engine ─► last END ─┘
 *                            └ client gone: the pool's work is cancelled or its result dropped
 *
 * A small body is prepared on the loop: the way through the pool costs more than parsing it. A larger one is copied, since the exchange may end
 * while the pool still reads. */
#include "server/call.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api_error.h"
#include "server/completion.h"
#include "server/routes.h"

#define CALL_ID_LETTERS 24
#define CALL_INLINE_BODY_BYTES (16u << 10)
/* What a request may take beside its body's copy: the ids of a list prompt (4 bytes for at least 2 of text) and the records of its choices. */
#define CALL_ARENA_BASE_BYTES (8u << 20)
#define CALL_ARENA_PER_BODY 4u

void call_name(char out[CALL_ID_BYTES], const struct route *route)
{
    int prefix = snprintf(out, CALL_ID_BYTES, "%s", route != NULL ? route->id_prefix : "req-");
    assert((size_t)prefix + CALL_ID_LETTERS < CALL_ID_BYTES);
    app_random_name(out + prefix, CALL_ID_LETTERS);
}

struct call *call_create(struct app *app, struct http_exchange *x, const struct route *route, int key_idx)
{
    struct call *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->app = app;
    c->x = x;
    c->route = route;
    c->key_idx = key_idx;
    arena_init(&c->arena, CALL_ARENA_BASE_BYTES + CALL_ARENA_PER_BODY * app->opt.max_body_bytes);
    call_name(c->id, route);
    c->next = app->calls;
    if (c->next != NULL)
        c->next->prev = c;
    app->calls = c;
    return c;
}

/* The line of a request that never reached the engine. Not the error's message nor its path: both may quote the request. */
static void call_log(const struct call *c)
{
    char line[256];
    if (c->app->opt.log == NULL || c->logged || !c->active || !c->route->post)
        return;
    snprintf(line, sizeof line, "request id=%s route=%s status=%d key=%d%s%s%s", c->id, c->route->path, c->status, c->key_idx,
             c->err.code != ERR_NONE ? " error=" : "", c->err.code != ERR_NONE ? api_error_name(&c->err) : "", c->status == 0 ? " client=gone" : "");
    c->app->opt.log(c->app->opt.log_arg, line);
}

void call_release(struct call *c)
{
    struct app *app = c->app;
    if (c->x != NULL || c->in_pool || c->held || c->completion != NULL)
        return;
    if (c->active)
        app->n_active--;
    call_log(c);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        app->calls = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    prepared_finish(&c->prepared);
    arena_finish(&c->arena);
    free(c);
    app_release(app);
}

/* ---- preparing ---- */

static void call_work(uv_work_t *work)
{
    struct call *c = work->data;
    c->rc = prepare(&c->app->prepare, c->kind, c->body, c->n_body, c->created_s, &c->arena, &c->prepared, &c->err);
}

/* `ready` may answer, and an answer may end the exchange at once: the call must outlive it. */
static void call_ready(struct call *c)
{
    c->held = true;
    if (!c->gone && c->x != NULL)
        c->ready(c);
    c->held = false;
    call_release(c);
}

static void call_worked(uv_work_t *work, int status)
{
    struct call *c = work->data;
    (void)status; /* UV_ECANCELED only after call_gone */
    c->in_pool = false;
    call_ready(c);
}

void call_prepare(struct call *c, enum api_kind kind, const char *body, size_t n, void (*ready)(struct call *c))
{
    assert(!c->in_pool);
    c->kind = kind;
    c->body = body;
    c->n_body = n;
    c->ready = ready;
    c->work.data = c;
    if (n <= CALL_INLINE_BODY_BYTES) {
        call_work(&c->work);
        call_ready(c);
        return;
    }
    c->body = arena_copy(&c->arena, body, n);
    if (c->body == NULL || uv_queue_work(c->app->loop, &c->work, call_work, call_worked) != 0) {
        c->rc = err_set(&c->err, ERR_NOMEM, "no memory for a body of %zu bytes", n);
        call_ready(c);
        return;
    }
    c->in_pool = true;
}

void call_gone(struct call *c, const char *why)
{
    if (c->gone)
        return;
    c->gone = true;
    if (c->active && (c->status == 0 || c->completion != NULL)) {
        c->app->metrics.disconnects++;
        c->app->metrics.write_stalls += strstr(why, "stall") != NULL;
    }
    if (c->in_pool)
        uv_cancel((uv_req_t *)&c->work); /* fails when it runs already; then the result is dropped */
    if (c->completion != NULL)
        completion_cancel(c->completion);
}

void call_closed(struct call *c)
{
    call_gone(c, "closed");
    c->x = NULL;
    call_release(c);
}

/* ---- answers ---- */

static bool call_origin_allowed(const struct app *app, const char *origin)
{
    for (size_t i = 0; app->opt.cors_origins != NULL && app->opt.cors_origins[i] != NULL; i++)
        if (strcmp(app->opt.cors_origins[i], "*") == 0 || strcmp(app->opt.cors_origins[i], origin) == 0)
            return true;
    return false;
}

int call_cors_headers(const struct app *app, const struct http_exchange *x, struct http_header *out)
{
    const char *origin = http_request_header(x, "Origin");
    int n = 0;
    if (app->opt.cors_origins == NULL || app->opt.cors_origins[0] == NULL)
        return 0;
    out[n++] = (struct http_header){"Vary", "Origin"};
    if (origin != NULL && call_origin_allowed(app, origin)) {
        out[n++] = (struct http_header){"Access-Control-Allow-Origin", origin};
        out[n++] = (struct http_header){"Access-Control-Expose-Headers", "X-Request-Id, X-Nextd-Ignored-Fields, Retry-After"};
    }
    return n;
}

static int call_headers(const struct call *c, struct http_header *out)
{
    int n = call_cors_headers(c->app, c->x, out);
    out[n++] = (struct http_header){"X-Request-Id", c->id};
    if (c->prepared.api.ignored != NULL && c->prepared.api.ignored[0] != '\0')
        out[n++] = (struct http_header){"X-Nextd-Ignored-Fields", c->prepared.api.ignored};
    return n;
}

static bool call_may_answer(const struct call *c)
{
    return c->x != NULL && !c->gone && c->status == 0;
}

static bool call_send(struct call *c, int status, const char *type, const struct buf *body, const struct http_header *extra)
{
    struct http_header headers[CALL_MAX_HEADERS];
    if (!call_may_answer(c))
        return false;
    int n = call_headers(c, headers);
    if (extra != NULL)
        headers[n++] = *extra;
    c->status = status;
    metrics_count_reply(&c->app->metrics, routes_idx(c->route), status);
    http_reply(c->x, status, type, body->p != NULL ? body->p : "", body->n, headers, n);
    return true;
}

bool call_reply(struct call *c, int status, const struct buf *json)
{
    return call_send(c, status, "application/json", json, NULL);
}

bool call_reply_text(struct call *c, int status, const char *content_type, const struct buf *text)
{
    return call_send(c, status, content_type, text, NULL);
}

bool call_fail(struct call *c, const struct err *err)
{
    char seconds[16];
    struct http_header retry = {"Retry-After", seconds};
    struct buf body;
    buf_init(&body, 8192);
    api_error_body(&body, err);
    snprintf(seconds, sizeof seconds, "%d", err->retry_after_s);
    bool sent = call_send(c, api_error_status(err), "application/json", &body, err->retry_after_s > 0 ? &retry : NULL);
    buf_finish(&body);
    return sent;
}

bool call_stream_begin(struct call *c)
{
    struct http_header headers[CALL_MAX_HEADERS];
    if (!call_may_answer(c))
        return false;
    int n = call_headers(c, headers);
    headers[n++] = (struct http_header){"Cache-Control", "no-cache"};
    headers[n++] = (struct http_header){"X-Accel-Buffering", "no"}; /* proxies must not collect events */
    c->status = 200;
    metrics_count_reply(&c->app->metrics, routes_idx(c->route), 200);
    http_stream_begin(c->x, 200, "text/event-stream; charset=utf-8", headers, n);
    return true;
}

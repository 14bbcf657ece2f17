/* http_exchange.c: one request and its response.
 *
 *            headers fine            body whole             http_reply
 *   NEW ----------------> BODY ----------------> WAIT ----------------> SENT --+
 *     \                      \                     \                           |   MHD has sent all, or
 *      \ refused, body small  \ refused             \ http_stream_begin        +-> the client is gone:
 *       +---> BODY (swallow) --+---> SENT            +-------> STREAM ---------+   closed() and free
 *
 * MHD takes a response in its first call of the handler (it then closes the connection, as the body is not read) or after the body (the connection
 * lives on). So a refusal waits until a small body has been swallowed; only with a large one, or when the client waits for 100-continue, it goes out
 * at once. In WAIT, and in STREAM with an empty backlog, the connection is suspended: MHD does not look at it, and the disconnect watch of http.c
 * does. Whoever has something to say marks the exchange dirty; the flush at the end of the turn resumes it.
 *
 * `dead` is the one way out: set by disconnect, stall and shutdown. Then MHD is told to drop the connection when it next asks, and everything the
 * router still says to the exchange goes nowhere. */
#include "server/http_private.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A refused body up to this size is read and dropped, so that the connection can be used again. */
#define HTTP_SWALLOW_BYTES ((uint64_t)64 * 1024)

/* ---- birth and death ---- */

static struct http_conn *http_conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info == NULL ? NULL : info->socket_context;
}

/* The request line is in; MHD keeps what we return for its later calls. */
void *http_on_uri(void *listener, const char *uri, struct MHD_Connection *mhd)
{
    struct http *h = ((struct http_listener *)listener)->h;
    struct http_conn *c = http_conn_of(mhd);
    struct http_exchange *x = calloc(1, sizeof *x);
    if (x == NULL || c == NULL) {
        free(x);
        return NULL;
    }
    *x = (struct http_exchange){.h = h, .conn = c, .mhd = mhd, .uri_raw = uri, .n_uri_raw = strlen(uri), .started_ms = uv_now(h->loop)};
    x->uri_is_sound = http_target_is_sound(uri);
    buf_init(&x->body, h->opt.max_body_bytes);
    if (c->x != NULL)
        http_exchange_free(c->x);
    c->x = x;
    http_phase(c, HTTP_READING);
    return x;
}

static void http_drop_body(struct http_exchange *x)
{
    buf_finish(&x->body);
    x->h->body_bytes -= x->body_counted;
    x->body_counted = 0;
}

void http_exchange_free(struct http_exchange *x)
{
    for (struct http_exchange **p = &x->h->dirty; x->dirty && *p != NULL; p = &(*p)->next_dirty)
        if (*p == x) {
            *p = x->next_dirty;
            break;
        }
    http_watch_del(x->conn);
    if (x->response != NULL)
        MHD_destroy_response(x->response);
    http_drop_body(x);
    if (x->conn->x == x)
        x->conn->x = NULL;
    free(x->out);
    free(x->path);
    free(x);
}

void http_exchange_gone(struct http_exchange *x, const char *why)
{
    if (x->dead)
        return;
    x->dead = true;
    if (x->accepted && (x->state == HTTP_X_WAIT || x->state == HTTP_X_STREAM))
        x->h->cb.gone(x->h->cb.ctx, x, why);
    if (x->suspended)
        http_mark_dirty(x);
}

void http_on_completed(void *listener, struct MHD_Connection *mhd, void **exchange, enum MHD_RequestTerminationCode why)
{
    (void)listener;
    (void)mhd;
    struct http_exchange *x = *exchange;
    *exchange = NULL;
    if (x == NULL)
        return;
    struct http *h = x->h;
    http_phase(x->conn, HTTP_IDLE);
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        http_exchange_gone(x, why == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED ? "timeout" : "disconnect");
    if (x->accepted)
        h->cb.closed(h->cb.ctx, x);
    http_exchange_free(x);
}

/* ---- responses ---- */

static void http_add_headers(struct http_exchange *x, const char *content_type, const struct http_header *headers, int n_headers)
{
    if (content_type != NULL)
        MHD_add_response_header(x->response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    for (int i = 0; i < n_headers; i++)
        MHD_add_response_header(x->response, headers[i].name, headers[i].value);
    if (x->h->quiesced)
        MHD_add_response_header(x->response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static void http_fail(struct http_exchange *x, int status, const char *message, bool close_after)
{
    char body[400];
    int n = snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":null}}", message,
                     status >= 500 ? "server_error" : "invalid_request_error");
    struct http_header headers[2] = {{"Connection", "close"}, {"Retry-After", "1"}};
    bool retry = status == 503;
    http_reply(x, status, "application/json", body, (size_t)n, close_after ? headers : headers + 1, close_after + retry);
}

void http_reply(struct http_exchange *x, int status, const char *content_type, const char *body, size_t n, const struct http_header *headers,
                int n_headers)
{
    if (x->dead)
        return;
    assert(x->response == NULL);
    assert(x->state != HTTP_X_STREAM);
    x->response = MHD_create_response_from_buffer(n, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    if (x->response == NULL) {
        http_exchange_gone(x, "out of memory");
        return;
    }
    x->status = status;
    http_add_headers(x, content_type, headers, n_headers);
    if (x->suspended)
        http_mark_dirty(x);
}

/* MHD asks for bytes of a stream. Nothing to say means suspend: returning 0 alone would make MHD ask again at once, forever. */
static ssize_t http_read_stream(void *arg, uint64_t pos, char *to, size_t max)
{
    (void)pos;
    struct http_exchange *x = arg;
    if (x->dead)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = http_exchange_backlog(x);
    x->progress_ms = uv_now(x->h->loop);
    if (n == 0 && x->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
        return 0;
    }
    if (n > max)
        n = max;
    memcpy(to, x->out + x->out_from, n);
    x->out_from += n;
    if (x->out_from == x->out_to)
        x->out_from = x->out_to = 0;
    if (x->full && http_exchange_backlog(x) < HTTP_BACKLOG_MARK_BYTES / 2) {
        x->full = false;
        x->h->cb.drained(x->h->cb.ctx, x);
    }
    return (ssize_t)n;
}

void http_stream_begin(struct http_exchange *x, int status, const char *content_type, const struct http_header *headers, int n_headers)
{
    if (x->dead)
        return;
    assert(x->response == NULL);
    assert(x->state != HTTP_X_STREAM);
    /* The block size is only used where chunks cannot be (HTTP/1.0), but is always allocated. */
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, x->http10 ? 4096 : 64, http_read_stream, x, NULL);
    if (x->response == NULL) {
        http_exchange_gone(x, "out of memory");
        return;
    }
    x->status = status;
    x->streaming = true;
    http_add_headers(x, content_type, headers, n_headers);
    if (x->suspended)
        http_mark_dirty(x);
}

size_t http_exchange_backlog(const struct http_exchange *x)
{
    return x->out_to - x->out_from;
}

static bool http_out_reserve(struct http_exchange *x, size_t n)
{
    if (x->out_to + n <= x->out_cap)
        return true;
    if (x->out_from > 0) {
        memmove(x->out, x->out + x->out_from, x->out_to - x->out_from);
        x->out_to -= x->out_from;
        x->out_from = 0;
    }
    if (x->out_to + n <= x->out_cap)
        return true;
    size_t cap = x->out_cap == 0 ? 1024 : x->out_cap;
    while (cap < x->out_to + n)
        cap *= 2;
    char *p = realloc(x->out, cap);
    if (p == NULL)
        return false;
    x->out = p;
    x->out_cap = cap;
    return true;
}

bool http_stream_send(struct http_exchange *x, const char *bytes, size_t n)
{
    if (x->dead || x->ended || n == 0)
        return !x->full;
    assert(x->streaming);
    if (n > HTTP_BACKLOG_CAP_BYTES - http_exchange_backlog(x) || !http_out_reserve(x, n)) {
        http_exchange_gone(x, "backlog");
        return false;
    }
    if (http_exchange_backlog(x) == 0)
        x->progress_ms = uv_now(x->h->loop);
    memcpy(x->out + x->out_to, bytes, n);
    x->out_to += n;
    x->full = x->full || http_exchange_backlog(x) > HTTP_BACKLOG_MARK_BYTES;
    if (x->suspended)
        http_mark_dirty(x);
    return !x->full;
}

void http_stream_end(struct http_exchange *x)
{
    if (x->dead || x->ended)
        return;
    assert(x->streaming);
    x->ended = true;
    if (http_exchange_backlog(x) == 0)
        x->progress_ms = uv_now(x->h->loop);
    if (x->suspended)
        http_mark_dirty(x);
}

bool http_response_begun(const struct http_exchange *x)
{
    return x->response != NULL || x->state == HTTP_X_STREAM || x->state == HTTP_X_SENT;
}

/* Hands the waiting response to MHD. */
static enum MHD_Result http_queue(struct http_exchange *x)
{
    enum MHD_Result rc = MHD_queue_response(x->mhd, (unsigned)x->status, x->response);
    MHD_destroy_response(x->response);
    x->response = NULL;
    x->state = x->streaming ? HTTP_X_STREAM : HTTP_X_SENT;
    if (x->streaming)
        http_watch_add(x->conn);
    else
        http_watch_del(x->conn);
    return rc;
}

/* ---- requests ---- */

/* Checks what can be checked without a router. Fills x->response when it refuses; *now_out: without waiting for the body. */
static void http_check_headers(struct http_exchange *x, struct http_verdict verdict, bool *now_out)
{
    struct http *h = x->h;
    *now_out = true;
    if (verdict.status != 0) {
        http_fail(x, verdict.status, verdict.message, true);
        return;
    }
    const char *host = http_request_header(x, MHD_HTTP_HEADER_HOST);
    if (h->opt.check_host && x->conn->listener->loopback && x->conn->listener->port != 0 && host != NULL &&
        !http_host_is_allowed(host, h->opt.hosts)) {
        http_fail(x, 403, "this Host is not served here; see allowed_hosts", true);
        return;
    }
    if (x->content_length > h->opt.max_body_bytes) {
        char message[120];
        snprintf(message, sizeof message, "the body is %llu bytes; the limit is %zu", (unsigned long long)x->content_length, h->opt.max_body_bytes);
        http_fail(x, 413, message, true);
        return;
    }
    if (h->closing) {
        http_fail(x, 503, "the server is stopping", true);
        return;
    }
    *now_out = x->content_length > HTTP_SWALLOW_BYTES || http_request_header(x, MHD_HTTP_HEADER_EXPECT) != NULL;
}

static enum MHD_Result http_first_call(struct http_exchange *x, const char *url, const char *method, const char *version)
{
    struct http_verdict verdict = http_shield(x, method, version);
    snprintf(x->method, sizeof x->method, "%s", strlen(method) < sizeof x->method ? method : "?");
    x->path = strdup(url);
    if (x->path == NULL)
        return MHD_NO;
    x->state = HTTP_X_BODY;
    bool now;
    http_check_headers(x, verdict, &now);
    if (x->response == NULL && !x->dead) {
        x->accepted = x->h->cb.accept(x->h->cb.ctx, x, &x->user);
        assert(x->accepted || x->response != NULL || x->dead);
    }
    if (x->dead)
        return MHD_NO;
    return x->response != NULL && now ? http_queue(x) : MHD_YES;
}

static void http_take_body(struct http_exchange *x, const char *data, size_t n)
{
    struct http *h = x->h;
    if (x->response != NULL || x->over_limit || x->over_budget)
        return;
    size_t cap = x->body.cap;
    if (!buf_append(&x->body, data, n)) {
        x->over_limit = true;
    } else {
        h->body_bytes += x->body.cap - cap;
        x->body_counted += x->body.cap - cap;
        x->over_budget = h->body_bytes > h->opt.max_body_bytes * HTTP_BODIES_TOGETHER;
    }
    if (x->over_limit || x->over_budget)
        http_drop_body(x);
}

static enum MHD_Result http_body_is_whole(struct http_exchange *x)
{
    http_phase(x->conn, HTTP_BUSY);
    if (x->response != NULL)
        return http_queue(x);
    x->state = HTTP_X_WAIT;
    if (x->over_limit)
        http_fail(x, 413, "the body is over the limit", true);
    else if (x->over_budget)
        http_fail(x, 503, "too many large bodies are being read at once; try again", false);
    else
        x->h->cb.handle(x->h->cb.ctx, x, x->body.n > 0 ? x->body.p : "", x->body.n);
    return MHD_YES;
}

/* MHD calls this once with the headers, once per piece of the body, once at its end, and again whenever a connection that waited is resumed. */
enum MHD_Result http_on_request(void *listener, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                const char *data, size_t *n_data, void **exchange)
{
    (void)listener;
    (void)mhd;
    struct http_exchange *x = *exchange;
    if (x == NULL || x->dead)
        return MHD_NO;
    if (x->state == HTTP_X_NEW)
        return http_first_call(x, url, method, version);
    if (*n_data > 0) {
        http_take_body(x, data, *n_data);
        *n_data = 0;
        return MHD_YES;
    }
    if (x->state == HTTP_X_BODY) {
        enum MHD_Result rc = http_body_is_whole(x);
        if (rc != MHD_YES || x->state != HTTP_X_WAIT)
            return rc;
    }
    if (x->dead)
        return MHD_NO;
    if (x->response != NULL)
        return http_queue(x);
    http_watch_add(x->conn);
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
    return MHD_YES;
}

/* ---- what the router asks ---- */

const char *http_method(const struct http_exchange *x)
{
    return x->method;
}

const char *http_path(const struct http_exchange *x)
{
    return x->path;
}

const char *http_request_header(const struct http_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name);
}

uint64_t http_content_length(const struct http_exchange *x)
{
    return x->content_length;
}

uint64_t http_started_ms(const struct http_exchange *x)
{
    return x->started_ms;
}

const char *http_peer(const struct http_exchange *x)
{
    return x->conn->peer;
}

void *http_user(const struct http_exchange *x)
{
    return x->user;
}

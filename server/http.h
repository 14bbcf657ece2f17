/* http.h: HTTP/1.1 exchanges on the loop thread. The implementation is the only file that knows libmicrohttpd.
 *
 * An exchange is one request and its response. The life: the router's `accept` sees the headers (and may answer at once: 401, 404, 405, 413, 415),
 * the body is collected up to its limit, `handle` is called with the whole body; the handler answers now, later, or as a stream. `closed` is called
 * exactly once for every exchange that was accepted, when the response is fully sent or the client is gone; nothing may touch it afterwards.
 *
 * All functions: loop thread only. Times are CLOCK_MONOTONIC milliseconds of the loop (uv_now). */
#ifndef NEXTD_HTTP_H
#define NEXTD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "engine/err.h"
#include "server/log.h"

struct http;
struct http_exchange;

struct http_header {
    const char *name;
    const char *value;
};

struct http_options {
    const char *host; /* NULL: no TCP listener */
    int port;         /* 0: any free port; http_port tells */
    const char *unix_path; /* NULL: no unix socket; a stale one is replaced, one in use is an error */
    const int *listen_fds; /* inherited sockets (socket activation); owned by http from a successful open on */
    int n_listen_fds;
    const char *tls_cert_pem, *tls_key_pem; /* contents, both or neither */
    int max_connections;      /* of each listener; more wait in the backlog */
    size_t max_body_bytes;
    size_t max_header_bytes;
    int idle_timeout_s;    /* keep-alive and inactivity */
    int request_timeout_s; /* absolute, from a request's first byte to its body's last */
    int write_stall_s;     /* no byte of a response taken for so long: the client counts as gone */
    const char *const *hosts; /* Host names that are allowed besides local ones, NULL-terminated; only used with check_host */
    bool check_host;          /* on loopback listeners refuse a foreign Host with 403 (DNS rebinding) */
    const struct log *log;
};

/* What the server above plugs in. */
struct http_callbacks {
    /* Headers are in. To refuse, answer with http_reply and return false. *user_out is kept for http_user. */
    bool (*accept)(void *ctx, struct http_exchange *x, void **user_out);
    /* The body is whole (n may be 0; it is followed by a NUL that is not counted). Owned by the exchange until closed. */
    void (*handle)(void *ctx, struct http_exchange *x, const char *body, size_t n);
    /* The stream's backlog has fallen under half of the mark that http_stream_send reported as full. */
    void (*drained)(void *ctx, struct http_exchange *x);
    /* The client went away (disconnect, reset, stall) while the response was pending or streaming. `closed` follows. */
    void (*gone)(void *ctx, struct http_exchange *x, const char *why);
    /* The end; user memory may be freed here and nowhere else. */
    void (*closed)(void *ctx, struct http_exchange *x);
    void *ctx;
};

int http_open(uv_loop_t *loop, const struct http_options *opt, const struct http_callbacks *cb, struct http **out, struct err *err);
/* Stops listening; running exchanges go on, new requests on kept connections get Connection: close. */
void http_quiesce(struct http *h);
/* Ends every exchange (gone + closed are called). The memory goes when the loop has run once more (uv handles close there). NULL is fine. */
void http_close(struct http *h);
int http_port(const struct http *h); /* TCP port, or 0 */
size_t http_n_connections(const struct http *h);
/* Requests that were received whole and whose answer is not yet on its way in full. */
size_t http_n_busy(const struct http *h);
/* True if all that the name stands for, or the socket is bound to, can only be reached from this machine. */
bool http_address_is_loopback(const char *host);
bool http_socket_is_loopback(int fd);

/* ---- the request ---- */
const char *http_method(const struct http_exchange *x);
const char *http_path(const struct http_exchange *x);                     /* decoded, without the query */
const char *http_request_header(const struct http_exchange *x, const char *name); /* case-insensitive; NULL when absent */
uint64_t http_content_length(const struct http_exchange *x);              /* 0 when absent */
uint64_t http_started_ms(const struct http_exchange *x);
const char *http_peer(const struct http_exchange *x);                     /* "127.0.0.1:4711", "unix" */
void *http_user(const struct http_exchange *x);

/* ---- the response ---- */
/* One whole answer. Bodies are copied. Headers beside Content-Length are the caller's; n_headers may be 0. */
void http_reply(struct http_exchange *x, int status, const char *content_type, const char *body, size_t n, const struct http_header *headers,
                int n_headers);
/* Begins a chunked answer; bytes follow by http_stream_send until http_stream_end. */
void http_stream_begin(struct http_exchange *x, int status, const char *content_type, const struct http_header *headers, int n_headers);
/* Queues bytes. Returns false when the backlog is over its mark (the bytes are taken all the same): pause the producer until `drained`. */
bool http_stream_send(struct http_exchange *x, const char *bytes, size_t n);
void http_stream_end(struct http_exchange *x);
bool http_response_begun(const struct http_exchange *x);
/* Several sends in one turn become one write: the loop flushes at the end of the turn by itself. */

#endif

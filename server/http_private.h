/* http_private.h: what the http*.c files share, and nobody else. They are the only files that know libmicrohttpd (MHD).
 *
 *   http.c          listeners, the pump that runs MHD from the uv loop, deadlines, disconnect watch, opening and closing
 *   http_exchange.c one request and its response: MHD's callbacks on one side, http.h on the other
 *   http_shield.c   is this request framed so that no two parsers can disagree about it?
 *   http_listen.c   sockets: TCP, unix, inherited
 */
#ifndef NEXTD_HTTP_PRIVATE_H
#define NEXTD_HTTP_PRIVATE_H

#include <microhttpd.h>

#include "server/buf.h"
#include "server/http.h"

#define HTTP_MAX_LISTENERS 6
/* Backlog of a stream: paused over the mark, and over the cap its client counts as gone. */
#define HTTP_BACKLOG_MARK_BYTES ((size_t)256 * 1024)
#define HTTP_BACKLOG_CAP_BYTES ((size_t)8 * 1024 * 1024)
/* All bodies that are being received may hold so many times max_body_bytes together. */
#define HTTP_BODIES_TOGETHER 64u

struct http_listener {
    struct http *h;
    struct MHD_Daemon *daemon;
    uv_poll_t poll; /* MHD's epoll descriptor */
    int fd;
    int port; /* 0: a unix socket */
    bool loopback;
    bool polling;
    char unlink_path[108]; /* "" or the unix socket that we made */
};

enum http_phase {
    HTTP_READING, /* a request is on its way: request_timeout_s, absolute */
    HTTP_IDLE,    /* between two requests: idle_timeout_s, absolute */
    HTTP_BUSY     /* our turn: only a stream's write stall counts */
};

struct http_conn {
    struct http_conn *next, *prev;
    struct http_listener *listener;
    struct http_exchange *x; /* the current request, or NULL */
    int fd;
    enum http_phase phase;
    uint64_t since_ms; /* of the phase */
    bool watched;      /* in the disconnect watch */
    bool cut;          /* the sweep has shut it down */
    char peer[64];
};

enum http_state {
    HTTP_X_NEW,    /* the request line is in */
    HTTP_X_BODY,   /* headers are in, the body is coming */
    HTTP_X_WAIT,   /* handle() was called, no response yet */
    HTTP_X_STREAM, /* a chunked response is queued in MHD */
    HTTP_X_SENT    /* a whole response is queued in MHD */
};

struct http_exchange {
    struct http *h;
    struct http_conn *conn;
    struct MHD_Connection *mhd;
    enum http_state state;
    bool accepted;  /* accept() said yes: closed() is owed */
    bool suspended; /* MHD does not look at the connection until we resume it */
    bool dirty;     /* in h->dirty */
    bool dead;      /* the client is gone; gone() was called if it was due */
    bool http10;
    bool over_limit, over_budget; /* the body is swallowed and refused at its end */
    const char *uri_raw;          /* in MHD's memory; only for the shield */
    size_t n_uri_raw;
    bool uri_is_sound;
    char *path;
    char method[16];
    uint64_t content_length;
    uint64_t started_ms;
    struct buf body;
    size_t body_counted; /* what this body has added to h->body_bytes */
    void *user;

    int status; /* the response that waits to be queued */
    struct MHD_Response *response;
    bool streaming; /* response is a stream's */
    bool ended;     /* http_stream_end was called */
    bool full;      /* http_stream_send has said so; drained() is owed */
    char *out;      /* backlog: out[out_from .. out_to) */
    size_t out_from, out_to, out_cap;
    uint64_t progress_ms; /* MHD last took bytes, or the backlog began */
    struct http_exchange *next_dirty;
};

struct http {
    uv_loop_t *loop;
    struct http_options opt; /* strings are the caller's, only used in http_open, but hosts */
    struct http_callbacks cb;
    struct http_listener listeners[HTTP_MAX_LISTENERS];
    int n_listeners;
    struct http_conn conns; /* head of a ring */
    size_t n_conns;
    size_t body_bytes; /* held by bodies being received or kept */
    struct http_exchange *dirty; /* want to be resumed at the end of the turn */
    int watch_fd;
    uv_poll_t watch;
    uv_timer_t timer, sweep;
    uv_prepare_t flush;
    int n_handles; /* uv handles that are not closed yet */
    bool pumping, rerun;
    bool quiesced, closing;
};

/* ---- http.c ---- */
void http_pump(struct http *h);
void http_mark_dirty(struct http_exchange *x);
void http_watch_add(struct http_conn *c);
void http_watch_del(struct http_conn *c);
void http_phase(struct http_conn *c, enum http_phase phase);

/* ---- http_exchange.c: MHD's callbacks ---- */
void *http_on_uri(void *listener, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result http_on_request(void *listener, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                const char *data, size_t *n_data, void **exchange);
void http_on_completed(void *listener, struct MHD_Connection *mhd, void **exchange, enum MHD_RequestTerminationCode why);
void http_exchange_gone(struct http_exchange *x, const char *why);
void http_exchange_free(struct http_exchange *x);
size_t http_exchange_backlog(const struct http_exchange *x);

/* ---- http_shield.c ---- */
struct http_verdict {
    int status; /* 0: fine */
    const char *message;
};
bool http_target_is_sound(const char *uri);
struct http_verdict http_shield(struct http_exchange *x, const char *method, const char *version);
bool http_host_is_allowed(const char *host, const char *const *extra);

/* ---- http_listen.c ---- */
/* Fills fd, port, loopback and unlink_path. */
int http_listen_tcp(struct http_listener *l, const char *host, int port, struct err *err);
int http_listen_unix(struct http_listener *l, const char *path, struct err *err);
int http_listen_inherited(struct http_listener *l, int fd, struct err *err);

#endif

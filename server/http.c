/* http.c: libmicrohttpd (MHD) run from the uv loop.
 *
 * MHD keeps its sockets in an epoll descriptor of its own, which the loop watches like any other; when it stirs, or MHD's timer fires, or an exchange
 * has something to say, the pump runs MHD. Four things MHD does not do are done here:
 *
 *  - Disconnect watch. A suspended connection is invisible to MHD, so a client that leaves while its answer is being computed would never be
 *    noticed. All waiting and streaming sockets sit in one private epoll for EPOLLRDHUP. A half-close counts as leaving, as in most servers.
 *  - Absolute deadlines. MHD's timeout is inactivity, which one byte now and then defeats. A sweep shuts down sockets that take too long over one
 *    request, idle too long, or take no byte of a stream for too long; MHD then sees the end and cleans up.
 *  - Another round after a close. At its connection limit MHD forgets to listen again until it is next run.
 *  - The order at the end. MHD_stop_daemon aborts the process while a connection is suspended: all are marked dead, resumed and run out first. */
#include "server/http_private.h"

#include <assert.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HTTP_SWEEP_MS 250
#define HTTP_PUMP_ROUNDS 8

/* ---- the pump ---- */

void http_mark_dirty(struct http_exchange *x)
{
    if (x->dirty)
        return;
    x->dirty = true;
    x->next_dirty = x->h->dirty;
    x->h->dirty = x;
}

static void http_resume_dirty(struct http *h)
{
    while (h->dirty != NULL) {
        struct http_exchange *x = h->dirty;
        h->dirty = x->next_dirty;
        x->dirty = false;
        if (x->suspended) {
            x->suspended = false;
            MHD_resume_connection(x->mhd);
        }
    }
}

/* Milliseconds until some daemon wants to run again, or -1. */
static int64_t http_next_ms(struct http *h)
{
    int64_t next = -1;
    for (int i = 0; i < h->n_listeners; i++) {
        MHD_UNSIGNED_LONG_LONG ms;
        if (h->listeners[i].daemon != NULL && MHD_get_timeout(h->listeners[i].daemon, &ms) == MHD_YES && (next < 0 || (int64_t)ms < next))
            next = (int64_t)ms;
    }
    return next;
}

static void http_on_timer(uv_timer_t *t)
{
    http_pump(t->data);
}

/* Resuming wakes nobody: MHD must be run. A few rounds, then the loop gets its turn back. */
void http_pump(struct http *h)
{
    if (h->pumping) { /* called from within one of MHD's callbacks */
        h->rerun = true;
        return;
    }
    h->pumping = true;
    int64_t ms = 0;
    for (int round = 0; round < HTTP_PUMP_ROUNDS && (round == 0 || ms == 0 || h->rerun || h->dirty != NULL); round++) {
        h->rerun = false;
        http_resume_dirty(h);
        for (int i = 0; i < h->n_listeners; i++)
            if (h->listeners[i].daemon != NULL)
                MHD_run(h->listeners[i].daemon);
        ms = http_next_ms(h);
    }
    h->pumping = false;
    if (h->closing)
        return;
    if (h->rerun || h->dirty != NULL)
        ms = 0;
    if (ms < 0)
        uv_timer_stop(&h->timer);
    else
        uv_timer_start(&h->timer, http_on_timer, (uint64_t)ms, 0);
}

static void http_on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    http_pump(((struct http_listener *)p->data)->h);
}

/* Before the loop goes to sleep: whatever was said in this turn goes out now, several sends of a stream as one. */
static void http_on_flush(uv_prepare_t *p)
{
    struct http *h = p->data;
    if (h->dirty != NULL)
        http_pump(h);
}

/* ---- connections ---- */

void http_phase(struct http_conn *c, enum http_phase phase)
{
    c->phase = phase;
    c->since_ms = uv_now(c->listener->h->loop);
}

static void http_name_peer(struct http_conn *c, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *sa = info == NULL ? NULL : info->client_addr;
    char address[INET6_ADDRSTRLEN];
    if (sa != NULL && sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
        snprintf(c->peer, sizeof c->peer, "%s:%d", inet_ntop(AF_INET, &in->sin_addr, address, sizeof address), ntohs(in->sin_port));
    } else if (sa != NULL && sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)sa;
        snprintf(c->peer, sizeof c->peer, "[%s]:%d", inet_ntop(AF_INET6, &in->sin6_addr, address, sizeof address), ntohs(in->sin6_port));
    } else {
        snprintf(c->peer, sizeof c->peer, "unix");
    }
}

static void http_on_connection(void *listener, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode what)
{
    struct http_listener *l = listener;
    struct http *h = l->h;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        struct http_conn *c = calloc(1, sizeof *c);
        if (c == NULL)
            return; /* http_on_uri finds no connection then, and the request is dropped */
        c->listener = l;
        c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        http_phase(c, HTTP_READING);
        http_name_peer(c, mhd);
        c->next = h->conns.next;
        c->prev = &h->conns;
        c->next->prev = c;
        h->conns.next = c;
        h->n_conns++;
        *context = c;
        return;
    }
    h->rerun = true; /* at its limit MHD listens again only in its next run */
    struct http_conn *c = *context;
    if (c == NULL)
        return;
    *context = NULL;
    if (c->x != NULL)
        http_exchange_free(c->x);
    http_watch_del(c);
    c->next->prev = c->prev;
    c->prev->next = c->next;
    h->n_conns--;
    free(c);
}

/* ---- disconnect watch ---- */

void http_watch_add(struct http_conn *c)
{
    if (c->watched)
        return;
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = c};
    c->watched = epoll_ctl(c->listener->h->watch_fd, EPOLL_CTL_ADD, c->fd, &e) == 0;
}

void http_watch_del(struct http_conn *c)
{
    if (!c->watched)
        return;
    c->watched = false;
    epoll_ctl(c->listener->h->watch_fd, EPOLL_CTL_DEL, c->fd, NULL);
}

/* Only marks; connections are freed by the pump alone, so the pointers of one batch stay good. */
static void http_on_watch(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    struct http *h = p->data;
    struct epoll_event e[64];
    int n;
    do {
        n = epoll_wait(h->watch_fd, e, 64, 0);
        for (int i = 0; i < n; i++) {
            struct http_conn *c = e[i].data.ptr;
            if (c->x != NULL && (c->x->state == HTTP_X_WAIT || c->x->state == HTTP_X_STREAM))
                http_exchange_gone(c->x, "disconnect");
        }
    } while (n == 64);
    http_pump(h);
}

/* ---- absolute deadlines ---- */

static bool http_is_over_time(const struct http *h, const struct http_conn *c, uint64_t now)
{
    uint64_t spent = now - c->since_ms;
    if (c->phase == HTTP_READING)
        return spent > (uint64_t)h->opt.request_timeout_s * 1000;
    if (c->phase == HTTP_IDLE)
        return spent > (uint64_t)h->opt.idle_timeout_s * 1000;
    const struct http_exchange *x = c->x;
    return x != NULL && x->state == HTTP_X_STREAM && !x->suspended && (http_exchange_backlog(x) > 0 || x->ended) &&
           now - x->progress_ms > (uint64_t)h->opt.write_stall_s * 1000;
}

/* MHD forgets an end of input that came together with the last bytes it has read: its epoll is edge-triggered, and a short read ends its interest.
 * One look a sweep at those who owe us a request. */
static bool http_has_left(const struct http_conn *c)
{
    char byte;
    return c->phase != HTTP_BUSY && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void http_on_sweep(uv_timer_t *t)
{
    struct http *h = t->data;
    uint64_t now = uv_now(h->loop);
    bool any = false;
    for (struct http_conn *c = h->conns.next; c != &h->conns; c = c->next) {
        if (c->cut || (!http_is_over_time(h, c, now) && !http_has_left(c)))
            continue;
        c->cut = true;
        any = true;
        if (c->x != NULL)
            http_exchange_gone(c->x, c->phase == HTTP_BUSY ? "stall" : "timeout");
        shutdown(c->fd, SHUT_RDWR);
    }
    if (any)
        http_pump(h);
}

/* ---- opening ---- */

static void http_on_mhd_log(void *log, const char *format, va_list args)
{
    char line[400];
    int n = vsnprintf(line, sizeof line, format, args);
    while (n > 0 && (size_t)n < sizeof line && (line[n - 1] == '\n' || line[n - 1] == ' '))
        line[--n] = '\0';
    log_debug(log, "libmicrohttpd: %s", line);
}

static void http_on_panic(void *log, const char *file, unsigned line, const char *reason)
{
    log_error(log, "libmicrohttpd gave up at %s:%u: %s", file, line, reason == NULL ? "no reason given" : reason);
    abort();
}

static int http_start_daemon(struct http *h, struct http_listener *l, struct err *err)
{
    const struct http_options *o = &h->opt;
    bool tls = o->tls_cert_pem != NULL && l->port != 0;
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)http_on_mhd_log, (void *)(uintptr_t)o->log}, /* first, so that it hears of the others */
        {MHD_OPTION_LISTEN_SOCKET, l->fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, o->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, o->idle_timeout_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)o->max_header_bytes, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, MHD_VERSION < 0x01000000 ? 0 : 1, NULL}, /* old and strict: answers a missing Host twice */
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_on_uri, l},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_on_completed, l},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)http_on_connection, l},
        {tls ? MHD_OPTION_HTTPS_MEM_KEY : MHD_OPTION_END, 0, (void *)(uintptr_t)o->tls_key_pem},
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)o->tls_cert_pem},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? (unsigned)MHD_USE_TLS : 0);
    l->daemon = MHD_start_daemon(flags, 0, NULL, NULL, http_on_request, l, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
    if (l->daemon == NULL)
        return err_set(err, ERR_IO, "libmicrohttpd did not start%s", tls ? "; the TLS certificate or key may be at fault" : "");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL || uv_poll_init(h->loop, &l->poll, info->epoll_fd) != 0)
        return err_set(err, ERR_IO, "libmicrohttpd's epoll descriptor is not to be had");
    l->poll.data = l;
    l->polling = true;
    h->n_handles++;
    uv_poll_start(&l->poll, UV_READABLE, http_on_poll);
    return 0;
}

static int http_listen_all(struct http *h, struct err *err)
{
    const struct http_options *o = &h->opt;
    if (o->host != NULL && http_listen_tcp(&h->listeners[h->n_listeners++], o->host, o->port, err) != 0)
        return -1;
    if (o->unix_path != NULL && http_listen_unix(&h->listeners[h->n_listeners++], o->unix_path, err) != 0)
        return -1;
    for (int i = 0; i < o->n_listen_fds; i++) {
        if (h->n_listeners == HTTP_MAX_LISTENERS)
            return err_set(err, ERR_INVALID, "more than %d sockets to listen on", HTTP_MAX_LISTENERS);
        if (http_listen_inherited(&h->listeners[h->n_listeners++], o->listen_fds[i], err) != 0)
            return -1;
    }
    if (h->n_listeners == 0)
        return err_set(err, ERR_INVALID, "no address to listen on: give --host, --unix or a socket");
    for (int i = 0; i < h->n_listeners; i++)
        if (http_start_daemon(h, &h->listeners[i], err) != 0)
            return -1;
    return 0;
}

int http_open(uv_loop_t *loop, const struct http_options *opt, const struct http_callbacks *cb, struct http **out, struct err *err)
{
    struct http *h = calloc(1, sizeof *h);
    if (h == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the listener");
    h->loop = loop;
    h->opt = *opt;
    h->cb = *cb;
    h->conns.next = h->conns.prev = &h->conns;
    for (int i = 0; i < HTTP_MAX_LISTENERS; i++)
        h->listeners[i] = (struct http_listener){.h = h, .fd = -1};
    MHD_set_panic_func(http_on_panic, (void *)(uintptr_t)opt->log);
    h->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (h->watch_fd < 0) {
        free(h);
        return err_set(err, ERR_IO, "no epoll descriptor to be had: %s", strerror(errno));
    }
    uv_timer_init(loop, &h->timer);
    uv_timer_init(loop, &h->sweep);
    uv_prepare_init(loop, &h->flush);
    uv_poll_init(loop, &h->watch, h->watch_fd);
    h->n_handles = 4;
    h->timer.data = h->sweep.data = h->flush.data = h->watch.data = h;
    if (http_listen_all(h, err) != 0) {
        http_close(h);
        return -1;
    }
    uv_poll_start(&h->watch, UV_READABLE, http_on_watch);
    uv_timer_start(&h->sweep, http_on_sweep, HTTP_SWEEP_MS, HTTP_SWEEP_MS);
    uv_prepare_start(&h->flush, http_on_flush);
    http_pump(h);
    *out = h;
    return 0;
}

/* ---- the end ---- */

void http_quiesce(struct http *h)
{
    if (h->quiesced)
        return;
    h->quiesced = true;
    for (int i = 0; i < h->n_listeners; i++) {
        struct http_listener *l = &h->listeners[i];
        if (l->unlink_path[0] != '\0')
            unlink(l->unlink_path);
        if (l->daemon != NULL)
            MHD_quiesce_daemon(l->daemon);
        if (l->fd >= 0)
            close(l->fd);
        l->fd = -1;
    }
    http_pump(h);
}

static void http_handle_is_closed(struct http *h)
{
    if (--h->n_handles > 0)
        return;
    close(h->watch_fd);
    free(h);
}

static void http_on_closed(uv_handle_t *handle)
{
    http_handle_is_closed(handle->data);
}

static void http_on_poll_closed(uv_handle_t *handle)
{
    http_handle_is_closed(((struct http_listener *)handle->data)->h);
}

void http_close(struct http *h)
{
    if (h == NULL)
        return;
    assert(!h->pumping);
    h->closing = true;
    for (struct http_conn *c = h->conns.next; c != &h->conns; c = c->next)
        if (c->x != NULL)
            http_exchange_gone(c->x, "shutdown");
    http_quiesce(h);
    http_pump(h); /* no connection is suspended after this: new requests are refused at once while closing */
    for (int i = 0; i < h->n_listeners; i++) {
        struct http_listener *l = &h->listeners[i];
        if (l->polling)
            uv_close((uv_handle_t *)&l->poll, http_on_poll_closed);
        if (l->daemon != NULL)
            MHD_stop_daemon(l->daemon);
        l->daemon = NULL;
    }
    assert(h->n_conns == 0);
    uv_close((uv_handle_t *)&h->timer, http_on_closed);
    uv_close((uv_handle_t *)&h->sweep, http_on_closed);
    uv_close((uv_handle_t *)&h->flush, http_on_closed);
    uv_close((uv_handle_t *)&h->watch, http_on_closed);
}

int http_port(const struct http *h)
{
    for (int i = 0; i < h->n_listeners; i++)
        if (h->listeners[i].port != 0)
            return h->listeners[i].port;
    return 0;
}

size_t http_n_connections(const struct http *h)
{
    return h->n_conns;
}

size_t http_n_busy(const struct http *h)
{
    size_t n = 0;
    for (const struct http_conn *c = h->conns.next; c != &h->conns; c = c->next)
        n += c->phase == HTTP_BUSY;
    return n;
}

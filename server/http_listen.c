/* http_listen.c: listening sockets, made here and handed to MHD ready-made, so that TCP, unix and inherited ones take the same road.
 *
 * A unix socket left behind by a dead process answers connect() with ECONNREFUSED: it is replaced. One that answers is somebody's: an error. */
#include "server/http_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HTTP_LISTEN_BACKLOG 4096

static bool http_is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return sa->sa_family == AF_UNIX;
}

/* Reads back from the kernel what the socket is bound to. Accepted sockets inherit the mark: the kernel holds so much that it has not sent yet, so
 * that a client who stops reading is felt here, after 128 KiB and not after the megabytes that a send buffer grows to. */
static int http_listen_describe(struct http_listener *l, struct err *err)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    if (getsockname(l->fd, (struct sockaddr *)&sa, &n) != 0)
        return err_set(err, ERR_IO, "descriptor %d is not a socket: %s", l->fd, strerror(errno));
    int unsent_bytes = 128 * 1024;
    setsockopt(l->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes, sizeof unsent_bytes); /* a unix socket has no such thing */
    l->loopback = http_is_loopback((struct sockaddr *)&sa);
    l->port = sa.ss_family == AF_INET    ? ntohs(((struct sockaddr_in *)&sa)->sin_port)
              : sa.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&sa)->sin6_port)
                                         : 0;
    return 0;
}

static int http_bind_one(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, HTTP_LISTEN_BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int http_resolve(const char *host, const char *service, struct addrinfo **out, struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char bare[256];
    size_t n = strlen(host);
    if (n > 2 && n < sizeof bare && host[0] == '[' && host[n - 1] == ']') { /* [::1], as in a URL */
        memcpy(bare, host + 1, n - 2);
        bare[n - 2] = '\0';
        host = bare;
    }
    int rc = getaddrinfo(host, service, &hints, out);
    return rc == 0 ? 0 : err_set_param(err, ERR_IO, "host", "address '%s' is not understood: %s", host, gai_strerror(rc));
}

bool http_address_is_loopback(const char *host)
{
    struct addrinfo *list = NULL;
    if (http_resolve(host, "0", &list, NULL) != 0)
        return false;
    bool all = true;
    for (const struct addrinfo *a = list; a != NULL; a = a->ai_next)
        all = all && http_is_loopback(a->ai_addr);
    freeaddrinfo(list);
    return all;
}

bool http_socket_is_loopback(int fd)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    return getsockname(fd, (struct sockaddr *)&sa, &n) == 0 && http_is_loopback((struct sockaddr *)&sa);
}

int http_listen_tcp(struct http_listener *l, const char *host, int port, struct err *err)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo *list = NULL;
    if (http_resolve(host, service, &list, err) != 0)
        return -1;
    l->fd = -1;
    for (const struct addrinfo *a = list; a != NULL && l->fd < 0; a = a->ai_next) /* the first address that can be had */
        l->fd = http_bind_one(a);
    int saved = errno;
    freeaddrinfo(list);
    if (l->fd < 0)
        return err_set(err, ERR_IO, "cannot listen on %s port %d: %s", host, port, strerror(saved));
    return http_listen_describe(l, err);
}

/* True if nobody answers at the path; what lies there is then a leftover. */
static bool http_unix_is_stale(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool stale = connect(fd, (const struct sockaddr *)sa, sizeof *sa) != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

int http_listen_unix(struct http_listener *l, const char *path, struct err *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof sa.sun_path)
        return err_set(err, ERR_INVALID, "unix socket path is %zu bytes; the limit is %zu", strlen(path), sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return err_set(err, ERR_IO, "no unix socket to be had: %s", strerror(errno));
    int rc = bind(l->fd, (struct sockaddr *)&sa, sizeof sa);
    if (rc != 0 && errno == EADDRINUSE && http_unix_is_stale(&sa)) {
        unlink(path);
        rc = bind(l->fd, (struct sockaddr *)&sa, sizeof sa);
    }
    if (rc != 0 || listen(l->fd, HTTP_LISTEN_BACKLOG) != 0) {
        int saved = errno;
        close(l->fd);
        l->fd = -1;
        return err_set(err, ERR_IO, "cannot listen on %s: %s", path, strerror(saved));
    }
    memcpy(l->unlink_path, path, strlen(path) + 1);
    return http_listen_describe(l, err);
}

int http_listen_inherited(struct http_listener *l, int fd, struct err *err)
{
    int listening = 0;
    socklen_t n = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || listening == 0)
        return err_set(err, ERR_IO, "descriptor %d, which was handed over, is not a listening socket", fd);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    l->fd = fd;
    return http_listen_describe(l, err);
}

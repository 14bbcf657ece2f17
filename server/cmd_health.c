/* cmd_health.c: `nextd health`, for a container's HEALTHCHECK and for people: asks the configured server's /health, exit status 0 when it serves.
 *
 * It reads the same options as `serve`, so it finds the address, the unix socket and TLS where they were set. One request, one answer, five seconds.
 * TLS certificates are not verified: the question is whether our own server on this machine answers, not who it is. */
#include "server/cmd.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/options.h"

#define HEALTH_TIMEOUT_S 5

extern char **environ;

static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

static int connect_unix(const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(err, ERR_INVALID, "unix socket path is %zu bytes; the system holds %zu", strlen(path), sizeof addr.sun_path - 1);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof addr) == 0)
        return fd;
    int why = errno;
    if (fd >= 0)
        close(fd);
    return err_set(err, ERR_IO, "%s: %s", path, strerror(why));
}

static int connect_tcp(const char *host, int port, struct err *err)
{
    /* A server that listens everywhere is asked on loopback. */
    const char *target = strcmp(host, "0.0.0.0") == 0 ? "127.0.0.1" : strcmp(host, "::") == 0 ? "::1" : host;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int rc = getaddrinfo(target, service, &hints, &list);
    if (rc != 0)
        return err_set(err, ERR_IO, "%s: %s", target, gai_strerror(rc));
    int fd = -1, why = 0;
    for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        struct timeval limit = {.tv_sec = HEALTH_TIMEOUT_S};
        if (fd >= 0)
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            why = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd >= 0 ? fd : err_set(err, ERR_IO, "%s port %d: %s", target, port, strerror(why));
}

/* Sends the request and reads what fits of the answer; returns its length or -1. */
static long exchange_plain(int fd, char *answer, size_t n)
{
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)(sizeof request - 1))
        return -1;
    size_t got = 0;
    for (ssize_t r; got < n && (r = recv(fd, answer + got, n - got, 0)) > 0;)
        got += (size_t)r;
    return (long)got;
}

static long exchange_tls(int fd, char *answer, size_t n)
{
    gnutls_session_t session;
    gnutls_certificate_credentials_t cred;
    long got = -1;
    if (gnutls_certificate_allocate_credentials(&cred) != 0)
        return -1;
    if (gnutls_init(&session, GNUTLS_CLIENT) == 0) {
        gnutls_set_default_priority(session);
        gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, cred);
        gnutls_transport_set_int(session, fd);
        gnutls_handshake_set_timeout(session, HEALTH_TIMEOUT_S * 1000);
        if (gnutls_handshake(session) == 0 && gnutls_record_send(session, request, sizeof request - 1) > 0) {
            got = 0;
            for (ssize_t r; (size_t)got < n && (r = gnutls_record_recv(session, answer + got, n - (size_t)got)) > 0;)
                got += r;
        }
        gnutls_deinit(session);
    }
    gnutls_certificate_free_credentials(cred);
    return got;
}

static int ask(const struct options *opt, struct err *err)
{
    int fd = opt->unix_path[0] != '\0' ? connect_unix(opt->unix_path, err) : connect_tcp(opt->host, opt->port, err);
    if (fd < 0)
        return -1;
    struct timeval limit = {.tv_sec = HEALTH_TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    char answer[4096];
    bool tls = opt->tls_cert[0] != '\0' && opt->unix_path[0] == '\0';
    long n = tls ? exchange_tls(fd, answer, sizeof answer - 1) : exchange_plain(fd, answer, sizeof answer - 1);
    close(fd);
    if (n <= 0)
        return err_set(err, ERR_IO, "no answer within %d s", HEALTH_TIMEOUT_S);
    answer[n] = '\0';
    const char *body = strstr(answer, "\r\n\r\n");
    printf("%s\n", body != NULL ? body + 4 : "");
    if (n < 12 || strncmp(answer, "HTTP/1.", 7) != 0 || strncmp(answer + 8, " 200", 4) != 0)
        return err_set(err, ERR_LOADING, "the server does not serve: %.*s", (int)strcspn(answer, "\r\n"), answer);
    return 0;
}

int cmd_health(int argc, char **argv)
{
    struct options opt;
    struct err err = {0};
    if (options_load(argc, argv, environ, &opt, &err) != 0) {
        fprintf(stderr, "nextd health: %s\n", err.msg);
        return 2;
    }
    int rc = ask(&opt, &err);
    if (rc != 0)
        fprintf(stderr, "nextd health: %s\n", err.msg);
    options_finish(&opt);
    return rc == 0 ? 0 : 1;
}

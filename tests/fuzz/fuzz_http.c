/* fuzz_http.c: bytes from a client, through a real socket, MHD, the shield and the exchange, against an independent reading of RFC 9112.
 *
 * The law under test: whatever is handed to the router is what a strict parser reads at that place of the bytes, body included. So the bodies that
 * were handled must be a prefix of those that the strict parser finds; it stops for good at the first byte that it does not like. Every accepted
 * exchange must also be closed once the client is gone. Chunked bodies, which only MHD >= 1.0 takes, are not compared. */
#include <assert.h>
#include <microhttpd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http.h"

#define MAX_INPUT_BYTES 12000
#define MAX_REQUESTS 1000

struct seen {
    size_t n;
    size_t n_body[MAX_REQUESTS];
    uint32_t sum[MAX_REQUESTS];
};
static struct seen handled, strict;
static long n_accepted, n_closed;

static void note(struct seen *s, const char *body, size_t n)
{
    assert(s->n < MAX_REQUESTS);
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + (unsigned char)body[i];
    s->n_body[s->n] = n;
    s->sum[s->n++] = sum;
}

/* ---- the router ---- */

static bool on_accept(void *ctx, struct http_exchange *x, void **user)
{
    (void)ctx, (void)x, (void)user;
    n_accepted++;
    return true;
}

static void on_handle(void *ctx, struct http_exchange *x, const char *body, size_t n)
{
    (void)ctx;
    assert(body[n] == '\0');
    assert(n == http_content_length(x) || http_request_header(x, "Transfer-Encoding") != NULL);
    note(&handled, body, n);
    assert(http_path(x)[0] == '/' || http_path(x)[0] == '*');
    http_reply(x, 200, "text/plain", "ok", 2, NULL, 0);
}

static void on_drained(void *ctx, struct http_exchange *x)
{
    (void)ctx, (void)x;
}

static void on_gone(void *ctx, struct http_exchange *x, const char *why)
{
    (void)ctx, (void)x, (void)why;
}

static void on_closed(void *ctx, struct http_exchange *x)
{
    (void)ctx, (void)x;
    n_closed++;
}

/* ---- the strict reading ---- */

static bool is_token(const char *p, const char *end)
{
    if (p == end)
        return false;
    for (; p < end; p++)
        if (*p <= ' ' || *p >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", *p) != NULL)
            return false;
    return true;
}

static bool is_blotted(char c)
{
    return c == '\r' || c == '\n' || c == '\0' || c == ':';
}

/* The line at *p without its end; NULL if there is none, or it holds what a line must not. It ends in CR LF, the last one in two of them. The old
 * MHD puts NULs over CR, LF and the colon behind a name, so the shield cannot tell CR LF from NUL LF, nor CR LF CR LF from four such bytes that end
 * in LF: those count here, too. */
static const char *take_line(const char **p, const char *end, size_t *n, bool *last)
{
    const char *from = *p;
    for (const char *q = from; q + 1 < end; q++) {
        bool four = end - q >= 4 && is_blotted(q[0]) && is_blotted(q[1]) && is_blotted(q[2]) && q[3] == '\n' && q[0] != ':';
        bool two = q[1] == '\n' && (q[0] == '\r' || q[0] == '\0');
        if (four || two) {
            *n = (size_t)(q - from);
            *p = q + (four ? 4 : 2);
            *last = four;
            return from;
        }
        if (((unsigned char)*q < ' ' && *q != '\t') || *q == 0x7f)
            return NULL;
    }
    return NULL;
}

static bool read_header(const char *line, size_t n, bool *has_length, uint64_t *length)
{
    const char *colon = memchr(line, ':', n);
    if (colon == NULL || !is_token(line, colon))
        return false;
    const char *v = colon + 1, *end = line + n;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    size_t n_name = (size_t)(colon - line);
    if (n_name == 17 && strncasecmp(line, "transfer-encoding", 17) == 0)
        return false;
    if (n_name != 14 || strncasecmp(line, "content-length", 14) != 0)
        return true;
    if (*has_length || v == end || end - v > 18) /* leading zeros are allowed; 18 digits fit */
        return false;
    *has_length = true;
    for (*length = 0; v < end; v++) {
        if (*v < '0' || *v > '9')
            return false;
        *length = *length * 10 + (uint64_t)(*v - '0');
    }
    return true;
}

/* Where a request may begin: behind empty lines, as RFC 9112 has it. The old MHD takes two things more for an empty line, and nothing can be done
 * about it: a bare LF, and a line that begins with a NUL. No request hides in them. */
static const char *skip_empty_lines(const char *p, const char *end)
{
    while (p < end && (*p == '\n' || *p == '\0' || (*p == '\r' && p + 1 < end && p[1] == '\n'))) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        if (lf == NULL)
            return end;
        p = lf + 1;
    }
    return p;
}

static void read_strictly(const char *p, const char *end)
{
    for (;;) {
        p = skip_empty_lines(p, end);
        size_t n;
        bool last;
        const char *line = take_line(&p, end, &n, &last);
        if (line == NULL)
            return;
        const char *blank = memchr(line, ' ', n), *version = line + n - 9;
        if (blank == NULL || !is_token(line, blank) || version <= blank || strncmp(version, " HTTP/1.", 8) != 0)
            return;
        if (version[8] != '0' && version[8] != '1')
            return;
        for (const char *q = blank + 1; q < version; q++)
            if (*q == ' ' || *q == '\t')
                return;
        bool has_length = false;
        uint64_t length = 0;
        while (!last) {
            line = take_line(&p, end, &n, &last);
            if (line == NULL || !read_header(line, n, &has_length, &length))
                return;
        }
        if (length > (uint64_t)(end - p))
            return;
        note(&strict, p, (size_t)length);
        p += length;
    }
}

/* ---- driver ---- */

static uv_loop_t loop;
static struct http *http;
static struct log quiet;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void turn(int n)
{
    for (int i = 0; i < n; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static bool has_chunks(const char *p, size_t n)
{
    for (size_t i = 0; i + 16 <= n; i++)
        if (strncasecmp(p + i, "ransfer-encoding", 16) == 0)
            return true;
    return false;
}

static void open_site(void)
{
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/nextd-fuzz-http-%d.sock", (int)getpid());
    log_init(&quiet, STDERR_FILENO, LOG_LEVEL_ERROR);
    uv_loop_init(&loop);
    struct http_options opt = {.unix_path = address.sun_path, .max_connections = 16, .max_body_bytes = 8000, .max_header_bytes = 4096,
                               .idle_timeout_s = 60, .request_timeout_s = 60, .write_stall_s = 60, .log = &quiet};
    struct http_callbacks cb = {on_accept, on_handle, on_drained, on_gone, on_closed, NULL};
    struct err err;
    if (http_open(&loop, &opt, &cb, &http, &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (http == NULL)
        open_site();
    if (size < 2 || size > MAX_INPUT_BYTES)
        return 0;
    const char *p = (const char *)data + 1;
    size_t n = size - 1, cut = data[0] % 2 == 0 ? n : n * data[0] / 256; /* in one piece or in two */
    handled.n = strict.n = 0;
    read_strictly(p, p + n);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        abort();
    ssize_t sent[2];
    sent[0] = send(fd, p, cut, MSG_NOSIGNAL);
    turn(3);
    sent[1] = send(fd, p + cut, n - cut, MSG_NOSIGNAL);
    (void)sent; /* the server may have closed */
    char answer[65536];
    for (int i = 0; i < 4; i++) {
        turn(2);
        while (recv(fd, answer, sizeof answer, 0) > 0)
            ;
    }
    close(fd);
    turn(4);
    assert(n_accepted == n_closed);
    if (MHD_VERSION >= 0x01000000 && has_chunks(p, n))
        return 0;
    assert(handled.n <= strict.n);
    for (size_t i = 0; i < handled.n; i++) {
        assert(handled.n_body[i] == strict.n_body[i]);
        assert(handled.sum[i] == strict.sum[i]);
    }
    return 0;
}

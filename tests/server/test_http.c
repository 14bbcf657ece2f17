/* test_http.c: the HTTP layer with a router of its own, over real sockets: replies now and later, streams, back-pressure, pipelining, disconnects,
 * limits, quiesce and close. The loop runs on a thread; the test is the client and speaks bytes, blocking, with a deadline on every read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "server/http.h"

#define WAIT_S 10

struct site {
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t ask;
    uv_timer_t beat;
    struct http *http;
    struct log log;
    char unix_path[64];
    int port;
    struct http_exchange *later; /* answered by the next beat */
    struct http_exchange *flood; /* a stream that is filled until it is full */
    size_t flood_left;
    struct http_exchange *slow; /* a stream that gets an event per beat */
    int slow_left;
    _Atomic int n_accepted, n_handled, n_gone, n_closed, n_drained, n_full;
    _Atomic bool quiesce, stop;
};

/* ---- the router under test ---- */

static bool on_accept(void *ctx, struct http_exchange *x, void **user)
{
    struct site *s = ctx;
    if (strcmp(http_path(x), "/forbidden") == 0) {
        http_reply(x, 401, "text/plain", "no\n", 3, NULL, 0);
        return false;
    }
    s->n_accepted++;
    *user = strdup(http_method(x));
    return true;
}

static void fill(struct site *s)
{
    char block[1000];
    memset(block, 'f', sizeof block);
    while (s->flood_left > 0) {
        s->flood_left--;
        if (!http_stream_send(s->flood, block, sizeof block)) {
            s->n_full++;
            return;
        }
    }
    http_stream_end(s->flood);
    s->flood = NULL;
}

static void on_handle(void *ctx, struct http_exchange *x, const char *body, size_t n)
{
    struct site *s = ctx;
    s->n_handled++;
    const char *path = http_path(x);
    assert_int_equal(body[n], '\0');
    if (strcmp(path, "/health") == 0) {
        http_reply(x, 200, "text/plain", "fine\n", 5, NULL, 0);
    } else if (strcmp(path, "/echo") == 0) {
        http_reply(x, 200, "text/plain", body, n, (struct http_header[]){{"X-Method", http_method(x)}}, 1);
    } else if (strcmp(path, "/later") == 0) {
        s->later = x;
    } else if (strcmp(path, "/wait") == 0) {
        return;
    } else if (strcmp(path, "/stream") == 0) {
        http_stream_begin(x, 200, "text/event-stream", NULL, 0);
        http_stream_send(x, "one ", 4);
        http_stream_send(x, "two ", 4);
        http_stream_send(x, "three", 5);
        http_stream_end(x);
    } else if (strcmp(path, "/slow") == 0) {
        http_stream_begin(x, 200, "text/event-stream", NULL, 0);
        s->slow = x;
        s->slow_left = 5;
    } else if (strcmp(path, "/flood") == 0) {
        http_stream_begin(x, 200, "text/plain", NULL, 0);
        s->flood = x;
        s->flood_left = 40000;
        fill(s);
    } else {
        http_reply(x, 404, "text/plain", "what?\n", 6, NULL, 0);
    }
}

static void on_drained(void *ctx, struct http_exchange *x)
{
    struct site *s = ctx;
    s->n_drained++;
    if (s->flood == x)
        fill(s);
}

static void on_gone(void *ctx, struct http_exchange *x, const char *why)
{
    struct site *s = ctx;
    (void)why;
    s->n_gone++;
    if (s->later == x)
        s->later = NULL;
    if (s->flood == x)
        s->flood = NULL;
    if (s->slow == x)
        s->slow = NULL;
    http_stream_end(x); /* says to nobody; must be harmless */
}

static void on_closed(void *ctx, struct http_exchange *x)
{
    struct site *s = ctx;
    s->n_closed++;
    free(http_user(x));
}

static void on_beat(uv_timer_t *t)
{
    struct site *s = t->data;
    if (s->later != NULL) {
        http_reply(s->later, 200, "text/plain", "at last\n", 8, NULL, 0);
        s->later = NULL;
    }
    if (s->slow != NULL) {
        http_stream_send(s->slow, "tick\n", 5);
        if (--s->slow_left == 0) {
            http_stream_end(s->slow);
            s->slow = NULL;
        }
    }
}

static void on_ask(uv_async_t *a)
{
    struct site *s = a->data;
    if (s->quiesce)
        http_quiesce(s->http);
    if (s->stop) {
        http_close(s->http);
        uv_close((uv_handle_t *)&s->beat, NULL);
        uv_close((uv_handle_t *)&s->ask, NULL);
    }
}

static void run(void *arg)
{
    struct site *s = arg;
    uv_run(&s->loop, UV_RUN_DEFAULT);
}

static struct site *site_open(struct http_options opt)
{
    struct site *s = calloc(1, sizeof *s);
    log_init(&s->log, STDERR_FILENO, LOG_LEVEL_WARN);
    snprintf(s->unix_path, sizeof s->unix_path, "/tmp/nextd-test-http-%d-%p.sock", (int)getpid(), (void *)s);
    uv_loop_init(&s->loop);
    uv_async_init(&s->loop, &s->ask, on_ask);
    uv_timer_init(&s->loop, &s->beat);
    s->ask.data = s->beat.data = s;
    uv_timer_start(&s->beat, on_beat, 20, 20);
    opt.host = "127.0.0.1";
    opt.unix_path = s->unix_path;
    opt.log = &s->log;
    struct http_callbacks cb = {on_accept, on_handle, on_drained, on_gone, on_closed, s};
    struct err err;
    if (http_open(&s->loop, &opt, &cb, &s->http, &err) != 0)
        fail_msg("%s", err.msg);
    s->port = http_port(s->http);
    assert_true(s->port > 0);
    uv_thread_create(&s->thread, run, s);
    return s;
}

static struct http_options usual(void)
{
    return (struct http_options){.max_connections = 64,
                                 .max_body_bytes = 100000,
                                 .max_header_bytes = 16384,
                                 .idle_timeout_s = 60,
                                 .request_timeout_s = 60,
                                 .write_stall_s = 60,
                                 .check_host = true};
}

/* Every accepted exchange must have been closed, once. */
static void site_close(struct site *s)
{
    s->stop = true;
    uv_async_send(&s->ask);
    uv_thread_join(&s->thread);
    assert_int_equal(uv_loop_close(&s->loop), 0);
    assert_int_equal(s->n_closed, s->n_accepted);
    assert_int_equal(access(s->unix_path, F_OK), -1);
    free(s);
}

/* ---- the client ---- */

static int dial(const struct site *s)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = WAIT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Reads until `end` has been seen, or the peer closes. */
static char *hear(int fd, const char *end)
{
    size_t n = 0, cap = 1 << 20;
    char *p = malloc(cap + 1);
    p[0] = '\0';
    while (end == NULL || strstr(p, end) == NULL) {
        ssize_t got = recv(fd, p + n, cap - n, 0);
        if (got < 0)
            fail_msg("waited too long for '%s'; got '%s'", end == NULL ? "the end" : end, p);
        if (got == 0)
            break;
        n += (size_t)got;
        p[n] = '\0';
    }
    return p;
}

static void expect(int fd, const char *end, const char *want)
{
    char *got = hear(fd, end);
    if (strstr(got, want) == NULL)
        fail_msg("'%s' is not in '%s'", want, got);
    free(got);
}

static void wait_for(_Atomic int *what, int value)
{
    for (int i = 0; i < WAIT_S * 1000 && *what != value; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(*what, value);
}

#define GET "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
#define POST(path, length) "POST " path " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " length "\r\n\r\n"

/* ---- tests ---- */

static void test_replies_now_and_later_on_one_connection(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int fd = dial(s);
    say(fd, GET);
    expect(fd, "fine\n", "HTTP/1.1 200");
    say(fd, POST("/later", "0"));
    expect(fd, "at last\n", "HTTP/1.1 200");
    say(fd, POST("/echo", "5") "hello");
    expect(fd, "hello", "X-Method: POST");
    say(fd, "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n");
    expect(fd, "what?\n", "HTTP/1.1 404");
    say(fd, "GET /forbidden HTTP/1.1\r\nHost: localhost\r\n\r\n");
    expect(fd, "no\n", "HTTP/1.1 401");
    say(fd, POST("/forbidden", "4") "body"); /* a small refused body is swallowed: the connection lives */
    expect(fd, "no\n", "HTTP/1.1 401");
    say(fd, "HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    expect(fd, "\r\n\r\n", "Content-Length: 5");
    say(fd, GET);
    expect(fd, "fine\n", "HTTP/1.1 200");
    close(fd);
    assert_int_equal(s->n_gone, 0);
    site_close(s);
}

static void test_streams_leave_the_connection_usable(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int fd = dial(s);
    for (int i = 0; i < 3; i++) {
        say(fd, POST("/stream", "0"));
        expect(fd, "0\r\n\r\n", "D\r\none two three\r\n"); /* three sends of one turn are one chunk */
    }
    say(fd, POST("/slow", "0") GET); /* pipelined behind the stream */
    expect(fd, "fine\n", "5\r\ntick\n\r\n");
    say(fd, "POST /stream HTTP/1.0\r\n\r\n");
    expect(fd, NULL, "\r\n\r\none two three"); /* no chunks for 1.0 */
    close(fd);
    site_close(s);
}

static void test_a_slow_reader_pauses_its_stream_and_gets_all(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int fd = dial(s);
    say(fd, POST("/flood", "0"));
    for (int last = -1; last != s->n_full || last == 0;) { /* until the kernel's buffers are full, too */
        last = s->n_full;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    assert_int_equal(s->n_full, s->n_drained + 1); /* paused */
    size_t n = 0;
    char block[65536], tail[6] = "";
    while (strcmp(tail, "0\r\n\r\n") != 0) {
        ssize_t got = recv(fd, block, sizeof block, 0);
        assert_true(got > 0);
        for (ssize_t i = 0; i < got; i++) {
            n += block[i] == 'f';
            memmove(tail, tail + 1, 4);
            tail[4] = block[i];
        }
    }
    assert_true(n >= 40000u * 1000u);
    assert_true(s->n_drained > 0);
    assert_int_equal(s->n_drained, s->n_full);
    say(fd, GET);
    expect(fd, "fine\n", "HTTP/1.1 200");
    close(fd);
    site_close(s);
}

static void test_a_client_that_leaves_is_noticed(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int fd = dial(s);
    say(fd, POST("/wait", "0")); /* nothing is being written: only the watch can tell */
    wait_for(&s->n_handled, 1);
    close(fd);
    wait_for(&s->n_gone, 1);
    wait_for(&s->n_closed, 1);
    fd = dial(s);
    say(fd, POST("/wait", "0"));
    wait_for(&s->n_handled, 2);
    struct linger rst = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &rst, sizeof rst);
    close(fd);
    wait_for(&s->n_gone, 2);
    fd = dial(s);
    say(fd, POST("/flood", "0"));
    wait_for(&s->n_handled, 3);
    close(fd);
    wait_for(&s->n_gone, 3);
    wait_for(&s->n_closed, 3);
    site_close(s);
}

static void test_an_end_that_comes_with_the_last_bytes_is_noticed(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    const char half[] = POST("/echo", "1000") "half of it";
    for (int i = 0; i < 8; i++) {
        int fd = dial(s);
        assert_int_equal(send(fd, half, sizeof half - 1, MSG_NOSIGNAL | MSG_MORE), sizeof half - 1); /* leaves with the FIN, in one segment */
        close(fd);
    }
    wait_for(&s->n_accepted, 8);
    wait_for(&s->n_closed, 8);
    site_close(s);
}

static void test_deadlines_and_stalls_end_connections(void **state)
{
    (void)state;
    struct http_options opt = usual();
    opt.idle_timeout_s = opt.request_timeout_s = opt.write_stall_s = 1;
    struct site *s = site_open(opt);
    int body = dial(s), idle = dial(s), stall = dial(s), fresh = dial(s);
    say(idle, GET);
    expect(idle, "fine\n", "200");
    say(stall, POST("/flood", "0"));
    say(body, POST("/echo", "1000"));
    for (int i = 0; i < 30 && send(body, "x", 1, MSG_NOSIGNAL) == 1; i++) /* busy, but too slow */
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    char c;
    assert_true(recv(body, &c, 1, 0) <= 0);
    assert_true(recv(idle, &c, 1, 0) <= 0);
    assert_true(recv(fresh, &c, 1, 0) <= 0);
    wait_for(&s->n_gone, 1); /* the stall; the half body was never handled */
    wait_for(&s->n_closed, 3);
    close(body);
    close(idle);
    close(stall);
    close(fresh);
    site_close(s);
}

static void test_at_the_connection_limit_the_next_waits_for_a_place(void **state)
{
    (void)state;
    struct http_options opt = usual();
    opt.max_connections = 2;
    struct site *s = site_open(opt);
    int a = dial(s), b = dial(s), c = dial(s);
    say(a, GET);
    expect(a, "fine\n", "200");
    say(b, GET);
    expect(b, "fine\n", "200");
    say(c, GET);
    close(a);
    expect(c, "fine\n", "200");
    close(b);
    close(c);
    site_close(s);
}

static void test_refuses_what_is_too_large(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int fd = dial(s);
    say(fd, POST("/echo", "100001"));
    expect(fd, NULL, "HTTP/1.1 413"); /* from the header alone, and closed */
    close(fd);
    fd = dial(s);
    say(fd, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n");
    char *got = hear(fd, NULL);
    assert_null(strstr(got, "100 Continue"));
    assert_non_null(strstr(got, "HTTP/1.1 413"));
    free(got);
    close(fd);
    fd = dial(s);
    say(fd, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    expect(fd, "\r\n\r\n", "HTTP/1.1 100");
    say(fd, "hi");
    expect(fd, "hi", "HTTP/1.1 200");
    close(fd);
    assert_int_equal(s->n_handled, 1);
    site_close(s);
}

static void test_refuses_a_foreign_host(void **state)
{
    (void)state;
    static const char *const extra[] = {"gpu.lan", NULL};
    struct http_options opt = usual();
    opt.hosts = extra;
    struct site *s = site_open(opt);
    static const struct {
        const char *host;
        int status;
    } cases[] = {{"localhost", 200},       {"LOCALHOST:80", 200},    {"127.0.0.1:8080", 200}, {"127.1.2.3", 200}, {"[::1]:1", 200},
                 {"gpu.lan:8080", 200},    {"evil.example", 403},    {"localhost.evil", 403}, {"127.0.0.1.evil.example", 403},
                 {"evil.example:8080", 403}, {"", 403}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = dial(s);
        char text[200], want[40];
        snprintf(text, sizeof text, "GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", cases[i].host);
        snprintf(want, sizeof want, "HTTP/1.1 %d", cases[i].status);
        say(fd, text);
        expect(fd, NULL, want);
        close(fd);
    }
    site_close(s);
}

static void test_serves_a_unix_socket(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, s->unix_path, strlen(s->unix_path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    say(fd, "GET /health HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n");
    expect(fd, NULL, "HTTP/1.1 200");
    close(fd);
    site_close(s);
}

static void test_quiesce_finishes_what_runs_and_close_ends_the_rest(void **state)
{
    (void)state;
    struct site *s = site_open(usual());
    int slow = dial(s), kept = dial(s), wait = dial(s), flood = dial(s);
    say(kept, GET);
    expect(kept, "fine\n", "200");
    say(slow, POST("/slow", "0"));
    say(wait, POST("/wait", "0"));
    say(flood, POST("/flood", "0"));
    wait_for(&s->n_handled, 4);
    s->quiesce = true;
    uv_async_send(&s->ask);
    expect(slow, "0\r\n\r\n", "tick\n");
    for (int i = 0; i < WAIT_S * 1000; i++) { /* until the listener is closed */
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int rc = connect(fd, (struct sockaddr *)&sa, sizeof sa);
        close(fd);
        if (rc != 0)
            break;
        assert_int_not_equal(i, WAIT_S * 1000 - 1);
    }
    say(kept, GET);
    expect(kept, NULL, "Connection: close");
    site_close(s); /* with one waiting and one streaming: both get their end */
    close(slow);
    close(kept);
    close(wait);
    close(flood);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies_now_and_later_on_one_connection),
        cmocka_unit_test(test_streams_leave_the_connection_usable),
        cmocka_unit_test(test_a_slow_reader_pauses_its_stream_and_gets_all),
        cmocka_unit_test(test_a_client_that_leaves_is_noticed),
        cmocka_unit_test(test_an_end_that_comes_with_the_last_bytes_is_noticed),
        cmocka_unit_test(test_deadlines_and_stalls_end_connections),
        cmocka_unit_test(test_at_the_connection_limit_the_next_waits_for_a_place),
        cmocka_unit_test(test_refuses_what_is_too_large),
        cmocka_unit_test(test_refuses_a_foreign_host),
        cmocka_unit_test(test_serves_a_unix_socket),
        cmocka_unit_test(test_quiesce_finishes_what_runs_and_close_ends_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_serve.c: the daemon's life with an engine that the test plays: loading, failing, faulting, hanging. Each daemon is a child process, as it
 * takes signals and ends by its exit status; a page of shared memory tells its engine what to do, and the test plays systemd's part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#pragma GCC diagnostic ignored "-Wunused-function" /* of the fake's parts */

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAKE_ENGINE_OPENS
#include "server/options.h"
#include "server/serve.h"
#include "tests/server/fake_engine.h"

#define WAIT_MS 10000

/* What the test says to the child's engine. */
struct strings {
    _Atomic bool hold_loading, fail_loading, fault, busy;
    _Atomic uint64_t steps;
};
static struct strings *strings;

int engine_open(const struct engine_options *opt, struct engine **out, struct err *err)
{
    while (strings->hold_loading) {
        if (*opt->stop_loading)
            return err_set(err, ERR_STOPPING, "stopped");
        opt->progress(opt->progress_arg, 1, 4);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (strings->fail_loading)
        return err_set(err, ERR_FORMAT, "the file is not what it seems");
    fake.notify = opt->notify;
    fake.notify_arg = opt->notify_arg;
    *out = fake_engine();
    return 0;
}

/* The loop asks for figures all the time: the moment at which this engine does what it was told. */
void engine_stats(struct engine *e, struct engine_stats *out)
{
    (void)e;
    *out = (struct engine_stats){.n_pages = 64, .idle = !strings->busy, .steps = strings->steps, .faulted = strings->fault};
    bool any = false;
    for (size_t i = 0; i < fake.n_requests; i++) {
        if (fake.requests[i].ended || !(strings->fault || fake.requests[i].cancelled))
            continue;
        enum engine_finish why = strings->fault ? ENGINE_FINISH_ERROR : ENGINE_FINISH_CANCELLED;
        err_set(&fake_choice(i, 0, why)->err, ERR_DEVICE, "the device is lost");
        err_set(&fake_end(i, why, 0)->err, ERR_DEVICE, "the device is lost");
        any = true;
    }
    if (any)
        fake.notify(fake.notify_arg);
}

/* ---- the child and its manager ---- */

struct manager {
    pid_t pid;
    int notify;
    char path[80], socket[80], model[80];
    char heard[20000]; /* all notifications, each followed by a line feed */
    size_t n_heard;
};

static void child(const struct manager *m, const char *watchdog_us)
{
    char *argv[] = {"serve", "-m", (char *)(uintptr_t)m->model, "--host=", "--unix", (char *)(uintptr_t)m->socket, "--drain-timeout-s", "0",
                    "--log-level", "error"};
    struct options opt;
    struct err err;
    fake_reset();
    setenv("NOTIFY_SOCKET", m->path, 1);
    if (watchdog_us != NULL)
        setenv("WATCHDOG_USEC", watchdog_us, 1);
    if (options_load(sizeof argv / sizeof argv[0], argv, NULL, &opt, &err) != 0)
        _exit(99);
    int status = serve_run(&opt);
    options_finish(&opt);
    exit(status); /* not _exit: the leak checker has its say */
}

static struct manager *start(const char *watchdog_us)
{
    struct manager *m = calloc(1, sizeof *m);
    static int n;
    snprintf(m->path, sizeof m->path, "/tmp/nextd-test-serve-%d-%d.notify", (int)getpid(), n);
    snprintf(m->socket, sizeof m->socket, "/tmp/nextd-test-serve-%d-%d.sock", (int)getpid(), n);
    snprintf(m->model, sizeof m->model, "/tmp/nextd-test-serve-%d-%d.gguf", (int)getpid(), n++);
    fclose(fopen(m->model, "w"));
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", m->path);
    m->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(m->notify, (struct sockaddr *)&sa, sizeof sa), 0);
    m->pid = fork();
    if (m->pid == 0)
        child(m, watchdog_us);
    return m;
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static void listen_in(struct manager *m)
{
    ssize_t n;
    while ((n = recv(m->notify, m->heard + m->n_heard, sizeof m->heard - m->n_heard - 2, 0)) > 0) {
        m->n_heard += (size_t)n;
        m->heard[m->n_heard++] = '\n';
        m->heard[m->n_heard] = '\0';
    }
}

static int count(struct manager *m, const char *what)
{
    listen_in(m);
    int n = 0;
    for (const char *p = m->heard; (p = strstr(p, what)) != NULL; p++)
        n++;
    return n;
}

static void wait_for(struct manager *m, const char *what, int n)
{
    for (int i = 0; i < WAIT_MS && count(m, what) < n; i++)
        pause_ms(1);
    if (count(m, what) < n)
        fail_msg("'%s' was not heard; only '%s'", what, m->heard);
}

static int end_status(struct manager *m)
{
    int status = 0;
    pid_t done = 0;
    for (int i = 0; i < WAIT_MS && done == 0; i++) {
        done = waitpid(m->pid, &status, WNOHANG);
        pause_ms(1);
    }
    if (done == 0)
        kill(m->pid, SIGKILL);
    listen_in(m);
    close(m->notify);
    unlink(m->path);
    unlink(m->model);
    assert_int_not_equal(done, 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* One request over the unix socket; the answer up to the end of the connection. */
static int dial(const struct manager *m)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", m->socket);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = WAIT_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int rc = -1;
    for (int i = 0; i < WAIT_MS && (rc = connect(fd, (struct sockaddr *)&sa, sizeof sa)) != 0; i++)
        pause_ms(1);
    assert_int_equal(rc, 0);
    return fd;
}

static void ask(int fd, const char *line, const char *body)
{
    char text[1000];
    int n = snprintf(text, sizeof text,
                     "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", line,
                     strlen(body), body);
    assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
}

static void expect(int fd, const char *status, const char *part)
{
    char text[20000];
    size_t n = 0;
    for (ssize_t got; n < sizeof text - 1 && (got = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(fd);
    if (strstr(text, status) == NULL || strstr(text, part) == NULL)
        fail_msg("'%s' and '%s' are not in '%s'", status, part, text);
}

static int reset(void **state)
{
    (void)state;
    memset(strings, 0, sizeof *strings);
    return 0;
}

/* ---- tests ---- */

static void test_answers_while_it_loads_and_serves_afterwards(void **state)
{
    (void)state;
    strings->hold_loading = true;
    struct manager *m = start(NULL);
    int fd = dial(m);
    ask(fd, "GET /health", "");
    expect(fd, "HTTP/1.1 503", "\"loading\"");
    fd = dial(m);
    ask(fd, "POST /v1/completions", "{\"prompt\":\"x\"}");
    expect(fd, "HTTP/1.1 503", "Retry-After: ");
    fd = dial(m);
    ask(fd, "GET /metrics", "");
    expect(fd, "HTTP/1.1 200", "nextd:");
    wait_for(m, "EXTEND_TIMEOUT_USEC=30000000", 1);
    assert_int_equal(count(m, "READY=1"), 0);
    strings->hold_loading = false;
    wait_for(m, "READY=1", 1);
    fd = dial(m);
    ask(fd, "GET /health", "");
    expect(fd, "HTTP/1.1 200", "\"ok\"");
    kill(m->pid, SIGTERM);
    assert_int_equal(end_status(m), 0);
    assert_int_equal(count(m, "STOPPING=1"), 1);
    assert_int_equal(access(m->socket, F_OK), -1);
    free(m);
}

static void test_a_signal_stops_loading(void **state)
{
    (void)state;
    strings->hold_loading = true;
    struct manager *m = start(NULL);
    wait_for(m, "EXTEND_TIMEOUT_USEC", 1);
    kill(m->pid, SIGINT);
    assert_int_equal(end_status(m), 0);
    assert_int_equal(count(m, "READY=1"), 0);
    free(m);
}

static void test_a_file_that_does_not_load_ends_it_with_a_failure(void **state)
{
    (void)state;
    strings->fail_loading = true;
    struct manager *m = start(NULL);
    assert_int_equal(end_status(m), 1);
    assert_int_equal(count(m, "READY=1"), 0);
    free(m);
}

static void test_an_engine_fault_answers_everybody_and_ends_it_with_a_failure(void **state)
{
    (void)state;
    struct manager *m = start(NULL);
    wait_for(m, "READY=1", 1);
    int whole = dial(m), stream = dial(m);
    ask(whole, "POST /v1/completions", "{\"prompt\":\"x\"}");
    ask(stream, "POST /v1/completions", "{\"prompt\":\"x\",\"stream\":true}");
    pause_ms(100); /* both are on their way; were they not, they would be refused, which is no end with an error */
    strings->fault = true;
    expect(whole, "HTTP/1.1 500", "the device is lost");
    expect(stream, "HTTP/1.1 ", "the device is lost");
    assert_int_equal(end_status(m), 1);
    free(m);
}

static void test_the_drain_cancels_what_does_not_end(void **state)
{
    (void)state;
    struct manager *m = start(NULL);
    wait_for(m, "READY=1", 1);
    int fd = dial(m);
    ask(fd, "POST /v1/completions", "{\"prompt\":\"x\"}");
    pause_ms(100);
    kill(m->pid, SIGHUP);
    expect(fd, "HTTP/1.1 503", "error");
    assert_int_equal(end_status(m), 0);
    free(m);
}

static void test_the_watchdog_is_fed_by_idleness_and_by_steps_alone(void **state)
{
    (void)state;
    struct manager *m = start("300000");
    wait_for(m, "READY=1", 1);
    wait_for(m, "WATCHDOG=1", 3); /* idle */
    strings->busy = true;
    pause_ms(600); /* what was under way has arrived */
    int before = count(m, "WATCHDOG=1");
    pause_ms(1000);
    assert_int_equal(count(m, "WATCHDOG=1"), before); /* busy, and no step ends: starved */
    for (int i = 0; i < WAIT_MS / 10 && count(m, "WATCHDOG=1") < before + 3; i++) {
        strings->steps++;
        pause_ms(10);
    }
    assert_true(count(m, "WATCHDOG=1") >= before + 3);
    strings->busy = false;
    kill(m->pid, SIGTERM);
    assert_int_equal(end_status(m), 0);
    free(m);
}

int main(void)
{
    strings = mmap(NULL, sizeof *strings, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (strings == MAP_FAILED)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_answers_while_it_loads_and_serves_afterwards, reset),
        cmocka_unit_test_setup(test_a_signal_stops_loading, reset),
        cmocka_unit_test_setup(test_a_file_that_does_not_load_ends_it_with_a_failure, reset),
        cmocka_unit_test_setup(test_an_engine_fault_answers_everybody_and_ends_it_with_a_failure, reset),
        cmocka_unit_test_setup(test_the_drain_cancels_what_does_not_end, reset),
        cmocka_unit_test_setup(test_the_watchdog_is_fed_by_idleness_and_by_steps_alone, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* load.c: a client for a completion server on this machine that costs little: one thread, one epoll, streams read as they come.
 *
 *     load --port 8080 --streams 32 --tokens 64 --seed 7 [--pid PID] [workload.h has the rest]
 *
 * Sends a workload as POST /v1/completions with streaming and prints one line of JSON: rate, times to the first text, gaps between texts, its own
 * CPU time and, given the server's process id, the server's, split into the threads that compute (named nextd-engine and nextd-worker) and all
 * others. It speaks what nextd and llama-server have in common. Each stream has a connection of its own, open before the clock starts but for the
 * long prompts'; a request counts as sent when the kernel has its bytes, an event as come when the read that brought its end has returned.
 *
 * The answer's length is checked against the usage that the server states, and every stream has to end with [DONE]. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/workload.h"

#define LOAD_SEND_BUFFER_BYTES (4 << 20) /* a whole request: sends never wait */
#define LOAD_LINE_BYTES (64 << 10)
#define LOAD_READ_BYTES (64 << 10)

/* HEAD ──► SIZE ──► BODY ──► BODY_END ──► SIZE ... ──► TRAILER ──► DONE      (chunked transfer, as every server streams) */
enum load_state { LOAD_HEAD, LOAD_SIZE, LOAD_BODY, LOAD_BODY_END, LOAD_TRAILER, LOAD_DONE };

struct load_conn {
    struct work_item *item;
    int fd;
    enum load_state state;
    size_t chunk_left;
    char *line; /* [LOAD_LINE_BYTES] of HTTP, while it is incomplete */
    size_t n_line;
    char *sse;  /* [LOAD_LINE_BYTES] of the event stream */
    size_t n_sse;
    bool chunked, done;
    int n_output;
};

struct load {
    int port, pid;
    struct work *work;
    int epoll;
    struct load_conn *conns; /* [work->n_items] */
};

/* ---- CPU time ---- */

static double load_own_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool load_read_file(const char *path, char *out, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, out, n - 1) : -1;
    if (fd >= 0)
        close(fd);
    out[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/* Nanoseconds where the kernel tells them (sched), else clock ticks of 10 ms (stat). */
static double load_thread_cpu_s(int pid, const char *tid)
{
    char path[80], text[4096];
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/sched", pid, tid);
    const char *at = load_read_file(path, text, sizeof text) ? strstr(text, "se.sum_exec_runtime") : NULL;
    if (at != NULL && (at = strchr(at, ':')) != NULL)
        return strtod(at + 1, NULL) / 1e3;
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/stat", pid, tid);
    unsigned long user, kernel;
    at = load_read_file(path, text, sizeof text) ? strrchr(text, ')') : NULL;
    if (at == NULL || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
        return 0; /* it has just ended */
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

/* Of the server's threads, by group. */
static void load_server_cpu(int pid, double *engine_s, double *other_s)
{
    char path[80], comm[64];
    *engine_s = *other_s = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    if (dir == NULL)
        work_fail("there is no process %d", pid);
    for (struct dirent *d; (d = readdir(dir)) != NULL;) {
        if (!isdigit((unsigned char)d->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", pid, d->d_name);
        load_read_file(path, comm, sizeof comm);
        bool computes = strncmp(comm, "nextd-engine", 12) == 0 || strncmp(comm, "nextd-worker", 12) == 0;
        *(computes ? engine_s : other_s) += load_thread_cpu_s(pid, d->d_name);
    }
    closedir(dir);
}

/* ---- requests ---- */

static void load_open(struct load *l, struct load_conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)l->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, bytes = LOAD_SEND_BUFFER_BYTES;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        work_fail("port %d: %s", l->port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e) != 0)
        work_fail("port %d: %s", l->port, strerror(errno));
}

/* Words hold nothing that JSON would have to escape. */
static char *load_body(const struct work_item *item, size_t *n_out)
{
    size_t cap = 512 + (item->text != NULL ? strlen(item->text) : (size_t)item->n_ids * 12), n;
    char *body = malloc(cap);
    if (body == NULL)
        work_fail("no memory for a request");
    n = (size_t)snprintf(body, cap, "{\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                         "\"stream_options\":{\"include_usage\":true},\"prompt\":%s%s%s", item->n_tokens,
                         item->text != NULL ? "\"" : "[", item->text != NULL ? item->text : "", item->text != NULL ? "\"" : "");
    for (int i = 0; i < item->n_ids; i++)
        n += (size_t)snprintf(body + n, cap - n, "%s%d", i > 0 ? "," : "", (int)item->ids[i]);
    n += (size_t)snprintf(body + n, cap - n, item->text != NULL ? "}" : "]}");
    *n_out = n;
    return body;
}

static void load_send(struct load *l, struct work_item *item)
{
    struct load_conn *c = &l->conns[item - l->work->items];
    if (c->fd < 0)
        load_open(l, c);
    size_t n_body;
    char *body = load_body(item, &n_body), *request = malloc(n_body + 256);
    if (request == NULL)
        work_fail("no memory for a request");
    int n = snprintf(request, n_body + 256, "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s", l->port, n_body, body);
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
        work_fail("a request of %d bytes could not be sent at once: %s", n, strerror(errno));
    free(request);
    free(body);
}

/* ---- answers ---- */

static void load_sse_line(struct load *l, struct load_conn *c, const char *line, double now_s)
{
    if (strncmp(line, "data: ", 6) != 0)
        return; /* the empty line after an event, or a comment */
    if (strcmp(line + 6, "[DONE]") == 0) {
        c->done = true;
        return;
    }
    const char *text = strstr(line, "\"text\":\""), *usage = strstr(line, "\"completion_tokens\":");
    if (text == NULL && usage == NULL)
        work_fail("unexpected event: %.1000s", line);
    if (text != NULL && text[8] != '"')
        work_event(l->work, c->item, now_s);
    if (usage != NULL)
        c->n_output = (int)strtol(usage + 20, NULL, 10);
}

static void load_sse(struct load *l, struct load_conn *c, const char *p, size_t n, double now_s)
{
    const char *end;
    while ((end = memchr(p, '\n', n)) != NULL) {
        size_t n_part = (size_t)(end - p);
        if (n_part >= LOAD_LINE_BYTES - c->n_sse)
            work_fail("an event of more than %d bytes", LOAD_LINE_BYTES);
        memcpy(c->sse + c->n_sse, p, n_part);
        c->sse[c->n_sse + n_part] = '\0';
        load_sse_line(l, c, c->sse, now_s);
        c->n_sse = 0;
        n -= n_part + 1;
        p = end + 1;
    }
    if (n >= LOAD_LINE_BYTES - c->n_sse)
        work_fail("an event of more than %d bytes", LOAD_LINE_BYTES);
    memcpy(c->sse + c->n_sse, p, n);
    c->n_sse += n;
}

/* A line of HTTP without its end. */
static void load_http_line(struct load_conn *c, const char *line)
{
    if (c->state == LOAD_HEAD) {
        if (strncmp(line, "HTTP/1.", 7) == 0 && strncmp(line + 8, " 200", 4) != 0)
            work_fail("the server said: %s", line);
        c->chunked = c->chunked || strcasecmp(line, "Transfer-Encoding: chunked") == 0;
        if (line[0] != '\0')
            return;
        if (!c->chunked)
            work_fail("the answer is no stream");
        c->state = LOAD_SIZE;
    } else if (c->state == LOAD_SIZE) {
        c->chunk_left = strtoul(line, NULL, 16);
        c->state = c->chunk_left > 0 ? LOAD_BODY : LOAD_TRAILER;
    } else if (c->state == LOAD_BODY_END) {
        c->state = LOAD_SIZE;
    } else if (line[0] == '\0') {
        c->state = LOAD_DONE;
    }
}

static void load_feed(struct load *l, struct load_conn *c, const char *p, size_t n, double now_s)
{
    while (n > 0 && c->state != LOAD_DONE) {
        if (c->state == LOAD_BODY) {
            size_t n_part = n < c->chunk_left ? n : c->chunk_left;
            load_sse(l, c, p, n_part, now_s);
            c->chunk_left -= n_part;
            if (c->chunk_left == 0)
                c->state = LOAD_BODY_END;
            p += n_part;
            n -= n_part;
            continue;
        }
        char byte = *p++;
        n--;
        if (byte == '\n') {
            c->line[c->n_line > 0 && c->line[c->n_line - 1] == '\r' ? c->n_line - 1 : c->n_line] = '\0';
            c->n_line = 0;
            load_http_line(c, c->line);
        } else if (c->n_line + 1 < LOAD_LINE_BYTES) {
            c->line[c->n_line++] = byte;
        }
    }
}

static void load_read(struct load *l, struct load_conn *c, char *buffer)
{
    ssize_t n = recv(c->fd, buffer, LOAD_READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        work_fail("a stream broke off after %d events", c->item->n_events);
    double now_s = work_now_s();
    load_feed(l, c, buffer, (size_t)n, now_s);
    if (c->state != LOAD_DONE)
        return;
    if (!c->done)
        work_fail("a stream ended without [DONE]");
    work_end(l->work, c->item, c->n_output, now_s);
    close(c->fd);
}

/* ---- the run ---- */

static void load_run(struct load *l, struct work_cpu *cpu)
{
    struct epoll_event events[256];
    char *buffer = malloc(LOAD_READ_BYTES);
    if (buffer == NULL)
        work_fail("no memory");
    while (!work_all_ended(l->work)) {
        if (work_is_ready(l->work)) {
            if (l->pid > 0)
                load_server_cpu(l->pid, &cpu->engine_s, &cpu->other_s);
            cpu->client_s = load_own_cpu_s();
        }
        for (struct work_item *item; (item = work_next(l->work)) != NULL;)
            load_send(l, item);
        int n = epoll_wait(l->epoll, events, 256, 60000);
        if (n == 0)
            work_fail("nothing came for 60 s");
        for (int i = 0; i < n; i++)
            load_read(l, events[i].data.ptr, buffer);
    }
    cpu->client_s = load_own_cpu_s() - cpu->client_s;
    if (l->pid > 0) {
        double engine_s, other_s;
        load_server_cpu(l->pid, &engine_s, &other_s);
        cpu->engine_s = engine_s - cpu->engine_s;
        cpu->other_s = other_s - cpu->other_s;
    }
    free(buffer);
}

static void load_init(struct load *l, const struct work_options *opt)
{
    l->work = work_create(opt);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->conns = calloc((size_t)l->work->n_items + 1, sizeof *l->conns);
    for (int i = 0; i < l->work->n_items && l->conns != NULL; i++) {
        struct load_conn *c = &l->conns[i];
        *c = (struct load_conn){.item = &l->work->items[i], .fd = -1, .line = malloc(LOAD_LINE_BYTES), .sse = malloc(LOAD_LINE_BYTES)};
        if (c->line == NULL || c->sse == NULL)
            work_fail("no memory for %d connections", l->work->n_items);
        if (c->item->kind != WORK_LONG)
            load_open(l, c);
    }
}

static void load_finish(struct load *l)
{
    for (int i = 0; i < l->work->n_items; i++) {
        free(l->conns[i].line);
        free(l->conns[i].sse);
    }
    free(l->conns);
    close(l->epoll);
    work_destroy(l->work);
}

static bool load_option(void *arg, const char *name, const char *value)
{
    struct load *l = arg;
    if (strcmp(name, "--port") == 0)
        l->port = work_number(name, value, 1);
    else if (strcmp(name, "--pid") == 0)
        l->pid = work_number(name, value, 1);
    else
        return false;
    return true;
}

int main(int argc, char **argv)
{
    struct load l = {0};
    struct work_cpu cpu = {-1, -1, -1};
    struct work_options opt = work_parse(argc, argv, load_option, &l);
    if (l.port == 0)
        work_fail("--port is missing");
    load_init(&l, &opt);
    load_run(&l, &cpu);
    work_report(l.work, &cpu);
    load_finish(&l);
    return 0;
}

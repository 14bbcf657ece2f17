/* serve.c: the daemon's life.
 *
 *   LOADING ---- model is loaded ----> SERVING ---- SIGTERM, SIGINT ----> DRAINING ---- all have ended, or time is over ----> ENDED
 *      \  \                               \                                   |  a second signal, drain_timeout_s: cancel all
 *       \  SIGTERM ----------------------- \ -------------------------------> |
 *        load fails ----> ENDED (1)         engine fault ---> DRAINING (1) ---+
 *
 * The sockets are open from the start, so that nothing is lost while the model loads: clients get 503 with Retry-After. The model is loaded on a
 * thread of its own; it reports by an atomic counter and one uv_async. One timer ticks four times a second and does everything that is periodic:
 * progress, systemd's timeouts and watchdog, a look at the engine's health, the drain's clocks.
 *
 * The watchdog is fed when the engine is idle or has finished a step since the last time; a hung step starves it, and systemd restarts us. */
#include "server/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/app.h"
#include "server/http.h"
#include "server/keys.h"
#include "server/log.h"
#include "server/notify.h"

#define SERVE_TICK_MS 250
#define SERVE_LINGER_MS 2000  /* cancelled requests' last bytes may take so long to go out */
#define SERVE_GIVE_UP_MS 10000 /* after cancelling: an engine that does not answer any more is left behind */
#define SERVE_FILE_BYTES ((size_t)1 << 20)
#define SERVE_MAX_FDS 4

enum serve_state { SERVE_LOADING, SERVE_SERVING, SERVE_DRAINING, SERVE_ENDED };

struct serve {
    const struct options *opt;
    struct log log;
    struct keys *keys;
    char *chat_template, *tls_cert, *tls_key; /* contents, or NULL */
    size_t n_chat_template;
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t tick;
    uv_async_t loaded;
    uv_thread_t loader;
    struct app *app;
    struct http *http;
    struct engine *engine;
    enum serve_state state;
    int status; /* what the process will return */
    bool cancelled;
    bool hung;
    uint64_t drain_from_ms, cancel_from_ms;
    /* the loader's */
    _Atomic bool stop_loading;
    struct engine *loaded_engine;
    struct err load_err;
    _Atomic uint64_t load_done, load_total;
    /* periodic */
    uint64_t watchdog_ms, fed_ms, fed_steps, told_ms;
    bool terminal; /* standard error is one: progress is drawn in place */
};

/* ---- what is read before anything is opened ---- */

/* The whole file, NUL-terminated; NULL and err when it cannot be had. */
static char *serve_read_file(const char *path, const char *what, size_t *n_out, struct err *err)
{
    FILE *f = fopen(path, "re");
    char *p = f == NULL ? NULL : malloc(SERVE_FILE_BYTES + 1);
    if (p == NULL) {
        err_set(err, ERR_IO, "cannot read the %s in %s: %s", what, path, strerror(errno));
        if (f != NULL)
            fclose(f);
        return NULL;
    }
    size_t n = fread(p, 1, SERVE_FILE_BYTES + 1, f);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad || n > SERVE_FILE_BYTES) {
        err_set(err, ERR_IO, "the %s in %s cannot be read or is over %zu bytes", what, path, SERVE_FILE_BYTES);
        free(p);
        return NULL;
    }
    p[n] = '\0';
    *n_out = n;
    return p;
}

static int serve_read_files(struct serve *s, struct err *err)
{
    const struct options *o = s->opt;
    size_t n;
    if (o->model[0] == '\0')
        return err_set_param(err, ERR_INVALID, "model", "no model: give one with -m FILE");
    if (access(o->model, R_OK) != 0)
        return err_set_param(err, ERR_IO, "model", "cannot read the model %s: %s", o->model, strerror(errno));
    if (o->chat_template[0] != '\0' && (s->chat_template = serve_read_file(o->chat_template, "chat template", &s->n_chat_template, err)) == NULL)
        return -1;
    if (o->tls_cert[0] != '\0' && (s->tls_cert = serve_read_file(o->tls_cert, "TLS certificate", &n, err)) == NULL)
        return -1;
    if (o->tls_key[0] != '\0' && (s->tls_key = serve_read_file(o->tls_key, "TLS key", &n, err)) == NULL)
        return -1;
    return o->api_keys[0] == '\0' ? 0 : keys_load(o->api_keys, &s->keys, err);
}

/* Room for max_connections sockets on each listener. */
static void serve_raise_fd_limit(struct serve *s, int n_listeners)
{
    rlim_t want = (rlim_t)s->opt->max_connections * (rlim_t)n_listeners + 128;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < want)
        log_warn(&s->log, "only %llu files may be open; %llu are wanted for max_connections = %d", (unsigned long long)limit.rlim_cur,
                 (unsigned long long)want, s->opt->max_connections);
}

/* ---- opening ---- */

static void serve_log_line(void *arg, const char *line)
{
    const struct serve *s = arg;
    log_info(&s->log, "%s", line);
}

static int serve_create_app(struct serve *s, struct err *err)
{
    const struct options *o = s->opt;
    struct app_options a;
    app_options_default(&a);
    a.alias = o->alias[0] == '\0' ? NULL : o->alias;
    a.chat_template = s->chat_template;
    a.chat_template_bytes = s->n_chat_template;
    a.ignore_unknown_fields = o->unknown_fields == OPTIONS_UNKNOWN_IGNORE;
    a.server_wide_prefix_cache = o->prefix_cache_scope == OPTIONS_SCOPE_SERVER;
    a.keepalive_s = o->keepalive_s;
    a.max_body_bytes = o->max_body_bytes;
    a.max_choices = o->max_n;
    a.max_prompts = o->max_prompts;
    a.max_stops = o->max_stops;
    a.max_stop_bytes = o->max_stop_bytes;
    a.max_bias = o->max_bias;
    a.json_depth = o->json_depth;
    a.json_nodes = o->json_nodes;
    a.cors_origins = o->cors_origins[0] == NULL ? NULL : o->cors_origins;
    a.keys = s->keys;
    a.log = serve_log_line;
    a.log_arg = s;
    return app_create(&a, &s->loop, &s->app, err);
}

/* Inherited sockets take the place of host, port and unix. */
static int serve_listen(struct serve *s, struct err *err)
{
    const struct options *o = s->opt;
    int fds[SERVE_MAX_FDS];
    int n_fds = notify_listen_fds(fds, SERVE_MAX_FDS);
    if (n_fds > SERVE_MAX_FDS)
        return err_set(err, ERR_INVALID, "%d sockets were handed over; %d is the most", n_fds, SERVE_MAX_FDS);
    bool tcp = n_fds == 0 && o->host[0] != '\0';
    bool loopback = !tcp || http_address_is_loopback(o->host);
    for (int i = 0; i < n_fds; i++)
        loopback = loopback && http_socket_is_loopback(fds[i]);
    if (!loopback && s->keys == NULL && !o->insecure)
        return err_set_param(err, ERR_INVALID, "host", "beyond this machine anyone could use the model: give --api-keys FILE, or --insecure");
    if (!loopback && s->keys == NULL)
        log_warn(&s->log, "insecure: whoever can reach the port can use the model");
    else if (!loopback && s->tls_cert == NULL)
        log_warn(&s->log, "API keys and texts travel in the clear; --tls-cert and --tls-key, or a proxy that speaks TLS, would hide them");
    serve_raise_fd_limit(s, n_fds > 0 ? n_fds : tcp + (o->unix_path[0] != '\0'));
    struct http_options h = {
        .host = tcp ? o->host : NULL,
        .port = o->port,
        .unix_path = n_fds == 0 && o->unix_path[0] != '\0' ? o->unix_path : NULL,
        .listen_fds = fds,
        .n_listen_fds = n_fds,
        .tls_cert_pem = s->tls_cert,
        .tls_key_pem = s->tls_key,
        .max_connections = o->max_connections,
        .max_body_bytes = o->max_body_bytes,
        .max_header_bytes = o->max_header_bytes,
        .idle_timeout_s = o->idle_timeout_s,
        .request_timeout_s = o->request_timeout_s,
        .write_stall_s = o->write_stall_s,
        .hosts = o->allowed_hosts,
        .check_host = true,
        .log = &s->log,
    };
    if (http_open(&s->loop, &h, app_callbacks(s->app), &s->http, err) != 0)
        return -1;
    app_set_http(s->app, s->http);
    return 0;
}

/* ---- loading ---- */

static void serve_on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct serve *s = arg;
    s->load_total = total;
    s->load_done = done;
    app_progress(s->app, done, total);
}

static void serve_load(void *arg)
{
    struct serve *s = arg;
    const struct options *o = s->opt;
    struct engine_options e = {
        .model_path = o->model,
        .device = o->device,
        .n_threads = o->threads,
        .n_ctx = o->ctx,
        .n_kv_tokens = o->kv_tokens,
        .max_seqs = o->max_seqs,
        .max_queue = o->queue,
        .chunk = o->chunk,
        .prefix_cache = o->prefix_cache,
        .notify = app_notify,
        .notify_arg = s->app,
        .progress = serve_on_progress,
        .progress_arg = s,
        .stop_loading = &s->stop_loading,
    };
    if (engine_open(&e, &s->loaded_engine, &s->load_err) != 0)
        s->loaded_engine = NULL;
    uv_async_send(&s->loaded);
}

/* The plan: what the options and the machine came to. */
static void serve_say_plan(struct serve *s)
{
    const struct engine_info *i = engine_info(s->engine);
    log_info(&s->log, "model %s: %s, %.1f M parameters, tokenizer %s, sha256 %.12s", i->model_stem, i->architecture, (double)i->n_params / 1e6,
             i->tokenizer_kind, i->model_sha256);
    log_info(&s->log, "plan: %s, %d threads; weights %.0f MiB; KV pool %d tokens, %.0f MiB; context %d of %d; %d sequences at once, %d may wait; "
             "chunk %d", i->device, i->n_threads, (double)i->weight_bytes / 1048576, i->n_kv_tokens, (double)i->kv_bytes / 1048576, i->n_ctx,
             i->n_ctx_train, i->max_seqs, i->max_queue, i->chunk);
    if (i->n_graphs > 0)
        log_info(&s->log, "decode graphs: %d of %d launches, captured in %.0f ms, %.1f MiB", i->n_graphs, i->graph_nodes, i->graph_ms,
                 (double)i->graph_bytes / 1048576);
    if (i->device_note != NULL && i->device_note[0] != '\0')
        log_info(&s->log, "device auto: %s", i->device_note);
    log_info(&s->log, "numerics %s", i->numerics);
    const char *why = app_chat_template_error(s->app);
    if (why != NULL)
        log_warn(&s->log, "no chat: %s", why);
}

static void serve_say_curl(struct serve *s)
{
    const struct options *o = s->opt;
    bool chat = app_chat_template_error(s->app) == NULL && (s->chat_template != NULL || engine_info(s->engine)->chat_template != NULL);
    char base[300] = "";
    int port = http_port(s->http);
    bool any = strcmp(o->host, "0.0.0.0") == 0 || strcmp(o->host, "::") == 0 || o->host[0] == '\0';
    if (port != 0)
        snprintf(base, sizeof base, "%s://%s:%d", s->tls_cert != NULL ? "https" : "http", any ? "127.0.0.1" : o->host, port);
    else
        snprintf(base, sizeof base, "--unix-socket %.200s http://localhost", o->unix_path);
    log_info(&s->log, "ready: curl %s%s%s/v1/%s -H 'Content-Type: application/json' -d '%s'",
             s->keys != NULL ? "-H \"Authorization: Bearer $KEY\" " : "", s->tls_cert != NULL && port != 0 ? "-k " : "", base,
             chat ? "chat/completions" : "completions",
             chat ? "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}" : "{\"prompt\":\"Once upon a time\"}");
}

static void serve_end(struct serve *s, int status)
{
    s->state = SERVE_ENDED;
    s->status = s->status != 0 ? s->status : status;
    uv_stop(&s->loop);
}

static void serve_on_loaded(uv_async_t *a)
{
    struct serve *s = a->data;
    uv_thread_join(&s->loader); /* waking us was the last thing it did */
    s->engine = s->loaded_engine;
    if (s->terminal)
        fputs("\r\033[K", stderr);
    struct err err = s->load_err;
    bool stopped = s->state != SERVE_LOADING;
    if (s->engine == NULL || (!stopped && app_set_engine(s->app, s->engine, &err) != 0)) {
        if (!stopped)
            log_error(&s->log, "%s", err.msg);
        serve_end(s, stopped ? 0 : 1);
        return;
    }
    if (stopped) {
        serve_end(s, 0);
        return;
    }
    s->state = SERVE_SERVING;
    serve_say_plan(s);
    serve_say_curl(s);
    notify_ready("serving");
    s->fed_ms = uv_now(&s->loop);
}

/* ---- the tick ---- */

static void serve_show_loading(struct serve *s, uint64_t now)
{
    uint64_t total = s->load_total, done = s->load_done;
    int percent = total == 0 ? 0 : (int)(done * 100 / total);
    if (s->terminal && total > 0)
        fprintf(stderr, "\rloading: %3d %% of %.0f MiB\033[K", percent, (double)total / 1048576);
    if (s->told_ms != 0 && now - s->told_ms < 1000)
        return;
    s->told_ms = now;
    char status[64];
    snprintf(status, sizeof status, "loading the model, %d %%", percent);
    notify_extend(status, 30);
}

static void serve_feed(struct serve *s, uint64_t now, const struct engine_stats *stats)
{
    if (s->watchdog_ms == 0 || now - s->fed_ms < s->watchdog_ms / 3 || (!stats->idle && stats->steps == s->fed_steps))
        return;
    s->fed_ms = now;
    s->fed_steps = stats->steps;
    notify_alive();
}

static void serve_cancel(struct serve *s, const char *why)
{
    if (s->cancelled)
        return;
    s->cancelled = true;
    s->cancel_from_ms = uv_now(&s->loop);
    size_t n = app_active_count(s->app);
    if (n > 0)
        log_warn(&s->log, "%s: %zu requests are cancelled", why, n);
    app_cancel_all(s->app);
}

static void serve_drain(struct serve *s, const char *why)
{
    s->state = SERVE_DRAINING;
    s->drain_from_ms = uv_now(&s->loop);
    log_info(&s->log, "%s: taking no more requests, %zu run", why, app_active_count(s->app));
    notify_stopping("finishing requests");
    app_begin_drain(s->app);
    http_quiesce(s->http);
}

/* Loading stops when the loader says so; everything else when all requests have ended and their bytes are out. */
static void serve_look_at_drain(struct serve *s, uint64_t now)
{
    if (s->engine == NULL)
        return;
    size_t active = app_active_count(s->app);
    if (active == 0 && http_n_busy(s->http) == 0) {
        serve_end(s, 0);
    } else if (!s->cancelled) {
        if (now - s->drain_from_ms >= (uint64_t)s->opt->drain_timeout_s * 1000)
            serve_cancel(s, "drain_timeout_s is over");
    } else if (active == 0 && now - s->cancel_from_ms > SERVE_LINGER_MS) {
        serve_end(s, 0);
    } else if (now - s->cancel_from_ms > SERVE_GIVE_UP_MS) {
        log_error(&s->log, "%zu requests do not end: the engine does not answer", active);
        s->hung = true;
        serve_end(s, 1);
    }
}

static void serve_on_tick(uv_timer_t *t)
{
    struct serve *s = t->data;
    uint64_t now = uv_now(&s->loop);
    if (s->state == SERVE_LOADING)
        serve_show_loading(s, now);
    if (s->engine != NULL) {
        struct engine_stats stats;
        engine_stats(s->engine, &stats);
        serve_feed(s, now, &stats);
        if (stats.faulted && s->status == 0) {
            log_error(&s->log, "the engine has failed; every request ends with an error, and so does nextd");
            s->status = 1;
            if (s->state == SERVE_SERVING)
                serve_drain(s, "engine fault");
            serve_cancel(s, "engine fault");
        }
    }
    if (s->state == SERVE_DRAINING)
        serve_look_at_drain(s, now);
}

static void serve_on_signal(uv_signal_t *h, int number)
{
    struct serve *s = h->data;
    const char *name = number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGHUP";
    s->stop_loading = true;
    if (s->state == SERVE_DRAINING)
        serve_cancel(s, "a second signal");
    else if (s->state != SERVE_ENDED)
        serve_drain(s, name);
}

/* ---- life ---- */

static int serve_start(struct serve *s, struct err *err)
{
    if (serve_read_files(s, err) != 0 || serve_create_app(s, err) != 0 || serve_listen(s, err) != 0)
        return -1;
    s->watchdog_ms = notify_watchdog_ms();
    uv_signal_start(&s->term, serve_on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, serve_on_signal, SIGINT);
    uv_signal_start(&s->hangup, serve_on_signal, SIGHUP); /* the terminal was closed */
    uv_timer_start(&s->tick, serve_on_tick, 0, SERVE_TICK_MS);
    if (uv_thread_create(&s->loader, serve_load, s) != 0)
        return err_set(err, ERR_NOMEM, "no thread to be had for loading");
    return 0;
}

static void serve_init(struct serve *s, const struct options *opt)
{
    *s = (struct serve){.opt = opt, .terminal = isatty(STDERR_FILENO) == 1};
    log_init(&s->log, STDERR_FILENO, (enum log_level)opt->log_level);
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&s->loop);
    uv_signal_init(&s->loop, &s->term);
    uv_signal_init(&s->loop, &s->interrupt);
    uv_signal_init(&s->loop, &s->hangup);
    uv_timer_init(&s->loop, &s->tick);
    uv_async_init(&s->loop, &s->loaded, serve_on_loaded);
    s->term.data = s->interrupt.data = s->hangup.data = s->tick.data = s->loaded.data = s;
}

static void serve_finish(struct serve *s)
{
    http_close(s->http);
    app_destroy(s->app);
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->interrupt, NULL);
    uv_close((uv_handle_t *)&s->hangup, NULL);
    uv_close((uv_handle_t *)&s->tick, NULL);
    uv_close((uv_handle_t *)&s->loaded, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    engine_close(s->engine);
    uv_loop_close(&s->loop);
    keys_free(s->keys);
    free(s->chat_template);
    free(s->tls_cert);
    if (s->tls_key != NULL)
        explicit_bzero(s->tls_key, strlen(s->tls_key));
    free(s->tls_key);
}

int serve_run(const struct options *opt)
{
    struct serve s;
    serve_init(&s, opt);
    struct err err = {0};
    if (serve_start(&s, &err) != 0) {
        log_error(&s.log, "%s", err.msg);
        s.status = 1;
    } else {
        uv_run(&s.loop, UV_RUN_DEFAULT);
    }
    if (s.hung)
        _exit(s.status); /* joining a thread that hangs would hang us, too */
    serve_finish(&s);
    log_info(&s.log, "ended with status %d", s.status);
    return s.status;
}

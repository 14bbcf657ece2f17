/* app.c: puts the service together and takes it apart. See app.h for the order, call.h for the life of a request.
 *
 * Nothing here blocks and nothing is global: an app belongs to one loop, and a process may hold several. */
#include "server/app.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "server/app_state.h"
#include "server/bridge.h"
#include "server/call.h"
#include "server/chat/chat_template.h"
#include "server/completion.h"
#include "server/routes.h"

#define APP_MAX_MESSAGES 4096
#define APP_MAX_SCRATCH_BYTES (512u << 20) /* an echoed prompt with logprobs is one event */
#define APP_TICK_MS 1000

void app_options_default(struct app_options *opt)
{
    *opt = (struct app_options){
        .keepalive_s = 15,
        .max_body_bytes = 4u << 20,
        .max_choices = ENGINE_MAX_CHOICES,
        .max_prompts = 128,
        .max_stops = ENGINE_MAX_STOPS,
        .max_stop_bytes = ENGINE_MAX_STOP_BYTES,
        .max_bias = ENGINE_MAX_BIAS,
        .json_depth = 64,
        .json_nodes = (1 << 20) + 1024,
    };
}

/* ---- small services ---- */

int64_t app_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec;
}

static void app_random(void *out, size_t n)
{
    /* Requests of up to 256 bytes are never cut short nor interrupted once the pool is ready. */
    while (getrandom(out, n, 0) != (ssize_t)n && errno == EINTR) {
    }
}

uint64_t app_random_u64(void)
{
    uint64_t v = 0;
    app_random(&v, sizeof v);
    return v;
}

void app_random_name(char *out, size_t n)
{
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    app_random(out, n);
    for (size_t i = 0; i < n; i++)
        out[i] = letters[(unsigned char)out[i] % (sizeof letters - 1)];
    out[n] = '\0';
}

/* ---- http callbacks ---- */

static bool app_on_accept(void *ctx, struct http_exchange *x, void **user_out)
{
    return routes_accept(ctx, x, user_out);
}

static void app_on_handle(void *ctx, struct http_exchange *x, const char *body, size_t n)
{
    (void)ctx;
    routes_handle(http_user(x), body, n);
}

static void app_on_drained(void *ctx, struct http_exchange *x)
{
    struct call *c = http_user(x);
    (void)ctx;
    if (c->completion != NULL)
        completion_drained(c->completion);
}

static void app_on_gone(void *ctx, struct http_exchange *x, const char *why)
{
    (void)ctx;
    call_gone(http_user(x), why);
}

static void app_on_closed(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    call_closed(http_user(x));
}

/* ---- the loop's handles ---- */

static void app_on_wake(uv_poll_t *handle, int status, int events)
{
    struct app *app = handle->data;
    uint64_t n_calls;
    (void)status;
    (void)events;
    if (read(app->wake_fd, &n_calls, sizeof n_calls) == sizeof n_calls)
        bridge_poll(app);
}

static void app_on_tick(uv_timer_t *handle)
{
    struct app *app = handle->data;
    uint64_t now = uv_hrtime();
    for (struct call *c = app->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->completion != NULL)
            completion_tick(c->completion, now);
    }
}

static void app_on_handle_closed(uv_handle_t *handle)
{
    struct app *app = handle->data;
    app->n_handles--;
    app_release(app);
}

static int app_open_handles(struct app *app, struct err *err)
{
    app->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (app->wake_fd < 0 || uv_poll_init(app->loop, &app->wake, app->wake_fd) != 0)
        return err_set(err, ERR_IO, "the loop cannot be woken: no event descriptor is to be had");
    app->wake.data = app;
    app->n_handles++;
    uv_poll_start(&app->wake, UV_READABLE, app_on_wake);
    uv_timer_init(app->loop, &app->tick); /* cannot fail */
    app->tick.data = app;
    app->n_handles++;
    uv_timer_start(&app->tick, app_on_tick, APP_TICK_MS, APP_TICK_MS);
    return 0;
}

/* ---- life ---- */

static struct api_limits app_limits(const struct app_options *opt)
{
    return (struct api_limits){
        .max_choices = opt->max_choices,
        .max_prompts = opt->max_prompts,
        .max_stops = opt->max_stops,
        .max_stop_bytes = opt->max_stop_bytes,
        .max_bias = opt->max_bias,
        .max_messages = APP_MAX_MESSAGES,
        .json_depth = opt->json_depth,
        .json_values = (size_t)opt->json_nodes,
        .ignore_unknown = opt->ignore_unknown_fields,
    };
}

int app_create(const struct app_options *opt, uv_loop_t *loop, struct app **out, struct err *err)
{
    struct app *app = calloc(1, sizeof *app);
    if (app == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the service");
    app->opt = *opt;
    app->loop = loop;
    app->limits = app_limits(opt);
    json_object_seed(0); /* from the system's randomness, before any pool thread parses: names must not be made to collide */
    metrics_init(&app->metrics);
    buf_init(&app->scratch, APP_MAX_SCRATCH_BYTES);
    app->callbacks = (struct http_callbacks){
        .accept = app_on_accept,
        .handle = app_on_handle,
        .drained = app_on_drained,
        .gone = app_on_gone,
        .closed = app_on_closed,
        .ctx = app,
    };
    if (app_open_handles(app, err) != 0) {
        if (app->wake_fd >= 0)
            close(app->wake_fd);
        free(app);
        return -1;
    }
    *out = app;
    return 0;
}

void app_release(struct app *app)
{
    if (!app->destroyed || app->n_handles > 0 || app->calls != NULL)
        return;
    chat_template_destroy(app->template);
    buf_finish(&app->scratch);
    close(app->wake_fd);
    free(app);
}

void app_destroy(struct app *app)
{
    if (app == NULL)
        return;
    for (struct call *c = app->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->completion != NULL)
            completion_drop(c->completion);
    }
    app->destroyed = true;
    uv_close((uv_handle_t *)&app->wake, app_on_handle_closed);
    uv_close((uv_handle_t *)&app->tick, app_on_handle_closed);
}

const struct http_callbacks *app_callbacks(const struct app *app)
{
    return &app->callbacks;
}

void app_set_http(struct app *app, struct http *http)
{
    app->http = http;
}

/* ---- the model ---- */

static int app_compile_template(struct app *app, const struct engine_info *info, struct err *err)
{
    struct err why;
    if (app->opt.chat_template != NULL)
        return chat_template_compile(app->opt.chat_template, app->opt.chat_template_bytes, &app->template, err);
    if (info->chat_template == NULL) {
        snprintf(app->template_error, sizeof app->template_error, "the model has no chat template; start the server with --chat-template FILE");
    } else if (chat_template_compile(info->chat_template, strlen(info->chat_template), &app->template, &why) != 0) {
        snprintf(app->template_error, sizeof app->template_error, "%.300s; start the server with --chat-template FILE", why.msg);
    }
    return 0;
}

/* The numerics' name and the model's digest in one word: equal fingerprints mean equal bits. */
static void app_name_bits(struct app *app, const struct engine_info *info)
{
    size_t n = 0;
    for (const char *c = info->numerics; *c != '\0' && n < sizeof app->fingerprint - 16; c++) {
        bool part = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || *c == '.' || *c == '_';
        if (part || (n > 0 && app->fingerprint[n - 1] != '-'))
            app->fingerprint[n++] = part ? *c : '-';
    }
    snprintf(app->fingerprint + n, sizeof app->fingerprint - n, "-%.12s", info->model_sha256);
}

int app_set_engine(struct app *app, struct engine *engine, struct err *err)
{
    const struct engine_info *info = engine_info(engine);
    if (app_compile_template(app, info, err) != 0)
        return -1;
    app_name_bits(app, info);
    app->prepare = (struct prepare_context){
        .engine = engine,
        .info = info,
        .template = app->template,
        .template_error = app->template_error,
        .model_name = app->opt.alias != NULL ? app->opt.alias : info->model_stem,
        .limits = &app->limits,
    };
    app->info = info;
    app->engine = engine;
    return 0;
}

const char *app_chat_template_error(const struct app *app)
{
    return app->template == NULL && app->template_error[0] != '\0' ? app->template_error : NULL;
}

/* ---- the end ---- */

void app_begin_drain(struct app *app)
{
    app->draining = true;
    if (app->engine != NULL)
        engine_drain(app->engine);
}

size_t app_active_count(const struct app *app)
{
    return app->n_active;
}

void app_cancel_all(struct app *app)
{
    app->draining = true;
    for (struct call *c = app->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->completion != NULL)
            completion_cancel(c->completion);
    }
}

/* Not uv_async_send: it raises a flag, writes to its descriptor and lowers the flag, and the loop waits for that by yielding. Woken on the engine
 * thread's processor it preempts the sender between the two, and a stream's token comes milliseconds late. */
void app_notify(void *arg)
{
    static const uint64_t one = 1;
    struct app *app = arg;
    while (write(app->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    } /* a full counter cannot be: it takes 2^64 calls that nobody reads */
}

void app_progress(void *arg, uint64_t done, uint64_t total)
{
    struct app *app = arg;
    app->loading_done = done;
    app->loading_total = total;
}

/* app.h: the OpenAI-style service between HTTP and the engine. The one header that server/serve.c needs of it.
 *
 * The order of a life: app_create -> http_open(loop, ..., app_callbacks(app)) -> app_set_http -> [engine_open on some thread, with app_notify as
 * `notify` and app_progress as `progress`] -> app_set_engine on the loop. Until then every route but /health and /metrics answers 503 with
 * Retry-After. The end: app_begin_drain; when app_active_count is 0, or the drain time is over and app_cancel_all was called and it is 0:
 * http_close, app_destroy, run the loop until its handles are closed, engine_close.
 *
 * Threads: the loop's, except where a line says "any". */
#ifndef NEXTD_APP_H
#define NEXTD_APP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "engine/err.h"

struct app;
struct engine;
struct http;
struct http_callbacks;
struct keys;

/* Strings and arrays must live as long as the app. app_options_default fills in every figure. */
struct app_options {
    const char *alias;              /* the model's name in the API; NULL: the file's stem */
    const char *chat_template;      /* source that replaces the model's own; NULL: the model's own */
    size_t chat_template_bytes;
    bool ignore_unknown_fields;     /* false: 400; true: served, their names come back in X-Nextd-Ignored-Fields */
    bool server_wide_prefix_cache;  /* false: pages are shared among requests of one key only */
    int keepalive_s;                /* a silent stream gets a comment after so long; 0: never */
    size_t max_body_bytes;          /* over it: 413 */
    int max_choices, max_prompts, max_stops, max_stop_bytes, max_bias;
    int json_depth;                 /* of a request body */
    int json_nodes;                 /* values in a request body */
    const char *const *cors_origins; /* NULL-terminated list of origins that browsers may come from; "*": any; NULL: none */
    const struct keys *keys;        /* NULL: no key is needed */
    void (*log)(void *arg, const char *line); /* one line per finished request, without newline; NULL: none */
    void *log_arg;
};
void app_options_default(struct app_options *opt);

int app_create(const struct app_options *opt, uv_loop_t *loop, struct app **out, struct err *err);
/* Nothing may be active (app_active_count is 0) and HTTP must be closed. Closes its handles; the memory goes with the last of them. NULL is fine. */
void app_destroy(struct app *app);

/* What http_open wants; owned by the app. */
const struct http_callbacks *app_callbacks(const struct app *app);
void app_set_http(struct app *app, struct http *http);

/* The model is there: requests are taken from now on. Fails only where opt.chat_template does not compile; a model's own template that does not
 * compile makes chat a 400 that says why. The engine stays the caller's and must outlive the app. */
int app_set_engine(struct app *app, struct engine *engine, struct err *err);
/* The sentence why the model's own template is of no use, or NULL. For one line at start. */
const char *app_chat_template_error(const struct app *app);

/* New requests get 503 with Retry-After from now on; those that run go on. */
void app_begin_drain(struct app *app);
/* Requests that have not had their end yet, those in libuv's pool included. */
size_t app_active_count(const struct app *app);
/* Ends all of them: each gets its terminal event or error. */
void app_cancel_all(struct app *app);

/* For engine_options: `arg` is the app. Any thread, from app_create until engine_close. */
void app_notify(void *arg);
void app_progress(void *arg, uint64_t done, uint64_t total);

#endif

/* service.h: a whole service on a loop, with a fake HTTP in front and a fake engine behind, both played by hand. Included by exactly one file of a
 * test program. */
#ifndef NEXTD_TESTS_SERVICE_H
#define NEXTD_TESTS_SERVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-function" /* each program uses its part of this */

#include "server/app.h"
#include "tests/server/fake_engine.h"
#include "tests/server/fake_http.h"

#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

struct service {
    uv_loop_t loop;
    struct app *app;
    char log[4096];
};
static struct service sv;

static void on_log(void *arg, const char *line)
{
    (void)arg;
    snprintf(sv.log, sizeof sv.log, "%s", line);
}

static void start_with(const struct app_options *opt)
{
    struct err err;
    assert_int_equal(uv_loop_init(&sv.loop), 0);
    assert_int_equal(app_create(opt, &sv.loop, &sv.app, &err), 0);
}

static struct app_options options(void)
{
    struct app_options opt;
    app_options_default(&opt);
    opt.log = on_log;
    return opt;
}

static void load(void)
{
    struct err err;
    assert_int_equal(app_set_engine(sv.app, fake_engine(), &err), 0);
}

static int start(void **state)
{
    struct app_options opt = options();
    (void)state;
    fake_reset();
    sv.log[0] = '\0';
    start_with(&opt);
    load();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    if (app_active_count(sv.app) != 0)
        return -1; /* something leaked */
    app_destroy(sv.app);
    uv_run(&sv.loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&sv.loop);
    fake_reset();
    return rc;
}

static void restart_with(const struct app_options *opt)
{
    assert_int_equal(stop(NULL), 0);
    start_with(opt);
}

static struct http_exchange *send_with(const char *method, const char *path, const char *const *headers, const char *body)
{
    const struct http_callbacks *cb = app_callbacks(sv.app);
    struct http_exchange *x = fake_exchange(method, path, headers);
    x->content_length = strlen(body);
    x->accepted = cb->accept(cb->ctx, x, &x->user);
    if (x->accepted)
        cb->handle(cb->ctx, x, body, strlen(body));
    return x;
}

static struct http_exchange *post(const char *path, const char *body)
{
    static const char *const headers[] = {"Content-Type", "application/json", NULL};
    return send_with("POST", path, headers, body);
}

static struct http_exchange *get(const char *path)
{
    return send_with("GET", path, NULL, "");
}

/* Lets the service hear what the fake engine said. */
static void hear(void)
{
    app_notify(sv.app);
    uv_run(&sv.loop, UV_RUN_NOWAIT);
}

static void gone(struct http_exchange *x, const char *why)
{
    const struct http_callbacks *cb = app_callbacks(sv.app);
    cb->gone(cb->ctx, x, why);
}

static void close_exchange(struct http_exchange *x)
{
    const struct http_callbacks *cb = app_callbacks(sv.app);
    if (x->accepted && !x->closed) {
        x->closed = true;
        cb->closed(cb->ctx, x);
    }
    fake_exchange_free(x);
}

/* "choices.0.text" */
static const json_t *find(const json_t *v, const char *path)
{
    char name[64];
    while (*path != '\0' && v != NULL) {
        size_t n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        v = json_is_array(v) ? json_array_get(v, (size_t)atoi(name)) : json_object_get(v, name);
        path += n + (path[n] == '.');
    }
    return v;
}

static json_t *parse(const char *text, size_t n)
{
    json_error_t e;
    json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
    if (v == NULL)
        fail_msg("not JSON: %s: %.*s", e.text, (int)n, text);
    return v;
}

static json_t *body_of(const struct http_exchange *x)
{
    return parse(x->body.p != NULL ? x->body.p : "", x->body.n);
}

static void assert_text(const json_t *v, const char *path, const char *want)
{
    const json_t *s = find(v, path);
    if (!json_is_string(s))
        fail_msg("%s is no string", path);
    assert_string_equal(json_string_value(s), want);
}

static void assert_number(const json_t *v, const char *path, long long want)
{
    const json_t *i = find(v, path);
    if (!json_is_integer(i))
        fail_msg("%s is no integer", path);
    assert_int_equal(json_integer_value(i), want);
}

static void assert_error(const struct http_exchange *x, int status, const char *code, const char *param)
{
    assert_int_equal(x->n_replies, 1);
    assert_int_equal(x->status, status);
    assert_non_null(strstr(x->reply_headers, "X-Request-Id: "));
    json_t *v = body_of(x);
    assert_true(json_string_length(find(v, "error.message")) > 0);
    assert_true(json_is_string(find(v, "error.type")));
    if (code != NULL)
        assert_text(v, "error.code", code);
    else
        assert_true(json_is_null(find(v, "error.code")));
    if (param != NULL)
        assert_text(v, "error.param", param);
    json_decref(v);
}

/* The next event of a stream: its JSON, or NULL for comments and [DONE] (named in *what). */
static json_t *next_event(const char **at, const char **what)
{
    const char *end = strstr(*at, "\n\n");
    assert_non_null(end);
    const char *p = *at;
    *at = end + 2;
    *what = p[0] == ':' ? "comment" : strncmp(p, "data: [DONE]", 12) == 0 ? "done" : "data";
    if (strcmp(*what, "data") != 0)
        return NULL;
    assert_memory_equal(p, "data: ", 6);
    return parse(p + 6, (size_t)(end - p - 6));
}

/* All text of one choice in a stream. */
static void stream_text(const struct http_exchange *x, int index, char *out, size_t size)
{
    const char *at = x->body.p, *what;
    size_t n = 0;
    while (*at != '\0') {
        json_t *v = next_event(&at, &what);
        if (v != NULL && json_integer_value(find(v, "choices.0.index")) == index) {
            const json_t *t = find(v, "choices.0.delta.content");
            t = t != NULL ? t : find(v, "choices.0.text");
            n += (size_t)snprintf(out + n, size - n, "%s", json_is_string(t) ? json_string_value(t) : "");
        }
        json_decref(v);
    }
    out[n] = '\0';
}

#endif

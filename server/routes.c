/* routes.c: see routes.h.
 *
 * The order of refusals, from what is cheapest and tells least: unknown path 404, CORS preflight, wrong method 405, key 401, still loading or already
 * stopping 503, body too large 413, body of another type 415. All of them are decided by the headers alone, before a byte of the body is kept. */
#include "server/routes.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/api_error.h"
#include "server/call.h"
#include "server/completion.h"
#include "server/keys.h"

static void routes_completions(struct call *c, const char *body, size_t n)
{
    call_prepare(c, API_COMPLETION, body, n, completion_start);
}

static void routes_chat(struct call *c, const char *body, size_t n)
{
    call_prepare(c, API_CHAT, body, n, completion_start);
}

static const struct route routes_table[] = {
    {.path = "/health", .open = true, .while_loading = true, .id_prefix = "req-", .handle = status_route_health},
    {.path = "/metrics", .while_loading = true, .id_prefix = "req-", .handle = status_route_metrics},
    {.path = "/version", .id_prefix = "req-", .handle = status_route_version},
    {.path = "/v1/models", .id_prefix = "req-", .handle = models_route_list},
    {.path = "/v1/models/", .id_prefix = "req-", .handle = models_route_one},
    {.path = "/v1/completions", .post = true, .id_prefix = "cmpl-", .handle = routes_completions},
    {.path = "/v1/chat/completions", .post = true, .id_prefix = "chatcmpl-", .handle = routes_chat},
    {.path = "/tokenize", .post = true, .id_prefix = "req-", .handle = tokenize_route_tokenize},
    {.path = "/detokenize", .post = true, .id_prefix = "req-", .handle = tokenize_route_detokenize},
};
#define ROUTES_N ((int)(sizeof routes_table / sizeof routes_table[0]))

int routes_idx(const struct route *route)
{
    return route != NULL ? (int)(route - routes_table) : ROUTES_N;
}

int routes_names(const char **names_out)
{
    for (int i = 0; i < ROUTES_N; i++)
        names_out[i] = routes_table[i].path;
    names_out[ROUTES_N] = "other";
    return ROUTES_N + 1;
}

static const struct route *routes_find(const char *path)
{
    for (int i = 0; i < ROUTES_N; i++) {
        const struct route *r = &routes_table[i];
        size_t n = strlen(r->path);
        bool prefix = r->path[n - 1] == '/';
        if (prefix ? strncmp(path, r->path, n) == 0 && path[n] != '\0' : strcmp(path, r->path) == 0)
            return r;
    }
    return NULL;
}

/* ---- refusals ---- */

struct routes_refusal {
    int status;
    const char *code;
    struct http_header header; /* name NULL: none */
    char message[256];
};

/* Not the path: it may hold anything. */
static void routes_log(const struct app *app, const char *id, const struct route *route, const struct routes_refusal *why)
{
    char line[256];
    if (app->opt.log == NULL)
        return;
    snprintf(line, sizeof line, "request id=%s route=%s status=%d error=%s", id, route != NULL ? route->path : "other", why->status,
             why->code != NULL ? why->code : "internal");
    app->opt.log(app->opt.log_arg, line);
}

static void routes_refuse(struct app *app, struct http_exchange *x, const struct route *route, const struct routes_refusal *why)
{
    struct http_header headers[CALL_MAX_HEADERS];
    struct buf body;
    char id[CALL_ID_BYTES];
    int n = call_cors_headers(app, x, headers);
    if (why->header.name != NULL)
        headers[n++] = why->header;
    call_name(id, route);
    headers[n++] = (struct http_header){"X-Request-Id", id};
    buf_init(&body, 4096);
    api_error_body_for(&body, why->status, why->code, NULL, why->message);
    metrics_count_reply(&app->metrics, routes_idx(route), why->status);
    routes_log(app, id, route, why);
    http_reply(x, why->status, "application/json", body.p != NULL ? body.p : "", body.n, headers, n);
    buf_finish(&body);
}

static const char *routes_allowed(const struct route *route)
{
    return route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
}

/* A browser asks before it sends. Without CORS the answer says no more than Allow. */
static void routes_preflight(struct app *app, struct http_exchange *x, const struct route *route)
{
    struct http_header headers[CALL_MAX_HEADERS];
    const char *wanted = http_request_header(x, "Access-Control-Request-Headers");
    int n = call_cors_headers(app, x, headers);
    bool allowed = n > 1;
    headers[n++] = (struct http_header){"Allow", routes_allowed(route)};
    if (allowed) {
        headers[n++] = (struct http_header){"Access-Control-Allow-Methods", routes_allowed(route)};
        headers[n++] = (struct http_header){"Access-Control-Allow-Headers", wanted != NULL ? wanted : "Authorization, Content-Type"};
        headers[n++] = (struct http_header){"Access-Control-Max-Age", "600"};
    }
    metrics_count_reply(&app->metrics, routes_idx(route), 204);
    http_reply(x, 204, NULL, "", 0, headers, n);
}

static bool routes_method_fits(const struct route *route, const char *method)
{
    if (route->post)
        return strcmp(method, "POST") == 0;
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

/* application/json, with or without parameters, in UTF-8. A missing header is taken on trust. */
static bool routes_is_json(const char *type)
{
    if (type == NULL)
        return true;
    size_t n = strcspn(type, "; \t");
    if (n != strlen("application/json") || strncasecmp(type, "application/json", n) != 0)
        return false;
    const char *charset = strcasestr(type + n, "charset=");
    return charset == NULL || strncasecmp(charset + 8, "utf-8", 5) == 0 || strncasecmp(charset + 8, "\"utf-8\"", 7) == 0;
}

static int routes_check_key(const struct app *app, struct http_exchange *x, const struct route *route, int *key_idx_out, struct routes_refusal *why)
{
    *key_idx_out = -1;
    if (app->opt.keys == NULL)
        return 0;
    const char *authorization = http_request_header(x, "Authorization");
    *key_idx_out = keys_check(app->opt.keys, authorization);
    if (*key_idx_out >= 0 || route->open)
        return 0;
    why->status = 401;
    why->code = "invalid_api_key";
    why->header = (struct http_header){"WWW-Authenticate", "Bearer"};
    snprintf(why->message, sizeof why->message, "%s",
             authorization == NULL ? "no API key was given; send it as Authorization: Bearer KEY" : "the API key is not valid");
    return -1;
}

static int routes_check_ready(const struct app *app, const struct route *route, struct routes_refusal *why)
{
    uint64_t total = app->loading_total, done = app->loading_done;
    if (app->engine == NULL && !route->while_loading) {
        why->code = "model_loading";
        if (total > 0)
            snprintf(why->message, sizeof why->message, "the model is loading, %d %% done", (int)(100 * (double)done / (double)total));
        else
            snprintf(why->message, sizeof why->message, "the model is loading");
    } else if (app->draining && route->post) {
        why->code = "server_stopping";
        snprintf(why->message, sizeof why->message, "the server is stopping");
    } else {
        return 0;
    }
    why->status = 503;
    why->header = (struct http_header){"Retry-After", "2"};
    return -1;
}

static int routes_check_body(const struct app *app, struct http_exchange *x, const struct route *route, struct routes_refusal *why)
{
    if (!route->post)
        return 0;
    if (http_content_length(x) > app->opt.max_body_bytes) {
        why->status = 413;
        why->code = "request_too_large";
        snprintf(why->message, sizeof why->message, "the body is %llu bytes; the limit is %zu", (unsigned long long)http_content_length(x),
                 app->opt.max_body_bytes);
        return -1;
    }
    if (!routes_is_json(http_request_header(x, "Content-Type"))) {
        why->status = 415;
        why->code = "unsupported_media_type";
        snprintf(why->message, sizeof why->message, "the body must be application/json in UTF-8");
        return -1;
    }
    return 0;
}

bool routes_accept(struct app *app, struct http_exchange *x, void **user_out)
{
    const struct route *route = routes_find(http_path(x));
    const char *method = http_method(x);
    struct routes_refusal why = {0};
    int key_idx = -1;
    if (route == NULL) {
        why.status = 404;
        why.code = "not_found";
        snprintf(why.message, sizeof why.message, "there is no %.20s %.120s here", method, http_path(x));
    } else if (strcmp(method, "OPTIONS") == 0) {
        routes_preflight(app, x, route);
        return false;
    } else if (!routes_method_fits(route, method)) {
        why.status = 405;
        why.code = "method_not_allowed";
        why.header = (struct http_header){"Allow", routes_allowed(route)};
        snprintf(why.message, sizeof why.message, "%s does not take %.20s", route->path, method);
    } else if (routes_check_key(app, x, route, &key_idx, &why) == 0 && routes_check_ready(app, route, &why) == 0 &&
               routes_check_body(app, x, route, &why) == 0) {
        *user_out = call_create(app, x, route, key_idx);
        if (*user_out != NULL)
            return true;
        why.status = 503;
        snprintf(why.message, sizeof why.message, "no memory for another request");
    }
    routes_refuse(app, x, route, &why);
    return false;
}

void routes_handle(struct call *c, const char *body, size_t n)
{
    c->active = true;
    c->app->n_active++;
    c->arrived_ns = uv_hrtime();
    c->created_s = app_now_s();
    c->route->handle(c, body, n);
}

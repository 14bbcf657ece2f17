/* models_route.c: GET /v1/models and /v1/models/{id}. There is one model, under its alias or its file's stem. */
#include <inttypes.h>
#include <string.h>

#include "server/call.h"
#include "server/routes.h"

static void models_route_string(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, ",\"%s\":\"", name);
    buf_json_escape(out, value, strlen(value));
    buf_puts(out, "\"");
}

static void models_route_print(const struct app *app, struct buf *out)
{
    const struct engine_info *info = app->info;
    buf_puts(out, "{\"object\":\"model\"");
    models_route_string(out, "id", app->prepare.model_name);
    buf_printf(out, ",\"created\":%" PRId64 ",\"owned_by\":\"nextd\"", info->model_mtime_s);
    models_route_string(out, "root", info->model_stem);
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%d", info->n_ctx);
    models_route_string(out, "architecture", info->architecture);
    models_route_string(out, "sha256", info->model_sha256);
    buf_printf(out, ",\"chat\":%s}", app->template != NULL ? "true" : "false");
}

void models_route_list(struct call *c, const char *body, size_t n)
{
    struct buf out;
    (void)body, (void)n;
    buf_init(&out, 1u << 16);
    buf_puts(&out, "{\"object\":\"list\",\"data\":[");
    models_route_print(c->app, &out);
    buf_puts(&out, "]}");
    call_reply(c, 200, &out);
    buf_finish(&out);
}

void models_route_one(struct call *c, const char *body, size_t n)
{
    const char *name = http_path(c->x) + strlen(c->route->path);
    struct buf out;
    (void)body, (void)n;
    if (strcmp(name, c->app->prepare.model_name) != 0) {
        err_set_param(&c->err, ERR_NOT_FOUND, "model", "model %.200s does not exist; this server serves %.200s", name, c->app->prepare.model_name);
        call_fail(c, &c->err);
        return;
    }
    buf_init(&out, 1u << 16);
    models_route_print(c->app, &out);
    call_reply(c, 200, &out);
    buf_finish(&out);
}

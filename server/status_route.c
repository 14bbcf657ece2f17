/* status_route.c: GET /health, /version and /metrics.
 *
 * /health answers in every state, without a key: 200 where requests are served, 503 where they are not, and the body says why (`loading` with its
 * progress, `stopping`, `faulted`), so that a supervisor can tell a slow start from a failure. */
#include <string.h>

#include "engine/engine.h"
#include "server/call.h"
#include "server/routes.h"

void status_route_health(struct call *c, const char *body, size_t n)
{
    struct app *app = c->app;
    struct engine_stats stats = {0};
    struct buf out;
    (void)body, (void)n;
    if (app->engine != NULL)
        engine_stats(app->engine, &stats);
    const char *status = stats.faulted ? "faulted" : app->draining ? "stopping" : app->engine == NULL ? "loading" : "ok";
    buf_init(&out, 1024);
    buf_printf(&out, "{\"status\":\"%s\"", status);
    uint64_t total = app->loading_total;
    if (app->engine == NULL && total > 0)
        buf_printf(&out, ",\"progress\":%.3f", (double)app->loading_done / (double)total);
    buf_puts(&out, "}");
    call_reply(c, strcmp(status, "ok") == 0 ? 200 : 503, &out);
    buf_finish(&out);
}

void status_route_version(struct call *c, const char *body, size_t n)
{
    struct buf out;
    (void)body, (void)n;
    buf_init(&out, 4096);
    buf_puts(&out, "{\"version\":\"" NEXTD_VERSION "\",\"numerics\":\"");
    buf_json_escape(&out, c->app->info->numerics, strlen(c->app->info->numerics));
    buf_puts(&out, "\",\"device\":\"");
    buf_json_escape(&out, c->app->info->device, strlen(c->app->info->device));
    buf_puts(&out, "\"}");
    call_reply(c, 200, &out);
    buf_finish(&out);
}

void status_route_metrics(struct call *c, const char *body, size_t n)
{
    struct app *app = c->app;
    const char *names[METRICS_MAX_ROUTES];
    struct engine_stats stats;
    struct buf out;
    (void)body, (void)n;
    struct metrics_facts facts = {
        .model_name = app->prepare.model_name,
        .info = app->info,
        .route_names = names,
        .n_routes = routes_names(names),
        .n_connections = app->http != NULL ? http_n_connections(app->http) : 0,
        .n_requests = app->n_active,
    };
    if (app->engine != NULL) {
        engine_stats(app->engine, &stats);
        facts.stats = &stats;
    }
    buf_init(&out, 1u << 20);
    metrics_print(&app->metrics, &facts, &out);
    call_reply_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
    buf_finish(&out);
}

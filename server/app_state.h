/* app_state.h: what the parts of the service share. Included by app.c, routes.c, call.c, completion.c, bridge.c and the *_route.c files only. */
#ifndef NEXTD_APP_STATE_H
#define NEXTD_APP_STATE_H

#include <stdatomic.h>

#include "server/api.h"
#include "server/app.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/prepare.h"

struct call;

struct app {
    struct app_options opt;
    uv_loop_t *loop;
    struct http *http;
    struct http_callbacks callbacks;
    struct api_limits limits;

    /* Set by app_set_engine, constant afterwards. */
    struct engine *engine; /* NULL: loading */
    const struct engine_info *info;
    struct chat_template *template;
    char template_error[400];
    struct prepare_context prepare;
    char fingerprint[192];

    bool draining;
    struct call *calls; /* from accepted headers to the last of exchange, pool and engine */
    size_t n_active;    /* of those, the ones whose body was taken */
    struct metrics metrics;
    struct buf scratch; /* one event or reply being formatted; empty between uses */

    uv_poll_t wake;     /* the engine says through wake_fd, an eventfd, that events wait */
    int wake_fd;
    uv_timer_t tick;
    int n_handles;      /* open uv handles; the app's memory goes with the last one and the last call */
    bool destroyed;

    _Atomic uint64_t loading_done, loading_total;
};

/* Frees the app when it was destroyed and nothing hangs on it any more. */
void app_release(struct app *app);
int64_t app_now_s(void);
/* n random characters of [0-9A-Za-z] and a NUL. */
void app_random_name(char *out, size_t n);
uint64_t app_random_u64(void);

#endif

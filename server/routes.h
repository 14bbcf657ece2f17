/* routes.h: which path does what, and what is refused before a body is read. */
#ifndef NEXTD_ROUTES_H
#define NEXTD_ROUTES_H

#include "server/app_state.h"

struct call;

struct route {
    const char *path;       /* ends with '/': a prefix, the rest is a name */
    bool post;              /* else GET and HEAD */
    bool open;              /* needs no key */
    bool while_loading;     /* answers before the model is there */
    const char *id_prefix;  /* of the request's id */
    void (*handle)(struct call *c, const char *body, size_t n);
};

/* The http callbacks' part of it: finds the route or refuses. */
bool routes_accept(struct app *app, struct http_exchange *x, void **user_out);
void routes_handle(struct call *c, const char *body, size_t n);

/* For metrics. NULL is whatever has no route. */
int routes_idx(const struct route *route);
int routes_names(const char **names_out); /* at most METRICS_MAX_ROUTES; returns how many */

/* The handlers. */
void status_route_health(struct call *c, const char *body, size_t n);
void status_route_version(struct call *c, const char *body, size_t n);
void status_route_metrics(struct call *c, const char *body, size_t n);
void models_route_list(struct call *c, const char *body, size_t n);
void models_route_one(struct call *c, const char *body, size_t n);
void tokenize_route_tokenize(struct call *c, const char *body, size_t n);
void tokenize_route_detokenize(struct call *c, const char *body, size_t n);

#endif

/* prepare.h: everything between a body and the engine's door: parse, check the model's name, render the template, tokenize. Pure; any thread, so
 * that large bodies are prepared in libuv's pool and never hold up a stream. */
#ifndef NEXTD_PREPARE_H
#define NEXTD_PREPARE_H

#include "engine/engine.h"
#include "server/api.h"

struct chat_template;

/* Immutable while any preparation runs. */
struct prepare_context {
    const struct engine *engine;
    const struct engine_info *info;
    const struct chat_template *template; /* NULL: chat is refused with template_error */
    const char *template_error;
    const char *model_name;               /* the name in the API; info->model_stem is taken as well */
    const struct api_limits *limits;
};

struct prepared {
    struct api_request api;
    struct engine_ids *ids;     /* [n_prompts], in the arena; each owned */
    size_t n_prompts;
    struct engine_text *echo;   /* [n_prompts] texts to echo, malloc'd; NULL without echo */
    bool used_now;              /* the template read the clock: api.now_s belongs to the answer */
};

/* now_s: the time of admission, for templates that ask. On success the caller owes prepared_finish. */
int prepare(const struct prepare_context *ctx, enum api_kind kind, const char *body, size_t n_body, int64_t now_s, struct arena *arena,
            struct prepared *out, struct err *err);
void prepared_finish(struct prepared *p); /* harmless on a zeroed struct */
/* The engine has its copy: frees the ids and the prompts' texts. Stops, names and what is to be echoed stay. */
void prepared_submitted(struct prepared *p);

#endif

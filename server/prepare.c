/* prepare.c: body -> request -> prompts as token ids. See prepare.h.
 *
 * Text prompts and messages are untrusted bytes: control tokens match only where the chat template itself wrote them. A chat prompt gets no BOS of
 * ours (templates write their own), a text prompt gets the model's, once. */
#include "server/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "server/chat/chat_template.h"

#define PREPARE_MAX_TOKENS (8u << 20) /* far above any body: a prompt that is too long shall be told its true length */

static int prepare_check_model(const struct prepare_context *ctx, const char *model, struct err *err)
{
    if (model == NULL || model[0] == '\0' || strcmp(model, ctx->model_name) == 0)
        return 0;
    return err_set_param(err, ERR_NOT_FOUND, "model", "model %.200s does not exist; this server serves %.200s", model, ctx->model_name);
}

static int prepare_check_id(const struct prepare_context *ctx, const char *path, size_t i, int32_t id, struct err *err)
{
    char param[64];
    if (id >= 0 && id < ctx->info->n_vocab)
        return 0;
    snprintf(param, sizeof param, "%s[%zu]", path, i);
    return err_set_param(err, ERR_INVALID, param, "%s is token id %d; the vocabulary has %d", param, id, ctx->info->n_vocab);
}

static int prepare_check_ids(const struct prepare_context *ctx, const struct api_request *api, struct err *err)
{
    char path[48];
    for (int i = 0; i < api->n_stop_ids; i++)
        if (prepare_check_id(ctx, "stop_token_ids", (size_t)i, api->stop_ids[i], err) != 0)
            return -1;
    for (int i = 0; i < api->n_bias; i++)
        if (api->bias[i].id >= ctx->info->n_vocab)
            return err_set_param(err, ERR_INVALID, "logit_bias", "logit_bias names token id %d; the vocabulary has %d", api->bias[i].id,
                                 ctx->info->n_vocab);
    for (size_t p = 0; p < api->n_prompts; p++) {
        const struct api_prompt *prompt = &api->prompts[p];
        api_prompt_path(api, p, path, sizeof path);
        for (size_t i = 0; i < prompt->n_ids; i++)
            if (prepare_check_id(ctx, path, i, prompt->ids[i], err) != 0)
                return -1;
    }
    return 0;
}

/* ---- prompts ---- */

static int prepare_copy_ids(const struct api_prompt *prompt, struct engine_ids *out, struct err *err)
{
    out->ids = malloc((prompt->n_ids + (prompt->n_ids == 0)) * sizeof *out->ids);
    if (out->ids == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu token ids", prompt->n_ids);
    if (prompt->n_ids > 0)
        memcpy(out->ids, prompt->ids, prompt->n_ids * sizeof *out->ids);
    out->n = out->cap = prompt->n_ids;
    return 0;
}

static int prepare_prompt(const struct prepare_context *ctx, const struct api_request *api, size_t i, struct engine_ids *out, struct err *err)
{
    const struct api_prompt *prompt = &api->prompts[i];
    if (prompt->ids != NULL)
        return prepare_copy_ids(prompt, out, err);
    struct engine_span span = {.p = prompt->text, .n = prompt->n_text, .trusted = false};
    char path[48];
    api_prompt_path(api, i, path, sizeof path);
    if (engine_tokenize(ctx->engine, &span, 1, api->add_special_tokens, PREPARE_MAX_TOKENS, out, err) != 0) {
        if (err->param[0] == '\0')
            snprintf(err->param, sizeof err->param, "%s", path);
        return -1;
    }
    if (out->n == 0 && api->kind == API_COMPLETION)
        return err_set_param(err, ERR_INVALID, path, "%s is empty; at least one token is needed", path);
    return 0;
}

/* What `echo` gives back is the text that the ids stand for, so that text_offset counts in it: of a prompt sent as text what was sent (in NFC, where
 * the tokenizer puts it there), of ids with control tokens spelled out. */
static int prepare_echo(const struct prepare_context *ctx, struct prepared *p, struct arena *arena, struct err *err)
{
    p->echo = arena_alloc(arena, p->n_prompts * sizeof *p->echo);
    if (p->echo == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu prompts", p->n_prompts);
    memset(p->echo, 0, p->n_prompts * sizeof *p->echo);
    for (size_t i = 0; i < p->n_prompts; i++) {
        char *text;
        size_t n;
        if (engine_detokenize(ctx->engine, p->ids[i].ids, p->ids[i].n, p->api.prompts[i].ids != NULL, &text, &n, err) != 0)
            return -1;
        p->echo[i] = (struct engine_text){.p = text, .n = n};
    }
    return 0;
}

static int prepare_prompts(const struct prepare_context *ctx, struct prepared *p, struct arena *arena, struct err *err)
{
    p->ids = arena_alloc(arena, p->api.n_prompts * sizeof *p->ids);
    if (p->ids == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu prompts", p->api.n_prompts);
    memset(p->ids, 0, p->api.n_prompts * sizeof *p->ids);
    p->n_prompts = p->api.n_prompts;
    for (size_t i = 0; i < p->n_prompts; i++)
        if (prepare_prompt(ctx, &p->api, i, &p->ids[i], err) != 0)
            return -1;
    return p->api.echo ? prepare_echo(ctx, p, arena, err) : 0;
}

/* ---- chat ---- */

static int prepare_tokenize_runs(const struct prepare_context *ctx, const struct chat_output *rendered, bool add_bos, struct engine_ids *out,
                                 struct err *err)
{
    struct engine_span *spans = calloc(rendered->n_runs + 1, sizeof *spans);
    if (spans == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu spans of text", rendered->n_runs);
    size_t at = 0;
    for (size_t i = 0; i < rendered->n_runs; i++) {
        spans[i] = (struct engine_span){.p = rendered->text + at, .n = rendered->runs[i].n, .trusted = rendered->runs[i].trusted};
        at += rendered->runs[i].n;
    }
    int rc = engine_tokenize(ctx->engine, spans, rendered->n_runs, add_bos, PREPARE_MAX_TOKENS, out, err);
    free(spans);
    return rc;
}

static int prepare_chat(const struct prepare_context *ctx, struct prepared *p, struct arena *arena, struct err *err)
{
    if (ctx->template == NULL)
        return err_set_param(err, ERR_INVALID, "messages", "%s", ctx->template_error);
    p->ids = arena_alloc(arena, sizeof *p->ids);
    if (p->ids == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the prompt");
    memset(p->ids, 0, sizeof *p->ids);
    p->n_prompts = 1;
    struct chat_input in = {
        .messages = p->api.messages,
        .extra = p->api.template_kwargs,
        .bos_token = ctx->info->bos_text,
        .eos_token = ctx->info->eos_text,
        .add_generation_prompt = p->api.add_generation_prompt,
        .now_s = p->api.now_s,
    };
    struct chat_limits limits = chat_limits_default();
    struct chat_output rendered = {0};
    if (chat_template_render(ctx->template, &in, &limits, &rendered, err) != 0) {
        if (err->param[0] == '\0')
            snprintf(err->param, sizeof err->param, "messages");
        return -1;
    }
    p->used_now = rendered.used_now;
    int rc = prepare_tokenize_runs(ctx, &rendered, p->api.kind == API_TOKENIZE && p->api.add_special_tokens, &p->ids[0], err);
    chat_output_finish(&rendered);
    if (rc != 0 && err->param[0] == '\0')
        snprintf(err->param, sizeof err->param, "messages");
    if (rc == 0 && p->ids[0].n == 0 && p->api.kind == API_CHAT)
        rc = err_set_param(err, ERR_INVALID, "messages", "the chat template made an empty prompt of these messages");
    return rc;
}

int prepare(const struct prepare_context *ctx, enum api_kind kind, const char *body, size_t n_body, int64_t now_s, struct arena *arena,
            struct prepared *out, struct err *err)
{
    struct prepared p = {0};
    if (api_parse(kind, body, n_body, ctx->limits, arena, &p.api, err) != 0)
        return -1;
    if (!p.api.has_now)
        p.api.now_s = now_s;
    int rc = prepare_check_model(ctx, p.api.model, err);
    if (rc == 0)
        rc = prepare_check_ids(ctx, &p.api, err);
    if (rc == 0)
        rc = p.api.messages != NULL ? prepare_chat(ctx, &p, arena, err) : prepare_prompts(ctx, &p, arena, err);
    if (rc != 0) {
        prepared_finish(&p);
        return -1;
    }
    *out = p;
    return 0;
}

void prepared_finish(struct prepared *p)
{
    for (size_t i = 0; i < p->n_prompts; i++) {
        engine_ids_finish(&p->ids[i]);
        if (p->echo != NULL)
            free((void *)(uintptr_t)p->echo[i].p);
    }
    p->n_prompts = 0;
    p->echo = NULL;
    api_request_finish(&p->api);
}

void prepared_submitted(struct prepared *p)
{
    for (size_t i = 0; i < p->n_prompts; i++)
        engine_ids_finish(&p->ids[i]);
    p->api.messages = NULL;
    p->api.template_kwargs = NULL;
    json_object_del(p->api.root, "messages");
    json_object_del(p->api.root, "chat_template_kwargs");
    json_object_del(p->api.root, "prompt");
}

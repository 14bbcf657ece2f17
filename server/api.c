/* api.c: from the bytes of a body to struct api_request: limits, JSON, then the parser of the kind. See api.h.
 *
 * JSON policy: one object; duplicate members, bad UTF-8, lone surrogates, numbers beyond int64 or double and text after the object are refused by
 * jansson; depth and counts by json_scan before a tree is built. \u0000 is allowed in texts (prompts, messages, stops), never in names. */
#include "server/api.h"

#include <stdio.h>
#include <string.h>

#include "server/api_read.h"
#include "server/json_scan.h"

#define API_MAX_IGNORED_BYTES 1024u
#define API_MAX_CONTAINERS 32768u /* a message of parts takes three */

static int api_load(const char *body, size_t n, const struct api_limits *limits, json_t **out, struct err *err)
{
    struct json_scan_limits scan = {.max_depth = limits->json_depth, .max_containers = API_MAX_CONTAINERS, .max_values = limits->json_values};
    json_error_t at;
    if (n == 0)
        return err_set(err, ERR_INVALID, "the body is empty; a JSON object is expected");
    if (json_scan(body, n, &scan, err) != 0)
        return -1;
    json_t *root = json_loadb(body, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
    if (root == NULL)
        return err_set(err, ERR_INVALID, "the body is not valid JSON: line %d, column %d: %s", at.line, at.column, at.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(err, ERR_INVALID, "the body must be a JSON object");
    }
    *out = root;
    return 0;
}

static struct api_request api_defaults(enum api_kind kind)
{
    return (struct api_request){
        .kind = kind,
        .n_choices = 1,
        .max_tokens = 16,
        .n_logprobs = -1,
        .temperature = 1,
        .top_p = 1,
        .typical_p = 1,
        .repetition_penalty = 1,
        .add_special_tokens = true,
        .add_generation_prompt = true,
        .ignored = "",
    };
}

static int api_read(struct api_reader *r, struct api_request *out)
{
    switch (out->kind) {
    case API_COMPLETION:
        return api_read_completion(r, out->root, out);
    case API_CHAT:
        return api_read_chat(r, out->root, out);
    case API_TOKENIZE:
        return api_read_tokenize(r, out->root, out);
    case API_DETOKENIZE:
        return api_read_detokenize(r, out->root, out);
    }
    return -1;
}

/* A header has its limit: names that do not fit any more become "...", and none is cut in its middle. */
static int api_keep_ignored(struct api_reader *r, struct api_request *out)
{
    static const char more[] = "...";
    size_t n = r->ignored.n;
    while (r->ignored.failed && n > 0 && r->ignored.p[n - 1] != ',')
        n--;
    char *names = arena_alloc(r->arena, n + sizeof more);
    if (names == NULL)
        return api_fail_nomem(r);
    memcpy(names, r->ignored.p, n);
    memcpy(names + n, r->ignored.failed ? more : "", r->ignored.failed ? sizeof more : 1);
    out->ignored = names;
    return 0;
}

int api_parse(enum api_kind kind, const char *body, size_t n, const struct api_limits *limits, struct arena *arena, struct api_request *out,
              struct err *err)
{
    struct api_request req = api_defaults(kind);
    struct api_reader r = {.limits = limits, .arena = arena, .err = err};
    if (api_load(body, n, limits, &req.root, err) != 0)
        return -1;
    buf_init(&r.ignored, API_MAX_IGNORED_BYTES);
    int rc = api_read(&r, &req);
    if (rc == 0 && r.ignored.n > 0)
        rc = api_keep_ignored(&r, &req);
    buf_finish(&r.ignored);
    if (rc != 0)
        api_request_finish(&req);
    else
        *out = req;
    return rc;
}

void api_prompt_path(const struct api_request *r, size_t i, char *out, size_t n)
{
    if (r->prompt_is_list)
        snprintf(out, n, "prompt[%zu]", i);
    else
        snprintf(out, n, "%s", r->kind == API_DETOKENIZE ? "tokens" : "prompt");
}

void api_request_finish(struct api_request *r)
{
    json_decref(r->root);
    r->root = NULL;
    r->messages = NULL;
    r->template_kwargs = NULL;
}

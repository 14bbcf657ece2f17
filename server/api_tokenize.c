/* api_tokenize.c: the bodies of POST /tokenize (with `prompt`, or with `messages`) and POST /detokenize, shaped as vLLM has them. */
#include "server/api_read.h"

#define API_MAX_DETOKENIZE_IDS (1u << 20)

static int api_read_text(struct api_reader *r, json_t *v, void *to)
{
    struct api_request *out = to;
    if (!json_is_string(v))
        return api_fail(r, "must be a string");
    struct api_prompt *prompt = arena_alloc(r->arena, sizeof *prompt);
    if (prompt == NULL)
        return api_fail_nomem(r);
    *prompt = (struct api_prompt){.text = json_string_value(v), .n_text = json_string_length(v)};
    out->prompts = prompt;
    out->n_prompts = 1;
    return 0;
}

static int api_read_tokens(struct api_reader *r, json_t *v, void *to)
{
    struct api_request *out = to;
    if (!json_is_array(v))
        return api_fail(r, "must be an array of token ids");
    struct api_prompt *prompt = arena_alloc(r->arena, sizeof *prompt);
    if (prompt == NULL)
        return api_fail_nomem(r);
    *prompt = (struct api_prompt){0};
    if (api_read_ids(r, v, API_MAX_DETOKENIZE_IDS, &prompt->ids, &prompt->n_ids) != 0)
        return -1;
    out->prompts = prompt;
    out->n_prompts = 1;
    return 0;
}

#define FIELD(member) .offset = offsetof(struct api_request, member)

static const struct api_field api_tokenize_fields[] = {
    {.name = "model", .type = API_STRING, FIELD(model)},
    {.name = "prompt", .type = API_CALL, .read = api_read_text},
    {.name = "messages", .type = API_CALL, .read = api_read_messages},
    {.name = "add_special_tokens", .type = API_BOOL, FIELD(add_special_tokens)},
    {.name = "add_generation_prompt", .type = API_BOOL, FIELD(add_generation_prompt)},
    {.name = "return_token_strs", .type = API_BOOL, FIELD(return_token_strs)},
    {.name = "chat_template_kwargs", .type = API_CALL, .read = api_read_kwargs},
    {.name = "template_now_s", .type = API_CALL, .read = api_read_now},
    {.name = "tools", .type = API_NEUTRAL, .neutral = "[[]]"},
    {.name = "chat_template", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "continue_final_message", .type = API_NEUTRAL, .neutral = "[false]"},
};
static const struct api_table api_tokenize_table = API_TABLE(api_tokenize_fields);

int api_read_tokenize(struct api_reader *r, json_t *root, struct api_request *out)
{
    if (api_read_object(r, root, &api_tokenize_table, 1, out) != 0)
        return -1;
    if (out->n_prompts == 0 && out->messages == NULL)
        return err_set_param(r->err, ERR_INVALID, "prompt", "one of prompt and messages is needed");
    if (out->n_prompts > 0 && out->messages != NULL)
        return err_set_param(r->err, ERR_INVALID, "messages", "prompt and messages exclude each other");
    /* A template writes its own BOS; vLLM's default differs between the two forms in the same way. */
    if (out->messages != NULL && !json_is_true(json_object_get(root, "add_special_tokens")))
        out->add_special_tokens = false;
    return 0;
}

static const struct api_field api_detokenize_fields[] = {
    {.name = "model", .type = API_STRING, FIELD(model)},
    {.name = "tokens", .type = API_CALL, .read = api_read_tokens},
};
static const struct api_table api_detokenize_table = API_TABLE(api_detokenize_fields);

int api_read_detokenize(struct api_reader *r, json_t *root, struct api_request *out)
{
    if (api_read_object(r, root, &api_detokenize_table, 1, out) != 0)
        return -1;
    if (out->n_prompts == 0)
        return err_set_param(r->err, ERR_INVALID, "tokens", "tokens is missing");
    return 0;
}

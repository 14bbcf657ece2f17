/* api_completions.c: the body of POST /v1/completions.
 *
 * `prompt` has four forms: text, a list of texts, token ids, a list of lists of token ids. A text prompt is untrusted: control tokens do not match in
 * it; who wants them sends ids. */
#include "server/api_read.h"

#define API_MAX_PROMPT_IDS (1u << 20)


static int api_read_one_prompt(struct api_reader *r, const json_t *v, struct api_prompt *out)
{
    *out = (struct api_prompt){0};
    if (json_is_string(v)) {
        out->text = json_string_value(v);
        out->n_text = json_string_length(v);
        return 0;
    }
    if (!json_is_array(v))
        return api_fail(r, "must be a string or an array of token ids");
    if (json_array_size(v) == 0)
        return api_fail(r, "is empty; at least one token is needed");
    return api_read_ids(r, v, API_MAX_PROMPT_IDS, &out->ids, &out->n_ids);
}

static int api_read_prompt(struct api_reader *r, json_t *v, void *to)
{
    struct api_request *out = to;
    if (!json_is_string(v) && !json_is_array(v))
        return api_fail(r, "must be a string, an array of strings, an array of token ids or an array of arrays of token ids");
    const json_t *first = json_array_get(v, 0);
    bool many = json_is_array(v) && (first == NULL || json_is_string(first) || json_is_array(first));
    size_t n = many ? json_array_size(v) : 1;
    if (n == 0)
        return api_fail(r, "is empty; at least one prompt is needed");
    if (n > (size_t)r->limits->max_prompts)
        return api_fail(r, "holds %zu prompts; the limit is %d", n, r->limits->max_prompts);
    struct api_prompt *prompts = arena_alloc(r->arena, n * sizeof *prompts);
    if (prompts == NULL)
        return api_fail_nomem(r);
    for (size_t i = 0; i < n; i++) {
        size_t mark = many ? api_path_index(r, i) : r->n_path;
        if (api_read_one_prompt(r, many ? json_array_get(v, i) : v, &prompts[i]) != 0)
            return -1;
        api_path_leave(r, mark);
    }
    out->prompts = prompts;
    out->n_prompts = n;
    out->prompt_is_list = many;
    return 0;
}

/* best_of is a promise to choose among more than n; only best_of = n needs no choosing. n may stand behind it, so the check comes last. */
static int api_read_best_of(struct api_reader *r, json_t *v, void *out)
{
    (void)out;
    return json_is_integer(v) ? 0 : api_fail(r, "must be an integer");
}

static const struct api_field api_completion_fields[] = {
    {.name = "prompt", .type = API_CALL, .read = api_read_prompt},
    {.name = "max_tokens", .type = API_INT, .offset = offsetof(struct api_request, max_tokens), .min = 0, .max = INT32_MAX},
    {.name = "echo", .type = API_BOOL, .offset = offsetof(struct api_request, echo)},
    {.name = "logprobs", .type = API_INT, .offset = offsetof(struct api_request, n_logprobs), .min = 0, .max = ENGINE_MAX_TOP_LOGPROBS},
    {.name = "add_special_tokens", .type = API_BOOL, .offset = offsetof(struct api_request, add_special_tokens)},
    {.name = "best_of", .type = API_CALL, .read = api_read_best_of},
    {.name = "suffix", .type = API_NEUTRAL, .neutral = "[\"\"]"},
    {.name = "response_format", .type = API_NEUTRAL, .neutral = "[{\"type\": \"text\"}]"},
};

int api_read_completion(struct api_reader *r, json_t *root, struct api_request *out)
{
    const struct api_table tables[] = {API_TABLE(api_completion_fields), api_sampling_table};
    if (api_read_object(r, root, tables, 2, out) != 0)
        return -1;
    if (out->n_prompts == 0)
        return err_set_param(r->err, ERR_INVALID, "prompt", "prompt is missing");
    const json_t *best_of = json_object_get(root, "best_of");
    if (json_is_integer(best_of) && json_integer_value(best_of) != out->n_choices)
        return err_set_param(r->err, ERR_UNSUPPORTED, "best_of", "best_of is not supported; leave it out, or send the value of n");
    return api_sampling_check(r, out);
}

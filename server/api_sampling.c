/* api_sampling.c: the fields that /v1/completions and /v1/chat/completions share: sampling, stops, streaming, and those without effect.
 *
 * top_k, min_p, typical_p, repetition_penalty, min_tokens, ignore_eos and stop_token_ids are named and valued as vLLM has them. */
#include "server/api_read.h"

#include <stdlib.h>
#include <string.h>

static int api_read_seed(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    if (!json_is_integer(v))
        return api_fail(r, "must be an integer");
    req->seed = json_integer_value(v);
    req->has_seed = true;
    return 0;
}

static int api_read_n(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v))
        return api_fail(r, "must be an integer");
    if (n < 1 || n > r->limits->max_choices)
        return api_fail(r, "must be between 1 and %d", r->limits->max_choices);
    req->n_choices = (int)n;
    return 0;
}

static int api_read_top_k(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    json_int_t k = json_integer_value(v);
    if (!json_is_integer(v))
        return api_fail(r, "must be an integer");
    if (k < -1 || k > INT32_MAX)
        return api_fail(r, "must be -1 or 0 (off) or at least 1");
    req->top_k = k > 0 ? (int)k : 0;
    return 0;
}

static int api_read_one_stop(struct api_reader *r, const json_t *v, struct engine_text *out)
{
    size_t n = json_string_length(v);
    if (!json_is_string(v))
        return api_fail(r, "must be a string");
    if (n == 0)
        return api_fail(r, "must not be empty");
    if (n > (size_t)r->limits->max_stop_bytes)
        return api_fail(r, "is %zu bytes long; the limit is %d", n, r->limits->max_stop_bytes);
    *out = (struct engine_text){.p = json_string_value(v), .n = n};
    return 0;
}

static int api_read_stop(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    if (!json_is_string(v) && !json_is_array(v))
        return api_fail(r, "must be a string or an array of strings");
    size_t n = json_is_string(v) ? 1 : json_array_size(v);
    if (n > (size_t)r->limits->max_stops)
        return api_fail(r, "holds %zu strings; the limit is %d", n, r->limits->max_stops);
    struct engine_text *stops = arena_alloc(r->arena, n * sizeof *stops);
    if (stops == NULL)
        return api_fail_nomem(r);
    for (size_t i = 0; i < n; i++) {
        size_t mark = json_is_array(v) ? api_path_index(r, i) : r->n_path;
        if (api_read_one_stop(r, json_is_array(v) ? json_array_get(v, i) : v, &stops[i]) != 0)
            return -1;
        api_path_leave(r, mark);
    }
    req->stops = stops;
    req->n_stops = (int)n;
    return 0;
}

static int api_read_stop_ids(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    size_t n;
    if (!json_is_array(v))
        return api_fail(r, "must be an array of token ids");
    if (api_read_ids(r, v, ENGINE_MAX_STOP_IDS, &req->stop_ids, &n) != 0)
        return -1;
    req->n_stop_ids = (int)n;
    return 0;
}

/* A key of logit_bias in its one canonical spelling, so that "1" and "01" cannot name one token twice. */
static int api_bias_id(const char *key, int32_t *out)
{
    size_t n = strlen(key);
    if (n == 0 || n > 10 || strspn(key, "0123456789") != n || (key[0] == '0' && n > 1))
        return -1;
    long long id = atoll(key);
    if (id > INT32_MAX)
        return -1;
    *out = (int32_t)id;
    return 0;
}

static int api_read_bias(struct api_reader *r, json_t *v, void *out)
{
    struct api_request *req = out;
    if (!json_is_object(v))
        return api_fail(r, "must be an object from token ids to numbers");
    size_t n = json_object_size(v), i = 0;
    if (n > (size_t)r->limits->max_bias)
        return api_fail(r, "holds %zu entries; the limit is %d", n, r->limits->max_bias);
    struct engine_bias *bias = arena_alloc(r->arena, n * sizeof *bias);
    if (bias == NULL)
        return api_fail_nomem(r);
    const char *key;
    json_t *value;
    json_object_foreach(v, key, value) {
        size_t mark = api_path_key(r, key);
        double d = json_number_value(value);
        if (api_bias_id(key, &bias[i].id) != 0)
            return api_fail(r, "is not a token id");
        if (!json_is_number(value))
            return api_fail(r, "must be a number");
        if (!(d >= -100 && d <= 100))
            return api_fail(r, "must be between -100 and 100");
        bias[i++].bias = (float)d;
        api_path_leave(r, mark);
    }
    req->bias = bias;
    req->n_bias = (int)n;
    return 0;
}

static const struct api_field api_stream_fields[] = {
    {.name = "include_usage", .type = API_BOOL, .offset = offsetof(struct api_request, include_usage)},
    {.name = "include_obfuscation", .type = API_NEUTRAL, .neutral = "[false]"},
};
static const struct api_table api_stream_table = API_TABLE(api_stream_fields);

static int api_read_stream_options(struct api_reader *r, json_t *v, void *out)
{
    return api_read_object(r, v, &api_stream_table, 1, out);
}

#define FIELD(member) .offset = offsetof(struct api_request, member)

static const struct api_field api_sampling_fields[] = {
    {.name = "model", .type = API_STRING, FIELD(model)},
    {.name = "stream", .type = API_BOOL, FIELD(stream)},
    {.name = "stream_options", .type = API_CALL, .read = api_read_stream_options},
    {.name = "n", .type = API_CALL, .read = api_read_n},
    {.name = "seed", .type = API_CALL, .read = api_read_seed},
    {.name = "stop", .type = API_CALL, .read = api_read_stop},
    {.name = "stop_token_ids", .type = API_CALL, .read = api_read_stop_ids},
    {.name = "logit_bias", .type = API_CALL, .read = api_read_bias},
    {.name = "temperature", .type = API_FLOAT, FIELD(temperature), .min = 0, .max = 2},
    {.name = "top_p", .type = API_FLOAT, FIELD(top_p), .min = 0, .max = 1, .above_min = true},
    {.name = "min_p", .type = API_FLOAT, FIELD(min_p), .min = 0, .max = 1},
    {.name = "typical_p", .type = API_FLOAT, FIELD(typical_p), .min = 0, .max = 1, .above_min = true},
    {.name = "repetition_penalty", .type = API_FLOAT, FIELD(repetition_penalty), .min = 0, .max = 10, .above_min = true},
    {.name = "frequency_penalty", .type = API_FLOAT, FIELD(frequency_penalty), .min = -2, .max = 2},
    {.name = "presence_penalty", .type = API_FLOAT, FIELD(presence_penalty), .min = -2, .max = 2},
    {.name = "top_k", .type = API_CALL, .read = api_read_top_k},
    {.name = "min_tokens", .type = API_INT, FIELD(min_tokens), .min = 0, .max = INT32_MAX},
    {.name = "ignore_eos", .type = API_BOOL, FIELD(ignore_eos)},
    {.name = "skip_special_tokens", .type = API_NEUTRAL, .neutral = "[true]"},
    {.name = "include_stop_str_in_output", .type = API_NEUTRAL, .neutral = "[false]"},
    {.name = "use_beam_search", .type = API_NEUTRAL, .neutral = "[false]"},
    {.name = "prompt_logprobs", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "truncate_prompt_tokens", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "bad_words", .type = API_NEUTRAL, .neutral = "[[]]"},
    {.name = "priority", .type = API_NEUTRAL, .neutral = "[0]"},
    {.name = "user", .type = API_IDLE_STRING},
    {.name = "safety_identifier", .type = API_IDLE_STRING},
    {.name = "prompt_cache_key", .type = API_IDLE_STRING},
    {.name = "prompt_cache_retention", .type = API_IDLE_STRING},
    {.name = "service_tier", .type = API_IDLE_STRING},
    {.name = "metadata", .type = API_IDLE_OBJECT},
    {.name = "store", .type = API_IDLE_BOOL},
    {.name = "parallel_tool_calls", .type = API_IDLE_BOOL},
};
const struct api_table api_sampling_table = API_TABLE(api_sampling_fields);

int api_sampling_check(struct api_reader *r, const struct api_request *out)
{
    if (out->include_usage && !out->stream)
        return err_set_param(r->err, ERR_INVALID, "stream_options", "stream_options needs stream: true");
    if (out->max_tokens >= 0 && out->min_tokens > out->max_tokens)
        return err_set_param(r->err, ERR_INVALID, "min_tokens", "min_tokens is %d and max_tokens %d", out->min_tokens, out->max_tokens);
    return 0;
}

/* api_chat.c: the body of POST /v1/chat/completions.
 *
 * Messages are checked here and left in the shape that chat templates expect, in place in the parsed tree: parts of text joined by line feeds into
 * one string, null members removed (null equals absent), `developer` renamed to `system` (the name that templates know for that role), the arguments
 * of past tool calls parsed into objects. What a template then makes of roles and their order is the template's business. */
#include "server/api_read.h"

#include <string.h>

#include "server/json_scan.h"

static const char *const api_roles[] = {"system", "developer", "user", "assistant", "tool"};
static const char *const api_kwargs_taken[] = {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"};

/* ---- content ---- */

static const struct api_field api_part_fields[] = {
    {.name = "type", .type = API_IDLE_STRING},
    {.name = "text", .type = API_IDLE_STRING},
};
static const struct api_table api_part_table = API_TABLE(api_part_fields);

static int api_read_part(struct api_reader *r, json_t *part, struct buf *text)
{
    if (!json_is_object(part))
        return api_fail(r, "must be an object");
    const char *type = json_string_value(json_object_get(part, "type"));
    if (type == NULL || strcmp(type, "text") != 0) {
        api_path_key(r, "type");
        if (type == NULL)
            return api_fail(r, "must be \"text\"");
        return err_set_param(r->err, ERR_UNSUPPORTED, r->path, "%s %.40s is not supported; only parts of type text are", r->path, type);
    }
    if (api_read_object(r, part, &api_part_table, 1, NULL) != 0)
        return -1;
    const json_t *value = json_object_get(part, "text");
    if (!json_is_string(value)) {
        api_path_key(r, "text");
        return api_fail(r, "must be a string");
    }
    buf_append(text, json_string_value(value), json_string_length(value));
    return 0;
}

static int api_join_parts(struct api_reader *r, json_t *message, json_t *parts)
{
    struct buf text;
    size_t i;
    json_t *part;
    int rc = 0;
    buf_init(&text, r->arena->max_bytes);
    json_array_foreach(parts, i, part) {
        size_t mark = api_path_index(r, i);
        if (i > 0)
            buf_puts(&text, "\n");
        rc = api_read_part(r, part, &text);
        if (rc != 0)
            break;
        api_path_leave(r, mark);
    }
    if (rc == 0 && (text.failed || json_object_set_new(message, "content", json_stringn(text.p != NULL ? text.p : "", text.n)) != 0))
        rc = api_fail_nomem(r);
    buf_finish(&text);
    return rc;
}

static int api_read_content(struct api_reader *r, json_t *message, bool optional)
{
    json_t *content = json_object_get(message, "content");
    size_t mark = api_path_key(r, "content");
    int rc = 0;
    if (json_is_array(content))
        rc = api_join_parts(r, message, content);
    else if (content == NULL && optional)
        rc = json_object_set_new(message, "content", json_string("")) == 0 ? 0 : api_fail_nomem(r);
    else if (!json_is_string(content))
        rc = api_fail(r, content == NULL ? "is missing" : "must be a string or an array of text parts");
    if (rc == 0)
        api_path_leave(r, mark);
    return rc;
}

/* ---- tool calls that an assistant made earlier; they are text for the template ---- */

static int api_read_arguments(struct api_reader *r, json_t *function)
{
    static const struct json_scan_limits limits = {.max_depth = 64, .max_containers = 4096, .max_values = 65536};
    json_t *text = json_object_get(function, "arguments");
    size_t mark = api_path_key(r, "arguments");
    if (!json_is_string(text))
        return api_fail(r, "must be a string of JSON");
    if (json_scan(json_string_value(text), json_string_length(text), &limits, NULL) != 0)
        return api_fail(r, "is too deep or too large");
    json_t *parsed = json_loadb(json_string_value(text), json_string_length(text), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return api_fail(r, "must be a string that holds a JSON object");
    }
    api_path_leave(r, mark);
    return json_object_set_new(function, "arguments", parsed) == 0 ? 0 : api_fail_nomem(r);
}

static const struct api_field api_function_fields[] = {
    {.name = "name", .type = API_IDLE_STRING},
    {.name = "arguments", .type = API_IDLE_STRING},
};
static const struct api_table api_function_table = API_TABLE(api_function_fields);

static int api_read_call_function(struct api_reader *r, json_t *function, void *out)
{
    if (api_read_object(r, function, &api_function_table, 1, out) != 0)
        return -1;
    if (!json_is_string(json_object_get(function, "name"))) {
        api_path_key(r, "name");
        return api_fail(r, "must be a string");
    }
    return api_read_arguments(r, function);
}

static const struct api_field api_tool_call_fields[] = {
    {.name = "id", .type = API_IDLE_STRING},
    {.name = "type", .type = API_NEUTRAL, .neutral = "[\"function\"]"},
    {.name = "function", .type = API_CALL, .read = api_read_call_function},
};
static const struct api_table api_tool_call_table = API_TABLE(api_tool_call_fields);

static int api_read_tool_calls(struct api_reader *r, json_t *calls, void *out)
{
    size_t i;
    json_t *call;
    if (!json_is_array(calls))
        return api_fail(r, "must be an array");
    json_array_foreach(calls, i, call) {
        size_t mark = api_path_index(r, i);
        if (api_read_object(r, call, &api_tool_call_table, 1, out) != 0)
            return -1;
        if (!json_is_object(json_object_get(call, "function"))) {
            api_path_key(r, "function");
            return api_fail(r, "is missing");
        }
        api_path_leave(r, mark);
    }
    return 0;
}

/* ---- messages ---- */

static int api_pass(struct api_reader *r, json_t *value, void *out)
{
    (void)r, (void)value, (void)out;
    return 0;
}

static const struct api_field api_message_fields[] = {
    {.name = "role", .type = API_IDLE_STRING},
    {.name = "content", .type = API_CALL, .read = api_pass}, /* api_read_content */
    {.name = "name", .type = API_IDLE_STRING},
    {.name = "tool_call_id", .type = API_IDLE_STRING},
    {.name = "tool_calls", .type = API_CALL, .read = api_read_tool_calls},
    {.name = "reasoning_content", .type = API_IDLE_STRING},
    {.name = "refusal", .type = API_IDLE_STRING},
    {.name = "annotations", .type = API_NEUTRAL, .neutral = "[[]]"},
    {.name = "audio", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "function_call", .type = API_NEUTRAL, .neutral = "[]"},
};
static const struct api_table api_message_table = API_TABLE(api_message_fields);

static int api_read_role(struct api_reader *r, json_t *message, const char **role_out)
{
    const json_t *value = json_object_get(message, "role");
    const char *role = json_string_value(value);
    bool known = false;
    for (size_t i = 0; role != NULL && i < sizeof api_roles / sizeof api_roles[0]; i++)
        known = known || (strcmp(role, api_roles[i]) == 0 && json_string_length(value) == strlen(role));
    if (!known) {
        api_path_key(r, "role");
        return api_fail(r, "must be one of system, developer, user, assistant and tool");
    }
    *role_out = role;
    if (strcmp(role, "developer") == 0) {
        *role_out = "system";
        if (json_object_set_new(message, "role", json_string("system")) != 0)
            return api_fail_nomem(r);
    }
    return 0;
}

static void api_drop_nulls(json_t *object)
{
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value) {
        if (json_is_null(value))
            json_object_del(object, key);
    }
}

static int api_read_message(struct api_reader *r, json_t *message)
{
    const char *role;
    if (!json_is_object(message))
        return api_fail(r, "must be an object");
    api_drop_nulls(message);
    if (api_read_role(r, message, &role) != 0 || api_read_object(r, message, &api_message_table, 1, NULL) != 0)
        return -1;
    bool has_calls = json_array_size(json_object_get(message, "tool_calls")) > 0;
    if (!has_calls)
        json_object_del(message, "tool_calls");
    if (has_calls && strcmp(role, "assistant") != 0) {
        api_path_key(r, "tool_calls");
        return api_fail(r, "is for assistant messages only");
    }
    json_object_del(message, "annotations");
    return api_read_content(r, message, has_calls);
}

int api_read_messages(struct api_reader *r, json_t *value, void *out)
{
    struct api_request *req = out;
    size_t i;
    json_t *message;
    if (!json_is_array(value))
        return api_fail(r, "must be an array");
    if (json_array_size(value) == 0)
        return api_fail(r, "is empty; at least one message is needed");
    if (json_array_size(value) > (size_t)r->limits->max_messages)
        return api_fail(r, "holds %zu messages; the limit is %d", json_array_size(value), r->limits->max_messages);
    json_array_foreach(value, i, message) {
        size_t mark = api_path_index(r, i);
        if (api_read_message(r, message) != 0)
            return -1;
        api_path_leave(r, mark);
    }
    req->messages = value;
    return 0;
}

int api_read_kwargs(struct api_reader *r, json_t *value, void *out)
{
    struct api_request *req = out;
    if (!json_is_object(value))
        return api_fail(r, "must be an object");
    for (size_t i = 0; i < sizeof api_kwargs_taken / sizeof api_kwargs_taken[0]; i++)
        if (json_object_get(value, api_kwargs_taken[i]) != NULL) {
            api_path_key(r, api_kwargs_taken[i]);
            return api_fail(r, "is set by the server");
        }
    req->template_kwargs = value;
    return 0;
}

int api_read_now(struct api_reader *r, json_t *value, void *out)
{
    struct api_request *req = out;
    json_int_t s = json_integer_value(value);
    if (!json_is_integer(value))
        return api_fail(r, "must be an integer: seconds since 1970, UTC");
    if (s < 0 || s > 253402300799) /* the last second of the year 9999 */
        return api_fail(r, "must be between 0 and 253402300799");
    req->now_s = s;
    req->has_now = true;
    return 0;
}

/* ---- the body ---- */


static int api_read_logprobs(struct api_reader *r, json_t *value, void *out)
{
    struct api_request *req = out;
    if (!json_is_boolean(value))
        return api_fail(r, "must be true or false");
    if (json_is_true(value) && req->n_logprobs < 0)
        req->n_logprobs = 0;
    return 0;
}

static int api_read_top_logprobs(struct api_reader *r, json_t *value, void *out)
{
    struct api_request *req = out;
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value))
        return api_fail(r, "must be an integer");
    if (n < 0 || n > ENGINE_MAX_TOP_LOGPROBS)
        return api_fail(r, "must be between 0 and %d", ENGINE_MAX_TOP_LOGPROBS);
    req->n_logprobs = (int)n;
    return 0;
}

static const struct api_field api_chat_fields[] = {
    {.name = "messages", .type = API_CALL, .read = api_read_messages},
    {.name = "max_tokens", .type = API_INT, .offset = offsetof(struct api_request, max_tokens), .min = 1, .max = INT32_MAX},
    {.name = "max_completion_tokens", .type = API_INT, .offset = offsetof(struct api_request, max_tokens), .min = 1, .max = INT32_MAX},
    {.name = "logprobs", .type = API_CALL, .read = api_read_logprobs},
    {.name = "top_logprobs", .type = API_CALL, .read = api_read_top_logprobs},
    {.name = "chat_template_kwargs", .type = API_CALL, .read = api_read_kwargs},
    {.name = "add_generation_prompt", .type = API_BOOL, .offset = offsetof(struct api_request, add_generation_prompt)},
    {.name = "template_now_s", .type = API_CALL, .read = api_read_now},
    {.name = "response_format", .type = API_NEUTRAL, .neutral = "[{\"type\": \"text\"}]"},
    {.name = "modalities", .type = API_NEUTRAL, .neutral = "[[], [\"text\"]]"},
    {.name = "tools", .type = API_NEUTRAL, .neutral = "[[]]"},
    {.name = "tool_choice", .type = API_NEUTRAL, .neutral = "[\"none\"]"},
    {.name = "functions", .type = API_NEUTRAL, .neutral = "[[]]"},
    {.name = "function_call", .type = API_NEUTRAL, .neutral = "[\"none\"]"},
    {.name = "echo", .type = API_NEUTRAL, .neutral = "[false]"},
    {.name = "best_of", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "audio", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "prediction", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "reasoning_effort", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "verbosity", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "web_search_options", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "chat_template", .type = API_NEUTRAL, .neutral = "[]"},
    {.name = "continue_final_message", .type = API_NEUTRAL, .neutral = "[false]"},
};

static int api_chat_check(struct api_reader *r, const json_t *root, const struct api_request *out)
{
    const json_t *old = json_object_get(root, "max_tokens");
    const json_t *new = json_object_get(root, "max_completion_tokens");
    if (out->messages == NULL)
        return err_set_param(r->err, ERR_INVALID, "messages", "messages is missing");
    if (json_is_integer(old) && json_is_integer(new) && !json_equal(old, new))
        return err_set_param(r->err, ERR_INVALID, "max_tokens", "max_tokens and max_completion_tokens say different numbers");
    if (out->n_logprobs > 0 && !json_is_true(json_object_get(root, "logprobs")))
        return err_set_param(r->err, ERR_INVALID, "top_logprobs", "top_logprobs needs logprobs: true");
    return api_sampling_check(r, out);
}

int api_read_chat(struct api_reader *r, json_t *root, struct api_request *out)
{
    const struct api_table tables[] = {API_TABLE(api_chat_fields), api_sampling_table};
    out->max_tokens = -1;
    if (api_read_object(r, root, tables, 2, out) != 0 || api_chat_check(r, root, out) != 0)
        return -1;
    if (!json_is_true(json_object_get(root, "logprobs")))
        out->n_logprobs = -1;
    return 0;
}

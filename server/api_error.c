/* api_error.c: what a client reads when something went wrong. See api_error.h.
 *
 * `type` follows OpenAI's families (invalid_request_error, authentication by code, rate_limit_error, server_error), `code` is the machine-readable
 * name where OpenAI documents one (context_length_exceeded, model_not_found, rate_limit_exceeded, invalid_api_key), `param` is the JSON path.
 * Messages may quote what the client sent, cut at a fixed size, so they are made whole UTF-8 here, in one place. */
#include "server/api_error.h"

#include <string.h>

#include "server/utf8.h"

struct api_error_row {
    enum err_code code;
    int status;
    const char *name; /* `code` of the error object; NULL: null */
};

static const struct api_error_row api_error_rows[] = {
    {ERR_INVALID, 400, NULL},
    {ERR_CONTEXT, 400, "context_length_exceeded"},
    {ERR_NOT_FOUND, 404, "model_not_found"},
    {ERR_BUSY, 429, "rate_limit_exceeded"},
    {ERR_LOADING, 503, "model_loading"},
    {ERR_STOPPING, 503, "server_stopping"},
    {ERR_UNSUPPORTED, 400, "unsupported_value"},
    {ERR_FORMAT, 500, NULL},
    {ERR_IO, 500, NULL},
    {ERR_NOMEM, 503, "out_of_memory"},
    {ERR_DEVICE, 500, "engine_fault"},
};

static const struct api_error_row *api_error_row(enum err_code code)
{
    for (size_t i = 0; i < sizeof api_error_rows / sizeof api_error_rows[0]; i++)
        if (api_error_rows[i].code == code)
            return &api_error_rows[i];
    return &api_error_rows[sizeof api_error_rows / sizeof api_error_rows[0] - 1];
}

static const char *api_error_type(int status)
{
    if (status == 429)
        return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static void api_error_string(struct buf *out, const char *s)
{
    size_t n = strlen(s);
    buf_puts(out, "\"");
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char_bytes(s + i, n - i);
        if (len == 0)
            buf_puts(out, "\xef\xbf\xbd");
        else
            buf_json_escape(out, s + i, len);
        i += len == 0 ? 1 : len;
    }
    buf_puts(out, "\"");
}

int api_error_status(const struct err *err)
{
    return api_error_row(err->code)->status;
}

const char *api_error_name(const struct err *err)
{
    const struct api_error_row *row = api_error_row(err->code);
    return row->name != NULL ? row->name : row->status >= 500 ? "internal" : "invalid_request";
}

void api_error_body(struct buf *out, const struct err *err)
{
    const struct api_error_row *row = api_error_row(err->code);
    api_error_body_for(out, row->status, row->name, err->param, err->msg);
}

void api_error_body_for(struct buf *out, int status, const char *code, const char *param, const char *message)
{
    buf_puts(out, "{\"error\":{\"message\":");
    api_error_string(out, message);
    buf_printf(out, ",\"type\":\"%s\",\"param\":", api_error_type(status));
    if (param == NULL || param[0] == '\0')
        buf_puts(out, "null");
    else
        api_error_string(out, param);
    if (code == NULL)
        buf_puts(out, ",\"code\":null}}");
    else
        buf_printf(out, ",\"code\":\"%s\"}}", code);
}

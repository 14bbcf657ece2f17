/* tokenize_route.c: POST /tokenize and /detokenize, in vLLM's shapes. The ids of the `messages` form are those that chat would compute. */
#include <stdlib.h>
#include <string.h>

#include "server/call.h"
#include "server/routes.h"
#include "server/utf8.h"

#define TOKENIZE_MAX_REPLY_BYTES (256u << 20)

static void tokenize_route_str(struct buf *out, const struct engine *e, int32_t id)
{
    const char *p;
    size_t n = engine_token_bytes(e, id, true, &p);
    buf_puts(out, "\"");
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char_bytes(p + i, n - i);
        if (len == 0)
            buf_puts(out, "\xef\xbf\xbd");
        else
            buf_json_escape(out, p + i, len);
        i += len == 0 ? 1 : len;
    }
    buf_puts(out, "\"");
}

static void tokenize_route_send(struct call *c, struct buf *out)
{
    if (out->failed) {
        err_set(&c->err, ERR_NOMEM, "the answer is larger than one request may hold");
        call_fail(c, &c->err);
    } else {
        call_reply(c, 200, out);
    }
    buf_finish(out);
}

static void tokenize_route_tokenized(struct call *c)
{
    struct buf out;
    if (c->rc != 0) {
        call_fail(c, &c->err);
        return;
    }
    const struct engine_ids *ids = &c->prepared.ids[0];
    buf_init(&out, TOKENIZE_MAX_REPLY_BYTES);
    buf_printf(&out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids->n, c->app->info->n_ctx);
    for (size_t i = 0; i < ids->n; i++)
        buf_printf(&out, "%s%d", i > 0 ? "," : "", ids->ids[i]);
    buf_puts(&out, c->prepared.api.return_token_strs ? "],\"token_strs\":[" : "],\"token_strs\":null");
    for (size_t i = 0; i < ids->n && c->prepared.api.return_token_strs; i++) {
        buf_puts(&out, i > 0 ? "," : "");
        tokenize_route_str(&out, c->app->engine, ids->ids[i]);
    }
    buf_puts(&out, c->prepared.api.return_token_strs ? "]}" : "}");
    tokenize_route_send(c, &out);
}

static void tokenize_route_detokenized(struct call *c)
{
    char *text;
    size_t n;
    struct buf out;
    if (c->rc == 0)
        c->rc = engine_detokenize(c->app->engine, c->prepared.ids[0].ids, c->prepared.ids[0].n, true, &text, &n, &c->err);
    if (c->rc != 0) {
        call_fail(c, &c->err);
        return;
    }
    buf_init(&out, TOKENIZE_MAX_REPLY_BYTES);
    buf_puts(&out, "{\"prompt\":\"");
    buf_json_escape(&out, text, n);
    buf_puts(&out, "\"}");
    free(text);
    tokenize_route_send(c, &out);
}

void tokenize_route_tokenize(struct call *c, const char *body, size_t n)
{
    call_prepare(c, API_TOKENIZE, body, n, tokenize_route_tokenized);
}

void tokenize_route_detokenize(struct call *c, const char *body, size_t n)
{
    call_prepare(c, API_DETOKENIZE, body, n, tokenize_route_detokenized);
}

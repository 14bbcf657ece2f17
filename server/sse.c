/* sse.c: see sse.h. jansson would take 2 us for each chunk; these copies take a hundredth of it. */
#include "server/sse.h"

#include "server/api_error.h"

#define SSE_MAX_PREFIX_BYTES 8192u

int sse_init(struct sse *s, const struct reply_head *head, bool include_usage, struct arena *arena, struct err *err)
{
    struct buf prefix;
    buf_init(&prefix, SSE_MAX_PREFIX_BYTES);
    buf_puts(&prefix, "data: ");
    reply_print_head(&prefix, head, head->chat ? "chat.completion.chunk" : "text_completion");
    char *kept = prefix.failed ? NULL : arena_copy(arena, prefix.p, prefix.n);
    if (kept != NULL)
        *s = (struct sse){.chat = head->chat, .usage_null = include_usage, .prefix = kept, .n_prefix = prefix.n};
    buf_finish(&prefix);
    return kept != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory for the stream's prefix");
}

static void sse_open(const struct sse *s, struct buf *out, int index)
{
    buf_append(out, s->prefix, s->n_prefix);
    buf_printf(out, "{\"index\":%d,", index);
}

static void sse_close(const struct sse *s, struct buf *out)
{
    buf_puts(out, s->usage_null ? ",\"usage\":null}\n\n" : "}\n\n");
}

void sse_role(const struct sse *s, struct buf *out, int index)
{
    sse_open(s, out, index);
    buf_puts(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":null}]");
    sse_close(s, out);
}

void sse_text(const struct sse *s, struct buf *out, int index, const char *text, size_t n, const struct logprobs *logprobs)
{
    sse_open(s, out, index);
    buf_puts(out, s->chat ? "\"delta\":{\"content\":\"" : "\"text\":\"");
    buf_json_escape(out, text, n);
    buf_puts(out, s->chat ? "\"},\"logprobs\":" : "\",\"logprobs\":");
    if (logprobs != NULL)
        logprobs_print(logprobs, out);
    else
        buf_puts(out, "null");
    buf_puts(out, ",\"finish_reason\":null}]");
    sse_close(s, out);
}

void sse_finish(const struct sse *s, struct buf *out, int index, const struct reply_finish *finish, const struct reply_origin *origin)
{
    sse_open(s, out, index);
    buf_puts(out, s->chat ? "\"delta\":{},\"logprobs\":null," : "\"text\":\"\",\"logprobs\":null,");
    reply_print_finish(out, finish);
    buf_puts(out, "}]");
    reply_print_origin(out, origin);
    sse_close(s, out);
}

void sse_usage(const struct sse *s, struct buf *out, const struct reply_usage *usage)
{
    buf_append(out, s->prefix, s->n_prefix);
    buf_puts(out, "],\"usage\":");
    reply_print_usage(out, usage);
    buf_puts(out, "}\n\n");
}

void sse_error(struct buf *out, const struct err *err)
{
    buf_puts(out, "data: ");
    api_error_body(out, err);
    buf_puts(out, "\n\n");
}

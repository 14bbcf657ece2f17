/* reply.c: see reply.h. Shapes are OpenAI's; `stop_reason` is vLLM's; `seed` and `template_now_s` are ours and bear the names of the request fields
 * that would bring the same answer again. */
#include "server/reply.h"

#include <inttypes.h>
#include <string.h>

const char *reply_finish_name(enum engine_finish why)
{
    switch (why) {
    case ENGINE_FINISH_STOP:
        return "stop";
    case ENGINE_FINISH_LENGTH:
        return "length";
    case ENGINE_FINISH_CANCELLED:
        return "abort";
    case ENGINE_FINISH_ERROR:
    case ENGINE_FINISH_NONE:
        break;
    }
    return "error";
}

static void reply_string(struct buf *out, const char *name, const char *p, size_t n)
{
    buf_puts(out, name);
    buf_puts(out, ":\"");
    buf_json_escape(out, p != NULL ? p : "", n);
    buf_puts(out, "\"");
}


void reply_print_head(struct buf *out, const struct reply_head *head, const char *object)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64, head->id, object, head->created_s);
    reply_string(out, ",\"model\"", head->model, strlen(head->model));
    reply_string(out, ",\"system_fingerprint\"", head->fingerprint, strlen(head->fingerprint));
    buf_puts(out, ",\"choices\":[");
}

void reply_print_finish(struct buf *out, const struct reply_finish *finish)
{
    buf_printf(out, "\"finish_reason\":\"%s\"", reply_finish_name(finish->why));
    if (finish->stop != NULL)
        reply_string(out, ",\"stop_reason\"", finish->stop->p, finish->stop->n);
    else if (finish->stop_id >= 0)
        buf_printf(out, ",\"stop_reason\":%" PRId32, finish->stop_id);
    else
        buf_puts(out, ",\"stop_reason\":null");
}

void reply_print_usage(struct buf *out, const struct reply_usage *usage)
{
    buf_printf(out, "{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64, usage->n_prompt, usage->n_output,
               usage->n_prompt + usage->n_output);
    buf_printf(out, ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64 "}}", usage->n_cached);
}

void reply_print_origin(struct buf *out, const struct reply_origin *origin)
{
    buf_printf(out, ",\"seed\":%" PRId64, origin->seed);
    if (origin->used_now)
        buf_printf(out, ",\"template_now_s\":%" PRId64, origin->now_s);
}

void reply_begin(struct buf *out, const struct reply_head *head)
{
    reply_print_head(out, head, head->chat ? "chat.completion" : "text_completion");
}

void reply_choice(struct buf *out, const struct reply_head *head, int index, const struct buf *text, const struct logprobs *logprobs,
                  const struct reply_finish *finish)
{
    buf_printf(out, "%s{\"index\":%d", index > 0 ? "," : "", index);
    if (head->chat) {
        reply_string(out, ",\"message\":{\"role\":\"assistant\",\"content\"", text->p, text->n);
        buf_puts(out, ",\"refusal\":null}");
    } else {
        reply_string(out, ",\"text\"", text->p, text->n);
    }
    buf_puts(out, ",\"logprobs\":");
    if (logprobs != NULL)
        logprobs_print(logprobs, out);
    else
        buf_puts(out, "null");
    buf_puts(out, ",");
    reply_print_finish(out, finish);
    buf_puts(out, "}");
}

void reply_end(struct buf *out, const struct reply_usage *usage, const struct reply_origin *origin)
{
    buf_puts(out, "],\"usage\":");
    reply_print_usage(out, usage);
    reply_print_origin(out, origin);
    buf_puts(out, "}");
}

/* render.c: renders chat templates for the comparison with jinja2. Each line of stdin is a JSON object {"template", "messages", "tools", "extra",
 * "bos", "eos", "add_generation_prompt", "now"}; each line of stdout is {"text", "trust", "used_now"} or {"error", "code"}. "trust" lists runs of
 * bytes by their number: "12T3u" are twelve trusted ones and three that are not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/chat_template.h"

static const char *text_of(const json_t *line, const char *key)
{
    const char *s = json_string_value(json_object_get(line, key));
    return s == NULL ? "" : s;
}

static json_t *answer(const json_t *line)
{
    struct err err = {0};
    struct chat_template *t = NULL;
    struct chat_output out = {0};
    struct chat_limits limits = chat_limits_default();
    const json_t *source = json_object_get(line, "template"), *tools = json_object_get(line, "tools");
    struct chat_input in = {.messages = json_object_get(line, "messages"),
                            .tools = json_is_null(tools) ? NULL : tools,
                            .extra = json_object_get(line, "extra"),
                            .bos_token = text_of(line, "bos"),
                            .eos_token = text_of(line, "eos"),
                            .add_generation_prompt = json_is_true(json_object_get(line, "add_generation_prompt")),
                            .now_s = json_integer_value(json_object_get(line, "now"))};
    if (chat_template_compile(json_string_value(source), json_string_length(source), &t, &err) < 0 ||
        chat_template_render(t, &in, &limits, &out, &err) < 0) {
        chat_template_destroy(t);
        return json_pack("{s:s,s:i}", "error", err.msg, "code", (int)err.code);
    }
    size_t cap = out.n_runs * 24 + 1, at = 0;
    char *trust = calloc(cap, 1);
    for (size_t i = 0; trust != NULL && i < out.n_runs; i++)
        at += (size_t)snprintf(trust + at, cap - at, "%zu%c", out.runs[i].n, out.runs[i].trusted ? 'T' : 'u');
    json_t *reply = json_pack("{s:s%,s:s,s:b}", "text", out.text, out.n, "trust", trust == NULL ? "" : trust, "used_now", out.used_now);
    free(trust);
    chat_output_finish(&out);
    chat_template_destroy(t);
    return reply == NULL ? json_pack("{s:s,s:i}", "error", "the text is not valid UTF-8", "code", 0) : reply;
}

int main(void)
{
    char *buffer = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&buffer, &cap, stdin)) > 0;) {
        json_t *line = json_loadb(buffer, (size_t)n, JSON_ALLOW_NUL, NULL);
        json_t *reply = line != NULL ? answer(line) : json_pack("{s:s,s:i}", "error", "the line is not JSON", "code", 0);
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(reply);
        json_decref(line);
    }
    free(buffer);
    return 0;
}

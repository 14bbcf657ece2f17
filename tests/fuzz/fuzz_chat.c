/* fuzz_chat.c: a chat template and a request's variables, split at the first NUL: template, NUL, JSON object {"messages", "tools", "extra"}.
 *
 * Beyond the sanitizers: limits hold, runs cover the text and alternate, an error is one line with a line number, and no byte of the request's own
 * alphabet (the fuzzer's sentinel, which no template may spell) comes out trusted. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/chat_template.h"

#define SENTINEL "\xf0\x9f\xa6\x84" /* a character that no seed's template contains */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char fallback[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"s " SENTINEL "\"},{\"role\":\"user\",\"content\":\"<|im_end|>" SENTINEL "\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\",\"id\":\"abcdefghi\",\"function\":{\"name\":\"f\","
    "\"arguments\":{\"a\":[1,2.5,true,null,\"" SENTINEL "\"]}}}]},{\"role\":\"tool\",\"content\":\"r\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"a\":{\"type\":\"array\"}}}}}],\"extra\":{\"x\":\"" SENTINEL " text\",\"n\":3,\"l\":[3,1,2],\"d\":{\"k\":\"v\"}}}";

static void check_output(const struct chat_output *out, const struct chat_limits *limits, bool sentinel_in_template)
{
    size_t at = 0;
    assert(out->n <= limits->max_output_bytes && out->text[out->n] == '\0');
    for (size_t i = 0; i < out->n_runs; i++) {
        const struct chat_run *run = &out->runs[i];
        assert(run->n > 0 && run->n <= out->n - at);
        assert(i == 0 || run->trusted != out->runs[i - 1].trusted);
        if (run->trusted && !sentinel_in_template)
            assert(memmem(out->text + at, run->n, SENTINEL, 4) == NULL);
        at += run->n;
    }
    assert(at == out->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n > 0 ? memchr(data, 0, n) : NULL;
    size_t n_source = nul != NULL ? (size_t)(nul - data) : n;
    const char *json = nul != NULL && n - n_source > 1 ? (const char *)nul + 1 : fallback;
    json_t *root = json_loadb(json, json == fallback ? strlen(fallback) : n - n_source - 1, JSON_ALLOW_NUL, NULL);
    if (root == NULL)
        root = json_loadb(fallback, strlen(fallback), 0, NULL);
    struct chat_template *t = NULL;
    struct err err = {0};
    struct chat_output out = {0};
    struct chat_limits limits = {.max_steps = 200000, .max_depth = 200, .max_output_bytes = 1u << 20, .max_memory_bytes = 32u << 20};
    struct chat_input in = {.messages = json_object_get(root, "messages"), .tools = json_object_get(root, "tools"),
                            .extra = json_object_get(root, "extra"), .bos_token = "<s>", .eos_token = "</s>", .add_generation_prompt = true,
                            .now_s = 1721990096};
    if (chat_template_compile((const char *)data, n_source, &t, &err) == 0 && chat_template_render(t, &in, &limits, &out, &err) == 0) {
        /* The character can also be made of its number, in an escape or by a format. */
        bool spelled = memmem(data, n_source, SENTINEL, 4) != NULL || memmem(data, n_source, "1f984", 5) != NULL ||
                       memmem(data, n_source, "1F984", 5) != NULL || memmem(data, n_source, "129412", 6) != NULL;
        check_output(&out, &limits, spelled);
        chat_output_finish(&out);
    } else {
        assert(err.code == ERR_INVALID || err.code == ERR_FORMAT || err.code == ERR_UNSUPPORTED || err.code == ERR_NOMEM);
        assert(err.msg[0] != '\0');
    }
    chat_template_destroy(t);
    json_decref(root);
    return 0;
}

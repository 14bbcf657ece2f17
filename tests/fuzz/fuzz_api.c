/* fuzz_api.c: any bytes as a request body. The first byte chooses the kind and whether unknown fields are ignored; the rest is the body.
 *
 * Beyond the sanitizers: what was refused has a sentence and a path that fits, what was accepted is within its limits, and the arena's cap holds. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"

#define FUZZ_ARENA_BYTES (1u << 22)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_accepted(const struct api_request *r, const struct api_limits *limits)
{
    assert(r->n_choices >= 1 && r->n_choices <= limits->max_choices);
    assert(r->max_tokens >= -1 && r->n_logprobs >= -1 && r->n_logprobs <= ENGINE_MAX_TOP_LOGPROBS);
    assert(r->temperature >= 0 && r->temperature <= 2 && r->top_p > 0 && r->top_p <= 1);
    assert(r->n_stops >= 0 && r->n_stops <= limits->max_stops && r->n_bias >= 0 && r->n_bias <= limits->max_bias);
    for (int i = 0; i < r->n_stops; i++)
        assert(r->stops[i].n >= 1 && r->stops[i].n <= (size_t)limits->max_stop_bytes);
    size_t bytes = 0;
    for (size_t p = 0; p < r->n_prompts; p++) {
        for (size_t i = 0; i < r->prompts[p].n_text; i++)
            bytes += (unsigned char)r->prompts[p].text[i];
        for (size_t i = 0; i < r->prompts[p].n_ids; i++)
            assert(r->prompts[p].ids[i] >= 0);
    }
    (void)bytes; /* every byte was read: the sanitizers have seen it */
    for (const char *c = r->ignored; *c != '\0'; c++)
        assert(*c >= 0x20 && *c < 0x7f);
    if (r->kind == API_CHAT) {
        assert(json_array_size(r->messages) >= 1);
        size_t i;
        json_t *m;
        json_array_foreach(r->messages, i, m)
            assert(json_is_string(json_object_get(m, "role")) && json_is_string(json_object_get(m, "content")));
    } else if (r->kind != API_TOKENIZE) {
        assert(r->n_prompts >= 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct api_limits limits = {.max_choices = 64, .max_prompts = 128, .max_stops = 16, .max_stop_bytes = 256, .max_bias = 1024, .max_messages = 64,
                                .json_depth = 64, .json_values = 4096};
    struct api_request r;
    struct arena arena;
    struct err err = {0};
    if (n == 0)
        return 0;
    limits.ignore_unknown = (data[0] & 4) != 0;
    json_object_seed(1); /* the same order of things in every run */
    arena_init(&arena, FUZZ_ARENA_BYTES);
    if (api_parse((enum api_kind)(data[0] & 3), (const char *)data + 1, n - 1, &limits, &arena, &r, &err) == 0) {
        check_accepted(&r, &limits);
        api_request_finish(&r);
    } else {
        struct buf body;
        assert(err.code != ERR_NONE && err.msg[0] != '\0' && memchr(err.param, '\0', sizeof err.param) != NULL);
        assert(api_error_status(&err) >= 400);
        buf_init(&body, 1u << 16);
        api_error_body(&body, &err);
        json_t *v = json_loadb(body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
        assert(v != NULL); /* whatever was sent, the answer is sound JSON */
        json_decref(v);
        buf_finish(&body);
    }
    assert(arena.used_bytes <= FUZZ_ARENA_BYTES);
    arena_finish(&arena);
    return 0;
}

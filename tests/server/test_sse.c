/* test_sse.c: the bytes of streamed events, one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "server/sse.h"

static const struct reply_head head = {.chat = true, .id = "chatcmpl-1", .created_s = 5, .model = "a \"model\"", .fingerprint = "fp"};
#define PREFIX(object) \
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"" object "\",\"created\":5,\"model\":\"a \\\"model\\\"\",\"system_fingerprint\":\"fp\",\"choices\":["

struct fixture {
    struct arena arena;
    struct sse sse;
    struct buf out;
};

static void begin(struct fixture *f, bool chat, bool include_usage)
{
    struct reply_head h = head;
    struct err err;
    h.chat = chat;
    arena_init(&f->arena, 1u << 16);
    buf_init(&f->out, 1u << 16);
    assert_int_equal(sse_init(&f->sse, &h, include_usage, &f->arena, &err), 0);
}

static void end(struct fixture *f)
{
    buf_finish(&f->out);
    arena_finish(&f->arena);
}

/* Compares and empties; every event must be one JSON document between "data: " and a blank line. */
static void expect(struct fixture *f, const char *want)
{
    assert_string_equal(f->out.p, want);
    assert_memory_equal(f->out.p, "data: ", 6);
    assert_string_equal(f->out.p + f->out.n - 2, "\n\n");
    json_t *v = json_loadb(f->out.p + 6, f->out.n - 8, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(v);
    json_decref(v);
    buf_clear(&f->out);
}

static void chat_events(void **state)
{
    struct fixture f;
    struct reply_finish stop = {.why = ENGINE_FINISH_STOP, .stop_id = -1};
    struct reply_origin origin = {.seed = 12};
    (void)state;
    begin(&f, true, false);
    sse_role(&f.sse, &f.out, 2);
    expect(&f, PREFIX("chat.completion.chunk") "{\"index\":2,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
                                               "\"finish_reason\":null}]}\n\n");
    sse_text(&f.sse, &f.out, 0, "a\n\"\\\x01\xc3\xa9", 7, NULL);
    expect(&f, PREFIX("chat.completion.chunk") "{\"index\":0,\"delta\":{\"content\":\"a\\n\\\"\\\\\\u0001\xc3\xa9\"},\"logprobs\":null,"
                                               "\"finish_reason\":null}]}\n\n");
    sse_finish(&f.sse, &f.out, 1, &stop, &origin);
    expect(&f, PREFIX("chat.completion.chunk") "{\"index\":1,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],"
                                               "\"seed\":12}\n\n");
    end(&f);
}

static void completion_events_with_usage(void **state)
{
    struct fixture f;
    struct engine_text text = {.p = "\n\n", .n = 2};
    struct reply_finish stop = {.why = ENGINE_FINISH_STOP, .stop = &text, .stop_id = -1}, length = {.why = ENGINE_FINISH_LENGTH, .stop_id = 5};
    struct reply_origin origin = {.seed = -1, .used_now = true, .now_s = 99};
    struct reply_usage usage = {.n_prompt = 10, .n_output = 4, .n_cached = 8};
    (void)state;
    begin(&f, false, true);
    sse_text(&f.sse, &f.out, 0, "", 0, NULL);
    expect(&f, PREFIX("text_completion") "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n");
    sse_finish(&f.sse, &f.out, 0, &stop, &origin);
    expect(&f, PREFIX("text_completion") "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"\\n\\n\"}],"
                                         "\"seed\":-1,\"template_now_s\":99,\"usage\":null}\n\n");
    sse_finish(&f.sse, &f.out, 0, &length, &origin);
    expect(&f, PREFIX("text_completion") "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":5}],"
                                         "\"seed\":-1,\"template_now_s\":99,\"usage\":null}\n\n");
    sse_usage(&f.sse, &f.out, &usage);
    expect(&f, PREFIX("text_completion") "],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":4,\"total_tokens\":14,"
                                         "\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n");
    end(&f);
}

static void errors_are_events_of_their_own(void **state)
{
    struct fixture f;
    struct err err;
    (void)state;
    begin(&f, true, false);
    err_set_param(&err, ERR_INVALID, "a\"b", "cut \xc3");
    sse_error(&f.out, &err);
    expect(&f, "data: {\"error\":{\"message\":\"cut \xef\xbf\xbd\",\"type\":\"invalid_request_error\",\"param\":\"a\\\"b\",\"code\":null}}\n\n");
    end(&f);
}

static void a_prefix_that_does_not_fit_is_an_error(void **state)
{
    struct arena arena;
    struct sse sse;
    struct err err;
    (void)state;
    arena_init(&arena, 16);
    assert_int_equal(sse_init(&sse, &head, false, &arena, &err), -1);
    assert_int_equal(err.code, ERR_NOMEM);
    arena_finish(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_events),
        cmocka_unit_test(completion_events_with_usage),
        cmocka_unit_test(errors_are_events_of_their_own),
        cmocka_unit_test(a_prefix_that_does_not_fit_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

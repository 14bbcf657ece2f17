/* test_api.c: which bodies are understood, and for every mistake the path that the client reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/api_error.h"

static struct api_limits limits = {
    .max_choices = 64, .max_prompts = 128, .max_stops = 16, .max_stop_bytes = 256, .max_bias = 1024, .max_messages = 100, .json_depth = 64,
    .json_values = 100000,
};

struct parsed {
    struct arena arena;
    struct api_request r;
    struct err err;
    int rc;
};

static struct parsed parse_n(enum api_kind kind, const char *body, size_t n)
{
    struct parsed p;
    memset(&p, 0, sizeof p);
    arena_init(&p.arena, 1u << 24);
    p.rc = api_parse(kind, body, n, &limits, &p.arena, &p.r, &p.err);
    return p;
}

static void done(struct parsed *p)
{
    api_request_finish(&p->r);
    arena_finish(&p->arena);
}

static struct parsed good(enum api_kind kind, const char *body)
{
    struct parsed p = parse_n(kind, body, strlen(body));
    if (p.rc != 0)
        fail_msg("%s: refused: %s", body, p.err.msg);
    return p;
}

struct bad {
    const char *body;
    const char *param; /* JSON path */
};

static void all_bad(enum api_kind kind, const struct bad *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct parsed p = parse_n(kind, rows[i].body, strlen(rows[i].body));
        if (p.rc == 0)
            fail_msg("%s: accepted", rows[i].body);
        if (strcmp(p.err.param, rows[i].param) != 0)
            fail_msg("%s: param is '%s', not '%s' (%s)", rows[i].body, p.err.param, rows[i].param, p.err.msg);
        assert_int_equal(api_error_status(&p.err), 400);
        assert_true(p.err.msg[0] != '\0' && p.err.msg[strlen(p.err.msg) - 1] != '.');
        done(&p);
    }
}

static void all_good(enum api_kind kind, const char *const *bodies, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct parsed p = good(kind, bodies[i]);
        done(&p);
    }
}

#define ALL_BAD(kind, rows) all_bad(kind, rows, sizeof(rows) / sizeof((rows)[0]))
#define ALL_GOOD(kind, rows) all_good(kind, rows, sizeof(rows) / sizeof((rows)[0]))

/* ---- completions ---- */

static void absent_fields_have_openais_defaults(void **state)
{
    (void)state;
    struct parsed p = good(API_COMPLETION, "{\"prompt\":\"a\"}");
    assert_int_equal(p.r.max_tokens, 16);
    assert_int_equal(p.r.n_choices, 1);
    assert_int_equal(p.r.n_logprobs, -1);
    assert_true(p.r.temperature == 1 && p.r.top_p == 1 && p.r.min_p == 0 && p.r.typical_p == 1 && p.r.repetition_penalty == 1);
    assert_int_equal(p.r.top_k, 0);
    assert_false(p.r.has_seed || p.r.stream || p.r.echo || p.r.ignore_eos);
    assert_true(p.r.add_special_tokens);
    assert_null(p.r.model);
    done(&p);
    p = good(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    assert_int_equal(p.r.max_tokens, -1);
    assert_true(p.r.add_generation_prompt);
    done(&p);
}

static void every_field_of_a_completion_arrives(void **state)
{
    (void)state;
    struct parsed p = good(API_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":9,\"n\":3,\"stop\":[\"x\",\"yy\"],"
                                           "\"seed\":-9223372036854775808,"
                                           "\"stop_token_ids\":[4],\"temperature\":0,\"top_p\":0.5,\"min_p\":0.25,\"typical_p\":0.75,\"top_k\":5,"
                                           "\"repetition_penalty\":1.5,\"frequency_penalty\":-2,\"presence_penalty\":2,\"logprobs\":20,\"echo\":true,"
                                           "\"min_tokens\":2,\"ignore_eos\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                                           "\"logit_bias\":{\"0\":-100,\"17\":2.5},\"add_special_tokens\":false}");
    assert_string_equal(p.r.model, "m");
    assert_int_equal(p.r.max_tokens, 9);
    assert_int_equal(p.r.n_choices, 3);
    assert_true(p.r.has_seed && p.r.seed == INT64_MIN);
    assert_int_equal(p.r.n_stops, 2);
    assert_memory_equal(p.r.stops[1].p, "yy", 2);
    assert_int_equal(p.r.stop_ids[0], 4);
    assert_true(p.r.temperature == 0 && p.r.top_p == 0.5f && p.r.min_p == 0.25f && p.r.typical_p == 0.75f && p.r.top_k == 5);
    assert_true(p.r.repetition_penalty == 1.5f && p.r.frequency_penalty == -2 && p.r.presence_penalty == 2);
    assert_int_equal(p.r.n_logprobs, 20);
    assert_true(p.r.echo && p.r.ignore_eos && p.r.stream && p.r.include_usage && !p.r.add_special_tokens);
    assert_int_equal(p.r.min_tokens, 2);
    assert_int_equal(p.r.n_bias, 2);
    assert_true(p.r.bias[0].id == 0 && p.r.bias[0].bias == -100 && p.r.bias[1].id == 17 && p.r.bias[1].bias == 2.5f);
    done(&p);
}

static void prompts_have_four_forms(void **state)
{
    (void)state;
    struct parsed p = good(API_COMPLETION, "{\"prompt\":\"a\\u0000b\"}");
    assert_int_equal(p.r.n_prompts, 1);
    assert_int_equal(p.r.prompts[0].n_text, 3);
    done(&p);
    p = good(API_COMPLETION, "{\"prompt\":[\"a\",\"\xc3\xa9\"]}");
    assert_int_equal(p.r.n_prompts, 2);
    assert_memory_equal(p.r.prompts[1].text, "\xc3\xa9", 2);
    done(&p);
    p = good(API_COMPLETION, "{\"prompt\":[5,6,7]}");
    assert_int_equal(p.r.n_prompts, 1);
    assert_int_equal(p.r.prompts[0].n_ids, 3);
    assert_int_equal(p.r.prompts[0].ids[2], 7);
    done(&p);
    p = good(API_COMPLETION, "{\"prompt\":[[5],[6,7]]}");
    assert_int_equal(p.r.n_prompts, 2);
    assert_int_equal(p.r.prompts[1].ids[1], 7);
    done(&p);
    p = good(API_COMPLETION, "{\"prompt\":[\"a\",[6,7]]}");
    assert_int_equal(p.r.prompts[1].n_ids, 2);
    done(&p);
}

static void null_and_neutral_values_are_absent(void **state)
{
    (void)state;
    const char *const completions[] = {
        "{\"prompt\":\"a\",\"max_tokens\":null,\"n\":null,\"stop\":null,\"logit_bias\":null,\"stream_options\":null,\"best_of\":null,\"seed\":null}",
        "{\"prompt\":\"a\",\"best_of\":1,\"suffix\":\"\",\"logit_bias\":{},\"stop\":[],\"stop_token_ids\":[],\"user\":\"u\",\"top_k\":-1}",
        "{\"best_of\":3,\"prompt\":\"a\",\"n\":3,\"response_format\":{\"type\":\"text\"},\"metadata\":{\"a\":\"b\"},\"store\":true}",
    };
    const char *const chats[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
        "\"functions\":[],\"function_call\":\"none\",\"modalities\":[\"text\"],\"user\":\"u\",\"metadata\":{},\"store\":false,"
        "\"service_tier\":\"auto\",\"safety_identifier\":\"s\",\"prompt_cache_key\":\"k\",\"parallel_tool_calls\":true,\"logit_bias\":{},"
        "\"top_logprobs\":0,\"logprobs\":false,\"stream\":false,\"stream_options\":null}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":null,\"tool_choice\":null,\"prediction\":null,\"audio\":null,"
        "\"reasoning_effort\":null,\"max_tokens\":5,\"max_completion_tokens\":5}",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"refusal\":null,\"annotations\":[],\"audio\":null,\"function_call\":null,"
        "\"tool_calls\":null,\"name\":null}]}",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[]}],\"chat_template_kwargs\":{\"enable_thinking\":false}}",
    };
    (void)state;
    ALL_GOOD(API_COMPLETION, completions);
    ALL_GOOD(API_CHAT, chats);
}

static void refused_features_say_what_may_be_sent_instead(void **state)
{
    (void)state;
    const char *const rows[][2] = {
        {"\"tools\":[1]", "tools is not supported; leave it out, or send []"},
        {"\"audio\":{}", "audio is not supported; leave it out"},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format is not supported; leave it out, or send {\"type\": \"text\"}"},
        {"\"modalities\":[\"audio\"]", "modalities is not supported; leave it out, or send one of [], [\"text\"]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char body[300];
        int n = snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],%s}", rows[i][0]);
        struct parsed p = parse_n(API_CHAT, body, (size_t)n);
        assert_int_equal(p.rc, -1);
        assert_string_equal(p.err.msg, rows[i][1]);
        done(&p);
    }
}

static const struct bad bad_completions[] = {
    {"{}", "prompt"},
    {"{\"prompt\":null}", "prompt"},
    {"{\"prompt\":5}", "prompt"},
    {"{\"prompt\":{}}", "prompt"},
    {"{\"prompt\":[]}", "prompt"},
    {"{\"prompt\":[[]]}", "prompt[0]"},
    {"{\"prompt\":[\"a\",5]}", "prompt[1]"},
    {"{\"prompt\":[1,\"a\"]}", "prompt[1]"},
    {"{\"prompt\":[[1],[2,-3]]}", "prompt[1][1]"},
    {"{\"prompt\":[1,2.5]}", "prompt[1]"},
    {"{\"prompt\":[4294967296]}", "prompt[0]"},
    {"{\"prompt\":\"a\",\"foo\":1}", "foo"},
    {"{\"prompt\":\"a\",\"foo\":null}", "foo"},
    {"{\"prompt\":\"a\",\"Max_tokens\":1}", "Max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":\"5\"}", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":5.0}", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":-1}", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":2147483648}", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":true}", "max_tokens"},
    {"{\"prompt\":\"a\",\"n\":0}", "n"},
    {"{\"prompt\":\"a\",\"n\":65}", "n"},
    {"{\"prompt\":\"a\",\"n\":1000000000000}", "n"},
    {"{\"prompt\":\"a\",\"temperature\":-0.1}", "temperature"},
    {"{\"prompt\":\"a\",\"temperature\":2.01}", "temperature"},
    {"{\"prompt\":\"a\",\"temperature\":\"1\"}", "temperature"},
    {"{\"prompt\":\"a\",\"top_p\":0}", "top_p"},
    {"{\"prompt\":\"a\",\"top_p\":1e-60}", "top_p"},
    {"{\"prompt\":\"a\",\"top_p\":1.1}", "top_p"},
    {"{\"prompt\":\"a\",\"min_p\":-1}", "min_p"},
    {"{\"prompt\":\"a\",\"typical_p\":0}", "typical_p"},
    {"{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty"},
    {"{\"prompt\":\"a\",\"frequency_penalty\":2.5}", "frequency_penalty"},
    {"{\"prompt\":\"a\",\"presence_penalty\":-2.5}", "presence_penalty"},
    {"{\"prompt\":\"a\",\"top_k\":-2}", "top_k"},
    {"{\"prompt\":\"a\",\"seed\":1.5}", "seed"},
    {"{\"prompt\":\"a\",\"logprobs\":21}", "logprobs"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs"},
    {"{\"prompt\":\"a\",\"echo\":1}", "echo"},
    {"{\"prompt\":\"a\",\"stream\":\"true\"}", "stream"},
    {"{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}", "stream_options"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"x\":1}}", "stream_options.x"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":[]}", "stream_options"},
    {"{\"prompt\":\"a\",\"stop\":5}", "stop"},
    {"{\"prompt\":\"a\",\"stop\":\"\"}", "stop"},
    {"{\"prompt\":\"a\",\"stop\":[\"x\",\"\"]}", "stop[1]"},
    {"{\"prompt\":\"a\",\"stop\":[\"x\",null]}", "stop[1]"},
    {"{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\","
     "\"13\",\"14\",\"15\",\"16\",\"17\"]}", "stop"},
    {"{\"prompt\":\"a\",\"stop_token_ids\":[\"x\"]}", "stop_token_ids[0]"},
    {"{\"prompt\":\"a\",\"stop_token_ids\":5}", "stop_token_ids"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", "logit_bias.1"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"01\":1}}", "logit_bias.01"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "logit_bias.x"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", "logit_bias.-1"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"9999999999\":1}}", "logit_bias.9999999999"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"1\"}}", "logit_bias.1"},
    {"{\"prompt\":\"a\",\"logit_bias\":[]}", "logit_bias"},
    {"{\"prompt\":\"a\",\"min_tokens\":17}", "min_tokens"},
    {"{\"prompt\":\"a\",\"best_of\":2}", "best_of"},
    {"{\"prompt\":\"a\",\"best_of\":\"1\"}", "best_of"},
    {"{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix"},
    {"{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", "response_format"},
    {"{\"prompt\":\"a\",\"user\":5}", "user"},
    {"{\"prompt\":\"a\",\"metadata\":[]}", "metadata"},
    {"{\"prompt\":\"a\",\"model\":5}", "model"},
    {"{\"prompt\":\"a\",\"model\":\"x\\u0000y\"}", "model"},
    {"{\"prompt\":\"a\",\"messages\":[]}", "messages"},
};

static void mistakes_in_completions_are_named(void **state)
{
    (void)state;
    ALL_BAD(API_COMPLETION, bad_completions);
}

/* ---- chat ---- */

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"

static void mistakes_in_chats_are_named(void **state)
{
    static const struct bad rows[] = {
        {"{}", "messages"},
        {"{\"messages\":[]}", "messages"},
        {"{\"messages\":{}}", "messages"},
        {"{\"messages\":[5]}", "messages[0]"},
        {"{\"messages\":[{\"content\":\"a\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"robot\",\"content\":\"a\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"user\\u0000\",\"content\":\"a\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":5,\"content\":\"a\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}", "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{}}]}]}",
         "messages[0].content[1].type"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"a\"}]}]}", "messages[0].content[0].type"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content[0].text"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}]}", "messages[0].content[0].text"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"x\":1}]}]}", "messages[0].content[0].x"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"a\",\"foo\":1}]}", "messages[1].foo"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":5}]}", "messages[0].name"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}]}",
         "messages[0].tool_calls"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\"}]}]}", "messages[0].tool_calls[0].function"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"{}\"}}]}]}",
         "messages[0].tool_calls[0].function.name"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}]}",
         "messages[0].tool_calls[0].function.arguments"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}]}",
         "messages[0].tool_calls[0].type"},
        {"{" M ",\"prompt\":\"a\"}", "prompt"},
        {"{" M ",\"max_tokens\":0}", "max_tokens"},
        {"{" M ",\"max_tokens\":5,\"max_completion_tokens\":6}", "max_tokens"},
        {"{" M ",\"logprobs\":1}", "logprobs"},
        {"{" M ",\"top_logprobs\":2}", "top_logprobs"},
        {"{" M ",\"logprobs\":false,\"top_logprobs\":2}", "top_logprobs"},
        {"{" M ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
        {"{" M ",\"tools\":[{\"type\":\"function\"}]}", "tools"},
        {"{" M ",\"tool_choice\":\"auto\"}", "tool_choice"},
        {"{" M ",\"tool_choice\":\"required\"}", "tool_choice"},
        {"{" M ",\"response_format\":{\"type\":\"json_object\"}}", "response_format"},
        {"{" M ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}", "response_format"},
        {"{" M ",\"modalities\":[\"audio\"]}", "modalities"},
        {"{" M ",\"reasoning_effort\":\"low\"}", "reasoning_effort"},
        {"{" M ",\"chat_template\":\"x\"}", "chat_template"},
        {"{" M ",\"chat_template_kwargs\":5}", "chat_template_kwargs"},
        {"{" M ",\"chat_template_kwargs\":{\"messages\":[]}}", "chat_template_kwargs.messages"},
        {"{" M ",\"template_now_s\":-1}", "template_now_s"},
        {"{" M ",\"template_now_s\":\"now\"}", "template_now_s"},
        {"{" M ",\"n\":65}", "n"},
        {"{" M ",\"parallel_tool_calls\":\"yes\"}", "parallel_tool_calls"},
        {"{" M ",\"echo\":true}", "echo"},
    };
    (void)state;
    ALL_BAD(API_CHAT, rows);
}

static void assert_message(const struct parsed *p, size_t i, const char *want)
{
    char *got = json_dumps(json_array_get(p->r.messages, i), JSON_COMPACT);
    assert_string_equal(got, want);
    free(got);
}

static void messages_take_the_shape_that_templates_know(void **state)
{
    (void)state;
    struct parsed p = good(API_CHAT,
                           "{\"messages\":[{\"role\":\"developer\",\"content\":\"d\",\"name\":null},"
                           "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
                           "{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
                           "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": [1]}\"}}]},"
                           "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"c1\"}]}");
    assert_message(&p, 0, "{\"role\":\"system\",\"content\":\"d\"}");
    assert_message(&p, 1, "{\"role\":\"user\",\"content\":\"a\\nb\"}");
    assert_message(&p, 2, "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                          "\"arguments\":{\"x\":[1]}}}],\"content\":\"\"}");
    assert_message(&p, 3, "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"c1\"}");
    done(&p);
    p = good(API_CHAT, "{" M ",\"logprobs\":true,\"top_logprobs\":3,\"max_completion_tokens\":7,\"template_now_s\":5,"
                       "\"add_generation_prompt\":false}");
    assert_int_equal(p.r.n_logprobs, 3);
    assert_int_equal(p.r.max_tokens, 7);
    assert_true(p.r.has_now && p.r.now_s == 5 && !p.r.add_generation_prompt);
    done(&p);
    p = good(API_CHAT, "{" M ",\"top_logprobs\":3,\"logprobs\":true}");
    assert_int_equal(p.r.n_logprobs, 3);
    done(&p);
    p = good(API_CHAT, "{" M ",\"logprobs\":true}");
    assert_int_equal(p.r.n_logprobs, 0);
    done(&p);
}

/* ---- tokenize ---- */

static void mistakes_in_tokenize_are_named(void **state)
{
    static const struct bad tokenize[] = {
        {"{}", "prompt"},
        {"{\"prompt\":[\"a\"]}", "prompt"},
        {"{\"prompt\":\"a\"," M "}", "messages"},
        {"{\"prompt\":\"a\",\"max_tokens\":1}", "max_tokens"},
    };
    static const struct bad detokenize[] = {
        {"{}", "tokens"}, {"{\"tokens\":\"a\"}", "tokens"}, {"{\"tokens\":[1,\"a\"]}", "tokens[1]"}, {"{\"tokens\":[1],\"prompt\":\"a\"}", "prompt"},
    };
    (void)state;
    ALL_BAD(API_TOKENIZE, tokenize);
    ALL_BAD(API_DETOKENIZE, detokenize);
    struct parsed p = good(API_TOKENIZE, "{\"prompt\":\"a\"}");
    assert_true(p.r.add_special_tokens);
    done(&p);
    p = good(API_TOKENIZE, "{" M "}");
    assert_false(p.r.add_special_tokens);
    done(&p);
    p = good(API_TOKENIZE, "{" M ",\"add_special_tokens\":true}");
    assert_true(p.r.add_special_tokens);
    done(&p);
    p = good(API_DETOKENIZE, "{\"tokens\":[]}");
    assert_int_equal(p.r.prompts[0].n_ids, 0);
    done(&p);
}

/* ---- JSON ---- */

static void what_is_no_sound_json_is_refused(void **state)
{
    static const struct bad rows[] = {
        {"", ""},
        {"   ", ""},
        {"[]", ""},
        {"\"a\"", ""},
        {"{\"prompt\":\"a\"", ""},
        {"{\"prompt\":\"a\"} x", ""},
        {"{\"prompt\":\"a\"}{}", ""},
        {"{\"prompt\":\"a\",}", ""},
        {"{'prompt':'a'}", ""},
        {"{\"prompt\":\"a\",\"prompt\":\"b\"}", ""},
        {"{\"prompt\":\"a\",\"seed\":9223372036854775808}", ""},
        {"{\"prompt\":\"a\",\"seed\":100000000000000000000000000000}", ""},
        {"{\"prompt\":\"a\",\"temperature\":1e400}", ""},
        {"{\"prompt\":\"a\",\"temperature\":NaN}", ""},
        {"{\"prompt\":\"\xff\"}", ""},
        {"{\"prompt\":\"\xc0\x80\"}", ""},
        {"{\"prompt\":\"\xed\xa0\x80\"}", ""},
        {"{\"prompt\":\"\\ud800\"}", ""},
        {"{\"prompt\":\"\\ud800\\u0041\"}", ""},
        {"{\"a\\u0000b\":1}", ""},
        {"\xef\xbb\xbf{\"prompt\":\"a\"}", ""},
    };
    (void)state;
    ALL_BAD(API_COMPLETION, rows);
    struct parsed p = parse_n(API_COMPLETION, "{\"prompt\":\"a\0\"}", 14);
    assert_int_equal(p.rc, -1);
    done(&p);
    p = parse_n(API_COMPLETION, "{\"prompt\":\"a\"}\0", 15);
    assert_int_equal(p.rc, -1);
    done(&p);
}

static void bombs_are_refused_before_a_tree_is_built(void **state)
{
    (void)state;
    size_t n = 200000;
    char *body = malloc(n + 64);
    memset(body, '[', n);
    struct parsed p = parse_n(API_COMPLETION, body, n);
    assert_int_equal(p.rc, -1);
    assert_non_null(strstr(p.err.msg, "64 levels"));
    done(&p);
    for (size_t i = 0; i < n; i += 2)
        memcpy(body + i, "0,", 2);
    body[0] = '[';
    p = parse_n(API_COMPLETION, body, n);
    assert_int_equal(p.rc, -1);
    assert_non_null(strstr(p.err.msg, "values"));
    done(&p);
    for (size_t i = 0; i + 3 <= n; i += 3)
        memcpy(body + i, "{},", 3);
    body[0] = '[';
    p = parse_n(API_COMPLETION, body, n);
    assert_int_equal(p.rc, -1);
    assert_non_null(strstr(p.err.msg, "arrays and objects"));
    done(&p);
    size_t at = (size_t)sprintf(body, "{\"prompt\":\"");
    for (size_t i = 0; i < 50000; i++)
        memcpy(body + at + 2 * i, i % 2 == 0 ? "[," : "\\\"", 2); /* brackets and escaped quotes within a string cost nothing */
    strcpy(body + at + 100000, "\"}");
    p = good(API_COMPLETION, body);
    done(&p);
    free(body);
}

static void an_arena_that_is_too_small_is_an_error_not_a_crash(void **state)
{
    const char *body = "{\"prompt\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20],\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"1\":1}}";
    (void)state;
    for (size_t max = 0; max < 200; max += 16) {
        struct arena arena;
        struct api_request r;
        struct err err;
        arena_init(&arena, max);
        if (api_parse(API_COMPLETION, body, strlen(body), &limits, &arena, &r, &err) == 0)
            api_request_finish(&r);
        else
            assert_int_equal(err.code, ERR_NOMEM);
        arena_finish(&arena);
    }
}

static void unknown_fields_may_be_ignored_by_configuration(void **state)
{
    (void)state;
    limits.ignore_unknown = true;
    struct parsed p = good(API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"x y\":1}],\"zap\":{\"deep\":1},\"stream\":true,"
                                     "\"stream_options\":{\"q\":1}}");
    assert_string_equal(p.r.ignored, "messages[0].x?y,zap,stream_options.q");
    assert_message(&p, 0, "{\"role\":\"user\",\"content\":\"a\"}");
    done(&p);
    char many[8192];
    size_t n = (size_t)snprintf(many, sizeof many, "{\"prompt\":\"a\"");
    for (int i = 0; i < 300; i++)
        n += (size_t)snprintf(many + n, sizeof many - n, ",\"field%03d\":1", i);
    snprintf(many + n, sizeof many - n, "}");
    p = good(API_COMPLETION, many);
    assert_true(strlen(p.r.ignored) <= 1024 + 3);
    assert_non_null(strstr(p.r.ignored, ",field100,"));
    assert_string_equal(p.r.ignored + strlen(p.r.ignored) - 13, ",field112,..."); /* whole names, and a sign that there are more */
    done(&p);
    p = parse_n(API_CHAT, "{" M ",\"tools\":[1]}", strlen("{" M ",\"tools\":[1]}")); /* known, and not served: never ignored */
    assert_int_equal(p.rc, -1);
    done(&p);
    limits.ignore_unknown = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_fields_have_openais_defaults),
        cmocka_unit_test(every_field_of_a_completion_arrives),
        cmocka_unit_test(prompts_have_four_forms),
        cmocka_unit_test(null_and_neutral_values_are_absent),
        cmocka_unit_test(refused_features_say_what_may_be_sent_instead),
        cmocka_unit_test(mistakes_in_completions_are_named),
        cmocka_unit_test(mistakes_in_chats_are_named),
        cmocka_unit_test(messages_take_the_shape_that_templates_know),
        cmocka_unit_test(mistakes_in_tokenize_are_named),
        cmocka_unit_test(what_is_no_sound_json_is_refused),
        cmocka_unit_test(bombs_are_refused_before_a_tree_is_built),
        cmocka_unit_test(an_arena_that_is_too_small_is_an_error_not_a_crash),
        cmocka_unit_test(unknown_fields_may_be_ignored_by_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_routes.c: what is refused at the door and in which words, and the routes that need no computing. */
#include "tests/server/service.h"

#include "server/keys.h"

/* ---- the door ---- */

static void wrong_paths_methods_and_types_are_refused(void **state)
{
    (void)state;
    static const char *const form[] = {"Content-Type", "application/x-www-form-urlencoded", NULL};
    static const char *const latin[] = {"Content-Type", "application/json; charset=latin1", NULL};
    static const char *const utf8[] = {"Content-Type", "Application/JSON; charset=UTF-8", NULL};
    struct {
        const char *method, *path;
        const char *const *headers;
        int status;
        const char *code;
    } rows[] = {
        {"GET", "/nothing", NULL, 404, "not_found"},          {"GET", "/v1/models/", NULL, 404, "not_found"},
        {"POST", "/v1/chat/completion", NULL, 404, "not_found"}, {"GET", "/v1/completions", NULL, 405, "method_not_allowed"},
        {"POST", "/health", NULL, 405, "method_not_allowed"}, {"DELETE", "/v1/models/x", NULL, 405, "method_not_allowed"},
        {"POST", "/tokenize", form, 415, "unsupported_media_type"}, {"POST", "/tokenize", latin, 415, "unsupported_media_type"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_exchange *x = send_with(rows[i].method, rows[i].path, rows[i].headers, "{}");
        assert_false(x->accepted);
        assert_error(x, rows[i].status, rows[i].code, NULL);
        if (rows[i].status == 405)
            assert_non_null(strstr(x->reply_headers, "Allow: "));
        close_exchange(x);
    }
    struct http_exchange *x = send_with("POST", "/tokenize", utf8, "{\"prompt\":\"a\"}");
    assert_int_equal(x->status, 200);
    close_exchange(x);
}

static void a_body_over_the_limit_is_413_before_it_is_read(void **state)
{
    const struct http_callbacks *cb = app_callbacks(sv.app);
    struct http_exchange *x = fake_exchange("POST", "/v1/completions", NULL);
    (void)state;
    x->content_length = (4u << 20) + 1;
    assert_false(cb->accept(cb->ctx, x, &x->user));
    assert_error(x, 413, "request_too_large", NULL);
    close_exchange(x);
}

static void while_loading_all_but_health_and_metrics_is_503(void **state)
{
    (void)state;
    struct app_options opt = options();
    restart_with(&opt);
    app_progress(sv.app, 30, 120);
    const char *paths[] = {"/v1/models", "/version"};
    for (size_t i = 0; i < 2; i++) {
        struct http_exchange *x = get(paths[i]);
        assert_error(x, 503, "model_loading", NULL);
        assert_non_null(strstr(x->reply_headers, "Retry-After: "));
        close_exchange(x);
    }
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\"}");
    assert_error(x, 503, "model_loading", NULL);
    close_exchange(x);
    x = get("/health");
    json_t *v = body_of(x);
    assert_text(v, "status", "loading");
    assert_true(json_real_value(find(v, "progress")) == 0.25);
    json_decref(v);
    close_exchange(x);
    x = get("/metrics");
    assert_int_equal(x->status, 200);
    close_exchange(x);
    fake_reset();
    load();
    x = get("/health");
    assert_int_equal(x->status, 200);
    v = body_of(x);
    assert_text(v, "status", "ok");
    json_decref(v);
    close_exchange(x);
}

static void keys_guard_all_but_health_and_part_the_cache(void **state)
{
    (void)state;
    char path[] = "/tmp/test_app_keys_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "alpha-0001\nbeta-0002\n", 21), 21);
    close(fd);
    struct err err;
    struct keys *keys;
    assert_int_equal(keys_load(path, &keys, &err), 0);
    unlink(path);
    struct app_options opt = options();
    opt.keys = keys;
    restart_with(&opt);
    fake_reset();
    load();
    static const char *const wrong[] = {"Authorization", "Bearer gamma", NULL}, *const one[] = {"Authorization", "Bearer alpha-0001", NULL},
                             *const two[] = {"Authorization", "Bearer beta-0002", NULL};
    const char *const *bad[] = {NULL, wrong};
    for (size_t i = 0; i < 2; i++) {
        struct http_exchange *x = send_with("POST", "/v1/completions", bad[i], "{\"prompt\":\"a\"}");
        assert_error(x, 401, "invalid_api_key", NULL);
        assert_non_null(strstr(x->reply_headers, "WWW-Authenticate: Bearer"));
        close_exchange(x);
    }
    struct http_exchange *x = get("/health");
    assert_int_equal(x->status, 200);
    close_exchange(x);
    x = get("/metrics");
    assert_error(x, 401, "invalid_api_key", NULL);
    close_exchange(x);
    const char *const *good[] = {one, two, one};
    for (size_t i = 0; i < 3; i++) {
        x = send_with("POST", "/v1/completions", good[i], "{\"prompt\":\"a\"}");
        fake_choice(i, 0, ENGINE_FINISH_LENGTH);
        fake_end(i, ENGINE_FINISH_LENGTH, 0);
        hear();
        assert_int_equal(x->status, 200);
        close_exchange(x);
    }
    assert_true(fake.requests[0].r.cache_scope != fake.requests[1].r.cache_scope);
    assert_true(fake.requests[0].r.cache_scope == fake.requests[2].r.cache_scope);
    struct app_options plain = options();
    restart_with(&plain);
    keys_free(keys);
}

static void browsers_of_configured_origins_may_come(void **state)
{
    (void)state;
    static const char *const origins[] = {"https://chat.example", NULL};
    struct app_options opt = options();
    opt.cors_origins = origins;
    restart_with(&opt);
    fake_reset();
    load();
    static const char *const ours[] = {"Origin", "https://chat.example", "Access-Control-Request-Headers", "x-one", NULL},
                             *const evil[] = {"Origin", "https://evil.example", NULL};
    struct http_exchange *x = send_with("OPTIONS", "/v1/completions", ours, "");
    assert_int_equal(x->status, 204);
    assert_non_null(strstr(x->reply_headers, "Access-Control-Allow-Origin: https://chat.example\n"));
    assert_non_null(strstr(x->reply_headers, "Access-Control-Allow-Headers: x-one\n"));
    assert_non_null(strstr(x->reply_headers, "Access-Control-Allow-Methods: POST"));
    close_exchange(x);
    x = send_with("OPTIONS", "/v1/completions", evil, "");
    assert_null(strstr(x->reply_headers, "Access-Control-Allow"));
    close_exchange(x);
    x = send_with("GET", "/version", ours, "");
    assert_int_equal(x->status, 200);
    assert_non_null(strstr(x->reply_headers, "Access-Control-Allow-Origin: https://chat.example\n"));
    close_exchange(x);
    x = send_with("GET", "/nothing", ours, ""); /* a page must be able to read what went wrong */
    assert_int_equal(x->status, 404);
    assert_non_null(strstr(x->reply_headers, "Access-Control-Allow-Origin: https://chat.example\n"));
    close_exchange(x);
}

static void ignored_fields_come_back_in_a_header(void **state)
{
    (void)state;
    struct http_exchange *x = post("/tokenize", "{\"prompt\":\"a\",\"foo\":1}");
    assert_error(x, 400, NULL, "foo");
    close_exchange(x);
    struct app_options opt = options();
    opt.ignore_unknown_fields = true;
    restart_with(&opt);
    fake_reset();
    load();
    x = post("/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"b\\r\\nEvil: x\":1}],\"foo\":1}");
    assert_int_equal(x->status, 200);
    assert_non_null(strstr(x->reply_headers, "X-Nextd-Ignored-Fields: messages[0].b??Evil??x,foo\n"));
    close_exchange(x);
}

/* ---- models, templates, tokens, figures ---- */

static void another_models_name_is_404(void **state)
{
    (void)state;
    const char *names[] = {"fake-model", ""};
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"model\":\"gpt-4\"}");
    assert_error(x, 404, "model_not_found", "model");
    close_exchange(x);
    for (size_t i = 0; i < 2; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"prompt\":\"a\",\"model\":\"%s\"}", names[i]);
        x = post("/tokenize", body);
        assert_int_equal(x->status, 200);
        close_exchange(x);
    }
    x = get("/v1/models");
    json_t *v = body_of(x);
    assert_text(v, "data.0.id", "fake-model");
    assert_text(v, "data.0.object", "model");
    assert_number(v, "data.0.created", 1700000000);
    assert_number(v, "data.0.max_model_len", FAKE_N_CTX);
    json_decref(v);
    close_exchange(x);
    x = get("/v1/models/fake-model");
    assert_int_equal(x->status, 200);
    close_exchange(x);
    x = get("/v1/models/gpt-4");
    assert_error(x, 404, "model_not_found", "model");
    close_exchange(x);
}

static void chat_without_a_template_names_the_option(void **state)
{
    (void)state;
    const char *templates[] = {NULL, "BAD template"};
    for (size_t i = 0; i < 2; i++) {
        struct app_options opt = options();
        restart_with(&opt);
        fake_reset();
        fake.info.chat_template = templates[i];
        load();
        assert_non_null(app_chat_template_error(sv.app));
        struct http_exchange *x = post("/v1/chat/completions", CHAT "}");
        assert_error(x, 400, NULL, "messages");
        assert_non_null(strstr(x->body.p, "--chat-template"));
        close_exchange(x);
    }
    struct err err;
    struct app_options opt = options();
    opt.chat_template = "BAD";
    opt.chat_template_bytes = 3;
    restart_with(&opt);
    assert_int_equal(app_set_engine(sv.app, fake_engine(), &err), -1);
}

static void a_template_that_raises_is_400_with_its_words_and_line(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", CHAT ",\"chat_template_kwargs\":{\"raise\":true}}");
    assert_error(x, 400, NULL, "messages");
    assert_non_null(strstr(x->body.p, "line 3: Conversation roles must alternate"));
    close_exchange(x);
}

static void ids_outside_the_vocabulary_are_refused_with_their_path(void **state)
{
    (void)state;
    struct {
        const char *path, *body, *param;
    } rows[] = {
        {"/v1/completions", "{\"prompt\":[1,259]}", "prompt[1]"},
        {"/v1/completions", "{\"prompt\":[[1],[2,3,400]]}", "prompt[1][2]"},
        {"/v1/completions", "{\"prompt\":\"a\",\"stop_token_ids\":[259]}", "stop_token_ids[0]"},
        {"/v1/completions", "{\"prompt\":\"a\",\"logit_bias\":{\"259\":1}}", "logit_bias"},
        {"/detokenize", "{\"tokens\":[259]}", "tokens[0]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_exchange *x = post(rows[i].path, rows[i].body);
        assert_error(x, 400, NULL, rows[i].param);
        close_exchange(x);
    }
    assert_int_equal(fake.n_requests, 0);
}

static void tokens_go_both_ways(void **state)
{
    (void)state;
    struct {
        const char *body, *want;
    } rows[] = {
        {"{\"prompt\":\"<|im|>\",\"add_special_tokens\":false}",
         "{\"count\":6,\"max_model_len\":4096,\"tokens\":[60,124,105,109,124,62],\"token_strs\":null}"},
        {"{\"prompt\":\"a\\u0000\",\"return_token_strs\":true}",
         "{\"count\":3,\"max_model_len\":4096,\"tokens\":[257,97,0],\"token_strs\":[\"<s>\",\"a\",\"\\u0000\"]}"},
        {"{\"prompt\":\"\",\"add_special_tokens\":false}", "{\"count\":0,\"max_model_len\":4096,\"tokens\":[],\"token_strs\":null}"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"b\"}]}",
         "{\"count\":9,\"max_model_len\":4096,\"tokens\":[258,117,115,101,114,58,98,10,258],\"token_strs\":null}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_exchange *x = post("/tokenize", rows[i].body);
        assert_int_equal(x->status, 200);
        assert_string_equal(x->body.p, rows[i].want);
        close_exchange(x);
    }
    struct http_exchange *x = post("/detokenize", "{\"tokens\":[257,104,105]}");
    assert_string_equal(x->body.p, "{\"prompt\":\"<s>hi\"}");
    close_exchange(x);
}

static void metrics_bear_vllms_names(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\"}");
    fake_text(0, 0, "xy");
    fake_text(0, 0, "z");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 3);
    hear();
    close_exchange(x);
    fake.stats.n_running = 3;
    fake.stats.n_pages_used = 16;
    fake.stats.preemptions = 5;
    x = get("/metrics");
    assert_non_null(strstr(x->reply_headers, "text/plain; version=0.0.4"));
    const char *want[] = {
        "\nnextd:num_requests_running{model_name=\"fake-model\"} 3\n",
        "\nnextd:kv_cache_usage_perc{model_name=\"fake-model\"} 0.25\n",
        "\nnextd:num_preemptions_total{model_name=\"fake-model\"} 5\n",
        "\nnextd:request_success_total{model_name=\"fake-model\",finished_reason=\"length\"} 1\n",
        "\nnextd:time_to_first_token_seconds_count{model_name=\"fake-model\"} 1\n",
        "\nnextd:inter_token_latency_seconds_count{model_name=\"fake-model\"} 1\n",
        "\nnextd:e2e_request_latency_seconds_bucket{model_name=\"fake-model\",le=\"+Inf\"} 1\n",
        "\nnextd:request_queue_time_seconds_sum{model_name=\"fake-model\"} 0.02",
        "\nnextd:http_requests_total{route=\"/v1/completions\",status=\"2xx\"} 1\n",
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if (strstr(x->body.p, want[i]) == NULL)
            fail_msg("missing: %s in %s", want[i], x->body.p);
    close_exchange(x);
}

static void a_faulted_engine_is_not_healthy(void **state)
{
    (void)state;
    fake.stats.faulted = true;
    struct http_exchange *x = get("/health");
    assert_int_equal(x->status, 503);
    assert_string_equal(x->body.p, "{\"status\":\"faulted\"}");
    close_exchange(x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(wrong_paths_methods_and_types_are_refused),
        T(a_body_over_the_limit_is_413_before_it_is_read),
        T(while_loading_all_but_health_and_metrics_is_503),
        T(keys_guard_all_but_health_and_part_the_cache),
        T(browsers_of_configured_origins_may_come),
        T(ignored_fields_come_back_in_a_header),
        T(another_models_name_is_404),
        T(chat_without_a_template_names_the_option),
        T(a_template_that_raises_is_400_with_its_words_and_line),
        T(ids_outside_the_vocabulary_are_refused_with_their_path),
        T(tokens_go_both_ways),
        T(metrics_bear_vllms_names),
        T(a_faulted_engine_is_not_healthy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

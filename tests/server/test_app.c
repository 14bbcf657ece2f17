/* test_app.c: a request's life from body to end: answers, streams, and all the ways in which it can end early. */
#include "tests/server/service.h"

#include "server/call.h"
#include "server/completion.h"

/* ---- whole answers ---- */

static void completion_answers_in_openais_shape(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"ab\",\"seed\":7,\"max_tokens\":3}");
    assert_int_equal(x->status, 0);
    assert_int_equal(fake.n_requests, 1);
    assert_int_equal(fake.requests[0].r.n_prompt, 3);
    assert_int_equal(fake.requests[0].r.prompt[0], FAKE_BOS_ID);
    assert_int_equal(fake.requests[0].r.seed, 7);
    assert_int_equal(fake.requests[0].r.max_tokens, 3);
    fake_text(0, 0, "c\"");
    fake_text(0, 0, "d");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 3)->n_cached = 2;
    hear();
    assert_int_equal(x->status, 200);
    json_t *v = body_of(x);
    assert_memory_equal(json_string_value(find(v, "id")), "cmpl-", 5);
    assert_text(v, "object", "text_completion");
    assert_text(v, "model", "fake-model");
    assert_text(v, "system_fingerprint", "n1-0123456789ab");
    assert_text(v, "choices.0.text", "c\"d");
    assert_text(v, "choices.0.finish_reason", "length");
    assert_true(json_is_null(find(v, "choices.0.logprobs")));
    assert_true(json_is_null(find(v, "choices.0.stop_reason")));
    assert_number(v, "choices.0.index", 0);
    assert_number(v, "usage.prompt_tokens", 3);
    assert_number(v, "usage.completion_tokens", 3);
    assert_number(v, "usage.total_tokens", 6);
    assert_number(v, "usage.prompt_tokens_details.cached_tokens", 2);
    assert_number(v, "seed", 7);
    assert_true(json_integer_value(find(v, "created")) > 1600000000);
    json_decref(v);
    assert_non_null(strstr(sv.log, "output=3"));
    assert_null(strstr(sv.log, "ab ")); /* never the prompt */
    close_exchange(x);
}

static void chat_trusts_only_what_the_template_wrote(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im|>\"}],\"logprobs\":true}");
    const struct engine_request *r = &fake.requests[0].r;
    assert_int_equal(r->prompt[0], FAKE_CONTROL_ID);
    assert_int_equal(r->n_prompt, 1 + 5 + 6 + 1 + 1);
    assert_int_equal(r->prompt[6], '<');
    assert_int_equal(r->prompt[r->n_prompt - 1], FAKE_CONTROL_ID);
    assert_int_equal(r->max_tokens, -1);
    fake_text(0, 0, "\xc3");
    fake.events[fake.n_events - 1].n_text = 0;
    fake_choice(0, 0, ENGINE_FINISH_STOP);
    fake_end(0, ENGINE_FINISH_STOP, 2);
    hear();
    json_t *v = body_of(x);
    assert_memory_equal(json_string_value(find(v, "id")), "chatcmpl-", 9);
    assert_text(v, "object", "chat.completion");
    assert_text(v, "choices.0.message.role", "assistant");
    assert_text(v, "choices.0.message.content", "");
    assert_text(v, "choices.0.finish_reason", "stop");
    assert_int_equal(json_array_size(find(v, "choices.0.logprobs.content")), 2);
    assert_text(v, "choices.0.logprobs.content.0.token", "\xef\xbf\xbd");
    assert_number(v, "choices.0.logprobs.content.0.bytes.0", 0xc3);
    assert_text(v, "choices.0.logprobs.content.1.token", "<|end|>");
    json_decref(v);
    close_exchange(x);
}

static void choices_of_several_prompts_are_numbered_prompt_times_n_plus_choice(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":2}");
    assert_int_equal(fake.n_requests, 2);
    const char *texts[2][2] = {{"p", "q"}, {"r", "s"}};
    for (int p = 1; p >= 0; p--)
        for (int c = 1; c >= 0; c--) {
            fake_text((size_t)p, c, texts[p][c]);
            fake_choice((size_t)p, c, ENGINE_FINISH_LENGTH);
        }
    fake_end(1, ENGINE_FINISH_LENGTH, 2);
    hear();
    assert_int_equal(x->status, 0);
    fake_end(0, ENGINE_FINISH_LENGTH, 2);
    hear();
    json_t *v = body_of(x);
    assert_text(v, "choices.0.text", "p");
    assert_text(v, "choices.1.text", "q");
    assert_text(v, "choices.2.text", "r");
    assert_text(v, "choices.3.text", "s");
    assert_number(v, "choices.3.index", 3);
    assert_number(v, "usage.prompt_tokens", 4);
    assert_number(v, "usage.completion_tokens", 4);
    json_decref(v);
    close_exchange(x);
}

static void echo_gives_the_prompt_and_its_logprobs_back(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"\xc3\xa9z\",\"echo\":true,\"logprobs\":2,\"max_tokens\":0}");
    assert_int_equal(fake.requests[0].r.n_prompt_logprobs, 2);
    assert_int_equal(fake.requests[0].r.max_tokens, 0);
    fake_prompt(0);
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 0);
    hear();
    json_t *v = body_of(x);
    assert_text(v, "choices.0.text", "\xc3\xa9z");
    assert_int_equal(json_array_size(find(v, "choices.0.logprobs.tokens")), 4);
    assert_text(v, "choices.0.logprobs.tokens.0", "<s>");
    assert_text(v, "choices.0.logprobs.tokens.1", "bytes:\\xc3");
    assert_text(v, "choices.0.logprobs.tokens.3", "z");
    assert_true(json_is_null(find(v, "choices.0.logprobs.token_logprobs.0")));
    assert_true(json_is_null(find(v, "choices.0.logprobs.top_logprobs.0")));
    assert_true((float)json_number_value(find(v, "choices.0.logprobs.token_logprobs.3")) == -0.5f - 122.0f / 1000);
    assert_int_equal(json_object_size(find(v, "choices.0.logprobs.top_logprobs.3")), 3); /* two of the top, and the token itself */
    const int offsets[] = {0, 0, 0, 1};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(json_integer_value(json_array_get(find(v, "choices.0.logprobs.text_offset"), i)), offsets[i]);
    json_decref(v);
    close_exchange(x);
}

static void echoed_ids_come_back_as_their_text(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":[257,97,98],\"echo\":true,\"logprobs\":0,\"max_tokens\":1}");
    fake_prompt(0);
    fake_text(0, 0, "c");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 1);
    hear();
    json_t *v = body_of(x);
    assert_text(v, "choices.0.text", "<s>abc");
    assert_number(v, "choices.0.logprobs.text_offset.1", 3);
    assert_number(v, "choices.0.logprobs.text_offset.3", 5);
    json_decref(v);
    close_exchange(x);
}

static void what_stopped_a_choice_is_named(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"n\":2,\"stop\":[\"x\",\"yy\"],\"stop_token_ids\":[98]}");
    fake_choice(0, 0, ENGINE_FINISH_STOP)->matched_stop = 1;
    fake_choice(0, 1, ENGINE_FINISH_STOP)->matched_stop_id = 98;
    fake_end(0, ENGINE_FINISH_STOP, 2);
    hear();
    json_t *v = body_of(x);
    assert_text(v, "choices.0.stop_reason", "yy");
    assert_number(v, "choices.1.stop_reason", 98);
    json_decref(v);
    close_exchange(x);
}

static void a_seed_is_drawn_where_none_is_given(void **state)
{
    (void)state;
    struct http_exchange *x[2];
    json_int_t seeds[2];
    for (int i = 0; i < 2; i++) {
        x[i] = post("/v1/completions", "{\"prompt\":\"a\"}");
        fake_choice((size_t)i, 0, ENGINE_FINISH_LENGTH);
        fake_end((size_t)i, ENGINE_FINISH_LENGTH, 0);
        hear();
        json_t *v = body_of(x[i]);
        seeds[i] = json_integer_value(find(v, "seed"));
        assert_true(seeds[i] >= 0 && seeds[i] < (json_int_t)1 << 53);
        assert_int_equal((json_int_t)fake.requests[i].r.seed, seeds[i]);
        json_decref(v);
        close_exchange(x[i]);
    }
    assert_int_not_equal(seeds[0], seeds[1]);
}

static void the_date_of_a_template_is_a_request_input(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", CHAT ",\"chat_template_kwargs\":{\"date\":1},\"template_now_s\":86400}");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 0);
    hear();
    json_t *v = body_of(x);
    assert_number(v, "template_now_s", 86400);
    json_decref(v);
    close_exchange(x);
}

/* ---- streams ---- */

static void a_chat_stream_has_role_text_finish_usage_and_done(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", CHAT ",\"stream\":true,\"seed\":-5,\"stream_options\":{\"include_usage\":true}}");
    hear();
    assert_int_equal(x->status, 0); /* until the first token an error could still be a status */
    fake_text(0, 0, "he");
    fake_held(0, 0, "l");
    fake_text(0, 0, "lo");
    fake_choice(0, 0, ENGINE_FINISH_STOP);
    fake_end(0, ENGINE_FINISH_STOP, 6);
    hear();
    assert_int_equal(x->status, 200);
    assert_true(x->ended);
    assert_non_null(strstr(x->reply_headers, "Content-Type: text/event-stream"));
    assert_non_null(strstr(x->reply_headers, "Cache-Control: no-cache"));
    const char *at = x->body.p, *what;
    const char *pieces[] = {"", "he", "lo"};
    for (int i = 0; i < 3; i++) {
        json_t *v = next_event(&at, &what);
        assert_text(v, "object", "chat.completion.chunk");
        assert_text(v, "choices.0.delta.content", pieces[i]);
        assert_int_equal(find(v, "choices.0.delta.role") != NULL, i == 0);
        assert_true(json_is_null(find(v, "choices.0.finish_reason")));
        assert_true(json_is_null(find(v, "usage")));
        json_decref(v);
    }
    json_t *v = next_event(&at, &what);
    assert_text(v, "choices.0.finish_reason", "stop");
    assert_number(v, "seed", -5);
    json_decref(v);
    v = next_event(&at, &what);
    assert_int_equal(json_array_size(find(v, "choices")), 0);
    assert_number(v, "usage.completion_tokens", 6);
    json_decref(v);
    next_event(&at, &what);
    assert_string_equal(what, "done");
    assert_int_equal(*at, '\0');
    close_exchange(x);
}

static void text_is_the_same_however_events_are_cut(void **state)
{
    (void)state;
    const char *cuts[3][4] = {{"a", "b", "c", "d"}, {"abcd", NULL}, {"ab", "cd", NULL}};
    for (size_t i = 0; i < 3; i++) {
        char text[64];
        struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
        for (size_t k = 0; k < 4 && cuts[i][k] != NULL; k++) {
            fake_text(i, 0, cuts[i][k]);
            if (i == 0)
                hear();
        }
        fake_choice(i, 0, ENGINE_FINISH_LENGTH);
        fake_end(i, ENGINE_FINISH_LENGTH, 4);
        hear();
        stream_text(x, 0, text, sizeof text);
        assert_string_equal(text, "abcd");
        close_exchange(x);
    }
}

static void logprobs_of_held_back_tokens_ride_with_the_text(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"stream\":true,\"logprobs\":1}");
    fake_held(0, 0, "x");
    fake_text(0, 0, "yz");
    fake_choice(0, 0, ENGINE_FINISH_STOP);
    fake_end(0, ENGINE_FINISH_STOP, 4);
    hear();
    const char *at = x->body.p, *what;
    json_t *v = next_event(&at, &what);
    assert_text(v, "choices.0.text", "yz");
    assert_int_equal(json_array_size(find(v, "choices.0.logprobs.tokens")), 3);
    assert_number(v, "choices.0.logprobs.text_offset.2", 2);
    json_decref(v);
    v = next_event(&at, &what); /* the end token has no text, but it was drawn */
    assert_text(v, "choices.0.text", "");
    assert_text(v, "choices.0.logprobs.tokens.0", "<|end|>");
    assert_number(v, "choices.0.logprobs.text_offset.0", 3);
    json_decref(v);
    close_exchange(x);
}

static void offsets_count_in_the_echoed_text_where_the_tokenizers_own_space_is_dropped(void **state)
{
    (void)state;
    for (int strips = 0; strips < 2; strips++) {
        fake.info.strips_leading_space = strips;
        struct http_exchange *x = post("/v1/completions", "{\"prompt\":[32,32,97,98],\"echo\":true,\"logprobs\":0,\"max_tokens\":0}");
        fake_prompt(strips);
        fake_choice(strips, 0, ENGINE_FINISH_LENGTH);
        fake_end(strips, ENGINE_FINISH_LENGTH, 0);
        hear();
        json_t *v = body_of(x);
        assert_text(v, "choices.0.text", strips ? " ab" : "  ab");
        assert_number(v, "choices.0.logprobs.text_offset.0", 0);
        assert_number(v, "choices.0.logprobs.text_offset.2", strips ? 1 : 2);
        assert_number(v, "choices.0.logprobs.text_offset.3", strips ? 2 : 3);
        json_decref(v);
        close_exchange(x);
    }
}

static void echo_is_a_streams_first_text_of_every_choice(void **state)
{
    (void)state;
    char text[64];
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"say\",\"stream\":true,\"echo\":true,\"n\":2}");
    fake_text(0, 1, "!");
    fake_text(0, 0, "?");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_choice(0, 1, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 2);
    hear();
    stream_text(x, 0, text, sizeof text);
    assert_string_equal(text, "say?");
    stream_text(x, 1, text, sizeof text);
    assert_string_equal(text, "say!");
    close_exchange(x);
}

static void a_silent_stream_gets_comments(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", CHAT ",\"stream\":true}");
    struct call *c = x->user;
    uint64_t now = uv_hrtime();
    completion_tick(c->completion, now + 5000000000u);
    assert_int_equal(x->status, 0);
    completion_tick(c->completion, now + 16000000000u);
    assert_int_equal(x->status, 200);
    assert_string_equal(x->body.p, ": keep-alive\n\n");
    fake_text(0, 0, "x");
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 1);
    hear();
    assert_true(x->ended);
    assert_int_equal(x->n_replies, 1);
    close_exchange(x);
}

static void a_full_stream_pauses_the_engine_and_draining_resumes_it(void **state)
{
    (void)state;
    const struct http_callbacks *cb = app_callbacks(sv.app);
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"stream\":true}");
    x->full = true;
    fake_text(0, 0, "x");
    fake_text(0, 0, "y");
    hear();
    assert_int_equal(fake.requests[0].n_paused, 1);
    assert_int_equal(fake.requests[1].n_paused, 1);
    assert_int_equal(fake.requests[0].n_resumed, 0);
    x->full = false;
    cb->drained(cb->ctx, x);
    assert_int_equal(fake.requests[0].n_resumed, 1);
    assert_int_equal(fake.requests[1].n_resumed, 1);
    for (size_t i = 0; i < 2; i++) {
        fake_choice(i, 0, ENGINE_FINISH_LENGTH);
        fake_end(i, ENGINE_FINISH_LENGTH, 1);
    }
    hear();
    assert_true(x->ended);
    close_exchange(x);
}

/* ---- ends ---- */

static void an_engine_fault_before_the_first_byte_is_a_status(void **state)
{
    (void)state;
    const char *bodies[] = {CHAT "}", CHAT ",\"stream\":true}"};
    for (size_t i = 0; i < 2; i++) {
        struct http_exchange *x = post("/v1/chat/completions", bodies[i]);
        fake_choice(i, 0, ENGINE_FINISH_ERROR);
        struct engine_event *end = fake_end(i, ENGINE_FINISH_ERROR, 0);
        err_set(&end->err, ERR_DEVICE, "the device is on fire");
        hear();
        assert_error(x, 500, "engine_fault", NULL);
        close_exchange(x);
    }
}

static void an_engine_fault_in_mid_stream_is_an_event_and_the_end(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/chat/completions", CHAT ",\"stream\":true}");
    fake_text(0, 0, "x");
    hear();
    struct engine_event *end = fake_end(0, ENGINE_FINISH_ERROR, 1);
    err_set(&end->err, ERR_DEVICE, "the device is on fire");
    hear();
    assert_true(x->ended);
    const char *at = x->body.p, *what;
    json_decref(next_event(&at, &what));
    json_decref(next_event(&at, &what));
    json_t *v = next_event(&at, &what);
    assert_text(v, "error.message", "the device is on fire");
    assert_text(v, "error.type", "server_error");
    json_decref(v);
    next_event(&at, &what);
    assert_string_equal(what, "done");
    assert_int_equal(*at, '\0');
    close_exchange(x);
}

static void a_fault_of_one_prompt_cancels_the_others(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":[\"a\",\"b\"]}");
    struct engine_event *end = fake_end(0, ENGINE_FINISH_ERROR, 0);
    err_set(&end->err, ERR_DEVICE, "broken");
    hear();
    assert_true(fake.requests[1].cancelled);
    assert_int_equal(x->status, 0);
    fake_end(1, ENGINE_FINISH_CANCELLED, 0);
    hear();
    assert_error(x, 500, "engine_fault", NULL);
    close_exchange(x);
}

static void a_client_that_leaves_is_cancelled_and_hears_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct http_exchange *x = post("/v1/completions", i == 0 ? "{\"prompt\":\"a\"}" : "{\"prompt\":\"a\",\"stream\":true}");
        fake_text(i, 0, "x");
        hear();
        size_t n = x->body.n;
        gone(x, "disconnect");
        assert_true(fake.requests[i].cancelled);
        fake_text(i, 0, "y");
        hear();
        assert_int_equal(x->body.n, n);
        if (i == 0) { /* the exchange ends before the engine does, or after */
            close_exchange(x);
            assert_int_equal(app_active_count(sv.app), 1);
        }
        fake_choice(i, 0, ENGINE_FINISH_CANCELLED);
        fake_end(i, ENGINE_FINISH_CANCELLED, 2);
        hear();
        if (i == 1)
            close_exchange(x);
        assert_int_equal(app_active_count(sv.app), 0);
        assert_non_null(strstr(sv.log, "client=gone"));
    }
}

static char *large_body(size_t n)
{
    char *body = malloc(n + 64);
    size_t at = (size_t)sprintf(body, "{\"prompt\":\"");
    memset(body + at, 'a', n);
    strcpy(body + at + n, "\"}");
    return body;
}

static void large_bodies_are_prepared_off_the_loop(void **state)
{
    (void)state;
    char *body = large_body(100000);
    struct http_exchange *x = post("/v1/completions", body);
    memset(body, 'X', strlen(body)); /* the body is the exchange's: nobody may read it now */
    free(body);
    assert_int_equal(fake.n_requests, 0);
    assert_int_equal(app_active_count(sv.app), 1);
    while (fake.n_requests == 0)
        uv_run(&sv.loop, UV_RUN_ONCE);
    assert_int_equal(fake.requests[0].r.n_prompt, 100001);
    fake_choice(0, 0, ENGINE_FINISH_LENGTH);
    fake_end(0, ENGINE_FINISH_LENGTH, 0);
    hear();
    assert_int_equal(x->status, 200);
    close_exchange(x);
}

static void an_absent_limit_ends_at_the_context_and_an_asked_one_does_not_shrink(void **state)
{
    (void)state;
    char body[FAKE_N_CTX + 100];
    const char *ends[] = {"\"}", "\",\"max_tokens\":16}"};
    const int limits[] = {4, 16};
    for (size_t i = 0; i < 2; i++) {
        size_t at = (size_t)sprintf(body, "{\"prompt\":\"");
        memset(body + at, 'a', FAKE_N_CTX - 5);
        strcpy(body + at + FAKE_N_CTX - 5, ends[i]);
        struct http_exchange *x = post("/v1/completions", body);
        assert_int_equal(fake.requests[i].r.max_tokens, limits[i]);
        fake_choice(i, 0, ENGINE_FINISH_LENGTH);
        fake_end(i, ENGINE_FINISH_LENGTH, 0);
        hear();
        close_exchange(x);
    }
}

static void a_client_that_leaves_during_preparation_leaves_nothing_behind(void **state)
{
    (void)state;
    char *body = large_body(400000);
    for (int i = 0; i < 8; i++) {
        struct http_exchange *x = post("/v1/completions", body);
        if (i % 2 == 0)
            gone(x, "disconnect");
        close_exchange(x);
    }
    free(body);
    while (app_active_count(sv.app) > 0)
        uv_run(&sv.loop, UV_RUN_ONCE);
    assert_int_equal(fake.n_requests, 0);
    assert_non_null(strstr(sv.log, "client=gone"));
}

static void a_full_queue_is_429_with_retry_after_and_nothing_admitted(void **state)
{
    (void)state;
    err_set(&fake.refuse, ERR_BUSY, "8 sequences wait; the queue holds 8");
    fake.refuse.retry_after_s = 7;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
    assert_error(x, 429, "rate_limit_exceeded", NULL);
    assert_non_null(strstr(x->reply_headers, "Retry-After: 7\n"));
    close_exchange(x);
}

static void a_prompt_that_never_fits_is_400_with_openais_code(void **state)
{
    (void)state;
    err_set_param(&fake.refuse, ERR_CONTEXT, "prompt", "prompt is 9000 tokens; the context holds 8192");
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\"}");
    assert_error(x, 400, "context_length_exceeded", "prompt");
    close_exchange(x);
    x = post("/v1/chat/completions", CHAT "}");
    assert_error(x, 400, "context_length_exceeded", "messages");
    close_exchange(x);
    err_set_param(&fake.refuse, ERR_CONTEXT, "max_tokens", "prompt is 5 tokens and max_tokens is 9000");
    x = post("/v1/chat/completions", CHAT ",\"max_completion_tokens\":9000}");
    assert_error(x, 400, "context_length_exceeded", "max_completion_tokens");
    close_exchange(x);
    assert_non_null(strstr(sv.log, "status=400 key=-1 error=context_length_exceeded"));
}

static void drain_refuses_the_new_and_cancel_ends_the_old(void **state)
{
    (void)state;
    struct http_exchange *whole = post("/v1/completions", "{\"prompt\":\"a\"}");
    struct http_exchange *stream = post("/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
    fake_text(1, 0, "x");
    hear();
    app_begin_drain(sv.app);
    assert_true(fake.drained);
    struct http_exchange *late = post("/v1/completions", "{\"prompt\":\"a\"}");
    assert_error(late, 503, "server_stopping", NULL);
    assert_non_null(strstr(late->reply_headers, "Retry-After: "));
    close_exchange(late);
    app_cancel_all(sv.app);
    for (size_t i = 0; i < 2; i++) {
        assert_true(fake.requests[i].cancelled);
        fake_choice(i, 0, ENGINE_FINISH_CANCELLED);
        fake_end(i, ENGINE_FINISH_CANCELLED, 1);
    }
    hear();
    assert_error(whole, 503, "server_stopping", NULL);
    assert_true(stream->ended);
    assert_non_null(strstr(stream->body.p, "data: {\"error\":{"));
    assert_non_null(strstr(stream->body.p, "data: [DONE]\n\n"));
    close_exchange(whole);
    close_exchange(stream);
    assert_int_equal(app_active_count(sv.app), 0);
}

static void destroy_survives_requests_that_never_ended(void **state)
{
    (void)state;
    struct http_exchange *x = post("/v1/completions", "{\"prompt\":\"a\",\"logprobs\":1}");
    fake_text(0, 0, "x");
    hear();
    close_exchange(x); /* http is closed, the engine never answers */
    app_destroy(sv.app);
    uv_run(&sv.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&sv.loop), 0);
    start(state);
}

#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(completion_answers_in_openais_shape),
        T(chat_trusts_only_what_the_template_wrote),
        T(choices_of_several_prompts_are_numbered_prompt_times_n_plus_choice),
        T(echo_gives_the_prompt_and_its_logprobs_back),
        T(echoed_ids_come_back_as_their_text),
        T(what_stopped_a_choice_is_named),
        T(a_seed_is_drawn_where_none_is_given),
        T(the_date_of_a_template_is_a_request_input),
        T(a_chat_stream_has_role_text_finish_usage_and_done),
        T(text_is_the_same_however_events_are_cut),
        T(logprobs_of_held_back_tokens_ride_with_the_text),
        T(offsets_count_in_the_echoed_text_where_the_tokenizers_own_space_is_dropped),
        T(echo_is_a_streams_first_text_of_every_choice),
        T(a_silent_stream_gets_comments),
        T(a_full_stream_pauses_the_engine_and_draining_resumes_it),
        T(an_engine_fault_before_the_first_byte_is_a_status),
        T(an_engine_fault_in_mid_stream_is_an_event_and_the_end),
        T(a_fault_of_one_prompt_cancels_the_others),
        T(a_client_that_leaves_is_cancelled_and_hears_no_more),
        T(large_bodies_are_prepared_off_the_loop),
        T(an_absent_limit_ends_at_the_context_and_an_asked_one_does_not_shrink),
        T(a_client_that_leaves_during_preparation_leaves_nothing_behind),
        T(a_full_queue_is_429_with_retry_after_and_nothing_admitted),
        T(a_prompt_that_never_fits_is_400_with_openais_code),
        T(drain_refuses_the_new_and_cancel_ends_the_old),
        T(destroy_survives_requests_that_never_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_logprobs.c: numbers that read back bit for bit, tokens that lose no byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "server/logprobs.h"

/* Tokens 0 .. 255 are bytes; 256 is "ab", 257 "\xe2\x82", 258 the control token "<|x|>", 259 another "ab". */
size_t engine_token_bytes(const struct engine *e, int32_t id, bool special, const char **p_out)
{
    static char bytes[256];
    static const char *const more[] = {"ab", "\xe2\x82", "<|x|>", "ab"};
    (void)e;
    if (id < 256) {
        bytes[id] = (char)id;
        *p_out = &bytes[id];
        return 1;
    }
    *p_out = more[id - 256];
    return id == 258 && !special ? 0 : strlen(*p_out);
}

static json_t *print(const struct logprobs *l)
{
    struct buf out;
    buf_init(&out, 1u << 20);
    logprobs_print(l, &out);
    assert_false(out.failed);
    json_error_t e;
    json_t *v = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (v == NULL)
        fail_msg("%s: %s", e.text, out.p);
    buf_finish(&out);
    return v;
}

static json_t *at(const json_t *v, const char *name, size_t i)
{
    return json_array_get(json_object_get(v, name), i);
}

static void numbers_read_back_to_the_same_bits(void **state)
{
    (void)state;
    uint32_t x = 12345;
    for (int round = 0; round < 200; round++) {
        struct logprobs l;
        struct engine_token t[50];
        logprobs_init(&l, LOGPROBS_CHAT, 1u << 20);
        for (int i = 0; i < 50; i++) {
            float f;
            uint32_t bits;
            do {
                x = x * 1664525u + 1013904223u;
                bits = x | 0x80000000u; /* log-probabilities are not positive */
                memcpy(&f, &bits, sizeof f);
            } while (!isfinite(f));
            t[i] = (struct engine_token){.id = 'a', .logprob = f};
        }
        logprobs_add(&l, NULL, t, 50);
        json_t *v = print(&l);
        for (size_t i = 0; i < 50; i++) {
            float got = (float)json_number_value(json_object_get(at(v, "content", i), "logprob"));
            assert_memory_equal(&got, &t[i].logprob, sizeof got);
        }
        json_decref(v);
        logprobs_finish(&l);
    }
}

static void chat_tokens_keep_their_bytes(void **state)
{
    (void)state;
    struct logprobs l;
    struct engine_logprob top[] = {{257, -0.5f}, {0, -INFINITY}};
    struct engine_token t = {.id = 257, .logprob = -0.5f, .n_top = 2, .top = top};
    logprobs_init(&l, LOGPROBS_CHAT, 1u << 20);
    logprobs_add(&l, NULL, &t, 1);
    json_t *v = print(&l), *one = at(v, "content", 0);
    assert_string_equal(json_string_value(json_object_get(one, "token")), "\xef\xbf\xbd\xef\xbf\xbd");
    assert_int_equal(json_integer_value(at(one, "bytes", 0)), 0xe2);
    assert_int_equal(json_integer_value(at(one, "bytes", 1)), 0x82);
    json_t *second = at(one, "top_logprobs", 1);
    assert_true(json_real_value(json_object_get(second, "logprob")) == -9999.0);
    assert_int_equal(json_integer_value(at(second, "bytes", 0)), 0);
    assert_null(json_object_get(second, "top_logprobs"));
    json_decref(v);
    logprobs_finish(&l);
}

static void legacy_has_the_drawn_token_and_no_name_twice(void **state)
{
    (void)state;
    struct logprobs l;
    struct engine_logprob top[] = {{256, -0.25f}, {259, -0.5f}, {257, -1}};
    struct engine_token t[] = {
        {.id = 'z', .logprob = -7, .n_top = 3, .top = top},
        {.id = 259, .logprob = -0.5f, .n_top = 3, .top = top},
        {.id = 258, .logprob = NAN},
        {.id = 'q', .logprob = -2, .n_top = 0},
    };
    logprobs_init(&l, LOGPROBS_LEGACY, 1u << 20);
    logprobs_add(&l, NULL, t, 4);
    json_t *v = print(&l), *first = at(v, "top_logprobs", 0);
    assert_int_equal(json_object_size(first), 3); /* ab once, the partial character, z */
    assert_true(json_real_value(json_object_get(first, "ab")) == -0.25);
    assert_true(json_number_value(json_object_get(first, "bytes:\\xe2\\x82")) == -1);
    assert_true(json_number_value(json_object_get(first, "z")) == -7);
    assert_int_equal(json_object_size(at(v, "top_logprobs", 1)), 2);
    assert_true(json_is_null(at(v, "top_logprobs", 2)));
    assert_true(json_is_null(at(v, "token_logprobs", 2)));
    assert_int_equal(json_object_size(at(v, "top_logprobs", 3)), 1); /* logprobs 0: the drawn token alone */
    const int offsets[] = {0, 1, 3, 3};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(json_integer_value(at(v, "text_offset", i)), offsets[i]);
    json_decref(v);
    logprobs_finish(&l);
}

static void offsets_run_on_over_chunks_and_count_characters(void **state)
{
    (void)state;
    struct logprobs l, prompt;
    struct engine_token space[] = {{.id = ' ', .logprob = -1}, {.id = 'a', .logprob = -1}};
    struct engine_token euro[] = {{.id = 257, .logprob = -1}, {.id = 0xac, .logprob = -1}, {.id = 'b', .logprob = -1}};
    logprobs_init(&l, LOGPROBS_LEGACY, 1u << 20);
    logprobs_init(&prompt, LOGPROBS_LEGACY, 1u << 20);
    prompt.strip_space = true; /* the tokenizer put the space before the text "a" */
    logprobs_add(&prompt, NULL, space, 2);
    logprobs_append(&l, &prompt);
    logprobs_add(&l, NULL, euro, 3);
    json_t *v = print(&l);
    const int offsets[] = {0, 0, 1, 1, 2};
    assert_int_equal(json_array_size(json_object_get(v, "tokens")), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(json_integer_value(at(v, "text_offset", i)), offsets[i]);
    json_decref(v);
    logprobs_clear(&l);
    logprobs_add(&l, NULL, euro + 2, 1);
    v = print(&l);
    assert_int_equal(json_array_size(json_object_get(v, "tokens")), 1);
    assert_int_equal(json_integer_value(at(v, "text_offset", 0)), 3);
    json_decref(v);
    logprobs_finish(&l);
    logprobs_finish(&prompt);
}

static void too_much_is_noticed(void **state)
{
    (void)state;
    struct logprobs l;
    struct engine_token t = {.id = 'a', .logprob = -1};
    logprobs_init(&l, LOGPROBS_CHAT, 100);
    logprobs_add(&l, NULL, &t, 1);
    assert_false(logprobs_failed(&l));
    logprobs_add(&l, NULL, &t, 1);
    assert_true(logprobs_failed(&l));
    logprobs_clear(&l);
    assert_true(logprobs_failed(&l));
    logprobs_finish(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_read_back_to_the_same_bits),
        cmocka_unit_test(chat_tokens_keep_their_bytes),
        cmocka_unit_test(legacy_has_the_drawn_token_and_no_name_twice),
        cmocka_unit_test(offsets_run_on_over_chunks_and_count_characters),
        cmocka_unit_test(too_much_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_detok.c: what is held back and what is let go, byte by byte, against a slow and obvious model of both rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/text/detok.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/small_vocab.h"

static struct small_vocab vocab;
static struct tokenizer *tok;
static int32_t hello, end_token;

static int set_up(void **state)
{
    (void)state;
    struct err err;
    small_init_bpe(&vocab, "gpt2");
    hello = small_add(&vocab, "Hello", TOKEN_NORMAL, 0);
    end_token = small_add(&vocab, "<|im_end|>", TOKEN_CONTROL, 0);
    small_add(&vocab, "ab", TOKEN_NORMAL, 0);
    small_merge(&vocab, "a b");
    return tokenizer_create(&vocab.v, &tok, &err);
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_destroy(tok);
    return 0;
}

/* Pushes each byte as a token and says what came out, pieces separated by '|', "." for the stop; flushes at the end. */
static const char *run(const char *bytes, size_t n, const struct token_str *stops, int n_stops, int *matched_out)
{
    static char log[4096];
    char out[1024];
    size_t at = 0, n_out = 0;
    struct detok d;
    detok_init(&d, tok, stops, n_stops);
    bool stop = false;
    for (size_t i = 0; i < n && !stop; i++) {
        assert_true(detok_max_out(&d, 1) <= sizeof out);
        stop = detok_push(&d, (unsigned char)bytes[i], out, &n_out);
        memcpy(log + at, out, n_out);
        at += n_out;
        log[at++] = stop ? '.' : '|';
    }
    n_out = detok_flush(&d, out);
    memcpy(log + at, out, n_out);
    log[at + n_out] = '\0';
    if (matched_out != NULL)
        *matched_out = d.matched;
    return log;
}

#define STR(s) {s, sizeof s - 1}

static void characters_come_whole(void **state)
{
    (void)state;
    assert_string_equal(run("a\xc3\xa9z", 4, NULL, 0, NULL), "a||\xc3\xa9|z|");
    assert_string_equal(run("\xf0\x9f\x98\x80!", 5, NULL, 0, NULL), "|||\xf0\x9f\x98\x80|!|");
}

static void only_hopeless_bytes_are_replaced(void **state)
{
    (void)state;
    assert_string_equal(run("\xff", 1, NULL, 0, NULL), "\xef\xbf\xbd|");
    assert_string_equal(run("\xc3z", 2, NULL, 0, NULL), "|\xef\xbf\xbdz|");
    assert_string_equal(run("\xe2\x82", 2, NULL, 0, NULL), "||\xef\xbf\xbd"); /* one for a maximal subpart, when the text ends */
    assert_string_equal(run("\xe2\x82\xe2\x82\xac", 5, NULL, 0, NULL), "||\xef\xbf\xbd||\xe2\x82\xac|");
    assert_string_equal(run("\xed\xa0\x80", 3, NULL, 0, NULL), "|\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd|"); /* a surrogate is three */
    assert_string_equal(run("\xf4\x90", 2, NULL, 0, NULL), "|\xef\xbf\xbd\xef\xbf\xbd|");
    assert_string_equal(run("\xc0\xaf", 2, NULL, 0, NULL), "\xef\xbf\xbd|\xef\xbf\xbd|");
}

static void what_may_begin_a_stop_string_waits(void **state)
{
    (void)state;
    const struct token_str stops[] = {STR("\n\nUser"), STR("###")};
    int matched = 0;
    assert_string_equal(run("ab##c", 5, stops, 2, &matched), "a|b|||##c|");
    assert_int_equal(matched, -1);
    assert_string_equal(run("ab###c", 6, stops, 2, &matched), "a|b|||.");
    assert_int_equal(matched, 1);
    assert_string_equal(run("a\n\n\nUsb", 7, stops, 2, &matched), "a|||\n|||\n\nUsb|");
    assert_string_equal(run("a\n\n\nUser", 8, stops, 2, &matched), "a|||\n||||.");
    assert_int_equal(matched, 0);
    assert_string_equal(run("x\n\n", 3, stops, 2, &matched), "x|||\n\n"); /* released by the end */
}

static void stop_strings_of_many_bytes_and_their_suffixes(void **state)
{
    (void)state;
    const struct token_str stops[] = {STR("\xe2\x82\xac\xe2\x82\xac"), STR("aab"), STR("xaab"), STR("ab")};
    int matched = 0;
    assert_string_equal(run("\xe2\x82\xac" "a", 4, stops, 1, &matched), "||||\xe2\x82\xac" "a|" + 1);
    assert_string_equal(run("aaab", 4, stops + 1, 1, &matched), "||a|.");
    assert_string_equal(run("xaab", 4, stops + 1, 3, &matched), "|||."); /* of those that end together the longest */
    assert_int_equal(matched, 1);
    assert_string_equal(run("xab", 3, stops + 1, 3, &matched), "||x.");
    assert_int_equal(matched, 2);
}

static void a_stop_inside_a_long_token_drops_the_rest(void **state)
{
    (void)state;
    const struct token_str stop = STR("ell");
    struct detok d;
    char out[64];
    size_t n = 0;
    detok_init(&d, tok, &stop, 1);
    assert_true(detok_push(&d, hello, out, &n));
    assert_int_equal(n, 1);
    assert_int_equal(out[0], 'H');
    assert_true(detok_push(&d, 'x', out, &n));
    assert_int_equal(n, 0);
    assert_int_equal(detok_flush(&d, out), 0);
}

static void control_tokens_are_silent(void **state)
{
    (void)state;
    struct detok d;
    char out[64];
    size_t n = 9;
    detok_init(&d, tok, NULL, 0);
    assert_false(detok_push(&d, end_token, out, &n));
    assert_int_equal(n, 0);
    assert_false(detok_push(&d, -1, out, &n));
    assert_int_equal(n, 0);
}

static void a_leading_space_is_dropped_only_at_the_start_of_a_text(void **state)
{
    (void)state;
    struct detok d;
    char out[64];
    size_t n = 0;
    detok_init(&d, tok, NULL, 0);
    assert_false(detok_push(&d, ' ', out, &n));
    assert_int_equal(n, 1);
    detok_init(&d, tok, NULL, 0);
    d.at_start = true;
    assert_false(detok_push(&d, ' ', out, &n));
    assert_int_equal(n, 0);
    assert_false(detok_push(&d, ' ', out, &n));
    assert_int_equal(n, 1);
}

/* ---- against the model ---- */

/* The whole text with replacements, by looking at all bytes at once. */
static size_t repair(const char *p, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0, len = 0; i < n; i += len) {
        bool whole = utf8_step(p + i, n - i, &len) == UTF8_WHOLE;
        memcpy(out + n_out, whole ? p + i : "\xef\xbf\xbd", whole ? len : 3);
        n_out += whole ? len : 3;
    }
    return n_out;
}

static void a_stop_string_that_began_before_arming_counts_when_it_completes(void **state)
{
    (void)state;
    const struct token_str stops[] = {STR("abc"), STR("aa")};
    const char text[] = "abcabaab";
    const char *const released[] = {"", "", "abc", "", "", "ab", "", ""};
    for (size_t armed_at = 0; armed_at <= 6; armed_at++) {
        struct detok d;
        detok_init(&d, tok, stops, 2);
        char out[16];
        size_t n = 0;
        bool stopped = false;
        for (size_t i = 0; text[i] != '\0' && !stopped; i++) {
            d.armed = i >= armed_at;
            stopped = detok_push(&d, (unsigned char)text[i], out, &n);
            assert_true(stopped == (d.armed && (i == 2 || i == 6)));
            if (!d.armed) {
                assert_int_equal(n, strlen(released[i]));
                assert_memory_equal(out, released[i], n);
            }
        }
        assert_true(stopped);
        assert_int_equal(d.matched, armed_at <= 2 ? 0 : 1);
    }
}

/* Where the first stop string to complete begins, and which it is: n and -1 where there is none. */
static size_t first_stop(const char *p, size_t n, const struct token_str *stops, int n_stops, int *which)
{
    *which = -1;
    for (size_t end = 1; end <= n; end++) {
        for (int i = 0; i < n_stops; i++)
            if (stops[i].n <= end && memcmp(p + end - stops[i].n, stops[i].p, stops[i].n) == 0 && (*which < 0 || stops[i].n > stops[*which].n))
                *which = i;
        if (*which >= 0)
            return end - stops[*which].n;
    }
    return n;
}

/* The most that may be out after these bytes: nothing that begins a stop string or an unfinished character. */
static size_t certain(const char *p, size_t n, const struct token_str *stops, int n_stops)
{
    size_t keep = 0;
    for (int i = 0; i < n_stops; i++)
        for (size_t k = 1; k < stops[i].n && k <= n; k++)
            if (memcmp(p + n - k, stops[i].p, k) == 0 && k > keep)
                keep = k;
    return n - keep;
}

static void random_bytes_agree_with_the_obvious_way(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (int round = 0; round < 20000; round++) {
        static const char alphabet[] = {'a', 'b', 'a', 'b', '\xc3', '\xa9', '\xe2', '\x82', '\xac', '\xf0', '\xff', 'c'};
        static const char *const pool[] = {"a", "ab", "aba", "abab", "bb", "aab", "\xc3\xa9", "a\xc3\xa9", "\xe2\x82\xac", "\xef\xbf\xbd",
                                           "b\xef\xbf\xbd" "a"};
        char bytes[24], text[80], got[400];
        struct token_str stops[3];
        size_t n = 0, n_got = 0, n_text = 0;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t bits = seed ^ seed >> 29;
        int n_stops = (int)(bits % 4), which = -1;
        for (int i = 0; i < n_stops; i++) {
            const char *p = pool[(bits >> (8 * i + 2)) % (sizeof pool / sizeof *pool)];
            stops[i] = (struct token_str){p, strlen(p)};
        }
        while (n < sizeof bytes) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            bytes[n++] = alphabet[(seed >> 33) % sizeof alphabet];
        }
        struct detok d;
        detok_init(&d, tok, stops, n_stops);
        bool stop = false;
        for (size_t i = 0; i < n && !stop; i++) {
            size_t n_out = 0;
            stop = detok_push(&d, (unsigned char)bytes[i], got + n_got, &n_out);
            n_got += n_out;
            /* What is out is exactly what is certain: no more, no less. */
            size_t whole = i + 1, len = 0;
            for (size_t k = 0; k < i + 1; k += len)
                if (utf8_step(bytes + k, i + 1 - k, &len) == UTF8_PART)
                    whole = k;
            n_text = repair(bytes, whole, text);
            size_t n_stop = first_stop(text, n_text, stops, n_stops, &which);
            assert_int_equal(stop, which >= 0);
            assert_int_equal(d.matched, which);
            assert_int_equal(n_got, which >= 0 ? n_stop : certain(text, n_text, stops, n_stops));
            assert_memory_equal(got, text, n_got);
        }
        n_got += detok_flush(&d, got + n_got);
        if (!stop) {
            n_text = repair(bytes, n, text);
            assert_int_equal(n_got, n_text);
            assert_memory_equal(got, text, n_text);
        }
    }
}

static void the_longest_stop_strings_fit(void **state)
{
    (void)state;
    static char text[DETOK_MAX_STOP_BYTES + 1];
    memset(text, 'a', sizeof text);
    struct token_str stops[DETOK_MAX_STOPS];
    for (int i = 0; i < DETOK_MAX_STOPS; i++)
        stops[i] = (struct token_str){text, DETOK_MAX_STOP_BYTES};
    struct detok d;
    char out[2048];
    size_t n = 0;
    detok_init(&d, tok, stops, DETOK_MAX_STOPS);
    for (int i = 0; i < DETOK_MAX_STOP_BYTES - 1; i++) {
        assert_false(detok_push(&d, 'a', out, &n));
        assert_int_equal(n, 0);
    }
    assert_true(detok_max_out(&d, 1) <= sizeof out);
    assert_false(detok_push(&d, 'b', out, &n));
    assert_int_equal(n, DETOK_MAX_STOP_BYTES);
    for (int i = 0; i < DETOK_MAX_STOP_BYTES; i++)
        assert_int_equal(detok_push(&d, 'a', out, &n), i == DETOK_MAX_STOP_BYTES - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_that_began_before_arming_counts_when_it_completes),
        cmocka_unit_test(characters_come_whole),
        cmocka_unit_test(only_hopeless_bytes_are_replaced),
        cmocka_unit_test(what_may_begin_a_stop_string_waits),
        cmocka_unit_test(stop_strings_of_many_bytes_and_their_suffixes),
        cmocka_unit_test(a_stop_inside_a_long_token_drops_the_rest),
        cmocka_unit_test(control_tokens_are_silent),
        cmocka_unit_test(a_leading_space_is_dropped_only_at_the_start_of_a_text),
        cmocka_unit_test(random_bytes_agree_with_the_obvious_way),
        cmocka_unit_test(the_longest_stop_strings_fit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* test_nfc.c: the short cuts around libunistring leave no trace. The oracle is the library itself, given whole texts; that its results are those of
 * Hugging Face's tokenizers is tests/text/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <uninorm.h>
#include <unistr.h>

#include "engine/text/nfc.h"

/* Whether nfc_normalize changes the text, and to what. */
static void assert_nfc(const char *text, size_t n, const char *expected, size_t n_expected)
{
    char *out = NULL;
    size_t n_out = 0;
    struct err err = {0};
    if (nfc_normalize(text, n, &out, &n_out, &err) != 0)
        fail_msg("%s", err.msg);
    bool same = n == n_expected && memcmp(text, expected, n) == 0;
    if (same != (out == NULL))
        fail_msg("\"%.*s\" is %s", (int)n, text, same ? "copied" : "left as it is");
    assert_int_equal(n_out, n_expected);
    if (out != NULL)
        assert_memory_equal(out, expected, n_expected);
    free(out);
}

#define NFC(text, expected) assert_nfc(text, sizeof text - 1, expected, sizeof expected - 1)

static void text_is_composed_and_ordered(void **state)
{
    (void)state;
    NFC("", "");
    NFC("plain text\r\n", "plain text\r\n");
    NFC("caf\xc3\xa9 \xe2\x82\xac", "caf\xc3\xa9 \xe2\x82\xac");
    NFC("cafe\xcc\x81!", "caf\xc3\xa9!");
    NFC("\xcc\x81" "e\xcc\x81", "\xcc\x81\xc3\xa9");
    NFC("e\xcc\x82\xcc\xa3 e\xcc\xa3\xcc\x82", "\xe1\xbb\x87 \xe1\xbb\x87");                                     /* Vietnamese, either order */
    NFC("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c");                                                 /* jamo */
    NFC("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");                                                             /* a syllable and a final */
    NFC("\xe3\x81\x8b\xe3\x82\x99", "\xe3\x81\x8c");                                                             /* ka and its voice */
    NFC("\xe2\x84\xab\xe2\x84\xa6\xcd\xbe", "\xc3\x85\xce\xa9;");                                                /* singletons */
    NFC("\xcd\x84", "\xcc\x88\xcc\x81");                                                                         /* U+0344 */
    NFC("\xe0\xa5\x98 \xf0\x9d\x85\x9e", "\xe0\xa4\x95\xe0\xa4\xbc \xf0\x9d\x85\x97\xf0\x9d\x85\xa5");           /* excluded from composition */
    NFC("a\xcc\x95\xcc\x80\xd6\xae\xcc\x80", "\xc3\xa0\xd6\xae\xcc\x80\xcc\x95");                                /* a blocked mark */
}

static void bad_bytes_stay_and_part_the_text(void **state)
{
    (void)state;
    NFC("\xff" "e\xcc\x81\xff\xcc\x81" "e\xcc", "\xff\xc3\xa9\xff\xcc\x81" "e\xcc");
    NFC("e\xff\xcc\x81", "e\xff\xcc\x81");
    NFC("\xcc\x81\xcc\xa3\x80\xcc\x81\xcc\xa3", "\xcc\xa3\xcc\x81\x80\xcc\xa3\xcc\x81");
    NFC("\xed\xa0\x80" "e\xcc\x81", "\xed\xa0\x80\xc3\xa9"); /* a surrogate */
    NFC("\xe2\x84\xab\xe2\x84", "\xc3\x85\xe2\x84");
}

/* Holds nfc_normalize of well-formed text against the library's. */
static void assert_library(const char *text, size_t n)
{
    size_t n_out = 0;
    char *out = (char *)u8_normalize(UNINORM_NFC, (const uint8_t *)text, n, NULL, &n_out);
    assert_non_null(out);
    assert_nfc(text, n, out, n_out);
    free(out);
}

/* Every character: alone, behind letters and marks, before marks, and behind what may join it. So no character that may change is stepped over,
 * whatever the library's version. */
static void every_character_equals_the_library(void **state)
{
    (void)state;
    static const char *const before[] = {"", "e", "x\xcc\x81", "\xea\xb0\x80", "\xe3\x81\x8b"};
    static const char *const behind[] = {"", "\xcc\x81", "\xcc\xa3\xcc\x81", "\xcc\xb8", "\xe3\x82\x99", "\xe1\x85\xa1", "\xe1\x86\xab"};
    for (ucs4_t c = 1; c <= 0x10ffff; c++) {
        uint8_t bytes[8];
        int len = u8_uctomb(bytes, c, sizeof bytes);
        bool quiet = c >= 0x3400 && c % 64 != 0 && ((c < 0xd7a4 && c % 28 != 16) || c >= 0x32000); /* ideographs, syllables, nothing: samples */
        for (size_t i = 0; len > 0 && i < (quiet ? 1 : 5); i++)
            for (size_t k = 0; k < (quiet ? 1 : 7); k++) {
                char text[64];
                assert_library(text, (size_t)snprintf(text, sizeof text, "%s%.*s%s", before[i], len, (char *)bytes, behind[k]));
            }
        ucs4_t parts[UC_DECOMPOSITION_MAX_LENGTH];
        int n_parts = len > 0 ? uc_canonical_decomposition(c, parts) : 0;
        char text[64];
        size_t n = 0;
        for (int i = 0; i < n_parts; i++)
            n += (size_t)u8_uctomb((uint8_t *)text + n, parts[i], (ptrdiff_t)(sizeof text - n));
        assert_library(text, n);
    }
}

/* A generator of its own, so that the texts are the same everywhere. */
static uint32_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void random_texts_equal_the_library(void **state)
{
    (void)state;
    static const char *const pool[] = {"a", "e", " ", "x", "\xcc\x81", "\xcc\xa3", "\xcc\x82", "\xcd\x84", "\xcc\xb8", "=", "\xe1\x84\x80",
                                       "\xe1\x85\xa1", "\xe1\x86\xa8", "\xea\xb0\x80", "\xe4\xb8\x80", "\xe2\x84\xab", "\xe3\x81\x8b", "\xe3\x82\x99",
                                       "\xe0\xa5\x98", "\xd1\x8f", "\xf0\x9f\x98\x80", "\xc6\xa1", "\xf0\x9d\x85\xa0", "\xef\xac\xb1"};
    uint64_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        char text[2048];
        size_t n = 0;
        for (uint32_t left = next(&seed) % (round % 100 == 0 ? 400 : 24); left > 0; left--) {
            const char *p = pool[next(&seed) % (sizeof pool / sizeof *pool)];
            memcpy(text + n, p, strlen(p));
            n += strlen(p);
        }
        assert_library(text, n);
    }
}

static void a_long_run_of_marks_is_sorted_like_a_short_one(void **state)
{
    (void)state;
    enum { N = 100000 };
    char *text = malloc(4 * N), *expected = malloc(4 * N);
    for (int i = 0; i < N; i++) {
        memcpy(text + 4 * i, "\xcc\x81\xcc\xa3", 4);
        memcpy(expected + 2 * i, "\xcc\xa3", 2);
        memcpy(expected + 2 * N + 2 * i, "\xcc\x81", 2);
    }
    assert_nfc(text, 4 * N, expected, 4 * N);
    free(text);
    free(expected);
}

static void assert_origin(const char *text, size_t at, size_t expected)
{
    size_t origin = 99;
    struct err err;
    assert_int_equal(nfc_origin(text, strlen(text), at, &origin, &err), 0);
    assert_int_equal(origin, expected);
}

static void a_byte_is_traced_to_where_it_came_from(void **state)
{
    (void)state;
    for (size_t i = 0; i <= 4; i++)
        assert_origin("abcd", i, i);
    const char *text = "ae\xcc\x81z\xff" "e\xcc\x81\xfe\xc3\xa9\xcc\xa3\xfd"; /* a é z ff é fe ẹ ́ fd */
    const size_t expected[] = {0, 1, 1, 4, 5, 6, 6, 9, 10, 10, 10, 10, 10, 14, 15};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_origin(text, i, expected[i]);
    assert_origin("\xcc\x81 \xff", 3, 3); /* looked at, and not changed */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_composed_and_ordered),
        cmocka_unit_test(bad_bytes_stay_and_part_the_text),
        cmocka_unit_test(every_character_equals_the_library),
        cmocka_unit_test(random_texts_equal_the_library),
        cmocka_unit_test(a_long_run_of_marks_is_sorted_like_a_short_one),
        cmocka_unit_test(a_byte_is_traced_to_where_it_came_from),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_keys.c: key files good and bad, and what an Authorization header opens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/keys.h"

static char path[64];

static int load(const char *text, struct keys **out, struct err *err)
{
    snprintf(path, sizeof path, "/tmp/nextd-test-keys-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    int rc = keys_load(path, out, err);
    unlink(path);
    return rc;
}

static void fails(const char *text, const char *sentence)
{
    struct keys *k = NULL;
    struct err err = {0};
    assert_int_equal(load(text, &k, &err), -1);
    assert_null(k);
    if (strstr(err.msg, sentence) == NULL)
        fail_msg("'%s' is not in '%s'", sentence, err.msg);
}

static void test_finds_the_key_that_was_presented(void **state)
{
    (void)state;
    struct keys *k = NULL;
    struct err err;
    assert_int_equal(load("# people\nsk-first-key\n\n  alice :  sk-second-key  \r\nsk-third-key", &k, &err), 0);
    assert_int_equal(keys_count(k), 3);
    assert_int_equal(keys_check(k, "Bearer sk-first-key"), 0);
    assert_int_equal(keys_check(k, "bearer  sk-second-key"), 1);
    assert_int_equal(keys_check(k, "Bearer sk-third-key"), 2);
    assert_string_equal(keys_name(k, 0), "key-2");
    assert_string_equal(keys_name(k, 1), "alice");
    static const char *const wrong[] = {NULL,
                                        "",
                                        "Bearer",
                                        "Bearer ",
                                        "Bearer sk-first-ke",
                                        "Bearer sk-first-keyy",
                                        "Bearer SK-FIRST-KEY",
                                        "Basic sk-first-key",
                                        "sk-first-key",
                                        "Bearer sk-first-key sk-second-key",
                                        "Bearer alice: sk-second-key"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(keys_check(k, wrong[i]), -1);
    keys_free(k);
}

static void test_refuses_files_that_cannot_be_meant(void **state)
{
    (void)state;
    fails("", "holds no key");
    fails("# only a comment\n", "holds no key");
    fails("short\n", ":1: a key has 8 to 512");
    fails("good-key-1\nbad key with blanks\n", ":2: a key has only printable");
    fails("good-key-1\nschl\xc3\xbcssel-1\n", ":2: a key has only printable");
    fails(": good-key-1\n", ":1: the name");
    fails("good-key-1\nbob: good-key-1\n", ":2: the key of 'key-1' stands there twice");
    char big[900];
    memset(big, 'k', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    fails(big, ":1: ");
    struct keys *k = NULL;
    struct err err = {0};
    assert_int_equal(keys_load("/nonexistent/keys", &k, &err), -1);
    assert_non_null(strstr(err.msg, "No such file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_key_that_was_presented),
        cmocka_unit_test(test_refuses_files_that_cannot_be_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

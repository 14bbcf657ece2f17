/* What `inspect` says of a file agrees with what serving it would say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

#define TOY "tests/fixtures/toy.gguf"

static void note_serves(void *arg, const char *section, const char *name, const char *value)
{
    if (strcmp(section, "file") == 0 && strcmp(name, "serves") == 0)
        snprintf(arg, 400, "%s", value);
}

/* The toy with the name of its kind of tokenizer changed, in a new file. */
static void spoil_tokenizer(char path[])
{
    static char bytes[1 << 20];
    FILE *in = fopen(TOY, "rb");
    assert_non_null(in);
    size_t n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    assert_true(n > 0 && n < sizeof bytes);
    char *kind = memmem(bytes, n, "tokenizer.ggml.model", 20);
    assert_non_null(kind);
    kind += 20 + 4 + 8; /* type, length */
    assert_memory_equal(kind, "gpt2", 4);
    kind[3] = '9';
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
}

static void a_file_whose_text_cannot_be_read_is_not_called_served(void **state)
{
    (void)state;
    char serves[400] = "", path[] = "/tmp/nextd-inspect-XXXXXX";
    struct err err;
    assert_int_equal(engine_inspect(TOY, note_serves, serves, &err), 0);
    assert_string_equal(serves, "yes");
    spoil_tokenizer(path);
    int rc = engine_inspect(path, note_serves, serves, &err);
    unlink(path);
    assert_int_equal(rc, 0);
    assert_non_null(strstr(serves, "tokenizer \"gpt9\" is not supported"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_whose_text_cannot_be_read_is_not_called_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

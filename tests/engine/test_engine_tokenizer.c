/* Text on its way into an engine: nothing of it is lost in silence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine_internal.h"
#include "tests/engine/text/small_vocab.h"

static void a_byte_that_the_vocabulary_cannot_say_is_refused_with_its_offset(void **state)
{
    (void)state;
    static struct small_vocab v;
    struct tokenizer *t;
    struct err err;
    small_init_bpe(&v, "gpt2");
    v.tokens[4] = (struct token_str){"[no byte 4]", 11};
    small_add(&v, "ab", TOKEN_NORMAL, 0);
    small_merge(&v, "a b");
    assert_int_equal(tokenizer_create(&v.v, &t, &err), 0);
    const struct engine_span spans[] = {{.p = "xyz", .n = 3}, {.p = "", .n = 0}, {.p = "u\x04w\x04", .n = 4}};
    struct engine_ids ids = {0};
    assert_int_equal(engine_encode(t, spans, 3, false, 100, true, &ids, &err), 0); /* ids as the model's own tokenizer gives them */
    assert_int_equal(ids.n, 5);
    assert_int_equal(engine_encode(t, spans, 3, false, 100, false, &ids, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.msg, "byte 0x04 at offset 4 of the text has no token in this model's vocabulary");
    assert_int_equal(ids.n, 5);
    assert_int_equal(engine_encode(t, spans, 2, false, 100, false, &ids, &err), 0);
    assert_int_equal(ids.n, 8);
    engine_ids_finish(&ids);
    tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_byte_that_the_vocabulary_cannot_say_is_refused_with_its_offset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_device.c: what an option names is found, or refused with a sentence, in a build that knows the CPU alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/model/device.h"

static void test_auto_without_gpus_is_the_cpu_and_no_reason_to_speak(void **state)
{
    (void)state;
    struct device_choice d;
    struct err err;
    assert_int_equal(device_choose("auto", 0, &d, &err), 0);
    assert_ptr_equal(d.ops, &backend_cpu);
    assert_string_equal(d.name, "cpu");
    assert_string_equal(d.note, "");
    assert_int_equal(d.free_bytes, 0);
}

static void test_an_instruction_set_is_kept(void **state)
{
    (void)state;
    struct device_choice d;
    struct err err;
    assert_int_equal(device_choose("cpu:generic", 0, &d, &err), 0);
    assert_string_equal(d.name, "cpu:generic");
}

static void test_what_is_not_there_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const wrong[] = {"cuda:0", "cuda", "cpu:mmx", "cpux", "", "gpu"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct device_choice d;
        struct err err;
        assert_int_equal(device_choose(wrong[i], 0, &d, &err), -1);
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        assert_non_null(strstr(err.msg, wrong[i]));
    }
}

static void test_a_name_without_end_is_cut(void **state)
{
    (void)state;
    char name[1000] = "cpu:";
    struct device_choice d;
    struct err err;
    memset(name + 4, 'x', sizeof name - 5);
    assert_int_equal(device_choose(name, 0, &d, &err), -1);
    assert_true(strlen(err.msg) < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto_without_gpus_is_the_cpu_and_no_reason_to_speak),
        cmocka_unit_test(test_an_instruction_set_is_kept),
        cmocka_unit_test(test_what_is_not_there_is_refused_by_name),
        cmocka_unit_test(test_a_name_without_end_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_device_gpus.c: "auto" in a build that knows GPUs: the first that will do, or the CPU and the reason. The backend answers for a row of GPUs
 * that are pretended. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/device.h"

/* Of each GPU, MiB that are free; OLD: its capability will not do. */
enum { OLD = -1 };
static const int *gpus;
static int n_gpus;

static int fake_probe(const char *device, size_t *free_bytes_out, struct err *err)
{
    int i = atoi(device + strlen("cuda:"));
    if (i >= n_gpus)
        return err_set(err, ERR_NOT_FOUND, "there is no device %s", device);
    if (gpus[i] == OLD)
        return err_set(err, ERR_UNSUPPORTED, "device %s is old", device);
    *free_bytes_out = (size_t)gpus[i] << 20;
    return 0;
}

const struct backend_ops backend_cuda = {.name = "cuda", .probe = fake_probe};

static struct device_choice choose(const int *mib, int n)
{
    struct device_choice d;
    struct err err;
    gpus = mib;
    n_gpus = n;
    assert_int_equal(device_choose("auto", (uint64_t)100 << 20, &d, &err), 0);
    return d;
}

static void assert_gpu(struct device_choice d, const char *name)
{
    assert_ptr_equal(d.ops, &backend_cuda);
    assert_string_equal(d.name, name);
    assert_string_equal(d.note, "");
}

static void assert_cpu(struct device_choice d, const char *note)
{
    assert_ptr_equal(d.ops, &backend_cpu);
    assert_string_equal(d.note, note);
}

static void test_auto_takes_the_first_gpu_that_will_do_and_has_room(void **state)
{
    (void)state;
    assert_gpu(choose((int[]){200, 300}, 2), "cuda:0");
    assert_gpu(choose((int[]){100}, 1), "cuda:0");
    assert_gpu(choose((int[]){99, 300}, 2), "cuda:1");
    assert_gpu(choose((int[]){OLD, 20, 100}, 3), "cuda:2");
}

static void test_auto_says_why_it_did_not_take_the_first(void **state)
{
    (void)state;
    assert_cpu(choose(NULL, 0), "there is no device cuda:0; the CPU computes");
    assert_cpu(choose((int[]){OLD, 20}, 2), "device cuda:0 is old; the CPU computes");
    assert_cpu(choose((int[]){20, OLD}, 2), "device cuda:0 has 20 MiB free; the model needs 101 MiB; the CPU computes");
}

static void test_a_gpu_that_was_named_is_taken_or_refused(void **state)
{
    (void)state;
    struct device_choice d;
    struct err err;
    gpus = (const int[]){20, OLD};
    n_gpus = 2;
    assert_int_equal(device_choose("cuda:0", (uint64_t)100 << 20, &d, &err), 0); /* loading will say what it lacks */
    assert_int_equal(d.free_bytes, 20 << 20);
    assert_int_equal(device_choose("cuda:1", 0, &d, &err), -1);
    assert_int_equal(device_choose("cuda:2", 0, &d, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto_takes_the_first_gpu_that_will_do_and_has_room),
        cmocka_unit_test(test_auto_says_why_it_did_not_take_the_first),
        cmocka_unit_test(test_a_gpu_that_was_named_is_taken_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* cmocka.h: as much of cmocka as the tests that run under an emulator use, for `make neon-tests`.
 *
 * Debian has cmocka for another processor only as a package of that processor, and a check should not add a second architecture to the machine it
 * runs on. So the same test programs are compiled with this header in cmocka's place. It speaks TAP, like the original under scripts/run-tests. The
 * first failure ends the program: what a failed test leaves behind is not cleaned up here. */
#ifndef NEXTD_TESTS_CROSS_CMOCKA_H
#define NEXTD_TESTS_CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(f) {#f, f}
#define cmocka_run_group_tests(tests, setup, teardown) cross_run(tests, sizeof tests / sizeof *tests)

static jmp_buf cross_skipped;

static inline void cross_fail(const char *file, int line)
{
    printf("%s:%d: the test above fails here\n", file, line);
    exit(1);
}

static inline void cross_require(bool is_true, const char *what, const char *file, int line)
{
    if (is_true)
        return;
    printf("not ok - %s\n", what);
    cross_fail(file, line);
}

static inline int cross_run(const struct CMUnitTest *tests, size_t n)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%zu\n", n);
    for (volatile size_t i = 0; i < n; i++) {
        printf("# %s\n", tests[i].name);
        if (setjmp(cross_skipped) != 0) {
            printf("ok %zu - %s # SKIP\n", i + 1, tests[i].name);
            continue;
        }
        tests[i].run(NULL);
        printf("ok %zu - %s\n", i + 1, tests[i].name);
    }
    return 0;
}

#define skip() longjmp(cross_skipped, 1)
#define print_message printf
#define fail_msg(...) (printf("not ok - "), printf(__VA_ARGS__), printf("\n"), cross_fail(__FILE__, __LINE__))
#define assert_true(x) cross_require((x) ? true : false, #x, __FILE__, __LINE__)
#define assert_false(x) cross_require((x) ? false : true, "not " #x, __FILE__, __LINE__)
#define assert_null(x) cross_require((x) == NULL, #x " is null", __FILE__, __LINE__)
#define assert_non_null(x) cross_require((x) != NULL, #x " is not null", __FILE__, __LINE__)
#define assert_int_equal(a, b) cross_require((unsigned long long)(a) == (unsigned long long)(b), #a " equals " #b, __FILE__, __LINE__)
#define assert_ptr_equal(a, b) cross_require((const void *)(a) == (const void *)(b), #a " equals " #b, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) cross_require(memcmp(a, b, n) == 0, #a " has the bytes of " #b, __FILE__, __LINE__)
#define assert_string_equal(a, b) cross_require(strcmp(a, b) == 0, #a " reads as " #b, __FILE__, __LINE__)

#endif

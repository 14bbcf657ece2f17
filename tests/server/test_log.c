/* test_log.c: levels, one whole line per call, nothing a client sends can forge a line; priorities on a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/log.h"

static size_t read_some(int fd, char *to, size_t max)
{
    ssize_t n = read(fd, to, max - 1);
    assert_true(n >= 0);
    to[n] = '\0';
    return (size_t)n;
}

static void test_writes_up_to_its_level(void **state)
{
    (void)state;
    int ends[2];
    char text[4000];
    assert_int_equal(pipe(ends), 0);
    struct log l;
    log_init(&l, ends[1], LOG_LEVEL_WARN);
    log_debug(&l, "not this");
    log_info(&l, "nor this");
    log_warn(&l, "%d tokens", 3);
    log_error(&l, "failed");
    read_some(ends[0], text, sizeof text);
    assert_null(strstr(text, "this"));
    assert_non_null(strstr(text, "Z warn  3 tokens\n"));
    assert_non_null(strstr(text, "Z error failed\n"));
    close(ends[0]);
    close(ends[1]);
}

static void test_one_call_is_one_line(void **state)
{
    (void)state;
    int ends[2];
    char text[4000], big[3000];
    assert_int_equal(pipe(ends), 0);
    struct log l;
    log_init(&l, ends[1], LOG_LEVEL_INFO);
    log_info(&l, "%s", "evil\nforged\r\x1b[2J");
    read_some(ends[0], text, sizeof text);
    assert_non_null(strstr(text, "evil?forged??[2J\n"));
    memset(big, 'b', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    log_info(&l, "%s", big);
    size_t n = read_some(ends[0], text, sizeof text);
    assert_true(n <= 1024);
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    close(ends[0]);
    close(ends[1]);
}

static void test_a_socket_gets_priorities(void **state)
{
    (void)state;
    int ends[2];
    char text[400];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct log l;
    log_init(&l, ends[1], LOG_LEVEL_DEBUG);
    log_error(&l, "a");
    log_debug(&l, "b");
    read_some(ends[0], text, sizeof text);
    assert_string_equal(text, "<3>a\n<7>b\n");
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_up_to_its_level),
        cmocka_unit_test(test_one_call_is_one_line),
        cmocka_unit_test(test_a_socket_gets_priorities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

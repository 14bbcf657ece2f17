/* test_machine.c: the processors and the memory that a process may use, on machines that are made of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/machine.h"

#define GIB 1073741824.0

static char root[64];

static int make_machine(void **state)
{
    (void)state;
    strcpy(root, "/tmp/nextd-machine-XXXXXX");
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *s, int type, struct FTW *at)
{
    (void)s, (void)type, (void)at;
    return remove(path);
}

static int remove_machine(void **state)
{
    (void)state;
    return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* Writes a file of the machine, with its directories. */
static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* n_cpus processors, every `siblings` of which share a core, every `package` of which share a package; numbered as most firmware does, one thread of
 * each core first. */
static void put_topology(int n_cpus, int siblings, int package)
{
    char name[96], number[16];
    int n_cores = n_cpus / siblings;
    for (int cpu = 0; cpu < n_cpus; cpu++) {
        snprintf(name, sizeof name, "sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
        snprintf(number, sizeof number, "%d\n", cpu % n_cores % (package / siblings));
        put(name, number);
        snprintf(name, sizeof name, "sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
        snprintf(number, sizeof number, "%d\n", cpu % n_cores / (package / siblings));
        put(name, number);
    }
}

static int threads_on(int first, int last)
{
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (int cpu = first; cpu <= last; cpu++)
        CPU_SET((size_t)cpu, &cpus);
    return machine_n_threads_of(root, &cpus, sizeof cpus);
}

static void test_a_machine_that_tells_nothing_has_a_thread_per_processor(void **state)
{
    (void)state;
    assert_int_equal(threads_on(0, 5), 6);
    assert_int_equal(threads_on(7, 7), 1);
    assert_int_equal(threads_on(1, 0), 1); /* not even a processor */
}

static void test_hyperthreads_of_a_core_count_once(void **state)
{
    (void)state;
    put_topology(8, 2, 8);
    assert_int_equal(threads_on(0, 7), 4);
    assert_int_equal(threads_on(0, 3), 4);
    assert_int_equal(threads_on(2, 5), 4); /* cores 2, 3, 0, 1 */
    assert_int_equal(threads_on(0, 1), 2);
}

static void test_equal_core_numbers_of_two_packages_are_two_cores(void **state)
{
    (void)state;
    put_topology(16, 2, 8); /* two packages of four cores */
    assert_int_equal(threads_on(0, 15), 8);
    assert_int_equal(threads_on(3, 4), 2);
}

static void test_both_threads_of_one_core_are_one(void **state)
{
    (void)state;
    put_topology(2, 2, 2);
    assert_int_equal(threads_on(0, 1), 1);
}

static void test_a_quota_of_version_2_rounds_to_whole_threads(void **state)
{
    static const struct {
        const char *quota;
        int n;
    } cases[] = {{"max 100000\n", 8},    {"400000 100000\n", 4}, {"150000 100000\n", 2}, {"149000 100000\n", 1}, {"250000 100000\n", 3},
                 {"20000 100000\n", 1},  {"75000 50000\n", 2},   {"1600000 100000\n", 8}, {"", 8},               {"nonsense", 8},
                 {"100000\n", 8},        {"0 100000\n", 8},      {"100000 0\n", 8},       {"-1 100000\n", 8}};
    (void)state;
    put("proc/self/cgroup", "0::/app\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("sys/fs/cgroup/app/cpu.max", cases[i].quota);
        assert_int_equal(threads_on(0, 7), cases[i].n);
    }
}

static void test_the_tightest_quota_of_all_ancestors_binds(void **state)
{
    (void)state;
    put("proc/self/cgroup", "0::/a/b/c\n");
    put("sys/fs/cgroup/a/b/c/cpu.max", "600000 100000\n");
    put("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/a/cpu.max", "300000 100000\n");
    assert_int_equal(threads_on(0, 7), 3);
    put("sys/fs/cgroup/cpu.max", "200000 100000\n"); /* a container's own limit sits at the root that it sees */
    assert_int_equal(threads_on(0, 7), 2);
    put("sys/fs/cgroup/other/cpu.max", "100000 100000\n");
    assert_int_equal(threads_on(0, 7), 2);
}

static void test_a_quota_of_version_1_is_found_by_its_controller(void **state)
{
    (void)state;
    put("proc/self/cgroup", "7:cpuset:/\n5:cpuacct,cpu:/docker/x\n4:memory:/docker/x\n0::/\n");
    put("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "150000\n");
    put("sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "50000\n");
    assert_int_equal(threads_on(0, 7), 3);
    put("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "200000\n");
    assert_int_equal(threads_on(0, 7), 2);
}

static void test_a_group_that_cannot_be_seen_does_not_limit(void **state)
{
    (void)state;
    put("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n0::/docker/x\n"); /* the path is the host's */
    assert_int_equal(threads_on(0, 7), 8);
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(threads_on(0, 7), 2);
}

static void test_lines_that_are_no_groups_are_passed_over(void **state)
{
    (void)state;
    put("proc/self/cgroup", "\n:\nx\n0:\n3:cpus,xcpu:/a\n0::/a\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "100000\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    assert_int_equal(threads_on(0, 7), 2);
}

static void test_a_quota_above_the_cores_changes_nothing(void **state)
{
    (void)state;
    put_topology(8, 2, 8);
    put("proc/self/cgroup", "0::/\n");
    put("sys/fs/cgroup/cpu.max", "600000 100000\n");
    assert_int_equal(threads_on(0, 7), 4);
    put("sys/fs/cgroup/cpu.max", "350000 100000\n");
    assert_int_equal(threads_on(0, 7), 4);
    assert_int_equal(threads_on(0, 0), 1);
}

static void test_memory_is_the_least_that_any_limit_leaves(void **state)
{
    (void)state;
    assert_true(machine_available_bytes_of(root) == 0);
    put("proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 1048576 kB\nMemAvailable: 16777216 kB\n");
    assert_true((double)machine_available_bytes_of(root) == 16 * GIB);
    put("proc/self/cgroup", "4:memory:/a\n0::/a/b\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/memory.current", "1073741824\n");
    assert_true((double)machine_available_bytes_of(root) == 16 * GIB);
    put("sys/fs/cgroup/a/memory.max", "8589934592\n");
    put("sys/fs/cgroup/a/memory.current", "2147483648\n");
    assert_true((double)machine_available_bytes_of(root) == 6 * GIB);
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4294967296\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1073741824\n");
    assert_true((double)machine_available_bytes_of(root) == 3 * GIB);
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "5368709120\n"); /* over its limit already */
    assert_true(machine_available_bytes_of(root) == 1);
}

static void test_this_machine_has_a_thread_within_its_affinity(void **state)
{
    cpu_set_t cpus;
    (void)state;
    int n = machine_n_threads();
    assert_true(n >= 1);
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        assert_true(n <= CPU_COUNT(&cpus));
}

int main(void)
{
#define ON_A_MACHINE(test) cmocka_unit_test_setup_teardown(test, make_machine, remove_machine)
    const struct CMUnitTest tests[] = {
        ON_A_MACHINE(test_a_machine_that_tells_nothing_has_a_thread_per_processor),
        ON_A_MACHINE(test_hyperthreads_of_a_core_count_once),
        ON_A_MACHINE(test_equal_core_numbers_of_two_packages_are_two_cores),
        ON_A_MACHINE(test_both_threads_of_one_core_are_one),
        ON_A_MACHINE(test_a_quota_of_version_2_rounds_to_whole_threads),
        ON_A_MACHINE(test_the_tightest_quota_of_all_ancestors_binds),
        ON_A_MACHINE(test_a_quota_of_version_1_is_found_by_its_controller),
        ON_A_MACHINE(test_a_group_that_cannot_be_seen_does_not_limit),
        ON_A_MACHINE(test_lines_that_are_no_groups_are_passed_over),
        ON_A_MACHINE(test_a_quota_above_the_cores_changes_nothing),
        ON_A_MACHINE(test_memory_is_the_least_that_any_limit_leaves),
        cmocka_unit_test(test_this_machine_has_a_thread_within_its_affinity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

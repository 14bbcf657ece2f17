/* machine.c: what this process may use of its machine: cores and memory, within affinity and control groups.
 *
 * Control groups come in two versions, both found through /proc/self/cgroup; a limit of any ancestor binds too, so the path is walked up to its root.
 * Whatever cannot be read does not limit.
 *
 * A quota is rounded to whole threads, halves up. With 1.5 processors two threads are throttled for part of every period, but do the work of 1.4
 * where one does that of 0.96; with 1.25 it is 1.2 against 0.96, which is not worth a stall of up to a period (100 ms) in every stream (bench/pool.c
 * in a control group of two processors). Threads that have nothing to do sleep after 50 us, so spinning does not eat the quota. */
#include "engine/machine.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 1024
#define MAX_CPUS 4096

/* The first line of a file, or false. */
static bool read_line(const char *path, char *out, int n)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    bool ok = fgets(out, n, f) != NULL;
    fclose(f);
    return ok;
}

/* A number, -1 where there is none ("max" too). */
static double read_number(const char *directory, const char *name)
{
    char path[PATH_BYTES * 2], line[64], *end;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (!read_line(path, line, sizeof line))
        return -1;
    double value = strtod(line, &end);
    return end != line && value >= 0 ? value : -1;
}

/* ---- control groups ---- */

enum group_kind { GROUP_V2, GROUP_V1_CPU, GROUP_V1_MEMORY };

static bool list_has(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; p != NULL; p = strchr(p, ','), p = p != NULL ? p + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == 0 || p[n] == ','))
            return true;
    return false;
}

/* Directory of this process's group, and the length of the part above which there is no group. Lines are "id:controllers:path". */
static bool find_group(const char *machine, enum group_kind kind, char *out, size_t n, size_t *root_out)
{
    char line[PATH_BYTES], file[PATH_BYTES];
    snprintf(file, sizeof file, "%s/proc/self/cgroup", machine);
    FILE *f = fopen(file, "re");
    bool found = false;
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        char *controllers = strchr(line, ':'), *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = 0;
        controllers++;
        path[strcspn(path, "\n")] = 0;
        const char *word = kind == GROUP_V1_CPU ? "cpu" : "memory";
        found = kind == GROUP_V2 ? *controllers == 0 : list_has(controllers, word);
        if (!found)
            continue;
        *root_out = (size_t)snprintf(out, n, "%s/sys/fs/cgroup%s%s", machine, kind == GROUP_V2 ? "" : "/", kind == GROUP_V2 ? "" : word);
        if (*root_out < n && strcmp(path, "/") != 0)
            snprintf(out + *root_out, n - *root_out, "%s", path);
    }
    if (f != NULL)
        fclose(f);
    return found;
}

static double group_cpus(enum group_kind kind, const char *directory)
{
    double quota, period;
    if (kind == GROUP_V2) {
        char path[PATH_BYTES * 2], line[64];
        snprintf(path, sizeof path, "%s/cpu.max", directory);
        if (!read_line(path, line, sizeof line) || sscanf(line, "%lf %lf", &quota, &period) != 2)
            return -1;
    } else {
        quota = read_number(directory, "cpu.cfs_quota_us");
        period = read_number(directory, "cpu.cfs_period_us");
    }
    return quota > 0 && period > 0 ? quota / period : -1;
}

static double group_bytes(enum group_kind kind, const char *directory)
{
    double limit = read_number(directory, kind == GROUP_V2 ? "memory.max" : "memory.limit_in_bytes");
    double used = read_number(directory, kind == GROUP_V2 ? "memory.current" : "memory.usage_in_bytes");
    if (limit < 0 || used < 0)
        return -1;
    return limit > used ? limit - used : 0;
}

/* The smallest limit from the process's group up to the root, or -1. */
static double tightest(const char *machine, enum group_kind kind, double (*limit_of)(enum group_kind, const char *))
{
    char directory[PATH_BYTES];
    size_t root;
    double tight = -1;
    if (!find_group(machine, kind, directory, sizeof directory, &root))
        return -1;
    for (;;) {
        double limit = limit_of(kind, directory);
        if (limit >= 0 && (tight < 0 || limit < tight))
            tight = limit;
        char *slash = strrchr(directory, '/');
        if (strlen(directory) <= root || slash == NULL)
            return tight;
        *slash = 0;
    }
}

static double smaller(double a, double b)
{
    return a < 0 ? b : b < 0 || a < b ? a : b;
}

/* ---- the answers ---- */

/* Distinct (package, core) pairs among the allowed CPUs: a hyperthread shares its core's arithmetic. */
static int n_physical_cores(const char *machine, const cpu_set_t *cpus, size_t cpus_bytes)
{
    double *seen = malloc(sizeof *seen * cpus_bytes * 8);
    int n = 0;
    for (size_t cpu = 0; seen != NULL && cpu < cpus_bytes * 8; cpu++) {
        if (!CPU_ISSET_S(cpu, cpus_bytes, cpus))
            continue;
        char directory[PATH_BYTES];
        snprintf(directory, sizeof directory, "%s/sys/devices/system/cpu/cpu%zu/topology", machine, cpu);
        double package = read_number(directory, "physical_package_id"), core = read_number(directory, "core_id");
        double key = core < 0 ? -1.0 - (double)cpu : package * 1e6 + core;
        int i = 0;
        while (i < n && seen[i] != key)
            i++;
        seen[i] = key;
        n += i == n;
    }
    free(seen);
    return n;
}

int machine_n_threads_of(const char *root, const cpu_set_t *cpus, size_t cpus_bytes)
{
    int n = n_physical_cores(root, cpus, cpus_bytes);
    double quota = smaller(tightest(root, GROUP_V2, group_cpus), tightest(root, GROUP_V1_CPU, group_cpus));
    if (quota >= 0 && quota < (double)n)
        n = (int)(quota + 0.5);
    return n < 1 ? 1 : n;
}

int machine_n_threads(void)
{
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    size_t set_bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    int n = 1;
    if (set != NULL && sched_getaffinity(0, set_bytes, set) == 0)
        n = machine_n_threads_of("", set, set_bytes);
    if (set != NULL)
        CPU_FREE(set);
    return n;
}

uint64_t machine_available_bytes_of(const char *root)
{
    double available = -1, kib;
    char line[PATH_BYTES];
    snprintf(line, sizeof line, "%s/proc/meminfo", root);
    FILE *f = fopen(line, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "MemAvailable: %lf kB", &kib) == 1)
            available = kib * 1024;
    if (f != NULL)
        fclose(f);
    available = smaller(available, smaller(tightest(root, GROUP_V2, group_bytes), tightest(root, GROUP_V1_MEMORY, group_bytes)));
    return available < 0 ? 0 : available < 1 ? 1 : (uint64_t)available; /* nothing left is not unknown */
}

uint64_t machine_available_bytes(void)
{
    return machine_available_bytes_of("");
}

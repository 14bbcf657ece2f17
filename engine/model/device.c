/* device.c: chooses a backend. See device.h.
 *
 * The CPU's is always there. The CUDA backend is there where its objects were linked: builds without a CUDA compiler leave the symbol out, and a weak
 * reference is then NULL. So one source serves both, and no list has to be kept. */
#include "engine/model/device.h"

#include <stdio.h>
#include <string.h>

#define MAX_GPUS 64

extern const struct backend_ops backend_cuda __attribute__((weak));

static bool is_or_begins(const char *name, const char *kind)
{
    size_t n = strlen(kind);
    return strncmp(name, kind, n) == 0 && (name[n] == '\0' || name[n] == ':');
}

static int probe(const struct backend_ops *ops, const char *name, struct device_choice *out, struct err *err)
{
    struct device_choice c = {.ops = ops};
    if (strlen(name) >= sizeof c.name || ops->probe(name, &c.free_bytes, err) != 0)
        return strlen(name) < sizeof c.name ? -1 : err_set(err, ERR_UNSUPPORTED, "there is no device \"%.40s...\"", name);
    snprintf(c.name, sizeof c.name, "%s", name);
    *out = c;
    return 0;
}

static int probe_gpu(const struct backend_ops *ops, const char *name, uint64_t least_bytes, struct device_choice *out, struct err *err)
{
    struct device_choice c;
    if (probe(ops, name, &c, err) != 0)
        return -1;
    if (c.free_bytes < least_bytes)
        return err_set(err, ERR_NOMEM, "device %s has %zu MiB free; the model needs %zu MiB", name, c.free_bytes >> 20,
                       (size_t)(least_bytes >> 20) + 1);
    *out = c;
    return 0;
}

/* The first one that will do. *err says why the very first will not. */
static int find_gpu(const struct backend_ops *ops, uint64_t least_bytes, struct device_choice *out, struct err *err)
{
    struct err why = {0};
    for (int i = 0; i < MAX_GPUS && why.code != ERR_NOT_FOUND; i++) {
        char name[16];
        snprintf(name, sizeof name, "cuda:%d", i);
        if (probe_gpu(ops, name, least_bytes, out, &why) == 0)
            return 0;
        if (i == 0)
            *err = why;
    }
    return -1;
}

int device_choose(const char *wanted, uint64_t least_bytes, struct device_choice *out, struct err *err)
{
    const struct backend_ops *cuda = &backend_cuda;
    struct err why = {0};
    if (is_or_begins(wanted, "cpu"))
        return probe(&backend_cpu, wanted, out, err);
    if (cuda != NULL && is_or_begins(wanted, "cuda"))
        return probe(cuda, wanted, out, err);
    if (strcmp(wanted, "auto") != 0)
        return err_set_param(err, ERR_UNSUPPORTED, "device", "there is no device \"%.40s\"; this build has \"cpu\"%s", wanted,
                             cuda != NULL ? " and \"cuda:0\", \"cuda:1\" and so on" : "");
    if (cuda != NULL && find_gpu(cuda, least_bytes, out, &why) == 0)
        return 0;
    if (probe(&backend_cpu, "cpu", out, err) != 0)
        return -1;
    if (cuda != NULL)
        snprintf(out->note, sizeof out->note, "%.300s; the CPU computes", why.msg);
    return 0;
}

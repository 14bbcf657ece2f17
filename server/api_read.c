/* api_read.c: the table walker behind all request parsers. See api_read.h.
 *
 * A parser is a table of fields plus the few checks that need more than one field. The walker goes through the members of the body (not of the
 * table), so that errors come in the order in which the client wrote, and every member is either known or unknown: nothing is silently skipped. */
#include "server/api_read.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

size_t api_path_key(struct api_reader *r, const char *key)
{
    size_t mark = r->n_path;
    int n = snprintf(r->path + mark, sizeof r->path - mark, "%s%s", mark > 0 ? "." : "", key);
    r->n_path = mark + (size_t)n < sizeof r->path ? mark + (size_t)n : sizeof r->path - 1;
    return mark;
}

size_t api_path_index(struct api_reader *r, size_t i)
{
    size_t mark = r->n_path;
    int n = snprintf(r->path + mark, sizeof r->path - mark, "[%zu]", i);
    r->n_path = mark + (size_t)n < sizeof r->path ? mark + (size_t)n : sizeof r->path - 1;
    return mark;
}

void api_path_leave(struct api_reader *r, size_t mark)
{
    r->n_path = mark;
    r->path[mark] = '\0';
}

int api_fail(struct api_reader *r, const char *predicate, ...)
{
    char text[256];
    va_list args;
    va_start(args, predicate);
    vsnprintf(text, sizeof text, predicate, args);
    va_end(args);
    return err_set_param(r->err, ERR_INVALID, r->path, "%s %s", r->path[0] != '\0' ? r->path : "the body", text);
}

int api_fail_nomem(struct api_reader *r)
{
    return err_set(r->err, ERR_NOMEM, "the request needs more memory than one request may take");
}

int api_unknown(struct api_reader *r, const char *key)
{
    size_t mark = api_path_key(r, key);
    int rc = 0;
    if (!r->limits->ignore_unknown) {
        rc = api_fail(r, "is not a known field");
    } else {
        if (r->ignored.n > 0)
            buf_puts(&r->ignored, ",");
        for (const char *c = r->path; *c != '\0'; c++) {
            bool safe = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || strchr("_-.[]", *c) != NULL;
            buf_append(&r->ignored, safe ? c : "?", 1);
        }
    }
    api_path_leave(r, mark);
    return rc;
}

/* 3 rather than 3.000000 where the limit is whole. */
static const char *api_number(double v, char text[32])
{
    snprintf(text, 32, "%g", v);
    return text;
}

static int api_read_int(struct api_reader *r, const json_t *v, const struct api_field *f, int *out)
{
    if (!json_is_integer(v))
        return api_fail(r, "must be an integer");
    json_int_t i = json_integer_value(v);
    if ((double)i < f->min || (double)i > f->max)
        return api_fail(r, "must be between %d and %d", (int)f->min, (int)f->max);
    *out = (int)i;
    return 0;
}

static int api_read_float(struct api_reader *r, const json_t *v, const struct api_field *f, float *out)
{
    char min[32], max[32];
    if (!json_is_number(v))
        return api_fail(r, "must be a number");
    double d = json_number_value(v);
    if (f->above_min && !((float)d > (float)f->min && d <= f->max))
        return api_fail(r, "must be greater than %s and at most %s", api_number(f->min, min), api_number(f->max, max));
    if (!(d >= f->min && d <= f->max))
        return api_fail(r, "must be between %s and %s", api_number(f->min, min), api_number(f->max, max));
    *out = (float)d;
    return 0;
}

static int api_read_string(struct api_reader *r, json_t *v, const char **out)
{
    if (!json_is_string(v))
        return api_fail(r, "must be a string");
    if (strlen(json_string_value(v)) != json_string_length(v))
        return api_fail(r, "must not contain NUL characters");
    *out = json_string_value(v);
    return 0;
}

static int api_read_neutral(struct api_reader *r, const json_t *v, const struct api_field *f)
{
    json_t *allowed = json_loads(f->neutral, 0, NULL);
    bool ok = false;
    size_t i;
    json_t *one;
    json_array_foreach(allowed, i, one)
        ok = ok || json_equal(v, one);
    size_t n = json_array_size(allowed);
    json_decref(allowed);
    if (ok)
        return 0;
    if (n == 0)
        return err_set_param(r->err, ERR_UNSUPPORTED, r->path, "%s is not supported; leave it out", r->path);
    return err_set_param(r->err, ERR_UNSUPPORTED, r->path, "%s is not supported; leave it out, or send %s%.*s", r->path, n > 1 ? "one of " : "",
                         (int)strlen(f->neutral) - 2, f->neutral + 1); /* without the brackets of the list */
}

static int api_read_field(struct api_reader *r, json_t *v, const struct api_field *f, void *out)
{
    void *at = out != NULL ? (char *)out + f->offset : NULL; /* tables of idle and called fields have no struct */
    switch (f->type) {
    case API_BOOL:
        if (!json_is_boolean(v))
            return api_fail(r, "must be true or false");
        *(bool *)at = json_is_true(v);
        return 0;
    case API_INT:
        return api_read_int(r, v, f, at);
    case API_FLOAT:
        return api_read_float(r, v, f, at);
    case API_STRING:
        return api_read_string(r, v, at);
    case API_CALL:
        return f->read(r, v, out);
    case API_NEUTRAL:
        return api_read_neutral(r, v, f);
    case API_IDLE_BOOL:
        return json_is_boolean(v) ? 0 : api_fail(r, "must be true or false");
    case API_IDLE_STRING:
        return json_is_string(v) ? 0 : api_fail(r, "must be a string");
    case API_IDLE_OBJECT:
        return json_is_object(v) ? 0 : api_fail(r, "must be an object");
    }
    return 0;
}

static const struct api_field *api_find(const struct api_table *tables, size_t n_tables, const char *name)
{
    for (size_t t = 0; t < n_tables; t++)
        for (size_t i = 0; i < tables[t].n; i++)
            if (strcmp(tables[t].fields[i].name, name) == 0)
                return &tables[t].fields[i];
    return NULL;
}

int api_read_object(struct api_reader *r, json_t *object, const struct api_table *tables, size_t n_tables, void *out)
{
    if (!json_is_object(object))
        return api_fail(r, "must be an object");
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, key, value) {
        const struct api_field *f = api_find(tables, n_tables, key);
        if (f == NULL) {
            if (api_unknown(r, key) != 0)
                return -1;
            json_object_del(object, key); /* ignored means that no template sees it either */
            continue;
        }
        if (json_is_null(value))
            continue;
        size_t mark = api_path_key(r, key);
        if (api_read_field(r, value, f, out) != 0)
            return -1;
        api_path_leave(r, mark);
    }
    return 0;
}

int api_read_ids(struct api_reader *r, const json_t *array, size_t n_max, const int32_t **ids_out, size_t *n_out)
{
    size_t n = json_array_size(array);
    if (n > n_max)
        return api_fail(r, "holds %zu token ids; the limit is %zu", n, n_max);
    int32_t *ids = arena_alloc(r->arena, n * sizeof *ids);
    if (ids == NULL)
        return api_fail_nomem(r);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);
        size_t mark = api_path_index(r, i);
        if (!json_is_integer(v))
            return api_fail(r, "must be a token id, an integer");
        if (id < 0 || id > INT32_MAX)
            return api_fail(r, "is not a token id");
        api_path_leave(r, mark);
        ids[i] = (int32_t)id;
    }
    *ids_out = ids;
    *n_out = n;
    return 0;
}

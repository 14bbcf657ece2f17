/* fixture.h: reads the JSON fixtures of tests of whole models. */
#ifndef NEXTD_TESTS_MODEL_FIXTURE_H
#define NEXTD_TESTS_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

static inline json_t *fixture_load(const char *path)
{
    json_error_t why;
    json_t *json = json_load_file(path, 0, &why);
    if (json == NULL)
        fail_msg("%s: %s", path, why.text);
    return json;
}

/* The array `key` as numbers; free() it. */
static inline double *fixture_numbers(const json_t *json, const char *key, size_t *n_out)
{
    const json_t *array = json_object_get(json, key);
    assert_true(json_is_array(array));
    size_t n = json_array_size(array);
    double *values = calloc(n + 1, sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = json_number_value(json_array_get(array, i));
    *n_out = n;
    return values;
}

static inline int32_t *fixture_ids(const json_t *json, const char *key, int *n_out)
{
    size_t n;
    double *values = fixture_numbers(json, key, &n);
    int32_t *ids = calloc(n + 1, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)values[i];
    free(values);
    *n_out = (int)n;
    return ids;
}

#endif

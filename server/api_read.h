/* api_read.h: reading a JSON object by a table of its fields, always knowing the path of what is read. Used by the api_*.c parsers only. */
#ifndef NEXTD_API_READ_H
#define NEXTD_API_READ_H

#include "server/api.h"
#include "server/buf.h"

struct api_reader {
    const struct api_limits *limits;
    struct arena *arena;
    struct err *err;
    struct buf ignored;  /* paths of unknown fields, when they are to be ignored */
    char path[sizeof((struct err *)0)->param];
    size_t n_path;
};

/* Steps into a member or an element; the result goes to api_path_leave. Long paths are cut. */
size_t api_path_key(struct api_reader *r, const char *key);
size_t api_path_index(struct api_reader *r, size_t i);
void api_path_leave(struct api_reader *r, size_t mark);

/* Fails at the current path: "<path> <predicate>", such as "stop[3] must be a string". Returns -1. */
int api_fail(struct api_reader *r, const char *predicate, ...) __attribute__((format(printf, 2, 3)));
int api_fail_nomem(struct api_reader *r);
/* An unknown member `key` of the current object: fails, or notes it. */
int api_unknown(struct api_reader *r, const char *key);

enum api_type {
    API_BOOL,        /* bool */
    API_INT,         /* int in [min, max] */
    API_FLOAT,       /* float in [min, max]; (min, max] with above_min */
    API_STRING,      /* const char *, without NULs */
    API_CALL,        /* read() does it */
    API_NEUTRAL,     /* a feature that is not served: only the elements of the JSON array `neutral` pass */
    API_IDLE_BOOL,   /* known and without effect here; only the type is checked */
    API_IDLE_STRING,
    API_IDLE_OBJECT
};

struct api_field {
    const char *name;
    enum api_type type;
    size_t offset;       /* into `out`: BOOL, INT, FLOAT, STRING */
    double min, max;
    bool above_min;
    const char *neutral;
    int (*read)(struct api_reader *r, json_t *value, void *out);
};

struct api_table {
    const struct api_field *fields;
    size_t n;
};
#define API_TABLE(array) {(array), sizeof(array) / sizeof((array)[0])}

/* Reads the members of `object` in their order. Members that are null are skipped; ignored ones are removed. */
int api_read_object(struct api_reader *r, json_t *object, const struct api_table *tables, size_t n_tables, void *out);

/* An array of integers in [min, max] as int32 in the arena; at most n_max of them. */
int api_read_ids(struct api_reader *r, const json_t *array, size_t n_max, const int32_t **ids_out, size_t *n_out);

/* Fields that completions and chat share (api_sampling.c), and the checks that need several of them at once. */
extern const struct api_table api_sampling_table;
int api_sampling_check(struct api_reader *r, const struct api_request *out);

/* One kind each; `root` is an object. */
int api_read_completion(struct api_reader *r, json_t *root, struct api_request *out);
int api_read_chat(struct api_reader *r, json_t *root, struct api_request *out);
int api_read_tokenize(struct api_reader *r, json_t *root, struct api_request *out);
int api_read_detokenize(struct api_reader *r, json_t *root, struct api_request *out);

/* Pieces that two kinds use. Each is an API_CALL reader into struct api_request. */
int api_read_messages(struct api_reader *r, json_t *value, void *out);
int api_read_kwargs(struct api_reader *r, json_t *value, void *out);
int api_read_now(struct api_reader *r, json_t *value, void *out);

#endif

/* gguf.h: a GGUF file (v2, v3, little-endian) as checked metadata and tensor descriptions.
 *
 * Everything is validated before it is handed out: afterwards every pointer and length here lies inside the file, every tensor has a known type and
 * a size that its dimensions explain, no two overlap, no key or tensor comes twice. The reader keeps pointers into the bytes it was given and copies
 * nothing; what it allocates is bounded by the file's size. Immutable after opening; any thread may read.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#ifndef NEXTD_GGUF_H
#define NEXTD_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/text/tokenizer.h"

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

#define GGUF_MAX_KEYS 65536
#define GGUF_MAX_TENSORS 65536
#define GGUF_MAX_KEY_BYTES 1024
#define GGUF_MAX_NAME_BYTES 128
#define GGUF_MAX_PARTS 999
#define GGUF_MAX_DIMS 4

/* One metadata entry. */
struct gguf_kv {
    struct token_str key;
    enum gguf_type type; /* of an array: of its items, never GGUF_ARRAY */
    bool is_array;
    uint64_t n;          /* items; 1 for a scalar */
    const uint8_t *p;    /* the first item as the file holds it: unaligned little-endian; a string is a u64 length and its bytes */
    size_t n_bytes;      /* of all items */
};

struct gguf_tensor {
    struct token_str name;
    int n_dims;
    uint64_t dims[GGUF_MAX_DIMS]; /* dims[0] is the row length; 1 beyond n_dims */
    int type;                     /* as the file numbers it; see gguf_type_name */
    const uint8_t *data;
    uint64_t n_bytes;
};

struct gguf;

/* Maps the file, and the other parts of a split file when path names the first of them. Sentences begin with the file's name. */
int gguf_open(const char *path, struct gguf **out, struct err *err);
/* Reads a file that lies in memory already; bytes must outlive *out. A split file is refused. */
int gguf_open_memory(const void *bytes, size_t n, struct gguf **out, struct err *err);
void gguf_close(struct gguf *g); /* NULL is fine */

int gguf_version(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* all parts */
int64_t gguf_mtime_s(const struct gguf *g);     /* of the (first) file; 0 when read from memory */
/* False where a file was written to since it was opened. */
bool gguf_unchanged(const struct gguf *g);
/* The bytes of part i, for hashing: 0 <= i < gguf_n_parts. */
int gguf_n_parts(const struct gguf *g);
const uint8_t *gguf_part(const struct gguf *g, int i, size_t *n_out);
/* Copies n bytes at `offset` of part i, from the file and not from the mapping: it touches no page of it, and the copy cannot change. ERR_IO. */
int gguf_read(const struct gguf *g, int i, uint64_t offset, void *out, size_t n, struct err *err);

/* In the order of the file. */
size_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv(const struct gguf *g, size_t i);
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i);

/* NULL where there is none. */
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* Typed reads of one scalar: 1 found, 0 absent (*out untouched), -1 with *err where it has another type or lies outside min .. max.
 * Any integer type will do for an integer; any float type for a float. A string points into the file and is not terminated. */
int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, struct err *err);
int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *err);
int gguf_get_float(const struct gguf *g, const char *key, double *out, struct err *err);
int gguf_get_str(const struct gguf *g, const char *key, struct token_str *out, struct err *err);
/* A terminated copy, to be freed; *out is untouched where the key is absent. Returns 0, or -1 (a string with a NUL byte is ERR_FORMAT). */
int gguf_copy_str(const struct gguf *g, const char *key, char **out, struct err *err);

/* Item i of a numeric scalar or array (i < kv->n); false where the type does not fit. */
bool gguf_item_int(const struct gguf_kv *kv, uint64_t i, int64_t *out);
bool gguf_item_float(const struct gguf_kv *kv, uint64_t i, double *out);
/* Walks strings: *p starts at kv->p and moves on; call at most kv->n times. */
struct token_str gguf_next_str(const uint8_t **p);

/* For people: a scalar's value, "[151936 x string]" for an array. Unprintable bytes become '?'; long text is cut with "...". Returns buf. */
const char *gguf_kv_text(const struct gguf_kv *kv, char *buf, size_t n);
/* Bytes of one item of a metadata type; 0 for strings, arrays and unknown numbers. */
size_t gguf_item_bytes(uint32_t type);
/* "Q4_1", or NULL for a number that GGUF does not define. */
const char *gguf_type_name(int type);
/* Values and bytes of one block; false for a number that GGUF does not define. */
bool gguf_type_size(int type, int *block_out, int *bytes_out);
/* Makes a name from a file fit for a sentence: printable, at most n-1 bytes. Returns buf. */
const char *gguf_printable(struct token_str s, char *buf, size_t n);

#endif

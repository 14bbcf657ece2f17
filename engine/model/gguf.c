/* gguf.c: reads and checks GGUF files. See gguf.h.
 *
 * A model file is input from strangers. So one cursor walks the bytes once, and it is the only thing that reads them: each read says how much it
 * needs and the cursor compares that with what is left, by subtraction, never by adding to an untrusted number. Counts are compared with the
 * bytes that so many entries must at least take before anything is allocated for them. After the walk come the checks that need the whole: names
 * that come twice (sorted, so that 60,000 names cost no quadratic time), tensors that leave the data section or overlap.
 *
 *   header    "GGUF", u32 version, u64 n_tensors, u64 n_kv
 *   n_kv      string key, u32 type, value
 *   n_tensors string name, u32 n_dims, u64 dims[], u32 type, u64 offset (from the start of the data section)
 *   data      begins at the next multiple of general.alignment; so does each tensor
 *
 * Not done: nested arrays (nobody writes them) and big-endian files are refused. */
#include "engine/model/gguf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The least bytes that one entry takes: key of 1 byte, type, value of 1 byte; name of 1 byte, 1 dimension, type, offset. */
#define KV_MIN_BYTES (8 + 1 + 4 + 1)
#define TENSOR_MIN_BYTES (8 + 1 + 4 + 8 + 4 + 8)
#define MAX_ALIGNMENT 65536

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied out of the file as they lie");

struct part {
    const uint8_t *bytes;
    size_t n;
    bool mapped;
    int fd; /* -1: memory */
    struct stat stat;
};

struct gguf {
    int version;
    struct part *parts;
    int n_parts;
    struct gguf_kv *kvs; /* of the first part */
    size_t n_kv;
    uint32_t *kv_sorted; /* [n_kv] by key */
    struct gguf_tensor *tensors; /* of all parts */
    size_t n_tensors;
    uint32_t *tensor_sorted; /* [n_tensors] by name */
};

/* ---- the cursor ---- */

struct cursor {
    const uint8_t *start, *p;
    size_t left;
};

static bool take(struct cursor *c, uint64_t n, const uint8_t **out)
{
    if (n > c->left)
        return false;
    *out = c->p;
    c->p += n;
    c->left -= n;
    return true;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
    const uint8_t *p;
    if (!take(c, 4, &p))
        return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
    const uint8_t *p;
    if (!take(c, 8, &p))
        return false;
    memcpy(out, p, sizeof *out);
    return true;
}

static bool take_str(struct cursor *c, struct token_str *out)
{
    uint64_t n;
    const uint8_t *p;
    if (!take_u64(c, &n) || !take(c, n, &p))
        return false;
    *out = (struct token_str){(const char *)p, (size_t)n};
    return true;
}

/* ---- metadata ---- */

static int cut_short(struct err *err, const char *where)
{
    return err_set(err, ERR_FORMAT, "the file ends inside %s", where);
}

/* Walks over the value of kv, whose key and type are set. */
static int parse_value(struct cursor *c, struct gguf_kv *kv, struct err *err)
{
    char name[80], where[120];
    gguf_printable(kv->key, name, sizeof name);
    snprintf(where, sizeof where, "the value of \"%s\"", name);
    uint32_t type = (uint32_t)kv->type;
    kv->n = 1;
    if (type == GGUF_ARRAY) {
        if (!take_u32(c, &type) || !take_u64(c, &kv->n))
            return cut_short(err, where);
        if (type == GGUF_ARRAY)
            return err_set(err, ERR_FORMAT, "\"%s\" is an array of arrays", name);
        kv->is_array = true;
    }
    kv->p = c->p;
    if (type == GGUF_STRING) {
        struct token_str s;
        if (kv->n > c->left / 8)
            return cut_short(err, where);
        for (uint64_t i = 0; i < kv->n; i++)
            if (!take_str(c, &s))
                return cut_short(err, where);
    } else {
        size_t bytes = gguf_item_bytes(type);
        if (bytes == 0)
            return err_set(err, ERR_FORMAT, "\"%s\" has the unknown value type %" PRIu32, name, type);
        if (kv->n > c->left / bytes)
            return cut_short(err, where);
        c->p += kv->n * bytes;
        c->left -= kv->n * bytes;
    }
    kv->type = (enum gguf_type)type;
    kv->n_bytes = (size_t)(c->p - kv->p);
    for (uint64_t i = 0; type == GGUF_BOOL && i < kv->n; i++)
        if (kv->p[i] > 1)
            return err_set(err, ERR_FORMAT, "\"%s\" holds a truth value that is neither 0 nor 1", name);
    return 0;
}

static int parse_kvs(struct cursor *c, struct gguf_kv *kvs, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t type;
        if (!take_str(c, &kvs[i].key) || !take_u32(c, &type))
            return cut_short(err, "its metadata");
        if (kvs[i].key.n == 0 || kvs[i].key.n > GGUF_MAX_KEY_BYTES)
            return err_set(err, ERR_FORMAT, "metadata key %zu is %zu bytes long; it must be 1 to %d", i, kvs[i].key.n, GGUF_MAX_KEY_BYTES);
        if (type > GGUF_F64) {
            char name[80];
            return err_set(err, ERR_FORMAT, "\"%s\" has the unknown value type %" PRIu32, gguf_printable(kvs[i].key, name, sizeof name), type);
        }
        kvs[i].type = (enum gguf_type)type;
        if (parse_value(c, &kvs[i], err) != 0)
            return -1;
    }
    return 0;
}

static int compare_str(struct token_str a, struct token_str b)
{
    int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return order != 0 ? order : (a.n > b.n) - (a.n < b.n);
}

static int compare_kv(const void *a, const void *b, void *kvs)
{
    const struct gguf_kv *base = kvs;
    return compare_str(base[*(const uint32_t *)a].key, base[*(const uint32_t *)b].key);
}

static int compare_tensor(const void *a, const void *b, void *tensors)
{
    const struct gguf_tensor *base = tensors;
    return compare_str(base[*(const uint32_t *)a].name, base[*(const uint32_t *)b].name);
}

static int index_kvs(struct gguf *g, struct err *err)
{
    g->kv_sorted = malloc((g->n_kv + 1) * sizeof *g->kv_sorted);
    if (g->kv_sorted == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu metadata entries", g->n_kv);
    for (size_t i = 0; i < g->n_kv; i++)
        g->kv_sorted[i] = (uint32_t)i;
    qsort_r(g->kv_sorted, g->n_kv, sizeof *g->kv_sorted, compare_kv, g->kvs);
    for (size_t i = 1; i < g->n_kv; i++) {
        char name[80];
        if (compare_kv(&g->kv_sorted[i - 1], &g->kv_sorted[i], g->kvs) == 0)
            return err_set(err, ERR_FORMAT, "the metadata key \"%s\" comes twice", gguf_printable(g->kvs[g->kv_sorted[i]].key, name, sizeof name));
    }
    return 0;
}

/* ---- tensors ---- */

/* Fills n_bytes from the dimensions; refuses products that do not fit in 63 bits. */
static int size_tensor(struct gguf_tensor *t, const char *name, struct err *err)
{
    int block, bytes;
    if (!gguf_type_size(t->type, &block, &bytes))
        return err_set(err, ERR_FORMAT, "tensor \"%s\" has the unknown type %d", name, t->type);
    uint64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0)
            return err_set(err, ERR_FORMAT, "tensor \"%s\" has a dimension of 0", name);
        if (t->dims[i] > (uint64_t)INT64_MAX / n)
            return err_set(err, ERR_FORMAT, "the dimensions of tensor \"%s\" multiply to more than a file can hold", name);
        n *= t->dims[i];
    }
    if (t->dims[0] % (uint64_t)block != 0)
        return err_set(err, ERR_FORMAT, "tensor \"%s\" has rows of %" PRIu64 " values; %s packs %d together", name, t->dims[0],
                       gguf_type_name(t->type), block);
    n /= (uint64_t)block;
    if (n > (uint64_t)INT64_MAX / (uint64_t)bytes)
        return err_set(err, ERR_FORMAT, "the dimensions of tensor \"%s\" multiply to more than a file can hold", name);
    t->n_bytes = n * (uint64_t)bytes;
    return 0;
}

/* Reads one description; data holds the offset until the data section's place is known. */
static int parse_tensor(struct cursor *c, uint64_t alignment, struct gguf_tensor *t, uint64_t *offset_out, struct err *err)
{
    char name[80];
    uint32_t n_dims, type;
    if (!take_str(c, &t->name))
        return cut_short(err, "its tensor list");
    gguf_printable(t->name, name, sizeof name);
    if (t->name.n == 0 || t->name.n > GGUF_MAX_NAME_BYTES)
        return err_set(err, ERR_FORMAT, "a tensor's name is %zu bytes long; it must be 1 to %d", t->name.n, GGUF_MAX_NAME_BYTES);
    if (!take_u32(c, &n_dims))
        return cut_short(err, "its tensor list");
    if (n_dims == 0 || n_dims > GGUF_MAX_DIMS)
        return err_set(err, ERR_FORMAT, "tensor \"%s\" has %" PRIu32 " dimensions; it must have 1 to %d", name, n_dims, GGUF_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        t->dims[i] = 1;
        if (i < n_dims && !take_u64(c, &t->dims[i]))
            return cut_short(err, "its tensor list");
    }
    if (!take_u32(c, &type) || !take_u64(c, offset_out))
        return cut_short(err, "its tensor list");
    t->type = type > INT32_MAX ? INT32_MAX : (int)type;
    if (*offset_out % alignment != 0)
        return err_set(err, ERR_FORMAT, "tensor \"%s\" begins at offset %" PRIu64 ", which is no multiple of the alignment %" PRIu64, name,
                       *offset_out, alignment);
    return size_tensor(t, name, err);
}

static int compare_place(const void *a, const void *b, void *tensors)
{
    const struct gguf_tensor *base = tensors, *x = base + *(const uint32_t *)a, *y = base + *(const uint32_t *)b;
    return (x->data > y->data) - (x->data < y->data);
}

/* Turns offsets into places inside the data section [data, data + n) of a part. order is scratch of n_tensors. */
static int place_tensors(struct gguf_tensor *tensors, const uint64_t *offsets, uint32_t *order, size_t n_tensors, const uint8_t *data, size_t n,
                         struct err *err)
{
    char name[80], other[80];
    for (size_t i = 0; i < n_tensors; i++) {
        struct gguf_tensor *t = &tensors[i];
        if (offsets[i] > n || t->n_bytes > n - offsets[i])
            return err_set(err, ERR_FORMAT, "tensor \"%s\" needs bytes %" PRIu64 " to %" PRIu64 " of a data section of %zu; is the file complete?",
                           gguf_printable(t->name, name, sizeof name), offsets[i], offsets[i] + t->n_bytes, n);
        t->data = data + offsets[i];
        order[i] = (uint32_t)i;
    }
    qsort_r(order, n_tensors, sizeof *order, compare_place, tensors);
    for (size_t i = 1; i < n_tensors; i++) {
        const struct gguf_tensor *a = &tensors[order[i - 1]], *b = &tensors[order[i]];
        if ((uint64_t)(b->data - a->data) < a->n_bytes)
            return err_set(err, ERR_FORMAT, "tensors \"%s\" and \"%s\" overlap", gguf_printable(a->name, name, sizeof name),
                           gguf_printable(b->name, other, sizeof other));
    }
    return 0;
}

/* ---- one part ---- */

static int parse_header(struct cursor *c, int *version_out, uint64_t *n_tensors_out, uint64_t *n_kv_out, struct err *err)
{
    const uint8_t *magic;
    uint32_t version;
    if (!take(c, 4, &magic) || memcmp(magic, "GGUF", 4) != 0)
        return err_set(err, ERR_FORMAT, "this is not a GGUF file: it does not begin with \"GGUF\"");
    if (!take_u32(c, &version))
        return cut_short(err, "its header");
    if (version != 0 && (version & 0xffffu) == 0)
        return err_set(err, ERR_UNSUPPORTED, "this is a big-endian GGUF file; nextd reads little-endian ones");
    if (version < 2 || version > 3)
        return err_set(err, ERR_UNSUPPORTED, "this is GGUF version %" PRIu32 "; nextd reads versions 2 and 3", version);
    if (!take_u64(c, n_tensors_out) || !take_u64(c, n_kv_out))
        return cut_short(err, "its header");
    if (*n_kv_out > GGUF_MAX_KEYS || *n_kv_out > c->left / KV_MIN_BYTES)
        return err_set(err, ERR_FORMAT, "the file claims %" PRIu64 " metadata entries; it cannot hold so many", *n_kv_out);
    if (*n_tensors_out > GGUF_MAX_TENSORS || *n_tensors_out > c->left / TENSOR_MIN_BYTES)
        return err_set(err, ERR_FORMAT, "the file claims %" PRIu64 " tensors; it cannot hold so many", *n_tensors_out);
    *version_out = (int)version;
    return 0;
}

static int find_alignment(const struct gguf *part, uint64_t *out, struct err *err)
{
    int64_t alignment = 32;
    if (gguf_get_int(part, "general.alignment", 8, MAX_ALIGNMENT, &alignment, err) < 0)
        return -1;
    if ((alignment & (alignment - 1)) != 0)
        return err_set(err, ERR_FORMAT, "general.alignment is %" PRId64 "; it must be a power of two", alignment);
    *out = (uint64_t)alignment;
    return 0;
}

/* Parses the tensor list and places the tensors; g->tensors has room for n. */
static int parse_tensors(struct cursor *c, const struct gguf *g, size_t n, struct gguf_tensor *tensors, struct err *err)
{
    uint64_t alignment = 0;
    if (find_alignment(g, &alignment, err) != 0)
        return -1;
    uint64_t *offsets = malloc((n + 1) * sizeof *offsets);
    uint32_t *order = malloc((n + 1) * sizeof *order);
    int rc = -1;
    if (offsets == NULL || order == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %zu tensors", n);
        goto done;
    }
    for (size_t i = 0; i < n; i++)
        if (parse_tensor(c, alignment, &tensors[i], &offsets[i], err) != 0)
            goto done;
    if (n == 0) {
        rc = 0;
        goto done;
    }
    uint64_t pad = (alignment - (uint64_t)(c->p - c->start) % alignment) % alignment;
    const uint8_t *skipped;
    if (!take(c, pad, &skipped)) {
        cut_short(err, "the padding before its data");
        goto done;
    }
    rc = place_tensors(tensors, offsets, order, n, c->p, c->left, err);
done:
    free(order);
    free(offsets);
    return rc;
}

/* Parses one part into *g, which is all zero but for parts. */
static int parse_part(struct gguf *g, const uint8_t *bytes, size_t n, struct err *err)
{
    struct cursor c = {bytes, bytes, n};
    uint64_t n_tensors = 0, n_kv = 0;
    if (parse_header(&c, &g->version, &n_tensors, &n_kv, err) != 0)
        return -1;
    g->kvs = calloc(n_kv + 1, sizeof *g->kvs);
    g->tensors = calloc(n_tensors + 1, sizeof *g->tensors);
    if (g->kvs == NULL || g->tensors == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %" PRIu64 " tensors and %" PRIu64 " metadata entries", n_tensors, n_kv);
    if (parse_kvs(&c, g->kvs, (size_t)n_kv, err) != 0)
        return -1;
    g->n_kv = (size_t)n_kv;
    if (index_kvs(g, err) != 0 || parse_tensors(&c, g, (size_t)n_tensors, g->tensors, err) != 0)
        return -1;
    g->n_tensors = (size_t)n_tensors;
    return 0;
}

/* Once all parts are in. */
static int index_tensors(struct gguf *g, struct err *err)
{
    g->tensor_sorted = malloc((g->n_tensors + 1) * sizeof *g->tensor_sorted);
    if (g->tensor_sorted == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu tensors", g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++)
        g->tensor_sorted[i] = (uint32_t)i;
    qsort_r(g->tensor_sorted, g->n_tensors, sizeof *g->tensor_sorted, compare_tensor, g->tensors);
    for (size_t i = 1; i < g->n_tensors; i++) {
        char name[80];
        if (compare_tensor(&g->tensor_sorted[i - 1], &g->tensor_sorted[i], g->tensors) == 0)
            return err_set(err, ERR_FORMAT, "the tensor \"%s\" comes twice",
                           gguf_printable(g->tensors[g->tensor_sorted[i]].name, name, sizeof name));
    }
    return 0;
}

/* ---- split files ---- */

/* split.count and split.no of a part; 1 and 0 for a whole file. */
static int split_place(const struct gguf *g, int64_t *count_out, int64_t *no_out, struct err *err)
{
    *count_out = 1;
    *no_out = 0;
    if (gguf_get_int(g, "split.count", 0, GGUF_MAX_PARTS, count_out, err) < 0 || gguf_get_int(g, "split.no", 0, GGUF_MAX_PARTS, no_out, err) < 0)
        return -1;
    if (*count_out == 0)
        *count_out = 1;
    return 0;
}

/* "dir/name-00001-of-00003.gguf" to the same with part number no (from 0). */
static int split_path(const char *path, int count, int no, char *out, size_t n_out, struct err *err)
{
    char first[32], wanted[32];
    int n_suffix = snprintf(first, sizeof first, "-00001-of-%05d.gguf", count);
    snprintf(wanted, sizeof wanted, "-%05d-of-%05d.gguf", no + 1, count);
    size_t n = strlen(path);
    if (n < (size_t)n_suffix || strcmp(path + n - n_suffix, first) != 0)
        return err_set(err, ERR_FORMAT, "this is the first of %d parts, so its name must end in \"%s\"", count, first);
    if ((size_t)snprintf(out, n_out, "%.*s%s", (int)(n - (size_t)n_suffix), path, wanted) >= n_out)
        return err_set(err, ERR_IO, "the path is too long");
    return 0;
}

static int map_file(const char *path, struct part *out, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open the file: %s", strerror(errno));
    struct stat st;
    void *bytes;
    if (fstat(fd, &st) != 0) {
        err_set(err, ERR_IO, "cannot read the file: %s", strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        err_set(err, ERR_IO, "this is not a regular file");
    } else if (st.st_size == 0) {
        err_set(err, ERR_FORMAT, "the file is empty");
    } else if ((bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED) {
        err_set(err, ERR_IO, "cannot map the file: %s", strerror(errno));
    } else {
        *out = (struct part){bytes, (size_t)st.st_size, true, fd, st};
        return 0;
    }
    close(fd);
    return -1;
}

/* Moves the tensors and the bytes of a further part into g. */
static int adopt_part(struct gguf *g, struct gguf *more, struct err *err)
{
    if (more->n_tensors > GGUF_MAX_TENSORS - g->n_tensors)
        return err_set(err, ERR_FORMAT, "the parts together claim more than %d tensors", GGUF_MAX_TENSORS);
    struct gguf_tensor *tensors = realloc(g->tensors, (g->n_tensors + more->n_tensors + 1) * sizeof *tensors);
    if (tensors == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu tensors", g->n_tensors + more->n_tensors);
    memcpy(tensors + g->n_tensors, more->tensors, more->n_tensors * sizeof *tensors);
    g->tensors = tensors;
    g->n_tensors += more->n_tensors;
    g->parts[g->n_parts++] = more->parts[0];
    more->n_parts = 0;
    return 0;
}

/* Maps and parses one file as a gguf of one part, its tensors not yet indexed. */
static int open_part(const char *path, struct gguf **out, struct err *err)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (g == NULL || (g->parts = calloc(1, sizeof *g->parts)) == NULL) {
        free(g);
        return err_set(err, ERR_NOMEM, "no memory to open the file");
    }
    if (map_file(path, &g->parts[0], err) != 0)
        goto fail;
    g->n_parts = 1;
    if (parse_part(g, g->parts[0].bytes, g->parts[0].n, err) != 0)
        goto fail;
    *out = g;
    return 0;
fail:
    gguf_close(g);
    return -1;
}

static int open_split(const char *path, struct gguf *g, int64_t count, struct err *err)
{
    struct part *parts = realloc(g->parts, (size_t)count * sizeof *parts);
    if (parts == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d parts", (int)count);
    g->parts = parts;
    for (int no = 1; no < (int)count; no++) {
        char part_path[4096];
        int64_t its_count, its_no;
        struct err why;
        struct gguf *more = NULL;
        if (split_path(path, (int)count, no, part_path, sizeof part_path, err) != 0)
            return -1;
        int rc = open_part(part_path, &more, &why);
        if (rc == 0)
            rc = split_place(more, &its_count, &its_no, &why);
        if (rc == 0 && (its_count != count || its_no != no))
            rc = err_set(&why, ERR_FORMAT, "it says that it is part %d of %d", (int)its_no + 1, (int)its_count);
        if (rc == 0)
            rc = adopt_part(g, more, &why);
        gguf_close(more);
        if (rc != 0)
            return err_set(err, why.code, "part %d of %d: %s", no + 1, (int)count, why.msg);
    }
    return 0;
}

/* ---- life ---- */

static int open_whole(const char *path, struct gguf **out, struct err *err)
{
    struct gguf *g = NULL;
    int64_t count, no;
    if (open_part(path, &g, err) != 0)
        return -1;
    if (split_place(g, &count, &no, err) != 0)
        goto fail;
    if (no != 0) {
        err_set(err, ERR_UNSUPPORTED, "this is part %d of %d of a split model; name the first part", (int)no + 1, (int)count);
        goto fail;
    }
    if (count > 1 && open_split(path, g, count, err) != 0)
        goto fail;
    if (index_tensors(g, err) != 0)
        goto fail;
    *out = g;
    return 0;
fail:
    gguf_close(g);
    return -1;
}

int gguf_open(const char *path, struct gguf **out, struct err *err)
{
    struct err why;
    if (open_whole(path, out, &why) == 0)
        return 0;
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    char name[80];
    gguf_printable((struct token_str){base, strlen(base)}, name, sizeof name);
    return err_set(err, why.code, "%s: %s", name, why.msg);
}

int gguf_open_memory(const void *bytes, size_t n, struct gguf **out, struct err *err)
{
    struct gguf *g = calloc(1, sizeof *g);
    int64_t count, no;
    if (g == NULL || (g->parts = calloc(1, sizeof *g->parts)) == NULL) {
        free(g);
        return err_set(err, ERR_NOMEM, "no memory to open the file");
    }
    g->parts[0] = (struct part){.bytes = bytes, .n = n, .fd = -1};
    g->n_parts = 1;
    if (parse_part(g, bytes, n, err) != 0 || split_place(g, &count, &no, err) != 0)
        goto fail;
    if (count > 1 || no != 0) {
        err_set(err, ERR_UNSUPPORTED, "this is part %d of %d of a split model; it must be opened by its path", (int)no + 1, (int)count);
        goto fail;
    }
    if (index_tensors(g, err) != 0)
        goto fail;
    *out = g;
    return 0;
fail:
    gguf_close(g);
    return -1;
}

void gguf_close(struct gguf *g)
{
    if (g == NULL)
        return;
    for (int i = 0; i < g->n_parts; i++) {
        if (g->parts[i].mapped)
            munmap((void *)g->parts[i].bytes, g->parts[i].n);
        if (g->parts[i].fd >= 0)
            close(g->parts[i].fd);
    }
    free(g->parts);
    free(g->kvs);
    free(g->kv_sorted);
    free(g->tensors);
    free(g->tensor_sorted);
    free(g);
}

bool gguf_unchanged(const struct gguf *g)
{
    for (int i = 0; i < g->n_parts; i++) {
        const struct stat *then = &g->parts[i].stat;
        struct stat now;
        if (g->parts[i].fd < 0)
            continue;
        if (fstat(g->parts[i].fd, &now) != 0 || now.st_size != then->st_size || now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != then->st_mtim.tv_nsec)
            return false;
    }
    return true;
}

int gguf_version(const struct gguf *g)
{
    return g->version;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t n = 0;
    for (int i = 0; i < g->n_parts; i++)
        n += g->parts[i].n;
    return n;
}

int64_t gguf_mtime_s(const struct gguf *g)
{
    return g->parts[0].fd >= 0 ? (int64_t)g->parts[0].stat.st_mtim.tv_sec : 0;
}

int gguf_n_parts(const struct gguf *g)
{
    return g->n_parts;
}

const uint8_t *gguf_part(const struct gguf *g, int i, size_t *n_out)
{
    *n_out = g->parts[i].n;
    return g->parts[i].bytes;
}

int gguf_read(const struct gguf *g, int i, uint64_t offset, void *out, size_t n, struct err *err)
{
    const struct part *part = &g->parts[i];
    assert(offset <= part->n && n <= part->n - offset);
    if (part->fd < 0)
        memcpy(out, part->bytes + offset, n);
    for (size_t done = 0; part->fd >= 0 && done < n;) {
        ssize_t got = pread(part->fd, (uint8_t *)out + done, n - done, (off_t)(offset + done));
        if (got == 0)
            return err_set(err, ERR_IO, "the model file became shorter while it was read");
        if (got < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "cannot read the model file: %s", strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

size_t gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv(const struct gguf *g, size_t i)
{
    return &g->kvs[i];
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, size_t i)
{
    return &g->tensors[i];
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    struct token_str wanted = {key, strlen(key)};
    size_t lo = 0, hi = g->n_kv;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = compare_str(g->kvs[g->kv_sorted[mid]].key, wanted);
        if (order == 0)
            return &g->kvs[g->kv_sorted[mid]];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    struct token_str wanted = {name, strlen(name)};
    size_t lo = 0, hi = g->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = compare_str(g->tensors[g->tensor_sorted[mid]].name, wanted);
        if (order == 0)
            return &g->tensors[g->tensor_sorted[mid]];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

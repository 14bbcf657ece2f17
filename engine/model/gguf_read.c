/* gguf_read.c: what a checked GGUF entry says, as numbers, strings and text for people. See gguf.h.
 *
 * gguf.c has made sure that every byte looked at here exists; what is left is types. A file's writer may store a small count as any integer type,
 * so integers and floats are read by value, and only the kind must fit. */
#include "engine/model/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- tensor types ---- */

static const struct {
    int type;
    const char *name;
    short block, bytes;
} tensor_types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},     {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},
    {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 40},     {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},   {14, "Q6_K", 256, 210},  {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},  {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},        {25, "I16", 1, 2},        {26, "I32", 1, 4},
    {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},  {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},   {41, "Q1_0", 128, 18},
};
#define N_TENSOR_TYPES (sizeof tensor_types / sizeof tensor_types[0])

const char *gguf_type_name(int type)
{
    for (size_t i = 0; i < N_TENSOR_TYPES; i++)
        if (tensor_types[i].type == type)
            return tensor_types[i].name;
    return NULL;
}

bool gguf_type_size(int type, int *block_out, int *bytes_out)
{
    for (size_t i = 0; i < N_TENSOR_TYPES; i++) {
        if (tensor_types[i].type != type)
            continue;
        *block_out = tensor_types[i].block;
        *bytes_out = tensor_types[i].bytes;
        return true;
    }
    return false;
}

size_t gguf_item_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

const char *gguf_printable(struct token_str s, char *buf, size_t n)
{
    size_t len = s.n;
    bool cut = len > n - 1;
    if (cut)
        len = n > 4 ? n - 4 : 0;
    for (size_t i = 0; i < len; i++)
        buf[i] = s.p[i] >= 0x20 && s.p[i] < 0x7f ? s.p[i] : '?';
    snprintf(buf + len, n - len, "%s", cut ? "..." : "");
    return buf;
}

/* ---- items ---- */

bool gguf_item_int(const struct gguf_kv *kv, uint64_t i, int64_t *out)
{
    const uint8_t *p = kv->p + i * gguf_item_bytes((uint32_t)kv->type);
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (kv->type) {
    case GGUF_U8:
        *out = *p;
        return true;
    case GGUF_I8:
        *out = (int8_t)*p;
        return true;
    case GGUF_U16:
    case GGUF_I16:
        memcpy(&u16, p, sizeof u16);
        *out = kv->type == GGUF_U16 ? (int64_t)u16 : (int16_t)u16;
        return true;
    case GGUF_U32:
    case GGUF_I32:
        memcpy(&u32, p, sizeof u32);
        *out = kv->type == GGUF_U32 ? (int64_t)u32 : (int32_t)u32;
        return true;
    case GGUF_U64:
    case GGUF_I64:
        memcpy(&u64, p, sizeof u64);
        if (kv->type == GGUF_U64 && u64 > INT64_MAX)
            return false;
        *out = (int64_t)u64;
        return true;
    default:
        return false;
    }
}

bool gguf_item_float(const struct gguf_kv *kv, uint64_t i, double *out)
{
    if (kv->type == GGUF_F32) {
        float f;
        memcpy(&f, kv->p + i * sizeof f, sizeof f);
        *out = (double)f;
        return true;
    }
    if (kv->type == GGUF_F64) {
        memcpy(out, kv->p + i * sizeof *out, sizeof *out);
        return true;
    }
    return false;
}

struct token_str gguf_next_str(const uint8_t **p)
{
    uint64_t n;
    memcpy(&n, *p, sizeof n);
    struct token_str s = {(const char *)*p + sizeof n, (size_t)n};
    *p += sizeof n + n;
    return s;
}

/* ---- typed scalars ---- */

static int wrong_type(struct err *err, const char *key, const char *wanted)
{
    return err_set(err, ERR_FORMAT, "\"%s\" must be %s", key, wanted);
}

int gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out, struct err *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    int64_t value;
    if (kv == NULL)
        return 0;
    if (kv->is_array || !gguf_item_int(kv, 0, &value))
        return wrong_type(err, key, "an integer");
    if (value < min || value > max)
        return err_set(err, ERR_FORMAT, "\"%s\" is %" PRId64 "; it must be %" PRId64 " to %" PRId64, key, value, min, max);
    *out = value;
    return 1;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv == NULL)
        return 0;
    if (kv->is_array || kv->type != GGUF_BOOL)
        return wrong_type(err, key, "a truth value");
    *out = *kv->p != 0;
    return 1;
}

int gguf_get_float(const struct gguf *g, const char *key, double *out, struct err *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    double value;
    if (kv == NULL)
        return 0;
    if (kv->is_array || !gguf_item_float(kv, 0, &value))
        return wrong_type(err, key, "a floating-point number");
    *out = value;
    return 1;
}

int gguf_get_str(const struct gguf *g, const char *key, struct token_str *out, struct err *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv == NULL)
        return 0;
    if (kv->is_array || kv->type != GGUF_STRING)
        return wrong_type(err, key, "a string");
    const uint8_t *p = kv->p;
    *out = gguf_next_str(&p);
    return 1;
}

int gguf_copy_str(const struct gguf *g, const char *key, char **out, struct err *err)
{
    struct token_str s = {0};
    int found = gguf_get_str(g, key, &s, err);
    if (found <= 0)
        return found;
    if (memchr(s.p, '\0', s.n) != NULL)
        return err_set(err, ERR_FORMAT, "\"%s\" contains a NUL byte", key);
    char *copy = strndup(s.p, s.n);
    if (copy == NULL)
        return err_set(err, ERR_NOMEM, "no memory for \"%s\"", key);
    *out = copy;
    return 0;
}

/* ---- text ---- */

const char *gguf_kv_text(const struct gguf_kv *kv, char *buf, size_t n)
{
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    int64_t integer;
    double real;
    if (kv->is_array) {
        snprintf(buf, n, "[%" PRIu64 " x %s]", kv->n, names[kv->type]);
    } else if (kv->type == GGUF_STRING) {
        const uint8_t *p = kv->p;
        gguf_printable(gguf_next_str(&p), buf, n);
    } else if (kv->type == GGUF_BOOL) {
        snprintf(buf, n, "%s", *kv->p ? "true" : "false");
    } else if (gguf_item_int(kv, 0, &integer)) {
        snprintf(buf, n, "%" PRId64, integer);
    } else if (gguf_item_float(kv, 0, &real)) {
        snprintf(buf, n, kv->type == GGUF_F32 ? "%.9g" : "%.17g", real);
    } else {
        snprintf(buf, n, "a number above 2^63");
    }
    return buf;
}

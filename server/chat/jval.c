/* jval.c: values, their equality, order and truth as in Python; lists and dicts; the render's limits. See jval.h. */
#include "server/chat/jval.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/chat/jiter.h"
#include "server/chat/jstr.h"

#define DICT_LINEAR 8u

/* ---- the render ----------------------------------------------------------------------------------------------------------------------------- */

static int jrun_report(struct jrun *r, enum err_code code, const char *format, va_list args)
{
    char what[320];
    vsnprintf(what, sizeof what, format, args);
    return err_set(r->err, code, "chat template, line %d: %s", r->line, what);
}

int jrun_fail(struct jrun *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    jrun_report(r, ERR_INVALID, format, args);
    va_end(args);
    return -1;
}

int jrun_unsupported(struct jrun *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    jrun_report(r, ERR_UNSUPPORTED, format, args);
    va_end(args);
    return -1;
}

int jrun_spend(struct jrun *r, uint64_t steps)
{
    if (steps > r->steps_left) {
        r->steps_left = 0;
        return jrun_fail(r, "the template takes too many steps");
    }
    r->steps_left -= steps;
    return 0;
}

int jrun_spend_bytes(struct jrun *r, size_t n)
{
    return jrun_spend(r, n / 64);
}

int jrun_spend_search(struct jrun *r, size_t n, size_t n_needle)
{
    return jrun_spend(r, (n / 64) * (1 + n_needle / 64)); /* both are at most max_bytes: no overflow in 64 bits */
}

int jrun_enter(struct jrun *r)
{
    if (r->depth >= r->max_depth)
        return jrun_fail(r, "nested deeper than %d levels", r->max_depth);
    r->depth++;
    return 0;
}

void jrun_leave(struct jrun *r)
{
    assert(r->depth > 0);
    r->depth--;
}

void *jrun_alloc(struct jrun *r, size_t n)
{
    void *p = arena_alloc(r->arena, n);
    if (p == NULL)
        jrun_fail(r, "the template takes more memory than it may");
    return p;
}

/* ---- undefined ------------------------------------------------------------------------------------------------------------------------------ */

static struct jval jval_undef_new(struct jrun *r, struct jundef u)
{
    struct jundef *p = arena_alloc(r->arena, sizeof *p); /* without memory the value only loses its message */
    if (p != NULL)
        *p = u;
    return (struct jval){.type = J_UNDEF, .trusted = true, .u.undef = p};
}

struct jval jval_undef(struct jrun *r, const struct jstr *name)
{
    return jval_undef_new(r, (struct jundef){.name = name});
}

struct jval jval_undef_attr(struct jrun *r, uint8_t object_type, const struct jstr *name)
{
    return jval_undef_new(r, (struct jundef){.name = name, .of_object = true, .object_type = object_type});
}

struct jval jval_undef_hint(struct jrun *r, const char *hint)
{
    return jval_undef_new(r, (struct jundef){.hint = hint});
}

int jval_fail_undef(struct jrun *r, const struct jval *v)
{
    const struct jundef *u = v->u.undef;
    if (u == NULL)
        return jrun_fail(r, "an undefined value is used");
    if (u->hint != NULL)
        return jrun_fail(r, "%s", u->hint);
    int n = u->name->n < 80 ? (int)u->name->n : 80;
    if (u->of_object)
        return jrun_fail(r, "'%s' has no attribute '%.*s'", jval_type_name(u->object_type), n, u->name->p);
    return jrun_fail(r, "'%.*s' is undefined", n, u->name->p);
}

/* ---- properties ----------------------------------------------------------------------------------------------------------------------------- */

const char *jval_type_name(uint8_t type)
{
    static const char *const names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "range", "dict view",
                                        "generator", "Namespace", "Macro", "method", "function", "LoopContext"};
    return type < sizeof names / sizeof names[0] ? names[type] : "object";
}

bool jval_is_number(const struct jval *v)
{
    return v->type == J_BOOL || v->type == J_INT || v->type == J_FLOAT;
}

double jval_as_double(const struct jval *v)
{
    return v->type == J_FLOAT ? v->u.f : v->type == J_BOOL ? (double)v->u.b : (double)v->u.i;
}

static int64_t jval_as_int(const struct jval *v)
{
    return v->type == J_BOOL ? v->u.b : v->u.i;
}

int jval_truth(struct jrun *r, const struct jval *v, bool *out)
{
    int64_t n;
    switch (v->type) {
    case J_UNDEF: case J_NONE: *out = false; return 0;
    case J_BOOL: *out = v->u.b; return 0;
    case J_INT: *out = v->u.i != 0; return 0;
    case J_FLOAT: *out = v->u.f != 0; return 0;
    case J_STR: *out = v->u.s->n > 0; return 0;
    case J_LIST: case J_TUPLE: case J_DICT: case J_RANGE: case J_VIEW: case J_LOOP:
        if (jval_length(r, v, &n) < 0)
            return -1;
        *out = n > 0;
        return 0;
    default: *out = true; return 0;
    }
}

int jval_length(struct jrun *r, const struct jval *v, int64_t *out)
{
    switch (v->type) {
    case J_UNDEF: *out = 0; return 0;
    case J_STR:
        if (jstr_flat(r, v->u.s) < 0 || jrun_spend_bytes(r, v->u.s->n) < 0)
            return -1;
        *out = (int64_t)jstr_n_chars(v->u.s);
        return 0;
    case J_LIST: case J_TUPLE: *out = (int64_t)v->u.seq->n; return 0;
    case J_DICT: case J_VIEW: *out = (int64_t)v->u.dict->n; return 0;
    case J_RANGE: *out = v->u.range->n; return 0;
    case J_LOOP: return jloop_length(r, v->u.loop, out);
    default: return jrun_fail(r, "object of type '%s' has no len()", jval_type_name(v->type));
    }
}

int jval_index(struct jrun *r, const struct jval *v, int64_t *out)
{
    if (v->type == J_UNDEF)
        return jval_fail_undef(r, v);
    if (v->type != J_INT && v->type != J_BOOL)
        return jrun_fail(r, "'%s' object cannot be interpreted as an integer", jval_type_name(v->type));
    *out = jval_as_int(v);
    return 0;
}

static int jval_equal_items(struct jrun *r, const struct jval *a, const struct jval *b, bool *out)
{
    *out = false;
    if (a->u.seq->n != b->u.seq->n)
        return 0;
    for (size_t i = 0; i < a->u.seq->n; i++) {
        bool same;
        if (jval_equal(r, &a->u.seq->v[i], &b->u.seq->v[i], &same) < 0)
            return -1;
        if (!same)
            return 0;
    }
    *out = true;
    return 0;
}

static int jval_equal_dicts(struct jrun *r, const struct jdict *a, const struct jdict *b, bool *out)
{
    *out = false;
    if (a->n != b->n)
        return 0;
    for (size_t i = 0; i < a->n; i++) {
        struct jval *other;
        bool same;
        if (jdict_get(r, b, &a->v[i].key, &other) < 0)
            return -1;
        if (other == NULL)
            return 0;
        if (jval_equal(r, &a->v[i].value, other, &same) < 0)
            return -1;
        if (!same)
            return 0;
    }
    *out = true;
    return 0;
}

/* An int against a float, exactly: 2**53 + 1 is not 2.0**53. <0, 0, >0; f is not NaN. */
static int jval_order_int_float(int64_t i, double f)
{
    if (f >= 9223372036854775808.0)
        return -1;
    if (f < -9223372036854775808.0)
        return 1;
    int64_t whole = (int64_t)f;
    if (i != whole)
        return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0;
}

/* <0, 0, >0; 2 when a NaN is in the way. */
static int jval_order_numbers(const struct jval *a, const struct jval *b)
{
    if (a->type == J_FLOAT && b->type == J_FLOAT)
        return a->u.f < b->u.f ? -1 : a->u.f > b->u.f ? 1 : a->u.f == b->u.f ? 0 : 2;
    if (a->type == J_FLOAT)
        return isnan(a->u.f) ? 2 : -jval_order_int_float(jval_as_int(b), a->u.f);
    if (b->type == J_FLOAT)
        return isnan(b->u.f) ? 2 : jval_order_int_float(jval_as_int(a), b->u.f);
    int64_t x = jval_as_int(a), y = jval_as_int(b);
    return x < y ? -1 : x > y;
}

int jval_equal(struct jrun *r, const struct jval *a, const struct jval *b, bool *out)
{
    *out = false;
    if (jrun_spend(r, 1) < 0)
        return -1;
    if (jval_is_number(a) && jval_is_number(b)) {
        *out = jval_order_numbers(a, b) == 0;
        return 0;
    }
    if (a->type != b->type)
        return 0;
    int rc = 0;
    switch (a->type) {
    case J_UNDEF: case J_NONE: *out = true; return 0;
    case J_STR:
        if (a->u.s->n != b->u.s->n)
            return 0;
        if (jstr_flat(r, a->u.s) < 0 || jstr_flat(r, b->u.s) < 0 || jrun_spend_bytes(r, a->u.s->n) < 0)
            return -1;
        *out = memcmp(a->u.s->p, b->u.s->p, a->u.s->n) == 0;
        return 0;
    case J_LIST: case J_TUPLE: case J_DICT:
        if (a->u.seq == b->u.seq) {
            *out = true;
            return 0;
        }
        if (jrun_enter(r) < 0)
            return -1;
        rc = a->type == J_DICT ? jval_equal_dicts(r, a->u.dict, b->u.dict, out) : jval_equal_items(r, a, b, out);
        if (rc == 0)
            jrun_leave(r);
        return rc;
    case J_RANGE:
        *out = a->u.range->n == b->u.range->n && (a->u.range->n == 0 || (a->u.range->start == b->u.range->start &&
               (a->u.range->n == 1 || a->u.range->step == b->u.range->step)));
        return 0;
    case J_VIEW: *out = a->u.dict == b->u.dict && a->sub == b->sub; return 0;
    case J_FUNC: *out = a->sub == b->sub; return 0;
    default: *out = a->u.seq == b->u.seq; return 0;
    }
}

static int jval_compare_items(struct jrun *r, const struct jseq *a, const struct jseq *b, const char *op, int *out, bool *unordered)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        if (jval_equal(r, &a->v[i], &b->v[i], &same) < 0)
            return -1;
        if (!same)
            return jval_compare(r, &a->v[i], &b->v[i], op, out, unordered);
    }
    *out = a->n < b->n ? -1 : a->n > b->n;
    return 0;
}

int jval_compare(struct jrun *r, const struct jval *a, const struct jval *b, const char *op, int *out, bool *unordered)
{
    *unordered = false;
    if (jrun_spend(r, 1) < 0)
        return -1;
    if (a->type == J_UNDEF || b->type == J_UNDEF)
        return jval_fail_undef(r, a->type == J_UNDEF ? a : b);
    if (jval_is_number(a) && jval_is_number(b)) {
        *out = jval_order_numbers(a, b);
        *unordered = *out == 2;
        return 0;
    }
    if (a->type == J_STR && b->type == J_STR) {
        if (jstr_flat(r, a->u.s) < 0 || jstr_flat(r, b->u.s) < 0)
            return -1;
        *out = jstr_order(a->u.s, b->u.s);
        return 0;
    }
    if (a->type == b->type && (a->type == J_LIST || a->type == J_TUPLE)) {
        if (jrun_enter(r) < 0 || jval_compare_items(r, a->u.seq, b->u.seq, op, out, unordered) < 0)
            return -1;
        jrun_leave(r);
        return 0;
    }
    return jrun_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, jval_type_name(a->type), jval_type_name(b->type));
}

int jval_contains(struct jrun *r, const struct jval *container, const struct jval *item, bool *out)
{
    struct jval *found;
    if (container->type == J_STR) {
        struct jstr *s = container->u.s;
        if (item->type != J_STR)
            return jrun_fail(r, "'in <string>' requires string as left operand, not %s", jval_type_name(item->type));
        if (jstr_flat(r, s) < 0 || jstr_flat(r, item->u.s) < 0 || jrun_spend_bytes(r, s->n) < 0)
            return -1;
        *out = jstr_find(s, item->u.s->p, item->u.s->n, 0, s->n) != SIZE_MAX;
        return 0;
    }
    if (container->type == J_DICT || (container->type == J_VIEW && container->sub == JVIEW_KEYS)) {
        if (jdict_get(r, container->u.dict, item, &found) < 0)
            return -1;
        *out = found != NULL;
        return 0;
    }
    struct jiter *it;
    struct jval v;
    int rc;
    if (jiter_open(r, container, &it) < 0)
        return -1;
    *out = false;
    while ((rc = jiter_next(r, it, &v)) > 0) {
        bool same;
        if (jval_equal(r, item, &v, &same) < 0)
            return -1;
        if (same) {
            *out = true;
            return 0;
        }
    }
    return rc;
}

/* ---- sequences ------------------------------------------------------------------------------------------------------------------------------ */

struct jseq *jseq_new(struct jrun *r, size_t cap)
{
    struct jseq *s = jrun_alloc(r, sizeof *s);
    if (s == NULL)
        return NULL;
    *s = (struct jseq){.cap = cap};
    if (cap > 0 && (s->v = jrun_alloc(r, cap * sizeof *s->v)) == NULL)
        return NULL;
    return s;
}

int jseq_push(struct jrun *r, struct jseq *s, struct jval v)
{
    if (s->n == s->cap) {
        size_t cap = s->cap < 4 ? 8 : s->cap * 2;
        struct jval *grown = jrun_alloc(r, cap * sizeof *grown);
        if (grown == NULL)
            return -1;
        if (s->n > 0)
            memcpy(grown, s->v, s->n * sizeof *grown);
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->n++] = v;
    return jrun_spend(r, 1);
}

int jval_pair(struct jrun *r, struct jval a, struct jval b, bool trusted, struct jval *out)
{
    struct jseq *s = jseq_new(r, 2);
    if (s == NULL)
        return -1;
    s->v[s->n++] = a;
    s->v[s->n++] = b;
    *out = jval_seq(J_TUPLE, s, trusted);
    return 0;
}

/* ---- dicts ---------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t jdict_hash_bytes(const char *p, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static int jdict_hash(struct jrun *r, const struct jval *key, uint64_t *out)
{
    switch (key->type) {
    case J_STR:
        if (jstr_flat(r, key->u.s) < 0 || jrun_spend_bytes(r, key->u.s->n) < 0)
            return -1;
        *out = jdict_hash_bytes(key->u.s->p, key->u.s->n);
        return 0;
    case J_BOOL: case J_INT: *out = (uint64_t)jval_as_int(key) * 0x9e3779b97f4a7c15u; return 0;
    case J_FLOAT: /* equal to an int, hashed as that int */
        *out = key->u.f >= -9e18 && key->u.f <= 9e18 && key->u.f == floor(key->u.f) ? (uint64_t)(int64_t)key->u.f * 0x9e3779b97f4a7c15u : 77;
        return 0;
    case J_TUPLE:
        *out = 7;
        for (size_t i = 0; i < key->u.seq->n; i++) {
            uint64_t h;
            if (jrun_enter(r) < 0 || jdict_hash(r, &key->u.seq->v[i], &h) < 0)
                return -1;
            jrun_leave(r);
            *out = *out * 31 + h;
        }
        return 0;
    case J_LIST: case J_DICT: case J_VIEW: return jrun_fail(r, "unhashable type: '%s'", jval_type_name(key->type));
    default: *out = key->type; return 0;
    }
}

struct jdict *jdict_new(struct jrun *r)
{
    struct jdict *d = jrun_alloc(r, sizeof *d);
    if (d != NULL)
        *d = (struct jdict){0};
    return d;
}

static int jdict_find(struct jrun *r, const struct jdict *d, const struct jval *key, uint64_t hash, size_t *index)
{
    bool same = false;
    *index = SIZE_MAX;
    if (d->slots == NULL) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->v[i].hash == hash && jval_equal(r, &d->v[i].key, key, &same) < 0)
                return -1;
            if (same) {
                *index = i;
                return 0;
            }
        }
        return 0;
    }
    for (size_t at = hash & (d->n_slots - 1); d->slots[at] != 0; at = (at + 1) & (d->n_slots - 1)) {
        size_t i = d->slots[at] - 1;
        if (jrun_spend(r, 1) < 0 || (d->v[i].hash == hash && jval_equal(r, &d->v[i].key, key, &same) < 0))
            return -1;
        if (same) {
            *index = i;
            return 0;
        }
    }
    return 0;
}

static void jdict_link(struct jdict *d, size_t i)
{
    size_t at = d->v[i].hash & (d->n_slots - 1);
    while (d->slots[at] != 0)
        at = (at + 1) & (d->n_slots - 1);
    d->slots[at] = (uint32_t)(i + 1);
}

static int jdict_grow(struct jrun *r, struct jdict *d)
{
    size_t cap = d->cap == 0 ? 4 : d->cap * 2;
    struct jpair *v = jrun_alloc(r, cap * sizeof *v);
    if (v == NULL)
        return -1;
    if (d->n > 0)
        memcpy(v, d->v, d->n * sizeof *v);
    d->v = v;
    d->cap = cap;
    if (cap <= DICT_LINEAR)
        return 0;
    uint32_t *slots = cap < UINT32_MAX / 4 ? jrun_alloc(r, cap * 2 * sizeof *slots) : NULL;
    if (slots == NULL)
        return jrun_fail(r, "a dict grows too large");
    memset(slots, 0, cap * 2 * sizeof *slots);
    d->slots = slots;
    d->n_slots = cap * 2;
    for (size_t i = 0; i < d->n; i++)
        jdict_link(d, i);
    return 0;
}

int jdict_set(struct jrun *r, struct jdict *d, struct jval key, struct jval value)
{
    uint64_t hash;
    size_t at;
    if (jdict_hash(r, &key, &hash) < 0 || jdict_find(r, d, &key, hash, &at) < 0)
        return -1;
    if (at != SIZE_MAX) {
        d->v[at].value = value;
        return 0;
    }
    if (d->n == d->cap && jdict_grow(r, d) < 0)
        return -1;
    d->v[d->n++] = (struct jpair){.key = key, .value = value, .hash = hash};
    if (d->slots != NULL)
        jdict_link(d, d->n - 1);
    return jrun_spend(r, 1);
}

int jdict_get(struct jrun *r, const struct jdict *d, const struct jval *key, struct jval **out)
{
    uint64_t hash;
    size_t at;
    if (jdict_hash(r, key, &hash) < 0 || jdict_find(r, d, key, hash, &at) < 0)
        return -1;
    *out = at == SIZE_MAX ? NULL : &d->v[at].value;
    return 0;
}

struct jval *jdict_get_str(const struct jdict *d, const char *p, size_t n)
{
    uint64_t hash = jdict_hash_bytes(p, n);
    if (d->slots == NULL) {
        for (size_t i = 0; i < d->n; i++)
            if (d->v[i].hash == hash && d->v[i].key.type == J_STR && d->v[i].key.u.s->n == n && memcmp(d->v[i].key.u.s->p, p, n) == 0)
                return &d->v[i].value;
        return NULL;
    }
    for (size_t at = hash & (d->n_slots - 1); d->slots[at] != 0; at = (at + 1) & (d->n_slots - 1)) {
        struct jpair *pair = &d->v[d->slots[at] - 1];
        if (pair->hash == hash && pair->key.type == J_STR && pair->key.u.s->n == n && memcmp(pair->key.u.s->p, p, n) == 0)
            return &pair->value;
    }
    return NULL;
}

/* jattr.c: object.name, object[index] and object[from:to:step], in the order in which jinja2's sandbox looks: an attribute first for a dot, an item
 * first for brackets, then the other. What would change a list or dict, and names with underscores that Python keeps to itself, look undefined and
 * fail when used. */
#include "server/chat/jeval.h"

#include <string.h>

#include "server/chat/juni.h"

#define UNSAFE "access to this attribute is unsafe: templates may not change lists or dicts, nor reach into objects"

static bool jattr_is(const struct jstr *name, const char *const *list)
{
    for (; *list != NULL; list++)
        if (jstr_is(name, *list))
            return true;
    return false;
}

/* An attribute that exists in Python and that the sandbox hides. */
static bool jattr_unsafe(const struct jval *object, const struct jstr *name)
{
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const of_list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
    if (object->type == J_DICT)
        return jattr_is(name, of_dict);
    if (object->type == J_LIST)
        return jattr_is(name, of_list);
    return false;
}

static int jattr_of_loop(struct jrun *r, struct jloop *l, const struct jstr *name, struct jval *out, bool *found)
{
    bool has;
    int64_t n;
    *found = true;
    if (jstr_is(name, "index0") || jstr_is(name, "index")) {
        *out = jval_int(l->index0 + (name->n == 5), true);
    } else if (jstr_is(name, "first")) {
        *out = jval_bool(l->index0 == 0);
    } else if (jstr_is(name, "last") || jstr_is(name, "nextitem")) {
        struct jval next = jval_undef_hint(r, "there is no next item");
        if (jloop_peek(r, l, &has, &next) < 0)
            return -1;
        *out = name->n == 4 ? jval_bool(!has) : next;
    } else if (jstr_is(name, "previtem")) {
        *out = l->index0 == 0 ? jval_undef_hint(r, "there is no previous item") : l->before;
    } else if (jstr_is(name, "length") || jstr_is(name, "revindex") || jstr_is(name, "revindex0")) {
        if (jloop_length(r, l, &n) < 0)
            return -1;
        *out = jval_int(name->n == 6 ? n : n - l->index0 - (name->n == 9), true);
    } else if (jstr_is(name, "depth") || jstr_is(name, "depth0")) {
        *out = jval_int(l->depth0 + (name->n == 5), true);
    } else {
        *found = false;
    }
    return 0;
}

/* A real attribute; *found tells. */
static int jattr_plain(struct jrun *r, const struct jval *object, const struct jstr *name, struct jval *out, bool *found)
{
    uint16_t id;
    struct jval *v;
    *found = true;
    if (object->type == J_NS) {
        v = jdict_get_str(object->u.dict, name->p, name->n);
        *found = v != NULL;
        if (v != NULL)
            *out = *v;
        return 0;
    }
    if (jattr_unsafe(object, name)) {
        *out = jval_undef_hint(r, UNSAFE);
        return 0;
    }
    if (object->type == J_LOOP && (jattr_of_loop(r, object->u.loop, name, out, found) < 0 || *found))
        return *found ? 0 : -1;
    if (object->type == J_TUPLE && object->u.seq->group && (jstr_is(name, "grouper") || jstr_is(name, "list"))) {
        *out = object->u.seq->v[name->n == 4];
        return *found = true, 0;
    }
    if (object->type == J_MACRO && jstr_is(name, "name") && object->u.macro->def->name != NULL) {
        *out = jval_str((struct jstr *)object->u.macro->def->name);
        return *found = true, 0;
    }
    *found = jmethod_find(object, name, &id);
    if (!*found)
        return 0;
    struct jmethod *m = jrun_alloc(r, sizeof *m);
    if (m == NULL)
        return -1;
    *m = (struct jmethod){.self = *object, .id = id};
    *out = (struct jval){.type = J_METHOD, .trusted = true, .u.method = m};
    return 0;
}

int jattr_get(struct jrun *r, const struct jval *object, const struct jstr *name, struct jval *out)
{
    bool found;
    if (object->type == J_UNDEF)
        return jval_fail_undef(r, object);
    if (jattr_plain(r, object, name, out, &found) < 0)
        return -1;
    if (found)
        return 0;
    struct jval *v = object->type == J_DICT ? jdict_get_str(object->u.dict, name->p, name->n) : NULL;
    *out = v != NULL ? *v : jval_undef_attr(r, object->type, name);
    return 0;
}

/* The position of an index that may count from the end, -1 when it is outside. */
static int64_t jattr_position(const struct jval *index, int64_t n)
{
    int64_t i = index->type == J_BOOL ? index->u.b : index->u.i;
    if (i < 0)
        i += n;
    return i >= 0 && i < n ? i : -1;
}

static int jattr_by_number(struct jrun *r, const struct jval *object, const struct jval *index, struct jval *out, bool *found)
{
    int64_t n = 0, i;
    *found = false;
    if (object->type != J_LIST && object->type != J_TUPLE && object->type != J_STR && object->type != J_RANGE)
        return 0;
    if (jval_length(r, object, &n) < 0)
        return -1;
    if ((i = jattr_position(index, n)) < 0)
        return 0;
    *found = true;
    if (object->type == J_RANGE) {
        *out = jval_int(jrange_at(object->u.range, i), object->trusted);
    } else if (object->type == J_STR) {
        size_t from = jstr_byte_of(object->u.s, (size_t)i);
        struct jstr *c = jstr_sub(r, object->u.s, from, from + juni_length(object->u.s->p + from, object->u.s->n - from));
        if (c == NULL)
            return -1;
        *out = jval_str(c);
    } else {
        *out = object->u.seq->v[i];
    }
    return 0;
}

int jattr_item(struct jrun *r, const struct jval *object, const struct jval *index, struct jval *out)
{
    bool found = false;
    struct jval *v = NULL;
    struct jstr *name;
    if (object->type == J_UNDEF)
        return jval_fail_undef(r, object);
    bool hashable = index->type != J_LIST && index->type != J_DICT && index->type != J_VIEW;
    if (object->type == J_DICT && hashable && jdict_get(r, object->u.dict, index, &v) < 0)
        return -1;
    if (v != NULL) {
        *out = *v;
        return 0;
    }
    if ((index->type == J_INT || index->type == J_BOOL) && jattr_by_number(r, object, index, out, &found) < 0)
        return -1;
    if (found)
        return 0;
    if (index->type == J_STR && (jstr_flat(r, index->u.s) < 0 || jattr_plain(r, object, index->u.s, out, &found) < 0))
        return -1;
    if (found)
        return 0;
    if (index->type == J_STR || index->type == J_INT || index->type == J_NONE) {
        if (jtext_of(r, index, &name) < 0)
            return -1;
        *out = jval_undef_attr(r, object->type, name);
    } else {
        *out = jval_undef_hint(r, "the object has no such element");
    }
    return 0;
}

/* ---- slices --------------------------------------------------------------------------------------------------------------------------------- */

static int jattr_bound(struct jrun *r, const struct jval *part, int64_t absent, int64_t low, int64_t high, int64_t n, int64_t *out)
{
    if (part->type == J_NONE) {
        *out = absent;
        return 0;
    }
    if (part->type != J_INT && part->type != J_BOOL)
        return jrun_fail(r, "slice indices must be integers or None, not %s", jval_type_name(part->type));
    int64_t i = part->type == J_BOOL ? part->u.b : part->u.i;
    if (i < 0)
        i = i < -n ? low : i + n;
    *out = i < low ? low : i > high ? high : i;
    return 0;
}

static int jattr_slice_str(struct jrun *r, struct jstr *s, int64_t start, int64_t step, int64_t count, struct jval *out)
{
    struct jbuild b;
    struct jstr *sub;
    if (step == 1 || count == 0) {
        size_t from = count == 0 ? 0 : jstr_byte_of(s, (size_t)start), at = from;
        for (int64_t i = 0; i < count; i++)
            at += juni_length(s->p + at, s->n - at);
        if (jrun_spend_bytes(r, s->n) < 0 || (sub = jstr_sub(r, s, from, at)) == NULL)
            return -1;
        *out = jval_str(sub);
        return 0;
    }
    size_t *starts = jrun_alloc(r, (jstr_n_chars(s) + 1) * sizeof *starts), n = 0;
    if (starts == NULL || jrun_spend(r, s->n / 8) < 0)
        return -1;
    for (size_t at = 0; at < s->n; at += juni_length(s->p + at, s->n - at))
        starts[n++] = at;
    starts[n] = s->n;
    jbuild_init(&b, r);
    b.markup = s->markup;
    for (int64_t i = 0; i < count; i++)
        if (jbuild_sub(&b, s, starts[start + i * step], starts[start + i * step + 1]) < 0)
            return -1;
    if (jbuild_finish(&b, &sub) < 0)
        return -1;
    *out = jval_str(sub);
    return 0;
}

int jattr_slice(struct jrun *r, const struct jval *object, const struct jval part[3], struct jval *out)
{
    int64_t n, start, stop, step = 1;
    if (object->type == J_UNDEF)
        return jval_fail_undef(r, object);
    if (object->type == J_RANGE)
        return jrun_unsupported(r, "a slice of a range is not supported");
    if (object->type != J_STR && object->type != J_LIST && object->type != J_TUPLE)
        return jrun_fail(r, "'%s' object cannot be sliced", jval_type_name(object->type));
    if (part[2].type != J_NONE && jval_index(r, &part[2], &step) < 0)
        return -1;
    if (step == 0)
        return jrun_fail(r, "slice step cannot be zero");
    if (jval_length(r, object, &n) < 0)
        return -1;
    bool back = step < 0;
    if (jattr_bound(r, &part[0], back ? n - 1 : 0, back ? -1 : 0, back ? n - 1 : n, n, &start) < 0 ||
        jattr_bound(r, &part[1], back ? -1 : n, back ? -1 : 0, back ? n - 1 : n, n, &stop) < 0)
        return -1;
    if (step > n + 1 || step < -(n + 1)) /* one item at most either way, and no overflow below */
        step = back ? -(n + 1) : n + 1;
    int64_t count = back ? (start > stop ? (start - stop - 1) / -step + 1 : 0) : stop > start ? (stop - start - 1) / step + 1 : 0;
    if (object->type == J_STR)
        return jattr_slice_str(r, object->u.s, start, step, count, out);
    struct jseq *s = jseq_new(r, (size_t)count);
    if (s == NULL)
        return -1;
    for (int64_t i = 0; i < count; i++)
        if (jseq_push(r, s, object->u.seq->v[start + i * step]) < 0)
            return -1;
    *out = jval_seq((enum jtype)object->type, s, object->trusted);
    return 0;
}

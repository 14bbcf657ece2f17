/* jfilter_seq.c: filters on sequences. map, select, reject and their kin are lazy and may be walked once, as jinja2's generators; what sorts or
 * groups takes all of its input first. */
#include <string.h>

#include "server/chat/jfilter.h"
#include "server/chat/jstrfn.h"

/* ---- attributes ----------------------------------------------------------------------------------------------------------------------------- */

/* What sort(attribute=...) and others look up in each item: "a.b.0", or several of them. */
struct jgetter {
    struct jseq *paths; /* of sequences of steps */
    struct jval missing; /* instead of an undefined step; J_NONE for none */
    bool fold;           /* strings in lower case */
};

static int jgetter_path(struct jrun *r, const struct jval *attribute, struct jseq *paths)
{
    struct jseq *steps = jseq_new(r, 1);
    if (steps == NULL)
        return -1;
    if (attribute->type == J_STR) {
        struct jstr *s = attribute->u.s;
        if (jstr_flat(r, s) < 0)
            return -1;
        for (size_t at = 0; at <= s->n;) {
            size_t dot = jstr_find(s, ".", 1, at, s->n), end = dot == SIZE_MAX ? s->n : dot;
            int64_t number = 0;
            bool digits = end > at;
            for (size_t i = at; i < end && digits; i++) {
                digits = s->p[i] >= '0' && s->p[i] <= '9' && number < INT32_MAX;
                number = number * 10 + (s->p[i] - '0');
            }
            struct jstr *name = jstr_sub(r, s, at, end);
            if (name == NULL || jseq_push(r, steps, digits ? jval_int(number, true) : jval_str(name)) < 0)
                return -1;
            at = end + 1;
        }
    } else if (attribute->type != J_NONE && jseq_push(r, steps, *attribute) < 0) {
        return -1;
    }
    return jseq_push(r, paths, jval_seq(J_LIST, steps, true));
}

static int jgetter_init(struct jrun *r, struct jgetter *g, const struct jval *attribute, bool several, bool fold)
{
    *g = (struct jgetter){.paths = jseq_new(r, 1), .missing = jval_none(), .fold = fold};
    if (g->paths == NULL)
        return -1;
    if (!several || attribute->type != J_STR)
        return jgetter_path(r, attribute, g->paths);
    struct jval list;
    struct jstr *comma = jstr_ref(r, ",", 1, true);
    if (comma == NULL || jstr_flat(r, attribute->u.s) < 0 || jstrfn_split(r, attribute->u.s, comma, -1, false, &list) < 0)
        return -1;
    for (size_t i = 0; i < list.u.seq->n; i++)
        if (jgetter_path(r, &list.u.seq->v[i], g->paths) < 0)
            return -1;
    return 0;
}

static int jgetter_walk(struct jrun *r, const struct jgetter *g, const struct jseq *steps, struct jval v, struct jval *out)
{
    for (size_t i = 0; i < steps->n; i++) {
        struct jval object = v;
        if (jattr_item(r, &object, &steps->v[i], &v) < 0)
            return -1;
        if (v.type == J_UNDEF && g->missing.type != J_NONE)
            v = g->missing;
    }
    if (g->fold && v.type == J_STR && (jstr_flat(r, v.u.s) < 0 || jstrfn_case(r, v.u.s, JCASE_LOWER, &v) < 0))
        return -1;
    *out = v;
    return 0;
}

/* The value, or with several paths the list of them. */
static int jgetter_get(struct jrun *r, const struct jgetter *g, const struct jval *item, struct jval *out)
{
    if (g->paths->n == 1)
        return jgetter_walk(r, g, g->paths->v[0].u.seq, *item, out);
    struct jseq *list = jseq_new(r, g->paths->n);
    struct jval v;
    for (size_t i = 0; list != NULL && i < g->paths->n; i++)
        if (jgetter_walk(r, g, g->paths->v[i].u.seq, *item, &v) < 0 || jseq_push(r, list, v) < 0)
            return -1;
    if (list == NULL)
        return -1;
    *out = jval_seq(J_LIST, list, true);
    return 0;
}

/* ---- map, select, reject -------------------------------------------------------------------------------------------------------------------- */

struct jlazy {
    struct jval in;
    bool opened;
    struct jgetter getter;
    bool by_attribute, by_name; /* take an attribute; apply a filter or test */
    bool wanted;                /* select: true, reject: false */
    struct jval name;
    struct jcall args;
    struct jdict *seen;         /* of unique */
};

/* The next item of the source; a source that is false has none. */
static int jlazy_source(struct jrun *r, struct jiter *it, struct jlazy *z, struct jval *out)
{
    bool truth;
    if (!z->opened) {
        if (jval_truth(r, &z->in, &truth) < 0)
            return -1;
        z->opened = true;
        if (truth && jiter_open(r, &z->in, &it->inner) < 0)
            return -1;
    }
    return it->inner == NULL ? 0 : jiter_next(r, it->inner, out);
}

static int jlazy_next_mapped(struct jrun *r, struct jiter *it, struct jval *out)
{
    struct jlazy *z = it->ctx;
    struct jval v;
    int rc = jlazy_source(r, it, z, &v);
    if (rc <= 0)
        return rc;
    if (z->by_attribute ? jgetter_get(r, &z->getter, &v, out) < 0 : jfilter_call_named(r, &z->name, &v, &z->args, out) < 0)
        return -1;
    return 1;
}

static int jlazy_next_selected(struct jrun *r, struct jiter *it, struct jval *out)
{
    struct jlazy *z = it->ctx;
    struct jval v, tested;
    bool holds;
    int rc;
    while ((rc = jlazy_source(r, it, z, &v)) > 0) {
        tested = v;
        if (z->by_attribute && jgetter_get(r, &z->getter, &v, &tested) < 0)
            return -1;
        if (z->by_name ? jtest_call_named(r, &z->name, &tested, &z->args, &holds) < 0 : jval_truth(r, &tested, &holds) < 0)
            return -1;
        if (holds == z->wanted) {
            *out = v;
            return 1;
        }
    }
    return rc;
}

static struct jlazy *jlazy_new(struct jrun *r, const struct jval *in)
{
    struct jlazy *z = jrun_alloc(r, sizeof *z);
    if (z != NULL)
        *z = (struct jlazy){.in = *in};
    return z;
}

static int jlazy_done(struct jrun *r, struct jlazy *z, int (*next)(struct jrun *, struct jiter *, struct jval *), struct jval *out)
{
    struct jiter *it = jiter_new(r, next, NULL, z);
    if (it == NULL)
        return -1;
    *out = jval_iter(it, jtext_trusted(&z->in));
    return 0;
}

/* The first arguments name an attribute and a filter or test; the others are that one's. */
static void jlazy_take(struct jcall *call, struct jval *out)
{
    *out = call->v[0];
    call->v++;
    call->n--;
}

int jfilter_map(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"attribute", "default"};
    struct jlazy *z = jlazy_new(r, in);
    if (z == NULL)
        return -1;
    z->args = *call;
    if (call->n > 0) {
        jlazy_take(&z->args, &z->name);
        return jlazy_done(r, z, jlazy_next_mapped, out);
    }
    struct jval v[2];
    v[1] = jval_none();
    z->by_attribute = true;
    if (jcall_bind(r, call, "map", names, 1, 2, v, NULL) < 0 || jgetter_init(r, &z->getter, &v[0], false, false) < 0)
        return -1;
    z->getter.missing = v[1];
    return jlazy_done(r, z, jlazy_next_mapped, out);
}

static int jfilter_choose(struct jrun *r, const struct jval *in, const struct jcall *call, bool wanted, bool by_attribute, struct jval *out)
{
    struct jlazy *z = jlazy_new(r, in);
    if (z == NULL)
        return -1;
    z->args = *call;
    z->wanted = wanted;
    z->by_attribute = by_attribute;
    if (by_attribute) {
        struct jval attribute;
        if (call->n == 0)
            return jrun_fail(r, "this filter needs an attribute's name");
        jlazy_take(&z->args, &attribute);
        if (jgetter_init(r, &z->getter, &attribute, false, false) < 0)
            return -1;
    }
    z->by_name = z->args.n > 0;
    if (z->by_name)
        jlazy_take(&z->args, &z->name);
    return jlazy_done(r, z, jlazy_next_selected, out);
}

int jfilter_select(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_choose(r, in, call, true, false, out);
}

int jfilter_reject(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_choose(r, in, call, false, false, out);
}

int jfilter_selectattr(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_choose(r, in, call, true, true, out);
}

int jfilter_rejectattr(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_choose(r, in, call, false, true, out);
}

static int jlazy_next_unique(struct jrun *r, struct jiter *it, struct jval *out)
{
    struct jlazy *z = it->ctx;
    struct jval v, key, *seen;
    int rc;
    if (!z->opened && jiter_open(r, &z->in, &it->inner) < 0)
        return -1;
    z->opened = true;
    while ((rc = jiter_next(r, it->inner, &v)) > 0) {
        if (jgetter_get(r, &z->getter, &v, &key) < 0 || jdict_get(r, z->seen, &key, &seen) < 0)
            return -1;
        if (seen != NULL)
            continue;
        if (jdict_set(r, z->seen, key, jval_none()) < 0)
            return -1;
        *out = v;
        return 1;
    }
    return rc;
}

int jfilter_unique(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct jval v[2] = {jval_bool(false), jval_none()};
    struct jlazy *z = jlazy_new(r, in);
    bool exact;
    if (z == NULL || jcall_bind(r, call, "unique", names, 0, 2, v, NULL) < 0 || jval_truth(r, &v[0], &exact) < 0 ||
        jgetter_init(r, &z->getter, &v[1], false, !exact) < 0 || (z->seen = jdict_new(r)) == NULL)
        return -1;
    return jlazy_done(r, z, jlazy_next_unique, out);
}

/* ---- order ---------------------------------------------------------------------------------------------------------------------------------- */

struct jkeyed {
    struct jval key, value;
};

/* Stable, ascending; `reverse` keeps equal items in their order, as sorted(reverse=True) does. */
static int jkeyed_sort(struct jrun *r, struct jkeyed *v, size_t n, bool reverse)
{
    struct jkeyed *w = jrun_alloc(r, n * sizeof *w), *from = v, *to = w;
    if (w == NULL)
        return -1;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t mid = low + width < n ? low + width : n, high = mid + width < n ? mid + width : n, a = low, b = mid;
            for (size_t k = low; k < high; k++) {
                int order = 0;
                bool unordered = false;
                const struct jval *x = &from[reverse ? a : b].key, *y = &from[reverse ? b : a].key;
                if (a < mid && b < high && jval_compare(r, x, y, "<", &order, &unordered) < 0)
                    return -1;
                bool take_b = a == mid || (b < high && order < 0 && !unordered);
                to[k] = take_b ? from[b++] : from[a++];
            }
        }
        struct jkeyed *t = from;
        from = to;
        to = t;
    }
    if (from != v)
        memcpy(v, from, n * sizeof *v);
    return 0;
}

static int jkeyed_collect(struct jrun *r, const struct jval *in, const struct jgetter *g, struct jkeyed **out, size_t *n)
{
    struct jseq *s;
    if (jiter_collect(r, in, &s) < 0)
        return -1;
    struct jkeyed *v = jrun_alloc(r, s->n * sizeof *v);
    if (v == NULL)
        return -1;
    for (size_t i = 0; i < s->n; i++) {
        v[i].value = s->v[i];
        if (jgetter_get(r, g, &s->v[i], &v[i].key) < 0)
            return -1;
    }
    *out = v;
    *n = s->n;
    return 0;
}

static int jkeyed_list(struct jrun *r, const struct jkeyed *v, size_t n, bool trusted, struct jval *out)
{
    struct jseq *s = jseq_new(r, n);
    if (s == NULL)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (jseq_push(r, s, v[i].value) < 0)
            return -1;
    *out = jval_seq(J_LIST, s, trusted);
    return 0;
}

int jfilter_sort(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute"};
    struct jval v[3] = {jval_bool(false), jval_bool(false), jval_none()};
    struct jgetter g;
    struct jkeyed *keyed;
    size_t n;
    bool reverse, exact;
    if (jcall_bind(r, call, "sort", names, 0, 3, v, NULL) < 0 || jval_truth(r, &v[0], &reverse) < 0 || jval_truth(r, &v[1], &exact) < 0 ||
        jgetter_init(r, &g, &v[2], true, !exact) < 0 || jkeyed_collect(r, in, &g, &keyed, &n) < 0 || jkeyed_sort(r, keyed, n, reverse) < 0)
        return -1;
    return jkeyed_list(r, keyed, n, jtext_trusted(in), out);
}

int jfilter_dictsort(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse"};
    struct jval v[3] = {jval_bool(false), jval_str(jstr_ref(r, "key", 3, true)), jval_bool(false)}, position, view = *in;
    struct jgetter g;
    struct jkeyed *keyed;
    struct jstr *by;
    size_t n;
    bool reverse, exact;
    if (in->type != J_DICT)
        return in->type == J_UNDEF ? jval_fail_undef(r, in) : jrun_fail(r, "dictsort: the value must be a dict, not %s", jval_type_name(in->type));
    if (v[1].u.s == NULL || jcall_bind(r, call, "dictsort", names, 0, 3, v, NULL) < 0 || jval_truth(r, &v[0], &exact) < 0 ||
        jtext_of(r, &v[1], &by) < 0 || jval_truth(r, &v[2], &reverse) < 0)
        return -1;
    if (!jstr_is(by, "key") && !jstr_is(by, "value"))
        return jrun_fail(r, "dictsort: you can only sort by either \"key\" or \"value\"");
    position = jval_int(jstr_is(by, "value"), true);
    view.type = J_VIEW;
    view.sub = JVIEW_ITEMS;
    if (jgetter_init(r, &g, &position, false, !exact) < 0 || jkeyed_collect(r, &view, &g, &keyed, &n) < 0 || jkeyed_sort(r, keyed, n, reverse) < 0)
        return -1;
    return jkeyed_list(r, keyed, n, in->trusted, out);
}

int jfilter_groupby(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"attribute", "default", "case_sensitive"};
    struct jval v[3];
    v[1] = jval_none();
    v[2] = jval_bool(false);
    struct jgetter g, plain;
    struct jkeyed *keyed;
    size_t n;
    bool exact;
    struct jseq *groups = jseq_new(r, 0);
    if (groups == NULL || jcall_bind(r, call, "groupby", names, 1, 3, v, NULL) < 0 || jval_truth(r, &v[2], &exact) < 0 ||
        jgetter_init(r, &g, &v[0], false, !exact) < 0 || jgetter_init(r, &plain, &v[0], false, false) < 0)
        return -1;
    g.missing = plain.missing = v[1];
    if (jkeyed_collect(r, in, &g, &keyed, &n) < 0 || jkeyed_sort(r, keyed, n, false) < 0)
        return -1;
    for (size_t i = 0; i < n;) {
        struct jseq *items = jseq_new(r, 1), *group = jseq_new(r, 2);
        struct jval name;
        bool same = true;
        if (items == NULL || group == NULL || jgetter_get(r, &plain, &keyed[i].value, &name) < 0)
            return -1;
        size_t first = i;
        while (same) {
            if (jseq_push(r, items, keyed[i++].value) < 0)
                return -1;
            same = false;
            if (i < n && jval_equal(r, &keyed[first].key, &keyed[i].key, &same) < 0)
                return -1;
        }
        group->group = true;
        if (jseq_push(r, group, name) < 0 || jseq_push(r, group, jval_seq(J_LIST, items, jtext_trusted(in))) < 0 ||
            jseq_push(r, groups, jval_seq(J_TUPLE, group, jtext_trusted(in))) < 0)
            return -1;
    }
    *out = jval_seq(J_LIST, groups, jtext_trusted(in));
    return 0;
}

static int jfilter_extreme(struct jrun *r, const struct jval *in, const struct jcall *call, bool least, struct jval *out)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct jval v[2] = {jval_bool(false), jval_none()};
    struct jgetter g;
    struct jkeyed *keyed;
    size_t n, best = 0;
    bool exact, unordered;
    int order;
    if (jcall_bind(r, call, least ? "min" : "max", names, 0, 2, v, NULL) < 0 || jval_truth(r, &v[0], &exact) < 0 ||
        jgetter_init(r, &g, &v[1], false, !exact) < 0 || jkeyed_collect(r, in, &g, &keyed, &n) < 0)
        return -1;
    for (size_t i = 1; i < n; i++) {
        if (jval_compare(r, &keyed[i].key, &keyed[best].key, least ? "<" : ">", &order, &unordered) < 0)
            return -1;
        if (!unordered && (least ? order < 0 : order > 0))
            best = i;
    }
    *out = n > 0 ? keyed[best].value : jval_undef_hint(r, "No aggregated item, sequence was empty.");
    return 0;
}

int jfilter_min(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_extreme(r, in, call, true, out);
}

int jfilter_max(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jfilter_extreme(r, in, call, false, out);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------------------- */

int jfilter_sum(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"attribute", "start"};
    struct jval v[2] = {jval_none(), jval_int(0, true)}, item, sum;
    struct jgetter g;
    struct jiter *it;
    int rc;
    if (jcall_bind(r, call, "sum", names, 0, 2, v, NULL) < 0 || jgetter_init(r, &g, &v[0], false, false) < 0 || jiter_open(r, in, &it) < 0)
        return -1;
    sum = v[1];
    if (sum.type == J_STR)
        return jrun_fail(r, "sum() can't sum strings");
    while ((rc = jiter_next(r, it, &item)) > 0) {
        struct jval before = sum;
        if (jgetter_get(r, &g, &item, &item) < 0 || jop_binary(r, JT_ADD, &before, &item, &sum) < 0)
            return -1;
    }
    *out = sum;
    return rc;
}

int jfilter_join(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"d", "attribute"};
    struct jval v[2] = {jval_str(jstr_ref(r, "", 0, true)), jval_none()}, item;
    struct jgetter g;
    struct jiter *it;
    struct jbuild b;
    struct jstr *between, *part;
    int rc;
    if (v[0].u.s == NULL || jcall_bind(r, call, "join", names, 0, 2, v, NULL) < 0 || jgetter_init(r, &g, &v[1], false, false) < 0 ||
        jtext_of(r, &v[0], &between) < 0 || jiter_open(r, in, &it) < 0)
        return -1;
    jbuild_init(&b, r);
    bool first = true;
    while ((rc = jiter_next(r, it, &item)) > 0) {
        if (jgetter_get(r, &g, &item, &item) < 0 || (!first && jbuild_str(&b, between) < 0) || jtext_of(r, &item, &part) < 0 ||
            jbuild_str(&b, part) < 0)
            return -1;
        first = false;
    }
    if (rc < 0 || jbuild_finish(&b, &part) < 0)
        return -1;
    *out = jval_str(part);
    return 0;
}

int jfilter_first(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jiter *it;
    if (jcall_bind(r, call, "first", NULL, 0, 0, NULL, NULL) < 0 || jiter_open(r, in, &it) < 0)
        return -1;
    int rc = jiter_next(r, it, out);
    if (rc == 0)
        *out = jval_undef_hint(r, "No first item, sequence was empty.");
    return rc < 0 ? -1 : 0;
}

int jfilter_last(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jiter *it;
    int rc = 0;
    if (jcall_bind(r, call, "last", NULL, 0, 0, NULL, NULL) < 0)
        return -1;
    if (in->type != J_UNDEF && (jiter_open_reversed(r, in, &it) < 0 || (rc = jiter_next(r, it, out)) < 0))
        return -1;
    if (rc == 0)
        *out = jval_undef_hint(r, "No last item, sequence was empty.");
    return 0;
}

int jfilter_reverse(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const struct jval back[3] = {{.type = J_NONE}, {.type = J_NONE}, {.type = J_INT, .u.i = -1}};
    struct jiter *it;
    struct jseq *s;
    if (jcall_bind(r, call, "reverse", NULL, 0, 0, NULL, NULL) < 0)
        return -1;
    if (in->type == J_STR)
        return jattr_slice(r, in, back, out);
    if (in->type == J_UNDEF || jiter_can_reverse(in)) {
        if (in->type == J_UNDEF ? jiter_open(r, in, &it) < 0 : jiter_open_reversed(r, in, &it) < 0)
            return -1;
        *out = jval_iter(it, in->trusted);
        return 0;
    }
    if (jiter_collect(r, in, &s) < 0)
        return -1;
    struct jval list = jval_seq(J_LIST, s, in->trusted);
    return jattr_slice(r, &list, back, out);
}

int jfilter_list(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jseq *s;
    if (jcall_bind(r, call, "list", NULL, 0, 0, NULL, NULL) < 0 || jiter_collect(r, in, &s) < 0)
        return -1;
    *out = jval_seq(J_LIST, s, jtext_trusted(in));
    return 0;
}

/* What items, batch and slice make of their input is a list; they make it when the first item is asked for, and fail no sooner. */
struct jdeferred {
    jfilter_fn *make;
    struct jval in;
    struct jcall call;
};

static int jdeferred_next(struct jrun *r, struct jiter *it, struct jval *out)
{
    const struct jdeferred *d = it->ctx;
    struct jval list;
    if (it->inner == NULL && (d->make(r, &d->in, &d->call, &list) < 0 || jiter_open(r, &list, &it->inner) < 0))
        return -1;
    return jiter_next(r, it->inner, out);
}

static int jdeferred_open(struct jrun *r, jfilter_fn *make, const struct jval *in, const struct jcall *call, struct jval *out)
{
    struct jdeferred *d = jrun_alloc(r, sizeof *d);
    struct jiter *it = d != NULL ? jiter_new(r, jdeferred_next, NULL, d) : NULL;
    if (it == NULL)
        return -1;
    *d = (struct jdeferred){.make = make, .in = *in, .call = *call};
    *out = jval_iter(it, jtext_trusted(in));
    return 0;
}

static int jfilter_make_items(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    if (jcall_bind(r, call, "items", NULL, 0, 0, NULL, NULL) < 0)
        return -1;
    if (in->type != J_UNDEF && in->type != J_DICT)
        return jrun_fail(r, "Can only get item pairs from a mapping.");
    *out = *in;
    if (in->type == J_DICT) {
        out->type = J_VIEW;
        out->sub = JVIEW_ITEMS;
    }
    return 0;
}

static int jfilter_make_batch(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"linecount", "fill_with"};
    struct jval v[2];
    struct jseq *s, *lists = jseq_new(r, 0), *line = NULL;
    int64_t size;
    v[1] = jval_none();
    if (lists == NULL || jcall_bind(r, call, "batch", names, 1, 2, v, NULL) < 0 || jval_index(r, &v[0], &size) < 0 || jiter_collect(r, in, &s) < 0)
        return -1;
    for (size_t i = 0; i < s->n; i++) {
        if (line == NULL || (int64_t)line->n == size)
            if ((line = jseq_new(r, 0)) == NULL || jseq_push(r, lists, jval_seq(J_LIST, line, jtext_trusted(in))) < 0)
                return -1;
        if (jseq_push(r, line, s->v[i]) < 0)
            return -1;
    }
    while (line != NULL && v[1].type != J_NONE && (int64_t)line->n < size)
        if (jseq_push(r, line, v[1]) < 0)
            return -1;
    *out = jval_seq(J_LIST, lists, jtext_trusted(in));
    return 0;
}

static int jfilter_make_slice(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"slices", "fill_with"};
    struct jval v[2];
    struct jseq *s, *lists = jseq_new(r, 0);
    int64_t n;
    v[1] = jval_none();
    if (lists == NULL || jcall_bind(r, call, "slice", names, 1, 2, v, NULL) < 0 || jval_index(r, &v[0], &n) < 0 || jiter_collect(r, in, &s) < 0)
        return -1;
    if (n == 0)
        return jrun_fail(r, "integer division or modulo by zero");
    int64_t size = n > 0 ? (int64_t)s->n / n : 0, longer = n > 0 ? (int64_t)s->n % n : 0;
    size_t at = 0;
    for (int64_t k = 0; k < n; k++) {
        struct jseq *part = jseq_new(r, 0);
        if (part == NULL)
            return -1;
        for (int64_t i = 0; i < size + (k < longer); i++)
            if (jseq_push(r, part, s->v[at++]) < 0)
                return -1;
        if ((v[1].type != J_NONE && k >= longer && jseq_push(r, part, v[1]) < 0) ||
            jseq_push(r, lists, jval_seq(J_LIST, part, jtext_trusted(in))) < 0)
            return -1;
    }
    *out = jval_seq(J_LIST, lists, jtext_trusted(in));
    return 0;
}

int jfilter_items(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jdeferred_open(r, jfilter_make_items, in, call, out);
}

int jfilter_batch(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jdeferred_open(r, jfilter_make_batch, in, call, out);
}

int jfilter_slice(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out)
{
    return jdeferred_open(r, jfilter_make_slice, in, call, out);
}

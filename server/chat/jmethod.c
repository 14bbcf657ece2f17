/* jmethod.c: the methods of strings, lists, dicts and the loop that templates may call. A method that Python has and this file does not is found, so
 * that `is defined` answers as in Python, and refused by name when it is called. Strings that come out keep the provenance of what went in. */
#include "server/chat/jeval.h"

#include <string.h>

#include "server/chat/jstrfn.h"
#include "server/chat/juni.h"

enum jmethod_id {
    JM_UNSUPPORTED, JM_STRIP, JM_LSTRIP, JM_RSTRIP, JM_SPLIT, JM_RSPLIT, JM_SPLITLINES, JM_STARTSWITH, JM_ENDSWITH, JM_REPLACE, JM_UPPER, JM_LOWER,
    JM_TITLE, JM_CAPITALIZE, JM_SWAPCASE, JM_CASEFOLD, JM_JOIN, JM_FIND, JM_RFIND, JM_INDEX, JM_RINDEX, JM_COUNT, JM_FORMAT, JM_ISDIGIT,
    JM_ISDECIMAL, JM_ISNUMERIC, JM_ISALPHA, JM_ISALNUM, JM_ISSPACE, JM_ISUPPER, JM_ISLOWER, JM_CENTER, JM_LJUST, JM_RJUST, JM_ZFILL, JM_PARTITION,
    JM_RPARTITION, JM_REMOVEPREFIX, JM_REMOVESUFFIX, JM_GET, JM_ITEMS, JM_KEYS, JM_VALUES, JM_COPY, JM_SEQ_INDEX, JM_SEQ_COUNT, JM_CYCLE, JM_CHANGED
};

struct jmethod_name {
    const char *name;
    uint16_t id;
};

static const struct jmethod_name jmethod_of_str[] = {
    {"strip", JM_STRIP}, {"lstrip", JM_LSTRIP}, {"rstrip", JM_RSTRIP}, {"split", JM_SPLIT}, {"rsplit", JM_RSPLIT}, {"splitlines", JM_SPLITLINES},
    {"startswith", JM_STARTSWITH}, {"endswith", JM_ENDSWITH}, {"replace", JM_REPLACE}, {"upper", JM_UPPER}, {"lower", JM_LOWER}, {"title", JM_TITLE},
    {"capitalize", JM_CAPITALIZE}, {"swapcase", JM_SWAPCASE}, {"casefold", JM_CASEFOLD}, {"join", JM_JOIN}, {"find", JM_FIND}, {"rfind", JM_RFIND},
    {"index", JM_INDEX}, {"rindex", JM_RINDEX}, {"count", JM_COUNT}, {"format", JM_FORMAT}, {"isdigit", JM_ISDIGIT}, {"isdecimal", JM_ISDECIMAL},
    {"isnumeric", JM_ISNUMERIC}, {"isalpha", JM_ISALPHA}, {"isalnum", JM_ISALNUM}, {"isspace", JM_ISSPACE}, {"isupper", JM_ISUPPER},
    {"islower", JM_ISLOWER}, {"center", JM_CENTER}, {"ljust", JM_LJUST}, {"rjust", JM_RJUST}, {"zfill", JM_ZFILL}, {"partition", JM_PARTITION},
    {"rpartition", JM_RPARTITION}, {"removeprefix", JM_REMOVEPREFIX}, {"removesuffix", JM_REMOVESUFFIX}, {"encode", 0}, {"expandtabs", 0},
    {"format_map", 0}, {"isascii", 0}, {"isidentifier", 0}, {"isprintable", 0}, {"istitle", 0}, {"maketrans", 0}, {"translate", 0}, {NULL, 0}};
static const struct jmethod_name jmethod_of_dict[] = {
    {"get", JM_GET}, {"items", JM_ITEMS}, {"keys", JM_KEYS}, {"values", JM_VALUES}, {"copy", JM_COPY}, {"fromkeys", 0}, {NULL, 0}};
static const struct jmethod_name jmethod_of_list[] = {{"index", JM_SEQ_INDEX}, {"count", JM_SEQ_COUNT}, {"copy", JM_COPY}, {NULL, 0}};
static const struct jmethod_name jmethod_of_tuple[] = {{"index", JM_SEQ_INDEX}, {"count", JM_SEQ_COUNT}, {NULL, 0}};
static const struct jmethod_name jmethod_of_loop[] = {{"cycle", JM_CYCLE}, {"changed", JM_CHANGED}, {NULL, 0}};
static const struct jmethod_name jmethod_of_view[] = {{"isdisjoint", 0}, {"mapping", 0}, {NULL, 0}};
static const struct jmethod_name jmethod_of_number[] = {
    {"real", 0}, {"imag", 0}, {"numerator", 0}, {"denominator", 0}, {"conjugate", 0}, {"bit_length", 0}, {"bit_count", 0}, {"to_bytes", 0},
    {"from_bytes", 0}, {"as_integer_ratio", 0}, {"is_integer", 0}, {"hex", 0}, {"fromhex", 0}, {NULL, 0}};

bool jmethod_find(const struct jval *self, const struct jstr *name, uint16_t *id)
{
    const struct jmethod_name *table;
    switch (self->type) {
    case J_STR: table = jmethod_of_str; break;
    case J_DICT: table = jmethod_of_dict; break;
    case J_LIST: table = jmethod_of_list; break;
    case J_TUPLE: table = jmethod_of_tuple; break;
    case J_LOOP: table = jmethod_of_loop; break;
    case J_VIEW: table = jmethod_of_view; break;
    case J_BOOL: case J_INT: case J_FLOAT: table = jmethod_of_number; break;
    default: return false;
    }
    for (; table->name != NULL; table++) {
        if (jstr_is(name, table->name)) {
            *id = table->id;
            return true;
        }
    }
    return false;
}

/* ---- of strings ----------------------------------------------------------------------------------------------------------------------------- */

/* A string argument, flat. */
static int jmethod_str_arg(struct jrun *r, const struct jval *v, struct jstr **out)
{
    if (v->type != J_STR)
        return jrun_fail(r, "a string method needs a str argument, not %s", jval_type_name(v->type));
    *out = v->u.s;
    return jstr_flat(r, v->u.s);
}

static int jmethod_strip(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"chars"};
    struct jval chars = jval_none();
    if (call->n_kw > 0)
        return jrun_fail(r, "strip takes no keyword arguments");
    if (jcall_bind(r, call, "strip", names, 0, 1, &chars, NULL) < 0)
        return -1;
    struct jstr *set = NULL;
    if (chars.type != J_NONE && jmethod_str_arg(r, &chars, &set) < 0)
        return -1;
    return jstrfn_strip(r, s, set, id != JM_RSTRIP, id != JM_LSTRIP, out);
}

static int jmethod_split(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"sep", "maxsplit"};
    struct jval v[2] = {jval_none(), jval_int(-1, true)};
    struct jstr *sep = NULL;
    int64_t max;
    if (jcall_bind(r, call, "split", names, 0, 2, v, NULL) < 0 || (v[0].type != J_NONE && jmethod_str_arg(r, &v[0], &sep) < 0) ||
        jval_index(r, &v[1], &max) < 0)
        return -1;
    if (sep != NULL && sep->n == 0)
        return jrun_fail(r, "empty separator");
    return jstrfn_split(r, s, sep, max, id == JM_RSPLIT, out);
}

/* startswith, endswith: a str or a tuple of them, with optional start and end. */
static int jmethod_affix(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"prefix", "start", "end"};
    struct jval v[3] = {{0}, jval_none(), jval_none()}, part[3];
    if (call->n_kw > 0 || jcall_bind(r, call, id == JM_STARTSWITH ? "startswith" : "endswith", names, 1, 3, v, NULL) < 0)
        return call->n_kw > 0 ? jrun_fail(r, "startswith and endswith take no keyword arguments") : -1;
    struct jval whole = jval_str(s);
    part[0] = v[1];
    part[1] = v[2];
    part[2] = jval_none();
    if (call->n > 1 && (jattr_slice(r, &whole, part, &whole) < 0))
        return -1;
    s = whole.u.s;
    size_t n = v[0].type == J_TUPLE ? v[0].u.seq->n : 1;
    const struct jval *list = v[0].type == J_TUPLE ? v[0].u.seq->v : &v[0];
    *out = jval_bool(false);
    for (size_t i = 0; i < n; i++) {
        struct jstr *affix = NULL;
        if (jmethod_str_arg(r, &list[i], &affix) < 0)
            return -1;
        if (affix->n <= s->n && memcmp(id == JM_STARTSWITH ? s->p : s->p + s->n - affix->n, affix->p, affix->n) == 0)
            *out = jval_bool(true);
    }
    return 0;
}

static int jmethod_replace(struct jrun *r, struct jstr *s, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"old", "new", "count"};
    struct jval v[3];
    struct jstr *old = NULL, *new = NULL;
    int64_t count = -1;
    if (call->n_kw > 0)
        return jrun_fail(r, "replace takes no keyword arguments");
    v[2] = jval_int(-1, true);
    if (jcall_bind(r, call, "replace", names, 2, 3, v, NULL) < 0 || jmethod_str_arg(r, &v[0], &old) < 0 || jmethod_str_arg(r, &v[1], &new) < 0 ||
        jval_index(r, &v[2], &count) < 0)
        return -1;
    if (s->markup && jtext_markup(r, &v[1], &new) < 0)
        return -1;
    return jstrfn_replace(r, s, old, new, count, out);
}

static int jmethod_join(struct jrun *r, struct jstr *s, const struct jcall *call, struct jval *out)
{
    struct jiter *it;
    struct jval item;
    struct jbuild b;
    struct jstr *joined;
    size_t n = 0;
    int rc;
    if (call->n != 1 || call->n_kw != 0)
        return jrun_fail(r, "join takes exactly one argument");
    if (call->v[0].type == J_UNDEF || jiter_open(r, &call->v[0], &it) < 0) {
        if (call->v[0].type != J_UNDEF)
            return -1;
        *out = jval_str(jstr_ref(r, "", 0, true));
        return out->u.s == NULL ? -1 : 0;
    }
    jbuild_init(&b, r);
    b.markup = s->markup;
    while ((rc = jiter_next(r, it, &item)) > 0) {
        struct jstr *part = item.u.s;
        if (!s->markup && item.type != J_STR)
            return jrun_fail(r, "join: item %zu is a %s, not a str", n, jval_type_name(item.type));
        if ((s->markup && jtext_markup(r, &item, &part) < 0) || (n++ > 0 && jbuild_str(&b, s) < 0) || jbuild_str(&b, part) < 0)
            return -1;
    }
    if (rc < 0 || jbuild_finish(&b, &joined) < 0)
        return -1;
    *out = jval_str(joined);
    return 0;
}

/* find, rfind, index, rindex, count: a needle in s[start:end]. */
static int jmethod_find_in(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"sub", "start", "end"};
    struct jval v[3] = {{0}, jval_none(), jval_none()}, part[3], whole = jval_str(s);
    struct jstr *needle = NULL;
    if (call->n_kw > 0)
        return jrun_fail(r, "this string method takes no keyword arguments");
    if (jcall_bind(r, call, "find", names, 1, 3, v, NULL) < 0 || jmethod_str_arg(r, &v[0], &needle) < 0)
        return -1;
    part[0] = v[1];
    part[1] = v[2];
    part[2] = jval_none();
    if (jattr_slice(r, &whole, part, &whole) < 0 || jrun_spend_search(r, s->n, needle->n) < 0)
        return -1;
    struct jstr *in = whole.u.s;
    bool trusted = jstr_trusted(s) && jstr_trusted(needle);
    if (id == JM_COUNT) {
        int64_t n = 0;
        if (needle->n == 0)
            n = (int64_t)jstr_n_chars(in) + 1;
        else
            for (size_t at = 0; (at = jstr_find(in, needle->p, needle->n, at, in->n)) != SIZE_MAX; at += needle->n)
                n++;
        *out = jval_int(n, trusted);
        return 0;
    }
    bool back = id == JM_RFIND || id == JM_RINDEX;
    size_t at = back ? jstr_rfind(in, needle->p, needle->n, 0, in->n) : jstr_find(in, needle->p, needle->n, 0, in->n);
    if (at == SIZE_MAX && (id == JM_INDEX || id == JM_RINDEX))
        return jrun_fail(r, "substring not found");
    int64_t skipped = in->n > 0 ? (int64_t)jstr_char_of(s, (size_t)(in->p - s->p)) : 0;
    if (in->n == 0 && at != SIZE_MAX && v[1].type != J_NONE) { /* an empty slice still stands somewhere */
        int64_t n = (int64_t)jstr_n_chars(s), start = v[1].u.i < 0 ? v[1].u.i + n : v[1].u.i;
        if (start > n)
            at = SIZE_MAX;
        skipped = start < 0 ? 0 : start;
    }
    *out = jval_int(at == SIZE_MAX ? -1 : skipped + (int64_t)jstr_char_of(in, at), trusted);
    return 0;
}

static int jmethod_is(struct jrun *r, struct jstr *s, uint16_t id, struct jval *out)
{
    bool holds = s->n > 0, cased = false;
    if (jrun_spend_bytes(r, s->n * 8) < 0)
        return -1;
    for (size_t i = 0; i < s->n && holds;) {
        uint32_t c;
        i += juni_decode(s->p + i, s->n - i, &c);
        switch (id) {
        case JM_ISDIGIT: holds = juni_is_digit(c); break;
        case JM_ISDECIMAL: holds = juni_is_decimal(c); break;
        case JM_ISNUMERIC: holds = juni_is_numeric(c); break;
        case JM_ISALPHA: holds = juni_is_alpha(c); break;
        case JM_ISALNUM: holds = juni_is_alpha(c) || juni_is_numeric(c); break;
        case JM_ISSPACE: holds = juni_is_space(c); break;
        case JM_ISUPPER:
            cased |= juni_is_upper(c);
            holds = !juni_is_lower(c) && !juni_is_title(c);
            break;
        default:
            cased |= juni_is_lower(c);
            holds = !juni_is_upper(c) && !juni_is_title(c);
        }
    }
    *out = jval_bool(holds && (cased || (id != JM_ISUPPER && id != JM_ISLOWER)));
    return 0;
}

static int jmethod_pad(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"width", "fillchar"};
    struct jstr *fill = jstr_ref(r, " ", 1, true);
    struct jval v[2] = {{0}, jval_str(fill)};
    int64_t width;
    if (call->n_kw > 0)
        return jrun_fail(r, "this string method takes no keyword arguments");
    if (fill == NULL || jcall_bind(r, call, "this string method", names, 1, id == JM_ZFILL ? 1 : 2, v, NULL) < 0 ||
        jval_index(r, &v[0], &width) < 0 || jmethod_str_arg(r, &v[1], &fill) < 0)
        return -1;
    if (fill->n == 0 || juni_length(fill->p, fill->n) != fill->n)
        return jrun_fail(r, "the fill character must be exactly one character long");
    if (id == JM_ZFILL)
        return jstrfn_zfill(r, s, width, out);
    return jstrfn_pad(r, s, fill, width, id == JM_LJUST ? JPAD_RIGHT : id == JM_RJUST ? JPAD_LEFT : JPAD_BOTH, out);
}

static int jmethod_partition(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    struct jstr *sep = NULL;
    struct jseq *three = jseq_new(r, 3);
    if (call->n != 1 || call->n_kw != 0)
        return jrun_fail(r, "partition takes exactly one argument");
    if (three == NULL || jmethod_str_arg(r, &call->v[0], &sep) < 0 || jrun_spend_search(r, s->n, sep->n) < 0)
        return -1;
    if (sep->n == 0)
        return jrun_fail(r, "empty separator");
    bool back = id == JM_RPARTITION;
    size_t at = back ? jstr_rfind(s, sep->p, sep->n, 0, s->n) : jstr_find(s, sep->p, sep->n, 0, s->n);
    size_t cut[4] = {0, at, at + sep->n, s->n};
    if (at == SIZE_MAX) {
        cut[1] = back ? 0 : s->n;
        cut[2] = back ? 0 : s->n;
    }
    for (int i = 0; i < 3; i++) {
        struct jstr *part = jstr_sub(r, s, cut[i], cut[i + 1]);
        if (part == NULL || jseq_push(r, three, jval_str(part)) < 0)
            return -1;
    }
    *out = jval_seq(J_TUPLE, three, jstr_trusted(s));
    return 0;
}

static int jmethod_remove_affix(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    struct jstr *affix = NULL;
    if (call->n != 1 || call->n_kw != 0)
        return jrun_fail(r, "removeprefix and removesuffix take exactly one argument");
    if (jmethod_str_arg(r, &call->v[0], &affix) < 0)
        return -1;
    bool prefix = id == JM_REMOVEPREFIX;
    bool cut = affix->n > 0 && affix->n <= s->n && memcmp(prefix ? s->p : s->p + s->n - affix->n, affix->p, affix->n) == 0;
    struct jstr *sub = cut ? jstr_sub(r, s, prefix ? affix->n : 0, prefix ? s->n : s->n - affix->n) : s;
    *out = jval_str(sub);
    return sub == NULL ? -1 : 0;
}

static int jmethod_call_str(struct jrun *r, struct jstr *s, uint16_t id, const struct jcall *call, struct jval *out)
{
    static const char *const names[] = {"keepends"};
    struct jval keep = jval_bool(false);
    bool truth;
    if (jstr_flat(r, s) < 0)
        return -1;
    switch (id) {
    case JM_STRIP: case JM_LSTRIP: case JM_RSTRIP: return jmethod_strip(r, s, id, call, out);
    case JM_SPLIT: case JM_RSPLIT: return jmethod_split(r, s, id, call, out);
    case JM_STARTSWITH: case JM_ENDSWITH: return jmethod_affix(r, s, id, call, out);
    case JM_REPLACE: return jmethod_replace(r, s, call, out);
    case JM_JOIN: return jmethod_join(r, s, call, out);
    case JM_FIND: case JM_RFIND: case JM_INDEX: case JM_RINDEX: case JM_COUNT: return jmethod_find_in(r, s, id, call, out);
    case JM_FORMAT: return jformat_braces(r, s, call, out);
    case JM_CENTER: case JM_LJUST: case JM_RJUST: case JM_ZFILL: return jmethod_pad(r, s, id, call, out);
    case JM_PARTITION: case JM_RPARTITION: return jmethod_partition(r, s, id, call, out);
    case JM_REMOVEPREFIX: case JM_REMOVESUFFIX: return jmethod_remove_affix(r, s, id, call, out);
    case JM_SPLITLINES:
        if (jcall_bind(r, call, "splitlines", names, 0, 1, &keep, NULL) < 0 || jval_truth(r, &keep, &truth) < 0)
            return -1;
        return jstrfn_splitlines(r, s, truth, out);
    default: break;
    }
    if (call->n > 0 || call->n_kw > 0)
        return jrun_fail(r, "this string method takes no arguments");
    switch (id) {
    case JM_UPPER: return jstrfn_case(r, s, JCASE_UPPER, out);
    case JM_LOWER: return jstrfn_case(r, s, JCASE_LOWER, out);
    case JM_TITLE: return jstrfn_case(r, s, JCASE_TITLE, out);
    case JM_CAPITALIZE: return jstrfn_case(r, s, JCASE_CAPITALIZE, out);
    case JM_SWAPCASE: return jstrfn_case(r, s, JCASE_SWAP, out);
    case JM_CASEFOLD: return jstrfn_case(r, s, JCASE_FOLD, out);
    default: return jmethod_is(r, s, id, out);
    }
}

/* ---- of lists, dicts, loops ----------------------------------------------------------------------------------------------------------------- */

static int jmethod_get(struct jrun *r, const struct jval *self, const struct jcall *call, struct jval *out)
{
    struct jval *found;
    if (call->n_kw > 0 || call->n < 1 || call->n > 2)
        return jrun_fail(r, "get takes one or two arguments without names");
    if (jdict_get(r, self->u.dict, &call->v[0], &found) < 0)
        return -1;
    *out = found != NULL ? *found : call->n == 2 ? call->v[1] : jval_none();
    return 0;
}

static int jmethod_seq_count(struct jrun *r, const struct jval *self, bool index, const struct jcall *call, struct jval *out)
{
    int64_t n = 0;
    if (call->n != 1 || call->n_kw > 0)
        return index && call->n > 1 ? jrun_unsupported(r, "index with bounds is not supported")
                                    : jrun_fail(r, "index and count take exactly one argument");
    for (size_t i = 0; i < self->u.seq->n; i++) {
        bool same;
        if (jval_equal(r, &self->u.seq->v[i], &call->v[0], &same) < 0)
            return -1;
        if (same && index) {
            *out = jval_int((int64_t)i, self->trusted);
            return 0;
        }
        n += same;
    }
    if (index)
        return jrun_fail(r, "the value is not in the list");
    *out = jval_int(n, self->trusted);
    return 0;
}

static int jmethod_of_a_loop(struct jrun *r, struct jloop *l, uint16_t id, const struct jcall *call, struct jval *out)
{
    if (call->n_kw > 0)
        return jrun_fail(r, "cycle and changed take no keyword arguments");
    if (id == JM_CYCLE) {
        if (call->n == 0)
            return jrun_fail(r, "no items for cycling given");
        *out = call->v[(size_t)l->index0 % call->n];
        return 0;
    }
    struct jseq *s = jseq_new(r, call->n);
    for (size_t i = 0; s != NULL && i < call->n; i++)
        if (jseq_push(r, s, call->v[i]) < 0)
            return -1;
    if (s == NULL)
        return -1;
    struct jval now = jval_seq(J_TUPLE, s, true);
    bool same = false;
    if (l->has_changed && jval_equal(r, &l->changed, &now, &same) < 0)
        return -1;
    l->has_changed = true;
    l->changed = now;
    *out = jval_bool(!same);
    return 0;
}

int jmethod_call(struct jrun *r, const struct jmethod *m, const struct jcall *call, struct jval *out)
{
    const struct jval *self = &m->self;
    if (m->id == JM_UNSUPPORTED)
        return jrun_unsupported(r, "this method of %s is not supported", jval_type_name(self->type));
    if (self->type == J_STR)
        return jmethod_call_str(r, self->u.s, m->id, call, out);
    if (self->type == J_LOOP)
        return jmethod_of_a_loop(r, self->u.loop, m->id, call, out);
    if (m->id == JM_GET)
        return jmethod_get(r, self, call, out);
    if (m->id == JM_SEQ_INDEX || m->id == JM_SEQ_COUNT)
        return jmethod_seq_count(r, self, m->id == JM_SEQ_INDEX, call, out);
    if (call->n > 0 || call->n_kw > 0)
        return jrun_fail(r, "this method takes no arguments");
    *out = *self; /* a copy of what cannot change is itself */
    if (m->id != JM_COPY) {
        out->type = J_VIEW;
        out->sub = m->id == JM_ITEMS ? JVIEW_ITEMS : m->id == JM_KEYS ? JVIEW_KEYS : JVIEW_VALUES;
    }
    return 0;
}

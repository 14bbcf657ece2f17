/* jtest.c: `x is test`. */
#include "server/chat/jeval.h"

#include <string.h>

#include "server/chat/juni.h"

enum jtest_id {
    /* without arguments */
    JTEST_DEFINED, JTEST_UNDEFINED, JTEST_NONE, JTEST_BOOLEAN, JTEST_TRUE, JTEST_FALSE, JTEST_INTEGER, JTEST_FLOAT, JTEST_NUMBER, JTEST_STRING,
    JTEST_MAPPING, JTEST_SEQUENCE, JTEST_ITERABLE, JTEST_CALLABLE, JTEST_LOWER, JTEST_UPPER, JTEST_ESCAPED, JTEST_FILTER, JTEST_TEST, JTEST_ODD,
    JTEST_EVEN,
    /* with one */
    JTEST_DIVISIBLEBY, JTEST_SAMEAS, JTEST_IN, JTEST_EQ, JTEST_NE, JTEST_GT, JTEST_GE, JTEST_LT, JTEST_LE
};

static const struct {
    const char *name;
    uint16_t id;
} jtest_table[] = {
    {"defined", JTEST_DEFINED}, {"undefined", JTEST_UNDEFINED}, {"none", JTEST_NONE}, {"boolean", JTEST_BOOLEAN}, {"true", JTEST_TRUE},
    {"false", JTEST_FALSE}, {"integer", JTEST_INTEGER}, {"float", JTEST_FLOAT}, {"number", JTEST_NUMBER}, {"string", JTEST_STRING},
    {"mapping", JTEST_MAPPING}, {"sequence", JTEST_SEQUENCE}, {"iterable", JTEST_ITERABLE}, {"callable", JTEST_CALLABLE}, {"lower", JTEST_LOWER},
    {"upper", JTEST_UPPER}, {"escaped", JTEST_ESCAPED}, {"filter", JTEST_FILTER}, {"test", JTEST_TEST}, {"odd", JTEST_ODD}, {"even", JTEST_EVEN},
    {"divisibleby", JTEST_DIVISIBLEBY}, {"sameas", JTEST_SAMEAS}, {"in", JTEST_IN}, {"==", JTEST_EQ}, {"eq", JTEST_EQ}, {"equalto", JTEST_EQ},
    {"!=", JTEST_NE}, {"ne", JTEST_NE}, {">", JTEST_GT}, {"gt", JTEST_GT}, {"greaterthan", JTEST_GT}, {"ge", JTEST_GE}, {">=", JTEST_GE},
    {"<", JTEST_LT}, {"lt", JTEST_LT}, {"lessthan", JTEST_LT}, {"<=", JTEST_LE}, {"le", JTEST_LE}};

uint16_t jtest_lookup(const char *p, size_t n)
{
    for (size_t i = 0; i < sizeof jtest_table / sizeof jtest_table[0]; i++)
        if (strlen(jtest_table[i].name) == n && memcmp(jtest_table[i].name, p, n) == 0)
            return jtest_table[i].id;
    return JOP_UNKNOWN;
}

static int jtest_case(struct jrun *r, const struct jval *in, bool upper, bool *out)
{
    struct jstr *s;
    struct jmethod m;
    struct jcall none = {0};
    struct jval result, text;
    if (jtext_of(r, in, &s) < 0)
        return -1;
    text = jval_str(s);
    m.self = text;
    struct jstr name;
    jstr_init(&name, upper ? "isupper" : "islower", 7, true);
    bool found = jmethod_find(&text, &name, &m.id);
    if (!found || jmethod_call(r, &m, &none, &result) < 0)
        return -1;
    *out = result.u.b;
    return 0;
}

static bool jtest_same(const struct jval *a, const struct jval *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case J_UNDEF: return a->u.undef == b->u.undef;
    case J_NONE: return true;
    case J_BOOL: return a->u.b == b->u.b;
    case J_INT: return a->u.i == b->u.i && a->u.i >= -5 && a->u.i <= 256; /* the integers that Python keeps once */
    case J_FLOAT: return false;
    default: return a->u.seq == b->u.seq;
    }
}

/* x % n == rest, as Python computes it; strings format and so never hold. */
static int jtest_divides(struct jrun *r, const struct jval *in, const struct jval *n, int64_t rest, bool *out)
{
    struct jval v, want = jval_int(rest, true);
    return jop_binary(r, JT_MOD, in, n, &v) < 0 ? -1 : jval_equal(r, &v, &want, out);
}

static int jtest_plain(struct jrun *r, uint16_t test, const struct jval *in, bool *out)
{
    struct jval two = jval_int(2, true);
    uint8_t t = in->type;
    uint16_t id;
    bool refused;
    switch (test) {
    case JTEST_DEFINED: *out = t != J_UNDEF; return 0;
    case JTEST_UNDEFINED: *out = t == J_UNDEF; return 0;
    case JTEST_NONE: *out = t == J_NONE; return 0;
    case JTEST_BOOLEAN: *out = t == J_BOOL; return 0;
    case JTEST_TRUE: *out = t == J_BOOL && in->u.b; return 0;
    case JTEST_FALSE: *out = t == J_BOOL && !in->u.b; return 0;
    case JTEST_INTEGER: *out = t == J_INT; return 0;
    case JTEST_FLOAT: *out = t == J_FLOAT; return 0;
    case JTEST_NUMBER: *out = jval_is_number(in); return 0;
    case JTEST_STRING: *out = t == J_STR; return 0;
    case JTEST_MAPPING: *out = t == J_DICT; return 0;
    case JTEST_SEQUENCE: *out = t == J_UNDEF || t == J_STR || t == J_LIST || t == J_TUPLE || t == J_DICT || t == J_RANGE; return 0;
    case JTEST_ITERABLE: *out = jiter_can_walk(in); return 0;
    case JTEST_CALLABLE: *out = t == J_UNDEF || t == J_MACRO || t == J_METHOD || t == J_FUNC || t == J_LOOP; return 0;
    case JTEST_LOWER: case JTEST_UPPER: return jtest_case(r, in, test == JTEST_UPPER, out);
    case JTEST_ESCAPED: *out = t == J_STR && in->u.s->markup; return 0;
    case JTEST_FILTER: case JTEST_TEST:
        if (t == J_STR && jstr_flat(r, in->u.s) < 0)
            return -1;
        id = t != J_STR ? JOP_UNKNOWN : test == JTEST_TEST ? jtest_lookup(in->u.s->p, in->u.s->n) : jfilter_lookup(in->u.s->p, in->u.s->n, &refused);
        *out = id != JOP_UNKNOWN;
        return 0;
    default: return jtest_divides(r, in, &two, test == JTEST_ODD, out);
    }
}

int jtest_call(struct jrun *r, uint16_t test, const struct jval *in, const struct jcall *call, bool *out)
{
    static const char *const names[] = {"other"};
    struct jval other;
    if (test < JTEST_DIVISIBLEBY)
        return jcall_bind(r, call, "this test", names, 0, 0, &other, NULL) < 0 ? -1 : jtest_plain(r, test, in, out);
    if (jcall_bind(r, call, "this test", names, 1, 1, &other, NULL) < 0)
        return -1;
    switch (test) {
    case JTEST_DIVISIBLEBY: return jtest_divides(r, in, &other, 0, out);
    case JTEST_SAMEAS: *out = jtest_same(in, &other); return 0;
    case JTEST_IN: return jop_compare(r, JC_IN, in, &other, out);
    case JTEST_EQ: return jop_compare(r, JC_EQ, in, &other, out);
    case JTEST_NE: return jop_compare(r, JC_NE, in, &other, out);
    case JTEST_GT: return jop_compare(r, JC_GT, in, &other, out);
    case JTEST_GE: return jop_compare(r, JC_GTEQ, in, &other, out);
    case JTEST_LT: return jop_compare(r, JC_LT, in, &other, out);
    default: return jop_compare(r, JC_LTEQ, in, &other, out);
    }
}

int jtest_call_named(struct jrun *r, const struct jval *name, const struct jval *in, const struct jcall *call, bool *out)
{
    struct jstr *s;
    if (jtext_of(r, name, &s) < 0)
        return -1;
    uint16_t test = jtest_lookup(s->p, s->n);
    if (test == JOP_UNKNOWN)
        return jrun_unsupported(r, "there is no test '%.*s'", (int)(s->n < 80 ? s->n : 80), s->p);
    return jtest_call(r, test, in, call, out);
}

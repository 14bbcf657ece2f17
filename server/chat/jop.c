/* jop.c: operators with Python's meaning. Integers that leave 64 bits are an error; a number is trusted if all it was made of is. */
#include "server/chat/jeval.h"

#include <math.h>

static int jop_refuse(struct jrun *r, const char *op, const struct jval *a, const struct jval *b)
{
    if (a->type == J_UNDEF || b->type == J_UNDEF)
        return jval_fail_undef(r, a->type == J_UNDEF ? a : b);
    return jrun_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op, jval_type_name(a->type), jval_type_name(b->type));
}

static int64_t jop_int(const struct jval *v)
{
    return v->type == J_BOOL ? v->u.b : v->u.i;
}

static int jop_overflow(struct jrun *r)
{
    return jrun_unsupported(r, "an integer of more than 64 bits");
}

static int64_t jop_floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int jop_int_power(struct jrun *r, int64_t base, int64_t exponent, bool trusted, struct jval *out)
{
    if (exponent < 0) {
        if (base == 0)
            return jrun_fail(r, "0.0 cannot be raised to a negative power");
        *out = jval_float(pow((double)base, (double)exponent), trusted);
        return 0;
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return jop_overflow(r);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return jop_overflow(r);
    }
    *out = jval_int(result, trusted);
    return 0;
}

static int jop_ints(struct jrun *r, uint16_t op, int64_t a, int64_t b, bool trusted, struct jval *out)
{
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case JT_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case JT_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case JT_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case JT_POW: return jop_int_power(r, a, b, trusted, out);
    default:
        if (b == 0)
            return jrun_fail(r, "division by zero");
        if (op == JT_DIV) {
            *out = jval_float((double)a / (double)b, trusted);
            return 0;
        }
        over = a == INT64_MIN && b == -1;
        if (!over)
            v = op == JT_FLOORDIV ? jop_floor_div(a, b) : a - b * jop_floor_div(a, b);
    }
    if (over)
        return jop_overflow(r);
    *out = jval_int(v, trusted);
    return 0;
}

static int jop_floats(struct jrun *r, uint16_t op, double a, double b, bool trusted, struct jval *out)
{
    double v, rest;
    switch (op) {
    case JT_ADD: v = a + b; break;
    case JT_SUB: v = a - b; break;
    case JT_MUL: v = a * b; break;
    case JT_POW:
        v = pow(a, b);
        if ((a == 0 && b < 0) || (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) || (isinf(v) && isfinite(a) && isfinite(b)))
            return jrun_fail(r, "the result of ** is not a finite real number");
        break;
    default:
        if (b == 0)
            return jrun_fail(r, "float division by zero");
        rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0))
            rest += b;
        v = op == JT_DIV ? a / b : op == JT_MOD ? (rest == 0 ? copysign(0.0, b) : rest) : floor((a - rest) / b + 0.5);
    }
    *out = jval_float(v, trusted);
    return 0;
}

/* str + str; where one is markup the other is escaped first */
static int jop_join(struct jrun *r, const struct jval *a, const struct jval *b, struct jval *out)
{
    struct jstr *x = a->u.s, *y = b->u.s, *s;
    bool markup = x->markup || y->markup;
    if (markup && (jtext_markup(r, a, &x) < 0 || jtext_markup(r, b, &y) < 0))
        return -1;
    if (jstr_concat(r, x, y, &s) < 0)
        return -1;
    if (markup && !s->markup) {
        struct jstr *copy = jrun_alloc(r, sizeof *copy);
        if (copy == NULL)
            return -1;
        *copy = *s;
        copy->markup = true;
        s = copy;
    }
    *out = jval_str(s);
    return 0;
}

static int jop_add_seq(struct jrun *r, const struct jval *a, const struct jval *b, struct jval *out)
{
    struct jseq *s = jseq_new(r, a->u.seq->n + b->u.seq->n);
    if (s == NULL)
        return -1;
    for (size_t i = 0; i < a->u.seq->n; i++)
        if (jseq_push(r, s, a->u.seq->v[i]) < 0)
            return -1;
    for (size_t i = 0; i < b->u.seq->n; i++)
        if (jseq_push(r, s, b->u.seq->v[i]) < 0)
            return -1;
    *out = jval_seq((enum jtype)a->type, s, a->trusted && b->trusted);
    return 0;
}

/* A string, list or tuple, times over. */
static int jop_repeat(struct jrun *r, const struct jval *v, int64_t times, struct jval *out)
{
    if (v->type == J_STR) {
        struct jbuild b;
        struct jstr *s;
        jbuild_init(&b, r);
        if (jstr_flat(r, v->u.s) < 0)
            return -1;
        b.markup = v->u.s->markup;
        if (times > 0 && v->u.s->n > 0 && (uint64_t)times > r->max_bytes / v->u.s->n)
            return jrun_fail(r, "a text grows beyond %zu bytes", r->max_bytes);
        if (v->u.s->trust == JTRUST_MIXED) {
            for (int64_t i = 0; i < times; i++)
                if (jrun_spend(r, 1) < 0 || jbuild_str(&b, v->u.s) < 0)
                    return -1;
        } else if (times > 0 && jbuild_fill(&b, v->u.s->p, v->u.s->n, (size_t)times, jstr_trusted(v->u.s)) < 0) {
            return -1;
        }
        if (jbuild_finish(&b, &s) < 0)
            return -1;
        *out = jval_str(s);
        return 0;
    }
    struct jseq *s = jseq_new(r, 0);
    if (s == NULL)
        return -1;
    for (int64_t k = 0; k < times && v->u.seq->n > 0; k++)
        for (size_t i = 0; i < v->u.seq->n; i++)
            if (jseq_push(r, s, v->u.seq->v[i]) < 0)
                return -1;
    *out = jval_seq((enum jtype)v->type, s, v->trusted);
    return 0;
}

static bool jop_repeatable(const struct jval *v)
{
    return v->type == J_STR || v->type == J_LIST || v->type == J_TUPLE;
}

int jop_binary(struct jrun *r, uint16_t op, const struct jval *a, const struct jval *b, struct jval *out)
{
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    bool trusted = a->trusted && b->trusted;
    if (jval_is_number(a) && jval_is_number(b)) {
        if (a->type == J_FLOAT || b->type == J_FLOAT)
            return jop_floats(r, op, jval_as_double(a), jval_as_double(b), trusted, out);
        return jop_ints(r, op, jop_int(a), jop_int(b), trusted, out);
    }
    if (op == JT_ADD && a->type == J_STR && b->type == J_STR)
        return jop_join(r, a, b, out);
    if (op == JT_ADD && a->type == b->type && (a->type == J_LIST || a->type == J_TUPLE))
        return jop_add_seq(r, a, b, out);
    if (op == JT_MUL && jop_repeatable(a) && (b->type == J_INT || b->type == J_BOOL))
        return jop_repeat(r, a, jop_int(b), out);
    if (op == JT_MUL && jop_repeatable(b) && (a->type == J_INT || a->type == J_BOOL))
        return jop_repeat(r, b, jop_int(a), out);
    if (op == JT_MOD && a->type == J_STR)
        return jformat_percent(r, a->u.s, b, out);
    return jop_refuse(r, names[op - JT_ADD], a, b);
}

int jop_negate(struct jrun *r, const struct jval *a, bool minus, struct jval *out)
{
    if (a->type == J_UNDEF)
        return jval_fail_undef(r, a);
    if (!jval_is_number(a))
        return jrun_fail(r, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jval_type_name(a->type));
    if (a->type == J_FLOAT) {
        *out = jval_float(minus ? -a->u.f : a->u.f, a->trusted);
        return 0;
    }
    int64_t v = jop_int(a);
    if (minus && __builtin_sub_overflow(0, v, &v))
        return jop_overflow(r);
    *out = jval_int(v, a->trusted);
    return 0;
}

int jop_compare(struct jrun *r, enum jcompare_op op, const struct jval *a, const struct jval *b, bool *out)
{
    static const char *const names[] = {"==", "!=", "<", "<=", ">", ">="};
    int order = 0, rc = 0;
    bool unordered;
    switch (op) {
    case JC_EQ: return jval_equal(r, a, b, out);
    case JC_NE: rc = jval_equal(r, a, b, out); break;
    case JC_IN: return jval_contains(r, b, a, out);
    case JC_NOTIN: rc = jval_contains(r, b, a, out); break;
    default:
        if (jval_compare(r, a, b, names[op], &order, &unordered) < 0)
            return -1;
        *out = !unordered && (op == JC_LT ? order < 0 : op == JC_LTEQ ? order <= 0 : op == JC_GT ? order > 0 : order >= 0);
        return 0;
    }
    *out = !*out;
    return rc;
}

int jop_concat(struct jrun *r, const struct jval *v, size_t n, struct jval *out)
{
    struct jstr *all = jstr_ref(r, "", 0, true), *part;
    for (size_t i = 0; i < n; i++) {
        if (v[i].type == J_STR)
            part = v[i].u.s;
        else if (jtext_of(r, &v[i], &part) < 0)
            return -1;
        if (all == NULL || jstr_concat(r, all, part, &all) < 0)
            return -1;
    }
    if (all == NULL)
        return -1;
    if (all->markup) { /* str() of markup is plain */
        struct jstr *plain = jrun_alloc(r, sizeof *plain);
        if (plain == NULL)
            return -1;
        *plain = *all;
        plain->markup = false;
        all = plain;
    }
    *out = jval_str(all);
    return 0;
}

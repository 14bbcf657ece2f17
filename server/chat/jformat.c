/* jformat.c: "%s" % x and "{}".format(x). A field's fill and sign are as trusted as the value; what is copied from the format keeps the
 * format's trust.
 *
 * Both parse one conversion into the same description, which one function lays out. Format specifications are Python's, without the ones nobody can
 * reach from JSON values (complex numbers, the 'n' locale type). */
#include "server/chat/jeval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/jstrfn.h"
#include "server/chat/juni.h"

struct jfield {
    char fill[4]; /* one character in UTF-8, fill_n bytes */
    size_t fill_n;
    char align;   /* < > ^ = or 0 */
    char sign;    /* + - space or 0 */
    bool alternate, zero;
    char group;   /* , _ or 0 */
    int64_t width, precision; /* -1: absent */
    char type;    /* 0: absent */
};

/* Writes text (n characters of it ASCII or a whole string) in its field: padding left, right, both, or between sign and digits. */
static int jformat_place(struct jbuild *b, const struct jfield *f, struct jstr *text, size_t n_prefix, bool trusted)
{
    int64_t n = (int64_t)jstr_n_chars(text), missing = f->width > n ? f->width - n : 0;
    int64_t left = f->align == '>' ? missing : f->align == '^' ? missing / 2 : 0;
    int64_t middle = f->align == '=' ? missing : 0;
    const char *fill = f->fill_n > 0 ? f->fill : " ";
    size_t fill_n = f->fill_n > 0 ? f->fill_n : 1;
    if (jbuild_fill(b, fill, fill_n, (size_t)left, trusted) < 0 || jbuild_sub(b, text, 0, n_prefix) < 0 ||
        jbuild_fill(b, fill, fill_n, (size_t)middle, trusted) < 0 || jbuild_sub(b, text, n_prefix, text->n) < 0)
        return -1;
    return jbuild_fill(b, fill, fill_n, (size_t)(missing - left - middle), trusted);
}

/* Digits of v in a base, with separators every `every` digits; out holds 130. */
static size_t jformat_digits(uint64_t v, unsigned base, bool upper, char group, unsigned every, char *out)
{
    char reversed[130];
    size_t n = 0;
    unsigned digits = 0;
    do {
        if (group != 0 && digits > 0 && digits % every == 0)
            reversed[n++] = group;
        unsigned d = (unsigned)(v % base);
        reversed[n++] = (char)((d < 10 ? '0' : (upper ? 'A' : 'a') - 10) + (int)d);
        v /= base;
        digits++;
    } while (v > 0);
    for (size_t i = 0; i < n; i++)
        out[i] = reversed[n - 1 - i];
    return n;
}

static int jformat_int(struct jrun *r, struct jbuild *b, struct jfield *f, int64_t v, bool trusted)
{
    char text[160];
    size_t n = 0;
    char type = f->type == 0 || f->type == 'n' ? 'd' : f->type;
    unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    if (v < 0)
        text[n++] = '-';
    else if (f->sign == '+' || f->sign == ' ')
        text[n++] = f->sign;
    if (f->alternate && base != 10) {
        text[n++] = '0';
        text[n++] = type;
    }
    size_t prefix = n;
    n += jformat_digits(v < 0 ? 0 - (uint64_t)v : (uint64_t)v, base, type == 'X', f->group, base == 10 ? 3 : 4, text + n);
    struct jstr *s = jstr_copy(r, text, n, trusted);
    if (s == NULL)
        return -1;
    return jformat_place(b, f, s, prefix, trusted);
}

static int jformat_float(struct jrun *r, struct jbuild *b, struct jfield *f, double v, bool trusted)
{
    char digits[400], text[600];
    size_t n = 0, m;
    char type = f->type;
    double size = fabs(v);
    int precision = f->precision < 0 ? 6 : (int)f->precision;
    if (f->precision > 60)
        return jrun_unsupported(r, "a float with more than 60 digits of precision is not supported");
    if (signbit(v) && !isnan(v))
        text[n++] = '-';
    else if (f->sign == '+' || f->sign == ' ')
        text[n++] = f->sign;
    size_t prefix = n;
    if (!isfinite(v)) {
        m = (size_t)snprintf(digits, sizeof digits, type == 'F' || type == 'E' || type == 'G' ? "%F" : "%f", size);
    } else if (type == 0 && f->precision < 0) {
        m = jtext_float(size, digits);
    } else if (type == '%') {
        m = (size_t)snprintf(digits, sizeof digits, "%.*f%%", precision, size * 100);
    } else if (type == 'f' || type == 'F') {
        m = (size_t)snprintf(digits, sizeof digits, f->alternate ? "%#.*f" : "%.*f", precision, size);
    } else if (type == 'e' || type == 'E') {
        m = (size_t)snprintf(digits, sizeof digits, type == 'e' ? "%.*e" : "%.*E", precision, size);
    } else {
        if (type == 0) /* like g, with at least one digit behind the point */
            return jrun_unsupported(r, "a float format with a precision and no type is not supported");
        bool upper = type == 'G';
        m = (size_t)snprintf(digits, sizeof digits, f->alternate ? (upper ? "%#.*G" : "%#.*g") : upper ? "%.*G" : "%.*g", precision, size);
    }
    size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < m; i++) {
        if (f->group != 0 && i > 0 && i < whole && (whole - i) % 3 == 0)
            text[n++] = f->group;
        text[n++] = digits[i];
    }
    struct jstr *s = jstr_copy(r, text, n, trusted);
    return s == NULL ? -1 : jformat_place(b, f, s, prefix, trusted);
}

static int jformat_str(struct jrun *r, struct jbuild *b, struct jfield *f, struct jstr *s)
{
    if (f->precision >= 0 && (int64_t)jstr_n_chars(s) > f->precision && (s = jstr_sub(r, s, 0, jstr_byte_of(s, (size_t)f->precision))) == NULL)
        return -1;
    return jformat_place(b, f, s, 0, jstr_trusted(s));
}

/* ---- % -------------------------------------------------------------------------------------------------------------------------------------- */

struct jpercent {
    struct jrun *run;
    struct jbuild b;
    struct jstr *format;
    size_t at;
    const struct jval *arg;
    size_t next; /* of a tuple */
    bool used;
};

static int jpercent_next(struct jpercent *p, struct jval *out)
{
    bool tuple = p->arg->type == J_TUPLE;
    if (tuple ? p->next >= p->arg->u.seq->n : p->used)
        return jrun_fail(p->run, "not enough arguments for format string");
    *out = tuple ? p->arg->u.seq->v[p->next++] : *p->arg;
    p->used = true;
    return 0;
}

/* "(name)" after the percent sign. */
static int jpercent_key(struct jpercent *p, struct jval *out)
{
    size_t from = p->at + 1, depth = 1;
    struct jval *v;
    for (p->at++; p->at < p->format->n && depth > 0; p->at++)
        depth += p->format->p[p->at] == '(' ? 1 : p->format->p[p->at] == ')' ? (size_t)-1 : 0;
    if (depth > 0)
        return jrun_fail(p->run, "incomplete format key");
    if (p->arg->type != J_DICT)
        return jrun_fail(p->run, "format requires a mapping");
    v = jdict_get_str(p->arg->u.dict, p->format->p + from, p->at - 1 - from);
    if (v == NULL)
        return jrun_fail(p->run, "the format's mapping has no key '%.*s'", (int)(p->at - 1 - from < 80 ? p->at - 1 - from : 80), p->format->p + from);
    *out = *v;
    p->used = true;
    return 0;
}

static int jpercent_number(struct jpercent *p, int64_t *out)
{
    struct jval v;
    if (p->at < p->format->n && p->format->p[p->at] == '*') {
        p->at++;
        return jpercent_next(p, &v) < 0 ? -1 : jval_index(p->run, &v, out);
    }
    *out = 0;
    for (; p->at < p->format->n && p->format->p[p->at] >= '0' && p->format->p[p->at] <= '9'; p->at++)
        if (__builtin_mul_overflow(*out, 10, out) || *out > INT32_MAX)
            return jrun_fail(p->run, "a width in a format is too large");
        else
            *out += p->format->p[p->at] - '0';
    return 0;
}

static int jpercent_convert(struct jpercent *p, struct jfield *f, struct jval v)
{
    struct jrun *r = p->run;
    struct jstr *s;
    struct jbuild repr;
    char type = f->type;
    bool markup = p->b.markup;
    if (f->align == 0)
        f->align = '>';
    if (f->zero && f->align == '>' && type != 's' && type != 'r' && type != 'a' && type != 'c') {
        f->align = '=';
        f->fill[0] = '0';
        f->fill_n = 1;
    }
    if (type == 's' || type == 'r' || type == 'a') {
        jbuild_init(&repr, r);
        if (type == 's' ? jtext_of(r, &v, &s) < 0 : jtext_repr(r, &repr, &v) < 0 || jbuild_finish(&repr, &s) < 0)
            return -1;
        struct jval text = jval_str(s);
        if (type == 's' && markup && jtext_markup(r, v.type == J_STR ? &v : &text, &s) < 0)
            return -1;
        return jformat_str(r, &p->b, f, s);
    }
    if (type == 'c' && v.type == J_STR) {
        if (jstr_flat(r, v.u.s) < 0 || v.u.s->n == 0 || juni_length(v.u.s->p, v.u.s->n) != v.u.s->n)
            return jrun_fail(r, "%%c requires int or char");
        return jformat_str(r, &p->b, f, v.u.s);
    }
    if (!jval_is_number(&v))
        return v.type == J_UNDEF ? jval_fail_undef(r, &v)
                                 : jrun_fail(r, "%%%c format: a real number is required, not %s", type, jval_type_name(v.type));
    if (strchr("eEfFgG", type) != NULL)
        return jformat_float(r, &p->b, f, jval_as_double(&v), v.trusted);
    if (v.type == J_FLOAT && (type == 'x' || type == 'X' || type == 'o' || type == 'c'))
        return jrun_fail(r, "%%%c format: an integer is required, not float", type);
    if (v.type == J_FLOAT && !(fabs(v.u.f) < 9e18))
        return jrun_unsupported(r, "an integer of more than 64 bits");
    int64_t i = v.type == J_FLOAT ? (int64_t)v.u.f : v.type == J_BOOL ? v.u.b : v.u.i;
    if (type == 'c') {
        char utf8[4];
        if (i < 0 || i > 0x10ffff)
            return jrun_fail(r, "%%c arg not in range(0x110000)");
        s = jstr_copy(r, utf8, juni_encode((uint32_t)i, utf8), v.trusted);
        return s == NULL ? -1 : jformat_str(r, &p->b, f, s);
    }
    f->type = type == 'i' || type == 'u' ? 'd' : type;
    if (f->precision >= 0)
        return jrun_unsupported(r, "an integer with a precision is not supported");
    return jformat_int(r, &p->b, f, i, v.trusted);
}

static int jpercent_field(struct jpercent *p)
{
    struct jfield f = {.width = -1, .precision = -1};
    struct jval v;
    const struct jstr *s = p->format;
    bool keyed = false;
    if (p->at < s->n && s->p[p->at] == '(') {
        if (jpercent_key(p, &v) < 0)
            return -1;
        keyed = true;
    }
    for (; p->at < s->n && strchr("-+ #0", s->p[p->at]) != NULL && s->p[p->at] != '\0'; p->at++) {
        char c = s->p[p->at];
        if (c == '-')
            f.align = '<';
        else if (c == '0')
            f.zero = true;
        else if (c == '#')
            f.alternate = true;
        else if (f.sign != '+')
            f.sign = c;
    }
    if (jpercent_number(p, &f.width) < 0)
        return -1;
    if (f.width < 0) {
        f.align = '<';
        f.width = f.width < -INT32_MAX ? INT32_MAX : -f.width;
    }
    if (p->at < s->n && s->p[p->at] == '.') {
        p->at++;
        if (jpercent_number(p, &f.precision) < 0)
            return -1;
        if (f.precision < 0)
            f.precision = 0;
    }
    while (p->at < s->n && (s->p[p->at] == 'h' || s->p[p->at] == 'l' || s->p[p->at] == 'L'))
        p->at++;
    if (p->at >= s->n)
        return jrun_fail(p->run, "incomplete format");
    f.type = s->p[p->at++];
    if (f.type == '%')
        return jbuild_puts(&p->b, "%", jstr_trusted_at(s, p->at - 1));
    if (f.type == '\0' || strchr("diouxXeEfFgGcrsa", f.type) == NULL)
        return jrun_fail(p->run, "unsupported format character");
    if (!keyed && jpercent_next(p, &v) < 0)
        return -1;
    return jpercent_convert(p, &f, v);
}

int jformat_percent(struct jrun *r, struct jstr *format, const struct jval *arg, struct jval *out)
{
    struct jpercent p = {.run = r, .format = format, .arg = arg};
    struct jstr *s;
    jbuild_init(&p.b, r);
    if (jstr_flat(r, format) < 0 || jrun_spend_bytes(r, format->n) < 0)
        return -1;
    p.b.markup = format->markup;
    while (p.at < format->n) {
        size_t percent = jstr_find(format, "%", 1, p.at, format->n);
        if (percent == SIZE_MAX)
            percent = format->n;
        if (jbuild_sub(&p.b, format, p.at, percent) < 0)
            return -1;
        p.at = percent + 1;
        if (percent < format->n && (jrun_spend(r, 1) < 0 || jpercent_field(&p) < 0))
            return -1;
    }
    /* What has keys or indexes may be a mapping, of which nothing needs to be used. */
    bool mapping = arg->type == J_DICT || arg->type == J_LIST || arg->type == J_RANGE || arg->type == J_UNDEF;
    bool rest = arg->type == J_TUPLE ? p.next < arg->u.seq->n : !p.used && !mapping;
    if (rest)
        return jrun_fail(r, "not all arguments converted during string formatting");
    if (jbuild_finish(&p.b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

/* ---- str.format ----------------------------------------------------------------------------------------------------------------------------- */

struct jbraces {
    struct jrun *run;
    struct jbuild b;
    struct jstr *format;
    const struct jcall *call;
    int64_t next; /* the next automatic number, -1 once one was written out */
    bool automatic;
};

/* Digits, where there are any. */
static int jbraces_number(struct jrun *r, const struct jstr *s, size_t *at, size_t end, int64_t *out)
{
    for (; *at < end && s->p[*at] >= '0' && s->p[*at] <= '9'; ++*at) {
        *out = (*out < 0 ? 0 : *out) * 10 + (s->p[*at] - '0');
        if (*out > INT32_MAX)
            return jrun_fail(r, "a width in a format is too large");
    }
    return 0;
}

/* [[fill]align][sign][z][#][0][width][,][.precision][type] */
static int jbraces_spec(struct jrun *r, const struct jstr *s, size_t at, size_t end, struct jfield *f)
{
    size_t n = at < end ? juni_length(s->p + at, end - at) : 0;
    *f = (struct jfield){.width = -1, .precision = -1};
    if (at + n < end && strchr("<>=^", s->p[at + n]) != NULL && s->p[at + n] != '\0') {
        memcpy(f->fill, s->p + at, n);
        f->fill_n = n;
        f->align = s->p[at + n];
        at += n + 1;
    } else if (at < end && strchr("<>=^", s->p[at]) != NULL && s->p[at] != '\0') {
        f->align = s->p[at++];
    }
    if (at < end && (s->p[at] == '+' || s->p[at] == '-' || s->p[at] == ' '))
        f->sign = s->p[at++];
    if (at < end && s->p[at] == '#')
        f->alternate = s->p[at++] == '#';
    if (at < end && s->p[at] == '0') {
        f->zero = true;
        at++;
    }
    if (jbraces_number(r, s, &at, end, &f->width) < 0)
        return -1;
    if (at < end && (s->p[at] == ',' || s->p[at] == '_'))
        f->group = s->p[at++];
    if (at < end && s->p[at] == '.') {
        at++;
        if (jbraces_number(r, s, &at, end, &f->precision) < 0)
            return -1;
        if (f->precision < 0)
            return jrun_fail(r, "format specifier missing precision");
    }
    if (at < end)
        f->type = s->p[at++];
    if (at < end || (f->type != 0 && strchr("bcdeEfFgGnosxX%", f->type) == NULL))
        return jrun_fail(r, "invalid format specifier");
    return 0;
}

static int jbraces_place(struct jbraces *p, struct jfield *f, const struct jval *v)
{
    struct jrun *r = p->run;
    bool plain = f->width < 0 && f->precision < 0 && f->type == 0 && f->align == 0 && f->sign == 0 && f->group == 0 && !f->alternate && !f->zero;
    bool number = jval_is_number(v) && !(v->type == J_BOOL && plain); /* True is a word only when nothing is asked of it */
    if (f->zero && f->fill_n == 0 && (number || f->align != 0)) {
        f->fill[0] = '0';
        f->fill_n = 1;
        if (f->align == 0)
            f->align = '=';
    }
    if (v->type == J_STR) {
        if (jstr_flat(r, v->u.s) < 0)
            return -1;
        if (f->type != 0 && f->type != 's')
            return jrun_fail(r, "unknown format code '%c' for object of type 'str'", f->type);
        if (f->align == '=' || f->sign != 0 || f->group != 0 || f->alternate)
            return jrun_fail(r, "a string's format takes no sign, '=', '#' or separator");
        return jformat_str(r, &p->b, f, v->u.s);
    }
    if (!number) {
        struct jstr *s;
        if (!plain)
            return jrun_fail(r, "unsupported format string passed to %s", jval_type_name(v->type));
        return jtext_of(r, v, &s) < 0 ? -1 : jformat_str(r, &p->b, f, s);
    }
    if (f->align == 0)
        f->align = '>';
    if (v->type == J_FLOAT || (f->type != 0 && strchr("eEfFgG%", f->type) != NULL)) {
        if (f->type != 0 && strchr("eEfFgG%", f->type) == NULL)
            return jrun_fail(r, "unknown format code '%c' for object of type 'float'", f->type);
        return jformat_float(r, &p->b, f, jval_as_double(v), v->trusted);
    }
    int64_t i = v->type == J_BOOL ? v->u.b : v->u.i;
    if (f->type == 's' || f->precision >= 0)
        return jrun_fail(r, "invalid format specifier for an integer");
    if (f->type == 'c') {
        char utf8[4];
        struct jstr *s = i < 0 || i > 0x10ffff ? NULL : jstr_copy(r, utf8, juni_encode((uint32_t)i, utf8), v->trusted);
        return s == NULL ? jrun_fail(r, "%%c arg not in range(0x110000)") : jformat_str(r, &p->b, f, s);
    }
    return jformat_int(r, &p->b, f, i, v->trusted);
}

/* The value a field names: nothing, a number or a name, then .attr and [item] as often as they stand there. */
static int jbraces_value(struct jbraces *p, size_t at, size_t end, struct jval *out)
{
    const struct jstr *s = p->format;
    struct jrun *r = p->run;
    size_t from = at, digits = 0;
    while (at < end && s->p[at] != '.' && s->p[at] != '[') {
        digits += s->p[at] >= '0' && s->p[at] <= '9';
        at++;
    }
    if (digits == at - from) {
        bool automatic = digits == 0;
        if (p->next > 0 && automatic != p->automatic)
            return jrun_fail(r, "cannot mix automatic and manual field numbering");
        p->automatic = automatic;
        size_t i = automatic ? (size_t)p->next : strtoul(s->p + from, NULL, 10);
        p->next++;
        if (i >= p->call->n)
            return jrun_fail(r, "replacement index %zu out of range for positional args", i);
        *out = p->call->v[i];
    } else {
        size_t k = 0;
        while (k < p->call->n_kw && !(p->call->kw_names[k]->n == at - from && memcmp(p->call->kw_names[k]->p, s->p + from, at - from) == 0))
            k++;
        if (k == p->call->n_kw)
            return jrun_fail(r, "the format names '%.*s', which is not an argument", (int)(at - from < 80 ? at - from : 80), s->p + from);
        *out = p->call->kw[k];
    }
    while (at < end) {
        bool item = s->p[at++] == '[';
        from = at;
        while (at < end && (item ? s->p[at] != ']' : s->p[at] != '.' && s->p[at] != '['))
            at++;
        if (at == from || (item && at == end))
            return jrun_fail(r, "empty attribute in format string");
        struct jstr *name = jstr_sub(r, s, from, at);
        struct jval object = *out, index = jval_str(name);
        if (name == NULL)
            return -1;
        if (item && strspn(name->p, "0123456789") >= name->n)
            index = jval_int(strtoll(name->p, NULL, 10), true);
        if (item ? jattr_item(r, &object, &index, out) < 0 : jattr_get(r, &object, name, out) < 0)
            return -1;
        at += item;
    }
    return 0;
}

/* One field; `at` stands behind its brace, `end` at the closing one. */
static int jbraces_field(struct jbraces *p, size_t at, size_t end)
{
    const struct jstr *s = p->format;
    struct jrun *r = p->run;
    size_t name_end = at;
    char conversion = 0;
    struct jval v;
    struct jfield f;
    for (bool bracket = false; name_end < end && (bracket || (s->p[name_end] != '!' && s->p[name_end] != ':')); name_end++)
        bracket = s->p[name_end] == '[' || (bracket && s->p[name_end] != ']');
    if (jbraces_value(p, at, name_end, &v) < 0)
        return -1;
    at = name_end;
    if (at < end && s->p[at] == '!') {
        if (at + 1 >= end || (at + 2 < end && s->p[at + 2] != ':'))
            return jrun_fail(r, "expected ':' after conversion specifier");
        conversion = s->p[at + 1];
        at += 2;
    }
    if (conversion != 0) {
        struct jbuild b;
        struct jstr *text;
        jbuild_init(&b, r);
        if (conversion != 's' && conversion != 'r')
            return conversion == 'a' ? jrun_unsupported(r, "the conversion !a is not supported") : jrun_fail(r, "unknown conversion specifier");
        if ((conversion == 's' ? jtext_str(r, &b, &v) : jtext_repr(r, &b, &v)) < 0 || jbuild_finish(&b, &text) < 0)
            return -1;
        v = jval_str(text);
    }
    at += at < end;
    if (memchr(s->p + at, '{', end - at) != NULL)
        return jrun_unsupported(r, "a field inside a format specification is not supported");
    if (jbraces_spec(r, s, at, end, &f) < 0)
        return -1;
    if (p->b.markup) {
        struct jstr *text;
        if (f.width >= 0 || f.precision >= 0 || f.type != 0)
            return jrun_unsupported(r, "format specifications in markup are not supported");
        if (jtext_markup(r, &v, &text) < 0)
            return -1;
        v = jval_str(text);
    }
    return jbraces_place(p, &f, &v);
}

int jformat_braces(struct jrun *r, struct jstr *format, const struct jcall *call, struct jval *out)
{
    struct jbraces p = {.run = r, .format = format, .call = call};
    struct jstr *s;
    jbuild_init(&p.b, r);
    p.b.markup = format->markup;
    for (size_t at = 0; at < format->n;) {
        size_t brace = at;
        while (brace < format->n && format->p[brace] != '{' && format->p[brace] != '}')
            brace++;
        const char *hit = brace < format->n ? format->p + brace : NULL;
        if (jrun_spend(r, 1 + (brace - at) / 64) < 0 || jbuild_sub(&p.b, format, at, brace) < 0)
            return -1;
        if (hit == NULL)
            break;
        if (brace + 1 < format->n && format->p[brace + 1] == *hit) { /* {{ or }} */
            if (jbuild_sub(&p.b, format, brace, brace + 1) < 0)
                return -1;
            at = brace + 2;
            continue;
        }
        if (*hit == '}')
            return jrun_fail(r, "single '}' encountered in format string");
        size_t end = brace + 1;
        for (int depth = 1; end < format->n; end++) {
            depth += format->p[end] == '{' ? 1 : format->p[end] == '}' ? -1 : 0;
            if (depth == 0)
                break;
        }
        if (end >= format->n)
            return jrun_fail(r, "expected '}' before end of string");
        if (jbraces_field(&p, brace + 1, end) < 0)
            return -1;
        at = end + 1;
    }
    if (jbuild_finish(&p.b, &s) < 0)
        return -1;
    *out = jval_str(s);
    return 0;
}

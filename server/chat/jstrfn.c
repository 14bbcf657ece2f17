/* jstrfn.c: stripping, splitting, replacing, case, padding. See jstrfn.h. */
#include "server/chat/jstrfn.h"

#include <string.h>

#include "server/chat/juni.h"

static int jstrfn_push_sub(struct jrun *r, struct jseq *list, const struct jstr *s, size_t from, size_t to)
{
    struct jstr *part = jstr_sub(r, s, from, to);
    return part == NULL ? -1 : jseq_push(r, list, jval_str(part));
}

static bool jstrfn_in_set(const struct jstr *set, const char *p, size_t n)
{
    uint32_t c;
    if (set == NULL) {
        juni_decode(p, n, &c);
        return juni_is_space(c);
    }
    for (size_t i = 0; i < set->n;) {
        size_t len = juni_length(set->p + i, set->n - i);
        if (len == n && memcmp(set->p + i, p, n) == 0)
            return true;
        i += len;
    }
    return false;
}

int jstrfn_strip(struct jrun *r, struct jstr *s, struct jstr *chars, bool left, bool right, struct jval *out)
{
    size_t from = 0, to = s->n;
    if (jrun_spend_bytes(r, s->n) < 0)
        return -1;
    while (left && from < to) {
        size_t n = juni_length(s->p + from, to - from);
        if (!jstrfn_in_set(chars, s->p + from, n))
            break;
        from += n;
    }
    while (right && to > from) {
        size_t n = juni_length_before(s->p + from, to - from);
        if (!jstrfn_in_set(chars, s->p + to - n, n))
            break;
        to -= n;
    }
    struct jstr *sub = jstr_sub(r, s, from, to);
    *out = jval_str(sub);
    return sub == NULL ? -1 : 0;
}

static size_t jstrfn_space_at(const struct jstr *s, size_t at)
{
    uint32_t c;
    size_t n = juni_decode(s->p + at, s->n - at, &c);
    return juni_is_space(c) ? n : 0;
}

static int jstrfn_split_space(struct jrun *r, struct jstr *s, int64_t max, struct jseq *list)
{
    for (size_t at = 0; at < s->n;) {
        size_t n = jstrfn_space_at(s, at);
        if (n > 0) {
            at += n;
            continue;
        }
        size_t from = at;
        if (max >= 0 && (int64_t)list->n >= max) /* the rest, with the white space behind it */
            return jstrfn_push_sub(r, list, s, from, s->n);
        while (at < s->n && jstrfn_space_at(s, at) == 0)
            at += juni_length(s->p + at, s->n - at);
        if (jstrfn_push_sub(r, list, s, from, at) < 0)
            return -1;
    }
    return 0;
}

static void jstrfn_reverse(struct jseq *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        struct jval v = list->v[i];
        list->v[i] = list->v[list->n - 1 - i];
        list->v[list->n - 1 - i] = v;
    }
}

static int jstrfn_rsplit_space(struct jrun *r, struct jstr *s, int64_t max, struct jseq *list)
{
    size_t to = s->n;
    for (;;) {
        while (to > 0) {
            size_t n = juni_length_before(s->p, to);
            if (jstrfn_space_at(s, to - n) == 0)
                break;
            to -= n;
        }
        if (to == 0)
            break;
        size_t from = to;
        if (max >= 0 && (int64_t)list->n >= max) {
            if (jstrfn_push_sub(r, list, s, 0, to) < 0)
                return -1;
            break;
        }
        while (from > 0) {
            size_t n = juni_length_before(s->p, from);
            if (jstrfn_space_at(s, from - n) > 0)
                break;
            from -= n;
        }
        if (jstrfn_push_sub(r, list, s, from, to) < 0)
            return -1;
        to = from;
    }
    jstrfn_reverse(list);
    return 0;
}

int jstrfn_split(struct jrun *r, struct jstr *s, struct jstr *sep, int64_t max, bool from_right, struct jval *out)
{
    struct jseq *list = jseq_new(r, 0);
    if (list == NULL || jrun_spend_search(r, s->n, sep != NULL ? sep->n : 0) < 0)
        return -1;
    *out = jval_seq(J_LIST, list, jstr_trusted(s));
    if (sep == NULL)
        return from_right ? jstrfn_rsplit_space(r, s, max, list) : jstrfn_split_space(r, s, max, list);
    size_t from = 0, to = s->n, at;
    if (!from_right) {
        while ((max < 0 || (int64_t)list->n < max) && (at = jstr_find(s, sep->p, sep->n, from, s->n)) != SIZE_MAX) {
            if (jstrfn_push_sub(r, list, s, from, at) < 0)
                return -1;
            from = at + sep->n;
        }
        return jstrfn_push_sub(r, list, s, from, s->n);
    }
    while ((max < 0 || (int64_t)list->n < max) && (at = jstr_rfind(s, sep->p, sep->n, 0, to)) != SIZE_MAX) {
        if (jstrfn_push_sub(r, list, s, at + sep->n, to) < 0)
            return -1;
        to = at;
    }
    if (jstrfn_push_sub(r, list, s, 0, to) < 0)
        return -1;
    jstrfn_reverse(list);
    return 0;
}

size_t jstrfn_line_end(const struct jstr *s, size_t from, size_t *next)
{
    for (size_t at = from; at < s->n;) {
        uint32_t c;
        size_t n = juni_decode(s->p + at, s->n - at, &c);
        if ((c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029) {
            *next = at + n + (c == '\r' && at + 1 < s->n && s->p[at + 1] == '\n');
            return at;
        }
        at += n;
    }
    *next = s->n;
    return s->n;
}

int jstrfn_splitlines(struct jrun *r, struct jstr *s, bool keep_ends, struct jval *out)
{
    struct jseq *list = jseq_new(r, 0);
    if (list == NULL || jrun_spend_bytes(r, s->n) < 0)
        return -1;
    for (size_t at = 0; at < s->n;) {
        size_t next, end = jstrfn_line_end(s, at, &next);
        if (jstrfn_push_sub(r, list, s, at, keep_ends ? next : end) < 0)
            return -1;
        at = next;
    }
    *out = jval_seq(J_LIST, list, jstr_trusted(s));
    return 0;
}

int jstrfn_replace(struct jrun *r, struct jstr *s, struct jstr *old, struct jstr *new, int64_t count, struct jval *out)
{
    struct jbuild b;
    struct jstr *result;
    size_t from = 0, at = 0;
    jbuild_init(&b, r);
    b.markup = s->markup;
    if (jrun_spend_bytes(r, s->n) < 0)
        return -1;
    for (int64_t done = 0; count < 0 || done < count; done++) {
        if (old->n == 0) { /* before every character, and at the end */
            if (done > 0 && at == s->n)
                break;
            if (done > 0)
                at += juni_length(s->p + at, s->n - at);
        } else if ((at = jstr_find(s, old->p, old->n, from, s->n)) == SIZE_MAX) {
            break;
        }
        if (jrun_spend(r, 1) < 0 || jbuild_sub(&b, s, from, at) < 0 || jbuild_str(&b, new) < 0)
            return -1;
        from = at + old->n;
    }
    if (jbuild_sub(&b, s, from, s->n) < 0 || jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}

static bool jstrfn_cased(uint32_t c)
{
    return juni_is_lower(c) || juni_is_upper(c) || juni_is_title(c);
}

/* Whether the sigma at `at` ends a word: something with case before it, nothing with case behind. */
static bool jstrfn_final_sigma(const struct jstr *s, size_t at)
{
    uint32_t c = 0;
    size_t i = at;
    while (i > 0) {
        size_t n = juni_length_before(s->p, i);
        juni_decode(s->p + i - n, n, &c);
        i -= n;
        if (!juni_is_case_ignorable(c))
            break;
        c = 0;
    }
    if (!jstrfn_cased(c))
        return false;
    for (i = at + 2; i < s->n;) {
        i += juni_decode(s->p + i, s->n - i, &c);
        if (!juni_is_case_ignorable(c))
            return !jstrfn_cased(c);
    }
    return true;
}

static size_t jstrfn_lower(const struct jstr *s, size_t at, uint32_t c, uint32_t to[3])
{
    if (c != 0x3a3)
        return juni_lower(c, to);
    to[0] = jstrfn_final_sigma(s, at) ? 0x3c2 : 0x3c3;
    return 1;
}

static size_t jstrfn_map(const struct jstr *s, size_t at, uint32_t c, enum jcase how, bool word_begins, uint32_t to[3])
{
    switch (how) {
    case JCASE_UPPER: return juni_upper(c, to);
    case JCASE_LOWER: return jstrfn_lower(s, at, c, to);
    case JCASE_SWAP:
        if (juni_is_upper(c))
            return jstrfn_lower(s, at, c, to);
        to[0] = c;
        return juni_is_lower(c) ? juni_upper(c, to) : 1;
    case JCASE_FOLD:
        if (c == 0xdf || c == 0x1e9e) {
            to[0] = to[1] = 's';
            return 2;
        }
        if (c == 0x3c2) {
            to[0] = 0x3c3;
            return 1;
        }
        return juni_lower(c, to);
    default: return word_begins ? juni_title(c, to) : jstrfn_lower(s, at, c, to);
    }
}

int jstrfn_case(struct jrun *r, struct jstr *s, enum jcase how, struct jval *out)
{
    struct jbuild b;
    struct jstr *result;
    bool begins = true;
    jbuild_init(&b, r);
    b.markup = s->markup;
    if (jrun_spend_bytes(r, s->n * 16) < 0)
        return -1;
    for (size_t i = 0; i < s->n;) {
        uint32_t c, to[3];
        size_t n = juni_decode(s->p + i, s->n - i, &c), m = jstrfn_map(s, i, c, how, begins, to);
        bool trusted = jstr_trusted_at(s, i);
        if (m == 1 && to[0] == c) {
            if (jbuild_sub(&b, s, i, i + n) < 0)
                return -1;
        } else {
            for (size_t k = 0; k < m; k++)
                if (jbuild_char(&b, to[k], trusted) < 0)
                    return -1;
        }
        begins = how == JCASE_TITLE && !jstrfn_cased(c);
        i += n;
    }
    if (jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}

int jstrfn_title_words(struct jrun *r, struct jstr *s, struct jval *out)
{
    struct jbuild b;
    struct jstr *result;
    bool begins = true;
    jbuild_init(&b, r);
    if (jrun_spend_bytes(r, s->n * 16) < 0)
        return -1;
    for (size_t i = 0; i < s->n;) {
        uint32_t c, to[3];
        size_t n = juni_decode(s->p + i, s->n - i, &c);
        bool splits = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || juni_is_space(c), trusted = jstr_trusted_at(s, i);
        size_t m = begins && !splits ? juni_upper(c, to) : jstrfn_lower(s, i, c, to);
        for (size_t k = 0; k < m; k++)
            if (jbuild_char(&b, to[k], trusted) < 0)
                return -1;
        begins = splits;
        i += n;
    }
    if (jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}

int jstrfn_pad(struct jrun *r, struct jstr *s, struct jstr *fill, int64_t width, enum jpad where, struct jval *out)
{
    struct jbuild b;
    struct jstr *result;
    int64_t missing = width - (int64_t)jstr_n_chars(s);
    if (width < 0 || missing <= 0) {
        *out = jval_str(s);
        return 0;
    }
    int64_t left = where == JPAD_LEFT ? missing : where == JPAD_RIGHT ? 0 : missing / 2 + (missing & width & 1);
    bool trusted = jstr_trusted(fill);
    jbuild_init(&b, r);
    b.markup = s->markup;
    if (jbuild_fill(&b, fill->p, fill->n, (size_t)left, trusted) < 0 || jbuild_str(&b, s) < 0 ||
        jbuild_fill(&b, fill->p, fill->n, (size_t)(missing - left), trusted) < 0 || jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}

int jstrfn_zfill(struct jrun *r, struct jstr *s, int64_t width, struct jval *out)
{
    struct jbuild b;
    struct jstr *result;
    int64_t missing = width - (int64_t)jstr_n_chars(s);
    size_t sign = s->n > 0 && (s->p[0] == '-' || s->p[0] == '+');
    jbuild_init(&b, r);
    b.markup = s->markup;
    if (jbuild_sub(&b, s, 0, sign) < 0 || (width > 0 && missing > 0 && jbuild_fill(&b, "0", 1, (size_t)missing, jstr_trusted(s)) < 0) ||
        jbuild_sub(&b, s, sign, s->n) < 0 || jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}

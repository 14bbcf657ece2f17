/* jstr.c: strings with provenance. See jstr.h.
 *
 * A flat string is one run of bytes. Its trust is uniform (JTRUST_NO, JTRUST_YES) or told by marks (JTRUST_MIXED). A rope node keeps
 * its two halves; flattening walks the leaves with a stack of its own, since a string grown in a loop is a chain as long as the loop.
 * Sizes are limited by max_bytes before any memory is taken, so doubling a string in a loop meets a sentence, not the memory. */
#include "server/chat/jstr.h"

#include <assert.h>
#include <string.h>

#include "server/chat/juni.h"

#define ROPE_MIN_BYTES 128u /* shorter concatenations are copied at once */
#define CHUNK_BYTES 512u

void jstr_init(struct jstr *s, const char *p, size_t n, bool trusted)
{
    *s = (struct jstr){.p = p, .n = n, .n_chars = SIZE_MAX, .trust = trusted ? JTRUST_YES : JTRUST_NO};
}

struct jstr *jstr_ref(struct jrun *r, const char *p, size_t n, bool trusted)
{
    struct jstr *s = jrun_alloc(r, sizeof *s);
    if (s != NULL)
        jstr_init(s, p, n, trusted);
    return s;
}

struct jstr *jstr_copy(struct jrun *r, const char *p, size_t n, bool trusted)
{
    char *copy = jrun_alloc(r, n + 1);
    if (copy == NULL)
        return NULL;
    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = '\0';
    return jstr_ref(r, copy, n, trusted);
}

bool jstr_trusted(const struct jstr *s)
{
    return s->trust == JTRUST_YES;
}

/* The index of the mark that covers `byte`. */
static size_t jstr_mark_at(const struct jstr *s, size_t byte)
{
    size_t low = 0, high = s->n_marks - 1;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->marks[mid].end <= byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool jstr_trusted_at(const struct jstr *s, size_t byte)
{
    assert(s->p != NULL);
    if (s->trust != JTRUST_MIXED)
        return s->trust == JTRUST_YES;
    return s->marks[jstr_mark_at(s, byte)].trusted;
}

int jstr_flat(struct jrun *r, struct jstr *s)
{
    if (s->p != NULL)
        return 0;
    struct jstr **stack = jrun_alloc(r, (s->rope_depth + 2) * sizeof *stack);
    if (stack == NULL || jrun_spend_bytes(r, s->n) < 0)
        return -1;
    struct jbuild b;
    jbuild_init(&b, r);
    size_t n = 0;
    stack[n++] = s;
    while (n > 0) {
        struct jstr *top = stack[--n];
        if (top->p != NULL) {
            if (jbuild_sub(&b, top, 0, top->n) < 0)
                return -1;
            continue;
        }
        assert(n + 2 <= (size_t)s->rope_depth + 2);
        stack[n++] = top->right;
        stack[n++] = top->left;
    }
    struct jstr *flat;
    if (jbuild_finish(&b, &flat) < 0)
        return -1;
    s->p = flat->p;
    s->marks = flat->marks;
    s->n_marks = flat->n_marks;
    s->trust = flat->trust;
    s->left = s->right = NULL;
    s->rope_depth = 0;
    return 0;
}

int jstr_concat(struct jrun *r, struct jstr *a, struct jstr *b, struct jstr **out)
{
    if (a->n == 0 || b->n == 0) {
        *out = a->n == 0 ? b : a;
        return 0;
    }
    if (a->n > r->max_bytes || b->n > r->max_bytes - a->n)
        return jrun_fail(r, "a text grows beyond %zu bytes", r->max_bytes);
    if (a->n + b->n < ROPE_MIN_BYTES) {
        struct jbuild build;
        jbuild_init(&build, r);
        if (jbuild_str(&build, a) < 0 || jbuild_str(&build, b) < 0)
            return -1;
        return jbuild_finish(&build, out);
    }
    struct jstr *s = jrun_alloc(r, sizeof *s);
    if (s == NULL)
        return -1;
    uint32_t depth = a->rope_depth > b->rope_depth ? a->rope_depth : b->rope_depth;
    *s = (struct jstr){.n = a->n + b->n, .n_chars = SIZE_MAX, .left = a, .right = b, .rope_depth = depth + 1};
    s->trust = a->trust == b->trust ? a->trust : JTRUST_MIXED;
    *out = s;
    return 0;
}

struct jstr *jstr_sub(struct jrun *r, const struct jstr *s, size_t from, size_t to)
{
    assert(s->p != NULL && from <= to && to <= s->n);
    struct jstr *sub = jstr_ref(r, s->p + from, to - from, s->trust == JTRUST_YES);
    if (sub == NULL)
        return NULL;
    sub->markup = s->markup;
    if (s->trust != JTRUST_MIXED || from == to)
        return sub;
    size_t first = jstr_mark_at(s, from), last = jstr_mark_at(s, to - 1), n = last - first + 1;
    if (first == last) {
        sub->trust = s->marks[first].trusted ? JTRUST_YES : JTRUST_NO;
        return sub;
    }
    struct jmark *marks = jrun_alloc(r, n * sizeof *marks);
    if (marks == NULL || jrun_spend(r, n / 8) < 0)
        return NULL;
    for (size_t i = 0; i < n; i++)
        marks[i] = (struct jmark){.end = s->marks[first + i].end - from, .trusted = s->marks[first + i].trusted};
    marks[n - 1].end = to - from;
    sub->trust = JTRUST_MIXED;
    sub->marks = marks;
    sub->n_marks = n;
    return sub;
}

/* Characters that begin in p[0, n): every byte but the continuation bytes of UTF-8. */
static size_t jstr_count(const char *p, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)p[i] & 0xc0) != 0x80;
    return count;
}

size_t jstr_n_chars(struct jstr *s)
{
    assert(s->p != NULL);
    if (s->n_chars == SIZE_MAX) /* never of a constant, which threads share: the compiler has counted those */
        s->n_chars = jstr_count(s->p, s->n);
    return s->n_chars;
}

size_t jstr_byte_of(struct jstr *s, size_t char_idx)
{
    if (jstr_n_chars(s) == s->n)
        return char_idx < s->n ? char_idx : s->n;
    size_t i = 0;
    for (size_t begun = 0; i < s->n; i++) {
        begun += ((unsigned char)s->p[i] & 0xc0) != 0x80;
        if (begun > char_idx)
            break;
    }
    return i;
}

size_t jstr_char_of(struct jstr *s, size_t byte)
{
    return jstr_count(s->p, byte);
}

bool jstr_is(const struct jstr *s, const char *literal)
{
    return s->n == strlen(literal) && memcmp(s->p, literal, s->n) == 0;
}

bool jstr_same(const struct jstr *a, const struct jstr *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

int jstr_order(const struct jstr *a, const struct jstr *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int order = n > 0 ? memcmp(a->p, b->p, n) : 0;
    return order != 0 ? order : a->n < b->n ? -1 : a->n > b->n;
}

size_t jstr_find(const struct jstr *s, const char *needle, size_t n, size_t from, size_t to)
{
    if (from > to || to - from < n)
        return SIZE_MAX;
    if (n == 0)
        return from;
    const char *hit = memmem(s->p + from, to - from, needle, n);
    return hit == NULL ? SIZE_MAX : (size_t)(hit - s->p);
}

size_t jstr_rfind(const struct jstr *s, const char *needle, size_t n, size_t from, size_t to)
{
    if (from > to || to - from < n)
        return SIZE_MAX;
    if (n == 0)
        return to;
    for (size_t at = to - n + 1; at-- > from;)
        if (s->p[at] == needle[0] && memcmp(s->p + at, needle, n) == 0)
            return at;
    return SIZE_MAX;
}

/* ---- building ------------------------------------------------------------------------------------------------------------------------------ */

void jbuild_init(struct jbuild *b, struct jrun *r)
{
    *b = (struct jbuild){.run = r};
}

int jbuild_ref(struct jbuild *b, const char *p, size_t n, bool trusted)
{
    if (n == 0)
        return 0;
    if (n > b->run->max_bytes - b->bytes)
        return jrun_fail(b->run, "a text grows beyond %zu bytes", b->run->max_bytes);
    if (b->n > 0 && b->v[b->n - 1].trusted == trusted && b->v[b->n - 1].p + b->v[b->n - 1].n == p) {
        b->v[b->n - 1].n += n;
        b->bytes += n;
        return 0;
    }
    if (b->n == b->cap) {
        size_t cap = b->cap == 0 ? 8 : b->cap * 2;
        struct jpiece *v = jrun_alloc(b->run, cap * sizeof *v);
        if (v == NULL)
            return -1;
        if (b->n > 0)
            memcpy(v, b->v, b->n * sizeof *v);
        b->v = v;
        b->cap = cap;
    }
    b->v[b->n++] = (struct jpiece){.p = p, .n = n, .trusted = trusted};
    b->bytes += n;
    return 0;
}

int jbuild_bytes(struct jbuild *b, const char *p, size_t n, bool trusted)
{
    if (n > b->chunk_cap - b->chunk_n) {
        size_t cap = n > CHUNK_BYTES ? n : CHUNK_BYTES;
        if (b->bytes > cap && n <= CHUNK_BYTES) /* long results take longer chunks */
            cap = b->bytes < 65536 ? b->bytes : 65536;
        char *chunk = jrun_alloc(b->run, cap);
        if (chunk == NULL)
            return -1;
        b->chunk = chunk;
        b->chunk_n = 0;
        b->chunk_cap = cap;
    }
    if (n == 0)
        return 0;
    char *at = b->chunk + b->chunk_n;
    memcpy(at, p, n);
    b->chunk_n += n;
    return jbuild_ref(b, at, n, trusted);
}

int jbuild_puts(struct jbuild *b, const char *s, bool trusted)
{
    return jbuild_bytes(b, s, strlen(s), trusted);
}

int jbuild_sub(struct jbuild *b, const struct jstr *s, size_t from, size_t to)
{
    assert(s->p != NULL && from <= to && to <= s->n);
    if (from == to)
        return 0;
    if (s->trust != JTRUST_MIXED)
        return jbuild_ref(b, s->p + from, to - from, s->trust == JTRUST_YES);
    for (size_t i = jstr_mark_at(s, from); from < to; i++) {
        size_t end = s->marks[i].end < to ? s->marks[i].end : to;
        if (jbuild_ref(b, s->p + from, end - from, s->marks[i].trusted) < 0)
            return -1;
        from = end;
    }
    return 0;
}

int jbuild_str(struct jbuild *b, struct jstr *s)
{
    return jstr_flat(b->run, s) < 0 ? -1 : jbuild_sub(b, s, 0, s->n);
}

int jbuild_fill(struct jbuild *b, const char *p, size_t n, size_t times, bool trusted)
{
    if (n == 0 || times == 0)
        return 0;
    if (times > b->run->max_bytes / n)
        return jrun_fail(b->run, "a text grows beyond %zu bytes", b->run->max_bytes);
    char *all = jrun_alloc(b->run, n * times);
    if (all == NULL || jrun_spend_bytes(b->run, n * times) < 0)
        return -1;
    for (size_t i = 0; i < times; i++)
        memcpy(all + i * n, p, n);
    return jbuild_ref(b, all, n * times, trusted);
}

int jbuild_char(struct jbuild *b, uint32_t code_point, bool trusted)
{
    char utf8[4];
    return jbuild_bytes(b, utf8, juni_encode(code_point, utf8), trusted);
}

/* The pieces' trust as marks. */
static int jbuild_marks(struct jbuild *b, struct jstr *s)
{
    size_t n = 1;
    for (size_t i = 1; i < b->n; i++)
        n += b->v[i].trusted != b->v[i - 1].trusted;
    if (n == 1) {
        s->trust = b->v[0].trusted ? JTRUST_YES : JTRUST_NO;
        return 0;
    }
    struct jmark *marks = jrun_alloc(b->run, n * sizeof *marks);
    if (marks == NULL)
        return -1;
    size_t at = 0, end = 0;
    for (size_t i = 0; i < b->n; i++) {
        if (i > 0 && b->v[i].trusted != b->v[i - 1].trusted)
            at++;
        end += b->v[i].n;
        marks[at] = (struct jmark){.end = end, .trusted = b->v[i].trusted};
    }
    s->trust = JTRUST_MIXED;
    s->marks = marks;
    s->n_marks = n;
    return 0;
}

int jbuild_finish(struct jbuild *b, struct jstr **out)
{
    struct jstr *s = jstr_ref(b->run, "", 0, true);
    if (s == NULL || jrun_spend_bytes(b->run, b->bytes) < 0)
        return -1;
    s->markup = b->markup;
    if (b->n == 0) {
        *out = s;
        return 0;
    }
    if (jbuild_marks(b, s) < 0)
        return -1;
    s->n = b->bytes;
    if (b->n == 1) {
        s->p = b->v[0].p;
        *out = s;
        return 0;
    }
    char *all = jrun_alloc(b->run, b->bytes);
    if (all == NULL)
        return -1;
    size_t at = 0;
    for (size_t i = 0; i < b->n; i++) {
        memcpy(all + at, b->v[i].p, b->v[i].n);
        at += b->v[i].n;
    }
    s->p = all;
    *out = s;
    return 0;
}

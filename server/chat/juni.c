/* juni.c: UTF-8 and Unicode properties by binary search in ranges. See juni.h. */
#include "server/chat/juni.h"

#include "server/chat/juni_tables.h"

#define N_OF(a) (sizeof(a) / sizeof(a)[0])

size_t juni_decode(const char *p, size_t n, uint32_t *code_point)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *code_point = u[0];
        return 1;
    }
    size_t len = u[0] >= 0xf0 && u[0] < 0xf5 ? 4 : u[0] >= 0xe0 && u[0] < 0xf0 ? 3 : u[0] >= 0xc2 && u[0] < 0xe0 ? 2 : 0;
    *code_point = 0xfffd;
    if (len == 0 || len > n)
        return 1;
    uint32_t c = u[0] & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return 1;
        c = c << 6 | (u[i] & 0x3f);
    }
    if ((len == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) || (len == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 1;
    *code_point = c;
    return len;
}

size_t juni_length(const char *p, size_t n)
{
    uint32_t c;
    return (unsigned char)p[0] < 0x80 ? 1 : juni_decode(p, n, &c);
}

size_t juni_length_before(const char *p, size_t n)
{
    for (size_t len = 2; len <= 4 && len <= n && ((unsigned char)p[n - 1] & 0x80); len++)
        if (juni_length(p + n - len, len) == len)
            return len;
    return 1;
}

size_t juni_encode(uint32_t c, char out[4])
{
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        c = 0xfffd;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool juni_valid(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = juni_length(p + i, n - i);
        if (len == 1 && ((unsigned char)p[i] & 0x80))
            return false;
        i += len;
    }
    return true;
}

static bool span_has(const struct juni_span *v, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (v[mid].last < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && v[low].first <= c;
}

/* The range of steps that c is in, or NULL. */
static const struct juni_map *steps_of(const struct juni_map *v, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (v[mid].last < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && v[low].first <= c && (c - v[low].first) % v[low].step == 0 ? &v[low] : NULL;
}

static bool steps_have(const struct juni_map *v, size_t n, uint32_t c)
{
    return steps_of(v, n, c) != NULL;
}

/* c's partner in a mapping, or c. */
static uint32_t map_of(const struct juni_map *v, size_t n, uint32_t c)
{
    const struct juni_map *m = steps_of(v, n, c);
    return m == NULL ? c : (uint32_t)((int32_t)c + m->delta);
}

static size_t special_of(const struct juni_special *v, size_t n, uint32_t c, uint32_t out[3])
{
    size_t low = 0, high = n, k = 0;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (v[mid].from < c)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < n && v[low].from == c)
        for (; k < 3 && v[low].to[k] != 0; k++)
            out[k] = v[low].to[k];
    return k;
}

bool juni_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool juni_is_alpha(uint32_t c) { return span_has(juni_alpha, N_OF(juni_alpha), c); }
bool juni_is_numeric(uint32_t c) { return span_has(juni_number, N_OF(juni_number), c); }
bool juni_is_decimal(uint32_t c) { return span_has(juni_decimal, N_OF(juni_decimal), c); }
bool juni_is_digit(uint32_t c) { return juni_is_decimal(c) || span_has(juni_digit, N_OF(juni_digit), c); }
bool juni_is_printable(uint32_t c) { return !span_has(juni_unprintable, N_OF(juni_unprintable), c); }
bool juni_is_case_ignorable(uint32_t c) { return span_has(juni_ignorable, N_OF(juni_ignorable), c); }
bool juni_is_title(uint32_t c) { return span_has(juni_titlecase, N_OF(juni_titlecase), c); }
bool juni_is_upper(uint32_t c) { return steps_have(juni_uppercase, N_OF(juni_uppercase), c); }
bool juni_is_lower(uint32_t c) { return steps_have(juni_lowercase, N_OF(juni_lowercase), c); }

size_t juni_upper(uint32_t c, uint32_t out[3])
{
    if (c < 0x80) {
        out[0] = c >= 'a' && c <= 'z' ? c - 32 : c;
        return 1;
    }
    size_t n = special_of(juni_upper_special, N_OF(juni_upper_special), c, out);
    if (n > 0)
        return n;
    out[0] = map_of(juni_upper_map, N_OF(juni_upper_map), c);
    return 1;
}

size_t juni_lower(uint32_t c, uint32_t out[3])
{
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    if (c == 0x130) { /* the only one with two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = map_of(juni_lower_map, N_OF(juni_lower_map), c);
    return 1;
}

size_t juni_title(uint32_t c, uint32_t out[3])
{
    size_t n = special_of(juni_title_special, N_OF(juni_title_special), c, out);
    if (n > 0)
        return n;
    const struct juni_map *m = steps_of(juni_title_map, N_OF(juni_title_map), c);
    out[0] = m != NULL ? (uint32_t)((int32_t)c + m->delta) : map_of(juni_upper_map, N_OF(juni_upper_map), c);
    return 1;
}

/* jlex.c: from a template's text to tokens, as jinja2 does with trim_blocks and lstrip_blocks.
 *
 *   text ──"{{"──> expression ──"}}"──> text          A `-` beside a delimiter removes white space on that side, a `+` keeps what lstrip or trim
 * would
 *   text ──"{%"──> statement ──"%}"──> text           remove. trim_blocks: one newline behind %} and #} goes. lstrip_blocks: blanks between the start
 * of
 *   text ──"{#"──> comment ──"#}"──> text             a line and {% or {# go. Inside brackets "}}" and "%}" are operators, so that dicts can be
 * written.
 *   {% raw %} ... {% endraw %} is text.
 *
 * Newlines are normalised to \n and one newline at the very end is dropped before all this. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat/jsyntax.h"
#include "server/chat/juni.h"

#define MAX_BRACKETS 256

struct jlex {
    struct arena *arena;
    const char *p;
    size_t n, at;
    int line;
    bool line_starting; /* the last thing matched ended with a newline */
    struct jtokens *out;
    struct err *err;
};

static int jlex_fail(const struct jlex *l, const char *what)
{
    return err_set(l->err, ERR_FORMAT, "chat template, line %d: %s", l->line, what);
}

static bool jlex_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}

static int jlex_push(struct jlex *l, struct jtoken t)
{
    struct jtokens *out = l->out;
    if (out->n == out->cap) {
        size_t cap = out->cap == 0 ? 256 : out->cap * 2;
        struct jtoken *v = arena_alloc(l->arena, cap * sizeof *v);
        if (v == NULL)
            return err_set(l->err, ERR_NOMEM, "chat template, line %d: the template needs more memory than it may take", l->line);
        if (out->n > 0)
            memcpy(v, out->v, out->n * sizeof *v);
        out->v = v;
        out->cap = cap;
    }
    out->v[out->n++] = t;
    return 0;
}

static int jlex_emit(struct jlex *l, enum jtoken_type type, const char *p, size_t n)
{
    return jlex_push(l, (struct jtoken){.type = (uint8_t)type, .line = l->line, .p = p, .n = n});
}

/* Steps over n bytes, counting lines. */
static void jlex_skip(struct jlex *l, size_t n)
{
    assert(n <= l->n - l->at);
    for (size_t i = 0; i < n; i++)
        l->line += l->p[l->at + i] == '\n';
    l->at += n;
    if (n > 0)
        l->line_starting = l->p[l->at - 1] == '\n';
}

static bool jlex_looks(const struct jlex *l, size_t at, const char *literal)
{
    size_t n = strlen(literal);
    return at <= l->n && l->n - at >= n && memcmp(l->p + at, literal, n) == 0;
}

static size_t jlex_spaces(const struct jlex *l, size_t at)
{
    size_t from = at;
    while (at < l->n && jlex_space(l->p[at]))
        at++;
    return at - from;
}

static bool jlex_sign(const struct jlex *l, size_t at)
{
    return at < l->n && (l->p[at] == '-' || l->p[at] == '+');
}

/* The length of "{%- raw %}" or "{% endraw %}" at `at`, its closing white space and newline control included; 0 if it is something else. */
static size_t jlex_raw_tag(const struct jlex *l, size_t at, const char *word, bool is_end)
{
    size_t from = at;
    if (!jlex_looks(l, at, "{%"))
        return 0;
    at += 2;
    at += jlex_sign(l, at);
    at += jlex_spaces(l, at);
    if (!jlex_looks(l, at, word))
        return 0;
    at += strlen(word);
    at += jlex_spaces(l, at);
    if (jlex_looks(l, at, "-%}"))
        return at + 3 + jlex_spaces(l, at + 3) - from;
    if (is_end && jlex_looks(l, at, "+%}"))
        return at + 3 - from;
    if (!jlex_looks(l, at, "%}"))
        return 0;
    at += 2;
    if (is_end && at < l->n && l->p[at] == '\n')
        at++;
    return at - from;
}

/* Emits the text [from, tag) without what the tag's sign and lstrip_blocks take away. */
static int jlex_text(struct jlex *l, size_t tag, char sign, bool lstrip)
{
    const char *p = l->p + l->at;
    size_t n = tag - l->at, keep = n;
    if (sign == '-') {
        /* white space as Python's rstrip sees it */
        while (keep > 0) {
            size_t len = juni_length_before(p, keep);
            uint32_t c;
            juni_decode(p + keep - len, len, &c);
            if (!juni_is_space(c))
                break;
            keep -= len;
        }
    } else if (sign != '+' && lstrip) {
        size_t line = n;
        while (line > 0 && p[line - 1] != '\n')
            line--;
        size_t blank = line;
        while (blank < n && jlex_space(p[blank]))
            blank++;
        if (blank == n && (line > 0 || l->line_starting))
            keep = line;
    }
    if (keep > 0 && jlex_emit(l, JT_DATA, p, keep) < 0)
        return -1;
    jlex_skip(l, n);
    return 0;
}

static int jlex_comment(struct jlex *l)
{
    for (size_t at = l->at; at < l->n; at++) {
        if (jlex_looks(l, at, "+#}")) {
            jlex_skip(l, at + 3 - l->at);
            return 0;
        }
        if (jlex_looks(l, at, "-#}")) {
            jlex_skip(l, at + 3 + jlex_spaces(l, at + 3) - l->at);
            return 0;
        }
        if (jlex_looks(l, at, "#}")) {
            jlex_skip(l, at + 2 + (at + 2 < l->n && l->p[at + 2] == '\n') - l->at);
            return 0;
        }
    }
    return jlex_fail(l, "the comment is not closed");
}

static int jlex_raw(struct jlex *l)
{
    for (size_t at = l->at; at < l->n; at++) {
        size_t tag = jlex_raw_tag(l, at, "endraw", true);
        if (tag == 0)
            continue;
        char sign = jlex_sign(l, at + 2) ? l->p[at + 2] : 0;
        if (jlex_text(l, at, sign, true) < 0)
            return -1;
        jlex_skip(l, tag);
        return 0;
    }
    return jlex_fail(l, "the raw block is not closed");
}

static int jlex_digit(char c, int base)
{
    int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
    return d < base ? d : -1;
}

/* The length of digits of a base at `at`, each but the first may follow one underscore. */
static size_t jlex_digits(const struct jlex *l, size_t at, int base, bool underscore_first)
{
    size_t from = at;
    for (;;) {
        size_t skip = at < l->n && l->p[at] == '_' && (at > from || underscore_first);
        if (at + skip >= l->n || jlex_digit(l->p[at + skip], base) < 0)
            return at - from;
        at += skip + 1;
    }
}

static size_t jlex_float_length(const struct jlex *l)
{
    size_t at = l->at;
    if (at > 0 && l->p[at - 1] == '.')
        return 0;
    at += jlex_digits(l, at, 10, false);
    bool fraction = false;
    if (at < l->n && l->p[at] == '.') {
        size_t n = jlex_digits(l, at + 1, 10, false);
        if (n == 0)
            return 0;
        fraction = true;
        at += 1 + n;
    }
    if (at < l->n && (l->p[at] == 'e' || l->p[at] == 'E')) {
        size_t sign = jlex_sign(l, at + 1), n = jlex_digits(l, at + 1 + sign, 10, false);
        if (n > 0)
            return at + 1 + sign + n - l->at;
    }
    return fraction ? at - l->at : 0;
}

static int jlex_number(struct jlex *l)
{
    char text[80];
    size_t n = jlex_float_length(l), m = 0;
    if (n > 0) {
        for (size_t i = 0; i < n && m + 1 < sizeof text; i++)
            if (l->p[l->at + i] != '_')
                text[m++] = l->p[l->at + i];
        text[m] = '\0';
        struct jtoken t = {.type = JT_FLOAT, .line = l->line, .f = strtod(text, NULL)};
        jlex_skip(l, n);
        return jlex_push(l, t);
    }
    int base = 10;
    size_t prefix = 0;
    if (l->p[l->at] == '0' && l->at + 1 < l->n) {
        char c = (char)(l->p[l->at + 1] | 0x20);
        int other = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (other != 0 && jlex_digits(l, l->at + 2, other, true) > 0) {
            base = other;
            prefix = 2;
        }
    }
    n = prefix + jlex_digits(l, l->at + prefix, base, prefix > 0);
    if (prefix == 0 && l->p[l->at] == '0') /* a decimal zero takes zeros only */
        for (n = 1; l->at + n < l->n && (l->p[l->at + n] == '0' || (l->p[l->at + n] == '_' && jlex_looks(l, l->at + n + 1, "0")));)
            n++;
    int64_t value = 0;
    for (size_t i = prefix; i < n; i++) {
        char c = l->p[l->at + i];
        if (c != '_' && (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, jlex_digit(c, base), &value)))
            return jlex_fail(l, "an integer of more than 64 bits");
    }
    struct jtoken t = {.type = JT_INT, .line = l->line, .i = value};
    jlex_skip(l, n);
    return jlex_push(l, t);
}

/* One escape sequence at p[0] == '\\', n >= 2. Returns its length, or 0 with the error set; writes at most 4 bytes. */
static size_t jlex_escape(struct jlex *l, const char *p, size_t n, char out[4], size_t *n_out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = p[1] != '\0' ? strchr(from, p[1]) : NULL;
    *n_out = 0;
    if (p[1] == '\n')
        return 2;
    if (simple != NULL) {
        out[(*n_out)++] = to[simple - from];
        return 2;
    }
    uint32_t c = 0;
    if (p[1] >= '0' && p[1] <= '7') {
        size_t len = 1;
        for (; len < n && len < 4 && p[len] >= '0' && p[len] <= '7'; len++)
            c = c * 8 + (uint32_t)(p[len] - '0');
        *n_out = juni_encode(c, out);
        return len;
    }
    size_t digits = p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0;
    if (p[1] == 'N') {
        err_set(l->err, ERR_UNSUPPORTED, "chat template, line %d: character names (\\N{...}) are not supported", l->line);
        return 0;
    }
    if (digits == 0) { /* an unknown escape stands for itself */
        out[(*n_out)++] = '\\';
        return 1;
    }
    for (size_t i = 0; i < digits; i++) {
        if (2 + i >= n || jlex_digit(p[2 + i], 16) < 0) {
            jlex_fail(l, "a truncated escape in a string");
            return 0;
        }
        c = c << 4 | (uint32_t)jlex_digit(p[2 + i], 16);
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        jlex_fail(l, "a string holds an escape that is no character");
        return 0;
    }
    *n_out = juni_encode(c, out);
    return 2 + digits;
}

static int jlex_string(struct jlex *l)
{
    char quote = l->p[l->at];
    size_t end = l->at + 1;
    while (end < l->n && l->p[end] != quote)
        end += l->p[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        return jlex_fail(l, "a string is not closed");
    const char *p = l->p + l->at + 1;
    size_t n = end - l->at - 1, m = 0;
    char *text = arena_alloc(l->arena, n + 1);
    if (text == NULL)
        return err_set(l->err, ERR_NOMEM, "chat template, line %d: the template needs more memory than it may take", l->line);
    for (size_t i = 0; i < n;) {
        if (p[i] != '\\') {
            text[m++] = p[i++];
            continue;
        }
        char out[4];
        size_t n_out, len = jlex_escape(l, p + i, n - i, out, &n_out);
        if (len == 0)
            return -1;
        memcpy(text + m, out, n_out); /* an escape is never shorter than its bytes */
        m += n_out;
        i += len;
    }
    text[m] = '\0';
    if (jlex_emit(l, JT_STRING, text, m) < 0)
        return -1;
    jlex_skip(l, n + 2);
    return 0;
}

static const struct {
    char text[3];
    uint8_t type;
} jlex_operators[] = {
    {"//", JT_FLOORDIV}, {"**", JT_POW}, {"==", JT_EQ}, {"!=", JT_NE}, {">=", JT_GTEQ}, {"<=", JT_LTEQ}, {"+", JT_ADD}, {"-", JT_SUB}, {"/", JT_DIV},
    {"*", JT_MUL}, {"%", JT_MOD}, {"~", JT_TILDE}, {"[", JT_LBRACKET}, {"]", JT_RBRACKET}, {"(", JT_LPAREN}, {")", JT_RPAREN},
    {"{", JT_LBRACE}, {"}", JT_RBRACE}, {">", JT_GT}, {"<", JT_LT}, {"=", JT_ASSIGN}, {".", JT_DOT}, {":", JT_COLON}, {"|", JT_PIPE},
    {",", JT_COMMA}, {";", JT_SEMICOLON}};

/* One operator; brackets are kept in balance. */
static int jlex_operator(struct jlex *l, char *brackets, size_t *n_brackets)
{
    for (size_t i = 0; i < sizeof jlex_operators / sizeof jlex_operators[0]; i++) {
        const char *text = jlex_operators[i].text;
        if (!jlex_looks(l, l->at, text))
            continue;
        char c = text[0];
        if (c == '(' || c == '[' || c == '{') {
            if (*n_brackets == MAX_BRACKETS)
                return jlex_fail(l, "brackets are nested too deeply");
            brackets[(*n_brackets)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (*n_brackets == 0 || brackets[--*n_brackets] != c)
                return err_set(l->err, ERR_FORMAT, "chat template, line %d: unexpected '%c'", l->line, c);
        }
        if (jlex_emit(l, (enum jtoken_type)jlex_operators[i].type, l->p + l->at, strlen(text)) < 0)
            return -1;
        jlex_skip(l, strlen(text));
        return 0;
    }
    uint32_t c;
    size_t len = juni_decode(l->p + l->at, l->n - l->at, &c);
    return err_set(l->err, ERR_FORMAT, "chat template, line %d: unexpected character '%.*s'", l->line, (int)len, l->p + l->at);
}

static bool jlex_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (unsigned char)c >= 0x80;
}

/* The length of the tag's end at l->at with the white space it takes along, 0 if it does not end here. */
static size_t jlex_tag_end(const struct jlex *l, bool block)
{
    const char *end = block ? "%}" : "}}";
    if (l->p[l->at] == '-' && jlex_looks(l, l->at + 1, end))
        return 3 + jlex_spaces(l, l->at + 3);
    if (block && l->p[l->at] == '+' && jlex_looks(l, l->at + 1, end))
        return 3;
    if (!jlex_looks(l, l->at, end))
        return 0;
    return 2 + (block && l->at + 2 < l->n && l->p[l->at + 2] == '\n');
}

static int jlex_tag(struct jlex *l, bool block)
{
    char brackets[MAX_BRACKETS];
    size_t n_brackets = 0;
    while (l->at < l->n) {
        char c = l->p[l->at];
        size_t end = n_brackets == 0 ? jlex_tag_end(l, block) : 0;
        int rc = 0;
        if (end > 0) {
            rc = jlex_emit(l, block ? JT_BLOCK_END : JT_VARIABLE_END, l->p + l->at, end);
            jlex_skip(l, end);
            return rc;
        }
        if (jlex_space(c)) {
            jlex_skip(l, jlex_spaces(l, l->at));
        } else if (c >= '0' && c <= '9') {
            rc = jlex_number(l);
        } else if (jlex_word(c)) {
            size_t n = 1;
            while (l->at + n < l->n && jlex_word(l->p[l->at + n]))
                n++;
            rc = jlex_emit(l, JT_NAME, l->p + l->at, n);
            jlex_skip(l, n);
        } else if (c == '\'' || c == '"') {
            rc = jlex_string(l);
        } else {
            rc = jlex_operator(l, brackets, &n_brackets);
        }
        if (rc < 0)
            return -1;
    }
    return jlex_fail(l, block ? "the template ends inside a statement" : "the template ends inside an expression");
}

/* Text up to the next tag, then the tag. */
static int jlex_step(struct jlex *l)
{
    size_t tag = l->at;
    while (tag + 1 < l->n && !(l->p[tag] == '{' && (l->p[tag + 1] == '{' || l->p[tag + 1] == '%' || l->p[tag + 1] == '#')))
        tag++;
    if (tag + 1 >= l->n) {
        int rc = jlex_emit(l, JT_DATA, l->p + l->at, l->n - l->at);
        jlex_skip(l, l->n - l->at);
        return rc;
    }
    char what = l->p[tag + 1], sign = jlex_sign(l, tag + 2) ? l->p[tag + 2] : 0;
    if (jlex_text(l, tag, sign, what != '{') < 0)
        return -1;
    size_t raw = jlex_raw_tag(l, tag, "raw", false);
    if (raw > 0) {
        jlex_skip(l, raw);
        return jlex_raw(l);
    }
    if (what != '#' && jlex_emit(l, what == '{' ? JT_VARIABLE_BEGIN : JT_BLOCK_BEGIN, l->p + tag, 2) < 0)
        return -1;
    jlex_skip(l, sign != 0 ? 3 : 2);
    return what == '#' ? jlex_comment(l) : jlex_tag(l, what == '%');
}

int jlex_run(struct arena *arena, const char *source, size_t n, struct jtokens *out, struct err *err)
{
    char *text = arena_alloc(arena, n + 1);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "the chat template is too large");
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        text[m++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (m > 0 && text[m - 1] == '\n')
        m--;
    text[m] = '\0';
    struct jlex l = {.arena = arena, .p = text, .n = m, .line = 1, .line_starting = true, .out = out, .err = err};
    while (l.at < l.n)
        if (jlex_step(&l) < 0)
            return -1;
    return jlex_emit(&l, JT_EOF, "", 0);
}

const char *jlex_describe(const struct jtoken *t, char *scratch, size_t n)
{
    switch (t->type) {
    case JT_EOF: return "end of template";
    case JT_DATA: return "text";
    case JT_VARIABLE_END: return "end of expression";
    case JT_BLOCK_END: return "end of statement";
    case JT_STRING: return "a string";
    case JT_INT: case JT_FLOAT: return "a number";
    default: break;
    }
    size_t len = t->n < 60 ? t->n : 60;
    if (len + 3 > n)
        len = n - 3;
    scratch[0] = '\'';
    memcpy(scratch + 1, t->p, len);
    scratch[len + 1] = '\'';
    scratch[len + 2] = '\0';
    return scratch;
}

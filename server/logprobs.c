/* logprobs.c: see logprobs.h.
 *
 * A token is a string of bytes, JSON strings hold characters. Chat has a `bytes` field for that and prints the token with U+FFFD where bytes are
 * not whole characters; the legacy form prints such a token as "bytes:\xe2\x80", as OpenAI did, so both are lossless. In the legacy form the
 * drawn token joins the top ones if it is not among them; where two tokens spell the same, the likelier stays, as an object has one of each name. */
#include "server/logprobs.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/utf8.h"

enum { LEGACY_TOKENS, LEGACY_LOGPROBS, LEGACY_TOP, LEGACY_OFFSETS };

void logprobs_init(struct logprobs *l, enum logprobs_style style, size_t max_bytes)
{
    *l = (struct logprobs){.style = style};
    for (int i = 0; i < 4; i++)
        buf_init(&l->a[i], max_bytes);
}

void logprobs_finish(struct logprobs *l)
{
    for (int i = 0; i < 4; i++)
        buf_finish(&l->a[i]);
}

/* %.9g reads back to the same f32. */
static void logprobs_number(struct buf *out, float v)
{
    char text[32];
    if (isnan(v))
        buf_puts(out, "null");
    else if (isinf(v))
        buf_puts(out, "-9999.0");
    else
        buf_append(out, text, (size_t)snprintf(text, sizeof text, "%.9g", (double)v));
}

static void logprobs_lossy(struct buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = utf8_char_bytes(p + i, n - i);
        if (len == 0)
            buf_puts(out, "\xef\xbf\xbd");
        else
            buf_json_escape(out, p + i, len);
        i += len == 0 ? 1 : len;
    }
}

static void logprobs_legacy_name(struct buf *out, const char *p, size_t n)
{
    buf_puts(out, "\"");
    if (utf8_is_whole(p, n)) {
        buf_json_escape(out, p, n);
    } else {
        buf_puts(out, "bytes:");
        for (size_t i = 0; i < n; i++)
            buf_printf(out, "\\\\x%02x", (unsigned char)p[i]);
    }
    buf_puts(out, "\"");
}

/* ---- chat ---- */

static void logprobs_chat_token(struct buf *out, const struct engine *e, int32_t id, float logprob)
{
    const char *p;
    size_t n = engine_token_bytes(e, id, true, &p);
    buf_puts(out, "{\"token\":\"");
    logprobs_lossy(out, p, n);
    buf_puts(out, "\",\"logprob\":");
    logprobs_number(out, logprob);
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) {
        char byte[8];
        buf_append(out, byte, (size_t)snprintf(byte, sizeof byte, i > 0 ? ",%u" : "%u", (unsigned char)p[i]));
    }
    buf_puts(out, "]");
}

static void logprobs_add_chat(struct logprobs *l, const struct engine *e, const struct engine_token *t)
{
    struct buf *out = &l->a[0];
    buf_puts(out, l->n > 0 ? "," : "");
    logprobs_chat_token(out, e, t->id, t->logprob);
    buf_puts(out, ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        buf_puts(out, i > 0 ? "," : "");
        logprobs_chat_token(out, e, t->top[i].id, t->top[i].logprob);
        buf_puts(out, "}");
    }
    buf_puts(out, "]}");
}

/* ---- legacy ---- */

struct logprobs_name {
    const char *p;
    size_t n;
};

static struct logprobs_name logprobs_name(const struct engine *e, int32_t id)
{
    struct logprobs_name name;
    name.n = engine_token_bytes(e, id, true, &name.p);
    return name;
}

static bool logprobs_same(const struct logprobs_name *a, const struct logprobs_name *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

static void logprobs_top_entry(struct buf *out, const struct logprobs_name *name, float logprob, bool first)
{
    buf_puts(out, first ? "" : ",");
    logprobs_legacy_name(out, name->p, name->n);
    buf_puts(out, ":");
    logprobs_number(out, logprob);
}

static void logprobs_add_top(struct buf *out, const struct engine *e, const struct engine_token *t)
{
    struct logprobs_name names[ENGINE_MAX_TOP_LOGPROBS], chosen = logprobs_name(e, t->id);
    bool chosen_seen = false, first = true;
    if (isnan(t->logprob)) {
        buf_puts(out, "null");
        return;
    }
    assert(t->n_top <= ENGINE_MAX_TOP_LOGPROBS);
    buf_puts(out, "{");
    for (int i = 0; i < t->n_top; i++) {
        bool twin = false;
        names[i] = logprobs_name(e, t->top[i].id);
        for (int j = 0; j < i; j++)
            twin = twin || logprobs_same(&names[i], &names[j]);
        chosen_seen = chosen_seen || logprobs_same(&names[i], &chosen);
        if (twin)
            continue;
        logprobs_top_entry(out, &names[i], t->top[i].logprob, first);
        first = false;
    }
    if (!chosen_seen)
        logprobs_top_entry(out, &chosen, t->logprob, first);
    buf_puts(out, "}");
}

/* A token that begins inside a character starts where that character does. */
static void logprobs_add_offset(struct logprobs *l, const struct engine *e, int32_t id)
{
    const char *p;
    size_t n = engine_token_bytes(e, id, l->count_special, &p);
    if (l->strip_space && n > 0) {
        l->strip_space = false;
        if (p[0] == ' ') {
            p++;
            n--;
        }
    }
    size_t at = l->n_chars;
    if (n > 0 && ((unsigned char)p[0] & 0xc0) == 0x80 && at > 0)
        at--;
    buf_printf(&l->a[LEGACY_OFFSETS], "%s%zu", l->n > 0 ? "," : "", at);
    l->n_chars += utf8_n_chars(p, n);
}

static void logprobs_add_legacy(struct logprobs *l, const struct engine *e, const struct engine_token *t)
{
    const char *p;
    size_t n = engine_token_bytes(e, t->id, true, &p);
    const char *comma = l->n > 0 ? "," : "";
    buf_puts(&l->a[LEGACY_TOKENS], comma);
    logprobs_legacy_name(&l->a[LEGACY_TOKENS], p, n);
    buf_puts(&l->a[LEGACY_LOGPROBS], comma);
    logprobs_number(&l->a[LEGACY_LOGPROBS], t->logprob);
    buf_puts(&l->a[LEGACY_TOP], comma);
    logprobs_add_top(&l->a[LEGACY_TOP], e, t);
    logprobs_add_offset(l, e, t->id);
}

void logprobs_add(struct logprobs *l, const struct engine *e, const struct engine_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (l->style == LOGPROBS_CHAT)
            logprobs_add_chat(l, e, &tokens[i]);
        else
            logprobs_add_legacy(l, e, &tokens[i]);
        l->n++;
    }
}

void logprobs_append(struct logprobs *l, const struct logprobs *from)
{
    for (int i = 0; i < 4 && from->n > 0; i++) {
        if (l->n > 0 && from->a[i].n > 0)
            buf_puts(&l->a[i], ",");
        buf_append(&l->a[i], from->a[i].p != NULL ? from->a[i].p : "", from->a[i].n);
    }
    l->n += from->n;
    l->n_chars += from->n_chars;
}

void logprobs_clear(struct logprobs *l)
{
    for (int i = 0; i < 4; i++) {
        bool failed = l->a[i].failed;
        buf_clear(&l->a[i]);
        l->a[i].failed = failed;
    }
    l->n = 0;
}

static void logprobs_member(struct buf *out, const char *name, const struct buf *inside)
{
    buf_puts(out, name);
    buf_append(out, inside->p != NULL ? inside->p : "", inside->n);
    buf_puts(out, "]");
}

void logprobs_print(const struct logprobs *l, struct buf *out)
{
    if (l->style == LOGPROBS_CHAT) {
        logprobs_member(out, "{\"content\":[", &l->a[0]);
        buf_puts(out, ",\"refusal\":null}");
        return;
    }
    logprobs_member(out, "{\"tokens\":[", &l->a[LEGACY_TOKENS]);
    logprobs_member(out, ",\"token_logprobs\":[", &l->a[LEGACY_LOGPROBS]);
    logprobs_member(out, ",\"top_logprobs\":[", &l->a[LEGACY_TOP]);
    logprobs_member(out, ",\"text_offset\":[", &l->a[LEGACY_OFFSETS]);
    buf_puts(out, "}");
}

bool logprobs_failed(const struct logprobs *l)
{
    return l->a[0].failed || l->a[1].failed || l->a[2].failed || l->a[3].failed;
}

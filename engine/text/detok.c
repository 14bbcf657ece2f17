/* detok.c: bytes in, whole characters out, a little held back.
 *
 *     token bytes ──► part (a character that may complete) ──► held (text that may begin a stop string) ──► out
 *
 * The first gate makes characters: a sequence that can never complete becomes one U+FFFD per maximal subpart, as the Unicode standard recommends.
 * The second looks for stop strings in what passed, by Knuth-Morris-Pratt's automaton for each: n_seen says how much of it the text ends with.
 * The longest of these must stay, all before it is certain and leaves. So `held` is always shorter than the longest stop string, plus a character
 * while one is being added. Of two stop strings that complete with the same character the longer one counts: it began first. */
#include "engine/text/detok.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"

#define DETOK_REPLACEMENT "\xef\xbf\xbd"

/* back[i]: the longest proper prefix of stop[0..i] that is also its suffix. */
static void detok_prepare(struct token_str stop, uint8_t *back)
{
    back[0] = 0;
    for (size_t i = 1, k = 0; i < stop.n; i++) {
        while (k > 0 && stop.p[i] != stop.p[k])
            k = back[k - 1];
        if (stop.p[i] == stop.p[k])
            k++;
        back[i] = (uint8_t)k;
    }
}

void detok_init(struct detok *d, const struct tokenizer *tok, const struct token_str *stops, int n_stops)
{
    assert(n_stops >= 0);
    assert(n_stops <= DETOK_MAX_STOPS);
    *d = (struct detok){.tok = tok, .n_stops = n_stops, .armed = true, .matched = -1};
    for (int i = 0; i < n_stops; i++) {
        assert(stops[i].n >= 1);
        assert(stops[i].n <= DETOK_MAX_STOP_BYTES);
        d->stops[i] = stops[i];
        detok_prepare(stops[i], d->back[i]);
    }
}

size_t detok_max_out(const struct detok *d, size_t n_bytes)
{
    return d->n_held + 3 * (d->n_part + n_bytes);
}

/* Moves stop string i on by one byte of text; true when it is complete. */
static bool detok_see(struct detok *d, int i, char byte)
{
    size_t seen = d->n_seen[i];
    if (seen == d->stops[i].n)
        seen = d->back[i][seen - 1];
    while (seen > 0 && d->stops[i].p[seen] != byte)
        seen = d->back[i][seen - 1];
    if (d->stops[i].p[seen] == byte)
        seen++;
    d->n_seen[i] = seen;
    return seen == d->stops[i].n;
}

/* Adds one whole character to the held text and releases what is certain. True when a stop string is complete. */
static bool detok_char(struct detok *d, const char *p, size_t n, char *out, size_t *n_out)
{
    assert(d->n_held + n <= sizeof d->held);
    memcpy(d->held + d->n_held, p, n);
    d->n_held += n;
    size_t keep = 0;
    for (int i = 0; i < d->n_stops; i++) {
        bool complete = false;
        for (size_t k = 0; k < n; k++)
            complete = detok_see(d, i, p[k]);
        if (complete && !d->armed)
            d->n_seen[i] = d->back[i][d->stops[i].n - 1];
        else if (complete && (d->matched < 0 || d->stops[i].n > d->stops[d->matched].n))
            d->matched = i;
        if (d->n_seen[i] > keep)
            keep = d->n_seen[i];
    }
    if (d->matched >= 0)
        keep = d->stops[d->matched].n;
    assert(keep <= d->n_held);
    memcpy(out + *n_out, d->held, d->n_held - keep);
    *n_out += d->n_held - keep;
    memmove(d->held, d->held + d->n_held - keep, keep);
    d->n_held = keep;
    return d->matched >= 0;
}

/* Takes whole and hopeless characters from the front of part. True when a stop string is complete. */
static bool detok_part(struct detok *d, char *out, size_t *n_out)
{
    while (d->n_part > 0) {
        size_t len = 0;
        enum utf8_kind kind = utf8_step(d->part, d->n_part, &len);
        if (kind == UTF8_PART)
            return false;
        bool stop = kind == UTF8_WHOLE ? detok_char(d, d->part, len, out, n_out) : detok_char(d, DETOK_REPLACEMENT, 3, out, n_out);
        memmove(d->part, d->part + len, d->n_part - len);
        d->n_part -= len;
        if (stop)
            return true;
    }
    return false;
}

static bool detok_bytes(struct detok *d, const char *p, size_t n, char *out, size_t *n_out)
{
    if (d->at_start && n > 0) {
        d->at_start = false;
        if (p[0] == ' ') {
            p++;
            n--;
        }
    }
    for (size_t i = 0; i < n; i++) {
        assert(d->n_part < sizeof d->part);
        d->part[d->n_part++] = p[i];
        if (detok_part(d, out, n_out))
            return true;
    }
    return false;
}

bool detok_push(struct detok *d, int32_t id, char *out, size_t *n_out)
{
    *n_out = 0;
    if (d->matched >= 0)
        return true;
    const char *p = NULL;
    size_t n = tokenizer_bytes(d->tok, id, false, &p);
    return detok_bytes(d, p, n, out, n_out);
}

size_t detok_flush(struct detok *d, char *out)
{
    if (d->matched >= 0)
        return 0;
    size_t n = d->n_held;
    memcpy(out, d->held, n);
    if (d->n_part > 0) {
        memcpy(out + n, DETOK_REPLACEMENT, 3);
        n += 3;
    }
    d->n_held = d->n_part = 0;
    memset(d->n_seen, 0, sizeof d->n_seen);
    return n;
}

int detok_all(const struct tokenizer *tok, const int32_t *ids, size_t n, bool special, char **out, size_t *n_out, struct err *err)
{
    size_t n_bytes = 0;
    const char *p = NULL;
    for (size_t i = 0; i < n; i++)
        n_bytes += tokenizer_bytes(tok, ids[i], special, &p);
    char *text = n_bytes < SIZE_MAX / 4 ? malloc(3 * n_bytes + 1) : NULL;
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the text of %zu tokens", n);
    struct detok d;
    detok_init(&d, tok, NULL, 0);
    d.at_start = tokenizer_strips_leading_space(tok);
    size_t n_text = 0;
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes_i = tokenizer_bytes(tok, ids[i], special, &p);
        detok_bytes(&d, p, n_bytes_i, text, &n_text);
    }
    n_text += detok_flush(&d, text + n_text);
    text[n_text] = '\0';
    *out = text;
    *n_out = n_text;
    return 0;
}

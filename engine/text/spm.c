/* spm.c: every joined text that is a piece is a candidate; the highest score wins, the leftmost among equals.
 *
 * Scores become ranks at loading (equal scores share one), so the merge loop is the same as byte-level BPE's. SentencePiece shows a space as
 * U+2581; pieces are unescaped at loading instead, and a U+2581 in the text counts as the space that it would be.
 *
 * Gemma's vocabulary has runs of spaces as USER_DEFINED pieces without a useful score. In the model's published merges they come before all others,
 * shorter runs first; so they get the best ranks here, and a run longer than the longest piece is cut as the published tokenizer cuts it.
 *
 * A character without a piece is spelled in byte tokens, and so is a byte that is not well-formed UTF-8: nothing is lost. Only a vocabulary without
 * byte tokens has to fall back on its unknown token, one for a run of such characters. */
#include "engine/text/spm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"

static const char SPM_SPACE[3] = {'\xe2', '\x96', '\x81'};

struct spm {
    const struct pieces *pieces;
    const bool *plain;
    uint32_t *rank; /* [n tokens] */
    int32_t byte_id[256]; /* or -1 */
    int32_t unk;
};

static bool spm_is_space(const char *p, size_t n)
{
    return n >= 3 && memcmp(p, SPM_SPACE, 3) == 0;
}

size_t spm_unescape(const char *p, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        bool space = spm_is_space(p + i, n - i);
        out[n_out++] = space ? ' ' : p[i];
        i += space ? 3 : 1;
    }
    return n_out;
}

static int spm_hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int spm_byte(const char *p, size_t n)
{
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>' || spm_hex(p[3]) < 0 || spm_hex(p[4]) < 0)
        return -1;
    return spm_hex(p[3]) * 16 + spm_hex(p[4]);
}

bool spm_is_run(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == ' ')
        i++;
    return n > 0 && i == n;
}

struct spm_scored {
    size_t n_run; /* bytes of a user-defined run of spaces, or SIZE_MAX */
    float score;
    int32_t id;
};

static int spm_compare(const void *a, const void *b)
{
    const struct spm_scored *x = a, *y = b;
    if (x->n_run != y->n_run)
        return x->n_run < y->n_run ? -1 : 1;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : 0;
}

/* rank[id]: how many distinct places in that order come before. */
static int spm_rank(struct spm *s, const struct vocab *vocab, struct err *err)
{
    struct spm_scored *order = malloc(vocab->n_tokens * sizeof *order);
    s->rank = malloc(vocab->n_tokens * sizeof *s->rank);
    if (order == NULL || s->rank == NULL) {
        free(order);
        return err_set(err, ERR_NOMEM, "no memory for %zu scores", vocab->n_tokens);
    }
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        size_t n = 0;
        const char *p = pieces_text(s->pieces, (int32_t)i, &n);
        bool run = vocab->types != NULL && vocab->types[i] == TOKEN_USER_DEFINED && spm_is_run(p, n);
        order[i] = (struct spm_scored){.n_run = run ? n : SIZE_MAX, .score = vocab->scores[i], .id = (int32_t)i};
    }
    qsort(order, vocab->n_tokens, sizeof *order, spm_compare);
    uint32_t rank = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        if (i > 0 && spm_compare(&order[i - 1], &order[i]) != 0)
            rank++;
        s->rank[order[i].id] = rank;
    }
    free(order);
    return 0;
}

int spm_create(const struct vocab *vocab, const struct pieces *pieces, const bool *plain, const bool *silent, int32_t unk, struct spm **out,
               struct err *err)
{
    if (vocab->scores == NULL)
        return err_set(err, ERR_FORMAT, "the vocabulary has no scores (tokenizer.ggml.scores)");
    for (size_t i = 0; i < vocab->n_tokens; i++)
        if (isnan(vocab->scores[i]))
            return err_set(err, ERR_FORMAT, "the score of token %zu is not a number", i);
    struct spm *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the tokenizer");
    s->pieces = pieces;
    s->plain = plain;
    s->unk = unk;
    for (int i = 0; i < 256; i++)
        s->byte_id[i] = -1;
    size_t n_bytes = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        int byte = vocab->types == NULL || vocab->types[i] == TOKEN_BYTE ? spm_byte(vocab->tokens[i].p, vocab->tokens[i].n) : -1;
        if (byte >= 0 && !silent[i] && s->byte_id[byte] < 0) {
            s->byte_id[byte] = (int32_t)i;
            n_bytes++;
        }
    }
    if (spm_rank(s, vocab, err) != 0) {
        spm_destroy(s);
        return -1;
    }
    if (n_bytes < 256 && s->unk < 0) {
        spm_destroy(s);
        return err_set(err, ERR_FORMAT, "the vocabulary has %zu of 256 byte tokens and no unknown token for the others", n_bytes);
    }
    *out = s;
    return 0;
}

void spm_destroy(struct spm *s)
{
    if (s == NULL)
        return;
    free(s->rank);
    free(s);
}

struct spm_run {
    const struct spm *spm;
    const char *text;
};

static bool spm_find(const void *ctx, const struct merge_symbol *l, const struct merge_symbol *r, uint32_t *rank_out, int32_t *product_out)
{
    const struct spm_run *run = ctx;
    int32_t id = pieces_find(run->spm->pieces, run->text + l->off, (size_t)l->len + r->len);
    if (id < 0 || !run->spm->plain[id])
        return false;
    *rank_out = run->spm->rank[id];
    *product_out = id;
    return true;
}

/* The bytes of a text without a piece. One unknown token stands for a run of what even byte tokens cannot spell. */
static int spm_push_bytes(const struct spm *s, const char *p, size_t n, bool after_unk, const struct token_sink *sink, bool *unk_out,
                          struct err *err)
{
    bool spelled = true;
    for (size_t i = 0; i < n; i++)
        spelled = spelled && s->byte_id[(unsigned char)p[i]] >= 0;
    *unk_out = !spelled;
    if (!spelled)
        return after_unk ? 0 : token_list_push(sink, s->unk, err);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = token_list_push(sink, s->byte_id[(unsigned char)p[i]], err);
    return rc;
}

/* The symbols that text begins as: its characters, bad bytes one by one. */
static size_t spm_symbols(const struct spm *s, const char *text, size_t n, struct merge_symbol *symbols)
{
    size_t n_symbols = 0;
    for (size_t i = 0, len = 0; i < n; i += len) {
        if (utf8_step(text + i, n - i, &len) != UTF8_WHOLE)
            len = 1;
        int32_t id = pieces_find(s->pieces, text + i, len);
        symbols[n_symbols++] =
            (struct merge_symbol){.id = id >= 0 && s->plain[id] ? id : -1, .off = (uint32_t)i, .len = (uint32_t)len};
    }
    return n_symbols;
}

/* Where byte `at` of the unescaped text stood in p[0..n). */
static const char *spm_origin(const char *p, size_t n, size_t at)
{
    size_t i = 0;
    for (; at > 0; at--)
        i += spm_is_space(p + i, n - i) ? 3 : 1;
    return p + i;
}

int spm_encode(const struct spm *s, const char *p, size_t n, bool space_prefix, struct merge_state *scratch, const struct token_sink *sink,
               struct token_loss *loss_io, struct err *err)
{
    if (n == 0)
        return 0;
    if (n >= MERGE_MAX_SYMBOLS)
        return err_set(err, ERR_INVALID, "text of %zu bytes is too long to tokenize", n);
    char *text = malloc(n + 1);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
    size_t n_text = 0;
    if (space_prefix)
        text[n_text++] = ' ';
    n_text += spm_unescape(p, n, text + n_text);
    int rc = merge_reserve(scratch, n_text, err);
    if (rc == 0) {
        struct spm_run run = {.spm = s, .text = text};
        merge_run(scratch, spm_symbols(s, text, n_text, scratch->symbols), spm_find, &run);
    }
    bool unk = false;
    for (int32_t i = 0; rc == 0 && i >= 0; i = scratch->symbols[i].next) {
        const struct merge_symbol *sym = &scratch->symbols[i];
        if (sym->id >= 0) {
            rc = token_list_push(sink, sym->id, err);
            unk = false;
        } else {
            rc = spm_push_bytes(s, text + sym->off, sym->len, unk, sink, &unk, err);
            if (unk && loss_io->first == NULL) {
                loss_io->first = spm_origin(p, n, sym->off > 0 && space_prefix ? sym->off - 1 : sym->off);
                loss_io->byte = (unsigned char)text[sym->off];
            }
            loss_io->n += unk ? sym->len : 0;
        }
    }
    free(text);
    return rc;
}

/* bpe.c: merges as a hash table from a pair of ids to (rank, id of the joined text).
 *
 * GGUF keeps tokens and merges in GPT-2's spelling, where each byte is shown as a printable character. They are unspelled once, at loading, so
 * that encoding works on plain bytes: a word's first symbols are the tokens of its bytes.
 *
 * A vocabulary may lack some single bytes (SmolLM2's has none for U+0004 or for F5..FF, which no text of its training held). Such a byte cannot be
 * said to the model at all. It is left out here, as by the model's own tokenizer, and noted: whoever
 * must not send less than was asked refuses the text. */
#include "engine/text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/nfc.h"
#include "engine/text/utf8.h"

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* MERGE_NONE: free */
    int32_t product;
};

struct bpe {
    const struct pieces *pieces;
    const bool *plain;
    struct pretok *pretok;
    bool whole_words, nfc;
    int32_t byte_id[256]; /* or -1 */
    struct bpe_merge *merges;
    size_t mask;
};

/* The byte that a character of GPT-2's alphabet stands for, or -1. The printable bytes of Latin-1 stand for themselves; the other 68, in order, are
 * U+0100 and up. */
static int bpe_unspell_char(uint32_t c)
{
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad))
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    uint32_t i = c - 0x100; /* 0..32: 00..20; 33..66: 7F..A0; 67: AD */
    return (int)(i < 33 ? i : i < 67 ? i - 33 + 0x7f : 0xad);
}

bool bpe_unspell(const char *p, size_t n, char *out, size_t *n_out)
{
    size_t n_done = 0;
    for (size_t i = 0, len = 0; i < n; i += len) {
        int byte = -1;
        if (utf8_step(p + i, n - i, &len) == UTF8_WHOLE && len <= 2) {
            uint32_t c = (unsigned char)p[i];
            byte = bpe_unspell_char(len == 1 ? c : (c & 0x1f) << 6 | ((unsigned char)p[i + 1] & 0x3f));
        }
        if (byte < 0) {
            memcpy(out, p, n);
            *n_out = n;
            return false;
        }
        out[n_done++] = (char)byte;
    }
    *n_out = n_done;
    return true;
}

static size_t bpe_slot(const struct bpe *b, uint64_t pair)
{
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    size_t at = (h ^ h >> 32) & b->mask;
    while (b->merges[at].rank != MERGE_NONE && b->merges[at].pair != pair)
        at = (at + 1) & b->mask;
    return at;
}

/* Adds merge number `rank`, "left right". Room for the unspelled texts is in tmp. A pair that is listed twice keeps its better rank; a join that
 * ordinary text must not become (a control token) is left out. */
static int bpe_add_merge(struct bpe *b, struct token_str merge, uint32_t rank, char *tmp, struct err *err)
{
    const char *space = merge.n > 0 ? memchr(merge.p, ' ', merge.n) : NULL;
    if (space == NULL)
        return err_set(err, ERR_FORMAT, "merge %u of the vocabulary is not a pair", rank);
    size_t n_left = (size_t)(space - merge.p);
    size_t n_l = 0, n_r = 0;
    if (!bpe_unspell(merge.p, n_left, tmp, &n_l) || !bpe_unspell(space + 1, merge.n - n_left - 1, tmp + n_l, &n_r))
        return err_set(err, ERR_FORMAT, "merge %u of the vocabulary is not spelled in the alphabet of bytes", rank);
    int32_t left = pieces_find(b->pieces, tmp, n_l), right = pieces_find(b->pieces, tmp + n_l, n_r);
    int32_t product = pieces_find(b->pieces, tmp, n_l + n_r);
    if (left < 0 || right < 0 || product < 0 || n_l == 0 || n_r == 0)
        return err_set(err, ERR_FORMAT, "merge %u of the vocabulary names a text that is no token", rank);
    if (!b->plain[product])
        return 0;
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    struct bpe_merge *m = &b->merges[bpe_slot(b, pair)];
    if (m->rank == MERGE_NONE)
        *m = (struct bpe_merge){.pair = pair, .rank = rank, .product = product};
    return 0;
}

static int bpe_add_merges(struct bpe *b, const struct vocab *vocab, struct err *err)
{
    size_t n_slots = 16, longest = 0;
    while (n_slots < vocab->n_merges + vocab->n_merges / 2)
        n_slots *= 2;
    for (size_t i = 0; i < vocab->n_merges; i++)
        if (vocab->merges[i].n > longest)
            longest = vocab->merges[i].n;
    char *tmp = malloc(longest + 1);
    b->merges = malloc(n_slots * sizeof *b->merges);
    b->mask = n_slots - 1;
    int rc = tmp == NULL || b->merges == NULL ? err_set(err, ERR_NOMEM, "no memory for %zu merges", vocab->n_merges) : 0;
    for (size_t i = 0; rc == 0 && i < n_slots; i++)
        b->merges[i].rank = MERGE_NONE;
    for (size_t i = 0; rc == 0 && i < vocab->n_merges; i++)
        rc = bpe_add_merge(b, vocab->merges[i], (uint32_t)i, tmp, err);
    free(tmp);
    return rc;
}

int bpe_create(const struct vocab *vocab, const struct pretok_kind *kind, const struct pieces *pieces, const bool *plain, struct bpe **out,
               struct err *err)
{
    if (vocab->merges == NULL || vocab->n_merges == 0)
        return err_set(err, ERR_FORMAT, "the vocabulary has no merges (tokenizer.ggml.merges)");
    if (vocab->n_merges > INT32_MAX)
        return err_set(err, ERR_FORMAT, "the vocabulary claims %zu merges", vocab->n_merges);
    struct bpe *b = calloc(1, sizeof *b);
    if (b == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the tokenizer");
    b->pieces = pieces;
    b->plain = plain;
    b->whole_words = kind->whole_words;
    b->nfc = kind->nfc;
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        int32_t id = pieces_find(pieces, &byte, 1);
        b->byte_id[i] = id >= 0 && plain[id] ? id : -1;
    }
    if (bpe_add_merges(b, vocab, err) != 0 || pretok_create(kind, &b->pretok, err) != 0) {
        bpe_destroy(b);
        return -1;
    }
    *out = b;
    return 0;
}

void bpe_destroy(struct bpe *b)
{
    if (b == NULL)
        return;
    pretok_destroy(b->pretok);
    free(b->merges);
    free(b);
}

static bool bpe_find(const void *ctx, const struct merge_symbol *l, const struct merge_symbol *r, uint32_t *rank_out, int32_t *product_out)
{
    const struct bpe *b = ctx;
    const struct bpe_merge *m = &b->merges[bpe_slot(b, (uint64_t)(uint32_t)l->id << 32 | (uint32_t)r->id)];
    *rank_out = m->rank;
    *product_out = m->product;
    return m->rank != MERGE_NONE;
}

struct bpe_run {
    const struct bpe *bpe;
    struct merge_state *scratch;
    const struct token_sink *sink;
    struct token_loss *loss;
};

static void bpe_note_loss(struct token_loss *loss, const char *at)
{
    loss->first = at;
    loss->byte = (unsigned char)*at;
}

static int bpe_word(void *ctx, const char *p, size_t n, struct err *err)
{
    const struct bpe_run *run = ctx;
    const struct bpe *b = run->bpe;
    if (b->whole_words) {
        int32_t id = pieces_find(b->pieces, p, n);
        if (id >= 0 && b->plain[id])
            return token_list_push(run->sink, id, err);
    }
    if (merge_reserve(run->scratch, n, err) != 0)
        return -1;
    struct merge_symbol *symbols = run->scratch->symbols;
    size_t n_symbols = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[(unsigned char)p[i]];
        if (id >= 0)
            symbols[n_symbols++] = (struct merge_symbol){.id = id, .off = (uint32_t)i, .len = 1};
        else if (run->loss->first == NULL)
            bpe_note_loss(run->loss, p + i);
    }
    run->loss->n += n - n_symbols;
    if (n_symbols == 0)
        return 0;
    merge_run(run->scratch, n_symbols, bpe_find, b);
    int rc = 0;
    for (int32_t i = 0; rc == 0 && i >= 0; i = symbols[i].next)
        rc = token_list_push(run->sink, symbols[i].id, err);
    return rc;
}

int bpe_encode(const struct bpe *b, const char *p, size_t n, struct merge_state *scratch, const struct token_sink *sink, struct token_loss *loss_io,
               struct err *err)
{
    char *normal = NULL;
    size_t n_normal = n;
    if (b->nfc && nfc_normalize(p, n, &normal, &n_normal, err) != 0)
        return -1;
    struct token_loss loss = {0};
    struct bpe_run run = {.bpe = b, .scratch = scratch, .sink = sink, .loss = &loss};
    int rc = pretok_split(b->pretok, normal != NULL ? normal : p, n_normal, bpe_word, &run, err);
    size_t origin = 0;
    if (rc == 0 && normal != NULL && loss.n > 0)
        rc = nfc_origin(p, n, (size_t)(loss.first - normal), &origin, err);
    if (loss_io->first == NULL && loss.first != NULL)
        *loss_io = (struct token_loss){.first = normal != NULL ? p + origin : loss.first, .byte = loss.byte};
    loss_io->n += loss.n;
    free(normal);
    return rc;
}

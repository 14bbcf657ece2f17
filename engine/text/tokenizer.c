/* tokenizer.c: a vocabulary made ready, and the way from spans of text to ids.
 *
 *     spans ──join──► text ──special_match──► special tokens, and between them segments ──bpe or spm──► ids
 *
 * Provenance decides only where a control token may stand: wholly inside trusted bytes. Elsewhere the spans are one text, so the border between a
 * template's words and a user's leaves no trace in the ids.
 *
 * Every token gets three facts at loading: may ordinary text become it (plain), is it left out of plain output (silent), does it end a generation.
 * What ends or begins a text is never plain, whatever type the file gives it: no user's text, and no merge list, can produce it. */
#include "engine/text/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/bpe.h"
#include "engine/text/pieces.h"
#include "engine/text/special.h"
#include "engine/text/spm.h"
#include "engine/text/token_list.h"

#define TOKENIZER_MAX_TOKENS ((size_t)1 << 24)
#define TOKENIZER_MAX_PIECE_BYTES ((size_t)1 << 16)

/* How models spell the end of a turn or of a text. */
static const char *const tokenizer_end_spellings[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|call|>", "<EOT>", "_<EOT>", "<|EOT|>", "<end_of_utterance>", "<turn|>",
    "<｜end▁of▁sentence｜>",
};
#define TOKENIZER_N_END_SPELLINGS (sizeof tokenizer_end_spellings / sizeof *tokenizer_end_spellings)

struct tokenizer {
    struct pieces pieces;
    bool *plain, *silent, *end; /* [n tokens] */
    struct special_set special;
    struct bpe *bpe; /* one of these two */
    struct spm *spm;
    int32_t *end_tokens;
    size_t n_end_tokens;
    int32_t bos, eos;
    bool adds_bos, space_prefix;
    const char *kind;
};

static int32_t tokenizer_type(const struct vocab *v, size_t i)
{
    return v->types == NULL || v->types[i] == 0 ? TOKEN_NORMAL : v->types[i];
}

static int tokenizer_check(const struct vocab *v, struct err *err)
{
    if (v->n_tokens == 0 || v->tokens == NULL)
        return err_set(err, ERR_FORMAT, "the vocabulary has no tokens");
    if (v->n_tokens > TOKENIZER_MAX_TOKENS)
        return err_set(err, ERR_FORMAT, "the vocabulary claims %zu tokens; the limit is %zu", v->n_tokens, TOKENIZER_MAX_TOKENS);
    const int32_t ids[] = {v->bos, v->eos, v->eot, v->eom, v->unk, v->pad};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i] < -1 || (ids[i] >= 0 && (size_t)ids[i] >= v->n_tokens))
            return err_set(err, ERR_FORMAT, "special token id %d lies outside the vocabulary of %zu tokens", ids[i], v->n_tokens);
    for (size_t i = 0; i < v->n_tokens; i++) {
        if (v->tokens[i].n > TOKENIZER_MAX_PIECE_BYTES)
            return err_set(err, ERR_FORMAT, "token %zu is %zu bytes long; the limit is %zu", i, v->tokens[i].n, TOKENIZER_MAX_PIECE_BYTES);
        if (tokenizer_type(v, i) < TOKEN_NORMAL || tokenizer_type(v, i) > TOKEN_BYTE)
            return err_set(err, ERR_FORMAT, "token %zu has the unknown type %d", i, v->types[i]);
    }
    return 0;
}

static bool tokenizer_spells_end(struct token_str s)
{
    for (size_t i = 0; i < TOKENIZER_N_END_SPELLINGS; i++)
        if (strlen(tokenizer_end_spellings[i]) == s.n && memcmp(tokenizer_end_spellings[i], s.p, s.n) == 0)
            return true;
    return false;
}

/* The text of token i, at most as long as its spelling. False where ordinary text cannot become it by merging. */
static bool tokenizer_text(const struct vocab *v, size_t i, bool bpe, char *out, size_t *n_out)
{
    int32_t type = tokenizer_type(v, i);
    struct token_str s = v->tokens[i];
    int byte = !bpe && (type == TOKEN_BYTE || v->types == NULL) ? spm_byte(s.p, s.n) : -1;
    if (byte >= 0) {
        out[0] = (char)byte;
        *n_out = 1;
        return false;
    }
    bool word = type == TOKEN_NORMAL || type == TOKEN_UNUSED;
    if (word && bpe)
        return bpe_unspell(s.p, s.n, out, n_out) && s.n > 0;
    if (word || (type == TOKEN_USER_DEFINED && !bpe)) {
        *n_out = spm_unescape(s.p, s.n, out);
        return s.n > 0;
    }
    if (s.n > 0)
        memcpy(out, s.p, s.n);
    *n_out = s.n;
    return false;
}

/* Texts and the facts of each token; end tokens in ascending order. */
static int tokenizer_add_tokens(struct tokenizer *t, const struct vocab *v, bool bpe, struct err *err)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < v->n_tokens; i++)
        n_bytes += v->tokens[i].n;
    if (pieces_init(&t->pieces, v->n_tokens, n_bytes, err) != 0)
        return -1;
    t->plain = calloc(v->n_tokens, sizeof *t->plain);
    t->silent = calloc(v->n_tokens, sizeof *t->silent);
    t->end = calloc(v->n_tokens, sizeof *t->end);
    t->end_tokens = calloc(v->n_tokens, sizeof *t->end_tokens);
    if (t->plain == NULL || t->silent == NULL || t->end == NULL || t->end_tokens == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n_tokens);
    for (size_t i = 0; i < v->n_tokens; i++) {
        int32_t id = (int32_t)i, type = tokenizer_type(v, i);
        size_t n = 0;
        t->plain[i] = tokenizer_text(v, i, bpe, t->pieces.bytes + t->pieces.off[i], &n);
        t->pieces.off[i + 1] = t->pieces.off[i] + n;
        t->end[i] = id == v->eos || id == v->eot || id == v->eom || tokenizer_spells_end(v->tokens[i]);
        t->silent[i] = t->end[i] || id == v->bos || type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
        t->plain[i] = t->plain[i] && !t->silent[i];
        if (t->end[i])
            t->end_tokens[t->n_end_tokens++] = id;
    }
    return 0;
}

/* Tokens that are matched by spelling; those of the template become control tokens and stop being plain. */
static int tokenizer_add_special(struct tokenizer *t, const struct vocab *v, bool bpe, struct err *err)
{
    struct special *list = calloc(v->n_tokens, sizeof *list);
    size_t n = 0;
    if (list == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a vocabulary of %zu tokens", v->n_tokens);
    for (size_t i = 0; i < v->n_tokens; i++) {
        size_t len = t->pieces.off[i + 1] - t->pieces.off[i];
        if (len == 0 || !(t->silent[i] || tokenizer_type(v, i) == TOKEN_USER_DEFINED))
            continue;
        if (!bpe && !t->silent[i] && spm_is_run(t->pieces.bytes + t->pieces.off[i], len))
            continue;
        if (len > SPECIAL_MAX_BYTES) {
            free(list);
            return err_set(err, ERR_FORMAT, "special token %zu is %zu bytes long; the limit is %d", i, len, SPECIAL_MAX_BYTES);
        }
        list[n++] = (struct special){.id = (int32_t)i, .control = t->silent[i]};
    }
    special_init(&t->special, list, n, &t->pieces);
    if (v->chat_template != NULL)
        special_protect(&t->special, v->chat_template, strlen(v->chat_template));
    for (size_t i = 0; i < t->special.n; i++)
        if (t->special.list[i].control)
            t->plain[t->special.list[i].id] = false;
    return 0;
}

/* Plain tokens first, so that they win over others of the same text. Byte tokens are reached by their value, not by text. */
static void tokenizer_index(struct tokenizer *t, const struct vocab *v, bool bpe)
{
    for (size_t i = 0; i < v->n_tokens; i++)
        if (t->plain[i])
            pieces_index(&t->pieces, (int32_t)i);
    for (size_t i = 0; i < v->n_tokens; i++)
        if (!t->plain[i] && bpe && tokenizer_type(v, i) != TOKEN_BYTE)
            pieces_index(&t->pieces, (int32_t)i);
}

static int tokenizer_build(struct tokenizer *t, const struct vocab *v, const struct pretok_kind *rules, struct err *err)
{
    bool bpe = rules != NULL;
    t->kind = bpe ? rules->label : "spm";
    t->bos = v->bos;
    t->eos = v->eos;
    t->adds_bos = v->bos >= 0 && (v->add_bos >= 0 ? v->add_bos > 0 : bpe ? rules->adds_bos : true);
    t->space_prefix = !bpe && v->add_space_prefix != 0;
    if (tokenizer_add_tokens(t, v, bpe, err) != 0 || tokenizer_add_special(t, v, bpe, err) != 0)
        return -1;
    tokenizer_index(t, v, bpe);
    if (bpe)
        return bpe_create(v, rules, &t->pieces, t->plain, &t->bpe, err);
    /* Some files name an end token as the unknown one; text must not become that. */
    int32_t unk = v->unk >= 0 && !t->end[v->unk] && v->unk != v->bos ? v->unk : -1;
    return spm_create(v, &t->pieces, t->plain, t->silent, unk, &t->spm, err);
}

int tokenizer_create(const struct vocab *vocab, struct tokenizer **out, struct err *err)
{
    const struct pretok_kind *rules = NULL;
    const char *model = vocab->model != NULL ? vocab->model : "";
    if (strcmp(model, "gpt2") != 0 && strcmp(model, "llama") != 0)
        return err_set(err, ERR_UNSUPPORTED,
                       "tokenizer \"%.60s\" is not supported; those that work are gpt2 (byte-level BPE) and llama (SentencePiece)", model);
    if (strcmp(model, "gpt2") == 0 && pretok_find(vocab->pre, &rules, err) != 0)
        return -1;
    if (tokenizer_check(vocab, err) != 0)
        return -1;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the tokenizer");
    if (tokenizer_build(t, vocab, rules, err) != 0) {
        tokenizer_destroy(t);
        return -1;
    }
    *out = t;
    return 0;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (t == NULL)
        return;
    bpe_destroy(t->bpe);
    spm_destroy(t->spm);
    special_finish(&t->special);
    pieces_finish(&t->pieces);
    free(t->plain);
    free(t->silent);
    free(t->end);
    free(t->end_tokens);
    free(t);
}

/* ---- encoding ---- */

/* A piece of the joined text with one provenance, as long as can be. */
struct tokenizer_run {
    size_t end;
    bool trusted;
};

struct tokenizer_job {
    const struct tokenizer *t;
    const char *text;
    size_t n;
    const struct tokenizer_run *runs;
    struct token_sink sink;
    struct merge_state scratch;
    struct token_loss loss;
};

/* Joins the spans. *text_out is malloc'd, and *runs_out, which is never empty. */
static int tokenizer_join(const struct text_span *spans, size_t n_spans, char **text_out, size_t *n_out, struct tokenizer_run **runs_out,
                          struct err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        if (spans[i].n > MERGE_MAX_SYMBOLS - n)
            return err_set(err, ERR_INVALID, "the text is more than %zu bytes, too long to tokenize", MERGE_MAX_SYMBOLS);
        n += spans[i].n;
    }
    char *text = malloc(n + 1);
    struct tokenizer_run *runs = calloc(n_spans + 1, sizeof *runs);
    if (text == NULL || runs == NULL) {
        free(text);
        free(runs);
        return err_set(err, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
    }
    size_t n_runs = 0;
    n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        if (spans[i].n == 0)
            continue;
        memcpy(text + n, spans[i].p, spans[i].n);
        n += spans[i].n;
        if (n_runs > 0 && runs[n_runs - 1].trusted == spans[i].trusted)
            runs[n_runs - 1].end = n;
        else
            runs[n_runs++] = (struct tokenizer_run){.end = n, .trusted = spans[i].trusted};
    }
    *text_out = text;
    *n_out = n;
    *runs_out = runs;
    return 0;
}

static int tokenizer_segment(struct tokenizer_job *job, size_t from, size_t to, struct err *err)
{
    if (from == to)
        return 0;
    const struct tokenizer *t = job->t;
    const char *p = job->text + from;
    return t->bpe != NULL ? bpe_encode(t->bpe, p, to - from, &job->scratch, &job->sink, &job->loss, err)
                          : spm_encode(t->spm, p, to - from, t->space_prefix, &job->scratch, &job->sink, &job->loss, err);
}

static int tokenizer_walk(struct tokenizer_job *job, struct err *err)
{
    const struct tokenizer_run *run = job->runs;
    size_t from = 0;
    for (size_t at = 0; at < job->n;) {
        if (at == run->end)
            run++;
        size_t len = 0;
        int32_t id = special_match(&job->t->special, job->text + at, job->n - at, run->trusted ? run->end - at : 0, &len);
        if (id < 0) {
            at++;
            continue;
        }
        if (tokenizer_segment(job, from, at, err) != 0 || token_list_push(&job->sink, id, err) != 0)
            return -1;
        at += len;
        from = at;
        while (run->end < at)
            run++;
    }
    return tokenizer_segment(job, from, job->n, err);
}

/* True where the text begins with the BOS already. */
static bool tokenizer_has_bos(const struct tokenizer_job *job)
{
    size_t len = 0;
    return job->n > 0 &&
           special_match(&job->t->special, job->text, job->n, job->runs[0].trusted ? job->runs[0].end : 0, &len) == job->t->bos;
}

int tokenizer_encode(const struct tokenizer *t, const struct text_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                     struct token_list *out, struct err *err)
{
    char *text = NULL;
    struct tokenizer_run *runs = NULL;
    struct tokenizer_job job = {.t = t, .sink = {.out = out, .max_tokens = max_tokens}};
    size_t n_before = out->n;
    if (tokenizer_join(spans, n_spans, &text, &job.n, &runs, err) != 0)
        return -1;
    job.text = text;
    job.runs = runs;
    int rc = 0;
    if (add_bos && t->adds_bos && !tokenizer_has_bos(&job))
        rc = token_list_push(&job.sink, t->bos, err);
    if (rc == 0)
        rc = tokenizer_walk(&job, err);
    if (rc == 0 && job.loss.n > 0 && out->n_lost == 0) {
        out->lost_at = (size_t)(job.loss.first - text);
        out->lost_byte = job.loss.byte;
    }
    if (rc == 0)
        out->n_lost += job.loss.n;
    else
        out->n = n_before;
    merge_finish(&job.scratch);
    free(runs);
    free(text);
    return rc;
}

/* ---- facts ---- */

size_t tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special, const char **p_out)
{
    size_t n = 0;
    *p_out = "";
    if (id < 0 || (size_t)id >= t->pieces.n || (t->silent[id] && !special))
        return 0;
    *p_out = pieces_text(&t->pieces, id, &n);
    return n;
}

bool tokenizer_strips_leading_space(const struct tokenizer *t)
{
    return t->space_prefix;
}

size_t tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->pieces.n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->pieces.n && t->end[id];
}

const int32_t *tokenizer_end_tokens(const struct tokenizer *t, size_t *n_out)
{
    *n_out = t->n_end_tokens;
    return t->end_tokens;
}

const char *tokenizer_kind(const struct tokenizer *t)
{
    return t->kind;
}

/* pretok.c: the cutting rules of the model families, run by PCRE2's interpreter (no JIT: it needs memory that is writable and executable).
 *
 * The rules are facts of the models: each family's published tokenizer states them. Two dialects differ from PCRE2's, so they are spelled out:
 *   - white space is Unicode's White_Space property, and nothing else (PCRE2's \s adds U+180E);
 *   - "the end" is the very end of the piece (PCRE2's $ also stands before a last newline).
 * Rules are also rewritten, without changing a match, where a backtracking matcher would need quadratic time: a search for white space that reaches
 * the end begins only where a run of white space begins. Every other rule finds its match or fails after one walk of a run of like characters, and
 * a run is then consumed but for its last character; so all is linear in the text. The match limit, a few steps per byte, guards that claim.
 *
 * Three families (qwen2, command-r, mpt) were trained on text in Unicode's NFC; GGUF does not say so, their published tokenizers do. Text is brought
 * there before it is cut (bpe.c).
 *
 * PCRE2 sees a copy in which each byte that is not well-formed UTF-8 is U+0001: like U+FFFD neither letter, number, punctuation nor space, and one
 * byte long, so that offsets stay true. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pretok.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"

#define WS "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE "[" WS "]"
#define SPACES_BUT_LAST SPACE "+(?![^" WS "])|" SPACE "+"
#define ASCII_CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define ANY_CASE_CONTRACTIONS "(?i:" ASCII_CONTRACTIONS ")"

#define GPT2_WORDS ASCII_CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES_BUT_LAST
#define LLAMA3_WORDS(NUMBERS)                                                                                                        \
    ANY_CASE_CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" NUMBERS "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACES_BUT_LAST

/* Letters with case, as deepseek-llm lists them. */
#define DEEPSEEK_LETTERS \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}" \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}" \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}" \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}" \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}" \
    "\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}" \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}" \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}" \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}" \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}" \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}" \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}" \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

static const struct pretok_kind pretok_kinds[] = {
    {.label = "bpe/gpt2", .names = "gpt-2 gpt2 phi-2", .stages = {GPT2_WORDS}},
    {.label = "bpe/llama-bpe", .names = "llama-bpe llama3 llama-v3", .whole_words = true, .adds_bos = true,
     .stages = {LLAMA3_WORDS("\\p{N}{1,3}")}},
    {.label = "bpe/smollm", .names = "smollm", .stages = {"\\p{N}", GPT2_WORDS}},
    {.label = "bpe/qwen2", .names = "qwen2 deepseek-r1-qwen", .nfc = true, .stages = {LLAMA3_WORDS("\\p{N}")}},
    {.label = "bpe/deepseek-llm", .names = "deepseek-llm",
     .stages = {"[\\r\\n]", SPACE "?[" DEEPSEEK_LETTERS "]+",
                SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
                "(?<!" SPACE ")" SPACE "++\\z", DEEPSEEK_CJK, "\\p{N}"}},
    {.label = "bpe/deepseek-coder", .names = "deepseek-coder",
     .stages = {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.label = "bpe/falcon", .names = "falcon", .stages = {"[\\p{P}$+<=>^`|~]+", GPT2_WORDS, "[0-9][0-9][0-9]"}},
    {.label = "bpe/starcoder", .names = "starcoder", .stages = {"\\p{N}", GPT2_WORDS}},
    {.label = "bpe/refact", .names = "refact", .stages = {"\\p{N}", GPT2_WORDS}},
    {.label = "bpe/command-r", .names = "command-r", .nfc = true, .stages = {"\\p{N}", GPT2_WORDS}},
    {.label = "bpe/mpt", .names = "mpt", .nfc = true, .stages = {GPT2_WORDS}},
};
#define PRETOK_N_KINDS (sizeof pretok_kinds / sizeof *pretok_kinds)

struct pretok {
    int n_stages;
    pcre2_code *code[PRETOK_MAX_STAGES];
};

static bool pretok_is_named(const struct pretok_kind *kind, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = kind->names; n > 0 && (at = strstr(at, name)) != NULL; at += n)
        if ((at == kind->names || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return strchr(name, ' ') == NULL;
    return false;
}

int pretok_find(const char *name, const struct pretok_kind **out, struct err *err)
{
    for (size_t i = 0; name != NULL && i < PRETOK_N_KINDS; i++)
        if (pretok_is_named(&pretok_kinds[i], name)) {
            *out = &pretok_kinds[i];
            return 0;
        }
    char list[200] = "";
    for (size_t i = 0, n = 0; i < PRETOK_N_KINDS; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i > 0 ? ", " : "", strchr(pretok_kinds[i].label, '/') + 1);
    if (name == NULL)
        return err_set(err, ERR_UNSUPPORTED, "the vocabulary does not name its pre-tokeniser (tokenizer.ggml.pre); those that work are %s", list);
    return err_set(err, ERR_UNSUPPORTED, "pre-tokeniser \"%.60s\" is not supported; those that work are %s", name, list);
}

int pretok_create(const struct pretok_kind *kind, struct pretok **out, struct err *err)
{
    struct pretok *p = calloc(1, sizeof *p);
    if (p == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the rules of %s", kind->label);
    while (p->n_stages < PRETOK_MAX_STAGES && kind->stages[p->n_stages] != NULL) {
        int code = 0;
        PCRE2_SIZE at = 0;
        p->code[p->n_stages] =
            pcre2_compile((PCRE2_SPTR)kind->stages[p->n_stages], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (p->code[p->n_stages] == NULL) {
            char why[128] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            err_set(err, ERR_UNSUPPORTED, "PCRE2 does not take rule %d of %s at %zu: %s", p->n_stages + 1, kind->label, (size_t)at, why);
            pretok_destroy(p);
            return -1;
        }
        p->n_stages++;
    }
    *out = p;
    return 0;
}

void pretok_destroy(struct pretok *p)
{
    for (int i = 0; p != NULL && i < p->n_stages; i++)
        pcre2_code_free(p->code[i]);
    free(p);
}

/* What one call of pretok_split works with. `shown` is what PCRE2 sees of `text`; the same array where that is well-formed. */
struct pretok_run {
    const struct pretok *rules;
    const char *text, *shown;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pretok_emit_fn *emit;
    void *ctx;
};

/* Cuts text[from..to) by the rules from `stage` on. Recursion is as deep as there are stages. */
static int pretok_cut(const struct pretok_run *r, int stage, size_t from, size_t to, struct err *err)
{
    if (from == to)
        return 0;
    if (stage == r->rules->n_stages)
        return r->emit(r->ctx, r->text + from, to - from, err);
    PCRE2_SPTR subject = (PCRE2_SPTR)r->shown + from;
    size_t n = to - from, done = 0;
    while (done < n) {
        int found = pcre2_match(r->rules->code[stage], subject, n, done, PCRE2_NO_UTF_CHECK, r->match, r->limits);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0) {
            char why[128] = "";
            pcre2_get_error_message(found, (PCRE2_UCHAR *)why, sizeof why);
            return err_set(err, found == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_INVALID, "the text cannot be cut into words: %s", why);
        }
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(r->match);
        size_t begin = bounds[0], end = bounds[1];
        int rc = pretok_cut(r, stage + 1, from + done, from + begin, err);
        if (rc == 0)
            rc = pretok_cut(r, stage + 1, from + begin, from + end, err);
        if (rc != 0)
            return rc;
        done = end;
    }
    return pretok_cut(r, stage + 1, from + done, to, err);
}

/* Well-formed UTF-8 as it is, every other byte as U+0001. */
static void pretok_show(char *shown, const char *text, size_t n)
{
    memcpy(shown, text, n);
    for (size_t i = 0, len = 0; i < n; i += len)
        if (utf8_step(text + i, n - i, &len) != UTF8_WHOLE)
            memset(shown + i, 1, len);
}

static bool pretok_is_utf8(const char *text, size_t n)
{
    for (size_t i = 0, len = 0; i < n; i += len)
        if (utf8_step(text + i, n - i, &len) != UTF8_WHOLE)
            return false;
    return true;
}

int pretok_split(const struct pretok *p, const char *text, size_t n, pretok_emit_fn *emit, void *ctx, struct err *err)
{
    char *copy = NULL;
    struct pretok_run r = {.rules = p, .text = text, .shown = text, .emit = emit, .ctx = ctx};
    r.match = pcre2_match_data_create(1, NULL);
    r.limits = pcre2_match_context_create(NULL);
    bool whole = pretok_is_utf8(text, n);
    if (!whole)
        r.shown = copy = malloc(n);
    int rc = -1;
    if (r.match == NULL || r.limits == NULL || r.shown == NULL) {
        err_set(err, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
    } else {
        if (copy != NULL)
            pretok_show(copy, text, n);
        pcre2_set_match_limit(r.limits, n < UINT32_MAX / 16 ? (uint32_t)n * 8 + 1000 : UINT32_MAX);
        pcre2_set_depth_limit(r.limits, 1000);
        pcre2_set_heap_limit(r.limits, 1024);
        rc = pretok_cut(&r, 0, 0, n, err);
    }
    free(copy);
    pcre2_match_context_free(r.limits);
    pcre2_match_data_free(r.match);
    return rc;
}

/* fuzz_tokenizer.c: any bytes through byte-level BPE (every set of cutting rules) and SPM, and back. What is asserted: encoding takes everything, the
 * tokens' bytes are the text again (its stretches of whole characters between special tokens in NFC, where the family wants that), no control token
 * comes out of untrusted text, cutting the text into spans changes nothing but control tokens, and the streaming decoder gives well-formed UTF-8.
 *
 * Input: one byte chooses the vocabulary, one byte where to cut, the rest is the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <uninorm.h>

#include "engine/text/detok.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/small_vocab.h"

static const char *const fuzz_kinds[] = {"gpt2",           "llama-bpe", "smollm",    "qwen2",    "deepseek-llm",
                                         "deepseek-coder", "falcon",    "starcoder", "command-r"};
#define N_BPE (sizeof fuzz_kinds / sizeof *fuzz_kinds)

static struct tokenizer *fuzz_toks[N_BPE + 1];

static void fuzz_require(bool ok)
{
    if (!ok)
        abort();
}

static void fuzz_make(struct small_vocab *s, size_t k)
{
    static const char *const words[] = {"aa", "aaaa", "ab", "abab", "he", "ll", "hell"};
    static const char *const merges[] = {"a a", "aa aa", "a b", "ab ab", "h e", "l l", "he ll"};
    struct err err;
    if (k == N_BPE) {
        small_init_spm(s);
        small_add(s, "\xe2\x96\x81", TOKEN_NORMAL, -1);
        small_add(s, "\xe2\x96\x81" "a", TOKEN_NORMAL, -2);
        small_add(s, "  ", TOKEN_USER_DEFINED, -1000);
        s->v.add_space_prefix = 0;
    } else {
        small_init_bpe(s, fuzz_kinds[k]);
        for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
            small_merge(s, merges[i]);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        small_add(s, words[i], TOKEN_NORMAL, (float)-(int)i);
    s->v.bos = small_add(s, "<s>", TOKEN_CONTROL, 0);
    small_add(s, "<sa>", TOKEN_USER_DEFINED, 0);
    fuzz_require(tokenizer_create(&s->v, &fuzz_toks[k], &err) == 0);
}

static void fuzz_decode(const struct tokenizer *t, const struct token_list *l)
{
    static const struct token_str stops[] = {{"aab", 3}, {"\n\n", 2}, {"\xef\xbf\xbd" "a", 4}};
    struct detok d;
    detok_init(&d, t, stops, 3);
    bool stop = false;
    for (size_t i = 0; i < l->n && !stop; i++) {
        char out[4096];
        const char *p;
        size_t n = 0, len = 0;
        fuzz_require(detok_max_out(&d, tokenizer_bytes(t, l->ids[i], false, &p)) <= sizeof out);
        stop = detok_push(&d, l->ids[i], out, &n);
        for (size_t k = 0; k < n; k += len)
            fuzz_require(utf8_step(out + k, n - k, &len) == UTF8_WHOLE);
    }
}

/* How many bytes at the front of a text are normalised by no family: the special token's, bad ones, or 0. */
static size_t fuzz_apart(const char *p, size_t n, size_t *n_char_out)
{
    if (n >= 4 && memcmp(p, "<sa>", 4) == 0)
        return 4;
    return utf8_step(p, n, n_char_out) == UTF8_WHOLE ? 0 : *n_char_out;
}

/* The text that the ids of text[0..n) must stand for, in the families that want NFC; free it. */
static char *fuzz_expect(const char *text, size_t n, size_t *n_out)
{
    char *out = malloc(8 * n + 1);
    size_t n_done = 0, len = 0;
    for (size_t at = 0, end; at < n; at = end) {
        size_t n_normal = fuzz_apart(text + at, n - at, &len);
        const char *from = text + at;
        uint8_t *normal = NULL;
        end = at + n_normal;
        if (n_normal == 0) {
            while (end < n && fuzz_apart(text + end, n - end, &len) == 0)
                end += len;
            normal = u8_normalize(UNINORM_NFC, (const uint8_t *)from, end - at, NULL, &n_normal);
            fuzz_require(normal != NULL);
            from = (const char *)normal;
        }
        fuzz_require(n_done + n_normal <= 8 * n);
        memcpy(out + n_done, from, n_normal);
        n_done += n_normal;
        free(normal);
    }
    *n_out = n_done;
    return out;
}

/* The bytes of the ids of untrusted text are the text's, and none is a control token's. */
static void fuzz_compare(const struct tokenizer *t, const struct token_list *ids, const char *text, size_t n, bool spm)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const char *p;
        size_t len = tokenizer_bytes(t, ids->ids[i], false, &p);
        fuzz_require(len > 0); /* a control token would be silent */
        for (size_t b = 0; b < len; b++) {
            bool spm_space = spm && n - at >= 3 && memcmp(text + at, "\xe2\x96\x81", 3) == 0 && p[b] == ' ';
            fuzz_require(spm_space || (at < n && p[b] == text[at]));
            at += spm_space ? 3 : 1;
        }
    }
    fuzz_require(at == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    size_t k = data[0] % (N_BPE + 1), cut = data[1];
    if (fuzz_toks[k] == NULL) {
        struct small_vocab s;
        fuzz_make(&s, k);
    }
    const struct tokenizer *t = fuzz_toks[k];
    const char *text = (const char *)data + 2;
    n -= 2;
    cut = cut < n ? cut : n;
    struct token_list whole = {0}, spans = {0};
    struct err err;
    fuzz_require(tokenizer_encode(t, &(struct text_span){text, n, false}, 1, false, SIZE_MAX, &whole, &err) == 0);
    const struct text_span two[] = {{text, cut, true}, {text + cut, n - cut, false}};
    fuzz_require(tokenizer_encode(t, two, 2, true, SIZE_MAX, &spans, &err) == 0);
    fuzz_require(whole.n_lost == 0);
    if (k < N_BPE && (strcmp(fuzz_kinds[k], "qwen2") == 0 || strcmp(fuzz_kinds[k], "command-r") == 0)) {
        size_t n_expected = 0;
        char *expected = fuzz_expect(text, n, &n_expected);
        fuzz_compare(t, &whole, expected, n_expected, false);
        free(expected);
    } else {
        fuzz_compare(t, &whole, text, n, k == N_BPE);
    }
    bool has_marker = memmem(text, cut, "<s>", 3) != NULL;
    if (!has_marker) {
        size_t first = spans.n - whole.n; /* a BOS before, or none */
        fuzz_require(first <= 1 && (whole.n == 0 || memcmp(spans.ids + first, whole.ids, whole.n * sizeof *whole.ids) == 0));
    }
    fuzz_decode(t, &whole);
    fuzz_decode(t, &spans);
    token_list_finish(&whole);
    token_list_finish(&spans);
    return 0;
}

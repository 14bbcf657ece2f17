/* fuzz_vocab.c: a hostile vocabulary. Whatever the file claims, tokenizer_create refuses it with a sentence or the tokenizer works: it takes any
 * text, its ids lie in range, no end token comes out of untrusted text, and the same text gives the same ids.
 *
 * Input: flags, six special ids, then entries "kind, type, score, length, bytes": tokens and merges; what is left is the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/detok.h"

#define MAX_ENTRIES 256

struct fuzz_input {
    const uint8_t *p;
    size_t n;
};

static uint8_t fuzz_byte(struct fuzz_input *in)
{
    if (in->n == 0)
        return 0;
    in->n--;
    return *in->p++;
}

static void fuzz_require(bool ok)
{
    if (!ok)
        abort();
}

static struct token_str fuzz_str(struct fuzz_input *in)
{
    size_t n = fuzz_byte(in) % 32;
    n = n < in->n ? n : in->n;
    struct token_str s = {(const char *)in->p, n};
    in->p += n;
    in->n -= n;
    return s;
}

static void fuzz_encode(const struct tokenizer *t, const char *text, size_t n, bool trusted)
{
    struct token_list a = {0}, b = {0};
    struct err err = {0};
    struct text_span span = {text, n, trusted};
    fuzz_require(tokenizer_encode(t, &span, 1, true, SIZE_MAX, &a, &err) == 0);
    fuzz_require(tokenizer_encode(t, &span, 1, true, SIZE_MAX, &b, &err) == 0);
    fuzz_require(a.n == b.n && (a.n == 0 || memcmp(a.ids, b.ids, a.n * sizeof *a.ids) == 0));
    for (size_t i = 0; i < a.n; i++) {
        fuzz_require(a.ids[i] >= 0 && (size_t)a.ids[i] < tokenizer_n_tokens(t));
        fuzz_require(trusted || (i == 0 && a.ids[i] == tokenizer_bos(t)) || !tokenizer_is_end(t, a.ids[i]));
    }
    char *out = NULL;
    size_t n_out = 0;
    fuzz_require(detok_all(t, a.ids, a.n, true, &out, &n_out, &err) == 0);
    free(out);
    token_list_finish(&a);
    token_list_finish(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const pres[] = {"gpt2", "llama-bpe", "qwen2", "deepseek-llm"};
    struct token_str tokens[MAX_ENTRIES], merges[MAX_ENTRIES];
    float scores[MAX_ENTRIES];
    int32_t types[MAX_ENTRIES];
    struct fuzz_input in = {data, n};
    uint8_t flags = fuzz_byte(&in);
    struct vocab v = {.model = flags & 1 ? "llama" : "gpt2", .pre = pres[flags >> 6], .tokens = tokens, .merges = merges};
    v.add_bos = (flags >> 1 & 3) - 1;
    v.add_space_prefix = -1;
    v.scores = flags & 8 ? NULL : scores;
    v.types = flags & 16 ? NULL : types;
    v.chat_template = flags & 32 ? "{{ 'ab' }} <x>" : NULL;
    int32_t *const ids[] = {&v.bos, &v.eos, &v.eot, &v.eom, &v.unk, &v.pad};
    for (size_t i = 0; i < 6; i++)
        *ids[i] = (int8_t)fuzz_byte(&in);
    for (size_t n_entries = fuzz_byte(&in); n_entries > 0; n_entries--) {
        uint8_t kind = fuzz_byte(&in);
        if (kind & 1) {
            merges[v.n_merges++] = fuzz_str(&in);
            continue;
        }
        types[v.n_tokens] = kind >> 1 & 7;
        uint32_t bits = (uint32_t)fuzz_byte(&in) << 24 | (uint32_t)fuzz_byte(&in) << 16;
        memcpy(&scores[v.n_tokens], &bits, sizeof bits);
        tokens[v.n_tokens++] = fuzz_str(&in);
    }
    struct tokenizer *t = NULL;
    struct err err = {0};
    if (tokenizer_create(&v, &t, &err) != 0) {
        fuzz_require(err.code != ERR_NONE && err.msg[0] != '\0' && t == NULL);
        return 0;
    }
    fuzz_encode(t, (const char *)in.p, in.n, true);
    fuzz_encode(t, (const char *)in.p, in.n, false);
    tokenizer_destroy(t);
    return 0;
}

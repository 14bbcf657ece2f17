/* gguf_script.h: GGUF files written as text, so that a malformed file is a valid one with a word replaced.
 *
 * Words are separated by blanks: GGUF (the magic), b=N, u2=N, u4=N, u8=N (little-endian integers), f4=X, s=TEXT (length and bytes), raw=TEXT,
 * pad=N (zeros up to a multiple of N), zero=N (N zeros). */
#ifndef NEXTD_TESTS_GGUF_SCRIPT_H
#define NEXTD_TESTS_GGUF_SCRIPT_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_SCRIPT_MAX_BYTES ((size_t)1 << 18)

/* A whole llama of one layer: 32 wide, 2 heads, 8 tokens, weights of zero. */
#define GGUF_SCRIPT_LLAMA                                                                                                                        \
    "GGUF u4=3 u8=11 u8=9 "                                                                                                                      \
    "s=general.architecture u4=8 s=llama "                                                                                                       \
    "s=general.name u4=8 s=base "                                                                                                                \
    "s=general.alignment u4=4 u4=32 "                                                                                                            \
    "s=llama.block_count u4=4 u4=1 "                                                                                                             \
    "s=llama.context_length u4=4 u4=128 "                                                                                                        \
    "s=llama.embedding_length u4=4 u4=32 "                                                                                                       \
    "s=llama.feed_forward_length u4=4 u4=32 "                                                                                                    \
    "s=llama.attention.head_count u4=4 u4=2 "                                                                                                    \
    "s=llama.attention.layer_norm_rms_epsilon u4=6 f4=0.00001 "                                                                                  \
    "s=token_embd.weight u4=2 u8=32 u8=8 u4=0 u8=0 "                                                                                             \
    "s=output_norm.weight u4=1 u8=32 u4=0 u8=1024 "                                                                                              \
    "s=blk.0.attn_norm.weight u4=1 u8=32 u4=0 u8=1152 "                                                                                          \
    "s=blk.0.attn_q.weight u4=2 u8=32 u8=32 u4=0 u8=1280 "                                                                                       \
    "s=blk.0.attn_k.weight u4=2 u8=32 u8=32 u4=0 u8=5376 "                                                                                       \
    "s=blk.0.attn_v.weight u4=2 u8=32 u8=32 u4=0 u8=9472 "                                                                                       \
    "s=blk.0.attn_output.weight u4=2 u8=32 u8=32 u4=0 u8=13568 "                                                                                 \
    "s=blk.0.ffn_norm.weight u4=1 u8=32 u4=0 u8=17664 "                                                                                          \
    "s=blk.0.ffn_gate.weight u4=2 u8=32 u8=32 u4=0 u8=17792 "                                                                                    \
    "s=blk.0.ffn_up.weight u4=2 u8=32 u8=32 u4=0 u8=21888 "                                                                                      \
    "s=blk.0.ffn_down.weight u4=2 u8=32 u8=32 u4=0 u8=25984 "                                                                                    \
    "pad=32 zero=30080"

struct gguf_bytes {
    uint8_t *p; /* malloc'd, exactly n, so that a sanitizer sees a read beyond it */
    size_t n;
};

static inline void gguf_script_put(struct gguf_bytes *b, const void *bytes, size_t n)
{
    assert(n <= GGUF_SCRIPT_MAX_BYTES - b->n);
    memcpy(b->p + b->n, bytes, n);
    b->n += n;
}

static inline void gguf_script_word(struct gguf_bytes *b, const char *word)
{
    static const uint8_t zeros[65536];
    const char *equals = strchr(word, '=');
    if (strcmp(word, "GGUF") == 0) {
        gguf_script_put(b, word, 4);
        return;
    }
    assert(equals != NULL);
    const char *text = equals + 1;
    uint64_t integer = strtoull(text, NULL, 0), length = strlen(text);
    float real = strtof(text, NULL);
    if (strncmp(word, "b=", 2) == 0)
        gguf_script_put(b, &integer, 1);
    else if (strncmp(word, "u2=", 3) == 0)
        gguf_script_put(b, &integer, 2);
    else if (strncmp(word, "u4=", 3) == 0)
        gguf_script_put(b, &integer, 4);
    else if (strncmp(word, "u8=", 3) == 0)
        gguf_script_put(b, &integer, 8);
    else if (strncmp(word, "f4=", 3) == 0)
        gguf_script_put(b, &real, 4);
    else if (strncmp(word, "pad=", 4) == 0)
        gguf_script_put(b, zeros, (size_t)((integer - b->n % integer) % integer));
    else if (strncmp(word, "zero=", 5) == 0)
        gguf_script_put(b, zeros, (size_t)integer);
    else if (strncmp(word, "s=", 2) == 0) {
        gguf_script_put(b, &length, 8);
        gguf_script_put(b, text, (size_t)length);
    } else if (strncmp(word, "raw=", 4) == 0)
        gguf_script_put(b, text, (size_t)length);
    else
        assert(!"an unknown word");
}

/* Assembles a script with the first `find` replaced by `replace` (find NULL: as it is); free() the bytes. */
static inline struct gguf_bytes gguf_script(const char *script, const char *find, const char *replace)
{
    struct gguf_bytes b = {malloc(GGUF_SCRIPT_MAX_BYTES), 0};
    size_t n = strlen(script) + (replace != NULL ? strlen(replace) : 0) + 1;
    char *text = malloc(n);
    assert(b.p != NULL && text != NULL);
    if (find == NULL) {
        snprintf(text, n, "%s", script);
    } else {
        const char *at = strstr(script, find);
        assert(at != NULL);
        snprintf(text, n, "%.*s%s%s", (int)(at - script), script, replace, at + strlen(find));
    }
    char *rest;
    for (char *word = strtok_r(text, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
        gguf_script_word(&b, word);
    free(text);
    b.p = realloc(b.p, b.n > 0 ? b.n : 1);
    return b;
}

#endif

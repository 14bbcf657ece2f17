/* small_vocab.h: vocabularies for tests, small enough to know every token. Included by the tests of the tokenizer; all data is static. */
#ifndef NEXTD_TEST_SMALL_VOCAB_H
#define NEXTD_TEST_SMALL_VOCAB_H

#include <stdio.h>
#include <string.h>

#include "engine/text/tokenizer.h"

#define SMALL_MAX 512

struct small_vocab {
    struct vocab v;
    struct token_str tokens[SMALL_MAX], merges[SMALL_MAX];
    float scores[SMALL_MAX];
    int32_t types[SMALL_MAX];
    char spelled[256][8];
};

static inline int32_t small_add(struct small_vocab *s, const char *text, int32_t type, float score)
{
    size_t i = s->v.n_tokens++;
    s->tokens[i] = (struct token_str){text, strlen(text)};
    s->types[i] = type;
    s->scores[i] = score;
    return (int32_t)i;
}

static inline void small_merge(struct small_vocab *s, const char *pair)
{
    s->merges[s->v.n_merges++] = (struct token_str){pair, strlen(pair)};
}

static inline void small_init(struct small_vocab *s, const char *model, const char *pre)
{
    memset(s, 0, sizeof *s);
    s->v = (struct vocab){.model = model, .pre = pre, .tokens = s->tokens, .types = s->types, .bos = -1, .eos = -1, .eot = -1, .eom = -1, .unk = -1,
                          .pad = -1, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1};
}

/* GPT-2's alphabet: token id == byte. */
static inline void small_init_bpe(struct small_vocab *s, const char *pre)
{
    small_init(s, "gpt2", pre);
    s->v.merges = s->merges;
    for (int b = 0, next = 0x100; b < 256; b++) {
        int c = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad) ? b : next++;
        if (c < 0x80)
            snprintf(s->spelled[b], sizeof s->spelled[b], "%c", c);
        else
            snprintf(s->spelled[b], sizeof s->spelled[b], "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
        small_add(s, s->spelled[b], TOKEN_NORMAL, 0);
    }
}

/* Token id == byte, as <0xHH>. */
static inline void small_init_spm(struct small_vocab *s)
{
    small_init(s, "llama", NULL);
    s->v.scores = s->scores;
    for (int b = 0; b < 256; b++) {
        snprintf(s->spelled[b], sizeof s->spelled[b], "<0x%02X>", b);
        small_add(s, s->spelled[b], TOKEN_BYTE, 0);
    }
}

#endif

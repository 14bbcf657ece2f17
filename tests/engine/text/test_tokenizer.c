/* test_tokenizer.c: small vocabularies whose every id is known, and hostile ones. That real vocabularies give the reference's ids is tests/text/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>

#include "engine/text/detok.h"
#include "tests/engine/text/small_vocab.h"

static struct tokenizer *make(const struct small_vocab *s)
{
    struct tokenizer *t = NULL;
    struct err err = {0};
    if (tokenizer_create(&s->v, &t, &err) != 0)
        fail_msg("%s", err.msg);
    return t;
}

static void assert_refused(const struct small_vocab *s, enum err_code code, const char *words)
{
    struct tokenizer *t = NULL;
    struct err err = {0};
    assert_int_equal(tokenizer_create(&s->v, &t, &err), -1);
    assert_int_equal(err.code, code);
    if (strstr(err.msg, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
    assert_null(t);
}

/* Tokenizes spans and compares the ids, which end with -1. */
static void assert_spans(const struct tokenizer *t, const struct text_span *spans, size_t n_spans, bool add_bos, const int32_t *expected)
{
    struct token_list l = {0};
    struct err err = {0};
    if (tokenizer_encode(t, spans, n_spans, add_bos, SIZE_MAX, &l, &err) != 0)
        fail_msg("%s", err.msg);
    size_t n = 0;
    while (expected[n] >= 0)
        n++;
    assert_int_equal(l.n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(l.ids[i], expected[i]);
    token_list_finish(&l);
}

static void assert_ids(const struct tokenizer *t, const char *text, const int32_t *expected)
{
    struct text_span span = {.p = text, .n = strlen(text)};
    assert_spans(t, &span, 1, false, expected);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})

/* ---- byte-level BPE ---- */

static void bpe_merges_by_rank_not_by_place(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "gpt2");
    int32_t bc = small_add(&s, "bc", TOKEN_NORMAL, 0), ab = small_add(&s, "ab", TOKEN_NORMAL, 0), abc = small_add(&s, "abc", TOKEN_NORMAL, 0);
    int32_t space_a = small_add(&s, "\xc4\xa0" "a", TOKEN_NORMAL, 0);
    small_merge(&s, "b c");
    small_merge(&s, "a b");
    small_merge(&s, "a bc");
    small_merge(&s, "\xc4\xa0 a");
    struct tokenizer *t = make(&s);
    assert_string_equal(tokenizer_kind(t), "bpe/gpt2");
    assert_ids(t, "abc", IDS(abc));
    assert_ids(t, "abab", IDS(ab, ab));
    assert_ids(t, "bcb", IDS(bc, 'b'));
    assert_ids(t, "x a ab", IDS('x', space_a, ' ', ab)); /* "a b" is better than "Ġ a" */
    assert_ids(t, "", (const int32_t[]){-1});
    tokenizer_destroy(t);
}

static void bpe_prefers_the_leftmost_of_equal_pairs(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "gpt2");
    int32_t aa = small_add(&s, "aa", TOKEN_NORMAL, 0);
    small_merge(&s, "a a");
    struct tokenizer *t = make(&s);
    assert_ids(t, "aaa", IDS(aa, 'a'));
    assert_ids(t, "aaaaa", IDS(aa, aa, 'a'));
    /* Long enough for the heap: the same joins. */
    char text[1002];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    int32_t expected[502];
    for (int i = 0; i < 500; i++)
        expected[i] = aa;
    expected[500] = 'a';
    expected[501] = -1;
    assert_ids(t, text, expected);
    tokenizer_destroy(t);
}

static void bpe_takes_any_bytes(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "llama-bpe");
    small_add(&s, "aa", TOKEN_NORMAL, 0);
    small_merge(&s, "a a");
    struct tokenizer *t = make(&s);
    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++) {
            char text[3] = {(char)a, (char)b, (char)0xe2};
            struct text_span span = {.p = text, .n = 3};
            if (a == 'a' && b == 'a')
                continue;
            assert_spans(t, &span, 1, false, IDS(a, b, 0xe2));
        }
    tokenizer_destroy(t);
}

static void bpe_takes_whole_words_where_the_family_does(void **state)
{
    (void)state;
    const char *const pre[] = {"llama-bpe", "gpt2"};
    for (int i = 0; i < 2; i++) {
        struct small_vocab s;
        small_init_bpe(&s, pre[i]);
        int32_t ab = small_add(&s, "ab", TOKEN_NORMAL, 0), xyz = small_add(&s, "xyz", TOKEN_NORMAL, 0);
        small_merge(&s, "a b");
        struct tokenizer *t = make(&s);
        assert_ids(t, "ab", IDS(ab));
        if (i == 0)
            assert_ids(t, "xyz", IDS(xyz)); /* no merges lead there */
        else
            assert_ids(t, "xyz", IDS('x', 'y', 'z'));
        tokenizer_destroy(t);
    }
}

static void bpe_counts_bytes_that_the_vocabulary_lacks(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "gpt2");
    s.tokens[4].p = "[no byte 4]";
    s.tokens[4].n = strlen(s.tokens[4].p);
    small_add(&s, "ab", TOKEN_NORMAL, 0);
    small_merge(&s, "a b");
    struct tokenizer *t = make(&s);
    struct text_span span = {.p = "x\x04y\x04", .n = 4};
    struct token_list l = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, &span, 1, false, 10, &l, &err), 0);
    assert_int_equal(l.n, 2);
    assert_int_equal(l.n_lost, 2);
    assert_int_equal(l.lost_at, 1);
    assert_int_equal(l.lost_byte, 4);
    token_list_finish(&l);
    tokenizer_destroy(t);
}

static void families_that_want_nfc_get_it_between_special_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *pre;
        bool nfc;
    } families[] = {{"gpt2", false}, {"llama-bpe", false}, {"smollm", false}, {"deepseek-llm", false}, {"starcoder", false},
                    {"qwen2", true}, {"deepseek-r1-qwen", true}, {"command-r", true}, {"mpt", true}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct small_vocab s;
        small_init_bpe(&s, families[i].pre);
        int32_t acute = small_add(&s, "\xc3\x83\xc2\xa9", TOKEN_NORMAL, 0), tool = small_add(&s, "<tool>", TOKEN_USER_DEFINED, 0);
        small_merge(&s, "\xc3\x83 \xc2\xa9");
        struct tokenizer *t = make(&s);
        assert_ids(t, "\xc3\xa9", IDS(acute));
        if (families[i].nfc) {
            assert_ids(t, "e\xcc\x81x", IDS(acute, 'x'));
            assert_ids(t, "\xffx\xcc\xa3" "e\xcc\x81", IDS(0xff, 'x', 0xcc, 0xa3, acute));
            assert_ids(t, "<tool>\xcc\xb8" "e\xcc\x81", IDS(tool, 0xcc, 0xb8, acute)); /* > and a stroke would join */
            assert_spans(t, (const struct text_span[]){{"e", 1, true}, {"\xcc\x81", 2, false}}, 2, false, IDS(acute));
        } else {
            assert_ids(t, "e\xcc\x81x", IDS('e', 0xcc, 0x81, 'x'));
        }
        tokenizer_destroy(t);
    }
}

static void a_lost_byte_of_normalised_text_is_placed_in_the_text_that_was_sent(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "mpt");
    small_add(&s, "ab", TOKEN_NORMAL, 0);
    small_merge(&s, "a b");
    const struct {
        int byte;
        size_t at, n;
    } cases[] = {{0xff, 9, 1}, {0xa9, 1, 2}, {'z', 4, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct token_str whole = s.tokens[cases[i].byte];
        s.tokens[cases[i].byte] = (struct token_str){"[none]", 6};
        struct tokenizer *t = make(&s);
        struct token_list l = {0};
        struct err err;
        struct text_span span = {.p = "xe\xcc\x81ze\xcc\x81y\xff", .n = 10};
        assert_int_equal(tokenizer_encode(t, &span, 1, false, 99, &l, &err), 0);
        assert_int_equal(l.n_lost, cases[i].n);
        assert_int_equal(l.lost_at, cases[i].at);
        assert_int_equal(l.lost_byte, cases[i].byte);
        token_list_finish(&l);
        tokenizer_destroy(t);
        s.tokens[cases[i].byte] = whole;
    }
}

static void every_named_pretokeniser_compiles(void **state)
{
    (void)state;
    const char *const names[] = {"gpt2", "gpt-2", "phi-2", "llama-bpe", "llama3", "llama-v3", "smollm", "qwen2", "deepseek-r1-qwen", "deepseek-llm",
                                 "deepseek-coder", "falcon", "starcoder", "refact", "command-r", "mpt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct small_vocab s;
        small_init_bpe(&s, names[i]);
        small_add(&s, "ab", TOKEN_NORMAL, 0);
        small_merge(&s, "a b");
        tokenizer_destroy(make(&s));
    }
}

static void unknown_kinds_are_refused_by_name_with_what_works(void **state)
{
    (void)state;
    const char *const names[] = {"tekken", "", " ", "gpt", "pt2", "gpt2 gpt-2", "smollm ", "llama"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct small_vocab s;
        small_init_bpe(&s, names[i]);
        assert_refused(&s, ERR_UNSUPPORTED, "smollm, qwen2");
    }
    struct small_vocab s;
    small_init_bpe(&s, NULL);
    assert_refused(&s, ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    s.v.model = "bert";
    assert_refused(&s, ERR_UNSUPPORTED, "\"bert\"");
    s.v.model = NULL;
    assert_refused(&s, ERR_UNSUPPORTED, "llama");
}

/* ---- SPM ---- */

static void spm_merges_by_score_and_spells_the_rest_in_bytes(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_spm(&s);
    int32_t a = small_add(&s, "a", TOKEN_NORMAL, -1), b = small_add(&s, "b", TOKEN_NORMAL, -2);
    int32_t space = small_add(&s, "\xe2\x96\x81", TOKEN_NORMAL, -3);
    int32_t ab = small_add(&s, "ab", TOKEN_NORMAL, -5), space_a = small_add(&s, "\xe2\x96\x81" "a", TOKEN_NORMAL, -4);
    struct tokenizer *t = make(&s);
    assert_string_equal(tokenizer_kind(t), "spm");
    assert_ids(t, "ab", IDS(space_a, b)); /* a space is put before, and "▁a" scores better than "ab" */
    assert_ids(t, "bab", IDS(space, b, ab));
    assert_ids(t, " a\xe2\x96\x81", IDS(space, space_a, space));
    assert_ids(t, "b\xc3\xa9\xff", IDS(space, b, 0xc3, 0xa9, 0xff));
    assert_true(tokenizer_strips_leading_space(t));
    tokenizer_destroy(t);
    s.v.add_space_prefix = 0;
    t = make(&s);
    assert_ids(t, "ab a", IDS(ab, space_a));
    assert_false(tokenizer_strips_leading_space(t));
    assert_ids(t, "a", IDS(a));
    tokenizer_destroy(t);
}

static void spm_without_byte_tokens_says_unknown_once_per_run(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init(&s, "llama", NULL);
    s.v.scores = s.scores;
    s.v.add_space_prefix = 0;
    s.v.unk = small_add(&s, "<unk>", TOKEN_UNKNOWN, 0);
    int32_t a = small_add(&s, "a", TOKEN_NORMAL, 0);
    struct tokenizer *t = make(&s);
    assert_ids(t, "axyaz", IDS(a, s.v.unk, a, s.v.unk));
    struct text_span span = {.p = "a\xe2\x96\x81" "axya", .n = 8}; /* U+2581 is a space: one byte where there were three */
    struct token_list l = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, &span, 1, false, 10, &l, &err), 0);
    assert_int_equal(l.n_lost, 3);
    assert_int_equal(l.lost_at, 1);
    l.n_lost = 0;
    span = (struct text_span){.p = "aayz", .n = 4};
    assert_int_equal(tokenizer_encode(t, &span, 1, false, 10, &l, &err), 0);
    assert_int_equal(l.n_lost, 2);
    assert_int_equal(l.lost_at, 2);
    assert_int_equal(l.lost_byte, 'y');
    token_list_finish(&l);
    tokenizer_destroy(t);
    s.v.eos = s.v.unk; /* text that cannot be spelled must not end a turn */
    assert_refused(&s, ERR_FORMAT, "byte tokens");
    s.v.eos = s.v.unk = -1;
    assert_refused(&s, ERR_FORMAT, "byte tokens");
}

static void spm_never_spells_bytes_with_an_end_token(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_spm(&s);
    s.v.eos = '\n';
    assert_refused(&s, ERR_FORMAT, "255 of 256 byte tokens");
    s.v.unk = small_add(&s, "<unk>", TOKEN_UNKNOWN, 0);
    s.v.add_space_prefix = 0;
    struct tokenizer *t = make(&s);
    assert_ids(t, "a\nb", IDS('a', s.v.unk, 'b'));
    tokenizer_destroy(t);
}

static void spm_cuts_long_runs_of_spaces_as_published_merges_do(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_spm(&s);
    s.v.add_space_prefix = 0;
    int32_t one = small_add(&s, "\xe2\x96\x81", TOKEN_NORMAL, 0);
    int32_t two = small_add(&s, "  ", TOKEN_USER_DEFINED, -1000), three = small_add(&s, "   ", TOKEN_USER_DEFINED, -1000);
    struct tokenizer *t = make(&s);
    assert_ids(t, " ", IDS(one));
    assert_ids(t, "   ", IDS(three));
    assert_ids(t, "    ", IDS(two, two)); /* pairs come before triples */
    assert_ids(t, "     ", IDS(two, three));
    tokenizer_destroy(t);
}

/* ---- special tokens ---- */

struct special_vocab {
    struct small_vocab s;
    int32_t ab, start, end, tool, tab, name;
};

static void special_init_vocab(struct special_vocab *x, const char *chat_template)
{
    small_init_bpe(&x->s, "gpt2");
    x->ab = small_add(&x->s, "ab", TOKEN_NORMAL, 0);
    small_merge(&x->s, "a b");
    x->start = small_add(&x->s, "<s>", TOKEN_CONTROL, 0);
    x->end = small_add(&x->s, "<|im_end|>", TOKEN_USER_DEFINED, 0);
    x->tool = small_add(&x->s, "<tool>", TOKEN_USER_DEFINED, 0);
    x->tab = small_add(&x->s, "\t\t", TOKEN_USER_DEFINED, 0);
    x->name = small_add(&x->s, "<tool>s", TOKEN_USER_DEFINED, 0);
    x->s.v.bos = x->start;
    x->s.v.chat_template = chat_template;
}

static void control_tokens_match_in_trusted_text_alone(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    assert_spans(t, &(struct text_span){"a<s>b", 5, true}, 1, false, IDS('a', x.start, 'b'));
    assert_spans(t, &(struct text_span){"a<s>b", 5, false}, 1, false, IDS('a', '<', 's', '>', 'b'));
    assert_spans(t, (const struct text_span[]){{"<", 1, true}, {"s", 1, false}, {">", 1, true}}, 3, false, IDS('<', 's', '>'));
    assert_spans(t, (const struct text_span[]){{"<s", 2, true}, {"", 0, false}, {">", 1, true}}, 3, false, IDS(x.start));
    assert_spans(t, (const struct text_span[]){{"<s", 2, true}, {">", 1, false}}, 2, false, IDS('<', 's', '>'));
    assert_spans(t, (const struct text_span[]){{"x", 1, false}, {"<s>", 3, true}, {"y", 1, false}}, 3, false, IDS('x', x.start, 'y'));
    /* An end token counts as control whatever the file says of it. */
    assert_spans(t, &(struct text_span){"<|im_end|>", 10, true}, 1, false, IDS(x.end));
    assert_true(tokenizer_is_end(t, x.end));
    struct token_list l = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, &(struct text_span){"<|im_end|>", 10, false}, 1, false, 99, &l, &err), 0);
    assert_int_equal(l.n, 10);
    token_list_finish(&l);
    tokenizer_destroy(t);
}

static void user_defined_tokens_match_anywhere_longest_first(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    assert_ids(t, "a<tool>b", IDS('a', x.tool, 'b'));
    assert_ids(t, "<tool>sx<tool>", IDS(x.name, 'x', x.tool));
    assert_spans(t, (const struct text_span[]){{"<to", 3, true}, {"ol>", 3, false}}, 2, false, IDS(x.tool));
    tokenizer_destroy(t);
    special_init_vocab(&x, "{{ '<tool>' }}\t\t{{ x }}"); /* the template's markers are the template's; its white space is nobody's */
    t = make(&x.s);
    assert_ids(t, "<tool>", IDS('<', 't', 'o', 'o', 'l', '>'));
    assert_spans(t, &(struct text_span){"<tool>", 6, true}, 1, false, IDS(x.tool));
    assert_ids(t, "<tool>s", IDS(x.name));
    assert_ids(t, "\t\t", IDS(x.tab));
    const char *p;
    assert_int_equal(tokenizer_bytes(t, x.tool, false, &p), 6); /* it still shows in output */
    tokenizer_destroy(t);
}

static void a_border_in_plain_text_leaves_no_trace(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    assert_spans(t, (const struct text_span[]){{"a", 1, true}, {"b", 1, false}}, 2, false, IDS(x.ab));
    assert_spans(t, (const struct text_span[]){{"<s>a", 4, true}, {"b", 1, false}, {"ab", 2, true}}, 3, false, IDS(x.start, x.ab, x.ab));
    tokenizer_destroy(t);
}

static void bos_comes_once_and_first(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    assert_false(tokenizer_adds_bos(t));
    assert_spans(t, &(struct text_span){"x", 1, false}, 1, true, IDS('x'));
    tokenizer_destroy(t);
    x.s.v.add_bos = 1;
    t = make(&x.s);
    assert_true(tokenizer_adds_bos(t));
    assert_spans(t, &(struct text_span){"x", 1, false}, 1, true, IDS(x.start, 'x'));
    assert_spans(t, &(struct text_span){"x", 1, false}, 1, false, IDS('x'));
    assert_spans(t, &(struct text_span){"<s>x", 4, true}, 1, true, IDS(x.start, 'x'));
    assert_spans(t, &(struct text_span){"<s>x", 4, false}, 1, true, IDS(x.start, '<', 's', '>', 'x'));
    assert_spans(t, NULL, 0, true, IDS(x.start));
    tokenizer_destroy(t);
    x.s.v.bos = -1;
    t = make(&x.s);
    assert_false(tokenizer_adds_bos(t));
    tokenizer_destroy(t);
}

static void end_tokens_are_listed_ascending_and_silent(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    x.s.v.eom = x.ab; /* a key counts even where it names a word */
    x.s.v.eos = x.start;
    struct tokenizer *t = make(&x.s);
    size_t n = 0;
    const int32_t *ends = tokenizer_end_tokens(t, &n);
    assert_int_equal(n, 3);
    assert_int_equal(ends[0], x.ab);
    assert_int_equal(ends[1], x.start);
    assert_int_equal(ends[2], x.end);
    const char *p;
    assert_int_equal(tokenizer_bytes(t, x.end, false, &p), 0);
    assert_int_equal(tokenizer_bytes(t, x.end, true, &p), 10);
    assert_memory_equal(p, "<|im_end|>", 10);
    assert_ids(t, "ab", IDS('a', 'b')); /* and then no text can become it */
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_end(t, (int32_t)tokenizer_n_tokens(t)));
    tokenizer_destroy(t);
}

/* ---- limits and hostile vocabularies ---- */

static void max_tokens_bounds_the_list_and_failure_leaves_it_alone(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    struct token_list l = {0};
    struct err err;
    assert_int_equal(tokenizer_encode(t, &(struct text_span){"xyz", 3, false}, 1, false, 3, &l, &err), 0);
    assert_int_equal(tokenizer_encode(t, &(struct text_span){"xyz", 3, false}, 1, false, 5, &l, &err), -1);
    assert_int_equal(err.code, ERR_CONTEXT);
    assert_int_equal(l.n, 3);
    assert_int_equal(tokenizer_encode(t, &(struct text_span){"xy", 2, false}, 1, false, 5, &l, &err), 0);
    assert_int_equal(l.n, 5);
    token_list_finish(&l);
    tokenizer_destroy(t);
}

static void ids_out_of_range_have_no_bytes(void **state)
{
    (void)state;
    struct special_vocab x;
    special_init_vocab(&x, NULL);
    struct tokenizer *t = make(&x.s);
    const char *p = NULL;
    const int32_t ids[] = {-1, INT32_MIN, INT32_MAX, (int32_t)tokenizer_n_tokens(t)};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        assert_int_equal(tokenizer_bytes(t, ids[i], true, &p), 0);
        assert_non_null(p);
    }
    tokenizer_destroy(t);
}

static void special_ids_out_of_range_are_refused(void **state)
{
    (void)state;
    struct small_vocab s;
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 3; k++) {
            small_init_bpe(&s, "gpt2");
            small_add(&s, "ab", TOKEN_NORMAL, 0);
            small_merge(&s, "a b");
            int32_t *ids[] = {&s.v.bos, &s.v.eos, &s.v.eot, &s.v.eom, &s.v.unk, &s.v.pad};
            *ids[i] = (int32_t[]){257, -2, INT32_MAX}[k];
            assert_refused(&s, ERR_FORMAT, "outside the vocabulary");
        }
}

static void contradicting_vocabularies_are_refused(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "gpt2");
    assert_refused(&s, ERR_FORMAT, "no merges");
    const char *const bad[] = {"a zz", "zz a", "a b", "ab", "a", "", " ", "a ", " a", "a b c"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        small_init_bpe(&s, "gpt2");
        small_merge(&s, bad[i]);
        assert_refused(&s, ERR_FORMAT, "merge 0");
    }
    small_init_bpe(&s, "gpt2");
    small_add(&s, "ab", TOKEN_NORMAL, 0);
    small_merge(&s, "a b");
    s.types[3] = 99;
    assert_refused(&s, ERR_FORMAT, "token 3");
    s.types[3] = -1;
    assert_refused(&s, ERR_FORMAT, "token 3");
    s.types[3] = TOKEN_NORMAL;
    s.v.n_tokens = 0;
    assert_refused(&s, ERR_FORMAT, "no tokens");
    s.v.n_tokens = SIZE_MAX / 2;
    assert_refused(&s, ERR_FORMAT, "claims");
    small_init_spm(&s);
    s.scores[7] = NAN;
    assert_refused(&s, ERR_FORMAT, "token 7");
    s.v.scores = NULL;
    assert_refused(&s, ERR_FORMAT, "scores");
}

static void overlong_tokens_are_refused(void **state)
{
    (void)state;
    static char text[(1 << 16) + 2];
    memset(text, 'x', sizeof text - 1);
    struct small_vocab s;
    small_init_spm(&s);
    small_add(&s, text, TOKEN_NORMAL, 0);
    assert_refused(&s, ERR_FORMAT, "bytes long");
    s.tokens[256].n = 300;
    tokenizer_destroy(make(&s));
    s.types[256] = TOKEN_CONTROL;
    assert_refused(&s, ERR_FORMAT, "special token 256");
}

static void odd_vocabularies_are_harmless(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_bpe(&s, "gpt2");
    int32_t ab = small_add(&s, "ab", TOKEN_NORMAL, 0);
    small_add(&s, "ab", TOKEN_NORMAL, 0);                /* twice: the first counts */
    small_add(&s, "", TOKEN_NORMAL, 0);                  /* no text */
    small_add(&s, "", TOKEN_CONTROL, 0);
    small_add(&s, "\xff\xfe", TOKEN_NORMAL, 0);          /* no UTF-8 */
    small_add(&s, "hello world \xe2\x82\xac", TOKEN_NORMAL, 0); /* outside the byte alphabet */
    int32_t control = small_add(&s, "abab", TOKEN_CONTROL, 0);
    int32_t unk = small_add(&s, "x", TOKEN_UNKNOWN, 0);
    s.v.unk = unk;
    small_merge(&s, "a b");
    small_merge(&s, "a b");    /* twice */
    small_merge(&s, "ab ab");  /* to a control token: no text may become it */
    struct tokenizer *t = make(&s);
    assert_ids(t, "ababab", IDS(ab, ab, ab));
    assert_ids(t, "x", IDS('x'));
    assert_spans(t, &(struct text_span){"ababab", 6, true}, 1, false, IDS(control, ab));
    const char *p;
    assert_int_equal(tokenizer_bytes(t, ab + 4, true, &p), 2); /* as it is spelled */
    assert_memory_equal(p, "\xff\xfe", 2);
    tokenizer_destroy(t);
    s.v.types = NULL; /* all normal */
    t = make(&s);
    assert_ids(t, "abab", IDS(control));
    tokenizer_destroy(t);
}

static void detok_all_decodes_from_the_beginning(void **state)
{
    (void)state;
    struct small_vocab s;
    small_init_spm(&s);
    int32_t space = small_add(&s, "\xe2\x96\x81", TOKEN_NORMAL, 0), bos = small_add(&s, "<s>", TOKEN_CONTROL, 0);
    s.v.bos = bos;
    struct tokenizer *t = make(&s);
    char *text = NULL;
    size_t n = 0;
    struct err err;
    const int32_t ids[] = {bos, space, space, 'h', 0xe2, 0x82, 0xff, 'i', 0xc3};
    assert_int_equal(detok_all(t, ids, 9, false, &text, &n, &err), 0);
    assert_string_equal(text, " h\xef\xbf\xbd\xef\xbf\xbdi\xef\xbf\xbd"); /* one space dropped; E2 82, FF and C3 cannot complete */
    assert_int_equal(n, strlen(text));
    free(text);
    tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_merges_by_rank_not_by_place),
        cmocka_unit_test(bpe_prefers_the_leftmost_of_equal_pairs),
        cmocka_unit_test(bpe_takes_any_bytes),
        cmocka_unit_test(bpe_takes_whole_words_where_the_family_does),
        cmocka_unit_test(bpe_counts_bytes_that_the_vocabulary_lacks),
        cmocka_unit_test(families_that_want_nfc_get_it_between_special_tokens),
        cmocka_unit_test(a_lost_byte_of_normalised_text_is_placed_in_the_text_that_was_sent),
        cmocka_unit_test(every_named_pretokeniser_compiles),
        cmocka_unit_test(unknown_kinds_are_refused_by_name_with_what_works),
        cmocka_unit_test(spm_merges_by_score_and_spells_the_rest_in_bytes),
        cmocka_unit_test(spm_without_byte_tokens_says_unknown_once_per_run),
        cmocka_unit_test(spm_never_spells_bytes_with_an_end_token),
        cmocka_unit_test(spm_cuts_long_runs_of_spaces_as_published_merges_do),
        cmocka_unit_test(control_tokens_match_in_trusted_text_alone),
        cmocka_unit_test(user_defined_tokens_match_anywhere_longest_first),
        cmocka_unit_test(a_border_in_plain_text_leaves_no_trace),
        cmocka_unit_test(bos_comes_once_and_first),
        cmocka_unit_test(end_tokens_are_listed_ascending_and_silent),
        cmocka_unit_test(max_tokens_bounds_the_list_and_failure_leaves_it_alone),
        cmocka_unit_test(ids_out_of_range_have_no_bytes),
        cmocka_unit_test(special_ids_out_of_range_are_refused),
        cmocka_unit_test(contradicting_vocabularies_are_refused),
        cmocka_unit_test(overlong_tokens_are_refused),
        cmocka_unit_test(odd_vocabularies_are_harmless),
        cmocka_unit_test(detok_all_decodes_from_the_beginning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a valid file says is what the reader hands out; split files join; the vocabulary, the digest and the loading of a model keep their contracts.
 * Bad files are test_malformed.c's. */
#include "tests/engine/model/gguf_script.h"
#include "tests/engine/model/run.h"

#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/sha256.h"
#include "engine/model/vocab.h"

/* One key of every type. */
#define ALL_TYPES                                                                                                                                \
    "GGUF u4=2 u8=0 u8=15 s=u8 u4=0 b=200 s=i8 u4=1 b=200 s=u16 u4=2 u2=65535 s=i16 u4=3 u2=65535 s=u32 u4=4 u4=4294967295 "                     \
    "s=i32 u4=5 u4=4294967295 s=f32 u4=6 f4=0.5 s=bool u4=7 b=1 s=string u4=8 s=text s=u64 u4=10 u8=0xffffffffffffffff "                         \
    "s=i64 u4=11 u8=0xffffffffffffffff s=f64 u4=12 u8=0x3ff8000000000000 s=ints u4=9 u4=5 u8=3 u4=1 u4=2 u4=0xffffffff "                         \
    "s=strings u4=9 u4=8 u8=2 s=ab s=cde s=none u4=9 u4=4 u8=0"

static struct gguf *open_script(struct gguf_bytes *b, const char *script)
{
    struct gguf *g;
    struct err err;
    *b = gguf_script(script, NULL, NULL);
    if (gguf_open_memory(b->p, b->n, &g, &err) != 0)
        fail_msg("%s", err.msg);
    return g;
}

static void every_value_type_is_read(void **state)
{
    static const struct {
        const char *key, *text;
        int64_t value;
        bool is_integer;
    } wanted[] = {
        {"u8", "200", 200, true},   {"i8", "-56", -56, true},        {"u16", "65535", 65535, true}, {"i16", "-1", -1, true},
        {"u32", "4294967295", 4294967295, true}, {"i32", "-1", -1, true}, {"f32", "0.5", 0, false}, {"bool", "true", 0, false},
        {"string", "text", 0, false}, {"u64", "a number above 2^63", 0, false}, {"i64", "-1", -1, true}, {"f64", "1.5", 0, false},
        {"ints", "[3 x i32]", 0, false}, {"strings", "[2 x string]", 0, false}, {"none", "[0 x u32]", 0, false},
    };
    struct gguf_bytes b;
    struct gguf *g = open_script(&b, ALL_TYPES);
    (void)state;
    assert_int_equal(gguf_version(g), 2);
    assert_int_equal(gguf_n_kv(g), 15);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        char text[64];
        int64_t value = 0;
        struct err err;
        const struct gguf_kv *kv = gguf_find(g, wanted[i].key);
        assert_non_null(kv);
        assert_ptr_equal(kv, gguf_kv(g, i)); /* the order of the file */
        assert_string_equal(gguf_kv_text(kv, text, sizeof text), wanted[i].text);
        assert_int_equal(gguf_get_int(g, wanted[i].key, INT64_MIN, INT64_MAX, &value, &err), wanted[i].is_integer ? 1 : -1);
        assert_int_equal(value, wanted[i].value);
    }
    gguf_close(g);
    free(b.p);
}

static void a_copied_string_is_whole_or_refused(void **state)
{
    struct gguf_bytes b;
    struct gguf *g = open_script(&b, "GGUF u4=3 u8=0 u8=2 s=whole u4=8 s=text s=cut u4=8 u8=3 raw=a b=0 raw=b");
    char *copy = NULL;
    struct err err;
    (void)state;
    assert_int_equal(gguf_copy_str(g, "absent", &copy, &err), 0);
    assert_null(copy);
    assert_int_equal(gguf_copy_str(g, "cut", &copy, &err), -1);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_null(copy);
    assert_int_equal(gguf_copy_str(g, "whole", &copy, &err), 0);
    assert_string_equal(copy, "text");
    free(copy);
    gguf_close(g);
    free(b.p);
}

static void typed_reads_tell_absent_from_wrong(void **state)
{
    struct gguf_bytes b;
    struct gguf *g = open_script(&b, ALL_TYPES);
    struct token_str s = {"kept", 4};
    bool flag = false;
    double real = 7;
    int64_t integer = 9;
    struct err err;
    (void)state;
    assert_int_equal(gguf_get_str(g, "string", &s, &err), 1);
    assert_memory_equal(s.p, "text", 4);
    assert_int_equal(gguf_get_bool(g, "bool", &flag, &err), 1);
    assert_true(flag);
    assert_int_equal(gguf_get_float(g, "f64", &real, &err), 1);
    assert_true(real == 1.5);
    assert_int_equal(gguf_get_int(g, "absent", 0, 1, &integer, &err), 0);
    assert_int_equal(integer, 9);
    assert_int_equal(gguf_get_int(g, "u8", 0, 199, &integer, &err), -1);
    assert_string_equal(err.msg, "\"u8\" is 200; it must be 0 to 199");
    assert_int_equal(gguf_get_str(g, "u8", &s, &err), -1);
    assert_int_equal(gguf_get_bool(g, "u8", &flag, &err), -1);
    assert_int_equal(gguf_get_float(g, "u8", &real, &err), -1);
    const struct gguf_kv *ints = gguf_find(g, "ints"), *strings = gguf_find(g, "strings");
    assert_true(gguf_item_int(ints, 2, &integer));
    assert_int_equal(integer, -1);
    const uint8_t *p = strings->p;
    assert_int_equal(gguf_next_str(&p).n, 2);
    s = gguf_next_str(&p);
    assert_int_equal(s.n, 3);
    assert_memory_equal(s.p, "cde", 3);
    gguf_close(g);
    free(b.p);
}

static void unprintable_names_are_fit_for_a_sentence(void **state)
{
    char buf[8];
    (void)state;
    assert_string_equal(gguf_printable((struct token_str){"a\x1b[31m\n", 7}, buf, sizeof buf), "a?[31m?");
    assert_string_equal(gguf_printable((struct token_str){"abcdefgh", 8}, buf, sizeof buf), "abcd...");
    assert_string_equal(gguf_printable((struct token_str){"", 0}, buf, sizeof buf), "");
}

/* ---- split files ---- */

static void write_bytes(const char *dir, const char *name, const char *script, const char *find, const char *replace)
{
    char path[200];
    struct gguf_bytes b = gguf_script(script, find, replace);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
    fclose(f);
    free(b.p);
}

#define PART_1 "GGUF u4=3 u8=1 u8=2 s=split.count u4=2 u2=2 s=split.no u4=2 u2=0 s=one u4=1 u8=8 u4=0 u8=0 pad=32 zero=32"
#define PART_2 "GGUF u4=3 u8=1 u8=2 s=split.count u4=2 u2=2 s=split.no u4=2 u2=1 s=two u4=1 u8=4 u4=0 u8=0 pad=32 raw=abcdefghijklmnop"

static void a_split_file_loads_from_its_first_part(void **state)
{
    char dir[] = "/tmp/nextd-split-XXXXXX", first[100], second[100];
    struct gguf *g;
    struct err err;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(first, sizeof first, "%s/m-00001-of-00002.gguf", dir);
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", dir);
    write_bytes(dir, "m-00001-of-00002.gguf", PART_1, NULL, NULL);

    assert_int_equal(gguf_open(first, &g, &err), -1); /* the second is missing */
    assert_non_null(strstr(err.msg, "part 2 of 2"));

    write_bytes(dir, "m-00002-of-00002.gguf", PART_2, NULL, NULL);
    assert_int_equal(gguf_open(first, &g, &err), 0);
    assert_int_equal(gguf_n_parts(g), 2);
    assert_int_equal(gguf_n_tensors(g), 2);
    assert_memory_equal(gguf_find_tensor(g, "two")->data, "abcdefghijklmnop", 16);
    assert_non_null(gguf_find_tensor(g, "one"));
    assert_true(gguf_unchanged(g));
    gguf_close(g);

    assert_int_equal(gguf_open(second, &g, &err), -1);
    assert_non_null(strstr(err.msg, "name the first part"));

    write_bytes(dir, "m-00002-of-00002.gguf", PART_2, "s=split.no u4=2 u2=1", "s=split.no u4=2 u2=0"); /* the wrong part */
    assert_int_equal(gguf_open(first, &g, &err), -1);
    write_bytes(dir, "m-00002-of-00002.gguf", PART_2, "s=two", "s=one"); /* a tensor twice */
    assert_int_equal(gguf_open(first, &g, &err), -1);
    assert_non_null(strstr(err.msg, "comes twice"));
    unlink(first);
    unlink(second);
    rmdir(dir);
}

static void a_changed_file_is_noticed(void **state)
{
    char dir[] = "/tmp/nextd-change-XXXXXX", path[100];
    struct gguf *g;
    struct err err;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/whole.gguf", dir);
    write_bytes(dir, "whole.gguf", GGUF_SCRIPT_LLAMA, NULL, NULL);
    assert_int_equal(gguf_open(path, &g, &err), 0);
    assert_true(gguf_unchanged(g));
    FILE *f = fopen(path, "ab");
    fputc(0, f);
    fclose(f);
    assert_false(gguf_unchanged(g));
    gguf_close(g);
    unlink(path);
    rmdir(dir);
}

/* ---- vocabulary, digest, model ---- */

#define VOCABULARY                                                                                                                               \
    "GGUF u4=3 u8=0 u8=6 s=tokenizer.ggml.model u4=8 s=gpt2 s=tokenizer.ggml.tokens u4=9 u4=8 u8=3 s=a s=b s=ab "                                 \
    "s=tokenizer.ggml.merges u4=9 u4=8 u8=1 s=a,b s=tokenizer.ggml.token_type u4=9 u4=5 u8=3 u4=1 u4=1 u4=3 "                                      \
    "s=tokenizer.ggml.eos_token_id u4=4 u4=2 s=tokenizer.ggml.bos_token_id u4=4 u4=4294967295"

static void a_vocabulary_only_file_gives_its_vocabulary(void **state)
{
    struct gguf_bytes b;
    struct gguf *g = open_script(&b, VOCABULARY);
    struct vocab_arrays v;
    struct err err;
    (void)state;
    assert_int_equal(vocab_init(&v, g, &err), 0);
    assert_string_equal(v.vocab.model, "gpt2");
    assert_null(v.vocab.pre);
    assert_null(v.vocab.scores);
    assert_null(v.vocab.chat_template);
    assert_int_equal(v.vocab.n_tokens, 3);
    assert_int_equal(v.vocab.n_merges, 1);
    assert_int_equal(v.vocab.types[2], TOKEN_CONTROL);
    assert_int_equal(v.vocab.eos, 2);
    assert_int_equal(v.vocab.bos, -1);
    assert_int_equal(v.vocab.eot, -1);
    assert_int_equal(v.vocab.add_bos, -1);
    assert_int_equal(v.vocab.tokens[2].n, 2);
    vocab_finish(&v);
    gguf_close(g);
    free(b.p);
}

static void a_vocabulary_that_contradicts_itself_is_refused(void **state)
{
    static const char *const cases[][3] = {
        {"s=tokenizer.ggml.model", "s=tokenizer.ggml.modes", "no vocabulary"},
        {"u4=9 u4=8 u8=3 s=a s=b s=ab", "u4=4 u4=3", "array of strings"},
        {"u4=9 u4=5 u8=3 u4=1 u4=1 u4=3", "u4=9 u4=5 u8=2 u4=1 u4=1", "one for each token"},
        {"u4=9 u4=5 u8=3 u4=1 u4=1 u4=3", "u4=9 u4=6 u8=3 f4=1 f4=1 f4=3", "small integers"},
        {"s=tokenizer.ggml.token_type", "s=tokenizer.ggml.scores", "floating-point"},
        {"u4=4 u4=2 s=tok", "u4=4 u4=3 s=tok", "there are 3 tokens"},
        {"s=gpt2", "u8=4 raw=gp b=0 raw=2", "NUL"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_bytes b = gguf_script(VOCABULARY, cases[i][0], cases[i][1]);
        struct vocab_arrays v;
        struct gguf *g;
        struct err err;
        assert_int_equal(gguf_open_memory(b.p, b.n, &g, &err), 0);
        assert_int_equal(vocab_init(&v, g, &err), -1);
        if (strstr(err.msg, cases[i][2]) == NULL)
            fail_msg("case %zu says \"%s\"", i, err.msg);
        gguf_close(g);
        free(b.p);
    }
}

static void the_digest_is_sha256(void **state)
{
    struct sha256 *s;
    struct err err;
    char hex[SHA256_HEX];
    (void)state;
    assert_int_equal(sha256_create(&s, &err), 0);
    assert_int_equal(sha256_update(s, "a", 1, &err), 0);
    assert_int_equal(sha256_update(s, "bc", 2, &err), 0);
    sha256_hex(s, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* FIPS 180-4, "abc" */
    sha256_hex(s, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"); /* nothing */
    sha256_destroy(s);
}

static void a_model_tells_what_it_is(void **state)
{
    struct model *m;
    struct err err;
    (void)state;
    assert_int_equal(model_open("tests/fixtures/toy.gguf", &m, &err), 0);
    assert_string_equal(model_info(m)->architecture, "llama");
    assert_int_equal(model_info(m)->n_vocab, 384);
    assert_int_equal(model_info(m)->n_ctx_train, 4096);
    assert_int_equal(model_info(m)->kv_bytes_per_pos, 2 * 2 * 2 * 16 * 2);
    assert_non_null(model_info(m)->chat_template);
    model_close(m);
}

static void an_unknown_device_is_refused(void **state)
{
    struct model_options opt = {.device = "cuda:0", .n_threads = 1, .max_rows = 4, .max_out = 4, .n_pages = 1};
    struct model *m;
    struct err err;
    (void)state;
    assert_int_equal(model_open("tests/fixtures/toy.gguf", &m, &err), 0);
    assert_int_equal(model_load(m, &opt, &err), -1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "cuda:0"));
    model_close(m);
}

static void the_file_can_be_dropped_after_loading(void **state)
{
    struct run run;
    struct vocab vocab;
    struct err err;
    (void)state;
    run_open(&run, "tests/fixtures/toy.gguf", "cpu", 1, 4, 4, 1);
    assert_int_equal(model_vocab(run.model, &vocab, &err), 0);
    assert_int_equal(vocab.n_tokens, 384);
    model_drop_file(run.model);
    assert_string_equal(model_info(run.model)->name, "toy");
    assert_null(model_file(run.model));
    run_close(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_type_is_read),
        cmocka_unit_test(a_copied_string_is_whole_or_refused),
        cmocka_unit_test(typed_reads_tell_absent_from_wrong),
        cmocka_unit_test(unprintable_names_are_fit_for_a_sentence),
        cmocka_unit_test(a_split_file_loads_from_its_first_part),
        cmocka_unit_test(a_changed_file_is_noticed),
        cmocka_unit_test(a_vocabulary_only_file_gives_its_vocabulary),
        cmocka_unit_test(a_vocabulary_that_contradicts_itself_is_refused),
        cmocka_unit_test(the_digest_is_sha256),
        cmocka_unit_test(a_model_tells_what_it_is),
        cmocka_unit_test(an_unknown_device_is_refused),
        cmocka_unit_test(the_file_can_be_dropped_after_loading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

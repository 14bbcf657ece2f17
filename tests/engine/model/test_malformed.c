/* Files from strangers: each malformed or unsupported file is refused with one sentence that names the trouble, and reads nothing beyond its end
 * (run under AddressSanitizer by scripts/check). Every case is a whole model with one thing replaced; the unreplaced one opens and runs. */
#include "tests/engine/model/gguf_script.h"
#include "tests/engine/model/run.h"

#include <unistd.h>

static const struct {
    const char *find, *replace; /* in GGUF_SCRIPT_LLAMA */
    const char *says;           /* part of the sentence */
} cases[] = {
    /* header */
    {"GGUF", "raw=GGML", "not a GGUF file"},
    {"GGUF", "raw=GG", "not a GGUF file"},
    {"u4=3", "u4=50331648", "big-endian"},
    {"u4=3", "u4=1", "version 1"},
    {"u4=3", "u4=4", "version 4"},
    {"u4=3", "u4=0", "version 0"},
    {"u8=11", "u8=0xffffffffffffffff", "it cannot hold so many"},
    {"u8=11", "u8=60000", "it cannot hold so many"},
    {"u8=9", "u8=0xffffffffffffffff", "it cannot hold so many"},
    {"u8=9", "u8=0x8000000000000000", "it cannot hold so many"},
    {"u8=9", "u8=10", "ends inside"}, /* the first tensor is read as an entry */
    /* keys */
    {"s=general.name", "u8=0xffffffffffffffff raw=general.name", "ends inside its metadata"},
    {"s=general.name", "u8=0x7fffffffffffffff raw=general.name", "ends inside its metadata"},
    {"s=general.name", "u8=0", "must be 1 to"},
    {"s=general.name", "u8=1025 zero=1025", "must be 1 to"},
    {"s=general.name", "s=general.architecture", "comes twice"},
    {"s=general.name u4=8", "s=general.name u4=13", "unknown value type"},
    {"s=general.name u4=8", "s=general.name u4=0xffffffff", "unknown value type"},
    /* values */
    {"s=base", "u8=0xffffffffffffff00 raw=base", "ends inside the value"},
    {"u4=8 s=base", "u4=9 u4=9 u8=1 u4=4 u8=0", "array of arrays"},
    {"u4=8 s=base", "u4=9 u4=99 u8=1", "unknown value type"},
    {"u4=8 s=base", "u4=9 u4=4 u8=0xffffffffffffffff", "ends inside the value"},
    {"u4=8 s=base", "u4=9 u4=12 u8=0x2000000000000001", "ends inside the value"},
    {"u4=8 s=base", "u4=9 u4=8 u8=0x1000000000000000", "ends inside the value"},
    {"u4=8 s=base", "u4=9 u4=8 u8=3 s=a u8=0xfffffffffffffff0", "ends inside the value"},
    {"u4=8 s=base", "u4=7 b=2", "truth value"},
    {"u4=8 s=base", "u4=4 u4=7", "must be a string"},
    {"u4=4 u4=32", "u4=4 u4=0", "it must be 8 to"},
    {"u4=4 u4=32", "u4=4 u4=24", "power of two"},
    {"u4=4 u4=32", "u4=4 u4=0x80000000", "it must be 8 to"},
    {"u4=4 u4=32", "u4=6 f4=32", "must be an integer"},
    /* tensors */
    {"s=output_norm.weight u4=1", "s=output_norm.weight u4=0", "dimensions"},
    {"s=output_norm.weight u4=1", "s=output_norm.weight u4=5", "dimensions"},
    {"s=output_norm.weight", "s=token_embd.weight", "comes twice"},
    {"s=output_norm.weight", "u8=0", "must be 1 to"},
    {"s=output_norm.weight", "u8=0xfffffffffffffff0", "ends inside its tensor list"},
    {"u8=32 u8=8 u4=0", "u8=0 u8=8 u4=0", "dimension of 0"},
    {"u8=32 u8=8 u4=0", "u8=0x100000000 u8=0x100000000 u4=0", "multiply to more"},
    {"u8=32 u8=8 u4=0", "u8=0xffffffffffffffff u8=8 u4=0", "multiply to more"},
    {"u8=32 u8=8 u4=0", "u8=0x4000000000000000 u8=1 u4=0", "multiply to more"},
    {"u8=32 u8=8 u4=0", "u8=32 u8=8 u4=77", "unknown type"},
    {"u8=32 u8=8 u4=0", "u8=32 u8=8 u4=0xffffffff", "unknown type"},
    {"u8=32 u8=8 u4=0", "u8=32 u8=8 u4=4", "unknown type"},
    {"u8=32 u8=8 u4=0", "u8=33 u8=8 u4=8", "packs 32 together"},
    {"u8=32 u8=8 u4=0", "u8=32 u8=8 u4=12", "packs 256 together"},
    {"u4=0 u8=25984", "u4=0 u8=26016", "is the file complete"},
    {"u4=0 u8=25984", "u4=0 u8=0xffffffffffffffe0", "is the file complete"},
    {"u4=0 u8=25984", "u4=0 u8=25985", "no multiple of the alignment"},
    {"u4=0 u8=25984", "u4=0 u8=21888", "overlap"},
    {"u4=0 u8=1152", "u4=0 u8=1088", "overlap"},
    {"pad=32 zero=30080", "", "ends inside"},
    {"zero=30080", "zero=30079", "is the file complete"},
    {"u8=11", "u8=12", "must be 1 to"}, /* the padding is read as a tensor */
    /* what is not a model for nextd */
    {"s=llama ", "s=mamba ", "the architecture \"mamba\" is not supported; nextd runs gemma3, llama, qwen2, qwen3"},
    {"s=llama ", "s=bert ", "embedding model"},
    {"s=llama ", "s=clip ", "vision"},
    {"s=general.name u4=8 s=base", "s=general.type u4=8 s=adapter", "adapter"},
    {"s=general.name u4=8 s=base", "s=general.type u4=8 s=mmproj", "vision"},
    {"s=general.name u4=8 s=base", "s=split.count u4=2 u2=3", "its name must end in"},
    {"s=general.name u4=8 s=base", "s=split.no u4=2 u2=1", "name the first part"},
    {"s=general.architecture", "s=general.whatever", "no \"general.architecture\""},
    /* hyperparameters */
    {"s=llama.block_count u4=4 u4=1", "s=llama.block_count u4=4 u4=0", "must be 1 to"},
    {"s=llama.block_count u4=4 u4=1", "s=llama.block_count u4=4 u4=2", "no tensor \"blk.1"},
    {"s=llama.block_count u4=4 u4=1", "s=llama.block_count u4=4 u4=0x7fffffff", "must be 1 to"},
    {"s=llama.block_count u4=4 u4=1", "s=llama.block_count u4=8 s=one", "must be an integer"},
    {"s=llama.context_length", "s=llama.context_width", "no \"llama.context_length\""},
    {"s=llama.embedding_length u4=4 u4=32", "s=llama.embedding_length u4=4 u4=64", "the model needs"},
    {"s=llama.attention.head_count u4=4 u4=2", "s=llama.attention.head_count u4=4 u4=0", "must be 1 to"},
    {"s=llama.attention.head_count u4=4 u4=2", "s=llama.attention.head_count u4=4 u4=4096", "must be 1 to"},
    {"s=llama.attention.head_count u4=4 u4=2", "s=llama.attention.head_count u4=9 u4=4 u8=2 u4=2 u4=4", "differs from layer to layer"},
    {"s=general.name u4=8 s=base", "s=llama.attention.head_count_kv u4=4 u4=3", "cannot share"},
    {"s=general.name u4=8 s=base", "s=llama.attention.key_length u4=4 u4=32", "nextd runs models where they are alike"},
    {"s=general.name u4=8 s=base", "s=llama.rope.dimension_count u4=4 u4=8", "rope turns 8"},
    {"s=general.name u4=8 s=base", "s=llama.rope.scaling.type u4=8 s=yarn", "rope scaling \"yarn\""},
    {"s=general.name u4=8 s=base", "s=llama.rope.freq_base u4=4 u4=10000", "floating-point"},
    {"s=general.name u4=8 s=base", "s=llama.rope.freq_base u4=6 f4=0", "out of range"},
    {"s=general.name u4=8 s=base", "s=llama.rope.freq_base u4=6 f4=nan", "out of range"},
    {"s=general.name u4=8 s=base", "s=llama.rope.scaling.factor u4=6 f4=-1", "out of range"},
    {"s=general.name u4=8 s=base", "s=llama.expert_count u4=4 u4=8", "does not compute that"},
    {"s=general.name u4=8 s=base", "s=llama.attn_logit_softcapping u4=6 f4=50", "does not compute that"},
    {"s=general.name u4=8 s=base", "s=llama.attention.causal u4=7 b=0", "does not compute that"},
    {"s=llama.attention.layer_norm_rms_epsilon u4=6 f4=0.00001", "s=llama.attention.layer_norm_rms_epsilon u4=6 f4=nan", "usable"},
    /* weights */
    {"s=blk.0.ffn_up.weight", "s=blk.0.ffn_upp.weight", "no tensor \"blk.0.ffn_up.weight\""},
    {"u8=32 u8=32 u4=0 u8=1280", "u8=32 u8=16 u4=0 u8=1280", "the model needs 32 of 32"},
    {"u8=32 u8=32 u4=0 u8=1280", "u8=32 u8=32 u4=24 u8=1280", "of type I8"},
    {"u8=32 u4=0 u8=1024", "u8=32 u4=8 u8=1024", "a vector must be"},
    {"u8=11", "u8=10", "no tensor \"blk.0.ffn_down.weight\""},
};
#define N_CASES (sizeof cases / sizeof cases[0])

/* Writes the bytes to a file of their own, opens it as a model, removes it. */
static int open_bytes(struct gguf_bytes b, struct model **out, struct err *err)
{
    char path[] = "/tmp/nextd-malformed-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b.p, b.n), b.n);
    close(fd);
    int rc = model_open(path, out, err);
    unlink(path);
    return rc;
}

static void assert_sentence(const struct err *err)
{
    size_t n = strlen(err->msg);
    assert_true(n > 10);
    assert_null(strchr(err->msg, '\n'));
    assert_int_not_equal(err->msg[n - 1], '.');
    assert_true(err->code == ERR_FORMAT || err->code == ERR_UNSUPPORTED || err->code == ERR_IO);
}

static void the_unreplaced_model_opens_and_runs(void **state)
{
    char path[] = "/tmp/nextd-whole-XXXXXX";
    int fd = mkstemp(path);
    const int32_t *tables[1] = {(const int32_t[]){0}}, token[1] = {3}, pos[1] = {0}, seq[1] = {0}, out[1] = {0};
    const struct batch batch = {1, token, pos, seq, 1, tables, 1, out};
    struct gguf_bytes b = gguf_script(GGUF_SCRIPT_LLAMA, NULL, NULL);
    struct scores scores;
    struct run run;
    struct err err;
    (void)state;
    assert_int_equal(write(fd, b.p, b.n), b.n);
    close(fd);
    run_open(&run, path, "cpu", 1, 4, 4, 1);
    assert_int_equal(run.runner.forward(run.runner.ctx, &batch, &scores, &err), 0);
    assert_int_equal(scores.n_vocab, 8);
    for (int i = 0; i < 8; i++)
        assert_true(scores.row(scores.ctx, 0)[i] == 0.0f);
    run_close(&run);
    unlink(path);
    free(b.p);
}

static void each_malformed_file_is_refused_with_a_sentence(void **state)
{
    (void)state;
    assert_true(N_CASES >= 40);
    for (size_t i = 0; i < N_CASES; i++) {
        struct model *model = NULL;
        struct gguf *file = NULL;
        struct err err = {0};
        struct gguf_bytes b = gguf_script(GGUF_SCRIPT_LLAMA, cases[i].find, cases[i].replace);
        if (open_bytes(b, &model, &err) == 0)
            fail_msg("case %zu (%s -> %s) was taken", i, cases[i].find, cases[i].replace);
        assert_null(model);
        assert_sentence(&err);
        if (strstr(err.msg, cases[i].says) == NULL)
            fail_msg("case %zu (%s -> %s) says \"%s\", not \"%s\"", i, cases[i].find, cases[i].replace, err.msg, cases[i].says);
        if (gguf_open_memory(b.p, b.n, &file, &err) == 0) /* from exact memory, for the sanitizer */
            gguf_close(file);
        free(b.p);
    }
}

static struct gguf_bytes read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    struct gguf_bytes b = {NULL, (size_t)ftell(f)};
    rewind(f);
    b.p = malloc(b.n);
    assert_int_equal(fread(b.p, 1, b.n, f), b.n);
    fclose(f);
    return b;
}

static void every_truncation_is_refused(void **state)
{
    struct gguf_bytes whole = read_file("tests/fixtures/toy.gguf");
    (void)state;
    for (size_t n = 0; n < whole.n; n += n < 400 ? 1 : 97) {
        uint8_t *cut = malloc(n > 0 ? n : 1);
        struct gguf *file;
        struct err err;
        memcpy(cut, whole.p, n);
        assert_int_equal(gguf_open_memory(cut, n, &file, &err), -1);
        assert_sentence(&err);
        free(cut);
    }
    free(whole.p);
}

/* Any single byte of the header may be anything: the file opens or is refused, and nothing is read beyond it. */
static void no_changed_byte_does_harm(void **state)
{
    struct gguf_bytes b = gguf_script(GGUF_SCRIPT_LLAMA, NULL, NULL);
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    (void)state;
    for (size_t at = 0; at < b.n - 30080; at++) {
        uint8_t was = b.p[at];
        for (size_t v = 0; v < sizeof values; v++) {
            struct gguf *file;
            struct err err;
            b.p[at] = values[v];
            if (gguf_open_memory(b.p, b.n, &file, &err) == 0)
                gguf_close(file);
            else
                assert_sentence(&err);
        }
        b.p[at] = was;
    }
    free(b.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_unreplaced_model_opens_and_runs),
        cmocka_unit_test(each_malformed_file_is_refused_with_a_sentence),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(no_changed_byte_does_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

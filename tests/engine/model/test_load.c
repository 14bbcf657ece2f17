/* test_load.c: a file's bytes arrive as they are, however they are cut; the digest is theirs; a file that changes meanwhile is refused. */
#include "tests/engine/model/run.h"

#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/sha256.h"

#define TOY "tests/fixtures/toy.gguf"
#define N_IDS 40

struct progress {
    uint64_t done, total;
    int n_calls;
    _Atomic bool stop;
};

static void note_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    assert_true(done > p->done && done <= total);
    p->done = done;
    p->total = total;
    p->n_calls++;
    p->stop = true; /* heard only where the options say so */
}

static struct model_options options(struct progress *p, size_t chunk_bytes)
{
    return (struct model_options){.device = "auto", .n_threads = 2, .max_rows = N_IDS, .max_out = N_IDS, .n_pages = 1, .progress = note_progress,
                                  .progress_arg = p, .chunk_bytes = chunk_bytes};
}

struct table {
    float *rows;
    int n_vocab;
};

static void keep_rows(void *arg, const struct scores *scores, int pos, int n)
{
    struct table *t = arg;
    (void)pos;
    for (int i = scores->first; i < scores->first + n; i++)
        memcpy(t->rows + (size_t)i * (size_t)t->n_vocab, scores->row(scores->ctx, i), (size_t)t->n_vocab * sizeof(float));
}

static void digest_of(const char *path, char hex[SHA256_HEX])
{
    static char bytes[1 << 20];
    struct sha256 *s;
    struct err err;
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n > 0 && n < sizeof bytes);
    assert_int_equal(sha256_create(&s, &err), 0);
    assert_int_equal(sha256_update(s, bytes, n, &err), 0);
    sha256_hex(s, hex);
    sha256_destroy(s);
}

static void the_cut_of_the_file_changes_nothing(void **state)
{
    static const size_t chunks[] = {0, 1, 5000, 40000}; /* 1: as little as the tensors allow */
    struct table want = {NULL, 0};
    char hex[SHA256_HEX];
    (void)state;
    digest_of(TOY, hex);
    for (int i = 0; i < 4; i++) {
        struct progress p = {0};
        struct model_options opt = options(&p, chunks[i]);
        struct run run = {0};
        struct err err;
        int32_t ids[N_IDS];
        assert_int_equal(model_open(TOY, &run.model, &err), 0);
        assert_int_equal(model_load(run.model, &opt, &err), 0);
        assert_string_equal(model_info(run.model)->sha256, hex);
        assert_int_equal(p.done, p.total);
        assert_int_equal(p.total, model_info(run.model)->file_bytes);
        assert_true(i == 0 ? p.n_calls == 1 : i == 1 ? p.n_calls > 20 : p.n_calls > 2);
        run.runner = model_runner(run.model);
        struct table got = {malloc(sizeof(float) * N_IDS * (size_t)run.runner.n_vocab), run.runner.n_vocab};
        for (int k = 0; k < N_IDS; k++)
            ids[k] = 3 + k * 5 % 256;
        run_feed(&run, ids, 0, N_IDS, N_IDS, keep_rows, &got);
        if (i > 0)
            assert_memory_equal(got.rows, want.rows, sizeof(float) * N_IDS * (size_t)want.n_vocab);
        free(want.rows);
        want = got;
        run_close(&run);
    }
    free(want.rows);
}

static void loading_can_be_stopped_after_any_piece(void **state)
{
    struct progress p = {0};
    struct model_options opt = options(&p, 1);
    struct model *m;
    struct err err;
    (void)state;
    opt.stop_loading = &p.stop;
    assert_int_equal(model_open(TOY, &m, &err), 0);
    assert_int_equal(model_load(m, &opt, &err), -1);
    assert_int_equal(err.code, ERR_STOPPING);
    assert_int_equal(p.n_calls, 1);
    model_close(m);
}

/* A copy of the toy that `change` works on between opening and loading. */
static void load_changed(void (*change)(const char *path), const char *sentence)
{
    char path[] = "/tmp/nextd-load-XXXXXX";
    static char bytes[1 << 20];
    struct progress p = {0};
    struct model_options opt = options(&p, 0);
    struct model *m;
    struct err err;
    FILE *from = fopen(TOY, "rb");
    int fd = mkstemp(path);
    assert_non_null(from);
    ssize_t n = (ssize_t)fread(bytes, 1, sizeof bytes, from);
    assert_int_equal(write(fd, bytes, (size_t)n), n);
    fclose(from);
    const struct timespec long_ago[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}}; /* so that a change cannot fall on the same tick */
    assert_int_equal(futimens(fd, long_ago), 0);
    close(fd);
    assert_int_equal(model_open(path, &m, &err), 0);
    change(path);
    assert_int_equal(model_load(m, &opt, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, sentence));
    model_close(m);
    unlink(path);
}

static void shorten(const char *path)
{
    assert_int_equal(truncate(path, 70000), 0);
}

static void overwrite(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_int_equal(fseek(f, -100, SEEK_END), 0);
    fputc(1, f);
    fclose(f);
}

static void a_file_that_changes_meanwhile_is_refused(void **state)
{
    (void)state;
    load_changed(shorten, "became shorter");
    load_changed(overwrite, "was changed while it was loaded");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cut_of_the_file_changes_nothing),
        cmocka_unit_test(loading_can_be_stopped_after_any_piece),
        cmocka_unit_test(a_file_that_changes_meanwhile_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

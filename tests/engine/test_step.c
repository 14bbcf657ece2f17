/* What ends a choice, over the toy: test_engine.c has the plain cases, here are those that need several runs of one request. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/engine_internal.h"
#include "tests/engine/matrix.h"
#include "tests/engine/toy_runner.h"

#define N_PROMPT 20
#define N_NEW 60

struct rig {
    struct engine *e;
    struct toy *toy;
    struct tokenizer *tok;
    sem_t wake;
};

/* The text of one choice and how it ended. */
struct story {
    char text[1024];
    size_t n_text;
    int n_output;
    enum engine_finish finish;
};

static void rig_open(struct rig *r)
{
    struct toy_options toy = {.n_ctx = 512, .n_pages = 16, .max_rows = 36, .max_out = 8};
    struct engine_options opt = {
        .max_seqs = 4, .max_queue = 4, .chunk = 32, .prefix_cache = true, .notify = drive_notify, .notify_arg = &r->wake};
    struct err err;
    r->toy = toy_create(&toy);
    r->tok = toy_tokenizer();
    sem_init(&r->wake, 0, 0);
    struct engine_parts parts = {.runner = toy_runner(r->toy), .tok = r->tok};
    assert_int_equal(engine_open_runner(&opt, &parts, &r->e, &err), 0);
}

static void rig_close(struct rig *r)
{
    engine_close(r->e);
    toy_destroy(r->toy);
    tokenizer_destroy(r->tok);
    sem_destroy(&r->wake);
}

static struct story tell(struct rig *r, const struct engine_request *q)
{
    struct story s = {.n_text = 0};
    struct err err;
    uint64_t id;
    assert_int_equal(engine_submit(r->e, q, 1, &id, &err), 0);
    for (;;) {
        const struct engine_event *events;
        sem_wait(&r->wake);
        for (size_t i = 0, n = engine_poll(r->e, &events); i < n; i++) {
            if (events[i].type == ENGINE_END) {
                s.n_output = events[i].n_output;
                s.finish = events[i].finish;
                return s;
            }
            assert_true(s.n_text + events[i].n_text <= sizeof s.text);
            if (events[i].n_text > 0)
                memcpy(s.text + s.n_text, events[i].text, events[i].n_text);
            s.n_text += events[i].n_text;
        }
    }
}

/* min_tokens asks for so many tokens, not for a text whose end is forgotten. */
static void a_stop_string_across_the_end_of_min_tokens_counts(void **state)
{
    (void)state;
    struct rig r;
    int32_t prompt[N_PROMPT];
    int n_tried = 0;
    rig_open(&r);
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = 300 + 7 * i;
    struct engine_request q;
    engine_request_defaults(&q);
    q.prompt = prompt;
    q.n_prompt = N_PROMPT;
    q.temperature = 0;
    q.ignore_eos = true;
    q.max_tokens = N_NEW;
    struct story whole = tell(&r, &q);
    for (int m = 1; m < N_NEW; m++) {
        q.stops = NULL;
        q.n_stops = q.min_tokens = 0;
        q.max_tokens = m;
        size_t border = tell(&r, &q).n_text;
        q.max_tokens = m + 1;
        if (tell(&r, &q).n_text == border || whole.text[border - 1] < ' ' || whole.text[border] < ' ')
            continue; /* no character ends there and begins there */
        struct engine_text stop = {.p = whole.text + border - 1, .n = 2};
        q.stops = &stop;
        q.n_stops = 1;
        q.min_tokens = m;
        q.max_tokens = N_NEW;
        struct story s = tell(&r, &q);
        assert_int_equal(s.finish, ENGINE_FINISH_STOP);
        assert_int_equal(s.n_output, m + 1);
        assert_int_equal(s.n_text, border - 1);
        n_tried++;
    }
    assert_true(n_tried > 5);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_across_the_end_of_min_tokens_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

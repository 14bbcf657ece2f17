/* fake_engine.h: an engine and a chat template that a test plays by hand. Included by exactly one file of a test program, whose definitions then take
 * the place of the real ones at link time.
 *
 * Tokens are bytes: id = byte value. 256 is the end token "<|end|>", 257 the BOS "<s>", 258 a control token "<|im|>" that only matches in trusted
 * text. Requests wait in `fake.requests` until the test says what happens to them with fake_text, fake_choice, fake_end. */
#ifndef NEXTD_TESTS_FAKE_ENGINE_H
#define NEXTD_TESTS_FAKE_ENGINE_H

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "server/chat/chat_template.h"

#define FAKE_MAX_REQUESTS 64
#define FAKE_MAX_EVENTS 4096
#define FAKE_END_ID 256
#define FAKE_BOS_ID 257
#define FAKE_CONTROL_ID 258
#define FAKE_N_CTX 4096

struct fake_request {
    struct engine_request r; /* pointers are copies */
    uint64_t id;
    bool cancelled, ended;
    int n_paused, n_resumed;
};

static struct fake {
    struct engine_info info;
    struct fake_request requests[FAKE_MAX_REQUESTS];
    size_t n_requests;
    struct engine_event events[FAKE_MAX_EVENTS];
    size_t n_events;
    struct err refuse; /* what the next submissions get, when its code is set */
    struct engine_stats stats;
    bool drained;
    void (*notify)(void *);
    void *notify_arg;
    void *trash[FAKE_MAX_EVENTS * 4]; /* copies that events point to */
    size_t n_trash;
} fake;

static void *fake_copy(const void *p, size_t n)
{
    char *copy = malloc(n + 1);
    assert(copy != NULL && fake.n_trash < FAKE_MAX_EVENTS * 4);
    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = '\0';
    fake.trash[fake.n_trash++] = copy;
    return copy;
}

static void fake_reset(void)
{
    for (size_t i = 0; i < fake.n_trash; i++)
        free(fake.trash[i]);
    memset(&fake, 0, sizeof fake);
    static const int32_t ends[] = {FAKE_END_ID};
    fake.info = (struct engine_info){
        .model_stem = "fake-model", .model_name = "Fake", .architecture = "fake", .numerics = "n1", .device = "fake:c",
        .model_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        .chat_template = "FAKE", .bos_text = "<s>", .eos_text = "<|end|>", .tokenizer_kind = "bytes", .end_tokens = ends, .n_end_tokens = 1,
        .n_vocab = 259, .n_ctx = FAKE_N_CTX, .n_ctx_train = FAKE_N_CTX, .n_kv_tokens = FAKE_N_CTX, .n_pages = 64, .max_seqs = 8, .max_queue = 8,
        .model_mtime_s = 1700000000,
    };
    fake.stats.n_pages = 64;
}

static struct engine *fake_engine(void)
{
    return (struct engine *)&fake;
}

/* ---- what the tests play ---- */

static struct engine_event *fake_event(struct fake_request *q, enum engine_event_type type, int choice)
{
    assert(fake.n_events < FAKE_MAX_EVENTS && !q->ended);
    struct engine_event *ev = &fake.events[fake.n_events++];
    *ev = (struct engine_event){.type = type, .id = q->id, .user = q->r.user, .choice = choice, .text = "", .matched_stop = -1};
    ev->matched_stop_id = -1;
    return ev;
}

/* Tokens with made-up logprobs: -0.5 - id/1000 each, the top ones are ids 'a', 'b', ... */
static const struct engine_token *fake_tokens(const int32_t *ids, size_t n, int n_top)
{
    struct engine_token *t = calloc(n + 1, sizeof *t);
    fake.trash[fake.n_trash++] = t;
    for (size_t i = 0; i < n; i++) {
        struct engine_logprob *top = calloc((size_t)(n_top > 0 ? n_top : 0) + 1, sizeof *top);
        fake.trash[fake.n_trash++] = top;
        for (int k = 0; k < n_top; k++)
            top[k] = (struct engine_logprob){.id = 'a' + k, .logprob = -0.25f * (float)(k + 1)};
        float logprob = n_top >= 0 ? -0.5f - (float)ids[i] / 1000 : NAN;
        t[i] = (struct engine_token){.id = ids[i], .logprob = logprob, .n_top = n_top > 0 ? n_top : 0, .top = top};
    }
    return t;
}

/* `text` comes out of `choice`, one token for each byte. */
static void fake_text(size_t request, int choice, const char *text)
{
    struct fake_request *q = &fake.requests[request];
    struct engine_event *ev = fake_event(q, ENGINE_TEXT, choice);
    int32_t ids[256];
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)text[i];
    ev->text = fake_copy(text, n);
    ev->n_text = n;
    ev->tokens = fake_tokens(ids, n, q->r.n_logprobs);
    ev->n_tokens = n;
}

/* Tokens without text: held back. */
static void fake_held(size_t request, int choice, const char *bytes)
{
    fake_text(request, choice, bytes);
    fake.events[fake.n_events - 1].n_text = 0;
}

static struct engine_event *fake_choice(size_t request, int choice, enum engine_finish why)
{
    struct fake_request *q = &fake.requests[request];
    struct engine_event *ev = fake_event(q, ENGINE_CHOICE, choice);
    static const int32_t end[] = {FAKE_END_ID};
    ev->finish = why;
    if (why == ENGINE_FINISH_STOP) {
        ev->tokens = fake_tokens(end, 1, q->r.n_logprobs);
        ev->n_tokens = 1;
        ev->matched_stop_id = FAKE_END_ID;
    }
    return ev;
}

static struct engine_event *fake_end(size_t request, enum engine_finish why, int n_output)
{
    struct fake_request *q = &fake.requests[request];
    struct engine_event *ev = fake_event(q, ENGINE_END, -1);
    ev->finish = why;
    ev->n_prompt = (int)q->r.n_prompt;
    ev->n_cached = 0;
    ev->n_output = n_output;
    ev->queue_ms = why == ENGINE_FINISH_CANCELLED ? -1 : 20;
    q->ended = true;
    return ev;
}

static void fake_prompt(size_t request)
{
    struct fake_request *q = &fake.requests[request];
    struct engine_event *ev = fake_event(q, ENGINE_PROMPT, -1);
    struct engine_token *t = (struct engine_token *)(uintptr_t)fake_tokens(q->r.prompt, q->r.n_prompt, q->r.n_prompt_logprobs);
    t[0].logprob = NAN;
    t[0].n_top = 0;
    ev->tokens = t;
    ev->n_tokens = q->r.n_prompt;
}

/* ---- engine.h ---- */

#ifndef FAKE_ENGINE_OPENS /* a test that defines this brings its own engine_open and engine_stats */
int engine_open(const struct engine_options *opt, struct engine **out, struct err *err)
{
    (void)opt, (void)out;
    return err_set(err, ERR_UNSUPPORTED, "the fake engine is not opened");
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    (void)e;
    *out = fake.stats;
}
#endif

void engine_close(struct engine *e)
{
    (void)e;
}

const struct engine_info *engine_info(const struct engine *e)
{
    (void)e;
    return &fake.info;
}

void engine_ids_finish(struct engine_ids *l)
{
    free(l->ids);
    *l = (struct engine_ids){0};
}

int engine_tokenize(const struct engine *e, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens, struct engine_ids *out,
                    struct err *err)
{
    (void)e;
    size_t n = add_bos;
    for (size_t i = 0; i < n_spans; i++)
        n += spans[i].n;
    if (n > max_tokens)
        return err_set(err, ERR_CONTEXT, "too many tokens");
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    size_t at = 0;
    if (add_bos)
        ids[at++] = FAKE_BOS_ID;
    for (size_t i = 0; i < n_spans; i++)
        for (size_t k = 0; k < spans[i].n; k++) {
            bool control = spans[i].trusted && spans[i].n - k >= 6 && memcmp(spans[i].p + k, "<|im|>", 6) == 0;
            ids[at++] = control ? FAKE_CONTROL_ID : (unsigned char)spans[i].p[k];
            k += control ? 5 : 0;
        }
    *out = (struct engine_ids){.ids = ids, .n = at, .cap = n + 1};
    return 0;
}

size_t engine_token_bytes(const struct engine *e, int32_t id, bool special, const char **p_out)
{
    static char bytes[256];
    (void)e;
    if (id < 256) {
        bytes[id] = (char)id;
        *p_out = &bytes[id];
        return 1;
    }
    *p_out = id == FAKE_END_ID ? "<|end|>" : id == FAKE_BOS_ID ? "<s>" : "<|im|>";
    return special ? strlen(*p_out) : 0;
}

int engine_detokenize(const struct engine *e, const int32_t *ids, size_t n, bool special, char **out, size_t *n_out, struct err *err)
{
    char *text = malloc(n * 8 + 1);
    size_t at = 0;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        const char *p;
        size_t len = engine_token_bytes(e, ids[i], special, &p);
        bool strips = fake.info.strips_leading_space && i == 0 && p[0] == ' ';
        memcpy(text + at, p + strips, len - strips);
        at += len - strips;
    }
    text[at] = '\0';
    *out = text;
    *n_out = at;
    return 0;
}

void engine_request_defaults(struct engine_request *r)
{
    *r = (struct engine_request){.n_choices = 1, .max_tokens = -1, .n_logprobs = -1, .n_prompt_logprobs = -1, .temperature = 1, .top_p = 1,
                                 .typical_p = 1, .repetition_penalty = 1};
}

int engine_submit(struct engine *e, const struct engine_request *reqs, size_t n, uint64_t *ids_out, struct err *err)
{
    (void)e;
    if (fake.refuse.code != ERR_NONE) {
        *err = fake.refuse;
        return -1;
    }
    assert(fake.n_requests + n <= FAKE_MAX_REQUESTS);
    for (size_t i = 0; i < n; i++) {
        struct fake_request *q = &fake.requests[fake.n_requests];
        *q = (struct fake_request){.r = reqs[i], .id = 100 + fake.n_requests};
        q->r.prompt = fake_copy(reqs[i].prompt, reqs[i].n_prompt * sizeof(int32_t));
        struct engine_text *stops = fake_copy(reqs[i].stops, (size_t)reqs[i].n_stops * sizeof *stops);
        for (int k = 0; k < reqs[i].n_stops; k++)
            stops[k].p = fake_copy(reqs[i].stops[k].p, reqs[i].stops[k].n);
        q->r.stops = stops;
        q->r.bias = fake_copy(reqs[i].bias, (size_t)reqs[i].n_bias * sizeof *reqs[i].bias);
        q->r.stop_ids = fake_copy(reqs[i].stop_ids, (size_t)reqs[i].n_stop_ids * sizeof(int32_t));
        ids_out[i] = q->id;
        fake.n_requests++;
    }
    return 0;
}

static struct fake_request *fake_find(uint64_t id)
{
    return id >= 100 && id - 100 < fake.n_requests ? &fake.requests[id - 100] : NULL;
}

void engine_cancel(struct engine *e, uint64_t id)
{
    (void)e;
    fake_find(id)->cancelled = true;
}

void engine_pause(struct engine *e, uint64_t id)
{
    (void)e;
    fake_find(id)->n_paused++;
}

void engine_resume(struct engine *e, uint64_t id)
{
    (void)e;
    fake_find(id)->n_resumed++;
}

void engine_drain(struct engine *e)
{
    (void)e;
    fake.drained = true;
}

size_t engine_poll(struct engine *e, const struct engine_event **events_out)
{
    static struct engine_event taken[FAKE_MAX_EVENTS];
    size_t n = fake.n_events;
    (void)e;
    memcpy(taken, fake.events, n * sizeof taken[0]);
    fake.n_events = 0;
    *events_out = taken;
    return n;
}

/* ---- chat_template.h: "<|im|>" trusted, then role, colon, content and line feed untrusted, for each message ---- */

struct chat_template {
    int unused;
};
static struct chat_template fake_template;

int chat_template_compile(const char *source, size_t n, struct chat_template **out, struct err *err)
{
    if (n >= 3 && memcmp(source, "BAD", 3) == 0)
        return err_set(err, ERR_FORMAT, "chat template, line 1: unexpected thing");
    *out = &fake_template;
    return 0;
}

void chat_template_destroy(struct chat_template *t)
{
    (void)t;
}

struct chat_limits chat_limits_default(void)
{
    return (struct chat_limits){.max_steps = 1000, .max_depth = 10, .max_output_bytes = 1u << 20};
}

void chat_output_finish(struct chat_output *o)
{
    free(o->text);
    free(o->runs);
    *o = (struct chat_output){0};
}

int chat_template_render(const struct chat_template *t, const struct chat_input *in, const struct chat_limits *limits, struct chat_output *out,
                         struct err *err)
{
    size_t i, n_messages = json_array_size(in->messages);
    json_t *m;
    FILE *f;
    (void)t, (void)limits;
    if (json_is_true(json_object_get(in->extra, "raise")))
        return err_set(err, ERR_INVALID, "chat template, line 3: Conversation roles must alternate");
    *out = (struct chat_output){.runs = calloc(2 * n_messages + 2, sizeof *out->runs), .used_now = json_object_get(in->extra, "date") != NULL};
    f = open_memstream(&out->text, &out->n);
    json_array_foreach(in->messages, i, m) {
        const json_t *content = json_object_get(m, "content");
        const char *role = json_string_value(json_object_get(m, "role"));
        fputs("<|im|>", f);
        out->runs[out->n_runs++] = (struct chat_run){.n = 6, .trusted = true};
        fprintf(f, "%s:", role);
        fwrite(json_string_value(content), 1, json_string_length(content), f);
        fputc('\n', f);
        out->runs[out->n_runs++] = (struct chat_run){.n = strlen(role) + json_string_length(content) + 2};
    }
    if (in->add_generation_prompt) {
        fputs("<|im|>", f);
        out->runs[out->n_runs++] = (struct chat_run){.n = 6, .trusted = true};
    }
    fclose(f);
    return 0;
}

#endif

/* completion.c: see completion.h.
 *
 *                submit                first event or keep-alive           each choice             last part's END
 *     prepared ─────────► QUEUED ───────────────────────────────► OPEN ─────────────────► ... ──────────────────────► ENDED
 *        │ refused           │  client gone, drain, a part's fault: engine_cancel for all parts, events are dropped     ▲
 *        └► error reply      └──────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * Before OPEN an error is a real HTTP status; after it, an error event, [DONE] and the end of the stream. A reply that is not streamed stays before
 * OPEN until ENDED. Whatever happens, completion_end runs once, after the last END: it answers what is still to be answered, counts, and logs.
 *
 * Choices are numbered prompt * n + choice. The order of events decides only how text is cut into chunks, never what the text is. */
#include "server/completion.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/reply.h"
#include "server/routes.h"
#include "server/sse.h"
#include "server/utf8.h"

#define COMPLETION_MAX_TEXT_BYTES (64u << 20)     /* of one choice */
#define COMPLETION_MAX_LOGPROB_BYTES (256u << 20) /* of one choice, each array */
#define COMPLETION_MAX_REPLY_BYTES (1u << 30)
#define COMPLETION_MAX_EVENT_BYTES (4u << 20) /* well under what http takes as backlog before it gives a client up */
#define COMPLETION_SEED_MASK ((UINT64_C(1) << 53) - 1) /* a drawn seed survives clients that keep numbers as doubles */

struct completion_choice {
    struct buf text;            /* not streamed: all of it */
    struct logprobs logprobs;   /* not streamed: all; streamed: those that wait for text */
    struct reply_finish finish;
    uint64_t last_ns;           /* of its last drawn token */
    bool opened;                /* role or echo are out */
};

struct completion_part {
    struct completion *c;
    size_t prompt_idx;
    uint64_t id;
    bool ended;
    struct logprobs prompt_logprobs; /* echo: copied to every choice */
};

struct completion {
    struct call *call;
    const struct api_request *api;
    struct reply_head head;
    struct reply_origin origin;
    struct sse sse;
    struct completion_part *parts; /* [n_parts] */
    size_t n_parts, n_open;
    struct completion_choice *choices; /* [n_choices] */
    size_t n_choices;
    bool cancelled, paused;
    struct err failure;            /* the first; code ERR_NONE: none */
    struct reply_usage usage;
    uint64_t first_ns, last_sent_ns;
    enum engine_finish worst;
};

/* ---- start ---- */

/* The 16 that stand for an absent max_tokens are no promise and end at the context. A number that was asked for is refused where it does not fit. */
static int completion_max_tokens(const struct completion *c, size_t n_prompt)
{
    size_t n_ctx = (size_t)c->call->app->info->n_ctx, room = n_prompt < n_ctx ? n_ctx - n_prompt : 1;
    bool asked = c->head.chat || json_is_integer(json_object_get(c->api->root, "max_tokens"));
    return asked || (size_t)c->api->max_tokens <= room ? c->api->max_tokens : (int)room;
}

static struct engine_request completion_request(const struct completion *c, struct completion_part *part)
{
    const struct api_request *api = c->api;
    const struct prepared *p = &c->call->prepared;
    struct engine_request r;
    engine_request_defaults(&r);
    r.prompt = p->ids[part->prompt_idx].ids;
    r.n_prompt = p->ids[part->prompt_idx].n;
    r.n_choices = api->n_choices;
    r.max_tokens = completion_max_tokens(c, r.n_prompt);
    r.min_tokens = api->min_tokens;
    r.ignore_eos = api->ignore_eos;
    r.n_logprobs = api->n_logprobs;
    r.n_prompt_logprobs = api->echo ? api->n_logprobs : -1;
    r.temperature = api->temperature;
    r.top_p = api->top_p;
    r.min_p = api->min_p;
    r.typical_p = api->typical_p;
    r.repetition_penalty = api->repetition_penalty;
    r.frequency_penalty = api->frequency_penalty;
    r.presence_penalty = api->presence_penalty;
    r.top_k = api->top_k;
    r.seed = (uint64_t)c->origin.seed;
    r.bias = api->bias;
    r.n_bias = api->n_bias;
    r.stops = api->stops;
    r.n_stops = api->n_stops;
    r.stop_ids = api->stop_ids;
    r.n_stop_ids = api->n_stop_ids;
    r.cache_scope = c->call->app->opt.server_wide_prefix_cache ? 0 : (uint64_t)(c->call->key_idx + 1);
    r.user = part;
    return r;
}

/* Which prompt of a list is too long. */
static void completion_name_prompt(const struct completion *c, const struct engine_request *requests, struct err *err)
{
    struct err plain = *err;
    char path[48];
    size_t i = 0;
    while (i < c->n_parts && requests[i].n_prompt < (size_t)c->call->app->info->n_ctx)
        i++;
    if (i == c->n_parts || strncmp(plain.msg, "prompt ", 7) != 0)
        return;
    api_prompt_path(c->api, i, path, sizeof path);
    err_set_param(err, plain.code, path, "%s %s", path, plain.msg + 7);
}

/* The engine speaks of prompt and max_tokens; a chat's client wrote other names. */
static void completion_name_field(const struct completion *c, const struct engine_request *requests, struct err *err)
{
    if (c->api->prompt_is_list && strcmp(err->param, "prompt") == 0)
        completion_name_prompt(c, requests, err);
    if (c->head.chat && strncmp(err->param, "prompt", 6) == 0)
        snprintf(err->param, sizeof err->param, "messages");
    else if (strcmp(err->param, "max_tokens") == 0 && json_is_integer(json_object_get(c->api->root, "max_completion_tokens")))
        snprintf(err->param, sizeof err->param, "max_completion_tokens");
}

static int completion_submit(struct completion *c, struct err *err)
{
    struct arena *arena = &c->call->arena;
    struct engine_request *requests = arena_alloc(arena, c->n_parts * sizeof *requests);
    uint64_t *ids = arena_alloc(arena, c->n_parts * sizeof *ids);
    if (requests == NULL || ids == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu prompts", c->n_parts);
    for (size_t i = 0; i < c->n_parts; i++)
        requests[i] = completion_request(c, &c->parts[i]);
    if (engine_submit(c->call->app->engine, requests, c->n_parts, ids, err) != 0) {
        completion_name_field(c, requests, err);
        return -1;
    }
    for (size_t i = 0; i < c->n_parts; i++)
        c->parts[i].id = ids[i];
    c->n_open = c->n_parts;
    return 0;
}

static void completion_init_records(struct completion *c)
{
    enum logprobs_style style = c->head.chat ? LOGPROBS_CHAT : LOGPROBS_LEGACY;
    for (size_t i = 0; i < c->n_parts; i++) {
        struct completion_part *part = &c->parts[i];
        *part = (struct completion_part){.c = c, .prompt_idx = i};
        logprobs_init(&part->prompt_logprobs, style, COMPLETION_MAX_LOGPROB_BYTES);
        if (c->api->echo) {
            part->prompt_logprobs.count_special = c->api->prompts[i].ids != NULL;
            part->prompt_logprobs.strip_space = c->call->app->info->strips_leading_space;
        }
    }
    for (size_t i = 0; i < c->n_choices; i++) {
        c->choices[i] = (struct completion_choice){.finish = {.why = ENGINE_FINISH_NONE, .stop_id = -1}};
        buf_init(&c->choices[i].text, COMPLETION_MAX_TEXT_BYTES);
        logprobs_init(&c->choices[i].logprobs, style, COMPLETION_MAX_LOGPROB_BYTES);
    }
}

static struct completion *completion_create(struct call *call, struct err *err)
{
    struct app *app = call->app;
    struct completion *c = arena_alloc(&call->arena, sizeof *c);
    size_t n_parts = call->prepared.n_prompts, n_choices = n_parts * (size_t)call->prepared.api.n_choices;
    struct completion_part *parts = arena_alloc(&call->arena, n_parts * sizeof *parts);
    struct completion_choice *choices = arena_alloc(&call->arena, n_choices * sizeof *choices);
    if (c == NULL || parts == NULL || choices == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %zu choices", n_choices);
        return NULL;
    }
    const struct api_request *api = &call->prepared.api;
    *c = (struct completion){.call = call, .api = api, .parts = parts, .n_parts = n_parts, .choices = choices, .n_choices = n_choices};
    c->head = (struct reply_head){
        .chat = api->kind == API_CHAT,
        .id = call->id,
        .created_s = call->created_s,
        .model = app->prepare.model_name,
        .fingerprint = app->fingerprint,
    };
    c->origin = (struct reply_origin){
        .seed = api->has_seed ? api->seed : (int64_t)(app_random_u64() & COMPLETION_SEED_MASK),
        .used_now = call->prepared.used_now,
        .now_s = api->now_s,
    };
    c->last_sent_ns = call->arrived_ns;
    if (api->stream && sse_init(&c->sse, &c->head, api->include_usage, &call->arena, err) != 0)
        return NULL;
    completion_init_records(c);
    return c;
}

void completion_start(struct call *call)
{
    struct err *err = &call->err;
    struct completion *c = NULL;
    int rc = call->rc;
    if (rc == 0 && call->app->draining)
        rc = err_set(err, ERR_STOPPING, "the server is stopping");
    if (rc == 0) {
        c = completion_create(call, err);
        rc = c != NULL ? completion_submit(c, err) : -1;
    }
    if (rc != 0) {
        call_fail(call, err);
        return;
    }
    call->completion = c;
    prepared_submitted(&call->prepared);
}

/* ---- output ---- */

static void completion_fail(struct completion *c, const struct err *err)
{
    if (c->failure.code == ERR_NONE)
        c->failure = *err;
    completion_cancel(c);
}

static void completion_fail_memory(struct completion *c)
{
    struct err err;
    err_set(&err, ERR_NOMEM, "the answer is larger than one request may hold");
    completion_fail(c, &err);
}

/* An echoed prompt with log-probabilities is one event, and the only one that can be so large. */
static void completion_fail_event(struct completion *c, size_t n)
{
    struct err err;
    err_set_param(&err, ERR_UNSUPPORTED, "echo", "echo with logprobs makes one event of %zu bytes; a stream's limit is %u; ask without stream", n,
                  COMPLETION_MAX_EVENT_BYTES);
    completion_fail(c, &err);
}

static void completion_set_paused(struct completion *c, bool paused)
{
    if (c->paused == paused)
        return;
    c->paused = paused;
    c->call->app->metrics.paused += paused;
    for (size_t i = 0; i < c->n_parts; i++) {
        if (c->parts[i].ended)
            continue;
        if (paused)
            engine_pause(c->call->app->engine, c->parts[i].id);
        else
            engine_resume(c->call->app->engine, c->parts[i].id);
    }
}

static bool completion_silent(const struct completion *c)
{
    return c->call->gone || c->call->x == NULL;
}

/* Sends and empties the scratch buffer, beginning the stream if need be. */
static void completion_flush(struct completion *c)
{
    struct buf *out = &c->call->app->scratch;
    if (out->failed)
        completion_fail_memory(c);
    else if (out->n > COMPLETION_MAX_EVENT_BYTES)
        completion_fail_event(c, out->n);
    else if (!completion_silent(c) && (c->call->status != 0 || call_stream_begin(c->call))) {
        c->last_sent_ns = uv_hrtime();
        if (out->n > 0 && !http_stream_send(c->call->x, out->p, out->n))
            completion_set_paused(c, true);
    }
    buf_clear(out);
}

/* What stands before a choice's own text: the role, or the echoed prompt. */
static void completion_open_choice(struct completion *c, struct completion_part *part, int index)
{
    struct completion_choice *ch = &c->choices[index];
    if (ch->opened)
        return;
    ch->opened = true;
    if (c->api->stream && c->head.chat)
        sse_role(&c->sse, &c->call->app->scratch, index);
    if (!c->api->echo)
        return;
    const struct engine_text *echo = &c->call->prepared.echo[part->prompt_idx];
    logprobs_append(&ch->logprobs, &part->prompt_logprobs);
    ch->logprobs.n_chars = utf8_n_chars(echo->p, echo->n);
    if (c->api->stream) {
        sse_text(&c->sse, &c->call->app->scratch, index, echo->p, echo->n, c->api->n_logprobs >= 0 ? &ch->logprobs : NULL);
        logprobs_clear(&ch->logprobs);
    } else {
        buf_append(&ch->text, echo->p, echo->n);
    }
}

static void completion_count_tokens(struct completion *c, struct completion_choice *ch, size_t n)
{
    struct metrics *m = &c->call->app->metrics;
    uint64_t now = uv_hrtime();
    if (n == 0)
        return;
    if (c->first_ns == 0) {
        c->first_ns = now;
        metrics_observe(&m->ttft, (double)(now - c->call->arrived_ns) / 1e9, 1);
    }
    if (ch->last_ns != 0)
        metrics_observe(&m->inter_token, (double)(now - ch->last_ns) / 1e9 / (double)n, n);
    ch->last_ns = now;
}

/* Text and tokens of one event. */
static void completion_take(struct completion *c, struct completion_part *part, const struct engine_event *ev)
{
    int index = (int)part->prompt_idx * c->api->n_choices + ev->choice;
    struct completion_choice *ch = &c->choices[index];
    struct buf *out = &c->call->app->scratch;
    completion_count_tokens(c, ch, ev->n_tokens);
    completion_open_choice(c, part, index);
    if (c->api->n_logprobs >= 0)
        logprobs_add(&ch->logprobs, c->call->app->engine, ev->tokens, ev->n_tokens);
    bool last = ev->type == ENGINE_CHOICE;
    if (!c->api->stream) {
        buf_append(&ch->text, ev->text, ev->n_text);
    } else if (ev->n_text > 0 || (last && ch->logprobs.n > 0)) {
        sse_text(&c->sse, out, index, ev->text, ev->n_text, c->api->n_logprobs >= 0 ? &ch->logprobs : NULL);
        logprobs_clear(&ch->logprobs);
    }
    if (ch->text.failed || logprobs_failed(&ch->logprobs))
        completion_fail_memory(c);
}

static bool completion_is_own_end(enum engine_finish why)
{
    return why == ENGINE_FINISH_STOP || why == ENGINE_FINISH_LENGTH;
}

static void completion_finish_choice(struct completion *c, struct completion_part *part, const struct engine_event *ev)
{
    int index = (int)part->prompt_idx * c->api->n_choices + ev->choice;
    struct completion_choice *ch = &c->choices[index];
    ch->finish.why = ev->finish;
    if (ev->matched_stop >= 0 && ev->matched_stop < c->api->n_stops)
        ch->finish.stop = &c->api->stops[ev->matched_stop];
    for (int i = 0; i < c->api->n_stop_ids; i++)
        if (c->api->stop_ids[i] == ev->matched_stop_id)
            ch->finish.stop_id = ev->matched_stop_id;
    if (c->api->stream && completion_is_own_end(ev->finish))
        sse_finish(&c->sse, &c->call->app->scratch, index, &ch->finish, &c->origin);
}

/* ---- the end ---- */

static void completion_reply(struct completion *c)
{
    struct buf body;
    buf_init(&body, COMPLETION_MAX_REPLY_BYTES);
    reply_begin(&body, &c->head);
    for (size_t i = 0; i < c->n_choices; i++)
        reply_choice(&body, &c->head, (int)i, &c->choices[i].text, c->api->n_logprobs >= 0 ? &c->choices[i].logprobs : NULL, &c->choices[i].finish);
    reply_end(&body, &c->usage, &c->origin);
    if (body.failed)
        completion_fail_memory(c);
    else
        call_reply(c->call, 200, &body);
    buf_finish(&body);
}

static void completion_end_stream(struct completion *c)
{
    struct buf *out = &c->call->app->scratch;
    if (c->failure.code != ERR_NONE) {
        sse_error(out, &c->failure);
    } else if (c->api->include_usage) {
        sse_usage(&c->sse, out, &c->usage);
    }
    buf_puts(out, SSE_DONE);
    completion_flush(c);
    if (completion_silent(c))
        return;
    if (c->call->status != 0)
        http_stream_end(c->call->x);
    else
        call_fail(c->call, &c->failure); /* not even the last event could be made */
}

static void completion_answer(struct completion *c)
{
    if (completion_silent(c))
        return;
    if (c->failure.code == ERR_NONE && !c->api->stream)
        completion_reply(c);
    if (c->failure.code != ERR_NONE && c->call->status == 0)
        call_fail(c->call, &c->failure);
    else if (c->api->stream)
        completion_end_stream(c);
}

static void completion_log(const struct completion *c)
{
    struct call *call = c->call;
    char line[512];
    uint64_t now = uv_hrtime();
    double ttft_ms = c->first_ns != 0 ? (double)(c->first_ns - call->arrived_ns) / 1e6 : 0;
    double decode_s = c->first_ns != 0 ? (double)(now - c->first_ns) / 1e9 : 0;
    double tok_s = decode_s > 0 && c->usage.n_output > c->n_choices ? (double)(c->usage.n_output - c->n_choices) / decode_s : 0;
    if (call->app->opt.log == NULL)
        return;
    call->logged = true;
    int n = snprintf(line, sizeof line, "request id=%s route=%s status=%d key=%d stream=%d prompt=%" PRIu64 " cached=%" PRIu64 " output=%" PRIu64,
                     call->id, call->route->path, call->status, call->key_idx, c->api->stream, c->usage.n_prompt,
                     c->usage.n_cached, c->usage.n_output);
    snprintf(line + n, sizeof line - (size_t)n, " ttft_ms=%.1f total_ms=%.1f tok_s=%.1f finish=%s%s", ttft_ms,
             (double)(now - call->arrived_ns) / 1e6, tok_s, reply_finish_name(c->worst), call->gone ? " client=gone" : "");
    call->app->opt.log(call->app->opt.log_arg, line);
}

static void completion_free_records(struct completion *c)
{
    for (size_t i = 0; i < c->n_parts; i++)
        logprobs_finish(&c->parts[i].prompt_logprobs);
    for (size_t i = 0; i < c->n_choices; i++) {
        buf_finish(&c->choices[i].text);
        logprobs_finish(&c->choices[i].logprobs);
    }
}

/* Once, after the last END. */
static void completion_end(struct completion *c)
{
    struct call *call = c->call;
    struct metrics *m = &call->app->metrics;
    completion_answer(c);
    metrics_observe(&m->e2e, (double)(uv_hrtime() - call->arrived_ns) / 1e9, 1);
    metrics_observe(&m->prompt_tokens, (double)c->usage.n_prompt, 1);
    metrics_observe(&m->output_tokens, (double)c->usage.n_output, 1);
    for (size_t i = 0; i < c->n_choices; i++)
        m->finished[c->choices[i].finish.why != ENGINE_FINISH_NONE ? c->choices[i].finish.why : c->worst]++;
    completion_log(c);
    completion_free_records(c);
    call->completion = NULL;
    call_release(call);
}

static void completion_end_part(struct completion *c, struct completion_part *part, const struct engine_event *ev)
{
    struct err err;
    assert(!part->ended);
    part->ended = true;
    c->usage.n_prompt += (uint64_t)ev->n_prompt;
    c->usage.n_cached += (uint64_t)ev->n_cached;
    c->usage.n_output += (uint64_t)ev->n_output;
    if (ev->finish > c->worst)
        c->worst = ev->finish;
    if (ev->queue_ms >= 0)
        metrics_observe(&c->call->app->metrics.queue, (double)ev->queue_ms / 1e3, 1);
    if (ev->finish == ENGINE_FINISH_ERROR) {
        completion_fail(c, &ev->err);
    } else if (ev->finish == ENGINE_FINISH_CANCELLED && c->failure.code == ERR_NONE) {
        err_set(&err, ERR_STOPPING, "the server is stopping; the answer was cut off");
        completion_fail(c, &err);
    }
    c->n_open--;
}

void completion_event(const struct engine_event *ev)
{
    struct completion_part *part = ev->user;
    struct completion *c = part->c;
    bool heard = !completion_silent(c) && c->failure.code == ERR_NONE;
    switch (ev->type) {
    case ENGINE_PROMPT:
        if (heard && c->api->echo && c->api->n_logprobs >= 0)
            logprobs_add(&part->prompt_logprobs, c->call->app->engine, ev->tokens, ev->n_tokens);
        break;
    case ENGINE_TEXT:
    case ENGINE_CHOICE:
        if (!heard)
            break;
        /* A choice that was broken off says nothing more: while no byte is out, END can still be a real status. */
        if (ev->type == ENGINE_TEXT || completion_is_own_end(ev->finish))
            completion_take(c, part, ev);
        if (ev->type == ENGINE_CHOICE)
            completion_finish_choice(c, part, ev);
        if (c->call->app->scratch.n > 0 || c->call->app->scratch.failed)
            completion_flush(c);
        break;
    case ENGINE_END:
        completion_end_part(c, part, ev);
        if (c->n_open == 0)
            completion_end(c);
        break;
    }
}

void completion_cancel(struct completion *c)
{
    if (c->cancelled)
        return;
    c->cancelled = true;
    for (size_t i = 0; i < c->n_parts; i++)
        if (!c->parts[i].ended)
            engine_cancel(c->call->app->engine, c->parts[i].id);
}

void completion_drained(struct completion *c)
{
    completion_set_paused(c, false);
}

void completion_tick(struct completion *c, uint64_t now_ns)
{
    uint64_t limit_ns = (uint64_t)c->call->app->opt.keepalive_s * 1000000000u;
    if (limit_ns == 0 || !c->api->stream || c->paused || c->cancelled || completion_silent(c) || now_ns - c->last_sent_ns < limit_ns)
        return;
    buf_puts(&c->call->app->scratch, SSE_KEEPALIVE);
    completion_flush(c);
}

void completion_drop(struct completion *c)
{
    struct call *call = c->call;
    completion_free_records(c);
    call->completion = NULL;
    call_release(call);
}

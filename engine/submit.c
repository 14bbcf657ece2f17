/* submit.c: the loop thread's side: judge a request at the door, take all memory that its run will need, hand it over, and free it after its END.
 *
 * The door is the only place that refuses. What passes it can be computed: ids and numbers are in range, prompt and max_tokens fit the context (hence
 * the pool), and there is a place for every sequence. Each check names the field as the OpenAI API spells it. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"

#define MAX_RETRY_AFTER_S 600

void engine_request_defaults(struct engine_request *r)
{
    *r = (struct engine_request){.n_choices = 1,
                                 .max_tokens = -1,
                                 .n_logprobs = -1,
                                 .n_prompt_logprobs = -1,
                                 .temperature = 1,
                                 .top_p = 1,
                                 .typical_p = 1,
                                 .repetition_penalty = 1};
}

/* ---- the door ---- */

static int check_range(const char *name, double value, double low, double high, struct err *err)
{
    if (value >= low && value <= high)
        return 0;
    return err_set_param(err, ERR_INVALID, name, "%s is %g; it must lie between %g and %g", name, value, low, high);
}

static int check_sampling(const struct engine_request *q, struct err *err)
{
    if (check_range("temperature", (double)q->temperature, 0, 100, err) != 0 || check_range("top_p", (double)q->top_p, 0, 1, err) != 0 ||
        check_range("min_p", (double)q->min_p, 0, 1, err) != 0 || check_range("typical_p", (double)q->typical_p, 0, 1, err) != 0 ||
        check_range("frequency_penalty", (double)q->frequency_penalty, -100, 100, err) != 0 ||
        check_range("presence_penalty", (double)q->presence_penalty, -100, 100, err) != 0)
        return -1;
    if (!(q->repetition_penalty > 0 && q->repetition_penalty <= 100))
        return err_set_param(err, ERR_INVALID, "repetition_penalty", "repetition_penalty is %g; it must be above 0 and at most 100",
                             (double)q->repetition_penalty);
    return 0;
}

static int check_ids(const struct engine *e, const char *name, const int32_t *ids, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->info.n_vocab)
            return err_set_param(err, ERR_INVALID, name, "%s holds token id %d; the model has ids 0 to %d", name, ids[i], e->info.n_vocab - 1);
    return 0;
}

static int check_lists(const struct engine *e, const struct engine_request *q, struct err *err)
{
    if (q->n_stops < 0 || q->n_stops > ENGINE_MAX_STOPS)
        return err_set_param(err, ERR_INVALID, "stop", "stop has %d strings; the limit is %d", q->n_stops, ENGINE_MAX_STOPS);
    for (int i = 0; i < q->n_stops; i++)
        if (q->stops[i].n < 1 || q->stops[i].n > ENGINE_MAX_STOP_BYTES)
            return err_set_param(err, ERR_INVALID, "stop", "stop[%d] is %zu bytes; it must be 1 to %d", i, q->stops[i].n, ENGINE_MAX_STOP_BYTES);
    if (q->n_stop_ids < 0 || q->n_stop_ids > ENGINE_MAX_STOP_IDS)
        return err_set_param(err, ERR_INVALID, "stop_token_ids", "stop_token_ids has %d ids; the limit is %d", q->n_stop_ids, ENGINE_MAX_STOP_IDS);
    if (check_ids(e, "stop_token_ids", q->stop_ids, (size_t)q->n_stop_ids, err) != 0)
        return -1;
    if (q->n_bias < 0 || q->n_bias > ENGINE_MAX_BIAS)
        return err_set_param(err, ERR_INVALID, "logit_bias", "logit_bias has %d entries; the limit is %d", q->n_bias, ENGINE_MAX_BIAS);
    for (int i = 0; i < q->n_bias; i++) {
        if (check_ids(e, "logit_bias", &q->bias[i].id, 1, err) != 0)
            return -1;
        if (isnan(q->bias[i].bias))
            return err_set_param(err, ERR_INVALID, "logit_bias", "logit_bias of token %d is not a number", q->bias[i].id);
    }
    return 0;
}

static int check_counts(const struct engine_request *q, struct err *err)
{
    if (q->n_choices < 1 || q->n_choices > ENGINE_MAX_CHOICES)
        return err_set_param(err, ERR_INVALID, "n", "n is %d; it must be 1 to %d", q->n_choices, ENGINE_MAX_CHOICES);
    if (q->min_tokens < 0 || (q->max_tokens >= 0 && q->min_tokens > q->max_tokens))
        return err_set_param(err, ERR_INVALID, "min_tokens", "min_tokens is %d; it must be 0 or more and at most max_tokens", q->min_tokens);
    if (q->n_logprobs < -1 || q->n_logprobs > ENGINE_MAX_TOP_LOGPROBS)
        return err_set_param(err, ERR_INVALID, "logprobs", "logprobs is %d; the limit is %d", q->n_logprobs, ENGINE_MAX_TOP_LOGPROBS);
    if (q->n_prompt_logprobs < -1 || q->n_prompt_logprobs > ENGINE_MAX_TOP_LOGPROBS)
        return err_set_param(err, ERR_INVALID, "prompt_logprobs", "prompt_logprobs is %d; the limit is %d", q->n_prompt_logprobs,
                             ENGINE_MAX_TOP_LOGPROBS);
    return 0;
}

static int check_context(const struct engine *e, const struct engine_request *q, struct err *err)
{
    size_t n_ctx = (size_t)e->info.n_ctx;
    if (q->n_prompt < 1)
        return err_set_param(err, ERR_INVALID, "prompt", "prompt has no tokens");
    if (q->n_prompt >= n_ctx)
        return err_set_param(err, ERR_CONTEXT, "prompt", "prompt is %zu tokens; the context holds %zu", q->n_prompt, n_ctx);
    if (q->max_tokens >= 0 && (size_t)q->max_tokens > n_ctx - q->n_prompt)
        return err_set_param(err, ERR_CONTEXT, "max_tokens", "prompt is %zu tokens and max_tokens is %d, together %zu; the context holds %zu",
                             q->n_prompt, q->max_tokens, q->n_prompt + (size_t)q->max_tokens, n_ctx);
    if ((size_t)q->min_tokens > n_ctx - q->n_prompt) /* max_tokens is absent */
        return err_set_param(err, ERR_CONTEXT, "min_tokens", "prompt is %zu tokens and min_tokens is %d, together %zu; the context holds %zu",
                             q->n_prompt, q->min_tokens, q->n_prompt + (size_t)q->min_tokens, n_ctx);
    return 0;
}

static int check_request(const struct engine *e, const struct engine_request *q, struct err *err)
{
    if (check_counts(q, err) != 0 || check_context(e, q, err) != 0 || check_ids(e, "prompt", q->prompt, q->n_prompt, err) != 0 ||
        check_sampling(q, err) != 0)
        return -1;
    return check_lists(e, q, err);
}

/* ---- making a request ---- */

static int compare_bias(const void *a, const void *b)
{
    const struct logit_bias *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool copy_lists(struct request *r, const struct engine_request *q)
{
    r->bias = malloc(sizeof *r->bias * ((size_t)q->n_bias + 1));
    r->n_end = (int)r->engine->info.n_end_tokens;
    r->n_stop_ids = q->n_stop_ids;
    r->stop_ids = malloc(sizeof *r->stop_ids * (size_t)(r->n_end + q->n_stop_ids + 1));
    size_t n_bytes = 0;
    for (int i = 0; i < q->n_stops; i++)
        n_bytes += q->stops[i].n;
    r->stop_bytes = malloc(n_bytes + 1);
    if (r->bias == NULL || r->stop_ids == NULL || r->stop_bytes == NULL)
        return false;
    for (int i = 0; i < q->n_bias; i++)
        r->bias[i] = (struct logit_bias){.id = q->bias[i].id, .bias = q->bias[i].bias};
    qsort(r->bias, (size_t)q->n_bias, sizeof *r->bias, compare_bias);
    memcpy(r->stop_ids, r->engine->info.end_tokens, sizeof *r->stop_ids * (size_t)r->n_end);
    if (q->n_stop_ids > 0)
        memcpy(r->stop_ids + r->n_end, q->stop_ids, sizeof *r->stop_ids * (size_t)q->n_stop_ids);
    char *p = r->stop_bytes;
    for (int i = 0; i < q->n_stops; i++) {
        memcpy(p, q->stops[i].p, q->stops[i].n);
        r->stops[i] = (struct token_str){.p = p, .n = q->stops[i].n};
        p += q->stops[i].n;
    }
    r->n_stops = q->n_stops;
    return true;
}

static bool init_choice(struct request *r, const struct engine_request *q, int index, int cap)
{
    struct choice *c = &r->choices[index];
    const struct engine *e = r->engine;
    c->req = r;
    c->index = index;
    c->max_new = cap - r->n_prompt;
    detok_init(&c->detok, e->tok, r->stops, r->n_stops);
    c->seq = (struct seq){.scope = q->cache_scope,
                          .tokens = r->tokens + (size_t)index * (size_t)cap,
                          .cap = cap,
                          .pages = r->pages + (size_t)index * (size_t)seq_pages_for(cap),
                          .n_prompt = r->n_prompt,
                          .n_tokens = r->n_prompt,
                          .n_to_score = index == 0 && q->n_prompt_logprobs >= 0 ? r->n_prompt - 1 : 0,
                          .wants_next = c->max_new > 0,
                          .leader = index > 0 ? &r->choices[0].seq : NULL,
                          .owner = c};
    seq_init(&c->seq);
    memcpy(c->seq.tokens, q->prompt, q->n_prompt * sizeof *q->prompt);
    if (q->repetition_penalty == 1 && q->frequency_penalty == 0 && q->presence_penalty == 0)
        return true;
    c->counts = sampler_counts_create(cap < e->info.n_vocab ? cap : e->info.n_vocab);
    for (size_t i = 0; c->counts != NULL && i < q->n_prompt; i++)
        sampler_counts_add(c->counts, q->prompt[i], false);
    return c->counts != NULL;
}

static bool init_choices(struct request *r, const struct engine_request *q)
{
    size_t n = (size_t)q->n_choices;
    int cap = q->max_tokens >= 0 ? r->n_prompt + q->max_tokens : r->engine->info.n_ctx;
    r->choices = calloc(n, sizeof *r->choices);
    r->tokens = malloc(sizeof *r->tokens * n * (size_t)cap);
    r->pages = malloc(sizeof *r->pages * n * (size_t)seq_pages_for(cap));
    if (r->choices == NULL || r->tokens == NULL || r->pages == NULL)
        return false;
    r->n_choices = r->n_live = q->n_choices;
    for (int i = 0; i < q->n_choices; i++)
        if (!init_choice(r, q, i, cap))
            return false;
    return true;
}

static bool init_prompt_scores(struct request *r, const struct engine_request *q)
{
    if (q->n_prompt_logprobs < 0)
        return true;
    r->prompt_tokens = calloc(q->n_prompt, sizeof *r->prompt_tokens);
    r->prompt_top = calloc(q->n_prompt * (size_t)q->n_prompt_logprobs + 1, sizeof *r->prompt_top);
    if (r->prompt_tokens == NULL || r->prompt_top == NULL)
        return false;
    for (size_t i = 0; i < q->n_prompt; i++)
        r->prompt_tokens[i] = (struct engine_token){.id = q->prompt[i], .logprob = NAN};
    return true;
}

static struct request *request_create(struct engine *e, const struct engine_request *q)
{
    struct request *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->engine = e;
    r->user = q->user;
    r->n_prompt = (int)q->n_prompt;
    r->min_tokens = q->min_tokens;
    r->n_logprobs = q->n_logprobs;
    r->n_prompt_logprobs = q->n_prompt_logprobs;
    r->ignore_eos = q->ignore_eos;
    r->submitted_ms = engine_now_ms();
    if (!copy_lists(r, q) || !init_choices(r, q) || !init_prompt_scores(r, q)) {
        request_destroy(r);
        return NULL;
    }
    r->params = (struct sampler_params){.temperature = q->temperature,
                                        .top_k = q->top_k,
                                        .top_p = q->top_p,
                                        .min_p = q->min_p,
                                        .typical_p = q->typical_p,
                                        .repetition_penalty = q->repetition_penalty,
                                        .frequency_penalty = q->frequency_penalty,
                                        .presence_penalty = q->presence_penalty,
                                        .seed = q->seed,
                                        .n_bias = q->n_bias,
                                        .bias = r->bias};
    return r;
}

void request_destroy(struct request *r)
{
    if (r == NULL)
        return;
    for (int i = 0; i < r->n_choices; i++)
        sampler_counts_destroy(r->choices[i].counts);
    free(r->choices);
    free(r->tokens);
    free(r->pages);
    free(r->bias);
    free(r->stop_ids);
    free(r->stop_bytes);
    free(r->prompt_tokens);
    free(r->prompt_top);
    free(r);
}

/* ---- the registry ---- */

static struct request **registry_link(struct engine *e, uint64_t id)
{
    struct request **link = &e->registry[id % REGISTRY_BUCKETS];
    while (*link != NULL && (*link)->id != id)
        link = &(*link)->hash_next;
    return link;
}

static void registry_remove(struct engine *e, struct request *r)
{
    *registry_link(e, r->id) = r->hash_next;
    r->hash_next = NULL;
}

void engine_forget_all(struct engine *e)
{
    for (size_t b = 0; b < REGISTRY_BUCKETS; b++)
        while (e->registry[b] != NULL) {
            struct request *r = e->registry[b];
            e->registry[b] = r->hash_next;
            request_destroy(r);
        }
    while (e->ended != NULL) {
        struct request *r = e->ended;
        e->ended = r->hash_next;
        request_destroy(r);
    }
}

/* ---- the calls ---- */

/* Seconds until n_short places will have become free, by the recent rate; before any end, by the sequence that is nearest to its limit. */
static int retry_after_s(struct engine *e, int n_short)
{
    struct mail_figures f = mailbox_figures(e->mail);
    double ms = f.end_interval_ms > 0 ? f.end_interval_ms * n_short : f.first_end_ms;
    double s = ceil(ms / 1000);
    return s < 1 ? 1 : s > MAX_RETRY_AFTER_S ? MAX_RETRY_AFTER_S : (int)s;
}

static int reserve(struct engine *e, int n_seqs, struct err *err)
{
    int capacity = e->info.max_seqs + e->info.max_queue, n_live;
    if (n_seqs > capacity)
        return err_set_param(err, ERR_INVALID, "n", "the request is %d sequences; the server takes %d at most (%d running, %d waiting)", n_seqs,
                             capacity, e->info.max_seqs, e->info.max_queue);
    if (mailbox_reserve(e->mail, n_seqs, capacity, &n_live))
        return 0;
    int after_s = retry_after_s(e, n_seqs - (capacity - n_live));
    err_set(err, ERR_BUSY, "%d of %d places are taken and the request needs %d; try again in %d s", n_live, capacity, n_seqs, after_s);
    if (err != NULL)
        err->retry_after_s = after_s;
    return -1;
}

int engine_submit(struct engine *e, const struct engine_request *reqs, size_t n, uint64_t *ids_out, struct err *err)
{
    assert(n >= 1);
    if (e->draining)
        return err_set(err, ERR_STOPPING, "the server is stopping and takes no new request");
    if (e->faulted)
        return err_set(err, ERR_DEVICE, "the engine has failed and takes no new request");
    long n_seqs = 0;
    for (size_t i = 0; i < n; i++) {
        if (check_request(e, &reqs[i], err) != 0)
            return -1;
        n_seqs += reqs[i].n_choices;
        if (n_seqs > INT32_MAX)
            n_seqs = INT32_MAX;
    }
    if (reserve(e, (int)n_seqs, err) != 0)
        return -1;
    struct request *made = NULL, **tail = &made;
    for (size_t i = 0; i < n; i++) {
        *tail = request_create(e, &reqs[i]);
        if (*tail == NULL)
            goto no_memory;
        tail = &(*tail)->hash_next;
    }
    for (size_t i = 0; i < n; i++) {
        struct request *r = made;
        made = r->hash_next;
        r->id = ids_out[i] = ++e->last_id;
        r->hash_next = e->registry[r->id % REGISTRY_BUCKETS];
        e->registry[r->id % REGISTRY_BUCKETS] = r;
        mailbox_post(e->mail, &r->mail, MAIL_SUBMIT);
    }
    return 0;

no_memory:
    while (made != NULL) {
        struct request *r = made;
        made = r->hash_next;
        request_destroy(r);
    }
    mailbox_unreserve(e->mail, (int)n_seqs);
    return err_set(err, ERR_NOMEM, "no memory for the request");
}

static void post(struct engine *e, uint64_t id, unsigned command)
{
    struct request *r = *registry_link(e, id);
    if (r != NULL)
        mailbox_post(e->mail, &r->mail, command);
}

void engine_cancel(struct engine *e, uint64_t id)
{
    post(e, id, MAIL_CANCEL);
}

void engine_pause(struct engine *e, uint64_t id)
{
    post(e, id, MAIL_PAUSE);
}

void engine_resume(struct engine *e, uint64_t id)
{
    post(e, id, MAIL_RESUME);
}

void engine_drain(struct engine *e)
{
    e->draining = true;
}

size_t engine_poll(struct engine *e, const struct engine_event **events_out)
{
    while (e->ended != NULL) {
        struct request *r = e->ended;
        e->ended = r->hash_next;
        request_destroy(r);
    }
    size_t n = mailbox_poll(e->mail, events_out);
    for (size_t i = 0; i < n; i++) {
        if ((*events_out)[i].type != ENGINE_END)
            continue;
        struct request *r = *registry_link(e, (*events_out)[i].id);
        assert(r != NULL);
        registry_remove(e, r);
        mailbox_forget(e->mail, &r->mail);
        r->hash_next = e->ended;
        e->ended = r;
    }
    return n;
}

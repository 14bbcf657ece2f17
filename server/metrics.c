/* metrics.c: see metrics.h. Times are measured where events leave the engine, not when bytes reach the client, so they tell about the server.
 *
 * Bucket borders are vLLM's with finer ones below, since a small model on a quiet machine answers within milliseconds. Every label has few values:
 * routes and statuses are counted by class, never by what a client sent. */
#include "server/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

static const double metrics_ttft_s[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5, 0.75,
                                        1,     2.5,   5,    7.5,  10,   20,   40,   80,   160,  640, 2560};
static const double metrics_token_s[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                                         0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
static const double metrics_latency_s[] = {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,
                                           15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920, 7680};
static const double metrics_tokens[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

#define METRICS_INIT(h, array) metrics_init_one(h, array, (int)(sizeof(array) / sizeof((array)[0])))

static void metrics_init_one(struct metrics_histogram *h, const double *bounds, int n)
{
    assert(n <= METRICS_MAX_BUCKETS);
    *h = (struct metrics_histogram){.bounds = bounds, .n_bounds = n};
}

void metrics_init(struct metrics *m)
{
    *m = (struct metrics){0};
    METRICS_INIT(&m->ttft, metrics_ttft_s);
    METRICS_INIT(&m->inter_token, metrics_token_s);
    METRICS_INIT(&m->e2e, metrics_latency_s);
    METRICS_INIT(&m->queue, metrics_latency_s);
    METRICS_INIT(&m->prompt_tokens, metrics_tokens);
    METRICS_INIT(&m->output_tokens, metrics_tokens);
}

void metrics_observe(struct metrics_histogram *h, double value, uint64_t n_times)
{
    int i = 0;
    while (i < h->n_bounds && value > h->bounds[i])
        i++;
    h->counts[i] += n_times;
    h->total += n_times;
    h->sum += value * (double)n_times;
}

void metrics_count_reply(struct metrics *m, int route_idx, int status)
{
    enum metrics_status s = status == 429   ? METRICS_429
                            : status >= 500 ? METRICS_5XX
                            : status >= 400 ? METRICS_4XX
                            : status >= 300 ? METRICS_3XX
                                            : METRICS_2XX;
    assert(route_idx >= 0 && route_idx < METRICS_MAX_ROUTES);
    m->replies[route_idx][s]++;
}

/* ---- the text ---- */

struct metrics_printer {
    struct buf *out;
    const struct metrics_facts *facts;
};

/* A label value: backslash, quote and line feed are escaped. */
static void metrics_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\\' || *c == '"')
            buf_puts(out, "\\");
        buf_append(out, *c == '\n' ? "\\n" : c, *c == '\n' ? 2 : 1);
    }
    buf_puts(out, "\"");
}

static void metrics_head(const struct metrics_printer *p, const char *name, const char *type, const char *help)
{
    buf_printf(p->out, "# HELP nextd:%s %s\n# TYPE nextd:%s %s\n", name, help, name, type);
}

/* nextd:<name>{model_name="...",<key>="<value>"} ; key may be NULL. */
static void metrics_sample(const struct metrics_printer *p, const char *name, const char *key, const char *value, double v)
{
    buf_printf(p->out, "nextd:%s{", name);
    metrics_label(p->out, "model_name", p->facts->model_name != NULL ? p->facts->model_name : "");
    if (key != NULL) {
        buf_puts(p->out, ",");
        metrics_label(p->out, key, value);
    }
    buf_printf(p->out, "} %.17g\n", v);
}

static void metrics_one(const struct metrics_printer *p, const char *name, const char *type, const char *help, double v)
{
    metrics_head(p, name, type, help);
    metrics_sample(p, name, NULL, NULL, v);
}

static void metrics_print_histogram(const struct metrics_printer *p, const char *name, const char *help, const struct metrics_histogram *h)
{
    char part[96], bound[32];
    uint64_t below = 0;
    metrics_head(p, name, "histogram", help);
    snprintf(part, sizeof part, "%s_bucket", name);
    for (int i = 0; i <= h->n_bounds; i++) {
        below += h->counts[i];
        snprintf(bound, sizeof bound, "%g", i < h->n_bounds ? h->bounds[i] : 0.0);
        metrics_sample(p, part, "le", i < h->n_bounds ? bound : "+Inf", (double)below);
    }
    snprintf(part, sizeof part, "%s_sum", name);
    metrics_sample(p, part, NULL, NULL, h->sum);
    snprintf(part, sizeof part, "%s_count", name);
    metrics_sample(p, part, NULL, NULL, (double)h->total);
}

static void metrics_print_engine(const struct metrics_printer *p, const struct engine_stats *s)
{
    metrics_one(p, "num_requests_running", "gauge", "Sequences that are being computed.", s->n_running);
    metrics_one(p, "num_requests_waiting", "gauge", "Sequences that wait to be computed.", s->n_waiting);
    metrics_one(p, "kv_cache_usage_perc", "gauge", "Part of the KV pages that sequences hold. 1 means all.",
                s->n_pages > 0 ? (double)s->n_pages_used / s->n_pages : 0);
    metrics_one(p, "kv_cache_cached_perc", "gauge", "Part of the KV pages that only the prefix cache holds.",
                s->n_pages > 0 ? (double)s->n_pages_cached / s->n_pages : 0);
    metrics_one(p, "prefix_cache_queries_total", "counter", "Prompt tokens that were looked up in the prefix cache.", (double)s->prefix_queries);
    metrics_one(p, "prefix_cache_hits_total", "counter", "Prompt tokens that were found in the prefix cache.", (double)s->prefix_hits);
    metrics_one(p, "prompt_tokens_total", "counter", "Prompt tokens computed.", (double)s->prompt_tokens);
    metrics_one(p, "generation_tokens_total", "counter", "Tokens drawn.", (double)s->generation_tokens);
    metrics_one(p, "num_preemptions_total", "counter", "Sequences that gave up their pages, to be computed again later.", (double)s->preemptions);
    metrics_one(p, "engine_steps_total", "counter", "Forward passes.", (double)s->steps);
    metrics_one(p, "engine_score_rows_fetched_total", "counter", "Rows of scores that the GPU handed over whole, for the host to draw from.",
                (double)s->rows_fetched);
    metrics_one(p, "engine_faulted", "gauge", "1 when the engine has failed.", s->faulted ? 1 : 0);
}

static void metrics_print_service(const struct metrics *m, const struct metrics_printer *p)
{
    static const char *const classes[METRICS_N_STATUS] = {"2xx", "3xx", "4xx", "429", "5xx"};
    metrics_head(p, "request_success_total", "counter", "Choices that ended, by reason.");
    static const char *const reasons[] = {[ENGINE_FINISH_STOP] = "stop", [ENGINE_FINISH_LENGTH] = "length", [ENGINE_FINISH_CANCELLED] = "abort",
                                          [ENGINE_FINISH_ERROR] = "error"};
    for (int i = ENGINE_FINISH_STOP; i <= ENGINE_FINISH_ERROR; i++)
        metrics_sample(p, "request_success_total", "finished_reason", reasons[i], (double)m->finished[i]);
    metrics_print_histogram(p, "time_to_first_token_seconds", "From the whole request to its first token.", &m->ttft);
    metrics_print_histogram(p, "inter_token_latency_seconds", "Between two tokens of a choice.", &m->inter_token);
    metrics_print_histogram(p, "e2e_request_latency_seconds", "From the whole request to its end.", &m->e2e);
    metrics_print_histogram(p, "request_queue_time_seconds", "From admission to the first computed row.", &m->queue);
    metrics_print_histogram(p, "request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_tokens);
    metrics_print_histogram(p, "request_generation_tokens", "Tokens drawn for a request.", &m->output_tokens);
    metrics_one(p, "client_disconnects_total", "counter", "Clients that left before the end of their answer.", (double)m->disconnects);
    metrics_one(p, "write_stalls_total", "counter", "Clients that stopped reading for too long.", (double)m->write_stalls);
    metrics_one(p, "stream_pauses_total", "counter", "Times a stream reached its output limit and its sequence was paused.", (double)m->paused);
    metrics_one(p, "http_connections", "gauge", "Open connections.", (double)p->facts->n_connections);
    metrics_one(p, "http_requests_active", "gauge", "Requests that were taken and have not ended.", (double)p->facts->n_requests);
    metrics_head(p, "http_requests_total", "counter", "Answers by route and class of status.");
    for (int i = 0; i < p->facts->n_routes; i++)
        for (int s = 0; s < METRICS_N_STATUS; s++) {
            if (m->replies[i][s] == 0)
                continue;
            buf_puts(p->out, "nextd:http_requests_total{");
            metrics_label(p->out, "route", p->facts->route_names[i]);
            buf_printf(p->out, ",status=\"%s\"} %" PRIu64 "\n", classes[s], m->replies[i][s]);
        }
}

void metrics_print(const struct metrics *m, const struct metrics_facts *facts, struct buf *out)
{
    struct metrics_printer p = {.out = out, .facts = facts};
    metrics_head(&p, "build_info", "gauge", "What runs.");
    buf_puts(out, "nextd:build_info{");
    metrics_label(out, "version", NEXTD_VERSION);
    if (facts->info != NULL) {
        buf_puts(out, ",");
        metrics_label(out, "numerics", facts->info->numerics);
        buf_puts(out, ",");
        metrics_label(out, "device", facts->info->device);
        buf_puts(out, ",");
        metrics_label(out, "model_sha256", facts->info->model_sha256);
    }
    buf_puts(out, "} 1\n");
    if (facts->stats != NULL)
        metrics_print_engine(&p, facts->stats);
    metrics_print_service(m, &p);
}

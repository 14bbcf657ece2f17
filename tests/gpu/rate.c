/* rate.c: see rate.h.
 *
 * Streams are sequences of `context` positions that each add one row a step; their pages are their own, so keys come from memory as in a server.
 * Where the runner draws on the device, steps are launched one ahead and take their tokens from its slots; else every step's scores come to the host,
 * and that is part of its time. Bytes are those that a step must read at least: all weights but an embedding that is not the output, and all keys and
 * values. The fraction is of the rate at which the device copies its own memory. */
#include "tests/gpu/rate.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/draw.h"
#include "engine/model/gguf.h"
#include "engine/model/model.h"

#define MAX_STREAMS 128
#define MAX_STEPS 200
#define WARM_STEPS 4

struct rate {
    struct model *model;
    struct runner runner;
    int n_vocab, seq_pages, context, chunk, n_streams;
    double weight_bytes, kv_bytes; /* of a step; of a position */
    int32_t *pages;
    const int32_t *tables[MAX_STREAMS];
    int32_t token[2][1024], pos[2][1024], seq[1024], out[1024];
    struct draw draws[MAX_STREAMS];
    struct drawn drawn[MAX_STREAMS];
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int32_t some_token(const struct rate *r, int i)
{
    return (int32_t)((uint32_t)(i + 1) * 2654435761u % (uint32_t)r->n_vocab);
}

static struct batch batch_of(struct rate *r, int parity, int n_rows, int n_out)
{
    return (struct batch){n_rows, r->token[parity], r->pos[parity], r->seq, r->n_streams, r->tables, n_out, r->out};
}

/* Computes positions first .. first + n - 1 of sequence 0 and the last one's scores. */
static int feed(struct rate *r, int first, int n, struct err *err)
{
    struct scores scores;
    for (int i = 0; i < n; i++) {
        r->token[0][i] = some_token(r, first + i);
        r->pos[0][i] = first + i;
        r->seq[i] = 0;
    }
    r->out[0] = n - 1;
    const struct batch b = batch_of(r, 0, n, 1);
    return r->runner.forward(r->runner.ctx, &b, &scores, err);
}

/* Gives every stream `context` positions, copied from the first one's. */
static int fill(struct rate *r, struct err *err)
{
    for (int at = 0; at < r->context; at += r->chunk)
        if (feed(r, at, r->context - at < r->chunk ? r->context - at : r->chunk, err) != 0)
            return -1;
    for (int s = 1; s < r->n_streams; s++)
        for (int left = r->context, i = 0; left > 0; left -= KV_PAGE, i++)
            r->runner.copy_page(r->runner.ctx, r->tables[s][i], r->tables[0][i], left < KV_PAGE ? left : KV_PAGE);
    return 0;
}

/* Step k of n streams. */
static struct batch decode_batch(struct rate *r, int n, int k, bool draws)
{
    int parity = k & 1;
    for (int i = 0; i < n; i++) {
        r->token[parity][i] = draws && k > 0 ? ~(i + (parity ^ 1) * n) : some_token(r, i + k);
        r->pos[parity][i] = r->context + k;
        r->seq[i] = r->out[i] = i;
        r->draws[i].slot = i + parity * n;
    }
    return batch_of(r, parity, n, n);
}

static int decode_on_host(struct rate *r, int n, int k, struct err *err)
{
    struct scores scores;
    const struct batch b = decode_batch(r, n, k, false);
    int rc = r->runner.forward(r->runner.ctx, &b, &scores, err);
    while (rc == 0 && scores.first + scores.n_out < n)
        rc = r->runner.next_scores(r->runner.ctx, &b, &scores, err);
    return rc;
}

/* Seconds of a step of n streams; < 0 after a failure. */
static double time_streams(struct rate *r, int n, double seconds, int *n_steps_out, bool *draws_out, struct err *err)
{
    static const struct sampler_params greedy = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    struct scores scores;
    double start = 0;
    int k = 0, rc = 0;
    bool draws = r->runner.launch != NULL && n <= r->runner.max_draws;
    for (int i = 0; i < n; i++)
        r->draws[i] = (struct draw){.params = &greedy, .n_top = -1};
    for (; k < MAX_STEPS && rc == 0; k++) {
        if (k == WARM_STEPS)
            start = now_s();
        if (k > WARM_STEPS + 3 && now_s() - start > seconds)
            break;
        if (!draws) {
            rc = decode_on_host(r, n, k, err);
            continue;
        }
        const struct batch b = decode_batch(r, n, k, true);
        rc = r->runner.launch(r->runner.ctx, &b, r->draws, err);
        if (rc == 0 && k > 0)
            rc = r->runner.land(r->runner.ctx, r->drawn, &scores, err);
    }
    if (draws && rc == 0)
        rc = r->runner.land(r->runner.ctx, r->drawn, &scores, err);
    *n_steps_out = k - WARM_STEPS;
    *draws_out = draws;
    return rc == 0 ? (now_s() - start) / *n_steps_out : -1;
}

static void print_line(FILE *out, const char *what, double rows, double s, double bytes, const struct bandwidth *b)
{
    fprintf(out, "  %-22s %10.1f tokens/s %9.3f ms a step %8.1f GB/s read, %5.1f %% of copying", what, rows / s, s * 1e3, bytes / s / 1e9,
            100 * bytes / s / 1e9 / b->copied_gbps);
    if (b->nominal_gbps > 0)
        fprintf(out, ", %5.1f %% of nominal", 100 * bytes / s / 1e9 / b->nominal_gbps);
    fprintf(out, "\n");
}

static int measure(struct rate *r, double seconds, int prompt, const struct bandwidth *b, FILE *out, struct err *err)
{
    static const int streams[] = {1, 8, 32, 128};
    if (feed(r, 0, prompt, err) != 0)
        return -1;
    double start = now_s();
    int n = 0;
    for (; n < 3 || (n < MAX_STEPS && now_s() - start < seconds); n++)
        if (feed(r, 0, prompt, err) != 0)
            return -1;
    char what[64];
    snprintf(what, sizeof what, "prompt of %d", prompt);
    print_line(out, what, prompt, (now_s() - start) / n, r->weight_bytes, b);
    if (fill(r, err) != 0)
        return -1;
    for (size_t i = 0; i < sizeof streams / sizeof *streams && streams[i] <= r->n_streams; i++) {
        int n_steps;
        bool draws;
        double s = time_streams(r, streams[i], seconds, &n_steps, &draws, err);
        if (s < 0)
            return -1;
        snprintf(what, sizeof what, "%d stream%s%s", streams[i], streams[i] > 1 ? "s" : "", draws ? "" : ", scores read");
        print_line(out, what, streams[i], s, r->weight_bytes + (double)streams[i] * (r->context + n_steps / 2) * r->kv_bytes, b);
    }
    return 0;
}

static int open_model(struct rate *r, const char *path, const char *device, int n_threads, struct err *err)
{
    r->seq_pages = (r->context + MAX_STEPS + KV_PAGE - 1) / KV_PAGE;
    const struct model_options opt = {.device = device, .n_threads = n_threads, .max_rows = r->chunk > r->n_streams ? r->chunk : r->n_streams,
                                      .max_out = r->n_streams, .n_pages = r->n_streams * r->seq_pages};
    if (model_open(path, &r->model, err) != 0)
        return -1;
    const struct gguf *g = model_file(r->model);
    double unread = gguf_find_tensor(g, "output.weight") != NULL ? (double)gguf_find_tensor(g, "token_embd.weight")->n_bytes : 0;
    if (model_load(r->model, &opt, err) != 0)
        return -1;
    r->runner = model_runner(r->model);
    r->n_vocab = r->runner.n_vocab;
    r->weight_bytes = (double)model_info(r->model)->weight_bytes - unread;
    r->kv_bytes = (double)model_info(r->model)->kv_bytes_per_pos;
    r->pages = malloc((size_t)opt.n_pages * sizeof *r->pages);
    if (r->pages == NULL)
        return err_set(err, ERR_NOMEM, "no memory for page tables");
    for (int i = 0; i < opt.n_pages; i++)
        r->pages[i] = i;
    for (int s = 0; s < r->n_streams; s++)
        r->tables[s] = r->pages + s * r->seq_pages;
    return 0;
}

int rate_measure(const char *path, const char *name, const char *device, int n_threads, double seconds, int context, int prompt, int max_streams,
                 const struct bandwidth *b, FILE *out, struct err *err)
{
    struct rate *r = calloc(1, sizeof *r);
    if (r == NULL)
        return err_set(err, ERR_NOMEM, "no memory to measure with");
    r->context = context;
    r->n_streams = max_streams;
    r->chunk = prompt < 1024 ? prompt : 1024;
    int rc = open_model(r, path, device, n_threads, err);
    if (rc == 0) {
        const struct model_graphs g = model_graphs(r->model);
        fprintf(out, "%s: %.1f MB of weights read a step, %.1f KB a position, context %d, %d graphs of %d nodes in %.0f ms, %.1f MB\n", name,
                r->weight_bytes / 1e6, r->kv_bytes / 1e3, context, g.n, g.n_nodes, g.ms, (double)g.n_bytes / 1e6);
        rc = measure(r, seconds, r->chunk, b, out, err);
    }
    model_close(r->model);
    free(r->pages);
    free(r);
    return rc;
}

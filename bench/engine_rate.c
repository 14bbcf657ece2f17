/* engine_rate.c: what the engine itself does in a second: a model under its runner, without a scheduler, without HTTP, driven by lines of text.
 *
 *   build/bench/engine_rate MODEL [threads [positions [streams [rows]]]] < commands > results
 *
 * The process stays while another engine takes its turn, so that pairs can alternate; between commands its threads sleep. Each result is one line of
 * JSON with wall seconds. Opening prints a line too ("op": "ready"), with what bounds are computed from.
 *
 *   prefill N REPS         a prompt of N tokens from position 0, in steps of `rows`, REPS times; the last row's scores are computed each time
 *   decode B CONTEXT STEPS B sequences of CONTEXT positions, each in KV pages of its own; one step that is not timed, then STEPS steps of one row
 *                          a sequence, every row's next token being sampled (temperature 0) and fed to the following step
 *   context STEPS C...     one prompt, growing: at each C (ascending) the seconds of all its prefill so far, and of STEPS tokens decoded there
 *   read PASSES            a plain read of as many bytes as one step reads of the weights: the median of PASSES passes
 *   limits                 bandwidth by working set and the int8 peak of this machine, now (limits.h)
 *
 * Bytes of a step are those of the file's tensors, each once: of an embedding apart from the output matrix only single rows are looked up, so it
 * does not count. Prompts are random tokens; their values do not change the time. A command that cannot be run is answered by {"error": ...}. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/limits.h"
#include "engine/model/families.h"
#include "engine/model/hparams.h"
#include "engine/model/model.h"
#include "engine/numerics/numerics.h"
#include "engine/sample/sampler.h"

#define MAX_STREAMS 1024
#define MAX_STEPS 65536

struct rate {
    struct model *model;
    struct runner runner;
    struct sampler *sampler;
    int n_threads, n_positions, n_streams, max_rows;
    int n_pages;

    /* arrays of a step: [max(max_rows, n_streams)] */
    int32_t *token, *pos, *seq, *out;
    int32_t *page_ids;         /* [n_pages] 0, 1, 2, ... */
    const int32_t **tables;    /* [n_streams] */
    struct batch batch;        /* of the last step: the backend looks at it again when more scores are asked for */

    uint64_t step_bytes;       /* of the weights that a step reads */
    uint64_t macs, vocab_macs; /* multiply-adds of a row in all other matrices, and in the output matrix */
    struct limits_span copy;   /* memory like the weights', for the plain read; made at the first use */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(const char *why)
{
    printf("{\"error\": \"%s\"}\n", why);
    return -1;
}

/* ---- steps ---- */

static int32_t random_token(const struct rate *r, int stream, int position)
{
    uint32_t x = (uint32_t)stream * 2654435761u ^ (uint32_t)position * 2246822519u;
    x = (x ^ x >> 15) * 2246822519u;
    x = (x ^ x >> 13) * 3266489917u;
    return (int32_t)((x ^ x >> 16) % (uint32_t)r->runner.n_vocab);
}

/* The scores of more of the last step's rows. */
static int next_scores(struct rate *r, struct scores *scores)
{
    struct err err;
    return r->runner.next_scores(r->runner.ctx, &r->batch, scores, &err) != 0 ? fail(err.msg) : 0;
}

static int step(struct rate *r, int n_rows, int n_seqs, int n_out, struct scores *scores)
{
    struct err err;
    r->batch = (struct batch){.n_rows = n_rows,
                              .token = r->token,
                              .pos = r->pos,
                              .seq = r->seq,
                              .n_seqs = n_seqs,
                              .pages = r->tables,
                              .n_out = n_out,
                              .out = r->out};
    return r->runner.forward(r->runner.ctx, &r->batch, scores, &err) != 0 ? fail(err.msg) : 0;
}

/* Positions first .. last - 1 of sequence 0, in steps of max_rows; scores of the last row alone. */
static int prompt(struct rate *r, int first, int last)
{
    struct scores scores;
    for (int at = first; at < last; at += r->max_rows) {
        int n = last - at < r->max_rows ? last - at : r->max_rows;
        for (int i = 0; i < n; i++) {
            r->token[i] = random_token(r, 0, at + i);
            r->pos[i] = at + i;
            r->seq[i] = 0;
        }
        r->out[0] = n - 1;
        if (step(r, n, 1, at + n == last ? 1 : 0, &scores) != 0)
            return -1;
    }
    return 0;
}

/* n_steps steps of one row each for n_seqs sequences, from position `first`; each feeds what the one before sampled. */
static int decode(struct rate *r, int n_seqs, int first, int n_steps)
{
    const struct sampler_draw draw = {0};
    struct sampler_params greedy = sampler_defaults();
    struct scores scores;
    greedy.temperature = 0;
    for (int i = 0; i < n_steps; i++) {
        for (int s = 0; s < n_seqs; s++) {
            r->pos[s] = first + i;
            r->seq[s] = s;
            r->out[s] = s;
        }
        if (step(r, n_seqs, n_seqs, n_seqs, &scores) != 0)
            return -1;
        for (int s = 0; s < n_seqs; s++) {
            if (s == scores.first + scores.n_out && next_scores(r, &scores) != 0)
                return -1;
            r->token[s] = sampler_next(r->sampler, &greedy, &draw, &scores, s);
        }
    }
    return 0;
}

/* Page tables of n_seqs sequences of n positions, none sharing a page; -1 where the pool is too small. */
static int lay_out(struct rate *r, int n_seqs, int n)
{
    int each = (n + KV_PAGE - 1) / KV_PAGE;
    if (n < 1 || n > r->n_positions || n_seqs < 1 || n_seqs > r->n_streams || (int64_t)each * n_seqs > r->n_pages)
        return fail("more positions or sequences than the pool was opened for");
    for (int s = 0; s < n_seqs; s++)
        r->tables[s] = r->page_ids + s * each;
    return each;
}

/* ---- commands ---- */

static int run_prefill(struct rate *r, int n, int reps)
{
    if (reps < 1 || reps > MAX_STEPS || lay_out(r, 1, n) < 0)
        return reps < 1 || reps > MAX_STEPS ? fail("prefill N REPS") : -1;
    double begun = now_s();
    for (int i = 0; i < reps; i++)
        if (prompt(r, 0, n) != 0)
            return -1;
    double s = now_s() - begun;
    printf("{\"op\": \"prefill\", \"tokens\": %d, \"reps\": %d, \"s\": %.6f, \"rate\": %.3f}\n", n, reps, s, n * (double)reps / s);
    return 0;
}

static int run_decode(struct rate *r, int n_seqs, int context, int n_steps)
{
    if (n_steps < 1 || n_steps > MAX_STEPS || context < 2)
        return fail("decode B CONTEXT STEPS, CONTEXT at least 2");
    int each = lay_out(r, n_seqs, context + n_steps);
    if (each < 0 || prompt(r, 0, context - 1) != 0)
        return -1;
    for (int s = 1; s < n_seqs; s++)
        for (int page = 0; page * KV_PAGE < context; page++)
            r->runner.copy_page(r->runner.ctx, s * each + page, page, KV_PAGE);
    for (int s = 0; s < n_seqs; s++)
        r->token[s] = random_token(r, s, context - 1);
    if (decode(r, n_seqs, context - 1, 1) != 0)
        return -1;
    double begun = now_s();
    if (decode(r, n_seqs, context, n_steps) != 0)
        return -1;
    double s = now_s() - begun;
    printf("{\"op\": \"decode\", \"streams\": %d, \"context\": %d, \"steps\": %d, \"s\": %.6f, \"rate\": %.3f}\n", n_seqs, context, n_steps, s,
           n_seqs * (double)n_steps / s);
    return 0;
}

/* The decoded positions are written over by the prompt's own when it goes on. */
static int run_context(struct rate *r, int n_steps, const int *contexts, int n)
{
    double prefill_s = 0;
    int from = 0;
    for (int i = 0; i < n; i++) {
        if (n_steps < 1 || n_steps > MAX_STEPS || contexts[i] <= from)
            return fail("context STEPS C..., each C greater than the one before");
        if (lay_out(r, 1, contexts[i] + n_steps) < 0)
            return -1;
        double begun = now_s();
        if (prompt(r, from, contexts[i]) != 0)
            return -1;
        prefill_s += now_s() - begun;
        from = contexts[i];
        r->token[0] = random_token(r, 0, from);
        begun = now_s();
        if (decode(r, 1, from, n_steps) != 0)
            return -1;
        double s = now_s() - begun;
        printf("{\"op\": \"context\", \"context\": %d, \"prefill_s\": %.6f, \"prefill_rate\": %.3f, \"decode_s\": %.6f, \"decode_rate\": %.3f}\n",
               from, prefill_s, from / prefill_s, s, n_steps / s);
    }
    return 0;
}

static int run_read(struct rate *r, int n_passes)
{
    double median, best;
    if (n_passes < 1 || n_passes > MAX_STEPS)
        return fail("read PASSES");
    if (r->copy.base == NULL) {
        void *p = mmap(NULL, r->step_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return fail("no memory for a plain read");
        madvise(p, r->step_bytes, MADV_HUGEPAGE); /* as the weights lie */
        memset(p, 1, r->step_bytes);
        r->copy = (struct limits_span){p, r->step_bytes};
    }
    if (limits_read(r->n_threads, &r->copy, 1, n_passes, &median, &best) != 0)
        return fail("no memory or threads for a plain read");
    printf("{\"op\": \"read\", \"bytes\": %" PRIu64 ", \"gbps\": %.3f, \"best_gbps\": %.3f}\n", r->step_bytes, median, best);
    return 0;
}

static int run_limits(const struct rate *r)
{
    struct limits l;
    if (limits_measure(r->n_threads, &l) != 0)
        return fail("no memory or threads to measure limits with");
    printf("{\"op\": \"limits\", \"threads\": %d, \"int8_name\": \"%s\", \"int8_gops\": [%.1f, %.1f], \"read\": [", l.n_threads, l.int8_name,
           l.int8_gops[0], l.int8_gops[1]);
    for (int i = 0; i < LIMITS_SIZES; i++)
        printf("%s[%zu, %.2f, %.2f]", i > 0 ? ", " : "", l.read_bytes[i], l.read_gbps[i][0], l.read_gbps[i][1]);
    printf("]}\n");
    return 0;
}

/* Reads whole numbers from *text; how many. */
static int numbers(const char *text, int *values, int max)
{
    int n = 0;
    for (char *end; n < max; text = end) {
        long v = strtol(text, &end, 10);
        if (end == text || v < 0 || v > 1 << 24)
            break;
        values[n++] = (int)v;
    }
    return n;
}

static int run_line(struct rate *r, const char *line)
{
    int v[32];
    const char *rest = line + strcspn(line, " \n");
    size_t n_name = (size_t)(rest - line);
    int n = numbers(rest, v, 32);
    if (n_name == 7 && strncmp(line, "prefill", 7) == 0 && n == 2)
        return run_prefill(r, v[0], v[1]);
    if (n_name == 6 && strncmp(line, "decode", 6) == 0 && n == 3)
        return run_decode(r, v[0], v[1], v[2]);
    if (n_name == 7 && strncmp(line, "context", 7) == 0 && n >= 2)
        return run_context(r, v[0], v + 1, n - 1);
    if (n_name == 4 && strncmp(line, "read", 4) == 0 && n == 1)
        return run_read(r, v[0]);
    if (n_name == 6 && strncmp(line, "limits", 6) == 0 && n == 0)
        return run_limits(r);
    return fail("no such command: prefill, decode, context, read, limits");
}

/* ---- opening ---- */

static bool is_named(const struct gguf_tensor *t, const char *name)
{
    return t->name.n == strlen(name) && memcmp(t->name.p, name, t->name.n) == 0;
}

static void count_weights(struct rate *r, const struct gguf *g)
{
    bool tied = gguf_find_tensor(g, "output.weight") == NULL;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        bool embed = is_named(t, "token_embd.weight"), vocab = tied ? embed : is_named(t, "output.weight");
        if (embed && !tied)
            continue;
        r->step_bytes += t->n_bytes;
        if (vocab)
            r->vocab_macs = t->dims[0] * t->dims[1];
        else if (t->n_dims == 2)
            r->macs += t->dims[0] * t->dims[1];
    }
}

/* Layers that see only a window, from the file's own description. */
static int count_windowed(const struct gguf *g, struct hparams *hp, struct err *err)
{
    struct token_str arch;
    int n = 0;
    if (gguf_get_str(g, "general.architecture", &arch, err) != 1 || hparams_read(g, family_find(arch), hp, err) != 0)
        return -1;
    for (int i = 0; i < hp->n_layers; i++)
        n += hp->window > 0 && hp->windowed[i];
    return n;
}

static int allocate(struct rate *r)
{
    size_t rows = (size_t)(r->max_rows > r->n_streams ? r->max_rows : r->n_streams);
    r->token = calloc(rows, sizeof *r->token);
    r->pos = calloc(rows, sizeof *r->pos);
    r->seq = calloc(rows, sizeof *r->seq);
    r->out = calloc(rows, sizeof *r->out);
    r->page_ids = calloc((size_t)r->n_pages, sizeof *r->page_ids);
    r->tables = calloc((size_t)r->n_streams, sizeof *r->tables);
    r->sampler = sampler_create(r->runner.n_vocab);
    if (r->token == NULL || r->pos == NULL || r->seq == NULL || r->out == NULL || r->page_ids == NULL || r->tables == NULL || r->sampler == NULL)
        return -1;
    for (int i = 0; i < r->n_pages; i++)
        r->page_ids[i] = i;
    return 0;
}

static int open_model(struct rate *r, const char *path, struct err *err)
{
    struct hparams hp;
    double begun = now_s();
    int rows = r->max_rows > r->n_streams ? r->max_rows : r->n_streams;
    /* every sequence's last page may be a part */
    r->n_pages = (r->n_positions + KV_PAGE - 1) / KV_PAGE + r->n_streams;
    const struct model_options options = {.device = "auto",
                                          .n_threads = r->n_threads,
                                          .max_rows = rows,
                                          .max_out = r->n_streams,
                                          .n_pages = r->n_pages};
    if (model_open(path, &r->model, err) != 0)
        return -1;
    count_weights(r, model_file(r->model));
    int n_windowed = count_windowed(model_file(r->model), &hp, err);
    if (n_windowed < 0 || model_load(r->model, &options, err) != 0)
        return -1;
    model_drop_file(r->model);
    r->runner = model_runner(r->model);
    if (allocate(r) != 0)
        return err_set(err, ERR_NOMEM, "no memory for the arrays of a step");
    const struct model_info *info = model_info(r->model);
    printf("{\"op\": \"ready\", \"device\": \"%s\", \"threads\": %d, \"load_s\": %.3f, \"n_vocab\": %d, \"n_ctx_train\": %d, \"file_bytes\": %" PRIu64
           ", \"loaded_bytes\": %" PRIu64 ", \"step_bytes\": %" PRIu64 ", \"macs\": %" PRIu64 ", \"vocab_macs\": %" PRIu64
           ", \"kv_bytes_per_pos\": %" PRIu64 ", \"n_layers\": %d, \"n_windowed\": %d, \"window\": %d}\n",
           model_device(r->model), r->n_threads, now_s() - begun, info->n_vocab, info->n_ctx_train, info->file_bytes, model_loaded_bytes(r->model),
           r->step_bytes, r->macs, r->vocab_macs, info->kv_bytes_per_pos, info->n_layers, n_windowed, hp.window);
    return 0;
}

static void close_all(struct rate *r)
{
    sampler_destroy(r->sampler);
    model_close(r->model);
    if (r->copy.base != NULL)
        munmap((void *)(uintptr_t)r->copy.base, r->copy.bytes);
    free(r->token);
    free(r->pos);
    free(r->seq);
    free(r->out);
    free(r->page_ids);
    free(r->tables);
}

/* Argument i as a number of 1 .. max, or `otherwise` where there is none; 0 where it is none. */
static int argument(int argc, char **argv, int i, int otherwise, int max)
{
    int v = otherwise;
    if (i < argc && (numbers(argv[i], &v, 1) != 1 || v > max))
        return 0;
    return v;
}

int main(int argc, char **argv)
{
    char line[512];
    struct err err;
    struct rate r = {.n_threads = argument(argc, argv, 2, 2, 256),
                     .n_positions = argument(argc, argv, 3, 8192, 1 << 24),
                     .n_streams = argument(argc, argv, 4, 32, MAX_STREAMS),
                     .max_rows = argument(argc, argv, 5, 512, 8192)};
    if (argc < 2 || argc > 6 || r.n_threads == 0 || r.n_positions == 0 || r.n_streams == 0 || r.max_rows == 0) {
        fputs("engine_rate MODEL [threads [positions [streams [rows]]]] < commands\n", stderr);
        return 2;
    }
    int rc = open_model(&r, argv[1], &err);
    if (rc != 0)
        fprintf(stderr, "engine_rate: %s\n", err.msg);
    fflush(stdout);
    while (rc == 0 && fgets(line, sizeof line, stdin) != NULL) {
        run_line(&r, line); /* an error is an answer */
        fflush(stdout);
    }
    close_all(&r);
    return rc == 0 ? 0 : 1;
}

/* cmd_complete.c: `nextd complete`, one prompt through the same engine that the daemon runs.
 *
 * It is the smallest user of engine.h: open, tokenise, submit, poll until the one END event. Text goes to stdout as it comes, figures go to stderr.
 * Because of the engine's invariance the text is the one that the daemon gives for the same prompt, seed and settings. */
#include "server/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/buf.h"

#define COMPLETE_MAX_PROMPT_BYTES (64u << 20)
#define COMPLETE_MAX_IDS (1u << 24)

struct complete {
    const char *model, *prompt, *device;
    int n_threads, n_ctx;
    bool ids;
    struct engine_request req;
    struct engine_text stops[ENGINE_MAX_STOPS];
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},       {"prompt", required_argument, NULL, 'p'},   {"max-tokens", required_argument, NULL, 'n'},
    {"temperature", required_argument, NULL, 't'}, {"top-p", required_argument, NULL, 'P'},    {"top-k", required_argument, NULL, 'K'},
    {"min-p", required_argument, NULL, 'M'},       {"seed", required_argument, NULL, 's'},     {"stop", required_argument, NULL, 'S'},
    {"threads", required_argument, NULL, 'j'},     {"ctx", required_argument, NULL, 'c'},      {"device", required_argument, NULL, 'd'},
    {"ignore-eos", no_argument, NULL, 'e'},        {"ids", no_argument, NULL, 'i'},            {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

static void usage(FILE *to)
{
    fputs("usage: nextd complete -m FILE -p TEXT [options]\n"
          "  -m, --model FILE      the model (GGUF)\n"
          "  -p, --prompt TEXT     what to go on from; '-' reads it from stdin\n"
          "  -n, --max-tokens N    most tokens to draw (default 128)\n"
          "      --temperature T   0 is greedy (default 0)\n"
          "      --top-p P, --top-k K, --min-p P\n"
          "      --seed N          default: drawn, and said at the end\n"
          "      --stop TEXT       end before this text; may be given up to 16 times\n"
          "      --ignore-eos      go on past the model's end tokens\n"
          "      --ids             print the drawn token ids, one a line, instead of text\n"
          "      --threads N, --ctx N, --device NAME\n",
          to);
}

/* A whole number or a real one within limits; -1 and a sentence on stderr otherwise. */
static int number(const char *name, const char *text, double min, double max, bool whole, double *out)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(v >= min && v <= max) || (whole && v != (double)(int64_t)v)) {
        fprintf(stderr, "nextd complete: --%s is '%s'; it takes %s from %g to %g\n", name, text, whole ? "a whole number" : "a number", min, max);
        return -1;
    }
    *out = v;
    return 0;
}

static int seed_of(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || text[0] == '-') {
        fprintf(stderr, "nextd complete: --seed is '%s'; it takes a whole number below 2^64\n", text);
        return -1;
    }
    *out = v;
    return 0;
}

static int parse_one(struct complete *c, int opt, const char *arg)
{
    double v = 0;
    switch (opt) {
    case 'm': c->model = arg; return 0;
    case 'p': c->prompt = arg; return 0;
    case 'd': c->device = arg; return 0;
    case 'e': c->req.ignore_eos = true; return 0;
    case 'i': c->ids = true; return 0;
    case 's': return seed_of(arg, &c->req.seed);
    case 'S':
        if (c->req.n_stops == ENGINE_MAX_STOPS) {
            fprintf(stderr, "nextd complete: at most %d stop texts\n", ENGINE_MAX_STOPS);
            return -1;
        }
        c->stops[c->req.n_stops++] = (struct engine_text){arg, strlen(arg)};
        return 0;
    case 'n':
        if (number("max-tokens", arg, 0, 1 << 24, true, &v) != 0)
            return -1;
        c->req.max_tokens = (int)v;
        return 0;
    case 't':
        if (number("temperature", arg, 0, 100, false, &v) != 0)
            return -1;
        c->req.temperature = (float)v;
        return 0;
    case 'P':
        if (number("top-p", arg, 0, 1, false, &v) != 0)
            return -1;
        c->req.top_p = (float)v;
        return 0;
    case 'K':
        if (number("top-k", arg, 0, 1 << 24, true, &v) != 0)
            return -1;
        c->req.top_k = (int)v;
        return 0;
    case 'M':
        if (number("min-p", arg, 0, 1, false, &v) != 0)
            return -1;
        c->req.min_p = (float)v;
        return 0;
    case 'j':
        if (number("threads", arg, 0, 1024, true, &v) != 0)
            return -1;
        c->n_threads = (int)v;
        return 0;
    case 'c':
        if (number("ctx", arg, 0, 1 << 24, true, &v) != 0)
            return -1;
        c->n_ctx = (int)v;
        return 0;
    default: return -1;
    }
}

/* 0: go on; 1: help was given; -1: wrong. */
static int parse(struct complete *c, int argc, char **argv)
{
    *c = (struct complete){.device = "auto"};
    engine_request_defaults(&c->req);
    c->req.n_choices = 1;
    c->req.max_tokens = 128;
    c->req.temperature = 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    c->req.seed = (uint64_t)now.tv_sec * 1000003u ^ (uint64_t)now.tv_nsec << 20 ^ (uint64_t)getpid();
    for (int opt; (opt = getopt_long(argc, argv, "m:p:n:h", long_options, NULL)) != -1;) {
        if (opt == 'h') {
            usage(stdout);
            return 1;
        }
        if (parse_one(c, opt, optarg) != 0)
            return -1;
    }
    if (c->model == NULL || c->prompt == NULL || optind != argc) {
        usage(stderr);
        return -1;
    }
    c->req.stops = c->stops;
    return 0;
}

static int read_prompt(const char *arg, struct buf *out)
{
    if (strcmp(arg, "-") != 0)
        return buf_puts(out, arg) ? 0 : -1;
    char piece[65536];
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0;)
        if (!buf_append(out, piece, n))
            return -1;
    return ferror(stdin) ? -1 : 0;
}

static void wake(void *arg)
{
    sem_post(arg);
}

/* Prints until the END event; returns it. */
static struct engine_event follow(struct engine *e, sem_t *ready, bool ids)
{
    for (;;) {
        while (sem_wait(ready) != 0)
            ;
        const struct engine_event *events;
        size_t n = engine_poll(e, &events);
        for (size_t i = 0; i < n; i++) {
            const struct engine_event *ev = &events[i];
            if (ev->type == ENGINE_END)
                return *ev;
            if (ev->type == ENGINE_PROMPT)
                continue;
            for (size_t t = 0; ids && t < ev->n_tokens; t++)
                printf("%" PRId32 "\n", ev->tokens[t].id);
            if (!ids)
                fwrite(ev->text, 1, ev->n_text, stdout);
        }
        fflush(stdout);
    }
}

static int run(struct engine *e, sem_t *ready, struct complete *c, const struct buf *prompt, struct err *err)
{
    struct engine_ids ids = {0};
    struct engine_span span = {prompt->p != NULL ? prompt->p : "", prompt->n, false};
    uint64_t id;
    if (engine_tokenize(e, &span, 1, true, COMPLETE_MAX_IDS, &ids, err) != 0) {
        engine_ids_finish(&ids);
        return -1;
    }
    if (ids.n == 0) {
        engine_ids_finish(&ids);
        return err_set(err, ERR_INVALID, "the prompt is empty and the model has no beginning token");
    }
    c->req.prompt = ids.ids;
    c->req.n_prompt = ids.n;
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    int rc = engine_submit(e, &c->req, 1, &id, err);
    engine_ids_finish(&ids);
    if (rc != 0)
        return -1;
    struct engine_event end = follow(e, ready, c->ids);
    if (!c->ids)
        putchar('\n');
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (end.finish == ENGINE_FINISH_ERROR) {
        *err = end.err;
        return -1;
    }
    double s = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    fprintf(stderr, "%d prompt tokens, %d drawn, %s, %.2f s, seed %" PRIu64 ", %s\n", end.n_prompt, end.n_output,
            end.finish == ENGINE_FINISH_LENGTH ? "length" : "stop", s, c->req.seed, engine_info(e)->device);
    return 0;
}

int cmd_complete(int argc, char **argv)
{
    struct complete c;
    int parsed = parse(&c, argc, argv);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;

    struct err err = {0};
    struct buf prompt;
    struct engine *e = NULL;
    sem_t ready;
    sem_init(&ready, 0, 0);
    buf_init(&prompt, COMPLETE_MAX_PROMPT_BYTES);
    int rc = read_prompt(c.prompt, &prompt);
    if (rc != 0)
        err_set(&err, ERR_INVALID, "the prompt cannot be read or is over %u bytes", COMPLETE_MAX_PROMPT_BYTES);
    if (rc == 0) {
        struct engine_options opt = {.model_path = c.model, .device = c.device, .n_threads = c.n_threads, .n_ctx = c.n_ctx, .max_seqs = 1,
                                     .max_queue = 1, .chunk = 512, .prefix_cache = false, .notify = wake, .notify_arg = &ready};
        rc = engine_open(&opt, &e, &err);
    }
    if (rc == 0)
        rc = run(e, &ready, &c, &prompt, &err);
    if (rc != 0)
        fprintf(stderr, "nextd complete: %s\n", err.msg);
    engine_close(e);
    buf_finish(&prompt);
    sem_destroy(&ready);
    return rc == 0 ? 0 : 1;
}

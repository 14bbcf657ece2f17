/* workload.c: see workload.h. */
#include "bench/workload.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORK_TAIL_WORDS 16
#define WORK_FIRST_ID 1000 /* ids from here to here + WORK_N_IDS are ordinary pieces of text in all the vocabularies that are measured */
#define WORK_N_IDS 32000

void work_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static void *work_alloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (p == NULL)
        work_fail("no memory for %zu bytes", n * size);
    return p;
}

double work_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- options ---- */

int work_number(const char *name, const char *value, int least)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (*value == '\0' || *end != '\0' || n < least || n > 1000000000)
        work_fail("%s: %s is no number from %d to 1000000000", name, value, least);
    return (int)n;
}

struct work_options work_parse(int argc, char **argv, bool (*other)(void *arg, const char *name, const char *value), void *arg)
{
    struct work_options o = {.n_streams = 1, .n_prompt = 32, .n_tokens = 64, .long_prompt = 2048, .long_tokens = 8, .long_every = 64};
    int seed = 0;
    struct {
        const char *name;
        int *to, least;
    } const known[] = {
        {"--streams", &o.n_streams, 0},         {"--prompt", &o.n_prompt, 1},       {"--tokens", &o.n_tokens, 1},
        {"--prefix-words", &o.prefix_words, 0}, {"--long", &o.n_long, 0},           {"--long-prompt", &o.long_prompt, 1},
        {"--long-tokens", &o.long_tokens, 1},   {"--long-every", &o.long_every, 0}, {"--seed", &seed, 0},
    };
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc)
            work_fail("%s needs a value", argv[i]);
        size_t k = 0;
        while (k < sizeof known / sizeof known[0] && strcmp(argv[i], known[k].name) != 0)
            k++;
        if (k < sizeof known / sizeof known[0])
            *known[k].to = work_number(argv[i], argv[i + 1], known[k].least);
        else if (!other(arg, argv[i], argv[i + 1]))
            work_fail("unknown option %s", argv[i]);
    }
    o.seed = (uint64_t)seed;
    return o;
}

/* ---- prompts ---- */

static uint64_t work_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static char *work_words(uint64_t *state, int n)
{
    static const char *const words[] = {"the",   "river",  "carried", "a",      "small", "boat",  "past",   "old",    "mills",  "and",   "gardens",
                                        "where", "people", "stood",   "to",     "watch", "it",    "turn",   "slowly", "under",  "every", "bridge",
                                        "until", "night",  "came",    "with",   "rain",  "from",  "western", "hills", "while",  "their", "lamps",
                                        "burned", "in",    "windows", "of",     "quiet", "houses", "along", "road",   "that",   "led",   "home"};
    size_t n_words = sizeof words / sizeof words[0], used = 0;
    char *text = work_alloc((size_t)n * 9 + 1, 1);
    for (int i = 0; i < n; i++)
        used += (size_t)sprintf(text + used, "%s%s", i > 0 ? " " : "", words[work_random(state) % n_words]);
    return text;
}

static void work_make_ids(struct work_item *item, uint64_t *state, int n)
{
    item->n_ids = n;
    item->ids = work_alloc((size_t)n, sizeof *item->ids);
    for (int i = 0; i < n; i++)
        item->ids[i] = WORK_FIRST_ID + (int32_t)(work_random(state) % WORK_N_IDS);
}

static void work_make_text(struct work_item *item, const char *prefix, uint64_t *state)
{
    char *tail = work_words(state, WORK_TAIL_WORDS);
    size_t n = strlen(prefix) + strlen(tail) + 2;
    item->text = work_alloc(n, 1);
    snprintf(item->text, n, "%s %s", prefix, tail);
    free(tail);
}

struct work *work_create(const struct work_options *opt)
{
    struct work *w = work_alloc(1, sizeof *w);
    uint64_t state = opt->seed;
    int n_primers = opt->prefix_words > 0;
    char *prefix = work_words(&state, opt->prefix_words);
    *w = (struct work){.opt = *opt, .n_items = n_primers + opt->n_streams + opt->n_long};
    w->items = work_alloc((size_t)w->n_items + 1, sizeof *w->items);
    for (int i = 0; i < w->n_items; i++) {
        struct work_item *item = &w->items[i];
        item->kind = i < n_primers ? WORK_PRIME : i < n_primers + opt->n_streams ? WORK_SHORT : WORK_LONG;
        item->n_tokens = item->kind == WORK_PRIME ? 1 : item->kind == WORK_SHORT ? opt->n_tokens : opt->long_tokens;
        item->event_s = work_alloc((size_t)item->n_tokens + 1, sizeof *item->event_s);
        if (item->kind == WORK_LONG)
            work_make_ids(item, &state, opt->long_prompt);
        else if (opt->prefix_words > 0)
            work_make_text(item, prefix, &state);
        else
            work_make_ids(item, &state, opt->n_prompt);
    }
    free(prefix);
    return w;
}

void work_destroy(struct work *w)
{
    for (int i = 0; i < w->n_items; i++) {
        free(w->items[i].text);
        free(w->items[i].ids);
        free(w->items[i].event_s);
    }
    free(w->items);
    free(w);
}

/* ---- the run ---- */

static bool work_is_primed(const struct work *w)
{
    return w->items[0].kind != WORK_PRIME || w->items[0].ended;
}

bool work_is_ready(const struct work *w)
{
    return w->begin_s == 0 && work_is_primed(w);
}

static bool work_is_due(const struct work *w, const struct work_item *item, int n_long_before)
{
    if (item->sent || (item->kind != WORK_PRIME && !work_is_primed(w)))
        return false;
    return item->kind != WORK_LONG || w->n_short_events >= (n_long_before + 1) * w->opt.long_every;
}

struct work_item *work_next(struct work *w)
{
    int n_long = 0;
    for (int i = 0; i < w->n_items; i++) {
        struct work_item *item = &w->items[i];
        if (work_is_due(w, item, n_long)) {
            double now = work_now_s();
            if (w->begin_s == 0 && item->kind != WORK_PRIME)
                w->begin_s = now;
            item->sent = true;
            item->sent_s = now - w->begin_s;
            return item;
        }
        n_long += item->kind == WORK_LONG;
    }
    return NULL;
}

bool work_all_ended(const struct work *w)
{
    return w->n_ended == w->n_items;
}

void work_event(struct work *w, struct work_item *item, double now_s)
{
    if (item->n_events > item->n_tokens)
        work_fail("more pieces of text came than the %d tokens that were asked for", item->n_tokens);
    item->event_s[item->n_events++] = now_s - w->begin_s;
    w->n_short_events += item->kind == WORK_SHORT;
}

void work_end(struct work *w, struct work_item *item, int n_output, double now_s)
{
    assert(!item->ended);
    if (n_output != item->n_tokens)
        work_fail("%d tokens came; %d were asked for", n_output, item->n_tokens);
    item->ended = true;
    item->n_output = n_output;
    item->end_s = now_s - w->begin_s;
    w->n_ended++;
}

/* ---- the report ---- */

struct work_list {
    double *v;
    size_t n;
};

static int work_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Milliseconds; the p-th value is the smallest one that p percent do not exceed. */
static void work_print_list(const char *name, struct work_list *l)
{
    qsort(l->v, l->n, sizeof *l->v, work_compare);
    size_t p99 = (size_t)ceil(0.99 * (double)l->n), p50 = (l->n + 1) / 2;
    if (l->n == 0)
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": {\"n\": %zu, \"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, l->n, l->v[p50 - 1] * 1e3, l->v[p99 - 1] * 1e3,
               l->v[l->n - 1] * 1e3);
}

/* Whether some long prompt was being computed between the two times. */
static bool work_is_crowded(const struct work *w, double from_s, double to_s)
{
    for (int i = 0; i < w->n_items; i++) {
        const struct work_item *item = &w->items[i];
        if (item->kind == WORK_LONG && item->n_events > 0 && item->sent_s < to_s && item->event_s[0] > from_s)
            return true;
    }
    return false;
}

static void work_print_times(const struct work *w)
{
    size_t most = 0;
    for (int i = 0; i < w->n_items; i++)
        most += (size_t)w->items[i].n_events + 1;
    struct work_list ttft = {work_alloc(most, sizeof(double)), 0}, long_ttft = {work_alloc(most, sizeof(double)), 0};
    struct work_list quiet = {work_alloc(most, sizeof(double)), 0}, crowded = {work_alloc(most, sizeof(double)), 0};
    struct work_list gaps = {work_alloc(most, sizeof(double)), 0};
    for (int i = 0; i < w->n_items; i++) {
        const struct work_item *item = &w->items[i];
        struct work_list *first = item->kind == WORK_SHORT ? &ttft : &long_ttft;
        if (item->kind == WORK_PRIME || item->n_events == 0)
            continue;
        first->v[first->n++] = item->event_s[0] - item->sent_s;
        for (int k = 1; k < item->n_events && item->kind == WORK_SHORT; k++) {
            struct work_list *side = work_is_crowded(w, item->event_s[k - 1], item->event_s[k]) ? &crowded : &quiet;
            gaps.v[gaps.n++] = side->v[side->n++] = item->event_s[k] - item->event_s[k - 1];
        }
    }
    work_print_list("ttft_ms", &ttft);
    work_print_list("gap_ms", &gaps);
    work_print_list("long_ttft_ms", &long_ttft);
    work_print_list("quiet_gap_ms", &quiet);
    work_print_list("crowded_gap_ms", &crowded);
    free(ttft.v);
    free(long_ttft.v);
    free(quiet.v);
    free(crowded.v);
    free(gaps.v);
}

static void work_print_cpu(const char *name, double cpu_s)
{
    if (cpu_s < 0)
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": %.6f", name, cpu_s);
}

void work_report(const struct work *w, const struct work_cpu *cpu)
{
    int n_output = 0, n_events = 0;
    double wall_s = 0;
    for (int i = 0; i < w->n_items; i++) {
        const struct work_item *item = &w->items[i];
        if (item->kind == WORK_PRIME)
            continue;
        n_output += item->n_output;
        n_events += item->n_events;
        wall_s = item->end_s > wall_s ? item->end_s : wall_s;
    }
    printf("{\"streams\": %d, \"long\": %d, \"tokens\": %d, \"events\": %d, \"wall_s\": %.6f, \"tokens_per_s\": %.3f", w->opt.n_streams,
           w->opt.n_long, n_output, n_events, wall_s, (double)n_output / wall_s);
    work_print_times(w);
    work_print_cpu("client_cpu_s", cpu->client_s);
    work_print_cpu("engine_cpu_s", cpu->engine_s);
    work_print_cpu("other_cpu_s", cpu->other_s);
    printf("}\n");
    fflush(stdout);
}

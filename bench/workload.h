/* workload.h: the requests that load.c sends over HTTP and engine_load.c hands to engine.h, and what came of them.
 *
 * A workload is a set of short streams that start together, and optionally of long prompts that arrive while they run. Both programs build it from
 * the same options and seed, so they ask for the very same tokens, and the ratio of their rates is what the server costs.
 *
 *     short   n_streams prompts of n_prompt random token ids; or, with prefix_words, texts that share that many words and differ in a tail. In that
 *             case one request more, not counted, runs alone before the clock starts: the prefix is cached then, if there is a cache
 *     long    the k-th (from 1) is sent when the short streams together have shown k * long_every events: no timer, the same work at any speed
 *
 * All are greedy and ignore the end token, so their lengths are known and checked. Times are seconds from the start of the clock. */
#ifndef NEXTD_BENCH_WORKLOAD_H
#define NEXTD_BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct work_options {
    int n_streams, n_prompt, n_tokens;
    int prefix_words;
    int n_long, long_prompt, long_tokens, long_every;
    uint64_t seed;
};

enum work_kind { WORK_PRIME, WORK_SHORT, WORK_LONG };

struct work_item {
    enum work_kind kind;
    char *text;    /* or NULL: ids */
    int32_t *ids;  /* [n_ids] */
    int n_ids, n_tokens;
    /* What came of it. */
    bool sent, ended;
    double sent_s, end_s;
    double *event_s; /* [n_events], at most n_tokens + 1: arrival of each piece of text */
    int n_events, n_output;
};

struct work {
    struct work_options opt;
    struct work_item *items; /* the primer first if there is one, then the short ones, then the long ones */
    int n_items;
    int n_short_events, n_ended;
    double begin_s;          /* monotonic, when the clock started */
};

/* CPU seconds during the run. Negative: unknown. */
struct work_cpu {
    double client_s, engine_s, other_s;
};

/* Takes --streams, --prompt, --tokens, --prefix-words, --long, --long-prompt, --long-tokens, --long-every and --seed off the arguments; the rest is
 * handed, as name and value, to `other`, which returns false for a name that it does not know. Ends the program with a sentence on bad input. */
struct work_options work_parse(int argc, char **argv, bool (*other)(void *arg, const char *name, const char *value), void *arg);
/* The value as a number from `least` to 1e9; ends the program otherwise. */
int work_number(const char *name, const char *value, int least);

struct work *work_create(const struct work_options *opt);
void work_destroy(struct work *w);

double work_now_s(void); /* monotonic */
/* Whether the clock has not started and the next item starts it. */
bool work_is_ready(const struct work *w);
/* The next item that should be sent, marked as sent now, or NULL. The clock starts with the first one after the primer. */
struct work_item *work_next(struct work *w);
bool work_all_ended(const struct work *w);
void work_event(struct work *w, struct work_item *item, double now_s); /* a piece of text has come */
void work_end(struct work *w, struct work_item *item, int n_output, double now_s);

/* One line of JSON on stdout. Ends the program when an output was not as long as asked for. */
void work_report(const struct work *w, const struct work_cpu *cpu);

/* Ends the program. */
void work_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif

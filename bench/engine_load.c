/* engine_load.c: the workload of load.c without a server: through engine.h alone, in this process. Its rate is the engine's own figure.
 *
 *     engine_load --model FILE --threads 2 --streams 32 --tokens 64 ... < seeds
 *
 * Opens the model once, reads numbers from standard input, runs the workload once for each as seed, and prints load.c's line of JSON. So whoever
 * drives both can take turns without loading the model each time, and this process sleeps while the other is measured.
 *
 * The main thread does what a server's loop must do at the least: it sleeps until the engine says that events wait, takes them and notes the time.
 * Texts are made into tokens before the clock starts. */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/workload.h"
#include "engine/engine.h"

struct engine_load {
    struct engine_options opt;
    struct engine *engine;
    struct work *work;
    sem_t events_wait;
};

static void engine_load_notify(void *arg)
{
    sem_post(&((struct engine_load *)arg)->events_wait);
}

static double engine_load_cpu_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* As the server does with a text: plain bytes after the model's begin token. */
static void engine_load_tokenize(struct engine_load *l, struct work_item *item)
{
    struct err err;
    struct engine_ids ids = {0};
    struct engine_span span = {.p = item->text, .n = strlen(item->text), .trusted = false};
    if (engine_tokenize(l->engine, &span, 1, true, 1u << 20, &ids, &err) != 0)
        work_fail("%s", err.msg);
    item->ids = ids.ids;
    item->n_ids = (int)ids.n;
}

static void engine_load_submit(struct engine_load *l, struct work_item *item)
{
    struct err err;
    struct engine_request r;
    uint64_t id;
    engine_request_defaults(&r);
    r.prompt = item->ids;
    r.n_prompt = (size_t)item->n_ids;
    r.max_tokens = item->n_tokens;
    r.temperature = 0;
    r.ignore_eos = true;
    r.user = item;
    if (engine_submit(l->engine, &r, 1, &id, &err) != 0)
        work_fail("%s", err.msg);
}

static void engine_load_take(struct engine_load *l)
{
    const struct engine_event *events;
    while (sem_wait(&l->events_wait) != 0) {
    }
    size_t n = engine_poll(l->engine, &events);
    double now_s = work_now_s();
    for (size_t i = 0; i < n; i++) {
        const struct engine_event *ev = &events[i];
        if (ev->n_text > 0)
            work_event(l->work, ev->user, now_s);
        if (ev->type == ENGINE_END && ev->finish != ENGINE_FINISH_LENGTH)
            work_fail("a stream ended by itself: %s", ev->err.msg);
        if (ev->type == ENGINE_END)
            work_end(l->work, ev->user, ev->n_output, now_s);
    }
}

static void engine_load_run(struct engine_load *l, const struct work_options *opt)
{
    struct work_cpu cpu = {-1, 0, 0};
    l->work = work_create(opt);
    for (int i = 0; i < l->work->n_items; i++)
        if (l->work->items[i].text != NULL)
            engine_load_tokenize(l, &l->work->items[i]);
    double all_s = 0, own_s = 0;
    while (!work_all_ended(l->work)) {
        if (work_is_ready(l->work)) {
            all_s = engine_load_cpu_s(CLOCK_PROCESS_CPUTIME_ID);
            own_s = engine_load_cpu_s(CLOCK_THREAD_CPUTIME_ID);
        }
        for (struct work_item *item; (item = work_next(l->work)) != NULL;)
            engine_load_submit(l, item);
        engine_load_take(l);
    }
    cpu.other_s = engine_load_cpu_s(CLOCK_THREAD_CPUTIME_ID) - own_s;
    cpu.engine_s = engine_load_cpu_s(CLOCK_PROCESS_CPUTIME_ID) - all_s - cpu.other_s;
    work_report(l->work, &cpu);
    work_destroy(l->work);
}

static bool engine_load_option(void *arg, const char *name, const char *value)
{
    struct engine_options *o = arg;
    struct {
        const char *name;
        int *to;
    } const numbers[] = {{"--threads", &o->n_threads}, {"--kv-tokens", &o->n_kv_tokens}, {"--max-seqs", &o->max_seqs}, {"--chunk", &o->chunk}};
    if (strcmp(name, "--model") == 0) {
        o->model_path = value;
        return true;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].to = work_number(name, value, 0);
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    struct engine_load l = {.opt = {.device = "auto", .max_seqs = 64, .max_queue = 1024, .chunk = 128, .prefix_cache = true}};
    struct work_options opt = work_parse(argc, argv, engine_load_option, &l.opt);
    struct err err;
    char line[64];
    l.opt.notify = engine_load_notify;
    l.opt.notify_arg = &l;
    sem_init(&l.events_wait, 0, 0);
    if (l.opt.model_path == NULL)
        work_fail("--model is missing");
    if (engine_open(&l.opt, &l.engine, &err) != 0)
        work_fail("%s", err.msg);
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        opt.seed = (uint64_t)work_number("seed", line, 0);
        engine_load_run(&l, &opt);
    }
    engine_close(l.engine);
    return 0;
}

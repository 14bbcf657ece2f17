/* engine.c: the engine's life around any runner: open, run one thread, close; and the pure text functions.
 *
 * Everything that a step needs is made in engine_open_runner, so that afterwards the engine thread does not allocate. open.c gives it a model file's
 * runner; tests give it a toy.
 *
 * The engine thread is a loop of turns: meet the mailbox, take the commands, step. It ends when the mailbox is shut; by then whatever still ran
 * is simply dropped, for nobody polls any more; but what was launched still lands, or the device would work on memory that is gone. */
#include "engine/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_internal.h"
#include "engine/flight.h"

/* ---- the thread ---- */

bool engine_turn(struct engine *e, bool wait)
{
    struct mail_node *taken;
    if (!mailbox_exchange(e->mail, &e->figures, wait && engine_is_idle(e), &taken))
        return false;
    engine_take(e, taken);
    engine_step(e);
    return true;
}

static void *engine_main(void *arg)
{
    struct engine *e = arg;
    while (engine_turn(e, true))
        ;
    flights_abandon(e);
    return NULL;
}

/* Signals are the main thread's; the new thread inherits a full mask. */
static int start_thread(struct engine *e, struct err *err)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&e->thread, NULL, engine_main, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return err_set(err, ERR_IO, "cannot start the engine thread: %s", strerror(rc));
    e->thread_runs = true;
    pthread_setname_np(e->thread, "nextd-engine"); /* the names by which top and the load tools tell whose time it is; pool.c has the other */
    return 0;
}

/* ---- open and close ---- */

static size_t longest_token(const struct tokenizer *tok)
{
    size_t longest = 0;
    const char *p;
    for (size_t i = 0, n = tokenizer_n_tokens(tok); i < n; i++) {
        size_t n_bytes = tokenizer_bytes(tok, (int32_t)i, true, &p);
        longest = n_bytes > longest ? n_bytes : longest;
    }
    return longest;
}

static void fill_info(struct engine *e, const struct engine_options *opt)
{
    struct engine_info *info = &e->info;
    info->n_vocab = e->runner.n_vocab;
    info->n_ctx_train = e->runner.n_ctx_train;
    info->n_pages = e->runner.n_pages;
    info->n_kv_tokens = e->runner.n_pages * KV_PAGE;
    info->n_ctx = opt->n_ctx > 0 && opt->n_ctx < info->n_ctx_train ? opt->n_ctx : info->n_ctx_train;
    if (info->n_ctx > info->n_kv_tokens)
        info->n_ctx = info->n_kv_tokens;
    info->max_seqs = opt->max_seqs;
    info->max_queue = opt->max_queue;
    info->chunk = opt->chunk;
    info->end_tokens = tokenizer_end_tokens(e->tok, &info->n_end_tokens);
    info->tokenizer_kind = tokenizer_kind(e->tok);
    info->strips_leading_space = tokenizer_strips_leading_space(e->tok);
}

int engine_open_runner(const struct engine_options *opt, const struct engine_parts *parts, struct engine **out, struct err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the engine");
    e->info = parts->info;
    e->runner = parts->runner;
    e->tok = parts->tok;
    e->max_token_bytes = longest_token(e->tok);
    fill_info(e, opt);
    struct sched_limits limits = {.max_seqs = opt->max_seqs,
                                  .chunk = opt->chunk,
                                  .max_rows = e->runner.max_rows,
                                  .max_out = e->runner.max_out,
                                  .max_beside = e->runner.max_draws};
    size_t n_events, n_bytes;
    engine_step_bounds(e, &n_events, &n_bytes);
    e->pool = kvpool_create(e->runner.n_pages, opt->prefix_cache);
    e->sched = e->pool != NULL ? sched_create(&limits, e->pool) : NULL;
    e->drawer = drawer_create(&e->runner);
    e->flights = flights_create(&e->runner, opt->max_seqs, parts->lockstep);
    e->figures.stats.n_pages = e->runner.n_pages;
    e->figures.stats.idle = true;
    e->mail = mailbox_create(n_events, n_bytes, &e->figures, opt->notify, opt->notify_arg);
    if (e->sched == NULL || e->drawer == NULL || e->flights == NULL || e->mail == NULL) {
        err_set(err, ERR_NOMEM, "no memory for the engine");
        goto fail;
    }
    if (!parts->by_hand && start_thread(e, err) != 0)
        goto fail;
    e->close = parts->close; /* only now: on failure the parts stay the caller's */
    e->close_ctx = parts->close_ctx;
    *out = e;
    return 0;

fail:
    engine_close(e);
    return -1;
}

void engine_close(struct engine *e)
{
    if (e == NULL)
        return;
    if (e->thread_runs) {
        mailbox_shut(e->mail);
        pthread_join(e->thread, NULL);
    } else if (e->flights != NULL) {
        flights_abandon(e);
    }
    engine_forget_all(e);
    mailbox_destroy(e->mail);
    drawer_destroy(e->drawer);
    flights_destroy(e->flights);
    sched_destroy(e->sched);
    kvpool_destroy(e->pool);
    if (e->close != NULL)
        e->close(e->close_ctx);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

void engine_stats(struct engine *e, struct engine_stats *out)
{
    *out = mailbox_figures(e->mail).stats;
}

/* ---- text ---- */

void engine_ids_finish(struct engine_ids *l)
{
    free(l->ids);
    *l = (struct engine_ids){0};
}

int engine_tokenize(const struct engine *e, const struct engine_span *spans, size_t n_spans, bool add_bos, size_t max_tokens,
                    struct engine_ids *out, struct err *err)
{
    return engine_encode(e->tok, spans, n_spans, add_bos, max_tokens, false, out, err);
}

size_t engine_token_bytes(const struct engine *e, int32_t id, bool special, const char **p_out)
{
    return tokenizer_bytes(e->tok, id, special, p_out);
}

int engine_detokenize(const struct engine *e, const int32_t *ids, size_t n, bool special, char **out, size_t *n_out, struct err *err)
{
    return detok_all(e->tok, ids, n, special, out, n_out, err);
}

/* scheduler.c: which rows the next step computes, under one rule.
 *
 * The rule: every sequence has n_tokens and n_computed, and a step spends a row budget closing the gaps. A gap of one after a drawn token is the next
 * token of a stream (a decode row): every running stream gets its own in every step. Every other row (prompt, recomputation after preemption, the
 * last prompt token after a full cache hit) is a catch-up row; all sequences together get at most `chunk` of them in a step, shared round-robin. So
 * between two tokens of a running stream at most `chunk` catch-up rows are computed.
 *
 *                     sched_add
 *                         │
 *                         ▼      pages for all its tokens, and a place among max_seqs
 *                    ┌─ WAITING ───────────────────────────────▶ RUNNING ─┐  rows; grows a page
 *     sched_remove   │     ▲                                        │  ▲   │  every 64 tokens
 *                    │     └──────── preempted: pages released ─────┘  └───┘
 *                    ▼                                                 │ sched_remove
 *                  DONE ◀──────────────────────────────────────────────┘
 *
 *   `paused` is beside the state: a paused sequence keeps what it has but gets no rows, is not admitted, and is the first to lose its pages.
 *   `n_computed` falls to what the cache gives when a sequence is admitted again; n_tokens never falls: recomputation feeds recorded tokens.
 *
 * Pages. Admission takes all pages that the known tokens need at once (less cached ones), so catching up never runs dry; only decode rows ask for a
 * page, when they cross a multiple of 64. If none is free and no cached page is unheld, a paused sequence is preempted, newest first; then the newest
 * one, which may be the asker itself. The oldest that is not paused is never preempted.
 *
 * Why it cannot deadlock. Waiting sequences are admitted strictly in order of arrival (but for paused ones and those whose leader is at work, which
 * step aside). Let O be the oldest sequence that is not paused. If O runs: it gets a decode row each step, or catch-up rows by rotation; a page it
 * asks for is always found, since whoever else holds pages can be preempted and the door (engine_submit) let O in only if the whole pool can hold
 * it. If O waits: nobody newer is admitted before it, paused holders are preempted for it, and those that run unpaused are finite, so their pages
 * come back. O is finite too, so it ends and the next one is the oldest. A follower steps aside only while its leader, which is older, still
 * computes the prompt.
 *
 * In flight. Steps that were launched are ordered on the device, so a plan takes their rows for computed: it shares, forks and publishes as ever.
 * What it may not do while one is in flight is to preempt: the victim's pages would rest, and its newest token be pending. sched_must_settle says
 * beforehand whether that may come to pass, and whether there may be more wanted rows than a step beside another can have.
 *
 * Writing. A row is written only to a private page (asserted): the cache gives whole pages below the first row to compute, a fork copies the part of
 * a page that it shares, and a page is published only when its last position is computed and none of its tokens is pending. */
#include "engine/sched/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct sched {
    struct sched_limits limits;
    struct kvpool *pool;
    struct seq **running;        /* [max_seqs], oldest first */
    int n_running;
    struct seq *waiting, *waiting_last; /* oldest first */
    int n_waiting, n_paused;
    uint64_t next_order;
    uint64_t last_served;        /* order of the sequence that came last in the last share-out of catch-up rows */
    uint64_t preemptions, prefix_queries, prefix_hits;
    bool planned;                /* between plan and commit */

    struct sched_item *items;    /* [max_seqs] */
    const int32_t **page_tables; /* [max_seqs] */
    int *take;                   /* [max_seqs] rows of running[i] in this plan */
    struct sched_copy *copies;   /* [max_seqs] */
    int32_t *token, *pos, *seq;  /* [max_rows] */
    int32_t *out;                /* [max_out] */
    int n_copies;
};

struct sched *sched_create(const struct sched_limits *limits, struct kvpool *pool)
{
    assert(limits->max_seqs >= 1);
    assert(limits->chunk >= 1);
    assert(limits->max_rows >= limits->max_seqs + limits->chunk);
    assert(limits->max_out >= limits->max_seqs);
    struct sched *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->limits = *limits;
    s->pool = pool;
    size_t n = (size_t)limits->max_seqs, rows = (size_t)limits->max_rows;
    s->running = calloc(n, sizeof *s->running);
    s->items = calloc(n, sizeof *s->items);
    s->page_tables = calloc(n, sizeof *s->page_tables);
    s->take = calloc(n, sizeof *s->take);
    s->copies = calloc(n, sizeof *s->copies);
    s->token = calloc(rows, sizeof *s->token);
    s->pos = calloc(rows, sizeof *s->pos);
    s->seq = calloc(rows, sizeof *s->seq);
    s->out = calloc((size_t)limits->max_out, sizeof *s->out);
    if (!s->running || !s->items || !s->page_tables || !s->take || !s->copies || !s->token || !s->pos || !s->seq || !s->out) {
        sched_destroy(s);
        return NULL;
    }
    return s;
}

void sched_destroy(struct sched *s)
{
    if (s == NULL)
        return;
    free(s->running);
    free(s->items);
    free(s->page_tables);
    free(s->take);
    free(s->copies);
    free(s->token);
    free(s->pos);
    free(s->seq);
    free(s->out);
    free(s);
}

/* ---- lists ---- */

static void waiting_insert(struct sched *s, struct seq *seq)
{
    struct seq *after = s->waiting_last;
    while (after != NULL && after->order > seq->order)
        after = after->prev;
    seq->prev = after;
    seq->next = after != NULL ? after->next : s->waiting;
    if (seq->next != NULL)
        seq->next->prev = seq;
    else
        s->waiting_last = seq;
    if (after != NULL)
        after->next = seq;
    else
        s->waiting = seq;
    seq->state = SEQ_WAITING;
    s->n_waiting++;
}

static void waiting_remove(struct sched *s, struct seq *seq)
{
    if (seq->prev != NULL)
        seq->prev->next = seq->next;
    else
        s->waiting = seq->next;
    if (seq->next != NULL)
        seq->next->prev = seq->prev;
    else
        s->waiting_last = seq->prev;
    seq->prev = seq->next = NULL;
    s->n_waiting--;
}

static void running_insert(struct sched *s, struct seq *seq)
{
    assert(s->n_running < s->limits.max_seqs);
    int i = s->n_running++;
    for (; i > 0 && s->running[i - 1]->order > seq->order; i--)
        s->running[i] = s->running[i - 1];
    s->running[i] = seq;
    seq->state = SEQ_RUNNING;
}

static void running_remove(struct sched *s, int i)
{
    s->n_running--;
    memmove(&s->running[i], &s->running[i + 1], (size_t)(s->n_running - i) * sizeof *s->running);
}

static int running_index(const struct sched *s, const struct seq *seq)
{
    int i = 0;
    while (s->running[i] != seq)
        i++;
    return i;
}

/* Last to first: kvpool.c relies on it. */
static void release_pages(struct sched *s, struct seq *seq)
{
    while (seq->n_pages > 0)
        kvpool_release(s->pool, seq->pages[--seq->n_pages]);
    seq->n_published = 0;
    seq->n_computed = 0;
}

void sched_add(struct sched *s, struct seq *seq)
{
    assert(seq->state == SEQ_NEW);
    assert(seq->n_prompt >= 1);
    assert(seq->n_tokens == seq->n_prompt);
    assert(seq_pages_for(seq->cap) <= kvpool_n_pages(s->pool));
    seq->order = ++s->next_order;
    waiting_insert(s, seq);
}

void sched_remove(struct sched *s, struct seq *seq)
{
    assert(!s->planned);
    if (seq->state == SEQ_WAITING)
        waiting_remove(s, seq);
    else if (seq->state == SEQ_RUNNING)
        running_remove(s, running_index(s, seq));
    else
        return;
    if (seq->paused)
        s->n_paused--;
    release_pages(s, seq);
    seq->state = SEQ_DONE;
}

void sched_pause(struct sched *s, struct seq *seq, bool paused)
{
    if (seq->paused == paused || seq->state == SEQ_DONE)
        return;
    seq->paused = paused;
    s->n_paused += paused ? 1 : -1;
}

/* ---- preemption ---- */

static void preempt(struct sched *s, int i)
{
    assert(kvpool_n_in_flight(s->pool) == 0);
    struct seq *victim = s->running[i];
    running_remove(s, i);
    release_pages(s, victim);
    waiting_insert(s, victim);
    s->preemptions++;
}

/* Index of the newest paused sequence, or -1. */
static int newest_paused(const struct sched *s)
{
    int i = s->n_running - 1;
    while (i >= 0 && !s->running[i]->paused)
        i--;
    return i;
}

/* One page for running[*idx], preempting while none is to be had. Returns -1 when the asker itself was the one to go; keeps *idx on the asker. */
static int32_t acquire_or_preempt(struct sched *s, int *idx)
{
    for (;;) {
        int32_t page = kvpool_acquire(s->pool);
        if (page >= 0)
            return page;
        int victim = newest_paused(s);
        if (victim < 0)
            victim = s->n_running - 1;
        assert(s->n_running > 1); /* one sequence alone always fits */
        preempt(s, victim);
        if (victim == *idx)
            return -1;
        if (victim < *idx)
            (*idx)--;
    }
}

static bool must_grow(const struct seq *seq)
{
    return !seq->paused && seq->n_pages < seq_pages_for(seq_end(seq));
}

/* Every stream whose next token needs a new page gets it, oldest first. */
static void grow(struct sched *s)
{
    for (int i = 0; i < s->n_running; i++) {
        struct seq *seq = s->running[i];
        if (!must_grow(seq))
            continue;
        assert(seq->n_pages + 1 == seq_pages_for(seq_end(seq)));
        int32_t page = acquire_or_preempt(s, &i);
        if (page < 0)
            return; /* the asker was the newest: nobody is left behind it */
        seq->pages[seq->n_pages++] = page;
    }
}

/* ---- admission ---- */

/* Whether the sequence steps aside: its leader computes the same prompt. */
static bool follows(const struct seq *seq)
{
    const struct seq *l = seq->leader;
    return l != NULL && !seq->was_admitted && (l->state == SEQ_WAITING || l->state == SEQ_RUNNING) && l->n_computed < l->n_prompt &&
           l->n_tokens == l->n_prompt;
}

/* Most leading positions that may come from elsewhere: the newest token is always recomputed, for its logits; so is what is to be scored. */
static int reusable(const struct seq *seq)
{
    int n = seq->n_tokens - 1;
    return seq->n_scored < seq->n_to_score && seq->n_scored < n ? seq->n_scored : n;
}

/* Takes what exists already: the leader's prompt pages, or the cache's. Fills pages and n_pages; returns the positions they hold. *partial_out is
 * the leader's page to copy the rest from, or -1. */
static int take_existing(struct sched *s, struct seq *seq, int32_t *partial_out)
{
    int n = reusable(seq);
    *partial_out = -1;
    const struct seq *l = seq->leader;
    bool fork = l != NULL && l->state == SEQ_RUNNING && l->n_computed >= l->n_prompt && n >= l->n_prompt - 1;
    int n_cached_pages = kvpool_match(s->pool, seq->scope, seq->tokens, n, seq->pages, n / KV_PAGE);
    seq->n_pages = seq->n_published = n_cached_pages;
    if (!fork || n_cached_pages > (l->n_prompt - 1) / KV_PAGE)
        return n_cached_pages * KV_PAGE;
    for (int i = n_cached_pages; i < (l->n_prompt - 1) / KV_PAGE; i++) { /* without a cache, the leader's pages are shared directly */
        kvpool_share(s->pool, l->pages[i]);
        seq->pages[seq->n_pages++] = l->pages[i];
    }
    if ((l->n_prompt - 1) % KV_PAGE == 0)
        return l->n_prompt - 1;
    *partial_out = l->pages[(l->n_prompt - 1) / KV_PAGE];
    return l->n_prompt - 1;
}

/* Admits the sequence if its known tokens fit, with a page of head room for every stream that runs beside it. */
static bool admit(struct sched *s, struct seq *seq)
{
    int32_t partial = -1;
    int n_existing = take_existing(s, seq, &partial), n_needed = seq_pages_for(seq->n_tokens) - seq->n_pages;
    if (n_needed + s->n_running > kvpool_n_available(s->pool) && (s->n_running > 0 || n_needed > kvpool_n_available(s->pool))) {
        release_pages(s, seq);
        return false;
    }
    for (int i = 0; i < n_needed; i++) {
        int32_t page = kvpool_acquire(s->pool);
        assert(page >= 0);
        seq->pages[seq->n_pages++] = page;
    }
    if (partial >= 0)
        s->copies[s->n_copies++] = (struct sched_copy){.dst = seq->pages[n_existing / KV_PAGE], .src = partial, .n_pos = n_existing % KV_PAGE};
    seq->n_computed = n_existing;
    if (!seq->was_admitted) {
        seq->was_admitted = true;
        seq->n_cached = n_existing;
        s->prefix_queries += (uint64_t)seq->n_prompt;
        s->prefix_hits += (uint64_t)n_existing;
    }
    waiting_remove(s, seq);
    running_insert(s, seq);
    return true;
}

static bool steps_aside(const struct seq *seq)
{
    return seq->paused || follows(seq);
}

/* Most sequences that the next plan may leave running. */
static int max_running(const struct sched *s)
{
    return kvpool_n_in_flight(s->pool) > 0 && s->limits.max_beside < s->limits.max_seqs ? s->limits.max_beside : s->limits.max_seqs;
}

/* In order of arrival; who does not fit stops the queue, after paused sequences have made room. */
static void admit_waiting(struct sched *s)
{
    struct seq *next;
    for (struct seq *seq = s->waiting; seq != NULL; seq = next) {
        next = seq->next;
        if (steps_aside(seq))
            continue;
        while (s->n_running >= max_running(s) || !admit(s, seq)) {
            int victim = kvpool_n_in_flight(s->pool) == 0 ? newest_paused(s) : -1;
            if (victim < 0)
                return;
            preempt(s, victim);
        }
    }
}

/* ---- the share-out of rows ---- */

static bool wanted(const struct seq *seq, int pos)
{
    return (pos >= seq->n_scored && pos < seq->n_to_score) || (seq->wants_next && pos == seq->n_tokens - 1);
}

/* How many of `take` rows fit so that their wanted ones number at most max_out. */
static int fit_out(const struct seq *seq, int take, int max_out, int *n_out)
{
    int n = 0;
    for (int i = 0; i < take; i++) {
        if (!wanted(seq, seq->n_computed + i))
            continue;
        if (n == max_out) {
            *n_out = n;
            return i;
        }
        n++;
    }
    *n_out = n;
    return take;
}

/* Decode rows first, then `chunk` rows for those that catch up: each in turn gets an equal part of what is left, but at least a page's worth where
 * there is so much, beginning behind the one that came last in the step before. Were the parts of many prompts a few rows each, all of them would
 * have their first token when the last one has, and attention would read each prompt's keys again for those few rows. Fills take[]; returns the
 * catch-up rows. */
static int share_out(struct sched *s)
{
    int out_left = kvpool_n_in_flight(s->pool) > 0 ? s->limits.max_beside : s->limits.max_out, rows_left = s->limits.chunk, n_behind = 0, first = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *seq = s->running[i];
        s->take[i] = 0;
        if (seq->paused || seq_gap(seq) == 0)
            continue;
        if (seq_is_decoding(seq)) {
            s->take[i] = 1;
            out_left--;
        } else {
            n_behind++;
        }
    }
    assert(out_left >= 0);
    while (first < s->n_running && s->running[first]->order <= s->last_served)
        first++;
    uint64_t last_served = s->last_served;
    for (int k = 0; k < s->n_running && n_behind > 0 && rows_left > 0; k++) {
        int i = (first + k) % s->n_running, n_out;
        struct seq *seq = s->running[i];
        if (seq->paused || seq_gap(seq) == 0 || seq_is_decoding(seq))
            continue;
        int part = (rows_left + n_behind - 1) / n_behind, least = rows_left < KV_PAGE ? rows_left : KV_PAGE, gap = seq_gap(seq);
        part = part < least ? least : part;
        s->take[i] = fit_out(seq, part < gap ? part : gap, out_left, &n_out);
        rows_left -= s->take[i];
        out_left -= n_out;
        n_behind--;
        if (s->take[i] > 0)
            last_served = seq->order;
    }
    s->last_served = last_served;
    return s->limits.chunk - rows_left;
}

static void fill_rows(struct sched *s, struct sched_step *step)
{
    struct batch *b = &step->batch;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *seq = s->running[i];
        if (s->take[i] == 0)
            continue;
        struct sched_item *item = &s->items[b->n_seqs];
        *item = (struct sched_item){.seq = seq, .n_rows = s->take[i], .first_out = b->n_out, .decode = seq_is_decoding(seq)};
        for (int k = 0; k < item->n_rows; k++) {
            int pos = seq->n_computed + k;
            assert(pos / KV_PAGE < seq->n_pages);
            assert(kvpool_is_private(s->pool, seq->pages[pos / KV_PAGE]));
            s->token[b->n_rows] = seq->tokens[pos];
            s->pos[b->n_rows] = pos;
            s->seq[b->n_rows] = b->n_seqs;
            if (wanted(seq, pos))
                s->out[b->n_out++] = b->n_rows;
            b->n_rows++;
        }
        item->n_out = b->n_out - item->first_out;
        s->page_tables[b->n_seqs++] = seq->pages;
    }
    assert(b->n_rows <= s->limits.max_rows);
    assert(b->n_out <= s->limits.max_out);
}

bool sched_must_settle(const struct sched *s)
{
    int n_wanted = 0, n_to_grow = 0, n_paused = 0, chunk = s->limits.chunk;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *seq = s->running[i];
        int n_to_score = seq->n_to_score - seq->n_scored;
        n_paused += seq->paused;
        n_wanted += seq->paused ? 0 : 1 + (n_to_score < chunk ? n_to_score : chunk);
        n_to_grow += must_grow(seq);
    }
    if (n_wanted > s->limits.max_beside || n_to_grow > kvpool_n_available(s->pool))
        return true;
    if (n_paused == 0 && (s->n_running < s->limits.max_beside || s->n_running == s->limits.max_seqs))
        return false;
    const struct seq *seq = s->waiting;
    while (seq != NULL && steps_aside(seq))
        seq = seq->next;
    return seq != NULL;
}

void sched_plan(struct sched *s, struct sched_step *step)
{
    assert(!s->planned);
    uint64_t preemptions = s->preemptions;
    s->n_copies = 0;
    grow(s);
    if (s->preemptions == preemptions)
        admit_waiting(s);
    *step = (struct sched_step){.items = s->items, .copies = s->copies};
    step->batch = (struct batch){.token = s->token, .pos = s->pos, .seq = s->seq, .pages = s->page_tables, .out = s->out};
    step->n_catch_up = share_out(s);
    assert(step->n_catch_up <= s->limits.chunk);
    fill_rows(s, step);
    step->n_copies = s->n_copies;
    assert(s->n_copies == 0 || step->batch.n_rows > 0);
    s->planned = step->batch.n_rows > 0;
}

/* Full pages of known tokens become nodes of the prefix cache, chained to the one before. */
static void publish(struct sched *s, struct seq *seq)
{
    if (!kvpool_caches(s->pool))
        return;
    int n = seq->n_tokens; /* known */
    while (seq->tokens[n - 1] < 0)
        n--;
    n = n < seq->n_computed ? n : seq->n_computed;
    for (; (seq->n_published + 1) * KV_PAGE <= n; seq->n_published++) {
        int i = seq->n_published;
        int32_t parent = i > 0 ? seq->pages[i - 1] : KVPOOL_ROOT;
        seq->pages[i] = kvpool_publish(s->pool, seq->scope, parent, seq->pages[i], seq->tokens + i * KV_PAGE);
    }
}

void sched_commit(struct sched *s)
{
    assert(s->planned);
    s->planned = false;
    kvpool_launched(s->pool);
    for (int i = 0; i < s->n_running; i++) {
        struct seq *seq = s->running[i];
        if (s->take[i] == 0)
            continue;
        seq->n_computed += s->take[i];
        int scored = seq->n_computed < seq->n_to_score ? seq->n_computed : seq->n_to_score;
        if (scored > seq->n_scored)
            seq->n_scored = scored;
        publish(s, seq);
    }
}

void sched_landed(struct sched *s)
{
    kvpool_landed(s->pool);
}

void sched_learn(struct sched *s, struct seq *seq, int pos, int32_t token)
{
    assert(pos < seq->n_tokens && seq->tokens[pos] < 0);
    seq->tokens[pos] = token;
    publish(s, seq);
}

void sched_abandon(struct sched *s)
{
    s->planned = false;
}

bool sched_has_work(const struct sched *s)
{
    return s->n_running + s->n_waiting > s->n_paused;
}

struct sched_figures sched_figures(const struct sched *s)
{
    return (struct sched_figures){.n_running = s->n_running,
                                  .n_waiting = s->n_waiting,
                                  .n_paused = s->n_paused,
                                  .preemptions = s->preemptions,
                                  .prefix_queries = s->prefix_queries,
                                  .prefix_hits = s->prefix_hits};
}

void sched_check(const struct sched *s)
{
    int n_waiting = 0, n_paused = 0;
    uint64_t order = 0;
    for (const struct seq *seq = s->waiting; seq != NULL; seq = seq->next, n_waiting++) {
        assert(seq->state == SEQ_WAITING);
        assert(seq->n_pages == 0);
        assert(seq->tokens[seq->n_tokens - 1] >= 0);
        assert(seq->order > order);
        order = seq->order;
        n_paused += seq->paused;
    }
    order = 0;
    for (int i = 0; i < s->n_running; i++) {
        const struct seq *seq = s->running[i];
        assert(seq->state == SEQ_RUNNING);
        assert(seq->order > order);
        order = seq->order;
        n_paused += seq->paused;
        assert(seq->n_pages <= seq_pages_for(seq->cap));
        assert(seq->n_pages >= seq_pages_for(seq->n_computed));
        assert(seq->n_published <= seq->n_pages);
    }
    assert(n_waiting == s->n_waiting);
    assert(n_paused == s->n_paused);
    kvpool_check(s->pool);
}

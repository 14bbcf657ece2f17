/* cuda_inputs.c: begin(), and what the device reads of a batch.
 *
 * Tokens, positions, who attends how, the angles of the rope tables and changes of page tables are written into one of two pinned buffers and copied
 * as a whole to one place in device memory:
 *
 *   counts (rows, items) | token | pos | table | out | splits (2) | walks (2)     max_rows each     then freq, then changes of page tables
 *
 * so that the host may write the next step's while the device still computes this one: begin() waits for the step before the last, not for the last.
 *
 * Page tables stay in device memory, and a step brings only the entries that are not as it needs them; the host keeps what it sent. A table's place
 * is looked for by where the caller keeps it, as that seldom changes while a sequence runs: a good guess and no more, for what counts is the
 * comparison. There is a place for each row of the largest step. Changes beyond what a buffer holds, as after long prefixes that were found in the
 * cache, go ahead in a buffer of their own, and then begin() does wait.
 *
 * Nothing here computes, and what fails is kept (cuda.h). */
#include <assert.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"

/* Places of the arrays of a step, in a pinned buffer and in device memory alike. */
enum { COL_TOKEN, COL_POS, COL_TABLE, COL_OUT, COL_SPLITS, COL_WALKS = COL_SPLITS + 2, N_COLS = COL_WALKS + 2 };
enum { COUNT_ROWS, COUNT_ITEMS };

#define TRIES 16 /* places where a table is looked for */

static int32_t *counts(uint8_t *base)
{
    return (int32_t *)base;
}

static int32_t *column(const struct cuda *c, uint8_t *base, int i)
{
    return (int32_t *)(base + CUDA_ALIGN) + (size_t)i * (size_t)c->shape.max_rows;
}

static int32_t *changes(const struct cuda *c, uint8_t *base)
{
    return (int32_t *)(base + c->changes_at);
}

void cuda_size_inputs(struct cuda *c)
{
    const struct backend_shape *s = &c->shape;
    struct page_tables *t = &c->tables;
    t->max_pages = s->max_pos > 0 && (s->max_pos - 1) / KV_PAGE + 1 < s->n_pages ? (s->max_pos - 1) / KV_PAGE + 1 : s->n_pages;
    for (t->n = 1; t->n < s->max_rows; t->n *= 2) {
    }
    size_t n_entries = (size_t)t->n * (size_t)t->max_pages;
    assert(n_entries <= INT32_MAX);
    c->max_changes = n_entries < CUDA_MAX_CHANGES ? (int)n_entries : CUDA_MAX_CHANGES;
    c->freq_at = cuda_round_up(CUDA_ALIGN + N_COLS * (size_t)s->max_rows * sizeof(int32_t), CUDA_ALIGN);
    c->changes_at = c->freq_at + cuda_round_up(ROPE_TABLES * (size_t)s->rope_dims / 2 * sizeof(double), CUDA_ALIGN);
    c->input_bytes = c->changes_at + 2 * (size_t)c->max_changes * sizeof(int32_t);
}

struct device_batch cuda_batch_of(struct cuda *c)
{
    return (struct device_batch){.max_pages = c->tables.max_pages, .pages = c->tables.on_device, .items = c->items,
                                 .token = column(c, c->inputs, COL_TOKEN), .pos = column(c, c->inputs, COL_POS),
                                 .table = column(c, c->inputs, COL_TABLE), .out = column(c, c->inputs, COL_OUT),
                                 .splits = column(c, c->inputs, COL_SPLITS), .walks = column(c, c->inputs, COL_WALKS),
                                 .n_items = counts(c->inputs) + COUNT_ITEMS};
}

const int32_t *cuda_live(struct cuda *c)
{
    return counts(c->inputs) + COUNT_ROWS;
}

/* ---- page tables ---- */

/* The place of a table that the host keeps at `from`: where it was, or one nearby that this step has not used, nor others for long. */
static int place_of(struct page_tables *t, const int32_t *from)
{
    uint32_t first = (uint32_t)(((uint64_t)(uintptr_t)from * 0x9e3779b97f4a7c15u) >> 32);
    int chosen = -1;
    for (int i = 0; i < t->n && (i < TRIES || chosen < 0); i++) {
        int place = (int)((first + (uint32_t)i) & (uint32_t)(t->n - 1));
        if (t->whose[place] == from) {
            chosen = place;
            break;
        }
        if (t->step[place] != t->now && (chosen < 0 || t->step[place] < t->step[chosen]))
            chosen = place;
    }
    assert(chosen >= 0); /* a place for each row, and a sequence has a row */
    t->whose[chosen] = from;
    t->step[chosen] = t->now;
    return chosen;
}

/* Sends n changes ahead. Returns the other buffer, which has the column of tables so far, or NULL where the backend is lost. */
static struct staging *send_changes(struct cuda *c, struct staging *s, int n, int n_rows)
{
    struct staging *other = &c->steps[c->step ^= 1];
    const struct device_batch none = {.pages = c->tables.on_device};
    const size_t n_bytes = 2 * (size_t)n * sizeof(int32_t);
    if (cuda_check(c, cudaMemcpyAsync(changes(c, c->inputs), changes(c, s->bytes), n_bytes, cudaMemcpyHostToDevice, c->stream), "taking a batch"))
        cuda_check(c, launch_tables(&none, changes(c, c->inputs), n, c->stream), "changing page tables");
    cuda_release(c, s);
    if (c->lost || !cuda_acquire(c, other))
        return NULL;
    memcpy(column(c, other->bytes, COL_TABLE), column(c, s->bytes, COL_TABLE), (size_t)n_rows * sizeof(int32_t));
    return other;
}

/* Writes the column of tables and the changes; *s becomes the buffer that has them. Returns their number, or -1 where the backend is lost. */
static int write_tables(struct cuda *c, const struct batch *b, struct staging **s)
{
    struct page_tables *t = &c->tables;
    int n_changes = 0;
    t->now++;
    for (int r = 0, next; r < b->n_rows; r = next) {
        for (next = r + 1; next < b->n_rows && b->seq[next] == b->seq[r]; next++) {
        }
        const int32_t *from = b->pages[b->seq[r]];
        const int n = b->pos[next - 1] / KV_PAGE + 1, place = place_of(t, from), first = place * t->max_pages;
        assert(n <= t->max_pages);
        for (int i = 0; i < n; i++) {
            assert(from[i] >= 0 && from[i] < c->shape.n_pages);
            if (t->sent[first + i] == from[i] + 1)
                continue;
            if (n_changes == c->max_changes) {
                *s = send_changes(c, *s, n_changes, r);
                if (*s == NULL)
                    return -1;
                n_changes = 0;
            }
            int32_t *change = changes(c, (*s)->bytes) + 2 * n_changes++;
            change[0] = first + i;
            change[1] = from[i];
            t->sent[first + i] = from[i] + 1;
        }
        for (int k = r; k < next; k++)
            column(c, (*s)->bytes, COL_TABLE)[k] = place;
    }
    return n_changes;
}

/* ---- begin ---- */

static bool follows(const struct batch *b, int r)
{
    return b->seq[r] == b->seq[r - 1] && b->pos[r] == b->pos[r - 1] + 1;
}

bool cuda_attends_whole(const struct cuda *c, int n_rows, long n_chunks, long longest)
{
    return n_rows > 1 && longest * c->max_blocks <= 2 * n_chunks * c->shape.n_kv;
}

/* Rows in company walk their sequence's pages together. A row that is alone, as in decode, has its chunks computed apart, as long as there is room
 * for the partials: n_pages chunks in all. Otherwise it walks as well. */
static void plan_attention(struct cuda *c, const struct batch *b, int32_t *splits, int32_t *walks)
{
    struct device_batch *d = &c->batch;
    int longest = 0;
    for (int r = 0, n; r < b->n_rows; r += n) {
        for (n = 1; n < ATTEND_ROWS && r + n < b->n_rows && follows(b, r + n); n++) {
        }
        int n_chunks = b->pos[r] / KV_PAGE + 1;
        if (n == 1 && d->max_items + n_chunks <= c->shape.n_pages) {
            splits[2 * d->n_splits] = r;
            splits[2 * d->n_splits++ + 1] = d->max_items;
            d->max_items += n_chunks;
            longest = n_chunks > longest ? n_chunks : longest;
        } else {
            walks[2 * d->n_walks] = r;
            walks[2 * d->n_walks++ + 1] = n;
        }
    }
    c->whole = cuda_attends_whole(c, d->n_splits, d->max_items, longest);
}

/* A step of rows that are all alone may be one that was captured; its padding follows. */
static void plan_replay(struct cuda *c, uint8_t *bytes)
{
    const struct device_batch *d = &c->batch;
    for (int i = 0; i < c->captures.n && d->n_walks == 0 && c->replay < 0; i++)
        if (d->n_rows <= c->captures.kind[i].n_rows && c->whole == c->captures.kind[i].whole)
            c->replay = i;
    for (int r = d->n_rows; c->replay >= 0 && r < c->captures.kind[c->replay].n_rows; r++)
        column(c, bytes, COL_POS)[r] = column(c, bytes, COL_SPLITS)[2 * r] = -1;
}

void cuda_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables)
{
    struct cuda *c = cuda_of(be);
    assert(batch->n_rows > 0 && batch->n_rows <= c->shape.max_rows);
    assert(batch->n_out >= 0 && batch->n_out <= batch->n_rows);
    assert(n_tables <= ROPE_TABLES);
    c->first_score = c->n_scores = 0;
    c->n_out = batch->n_out;
    c->n_tables = n_tables;
    c->batch = cuda_batch_of(c);
    c->batch.n_rows = batch->n_rows;
    c->replay = -1;
    c->posts = c->ropes = false;
    struct staging *s = &c->steps[c->step];
    if (!cuda_enter(c) || !cuda_acquire(c, s))
        return;
    int n_changes = write_tables(c, batch, &s);
    if (n_changes < 0)
        return;
    c->step ^= 1;
    size_t n = (size_t)batch->n_rows, half = (size_t)c->shape.rope_dims / 2;
    for (size_t i = 0; i < n; i++)
        assert(batch->token[i] >= -FLIGHTS * c->shape.max_scores && batch->token[i] < c->shape.n_vocab);
    memcpy(column(c, s->bytes, COL_TOKEN), batch->token, n * sizeof *batch->token);
    memcpy(column(c, s->bytes, COL_POS), batch->pos, n * sizeof *batch->pos);
    if (batch->n_out > 0)
        memcpy(column(c, s->bytes, COL_OUT), batch->out, (size_t)batch->n_out * sizeof *batch->out);
    plan_attention(c, batch, column(c, s->bytes, COL_SPLITS), column(c, s->bytes, COL_WALKS));
    plan_replay(c, s->bytes);
    counts(s->bytes)[COUNT_ROWS] = batch->n_rows;
    counts(s->bytes)[COUNT_ITEMS] = c->batch.max_items;
    double *angles = (double *)(s->bytes + c->freq_at);
    for (int t = 0; t < n_tables; t++)
        memcpy(angles + (size_t)t * half, freq[t], half * sizeof *angles);
    size_t used = c->changes_at + 2 * (size_t)n_changes * sizeof(int32_t);
    cuda_check(c, cudaMemcpyAsync(c->inputs, s->bytes, used, cudaMemcpyHostToDevice, c->stream), "taking a batch");
    cuda_release(c, s);
    if (!c->lost)
        cuda_check(c, launch_tables(&c->batch, changes(c, c->inputs), n_changes, c->stream), "changing page tables");
    for (int t = 0; t < n_tables && half > 0 && !c->lost; t++)
        cuda_check(c, launch_angles((const double *)(c->inputs + c->freq_at) + (size_t)t * half, (int)half, c->batch.pos, batch->n_rows, c->cs[t],
                                    c->stream), "computing angles");
}

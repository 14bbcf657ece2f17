/* cuda_draw.c: a step's draws, enqueued behind it, and what came of them, a step later.
 *
 *   draw()  packs the draws and their edits into one of two pinned buffers, copies it, launches draw.cu, copies what was drawn into one of two
 *           flights and records an event. Ids stay in their slots, from where the next step's embedding takes them.
 *   land()  waits for the oldest flight's event alone: the next step may be running, whose scores go to the other flight. Rows that were not decided
 *           come over a second stream.
 *
 * Edits of a step, and the blocks of logits that they touch, are bounded: a row for which no room is left is not decided. */
#include <assert.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/numerics/numerics.h"

#define MAX_INVERSE_TEMPERATURE 1e30f /* sampler.c's */

enum { GIVE_UP = -2 }; /* device_draw.id */

/* Edits of a step, as they are packed. */
struct packer {
    struct device_edit *edits;
    int n, room;
    int n_blocks, block_room, most_blocks; /* that are changed; most of one row */
};

static bool penalises(const struct draw *d)
{
    const struct sampler_params *p = d->params;
    return d->n_counts > 0 && (p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0);
}

/* False where there is no room. */
static bool pack_edits(struct packer *to, const struct draw *d, struct device_draw *out)
{
    const struct sampler_params *p = d->params;
    int n_counts = penalises(d) ? d->n_counts : 0;
    long n = (long)p->n_bias + d->n_bans + n_counts, n_blocks = n < to->most_blocks ? n : to->most_blocks;
    if (n > to->room - to->n || n_blocks > to->block_room - to->n_blocks)
        return false;
    out->first_edit = to->n;
    out->first_block = to->n_blocks;
    to->n_blocks += (int)n_blocks;
    out->n_bias = p->n_bias;
    out->n_bans = d->n_bans;
    out->n_counts = n_counts;
    struct device_edit *at = to->edits + to->n;
    for (int i = 0; i < p->n_bias; i++, at++) {
        at->id = p->bias[i].id;
        memcpy(&at->bits, &p->bias[i].bias, sizeof at->bits);
    }
    for (int i = 0; i < d->n_bans; i++)
        *at++ = (struct device_edit){.id = d->bans[i]};
    for (int i = 0; i < n_counts; i++)
        *at++ = (struct device_edit){.id = d->counts[i].id, .bits = d->counts[i].n_output};
    to->n = (int)(at - to->edits);
    return true;
}

static struct device_draw pack(struct packer *to, const struct draw *d, int n_vocab)
{
    const struct sampler_params *p = d->params;
    struct device_draw out = {.id = d->id, .slot = d->slot, .n_top = d->n_top};
    if (p == NULL)
        return out;
    out.id = pack_edits(to, d, &out) ? -1 : GIVE_UP;
    out.u = d->u;
    if (p->temperature > 0) {
        float scale = 1.0f / p->temperature;
        out.scale = scale < MAX_INVERSE_TEMPERATURE ? scale : MAX_INVERSE_TEMPERATURE;
    }
    out.top_k = p->top_k > 0 && p->top_k < n_vocab ? p->top_k : 0;
    out.top_p = p->top_p;
    out.min_p = p->min_p;
    if (p->min_p > 0 && out.scale > 0)
        out.min_p_depth = (1 - (float)num_log((double)p->min_p)) / out.scale;
    out.typical_p = p->typical_p;
    out.repetition_penalty = p->repetition_penalty;
    out.frequency_penalty = p->frequency_penalty;
    out.presence_penalty = p->presence_penalty;
    return out;
}

static void enqueue_draws(struct cuda *c, const struct draw *draws, int n, struct flight *f)
{
    struct staging *s = &c->draw_steps[c->draw_step];
    if (!cuda_acquire(c, s))
        return;
    c->draw_step ^= 1;
    struct device_draw *packed = (struct device_draw *)s->bytes;
    struct packer to = {.edits = (struct device_edit *)(s->bytes + c->edits_at), .room = (int)((c->draw_bytes - c->edits_at) / sizeof *to.edits),
                        .block_room = c->n_changed_blocks, .most_blocks = c->n_score_blocks};
    struct device_draws d = c->draw;
    for (int i = 0; i < n; i++) {
        packed[i] = pack(&to, &draws[i], c->shape.n_vocab);
        assert(packed[i].slot >= -1 && packed[i].slot < FLIGHTS * c->shape.max_scores);
        d.edits_any = d.edits_any || packed[i].n_bias + packed[i].n_bans + packed[i].n_counts > 0;
        d.sums_any = d.sums_any || packed[i].n_top >= 0 || (packed[i].id == -1 && packed[i].scale > 0);
    }
    cuda_check(c, cudaMemcpyAsync(c->draws, s->bytes, c->edits_at + (size_t)to.n * sizeof *to.edits, cudaMemcpyHostToDevice, c->stream),
               "taking draws");
    cuda_release(c, s);
    d.n_rows = n;
    d.draws = (const struct device_draw *)c->draws;
    d.edits = (const struct device_edit *)(c->draws + c->edits_at);
    d.scores = f->scores;
    d.most = f->block_max;
    if (!c->lost)
        cuda_check(c, launch_draws(&d, c->stream), "drawing");
    cuda_copy_back(c, f->drawn, c->draw.drawn, (size_t)n * sizeof *f->drawn, c->stream);
}

void cuda_draw(struct backend *be, const struct draw *draws, int n)
{
    struct cuda *c = cuda_of(be);
    assert(n == c->n_scores && c->first_score == 0);
    assert(c->n_flights < FLIGHTS);
    struct flight *f = &c->flights[c->next_flight];
    c->next_flight ^= 1;
    c->n_flights++;
    f->n_out = n;
    if (!cuda_enter(c))
        return;
    if (n > 0)
        enqueue_draws(c, draws, n, f);
    cuda_copy_back(c, f->fault, c->fault, sizeof *c->fault, c->stream);
    if (!c->lost)
        cuda_check(c, cudaEventRecord(f->done, c->stream), "drawing");
}

/* The host keeps the rows of the last landed step. */
static const float *landed_row(void *ctx, int i)
{
    const struct cuda *c = ctx;
    return c->host.scores + (size_t)i * c->scores_ld;
}

static const float *landed_block_max(void *ctx, int i)
{
    const struct cuda *c = ctx;
    return c->host.block_max + (size_t)i * (size_t)c->n_score_blocks;
}

static void fetch_row(struct cuda *c, const struct flight *f, int i)
{
    const size_t row = (size_t)i * c->scores_ld, blocks = (size_t)i * (size_t)c->n_score_blocks;
    cuda_copy_back(c, c->host.scores + row, f->scores + row, (size_t)c->shape.n_vocab * sizeof *f->scores, c->fetches);
    cuda_copy_back(c, c->host.block_max + blocks, f->block_max + blocks, (size_t)c->n_score_blocks * sizeof *f->block_max, c->fetches);
    c->n_fetched++;
}

int cuda_land(struct backend *be, struct drawn *drawn_out, struct scores *scores_out, struct err *err)
{
    struct cuda *c = cuda_of(be);
    assert(c->n_flights > 0);
    const struct flight *f = &c->flights[c->next_flight ^ (c->n_flights & 1)];
    c->n_flights--;
    if (cuda_enter(c))
        cuda_check(c, cudaEventSynchronize(f->done), "computing a step");
    if (cuda_report(c, f->fault, err) != 0)
        return -1;
    const uint64_t before = c->n_fetched;
    for (int i = 0; i < f->n_out; i++) {
        drawn_out[i] = f->drawn[i];
        if (drawn_out[i].id < 0)
            fetch_row(c, f, i);
    }
    if (c->n_fetched != before && !c->lost)
        cuda_check(c, cudaStreamSynchronize(c->fetches), "returning scores");
    *scores_out = (struct scores){0, f->n_out, c->shape.n_vocab, c, landed_row, landed_block_max};
    return cuda_report(c, f->fault, err);
}

uint64_t cuda_rows_fetched(const struct backend *be)
{
    return ((const struct cuda *)be)->n_fetched;
}

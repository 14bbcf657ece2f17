/* walk.c: see walk.h.
 *
 * A table of operations that calls a backend's and then looks stands between the transformer and the backend, first the one that is right, whose
 * looks are kept, then the other, whose looks are compared. Nothing is replayed from a graph: both go operation by operation. What the device leaves
 * to the next operation is seen after that one. */
#include "tests/gpu/walk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/forward.h"

struct note {
    const char *op;
    enum peek_at at;
    int layer;
    struct peeked seen;
};

struct watcher {
    struct backend base;
    struct backend_ops table;
    struct backend *inner;
    const struct backend_ops *ops; /* inner's */
    const struct peeks *peeks;
    struct transformer *t;
    const struct batch *batch;
    int layer, first_score;
    struct note *notes; /* of this step */
    int n_notes, max_notes;
    const struct watcher *want; /* NULL: notes are kept, else compared with its notes */
    int at;
    const char *step;
    struct difference *out;
    walk_hook hook;
    void *hook_arg;
};

static const char *const peek_names[] = {"X", "QKV", "O", "operand A", "operand O", "operand H", "keys and values", "scores"};

/* ---- comparing ---- */

static void tell(struct watcher *w, const struct note *a, const struct peeked *got, int row, int i, int n_values, int n_rows)
{
    int r = a->at == PEEK_S ? w->batch->out[w->first_score + row] : row, n = a->seen.n;
    size_t at = (size_t)row * (size_t)n + (size_t)i;
    char layer[32] = "";
    if (a->layer >= 0)
        snprintf(layer, sizeof layer, "layer %d, ", a->layer);
    w->out->found = true;
    snprintf(w->out->text, sizeof w->out->text,
             "step %s, %s%s: %s of row %d (sequence %d, position %d), value %d of %d: %a (bits %08x) must be %a (bits %08x); %d values of %d rows "
             "differ",
             w->step, layer, a->op, peek_names[a->at], r, w->batch->seq[r], w->batch->pos[r], i, n, (double)got->v[at], num_bits_from_f32(got->v[at]),
             (double)a->seen.v[at], num_bits_from_f32(a->seen.v[at]), n_values, n_rows);
}

static void compare(struct watcher *w, const struct note *a, const struct peeked *got)
{
    int first_row = -1, first = -1, n_values = 0, n_rows = 0;
    assert(a->seen.n == got->n && a->seen.n_rows == got->n_rows);
    for (int r = 0; r < got->n_rows; r++) {
        const float *x = a->seen.v + (size_t)r * (size_t)got->n, *y = got->v + (size_t)r * (size_t)got->n;
        int before = n_values;
        for (int i = 0; i < got->n; i++) {
            if (memcmp(&x[i], &y[i], sizeof *x) == 0)
                continue;
            if (n_values++ == 0) {
                first_row = r;
                first = i;
            }
        }
        n_rows += n_values > before;
    }
    if (n_values > 0)
        tell(w, a, got, first_row, first, n_values, n_rows);
}

static void look(struct watcher *w, const char *op, enum peek_at at, const struct matrix *consumer, int n_rows)
{
    const struct peek_args args = {at, w->batch, consumer, w->layer, n_rows};
    struct note note = {op, at, w->layer, {0}};
    if (w->out->found)
        return;
    note.seen = w->peeks->look(w->inner, &args);
    if (note.seen.lost) {
        w->out->found = true;
        snprintf(w->out->text, sizeof w->out->text, "step %s, layer %d, %s: the device fails here", w->step, w->layer, op);
        free(note.seen.v);
        return;
    }
    if (w->want != NULL) {
        assert(w->at < w->want->n_notes);
        const struct note *a = &w->want->notes[w->at++];
        assert(strcmp(a->op, op) == 0 && a->at == at && a->layer == w->layer);
        if (note.seen.n_rows > 0)
            compare(w, a, &note.seen);
        free(note.seen.v);
        return;
    }
    if (w->n_notes == w->max_notes) {
        w->max_notes = w->max_notes * 2 + 64;
        w->notes = realloc(w->notes, (size_t)w->max_notes * sizeof *w->notes);
        assert(w->notes != NULL);
    }
    w->notes[w->n_notes++] = note;
}

static void forget(struct watcher *w)
{
    for (int i = 0; i < w->n_notes; i++)
        free(w->notes[i].seen.v);
    w->n_notes = w->at = 0;
}

/* ---- the table ---- */

static struct watcher *watcher_of(struct backend *be)
{
    return (struct watcher *)be;
}

static void after(struct watcher *w, const char *op)
{
    if (w->hook != NULL)
        w->hook(w->hook_arg, w->inner, op, w->layer);
}

static void watch_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables)
{
    struct watcher *w = watcher_of(be);
    w->batch = batch;
    w->layer = -1;
    w->ops->begin(w->inner, batch, freq, n_tables);
}

static void watch_embed(struct backend *be, const struct matrix *m, float scale)
{
    struct watcher *w = watcher_of(be);
    w->ops->embed(w->inner, m, scale);
    after(w, "embed");
    look(w, "embed", PEEK_X, NULL, w->batch->n_rows);
}

static void watch_norm(struct backend *be, const struct vector *v, float eps, const struct matrix *consumer)
{
    struct watcher *w = watcher_of(be);
    w->ops->norm(w->inner, v, eps, consumer);
    after(w, "norm");
    look(w, "norm", PEEK_A, consumer, w->batch->n_rows);
}

/* The layer's first: its norm is told as the one before. */
static void watch_qkv(struct backend *be, const struct matrix *m, const struct vector *bias)
{
    struct watcher *w = watcher_of(be);
    w->layer++;
    w->ops->qkv(w->inner, m, bias);
    after(w, "qkv");
    look(w, "qkv", PEEK_QKV, NULL, w->batch->n_rows);
}

static void watch_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps)
{
    struct watcher *w = watcher_of(be);
    w->ops->rope_store(w->inner, layer, table, q_norm, k_norm, eps);
    after(w, "rope_store");
    look(w, "rope_store", PEEK_QKV, NULL, w->batch->n_rows);
    look(w, "rope_store", PEEK_KV, NULL, w->batch->n_rows);
}

static void watch_attend(struct backend *be, const struct attend_params *p, const struct matrix *consumer)
{
    struct watcher *w = watcher_of(be);
    w->ops->attend(w->inner, p, consumer);
    after(w, "attend");
    look(w, "attend", PEEK_KV, NULL, w->batch->n_rows);
    look(w, "attend", PEEK_O, NULL, w->batch->n_rows);
    look(w, "attend", PEEK_OO, consumer, w->batch->n_rows);
}

static void watch_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps)
{
    struct watcher *w = watcher_of(be);
    w->ops->project_o(w->inner, m, bias, post, eps);
    after(w, "project_o");
    look(w, "project_o", PEEK_X, NULL, w->batch->n_rows);
}

static void watch_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer)
{
    struct watcher *w = watcher_of(be);
    w->ops->gate_up(w->inner, m, act, consumer);
    after(w, "gate_up");
    look(w, "gate_up", PEEK_H, consumer, w->batch->n_rows);
}

static void watch_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps)
{
    struct watcher *w = watcher_of(be);
    w->ops->project_h(w->inner, m, post, eps);
    after(w, "project_h");
    look(w, "project_h", PEEK_X, NULL, w->batch->n_rows);
}

static void watch_vocab(struct backend *be, const struct matrix *m, const struct vector *v, float eps, int first, int n)
{
    struct watcher *w = watcher_of(be);
    w->layer = -1;
    w->first_score = first;
    w->ops->vocab(w->inner, m, v, eps, first, n);
    after(w, "vocab");
    look(w, "vocab", PEEK_S, NULL, n);
}

static int watch_sync(struct backend *be, struct scores *scores_out, struct err *err)
{
    return watcher_of(be)->ops->sync(watcher_of(be)->inner, scores_out, err);
}

static void watch_copy_page(struct backend *be, int dst, int src, int n_pos)
{
    watcher_of(be)->ops->copy_page(watcher_of(be)->inner, dst, src, n_pos);
}

static void watcher_init(struct watcher *w, struct world *world, const struct peeks *peeks, struct difference *out)
{
    struct transformer *t = model_transformer(world->model);
    *w = (struct watcher){.inner = t->be, .ops = t->ops, .peeks = peeks, .t = t, .out = out};
    w->table = *t->ops;
    w->table.replay = NULL;
    w->table.begin = watch_begin;
    w->table.embed = watch_embed;
    w->table.norm = watch_norm;
    w->table.qkv = watch_qkv;
    w->table.rope_store = watch_rope_store;
    w->table.attend = watch_attend;
    w->table.project_o = watch_project_o;
    w->table.gate_up = watch_gate_up;
    w->table.project_h = watch_project_h;
    w->table.vocab = watch_vocab;
    w->table.sync = watch_sync;
    w->table.copy_page = watch_copy_page;
    w->base = (struct backend){&w->table, t->be->device};
    t->be = &w->base;
    t->ops = &w->table;
}

static void watcher_finish(struct watcher *w)
{
    forget(w);
    free(w->notes);
    w->t->be = w->inner;
    w->t->ops = w->ops;
}

int walk(struct world *want, const struct peeks *want_peeks, struct world *got, const struct peeks *got_peeks, walk_hook hook, void *arg,
         struct difference *out, struct err *err)
{
    struct watcher a, b;
    int rc = 0;
    *out = (struct difference){0};
    watcher_init(&a, want, want_peeks, out);
    watcher_init(&b, got, got_peeks, out);
    b.want = &a;
    b.hook = hook;
    b.hook_arg = arg;
    for (int i = 0; i < CASE_STEPS && rc == 0 && !out->found; i++) {
        uint64_t hash;
        char name[32];
        a.step = b.step = name;
        rc = world_run(want, i, &hash, name, sizeof name, err);
        if (rc == 0)
            rc = world_run(got, i, &hash, name, sizeof name, err);
        forget(&a);
        b.at = 0;
    }
    watcher_finish(&a);
    watcher_finish(&b);
    return out->found ? 0 : rc;
}

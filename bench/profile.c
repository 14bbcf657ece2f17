/* profile.c: where a step's time goes, operation by operation, against what this machine can do.
 *
 *     build/bench/profile [-t threads] [-c context] [-s seconds per case] [-d device] [-p] model.gguf
 *
 * The transformer calls everything through a table of operations, so a table that times and then calls the real one sees a step from inside while
 * the engine carries no clock. Cases: prompts of 128 and 512 rows from position 0, and 1, 8 and 32 sequences that each add one row at position
 * `context`. Each step is repeated; a figure is the median over steps of the operation's time summed over layers.
 *
 * GB/s counts the weights of matrices, the pages of attention and the values of row operations once each; Gop/s counts multiplications and additions
 * of matrices (int8) and attention (f32). The bound is the longer of the bytes at the measured read rate and the operations at the measured peak;
 * `of bound` is bound / time. Weights and pages are held against a plain read of the weights as they lie, just before and after; values of row
 * operations against a working set of as many bytes. Row operations store as much as they read and run on one thread where they are short, so their
 * bound is far away by nature: what counts for them is the share.
 *
 * -p, with one thread: processor time instead of the clock on the wall, for a machine that is not quiet. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/limits.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/pack.h"
#include "engine/model/forward.h"
#include "engine/model/model.h"

#define MAX_STEPS 400
#define MAX_DECODE 32
#define MAX_ROWS 512

enum op { OP_TABLES, OP_EMBED, OP_NORM, OP_QKV, OP_ROPE_STORE, OP_ATTEND, OP_PROJECT_O, OP_GATE_UP, OP_PROJECT_H, OP_VOCAB, N_OPS };

static const char *const op_names[N_OPS] = {"rope tables, begin", "embed", "norm", "qkv", "rope_store", "attend", "project_o", "gate_up", "project_h",
                                            "vocab"};

/* What an operation moved and computed in one step. */
struct work {
    int n_calls;
    double s, bytes, int8_ops, f32_ops;
    bool weights, pages; /* the weights pass through the caches between two reads of a page, so pages come from where the weights do */
};

/* A backend that times another. */
struct timed {
    struct backend base;
    struct backend_ops table;
    struct backend *inner;
    const struct backend_ops *ops; /* inner's */
    const struct hparams *hp;
    clockid_t clock;
    const struct batch *batch;
    double step_start;
    struct work work[N_OPS]; /* of the current step */
};

static double now_s(const struct timed *t)
{
    struct timespec ts;
    clock_gettime(t->clock, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* ---- counting ---- */

static double matrix_bytes(const struct matrix *m)
{
    double bytes = 0;
    for (int i = 0; i < m->n_stripes; i++)
        bytes += (double)pack_stripe_bytes(matrix_stripe(m, i).type, m->n_cols);
    return bytes;
}

static void count_matrix(struct work *w, const struct matrix *m, int n_rows)
{
    double ops = 2.0 * n_rows * m->n_rows * (m->pair ? 2 : 1) * m->n_cols;
    w->weights = true;
    w->bytes += matrix_bytes(m);
    if (m->needs & NEEDS_Q)
        w->int8_ops += ops;
    else
        w->f32_ops += ops;
}

/* Visible positions of all rows, and pages' positions that sequences read at all. */
static void count_attend(struct work *w, const struct hparams *hp, const struct batch *b, int window)
{
    double seen = 0, read = 0;
    for (int r = 0; r < b->n_rows; r++) {
        int all = b->pos[r] + 1, n = window > 0 && all > window ? window : all;
        bool first_of_seq = r == 0 || b->seq[r] != b->seq[r - 1];
        seen += n;
        read += first_of_seq ? n : 1; /* the next row sees one more */
    }
    w->pages = true;
    w->f32_ops += 4.0 * seen * hp->n_head * hp->head_dim;
    w->bytes += read * hp->n_kv * hp->head_dim * 2 * (double)sizeof(uint16_t);
}

/* ---- the table ---- */

static struct timed *timed_of(struct backend *be)
{
    return (struct timed *)be;
}

static struct work *done(struct timed *t, enum op op, double start)
{
    struct work *w = &t->work[op];
    w->s += now_s(t) - start;
    w->n_calls++;
    return w;
}

static double row_bytes(const struct timed *t, int n_values)
{
    return (double)t->batch->n_rows * n_values * (double)sizeof(float);
}

static void timed_begin(struct backend *be, const struct batch *batch, const double *const *freq, int n_tables)
{
    struct timed *t = timed_of(be);
    t->batch = batch;
    t->ops->begin(t->inner, batch, freq, n_tables);
    done(t, OP_TABLES, t->step_start)->bytes += row_bytes(t, n_tables * t->hp->rope_dims);
}

static void timed_embed(struct backend *be, const struct matrix *m, float scale)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->embed(t->inner, m, scale);
    done(t, OP_EMBED, start)->bytes += row_bytes(t, t->hp->d_model);
}

static void timed_norm(struct backend *be, const struct vector *w, float eps, const struct matrix *consumer)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->norm(t->inner, w, eps, consumer);
    done(t, OP_NORM, start)->bytes += row_bytes(t, t->hp->d_model);
}

static void timed_qkv(struct backend *be, const struct matrix *m, const struct vector *bias)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->qkv(t->inner, m, bias);
    count_matrix(done(t, OP_QKV, start), m, t->batch->n_rows);
}

static void timed_rope_store(struct backend *be, int layer, int table, const struct vector *q_norm, const struct vector *k_norm, float eps)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->rope_store(t->inner, layer, table, q_norm, k_norm, eps);
    done(t, OP_ROPE_STORE, start)->bytes += row_bytes(t, (t->hp->n_head + 2 * t->hp->n_kv) * t->hp->head_dim);
}

static void timed_attend(struct backend *be, const struct attend_params *p, const struct matrix *consumer)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->attend(t->inner, p, consumer);
    count_attend(done(t, OP_ATTEND, start), t->hp, t->batch, p->window);
}

static void timed_project_o(struct backend *be, const struct matrix *m, const struct vector *bias, const struct vector *post, float eps)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->project_o(t->inner, m, bias, post, eps);
    count_matrix(done(t, OP_PROJECT_O, start), m, t->batch->n_rows);
}

static void timed_gate_up(struct backend *be, const struct matrix *m, enum activation act, const struct matrix *consumer)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->gate_up(t->inner, m, act, consumer);
    count_matrix(done(t, OP_GATE_UP, start), m, t->batch->n_rows);
}

static void timed_project_h(struct backend *be, const struct matrix *m, const struct vector *post, float eps)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->project_h(t->inner, m, post, eps);
    count_matrix(done(t, OP_PROJECT_H, start), m, t->batch->n_rows);
}

static void timed_vocab(struct backend *be, const struct matrix *m, const struct vector *w, float eps, int first, int n)
{
    struct timed *t = timed_of(be);
    double start = now_s(t);
    t->ops->vocab(t->inner, m, w, eps, first, n);
    count_matrix(done(t, OP_VOCAB, start), m, n);
}

static int timed_sync(struct backend *be, struct scores *scores_out, struct err *err)
{
    return timed_of(be)->ops->sync(timed_of(be)->inner, scores_out, err);
}

/* Puts *t between the transformer and its backend. */
static void timed_init(struct timed *t, struct transformer *model, clockid_t clock)
{
    *t = (struct timed){.inner = model->be, .ops = model->ops, .hp = &model->hp, .clock = clock};
    t->table = *model->ops;
    t->table.begin = timed_begin;
    t->table.embed = timed_embed;
    t->table.norm = timed_norm;
    t->table.qkv = timed_qkv;
    t->table.rope_store = timed_rope_store;
    t->table.attend = timed_attend;
    t->table.project_o = timed_project_o;
    t->table.gate_up = timed_gate_up;
    t->table.project_h = timed_project_h;
    t->table.vocab = timed_vocab;
    t->table.sync = timed_sync;
    t->base = (struct backend){&t->table, model->be->device};
    model->be = &t->base;
    model->ops = &t->table;
}

static void timed_finish(struct timed *t, struct transformer *model)
{
    model->be = t->inner;
    model->ops = t->ops;
}

/* ---- steps ---- */

struct profile {
    struct transformer *model;
    struct timed timed;
    struct limits limits;
    int n_threads, context;
    double seconds; /* of a case */
    struct limits_span *spans; /* the weights */
    int n_spans, n_spans_max;
    int32_t *pages[MAX_DECODE];
    int32_t token[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], out[MAX_ROWS];
    struct work steps[MAX_STEPS][N_OPS];
    double step_s[MAX_STEPS];
};

static void fail(const char *what)
{
    fprintf(stderr, "profile: %s\n", what);
    exit(1);
}

/* n_seqs sequences of rows_each rows from position pos on. */
static void step(struct profile *p, int n_seqs, int rows_each, int pos, bool all_out)
{
    struct batch b = {.token = p->token, .pos = p->pos, .seq = p->seq, .out = p->out, .n_seqs = n_seqs, .n_rows = n_seqs * rows_each};
    struct scores scores;
    struct err err;
    b.pages = (const int32_t *const *)p->pages;
    for (int r = 0; r < b.n_rows; r++) {
        p->token[r] = (int32_t)((unsigned)(r + pos * 7 + 1) * 2654435761u % (unsigned)p->model->hp.n_vocab);
        p->pos[r] = pos + r % rows_each;
        p->seq[r] = r / rows_each;
        if (all_out || r % rows_each == rows_each - 1)
            p->out[b.n_out++] = r;
    }
    memset(p->timed.work, 0, sizeof p->timed.work);
    p->timed.step_start = now_s(&p->timed);
    if (forward(p->model, &b, &scores, &err) != 0)
        fail(err.msg);
    while (scores.first + scores.n_out < b.n_out)
        if (forward_next_scores(p->model, &b, &scores, &err) != 0)
            fail(err.msg);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

/* Seconds that the work takes at least. */
static double bound_s(const struct profile *p, const struct work *w, double weights_gbps, const char **by_out)
{
    int way = p->n_threads > 1;
    double memory = w->bytes / 1e9 / (w->weights || w->pages ? weights_gbps : limits_read_gbps(&p->limits, (size_t)w->bytes));
    double int8 = w->int8_ops / 1e9 / p->limits.int8_gops[way], f32 = w->f32_ops / 1e9 / p->limits.f32_gops[way];
    *by_out = memory >= int8 && memory >= f32 ? "read" : int8 >= f32 ? "int8" : "f32";
    return memory >= int8 && memory >= f32 ? memory : int8 >= f32 ? int8 : f32;
}

static void print_case(struct profile *p, int n_steps, int n_rows, double weights_gbps)
{
    static double values[MAX_STEPS];
    memcpy(values, p->step_s, (size_t)n_steps * sizeof *values);
    double total = median_of(values, n_steps), bounds = 0, counted = 0;
    printf("  %-20s %5s %9s %6s %8s %8s %9s %6s %9s\n", "operation", "calls", "us", "share", "GB/s", "Gop/s", "bound us", "by", "of bound");
    for (int op = 0; op < N_OPS; op++) {
        struct work w = p->steps[0][op];
        for (int i = 0; i < n_steps; i++)
            values[i] = p->steps[i][op].s;
        const char *by;
        double s = median_of(values, n_steps), bound = bound_s(p, &w, weights_gbps, &by), ops = w.int8_ops + w.f32_ops;
        if (w.n_calls == 0)
            continue;
        bounds += bound;
        counted += s;
        printf("  %-20s %5d %9.0f %5.1f%% %8.1f %8.0f %9.0f %6s %8.0f%%\n", op_names[op], w.n_calls, s * 1e6, 100 * s / total, w.bytes / s / 1e9,
               ops / s / 1e9, bound * 1e6, by, 100 * bound / s);
    }
    printf("  %-20s %5s %9.0f %5.1f%% %8s %8s %9.0f %6s %8.0f%%   %.0f rows/s, %d steps\n\n", "the step", "", total * 1e6, 100 * counted / total, "",
           "", bounds * 1e6, "", 100 * bounds / total, n_rows / total, n_steps);
}

static double weights_gbps(const struct profile *p)
{
    double median, best, bytes = 0;
    for (int i = 0; i < p->n_spans; i++)
        bytes += (double)p->spans[i].bytes;
    if (p->timed.clock != CLOCK_MONOTONIC) /* processor time cannot be held against time on the wall */
        return limits_read_gbps(&p->limits, (size_t)bytes);
    if (limits_read(p->n_threads, p->spans, p->n_spans, 9, &median, &best) != 0)
        fail("cannot read the weights");
    return best;
}

static void run_case(struct profile *p, const char *name, int n_seqs, int rows_each, int pos)
{
    int n = 0;
    double before = weights_gbps(p);
    step(p, n_seqs, rows_each, pos, false); /* warm */
    for (double end = now_s(&p->timed) + p->seconds; n < MAX_STEPS && (n < 5 || now_s(&p->timed) < end); n++) {
        step(p, n_seqs, rows_each, pos, false);
        p->step_s[n] = now_s(&p->timed) - p->timed.step_start;
        memcpy(p->steps[n], p->timed.work, sizeof p->steps[n]);
    }
    double after = weights_gbps(p), best = before > after ? before : after;
    printf("%s; plain read of the weights %.1f GB/s before, %.1f after\n", name, before, after);
    print_case(p, n, n_seqs * rows_each, best);
}

/* ---- the whole ---- */

static void add_span(struct profile *p, const struct matrix *m)
{
    assert(p->n_spans < p->n_spans_max);
    p->spans[p->n_spans++] = (struct limits_span){m->parts[0].w, (size_t)matrix_bytes(m)};
}

static void find_weights(struct profile *p)
{
    p->n_spans_max = 4 * p->model->hp.n_layers + 1;
    p->spans = calloc((size_t)p->n_spans_max, sizeof *p->spans);
    if (p->spans == NULL)
        fail("no memory");
    for (int i = 0; i < p->model->hp.n_layers; i++) {
        const struct layer *l = &p->model->layers[i];
        add_span(p, l->qkv);
        add_span(p, l->o);
        add_span(p, l->gate_up);
        add_span(p, l->down);
    }
    add_span(p, p->model->output);
}

/* Every sequence's pages hold positions 0 .. context - 1 of the same text. */
static void fill_context(struct profile *p)
{
    for (int at = 0; at < p->context; at += MAX_ROWS)
        step(p, 1, p->context - at < MAX_ROWS ? p->context - at : MAX_ROWS, at, false);
    for (int s = 1; s < MAX_DECODE; s++)
        for (int page = 0; page <= p->context / KV_PAGE; page++)
            p->timed.ops->copy_page(p->timed.inner, p->pages[s][page], p->pages[0][page], KV_PAGE);
}

static void run_cases(struct profile *p)
{
    static const int streams[] = {1, 8, 32};
    char name[100];
    for (int rows = 128; rows <= 512; rows *= 4) {
        snprintf(name, sizeof name, "prefill, %d rows from position 0", rows);
        run_case(p, name, 1, rows, 0);
    }
    fill_context(p);
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        snprintf(name, sizeof name, "decode, %d rows at position %d", streams[i], p->context);
        run_case(p, name, streams[i], 1, p->context);
    }
}

int main(int argc, char **argv)
{
    static struct profile p = {.n_threads = 2, .context = 160, .seconds = 1.5};
    const char *device = "cpu";
    bool processor_time = false;
    int c;
    while ((c = getopt(argc, argv, "t:c:s:d:p")) != -1)
        switch (c) {
        case 't': p.n_threads = atoi(optarg); break;
        case 'c': p.context = atoi(optarg); break;
        case 's': p.seconds = atof(optarg); break;
        case 'd': device = optarg; break;
        case 'p': processor_time = true; break;
        default: fail("usage: profile [-t threads] [-c context] [-s seconds per case] [-d device] [-p] model.gguf");
        }
    if (optind != argc - 1 || p.n_threads < 1 || p.context < 0 || (processor_time && p.n_threads > 1))
        fail("usage: profile [-t threads] [-c context] [-s seconds per case] [-d device] [-p] model.gguf (-p with one thread)");

    struct err err;
    struct model *m;
    int pages_each = (p.context > MAX_ROWS ? p.context : MAX_ROWS) / KV_PAGE + 1;
    const struct model_options options = {.device = device, .n_threads = p.n_threads, .max_rows = MAX_ROWS, .max_out = MAX_DECODE,
                                          .n_pages = MAX_DECODE * pages_each};
    if (model_open(argv[optind], &m, &err) != 0 || model_load(m, &options, &err) != 0)
        fail(err.msg);
    for (int s = 0; s < MAX_DECODE; s++) {
        p.pages[s] = calloc((size_t)pages_each, sizeof *p.pages[s]);
        for (int i = 0; p.pages[s] != NULL && i < pages_each; i++)
            p.pages[s][i] = s * pages_each + i;
    }
    p.model = model_transformer(m);
    find_weights(&p);
    if (limits_measure(p.n_threads, &p.limits) != 0)
        fail("cannot measure the limits");
    printf("%s: %s on %d threads, weights %.1f MB\n", model_info(m)->name, model_device(m), p.n_threads, (double)model_loaded_bytes(m) / 1e6);
    limits_print(&p.limits);
    printf("\n");
    timed_init(&p.timed, p.model, processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC);
    run_cases(&p);
    timed_finish(&p.timed, p.model);
    for (int s = 0; s < MAX_DECODE; s++)
        free(p.pages[s]);
    free(p.spans);
    model_close(m);
    return 0;
}

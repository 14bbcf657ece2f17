/* invariance.h: what the tests of the runner's invariance share.
 *
 * The promise: the scores of a row depend on its sequence's tokens up to there and on nothing else. So logits are compared bit by bit: for steps of
 * 1, 7, 64 and 512 rows, one sequence alone or mixed with others of other ages, any page order, 1 and 2 threads, and each instruction set forced over
 * the whole model. */
#ifndef NEXTD_TESTS_MODEL_INVARIANCE_H
#define NEXTD_TESTS_MODEL_INVARIANCE_H

#include "tests/engine/backend/cpu/devices.h"
#include "tests/engine/model/run.h"

#define MAX_IDS 600

struct table {
    int n_vocab;
    float *rows; /* [MAX_IDS][n_vocab] */
};

static inline void keep_rows(void *arg, const struct scores *scores, int pos, int n)
{
    struct table *t = arg;
    t->n_vocab = scores->n_vocab;
    if (t->rows == NULL)
        t->rows = malloc((size_t)MAX_IDS * (size_t)scores->n_vocab * sizeof(float));
    for (int i = 0; i < n; i++)
        memcpy(t->rows + (size_t)(pos + i) * (size_t)t->n_vocab, scores->row(scores->ctx, scores->first + i), (size_t)t->n_vocab * sizeof(float));
}

/* Ids that mean nothing but differ; the same for the same seed. */
static inline void fill_ids(int32_t *ids, int n, int n_vocab, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ids[i] = (int32_t)(seed >> 8) % n_vocab;
    }
}

static inline void assert_same_rows(const struct table *a, const struct table *b, int n, const char *what)
{
    assert_int_equal(a->n_vocab, b->n_vocab);
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * (size_t)a->n_vocab;
        if (memcmp(a->rows + at, b->rows + at, (size_t)a->n_vocab * sizeof(float)) != 0)
            fail_msg("%s: position %d differs", what, i);
    }
}

/* The scores of ids under the given conditions; pages in reverse order where asked. */
static inline struct table compute(const char *path, const char *device, int n_threads, int chunk, bool reversed, const int32_t *ids, int n)
{
    struct run run;
    struct table t = {0};
    run_open(&run, path, device, n_threads, chunk, chunk, 24);
    for (int i = 0; reversed && i < 24; i++)
        run.pages[i] = 23 - i;
    run_feed(&run, ids, 0, n, chunk, keep_rows, &t);
    run_close(&run);
    return t;
}

static inline void check_chunks_and_threads(const char *path, int n_vocab, int n)
{
    static const struct {
        int threads, chunk;
        bool reversed;
    } ways[] = {{1, 1, false}, {2, 7, true}, {1, 64, true}, {2, 512, false}};
    int32_t ids[MAX_IDS];
    fill_ids(ids, n, n_vocab, 1);
    struct table wanted = compute(path, "cpu", 2, 33, false, ids, n);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        char what[120];
        struct table got = compute(path, "cpu", ways[i].threads, ways[i].chunk, ways[i].reversed, ids, n);
        snprintf(what, sizeof what, "%s, %d threads, steps of %d", path, ways[i].threads, ways[i].chunk);
        assert_same_rows(&wanted, &got, n, what);
        free(got.rows);
    }
    free(wanted.rows);
}

static inline void check_instruction_sets(const char *path, int n_vocab, int n)
{
    int32_t ids[MAX_IDS];
    fill_ids(ids, n, n_vocab, 2);
    struct table wanted = compute(path, "cpu:generic", 2, 32, false, ids, n);
    for (size_t i = 1; i < N_DEVICES; i++) {
        char what[120];
        if (!device_runs(devices[i])) {
            print_message("%s: this machine has no %s\n", path, devices[i]);
            continue;
        }
        struct table got = compute(path, devices[i], 2, 32, false, ids, n);
        snprintf(what, sizeof what, "%s, %s", path, devices[i]);
        assert_same_rows(&wanted, &got, n, what);
        free(got.rows);
    }
    free(wanted.rows);
}

/* ---- sequences together ---- */

#define N_SEQS 5

struct mixed {
    int32_t ids[N_SEQS][200];
    int n[N_SEQS], done[N_SEQS];
    int32_t pages[N_SEQS][4];
    struct table got[N_SEQS];
};

/* One step: `rows[s]` more rows of each sequence s that still has them. Wants the scores of all. */
static inline void step_mixed(struct run *run, struct mixed *m, const int *rows)
{
    int32_t token[128], pos[128], seq[128], out[128];
    const int32_t *tables[N_SEQS];
    int n_rows = 0, n_seqs = 0, whose[128];
    for (int s = 0; s < N_SEQS; s++) {
        int n = m->n[s] - m->done[s] < rows[s] ? m->n[s] - m->done[s] : rows[s];
        for (int i = 0; i < n; i++, n_rows++) {
            token[n_rows] = m->ids[s][m->done[s] + i];
            pos[n_rows] = m->done[s] + i;
            seq[n_rows] = n_seqs;
            out[n_rows] = n_rows;
            whose[n_rows] = s;
        }
        if (n > 0)
            tables[n_seqs++] = m->pages[s];
        m->done[s] += n;
    }
    if (n_rows == 0)
        return;
    const struct batch batch = {n_rows, token, pos, seq, n_seqs, tables, n_rows, out};
    struct scores scores;
    struct err err;
    assert_int_equal(run->runner.forward(run->runner.ctx, &batch, &scores, &err), 0);
    for (int r = 0; r < n_rows; r++) {
        if (r == scores.first + scores.n_out)
            assert_int_equal(run->runner.next_scores(run->runner.ctx, &batch, &scores, &err), 0);
        struct table *t = &m->got[whose[r]];
        memcpy(t->rows + (size_t)pos[r] * (size_t)t->n_vocab, scores.row(scores.ctx, r), (size_t)t->n_vocab * sizeof(float));
    }
}

static inline void check_mixed(const char *path, int n_vocab)
{
    static const int lengths[N_SEQS] = {200, 65, 128, 3, 150};
    static const int pace[4][N_SEQS] = {{50, 1, 13, 1, 0}, {1, 7, 0, 1, 64}, {0, 1, 64, 1, 1}, {17, 3, 1, 0, 30}};
    struct mixed *m = calloc(1, sizeof *m);
    struct run run;
    run_open(&run, path, "cpu", 2, 128, 128, 20);
    for (int s = 0; s < N_SEQS; s++) {
        fill_ids(m->ids[s], lengths[s], n_vocab, 10 + (uint32_t)s);
        m->n[s] = lengths[s];
        for (int p = 0; p < 4; p++)
            m->pages[s][p] = (s * 7 + p * 5 + 3) % 20; /* scattered, each page once */
        m->got[s] = (struct table){n_vocab, malloc((size_t)MAX_IDS * (size_t)n_vocab * sizeof(float))};
    }
    for (int i = 0; i < 20; i++) /* each page belongs to one sequence */
        for (int k = 0, owners = 0; k < N_SEQS * 4; k++) {
            owners += m->pages[k / 4][k % 4] == i;
            assert_true(owners <= 1);
        }
    for (int i = 0; i < 100; i++)
        step_mixed(&run, m, pace[i % 4]);
    run_close(&run);
    for (int s = 0; s < N_SEQS; s++) {
        char what[120];
        assert_int_equal(m->done[s], m->n[s]);
        struct table alone = compute(path, "cpu", 1, 64, false, m->ids[s], m->n[s]);
        snprintf(what, sizeof what, "%s, sequence %d among others", path, s);
        assert_same_rows(&alone, &m->got[s], m->n[s], what);
        free(alone.rows);
        free(m->got[s].rows);
    }
    free(m);
}

#endif

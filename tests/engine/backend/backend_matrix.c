/* backend_matrix.c: see backend_matrix.h. */
#include "tests/engine/backend/backend_matrix.h"

#include <stdlib.h>
#include <string.h>

#define MAX_OUT MAX_ROWS
#define MAX_WIDTH 2048 /* of a row that is recorded */
#define N_PAGES 16

/* ---- random models ---- */

uint32_t rng_state;

uint32_t rng(void)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return rng_state >> 8;
}

float rng_float(float scale)
{
    return ((float)(rng() & 0xffff) / 32768.0f - 1.0f) * scale;
}

const enum tensor_type all_types[N_TYPES] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                                TENSOR_Q8_0, TENSOR_Q2_K, TENSOR_Q3_K, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};

static void put_f16(uint8_t *p, float v)
{
    uint16_t h = num_f16_from_f32(v);
    memcpy(p, &h, sizeof h);
}

struct sample random_tensor(enum tensor_type type, int n_rows, int n_cols)
{
    static const struct {
        int type, scale_at, min_at;
    } f16s[] = {{TENSOR_Q4_0, 0, -1},  {TENSOR_Q4_1, 0, 2},   {TENSOR_Q5_0, 0, -1}, {TENSOR_Q5_1, 0, 2},    {TENSOR_Q8_0, 0, -1},
                {TENSOR_Q2_K, 80, 82}, {TENSOR_Q3_K, 108, -1}, {TENSOR_Q4_K, 0, 2},  {TENSOR_Q5_K, 0, 2}, {TENSOR_Q6_K, 208, -1}};
    int n_values, n_bytes;
    quant_unit(type, &n_values, &n_bytes);
    size_t n_units = (size_t)n_rows * (size_t)(n_cols / n_values);
    assert_true(quant_row_bytes(type, n_cols) > 0);
    uint8_t *data = malloc(n_units * (size_t)n_bytes);
    for (size_t i = 0; i < n_units; i++) {
        uint8_t *p = data + i * (size_t)n_bytes;
        float value = rng_float(0.2f);
        if (type == TENSOR_F32)
            memcpy(p, &value, 4);
        else if (type == TENSOR_F16)
            put_f16(p, value);
        else if (type == TENSOR_BF16)
            memcpy(p, (uint8_t *)&value + 2, 2);
        if (quant_is_float(type))
            continue;
        uint32_t extreme = rng() % 16;
        for (int b = 0; b < n_bytes; b++)
            p[b] = extreme == 0 ? 0xff : extreme == 1 ? 0x80 : extreme == 2 ? 0 : (uint8_t)rng();
        float unit = type == TENSOR_Q8_0 ? 0.001f : n_values == 256 ? 0.0004f : 0.01f;
        for (size_t f = 0; f < sizeof f16s / sizeof *f16s; f++) {
            if (f16s[f].type != (int)type)
                continue;
            put_f16(p + f16s[f].scale_at, rng_float(unit));
            if (f16s[f].min_at >= 0)
                put_f16(p + f16s[f].min_at, rng_float(unit * 4));
        }
    }
    return (struct sample){{type, n_rows, n_cols}, data};
}

/* What waits until everything is made. */
struct pending {
    struct sample sample;
    struct fill fill;
    struct vector *vector;
    float *values;
    int n_values;
} pending[64];
static int n_pending;

void await(struct matrix *m, int part, struct sample t)
{
    assert_true(n_pending < 64);
    pending[n_pending++] = (struct pending){.sample = t, .fill = {m, part, 0, t.shape.n_rows, t.rows}};
}

static void nothing(void *arg)
{
    ++*(int *)arg;
}

void fill_all(struct backend *be)
{
    struct err err;
    int n_calls = 0, n_fills = 0;
    assert_int_equal(be->ops->reserve(be, &err), 0);
    for (struct pending *p = pending; p < pending + n_pending; p++) {
        if (p->vector != NULL)
            be->ops->fill_vector(be, p->vector, 0, p->values, p->n_values);
        int n_rows = p->fill.n_rows;
        for (int row = (n_rows - 1) / FILL_ROWS * FILL_ROWS; row >= 0 && p->fill.to != NULL; row -= FILL_ROWS) {
            struct fill f = p->fill;
            f.first_row = row;
            f.n_rows = n_rows - row < FILL_ROWS ? n_rows - row : FILL_ROWS;
            f.rows = p->sample.rows + (size_t)row * quant_row_bytes(p->sample.shape.type, p->sample.shape.n_cols);
            be->ops->fill(be, &f, 1, nothing, &n_calls);
            n_fills++;
        }
        free(p->values);
        free(p->sample.rows);
    }
    assert_int_equal(n_calls, n_fills);
    n_pending = 0;
    assert_int_equal(be->ops->seal(be, &err), 0);
}

struct vector *random_vector(struct backend *be, int n, float middle, float scale)
{
    struct err err;
    struct vector *v = NULL;
    float *values = malloc((size_t)n * sizeof *values);
    for (int i = 0; i < n; i++)
        values[i] = middle + rng_float(scale);
    assert_int_equal(be->ops->vector(be, n, &v, &err), 0);
    assert_true(n_pending < 64);
    pending[n_pending++] = (struct pending){.vector = v, .values = values, .n_values = n};
    return v;
}

struct matrix *random_matrix(struct backend *be, enum tensor_type type, int n_rows, int n_cols)
{
    struct err err;
    struct matrix *m = NULL;
    struct sample t = random_tensor(type, n_rows, n_cols);
    assert_int_equal(be->ops->matrix_stack(be, &t.shape, 1, &m, &err), 0);
    await(m, 0, t);
    return m;
}

void rig_open(struct rig *rig, const struct spec *s, const struct probe *probe, const char *device, int n_threads)
{
    struct err err;
    struct backend_shape shape = {N_LAYERS, s->d_model, s->d_ff,    s->n_head, s->n_kv, s->head_dim, s->n_vocab, s->rope_dims,
                                  s->neox,  MAX_ROWS,   MAX_OUT,    N_PAGES,   n_threads, device, 0};
    const struct backend_ops *ops = probe->ops;
    rig->spec = *s;
    rig->probe = probe;
    rig->be = NULL;
    if (ops->open(&shape, &rig->be, &err) != 0)
        fail_msg("%s", err.msg);
    probe->spoil_pages(rig->be);
    rng_state = 12345;
    int qk = s->n_head * s->head_dim, kv = s->n_kv * s->head_dim;
    for (int l = 0; l < N_LAYERS; l++) {
        struct model *m = &rig->layers[l];
        struct sample parts[3] = {random_tensor(s->q, qk, s->d_model), random_tensor(s->k, kv, s->d_model), random_tensor(s->v, kv, s->d_model)};
        struct tensor shapes[3] = {parts[0].shape, parts[1].shape, parts[2].shape};
        assert_int_equal(ops->matrix_stack(rig->be, shapes, 3, &m->qkv, &err), 0);
        struct sample gate = random_tensor(s->gate, s->d_ff, s->d_model), up = random_tensor(s->up, s->d_ff, s->d_model);
        assert_int_equal(ops->matrix_pair(rig->be, &gate.shape, &up.shape, &m->pair, &err), 0);
        for (int i = 0; i < 3; i++)
            await(m->qkv, i, parts[i]);
        await(m->pair, 0, gate);
        await(m->pair, 1, up);
        m->o = random_matrix(rig->be, s->o, s->d_model, qk);
        m->down = random_matrix(rig->be, s->down, s->d_model, s->d_ff);
        m->norm = random_vector(rig->be, s->d_model, 1.0f, 0.5f);
        m->ffn_norm = random_vector(rig->be, s->d_model, 1.0f, 0.5f);
        m->bias = random_vector(rig->be, qk + 2 * kv, 0.0f, 1.0f);
        m->q_norm = random_vector(rig->be, s->head_dim, 1.0f, 0.5f);
        m->k_norm = random_vector(rig->be, s->head_dim, 1.0f, 0.5f);
        m->post = random_vector(rig->be, s->d_model, 1.0f, 0.5f);
    }
    rig->vocab = random_matrix(rig->be, s->vocab, s->n_vocab, s->d_model);
    rig->out_norm = random_vector(rig->be, s->d_model, 1.0f, 0.5f);
    fill_all(rig->be);
}

/* ---- records ---- */

int record_floats(const struct spec *s)
{
    int qkv = (s->n_head + 2 * s->n_kv) * s->head_dim, o = s->n_head * s->head_dim;
    return s->d_model + N_LAYERS * (2 * qkv + o + 2 * s->d_model) + s->n_vocab + (s->n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
}

struct recorder {
    struct rig *rig;
    const struct batch *b;
    float *records; /* [N_SEQS][N_POS][record_floats] */
    int floats, at;
};

static void record(struct recorder *r, enum buffer which, int n)
{
    static float rows[MAX_ROWS * MAX_WIDTH];
    assert_true(n <= MAX_WIDTH);
    r->rig->probe->peek(r->rig->be, which, r->b->n_rows, n, rows);
    for (int i = 0; i < r->b->n_rows; i++) {
        size_t row = (size_t)(r->b->seq[i] * N_POS + r->b->pos[i]);
        memcpy(r->records + row * (size_t)r->floats + r->at, rows + (size_t)i * (size_t)n, (size_t)n * sizeof *rows);
    }
    r->at += n;
}

const int32_t page_tables[N_SEQS][3] = {{3, 9, 5}, {0, 12, 2}, {15, 1, 8}};

static void forward_layers(struct rig *rig, struct recorder *r)
{
    const struct backend_ops *ops = rig->be->ops;
    const struct spec *s = &rig->spec;
    int qkv = (s->n_head + 2 * s->n_kv) * s->head_dim;
    for (int l = 0; l < N_LAYERS; l++) {
        const struct model *m = &rig->layers[l];
        const struct vector *post = s->post ? m->post : NULL;
        ops->norm(rig->be, m->norm, 1e-5f, m->qkv);
        ops->qkv(rig->be, m->qkv, s->bias ? m->bias : NULL);
        record(r, BUFFER_QKV, qkv);
        ops->rope_store(rig->be, l, l % 2, s->qk_norm ? m->q_norm : NULL, s->qk_norm ? m->k_norm : NULL, 1e-6f);
        record(r, BUFFER_QKV, qkv);
        struct attend_params p = {l, l == 0 ? s->window : 0, 0.2f};
        ops->attend(rig->be, &p, m->o);
        record(r, BUFFER_O, s->n_head * s->head_dim);
        ops->project_o(rig->be, m->o, NULL, post, 1e-5f);
        record(r, BUFFER_X, s->d_model);
        ops->norm(rig->be, m->ffn_norm, 1e-5f, m->pair);
        ops->gate_up(rig->be, m->pair, s->act, m->down);
        ops->project_h(rig->be, m->down, post, 1e-5f);
        record(r, BUFFER_X, s->d_model);
    }
}

void forward_rows(struct rig *rig, const int (*rows)[2], int n_rows, const int32_t *const *pages, float *records)
{
    static int32_t token[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], out[MAX_ROWS];
    const struct spec *s = &rig->spec;
    double freq[2][128];
    for (int t = 0; t < 2; t++)
        for (int d = 0; d < s->rope_dims / 2; d++)
            freq[t][d] = 1.0 / (1 + d * (t + 1));
    for (int i = 0; i < n_rows; i++) {
        seq[i] = rows[i][0];
        pos[i] = rows[i][1];
        token[i] = (seq[i] * 7919 + pos[i] * 104729) % s->n_vocab;
    }
    for (int i = 0; i < n_rows; i++)
        out[i] = i;
    struct batch b = {n_rows, token, pos, seq, N_SEQS, pages, n_rows, out};
    struct recorder r = {rig, &b, records, record_floats(s), 0};
    struct scores scores;
    struct err err;
    rig->be->ops->begin(rig->be, &b, (const double *const[]){freq[0], freq[1]}, 2);
    rig->be->ops->embed(rig->be, rig->vocab, 1.5f);
    record(&r, BUFFER_X, s->d_model);
    forward_layers(rig, &r);
    rig->be->ops->vocab(rig->be, rig->vocab, rig->out_norm, 1e-5f, 0, n_rows);
    if (rig->be->ops->sync(rig->be, &scores, &err) != 0)
        fail_msg("%s: %s", s->name, err.msg);
    assert_int_equal(scores.n_out, n_rows);
    for (int i = 0; i < n_rows; i++) {
        float *to = records + (size_t)(seq[i] * N_POS + pos[i]) * (size_t)r.floats + r.at;
        memcpy(to, scores.row(scores.ctx, i), (size_t)s->n_vocab * sizeof *to);
        memcpy(to + s->n_vocab, scores.block_max(scores.ctx, i), (size_t)(r.floats - r.at - s->n_vocab) * sizeof *to);
    }
}

/* ---- schedules ---- */

float *run_schedule(struct rig *rig, enum schedule how)
{
    static int rows[MAX_ROWS][2];
    const int32_t *pages[N_SEQS] = {page_tables[0], page_tables[1], page_tables[2]};
    float *records = calloc((size_t)N_SEQS * N_POS, (size_t)record_floats(&rig->spec) * sizeof *records);
    const int lengths[N_SEQS] = {rig->spec.n_pos, 20, 3};
    int done[N_SEQS] = {0}, turn = 0;
    static const int chunk[] = {1, 7, 2, 33, 5, 13, 3, 49};
    for (;;) {
        int n = 0;
        for (int s = 0; s < N_SEQS; s++) {
            int want = how == TOGETHER ? N_POS : how == RAGGED ? chunk[turn++ % 8] : how == ONE_BY_ONE ? (turn % N_SEQS == s) : n > 0 ? 0 : N_POS;
            for (; want > 0 && done[s] < lengths[s]; want--, n++) {
                rows[n][0] = s;
                rows[n][1] = done[s]++;
            }
        }
        if (how == ONE_BY_ONE)
            turn++;
        if (n > 0)
            forward_rows(rig, (const int (*)[2])rows, n, pages, records);
        if (done[0] + done[1] + done[2] == lengths[0] + lengths[1] + lengths[2])
            return records;
    }
}

void assert_records(const struct spec *s, const float *want, const float *got, const char *who)
{
    int floats = record_floats(s);
    for (int row = 0; row < N_SEQS * N_POS; row++) {
        const float *a = want + (size_t)row * (size_t)floats, *b = got + (size_t)row * (size_t)floats;
        if (memcmp(a, b, (size_t)floats * sizeof *a) == 0)
            continue;
        int i = 0;
        while (memcmp(&a[i], &b[i], sizeof *a) == 0)
            i++;
        fail_msg("%s, %s: sequence %d position %d differs at value %d of %d: %a and %a", s->name, who, row / N_POS, row % N_POS, i, floats,
                 (double)a[i], (double)b[i]);
    }
}

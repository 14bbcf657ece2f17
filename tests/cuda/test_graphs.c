/* test_graphs.c: captured decode steps of the CUDA backend, and page tables that stay on the device.
 *
 * A small random transformer decodes many sequences of unequal lengths: the CPU row by row, one GPU by captured steps, one operation by operation.
 * All give the same bits, for each size of step that is captured, with and without padding, whatever moved between the host's page tables. Then what
 * a captured step launches, writes and leaves alone, and what is said where it fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/engine/backend/backend_matrix.h"

#define PAGES 400
#define SEQS 130
#define TABLE 4 /* pages of a sequence, at most */
#define VOCAB 50

/* Where each sequence stands, and its pages. */
struct seqs {
    int n_pos[SEQS];
    int32_t pages[SEQS][TABLE];
    int n_used; /* pages */
};

static int32_t token_at(int seq, int pos)
{
    return (seq * 7919 + pos * 104729) % VOCAB;
}

/* ---- the transformer ---- */

struct net {
    struct rig rig; /* its weights; not its shape */
    const struct backend_ops *ops;
};

static void net_open(struct net *net, const struct spec *s, const struct backend_ops *ops, const char *device, int max_rows)
{
    struct err err;
    const struct backend_shape shape = {.n_layers = N_LAYERS, .d_model = s->d_model, .d_ff = s->d_ff, .n_head = s->n_head, .n_kv = s->n_kv,
                                        .head_dim = s->head_dim, .n_vocab = s->n_vocab, .rope_dims = s->rope_dims, .rope_neox = s->neox,
                                        .max_rows = max_rows, .max_scores = max_rows, .n_pages = PAGES, .n_threads = 1, .device = device,
                                        .max_pos = TABLE * KV_PAGE};
    struct rig *rig = &net->rig;
    net->ops = ops;
    rig->spec = *s;
    if (ops->open(&shape, &rig->be, &err) != 0)
        fail_msg("%s: %s", device, err.msg);
    rng_state = 4711;
    const int qk = s->n_head * s->head_dim, kv = s->n_kv * s->head_dim;
    for (int l = 0; l < N_LAYERS; l++) {
        struct model *m = &rig->layers[l];
        struct sample gate = random_tensor(s->gate, s->d_ff, s->d_model), up = random_tensor(s->up, s->d_ff, s->d_model);
        m->qkv = random_matrix(rig->be, s->q, qk + 2 * kv, s->d_model);
        assert_int_equal(ops->matrix_pair(rig->be, &gate.shape, &up.shape, &m->pair, &err), 0);
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

static void embed_and_layers(const struct net *net)
{
    const struct rig *rig = &net->rig;
    const struct spec *s = &rig->spec;
    net->ops->embed(rig->be, rig->vocab, 1.5f);
    for (int l = 0; l < N_LAYERS; l++) {
        const struct model *m = &rig->layers[l];
        const struct vector *post = s->post ? m->post : NULL;
        const struct attend_params p = {l, l == 0 ? s->window : 0, 0.2f};
        net->ops->norm(rig->be, m->norm, 1e-5f, m->qkv);
        net->ops->qkv(rig->be, m->qkv, s->bias ? m->bias : NULL);
        net->ops->rope_store(rig->be, l, l % 2, s->qk_norm ? m->q_norm : NULL, s->qk_norm ? m->k_norm : NULL, 1e-6f);
        net->ops->attend(rig->be, &p, m->o);
        net->ops->project_o(rig->be, m->o, NULL, post, 1e-5f);
        net->ops->norm(rig->be, m->ffn_norm, 1e-5f, m->pair);
        net->ops->gate_up(rig->be, m->pair, s->act, m->down);
        net->ops->project_h(rig->be, m->down, post, 1e-5f);
    }
}

/* As forward_capture. */
static int net_capture(const struct net *net, struct err *err)
{
    for (int i = 0; net->ops->capture != NULL && net->ops->capture(net->rig.be, i); i++) {
        embed_and_layers(net);
        if (net->ops->captured(net->rig.be, err) != 0)
            return -1;
    }
    return 0;
}

static void net_ready(struct net *net, const struct spec *s, const struct backend_ops *ops, const char *device, int max_rows)
{
    struct err err;
    net_open(net, s, ops, device, max_rows);
    if (net_capture(net, &err) != 0)
        fail_msg("%s: %s", device, err.msg);
}

static void net_close(struct net *net)
{
    net->ops->close(net->rig.be);
}

/* Enqueues a step of the next n_rows[i] rows of sequences first + i, 0 <= i < n, and of their scores. True where it was replayed. */
static bool enqueue(const struct net *net, const struct seqs *q, int first, const int *n_rows, int n)
{
    static int32_t token[SEQS * 2], pos[SEQS * 2], seq[SEQS * 2], out[SEQS * 2];
    static const int32_t *pages[SEQS];
    double freq[2][64];
    int rows = 0;
    for (int t = 0; t < 2; t++)
        for (int d = 0; d < net->rig.spec.rope_dims / 2; d++)
            freq[t][d] = 1.0 / (1 + d * (t + 1));
    for (int i = 0; i < n; i++) {
        pages[i] = q->pages[first + i];
        for (int k = 0; k < n_rows[i]; k++, rows++) {
            seq[rows] = i;
            pos[rows] = q->n_pos[first + i] + k;
            token[rows] = token_at(first + i, pos[rows]);
            out[rows] = rows;
        }
    }
    const struct batch b = {rows, token, pos, seq, n, pages, rows, out};
    net->ops->begin(net->rig.be, &b, (const double *const[]){freq[0], freq[1]}, 2);
    bool replayed = net->ops->replay != NULL && net->ops->replay(net->rig.be);
    if (!replayed)
        embed_and_layers(net);
    net->ops->vocab(net->rig.be, net->rig.vocab, net->rig.out_norm, 1e-5f, 0, rows);
    return replayed;
}

/* The scores of n rows of the last step. */
static void scores_of(const struct net *net, int n, float *logits)
{
    struct scores scores;
    struct err err;
    if (net->ops->sync(net->rig.be, &scores, &err) != 0)
        fail_msg("%s: %s", net->rig.be->device, err.msg);
    assert_int_equal(scores.n_out, n);
    for (int i = 0; i < n; i++)
        memcpy(logits + (size_t)i * VOCAB, scores.row(scores.ctx, i), VOCAB * sizeof *logits);
}

/* ---- sequences ---- */

static void seqs_init(struct seqs *q)
{
    memset(q, 0, sizeof *q);
}

/* Pages for positions below n_pos; scattered, so that no order of theirs means anything. */
static void grow(struct seqs *q, int seq, int n_pos)
{
    for (int i = (q->n_pos[seq] + KV_PAGE - 1) / KV_PAGE; i < (n_pos + KV_PAGE - 1) / KV_PAGE; i++) {
        assert_true(q->n_used < PAGES && i < TABLE);
        q->pages[seq][i] = q->n_used++ * 149 % PAGES;
    }
}

/* The devices that must agree, and what they have computed alike. */
struct trio {
    struct net cpu, captured, eager;
    struct seqs q;
};

static void trio_open(struct trio *t, const struct spec *s, int max_rows)
{
    seqs_init(&t->q);
    net_ready(&t->cpu, s, &backend_cpu, "cpu", max_rows);
    net_ready(&t->captured, s, &backend_cuda, "cuda:0", max_rows);
    net_ready(&t->eager, s, &backend_cuda, "cuda:0:eager", max_rows);
}

static void trio_close(struct trio *t)
{
    net_close(&t->cpu);
    net_close(&t->captured);
    net_close(&t->eager);
}

/* n_rows[i] rows more of sequences first .. first + n - 1, on all three; the CPU computes them sequence by sequence. */
static void advance(struct trio *t, int first, const int *n_rows, int n, bool replays)
{
    static float want[SEQS * 2 * VOCAB], got[SEQS * 2 * VOCAB];
    int rows = 0;
    for (int i = 0; i < n; i++)
        grow(&t->q, first + i, t->q.n_pos[first + i] + n_rows[i]);
    for (int i = 0; i < n; rows += n_rows[i], i++) {
        enqueue(&t->cpu, &t->q, first + i, n_rows + i, 1);
        scores_of(&t->cpu, n_rows[i], want + rows * VOCAB);
    }
    const struct net *gpus[2] = {&t->captured, &t->eager};
    for (int g = 0; g < 2; g++) {
        assert_int_equal(enqueue(gpus[g], &t->q, first, n_rows, n), g == 0 && replays);
        scores_of(gpus[g], rows, got);
        for (int i = 0; i < rows * VOCAB; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0)
                fail_msg("%s, %s: %d rows, row %d, logit %d: %a, not %a", t->cpu.rig.spec.name, g == 0 ? "captured" : "eager", rows, i / VOCAB,
                         i % VOCAB, (double)got[i], (double)want[i]);
    }
    for (int i = 0; i < n; i++)
        t->q.n_pos[first + i] += n_rows[i];
}

static void decode(struct trio *t, int first, int n)
{
    int ones[SEQS];
    for (int i = 0; i < n; i++)
        ones[i] = 1;
    advance(t, first, ones, n, true);
}

static const struct spec plain = {.name = "plain", .d_model = 64, .d_ff = 64, .n_head = 3, .n_kv = 1, .head_dim = 32, .n_vocab = VOCAB,
                                  .rope_dims = 32, .neox = true, .act = ACT_SILU, ALL(TENSOR_Q4_1)};

/* ---- the same bits ---- */

static void test_captured_steps_of_each_family_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        {.name = "gemma-like", .d_model = 64, .d_ff = 96, .n_head = 4, .n_kv = 1, .head_dim = 64, .n_vocab = VOCAB, .rope_dims = 64, .neox = true,
         .qk_norm = true, .post = true, .window = 70, .act = ACT_GELU_TANH, ALL(TENSOR_Q8_0)},
        {.name = "qwen-like", .d_model = 64, .d_ff = 64, .n_head = 14, .n_kv = 2, .head_dim = 16, .n_vocab = VOCAB, .rope_dims = 16, .neox = true,
         .bias = true, .act = ACT_SILU, ALL(TENSOR_Q5_0)},
        {.name = "floats", .d_model = 66, .d_ff = 70, .n_head = 2, .n_kv = 2, .head_dim = 30, .n_vocab = VOCAB, .rope_dims = 30, .act = ACT_SILU,
         ALL(TENSOR_F16)},
        {.name = "nine to a kv head", .d_model = 32, .d_ff = 32, .n_head = 9, .n_kv = 1, .head_dim = 32, .n_vocab = VOCAB, .rope_dims = 16,
         .qk_norm = true, .act = ACT_SILU, ALL(TENSOR_Q4_0)}, /* keys are stored by a launch of their own */
    };
    static const int prompts[6] = {63, 1, 70, 20, 127, 5};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct trio t;
        trio_open(&t, &specs[i], 16);
        for (int s = 0; s < 6; s++)
            for (int left = prompts[s], n; left > 0; left -= n) {
                n = left < 16 ? left : 16;
                advance(&t, s, &n, 1, n == 1);
            }
        for (int n = 1; n <= 6; n++)
            decode(&t, n % 2, n - n % 2 > 0 ? n - n % 2 : 1);
        decode(&t, 0, 6);
        trio_close(&t);
    }
}

static void test_every_size_of_step_gives_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 65, 129, 128};
    struct trio t;
    trio_open(&t, &plain, 256);
    int n_rows[SEQS];
    for (int s = 0; s < SEQS; s++)
        n_rows[s] = s % 9 == 0 ? 70 : s % 5 == 0 ? 3 : 1;
    for (int s = 0; s < SEQS; s += 10)
        advance(&t, s, n_rows + s, 10, false);
    int n_whole = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        decode(&t, SEQS - sizes[i], sizes[i]);
        n_whole += cuda_of(t.captured.rig.be)->whole;
    }
    assert_in_range(n_whole, 2, 6); /* from where there are enough rows */
    advance(&t, 0, (const int[]){1, 7, 1, 1}, 4, false); /* a prompt among them */
    decode(&t, 0, 7);
    trio_close(&t);
}

static void test_any_order_of_the_device_gives_the_same_bits(void **state)
{
    (void)state;
    static const struct spec s = {.name = "orders", .d_model = 64, .d_ff = 64, .n_head = 2, .n_kv = 1, .head_dim = 16, .n_vocab = VOCAB,
                                  .rope_dims = 16, .qk_norm = true, .post = true, .window = 20, .act = ACT_SILU, ALL(TENSOR_Q5_1)};
    for (int schedule = EMULATOR_REVERSE; schedule <= EMULATOR_RANDOM; schedule++) {
        struct trio t;
        emulator_set_schedule((enum emulator_schedule)schedule, 3);
        trio_open(&t, &s, 16);
        advance(&t, 0, (const int[]){9, 1, 3}, 3, false);
        for (int i = 0; i < 3; i++)
            decode(&t, 0, 3);
        trio_close(&t);
    }
    emulator_set_schedule(EMULATOR_FORWARD, 0);
}

/* More chunks than there are pages, as where sequences share them: not every row's can be computed apart, and nothing is captured for that. */
static void test_steps_without_room_for_all_chunks_are_not_replayed(void **state)
{
    (void)state;
    struct trio t;
    int ones[SEQS], n = 0;
    trio_open(&t, &plain, 256);
    for (int left = 3 * KV_PAGE; left > 0; left -= KV_PAGE)
        advance(&t, 0, (const int[]){KV_PAGE}, 1, false);
    for (int s = 1; s < SEQS; s++) { /* the same prompt, then pages of their own */
        memcpy(t.q.pages[s], t.q.pages[0], sizeof t.q.pages[s]);
        t.q.n_pos[s] = t.q.n_pos[0];
    }
    for (n = 0; n < SEQS; n++)
        ones[n] = 1;
    advance(&t, 0, ones, 100, true);
    advance(&t, 0, ones, 101, false);
    trio_close(&t);
}

/* ---- page tables ---- */

static uint64_t bytes_sent(void)
{
    struct emulator_counts counts;
    emulator_get_counts(&counts);
    return counts.copied_to_device_bytes;
}

/* The bytes that a decode step of sequences 0 .. n - 1 sends beyond those of a step without changes. */
static long decode_sends(struct trio *t, int n)
{
    static float logits[SEQS * VOCAB];
    const struct cuda *c = (const struct cuda *)t->captured.rig.be;
    int ones[SEQS];
    for (int i = 0; i < n; i++) {
        ones[i] = 1;
        grow(&t->q, i, t->q.n_pos[i] + 1);
    }
    uint64_t before = bytes_sent();
    assert_true(enqueue(&t->captured, &t->q, 0, ones, n));
    scores_of(&t->captured, n, logits);
    return (long)(bytes_sent() - before - c->changes_at);
}

static void test_only_changes_of_page_tables_are_sent(void **state)
{
    (void)state;
    const long change = 2 * (long)sizeof(int32_t);
    struct trio t;
    trio_open(&t, &plain, 16);
    advance(&t, 0, (const int[]){3, 3, 3, 3}, 4, false);
    assert_int_equal(decode_sends(&t, 4), 0);
    for (int s = 0; s < 4; s++)
        for (int left = 60; left > 0; left -= 10)
            advance(&t, s, (const int[]){10}, 1, false);
    decode(&t, 0, 4);
    assert_int_equal(decode_sends(&t, 2), 2 * change); /* position 64 of two */
    decode(&t, 0, 4);
    assert_int_equal(decode_sends(&t, 4), 0);
    /* A sequence lost its pages and got others; one moved in the host's memory. */
    int32_t moved[TABLE];
    memcpy(moved, t.q.pages[1], sizeof moved);
    const struct backend_ops *all[3] = {&backend_cpu, &backend_cuda, &backend_cuda};
    struct backend *be[3] = {t.cpu.rig.be, t.captured.rig.be, t.eager.rig.be};
    for (int i = 0; i < 2; i++) {
        int32_t page = t.q.n_used++ * 149 % PAGES;
        for (int k = 0; k < 3; k++)
            all[k]->copy_page(be[k], page, moved[i], KV_PAGE);
        t.q.pages[1][i] = page;
    }
    memcpy(t.q.pages[7], t.q.pages[1], sizeof moved);
    assert_int_equal(decode_sends(&t, 4), 2 * change);
    decode(&t, 0, 4);
    trio_close(&t);
}

/* Tables longer than a pinned buffer go in several. */
static void test_changes_beyond_a_buffer_go_ahead(void **state)
{
    (void)state;
    for (int most = 1; most < 5; most++) {
        struct trio t;
        trio_open(&t, &plain, 200);
        cuda_of(t.captured.rig.be)->max_changes = most;
        cuda_of(t.eager.rig.be)->max_changes = most;
        advance(&t, 0, (const int[]){80, 1, 64, 50}, 4, false);
        advance(&t, 0, (const int[]){100, 64, 1, 10}, 4, false);
        decode(&t, 0, 4);
        trio_close(&t);
    }
}

static void test_more_tables_than_places_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    struct trio t;
    trio_open(&t, &plain, 4); /* four places for 40 tables */
    for (int round = 0; round < 3; round++)
        for (int s = 0; s + 4 <= 40; s += 3 + round)
            decode(&t, s, 4);
    trio_close(&t);
}

/* ---- what a captured step is ---- */

static void test_a_layer_is_at_most_eight_launches(void **state)
{
    (void)state;
    static const struct spec post = {.name = "post norms", .d_model = 64, .d_ff = 64, .n_head = 2, .n_kv = 1, .head_dim = 32, .n_vocab = VOCAB,
                                     .rope_dims = 32, .qk_norm = true, .post = true, .bias = true, .window = 9, .act = ACT_GELU_TANH,
                                     ALL(TENSOR_Q4_1)};
    const struct spec *specs[2] = {&plain, &post};
    for (int i = 0; i < 2; i++) {
        struct trio t;
        struct emulator_counts before, after;
        static float logits[5 * VOCAB];
        trio_open(&t, specs[i], 8);
        const struct captures c = backend_cuda.captures(t.captured.rig.be), none = backend_cuda.captures(t.eager.rig.be);
        assert_int_equal(c.n, 4); /* 1, 2, 4, 8 */
        assert_true(c.n_nodes <= 8 * N_LAYERS + 1 + i); /* and the embedding; and the last post norm */
        assert_true(c.ms > 0);
        assert_int_equal(none.n, 0);
        for (int s = 0; s < 5; s++)
            grow(&t.q, s, 1);
        emulator_get_counts(&before);
        assert_true(enqueue(&t.captured, &t.q, 0, (const int[]){1, 1, 1, 1, 1}, 5));
        scores_of(&t.captured, 5, logits);
        emulator_get_counts(&after);
        assert_int_equal(after.n_graph_launches - before.n_graph_launches, 1);
        assert_int_equal(after.n_graph_nodes - before.n_graph_nodes, c.n_nodes);
        trio_close(&t);
    }
}

/* Rows of the buffers that padding must leave alone. */
struct watched {
    uint8_t *p;
    size_t row_bytes;
};

static int watch(const struct cuda *c, struct watched *w)
{
    int n = 0;
    const struct device_rows *rows[4] = {&c->x, &c->qkv, &c->o, &c->t};
    const struct device_operand *operands[3] = {&c->a, &c->oo, &c->h};
    for (int i = 0; i < 4; i++)
        w[n++] = (struct watched){(uint8_t *)rows[i]->p, (size_t)rows[i]->ld * sizeof(float)};
    for (int i = 0; i < 3; i++) {
        const size_t blocks = (size_t)operands[i]->n_blocks;
        w[n++] = (struct watched){(uint8_t *)operands[i]->q, blocks * QUANT_BLOCK};
        w[n++] = (struct watched){(uint8_t *)operands[i]->d, blocks * sizeof(float)};
        w[n++] = (struct watched){(uint8_t *)operands[i]->sums, blocks * 2 * sizeof(int16_t)};
        w[n++] = (struct watched){(uint8_t *)operands[i]->f, blocks * QUANT_BLOCK * sizeof(float)};
    }
    return n;
}

#define MAX_PADDED 128

static void test_rows_of_padding_write_nothing(void **state)
{
    (void)state;
    static const struct spec s = {.name = "padding", .d_model = 64, .d_ff = 64, .n_head = 2, .n_kv = 1, .head_dim = 32, .n_vocab = VOCAB,
                                  .rope_dims = 32, .post = true, .act = ACT_SILU, ALL(TENSOR_Q8_0)};
    static const int sizes[][2] = {{3, 4}, {5, 8}, {33, 64}, {65, 128}};
    struct net net;
    struct seqs q;
    struct watched w[16];
    static float logits[SEQS * VOCAB];
    net_ready(&net, &s, &backend_cuda, "cuda:0", MAX_PADDED);
    seqs_init(&q);
    struct cuda *c = cuda_of(net.rig.be);
    int n_watched = watch(c, w), ones[SEQS], mixed[20];
    for (int i = 0; i < SEQS; i++) {
        ones[i] = 1;
        grow(&q, i, 1);
        mixed[i % 20] = i % 20 == 0 ? 2 : 1;
    }
    const size_t kv_bytes = backend_cuda.kv_bytes(net.rig.be), page_bytes = kv_bytes / PAGES;
    uint8_t *got = malloc(kv_bytes);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t first = (size_t)sizes[i][0], n = MAX_PADDED - first;
        for (int buffer = 0; buffer < 2; buffer++) {
            assert_false(enqueue(&net, &q, 0, mixed, 20)); /* leaves splits behind that are not those of the same rows */
            scores_of(&net, 21, logits);
        }
        for (int k = 0; k < n_watched; k++)
            assert_int_equal(cudaMemsetAsync(w[k].p + first * w[k].row_bytes, 0xa5, n * w[k].row_bytes, c->stream), cudaSuccess);
        assert_int_equal(cudaMemsetAsync(c->kv_pages, 0xa5, kv_bytes, c->stream), cudaSuccess);
        assert_true(enqueue(&net, &q, 0, ones, (int)first));
        scores_of(&net, (int)first, logits);
        for (int k = 0; k < n_watched; k++) {
            assert_int_equal(cudaMemcpy(got, w[k].p + first * w[k].row_bytes, n * w[k].row_bytes, cudaMemcpyDeviceToHost), cudaSuccess);
            for (size_t b = 0; b < n * w[k].row_bytes; b++)
                if (got[b] != 0xa5)
                    fail_msg("%d rows of %d: padding wrote to buffer %d, row %zu", sizes[i][0], sizes[i][1], k, first + b / w[k].row_bytes);
        }
        assert_int_equal(cudaMemcpy(got, c->kv_pages, kv_bytes, cudaMemcpyDeviceToHost), cudaSuccess);
        for (int seq = 0; seq < (int)first; seq++)
            memset(got + (size_t)q.pages[seq][0] * page_bytes, 0xa5, page_bytes);
        for (size_t b = 0; b < kv_bytes; b++)
            if (got[b] != 0xa5)
                fail_msg("%d rows: page %zu is nobody's and was written to", sizes[i][0], b / page_bytes);
    }
    free(got);
    net_close(&net);
}

/* Steps on their way: no kernel runs on the emulated device before somebody waits, though the third step writes where the first one's inputs were. */
static void test_begin_does_not_wait_for_the_step_before(void **state)
{
    (void)state;
    struct trio t;
    static float want[3 * VOCAB], got[3 * VOCAB];
    static const int ones[3] = {1, 1, 1};
    trio_open(&t, &plain, 80);
    advance(&t, 0, (const int[]){5, 63, 2}, 3, false);
    decode(&t, 0, 3);
    for (int i = 0; i < 3; i++) {
        for (int s = 0; s < 3; s++)
            grow(&t.q, s, t.q.n_pos[s] + 1);
        for (int s = 0; s < 3; s++) {
            enqueue(&t.cpu, &t.q, s, ones, 1);
            scores_of(&t.cpu, 1, want + s * VOCAB);
        }
        struct emulator_counts before, after;
        emulator_get_counts(&before);
        assert_true(enqueue(&t.captured, &t.q, 0, ones, 3));
        emulator_get_counts(&after);
        assert_int_equal(after.n_launches, before.n_launches);
        for (int s = 0; s < 3; s++)
            t.q.n_pos[s]++;
    }
    scores_of(&t.captured, 3, got);
    assert_memory_equal(got, want, sizeof got);
    trio_close(&t);
}

/* ---- what fails ---- */

static void test_a_fault_in_a_captured_step_is_said_at_sync_and_stays(void **state)
{
    (void)state;
    struct net net;
    struct seqs q;
    struct err err;
    struct scores scores;
    static const int ones[3] = {1, 1, 1};
    seqs_init(&q);
    for (int s = 0; s < 3; s++)
        grow(&q, s, 1);
    for (int n = 1;; n++) {
        net_ready(&net, &plain, &backend_cuda, "cuda:0", 4);
        emulator_fault_at(n, cudaErrorIllegalAddress);
        assert_true(enqueue(&net, &q, 0, ones, 3));
        int rc = backend_cuda.sync(net.rig.be, &scores, &err);
        if (rc != 0) {
            assert_int_equal(err.code, ERR_DEVICE);
            assert_non_null(strstr(err.msg, "device cuda:0 failed while computing a step: "));
            assert_false(enqueue(&net, &q, 0, ones, 3));
            assert_int_equal(backend_cuda.sync(net.rig.be, &scores, &err), -1);
        }
        net_close(&net);
        emulator_fault_at(0, cudaSuccess);
        emulator_reset();
        if (rc == 0) {
            assert_true(n > 8 * N_LAYERS);
            return;
        }
    }
}

static void test_a_capture_that_fails_is_said_and_nothing_is_left(void **state)
{
    (void)state;
    struct net net;
    struct err err;
    struct emulator_counts before, after;
    struct seqs q;
    struct scores scores;
    seqs_init(&q);
    grow(&q, 0, 1);
    emulator_get_counts(&before);
    for (int how = 0; how < 3; how++) {
        net_open(&net, &plain, &backend_cuda, "cuda:0", 4);
        struct cuda *c = cuda_of(net.rig.be);
        if (how == 0) { /* the device is lost and nobody knows yet */
            emulator_fault_at(1, cudaErrorLaunchFailure);
            assert_int_equal(cudaMemsetAsync(c->work, 0, 1, c->stream), cudaSuccess);
            assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
            assert_int_equal(net_capture(&net, &err), -1);
        } else { /* in the midst of it something is done that a capture forbids */
            assert_true(backend_cuda.capture(net.rig.be, 0));
            backend_cuda.embed(net.rig.be, net.rig.vocab, 1.0f);
            assert_int_not_equal(how == 1 ? cudaStreamSynchronize(c->stream) : cudaFree(c->arena + 1), cudaSuccess);
            backend_cuda.norm(net.rig.be, net.rig.layers[0].norm, 1e-5f, net.rig.layers[0].qkv);
            assert_int_equal(backend_cuda.captured(net.rig.be, &err), -1);
        }
        assert_int_equal(err.code, ERR_DEVICE);
        assert_non_null(strstr(err.msg, "device cuda:0 failed while "));
        assert_false(enqueue(&net, &q, 0, (const int[]){1}, 1));
        assert_int_equal(backend_cuda.sync(net.rig.be, &scores, &err), -1);
        net_close(&net);
        emulator_fault_at(0, cudaSuccess);
        emulator_reset();
        emulator_get_counts(&after);
        assert_int_equal(after.n_device_buffers, before.n_device_buffers);
        assert_int_equal(after.n_pinned_buffers, before.n_pinned_buffers);
        assert_int_equal(after.n_graphs, before.n_graphs);
        assert_int_equal(after.n_events, before.n_events);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_captured_steps_of_each_family_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_every_size_of_step_gives_the_bits_of_the_cpu),
        cmocka_unit_test(test_any_order_of_the_device_gives_the_same_bits),
        cmocka_unit_test(test_steps_without_room_for_all_chunks_are_not_replayed),
        cmocka_unit_test(test_only_changes_of_page_tables_are_sent),
        cmocka_unit_test(test_changes_beyond_a_buffer_go_ahead),
        cmocka_unit_test(test_more_tables_than_places_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_a_layer_is_at_most_eight_launches),
        cmocka_unit_test(test_rows_of_padding_write_nothing),
        cmocka_unit_test(test_begin_does_not_wait_for_the_step_before),
        cmocka_unit_test(test_a_fault_in_a_captured_step_is_said_at_sync_and_stays),
        cmocka_unit_test(test_a_capture_that_fails_is_said_and_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

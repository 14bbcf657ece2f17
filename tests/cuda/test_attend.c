/* test_attend.c: rotation, KV pages and attention of the CUDA backend against the scalar code of the CPU backend, bit by bit.
 *
 * A world is a few sequences with shuffled page tables in a pool of pages full of NaN, of which only written positions hold numbers: who reads or
 * writes beyond them shows. Each world runs under three schedules, with its rows split, walked over, and some of each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend/cpu/lanes.h"
#include "engine/backend/cuda/kernels.h"
#include "tests/cuda/emulator/emulator.h"
#include "tests/cuda/memory.h"

#define MAX_SEQS 4
#define MAX_ROWS 64
#define N_LAYERS 2
#define LAYER 1
#define POISON 0xffff
#define EPS 1e-6f

struct spec {
    const char *name;
    int n_head, n_kv, head_dim, rope_dims;
    bool neox, norms;
    int window;
    float scale;
    int n_seqs;
    struct {
        int pos, n; /* rows at pos .. pos + n - 1; earlier positions have been written */
    } seqs[MAX_SEQS];
};

struct world {
    const struct spec *s;
    int n_rows, max_pages, n_pages, ld, ldo, n_cols;
    int32_t pos[MAX_ROWS], seq[MAX_ROWS];
    int32_t *pages;
    struct device_kv kv;
    size_t pool_elems;
    uint16_t *pool, *pool_after; /* what the device gets, and what it must hold after rope_store */
    float *qkv, *qkv_after, *cs, *q_norm, *k_norm, *o;
};

static int round_up_to(int n, int of)
{
    return (n + of - 1) / of * of;
}

static int last_pos(const struct spec *s, int seq)
{
    return s->seqs[seq].pos + s->seqs[seq].n - 1;
}

/* ---- the world and what must come of it ---- */

static uint16_t *key_at(const struct world *w, uint16_t *pool, int seq, int head, int pos, int d)
{
    int page = w->pages[seq * w->max_pages + pos / KV_PAGE], t = pos % KV_PAGE;
    uint16_t *at = pool + (((size_t)page * N_LAYERS + LAYER) * (size_t)w->s->n_kv + (size_t)head) * w->kv.head_elems;
    return at + (d / 8 * KV_PAGE + t) * 8 + d % 8;
}

static uint16_t *value_at(const struct world *w, uint16_t *pool, int seq, int head, int pos, int d)
{
    int page = w->pages[seq * w->max_pages + pos / KV_PAGE], t = pos % KV_PAGE;
    uint16_t *at = pool + (((size_t)page * N_LAYERS + LAYER) * (size_t)w->s->n_kv + (size_t)head) * w->kv.head_elems;
    return at + KV_PAGE * w->kv.head_pad + t * w->kv.head_pad + d;
}

static void make_tables(struct world *w)
{
    const struct spec *s = w->s;
    w->n_rows = 0;
    w->max_pages = 1;
    for (int i = 0; i < s->n_seqs; i++) {
        int pages = last_pos(s, i) / KV_PAGE + 1;
        w->max_pages = pages > w->max_pages ? pages : w->max_pages;
        for (int r = 0; r < s->seqs[i].n; r++, w->n_rows++) {
            assert_true(w->n_rows < MAX_ROWS);
            w->pos[w->n_rows] = s->seqs[i].pos + r;
            w->seq[w->n_rows] = i;
        }
    }
    w->n_pages = s->n_seqs * w->max_pages + 1;
    w->pages = host_new((size_t)(s->n_seqs * w->max_pages) * sizeof *w->pages);
    for (int i = 0; i < s->n_seqs * w->max_pages; i++)
        w->pages[i] = i + 1;
    for (int i = s->n_seqs * w->max_pages - 1; i > 0; i--) {
        int j = (int)(test_bits(7, (uint32_t)i) % (uint32_t)(i + 1)), page = w->pages[i];
        w->pages[i] = w->pages[j];
        w->pages[j] = page;
    }
}

/* One head of a row as rope_store leaves it. */
static void expect_head(const struct world *w, float *x, const float *norm, const float *cs)
{
    float normed[512];
    if (w->s->norms) {
        lanes_norm(x, norm, w->s->head_dim, EPS, normed);
        memcpy(x, normed, (size_t)w->s->head_dim * sizeof *x);
    }
    lanes_rotate(x, w->s->rope_dims, w->s->neox, cs);
}

static void expect_rope(struct world *w)
{
    const struct spec *s = w->s;
    memcpy(w->qkv_after, w->qkv, (size_t)w->n_rows * (size_t)w->ld * sizeof *w->qkv);
    memcpy(w->pool_after, w->pool, w->pool_elems * sizeof *w->pool);
    for (int r = 0; r < w->n_rows; r++) {
        float *row = w->qkv_after + (size_t)r * (size_t)w->ld;
        const float *cs = w->cs + (size_t)r * (size_t)s->rope_dims;
        for (int h = 0; h < s->n_head; h++)
            expect_head(w, row + h * s->head_dim, w->q_norm, cs);
        for (int h = 0; h < s->n_kv; h++) {
            float *k = row + (s->n_head + h) * s->head_dim, *v = k + s->n_kv * s->head_dim;
            expect_head(w, k, w->k_norm, cs);
            for (int d = 0; d < s->head_dim; d++) {
                *key_at(w, w->pool_after, w->seq[r], h, w->pos[r], d) = num_f16_from_f32(k[d]);
                *value_at(w, w->pool_after, w->seq[r], h, w->pos[r], d) = num_f16_from_f32(v[d]);
            }
        }
    }
}

/* The rows of a sequence for the heads of one kv head, by the CPU's generic kernel from pages of its own layout. */
static void expect_attention_of(struct world *w, int seq, int head)
{
    const struct spec *s = w->s;
    const int n_pages = last_pos(s, seq) / KV_PAGE + 1, n = s->head_dim, v_stride = round_up_to(n, 16), heads = s->n_head / s->n_kv;
    const size_t page_elems = (size_t)KV_PAGE * (size_t)(n + v_stride);
    uint16_t *kv = host_new((size_t)n_pages * page_elems * sizeof *kv);
    int32_t *pages = host_new((size_t)n_pages * sizeof *pages);
    float *scratch = host_new(partial_floats(v_stride) * sizeof *scratch);
    memset(kv, 0xff, (size_t)n_pages * page_elems * sizeof *kv);
    for (int p = 0; p < n_pages; p++)
        pages[p] = p;
    for (int p = 0; p <= last_pos(s, seq); p++)
        for (int d = 0; d < n; d++) {
            uint16_t *page = kv + (size_t)(p / KV_PAGE) * page_elems;
            page[kv_key(p % KV_PAGE, n) + (size_t)d * CPU_KEYS] = *key_at(w, w->pool_after, seq, head, p, d);
            page[KV_PAGE * n + p % KV_PAGE * v_stride + d] = *value_at(w, w->pool_after, seq, head, p, d);
        }
    int row = 0;
    while (w->seq[row] != seq)
        row++;
    struct attend_job job = {.q = w->qkv_after + (size_t)row * (size_t)w->ld + head * heads * n, .q_stride = (size_t)w->ld,
                             .out = w->o + (size_t)row * (size_t)w->ldo + head * heads * n, .out_stride = (size_t)w->ldo,
                             .n_rows = s->seqs[seq].n, .n_heads = heads, .head_dim = n, .v_stride = v_stride, .pos = w->pos[row],
                             .window = s->window, .scale = s->scale, .pages = pages, .layer_kv = kv, .page_elems = page_elems};
    cpu_kernels_generic.attend(&job, scratch);
    free(scratch);
    free(pages);
    free(kv);
}

static void world_open(struct world *w, const struct spec *s)
{
    *w = (struct world){.s = s};
    make_tables(w);
    const int qkv_cols = (s->n_head + 2 * s->n_kv) * s->head_dim;
    w->n_cols = s->n_head * s->head_dim;
    w->ld = round_up_to(qkv_cols, 32);
    w->ldo = round_up_to(w->n_cols, 32);
    w->kv = (struct device_kv){NULL, N_LAYERS, s->n_kv, s->head_dim, round_up_to(s->head_dim, 8), 0};
    w->kv.head_elems = 2 * (size_t)KV_PAGE * (size_t)w->kv.head_pad;
    w->pool_elems = (size_t)w->n_pages * N_LAYERS * (size_t)s->n_kv * w->kv.head_elems;
    w->pool = host_new(w->pool_elems * sizeof *w->pool);
    w->pool_after = host_new(w->pool_elems * sizeof *w->pool);
    for (size_t i = 0; i < w->pool_elems; i++)
        w->pool[i] = POISON;
    uint32_t n = 0;
    for (int i = 0; i < s->n_seqs; i++)
        for (int p = 0; p < s->seqs[i].pos; p++)
            for (int h = 0; h < s->n_kv; h++)
                for (int d = 0; d < s->head_dim; d++) {
                    *key_at(w, w->pool, i, h, p, d) = num_f16_from_f32(test_value(1, n));
                    *value_at(w, w->pool, i, h, p, d) = num_f16_from_f32(test_value(2, n++));
                }
    size_t rows = (size_t)w->n_rows, values = rows * (size_t)w->ld, dims = (size_t)s->head_dim;
    w->qkv = host_new(values * sizeof(float));
    w->qkv_after = host_new(values * sizeof(float));
    w->cs = host_new((rows * (size_t)s->rope_dims + 1) * sizeof(float));
    w->q_norm = host_new(dims * sizeof(float));
    w->k_norm = host_new(dims * sizeof(float));
    w->o = host_new(rows * (size_t)w->ldo * sizeof(float));
    test_values(3, w->qkv, values);
    for (size_t i = 0; i < values; i++)
        w->qkv[i] *= i % 37 == 0 ? 40.0f : 2.0f;
    test_values(4, w->cs, rows * (size_t)s->rope_dims);
    test_values(5, w->q_norm, dims);
    test_values(6, w->k_norm, dims);
    expect_rope(w);
    for (int i = 0; i < s->n_seqs; i++)
        for (int h = 0; h < s->n_kv; h++)
            expect_attention_of(w, i, h);
}

static void world_close(struct world *w)
{
    free(w->pages);
    free(w->pool);
    free(w->pool_after);
    free(w->qkv);
    free(w->qkv_after);
    free(w->cs);
    free(w->q_norm);
    free(w->k_norm);
    free(w->o);
}

/* ---- the device ---- */

enum how { SPLIT, WHOLE, WALK, MIXED, MIXED_WHOLE };

/* Lists for the rows, with entries of padding among them. */
static void make_lists(const struct world *w, enum how how, struct device_batch *b)
{
    int32_t walks[2 * (2 * MAX_ROWS + 1)], splits[2 * (2 * MAX_ROWS + 1)];
    int32_t n_items = 0;
    for (int r = 0, in_walk; r < w->n_rows; r += in_walk) {
        bool walk = how == WALK || (how >= MIXED && w->seq[r] % 2 == 0);
        in_walk = 1;
        if (!walk) {
            splits[2 * b->n_splits] = r;
            splits[2 * b->n_splits++ + 1] = n_items;
            n_items += w->pos[r] / KV_PAGE + 1;
            continue;
        }
        while (in_walk < ATTEND_ROWS && r + in_walk < w->n_rows && w->seq[r + in_walk] == w->seq[r])
            in_walk++;
        walks[2 * b->n_walks] = r;
        walks[2 * b->n_walks++ + 1] = in_walk;
    }
    if (how >= MIXED) {
        splits[2 * b->n_splits] = -1;
        splits[2 * b->n_splits++ + 1] = n_items + 1000;
        walks[2 * b->n_walks] = 0;
        walks[2 * b->n_walks++ + 1] = 0;
    }
    b->walks = device_copy_of(walks, sizeof walks);
    b->splits = device_copy_of(splits, sizeof splits);
    b->n_items = device_copy_of(&n_items, sizeof n_items);
    b->max_items = n_items + 2;
    b->items = device_new(2 * (size_t)b->max_items * sizeof *b->items);
    must(launch_tables(b, NULL, 0, 0));
}

struct device_world {
    struct device_batch batch;
    struct device_kv kv;
    float *qkv, *cs, *q_norm, *k_norm;
};

static void device_open(const struct world *w, struct device_world *d)
{
    size_t rows = (size_t)w->n_rows, dims = (size_t)w->s->head_dim;
    memset(d, 0, sizeof *d); /* padding too: the emulated device looks for pointers in it */
    d->batch.n_rows = w->n_rows;
    d->batch.max_pages = w->max_pages;
    d->kv = w->kv;
    d->batch.pos = device_copy_of(w->pos, rows * sizeof *w->pos);
    d->batch.table = device_copy_of(w->seq, rows * sizeof *w->seq);
    d->batch.pages = device_copy_of(w->pages, (size_t)(w->s->n_seqs * w->max_pages) * sizeof *w->pages);
    d->kv.base = device_copy_of(w->pool, w->pool_elems * sizeof *w->pool);
    d->qkv = device_copy_of(w->qkv, rows * (size_t)w->ld * sizeof *w->qkv);
    d->cs = device_copy_of(w->cs, (rows * (size_t)w->s->rope_dims + 1) * sizeof *w->cs);
    d->q_norm = device_copy_of(w->q_norm, dims * sizeof *w->q_norm);
    d->k_norm = device_copy_of(w->k_norm, dims * sizeof *w->k_norm);
}

static void device_close(struct device_world *d)
{
    const void *all[] = {d->batch.pos, d->batch.table, d->batch.pages, d->kv.base, d->qkv, d->cs, d->q_norm, d->k_norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        must(cudaFree((void *)all[i]));
}

static struct device_rope rope_of(const struct world *w, const struct device_world *d)
{
    const struct spec *s = w->s;
    struct device_rope p;
    memset(&p, 0, sizeof p);
    p.batch = d->batch;
    p.kv = d->kv;
    p.layer = LAYER;
    p.n_head = s->n_head;
    p.qkv = d->qkv;
    p.ld = w->ld;
    p.cs = d->cs;
    p.rope_dims = s->rope_dims;
    p.neox = s->neox;
    p.q_norm = s->norms ? d->q_norm : NULL;
    p.k_norm = s->norms ? d->k_norm : NULL;
    p.eps = EPS;
    return p;
}

static void run_rope(const struct world *w, const struct device_world *d)
{
    const struct device_rope p = rope_of(w, d);
    must(launch_rope_store(&p, 0));
    must(cudaDeviceSynchronize());
}

static void check_rope(const struct world *w, const struct device_world *d)
{
    const struct spec *s = w->s;
    uint16_t *pool = host_new(w->pool_elems * sizeof *pool);
    float *qkv = host_new((size_t)w->n_rows * (size_t)w->ld * sizeof *qkv);
    device_read(pool, d->kv.base, w->pool_elems * sizeof *pool);
    device_read(qkv, d->qkv, (size_t)w->n_rows * (size_t)w->ld * sizeof *qkv);
    for (size_t i = 0; i < w->pool_elems; i++)
        if (pool[i] != w->pool_after[i])
            fail_msg("%s: element %zu of the pages is %04x, not %04x", s->name, i, pool[i], w->pool_after[i]);
    for (int i = 0; i < w->n_rows * w->ld; i++)
        if (memcmp(&qkv[i], &w->qkv_after[i], sizeof *qkv) != 0)
            fail_msg("%s: row %d, value %d of qkv is %a, not %a", s->name, i / w->ld, i % w->ld, (double)qkv[i], (double)w->qkv_after[i]);
    free(pool);
    free(qkv);
}

/* O and its operand of all rows. */
static void check_attention(const struct world *w, const struct device_attend *p, const char *how)
{
    const int n_blocks = p->to.n_blocks;
    const size_t n = (size_t)w->n_rows * (size_t)n_blocks;
    float *o = host_new((size_t)w->n_rows * (size_t)w->ldo * sizeof *o), *ds = host_new(n * sizeof *ds), *f = host_new(n * QUANT_BLOCK * sizeof *f);
    int8_t *q = host_new(n * QUANT_BLOCK);
    int16_t *sums = host_new(2 * n * sizeof *sums);
    int fault = 0;
    device_read(o, p->o, (size_t)w->n_rows * (size_t)w->ldo * sizeof *o);
    device_read(ds, p->to.d, n * sizeof *ds);
    device_read(f, p->to.f, n * QUANT_BLOCK * sizeof *f);
    device_read(q, p->to.q, n * QUANT_BLOCK);
    device_read(sums, p->to.sums, 2 * n * sizeof *sums);
    device_read(&fault, p->fault, sizeof fault);
    assert_int_equal(fault, 0);
    for (int r = 0; r < w->n_rows; r++) {
        const float *want = w->o + (size_t)r * (size_t)w->ldo, *got = o + (size_t)r * (size_t)w->ldo;
        for (int i = 0; i < w->n_cols; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0)
                fail_msg("%s, %s: row %d (position %d), value %d is %a, not %a", w->s->name, how, r, w->pos[r], i, (double)got[i],
                         (double)want[i]);
        for (int b = 0; b < n_blocks; b++) {
            float x[QUANT_BLOCK] = {0};
            struct quant_x x8;
            const size_t at = (size_t)r * (size_t)n_blocks + (size_t)b;
            int m = w->n_cols - b * QUANT_BLOCK < QUANT_BLOCK ? w->n_cols - b * QUANT_BLOCK : QUANT_BLOCK;
            memcpy(x, want + b * QUANT_BLOCK, (size_t)m * sizeof *x);
            assert_int_equal(quant_quantise(x, &x8), 0);
            assert_memory_equal(q + at * QUANT_BLOCK, x8.q, QUANT_BLOCK);
            assert_memory_equal(sums + 2 * at, x8.sum, sizeof x8.sum);
            assert_memory_equal(ds + at, &x8.d, sizeof x8.d);
            assert_memory_equal(f + at * QUANT_BLOCK, x, sizeof x);
        }
    }
    free(o);
    free(ds);
    free(f);
    free(q);
    free(sums);
}

static void operand_open(struct device_operand *to, int n_cols, int n_rows)
{
    const size_t n = (size_t)quant_n_blocks(n_cols) * (size_t)n_rows;
    *to = (struct device_operand){device_new(n * QUANT_BLOCK), device_new(n * sizeof(float)), device_new(n * 2 * sizeof(int16_t)),
                                  device_new(n * QUANT_BLOCK * sizeof(float)), n_cols, quant_n_blocks(n_cols)};
}

static void operand_close(struct device_operand *to)
{
    must(cudaFree(to->q));
    must(cudaFree(to->d));
    must(cudaFree(to->sums));
    must(cudaFree(to->f));
}

/* max_blocks: 1 and few let a block have many items. */
static struct device_attend attend_open(const struct world *w, const struct device_world *d, enum how how, int max_blocks)
{
    const int zero = 0;
    struct device_attend p;
    memset(&p, 0, sizeof p);
    p.batch = d->batch;
    p.kv = d->kv;
    p.layer = LAYER;
    p.n_head = w->s->n_head;
    p.window = w->s->window;
    p.scale = w->s->scale;
    p.qkv = d->qkv;
    p.ld = w->ld;
    p.ldo = w->ldo;
    p.needs = OPERAND_Q | OPERAND_F;
    make_lists(w, how, &p.batch);
    p.max_blocks = max_blocks;
    p.whole = how == WHOLE || how == MIXED_WHOLE;
    size_t partials = (size_t)p.batch.max_items * (size_t)w->s->n_head * ATTEND_PARTIAL(w->kv.head_pad);
    p.partials = device_new(partials * sizeof(float));
    p.o = device_new((size_t)w->n_rows * (size_t)w->ldo * sizeof(float));
    p.fault = device_copy_of(&zero, sizeof zero);
    operand_open(&p.to, w->n_cols, w->n_rows);
    return p;
}

static void attend_close(struct device_attend *p)
{
    operand_close(&p->to);
    must(cudaFree((void *)p->batch.walks));
    must(cudaFree((void *)p->batch.splits));
    must(cudaFree((void *)p->batch.n_items));
    must(cudaFree(p->batch.items));
    must(cudaFree(p->partials));
    must(cudaFree(p->o));
    must(cudaFree(p->fault));
}

/* By schedule. */
static const int max_blocks[] = {1000, 1, 5};

static void compare_ways(const struct spec *s, enum how first, enum how last)
{
    static const char *const names[] = {"split", "whole", "walk", "mixed", "mixed, whole"};
    struct world w;
    world_open(&w, s);
    for (int schedule = EMULATOR_FORWARD; schedule <= EMULATOR_RANDOM; schedule++) {
        struct device_world d;
        emulator_set_schedule((enum emulator_schedule)schedule, 11);
        device_open(&w, &d);
        run_rope(&w, &d);
        check_rope(&w, &d);
        for (int how = (int)first; how <= (int)last; how++) {
            struct device_attend p = attend_open(&w, &d, (enum how)how, max_blocks[schedule]);
            must(launch_attend(&p, 0));
            must(cudaDeviceSynchronize());
            check_attention(&w, &p, names[how]);
            attend_close(&p);
        }
        device_close(&d);
    }
    world_close(&w);
}

static void compare(const struct spec *s)
{
    compare_ways(s, SPLIT, MIXED_WHOLE);
}

/* Rotation, pages and attention in one launch. */
static void compare_at_once(const struct spec *s)
{
    struct world w;
    world_open(&w, s);
    float *const qkv_after = w.qkv_after;
    for (int schedule = EMULATOR_FORWARD; schedule <= EMULATOR_RANDOM; schedule++) {
        struct device_world d;
        emulator_set_schedule((enum emulator_schedule)schedule, 13);
        for (int how = SPLIT; how <= WHOLE; how++) {
            device_open(&w, &d);
            const struct device_rope rope = rope_of(&w, &d);
            struct device_attend p = attend_open(&w, &d, (enum how)how, max_blocks[schedule]);
            assert_true(attend_ropes(&p.batch, &p.kv, p.n_head));
            must(launch_rope_attend(&rope, &p, 0));
            must(cudaDeviceSynchronize());
            check_attention(&w, &p, how == SPLIT ? "at once" : "at once, whole");
            w.qkv_after = w.qkv; /* nobody rotates it */
            check_rope(&w, &d);
            w.qkv_after = qkv_after;
            attend_close(&p);
            device_close(&d);
        }
    }
    world_close(&w);
}

/* ---- tests ---- */

static void test_head_sizes_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        {"64, three to a kv head", 9, 3, 64, 64, true, false, 0, 0.125f, 3, {{70, 3}, {0, 18}, {63, 1}}},
        {"80, pairs side by side", 4, 2, 80, 80, false, false, 0, 0.11f, 2, {{130, 2}, {5, 1}}},
        {"96, part of it rotates", 2, 2, 96, 32, true, false, 0, 0.1f, 2, {{64, 2}, {62, 4}}},
        {"128, eight to a kv head", 8, 1, 128, 128, true, true, 0, 0.09f, 1, {{60, 6}}},
        {"256, normed", 4, 1, 256, 256, true, true, 0, 0.0625f, 2, {{66, 1}, {0, 3}}},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        compare(&specs[i]);
}

static void test_odd_shapes_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        {"30, no whole group of dimensions", 3, 1, 30, 30, false, true, 0, 0.2f, 2, {{65, 2}, {0, 5}}},
        {"2", 5, 1, 2, 2, true, true, 0, 1.0f, 1, {{126, 4}}},
        {"72, nothing rotates", 5, 1, 72, 0, true, false, 0, 0.1f, 1, {{63, 3}}},
        {"400, no room for values", 1, 1, 400, 64, true, false, 0, 0.05f, 2, {{61, 5}, {66, 1}}},
        {"400, two to a kv head", 2, 1, 400, 64, true, false, 0, 0.05f, 1, {{66, 1}}},
        {"400, three to a kv head", 3, 1, 400, 64, true, false, 0, 0.05f, 1, {{66, 1}}},
        {"400, five to a kv head", 5, 1, 400, 64, true, false, 0, 0.05f, 1, {{66, 1}}},
        {"320, few queries to a block", 2, 1, 320, 64, true, false, 0, 0.05f, 1, {{61, 5}}},
        {"16, 24 to a kv head", 24, 1, 16, 8, true, false, 0, 0.25f, 2, {{3, 7}, {127, 2}}},
        {"16, six to a kv head", 12, 2, 16, 16, false, false, 0, 0.25f, 1, {{0, 33}}},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        compare(&specs[i]);
}

static void test_windows_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        {"only itself", 2, 1, 32, 32, true, false, 1, 0.2f, 2, {{60, 8}, {0, 2}}},
        {"within a page", 4, 2, 16, 16, true, false, 20, 0.25f, 2, {{55, 30}, {150, 1}}},
        {"a page", 2, 2, 16, 16, true, false, 64, 0.25f, 2, {{120, 20}, {63, 2}}},
        {"a page and one", 7, 1, 16, 16, true, true, 65, 0.25f, 2, {{186, 20}, {64, 1}}},
        {"longer than anything", 2, 1, 16, 16, true, false, 4096, 0.25f, 1, {{70, 3}}},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        compare(&specs[i]);
}

static void test_more_chunks_than_are_merged_at_once_give_the_bits_of_the_cpu(void **state)
{
    (void)state;
    compare(&(struct spec){"long", 3, 1, 8, 8, true, false, 0, 0.3f, 2, {{64 * 130 + 7, 2}, {64 * 64 - 1, 2}}});
    compare_ways(&(struct spec){"long, values for more than a warp", 1, 1, 96, 96, true, false, 0, 0.1f, 1, {{64 * 65 + 3, 1}}}, SPLIT, SPLIT);
}

static void test_rotation_inside_attention_gives_the_bits_of_the_cpu(void **state)
{
    (void)state;
    static const struct spec specs[] = {
        {"64, three to a kv head", 9, 3, 64, 64, true, false, 0, 0.125f, 4, {{70, 1}, {0, 1}, {63, 1}, {64, 1}}},
        {"80, pairs side by side", 4, 2, 80, 80, false, true, 0, 0.11f, 2, {{130, 1}, {5, 1}}},
        {"128, eight to a kv head", 8, 1, 128, 128, true, true, 0, 0.09f, 2, {{60, 1}, {128, 1}}},
        {"256, a window", 2, 2, 256, 64, true, true, 20, 0.0625f, 2, {{66, 1}, {3, 1}}},
        {"30, no whole group of dimensions", 5, 1, 30, 30, false, true, 0, 0.2f, 2, {{65, 1}, {0, 1}}},
        {"only itself", 2, 1, 32, 32, true, false, 1, 0.2f, 2, {{64, 1}, {127, 1}}},
        {"16, pairs side by side, no norms", 2, 1, 16, 16, false, false, 0, 0.25f, 2, {{64, 1}, {9, 1}}},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        compare_at_once(&specs[i]);
}

static void test_steps_that_one_launch_cannot_do_are_told(void **state)
{
    (void)state;
    struct device_batch batch;
    struct device_kv kv = {NULL, 1, 1, 64, 64, 2 * 64 * 64};
    memset(&batch, 0, sizeof batch);
    batch.n_splits = batch.max_items = 1;
    assert_true(attend_ropes(&batch, &kv, 8));
    assert_false(attend_ropes(&batch, &kv, 9)); /* two blocks would write a key */
    batch.n_walks = 1;
    assert_false(attend_ropes(&batch, &kv, 8));
    batch.n_walks = 0;
    kv.head_dim = kv.head_pad = 512;
    assert_false(attend_ropes(&batch, &kv, 8)); /* a page's values do not fit beside the queries */
}

/* Positions below 0 are rows of padding. */
static void test_rows_of_padding_write_nothing(void **state)
{
    (void)state;
    static const struct spec s = {"padding", 2, 1, 16, 16, true, true, 0, 0.25f, 1, {{3, 2}}};
    const int32_t nowhere[2] = {-1, -1};
    struct world w;
    struct device_world d;
    world_open(&w, &s);
    device_open(&w, &d);
    must(cudaMemcpy((void *)d.batch.pos, nowhere, sizeof nowhere, cudaMemcpyHostToDevice));
    run_rope(&w, &d);
    memcpy(w.pool_after, w.pool, w.pool_elems * sizeof *w.pool);
    memcpy(w.qkv_after, w.qkv, (size_t)(w.n_rows * w.ld) * sizeof *w.qkv);
    check_rope(&w, &d);
    device_close(&d);
    world_close(&w);
}

static void test_attention_that_is_not_finite_sets_the_fault(void **state)
{
    (void)state;
    static const struct spec s = {"fault", 2, 1, 16, 16, true, false, 0, 0.25f, 1, {{3, 2}}};
    for (int how = SPLIT; how <= WALK; how++) {
        struct world w;
        struct device_world d;
        int fault = 0;
        world_open(&w, &s);
        w.qkv[w.ld + 2 * 16 - 1] = NAN; /* the second row's last value of q */
        device_open(&w, &d);
        run_rope(&w, &d);
        struct device_attend p = attend_open(&w, &d, (enum how)how, 100);
        must(launch_attend(&p, 0));
        must(cudaDeviceSynchronize());
        device_read(&fault, p.fault, sizeof fault);
        assert_int_equal(fault, 1);
        attend_close(&p);
        device_close(&d);
        world_close(&w);
    }
}

static void test_copied_pages_hold_what_was_written_and_nothing_else(void **state)
{
    (void)state;
    static const int dims[] = {30, 64};
    static const int lengths[] = {0, 1, 17, 64};
    for (int i = 0; i < 8; i++) {
        const int n_kv = 3, pad = round_up_to(dims[i % 2], 8), n_pos = lengths[i / 2], src = 2, dst = 1;
        struct device_kv kv = {NULL, N_LAYERS, n_kv, dims[i % 2], pad, 2 * (size_t)KV_PAGE * (size_t)pad};
        const size_t page = N_LAYERS * (size_t)n_kv * kv.head_elems, n = 4 * page;
        uint16_t *pool = host_new(n * sizeof *pool), *got = host_new(n * sizeof *pool);
        for (size_t j = 0; j < n; j++)
            pool[j] = (uint16_t)test_bits(9, (uint32_t)j);
        kv.base = device_copy_of(pool, n * sizeof *pool);
        must(launch_copy_page(&kv, dst, src, n_pos, 0));
        must(cudaDeviceSynchronize());
        device_read(got, kv.base, n * sizeof *pool);
        for (size_t j = 0; j < page; j++) {
            const size_t at = j % kv.head_elems, k_elems = (size_t)KV_PAGE * (size_t)pad;
            const size_t pos = at < k_elems ? at / 8 % KV_PAGE : (at - k_elems) / (size_t)pad;
            if (pos < (size_t)n_pos)
                pool[dst * page + j] = pool[src * page + j];
        }
        assert_memory_equal(got, pool, n * sizeof *pool);
        must(cudaFree(kv.base));
        free(pool);
        free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_sizes_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_odd_shapes_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_windows_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_more_chunks_than_are_merged_at_once_give_the_bits_of_the_cpu),
        cmocka_unit_test(test_rotation_inside_attention_gives_the_bits_of_the_cpu),
        cmocka_unit_test(test_steps_that_one_launch_cannot_do_are_told),
        cmocka_unit_test(test_rows_of_padding_write_nothing),
        cmocka_unit_test(test_attention_that_is_not_finite_sets_the_fault),
        cmocka_unit_test(test_copied_pages_hold_what_was_written_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

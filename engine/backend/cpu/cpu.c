/* cpu.c: the life of the CPU backend: sizes from the shape, buffers once, weights into an arena, the arena read-only.
 *
 * Nothing is allocated after reserve(): the buffers of a step lie in one mapping sized at open, the KV pages in another, the weights, matrices and
 * vectors alike, in a third (huge pages where the system grants them) that seal() write-protects. All three come zeroed from the system, so padding
 * is 0 without being written, and what is never used is never there.
 * Which kernels run is decided here, once; see cpu.h for the table. */
#include "engine/backend/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/backend/cpu/pack.h"

#define HUGE_BYTES ((size_t)2 << 20)
#define ALIGN 64

_Static_assert(FILL_ROWS == CPU_STRIPE, "what can be filled at once is a stripe");

/* ---- memory ---- */

static void *map_zeroed(size_t size)
{
    size_t slack = size >= HUGE_BYTES ? HUGE_BYTES : 0; /* to begin at a huge page, wherever the system would put it */
    uint8_t *p = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack == 0)
        return p;
    size_t before = (HUGE_BYTES - (uintptr_t)p % HUGE_BYTES) % HUGE_BYTES;
    if (before > 0)
        munmap(p, before);
    if (before < slack)
        munmap(p + before + size, slack - before);
    madvise(p + before, size, MADV_HUGEPAGE); /* a wish; refusal costs speed only */
    return p + before;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- open and close ---- */

static const struct cpu_kernels *const tables[] = {
#if defined(__x86_64__)
    &cpu_kernels_avx512,
    &cpu_kernels_avxvnni,
    &cpu_kernels_avx2,
#elif defined(__aarch64__)
    &cpu_kernels_neon,
#endif
    &cpu_kernels_generic, /* last: "cpu" takes the first that the machine supports */
};

static int kernels_choose(const char *device, const struct cpu_kernels **out, struct err *err)
{
    bool any = strcmp(device, "cpu") == 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (!any && strcmp(device, tables[i]->name) != 0)
            continue;
        if (tables[i]->supported()) {
            *out = tables[i];
            return 0;
        }
        if (!any)
            return err_set(err, ERR_UNSUPPORTED, "this processor cannot run the kernels of device '%s'; use 'cpu'", device);
    }
    char names[200] = "cpu";
    for (size_t i = 0, n = 3; i < sizeof tables / sizeof *tables && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, ", %s", tables[i]->name);
    return err_set(err, ERR_UNSUPPORTED, "device '%s' is unknown; the devices of this build are %s", device, names);
}

static int cpu_probe(const char *device, size_t *free_bytes_out, struct err *err)
{
    const struct cpu_kernels *kernels;
    if (kernels_choose(device, &kernels, err) != 0)
        return -1;
    *free_bytes_out = 0;
    return 0;
}

size_t cpu_scratch_floats(const struct backend_shape *shape)
{
    size_t dim = round_up((size_t)shape->head_dim, 16), attend = CPU_TILE * (KV_PAGE + dim) + (CPU_QUERIES + 2 * KV_PAGE) * dim;
    size_t tiles = (size_t)2 * CPU_ITEM_ROWS * CPU_STRIPE;
    size_t row = CPU_ROWS * round_up((size_t)shape->d_model, CPU_STRIPE);
    size_t need = attend > tiles ? attend : tiles;
    return round_up((need > row ? need : row) + 64, 1024);
}

/* A bump pointer over `work`; with base NULL it only counts. */
struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *c, size_t n, size_t elem_bytes)
{
    void *p = c->base == NULL ? NULL : c->base + c->used;
    c->used += round_up(n * elem_bytes, ALIGN);
    return p;
}

static void carve_operand(struct carver *c, struct operand *o, int n_cols, int max_rows)
{
    o->n_cols = n_cols;
    o->n_blocks = quant_n_blocks(n_cols);
    size_t n = (size_t)o->n_blocks * (size_t)(max_rows + 8);
    o->q = carve(c, n, QUANT_BLOCK);
    o->d = carve(c, n, sizeof(float));
    o->s = carve(c, n, sizeof(float));
    o->start = carve(c, n, sizeof(int32_t));
    o->half[0] = carve(c, n, sizeof(int32_t));
    o->half[1] = carve(c, n, sizeof(int32_t));
    o->f = carve(c, n, QUANT_BLOCK * sizeof(float));
}

/* Called twice: to count, then to place. */
static void carve_all(struct cpu *c, struct carver *w)
{
    const struct backend_shape *s = &c->shape;
    size_t rows = (size_t)s->max_rows, out = (size_t)s->max_scores;
    c->x = carve(w, rows * (size_t)s->d_model, sizeof(float));
    c->qkv = carve(w, rows * (size_t)c->qkv_cols, sizeof(float));
    c->o = carve(w, rows * (size_t)c->o_cols, sizeof(float));
    c->t = carve(w, rows * (size_t)c->t_cols, sizeof(float));
    c->scores = carve(w, out * (size_t)c->scores_stride, sizeof(float));
    c->block_max = carve(w, out * (size_t)c->n_score_blocks, sizeof(float));
    c->n_partials = (size_t)s->n_pages * (size_t)s->n_head * partial_floats(c->v_stride);
    c->partials = carve(w, c->n_partials, sizeof *c->partials);
    for (int i = 0; i < ROPE_TABLES; i++)
        c->cs[i] = carve(w, rows * (size_t)s->rope_dims, sizeof *c->cs[i]);
    c->groups = carve(w, rows + 1, sizeof *c->groups);
    carve_operand(w, &c->a, s->d_model, s->max_rows);
    carve_operand(w, &c->oo, s->n_head * s->head_dim, s->max_rows);
    carve_operand(w, &c->h, s->d_ff, s->max_rows);
    carve_operand(w, &c->v, s->d_model, s->max_scores);
    for (int i = 0; i < s->n_threads; i++) {
        float *p = carve(w, cpu_scratch_floats(s), sizeof(float));
        if (c->scratch != NULL)
            c->scratch[i] = p;
    }
}

static void size_from_shape(struct cpu *c)
{
    const struct backend_shape *s = &c->shape;
    c->qkv_cols = (int)round_up((size_t)(s->n_head + 2 * s->n_kv) * (size_t)s->head_dim, CPU_STRIPE);
    c->o_cols = (int)round_up((size_t)s->n_head * (size_t)s->head_dim, CPU_STRIPE);
    c->t_cols = (int)round_up((size_t)s->d_model, CPU_STRIPE);
    c->n_score_blocks = (s->n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
    c->scores_stride = (int)round_up((size_t)s->n_vocab, 1024) + CPU_STRIPE; /* a stripe's rows lie in different sets of a cache */
    c->v_stride = (int)round_up((size_t)s->head_dim, 16);
    c->head_elems = (size_t)KV_PAGE * (size_t)(s->head_dim + c->v_stride);
    c->layer_elems = c->head_elems * (size_t)s->n_kv;
    c->page_elems = c->layer_elems * (size_t)s->n_layers;
}

static void cpu_close(struct backend *be)
{
    struct cpu *c = (struct cpu *)be;
    if (c == NULL)
        return;
    pool_destroy(c->pool);
    for (struct matrix *m = c->matrices, *next; m != NULL; m = next) {
        next = m->next;
        free(m);
    }
    for (struct vector *v = c->vectors, *next; v != NULL; v = next) {
        next = v->next;
        free(v);
    }
    if (c->arena != NULL)
        munmap(c->arena, c->arena_size);
    if (c->work != NULL)
        munmap(c->work, c->work_size);
    if (c->kv != NULL)
        munmap(c->kv, c->kv_size);
    free(c->scratch);
    free(c);
}

static void assert_shape(const struct backend_shape *s)
{
    assert(s->n_layers > 0 && s->d_model > 0 && s->d_ff > 0 && s->n_vocab > 0);
    assert(s->n_kv > 0 && s->n_head % s->n_kv == 0);
    assert(s->head_dim > 0 && s->head_dim % 2 == 0);
    assert(s->rope_dims >= 0 && s->rope_dims % 2 == 0 && s->rope_dims <= s->head_dim);
    assert(s->max_rows > 0 && s->max_scores > 0 && s->max_scores <= s->max_rows && s->n_pages > 0 && s->n_threads > 0);
}

static int cpu_open(const struct backend_shape *shape, struct backend **be_out, struct err *err)
{
    assert_shape(shape);
    const struct cpu_kernels *kernels = NULL;
    if (kernels_choose(shape->device, &kernels, err) != 0)
        return -1;
    struct cpu *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(err, ERR_NOMEM, "cannot allocate the backend");
    c->base.ops = &backend_cpu;
    c->base.device = kernels->name;
    c->shape = *shape;
    c->shape.device = NULL; /* the caller's string; base.device is ours */
    c->k = kernels;
    size_from_shape(c);

    c->scratch = calloc((size_t)shape->n_threads, sizeof *c->scratch);
    if (c->scratch == NULL) {
        err_set(err, ERR_NOMEM, "cannot allocate the backend");
        goto fail;
    }
    struct carver count = {NULL, 0};
    carve_all(c, &count);
    c->work_size = round_up(count.used + 4096, HUGE_BYTES);
    c->work = map_zeroed(c->work_size);
    if (c->work == NULL) {
        err_set(err, ERR_NOMEM, "cannot map %zu MiB for the buffers of a step: %s", c->work_size >> 20, strerror(errno));
        goto fail;
    }
    struct carver place = {c->work, 0};
    carve_all(c, &place);

    c->kv_size = round_up((size_t)shape->n_pages * c->page_elems * sizeof *c->kv, 4096);
    c->kv = map_zeroed(c->kv_size);
    if (c->kv == NULL) {
        err_set(err, ERR_NOMEM, "cannot map %zu MiB for %d KV pages: %s", c->kv_size >> 20, shape->n_pages, strerror(errno));
        goto fail;
    }
    if (pool_create(shape->n_threads, &c->pool, err) != 0)
        goto fail;
    *be_out = &c->base;
    return 0;

fail:
    cpu_close(&c->base);
    return -1;
}

/* ---- weights ---- */

static int n_stripes_of(const struct tensor *t)
{
    return (t->n_rows + CPU_STRIPE - 1) / CPU_STRIPE;
}

/* Fails on a tensor that no kernel can read. */
static int tensor_check(const struct tensor *t, struct err *err)
{
    if (t->n_rows <= 0 || quant_row_bytes(t->type, t->n_cols) == 0)
        return err_set(err, ERR_UNSUPPORTED, "a tensor of type %d with %d rows of %d values cannot be loaded", (int)t->type, t->n_rows, t->n_cols);
    return 0;
}

static size_t stripe_bytes(const struct cpu *c, int type, int n_cols)
{
    return c->k->tiled ? pack_stripe_bytes(type, n_cols) : CPU_STRIPE * quant_row_bytes(type, n_cols);
}

/* A place in the arena to come. */
static size_t take(struct cpu *c, size_t size)
{
    size_t at = c->weight_bytes;
    assert(c->arena == NULL);
    c->weight_bytes += round_up(size, ALIGN);
    return at;
}

static int needs_of(const struct cpu *c, int type)
{
    if (quant_is_float(type))
        return NEEDS_F;
    if (!c->k->tiled)
        return NEEDS_Q | NEEDS_HALF;
    switch (pack_format(type)->scale) {
    case PACK_F16: return NEEDS_Q | NEEDS_START;
    case PACK_F16_MIN:
    case PACK_K_MIN: return NEEDS_Q | NEEDS_S;
    default: return NEEDS_Q | NEEDS_HALF;
    }
}

/* A matrix of the given tensors; where its parts lie is not told yet. */
static struct matrix *matrix_new(struct cpu *c, const struct tensor *tensors, int n, struct err *err)
{
    assert(n >= 1 && n <= CPU_MAX_PARTS);
    for (int i = 0; i < n; i++)
        if (tensor_check(&tensors[i], err) != 0)
            return NULL;
    struct matrix *m = calloc(1, sizeof *m);
    if (m == NULL) {
        err_set(err, ERR_NOMEM, "cannot allocate a matrix");
        return NULL;
    }
    size_t bytes = 0;
    m->n_cols = tensors[0].n_cols;
    m->n_blocks = quant_n_blocks(m->n_cols);
    m->n_parts = n;
    for (int i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        assert(t->n_cols == m->n_cols);
        struct part *p = &m->parts[i];
        *p = (struct part){.step = stripe_bytes(c, t->type, t->n_cols), .type = t->type, .n_rows = t->n_rows, .first = m->n_stripes};
        m->needs |= needs_of(c, t->type);
        m->n_stripes += n_stripes_of(t);
        bytes += (size_t)n_stripes_of(t) * p->step;
    }
    m->at = take(c, bytes);
    m->next = c->matrices;
    c->matrices = m;
    return m;
}

static int cpu_matrix_stack(struct backend *be, const struct tensor *parts, int n_parts, struct matrix **out, struct err *err)
{
    struct matrix *m = matrix_new((struct cpu *)be, parts, n_parts, err);
    if (m == NULL)
        return -1;
    for (int i = 0; i < n_parts; m->n_rows += parts[i].n_rows, i++)
        m->parts[i].col = m->n_rows;
    *out = m;
    return 0;
}

static int cpu_matrix_pair(struct backend *be, const struct tensor *gate, const struct tensor *up, struct matrix **out, struct err *err)
{
    const struct tensor parts[2] = {*gate, *up};
    struct matrix *m = matrix_new((struct cpu *)be, parts, 2, err);
    if (m == NULL)
        return -1;
    assert(gate->n_rows == up->n_rows);
    m->pair = true;
    m->n_rows = gate->n_rows;
    *out = m;
    return 0;
}

static int cpu_vector(struct backend *be, int n, struct vector **out, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    assert(n > 0);
    struct vector *v = calloc(1, sizeof *v);
    if (v == NULL)
        return err_set(err, ERR_NOMEM, "cannot allocate a vector");
    v->n = n;
    v->at = take(c, (size_t)n * sizeof *v->values);
    v->next = c->vectors;
    c->vectors = v;
    *out = v;
    return 0;
}

/* Parts lie behind one another; the stripes of a pair take turns. */
static void place_parts(struct matrix *m, const uint8_t *w)
{
    for (int i = 0; i < m->n_parts; i++) {
        struct part *p = &m->parts[i];
        p->w = w;
        w += m->pair ? p->step : p->step * (size_t)((p->n_rows + CPU_STRIPE - 1) / CPU_STRIPE);
    }
    if (m->pair)
        m->parts[0].step = m->parts[1].step = (size_t)(w - m->parts[0].w);
}

static int cpu_reserve(struct backend *be, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    assert(c->arena == NULL);
    c->arena_size = round_up(c->weight_bytes + 1, HUGE_BYTES);
    c->arena = map_zeroed(c->arena_size);
    if (c->arena == NULL)
        return err_set(err, ERR_NOMEM, "cannot map %zu MiB for weights: %s", c->arena_size >> 20, strerror(errno));
    for (struct matrix *m = c->matrices; m != NULL; m = m->next)
        place_parts(m, c->arena + m->at);
    for (struct vector *v = c->vectors; v != NULL; v = v->next)
        v->values = (float *)(c->arena + v->at);
    return 0;
}

/* Item 0 is what happens meanwhile; the others are stripes. */
struct fill_job {
    struct cpu *c;
    const struct fill *fills;
    int n;
    void (*meanwhile)(void *arg);
    void *arg;
};

static void fill_stripe(struct cpu *c, const struct fill *f, int i)
{
    const struct matrix *m = f->to;
    const struct stripe s = part_stripe(&m->parts[f->part], f->first_row / CPU_STRIPE + i);
    size_t row_bytes = quant_row_bytes(s.type, m->n_cols);
    const uint8_t *rows = (const uint8_t *)f->rows + (size_t)i * CPU_STRIPE * row_bytes;
    uint8_t *w = c->arena + (s.w - c->arena);
    assert(f->n_rows - i * CPU_STRIPE >= s.n);
    if (c->k->tiled)
        pack_stripe(s.type, rows, s.n, m->n_cols, w);
    else
        memcpy(w, rows, (size_t)s.n * row_bytes);
}

static int fill_stripes(const struct fill *f)
{
    return (f->n_rows + CPU_STRIPE - 1) / CPU_STRIPE;
}

static void fill_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct fill_job *j = ctx;
    if (first == 0)
        j->meanwhile(j->arg);
    for (int k = 0, at = 1; k < j->n; at += fill_stripes(&j->fills[k]), k++)
        for (int i = first > at ? first : at; i < last && i < at + fill_stripes(&j->fills[k]); i++)
            fill_stripe(j->c, &j->fills[k], i - at);
}

static void cpu_fill(struct backend *be, const struct fill *fills, int n, void (*meanwhile)(void *arg), void *arg)
{
    struct cpu *c = (struct cpu *)be;
    struct fill_job job = {c, fills, n, meanwhile, arg};
    int n_items = 1;
    for (int k = 0; k < n; k++) {
        assert(fills[k].first_row % CPU_STRIPE == 0);
        n_items += fill_stripes(&fills[k]);
    }
    pool_run(c->pool, n_items, 1, fill_items, &job);
}

static void cpu_fill_vector(struct backend *be, struct vector *v, int first, const float *values, int n)
{
    (void)be;
    assert(first >= 0 && n <= v->n - first);
    memcpy(v->values + first, values, (size_t)n * sizeof *values);
}

static int cpu_seal(struct backend *be, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    if (mprotect(c->arena, c->arena_size, PROT_READ) != 0)
        return err_set(err, ERR_IO, "cannot make the weights read-only: %s", strerror(errno));
    return 0;
}

static void cpu_share(struct backend *be, int n, void (*fn)(void *arg, int i), void *arg)
{
    pool_share(((struct cpu *)be)->pool, n, fn, arg);
}

static size_t cpu_weight_bytes(const struct backend *be)
{
    return ((const struct cpu *)be)->weight_bytes;
}

static size_t cpu_kv_bytes(const struct backend *be)
{
    return ((const struct cpu *)be)->kv_size;
}

const struct backend_ops backend_cpu = {
    .name = "cpu",
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .matrix_stack = cpu_matrix_stack,
    .matrix_pair = cpu_matrix_pair,
    .vector = cpu_vector,
    .reserve = cpu_reserve,
    .fill = cpu_fill,
    .fill_vector = cpu_fill_vector,
    .seal = cpu_seal,
    .weight_bytes = cpu_weight_bytes,
    .kv_bytes = cpu_kv_bytes,
    .begin = cpu_begin,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .qkv = cpu_qkv,
    .rope_store = cpu_rope_store,
    .attend = cpu_attend,
    .project_o = cpu_project_o,
    .gate_up = cpu_gate_up,
    .project_h = cpu_project_h,
    .vocab = cpu_vocab,
    .sync = cpu_sync,
    .copy_page = cpu_copy_page,
    .share = cpu_share,
};

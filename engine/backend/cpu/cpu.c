/* cpu.c: the life of the CPU backend: sizes from the shape, buffers once, weights into slabs, slabs read-only.
 *
 * Nothing is allocated after seal(): the buffers of a step lie in one mapping sized at open, the KV pages in another, the weights, matrices and
 * vectors alike, in slabs of 64 MiB (huge pages where the system grants them) that seal() write-protects. All three come zeroed from the system, so
 * padding is 0 without being written.
 * Which kernels run is decided here, once; see cpu.h for the table. */
#include "engine/backend/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/backend/cpu/pack.h"

#define SLAB_BYTES ((size_t)64 << 20)
#define HUGE_BYTES ((size_t)2 << 20)
#define ALIGN 64

/* ---- memory ---- */

static void *map_zeroed(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (size >= HUGE_BYTES)
        madvise(p, size, MADV_HUGEPAGE); /* a wish; refusal costs speed only */
    return p;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* `size` bytes of weight memory, 64-byte aligned. */
static uint8_t *slab_take(struct cpu *c, size_t size, struct err *err)
{
    size = round_up(size, ALIGN);
    struct slab *s = c->slabs;
    if (s == NULL || s->size - s->used < size) {
        s = calloc(1, sizeof *s);
        size_t bytes = round_up(size > SLAB_BYTES ? size : SLAB_BYTES, HUGE_BYTES);
        if (s != NULL)
            s->base = map_zeroed(bytes);
        if (s == NULL || s->base == NULL) {
            free(s);
            err_set(err, ERR_NOMEM, "cannot map %zu MiB for weights: %s", bytes >> 20, strerror(errno));
            return NULL;
        }
        s->size = bytes;
        s->next = c->slabs;
        c->slabs = s;
    }
    uint8_t *p = s->base + s->used;
    s->used += size;
    c->weight_bytes += size;
    return p;
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

size_t cpu_scratch_floats(const struct backend_shape *shape)
{
    size_t attend = CPU_QUERIES * (KV_PAGE + 2 * round_up((size_t)shape->head_dim, 16)) + 64, tiles = (size_t)2 * CPU_ITEM_ROWS * CPU_STRIPE;
    size_t row = round_up((size_t)shape->d_model, CPU_STRIPE) + CPU_STRIPE;
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
    o->bias = carve(c, n, sizeof(int32_t));
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
    c->scores_stride = (int)round_up((size_t)s->n_vocab, SCORES_BLOCK);
    c->n_score_blocks = c->scores_stride / SCORES_BLOCK;
    c->v_stride = (int)round_up((size_t)s->head_dim, 16);
    c->head_elems = (size_t)KV_PAGE * (size_t)(s->head_dim + c->v_stride);
    c->page_elems = c->head_elems * (size_t)s->n_kv;
    c->layer_elems = c->page_elems * (size_t)s->n_pages;
}

static void cpu_close(struct backend *be)
{
    struct cpu *c = (struct cpu *)be;
    if (c == NULL)
        return;
    pool_destroy(c->pool);
    for (struct matrix *m = c->matrices, *next; m != NULL; m = next) {
        next = m->next;
        free(m->stripes);
        free(m);
    }
    for (struct slab *s = c->slabs, *next; s != NULL; s = next) {
        next = s->next;
        munmap(s->base, s->size);
        free(s);
    }
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

    c->kv_size = round_up((size_t)shape->n_layers * c->layer_elems * sizeof *c->kv, 4096);
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

/* Fails on a tensor that no kernel can read; returns the number of its stripes otherwise. */
static int tensor_check(const struct tensor *t, struct err *err)
{
    if (t->n_rows <= 0 || quant_row_bytes(t->type, t->n_cols) == 0)
        return err_set(err, ERR_UNSUPPORTED, "a tensor of type %d with %d rows of %d values cannot be loaded", (int)t->type, t->n_rows, t->n_cols);
    return (t->n_rows + CPU_STRIPE - 1) / CPU_STRIPE;
}

static struct matrix *matrix_new(struct cpu *c, int n_rows, int n_cols, int n_stripes, struct err *err)
{
    struct matrix *m = calloc(1, sizeof *m);
    struct stripe *stripes = calloc((size_t)n_stripes, sizeof *stripes);
    if (m == NULL || stripes == NULL) {
        free(m);
        free(stripes);
        err_set(err, ERR_NOMEM, "cannot allocate a matrix of %d stripes", n_stripes);
        return NULL;
    }
    m->n_rows = n_rows;
    m->n_cols = n_cols;
    m->n_blocks = quant_n_blocks(n_cols);
    m->n_stripes = n_stripes;
    m->stripes = stripes;
    m->next = c->matrices;
    c->matrices = m;
    return m;
}

static size_t stripe_bytes(const struct cpu *c, int type, int n_cols)
{
    return c->k->tiled ? pack_stripe_bytes(type, n_cols) : CPU_STRIPE * quant_row_bytes(type, n_cols);
}

/* Stripe i of tensor t, its first output at column col, written to `w`. */
static void stripe_fill(struct cpu *c, struct stripe *s, const struct tensor *t, int i, int col, uint8_t *w)
{
    size_t row_bytes = quant_row_bytes(t->type, t->n_cols);
    const uint8_t *rows = (const uint8_t *)t->data + (size_t)i * CPU_STRIPE * row_bytes;
    s->w = w;
    s->type = t->type;
    s->col = col + i * CPU_STRIPE;
    s->n = t->n_rows - i * CPU_STRIPE < CPU_STRIPE ? t->n_rows - i * CPU_STRIPE : CPU_STRIPE;
    if (c->k->tiled)
        pack_stripe(t->type, rows, s->n, t->n_cols, w);
    else
        memcpy(w, rows, (size_t)s->n * row_bytes);
}

struct fill_job {
    struct cpu *c;
    struct matrix *m;
    const struct tensor *t;
    int first_stripe, step, col; /* tensor stripe i becomes matrix stripe first_stripe + i * step */
    uint8_t *w;
    size_t bytes, w_step;
};

static void fill_range(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct fill_job *j = ctx;
    for (int i = first; i < last; i++)
        stripe_fill(j->c, &j->m->stripes[j->first_stripe + i * j->step], j->t, i, j->col, j->w + (size_t)i * j->w_step);
}

static int needs_of(int type)
{
    return quant_is_float(type) ? NEEDS_F : NEEDS_Q;
}

static int cpu_matrix_stack(struct backend *be, const struct tensor *parts, int n_parts, struct matrix **out, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    int n_rows = 0, n_stripes = 0;
    size_t bytes = 0;
    for (int i = 0; i < n_parts; i++) {
        int n = tensor_check(&parts[i], err);
        if (n < 0)
            return -1;
        assert(parts[i].n_cols == parts[0].n_cols);
        n_rows += parts[i].n_rows;
        n_stripes += n;
        bytes += (size_t)n * stripe_bytes(c, parts[i].type, parts[i].n_cols);
    }
    uint8_t *w = slab_take(c, bytes, err);
    struct matrix *m = w == NULL ? NULL : matrix_new(c, n_rows, parts[0].n_cols, n_stripes, err);
    if (m == NULL)
        return -1;
    int col = 0, stripe = 0;
    for (int i = 0; i < n_parts; i++) {
        size_t each = stripe_bytes(c, parts[i].type, parts[i].n_cols);
        int n = (parts[i].n_rows + CPU_STRIPE - 1) / CPU_STRIPE;
        struct fill_job job = {c, m, &parts[i], stripe, 1, col, w, each, each};
        pool_run(c->pool, n, 16, fill_range, &job);
        m->needs |= needs_of(parts[i].type);
        col += parts[i].n_rows;
        stripe += n;
        w += (size_t)n * each;
    }
    *out = m;
    return 0;
}

static int cpu_matrix_pair(struct backend *be, const struct tensor *gate, const struct tensor *up, struct matrix **out, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    int n = tensor_check(gate, err);
    if (n < 0 || tensor_check(up, err) < 0)
        return -1;
    assert(gate->n_cols == up->n_cols);
    assert(gate->n_rows == up->n_rows);
    size_t gate_bytes = stripe_bytes(c, gate->type, gate->n_cols), up_bytes = stripe_bytes(c, up->type, up->n_cols);
    uint8_t *w = slab_take(c, (size_t)n * (gate_bytes + up_bytes), err);
    struct matrix *m = w == NULL ? NULL : matrix_new(c, gate->n_rows, gate->n_cols, 2 * n, err);
    if (m == NULL)
        return -1;
    struct fill_job g = {c, m, gate, 0, 2, 0, w, gate_bytes, gate_bytes + up_bytes};
    struct fill_job u = {c, m, up, 1, 2, 0, w + gate_bytes, up_bytes, gate_bytes + up_bytes};
    pool_run(c->pool, n, 16, fill_range, &g);
    pool_run(c->pool, n, 16, fill_range, &u);
    m->pair = true;
    m->needs = needs_of(gate->type) | needs_of(up->type);
    *out = m;
    return 0;
}

static int cpu_vector(struct backend *be, const float *values, int n, struct vector **out, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    assert(n > 0);
    struct vector *v = (struct vector *)slab_take(c, sizeof *v + (size_t)n * sizeof *values, err);
    if (v == NULL)
        return -1;
    v->n = n;
    memcpy(v->values, values, (size_t)n * sizeof *values);
    *out = v;
    return 0;
}

static int cpu_seal(struct backend *be, struct err *err)
{
    struct cpu *c = (struct cpu *)be;
    for (struct slab *s = c->slabs; s != NULL; s = s->next)
        if (mprotect(s->base, s->size, PROT_READ) != 0)
            return err_set(err, ERR_IO, "cannot make the weights read-only: %s", strerror(errno));
    return 0;
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
    .open = cpu_open,
    .close = cpu_close,
    .matrix_stack = cpu_matrix_stack,
    .matrix_pair = cpu_matrix_pair,
    .vector = cpu_vector,
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
};

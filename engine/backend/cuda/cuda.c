/* cuda.c: the life of the CUDA backend: a device that will do, its memory in four pieces, weights into one of them.
 *
 * Nothing is allocated after reserve(): the buffers of a step lie in one piece of device memory sized at open, the KV pages in another, the weights,
 * matrices and vectors alike, in a third; what the host writes or reads while the device works lies in pinned buffers. Weights come stripe by stripe:
 * the host's threads repack them into one pinned buffer while the device takes the other, so that loading is as fast as the slower of the two.
 *
 * An error at open or reserve is returned; later ones are kept (cuda.h). Device memory has no write protection, so seal() only waits. */
#include "engine/backend/cuda/cuda.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/cuda/repack.h"

#define FILL_BYTES ((size_t)8 << 20) /* of each pinned buffer of weights, where a stripe is not larger */
#define BLOCKS_OF_SM 8               /* small ones that run at once on a multiprocessor, about */
#define MAX_EDITS ((size_t)1 << 16)  /* of logits, in a step; a row whose edits find no room is drawn by the host */
#define MAX_CHANGED_ROWS 32          /* whole ones; the same is room for many more with a few edits each */
#define CAPABILITY_MAJOR 8           /* int8 mma of 16x8x32 and cp.async */

_Static_assert(DEVICE_BLOCK == QUANT_BLOCK && DEVICE_SLOTS == QUANT_SLOTS && DEVICE_PAGE == KV_PAGE && DEVICE_SCORES == SCORES_BLOCK,
               "kernels.h repeats the numbers of quant.h, batch.h and runner.h");
_Static_assert((int)DEVICE_SILU == (int)ACT_SILU && (int)DEVICE_GELU_TANH == (int)ACT_GELU_TANH, "and those of backend.h");

static int round_up_int(int n, int to)
{
    return (n + to - 1) / to * to;
}

/* ---- errors ---- */

bool cuda_enter(struct cuda *c)
{
    return !c->lost && cuda_check(c, cudaSetDevice(c->device), "selecting the device");
}

bool cuda_check(struct cuda *c, cudaError_t rc, const char *doing)
{
    if (rc == cudaSuccess)
        return true;
    if (!c->lost) {
        err_set(&c->why, ERR_DEVICE, "device %s failed while %s: %s", c->name, doing, cudaGetErrorString(rc));
        c->lost = true;
    }
    return false;
}

/* The same where the error is returned at once. */
static int check_now(const struct cuda *c, cudaError_t rc, const char *doing, struct err *err)
{
    if (rc == cudaSuccess)
        return 0;
    return err_set(err, ERR_DEVICE, "device %s failed while %s: %s", c->name, doing, cudaGetErrorString(rc));
}

bool cuda_acquire(struct cuda *c, struct staging *s)
{
    if (s->pending && !cuda_check(c, cudaEventSynchronize(s->read), "reading from the host"))
        return false;
    s->pending = false;
    return true;
}

void cuda_release(struct cuda *c, struct staging *s)
{
    s->pending = cuda_check(c, cudaEventRecord(s->read, c->stream), "reading from the host");
}

/* ---- the device ---- */

/* The driver is not there or too old; everything else the count says itself. */
static int find_devices(const char *device, int *n_out, struct err *err)
{
    int driver = 0, runtime = 0;
    cudaError_t rc = cudaGetDeviceCount(n_out);
    cudaGetLastError(); /* it would be reported again */
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no NVIDIA driver for device '%s'", device);
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess)
        runtime = CUDART_VERSION;
    if (rc == cudaErrorInsufficientDriver)
        return err_set(err, ERR_UNSUPPORTED, "the NVIDIA driver supports CUDA %d.%d; this build needs %d.%d or newer", driver / 1000,
                       driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (rc != cudaSuccess && rc != cudaErrorNoDevice)
        return err_set(err, ERR_UNSUPPORTED, "device '%s' cannot be used: %s", device, cudaGetErrorString(rc));
    if (rc == cudaErrorNoDevice || *n_out == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no GPU for device '%s'", device);
    return 0;
}

/* "cuda" is the first device. */
static int parse_device(const char *device, int *idx_out, bool *eager_out, struct err *err)
{
    char *end = NULL;
    *idx_out = 0;
    *eager_out = false;
    if (strcmp(device, "cuda") == 0)
        return 0;
    long idx = strncmp(device, "cuda:", 5) == 0 && device[5] >= '0' && device[5] <= '9' ? strtol(device + 5, &end, 10) : -1;
    *eager_out = idx >= 0 && strcmp(end, ":eager") == 0;
    if (idx < 0 || idx > 999 || (*end != '\0' && !*eager_out))
        return err_set(err, ERR_UNSUPPORTED, "device '%.40s' is unknown; a GPU is called cuda:0, cuda:1 and so on", device);
    *idx_out = (int)idx;
    return 0;
}

static int choose_device(struct cuda *c, const char *device, struct err *err)
{
    int n = 0, major = 0, minor = 0;
    if (parse_device(device, &c->device, &c->eager, err) != 0)
        return -1;
    snprintf(c->name, sizeof c->name, "cuda:%d", c->device);
    if (find_devices(device, &n, err) != 0)
        return -1;
    if (c->device >= n)
        return err_set(err, ERR_NOT_FOUND, "there is no device '%s'; %s cuda:%d", c->name, n == 1 ? "the only one is" : "the last one is", n - 1);
    if (check_now(c, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c->device), "asking what it can do", err) != 0 ||
        check_now(c, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, c->device), "asking what it can do", err) != 0)
        return -1;
    if (major < CAPABILITY_MAJOR)
        return err_set(err, ERR_UNSUPPORTED, "device %s has compute capability %d.%d; nextd needs %d.0 or newer", c->name, major, minor,
                       CAPABILITY_MAJOR);
    return check_now(c, cudaSetDevice(c->device), "selecting the device", err);
}

static int cuda_probe(const char *device, size_t *free_bytes_out, struct err *err)
{
    struct cuda c = {0};
    size_t left = 0, total = 0;
    if (choose_device(&c, device, err) != 0 || check_now(&c, cudaMemGetInfo(&left, &total), "asking for its memory", err) != 0)
        return -1;
    *free_bytes_out = left > 0 ? left : 1;
    return 0;
}

/* ---- memory ---- */

static int device_alloc(const struct cuda *c, void **out, size_t size, const char *what, struct err *err)
{
    size_t left = 0, total = 0;
    cudaError_t rc = cudaMalloc(out, size);
    if (rc == cudaSuccess)
        return 0;
    *out = NULL;
    cudaGetLastError();
    if (rc != cudaErrorMemoryAllocation || cudaMemGetInfo(&left, &total) != cudaSuccess)
        return check_now(c, rc, "reserving memory", err);
    return err_set(err, ERR_NOMEM, "device %s has %zu of %zu MiB free; %s need %zu MiB", c->name, left >> 20, total >> 20, what, (size >> 20) + 1);
}

static int pinned_alloc(const struct cuda *c, void **out, size_t size, struct err *err)
{
    cudaError_t rc = cudaHostAlloc(out, size, cudaHostAllocDefault);
    if (rc == cudaSuccess) {
        memset(*out, 0, size);
        return 0;
    }
    *out = NULL;
    cudaGetLastError();
    if (rc != cudaErrorMemoryAllocation)
        return check_now(c, rc, "pinning memory", err);
    return err_set(err, ERR_NOMEM, "cannot pin %zu MiB of the host's memory for device %s", (size >> 20) + 1, c->name);
}

static int staging_init(const struct cuda *c, struct staging *s, size_t size, struct err *err)
{
    if (pinned_alloc(c, (void **)&s->bytes, size, err) != 0)
        return -1;
    return check_now(c, cudaEventCreateWithFlags(&s->read, cudaEventDisableTiming), "creating an event", err);
}

/* Nothing reads it any more, or the device is lost. */
static void staging_finish(struct staging *s)
{
    if (s->read != NULL)
        cudaEventDestroy(s->read);
    if (s->bytes != NULL)
        cudaFreeHost(s->bytes);
    *s = (struct staging){0};
}

/* A bump pointer over `work`; with base NULL it only counts. */
struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *c, size_t n, size_t elem_bytes)
{
    void *p = c->base == NULL ? NULL : c->base + c->used;
    c->used += cuda_round_up(n * elem_bytes, CUDA_ALIGN);
    return p;
}

static void carve_operand(struct carver *w, struct device_operand *o, int n_cols, int max_rows)
{
    o->n_cols = n_cols;
    o->n_blocks = quant_n_blocks(n_cols);
    size_t n = (size_t)o->n_blocks * (size_t)max_rows;
    o->q = carve(w, n, QUANT_BLOCK);
    o->d = carve(w, n, sizeof *o->d);
    o->sums = carve(w, n, 2 * sizeof *o->sums);
    o->f = carve(w, n, QUANT_BLOCK * sizeof *o->f);
}

static void carve_rows(struct carver *w, struct device_rows *r, int n_cols, int max_rows)
{
    r->ld = round_up_int(n_cols, QUANT_BLOCK);
    r->p = carve(w, (size_t)r->ld * (size_t)max_rows, sizeof *r->p);
}

static void carve_draws(struct cuda *c, struct carver *w)
{
    size_t out = (size_t)c->shape.max_scores, scores = out * c->scores_ld, blocks = out * (size_t)c->n_score_blocks;
    struct device_draws *d = &c->draw;
    d->changed = carve(w, (size_t)c->n_changed_blocks, sizeof *d->changed);
    d->changed_most = carve(w, blocks, sizeof *d->changed_most);
    d->touched = carve(w, blocks, sizeof *d->touched);
    d->raw_sums = carve(w, blocks, sizeof *d->raw_sums);
    d->sums = carve(w, blocks, sizeof *d->sums);
    d->drawn = carve(w, out, sizeof *d->drawn);
    d->slots = carve(w, FLIGHTS * out, sizeof *d->slots);
    c->draws = carve(w, c->draw_bytes, 1);
    for (int i = 0; i < FLIGHTS; i++) {
        c->flights[i].scores = carve(w, scores, sizeof *c->flights[i].scores);
        c->flights[i].block_max = carve(w, blocks, sizeof *c->flights[i].block_max);
    }
}

/* Called twice: to count, then to place. */
static void carve_all(struct cuda *c, struct carver *w)
{
    const struct backend_shape *s = &c->shape;
    size_t rows = (size_t)s->max_rows;
    int heads = s->n_head * s->head_dim, qkv = (s->n_head + 2 * s->n_kv) * s->head_dim;
    carve_rows(w, &c->x, s->d_model, s->max_rows);
    carve_rows(w, &c->qkv, qkv, s->max_rows);
    carve_rows(w, &c->o, heads, s->max_rows);
    carve_rows(w, &c->t, s->d_model, s->max_rows);
    carve_operand(w, &c->a, s->d_model, s->max_rows);
    carve_operand(w, &c->oo, heads, s->max_rows);
    carve_operand(w, &c->h, s->d_ff, s->max_rows);
    carve_operand(w, &c->v, s->d_model, s->max_scores);
    c->partials = carve(w, (size_t)s->n_pages * (size_t)s->n_head * ATTEND_PARTIAL(c->kv.head_pad), sizeof *c->partials);
    c->items = carve(w, 2 * (size_t)s->n_pages, sizeof *c->items);
    c->tables.on_device = carve(w, (size_t)c->tables.n * (size_t)c->tables.max_pages, sizeof *c->tables.on_device);
    for (int i = 0; i < ROPE_TABLES; i++)
        c->cs[i] = carve(w, rows * (size_t)s->rope_dims + 1, sizeof *c->cs[i]);
    c->fault = carve(w, 1, sizeof *c->fault);
    carve_draws(c, w);
    c->inputs = carve(w, c->input_bytes, 1);
}

static void size_from_shape(struct cuda *c)
{
    const struct backend_shape *s = &c->shape;
    c->n_score_blocks = (s->n_vocab + SCORES_BLOCK - 1) / SCORES_BLOCK;
    c->scores_ld = cuda_round_up((size_t)s->n_vocab, QUANT_BLOCK);
    c->kv = (struct device_kv){.n_layers = s->n_layers, .n_kv = s->n_kv, .head_dim = s->head_dim, .head_pad = round_up_int(s->head_dim, 8)};
    c->kv.head_elems = (size_t)2 * KV_PAGE * (size_t)c->kv.head_pad;
    c->edits_at = cuda_round_up((size_t)s->max_scores * sizeof(struct device_draw), CUDA_ALIGN);
    c->draw_bytes = c->edits_at + MAX_EDITS * sizeof(struct device_edit);
    c->n_changed_blocks = (s->max_scores < MAX_CHANGED_ROWS ? s->max_scores : MAX_CHANGED_ROWS) * c->n_score_blocks;
    cuda_size_inputs(c);
}

static int make_tables(struct page_tables *t, struct err *err)
{
    t->sent = calloc((size_t)t->n * (size_t)t->max_pages, sizeof *t->sent);
    t->whose = calloc((size_t)t->n, sizeof *t->whose);
    t->step = calloc((size_t)t->n, sizeof *t->step);
    if (t->sent == NULL || t->whose == NULL || t->step == NULL)
        return err_set(err, ERR_NOMEM, "cannot allocate %d page tables", t->n);
    return 0;
}

/* What is on its way between steps that are launched and landed apart. */
static int make_flights(struct cuda *c, struct err *err)
{
    c->draw.n_vocab = c->shape.n_vocab;
    c->draw.n_blocks = c->n_score_blocks;
    c->draw.ld = (int)c->scores_ld;
    for (int i = 0; i < FLIGHTS; i++) {
        struct flight *f = &c->flights[i];
        if (staging_init(c, &c->draw_steps[i], c->draw_bytes, err) != 0 ||
            pinned_alloc(c, (void **)&f->drawn, (size_t)c->shape.max_scores * sizeof *f->drawn, err) != 0 ||
            pinned_alloc(c, (void **)&f->fault, sizeof *f->fault, err) != 0 ||
            check_now(c, cudaEventCreateWithFlags(&f->done, cudaEventDisableTiming), "creating an event", err) != 0)
            return -1;
    }
    return check_now(c, cudaStreamCreateWithFlags(&c->fetches, cudaStreamNonBlocking), "creating a stream", err);
}

static int make_buffers(struct cuda *c, struct err *err)
{
    const struct backend_shape *s = &c->shape;
    if (make_tables(&c->tables, err) != 0)
        return -1;
    struct carver count = {NULL, 0};
    carve_all(c, &count);
    if (device_alloc(c, (void **)&c->work, count.used, "the buffers of a step", err) != 0)
        return -1;
    struct carver place = {c->work, 0};
    carve_all(c, &place);
    char what[48];
    snprintf(what, sizeof what, "%d KV pages", s->n_pages);
    size_t kv_bytes = (size_t)s->n_pages * (size_t)s->n_layers * (size_t)s->n_kv * c->kv.head_elems * sizeof *c->kv_pages;
    if (device_alloc(c, (void **)&c->kv_pages, kv_bytes, what, err) != 0)
        return -1;
    c->kv.base = c->kv_pages;
    size_t out = (size_t)s->max_scores;
    if (staging_init(c, &c->steps[0], c->input_bytes, err) != 0 || staging_init(c, &c->steps[1], c->input_bytes, err) != 0 ||
        pinned_alloc(c, (void **)&c->host.scores, out * c->scores_ld * sizeof(float), err) != 0 ||
        pinned_alloc(c, (void **)&c->host.block_max, out * (size_t)c->n_score_blocks * sizeof(float), err) != 0 ||
        pinned_alloc(c, (void **)&c->host.fault, sizeof *c->host.fault, err) != 0)
        return -1;
    if (make_flights(c, err) != 0)
        return -1;
    return check_now(c, cudaMemsetAsync(c->fault, 0, sizeof *c->fault, c->stream), "clearing memory", err);
}

/* ---- open and close ---- */

static void cuda_close(struct backend *be)
{
    struct cuda *c = (struct cuda *)be;
    if (c == NULL)
        return;
    pool_destroy(c->pool);
    cudaSetDevice(c->device);
    if (c->stream != NULL) {
        cudaStreamSynchronize(c->stream); /* buffers of the host are read until then; a lost device fails at once */
        cudaStreamDestroy(c->stream);
    }
    cuda_close_graphs(c);
    for (int i = 0; i < 2; i++) {
        staging_finish(&c->fills[i]);
        staging_finish(&c->steps[i]);
        staging_finish(&c->draw_steps[i]);
        if (c->flights[i].done != NULL)
            cudaEventDestroy(c->flights[i].done);
    }
    if (c->fetches != NULL)
        cudaStreamDestroy(c->fetches);
    free(c->tables.sent);
    free(c->tables.whose);
    free(c->tables.step);
    void *const pinned[] = {c->host.scores, c->host.block_max, c->host.fault, c->flights[0].drawn, c->flights[0].fault, c->flights[1].drawn,
                            c->flights[1].fault};
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++)
        if (pinned[i] != NULL)
            cudaFreeHost(pinned[i]);
    void *const on_device[] = {c->arena, c->kv_pages, c->work};
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        if (on_device[i] != NULL)
            cudaFree(on_device[i]);
    for (struct matrix *m = c->matrices, *next; m != NULL; m = next) {
        next = m->next;
        free(m);
    }
    for (struct vector *v = c->vectors, *next; v != NULL; v = next) {
        next = v->next;
        free(v);
    }
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

static int cuda_open(const struct backend_shape *shape, struct backend **be_out, struct err *err)
{
    assert_shape(shape);
    struct cuda *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(err, ERR_NOMEM, "cannot allocate the backend");
    c->base.ops = &backend_cuda;
    c->base.device = c->name;
    if (choose_device(c, shape->device, err) != 0) {
        free(c);
        return -1;
    }
    if (shape->n_vocab > DRAW_MAX_VOCAB) {
        free(c);
        return err_set(err, ERR_UNSUPPORTED, "a vocabulary of %d tokens is too large for device %s", shape->n_vocab, shape->device);
    }
    c->shape = *shape;
    c->shape.device = NULL; /* the caller's string */
    size_from_shape(c);
    if (check_now(c, cudaDeviceGetAttribute(&c->max_blocks, cudaDevAttrMultiProcessorCount, c->device), "asking what it can do", err) != 0) {
        free(c);
        return -1;
    }
    c->max_blocks *= BLOCKS_OF_SM;
    cuda_plan_captures(c);
    if (check_now(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "creating a stream", err) != 0 || make_buffers(c, err) != 0 ||
        pool_create(shape->n_threads, &c->pool, err) != 0) {
        cuda_close(&c->base);
        return -1;
    }
    *be_out = &c->base;
    return 0;
}

/* ---- weights ---- */

/* A place in the arena to come. */
static size_t take(struct cuda *c, size_t size)
{
    size_t at = c->weight_bytes;
    assert(c->arena == NULL);
    c->weight_bytes += cuda_round_up(size, CUDA_ALIGN);
    return at;
}

static struct matrix *matrix_new(struct cuda *c, const struct tensor *tensors, int n, struct err *err)
{
    assert(n >= 1 && n <= DEVICE_PARTS);
    for (int i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        if (t->n_rows <= 0 || quant_row_bytes(t->type, t->n_cols) == 0) {
            err_set(err, ERR_UNSUPPORTED, "a tensor of type %d with %d rows of %d values cannot be loaded", (int)t->type, t->n_rows, t->n_cols);
            return NULL;
        }
    }
    struct matrix *m = calloc(1, sizeof *m);
    if (m == NULL) {
        err_set(err, ERR_NOMEM, "cannot allocate a matrix");
        return NULL;
    }
    m->d.n_parts = n;
    m->d.n_cols = tensors[0].n_cols;
    m->d.n_blocks = quant_n_blocks(m->d.n_cols);
    for (int i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        assert(t->n_cols == m->d.n_cols);
        size_t stripe = repack_stripe_bytes(t->type, t->n_cols);
        m->d.parts[i] = (struct device_part){.type = t->type, .n_rows = t->n_rows};
        m->at[i] = take(c, repack_bytes(t->type, t->n_rows, t->n_cols));
        m->needs |= quant_is_float(t->type) ? OPERAND_F : OPERAND_Q;
        c->stripe_bytes = stripe > c->stripe_bytes ? stripe : c->stripe_bytes;
    }
    m->next = c->matrices;
    c->matrices = m;
    return m;
}

static int cuda_matrix_stack(struct backend *be, const struct tensor *parts, int n_parts, struct matrix **out, struct err *err)
{
    struct matrix *m = matrix_new(cuda_of(be), parts, n_parts, err);
    if (m == NULL)
        return -1;
    for (int i = 0; i < n_parts; m->d.n_rows += parts[i].n_rows, i++)
        m->d.parts[i].first_out = m->d.n_rows;
    *out = m;
    return 0;
}

static int cuda_matrix_pair(struct backend *be, const struct tensor *gate, const struct tensor *up, struct matrix **out, struct err *err)
{
    const struct tensor parts[2] = {*gate, *up};
    struct matrix *m = matrix_new(cuda_of(be), parts, 2, err);
    if (m == NULL)
        return -1;
    assert(gate->n_rows == up->n_rows);
    m->d.pair = true;
    m->d.n_rows = gate->n_rows;
    *out = m;
    return 0;
}

static int cuda_vector(struct backend *be, int n, struct vector **out, struct err *err)
{
    struct cuda *c = cuda_of(be);
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

static int cuda_reserve(struct backend *be, struct err *err)
{
    struct cuda *c = cuda_of(be);
    assert(c->arena == NULL);
    if (check_now(c, cudaSetDevice(c->device), "selecting the device", err) != 0 ||
        device_alloc(c, (void **)&c->arena, c->weight_bytes + CUDA_ALIGN, "the weights", err) != 0)
        return -1;
    c->fill_bytes = c->stripe_bytes > FILL_BYTES ? c->stripe_bytes : FILL_BYTES;
    if (staging_init(c, &c->fills[0], c->fill_bytes, err) != 0 || staging_init(c, &c->fills[1], c->fill_bytes, err) != 0)
        return -1;
    for (struct matrix *m = c->matrices; m != NULL; m = m->next)
        for (int i = 0; i < m->d.n_parts; i++)
            m->d.parts[i].w = c->arena + m->at[i];
    for (struct vector *v = c->vectors; v != NULL; v = v->next)
        v->values = (float *)(c->arena + v->at);
    return 0;
}

/* What goes into one pinned buffer: stripes `first` to `last` of the fills, all in a row, as item 1 and up of a loop; item 0 is what happens
 * meanwhile. */
struct fill_job {
    const struct fill *fills;
    int n, first, last;
    uint8_t *to;
    void (*meanwhile)(void *arg);
    void *arg;
};

static int fill_stripes(const struct fill *f)
{
    return (f->n_rows + FILL_ROWS - 1) / FILL_ROWS;
}

static size_t fill_stripe_bytes(const struct fill *f)
{
    return repack_stripe_bytes(f->to->d.parts[f->part].type, f->to->d.n_cols);
}

/* Packs a stripe: finds whose it is and where the ones before it end in the buffer. */
static void fill_stripe(const struct fill_job *j, int stripe)
{
    size_t at = 0;
    int k = 0, begin = 0;
    for (int next; stripe >= (next = begin + fill_stripes(&j->fills[k])); begin = next, k++)
        if (next > j->first)
            at += (size_t)(next - (begin > j->first ? begin : j->first)) * fill_stripe_bytes(&j->fills[k]);
    const struct fill *f = &j->fills[k];
    int i = stripe - begin, left = f->n_rows - i * FILL_ROWS, type = f->to->d.parts[f->part].type;
    at += (size_t)(stripe - (begin > j->first ? begin : j->first)) * fill_stripe_bytes(f);
    const uint8_t *rows = (const uint8_t *)f->rows + (size_t)i * FILL_ROWS * quant_row_bytes(type, f->to->d.n_cols);
    repack_rows(type, rows, left < FILL_ROWS ? left : FILL_ROWS, f->to->d.n_cols, j->to + at);
}

static void fill_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct fill_job *j = ctx;
    for (int i = first; i < last; i++) {
        if (i > 0)
            fill_stripe(j, j->first + i - 1);
        else if (j->meanwhile != NULL)
            j->meanwhile(j->arg);
    }
}

/* Enqueues the copies of a packed buffer: one for each fill in it. */
static void fill_copy(struct cuda *c, const struct fill_job *j)
{
    size_t at = 0;
    for (int k = 0, begin = 0; k < j->n; begin += fill_stripes(&j->fills[k]), k++) {
        const struct fill *f = &j->fills[k];
        int end = begin + fill_stripes(f), first = begin > j->first ? begin : j->first, last = end < j->last ? end : j->last;
        if (first >= last)
            continue;
        size_t stripe = fill_stripe_bytes(f), size = (size_t)(last - first) * stripe;
        uint8_t *to = c->arena + f->to->at[f->part] + (size_t)(f->first_row / FILL_ROWS + first - begin) * stripe;
        cuda_check(c, cudaMemcpyAsync(to, j->to + at, size, cudaMemcpyHostToDevice, c->stream), "taking the weights");
        at += size;
    }
}

/* How far a buffer reaches that begins at stripe `first`. */
static int fill_end(const struct cuda *c, const struct fill *fills, int n, int first)
{
    size_t used = 0;
    int begin = 0;
    for (int k = 0; k < n; begin += fill_stripes(&fills[k]), k++) {
        int end = begin + fill_stripes(&fills[k]), from = begin > first ? begin : first;
        if (from >= end)
            continue;
        size_t stripe = fill_stripe_bytes(&fills[k]), fit = (c->fill_bytes - used) / stripe;
        if (fit < (size_t)(end - from))
            return from + (int)fit;
        used += (size_t)(end - from) * stripe;
    }
    return begin;
}

static void cuda_fill(struct backend *be, const struct fill *fills, int n, void (*meanwhile)(void *arg), void *arg)
{
    struct cuda *c = cuda_of(be);
    int n_stripes = 0;
    for (int k = 0; k < n; n_stripes += fill_stripes(&fills[k]), k++)
        assert(fills[k].first_row % FILL_ROWS == 0);
    struct fill_job job = {.fills = fills, .n = n, .meanwhile = meanwhile, .arg = arg};
    do {
        struct staging *s = &c->fills[c->fill];
        bool ready = cuda_enter(c) && cuda_acquire(c, s);
        job.to = s->bytes;
        job.last = ready ? fill_end(c, fills, n, job.first) : job.first; /* a lost device takes nothing; the rest happens all the same */
        pool_run(c->pool, 1 + job.last - job.first, 1, fill_items, &job);
        job.meanwhile = NULL;
        if (!ready)
            return;
        fill_copy(c, &job);
        cuda_release(c, s);
        c->fill ^= 1;
        job.first = job.last;
    } while (job.first < n_stripes);
}

static void cuda_fill_vector(struct backend *be, struct vector *v, int first, const float *values, int n)
{
    struct cuda *c = cuda_of(be);
    assert(first >= 0 && n <= v->n - first);
    if (!cuda_enter(c))
        return;
    cuda_check(c, cudaMemcpyAsync(v->values + first, values, (size_t)n * sizeof *values, cudaMemcpyHostToDevice, c->stream), "taking a vector");
    cuda_check(c, cudaStreamSynchronize(c->stream), "taking a vector"); /* the values are the caller's */
}

static int cuda_seal(struct backend *be, struct err *err)
{
    struct cuda *c = cuda_of(be);
    if (cuda_enter(c))
        cuda_check(c, cudaStreamSynchronize(c->stream), "taking the weights");
    for (int i = 0; i < 2; i++)
        staging_finish(&c->fills[i]);
    if (c->lost)
        *err = c->why;
    return c->lost ? -1 : 0;
}

static size_t cuda_weight_bytes(const struct backend *be)
{
    return ((const struct cuda *)be)->weight_bytes;
}

static size_t cuda_kv_bytes(const struct backend *be)
{
    const struct cuda *c = (const struct cuda *)be;
    return (size_t)c->shape.n_pages * (size_t)c->shape.n_layers * (size_t)c->shape.n_kv * c->kv.head_elems * sizeof *c->kv_pages;
}

static void cuda_share(struct backend *be, int n, void (*fn)(void *arg, int i), void *arg)
{
    pool_share(cuda_of(be)->pool, n, fn, arg);
}

const struct backend_ops backend_cuda = {
    .name = "cuda",
    .probe = cuda_probe,
    .open = cuda_open,
    .close = cuda_close,
    .matrix_stack = cuda_matrix_stack,
    .matrix_pair = cuda_matrix_pair,
    .vector = cuda_vector,
    .reserve = cuda_reserve,
    .fill = cuda_fill,
    .fill_vector = cuda_fill_vector,
    .seal = cuda_seal,
    .weight_bytes = cuda_weight_bytes,
    .kv_bytes = cuda_kv_bytes,
    .capture = cuda_capture,
    .captured = cuda_captured,
    .captures = cuda_captures,
    .begin = cuda_begin,
    .replay = cuda_replay,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .qkv = cuda_qkv,
    .rope_store = cuda_rope_store,
    .attend = cuda_attend,
    .project_o = cuda_project_o,
    .gate_up = cuda_gate_up,
    .project_h = cuda_project_h,
    .vocab = cuda_vocab,
    .sync = cuda_sync,
    .draw = cuda_draw,
    .land = cuda_land,
    .rows_fetched = cuda_rows_fetched,
    .copy_page = cuda_copy_page,
    .share = cuda_share,
};

/* load.c: every byte of a file once, in the file's order: read, hashed, packed, forgotten. See load.h.
 *
 *   describe   every matrix and vector is made, without values; each tensor gets a target, and the backend one arena of the right size
 *   stream     chunks of 1 MiB:  read and hash chunk i + 1  |  pack chunk i      at the same time, on the backend's threads
 *   seal       the arena becomes read-only
 *
 * Bytes are read into two buffers of our own, never through the mapping: what was hashed is then what is packed, whoever writes to the file
 * meanwhile, a file that shrinks is an error and not a signal, and a file's pages never count as this process's memory. Loading needs the weights
 * and 2 MiB more.
 *
 * A chunk is cut where packing can be: between tensors, or after a multiple of FILL_ROWS rows of a matrix. Metadata, padding and tensors without a
 * target (weights.h tells which are allowed) are hashed and no more.
 *
 * One thread hashes 1.9 GB/s here and packs 1.2 to 8.7; so with two threads or more the digest costs the time, and packing hides behind it. */
#include "engine/model/load.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define MAX_PIECES 64 /* of a chunk */

/* Where a tensor goes: a matrix's part, or a vector. */
struct target {
    const struct gguf_tensor *t;
    int file_part;
    uint64_t offset; /* in that part of the file */
    const struct matrix *matrix; /* NULL: vector */
    int part;
    struct vector *vector;
    int at;
};

struct piece {
    const struct target *to;
    int first_row, n_rows;
    size_t at; /* in the chunk */
};

struct chunk {
    uint8_t *bytes;
    size_t n; /* 0: the end */
    int file_part;
    uint64_t offset;
    struct piece pieces[MAX_PIECES];
    int n_pieces;
};

struct load {
    const struct gguf *file;
    const struct weights *weights;
    struct transformer *t;
    struct target *targets; /* [n_targets], in the file's order */
    int n_targets;
    struct sha256 *hash;
    struct chunk chunks[2];
    size_t chunk_bytes;
    float *values; /* of the longest vector */

    /* How far the file has been cut into chunks. */
    int file_part;
    uint64_t offset;
    int target, row;

    struct chunk *reading; /* what read_chunk works on, maybe on another thread */
    int rc;
    struct err err;
};

/* ---- describe ---- */

static struct target *add_target(struct load *l, const struct gguf_tensor *t)
{
    struct target *to = &l->targets[l->n_targets++];
    *to = (struct target){.t = t};
    for (int i = 0; i < gguf_n_parts(l->file); i++) {
        size_t n;
        uintptr_t base = (uintptr_t)gguf_part(l->file, i, &n), at = (uintptr_t)t->data;
        if (at >= base && at - base < n) {
            to->file_part = i;
            to->offset = at - base;
            return to;
        }
    }
    assert(!"a tensor lies in a part of its file");
    return to;
}

static void add_matrix(struct load *l, const struct gguf_tensor *const *parts, int n_parts, const struct matrix *m)
{
    for (int i = 0; i < n_parts; i++) {
        struct target *to = add_target(l, parts[i]);
        to->matrix = m;
        to->part = i;
    }
}

static struct tensor shape_of(const struct gguf_tensor *t)
{
    return (struct tensor){.type = (enum tensor_type)t->type, .n_rows = (int)t->dims[1], .n_cols = (int)t->dims[0]};
}

/* Stacks the given tensors into one matrix. */
static int make_matrix(struct load *l, const struct gguf_tensor *const *parts, int n_parts, const struct matrix **out, struct err *err)
{
    struct tensor tensors[3];
    struct matrix *matrix;
    assert(n_parts <= 3);
    for (int i = 0; i < n_parts; i++)
        tensors[i] = shape_of(parts[i]);
    if (l->t->ops->matrix_stack(l->t->be, tensors, n_parts, &matrix, err) != 0)
        return -1;
    add_matrix(l, parts, n_parts, matrix);
    *out = matrix;
    return 0;
}

static int make_pair(struct load *l, const struct gguf_tensor *gate, const struct gguf_tensor *up, const struct matrix **out, struct err *err)
{
    const struct gguf_tensor *const parts[2] = {gate, up};
    struct tensor g = shape_of(gate), u = shape_of(up);
    struct matrix *matrix;
    if (l->t->ops->matrix_pair(l->t->be, &g, &u, &matrix, err) != 0)
        return -1;
    add_matrix(l, parts, 2, matrix);
    *out = matrix;
    return 0;
}

/* Joins the given vectors into one; *out stays NULL where the first is absent. */
static int make_vector(struct load *l, const struct gguf_tensor *const *parts, int n_parts, const struct vector **out, struct err *err)
{
    int n = 0;
    struct vector *vector;
    if (parts[0] == NULL)
        return 0;
    for (int i = 0; i < n_parts; i++)
        n += (int)parts[i]->dims[0];
    if (l->t->ops->vector(l->t->be, n, &vector, err) != 0)
        return -1;
    for (int i = 0, at = 0; i < n_parts; at += (int)parts[i]->dims[0], i++) {
        struct target *to = add_target(l, parts[i]);
        to->vector = vector;
        to->at = at;
    }
    *out = vector;
    return 0;
}

static int make_layer(struct load *l, const struct gguf_tensor *const *t, struct layer *layer, struct err *err)
{
    const struct {
        enum weight first;
        int n;
        const struct vector **out;
    } vectors[] = {
        {W_ATTN_NORM, 1, &layer->attn_norm}, {W_Q_BIAS, 3, &layer->qkv_bias}, {W_Q_NORM, 1, &layer->q_norm},
        {W_K_NORM, 1, &layer->k_norm},       {W_O_BIAS, 1, &layer->o_bias},   {W_ATTN_POST_NORM, 1, &layer->attn_post_norm},
        {W_FFN_NORM, 1, &layer->ffn_norm},   {W_FFN_POST_NORM, 1, &layer->ffn_post_norm},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        if (make_vector(l, t + vectors[i].first, vectors[i].n, vectors[i].out, err) != 0)
            return -1;
    if (make_matrix(l, t + W_Q, 3, &layer->qkv, err) != 0 || make_matrix(l, t + W_O, 1, &layer->o, err) != 0 ||
        make_pair(l, t[W_GATE], t[W_UP], &layer->gate_up, err) != 0 || make_matrix(l, t + W_DOWN, 1, &layer->down, err) != 0)
        return -1;
    return 0;
}

static int compare_targets(const void *a, const void *b)
{
    const struct target *x = a, *y = b;
    if (x->file_part != y->file_part)
        return x->file_part < y->file_part ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Everything that will be filled, in the order in which a step reads it. */
static int describe(struct load *l, struct err *err)
{
    struct transformer *t = l->t;
    const struct gguf_tensor *const *once = l->weights->once.t;
    t->layers = calloc((size_t)t->hp.n_layers, sizeof *t->layers);
    l->targets = calloc(gguf_n_tensors(l->file), sizeof *l->targets);
    if (t->layers == NULL || l->targets == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d layers", t->hp.n_layers);
    if (make_matrix(l, once + W_EMBED, 1, &t->embed, err) != 0)
        return -1;
    t->output = t->embed;
    for (int i = 0; i < t->hp.n_layers; i++)
        if (make_layer(l, l->weights->layers[i].t, &t->layers[i], err) != 0)
            return -1;
    if (make_vector(l, once + W_OUT_NORM, 1, &t->out_norm, err) != 0)
        return -1;
    if (once[W_OUTPUT] != NULL && make_matrix(l, once + W_OUTPUT, 1, &t->output, err) != 0)
        return -1;
    qsort(l->targets, (size_t)l->n_targets, sizeof *l->targets, compare_targets);
    return t->ops->reserve(t->be, err);
}

/* ---- stream ---- */

static uint64_t row_bytes(const struct target *to)
{
    return to->t->n_bytes / to->t->dims[1];
}

/* A chunk must hold any vector and FILL_ROWS rows of any matrix. */
static int make_buffers(struct load *l, size_t chunk_bytes, struct err *err)
{
    uint64_t most = chunk_bytes != 0 ? chunk_bytes : CHUNK_BYTES, longest = 1;
    for (int i = 0; i < l->n_targets; i++) {
        const struct target *to = &l->targets[i];
        uint64_t least = to->matrix != NULL ? row_bytes(to) * FILL_ROWS : to->t->n_bytes;
        most = least > most ? least : most;
        longest = to->matrix == NULL && to->t->dims[0] > longest ? to->t->dims[0] : longest;
    }
    l->chunk_bytes = (size_t)most;
    l->values = malloc((size_t)longest * sizeof *l->values);
    l->chunks[0].bytes = malloc(l->chunk_bytes);
    l->chunks[1].bytes = malloc(l->chunk_bytes);
    if (l->values == NULL || l->chunks[0].bytes == NULL || l->chunks[1].bytes == NULL)
        return err_set(err, ERR_NOMEM, "no memory for two pieces of the file of %zu bytes", l->chunk_bytes);
    return 0;
}

/* The next target in the part of the file that is being cut, or NULL. */
static const struct target *next_target(const struct load *l)
{
    return l->target < l->n_targets && l->targets[l->target].file_part == l->file_part ? &l->targets[l->target] : NULL;
}

/* Adds as many rows of the target as fit; false where that is too few to go on. */
static bool cut_rows(struct load *l, const struct target *to, struct chunk *c)
{
    int n_rows = to->matrix != NULL ? (int)to->t->dims[1] : 1;
    uint64_t each = to->matrix != NULL ? row_bytes(to) : to->t->n_bytes, fit = (l->chunk_bytes - c->n) / each;
    int n = n_rows - l->row;
    if (fit < (uint64_t)n)
        n = (int)fit / FILL_ROWS * FILL_ROWS;
    if (n == 0 || c->n_pieces == MAX_PIECES)
        return false;
    c->pieces[c->n_pieces++] = (struct piece){.to = to, .first_row = l->row, .n_rows = n, .at = c->n};
    c->n += (size_t)n * (size_t)each;
    l->row += n;
    if (l->row == n_rows) {
        l->row = 0;
        l->target++;
    }
    return true;
}

/* Cuts the next chunk; n is 0 at the end of the file. */
static void cut_chunk(struct load *l, struct chunk *c)
{
    size_t part_bytes = 0;
    c->n = 0;
    c->n_pieces = 0;
    while (l->file_part < gguf_n_parts(l->file)) {
        gguf_part(l->file, l->file_part, &part_bytes);
        if (l->offset < part_bytes)
            break;
        l->file_part++;
        l->offset = 0;
    }
    if (l->file_part == gguf_n_parts(l->file))
        return;
    c->file_part = l->file_part;
    c->offset = l->offset;
    while (c->n < l->chunk_bytes && c->offset + c->n < part_bytes) {
        const struct target *to = next_target(l);
        uint64_t at = c->offset + c->n, end = to != NULL ? to->offset : part_bytes;
        if (at < end && l->row == 0)
            c->n += end - at < l->chunk_bytes - c->n ? (size_t)(end - at) : l->chunk_bytes - c->n;
        else if (!cut_rows(l, to, c))
            break;
    }
    assert(c->n > 0);
    l->offset += c->n;
}

/* Cuts, reads and hashes l->reading. */
static void read_chunk(void *arg)
{
    struct load *l = arg;
    struct chunk *c = l->reading;
    cut_chunk(l, c);
    if (c->n > 0 && (gguf_read(l->file, c->file_part, c->offset, c->bytes, c->n, &l->err) != 0 ||
                     sha256_update(l->hash, c->bytes, c->n, &l->err) != 0))
        l->rc = -1;
}

/* Hands the chunk's rows and values to the backend while the next chunk is read. */
static void deliver(struct load *l, const struct chunk *c)
{
    struct fill fills[MAX_PIECES];
    int n = 0;
    for (int i = 0; i < c->n_pieces; i++) {
        const struct piece *p = &c->pieces[i];
        const uint8_t *bytes = c->bytes + p->at;
        if (p->to->matrix != NULL) {
            fills[n++] = (struct fill){.to = p->to->matrix, .part = p->to->part, .first_row = p->first_row, .n_rows = p->n_rows, .rows = bytes};
            continue;
        }
        int n_values = (int)p->to->t->dims[0];
        weights_floats(p->to->t->type, bytes, (size_t)n_values, l->values);
        l->t->ops->fill_vector(l->t->be, p->to->vector, p->to->at, l->values, n_values);
    }
    l->t->ops->fill(l->t->be, fills, n, read_chunk, l);
}

static int stream(struct load *l, const struct model_options *opt, struct err *err)
{
    uint64_t done = 0, total = gguf_file_bytes(l->file);
    l->reading = &l->chunks[0];
    read_chunk(l);
    for (int i = 0; l->rc == 0 && l->chunks[i].n > 0; i = !i) {
        l->reading = &l->chunks[!i];
        deliver(l, &l->chunks[i]);
        done += l->chunks[i].n;
        if (opt->progress != NULL)
            opt->progress(opt->progress_arg, done, total);
        if (opt->stop_loading != NULL && *opt->stop_loading)
            return err_set(err, ERR_STOPPING, "loading was stopped");
    }
    if (l->rc != 0) {
        *err = l->err;
        return -1;
    }
    assert(done == total);
    assert(l->target == l->n_targets);
    return 0;
}

int load_weights(const struct gguf *file, const struct weights *weights, struct transformer *t, const struct model_options *opt,
                 char sha256_out[SHA256_HEX], struct err *err)
{
    struct load l = {.file = file, .weights = weights, .t = t};
    int rc = -1;
    if (sha256_create(&l.hash, err) == 0 && describe(&l, err) == 0 && make_buffers(&l, opt->chunk_bytes, err) == 0 && stream(&l, opt, err) == 0 &&
        t->ops->seal(t->be, err) == 0) {
        sha256_hex(l.hash, sha256_out);
        rc = 0;
    }
    sha256_destroy(l.hash);
    free(l.chunks[0].bytes);
    free(l.chunks[1].bytes);
    free(l.values);
    free(l.targets);
    return rc;
}

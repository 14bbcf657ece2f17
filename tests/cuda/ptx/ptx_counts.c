/* ptx_counts.c: what each launch of a step costs, counted in nvcc's PTX: issues by class, sectors, turns of shared memory (counts.h).
 *
 *   EMULATOR_PTX="FILE.ptx ..." EMULATOR_PTX_COUNTS=OUT.json EMULATOR_PTX_BLOCKS=24 ptx_counts d_model=4096 d_ff=14336 n_head=32 n_kv=8 head_dim=128
 *       n_vocab=4096 rows=32 context=512 prefill=0 types=q4_k,q4_k,q6_k,q4_k,q4_k,q4_k,q6_k,q6_k
 *
 * It opens the CUDA backend on the emulated device for a model of one layer of that shape, with tensors of any bytes, and runs one step of `rows`
 * rows at the end of `context` positions: each of its own sequence, or with prefill=1 all of one. Types are those of q, k, v, o, gate, up, down and
 * vocabulary. OUT.json receives a line for each launch, labelled with the operation of backend.h that made it. Blocks of a grid do the same, so some
 * of them (EMULATOR_PTX_BLOCKS) stand for all: a line tells how many there are and how many ran. A vocabulary smaller than the model's saves memory;
 * its launches grow with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/backend/cuda/cuda.h"
#include "engine/model/gguf.h"
#include "tests/cuda/ptx/device.h"

#define MAX_TYPE 31

enum { Q, K, V, O, GATE, UP, DOWN, VOCAB, N_TENSORS };

struct step {
    int d_model, d_ff, n_head, n_kv, head_dim, n_vocab, rows, context, prefill;
    enum tensor_type types[N_TENSORS];
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "ptx_counts: %s\n", what);
    exit(1);
}

static void read_types(const char *list, enum tensor_type *types_out)
{
    char word[16];
    for (int i = 0, n; i < N_TENSORS; i++, list += n) {
        int type = 0;
        if (sscanf(list, "%15[^,]%n", word, &n) != 1)
            die("types= needs eight types");
        while (type <= MAX_TYPE && (gguf_type_name(type) == NULL || strcasecmp(gguf_type_name(type), word) != 0))
            type++;
        if (type > MAX_TYPE)
            die("unknown type");
        types_out[i] = (enum tensor_type)type;
        n += list[n] == ',';
    }
}

static struct step read_step(int argc, char **argv)
{
    struct step s = {576, 1536, 9, 3, 64, 1024, 1, 64, 0,
                     {TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q4_1, TENSOR_Q8_0}};
    const struct {
        const char *name;
        int *value;
    } fields[] = {{"d_model=", &s.d_model}, {"d_ff=", &s.d_ff},       {"n_head=", &s.n_head}, {"n_kv=", &s.n_kv},      {"head_dim=", &s.head_dim},
                  {"n_vocab=", &s.n_vocab}, {"context=", &s.context}, {"rows=", &s.rows},     {"prefill=", &s.prefill}};
    for (int i = 1; i < argc; i++) {
        size_t k = 0, n = sizeof fields / sizeof *fields;
        if (strncmp(argv[i], "types=", 6) == 0) {
            read_types(argv[i] + 6, s.types);
            continue;
        }
        while (k < n && strncmp(argv[i], fields[k].name, strlen(fields[k].name)) != 0)
            k++;
        if (k == n)
            die("unknown argument");
        *fields[k].value = atoi(argv[i] + strlen(fields[k].name));
    }
    if (s.rows < 1 || s.context < 1 || (s.prefill != 0 && s.rows > s.context))
        die("rows and context do not fit");
    return s;
}

static void check(int rc, const struct err *err)
{
    if (rc != 0)
        die(err->msg);
}

struct layer {
    struct matrix *qkv, *o, *gate_up, *down, *vocab;
    struct vector *norm;
};

static struct layer make_layer(struct backend *be, const struct step *s)
{
    const struct tensor q = {s->types[Q], s->n_head * s->head_dim, s->d_model}, k = {s->types[K], s->n_kv * s->head_dim, s->d_model},
                        v = {s->types[V], s->n_kv * s->head_dim, s->d_model}, o = {s->types[O], s->d_model, s->n_head * s->head_dim},
                        gate = {s->types[GATE], s->d_ff, s->d_model}, up = {s->types[UP], s->d_ff, s->d_model},
                        down = {s->types[DOWN], s->d_model, s->d_ff}, vocab = {s->types[VOCAB], s->n_vocab, s->d_model};
    const struct tensor qkv[3] = {q, k, v};
    struct layer l;
    struct err err;
    check(be->ops->matrix_stack(be, qkv, 3, &l.qkv, &err), &err);
    check(be->ops->matrix_stack(be, &o, 1, &l.o, &err), &err);
    check(be->ops->matrix_pair(be, &gate, &up, &l.gate_up, &err), &err);
    check(be->ops->matrix_stack(be, &down, 1, &l.down, &err), &err);
    check(be->ops->matrix_stack(be, &vocab, 1, &l.vocab, &err), &err);
    check(be->ops->vector(be, s->d_model, &l.norm, &err), &err);
    check(be->ops->reserve(be, &err), &err);
    check(be->ops->seal(be, &err), &err);
    return l;
}

/* 0x2c2c is 0.065 as f16: every scale, value and key is some number. What blocks that do not run would write of page tables and items is that of
 * page 0, row 0. */
static void give_values(struct backend *be)
{
    struct cuda *c = (struct cuda *)be;
    const size_t n_entries = (size_t)c->tables.n * (size_t)c->tables.max_pages;
    if (cudaMemset(c->tables.on_device, 0, n_entries * sizeof(int32_t)) != cudaSuccess ||
        cudaMemset(c->items, 0, 2 * (size_t)c->shape.n_pages * sizeof(int32_t)) != cudaSuccess ||
        cudaMemset(c->arena, 0x2c, c->weight_bytes) != cudaSuccess || cudaMemset(c->kv_pages, 0x2c, be->ops->kv_bytes(be)) != cudaSuccess ||
        cudaDeviceSynchronize() != cudaSuccess)
        die("cannot set memory");
}

static void run(struct backend *be, const struct step *s, const struct layer *l, const struct batch *batch)
{
    const struct backend_ops *ops = be->ops;
    const struct attend_params attend = {.layer = 0, .window = 0, .scale = 0.1f};
    double *freq = malloc((size_t)s->head_dim / 2 * sizeof *freq);
    const double *const tables[1] = {freq};
    struct scores scores;
    struct err err;
    for (int i = 0; i < s->head_dim / 2; i++)
        freq[i] = 1.0 / (i + 1);
    ptx_device_label("begin");
    ops->begin(be, batch, tables, 1);
    ptx_device_label("embed");
    ops->embed(be, l->vocab, 1.0f);
    ptx_device_label("norm");
    ops->norm(be, l->norm, 1e-5f, l->qkv);
    ptx_device_label("qkv");
    ops->qkv(be, l->qkv, NULL);
    ptx_device_label("rope_store");
    ops->rope_store(be, 0, 0, NULL, NULL, 1e-5f);
    ptx_device_label("attend");
    ops->attend(be, &attend, l->o);
    ptx_device_label("project_o");
    ops->project_o(be, l->o, NULL, NULL, 1e-5f);
    ptx_device_label("norm");
    ops->norm(be, l->norm, 1e-5f, l->gate_up);
    ptx_device_label("gate_up");
    ops->gate_up(be, l->gate_up, ACT_SILU, l->down);
    ptx_device_label("project_h");
    ops->project_h(be, l->down, NULL, 1e-5f);
    ptx_device_label("vocab");
    ops->vocab(be, l->vocab, l->norm, 1e-5f, 0, batch->n_out);
    /* Where only some blocks run, others' values are missing, and that a device finds. */
    if (ops->sync(be, &scores, &err) != 0 && getenv("EMULATOR_PTX_BLOCKS") == NULL)
        die(err.msg);
    free(freq);
}

int main(int argc, char **argv)
{
    const struct step s = read_step(argc, argv);
    const int n_seqs = s.prefill != 0 ? 1 : s.rows, n_chunks = (s.context + KV_PAGE - 1) / KV_PAGE, n_out = s.prefill != 0 ? 1 : s.rows;
    const struct backend_shape shape = {.n_layers = 1, .d_model = s.d_model, .d_ff = s.d_ff, .n_head = s.n_head, .n_kv = s.n_kv,
                                        .head_dim = s.head_dim, .n_vocab = s.n_vocab, .rope_dims = s.head_dim, .max_rows = s.rows,
                                        .max_scores = n_out, .n_pages = n_seqs * n_chunks, .n_threads = 2, .device = "cuda:0"};
    int32_t *numbers = calloc(4 * (size_t)s.rows + (size_t)(n_seqs * n_chunks), sizeof *numbers), *pos = numbers + s.rows, *seq = pos + s.rows,
            *out = seq + s.rows, *table = out + s.rows;
    const int32_t **pages = malloc((size_t)n_seqs * sizeof *pages);
    struct backend *be;
    struct err err;
    for (int r = 0; r < s.rows; r++) {
        pos[r] = s.prefill != 0 ? s.context - s.rows + r : s.context - 1;
        seq[r] = s.prefill != 0 ? 0 : r;
        out[r] = s.prefill != 0 ? s.rows - 1 : r;
    }
    for (int i = 0; i < n_seqs * n_chunks; i++)
        table[i] = i;
    for (int i = 0; i < n_seqs; i++)
        pages[i] = table + i * n_chunks;
    check(backend_cuda.open(&shape, &be, &err), &err);
    const struct layer layer = make_layer(be, &s);
    give_values(be);
    run(be, &s, &layer, &(struct batch){s.rows, numbers, pos, seq, n_seqs, pages, n_out, out});
    backend_cuda.close(be);
    free(pages);
    free(numbers);
    return 0;
}

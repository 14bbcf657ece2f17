/* cpu_probe.c: the CPU backend for backend_matrix.h. */
#include <string.h>

#include "engine/backend/cpu/cpu.h"
#include "tests/engine/backend/backend_matrix.h"

static void spoil_pages(struct backend *be)
{
    struct cpu *c = (struct cpu *)be;
    memset(c->kv, 0xff, c->kv_size);
}

static void peek(struct backend *be, enum buffer which, int n_rows, int n, float *out)
{
    const struct cpu *c = (const struct cpu *)be;
    const float *from = which == BUFFER_X ? c->x : which == BUFFER_QKV ? c->qkv : c->o;
    size_t ld = (size_t)(which == BUFFER_X ? c->shape.d_model : which == BUFFER_QKV ? c->qkv_cols : c->o_cols);
    for (int r = 0; r < n_rows; r++)
        memcpy(out + (size_t)r * (size_t)n, from + (size_t)r * ld, (size_t)n * sizeof *out);
}

const struct probe cpu_probe = {&backend_cpu, spoil_pages, peek};

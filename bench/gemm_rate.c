/* gemm_rate.c: how fast the matrix kernels are, by themselves, on one thread.
 *
 *   build/bench/gemm_rate [table[,table]] [type[,type]] [milliseconds]
 *
 * For each type, shape and number of rows: int8 operations per second (2 a weight and row) of each kernel table, in Gop/s of this thread's own
 * processor time, and the fraction of the int8 peak measured before (limits.h). The weights are a matrix as a layer has it, packed once and read
 * stripe after stripe, so they come from the cache that they would come from in a step of that matrix alone. Tables take turns of about a
 * millisecond; each figure is the median turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/limits.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/pack.h"

#define MAX_TABLES 6
#define MAX_TURNS 400

static const struct {
    const char *name;
    int type;
} types[] = {{"q4_1", TENSOR_Q4_1}, {"q5_0", TENSOR_Q5_0}, {"q8_0", TENSOR_Q8_0}, {"q4_k", TENSOR_Q4_K}, {"q6_k", TENSOR_Q6_K},
             {"q4_0", TENSOR_Q4_0}, {"q5_1", TENSOR_Q5_1}, {"q5_k", TENSOR_Q5_K}, {"q3_k", TENSOR_Q3_K}, {"q2_k", TENSOR_Q2_K},
             {"f16", TENSOR_F16},   {"bf16", TENSOR_BF16}, {"f32", TENSOR_F32}};

/* Outputs and inputs of matrices of SmolLM2 135M, Qwen2.5 0.5B, Gemma 3 270M and Qwen2.5 1.5B. */
static const int shapes[][2] = {{1536, 576}, {576, 1536}, {896, 896}, {4864, 896}, {896, 4864}, {2048, 640}, {640, 2048}, {8960, 1536}, {1536, 8960}};
static const int rows[] = {1, 2, 4, 8, 16, 32, 48, 128};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *allocate(size_t n)
{
    void *p = aligned_alloc(64, (n + 65536 + 63) / 64 * 64); /* kernels may ask for lines beyond the end */
    if (p == NULL)
        exit(1);
    memset(p, 0, n + 65536);
    return p;
}

static uint8_t next_byte(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint8_t)(*state >> 26); /* < 64: an f16 of two such bytes is below 2 */
}

static struct matrix make_matrix(int type, int n_rows, int n_cols)
{
    size_t row_bytes = quant_row_bytes(type, n_cols), stripe_bytes = pack_stripe_bytes(type, n_cols);
    struct matrix m = {.n_rows = n_rows, .n_cols = n_cols, .n_blocks = quant_n_blocks(n_cols), .n_stripes = n_rows / CPU_STRIPE, .n_parts = 1};
    uint8_t *file = allocate(CPU_STRIPE * row_bytes), *tiles = allocate((size_t)m.n_stripes * stripe_bytes);
    uint32_t state = 1;
    m.parts[0] = (struct part){.w = tiles, .step = stripe_bytes, .type = type, .n_rows = n_rows};
    for (size_t i = 0; i < CPU_STRIPE * row_bytes; i++)
        file[i] = next_byte(&state);
    for (int s = 0; s < m.n_stripes; s++)
        pack_stripe(type, file, CPU_STRIPE, n_cols, tiles + (size_t)s * stripe_bytes);
    free(file);
    return m;
}

static void make_operand(struct operand *o, int n_rows, int n_cols, const struct cpu_kernels *k)
{
    size_t n = (size_t)quant_n_blocks(n_cols) * (size_t)(n_rows + 3);
    *o = (struct operand){.n_cols = n_cols, .n_blocks = quant_n_blocks(n_cols), .stride = n_rows < 16 ? n_rows : (n_rows | 1) + 2};
    o->q = allocate(n * QUANT_BLOCK);
    o->d = allocate(n * 4);
    o->s = allocate(n * 4);
    o->start = allocate(n * 4);
    o->half[0] = allocate(n * 4);
    o->half[1] = allocate(n * 4);
    o->f = allocate(n * QUANT_BLOCK * 4);
    float *x = allocate((size_t)n_cols * 4);
    uint32_t state = 2;
    for (int r = 0; r < n_rows; r++) {
        for (int i = 0; i < n_cols; i++)
            x[i] = (float)next_byte(&state) - 31.5f;
        k->quantise(x, (size_t)n_cols, o, r, 1, 0, o->n_blocks, ~0);
    }
    free(x);
}

static void free_operand(struct operand *o)
{
    void *parts[] = {o->q, o->d, o->s, o->start, o->half[0], o->half[1], o->f};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
}

/* The matrix once, in the items of a step. */
static void multiply(const struct cpu_kernels *k, const struct matrix *m, const struct operand *x, int n_rows, float *out)
{
    int n_blocks = (n_rows + CPU_ITEM_ROWS - 1) / CPU_ITEM_ROWS;
    for (int s = 0; s < m->n_stripes; s++)
        for (int b = 0; b < n_blocks; b++) {
            int r0 = n_rows * b / n_blocks, r1 = n_rows * (b + 1) / n_blocks;
            const uint8_t *ahead = b == n_blocks - 1 && s + 1 < m->n_stripes ? matrix_stripe(m, s + 1).w : NULL;
            const struct stripe stripe = matrix_stripe(m, s);
            k->gemm(&stripe, m->n_cols, x, r0, r1, out + (size_t)r0 * (size_t)m->n_rows + s * CPU_STRIPE, (size_t)m->n_rows, ahead);
        }
}

static void measure(const struct cpu_kernels *const *tables, int n_tables, const struct matrix *m, int n_rows, double seconds, double top)
{
    static double turns[MAX_TABLES][MAX_TURNS];
    struct operand x;
    make_operand(&x, n_rows, m->n_cols, tables[0]);
    float *out = allocate((size_t)n_rows * (size_t)m->n_rows * 4);
    double ops = 2.0 * n_rows * m->n_rows * m->n_cols, spent = 0.0;
    int n_turns = 0;
    for (; n_turns < MAX_TURNS && spent < seconds * n_tables; n_turns++)
        for (int t = 0; t < n_tables; t++) {
            double start = now_s(), elapsed;
            int n = 0;
            do {
                multiply(tables[t], m, &x, n_rows, out);
                n++;
                elapsed = now_s() - start;
            } while (elapsed < 1e-3);
            turns[t][n_turns] = ops * n / elapsed / 1e9;
            spent += elapsed;
        }
    printf("  %4d:", n_rows);
    for (int t = 0; t < n_tables; t++) {
        qsort(turns[t], (size_t)n_turns, sizeof turns[t][0], by_value);
        printf(" %5.0f %2.0f%%", turns[t][n_turns / 2], 100.0 * turns[t][n_turns / 2] / top);
    }
    free_operand(&x);
    free(out);
}

static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p != NULL && (p = strstr(p, name)) != NULL; p += n)
        if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == '\0'))
            return true;
    return list == NULL || *list == '\0';
}

int main(int argc, char **argv)
{
    const struct cpu_kernels *const all[] = {
#if defined(__x86_64__)
        &cpu_kernels_avx512, &cpu_kernels_avxvnni, &cpu_kernels_avx2,
#endif
        NULL};
    const struct cpu_kernels *tables[MAX_TABLES];
    int n_tables = 0;
    for (int t = 0; all[t] != NULL && n_tables < MAX_TABLES; t++)
        if (all[t]->supported() && listed(argc > 1 ? argv[1] : NULL, all[t]->name + strlen("cpu:")))
            tables[n_tables++] = all[t];
    if (n_tables == 0) {
        fprintf(stderr, "usage: gemm_rate [table[,table]] [type[,type]] [milliseconds]\n");
        return 2;
    }
    double seconds = argc > 3 ? atof(argv[3]) / 1000.0 : 0.02, top;
    struct limits limits;
    if (limits_measure(1, &limits) != 0)
        return 1;
    top = limits.int8_gops[0];
    printf("Gop/s of one thread by rows; tables:");
    for (int t = 0; t < n_tables; t++)
        printf(" %s", tables[t]->name);
    printf("; the peak of %s: %.0f\n", limits.int8_name, top);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && listed(argc > 2 ? argv[2] : NULL, types[i].name); s++) {
            if (quant_row_bytes(types[i].type, shapes[s][1]) == 0)
                continue;
            struct matrix m = make_matrix(types[i].type, shapes[s][0], shapes[s][1]);
            printf("%-4s %4d x %-4d", types[i].name, shapes[s][0], shapes[s][1]);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                measure(tables, n_tables, &m, rows[r], seconds, top);
            printf("\n");
            free((void *)m.parts[0].w);
        }
    }
    return 0;
}

/* limits.c: plain loops that do nothing but read, or nothing but multiply and add.
 *
 * A limit is the best of several short samples: whatever disturbs a sample makes it worse, never better. The threads of a sample are the backend's
 * own pool; they wait for each other, and each is timed by its own processor time, so that a neighbour who takes a processor away does not lower
 * the machine's limit. The read of given spans (weights) is different: it is held against the time of steps, so it is timed like a step, by the
 * clock on the wall, with work that the quicker thread takes from the slower.
 *
 * A loop for each instruction set is compiled by target attribute and chosen at run time, like the kernels; the C loop is what remains where none
 * fits. Twelve independent accumulators cover the latency of the multiply-adds (4 cycles, 2 a cycle). The instructions stand in volatile asm, lest
 * a compiler see through them. */
#include "bench/limits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "engine/backend/pool.h"

#define SAMPLES 40                           /* many and short: one of them runs undisturbed */
#define SAMPLE_READ_BYTES ((size_t)32 << 20) /* of one sample: small sets are read again and again */
#define PEAK_ROUNDS 400000L                  /* about 0.6 ms */
#define PEAK_CHAINS 12
#define LONGEST_S 0.3 /* of all samples of a limit */
#define MEET_S 0.02
#define LARGEST_BYTES ((size_t)512 << 20)

static double now_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- loops ---- */

/* Reads n bytes, a multiple of 512, from a 64-byte boundary; the sum only keeps the loads alive. */
typedef uint64_t read_fn(const uint8_t *p, size_t n);
/* PEAK_ROUNDS rounds of PEAK_CHAINS multiply-adds. */
typedef void peak_fn(void);

struct loop_set {
    bool (*supported)(void);
    read_fn *read;
    const char *int8_name, *f32_name;
    peak_fn *int8, *f32;
    double int8_ops, f32_ops; /* of one instruction */
};

static uint64_t read_generic(const uint8_t *p, size_t n)
{
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < n; i += 64)
        for (size_t j = 0; j < 8; j++) {
            uint64_t v;
            memcpy(&v, p + i + 8 * j, sizeof v);
            sum[j] += v;
        }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* Vectorised by the compiler as well as it can: what plain C gets. */
static void int8_generic(void)
{
    static const int8_t a[64] = {1, 2, 3, 4}, b[64] = {4, 3, 2, 1};
    int32_t sum = 0;
    for (long i = 0; i < PEAK_ROUNDS * PEAK_CHAINS / 64; i++) {
        for (int j = 0; j < 64; j++)
            sum += a[j] * b[j];
        __asm__ volatile("" : "+r"(sum) : : "memory");
    }
}

static void f32_generic(void)
{
    float acc[64] = {0}, x = 1.0f;
    for (long i = 0; i < PEAK_ROUNDS * PEAK_CHAINS / 64; i++) {
        for (int j = 0; j < 64; j++)
            acc[j] = acc[j] * x + 1e-9f;
        __asm__ volatile("" : : "r"(acc) : "memory");
    }
}

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)

/* Twelve times one instruction, each on its own accumulator. */
#define CHAINS(one, w) one(w, 2) one(w, 3) one(w, 4) one(w, 5) one(w, 6) one(w, 7) one(w, 8) one(w, 9) one(w, 10) one(w, 11) one(w, 12) one(w, 13)
#define LOOP(one, w) \
    do { \
        long n = PEAK_ROUNDS; \
        __asm__ volatile("vpxor %%xmm0, %%xmm0, %%xmm0\n vpxor %%xmm1, %%xmm1, %%xmm1\n" \
                         "1:\n" CHAINS(one, w) "dec %0\n jnz 1b\n" \
                         : "+r"(n) \
                         : \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
                           "xmm13"); \
    } while (0)
#define DPBUSD(w, i) "vpdpbusd %%" #w "mm0, %%" #w "mm1, %%" #w "mm" #i "\n"
#define MADDUBS(w, i) "vpmaddubsw %%" #w "mm0, %%" #w "mm1, %%" #w "mm" #i "\n"
#define FMA(w, i) "vfmadd231ps %%" #w "mm0, %%" #w "mm1, %%" #w "mm" #i "\n"

__attribute__((target("avx512f,avx512vnni"))) static void int8_avx512(void)
{
    LOOP(DPBUSD, z);
}

__attribute__((target("avx512f"))) static void f32_avx512(void)
{
    LOOP(FMA, z);
}

__attribute__((target("avx2"))) static void int8_avx2(void)
{
    LOOP(MADDUBS, y);
}

__attribute__((target("avx2,fma"))) static void f32_avx2(void)
{
    LOOP(FMA, y);
}

__attribute__((target("avx512f"))) static uint64_t read_avx512(const uint8_t *p, size_t n)
{
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t i = 0; i < n; i += 512)
        for (int j = 0; j < 8; j++)
            sum[j % 4] = _mm512_add_epi64(sum[j % 4], _mm512_load_si512(p + i + 64 * j));
    return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}

__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t n)
{
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t i = 0; i < n; i += 256)
        for (int j = 0; j < 8; j++)
            sum[j % 4] = _mm256_add_epi64(sum[j % 4], _mm256_load_si256((const __m256i *)(p + i + 32 * j)));
    __m256i all = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
    return (uint64_t)_mm256_extract_epi64(all, 0) + (uint64_t)_mm256_extract_epi64(all, 2);
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#endif

static const struct loop_set loop_sets[] = {
#if defined(__x86_64__)
    {has_avx512, read_avx512, "vpdpbusd zmm", "vfmadd231ps zmm", int8_avx512, f32_avx512, 128, 32},
    {has_avx2, read_avx2, "vpmaddubsw ymm", "vfmadd231ps ymm", int8_avx2, f32_avx2, 64, 16},
#endif
    {always, read_generic, "plain C", "plain C", int8_generic, f32_generic, 2, 2}, /* last */
};

static const struct loop_set *loops_choose(void)
{
    int i = 0;
    while (!loop_sets[i].supported())
        i++;
    return &loop_sets[i];
}

/* ---- reading given spans ---- */

struct reading {
    const struct loop_set *loops;
    const struct limits_span *spans;
    int n_spans, n_shares;
    uint64_t *sums; /* [n_shares], so that reads are of use */
};

/* Share i of every span. */
static void read_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    const struct reading *s = ctx;
    for (int i = first; i < last; i++)
        for (int k = 0; k < s->n_spans; k++) {
            size_t n = s->spans[k].bytes / 512, from = n * (size_t)i / (size_t)s->n_shares, to = n * (size_t)(i + 1) / (size_t)s->n_shares;
            s->sums[i] += s->loops->read((const uint8_t *)s->spans[k].base + 512 * from, 512 * (to - from));
        }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int limits_read(int n_threads, const struct limits_span *spans, int n_spans, int n_passes, double *median_gbps_out, double *best_gbps_out)
{
    struct err err;
    struct pool *pool = NULL;
    double bytes = 0, *t = calloc((size_t)n_passes, sizeof *t);
    struct reading s = {.loops = loops_choose(), .spans = spans, .n_spans = n_spans, .n_shares = 16 * n_threads};
    s.sums = calloc((size_t)s.n_shares, sizeof *s.sums);
    int rc = t == NULL || s.sums == NULL || pool_create(n_threads, &pool, &err) != 0 ? -1 : 0;
    if (rc == 0) {
        for (int i = 0; i < n_spans; i++)
            bytes += (double)(spans[i].bytes / 512 * 512);
        for (int i = 0; i < n_passes; i++) {
            double start = now_s(CLOCK_MONOTONIC);
            pool_run(pool, s.n_shares, 1, read_items, &s);
            t[i] = now_s(CLOCK_MONOTONIC) - start;
        }
        qsort(t, (size_t)n_passes, sizeof *t, by_value);
        *median_gbps_out = bytes / t[n_passes / 2] / 1e9;
        *best_gbps_out = bytes / t[0] / 1e9;
    }
    pool_destroy(pool);
    free(s.sums);
    free(t);
    return rc;
}

/* ---- limits ---- */

struct sample {
    const struct loop_set *loops;
    peak_fn *peak;         /* or NULL: read */
    const uint8_t *memory; /* of n_bytes, cut into one share a thread */
    size_t n_bytes;
    int n_threads, n_reps;
    double work;           /* of a thread, in 10^9 operations or bytes */
    atomic_int n_here;
    atomic_bool together;
    double *rate;          /* [n_threads] work a second */
    _Atomic uint64_t sum;  /* so that reads are of use */
};

/* True when all threads are here. */
static bool meet(struct sample *s)
{
    double end = now_s(CLOCK_MONOTONIC) + MEET_S;
    atomic_fetch_add(&s->n_here, 1);
    while (atomic_load(&s->n_here) < s->n_threads)
        if (now_s(CLOCK_MONOTONIC) > end)
            return false;
    return true;
}

static void sample_items(void *ctx, int thread, int first, int last)
{
    (void)thread;
    struct sample *s = ctx;
    for (int i = first; i < last; i++) {
        if (!meet(s))
            atomic_store(&s->together, false);
        size_t n = s->n_bytes / (size_t)s->n_threads / 512 * 512;
        double start = now_s(CLOCK_THREAD_CPUTIME_ID);
        if (s->peak != NULL)
            s->peak();
        else
            for (int rep = 0; rep < s->n_reps; rep++)
                s->sum += s->loops->read(s->memory + (size_t)i * n, n);
        s->rate[i] = s->work / (now_s(CLOCK_THREAD_CPUTIME_ID) - start);
    }
}

/* The best sum of the threads' rates; 0 where they never came together. */
static double best_rate(struct pool *pool, struct sample *s)
{
    double best = 0, end = now_s(CLOCK_MONOTONIC) + LONGEST_S;
    for (int i = 0; i < SAMPLES && now_s(CLOCK_MONOTONIC) < end; i++) {
        double rate = 0;
        atomic_store(&s->n_here, 0);
        atomic_store(&s->together, true);
        pool_run(pool, s->n_threads, 1, sample_items, s);
        for (int t = 0; t < s->n_threads; t++)
            rate += s->rate[t];
        best = atomic_load(&s->together) && rate > best ? rate : best;
    }
    return best;
}

/* Fills column `way` (0: one thread, 1: all) of *out. */
static int measure(int n_threads, int way, const uint8_t *memory, struct limits *out)
{
    struct err err;
    struct pool *pool = NULL;
    struct sample s = {.loops = loops_choose(), .memory = memory, .n_threads = n_threads};
    s.rate = calloc((size_t)n_threads, sizeof *s.rate);
    if (s.rate == NULL || pool_create(n_threads, &pool, &err) != 0) {
        free(s.rate);
        return -1;
    }
    s.peak = s.loops->int8;
    s.work = (double)PEAK_ROUNDS * PEAK_CHAINS / 1e9 * s.loops->int8_ops;
    out->int8_gops[way] = best_rate(pool, &s);
    s.peak = s.loops->f32;
    s.work = (double)PEAK_ROUNDS * PEAK_CHAINS / 1e9 * s.loops->f32_ops;
    out->f32_gops[way] = best_rate(pool, &s);
    s.peak = NULL;
    for (int i = 0; i < LIMITS_SIZES; i++) {
        s.n_bytes = out->read_bytes[i];
        s.n_reps = s.n_bytes < SAMPLE_READ_BYTES ? (int)(SAMPLE_READ_BYTES / s.n_bytes) : 1;
        s.work = (double)(s.n_bytes / (size_t)n_threads / 512 * 512) * s.n_reps / 1e9;
        out->read_gbps[i][way] = best_rate(pool, &s);
    }
    pool_destroy(pool);
    free(s.rate);
    return 0;
}

int limits_measure(int n_threads, struct limits *out)
{
    static const size_t kib[LIMITS_SIZES] = {512, 2048, 8192, 32768, 131072, LARGEST_BYTES >> 10};
    const struct loop_set *loops = loops_choose();
    void *memory = mmap(NULL, LARGEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -1;
    madvise(memory, LARGEST_BYTES, MADV_HUGEPAGE); /* as the weights lie */
    memset(memory, 1, LARGEST_BYTES);
    *out = (struct limits){.n_threads = n_threads, .int8_name = loops->int8_name, .f32_name = loops->f32_name};
    for (int i = 0; i < LIMITS_SIZES; i++)
        out->read_bytes[i] = kib[i] << 10;
    int rc = measure(1, 0, memory, out) != 0 || measure(n_threads, 1, memory, out) != 0 ? -1 : 0;
    munmap(memory, LARGEST_BYTES);
    return rc;
}

double limits_read_gbps(const struct limits *l, size_t bytes)
{
    int i = 0;
    while (i + 1 < LIMITS_SIZES && l->read_bytes[i + 1] <= bytes)
        i++;
    return l->read_gbps[i][1];
}

void limits_print(const struct limits *l)
{
    printf("limits                                  1 thread   %2d threads\n", l->n_threads);
    printf("  int8, %-16s    Gop/s      %8.0f     %8.0f\n", l->int8_name, l->int8_gops[0], l->int8_gops[1]);
    printf("  f32,  %-16s    Gop/s      %8.0f     %8.0f\n", l->f32_name, l->f32_gops[0], l->f32_gops[1]);
    for (int i = 0; i < LIMITS_SIZES; i++)
        printf("  read %7zu KiB                  GB/s   %8.1f     %8.1f\n", l->read_bytes[i] >> 10, l->read_gbps[i][0], l->read_gbps[i][1]);
}

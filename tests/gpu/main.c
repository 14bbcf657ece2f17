/* main.c: gpu_check, which says whether a GPU computes the CPU's bits, where not, and how fast it is. scripts/gpu-check runs it.
 *
 *     gpu_check [--device cuda:0] [--golden FILE] [--dir DIR] [--cases cheap|all|NAME,...] [--rate no|short|full] [--emulated] [MODEL.gguf ...]
 *     gpu_check --write FILE      computes all cases on the CPU and writes what they must give
 *
 * A device that failed serves its process no more. So each case has a process of its own (--child, which checks what it is given and prints nothing
 * else), and the walk of one that failed another (--walk FILE, for the steps of case --cases or of a real model).
 *
 * Each case of cases.c is written to DIR, computed by this machine's CPU and by the GPU, and both are held against FILE. Where the GPU differs, the
 * steps are walked again to the first operation, row and value that does. Real models are held against the CPU alone. One line a case; the last line
 * is `N passed, N failed`. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/gpu/cases.h"
#include "tests/gpu/device.h"
#include "tests/gpu/draws.h"
#include "tests/gpu/rate.h"
#include "tests/gpu/walk.h"

#define N_PROMPT_REAL 40
#define N_WIDE_REAL 33
#define CHILD_SECONDS 150 /* of a process, at most */

struct options {
    const char *program, *device, *golden, *dir, *cases, *rate, *write, *walk;
    char *const *models;
    int n_models, n_threads;
    bool emulated, child;
};

struct tally {
    int passed, failed;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The one place where a verdict is printed and counted. */
__attribute__((format(printf, 3, 4))) static void verdict(struct tally *t, bool ok, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%s ", ok ? "ok  " : "FAIL");
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
    *(ok ? &t->passed : &t->failed) += 1;
}

/* Runs this program once more, for one case or file; its exit status, or 128 and a signal. It prints its own verdict. */
static int run_child(const struct options *o, const char *cases, const char *walk_path, const char *model)
{
    const char *argv[20] = {o->program, "--child", "--device", o->device, "--golden", o->golden, "--dir", o->dir, "--cases", cases, "--rate", "no"};
    int n = 12, status = 0;
    if (o->emulated)
        argv[n++] = "--emulated";
    if (walk_path != NULL) {
        argv[n++] = "--walk";
        argv[n++] = walk_path;
    }
    argv[n] = model;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS); /* which outlives the exec */
        execv("/proc/self/exe", (char *const *)argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What a child's exit status means; it has said the rest itself. */
static void count_child(struct tally *t, const char *name, int status)
{
    if (status == 0)
        t->passed++;
    else if (status == 1)
        t->failed++;
    else if (status == 128 + SIGALRM)
        verdict(t, false, "%s: did not end in %d s", name, CHILD_SECONDS);
    else
        verdict(t, false, "%s: its process ended with status %d", name, status);
}

/* ---- what must come out ---- */

/* The number of a case's step, which stands in a line `case step number`. */
static bool golden_of(const char *file, const char *name, const char *step, uint64_t *out)
{
    char line[200], c[64], s[64];
    bool found = false;
    FILE *f = fopen(file, "r");
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        unsigned long long h;
        found = sscanf(line, "%63s %63s %llx", c, s, &h) == 3 && strcmp(c, name) == 0 && strcmp(s, step) == 0;
        if (found)
            *out = h;
    }
    if (f != NULL)
        fclose(f);
    return found;
}

/* Of the steps, and last of what was drawn. */
#define N_RESULTS (CASE_STEPS + 1)
struct results {
    uint64_t hash[N_RESULTS];
    char name[N_RESULTS][32];
    struct drawn_row drawn[N_DRAWS];
    int n_left; /* draws that the device left to the host */
};

static int compute(struct world *w, struct results *out, struct err *err)
{
    for (int i = 0; i < CASE_STEPS; i++)
        if (world_run(w, i, &out->hash[i], out->name[i], sizeof out->name[i], err) != 0)
            return -1;
    snprintf(out->name[CASE_STEPS], sizeof out->name[CASE_STEPS], "%d-drawn", CASE_STEPS);
    if (world_draw(w, out->drawn, &out->n_left, err) != 0)
        return -1;
    out->hash[CASE_STEPS] = draws_hash(out->drawn);
    return 0;
}

static int compute_file(const struct options *o, const char *path, const char *device, int n_prompt, int n_wide, struct results *out,
                        struct err *err)
{
    struct world w;
    if (world_open(&w, path, device, o->n_threads, n_prompt, n_wide, err) != 0)
        return -1;
    int rc = compute(&w, out, err);
    world_close(&w);
    return rc;
}

/* ---- one model ---- */

static void tell_draws(const struct results *want, const struct results *got)
{
    for (int i = 0; i < N_DRAWS; i++) {
        const struct drawn_row *a = &want->drawn[i], *b = &got->drawn[i];
        if (memcmp(a, b, sizeof *a) == 0)
            continue;
        printf("       first difference: drawing by %s: token %d at %a, must be %d at %a", draw_name(i), b->id, (double)b->logprob, a->id,
               (double)a->logprob);
        for (int k = 0; k < DRAW_MAX_TOP; k++)
            if (a->top_id[k] != b->top_id[k] || memcmp(&a->top[k], &b->top[k], sizeof a->top[k]) != 0) {
                printf("; of the most likely, %d is %d at %a, must be %d at %a", k, b->top_id[k], (double)b->top[k], a->top_id[k], (double)a->top[k]);
                break;
            }
        printf("\n");
        return;
    }
}

/* The child that find_difference runs. */
static int walk_file(const struct options *o, const char *path, int n_prompt, int n_wide)
{
    struct world cpu = {0}, gpu = {0};
    struct difference d = {0};
    struct err err;
    char eager[64];
    snprintf(eager, sizeof eager, "%s:eager", o->device);
    if (world_open(&cpu, path, "cpu", o->n_threads, n_prompt, n_wide, &err) != 0 ||
        world_open(&gpu, path, eager, o->n_threads, n_prompt, n_wide, &err) != 0 ||
        walk(&cpu, &peek_cpu, &gpu, &peek_cuda, NULL, NULL, &d, &err) != 0)
        printf("       walking it, operation by operation: %s\n", err.msg);
    else if (d.found)
        printf("       first difference: %s\n", d.text);
    else
        printf("       operation by operation all is equal: only captured steps, or the order of launches, make the difference\n");
    world_close(&cpu);
    world_close(&gpu);
    return 0;
}

/* In a process of its own: the device may have failed here. `name`: the case, or of a real model's file. */
static void find_difference(const struct options *o, const char *name, const char *path)
{
    int status = run_child(o, name, path, NULL);
    if (status != 0)
        printf("       walking it, operation by operation: the process ended with status %d\n", status);
}

/* Computes the file on both; `golden` NULL: the CPU is the measure. */
static void check_model(const struct options *o, struct tally *t, const char *name, const char *path, int n_prompt, int n_wide,
                        const char *golden)
{
    static struct results cpu, gpu;
    struct err err;
    double start = now_s(), cpu_s;
    const char *bad = NULL;
    if (compute_file(o, path, "cpu", n_prompt, n_wide, &cpu, &err) != 0) {
        verdict(t, false, "%s: %s", name, err.msg);
        return;
    }
    cpu_s = now_s() - start;
    for (int i = 0; i < N_RESULTS && golden != NULL; i++) {
        uint64_t want = 0;
        bool known = golden_of(golden, name, cpu.name[i], &want);
        if (known && want == cpu.hash[i])
            continue;
        verdict(t, false, "%s: step %s: this machine's CPU computes %016llx; %s %s %016llx", name, cpu.name[i], (unsigned long long)cpu.hash[i],
                golden, known ? "says" : "does not know it:", (unsigned long long)want);
        return;
    }
    start = now_s();
    if (compute_file(o, path, o->device, n_prompt, n_wide, &gpu, &err) != 0) {
        verdict(t, false, "%s: %s", name, err.msg);
        find_difference(o, name, path);
        return;
    }
    for (int i = N_RESULTS - 1; i >= 0; i--)
        if (cpu.hash[i] != gpu.hash[i])
            bad = cpu.name[i];
    verdict(t, bad == NULL, "%-22s %d steps%s%s, %d of %d draws left to the host, %.2f s on the CPU, %.2f s on %s", name, CASE_STEPS,
            bad == NULL ? "" : "; not the CPU's bits from step ", bad == NULL ? "" : bad, gpu.n_left, N_DRAWS, cpu_s, now_s() - start, o->device);
    if (bad != NULL && bad == cpu.name[CASE_STEPS])
        tell_draws(&cpu, &gpu);
    else if (bad != NULL)
        find_difference(o, name, path);
}

static bool wanted(const struct options *o, const struct check_case *c)
{
    size_t n = strlen(c->model.name);
    for (const char *at = o->cases; (at = strstr(at, c->model.name)) != NULL; at += n)
        if ((at == o->cases || at[-1] == ',') && (at[n] == '\0' || at[n] == ','))
            return true;
    return strcmp(o->cases, "all") == 0 || (strcmp(o->cases, "cheap") == 0 && c->cheap);
}

/* The same for a child and its parent, who removes what a child left that was killed. */
static void case_path(const struct options *o, const char *name, char *out, size_t n)
{
    snprintf(out, n, "%s/gpu_check.%d.%s.gguf", o->dir, (int)(o->child ? getppid() : getpid()), name);
}

static void check_cases_of(const struct options *o, struct tally *t)
{
    for (int i = 0; i < n_check_cases; i++) {
        const struct check_case *c = &check_cases[i];
        char path[400];
        case_path(o, c->model.name, path, sizeof path);
        if (!wanted(o, c))
            continue;
        if (!o->child)
            count_child(t, c->model.name, run_child(o, c->model.name, NULL, NULL));
        else if (random_model_write(&c->model, path) != 0)
            verdict(t, false, "%s: its file cannot be written", c->model.name);
        else
            check_model(o, t, c->model.name, path, c->n_prompt, c->n_wide, o->golden);
        remove(path);
    }
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void check_models_of(const struct options *o, struct tally *t)
{
    for (int i = 0; i < o->n_models; i++) {
        const char *name = base_name(o->models[i]);
        if (o->child)
            check_model(o, t, name, o->models[i], N_PROMPT_REAL, N_WIDE_REAL, NULL);
        else
            count_child(t, name, run_child(o, "no", NULL, o->models[i]));
    }
}

/* The walk's child. */
static int walk_case(const struct options *o)
{
    for (int i = 0; i < n_check_cases; i++)
        if (wanted(o, &check_cases[i]))
            return walk_file(o, o->walk, check_cases[i].n_prompt, check_cases[i].n_wide);
    return walk_file(o, o->walk, N_PROMPT_REAL, N_WIDE_REAL);
}

/* ---- rates ---- */

/* Four layers of an 8B model, beyond the caches of any device. */
static const struct random_model slice = {
    "8b-like, 4 layers", "llama", 41, .n_layers = 4, .d_model = 4096, .d_ff = 14336, .n_head = 32, .n_kv = 8, .head_dim = 128, .n_vocab = 32768,
    .q = TENSOR_Q4_K, .k = TENSOR_Q4_K, .v = TENSOR_Q6_K, .o = TENSOR_Q4_K, .gate = TENSOR_Q4_K, .up = TENSOR_Q4_K, .down = TENSOR_Q6_K,
    .embed = TENSOR_Q4_K, .untied = true, .output = TENSOR_Q6_K};

static void measure_rates(const struct options *o, struct tally *t, const struct gpu_facts *facts, int device)
{
    struct bandwidth b = {.nominal_gbps = facts->nominal_gbps};
    struct err err;
    char path[400];
    bool full = strcmp(o->rate, "full") == 0;
    double seconds = full ? 1.5 : 0.01;
    int context = full ? 512 : 8, prompt = full ? 512 : 8, n_streams = full ? 128 : 8;
    const struct random_model *m = full ? &slice : &check_cases[6].model;
    if (gpu_copy_rate(device, o->emulated, &b.copied_gbps, &err) != 0) {
        verdict(t, false, "rates: %s", err.msg);
        return;
    }
    printf("a copy within the device reads and writes %.0f GB/s", b.copied_gbps);
    if (b.nominal_gbps > 0)
        printf("; by clock and width %.0f GB/s", b.nominal_gbps);
    printf("\n");
    case_path(o, "rate", path, sizeof path);
    if (random_model_write(m, path) != 0 ||
        rate_measure(path, m->name, o->device, o->n_threads, seconds, context, prompt, n_streams, &b, stdout, &err) != 0)
        verdict(t, false, "rates of %s: %s", m->name, err.msg);
    else
        verdict(t, true, "rates of %s", m->name);
    remove(path);
    for (int i = 0; i < o->n_models; i++) {
        const char *name = base_name(o->models[i]);
        if (rate_measure(o->models[i], name, o->device, o->n_threads, seconds, context, prompt, n_streams, &b, stdout, &err) != 0)
            verdict(t, false, "rates of %s: %s", name, err.msg);
        else
            verdict(t, true, "rates of %s", name);
    }
}

/* ---- the program ---- */

static int write_golden(const struct options *o)
{
    FILE *f = fopen(o->write, "w");
    int rc = f != NULL ? 0 : 1;
    if (f != NULL)
        fprintf(f, "# What each step of gpu_check's cases gives, from the CPU backend, numerics %d. Written by `make gpu-golden`.\n",
                NUMERICS_VERSION);
    for (int i = 0; i < n_check_cases && rc == 0; i++) {
        const struct check_case *c = &check_cases[i];
        struct results r;
        struct err err = {0};
        char path[400];
        case_path(o, c->model.name, path, sizeof path);
        if (random_model_write(&c->model, path) != 0 || compute_file(o, path, "cpu", c->n_prompt, c->n_wide, &r, &err) != 0) {
            fprintf(stderr, "%s: %s\n", c->model.name, err.msg);
            rc = 1;
        }
        for (int k = 0; k < N_RESULTS && rc == 0; k++)
            fprintf(f, "%s %s %016llx\n", c->model.name, r.name[k], (unsigned long long)r.hash[k]);
        remove(path);
    }
    if (f != NULL && fclose(f) != 0)
        rc = 1;
    return rc;
}

static int usage(void)
{
    fprintf(stderr, "usage: gpu_check [--device cuda:0] [--golden FILE] [--dir DIR] [--cases cheap|all|NAME,...] [--rate no|short|full] [--emulated] "
                    "[MODEL.gguf ...]\n       gpu_check --write FILE\n");
    return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        const char **to = strcmp(argv[i], "--device") == 0   ? &o->device
                          : strcmp(argv[i], "--golden") == 0 ? &o->golden
                          : strcmp(argv[i], "--dir") == 0    ? &o->dir
                          : strcmp(argv[i], "--cases") == 0  ? &o->cases
                          : strcmp(argv[i], "--rate") == 0   ? &o->rate
                          : strcmp(argv[i], "--write") == 0  ? &o->write
                          : strcmp(argv[i], "--walk") == 0   ? &o->walk
                                                             : NULL;
        if (strcmp(argv[i], "--emulated") == 0)
            o->emulated = true;
        else if (strcmp(argv[i], "--child") == 0)
            o->child = true;
        else if (to == NULL || i + 1 == argc)
            return -1;
        else
            *to = argv[++i];
    }
    o->models = argv + i;
    o->n_models = argc - i;
    return 0;
}

int main(int argc, char **argv)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct options o = {.device = "cuda:0", .golden = "tests/gpu/golden.txt", .dir = "/tmp", .cases = "all", .rate = "full",
                        .n_threads = cores > 16 ? 16 : cores > 0 ? (int)cores : 1};
    struct tally t = {0};
    struct gpu_facts facts;
    struct err err;
    if (parse(argc, argv, &o) != 0)
        return usage();
    o.program = argv[0];
    if (o.write != NULL)
        return write_golden(&o);
    if (o.walk != NULL)
        return walk_case(&o);
    if (o.child) {
        check_cases_of(&o, &t);
        check_models_of(&o, &t);
        return t.failed > 0 || t.passed == 0;
    }
    int device = strchr(o.device, ':') != NULL ? (int)strtol(strchr(o.device, ':') + 1, NULL, 10) : 0;
    if (gpu_describe(device, &facts, &err) != 0) {
        printf("%s: %s\n0 passed, 1 failed\n", o.device, err.msg);
        return 1;
    }
    printf("device %s: %s, compute capability %d.%d, %d SMs, %.1f GB, L2 %.1f MB; driver CUDA %d.%d, runtime %d.%d; numerics %d\n", o.device,
           facts.name, facts.capability / 10, facts.capability % 10, facts.n_sms, (double)facts.memory_bytes / 1e9, facts.l2_bytes / 1e6,
           facts.driver / 1000, facts.driver % 1000 / 10, facts.runtime / 1000, facts.runtime % 1000 / 10, NUMERICS_VERSION);
    check_cases_of(&o, &t);
    check_models_of(&o, &t);
    if (strcmp(o.rate, "no") != 0)
        measure_rates(&o, &t, &facts, device);
    printf("%d passed, %d failed\n", t.passed, t.failed);
    return t.failed == 0 && t.passed > 0 ? 0 : 1;
}

// block.cpp: runs a grid, a block at a time, each thread of a block as a fiber.
//
// A fiber runs until it waits: for its block (__syncthreads) or for its warp (__syncwarp, shuffles, mma, ldmatrix). Then the next runnable one goes
// on, in the schedule's order. So a missing barrier shows as a result that depends on the schedule, and whatever waits for threads that will never
// come is a deadlock that is told with the lines where the threads stand.
//
//   runnable --wait--> waiting --last of the block or warp arrives--> runnable --return--> exited
//
// Two sets of fibers take turns, so that two consecutive blocks never share a fiber: TSan takes them for unordered, as they are, and sees races
// between blocks. Barriers order memory (fiber_release, fiber_acquire), shuffles do not.
//
// Shared memory is filled with the schedule's poison before each block and followed by a canary, which is checked after it and poisoned under ASan.
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>

#include "fiber.h"
#include "internal.h"

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#define POISON_REGION(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON_REGION(p, n) __asan_unpoison_memory_region(p, n)
#else
#define POISON_REGION(p, n) ((void)0)
#define UNPOISON_REGION(p, n) ((void)0)
#endif

#define MAX_THREADS 1024
#define MAX_WARPS (MAX_THREADS / 32)
#define STACK_BYTES (128 << 10)
#define N_SETS 2
#define MAX_ARRAYS 64
#define CANARY_BYTES 128
#define ARENA_BYTES (EMU_MAX_SHARED_BYTES + (MAX_ARRAYS + 1) * (CANARY_BYTES + 16))

struct site {
    const char *what, *file;
    int line;
};

struct thread { // emu_self points at `seen`, the first field
    emu_thread seen;
    struct fiber fiber;
    site at;
};

struct warp {
    unsigned full, runnable, arrived, exited;
    site at;
    // For TSan, an address for the even and one for the odd __syncwarp: a fast lane is at the next one before a slow lane has left the last, and
    // must not tell it what it did in between.
    char barrier[2];
    unsigned n_barriers;
    // Two rounds of values: a fast lane may give its next one before a slow lane has taken the last.
    unsigned char round[32];
    uint64_t value[2][32];
    int fragment[2][32][10]; // mma: a[4], b[2], d[4] of each lane
};

struct array {
    const void *key;
    const char *name;
    char *p;
    size_t n_bytes;
};

struct block {
    uint3 index;
    int n_threads, n_warps, n_waiting, n_exited;
    site at;
    warp warps[MAX_WARPS];
    // Shared memory: arrays in the order of their first use, each followed by a canary.
    array arrays[MAX_ARRAYS];
    int n_arrays;
    size_t used_bytes, shared_bytes;
    char *dynamic;
    // Addresses for TSan: barriers in turns, as in a warp, and the ends of this set's blocks in turns.
    char barrier[2], ends[2];
    unsigned n_barriers, n_run;
    char *arena;
    thread *threads;
    bool started[MAX_THREADS];
};

emu_thread *emu_self;
emu_grid_view emu_grid;

static block sets[N_SETS];
static block *now = &sets[0];
static const emu_call *call_now;
static thread host; // stands for the thread of the process that runs the grid
static thread *running = &host;
static std::map<const void *, size_t> allowed_shared;

void emu_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulated device: ");
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    if (call_now) {
        const uint3 &t = running->seen.index, &b = now->index;
        fprintf(stderr, "  in kernel %s, block (%u, %u, %u), thread (%u, %u, %u)\n", call_now->name, b.x, b.y, b.z, t.x, t.y, t.z);
    }
    abort();
}

bool emu_in_kernel(void)
{
    return call_now != NULL;
}

// ---- who goes on ----

static void go(thread *to)
{
    thread *from = running;
    if (from == to)
        return;
    running = to;
    emu_self = &to->seen;
    emu_counts.n_switches++;
    fiber_switch(&from->fiber, &to->fiber);
}

static thread *random_runnable(void)
{
    unsigned first = (unsigned)(emu_random() % (unsigned)now->n_warps);
    for (int i = 0; i < now->n_warps; i++) {
        int w = (int)((first + (unsigned)i) % (unsigned)now->n_warps);
        unsigned set = now->warps[w].runnable;
        if (!set)
            continue;
        for (unsigned k = (unsigned)(emu_random() % (unsigned)__builtin_popcount(set)); k; k--)
            set &= set - 1;
        return now->threads + w * 32 + __builtin_ctz(set);
    }
    return NULL;
}

// The runnable thread after (forward) or before (reverse) the running one, around the block; NULL if there is none.
static thread *next_runnable(void)
{
    if (emu_schedule == EMULATOR_RANDOM)
        return random_runnable();
    bool forward = emu_schedule == EMULATOR_FORWARD, from_host = running == &host;
    int n = now->n_warps, warp = from_host ? 0 : running->seen.warp, lane = running->seen.lane;
    for (int i = 0; i <= n; i++) {
        int w = ((forward ? warp + i : warp - i) % n + n) % n;
        unsigned set = now->warps[w].runnable;
        if (i == 0 && !from_host) { // the rest of this warp first, its beginning after all others
            unsigned rest = forward ? (lane == 31 ? 0 : set & ~0u << (lane + 1)) : set & ((1u << lane) - 1);
            set = rest ? rest : n == 1 ? set : 0;
        }
        if (set)
            return now->threads + w * 32 + (forward ? __builtin_ctz(set) : 31 - __builtin_clz(set));
    }
    return NULL;
}

static void tell_deadlock(void)
{
    const uint3 &b = now->index;
    fprintf(stderr, "emulated device: deadlock in kernel %s, block (%u, %u, %u)\n", call_now->name, b.x, b.y, b.z);
    const char *file = NULL;
    int line = 0;
    for (int i = 0; i < now->n_threads; i++) {
        const site &at = now->threads[i].at;
        if (at.what && (at.file != file || at.line != line || i % 32 == 0))
            fprintf(stderr, "  thread %d and on: waits in %s at %s:%d\n", i, at.what, at.file, at.line);
        file = at.file;
        line = at.line;
    }
    abort();
}

static void park(void)
{
    thread *next = next_runnable();
    if (!next)
        tell_deadlock();
    go(next);
}

void emu_maybe_switch(void)
{
    if (emu_schedule == EMULATOR_RANDOM && (emu_random() & 1))
        go(random_runnable());
}

// ---- barriers and exchanges ----

static bool same_site(const site &a, const site &b)
{
    return a.line == b.line && a.what == b.what && a.file == b.file;
}

void emu_barrier(const char *file, int line)
{
    if (line == emu_skipped_line && emu_is_skipped(file))
        return;
    thread *t = running;
    block *b = now;
    site at = {"__syncthreads", file, line};
    char *order = &b->barrier[b->n_barriers & 1];
    fiber_release(order);
    if (b->n_exited)
        emu_die("%s:%d: __syncthreads after %d threads have returned", file, line, b->n_exited);
    if (b->n_waiting && !same_site(b->at, at))
        emu_die("divergent __syncthreads: %s:%d and %s:%d", b->at.file, b->at.line, file, line);
    b->at = t->at = at;
    if (++b->n_waiting == b->n_threads) {
        b->n_waiting = 0;
        b->n_barriers++;
        for (int w = 0; w < b->n_warps; w++)
            b->warps[w].runnable = b->warps[w].full;
        if (emu_schedule == EMULATOR_RANDOM)
            go(random_runnable());
    } else {
        b->warps[t->seen.warp].runnable &= ~(1u << t->seen.lane);
        park();
    }
    t->at.what = NULL;
    fiber_acquire(order);
}

// Waits until all lanes of the warp are here. The last one to come does `last`.
static void arrive(unsigned mask, const char *what, const char *file, int line, void (*last)(warp *, int) = NULL, int round = 0)
{
    thread *t = running;
    int lane = t->seen.lane;
    warp *w = &now->warps[t->seen.warp];
    site at = {what, file, line};
    if (mask != ~0u || w->full != ~0u)
        emu_die("%s:%d: %s with mask %08x in a warp of %08x: only whole warps are emulated", file, line, what, mask, w->full);
    if (w->exited)
        emu_die("%s:%d: %s after lanes %08x of the warp have returned", file, line, what, w->exited);
    if (w->arrived && !same_site(w->at, at))
        emu_die("divergent warp: %s at %s:%d and %s at %s:%d", w->at.what, w->at.file, w->at.line, what, file, line);
    w->at = t->at = at;
    w->arrived |= 1u << lane;
    if (w->arrived == w->full) {
        if (last)
            last(w, round);
        w->arrived = 0;
        w->runnable = w->full;
        if (emu_schedule == EMULATOR_RANDOM)
            go(random_runnable());
    } else {
        unsigned runnable = w->runnable &= ~(1u << lane);
        if (emu_schedule == EMULATOR_FORWARD && (runnable &= ~0u << lane) != 0)
            go(t + (__builtin_ctz(runnable) - lane)); // the common case: the next lane of the warp
        else
            park();
    }
    t->at.what = NULL;
}

static void count_barrier(warp *w, int round)
{
    (void)round;
    w->n_barriers++;
}

void emu_warp_barrier(unsigned mask, const char *file, int line)
{
    if (line == emu_skipped_line && emu_is_skipped(file))
        return;
    warp *w = &now->warps[running->seen.warp];
    char *order = &w->barrier[w->n_barriers & 1];
    fiber_release(order);
    arrive(mask, "__syncwarp", file, line, count_barrier);
    fiber_acquire(order);
}

static int give(uint64_t value)
{
    int lane = running->seen.lane;
    warp *w = &now->warps[running->seen.warp];
    int round = w->round[lane] ^= 1;
    w->value[round][lane] = value;
    return round;
}

uint64_t emu_exchange(unsigned mask, uint64_t value, int from, const char *what, const char *file, int line)
{
    warp *w = &now->warps[running->seen.warp];
    int round = give(value);
    arrive(mask, what, file, line);
    return w->value[round][from & 31];
}

void emu_gather(unsigned mask, uint64_t value, uint64_t *out, const char *what, const char *file, int line)
{
    warp *w = &now->warps[running->seen.warp];
    int round = give(value);
    arrive(mask, what, file, line);
    memcpy(out, w->value[round], sizeof w->value[round]);
}

// mma.m16n8k16 and .m16n8k32, s8 x s8 -> s32. With g = lane / 4 and t = lane % 4 a lane holds
//   A (16 x k)  rows g (even registers) and g + 8 (odd), columns 4 t .. 4 t + 3, registers 2 and 3: 16 columns on
//   B (k x 8)   column g, rows 4 t .. 4 t + 3, register 1: 16 rows on
//   D (16 x 8)  registers 0, 1: row g, columns 2 t, 2 t + 1; registers 2, 3: row g + 8
template <int K> static void multiply(warp *w, int round)
{
    int8_t a[16][32], b[8][32];
    for (int lane = 0; lane < 32; lane++) {
        const int *f = w->fragment[round][lane];
        int g = lane >> 2, at = (lane & 3) * 4;
        for (int half = 0; half < K / 16; half++) {
            memcpy(&a[g][16 * half + at], &f[2 * half], 4);
            memcpy(&a[g + 8][16 * half + at], &f[2 * half + 1], 4);
            memcpy(&b[g][16 * half + at], &f[4 + half], 4);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        int *d = w->fragment[round][lane] + 6;
        for (int i = 0; i < 4; i++) {
            const int8_t *row = a[(lane >> 2) + (i / 2) * 8], *column = b[(lane & 3) * 2 + i % 2];
            int sum = 0;
            for (int j = 0; j < K; j++)
                sum += (int)row[j] * (int)column[j];
            d[i] = (int)((unsigned)d[i] + (unsigned)sum);
        }
    }
}

void emu_mma_s8(int k, int *d, const int *a, const int *b, const char *file, int line)
{
    warp *w = &now->warps[running->seen.warp];
    int round = give(0);
    int *f = w->fragment[round][running->seen.lane];
    for (int i = 0; i < k / 8; i++)
        f[i] = a[i];
    for (int i = 0; i < k / 16; i++)
        f[4 + i] = b[i];
    memcpy(f + 6, d, 16);
    if (k == 32)
        arrive(~0u, "mma.m16n8k32", file, line, multiply<32>, round);
    else
        arrive(~0u, "mma.m16n8k16", file, line, multiply<16>, round);
    memcpy(d, f + 6, 16);
}

// ---- shared memory ----

unsigned char emu_poison(void)
{
    // NaN and -1; 3.4e38 and large, which max() does not swallow; anything.
    return emu_schedule == EMULATOR_FORWARD ? 0xff : emu_schedule == EMULATOR_REVERSE ? 0x7f : (unsigned char)(emu_random() | 0x40);
}

// Not memset: TSan would take it for the fiber's own write.
static void fill(char *p, unsigned char value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        ((volatile char *)p)[i] = (char)value;
}

static char *carve(const void *key, size_t n_bytes, const char *name)
{
    block *b = now;
    if (b->n_arrays == MAX_ARRAYS)
        emu_die("more than %d shared arrays", MAX_ARRAYS);
    size_t rounded = (n_bytes + 15) & ~(size_t)15;
    b->shared_bytes += rounded;
    size_t limit = b->dynamic || key == NULL ? EMU_MAX_SHARED_BYTES : EMU_STATIC_SHARED_BYTES;
    if (b->shared_bytes > limit)
        emu_die("the block uses %zu bytes of shared memory; %zu are the limit", b->shared_bytes, limit);
    char *p = b->arena + b->used_bytes;
    b->used_bytes += rounded + CANARY_BYTES;
    UNPOISON_REGION(p, rounded + CANARY_BYTES);
    fill(p, emu_poison(), n_bytes);
    fill(p + n_bytes, 0xa5, rounded + CANARY_BYTES - n_bytes);
    POISON_REGION(p + n_bytes, rounded + CANARY_BYTES - n_bytes);
    b->arrays[b->n_arrays++] = {key, name, p, n_bytes};
    return p;
}

void *emu_shared(const void *key, size_t n_bytes, const char *name)
{
    const block *b = now;
    for (int i = 0; i < b->n_arrays; i++)
        if (b->arrays[i].key == key)
            return b->arrays[i].p;
    return carve(key, n_bytes, name);
}

void *emu_dynamic_shared(void)
{
    if (!now->dynamic)
        emu_die("the kernel uses dynamic shared memory, the launch gave none");
    return now->dynamic;
}

static void check_canaries(void)
{
    for (int i = 0; i < now->n_arrays; i++) {
        const array *a = &now->arrays[i];
        size_t n = ((a->n_bytes + 15) & ~(size_t)15) + CANARY_BYTES;
        UNPOISON_REGION(a->p, n);
        for (size_t k = a->n_bytes; k < n; k++)
            if ((unsigned char)a->p[k] != 0xa5)
                emu_die("shared array %s of %zu bytes was written at byte %zu", a->name, a->n_bytes, k);
    }
}

void emu_allow_shared(const void *function, size_t n_bytes)
{
    allowed_shared[function] = n_bytes;
}

size_t emu_allowed_shared(const void *function)
{
    auto it = allowed_shared.find(function);
    return it == allowed_shared.end() ? EMU_STATIC_SHARED_BYTES : it->second;
}

// ---- running ----

static void finish_thread(void)
{
    thread *t = running;
    block *b = now;
    warp *w = &b->warps[t->seen.warp];
    w->runnable &= ~(1u << t->seen.lane);
    w->exited |= 1u << t->seen.lane;
    b->n_exited++;
    if (b->n_waiting)
        emu_die("a thread returned while %d wait in __syncthreads at %s:%d", b->n_waiting, b->at.file, b->at.line);
    if (w->arrived)
        emu_die("a thread returned while its warp waits in %s at %s:%d", w->at.what, w->at.file, w->at.line);
    if (b->n_exited == b->n_threads)
        go(&host);
    else
        park();
}

// The life of a fiber: a thread of one block after another of its set.
static void fiber_main(void)
{
    fiber_started();
    for (;;) {
        fiber_acquire(&host);                      // after the launch
        fiber_acquire(&now->ends[~now->n_run & 1]); // after this set's last block
        call_now->run();
        fiber_release(&now->ends[now->n_run & 1]);
        finish_thread();
    }
}

static void *reserve(size_t n_bytes)
{
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        emu_die("no memory for the threads of a block");
    return p;
}

static void start_thread(block *b, int i)
{
    char *stack = (char *)reserve(STACK_BYTES + 4096);
    mprotect(stack, 4096, PROT_NONE);
    // Tops at different places of a page: stacks that all begin alike would fight for the same lines of the caches.
    size_t color = (size_t)i * 320 % 4096 & ~(size_t)15;
    fiber_init(&b->threads[i].fiber, stack + 4096, STACK_BYTES - color, fiber_main);
    b->started[i] = true;
}

static void run_block(const emu_call &call, unsigned x, unsigned y, unsigned z)
{
    block *b = now = &sets[emu_counts.n_blocks++ % N_SETS];
    if (!b->threads) {
        b->threads = (thread *)reserve(MAX_THREADS * sizeof(thread));
        b->arena = (char *)reserve(ARENA_BYTES);
    }
    b->index = emu_grid.index = {x, y, z};
    b->n_threads = (int)(call.block.x * call.block.y * call.block.z);
    b->n_warps = (b->n_threads + 31) / 32;
    b->n_waiting = b->n_exited = b->n_arrays = 0;
    b->used_bytes = b->shared_bytes = 0;
    b->dynamic = NULL;
    b->n_run++;
    emu_counts.n_threads += (unsigned)b->n_threads;
    for (int w = 0; w < b->n_warps; w++) {
        warp *p = &b->warps[w];
        int n = b->n_threads - w * 32;
        p->full = p->runnable = n >= 32 ? ~0u : (1u << n) - 1;
        p->arrived = p->exited = 0;
        memset(p->round, 0, sizeof p->round);
    }
    for (int i = 0; i < b->n_threads; i++) {
        thread *t = &b->threads[i];
        if (!b->started[i])
            start_thread(b, i);
        unsigned u = (unsigned)i;
        t->seen.index = {u % call.block.x, u / call.block.x % call.block.y, u / (call.block.x * call.block.y)};
        t->seen.lane = i & 31;
        t->seen.warp = i >> 5;
        t->seen.n_copies = t->seen.group = 0;
        t->at.what = NULL;
    }
    if (call.shared_bytes)
        b->dynamic = carve(NULL, call.shared_bytes, "(dynamic)");
    go(next_runnable());
    check_canaries();
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    return b ? gcd(b, a % b) : a;
}

const char *emu_label = "";
void (*emu_interpreter)(const emu_call &call);

void emu_run_grid(const emu_call &call)
{
    if (emu_interpreter) {
        emu_counts.n_launches++;
        emu_interpreter(call);
        return;
    }
    uint64_t n = (uint64_t)call.grid.x * call.grid.y * call.grid.z, step = 1, first = 0;
    if (emu_schedule == EMULATOR_RANDOM) { // a walk with a step that shares no factor with n meets each block once
        first = emu_random() % n;
        do
            step = 1 + emu_random() % n;
        while (gcd(step, n) != 1);
    }
    call_now = &call;
    emu_grid.grid = call.grid;
    emu_grid.block = call.block;
    emu_counts.n_launches++;
    fiber_init_thread(&host.fiber);
    fiber_release(&host);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t k = emu_schedule == EMULATOR_REVERSE ? n - 1 - i : (first + i * step) % n;
        uint64_t row = k / call.grid.x;
        run_block(call, (unsigned)(k % call.grid.x), (unsigned)(row % call.grid.y), (unsigned)(row / call.grid.y));
    }
    for (int s = 0; s < N_SETS; s++) {
        fiber_acquire(&sets[s].ends[0]);
        fiber_acquire(&sets[s].ends[1]);
    }
    call_now = NULL;
}

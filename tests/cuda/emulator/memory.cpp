// memory.cpp: the device's memory and pinned memory.
//
// A buffer ends at a page that nobody may touch, so that reading past its end is a fault, and begins after one. The bytes between its end and that
// page (fewer than 16, a buffer's alignment) and before its start hold a canary, and are poisoned under ASan. Device memory is closed (PROT_NONE)
// while host code runs: a host that follows a device pointer faults. It opens when a stream works.
//
// A freed buffer's addresses are not given out again for a while: who still uses them faults.
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>

#include "internal.h"

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#define POISON_REGION(p, n) __asan_poison_memory_region(p, n)
#define UNPOISON_REGION(p, n) __asan_unpoison_memory_region(p, n)
#else
#define POISON_REGION(p, n) ((void)0)
#define UNPOISON_REGION(p, n) ((void)0)
#endif

#define PAGE 4096
#define ALIGNMENT 16
#define CANARY 0xa5
#define MAX_FREED 256
#ifdef EMU_TSAN
#define GUARD_BYTES (64 << 10) // TSan keeps shadow for guards, too
#else
#define GUARD_BYTES (16 << 20) // wide: an index that is wrong is often very wrong
#endif

struct buffer {
    emu_kind kind;
    char *map; // guard, pages, guard
    size_t map_bytes;
    char *p;
    size_t n_bytes;
};

static std::map<const char *, buffer> buffers; // by p
static std::deque<buffer> freed;
static bool is_open, protects, prepared;

static char *pages_of(const buffer &b)
{
    return b.map + GUARD_BYTES;
}

static size_t pages_bytes(const buffer &b)
{
    return b.map_bytes - 2 * (size_t)GUARD_BYTES;
}

static const buffer *find(const void *p)
{
    auto it = buffers.upper_bound((const char *)p);
    if (it == buffers.begin())
        return NULL;
    const buffer &b = (--it)->second;
    return (const char *)p < b.p + b.n_bytes || p == b.p ? &b : NULL;
}

void emu_describe(const void *p)
{
    const char *a = (const char *)p;
    for (const auto &e : buffers) {
        const buffer &b = e.second;
        if (a < b.map || a >= b.map + b.map_bytes)
            continue;
        const char *kind = b.kind == EMU_DEVICE ? "device" : "pinned";
        if (a >= b.p && a < b.p + b.n_bytes)
            fprintf(stderr, "  %p is byte %zu of a %s buffer of %zu bytes%s\n", p, (size_t)(a - b.p), kind, b.n_bytes,
                    is_open ? "" : ", touched by the host");
        else
            fprintf(stderr, "  %p is %zd bytes from the start of a %s buffer of %zu bytes\n", p, (ptrdiff_t)(a - b.p), kind, b.n_bytes);
        return;
    }
    for (const buffer &b : freed)
        if (a >= b.map && a < b.map + b.map_bytes) {
            fprintf(stderr, "  %p is byte %zd of a buffer of %zu bytes that was freed\n", p, (ptrdiff_t)(a - b.p), b.n_bytes);
            return;
        }
    fprintf(stderr, "  %p is no memory of the device\n", p);
}

#if !defined(EMU_ASAN) && !defined(EMU_TSAN)
// Tells what was touched, and ends the program. Not safe in the sense of signal handlers, but there is nothing to save.
static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    signal(signal_number, SIG_DFL);
    fprintf(stderr, "emulated device: fault at %p\n", info->si_addr);
    emu_describe(info->si_addr);
    emu_die("memory fault");
}

// While the device works, faults are its own, whoever else waits for them (cmocka would go on with the next test from within a kernel). Otherwise
// only if nobody does. A fault may be a fiber's end of stack: the handler has a stack of its own.
static void take_faults(bool working)
{
    static struct sigaction before;
    static char stack[64 << 10];
    struct sigaction mine = {};
    mine.sa_sigaction = on_fault;
    mine.sa_flags = SA_SIGINFO | SA_ONSTACK;
    stack_t alternative = {};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    if (working) {
        sigaltstack(&alternative, NULL);
        sigaction(SIGSEGV, &mine, &before);
    } else if (before.sa_handler != SIG_DFL) {
        sigaction(SIGSEGV, &before, NULL);
    }
}
#else
static void take_faults(bool working)
{
    (void)working;
}
#endif

static void prepare(void)
{
    if (prepared)
        return;
    prepared = true;
    const char *e = getenv("EMULATOR_PROTECT");
    protects = !e || strcmp(e, "0") != 0;
    take_faults(true);
    take_faults(false);
}

static void protect(const buffer &b, bool open)
{
    if (protects && b.kind == EMU_DEVICE)
        mprotect(pages_of(b), pages_bytes(b), open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void *emu_alloc(emu_kind kind, size_t n_bytes)
{
    prepare();
    uint64_t &total = kind == EMU_DEVICE ? emu_counts.device_bytes : emu_counts.pinned_bytes;
    if (kind == EMU_DEVICE && (n_bytes > emu_device.memory_bytes || total > emu_device.memory_bytes - n_bytes))
        return NULL;
    buffer b;
    b.kind = kind;
    b.n_bytes = n_bytes;
    size_t rounded = (n_bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1), n_pages = (rounded + PAGE) / PAGE;
    b.map_bytes = n_pages * PAGE + 2 * (size_t)GUARD_BYTES;
    void *map = mmap(NULL, b.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    b.map = (char *)map;
    if (mprotect(pages_of(b), n_pages * PAGE, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, b.map_bytes);
        return NULL;
    }
    b.p = pages_of(b) + n_pages * PAGE - rounded;
    memset(pages_of(b), CANARY, (size_t)(b.p - pages_of(b)));
    memset(b.p, emu_poison(), n_bytes);
    memset(b.p + n_bytes, CANARY, rounded - n_bytes);
    POISON_REGION(pages_of(b), (size_t)(b.p - pages_of(b)));
    POISON_REGION(b.p + n_bytes, rounded - n_bytes);
    protect(b, is_open);
    total += n_bytes;
    (kind == EMU_DEVICE ? emu_counts.n_device_buffers : emu_counts.n_pinned_buffers)++;
    buffers[b.p] = b;
    return b.p;
}

static void check_guard(const buffer &b)
{
    size_t rounded = (b.n_bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1), before = (size_t)(b.p - pages_of(b));
    for (size_t i = b.n_bytes; i < rounded; i++)
        if ((unsigned char)b.p[i] != CANARY)
            emu_die("a buffer of %zu bytes was written at byte %zu", b.n_bytes, i);
    for (size_t i = 1; i <= before && i <= 64; i++)
        if ((unsigned char)b.p[-(ptrdiff_t)i] != CANARY)
            emu_die("a buffer of %zu bytes was written %zu bytes before its start", b.n_bytes, i);
}

void emu_check_guards(void)
{
    for (const auto &e : buffers)
        check_guard(e.second);
}

bool emu_release(emu_kind kind, void *p)
{
    auto it = buffers.find((const char *)p);
    if (it == buffers.end() || it->second.kind != kind)
        return false;
    buffer b = it->second;
    protect(b, true);
    check_guard(b);
    (kind == EMU_DEVICE ? emu_counts.device_bytes : emu_counts.pinned_bytes) -= b.n_bytes;
    (kind == EMU_DEVICE ? emu_counts.n_device_buffers : emu_counts.n_pinned_buffers)--;
    buffers.erase(it);
    // The pages go back, the addresses stay reserved.
    mmap(b.map, b.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    freed.push_back(b);
    if (freed.size() > MAX_FREED) {
        UNPOISON_REGION(pages_of(freed.front()), pages_bytes(freed.front()));
        munmap(freed.front().map, freed.front().map_bytes);
        freed.pop_front();
    }
    return true;
}

void emu_release_all(void)
{
    while (!buffers.empty()) {
        const buffer b = buffers.begin()->second;
        emu_release(b.kind, b.p);
    }
}

bool emu_find_buffer(const void *p, const void **begin_out, size_t *n_bytes_out)
{
    const buffer *b = find(p);
    if (!b)
        return false;
    *begin_out = b->p;
    *n_bytes_out = b->n_bytes;
    return true;
}

bool emu_holds(emu_kind kind, const void *p, size_t n_bytes)
{
    const buffer *b = find(p);
    return b && b->kind == kind && n_bytes <= (size_t)(b->p + b->n_bytes - (const char *)p);
}

void emu_open_memory(void)
{
    if (is_open)
        return;
    is_open = true;
    take_faults(true);
    for (const auto &e : buffers)
        protect(e.second, true);
}

void emu_close_memory(void)
{
    if (!is_open)
        return;
    emu_check_guards();
    is_open = false;
    for (const auto &e : buffers)
        protect(e.second, false);
    take_faults(false);
}

// ---- what a kernel may be given ----

// The end of a buffer is a pointer, too: where an empty part of it lies.
static bool is_ours(const void *p)
{
    return find(p) || find((const char *)p - 1);
}

void emu_check_pointer(const char *kernel, int arg, const void *p)
{
    if (!p || is_ours(p))
        return;
    emu_describe(p);
    emu_die("argument %d of kernel %s is not the device's memory: %p", arg, kernel, p);
}

// A struct of pointers: words that are addresses of mapped memory, but not of the device's, are pointers that went astray. Programs, heaps and stacks
// lie from PROGRAMS on; below, two small ints look like addresses, and sanitizers keep their shadow there.
#define PROGRAMS 0x550000000000u

void emu_check_bytes(const char *kernel, int arg, const void *bytes, size_t n_bytes)
{
    for (size_t at = 0; at + 8 <= n_bytes; at += 8) {
        uint64_t word;
        memcpy(&word, (const char *)bytes + at, 8);
        if (n_bytes < 16 || word < PROGRAMS || word >> 47 || is_ours((const void *)word))
            continue;
        unsigned char resident;
        if (mincore((void *)(word & ~(uint64_t)(PAGE - 1)), 1, &resident) == 0) {
            emu_describe((const void *)word);
            emu_die("argument %d of kernel %s holds at byte %zu a pointer that is not the device's: %p", arg, kernel, at, (void *)word);
        }
    }
}

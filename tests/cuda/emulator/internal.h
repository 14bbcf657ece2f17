// internal.h: what the emulator's files know of each other. One lock, emu_mutex, is held in every call of the API; everything below is under it.
#ifndef NEXTD_EMULATOR_INTERNAL_H
#define NEXTD_EMULATOR_INTERNAL_H

#include <functional>
#include <memory>
#include <mutex>

#include "emulator.h"
#include "kernel.h"

extern std::recursive_mutex emu_mutex;
extern emulator_counts emu_counts;
extern emulator_schedule emu_schedule;
extern emulator_device emu_device;

// ---- runtime.cpp: errors and injected failures ----

enum emu_need {
    EMU_ANY,    // legal at every time
    EMU_UNSAFE, // illegal while a stream captures: it allocates, frees or waits
};
// The beginning of every call: the sticky error if there is one, cudaErrorInsufficientDriver, or what a capture makes of an unsafe call.
cudaError_t emu_enter(emu_need need);
// Remembers an error for cudaGetLastError, and returns it.
cudaError_t emu_error(cudaError_t error);
void emu_set_sticky(cudaError_t error);
cudaError_t emu_sticky(void);
// Counts one allocation, one executed operation: true when this one is to fail.
bool emu_malloc_fails(void);
bool emu_operation_faults(void);
uint64_t emu_random(void); // of the schedule's seed

#define EMU_ENTER(need)                                      \
    std::lock_guard<std::recursive_mutex> lock(emu_mutex);   \
    do {                                                     \
        cudaError_t entered = emu_enter(need);               \
        if (entered != cudaSuccess)                          \
            return entered;                                  \
    } while (0)

// ---- memory.cpp ----

enum emu_kind { EMU_DEVICE, EMU_PINNED };
// NULL: not enough of it.
void *emu_alloc(emu_kind kind, size_t n_bytes);
bool emu_release(emu_kind kind, void *p); // false: never allocated
// Whether [p, p + n) lies in one buffer of that kind.
bool emu_holds(emu_kind kind, const void *p, size_t n_bytes);
void emu_release_all(void);
// While the device works its memory is open; while host code runs it is not.
void emu_open_memory(void);
void emu_close_memory(void);
// The buffer of either kind that an address lies in; false: none.
bool emu_find_buffer(const void *p, const void **begin_out, size_t *n_bytes_out);
// Dies if a buffer was written past its end.
void emu_check_guards(void);
// Prints where an address lies.
void emu_describe(const void *p);

// ---- block.cpp ----

void emu_run_grid(const emu_call &call);
// Runs a grid in the place of the fibers (tests/cuda/ptx/device.cpp); NULL: none does.
extern void (*emu_interpreter)(const emu_call &call);
bool emu_in_kernel(void);
// The dynamic shared memory that a kernel may ask for beyond 48 KiB.
void emu_allow_shared(const void *function, size_t n_bytes);
size_t emu_allowed_shared(const void *function);

// ---- stream.cpp ----

void emu_drop_streams(void); // forgets all pending work
void emu_synchronize_all(void);
// What a capture in progress says to an unsafe call: cudaSuccess, or the error; the capture is then invalid.
cudaError_t emu_capture_forbids(void);
// The schedule's chance to run some pending work.
void emu_maybe_progress(void);

#define EMU_STATIC_SHARED_BYTES (48 << 10)
#define EMU_MAX_SHARED_BYTES (99 << 10) // of compute capability 8.6, 8.9, 12.0: the least of what is supported

#endif

// fiber.cpp: the switch and its annotations. EMU_ASAN and EMU_TSAN say what the kernels are built with; this file itself is never instrumented.
#include "fiber.h"

#include <stdint.h>

#ifdef EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// fiber_swap(void **sp_out, void *sp): pushes the callee-saved registers, changes stacks, pops the other's.
#if defined(__x86_64__)
extern "C" void fiber_swap(void **sp_out, void *sp);
asm(".text\n"
    ".globl fiber_swap\n"
    ".hidden fiber_swap\n"
    ".type fiber_swap,@function\n"
    "fiber_swap:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size fiber_swap,.-fiber_swap\n");
#else
#error "the emulated device has a fiber switch for x86-64 only"
#endif

#ifdef EMU_ASAN
// The stack that the first fiber of a round was entered from: the thread's own. ASan tells it at the first arrival.
static struct fiber *entered_from;
#endif

void fiber_init(struct fiber *f, char *stack, size_t n_bytes, void (*entry)(void))
{
    f->stack = stack;
    f->n_bytes = n_bytes;
    f->fake_stack = NULL;
    // `entry` finds the stack as after a call: its return address, which nobody takes, 8 bytes below a multiple of 16.
    void **sp = (void **)(stack + n_bytes);
    *--sp = NULL;
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--sp = NULL;
    f->sp = sp;
#ifdef EMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
}

void fiber_init_thread(struct fiber *f)
{
    *f = fiber();
#ifdef EMU_TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
}

void fiber_started(void)
{
#ifdef EMU_ASAN
    const void *stack;
    size_t n_bytes;
    __sanitizer_finish_switch_fiber(NULL, &stack, &n_bytes);
    if (entered_from && !entered_from->stack) {
        entered_from->stack = (char *)(uintptr_t)stack;
        entered_from->n_bytes = n_bytes;
    }
#endif
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
#ifdef EMU_ASAN
    entered_from = from;
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->n_bytes);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    fiber_swap(&from->sp, to->sp);
#ifdef EMU_ASAN
    const void *stack;
    size_t n_bytes;
    __sanitizer_finish_switch_fiber(from->fake_stack, &stack, &n_bytes);
    if (!entered_from->stack) {
        entered_from->stack = (char *)(uintptr_t)stack;
        entered_from->n_bytes = n_bytes;
    }
#endif
}

void fiber_release(void *at)
{
#ifdef EMU_TSAN
    __tsan_release(at);
#else
    (void)at;
#endif
}

void fiber_acquire(void *at)
{
#ifdef EMU_TSAN
    __tsan_acquire(at);
#else
    (void)at;
#endif
}

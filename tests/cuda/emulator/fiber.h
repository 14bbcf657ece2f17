// fiber.h: stacks that run in turns on one thread of the process. A switch saves six registers; it costs about 3 ns.
//
// Sanitizers are told of every switch. Under TSan a switch orders nothing: what one fiber wrote and another reads is a race unless a barrier of the
// emulator said otherwise (emu_release, emu_acquire), although both ran on one thread.
#ifndef NEXTD_EMULATOR_FIBER_H
#define NEXTD_EMULATOR_FIBER_H

#include <stddef.h>

struct fiber {
    void *sp;         // while it does not run
    char *stack;      // lowest byte; NULL: the fiber of a thread of the process
    size_t n_bytes;
    void *fake_stack; // ASan's
    void *tsan;       // TSan's
};

// A stack of n_bytes at `stack`, which will run `entry` at its first turn. `entry` calls fiber_started first and never returns.
void fiber_init(struct fiber *f, char *stack, size_t n_bytes, void (*entry)(void));
// Makes *f stand for the calling thread, which is about to switch away.
void fiber_init_thread(struct fiber *f);
void fiber_started(void);
void fiber_switch(struct fiber *from, struct fiber *to);

// TSan: what happened before a release at an address happened before what follows an acquire there. Nothing otherwise.
void fiber_release(void *at);
void fiber_acquire(void *at);

#endif

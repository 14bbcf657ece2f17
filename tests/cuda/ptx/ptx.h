/* ptx.h: runs the PTX that nvcc emitted, on the CPU.
 *
 * Why: the emulated device compiles the kernels' source with g++, so it can say nothing about what nvcc made of them: the operands of inline
 * assembly, an order of operations that the compiler changed, a contraction, a conversion. This interpreter executes nvcc's own output, so that its
 * bits can be compared with those of the CPU backend. It models results, not time.
 *
 * How: a module is parsed once; every operand becomes a row of the register file (one value per lane), immediates and special registers too. A warp
 * executes an instruction for all its lanes at once. Lanes that took different branches are executed group by group, the one furthest behind first,
 * and meet again where their instructions do. A warp runs until a barrier of the block, or to its end.
 *
 * What is an error, always with the kernel, the instruction, the block and the first lane concerned: an opcode that is not known (when the module is
 * loaded), a misaligned or out-of-bounds access, a shuffle, vote or mma that not all lanes of the warp reach, barriers that not all threads reach or
 * that differ, a division by zero. Shared memory begins as 0xff bytes; the target of a cp.async is 0xff until it is waited for.
 * What is not modelled: blocks at the same time, caches, memory order, time. Named barriers and partial masks are refused. */
#ifndef NEXTD_TEST_PTX_H
#define NEXTD_TEST_PTX_H

#include "counts.h"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ptx {

struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct dim {
    unsigned x, y, z;
};

struct argument {
    const void *value;
    size_t n_bytes;
};

/* One stretch of memory that kernels may access. */
struct range {
    uintptr_t begin, end;
};

/* Finds the stretch that holds an address; false: none does. Without a finder every address outside shared memory is taken as valid. */
typedef bool (*range_finder)(uintptr_t address, range *range_out);
void find_ranges_with(range_finder finder);

struct program; // program.h

struct launch_options {
    bool backwards = false;       // blocks, and warps within a block, in descending order
    uint64_t most_blocks = 0;     // runs at most so many, spread over the grid: for counting; 0: all
    counts *counts_out = nullptr; // counted if given
};


/* A parsed .ptx file. Throws error. */
class module {
public:
    explicit module(const std::string &path);
    ~module();
    bool has(const std::string &kernel) const;
    std::vector<std::string> kernels() const;
    /* Runs every block of the grid. `arguments` in the kernel's order; dynamic shared memory in bytes. Throws error. */
    void launch(const std::string &kernel, dim grid, dim block, size_t shared_bytes, const std::vector<argument> &arguments,
                const launch_options &options = launch_options()) const;

private:
    std::unique_ptr<program> program_;
};

/* Instructions executed since the start, counted per lane. */
uint64_t n_executed();

} // namespace ptx

#endif

/* counts.h: how often a launch issues instructions of each class, and what its accesses to memory cost a device.
 *
 * The k-th execution of one instruction by the lanes of a warp is one issue, and of a memory instruction one request, also where lanes come to it
 * apart: what diverged lanes cost beyond that is not counted. Instructions are PTX's, not the processor's: a division is one, moves are many.
 *
 * A request to global memory is charged the 32-byte sectors that it touches; `least_sectors` is what its distinct bytes would need side by side. A
 * request to shared memory is cut into phases of as many lanes as 128 bytes hold (a matrix of ldmatrix is one); in a phase each of the 32 banks gives
 * one word of 4 bytes at a time, so it takes as many turns as some bank has distinct words to give. */
#ifndef NEXTD_TEST_PTX_COUNTS_H
#define NEXTD_TEST_PTX_COUNTS_H

#include <cstdint>
#include <string>
#include <vector>

namespace ptx {

enum issue_class {
    ISSUE_F32, ISSUE_F64, ISSUE_ALU, ISSUE_IMAD, ISSUE_DP4A, ISSUE_CONVERT, ISSUE_BITS, ISSUE_DIVIDE, ISSUE_SHUFFLE, ISSUE_MMA_K16, ISSUE_MMA_K32,
    ISSUE_LDMATRIX, ISSUE_GLOBAL_LOAD, ISSUE_GLOBAL_STORE, ISSUE_SHARED_LOAD, ISSUE_SHARED_STORE, ISSUE_COPY, ISSUE_ATOMIC, ISSUE_LOCAL, ISSUE_PARAM,
    ISSUE_BARRIER, ISSUE_BRANCH, ISSUE_MOVE, N_ISSUE_CLASSES
};
const char *issue_class_name(int c);
/* Of an opcode that the interpreter knows. */
issue_class issue_class_of(const std::string &opcode);

struct global_counts {
    uint64_t requests, bytes /* of all lanes */, sectors, least_sectors;
};

struct shared_counts {
    uint64_t requests, bytes, phases, turns;
    uint64_t most_ways; /* turns of the worst phase */
};

/* A memory instruction whose sectors are more than the least, or whose turns are more than its phases. */
struct uneven_access {
    const char *text;
    uint64_t requests, cost, least, most_ways; /* sectors or turns; most_ways 0: global */
};

struct counts {
    uint64_t n_blocks = 0, n_blocks_run = 0, n_warps_run = 0;
    uint64_t issues[N_ISSUE_CLASSES] = {};
    global_counts load = {}, store = {}, atomic = {}; /* a cp.async is a load and a shared store */
    shared_counts shared_load = {}, shared_store = {};
    uint64_t local_requests = 0;
    uint64_t read_sectors = 0, written_sectors = 0; /* distinct ones of the whole launch */
    std::vector<uneven_access> uneven;
};

/* One line of JSON, without its end. */
std::string counts_json(const counts &c);

} // namespace ptx

#endif

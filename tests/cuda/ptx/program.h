/* program.h: what the interpreter's files share: a decoded program, and the state of a warp that runs it.
 *
 * The register file is made of rows of 32 words, one per lane; a 64-bit register takes two rows as 32 double words, narrower ones take a whole row.
 * A predicate is one word with a bit per lane. An operand is a row's number (a predicate's number), whether it was a register, an immediate or a
 * special register in the text: rows of immediates are filled once per launch and warp, those of special registers once per block. */
#ifndef NEXTD_TEST_PTX_PROGRAM_H
#define NEXTD_TEST_PTX_PROGRAM_H

#include "ptx.h"
#include <cstring>
#include <map>
#include <unordered_map>

namespace ptx {

enum { WARP = 32, MAX_OPERANDS = 18, MAX_VECTOR = 8 };

/* Generic addresses of what is not global memory: above everything that a process maps. */
constexpr uint64_t SHARED_WINDOW = 1ull << 56, LOCAL_WINDOW = 2ull << 56, PARAM_WINDOW = 3ull << 56, WINDOW_MASK = 0xffull << 56;

enum class space : uint8_t { generic, global, shared, local, param };

/* What the scheduler of a warp must know of an instruction. */
enum class kind : uint8_t {
    plain,      // run() for the active lanes
    branch,     // to .target
    end,        // ret, exit
    barrier,    // all threads of the block meet
    collective, // run() once all lanes of the warp are there
};

struct warp;
struct instruction;
typedef void (*handler)(warp &w, const instruction &i, uint32_t mask);

enum : uint32_t { NOT = 1u << 31, NONE_SECOND = ~0u }; // NOT: in a predicate operand, its complement

struct instruction {
    handler run = nullptr;
    ptx::kind kind = ptx::kind::plain;
    ptx::space where = space::generic;
    bool guarded = false;
    uint8_t n_elements = 1;      // of a vector access; matrices of an ldmatrix
    uint8_t n_bytes = 0;         // of an access, all elements
    uint32_t wide = 0;           // bit k: operand k is a 64-bit row
    uint32_t guard = 0;          // predicate
    uint32_t target = 0;
    uint32_t n_operands = 0;
    uint32_t a[MAX_OPERANDS] = {};
    uint32_t second = NONE_SECOND; // predicate that a shuffle also sets
    int64_t offset = 0;          // added to an address
    int64_t offset2 = 0;         // to the second one
    int64_t mode = 0;            // as its operation says
    issue_class issue = ISSUE_MOVE;
    const char *text = nullptr;
};

struct constant_row {
    uint32_t row;
    uint64_t bits;
    bool wide;
};

/* %tid.x and its like: axis 0..2 of one of four, or the lane. */
enum class special : uint8_t { tid, ntid, ctaid, nctaid, laneid, warpid };

struct special_row {
    uint32_t row;
    ptx::special what;
    uint8_t axis;
};

struct parameter {
    uint32_t offset, n_bytes;
};

struct kernel {
    std::string name;
    std::vector<instruction> code;
    std::vector<parameter> parameters;
    std::vector<constant_row> constants;
    std::vector<special_row> specials;
    uint32_t n_rows = 0, n_predicates = 2; // predicate 0 is false, 1 is true
    uint32_t parameter_bytes = 0, shared_bytes = 0, local_bytes = 0;
};

struct program {
    std::string path;
    std::map<std::string, kernel> kernels;
    std::vector<std::unique_ptr<uint64_t[]>> variables; // .global and .const of the module
    std::vector<range> variable_ranges;
    std::vector<std::unique_ptr<std::string>> texts;
};

/* A copy on its way from global to shared memory. */
struct copy_in_flight {
    uint64_t source;
    uint32_t target, n_bytes, n_zeros, group;
    int lane;
};

struct block_state {
    const program *of;
    const ptx::kernel *kernel;
    dim grid, size, at;
    std::vector<uint8_t> shared, parameters;
};

class tally; // tally.h

struct warp {
    block_state *block = nullptr;
    int first_thread = 0;
    uint32_t full = 0;              // lanes that exist
    uint32_t live = 0, parked = 0;  // not yet ended; waiting for a collective
    uint32_t pc[WARP] = {};
    std::vector<uint32_t> rows;
    std::vector<uint32_t> predicates;
    std::vector<uint8_t> local;     // lane by lane
    std::vector<copy_in_flight> copies;
    uint32_t group[WARP] = {};      // cp.async groups committed by each lane
    range last_hit = {0, 0};
    uint64_t n_executed = 0;
    class tally *tally = nullptr;   // counts, if given

    uint32_t *row32(uint32_t r) { return &rows[(size_t)r * WARP]; }
    uint64_t *row64(uint32_t r) { return reinterpret_cast<uint64_t *>(&rows[(size_t)r * WARP]); }
    uint32_t predicate(uint32_t p) const { return (p & NOT) != 0 ? ~predicates[p & ~NOT] : predicates[p]; }
    void set_predicate(uint32_t p, uint32_t mask, uint32_t value) { predicates[p] = (predicates[p] & ~mask) | (value & mask); }
};

inline bool is_active(uint32_t mask, int lane) { return (mask >> lane & 1) != 0; }

/* Throws error: the sentence, then where. lane < 0: the first active one. */
[[noreturn]] void fail_at(const warp &w, const instruction &i, int lane, const std::string &sentence);

/* How an opcode is executed and what its operands are: a letter each. P predicate; S 8 to 32 bits, L 64 bits, R whatever its register is; A address
 * in brackets; D like S, or "d|p"; those behind ? may be missing. */
struct operation {
    handler run = nullptr;
    std::string operands;
    ptx::kind kind = ptx::kind::plain;
    ptx::space where = space::generic;
    int n_elements = 1, n_bytes = 0;
    int64_t mode = 0;
};

/* Each finds the opcodes of its file; false: not one of them. */
bool find_arithmetic(const std::string &opcode, operation *operation_out);
bool find_conversion(const std::string &opcode, operation *operation_out);
bool find_memory(const std::string &opcode, operation *operation_out);
bool find_collective(const std::string &opcode, operation *operation_out);

/* Fills a program from its text. */
void parse(const std::string &text, program *program_out);

/* The opcode's parts between dots; those that only advise caches, or order memory more strictly than one block at a time can tell, are left out. */
std::vector<std::string> opcode_parts(const std::string &opcode);

/* Bytes of a fundamental type (b8, u16, s32, f64 ...), 0 for other words. */
int type_bytes(const std::string &type);

/* Where each active lane's access lies in this process's memory, checked: alignment to n_bytes, bounds. `base` is the address's operand. */
void resolve(warp &w, const instruction &i, uint32_t mask, space where, uint32_t base, int64_t offset, uint32_t n_bytes, uint8_t *places_out[WARP]);

void run_grid(const program &p, const kernel &k, dim grid, dim block, size_t shared_bytes, const std::vector<argument> &arguments,
              const launch_options &options);

} // namespace ptx

#endif

/* execute.cpp: runs the blocks of a grid, one after another, and the warps of each in turns.
 *
 *      block:   every warp runs until it stops  ->  all at the same barrier: go on  ->  all ended: next block
 *      warp:    lanes with the lowest instruction run together until they branch apart, end, or catch up with others
 *      lane:    running -> parked at a collective or barrier -> running when all live lanes are parked there -> ended
 *
 * Taking the group that is furthest behind makes diverged lanes meet at the first instruction that both reach, since the compiler places what follows
 * a branch behind its sides. Lanes that share nothing but memory run in no particular order, so this order is as good as any. A program that never
 * ends is stopped by a limit on the instructions of a block. */
#include "tally.h"
#include <fstream>
#include <sstream>

namespace ptx {

namespace {

enum class stop { ended, at_barrier };

constexpr uint64_t MAX_BLOCK_INSTRUCTIONS = 1ull << 32; // of a warp, for all its lanes
constexpr unsigned MAX_THREADS = 1024;

uint64_t n_executed_total = 0;

/* Runs the lanes of `mask`, all of them at `pc`, until they reach `limit` (where others wait), diverge, park or end. */
template <bool COUNTS> void run_group(warp &w, const instruction *code, uint32_t pc, uint32_t mask, uint32_t limit)
{
    uint64_t n = 0;
    const uint64_t lanes = static_cast<uint64_t>(__builtin_popcount(mask));
    for (;;) {
        const instruction &i = code[pc];
        uint32_t m = mask;
        n += lanes;
        if constexpr (COUNTS)
            w.tally->issue(w, pc, mask);
        if (i.guarded)
            m &= w.predicate(i.guard);
        if (i.kind == kind::plain) {
            if (m != 0)
                i.run(w, i, m);
            pc++;
        } else if (m == 0) {
            pc++;
        } else if (i.kind == kind::branch) {
            if (m != mask) {
                for (int l = 0; l < WARP; l++)
                    if (is_active(mask, l))
                        w.pc[l] = is_active(m, l) ? i.target : pc + 1;
                break;
            }
            if (i.target <= pc && w.n_executed + n > MAX_BLOCK_INSTRUCTIONS)
                fail_at(w, i, -1, "runs without an end");
            pc = i.target;
        } else if (i.kind == kind::collective && m == ~0u) {
            i.run(w, i, m);
            pc++;
        } else {
            for (int l = 0; l < WARP; l++)
                if (is_active(mask, l))
                    w.pc[l] = is_active(m, l) ? pc : pc + 1;
            if (i.kind == kind::end)
                w.live &= ~m;
            else
                w.parked |= m;
            break;
        }
        if (pc >= limit) {
            for (int l = 0; l < WARP; l++)
                if (is_active(mask, l))
                    w.pc[l] = pc;
            break;
        }
    }
    w.n_executed += n;
}

/* All live lanes are parked: they must be at one instruction, and at a collective all lanes of the warp. */
bool meet_at_barrier(warp &w, const instruction *code)
{
    int first = __builtin_ctz(w.live);
    const instruction &i = code[w.pc[first]];
    for (int l = 0; l < WARP; l++)
        if (is_active(w.live, l) && w.pc[l] != w.pc[first])
            fail_at(w, i, l, std::string("lanes of a warp wait in different places, here and at '") + code[w.pc[l]].text + "'");
    if (i.kind == kind::barrier) {
        if (w.live != w.full)
            fail_at(w, i, first, "a barrier that ended lanes will not reach");
        return true;
    }
    if (w.live != ~0u)
        fail_at(w, i, first, "a collective without all 32 lanes");
    i.run(w, i, ~0u);
    for (uint32_t &pc : w.pc)
        pc++;
    w.parked = 0;
    return false;
}

stop run_warp(warp &w, const instruction *code)
{
    for (;;) {
        uint32_t runnable = w.live & ~w.parked;
        if (w.live == 0)
            return stop::ended;
        if (runnable == 0) {
            if (meet_at_barrier(w, code))
                return stop::at_barrier;
            continue;
        }
        uint32_t low = ~0u, next = ~0u, mask = 0;
        for (int l = 0; l < WARP; l++) {
            if (!is_active(runnable, l))
                continue;
            if (w.pc[l] < low) {
                next = low;
                low = w.pc[l];
                mask = 1u << l;
            } else if (w.pc[l] == low) {
                mask |= 1u << l;
            } else if (w.pc[l] < next) {
                next = w.pc[l];
            }
        }
        if (w.tally != nullptr)
            run_group<true>(w, code, low, mask, next);
        else
            run_group<false>(w, code, low, mask, next);
    }
}

void fill(warp &w, uint32_t row, uint64_t bits, bool wide)
{
    for (int l = 0; l < WARP; l++) {
        if (wide)
            w.row64(row)[l] = bits;
        else
            w.row32(row)[l] = static_cast<uint32_t>(bits);
    }
}

unsigned axis_of(const dim &d, int axis) { return axis == 0 ? d.x : axis == 1 ? d.y : d.z; }

/* Once per launch. Registers that nobody has written are all ones. */
void prepare(warp &w, block_state *b, int number, tally *t)
{
    const kernel &k = *b->kernel;
    const unsigned n_threads = b->size.x * b->size.y * b->size.z, first = static_cast<unsigned>(number) * WARP;
    w.block = b;
    w.tally = t;
    w.last_hit = {0, 0}; // buffers come and go between launches
    w.first_thread = static_cast<int>(first);
    w.full = n_threads - first >= WARP ? ~0u : (1u << (n_threads - first)) - 1;
    w.rows.assign(static_cast<size_t>(k.n_rows) * WARP, ~0u);
    w.predicates.assign(k.n_predicates, 0);
    w.predicates[1] = ~0u;
    w.local.assign(static_cast<size_t>(k.local_bytes) * WARP, 0xff);
    for (const constant_row &c : k.constants)
        fill(w, c.row, c.bits, c.wide);
    for (const special_row &s : k.specials) {
        for (unsigned l = 0; l < WARP; l++) {
            unsigned t = first + l;
            dim id = {t % b->size.x, t / b->size.x % b->size.y, t / (b->size.x * b->size.y)};
            unsigned v = s.what == special::tid      ? axis_of(id, s.axis)
                         : s.what == special::ntid   ? axis_of(b->size, s.axis)
                         : s.what == special::nctaid ? axis_of(b->grid, s.axis)
                         : s.what == special::laneid ? l
                                                     : static_cast<unsigned>(number);
            w.row32(s.row)[l] = v;
        }
    }
}

void run_block(block_state *b, std::vector<warp> *warps, bool backwards)
{
    const kernel &k = *b->kernel;
    const size_t n = warps->size();
    std::fill(b->shared.begin(), b->shared.end(), 0xff);
    for (warp &w : *warps) {
        w.live = w.full;
        w.parked = 0;
        w.n_executed = 0;
        w.copies.clear();
        memset(w.pc, 0, sizeof w.pc);
        memset(w.group, 0, sizeof w.group);
        for (const special_row &s : k.specials)
            if (s.what == special::ctaid)
                fill(w, s.row, axis_of(b->at, s.axis), false);
    }
    for (bool ended = false; !ended;) {
        size_t n_ended = 0;
        const warp *waiting = nullptr;
        for (size_t j = 0; j < n; j++) {
            warp &w = (*warps)[backwards ? n - 1 - j : j];
            if (run_warp(w, k.code.data()) == stop::ended) {
                n_ended++;
                continue;
            }
            uint32_t pc = w.pc[__builtin_ctz(w.live)];
            if (waiting != nullptr && waiting->pc[__builtin_ctz(waiting->live)] != pc)
                fail_at(w, k.code[pc], -1, "warps wait at different barriers");
            waiting = &w;
        }
        if (waiting != nullptr && n_ended != 0)
            fail_at(*waiting, k.code[waiting->pc[__builtin_ctz(waiting->live)]], -1,
                    std::to_string(n_ended) + " warps ended without reaching this barrier");
        ended = waiting == nullptr;
        for (warp &w : *warps) {
            if (w.live == 0)
                continue;
            for (uint32_t &pc : w.pc)
                pc++;
            w.parked = 0;
        }
    }
    for (warp &w : *warps)
        n_executed_total += w.n_executed;
}

std::string numbers(const dim &d)
{
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

} // namespace

void fail_at(const warp &w, const instruction &i, int lane, const std::string &sentence)
{
    const block_state &b = *w.block;
    if (lane < 0)
        lane = w.live != 0 ? __builtin_ctz(w.live) : 0;
    throw error(b.kernel->name + ", block " + numbers(b.at) + ", thread " + std::to_string(w.first_thread + lane) + ": " + sentence + ": " +
                (i.text != nullptr ? i.text : ""));
}

void run_grid(const program &p, const kernel &k, dim grid, dim block, size_t shared_bytes, const std::vector<argument> &arguments,
              const launch_options &options)
{
    const unsigned n_threads = block.x * block.y * block.z;
    if (n_threads == 0 || n_threads > MAX_THREADS || grid.x == 0 || grid.y == 0 || grid.z == 0)
        throw error(k.name + ": launched with a grid of " + numbers(grid) + " blocks of " + numbers(block) + " threads");
    if (arguments.size() != k.parameters.size())
        throw error(k.name + ": launched with " + std::to_string(arguments.size()) + " arguments, has " + std::to_string(k.parameters.size()));
    block_state b;
    b.of = &p;
    b.kernel = &k;
    b.grid = grid;
    b.size = block;
    b.shared.resize(k.shared_bytes + shared_bytes);
    b.parameters.assign(k.parameter_bytes, 0);
    for (size_t n = 0; n < arguments.size(); n++) {
        if (arguments[n].n_bytes != k.parameters[n].n_bytes)
            throw error(k.name + ": argument " + std::to_string(n) + " has " + std::to_string(arguments[n].n_bytes) + " bytes, the parameter has " +
                        std::to_string(k.parameters[n].n_bytes));
        memcpy(&b.parameters[k.parameters[n].offset], arguments[n].value, arguments[n].n_bytes);
    }
    static std::vector<warp> warps; // keeps its memory from launch to launch
    warps.resize((n_threads + WARP - 1) / WARP);
    std::unique_ptr<tally> counter;
    if (options.counts_out != nullptr)
        counter = std::make_unique<tally>(k, warps.size());
    for (size_t n = 0; n < warps.size(); n++)
        prepare(warps[n], &b, static_cast<int>(n), counter.get());
    const uint64_t n_blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    const uint64_t n_run = options.most_blocks != 0 && options.most_blocks < n_blocks ? options.most_blocks : n_blocks;
    for (uint64_t n = 0; n < n_run; n++) {
        const uint64_t nth = options.backwards ? n_run - 1 - n : n, number = (2 * nth + 1) * n_blocks / (2 * n_run); // the middles of n_run parts
        const uint64_t above = number / grid.x;
        b.at = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(above % grid.y), static_cast<unsigned>(above / grid.y)};
        run_block(&b, &warps, options.backwards);
        if (counter != nullptr)
            counter->end_block();
    }
    if (counter != nullptr)
        *options.counts_out = counter->result(n_blocks);
}

uint64_t n_executed() { return n_executed_total; }

/* ---- modules ---- */

module::module(const std::string &path) : program_(std::make_unique<program>())
{
    std::ifstream file(path);
    if (!file)
        throw error(path + ": cannot be read");
    std::stringstream text;
    text << file.rdbuf();
    program_->path = path;
    parse(text.str(), program_.get());
}

module::~module() = default;

bool module::has(const std::string &name) const { return program_->kernels.count(name) != 0; }

std::vector<std::string> module::kernels() const
{
    std::vector<std::string> names;
    for (const auto &entry : program_->kernels)
        names.push_back(entry.first);
    return names;
}

void module::launch(const std::string &name, dim grid, dim block, size_t shared_bytes, const std::vector<argument> &arguments,
                    const launch_options &options) const
{
    auto found = program_->kernels.find(name);
    if (found == program_->kernels.end())
        throw error(program_->path + ": no kernel " + name);
    run_grid(*program_, found->second, grid, block, shared_bytes, arguments, options);
}

} // namespace ptx

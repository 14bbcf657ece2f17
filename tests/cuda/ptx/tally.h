/* tally.h: counts one launch while it runs (counts.h says what).
 *
 * While all lanes of a warp go together a request is charged at once. Where they go apart, each lane counts its executions of the instruction, and
 * the k-th ones of all lanes are kept until the warp is complete or its block ends. */
#ifndef NEXTD_TEST_PTX_TALLY_H
#define NEXTD_TEST_PTX_TALLY_H

#include "counts.h"
#include "program.h"

namespace ptx {

/* Sectors of 32 bytes, by their number. */
struct sector_set {
    std::unordered_map<uint64_t, uint64_t> pages; /* 64 sectors a word */
    uint64_t last_page = 0, *last = nullptr;
    void mark(uint64_t sector);
    uint64_t count() const;
};

class tally {
public:
    tally(const kernel &kernel, size_t n_warps);
    void issue(const warp &w, uint32_t pc, uint32_t mask)
    {
        if (mask == w.full)
            whole[pc]++;
        else
            issue_part(warps[static_cast<size_t>(w.first_thread) / WARP], pc, mask);
    }
    void access(const warp &w, const instruction &i, uint32_t mask, space where, const uint64_t address[WARP], uint32_t n_bytes);
    void end_block();
    counts result(uint64_t n_blocks) const;

private:
    struct lane_counts {
        uint32_t of[WARP] = {};
        bool touched = false;
    };
    struct pending {
        uint32_t mask = 0, n_bytes = 0;
        uint64_t address[WARP];
    };
    struct apart {
        uint32_t done[WARP] = {};
        std::map<uint32_t, pending> waiting; // by k
    };
    struct warp_tally {
        std::vector<lane_counts> lanes; // by instruction
        std::vector<uint32_t> touched;
        std::unordered_map<uint32_t, struct apart> apart; // by 2 * instruction + is_shared
    };

    const kernel &k;
    counts c;
    std::vector<uint64_t> whole;          // issues, by instruction
    std::vector<uneven_access> accesses;  // by 2 * instruction + is_shared
    std::vector<warp_tally> warps;
    sector_set read_, written_;

    void issue_part(warp_tally &t, uint32_t pc, uint32_t mask);
    void record(const instruction &i, uint32_t pc, bool is_shared, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes);
    void record_global(const instruction &i, uint32_t pc, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes);
    void record_shared(const instruction &i, uint32_t pc, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes);
};

} // namespace ptx

#endif

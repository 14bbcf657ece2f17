// test_counts.cpp: the counters on kernels whose costs are known beforehand (the count_ ones of micro.cu; PTX_MICRO names the file).
//
// What is expected is worked out here from the rules of the memory, not by a program like the counter: sectors of 32 bytes, 32 banks of 4 bytes,
// phases of 128 bytes, and as many issues as turns of a loop that the lane with the most turns takes.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "tests/cuda/ptx/micro.h"

// After the others: it has no C++ guard of its own, and a macro named fail.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

static const ptx::module *micro;

alignas(128) static float in[16384];
alignas(128) static float out[16384];

template <class... A> static ptx::counts count(const char *kernel, unsigned n_blocks, unsigned n_threads, size_t shared_bytes, A... a)
{
    ptx::counts c;
    ptx::launch_options options;
    options.counts_out = &c;
    try {
        launch(*micro, kernel, n_blocks, n_threads, shared_bytes, options, a...);
    } catch (const ptx::error &e) {
        fail_msg("%s", e.what());
    }
    return c;
}

static void assert_global(const ptx::global_counts &g, uint64_t requests, uint64_t bytes, uint64_t sectors, uint64_t least)
{
    assert_int_equal(g.requests, requests);
    assert_int_equal(g.bytes, bytes);
    assert_int_equal(g.sectors, sectors);
    assert_int_equal(g.least_sectors, least);
}

static void assert_shared(const ptx::shared_counts &s, uint64_t requests, uint64_t phases, uint64_t turns, uint64_t most_ways)
{
    assert_int_equal(s.requests, requests);
    assert_int_equal(s.phases, phases);
    assert_int_equal(s.turns, turns);
    assert_int_equal(s.most_ways, most_ways);
}

static void counts_the_sectors_of_rows(void **)
{
    enum { WARPS = 6 }; // 3 blocks of 64 threads, a load of 4 and a store of 16 bytes each
    ptx::counts c = count("count_rows", 3, 64, 0, in, out, 1);
    assert_int_equal(c.n_warps_run, WARPS);
    assert_global(c.load, WARPS, WARPS * 128, WARPS * 4, WARPS * 4);
    assert_global(c.store, WARPS, WARPS * 512, WARPS * 16, WARPS * 16);
    assert_int_equal(c.read_sectors, WARPS * 4);
    assert_int_equal(c.written_sectors, WARPS * 16);
    assert_int_equal(c.issues[ptx::ISSUE_GLOBAL_LOAD], WARPS);
    assert_int_equal(c.issues[ptx::ISSUE_GLOBAL_STORE], WARPS);
    assert_int_equal(c.issues[ptx::ISSUE_BRANCH], WARPS); // ret
    assert_true(c.uneven.empty());

    c = count("count_rows", 3, 64, 0, in + 1, out, 1); // off by a float: a sector more
    assert_global(c.load, WARPS, WARPS * 128, WARPS * 5, WARPS * 4);
    assert_int_equal(c.read_sectors, WARPS * 4 + 1);
    assert_int_equal(c.uneven.size(), 1);
    assert_int_equal(c.uneven[0].cost, WARPS * 5);
    assert_non_null(strstr(c.uneven[0].text, "ld.global.f32"));
    c = count("count_rows", 3, 64, 0, in, out, 8); // a sector for each lane
    assert_global(c.load, WARPS, WARPS * 128, WARPS * 32, WARPS * 4);
    assert_int_equal(c.read_sectors, WARPS * 32);
    c = count("count_rows", 3, 64, 0, in, out, 0); // all lanes the same word
    assert_global(c.load, WARPS, WARPS * 128, WARPS, WARPS);
    assert_int_equal(c.read_sectors, 1);
    c = count("count_rows", 1, 40, 0, in, out, 1); // the second warp has 8 lanes
    assert_global(c.load, 2, 160, 5, 5);
    assert_int_equal(c.issues[ptx::ISSUE_GLOBAL_LOAD], 2);
}

static void counts_the_turns_of_banks(void **)
{
    for (int stride : {0, 1, 2, 3, 4, 8, 16, 32, 33}) {
        const uint64_t by4 = stride == 0 ? 1 : std::gcd(stride, 32), by16 = stride == 0 ? 1 : std::gcd(stride, 8);
        ptx::counts c = count("count_banks", 1, 32, 0, out, stride);
        assert_shared(c.shared_store, 32, 32, 32, 1);
        assert_shared(c.shared_load, 2, 5, by4 + 4 * by16, by4 > by16 ? by4 : by16);
        assert_int_equal(c.shared_load.bytes, 32 * 4 + 32 * 16);
        assert_int_equal(c.uneven.size(), (by4 > 1) + (by16 > 1));
        assert_int_equal(c.issues[ptx::ISSUE_SHARED_STORE], 32);
        assert_int_equal(c.issues[ptx::ISSUE_SHARED_LOAD], 2);
        assert_int_equal(c.issues[ptx::ISSUE_BARRIER], 1);
    }
}

/* Lane l reads in[32 k + l] for k <= l % 5, which takes 4 sectors for each of the five k, and where l is odd in[1024 + k], which takes one. With all
 * lanes side by side the 32, 25, 18, 12 and 6 words of the k would need 4, 4, 3, 2 and 1. */
static void takes_the_nth_execution_of_each_lane_for_one_access(void **)
{
    enum { WORDS = 32 + 25 + 18 + 12 + 6, ODD_WORDS = 16 + 13 + 9 + 6 + 3 };
    memset(in, 0, sizeof in);
    ptx::counts c = count("count_turns", 1, 32, 0, in, out);
    assert_global(c.load, 10, 4 * (WORDS + ODD_WORDS), 5 * 4 + 5, 4 + 4 + 3 + 2 + 1 + 5);
    assert_int_equal(c.issues[ptx::ISSUE_GLOBAL_LOAD], 10);
    assert_global(c.store, 1, 128, 4, 4);
    assert_int_equal(c.read_sectors, 5 * 4 + 1);
    c = count("count_apart", 1, 32, 0, in, out);
    assert_global(c.load, 5, 5 * 128, 5 * 4, 5 * 4);
}

static void counts_work_by_its_class(void **)
{
    enum { N = 7 };
    for (int row_bytes : {16, 32, 64, 128, 144}) {
        const uint64_t ways = row_bytes == 32 ? 2 : row_bytes == 64 ? 4 : row_bytes == 128 ? 8 : 1;
        ptx::counts c = count("count_work", 1, 32, static_cast<size_t>(32 * row_bytes), in, out, 0.5f, int(N), row_bytes);
        assert_int_equal(c.issues[ptx::ISSUE_F32], N + 1);
        assert_int_equal(c.issues[ptx::ISSUE_MMA_K32], N);
        assert_int_equal(c.issues[ptx::ISSUE_MMA_K16], 0);
        assert_int_equal(c.issues[ptx::ISSUE_COPY], N);
        assert_int_equal(c.issues[ptx::ISSUE_LDMATRIX], N);
        assert_int_equal(c.issues[ptx::ISSUE_BARRIER], 2 * N);
        assert_int_equal(c.issues[ptx::ISSUE_CONVERT], 1);
        assert_int_equal(c.issues[ptx::ISSUE_PARAM], 5);
        assert_global(c.load, N, N * 512, N * 16, N * 16);
        assert_shared(c.shared_store, N, N * 4, N * 4 * ways, ways);
        assert_shared(c.shared_load, N, N * 4, N * 4 * ways, ways);
        assert_int_equal(c.local_requests, 0);
    }
}

static void runs_a_part_of_the_blocks(void **)
{
    ptx::counts c;
    ptx::launch_options options;
    options.counts_out = &c;
    options.most_blocks = 3;
    memset(out, 0xff, sizeof out);
    launch(*micro, "count_rows", 10, 32, 0, options, in, out, 1);
    assert_int_equal(c.n_blocks, 10);
    assert_int_equal(c.n_blocks_run, 3);
    assert_int_equal(c.load.requests, 3);
    for (int b = 0; b < 10; b++) {
        const bool ran = out[b * 128] == 0;
        assert_int_equal(ran, b == 1 || b == 5 || b == 8);
    }
    const std::string json = ptx::counts_json(c);
    assert_non_null(strstr(json.c_str(), "\"blocks\":10,\"blocks_run\":3"));
    assert_non_null(strstr(json.c_str(), "\"global_load\":{\"requests\":3,\"bytes\":384,\"sectors\":12,\"least_sectors\":12}"));
}

int main()
{
    const char *path = getenv("PTX_MICRO");
    if (path == nullptr) {
        fprintf(stderr, "PTX_MICRO names no file\n");
        return 1;
    }
    try {
        micro = new ptx::module(path);
    } catch (const ptx::error &e) {
        fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_the_sectors_of_rows),
        cmocka_unit_test(counts_the_turns_of_banks),
        cmocka_unit_test(takes_the_nth_execution_of_each_lane_for_one_access),
        cmocka_unit_test(counts_work_by_its_class),
        cmocka_unit_test(runs_a_part_of_the_blocks),
    };
    int n_failed = cmocka_run_group_tests(tests, nullptr, nullptr);
    delete micro;
    return n_failed;
}

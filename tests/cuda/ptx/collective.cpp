/* collective.cpp: what the lanes of a warp do together: shuffles, votes, reductions, ldmatrix, mma.
 *
 * The scheduler (execute.cpp) calls these only when all 32 lanes have arrived; a mask that names fewer is refused, because no kernel of ours needs
 * one. Where an element of a matrix lies in the lanes' registers is written here as the formulas of the instruction set do, element by element. */
#include "lanes.h"

namespace ptx {
namespace {

void need_all(warp &w, const instruction &i, uint32_t operand)
{
    const uint32_t *m = w.row32(i.a[operand]);
    for (int l = 0; l < WARP; l++)
        if (m[l] != ~0u)
            fail_at(w, i, l, "names a partial mask of lanes");
}

/* ---- shuffles, votes, reductions ---- */

enum shuffle { UP, DOWN, XOR, INDEX };

/* shfl.sync.mode.b32 d|p, a, b, c, mask: c holds a clamp and, 8 bits up, the mask that cuts the warp into segments. */
template <shuffle HOW> void exchange(warp &w, const instruction &i, uint32_t mask)
{
    need_all(w, i, 4);
    uint32_t *d = w.row32(i.a[0]), values[WARP], in_range = 0;
    const uint32_t *a = w.row32(i.a[1]), *b = w.row32(i.a[2]), *c = w.row32(i.a[3]);
    for (int l = 0; l < WARP; l++) {
        const int by = b[l] & 31, clamp = c[l] & 31, segment = c[l] >> 8 & 31;
        const int most = (l & segment) | (clamp & ~segment), least = l & segment;
        int from = HOW == UP ? l - by : HOW == DOWN ? l + by : HOW == XOR ? l ^ by : least | (by & ~segment);
        bool inside = HOW == UP ? from >= most : from <= most;
        in_range |= static_cast<uint32_t>(inside) << l;
        values[l] = a[inside ? from : l];
    }
    memcpy(d, values, sizeof values);
    if (i.second != NONE_SECOND)
        w.set_predicate(i.second, mask, in_range);
}

void ballot(warp &w, const instruction &i, uint32_t)
{
    need_all(w, i, 2);
    uint32_t votes = w.predicate(i.a[1]), *d = w.row32(i.a[0]);
    for (int l = 0; l < WARP; l++)
        d[l] = votes;
}

enum vote_kind { ALL, ANY, SAME };

template <vote_kind HOW> void vote(warp &w, const instruction &i, uint32_t mask)
{
    need_all(w, i, 2);
    uint32_t votes = w.predicate(i.a[1]);
    bool yes = HOW == ALL ? votes == ~0u : HOW == ANY ? votes != 0 : votes == 0 || votes == ~0u;
    w.set_predicate(i.a[0], mask, yes ? ~0u : 0);
}

template <class T, class F> operation reduction(F f)
{
    static const F kept = f;
    return {[](warp &w, const instruction &i, uint32_t) {
                need_all(w, i, 2);
                uint32_t *d = w.row32(i.a[0]);
                const uint32_t *a = w.row32(i.a[1]);
                T sum = unpack<T>(a[0]);
                for (int l = 1; l < WARP; l++)
                    sum = kept(sum, unpack<T>(a[l]));
                for (int l = 0; l < WARP; l++)
                    d[l] = pack<T>(sum);
            },
            "SSS", kind::collective};
}

void meet(warp &w, const instruction &i, uint32_t) { need_all(w, i, 0); }

/* ---- matrices ---- */

/* ldmatrix.m8n8.xN: lane 8 j + r gives the address of row r of matrix j, 8 elements of 16 bits; lane l receives elements 2 (l mod 4) and the next of
 * row l / 4, transposed: of that column. */
template <bool TRANSPOSED> void load_matrices(warp &w, const instruction &i, uint32_t)
{
    const uint32_t n = i.n_elements, giving = n == 4 ? ~0u : (1u << 8 * n) - 1;
    uint8_t *rows[WARP];
    resolve(w, i, giving, space::shared, n, i.offset, 16, rows);
    for (uint32_t j = 0; j < n; j++) {
        uint16_t m[8][8];
        for (int r = 0; r < 8; r++)
            memcpy(m[r], rows[8 * j + r], sizeof m[r]);
        uint32_t *d = w.row32(i.a[j]);
        for (int l = 0; l < WARP; l++) {
            int r = l / 4, c = 2 * (l % 4);
            d[l] = TRANSPOSED ? m[c][r] | static_cast<uint32_t>(m[c + 1][r]) << 16 : m[r][c] | static_cast<uint32_t>(m[r][c + 1]) << 16;
        }
    }
}

/* mma.m16n8kK of bytes, K 16 or 32: D[16][8] = A[16][K] B[K][8] + C[16][8]. With g = lane / 4 and t = lane mod 4:
 *   A, byte e of the lane's K / 2:  row g (e / 4 even) or g + 8 (odd), column 4 t + e mod 4, + 16 for e >= 8
 *   B, byte e of the lane's K / 4:  row 4 t + e mod 4, + 16 for e >= 4, column g
 *   C and D, word e of 4:           row g (e < 2) or g + 8, column 2 t + e mod 2 */
template <int K, class AT, class BT> void multiply(warp &w, const instruction &i, uint32_t)
{
    enum { A_WORDS = K / 8, B_WORDS = K / 16, A0 = 4, B0 = A0 + A_WORDS, C0 = B0 + B_WORDS };
    int16_t a[16][K], b[8][K]; // b transposed
    for (int l = 0; l < WARP; l++) {
        const int g = l / 4, t = l % 4;
        for (int e = 0; e < A_WORDS * 4; e++) {
            uint32_t word = w.row32(i.a[A0 + e / 4])[l];
            a[e / 4 % 2 == 0 ? g : g + 8][4 * t + e % 4 + (e >= 8 ? 16 : 0)] = static_cast<AT>(word >> 8 * (e % 4) & 255);
        }
        for (int e = 0; e < B_WORDS * 4; e++) {
            uint32_t word = w.row32(i.a[B0 + e / 4])[l];
            b[g][4 * t + e % 4 + (e >= 4 ? 16 : 0)] = static_cast<BT>(word >> 8 * (e % 4) & 255);
        }
    }
    uint32_t d[4][WARP];
    for (int l = 0; l < WARP; l++) {
        for (int e = 0; e < 4; e++) {
            const int16_t *x = a[l / 4 + (e < 2 ? 0 : 8)], *y = b[2 * (l % 4) + e % 2];
            int32_t sum = 0;
            for (int k = 0; k < K; k++)
                sum += x[k] * y[k];
            d[e][l] = w.row32(i.a[C0 + e])[l] + static_cast<uint32_t>(sum);
        }
    }
    for (int e = 0; e < 4; e++)
        memcpy(w.row32(i.a[e]), d[e], sizeof d[e]);
}

void active(warp &w, const instruction &i, uint32_t mask)
{
    uint32_t *d = w.row32(i.a[0]);
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = mask;
}

std::map<std::string, operation> all_collectives()
{
    std::map<std::string, operation> t;
    const std::string shfl = "DSSSS", k32 = "SSSSSSSSSSSSSS", k16 = "SSSSSSSSSSS";
    t["shfl.sync.up.b32"] = {exchange<UP>, shfl};
    t["shfl.sync.down.b32"] = {exchange<DOWN>, shfl};
    t["shfl.sync.bfly.b32"] = {exchange<XOR>, shfl};
    t["shfl.sync.idx.b32"] = {exchange<INDEX>, shfl};
    t["vote.sync.ballot.b32"] = {ballot, "SPS"};
    t["vote.sync.all.pred"] = {vote<ALL>, "PPS"};
    t["vote.sync.any.pred"] = {vote<ANY>, "PPS"};
    t["vote.sync.uni.pred"] = {vote<SAME>, "PPS"};
    t["bar.warp.sync"] = {meet, "S"};
    t["redux.sync.add.s32"] = t["redux.sync.add.u32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a + b; });
    t["redux.sync.min.s32"] = reduction<int32_t>([](int32_t a, int32_t b) { return a < b ? a : b; });
    t["redux.sync.max.s32"] = reduction<int32_t>([](int32_t a, int32_t b) { return a > b ? a : b; });
    t["redux.sync.min.u32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a < b ? a : b; });
    t["redux.sync.max.u32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a > b ? a : b; });
    t["redux.sync.and.b32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a & b; });
    t["redux.sync.or.b32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a | b; });
    t["redux.sync.xor.b32"] = reduction<uint32_t>([](uint32_t a, uint32_t b) { return a ^ b; });
    t["mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"] = {multiply<32, int8_t, int8_t>, k32};
    t["mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32"] = {multiply<32, uint8_t, int8_t>, k32};
    t["mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32"] = {multiply<16, int8_t, int8_t>, k16};
    t["mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32"] = {multiply<16, uint8_t, int8_t>, k16};
    for (int n : {1, 2, 4}) {
        const std::string name = "ldmatrix.sync.aligned.m8n8.x" + std::to_string(n), operands = std::string(static_cast<size_t>(n), 'S') + "A";
        for (const char *where : {".shared.b16", ".shared::cta.b16"}) {
            t[name + where] = {load_matrices<false>, operands, kind::collective, space::shared, n, 16};
            t[name + ".trans" + where] = {load_matrices<true>, operands, kind::collective, space::shared, n, 16};
        }
    }
    for (auto &entry : t)
        entry.second.kind = kind::collective;
    t["activemask.b32"] = {active, "S"};
    return t;
}

} // namespace

bool find_collective(const std::string &opcode, operation *out)
{
    static const std::map<std::string, operation> all = all_collectives();
    auto found = all.find(opcode);
    if (found == all.end())
        return false;
    *out = found->second;
    return true;
}

} // namespace ptx

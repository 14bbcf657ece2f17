/* counts.cpp: classes of opcodes, and what each request costs. See counts.h and tally.h. */
#include "tally.h"
#include <algorithm>
#include <array>
#include <cinttypes>

namespace ptx {

/* ---- classes ---- */

static const char *const class_names[] = {"f32", "f64", "alu", "imad", "dp4a", "convert", "bits", "divide", "shuffle", "mma_k16", "mma_k32",
                                          "ldmatrix", "global_load", "global_store", "shared_load", "shared_store", "copy", "atomic", "local",
                                          "param", "barrier", "branch", "move"};
static_assert(sizeof class_names / sizeof *class_names == N_ISSUE_CLASSES, "a name each");

const char *issue_class_name(int c) { return class_names[c]; }

static bool is_one_of(const std::string &word, std::initializer_list<const char *> words)
{
    return std::any_of(words.begin(), words.end(), [&](const char *w) { return word == w; });
}

static issue_class class_of_access(const std::vector<std::string> &p)
{
    const std::string where = p.size() > 1 ? p[1] : "";
    if (where == "param" || where == "const")
        return ISSUE_PARAM;
    if (where == "local")
        return ISSUE_LOCAL;
    if (p[0] == "ld")
        return where == "shared" ? ISSUE_SHARED_LOAD : ISSUE_GLOBAL_LOAD;
    return where == "shared" ? ISSUE_SHARED_STORE : ISSUE_GLOBAL_STORE;
}

issue_class issue_class_of(const std::string &opcode)
{
    const std::vector<std::string> p = opcode_parts(opcode);
    const std::string &name = p[0], &type = p.back();
    const bool is_float = type[0] == 'f' && type_bytes(type) != 0;
    if (is_one_of(name, {"bra", "ret", "exit"}))
        return ISSUE_BRANCH;
    if (is_one_of(name, {"bar", "barrier", "membar", "fence"}) || opcode.find("_group") != std::string::npos || opcode == "cp.async.wait_all")
        return ISSUE_BARRIER;
    if (name == "ld" || name == "st")
        return class_of_access(p);
    if (name == "cp")
        return ISSUE_COPY;
    if (is_one_of(name, {"atom", "red"}))
        return ISSUE_ATOMIC;
    if (is_one_of(name, {"mma", "ldmatrix"}))
        return name == "ldmatrix" ? ISSUE_LDMATRIX : opcode.find("k32") != std::string::npos ? ISSUE_MMA_K32 : ISSUE_MMA_K16;
    if (is_one_of(name, {"shfl", "vote", "redux", "activemask"}))
        return ISSUE_SHUFFLE;
    if (is_one_of(name, {"div", "rem", "rcp", "sqrt"}))
        return ISSUE_DIVIDE;
    if (is_one_of(name, {"popc", "clz", "brev", "bfind"}))
        return ISSUE_BITS;
    if (name == "cvt") // between integers: extension and truncation
        return opcode.find('f') != std::string::npos ? ISSUE_CONVERT : ISSUE_MOVE;
    if (is_one_of(name, {"mov", "cvta", "prefetch"}))
        return ISSUE_MOVE;
    if (is_float && type_bytes(type) == 8)
        return ISSUE_F64;
    if (is_float && is_one_of(name, {"add", "sub", "mul", "fma"}))
        return ISSUE_F32;
    if (name == "dp4a")
        return ISSUE_DP4A;
    return is_one_of(name, {"mul", "mad"}) ? ISSUE_IMAD : ISSUE_ALU;
}

/* ---- one request ---- */

namespace {

/* The addresses of the lanes of a mask, in order. */
int sorted_addresses(uint32_t mask, const uint64_t address[WARP], uint64_t out[WARP])
{
    int n = 0;
    bool in_order = true;
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        in_order = in_order && (n == 0 || out[n - 1] <= address[l]);
        out[n++] = address[l];
    }
    if (!in_order)
        std::sort(out, out + n);
    return n;
}

/* How often the banks must be asked for the words of these addresses, in order. */
uint64_t turns_of_phase(const uint64_t *address, int n, uint32_t n_bytes)
{
    int given[32] = {0};
    uint64_t last = ~0ull;
    for (int k = 0; k < n; k++)
        for (uint64_t word = address[k] / 4; word <= (address[k] + n_bytes - 1) / 4; word++)
            if (last == ~0ull || word > last) {
                given[word % 32]++;
                last = word;
            }
    return static_cast<uint64_t>(*std::max_element(given, given + 32));
}

} // namespace

void tally::record_global(const instruction &i, uint32_t pc, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes)
{
    enum { SECTOR = 32 };
    const bool is_load = i.issue == ISSUE_GLOBAL_LOAD || i.issue == ISSUE_COPY;
    global_counts *g = is_load ? &c.load : i.issue == ISSUE_ATOMIC ? &c.atomic : &c.store;
    uint64_t a[WARP], n_sectors = 0, n_distinct = 0;
    const int n = sorted_addresses(mask, address, a);
    for (int k = 0; k < n; k++) {
        const uint64_t sector = a[k] / SECTOR;
        n_distinct += k == 0 || a[k] != a[k - 1];
        if (k == 0 || sector != a[k - 1] / SECTOR) {
            n_sectors++;
            if (is_load || i.issue == ISSUE_ATOMIC)
                read_.mark(sector);
            if (!is_load)
                written_.mark(sector);
        }
    }
    const uint64_t least = (n_distinct * n_bytes + SECTOR - 1) / SECTOR;
    g->requests++;
    g->bytes += static_cast<uint64_t>(n) * n_bytes;
    g->sectors += n_sectors;
    g->least_sectors += least;
    uneven_access &u = accesses[2 * pc];
    u.text = i.text;
    u.requests++;
    u.cost += n_sectors;
    u.least += least;
}

void tally::record_shared(const instruction &i, uint32_t pc, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes)
{
    const bool is_load = i.issue == ISSUE_SHARED_LOAD || i.issue == ISSUE_GLOBAL_LOAD || i.issue == ISSUE_LDMATRIX;
    shared_counts *s = is_load ? &c.shared_load : &c.shared_store;
    const int lanes = n_bytes <= 4 ? WARP : static_cast<int>(128 / n_bytes);
    uneven_access &u = accesses[2 * pc + 1];
    u.text = i.text;
    u.requests++;
    s->requests++;
    s->bytes += static_cast<uint64_t>(__builtin_popcount(mask)) * n_bytes;
    for (int first = 0; first < WARP; first += lanes) {
        uint64_t a[WARP];
        const uint32_t part = lanes == WARP ? mask : mask & ((1u << lanes) - 1) << first;
        if (part == 0)
            continue;
        const uint64_t turns = turns_of_phase(a, sorted_addresses(part, address, a), n_bytes);
        s->phases++;
        s->turns += turns;
        s->most_ways = std::max(s->most_ways, turns);
        u.least++;
        u.cost += turns;
        u.most_ways = std::max(u.most_ways, turns);
    }
}

void tally::record(const instruction &i, uint32_t pc, bool is_shared, uint32_t mask, const uint64_t address[WARP], uint32_t n_bytes)
{
    if (is_shared)
        record_shared(i, pc, mask, address, n_bytes);
    else
        record_global(i, pc, mask, address, n_bytes);
}

void sector_set::mark(uint64_t sector)
{
    const uint64_t page = sector / 64;
    if (last == nullptr || page != last_page) {
        last = &pages[page];
        last_page = page;
    }
    *last |= 1ull << sector % 64;
}

uint64_t sector_set::count() const
{
    uint64_t n = 0;
    for (const auto &page : pages)
        n += static_cast<uint64_t>(__builtin_popcountll(page.second));
    return n;
}

/* ---- the k-th execution by each lane ---- */

tally::tally(const kernel &kernel, size_t n_warps) : k(kernel), whole(kernel.code.size()), accesses(2 * kernel.code.size()), warps(n_warps)
{
    for (warp_tally &w : warps)
        w.lanes.resize(kernel.code.size());
}

void tally::issue_part(warp_tally &t, uint32_t pc, uint32_t mask)
{
    lane_counts &n = t.lanes[pc];
    if (!n.touched) {
        n.touched = true;
        t.touched.push_back(pc);
    }
    for (int l = 0; l < WARP; l++)
        n.of[l] += is_active(mask, l);
}

void tally::access(const warp &w, const instruction &i, uint32_t mask, space where, const uint64_t address[WARP], uint32_t n_bytes)
{
    if (mask == 0 || i.issue == ISSUE_PARAM)
        return;
    const int first = __builtin_ctz(mask);
    if (where == space::generic) {
        const uint64_t window = address[first] & WINDOW_MASK;
        where = window == SHARED_WINDOW  ? space::shared
                : window == LOCAL_WINDOW ? space::local
                : window == PARAM_WINDOW ? space::param
                                         : space::global;
    }
    c.local_requests += where == space::local;
    if (where != space::global && where != space::shared)
        return;
    const bool is_shared = where == space::shared;
    const uint32_t pc = static_cast<uint32_t>(&i - k.code.data()), key = 2 * pc + (is_shared ? 1 : 0);
    warp_tally &t = warps[static_cast<size_t>(w.first_thread) / WARP];
    const bool together = mask == w.full || i.kind == kind::collective;
    if (together && t.apart.find(key) == t.apart.end()) {
        record(i, pc, is_shared, mask, address, n_bytes);
        return;
    }
    apart &a = t.apart[key];
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        pending &p = a.waiting[a.done[l]++];
        p.mask |= 1u << l;
        p.address[l] = address[l];
        p.n_bytes = n_bytes;
        if (p.mask == w.full) {
            record(i, pc, is_shared, p.mask, p.address, n_bytes);
            a.waiting.erase(a.done[l] - 1);
        }
    }
    if (a.waiting.empty())
        t.apart.erase(key);
}

/* What lanes did that others never did. */
void tally::end_block()
{
    c.n_blocks_run++;
    for (warp_tally &t : warps) {
        for (uint32_t pc : t.touched) {
            lane_counts &n = t.lanes[pc];
            whole[pc] += *std::max_element(n.of, n.of + WARP);
            n = lane_counts();
        }
        t.touched.clear();
        for (auto &entry : t.apart)
            for (auto &one : entry.second.waiting)
                record(k.code[entry.first / 2], entry.first / 2, entry.first % 2 == 1, one.second.mask, one.second.address, one.second.n_bytes);
        t.apart.clear();
    }
}

counts tally::result(uint64_t n_blocks) const
{
    counts r = c;
    r.n_blocks = n_blocks;
    r.n_warps_run = c.n_blocks_run * warps.size();
    for (size_t pc = 0; pc < k.code.size(); pc++)
        r.issues[k.code[pc].issue] += whole[pc];
    for (const uneven_access &u : accesses)
        if (u.cost > u.least)
            r.uneven.push_back(u);
    r.read_sectors = read_.count();
    r.written_sectors = written_.count();
    return r;
}

/* ---- JSON ---- */

static std::string number(const char *name, uint64_t x, bool last = false)
{
    return "\"" + std::string(name) + "\":" + std::to_string(x) + (last ? "" : ",");
}

static std::string json(const global_counts &g)
{
    return "{" + number("requests", g.requests) + number("bytes", g.bytes) + number("sectors", g.sectors) +
           number("least_sectors", g.least_sectors, true) + "}";
}

static std::string json(const shared_counts &s)
{
    return "{" + number("requests", s.requests) + number("bytes", s.bytes) + number("phases", s.phases) + number("turns", s.turns) +
           number("most_ways", s.most_ways, true) + "}";
}

std::string counts_json(const counts &c)
{
    std::string s = "{" + number("blocks", c.n_blocks) + number("blocks_run", c.n_blocks_run) + number("warps_run", c.n_warps_run) + "\"issues\":{";
    for (int k = 0; k < N_ISSUE_CLASSES; k++)
        s += number(class_names[k], c.issues[k], k == N_ISSUE_CLASSES - 1);
    s += "},\"global_load\":" + json(c.load) + ",\"global_store\":" + json(c.store) + ",\"global_atomic\":" + json(c.atomic) +
         ",\"shared_load\":" + json(c.shared_load) + ",\"shared_store\":" + json(c.shared_store) + "," + number("local_requests", c.local_requests) +
         number("read_sectors", c.read_sectors) + number("written_sectors", c.written_sectors) + "\"uneven\":[";
    for (const uneven_access &u : c.uneven) {
        s += std::string(&u == &c.uneven.front() ? "" : ",") + "{\"text\":\"";
        for (const char *p = u.text; *p != 0; p++) {
            if (*p != '\n' && *p != '"')
                s += *p == '\t' ? ' ' : *p;
        }
        s += "\"," + number("requests", u.requests) + number("cost", u.cost) + number("least", u.least) +
             number("most_ways", u.most_ways, true) + "}";
    }
    return s + "]}";
}

} // namespace ptx

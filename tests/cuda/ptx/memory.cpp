/* memory.cpp: loads, stores, atomics, asynchronous copies, and the checks of every address.
 *
 * Global memory is this process's own. The accesses of a warp are checked together: the least and the greatest address against the stretch that was
 * hit last, and lane by lane only when that fails. A cp.async is done at the latest moment that the program permits, when its group is waited for;
 * until then its target is filled with 0xff, so that reading early cannot go unseen. */
#include "lanes.h"
#include "tally.h"

namespace ptx {
namespace {

range_finder finder = nullptr;

/* The stretch with this address, or one that holds everything where nobody knows. */
bool find_range(const warp &w, uint64_t address, range *out)
{
    for (const range &r : w.block->of->variable_ranges)
        if (address >= r.begin && address < r.end) {
            *out = r;
            return true;
        }
    if (finder != nullptr)
        return finder(address, out);
    *out = {4096, static_cast<uintptr_t>(1) << 48};
    return address >= out->begin && address < out->end;
}

std::string access_text(const char *what, uint64_t address, uint32_t n_bytes)
{
    char text[160];
    snprintf(text, sizeof text, "%s: %u bytes at 0x%llx", what, n_bytes, static_cast<unsigned long long>(address));
    return text;
}

uint8_t *checked_in(const warp &w, const instruction &i, int lane, const std::vector<uint8_t> &bytes, uint64_t begin, uint64_t size, uint64_t offset,
                    uint32_t n_bytes, const char *name)
{
    if (offset > size || size - offset < n_bytes)
        fail_at(w, i, lane, access_text("out of bounds", offset, n_bytes) + " of " + std::to_string(size) + " bytes of " + name + " memory");
    return const_cast<uint8_t *>(bytes.data()) + begin + offset;
}

uint8_t *global_place(warp &w, const instruction &i, int lane, uint64_t address, uint32_t n_bytes)
{
    if (address < w.last_hit.begin || address + n_bytes > w.last_hit.end) {
        if (!find_range(w, address, &w.last_hit))
            fail_at(w, i, lane, access_text("outside every buffer", address, n_bytes));
        if (address + n_bytes > w.last_hit.end)
            fail_at(w, i, lane, access_text("beyond the end of a buffer", address, n_bytes));
    }
    return reinterpret_cast<uint8_t *>(address);
}

uint8_t *place(warp &w, const instruction &i, int lane, space where, uint64_t address, uint32_t n_bytes)
{
    if ((address & (n_bytes - 1)) != 0)
        fail_at(w, i, lane, access_text("misaligned", address, n_bytes));
    if (where == space::generic) {
        uint64_t window = address & WINDOW_MASK;
        where = window == SHARED_WINDOW  ? space::shared
                : window == LOCAL_WINDOW ? space::local
                : window == PARAM_WINDOW ? space::param
                                         : space::global;
        address = where == space::global ? address : address & ~WINDOW_MASK;
    }
    block_state &b = *w.block;
    switch (where) {
    case space::shared: return checked_in(w, i, lane, b.shared, 0, b.shared.size(), address, n_bytes, "shared");
    case space::param: return checked_in(w, i, lane, b.parameters, 0, b.parameters.size(), address, n_bytes, "parameter");
    case space::local: {
        uint64_t size = b.kernel->local_bytes;
        return checked_in(w, i, lane, w.local, static_cast<uint64_t>(lane) * size, size, address, n_bytes, "local");
    }
    default: return global_place(w, i, lane, address, n_bytes);
    }
}

void addresses(warp &w, const instruction &i, uint32_t base, int64_t offset, uint64_t out[WARP])
{
    if ((i.wide >> base & 1) != 0) {
        const uint64_t *b = w.row64(i.a[base]);
        for (int l = 0; l < WARP; l++)
            out[l] = b[l] + static_cast<uint64_t>(offset);
    } else {
        const uint32_t *b = w.row32(i.a[base]);
        for (int l = 0; l < WARP; l++)
            out[l] = static_cast<uint32_t>(b[l] + static_cast<uint32_t>(offset));
    }
}

/* All of a full warp's addresses at once. */
bool all_in_last_hit(const warp &w, const uint64_t address[WARP], uint32_t n_bytes)
{
    uint64_t low = ~0ull, high = 0, bits = 0;
    for (int l = 0; l < WARP; l++) {
        low = address[l] < low ? address[l] : low;
        high = address[l] > high ? address[l] : high;
        bits |= address[l];
    }
    return (bits & (n_bytes - 1)) == 0 && low >= w.last_hit.begin && high < w.last_hit.end && w.last_hit.end - high >= n_bytes;
}

template <class T> void copy_element(slot<T> *d, uint8_t *const places[WARP], uint32_t mask, int element)
{
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        T x;
        memcpy(&x, places[l] + element * sizeof(T), sizeof x);
        d[l] = static_cast<slot<T>>(x); // signed types are extended
    }
}

template <class T> void load(warp &w, const instruction &i, uint32_t mask)
{
    uint8_t *places[WARP];
    const uint32_t n = i.n_elements;
    resolve(w, i, mask, i.where, n, i.offset, i.n_bytes, places);
    for (uint32_t e = 0; e < n; e++) {
        if ((i.wide >> e & 1) == 0) {
            if constexpr (sizeof(T) < 8)
                copy_element<T>(w.row32(i.a[e]), places, mask, static_cast<int>(e));
            else
                fail_at(w, i, -1, "loads 64 bits into a narrower register");
            continue;
        }
        uint64_t *d = w.row64(i.a[e]);
        for (int l = 0; l < WARP; l++) {
            if (!is_active(mask, l))
                continue;
            T x;
            memcpy(&x, places[l] + e * sizeof(T), sizeof x);
            d[l] = static_cast<uint64_t>(x);
        }
    }
}

template <class T> void store(warp &w, const instruction &i, uint32_t mask)
{
    uint8_t *places[WARP];
    resolve(w, i, mask, i.where, 0, i.offset, i.n_bytes, places);
    for (uint32_t e = 0; e < i.n_elements; e++) {
        const bool wide = (i.wide >> (1 + e) & 1) != 0;
        if (sizeof(T) == 8 && !wide)
            fail_at(w, i, -1, "stores 64 bits of a narrower register");
        for (int l = 0; l < WARP; l++) {
            if (!is_active(mask, l))
                continue;
            T x = static_cast<T>(wide ? w.row64(i.a[1 + e])[l] : w.row32(i.a[1 + e])[l]);
            memcpy(places[l] + e * sizeof(T), &x, sizeof x);
        }
    }
}

bool load_of(const std::string &type, handler *out)
{
    const int n = type_bytes(type);
    if (type[0] == 's')
        *out = n == 1 ? load<int8_t> : n == 2 ? load<int16_t> : n == 4 ? load<int32_t> : load<int64_t>;
    else
        *out = n == 1 ? load<uint8_t> : n == 2 ? load<uint16_t> : n == 4 ? load<uint32_t> : load<uint64_t>;
    return n != 0;
}

bool store_of(const std::string &type, handler *out)
{
    const int n = type_bytes(type);
    *out = n == 1 ? store<uint8_t> : n == 2 ? store<uint16_t> : n == 4 ? store<uint32_t> : store<uint64_t>;
    return n != 0;
}

/* ---- atomics ---- */

enum atomic { ADD, MIN, MAX, AND, OR, XOR, EXCHANGE, SWAP_IF_EQUAL };

template <class T> T updated(T old, T b, T c, int64_t how)
{
    switch (how) {
    case ADD: return static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(b));
    case MIN: return old < b ? old : b;
    case MAX: return old > b ? old : b;
    case AND: return old & b;
    case OR: return old | b;
    case XOR: return old ^ b;
    case EXCHANGE: return b;
    default: return old == b ? c : old;
    }
}

/* Lanes one after another. atom d, [a], b{, c} returns what was there; red [a], b does not. */
template <class T, bool RETURNS> void atomically(warp &w, const instruction &i, uint32_t mask)
{
    uint8_t *places[WARP];
    const uint32_t base = RETURNS ? 1 : 0;
    resolve(w, i, mask, i.where, base, i.offset, sizeof(T), places);
    const slot<T> *b = row<T>(w, i.a[base + 1]), *c = i.n_operands > base + 2 ? row<T>(w, i.a[base + 2]) : b;
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        T old;
        memcpy(&old, places[l], sizeof old);
        T x = updated<T>(old, unpack<T>(b[l]), unpack<T>(c[l]), i.mode);
        memcpy(places[l], &x, sizeof x);
        if constexpr (RETURNS)
            row<T>(w, i.a[0])[l] = pack<T>(old);
    }
}

bool find_atomic(const std::vector<std::string> &p, size_t k, bool returns, operation *out)
{
    static const std::map<std::string, int> names = {{"add", ADD}, {"min", MIN}, {"max", MAX}, {"and", AND}, {"or", OR}, {"xor", XOR},
                                                     {"exch", EXCHANGE}, {"cas", SWAP_IF_EQUAL}};
    if (p.size() != k + 2 || names.count(p[k]) == 0)
        return false;
    const std::string &type = p[k + 1];
    out->mode = names.at(p[k]);
    const char width = type_bytes(type) == 8 ? 'L' : 'S';
    if (type == "u32" || type == "b32")
        out->run = returns ? atomically<uint32_t, true> : atomically<uint32_t, false>;
    else if (type == "s32")
        out->run = returns ? atomically<int32_t, true> : atomically<int32_t, false>;
    else if (type == "u64" || type == "b64")
        out->run = returns ? atomically<uint64_t, true> : atomically<uint64_t, false>;
    else if (type == "s64")
        out->run = returns ? atomically<int64_t, true> : atomically<int64_t, false>;
    else
        return false;
    out->operands = returns ? std::string{width, 'A', width} : std::string{'A', width};
    if (out->mode == SWAP_IF_EQUAL)
        out->operands += width;
    return true;
}

/* ---- cp.async ---- */

/* cp.async [shared], [global], n{, n_from_source}: what the source does not give is zero. */
void copy_later(warp &w, const instruction &i, uint32_t mask)
{
    uint8_t *targets[WARP], *sources[WARP];
    const uint32_t n = *w.row32(i.a[2]);
    resolve(w, i, mask, space::shared, 0, i.offset, n, targets);
    uint32_t reading = 0;
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l) && (i.n_operands < 4 || w.row32(i.a[3])[l] != 0))
            reading |= 1u << l;
    resolve(w, i, reading, space::global, 1, i.offset2, n, sources);
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        uint32_t given = i.n_operands < 4 ? n : w.row32(i.a[3])[l];
        if (given > n)
            fail_at(w, i, l, "copies more than the size it names");
        memset(targets[l], 0xff, n);
        const uint64_t source = given != 0 ? reinterpret_cast<uint64_t>(sources[l]) : 0;
        const uint32_t target = static_cast<uint32_t>(targets[l] - w.block->shared.data());
        w.copies.push_back({source, target, given, n - given, w.group[l], l});
    }
}

void commit_copies(warp &w, const instruction &, uint32_t mask)
{
    for (int l = 0; l < WARP; l++)
        w.group[l] += is_active(mask, l);
}

/* Waits until at most `most` of a lane's groups are on their way. */
void finish_copies(warp &w, uint32_t mask, uint32_t most)
{
    size_t kept = 0;
    for (const copy_in_flight &c : w.copies) {
        if (!is_active(mask, c.lane) || w.group[c.lane] - c.group <= most) {
            w.copies[kept++] = c;
            continue;
        }
        uint8_t *target = w.block->shared.data() + c.target;
        if (c.n_bytes != 0)
            memcpy(target, reinterpret_cast<const void *>(c.source), c.n_bytes);
        memset(target + c.n_bytes, 0, c.n_zeros);
    }
    w.copies.resize(kept);
}

void wait_copies(warp &w, const instruction &i, uint32_t mask) { finish_copies(w, mask, *w.row32(i.a[0])); }

/* Everything that was begun, committed or not. */
void wait_all_copies(warp &w, const instruction &i, uint32_t mask)
{
    commit_copies(w, i, mask);
    finish_copies(w, mask, 0);
}

void nothing(warp &, const instruction &, uint32_t) {}

} // namespace

void find_ranges_with(range_finder f) { finder = f; }

void resolve(warp &w, const instruction &i, uint32_t mask, space where, uint32_t base, int64_t offset, uint32_t n_bytes, uint8_t *places_out[WARP])
{
    uint64_t address[WARP];
    addresses(w, i, base, offset, address);
    if (mask == ~0u && (where == space::global || where == space::generic) && all_in_last_hit(w, address, n_bytes)) {
        for (int l = 0; l < WARP; l++)
            places_out[l] = reinterpret_cast<uint8_t *>(address[l]);
    } else {
        for (int l = 0; l < WARP; l++)
            if (is_active(mask, l))
                places_out[l] = place(w, i, l, where, address[l], n_bytes);
    }
    if (w.tally != nullptr)
        w.tally->access(w, i, mask, where, address, n_bytes);
}

bool find_memory(const std::string &opcode, operation *out)
{
    static const std::map<std::string, space> spaces = {{"global", space::global}, {"const", space::global}, {"shared", space::shared},
                                                        {"local", space::local}, {"param", space::param}};
    static const std::map<std::string, operation> whole = {
        {"cp.async.shared.global", {copy_later, "AAS?S"}},
        {"cp.async.commit_group", {commit_copies, ""}},
        {"cp.async.wait_group", {wait_copies, "S"}},
        {"cp.async.wait_all", {wait_all_copies, ""}},
        {"membar", {nothing, ""}},
        {"fence", {nothing, ""}},
        {"prefetch.global", {nothing, "A"}},
    };
    std::vector<std::string> p = opcode_parts(opcode);
    std::string joined;
    for (const std::string &part : p)
        joined += (joined.empty() ? "" : ".") + part;
    auto found = whole.find(joined);
    if (found != whole.end()) {
        *out = found->second;
        return true;
    }
    size_t k = 1;
    if (k < p.size() && spaces.count(p[k]) != 0)
        out->where = spaces.at(p[k++]);
    if (p[0] == "atom" || p[0] == "red")
        return find_atomic(p, k, p[0] == "atom", out);
    if (p[0] != "ld" && p[0] != "st")
        return false;
    if (k < p.size() && p[k].size() == 2 && p[k][0] == 'v')
        out->n_elements = p[k++][1] - '0';
    if (k + 1 != p.size() || out->n_elements < 1 || out->n_elements > MAX_VECTOR)
        return false;
    out->n_bytes = out->n_elements * type_bytes(p[k]);
    std::string values(static_cast<size_t>(out->n_elements), 'R');
    out->operands = p[0] == "ld" ? values + "A" : "A" + values;
    return p[0] == "ld" ? load_of(p[k], &out->run) : store_of(p[k], &out->run);
}

} // namespace ptx

/* convert.cpp: cvt and cvta.
 *
 * A float becomes an integer by the rounding that the opcode names, clamped to the type; a NaN becomes 0, or the least value where a 64-bit type is
 * involved. An integer becomes an integer by truncation, or clamped where the opcode says .sat. A result narrower than its register is extended by
 * its sign; registers of 16 bits lie in 32-bit rows, and whoever reads one takes its low half. */
#include "lanes.h"
#include <cmath>
#include <limits>

namespace ptx {
namespace {

struct half {
    uint16_t bits;
};
struct bfloat {
    uint16_t bits;
};

enum rounding { NONE, RN, RNI, RZI, RMI, RPI };
enum { SATURATE = 16 };

template <class T> constexpr bool is_float = !std::is_integral_v<T>;
template <class T> constexpr bool is_short_float = std::is_same_v<T, half> || std::is_same_v<T, bfloat>;

inline float canonical(float x) { return x != x ? unpack<float>(0x7fffffffu) : x; }

inline float widened(half h)
{
    _Float16 f;
    memcpy(&f, &h, sizeof f);
    return canonical(static_cast<float>(f));
}

inline float widened(bfloat h) { return canonical(unpack<float>(static_cast<uint32_t>(h.bits) << 16)); }

inline void narrow(float x, half *out)
{
    _Float16 f = static_cast<_Float16>(x);
    memcpy(out, &f, sizeof f);
    if (x != x)
        out->bits = 0x7fff;
}

inline void narrow(float x, bfloat *out)
{
    uint32_t u = pack<float>(x);
    out->bits = x != x ? 0x7fff : static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

template <class F> F rounded(F x, int mode)
{
    switch (mode & 15) {
    case RNI: return std::nearbyint(x);
    case RZI: return std::trunc(x);
    case RMI: return std::floor(x);
    case RPI: return std::ceil(x);
    default: return x;
    }
}

template <class I, class F> I clamped(F x)
{
    if (x != x)
        return sizeof(I) == 8 || sizeof(F) == 8 ? I(I(1) << (sizeof(I) * 8 - 1)) : I(0);
    // Both bounds are powers of two, so exact: the upper one is the first value that does not fit.
    const F low = static_cast<F>(std::numeric_limits<I>::min()), high = std::ldexp(F(1), std::numeric_limits<I>::digits);
    if (x < low)
        return std::numeric_limits<I>::min();
    return x >= high ? std::numeric_limits<I>::max() : static_cast<I>(x);
}

template <class D, class S> D clamped_integer(S x)
{
    __int128 wide = x, low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
    return static_cast<D>(wide < low ? low : wide > high ? high : wide);
}

/* The value of a lane's conversion. */
template <class D, class S> inline D converted(S x, int mode)
{
    if constexpr (is_short_float<S> && is_short_float<D>) {
        D d;
        narrow(widened(x), &d);
        return d;
    } else if constexpr (is_short_float<S>) {
        return converted<D, float>(widened(x), mode);
    } else if constexpr (is_short_float<D>) {
        D d;
        narrow(static_cast<float>(x), &d);
        return d;
    } else if constexpr (is_float<S> && is_float<D>) {
        D d = static_cast<D>(std::is_same_v<D, S> ? rounded(x, mode) : x);
        if constexpr (sizeof(D) == 4)
            d = canonical(d);
        if ((mode & SATURATE) != 0)
            d = d >= D(0) ? (d > D(1) ? D(1) : d) : D(0);
        return d;
    } else if constexpr (is_float<S>) {
        return clamped<D>(rounded(x, mode));
    } else if constexpr (is_float<D>) {
        return static_cast<D>(x);
    } else {
        return (mode & SATURATE) != 0 ? clamped_integer<D>(x) : static_cast<D>(x);
    }
}

/* Into a row: integers extended by their own sign. */
template <class SLOT, class T> inline SLOT placed(T x)
{
    if constexpr (std::is_integral_v<T>)
        return static_cast<SLOT>(x);
    else
        return static_cast<SLOT>(pack<T>(x));
}

template <class D, class S, class TO, class FROM, int MODE> void run_one(warp &w, const instruction &i, uint32_t mask)
{
    TO *d = row<TO>(w, i.a[0]);
    const FROM *s = row<FROM>(w, i.a[1]);
    const int mode = MODE >= 0 ? MODE : static_cast<int>(i.mode);
    if (mask == ~0u) {
#pragma GCC ivdep
        for (int l = 0; l < WARP; l++)
            d[l] = placed<TO>(converted<D, S>(unpack<S>(static_cast<slot<S>>(s[l])), mode));
        return;
    }
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = placed<TO>(converted<D, S>(unpack<S>(static_cast<slot<S>>(s[l])), mode));
}

/* The mode is a constant where code without it is shorter: plain conversions. */
template <class D, class S, class TO, class FROM> void run_mode(warp &w, const instruction &i, uint32_t mask)
{
    if (i.mode == NONE || i.mode == RN)
        run_one<D, S, TO, FROM, NONE>(w, i, mask);
    else
        run_one<D, S, TO, FROM, -1>(w, i, mask);
}

/* A register may be wider than the type it holds. */
template <class D, class S> void run(warp &w, const instruction &i, uint32_t mask)
{
    const bool to64 = (i.wide & 1) != 0, from64 = (i.wide & 2) != 0;
    if ((sizeof(D) == 8 && !to64) || (sizeof(S) == 8 && !from64))
        fail_at(w, i, -1, "converts a register narrower than its type");
    if (to64 && from64)
        run_mode<D, S, uint64_t, uint64_t>(w, i, mask);
    else if (to64)
        run_mode<D, S, uint64_t, uint32_t>(w, i, mask);
    else if (from64)
        run_mode<D, S, uint32_t, uint64_t>(w, i, mask);
    else
        run_mode<D, S, uint32_t, uint32_t>(w, i, mask);
}

template <class D> handler from_type(const std::string &s)
{
    if (s == "u8") return run<D, uint8_t>;
    if (s == "s8") return run<D, int8_t>;
    if (s == "u16") return run<D, uint16_t>;
    if (s == "s16") return run<D, int16_t>;
    if (s == "u32") return run<D, uint32_t>;
    if (s == "s32") return run<D, int32_t>;
    if (s == "u64") return run<D, uint64_t>;
    if (s == "s64") return run<D, int64_t>;
    if (s == "f16") return run<D, half>;
    if (s == "bf16") return run<D, bfloat>;
    if (s == "f32") return run<D, float>;
    if (s == "f64") return run<D, double>;
    return nullptr;
}

handler both_types(const std::string &d, const std::string &s)
{
    // From a double or an integer a short float would be rounded twice here.
    if ((d == "f16" || d == "bf16") && s != "f32")
        return nullptr;
    if (d == "u8") return from_type<uint8_t>(s);
    if (d == "s8") return from_type<int8_t>(s);
    if (d == "u16") return from_type<uint16_t>(s);
    if (d == "s16") return from_type<int16_t>(s);
    if (d == "u32") return from_type<uint32_t>(s);
    if (d == "s32") return from_type<int32_t>(s);
    if (d == "u64") return from_type<uint64_t>(s);
    if (d == "s64") return from_type<int64_t>(s);
    if (d == "f16") return run<half, float>;
    if (d == "bf16") return run<bfloat, float>;
    if (d == "f32") return from_type<float>(s);
    if (d == "f64") return from_type<double>(s);
    return nullptr;
}

/* cvt.rn.f16x2.f32 d, a, b: a in the upper half. */
template <class H> void narrow_two(warp &w, const instruction &i, uint32_t mask)
{
    lanes2<uint32_t, float, float>(w, i, mask, [](float a, float b) {
        H upper, lower;
        narrow(a, &upper);
        narrow(b, &lower);
        return static_cast<uint32_t>(upper.bits) << 16 | lower.bits;
    });
}

/* cvt.pack.sat.s8.s32.b32 d, a, b, c: c's low half moves up, then a, then b. */
template <class T> void pack_bytes(warp &w, const instruction &i, uint32_t mask)
{
    lanes3<uint32_t, int32_t, int32_t, uint32_t>(w, i, mask, [](int32_t a, int32_t b, uint32_t c) {
        return c << 16 | static_cast<uint32_t>(static_cast<uint8_t>(clamped_integer<T>(a))) << 8 | static_cast<uint8_t>(clamped_integer<T>(b));
    });
}

template <uint64_t WINDOW, bool TO_GENERIC> void move_window(warp &w, const instruction &i, uint32_t mask)
{
    lanes1<uint64_t, uint64_t>(w, i, mask, [](uint64_t a) { return TO_GENERIC ? a | WINDOW : a & ~WINDOW; });
}

bool find_address(const std::vector<std::string> &p, operation *out)
{
    // cvta.space.u64 makes a generic address of one in the space, cvta.to.space.u64 the reverse.
    if (p.back() != "u64" || (p.size() != 3 && (p.size() != 4 || p[1] != "to")))
        return false;
    const bool to_generic = p.size() == 3;
    const std::string &where = p[p.size() - 2];
    out->operands = "LL";
    if (where == "global" || where == "const")
        out->run = move_window<0, true>;
    else if (where == "shared")
        out->run = to_generic ? move_window<SHARED_WINDOW, true> : move_window<SHARED_WINDOW, false>;
    else if (where == "local")
        out->run = to_generic ? move_window<LOCAL_WINDOW, true> : move_window<LOCAL_WINDOW, false>;
    else if (where == "param")
        out->run = to_generic ? move_window<PARAM_WINDOW, true> : move_window<PARAM_WINDOW, false>;
    else
        return false;
    return true;
}

} // namespace

bool find_conversion(const std::string &opcode, operation *out)
{
    static const std::map<std::string, operation> special = {
        {"cvt.rn.f16x2.f32", {narrow_two<half>, "SSS"}},
        {"cvt.rn.bf16x2.f32", {narrow_two<bfloat>, "SSS"}},
        {"cvt.pack.sat.s8.s32.b32", {pack_bytes<int8_t>, "SSSS"}},
        {"cvt.pack.sat.u8.s32.b32", {pack_bytes<uint8_t>, "SSSS"}},
    };
    static const std::map<std::string, int> modes = {{"rn", RN}, {"rni", RNI}, {"rzi", RZI}, {"rmi", RMI}, {"rpi", RPI}, {"sat", SATURATE}};
    auto found = special.find(opcode);
    if (found != special.end()) {
        *out = found->second;
        return true;
    }
    std::vector<std::string> p = opcode_parts(opcode);
    if (p[0] == "cvta")
        return find_address(p, out);
    if (p[0] != "cvt" || p.size() < 3)
        return false;
    const std::string &d = p[p.size() - 2], &s = p[p.size() - 1];
    for (size_t k = 1; k + 2 < p.size(); k++) {
        auto mode = modes.find(p[k]);
        if (mode == modes.end())
            return false;
        out->mode |= mode->second;
    }
    // A float that loses digits says how.
    if (s[0] == 'f' && d[0] != 'f' && d[0] != 'b' && (out->mode & 15) < RNI)
        return false;
    out->run = both_types(d, s);
    out->operands = "RR";
    return out->run != nullptr;
}

} // namespace ptx

/* arithmetic.cpp: what computes on registers alone: integers, bits, floats, comparisons, predicates.
 *
 * Floats are the host's IEEE ones, round to nearest even, denormals on, each operation by itself (-ffp-contract=off) and fma exact. Only what is
 * rounded explicitly (.rn) or exact is known here: an approximation or a flush to zero in a kernel's PTX is an unknown opcode. A NaN that arithmetic
 * in f32 makes is 0x7fffffff, as the processor makes it. */
#include "lanes.h"
#include <cmath>

namespace ptx {
namespace {

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef std::unordered_map<std::string, operation> table;

/* ---- floats ---- */

inline float f32_of(u32 bits) { return unpack<float>(bits); }
inline float made(float x) { return x != x ? f32_of(0x7fffffffu) : x; }
inline double made(double x) { return x; }

template <class T> T least(T a, T b)
{
    if (a != a || b != b)
        return a != a ? made(b) : a;
    if (a == b)
        return std::signbit(a) ? a : b;
    return a < b ? a : b;
}

template <class T> T greatest(T a, T b)
{
    if (a != a || b != b)
        return a != a ? made(b) : a;
    if (a == b)
        return std::signbit(a) ? b : a;
    return a > b ? a : b;
}

template <class T> void add_floats(table &t, const std::string &type)
{
    auto plus = binary<T>([](T a, T b) { return made(a + b); });
    auto minus = binary<T>([](T a, T b) { return made(a - b); });
    auto times = binary<T>([](T a, T b) { return made(a * b); });
    t["add.rn." + type] = plus;
    t["sub.rn." + type] = minus;
    t["mul.rn." + type] = times;
    t["div.rn." + type] = binary<T>([](T a, T b) { return made(a / b); });
    t["rcp.rn." + type] = unary<T>([](T a) { return made(T(1) / a); });
    t["sqrt.rn." + type] = unary<T>([](T a) { return made(std::sqrt(a)); });
    t["fma.rn." + type] = ternary<T>([](T a, T b, T c) { return made(std::fma(a, b, c)); });
    t["min." + type] = binary<T>([](T a, T b) { return least(a, b); });
    t["max." + type] = binary<T>([](T a, T b) { return greatest(a, b); });
    t["abs." + type] = unary<T>([](T a) { return std::fabs(a); });
    t["neg." + type] = unary<T>([](T a) { return -a; });
    // PTX takes the sign from the first operand.
    t["copysign." + type] = binary<T>([](T a, T b) { return std::copysign(b, a); });
}

/* ---- integers ---- */

template <class T> T shifted_left(T a, u32 by) { return by >= sizeof(T) * 8 ? T(0) : T(a << by); }

template <class T> T shifted_right(T a, u32 by)
{
    u32 most = sizeof(T) * 8 - 1;
    if (by > most)
        return std::is_signed_v<T> ? T(a >> most) : T(0);
    return T(a >> by);
}

template <class T> T quotient(T a, T b)
{
    if (std::is_signed_v<T> && b == T(-1))
        return T(std::make_unsigned_t<T>(0) - std::make_unsigned_t<T>(a));
    return T(a / b);
}

template <class T> T remainder_of(T a, T b) { return b == T(-1) && std::is_signed_v<T> ? T(0) : T(a % b); }

template <class T, bool REMAINDER> void divide(warp &w, const instruction &i, uint32_t mask)
{
    const slot<T> *b = row<T>(w, i.a[2]);
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l) && unpack<T>(b[l]) == 0)
            fail_at(w, i, l, "divides by zero");
    if constexpr (REMAINDER)
        lanes2<T, T, T>(w, i, mask, [](T a, T d) { return d == 0 ? T(0) : remainder_of(a, d); });
    else
        lanes2<T, T, T>(w, i, mask, [](T a, T d) { return d == 0 ? T(0) : quotient(a, d); });
}

/* What is the same for signed and unsigned types goes by both names. */
template <class U> void add_integers(table &t, char sign)
{
    typedef std::make_signed_t<U> S;
    const std::string n = std::to_string(sizeof(U) * 8), type = sign + n, bits = "b" + n;
    t["add." + type] = binary<U>([](U a, U b) { return U(a + b); });
    t["sub." + type] = binary<U>([](U a, U b) { return U(a - b); });
    t["mul.lo." + type] = binary<U>([](U a, U b) { return U(u64(a) * b); });
    t["mad.lo." + type] = ternary<U>([](U a, U b, U c) { return U(u64(a) * b + c); });
    t["neg." + type] = unary<U>([](U a) { return U(-a); });
    t["abs." + type] = unary<S>([](S a) { return S(a < 0 ? -U(a) : U(a)); });
    t["mov." + type] = unary<U>([](U a) { return a; });
    if (sign != 's')
        return;
    for (const char *name : {"and.", "or.", "xor.", "not.", "shl.", "mov."})
        t.erase(name + bits);
    t["and." + bits] = binary<U>([](U a, U b) { return U(a & b); });
    t["or." + bits] = binary<U>([](U a, U b) { return U(a | b); });
    t["xor." + bits] = binary<U>([](U a, U b) { return U(a ^ b); });
    t["not." + bits] = unary<U>([](U a) { return U(~a); });
    t["mov." + bits] = t["mov." + type];
    t["shl." + bits] = binary<U, U, u32>([](U a, u32 by) { return shifted_left(a, by); });
    t["shr.u" + n] = t["shr." + bits] = binary<U, U, u32>([](U a, u32 by) { return shifted_right(a, by); });
    t["shr.s" + n] = binary<S, S, u32>([](S a, u32 by) { return shifted_right(a, by); });
    t["selp." + bits] = t["selp.s" + n] = t["selp.u" + n] = operation{
        [](warp &w, const instruction &i, uint32_t mask) {
            slot<U> *d = row<U>(w, i.a[0]), *a = row<U>(w, i.a[1]), *b = row<U>(w, i.a[2]);
            uint32_t p = w.predicate(i.a[3]);
            for (int l = 0; l < WARP; l++)
                if (is_active(mask, l))
                    d[l] = is_active(p, l) ? a[l] : b[l];
        },
        {letter<U>(), letter<U>(), letter<U>(), 'P'}};
}

template <class T> void add_ordered(table &t, const std::string &type)
{
    t["min." + type] = binary<T>([](T a, T b) { return a < b ? a : b; });
    t["max." + type] = binary<T>([](T a, T b) { return a > b ? a : b; });
    std::string pair = {letter<T>(), letter<T>(), letter<T>()};
    t["div." + type] = operation{divide<T, false>, pair};
    t["rem." + type] = operation{divide<T, true>, pair};
}

template <class T, class WIDE> void add_products(table &t, const std::string &type)
{
    enum { N = sizeof(T) * 8 };
    t["mul.hi." + type] = binary<T>([](T a, T b) { return T((WIDE(a) * b) >> N); });
    t["mad.hi." + type] = ternary<T>([](T a, T b, T c) { return T(T((WIDE(a) * b) >> N) + std::make_unsigned_t<T>(c)); });
    if constexpr (N < 64) {
        t["mul.wide." + type] = binary<WIDE, T>([](T a, T b) { return WIDE(WIDE(a) * WIDE(b)); });
        t["mad.wide." + type] = ternary<WIDE, T, T, WIDE>([](T a, T b, WIDE c) {
            return WIDE(std::make_unsigned_t<WIDE>(WIDE(a) * WIDE(b)) + std::make_unsigned_t<WIDE>(c));
        });
    }
}

/* ---- bits ---- */

inline u32 chosen_bytes(u32 a, u32 b, u32 selector)
{
    u64 bytes = u64(b) << 32 | a;
    u32 d = 0;
    for (int k = 0; k < 4; k++) {
        u32 s = selector >> 4 * k & 15, byte = u32(bytes >> 8 * (s & 7)) & 255;
        if ((s & 8) != 0) // the byte's sign, eight times
            byte = (byte & 128) != 0 ? 255 : 0;
        d |= byte << 8 * k;
    }
    return d;
}

template <class U> U field(U a, u32 position, u32 n, bool is_signed)
{
    position &= 255;
    n &= 255;
    const u32 most = sizeof(U) * 8 - 1;
    u32 last = position + n - 1 < most ? position + n - 1 : most;
    U sign = !is_signed || n == 0 ? U(0) : U(a >> last & 1), d = 0;
    for (u32 k = 0; k <= most; k++)
        d |= U(k < n && position + k <= most ? a >> (position + k) & 1 : sign) << k;
    return d;
}

template <class U> U inserted(U a, U b, u32 position, u32 n)
{
    position &= 255;
    n &= 255;
    for (u32 k = 0; k < n && position + k < sizeof(U) * 8; k++)
        b = U((b & ~(U(1) << (position + k))) | (a >> k & 1) << (position + k));
    return b;
}

template <class A, class B> s32 dot4(u32 a, u32 b, s32 c)
{
    u32 sum = u32(c);
    for (int k = 0; k < 4; k++)
        sum += u32(s32(A(u16(a >> 8 * k & 255))) * s32(B(u16(b >> 8 * k & 255))));
    return s32(sum);
}

void logic3(warp &w, const instruction &i, uint32_t mask)
{
    uint32_t *d = w.row32(i.a[0]), *a = w.row32(i.a[1]), *b = w.row32(i.a[2]), *c = w.row32(i.a[3]), lut = *w.row32(i.a[4]);
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        u32 r = 0;
        for (int k = 0; k < 8; k++)
            if ((lut >> k & 1) != 0)
                r |= ((k & 4) != 0 ? a[l] : ~a[l]) & ((k & 2) != 0 ? b[l] : ~b[l]) & ((k & 1) != 0 ? c[l] : ~c[l]);
        d[l] = r;
    }
}

template <class U> void insert_field(warp &w, const instruction &i, uint32_t mask)
{
    slot<U> *d = row<U>(w, i.a[0]), *a = row<U>(w, i.a[1]), *b = row<U>(w, i.a[2]);
    uint32_t *position = w.row32(i.a[3]), *n = w.row32(i.a[4]);
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = inserted<U>(a[l], b[l], position[l], n[l]);
}

void add_bits(table &t)
{
    t["prmt.b32"] = ternary<u32>([](u32 a, u32 b, u32 selector) { return chosen_bytes(a, b, selector); });
    t["lop3.b32"] = operation{logic3, "SSSSS"};
    t["bfe.u32"] = ternary<u32>([](u32 a, u32 p, u32 n) { return field(a, p, n, false); });
    t["bfe.s32"] = ternary<u32>([](u32 a, u32 p, u32 n) { return field(a, p, n, true); });
    t["bfe.u64"] = ternary<u64, u64, u32>([](u64 a, u32 p, u32 n) { return field(a, p, n, false); });
    t["bfe.s64"] = ternary<u64, u64, u32>([](u64 a, u32 p, u32 n) { return field(a, p, n, true); });
    t["bfi.b32"] = operation{insert_field<u32>, "SSSSS"};
    t["bfi.b64"] = operation{insert_field<u64>, "LLLSS"};
    t["shf.l.wrap.b32"] = ternary<u32>([](u32 a, u32 b, u32 n) { return u32((u64(b) << 32 | a) << (n & 31) >> 32); });
    t["shf.r.wrap.b32"] = ternary<u32>([](u32 a, u32 b, u32 n) { return u32((u64(b) << 32 | a) >> (n & 31)); });
    t["shf.l.clamp.b32"] = ternary<u32>([](u32 a, u32 b, u32 n) { return n >= 32 ? a : u32((u64(b) << 32 | a) << n >> 32); });
    t["shf.r.clamp.b32"] = ternary<u32>([](u32 a, u32 b, u32 n) { return n >= 32 ? b : u32((u64(b) << 32 | a) >> n); });
    t["popc.b32"] = unary<u32>([](u32 a) { return u32(__builtin_popcount(a)); });
    t["popc.b64"] = unary<u32, u64>([](u64 a) { return u32(__builtin_popcountll(a)); });
    t["clz.b32"] = unary<u32>([](u32 a) { return a == 0 ? 32u : u32(__builtin_clz(a)); });
    t["clz.b64"] = unary<u32, u64>([](u64 a) { return a == 0 ? 64u : u32(__builtin_clzll(a)); });
    t["brev.b32"] = unary<u32>([](u32 a) {
        u32 r = 0;
        for (int k = 0; k < 32; k++)
            r |= (a >> k & 1) << (31 - k);
        return r;
    });
    t["bfind.u32"] = unary<u32>([](u32 a) { return a == 0 ? ~0u : 31u - u32(__builtin_clz(a)); });
    t["bfind.shiftamt.u32"] = unary<u32>([](u32 a) { return a == 0 ? ~0u : u32(__builtin_clz(a)); });
    t["dp4a.s32.s32"] = ternary<s32, u32, u32, s32>([](u32 a, u32 b, s32 c) { return dot4<int8_t, int8_t>(a, b, c); });
    t["dp4a.u32.s32"] = ternary<s32, u32, u32, s32>([](u32 a, u32 b, s32 c) { return dot4<uint8_t, int8_t>(a, b, c); });
    t["dp4a.s32.u32"] = ternary<s32, u32, u32, s32>([](u32 a, u32 b, s32 c) { return dot4<int8_t, uint8_t>(a, b, c); });
    t["dp4a.u32.u32"] = ternary<s32, u32, u32, s32>([](u32 a, u32 b, s32 c) { return dot4<uint8_t, uint8_t>(a, b, c); });
}

/* ---- comparisons and predicates ---- */

enum combination { ALONE, AND, OR, XOR };

template <class T, class F> operation comparison(F f, combination with)
{
    static const F kept = f;
    operation o{[](warp &w, const instruction &i, uint32_t mask) {
                    const slot<T> *a = row<T>(w, i.a[1]), *b = row<T>(w, i.a[2]);
                    uint32_t r = 0;
                    for (int l = 0; l < WARP; l++)
                        r |= uint32_t(kept(unpack<T>(a[l]), unpack<T>(b[l]))) << l;
                    if (i.mode == AND)
                        r &= w.predicate(i.a[3]);
                    else if (i.mode == OR)
                        r |= w.predicate(i.a[3]);
                    else if (i.mode == XOR)
                        r ^= w.predicate(i.a[3]);
                    w.set_predicate(i.a[0], mask, r);
                },
                {'P', letter<T>(), letter<T>()}};
    if (with != ALONE)
        o.operands += 'P';
    o.mode = with;
    return o;
}

template <class T, class F> void add_comparison(table &t, const char *name, const std::string &type, F f)
{
    const char *const combined[] = {"", "and.", "or.", "xor."};
    for (int c = ALONE; c <= XOR; c++)
        t[std::string("setp.") + name + "." + combined[c] + type] = comparison<T>(f, combination(c));
}

template <class T> void add_comparisons(table &t, const std::string &type)
{
    add_comparison<T>(t, "eq", type, [](T a, T b) { return a == b; });
    add_comparison<T>(t, "ne", type, [](T a, T b) { return a == a && b == b && a != b; });
    add_comparison<T>(t, "lt", type, [](T a, T b) { return a < b; });
    add_comparison<T>(t, "le", type, [](T a, T b) { return a <= b; });
    add_comparison<T>(t, "gt", type, [](T a, T b) { return a > b; });
    add_comparison<T>(t, "ge", type, [](T a, T b) { return a >= b; });
    if (type[0] != 'f')
        return;
    // Unordered: true where a NaN is.
    add_comparison<T>(t, "equ", type, [](T a, T b) { return !(a < b || a > b); });
    add_comparison<T>(t, "neu", type, [](T a, T b) { return !(a == b); });
    add_comparison<T>(t, "ltu", type, [](T a, T b) { return !(a >= b); });
    add_comparison<T>(t, "leu", type, [](T a, T b) { return !(a > b); });
    add_comparison<T>(t, "gtu", type, [](T a, T b) { return !(a <= b); });
    add_comparison<T>(t, "geu", type, [](T a, T b) { return !(a < b); });
    add_comparison<T>(t, "nan", type, [](T a, T b) { return a != a || b != b; });
    add_comparison<T>(t, "num", type, [](T a, T b) { return a == a && b == b; });
}

void add_predicates(table &t)
{
    t["and.pred"] = {[](warp &w, const instruction &i, uint32_t m) { w.set_predicate(i.a[0], m, w.predicate(i.a[1]) & w.predicate(i.a[2])); }, "PPP"};
    t["or.pred"] = {[](warp &w, const instruction &i, uint32_t m) { w.set_predicate(i.a[0], m, w.predicate(i.a[1]) | w.predicate(i.a[2])); }, "PPP"};
    t["xor.pred"] = {[](warp &w, const instruction &i, uint32_t m) { w.set_predicate(i.a[0], m, w.predicate(i.a[1]) ^ w.predicate(i.a[2])); }, "PPP"};
    t["not.pred"] = {[](warp &w, const instruction &i, uint32_t m) { w.set_predicate(i.a[0], m, ~w.predicate(i.a[1])); }, "PP"};
    t["mov.pred"] = {[](warp &w, const instruction &i, uint32_t m) { w.set_predicate(i.a[0], m, w.predicate(i.a[1])); }, "PP"};
}

table all_operations()
{
    table t;
    for (char sign : {'u', 's'}) {
        add_integers<u16>(t, sign);
        add_integers<u32>(t, sign);
        add_integers<u64>(t, sign);
    }
    add_ordered<u16>(t, "u16");
    add_ordered<s16>(t, "s16");
    add_ordered<u32>(t, "u32");
    add_ordered<s32>(t, "s32");
    add_ordered<u64>(t, "u64");
    add_ordered<s64>(t, "s64");
    add_products<u16, u32>(t, "u16");
    add_products<s16, s32>(t, "s16");
    add_products<u32, u64>(t, "u32");
    add_products<s32, s64>(t, "s32");
    add_products<u64, unsigned __int128>(t, "u64");
    add_products<s64, __int128>(t, "s64");
    add_floats<float>(t, "f32");
    add_floats<double>(t, "f64");
    for (const char *name : {"mov.", "selp."}) { // a float's bits
        t[name + std::string("f32")] = t[name + std::string("b32")];
        t[name + std::string("f64")] = t[name + std::string("b64")];
    }
    add_bits(t);
    add_comparisons<u16>(t, "u16");
    add_comparisons<s16>(t, "s16");
    add_comparisons<u32>(t, "u32");
    add_comparisons<s32>(t, "s32");
    add_comparisons<u64>(t, "u64");
    add_comparisons<s64>(t, "s64");
    add_comparisons<float>(t, "f32");
    add_comparisons<double>(t, "f64");
    for (const char *name : {"setp.eq.", "setp.ne."})
        for (const char *with : {"", "and.", "or.", "xor."})
            for (const char *n : {"16", "32", "64"})
                t[std::string(name) + with + "b" + n] = t[std::string(name) + with + "u" + n];
    add_predicates(t);
    return t;
}

} // namespace

bool find_arithmetic(const std::string &opcode, operation *operation_out)
{
    static const table all = all_operations();
    auto found = all.find(opcode);
    if (found == all.end())
        return false;
    *operation_out = found->second;
    return true;
}

} // namespace ptx

// test_micro.cpp: the interpreter on kernels with known answers (micro.cu, as nvcc compiles it; PTX_MICRO names the file).
//
// The answers are computed here by plain C++ of another shape than the interpreter's: matrices as matrices, lanes as loops, bits by the host's own
// arithmetic. Matrices differ in every element, so that no exchange of rows, columns or operands goes unseen.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/numerics/numerics.h"
#include "tests/cuda/ptx/micro.h"

// After the others: it has no C++ guard of its own, and a macro named fail.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

using std::vector;

static const ptx::module *micro;

template <class... A> static void run(const char *kernel, unsigned n_blocks, unsigned n_threads, A... a)
{
    try {
        launch(*micro, kernel, n_blocks, n_threads, 0, ptx::launch_options(), a...);
    } catch (const ptx::error &e) {
        fail_msg("%s", e.what());
    }
}

template <class... A> static void expect_failure(const char *words, const char *kernel, unsigned n_threads, A... a)
{
    try {
        launch(*micro, kernel, 1, n_threads, 0, ptx::launch_options(), a...);
    } catch (const ptx::error &e) {
        if (strstr(e.what(), words) == nullptr)
            fail_msg("%s: expected '%s', got: %s", kernel, words, e.what());
        return;
    }
    fail_msg("%s: expected '%s', nothing failed", kernel, words);
}

static uint64_t random_state = 1;
static uint32_t random_word()
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(random_state >> 32);
}

template <class T> static uint64_t bits(T x)
{
    uint64_t u = 0;
    memcpy(&u, &x, sizeof x);
    return u;
}

/* NaNs of f32 arithmetic are 0x7fffffff on the device, and the host's own here: any stands for any. */
template <class T> static void same(const char *what, int k, int i, T got, T expected)
{
    if constexpr (!std::is_integral_v<T>)
        if (got != got && expected != expected)
            return;
    if (bits(got) != bits(expected))
        fail_msg("%s: result %d of thread %d is 0x%llx, expected 0x%llx", what, k, i, (unsigned long long)bits(got),
                 (unsigned long long)bits(expected));
}

static const vector<uint32_t> special_words = {0,          1,          2,          3,          31,         32,         33,
                                               0x7fffffff, 0x80000000, 0x80000001, 0xffffffff, 0xffff8000, 0x00ff00ff, 0x12345678};

static vector<uint32_t> words(int n)
{
    vector<uint32_t> v;
    for (int i = 0; i < n; i++)
        v.push_back(random_word() % 3 == 0 ? special_words[random_word() % special_words.size()] : random_word());
    return v;
}

static int32_t dot4(uint32_t a, uint32_t b, bool is_signed)
{
    int32_t sum = 7;
    for (int k = 0; k < 32; k += 8)
        sum += is_signed ? static_cast<int8_t>(a >> k) * static_cast<int8_t>(b >> k) : static_cast<int>((a >> k & 255) * (b >> k & 255));
    return sum;
}

static uint32_t chosen_bytes(uint32_t a, uint32_t b, uint32_t selector)
{
    uint8_t bytes[8];
    memcpy(bytes, &a, sizeof a);
    memcpy(bytes + 4, &b, sizeof b);
    uint32_t r = 0;
    for (int k = 0; k < 4; k++)
        r |= static_cast<uint32_t>(bytes[selector >> 4 * k & 7]) << 8 * k;
    return r;
}

/* ---- arithmetic ---- */

static void computes_integers(void **)
{
    enum { N = 500, K = 24 };
    vector<uint32_t> a = words(N), b = words(N), out(N * K, 0xabababab);
    for (uint32_t &v : b) // __byte_perm's selectors without the sign mode, which it does not have
        v &= ~0x8888u;
    run("integers", 4, 128, a.data(), b.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        uint32_t u = a[i], v = b[i], clz = u ? __builtin_clz(u) : 32, reversed = 0;
        int32_t x = static_cast<int32_t>(u), y = static_cast<int32_t>(v);
        int64_t xl = x, yl = y;
        for (int k = 0; k < 32; k++)
            reversed |= (u >> k & 1) << (31 - k);
        uint64_t both = static_cast<uint64_t>(v) << 32 | u;
        const uint32_t expected[K] = {
            u + v, u - v, u * v, uint32_t(uint64_t(xl * yl) >> 32), uint32_t(uint64_t(u) * v >> 32), uint32_t(xl / (yl | 1)), uint32_t(xl % (yl | 1)),
            u / (v | 1), u % (v | 1), uint32_t(x < y ? x : y) ^ (u > v ? u : v), uint32_t(xl < 0 ? -xl : xl), u << (v & 31), uint32_t(x >> (v & 31)),
            u >> (v & 31), uint32_t(__builtin_popcount(u)) + 100 * clz + 10000 * uint32_t(__builtin_ffs(y)), reversed, chosen_bytes(u, v, v & 0xffff),
            uint32_t(both << (v & 31) >> 32), uint32_t(both >> (v & 31)), uint32_t(dot4(u, v, true)), uint32_t(dot4(u, v, false)),
            (u & v) ^ (~u | (v & 0x0f0f0f0f)), uint32_t(int16_t(u) * int16_t(v) + uint8_t(u)),
            x > y ? (x >= 0 && y != 3 ? 1u : 2u) : (u < v || x == y ? 3u : 4u)};
        for (int k = 0; k < K; k++)
            same("integers", k, i, out[k * N + i], expected[k]);
    }
}

static void shifts_and_takes_fields_beyond_the_width(void **)
{
    enum { N = 64 };
    vector<uint32_t> a = words(N), b(N), out(N * 6);
    for (int i = 0; i < N; i++)
        b[i] = static_cast<uint32_t>(i); // past 31
    run("shifts_of_asm", 1, N, a.data(), b.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        uint32_t u = a[i], n = b[i], field = 0, inserted = ~u;
        int32_t x = static_cast<int32_t>(u);
        uint32_t top = n + 6 < 31 ? n + 6 : 31;
        for (uint32_t k = 0; k < 7 && n + k < 32; k++)
            field |= (u >> (n + k) & 1) << k;
        uint32_t extended = field;
        for (uint32_t k = 0; k < 32; k++)
            if (k >= 7 || n + k > 31)
                extended |= (u >> top & 1) << k;
        for (uint32_t k = 0; k < 9 && n + k < 32; k++)
            inserted = (inserted & ~(1u << (n + k))) | (u >> k & 1) << (n + k);
        const uint32_t expected[6] = {n > 31 ? 0 : u << n, n > 31 ? 0 : u >> n, uint32_t(n > 31 ? x >> 31 : x >> n), field, extended, inserted};
        for (int k = 0; k < 6; k++)
            same("shifts", k, i, out[k * N + i], expected[k]);
    }
}

static void computes_wide_integers(void **)
{
    enum { N = 128, K = 11 };
    vector<uint32_t> w = words(4 * N);
    vector<uint64_t> a(N), b(N), out(N * K);
    for (int i = 0; i < N; i++) {
        a[i] = uint64_t(w[i]) << 32 | w[N + i];
        b[i] = i % 3 == 0 ? w[2 * N + i] : uint64_t(w[2 * N + i]) << 32 | w[3 * N + i];
    }
    run("wide_integers", 1, N, a.data(), b.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        uint64_t u = a[i], v = b[i];
        int64_t x = int64_t(u), y = int64_t(v);
        if (x == std::numeric_limits<int64_t>::min() && y == -1)
            continue;
        const uint64_t expected[K] = {
            u + v, u - v, u * v, uint64_t(__int128(x) * y >> 64), uint64_t((unsigned __int128)u * v >> 64), uint64_t(x / (y | 1)), u % (v | 1),
            (u << (v & 63)) ^ uint64_t(x >> (v & 63)), uint64_t(__builtin_popcountll(u)) + 100 * uint64_t(u ? __builtin_clzll(u) : 64),
            uint64_t(uint32_t(u)) * uint32_t(v) + uint64_t(int64_t(int32_t(u)) * int32_t(v)), x < y ? u : v & 0xffffffff00ull};
        for (int k = 0; k < K; k++)
            same("wide integers", k, i, out[k * N + i], expected[k]);
    }
}

template <class T> static vector<T> numbers(int n, double scale)
{
    const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN(), tiny = std::numeric_limits<T>::denorm_min();
    const vector<T> special = {T(0), T(-0.0), T(1), T(-1), T(0.5), T(1.5), T(2.5), T(-2.5), inf, -inf, nan, tiny, -tiny * 1000, T(2147483648.0),
                               T(-2147483904.0), T(4294967296.0), T(65504), T(65520), T(1e-7), T(1e30)};
    vector<T> v;
    for (int i = 0; i < n; i++)
        v.push_back(random_word() % 3 == 0 ? special[random_word() % special.size()] : T((random_word() / 4294967296.0 - 0.5) * scale));
    return v;
}

template <class T> static T lesser(T x, T y)
{
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
}

template <class T> static T greater(T x, T y)
{
    return x != x ? y : y != y ? x : x == y ? (std::signbit(x) ? y : x) : x < y ? y : x;
}

static void computes_floats(void **)
{
    enum { N = 500, K = 15 };
    vector<float> a = numbers<float>(N, 40), b = numbers<float>(N, 40), out(N * K);
    run("floats", 4, 128, a.data(), b.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        volatile float x = a[i], y = b[i];
        const float expected[K] = {
            x + y, x - y, x * y, x / y, sqrtf(x), fmaf(x, y, 1.5f), lesser<float>(x, y), greater<float>(x, y), rintf(x), truncf(x), floorf(x),
            ceilf(x), fabsf(x) + -y, copysignf(x, y),
            float((x < y) + 2 * (x <= y) + 4 * (x == y) + 8 * (x != y) + 16 * (x > y) + 32 * (x >= y) + 64 * !(x < y) + 128 * !(x > y))};
        for (int k = 0; k < K; k++)
            same("floats", k, i, out[k * N + i], expected[k]);
    }
    // The NaN that arithmetic makes has one pattern.
    vector<float> nan = {std::numeric_limits<float>::infinity()}, minus = {-std::numeric_limits<float>::infinity()};
    run("floats", 1, 32, nan.data(), minus.data(), out.data(), 1);
    assert_int_equal(bits(out[0]), 0x7fffffff);
}

static void computes_doubles_and_their_functions(void **)
{
    enum { N = 128, K = 12 };
    vector<double> a = numbers<double>(N, 300), b = numbers<double>(N, 300), out(N * K);
    for (double &x : a) // what the functions are defined for
        if (std::isnan(x) || std::fabs(x) > 1e6)
            x = 700.25;
    run("doubles", 1, N, a.data(), b.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        volatile double x = a[i], y = b[i];
        double s, c;
        num_sincos(x, &s, &c);
        const double expected[K] = {x + y, x - y, x * y, x / y, sqrt(fabs(x)), fma(x, y, -0.25), rint(x) + double(float(y)), num_exp(x),
                                    num_log(fabs(x) + 1e-300), s, c, num_rng(uint64_t(i) * 0x9e3779b97f4a7c15ull, uint32_t(i), N)};
        for (int k = 0; k < K; k++)
            same("doubles", k, i, out[k * N + i], expected[k]);
    }
}

static void computes_the_frozen_functions(void **)
{
    enum { N = 1000 };
    vector<float> a(N), out(5 * N);
    for (int i = 0; i < N; i++)
        a[i] = (random_word() / 4294967296.0f - 0.5f) * (i % 2 == 0 ? 20.0f : 250.0f);
    run("functions", 8, 128, a.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        uint16_t h = num_f16_from_f32(a[i]);
        same("functions", 0, i, out[i], num_exp_f32(a[i]));
        same("functions", 1, i, out[N + i], num_silu(a[i]));
        same("functions", 2, i, out[2 * N + i], num_gelu_tanh(a[i]));
        same("functions", 3, i, out[3 * N + i], num_f32_from_f16(h));
        same("functions", 4, i, out[4 * N + i], num_f32_from_bf16(static_cast<uint16_t>(h * 3)));
    }
}

/* To an integer by the rounding of `f`, clamped; a NaN gives `nan`. */
template <class I> static I clamped(double x, double (*f)(double), I nan)
{
    const double low = double(std::numeric_limits<I>::min()), high = std::ldexp(1.0, std::numeric_limits<I>::digits);
    if (x != x)
        return nan;
    x = f(x);
    return x < low ? std::numeric_limits<I>::min() : x >= high ? std::numeric_limits<I>::max() : I(x);
}

static uint16_t half_of(float x)
{
    _Float16 h = static_cast<_Float16>(x);
    uint16_t u;
    memcpy(&u, &h, sizeof u);
    return x != x ? 0x7fff : u;
}

static float float_of_half(uint16_t u)
{
    double m = u & 0x3ff, e = u >> 10 & 31, sign = u >> 15 ? -1 : 1;
    if (e == 31)
        return m != 0 ? std::numeric_limits<float>::quiet_NaN() : float(sign * INFINITY);
    return float(sign * (e == 0 ? std::ldexp(m, -24) : std::ldexp(m + 1024, int(e) - 25)));
}

static void converts(void **)
{
    enum { N = 96, K = 12, W = 5 };
    vector<float> a = numbers<float>(N, 300);
    vector<double> d = numbers<double>(N, 1e10);
    vector<int32_t> out(N * K);
    vector<int64_t> wide(N * W);
    run("conversions", 1, N, a.data(), d.data(), out.data(), wide.data(), int(N));
    for (int i = 0; i < N; i++) {
        float x = a[i];
        int32_t small = i * 37 - 500, rounded = clamped<int32_t>(x, rint, 0);
        float from_half = float_of_half(uint16_t(i * 2053));
        const int32_t expected[K] = {
            rounded, clamped<int32_t>(x, trunc, 0), clamped<int32_t>(x, floor, 0), clamped<int32_t>(x, ceil, 0),
            int32_t(clamped<uint32_t>(x, rint, 0)), clamped<int32_t>(d[i], rint, std::numeric_limits<int32_t>::min()), half_of(x),
            from_half != from_half ? 0x7fffffff : int32_t(bits(from_half)), int32_t(bits(float(int32_t(i * 0x1234567)))),
            int32_t(bits(float(uint32_t(i) * 0x87654321u))), small < -128 ? -128 : small > 127 ? 127 : small,
            rounded < -128 ? -128 : rounded > 127 ? 127 : rounded};
        for (int k = 0; k < K; k++)
            if (k != 5 || d[i] == d[i])
                same("conversions", k, i, out[k * N + i], expected[k]);
        const int64_t least = std::numeric_limits<int64_t>::min();
        same("wide conversions", 0, i, wide[i], clamped<int64_t>(x, trunc, least));
        same("wide conversions", 1, i, wide[N + i], clamped<int64_t>(d[i], rint, least));
        double x2, y2;
        memcpy(&x2, &wide[2 * N + i], sizeof x2);
        memcpy(&y2, &wide[3 * N + i], sizeof y2);
        same("wide conversions", 2, i, x2, double(x));
        same("wide conversions", 3, i, y2, double(i * -12345678901ll));
        if (d[i] == d[i])
            same("wide conversions", 4, i, wide[4 * N + i], int64_t(int32_t(bits(float(d[i])))));
    }
}

/* ---- memory and control ---- */

struct triple {
    double d;
    int i[5];
    signed char c;
};

static void reads_and_writes_all_kinds_of_memory(void **)
{
    struct alignas(16) vector4 { float x, y, z, w; };
    struct bytes4 { uint8_t x, y, z, w; };
    vector<vector4> f4(32), out(32);
    vector<bytes4> u4(32);
    vector<int8_t> s1(32);
    vector<int16_t> s2(32);
    vector<double> from_table(32);
    const double table[6] = {1.5, -2.25, 3e100, 4.0, 5e-5, 6.125};
    for (int i = 0; i < 32; i++) {
        f4[i] = {float(i), float(i) + 0.25f, float(i) * 3, float(-i)};
        u4[i] = {uint8_t(200 + i), 1, 2, uint8_t(i * 9)};
        s1[i] = int8_t(i * 37);
        s2[i] = int16_t(i * -3001);
    }
    triple t = {0.125, {10, -20, 30, -40, 50}, -7};
    run("memory", 1, 32, f4.data(), u4.data(), s1.data(), s2.data(), t, out.data(), from_table.data());
    for (int i = 0; i < 32; i++) {
        vector4 v = f4[31 - i];
        same("memory", 0, i, out[i].x, v.w + t.i[i % 5]);
        same("memory", 1, i, out[i].y, v.z + s1[i]);
        same("memory", 2, i, out[i].z, v.y + s2[i]);
        same("memory", 3, i, out[i].w, v.x + u4[i].x + u4[i].w + t.c);
        int local[16];
        for (int k = 0; k < 16; k++)
            local[(k * 7 + i) & 15] = k * i;
        same("memory", 4, i, from_table[i], table[i % 6] + t.d + local[(i * 5) & 15]);
    }
}

static void shares_memory_in_a_block(void **)
{
    enum { N = 64, BLOCKS = 5, EACH = 3 };
    vector<int> in(N * BLOCKS), forward(N * BLOCKS), backward(N * BLOCKS);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = int(random_word() % 1000);
    try {
        ptx::launch_options options;
        launch(*micro, "shared", BLOCKS, N, N * EACH * sizeof(int), options, in.data(), forward.data(), int(EACH));
        options.backwards = true;
        launch(*micro, "shared", BLOCKS, N, N * EACH * sizeof(int), options, in.data(), backward.data(), int(EACH));
    } catch (const ptx::error &e) {
        fail_msg("%s", e.what());
    }
    assert_true(forward == backward);
    for (int b = 0; b < BLOCKS; b++) {
        const int *x = &in[b * N];
        int total = 0;
        for (int t = 0; t < N; t++)
            total += x[t];
        for (int t = 0; t < N; t++) {
            int sum = x[N - 1 - t] + uint8_t(x[t ^ 5]);
            for (int k = 0; k < EACH; k++)
                sum += x[(t + 33 * k) % N] * (k + 1);
            // Odd threads read the shared array after its reduction began to overwrite it: element 2 then holds sums of every fourth.
            int either = x[2];
            if (t % 2 == 1) {
                either = 0;
                for (int k = 2; k < N; k += 4)
                    either += x[k];
            }
            same("shared", b, t, forward[b * N + t], sum + 1000 * total + either);
        }
    }
}

static void follows_each_lane_through_loops(void **)
{
    enum { N = 300 };
    vector<uint32_t> in(N);
    vector<int> out(N);
    for (uint32_t &x : in)
        x = random_word() % 5000 + 1;
    run("diverge", 3, 128, in.data(), out.data(), int(N));
    for (int i = 0; i < N; i++) {
        int steps = 0;
        for (uint32_t x = in[i]; x != 1; steps++) {
            if (x % 2 == 0) {
                x /= 2;
                continue;
            }
            x = 3 * x + 1;
            if (steps > 60)
                break;
        }
        same("diverge", 0, i, out[i], steps);
    }
}

static void meets_again_after_branches(void **)
{
    vector<int> in(32), x(32), out(32);
    for (int i = 0; i < 32; i++) {
        x[i] = in[i] = int(random_word() >> 8);
        uint32_t u = uint32_t(in[i]);
        if (i % 3 == 0)
            for (int k = 0; k < i; k++)
                u = u * 5 + uint32_t(k);
        else if (i % 3 == 1)
            u ^= 0x55;
        x[i] = int(u);
    }
    run("meet", 1, 32, in.data(), out.data());
    for (int i = 0; i < 32; i++)
        same("meet", 0, i, uint32_t(out[i]), uint32_t(x[i]) + uint32_t(x[i ^ 7]));
}

/* ---- lanes together ---- */

static void exchanges_among_lanes(void **)
{
    enum { N = 32, K = 12 };
    vector<int> x(N), out(N * K);
    for (int &v : x)
        v = int(random_word() % 4000) - 900;
    run("lanes", 1, N, x.data(), out.data(), int(N));
    uint32_t odd = 0, sum = 0, least = ~0u;
    int most = x[0];
    for (int i = 0; i < N; i++) {
        odd |= uint32_t(x[i] & 1) << i;
        sum += uint32_t(x[i]);
        most = x[i] > most ? x[i] : most;
        least = uint32_t(x[i]) < least ? uint32_t(x[i]) : least;
    }
    for (int i = 0; i < N; i++) {
        const int expected[K] = {x[x[i] & 31], i < 3 ? x[i] : x[i - 3], i + 5 > 31 ? x[i] : x[i + 5], x[i ^ 17], x[i / 8 * 8 + 3],
                                 i % 16 < 2 ? x[i] : x[i - 2], i % 4 == 3 ? x[i] : x[i + 1], int(odd), 3, int(sum), most, int(least)};
        for (int k = 0; k < K; k++)
            same("lanes", k, i, out[k * N + i], expected[k]);
    }
}

static void updates_cells_atomically(void **)
{
    vector<int> cells = {3, 7, 0, 9, 5, 0}, in(64), old(64);
    int sum = 3, least = 7, any = 0, most = 0;
    for (int i = 0; i < 64; i++) {
        in[i] = int(random_word() % 9999) - 3000;
        sum += in[i];
        least = in[i] < least ? in[i] : least;
        any |= in[i];
        most = (in[i] & 0xffff) > most ? in[i] & 0xffff : most;
    }
    run("atomics", 1, 64, cells.data(), in.data(), old.data());
    const vector<int> expected = {sum, least, any, in[63], in[0], most};
    for (int k = 0; k < 6; k++)
        same("atomics", k, 0, cells[k], expected[k]);
    assert_int_equal(old[0], 3);
    assert_int_equal(old[63], sum - in[63]);
}

/* A[16][K] by its fragments: byte e of lane l. Written from the instruction set's tables, which give for each element of A and B the lane and index:
 * the reverse of what the interpreter does, which goes from lane and index to element. */
template <int K> static void multiplies(const char *kernel)
{
    int8_t a[16][K], b[K][8], fragments_a[32][K / 2], fragments_b[32][K / 4];
    int c[16][8], fragments_c[32][4], d[32][4];
    for (auto &row : a)
        for (int8_t &x : row)
            x = int8_t(random_word() >> 24);
    for (auto &row : b)
        for (int8_t &x : row)
            x = int8_t(random_word() >> 24);
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < K; k++) {
            int lane = r % 8 * 4 + k % 16 / 4, index = k % 4 + (r < 8 ? 0 : 4) + (k < 16 ? 0 : 8);
            fragments_a[lane][index] = a[r][k];
        }
    for (int k = 0; k < K; k++)
        for (int n = 0; n < 8; n++)
            fragments_b[n * 4 + k % 16 / 4][k % 4 + (k < 16 ? 0 : 4)] = b[k][n];
    for (int r = 0; r < 16; r++)
        for (int n = 0; n < 8; n++) {
            c[r][n] = int(random_word() >> 12);
            fragments_c[r % 8 * 4 + n / 2][n % 2 + (r < 8 ? 0 : 2)] = c[r][n];
        }
    run(kernel, 1, 32, (const void *)fragments_a, (const void *)fragments_b, (const void *)fragments_c, (void *)d);
    for (int r = 0; r < 16; r++)
        for (int n = 0; n < 8; n++) {
            int sum = c[r][n];
            for (int k = 0; k < K; k++)
                sum += a[r][k] * b[k][n];
            same(kernel, r, n, d[r % 8 * 4 + n / 2][n % 2 + (r < 8 ? 0 : 2)], sum);
        }
}

static void multiplies_matrices_of_32_columns(void **) { multiplies<32>("mma32"); }
static void multiplies_matrices_of_16_columns(void **) { multiplies<16>("mma16"); }

static void loads_matrices_from_shared_memory(void **)
{
    alignas(16) uint16_t rows[32][8];
    int out[128 + 64];
    for (int r = 0; r < 32; r++)
        for (int c = 0; c < 8; c++)
            rows[r][c] = uint16_t(r * 256 + c * 17 + 3);
    run("matrices", 1, 32, (const void *)rows, (void *)out);
    for (int j = 0; j < 4; j++)
        for (int r = 0; r < 8; r++)
            for (int c = 0; c < 8; c++) { // element c of row r lies in lane 4 r + c / 2
                int word = out[4 * (4 * r + c / 2) + j];
                same("ldmatrix", j, 8 * r + c, uint16_t(word >> 16 * (c % 2)), rows[8 * j + r][c]);
                if (j < 2) { // transposed: in lane 4 c + r / 2
                    word = out[128 + 2 * (4 * c + r / 2) + j];
                    same("ldmatrix.trans", j, 8 * r + c, uint16_t(word >> 16 * (r % 2)), rows[8 * j + r][c]);
                }
            }
}

static void copies_when_the_group_is_waited_for(void **)
{
    struct alignas(16) four { int x[4]; };
    vector<four> in(64), out(64), early(32);
    for (int i = 0; i < 64; i++)
        in[i] = {{i, i + 100, i + 200, -i}};
    run("copies", 1, 32, in.data(), out.data(), early.data());
    for (int i = 0; i < 64; i++)
        assert_memory_equal(&out[i], &in[i], sizeof(four));
    for (int i = 0; i < 32; i++)
        assert_int_equal(early[i].x[2], -1);
}

/* ---- what is wrong is said ---- */

static uint8_t arena[4096];
static bool find_in_arena(uintptr_t address, ptx::range *out)
{
    // Two buffers of 128 bytes and one of 126, apart.
    for (uintptr_t at : {1024, 2048, 3072}) {
        uintptr_t begin = (reinterpret_cast<uintptr_t>(arena) & ~uintptr_t(255)) + at, end = begin + (at == 3072 ? 126 : 128);
        if (address >= begin && address < end) {
            *out = {begin, end};
            return true;
        }
    }
    return false;
}

static void finds_wrong_addresses(void **)
{
    int *in = reinterpret_cast<int *>((reinterpret_cast<uintptr_t>(arena) & ~uintptr_t(255)) + 1024), *out = in + 256;
    ptx::find_ranges_with(find_in_arena);
    try {
        launch(*micro, "wrong_read", 1, 32, 0, ptx::launch_options(), in, out, 0);
    } catch (const ptx::error &e) {
        fail_msg("%s", e.what());
    }
    expect_failure("outside every buffer", "wrong_read", 32, in, out, 1);
    expect_failure("outside every buffer", "wrong_read", 32, in, out, -1);
    expect_failure("outside every buffer", "wrong_write", 32, in, out, 100000);
    expect_failure("beyond the end", "wrong_write", 32, in, out + 256, 0);
    expect_failure("misaligned", "wrong_alignment", 32, in, out);
    ptx::find_ranges_with(nullptr);
}

static void finds_wrong_use_of_a_block(void **)
{
    int out[128];
    expect_failure("shared memory", "wrong_shared", 32, out, 1);
    expect_failure("ended", "wrong_barrier", 64, out, 32);
    expect_failure("ended", "wrong_barrier", 64, out, 7);
    expect_failure("different", "two_barriers", 64, out, 32);
    expect_failure("different", "two_barriers", 64, out, 40);
    expect_failure("all 32 lanes", "wrong_shuffle", 32, out, 9);
    expect_failure("partial mask", "partial_mask", 32, out);
    run("wrong_shared", 1, 32, (int *)out, 0);
    run("wrong_barrier", 1, 64, (int *)out, 64);
    run("two_barriers", 1, 64, (int *)out, 64);
    run("wrong_shuffle", 1, 32, (int *)out, 32);
}

static void finds_divisions_by_zero_and_wrong_launches(void **)
{
    int in[32] = {0}, out[32];
    run("wrong_division", 1, 32, (int *)in, (int *)out, 1);
    expect_failure("divides by zero", "wrong_division", 32, (int *)in, (int *)out, -5);
    expect_failure("arguments", "wrong_division", 32, (int *)in, (int *)out);
    expect_failure("bytes", "wrong_division", 32, (int *)in, (int *)out, 1ll);
    expect_failure("no kernel", "absent", 32, (int *)in);
    expect_failure("threads", "wrong_division", 1056, (int *)in, (int *)out, 1);
}

static void expect_refusal(const char *words, const char *statement)
{
    char path[] = "/tmp/nextd-refused-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fprintf(f, ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n.reg .f32 %%f<3>;\n.reg .b32 %%r<3>;\n.reg .b64 %%rd<3>;\n");
    fprintf(f, "%s\nret;\n}\n", statement);
    fclose(f);
    try {
        ptx::module refused(path);
    } catch (const ptx::error &e) {
        remove(path);
        if (strstr(e.what(), words) == nullptr)
            fail_msg("%s: expected '%s', got: %s", statement, words, e.what());
        return;
    }
    remove(path);
    fail_msg("%s: expected '%s', nothing failed", statement, words);
}

static void refuses_what_it_does_not_know(void **)
{
    expect_refusal("unknown opcode ex2.approx.f32", "ex2.approx.f32 %f1, %f2;");
    expect_refusal("unknown opcode add.f32", "add.f32 %f1, %f2, %f2;");
    expect_refusal("unknown opcode fma.rn.ftz.f32", "fma.rn.ftz.f32 %f1, %f2, %f2, %f2;");
    expect_refusal("unknown opcode atom.global.add.f32", "atom.global.add.f32 %f1, [%rd1], %f2;");
    expect_refusal("unknown opcode cvt.rzi.ftz.s32.f32", "cvt.rzi.ftz.s32.f32 %r1, %f2;");
    expect_refusal("another width", "add.s64 %rd1, %rd2, %r1;");
    expect_refusal("operands where", "add.s32 %r1, %r2;");
    expect_refusal("unknown operand", "add.s32 %r1, %r2, %r9;");
    expect_refusal("no label", "bra $L1;");
    expect_refusal("barrier 0", "bar.sync 1;");
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
        cmocka_unit_test(computes_integers),
        cmocka_unit_test(shifts_and_takes_fields_beyond_the_width),
        cmocka_unit_test(computes_wide_integers),
        cmocka_unit_test(computes_floats),
        cmocka_unit_test(computes_doubles_and_their_functions),
        cmocka_unit_test(computes_the_frozen_functions),
        cmocka_unit_test(converts),
        cmocka_unit_test(reads_and_writes_all_kinds_of_memory),
        cmocka_unit_test(shares_memory_in_a_block),
        cmocka_unit_test(follows_each_lane_through_loops),
        cmocka_unit_test(meets_again_after_branches),
        cmocka_unit_test(exchanges_among_lanes),
        cmocka_unit_test(updates_cells_atomically),
        cmocka_unit_test(multiplies_matrices_of_32_columns),
        cmocka_unit_test(multiplies_matrices_of_16_columns),
        cmocka_unit_test(loads_matrices_from_shared_memory),
        cmocka_unit_test(copies_when_the_group_is_waited_for),
        cmocka_unit_test(finds_wrong_addresses),
        cmocka_unit_test(finds_wrong_use_of_a_block),
        cmocka_unit_test(finds_divisions_by_zero_and_wrong_launches),
        cmocka_unit_test(refuses_what_it_does_not_know),
    };
    int n_failed = cmocka_run_group_tests(tests, nullptr, nullptr);
    delete micro;
    return n_failed;
}

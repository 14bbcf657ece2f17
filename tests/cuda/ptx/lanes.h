/* lanes.h: applies a function to the active lanes of a warp.
 *
 * The loop over all 32 lanes is the common case and the compiler makes vector code of it; a partial mask takes the lanes one by one. Values narrower
 * than 32 bits lie zero-extended in 32-bit rows. */
#ifndef NEXTD_TEST_PTX_LANES_H
#define NEXTD_TEST_PTX_LANES_H

#include "program.h"
#include <type_traits>

namespace ptx {

template <class T> using slot = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T> inline T unpack(slot<T> s)
{
    T x;
    if constexpr (std::is_integral_v<T>)
        x = static_cast<T>(s);
    else
        memcpy(&x, &s, sizeof x);
    return x;
}

template <class T> inline slot<T> pack(T x)
{
    slot<T> s = 0;
    if constexpr (std::is_integral_v<T>)
        s = static_cast<slot<T>>(static_cast<std::make_unsigned_t<T>>(x));
    else
        memcpy(&s, &x, sizeof x);
    return s;
}

template <class T> inline slot<T> *row(warp &w, uint32_t r)
{
    if constexpr (sizeof(T) == 8)
        return w.row64(r);
    else
        return w.row32(r);
}

template <class T> constexpr char letter() { return sizeof(T) == 8 ? 'L' : 'S'; }

template <class R, class A, class F> inline void lanes1(warp &w, const instruction &i, uint32_t mask, F f)
{
    slot<R> *d = row<R>(w, i.a[0]);
    const slot<A> *a = row<A>(w, i.a[1]);
    if (mask == ~0u) {
#pragma GCC ivdep
        for (int l = 0; l < WARP; l++)
            d[l] = pack<R>(f(unpack<A>(a[l])));
        return;
    }
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = pack<R>(f(unpack<A>(a[l])));
}

template <class R, class A, class B, class F> inline void lanes2(warp &w, const instruction &i, uint32_t mask, F f)
{
    slot<R> *d = row<R>(w, i.a[0]);
    const slot<A> *a = row<A>(w, i.a[1]);
    const slot<B> *b = row<B>(w, i.a[2]);
    if (mask == ~0u) {
#pragma GCC ivdep
        for (int l = 0; l < WARP; l++)
            d[l] = pack<R>(f(unpack<A>(a[l]), unpack<B>(b[l])));
        return;
    }
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = pack<R>(f(unpack<A>(a[l]), unpack<B>(b[l])));
}

template <class R, class A, class B, class C, class F> inline void lanes3(warp &w, const instruction &i, uint32_t mask, F f)
{
    slot<R> *d = row<R>(w, i.a[0]);
    const slot<A> *a = row<A>(w, i.a[1]);
    const slot<B> *b = row<B>(w, i.a[2]);
    const slot<C> *c = row<C>(w, i.a[3]);
    if (mask == ~0u) {
#pragma GCC ivdep
        for (int l = 0; l < WARP; l++)
            d[l] = pack<R>(f(unpack<A>(a[l]), unpack<B>(b[l]), unpack<C>(c[l])));
        return;
    }
    for (int l = 0; l < WARP; l++)
        if (is_active(mask, l))
            d[l] = pack<R>(f(unpack<A>(a[l]), unpack<B>(b[l]), unpack<C>(c[l])));
}

/* An operation out of a function without state: the closure is kept for the handler, which cannot capture it. */
template <class R, class A = R, class F> operation unary(F f)
{
    static_assert(std::is_empty_v<F>, "a function pointer would be shared by all of its type");
    static const F kept = f;
    return {[](warp &w, const instruction &i, uint32_t mask) { lanes1<R, A>(w, i, mask, kept); }, {letter<R>(), letter<A>()}};
}

template <class R, class A = R, class B = A, class F> operation binary(F f)
{
    static_assert(std::is_empty_v<F>, "a function pointer would be shared by all of its type");
    static const F kept = f;
    return {[](warp &w, const instruction &i, uint32_t mask) { lanes2<R, A, B>(w, i, mask, kept); }, {letter<R>(), letter<A>(), letter<B>()}};
}

template <class R, class A = R, class B = A, class C = B, class F> operation ternary(F f)
{
    static_assert(std::is_empty_v<F>, "a function pointer would be shared by all of its type");
    static const F kept = f;
    return {[](warp &w, const instruction &i, uint32_t mask) { lanes3<R, A, B, C>(w, i, mask, kept); },
            {letter<R>(), letter<A>(), letter<B>(), letter<C>()}};
}

} // namespace ptx

#endif

// One vector type per scalar, as wide as the instruction set of this translation unit, and the functions the kernels
// need on it.
//
// Everything lives in a namespace of its own per instruction set: were these inline functions shared, the linker would
// merge the AVX-512 copy into the baseline and a plain machine would meet an illegal instruction. For the same reason
// no std:: template is instantiated on a fundamental type here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "core/scalar.h"

VOGE_NAMESPACE_BEGIN

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(vector_bytes)));
  typedef int32_t Mask __attribute__((vector_size(vector_bytes)));
  typedef int32_t Int;
  static constexpr int lanes = vector_bytes / 4;
};
template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(vector_bytes)));
  typedef int64_t Mask __attribute__((vector_size(vector_bytes)));
  typedef int64_t Int;
  static constexpr int lanes = vector_bytes / 8;
};
using VecF = Simd<float>::Vec;
using VecD = Simd<double>::Vec;
using MaskF = Simd<float>::Mask;
using MaskD = Simd<double>::Mask;

#define VOGE_INLINE static inline __attribute__((always_inline))

VOGE_INLINE VecF broadcast(float x) { return x - VecF{}; }
VOGE_INLINE VecD broadcast(double x) { return x - VecD{}; }
VOGE_INLINE VecF select(MaskF m, VecF a, VecF b) { return m ? a : b; }
VOGE_INLINE VecD select(MaskD m, VecD a, VecD b) { return m ? a : b; }

#if defined(__AVX512F__)
VOGE_INLINE unsigned bits(MaskF m) { return _mm512_movepi32_mask((__m512i)m); }
VOGE_INLINE unsigned bits(MaskD m) { return _mm512_movepi64_mask((__m512i)m); }
VOGE_INLINE VecF vmin(VecF a, VecF b) { return (VecF)_mm512_min_ps((__m512)a, (__m512)b); }
VOGE_INLINE VecF vmax(VecF a, VecF b) { return (VecF)_mm512_max_ps((__m512)a, (__m512)b); }
VOGE_INLINE VecD vmin(VecD a, VecD b) { return (VecD)_mm512_min_pd((__m512d)a, (__m512d)b); }
VOGE_INLINE VecD vmax(VecD a, VecD b) { return (VecD)_mm512_max_pd((__m512d)a, (__m512d)b); }
VOGE_INLINE VecF vsqrt(VecF a) { return (VecF)_mm512_sqrt_ps((__m512)a); }
VOGE_INLINE VecD vsqrt(VecD a) { return (VecD)_mm512_sqrt_pd((__m512d)a); }
VOGE_INLINE VecF estimate_rcp(VecF a) { return (VecF)_mm512_rcp14_ps((__m512)a); }
#elif defined(__AVX__)
VOGE_INLINE unsigned bits(MaskF m) { return (unsigned)_mm256_movemask_ps((__m256)m); }
VOGE_INLINE unsigned bits(MaskD m) { return (unsigned)_mm256_movemask_pd((__m256d)m); }
VOGE_INLINE VecF vmin(VecF a, VecF b) { return (VecF)_mm256_min_ps((__m256)a, (__m256)b); }
VOGE_INLINE VecF vmax(VecF a, VecF b) { return (VecF)_mm256_max_ps((__m256)a, (__m256)b); }
VOGE_INLINE VecD vmin(VecD a, VecD b) { return (VecD)_mm256_min_pd((__m256d)a, (__m256d)b); }
VOGE_INLINE VecD vmax(VecD a, VecD b) { return (VecD)_mm256_max_pd((__m256d)a, (__m256d)b); }
VOGE_INLINE VecF vsqrt(VecF a) { return (VecF)_mm256_sqrt_ps((__m256)a); }
VOGE_INLINE VecD vsqrt(VecD a) { return (VecD)_mm256_sqrt_pd((__m256d)a); }
VOGE_INLINE VecF estimate_rcp(VecF a) { return (VecF)_mm256_rcp_ps((__m256)a); }
#elif defined(__SSE2__)
VOGE_INLINE unsigned bits(MaskF m) { return (unsigned)_mm_movemask_ps((__m128)m); }
VOGE_INLINE unsigned bits(MaskD m) { return (unsigned)_mm_movemask_pd((__m128d)m); }
VOGE_INLINE VecF vmin(VecF a, VecF b) { return (VecF)_mm_min_ps((__m128)a, (__m128)b); }
VOGE_INLINE VecF vmax(VecF a, VecF b) { return (VecF)_mm_max_ps((__m128)a, (__m128)b); }
VOGE_INLINE VecD vmin(VecD a, VecD b) { return (VecD)_mm_min_pd((__m128d)a, (__m128d)b); }
VOGE_INLINE VecD vmax(VecD a, VecD b) { return (VecD)_mm_max_pd((__m128d)a, (__m128d)b); }
VOGE_INLINE VecF vsqrt(VecF a) { return (VecF)_mm_sqrt_ps((__m128)a); }
VOGE_INLINE VecD vsqrt(VecD a) { return (VecD)_mm_sqrt_pd((__m128d)a); }
VOGE_INLINE VecF estimate_rcp(VecF a) { return (VecF)_mm_rcp_ps((__m128)a); }
#else  // aarch64 and others: what the compiler makes of plain vectors
template <class M>
VOGE_INLINE unsigned loop_bits(M m) {
  unsigned r = 0;
  for (unsigned i = 0; i < sizeof(M) / sizeof(m[0]); ++i) r |= (m[i] ? 1u : 0u) << i;
  return r;
}
VOGE_INLINE unsigned bits(MaskF m) { return loop_bits(m); }
VOGE_INLINE unsigned bits(MaskD m) { return loop_bits(m); }
VOGE_INLINE VecF vmin(VecF a, VecF b) { return a < b ? a : b; }
VOGE_INLINE VecF vmax(VecF a, VecF b) { return a > b ? a : b; }
VOGE_INLINE VecD vmin(VecD a, VecD b) { return a < b ? a : b; }
VOGE_INLINE VecD vmax(VecD a, VecD b) { return a > b ? a : b; }
VOGE_INLINE VecF vsqrt(VecF a) {
  for (int i = 0; i < Simd<float>::lanes; ++i) a[i] = sqrtf(a[i]);
  return a;
}
VOGE_INLINE VecD vsqrt(VecD a) {
  for (int i = 0; i < Simd<double>::lanes; ++i) a[i] = sqrt(a[i]);
  return a;
}
#define VOGE_EXACT_RCP
#endif

// 1 / a for finite a other than 0; relative error 2e-7 (float), rounding (double).
#if defined(VOGE_EXACT_RCP)
VOGE_INLINE VecF rcp(VecF a) { return 1.f / a; }
#else
VOGE_INLINE VecF rcp(VecF a) {
  VecF r = estimate_rcp(a);
  return r * (2.f - a * r);
}
#endif
VOGE_INLINE VecD rcp(VecD a) { return 1.0 / a; }

VOGE_INLINE VecF vabs(VecF a) { return (VecF)((MaskF)a & 0x7fffffff); }
VOGE_INLINE VecD vabs(VecD a) { return (VecD)((MaskD)a & 0x7fffffffffffffff); }

// Smallest and largest lane, and the sum: the upper half is folded onto the lower one until one lane is left.
template <int step, class V, class F>
VOGE_INLINE auto fold(V a, F f) {
  if constexpr (step == 0) {
    return a[0];
  } else {
    constexpr int n = sizeof(V) / sizeof(a[0]);
    V turned;
#if defined(__clang__)
    for (int i = 0; i < n; ++i) turned[i] = a[(i + step) % n];
#else
    typedef decltype(a < a) M;
    if constexpr (n == 16)
      turned = __builtin_shuffle(
          a, M{(0 + step) % n, (1 + step) % n, (2 + step) % n, (3 + step) % n, (4 + step) % n, (5 + step) % n,
               (6 + step) % n, (7 + step) % n, (8 + step) % n, (9 + step) % n, (10 + step) % n, (11 + step) % n,
               (12 + step) % n, (13 + step) % n, (14 + step) % n, (15 + step) % n});
    else if constexpr (n == 8)
      turned = __builtin_shuffle(a, M{(0 + step) % n, (1 + step) % n, (2 + step) % n, (3 + step) % n, (4 + step) % n,
                                      (5 + step) % n, (6 + step) % n, (7 + step) % n});
    else if constexpr (n == 4)
      turned = __builtin_shuffle(a, M{(0 + step) % n, (1 + step) % n, (2 + step) % n, (3 + step) % n});
    else
      turned = __builtin_shuffle(a, M{1, 0});
#endif
    return fold<step / 2>(f(a, turned), f);
  }
}
template <class V>
VOGE_INLINE auto lane_min(V a) {
  return fold<sizeof(V) / sizeof(a[0]) / 2>(a, [](V x, V y) __attribute__((always_inline)) { return vmin(x, y); });
}
template <class V>
VOGE_INLINE auto lane_max(V a) {
  return fold<sizeof(V) / sizeof(a[0]) / 2>(a, [](V x, V y) __attribute__((always_inline)) { return vmax(x, y); });
}
template <class V>
VOGE_INLINE auto lane_sum(V a) {
  return fold<sizeof(V) / sizeof(a[0]) / 2>(a, [](V x, V y) __attribute__((always_inline)) { return x + y; });
}

// 2^x for x <= 127 (values under -100 return about 1e-30: no denormal numbers, which are slow); relative error 8e-8: on
// [-1/2, 1/2] a minimax polynomial of degree 5; the integer part goes into the exponent.
VOGE_INLINE VecF vexp2(VecF x) {
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  VecF t = vmax(x, broadcast(-100.f));
  VecF whole = t + magic;
  VecF f = t - (whole - magic);
  VecF p = f * 1.327644179e-03f + 9.675541093e-03f;
  p = p * f + 5.550713367e-02f;
  p = p * f + 2.402211973e-01f;
  p = p * f + 6.931469670e-01f;
  p = p * f + 1.000000072e+00f;
  return (VecF)((MaskF)p + ((MaskF)whole << 23));
}
// exp(x) for x <= 88; relative error 2e-7 (float), rounding of libm (double).
VOGE_INLINE VecF vexp(VecF x) { return vexp2(x * 1.442695041f); }
VOGE_INLINE VecD vexp(VecD x) {
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = exp(x[i]);
  return x;
}

// Normal distribution function Phi(z). Float: odd minimax rational of degree 9/10 on [-5.3, 5.3], absolute error 3e-7
// including rounding; double: libm.
VOGE_INLINE VecF normal_cdf(VecF z) {
  z = vmin(vmax(z, broadcast(-5.3f)), broadcast(5.3f));
  VecF w = z * z;
  VecF n = w * 6.264454882e-06f + 3.416044995e-04f;
  VecF d = w * 5.297985889e-07f + 1.225264854e-04f;
  n = n * w + 5.699294589e-03f;
  d = d * w + 2.863382634e-03f;
  n = n * w + 5.206892435e-02f;
  d = d * w + 3.882886846e-02f;
  n = n * w + 3.989418262e-01f;
  d = d * w + 2.971767832e-01f;
  d = d * w + 1.f;
  return z * n * rcp(d) + .5f;
}
VOGE_INLINE VecD normal_cdf(VecD z) {
  for (int i = 0; i < Simd<double>::lanes; ++i) z[i] = .5 * erfc(z[i] * -0.70710678118654752440);
  return z;
}

// Phi(z) and exp(-z^2/2) together; float: Abramowitz & Stegun 7.1.26, absolute error 2e-7 including rounding.
VOGE_INLINE void normal_cdf_bell(VecF z, VecF& cdf, VecF& bell) {
  VecF a = vabs(z);
  bell = vexp2(a * a * -.72134752f);
  VecF t = rcp(a * .23164190f + 1.f);
  VecF p = t * .53070271f - .72657601f;
  p = p * t + .71070688f;
  p = p * t - .14224837f;
  p = p * t + .12741480f;
  VecF tail = p * t * bell;
  cdf = select(z < 0.f, tail, 1.f - tail);
}
VOGE_INLINE void normal_cdf_bell(VecD z, VecD& cdf, VecD& bell) {
  cdf = normal_cdf(z);
  bell = vexp(z * z * -.5);
}

// Growing scratch memory of plain values, aligned for vectors; `ensure` loses the contents when it grows, `grow` keeps
// the first `used`.
template <class V>
struct Scratch {
  V* data = nullptr;
  size_t capacity = 0;
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free(data); }
  V* ensure(size_t n) {
    if (data && n <= capacity) return data;
    n += n / 2 + 64;
    free(data);
    capacity = 0;
    data = (V*)aligned_alloc(64, (n * sizeof(V) + 63) / 64 * 64);
    if (!data) throw std::bad_alloc();
    capacity = n;
    return data;
  }
  V* grow(size_t n, size_t used) {
    if (data && n <= capacity) return data;
    Scratch larger;
    larger.ensure(n + n / 2);
    if (used) memcpy((void*)larger.data, (const void*)data, used * sizeof(V));
    V* old = data;
    data = larger.data, capacity = larger.capacity;
    larger.data = old;
    return data;
  }
};

VOGE_NAMESPACE_END

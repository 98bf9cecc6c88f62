// SIMD vectors for the CPU kernels, over the compiler's vector extensions.
//
// One kernel text serves every instruction set: a translation unit sets the target, defines
// GGNET_ISA (the name of the namespace that all its code lives in) and GGNET_VECTOR_BYTES, and
// includes the kernels. Two rules keep code built for one instruction set out of another's hands:
// everything here and in the kernels is inside namespace GGNET_ISA, and standard headers come
// before the target is set (a standard inline function compiled for AVX-512 could otherwise be the
// copy that the linker keeps for everyone).
//
// GGNET_F16C, GGNET_AVX512F and GGNET_AVX512_BF16 say which intrinsics may be used. The compiler's
// own macros don't: g++ 12 reads the whole file before it obeys a `#pragma GCC target`.
#pragma once

#ifndef GGNET_ISA
#error "define GGNET_ISA and GGNET_VECTOR_BYTES before including vec.h"
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // every function that takes a vector is inlined

#define GGNET_INLINE inline __attribute__((always_inline))
#define GGNET_LAMBDA_INLINE __attribute__((always_inline))

namespace ggnet::GGNET_ISA {

using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;

// Storage types, as bits: arithmetic is done in float.
struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};

template <typename T, int N>
struct VecOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vec = typename VecOf<T, N>::type;

// Lanes of an arithmetic type.
template <typename A>
inline constexpr int kLanes = GGNET_VECTOR_BYTES / sizeof(A);

// The type in which a storage type is computed.
template <typename T>
struct MathTypeOf {
  using type = float;
};
template <>
struct MathTypeOf<double> {
  using type = double;
};
template <typename T>
using MathType = typename MathTypeOf<T>::type;

template <typename V, typename T>
GGNET_INLINE V load_raw(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V, typename T>
GGNET_INLINE void store_raw(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}
template <typename To, typename From>
GGNET_INLINE To bit_cast(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  __builtin_memcpy(&r, &v, sizeof(To));
  return r;
}

template <typename V>
GGNET_INLINE V splat(decltype(V{}[0] + V{}[0]) x) {
  return x - V{};  // the compiler's idiom for a broadcast
}

// mask ? a : b, lane by lane; mask is a comparison's result.
template <typename M, typename V>
GGNET_INLINE V select(M mask, V a, V b) {
  return mask ? a : b;
}

// ---- conversions of the storage types ----------------------------------------------------------

template <int N>
GGNET_INLINE Vec<u32, N> widen(Vec<u16, N> v) {
#ifdef GGNET_AVX512F  // one instruction; the compiler converts by halves
  if constexpr (N == 16) return (Vec<u32, N>)_mm512_cvtepu16_epi32((__m256i)v);
#endif
  return __builtin_convertvector(v, Vec<u32, N>);
}

template <int N>
GGNET_INLINE Vec<float, N> bf16_to_float(Vec<u16, N> v) {
  return bit_cast<Vec<float, N>>(widen<N>(v) << 16);
}

template <int N>
GGNET_INLINE Vec<u16, N> float_to_bf16(Vec<float, N> v) {  // nearest even
#ifdef GGNET_AVX512_BF16
  if constexpr (N == 16) return (Vec<u16, N>)_mm512_cvtneps_pbh((__m512)v);
#endif
  const auto u = bit_cast<Vec<u32, N>>(v);
  const Vec<u32, N> rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Vec<u32, N> nan = (u >> 16) | 0x40u;
  return __builtin_convertvector(select((u & 0x7fffffffu) > 0x7f800000u, nan, rounded),
                                 Vec<u16, N>);
}

template <int N>
GGNET_INLINE Vec<float, N> f16_to_float(Vec<u16, N> v) {
#ifdef GGNET_F16C
  if constexpr (N == 8) return (Vec<float, N>)_mm256_cvtph_ps((__m128i)v);
#endif
#ifdef GGNET_AVX512F
  if constexpr (N == 16) return (Vec<float, N>)_mm512_cvtph_ps((__m256i)v);
#endif
  const auto h = __builtin_convertvector(v, Vec<u32, N>);
  const Vec<u32, N> magnitude = (h & 0x7fffu) << 13;
  // 2^112 moves the exponent's bias; half denormals become normal floats in the product.
  const auto scaled = bit_cast<Vec<u32, N>>(bit_cast<Vec<float, N>>(magnitude) * 0x1p112f);
  const auto special = (h & 0x7fffu) >= 0x7c00u;
  return bit_cast<Vec<float, N>>(select(special, magnitude | 0x7f800000u, scaled) |
                                 ((h & 0x8000u) << 16));
}

template <int N>
GGNET_INLINE Vec<u16, N> float_to_f16(Vec<float, N> v) {  // nearest even
#ifdef GGNET_F16C
  if constexpr (N == 8) return (Vec<u16, N>)_mm256_cvtps_ph((__m256)v, 0);
#endif
#ifdef GGNET_AVX512F
  if constexpr (N == 16) return (Vec<u16, N>)_mm512_cvtps_ph((__m512)v, 0);
#endif
  const auto u = bit_cast<Vec<u32, N>>(v);
  const Vec<u32, N> magnitude = u & 0x7fffffffu;
  // Normal halves: round the 13 dropped bits. Denormal ones: adding 0.5 puts their bits at the
  // bottom of the mantissa, and the addition itself rounds.
  const Vec<u32, N> normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const auto small = bit_cast<Vec<u32, N>>(bit_cast<Vec<float, N>>(magnitude) + 0.5f) - 0x3f000000u;
  auto r = select(magnitude < 0x38800000u, small, normal);
  r = select(magnitude >= 0x477ff000u, r - r + 0x7c00u, r);
  r = select(magnitude > 0x7f800000u, r - r + 0x7e00u, r);
  return __builtin_convertvector(r | ((u >> 16) & 0x8000u), Vec<u16, N>);
}

// ---- loads and stores of N elements as the arithmetic type -------------------------------------

template <int N>
GGNET_INLINE Vec<float, N> load(const float* p) {
  return load_raw<Vec<float, N>>(p);
}
template <int N>
GGNET_INLINE Vec<double, N> load(const double* p) {
  return load_raw<Vec<double, N>>(p);
}
template <int N>
GGNET_INLINE Vec<float, N> load(const bf16* p) {
  return bf16_to_float<N>(load_raw<Vec<u16, N>>(p));
}
template <int N>
GGNET_INLINE Vec<float, N> load(const f16* p) {
  return f16_to_float<N>(load_raw<Vec<u16, N>>(p));
}

template <int N>
GGNET_INLINE void store(float* p, Vec<float, N> v) {
  store_raw(p, v);
}
template <int N>
GGNET_INLINE void store(double* p, Vec<double, N> v) {
  store_raw(p, v);
}
template <int N>
GGNET_INLINE void store(bf16* p, Vec<float, N> v) {
  store_raw(p, float_to_bf16<N>(v));
}
template <int N>
GGNET_INLINE void store(f16* p, Vec<float, N> v) {
  store_raw(p, float_to_f16<N>(v));
}

template <int N, typename T, typename B>
GGNET_INLINE Vec<MathType<T>, N> load_bits(B bits) {
  T buffer[N];
  static_assert(sizeof(bits) == sizeof(buffer));
  __builtin_memcpy(buffer, &bits, sizeof(bits));
  return load<N>(buffer);
}

// The first n < N elements; the other lanes are zero, and nothing beyond them is touched. Four and
// eight, which offset groups often have, are moved at once, and as they are: a load waits for a
// narrower store before it, and a masked one for any.
template <int N, typename T>
GGNET_INLINE Vec<MathType<T>, N> load_part(const T* p, int n) {
#ifdef GGNET_AVX512F
  if constexpr (N == 16 && sizeof(T) == 4) {
    if (n == 4) return load_bits<N, T>(_mm512_zextps128_ps512(_mm_loadu_ps(p)));
    if (n == 8) return load_bits<N, T>(_mm512_zextps256_ps512(_mm256_loadu_ps(p)));
  } else if constexpr (N == 16) {
    const auto at = reinterpret_cast<const __m128i*>(p);
    if (n == 4) return load_bits<N, T>(_mm256_zextsi128_si256(_mm_loadl_epi64(at)));
    if (n == 8) return load_bits<N, T>(_mm256_zextsi128_si256(_mm_loadu_si128(at)));
  }
#elif defined(GGNET_F16C)
  if constexpr (N == 8 && sizeof(T) == 4) {
    if (n == 4) return load_bits<N, T>(_mm256_zextps128_ps256(_mm_loadu_ps(p)));
  } else if constexpr (N == 8 && sizeof(T) == 2) {
    if (n == 4) return load_bits<N, T>(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
#endif
  T buffer[N] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return load<N>(buffer);
}
template <int N, typename T>
GGNET_INLINE void store_part(T* p, Vec<MathType<T>, N> v, int n) {
  T buffer[N];
  store<N>(buffer, v);
  if (N > 4 && n == 4)
    __builtin_memcpy(p, buffer, 4 * sizeof(T));
  else if (N > 8 && n == 8)
    __builtin_memcpy(p, buffer, 8 * sizeof(T));
  else
    for (int i = 0; i < n; ++i) p[i] = buffer[i];
}

// One element.
GGNET_INLINE float load_one(const float* p) { return *p; }
GGNET_INLINE double load_one(const double* p) { return *p; }
GGNET_INLINE float load_one(const bf16* p) { return bit_cast<float>((u32)p->bits << 16); }
GGNET_INLINE float load_one(const f16* p) { return f16_to_float<8>(Vec<u16, 8>{p->bits})[0]; }
GGNET_INLINE void store_one(float* p, float v) { *p = v; }
GGNET_INLINE void store_one(double* p, double v) { *p = v; }
GGNET_INLINE void store_one(bf16* p, float v) { p->bits = float_to_bf16<4>(Vec<float, 4>{v})[0]; }
GGNET_INLINE void store_one(f16* p, float v) { p->bits = float_to_f16<8>(Vec<float, 8>{v})[0]; }

// ---- arithmetic --------------------------------------------------------------------------------

// The sum of the vector's 4-lane parts; of all its lanes.
template <int N, typename V>
GGNET_INLINE auto sum_parts(V v) {
  if constexpr (N == 4) {
    return v;
  } else {
    using Half = Vec<std::remove_reference_t<decltype(v[0])>, N / 2>;
    Half low, high;
    __builtin_memcpy(&low, &v, sizeof(Half));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(Half), sizeof(Half));
    return sum_parts<N / 2>(low + high);
  }
}
template <int N, typename V>
GGNET_INLINE auto sum(V v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    const auto part = sum_parts<N>(v);
    return (part[0] + part[2]) + (part[1] + part[3]);
  }
}

// The sums of four vectors.
template <int N, typename V>
GGNET_INLINE auto sums_of(V a, V b, V c, V d) {
  using A = std::remove_reference_t<decltype(a[0])>;
  if constexpr (sizeof(A) == 4 && N >= 4) {
    // Sums of neighbors, twice, within 16 bytes; what is left are vectors of four partial sums.
    using I = Vec<i32, N>;
    I even, odd;
    for (int i = 0; i < N; ++i) {
      even[i] = i / 4 * 4 + i % 2 * 2 + (i % 4 >= 2 ? N : 0);
      odd[i] = even[i] + 1;
    }
    const auto add_pairs = [=](V x, V y) GGNET_LAMBDA_INLINE {
      return __builtin_shuffle(x, y, even) + __builtin_shuffle(x, y, odd);
    };
    return sum_parts<N>(add_pairs(add_pairs(a, b), add_pairs(c, d)));
  } else {
    return Vec<A, 4>{sum<N>(a), sum<N>(b), sum<N>(c), sum<N>(d)};
  }
}

// floor for |v| < 2^31 (the caller has dealt with the rest).
template <int N>
GGNET_INLINE Vec<i32, N> floor_to_int(Vec<float, N> v) {
  const auto i = __builtin_convertvector(v, Vec<i32, N>);
  return i + (__builtin_convertvector(i, Vec<float, N>) > v);  // true is -1
}
template <int N>
GGNET_INLINE Vec<i32, N> floor_to_int(Vec<double, N> v) {
  const auto i = __builtin_convertvector(v, Vec<i32, N>);
  return i + __builtin_convertvector(__builtin_convertvector(i, Vec<double, N>) > v, Vec<i32, N>);
}

// exp within 2 units in the last place; 0 and infinity beyond float's range; NaN stays.
template <int N>
GGNET_INLINE Vec<float, N> exp(Vec<float, N> x) {
  const auto low = splat<Vec<float, N>>(-103.98f), high = splat<Vec<float, N>>(88.73f);
  const auto clamped = select(x < low, low, select(x > high, high, x));
  const auto i = floor_to_int<N>(select(x == x, clamped, low) * 1.44269504f + 0.5f);
  const auto n = __builtin_convertvector(i, Vec<float, N>);
  const auto r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  auto p = splat<Vec<float, N>>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^i in two factors, for the results at both ends of the range.
  const Vec<i32, N> half = i >> 1;
  const auto a = bit_cast<Vec<float, N>>((half + 127) << 23);
  const auto b = bit_cast<Vec<float, N>>((i - half + 127) << 23);
  return p * a * b;
}
template <int N>
GGNET_INLINE Vec<double, N> exp(Vec<double, N> x) {
  for (int i = 0; i < N; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <int N, typename V>
GGNET_INLINE V sigmoid(V x) {
  return 1 / (1 + exp<N>(-x));
}

// acc + the products of neighbouring pairs: a and b hold 2N bf16.
template <int N>
GGNET_INLINE Vec<float, N> dot_bf16(Vec<float, N> acc, Vec<u32, N> a, Vec<u32, N> b) {
#ifdef GGNET_AVX512_BF16
  static_assert(N == 16);
  return (Vec<float, N>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
  using F = Vec<float, N>;
  const F odd = bit_cast<F>(a & 0xffff0000u) * bit_cast<F>(b & 0xffff0000u);
  return acc + odd + bit_cast<F>(a << 16) * bit_cast<F>(b << 16);
#endif
}

}  // namespace ggnet::GGNET_ISA

// Loops over arrays that the compiler vectorizes, one build for each instruction set: conversions
// between storage and math types, exp and logarithms without branches or library calls (NaN passes
// through all of them). Kernels that need to lay out registers by hand use vec.h instead.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "check.h"
#include "dispatch.h"

#define GGNET_INLINE inline __attribute__((always_inline))

namespace ggnet {

// Body is a GGNET_INLINE function; every caller below inlines it, and all that it calls, into code
// for its own instruction set.
#if defined(__x86_64__)
template <auto Body, class... Args>
[[gnu::target("avx2,fma")]] auto run_avx2(Args... args) {
  return Body(args...);
}
template <auto Body, class... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")]] auto run_avx512(
    Args... args) {
  return Body(args...);
}
#endif

// Body(args...), compiled for `isa`.
template <auto Body, class... Args>
auto run(Isa isa, Args... args) {
#if defined(__x86_64__)
#ifndef GGNET_EMULATE_AVX512
  if (isa >= Isa::kAvx512) return run_avx512<Body>(args...);
#endif
  if (isa >= Isa::kAvx2) return run_avx2<Body>(args...);
#endif
  return Body(args...);
}

// The type that arithmetic on stored values of type T is done in.
template <class T>
struct MathTypeOf {
  using type = float;
};
template <>
struct MathTypeOf<double> {
  using type = double;
};
template <class T>
using MathType = typename MathTypeOf<T>::type;

// Calls f with a (null) pointer of the type that the tensor stores.
template <class F>
void with_type(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(static_cast<float*>(nullptr));
    case ScalarType::Double:
      return f(static_cast<double*>(nullptr));
    case ScalarType::BFloat16:
      return f(static_cast<c10::BFloat16*>(nullptr));
    case ScalarType::Half:
      return f(static_cast<c10::Half*>(nullptr));
    default:
      STD_TORCH_CHECK(false, name, " has dtype ", tensor.scalar_type(),
                      ", expected float32, float64, bfloat16 or float16");
  }
}

GGNET_INLINE float to_math(float v) { return v; }
GGNET_INLINE double to_math(double v) { return v; }
GGNET_INLINE float to_math(c10::BFloat16 v) {
  return std::bit_cast<float>(static_cast<uint32_t>(v.x) << 16);
}
GGNET_INLINE float to_math(c10::Half v) {
  // Exponent and mantissa shifted into place; the product rescales the exponent's bias and makes
  // subnormals right. Infinity and NaN had the largest exponent and are put back there.
  const uint32_t magnitude = static_cast<uint32_t>(v.x & 0x7fff) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;
  const uint32_t sign = static_cast<uint32_t>(v.x & 0x8000) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

template <class T>
GGNET_INLINE T from_math(MathType<T> v) {
  return v;
}
template <>
GGNET_INLINE c10::BFloat16 from_math<c10::BFloat16>(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  const uint32_t stored = v == v ? rounded >> 16 : 0x7fc0;
  return c10::BFloat16(static_cast<uint16_t>(stored), c10::BFloat16::from_bits());
}
template <>
GGNET_INLINE c10::Half from_math<c10::Half>(float v) {
  const uint32_t sign = (std::bit_cast<uint32_t>(v) >> 16) & 0x8000;
  const float magnitude = std::fabs(v);
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t normal = (bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13;
  // Adding 0.5 leaves the subnormal's digits, rounded, at the end of the sum's mantissa.
  const uint32_t subnormal = std::bit_cast<uint32_t>(magnitude + 0.5f) - 0x3f000000;
  uint32_t stored = magnitude < 0x1p-14f ? subnormal : normal;
  stored = magnitude >= 65520.0f ? 0x7c00 : stored;
  stored = v == v ? stored : 0x7e00;
  return c10::Half(static_cast<uint16_t>(stored | sign), c10::Half::from_bits());
}

// The polynomials below are evaluated as trees of products (Estrin's scheme): a chain of dependent
// multiply-adds would leave most of the arithmetic units waiting.

// e^v of v in [-86, 88]; relative error 2e-7.
GGNET_INLINE float exp_lane(float v) {
  // Adding 1.5 * 2^23 rounds to an integer that sits in the low bits of the sum.
  const float shifted = v * 1.44269504f + 0x1.8p23f;
  const float n = shifted - 0x1.8p23f;
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  const float r2 = r * r;
  const float high = (1.394110848e-3f * r2 + (8.375125937e-3f * r + 4.166635126e-2f));
  const float p = high * (r2 * r2) + ((1.666641533e-1f * r + 0.5f) * r2 + (r + 1.0f));
  const uint32_t power = std::bit_cast<uint32_t>(shifted) - 0x4b400000 + 127;
  return p * std::bit_cast<float>(power << 23);
}
GGNET_INLINE double exp_lane(double v) { return std::exp(v); }

// log(1 + e) of e in [0, 1]; relative error 2e-7.
GGNET_INLINE float log1p_unit_lane(float e) {
  const float e2 = e * e, e4 = e2 * e2;
  const float p01 = -4.999989271e-1f * e + 1.0f;
  const float p23 = -2.495161593e-1f * e + 3.332971036e-1f;
  const float p45 = -1.526966691e-1f * e + 1.966327429e-1f;
  const float p67 = -5.637361109e-2f * e + 1.054362357e-1f;
  const float p89 = -3.176057013e-3f * e + 1.954252645e-2f;
  return ((p89 * e4 + (p67 * e2 + p45)) * e4 + (p23 * e2 + p01)) * e;
}
GGNET_INLINE double log1p_unit_lane(double e) { return std::log1p(e); }

// log(v) of normal positive v; relative error 3e-7.
GGNET_INLINE float log_lane(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  // Split v into 2^n * m with m in [sqrt(1/2), sqrt(2)).
  const uint32_t n = (bits - 0x3f3504f3) & 0xff800000;
  const float m = std::bit_cast<float>(bits - n);
  const float exponent = static_cast<float>(static_cast<int32_t>(n)) * 0x1p-23f;
  const float s = (m - 1.0f) / (m + 1.0f);
  const float u = s * s;
  float p = 1.180972755e-1f;
  p = p * u + 1.426744610e-1f;
  p = p * u + 2.000019401e-1f;
  p = p * u + 3.333333135e-1f;
  p = p * u + 1.0f;
  return exponent * 0.693147181f + 2.0f * s * p;
}
GGNET_INLINE double log_lane(double v) { return std::log(v); }

}  // namespace ggnet

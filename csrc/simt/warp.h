// Host emulation of the warp-wide instructions that common/device.h wraps: mma.sync, ldmatrix and
// 128-bit accesses. Fragment layouts are those of the PTX ISA.
#pragma once

#include "simt/simt.h"

namespace simt {

// D(16x8) += A(16xK) * B(Kx8), float32 accumulation. As on hardware (Fasi et al., "Numerical
// behavior of NVIDIA tensor cores", 2021) products are exact, and a sum of K/2 of them and the
// accumulator is cut, not rounded. Decode(register, element) gives the value of
// an element of a register: two halves (K=16) or one tf32 (K=8).
template <int K, class Decode>
SIMT_NOTRACE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      const void* site, Decode decode) {
  constexpr int kPack = K / 8;  // elements in a register
  struct Input {
    uint32_t a[4], b[2];
    float c[4];
  } in;
  std::memcpy(in.a, a, sizeof(in.a));
  std::memcpy(in.b, b, sizeof(in.b));
  std::memcpy(in.c, d, sizeof(in.c));
  float out[4];
  collective(0xffffffffu, 16 + K, site, &in, out, [&](Fiber* warp) {
    float lhs[16][K], rhs[K][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Input& q = *static_cast<const Input*>(warp[lane].input);
      const int g = lane >> 2, t = (lane & 3) * kPack;
      for (int e = 0; e < kPack; ++e) {
        lhs[g][t + e] = decode(q.a[0], e);
        lhs[g + 8][t + e] = decode(q.a[1], e);
        lhs[g][t + K / 2 + e] = decode(q.a[2], e);
        lhs[g + 8][t + K / 2 + e] = decode(q.a[3], e);
        rhs[t + e][g] = decode(q.b[0], e);
        rhs[t + K / 2 + e][g] = decode(q.b[1], e);
      }
    }
    double products[2][16][8] = {};
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < K; ++k)
        for (int j = 0; j < 8; ++j)
          products[k / (K / 2)][i][j] += static_cast<double>(lhs[i][k]) * rhs[k][j];
    auto add = [](float sum, double product) {
      const float nearest = static_cast<float>(sum + product);
      return std::isinf(nearest) ? nearest : cut(sum + product);
    };
    for (int lane = 0; lane < 32; ++lane) {
      const Input& q = *static_cast<const Input*>(warp[lane].input);
      float* o = static_cast<float*>(warp[lane].output);
      const int g = lane >> 2, t = (lane & 3) * 2;
      for (int e = 0; e < 4; ++e) {
        const int i = g + (e >> 1) * 8, j = t + (e & 1);
        o[e] = add(add(q.c[e], products[0][i][j]), products[1][i][j]);
      }
    }
    ++block->counters.mma;
    block->counters.mma_macs += 16 * 8 * K;
  });
  std::memcpy(d, out, sizeof(out));
}

inline float decode_half(uint32_t word, int element) {
  __half_raw raw;
  raw.x = static_cast<unsigned short>(word >> (16 * element));
  return __half2float(__half(raw));
}
inline float decode_bfloat16(uint32_t word, int element) {
  return __uint_as_float(element ? word & 0xffff0000u : word << 16);
}
// The unit reads the upper 19 bits of a tf32 operand.
inline float decode_tf32(uint32_t word, int) { return __uint_as_float(word & 0xffffe000u); }

// Four 8x8 matrices of 16-bit elements; lane i names row i%8 of matrix i/8.
inline SIMT_NOTRACE void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed,
                                     const void* site) {
  if (reinterpret_cast<uintptr_t>(row) % 16)
    fail("ldmatrix with a row address that is no multiple of 16");
  if (simt_trace_access) simt_trace_access(row, 16, 0, site);
  uint32_t out[4];
  collective(0xffffffffu, transposed ? 11 : 10, site, row, out, [=](Fiber* warp) {
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t* o = static_cast<uint32_t*>(warp[lane].output);
      for (int m = 0; m < 4; ++m) {
        auto at = [&](int i, int j) {
          return uint32_t{static_cast<const uint16_t*>(warp[m * 8 + i].input)[j]};
        };
        const int i = lane >> 2, j = (lane & 3) * 2;
        o[m] = transposed ? at(j, i) | at(j + 1, i) << 16 : at(i, j) | at(i, j + 1) << 16;
      }
    }
  });
  std::memcpy(r, out, sizeof(out));
}

// One traced access of 16 bytes, where the compiler would instrument several smaller ones.
template <class Vec>
SIMT_NOTRACE Vec load16(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16)
    fail("a 128-bit load from an address that is no multiple of 16");
  if (simt_trace_access) simt_trace_access(address, 16, 0, SIMT_SITE);
  Vec v;
  std::memcpy(&v, address, 16);
  return v;
}
template <class Vec>
SIMT_NOTRACE void store16(void* address, const Vec& v) {
  if (reinterpret_cast<uintptr_t>(address) % 16)
    fail("a 128-bit store to an address that is no multiple of 16");
  if (simt_trace_access) simt_trace_access(address, 16, 1, SIMT_SITE);
  std::memcpy(address, &v, 16);
}

}  // namespace simt

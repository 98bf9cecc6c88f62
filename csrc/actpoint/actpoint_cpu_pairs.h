// The backward's operands as bfloat16 pairs along the depth of their product.
#pragma once

#include "actpoint_cpu_packing.h"
#include "actpoint_cpu_sampling.h"

namespace ggnet::GGNET_ISA {

template <typename T>
struct Pairs {
  using S = Sampling<T>;
  using W = Packing<T, true>;
  using Tile = typename S::Tile;
  static constexpr int N = 16, kPanel = W::kPanel;
  static constexpr int64_t kHalfTile = (kTile + kDepth<true> - 1) / kDepth<true> * kDepth<true> / 2;
  using V = Vec<float, N>;
  using VP = Vec<u32, N>;

  // Of a pixel's gradients: [group][output, padded with zeros], and a line beyond, so that
  // successive rows lie in other L1 sets.
  static int64_t row_size(const DeformCpuParams& p) {
    return p.shape.groups * W::backward_depth(p) + 32;
  }
  static int64_t group_pairs(const DeformCpuParams& p) { return W::padded(p) * kHalfTile; }

  static GGNET_INLINE VP pair(V low, V high) {
    return widen<N>(float_to_bf16<N>(low)) | widen<N>(float_to_bf16<N>(high)) << 16;
  }
  static int64_t depth(const Tile& t) { return round_up(t.size, kDepth<true>) / 2; }

  // grads[pixel][output] -> out[pixel][group][output].
  static void to_rows(const DeformCpuParams& p, const Tile& t, const float* grads, int64_t stride,
                      bf16* out) {
    const int64_t outputs = W::outputs(p), padded = W::backward_depth(p);
    for (int64_t i = 0; i < t.size; ++i)
      for (int64_t group = 0; group < p.shape.groups; ++group) {
        const float* from = grads + i * stride + group * outputs;
        bf16* to = out + i * row_size(p) + group * padded;
        int64_t o = 0;
        for (; o + N <= outputs; o += N) store<N>(to + o, load<N>(from + o));
        if (const int n = int(outputs - o); n > 0)
          store_part<N>(to + o, load_part<N>(from + o, n), n);
      }
  }

  // grads[pixel][output] -> out[group][panel][pixel / 2][in panel][pixel % 2], zeros where there is
  // no pixel.
  static void to_pairs(const DeformCpuParams& p, const Tile& t, const float* grads, int64_t stride,
                       u32* out) {
    for (int64_t group = 0; group < p.shape.groups; ++group)
      for (int64_t j = 0; j < W::panels(p); ++j) {
        const float* from = grads + group * W::outputs(p) + j * kPanel;
        u32* to = out + group * group_pairs(p) + j * kHalfTile * kPanel;
        for (int64_t i = 0; i < depth(t); ++i, to += kPanel)
          for (int v = 0; v < kPanel; v += N) {
            const float* low = from + 2 * i * stride + v;
            store_raw(to + v, pair(2 * i < t.size ? load<N>(low) : V{},
                                   2 * i + 1 < t.size ? load<N>(low + stride) : V{}));
          }
      }
  }

  // columns[pixel][column] -> out[column][pixel / 2][pixel % 2], 16 columns at a time, zeros where
  // there is no pixel.
  static void turn(const Tile& t, const float* columns, int64_t stride, int64_t width, u32* out) {
    for (int64_t c = 0; c < width; c += N)
      for (int64_t i = 0; i < depth(t); i += N) {
        VP v[N];
        for (int k = 0; k < N; ++k) {
          const int64_t pixel = 2 * (i + k);
          const float* low = columns + pixel * stride + c;
          v[k] = pair(pixel < t.size ? load<N>(low) : V{},
                      pixel + 1 < t.size ? load<N>(low + stride) : V{});
        }
        transpose<1>(v);
        transpose<2>(v);
        transpose<4>(v);
        transpose<8>(v);
        for (int k = 0; k < N; ++k) store_raw(out + (c + k) * kHalfTile + i, v[k]);
      }
  }

  // Exchanges what lies off the diagonal in each square of 2 kStep.
  template <int kStep>
  static GGNET_INLINE void transpose(VP* v) {
    VP upper, lower;
    for (int l = 0; l < N; ++l) {
      upper[l] = l & kStep ? N + l - kStep : l;
      lower[l] = l & kStep ? N + l : l + kStep;
    }
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k)
      if (!(k & kStep)) {
        const VP a = v[k], b = v[k + kStep];
        v[k] = __builtin_shuffle(a, b, upper);
        v[k + kStep] = __builtin_shuffle(a, b, lower);
      }
  }
};

}  // namespace ggnet::GGNET_ISA

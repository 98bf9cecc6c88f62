// The backward's products for a block of columns: their gradients, and the weights'.
#pragma once

#include "actpoint_cpu_packing.h"
#include "actpoint_cpu_sampling.h"

namespace ggnet::GGNET_ISA {

// The output gradient of a tile is grads[pixel][output], columns and their gradients are
// [pixel][column].
template <typename T, bool kPairs>
class Products {
  using A = MathType<T>;
  using W = Packing<T>;
  using Tile = typename Sampling<T>::Tile;
  using Block = Blocks::Block;
  static constexpr int kPanel = W::kPanel;

 public:
  Products(const DeformCpuParams& p, const Blocks& blocks, int64_t grads_stride, int64_t stride)
      : p_(p), blocks_(blocks), grads_stride_(grads_stride), stride_(stride) {}

  static size_t bytes(const DeformCpuParams&, const Blocks&) { return 0; }
  void take(Scratch&) {}

  // Once for each tile.
  void read(const Tile&, const A* grads) { grads_ = grads; }

  void column_grads(int64_t number, const Block& block, const Tile& t, A* out) const {
    const int64_t outputs = W::outputs(p_);
    const A* packed =
        static_cast<const A*>(p_.packed) + number * W::backward_block_size(p_, blocks_);
    Gemm<A>::template run<true>({t.size, ceil_div(block.width(), kPanel), outputs, grads_stride_, 0,
                                 outputs * kPanel, kPanel, kPanel, stride_, false},
                                grads_ + block.group * outputs, packed, out);
  }

  // sums[panel of outputs][column][kPanel] (+)=
  void weight_grad(const Block& block, const Tile& t, const A* columns, A* sums,
                   bool accumulate) const {
    Gemm<A>::template run<false>({block.width(), W::panels(p_), t.size, 0, stride_, kPanel,
                                  grads_stride_, block.width() * kPanel, kPanel, accumulate},
                                 columns, grads_ + block.group * W::outputs(p_), sums);
  }

 private:
  const DeformCpuParams& p_;
  const Blocks& blocks_;
  int64_t grads_stride_, stride_;
  const A* grads_ = nullptr;
};

// The same over bfloat16 pairs along the depth, which all operands are turned into.
template <typename T>
class Products<T, true> {
  using W = Packing<T, true>;
  using Tile = typename Sampling<T>::Tile;
  using Block = Blocks::Block;
  static constexpr int N = 16, kPanel = W::kPanel;
  static constexpr int64_t kHalfTile = round_up(kTile, kDepth<true>) / 2;
  using V = Vec<float, N>;
  using VP = Vec<u32, N>;

 public:
  Products(const DeformCpuParams& p, const Blocks& blocks, int64_t grads_stride, int64_t stride)
      : p_(p), blocks_(blocks), grads_stride_(grads_stride), stride_(stride) {}

  static size_t bytes(const DeformCpuParams& p, const Blocks& blocks) {
    return Scratch::bytes<bf16>(kTile * row_size(p)) +
           Scratch::bytes<u32>(p.shape.groups * group_pairs(p)) +
           Scratch::bytes<u32>(round_up(blocks.width(), N) * kHalfTile);
  }
  void take(Scratch& scratch) {
    rows_ = scratch.take_zeros<bf16>(kTile * row_size(p_));  // the padding stays zero
    pairs_ = scratch.take<u32>(p_.shape.groups * group_pairs(p_));
    turned_ = scratch.take<u32>(round_up(blocks_.width(), N) * kHalfTile);
  }

  void read(const Tile& t, const float* grads) {
    read_rows(t, grads);
    read_pairs(t, grads);
  }

  void column_grads(int64_t number, const Block& block, const Tile& t, float* out) const {
    const int64_t depth = W::backward_depth(p_) / 2;
    const bf16* packed =
        static_cast<const bf16*>(p_.packed) + number * W::backward_block_size(p_, blocks_);
    Gemm<float>::run<true>({t.size, ceil_div(block.width(), kPanel), depth, row_size(p_) / 2, 0,
                            depth * kPanel, kPanel, kPanel, stride_, false},
                           reinterpret_cast<const u32*>(rows_) + block.group * depth,
                           reinterpret_cast<const u32*>(packed), out);
  }

  void weight_grad(const Block& block, const Tile& t, const float* columns, float* sums,
                   bool accumulate) const {
    turn(t, columns, block.width());
    Gemm<float>::run<true>({block.width(), W::panels(p_), depth(t), kHalfTile, 0,
                            kHalfTile * kPanel, kPanel, block.width() * kPanel, kPanel, accumulate},
                           turned_, pairs_ + block.group * group_pairs(p_), sums);
  }

 private:
  const DeformCpuParams& p_;
  const Blocks& blocks_;
  int64_t grads_stride_, stride_;
  bf16* rows_ = nullptr;   // [pixel][group][output, padded]
  u32* pairs_ = nullptr;   // [group][panel][pixel / 2][in panel][pixel % 2]
  u32* turned_ = nullptr;  // [column][pixel / 2][pixel % 2]

  // With a line beyond, so that successive rows lie in other L1 sets.
  static int64_t row_size(const DeformCpuParams& p) {
    return p.shape.groups * W::backward_depth(p) + 32;
  }
  static int64_t group_pairs(const DeformCpuParams& p) { return W::padded(p) * kHalfTile; }
  static int64_t depth(const Tile& t) { return round_up(t.size, kDepth<true>) / 2; }

  void read_rows(const Tile& t, const float* grads) {
    const int64_t outputs = W::outputs(p_);
    for (int64_t i = 0; i < t.size; ++i)
      for (int64_t group = 0; group < p_.shape.groups; ++group) {
        const float* from = grads + i * grads_stride_ + group * outputs;
        bf16* to = rows_ + i * row_size(p_) + group * W::backward_depth(p_);
        int64_t o = 0;
        for (; o + N <= outputs; o += N) store<N>(to + o, load<N>(from + o));
        if (const int n = int(outputs - o); n > 0)
          store_part<N>(to + o, load_part<N>(from + o, n), n);
      }
  }

  // Pixel 2 i and the one after it; zeros where there is no pixel.
  GGNET_INLINE VP pair(const Tile& t, int64_t i, const float* from, int64_t stride) const {
    const V low = 2 * i < t.size ? load<N>(from + 2 * i * stride) : V{};
    const V high = 2 * i + 1 < t.size ? load<N>(from + (2 * i + 1) * stride) : V{};
    return widen<N>(float_to_bf16<N>(low)) | widen<N>(float_to_bf16<N>(high)) << 16;
  }

  void read_pairs(const Tile& t, const float* grads) {
    for (int64_t group = 0; group < p_.shape.groups; ++group)
      for (int64_t j = 0; j < W::panels(p_); ++j) {
        const float* from = grads + group * W::outputs(p_) + j * kPanel;
        u32* to = pairs_ + group * group_pairs(p_) + j * kHalfTile * kPanel;
        for (int64_t i = 0; i < depth(t); ++i, to += kPanel)
          for (int v = 0; v < kPanel; v += N)
            store_raw(to + v, pair(t, i, from + v, grads_stride_));
      }
  }

  // 16 columns at a time: there is room for them.
  void turn(const Tile& t, const float* columns, int64_t width) const {
    for (int64_t c = 0; c < width; c += N)
      for (int64_t i = 0; i < depth(t); i += N) {
        VP v[N];
        for (int k = 0; k < N; ++k) v[k] = pair(t, i + k, columns + c, stride_);
        transpose<1>(v);
        transpose<2>(v);
        transpose<4>(v);
        transpose<8>(v);
        for (int k = 0; k < N; ++k) store_raw(turned_ + (c + k) * kHalfTile + i, v[k]);
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

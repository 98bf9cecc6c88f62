// The products of narrow groups, which would leave most of a panel of outputs empty.
//
// Here the lanes of a vector are adjacent channels, whatever their groups, and each lane sums up
// its own channel's products. With p a pixel, k a point, c a lane, j an output of the lane's group
// and spread[p][j][c] the gradient of that output:
//   forward: partial[p][j][c] = sum_k columns[p][k][c] weight[j][k][c], then a group's lanes are
//     added up
//   gradient of columns[p][k][c] = sum_j spread[p][j][c] weight[j][k][c]
//   gradient of weight[j][k][c] = sum_p spread[p][j][c] columns[p][k][c]
#pragma once

#include "actpoint_cpu_packing.h"

namespace ggnet::GGNET_ISA {

template <typename A>
struct LaneProduct {
  static constexpr int N = kLanes<A>;
  using V = Vec<A, N>;

  struct Sizes {
    int64_t rows, columns, depth, lanes;  // lanes: a multiple of N
    int64_t a_row, a_depth, b_column, b_depth, c_row, c_column;
    bool accumulate;
  };

  // c[R][C] (+)= the sum over the depth of a[R] b[C], in N lanes.
  template <int R, int C>
  static GGNET_INLINE void micro(const Sizes& g, const A* a, const A* b, A* c) {
    V sum[R][C];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n)
        sum[r][n] = g.accumulate ? load<N>(c + r * g.c_row + n * g.c_column) : V{};
    for (int64_t d = 0; d < g.depth; ++d, a += g.a_depth, b += g.b_depth) {
      V factor[C];
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n) factor[n] = load<N>(b + n * g.b_column);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V x = load<N>(a + r * g.a_row);
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n) sum[r][n] += x * factor[n];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < C; ++n) store<N>(c + r * g.c_row + n * g.c_column, sum[r][n]);
  }
  template <int R, int C>
  static void micro_part(int64_t rows, int64_t columns, const Sizes& g, const A* a, const A* b,
                         A* c) {
    if (rows >= R && columns >= C) return micro<R, C>(g, a, b, c);
    if constexpr (R > 1)
      if (rows < R) return micro_part<R - 1, C>(rows, columns, g, a, b, c);
    if constexpr (C > 1) micro_part<R, C - 1>(rows, columns, g, a, b, c);
  }
  static void run(const Sizes& g, const A* a, const A* b, A* c) {
    constexpr int kSide = 4;
    for (int64_t lane = 0; lane < g.lanes; lane += N)
      for (int64_t n = 0; n < g.columns; n += kSide)
        for (int64_t r = 0; r < g.rows; r += kSide)
          micro_part<kSide, kSide>(g.rows - r, g.columns - n, g, a + r * g.a_row + lane,
                                   b + n * g.b_column + lane,
                                   c + r * g.c_row + n * g.c_column + lane);
  }
};

template <typename T>
struct Lanes {
  using A = MathType<T>;
  using W = Packing<T>;
  using Block = Blocks::Block;
  using Product = LaneProduct<A>;
  static constexpr int N = Product::N;
  static constexpr int64_t kStrip = 16;  // pixels at a time: their columns stay in L1 or L2

  static bool chosen(const DeformCpuParams& p) {
    return p.shape.groups > 1 && (W::outputs(p) <= W::kPanel / 2 || W::channels(p) < N);
  }
  // Their runs lie in one offset group; a block has all points.
  static Blocks blocks(const DeformCpuParams& p) {
    const int64_t channels = W::outputs(p) > 16 ? 16 : 64;
    return Blocks(p.shape, p.shape.channels / p.shape.offset_groups, channels,
                  p.points() * channels);
  }
  static int64_t lanes(const Blocks& blocks) { return round_up(blocks.channels, N); }

  // Packed weights and the sums of their gradients: [block][output of the group][point][lane].
  static int64_t block_size(const DeformCpuParams& p, const Blocks& blocks) {
    return W::outputs(p) * p.points() * lanes(blocks);
  }
  static size_t packed_bytes(const DeformCpuParams& p) {
    const Blocks blocks = Lanes::blocks(p);
    return blocks.count() * block_size(p, blocks) * sizeof(A);
  }
  static void pack(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks = Lanes::blocks(p);
    const int64_t lanes = Lanes::lanes(blocks), outputs = W::outputs(p);
    for (int64_t i = begin; i < end; ++i) {
      const Block block = blocks.at(i);
      A* out = static_cast<A*>(p.packed) + i * block_size(p, blocks);
      for (int64_t j = 0; j < outputs; ++j)
        for (int64_t k = 0; k < p.points(); ++k, out += lanes)
          for (int64_t c = 0; c < lanes; ++c) {
            const int64_t channel = block.channel + c;
            const int64_t o = channel / W::channels(p) * outputs + j;
            out[c] = c < block.channels ? load_one(W::weight_at(p, o, channel, k)) : A{0};
          }
    }
  }

  // Calls f(group's first output, its first lane, its lanes) for the groups in a block. The common
  // numbers of lanes are constants.
  template <typename F>
  static GGNET_INLINE void for_groups(const DeformCpuParams& p, const Block& block, F f) {
    const int64_t channels = W::channels(p);
    int64_t output = block.group * W::outputs(p);
    int64_t end = (block.group + 1) * channels - block.channel;
    for (int64_t lane = 0; lane < block.channels; output += W::outputs(p), end += channels) {
      const int64_t count = (end < block.channels ? end : block.channels) - lane;
      if (count == 1)
        f(output, lane, std::integral_constant<int, 1>{});
      else if (count == 4)
        f(output, lane, std::integral_constant<int, 4>{});
      else if (count == 8)
        f(output, lane, std::integral_constant<int, 8>{});
      else
        f(output, lane, count);
      lane += count;
    }
  }

  // sums[pixel][output] += a pixel's partial sums of the block.
  static void add_up(const DeformCpuParams& p, const Block& block, int64_t pixels, int64_t lanes,
                     const A* partial, A* sums, int64_t sums_stride) {
    const int64_t outputs = W::outputs(p);
    for_groups(p, block, [&](int64_t output, int64_t lane, auto count) GGNET_LAMBDA_INLINE {
      const A* from = partial + lane;
      A* to = sums + output;
      for (int64_t i = 0; i < pixels; ++i, to += sums_stride)
        for (int64_t j = 0; j < outputs; ++j, from += lanes) {
          A total = 0;
          for (int64_t c = 0; c < count; ++c) total += from[c];
          to[j] += total;
        }
    });
  }

  // spread[pixel][output of the group][lane] of grads[pixel][output].
  static void spread(const DeformCpuParams& p, const Block& block, int64_t pixels, int64_t lanes,
                     const A* grads, int64_t grads_stride, A* spread) {
    const int64_t outputs = W::outputs(p);
    for_groups(p, block, [&](int64_t output, int64_t lane, auto count) GGNET_LAMBDA_INLINE {
      const A* from = grads + output;
      A* to = spread + lane;
      for (int64_t i = 0; i < pixels; ++i, from += grads_stride)
        for (int64_t j = 0; j < outputs; ++j, to += lanes)
          for (int64_t c = 0; c < count; ++c) to[c] = from[j];
    });
  }

  static void reduce_weight(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks = Lanes::blocks(p);
    const int64_t count = sections(p.shape), lanes = Lanes::lanes(blocks), outputs = W::outputs(p),
                  size = blocks.count() * block_size(p, blocks);
    const Strides& s = p.grad_weight_strides;
    for (int64_t b = begin; b < end; ++b) {
      const Block block = blocks.at(b);
      const A* from = static_cast<const A*>(p.weight_sums) + b * block_size(p, blocks);
      for (int64_t j = 0; j < outputs; ++j)
        for (int64_t k = 0; k < p.points(); ++k, from += lanes)
          for (int64_t c = 0; c < block.channels; ++c) {
            A total = 0;
            for (int64_t part = 0; part < count; ++part) total += from[part * size + c];
            const int64_t channel = block.channel + c, group = channel / W::channels(p);
            store_one(static_cast<T*>(p.grad_weight) + (group * outputs + j) * s.batch +
                          channel % W::channels(p) * s.channel + k / p.shape.kernel_w * s.row +
                          k % p.shape.kernel_w * s.column,
                      total);
          }
    }
  }
};

}  // namespace ggnet::GGNET_ISA

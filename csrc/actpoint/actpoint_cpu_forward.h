// The forward on the CPU.
//
// A thread takes a tile of output pixels at a time. For each offset group it first makes their
// sampling plan (four corners and their weights for each point, shared by all channels of the
// offset group), then, block by block of points x channels, gathers a tile of columns that stays in
// L2 and multiplies it with packed weights.
#pragma once

#include "actpoint_cpu_lanes.h"
#include "actpoint_cpu_sampling.h"

namespace ggnet::GGNET_ISA {

template <typename T, bool kPairs>
struct Forward {
  using S = Sampling<T>;
  using W = Packing<T, kPairs>;
  using L = Lanes<T>;
  using A = MathType<T>;
  using V = typename S::V;
  using Plan = typename S::Plan;
  using Tile = typename S::Tile;
  using Strip = typename S::Strip;
  using Column = typename W::Column;
  using Block = Blocks::Block;
  static constexpr int N = S::N, kPanel = W::kPanel;
  static constexpr int kLine = 64 / sizeof(Column);  // successive rows in other L1 sets

  // A strip's columns of one block: out[pixel][point][channel].
  static void gather(const DeformCpuParams& p, const Tile& t, const Strip& strip, const Plan& plan,
                     const Block& block, const T* zeros, Column* out) {
    const T* features =
        static_cast<const T*>(p.features) + t.image * p.feature_batch_stride + block.channel;
    const int64_t channels = block.channels;
    for (int64_t k = 0; k < block.points; ++k) {
      const int64_t plane = (block.point + k) * kTile + strip.first;
      Column* to = out + k * strip.point_stride;
      for (int64_t i = 0; i < strip.size; ++i, to += strip.stride) {
        const T* row[4];
        V w[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          const i32 corner = plan.corner[q][plane + i];
          row[q] = corner < 0 ? zeros : features + corner;
          w[q] = splat<V>(plan.weight[q][plane + i]);
        }
        int64_t c = 0;
        for (; c + N <= channels; c += N)
          store<N>(to + c, w[0] * load<N>(row[0] + c) + w[1] * load<N>(row[1] + c) +
                               w[2] * load<N>(row[2] + c) + w[3] * load<N>(row[3] + c));
        if (const int n = int(channels - c); n > 0)
          store_part<N>(to + c,
                        w[0] * load_part<N>(row[0] + c, n) + w[1] * load_part<N>(row[1] + c, n) +
                            w[2] * load_part<N>(row[2] + c, n) + w[3] * load_part<N>(row[3] + c, n),
                        n);
      }
    }
  }

  // Where `groups` groups of outputs lie, each in whole panels: bias[group][panel][in panel] and
  // sums[group][panel][pixel][in panel], so that a micro-kernel's rows lie side by side.
  struct Layout {
    int64_t groups, outputs, panel;

    Layout(const DeformCpuParams& p, int64_t groups, int64_t panel)
        : groups(groups), outputs(p.shape.outputs / groups), panel(panel) {}
    int64_t padded() const { return round_up(outputs, panel); }
    int64_t size() const { return groups * padded(); }
  };

  static void read_bias(const DeformCpuParams& p, const Layout& layout, A* bias) {
    if (!p.bias) return;
    for (int64_t o = 0; o < p.shape.outputs; ++o)
      bias[o / layout.outputs * layout.padded() + o % layout.outputs] =
          load_one(static_cast<const T*>(p.bias) + o);
  }

  static void write_output(const DeformCpuParams& p, const Tile& t, const Layout& layout,
                           const A* sums, const A* bias) {
    const Strides& s = p.out_strides;
    const A least = p.relu ? A{0} : A(-__builtin_inf());
    const int64_t n = t.width, panel = layout.panel;
    S::for_rows(t, s, [&](int64_t first, int64_t at) {
      for (int64_t group = 0; group < layout.groups; ++group)
        for (int64_t o = 0; o < layout.outputs; o += N) {
          const int64_t column = group * layout.padded() + o;
          const A* from = sums + (column / panel * kTile + first) * panel + column % panel;
          T* out = static_cast<T*>(p.out) + at + (group * layout.outputs + o) * s.channel;
          const int64_t left = layout.outputs - o;
          if (s.channel == 1 && left >= N) {
            const V shift = load<N>(bias + column), low = splat<V>(least);
            for (int64_t i = 0; i < n; ++i, from += panel, out += s.column) {
              const V v = load<N>(from) + shift;
              store<N>(out, select(v < low, low, v));  // NaN stays
            }
          } else {
            for (int64_t c = 0; c < N && c < left; ++c)
              for (int64_t i = 0; i < n; ++i) {
                const A v = from[i * panel + c] + bias[column + c];
                store_one(out + c * s.channel + i * s.column, v < least ? least : v);
              }
          }
        }
    });
  }

  static void forward(const DeformCpuParams& p, int64_t begin, int64_t end) {
    if (L::chosen(p)) return Forward<T, false>::forward_lanes(p, begin, end);
    const Blocks blocks = W::blocks(p, kForwardBlock);
    const Layout layout(p, p.shape.groups, kPanel);
    const TileGrid grid(p.shape);
    const int64_t points = p.points(), tiles = grid.count();
    const int64_t stride = round_up(blocks.width(), kLine) + kLine;
    Scratch scratch(Plan::bytes(points) + Scratch::bytes<Column>(kTile * stride) +
                    Scratch::bytes<A>(kTile * layout.size()) + Scratch::bytes<A>(layout.size()) +
                    Scratch::bytes<T>(blocks.channels));
    Plan plan(scratch, points);
    Column* columns = scratch.take<Column>(kTile * stride);
    A* sums = scratch.take<A>(kTile * layout.size());
    A* bias = scratch.take_zeros<A>(layout.size());
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    read_bias(p, layout, bias);

    for (int64_t index = begin; index < end; ++index) {
      const Tile t = S::tile(p, grid, index / tiles, index % tiles);
      for (int64_t b = 0; b < blocks.count(); ++b) {
        if (b % blocks.of_offset_group() == 0)
          S::template make_plan<false>(p, t, b / blocks.of_offset_group(), plan);
        const auto block = blocks.at(b);
        const Column* packed =
            static_cast<const Column*>(p.packed) + b * W::forward_block_size(p, blocks);
        gather(p, t, {0, t.size, stride, block.channels}, plan, block, zeros, columns);
        A* group_sums = sums + block.group * kTile * layout.padded();
        typename Gemm<A>::Sizes g{
            t.size, W::panels(p),   block.width(), stride,      0, block.width() * kPanel,
            kPanel, kTile * kPanel, kPanel,        !block.first};
        if constexpr (kPairs) {
          // What fills up the depth is zero on both sides.
          const int64_t depth = round_up(block.width(), kDepth<true>);
          for (int64_t i = 0; i < t.size; ++i)
            for (int64_t d = block.width(); d < depth; ++d) columns[i * stride + d] = bf16{0};
          g.depth = depth / 2;
          g.row_stride = stride / 2;
          g.b_panel = g.depth * kPanel;
          Gemm<A>::template run<true>(g, reinterpret_cast<const u32*>(columns),
                                      reinterpret_cast<const u32*>(packed), group_sums);
        } else {
          Gemm<A>::template run<true>(g, columns, packed, group_sums);
        }
      }
      write_output(p, t, layout, sums, bias);
    }
  }

  // The same for narrow groups, a strip of pixels after the other.
  static void forward_lanes(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks = L::blocks(p);
    const Layout layout(p, 1, round_up(p.shape.outputs, N));
    const TileGrid grid(p.shape);
    const int64_t points = p.points(), tiles = grid.count(), outputs = L::W::outputs(p);
    const int64_t lanes = L::lanes(blocks), stride = points * lanes;
    Scratch scratch(Plan::bytes(points) + Scratch::bytes<A>(L::kStrip * stride) +
                    Scratch::bytes<A>(L::kStrip * outputs * lanes) +
                    Scratch::bytes<A>(kTile * layout.size()) + Scratch::bytes<A>(layout.size()) +
                    Scratch::bytes<T>(blocks.channels));
    Plan plan(scratch, points);
    A* columns = scratch.take_zeros<A>(L::kStrip * stride);  // lanes without a channel stay zero
    A* partial = scratch.take<A>(L::kStrip * outputs * lanes);
    A* sums = scratch.take<A>(kTile * layout.size());
    A* bias = scratch.take_zeros<A>(layout.size());
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    read_bias(p, layout, bias);

    for (int64_t index = begin; index < end; ++index) {
      const Tile t = S::tile(p, grid, index / tiles, index % tiles);
      __builtin_memset(sums, 0, t.size * layout.size() * sizeof(A));
      for (int64_t b = 0; b < blocks.count(); ++b) {
        if (b % blocks.of_offset_group() == 0)
          S::template make_plan<false>(p, t, b / blocks.of_offset_group(), plan);
        const auto block = blocks.at(b);
        const A* packed = static_cast<const A*>(p.packed) + b * L::block_size(p, blocks);
        for (int64_t first = 0; first < t.size; first += L::kStrip) {
          const int64_t left = t.size - first, pixels = left < L::kStrip ? left : L::kStrip;
          gather(p, t, {first, pixels, stride, lanes}, plan, block, zeros, columns);
          L::Product::run({pixels, outputs, points, lanes, stride, lanes, stride, lanes,
                           outputs * lanes, lanes, false},
                          columns, packed, partial);
          L::add_up(p, block, pixels, lanes, partial, sums + first * layout.size(), layout.size());
        }
      }
      write_output(p, t, layout, sums, bias);
    }
  }
};

}  // namespace ggnet::GGNET_ISA

// The forward on the CPU.
//
// A thread takes a tile of output pixels at a time. It first makes their sampling plan (four
// corners and their weights for each point, shared by all channels), then, block by block of points
// x channels, gathers a tile of columns that stays in L2 and multiplies it with packed weights.
#pragma once

#include "actpoint_cpu_packing.h"
#include "actpoint_cpu_sampling.h"

namespace ggnet::GGNET_ISA {

template <typename T, bool kPairs>
struct Forward {
  using S = Sampling<T>;
  using W = Packing<T, kPairs>;
  using A = MathType<T>;
  using V = typename S::V;
  using Plan = typename S::Plan;
  using Tile = typename S::Tile;
  using Column = typename W::Column;
  using Block = Blocks::Block;
  static constexpr int N = S::N, kPad = S::kPad, kPanel = W::kPanel;

  // Columns of one block: out[pixel][point][channel], rows `stride` apart.
  static void gather(const DeformCpuParams& p, const Tile& t, const Plan& plan, const Block& block,
                     const T* zeros, Column* out, int64_t stride) {
    const T* features =
        static_cast<const T*>(p.features) + t.image * p.feature_batch_stride + block.channel;
    const int64_t channels = block.channels;
    for (int64_t k = 0; k < block.points; ++k) {
      const int64_t plane = (block.point + k) * kTile;
      Column* to = out + k * channels;
      for (int64_t i = 0; i < t.size; ++i, to += stride) {
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

  // sums: [panel][pixel][kPanel], so that a micro-kernel's rows lie side by side.
  static void write_output(const DeformCpuParams& p, const Tile& t, const A* sums, const A* bias) {
    const Strides& s = p.out_strides;
    const V least = p.relu ? V{} : splat<V>(-__builtin_inf());
    const int64_t n = t.width;
    S::for_rows(t, s, [&](int64_t first, int64_t at) {
      for (int64_t o = 0; o < W::padded(p); o += N) {
        const A* from = sums + (o / kPanel * kTile + first) * kPanel + o % kPanel;
        T* out = static_cast<T*>(p.out) + at + o * s.channel;
        const int64_t left = p.shape.outputs - o;
        const V shift = load<N>(bias + o);
        for (int64_t i = 0; i < n; ++i, from += kPanel, out += s.column) {
          V v = load<N>(from) + shift;
          v = select(v < least, least, v);  // NaN stays
          if (s.channel == 1 && left >= N)
            store<N>(out, v);
          else
            for (int64_t c = 0; c < N && c < left; ++c) store_one(out + c * s.channel, v[c]);
        }
      }
    });
  }

  static void forward(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kForwardBlock);
    const TileGrid grid(p.shape);
    const int64_t points = p.points(), tiles = grid.count();
    const int64_t stride = round_up(blocks.width(), kPad) + kPad;
    Scratch scratch(Plan::bytes(points) + Scratch::bytes<Column>(kTile * stride) +
                    Scratch::bytes<A>(kTile * W::padded(p)) + Scratch::bytes<A>(W::padded(p)) +
                    Scratch::bytes<T>(blocks.channels));
    Plan plan(scratch, points);
    Column* columns = scratch.take<Column>(kTile * stride);
    A* sums = scratch.take<A>(kTile * W::padded(p));
    A* bias = scratch.take_zeros<A>(W::padded(p));
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    if (p.bias)
      for (int64_t o = 0; o < p.shape.outputs; ++o)
        bias[o] = load_one(static_cast<const T*>(p.bias) + o);

    for (int64_t index = begin; index < end; ++index) {
      const Tile t = S::tile(p, grid, index / tiles, index % tiles);
      S::template make_plan<false>(p, t, plan);
      for (int64_t b = 0; b < blocks.count(); ++b) {
        const auto block = blocks.at(b);
        const Column* packed =
            static_cast<const Column*>(p.packed) + b * W::forward_block_size(p, blocks);
        gather(p, t, plan, block, zeros, columns, stride);
        typename Gemm<A>::Sizes g{
            t.size, W::panels(p),   block.width(), stride, 0, block.width() * kPanel,
            kPanel, kTile * kPanel, kPanel,        b > 0};
        if constexpr (kPairs) {
          // An odd depth's last pair: its second half is zero on both sides.
          if (block.width() % 2)
            for (int64_t i = 0; i < t.size; ++i) columns[i * stride + block.width()] = bf16{0};
          g.depth = ceil_div(block.width(), 2);
          g.row_stride = stride / 2;
          g.b_panel = g.depth * kPanel;
          Gemm<A>::template run<true>(g, reinterpret_cast<const u32*>(columns),
                                      reinterpret_cast<const u32*>(packed), sums);
        } else {
          Gemm<A>::template run<true>(g, columns, packed, sums);
        }
      }
      write_output(p, t, sums, bias);
    }
  }
};

}  // namespace ggnet::GGNET_ISA

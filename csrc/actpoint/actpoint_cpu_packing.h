// How the CPU kernels of the deformable convolution cut the columns of a pixel into blocks, and the
// weights in the order that a block's product reads them.
#pragma once

#include "actpoint_cpu_gemm.h"

namespace ggnet::GGNET_ISA {

// Channels gathered at a time, at most: a tile's samples of them fit L2 beside its columns.
inline constexpr int64_t kChannels = 128;

// How the columns of a pixel, its points x channels, are cut into blocks of `points` points x
// `channels` channels: first the channels into runs, in each of which all are alike, then these
// into slabs.
struct Blocks {
  int64_t all_points, points, point_blocks;
  int64_t run, channels, slabs;  // channels of a run and of a slab, slabs of a run
  int64_t runs, group_channels, offset_groups;

  Blocks(const DeformShape& s, int64_t run, int64_t max_channels, int64_t columns)
      : all_points(int64_t{s.kernel_h} * s.kernel_w),
        run(run),
        runs(s.channels / run),
        group_channels(s.channels / s.groups),
        offset_groups(s.offset_groups) {
    channels = round_up(ceil_div(run, ceil_div(run, max_channels)), 16);
    channels = channels < run ? channels : run;
    slabs = ceil_div(run, channels);
    points = columns / channels;
    points = points < 1 ? 1 : (points < all_points ? points : all_points);
    points = ceil_div(all_points, ceil_div(all_points, points));
    point_blocks = ceil_div(all_points, points);
  }
  int64_t count() const { return runs * slabs * point_blocks; }
  int64_t of_offset_group() const { return count() / offset_groups; }  // those of one, side by side
  int64_t width() const { return points * channels; }                  // the widest block's columns

  struct Block {
    int64_t point, points, channel, channels;
    int64_t group;  // of the first channel
    bool first;     // of the group's blocks, if it begins with a block
    int64_t width() const { return points * channels; }
  };
  Block at(int64_t i) const {
    const int64_t point = i % point_blocks * points, slab = i / point_blocks;
    const int64_t in_run = slab % slabs * channels, channel = slab / slabs * run + in_run;
    const int64_t p = all_points - point, c = run - in_run, group = channel / group_channels;
    return {point,   p < points ? p : points,
            channel, c < channels ? c : channels,
            group,   point == 0 && channel == group * group_channels};
  }
};

// Columns in a block: a panel of packed weights (forward: 256 x 16 floats) stays in L1 while the
// tile's pixels pass; the backward has two tiles of columns in L2 beside the output gradient.
inline constexpr int64_t kForwardBlock = 256, kBackwardBlock = 128;

template <typename T, bool kPairs = false>  // kPairs: products take bfloat16 pairs
struct Packing {
  using A = MathType<T>;
  using Column = std::conditional_t<kPairs, bf16, A>;
  static constexpr int kPanel = Gemm<A>::kPanel;

  // Of a group.
  static int64_t outputs(const DeformCpuParams& p) { return p.shape.outputs / p.shape.groups; }
  static int64_t channels(const DeformCpuParams& p) { return p.shape.channels / p.shape.groups; }
  static int64_t panels(const DeformCpuParams& p) { return ceil_div(outputs(p), kPanel); }
  static int64_t padded(const DeformCpuParams& p) { return panels(p) * kPanel; }

  // Their runs lie in one group and one offset group.
  static Blocks blocks(const DeformCpuParams& p, int64_t columns) {
    return Blocks(p.shape, gcd(channels(p), p.shape.channels / p.shape.offset_groups), kChannels,
                  columns);
  }
  static int64_t pack_items(const DeformCpuParams& p, bool backward) {
    return blocks(p, backward ? kBackwardBlock : kForwardBlock).count();
  }

  // Of output o and channel c, its first or a later one.
  static const T* weight_at(const DeformCpuParams& p, int64_t o, int64_t c, int64_t k) {
    const Strides& s = p.weight_strides;
    return static_cast<const T*>(p.weight) + o * s.batch + c % channels(p) * s.channel +
           k / p.shape.kernel_w * s.row + k % p.shape.kernel_w * s.column;
  }

  // Forward: [block][panel of outputs][column][kPanel]; pairs: [column / 2][kPanel][2]. Padded with
  // zeros.
  static int64_t forward_block_size(const DeformCpuParams& p, const Blocks& blocks) {
    return panels(p) * round_up(blocks.width(), kDepth<kPairs>) * kPanel;
  }
  static size_t forward_packed_bytes(const DeformCpuParams& p) {
    const Blocks blocks = Packing::blocks(p, kForwardBlock);
    return blocks.count() * forward_block_size(p, blocks) * sizeof(Column);
  }
  static GGNET_INLINE int64_t packed_index(int64_t d, int64_t n) {
    return kPairs ? (d / 2 * kPanel + n) * 2 + d % 2 : d * kPanel + n;
  }
  static void pack_forward(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks = Packing::blocks(p, kForwardBlock);
    for (int64_t i = begin; i < end; ++i) {
      const auto block = blocks.at(i);
      const int64_t depth = round_up(block.width(), kDepth<kPairs>);
      Column* out = static_cast<Column*>(p.packed) + i * forward_block_size(p, blocks);
      for (int64_t j = 0; j < panels(p); ++j, out += depth * kPanel)
        for (int64_t n = 0; n < kPanel; ++n) {
          const int64_t o = j * kPanel + n;
          if (o < outputs(p)) {
            Column* to = out;
            int64_t d = 0;
            for (int64_t k = block.point; k < block.point + block.points; ++k) {
              const T* from = weight_at(p, block.group * outputs(p) + o, block.channel, k);
              for (int64_t c = 0; c < block.channels; ++c, ++d, from += p.weight_strides.channel)
                store_one(to + packed_index(d, n), load_one(from));
            }
            for (; d < depth; ++d) store_one(to + packed_index(d, n), 0);
          } else {
            for (int64_t d = 0; d < depth; ++d) store_one(out + packed_index(d, n), 0);
          }
        }
    }
  }
  // Backward: [block][panel of columns][output][kPanel]; pairs: [output / 2][kPanel][2]. Padded
  // with zeros.
  static int64_t backward_depth(const DeformCpuParams& p) {
    return round_up(outputs(p), kDepth<kPairs>);
  }
  static int64_t backward_block_size(const DeformCpuParams& p, const Blocks& blocks) {
    return round_up(blocks.width(), kPanel) * backward_depth(p);
  }
  static size_t backward_packed_bytes(const DeformCpuParams& p) {
    const Blocks blocks = Packing::blocks(p, kBackwardBlock);
    return blocks.count() * backward_block_size(p, blocks) * sizeof(Column);
  }
  static void pack_backward(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const Blocks blocks = Packing::blocks(p, kBackwardBlock);
    for (int64_t i = begin; i < end; ++i) {
      const auto block = blocks.at(i);
      Column* out = static_cast<Column*>(p.packed) + i * backward_block_size(p, blocks);
      const int64_t width = round_up(block.width(), kPanel), depth = backward_depth(p);
      for (int64_t o = 0; o < depth; ++o) {
        int64_t d = 0;
        const auto put = [&](A value) {
          store_one(out + d / kPanel * depth * kPanel + packed_index(o, d % kPanel), value);
          ++d;
        };
        if (o >= outputs(p)) {
          while (d < width) put(0);
          continue;
        }
        for (int64_t k = block.point; k < block.point + block.points; ++k) {
          const T* from = weight_at(p, block.group * outputs(p) + o, block.channel, k);
          for (int64_t c = 0; c < block.channels; ++c, from += p.weight_strides.channel)
            put(load_one(from));
        }
        while (d < width) put(0);
      }
    }
  }
};

}  // namespace ggnet::GGNET_ISA

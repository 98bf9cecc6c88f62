// The backward on the CPU.
//
// It turns the forward's loops round: column gradients of a tile from one product, from them the
// gradients of points and features, and the weight gradient from a product with the tile's columns.
#pragma once

#include "actpoint_cpu_lanes.h"
#include "actpoint_cpu_products.h"
#include "actpoint_cpu_sampling.h"

namespace ggnet::GGNET_ISA {

template <typename T, bool kPairs>
struct Backward {
  using S = Sampling<T>;
  using W = Packing<T, kPairs>;
  using P = Products<T, kPairs>;
  using L = Lanes<T>;
  using A = MathType<T>;
  using V = typename S::V;
  using Plan = typename S::Plan;
  using Tile = typename S::Tile;
  using Strip = typename S::Strip;
  using Block = Blocks::Block;
  static constexpr int N = S::N, kPad = S::kPad, kPanel = W::kPanel;

  static int64_t weight_block_size(const DeformCpuParams& p, const Blocks& blocks) {
    return W::panels(p) * blocks.width() * kPanel;
  }
  static size_t backward_weight_bytes(const DeformCpuParams& p) {  // [block][panel][column][kPanel]
    if (L::chosen(p)) return L::packed_bytes(p);
    const Blocks blocks = W::blocks(p, kBackwardBlock);
    return blocks.count() * weight_block_size(p, blocks) * sizeof(A);
  }

  // grads[pixel][output] of the tile, zero where ReLU did not pass.
  static void read_grad_output(const DeformCpuParams& p, const Tile& t, A* grads, int64_t stride) {
    const int64_t channels = p.shape.outputs;
    const Strides& s = p.grad_out_strides;
    const int64_t n = t.width;
    S::for_rows(t, s, [&](int64_t first, int64_t at) {
      const T* from = static_cast<const T*>(p.grad_out) + at;
      A* to = grads + first * stride;
      if (s.channel == 1) {
        for (int64_t i = 0; i < n; ++i, from += s.column, to += stride) {
          int64_t o = 0;
          for (; o + N <= channels; o += N) store<N>(to + o, load<N>(from + o));
          for (; o < channels; ++o) to[o] = load_one(from + o);
        }
      } else {
        for (int64_t o = 0; o < channels; ++o)
          for (int64_t i = 0; i < n; ++i)
            to[i * stride + o] = load_one(from + o * s.channel + i * s.column);
      }
    });
    if (!p.out) return;
    const Strides& so = p.out_strides;
    S::for_rows(t, so, [&](int64_t first, int64_t at) {
      const T* output = static_cast<const T*>(p.out) + at;
      A* to = grads + first * stride;
      if (so.channel == 1) {
        for (int64_t i = 0; i < n; ++i, output += so.column, to += stride) {
          int64_t o = 0;
          for (; o + N <= channels; o += N)
            store<N>(to + o, select(load<N>(output + o) <= 0, V{}, load<N>(to + o)));
          for (; o < channels; ++o) to[o] = load_one(output + o) <= 0 ? 0 : to[o];
        }
      } else {
        for (int64_t o = 0; o < channels; ++o)
          for (int64_t i = 0; i < n; ++i)
            if (load_one(output + o * so.channel + i * so.column) <= 0) to[i * stride + o] = 0;
      }
    });
  }

  // Where a section adds to the features' gradient.
  struct Target {
    A** rows;  // [-1 .. height]: its own rows of feature_sums, spill rows, or the sink: not yet met
    int64_t row_size;
    A* sink;  // for corners outside the map

    void meet(i32 y) {
      if (rows[y] != sink) return;
      rows[y] = static_cast<A*>(Scratch::allocate(row_size * sizeof(A)));
      __builtin_memset(rows[y], 0, row_size * sizeof(A));
    }
  };

  static void meet_rows(const DeformCpuParams& p, const Tile& t, const Plan& plan, Target& target) {
    const int64_t points = p.points();
    for (int64_t k = 0; k < points; ++k)
      for (int64_t i = k * kTile; i < k * kTile + t.size; ++i) {
        const i32 y = plan.y[i];
        if ((plan.corner[0][i] & plan.corner[1][i]) >= 0) target.meet(y);
        if ((plan.corner[2][i] & plan.corner[3][i]) >= 0) target.meet(y + 1);
      }
  }

  // From a strip's column gradients in a block: gradients of points and features, and the columns
  // for the weight gradient. Each corner is read once for all three.
  template <bool kPoints, bool kFeatures, bool kWeight>
  static void scatter(const DeformCpuParams& p, const Tile& t, const Strip& strip, const Plan& plan,
                      const Block& block, const T* zeros, const Target& target,
                      const A* column_grads, A* columns, A* grad_planes) {
    const T* features =
        static_cast<const T*>(p.features) + t.image * p.feature_batch_stride + block.channel;
    const int64_t channels = block.channels;
    const int64_t points = p.points();
    for (int64_t k = 0; k < block.points; ++k) {
      const int64_t point = block.point + k;
      for (int64_t i = 0; i < strip.size; ++i) {
        const int64_t at = point * kTile + strip.first + i;
        const T* row[4];
        A* grad_row[4];
        V w[4], dot[4] = {};
        const i32 y = plan.y[at], x = plan.x[at];
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          const i32 corner = plan.corner[q][at];
          row[q] = corner < 0 ? zeros : features + corner;
          w[q] = splat<V>(plan.weight[q][at]);
        }
        if constexpr (kFeatures) {
          const int64_t across = x * p.shape.channels + block.channel;
          A* const above = target.rows[y] + across;
          A* const below = target.rows[y + 1] + across;
          grad_row[0] = plan.corner[0][at] < 0 ? target.sink : above;
          grad_row[1] = plan.corner[1][at] < 0 ? target.sink : above + p.shape.channels;
          grad_row[2] = plan.corner[2][at] < 0 ? target.sink : below;
          grad_row[3] = plan.corner[3][at] < 0 ? target.sink : below + p.shape.channels;
        }
        const A* grad = column_grads + i * strip.stride + k * strip.point_stride;
        A* column = columns + i * strip.stride + k * strip.point_stride;
        const auto step = [&](int64_t c, auto get, auto get_acc, auto put) GGNET_LAMBDA_INLINE {
          V g{}, v[4];
          if constexpr (kPoints || kFeatures) g = get_acc(grad + c);
          if constexpr (kPoints || kWeight)
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) v[q] = get(row[q] + c);
          if constexpr (kPoints)
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) dot[q] += g * v[q];
          if constexpr (kWeight)
            put(column + c, w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + w[3] * v[3]);
          if constexpr (kFeatures)
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) put(grad_row[q] + c, get_acc(grad_row[q] + c) + w[q] * g);
        };
        int64_t c = 0;
        for (; c + N <= channels; c += N)
          step(
              c, [](const T* a) GGNET_LAMBDA_INLINE { return load<N>(a); },
              [](const A* a) GGNET_LAMBDA_INLINE { return load<N>(a); },
              [](A* a, V v) GGNET_LAMBDA_INLINE { store<N>(a, v); });
        if (const int n = int(channels - c); n > 0)
          step(
              c, [n](const T* a) GGNET_LAMBDA_INLINE { return load_part<N>(a, n); },
              [n](const A* a) GGNET_LAMBDA_INLINE { return load_part<N>(a, n); },
              [n](A* a, V v) GGNET_LAMBDA_INLINE { store_part<N>(a, v, n); });
        if constexpr (kPoints) {
          A d[4];
          store<4>(d, sums_of<N>(dot[0], dot[1], dot[2], dot[3]));
          const A d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
          const A ly = plan.ly[at], lx = plan.lx[at], hy = 1 - ly, hx = 1 - lx, m = plan.m[at];
          A* to = grad_planes + 2 * point * kTile + strip.first + i;
          to[0] += m * (hx * (d2 - d0) + lx * (d3 - d1));
          to[kTile] += m * (hy * (d1 - d0) + ly * (d3 - d2));
          if (p.mask)
            grad_planes[(2 * points + point) * kTile + strip.first + i] +=
                hy * (hx * d0 + lx * d1) + ly * (hx * d2 + lx * d3);
        }
      }
    }
  }

  using Scatter = decltype(&scatter<true, true, true>);
  static Scatter choose_scatter(const DeformCpuParams& p) {
    static constexpr Scatter kChoices[] = {
        nullptr,
        &scatter<true, false, false>,
        &scatter<false, true, false>,
        &scatter<true, true, false>,
        &scatter<false, false, true>,
        &scatter<true, false, true>,
        &scatter<false, true, true>,
        &scatter<true, true, true>,
    };
    return kChoices[(p.grad_offset ? 1 : 0) + (p.grad_features ? 2 : 0) + (p.grad_weight ? 4 : 0)];
  }

  static void write_point_grads(const DeformCpuParams& p, const Tile& t, int64_t group,
                                const Plan& plan, A* planes) {
    const int64_t points = p.points();
    S::write_planes(
        planes, 2 * points,
        static_cast<T*>(p.grad_offset) + group * 2 * points * p.grad_offset_strides.channel,
        p.grad_offset_strides, t);
    if (!p.mask) return;
    A* mask_planes = planes + 2 * points * kTile;
    if (p.sigmoid)
      for (int64_t i = 0; i < points * kTile; i += N) {
        const V m = load<N>(plan.m + i);
        store<N>(mask_planes + i, load<N>(mask_planes + i) * m * (1 - m));
      }
    S::write_planes(mask_planes, points,
                    static_cast<T*>(p.grad_mask) + group * points * p.grad_mask_strides.channel,
                    p.grad_mask_strides, t);
  }

  static void backward(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const bool narrow = L::chosen(p);
    const Blocks blocks = narrow ? L::blocks(p) : W::blocks(p, kBackwardBlock);
    const int64_t lanes = L::lanes(blocks), group_outputs = W::outputs(p);
    const TileGrid grid(p.shape);
    const int64_t points = p.points(), outputs = p.shape.outputs,
                  pixels = narrow ? L::kStrip : kTile;
    const int64_t stride = narrow ? points * lanes : round_up(blocks.width(), kPanel) + kPad;
    // A panel of the last group's gradients may begin before the end and reach beyond it.
    const int64_t out_stride = outputs - group_outputs + W::padded(p) + kPad;
    const int64_t row_size = p.shape.width * p.shape.channels;
    const bool columns_needed = p.grad_offset || p.grad_features || p.grad_weight;
    Scratch scratch(Plan::bytes(points) + 2 * Scratch::bytes<A>(pixels * stride) +
                    Scratch::bytes<A>(narrow ? pixels * group_outputs * lanes : 0) +
                    Scratch::bytes<A>(kTile * out_stride) + Scratch::bytes<A>(3 * points * kTile) +
                    Scratch::bytes<A*>(p.shape.height + 2) + Scratch::bytes<A>(blocks.channels) +
                    Scratch::bytes<T>(blocks.channels) + (narrow ? 0 : P::bytes(p, blocks)));
    Plan plan(scratch, points);
    A* columns = scratch.take_zeros<A>(pixels * stride);  // lanes without a channel stay zero
    A* column_grads = scratch.take<A>(pixels * stride);
    A* spread = scratch.take_zeros<A>(narrow ? pixels * group_outputs * lanes : 0);
    A* grads = scratch.take_zeros<A>(kTile * out_stride);  // the padding stays zero
    A* grad_planes = scratch.take_zeros<A>(3 * points * kTile);
    Target target{scratch.take<A*>(p.shape.height + 2) + 1, row_size,
                  scratch.take_zeros<A>(blocks.channels)};
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    const Scatter scatter_block = choose_scatter(p);
    P products(p, blocks, out_stride, stride);
    if (!narrow) products.take(scratch);

    for (int64_t s = begin; s < end; ++s) {
      const Section section = ggnet::section(p.shape, s);
      A* weight_sums =
          reinterpret_cast<A*>(static_cast<char*>(p.weight_sums) + s * backward_weight_bytes(p));
      A* bias_sums = static_cast<A*>(p.bias_sums) + s * outputs;
      if (p.grad_bias) __builtin_memset(bias_sums, 0, outputs * sizeof(A));
      for (int64_t image = section.image_begin; image < section.image_end; ++image) {
        if (p.grad_features) {
          A* map = static_cast<A*>(p.feature_sums) + image * p.shape.height * row_size;
          for (int64_t y = -1; y <= p.shape.height; ++y) {
            const bool own = section.row_begin <= y && y < section.row_end;
            target.rows[y] = own ? map + y * row_size : target.sink;
            if (own) __builtin_memset(target.rows[y], 0, row_size * sizeof(A));
          }
        }
        for (int64_t index = section.tile_begin; index < section.tile_end; ++index) {
          const Tile t = S::tile(p, grid, image, index);
          read_grad_output(p, t, grads, out_stride);
          if (p.grad_bias)
            for (int64_t i = 0; i < t.size; ++i)
              for (int64_t o = 0; o < outputs; ++o) bias_sums[o] += grads[i * out_stride + o];
          if (!columns_needed) continue;
          if (!narrow) products.read(t, grads);
          const bool first = image == section.image_begin && index == section.tile_begin;
          for (int64_t b = 0; b < blocks.count(); ++b) {
            const int64_t offset_group = b / blocks.of_offset_group();
            if (b % blocks.of_offset_group() == 0) {
              S::template make_plan<true>(p, t, offset_group, plan);
              if (p.grad_features) meet_rows(p, t, plan, target);
              if (p.grad_offset) __builtin_memset(grad_planes, 0, 3 * points * kTile * sizeof(A));
            }
            const auto block = blocks.at(b);
            if (narrow) {
              const A* packed = static_cast<const A*>(p.packed) + b * L::block_size(p, blocks);
              for (int64_t from = 0; from < t.size; from += pixels) {
                const int64_t left = t.size - from;
                const Strip strip{from, left < pixels ? left : pixels, stride, lanes};
                L::spread(p, block, strip.size, lanes, grads + from * out_stride, out_stride,
                          spread);
                if (p.grad_offset || p.grad_features)
                  L::Product::run({strip.size, points, group_outputs, lanes, group_outputs * lanes,
                                   lanes, lanes, stride, stride, lanes, false},
                                  spread, packed, column_grads);
                scatter_block(p, t, strip, plan, block, zeros, target, column_grads, columns,
                              grad_planes);
                if (p.grad_weight)
                  L::Product::run(
                      {group_outputs, points, strip.size, lanes, lanes, group_outputs * lanes,
                       lanes, stride, stride, lanes, !first || from > 0},
                      spread, columns, weight_sums + b * L::block_size(p, blocks));
              }
            } else {
              if (p.grad_offset || p.grad_features)
                products.column_grads(b, block, t, column_grads);
              scatter_block(p, t, {0, t.size, stride, block.channels}, plan, block, zeros, target,
                            column_grads, columns, grad_planes);
              if (p.grad_weight)
                products.weight_grad(block, t, columns,
                                     weight_sums + b * weight_block_size(p, blocks), !first);
            }
            if (p.grad_offset && (b + 1) % blocks.of_offset_group() == 0)
              write_point_grads(p, t, offset_group, plan, grad_planes);
          }
        }
        if (p.grad_features && p.spill_rows)
          for (int64_t y = 0; y < p.shape.height; ++y)
            if ((y < section.row_begin || y >= section.row_end) && target.rows[y] != target.sink)
              p.spill_rows[s * p.shape.height + y] = target.rows[y];
      }
    }
  }

  // ---- reductions over sections, in order ------------------------------------------------------

  static void reduce_features(const DeformCpuParams& p, int64_t begin, int64_t end) {
    const int64_t row_size = p.shape.width * p.shape.channels,
                  per_image = sections_of_image(p.shape);
    const Strides& s = p.grad_features_strides;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / p.shape.height, y = index % p.shape.height;
      A* row = static_cast<A*>(p.feature_sums) + index * row_size;
      if (p.spill_rows)
        for (int64_t part = image * per_image; part < (image + 1) * per_image; ++part) {
          const A* spill = static_cast<const A*>(p.spill_rows[part * p.shape.height + y]);
          if (spill)
            for (int64_t i = 0; i < row_size; ++i) row[i] += spill[i];
        }
      if (p.feature_sums == p.grad_features) continue;
      T* out = static_cast<T*>(p.grad_features) + image * s.batch + y * s.row;
      if (s.channel == 1) {
        for (int64_t x = 0; x < p.shape.width; ++x) {
          int64_t c = 0;
          for (; c + N <= p.shape.channels; c += N)
            store<N>(out + x * s.column + c, load<N>(row + x * p.shape.channels + c));
          for (; c < p.shape.channels; ++c)
            store_one(out + x * s.column + c, row[x * p.shape.channels + c]);
        }
      } else {
        for (int64_t c = 0; c < p.shape.channels; ++c)
          for (int64_t x = 0; x < p.shape.width; ++x)
            store_one(out + c * s.channel + x * s.column, row[x * p.shape.channels + c]);
      }
    }
  }

  static int64_t weight_items(const DeformCpuParams& p) {
    return L::chosen(p) ? L::blocks(p).count() : p.shape.groups * W::panels(p);
  }
  static void reduce_weight(const DeformCpuParams& p, int64_t begin, int64_t end) {
    if (L::chosen(p)) return L::reduce_weight(p, begin, end);
    const Blocks blocks = W::blocks(p, kBackwardBlock);
    const int64_t count = sections(p.shape), size = backward_weight_bytes(p) / sizeof(A);
    const Strides& s = p.grad_weight_strides;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / W::panels(p), j = item % W::panels(p);
      const int64_t left = W::outputs(p) - j * kPanel, n = left < kPanel ? left : kPanel;
      for (int64_t b = 0; b < blocks.count(); ++b) {
        const auto block = blocks.at(b);
        if (block.group != group) continue;
        const A* from = static_cast<const A*>(p.weight_sums) + b * weight_block_size(p, blocks) +
                        j * block.width() * kPanel;
        for (int64_t d = 0; d < block.width(); ++d, from += kPanel) {
          const int64_t k = block.point + d / block.channels,
                        c = (block.channel + d % block.channels) % W::channels(p);
          A total[kPanel] = {};
          for (int64_t part = 0; part < count; ++part)
            for (int i = 0; i < kPanel; ++i) total[i] += from[part * size + i];
          T* to = static_cast<T*>(p.grad_weight) + (group * W::outputs(p) + j * kPanel) * s.batch +
                  c * s.channel + k / p.shape.kernel_w * s.row + k % p.shape.kernel_w * s.column;
          for (int64_t i = 0; i < n; ++i) store_one(to + i * s.batch, total[i]);
        }
      }
    }
  }
  static void reduce_bias(const DeformCpuParams& p) {
    const int64_t count = sections(p.shape);
    for (int64_t o = 0; o < p.shape.outputs; ++o) {
      A total = 0;
      for (int64_t part = 0; part < count; ++part)
        total += static_cast<const A*>(p.bias_sums)[part * p.shape.outputs + o];
      store_one(static_cast<T*>(p.grad_bias) + o, total);
    }
  }
};

}  // namespace ggnet::GGNET_ISA

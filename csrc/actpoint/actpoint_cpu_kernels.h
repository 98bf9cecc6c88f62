// The arithmetic of csrc/actpoint/actpoint.h, written once for all instruction sets. A translation
// unit sets its target and GGNET_ISA, GGNET_VECTOR_BYTES, GGNET_GEMM_ROWS, then includes this.
//
// A thread takes kTile output pixels at a time. It first makes their sampling plan (four corners
// and their weights for each point, shared by all channels), then, block by block of points x
// channels, gathers a tile of columns that stays in L2 and multiplies it with packed weights. The
// backward turns the same loops round: column gradients of a tile from one GEMM, from them the
// gradients of points and features, and the weight gradient from a GEMM with the tile's columns.
#pragma once

#include "../common/vec.h"
#include "actpoint.h"

namespace ggnet::GGNET_ISA {

inline constexpr int kRows = GGNET_GEMM_ROWS;  // of a GEMM micro-kernel; divides kTile
inline constexpr int kPanelVectors = 2;        // its columns, in vectors
static_assert(kTile % kRows == 0);

// One 64-byte aligned allocation, handed out in pieces.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : begin_(static_cast<char*>(allocate(bytes))), next_(begin_) {}
  ~Scratch() { free(begin_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <typename T>
  static constexpr size_t bytes(int64_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }
  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(count);
    return piece;
  }
  template <typename T>
  T* take_zeros(int64_t count) {
    T* piece = take<T>(count);
    __builtin_memset(static_cast<void*>(piece), 0, count * sizeof(T));
    return piece;
  }
  static void* allocate(size_t bytes) {
    void* memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }

 private:
  char* begin_;
  char* next_;
};

// Channels gathered at a time, at most: a tile's samples of them fit L2 beside its columns.
inline constexpr int64_t kChannels = 128;

// How the K x C columns of a pixel are cut into blocks of `points` points x `channels` channels.
struct Blocks {
  int64_t all_points, all_channels, points, channels, point_groups, channel_groups;

  Blocks(const DeformParams& p, int64_t target)
      : all_points(p.kernel_h * p.kernel_w), all_channels(p.channels) {
    channel_groups = ceil_div(p.channels, kChannels);
    channels = round_up(ceil_div(p.channels, channel_groups), 16);
    channels = channels < p.channels ? channels : p.channels;
    channel_groups = ceil_div(p.channels, channels);
    points = target / channels;
    points = points < 1 ? 1 : (points < all_points ? points : all_points);
    point_groups = ceil_div(all_points, points);
    points = ceil_div(all_points, point_groups);
    point_groups = ceil_div(all_points, points);
  }
  int64_t count() const { return point_groups * channel_groups; }
  int64_t width() const { return points * channels; }  // the widest block's columns

  struct Block {
    int64_t point, points, channel, channels;
    int64_t width() const { return points * channels; }
  };
  Block at(int64_t i) const {
    const int64_t point = i % point_groups * points, channel = i / point_groups * channels;
    const int64_t p = all_points - point, c = all_channels - channel;
    return {point, p < points ? p : points, channel, c < channels ? c : channels};
  }
};

// Columns in a block: a panel of packed weights (forward: 256 x 16 floats) stays in L1 while the
// tile's pixels pass; the backward has two tiles of columns in L2 beside the output gradient.
inline constexpr int64_t kForwardBlock = 256, kBackwardBlock = 128;

template <typename T, bool kPairs = false>  // kPairs: the forward's GEMM multiplies bfloat16 pairs
struct Deform {
  using A = Acc<T>;
  static constexpr int N = kLanes<A>;
  static constexpr int kPanel = kPanelVectors * N;
  using V = Vec<A, N>;
  using VI = Vec<i32, N>;
  using Column = std::conditional_t<kPairs, bf16, A>;
  static constexpr int kLine = 64 / sizeof(A);
  static constexpr int kPad = 64 / sizeof(A);  // a row's padding: successive rows in other L1 sets

  // ---- the GEMM micro-kernel -------------------------------------------------------------------

  // c[R, kPanel] (+)= a[R, depth] b[depth, kPanel]; element (r, d) of a is a[r * rs + d * ds].
  template <int R>
  static GGNET_INLINE void micro(const A* a, int64_t rs, int64_t ds, const A* b, int64_t bs,
                                 int64_t depth, A* c, int64_t cs, bool accumulate) {
    V acc[R][kPanelVectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(c + r * cs, 1);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = V{};
    }
#pragma GCC unroll 4
    for (int64_t d = 0; d < depth; ++d) {
      V row[kPanelVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) row[v] = load<N>(b + d * bs + v * N);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V x = splat<V>(a[r * rs + d * ds]);
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) acc[r][v] += x * row[v];
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) {
        if (accumulate) acc[r][v] += load<N>(c + r * cs + v * N);
        store<N>(c + r * cs + v * N, acc[r][v]);
      }
  }

  // The same over bfloat16 pairs along the depth: a[r, d] and b[d, n] are pairs.
  template <int R>
  static GGNET_INLINE void micro(const u32* a, int64_t rs, int64_t ds, const u32* b, int64_t bs,
                                 int64_t depth, A* c, int64_t cs, bool accumulate) {
    using VP = Vec<u32, N>;
    V acc[R][kPanelVectors];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(c + r * cs, 1);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = V{};
    }
    for (int64_t d = 0; d < depth; ++d) {
      VP row[kPanelVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) row[v] = load_raw<VP>(b + d * bs + v * N);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const VP x = a[r * rs + d * ds] - VP{};
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = dot_bf16<N>(acc[r][v], x, row[v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) {
        if (accumulate) acc[r][v] += load<N>(c + r * cs + v * N);
        store<N>(c + r * cs + v * N, acc[r][v]);
      }
  }

  template <int R, typename E>
  static void micro_part(int64_t rows, const E* a, int64_t rs, int64_t ds, const E* b, int64_t bs,
                         int64_t depth, A* c, int64_t cs, bool accumulate) {
    if (rows >= R)
      micro<R>(a, rs, ds, b, bs, depth, c, cs, accumulate);
    else if constexpr (R > 1)
      micro_part<R - 1>(rows, a, rs, ds, b, bs, depth, c, cs, accumulate);
  }

  struct Gemm {
    int64_t rows, panels, depth;
    int64_t row_stride, depth_stride;  // of a
    int64_t b_panel, b_depth;          // strides of b between panels, and along the depth
    int64_t c_panel, c_row;
    bool accumulate;
  };
  // kByRow: a's rows are apart and its depth adjacent (else the other way round).
  template <bool kByRow, typename E>
  static void gemm(const Gemm& g, const E* a, const E* b, A* c) {
    const int64_t rs = kByRow ? g.row_stride : 1, ds = kByRow ? 1 : g.depth_stride;
    // While a panel of b serves the rows, the next one comes from L3 to L2, a share for each group
    // of rows.
    const int64_t groups = ceil_div(g.rows, kRows);
    const int64_t share = round_up(ceil_div(g.depth * kPanel, groups), kLine);
    for (int64_t j = 0; j < g.panels; ++j) {
      const E* bj = b + j * g.b_panel;
      A* cj = c + j * g.c_panel;
      const E* next = bj + g.b_panel;
      for (int64_t i = 0; i < g.rows; i += kRows) {
        if (kByRow)
          for (int64_t e = 0; e < share; e += kLine) __builtin_prefetch(next + e, 0, 2);
        next += share;
        micro_part<kRows>(g.rows - i, a + i * rs, rs, ds, bj, g.b_depth, g.depth, cj + i * g.c_row,
                          g.c_row, g.accumulate);
      }
    }
  }

  // ---- packed weights --------------------------------------------------------------------------

  // Forward: [block][panel of out_channels][column][kPanel]; for pairs [column / 2][kPanel][2].
  // Backward: [block][panel of columns][out_channel][kPanel]. Padded with zeros.
  static int64_t panels(const DeformParams& p) { return ceil_div(p.out_channels, kPanel); }
  static int64_t padded(const DeformParams& p) { return panels(p) * kPanel; }
  static int64_t forward_block_size(const DeformParams& p, const Blocks& blocks) {
    return panels(p) * round_up(blocks.width(), 2) * kPanel;
  }
  static int64_t backward_block_size(const DeformParams& p, const Blocks& blocks) {
    return round_up(blocks.width(), kPanel) * p.out_channels;
  }
  static size_t forward_packed_bytes(const DeformParams& p) {
    const Blocks blocks(p, kForwardBlock);
    return blocks.count() * forward_block_size(p, blocks) * sizeof(Column);
  }
  static size_t backward_packed_bytes(const DeformParams& p) {
    const Blocks blocks(p, kBackwardBlock);
    return blocks.count() * backward_block_size(p, blocks) * sizeof(A);
  }
  static int64_t pack_items(const DeformParams& p, bool backward) {
    return Blocks(p, backward ? kBackwardBlock : kForwardBlock).count();
  }

  static const T* weight_at(const DeformParams& p, int64_t o, int64_t c, int64_t k) {
    const Strides4& s = p.weight_strides;
    return static_cast<const T*>(p.weight) + o * s.batch + c * s.channel + k / p.kernel_w * s.row +
           k % p.kernel_w * s.col;
  }

  static void pack_forward(const DeformParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kForwardBlock);
    for (int64_t i = begin; i < end; ++i) {
      const auto block = blocks.at(i);
      const int64_t depth = kPairs ? round_up(block.width(), 2) : block.width();
      Column* out = static_cast<Column*>(p.packed) + i * forward_block_size(p, blocks);
      for (int64_t j = 0; j < panels(p); ++j, out += depth * kPanel)
        for (int64_t n = 0; n < kPanel; ++n) {
          const int64_t o = j * kPanel + n;
          if (o < p.out_channels) {
            Column* to = out;
            int64_t d = 0;
            for (int64_t k = block.point; k < block.point + block.points; ++k) {
              const T* from = weight_at(p, o, block.channel, k);
              for (int64_t c = 0; c < block.channels; ++c, ++d, from += p.weight_strides.channel)
                store_one(to + packed_index(d, n), load_one(from));
            }
            if (d < depth) store_one(to + packed_index(d, n), 0);
          } else {
            for (int64_t d = 0; d < depth; ++d) store_one(out + packed_index(d, n), 0);
          }
        }
    }
  }
  static GGNET_INLINE int64_t packed_index(int64_t d, int64_t n) {
    return kPairs ? (d / 2 * kPanel + n) * 2 + d % 2 : d * kPanel + n;
  }

  static void pack_backward(const DeformParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kBackwardBlock);
    for (int64_t i = begin; i < end; ++i) {
      const auto block = blocks.at(i);
      A* out = static_cast<A*>(p.packed) + i * backward_block_size(p, blocks);
      const int64_t width = round_up(block.width(), kPanel);
      for (int64_t o = 0; o < p.out_channels; ++o) {
        int64_t d = 0;
        const auto put = [&](A value) {
          out[(d / kPanel * p.out_channels + o) * kPanel + d % kPanel] = value;
          ++d;
        };
        for (int64_t k = block.point; k < block.point + block.points; ++k) {
          const T* from = weight_at(p, o, block.channel, k);
          for (int64_t c = 0; c < block.channels; ++c, from += p.weight_strides.channel)
            put(load_one(from));
        }
        while (d < width) put(0);
      }
    }
  }

  // ---- the tile's inputs -----------------------------------------------------------------------

  struct Tile {
    int64_t image, y, x, height, width, size;  // of output pixels, numbered row by row
  };
  static Tile tile(const DeformParams& p, const TileGrid& grid, int64_t image, int64_t index) {
    const int64_t y = index / grid.cols * grid.height, x = index % grid.cols * grid.width;
    const int64_t down = p.out_height - y, right = p.out_width - x;
    const int64_t height = down < grid.height ? down : grid.height;
    const int64_t width = right < grid.width ? right : grid.width;
    return {image, y, x, height, width, height * width};
  }

  // Calls f(pixel of the tile, element offset) for the first pixel of each of the tile's rows.
  template <typename F>
  static GGNET_INLINE void for_rows(const Tile& t, const Strides4& s, F f) {
    for (int64_t r = 0; r < t.height; ++r)
      f(r * t.width, t.image * s.batch + (t.y + r) * s.row + t.x * s.col);
  }

  // planes[channel][kTile] (+)= source of the tile's pixels.
  template <bool kAdd>
  static void read_planes(A* planes, int64_t channels, const void* source, const Strides4& s,
                          const Tile& t) {
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      const T* from = static_cast<const T*>(source) + at;
      if (s.col == 1) {
        for (int64_t c = 0; c < channels; ++c, from += s.channel) {
          A* to = planes + c * kTile + first;
          int64_t i = 0;
          for (; i + N <= n; i += N)
            store<N>(to + i, kAdd ? load<N>(to + i) + load<N>(from + i) : load<N>(from + i));
          for (; i < n; ++i) to[i] = (kAdd ? to[i] : 0) + load_one(from + i);
        }
      } else {
        for (int64_t i = 0; i < n; ++i, from += s.col)
          for (int64_t c = 0; c < channels; ++c) {
            A& to = planes[c * kTile + first + i];
            to = (kAdd ? to : 0) + load_one(from + c * s.channel);
          }
      }
    });
  }
  static void write_planes(const A* planes, int64_t channels, void* out, const Strides4& s,
                           const Tile& t) {
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      T* to = static_cast<T*>(out) + at;
      if (s.col == 1) {
        for (int64_t c = 0; c < channels; ++c, to += s.channel) {
          const A* from = planes + c * kTile + first;
          int64_t i = 0;
          for (; i + N <= n; i += N) store<N>(to + i, load<N>(from + i));
          for (; i < n; ++i) store_one(to + i, from[i]);
        }
      } else {
        for (int64_t i = 0; i < n; ++i, to += s.col)
          for (int64_t c = 0; c < channels; ++c)
            store_one(to + c * s.channel, planes[c * kTile + first + i]);
      }
    });
  }

  // The sampling plan of a tile: planes of [point][kTile].
  struct Plan {
    i32* corner[4];        // pixel index in the map, or -1: outside
    A* weight[4];          // bilinear weight x point weight
    A *ly, *lx, *m;        // backward: fractions, point weight
    i32 *y, *x;            // backward: the upper left corner
    A* planes;             // [3K][kTile]: dy, dx interleaved, then the point weight's logit
    A *pixel_y, *pixel_x;  // [kTile]: the pixel's first grid position

    static size_t bytes(int64_t points) {
      return Scratch::bytes<i32>(points * kTile) * 6 + Scratch::bytes<A>(points * kTile) * 10 +
             Scratch::bytes<A>(kTile) * 2;
    }
    Plan(Scratch& scratch, int64_t points) {
      for (auto& c : corner) c = scratch.take<i32>(points * kTile);
      for (auto& w : weight) w = scratch.take<A>(points * kTile);
      for (auto* a : {&ly, &lx, &m}) *a = scratch.take<A>(points * kTile);
      for (auto* i : {&y, &x}) *i = scratch.take<i32>(points * kTile);
      planes = scratch.take_zeros<A>(3 * points * kTile);
      for (auto* a : {&pixel_y, &pixel_x}) *a = scratch.take_zeros<A>(kTile);
    }
  };

  template <typename M>
  static GGNET_INLINE VI narrow(M mask) {
    return __builtin_convertvector(mask, VI);
  }

  template <bool kBackward>
  static void make_plan(const DeformParams& p, const Tile& t, Plan& plan) {
    const int64_t points = p.kernel_h * p.kernel_w;
    read_planes<false>(plan.planes, 2 * points, p.offset, p.offset_strides, t);
    if (p.base) read_planes<true>(plan.planes, 2 * points, p.base, p.base_strides, t);
    if (p.mask)
      read_planes<false>(plan.planes + 2 * points * kTile, points, p.mask, p.mask_strides, t);
    for (int64_t i = 0; i < t.size; ++i) {
      plan.pixel_y[i] = A((t.y + i / t.width) * p.stride_h - p.pad_h);
      plan.pixel_x[i] = A((t.x + i % t.width) * p.stride_w - p.pad_w);
    }
    const A height = A(p.height), width = A(p.width);
    const i32 rows = i32(p.height), cols = i32(p.width), step = i32(p.feature_pixel_stride);
    for (int64_t k = 0; k < points; ++k) {
      const A grid_y = A(k / p.kernel_w * p.dilation_h), grid_x = A(k % p.kernel_w * p.dilation_w);
      for (int64_t i = 0; i < t.size; i += N) {
        const int64_t at = k * kTile + i;
        V y = load<N>(plan.pixel_y + i) + grid_y + load<N>(plan.planes + (2 * k) * kTile + i);
        V x = load<N>(plan.pixel_x + i) + grid_x + load<N>(plan.planes + (2 * k + 1) * kTile + i);
        // Comparisons with NaN are false. The lower bound belongs to the backward only: there the
        // sample is zero, but its derivative isn't.
        const auto inside =
            (kBackward ? (y >= -1) & (x >= -1) : (y > -1) & (x > -1)) & (y < height) & (x < width);
        y = select(inside, y, V{});
        x = select(inside, x, V{});
        const VI y0 = floor_to_int<N>(y), x0 = floor_to_int<N>(x), in = narrow(inside);
        const V ly = y - __builtin_convertvector(y0, V), lx = x - __builtin_convertvector(x0, V);
        const V hy = 1 - ly, hx = 1 - lx;
        const VI top = in & (y0 >= 0), bottom = in & (y0 < rows - 1);
        const VI left = x0 >= 0, right = x0 < cols - 1, index = (y0 * cols + x0) * step;
        store_raw(plan.corner[0] + at, select(top & left, index, VI{} - 1));
        store_raw(plan.corner[1] + at, select(top & right, index + step, VI{} - 1));
        store_raw(plan.corner[2] + at, select(bottom & left, index + step * cols, VI{} - 1));
        store_raw(plan.corner[3] + at,
                  select(bottom & right, index + step * cols + step, VI{} - 1));
        V m = splat<V>(1);
        if (p.mask) {
          m = load<N>(plan.planes + (2 * points + k) * kTile + i);
          if (p.sigmoid) m = sigmoid<N>(m);
        }
        store<N>(plan.weight[0] + at, m * hy * hx);
        store<N>(plan.weight[1] + at, m * hy * lx);
        store<N>(plan.weight[2] + at, m * ly * hx);
        store<N>(plan.weight[3] + at, m * ly * lx);
        if constexpr (kBackward) {
          store<N>(plan.ly + at, ly);
          store<N>(plan.lx + at, lx);
          store<N>(plan.m + at, m);
          store_raw(plan.y + at, y0);
          store_raw(plan.x + at, x0);
        }
      }
    }
  }

  // ---- forward ---------------------------------------------------------------------------------

  // Columns of one block: out[pixel][point][channel], rows `stride` apart.
  static void gather(const DeformParams& p, const Tile& t, const Plan& plan,
                     const Blocks::Block& block, const T* zeros, Column* out, int64_t stride) {
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
  static void write_output(const DeformParams& p, const Tile& t, const A* sums, const A* bias) {
    const Strides4& s = p.output_strides;
    const V least = p.relu ? V{} : splat<V>(-__builtin_inf());
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      for (int64_t o = 0; o < padded(p); o += N) {
        const A* from = sums + (o / kPanel * kTile + first) * kPanel + o % kPanel;
        T* out = static_cast<T*>(p.output) + at + o * s.channel;
        const int64_t left = p.out_channels - o;
        const V shift = load<N>(bias + o);
        for (int64_t i = 0; i < n; ++i, from += kPanel, out += s.col) {
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

  static void forward(const DeformParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kForwardBlock);
    const TileGrid grid(p);
    const int64_t points = p.kernel_h * p.kernel_w, tiles = grid.count();
    const int64_t stride = round_up(blocks.width(), kPad) + kPad;
    Scratch scratch(Plan::bytes(points) + Scratch::bytes<Column>(kTile * stride) +
                    Scratch::bytes<A>(kTile * padded(p)) + Scratch::bytes<A>(padded(p)) +
                    Scratch::bytes<T>(blocks.channels));
    Plan plan(scratch, points);
    Column* columns = scratch.take<Column>(kTile * stride);
    A* sums = scratch.take<A>(kTile * padded(p));
    A* bias = scratch.take_zeros<A>(padded(p));
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    if (p.bias)
      for (int64_t o = 0; o < p.out_channels; ++o)
        bias[o] = load_one(static_cast<const T*>(p.bias) + o);

    for (int64_t index = begin; index < end; ++index) {
      const Tile t = tile(p, grid, index / tiles, index % tiles);
      make_plan<false>(p, t, plan);
      for (int64_t b = 0; b < blocks.count(); ++b) {
        const auto block = blocks.at(b);
        const Column* packed =
            static_cast<const Column*>(p.packed) + b * forward_block_size(p, blocks);
        gather(p, t, plan, block, zeros, columns, stride);
        Gemm g{t.size, panels(p),      block.width(), stride, 0, block.width() * kPanel,
               kPanel, kTile * kPanel, kPanel,        b > 0};
        if constexpr (kPairs) {
          // An odd depth's last pair: its second half is zero on both sides.
          if (block.width() % 2)
            for (int64_t i = 0; i < t.size; ++i) columns[i * stride + block.width()] = bf16{0};
          g.depth = ceil_div(block.width(), 2);
          g.row_stride = stride / 2;
          g.b_panel = g.depth * kPanel;
          gemm<true>(g, reinterpret_cast<const u32*>(columns), reinterpret_cast<const u32*>(packed),
                     sums);
        } else {
          gemm<true>(g, columns, packed, sums);
        }
      }
      write_output(p, t, sums, bias);
    }
  }

  // ---- backward --------------------------------------------------------------------------------

  static int64_t weight_block_size(const DeformParams& p, const Blocks& blocks) {
    return panels(p) * blocks.width() * kPanel;
  }
  static size_t backward_weight_bytes(const DeformParams& p) {  // [block][panel][column][kPanel]
    const Blocks blocks(p, kBackwardBlock);
    return blocks.count() * weight_block_size(p, blocks) * sizeof(A);
  }

  // grads[pixel][padded out_channels] of the tile, zero where ReLU did not pass.
  static void read_grad_output(const DeformParams& p, const Tile& t, A* grads, int64_t stride) {
    const int64_t channels = p.out_channels;
    const Strides4& s = p.grad_output_strides;
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      const T* from = static_cast<const T*>(p.grad_output) + at;
      A* to = grads + first * stride;
      if (s.channel == 1) {
        for (int64_t i = 0; i < n; ++i, from += s.col, to += stride) {
          int64_t o = 0;
          for (; o + N <= channels; o += N) store<N>(to + o, load<N>(from + o));
          for (; o < channels; ++o) to[o] = load_one(from + o);
        }
      } else {
        for (int64_t o = 0; o < channels; ++o)
          for (int64_t i = 0; i < n; ++i)
            to[i * stride + o] = load_one(from + o * s.channel + i * s.col);
      }
    });
    if (!p.output) return;
    const Strides4& so = p.output_strides;
    for_rows(t, so, [&](int64_t first, int64_t at) {
      const T* output = static_cast<const T*>(p.output) + at;
      A* to = grads + first * stride;
      if (so.channel == 1) {
        for (int64_t i = 0; i < n; ++i, output += so.col, to += stride) {
          int64_t o = 0;
          for (; o + N <= channels; o += N)
            store<N>(to + o, select(load<N>(output + o) <= 0, V{}, load<N>(to + o)));
          for (; o < channels; ++o) to[o] = load_one(output + o) <= 0 ? 0 : to[o];
        }
      } else {
        for (int64_t o = 0; o < channels; ++o)
          for (int64_t i = 0; i < n; ++i)
            if (load_one(output + o * so.channel + i * so.col) <= 0) to[i * stride + o] = 0;
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

  static void meet_rows(const DeformParams& p, const Tile& t, const Plan& plan, Target& target) {
    const int64_t points = p.kernel_h * p.kernel_w;
    for (int64_t k = 0; k < points; ++k)
      for (int64_t i = k * kTile; i < k * kTile + t.size; ++i) {
        const i32 y = plan.y[i];
        if ((plan.corner[0][i] & plan.corner[1][i]) >= 0) target.meet(y);
        if ((plan.corner[2][i] & plan.corner[3][i]) >= 0) target.meet(y + 1);
      }
  }

  // From a block's column gradients: gradients of points and features, and the block's columns for
  // the weight gradient. Each corner is read once for all three.
  template <bool kPoints, bool kFeatures, bool kWeight>
  static void scatter(const DeformParams& p, const Tile& t, const Plan& plan,
                      const Blocks::Block& block, const T* zeros, const Target& target,
                      const A* column_grads, A* columns, int64_t stride, A* grad_planes) {
    const T* features =
        static_cast<const T*>(p.features) + t.image * p.feature_batch_stride + block.channel;
    const int64_t channels = block.channels;
    const int64_t points = p.kernel_h * p.kernel_w;
    for (int64_t k = 0; k < block.points; ++k) {
      const int64_t point = block.point + k;
      for (int64_t i = 0; i < t.size; ++i) {
        const int64_t at = point * kTile + i;
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
          const int64_t across = x * p.channels + block.channel;
          A* const above = target.rows[y] + across;
          A* const below = target.rows[y + 1] + across;
          grad_row[0] = plan.corner[0][at] < 0 ? target.sink : above;
          grad_row[1] = plan.corner[1][at] < 0 ? target.sink : above + p.channels;
          grad_row[2] = plan.corner[2][at] < 0 ? target.sink : below;
          grad_row[3] = plan.corner[3][at] < 0 ? target.sink : below + p.channels;
        }
        const A* grad = column_grads + i * stride + k * channels;
        A* column = columns + i * stride + k * channels;
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
          A* to = grad_planes + 2 * point * kTile + i;
          to[0] += m * (hx * (d2 - d0) + lx * (d3 - d1));
          to[kTile] += m * (hy * (d1 - d0) + ly * (d3 - d2));
          if (p.mask)
            grad_planes[(2 * points + point) * kTile + i] +=
                hy * (hx * d0 + lx * d1) + ly * (hx * d2 + lx * d3);
        }
      }
    }
  }

  using Scatter = decltype(&scatter<true, true, true>);
  static Scatter choose_scatter(const DeformParams& p) {
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

  static void write_point_grads(const DeformParams& p, const Tile& t, const Plan& plan, A* planes) {
    const int64_t points = p.kernel_h * p.kernel_w;
    write_planes(planes, 2 * points, p.grad_offset, p.grad_offset_strides, t);
    if (!p.mask) return;
    A* mask_planes = planes + 2 * points * kTile;
    if (p.sigmoid)
      for (int64_t i = 0; i < points * kTile; i += N) {
        const V m = load<N>(plan.m + i);
        store<N>(mask_planes + i, load<N>(mask_planes + i) * m * (1 - m));
      }
    write_planes(mask_planes, points, p.grad_mask, p.grad_mask_strides, t);
  }

  static void backward(const DeformParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kBackwardBlock);
    const TileGrid grid(p);
    const int64_t points = p.kernel_h * p.kernel_w;
    const int64_t width = round_up(blocks.width(), kPanel), stride = width + kPad;
    const int64_t out_stride = padded(p) + kPad, row_size = p.width * p.channels;
    const bool columns_needed = p.grad_offset || p.grad_features || p.grad_weight;
    Scratch scratch(Plan::bytes(points) + 2 * Scratch::bytes<A>(kTile * stride) +
                    Scratch::bytes<A>(kTile * out_stride) + Scratch::bytes<A>(3 * points * kTile) +
                    Scratch::bytes<A*>(p.height + 2) + Scratch::bytes<A>(blocks.channels) +
                    Scratch::bytes<T>(blocks.channels));
    Plan plan(scratch, points);
    A* columns = scratch.take<A>(kTile * stride);
    A* column_grads = scratch.take<A>(kTile * stride);
    A* grads = scratch.take_zeros<A>(kTile * out_stride);  // the padding stays zero
    A* grad_planes = scratch.take_zeros<A>(3 * points * kTile);
    Target target{scratch.take<A*>(p.height + 2) + 1, row_size,
                  scratch.take_zeros<A>(blocks.channels)};
    const T* zeros = scratch.take_zeros<T>(blocks.channels);
    const Scatter scatter_block = choose_scatter(p);

    for (int64_t s = begin; s < end; ++s) {
      const Section section = ggnet::section(p, s);
      A* weight_sums =
          reinterpret_cast<A*>(static_cast<char*>(p.weight_sums) + s * backward_weight_bytes(p));
      A* bias_sums = static_cast<A*>(p.bias_sums) + s * p.out_channels;
      if (p.grad_bias) __builtin_memset(bias_sums, 0, p.out_channels * sizeof(A));
      for (int64_t image = section.image_begin; image < section.image_end; ++image) {
        if (p.grad_features) {
          A* map = static_cast<A*>(p.feature_sums) + image * p.height * row_size;
          for (int64_t y = -1; y <= p.height; ++y) {
            const bool own = section.row_begin <= y && y < section.row_end;
            target.rows[y] = own ? map + y * row_size : target.sink;
            if (own) __builtin_memset(target.rows[y], 0, row_size * sizeof(A));
          }
        }
        for (int64_t index = section.tile_begin; index < section.tile_end; ++index) {
          const Tile t = tile(p, grid, image, index);
          read_grad_output(p, t, grads, out_stride);
          if (p.grad_bias)
            for (int64_t i = 0; i < t.size; ++i)
              for (int64_t o = 0; o < p.out_channels; ++o)
                bias_sums[o] += grads[i * out_stride + o];
          if (!columns_needed) continue;
          make_plan<true>(p, t, plan);
          if (p.grad_features) meet_rows(p, t, plan, target);
          if (p.grad_offset) __builtin_memset(grad_planes, 0, 3 * points * kTile * sizeof(A));
          const bool first = image == section.image_begin && index == section.tile_begin;
          for (int64_t b = 0; b < blocks.count(); ++b) {
            const auto block = blocks.at(b);
            if (p.grad_offset || p.grad_features) {
              const A* packed =
                  static_cast<const A*>(p.packed) + b * backward_block_size(p, blocks);
              const Gemm g{t.size,
                           ceil_div(block.width(), kPanel),
                           p.out_channels,
                           out_stride,
                           0,
                           p.out_channels * kPanel,
                           kPanel,
                           kPanel,
                           stride,
                           false};
              gemm<true>(g, grads, packed, column_grads);
            }
            scatter_block(p, t, plan, block, zeros, target, column_grads, columns, stride,
                          grad_planes);
            if (p.grad_weight) {
              const Gemm g{block.width(),          panels(p), t.size, 0, stride, kPanel, out_stride,
                           block.width() * kPanel, kPanel,    !first};
              gemm<false>(g, columns, grads, weight_sums + b * weight_block_size(p, blocks));
            }
          }
          if (p.grad_offset) write_point_grads(p, t, plan, grad_planes);
        }
        if (p.grad_features && p.spill_rows)
          for (int64_t y = 0; y < p.height; ++y)
            if ((y < section.row_begin || y >= section.row_end) && target.rows[y] != target.sink)
              p.spill_rows[s * p.height + y] = target.rows[y];
      }
    }
  }

  // ---- reductions over sections, in order ------------------------------------------------------

  static void reduce_features(const DeformParams& p, int64_t begin, int64_t end) {
    const int64_t row_size = p.width * p.channels, per_image = sections_of_image(p);
    const Strides4& s = p.grad_features_strides;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / p.height, y = index % p.height;
      A* row = static_cast<A*>(p.feature_sums) + index * row_size;
      if (p.spill_rows)
        for (int64_t part = image * per_image; part < (image + 1) * per_image; ++part) {
          const A* spill = static_cast<const A*>(p.spill_rows[part * p.height + y]);
          if (spill)
            for (int64_t i = 0; i < row_size; ++i) row[i] += spill[i];
        }
      if (p.feature_sums == p.grad_features) continue;
      T* out = static_cast<T*>(p.grad_features) + image * s.batch + y * s.row;
      if (s.channel == 1) {
        for (int64_t x = 0; x < p.width; ++x) {
          int64_t c = 0;
          for (; c + N <= p.channels; c += N)
            store<N>(out + x * s.col + c, load<N>(row + x * p.channels + c));
          for (; c < p.channels; ++c) store_one(out + x * s.col + c, row[x * p.channels + c]);
        }
      } else {
        for (int64_t c = 0; c < p.channels; ++c)
          for (int64_t x = 0; x < p.width; ++x)
            store_one(out + c * s.channel + x * s.col, row[x * p.channels + c]);
      }
    }
  }

  static int64_t weight_items(const DeformParams& p) { return panels(p); }
  static void reduce_weight(const DeformParams& p, int64_t begin, int64_t end) {
    const Blocks blocks(p, kBackwardBlock);
    const int64_t count = sections(p), size = backward_weight_bytes(p) / sizeof(A);
    const Strides4& s = p.grad_weight_strides;
    for (int64_t j = begin; j < end; ++j) {
      const int64_t left = p.out_channels - j * kPanel, n = left < kPanel ? left : kPanel;
      for (int64_t b = 0; b < blocks.count(); ++b) {
        const auto block = blocks.at(b);
        const A* from = static_cast<const A*>(p.weight_sums) + b * weight_block_size(p, blocks) +
                        j * block.width() * kPanel;
        for (int64_t d = 0; d < block.width(); ++d, from += kPanel) {
          const int64_t k = block.point + d / block.channels,
                        c = block.channel + d % block.channels;
          A total[kPanel] = {};
          for (int64_t part = 0; part < count; ++part)
            for (int i = 0; i < kPanel; ++i) total[i] += from[part * size + i];
          T* to = static_cast<T*>(p.grad_weight) + j * kPanel * s.batch + c * s.channel +
                  k / p.kernel_w * s.row + k % p.kernel_w * s.col;
          for (int64_t i = 0; i < n; ++i) store_one(to + i * s.batch, total[i]);
        }
      }
    }
  }
  static void reduce_bias(const DeformParams& p) {
    const int64_t count = sections(p);
    for (int64_t o = 0; o < p.out_channels; ++o) {
      A total = 0;
      for (int64_t part = 0; part < count; ++part)
        total += static_cast<const A*>(p.bias_sums)[part * p.out_channels + o];
      store_one(static_cast<T*>(p.grad_bias) + o, total);
    }
  }

  static void to_channels_last(const void* source, const Strides4& s, const DeformParams& p,
                               void* out, int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const T* from =
          static_cast<const T*>(source) + index / p.height * s.batch + index % p.height * s.row;
      T* to = static_cast<T*>(out) + index * p.width * p.channels;
      constexpr int64_t kSide = 16;  // square by square, so that both sides stay in L1
      for (int64_t x0 = 0; x0 < p.width; x0 += kSide)
        for (int64_t c0 = 0; c0 < p.channels; c0 += kSide) {
          const int64_t x1 = x0 + kSide < p.width ? x0 + kSide : p.width;
          const int64_t c1 = c0 + kSide < p.channels ? c0 + kSide : p.channels;
          for (int64_t x = x0; x < x1; ++x)
            for (int64_t c = c0; c < c1; ++c)
              to[x * p.channels + c] = from[c * s.channel + x * s.col];
        }
    }
  }

  static constexpr DeformKernels kernels() {
    return {&forward_packed_bytes,  &pack_items,
            &pack_forward,          &forward,
            &backward_packed_bytes, &backward_weight_bytes,
            &pack_backward,         &backward,
            &reduce_features,       &weight_items,
            &reduce_weight,         &reduce_bias,
            &to_channels_last};
  }
};

}  // namespace ggnet::GGNET_ISA

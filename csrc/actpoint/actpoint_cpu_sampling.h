// Where the CPU kernels of the deformable convolution sample for a tile of output pixels.
#pragma once

#include "../common/vec.h"
#include "actpoint_cpu.h"

namespace ggnet::GGNET_ISA {

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

template <typename T>
struct Sampling {
  using A = MathType<T>;
  static constexpr int N = kLanes<A>;
  using V = Vec<A, N>;
  using VI = Vec<i32, N>;
  static constexpr int kPad = 64 / sizeof(A);  // a row's padding: successive rows in other L1 sets

  struct Tile {
    int64_t image, y, x, height, width, size;  // of output pixels, numbered row by row
  };
  static Tile tile(const DeformCpuParams& p, const TileGrid& grid, int64_t image, int64_t index) {
    const int64_t y = index / grid.cols * grid.height, x = index % grid.cols * grid.width;
    const int64_t down = p.shape.out_height - y, right = p.shape.out_width - x;
    const int64_t height = down < grid.height ? down : grid.height;
    const int64_t width = right < grid.width ? right : grid.width;
    return {image, y, x, height, width, height * width};
  }

  // Calls f(pixel of the tile, element offset) for the first pixel of each of the tile's rows.
  template <typename F>
  static GGNET_INLINE void for_rows(const Tile& t, const Strides& s, F f) {
    for (int64_t r = 0; r < t.height; ++r)
      f(r * t.width, t.image * s.batch + (t.y + r) * s.row + t.x * s.column);
  }

  // planes[channel][kTile] (+)= source of the tile's pixels.
  template <bool kAdd>
  static void read_planes(A* planes, int64_t channels, const void* source, const Strides& s,
                          const Tile& t) {
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      const T* from = static_cast<const T*>(source) + at;
      if (s.column == 1) {
        for (int64_t c = 0; c < channels; ++c, from += s.channel) {
          A* to = planes + c * kTile + first;
          int64_t i = 0;
          for (; i + N <= n; i += N)
            store<N>(to + i, kAdd ? load<N>(to + i) + load<N>(from + i) : load<N>(from + i));
          for (; i < n; ++i) to[i] = (kAdd ? to[i] : 0) + load_one(from + i);
        }
      } else {
        for (int64_t i = 0; i < n; ++i, from += s.column)
          for (int64_t c = 0; c < channels; ++c) {
            A& to = planes[c * kTile + first + i];
            to = (kAdd ? to : 0) + load_one(from + c * s.channel);
          }
      }
    });
  }
  static void write_planes(const A* planes, int64_t channels, void* out, const Strides& s,
                           const Tile& t) {
    const int64_t n = t.width;
    for_rows(t, s, [&](int64_t first, int64_t at) {
      T* to = static_cast<T*>(out) + at;
      if (s.column == 1) {
        for (int64_t c = 0; c < channels; ++c, to += s.channel) {
          const A* from = planes + c * kTile + first;
          int64_t i = 0;
          for (; i + N <= n; i += N) store<N>(to + i, load<N>(from + i));
          for (; i < n; ++i) store_one(to + i, from[i]);
        }
      } else {
        for (int64_t i = 0; i < n; ++i, to += s.column)
          for (int64_t c = 0; c < channels; ++c)
            store_one(to + c * s.channel, planes[c * kTile + first + i]);
      }
    });
  }

  // Pixels of a tile, and how far apart their columns and the points among these are.
  struct Strip {
    int64_t first, size, stride, point_stride;
  };

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

  // Of an offset group's points.
  template <bool kBackward>
  static void make_plan(const DeformCpuParams& p, const Tile& t, int64_t group, Plan& plan) {
    const int64_t points = p.points();
    const T* offset =
        static_cast<const T*>(p.offset) + group * 2 * points * p.offset_strides.channel;
    read_planes<false>(plan.planes, 2 * points, offset, p.offset_strides, t);
    if (p.base_offset) read_planes<true>(plan.planes, 2 * points, p.base_offset, p.base_strides, t);
    if (p.mask) {
      const T* mask = static_cast<const T*>(p.mask) + group * points * p.mask_strides.channel;
      read_planes<false>(plan.planes + 2 * points * kTile, points, mask, p.mask_strides, t);
    }
    for (int64_t i = 0; i < t.size; ++i) {
      plan.pixel_y[i] = A((t.y + i / t.width) * p.shape.stride_h - p.shape.pad_h);
      plan.pixel_x[i] = A((t.x + i % t.width) * p.shape.stride_w - p.shape.pad_w);
    }
    const A height = A(p.shape.height), width = A(p.shape.width);
    const i32 rows = i32(p.shape.height), cols = i32(p.shape.width),
              step = i32(p.feature_pixel_stride);
    for (int64_t k = 0; k < points; ++k) {
      const A grid_y = A(k / p.shape.kernel_w * p.shape.dilation_h),
              grid_x = A(k % p.shape.kernel_w * p.shape.dilation_w);
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

  static void to_channels_last(const void* source, const Strides& s, const DeformCpuParams& p,
                               void* out, int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const T* from = static_cast<const T*>(source) + index / p.shape.height * s.batch +
                      index % p.shape.height * s.row;
      T* to = static_cast<T*>(out) + index * p.shape.width * p.shape.channels;
      constexpr int64_t kSide = 16;  // square by square, so that both sides stay in L1
      for (int64_t x0 = 0; x0 < p.shape.width; x0 += kSide)
        for (int64_t c0 = 0; c0 < p.shape.channels; c0 += kSide) {
          const int64_t x1 = x0 + kSide < p.shape.width ? x0 + kSide : p.shape.width;
          const int64_t c1 = c0 + kSide < p.shape.channels ? c0 + kSide : p.shape.channels;
          for (int64_t x = x0; x < x1; ++x)
            for (int64_t c = c0; c < c1; ++c)
              to[x * p.shape.channels + c] = from[c * s.channel + x * s.column];
        }
    }
  }
};

}  // namespace ggnet::GGNET_ISA

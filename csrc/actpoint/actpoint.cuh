// What the device kernels of the deformable convolution share: where the points of an output pixel
// lie, the samples there, and the order of packed weights.
//
// Channels are walked in slices. A slice holds channels of one weight group and of one offset
// group: it begins anew at every boundary of either, and what it has beyond the next one is zeros.
// So groups of fewer channels than a slice has are right, but as slow as if they filled it.
//
// Everything that depends on the element type is in bytes: a row of a tile is 64 bytes, 32 halves
// or 16 floats, and ldmatrix moves 32-bit elements as well as pairs of 16-bit ones.
#pragma once

#include <numeric>

#include "actpoint/actpoint.h"
#include "common/device.h"

namespace ggnet {

// grad_out is zero where a ReLU was off.
struct DeformDataGradParams : DeformBackwardParams {
  float* feature_sums;     // [batch, height, width, channels], zeroed; or null
  long long* fixed_point;  // the same in units of *unit, instead of feature_sums; or null
  const float* unit;       // power of two; used with fixed_point
};

struct DeformWeightGradParams : DeformForwardParams {  // weight, bias and out unused
  const void* grad_out;  // [batch, out_height, out_width, outputs], zero where a ReLU was off
  float* weight_sums;    // [splits, K, outputs, channels / groups]
  int splits;
};

}  // namespace ggnet

namespace ggnet::deform {

constexpr int kPixels = 64;
constexpr int kThreads = 256;
constexpr int kBand = 4;       // rows
constexpr int kRowBytes = 64;  // of a tile row: the channels of a step
constexpr int kChunks = kRowBytes / 16;

// kTf32x3: float32's accuracy from three products in TF32, where there are tensor cores; kFloat:
// plain FFMA.
enum class Math { kHalf, kTf32, kFloat, kTf32x3 };

template <class T>
__host__ __device__ constexpr int slice() {
  return kRowBytes / static_cast<int>(sizeof(T));
}
__host__ __device__ inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// How groups divide the channels. Sections have all the boundaries of weight groups and of offset
// groups: the channels of a section share their weight group and their offset group.
struct Division {
  int section, group, offset_group;           // channels of each
  int group_sections, offset_group_sections;  // sections of each
  int outputs;                                // of a weight group
};
inline Division division_of(const DeformShape& s) {
  const int group = s.channels / s.groups, offset_group = s.channels / s.offset_groups;
  const int section = std::gcd(group, offset_group);
  return {
      section, group, offset_group, group / section, offset_group / section, s.outputs / s.groups};
}

// Where 16-byte chunk `chunk` of row `row` lies in a tile: any eight consecutive rows of one chunk
// fall into different banks, as ldmatrix and the transposed reads want.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row >> 1 & 3)) << 4);
}

// Rows of 128 bytes and more: chunks of eight consecutive rows fall into different banks.
__device__ __forceinline__ int swizzled_wide(int row, int chunk, int row_bytes) {
  return row * row_bytes + ((chunk ^ (row & 7)) << 4);
}

struct Cell {
  int batch, y, x;
};
// Where the output pixel of a number lies. Numbers run through bands of kBand rows, column by
// column, so that a block's pixels are neighbours both ways and share the features that they read
// in L1.
__device__ __forceinline__ Cell cell_in_bands(const DeformShape& s, int pixel) {
  const int area = s.out_height * s.out_width, band_area = kBand * s.out_width;
  const int batch = pixel / area, rest = pixel % area, top = rest / band_area * kBand;
  const int rows = s.out_height - top < kBand ? s.out_height - top : kBand;
  return {batch, top + rest % band_area % rows, rest % band_area / rows};
}
// Its row in [B, h, w, O].
__device__ __forceinline__ long long row_of(const DeformShape& s, int pixel) {
  const Cell cell = cell_in_bands(s, pixel);
  return (static_cast<long long>(cell.batch) * s.out_height + cell.y) * s.out_width + cell.x;
}

// One point of one pixel: the sample lies between the cells (y, x) and (y + 1, x + 1) of an image.
struct alignas(16) Placement {
  float fy, fx;  // fraction of the way to the next row and column
  float scale;   // the point's weight; 0 outside
  int corner;    // index of cell (y, x) in [B, H, W], times 16, plus one bit a corner inside
};

// What `place` reads of a point; points are numbered through all offset groups.
template <class T>
struct RawPoint {
  T dy, dx, base_dy, base_dx, mask;
};
template <class T>
__device__ __forceinline__ RawPoint<T> read_point(const DeformForwardParams& p, const Cell& cell,
                                                  int point) {
  const auto [batch, oy, ox] = cell;
  const T* offset = static_cast<const T*>(p.offset) + batch * p.offset_strides.batch +
                    oy * p.offset_strides.row + ox * p.offset_strides.column;
  const T zero = from_float<T>(0.0f);
  RawPoint<T> raw{offset[(2 * point) * p.offset_strides.channel],
                  offset[(2 * point + 1) * p.offset_strides.channel], zero, zero, zero};
  if (p.base_offset) {
    const T* base = static_cast<const T*>(p.base_offset) + batch * p.base_strides.batch +
                    oy * p.base_strides.row + ox * p.base_strides.column;
    raw.base_dy = base[(2 * point) * p.base_strides.channel];
    raw.base_dx = base[(2 * point + 1) * p.base_strides.channel];
  }
  if (p.mask)
    raw.mask = static_cast<const T*>(
        p.mask)[batch * p.mask_strides.batch + point * p.mask_strides.channel +
                oy * p.mask_strides.row + ox * p.mask_strides.column];
  return raw;
}

// k: the point's place in the kernel. Bits 0 to 3: corners (y, x), (y, x+1), (y+1, x), (y+1, x+1).
// iy, ix: y and x.
template <class T>
__device__ __forceinline__ Placement place(const DeformForwardParams& p, const Cell& cell, int k,
                                           const RawPoint<T>& raw, int& iy, int& ix) {
  const DeformShape& s = p.shape;
  float dy = to_float(raw.dy), dx = to_float(raw.dx);
  if (p.base_offset) {
    dy += to_float(raw.base_dy);
    dx += to_float(raw.base_dx);
  }
  float scale = 1.0f;
  if (p.mask) {
    scale = to_float(raw.mask);
    if (p.sigmoid) scale = 1.0f / (1.0f + expf(-scale));
  }
  const float y = cell.y * s.stride_h - s.pad_h + (k / s.kernel_w) * s.dilation_h + dy;
  const float x = cell.x * s.stride_w - s.pad_w + (k % s.kernel_w) * s.dilation_w + dx;
  iy = ix = 0;
  Placement at{0.0f, 0.0f, 0.0f, 0};
  // Written so that NaN is outside. At exactly -1 the sample is zero, but its derivative from the
  // right is not.
  if (!(y >= -1.0f && x >= -1.0f && y < s.height && x < s.width)) return at;
  const float y0 = floorf(y), x0 = floorf(x);
  iy = static_cast<int>(y0);
  ix = static_cast<int>(x0);
  at.fy = y - y0;
  at.fx = x - x0;
  at.scale = scale;
  const int top = iy >= 0, bottom = iy + 1 < s.height, left = ix >= 0, right = ix + 1 < s.width;
  const int corner = (cell.batch * s.height + iy) * s.width + ix;
  at.corner =
      corner * 16 + (top & left) + 2 * (top & right) + 4 * (bottom & left) + 8 * (bottom & right);
  return at;
}
template <class T>
__device__ Placement place(const DeformForwardParams& p, const Cell& cell, int k, int point) {
  int iy, ix;
  return place<T>(p, cell, k, read_point<T>(p, cell, point), iy, ix);
}
template <class T>
__device__ Placement place(const DeformForwardParams& p, const Cell& cell, int k) {
  return place<T>(p, cell, k, k);
}

// The 16 bytes at channel c of the four corners; zero outside the image and from channel `end` on.
// kAligned: they are read at once, so `end` divides no 16 bytes.
template <class T, bool kAligned>
__device__ __forceinline__ void load_corners(Vec16 (&corner)[4], const T* features,
                                             const Placement& at, const DeformShape& s, int c,
                                             int end) {
  constexpr int kElements = 16 / sizeof(T);
  const int first = (at.corner >> 4) * s.channels + c, row = s.width * s.channels;
  const int inside = c < end ? at.corner : 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* source = features + (first + (i >> 1) * row + (i & 1) * s.channels);
    if (kAligned) {
      corner[i] = inside >> i & 1 ? load16(source) : Vec16{};
    } else {
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        pack.element[e] = (inside >> i & 1) && c + e < end ? source[e] : from_float<T>(0.f);
      corner[i] = pack.bits;
    }
  }
}
template <class T, bool kAligned>
__device__ __forceinline__ void load_corners(Vec16 (&corner)[4], const T* features,
                                             const Placement& at, const DeformShape& s, int c) {
  load_corners<T, kAligned>(corner, features, at, s, c, s.channels);
}
// Whether kAligned holds for these features.
template <class T>
bool features_aligned(const DeformForwardParams& p, const Division& d) {
  return d.section % (16 / sizeof(T)) == 0 && aligned16(p.features);
}

// dot[i] += <columns, corner i>, of the channels that load_corners read; columns(e): four floats in
// shared memory, from the e-th of these channels on.
template <class T, class F>
__device__ __forceinline__ void add_dots(float (&dot)[4], const Vec16 (&corner)[4], F columns) {
#pragma unroll
  for (int e = 0; e < 16 / static_cast<int>(sizeof(T)); e += 4) {
    Pack<float> g;
    g.bits = load16(columns(e));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Pack<T> pack;
      pack.bits = corner[i];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        dot[i] = fmaf(g.element[j], to_float(pack.element[e + j]), dot[i]);
    }
  }
}

// kOutputs of the output gradient from `first` on, of a block's pixels, into rows in shared memory
// that swizzled_wide finds. grad_out: of a weight group, which has `outputs`; number_of(row): which
// row of it a pixel's is, negative for none. Zeros where there is nothing.
template <class T, int kOutputs, class F>
__device__ __forceinline__ void load_output_gradient(unsigned char* rows, const T* grad_out,
                                                     int row_elements, int outputs, int first,
                                                     F number_of) {
  constexpr int kElements = 16 / sizeof(T), kRow = kOutputs * static_cast<int>(sizeof(T));
  const bool aligned = outputs % kElements == 0 && aligned16(grad_out);
  for (int i = threadIdx.x; i < kPixels * kRow / 16; i += kThreads) {
    const int row = i / (kRow / 16), chunk = i % (kRow / 16), o = first + chunk * kElements;
    const long long number = number_of(row);
    const T* from = grad_out + number * row_elements + o;
    Pack<T> pack;
    if (number >= 0 && aligned && o < outputs) {
      pack.bits = load16(from);
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        pack.element[e] = number >= 0 && o + e < outputs ? from[e] : from_float<T>(0.0f);
    }
    store16(rows + swizzled_wide(row, chunk, kRow), pack.bits);
  }
}

template <class T, Math kMath>
__device__ __forceinline__ Vec16 interpolate(const Vec16 (&corner)[4], const Placement& at) {
  const float bottom = at.fy * at.scale, top = at.scale - bottom;
  const float w11 = bottom * at.fx, w10 = bottom - w11, w01 = top * at.fx, w00 = top - w01;
  auto mix = [&](float v00, float v01, float v10, float v11) {
    return fmaf(w11, v11, fmaf(w10, v10, fmaf(w01, v01, w00 * v00)));
  };
  Vec16 result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 2) {
      const float2 v00 = unpack2(corner[0].word[i], T{}), v01 = unpack2(corner[1].word[i], T{});
      const float2 v10 = unpack2(corner[2].word[i], T{}), v11 = unpack2(corner[3].word[i], T{});
      result.word[i] = pack2(mix(v00.x, v01.x, v10.x, v11.x), mix(v00.y, v01.y, v10.y, v11.y), T{});
    } else {
      const float v = mix(__uint_as_float(corner[0].word[i]), __uint_as_float(corner[1].word[i]),
                          __uint_as_float(corner[2].word[i]), __uint_as_float(corner[3].word[i]));
      result.word[i] = kMath == Math::kTf32 ? to_tf32(v) : __float_as_uint(v);
    }
  }
  return result;
}

// Of a step's weights in shared memory.
template <int kOutputs>
__host__ __device__ constexpr int weight_stage_bytes() {
  return kOutputs * kRowBytes;
}

// The order in which a kernel walks a weight group's or an offset group's weights.
enum class Walk { kPointsOfSlice, kSlicesOfPoint };

// weight [O, C / groups, K] -> packed, what a step wants together and in the order of the walk:
// [slices, K, padded outputs of a group, slice of channels] for kPointsOfSlice, and for
// kSlicesOfPoint [offset groups, K, slices of an offset group, ...]. Zeros in the padding. One
// thread an element.
template <class T, Math kMath>
__global__ void __launch_bounds__(kThreads)
    pack_weight_kernel(const T* weight, T* packed, Division d, int points, int padded_outputs,
                       int slices, int walked_slices) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  const int tile = padded_outputs * slice<T>();  // of a point and a slice
  if (i >= static_cast<long long>(tile) * points * slices) return;
  const int walk = walked_slices * points;  // tiles
  const int number = static_cast<int>(i / tile), step = number % walk;
  const int k = step / walked_slices;
  const int slice_number = number / walk * walked_slices + step % walked_slices;
  const int o = static_cast<int>(i % tile) / slice<T>();
  const int slices_of_section = round_up(d.section, slice<T>()) / slice<T>();
  const int section = slice_number / slices_of_section * d.section;  // its first channel
  const int c = slice_number % slices_of_section * slice<T>() + static_cast<int>(i % slice<T>());
  const int group = section / d.group;
  float value = 0.0f;
  if (o < d.outputs && c < d.section) {
    const long long row = static_cast<long long>(group) * d.outputs + o;
    value = to_float(weight[(row * d.group + section % d.group + c) * points + k]);
  }
  if (kMath == Math::kTf32) value = __uint_as_float(to_tf32(value));
  packed[i] = from_float<T>(value);
}

// Outputs of a block, 64, 128 or 256: as many as there are, so that no sample is gathered twice.
inline int outputs_of_block(int outputs) { return outputs <= 64 ? 64 : outputs <= 128 ? 128 : 256; }
// And as few as the device's shared memory wants; bytes(tile) says how much of it a tile takes.
template <class F>
int outputs_tile(int outputs, F bytes) {
  const int limit = shared_memory_limit();
  int tile = outputs_of_block(outputs);
  while (tile > 64 && bytes(tile) > limit) tile /= 2;
  return tile;
}
// f(integral constant of `tile`).
template <class F>
auto with_tile(int tile, F f) {
  switch (tile) {
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    default:
      return f(std::integral_constant<int, 256>{});
  }
}

template <class T>
int slices_of(const DeformShape& s) {
  const int section = division_of(s).section;
  return s.channels / section * (round_up(section, slice<T>()) / slice<T>());
}

// Elements that the weight needs, packed for a tile of outputs.
template <class T>
long long packed_weight_size(const DeformShape& s, int tile) {
  return static_cast<long long>(s.kernel_h) * s.kernel_w * round_up(division_of(s).outputs, tile) *
         slices_of<T>(s) * slice<T>();
}

template <class T, Math kMath>
void pack_weight(const DeformShape& s, int tile, Walk walk, const void* weight, void* packed,
                 void* stream) {
  const Division d = division_of(s);
  const long long count = packed_weight_size<T>(s, tile);
  const int slices = slices_of<T>(s);
  GGNET_LAUNCH((pack_weight_kernel<T, kMath>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, static_cast<const T*>(weight), static_cast<T*>(packed), d,
               s.kernel_h * s.kernel_w, round_up(d.outputs, tile), slices,
               walk == Walk::kPointsOfSlice ? 1 : slices / s.offset_groups);
}

}  // namespace ggnet::deform

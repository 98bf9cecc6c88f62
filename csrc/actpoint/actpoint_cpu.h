// The deformable convolution of actpoint.h on the CPU: what its kernels take beyond that, how they
// cut the work, and their table.
//
// Storage is float32, float64, bfloat16 or float16; sums are float32 (float64 for float64). For
// bfloat16, samples are rounded to bfloat16 before they are multiplied in pairs (float32 sums):
// under AVX512-BF16 in the forward, under AMX for the weights' gradient as well.
//
// Results do not depend on the number of threads, bit for bit: an output pixel is computed by one
// thread in a fixed order, and gradients that many pixels share are summed per section (a fixed
// part of the output, see sections()) and the sections added in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/dispatch.h"
#include "actpoint.h"

namespace ggnet {

// Of both directions; the forward leaves the gradients null. Backward: `out` is null, or the
// forward's, which tells where ReLU passed.
struct DeformCpuParams : DeformBackwardParams {
  int64_t feature_batch_stride, feature_pixel_stride;  // in elements; channels are adjacent
  Strides weight_strides, out_strides, grad_out_strides;
  void* packed;  // forward_packed_bytes or backward_packed_bytes, 64-byte aligned

  // A null gradient isn't computed; with grad_offset comes grad_mask, where a mask is given.
  void* grad_features;  // [batch, channels, height, width]
  Strides grad_features_strides;
  void* grad_weight;  // [outputs, channels / groups, kernel_h, kernel_w]
  Strides grad_weight_strides;
  void* grad_bias;  // [outputs]
  // Partial sums, in the arithmetic type.
  void* feature_sums;  // [batch, height, width, channels]; may be grad_features itself
  void** spill_rows;   // [sections, height]: rows of [width, channels] that a section has touched
                       // outside its own, allocated as they are met; null where not
  void* weight_sums;   // [sections] x backward_weight_bytes
  void* bias_sums;     // [sections, outputs]

  int64_t points() const { return shape.kernel_h * shape.kernel_w; }
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

// Output pixels that a thread works on at a time, at most: with this many, a tile of columns
// (kTile x 256 floats) and its outputs share a 512 KB L2 with the weights that stream through it.
inline constexpr int64_t kTile = 96;

// How an output map is cut into tiles: near squares, as neighbors sample the same features.
struct TileGrid {
  int64_t height, width;  // of a tile; the last row and column may have less
  int64_t rows, cols;

  explicit TileGrid(const DeformShape& s) {
    cols = ceil_div(s.out_width, 16);
    width = ceil_div(s.out_width, cols);
    cols = ceil_div(s.out_width, width);
    rows = ceil_div(s.out_height, kTile / width);
    height = ceil_div(s.out_height, rows);
    rows = ceil_div(s.out_height, height);
  }
  int64_t count() const { return rows * cols; }
};

// The backward's fixed partition: an image is cut into sections (a power of two) where there are
// few images, else a section has whole images. Their number depends on the shapes alone, so that
// results don't depend on the threads. Its bounds: memory for a weight gradient of each section;
// enough tiles that adding those up costs little beside making them; enough rows that few of the
// features' rows are met by several sections.
inline int64_t max_sections(const DeformShape& s) {
  constexpr int64_t kBytes = int64_t{56} << 20;
  const int64_t one = s.kernel_h * s.kernel_w * s.channels * round_up(s.outputs / s.groups, 16) * 4;
  int64_t count = 4;
  while (count < 64 && count * 2 * one <= kBytes) count *= 2;
  return count;
}
inline int64_t sections_of_image(const DeformShape& s) {
  const TileGrid grid(s);
  int64_t count = 1;
  while (count * 2 * s.batch <= max_sections(s) && count * 2 * 8 <= grid.count() &&
         count * 2 * 2 <= grid.rows)
    count *= 2;
  return count;
}
inline int64_t sections(const DeformShape& s) {
  const int64_t per_image = sections_of_image(s);
  if (per_image > 1) return s.batch * per_image;
  return s.batch < max_sections(s) ? s.batch : max_sections(s);
}

struct Section {
  int64_t image_begin, image_end;
  int64_t tile_begin, tile_end;  // of each of its images
  int64_t row_begin, row_end;    // rows of feature_sums that it alone writes
};

inline Section section(const DeformShape& shape, int64_t number) {
  const TileGrid grid(shape);
  const int64_t per_image = sections_of_image(shape), tiles = grid.count();
  if (per_image == 1) {
    const int64_t n = sections(shape);
    return {number * shape.batch / n, (number + 1) * shape.batch / n, 0, tiles, 0, shape.height};
  }
  const int64_t part = number % per_image;
  const auto tile = [&](int64_t i) { return i * tiles / per_image; };
  // The input rows that lie where the section's output does; its other rows are spill rows.
  const auto row = [&](int64_t i) {
    return i == per_image ? shape.height
                          : tile(i) / grid.cols * grid.height * shape.height / shape.out_height;
  };
  return {number / per_image, number / per_image + 1, tile(part), tile(part + 1),
          row(part),          row(part + 1)};
}

// One instruction set's kernels for one storage type. Ranges are work items for parallel loops.
struct DeformCpuKernels {
  size_t (*forward_packed_bytes)(const DeformCpuParams&);
  int64_t (*pack_items)(const DeformCpuParams&, bool backward);
  void (*pack_forward)(const DeformCpuParams&, int64_t begin, int64_t end);
  void (*forward)(const DeformCpuParams&, int64_t begin, int64_t end);  // tiles of all images

  size_t (*backward_packed_bytes)(const DeformCpuParams&);
  size_t (*backward_weight_bytes)(const DeformCpuParams&);  // one section's weight_sums
  void (*pack_backward)(const DeformCpuParams&, int64_t begin, int64_t end);
  void (*backward)(const DeformCpuParams&, int64_t begin, int64_t end);  // sections
  void (*reduce_features)(const DeformCpuParams&, int64_t begin,
                          int64_t end);  // batch * height rows
  int64_t (*weight_items)(const DeformCpuParams&);
  void (*reduce_weight)(const DeformCpuParams&, int64_t begin, int64_t end);
  void (*reduce_bias)(const DeformCpuParams&);

  // [batch, channels, height, width] of any strides -> [batch, height, width, channels], dense.
  // Items: batch * height rows.
  void (*to_channels_last)(const void* source, const Strides& strides, const DeformCpuParams&,
                           void* out, int64_t begin, int64_t end);
};

enum class Storage { kFloat, kDouble, kBFloat16, kHalf };

struct DeformTable {
  DeformCpuKernels of[4];  // by Storage
};
extern const DeformTable kDeformPortable, kDeformAvx2, kDeformAvx512, kDeformAvx512Bf16,
    kDeformAmxBf16;

}  // namespace ggnet

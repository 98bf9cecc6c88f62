// Modulated deformable convolution on the CPU: what the kernels behind actpoint_aggregate and
// deform_conv2d compute, and the parameters they take. No Torch here: raw pointers and sizes.
//
// For output pixel p, output channel o (K = kernel_h * kernel_w points, k = (i, j)):
//   output[o, p] = act(bias[o] + sum_k m_k(p) sum_c weight[o, c, i, j] * sample(features[c], y, x))
//   y = p.y * stride_h - pad_h + i * dilation_h + dy_k(p),  x likewise
//   (dy_k, dx_k) = offset channels 2k, 2k+1, plus base where given
//   m_k = mask channel k, through a sigmoid where `sigmoid` is set; 1 where there is no mask
//   act = ReLU where `relu` is set
// sample() is bilinear over the four neighbors, those outside the map counting as zero: a point
// with y <= -1, y >= height, x <= -1 or x >= width contributes 0, and so does a NaN or infinite
// coordinate: no offset, however large, makes a read out of bounds. Gradients are those of this
// formula with floor() held constant, as in torchvision: at an integer coordinate the derivative is
// the one from above (at y = -1, where the sample is 0, it is already row 0's).
//
// Storage is float32, float64, bfloat16 or float16; sums are float32 (float64 for float64). Under
// AVX512-BF16, bfloat16 samples and the weights' products go through bfloat16 pairs (float32 sums).
//
// Results do not depend on the number of threads, bit for bit: an output pixel is computed by one
// thread in a fixed order, and gradients that many pixels share are summed per section (a fixed
// part of the output, see sections()) and the sections added in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../common/dispatch.h"

namespace ggnet {

struct Strides4 {  // in elements
  int64_t batch, channel, row, col;
};

struct DeformParams {
  int64_t batch, channels, height, width, out_channels, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  bool sigmoid, relu;

  const void* features;  // [batch, height, width, channels]: channels adjacent
  int64_t feature_batch_stride, feature_pixel_stride;
  const void* offset;  // [batch, 2K, out_height, out_width]
  Strides4 offset_strides;
  const void* base;  // [batch, 2K, out_height, out_width] or null
  Strides4 base_strides;
  const void* mask;  // [batch, K, out_height, out_width] or null
  Strides4 mask_strides;
  const void* weight;  // [out_channels, channels, kernel_h, kernel_w]
  Strides4 weight_strides;
  const void* bias;  // [out_channels] or null
  void* packed;      // forward_packed_bytes or backward_packed_bytes, 64-byte aligned

  // Forward: written. Backward: null, or the forward's output, which tells where ReLU passed.
  void* output;  // [batch, out_channels, out_height, out_width]
  Strides4 output_strides;

  // Backward only. A null gradient isn't computed.
  const void* grad_output;  // [batch, out_channels, out_height, out_width]
  Strides4 grad_output_strides;
  void* grad_features;  // [batch, channels, height, width]
  Strides4 grad_features_strides;
  void* grad_offset;  // [batch, 2K, out_height, out_width]; with it grad_mask, where mask is given
  Strides4 grad_offset_strides;
  void* grad_mask;  // [batch, K, out_height, out_width]
  Strides4 grad_mask_strides;
  void* grad_weight;  // [out_channels, channels, kernel_h, kernel_w]
  Strides4 grad_weight_strides;
  void* grad_bias;  // [out_channels]
  // Partial sums, in the arithmetic type.
  void* feature_sums;  // [batch, height, width, channels]; may be grad_features itself
  void** spill_rows;   // [sections, height]: rows of [width, channels] that a section has touched
                       // outside its own, allocated as they are met; null where not
  void* weight_sums;   // [sections] x backward_weight_bytes
  void* bias_sums;     // [sections, out_channels]
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Output pixels that a thread works on at a time, at most: with this many, a tile of columns
// (kTile x 256 floats) and its outputs share a 512 KB L2 with the weights that stream through it.
inline constexpr int64_t kTile = 96;

// How an output map is cut into tiles: near squares, as neighbors sample the same features.
struct TileGrid {
  int64_t height, width;  // of a tile; the last row and column may have less
  int64_t rows, cols;

  explicit TileGrid(const DeformParams& p) {
    cols = ceil_div(p.out_width, 16);
    width = ceil_div(p.out_width, cols);
    cols = ceil_div(p.out_width, width);
    rows = ceil_div(p.out_height, kTile / width);
    height = ceil_div(p.out_height, rows);
    rows = ceil_div(p.out_height, height);
  }
  int64_t count() const { return rows * cols; }
};

// The backward's fixed partition: an image is cut into sections (a power of two) where there are
// few images, else a section has whole images. Their number depends on the shapes alone, so that
// results don't depend on the threads. Its bounds: memory for a weight gradient of each section;
// enough tiles that adding those up costs little beside making them; enough rows that few of the
// features' rows are met by several sections.
inline int64_t max_sections(const DeformParams& p) {
  constexpr int64_t kBytes = int64_t{56} << 20;
  const int64_t one = p.kernel_h * p.kernel_w * p.channels * round_up(p.out_channels, 16) * 4;
  int64_t count = 4;
  while (count < 64 && count * 2 * one <= kBytes) count *= 2;
  return count;
}
inline int64_t sections_of_image(const DeformParams& p) {
  const TileGrid grid(p);
  int64_t count = 1;
  while (count * 2 * p.batch <= max_sections(p) && count * 2 * 8 <= grid.count() &&
         count * 2 * 2 <= grid.rows)
    count *= 2;
  return count;
}
inline int64_t sections(const DeformParams& p) {
  const int64_t per_image = sections_of_image(p);
  if (per_image > 1) return p.batch * per_image;
  return p.batch < max_sections(p) ? p.batch : max_sections(p);
}

struct Section {
  int64_t image_begin, image_end;
  int64_t tile_begin, tile_end;  // of each of its images
  int64_t row_begin, row_end;    // rows of feature_sums that it alone writes
};

inline Section section(const DeformParams& p, int64_t s) {
  const TileGrid grid(p);
  const int64_t per_image = sections_of_image(p), tiles = grid.count();
  if (per_image == 1) {
    const int64_t n = sections(p);
    return {s * p.batch / n, (s + 1) * p.batch / n, 0, tiles, 0, p.height};
  }
  const int64_t part = s % per_image;
  const auto tile = [&](int64_t i) { return i * tiles / per_image; };
  // The input rows that lie where the section's output does; its other rows are spill rows.
  const auto row = [&](int64_t i) {
    return i == per_image ? p.height : tile(i) / grid.cols * grid.height * p.height / p.out_height;
  };
  return {s / per_image, s / per_image + 1, tile(part), tile(part + 1), row(part), row(part + 1)};
}

// One instruction set's kernels for one storage type. Ranges are work items for parallel loops.
struct DeformKernels {
  size_t (*forward_packed_bytes)(const DeformParams&);
  int64_t (*pack_items)(const DeformParams&, bool backward);
  void (*pack_forward)(const DeformParams&, int64_t begin, int64_t end);
  void (*forward)(const DeformParams&, int64_t begin, int64_t end);  // tiles of all images

  size_t (*backward_packed_bytes)(const DeformParams&);
  size_t (*backward_weight_bytes)(const DeformParams&);  // one section's weight_sums
  void (*pack_backward)(const DeformParams&, int64_t begin, int64_t end);
  void (*backward)(const DeformParams&, int64_t begin, int64_t end);         // sections
  void (*reduce_features)(const DeformParams&, int64_t begin, int64_t end);  // batch * height rows
  int64_t (*weight_items)(const DeformParams&);
  void (*reduce_weight)(const DeformParams&, int64_t begin, int64_t end);
  void (*reduce_bias)(const DeformParams&);

  // [batch, channels, height, width] of any strides -> [batch, height, width, channels], dense.
  // Items: batch * height rows.
  void (*to_channels_last)(const void* source, const Strides4& strides, const DeformParams&,
                           void* out, int64_t begin, int64_t end);
};

enum class Storage { kFloat, kDouble, kBFloat16, kHalf };

struct DeformTable {
  DeformKernels of[4];  // by Storage
};
extern const DeformTable kDeformPortable, kDeformAvx2, kDeformAvx512, kDeformAvx512Bf16;

}  // namespace ggnet

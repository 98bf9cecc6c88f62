// What the kernels share that sum the features' gradient in shared memory first: tiles of
// neighboring output pixels, the window of cells around a tile, and what leaves the block.
#pragma once

#include "actpoint/actpoint.cuh"

namespace ggnet::deform {

struct Tile {
  int batch, top, left;  // of its first pixel
};
// An image's output pixels in tiles of kHeight x kWidth.
template <int kHeight, int kWidth>
struct Tiling {
  static __host__ __device__ int columns(const DeformShape& s) {
    return (s.out_width + kWidth - 1) / kWidth;
  }
  static __host__ __device__ int of_image(const DeformShape& s) {
    return (s.out_height + kHeight - 1) / kHeight * columns(s);
  }
  static __device__ Tile at(const DeformShape& s, int number) {
    const int rest = number % of_image(s);
    return {number / of_image(s), rest / columns(s) * kHeight, rest % columns(s) * kWidth};
  }
};
__device__ __forceinline__ bool in_map(const DeformShape& s, const Cell& cell) {
  return cell.y < s.out_height && cell.x < s.out_width;
}
__device__ __forceinline__ long long row_of(const DeformShape& s, const Cell& cell) {
  return (static_cast<long long>(cell.batch) * s.out_height + cell.y) * s.out_width + cell.x;
}

// The cells up to kMargin away from the centers of a tile's points, where strides are one.
template <int kTileHeight, int kTileWidth, int kMargin>
struct Window {
  static constexpr int kHeight = kTileHeight + 2 * kMargin + 1;
  static constexpr int kWidth = kTileWidth + 2 * kMargin + 1;
  static constexpr int kCells = kHeight * kWidth;
  int top, left;

  __device__ __forceinline__ Window(const DeformShape& s, const Tile& tile)
      : top(tile.top * s.stride_h + (kTileHeight - 1) * (s.stride_h - 1) / 2 - s.pad_h +
            (s.kernel_h - 1) * s.dilation_h / 2 - kMargin),
        left(tile.left * s.stride_w + (kTileWidth - 1) * (s.stride_w - 1) / 2 - s.pad_w +
             (s.kernel_w - 1) * s.dilation_w / 2 - kMargin) {}
};

// Where the features' gradient is summed in global memory.
struct FeatureSums {
  float* sums;
  long long* fixed_point;
  float units;  // in 1

  __device__ __forceinline__ explicit FeatureSums(const DeformDataGradParams& p)
      : sums(p.feature_sums),
        fixed_point(p.fixed_point),
        units(p.fixed_point ? 1.0f / *p.unit : 1.0f) {}
  __device__ __forceinline__ void add(int element, float value) const {
    if (sums)
      atomicAdd(sums + element, value);
    else
      atomicAdd(reinterpret_cast<unsigned long long*>(fixed_point + element),
                static_cast<unsigned long long>(static_cast<long long>(value * units)));
  }
  __device__ __forceinline__ void add4(int element, const float (&value)[4]) const {
    if (sums) {
      atomic_add4(sums + element, value);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) add(element + i, value[i]);
    }
  }
};

__device__ __forceinline__ void load4(float (&v)[4], const float* shared) {
  const Vec16 bits = load16(shared);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = __uint_as_float(bits.word[i]);
}

// A point's gradients: of dy, dx and its weight.
constexpr int kPointGrads = 3;
// += what follows from dot[i] = <grad_columns, corner i>.
__device__ __forceinline__ void add_point_grads(float (&grads)[kPointGrads], const float (&dot)[4],
                                                float fy, float fx, float scale) {
  const float up = 1.0f - fy, left = 1.0f - fx;
  grads[0] += scale * (left * (dot[2] - dot[0]) + fx * (dot[3] - dot[1]));
  grads[1] += scale * (up * (dot[1] - dot[0]) + fy * (dot[3] - dot[2]));
  grads[2] += up * (left * dot[0] + fx * dot[1]) + fy * (left * dot[2] + fx * dot[3]);
}
template <class T>
__device__ __forceinline__ void store_point_grads(const DeformDataGradParams& p, const Cell& cell,
                                                  int k, const float (&grads)[kPointGrads],
                                                  float scale) {
  if (p.grad_offset) {
    const Strides& st = p.grad_offset_strides;
    T* target = static_cast<T*>(p.grad_offset) + cell.batch * st.batch + cell.y * st.row +
                cell.x * st.column;
    target[(2 * k) * st.channel] = from_float<T>(grads[0]);
    target[(2 * k + 1) * st.channel] = from_float<T>(grads[1]);
  }
  if (p.grad_mask) {
    const Strides& st = p.grad_mask_strides;
    const float value = p.sigmoid ? grads[2] * scale * (1.0f - scale) : grads[2];
    static_cast<T*>(p.grad_mask)[cell.batch * st.batch + k * st.channel + cell.y * st.row +
                                 cell.x * st.column] = from_float<T>(value);
  }
}

}  // namespace ggnet::deform

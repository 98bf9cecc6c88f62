// The gradients of features and points on the device.
//
// grad_columns[p, k, c] = sum_o grad_out[p, o] weight[o, c, k] never leaves shared memory: a block
// keeps the output gradient of its pixels, and for each point and channel slice multiplies, gathers
// the samples' corners again, takes the four dot products <grad_columns, corner> from which the
// gradients of offset and point weight follow, and scatters to the features' gradient. A block has
// one offset group, all of whose channels these dot products sum; of the weight groups that meet
// it, it loads the output gradient one by one.
//
// The features' gradient is the only sum of all gradients whose order is not fixed; see
// actpoint_fixed_point_kernels.cuh for the one that is reproducible.
#pragma once

#include "actpoint/actpoint.cuh"

namespace ggnet::deform {

constexpr int kColumnPad = 4;  // floats

// grad_columns of a step: kPixels x slice<T>(), reduction over kOutputs.
template <class T, Math kMath, int kOutputs>
struct ColumnProduct {
  static constexpr int kSlice = kRowBytes / sizeof(T);
  static constexpr int kTileN = kSlice / 2, kN = kTileN / 8;           // warps: 4 by 2
  static constexpr int kRow = kOutputs * static_cast<int>(sizeof(T));  // bytes of a gradient row
  float sum[kN][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < kN; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[j][e] = 0.0f;
  }
  // gradient: [kPixels][kOutputs], wide rows; weights: [kOutputs][64 bytes].
  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* weights) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / 2 * 16, n0 = warp % 2 * kTileN;
    if constexpr (kMath == Math::kHalf) {
#pragma unroll 4
      for (int o = 0; o < kOutputs; o += 16) {
        uint32_t fa[4], fb[4];
        ldmatrix_x4(fa, gradient + swizzled_wide(m0 + (lane & 15), o / 8 + (lane >> 4), kRow));
        ldmatrix_x4_trans(
            fb, weights + swizzled(o + (lane >> 3 & 1) * 8 + (lane & 7), n0 / 8 + (lane >> 4)));
        const uint32_t first[2] = {fb[0], fb[1]}, second[2] = {fb[2], fb[3]};
        mma_16x8x16(sum[0], fa, first, T{});
        mma_16x8x16(sum[1], fa, second, T{});
      }
    } else {
      const int g = lane >> 2, t = lane & 3;
#pragma unroll 4
      for (int o = 0; o < kOutputs; o += 8) {
        uint32_t fa[4];
        ldmatrix_x4(fa, gradient + swizzled_wide(m0 + (lane & 15), o / 4 + (lane >> 4), kRow));
#pragma unroll
        for (int i = 0; i < 4; ++i) fa[i] = to_tf32(__uint_as_float(fa[i]));
        const int column = n0 + g;
        auto at = [&](int row) {  // the packed weight is rounded already
          return *reinterpret_cast<const uint32_t*>(weights + swizzled(row, column / 4) +
                                                    column % 4 * 4);
        };
        const uint32_t fb[2] = {at(o + t), at(o + t + 4)};
        mma_16x8x8_tf32(sum[0], fa, fb);
      }
    }
  }
  // Into columns[kPixels][slice + pad].
  __device__ __forceinline__ void store(float* columns) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m = warp / 2 * 16 + (lane >> 2), n = warp % 2 * kTileN + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < kN; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        columns[(m + (e >> 1) * 8) * (kSlice + kColumnPad) + n + j * 8 + (e & 1)] = sum[j][e];
  }
};

template <int kOutputs>
struct ColumnProduct<float, Math::kTf32x3, kOutputs> : ColumnProduct<float, Math::kTf32, kOutputs> {
  using Tile = ColumnProduct<float, Math::kTf32, kOutputs>;

  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* weights) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / 2 * 16, column = warp % 2 * Tile::kTileN + (lane >> 2);
#pragma unroll 1
    for (int first = 0; first < kOutputs; first += 32) {
      Tf32x3Sum part;
#pragma unroll
      for (int o = first; o < first + 32; o += 8) {
        uint32_t r[4];
        ldmatrix_x4(r, gradient + swizzled_wide(m0 + (lane & 15), o / 4 + (lane >> 4), Tile::kRow));
        SplitTf32<4> fa;
#pragma unroll
        for (int e = 0; e < 4; ++e) fa.set(e, __uint_as_float(r[e]));
        SplitTf32<2> fb;
#pragma unroll
        for (int e = 0; e < 2; ++e)
          fb.set(e, *reinterpret_cast<const float*>(
                        weights + swizzled(o + (lane & 3) + e * 4, column / 4) + column % 4 * 4));
        part.add(fa, fb);
      }
      part.flush(this->sum[0]);
    }
  }
};

// By FFMA: a thread computes just the four channels of the pixel that it will scatter.
template <int kOutputs>
struct ColumnProduct<float, Math::kFloat, kOutputs> {
  static constexpr int kRow = kOutputs * 4;
  float sum[4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] = 0.0f;
  }
  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* weights) {
    const int pixel = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
#pragma unroll 4
    for (int o = 0; o < kOutputs; o += 4) {
      Pack<float> fa;
      fa.bits = load16(gradient + swizzled_wide(pixel, o / 4, kRow));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Pack<float> fb;
        fb.bits = load16(weights + swizzled(o + i, chunk));
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[e] = fmaf(fa.element[i], fb.element[e], sum[e]);
      }
    }
  }
  __device__ __forceinline__ void store(float* columns) const {
    const int pixel = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      columns[pixel * (kRowBytes / 4 + kColumnPad) + chunk * 4 + e] = sum[e];
  }
};

// Shared memory of backward_kernel, in order: output gradient, two weight stages, columns,
// placements of two points.
template <class T, int kOutputs>
__host__ __device__ constexpr int backward_shared_bytes() {
  return kPixels * kOutputs * static_cast<int>(sizeof(T)) + 2 * weight_stage_bytes<kOutputs>() +
         kPixels * (kRowBytes / static_cast<int>(sizeof(T)) + kColumnPad) * 4 +
         2 * kPixels * static_cast<int>(sizeof(Placement));
}

template <class T, Math kMath, int kOutputs, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3) backward_kernel(DeformDataGradParams p, Division d) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kSlice = kRowBytes / static_cast<int>(sizeof(T));
  constexpr int kStageBytes = weight_stage_bytes<kOutputs>();
  constexpr int kGradientRow = kOutputs * static_cast<int>(sizeof(T));
  unsigned char* gradient = shared;
  unsigned char* weights = gradient + kPixels * kGradientRow;
  float* columns = reinterpret_cast<float*>(weights + 2 * kStageBytes);
  Placement* placements = reinterpret_cast<Placement*>(columns + kPixels * (kSlice + kColumnPad));

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int pixels = s.batch * s.out_height * s.out_width;
  const int first_pixel = blockIdx.x * kPixels;
  const int offset_group = blockIdx.y;
  const int first_point = offset_group * points;
  const int begin = offset_group * d.offset_group, end = begin + d.offset_group;  // channels
  const int tiles = (d.outputs + kOutputs - 1) / kOutputs;  // 1 up to 256 outputs of a group
  const bool one_group = d.offset_group_sections == 1;

  auto load_gradient = [&](int group, int tile) {
    load_output_gradient<T, kOutputs>(gradient,
                                      static_cast<const T*>(p.grad_out) + group * d.outputs,
                                      s.outputs, d.outputs, tile * kOutputs, [&](int row) {
                                        const int pixel = first_pixel + row;
                                        return pixel < pixels ? row_of(s, pixel) : -1;
                                      });
  };
  auto place_point = [&](int k) {
    if (threadIdx.x >= kPixels || k >= points) return;
    const int pixel = first_pixel + threadIdx.x;
    placements[(k & 1) * kPixels + threadIdx.x] =
        pixel < pixels ? place<T>(p, cell_in_bands(s, pixel), k, first_point + k) : Placement{};
  };
  // The order of steps, and of the packed weights: points, in each slices of channels, in each
  // tiles of outputs.
  struct Position {
    int k, first, end, tile;  // first channel of the slice, end of its section
  };
  auto advance = [&](Position& at) {
    if (++at.tile < tiles) return;
    at.tile = 0;
    at.first += kSlice;
    if (at.first < at.end) return;
    at.first = at.end;
    at.end += d.section;
    if (at.first < end) return;
    at.first = begin;
    at.end = begin + d.section;
    ++at.k;
  };
  const int steps =
      points * d.offset_group_sections * (round_up(d.section, kSlice) / kSlice) * tiles;
  const unsigned char* source = static_cast<const unsigned char*>(p.weight) +
                                static_cast<long long>(offset_group) * steps * kStageBytes;
  auto fetch_weights = [&](int step) {
    if (step < steps) {
      unsigned char* stage = weights + (step & 1) * kStageBytes;
#pragma unroll
      for (int i = threadIdx.x; i < kOutputs * kChunks; i += kThreads)
        cp_async16(stage + swizzled(i / kChunks, i % kChunks), source + i * 16);
      source += kStageBytes;
    }
    cp_async_commit();
  };

  fetch_weights(0);
  place_point(0);
  load_gradient(begin / d.group, 0);

  const int my_pixel = threadIdx.x / kChunks, my_chunk = threadIdx.x % kChunks;
  const int pixel = first_pixel + my_pixel;
  const float units = p.fixed_point ? 1.0f / *p.unit : 1.0f;  // in 1
  float dot[4] = {};  // <grad_columns, corner> over the channels so far of this point
  ColumnProduct<T, kMath, kOutputs> product;
  Vec16 corners[4];
  Placement at{};
  int step = 0;
  for (Position now{0, begin, begin + d.section, 0}; now.k < points; advance(now), ++step) {
    const auto [k, first_channel, section_end, tile] = now;
    cp_async_wait<0>();
    __syncthreads();  // weights of this step; and everybody is done with the previous step's
    if (tiles > 1 || (!one_group && first_channel + d.section == section_end)) {
      load_gradient(first_channel / d.group, tile);
      __syncthreads();
    }
    fetch_weights(step + 1);
    if (tile == 0) {
      if (first_channel == begin) place_point(k + 1);
      at = placements[(k & 1) * kPixels + my_pixel];
      load_corners<T, kAligned>(corners, static_cast<const T*>(p.features), at, s,
                                first_channel + my_chunk * kElements, section_end);
      product.clear();
    }
    product.step(gradient, weights + (step & 1) * kStageBytes);
    if (tile != tiles - 1) continue;
    product.store(columns);
    __syncthreads();

    const float* row = columns + my_pixel * (kSlice + kColumnPad);
    add_dots<T>(dot, corners, [&](int e) { return row + my_chunk * kElements + e; });
    // The four lanes of a pixel add neighboring channels: an instruction then meets whole sectors.
    const float bottom = at.fy * at.scale, top = at.scale - bottom;
    const float share[4] = {top - top * at.fx, top * at.fx, bottom - bottom * at.fx,
                            bottom * at.fx};
    const int first = (at.corner >> 4) * s.channels + first_channel;
    if (p.feature_sums && kAligned) {
#pragma unroll
      for (int e = 0; e < kElements; e += 4) {
        const int c = e * kChunks + my_chunk * 4;
        if (first_channel + c >= section_end) continue;
        Pack<float> g;
        g.bits = load16(row + c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!(at.corner >> i & 1)) continue;
          const int cell = first + ((i >> 1) * s.width + (i & 1)) * s.channels;
          const float four[4] = {share[i] * g.element[0], share[i] * g.element[1],
                                 share[i] * g.element[2], share[i] * g.element[3]};
          atomic_add4(p.feature_sums + (cell + c), four);
        }
      }
    } else if (p.feature_sums || p.fixed_point) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const int c = e * kChunks + my_chunk;
        if (first_channel + c >= section_end) continue;
        const float g = row[c];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!(at.corner >> i & 1)) continue;
          const int cell = first + ((i >> 1) * s.width + (i & 1)) * s.channels + c;
          if (p.feature_sums)
            atomicAdd(p.feature_sums + cell, share[i] * g);
          else
            atomicAdd(
                reinterpret_cast<unsigned long long*>(p.fixed_point + cell),
                static_cast<unsigned long long>(static_cast<long long>(share[i] * g * units)));
        }
      }
    }
    if (section_end < end || first_channel + kSlice < end) continue;

    // The four lanes of a pixel share its sums.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], 1);
      dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], 2);
    }
    if (my_chunk == 0 && pixel < pixels) {
      const auto [b, oy, ox] = cell_in_bands(s, pixel);
      const float up = 1.0f - at.fy, left = 1.0f - at.fx;
      if (p.grad_offset) {
        const Strides& t = p.grad_offset_strides;
        T* target = static_cast<T*>(p.grad_offset) + b * t.batch + oy * t.row + ox * t.column;
        target[(2 * (first_point + k)) * t.channel] =
            from_float<T>(at.scale * (left * (dot[2] - dot[0]) + at.fx * (dot[3] - dot[1])));
        target[(2 * (first_point + k) + 1) * t.channel] =
            from_float<T>(at.scale * (up * (dot[1] - dot[0]) + at.fy * (dot[3] - dot[2])));
      }
      if (p.grad_mask) {
        const Strides& t = p.grad_mask_strides;
        float value =
            up * (left * dot[0] + at.fx * dot[1]) + at.fy * (left * dot[2] + at.fx * dot[3]);
        if (p.sigmoid) value *= at.scale * (1.0f - at.scale);
        static_cast<T*>(
            p.grad_mask)[b * t.batch + (first_point + k) * t.channel + oy * t.row + ox * t.column] =
            from_float<T>(value);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dot[i] = 0.0f;
  }
  cp_async_wait<0>();
}

template <class T, Math kMath, int kOutputs>
void launch_backward(const DeformDataGradParams& p, void* stream) {
  const DeformShape& s = p.shape;
  const int pixels = s.batch * s.out_height * s.out_width;
  if (pixels == 0) return;
  const Division d = division_of(s);
  const dim3 grid((pixels + kPixels - 1) / kPixels, s.offset_groups);
  constexpr int bytes = backward_shared_bytes<T, kOutputs>();
  if (features_aligned<T>(p, d))
    GGNET_LAUNCH((backward_kernel<T, kMath, kOutputs, true>), grid, dim3(kThreads), bytes, stream,
                 p, d);
  else
    GGNET_LAUNCH((backward_kernel<T, kMath, kOutputs, false>), grid, dim3(kThreads), bytes, stream,
                 p, d);
}

template <class T>
int backward_tile(const DeformShape& s) {
  return outputs_tile(division_of(s).outputs, [](int tile) {
    return with_tile(tile, [](auto n) { return backward_shared_bytes<T, n()>(); });
  });
}

// The weight is packed for backward_tile and Walk::kSlicesOfPoint.
template <class T, Math kMath>
void backward(const DeformDataGradParams& p, void* stream) {
  with_tile(backward_tile<T>(p.shape), [&](auto n) { launch_backward<T, kMath, n()>(p, stream); });
}

}  // namespace ggnet::deform

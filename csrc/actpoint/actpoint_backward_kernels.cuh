// Modulated deformable convolution on the device, backward. See actpoint_kernels.cuh for the tiles.
//
// grad_columns[p, k, c] = sum_o grad_out[p, o] weight[o, c, k] never leaves shared memory: a block
// keeps the output gradient of its pixels, and for each point and channel slice multiplies, gathers
// the samples' corners again, takes the four dot products <grad_columns, corner> from which the
// gradients of offset and point weight follow, and scatters to the features' gradient.
//
// grad_weight[o, c, k] = sum_p grad_out[p, o] columns[p, k, c]: a block owns one point and a slice
// of channels for all outputs, so every sample is gathered once; pixels are split over a fixed
// number of blocks whose partial sums a second kernel adds in a fixed order.
//
// The features' gradient is the only sum whose order is not fixed. `fixed_point` makes it
// reproducible: contributions are added as 64-bit integers in units of a power of two chosen from
// the largest possible sum, and integer addition is associative. The unit is at most 2^-61 of that
// bound, far below float32's resolution of any gradient that matters.
#pragma once

#include "actpoint/actpoint_kernels.cuh"

namespace ggnet {

struct DeformBackwardParams {
  DeformForwardParams forward;  // out and bias unused
  const void* grad_out;         // [B, h, w, O], already zero where a ReLU was off
  float* grad_features;         // [B, H, W, C] accumulators, zeroed; or null
  long long* fixed_point;       // the same in units of *unit, instead of grad_features; or null
  const float* unit;            // power of two; used with fixed_point
  void* grad_offset;            // [B, 2K, h, w] in the strides below; or null
  void* grad_mask;              // [B, K, h, w] likewise; or null
  Strides grad_offset_strides, grad_mask_strides;
};

struct DeformWeightGradParams {
  DeformForwardParams forward;  // weight, out and bias unused
  const void* grad_out;         // [B, h, w, O]
  float* partial;               // [splits, K, O, C]
  int splits;
};

namespace deform {

// Rows of 128 bytes and more: chunks of eight consecutive rows fall into different banks.
__device__ __forceinline__ int swizzled_wide(int row, int chunk, int row_bytes) {
  return row * row_bytes + ((chunk ^ (row & 7)) << 4);
}
__device__ __forceinline__ float float_at(const unsigned char* tile, int row, int column,
                                          int row_bytes) {
  return *reinterpret_cast<const float*>(tile + swizzled_wide(row, column / 4, row_bytes) +
                                         column % 4 * 4);
}

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
__global__ void __launch_bounds__(kThreads, 3) backward_kernel(DeformBackwardParams p) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kSlice = kRowBytes / static_cast<int>(sizeof(T));
  constexpr int kStageBytes = weight_stage_bytes<kOutputs>();
  constexpr int kGradientRow = kOutputs * static_cast<int>(sizeof(T));
  unsigned char* gradient = shared;
  unsigned char* weights = gradient + kPixels * kGradientRow;
  float* columns = reinterpret_cast<float*>(weights + 2 * kStageBytes);
  Placement* placements = reinterpret_cast<Placement*>(columns + kPixels * (kSlice + kColumnPad));

  const DeformForwardParams& f = p.forward;
  const DeformShape& s = f.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int pixels = s.batch * s.out_height * s.out_width;
  const int first_pixel = blockIdx.x * kPixels;
  const int padded_outputs = round_up(s.outputs, kOutputs);
  const int tiles = padded_outputs / kOutputs;  // 1 unless there are more than 256 outputs
  const int slices = round_up(s.channels, kSlice) / kSlice;

  const bool rows_aligned = s.outputs % kElements == 0 && aligned16(p.grad_out);
  auto load_gradient = [&](int tile) {
    const T* source = static_cast<const T*>(p.grad_out);
    for (int i = threadIdx.x; i < kPixels * kGradientRow / 16; i += kThreads) {
      const int row = i / (kGradientRow / 16), chunk = i % (kGradientRow / 16);
      const int pixel = first_pixel + row, o = tile * kOutputs + chunk * kElements;
      Pack<T> pack;
      const T* from = source + row_of(s, pixel) * s.outputs + o;
      if (pixel < pixels && rows_aligned && o < s.outputs) {
        pack.bits = load16(from);
      } else {
#pragma unroll
        for (int e = 0; e < kElements; ++e)
          pack.element[e] = pixel < pixels && o + e < s.outputs ? from[e] : from_float<T>(0.0f);
      }
      store16(gradient + swizzled_wide(row, chunk, kGradientRow), pack.bits);
    }
  };
  auto place_point = [&](int k) {
    if (threadIdx.x >= kPixels || k >= points) return;
    const int pixel = first_pixel + threadIdx.x;
    placements[(k & 1) * kPixels + threadIdx.x] =
        pixel < pixels ? place<T>(f, cell_in_bands(s, pixel), k) : Placement{};
  };
  // The order of steps: points, in each slices of channels, in each tiles of outputs.
  struct Position {
    int k, slice, tile;
  };
  auto advance = [&](Position& at) {
    if (++at.tile < tiles) return;
    at.tile = 0;
    if (++at.slice < slices) return;
    at.slice = 0;
    ++at.k;
  };
  Position fetched{0, 0, 0};
  auto fetch_weights = [&](int step) {
    if (fetched.k < points) {
      const unsigned char* source =
          static_cast<const unsigned char*>(f.weight) +
          (static_cast<long long>(fetched.slice * points + fetched.k) * padded_outputs +
           fetched.tile * kOutputs) *
              kRowBytes;
      unsigned char* stage = weights + (step & 1) * kStageBytes;
#pragma unroll
      for (int i = threadIdx.x; i < kOutputs * kChunks; i += kThreads)
        cp_async16(stage + swizzled(i / kChunks, i % kChunks), source + i * 16);
      advance(fetched);
    }
    cp_async_commit();
  };

  fetch_weights(0);
  place_point(0);
  load_gradient(0);

  const int my_pixel = threadIdx.x / kChunks, my_chunk = threadIdx.x % kChunks;
  const int pixel = first_pixel + my_pixel;
  const float units = p.fixed_point ? 1.0f / *p.unit : 1.0f;  // in 1
  float dot[4] = {};  // <grad_columns, corner> over the slices so far of this point
  ColumnProduct<T, kMath, kOutputs> product;
  Vec16 corners[4];
  Placement at{};
  int step = 0;
  for (Position now{0, 0, 0}; now.k < points; advance(now), ++step) {
    const auto [k, slice, tile] = now;
    cp_async_wait<0>();
    __syncthreads();  // weights of this step; and everybody is done with the previous step's
    if (tiles > 1) {
      load_gradient(tile);
      __syncthreads();
    }
    fetch_weights(step + 1);
    const int c = slice * kSlice + my_chunk * kElements;
    if (tile == 0) {
      if (slice == 0) place_point(k + 1);
      at = placements[(k & 1) * kPixels + my_pixel];
      load_corners<T, kAligned>(corners, static_cast<const T*>(f.features), at, s, c);
      product.clear();
    }
    product.step(gradient, weights + (step & 1) * kStageBytes);
    if (tile != tiles - 1) continue;
    product.store(columns);
    __syncthreads();

    const float* row = columns + my_pixel * (kSlice + kColumnPad);
#pragma unroll
    for (int e = 0; e < kElements; e += 4) {
      Pack<float> g;
      g.bits = load16(row + my_chunk * kElements + e);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Pack<T> corner;
        corner.bits = corners[i];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          dot[i] = fmaf(g.element[j], to_float(corner.element[e + j]), dot[i]);
      }
    }
    // The four lanes of a pixel add neighboring channels: an instruction then meets whole sectors.
    const float bottom = at.fy * at.scale, top = at.scale - bottom;
    const float share[4] = {top - top * at.fx, top * at.fx, bottom - bottom * at.fx,
                            bottom * at.fx};
    const int first = (at.corner >> 4) * s.channels + slice * kSlice;
    if (p.grad_features && kAligned) {
#pragma unroll
      for (int e = 0; e < kElements; e += 4) {
        const int d = e * kChunks + my_chunk * 4;
        if (slice * kSlice + d >= s.channels) continue;
        Pack<float> g;
        g.bits = load16(row + d);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!(at.corner >> i & 1)) continue;
          const int cell = first + ((i >> 1) * s.width + (i & 1)) * s.channels;
          const float four[4] = {share[i] * g.element[0], share[i] * g.element[1],
                                 share[i] * g.element[2], share[i] * g.element[3]};
          atomic_add4(p.grad_features + (cell + d), four);
        }
      }
    } else if (p.grad_features || p.fixed_point) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const int d = e * kChunks + my_chunk;
        if (slice * kSlice + d >= s.channels) continue;
        const float g = row[d];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!(at.corner >> i & 1)) continue;
          const int cell = first + ((i >> 1) * s.width + (i & 1)) * s.channels + d;
          if (p.grad_features)
            atomicAdd(p.grad_features + cell, share[i] * g);
          else
            atomicAdd(
                reinterpret_cast<unsigned long long*>(p.fixed_point + cell),
                static_cast<unsigned long long>(static_cast<long long>(share[i] * g * units)));
        }
      }
    }
    if (slice != slices - 1) continue;

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
        target[(2 * k) * t.channel] =
            from_float<T>(at.scale * (left * (dot[2] - dot[0]) + at.fx * (dot[3] - dot[1])));
        target[(2 * k + 1) * t.channel] =
            from_float<T>(at.scale * (up * (dot[1] - dot[0]) + at.fy * (dot[3] - dot[2])));
      }
      if (p.grad_mask) {
        const Strides& t = p.grad_mask_strides;
        float value =
            up * (left * dot[0] + at.fx * dot[1]) + at.fy * (left * dot[2] + at.fx * dot[3]);
        if (f.sigmoid) value *= at.scale * (1.0f - at.scale);
        static_cast<T*>(p.grad_mask)[b * t.batch + k * t.channel + oy * t.row + ox * t.column] =
            from_float<T>(value);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dot[i] = 0.0f;
  }
  cp_async_wait<0>();
}

// The weight gradient's tile: kTilePixels of the reduction, kOutputs by 128 bytes of channels.
constexpr int kTilePixels = 32;
constexpr int kWideRow = 128;
constexpr int kPlacedTiles = kThreads / kTilePixels;  // at a time: every thread places one point

template <class T, Math kMath, int kOutputs>
struct WeightProduct {
  static constexpr int kChannels = kWideRow / static_cast<int>(sizeof(T));
  static constexpr int kWarpsM = kOutputs >= 128 ? 4 : 2, kWarpsN = 8 / kWarpsM;
  static constexpr int kTileM = kOutputs / kWarpsM, kTileN = kChannels / kWarpsN;
  static constexpr int kM = kTileM / 16, kN = kTileN / 8;
  static constexpr int kRow = kOutputs * static_cast<int>(sizeof(T));
  float sum[kM][kN][4] = {};

  // gradient: [kTilePixels][kOutputs], columns: [kTilePixels][kWideRow bytes], both wide.
  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* columns) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / kWarpsN * kTileM, n0 = warp % kWarpsN * kTileN;
    constexpr int kDepth = kMath == Math::kHalf ? 16 : 8;
#pragma unroll
    for (int k = 0; k < kTilePixels; k += kDepth) {
      uint32_t fb[kN][2];
      if constexpr (kMath == Math::kHalf) {
        const int row = k + (lane >> 3 & 1) * 8 + (lane & 7);
#pragma unroll
        for (int j = 0; j < kN; j += 2) {
          uint32_t r[4];
          ldmatrix_x4_trans(r, columns + swizzled_wide(row, n0 / 8 + j + (lane >> 4), kWideRow));
          fb[j][0] = r[0];
          fb[j][1] = r[1];
          fb[j + 1][0] = r[2];
          fb[j + 1][1] = r[3];
        }
      } else {
#pragma unroll
        for (int j = 0; j < kN; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            fb[j][e] = to_tf32(
                float_at(columns, k + (lane & 3) + e * 4, n0 + j * 8 + (lane >> 2), kWideRow));
      }
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        uint32_t fa[4];
        if constexpr (kMath == Math::kHalf) {
          ldmatrix_x4_trans(fa, gradient + swizzled_wide(k + (lane >> 4) * 8 + (lane & 7),
                                                         m0 / 8 + i * 2 + (lane >> 3 & 1), kRow));
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            fa[e] = to_tf32(float_at(gradient, k + (lane & 3) + (e >> 1) * 4,
                                     m0 + i * 16 + (lane >> 2) + (e & 1) * 8, kRow));
        }
#pragma unroll
        for (int j = 0; j < kN; ++j) {
          if constexpr (kMath == Math::kHalf)
            mma_16x8x16(sum[i][j], fa, fb[j], T{});
          else
            mma_16x8x8_tf32(sum[i][j], fa, fb[j]);
        }
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m = warp / kWarpsN * kTileM + (lane >> 2);
    const int n = warp % kWarpsN * kTileN + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) f(m + i * 16 + (e >> 1) * 8, n + j * 8 + (e & 1), sum[i][j][e]);
  }
};

template <int kOutputs>
struct WeightProduct<float, Math::kTf32x3, kOutputs> : WeightProduct<float, Math::kTf32, kOutputs> {
  using Tile = WeightProduct<float, Math::kTf32, kOutputs>;
  using Tile::kM, Tile::kN;

  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* columns) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m = warp / Tile::kWarpsN * Tile::kTileM + (lane >> 2);
    const int n = warp % Tile::kWarpsN * Tile::kTileN + (lane >> 2);
#pragma unroll 1
    for (int half = 0; half < kTilePixels; half += kTilePixels / 2) {
      SplitTf32<2> fb[2][kN];
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int j = 0; j < kN; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            fb[k][j].set(e,
                         float_at(columns, half + k * 8 + (lane & 3) + e * 4, n + j * 8, kWideRow));
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        Tf32x3Sum part[kN];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          SplitTf32<4> fa;
#pragma unroll
          for (int e = 0; e < 4; ++e)
            fa.set(e, float_at(gradient, half + k * 8 + (lane & 3) + (e >> 1) * 4,
                               m + i * 16 + (e & 1) * 8, Tile::kRow));
#pragma unroll
          for (int j = 0; j < kN; ++j) part[j].add(fa, fb[k][j]);
        }
#pragma unroll
        for (int j = 0; j < kN; ++j) part[j].flush(this->sum[i][j]);
      }
    }
  }
};

// By FFMA: a thread owns kOutputs / 32 outputs (every 32nd chunk of 4) and 4 channels.
template <int kOutputs>
struct WeightProduct<float, Math::kFloat, kOutputs> {
  static constexpr int kChannels = kWideRow / 4;
  static constexpr int kPerThread = kOutputs / 32;
  static constexpr int kRow = kOutputs * 4;
  float sum[kPerThread][4] = {};

  __device__ __forceinline__ void step(const unsigned char* gradient,
                                       const unsigned char* columns) {
    const int lane = threadIdx.x & 31, chunk = threadIdx.x >> 5;
#pragma unroll 4
    for (int k = 0; k < kTilePixels; ++k) {
      Pack<float> fb;
      fb.bits = load16(columns + swizzled_wide(k, chunk, kWideRow));
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const int o = lane + i * 32;
        const float a =
            *reinterpret_cast<const float*>(gradient + swizzled_wide(k, o / 4, kRow) + o % 4 * 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][e] = fmaf(a, fb.element[e], sum[i][e]);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    const int lane = threadIdx.x & 31, chunk = threadIdx.x >> 5;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) f(lane + i * 32, chunk * 4 + e, sum[i][e]);
  }
};

// Shared memory: two gradient tiles, two column tiles, placements of two groups of tiles.
template <class T, int kOutputs>
__host__ __device__ constexpr int weight_grad_shared_bytes() {
  return 2 * kTilePixels * (kOutputs * static_cast<int>(sizeof(T)) + kWideRow) +
         2 * kThreads * static_cast<int>(sizeof(Placement));
}

// Blocks of a multiprocessor that registers must be left for: two where that spills none.
template <Math kMath, int kOutputs>
constexpr int weight_grad_blocks() {
  return kMath == Math::kTf32x3 && kOutputs == 256 ? 1 : 2;
}

// Grid: (points * channel tiles, output tiles, splits).
template <class T, Math kMath, int kOutputs, bool kAligned>
__global__ void __launch_bounds__(kThreads, (weight_grad_blocks<kMath, kOutputs>()))
    weight_grad_kernel(DeformWeightGradParams p) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kChannels = kWideRow / static_cast<int>(sizeof(T));
  constexpr int kGradientRow = kOutputs * static_cast<int>(sizeof(T));
  constexpr int kRowChunks = kGradientRow / 16;
  unsigned char* gradients = shared;
  unsigned char* columns = gradients + 2 * kTilePixels * kGradientRow;
  Placement* placements = reinterpret_cast<Placement*>(columns + 2 * kTilePixels * kWideRow);

  const DeformForwardParams& f = p.forward;
  const DeformShape& s = f.shape;
  const int points = s.kernel_h * s.kernel_w, k = blockIdx.x % points;
  const int first_channel = blockIdx.x / points * kChannels, first_output = blockIdx.y * kOutputs;
  const int area = s.out_height * s.out_width, pixels = s.batch * area;
  const int tiles = (pixels + kTilePixels - 1) / kTilePixels;
  const int per_split = (tiles + p.splits - 1) / p.splits;
  const int begin = blockIdx.z * per_split;
  const int end = begin + per_split < tiles ? begin + per_split : tiles;

  // The tiles of a group, `done` after the block's first; the group before stays.
  auto place_group = [&](int done) {
    const int pixel = (begin + done) * kTilePixels + threadIdx.x, rest = pixel % area;
    placements[(done / kPlacedTiles & 1) * kThreads + threadIdx.x] =
        pixel < pixels ? place<T>(f, Cell{pixel / area, rest / s.out_width, rest % s.out_width}, k)
                       : Placement{};
  };
  const int my_output = first_output + threadIdx.x % kRowChunks * kElements;
  auto fetch_gradient = [&](int tile) {
    if (tile < end) {
      unsigned char* stage = gradients + ((tile - begin) & 1) * kTilePixels * kGradientRow;
#pragma unroll
      for (int row = threadIdx.x / kRowChunks; row < kTilePixels; row += kThreads / kRowChunks) {
        const int pixel = tile * kTilePixels + row;
        const T* from = static_cast<const T*>(p.grad_out) + (pixel * s.outputs + my_output);
        unsigned char* to = stage + swizzled_wide(row, threadIdx.x % kRowChunks, kGradientRow);
        if (kAligned) {
          const bool inside = pixel < pixels && my_output < s.outputs;
          cp_async16(to, inside ? static_cast<const void*>(from) : p.grad_out, inside ? 16 : 0);
        } else {
          Pack<T> pack;
#pragma unroll
          for (int e = 0; e < kElements; ++e)
            pack.element[e] =
                pixel < pixels && my_output + e < s.outputs ? from[e] : from_float<T>(0.0f);
          store16(to, pack.bits);
        }
      }
    }
    cp_async_commit();
  };
  const int my_pixel = threadIdx.x / (kWideRow / 16), my_chunk = threadIdx.x % (kWideRow / 16);
  Placement at;
  Vec16 corners[4];
  auto gather = [&](int done) {
    at = placements[done % (2 * kPlacedTiles) * kTilePixels + my_pixel];
    load_corners<T, kAligned>(corners, static_cast<const T*>(f.features), at, s,
                              first_channel + my_chunk * kElements);
  };

  WeightProduct<T, kMath, kOutputs> product;
  if (begin < end) {
    fetch_gradient(begin);
    place_group(0);
    __syncthreads();
    gather(0);
  }
  for (int tile = begin; tile < end; ++tile) {
    const int done = tile - begin;
    unsigned char* column = columns + (done & 1) * kTilePixels * kWideRow;
    store16(column + swizzled_wide(my_pixel, my_chunk, kWideRow),
            interpolate<T, kMath>(corners, at));
    if (done % kPlacedTiles == 0) place_group(done + kPlacedTiles);
    cp_async_wait<0>();
    __syncthreads();
    fetch_gradient(tile + 1);
    if (tile + 1 < end) gather(done + 1);
    product.step(gradients + (done & 1) * kTilePixels * kGradientRow, column);
  }
  float* partial =
      p.partial + (static_cast<long long>(blockIdx.z) * points + k) * s.outputs * s.channels;
  product.each([&](int output, int channel, float value) {
    const int o = first_output + output, c = first_channel + channel;
    if (o < s.outputs && c < s.channels)
      partial[static_cast<long long>(o) * s.channels + c] = value;
  });
}

// grad_weight [O, C, K] = sum over splits of partial [splits, K, O, C], in order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_weight_kernel(const float* partial, T* grad_weight, int splits, int points, int matrix) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= points * matrix) return;
  float sum = 0.0f;
  for (int split = 0; split < splits; ++split)
    sum += partial[static_cast<long long>(split) * points * matrix + i];
  grad_weight[static_cast<long long>(i % matrix) * points + i / matrix] = from_float<T>(sum);
}

// Column sums of [rows, columns] over rows blockIdx.y * per_block ...: partial [gridDim.y,
// columns].
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const T* matrix, float* partial, int rows, int columns, int per_block) {
  const int column = blockIdx.x * 32 + threadIdx.x % 32, lane_row = threadIdx.x / 32;
  GGNET_SHARED_ARRAY(float, sums, kThreads);
  float sum = 0.0f;
  const int begin = blockIdx.y * per_block;
  const int end = begin + per_block < rows ? begin + per_block : rows;
  if (column < columns)
    for (int row = begin + lane_row; row < end; row += kThreads / 32)
      sum += to_float(matrix[static_cast<long long>(row) * columns + column]);
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < 32 && column < columns) {
    for (int i = 1; i < kThreads / 32; ++i) sum += sums[i * 32 + threadIdx.x];
    partial[static_cast<long long>(blockIdx.y) * columns + column] = sum;
  }
}

// grad where the ReLU let its input pass; where out is NaN, the gradient passes as well.
template <class T>
__global__ void __launch_bounds__(kThreads)
    relu_grad_kernel(const T* grad, const T* out, T* masked, long long count) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) masked[i] = to_float(out[i]) <= 0.0f ? from_float<T>(0.0f) : grad[i];
}
template <class T>
void relu_grad(const T* grad, const T* out, T* masked, long long count, void* stream) {
  if (count == 0) return;
  GGNET_LAUNCH((relu_grad_kernel<T>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, grad, out, masked, count);
}

// largest[0] = bits of the largest |value|: non-negative floats order like their bits. NaN wins.
template <class T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(const T* values, long long count, unsigned* largest) {
  unsigned top = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<long long>(gridDim.x) * kThreads) {
    const unsigned bits = __float_as_uint(to_float(values[i])) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, top, o);
    top = other > top ? other : top;
  }
  if (threadIdx.x % 32 == 0) atomicMax(largest, top);
}

// largest[2], the mask's, is 1 where a sigmoid bounds it or there is none.
static __global__ void clear_largest_kernel(unsigned* largest, bool mask_is_scanned) {
  if (threadIdx.x < 2) largest[threadIdx.x] = 0;
  if (threadIdx.x == 2) largest[2] = mask_is_scanned ? 0 : __float_as_uint(1.0f);
}

// The unit of the fixed-point sums: largest |grad_out| * |weight| * |mask| times the number of
// terms fits into 62 bits of it. NaN if any factor is not finite.
static __global__ void fixed_point_unit_kernel(const unsigned* largest, float terms, float* unit) {
  const float bound = __uint_as_float(largest[0]) * __uint_as_float(largest[1]) *
                      __uint_as_float(largest[2]) * terms;
  // Not below 2^-126, whose reciprocal is still finite.
  *unit = bound > 0.0f    ? exp2f(fmaxf(ceilf(log2f(bound)) - 61.0f, -126.0f))
          : bound == 0.0f ? 1.0f
                          : bound;
}

// grad_features = accumulators, in the features' type.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_features_kernel(const float* sums, const long long* fixed_point, const float* unit,
                           T* grad_features, long long count) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  grad_features[i] = from_float<T>(
      fixed_point ? static_cast<float>(static_cast<double>(fixed_point[i]) * *unit) : sums[i]);
}

template <class T, Math kMath, int kOutputs>
void launch_backward(const DeformBackwardParams& p, void* stream) {
  const DeformShape& s = p.forward.shape;
  const int pixels = s.batch * s.out_height * s.out_width;
  if (pixels == 0) return;
  const dim3 grid((pixels + kPixels - 1) / kPixels);
  constexpr int bytes = backward_shared_bytes<T, kOutputs>();
  if (s.channels % (16 / sizeof(T)) == 0 && aligned16(p.forward.features))
    GGNET_LAUNCH((backward_kernel<T, kMath, kOutputs, true>), grid, dim3(kThreads), bytes, stream,
                 p);
  else
    GGNET_LAUNCH((backward_kernel<T, kMath, kOutputs, false>), grid, dim3(kThreads), bytes, stream,
                 p);
}

template <class T, Math kMath, int kOutputs>
void launch_weight_grad(const DeformWeightGradParams& p, void* stream) {
  const DeformShape& s = p.forward.shape;
  constexpr int kChannels = kWideRow / static_cast<int>(sizeof(T));
  const dim3 grid(s.kernel_h * s.kernel_w * ((s.channels + kChannels - 1) / kChannels),
                  (s.outputs + kOutputs - 1) / kOutputs, p.splits);
  constexpr int bytes = weight_grad_shared_bytes<T, kOutputs>();
  constexpr int kElements = 16 / sizeof(T);
  if (s.channels % kElements == 0 && s.outputs % kElements == 0 && aligned16(p.forward.features) &&
      aligned16(p.grad_out))
    GGNET_LAUNCH((weight_grad_kernel<T, kMath, kOutputs, true>), grid, dim3(kThreads), bytes,
                 stream, p);
  else
    GGNET_LAUNCH((weight_grad_kernel<T, kMath, kOutputs, false>), grid, dim3(kThreads), bytes,
                 stream, p);
}

// Blocks that share the pixels: enough to fill a large device, the same on every device.
inline int weight_grad_splits(const DeformShape& s, int element_bytes) {
  constexpr long long kBlocks = 1024;  // four rounds of two on each of 132 multiprocessors
  const long long blocks = static_cast<long long>(s.kernel_h) * s.kernel_w *
                           ((s.channels * element_bytes + kWideRow - 1) / kWideRow);
  const long long tiles =
      (static_cast<long long>(s.batch) * s.out_height * s.out_width + kTilePixels - 1) /
      kTilePixels;
  const long long wanted = blocks < kBlocks ? kBlocks / blocks : 1;
  return static_cast<int>(wanted < tiles ? wanted : tiles > 0 ? tiles : 1);
}

template <class T>
int backward_tile(const DeformShape& s) {
  return outputs_tile(s.outputs, [](int tile) {
    return with_tile(tile, [](auto n) { return backward_shared_bytes<T, n()>(); });
  });
}

// The weight is packed for backward_tile.
template <class T, Math kMath>
void backward(const DeformBackwardParams& p, void* stream) {
  with_tile(backward_tile<T>(p.forward.shape),
            [&](auto n) { launch_backward<T, kMath, n()>(p, stream); });
}
template <class T, Math kMath>
void weight_grad(const DeformWeightGradParams& p, void* stream) {
  const int tile = outputs_tile(p.forward.shape.outputs, [](int tile) {
    return with_tile(tile, [](auto n) { return weight_grad_shared_bytes<T, n()>(); });
  });
  with_tile(tile, [&](auto n) { launch_weight_grad<T, kMath, n()>(p, stream); });
}

// grad_weight in `out` from the partial sums of weight_grad.
template <class T>
void reduce_weight(const DeformWeightGradParams& p, T* out, void* stream) {
  const DeformShape& s = p.forward.shape;
  const int points = s.kernel_h * s.kernel_w, matrix = s.outputs * s.channels;
  if (points * matrix == 0) return;
  GGNET_LAUNCH((reduce_weight_kernel<T>), dim3((points * matrix + kThreads - 1) / kThreads),
               dim3(kThreads), 0, stream, p.partial, out, p.splits, points, matrix);
}

// The bias gradient sums the output gradient over pixels: kBiasRows at a time, then the partial
// sums, both in a fixed order.
constexpr int kBiasRows = 1024;
inline int bias_blocks(const DeformShape& s) {
  const int pixels = s.batch * s.out_height * s.out_width;
  return (pixels + kBiasRows - 1) / kBiasRows;
}
inline long long bias_partial_size(const DeformShape& s) {
  return static_cast<long long>(bias_blocks(s)) * s.outputs;
}
template <class T>
void bias_grad(const DeformShape& s, const T* grad_out, float* partial, T* out, void* stream) {
  const int blocks = bias_blocks(s), pixels = s.batch * s.out_height * s.out_width;
  if (s.outputs == 0) return;
  if (blocks > 0)
    GGNET_LAUNCH((column_sums_kernel<T>), dim3((s.outputs + 31) / 32, blocks), dim3(kThreads), 0,
                 stream, grad_out, partial, pixels, s.outputs, kBiasRows);
  // One point and one column a weight: the same fixed-order sum.
  GGNET_LAUNCH((reduce_weight_kernel<T>), dim3((s.outputs + kThreads - 1) / kThreads),
               dim3(kThreads), 0, stream, partial, out, blocks, 1, s.outputs);
}

// Sets *unit for DeformBackwardParams::fixed_point; `largest` is scratch of three words.
template <class T>
void fixed_point_unit(const DeformForwardParams& f, const T* grad_out, const T* weight, float* unit,
                      void* stream, unsigned* largest) {
  const DeformShape& s = f.shape;
  const long long points = s.kernel_h * s.kernel_w;
  const long long area = static_cast<long long>(s.out_height) * s.out_width;
  GGNET_LAUNCH(clear_largest_kernel, dim3(1), dim3(32), 0, stream, largest, f.mask && !f.sigmoid);
  auto scan = [&](const T* values, long long count, unsigned* result) {
    const long long blocks = (count + kThreads - 1) / kThreads;
    if (count > 0)
      GGNET_LAUNCH((largest_kernel<T>), dim3(static_cast<unsigned>(blocks < 512 ? blocks : 512)),
                   dim3(kThreads), 0, stream, values, count, result);
  };
  scan(grad_out, s.batch * area * s.outputs, largest);
  scan(weight, static_cast<long long>(s.outputs) * s.channels * points, largest + 1);
  if (f.mask && !f.sigmoid)
    scan(static_cast<const T*>(f.mask), s.batch * area * points, largest + 2);
  GGNET_LAUNCH(fixed_point_unit_kernel, dim3(1), dim3(1), 0, stream, largest,
               static_cast<float>(area * points * s.outputs), unit);
}

template <class T>
void finish_features(const float* sums, const long long* fixed_point, const float* unit, T* out,
                     long long count, void* stream) {
  if (count == 0) return;
  GGNET_LAUNCH((finish_features_kernel<T>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, sums, fixed_point, unit, out, count);
}

}  // namespace deform
}  // namespace ggnet

// Modulated deformable convolution on the device, forward: one implicit GEMM.
//
// out[p, o] = act(bias[o] + sum_{k, c} weight[o, c, k] * m[p, k] * features(p's point k)[c])
//
// A block computes kPixels output pixels for kOutputs outputs. It places all points of its pixels
// once (sigmoid, offset sum, corner and fractions, in shared memory), then walks the reduction in
// steps of 64 bytes of channels: outer loop over channel slices, inner over points, so that the
// block's features of one slice stay in L1 while all K points read them. In each step every thread
// gathers 16 bytes of one sample with 128-bit loads, interpolates in float32 and stores the sample
// into swizzled shared memory; weights arrive through cp.async, kStages deep; the tensor cores (or
// FFMA for float32 without them) multiply. Columns never exist in global memory, and a sample is
// gathered once for kOutputs outputs.
//
// Everything that depends on the element type is in bytes: a row of a tile is 64 bytes, 32 halves
// or 16 floats, and ldmatrix moves 32-bit elements as well as pairs of 16-bit ones.
#pragma once

#include "common/device.h"

namespace ggnet {

struct DeformShape {
  int batch, channels, height, width;  // of the features
  int outputs, out_height, out_width;
  int kernel_h, kernel_w;  // points = kernel_h * kernel_w
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// Element strides of a (B, channels, H, W) tensor in any layout.
struct Strides {
  long long batch, channel, row, column;
};

struct DeformForwardParams {
  DeformShape shape;
  const void* features;     // [B, H, W, C]
  const void* offset;       // [B, 2K, h, w]: (dy, dx) of each point
  const void* base_offset;  // [B, 2K, h, w], added to offset; or null
  const void* mask;         // [B, K, h, w]: weights of the points, logits if sigmoid; or null (1)
  Strides offset_strides, base_strides, mask_strides;
  const void* weight;  // [slices of channels, K, padded O, slice] as pack_weight writes it
  const void* bias;    // [O] or null
  void* out;           // [B, h, w, O]
  bool sigmoid, relu;
};

namespace deform {

constexpr int kPixels = 64;
constexpr int kThreads = 256;
constexpr int kBand = 4;       // rows
constexpr int kRowBytes = 64;  // of a tile row: the channels of a step
constexpr int kChunks = kRowBytes / 16;
constexpr int kStages = 3;  // of the weight pipeline

// kTf32x3: float32's accuracy from three products in TF32, where there are tensor cores; kFloat:
// plain FFMA.
enum class Math { kHalf, kTf32, kFloat, kTf32x3 };

template <class T>
__host__ __device__ constexpr int slice() {
  return kRowBytes / static_cast<int>(sizeof(T));
}
__host__ __device__ inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Where 16-byte chunk `chunk` of row `row` lies in a tile: any eight consecutive rows of one chunk
// fall into different banks, as ldmatrix and the transposed reads want.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row >> 1 & 3)) << 4);
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

// What `place` reads of a point.
template <class T>
struct RawPoint {
  T dy, dx, base_dy, base_dx, mask;
};
template <class T>
__device__ __forceinline__ RawPoint<T> read_point(const DeformForwardParams& p, const Cell& cell,
                                                  int k) {
  const auto [batch, oy, ox] = cell;
  const T* offset = static_cast<const T*>(p.offset) + batch * p.offset_strides.batch +
                    oy * p.offset_strides.row + ox * p.offset_strides.column;
  const T zero = from_float<T>(0.0f);
  RawPoint<T> raw{offset[(2 * k) * p.offset_strides.channel],
                  offset[(2 * k + 1) * p.offset_strides.channel], zero, zero, zero};
  if (p.base_offset) {
    const T* base = static_cast<const T*>(p.base_offset) + batch * p.base_strides.batch +
                    oy * p.base_strides.row + ox * p.base_strides.column;
    raw.base_dy = base[(2 * k) * p.base_strides.channel];
    raw.base_dx = base[(2 * k + 1) * p.base_strides.channel];
  }
  if (p.mask)
    raw.mask =
        static_cast<const T*>(p.mask)[batch * p.mask_strides.batch + k * p.mask_strides.channel +
                                      oy * p.mask_strides.row + ox * p.mask_strides.column];
  return raw;
}

// Bits 0 to 3: corners (y, x), (y, x+1), (y+1, x), (y+1, x+1). iy, ix: y and x.
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
__device__ Placement place(const DeformForwardParams& p, const Cell& cell, int k) {
  int iy, ix;
  return place<T>(p, cell, k, read_point<T>(p, cell, k), iy, ix);
}

// The 16 bytes at channel c of the four corners; zero outside the image and beyond the channels.
template <class T, bool kAligned>
__device__ __forceinline__ void load_corners(Vec16 (&corner)[4], const T* features,
                                             const Placement& at, const DeformShape& s, int c) {
  constexpr int kElements = 16 / sizeof(T);
  const int first = (at.corner >> 4) * s.channels + c, row = s.width * s.channels;
  const int inside = c < s.channels ? at.corner : 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* source = features + (first + (i >> 1) * row + (i & 1) * s.channels);
    if (kAligned) {
      corner[i] = inside >> i & 1 ? load16(source) : Vec16{};
    } else {
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        pack.element[e] = (inside >> i & 1) && c + e < s.channels ? source[e] : from_float<T>(0.f);
      corner[i] = pack.bits;
    }
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

// The block's share of the product: kOutputs x kPixels, 8 warps.
template <class T, Math kMath, int kOutputs>
struct Product {
  static constexpr int kWarpsN = kOutputs >= 128 ? 4 : 2;
  static constexpr int kWarpsM = 8 / kWarpsN;
  static constexpr int kTileM = kPixels / kWarpsM, kTileN = kOutputs / kWarpsN;
  static constexpr int kM = kTileM / 16, kN = kTileN / 8;
  float sum[kM][kN][4] = {};

  // a: [kPixels][64 bytes], b: [kOutputs][64 bytes], both swizzled, reduction along the row.
  __device__ __forceinline__ void step(const unsigned char* a, const unsigned char* b) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / kWarpsN * kTileM, n0 = warp % kWarpsN * kTileN;
    // Eight rows further down the swizzle is the same; the other half of a row is two chunks away.
    const int a0 = swizzled(m0 + (lane & 15), lane >> 4);
    const int b0 = swizzled(n0 + (lane >> 4) * 8 + (lane & 7), lane >> 3 & 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // 32 bytes: k16 of halves, k8 of tf32
      uint32_t fa[kM][4];
#pragma unroll
      for (int i = 0; i < kM; ++i) ldmatrix_x4(fa[i], a + (a0 ^ half * 32) + i * 16 * kRowBytes);
#pragma unroll
      for (int j = 0; j < kN; j += 2) {
        uint32_t fb[4];
        ldmatrix_x4(fb, b + (b0 ^ half * 32) + j * 8 * kRowBytes);
        const uint32_t first[2] = {fb[0], fb[1]}, second[2] = {fb[2], fb[3]};
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          if constexpr (kMath == Math::kHalf) {
            mma_16x8x16(sum[i][j], fa[i], first, T{});
            mma_16x8x16(sum[i][j + 1], fa[i], second, T{});
          } else {
            mma_16x8x8_tf32(sum[i][j], fa[i], first);
            mma_16x8x8_tf32(sum[i][j + 1], fa[i], second);
          }
        }
      }
    }
  }
  // f(pixel, output, value) for every element that this thread holds.
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / kWarpsN * kTileM + (lane >> 2);
    const int n0 = warp % kWarpsN * kTileN + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(m0 + i * 16 + (e >> 1) * 8, n0 + j * 8 + (e & 1), sum[i][j][e]);
  }
};

template <int kOutputs>
struct Product<float, Math::kTf32x3, kOutputs> : Product<float, Math::kTf32, kOutputs> {
  using Tile = Product<float, Math::kTf32, kOutputs>;
  using Tile::kM, Tile::kN;

  __device__ __forceinline__ void step(const unsigned char* a, const unsigned char* b) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = warp / Tile::kWarpsN * Tile::kTileM, n0 = warp % Tile::kWarpsN * Tile::kTileN;
    const int a0 = swizzled(m0 + (lane & 15), lane >> 4);
    const int b0 = swizzled(n0 + (lane >> 4) * 8 + (lane & 7), lane >> 3 & 1);
    SplitTf32<4> fa[2][kM];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        uint32_t r[4];
        ldmatrix_x4(r, a + (a0 ^ half * 32) + i * 16 * kRowBytes);
#pragma unroll
        for (int e = 0; e < 4; ++e) fa[half][i].set(e, __uint_as_float(r[e]));
      }
#pragma unroll
    for (int j = 0; j < kN; j += 2) {
      SplitTf32<2> fb[2][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t r[4];
        ldmatrix_x4(r, b + (b0 ^ half * 32) + j * 8 * kRowBytes);
#pragma unroll
        for (int e = 0; e < 4; ++e) fb[half][e >> 1].set(e & 1, __uint_as_float(r[e]));
      }
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          Tf32x3Sum part;
#pragma unroll
          for (int half = 0; half < 2; ++half) part.add(fa[half][i], fb[half][e]);
          part.flush(this->sum[i][j + e]);
        }
    }
  }
};

// By FFMA: a thread owns 8 pixels (its warp's) and every 32nd output.
template <int kOutputs>
struct Product<float, Math::kFloat, kOutputs> {
  static constexpr int kN = kOutputs / 32;
  float sum[8][kN] = {};

  __device__ __forceinline__ void step(const unsigned char* a, const unsigned char* b) {
    const int lane = threadIdx.x & 31, m0 = (threadIdx.x >> 5) * 8;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      Pack<float> fa[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) fa[i].bits = load16(a + swizzled(m0 + i, chunk));
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        Pack<float> fb;
        fb.bits = load16(b + swizzled(lane + j * 32, chunk));
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][j] = fmaf(fa[i].element[e], fb.element[e], sum[i][j]);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    const int lane = threadIdx.x & 31, m0 = (threadIdx.x >> 5) * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kN; ++j) f(m0 + i, lane + j * 32, sum[i][j]);
  }
};

// Shared memory of the forward kernel, in order: weight stages, two sample tiles, placements.
template <int kOutputs>
__host__ __device__ constexpr int weight_stage_bytes() {
  return kOutputs * kRowBytes;
}
template <class T, int kOutputs>
__host__ __device__ inline int forward_shared_bytes(int points) {
  const int pipeline = kStages * weight_stage_bytes<kOutputs>() + 2 * kPixels * kRowBytes +
                       points * kPixels * static_cast<int>(sizeof(Placement));
  const int result = kPixels * kOutputs * static_cast<int>(sizeof(T));  // reuses the same memory
  return pipeline > result ? pipeline : result;
}

// Blocks of a multiprocessor that registers must be left for: two where that spills none.
template <Math kMath, int kOutputs, bool kAligned>
constexpr int forward_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if (kMath == Math::kTf32 && kOutputs == 256 && !kAligned) return 1;
  if (kMath == Math::kFloat && kOutputs == 128) return 1;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (kMath == Math::kTf32x3 && kOutputs == 128) return 1;
#endif
  return (kMath == Math::kFloat || kMath == Math::kTf32x3) && kOutputs == 256 ? 1 : 2;
}

template <class T, Math kMath, int kOutputs, bool kAligned>
__global__ void __launch_bounds__(kThreads, (forward_blocks<kMath, kOutputs, kAligned>()))
    forward_kernel(DeformForwardParams p) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kStageBytes = weight_stage_bytes<kOutputs>();
  unsigned char* weights = shared;
  unsigned char* samples = weights + kStages * kStageBytes;
  Placement* placements = reinterpret_cast<Placement*>(samples + 2 * kPixels * kRowBytes);

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int pixels = s.batch * s.out_height * s.out_width;
  const int first_pixel = blockIdx.x * kPixels, first_output = blockIdx.y * kOutputs;
  const int padded_outputs = round_up(s.outputs, kOutputs);
  const int padded_channels = round_up(s.channels, slice<T>());
  const int steps = padded_channels / slice<T>() * points;

  for (int i = threadIdx.x; i < points * kPixels; i += kThreads) {
    const int pixel = first_pixel + i % kPixels, k = i / kPixels;
    placements[i] = pixel < pixels ? place<T>(p, cell_in_bands(s, pixel), k) : Placement{};
  }

  // Everything below walks by adding: a step has no time for divisions.
  const int my_row = threadIdx.x / kChunks, my_chunk = threadIdx.x % kChunks;
  const int my_slot = swizzled(my_row, my_chunk);  // and the same kPixels rows further down
  const unsigned char* source = static_cast<const unsigned char*>(p.weight) +
                                static_cast<long long>(first_output) * kRowBytes + threadIdx.x * 16;
  int to_fetch = steps, fetch_stage = 0;
  auto next_stage = [](int stage) {
    return stage == (kStages - 1) * kStageBytes ? 0 : stage + kStageBytes;
  };
  auto fetch_weights = [&] {
    if (to_fetch-- > 0) {
#pragma unroll
      for (int i = 0; i < kOutputs * kChunks / kThreads; ++i)
        cp_async16(weights + fetch_stage + my_slot + i * kPixels * kRowBytes,
                   source + i * kThreads * 16);
      source += static_cast<long long>(padded_outputs) * kRowBytes;
      fetch_stage = next_stage(fetch_stage);
    }
    cp_async_commit();  // an empty group at the end keeps the count
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) fetch_weights();
  __syncthreads();  // placements

  // Each thread gathers one chunk of one pixel's sample.
  int next_point = 0, next_channel = my_chunk * kElements;
  Placement at;
  Vec16 corners[4];
  auto gather = [&] {
    at = placements[next_point * kPixels + my_row];
    load_corners<T, kAligned>(corners, static_cast<const T*>(p.features), at, s, next_channel);
    if (++next_point == points) {
      next_point = 0;
      next_channel += slice<T>();
    }
  };
  gather();

  Product<T, kMath, kOutputs> product;
  int stage = 0;
  for (int step = 0; step < steps; ++step) {
    unsigned char* tile = samples + (step & 1) * kPixels * kRowBytes;
    store16(tile + my_slot, interpolate<T, kMath>(corners, at));
    cp_async_wait<kStages - 2>();
    // Orders: this step's samples and weights before the product; everybody's previous product
    // before the buffers it read are written again below and in the next turn.
    __syncthreads();
    fetch_weights();
    if (step + 1 < steps) gather();  // in flight during the product
    product.step(tile, weights + stage);
    stage = next_stage(stage);
  }

  // Through shared memory, so that rows leave in 128-bit stores.
  cp_async_wait<0>();
  __syncthreads();
  const T* bias = static_cast<const T*>(p.bias);
  // 16-byte chunks of a row are rotated by the row: the fragments' writes then spread over banks.
  constexpr int kRowChunks = kOutputs / kElements;
  auto slot = [&](int pixel, int output) {
    const int chunk = (output / kElements + pixel) % kRowChunks;
    return (pixel * kRowChunks + chunk) * 16 + output % kElements * static_cast<int>(sizeof(T));
  };
  product.each([&](int pixel, int output, float value) {
    const int o = first_output + output;
    if (bias && o < s.outputs) value += to_float(bias[o]);
    if (p.relu) value = value > 0.0f ? value : (value == value ? 0.0f : value);  // NaN stays
    *reinterpret_cast<T*>(shared + slot(pixel, output)) = from_float<T>(value);
  });
  __syncthreads();
  T* out = static_cast<T*>(p.out);
  for (int i = threadIdx.x; i < kPixels * kRowChunks; i += kThreads) {
    const int pixel = i / kRowChunks, output = i % kRowChunks * kElements;
    if (first_pixel + pixel >= pixels || first_output + output >= s.outputs) continue;
    T* target = out + row_of(s, first_pixel + pixel) * s.outputs + first_output + output;
    Pack<T> row;
    row.bits = load16(shared + slot(pixel, output));
    if (s.outputs % kElements == 0) {
      store16(target, row.bits);
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        if (first_output + output + e < s.outputs) target[e] = row.element[e];
    }
  }
}

// weight [O, C, K] -> packed [slices, K, padded O, slice of channels]: what a step wants lies
// together. Zeros in the padding. One thread an element.
template <class T, Math kMath>
__global__ void __launch_bounds__(kThreads)
    pack_weight_kernel(const T* weight, T* packed, int outputs, int channels, int points,
                       int padded_outputs, int padded_channels) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  const int tile = padded_outputs * slice<T>();  // of a point and a slice
  if (i >= static_cast<long long>(tile) * points * (padded_channels / slice<T>())) return;
  const int o = static_cast<int>(i % tile / slice<T>()), k = static_cast<int>(i / tile % points);
  const int c = static_cast<int>(i / tile / points * slice<T>() + i % slice<T>());
  float value = 0.0f;
  if (o < outputs && c < channels)
    value = to_float(weight[(static_cast<long long>(o) * channels + c) * points + k]);
  if (kMath == Math::kTf32) value = __uint_as_float(to_tf32(value));
  packed[i] = from_float<T>(value);
}

// Outputs of a block, 64, 128 or 256: as many as there are, so that no sample is gathered twice,
// and as few as the device's shared memory wants; bytes(tile) says how much of it a tile takes.
template <class F>
int outputs_tile(int outputs, F bytes) {
  const int limit = shared_memory_limit();
  int tile = outputs <= 64 ? 64 : outputs <= 128 ? 128 : 256;
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
int forward_tile(const DeformShape& s) {
  return outputs_tile(s.outputs, [&](int tile) {
    return with_tile(tile,
                     [&](auto n) { return forward_shared_bytes<T, n()>(s.kernel_h * s.kernel_w); });
  });
}

// Elements that the weight needs, packed for a tile of outputs.
template <class T>
long long packed_weight_size(const DeformShape& s, int tile) {
  return static_cast<long long>(s.kernel_h) * s.kernel_w * round_up(s.outputs, tile) *
         round_up(s.channels, slice<T>());
}

template <class T, Math kMath>
void pack_weight(const DeformShape& s, int tile, const void* weight, void* packed, void* stream) {
  const int points = s.kernel_h * s.kernel_w;
  const long long count = packed_weight_size<T>(s, tile);
  GGNET_LAUNCH((pack_weight_kernel<T, kMath>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, static_cast<const T*>(weight), static_cast<T*>(packed), s.outputs,
               s.channels, points, round_up(s.outputs, tile), round_up(s.channels, slice<T>()));
}

template <class T, Math kMath, int kOutputs>
void launch_forward(const DeformForwardParams& p, void* stream) {
  const DeformShape& s = p.shape;
  const int pixels = s.batch * s.out_height * s.out_width;
  if (pixels == 0 || s.outputs == 0) return;
  const dim3 grid((pixels + kPixels - 1) / kPixels, (s.outputs + kOutputs - 1) / kOutputs);
  const int bytes = forward_shared_bytes<T, kOutputs>(s.kernel_h * s.kernel_w);
  const bool aligned = s.channels % (16 / sizeof(T)) == 0 && aligned16(p.features);
  if (aligned)
    GGNET_LAUNCH((forward_kernel<T, kMath, kOutputs, true>), grid, dim3(kThreads), bytes, stream,
                 p);
  else
    GGNET_LAUNCH((forward_kernel<T, kMath, kOutputs, false>), grid, dim3(kThreads), bytes, stream,
                 p);
}

// The weight is packed for forward_tile.
template <class T, Math kMath>
void forward(const DeformForwardParams& p, void* stream) {
  with_tile(forward_tile<T>(p.shape), [&](auto n) { launch_forward<T, kMath, n()>(p, stream); });
}

}  // namespace deform
}  // namespace ggnet

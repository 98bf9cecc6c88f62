// The weight gradient on the device.
//
// grad_weight[o, c, k] = sum_p grad_out[p, o] columns[p, k, c]: a block owns one point and a slice
// of channels for all outputs of their group, so every sample is gathered once; pixels are split
// over a fixed number of blocks whose partial sums a second kernel adds in a fixed order.
#pragma once

#include "actpoint/actpoint.cuh"

namespace ggnet::deform {

// The tile: kTilePixels of the reduction, kOutputs by 128 bytes of channels.
constexpr int kTilePixels = 32;
constexpr int kWideRow = 128;
constexpr int kPlacedTiles = kThreads / kTilePixels;  // at a time: every thread places one point

__device__ __forceinline__ float float_at(const unsigned char* tile, int row, int column,
                                          int row_bytes) {
  return *reinterpret_cast<const float*>(tile + swizzled_wide(row, column / 4, row_bytes) +
                                         column % 4 * 4);
}

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
    weight_grad_kernel(DeformWeightGradParams p, Division d) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kChannels = kWideRow / static_cast<int>(sizeof(T));
  constexpr int kGradientRow = kOutputs * static_cast<int>(sizeof(T));
  constexpr int kRowChunks = kGradientRow / 16;
  unsigned char* gradients = shared;
  unsigned char* columns = gradients + 2 * kTilePixels * kGradientRow;
  Placement* placements = reinterpret_cast<Placement*>(columns + 2 * kTilePixels * kWideRow);

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  struct Block {
    int k, section, first_channel, group;  // section: its first channel
  };
  auto block = [&](int number) -> Block {
    const int tiles_of_section = (d.section + kChannels - 1) / kChannels;
    const int tile = number / points, section = tile / tiles_of_section * d.section;
    return {number % points, section, section + tile % tiles_of_section * kChannels,
            section / d.group};
  };
  const auto [k, section, first_channel, group] = block(blockIdx.x);
  const int point = section / d.offset_group * points + k;
  const int area = s.out_height * s.out_width, pixels = s.batch * area;
  const int tiles = (pixels + kTilePixels - 1) / kTilePixels;
  const int per_split = (tiles + p.splits - 1) / p.splits;
  const int begin = blockIdx.z * per_split;
  const int end = begin + per_split < tiles ? begin + per_split : tiles;

  // Of kPlacedTiles tiles, `done` after the block's first; those before stay.
  auto place_tiles = [&](int done) {
    const int pixel = (begin + done) * kTilePixels + threadIdx.x, rest = pixel % area;
    placements[(done / kPlacedTiles & 1) * kThreads + threadIdx.x] =
        pixel < pixels
            ? place<T>(p, Cell{pixel / area, rest / s.out_width, rest % s.out_width}, k, point)
            : Placement{};
  };
  // Beyond the group's outputs is beyond all.
  int my_output = blockIdx.y * kOutputs + threadIdx.x % kRowChunks * kElements;
  my_output = my_output < d.outputs ? group * d.outputs + my_output : s.outputs;
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
            pack.element[e] = pixel < pixels && my_output + e < (group + 1) * d.outputs
                                  ? from[e]
                                  : from_float<T>(0.0f);
          store16(to, pack.bits);
        }
      }
    }
    cp_async_commit();
  };
  const int my_pixel = threadIdx.x / (kWideRow / 16), my_chunk = threadIdx.x % (kWideRow / 16);
  int my_channel = first_channel + my_chunk * kElements;
  if (my_channel >= section + d.section) my_channel = s.channels;
  Placement at;
  Vec16 corners[4];
  auto gather = [&](int done) {
    at = placements[done % (2 * kPlacedTiles) * kTilePixels + my_pixel];
    load_corners<T, kAligned>(corners, static_cast<const T*>(p.features), at, s, my_channel,
                              kAligned ? s.channels : section + d.section);
  };

  WeightProduct<T, kMath, kOutputs> product;
  if (begin < end) {
    fetch_gradient(begin);
    place_tiles(0);
    __syncthreads();
    gather(0);
  }
  for (int tile = begin; tile < end; ++tile) {
    const int done = tile - begin;
    unsigned char* column = columns + (done & 1) * kTilePixels * kWideRow;
    store16(column + swizzled_wide(my_pixel, my_chunk, kWideRow),
            interpolate<T, kMath>(corners, at));
    if (done % kPlacedTiles == 0) place_tiles(done + kPlacedTiles);
    cp_async_wait<0>();
    __syncthreads();
    fetch_gradient(tile + 1);
    if (tile + 1 < end) gather(done + 1);
    product.step(gradients + (done & 1) * kTilePixels * kGradientRow, column);
  }
  const Block done = block(block_x_anew());  // not kept in registers during the loop
  float* partial =
      p.weight_sums + ((static_cast<long long>(blockIdx.z) * points + done.k) * s.outputs +
                       done.group * d.outputs) *
                          d.group;
  product.each([&](int output, int channel, float value) {
    const int o = blockIdx.y * kOutputs + output, c = done.first_channel + channel;
    if (o < d.outputs && c < done.section + d.section)
      partial[static_cast<long long>(o) * d.group + (c - done.group * d.group)] = value;
  });
}

// grad_weight [O, C / groups, K] = sum over splits of partial [splits, K, O, C / groups], in order.
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

inline int weight_grad_channel_tiles(const Division& d, int channels, int element_bytes) {
  return channels / d.section * ((d.section * element_bytes + kWideRow - 1) / kWideRow);
}

template <class T, Math kMath, int kOutputs>
void launch_weight_grad(const DeformWeightGradParams& p, void* stream) {
  const DeformShape& s = p.shape;
  const Division d = division_of(s);
  const dim3 grid(s.kernel_h * s.kernel_w * weight_grad_channel_tiles(d, s.channels, sizeof(T)),
                  (d.outputs + kOutputs - 1) / kOutputs, p.splits);
  constexpr int bytes = weight_grad_shared_bytes<T, kOutputs>();
  constexpr int kElements = 16 / sizeof(T);
  if (features_aligned<T>(p, d) && d.outputs % kElements == 0 && aligned16(p.grad_out))
    GGNET_LAUNCH((weight_grad_kernel<T, kMath, kOutputs, true>), grid, dim3(kThreads), bytes,
                 stream, p, d);
  else
    GGNET_LAUNCH((weight_grad_kernel<T, kMath, kOutputs, false>), grid, dim3(kThreads), bytes,
                 stream, p, d);
}

// Blocks that share the pixels: enough to fill a large device, the same on every device.
inline int weight_grad_splits(const DeformShape& s, int element_bytes) {
  constexpr long long kBlocks = 1024;  // four rounds of two on each of 132 multiprocessors
  const long long blocks = static_cast<long long>(s.kernel_h) * s.kernel_w *
                           weight_grad_channel_tiles(division_of(s), s.channels, element_bytes);
  const long long tiles =
      (static_cast<long long>(s.batch) * s.out_height * s.out_width + kTilePixels - 1) /
      kTilePixels;
  const long long wanted = blocks < kBlocks ? kBlocks / blocks : 1;
  return static_cast<int>(wanted < tiles ? wanted : tiles > 0 ? tiles : 1);
}

template <class T, Math kMath>
void weight_grad(const DeformWeightGradParams& p, void* stream) {
  const int tile = outputs_tile(division_of(p.shape).outputs, [](int tile) {
    return with_tile(tile, [](auto n) { return weight_grad_shared_bytes<T, n()>(); });
  });
  with_tile(tile, [&](auto n) { launch_weight_grad<T, kMath, n()>(p, stream); });
}

// grad_weight in `out` from the partial sums of weight_grad.
template <class T>
void reduce_weight(const DeformWeightGradParams& p, T* out, void* stream) {
  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w, matrix = s.outputs * (s.channels / s.groups);
  if (points * matrix == 0) return;
  GGNET_LAUNCH((reduce_weight_kernel<T>), dim3((points * matrix + kThreads - 1) / kThreads),
               dim3(kThreads), 0, stream, p.weight_sums, out, p.splits, points, matrix);
}

}  // namespace ggnet::deform

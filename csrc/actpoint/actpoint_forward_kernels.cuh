// Modulated deformable convolution on the device, forward: one implicit GEMM.
//
// out[p, o] = act(bias[o] + sum_{k, c} weight[o, c, k] * m[p, k] * features(p's point k)[c])
//
// A block computes kPixels output pixels for kOutputs outputs of one weight group. For each section
// of the group's channels (one, unless there are more offset groups than weight groups) it places
// all points of its pixels (sigmoid, offset sum, corner and fractions, in shared memory), then
// walks the reduction in steps of 64 bytes of channels: outer loop over channel slices, inner over
// points, so that the block's features of one slice stay in L1 while all K points read them. In
// each step every thread gathers 16 bytes of one sample with 128-bit loads, interpolates in float32
// and stores the sample into swizzled shared memory; weights arrive through cp.async, kStages deep;
// the tensor cores (or FFMA for float32 without them) multiply. Columns never exist in global
// memory, and a sample is gathered once for kOutputs outputs.
#pragma once

#include <algorithm>

#include "actpoint/actpoint.cuh"

namespace ggnet::deform {

constexpr int kStages = 3;  // of the weight pipeline

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
template <class T, int kOutputs>
__host__ __device__ inline int forward_shared_bytes(int points) {
  const int pipeline = kStages * weight_stage_bytes<kOutputs>() + 2 * kPixels * kRowBytes +
                       points * kPixels * static_cast<int>(sizeof(Placement));
  const int result = kPixels * kOutputs * static_cast<int>(sizeof(T));  // reuses the same memory
  return pipeline > result ? pipeline : result;
}

// Blocks of a multiprocessor that registers must be left for: two where that spills none.
template <Math kMath, int kOutputs, bool kAligned, bool kSections>
constexpr int forward_blocks() {
  if (kMath == Math::kTf32x3 && kOutputs == 128 && kSections) return 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if (kMath == Math::kTf32 && kOutputs == 256 && !kAligned) return 1;
  if (kMath == Math::kFloat && kOutputs == 128) return 1;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (kMath == Math::kTf32x3 && kOutputs == 128) return 1;
#endif
  return (kMath == Math::kFloat || kMath == Math::kTf32x3) && kOutputs == 256 ? 1 : 2;
}

// kSections: weight groups have more sections than one. Without them the loop is free of what the
// next one takes.
template <class T, Math kMath, int kOutputs, bool kAligned, bool kSections>
__global__ void __launch_bounds__(kThreads,
                                  (forward_blocks<kMath, kOutputs, kAligned, kSections>()))
    forward_kernel(DeformForwardParams p, Division d) {
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
  const int padded_outputs = round_up(d.outputs, kOutputs);
  const int section_steps = round_up(d.section, slice<T>()) / slice<T>() * points;
  const int steps = kSections ? d.group_sections * section_steps : section_steps;
  const int group = blockIdx.z;

  // Everything below walks by adding: a step has no time for divisions.
  const int my_row = threadIdx.x / kChunks, my_chunk = threadIdx.x % kChunks;
  const int my_slot = swizzled(my_row, my_chunk);  // and the same kPixels rows further down
  const unsigned char* source =
      static_cast<const unsigned char*>(p.weight) +
      (static_cast<long long>(group) * steps * padded_outputs + first_output) * kRowBytes +
      threadIdx.x * 16;
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

  // Each thread gathers one chunk of one pixel's sample. Beyond its section is beyond all channels:
  // that limit costs no register.
  int next_point, next_channel, section = group * d.group;
  auto within = [&](int c) { return kAligned && c >= section + d.section ? s.channels : c; };
  auto begin_section = [&] {
    const int first_point = section / d.offset_group * points;
    for (int i = threadIdx.x; i < points * kPixels; i += kThreads) {
      const int pixel = first_pixel + i % kPixels, k = i / kPixels;
      placements[i] =
          pixel < pixels ? place<T>(p, cell_in_bands(s, pixel), k, first_point + k) : Placement{};
    }
    next_point = 0;
    next_channel = within(section + my_chunk * kElements);
    __syncthreads();
  };
  Placement at;
  Vec16 corners[4];
  auto gather = [&] {
    at = placements[next_point * kPixels + my_row];
    load_corners<T, kAligned>(corners, static_cast<const T*>(p.features), at, s, next_channel,
                              kAligned ? s.channels : section + d.section);
    if (++next_point == points) {
      next_point = 0;
      next_channel = within(next_channel + slice<T>());
    }
  };
  begin_section();
  gather();

  Product<T, kMath, kOutputs> product;
  int stage = 0, section_end = section_steps;
  for (int step = 0; step < steps; ++step) {
    unsigned char* tile = samples + (step & 1) * kPixels * kRowBytes;
    store16(tile + my_slot, interpolate<T, kMath>(corners, at));
    cp_async_wait<kStages - 2>();
    // Orders: this step's samples and weights before the product; everybody's previous product
    // before the buffers it read are written again below and in the next turn; everybody's last
    // gather of a section before the next one's placements.
    __syncthreads();
    fetch_weights();
    if (step + 1 < steps) {
      if (kSections && step + 1 == section_end) {
        section += d.section;
        section_end += section_steps;
        begin_section();
      }
      gather();  // in flight during the product
    }
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
    if (bias && o < d.outputs) value += to_float(bias[group * d.outputs + o]);
    if (p.relu) value = value > 0.0f ? value : (value == value ? 0.0f : value);  // NaN stays
    *reinterpret_cast<T*>(shared + slot(pixel, output)) = from_float<T>(value);
  });
  __syncthreads();
  T* out = static_cast<T*>(p.out);
  for (int i = threadIdx.x; i < kPixels * kRowChunks; i += kThreads) {
    const int pixel = i / kRowChunks, output = i % kRowChunks * kElements;
    if (first_pixel + pixel >= pixels || first_output + output >= d.outputs) continue;
    T* target = out + row_of(s, first_pixel + pixel) * s.outputs + group * d.outputs +
                first_output + output;
    Pack<T> row;
    row.bits = load16(shared + slot(pixel, output));
    if (d.outputs % kElements == 0) {
      store16(target, row.bits);
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e)
        if (first_output + output + e < d.outputs) target[e] = row.element[e];
    }
  }
}

// Of a block at most: registers do not hold 256 outputs of float32 and what sections take.
template <class T>
constexpr int forward_outputs(bool sections) {
  return sections && sizeof(T) == 4 ? 128 : 256;
}
template <class T>
int forward_tile(const DeformShape& s) {
  const Division d = division_of(s);
  const int outputs = std::min(d.outputs, forward_outputs<T>(d.group_sections > 1));
  return outputs_tile(outputs, [&](int tile) {
    return with_tile(tile,
                     [&](auto n) { return forward_shared_bytes<T, n()>(s.kernel_h * s.kernel_w); });
  });
}

template <class T, Math kMath, int kOutputs>
void launch_forward(const DeformForwardParams& p, void* stream) {
  const DeformShape& s = p.shape;
  const int pixels = s.batch * s.out_height * s.out_width;
  if (pixels == 0 || s.outputs == 0) return;
  const Division d = division_of(s);
  const dim3 grid((pixels + kPixels - 1) / kPixels, (d.outputs + kOutputs - 1) / kOutputs,
                  s.groups);
  const int bytes = forward_shared_bytes<T, kOutputs>(s.kernel_h * s.kernel_w);
  auto launch = [&](auto aligned, auto sections) {
    GGNET_LAUNCH((forward_kernel<T, kMath, kOutputs, aligned(), sections()>), grid, dim3(kThreads),
                 bytes, stream, p, d);
  };
  auto with_alignment = [&](auto aligned) {
    if constexpr (kOutputs <= forward_outputs<T>(true))
      if (d.group_sections > 1) return launch(aligned, std::true_type{});
    launch(aligned, std::false_type{});
  };
  if (features_aligned<T>(p, d))
    with_alignment(std::true_type{});
  else
    with_alignment(std::false_type{});
}

// The weight is packed for forward_tile and Walk::kPointsOfSlice.
template <class T, Math kMath>
void forward(const DeformForwardParams& p, void* stream) {
  with_tile(forward_tile<T>(p.shape), [&](auto n) { launch_forward<T, kMath, n()>(p, stream); });
}

}  // namespace ggnet::deform

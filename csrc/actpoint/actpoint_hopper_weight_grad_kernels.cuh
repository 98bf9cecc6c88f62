// The weight gradient on Hopper.
//
// grad_weight[o, c, k] = sum_p grad_out[p, o] * sample[p, k, c]: a block owns a point and 128
// channels for all outputs, so that every sample is gathered once, and a share of the pixels, whose
// partial sums reduce_weight adds in a fixed order. Both operands lie in shared memory as the pixels
// bring them, outputs or channels adjacent; while products read a stage, the other is filled.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

constexpr int kStepPixels = 64;   // of the reduction
constexpr int kGradChannels = 128;  // of a block
constexpr int kGradStages = 2;
constexpr int kPanelStep = kStepPixels * kPanelBytes;        // bytes of a panel of 64 elements
constexpr int kPlacedSteps = kBlock / kStepPixels;           // at a time: a thread places one point
constexpr int kPixelChunks = kGradChannels * 2 / 16;         // of a pixel's samples
constexpr int kSamplesOfThread = kStepPixels * kPixelChunks / kBlock;

template <int kOutputs>
__host__ __device__ constexpr int weight_grad_bytes() {
  return kGradStages * (kOutputs + kGradChannels) / kPanel * kPanelStep +
         2 * kBlock * static_cast<int>(sizeof(Placement));
}

// Grid: (points * tiles of channels, tiles of outputs, splits).
template <class T, int kOutputs>
__global__ void __launch_bounds__(kBlock, 1) weight_grad_kernel(DeformWeightGradParams p) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kGradientStage = kOutputs / kPanel * kPanelStep;
  constexpr int kSampleStage = kGradChannels / kPanel * kPanelStep;
  constexpr int kBlocksM = kOutputs / 2 / 64;  // 64 outputs each, of a warpgroup
  unsigned char* gradients = shared;
  unsigned char* samples = gradients + kGradStages * kGradientStage;
  Placement* placements = reinterpret_cast<Placement*>(samples + kGradStages * kSampleStage);

  const DeformForwardParams& f = p.forward;
  const DeformShape& s = f.shape;
  const int points = s.kernel_h * s.kernel_w, k = blockIdx.x % points;
  const int first_channel = blockIdx.x / points * kGradChannels;
  const int first_output = blockIdx.y * kOutputs;
  const int pixels = s.batch * s.out_height * s.out_width;
  const int tiles = (pixels + kStepPixels - 1) / kStepPixels;
  const int per_split = (tiles + p.splits - 1) / p.splits;
  const int begin = blockIdx.z * per_split;
  const int steps = (begin + per_split < tiles ? begin + per_split : tiles) - begin;

  // The pixels of kPlacedSteps steps, `done` after the block's first; the group before stays.
  auto place_group = [&](int done) {
    const int pixel = (begin + done) * kStepPixels + threadIdx.x;
    placements[(done / kPlacedSteps & 1) * kBlock + threadIdx.x] =
        pixel < pixels ? place<T>(f, cell_in_bands(s, pixel), k) : Placement{};
  };
  auto fetch_gradient = [&](int done, int stage) {
    if (done < steps) {
      constexpr int kChunksOfPixel = kOutputs / 8;
      unsigned char* target = gradients + stage * kGradientStage;
#pragma unroll
      for (int i = threadIdx.x; i < kStepPixels * kChunksOfPixel; i += kBlock) {
        const int row = i / kChunksOfPixel, chunk = i % kChunksOfPixel;
        const int pixel = (begin + done) * kStepPixels + row, o = first_output + chunk * 8;
        const bool inside = pixel < pixels && o < s.outputs;
        const T* from = static_cast<const T*>(p.grad_out);
        if (inside) from += deform::row_of(s, pixel) * s.outputs + o;
        cp_async16(target + chunk / 8 * kPanelStep + hopper_slot(row, chunk % 8), from,
                   inside ? 16 : 0);
      }
    }
    cp_async_commit();
  };
  auto gather = [&](int done, int stage) {
    const Placement* at = placements + done % (2 * kPlacedSteps) * kStepPixels;
    const int chunk = threadIdx.x % kPixelChunks;
    unsigned char* target = samples + stage * kSampleStage + chunk / 8 * kPanelStep;
#pragma unroll
    for (int i = 0; i < kSamplesOfThread; ++i) {
      const int row = threadIdx.x / kPixelChunks + i * (kBlock / kPixelChunks);
      Vec16 corners[4];
      load_corners<T, true>(corners, static_cast<const T*>(f.features), at[row], s,
                            first_channel + chunk * 8);
      store16(target + hopper_slot(row, chunk % 8), interpolate<T, Math::kHalf>(corners, at[row]));
    }
  };

  float sum[kBlocksM][kGradChannels / 2];
#pragma unroll
  for (int m = 0; m < kBlocksM; ++m)
#pragma unroll
    for (int i = 0; i < kGradChannels / 2; ++i) sum[m][i] = 0.0f;

  const int warpgroup = threadIdx.x / kWarpgroup;
  fetch_gradient(0, 0);
  place_group(0);
  __syncthreads();
  gather(0, 0);
  int stage = 0;
#pragma unroll 1
  for (int done = 0; done < steps; ++done) {
    cp_async_wait<0>();
    fence_async_shared();
    __syncthreads();
    const uint64_t gradient =
        matrix_descriptor(gradients + stage * kGradientStage + warpgroup * kBlocksM * kPanelStep,
                          8 * kPanelBytes, kPanelStep);
    const uint64_t sample =
        matrix_descriptor(samples + stage * kSampleStage, 8 * kPanelBytes, kPanelStep);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kStepPixels / 16; ++i)
#pragma unroll
      for (int m = 0; m < kBlocksM; ++m)
        Wgmma<kGradChannels, T>::columns(
            sum[m], hopper_advance(gradient, m * kPanelStep + i * 16 * kPanelBytes),
            hopper_advance(sample, i * 16 * kPanelBytes), true);
    wgmma_commit();
    // The other stage was read by the products of the step before, which ended before the barrier.
    stage ^= 1;
    fetch_gradient(done + 1, stage);
    if (done % kPlacedSteps == 0) place_group(done + kPlacedSteps);
    gather(done + 1, stage);
    wgmma_wait<0>();
  }

  float* partial =
      p.partial + (static_cast<long long>(blockIdx.z) * points + k) * s.outputs * s.channels;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int m = 0; m < kBlocksM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int o =
          first_output + (warpgroup * kBlocksM + m) * 64 + warp * 16 + h * 8 + (lane >> 2);
      if (o >= s.outputs) continue;
      float* row = partial + static_cast<long long>(o) * s.channels;
#pragma unroll
      for (int j = 0; j < kGradChannels / 8; ++j) {
        const int c = first_channel + j * 8 + (lane & 3) * 2;
        if (c < s.channels)
          *reinterpret_cast<float2*>(row + c) =
              make_float2(sum[m][4 * j + 2 * h], sum[m][4 * j + 2 * h + 1]);
      }
    }
#endif
}

inline bool can_weight_grad(const DeformWeightGradParams& p) {
  const DeformShape& s = p.forward.shape;
  return can(s, p.forward.features) && aligned16(p.grad_out) && s.channels >= kGradChannels &&
         s.outputs >= 128;
}

// Blocks that share the pixels: enough to fill a large device, the same on every device.
inline int weight_grad_splits(const DeformShape& s) {
  constexpr int kBlocks = 8 * 132;
  const int blocks = s.kernel_h * s.kernel_w * ((s.channels + kGradChannels - 1) / kGradChannels);
  const int tiles = (s.batch * s.out_height * s.out_width + kStepPixels - 1) / kStepPixels;
  const int wanted = blocks < kBlocks ? kBlocks / blocks : 1;
  return wanted < tiles ? wanted : tiles > 0 ? tiles : 1;
}

template <class T>
void weight_grad(const DeformWeightGradParams& p, void* stream) {
  const DeformShape& s = p.forward.shape;
  with_tile(outputs_of_block(s), [&](auto n) {
    if constexpr (n() >= 128)
      GGNET_LAUNCH((weight_grad_kernel<T, n()>),
                   dim3(s.kernel_h * s.kernel_w * ((s.channels + kGradChannels - 1) / kGradChannels),
                        (s.outputs + n() - 1) / n(), p.splits),
                   dim3(kBlock), weight_grad_bytes<n()>(), stream, p);
  });
}

}  // namespace ggnet::deform::hopper

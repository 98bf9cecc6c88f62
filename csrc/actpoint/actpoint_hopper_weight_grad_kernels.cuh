// The weight gradient on Hopper.
//
// grad_weight[o, c, k] = sum_p grad_out[p, o] * sample[p, k, c]: a block owns a point and 128
// channels for all outputs, so that every sample is gathered once, and a share of the pixels, whose
// partial sums reduce_weight adds in a fixed order. A step is 64 pixels. Two warpgroups bring their
// output gradient and samples into a stage of shared memory, outputs and channels adjacent; two
// multiply, half of the outputs each.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

constexpr int kStepPixels = 64;
constexpr int kGradChannels = 128;  // of a block
constexpr int kGradStages = 4;
constexpr int kPanelStep = kStepPixels * kPanelBytes;  // bytes of a panel of 64 elements
constexpr int kProducerWarps = kBlock / 32;
// Where a product is half as wide, it is the gather that wants registers.
constexpr int kNarrowRegisters = 112, kGatherRegisters = 144;
static_assert(registers_suffice(kThreadsOfRoles, kBlock*(kNarrowRegisters + kGatherRegisters)));
constexpr int kWarpPixels = kStepPixels / kProducerWarps;  // of a step, brought by a warp
constexpr int kPlacedSteps = 32 / kWarpPixels;             // at a time: a lane places one point

// Shared memory: stages of gradient and samples, placements and pixels of each producing warp, two
// groups of steps, barriers.
template <int kOutputs>
__host__ __device__ constexpr int weight_grad_bytes() {
  return kGradStages * (kOutputs + kGradChannels) / kPanel * kPanelStep +
         2 * kBlock * (static_cast<int>(sizeof(Placement)) + 4) + 2 * kGradStages * 8;
}

// Grid: (points * tiles of channels, tiles of outputs, splits).
template <class T, int kOutputs>
__global__ void __launch_bounds__(kThreadsOfRoles, 1) weight_grad_kernel(DeformWeightGradParams p) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kGradientBytes = kOutputs / kPanel * kPanelStep;
  constexpr int kStageBytes = kGradientBytes + kGradChannels / kPanel * kPanelStep;
  constexpr int kBlocksM = kOutputs / 2 / 64;  // 64 outputs each, of a warpgroup
  constexpr bool kWideProduct = kBlocksM > 1;
  Placement* placements = reinterpret_cast<Placement*>(shared + kGradStages * kStageBytes);
  int* rows = reinterpret_cast<int*>(placements + 2 * kBlock);
  uint64_t* full = reinterpret_cast<uint64_t*>(rows + 2 * kBlock);
  uint64_t* empty = full + kGradStages;

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w, k = blockIdx.x % points;
  const int first_channel = blockIdx.x / points * kGradChannels;
  const int first_output = blockIdx.y * kOutputs;
  const int pixels = s.batch * s.out_height * s.out_width;
  const int all_steps = (pixels + kStepPixels - 1) / kStepPixels;
  const int per_split = (all_steps + p.splits - 1) / p.splits;
  const int begin = blockIdx.z * per_split;
  const int steps = (begin + per_split < all_steps ? begin + per_split : all_steps) - begin;
  const int lane = threadIdx.x & 31;

  if (threadIdx.x == 0) init_stages(full, empty, kGradStages, false);
  __syncthreads();

  Ring ring(kGradStages);
  if (threadIdx.x >= kBlock) {
    if constexpr (kWideProduct)
      give_registers<kProducerRegisters>();
    else
      take_registers<kGatherRegisters>();
    const int warp = (threadIdx.x - kBlock) / 32;
    Placement* my_placements = placements + warp * 64;
    int* my_rows = rows + warp * 64;
    // A warp's pixels of a step are warp, warp + 8, ...: rows of a stage with one swizzle. A lane
    // places one of kPlacedSteps steps; it reads the next one's point in advance.
    auto pixel_of = [&](int step) {
      return (begin + step + lane / kWarpPixels) * kStepPixels +
             lane % kWarpPixels * kProducerWarps + warp;
    };
    auto read = [&](int step) {
      const int pixel = pixel_of(step);
      return pixel < pixels ? read_point<T>(p, cell_in_bands(s, pixel), k) : RawPoint<T>{};
    };
    auto placed = [&](int step) { return step % (2 * kPlacedSteps) * kWarpPixels; };
    RawPoint<T> raw = read(0);
    auto place_steps = [&](int step) {  // and kPlacedSteps - 1 more
      const int pixel = pixel_of(step);
      Placement at{};
      int row = -1, iy, ix;
      if (pixel < pixels) {
        const Cell cell = cell_in_bands(s, pixel);
        at = place<T>(p, cell, k, raw, iy, ix);
        row = static_cast<int>(row_of(s, cell));
      }
      __syncwarp();  // the others are done with what lay there
      my_placements[placed(step) + lane] = at;
      my_rows[placed(step) + lane] = row;
      __syncwarp();
      raw = read(step + kPlacedSteps);
    };
    const T* grad_out = static_cast<const T*>(p.grad_out);
    constexpr int kSampleLanes = kGradChannels / 8, kAtOnce = 32 / kSampleLanes;  // pixels
    const int sample_chunk = lane % kSampleLanes, first = lane / kSampleLanes;
    const int channel = first_channel + sample_chunk * 8;
    Gather<T, kAtOnce, kAtOnce * kProducerWarps> gather(p.features, s);
    static_assert(kWarpPixels == kAtOnce * gather.kCount);
    place_steps(0);
    gather.begin(my_placements + first, channel);
    for (int step = 0; step < steps; ++step) {
      if ((step + 1) % kPlacedSteps == 0) place_steps(step + 1);
      unsigned char* stage = shared + ring.stage * kStageBytes;
      if (step >= kGradStages) mbarrier_wait(empty + ring.stage, ring.parity ^ 1);
      constexpr int kChunks = kOutputs / 8, kLanes = kChunks < 32 ? kChunks : 32;
#pragma unroll
      for (int i = 0; i < kWarpPixels * kChunks / 32; ++i) {
        const int pixel = i * (32 / kLanes) + lane / kLanes, chunk = lane % kLanes;
        const int row = my_rows[placed(step) + pixel], o = first_output + chunk * 8;
        const bool inside = row >= 0 && o < s.outputs;
        cp_async16(
            stage + chunk / 8 * kPanelStep + hopper_slot(warp + pixel * kProducerWarps, chunk % 8),
            grad_out + (inside ? static_cast<long long>(row) * s.outputs + o : 0), inside ? 16 : 0);
      }
      cp_async_commit();
      gather.step(my_placements + placed(step) + first, channel,
                  my_placements + placed(step + 1) + first, channel,
                  stage + kGradientBytes + sample_chunk / 8 * kPanelStep +
                      hopper_slot(warp + first * kProducerWarps, sample_chunk % 8));
      // The stage before is whole by now: a step's copies have had the time of two gathers.
      cp_async_wait<1>();
      if (step > 0) filled(full + (ring.stage == 0 ? kGradStages : ring.stage) - 1);
      ring.advance();
    }
    cp_async_wait<0>();
    if (steps > 0) filled(full + (ring.stage == 0 ? kGradStages : ring.stage) - 1);
  } else {
    if constexpr (kWideProduct)
      take_registers<kConsumerRegisters>();
    else
      give_registers<kNarrowRegisters>();
    const int warpgroup = threadIdx.x / kWarpgroup;
    float sum[kBlocksM][kGradChannels / 2];
#pragma unroll
    for (int m = 0; m < kBlocksM; ++m)
#pragma unroll
      for (int i = 0; i < kGradChannels / 2; ++i) sum[m][i] = 0.0f;
    consume(full, empty, ring, lane, steps, [&](int number) {
      const unsigned char* stage = shared + number * kStageBytes;
      const uint64_t gradient =
          matrix_descriptor(stage + warpgroup * kBlocksM * kPanelStep, 8 * kPanelBytes, kPanelStep);
      const uint64_t samples =
          matrix_descriptor(stage + kGradientBytes, 8 * kPanelBytes, kPanelStep);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kStepPixels / 16; ++i)
#pragma unroll
        for (int m = 0; m < kBlocksM; ++m)
          Wgmma<kGradChannels, T>::shared_columns(
              sum[m], hopper_advance(gradient, m * kPanelStep + i * 16 * kPanelBytes),
              hopper_advance(samples, i * 16 * kPanelBytes), true);
    });

    float* partial =
        p.weight_sums + (static_cast<long long>(blockIdx.z) * points + k) * s.outputs * s.channels;
    const int warp = threadIdx.x / 32 % 4;
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
  }
#endif
}

inline bool can_weight_grad(const DeformWeightGradParams& p) {
  const DeformShape& s = p.shape;
  return can(s, p.features) && aligned16(p.grad_out) && s.channels >= kGradChannels &&
         s.outputs >= 128 && weight_grad_bytes<256>() <= shared_memory_limit();
}

// Blocks that share the pixels: enough to fill a large device, the same on every device.
inline int weight_grad_splits(const DeformShape& s) {
  constexpr int kBlocks = 8 * 132;
  const int blocks = s.kernel_h * s.kernel_w * ((s.channels + kGradChannels - 1) / kGradChannels);
  const int steps = (s.batch * s.out_height * s.out_width + kStepPixels - 1) / kStepPixels;
  const int wanted = blocks < kBlocks ? kBlocks / blocks : 1;
  return wanted < steps ? wanted : steps > 0 ? steps : 1;
}

template <class T>
void weight_grad(const DeformWeightGradParams& p, void* stream) {
  const DeformShape& s = p.shape;
  with_tile(outputs_of_block(s.outputs), [&](auto n) {
    if constexpr (n() >= 128)
      GGNET_LAUNCH(
          (weight_grad_kernel<T, n()>),
          dim3(s.kernel_h * s.kernel_w * ((s.channels + kGradChannels - 1) / kGradChannels),
               (s.outputs + n() - 1) / n(), p.splits),
          dim3(kThreadsOfRoles), weight_grad_bytes<n()>(), stream, p);
  });
}

}  // namespace ggnet::deform::hopper

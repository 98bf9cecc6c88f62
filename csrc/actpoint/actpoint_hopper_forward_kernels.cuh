// The forward on Hopper: see actpoint_hopper.cuh for tiles and orders.
//
// Steps run over slices of 64 channels and, inside, over points. In a step a warpgroup issues the
// products of the step (wgmma, asynchronous) and gathers the next step's samples into other
// registers meanwhile. Weights arrive by bulk copies, a stage a step.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

// The samples of a lane in a step: of pixels g and g + 8 of its warp, chunks t and t + 4, laid out as
// the first operand of four products.
template <class T>
__device__ __forceinline__ void gather(uint32_t (&samples)[4][4], const T* features,
                                       const Placement* placements, const DeformShape& s,
                                       int slice) {
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Placement at = placements[h * 8];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      Vec16 corners[4];
      load_corners<T, true>(corners, features, at, s, slice * kPanel + j * 32 + t * 8);
      const Vec16 sample = interpolate<T, Math::kHalf>(corners, at);
      samples[2 * j][h] = sample.word[0];
      samples[2 * j][2 + h] = sample.word[1];
      samples[2 * j + 1][h] = sample.word[2];
      samples[2 * j + 1][2 + h] = sample.word[3];
    }
  }
}

// Shared memory: stages of weights, placements of every point, barriers.
template <int kOutputs>
__host__ __device__ constexpr int forward_bytes(int points, int stages) {
  return stages * kOutputs * kPanelBytes + points * kTile * static_cast<int>(sizeof(Placement)) +
         2 * stages * 8;
}
// As many stages as fit, up to four; 0 where not even two do.
template <int kOutputs>
int forward_stages(int points) {
  const int limit = shared_memory_limit();
  for (int stages = 4; stages >= 2; --stages)
    if (forward_bytes<kOutputs>(points, stages) <= limit) return stages;
  return 0;
}

template <class T, int kOutputs>
__global__ void __launch_bounds__(kBlock, 1) forward_kernel(DeformForwardParams p, int stages) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kStageBytes = kOutputs * kPanelBytes;
  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  unsigned char* weights = shared;
  Placement* placements = reinterpret_cast<Placement*>(weights + stages * kStageBytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(placements + points * kTile);
  uint64_t* empty = full + stages;

  const Tile tile = tile_of(s, blockIdx.x);
  const int first_output = blockIdx.y * kOutputs;
  const int rows = round_up(s.outputs, kOutputs);
  const int slices = (s.channels + kPanel - 1) / kPanel, steps = slices * points;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  auto cell_of = [&](int row) {
    return Cell{tile.batch, tile.top + row / kTileWidth, tile.left + row % kTileWidth};
  };

  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kBlock / 32);
    }
    mbarrier_init_fence();
  }
  for (int i = threadIdx.x; i < points * kTile; i += kBlock) {
    const Cell cell = cell_of(i % kTile);
    placements[i] = in_map(s, cell) ? place<T>(p, cell, i / kTile) : Placement{};
  }
  __syncthreads();

  // Thread 0 fills stages, `ahead` steps before their use: a stage's readers have then had another
  // step to finish, and nobody waits for them.
  const int ahead = stages > 3 ? stages - 2 : stages - 1;
  const unsigned char* source =
      static_cast<const unsigned char*>(p.weight) + first_output * kPanelBytes;
  Ring filled(stages);
  int to_fetch = steps;
  auto fetch = [&] {
    if (to_fetch-- <= 0) return;
    if (steps - to_fetch > stages) mbarrier_wait(empty + filled.stage, filled.parity ^ 1);
    mbarrier_arrive_expect(full + filled.stage, kStageBytes);
    bulk_load(weights + filled.stage * kStageBytes, source, kStageBytes, full + filled.stage);
    source += static_cast<long long>(rows) * kPanelBytes;
    filled.advance();
  };
  if (threadIdx.x == 0)
    for (int i = 0; i < ahead; ++i) fetch();

  const T* features = static_cast<const T*>(p.features);
  const Placement* mine = placements + warp * 16 + (lane >> 2);
  float sum[kOutputs / 2];
#pragma unroll
  for (int i = 0; i < kOutputs / 2; ++i) sum[i] = 0.0f;
  uint32_t even[4][4], odd[4][4];
  gather<T>(even, features, mine, s, 0);

  Ring used(stages);
  int k = 0, slice = 0, released = 0;
  // Multiplies the samples `now` and gathers the next step's.
  auto step = [&](int number, uint32_t (&now)[4][4], uint32_t (&next)[4][4]) {
    mbarrier_wait(full + used.stage, used.parity);
    const uint64_t weight = matrix_descriptor(weights + used.stage * kStageBytes, 8 * kPanelBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i)
      Wgmma<kOutputs, T>::rows(sum, now[i], hopper_advance(weight, i * 32), true);
    wgmma_commit();
    wgmma_wait<1>();  // the step before is done with its stage and with `next`
    if (number > 0) {
      if (lane == 0) mbarrier_arrive(empty + released);
      released = released + 1 == stages ? 0 : released + 1;
    }
    if (threadIdx.x == 0) fetch();
    used.advance();
    if (++k == points) {
      k = 0;
      ++slice;
    }
    if (number + 1 < steps) gather<T>(next, features, mine + k * kTile, s, slice);
  };
  for (int number = 0; number < steps; number += 2) {
    step(number, even, odd);
    if (number + 1 < steps) step(number + 1, odd, even);
  }
  wgmma_wait<0>();

  const T* bias = static_cast<const T*>(p.bias);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Cell cell = cell_of(warp * 16 + h * 8 + (lane >> 2));
    if (!in_map(s, cell)) continue;
    T* out = static_cast<T*>(p.out) + row_of(s, cell) * s.outputs;
#pragma unroll
    for (int m = 0; m < kOutputs / 32; ++m) {
      const int o = first_output + m * 32 + (lane & 3) * 8;
      if (o >= s.outputs) continue;
      float value[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        value[i] = sum[16 * m + 4 * (i / 2) + 2 * h + i % 2];
        if (bias) value[i] += to_float(bias[o + i]);
        if (p.relu) value[i] = value[i] > 0.0f ? value[i] : (value[i] == value[i] ? 0.0f : value[i]);
      }
      Vec16 run;
#pragma unroll
      for (int i = 0; i < 4; ++i) run.word[i] = pack2(value[2 * i], value[2 * i + 1], T{});
      store16(out + o, run);
    }
  }
#endif
}

template <class T>
bool can_forward(const DeformForwardParams& p) {
  const DeformShape& s = p.shape;
  return can(s, p.features) && with_tile(outputs_of_block(s), [&](auto n) {
           return forward_stages<n()>(s.kernel_h * s.kernel_w) > 0;
         });
}

// The weight is packed by pack<T, false>.
template <class T>
void forward(const DeformForwardParams& p, void* stream) {
  const DeformShape& s = p.shape;
  if (s.batch == 0 || s.outputs == 0) return;
  with_tile(outputs_of_block(s), [&](auto n) {
    const int points = s.kernel_h * s.kernel_w, stages = forward_stages<n()>(points);
    GGNET_LAUNCH((forward_kernel<T, n()>),
                 dim3(s.batch * tiles_of_image(s), (s.outputs + n() - 1) / n()), dim3(kBlock),
                 forward_bytes<n()>(points, stages), stream, p, stages);
  });
}

}  // namespace ggnet::deform::hopper

// The forward on Hopper: see actpoint_hopper.cuh for tiles and orders.
//
// Steps run over slices of 64 channels and, inside, over points. Two warpgroups produce: they
// gather and interpolate a step's samples into a stage of shared memory, to which a bulk copy
// brings the step's weights. Two consume: each multiplies 64 pixels by all outputs of the block.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

constexpr int kSampleBytes = kTile * kPanelBytes;  // of a stage

// Shared memory: stages of samples and weights, placements of every point, barriers.
template <int kOutputs>
__host__ __device__ constexpr int forward_bytes(int points, int stages) {
  return stages * (kSampleBytes + kOutputs * kPanelBytes) +
         points * kTile * static_cast<int>(sizeof(Placement)) + 2 * stages * 8;
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
__global__ void __launch_bounds__(kThreadsOfRoles, 1)
    forward_kernel(DeformForwardParams p, int stages) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kStageBytes = kSampleBytes + kOutputs * kPanelBytes;
  // Of a product: the compiler wants its accumulators to fit the registers that a block with two
  // roles is launched with.
  constexpr int kWide = kOutputs < 128 ? kOutputs : 128, kParts = kOutputs / kWide;
  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  Placement* placements = reinterpret_cast<Placement*>(shared + stages * kStageBytes);
  uint64_t* full = reinterpret_cast<uint64_t*>(placements + points * kTile);
  uint64_t* empty = full + stages;

  const Tile tile = Tiles::at(s, blockIdx.x);
  const int first_output = blockIdx.y * kOutputs;
  const int slices = (s.channels + kPanel - 1) / kPanel, steps = slices * points;
  const int lane = threadIdx.x & 31;
  auto cell_of = [&](int row) {
    return Cell{tile.batch, tile.top + row / kTileWidth, tile.left + row % kTileWidth};
  };
  if (threadIdx.x == 0) init_stages(full, empty, stages);
  for (int i = threadIdx.x; i < points * kTile; i += kThreadsOfRoles) {
    const Cell cell = cell_of(i % kTile);
    placements[i] = in_map(s, cell) ? place<T>(p, cell, i / kTile) : Placement{};
  }
  __syncthreads();

  Ring ring(stages);
  if (threadIdx.x >= kBlock) {
    give_registers<kProducerRegisters>();
    constexpr int kRows = kBlock / kPanelChunks;  // at a time
    const int producer = threadIdx.x - kBlock;
    const int chunk = producer % kPanelChunks, row = producer / kPanelChunks;
    const unsigned char* source =
        static_cast<const unsigned char*>(p.weight) + first_output * kPanelBytes;
    const int rows = round_up(s.outputs, kOutputs);
    Gather<T, kRows, kRows> gather(p.features, s);
    static_assert(kTile == kRows * gather.kCount);
    const Placement* const first = placements + row;
    int k = 0, c = chunk * 8;
    gather.begin(first, c);
    for (int step = 0; step < steps; ++step) {
      unsigned char* samples = shared + ring.stage * kStageBytes;
      if (step >= stages) mbarrier_wait(empty + ring.stage, ring.parity ^ 1);
      if (producer == 0) {
        mbarrier_arrive_expect(full + ring.stage, kOutputs * kPanelBytes);
        bulk_load(samples + kSampleBytes, source, kOutputs * kPanelBytes, full + ring.stage);
        source += static_cast<long long>(rows) * kPanelBytes;
      }
      const bool last_point = k + 1 == points;
      const int next_k = last_point ? 0 : k + 1, next_c = last_point ? c + kPanel : c;
      gather.step(first + k * kTile, c, first + next_k * kTile, next_c,
                  samples + hopper_slot(row, chunk));
      filled(full + ring.stage);
      ring.advance();
      k = next_k;
      c = next_c;
    }
  } else {
    take_registers<kConsumerRegisters>();
    const int warp = threadIdx.x >> 5;
    float sum[kParts][kWide / 2];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int i = 0; i < kWide / 2; ++i) sum[part][i] = 0.0f;
    consume(full, empty, ring, lane, steps, [&](int number) {
      const unsigned char* stage = shared + number * kStageBytes;
      const uint64_t samples = matrix_descriptor(
          stage + threadIdx.x / kWarpgroup * (kTile / 2) * kPanelBytes, 8 * kPanelBytes);
      const uint64_t weights = matrix_descriptor(stage + kSampleBytes, 8 * kPanelBytes);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          Wgmma<kWide, T>::shared_rows(sum[part], hopper_advance(samples, i * 32),
                                       hopper_advance(weights, part * kWide * kPanelBytes + i * 32),
                                       true);
    });

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
        const Vec16 added = bias ? load16(bias + o) : Vec16{};  // zeros: the same bits in any type
        Vec16 run;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 b = unpack2(added.word[i], T{});
          const int first = m * 32 % kWide / 2 + 4 * i + 2 * h;
          float value[2] = {sum[m * 32 / kWide][first] + b.x, sum[m * 32 / kWide][first + 1] + b.y};
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (p.relu)  // NaN stays
              value[e] = value[e] > 0.0f ? value[e] : (value[e] == value[e] ? 0.0f : value[e]);
          run.word[i] = pack2(value[0], value[1], T{});
        }
        store16(out + o, run);
      }
    }
  }
#endif
}

template <class T>
bool can_forward(const DeformForwardParams& p) {
  const DeformShape& s = p.shape;
  return can(s, p.features) && aligned16(p.bias) &&
         with_tile(outputs_of_block(s.outputs),
                   [&](auto n) { return forward_stages<n()>(s.kernel_h * s.kernel_w) > 0; });
}

// The weight is packed by pack<T, false>.
template <class T>
void forward(const DeformForwardParams& p, void* stream) {
  const DeformShape& s = p.shape;
  if (s.batch == 0 || s.outputs == 0) return;
  with_tile(outputs_of_block(s.outputs), [&](auto n) {
    const int points = s.kernel_h * s.kernel_w, stages = forward_stages<n()>(points);
    GGNET_LAUNCH((forward_kernel<T, n()>),
                 dim3(s.batch * Tiles::of_image(s), (s.outputs + n() - 1) / n()),
                 dim3(kThreadsOfRoles), forward_bytes<n()>(points, stages), stream, p, stages);
  });
}

}  // namespace ggnet::deform::hopper

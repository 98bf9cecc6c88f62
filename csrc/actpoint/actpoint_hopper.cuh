// What the Hopper kernels of the deformable aggregation share: tiles of pixels, the order of packed
// weights, and the gather of a lane's samples. 16-bit storage types only; see actpoint.cuh for
// placements and interpolation.
//
// A tile is 128 output pixels, 8 x 16 of one image, so that neighbors share the features that they
// read in L1; a warpgroup multiplies 64 of them. A product's columns may come in any order as long
// as the packed weights agree: theirs makes a lane's accumulators runs of eight. Where the first
// operand is in registers the same holds for the reduction: what a lane needs of a pixel are then
// whole chunks of 16 bytes.
#pragma once

#include "actpoint/actpoint_window.cuh"
#include "common/hopper.h"

namespace ggnet::deform::hopper {

constexpr int kBlock = 2 * kWarpgroup;       // threads; of one role, where a block has two
constexpr int kThreadsOfRoles = 2 * kBlock;  // consumers first, then producers
constexpr int kConsumerRegisters = 160, kProducerRegisters = 96;
static_assert(registers_suffice(kThreadsOfRoles, kBlock*(kConsumerRegisters + kProducerRegisters)));
constexpr int kTileHeight = 8, kTileWidth = 16, kTile = kTileHeight * kTileWidth;  // pixels
constexpr int kPanel = 64;        // elements of a row of 128 bytes: the channels of a step
constexpr int kPanelBytes = 128;  // of a row
constexpr int kPanelChunks = kPanelBytes / 16;

// The element that position q (0..63) of a packed row's reduction holds, and the one that packed
// row n stands for.
__host__ __device__ inline int element_of_position(int q) {
  const int product = q / 16, slot = q % 16;
  return product / 2 * 32 + slot % 8 / 2 * 8 + product % 2 * 4 + slot / 8 * 2 + slot % 2;
}
__host__ __device__ inline int element_of_row(int n) {
  const int group = n / 8;
  return group / 4 * 32 + n % 8 / 2 * 8 + group % 4 * 2 + n % 2;
}

using Tiles = Tiling<kTileHeight, kTileWidth>;

// weight [O, C, K] -> packed [slices of 64 channels, K, rows, 64], rows of 128 bytes swizzled.
// Forward: a row is an output, the reduction runs over the slice's channels. Backward: rows are 64
// channels of a slice for each panel of 64 outputs, the reduction runs over the panel's outputs in
// the order of an operand in registers. Zeros in the padding. A thread has an element of every
// point.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kBlock)
    pack_kernel(const T* weight, T* packed, int outputs, int channels, int points, int rows) {
  const int i = blockIdx.x * kBlock + threadIdx.x;
  const int q = i % kPanel, row = i / kPanel % rows, slice = i / kPanel / rows;
  if (slice * kPanel >= channels) return;
  const int o = kBackward ? row / kPanel * kPanel + element_of_position(q) : element_of_row(row);
  const int c = slice * kPanel + (kBackward ? element_of_row(row % kPanel) : q);
  const bool inside = o < outputs && c < channels;
  const T* source = weight + (static_cast<long long>(o) * channels + c) * points;
  T* target = packed + static_cast<long long>(slice) * points * rows * kPanel +
              hopper_slot(row, q / 8) / static_cast<int>(sizeof(T)) + q % 8;
  for (int k = 0; k < points; ++k)
    target[static_cast<long long>(k) * rows * kPanel] = inside ? source[k] : from_float<T>(0.0f);
}

inline int slices_of(const DeformShape& s) { return (s.channels + kPanel - 1) / kPanel; }
inline long long packed_size(const DeformShape& s) {
  return static_cast<long long>(slices_of(s)) * s.kernel_h * s.kernel_w *
         round_up(s.outputs, outputs_of_block(s.outputs)) * kPanel;
}
template <class T, bool kBackward>
void pack(const DeformShape& s, const void* weight, void* packed, void* stream) {
  const int rows = round_up(s.outputs, outputs_of_block(s.outputs));
  GGNET_LAUNCH((pack_kernel<T, kBackward>), dim3(slices_of(s) * rows * kPanel / kBlock),
               dim3(kBlock), 0, stream, static_cast<const T*>(weight), static_cast<T*>(packed),
               s.outputs, s.channels, s.kernel_h * s.kernel_w, rows);
}

// What the kernels can do; others do the rest. Rows are read in chunks of eight elements.
inline bool can(const DeformShape& s, const void* features) {
  return s.groups == 1 && s.offset_groups == 1 && s.channels % 8 == 0 && s.outputs % 8 == 0 &&
         s.channels >= kPanel && aligned16(features);
}

// The stages of a pipeline in turn.
struct Ring {
  int stages, stage = 0, parity = 0;

  __device__ explicit Ring(int n) : stages(n) {}
  __device__ __forceinline__ void advance() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Of a block with roles: a stage is full when a bulk copy, or whoever fills in its place, and every
// producer's warp say so; empty when every consumer's warp does. One thread executes it.
__device__ __forceinline__ void init_stages(uint64_t* full, uint64_t* empty, int stages,
                                            bool bulk = true) {
  for (int i = 0; i < stages; ++i) {
    mbarrier_init(full + i, kBlock / 32 + bulk);
    mbarrier_init(empty + i, kBlock / 32);
  }
  mbarrier_init_fence();
}
// A consumer's turns: multiply(stage) fences and starts the products of a step. They run into the
// next turn, where the stage is given back: then they are done.
template <class F>
__device__ __forceinline__ void consume(uint64_t* full, uint64_t* empty, Ring& ring, int lane,
                                        int steps, F multiply) {
  int released = 0;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(full + ring.stage, ring.parity);
    multiply(ring.stage);
    wgmma_commit();
    wgmma_wait<1>();  // the step before is done with its stage
    if (step > 0) {
      if (lane == 0) mbarrier_arrive(empty + released);
      released = released + 1 == ring.stages ? 0 : released + 1;
    }
    ring.advance();
  }
  wgmma_wait<0>();
}
// A producer's warp has written its part of a stage.
__device__ __forceinline__ void filled(uint64_t* full) {
  fence_async_shared();
  __syncwarp();
  if ((threadIdx.x & 31) == 0) mbarrier_arrive(full);
}

// A lane's samples of kCount pixels a step, which lie kStride placements apart, into rows of 128
// bytes that lie kRows apart, a multiple of eight: all have the swizzle of `target`, the first's
// slot. The corners of three pixels are under way at any time, over the ends of steps too, which
// hides the latency of memory, barriers and fences.
template <class T, int kStride, int kRows>
class Gather {
 public:
  static constexpr int kCount = 4;
  static_assert(kRows % 8 == 0);

  __device__ __forceinline__ Gather(const void* features, const DeformShape& shape)
      : features_(static_cast<const T*>(features)), s_(shape) {}
  // Of the first step, at channel c.
  __device__ __forceinline__ void begin(const Placement* placements, int c) {
#pragma unroll
    for (int i = 0; i + 1 < kCount; ++i) load(i, placements, c);
  }
  // Stores a step's samples, and begins with the next step's, which may have no corners: c beyond
  // the channels.
  __device__ __forceinline__ void step(const Placement* placements, int c, const Placement* next,
                                       int next_c, unsigned char* target) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i == 0)
        load(kCount - 1, placements, c);
      else
        load(i - 1, next, next_c);
      store16(target + i * kRows * kPanelBytes, interpolate<T, Math::kHalf>(corners_[i], at_[i]));
    }
  }

 private:
  const T* features_;
  const DeformShape& s_;
  Placement at_[kCount];
  Vec16 corners_[kCount][4];

  __device__ __forceinline__ void load(int i, const Placement* placements, int c) {
    at_[i] = placements[i * kStride];
    load_corners<T, true>(corners_[i], features_, at_[i], s_, c);
  }
};

}  // namespace ggnet::deform::hopper

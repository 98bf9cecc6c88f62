// The gradients of features and points by mma.sync, the features' summed in shared memory first.
// 16-bit storage types, one group and one offset group, up to 256 outputs.
//
// actpoint_backward_kernels.cuh adds every sample's corners to global memory; here a block adds
// them to a window of cells around its 8 x 8 pixels, as each cell is met about as often as there
// are points. The window is one slice of channels, so that points are walked inside slices, and the
// points' gradients are summed over slices in `dots`. What makes room for the window, and for two
// blocks of 256 outputs on a multiprocessor of an A100: the output gradient stays in registers for
// the whole kernel, columns have no padding.
//
// A warp owns the cells of one parity of rows and one of four classes of columns, and a lane one
// channel of them. Of a pixel's four corners it meets one, or none; it lists the pixels that it
// meets and walks through them in order, four at a time. So no sum needs an atomic operation, and
// its order is fixed. After a slice's last point the window is added to global memory, where
// neighboring tiles overlap. Cells outside the window are added there at once.
#pragma once

#include "actpoint/actpoint_window.cuh"

namespace ggnet::deform::windowed {

constexpr int kSide = 8;  // of a tile
static_assert(kSide * kSide == kPixels);
using Tiles = Tiling<kSide, kSide>;
using TileWindow = Window<kSide, kSide, 4>;
constexpr int kSlice = kRowBytes / 2;  // channels of a step
constexpr int kColumnClasses = 4;
constexpr int kWarps = 2 * kColumnClasses;
static_assert(kWarps * 32 == kThreads && kSlice == 32);
constexpr int kBatch = 4;    // pixels whose sums are under way at once
constexpr int kFarCell = 2;  // cells beyond the window are taken to be just as far

// Where channel c of a pixel's row of columns lies.
__device__ __forceinline__ int column_slot(int row, int c) {
  return row * kSlice + ((c / 4 ^ (row & 7)) << 2) + c % 4;
}

// Shared memory: two stages of weights, in which the output gradient arrives; the window; columns;
// each warp's list: shares, and cells with the rows of their pixels; placements of two points, and
// where in the window.
template <int kOutputs>
__host__ __device__ constexpr int shared_bytes() {
  return 2 * weight_stage_bytes<kOutputs>() + TileWindow::kCells * kSlice * 4 +
         kPixels * kSlice * 4 + kWarps * 32 * 8 +
         2 * kPixels * (static_cast<int>(sizeof(Placement)) + 4);
}

// dots: [blocks, K, kPointGrads, kPixels]; unused if there is one slice.
template <class T, int kOutputs>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(DeformDataGradParams p, float* dots) {
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kElements = 16 / sizeof(T);
  constexpr int kStageBytes = weight_stage_bytes<kOutputs>();
  constexpr int kGradientRow = kOutputs * static_cast<int>(sizeof(T));
  static_assert(kPixels * kGradientRow == 2 * kStageBytes);
  unsigned char* weights = shared;
  float* window = reinterpret_cast<float*>(weights + 2 * kStageBytes);
  float* columns = window + TileWindow::kCells * kSlice;
  Placement* placements = reinterpret_cast<Placement*>(columns + kPixels * kSlice);
  float* shares = reinterpret_cast<float*>(placements + 2 * kPixels);
  int* slots = reinterpret_cast<int*>(shares + kWarps * 32);
  int* in_window = slots + kWarps * 32;

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int slices = round_up(s.channels, kSlice) / kSlice, steps = slices * points;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // What few steps need is computed again, and takes no registers meanwhile.
  auto tile_here = [&] { return Tiles::at(s, block_x_anew()); };
  const FeatureSums sums(p);
  const bool want_features = p.feature_sums || p.fixed_point;
  const bool want_points = p.grad_offset || p.grad_mask;
  auto cell_of = [&](int row) {
    const Tile tile = tile_here();
    return Cell{tile.batch, tile.top + row / kSide, tile.left + row % kSide};
  };

  auto place_point = [&](int number, int k) {
    if (threadIdx.x >= kPixels || number >= steps) return;
    const Cell cell = cell_of(threadIdx.x);
    Placement at{};
    int iy = 0, ix = 0;
    if (in_map(s, cell)) at = place<T>(p, cell, k, read_point<T>(p, cell, k), iy, ix);
    auto clamped = [](int cells, int size) {
      return (cells < -kFarCell ? -kFarCell : cells > size ? size : cells) + kFarCell;
    };
    const int slot = (number & 1) * kPixels + threadIdx.x;
    const TileWindow around(s, tile_here());
    placements[slot] = at;
    in_window[slot] =
        clamped(iy - around.top, around.kHeight) << 16 | clamped(ix - around.left, around.kWidth);
  };
  const unsigned char* source = static_cast<const unsigned char*>(p.weight);
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

  // Warps are 4 by 2: 16 pixels by 16 channels of a step.
  const int m0 = warp / 2 * 16, n0 = warp % 2 * 16;
  uint32_t gradient[kOutputs / 16][4];
  load_output_gradient<T, kOutputs>(weights, static_cast<const T*>(p.grad_out), s.outputs,
                                    s.outputs, 0, [&](int row) {
                                      const Cell cell = cell_of(row);
                                      return in_map(s, cell) ? row_of(s, cell) : -1;
                                    });
  for (int i = threadIdx.x; i < TileWindow::kCells * kSlice / 4; i += kThreads)
    store16(window + i * 4, Vec16{});
  place_point(0, 0);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOutputs / 16; ++i)
    ldmatrix_x4(gradient[i],
                weights + swizzled_wide(m0 + (lane & 15), 2 * i + (lane >> 4), kGradientRow));
  __syncthreads();
  fetch_weights(0);

  // The warp's cells of one step's columns into the window.
  auto scatter = [&](int number, int slice) {
    float* my_shares = shares + warp * 32;
    int* my_slots = slots + warp * 32;
    auto sum_at = [&](int slot) { return (slot >> 8) * kSlice + lane; };
    auto column_at = [&](int slot) { return columns[column_slot(slot & 0xff, lane)]; };
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int row = half * 32 + lane, slot = (number & 1) * kPixels + row;
      const Placement at = placements[slot];
      const int iy = (in_window[slot] >> 16) - kFarCell, ix = (in_window[slot] & 0xffff) - kFarCell;
      const int low = (iy ^ warp / kColumnClasses) & 1;
      const int right = (warp - ix) & (kColumnClasses - 1);
      const bool exists = right < 2 && (at.corner >> (2 * low + right) & 1);
      const int wy = iy + low, wx = ix + right;
      const bool near =
          exists && wy >= 0 && wy < TileWindow::kHeight && wx >= 0 && wx < TileWindow::kWidth;
      const float bottom = at.fy * at.scale, weight = low ? bottom : at.scale - bottom;
      const float right_share = weight * at.fx, share = right ? right_share : weight - right_share;

      const unsigned met = __ballot_sync(0xffffffffu, near);
      const int count = __popc(met);
      __syncwarp();  // the list before is done with
      if (near) {
        const int place = __popc(met & ((1u << lane) - 1));
        my_shares[place] = share;
        my_slots[place] = (wy * TileWindow::kWidth + wx) << 8 | row;
      }
      __syncwarp();
      int first = 0;
#pragma unroll 1
      for (; first + kBatch <= count; first += kBatch) {
        float part[kBatch], value[kBatch];
        int sum_of[kBatch];  // in the window
        load4(part, my_shares + first);
        const Vec16 list = load16(my_slots + first);
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          sum_of[i] = sum_at(static_cast<int>(list.word[i]));
          part[i] *= column_at(static_cast<int>(list.word[i]));
          value[i] = window[sum_of[i]];
        }
        // A cell that the batch met before has the sum of then.
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
#pragma unroll
          for (int before = 0; before < i; ++before)
            if (sum_of[before] == sum_of[i]) value[i] = value[before];
          value[i] += part[i];
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) window[sum_of[i]] = value[i];
      }
#pragma unroll 1
      for (; first < count; ++first)
        window[sum_at(my_slots[first])] += my_shares[first] * column_at(my_slots[first]);

      const int cell = (at.corner >> 4) + low * s.width + right;
      const int element = slice * kSlice + lane;
      for (unsigned left = __ballot_sync(0xffffffffu, exists && !near); left; left &= left - 1) {
        const int from = __ffs(left) - 1;
        const float share_of_row = __shfl_sync(0xffffffffu, share, from);
        const int cell_of_row = __shfl_sync(0xffffffffu, cell, from);
        if (element < s.channels)
          sums.add(cell_of_row * s.channels + element, share_of_row * column_at(half * 32 + from));
      }
    }
  };
  // Adds the warp's cells of the window to global memory, and clears them.
  auto flush = [&](int slice) {
    constexpr int kLanes = kSlice / 4;  // of a cell
    const Tile tile = tile_here();
    const TileWindow around(s, tile);
    const int c = lane % kLanes * 4, element = slice * kSlice + c;
    __syncwarp();
    for (int wy = warp / kColumnClasses; wy < around.kHeight; wy += 2) {
      for (int wx = warp % kColumnClasses + lane / kLanes * kColumnClasses; wx < around.kWidth;
           wx += kColumnClasses * (32 / kLanes)) {
        float* from = window + (wy * around.kWidth + wx) * kSlice + c;
        float sum[4];
        load4(sum, from);
        if (sum[0] == 0.0f && sum[1] == 0.0f && sum[2] == 0.0f && sum[3] == 0.0f) continue;
        store16(from, Vec16{});
        if (element < s.channels) {
          const int cell = (tile.batch * s.height + around.top + wy) * s.width + around.left + wx;
          sums.add4(cell * s.channels + element, sum);
        }
      }
    }
    __syncwarp();
  };

  const T* features = static_cast<const T*>(p.features);
  const int my_pixel = threadIdx.x / kChunks, my_chunk = threadIdx.x % kChunks;
  for (int number = 0, k = 0, slice = 0; number < steps; ++number) {
    const bool last_point = k + 1 == points;
    cp_async_wait<0>();
    __syncthreads();  // weights of this step; and everybody is done with the previous step's
    fetch_weights(number + 1);
    place_point(number + 1, last_point ? 0 : k + 1);
    Vec16 corners[4];
    if (want_points)
      load_corners<T, true>(corners, features, placements[(number & 1) * kPixels + my_pixel], s,
                            slice * kSlice + my_chunk * kElements);

    float sum[2][4] = {};
    const unsigned char* stage = weights + (number & 1) * kStageBytes;
#pragma unroll
    for (int o = 0; o < kOutputs; o += 16) {
      uint32_t fb[4];
      ldmatrix_x4_trans(
          fb, stage + swizzled(o + (lane >> 3 & 1) * 8 + (lane & 7), n0 / 8 + (lane >> 4)));
      const uint32_t first[2] = {fb[0], fb[1]}, second[2] = {fb[2], fb[3]};
      mma_16x8x16(sum[0], gradient[o / 16], first, T{});
      mma_16x8x16(sum[1], gradient[o / 16], second, T{});
    }
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<float2*>(
            columns + column_slot(m0 + h * 8 + (lane >> 2), n0 + j * 8 + (lane & 3) * 2)) =
            make_float2(sum[j][2 * h], sum[j][2 * h + 1]);
    __syncthreads();

    // <grad_columns, corner>; the four lanes of a pixel share its sums.
    float dot[4] = {}, grads[kPointGrads] = {};
    float* dots_of_pixel =
        dots + (static_cast<long long>(blockIdx.x) * points + k) * kPointGrads * kPixels + my_pixel;
    if (want_points) {
      if (slice > 0 && my_chunk == 0)
#pragma unroll
        for (int i = 0; i < kPointGrads; ++i) grads[i] = dots_of_pixel[i * kPixels];
      add_dots<T>(dot, corners,
                  [&](int e) { return columns + column_slot(my_pixel, my_chunk * kElements + e); });
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], 1);
        dot[i] += __shfl_xor_sync(0xffffffffu, dot[i], 2);
      }
    }
    if (want_features) {
      scatter(number, slice);
      if (last_point) flush(slice);
    }
    if (want_points && my_chunk == 0) {
      const Placement at = placements[(number & 1) * kPixels + my_pixel];
      add_point_grads(grads, dot, at.fy, at.fx, at.scale);
      if (slice + 1 < slices) {
#pragma unroll
        for (int i = 0; i < kPointGrads; ++i) dots_of_pixel[i * kPixels] = grads[i];
      } else if (const Cell cell = cell_of(my_pixel); in_map(s, cell)) {
        store_point_grads<T>(p, cell, k, grads, at.scale);
      }
    }
    if (last_point) {
      k = 0;
      ++slice;
    } else {
      ++k;
    }
  }
  cp_async_wait<0>();
}

// Floats of `dots` that backward wants.
inline long long dots_size(const DeformShape& s) {
  return s.channels <= kSlice ? 0
                              : static_cast<long long>(s.batch) * Tiles::of_image(s) * s.kernel_h *
                                    s.kernel_w * kPointGrads * kPixels;
}

// What the kernel can do; backward_kernel does the rest.
template <class T>
bool can_backward(const DeformDataGradParams& p) {
  const DeformShape& s = p.shape;
  bool fits = false;
  with_tile(outputs_of_block(s.outputs),
            [&](auto n) { fits = shared_bytes<n()>() <= shared_memory_limit(); });
  return fits && s.groups == 1 && s.offset_groups == 1 && s.outputs <= 256 &&
         features_aligned<T>(p, division_of(s));
}

// The weight is packed for outputs_of_block and Walk::kPointsOfSlice.
template <class T>
void backward(const DeformDataGradParams& p, float* dots, void* stream) {
  const DeformShape& s = p.shape;
  const int blocks = s.batch * Tiles::of_image(s);
  if (blocks == 0) return;
  with_tile(outputs_of_block(s.outputs), [&](auto n) {
    GGNET_LAUNCH((backward_kernel<T, n()>), dim3(blocks), dim3(kThreads), shared_bytes<n()>(),
                 stream, p, dots);
  });
}

}  // namespace ggnet::deform::windowed

// The gradients of features and points on Hopper: see actpoint_hopper.cuh for tiles and orders.
//
// A step is a point and a slice of 64 channels, points inside slices. Two warpgroups multiply: a
// step's grad_columns, 128 pixels by 64 channels, come from products whose first operand, the
// tile's output gradient, stays in registers for the whole kernel; from them and the corners a lane
// takes the dot products that the points' gradients need. A third warpgroup places the points of
// the next step; a fourth scatters the columns of the step before. The features' gradient is summed
// in shared memory first, in a window of cells around the tile, as each cell is met about as often
// as there are points: a warp owns the cells of even or odd rows and columns, of which each pixel
// meets one, and it walks through the pixels in order, so that no sum needs an atomic operation and
// its order is fixed. After a slice's last point the window is added to global memory, where
// neighboring tiles overlap. Cells outside the window are added there at once.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

// Threads are kThreadsOfRoles: products, scatter, placing.
constexpr int kProductRegisters = 184, kScatterRegisters = 80, kPlacingRegisters = 64;
static_assert(registers_suffice(kThreadsOfRoles,
                                kBlock* kProductRegisters +
                                    kWarpgroup * (kScatterRegisters + kPlacingRegisters)));
using BackwardWindow = Window<kTileHeight, kTileWidth, 5>;
constexpr int kWindow = BackwardWindow::kCells;
constexpr int kParities = 4;              // of a cell: its row's, its column's
constexpr int kSpareCells = kParities;    // where what has no cell goes
constexpr int kColumnPitch = kPanel + 2;  // floats of a pixel: products write without conflicts
constexpr int kRingStages = 3;
constexpr int kBatch = 4;  // pixels whose sums are under way at once

// Outputs whose weights a stage of the ring holds.
template <int kOutputs>
__host__ __device__ constexpr int stage_outputs() {
  return kOutputs < 128 ? kOutputs : 128;
}

// Shared memory: stages of weights; the window; grad_columns; of two steps and each parity: shares
// of the pixels' cells, the cells, those of special pixels, which these are; placements of two
// steps; barriers.
template <int kOutputs>
__host__ __device__ constexpr int backward_bytes() {
  return kRingStages * stage_outputs<kOutputs>() * kPanelBytes +
         (kWindow + kSpareCells) * kPanel * 4 + kTile * kColumnPitch * 4 +
         2 * kParities * kTile * 12 + 2 * kTile * static_cast<int>(sizeof(Placement)) +
         2 * kParities * (kTile / 32) * 4 + (2 * kRingStages + 5) * 8;
}

// Where the pixel of a row lies in its tile: the four of a batch are far apart, so that their
// corners rarely meet.
__device__ __forceinline__ int2 place_of_row(int row) {
  const int quarter = row % 4, y = row / 32, x = row / 4 % 8;
  return make_int2((quarter < 2 ? x : x ^ 4) + quarter % 2 * 8, y + quarter / 2 * 4);
}

__device__ __forceinline__ void load2(float* v, const float* shared) {
  const float2 pair = *reinterpret_cast<const float2*>(shared);
  v[0] = pair.x;
  v[1] = pair.y;
}

// dots: [blocks, K, 3, kTile], the points' gradients summed over the slices so far.
template <class T, int kOutputs>
__global__ void __launch_bounds__(kThreadsOfRoles, 1)
    backward_kernel(DeformDataGradParams p, float* dots) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kStageOutputs = stage_outputs<kOutputs>();
  constexpr int kStageBytes = kStageOutputs * kPanelBytes;
  constexpr int kParts = kOutputs / kStageOutputs;  // stages of a step
  constexpr int kProductWarps = kBlock / 32, kWarps = kWarpgroup / 32;
  unsigned char* weights = shared;
  float* window = reinterpret_cast<float*>(weights + kRingStages * kStageBytes);
  float* columns = window + (kWindow + kSpareCells) * kPanel;
  float* shares = columns + kTile * kColumnPitch;
  int* slots = reinterpret_cast<int*>(shares + 2 * kParities * kTile);  // in words, of the window
  int* special_slots = slots + 2 * kParities * kTile;
  Placement* placements = reinterpret_cast<Placement*>(special_slots + 2 * kParities * kTile);
  unsigned* specials = reinterpret_cast<unsigned*>(placements + 2 * kTile);
  uint64_t* full = reinterpret_cast<uint64_t*>(specials + 2 * kParities * (kTile / 32));
  uint64_t* empty = full + kRingStages;
  // A phase is a step, or every other one where there are two: a step ahead of the products,
  // placing may find the second phase after the one that it waits for.
  uint64_t* placed = empty + kRingStages;
  uint64_t* scattered = placed + 2;
  uint64_t* columns_full = placed + 4;

  const DeformShape& s = p.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int slices = (s.channels + kPanel - 1) / kPanel, steps = slices * points;
  const int lane = threadIdx.x & 31;
  const Tile tile = Tiles::at(s, blockIdx.x);
  const bool want_features = p.feature_sums || p.fixed_point;
  const bool want_points = p.grad_offset || p.grad_mask;
  auto cell_of = [&](int row) {
    const int2 at = place_of_row(row);
    return Cell{tile.batch, tile.top + at.y, tile.left + at.x};
  };

  const BackwardWindow around(s, tile);

  if (threadIdx.x == 0) {
    for (int i = 0; i < kRingStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kProductWarps);
    }
    mbarrier_init(placed, kWarps);
    mbarrier_init(placed + 1, kWarps);
    mbarrier_init(scattered, kWarps);
    mbarrier_init(scattered + 1, kWarps);
    mbarrier_init(columns_full, kProductWarps);
    mbarrier_init_fence();
  }
  for (int i = threadIdx.x; i < (kWindow + kSpareCells) * kPanel / 4; i += kThreadsOfRoles)
    store16(window + i * 4, Vec16{});
  __syncthreads();
  auto arrive = [&](uint64_t* barrier) {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(barrier);
  };

  if (threadIdx.x >= kBlock + kWarpgroup) {
    give_registers<kPlacingRegisters>();
    const int row = threadIdx.x % kWarpgroup;  // whose pixel a thread places
    const Cell cell = cell_of(row);
    const bool inside = in_map(s, cell);
    auto read = [&](int k) { return inside ? read_point<T>(p, cell, k) : RawPoint<T>{}; };
    RawPoint<T> raw = read(0);
    for (int number = 0, k = 0; number < steps; ++number) {
      Placement at{};
      int iy = 0, ix = 0;
      if (inside) at = place<T>(p, cell, k, raw, iy, ix);
      k = k + 1 == points ? 0 : k + 1;
      raw = read(k);
      // Whoever read what lay here is done with it.
      if (number > 1) mbarrier_wait(scattered + (number & 1), number / 2 - 1 & 1);
      placements[(number & 1) * kTile + row] = at;
      const float bottom = at.fy * at.scale, top = at.scale - bottom;
#pragma unroll
      for (int parity = 0; parity < kParities; ++parity) {
        const int low = (iy ^ parity >> 1) & 1, right = (ix ^ parity) & 1;
        const int y = iy + low, x = ix + right, wy = y - around.top, wx = x - around.left;
        const bool exists = at.corner >> (2 * low + right) & 1;
        const bool near = wy >= 0 && wy < around.kHeight && wx >= 0 && wx < around.kWidth;
        const float weight = low ? bottom : top, right_share = weight * at.fx;
        const int plane = (number & 1) * kParities + parity, spare = (kWindow + parity) * kPanel;
        const int index = (tile.batch * s.height + y) * s.width + x;
        const int slot = !exists ? spare : near ? (wy * around.kWidth + wx) * kPanel : ~index;
        // Outside the window, or at the cell of an earlier pixel of the batch.
        bool special = exists && !near;
#pragma unroll
        for (int other = 1; other < kBatch; ++other) {
          const int met = __shfl_xor_sync(0xffffffffu, exists ? index : -1, other);
          special |= (lane ^ other) < lane && exists && met == index;
        }
        shares[plane * kTile + row] = exists ? (right ? right_share : weight - right_share) : 0.0f;
        slots[plane * kTile + row] = special ? spare : slot;
        if (special) special_slots[plane * kTile + row] = slot;
        const unsigned vote = __ballot_sync(0xffffffffu, special);
        if (lane == 0) specials[plane * (kTile / 32) + row / 32] = vote;
      }
      arrive(placed + (number & 1));
    }
  } else if (threadIdx.x >= kBlock) {
    give_registers<kScatterRegisters>();
    static_assert(kWarps == kParities);
    const int warp = (threadIdx.x - kBlock) / 32;
    const FeatureSums sums(p);

    // One step's columns into the window.
    auto scatter = [&](int number, int slice) {
      const int plane = (number & 1) * kParities + warp, element = slice * kPanel + 2 * lane;
      float column[2 * kBatch], share[kBatch];  // of two channels
      Vec16 cells;
      auto read = [&](int b) {
        const int row = b * kBatch;
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          load2(column + 2 * i, columns + (row + i) * kColumnPitch + 2 * lane);
        load4(share, shares + plane * kTile + row);
        cells = load16(slots + plane * kTile + row);
      };
      auto sum_at = [&](int slot) { return reinterpret_cast<float2*>(window + slot + 2 * lane); };
      read(0);
#pragma unroll 4
      for (int b = 0; b < kTile / kBatch; ++b) {
        float2 part[kBatch], value[kBatch];
        float2* sum[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          part[i] = make_float2(column[2 * i] * share[i], column[2 * i + 1] * share[i]);
          sum[i] = sum_at(static_cast<int>(cells.word[i]));
        }
        if (b + 1 < kTile / kBatch) read(b + 1);
#pragma unroll
        for (int i = 0; i < kBatch; ++i) value[i] = *sum[i];
#pragma unroll
        for (int i = 0; i < kBatch; ++i)
          *sum[i] = make_float2(value[i].x + part[i].x, value[i].y + part[i].y);
      }
      // What was left out: pixels at the cell of another one of their batch, or outside the window.
#pragma unroll 1
      for (int group = 0; group < kTile / 32; ++group) {
        unsigned left = specials[plane * (kTile / 32) + group];
        for (; left; left &= left - 1) {
          const int row = group * 32 + __ffs(left) - 1, slot = special_slots[plane * kTile + row];
          const float share_of_row = shares[plane * kTile + row];
          float pair[2];
          load2(pair, columns + row * kColumnPitch + 2 * lane);
          pair[0] *= share_of_row;
          pair[1] *= share_of_row;
          if (slot >= 0) {
            const float2 value = *sum_at(slot);
            *sum_at(slot) = make_float2(value.x + pair[0], value.y + pair[1]);
          } else if (element < s.channels) {
            const int target = ~slot * s.channels + element;
            sums.add(target, pair[0]);
            sums.add(target + 1, pair[1]);
          }
        }
      }
    };
    // Adds the warp's cells of the window to global memory, and clears them.
    auto flush = [&](int slice) {
      const int c = (lane & 15) * 4, element = slice * kPanel + c;
      __syncwarp();
      for (int wy = (around.top ^ warp >> 1) & 1; wy < around.kHeight; wy += 2) {
        const int y = around.top + wy;
        const int first = ((around.left ^ warp) & 1) + (lane >> 4) * 2;
        for (int wx = first; wx < around.kWidth; wx += 4) {
          float* from = window + (wy * around.kWidth + wx) * kPanel + c;
          float sum[4];
          load4(sum, from);
          if (sum[0] == 0.0f && sum[1] == 0.0f && sum[2] == 0.0f && sum[3] == 0.0f) continue;
          store16(from, Vec16{});
          if (element < s.channels) {
            const int cell = (tile.batch * s.height + y) * s.width + around.left + wx;
            sums.add4(cell * s.channels + element, sum);
          }
        }
      }
      __syncwarp();
    };

    for (int number = 0, k = 0, slice = 0; number < steps; ++number) {
      const bool last_point = ++k == points;
      mbarrier_wait(placed + (number & 1), number >> 1 & 1);
      mbarrier_wait(columns_full, number & 1);
      if (want_features) {
        scatter(number, slice);
        if (last_point) flush(slice);
      }
      arrive(scattered + (number & 1));
      if (last_point) {
        k = 0;
        ++slice;
      }
    }
  } else {
    take_registers<kProductRegisters>();
    const int warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const unsigned char* source = static_cast<const unsigned char*>(p.weight);
    Ring filled(kRingStages);
    int to_fetch = steps * kParts;
    auto fetch = [&] {
      if (to_fetch-- <= 0) return;
      if (steps * kParts - to_fetch > kRingStages)
        mbarrier_wait(empty + filled.stage, filled.parity ^ 1);
      mbarrier_arrive_expect(full + filled.stage, kStageBytes);
      bulk_load(weights + filled.stage * kStageBytes, source, kStageBytes, full + filled.stage);
      source += kStageBytes;
      filled.advance();
    };
    if (threadIdx.x == 0)
      for (int i = 0; i < kRingStages; ++i) fetch();

    // The output gradient of pixels g and g + 8 of the warp, as the first operand of kOutputs / 16
    // products.
    uint32_t gradient[kOutputs / 16][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Cell cell = cell_of(warp * 16 + h * 8 + g);
      const bool inside = in_map(s, cell);
      const T* row = static_cast<const T*>(p.grad_out) + (inside ? row_of(s, cell) * s.outputs : 0);
#pragma unroll
      for (int m = 0; m < kOutputs / 32; ++m) {
        const int o = m * 32 + t * 8;
        const Vec16 chunk = inside && o < s.outputs ? load16(row + o) : Vec16{};
        gradient[2 * m][h] = chunk.word[0];
        gradient[2 * m][2 + h] = chunk.word[1];
        gradient[2 * m + 1][h] = chunk.word[2];
        gradient[2 * m + 1][2 + h] = chunk.word[3];
      }
    }

    const T* features = static_cast<const T*>(p.features);
    const int h_of_lane = t & 1, row_of_lane = warp * 16 + h_of_lane * 8 + g;
    // Eight lanes, two pixels, load at once: other halves of a row of 128 bytes, so that their
    // banks differ.
    const bool odd = g & 1;
    Ring used(kRingStages);
    for (int number = 0, k = 0, slice = 0; number < steps; ++number) {
      float sum[kPanel / 2];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        mbarrier_wait(full + used.stage, used.parity);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kStageOutputs / 16; ++i)
          Wgmma<kPanel, T>::rows(
              sum, gradient[part * (kStageOutputs / 16) + i],
              hopper_advance(matrix_descriptor(weights + used.stage * kStageBytes, 8 * kPanelBytes),
                             i / 4 * kPanel * kPanelBytes + i % 4 * 32),
              part + i > 0);
        wgmma_commit();
        used.advance();
      }

      float* dots_of_row = dots +
                           (static_cast<long long>(blockIdx.x) * points + k) * kPointGrads * kTile +
                           row_of_lane;
      float grads[kPointGrads] = {};
      if (want_points && slice > 0 && t < 2)
#pragma unroll
        for (int i = 0; i < kPointGrads; ++i) grads[i] = dots_of_row[i * kTile];
      mbarrier_wait(placed + (number & 1), number >> 1 & 1);
      Placement at[2];
      // Half a pixel each; three are under way.
      constexpr int kHalves = 4;
      Vec16 corners[kHalves - 1][4];
      auto load = [&](int half) {
        load_corners<T, true>(corners[half % (kHalves - 1)], features, at[half / 2], s,
                              slice * kPanel + (half % 2 ^ static_cast<int>(odd)) * 32 + t * 8);
      };
      if (want_points) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
          at[h] = placements[(number & 1) * kTile + warp * 16 + h * 8 + g];
#pragma unroll
        for (int half = 0; half + 1 < kHalves; ++half) load(half);
      }
      wgmma_wait<0>();
      if (lane == 0)
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const int stage = used.stage - kParts + part;
          mbarrier_arrive(empty + (stage < 0 ? stage + kRingStages : stage));
        }
      if (threadIdx.x == 0)
#pragma unroll
        for (int part = 0; part < kParts; ++part) fetch();

      if (number > 0) mbarrier_wait(scattered + (number - 1 & 1), number - 1 >> 1 & 1);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 8; ++i)
          *reinterpret_cast<float2*>(columns + (warp * 16 + h * 8 + g) * kColumnPitch + i / 4 * 32 +
                                     t * 8 + i % 4 * 2) =
              make_float2(sum[i * 4 + h * 2], sum[i * 4 + h * 2 + 1]);
      arrive(columns_full);

      if (want_points) {
        float dot[2][4] = {};
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int h = half / 2, j = half % 2;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int mine = j * 16 + i * 4 + h * 2, other = (j ^ 1) * 16 + i * 4 + h * 2;
            const float first = odd ? sum[other] : sum[mine];
            const float second = odd ? sum[other + 1] : sum[mine + 1];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              const float2 pair = unpack2(corners[half % (kHalves - 1)][c].word[i], T{});
              dot[h][c] = fmaf(second, pair.y, fmaf(first, pair.x, dot[h][c]));
            }
          }
          if (half == 0) load(kHalves - 1);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            dot[h][c] += __shfl_xor_sync(0xffffffffu, dot[h][c], 1);
            dot[h][c] += __shfl_xor_sync(0xffffffffu, dot[h][c], 2);
          }
        if (t < 2) {
          float d[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) d[c] = h_of_lane ? dot[1][c] : dot[0][c];
          const float scale = h_of_lane ? at[1].scale : at[0].scale;
          const float fy = h_of_lane ? at[1].fy : at[0].fy, fx = h_of_lane ? at[1].fx : at[0].fx;
          add_point_grads(grads, d, fy, fx, scale);
          const Cell cell = cell_of(row_of_lane);
          if (slice + 1 < slices) {
#pragma unroll
            for (int i = 0; i < kPointGrads; ++i) dots_of_row[i * kTile] = grads[i];
          } else if (in_map(s, cell)) {
            store_point_grads<T>(p, cell, k, grads, scale);
          }
        }
      }
      if (++k == points) {
        k = 0;
        ++slice;
      }
    }
  }
#endif
}

// Floats of `dots` that backward wants.
inline long long dots_size(const DeformShape& s) {
  return s.channels <= kPanel ? 0
                              : static_cast<long long>(s.batch) * Tiles::of_image(s) * s.kernel_h *
                                    s.kernel_w * kPointGrads * kTile;
}

inline bool can_backward(const DeformDataGradParams& p) {
  const DeformShape& s = p.shape;
  return can(s, p.features) && aligned16(p.grad_out) && s.outputs <= 256 &&
         backward_bytes<256>() <= shared_memory_limit();
}

// The weight is packed by pack<T, true>.
template <class T>
void backward(const DeformDataGradParams& p, float* dots, void* stream) {
  const DeformShape& s = p.shape;
  if (s.batch == 0) return;
  with_tile(outputs_of_block(s.outputs), [&](auto n) {
    GGNET_LAUNCH((backward_kernel<T, n()>), dim3(s.batch * Tiles::of_image(s)),
                 dim3(kThreadsOfRoles), backward_bytes<n()>(), stream, p, dots);
  });
}

}  // namespace ggnet::deform::hopper

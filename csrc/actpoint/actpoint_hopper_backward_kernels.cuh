// The gradients of features and points on Hopper: see actpoint_hopper.cuh for tiles and orders.
//
// A step is a point and a slice of 64 channels, points inside slices. Its grad_columns, 128 pixels
// by 64 channels, come from products whose first operand, the tile's output gradient, stays in
// registers for the whole kernel. From them and the corners a lane takes the dot products that the
// points' gradients need. The features' gradient is summed in shared memory first, in a window of
// cells around the tile, as each cell is met about as often as there are points: a warp owns eight
// channels of the window, its lanes are four corners by eight channels, and it walks through the
// pixels in order, so that no sum needs an atomic operation and its order is fixed. After a slice's
// last point the window is added to global memory, where neighboring tiles overlap. Corners outside
// the window are added there at once.
#pragma once

#include "actpoint/actpoint_hopper.cuh"

namespace ggnet::deform::hopper {

constexpr int kWindowHeight = 19, kWindowWidth = 28, kWindow = kWindowHeight * kWindowWidth;
constexpr int kSpareCells = 4;          // what has no cell in the window goes there
constexpr int kColumnPitch = kTile + 4;  // floats
constexpr int kRingStages = 3;
constexpr int kBatch = 4;  // pixels whose sums are under way at once

// Outputs whose weights a stage of the ring holds.
template <int kOutputs>
__host__ __device__ constexpr int stage_outputs() {
  return kOutputs < 128 ? kOutputs : 128;
}

// Shared memory: stages of weights; the window; grad_columns, channel by channel; shares and cells
// of four corners, two steps; placements; which pixels are special, two steps; barriers.
template <int kOutputs>
__host__ __device__ constexpr int backward_bytes() {
  return kRingStages * stage_outputs<kOutputs>() * kPanelBytes +
         (kWindow + kSpareCells) * kPanel * 4 + kPanel * kColumnPitch * 4 + 2 * 2 * 4 * kTile * 4 +
         kTile * static_cast<int>(sizeof(Placement)) + 2 * (kTile / 32) * 4 + 2 * kRingStages * 8;
}

// Where the pixel of a row lies in its tile: the four of a batch are far apart, so that their
// corners rarely meet.
__device__ __forceinline__ int2 place_of_row(int row) {
  const int quarter = row % 4, y = row / 32, x = row / 4 % 8;
  return make_int2((quarter < 2 ? x : x ^ 4) + quarter % 2 * 8, y + quarter / 2 * 4);
}

// Swizzles, in words: where channel c of pixel p lies in grad_columns, and cell (y, x) of the window,
// whose channels are XORed in.
__device__ __forceinline__ int column_slot(int c, int p) {
  return c * kColumnPitch + (p ^ (c >> 3 & 3) * 8);
}
__device__ __forceinline__ int window_slot(int y, int x) {
  return (y * kWindowWidth + x) * kPanel + ((x & 1) + (y & 1) * 2) * 8;
}

// Where the features' gradient is summed in global memory.
struct FeatureSums {
  float* sums;
  long long* fixed_point;
  float units;  // in 1

  __device__ __forceinline__ void add(int element, float value) const {
    if (sums)
      atomicAdd(sums + element, value);
    else
      atomicAdd(reinterpret_cast<unsigned long long*>(fixed_point + element),
                static_cast<unsigned long long>(static_cast<long long>(value * units)));
  }
  __device__ __forceinline__ void add4(int element, const float (&value)[4]) const {
    if (sums) {
      atomic_add4(sums + element, value);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) add(element + i, value[i]);
    }
  }
};

__device__ __forceinline__ void load4(float (&v)[4], const float* shared) {
  const Vec16 bits = load16(shared);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = __uint_as_float(bits.word[i]);
}

// dots: [blocks, K, 3, kTile], the points' gradients summed over the slices so far.
template <class T, int kOutputs>
__global__ void __launch_bounds__(kBlock, 1) backward_kernel(DeformBackwardParams p, float* dots) {
#if defined(GGNET_HOPPER) || !defined(__CUDACC__)
  GGNET_DYNAMIC_SHARED(shared);
  constexpr int kStageOutputs = stage_outputs<kOutputs>();
  constexpr int kStageBytes = kStageOutputs * kPanelBytes;
  constexpr int kParts = kOutputs / kStageOutputs;  // stages of a step
  unsigned char* weights = shared;
  float* window = reinterpret_cast<float*>(weights + kRingStages * kStageBytes);
  float* columns = window + (kWindow + kSpareCells) * kPanel;
  float* shares = columns + kPanel * kColumnPitch;
  int* cells = reinterpret_cast<int*>(shares + 2 * 4 * kTile);
  Placement* placements = reinterpret_cast<Placement*>(cells + 2 * 4 * kTile);
  unsigned* specials = reinterpret_cast<unsigned*>(placements + kTile);
  uint64_t* full = reinterpret_cast<uint64_t*>(specials + 2 * (kTile / 32));
  uint64_t* empty = full + kRingStages;

  const DeformForwardParams& f = p.forward;
  const DeformShape& s = f.shape;
  const int points = s.kernel_h * s.kernel_w;
  const int slices = (s.channels + kPanel - 1) / kPanel, steps = slices * points;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const Tile tile = tile_of(s, blockIdx.x);
  const int window_top = tile.top * s.stride_h + (kTileHeight - 1) * s.stride_h / 2 - s.pad_h +
                         (s.kernel_h - 1) * s.dilation_h / 2 - (kWindowHeight - 3) / 2;
  const int window_left = tile.left * s.stride_w + (kTileWidth - 1) * s.stride_w / 2 - s.pad_w +
                          (s.kernel_w - 1) * s.dilation_w / 2 - (kWindowWidth - 4) / 2;
  const bool want_features = p.grad_features || p.fixed_point;
  const bool want_points = p.grad_offset || p.grad_mask;
  const FeatureSums sums{p.grad_features, p.fixed_point, p.fixed_point ? 1.0f / *p.unit : 1.0f};
  auto cell_of = [&](int row) {
    const int2 at = place_of_row(row);
    return Cell{tile.batch, tile.top + at.y, tile.left + at.x};
  };

  if (threadIdx.x == 0) {
    for (int i = 0; i < kRingStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kBlock / 32);
    }
    mbarrier_init_fence();
  }
  // The channels of the window that a warp owns are its alone: no barrier separates its uses.
  for (int i = lane; i < (kWindow + kSpareCells) * 8; i += 32)
    window[i / 8 * kPanel + warp * 8 + i % 8] = 0.0f;
  __syncthreads();

  const unsigned char* source = static_cast<const unsigned char*>(f.weight);
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

  // The features' gradient from the columns of a step: `from` to `to`, groups of eight batches.
  const int corner = lane >> 3, channel = warp * 8 + (lane & 7);
  auto scatter = [&](int number, int slice, int from, int to) {
    const float* share_of = shares + ((number & 1) * 4 + corner) * kTile;
    const int* cell_of_corner = cells + ((number & 1) * 4 + corner) * kTile;
    float column[kBatch], share[kBatch];
    Vec16 slots;
    auto read = [&](int b) {
      load4(column, columns + column_slot(channel, b * kBatch));
      load4(share, share_of + b * kBatch);
      slots = load16(cell_of_corner + b * kBatch);
    };
    read(from * 8);
    for (int group = from; group < to; ++group) {
      unsigned special = specials[(number & 1) * (kTile / 32) + group];
#pragma unroll 2
      for (int b = group * 8; b < group * 8 + 8; ++b, special >>= kBatch) {
        float part[kBatch];
        int slot[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          part[i] = column[i] * share[i];
          slot[i] = static_cast<int>(slots.word[i]);
        }
        if (b + 1 < to * 8) read(b + 1);
        if (special & ((1 << kBatch) - 1)) {
          const int element = slice * kPanel + channel;
#pragma unroll
          for (int i = 0; i < kBatch; ++i) {
            if (slot[i] >= 0)
              window[slot[i] ^ channel] += part[i];
            else if (element < s.channels)
              sums.add(~slot[i] * s.channels + element, part[i]);
            __syncwarp();
          }
        } else {
          float value[kBatch];
#pragma unroll
          for (int i = 0; i < kBatch; ++i) value[i] = window[slot[i] ^ channel];
#pragma unroll
          for (int i = 0; i < kBatch; ++i) window[slot[i] ^ channel] = value[i] + part[i];
          __syncwarp();
        }
      }
    }
  };
  // Adds the warp's channels of the window to global memory, and clears them.
  auto flush = [&](int slice) {
    const int c = warp * 8 + (lane & 1) * 4, element = slice * kPanel + c;
    for (int i = lane >> 1; i < kWindow; i += 16) {
      const int y = i / kWindowWidth, x = i % kWindowWidth;
      float* from = window + (window_slot(y, x) ^ c);
      float sum[4];
      load4(sum, from);
      if (sum[0] == 0.0f && sum[1] == 0.0f && sum[2] == 0.0f && sum[3] == 0.0f) continue;
      store16(from, Vec16{});
      const int cell = (tile.batch * s.height + window_top + y) * s.width + window_left + x;
      if (element < s.channels) sums.add4(cell * s.channels + element, sum);
    }
    __syncwarp();
  };

  Ring used(kRingStages);
  int k = 0, slice = 0;
  for (int number = 0; number < steps; ++number) {
    const int row = threadIdx.x;  // the pixel that this thread places, of the first four warps
    RawPoint<T> raw{};
    const Cell cell = cell_of(row % kTile);
    if (row < kTile && in_map(s, cell)) raw = read_point<T>(f, cell, k);
    const int h_of_lane = t & 1, dots_row = warp * 16 + h_of_lane * 8 + g;
    float* dots_of_row =
        dots + (static_cast<long long>(blockIdx.x) * points + k) * 3 * kTile + dots_row;
    float before[3] = {};
    if (want_points && slice > 0 && t < 2)
#pragma unroll
      for (int i = 0; i < 3; ++i) before[i] = dots_of_row[i * kTile];

    // The products of this step run while the columns of the one before are scattered.
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
      constexpr int kShare = kTile / kBatch / 8 / kParts;
      if (want_features && number > 0)
        scatter(number - 1, k == 0 ? slice - 1 : slice, part * kShare, (part + 1) * kShare);
    }
    if (want_features && number > 0 && k == 0) flush(slice - 1);

    if (row < kTile) {
      int iy, ix;
      Placement at{};
      iy = ix = 0;
      if (in_map(s, cell)) at = place<T>(f, cell, k, raw, iy, ix);
      placements[row] = at;
      const float bottom = at.fy * at.scale, top = at.scale - bottom;
      const float share[4] = {top - top * at.fx, top * at.fx, bottom - bottom * at.fx,
                              bottom * at.fx};
      bool special = false;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int y = iy + (i >> 1), x = ix + (i & 1);
        const int wy = y - window_top, wx = x - window_left;
        const bool exists = at.corner >> i & 1;
        const bool near = wy >= 0 && wy < kWindowHeight && wx >= 0 && wx < kWindowWidth;
        const int target = (number & 1) * 4 * kTile + i * kTile + row;
        shares[target] = exists ? share[i] : 0.0f;
        // The spare cell keeps the four corners in different banks.
        cells[target] = !exists ? (kWindow + i) * kPanel + ((wx & 1) + (wy & 1) * 2) * 8
                        : near  ? window_slot(wy, wx)
                                : ~((tile.batch * s.height + y) * s.width + x);
        special |= exists && !near;
      }
#pragma unroll
      for (int other = 1; other < kBatch; ++other) {
        const int oy = __shfl_xor_sync(0xffffffffu, iy, other);
        const int ox = __shfl_xor_sync(0xffffffffu, ix, other);
        const int exists = __shfl_xor_sync(0xffffffffu, at.corner & 15, other);
        special |= exists && (at.corner & 15) && abs(oy - iy) <= 1 && abs(ox - ix) <= 1;
      }
      // A corner outside the window, or two pixels of a batch at one cell.
      const unsigned vote = __ballot_sync(0xffffffffu, special);
      if (lane == 0) specials[(number & 1) * (kTile / 32) + warp] = vote;
    }
    __syncthreads();  // placements are there, columns are free

    const T* features = static_cast<const T*>(f.features);
    float dot[2][4] = {};
    Placement at[2];
    Vec16 corners[2][2][4];
    // Eight lanes, two pixels, load at once: other halves of a row of 128 bytes, so that their
    // banks differ.
    const bool odd = g & 1;
    if (want_points) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        at[h] = placements[warp * 16 + h * 8 + g];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          load_corners<T, true>(corners[h][j], features, at[h], s,
                                slice * kPanel + (j ^ static_cast<int>(odd)) * 32 + t * 8);
      }
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
    if (want_features) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 16; ++i)
          columns[column_slot(i / 8 * 32 + t * 8 + i % 8, warp * 16 + h * 8 + g)] =
              sum[i / 8 * 16 + i % 8 / 2 * 4 + h * 2 + i % 2];
    }
    if (want_points) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int mine = j * 16 + i * 4 + h * 2, other = (j ^ 1) * 16 + i * 4 + h * 2;
            const float first = odd ? sum[other] : sum[mine];
            const float second = odd ? sum[other + 1] : sum[mine + 1];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              const float2 pair = unpack2(corners[h][j][c].word[i], T{});
              dot[h][c] = fmaf(second, pair.y, fmaf(first, pair.x, dot[h][c]));
            }
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
        const float up = 1.0f - fy, left = 1.0f - fx;
        const float grads[3] = {
            before[0] + scale * (left * (d[2] - d[0]) + fx * (d[3] - d[1])),
            before[1] + scale * (up * (d[1] - d[0]) + fy * (d[3] - d[2])),
            before[2] + up * (left * d[0] + fx * d[1]) + fy * (left * d[2] + fx * d[3])};
        const Cell mine = cell_of(dots_row);
        if (slice + 1 < slices) {
#pragma unroll
          for (int i = 0; i < 3; ++i) dots_of_row[i * kTile] = grads[i];
        } else if (in_map(s, mine)) {
          if (p.grad_offset) {
            const Strides& st = p.grad_offset_strides;
            T* target = static_cast<T*>(p.grad_offset) + mine.batch * st.batch + mine.y * st.row +
                        mine.x * st.column;
            target[(2 * k) * st.channel] = from_float<T>(grads[0]);
            target[(2 * k + 1) * st.channel] = from_float<T>(grads[1]);
          }
          if (p.grad_mask) {
            const Strides& st = p.grad_mask_strides;
            const float value = f.sigmoid ? grads[2] * scale * (1.0f - scale) : grads[2];
            static_cast<T*>(p.grad_mask)[mine.batch * st.batch + k * st.channel +
                                         mine.y * st.row + mine.x * st.column] =
                from_float<T>(value);
          }
        }
      }
    }
    __syncthreads();  // columns are there
    if (++k == points) {
      k = 0;
      ++slice;
    }
  }
  if (want_features && steps > 0) {
    scatter(steps - 1, slices - 1, 0, kTile / kBatch / 8);
    flush(slices - 1);
  }
#endif
}

// Floats of `dots` that backward wants.
inline long long dots_size(const DeformShape& s) {
  return s.channels <= kPanel ? 0
                              : static_cast<long long>(s.batch) * tiles_of_image(s) * s.kernel_h *
                                    s.kernel_w * 3 * kTile;
}

inline bool can_backward(const DeformBackwardParams& p) {
  const DeformShape& s = p.forward.shape;
  return can(s, p.forward.features) && aligned16(p.grad_out) && s.outputs <= 256 &&
         backward_bytes<256>() <= shared_memory_limit();
}

// The weight is packed by pack<T, true>.
template <class T>
void backward(const DeformBackwardParams& p, float* dots, void* stream) {
  const DeformShape& s = p.forward.shape;
  if (s.batch == 0) return;
  with_tile(outputs_of_block(s), [&](auto n) {
    GGNET_LAUNCH((backward_kernel<T, n()>), dim3(s.batch * tiles_of_image(s)), dim3(kBlock),
                 backward_bytes<n()>(), stream, p, dots);
  });
}

}  // namespace ggnet::deform::hopper

// The k highest local maxima on the device: peaks.h says what a peak is and how ties are broken.
//
// A peak is a 64-bit key: its logit's bits, made to compare like integers, above the complement of
// its flat index. Larger keys come first, and no two are equal, so the k largest are one set and
// their order is one order, whatever the blocks' timing.
//
// scan_kernel reads the map once. A block keeps the best keys of its cells in shared memory; when
// its list is nearly full it sorts it, keeps k, and from then on compares one logit a cell with the
// k-th; only cells above it look at their neighbors, which L1 holds. select_kernel, one block an
// image, finds the k-th largest of all blocks' keys by radix selection, eight bits a pass, and
// sorts those k.
#pragma once

#include "common/device.h"
#include "topk_peaks/topk_peaks.h"

namespace ggnet {
namespace peaks {

constexpr int kMaxK = 1024;
constexpr int kThreads = 256;         // of scan_kernel
constexpr int kStep = 2048;           // cells that a block looks at between two looks at its list
constexpr int kCapacity = 2 * kStep;  // keys of a block's list
constexpr int kShare = 16384;         // cells of a block
constexpr int kSelectThreads = 1024;

using Key = unsigned long long;  // 0: none

struct Map {
  const void* logits;
  long long image_stride;
  int channels, height, width, kernel_size;
  bool channels_last;
};

__device__ __forceinline__ unsigned ordered(float v) {
  const unsigned bits = __float_as_uint(v + 0.0f);  // -0 equals 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(Key key) {
  const unsigned bits = static_cast<unsigned>(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}
__device__ __forceinline__ unsigned index_of(Key key) { return ~static_cast<unsigned>(key); }
__device__ __forceinline__ Key make_key(float logit, unsigned index) {
  return static_cast<Key>(ordered(logit)) << 32 | static_cast<unsigned>(~index);
}

// Sorts keys[0, size), largest first; size is a power of two, all threads of the block take part.
__device__ __forceinline__ void sort_descending(Key* keys, int size) {
  for (int run = 2; run <= size; run *= 2)
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const Key a = keys[low], b = keys[high];
        if ((a < b) == ((low & run) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
}
__device__ __forceinline__ int power_of_two(int n) {
  int size = 1;
  while (size < n) size *= 2;
  return size;
}

// Keeps the k largest of the `count` keys, sorted; returns how many are left.
__device__ __forceinline__ int keep_best(Key* keys, int count, int k) {
  const int size = power_of_two(count);
  for (int i = count + threadIdx.x; i < size; i += blockDim.x) keys[i] = 0;
  __syncthreads();
  sort_descending(keys, size);
  return count < k ? count : k;
}

// The peak's key if the cell at `memory_index` of an image is a peak above `threshold`, else 0.
template <class T>
__device__ __forceinline__ Key peak_key(const Map& p, const T* image, int memory_index, float logit,
                                        Key threshold) {
  if (!(logit > -INFINITY)) return 0;  // NaN as well
  const int area = p.height * p.width;
  const int channel = p.channels_last ? memory_index % p.channels : memory_index / area;
  const int cell = p.channels_last ? memory_index / p.channels : memory_index % area;
  const Key key = make_key(logit, static_cast<unsigned>(channel * area + cell));
  if (key <= threshold) return 0;
  const int step = p.channels_last ? p.channels : 1, reach = p.kernel_size / 2;
  const T* plane = image + (p.channels_last ? channel : channel * area);
  const int y = cell / p.width, x = cell % p.width;
  const int top = y - reach > 0 ? y - reach : 0, left = x - reach > 0 ? x - reach : 0;
  const int bottom = y + reach < p.height ? y + reach : p.height - 1;
  const int right = x + reach < p.width ? x + reach : p.width - 1;
  for (int v = top; v <= bottom; ++v)
    for (int u = left; u <= right; ++u)
      if (to_float(plane[(v * p.width + u) * step]) > logit) return 0;
  return key;
}

// found: (batch, blocks, k), each block's best keys, 0 after the last. Grid: (blocks, batch).
template <class T>
__global__ void __launch_bounds__(kThreads) scan_kernel(Map p, int k, Key* found) {
  constexpr int kElements = 16 / sizeof(T);
  GGNET_SHARED_ARRAY(Key, keys, kCapacity);
  GGNET_SHARED_ARRAY(int, shared_count, 1);
  const T* image = static_cast<const T*>(p.logits) + blockIdx.y * p.image_stride;
  const bool aligned = reinterpret_cast<uintptr_t>(image) % 16 == 0;
  const long long size = static_cast<long long>(p.channels) * p.height * p.width;
  const long long begin = static_cast<long long>(blockIdx.x) * kShare;
  const int end = static_cast<int>(begin + kShare < size ? begin + kShare : size);
  Key threshold = 0;
  unsigned floor = 0;  // its upper half: what a logit must reach
  if (threadIdx.x == 0) shared_count[0] = 0;
  __syncthreads();
  const auto look = [&](int index, float logit) {
    if (ordered(logit) < floor) return;
    const Key key = peak_key(p, image, index, logit, threshold);
    if (key != 0) keys[atomicAdd(&shared_count[0], 1)] = key;
  };
  for (int start = static_cast<int>(begin); start < end; start += kStep) {
    for (int i = start + threadIdx.x * kElements; i < start + kStep && i < end;
         i += kThreads * kElements) {
      if (aligned && i + kElements <= end) {
        Pack<T> pack;
        pack.bits = load16(image + i);
#pragma unroll
        for (int j = 0; j < kElements; ++j) look(i + j, to_float(pack.element[j]));
      } else {
        for (int j = i; j < i + kElements && j < end; ++j) look(j, to_float(image[j]));
      }
    }
    __syncthreads();
    const int count = shared_count[0];
    if (count > kCapacity - kStep) {
      const int left = keep_best(keys, count, k);
      if (left == k) threshold = keys[k - 1];
      floor = static_cast<unsigned>(threshold >> 32);
      if (threadIdx.x == 0) shared_count[0] = left;
    }
    __syncthreads();
  }
  const int left = keep_best(keys, shared_count[0], k);
  Key* out = found + (static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x) * k;
  for (int i = threadIdx.x; i < k; i += kThreads) out[i] = i < left ? keys[i] : 0;
}

// The k-th largest of an image's keys (of which at least k are not 0), one byte a pass from the
// top.
__device__ __forceinline__ Key kth_largest(const Key* keys, int count, int k, int* histogram,
                                           int* choice) {
  Key prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kSelectThreads) histogram[i] = 0;
    __syncthreads();
    const Key mask = shift == 56 ? 0 : ~Key{0} << (shift + 8);
    for (int i = threadIdx.x; i < count; i += kSelectThreads) {
      const Key key = keys[i];
      if ((key & mask) == prefix) atomicAdd(&histogram[key >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int byte = 255;
      while (histogram[byte] < k) k -= histogram[byte--];
      choice[0] = byte;
      choice[1] = k;
    }
    __syncthreads();
    prefix |= static_cast<Key>(choice[0]) << shift;
    k = choice[1];
    __syncthreads();
  }
  return prefix;
}

// found: (batch, count) keys; scores, channels, ys, xs: (batch, k). Grid: one block an image.
static __global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const Key* found, int count, int k, int area, int width, float* scores,
                  long long* channels, long long* ys, long long* xs) {
  GGNET_SHARED_ARRAY(Key, best, kMaxK);
  GGNET_SHARED_ARRAY(int, histogram, 256);
  GGNET_SHARED_ARRAY(int, choice, 2);
  const Key* keys = found + static_cast<long long>(blockIdx.x) * count;
  int mine = 0;
  for (int i = threadIdx.x; i < count; i += kSelectThreads) mine += keys[i] != 0;
  if (threadIdx.x == 0) choice[0] = 0;
  __syncthreads();
  atomicAdd(&choice[0], mine);
  __syncthreads();
  const int total = choice[0], kept = total < k ? total : k;
  __syncthreads();
  const Key lowest = total > k ? kth_largest(keys, count, k, histogram, choice) : 1;
  if (threadIdx.x == 0) choice[0] = 0;
  const int size = power_of_two(k);
  for (int i = threadIdx.x; i < size; i += kSelectThreads) best[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kSelectThreads)
    if (keys[i] >= lowest) best[atomicAdd(&choice[0], 1)] = keys[i];
  __syncthreads();
  sort_descending(best, size);
  for (int i = threadIdx.x; i < k; i += kSelectThreads) {
    const long long out = static_cast<long long>(blockIdx.x) * k + i;
    const int index = i < kept ? static_cast<int>(index_of(best[i])) : 0;
    scores[out] = i < kept ? 1.0f / (1.0f + expf(-logit_of(best[i]))) : 0.0f;
    channels[out] = index / area;
    ys[out] = index % area / width;
    xs[out] = index % width;
  }
}

inline int blocks(const PeaksParams& p) {
  return static_cast<int>((p.channels * p.height * p.width + kShare - 1) / kShare);
}
// Keys that topk_peaks needs room for.
inline long long scratch_size(const PeaksParams& p) { return p.batch * blocks(p) * p.k; }

// k is at most kMaxK and an image has fewer than 2^31 cells, at least one.
template <class T>
void topk_peaks(const T* logits, float* scores, long long* channels, long long* ys, long long* xs,
                const PeaksParams& p, Key* scratch, void* stream) {
  if (p.batch == 0) return;
  const Map map{logits,
                p.image_stride,
                static_cast<int>(p.channels),
                static_cast<int>(p.height),
                static_cast<int>(p.width),
                static_cast<int>(p.kernel_size),
                p.channels_last};
  const int k = static_cast<int>(p.k), count = blocks(p) * k;
  const unsigned batch = static_cast<unsigned>(p.batch);
  GGNET_LAUNCH((scan_kernel<T>), dim3(static_cast<unsigned>(blocks(p)), batch), dim3(kThreads), 0,
               stream, map, k, scratch);
  GGNET_LAUNCH(select_kernel, dim3(batch), dim3(kSelectThreads), 0, stream, scratch, count, k,
               map.height * map.width, map.width, scores, channels, ys, xs);
}

}  // namespace peaks
}  // namespace ggnet

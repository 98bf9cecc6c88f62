// Hard-negative attentive loss on the device: hna_loss.h says what it computes.
//
// count_positives reads the target and adds up N, exactly; terms_kernel then reads logits and
// target once, writes the gradient and one partial sum a block; sum_kernel adds those in a fixed
// order. Every block has a fixed share of the cells, so no result depends on the device or on
// timing. Compulsory traffic is one read of each map and one write of the gradient; the count adds
// a read of the target, most of which a large L2 still holds for the second pass.
#pragma once

#include <cmath>

#include "common/device.h"
#include "hna_loss/hna_loss.h"

namespace ggnet {
namespace hna {

constexpr int kThreads = 256;
constexpr int kShare = 4096;    // cells of a block
constexpr int kTileCells = 64;  // of a block that turns the target: cells by channels
constexpr int kTileChannels = 32;

struct Constants {
  float alpha, gamma, hard_weight;
  float eps, rest, log_eps, log_rest;  // rest = 1 - eps
  float clamped_from;                  // the logit of 1 - eps
};

inline Constants constants(const HnaLossParams& p) {
  return {static_cast<float>(p.alpha),
          static_cast<float>(p.gamma),
          static_cast<float>(std::exp2(p.beta)),
          static_cast<float>(p.eps),
          1.0f - static_cast<float>(p.eps),
          static_cast<float>(std::log(p.eps)),
          static_cast<float>(std::log1p(-p.eps)),
          static_cast<float>(std::log1p(-p.eps) - std::log(p.eps))};
}

// v between low and high; NaN stays.
__device__ __forceinline__ float limit(float v, float low, float high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

// A cell's term, and through `derivative` that of minus the term, of the logit x at the target m.
//
// A positive is a negative seen from the other side: with z = -x for positives and z = x for all
// others, a = sigmoid(z) and L = log(1 - a), the term is w a^alpha L and its derivative by z is
// w a^alpha (alpha (1 - a) L - a). kPaperPowers: alpha = 2 and gamma = 4.
template <bool kPaperPowers>
__device__ __forceinline__ float cell(float x, float m, const Constants& c, float& derivative) {
  const bool positive = m == 1.0f;
  const float side = positive ? -1.0f : 1.0f;
  const float z = x * side;
  const float e = expf(-fabsf(z));
  const float major = 1.0f / (1.0f + e);
  const float a = z >= 0.0f ? major : e * major;
  const float log_b = limit((-z > 0.0f ? 0.0f : -z) - log1pf(e), c.log_eps, c.log_rest);
  const float rest = positive ? 1.0f : 1.0f - m;  // the weight of a positive is 1
  const float clamped = limit(a, c.eps, c.rest);
  float power, weight;
  if (kPaperPowers) {
    power = clamped * clamped;
    weight = (rest * rest) * (rest * rest);
  } else {
    power = powf(clamped, c.alpha);
    weight = powf(rest, c.gamma);
  }
  if (m == -1.0f) weight = c.hard_weight;
  const float scale = weight * power;
  derivative =
      fabsf(z) > c.clamped_from ? 0.0f : scale * side * (a - c.alpha * ((1.0f - a) * log_b));
  return scale * log_b;
}

// The block's sum, to thread 0, in an order that only the number of threads decides.
template <class S>
__device__ __forceinline__ S block_sum(S value) {
  GGNET_SHARED_ARRAY(S, of_warps, kThreads / 32);
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kThreads / 32; ++warp) value += of_warps[warp];
  return value;
}

template <class T>
__device__ __forceinline__ bool aligned16(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// `count` consecutive elements as floats: 128-bit loads where the address allows them.
template <int count, class T>
__device__ __forceinline__ void load_floats(const T* address, float (&v)[count]) {
  constexpr int kElements = 16 / sizeof(T);
  static_assert(count % kElements == 0);
#pragma unroll
  for (int i = 0; i < count; i += kElements) {
    Pack<T> pack;
    pack.bits = load16(address + i);
#pragma unroll
    for (int j = 0; j < kElements; ++j) v[i + j] = to_float(pack.element[j]);
  }
}

// *positives += cells of the target that are 1. Grid: any number of blocks.
template <class M>
__global__ void __launch_bounds__(kThreads)
    count_positives_kernel(const M* target, long long total, int* positives) {
  constexpr int kElements = 16 / sizeof(M);
  const long long stride = static_cast<long long>(gridDim.x) * kThreads;
  const long long first = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  const long long vectors = aligned16(target) ? total / kElements : 0;
  int count = 0;
  for (long long i = first; i < vectors; i += stride) {
    float m[kElements];
    load_floats(target + i * kElements, m);
#pragma unroll
    for (int j = 0; j < kElements; ++j) count += m[j] == 1.0f;
  }
  for (long long i = vectors * kElements + first; i < total; i += stride)
    count += to_float(target[i]) == 1.0f;
  count = block_sum(count);
  if (threadIdx.x == 0 && count > 0) atomicAdd(positives, count);
}

// Of the derivatives: 1 / N, times *factor unless it is null.
__device__ __forceinline__ float scale_of(const int* positives, const float* factor) {
  const float n = static_cast<float>(*positives > 1 ? *positives : 1);
  return (factor != nullptr ? *factor : 1.0f) / n;
}

// Logits and target in the same order. partial[block] = sum of its kShare cells' terms, unless
// it is null.
template <class T, class M, bool kPaperPowers>
__global__ void __launch_bounds__(kThreads)
    terms_kernel(const T* logits, const M* target, T* grad, long long total, Constants c,
                 const int* positives, const float* factor, double* partial) {
  constexpr int kVector = 8;  // cells of a thread at a time
  const float scale = scale_of(positives, factor);
  const long long begin = static_cast<long long>(blockIdx.x) * kShare;
  const bool aligned = aligned16(logits) && aligned16(target) && aligned16(grad);
  double sum = 0.0;
  for (int i = threadIdx.x * kVector; i < kShare; i += kThreads * kVector) {
    const long long first = begin + i;
    float x[kVector], m[kVector], derivative[kVector];
    float terms = 0.0f;
    if (aligned && first + kVector <= total) {
      load_floats(logits + first, x);
      load_floats(target + first, m);
#pragma unroll
      for (int j = 0; j < kVector; ++j) terms += cell<kPaperPowers>(x[j], m[j], c, derivative[j]);
      if (grad != nullptr) {
        constexpr int kElements = 16 / sizeof(T);
#pragma unroll
        for (int j = 0; j < kVector; j += kElements) {
          Pack<T> pack;
#pragma unroll
          for (int k = 0; k < kElements; ++k)
            pack.element[k] = from_float<T>(derivative[j + k] * scale);
          store16(grad + first + j, pack.bits);
        }
      }
    } else {
      for (long long j = first; j < first + kVector && j < total; ++j) {
        terms += cell<kPaperPowers>(to_float(logits[j]), to_float(target[j]), c, derivative[0]);
        if (grad != nullptr) grad[j] = from_float<T>(derivative[0] * scale);
      }
    }
    sum += terms;
  }
  if (partial == nullptr) return;
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Logits and gradient (batch, cells, channels), target (batch, channels, cells): each block turns a
// tile of the target in shared memory, so that both sides are read row by row.
// Grid: (cell tiles, channel tiles, batch).
template <class T, class M, bool kPaperPowers>
__global__ void __launch_bounds__(kThreads)
    turned_terms_kernel(const T* logits, const M* target, T* grad, int channels, int cells,
                        Constants c, const int* positives, const float* factor, double* partial) {
  GGNET_SHARED_ARRAY(float, turned, kTileChannels*(kTileCells + 1));  // one more: other banks
  const float scale = scale_of(positives, factor);
  const int first_cell = blockIdx.x * kTileCells, first_channel = blockIdx.y * kTileChannels;
  const long long image = static_cast<long long>(blockIdx.z) * channels * cells;
  for (int i = threadIdx.x; i < kTileChannels * kTileCells; i += kThreads) {
    const int v = first_channel + i / kTileCells, at = first_cell + i % kTileCells;
    if (v < channels && at < cells)
      turned[i / kTileCells * (kTileCells + 1) + i % kTileCells] =
          to_float(target[image + static_cast<long long>(v) * cells + at]);
  }
  __syncthreads();
  double sum = 0.0;
  float terms = 0.0f;
  for (int i = threadIdx.x; i < kTileChannels * kTileCells; i += kThreads) {
    const int v = first_channel + i % kTileChannels, at = first_cell + i / kTileChannels;
    if (v >= channels || at >= cells) continue;
    const long long index = image + static_cast<long long>(at) * channels + v;
    float derivative;
    terms += cell<kPaperPowers>(to_float(logits[index]),
                                turned[i % kTileChannels * (kTileCells + 1) + i / kTileChannels], c,
                                derivative);
    if (grad != nullptr) grad[index] = from_float<T>(derivative * scale);
  }
  if (partial == nullptr) return;
  sum = block_sum(sum + terms);
  if (threadIdx.x == 0)
    partial[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

// *loss = -(sum of the partial sums) / N. One block.
static __global__ void __launch_bounds__(kThreads)
    sum_kernel(const double* partial, int count, const int* positives, float* loss) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = static_cast<float>((0.0 - sum) / (*positives > 1 ? *positives : 1));
}

// out = grad * *factor.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const T* grad, const float* factor, T* out, long long total) {
  constexpr int kElements = 16 / sizeof(T);
  const float f = *factor;
  const long long first = (static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x) * kElements;
  if (first + kElements <= total && aligned16(grad) && aligned16(out)) {
    Pack<T> pack;
    pack.bits = load16(grad + first);
#pragma unroll
    for (int j = 0; j < kElements; ++j)
      pack.element[j] = from_float<T>(to_float(pack.element[j]) * f);
    store16(out + first, pack.bits);
  } else {
    for (long long i = first; i < first + kElements && i < total; ++i)
      out[i] = from_float<T>(to_float(grad[i]) * f);
  }
}

inline unsigned blocks(long long elements, long long of_a_block) {
  return static_cast<unsigned>((elements + of_a_block - 1) / of_a_block);
}

// Whether the target must be turned: its layout is not that of the logits.
inline bool turned(const HnaLossParams& p) { return p.channels_last && !p.target_channels_last; }

// Partial sums that hna_loss needs room for.
inline long long partial_size(const HnaLossParams& p) {
  if (turned(p)) return p.batch * blocks(p.cells, kTileCells) * blocks(p.channels, kTileChannels);
  return blocks(p.batch * p.channels * p.cells, kShare);
}

// The terms of all cells: partial sums, and gradients unless `grad` is null.
template <class T, class M>
void terms(const T* logits, const M* target, T* grad, const HnaLossParams& p, const int* positives,
           const float* factor, double* partial, void* stream) {
  const long long total = p.batch * p.channels * p.cells;
  if (total == 0) return;
  const Constants c = constants(p);
  const bool paper = p.alpha == 2 && p.gamma == 4;
  if (turned(p)) {
    const dim3 grid(blocks(p.cells, kTileCells), blocks(p.channels, kTileChannels),
                    static_cast<unsigned>(p.batch));
    const int channels = static_cast<int>(p.channels), cells = static_cast<int>(p.cells);
    if (paper)
      GGNET_LAUNCH((turned_terms_kernel<T, M, true>), grid, dim3(kThreads), 0, stream, logits,
                   target, grad, channels, cells, c, positives, factor, partial);
    else
      GGNET_LAUNCH((turned_terms_kernel<T, M, false>), grid, dim3(kThreads), 0, stream, logits,
                   target, grad, channels, cells, c, positives, factor, partial);
  } else if (paper) {
    GGNET_LAUNCH((terms_kernel<T, M, true>), dim3(blocks(total, kShare)), dim3(kThreads), 0, stream,
                 logits, target, grad, total, c, positives, factor, partial);
  } else {
    GGNET_LAUNCH((terms_kernel<T, M, false>), dim3(blocks(total, kShare)), dim3(kThreads), 0,
                 stream, logits, target, grad, total, c, positives, factor, partial);
  }
}

// logits, grad: [batch, channels, cells] or [batch, cells, channels]; grad may be null; positives
// is an integer set to zero. loss: one float.
template <class T, class M>
void hna_loss(const T* logits, const M* target, T* grad, const HnaLossParams& p, int* positives,
              double* partial, float* loss, void* stream) {
  const long long total = p.batch * p.channels * p.cells;
  if (total > 0)  // a few loads for each thread
    GGNET_LAUNCH((count_positives_kernel<M>), dim3(blocks(total, 8 * kShare)), dim3(kThreads), 0,
                 stream, target, total, positives);
  terms(logits, target, grad, p, positives, nullptr, partial, stream);
  GGNET_LAUNCH(sum_kernel, dim3(1), dim3(kThreads), 0, stream, partial,
               static_cast<int>(partial_size(p)), positives, loss);
}

// The gradient times *factor, rounded once. positives: what hna_loss counted.
template <class T, class M>
void hna_loss_gradient(const T* logits, const M* target, T* grad, const HnaLossParams& p,
                       const int* positives, const float* factor, void* stream) {
  terms(logits, target, grad, p, positives, factor, nullptr, stream);
}

// factor: one float on the device.
template <class T>
void hna_loss_backward(const T* grad, const float* factor, T* out, long long total, void* stream) {
  if (total == 0) return;
  GGNET_LAUNCH((scale_kernel<T>), dim3(blocks(total, kThreads * (16 / sizeof(T)))), dim3(kThreads),
               0, stream, grad, factor, out, total);
}

}  // namespace hna
}  // namespace ggnet

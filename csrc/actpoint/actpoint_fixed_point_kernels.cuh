// The features' gradient as sums of integers, whose order changes nothing.
//
// The features' gradient is the only sum whose order is not fixed. `fixed_point` makes it
// reproducible: contributions are added as 64-bit integers in units of a power of two chosen from
// the largest possible sum, and integer addition is associative. The unit is at most 2^-61 of that
// bound, far below float32's resolution of any gradient that matters.
#pragma once

#include "actpoint/actpoint.cuh"

namespace ggnet::deform {

// largest[0] = bits of the largest |value|: non-negative floats order like their bits. NaN wins.
template <class T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(const T* values, long long count, unsigned* largest) {
  unsigned top = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<long long>(gridDim.x) * kThreads) {
    const unsigned bits = __float_as_uint(to_float(values[i])) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    const unsigned other = __shfl_xor_sync(0xffffffffu, top, o);
    top = other > top ? other : top;
  }
  if (threadIdx.x % 32 == 0) atomicMax(largest, top);
}

// largest[2], the mask's, is 1 where a sigmoid bounds it or there is none.
static __global__ void clear_largest_kernel(unsigned* largest, bool mask_is_scanned) {
  if (threadIdx.x < 2) largest[threadIdx.x] = 0;
  if (threadIdx.x == 2) largest[2] = mask_is_scanned ? 0 : __float_as_uint(1.0f);
}

// The unit of the fixed-point sums: largest |grad_out| * |weight| * |mask| times the number of
// terms fits into 62 bits of it. NaN if any factor is not finite.
static __global__ void fixed_point_unit_kernel(const unsigned* largest, float terms, float* unit) {
  const float bound = __uint_as_float(largest[0]) * __uint_as_float(largest[1]) *
                      __uint_as_float(largest[2]) * terms;
  // Not below 2^-126, whose reciprocal is still finite.
  *unit = bound > 0.0f    ? exp2f(fmaxf(ceilf(log2f(bound)) - 61.0f, -126.0f))
          : bound == 0.0f ? 1.0f
                          : bound;
}

// grad_features = accumulators, in the features' type.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_features_kernel(const float* sums, const long long* fixed_point, const float* unit,
                           T* grad_features, long long count) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  grad_features[i] = from_float<T>(
      fixed_point ? static_cast<float>(static_cast<double>(fixed_point[i]) * *unit) : sums[i]);
}

// Sets *unit for DeformDataGradParams::fixed_point; `largest` is scratch of three words. The mask's
// elements are dense, in any order; null where there is none or a sigmoid bounds them.
template <class T>
void fixed_point_unit(const DeformShape& s, const T* grad_out, const T* weight, const T* mask,
                      float* unit, void* stream, unsigned* largest) {
  const Division d = division_of(s);
  const long long points = s.kernel_h * s.kernel_w;
  const long long area = static_cast<long long>(s.out_height) * s.out_width;
  GGNET_LAUNCH(clear_largest_kernel, dim3(1), dim3(32), 0, stream, largest, mask != nullptr);
  auto scan = [&](const T* values, long long count, unsigned* result) {
    const long long blocks = (count + kThreads - 1) / kThreads;
    if (count > 0)
      GGNET_LAUNCH((largest_kernel<T>), dim3(static_cast<unsigned>(blocks < 512 ? blocks : 512)),
                   dim3(kThreads), 0, stream, values, count, result);
  };
  scan(grad_out, s.batch * area * s.outputs, largest);
  scan(weight, static_cast<long long>(s.outputs) * d.group * points, largest + 1);
  if (mask) scan(mask, s.batch * area * points * s.offset_groups, largest + 2);
  GGNET_LAUNCH(fixed_point_unit_kernel, dim3(1), dim3(1), 0, stream, largest,
               static_cast<float>(area * points * d.outputs), unit);
}

template <class T>
void finish_features(const float* sums, const long long* fixed_point, const float* unit, T* out,
                     long long count, void* stream) {
  if (count == 0) return;
  GGNET_LAUNCH((finish_features_kernel<T>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, sums, fixed_point, unit, out, count);
}

}  // namespace ggnet::deform

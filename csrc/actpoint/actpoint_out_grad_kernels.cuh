// What the backward makes of the output gradient alone: zeros where a ReLU was off, and the bias's
// gradient.
#pragma once

#include "actpoint/actpoint_weight_grad_kernels.cuh"

namespace ggnet::deform {

// grad where the ReLU let its input pass; where out is NaN, the gradient passes as well.
template <class T>
__global__ void __launch_bounds__(kThreads)
    relu_grad_kernel(const T* grad, const T* out, T* masked, long long count) {
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) masked[i] = to_float(out[i]) <= 0.0f ? from_float<T>(0.0f) : grad[i];
}
template <class T>
void relu_grad(const T* grad, const T* out, T* masked, long long count, void* stream) {
  if (count == 0) return;
  GGNET_LAUNCH((relu_grad_kernel<T>),
               dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads), 0,
               stream, grad, out, masked, count);
}

// Column sums of [rows, columns] over rows blockIdx.y * per_block ...: partial [gridDim.y,
// columns].
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const T* matrix, float* partial, int rows, int columns, int per_block) {
  const int column = blockIdx.x * 32 + threadIdx.x % 32, lane_row = threadIdx.x / 32;
  GGNET_SHARED_ARRAY(float, sums, kThreads);
  float sum = 0.0f;
  const int begin = blockIdx.y * per_block;
  const int end = begin + per_block < rows ? begin + per_block : rows;
  if (column < columns)
    for (int row = begin + lane_row; row < end; row += kThreads / 32)
      sum += to_float(matrix[static_cast<long long>(row) * columns + column]);
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < 32 && column < columns) {
    for (int i = 1; i < kThreads / 32; ++i) sum += sums[i * 32 + threadIdx.x];
    partial[static_cast<long long>(blockIdx.y) * columns + column] = sum;
  }
}

// The bias gradient sums the output gradient over pixels: kBiasRows at a time, then the partial
// sums, both in a fixed order.
constexpr int kBiasRows = 1024;
inline int bias_blocks(const DeformShape& s) {
  const int pixels = s.batch * s.out_height * s.out_width;
  return (pixels + kBiasRows - 1) / kBiasRows;
}
inline long long bias_partial_size(const DeformShape& s) {
  return static_cast<long long>(bias_blocks(s)) * s.outputs;
}
template <class T>
void bias_grad(const DeformShape& s, const T* grad_out, float* partial, T* out, void* stream) {
  const int blocks = bias_blocks(s), pixels = s.batch * s.out_height * s.out_width;
  if (s.outputs == 0) return;
  if (blocks > 0)
    GGNET_LAUNCH((column_sums_kernel<T>), dim3((s.outputs + 31) / 32, blocks), dim3(kThreads), 0,
                 stream, grad_out, partial, pixels, s.outputs, kBiasRows);
  // One point and one column a weight: the same fixed-order sum.
  GGNET_LAUNCH((reduce_weight_kernel<T>), dim3((s.outputs + kThreads - 1) / kThreads),
               dim3(kThreads), 0, stream, partial, out, blocks, 1, s.outputs);
}

}  // namespace ggnet::deform

// Kernels with a bug each, of every class that the emulator claims to find, and the same kernels
// without it. The tests demand that each bug is found and that no clean kernel is accused.
#include "common/device.h"
#include "simt/module.h"

namespace py = pybind11;
using ggnet::load16;
using ggnet::Vec16;

namespace {

constexpr int kThreads = 64;

// out[i] = in[63 - i] through shared memory.
template <bool kBug>
__global__ void missing_barrier(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  tile[threadIdx.x] = in[threadIdx.x];
  if (!kBug) __syncthreads();
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

template <bool kBug>
__global__ void diverged_barriers(const float* in, float* out) {
  if (!kBug || threadIdx.x < 32) {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  } else {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  }
}

template <bool kBug>
__global__ void absent_lane(const float* in, float* out) {
  float v = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += __shfl_xor_sync(kBug ? 0xffffffffu : 0x0000ffffu, v, 1);
  out[threadIdx.x] = v;
}

template <bool kBug>
__global__ void uninitialized_shared(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  if (!kBug || threadIdx.x + 1 < kThreads) tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <bool kBug>
__global__ void shared_out_of_bounds(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[kBug ? threadIdx.x + 1 : threadIdx.x];
}

template <bool kBug>
__global__ void dynamic_shared_out_of_bounds(const float* in, float* out) {
  GGNET_DYNAMIC_SHARED(raw);
  float* tile = reinterpret_cast<float*>(raw);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[kBug ? threadIdx.x + 1 : threadIdx.x];
}

template <bool kBug>
__global__ void global_out_of_bounds(const float* in, float* out) {
  out[threadIdx.x] = in[kBug ? threadIdx.x + 1 : threadIdx.x];
}

template <bool kBug>
__global__ void misaligned_vector(const float* in, float* out) {
  if (threadIdx.x < 15) {
    const Vec16 v = load16(in + threadIdx.x * 4 + (kBug ? 1 : 0));
    out[threadIdx.x] = __uint_as_float(v.word[0]);
  }
}

// Two stages of a copy pipeline; the bug reads a stage that may not have landed.
template <bool kBug>
__global__ void missing_async_wait(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  if (threadIdx.x < 16) ggnet::cp_async16(tile + threadIdx.x * 4, in + threadIdx.x * 4);
  ggnet::cp_async_commit();
  if (!kBug) ggnet::cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

// The bug refills a stage while others may still read it: seen when copies land early.
template <bool kBug>
__global__ void early_refill(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (!kBug) {
    out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
    __syncthreads();
  }
  if (threadIdx.x < 16)
    ggnet::cp_async16(tile + threadIdx.x * 4, in + kThreads - 4 - threadIdx.x * 4);
  ggnet::cp_async_commit();
  if (kBug) out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
  ggnet::cp_async_wait<0>();
}

// Blocks add to one cell: atomically, or not.
template <bool kBug>
__global__ void cross_block_race(const float* in, float* out) {
  if (threadIdx.x != 0) return;
  if (kBug)
    out[0] += in[blockIdx.x];
  else
    atomicAdd(out, in[blockIdx.x]);
}

// The last lanes of a warp rely on the first ones having run already.
template <bool kBug>
__global__ void lane_order(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kThreads);
  tile[threadIdx.x] = in[threadIdx.x];
  if (!kBug) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

template <bool kBug>
__global__ void too_much_shared(const float* in, float* out) {
  GGNET_SHARED_ARRAY(float, tile, kBug ? 64 << 10 : kThreads);
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x];
}

void run(const std::string& name, bool bug, py::array_t<float> in, py::array_t<float> out) {
  const float* source = in.data();
  float* target = out.mutable_data();
  if (in.size() != kThreads || out.size() != kThreads)
    throw py::value_error("in and out must have 64 elements");
#define CASE(kernel, blocks, bytes)                                                                \
  if (name == #kernel) {                                                                           \
    if (bug)                                                                                       \
      GGNET_LAUNCH((kernel<true>), dim3(blocks), dim3(kThreads), bytes, nullptr, source, target);  \
    else                                                                                           \
      GGNET_LAUNCH((kernel<false>), dim3(blocks), dim3(kThreads), bytes, nullptr, source, target); \
    return;                                                                                        \
  }
  CASE(missing_barrier, 1, 0)
  CASE(diverged_barriers, 1, 0)
  CASE(absent_lane, 1, 0)
  CASE(uninitialized_shared, 1, 0)
  CASE(shared_out_of_bounds, 1, 0)
  CASE(dynamic_shared_out_of_bounds, 1, kThreads * 4)
  CASE(global_out_of_bounds, 1, 0)
  CASE(misaligned_vector, 1, 0)
  CASE(missing_async_wait, 1, 0)
  CASE(early_refill, 1, 0)
  CASE(cross_block_race, 4, 0)
  CASE(lane_order, 1, 0)
  CASE(too_much_shared, 1, 0)
#undef CASE
  throw py::value_error("no planted kernel '" + name + "'");
}

const simt::Binding binding([](py::module_& m) {
  m.def("planted", &run, py::arg("name"), py::arg("bug"), py::arg("input"), py::arg("output"));
});

}  // namespace

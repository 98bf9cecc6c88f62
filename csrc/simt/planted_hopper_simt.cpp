// Products by Hopper's instructions, clean and with a bug each of every class that the emulator
// claims to find. See planted_simt.cpp.
#include <type_traits>

#include "common/hopper.h"
#include "simt/module.h"

namespace py = pybind11;
using ggnet::kWarpgroup;
using ggnet::Wgmma;

namespace {

enum class Bug {
  kNone,
  kEarlyRead,
  kEarlyRefill,
  kFewBytes,
  kWrongPhase,
  kWrongStride,
  kMissingProxyFence,
  kMissingWgmmaFence,
  kLateWrite,
  kWrittenAccumulator,
  kUnshownBarrier,
  kUnfencedBarrier,
  kMissingWait,
};

constexpr int kStages = 2;

template <int N>
__device__ void store_accumulators(const float (&d)[N / 2], float* out) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int j = 0; j < N / 8; ++j)
    for (int e = 0; e < 4; ++e)
      out[(warp * 16 + lane / 4 + e / 2 * 8) * N + j * 8 + lane % 4 * 2 + e % 2] = d[j * 4 + e];
}

// out(64 x N) = a(64 x depth) * b(N x depth)^T, depth = 64 * steps. A thread beyond the warpgroup
// copies b in bulk: it is packed, each step a stack of N rows of 128 bytes in the 128-byte swizzle.
// kShared: so is a, before b's rows in each step; otherwise it is read to registers.
template <class T, int N, Bug bug, bool kShared>
__global__ void rows(const T* a, const T* b, float* out, int steps) {
  constexpr int kBytes = (N + kShared * 64) * 128;
  GGNET_DYNAMIC_SHARED(stages);
  GGNET_SHARED_ARRAY(uint64_t, full, kStages);
  GGNET_SHARED_ARRAY(uint64_t, empty, kStages);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ggnet::mbarrier_init(full + s, 1);
      ggnet::mbarrier_init(empty + s, kWarpgroup);
    }
    ggnet::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= kWarpgroup) {
    for (int step = 0; threadIdx.x == kWarpgroup && step < steps; ++step) {
      const int s = step % kStages;
      unsigned char* stage = stages + s * kBytes;
      ggnet::mbarrier_wait(empty + s, (step / kStages + 1) % 2);
      ggnet::mbarrier_arrive_expect(full + s, bug == Bug::kFewBytes ? kBytes / 2 : kBytes);
      if (kShared) ggnet::bulk_load(stage, a + step * 64 * 64, 64 * 128, full + s);
      for (int half = 0; half < 2; ++half)
        ggnet::bulk_load(stage + kBytes - N * 64 * (2 - half), b + step * N * 64 + half * N * 32,
                         N * 64, full + s);
    }
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float d[N / 2];
  uint32_t fragment[2][4][4];
  for (int step = 0; step < steps; ++step) {
    const int s = step % kStages;
    auto load = [&] {
      for (int k = 0; k < 4; ++k)
        for (int r = 0; r < 4; ++r)
          memcpy(
              &fragment[step % 2][k][r],
              a + (warp * 16 + g + r % 2 * 8) * 64 * steps + step * 64 + k * 16 + r / 2 * 8 + 2 * t,
              4);
    };
    if (!kShared && bug != Bug::kLateWrite) load();
    ggnet::mbarrier_wait(full + s, (step / kStages + (bug == Bug::kWrongPhase)) % 2);
    if (bug != Bug::kMissingWgmmaFence || step == 0) ggnet::wgmma_fence();
    if (bug == Bug::kLateWrite) load();
    const int group = bug == Bug::kWrongStride ? 2048 : 1024;
    const uint64_t left = ggnet::matrix_descriptor(stages + s * kBytes, 1024);
    const uint64_t right = ggnet::matrix_descriptor(stages + (s + 1) * kBytes - N * 128, group);
    for (int k = 0; k < 4; ++k)
      if constexpr (kShared)
        Wgmma<N, T>::shared_rows(d, ggnet::hopper_advance(left, k * 32),
                                 ggnet::hopper_advance(right, k * 32), step > 0 || k > 0);
      else
        Wgmma<N, T>::rows(d, fragment[step % 2][k], ggnet::hopper_advance(right, k * 32),
                          step > 0 || k > 0);
    ggnet::wgmma_commit();
    if (bug == Bug::kWrittenAccumulator) d[0] = 0;
    if (bug == Bug::kEarlyRefill) ggnet::mbarrier_arrive(empty + s);
    ggnet::wgmma_wait<1>();
    if (bug != Bug::kEarlyRefill && step > 0) ggnet::mbarrier_arrive(empty + (step - 1) % kStages);
  }
  if (bug != Bug::kEarlyRead) ggnet::wgmma_wait<0>();
  store_accumulators<N>(d, out);
  ggnet::wgmma_wait<0>();
}

// out(64 x N) = a(depth x 64)^T * b(depth x N), depth = 32 * steps. Two warps beyond the warpgroup
// store both to shared memory.
template <class T, int N, Bug bug>
__global__ void columns(const T* a, const T* b, float* out, int steps) {
  constexpr int kDepth = 32, kPanel = kDepth * 128, kBytes = (1 + N / 64) * kPanel;
  constexpr int kProducers = 64;
  GGNET_DYNAMIC_SHARED(stages);
  GGNET_SHARED_ARRAY(uint64_t, full, kStages);
  GGNET_SHARED_ARRAY(uint64_t, empty, kStages);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ggnet::mbarrier_init(full + s, kProducers);
      ggnet::mbarrier_init(empty + s, 1);
    }
    ggnet::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= kWarpgroup) {
    for (int step = 0; step < steps; ++step) {
      const int s = step % kStages;
      ggnet::mbarrier_wait(empty + s, (step / kStages + (bug != Bug::kWrongPhase)) % 2);
      for (int i = threadIdx.x - kWarpgroup; i < kBytes / 16; i += kProducers) {
        const int chunk = i % 8, row = i / 8 % kDepth, panel = i / (8 * kDepth);
        const int k = step * kDepth + row;
        const T* source =
            panel == 0 ? a + k * 64 + chunk * 8 : b + k * N + (panel - 1) * 64 + chunk * 8;
        ggnet::store16(stages + s * kBytes + panel * kPanel + ggnet::hopper_slot(row, chunk),
                       ggnet::load16(source));
      }
      if (bug != Bug::kMissingProxyFence) ggnet::fence_async_shared();
      ggnet::mbarrier_arrive(full + s);
    }
    return;
  }
  float d[N / 2];
  for (float& x : d) x = bug == Bug::kLateWrite;
  for (int step = 0; step < steps; ++step) {
    const int s = step % kStages;
    ggnet::mbarrier_wait(full + s, step / kStages % 2);
    if (bug != Bug::kMissingWgmmaFence) ggnet::wgmma_fence();
    if (bug == Bug::kLateWrite && step == 0)
      for (float& x : d) x = 0;
    const uint64_t left = ggnet::matrix_descriptor(stages + s * kBytes, 1024);
    const uint64_t right = ggnet::matrix_descriptor(stages + s * kBytes + kPanel, 1024,
                                                    bug == Bug::kWrongStride ? 2048 : kPanel);
    for (int k = 0; k < kDepth; k += 16)
      Wgmma<N, T>::shared_columns(d, ggnet::hopper_advance(left, k * 128),
                                  ggnet::hopper_advance(right, k * 128), true);
    ggnet::wgmma_commit();
    if (bug == Bug::kEarlyRefill && threadIdx.x == 0) ggnet::mbarrier_arrive(empty + s);
    if (bug == Bug::kWrittenAccumulator) d[0] = 0;
    if (bug != Bug::kEarlyRead || step + 1 < steps) ggnet::wgmma_wait<0>();
    if (bug != Bug::kEarlyRefill && threadIdx.x == 0) ggnet::mbarrier_arrive(empty + s);
  }
  store_accumulators<N>(d, out);
  ggnet::wgmma_wait<0>();
}

// Bulk copies read by ordinary loads: row i of `size` columns of out is row i of b. Warp 4 copies,
// one lane for all; of the other warps too, one lane waits and arrives for all.
template <class T, int N, Bug bug>
__global__ void stream(const T*, const T* b, float* out, int) {
  GGNET_DYNAMIC_SHARED(raw);
  T* stages = reinterpret_cast<T*>(raw);
  GGNET_SHARED_ARRAY(uint64_t, full, kStages);
  GGNET_SHARED_ARRAY(uint64_t, empty, kStages);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      ggnet::mbarrier_init(full + s, 1);
      ggnet::mbarrier_init(empty + s, kWarpgroup / 32);
    }
    if (bug != Bug::kUnfencedBarrier) ggnet::mbarrier_init_fence();
  }
  if (bug != Bug::kUnshownBarrier) __syncthreads();
  const bool leads = threadIdx.x % 32 == 0;
  for (int row = 0; row < 64; ++row) {
    const int s = row % kStages, parity = row / kStages % 2;
    if (threadIdx.x >= kWarpgroup) {
      if (!leads) continue;
      ggnet::mbarrier_wait(empty + s, 1 - parity);
      ggnet::mbarrier_arrive_expect(full + s, N * 2);
      ggnet::bulk_load(stages + s * N, b + row * N, N * 2, full + s);
      continue;
    }
    if (leads && (bug != Bug::kMissingWait || threadIdx.x > 0 || row < 63))
      ggnet::mbarrier_wait(full + s, parity);
    __syncwarp();
    if (bug == Bug::kEarlyRefill && leads) ggnet::mbarrier_arrive(empty + s);
    for (int i = threadIdx.x; i < N; i += kWarpgroup)
      out[row * N + i] = ggnet::to_float(stages[s * N + i]);
    __syncwarp();
    if (bug != Bug::kEarlyRefill && leads) ggnet::mbarrier_arrive(empty + s);
  }
}

template <class T, int N, Bug bug>
void launch(const std::string& kernel, const T* a, const T* b, float* out, int depth) {
  constexpr int kRows = kWarpgroup + 32, kRowBytes = kStages * 128;
  if (kernel == "rows")
    GGNET_LAUNCH((rows<T, N, bug, false>), dim3(1), dim3(kRows), kRowBytes * N, nullptr, a, b, out,
                 depth / 64);
  else if (kernel == "shared_rows")
    GGNET_LAUNCH((rows<T, N, bug, true>), dim3(1), dim3(kRows), kRowBytes * (N + 64), nullptr, a, b,
                 out, depth / 64);
  else if (kernel == "stream")
    GGNET_LAUNCH((stream<T, N, bug>), dim3(1), dim3(kWarpgroup + 32), kStages * N * 2, nullptr, a,
                 b, out, depth);
  else
    GGNET_LAUNCH((columns<T, N, bug>), dim3(1), dim3(kWarpgroup + 64),
                 kStages * (1 + N / 64) * 4096, nullptr, a, b, out, depth / 32);
}

void run(const std::string& kernel, const std::string& bug, const std::string& type, int size,
         int depth, py::array a, py::array b, py::array out) {
  if (depth % 64) throw py::value_error("depth must be a multiple of 64");
  simt::with_type(type, [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, float>) {
      const T* left = static_cast<const T*>(simt::data(a, 64ll * depth, "a"));
      const T* right = static_cast<const T*>(simt::data(b, 1ll * size * depth, "b"));
      float* target = static_cast<float*>(simt::data(out, 64ll * size, "out"));
      if (bug == "") {
        if (size == 64)
          launch<T, 64, Bug::kNone>(kernel, left, right, target, depth);
        else if (size == 128)
          launch<T, 128, Bug::kNone>(kernel, left, right, target, depth);
        else
          launch<T, 256, Bug::kNone>(kernel, left, right, target, depth);
        return;
      }
#define CASE(name, value) \
  if (bug == name) return launch<T, 128, Bug::value>(kernel, left, right, target, depth);
      CASE("early_read", kEarlyRead)
      CASE("early_refill", kEarlyRefill)
      CASE("few_bytes", kFewBytes)
      CASE("wrong_phase", kWrongPhase)
      CASE("wrong_stride", kWrongStride)
      CASE("missing_proxy_fence", kMissingProxyFence)
      CASE("missing_wgmma_fence", kMissingWgmmaFence)
      CASE("late_write", kLateWrite)
      CASE("written_accumulator", kWrittenAccumulator)
      CASE("unshown_barrier", kUnshownBarrier)
      CASE("unfenced_barrier", kUnfencedBarrier)
      CASE("missing_wait", kMissingWait)
#undef CASE
    }
    throw py::value_error("no planted product '" + bug + "' of " + type);
  });
}

const simt::Binding binding([](py::module_& m) {
  m.def("planted_product", &run, py::arg("kernel"), py::arg("bug"), py::arg("type"),
        py::arg("size"), py::arg("depth"), py::arg("a"), py::arg("b"), py::arg("out"));
});

}  // namespace

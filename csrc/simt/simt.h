// Runs CUDA kernel text on the CPU: one fiber per CUDA thread, one block at a time on each worker.
//
// A kernel file includes common/device.h only. Under nvcc that is CUDA; under a host compiler it
// includes this header, which supplies what the language adds: threadIdx and friends, barriers,
// votes, shuffles, atomics, shared memory, asynchronous copies, and the launch itself. The run is
// deterministic, and every choice that hardware leaves open can be varied (`Options`), so that a
// kernel that relies on one of them fails in a test.
//
// Checked here: threads of a block waiting at different barriers, warp collectives that name absent
// lanes, deadlock, shared memory read before it is written (it starts as NaN), more shared memory
// or threads than a device has; of Hopper's instructions what hopper.h lists. ASan and UBSan builds
// add out-of-bounds and misaligned accesses; the instrumented build (trace.cpp) adds data races,
// missing proxy fences and the counters of memory traffic.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

// CUDA's headers define these for host compilers too, with meanings of no use here.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

namespace simt {

// The float32 next to a value, toward zero.
inline float cut(double exact) {
  const float nearest = static_cast<float>(exact);
  return std::fabs(nearest) > std::fabs(exact) ? std::nextafter(nearest, 0.0f) : nearest;
}

// What hardware leaves open, and how much of the machine to use.
struct Options {
  enum Order { kForward, kReverse, kShuffled };
  Order order = kForward;    // of blocks, of warps in a block, of lanes in a warp
  uint32_t seed = 1;         // of kShuffled
  bool async_early = false;  // asynchronous work is done when issued; otherwise when waited for
  int workers = 1;           // blocks run concurrently; forced to 1 in the instrumented build
  size_t shared_limit = 227u << 10;  // bytes a block may use (sm_90; 163 KiB on sm_80)
};

// Sums over a launch. Memory counters stay zero unless the build is instrumented.
struct Counters {
  uint64_t blocks = 0, threads = 0, barriers = 0, collectives = 0;  // collectives: per warp
  uint64_t mma = 0;                 // warp-wide tensor-core instructions
  uint64_t mma_macs = 0;            // multiply-adds in them
  uint64_t async_bytes = 0;         // by cp.async, plain or bulk
  uint64_t shared_async_bytes = 0;  // of shared memory, read by wgmma
  uint64_t load_bytes = 0, load_sectors = 0, load_requests = 0;     // global memory
  uint64_t store_bytes = 0, store_sectors = 0, store_requests = 0;  // global memory
  uint64_t atomic_bytes = 0, atomic_requests = 0;                   // global memory
  uint64_t shared_phases = 0, shared_wavefronts = 0;                // equal: no bank conflict
  uint64_t shared_bytes_per_block = 0;                              // largest block
  void add(const Counters& other);
};

extern Options options;    // of the next launch
extern Counters counters;  // of the last launch

enum class State : uint8_t {
  kReady,
  kAtBarrier,
  kInCollective,
  kAtMbarrier,   // hopper.h
  kAtWarpgroup,  // hopper.h
  kDone
};

struct AsyncCopy {
  void* target;
  const void* source;
  int bytes, zero_bytes, group;
};

struct Fiber {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // ASan's
  const unsigned char* stack_end = nullptr;
  uint3 index{};
  uint32_t thread = 0, lane = 0;
  State state = State::kDone;
  // The collective that this lane waits in.
  uint32_t mask = 0;
  int operation = 0;
  const void* site = nullptr;
  const void* input = nullptr;
  void* output = nullptr;
  std::vector<AsyncCopy> pending;
  int group = 0;
};

struct SharedSlot {
  const void* key;
  unsigned char* memory;
  size_t bytes;
};

// One block in execution. Each worker thread has one and reuses it.
struct Block {
  uint3 index{};
  dim3 grid, shape;
  uint32_t linear = 0, size = 0, alive = 0, arrived = 0;
  const void* barrier_site = nullptr;
  int barrier_sum = 0, barrier_result = 0;
  std::vector<Fiber> fibers;
  unsigned char* dynamic_shared = nullptr;
  size_t dynamic_bytes = 0, shared_bytes = 0;
  std::vector<SharedSlot> shared;
  const unsigned char *stacks = nullptr, *stacks_end = nullptr;  // of the fibers
  bool quiet = true;  // the emulator itself is running, not the kernel
  Counters counters;
};

extern thread_local Block* block;
extern thread_local Fiber* fiber;

// The current kernel fails: reported to the launcher as an exception. Does not return.
[[noreturn]] void fail(const std::string& what);

void yield();  // to the scheduler
int barrier(const void* site, int predicate, bool count);
void* shared_slot(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared();
void async_copy(void* target, const void* source, int bytes, int source_bytes);
void async_commit();
void async_wait(int groups_left);
void run(const char* name, dim3 grid, dim3 shape, size_t dynamic_bytes,
         const std::function<void()>& body);

// What is asynchronous on Hopper (hopper.cpp): at a block's start; when no thread can go on (false
// where nothing is under way); at its end; what threads wait for, to be said of a deadlock.
void start_asynchronous();
bool advance_asynchronous();
void end_asynchronous();
std::string stuck_asynchronous();

// Hooks of the instrumented build.
extern "C" void simt_trace_access(const void* address, int bytes, int write, const void* site)
    __attribute__((weak));
extern "C" void simt_trace_atomic(const void* address, int bytes, const void* site)
    __attribute__((weak));
extern "C" void simt_trace_warp(unsigned warp) __attribute__((weak));
extern "C" void simt_trace_barrier() __attribute__((weak));
extern "C" void simt_trace_block() __attribute__((weak));
extern "C" void simt_trace_launch() __attribute__((weak));
extern "C" const char* simt_trace_races() __attribute__((weak));  // "" when there were none

struct Quiet {
  bool before;
  Quiet() : before(block->quiet) { block->quiet = true; }
  ~Quiet() { block->quiet = before; }
};

#define SIMT_NOTRACE __attribute__((noinline, no_sanitize("thread")))
#define SIMT_SITE __builtin_return_address(0)

// A warp collective: every lane of `mask` brings `in`; the last one to arrive calls combine(fibers
// of the warp), which fills every lane's `out`.
template <class Combine>
SIMT_NOTRACE void collective(uint32_t mask, int operation, const void* site, const void* in,
                             void* out, Combine combine) {
  Quiet quiet;
  Fiber* me = fiber;
  uint32_t first = me->thread & ~31u;
  Fiber* warp = &block->fibers[first];
  if (!(mask >> me->lane & 1)) fail("a *_sync call whose mask does not name the calling lane");
  me->mask = mask;
  me->operation = operation;
  me->site = site;
  me->input = in;
  me->output = out;
  me->state = State::kInCollective;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (first + lane >= block->size) fail("a *_sync call whose mask names a lane beyond the block");
    if (warp[lane].state == State::kDone)
      fail("a *_sync call whose mask names a lane that has exited");
    if (warp[lane].state != State::kInCollective || warp[lane].mask != mask ||
        warp[lane].operation != operation) {
      yield();
      return;
    }
  }
  combine(warp);
  ++block->counters.collectives;
  uint32_t lanes = std::min(32u, block->size - first);
  if (__builtin_popcount(mask) == static_cast<int>(lanes)) {
    if (simt_trace_warp) simt_trace_warp(first >> 5);
  }
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) warp[lane].state = State::kReady;
}

// Every lane gets the value of lane source(its lane, its input); itself where that lane is not in
// the mask (the value is undefined there on hardware).
template <class Value, class Source>
SIMT_NOTRACE Value shuffle(uint32_t mask, Value value, int operand, int operation, const void* site,
                           Source source) {
  struct Input {
    Value value;
    int operand;
  } in{value, operand};
  Value result{};
  collective(mask, operation, site, &in, &result, [&](Fiber* warp) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      int from = source(lane, static_cast<const Input*>(warp[lane].input)->operand);
      if (from < 0 || from > 31 || !(mask >> from & 1)) from = lane;
      *static_cast<Value*>(warp[lane].output) = static_cast<const Input*>(warp[from].input)->value;
    }
  });
  return result;
}

template <class Value, class Update>
SIMT_NOTRACE Value atomic(Value* address, const void* site, Update update) {
  if (simt_trace_atomic) simt_trace_atomic(address, sizeof(Value), site);
  Value old, next;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    next = update(old);
  } while (
      !__atomic_compare_exchange(address, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace simt

#define threadIdx (::simt::fiber->index)
#define blockIdx (::simt::block->index)
#define blockDim (::simt::block->shape)
#define gridDim (::simt::block->grid)
#define warpSize 32

// Shared memory: each array is an allocation of its own for each block, so that ASan sees its ends.
// The key is unique for each instantiation of a template.
#define GGNET_SHARED_ARRAY(Type, name, count)                            \
  static const char name##_key = 0;                                      \
  Type(&name)[count] = *static_cast<Type(*)[count]>(::simt::shared_slot( \
      &name##_key, sizeof(Type) * (count), std::max<size_t>(16, alignof(Type))))
#define GGNET_DYNAMIC_SHARED(name) \
  unsigned char* name = static_cast<unsigned char*>(::simt::dynamic_shared())
#define GGNET_LAUNCH(kernel, grid, shape, dynamic_bytes, stream, ...) \
  ::simt::run(#kernel, grid, shape, dynamic_bytes, [&] { (kernel)(__VA_ARGS__); })

// The source line is the barrier's identity: call sites' addresses would do, but an optimizer
// merges two calls of the branches of an if.
#define SIMT_LINE reinterpret_cast<const void*>(static_cast<uintptr_t>(__LINE__))
#define __syncthreads() ::simt::barrier(SIMT_LINE, 0, false)
#define __syncthreads_count(p) ::simt::barrier(SIMT_LINE, (p) != 0, true)
#define __syncthreads_or(p) (::simt::barrier(SIMT_LINE, (p) != 0, true) != 0)
inline SIMT_NOTRACE void __syncwarp(uint32_t mask = 0xffffffffu) {
  simt::collective(mask, 1, SIMT_SITE, nullptr, nullptr, [](simt::Fiber*) {});
}
template <class T>
SIMT_NOTRACE T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  return simt::shuffle(mask, value, bits, 2, SIMT_SITE, [=](int lane, int x) {
    int from = lane ^ x;
    return from / width <= lane / width ? from : lane;
  });
}
template <class T>
SIMT_NOTRACE T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return simt::shuffle(mask, value, static_cast<int>(delta), 3, SIMT_SITE,
                       [=](int lane, int d) { return lane % width + d < width ? lane + d : lane; });
}
template <class T>
SIMT_NOTRACE T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return simt::shuffle(mask, value, static_cast<int>(delta), 4, SIMT_SITE,
                       [=](int lane, int d) { return lane % width - d >= 0 ? lane - d : lane; });
}
template <class T>
SIMT_NOTRACE T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  return simt::shuffle(mask, value, source, 5, SIMT_SITE,
                       [=](int lane, int from) { return lane / width * width + from % width; });
}
inline SIMT_NOTRACE unsigned __ballot_sync(uint32_t mask, int predicate) {
  unsigned result = 0;
  simt::collective(mask, 6, SIMT_SITE, &predicate, &result, [=](simt::Fiber* warp) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1)
        votes |= static_cast<unsigned>(*static_cast<const int*>(warp[lane].input) != 0) << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) *static_cast<unsigned*>(warp[lane].output) = votes;
  });
  return result;
}
inline int __any_sync(uint32_t mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(uint32_t mask, int p) { return __ballot_sync(mask, p) == mask; }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class T>
SIMT_NOTRACE T atomicAdd(T* p, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T old) { return static_cast<T>(old + v); });
}
template <class T>
SIMT_NOTRACE T atomicMax(T* p, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T old) { return old < v ? v : old; });
}
template <class T>
SIMT_NOTRACE T atomicMin(T* p, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T old) { return v < old ? v : old; });
}
template <class T>
SIMT_NOTRACE T atomicOr(T* p, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T old) { return static_cast<T>(old | v); });
}
template <class T>
SIMT_NOTRACE T atomicExch(T* p, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T) { return v; });
}
template <class T>
SIMT_NOTRACE T atomicCAS(T* p, T expected, T v) {
  return simt::atomic(p, SIMT_SITE, [=](T old) { return old == expected ? v : old; });
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fmaf_rz(float a, float b, float c) {
  return simt::cut(static_cast<double>(a) * b + c);
}
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __int_as_float(int i) { return __uint_as_float(static_cast<unsigned>(i)); }

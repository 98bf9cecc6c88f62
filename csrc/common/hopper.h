// Hopper's own instructions (sm_90a): asynchronous products of a warpgroup, barriers in shared
// memory that count arrivals and bytes, bulk copies. Beside device.h the only inline PTX of the
// package; a host compiler gets the emulation of csrc/simt/hopper.h.
//
// Names are those of the PTX ISA: wgmma, mbarrier, cp.async.bulk, fence.proxy.async. A matrix in
// shared memory is a stack of rows of 128 bytes in the 128-byte swizzle, hopper_slot() below, whose
// first row lies at a multiple of 1024 bytes.
#pragma once

#include "common/device.h"
#if !defined(__CUDACC__)
#include "simt/hopper.h"
#endif

// Whether this device pass has the instructions; code for other architectures must not reach them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GGNET_HOPPER 1
#endif

namespace ggnet {

constexpr int kWarpgroup = 128;  // threads; the first is a multiple of it

// Where byte 16 * chunk of a row lies.
__host__ __device__ __forceinline__ int hopper_slot(int row, int chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
#if defined(__CUDACC__)
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
#else
  return simt::shared_address(shared);
#endif
}

// ---- mbarrier: a phase ends when `arrivals` threads have arrived and the bytes that they expect
// have landed.

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, int arrivals) {
#if defined(GGNET_HOPPER)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
#elif !defined(__CUDACC__)
  simt::mbarrier_init(barrier, arrivals);
#endif
}
// After initialization and before the barrier of the block that shows it to the others.
__device__ __forceinline__ void mbarrier_init_fence() {
#if defined(GGNET_HOPPER)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#elif !defined(__CUDACC__)
  simt::mbarrier_init_fence();
#endif
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
#if defined(GGNET_HOPPER)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
#elif !defined(__CUDACC__)
  simt::mbarrier_arrive(barrier, 0);
#endif
}
// Arrives, and the phase also waits for `bytes` of bulk copies.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, int bytes) {
#if defined(GGNET_HOPPER)
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#elif !defined(__CUDACC__)
  simt::mbarrier_arrive(barrier, bytes);
#endif
}
// Until the phase of this parity has ended: 0 for the first, 1 for the second, 0 again.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, int parity) {
#if defined(GGNET_HOPPER)
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#elif !defined(__CUDACC__)
  simt::mbarrier_wait(barrier, parity);
#endif
}

// Copies `bytes` (a multiple of 16, both addresses too) from global to shared memory; the barrier's
// phase counts them.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, int bytes,
                                          uint64_t* barrier) {
#if defined(GGNET_HOPPER)
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#elif !defined(__CUDACC__)
  simt::bulk_load(shared, global, bytes, barrier);
#endif
}

// Before wgmma or a bulk copy meets what this thread wrote to shared memory by ordinary stores (or
// by cp.async, once waited for); then a barrier with the threads that use it.
__device__ __forceinline__ void fence_async_shared() {
#if defined(GGNET_HOPPER)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#elif !defined(__CUDACC__)
  simt::fence_async_shared();
#endif
}

// Registers of every thread of a warpgroup, a multiple of 8: producers give what consumers take.
// All threads of the warpgroup execute it. A warpgroup that takes more than others gave waits for
// ever, which no emulation shows: assert registers_suffice().
//
// Whether the roles' registers, over all threads, are no more than the only block of a
// multiprocessor is launched with.
constexpr bool registers_suffice(int threads, int wanted) {
  return wanted <= 65536 / threads / 8 * 8 * threads;
}
template <int registers>
__device__ __forceinline__ void give_registers() {
#if defined(GGNET_HOPPER)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}
template <int registers>
__device__ __forceinline__ void take_registers() {
#if defined(GGNET_HOPPER)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}

// ---- wgmma

// Before the first product of a group, after registers that it uses were written.
__device__ __forceinline__ void wgmma_fence() {
#if defined(GGNET_HOPPER)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#elif !defined(__CUDACC__)
  simt::wgmma_fence();
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#if defined(GGNET_HOPPER)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#elif !defined(__CUDACC__)
  simt::wgmma_commit();
#endif
}
// Waits until at most `groups` of the committed groups are still under way.
template <int groups>
__device__ __forceinline__ void wgmma_wait() {
#if defined(GGNET_HOPPER)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
#elif !defined(__CUDACC__)
  simt::wgmma_wait(groups);
#endif
}

// Describes a matrix in shared memory in the 128-byte swizzle. Rows of the reduction adjacent
// ("K-major"): a row of the stack is a row of the matrix, 64 deep; group_bytes leads to the next
// eight rows; panel_bytes is not used. Transposed ("MN-major"): a row of the stack is one step of
// the reduction, 64 rows of the matrix wide; group_bytes leads to the next eight steps, panel_bytes
// to the next 64 rows of the matrix. 32 bytes further into a row are 16 steps of the reduction
// (K-major), 2048 bytes further are (MN-major): hopper_advance().
__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, int group_bytes,
                                                      int panel_bytes = 16) {
  return static_cast<uint64_t>((shared_address(shared) & 0x3ffff) >> 4) |
         static_cast<uint64_t>(panel_bytes >> 4) << 16 |
         static_cast<uint64_t>(group_bytes >> 4) << 32 | uint64_t{1} << 62;
}
__device__ __forceinline__ uint64_t hopper_advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

// The accumulators' part of an instruction's text, and of its operands.
#define GGNET_WGMMA_TEXT_32                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define GGNET_WGMMA_TEXT_64                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "  \
  "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "  \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
#define GGNET_WGMMA_TEXT_128                                                           \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "  \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "   \
  "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "   \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, "   \
  "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "   \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, "   \
  "%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "     \
  "%125, %126, %127}, "
#define GGNET_FLOATS_8(d, i)                                                                  \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define GGNET_FLOATS_32(d, i)                                                \
  GGNET_FLOATS_8(d, i), GGNET_FLOATS_8(d, i + 8), GGNET_FLOATS_8(d, i + 16), \
      GGNET_FLOATS_8(d, i + 24)
#define GGNET_WGMMA_OPERANDS_32(d) GGNET_FLOATS_32(d, 0)
#define GGNET_WGMMA_OPERANDS_64(d) GGNET_FLOATS_32(d, 0), GGNET_FLOATS_32(d, 32)
#define GGNET_WGMMA_OPERANDS_128(d) \
  GGNET_WGMMA_OPERANDS_64(d), GGNET_FLOATS_32(d, 64), GGNET_FLOATS_32(d, 96)

// d(64 x N, float32) += a(64 x 16) * b(16 x N); d is a's and b's product alone where `add` is
// false. A lane holds of d, with g = lane / 4 and t = lane % 4, rows 16 * warp + g and that plus 8,
// columns 8 * j + 2 * t and the next: d[4 * j + 2 * (row / 8) + column % 2]. `a` in registers is
// laid out as in mma_16x8x16. One warpgroup executes it together; operands in registers may be
// changed, and d read, after wgmma_wait().
template <int N, class T>
struct Wgmma;

#if defined(GGNET_HOPPER)
#define GGNET_WGMMA_ROWS(N, n, kOperands, kAdd, kName, kTransposed)              \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " kAdd                      \
               ", 0;\n"                                                          \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." kName "." kName \
               " " GGNET_WGMMA_TEXT_##n kOperands ", add, 1, 1, 0;\n}\n"         \
               : GGNET_WGMMA_OPERANDS_##n(d)                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)))
#define GGNET_WGMMA_SHARED(N, n, kOperands, kAdd, kName, kTransposed)                          \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " kAdd                                    \
               ", 0;\n"                                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." kName "." kName               \
               " " GGNET_WGMMA_TEXT_##n kOperands ", add, 1, 1, " kTransposed ", " kTransposed \
                                                  ";\n}\n"                                     \
               : GGNET_WGMMA_OPERANDS_##n(d)                                                   \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#else
#define GGNET_WGMMA_ROWS(...)
#define GGNET_WGMMA_SHARED(...)
#endif
#if defined(__CUDACC__)
#define GGNET_EMULATE_WGMMA(...)
#else
#define GGNET_EMULATE_WGMMA(...) simt::wgmma(__VA_ARGS__)
#endif
// n = N / 2 accumulators; the operands' numbers follow theirs.
#define GGNET_DEFINE_WGMMA(N, n, kRowOperands, kRowAdd, kSharedOperands, kSharedAdd, T, kName,     \
                           kDecode)                                                                \
  template <>                                                                                      \
  struct Wgmma<N, T> {                                                                             \
    /* a in registers, b K-major. */                                                               \
    static __device__ __forceinline__ void rows(float (&d)[n], const uint32_t (&a)[4], uint64_t b, \
                                                bool add) {                                        \
      GGNET_WGMMA_ROWS(N, n, kRowOperands, kRowAdd, kName, "0");                                   \
      GGNET_EMULATE_WGMMA(d, N, a, 0, b, false, add, simt::kDecode);                               \
    }                                                                                              \
    /* Both in shared memory, K-major. */                                                          \
    static __device__ __forceinline__ void shared_rows(float (&d)[n], uint64_t a, uint64_t b,      \
                                                       bool add) {                                 \
      GGNET_WGMMA_SHARED(N, n, kSharedOperands, kSharedAdd, kName, "0");                           \
      GGNET_EMULATE_WGMMA(d, N, nullptr, a, b, false, add, simt::kDecode);                         \
    }                                                                                              \
    /* Both in shared memory, MN-major. */                                                         \
    static __device__ __forceinline__ void shared_columns(float (&d)[n], uint64_t a, uint64_t b,   \
                                                          bool add) {                              \
      GGNET_WGMMA_SHARED(N, n, kSharedOperands, kSharedAdd, kName, "1");                           \
      GGNET_EMULATE_WGMMA(d, N, nullptr, a, b, true, add, simt::kDecode);                          \
    }                                                                                              \
  };
GGNET_DEFINE_WGMMA(64, 32, "{%32, %33, %34, %35}, %36", "%37", "%32, %33", "%34", __half, "f16",
                   decode_half)
GGNET_DEFINE_WGMMA(64, 32, "{%32, %33, %34, %35}, %36", "%37", "%32, %33", "%34", __nv_bfloat16,
                   "bf16", decode_bfloat16)
GGNET_DEFINE_WGMMA(128, 64, "{%64, %65, %66, %67}, %68", "%69", "%64, %65", "%66", __half, "f16",
                   decode_half)
GGNET_DEFINE_WGMMA(128, 64, "{%64, %65, %66, %67}, %68", "%69", "%64, %65", "%66", __nv_bfloat16,
                   "bf16", decode_bfloat16)
GGNET_DEFINE_WGMMA(256, 128, "{%128, %129, %130, %131}, %132", "%133", "%128, %129", "%130", __half,
                   "f16", decode_half)
GGNET_DEFINE_WGMMA(256, 128, "{%128, %129, %130, %131}, %132", "%133", "%128, %129", "%130",
                   __nv_bfloat16, "bf16", decode_bfloat16)
#undef GGNET_DEFINE_WGMMA

}  // namespace ggnet

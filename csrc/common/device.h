// What a kernel file needs of the device, and the only inline PTX of the package.
//
// A *_kernels.cuh includes this header and no other of CUDA's or Torch's. nvcc compiles the device
// side; a host compiler gets the emulation of csrc/simt, lane for lane. Fragment layouts are those
// of the PTX ISA ("Warp-level matrix instructions"). The tensor-core wrappers need sm_80; a
// kernel for older devices must not reach them.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace ggnet {
inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}
}  // namespace ggnet

#define GGNET_SHARED_ARRAY(Type, name, count) __shared__ Type name[count]
#define GGNET_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
// Launches on `stream` and raises when the launch is refused. More than 48 KiB of dynamic shared
// memory must be asked for.
#define GGNET_LAUNCH(kernel, grid, shape, dynamic_bytes, stream, ...)                         \
  do {                                                                                        \
    if ((dynamic_bytes) > (48u << 10))                                                        \
      ::ggnet::check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),         \
                                               cudaFuncAttributeMaxDynamicSharedMemorySize,   \
                                               static_cast<int>(dynamic_bytes)),              \
                          #kernel);                                                           \
    (kernel)<<<grid, shape, dynamic_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__); \
    ::ggnet::check_cuda(cudaGetLastError(), #kernel);                                         \
  } while (0)
#else
#include "simt/warp.h"
#endif

namespace ggnet {

// Bytes of shared memory that a block may have on the current device.
inline int shared_memory_limit() {
#if defined(__CUDACC__)
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "cudaDeviceGetAttribute");
  return bytes;
#else
  return static_cast<int>(simt::options.shared_limit);
#endif
}

// Storage types and the float that all arithmetic is done in, sixteen bytes at a time.
struct alignas(16) Vec16 {
  uint32_t word[4];
};

__host__ __device__ inline bool aligned16(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// blockIdx.x, of which the compiler knows nothing: what follows from it is computed again and need
// not be kept.
__device__ __forceinline__ int block_x_anew() {
#if defined(__CUDA_ARCH__)
  int x;
  asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(x));
  return x;
#else
  return blockIdx.x;
#endif
}

// 128-bit accesses; the address must be a multiple of 16.
__device__ __forceinline__ Vec16 load16(const void* address) {
#if defined(__CUDACC__)
  const uint4 v = *static_cast<const uint4*>(address);
  return Vec16{{v.x, v.y, v.z, v.w}};
#else
  return simt::load16<Vec16>(address);
#endif
}
__device__ __forceinline__ void store16(void* address, const Vec16& v) {
#if defined(__CUDACC__)
  *static_cast<uint4*>(address) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
#else
  simt::store16(address, v);
#endif
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// The two halves of a word, and back.
__device__ __forceinline__ float2 unpack2(uint32_t word, __nv_bfloat16) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ __forceinline__ float2 unpack2(uint32_t word, __half) {
  __half2 halves;
  memcpy(&halves, &word, sizeof(word));
  return __half22float2(halves);
}
__device__ __forceinline__ uint32_t pack2(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 halves = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &halves, sizeof(word));
  return word;
}
__device__ __forceinline__ uint32_t pack2(float low, float high, __half) {
  const __half2 halves = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &halves, sizeof(word));
  return word;
}

// Sixteen bytes as elements.
template <class T>
union Pack {
  Vec16 bits;
  T element[16 / sizeof(T)];
  __device__ Pack() {}
};

// Adds four floats to four consecutive ones in global memory; one instruction from sm_90 on.
__device__ __forceinline__ void atomic_add4(float* address, const float (&v)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(address), make_float4(v[0], v[1], v[2], v[3]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) atomicAdd(address + i, v[i]);
#endif
}

// d(16x8, float32) += a(16x16, row) * b(16x8, col), two halves or bfloat16s a register.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2], __half) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  simt::mma<16>(d, a, b, SIMT_SITE, simt::decode_half);
#endif
}
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2], __nv_bfloat16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  simt::mma<16>(d, a, b, SIMT_SITE, simt::decode_bfloat16);
#endif
}

// d(16x8, float32) += a(16x8, row) * b(8x8, col) in tf32; operands rounded by to_tf32.
__device__ __forceinline__ void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  simt::mma<8>(d, a, b, SIMT_SITE, simt::decode_tf32);
#endif
}
// Round to nearest, ties away from zero, as cvt.rna does.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
#elif defined(__CUDACC__)
  return __float_as_uint(x);
#else
  const uint32_t u = __float_as_uint(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#endif
}

// The registers of a float32 operand, each value as the sum of two of TF32. `big` keeps the upper
// 11 bits; rounding toward zero after a third of their unit was added leaves the largest floats
// finite, infinity and NaN as they are, and a remainder of either sign. `small` is that remainder,
// exact (NaN where `big` is not finite); the tensor cores read its upper 11 bits: big + small is x
// within 3 * 2^-23 of |x|, and within 2^-136 of a subnormal.
template <int kCount>
struct SplitTf32 {
  uint32_t big[kCount], small[kCount];

  __device__ __forceinline__ void set(int i, float x) {
    big[i] = __float_as_uint(__fmaf_rz(x, 0x1.555556p-12f, x)) & 0xffffe000u;
    small[i] = __float_as_uint(x - __uint_as_float(big[i]));
  }
};

// A few steps' sum of products of a 16x8 tile, in float32's accuracy, by three TF32 products; the
// product of the small parts is 2^-20 of the whole at most. Tensor cores cut the sums they keep, so
// the sum of many steps is kept outside, where each addition rounds to nearest.
struct Tf32x3Sum {
  float small[4] = {}, big[4] = {};

  __device__ __forceinline__ void add(const SplitTf32<4>& a, const SplitTf32<2>& b) {
    mma_16x8x8_tf32(small, a.small, b.big);
    mma_16x8x8_tf32(small, a.big, b.small);
    mma_16x8x8_tf32(big, a.big, b.big);
  }
  // What is not finite in an operand shows in `big` as in plain arithmetic; in `small` it is NaN.
  __device__ __forceinline__ void flush(float (&sum)[4]) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] += fabsf(small[e]) < INFINITY ? big[e] + small[e] : big[e];
  }
};

// Four 8x8 matrices of 16-bit elements from shared memory; lane i names row i%8 of matrix i/8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#else
  simt::ldmatrix_x4(r, row, false, SIMT_SITE);
#endif
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#else
  simt::ldmatrix_x4(r, row, true, SIMT_SITE);
#endif
}

// Copies 16 bytes from global to shared memory without waiting; the bytes beyond `source_bytes`
// become zero (0: nothing is read). Before sm_80 the copy waits.
__device__ __forceinline__ void cp_async16(void* shared, const void* global,
                                           int source_bytes = 16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(source_bytes)
               : "memory");
#elif defined(__CUDACC__)
  uint4 bytes = make_uint4(0, 0, 0, 0);
  for (int i = 0; i < source_bytes; ++i)
    reinterpret_cast<char*>(&bytes)[i] = static_cast<const char*>(global)[i];
  *static_cast<uint4*>(shared) = bytes;
#else
  simt::async_copy(shared, global, 16, source_bytes);
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  simt::async_commit();
#endif
}
// Waits until at most `groups` of the committed groups of this thread are still under way.
template <int groups>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#elif !defined(__CUDACC__)
  simt::async_wait(groups);
#endif
}

}  // namespace ggnet

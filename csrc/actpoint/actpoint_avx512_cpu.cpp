#ifdef __x86_64__
#include <immintrin.h>

#include <cstdlib>
#include <new>
#include <type_traits>

#include "actpoint_cpu.h"

#ifdef GGNET_EMULATE_AVX512
#pragma GCC target("avx2,fma,f16c")
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512")
#define GGNET_AVX512F
#endif
#define GGNET_F16C
#define GGNET_ISA avx512
#define GGNET_VECTOR_BYTES 64
#define GGNET_GEMM_ROWS 12
#include "actpoint_cpu_kernels.h"

namespace ggnet {
using namespace avx512;
constinit const DeformTable kDeformAvx512 = {{deform_kernels<float>(), deform_kernels<double>(),
                                              deform_kernels<avx512::bf16>(),
                                              deform_kernels<avx512::f16>()}};
}  // namespace ggnet
#endif

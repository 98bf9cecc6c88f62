#ifdef __x86_64__
#include <immintrin.h>

#include <cstdlib>
#include <new>
#include <type_traits>

#include "actpoint_cpu.h"

#pragma GCC target("avx2,fma,f16c")
#define GGNET_F16C
#define GGNET_ISA avx2
#define GGNET_VECTOR_BYTES 32
#define GGNET_GEMM_ROWS 6
#include "actpoint_cpu_kernels.h"

namespace ggnet {
using namespace avx2;
constinit const DeformTable kDeformAvx2 = {{deform_kernels<float>(), deform_kernels<double>(),
                                            deform_kernels<avx2::bf16>(),
                                            deform_kernels<avx2::f16>()}};
}  // namespace ggnet
#endif

#ifdef __x86_64__
#include <immintrin.h>

#include <cstdlib>
#include <new>
#include <type_traits>

#include "actpoint_cpu.h"

#ifdef GGNET_EMULATE_AVX512
#pragma GCC target("avx2,fma,f16c")
#else
#pragma GCC target( \
    "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#define GGNET_AVX512F
#define GGNET_AVX512_BF16
#endif
#define GGNET_F16C
#define GGNET_ISA avx512_bf16
#define GGNET_VECTOR_BYTES 64
#define GGNET_GEMM_ROWS 12
#include "actpoint_cpu_kernels.h"

namespace ggnet {
// Only bfloat16 gains from the instructions; the rest are AVX-512's kernels.
constinit const DeformTable kDeformAvx512Bf16 = {
    {{}, {}, avx512_bf16::deform_kernels<avx512_bf16::bf16, true>(), {}}};
}  // namespace ggnet
#endif

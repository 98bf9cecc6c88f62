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
#define GGNET_AMX
#endif
#define GGNET_F16C
#define GGNET_ISA amx_bf16
#define GGNET_VECTOR_BYTES 64
#define GGNET_GEMM_ROWS 12
#define GGNET_PAIRS 16
#include "actpoint_cpu_kernels.h"

namespace ggnet {
// Only bfloat16 has these instructions; the rest are AVX-512's kernels.
constinit const DeformTable kDeformAmxBf16 = {
    {{}, {}, amx_bf16::deform_kernels<amx_bf16::bf16, true, true>(), {}}};
}  // namespace ggnet
#endif

#include <cstdlib>
#include <new>
#include <type_traits>

#include "actpoint_cpu.h"

#define GGNET_ISA portable
#define GGNET_VECTOR_BYTES 16
#define GGNET_GEMM_ROWS 6
#include "actpoint_cpu_kernels.h"

namespace ggnet {
using namespace portable;
constinit const DeformTable kDeformPortable = {{deform_kernels<float>(), deform_kernels<double>(),
                                                deform_kernels<portable::bf16>(),
                                                deform_kernels<portable::f16>()}};
}  // namespace ggnet

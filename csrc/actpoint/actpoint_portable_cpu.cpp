#include <cstdlib>
#include <new>
#include <type_traits>

#include "actpoint.h"

#define GGNET_ISA portable
#define GGNET_VECTOR_BYTES 16
#define GGNET_GEMM_ROWS 6
#include "actpoint_cpu_kernels.h"

namespace ggnet {
using namespace portable;
constinit const DeformTable kDeformPortable = {{Deform<float>::kernels(), Deform<double>::kernels(),
                                                Deform<portable::bf16>::kernels(),
                                                Deform<portable::f16>::kernels()}};
}  // namespace ggnet

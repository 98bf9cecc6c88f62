#include "actpoint/actpoint_hopper_cuda.h"

namespace ggnet::deform::hopper {

#define GGNET_DEFINE(T)                                                  \
  template void forward<T>(const DeformForwardParams&, void*);           \
  template void backward<T>(const DeformDataGradParams&, float*, void*); \
  template void weight_grad<T>(const DeformWeightGradParams&, void*);
GGNET_EACH_HALF(GGNET_DEFINE)

// Never launched: how many threads its blocks may have tells which code the device would run.
#if defined(GGNET_HOPPER)
constexpr int kProbeThreads = 64;
#else
constexpr int kProbeThreads = 32;
#endif
__global__ void __launch_bounds__(kProbeThreads) probe_kernel(int* out) { *out = kProbeThreads; }

bool available() {
  cudaFuncAttributes attributes;
  check_cuda(cudaFuncGetAttributes(&attributes, probe_kernel),
             "the library has no code for this device; compile it with TORCH_CUDA_ARCH_LIST");
  return attributes.maxThreadsPerBlock == 64;
}

}  // namespace ggnet::deform::hopper

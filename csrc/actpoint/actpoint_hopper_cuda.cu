#include "actpoint/actpoint_hopper_cuda.h"

namespace ggnet::deform::hopper {

#define GGNET_DEFINE(T)                                                \
  template void forward<T>(const DeformForwardParams&, void*);         \
  template void backward<T>(const DeformBackwardParams&, float*, void*); \
  template void weight_grad<T>(const DeformWeightGradParams&, void*);
GGNET_EACH_HALF(GGNET_DEFINE)

// Never launched: its shared memory tells which code the device would run.
__global__ void probe_kernel(int* out) {
#if defined(GGNET_HOPPER)
  GGNET_SHARED_ARRAY(int, probe, 2);
#else
  GGNET_SHARED_ARRAY(int, probe, 1);
#endif
  probe[0] = out[0];
  __syncthreads();
  out[1] = probe[0];
}

bool available() {
  cudaFuncAttributes attributes;
  check_cuda(cudaFuncGetAttributes(&attributes, probe_kernel),
             "the library has no code for this device; compile it with TORCH_CUDA_ARCH_LIST");
  return attributes.sharedSizeBytes == 2 * sizeof(int);
}

}  // namespace ggnet::deform::hopper

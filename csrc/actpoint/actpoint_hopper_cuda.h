// The Hopper kernels, compiled by actpoint_hopper_cuda.cu.
#pragma once

#include "actpoint/actpoint_cuda.h"
#include "actpoint/actpoint_hopper_backward_kernels.cuh"
#include "actpoint/actpoint_hopper_forward_kernels.cuh"
#include "actpoint/actpoint_hopper_weight_grad_kernels.cuh"

namespace ggnet::deform::hopper {

#define GGNET_DECLARE(T)                                                        \
  extern template void forward<T>(const DeformForwardParams&, void*);           \
  extern template void backward<T>(const DeformDataGradParams&, float*, void*); \
  extern template void weight_grad<T>(const DeformWeightGradParams&, void*);
GGNET_EACH_HALF(GGNET_DECLARE)
#undef GGNET_DECLARE

// Whether the current device has the instructions and the library was compiled for them (9.0a).
bool available();

}  // namespace ggnet::deform::hopper

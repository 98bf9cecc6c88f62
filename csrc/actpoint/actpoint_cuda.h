// The large kernels are compiled one file each, so that they compile side by side.
#pragma once

#include "actpoint/actpoint_backward_kernels.cuh"
#include "actpoint/actpoint_forward_kernels.cuh"
#include "actpoint/actpoint_weight_grad_kernels.cuh"
#include "actpoint/actpoint_windowed_backward_kernels.cuh"

#define GGNET_EACH_HALF(X) X(__half) X(__nv_bfloat16)
#define GGNET_EACH_MATH(X) \
  X(float, Math::kFloat)   \
  X(float, Math::kTf32)    \
  X(float, Math::kTf32x3)  \
  X(__half, Math::kHalf)   \
  X(__nv_bfloat16, Math::kHalf)

namespace ggnet::deform {

#define GGNET_DECLARE(T, kMath)                                                \
  extern template void forward<T, kMath>(const DeformForwardParams&, void*);   \
  extern template void backward<T, kMath>(const DeformDataGradParams&, void*); \
  extern template void weight_grad<T, kMath>(const DeformWeightGradParams&, void*);
GGNET_EACH_MATH(GGNET_DECLARE)
#undef GGNET_DECLARE

namespace windowed {
#define GGNET_DECLARE(T) \
  extern template void backward<T>(const DeformDataGradParams&, float*, void*);
GGNET_EACH_HALF(GGNET_DECLARE)
#undef GGNET_DECLARE
}  // namespace windowed

}  // namespace ggnet::deform

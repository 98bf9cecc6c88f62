// The arithmetic of csrc/actpoint/actpoint_cpu.h, written once for all instruction sets. A
// translation unit sets its target and GGNET_ISA, GGNET_VECTOR_BYTES, GGNET_GEMM_ROWS, then
// includes this.
#pragma once

#include "actpoint_cpu_backward.h"
#include "actpoint_cpu_forward.h"

namespace ggnet::GGNET_ISA {

template <typename T, bool kPairs = false>  // kPairs: the forward's product takes bfloat16 pairs
constexpr DeformCpuKernels deform_kernels() {
  using FW = Packing<T, kPairs>;
  using BW = Packing<T>;
  using B = Backward<T>;
  return {&FW::forward_packed_bytes,
          &FW::pack_items,
          &FW::pack_forward,
          &Forward<T, kPairs>::forward,
          &BW::backward_packed_bytes,
          &B::backward_weight_bytes,
          &BW::pack_backward,
          &B::backward,
          &B::reduce_features,
          &B::weight_items,
          &B::reduce_weight,
          &B::reduce_bias,
          &Sampling<T>::to_channels_last};
}

}  // namespace ggnet::GGNET_ISA

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
  using L = Lanes<T>;
  using B = Backward<T>;
  return {[](const DeformCpuParams& p) {
            return L::chosen(p) ? L::packed_bytes(p) : FW::forward_packed_bytes(p);
          },
          [](const DeformCpuParams& p, bool backward) {
            return L::chosen(p) ? L::blocks(p).count() : FW::pack_items(p, backward);
          },
          [](const DeformCpuParams& p, int64_t begin, int64_t end) {
            (L::chosen(p) ? L::pack : FW::pack_forward)(p, begin, end);
          },
          &Forward<T, kPairs>::forward,
          [](const DeformCpuParams& p) {
            return L::chosen(p) ? L::packed_bytes(p) : BW::backward_packed_bytes(p);
          },
          &B::backward_weight_bytes,
          [](const DeformCpuParams& p, int64_t begin, int64_t end) {
            (L::chosen(p) ? L::pack : BW::pack_backward)(p, begin, end);
          },
          &B::backward,
          &B::reduce_features,
          &B::weight_items,
          &B::reduce_weight,
          &B::reduce_bias,
          &Sampling<T>::to_channels_last};
}

}  // namespace ggnet::GGNET_ISA

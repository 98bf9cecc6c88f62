// The arithmetic of csrc/actpoint/actpoint_cpu.h, written once for all instruction sets. A
// translation unit sets its target and GGNET_ISA, GGNET_VECTOR_BYTES, GGNET_GEMM_ROWS (and, for
// products of bfloat16 pairs by AMX, GGNET_AMX and GGNET_PAIRS), then includes this.
#pragma once

#include "actpoint_cpu_backward.h"
#include "actpoint_cpu_forward.h"

namespace ggnet::GGNET_ISA {

// Which products take bfloat16 pairs.
template <typename T, bool kForwardPairs = false, bool kBackwardPairs = false>
constexpr DeformCpuKernels deform_kernels() {
  using FW = Packing<T, kForwardPairs>;
  using BW = Packing<T, kBackwardPairs>;
  using L = Lanes<T>;
  using B = Backward<T, kBackwardPairs>;
  return {[](const DeformCpuParams& p) {
            return L::chosen(p) ? L::packed_bytes(p) : FW::forward_packed_bytes(p);
          },
          [](const DeformCpuParams& p, bool backward) {
            return L::chosen(p) ? L::blocks(p).count() : FW::pack_items(p, backward);
          },
          [](const DeformCpuParams& p, int64_t begin, int64_t end) {
            (L::chosen(p) ? L::pack : FW::pack_forward)(p, begin, end);
          },
          &Forward<T, kForwardPairs>::forward,
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

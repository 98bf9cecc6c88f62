// What the bindings of hna_loss verify, and the parameters that follow from the tensors.
#pragma once

#include "../common/check.h"
#include "hna_loss.h"

namespace ggnet {

// Also gives logits and target the layouts that the parameters name.
inline HnaLossParams hna_loss_params(Tensor& logits, Tensor& target, double alpha, double beta,
                                     double gamma, double eps) {
  check_shape(logits, "logits", {kAnySize, kAnySize, kAnySize, kAnySize});
  check_shape(target, "target", {logits.size(0), logits.size(1), logits.size(2), logits.size(3)});
  check_device(target, "target", logits);
  const auto dtype = logits.scalar_type(), target_dtype = target.scalar_type();
  STD_TORCH_CHECK(target_dtype == dtype || target_dtype == ScalarType::Float, "target has dtype ",
                  target_dtype, ", expected float32 or that of logits, ", dtype);
  const bool channels_last = is_channels_last(logits);
  const HnaLossParams params{.batch = logits.size(0),
                             .channels = logits.size(1),
                             .cells = logits.size(2) * logits.size(3),
                             .channels_last = channels_last,
                             .target_channels_last = channels_last && is_channels_last(target),
                             .alpha = alpha,
                             .beta = beta,
                             .gamma = gamma,
                             .eps = eps};
  logits = with_layout(logits, params.channels_last);
  target = with_layout(target, params.target_channels_last);
  return params;
}

inline void check_grad_loss(const Tensor& grad_loss, const Tensor& grad) {
  STD_TORCH_CHECK(grad_loss.numel() == 1, "grad_loss has ", grad_loss.numel(),
                  " elements, expected 1");
  check_device(grad_loss, "grad_loss", grad);
}

// What hna_loss counted.
inline void check_positives(const Tensor& positives, const Tensor& logits) {
  STD_TORCH_CHECK(positives.numel() == 1 && positives.scalar_type() == ScalarType::Int,
                  "positives has ", positives.numel(), " elements of dtype ",
                  positives.scalar_type(), ", expected 1 of int32");
  check_device(positives, "positives", logits);
}

// A gradient that is scaled where it lies.
inline void check_overwritten(const Tensor& grad_loss, const Tensor& grad) {
  check_grad_loss(grad_loss, grad);
  STD_TORCH_CHECK(
      with_layout(grad, is_channels_last(grad)).const_data_ptr() == grad.const_data_ptr(),
      "grad has gaps between its elements; expected a contiguous or channels_last one");
}

}  // namespace ggnet

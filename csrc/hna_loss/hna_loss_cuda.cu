// Bindings of the device kernels: hna_loss and its backward.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/cuda.h"
#include "hna_loss/hna_loss_check.h"
#include "hna_loss/hna_loss_kernels.cuh"

namespace ggnet {
namespace {

std::tuple<Tensor, Tensor> hna_loss(Tensor logits, Tensor target, double alpha, double beta,
                                    double gamma, double eps, bool with_grad) {
  const OnDevice device(logits);
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  const Tensor loss = empty({}, logits, false, ScalarType::Float);
  const Tensor grad =
      with_grad ? empty(logits.sizes(), logits, params.channels_last) : empty({0}, logits);
  Tensor positives = empty({1}, logits, false, ScalarType::Int);
  torch::stable::zero_(positives);
  const Tensor partial = empty({hna::partial_size(params)}, logits, false, ScalarType::Double);
  with_device_type(logits, "logits", [&]<class T>(T*) {
    const auto launch = [&]<class M>(const M* targets) {
      hna::hna_loss(read<T>(logits), targets, with_grad ? write<T>(grad) : nullptr, params,
                    write<int>(positives), write<double>(partial), write<float>(loss),
                    device.stream);
    };
    if (target.scalar_type() == ScalarType::Float)
      launch(read<float>(target));
    else
      launch(read<T>(target));
  });
  return {loss, grad};
}

void scale(const OnDevice& device, Tensor grad_loss, const Tensor& grad, const Tensor& out) {
  if (grad_loss.scalar_type() != ScalarType::Float)
    grad_loss = torch::stable::to(grad_loss, ScalarType::Float);
  with_device_type(grad, "grad", [&]<class T>(T*) {
    hna::hna_loss_backward(read<T>(grad), read<float>(grad_loss), write<T>(out), grad.numel(),
                           device.stream);
  });
}

Tensor hna_loss_backward(Tensor grad_loss, Tensor grad) {
  const OnDevice device(grad);
  check_grad_loss(grad_loss, grad);
  const bool channels_last = is_channels_last(grad);
  grad = with_layout(grad, channels_last);
  const Tensor out = empty(grad.sizes(), grad, channels_last);
  scale(device, grad_loss, grad, out);
  return out;
}

void hna_loss_backward_(Tensor grad_loss, Tensor grad) {
  const OnDevice device(grad);
  check_overwritten(grad_loss, grad);
  scale(device, grad_loss, grad, grad);
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) {
  m.impl("hna_loss", TORCH_BOX(&ggnet::hna_loss));
  m.impl("hna_loss_backward", TORCH_BOX(&ggnet::hna_loss_backward));
  m.impl("hna_loss_backward_", TORCH_BOX(&ggnet::hna_loss_backward_));
}

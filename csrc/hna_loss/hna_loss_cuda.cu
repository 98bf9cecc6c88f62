// Bindings of the device kernels: hna_loss and its backward.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/cuda.h"
#include "hna_loss/hna_loss_check.h"
#include "hna_loss/hna_loss_kernels.cuh"

namespace ggnet {
namespace {

// f(pointer to logits, pointer to target), of their types.
template <class F>
void with_types(const Tensor& logits, const Tensor& target, F f) {
  with_device_type(logits, "logits", [&]<class T>(T*) {
    if (target.scalar_type() == ScalarType::Float)
      f(read<T>(logits), read<float>(target));
    else
      f(read<T>(logits), read<T>(target));
  });
}

std::tuple<Tensor, Tensor, Tensor> hna_loss(Tensor logits, Tensor target, double alpha, double beta,
                                            double gamma, double eps, bool with_grad) {
  const OnDevice device(logits);
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  const Tensor loss = empty({}, logits, false, ScalarType::Float);
  const Tensor grad =
      with_grad ? empty(logits.sizes(), logits, params.channels_last) : empty({0}, logits);
  Tensor positives = empty({}, logits, false, ScalarType::Int);
  torch::stable::zero_(positives);
  const Tensor partial = empty({hna::partial_size(params)}, logits, false, ScalarType::Double);
  with_types(logits, target, [&]<class T, class M>(const T* x, const M* m) {
    hna::hna_loss(x, m, with_grad ? write<T>(grad) : nullptr, params, write<int>(positives),
                  write<double>(partial), write<float>(loss), device.stream);
  });
  return {loss, grad, positives};
}

Tensor as_float(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float);
}

Tensor hna_loss_gradient(Tensor grad_loss, Tensor logits, Tensor target, Tensor positives,
                         double alpha, double beta, double gamma, double eps) {
  const OnDevice device(logits);
  const HnaLossParams params = hna_loss_params(logits, target, alpha, beta, gamma, eps);
  check_grad_loss(grad_loss, logits);
  check_positives(positives, logits);
  const Tensor factor = as_float(grad_loss);
  const Tensor grad = empty(logits.sizes(), logits, params.channels_last);
  with_types(logits, target, [&]<class T, class M>(const T* x, const M* m) {
    hna::hna_loss_gradient(x, m, write<T>(grad), params, read<int>(positives), read<float>(factor),
                           device.stream);
  });
  return grad;
}

void scale(const OnDevice& device, const Tensor& grad_loss, const Tensor& grad, const Tensor& out) {
  const Tensor factor = as_float(grad_loss);
  with_device_type(grad, "grad", [&]<class T>(T*) {
    hna::hna_loss_backward(read<T>(grad), read<float>(factor), write<T>(out), grad.numel(),
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
  m.impl("hna_loss_gradient", TORCH_BOX(&ggnet::hna_loss_gradient));
  m.impl("hna_loss_backward", TORCH_BOX(&ggnet::hna_loss_backward));
  m.impl("hna_loss_backward_", TORCH_BOX(&ggnet::hna_loss_backward_));
}

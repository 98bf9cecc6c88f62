// The schema of every operator, and nothing else; ggnet/ops/_operators.py lists their names. tf32:
// whether a device may round float32 factors to TF32; ggnet.ops passes what torch allows. Kernels
// register beside their code (the bottom of csrc/<op>/<op>_*), fake kernels, autograd and autocast
// in ggnet/ops/<op>.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(ggnet, m) {
  m.def(
      "actpoint_aggregate(Tensor features, Tensor points, Tensor weight, Tensor? bias=None, "
      "Tensor? base_offset=None, *, bool relu=False, bool tf32=False) -> Tensor");
  m.def(
      "actpoint_aggregate_backward(Tensor grad_output, Tensor features, Tensor points, "
      "Tensor weight, Tensor? base_offset, Tensor? output, int wanted, bool deterministic, *, "
      "bool tf32=False) -> "
      "(Tensor grad_features, Tensor grad_points, Tensor grad_weight, Tensor grad_bias)");
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, int stride_h, "
      "int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, Tensor? mask, *, "
      "bool tf32=False) -> Tensor");
  m.def(
      "deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, "
      "Tensor? mask, int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, "
      "int dilation_w, int wanted, bool deterministic, *, bool tf32=False) -> "
      "(Tensor grad_input, Tensor grad_offset, Tensor grad_weight, Tensor grad_bias, "
      "Tensor grad_mask)");
  m.def(
      "hna_loss(Tensor logits, Tensor target, float alpha, float beta, float gamma, float eps, "
      "bool with_grad) -> (Tensor loss, Tensor grad, Tensor positives)");
  m.def(
      "hna_loss_gradient(Tensor grad_loss, Tensor logits, Tensor target, Tensor positives, "
      "float alpha, float beta, float gamma, float eps) -> Tensor");
  m.def("hna_loss_backward(Tensor grad_loss, Tensor grad) -> Tensor");
  m.def("hna_loss_backward_(Tensor grad_loss, Tensor(a!) grad) -> ()");
  m.def(
      "draw_heatmaps(Tensor centers, Tensor radii, Tensor signs, SymInt[] shape, "
      "float positive_factor, float negative_factor) -> Tensor");
  m.def(
      "topk_peaks(Tensor logits, int k, int kernel_size) -> "
      "(Tensor scores, Tensor channels, Tensor ys, Tensor xs)");
  m.def(
      "match_points(Tensor[] interactions, Tensor[] humans, Tensor[] objects, "
      "Tensor human_offsets, Tensor object_offsets, Tensor? valid_pairs, int rule, "
      "int identity) -> "
      "(Tensor human, Tensor object, Tensor score)");
  // Which kernels actpoint_aggregate and deform_conv2d run on a CUDA device; 0 channels: not known.
  m.def("actpoint_kernels(int device, bool half, int channels) -> str");
}

// Modulated deformable convolution: what the kernels behind actpoint_aggregate and deform_conv2d
// compute, on every device, and the parameters that they take. No Torch here: raw pointers and
// sizes.
//
// For output pixel p, output channel o (K = kernel_h * kernel_w points, k = (i, j)):
//   out[o, p] = act(bias[o] + sum_k sum_c weight[o, c', i, j] * m_k(p) * sample(features[c], y, x))
//   y = p.y * stride_h - pad_h + i * dilation_h + dy_k(p),  x likewise
//   (dy_k, dx_k) = offset channels 2k, 2k+1, plus base_offset where given
//   m_k = mask channel k, through a sigmoid where `sigmoid` is set; 1 where there is no mask
//   act = ReLU where `relu` is set
// Outputs and channels are cut into `groups` equal runs: c passes through the run of o's number,
// and c' is its place in it. Channels are cut into `offset_groups` equal runs, too: run g has
// points of its own, whose dy, dx and m begin at channels 2 K g of offset and K g of mask.
// sample() is bilinear over the four neighbors, those outside the map counting as zero: a point
// with y <= -1, y >= height, x <= -1 or x >= width contributes 0, and so does a NaN or infinite
// coordinate: no offset, however large, makes a read out of bounds. Gradients are those of this
// formula with floor() held constant, as in torchvision: at an integer coordinate the derivative is
// the one from above (at y = -1, where the sample is 0, it is already row 0's).
#pragma once

#include <cstdint>

namespace ggnet {

struct DeformShape {
  int batch, channels, height, width;  // of the features
  int outputs, out_height, out_width;
  int kernel_h, kernel_w;  // points: K = kernel_h * kernel_w
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int groups;         // divides channels and outputs
  int offset_groups;  // G, divides channels
};

// Element strides of a [batch, channels, height, width] tensor in any layout.
struct Strides {
  int64_t batch, channel, row, column;
};

struct DeformForwardParams {
  DeformShape shape;
  const void* features;     // [batch, height, width, channels]
  const void* offset;       // [batch, 2KG, out_height, out_width]: (dy, dx) of each point
  const void* base_offset;  // [batch, 2K, out_height, out_width], added to offset; or null; G = 1
  const void* mask;         // [batch, KG, out_height, out_width], logits if sigmoid; or null
  Strides offset_strides, base_strides, mask_strides;
  // CPU: [outputs, channels / groups, kernel_h, kernel_w]; CUDA: as its kernels pack it
  const void* weight;
  const void* bias;  // [outputs] or null
  void* out;         // CPU: [batch, outputs, out_height, out_width]; CUDA: outputs last
  bool sigmoid, relu;
};

// A null gradient is not computed.
struct DeformBackwardParams : DeformForwardParams {
  const void* grad_out;  // in the layouts of out
  void* grad_offset;     // [batch, 2KG, out_height, out_width]
  void* grad_mask;       // [batch, KG, out_height, out_width]; given with grad_offset alone
  Strides grad_offset_strides, grad_mask_strides;
};

}  // namespace ggnet

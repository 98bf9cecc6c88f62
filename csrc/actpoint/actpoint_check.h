// What the bindings of actpoint_aggregate and deform_conv2d verify, and the parameters that follow
// from the tensors: two faces of one modulated deformable convolution.
#pragma once

#include <string>
#include <tuple>

#include "../common/check.h"
#include "actpoint.h"
#include "wanted.h"

namespace ggnet {

inline Strides strides_of(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

struct DeformSteps {  // in cells
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// A call's tensors, checked.
struct DeformInputs {
  DeformShape shape;
  Tensor features, weight;
  Tensor offset;  // where `raw`, the raw points: offsets, then the logits of their weights
  std::optional<Tensor> base_offset, mask;
  bool raw;

  int points() const { return shape.kernel_h * shape.kernel_w; }
};

// Gradients of the inputs; those that are not wanted have no elements. Where the points are raw,
// offset is the gradient of all their channels.
struct DeformGradients {
  Tensor features, offset, mask, weight, bias;

  explicit DeformGradients(const Tensor& like)
      : features(empty({0}, like)),  // one each: outputs must not share memory
        offset(empty({0}, like)),
        mask(empty({0}, like)),
        weight(empty({0}, like)),
        bias(empty({0}, like)) {}
};

namespace detail {

// How many runs the channels and outputs are cut into, by the channels that an output has weights
// for.
inline int64_t weight_groups(const Tensor& features, const Tensor& weight) {
  const int64_t channels = features.size(1), outputs = weight.size(0), each = weight.size(1);
  STD_TORCH_CHECK(channels % each == 0, "weight has ", each, " input channels, expected the ",
                  channels, " of features or, for groups, a divisor of it");
  const int64_t groups = channels / each;
  STD_TORCH_CHECK(outputs % groups == 0, "weight has ", outputs,
                  " outputs, expected a multiple of ", groups, ", the groups that its ", each,
                  " of ", channels, " input channels mean");
  return groups;
}

// How many runs of the channels have points of their own, by the channels of `offset`.
inline int64_t offset_groups(const Tensor& offset, int64_t points, int64_t channels) {
  check_shape(offset, "offset", {kAnySize, kAnySize, kAnySize, kAnySize});
  const int64_t got = offset.size(1);
  if (got > 0 && got % (2 * points) == 0 && channels % (got / (2 * points)) == 0)
    return got / (2 * points);
  std::string fitting;
  for (int64_t groups = 1; groups <= channels; ++groups)
    if (channels % groups == 0)
      fitting += (fitting.empty() ? "" : ", ") + std::to_string(2 * groups * points);
  STD_TORCH_CHECK(false, "offset has ", got, " channels, expected 2 G K, K = ", points,
                  " points, for a number of offset groups G that divides the ", channels,
                  " channels of features: one of ", fitting);
}

inline DeformShape deform_shape(const Tensor& features, const Tensor& weight,
                                const DeformSteps& steps) {
  check_shape(features, "features", {kAnySize, kAnySize, kAnySize, kAnySize});
  check_like(weight, "weight", features);
  check_shape(weight, "weight", {kAnySize, kAnySize, kAnySize, kAnySize});
  STD_TORCH_CHECK(
      features.size(1) > 0 && features.size(2) > 0 && features.size(3) > 0 && weight.numel() > 0,
      "features and weight have an empty dimension other than the batch");
  const auto [stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w] = steps;
  STD_TORCH_CHECK(
      stride_h > 0 && stride_w > 0 && pad_h >= 0 && pad_w >= 0 && dilation_h > 0 && dilation_w > 0,
      "stride and dilation have to be positive, padding not negative");
  // Kernels hold sizes and grid positions in 32 bits.
  for (const int64_t number :
       {features.size(0), features.size(1), features.size(2) + 2 * pad_h,
        features.size(3) + 2 * pad_w, weight.size(0), weight.size(2), weight.size(3), stride_h,
        stride_w, pad_h, pad_w, dilation_h, dilation_w})
    STD_TORCH_CHECK(number <= std::numeric_limits<int32_t>::max(), "a size, stride, padding, ",
                    "dilation or padded size is ", number, ", expected less than 2**31");
  const auto out_size = [](int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                           int64_t dilation) {
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  };
  const int64_t out_height =
      out_size(features.size(2), weight.size(2), stride_h, pad_h, dilation_h);
  const int64_t out_width = out_size(features.size(3), weight.size(3), stride_w, pad_w, dilation_w);
  STD_TORCH_CHECK(out_height > 0 && out_width > 0, "the output would have no pixels");
  const auto narrow = [](int64_t size) { return static_cast<int>(size); };
  return {.batch = narrow(features.size(0)),
          .channels = narrow(features.size(1)),
          .height = narrow(features.size(2)),
          .width = narrow(features.size(3)),
          .outputs = narrow(weight.size(0)),
          .out_height = narrow(out_height),
          .out_width = narrow(out_width),
          .kernel_h = narrow(weight.size(2)),
          .kernel_w = narrow(weight.size(3)),
          .stride_h = narrow(stride_h),
          .stride_w = narrow(stride_w),
          .pad_h = narrow(pad_h),
          .pad_w = narrow(pad_w),
          .dilation_h = narrow(dilation_h),
          .dilation_w = narrow(dilation_w),
          .groups = narrow(weight_groups(features, weight)),
          .offset_groups = 1};
}

}  // namespace detail

// A map of the output's size.
inline void check_map(const Tensor& t, const char* name, const DeformInputs& in, int64_t channels) {
  check_like(t, name, in.features);
  check_shape(t, name, {in.shape.batch, channels, in.shape.out_height, in.shape.out_width});
}

inline void check_bias(const Tensor& bias, const DeformInputs& in) {
  check_like(bias, "bias", in.features);
  check_shape(bias, "bias", {in.shape.outputs});
}

inline DeformInputs actpoint_inputs(const Tensor& features, const Tensor& points,
                                    const Tensor& weight,
                                    const std::optional<Tensor>& base_offset) {
  check_shape(features, "features", {kAnySize, kAnySize, kAnySize, kAnySize});
  check_shape(weight, "weight", {kAnySize, features.size(1), kAnySize, kAnySize});
  const DeformSteps steps{1, 1, weight.size(2) / 2, weight.size(3) / 2, 1, 1};
  DeformInputs in{.shape = detail::deform_shape(features, weight, steps),
                  .features = features,
                  .weight = weight,
                  .offset = points,
                  .base_offset = base_offset,
                  .raw = true};
  STD_TORCH_CHECK(in.shape.kernel_h == in.shape.kernel_w && in.shape.kernel_h % 2 == 1,
                  "weight has a ", in.shape.kernel_h, "x", in.shape.kernel_w,
                  " kernel, expected an odd square");
  check_map(points, "points", in, 3 * in.points());
  if (base_offset) check_map(*base_offset, "base_offset", in, 2 * in.points());
  return in;
}

inline DeformInputs deform_inputs(const Tensor& input, const Tensor& offset, const Tensor& weight,
                                  const std::optional<Tensor>& mask, const DeformSteps& steps) {
  DeformInputs in{.shape = detail::deform_shape(input, weight, steps),
                  .features = input,
                  .weight = weight,
                  .offset = offset,
                  .mask = mask,
                  .raw = false};
  const int64_t groups = detail::offset_groups(offset, in.points(), in.shape.channels);
  in.shape.offset_groups = static_cast<int>(groups);
  check_map(offset, "offset", in, 2 * groups * in.points());
  if (mask) check_map(*mask, "mask", in, groups * in.points());
  return in;
}

// Where the parameters that every device's kernels read lead. The tensors outlive the parameters.
inline void set_points(DeformForwardParams& p, const DeformInputs& in) {
  p.shape = in.shape;
  p.offset = in.offset.const_data_ptr();
  p.offset_strides = strides_of(in.offset);
  if (in.base_offset) {
    p.base_offset = in.base_offset->const_data_ptr();
    p.base_strides = strides_of(*in.base_offset);
  }
  if (in.raw) {
    p.mask = static_cast<const char*>(p.offset) +
             2 * in.points() * p.offset_strides.channel * int64_t(in.offset.element_size());
    p.mask_strides = p.offset_strides;
  } else if (in.mask) {
    p.mask = in.mask->const_data_ptr();
    p.mask_strides = strides_of(*in.mask);
  }
  p.sigmoid = in.raw;
}

// Makes the gradients of offset and mask, one pass's, in this dtype and the layouts of `in`.
inline void set_point_gradients(DeformBackwardParams& p, DeformGradients& grads,
                                const DeformInputs& in, ScalarType dtype) {
  const auto like = [dtype](const Tensor& t) {
    return empty(t.sizes(), t, is_channels_last(t), dtype);
  };
  grads.offset = like(in.offset);
  p.grad_offset = grads.offset.mutable_data_ptr();
  p.grad_offset_strides = strides_of(grads.offset);
  if (in.raw) {
    p.grad_mask = static_cast<char*>(p.grad_offset) + 2 * in.points() *
                                                          p.grad_offset_strides.channel *
                                                          int64_t(grads.offset.element_size());
    p.grad_mask_strides = p.grad_offset_strides;
  } else if (in.mask) {
    grads.mask = like(*in.mask);
    p.grad_mask = grads.mask.mutable_data_ptr();
    p.grad_mask_strides = strides_of(grads.mask);
  }
}

// What actpoint_aggregate_backward and deform_conv2d_backward return.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> points_gradients(const DeformGradients& grads) {
  return {grads.features, grads.offset, grads.weight, grads.bias};
}
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> offset_gradients(DeformGradients grads,
                                                                           int64_t wanted) {
  // One pass gives both; what was not asked for comes back empty.
  if (!(wanted & kPoints)) grads.offset = empty({0}, grads.offset);
  if (!(wanted & kMask)) grads.mask = empty({0}, grads.mask);
  return {grads.features, grads.offset, grads.weight, grads.bias, grads.mask};
}

}  // namespace ggnet

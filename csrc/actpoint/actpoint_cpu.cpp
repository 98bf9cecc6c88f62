// Bindings of the CPU kernels of csrc/actpoint/actpoint.h: actpoint_aggregate and deform_conv2d,
// two faces of one modulated deformable convolution.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <tuple>
#include <vector>

#include "../common/check.h"
#include "actpoint.h"
#include "wanted.h"

namespace ggnet {
namespace {

using torch::stable::parallel_for;

const DeformKernels& kernels_for(ScalarType dtype) {
  const auto in = [dtype](const DeformTable& table) -> const DeformKernels& {
    switch (dtype) {
      case ScalarType::Float:
        return table.of[int(Storage::kFloat)];
      case ScalarType::Double:
        return table.of[int(Storage::kDouble)];
      case ScalarType::BFloat16:
        return table.of[int(Storage::kBFloat16)];
      case ScalarType::Half:
        return table.of[int(Storage::kHalf)];
      default:
        STD_TORCH_CHECK(false, "features have dtype ", dtype,
                        ", expected float32, float64, bfloat16 or float16");
    }
  };
#ifdef __x86_64__
  switch (cpu_isa()) {
    case Isa::kAvx512Bf16:  // only bfloat16 gains from these instructions
      return in(dtype == ScalarType::BFloat16 ? kDeformAvx512Bf16 : kDeformAvx512);
    case Isa::kAvx512:
      return in(kDeformAvx512);
    case Isa::kAvx2:
      return in(kDeformAvx2);
    case Isa::kPortable:
      break;
  }
#endif
  return in(kDeformPortable);
}

Strides4 strides_of(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

Tensor bytes(const Tensor& like, int64_t count) {
  return empty({std::max<int64_t>(count, 1)}, like, false, ScalarType::Byte);
}

// What a call passes through from its arguments; the tensors are checked here.
struct Call {
  DeformParams p{};
  const DeformKernels& kernels;
  std::vector<Tensor> alive;  // buffers that p points into

  Call(const Tensor& features, const Tensor& weight)
      : kernels(kernels_for(features.scalar_type())) {
    check_shape(features, "features", {kAnySize, kAnySize, kAnySize, kAnySize});
    check_like(weight, "weight", features);
    check_shape(weight, "weight", {kAnySize, features.size(1), kAnySize, kAnySize});
    STD_TORCH_CHECK(features.size(1) > 0 && weight.size(0) > 0 && weight.size(2) > 0 &&
                        weight.size(3) > 0 && features.size(2) > 0 && features.size(3) > 0,
                    "features and weight have an empty dimension other than the batch");
    p.batch = features.size(0);
    p.channels = features.size(1);
    p.height = features.size(2);
    p.width = features.size(3);
    p.out_channels = weight.size(0);
    p.kernel_h = weight.size(2);
    p.kernel_w = weight.size(3);
    p.weight = weight.const_data_ptr();
    p.weight_strides = strides_of(weight);
  }

  void set_geometry(int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                    int64_t dilation_h, int64_t dilation_w) {
    STD_TORCH_CHECK(stride_h > 0 && stride_w > 0 && pad_h >= 0 && pad_w >= 0 && dilation_h > 0 &&
                        dilation_w > 0,
                    "stride and dilation have to be positive, padding not negative");
    p.stride_h = stride_h;
    p.stride_w = stride_w;
    p.pad_h = pad_h;
    p.pad_w = pad_w;
    p.dilation_h = dilation_h;
    p.dilation_w = dilation_w;
    p.out_height = (p.height + 2 * pad_h - dilation_h * (p.kernel_h - 1) - 1) / stride_h + 1;
    p.out_width = (p.width + 2 * pad_w - dilation_w * (p.kernel_w - 1) - 1) / stride_w + 1;
    STD_TORCH_CHECK(p.out_height > 0 && p.out_width > 0, "the output would have no pixels");
  }

  int64_t points() const { return p.kernel_h * p.kernel_w; }

  void check_map(const Tensor& t, const char* name, const Tensor& features, int64_t channels) {
    check_like(t, name, features);
    check_shape(t, name, {p.batch, channels, p.out_height, p.out_width});
  }

  // Kernels read features with adjacent channels and evenly spaced pixels; others are copied once.
  void set_features(const Tensor& t) {
    const bool one_row = p.height == 1, one_col = p.width == 1;
    p.feature_pixel_stride = one_col ? (one_row ? p.channels : t.stride(2)) : t.stride(3);
    p.feature_batch_stride = t.stride(0);
    p.features = t.const_data_ptr();
    if ((p.channels == 1 || t.stride(1) == 1) &&
        (one_row || one_col || t.stride(2) == p.width * t.stride(3)) &&
        p.height * p.width * p.feature_pixel_stride <= std::numeric_limits<int32_t>::max())
      return;
    Tensor copy = empty({p.batch, p.height, p.width, p.channels}, t);
    const Strides4 strides = strides_of(t);
    parallel_for(0, p.batch * p.height, 1, [&](int64_t begin, int64_t end) {
      kernels.to_channels_last(t.const_data_ptr(), strides, p, copy.mutable_data_ptr(), begin, end);
    });
    p.features = copy.const_data_ptr();
    p.feature_pixel_stride = p.channels;
    p.feature_batch_stride = p.height * p.width * p.channels;
    alive.push_back(std::move(copy));
  }

  void* buffer(const Tensor& like, int64_t count) {
    alive.push_back(bytes(like, count));
    return alive.back().mutable_data_ptr();
  }

  Tensor forward(const Tensor& features, const std::optional<Tensor>& bias, bool relu) {
    if (bias) {
      check_like(*bias, "bias", features);
      check_shape(*bias, "bias", {p.out_channels});
    }
    Tensor output = empty({p.batch, p.out_channels, p.out_height, p.out_width}, features,
                          is_channels_last(features));
    if (p.batch == 0) return output;
    set_features(features);
    const Tensor dense_bias = bias ? torch::stable::contiguous(*bias) : Tensor();
    p.bias = bias ? dense_bias.const_data_ptr() : nullptr;
    p.relu = relu;
    p.output = output.mutable_data_ptr();
    p.output_strides = strides_of(output);
    p.packed = buffer(features, kernels.forward_packed_bytes(p));
    parallel_for(0, kernels.pack_items(p, false), 1,
                 [&](int64_t begin, int64_t end) { kernels.pack_forward(p, begin, end); });
    parallel_for(0, p.batch * TileGrid(p).count(), 1,
                 [&](int64_t begin, int64_t end) { kernels.forward(p, begin, end); });
    return output;
  }

  struct Gradients {
    Tensor features, offset, mask, weight, bias;
  };

  // p.grad_offset and p.grad_mask are set by the caller.
  void backward(const Tensor& grad_output, const Tensor& features, const Tensor& weight,
                int64_t wanted, Gradients& grads) {
    check_map(grad_output, "grad_output", features, p.out_channels);
    p.grad_output = grad_output.const_data_ptr();
    p.grad_output_strides = strides_of(grad_output);
    const int64_t acc = features.scalar_type() == ScalarType::Double ? 8 : 4;
    const int64_t map = p.batch * p.height * p.width * p.channels;
    if (wanted & kFeatures) {
      grads.features =
          empty({p.batch, p.channels, p.height, p.width}, features, is_channels_last(features));
      p.grad_features = grads.features.mutable_data_ptr();
      p.grad_features_strides = strides_of(grads.features);
    }
    if (wanted & kWeight) {
      grads.weight = empty({p.out_channels, p.channels, p.kernel_h, p.kernel_w}, weight,
                           is_channels_last(weight));
      p.grad_weight = grads.weight.mutable_data_ptr();
      p.grad_weight_strides = strides_of(grads.weight);
    }
    if (wanted & kBias) {
      grads.bias = empty({p.out_channels}, weight);
      p.grad_bias = grads.bias.mutable_data_ptr();
    }
    if (p.batch == 0) {
      if (p.grad_weight) torch::stable::zero_(grads.weight);
      if (p.grad_bias) torch::stable::zero_(grads.bias);
      return;
    }

    set_features(features);
    const int64_t count = sections(p);
    std::vector<void*> spill;
    if (p.grad_features) {
      // Sums go straight into a gradient of the kernels' own layout and type.
      const bool direct = acc == int64_t(features.element_size()) &&
                          (p.channels == 1 || is_channels_last(features));
      p.feature_sums = direct ? p.grad_features : buffer(features, map * acc);
      if (sections_of_image(p) > 1) {
        spill.assign(count * p.height, nullptr);
        p.spill_rows = spill.data();
      }
    }
    if (p.grad_weight) p.weight_sums = buffer(features, count * kernels.backward_weight_bytes(p));
    if (p.grad_bias) p.bias_sums = buffer(features, count * p.out_channels * acc);
    if (p.grad_features || p.grad_offset) {
      p.packed = buffer(features, kernels.backward_packed_bytes(p));
      parallel_for(0, kernels.pack_items(p, true), 1,
                   [&](int64_t begin, int64_t end) { kernels.pack_backward(p, begin, end); });
    }
    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { kernels.backward(p, begin, end); });
    if (p.grad_features)
      parallel_for(0, p.batch * p.height, 1,
                   [&](int64_t begin, int64_t end) { kernels.reduce_features(p, begin, end); });
    for (void* row : spill) std::free(row);
    if (p.grad_weight)
      parallel_for(0, kernels.weight_items(p), 1,
                   [&](int64_t begin, int64_t end) { kernels.reduce_weight(p, begin, end); });
    if (p.grad_bias) kernels.reduce_bias(p);
  }
};

// ---- actpoint_aggregate
// --------------------------------------------------------------------------

Call actpoint_call(const Tensor& features, const Tensor& points, const Tensor& weight,
                   const std::optional<Tensor>& base_offset) {
  Call call(features, weight);
  DeformParams& p = call.p;
  STD_TORCH_CHECK(p.kernel_h == p.kernel_w && p.kernel_h % 2 == 1, "weight has a ", p.kernel_h, "x",
                  p.kernel_w, " kernel, expected an odd square");
  call.set_geometry(1, 1, p.kernel_h / 2, p.kernel_w / 2, 1, 1);
  call.check_map(points, "points", features, 3 * call.points());
  p.offset = points.const_data_ptr();
  p.offset_strides = p.mask_strides = strides_of(points);
  p.mask = static_cast<const char*>(p.offset) +
           2 * call.points() * points.stride(1) * int64_t(points.element_size());
  p.sigmoid = true;
  if (base_offset) {
    call.check_map(*base_offset, "base_offset", features, 2 * call.points());
    p.base = base_offset->const_data_ptr();
    p.base_strides = strides_of(*base_offset);
  }
  return call;
}

Tensor actpoint_aggregate(const Tensor& features, const Tensor& points, const Tensor& weight,
                          const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& base_offset, bool relu, bool /*tf32*/) {
  return actpoint_call(features, points, weight, base_offset).forward(features, bias, relu);
}

// Deterministic always, and never TF32: the arguments are for other devices.
std::tuple<Tensor, Tensor, Tensor, Tensor> actpoint_aggregate_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& points, const Tensor& weight,
    const std::optional<Tensor>& base_offset, const std::optional<Tensor>& output, int64_t wanted,
    bool /*deterministic*/, bool /*tf32*/) {
  Call call = actpoint_call(features, points, weight, base_offset);
  DeformParams& p = call.p;
  if (output) {
    call.check_map(*output, "output", features, p.out_channels);
    p.output = output->mutable_data_ptr();
    p.output_strides = strides_of(*output);
  }
  const auto none = [&] { return empty({0}, features); };  // outputs must not share memory
  Call::Gradients grads{none(), none(), none(), none(), none()};
  if (wanted & kPoints) {
    grads.offset = empty({p.batch, 3 * call.points(), p.out_height, p.out_width}, points,
                         is_channels_last(points));
    p.grad_offset = grads.offset.mutable_data_ptr();
    p.grad_offset_strides = p.grad_mask_strides = strides_of(grads.offset);
    p.grad_mask = static_cast<char*>(p.grad_offset) +
                  2 * call.points() * grads.offset.stride(1) * int64_t(points.element_size());
  }
  call.backward(grad_output, features, weight, wanted, grads);
  return {grads.features, grads.offset, grads.weight, grads.bias};
}

// ---- deform_conv2d
// -------------------------------------------------------------------------------

Call deform_call(const Tensor& input, const Tensor& offset, const Tensor& weight,
                 const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w,
                 int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w) {
  Call call(input, weight);
  DeformParams& p = call.p;
  call.set_geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w);
  call.check_map(offset, "offset", input, 2 * call.points());
  p.offset = offset.const_data_ptr();
  p.offset_strides = strides_of(offset);
  if (mask) {
    call.check_map(*mask, "mask", input, call.points());
    p.mask = mask->const_data_ptr();
    p.mask_strides = strides_of(*mask);
  }
  return call;
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                     int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w,
                     const std::optional<Tensor>& mask, bool /*tf32*/) {
  return deform_call(input, offset, weight, mask, stride_h, stride_w, pad_h, pad_w, dilation_h,
                     dilation_w)
      .forward(input, bias, false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h,
    int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t wanted, bool /*deterministic*/,
    bool /*tf32*/) {
  Call call = deform_call(input, offset, weight, mask, stride_h, stride_w, pad_h, pad_w, dilation_h,
                          dilation_w);
  DeformParams& p = call.p;
  const auto none = [&] { return empty({0}, input); };  // outputs must not share memory
  Call::Gradients grads{none(), none(), none(), none(), none()};
  Tensor grad_offset = none(), mask_grad = none();
  if (wanted & (kPoints | kMask)) {  // one pass gives both
    grad_offset = empty({p.batch, 2 * call.points(), p.out_height, p.out_width}, offset,
                        is_channels_last(offset));
    p.grad_offset = grad_offset.mutable_data_ptr();
    p.grad_offset_strides = strides_of(grad_offset);
    if (mask) {
      mask_grad = empty({p.batch, call.points(), p.out_height, p.out_width}, *mask,
                        is_channels_last(*mask));
      p.grad_mask = mask_grad.mutable_data_ptr();
      p.grad_mask_strides = strides_of(mask_grad);
    }
  }
  call.backward(grad_output, input, weight, wanted, grads);
  if (wanted & kPoints) grads.offset = grad_offset;
  if (wanted & kMask) grads.mask = mask_grad;
  return {grads.features, grads.offset, grads.weight, grads.bias, grads.mask};
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) {
  m.impl("actpoint_aggregate", TORCH_BOX(&ggnet::actpoint_aggregate));
  m.impl("actpoint_aggregate_backward", TORCH_BOX(&ggnet::actpoint_aggregate_backward));
  m.impl("deform_conv2d", TORCH_BOX(&ggnet::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&ggnet::deform_conv2d_backward));
}

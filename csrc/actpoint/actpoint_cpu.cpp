// Bindings of the CPU kernels of csrc/actpoint/actpoint_cpu.h: actpoint_aggregate and
// deform_conv2d.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "actpoint_check.h"
#include "actpoint_cpu.h"

namespace ggnet {
namespace {

using torch::stable::parallel_for;

const DeformCpuKernels& kernels_for(ScalarType dtype) {
  const auto in = [dtype](const DeformTable& table) -> const DeformCpuKernels& {
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
    case Isa::kAmxBf16:  // only bfloat16 gains from these two's instructions
      return in(dtype == ScalarType::BFloat16 ? kDeformAmxBf16 : kDeformAvx512);
    case Isa::kAvx512Bf16:
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

// What a call passes to the kernels.
class CpuCall {
 public:
  CpuCall(const DeformInputs& inputs)
      : in_(inputs), kernels_(kernels_for(inputs.features.scalar_type())) {
    set_points(p_, in_);
    p_.weight = in_.weight.const_data_ptr();
    p_.weight_strides = strides_of(in_.weight);
  }

  Tensor forward(const std::optional<Tensor>& bias, bool relu) {
    if (bias) check_bias(*bias, in_);
    const DeformShape& s = p_.shape;
    Tensor out = empty({s.batch, s.outputs, s.out_height, s.out_width}, in_.features,
                       is_channels_last(in_.features));
    if (s.batch == 0) return out;
    set_features();
    const Tensor dense_bias = bias ? torch::stable::contiguous(*bias) : Tensor();
    p_.bias = bias ? dense_bias.const_data_ptr() : nullptr;
    p_.relu = relu;
    p_.out = out.mutable_data_ptr();
    p_.out_strides = strides_of(out);
    p_.packed = buffer(kernels_.forward_packed_bytes(p_));
    parallel_for(0, kernels_.pack_items(p_, false), 1,
                 [&](int64_t begin, int64_t end) { kernels_.pack_forward(p_, begin, end); });
    parallel_for(0, s.batch * TileGrid(s).count(), 1,
                 [&](int64_t begin, int64_t end) { kernels_.forward(p_, begin, end); });
    return out;
  }

  // `output` is the forward's if it had a ReLU.
  DeformGradients backward(const Tensor& grad_output, const std::optional<Tensor>& output,
                           int64_t wanted) {
    const DeformShape& s = p_.shape;
    const Tensor& features = in_.features;
    check_map(grad_output, "grad_output", in_, s.outputs);
    p_.grad_out = grad_output.const_data_ptr();
    p_.grad_out_strides = strides_of(grad_output);
    if (output) {
      check_map(*output, "output", in_, s.outputs);
      p_.out = output->mutable_data_ptr();
      p_.out_strides = strides_of(*output);
    }
    DeformGradients grads(features);
    if (wanted & (kPoints | kMask)) set_point_gradients(p_, grads, in_, features.scalar_type());
    const int64_t acc = features.scalar_type() == ScalarType::Double ? 8 : 4;
    if (wanted & kFeatures) {
      grads.features = empty(features.sizes(), features, is_channels_last(features));
      p_.grad_features = grads.features.mutable_data_ptr();
      p_.grad_features_strides = strides_of(grads.features);
    }
    if (wanted & kWeight) {
      grads.weight = empty(in_.weight.sizes(), in_.weight, is_channels_last(in_.weight));
      p_.grad_weight = grads.weight.mutable_data_ptr();
      p_.grad_weight_strides = strides_of(grads.weight);
    }
    if (wanted & kBias) {
      grads.bias = empty({s.outputs}, in_.weight);
      p_.grad_bias = grads.bias.mutable_data_ptr();
    }
    if (s.batch == 0) {
      if (p_.grad_weight) torch::stable::zero_(grads.weight);
      if (p_.grad_bias) torch::stable::zero_(grads.bias);
      return grads;
    }

    set_features();
    const int64_t count = sections(s);
    std::vector<void*> spill;
    bool moved = false;
    if (p_.grad_features) {
      // Sums go straight into a gradient of the kernels' own layout and type. In another layout
      // they fill its memory, until they can move to the features' copy, which is then done with.
      const bool of_type = acc == int64_t(features.element_size());
      const bool direct = of_type && (s.channels == 1 || is_channels_last(features));
      moved = of_type && !direct && features_copy_;
      p_.feature_sums = direct || moved ? p_.grad_features : buffer(features.numel() * acc);
      if (sections_of_image(s) > 1) {
        spill.assign(count * s.height, nullptr);
        p_.spill_rows = spill.data();
      }
    }
    if (p_.grad_weight) p_.weight_sums = buffer(count * kernels_.backward_weight_bytes(p_));
    if (p_.grad_bias) p_.bias_sums = buffer(count * s.outputs * acc);
    if (p_.grad_features || p_.grad_offset) {
      p_.packed = buffer(kernels_.backward_packed_bytes(p_));
      parallel_for(0, kernels_.pack_items(p_, true), 1,
                   [&](int64_t begin, int64_t end) { kernels_.pack_backward(p_, begin, end); });
    }
    parallel_for(0, count, 1,
                 [&](int64_t begin, int64_t end) { kernels_.backward(p_, begin, end); });
    if (moved) {
      const int64_t row = s.width * s.channels * acc;
      parallel_for(0, s.batch * s.height, 1, [&](int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(features_copy_) + begin * row,
                    static_cast<char*>(p_.grad_features) + begin * row, (end - begin) * row);
      });
      p_.feature_sums = features_copy_;
    }
    if (p_.grad_features)
      parallel_for(0, s.batch * s.height, 1,
                   [&](int64_t begin, int64_t end) { kernels_.reduce_features(p_, begin, end); });
    for (void* row : spill) std::free(row);
    if (p_.grad_weight)
      parallel_for(0, kernels_.weight_items(p_), 1,
                   [&](int64_t begin, int64_t end) { kernels_.reduce_weight(p_, begin, end); });
    if (p_.grad_bias) kernels_.reduce_bias(p_);
    return grads;
  }

 private:
  DeformInputs in_;
  const DeformCpuKernels& kernels_;
  DeformCpuParams p_{};
  std::vector<Tensor> alive_;      // buffers that p_ points into
  void* features_copy_ = nullptr;  // where set_features made one

  // Kernels read features with adjacent channels and evenly spaced pixels; others are copied once.
  void set_features() {
    const Tensor& t = in_.features;
    const DeformShape& s = p_.shape;
    const bool one_row = s.height == 1, one_col = s.width == 1;
    p_.feature_pixel_stride = one_col ? (one_row ? s.channels : t.stride(2)) : t.stride(3);
    p_.feature_batch_stride = t.stride(0);
    p_.features = t.const_data_ptr();
    if ((s.channels == 1 || t.stride(1) == 1) &&
        (one_row || one_col || t.stride(2) == s.width * t.stride(3)) &&
        s.height * s.width * p_.feature_pixel_stride <= std::numeric_limits<int32_t>::max())
      return;
    features_copy_ = buffer(t.numel() * t.element_size());
    const Strides strides = strides_of(t);
    parallel_for(0, s.batch * s.height, 1, [&](int64_t begin, int64_t end) {
      kernels_.to_channels_last(t.const_data_ptr(), strides, p_, features_copy_, begin, end);
    });
    p_.features = features_copy_;
    p_.feature_pixel_stride = s.channels;
    p_.feature_batch_stride = s.height * s.width * s.channels;
  }

  void* buffer(int64_t bytes) {
    alive_.push_back(empty({std::max<int64_t>(bytes, 1)}, in_.features, false, ScalarType::Byte));
    return alive_.back().mutable_data_ptr();
  }
};

// Deterministic always, and never TF32: the arguments are for other devices.

Tensor actpoint_aggregate(const Tensor& features, const Tensor& points, const Tensor& weight,
                          const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& base_offset, bool relu, bool /*tf32*/) {
  return CpuCall(actpoint_inputs(features, points, weight, base_offset)).forward(bias, relu);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> actpoint_aggregate_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& points, const Tensor& weight,
    const std::optional<Tensor>& base_offset, const std::optional<Tensor>& output, int64_t wanted,
    bool /*deterministic*/, bool /*tf32*/) {
  return points_gradients(CpuCall(actpoint_inputs(features, points, weight, base_offset))
                              .backward(grad_output, output, wanted));
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                     int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w,
                     const std::optional<Tensor>& mask, bool /*tf32*/) {
  const DeformSteps steps{stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  return CpuCall(deform_inputs(input, offset, weight, mask, steps)).forward(bias, false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h,
    int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t wanted, bool /*deterministic*/,
    bool /*tf32*/) {
  const DeformSteps steps{stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  return offset_gradients(CpuCall(deform_inputs(input, offset, weight, mask, steps))
                              .backward(grad_output, std::nullopt, wanted),
                          wanted);
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) {
  m.impl("actpoint_aggregate", TORCH_BOX(&ggnet::actpoint_aggregate));
  m.impl("actpoint_aggregate_backward", TORCH_BOX(&ggnet::actpoint_aggregate_backward));
  m.impl("deform_conv2d", TORCH_BOX(&ggnet::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&ggnet::deform_conv2d_backward));
}

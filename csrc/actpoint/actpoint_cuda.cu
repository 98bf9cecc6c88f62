// Bindings of the device kernels: actpoint_aggregate and deform_conv2d, two faces of one modulated
// deformable convolution. Features are channels_last inside; other layouts are copied on the way in
// and out.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "actpoint/actpoint_cuda.h"
#include "actpoint/actpoint_hopper_cuda.h"
#include "actpoint/wanted.h"
#include "common/check.h"
#include "common/cuda.h"

namespace ggnet {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::contiguous;

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

MemoryFormat format(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// What the kernels compiled for the current device can use.
struct Code {
  bool tensor_cores;  // code for older devices, even if a newer one runs it, has none
  bool hopper;
};
Code code_of_device() {
  // Asking takes longer than a small kernel, so each device is asked once.
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0, or 1 plus a bit each
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  int bits = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (bits == 0) {
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, deform::clear_largest_kernel),
               "the library has no code for this device; compile it with TORCH_CUDA_ARCH_LIST");
    bits = 1 + 2 * (attributes.ptxVersion >= 80) + 4 * deform::hopper::available();
    if (device < kDevices) known[device].store(bits, std::memory_order_relaxed);
  }
  const char* choice = std::getenv("GGNET_HOPPER");
  const bool allowed = choice == nullptr || std::string_view(choice) != "0";
  return {(bits & 2) != 0, (bits & 4) != 0 && allowed};
}

using deform::Math;

// f(type tag, math constant)
template <class F>
void dispatch(ScalarType dtype, Math float32, F f) {
  switch (dtype) {
    case ScalarType::Half:
      return f(__half{}, std::integral_constant<Math, Math::kHalf>{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{}, std::integral_constant<Math, Math::kHalf>{});
    default:
      if (float32 == Math::kTf32) return f(float{}, std::integral_constant<Math, Math::kTf32>{});
      if (float32 == Math::kTf32x3)
        return f(float{}, std::integral_constant<Math, Math::kTf32x3>{});
      return f(float{}, std::integral_constant<Math, Math::kFloat>{});
  }
}

struct Gradients {
  Tensor features, offset, mask, weight, bias;
};

// A call's tensors, checked, in the layout that the kernels read.
class Call {
 public:
  DeformShape shape{};
  DeformForwardParams p{};

  Call(const Tensor& features, const Tensor& weight, bool tf32)
      : device_(features), like_(features), channels_last_(is_channels_last(features)) {
    const ScalarType dtype = features.scalar_type();
    STD_TORCH_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
        "features have dtype ", dtype, ", expected float32, bfloat16 or float16 on a CUDA device");
    check_shape(features, "features", {kAnySize, kAnySize, kAnySize, kAnySize});
    check_like(weight, "weight", features);
    check_shape(weight, "weight", {kAnySize, features.size(1), kAnySize, kAnySize});
    STD_TORCH_CHECK(features.size(1) > 0 && weight.size(0) > 0 && weight.size(2) > 0 &&
                        weight.size(3) > 0 && features.size(2) > 0 && features.size(3) > 0,
                    "features and weight have an empty dimension other than the batch");
    // A cell's index and its four corner bits share a word.
    STD_TORCH_CHECK(features.size(0) * features.size(2) * features.size(3) < (int64_t{1} << 27),
                    "features have ", features.size(0) * features.size(2) * features.size(3),
                    " cells, expected fewer than 2**27 on a CUDA device");
    // Half precision needs tensor cores; without them it is computed in float32.
    const Code code = code_of_device();
    dtype_ = code.tensor_cores ? dtype : ScalarType::Float;
    if (code.tensor_cores) float32_ = tf32 ? Math::kTf32 : Math::kTf32x3;
    hopper_ = code.hopper && dtype_ != ScalarType::Float;
    features_ = take(features, MemoryFormat::ChannelsLast);
    weight_ = take(weight, MemoryFormat::Contiguous);
    weight_channels_last_ = is_channels_last(weight);
    shape.batch = static_cast<int>(features.size(0));
    shape.channels = static_cast<int>(features.size(1));
    shape.height = static_cast<int>(features.size(2));
    shape.width = static_cast<int>(features.size(3));
    shape.outputs = static_cast<int>(weight.size(0));
    shape.kernel_h = static_cast<int>(weight.size(2));
    shape.kernel_w = static_cast<int>(weight.size(3));
    p.features = features_.const_data_ptr();
  }

  void set_geometry(int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                    int64_t dilation_h, int64_t dilation_w) {
    DeformShape& s = shape;
    STD_TORCH_CHECK(stride_h > 0 && stride_w > 0 && pad_h >= 0 && pad_w >= 0 && dilation_h > 0 &&
                        dilation_w > 0,
                    "stride and dilation have to be positive, padding not negative");
    const int64_t h = (s.height + 2 * pad_h - dilation_h * (s.kernel_h - 1) - 1) / stride_h + 1;
    const int64_t w = (s.width + 2 * pad_w - dilation_w * (s.kernel_w - 1) - 1) / stride_w + 1;
    STD_TORCH_CHECK(h > 0 && w > 0, "the output would have no pixels");
    s.out_height = static_cast<int>(h);
    s.out_width = static_cast<int>(w);
    s.stride_h = static_cast<int>(stride_h);
    s.stride_w = static_cast<int>(stride_w);
    s.pad_h = static_cast<int>(pad_h);
    s.pad_w = static_cast<int>(pad_w);
    s.dilation_h = static_cast<int>(dilation_h);
    s.dilation_w = static_cast<int>(dilation_w);
    p.shape = s;
  }

  int points() const { return shape.kernel_h * shape.kernel_w; }

  // A map of the output's size, in any layout; `keep` holds what the pointer leads to.
  const void* map(const Tensor& t, const char* name, int64_t channels, Strides& strides) {
    check_like(t, name, like_);
    check_shape(t, name, {shape.batch, channels, shape.out_height, shape.out_width});
    kept_.push_back(dtype_ == t.scalar_type() ? t : torch::stable::to(t, dtype_));
    strides = strides_of(kept_.back());
    return kept_.back().const_data_ptr();
  }
  // The weight logits or mask that follow the offsets in one tensor of raw points.
  void split_points(const Tensor& t) {
    p.offset = map(t, "points", 3 * points(), p.offset_strides);
    p.mask = static_cast<const char*>(p.offset) +
             2 * points() * p.offset_strides.channel * int64_t(kept_.back().element_size());
    p.mask_strides = p.offset_strides;
    p.sigmoid = true;
  }

  Tensor forward(const std::optional<Tensor>& bias, bool relu) {
    if (bias) {
      check_like(*bias, "bias", like_);
      check_shape(*bias, "bias", {shape.outputs});
      kept_.push_back(take(*bias, MemoryFormat::Contiguous));
      p.bias = kept_.back().const_data_ptr();
    }
    Tensor out = map_like(shape.outputs, dtype_);
    p.out = out.mutable_data_ptr();
    p.relu = relu;
    dispatch(dtype_, float32_, [&](auto tag, auto math) {
      using T = decltype(tag);
      if constexpr (sizeof(T) == 2) {
        if (hopper_ && deform::hopper::can_forward<T>(p)) {
          const Tensor packed = pack_for_hopper<T, false>();
          p.weight = packed.const_data_ptr();
          return deform::hopper::forward<T>(p, device_.stream);
        }
      }
      const Tensor packed = pack<T, math()>(deform::forward_tile<T>(shape));
      p.weight = packed.const_data_ptr();
      deform::forward<T, math()>(p, device_.stream);
    });
    return give(out, channels_last_);
  }

  // Gradients that the mask names, the others empty. `output` is the forward's if it had a ReLU.
  // `points` is the tensor whose gradient holds the offsets', and the logits' if `mask` is null.
  Gradients backward(const Tensor& grad_output, const std::optional<Tensor>& output,
                     const Tensor& points, const Tensor* mask, int64_t wanted, bool deterministic) {
    check_like(grad_output, "grad_output", like_);
    check_shape(grad_output, "grad_output",
                {shape.batch, shape.outputs, shape.out_height, shape.out_width});
    const auto none = [&] { return empty({0}, like_); };  // outputs must not share memory
    Gradients grads{none(), none(), none(), none(), none()};
    Tensor gradient = take(grad_output, MemoryFormat::ChannelsLast);
    dispatch(dtype_, float32_, [&](auto tag, auto math) {
      using T = decltype(tag);
      if (output) {
        check_like(*output, "output", like_);
        check_shape(*output, "output",
                    {shape.batch, shape.outputs, shape.out_height, shape.out_width});
        const Tensor rectified = take(*output, MemoryFormat::ChannelsLast);
        const Tensor masked = map_like(shape.outputs, dtype_);
        deform::relu_grad(static_cast<const T*>(gradient.const_data_ptr()),
                          static_cast<const T*>(rectified.const_data_ptr()),
                          static_cast<T*>(masked.mutable_data_ptr()), gradient.numel(),
                          device_.stream);
        gradient = masked;
      }
      const T* grad_out = static_cast<const T*>(gradient.const_data_ptr());
      if (wanted & (kFeatures | kPoints | kMask))
        data_gradients<T, math()>(grads, grad_out, points, mask, wanted, deterministic);
      if (wanted & kWeight) weight_gradient<T, math()>(grads, grad_out);
      if (wanted & kBias) {
        const Tensor partial = floats(deform::bias_partial_size(shape));
        const Tensor sums = empty({shape.outputs}, like_, false, dtype_);
        deform::bias_grad(shape, grad_out, static_cast<float*>(partial.mutable_data_ptr()),
                          static_cast<T*>(sums.mutable_data_ptr()), device_.stream);
        grads.bias = give(sums, false);
      }
    });
    return grads;
  }

 private:
  OnDevice device_;
  Tensor like_, features_, weight_;
  bool channels_last_, weight_channels_last_ = false, hopper_ = false;
  Math float32_ = Math::kFloat;
  ScalarType dtype_;  // of the computation
  std::vector<Tensor> kept_;

  Tensor take(const Tensor& t, MemoryFormat memory_format) const {
    const Tensor dense = contiguous(t, memory_format);
    return dense.scalar_type() == dtype_ ? dense : torch::stable::to(dense, dtype_);
  }
  Tensor give(const Tensor& t, bool channels_last) const {
    const Tensor result =
        t.scalar_type() == like_.scalar_type() ? t : torch::stable::to(t, like_.scalar_type());
    return contiguous(result, format(channels_last));
  }
  // Uninitialized, channels_last.
  Tensor map_like(int64_t channels, ScalarType dtype) const {
    return empty({shape.batch, channels, shape.out_height, shape.out_width}, like_, true, dtype);
  }
  Tensor floats(int64_t count) const {
    return empty({std::max<int64_t>(count, 1)}, like_, false, ScalarType::Float);
  }

  template <class T, deform::Math kMath>
  Tensor pack(int tile) const {
    const Tensor packed = empty({deform::packed_weight_size<T>(shape, tile)}, like_, false, dtype_);
    deform::pack_weight<T, kMath>(shape, tile, weight_.const_data_ptr(), packed.mutable_data_ptr(),
                                  device_.stream);
    return packed;
  }

  template <class T, bool kBackward>
  Tensor pack_for_hopper() const {
    const Tensor packed = empty({deform::hopper::packed_size(shape)}, like_, false, dtype_);
    deform::hopper::pack<T, kBackward>(shape, weight_.const_data_ptr(), packed.mutable_data_ptr(),
                                       device_.stream);
    return packed;
  }

  template <class T, deform::Math kMath>
  void data_gradients(Gradients& grads, const T* grad_out, const Tensor& points, const Tensor* mask,
                      int64_t wanted, bool deterministic) {
    DeformBackwardParams b{};
    b.forward = p;
    b.grad_out = grad_out;

    const int64_t count = features_.numel();
    Tensor sums = empty({0}, like_), unit = floats(1), scratch = floats(3);
    if (wanted & kFeatures) {
      sums = empty({count}, like_, false, deterministic ? ScalarType::Long : ScalarType::Float);
      torch::stable::zero_(sums);
      if (deterministic) {
        b.unit = static_cast<float*>(unit.mutable_data_ptr());
        b.fixed_point = static_cast<long long*>(sums.mutable_data_ptr());
        deform::fixed_point_unit<T>(p, grad_out, static_cast<const T*>(weight_.const_data_ptr()),
                                    static_cast<float*>(unit.mutable_data_ptr()), device_.stream,
                                    static_cast<unsigned*>(scratch.mutable_data_ptr()));
      } else {
        b.grad_features = static_cast<float*>(sums.mutable_data_ptr());
      }
    }
    if (wanted & (kPoints | kMask)) {
      grads.offset = empty(points.sizes(), like_, is_channels_last(points), dtype_);
      b.grad_offset = grads.offset.mutable_data_ptr();
      b.grad_offset_strides = strides_of(grads.offset);
      if (p.sigmoid) {  // the logits are the last third of the points
        b.grad_mask =
            static_cast<T*>(b.grad_offset) + 2 * this->points() * b.grad_offset_strides.channel;
        b.grad_mask_strides = b.grad_offset_strides;
      } else if (mask) {
        grads.mask = empty(mask->sizes(), like_, is_channels_last(*mask), dtype_);
        b.grad_mask = grads.mask.mutable_data_ptr();
        b.grad_mask_strides = strides_of(grads.mask);
      }
    }
    run_backward<T, kMath>(b);
    if (wanted & kFeatures) {
      const Tensor result =
          empty({shape.batch, shape.channels, shape.height, shape.width}, like_, true, dtype_);
      deform::finish_features<T>(b.grad_features, b.fixed_point, b.unit,
                                 static_cast<T*>(result.mutable_data_ptr()), count, device_.stream);
      grads.features = give(result, channels_last_);
    }
    if (dtype_ != like_.scalar_type()) {
      grads.offset = torch::stable::to(grads.offset, like_.scalar_type());
      grads.mask = torch::stable::to(grads.mask, like_.scalar_type());
    }
  }

  template <class T, deform::Math kMath>
  void run_backward(DeformBackwardParams& b) {
    if constexpr (sizeof(T) == 2) {
      if (hopper_ && deform::hopper::can_backward(b)) {
        const Tensor packed = pack_for_hopper<T, true>();
        const Tensor dots = floats(deform::hopper::dots_size(shape));
        b.forward.weight = packed.const_data_ptr();
        return deform::hopper::backward<T>(b, static_cast<float*>(dots.mutable_data_ptr()),
                                           device_.stream);
      }
    }
    const Tensor packed = pack<T, kMath>(deform::backward_tile<T>(shape));
    b.forward.weight = packed.const_data_ptr();
    deform::backward<T, kMath>(b, device_.stream);
  }

  template <class T, deform::Math kMath>
  void weight_gradient(Gradients& grads, const T* grad_out) {
    DeformWeightGradParams w{};
    w.forward = p;
    w.grad_out = grad_out;
    const bool hopper = sizeof(T) == 2 && hopper_ && deform::hopper::can_weight_grad(w);
    w.splits = hopper ? deform::hopper::weight_grad_splits(shape)
                      : deform::weight_grad_splits(shape, sizeof(T));
    const Tensor partial = floats(w.splits * weight_.numel());
    w.partial = static_cast<float*>(partial.mutable_data_ptr());
    if constexpr (sizeof(T) == 2) {
      if (hopper) deform::hopper::weight_grad<T>(w, device_.stream);
    }
    if (!hopper) deform::weight_grad<T, kMath>(w, device_.stream);
    const Tensor result = empty(weight_.sizes(), like_, false, dtype_);
    deform::reduce_weight<T>(w, static_cast<T*>(result.mutable_data_ptr()), device_.stream);
    grads.weight = give(result, weight_channels_last_);
  }
};

// ---- actpoint_aggregate

Call actpoint_call(const Tensor& features, const Tensor& points, const Tensor& weight,
                   const std::optional<Tensor>& base_offset, bool tf32) {
  Call call(features, weight, tf32);
  const int side = call.shape.kernel_h;
  STD_TORCH_CHECK(side == call.shape.kernel_w && side % 2 == 1, "weight has a ", side, "x",
                  call.shape.kernel_w, " kernel, expected an odd square");
  call.set_geometry(1, 1, side / 2, side / 2, 1, 1);
  call.split_points(points);
  if (base_offset)
    call.p.base_offset =
        call.map(*base_offset, "base_offset", 2 * call.points(), call.p.base_strides);
  return call;
}

Tensor actpoint_aggregate(const Tensor& features, const Tensor& points, const Tensor& weight,
                          const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& base_offset, bool relu, bool tf32) {
  return actpoint_call(features, points, weight, base_offset, tf32).forward(bias, relu);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> actpoint_aggregate_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& points, const Tensor& weight,
    const std::optional<Tensor>& base_offset, const std::optional<Tensor>& output, int64_t wanted,
    bool deterministic, bool tf32) {
  Gradients grads = actpoint_call(features, points, weight, base_offset, tf32)
                        .backward(grad_output, output, points, nullptr, wanted, deterministic);
  return {grads.features, grads.offset, grads.weight, grads.bias};
}

// ---- deform_conv2d

Call deform_call(const Tensor& input, const Tensor& offset, const Tensor& weight,
                 const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w,
                 int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w, bool tf32) {
  Call call(input, weight, tf32);
  call.set_geometry(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w);
  call.p.offset = call.map(offset, "offset", 2 * call.points(), call.p.offset_strides);
  if (mask) call.p.mask = call.map(*mask, "mask", call.points(), call.p.mask_strides);
  return call;
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                     int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w,
                     const std::optional<Tensor>& mask, bool tf32) {
  return deform_call(input, offset, weight, mask, stride_h, stride_w, pad_h, pad_w, dilation_h,
                     dilation_w, tf32)
      .forward(bias, false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h,
    int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t wanted, bool deterministic,
    bool tf32) {
  Gradients grads = deform_call(input, offset, weight, mask, stride_h, stride_w, pad_h, pad_w,
                                dilation_h, dilation_w, tf32)
                        .backward(grad_output, std::nullopt, offset, mask ? &*mask : nullptr,
                                  wanted, deterministic);
  // One pass gives both; what was not asked for comes back empty.
  if (!(wanted & kPoints)) grads.offset = empty({0}, input);
  if (!(wanted & kMask)) grads.mask = empty({0}, input);
  return {grads.features, grads.offset, grads.weight, grads.bias, grads.mask};
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) {
  m.impl("actpoint_aggregate", TORCH_BOX(&ggnet::actpoint_aggregate));
  m.impl("actpoint_aggregate_backward", TORCH_BOX(&ggnet::actpoint_aggregate_backward));
  m.impl("deform_conv2d", TORCH_BOX(&ggnet::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&ggnet::deform_conv2d_backward));
}

// Bindings of the device kernels: actpoint_aggregate and deform_conv2d. Features are channels_last
// inside; other layouts are copied on the way in and out.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "actpoint/actpoint_check.h"
#include "actpoint/actpoint_cuda.h"
#include "actpoint/actpoint_fixed_point_kernels.cuh"
#include "actpoint/actpoint_hopper_cuda.h"
#include "actpoint/actpoint_out_grad_kernels.cuh"
#include "common/cuda.h"

namespace ggnet {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::contiguous;

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
  return {(bits & 2) != 0, (bits & 4) != 0};
}
bool hopper_allowed() {
  const char* choice = std::getenv("GGNET_HOPPER");
  return choice == nullptr || std::string_view(choice) != "0";
}
// Off unless asked for: no GPU has measured them yet.
bool block_sums_wanted() {
  const char* choice = std::getenv("GGNET_BLOCK_SUMS");
  return choice != nullptr && std::string_view(choice) == "1";
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

// A call's tensors in the layout and type that the kernels read.
class CudaCall {
 public:
  CudaCall(const DeformInputs& inputs, bool tf32) : in_(inputs), device_(inputs.features) {
    const Tensor& features = in_.features;
    const ScalarType dtype = features.scalar_type();
    STD_TORCH_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
        "features have dtype ", dtype, ", expected float32, bfloat16 or float16 on a CUDA device");
    // A cell's index and its four corner bits share a word.
    const int64_t cells = features.size(0) * features.size(2) * features.size(3);
    STD_TORCH_CHECK(cells < (int64_t{1} << 27), "features have ", cells,
                    " cells, expected fewer than 2**27 on a CUDA device");
    // A group is an index of the grid.
    for (const int groups : {in_.shape.groups, in_.shape.offset_groups})
      STD_TORCH_CHECK(groups < (1 << 16), groups,
                      " groups, expected fewer than 2**16 on a CUDA device");
    // Half precision needs tensor cores; without them it is computed in float32.
    const Code code = code_of_device();
    dtype_ = code.tensor_cores ? dtype : ScalarType::Float;
    if (code.tensor_cores) float32_ = tf32 ? Math::kTf32 : Math::kTf32x3;
    hopper_ = code.hopper && hopper_allowed() && dtype_ != ScalarType::Float;
    read_ = in_;
    read_.features = take(in_.features, MemoryFormat::ChannelsLast);
    read_.weight = take(in_.weight, MemoryFormat::Contiguous);
    read_.offset = convert(in_.offset, dtype_);
    if (in_.base_offset) read_.base_offset = convert(*in_.base_offset, dtype_);
    if (in_.mask) read_.mask = convert(*in_.mask, dtype_);
    set_points(p_, read_);
    p_.features = read_.features.const_data_ptr();
  }

  Tensor forward(const std::optional<Tensor>& bias, bool relu) {
    if (bias) check_bias(*bias, in_);
    const Tensor dense_bias = bias ? take(*bias, MemoryFormat::Contiguous) : Tensor();
    if (bias) p_.bias = dense_bias.const_data_ptr();
    const Tensor out = outputs_map();
    p_.out = out.mutable_data_ptr();
    p_.relu = relu;
    dispatch(dtype_, float32_, [&](auto tag, auto math) {
      using T = decltype(tag);
      if constexpr (sizeof(T) == 2) {
        if (hopper_ && deform::hopper::can_forward<T>(p_)) {
          const Tensor packed = pack_for_hopper<T, false>();
          p_.weight = packed.const_data_ptr();
          return deform::hopper::forward<T>(p_, device_.stream);
        }
      }
      const Tensor packed =
          pack<T, math()>(deform::forward_tile<T>(p_.shape), deform::Walk::kPointsOfSlice);
      p_.weight = packed.const_data_ptr();
      deform::forward<T, math()>(p_, device_.stream);
    });
    return give(out, is_channels_last(in_.features));
  }

  // `output` is the forward's if it had a ReLU.
  DeformGradients backward(const Tensor& grad_output, const std::optional<Tensor>& output,
                           int64_t wanted, bool deterministic) {
    const DeformShape& s = p_.shape;
    check_map(grad_output, "grad_output", in_, s.outputs);
    if (output) check_map(*output, "output", in_, s.outputs);
    DeformGradients grads(in_.features);
    Tensor gradient = take(grad_output, MemoryFormat::ChannelsLast);
    dispatch(dtype_, float32_, [&](auto tag, auto math) {
      using T = decltype(tag);
      if (output) {
        const Tensor rectified = take(*output, MemoryFormat::ChannelsLast);
        const Tensor masked = outputs_map();
        deform::relu_grad(read<T>(gradient), read<T>(rectified), write<T>(masked), gradient.numel(),
                          device_.stream);
        gradient = masked;
      }
      const T* grad_out = read<T>(gradient);
      if (wanted & (kFeatures | kPoints | kMask))
        data_gradients<T, math()>(grads, grad_out, wanted, deterministic);
      if (wanted & kWeight) weight_gradient<T, math()>(grads, grad_out);
      if (wanted & kBias) {
        const Tensor partial = floats(deform::bias_partial_size(s));
        const Tensor sums = empty({s.outputs}, in_.features, false, dtype_);
        deform::bias_grad(s, grad_out, write<float>(partial), write<T>(sums), device_.stream);
        grads.bias = give(sums, false);
      }
    });
    return grads;
  }

 private:
  DeformInputs in_, read_;
  OnDevice device_;
  bool hopper_ = false;
  Math float32_ = Math::kFloat;
  ScalarType dtype_;  // of the computation
  DeformForwardParams p_{};

  static Tensor convert(const Tensor& t, ScalarType dtype) {
    return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  }
  Tensor take(const Tensor& t, MemoryFormat memory_format) const {
    return convert(contiguous(t, memory_format), dtype_);
  }
  Tensor give(const Tensor& t, bool channels_last) const {
    return with_layout(convert(t, in_.features.scalar_type()), channels_last);
  }
  // Uninitialized, channels_last.
  Tensor outputs_map() const {
    const DeformShape& s = p_.shape;
    return empty({s.batch, s.outputs, s.out_height, s.out_width}, in_.features, true, dtype_);
  }
  Tensor floats(int64_t count) const {
    return empty({std::max<int64_t>(count, 1)}, in_.features, false, ScalarType::Float);
  }

  template <class T, deform::Math kMath>
  Tensor pack(int tile, deform::Walk walk) const {
    const Tensor packed =
        empty({deform::packed_weight_size<T>(p_.shape, tile)}, in_.features, false, dtype_);
    deform::pack_weight<T, kMath>(p_.shape, tile, walk, read_.weight.const_data_ptr(),
                                  packed.mutable_data_ptr(), device_.stream);
    return packed;
  }

  template <class T, bool kBackward>
  Tensor pack_for_hopper() const {
    const Tensor packed =
        empty({deform::hopper::packed_size(p_.shape)}, in_.features, false, dtype_);
    deform::hopper::pack<T, kBackward>(p_.shape, read_.weight.const_data_ptr(),
                                       packed.mutable_data_ptr(), device_.stream);
    return packed;
  }

  template <class T, deform::Math kMath>
  void data_gradients(DeformGradients& grads, const T* grad_out, int64_t wanted,
                      bool deterministic) {
    DeformDataGradParams b{{p_}};
    b.grad_out = grad_out;

    const int64_t count = in_.features.numel();
    Tensor sums = empty({0}, in_.features), unit = floats(1), scratch = floats(3);
    if (wanted & kFeatures) {
      sums =
          empty({count}, in_.features, false, deterministic ? ScalarType::Long : ScalarType::Float);
      torch::stable::zero_(sums);
      if (deterministic) {
        b.unit = write<float>(unit);
        b.fixed_point = write<long long>(sums);
        // A view need not be dense, and its gaps are not the mask's.
        const Tensor mask =
            read_.mask ? contiguous(*read_.mask, MemoryFormat::Contiguous) : Tensor();
        deform::fixed_point_unit<T>(p_.shape, grad_out, read<T>(read_.weight),
                                    read_.mask ? read<T>(mask) : nullptr, write<float>(unit),
                                    device_.stream, write<unsigned>(scratch));
      } else {
        b.feature_sums = write<float>(sums);
      }
    }
    if (wanted & (kPoints | kMask)) set_point_gradients(b, grads, in_, dtype_);
    run_backward<T, kMath>(b);
    if (wanted & kFeatures) {
      const Tensor result = empty(in_.features.sizes(), in_.features, true, dtype_);
      deform::finish_features<T>(b.feature_sums, b.fixed_point, b.unit, write<T>(result), count,
                                 device_.stream);
      grads.features = give(result, is_channels_last(in_.features));
    }
    const ScalarType given = in_.features.scalar_type();
    grads.offset = convert(grads.offset, given);
    grads.mask = convert(grads.mask, given);
  }

  template <class T, deform::Math kMath>
  void run_backward(DeformDataGradParams& b) {
    if constexpr (sizeof(T) == 2) {
      if (hopper_ && deform::hopper::can_backward(b)) {
        const Tensor packed = pack_for_hopper<T, true>();
        const Tensor dots = floats(deform::hopper::dots_size(b.shape));
        b.weight = packed.const_data_ptr();
        return deform::hopper::backward<T>(b, write<float>(dots), device_.stream);
      }
    }
    if constexpr (sizeof(T) == 2) {
      if (block_sums_wanted() && deform::windowed::can_backward<T>(b)) {
        const Tensor packed =
            pack<T, kMath>(deform::outputs_of_block(b.shape.outputs), deform::Walk::kPointsOfSlice);
        const Tensor dots = floats(deform::windowed::dots_size(b.shape));
        b.weight = packed.const_data_ptr();
        return deform::windowed::backward<T>(b, write<float>(dots), device_.stream);
      }
    }
    const Tensor packed =
        pack<T, kMath>(deform::backward_tile<T>(b.shape), deform::Walk::kSlicesOfPoint);
    b.weight = packed.const_data_ptr();
    deform::backward<T, kMath>(b, device_.stream);
  }

  template <class T, deform::Math kMath>
  void weight_gradient(DeformGradients& grads, const T* grad_out) {
    DeformWeightGradParams w{p_};
    w.grad_out = grad_out;
    const bool hopper = sizeof(T) == 2 && hopper_ && deform::hopper::can_weight_grad(w);
    w.splits = hopper ? deform::hopper::weight_grad_splits(w.shape)
                      : deform::weight_grad_splits(w.shape, sizeof(T));
    const Tensor partial = floats(w.splits * in_.weight.numel());
    w.weight_sums = write<float>(partial);
    if constexpr (sizeof(T) == 2) {
      if (hopper) deform::hopper::weight_grad<T>(w, device_.stream);
    }
    if (!hopper) deform::weight_grad<T, kMath>(w, device_.stream);
    const Tensor result = empty(in_.weight.sizes(), in_.features, false, dtype_);
    deform::reduce_weight<T>(w, write<T>(result), device_.stream);
    grads.weight = give(result, is_channels_last(in_.weight));
  }
};

Tensor actpoint_aggregate(const Tensor& features, const Tensor& points, const Tensor& weight,
                          const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& base_offset, bool relu, bool tf32) {
  return CudaCall(actpoint_inputs(features, points, weight, base_offset), tf32).forward(bias, relu);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> actpoint_aggregate_backward(
    const Tensor& grad_output, const Tensor& features, const Tensor& points, const Tensor& weight,
    const std::optional<Tensor>& base_offset, const std::optional<Tensor>& output, int64_t wanted,
    bool deterministic, bool tf32) {
  return points_gradients(CudaCall(actpoint_inputs(features, points, weight, base_offset), tf32)
                              .backward(grad_output, output, wanted, deterministic));
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w,
                     int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w,
                     const std::optional<Tensor>& mask, bool tf32) {
  const DeformSteps steps{stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  return CudaCall(deform_inputs(input, offset, weight, mask, steps), tf32).forward(bias, false);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t pad_h,
    int64_t pad_w, int64_t dilation_h, int64_t dilation_w, int64_t wanted, bool deterministic,
    bool tf32) {
  const DeformSteps steps{stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};
  return offset_gradients(CudaCall(deform_inputs(input, offset, weight, mask, steps), tf32)
                              .backward(grad_output, std::nullopt, wanted, deterministic),
                          wanted);
}

std::string actpoint_kernels(int64_t device, bool half, int64_t channels) {
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  const Code code = code_of_device();
  const auto others = [half, channels](const std::string& why) {
    const bool sums = half && channels % 8 == 0 && block_sums_wanted();
    return "those for any GPU: " + why +
           (sums ? "; the features' gradient summed in blocks first: GGNET_BLOCK_SUMS=1" : "");
  };
  if (!code.tensor_cores)
    return "those without tensor cores: the library has no code for this GPU's (compute capability "
           "8.0 and above)";
  if (!code.hopper) return others("the GPU, or the library's code for it, is not 9.0a");
  if (!hopper_allowed()) return others("GGNET_HOPPER=0");
  if (!half) return others("Hopper's compute bfloat16 and float16");
  if (channels != 0 && (channels % 8 != 0 || channels < deform::hopper::kPanel))
    return others("Hopper's want channels in multiples of 8, at least 64");
  return "Hopper's, where the outputs are a multiple of 8 and there is one group of each kind";
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) {
  m.impl("actpoint_aggregate", TORCH_BOX(&ggnet::actpoint_aggregate));
  m.impl("actpoint_aggregate_backward", TORCH_BOX(&ggnet::actpoint_aggregate_backward));
  m.impl("deform_conv2d", TORCH_BOX(&ggnet::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&ggnet::deform_conv2d_backward));
}

STABLE_TORCH_LIBRARY_IMPL(ggnet, CompositeExplicitAutograd, m) {
  m.impl("actpoint_kernels", TORCH_BOX(&ggnet::actpoint_kernels));
}

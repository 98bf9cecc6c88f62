// The deformable aggregation's device kernels in the emulator's module: NumPy arrays in and out.
// Features and outputs are [B, H, W, C]; points, offsets and masks [B, channels, h, w]; weight
// [O, C / groups, K]. bfloat16 arrays are passed as uint16.
#include "actpoint/actpoint_backward_kernels.cuh"
#include "actpoint/actpoint_fixed_point_kernels.cuh"
#include "actpoint/actpoint_forward_kernels.cuh"
#include "actpoint/actpoint_hopper_backward_kernels.cuh"
#include "actpoint/actpoint_hopper_forward_kernels.cuh"
#include "actpoint/actpoint_hopper_weight_grad_kernels.cuh"
#include "actpoint/actpoint_out_grad_kernels.cuh"
#include "actpoint/actpoint_weight_grad_kernels.cuh"
#include "actpoint/actpoint_windowed_backward_kernels.cuh"
#include "simt/module.h"

namespace py = pybind11;

namespace {

using namespace ggnet;
using namespace ggnet::deform;

Strides contiguous(int channels, int height, int width) {
  const long long area = static_cast<long long>(height) * width;
  return {channels * area, area, width, 1};
}

// f(type tag, math constant) for the arithmetic asked for.
template <class F>
void dispatch(const std::string& math, F f) {
  if (math == "float16")
    f(__half{}, std::integral_constant<Math, Math::kHalf>{});
  else if (math == "bfloat16")
    f(__nv_bfloat16{}, std::integral_constant<Math, Math::kHalf>{});
  else if (math == "tf32")
    f(float{}, std::integral_constant<Math, Math::kTf32>{});
  else if (math == "float32")
    f(float{}, std::integral_constant<Math, Math::kFloat>{});
  else if (math == "tf32x3")
    f(float{}, std::integral_constant<Math, Math::kTf32x3>{});
  else
    throw py::value_error("math is '" + math +
                          "'; expected float16, bfloat16, tf32, float32 or tf32x3");
}

// f(type tag) where other kernels than those for every device are asked for; whether they were.
template <class F>
bool by_others(bool asked, const std::string& math, F f) {
  if (!asked) return false;
  dispatch(math, [&](auto tag, auto) {
    using T = decltype(tag);
    bool can = false;
    if constexpr (sizeof(T) == 2) can = f(tag);
    if (!can) throw py::value_error("these kernels cannot do this");
  });
  return true;
}

struct Problem {
  DeformShape shape;
  long long features, points, mask, weight, out;
};

Problem problem(const py::dict& d) {
  auto get = [&](const char* key) { return py::cast<int>(d[key]); };
  Problem p;
  p.shape = {get("batch"),        get("channels"),   get("height"),     get("width"),
             get("outputs"),      get("out_height"), get("out_width"),  get("kernel_h"),
             get("kernel_w"),     get("stride_h"),   get("stride_w"),   get("pad_h"),
             get("pad_w"),        get("dilation_h"), get("dilation_w"), get("groups"),
             get("offset_groups")};
  const DeformShape& s = p.shape;
  const long long points = s.kernel_h * s.kernel_w;
  const long long pixels = static_cast<long long>(s.batch) * s.out_height * s.out_width;
  p.features = static_cast<long long>(s.batch) * s.height * s.width * s.channels;
  p.mask = pixels * points * s.offset_groups;
  p.points = 2 * p.mask;
  p.weight = static_cast<long long>(s.outputs) * (s.channels / s.groups) * points;
  p.out = pixels * s.outputs;
  return p;
}

// Separate offset and mask arrays stand for the one tensor of raw points: strides tell them apart.
DeformForwardParams common(const Problem& p, const py::object& features, const py::object& offset,
                           const py::object& base, const py::object& mask, bool sigmoid) {
  const DeformShape& s = p.shape;
  const int points = s.offset_groups * s.kernel_h * s.kernel_w;
  DeformForwardParams f{};
  f.shape = s;
  f.features = simt::data(features, p.features, "features");
  f.offset = simt::data(offset, p.points, "offset");
  f.base_offset = simt::data(base, p.points, "base_offset");
  f.mask = simt::data(mask, p.mask, "mask");
  f.offset_strides = f.base_strides = contiguous(2 * points, s.out_height, s.out_width);
  f.mask_strides = contiguous(points, s.out_height, s.out_width);
  f.sigmoid = sigmoid;
  return f;
}

template <class T>
struct Aligned {  // as a device allocator gives it
  T* memory;
  explicit Aligned(long long count)
      : memory(static_cast<T*>(std::aligned_alloc(256, (count * sizeof(T) + 511) / 256 * 256))) {}
  ~Aligned() { std::free(memory); }
};

void actpoint_forward(const std::string& math, const py::dict& shape, const py::object& features,
                      const py::object& offset, const py::object& base, const py::object& mask,
                      const py::object& weight, const py::object& bias, const py::object& out,
                      bool sigmoid, bool relu, bool hopper) {
  const Problem p = problem(shape);
  DeformForwardParams f = common(p, features, offset, base, mask, sigmoid);
  f.bias = simt::data(bias, p.shape.outputs, "bias");
  f.out = simt::data(out, p.out, "out");
  f.relu = relu;
  const bool done = by_others(hopper, math, [&](auto tag) {
    using T = decltype(tag);
    if (!hopper::can_forward<T>(f)) return false;
    Aligned<T> packed(hopper::packed_size(f.shape));
    hopper::pack<T, false>(f.shape, simt::data(weight, p.weight, "weight"), packed.memory, nullptr);
    f.weight = packed.memory;
    hopper::forward<T>(f, nullptr);
    return true;
  });
  if (done) return;
  dispatch(math, [&](auto tag, auto m) {
    using T = decltype(tag);
    const int tile = forward_tile<T>(f.shape);
    Aligned<T> packed(packed_weight_size<T>(f.shape, tile));
    pack_weight<T, m()>(f.shape, tile, Walk::kPointsOfSlice, simt::data(weight, p.weight, "weight"),
                        packed.memory, nullptr);
    f.weight = packed.memory;
    forward<T, m()>(f, nullptr);
  });
}

void actpoint_backward(const std::string& math, const py::dict& shape, const py::object& grad_out,
                       const py::object& features, const py::object& offset, const py::object& base,
                       const py::object& mask, const py::object& weight,
                       const py::object& grad_features, const py::object& grad_offset,
                       const py::object& grad_mask, bool sigmoid, bool deterministic, bool hopper,
                       bool windowed) {
  const Problem p = problem(shape);
  DeformDataGradParams b{{common(p, features, offset, base, mask, sigmoid)}};
  b.grad_out = simt::data(grad_out, p.out, "grad_out");
  b.grad_offset = simt::data(grad_offset, p.points, "grad_offset");
  b.grad_mask = simt::data(grad_mask, p.mask, "grad_mask");
  b.grad_offset_strides = b.offset_strides;
  b.grad_mask_strides = b.mask_strides;
  void* target = simt::data(grad_features, p.features, "grad_features");
  dispatch(math, [&](auto tag, auto m) {
    using T = decltype(tag);
    const T* w = static_cast<const T*>(simt::data(weight, p.weight, "weight"));
    std::vector<float> sums(deterministic ? 0 : p.features);
    std::vector<long long> fixed(deterministic ? p.features : 0);
    float unit = 1.0f;
    if (!target) {  // not wanted
    } else if (deterministic) {
      fixed_point_unit<T>(b.shape, static_cast<const T*>(b.grad_out), w,
                          sigmoid ? nullptr : static_cast<const T*>(b.mask), &unit, nullptr,
                          std::vector<unsigned>(3).data());
      b.fixed_point = fixed.data();
      b.unit = &unit;
    } else {
      b.feature_sums = sums.data();
    }
    const bool done = by_others(hopper || windowed, math, [&](auto) {
      if constexpr (sizeof(T) == 2) {
        if (windowed) {
          if (!windowed::can_backward<T>(b)) return false;
          const int tile = outputs_of_block(b.shape.outputs);
          Aligned<T> packed(packed_weight_size<T>(b.shape, tile));
          pack_weight<T, m()>(b.shape, tile, Walk::kPointsOfSlice, w, packed.memory, nullptr);
          b.weight = packed.memory;
          std::vector<float> dots(windowed::dots_size(b.shape), NAN);
          windowed::backward<T>(b, dots.data(), nullptr);
          return true;
        }
        if (!hopper::can_backward(b)) return false;
        Aligned<T> packed(hopper::packed_size(b.shape));
        hopper::pack<T, true>(b.shape, w, packed.memory, nullptr);
        b.weight = packed.memory;
        std::vector<float> dots(hopper::dots_size(b.shape), NAN);
        hopper::backward<T>(b, dots.data(), nullptr);
        return true;
      }
      return false;
    });
    if (!done) {
      const int tile = backward_tile<T>(b.shape);
      Aligned<T> packed(packed_weight_size<T>(b.shape, tile));
      pack_weight<T, m()>(b.shape, tile, Walk::kSlicesOfPoint, w, packed.memory, nullptr);
      b.weight = packed.memory;
      backward<T, m()>(b, nullptr);
    }
    if (!target) return;
    const simt::Counters counted = simt::counters;
    finish_features<T>(sums.data(), deterministic ? fixed.data() : nullptr, &unit,
                       static_cast<T*>(target), p.features, nullptr);
    simt::counters = counted;
  });
}

void actpoint_weight_grad(const std::string& math, const py::dict& shape,
                          const py::object& grad_out, const py::object& features,
                          const py::object& offset, const py::object& base, const py::object& mask,
                          const py::object& grad_weight, const py::object& grad_bias, bool sigmoid,
                          bool hopper, int splits) {
  const Problem p = problem(shape);
  DeformWeightGradParams w{common(p, features, offset, base, mask, sigmoid)};
  w.grad_out = simt::data(grad_out, p.out, "grad_out");
  void* target = simt::data(grad_weight, p.weight, "grad_weight");
  void* bias_target = simt::data(grad_bias, p.shape.outputs, "grad_bias");
  dispatch(math, [&](auto tag, auto m) {
    using T = decltype(tag);
    w.splits = splits   ? splits
               : hopper ? hopper::weight_grad_splits(w.shape)
                        : weight_grad_splits(w.shape, sizeof(T));
    std::vector<float> partial(p.weight * w.splits, NAN);
    w.weight_sums = partial.data();
    const bool done = by_others(hopper, math, [&](auto) {
      if constexpr (sizeof(T) == 2) {
        if (hopper::can_weight_grad(w)) return hopper::weight_grad<T>(w, nullptr), true;
      }
      return false;
    });
    if (!done) weight_grad<T, m()>(w, nullptr);
    const simt::Counters counted = simt::counters;
    reduce_weight<T>(w, static_cast<T*>(target), nullptr);
    std::vector<float> sums(bias_partial_size(w.shape), NAN);
    bias_grad<T>(w.shape, static_cast<const T*>(w.grad_out), sums.data(),
                 static_cast<T*>(bias_target), nullptr);
    simt::counters = counted;
  });
}

// grad, out, masked: any shape of one dtype.
void actpoint_relu_grad(const std::string& math, const py::object& grad, const py::object& out,
                        const py::object& masked, long long count) {
  dispatch(math, [&](auto tag, auto) {
    using T = decltype(tag);
    relu_grad<T>(static_cast<const T*>(simt::data(grad, count, "grad")),
                 static_cast<const T*>(simt::data(out, count, "out")),
                 static_cast<T*>(simt::data(masked, count, "masked")), count, nullptr);
  });
}

// Bytes of dynamic shared memory that a block of each kernel takes, for a tile of outputs.
py::dict actpoint_shared_bytes(const std::string& math, int tile, int points) {
  py::dict bytes;
  dispatch(math, [&](auto tag, auto) {
    using T = decltype(tag);
    with_tile(tile, [&](auto n) {
      bytes["forward_kernel"] = forward_shared_bytes<T, n()>(points);
      bytes["backward_kernel"] = backward_shared_bytes<T, n()>();
      bytes["weight_grad_kernel"] = weight_grad_shared_bytes<T, n()>();
      bytes["windowed::backward_kernel"] = windowed::shared_bytes<n()>();
    });
  });
  return bytes;
}

const simt::Binding binding([](py::module_& m) {
  m.def("actpoint_forward", &actpoint_forward, py::arg("math"), py::arg("shape"),
        py::arg("features"), py::arg("offset"), py::arg("base_offset"), py::arg("mask"),
        py::arg("weight"), py::arg("bias"), py::arg("out"), py::arg("sigmoid"), py::arg("relu"),
        py::arg("hopper") = false);
  m.def("actpoint_backward", &actpoint_backward, py::arg("math"), py::arg("shape"),
        py::arg("grad_out"), py::arg("features"), py::arg("offset"), py::arg("base_offset"),
        py::arg("mask"), py::arg("weight"), py::arg("grad_features"), py::arg("grad_offset"),
        py::arg("grad_mask"), py::arg("sigmoid"), py::arg("deterministic"),
        py::arg("hopper") = false, py::arg("windowed") = false);
  m.def("actpoint_weight_grad", &actpoint_weight_grad, py::arg("math"), py::arg("shape"),
        py::arg("grad_out"), py::arg("features"), py::arg("offset"), py::arg("base_offset"),
        py::arg("mask"), py::arg("grad_weight"), py::arg("grad_bias"), py::arg("sigmoid"),
        py::arg("hopper") = false, py::arg("splits") = 0);  // 0: as many as on a device
  m.def("actpoint_relu_grad", &actpoint_relu_grad, py::arg("math"), py::arg("grad"), py::arg("out"),
        py::arg("masked"), py::arg("count"));
  m.def("actpoint_shared_bytes", &actpoint_shared_bytes, py::arg("math"), py::arg("tile"),
        py::arg("points"));
});

}  // namespace

// What a binding verifies before it hands pointers to a kernel, and the layout rule that kernels
// and fake kernels share.
//
// ggnet.ops has checked already, with friendlier messages. These checks stand between a direct call
// of torch.ops.ggnet.* (an exported program, a C++ caller) and reading memory that is not there.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>

namespace ggnet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kAnySize = -1;

inline std::string shape_text(const int64_t* sizes, size_t count) {
  std::string text = "(";
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) text += ", ";
    text += sizes[i] == kAnySize ? "any" : std::to_string(sizes[i]);
  }
  return text + ")";
}

// The tensor has exactly these sizes (kAnySize: not compared) and 32 bits index it.
inline void check_shape(const Tensor& tensor, const char* name,
                        std::initializer_list<int64_t> expected) {
  const auto sizes = tensor.sizes();
  bool same = sizes.size() == expected.size();
  for (size_t i = 0; same && i < expected.size(); ++i) {
    const int64_t size = expected.begin()[i];
    same = size == kAnySize || size == sizes[i];
  }
  STD_TORCH_CHECK(same, name, " has shape ", shape_text(sizes.data(), sizes.size()), ", expected ",
                  shape_text(expected.begin(), expected.size()));
  STD_TORCH_CHECK(tensor.numel() <= std::numeric_limits<int32_t>::max(), name, " has ",
                  tensor.numel(), " elements, expected fewer than 2**31");
}

inline void check_dtype(const Tensor& tensor, const char* name, ScalarType expected) {
  STD_TORCH_CHECK(tensor.scalar_type() == expected, name, " has dtype ", tensor.scalar_type(),
                  ", expected ", expected);
}

inline void check_device(const Tensor& tensor, const char* name, const Tensor& reference) {
  STD_TORCH_CHECK(tensor.device() == reference.device(), name,
                  " is on another device than the first tensor");
}

// Same dtype and device as the operator's first tensor.
inline void check_like(const Tensor& tensor, const char* name, const Tensor& reference) {
  check_dtype(tensor, name, reference.scalar_type());
  check_device(tensor, name, reference);
}

// Whether results that follow a 4-D `tensor` are channels_last: its channels are adjacent in memory
// and it is not (also) contiguous. ggnet/ops/_layout.py states the same rule for fake kernels.
inline bool is_channels_last(const Tensor& tensor) {
  return tensor.dim() == 4 && tensor.stride(1) == 1 && !tensor.is_contiguous();
}

// The tensor itself if it has this layout and no gaps, else a copy.
inline Tensor with_layout(const Tensor& tensor, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(
      tensor, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// Uninitialized memory of `like`'s dtype and device; 4-D and channels_last where asked for.
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, const Tensor& like,
                    bool channels_last = false, std::optional<ScalarType> dtype = std::nullopt) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(
      sizes, dtype.value_or(like.scalar_type()), std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace ggnet

// What the bindings of topk_peaks verify, and the parameters that follow from the tensor.
#pragma once

#include "../common/check.h"
#include "topk_peaks.h"

namespace ggnet {

// Also makes each image of the logits dense, in either layout.
inline PeaksParams peaks_params(Tensor& logits, int64_t k, int64_t kernel_size) {
  check_shape(logits, "logits", {kAnySize, kAnySize, kAnySize, kAnySize});
  STD_TORCH_CHECK(k >= 1, "k is ", k, ", expected at least 1");
  STD_TORCH_CHECK(kernel_size >= 1 && kernel_size % 2 == 1, "kernel_size is ", kernel_size,
                  ", expected an odd number of at least 1");
  const int64_t channels = logits.size(1), height = logits.size(2), width = logits.size(3);
  const bool channels_last = is_channels_last(logits) && logits.stride(3) == channels &&
                             logits.stride(2) == channels * width;
  const bool rows =
      logits.stride(3) == 1 && logits.stride(2) == width && logits.stride(1) == height * width;
  if (!channels_last && !rows) logits = torch::stable::contiguous(logits);
  return {.batch = logits.size(0),
          .channels = channels,
          .height = height,
          .width = width,
          .image_stride = logits.stride(0),
          .channels_last = channels_last,
          .k = k,
          .kernel_size = kernel_size};
}

}  // namespace ggnet

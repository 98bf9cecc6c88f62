// Binding of the device kernels: topk_peaks.

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "common/cuda.h"
#include "topk_peaks/topk_peaks_check.h"
#include "topk_peaks/topk_peaks_kernels.cuh"

namespace ggnet {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> topk_peaks(Tensor logits, int64_t k,
                                                      int64_t kernel_size) {
  const OnDevice device(logits);
  const PeaksParams params = peaks_params(logits, k, kernel_size);
  STD_TORCH_CHECK(k <= peaks::kMaxK, "k is ", k, ", expected at most ", peaks::kMaxK,
                  " on a CUDA device");
  STD_TORCH_CHECK(params.batch <= std::numeric_limits<uint16_t>::max(), "logits are ", params.batch,
                  " images, expected fewer than 2**16 on a CUDA device");
  Tensor scores = empty({params.batch, k}, logits, false, ScalarType::Float);
  Tensor at[3] = {empty({params.batch, k}, logits, false, ScalarType::Long),
                  empty({params.batch, k}, logits, false, ScalarType::Long),
                  empty({params.batch, k}, logits, false, ScalarType::Long)};
  if (logits.numel() == 0) {  // no cells, no peaks
    torch::stable::zero_(scores);
    for (Tensor& tensor : at) torch::stable::zero_(tensor);
    return {scores, at[0], at[1], at[2]};
  }
  const Tensor scratch = empty({peaks::scratch_size(params)}, logits, false, ScalarType::Long);
  with_device_type(logits, "logits", [&]<class T>(T*) {
    peaks::topk_peaks(read<T>(logits), write<float>(scores), write<long long>(at[0]),
                      write<long long>(at[1]), write<long long>(at[2]), params,
                      write<peaks::Key>(scratch), device.stream);
  });
  return {scores, at[0], at[1], at[2]};
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) { m.impl("topk_peaks", TORCH_BOX(&ggnet::topk_peaks)); }

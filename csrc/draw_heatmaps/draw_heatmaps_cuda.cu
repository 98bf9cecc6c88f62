// Binding of the device kernels: draw_heatmaps.

#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/cuda.h"
#include "draw_heatmaps/draw_heatmaps_check.h"
#include "draw_heatmaps/draw_heatmaps_kernels.cuh"

namespace ggnet {
namespace {

Tensor draw_heatmaps(Tensor centers, Tensor radii, Tensor signs, std::vector<int64_t> shape,
                     double positive_factor, double negative_factor) {
  const OnDevice device(centers);
  const HeatmapParams params =
      heatmap_params(centers, radii, signs, shape, positive_factor, negative_factor);
  Tensor out = empty(shape, centers, false, ScalarType::Float);
  torch::stable::zero_(out);
  heatmap::draw_heatmaps(read<int>(centers), read<int>(radii), read<int>(signs), write<float>(out),
                         params, device.stream);
  return out;
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) {
  m.impl("draw_heatmaps", TORCH_BOX(&ggnet::draw_heatmaps));
}

// What the bindings of draw_heatmaps verify, and the parameters that follow from the tensors.
#pragma once

#include <vector>

#include "../common/check.h"
#include "draw_heatmaps.h"

namespace ggnet {

// Also makes the tensors contiguous.
inline HeatmapParams heatmap_params(Tensor& centers, Tensor& radii, Tensor& signs,
                                    const std::vector<int64_t>& shape, double positive_factor,
                                    double negative_factor) {
  STD_TORCH_CHECK(shape.size() == 4, "shape has ", shape.size(), " sizes, expected 4");
  const int64_t points = radii.numel();
  check_shape(centers, "centers", {points, 4});
  check_shape(radii, "radii", {points});
  check_shape(signs, "signs", {points});
  check_dtype(centers, "centers", ScalarType::Int);
  check_like(radii, "radii", centers);
  check_like(signs, "signs", centers);
  centers = torch::stable::contiguous(centers);
  radii = torch::stable::contiguous(radii);
  signs = torch::stable::contiguous(signs);
  return {.batch = shape[0],
          .channels = shape[1],
          .height = shape[2],
          .width = shape[3],
          .points = points,
          .positive_factor = positive_factor,
          .negative_factor = negative_factor};
}

}  // namespace ggnet

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "draw_heatmaps_check.h"

namespace ggnet {
namespace {

struct Point {
  int64_t y, x, radius;
};

// The Gaussian along one axis, at distances 0, 1, ... up to the radius or the map's far side. The
// window is the product of two of them.
void profile(int64_t radius, double factor, int64_t side, std::vector<float>& values) {
  const double sigma = (2 * radius + 1) / factor;
  values.resize(std::min(radius + 1, side));
  for (int64_t d = 0; d < static_cast<int64_t>(values.size()); ++d)
    values[d] = static_cast<float>(std::exp(-0.5 * (d * d) / (sigma * sigma)));
}

template <bool kPositive>
void draw(float* plane, const Point& point, const HeatmapParams& p, std::vector<float>& values) {
  profile(point.radius, kPositive ? p.positive_factor : p.negative_factor,
          std::max(p.height, p.width), values);
  const int64_t top = std::max<int64_t>(point.y - point.radius, 0);
  const int64_t bottom = std::min(point.y + point.radius + 1, p.height);
  const int64_t left = std::max<int64_t>(point.x - point.radius, 0);
  const int64_t right = std::min(point.x + point.radius + 1, p.width);
  for (int64_t y = top; y < bottom; ++y) {
    float* row = plane + y * p.width;
    const float along_y = values[std::abs(y - point.y)];
    for (int64_t x = left; x < right; ++x) {
      const float value =
          std::max(along_y * values[std::abs(x - point.x)], std::numeric_limits<float>::min());
      if constexpr (kPositive)
        row[x] = std::max(row[x], value);
      else if (row[x] <= 0)
        row[x] = std::min(row[x], -value);
    }
  }
}

// centers: (points, 4) batch, channel, y, x; radii, signs: (points);
// out: (batch, channels, height, width)
void draw_heatmaps_kernel(const int32_t* centers, const int32_t* radii, const int32_t* signs,
                          float* out, const HeatmapParams& p) {
  // Planes are independent, so each has one owner: group the points by plane, positives first.
  const int64_t planes = p.batch * p.channels;
  const auto group = [&](int64_t i) -> int64_t {
    const int32_t* c = centers + 4 * i;
    const bool inside = c[0] >= 0 && c[0] < p.batch && c[1] >= 0 && c[1] < p.channels &&
                        c[2] >= 0 && c[2] < p.height && c[3] >= 0 && c[3] < p.width;
    return inside && radii[i] >= 0 ? 2 * (c[0] * p.channels + c[1]) + (signs[i] <= 0) : -1;
  };
  std::vector<int64_t> ends(2 * planes + 1, 0);
  for (int64_t i = 0; i < p.points; ++i) ++ends[group(i) + 1];
  ends[0] = 0;  // points that are left out
  for (int64_t g = 1; g <= 2 * planes; ++g) ends[g] += ends[g - 1];
  std::vector<Point> points(ends[2 * planes]);
  // ends[g] moves from group g's begin to its end, the begin of group g + 1.
  for (int64_t i = 0; i < p.points; ++i) {
    const int64_t g = group(i);
    if (g < 0) continue;
    const int32_t* c = centers + 4 * i;
    points[ends[g]++] = {c[2], c[3], radii[i]};
  }
  const int64_t cells = p.height * p.width;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(cells, 1));
  torch::stable::parallel_for(0, planes, grain, [&](int64_t first, int64_t last) {
    std::vector<float> values;
    for (int64_t plane = first; plane < last; ++plane) {
      float* map = out + plane * cells;
      std::fill_n(map, cells, 0.0f);
      int64_t i = plane == 0 ? 0 : ends[2 * plane - 1];
      for (; i < ends[2 * plane]; ++i) draw<true>(map, points[i], p, values);
      for (; i < ends[2 * plane + 1]; ++i) draw<false>(map, points[i], p, values);
    }
  });
}

Tensor draw_heatmaps(Tensor centers, Tensor radii, Tensor signs, std::vector<int64_t> shape,
                     double positive_factor, double negative_factor) {
  const HeatmapParams params =
      heatmap_params(centers, radii, signs, shape, positive_factor, negative_factor);
  const Tensor out = empty(shape, centers, false, ScalarType::Float);
  draw_heatmaps_kernel(static_cast<const int32_t*>(centers.const_data_ptr()),
                       static_cast<const int32_t*>(radii.const_data_ptr()),
                       static_cast<const int32_t*>(signs.const_data_ptr()),
                       static_cast<float*>(out.mutable_data_ptr()), params);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) { m.impl("draw_heatmaps", TORCH_BOX(&draw_heatmaps)); }

}  // namespace ggnet

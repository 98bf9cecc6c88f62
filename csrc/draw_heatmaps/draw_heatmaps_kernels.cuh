// Gaussian targets with hard negatives on the device: draw_heatmaps.h says what they are.
//
// The map is set to zero, which is the compulsory traffic; then a block a point stamps windows of a
// few cells, positives in a first launch, negatives in a second. Values merge by atomic maxima of
// their bits, so that neither the points' order nor the blocks' matters: floats from 0 up compare
// like signed integers, and those below 0 like unsigned ones, turned round, above all positive
// ones.
#pragma once

#include "common/device.h"
#include "draw_heatmaps/draw_heatmaps.h"

namespace ggnet {
namespace heatmap {

constexpr int kThreads = 128;
constexpr float kSmallest = 1.17549435e-38f;  // FLT_MIN

// centers: (points, 4) batch, channel, y, x; radii, signs: (points); map: (batch, channels, height,
// width). Grid: one block a point.
template <bool kPositive>
__global__ void __launch_bounds__(kThreads)
    stamp_kernel(const int* centers, const int* radii, const int* signs, float* map, int batch,
                 int channels, int height, int width, float factor) {
  const int* center = centers + 4ll * blockIdx.x;
  const int b = center[0], v = center[1], y = center[2], x = center[3];
  const long long radius = radii[blockIdx.x];
  if ((signs[blockIdx.x] > 0) != kPositive || radius < 0 || b < 0 || b >= batch || v < 0 ||
      v >= channels || y < 0 || y >= height || x < 0 || x >= width)
    return;
  const float per_sigma = factor / static_cast<float>(2 * radius + 1);
  const float falloff = -0.5f * per_sigma * per_sigma;
  const int top = static_cast<int>(y - radius > 0 ? y - radius : 0);
  const int left = static_cast<int>(x - radius > 0 ? x - radius : 0);
  const int bottom = static_cast<int>(y + radius + 1 < height ? y + radius + 1 : height);
  const int right = static_cast<int>(x + radius + 1 < width ? x + radius + 1 : width);
  const int columns = right - left, cells = (bottom - top) * columns;
  float* plane = map + (static_cast<long long>(b) * channels + v) * height * width;
  for (int i = threadIdx.x; i < cells; i += kThreads) {
    const int at_y = top + i / columns, at_x = left + i % columns;
    const float dy = static_cast<float>(at_y - y), dx = static_cast<float>(at_x - x);
    const float value = fmaxf(expf((dy * dy + dx * dx) * falloff), kSmallest);
    float* cell = plane + static_cast<long long>(at_y) * width + at_x;
    if (kPositive) {
      atomicMax(reinterpret_cast<int*>(cell), __float_as_int(value));
    } else {
      // All positives are there already. Read by an atomic that changes nothing: other blocks may
      // be stamping this cell.
      const int present = atomicOr(reinterpret_cast<int*>(cell), 0);
      if (present <= 0) atomicMax(reinterpret_cast<unsigned*>(cell), __float_as_uint(-value));
    }
  }
}

// The map has to be zero.
inline void draw_heatmaps(const int* centers, const int* radii, const int* signs, float* map,
                          const HeatmapParams& p, void* stream) {
  if (p.points == 0 || p.batch * p.channels * p.height * p.width == 0) return;
  const dim3 grid(static_cast<unsigned>(p.points));
  const int batch = static_cast<int>(p.batch), channels = static_cast<int>(p.channels);
  const int height = static_cast<int>(p.height), width = static_cast<int>(p.width);
  GGNET_LAUNCH((stamp_kernel<true>), grid, dim3(kThreads), 0, stream, centers, radii, signs, map,
               batch, channels, height, width, static_cast<float>(p.positive_factor));
  GGNET_LAUNCH((stamp_kernel<false>), grid, dim3(kThreads), 0, stream, centers, radii, signs, map,
               batch, channels, height, width, static_cast<float>(p.negative_factor));
}

}  // namespace heatmap
}  // namespace ggnet

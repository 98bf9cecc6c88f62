// Gaussian targets with hard negatives, drawn from points.
//
// A point draws exp(-(dy^2 + dx^2) / (2 sigma^2)), sigma = (2r + 1) / factor, in the
// (2r + 1) x (2r + 1) window around its center; where that is below the smallest normal float, this
// number, so that a cell of a window is never 0. Positives merge by maximum; negatives, negated,
// merge by minimum and show only outside of all positives' windows. The order of the points does
// not matter. Points with a center outside of the map or a negative radius are left out.
#pragma once

#include <cstdint>

namespace ggnet {

struct HeatmapParams {
  int64_t batch, channels, height, width;
  int64_t points;
  double positive_factor, negative_factor;
};

}  // namespace ggnet

// Hard-negative attentive loss, GGNet (CVPR 2021), Eq. 4: value and gradient in one pass.
//
// With P = sigmoid(logit) clamped to [eps, 1 - eps] and M = target, a cell's term is
//   M = 1        (1 - P)^alpha log(P)
//   M = -1       (1 - M)^beta  P^alpha log(1 - P)
//   otherwise    (1 - M)^gamma P^alpha log(1 - P)
// and the loss is minus the sum of all terms over N = max(1, number of cells with M = 1).
// The gradient is 0 where the clamp is active. Sums are over blocks of a fixed size in a fixed
// order, so that results do not depend on the number of threads.
#pragma once

#include <cstdint>

namespace ggnet {

struct HnaLossParams {
  int64_t batch, channels, cells;  // logits and target: (batch, channels, cells = H * W)
  bool channels_last;              // of logits and gradient: (batch, cells, channels) in memory
  bool target_channels_last;
  double alpha, beta, gamma, eps;
};

}  // namespace ggnet

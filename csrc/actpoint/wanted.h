// Which gradients a backward is asked for, one bit each: ggnet/ops/_wanted.py.
#pragma once

namespace ggnet {

enum Wanted { kFeatures = 1, kPoints = 2, kWeight = 4, kBias = 8, kMask = 16 };

}  // namespace ggnet

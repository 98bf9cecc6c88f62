// The k highest local maxima of each image's heatmaps, highest first.
//
// A peak is a cell whose logit no other in the kernel_size x kernel_size window around it exceeds;
// a plateau keeps every cell. NaN counts as -inf, and a cell at -inf is no peak. Equal logits:
// smaller flat index (channel, y, x) first. score = sigmoid(logit). Fewer than k peaks: score 0,
// indices 0.
#pragma once

#include <cstdint>

namespace ggnet {

struct PeaksParams {
  int64_t batch, channels, height, width;
  int64_t image_stride;  // elements from one image to the next; within an image there are no gaps
  bool channels_last;    // an image is (height, width, channels), else (channels, height, width)
  int64_t k, kernel_size;
};

}  // namespace ggnet

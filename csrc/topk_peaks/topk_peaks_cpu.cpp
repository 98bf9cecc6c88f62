#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <tuple>
#include <vector>

#include "../common/elementwise.h"
#include "topk_peaks_check.h"

namespace ggnet {
namespace {

constexpr int64_t kBlock = 64;    // cells that are compared before looking at the result
constexpr int64_t kPart = 16384;  // cells that threads divide an image by

template <class A>
struct Peak {
  A logit;
  int64_t index;  // flat: (channel, y, x)
};

template <class A>
bool before(const Peak<A>& a, const Peak<A>& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.index < b.index;
}

// The best k of the peaks offered so far, and some more.
template <class A>
class Best {
 public:
  explicit Best(int64_t k) : k_(k) {}

  void offer(Peak<A> peak) {
    peaks_.push_back(peak);
    if (static_cast<int64_t>(peaks_.size()) < 2 * k_) return;
    std::nth_element(peaks_.begin(), peaks_.begin() + k_ - 1, peaks_.end(), before<A>);
    peaks_.resize(k_);
    threshold_ = peaks_.back().logit;
  }

  // Lower logits cannot be among the best k; nor can equal ones whose index is higher than any yet.
  A threshold() const { return threshold_; }
  const std::vector<Peak<A>>& peaks() const { return peaks_; }

 private:
  int64_t k_;
  A threshold_ = -std::numeric_limits<A>::infinity();
  std::vector<Peak<A>> peaks_;
};

// The first block from `begin` on with a logit above (or at) the threshold; `end` if there is none.
template <bool kOrEqual, class T>
GGNET_INLINE int64_t next_block(const T* logits, int64_t begin, int64_t end,
                                MathType<T> threshold) {
  const auto above = [&](int64_t i) {
    const MathType<T> logit = to_math(logits[i]);
    return kOrEqual ? logit >= threshold : logit > threshold;
  };
  for (; begin + kBlock <= end; begin += kBlock) {
    int32_t any = 0;
    for (int64_t i = 0; i < kBlock; ++i) any |= above(begin + i);
    if (any) return begin;
  }
  for (int64_t i = begin; i < end; ++i)
    if (above(i)) return begin;
  return end;
}

template <class T>
bool is_peak(const T* image, MathType<T> logit, int64_t channel, int64_t y, int64_t x,
             const PeaksParams& p) {
  const int64_t step_x = p.channels_last ? p.channels : 1;
  const int64_t step_y = step_x * p.width;
  const T* plane = image + channel * (p.channels_last ? 1 : p.height * p.width);
  const int64_t reach = p.kernel_size / 2;
  const int64_t bottom = std::min(y + reach + 1, p.height);
  const int64_t right = std::min(x + reach + 1, p.width);
  for (int64_t v = std::max<int64_t>(y - reach, 0); v < bottom; ++v)
    for (int64_t u = std::max<int64_t>(x - reach, 0); u < right; ++u)
      if (to_math(plane[v * step_y + u * step_x]) > logit) return false;
  return true;
}

// Marks the cells of n adjacent ones that may be peaks: on the right side of the threshold, and no
// neighbor (these four; the cell itself where there is none) is higher.
template <bool kOrEqual, class T>
GGNET_INLINE void mark(const T* cell, const T* left, const T* right, const T* above, const T* below,
                       int64_t n, MathType<T> threshold, int32_t* marks) {
  for (int64_t i = 0; i < n; ++i) {
    const MathType<T> logit = to_math(cell[i]);
    const bool high = kOrEqual ? logit >= threshold : logit > threshold;
    marks[i] = high & !(to_math(left[i]) > logit) & !(to_math(right[i]) > logit) &
               !(to_math(above[i]) > logit) & !(to_math(below[i]) > logit);
  }
}

// Offers the peaks among the cells [begin, end), in memory order, of an image.
template <bool kChannelsLast, class T>
void scan(const T* image, int64_t begin, int64_t end, const PeaksParams& p, Isa isa,
          Best<MathType<T>>& best) {
  using A = MathType<T>;
  const int64_t step_x = kChannelsLast ? p.channels : 1, step_y = step_x * p.width;
  const bool with_neighbors = p.kernel_size > 1;
  int32_t marks[kBlock];
  while ((begin = run<next_block<kChannelsLast, T>>(isa, image, begin, end, best.threshold())) <
         end) {
    // Of one row of the map, whose cells are adjacent in either layout.
    const int64_t line = begin / step_y, at = begin % step_y, y = line % p.height;
    const int64_t n = std::min({kBlock, end - begin, step_y - at});
    // The row's first and last pixel lack a neighbor: left to is_peak.
    const int64_t first = std::clamp<int64_t>(step_x - at, 0, n);
    const int64_t last = std::clamp<int64_t>(step_y - step_x - at, first, n);
    std::fill(marks, marks + n, 1);
    if (with_neighbors && first < last) {
      const T* cell = image + begin + first;
      run<mark<kChannelsLast, T>>(
          isa, cell, cell - step_x, cell + step_x, y > 0 ? cell - step_y : cell,
          y + 1 < p.height ? cell + step_y : cell, last - first, best.threshold(), marks + first);
    }
    for (int64_t i = 0; i < n; ++i) {
      if (!marks[i]) continue;
      const A logit = to_math(image[begin + i]), threshold = best.threshold();
      if (!(kChannelsLast ? logit >= threshold : logit > threshold)) continue;
      if (logit == -std::numeric_limits<A>::infinity()) continue;
      const int64_t x = (at + i) / step_x;
      const int64_t channel = kChannelsLast ? (at + i) % p.channels : line / p.height;
      if (is_peak(image, logit, channel, y, x, p))
        best.offer({logit, (channel * p.height + y) * p.width + x});
    }
    begin += n;
  }
}

// logits: (batch, channels, height, width) as params say; scores, channels, ys, xs: (batch, k)
template <class T>
void topk_peaks_kernel(const T* logits, MathType<T>* scores, int64_t* channels, int64_t* ys,
                       int64_t* xs, const PeaksParams& p) {
  using A = MathType<T>;
  const Isa isa = cpu_isa();
  const int64_t cells = p.height * p.width, size = p.channels * cells;
  const int64_t parts = (size + kPart - 1) / kPart;
  // Whatever the threads find, the best k in this order are the same.
  std::vector<std::vector<Peak<A>>> found(p.batch);
  std::mutex mutex;
  torch::stable::parallel_for(0, p.batch * parts, 1, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t b = first / parts, stop = std::min(last, (b + 1) * parts);
      const T* image = logits + b * p.image_stride;
      const int64_t begin = first % parts * kPart;
      const int64_t end = std::min(begin + (stop - first) * kPart, size);
      Best<A> best(p.k);
      if (p.channels_last)
        scan<true>(image, begin, end, p, isa, best);
      else
        scan<false>(image, begin, end, p, isa, best);
      const std::lock_guard<std::mutex> lock(mutex);
      found[b].insert(found[b].end(), best.peaks().begin(), best.peaks().end());
      first = stop;
    }
  });
  for (int64_t b = 0; b < p.batch; ++b) {
    std::vector<Peak<A>>& peaks = found[b];
    const int64_t count = std::min<int64_t>(p.k, peaks.size());
    std::partial_sort(peaks.begin(), peaks.begin() + count, peaks.end(), before<A>);
    for (int64_t i = 0; i < p.k; ++i) {
      const int64_t out = b * p.k + i, index = i < count ? peaks[i].index : 0;
      scores[out] = i < count ? A(1) / (A(1) + std::exp(-peaks[i].logit)) : A(0);
      channels[out] = i < count ? index / cells : 0;
      ys[out] = i < count ? index % cells / p.width : 0;
      xs[out] = i < count ? index % p.width : 0;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> topk_peaks(Tensor logits, int64_t k,
                                                      int64_t kernel_size) {
  const PeaksParams params = peaks_params(logits, k, kernel_size);
  const int64_t batch = params.batch;
  const bool f64 = logits.scalar_type() == ScalarType::Double;
  const Tensor scores =
      empty({batch, k}, logits, false, f64 ? ScalarType::Double : ScalarType::Float);
  const Tensor at[3] = {empty({batch, k}, logits, false, ScalarType::Long),
                        empty({batch, k}, logits, false, ScalarType::Long),
                        empty({batch, k}, logits, false, ScalarType::Long)};
  with_type(logits, "logits", [&]<class T>(T*) {
    topk_peaks_kernel(static_cast<const T*>(logits.const_data_ptr()),
                      static_cast<MathType<T>*>(scores.mutable_data_ptr()),
                      static_cast<int64_t*>(at[0].mutable_data_ptr()),
                      static_cast<int64_t*>(at[1].mutable_data_ptr()),
                      static_cast<int64_t*>(at[2].mutable_data_ptr()), params);
  });
  return {scores, at[0], at[1], at[2]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) { m.impl("topk_peaks", TORCH_BOX(&topk_peaks)); }

}  // namespace ggnet

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "../common/elementwise.h"
#include "match_points_check.h"

namespace ggnet {
namespace {

constexpr int64_t kGrain = 32;  // interactions that are worth a thread

// Candidates of one image in the arithmetic's type; qualities is room for one interaction's.
template <class A>
struct Candidates {
  std::vector<A> scores, ys, xs, qualities;
  std::vector<int64_t> classes;

  void assign(const MatchPeaks<A>& peaks, int64_t begin, int64_t count) {
    scores.assign(peaks.scores + begin, peaks.scores + begin + count);
    ys.assign(peaks.ys + begin, peaks.ys + begin + count);
    xs.assign(peaks.xs + begin, peaks.xs + begin + count);
    classes.assign(peaks.channels + begin, peaks.channels + begin + count);
    qualities.resize(count);
  }
};

// How well each candidate matches the point (y, x): higher is better, -inf is not at all.
template <MatchRule kRule, class A>
GGNET_INLINE void rate(const A* __restrict scores, const A* __restrict ys, const A* __restrict xs,
                       A* __restrict qualities, int64_t count, A y, A x) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  for (int64_t j = 0; j < count; ++j) {
    const A dy = std::fabs(y - ys[j]), dx = std::fabs(x - xs[j]), s = scores[j];
    const A quality =
        kRule == MatchRule::kProduct ? s / ((dy + A(1)) * (dx + A(1))) : -(dy + dx) / s;
    qualities[j] = (s > A(0)) & (dy + dx < kInfinity) ? quality : -kInfinity;
  }
}

// valid: one flag a class, or null for all
template <class A>
int64_t match(Candidates<A>& candidates, A y, A x, const bool* valid, int64_t classes,
              MatchRule rule, Isa isa) {
  const int64_t count = candidates.scores.size();
  const auto body =
      rule == MatchRule::kProduct
          ? &run<rate<MatchRule::kProduct, A>, const A*, const A*, const A*, A*, int64_t, A, A>
          : &run<rate<MatchRule::kDistance, A>, const A*, const A*, const A*, A*, int64_t, A, A>;
  body(isa, candidates.scores.data(), candidates.ys.data(), candidates.xs.data(),
       candidates.qualities.data(), count, y, x);
  A best = -std::numeric_limits<A>::infinity();
  int64_t index = -1;
  for (int64_t j = 0; j < count; ++j) {
    if (!(candidates.qualities[j] > best)) continue;
    const int64_t c = candidates.classes[j];
    if (valid != nullptr && !(c >= 0 && c < classes && valid[c])) continue;
    best = candidates.qualities[j];
    index = j;
  }
  return index;
}

// offsets: (batch, interactions, 2) as (y, x); valid_pairs: (verbs, classes) or null;
// human, object, score: (batch, interactions)
template <class A>
void match_points_kernel(const MatchPeaks<A>& interactions, const MatchPeaks<A>& humans,
                         const MatchPeaks<A>& objects, const A* human_offsets,
                         const A* object_offsets, const bool* valid_pairs, int64_t* human,
                         int64_t* object, A* score, const MatchParams& p) {
  const Isa isa = cpu_isa();
  const int64_t total = p.batch * p.interactions;
  torch::stable::parallel_for(0, total, kGrain, [&](int64_t begin, int64_t end) {
    Candidates<A> people, things;
    int64_t image = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / p.interactions;
      if (b != image) {
        image = b;
        people.assign(humans, b * p.humans, p.humans);
        things.assign(objects, b * p.objects, p.objects);
      }
      const A y = static_cast<A>(interactions.ys[i]), x = static_cast<A>(interactions.xs[i]);
      const int64_t verb = interactions.channels[i];
      const bool known = verb >= 0 && verb < p.verbs;
      human[i] = match(people, y - human_offsets[2 * i], x - human_offsets[2 * i + 1],
                       static_cast<const bool*>(nullptr), 0, p.rule, isa);
      // A verb outside of the table goes with no object.
      object[i] = valid_pairs != nullptr && !known
                      ? -1
                      : match(things, y - object_offsets[2 * i], x - object_offsets[2 * i + 1],
                              valid_pairs == nullptr ? nullptr : valid_pairs + verb * p.classes,
                              p.classes, p.rule, isa);
      score[i] = human[i] < 0 || object[i] < 0
                     ? A(0)
                     : interactions.scores[i] * people.scores[human[i]] * things.scores[object[i]];
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> match_points(std::vector<Tensor> interactions,
                                                std::vector<Tensor> humans,
                                                std::vector<Tensor> objects, Tensor human_offsets,
                                                Tensor object_offsets,
                                                std::optional<Tensor> valid_pairs, int64_t rule) {
  const MatchParams params =
      match_params(interactions, humans, objects, human_offsets, object_offsets, valid_pairs, rule);
  const Tensor first = interactions[0];
  const bool* valid =
      valid_pairs.has_value() ? static_cast<const bool*>(valid_pairs->const_data_ptr()) : nullptr;
  const Tensor human = empty(first.sizes(), first, false, ScalarType::Long);
  const Tensor object = empty(first.sizes(), first, false, ScalarType::Long);
  const Tensor score = empty(first.sizes(), first);
  const auto launch = [&]<class A>(A*) {
    match_points_kernel(pointers<A>(interactions), pointers<A>(humans), pointers<A>(objects),
                        static_cast<const A*>(human_offsets.const_data_ptr()),
                        static_cast<const A*>(object_offsets.const_data_ptr()), valid,
                        static_cast<int64_t*>(human.mutable_data_ptr()),
                        static_cast<int64_t*>(object.mutable_data_ptr()),
                        static_cast<A*>(score.mutable_data_ptr()), params);
  };
  if (first.scalar_type() == ScalarType::Double)
    launch(static_cast<double*>(nullptr));
  else
    launch(static_cast<float*>(nullptr));
  return {human, object, score};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) { m.impl("match_points", TORCH_BOX(&match_points)); }

}  // namespace ggnet

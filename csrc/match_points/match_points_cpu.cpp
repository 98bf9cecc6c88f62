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

// Candidates of one image, with cells in the arithmetic's type; qualities is room for one
// interaction's.
template <class A>
struct Candidates {
  MatchPeaks<A> peaks;
  std::vector<A> ys, xs, qualities;

  void assign(const MatchPeaks<A>& all, int64_t begin, int64_t count) {
    peaks = {all.scores + begin, all.channels + begin, all.ys + begin, all.xs + begin};
    ys.assign(peaks.ys, peaks.ys + count);
    xs.assign(peaks.xs, peaks.xs + count);
    qualities.resize(count);
  }
  Candidate at(int64_t index) const {
    return {index, peaks.channels[index], peaks.ys[index], peaks.xs[index]};
  }
};

template <class A>
struct Match {
  int64_t index = -1;
  A quality = -std::numeric_limits<A>::infinity();
};

bool same(const Candidate& a, const Candidate& b, Identity identity) {
  if (identity == Identity::kIndex) return a.index == b.index;
  return identity == Identity::kCell && a.channel == b.channel && a.y == b.y && a.x == b.x;
}

// How well each candidate matches the point (y, x): higher is better, NaN is not at all.
template <MatchRule kRule, class A>
GGNET_INLINE void rate(const A* __restrict scores, const A* __restrict ys, const A* __restrict xs,
                       A* __restrict qualities, int64_t count, A y, A x) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  for (int64_t j = 0; j < count; ++j) {
    const A dy = std::fabs(y - ys[j]), dx = std::fabs(x - xs[j]), s = scores[j];
    const A quality =
        kRule == MatchRule::kProduct ? s / ((dy + A(1)) * (dx + A(1))) : -(dy + dx) / s;
    const bool matches = (s > A(0)) & (s < kInfinity) & (dy + dx < kInfinity);
    qualities[j] = matches ? quality : std::numeric_limits<A>::quiet_NaN();
  }
}

// valid: one flag a class, or null for all; excluded: what must not match, or null.
template <class A>
Match<A> match(Candidates<A>& candidates, A y, A x, const bool* valid, const Candidate* excluded,
               const MatchParams& p, Isa isa) {
  const int64_t count = candidates.ys.size();
  const auto body =
      p.rule == MatchRule::kProduct
          ? &run<rate<MatchRule::kProduct, A>, const A*, const A*, const A*, A*, int64_t, A, A>
          : &run<rate<MatchRule::kDistance, A>, const A*, const A*, const A*, A*, int64_t, A, A>;
  body(isa, candidates.peaks.scores, candidates.ys.data(), candidates.xs.data(),
       candidates.qualities.data(), count, y, x);
  Match<A> best;
  for (int64_t j = 0; j < count; ++j) {
    const A quality = candidates.qualities[j];
    // A quality can be -inf, so the first that matches is better than none whatever it is.
    if (!(quality > best.quality || (best.index < 0 && quality == quality))) continue;
    const int64_t c = candidates.peaks.channels[j];
    if (valid != nullptr && !(c >= 0 && c < p.classes && valid[c])) continue;
    if (excluded != nullptr && same(candidates.at(j), *excluded, p.identity)) continue;
    best = {j, quality};
  }
  return best;
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
      const auto best_human = [&](const Candidate* excluded) {
        return match(people, y - human_offsets[2 * i], x - human_offsets[2 * i + 1],
                     static_cast<const bool*>(nullptr), excluded, p, isa);
      };
      const auto best_object = [&](const Candidate* excluded) {
        // A verb outside of the table goes with no object.
        if (valid_pairs != nullptr && !known) return Match<A>{};
        return match(things, y - object_offsets[2 * i], x - object_offsets[2 * i + 1],
                     valid_pairs == nullptr ? nullptr : valid_pairs + verb * p.classes, excluded, p,
                     isa);
      };
      const auto together = [&](const Match<A>& a, const Match<A>& b) {
        return p.rule == MatchRule::kProduct ? a.quality * b.quality : a.quality + b.quality;
      };
      Match<A> h = best_human(nullptr), o = best_object(nullptr);
      if (h.index >= 0 && o.index >= 0 &&
          same(people.at(h.index), things.at(o.index), p.identity)) {
        const Candidate both = people.at(h.index);
        const Match<A> other_h = best_human(&both), other_o = best_object(&both);
        if (other_h.index >= 0 &&
            (other_o.index < 0 || together(other_h, o) > together(h, other_o)))
          h = other_h;
        else
          o = other_o;
      }
      human[i] = h.index;
      object[i] = o.index;
      score[i] = h.index < 0 || o.index < 0
                     ? A(0)
                     : interactions.scores[i] * people.peaks.scores[h.index] *
                           things.peaks.scores[o.index];
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> match_points(std::vector<Tensor> interactions,
                                                std::vector<Tensor> humans,
                                                std::vector<Tensor> objects, Tensor human_offsets,
                                                Tensor object_offsets,
                                                std::optional<Tensor> valid_pairs, int64_t rule,
                                                int64_t identity) {
  const MatchParams params = match_params(interactions, humans, objects, human_offsets,
                                          object_offsets, valid_pairs, rule, identity);
  const bool* valid =
      valid_pairs.has_value() ? static_cast<const bool*>(valid_pairs->const_data_ptr()) : nullptr;
  return with_matches(interactions, [&]<class A>(A*, const Tensor& human, const Tensor& object,
                                                 const Tensor& score) {
    match_points_kernel(pointers<A>(interactions), pointers<A>(humans), pointers<A>(objects),
                        static_cast<const A*>(human_offsets.const_data_ptr()),
                        static_cast<const A*>(object_offsets.const_data_ptr()), valid,
                        static_cast<int64_t*>(human.mutable_data_ptr()),
                        static_cast<int64_t*>(object.mutable_data_ptr()),
                        static_cast<A*>(score.mutable_data_ptr()), params);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ggnet, CPU, m) { m.impl("match_points", TORCH_BOX(&match_points)); }

}  // namespace ggnet

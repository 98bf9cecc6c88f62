// Action-aware point matching, GGNet (CVPR 2021): for every interaction the human and the object
// that its offsets point at.
//
// With (dy, dx) = interaction - offset - candidate and s the candidate's score, a match
//   kProduct     maximizes s / ((|dy| + 1) (|dx| + 1))    (the published code)
//   kDistance    minimizes (|dy| + |dx|) / s              (Eq. 8)
// Only candidates with a positive score and a finite distance can match, and only objects whose
// class is valid with the interaction's verb. Ties: smaller index. No match: index -1. The score of
// an interaction is the product of the three scores, 0 where an index is -1.
#pragma once

#include <cstdint>

namespace ggnet {

enum class MatchRule : int64_t { kProduct = 0, kDistance = 1 };

struct MatchParams {
  int64_t batch, interactions, humans, objects;
  int64_t verbs, classes;  // sizes of valid_pairs
  MatchRule rule;
};

// Peaks as topk_peaks returns them: each (batch, count).
template <class A>
struct MatchPeaks {
  const A* scores;
  const int64_t* channels;
  const int64_t* ys;
  const int64_t* xs;
};

}  // namespace ggnet

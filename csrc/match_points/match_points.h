// Action-aware point matching, GGNet (CVPR 2021): for every interaction the human and the object
// that its offsets point at.
//
// With (dy, dx) = interaction - offset - candidate and s the candidate's score, a match
//   kProduct     maximizes s / ((|dy| + 1) (|dx| + 1))    (the published code)
//   kDistance    minimizes (|dy| + |dx|) / s              (Eq. 8)
// Only candidates with a finite positive score at a finite distance can match, and only objects
// whose class is valid with the interaction's verb. Ties: smaller index. No match: index -1. The
// score of an interaction is the product of the three scores, 0 where an index is -1.
//
// Where the best human and the best object are one detection (Identity), one of them gives way to
// its side's best of the others: the one that leaves the larger product of what kProduct maximizes,
// or the smaller sum of what kDistance minimizes; the object where both are equal, and where
// neither side has another. That is the best pair of all pairs of two detections.
#pragma once

#include <cstdint>

namespace ggnet {

enum class MatchRule : int64_t { kProduct = 0, kDistance = 1 };

// What makes a human and an object the same detection: nothing, so that one detection can be both;
// an equal class and cell, as those of peaks; an equal index, where both are one list.
enum class Identity : int64_t { kNone = 0, kCell = 1, kIndex = 2 };

struct MatchParams {
  int64_t batch, interactions, humans, objects;
  int64_t verbs, classes;  // sizes of valid_pairs
  MatchRule rule;
  Identity identity;
};

// Peaks as topk_peaks returns them: each (batch, count).
template <class A>
struct MatchPeaks {
  const A* scores;
  const int64_t* channels;
  const int64_t* ys;
  const int64_t* xs;
};

// What tells a candidate from others.
struct Candidate {
  int64_t index, channel, y, x;
};

}  // namespace ggnet

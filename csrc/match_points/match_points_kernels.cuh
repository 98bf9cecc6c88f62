// Action-aware point matching on the device: match_points.h says what matches.
//
// One warp an interaction; its lanes share the candidates, humans first, objects after. The best of
// a lane, then of the warp, is the one of highest quality and among equal ones of smallest index,
// so the order of the lanes does not matter. Nothing here can be contracted to a fused
// multiply-add: qualities are the same bits as on the CPU.
#pragma once

#include "common/device.h"
#include "match_points/match_points.h"

namespace ggnet {
namespace matching {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

template <class A>
struct Match {
  A quality;
  int index;  // -1: none
};

// Quality alone would not do: that of a match can be -inf.
template <class A>
__device__ __forceinline__ bool better(const Match<A>& a, const Match<A>& b) {
  if (a.index < 0 || b.index < 0) return a.index >= 0;
  return a.quality > b.quality || (a.quality == b.quality && a.index < b.index);
}

template <class A>
__device__ __forceinline__ Candidate candidate(const MatchPeaks<A>& peaks, long long first,
                                               int index) {
  const long long i = first + index;
  return {index, peaks.channels[i], peaks.ys[i], peaks.xs[i]};
}

__device__ __forceinline__ bool same(const Candidate& a, const Candidate& b, Identity identity) {
  if (identity == Identity::kIndex) return a.index == b.index;
  return identity == Identity::kCell && a.channel == b.channel && a.y == b.y && a.x == b.x;
}

// How well candidate `index` matches a point at the distance (dy, dx), if it does.
template <MatchRule kRule, class A>
__device__ __forceinline__ Match<A> rate(A score, A dy, A dx, int index) {
  if (!(score > A(0)) || !(score < A(INFINITY)) || !(dy + dx < A(INFINITY))) return {A(0), -1};
  if (kRule == MatchRule::kProduct) return {score / ((dy + A(1)) * (dx + A(1))), index};
  return {-(dy + dx) / score, index};
}

template <MatchRule kRule, class A>
__device__ __forceinline__ A together(const Match<A>& a, const Match<A>& b) {
  return kRule == MatchRule::kProduct ? a.quality * b.quality : a.quality + b.quality;
}

// The best of an image's `count` candidates for the point (y, x), to every lane. valid: one flag a
// class, or null for all; excluded: what must not match, by `identity`.
template <MatchRule kRule, class A>
__device__ __forceinline__ Match<A> best_match(const MatchPeaks<A>& peaks, long long first,
                                               int count, A y, A x, const bool* valid,
                                               long long classes, const Candidate& excluded,
                                               Identity identity) {
  Match<A> best{A(0), -1};
#pragma unroll 1  // a lane has a few candidates; its registers are worth more than its loop
  for (int j = threadIdx.x % 32; j < count; j += 32) {
    const long long i = first + j;
    const A dy = y - static_cast<A>(peaks.ys[i]), dx = x - static_cast<A>(peaks.xs[i]);
    const Match<A> found =
        rate<kRule>(peaks.scores[i], dy < A(0) ? -dy : dy, dx < A(0) ? -dx : dx, j);
    if (!better(found, best)) continue;
    if (valid != nullptr) {
      const long long c = peaks.channels[i];
      if (c < 0 || c >= classes || !valid[c]) continue;
    }
    if (same(candidate(peaks, first, j), excluded, identity)) continue;
    best = found;
  }
  for (int step = 16; step > 0; step /= 2) {
    const Match<A> other{__shfl_xor_sync(0xffffffffu, best.quality, step),
                         __shfl_xor_sync(0xffffffffu, best.index, step)};
    if (better(other, best)) best = other;
  }
  return best;
}

// offsets: (batch, interactions, 2) as (y, x); valid_pairs: (verbs, classes) or null; human,
// object, score: (batch, interactions). Grid: a warp for each interaction of each image.
template <MatchRule kRule, class A>
__global__ void __launch_bounds__(kThreads)
    match_kernel(MatchPeaks<A> interactions, MatchPeaks<A> humans, MatchPeaks<A> objects,
                 const A* human_offsets, const A* object_offsets, const bool* valid_pairs,
                 long long* human, long long* object, A* score, MatchParams p) {
  const long long i = static_cast<long long>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.batch * p.interactions) return;
  const long long b = i / p.interactions, verb = interactions.channels[i];
  const A y = static_cast<A>(interactions.ys[i]), x = static_cast<A>(interactions.xs[i]);
  const bool known = valid_pairs == nullptr || (verb >= 0 && verb < p.verbs);
  const bool* valid = valid_pairs == nullptr || !known ? nullptr : valid_pairs + verb * p.classes;
  const long long first_human = b * p.humans, first_object = b * p.objects;
  const auto best_human = [&](const Candidate& excluded, Identity identity) {
    return best_match<kRule>(humans, first_human, static_cast<int>(p.humans),
                             y - human_offsets[2 * i], x - human_offsets[2 * i + 1],
                             static_cast<const bool*>(nullptr), 0, excluded, identity);
  };
  const auto best_object = [&](const Candidate& excluded, Identity identity) {
    if (!known) return Match<A>{A(0), -1};  // no object goes with the verb
    return best_match<kRule>(objects, first_object, static_cast<int>(p.objects),
                             y - object_offsets[2 * i], x - object_offsets[2 * i + 1], valid,
                             p.classes, excluded, identity);
  };
  Match<A> h = best_human({}, Identity::kNone), o = best_object({}, Identity::kNone);
  if (h.index >= 0 && o.index >= 0) {
    const Candidate both = candidate(humans, first_human, h.index);
    if (same(both, candidate(objects, first_object, o.index), p.identity)) {
      const Match<A> other_h = best_human(both, p.identity);
      const Match<A> other_o = best_object(both, p.identity);
      if (other_h.index >= 0 &&
          (other_o.index < 0 || together<kRule>(other_h, o) > together<kRule>(h, other_o)))
        h = other_h;
      else
        o = other_o;
    }
  }
  if (threadIdx.x % 32 != 0) return;
  human[i] = h.index;
  object[i] = o.index;
  score[i] = h.index < 0 || o.index < 0
                 ? A(0)
                 : interactions.scores[i] * humans.scores[first_human + h.index] *
                       objects.scores[first_object + o.index];
}

template <class A>
void match_points(const MatchPeaks<A>& interactions, const MatchPeaks<A>& humans,
                  const MatchPeaks<A>& objects, const A* human_offsets, const A* object_offsets,
                  const bool* valid_pairs, long long* human, long long* object, A* score,
                  const MatchParams& p, void* stream) {
  const long long total = p.batch * p.interactions;
  if (total == 0) return;
  const dim3 grid(static_cast<unsigned>((total + kWarps - 1) / kWarps));
  if (p.rule == MatchRule::kProduct)
    GGNET_LAUNCH((match_kernel<MatchRule::kProduct, A>), grid, dim3(kThreads), 0, stream,
                 interactions, humans, objects, human_offsets, object_offsets, valid_pairs, human,
                 object, score, p);
  else
    GGNET_LAUNCH((match_kernel<MatchRule::kDistance, A>), grid, dim3(kThreads), 0, stream,
                 interactions, humans, objects, human_offsets, object_offsets, valid_pairs, human,
                 object, score, p);
}

}  // namespace matching
}  // namespace ggnet

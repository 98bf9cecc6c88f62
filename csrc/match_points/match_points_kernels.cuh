// Action-aware point matching on the device: matching.h says what matches.
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
  int index;
};

// How well a candidate matches a point at the distance (dy, dx); -inf: not at all.
template <MatchRule kRule, class A>
__device__ __forceinline__ A rate(A score, A dy, A dx) {
  if (!(score > A(0)) || !(dy + dx < A(INFINITY))) return -A(INFINITY);
  return kRule == MatchRule::kProduct ? score / ((dy + A(1)) * (dx + A(1))) : -(dy + dx) / score;
}

// The best of an image's `count` candidates for the point (y, x), to every lane; index -1 if there
// is none. valid: one flag a class, or null for all.
template <MatchRule kRule, class A>
__device__ __forceinline__ int best_match(const MatchPeaks<A>& peaks, long long first, int count,
                                          A y, A x, const bool* valid, long long classes) {
  Match<A> best{-A(INFINITY), -1};
  for (int j = threadIdx.x % 32; j < count; j += 32) {
    const long long i = first + j;
    const A dy = y - static_cast<A>(peaks.ys[i]), dx = x - static_cast<A>(peaks.xs[i]);
    const A quality = rate<kRule>(peaks.scores[i], dy < A(0) ? -dy : dy, dx < A(0) ? -dx : dx);
    if (!(quality > best.quality)) continue;
    if (valid != nullptr) {
      const long long c = peaks.channels[i];
      if (c < 0 || c >= classes || !valid[c]) continue;
    }
    best = {quality, j};
  }
  for (int step = 16; step > 0; step /= 2) {
    const Match<A> other{__shfl_xor_sync(0xffffffffu, best.quality, step),
                         __shfl_xor_sync(0xffffffffu, best.index, step)};
    const bool first_of_equals = other.quality == best.quality && other.index >= 0 &&
                                 (best.index < 0 || other.index < best.index);
    if (other.quality > best.quality || first_of_equals) best = other;
  }
  return best.index;
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
  const int h =
      best_match<kRule>(humans, b * p.humans, static_cast<int>(p.humans), y - human_offsets[2 * i],
                        x - human_offsets[2 * i + 1], static_cast<const bool*>(nullptr), 0);
  int o = -1;
  if (valid_pairs == nullptr || (verb >= 0 && verb < p.verbs))  // else no object goes with it
    o = best_match<kRule>(objects, b * p.objects, static_cast<int>(p.objects),
                          y - object_offsets[2 * i], x - object_offsets[2 * i + 1],
                          valid_pairs == nullptr ? nullptr : valid_pairs + verb * p.classes,
                          p.classes);
  if (threadIdx.x % 32 != 0) return;
  human[i] = h;
  object[i] = o;
  score[i] = h < 0 || o < 0 ? A(0)
                            : interactions.scores[i] * humans.scores[b * p.humans + h] *
                                  objects.scores[b * p.objects + o];
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

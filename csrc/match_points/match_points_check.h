// What the bindings of match_points verify, and the parameters that follow from the tensors.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "../common/check.h"
#include "match_points.h"

namespace ggnet {

// Checks the four tensors of a set of peaks and makes them contiguous.
inline void check_peaks(std::vector<Tensor>& peaks, const char* name, int64_t batch,
                        const Tensor& like) {
  STD_TORCH_CHECK(peaks.size() == 4, name, " has ", peaks.size(), " tensors, expected 4");
  check_shape(peaks[0], name, {batch, kAnySize});
  check_like(peaks[0], name, like);
  for (size_t i = 1; i < 4; ++i) {
    check_shape(peaks[i], name, {batch, peaks[0].size(1)});
    check_dtype(peaks[i], name, ScalarType::Long);
    check_device(peaks[i], name, like);
  }
  for (Tensor& tensor : peaks) tensor = torch::stable::contiguous(tensor);
}

// Also makes the tensors contiguous.
inline MatchParams match_params(std::vector<Tensor>& interactions, std::vector<Tensor>& humans,
                                std::vector<Tensor>& objects, Tensor& human_offsets,
                                Tensor& object_offsets, std::optional<Tensor>& valid_pairs,
                                int64_t rule, int64_t identity) {
  STD_TORCH_CHECK(!interactions.empty() && interactions[0].dim() == 2,
                  "interactions[0] has to have two dimensions");
  STD_TORCH_CHECK(rule == 0 || rule == 1, "rule is ", rule, ", expected 0 or 1");
  STD_TORCH_CHECK(identity >= 0 && identity <= 2, "identity is ", identity, ", expected 0 to 2");
  const Tensor first = interactions[0];
  const auto dtype = first.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "interactions have dtype ", dtype, ", expected float32 or float64");
  const int64_t batch = first.size(0), count = first.size(1);
  check_peaks(interactions, "interactions", batch, first);
  check_peaks(humans, "humans", batch, first);
  check_peaks(objects, "objects", batch, first);
  check_shape(human_offsets, "human_offsets", {batch, count, 2});
  check_shape(object_offsets, "object_offsets", {batch, count, 2});
  check_like(human_offsets, "human_offsets", first);
  check_like(object_offsets, "object_offsets", first);
  human_offsets = torch::stable::contiguous(human_offsets);
  object_offsets = torch::stable::contiguous(object_offsets);
  MatchParams params{.batch = batch,
                     .interactions = count,
                     .humans = humans[0].size(1),
                     .objects = objects[0].size(1),
                     .verbs = 0,
                     .classes = 0,
                     .rule = static_cast<MatchRule>(rule),
                     .identity = static_cast<Identity>(identity)};
  if (valid_pairs.has_value()) {
    check_shape(*valid_pairs, "valid_pairs", {kAnySize, kAnySize});
    check_dtype(*valid_pairs, "valid_pairs", ScalarType::Bool);
    check_device(*valid_pairs, "valid_pairs", first);
    valid_pairs = torch::stable::contiguous(*valid_pairs);
    params.verbs = valid_pairs->size(0);
    params.classes = valid_pairs->size(1);
  }
  return params;
}

template <class A>
MatchPeaks<A> pointers(const std::vector<Tensor>& peaks) {
  return {static_cast<const A*>(peaks[0].const_data_ptr()),
          static_cast<const int64_t*>(peaks[1].const_data_ptr()),
          static_cast<const int64_t*>(peaks[2].const_data_ptr()),
          static_cast<const int64_t*>(peaks[3].const_data_ptr())};
}

// The outputs of a call, filled by launch(A*, human, object, score), A the type of the scores.
template <class F>
std::tuple<Tensor, Tensor, Tensor> with_matches(const std::vector<Tensor>& interactions, F launch) {
  const Tensor& scores = interactions[0];
  const Tensor human = empty(scores.sizes(), scores, false, ScalarType::Long);
  const Tensor object = empty(scores.sizes(), scores, false, ScalarType::Long);
  const Tensor score = empty(scores.sizes(), scores);
  if (scores.scalar_type() == ScalarType::Double)
    launch(static_cast<double*>(nullptr), human, object, score);
  else
    launch(static_cast<float*>(nullptr), human, object, score);
  return {human, object, score};
}

}  // namespace ggnet

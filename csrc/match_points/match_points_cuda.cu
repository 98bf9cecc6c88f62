// Binding of the device kernel: match_points.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "match_points/match_points_check.h"
#include "match_points/match_points_kernels.cuh"

namespace ggnet {
namespace {

std::tuple<Tensor, Tensor, Tensor> match_points(std::vector<Tensor> interactions,
                                                std::vector<Tensor> humans,
                                                std::vector<Tensor> objects, Tensor human_offsets,
                                                Tensor object_offsets,
                                                std::optional<Tensor> valid_pairs, int64_t rule,
                                                int64_t identity) {
  STD_TORCH_CHECK(!interactions.empty(), "interactions has 0 tensors, expected 4");
  const OnDevice device(interactions[0]);
  const MatchParams params = match_params(interactions, humans, objects, human_offsets,
                                          object_offsets, valid_pairs, rule, identity);
  return with_matches(interactions, [&]<class A>(A*, const Tensor& human, const Tensor& object,
                                                 const Tensor& score) {
    matching::match_points(pointers<A>(interactions), pointers<A>(humans), pointers<A>(objects),
                           read<A>(human_offsets), read<A>(object_offsets),
                           valid_pairs.has_value() ? read<bool>(*valid_pairs) : nullptr,
                           write<long long>(human), write<long long>(object), write<A>(score),
                           params, device.stream);
  });
}

}  // namespace
}  // namespace ggnet

STABLE_TORCH_LIBRARY_IMPL(ggnet, CUDA, m) {
  m.impl("match_points", TORCH_BOX(&ggnet::match_points));
}

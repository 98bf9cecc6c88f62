// Point matching's device kernel in the emulator's module: NumPy arrays in and out.
#include "match_points/match_points_kernels.cuh"
#include "simt/module.h"

namespace py = pybind11;

namespace {

using namespace ggnet;

// scores, channels, ys, xs, each (batch, count)
template <class A>
MatchPeaks<A> peaks_of(const py::tuple& arrays, long long elements, const char* name) {
  const auto at = [&](int i) { return simt::data(arrays[i], elements, name); };
  return {static_cast<const A*>(at(0)), static_cast<const int64_t*>(at(1)),
          static_cast<const int64_t*>(at(2)), static_cast<const int64_t*>(at(3))};
}

template <class A>
void match_points(const py::tuple& interactions, const py::tuple& humans, const py::tuple& objects,
                  const py::object& human_offsets, const py::object& object_offsets,
                  const py::object& valid_pairs, const py::object& human, const py::object& object,
                  const py::object& score, int batch, int count, int num_humans, int num_objects,
                  int verbs, int classes, int rule, int identity) {
  const MatchParams p{batch,
                      count,
                      num_humans,
                      num_objects,
                      verbs,
                      classes,
                      static_cast<MatchRule>(rule),
                      static_cast<Identity>(identity)};
  const long long total = 1ll * batch * count;
  matching::match_points<A>(
      peaks_of<A>(interactions, total, "interactions"),
      peaks_of<A>(humans, 1ll * batch * num_humans, "humans"),
      peaks_of<A>(objects, 1ll * batch * num_objects, "objects"),
      static_cast<const A*>(simt::data(human_offsets, 2 * total, "human_offsets")),
      static_cast<const A*>(simt::data(object_offsets, 2 * total, "object_offsets")),
      static_cast<const bool*>(simt::data(valid_pairs, 1ll * verbs * classes, "valid_pairs")),
      static_cast<long long*>(simt::data(human, total, "human")),
      static_cast<long long*>(simt::data(object, total, "object")),
      static_cast<A*>(simt::data(score, total, "score")), p, nullptr);
}

const simt::Binding binding([](py::module_& m) {
  const auto define = [&](const char* name, auto function) {
    m.def(name, function, py::arg("interactions"), py::arg("humans"), py::arg("objects"),
          py::arg("human_offsets"), py::arg("object_offsets"), py::arg("valid_pairs"),
          py::arg("human"), py::arg("object"), py::arg("score"), py::kw_only(), py::arg("batch"),
          py::arg("count"), py::arg("num_humans"), py::arg("num_objects"), py::arg("verbs"),
          py::arg("classes"), py::arg("rule"), py::arg("identity"));
  };
  define("match_points_float32", &match_points<float>);
  define("match_points_float64", &match_points<double>);
});

}  // namespace

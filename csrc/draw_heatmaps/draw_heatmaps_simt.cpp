// The heatmaps' device kernels in the emulator's module: NumPy arrays in and out.
#include "draw_heatmaps/draw_heatmaps_kernels.cuh"
#include "simt/module.h"

namespace py = pybind11;

namespace {

// centers: (points, 4), radii, signs: (points), int32; map: (batch, channels, height, width), zero.
void draw_heatmaps(const py::object& centers, const py::object& radii, const py::object& signs,
                   const py::object& map, long long points, int batch, int channels, int height,
                   int width, double positive_factor, double negative_factor) {
  const ggnet::HeatmapParams p{batch,  channels,        height,         width,
                               points, positive_factor, negative_factor};
  ggnet::heatmap::draw_heatmaps(
      static_cast<const int*>(simt::data(centers, 4 * points, "centers")),
      static_cast<const int*>(simt::data(radii, points, "radii")),
      static_cast<const int*>(simt::data(signs, points, "signs")),
      static_cast<float*>(simt::data(map, 1ll * batch * channels * height * width, "map")), p,
      nullptr);
}

const simt::Binding binding([](py::module_& m) {
  m.def("draw_heatmaps", &draw_heatmaps, py::arg("centers"), py::arg("radii"), py::arg("signs"),
        py::arg("map"), py::kw_only(), py::arg("points"), py::arg("batch"), py::arg("channels"),
        py::arg("height"), py::arg("width"), py::arg("positive_factor"),
        py::arg("negative_factor"));
});

}  // namespace

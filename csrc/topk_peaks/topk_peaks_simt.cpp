// Peak extraction's device kernels in the emulator's module: NumPy arrays in and out, bfloat16 as
// uint16.
#include <vector>

#include "simt/module.h"
#include "topk_peaks/topk_peaks_kernels.cuh"

namespace py = pybind11;

namespace {

using namespace ggnet;

// logits: (batch, channels, height, width), or (batch, height, width, channels) if channels_last;
// scores, channels, ys, xs: (batch, k)
void topk_peaks(const std::string& type, const py::object& logits, const py::object& scores,
                const py::object& channel, const py::object& y, const py::object& x, int batch,
                int channels, int height, int width, bool channels_last, int k, int kernel_size) {
  const long long size = 1ll * channels * height * width, found = 1ll * batch * k;
  const PeaksParams p{batch, channels, height, width, size, channels_last, k, kernel_size};
  std::vector<peaks::Key> scratch(peaks::scratch_size(p), ~peaks::Key{0});
  simt::with_type(type, [&](auto tag) {
    using T = decltype(tag);
    peaks::topk_peaks(static_cast<const T*>(simt::data(logits, batch * size, "logits")),
                      static_cast<float*>(simt::data(scores, found, "scores")),
                      static_cast<long long*>(simt::data(channel, found, "channel")),
                      static_cast<long long*>(simt::data(y, found, "y")),
                      static_cast<long long*>(simt::data(x, found, "x")), p, scratch.data(),
                      nullptr);
  });
}

const simt::Binding binding([](py::module_& m) {
  m.def("topk_peaks", &topk_peaks, py::arg("type"), py::arg("logits"), py::arg("scores"),
        py::arg("channel"), py::arg("y"), py::arg("x"), py::kw_only(), py::arg("batch"),
        py::arg("channels"), py::arg("height"), py::arg("width"), py::arg("channels_last"),
        py::arg("k"), py::arg("kernel_size"));
});

}  // namespace

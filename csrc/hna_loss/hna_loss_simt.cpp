// The loss's device kernels in the emulator's module: NumPy arrays in and out, bfloat16 as uint16.
#include <vector>

#include "hna_loss/hna_loss_kernels.cuh"
#include "simt/module.h"

namespace py = pybind11;

namespace {

using namespace ggnet;

// logits, grad: (batch, channels, cells), or (batch, cells, channels) if channels_last; target:
// likewise, float32 if target_is_float. Returns the loss.
float hna_loss(const std::string& type, int batch, int channels, int cells,
               const py::object& logits, const py::object& target, const py::object& grad,
               bool channels_last, bool target_channels_last, bool target_is_float, double alpha,
               double beta, double gamma, double eps) {
  const HnaLossParams p{batch, channels, cells, channels_last, target_channels_last, alpha,
                        beta,  gamma,    eps};
  const long long total = p.batch * p.channels * p.cells;
  std::vector<double> partial(hna::partial_size(p), NAN);
  int positives = 0;
  float loss = NAN;
  simt::with_type(type, [&](auto tag) {
    using T = decltype(tag);
    const auto launch = [&](auto target_tag) {
      using M = decltype(target_tag);
      hna::hna_loss(static_cast<const T*>(simt::data(logits, total, "logits")),
                    static_cast<const M*>(simt::data(target, total, "target")),
                    static_cast<T*>(simt::data(grad, total, "grad")), p, &positives, partial.data(),
                    &loss, nullptr);
    };
    if (target_is_float)
      launch(float{});
    else
      launch(tag);
  });
  return loss;
}

// grad: `factor` times the gradient. The layouts are those of hna_loss.
void hna_loss_gradient(const std::string& type, int batch, int channels, int cells,
                       const py::object& logits, const py::object& target, const py::object& grad,
                       bool channels_last, bool target_channels_last, bool target_is_float,
                       int positives, float factor, double alpha, double beta, double gamma,
                       double eps) {
  const HnaLossParams p{batch, channels, cells, channels_last, target_channels_last, alpha,
                        beta,  gamma,    eps};
  const long long total = p.batch * p.channels * p.cells;
  simt::with_type(type, [&](auto tag) {
    using T = decltype(tag);
    const auto launch = [&](auto target_tag) {
      using M = decltype(target_tag);
      hna::hna_loss_gradient(static_cast<const T*>(simt::data(logits, total, "logits")),
                             static_cast<const M*>(simt::data(target, total, "target")),
                             static_cast<T*>(simt::data(grad, total, "grad")), p, &positives,
                             &factor, nullptr);
    };
    if (target_is_float)
      launch(float{});
    else
      launch(tag);
  });
}

void hna_loss_backward(const std::string& type, const py::object& grad, float factor,
                       const py::object& out, long long total) {
  simt::with_type(type, [&](auto tag) {
    using T = decltype(tag);
    hna::hna_loss_backward(static_cast<const T*>(simt::data(grad, total, "grad")), &factor,
                           static_cast<T*>(simt::data(out, total, "out")), total, nullptr);
  });
}

const simt::Binding binding([](py::module_& m) {
  m.def("hna_loss", &hna_loss, py::kw_only(), py::arg("type"), py::arg("batch"),
        py::arg("channels"), py::arg("cells"), py::arg("logits"), py::arg("target"),
        py::arg("grad"), py::arg("channels_last"), py::arg("target_channels_last"),
        py::arg("target_is_float"), py::arg("alpha"), py::arg("beta"), py::arg("gamma"),
        py::arg("eps"));
  m.def("hna_loss_gradient", &hna_loss_gradient, py::kw_only(), py::arg("type"), py::arg("batch"),
        py::arg("channels"), py::arg("cells"), py::arg("logits"), py::arg("target"),
        py::arg("grad"), py::arg("channels_last"), py::arg("target_channels_last"),
        py::arg("target_is_float"), py::arg("positives"), py::arg("factor"), py::arg("alpha"),
        py::arg("beta"), py::arg("gamma"), py::arg("eps"));
  m.def("hna_loss_backward", &hna_loss_backward, py::kw_only(), py::arg("type"), py::arg("grad"),
        py::arg("factor"), py::arg("out"), py::arg("total"));
});

}  // namespace

// The Python module of the emulator: how to run, what was counted. Each operator adds its kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "simt/module.h"
#include "simt/simt.h"

namespace py = pybind11;

namespace {

void configure(const std::string& order, uint32_t seed, bool async_early, int workers,
               size_t shared_limit) {
  simt::Options o;
  if (order == "forward") {
    o.order = simt::Options::kForward;
  } else if (order == "reverse") {
    o.order = simt::Options::kReverse;
  } else if (order == "shuffled") {
    o.order = simt::Options::kShuffled;
  } else {
    throw py::value_error("order is '" + order + "'; expected forward, reverse or shuffled");
  }
  o.seed = seed;
  o.async_early = async_early;
  o.workers = workers;
  o.shared_limit = shared_limit;
  simt::options = o;
}

py::dict counters() {
  const simt::Counters& c = simt::counters;
  py::dict d;
  d["blocks"] = c.blocks;
  d["threads"] = c.threads;
  d["barriers"] = c.barriers;
  d["collectives"] = c.collectives;
  d["mma"] = c.mma;
  d["mma_macs"] = c.mma_macs;
  d["async_bytes"] = c.async_bytes;
  d["shared_async_bytes"] = c.shared_async_bytes;
  d["load_bytes"] = c.load_bytes;
  d["load_sectors"] = c.load_sectors;
  d["load_requests"] = c.load_requests;
  d["store_bytes"] = c.store_bytes;
  d["store_sectors"] = c.store_sectors;
  d["store_requests"] = c.store_requests;
  d["atomic_bytes"] = c.atomic_bytes;
  d["atomic_requests"] = c.atomic_requests;
  d["shared_phases"] = c.shared_phases;
  d["shared_wavefronts"] = c.shared_wavefronts;
  d["shared_bytes_per_block"] = c.shared_bytes_per_block;
  return d;
}

}  // namespace

PYBIND11_MODULE(ggnet_simt, m) {
  m.doc() = "CUDA kernels of ggnet executed on the CPU";
  const simt::Options o;
  m.def("configure", &configure, py::kw_only(), py::arg("order") = "forward",
        py::arg("seed") = o.seed, py::arg("async_early") = o.async_early,
        py::arg("workers") = o.workers, py::arg("shared_limit") = o.shared_limit,
        "How the next launches run: see Options in simt.h.");
  m.def("counters", &counters, "Sums over the last launch: see Counters in simt.h.");
  m.attr("traced") = simt::simt_trace_access != nullptr;
  for (const simt::Binding::Function bind : simt::Binding::all()) bind(m);
}

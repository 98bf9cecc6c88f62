// What an operator's *_simt.cpp offers to the emulator's Python module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "simt/simt.h"

namespace simt {

// A file's functions for the module: `const simt::Binding binding([](pybind11::module_& m) {...});`
struct Binding {
  using Function = void (*)(pybind11::module_&);

  explicit Binding(Function bind) { all().push_back(bind); }
  static std::vector<Function>& all() {
    static std::vector<Function> functions;
    return functions;
  }
};

// An array's memory: C-contiguous, of the expected number of elements. None gives null.
inline void* data(const pybind11::object& object, long long elements, const char* name) {
  if (object.is_none()) return nullptr;
  auto array = pybind11::cast<pybind11::array>(object);
  if (!(array.flags() & pybind11::array::c_style))
    throw pybind11::value_error(std::string(name) + " must be C-contiguous");
  if (array.size() != elements)
    throw pybind11::value_error(std::string(name) + " has " + std::to_string(array.size()) +
                                " elements; expected " + std::to_string(elements));
  return const_cast<void*>(array.data());
}

// f(tag) for the type that arrays of this name hold; bfloat16 arrays are uint16.
template <class F>
void with_type(const std::string& name, F f) {
  if (name == "float32")
    f(float{});
  else if (name == "float16")
    f(__half{});
  else if (name == "bfloat16")
    f(__nv_bfloat16{});
  else
    throw pybind11::value_error("type is '" + name + "'; expected float32, float16 or bfloat16");
}

}  // namespace simt

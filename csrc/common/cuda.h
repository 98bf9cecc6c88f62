// What a CUDA binding needs besides check.h: the device and the stream to launch on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "common/check.h"

namespace ggnet {

// Makes a tensor's device the current one for this object's lifetime; `stream` is torch's current
// stream there.
struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit OnDevice(const torch::stable::Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

// Calls f with a (null) pointer of the type that the tensor stores, as device code names it.
template <class F>
void with_device_type(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(static_cast<float*>(nullptr));
    case ScalarType::BFloat16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
    case ScalarType::Half:
      return f(static_cast<__half*>(nullptr));
    default:
      STD_TORCH_CHECK(false, name, " has dtype ", tensor.scalar_type(),
                      ", expected float32, bfloat16 or float16 on a CUDA device");
  }
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace ggnet

// SPDX-License-Identifier: Apache-2.0
// Launching a kernel for tensors of one device.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "baton/jit/kernel_store.h"

namespace baton::ops::cuda {

/// While it lives, the device of a tensor is the current one of this thread, for the driver too,
/// and launches go to the stream that PyTorch has current there.
class Launcher {
 public:
  explicit Launcher(const at::Tensor& tensor);

  template <class... Arguments>
  void launch(
      const jit::KernelSpec& spec,
      const jit::LaunchShape& shape,
      const Arguments&... arguments) const {
    jit::kernel_store().get(spec).launch(shape, stream_, arguments...);
  }

  /// The architecture that kernels are compiled for: "sm_80", "sm_90a".
  std::string arch() const { return jit::current_arch(); }
  long long multiprocessors() const { return jit::current_multiprocessors(); }

 private:
  c10::DeviceGuard guard_;
  void* stream_ = nullptr;
};

} // namespace baton::ops::cuda

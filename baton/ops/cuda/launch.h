// SPDX-License-Identifier: Apache-2.0
// Launching a kernel for tensors of one device.
#pragma once

#include <cstdint>

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

 private:
  c10::DeviceGuard guard_;
  void* stream_ = nullptr;
};

/// Whether `pack` neighbours of each row of rows_TD can be read together: rows that begin on, and
/// lie apart by, whole packs, of a whole number of packs each.
bool packs_fit(const at::Tensor& rows_TD, std::int64_t pack);

} // namespace baton::ops::cuda

// SPDX-License-Identifier: Apache-2.0
// The CUDA half of the operator library, a module opened at run time.
#pragma once

#include <string>

namespace baton::ops {

/// What became of the CUDA module when the operator library was loaded.
struct CudaModuleStatus {
  bool open = false;
  std::string reason; ///< why it is not open; empty when it is
};

/// The module is opened once, while libbaton_ops.so is loaded: PyTorch caches its CUDA hooks at the
/// first question about CUDA, so a later opening would go unnoticed. It is never closed. Without an
/// NVIDIA driver, or without torch's CUDA libraries, nothing is opened and the CPU path goes on.
const CudaModuleStatus& cuda_module_status();

/// Devices that kernels can run on; 0 where the module is not open. The first call starts the
/// driver, which loading the library does not: tools that watch it must be there before.
int cuda_device_count();

} // namespace baton::ops

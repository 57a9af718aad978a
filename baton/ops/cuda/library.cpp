// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of the operators. Includes only c10/cuda headers, which need no toolkit.
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "baton/ops/cuda_module.h"

/// Handed to `cuda_device_count`, which looks this name up in the opened module.
extern "C" int baton_cuda_device_count() {
  return static_cast<int>(c10::cuda::device_count());
}

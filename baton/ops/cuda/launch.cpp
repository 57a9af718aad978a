// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/cuda/launch.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

namespace baton::ops::cuda {

Launcher::Launcher(const at::Tensor& tensor) : guard_(tensor.device()) {
  // A thread that has not called the CUDA runtime yet has no context that the driver knows of.
  C10_CUDA_CHECK(c10::cuda::SetDevice(tensor.device().index(), /*force=*/true));
  stream_ = c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream();
}

} // namespace baton::ops::cuda

// SPDX-License-Identifier: Apache-2.0
#include "baton/base/upload.h"

#include <ATen/ATen.h>

namespace baton {

at::Tensor upload(const at::Tensor& host, at::Device device) {
  if (!device.is_cuda() || host.numel() == 0) {
    return host.to(device);
  }
  // The copy from pageable memory would wait for all work before it.
  return host.pin_memory().to(device, host.scalar_type(), /*non_blocking=*/true);
}

} // namespace baton

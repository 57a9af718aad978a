// SPDX-License-Identifier: Apache-2.0
// From the host to a device.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton {

/// A CPU tensor's values on `device`, the tensor itself where that is the CPU. Does not wait for a
/// GPU, which may be far behind: it reads from a pinned copy when it gets there.
at::Tensor upload(const at::Tensor& host, at::Device device);

} // namespace baton

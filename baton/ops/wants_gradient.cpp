// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/wants_gradient.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace baton::ops {

bool wants_gradient(std::initializer_list<std::optional<at::Tensor>> tensors) {
  const bool grad_mode = at::GradMode::is_enabled();
  return std::ranges::any_of(tensors, [&](const std::optional<at::Tensor>& tensor) {
    return tensor && tensor->defined() &&
           ((grad_mode && tensor->requires_grad()) || tensor->_fw_grad(0).defined());
  });
}

} // namespace baton::ops

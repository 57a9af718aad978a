// SPDX-License-Identifier: Apache-2.0
// Whether a call is part of what gets differentiated.
#pragma once

#include <initializer_list>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Whether grad mode is on and one of these tensors requires a gradient, or one has a tangent.
bool wants_gradient(std::initializer_list<std::optional<at::Tensor>> tensors);

} // namespace baton::ops

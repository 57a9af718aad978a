// SPDX-License-Identifier: Apache-2.0
// Whether ranks that should hold the same parameters do.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/group.h"

namespace baton::parallel {

/// What neighbouring ranks should hold the same of.
struct Copy {
  std::string name;
  at::Tensor values;
  int holders = 1; ///< ranks with the same values; divides those of the group
};

/// Compares a sum over the bits of each tensor among its holders. Throws RunError on every rank,
/// naming the first tensor that differs and the first rank in which it does from that of the first
/// of its holders. Reads the tensors once and waits for the device.
void check_copies(const Group& ranks, const std::vector<Copy>& copies);

} // namespace baton::parallel

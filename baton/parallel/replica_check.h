// SPDX-License-Identifier: Apache-2.0
// Whether ranks that should hold the same parameters do.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/group.h"

namespace baton::parallel {

/// Compares a sum over the bits of each tensor. Throws RunError on every rank, naming the first
/// tensor that differs and the first rank in which it does from rank 0's. Reads the tensors once
/// and waits for the device.
void check_replicas(
    const Group& replicas,
    const std::vector<std::pair<std::string, at::Tensor>>& tensors);

} // namespace baton::parallel

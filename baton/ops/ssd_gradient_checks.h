// SPDX-License-Identifier: Apache-2.0
// What the backward scan checks beyond the inputs of the scan.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

/// dy must be like x, and there must be one final state's gradient a sequence, if any.
void check_ssd_gradients(
    const at::Tensor& dy_THP,
    const std::optional<at::Tensor>& dfinal_states_BHPN,
    const at::Tensor& x_THP,
    const SsdSizes& sizes);

} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
// The convolution of a stream that several ranks share: each segment sees the rows before it.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/parallel/context.h"

namespace baton::nn {

/// y_TC of this rank's tokens, as `ops::causal_conv1d` with SiLU over the whole stream would give.
/// x_TC are this rank's rows. Differentiable in all tensors. The K - 1 rows before each segment,
/// and their gradients, are on their way while all other rows are worked on.
at::Tensor baton_convolution(
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const parallel::Context& context);

} // namespace baton::nn

// SPDX-License-Identifier: Apache-2.0
// The gated norm of channels that several ranks share.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "baton/ops/gated_norm.h"
#include "baton/parallel/group.h"

namespace baton::nn {

/// What `ops::gated_norm` gives for y, z [T, C] and weight [C] of this rank, where `config`'s
/// groups of channels go on over the ranks: C channels a rank, in the order of the ranks. The ranks
/// add up their sums of squares of each group, one number a token and group, in fp32 (fp64), and as
/// many in the backward pass. Differentiable in all three.
at::Tensor shared_gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const at::Tensor& weight,
    const ops::GatedNormConfig& config,
    const parallel::Group& ranks);

} // namespace baton::nn

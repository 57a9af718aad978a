// SPDX-License-Identifier: Apache-2.0
// Attention over a stream that several ranks share, in as many steps as there are ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/parallel/context.h"

namespace baton::nn {

/// As `gathered_attention`, but keys and values go from rank to rank: each step sees those of one
/// rank, and what the steps find is merged by the log of their sums of exponentials, in fp32
/// (fp64). The next step's keys travel while this one's are at work. In the backward pass their
/// gradients travel with them.
at::Tensor ring_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    double scale,
    const parallel::Context& context);

} // namespace baton::nn

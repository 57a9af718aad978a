// SPDX-License-Identifier: Apache-2.0
// Attention over a stream that several ranks share.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/parallel/context.h"

namespace baton::nn {

/// Causal attention of this rank's queries [Tr, Hq, P] over the stream's keys and values, of which
/// this rank has k and v [Tr, Hk, P]; gives [Tr, Hq, P]. Keys and values of all ranks are gathered,
/// once in each direction; between the two only this rank's are kept. Differentiable.
at::Tensor gathered_attention(
    const at::Tensor& q_THP,
    const at::Tensor& k_THP,
    const at::Tensor& v_THP,
    double scale,
    const parallel::Context& context);

} // namespace baton::nn

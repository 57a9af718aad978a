// SPDX-License-Identifier: Apache-2.0
// The scan of a stream that several ranks share: the state is handed from segment to segment.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"
#include "baton/parallel/context.h"

namespace baton::nn {

/// y_THP of this rank's tokens, as `ops::ssd` over the whole stream would give. `inputs` are those
/// of this rank's tokens, with the starts of `context.layout()`. Differentiable in all of them.
/// What ranks exchange does not grow with the number of tokens: a state [H, P, N] and its decay, in
/// fp32 (fp64), about log2(cp) times each way.
at::Tensor baton_scan(const ops::SsdInputs& inputs, const parallel::Context& context);

} // namespace baton::nn

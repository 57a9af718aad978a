// SPDX-License-Identifier: Apache-2.0
// What a segment of the stream does to a state that passes through it, without its outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

struct SsdStateOutput {
  at::Tensor states_BHPN;  ///< fp32, fp64 for fp64 inputs
  at::Tensor log_decay_BH; ///< sum of dt A over the sequence, in the states' dtype
};

/// Final states of sequences that start from zero. A sequence that starts from h ends with
/// exp(log_decay) h + states. C and D of the inputs are not read. No derivative: an input that
/// requires grad while grad mode is on is refused.
SsdStateOutput ssd_state(const SsdInputs& inputs);

/// The mirror: the gradient of a sequence's initial state, for a zero gradient of its final state.
/// With gradient g of the final state it is exp(log_decay) g + states. x, B and D are not read.
SsdStateOutput ssd_state_grad(const at::Tensor& dy_THP, const SsdInputs& inputs);

} // namespace baton::ops

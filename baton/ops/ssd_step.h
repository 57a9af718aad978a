// SPDX-License-Identifier: Apache-2.0
// One token of the scan for each of several sequences, in place on their state slots.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

struct SsdStepInputs {
  at::Tensor x_BHP;
  at::Tensor dt_BH; ///< before bias, softplus and limits
  at::Tensor A_H;   ///< negative: -exp(A_log)
  at::Tensor B_BGN;
  at::Tensor C_BGN;
  std::optional<at::Tensor> D = {}; ///< [H] or [H, P]
  SsdTimeStep time_step = {};
};

/// Advances states_SHPN[slots[b]] by one token and returns y [B, H, P] in x's dtype. Slot -1 gives
/// y from a zero state and stores nothing; no other slot may occur twice. States are fp32 (fp64 for
/// fp64 inputs), dense within a slot. Throws c10::Error for bad input, and where an argument
/// requires grad while grad mode is on.
at::Tensor
ssd_step_(const SsdStepInputs& inputs, at::Tensor& states_SHPN, const at::Tensor& slots_B);

} // namespace baton::ops

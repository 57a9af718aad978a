// SPDX-License-Identifier: Apache-2.0
// The state-space scan of Mamba-2 over packed sequences, forward and backward.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

struct SsdOutput {
  at::Tensor y_THP; ///< in x's dtype
  /// fp32, fp64 for fp64 inputs; of an empty sequence its initial. B is 0 where not asked for.
  at::Tensor final_states_BHPN;
};

/// Gradients of the inputs; those of absent inputs hold no elements.
struct SsdGradients {
  at::Tensor dx_THP;
  at::Tensor ddt_TH;
  at::Tensor dA_H;
  at::Tensor dB_TGN;
  at::Tensor dC_TGN;
  at::Tensor dD;
  at::Tensor ddt_bias_H;
  at::Tensor dinitial_states_SHPN;
};

/// Per head, with state h of shape [P, N] and h before the first token given by the initial state:
///   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max)
///   h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T
///   y_t = h_t C_t + D x_t
/// computed by chunks (Dao and Gu, "Transformers are SSMs", 2024, section 6): the cost and the
/// memory are linear in T. Differentiable in every floating input and through both outputs; a
/// second derivative is refused. Inputs may have any token stride. Final states of many short
/// sequences weigh more than their outputs: ask for those that are used. Throws c10::Error for bad
/// input. With z [T, H, P], like x, y is gated: y silu(z), as gated_norm() gates without a norm.
SsdOutput ssd(
    const SsdInputs& inputs,
    const SsdStart& start = {},
    bool final_states = true,
    const std::optional<at::Tensor>& z_THP = {});

/// y silu(z) of y and z [T, H, P].
at::Tensor gate_outputs(const at::Tensor& y_THP, const at::Tensor& z_THP);

/// The gradients for given dy [T, H, P] and, if any, the gradient of the final states [B, H, P, N].
SsdGradients ssd_backward(
    const at::Tensor& dy_THP,
    const std::optional<at::Tensor>& dfinal_states_BHPN,
    const SsdInputs& inputs,
    const SsdStart& start = {});

} // namespace baton::ops

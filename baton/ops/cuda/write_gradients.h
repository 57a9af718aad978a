// SPDX-License-Identifier: Apache-2.0
// Gradients of a mixer's operators, written where they belong: into tensors of the caller, which
// may be columns of wider rows. Only rows may lie apart: the values of one token must be
// contiguous.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/causal_conv1d.h"
#include "baton/ops/gated_norm.h"
#include "baton/ops/ssd.h"

namespace baton::ops::cuda {

/// As `ssd_backward`: fills dx, ddt, dB and dC of `made` and returns it with the others beside
/// them.
SsdGradients write_ssd_gradients(
    const at::Tensor& dy_THP,
    const std::optional<at::Tensor>& dfinal_states_BHPN,
    const SsdInputs& inputs,
    const SsdStart& start,
    SsdGradients made);

/// As `causal_conv1d_backward`: fills dx_TC; gradients of absent inputs hold no elements.
CausalConv1dGradients write_conv_gradients(
    const at::Tensor& dy_TC,
    const std::optional<at::Tensor>& dfinal_states,
    const at::Tensor& x_TC,
    const at::Tensor& weight_CK,
    const std::optional<at::Tensor>& bias_C,
    const at::Tensor& starts_B1,
    const CausalConv1dStates& states,
    bool silu,
    const at::Tensor& dx_TC);

/// As `gated_norm_backward`: fills dz [..., D].
GatedNormGradients write_gated_norm_gradients(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config,
    const at::Tensor& dz);

} // namespace baton::ops::cuda

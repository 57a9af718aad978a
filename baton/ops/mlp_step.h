// SPDX-License-Identifier: Apache-2.0
// A whole feed-forward layer for a few tokens, norm and residual addition included.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/layer_frame.h"

namespace baton::ops {

struct MlpStepInputs {
  at::Tensor hidden_BD;
  LayerFrame frame;
  at::Tensor up_weight_FD; ///< of a gated layer [2F, D], the gate's rows first
  std::optional<at::Tensor> up_bias_F = {};
  at::Tensor down_weight_DF;
  std::optional<at::Tensor> down_bias_D = {};
};

/// hidden + scale (down squared_relu(up rms_norm(hidden))) [B, D], where `up` and `down` are
/// `linear`. What `rms_norm`, `linear`, the activation and an addition make one after the other, in
/// one parallel region on a CPU: up to `kMatvecRows` rows read each weight once. No derivative: an
/// argument that requires grad while grad mode is on is refused. Throws c10::Error for bad input.
at::Tensor squared_relu_mlp_step(const MlpStepInputs& inputs);

/// The same with `swiglu` between the products.
at::Tensor swiglu_mlp_step(const MlpStepInputs& inputs);

/// Throws unless sizes fit each other; `gated` is for an up_weight [2F, D].
void check_mlp_step(const MlpStepInputs& inputs, bool gated);

/// The operators one after the other, on any device.
at::Tensor squared_relu_mlp_by_operators(const MlpStepInputs& inputs);
at::Tensor swiglu_mlp_by_operators(const MlpStepInputs& inputs);

/// `kRun` as one of the operators `baton::squared_relu_mlp_step` and `baton::swiglu_mlp_step`.
template <at::Tensor (*kRun)(const MlpStepInputs& inputs)>
at::Tensor mlp_step_kernel(
    const at::Tensor& hidden,
    const at::Tensor& norm_weight,
    const at::Tensor& up_weight,
    const std::optional<at::Tensor>& up_bias,
    const at::Tensor& down_weight,
    const std::optional<at::Tensor>& down_bias,
    double norm_eps,
    double scale) {
  return kRun({hidden, {norm_weight, norm_eps, scale}, up_weight, up_bias, down_weight, down_bias});
}

} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
// A whole Mamba-2 layer for one token of each of several sequences, in place on their state slots.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/ops/gated_norm.h"
#include "baton/ops/layer_frame.h"
#include "baton/ops/ssd_inputs.h"

namespace baton::ops {

/// Columns of the input projection are z [H P], x [H P], B [G N], C [G N] and dt [H], in this
/// order. Parameters as in `linear`, `causal_conv1d`, `ssd` and `gated_norm`.
struct Mamba2StepInputs {
  at::Tensor hidden_BD;
  LayerFrame frame;
  at::Tensor in_weight_CD;
  std::optional<at::Tensor> in_bias_C = {};
  at::Tensor conv_weight_CK;
  std::optional<at::Tensor> conv_bias_C = {};
  at::Tensor A_log_H; ///< A = -exp(A_log)
  std::optional<at::Tensor> D = {};
  std::optional<at::Tensor> dt_bias_H = {};
  double dt_min = 0.0;
  double dt_max = kNoTimeStepLimit;
  std::optional<at::Tensor> norm_weight = {}; ///< of the gate's norm; absent: y silu(z)
  GatedNormConfig norm = {};
  at::Tensor out_weight_DI;
  std::optional<at::Tensor> out_bias_D = {};
  std::int64_t num_groups = 1;
};

/// States of the convolution [S, H P + 2 G N, K-1] and of the scan [S, H, P, N], and the slots of B
/// sequences; -1 computes from zero and stores nothing, no other slot may occur twice.
struct Mamba2StepStates {
  at::Tensor conv_SCK;
  at::Tensor ssm_SHPN;
  at::Tensor slots_B;
};

/// hidden + scale mixer(rms_norm(hidden)) [B, D], advancing the states by one token. What `linear`,
/// `causal_conv1d_step_` with SiLU, `ssd_step_` with softplus, `gated_norm`, `linear` and an
/// addition make one after the other, in one parallel region on a CPU: up to `kMatvecRows` rows
/// read each weight once. No derivative: an argument that requires grad while grad mode is on is
/// refused. Throws c10::Error for bad input.
at::Tensor mamba2_step_(const Mamba2StepInputs& inputs, const Mamba2StepStates& states);

struct Mamba2StepSizes {
  std::int64_t heads;    ///< H
  std::int64_t inner;    ///< H P
  std::int64_t channels; ///< of the convolution, H P + 2 G N
  std::int64_t keys;     ///< G N
};

/// Throws unless the weights' sizes fit each other.
Mamba2StepSizes checked_mamba2_step(const Mamba2StepInputs& inputs);

/// The operators one after the other, on any device.
at::Tensor mamba2_step_by_operators_(
    const Mamba2StepInputs& inputs,
    const Mamba2StepStates& states);

/// `kRun` as the operator `baton::mamba2_step_`.
template <at::Tensor (*kRun)(const Mamba2StepInputs& inputs, const Mamba2StepStates& states)>
at::Tensor mamba2_step_kernel(
    const at::Tensor& hidden,
    const at::Tensor& input_norm_weight,
    const at::Tensor& in_weight,
    const std::optional<at::Tensor>& in_bias,
    const at::Tensor& conv_weight,
    const std::optional<at::Tensor>& conv_bias,
    const at::Tensor& a_log,
    const std::optional<at::Tensor>& D,
    const std::optional<at::Tensor>& dt_bias,
    const std::optional<at::Tensor>& norm_weight,
    const at::Tensor& out_weight,
    const std::optional<at::Tensor>& out_bias,
    at::Tensor& conv_states,
    at::Tensor& ssm_states,
    const at::Tensor& slots,
    std::int64_t groups,
    double input_norm_eps,
    double eps,
    std::int64_t norm_group_size,
    bool gate_first,
    double dt_min,
    std::optional<double> dt_max,
    double scale) {
  return kRun(
      {hidden,
       {input_norm_weight, input_norm_eps, scale},
       in_weight,
       in_bias,
       conv_weight,
       conv_bias,
       a_log,
       D,
       dt_bias,
       dt_min,
       dt_max.value_or(kNoTimeStepLimit),
       norm_weight,
       {eps, norm_group_size, gate_first},
       out_weight,
       out_bias,
       groups},
      {conv_states, ssm_states, slots});
}

} // namespace baton::ops

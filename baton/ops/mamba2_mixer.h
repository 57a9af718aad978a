// SPDX-License-Identifier: Apache-2.0
// A Mamba-2 mixer between its projections as one operator (Dao and Gu, "Transformers are SSMs",
// 2024, section 7): convolution, scan, gate and norm, whose gradients land side by side.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "baton/ops/gated_norm.h"
#include "baton/ops/ssd.h"

namespace baton::ops {

/// Columns of `projected_TC` are z [H P], x [H P], B [G N], C [G N] and dt [H], in this order; the
/// convolution takes x, B and C together. Parameters as in `causal_conv1d`, `ssd`, `gated_norm`.
struct Mamba2MixerInputs {
  at::Tensor projected_TC; ///< rows may lie apart
  at::Tensor conv_weight_CK;
  std::optional<at::Tensor> conv_bias_C = {};
  at::Tensor A_H; ///< negative
  at::Tensor starts_B1;
  std::optional<at::Tensor> D = {};
  SsdTimeStep time_step = {};
  std::optional<at::Tensor> norm_weight = {}; ///< [H P]; absent: y silu(z) without a norm
  GatedNormConfig norm = {};
  std::int64_t num_groups = 1;
};

/// Views of columns of rows [T, C] such as `projected_TC`.
struct Mamba2MixerColumns {
  at::Tensor z_TI;
  at::Tensor xbc_TC;
  at::Tensor dt_TH;
};

/// gated_norm(ssd(causal_conv1d(x, B, C), dt), z) [T, H P], of sequences that start from zero. Of
/// what `causal_conv1d`, `ssd` and `gated_norm` make one after the other, it differs in nothing but
/// the gradient of `projected_TC`, which is one tensor that kernels fill in by columns. Registered
/// as `baton::mamba2_mixer`, which always takes the softplus of time steps. Differentiable in every
/// floating input; a second derivative is refused. Throws c10::Error for bad input.
at::Tensor mamba2_mixer(const Mamba2MixerInputs& inputs);

/// Throws c10::Error naming the rule and the values where sizes do not fit each other.
void check_mamba2_mixer(const Mamba2MixerInputs& inputs);

/// A mixer's outputs without a thought of gradients, for inputs that passed check_mamba2_mixer().
using Mamba2MixerForward = at::Tensor(const Mamba2MixerInputs& inputs);

/// On any device: its three operators one after the other.
Mamba2MixerForward mamba2_mixer_in_turn;

/// `kRun` as the operator `baton::mamba2_mixer`.
template <Mamba2MixerForward kRun>
at::Tensor mamba2_mixer_kernel(
    const at::Tensor& projected,
    const at::Tensor& conv_weight,
    const std::optional<at::Tensor>& conv_bias,
    const at::Tensor& A,
    const at::Tensor& starts,
    const std::optional<at::Tensor>& D,
    const std::optional<at::Tensor>& dt_bias,
    const std::optional<at::Tensor>& norm_weight,
    std::int64_t groups,
    double eps,
    std::int64_t norm_group_size,
    bool gate_first,
    double dt_min,
    std::optional<double> dt_max) {
  const Mamba2MixerInputs inputs{
      projected,
      conv_weight,
      conv_bias,
      A,
      starts,
      D,
      {dt_bias, true, dt_min, dt_max.value_or(kNoTimeStepLimit)},
      norm_weight,
      {eps, norm_group_size, gate_first},
      groups};
  check_mamba2_mixer(inputs);
  return kRun(inputs);
}

/// Gradients of the inputs; those of absent inputs hold no elements.
struct Mamba2MixerGradients {
  at::Tensor dprojected_TC;
  at::Tensor dconv_weight_CK;
  at::Tensor dconv_bias_C;
  at::Tensor dA_H;
  at::Tensor dD;
  at::Tensor ddt_bias_H;
  at::Tensor dnorm_weight;
};

/// What the operator returns: the fields of Mamba2MixerGradients in their order.
using Mamba2MixerTuple =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
Mamba2MixerTuple as_tuple(Mamba2MixerGradients gradients);

/// A device's gradients for dout [T, H P], given what the scan made of it (y) and from what (x, B
/// and C behind the convolution).
using Mamba2MixerBackward = Mamba2MixerGradients(
    const at::Tensor& dout_TI,
    const at::Tensor& y_TI,
    const at::Tensor& convolved_TC,
    const Mamba2MixerInputs& inputs);

/// As check_mamba2_mixer(); and `convolved_TC` must be [T, channels of the convolution], with the
/// dtype and on the device of `projected_TC`.
void check_mamba2_mixer_backward(const at::Tensor& convolved_TC, const Mamba2MixerInputs& inputs);

/// `kRun` as the operator `baton::mamba2_mixer_backward`, for inputs that passed
/// check_mamba2_mixer_backward().
template <Mamba2MixerBackward kRun>
Mamba2MixerTuple mamba2_mixer_backward_kernel(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& convolved,
    const at::Tensor& projected,
    const at::Tensor& conv_weight,
    const std::optional<at::Tensor>& conv_bias,
    const at::Tensor& A,
    const at::Tensor& starts,
    const std::optional<at::Tensor>& D,
    const std::optional<at::Tensor>& dt_bias,
    const std::optional<at::Tensor>& norm_weight,
    std::int64_t groups,
    double eps,
    std::int64_t norm_group_size,
    bool gate_first,
    double dt_min,
    std::optional<double> dt_max) {
  const Mamba2MixerInputs inputs{
      projected,
      conv_weight,
      conv_bias,
      A,
      starts,
      D,
      {dt_bias, true, dt_min, dt_max.value_or(kNoTimeStepLimit)},
      norm_weight,
      {eps, norm_group_size, gate_first},
      groups};
  check_mamba2_mixer_backward(convolved, inputs);
  return as_tuple(kRun(dout, y, convolved, inputs));
}

Mamba2MixerColumns mamba2_mixer_columns(const at::Tensor& rows_TC, const Mamba2MixerInputs& inputs);

/// The scan's inputs, x, B and C from columns behind the convolution (or gradients of such).
SsdInputs mamba2_mixer_scan(
    const at::Tensor& convolved_TC,
    const at::Tensor& dt_TH,
    const Mamba2MixerInputs& inputs);

} // namespace baton::ops

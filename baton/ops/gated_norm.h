// SPDX-License-Identifier: Apache-2.0
// The gate and grouped root-mean-square norm behind a Mamba-2 scan (Dao and Gu, "Transformers are
// SSMs", 2024, section 7).
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct GatedNormConfig {
  double eps = 1e-5;
  std::int64_t group_size = 0; ///< channels that share a mean square; must divide the channels
  bool gate_first = true;      ///< gate before the norm, or after it
};

/// Gate first: rms_norm(y * silu(z)) * weight. Gate last: rms_norm(y) * weight * silu(z). Without a
/// weight: y * silu(z), no norm.
///
/// `y` and `z` [..., D] are alike: fp64, fp32 or bf16; rows may lie apart. `weight` [D] has their
/// dtype, or is fp32 beside bf16. Each group of `group_size` channels has its own mean square.
/// Computed in fp32 (fp64 for fp64). Registered as `baton::gated_norm`, with gradients for all
/// three. Throws on other shapes and dtypes.
at::Tensor gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config);

struct GatedNormGradients {
  at::Tensor y;
  at::Tensor z;
  at::Tensor weight; ///< [0] without a weight
};

/// Gradients of `gated_norm` for `dout`, the gradient of its output. The weight's is added over
/// fixed blocks of rows in a fixed tree: equal bits for any number of threads.
GatedNormGradients gated_norm_backward(
    const at::Tensor& dout,
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config);

/// What every kernel of `gated_norm` checks first.
void check_gated_norm(
    const at::Tensor& y,
    const at::Tensor& z,
    const std::optional<at::Tensor>& weight,
    const GatedNormConfig& config);

} // namespace baton::ops

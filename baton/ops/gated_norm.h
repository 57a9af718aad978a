// SPDX-License-Identifier: Apache-2.0
// The norm behind a mixer's scan, with its gate: RMSNorm over groups of channels.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct GatedNormOptions {
  double eps = 1e-5;
  std::int64_t group_size = 0; ///< channels that share a mean square; divides the channels
  bool gate_first = true;      ///< norm(y * silu(z)) * w, else norm(y) * w * silu(z)
};

/// y_TD and z_TD fp64, fp32 or bf16 with any row stride, weight_D in their dtype or fp32. Without a
/// weight there is no norm: y * silu(z). Differentiable in all three. Dao and Gu, "Transformers are
/// SSMs", 2024, section 7.2.
at::Tensor gated_norm(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const std::optional<at::Tensor>& weight_D,
    const GatedNormOptions& options);

/// The rules that forward and backward check.
void check_gated_norm(
    const at::Tensor& y_TD,
    const at::Tensor& z_TD,
    const std::optional<at::Tensor>& weight_D,
    double eps,
    std::int64_t group_size);

} // namespace baton::ops

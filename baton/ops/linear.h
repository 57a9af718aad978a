// SPDX-License-Identifier: Apache-2.0
// The linear map of every layer: y = x W^T + bias.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Rows that `matvec` takes at most.
inline constexpr std::int64_t kMatvecRows = 8;

/// y = x weight^T + bias.
///
/// x [..., D], weight [F, D], bias [F]; one dtype (fp64, fp32, bf16). Returns [..., F].
/// Differentiable in all three. On the CPU forward and gradients have equal bits for any number of
/// threads: products are cut by shape, not by threads. Up to `kMatvecRows` rows that need no
/// gradient take `matvec`. Throws when shapes or dtypes disagree.
at::Tensor linear(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F = std::nullopt);

/// The same map for at most `kMatvecRows` rows on the CPU, without gradients: reads the weight
/// once, at the speed of memory, and adds in fp32. x [B, D], weight [F, D], bias [F], all fp32 or
/// all bf16.
at::Tensor matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F = std::nullopt);

/// Throws unless shapes and dtypes are as `linear`, or `matvec`, takes them.
void check_linear(
    const at::Tensor& x,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F);
void check_matvec(
    const at::Tensor& x_BD,
    const at::Tensor& weight_FD,
    const std::optional<at::Tensor>& bias_F);

} // namespace baton::ops

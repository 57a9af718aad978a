// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation of rows (Zhang and Sennrich, "Root mean square layer
// normalization", 2019).
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// y = x / sqrt(mean(x^2) + eps) * weight, the mean taken over the last dim.
///
/// `x` [..., D] is fp64, fp32 or bf16; rows may lie apart. `weight` [D] has the dtype of `x`, or is
/// fp32 beside a bf16 `x`. Statistics are fp32 (fp64 for fp64). Registered as `baton::rms_norm`,
/// with gradients for both. Throws on other shapes and dtypes.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

struct RmsNormGradients {
  at::Tensor x;
  at::Tensor weight;
};

/// Gradients of `rms_norm` for `dy`, the gradient of its output. The weight's is added over fixed
/// blocks of rows in a fixed tree: equal bits for any number of threads.
RmsNormGradients
rms_norm_backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight, double eps);

/// What every kernel of `rms_norm` checks first.
void check_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
// Addition to the residual stream together with the norm that the next layer takes of it: what
// pre-norm layers do between two sublayers (Xiong et al., "On layer normalization in the
// transformer architecture", 2020), in one pass over memory.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

struct AddRmsNormConfig {
  double eps = 1e-5;
  double scale = 1.0; ///< of the update, as residual_multiplier of some models
};

struct AddRmsNormOutput {
  at::Tensor sum;
  at::Tensor normed;
};

/// sum = residual + scale * update, rounded to the dtype of `residual`; normed = rms_norm(sum in
/// the dtype of `update`) * weight, so that the two operators one after the other give the same.
///
/// `update` [..., D] is fp64, fp32 or bf16, `residual` [..., D] is like it, or fp32 beside bf16;
/// rows may lie apart. `weight` [D] has the dtype of `update`, or is fp32 beside bf16. Sums are
/// fp32 (fp64 for fp64). Registered as `baton::add_rms_norm`, with gradients for all three. Throws
/// on other shapes and dtypes.
AddRmsNormOutput add_rms_norm(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    const AddRmsNormConfig& config);

struct AddRmsNormGradients {
  at::Tensor residual;
  at::Tensor update; ///< [0] where it is that of `residual`: the same dtype and a scale of 1
  at::Tensor weight;
};

/// Gradients of `add_rms_norm`, given its sum, for the gradients of its outputs; no `dsum` means
/// zeros. Both ways into the residual stream are added before they are rounded. The weight's is
/// added over fixed blocks of rows in a fixed tree: equal bits for any number of threads.
AddRmsNormGradients add_rms_norm_backward(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    const AddRmsNormConfig& config);

/// What every kernel of `add_rms_norm` checks first.
void check_add_rms_norm(
    const at::Tensor& residual,
    const at::Tensor& update,
    const at::Tensor& weight,
    double eps);

/// The same of its gradients.
void check_add_rms_norm_backward(
    const std::optional<at::Tensor>& dsum,
    const at::Tensor& dnormed,
    const at::Tensor& sum,
    const at::Tensor& weight,
    double eps);

/// Whether the update's gradient is that of the residual.
bool shares_gradient(const at::Tensor& residual, const at::Tensor& update, double scale);

} // namespace baton::ops

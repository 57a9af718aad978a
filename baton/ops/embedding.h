// SPDX-License-Identifier: Apache-2.0
// Rows of a matrix by token id, and the sums of gradients that come back to them.
#pragma once

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// Row tokens[t] of weight for every token.
///
/// weight [V, D] (fp64, fp32, bf16), tokens int64 [T]; returns [T, D] in weight's dtype.
/// Differentiable in weight: gradients of equal ids are added in fp32 (fp64 for fp64), in an order
/// that follows from the ids alone, and rounded once. Throws when shapes or dtypes disagree and, on
/// the CPU, for an id outside [0, V).
at::Tensor embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_T);

/// The gradient of the weight, [V, D] in dout's dtype: row v is the sum of dout's rows of the
/// tokens with id v. dout [T, D] may have any row stride.
at::Tensor embedding_backward(
    const at::Tensor& dout_TD,
    const at::Tensor& tokens_T,
    const c10::SymInt& vocabulary);

/// Throws unless shapes and dtypes are as these functions take them.
void check_embedding(const at::Tensor& weight_VD, const at::Tensor& tokens_T);
void check_embedding_backward(const at::Tensor& dout_TD, const at::Tensor& tokens_T);

} // namespace baton::ops

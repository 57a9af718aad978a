// SPDX-License-Identifier: Apache-2.0
// Cross entropy of a vocabulary, together with the product that makes the logits.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace baton::ops {

/// The label of a token that is not predicted.
inline constexpr std::int64_t kIgnoredLabel = -100;

struct CrossEntropyOutput {
  at::Tensor loss_sum; ///< scalar, the sum of mask * nll; fp32 (fp64 for fp64)
  at::Tensor nll_T; ///< -log of the label's probability, 0 for ignored labels; not differentiable
};

/// Negative log likelihood of labels under softmax(logit_scale * hidden weight^T).
///
/// hidden [T, D], weight [V, D] in one dtype (fp64, fp32, bf16); labels int64 [T], each in [0, V)
/// or `kIgnoredLabel`; mask [T], any floating dtype, weighs tokens (a token of weight 0 still gets
/// its nll). The logits of all tokens never exist at once: tokens go through in blocks of
/// `block_tokens`, chosen by the vocabulary's size where it is 0. Logits, softmax and sums are fp32
/// (fp64 for fp64). When hidden or weight needs a gradient, both gradients are computed in the same
/// pass, so that backward only scales them. Throws when shapes or dtypes disagree and, on the CPU,
/// for a label out of range.
CrossEntropyOutput cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T = std::nullopt,
    double logit_scale = 1.0,
    std::int64_t block_tokens = 0);

/// What `cross_entropy` and its kernels ask of their inputs, but for the labels' range.
void check_cross_entropy(
    const at::Tensor& hidden_TD,
    const at::Tensor& weight_VD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T,
    std::int64_t block_tokens);

/// Tokens a block: `block_tokens`, or where it is 0 what keeps a block of fp32 logits within 32
/// MiB.
std::int64_t cross_entropy_block(std::int64_t block_tokens, std::int64_t vocabulary);

} // namespace baton::ops

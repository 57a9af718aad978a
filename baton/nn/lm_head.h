// SPDX-License-Identifier: Apache-2.0
// The end of a language model: final norm, and the product with the vocabulary's matrix.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "baton/nn/embedding.h"
#include "baton/nn/parameter.h"

namespace baton::nn {

/// Sums over the tokens of a microbatch; the caller divides by its global count.
struct LossOutput {
  at::Tensor loss_sum; ///< scalar, differentiable: sum of mask * negative log-likelihood
  at::Tensor nll_T;    ///< negative log-likelihood of each token, 0 without a label; no gradient
};

struct LmHeadConfig {
  double norm_eps = 1e-5;
  double logits_divisor = 1.0;
};

class LmHead {
 public:
  /// `tied` is the embedding whose weights the head uses, or null for a matrix of its own.
  LmHead(
      const VocabularyOptions& options,
      const LmHeadConfig& config,
      const Embedding* tied,
      ParameterStore& store);

  /// hidden_TD of the stack -> [T, D] behind the final norm, in the model's dtype.
  at::Tensor norm(const at::Tensor& hidden_TD) const;

  /// Normed hidden_TD -> logits [T, V] in the model's dtype. Throws where ranks share the
  /// vocabulary.
  at::Tensor logits(const at::Tensor& hidden_TD) const;

  /// Normed hidden_TD, of several ranks each one's rows, of all tokens' labels_T and mask_T; all
  /// ranks get the loss of all tokens. labels_T int64, -100 where a token has no label; mask_T fp32
  /// weighs tokens, absent means 1.
  LossOutput loss(
      const at::Tensor& hidden_TD,
      const at::Tensor& labels_T,
      const std::optional<at::Tensor>& mask_T) const;

 private:
  /// The hidden states whose product with the weights is the logits. Divided here and not behind
  /// the product, so that the loss sees the same logits without holding them.
  at::Tensor divided(const at::Tensor& hidden_TD) const;

  LmHeadConfig config_;
  const Parameter& norm_;
  const Parameter& weight_;
  parallel::Group tensor_ranks_;
  VocabularyShare share_;
};

} // namespace baton::nn

// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/lm_head.h"

#include <ATen/ATen.h>

#include "baton/ops/cross_entropy.h"
#include "baton/ops/linear.h"
#include "baton/ops/rms_norm.h"

namespace baton::nn {

LmHead::LmHead(
    const VocabularyOptions& options,
    const LmHeadConfig& config,
    const Embedding* tied,
    ParameterStore& store)
    : config_(config),
      norm_(store.declare(
          {.name = "final_norm.weight",
           .shape = {options.width},
           .cut = {},
           .start = start_constant(1.0),
           .weight_decay = false})),
      weight_(
          tied != nullptr ? tied->weight()
                          : declare_vocabulary_matrix("lm_head.weight", options, store)),
      tensor_ranks_(store.tensor_ranks()),
      share_(vocabulary_share(options.vocabulary, tensor_ranks_)) {}

at::Tensor LmHead::norm(const at::Tensor& hidden_TD) const {
  return ops::rms_norm(hidden_TD.to(norm_.value.scalar_type()), norm_.value, config_.norm_eps);
}

at::Tensor LmHead::divided(const at::Tensor& hidden_TD) const {
  return config_.logits_divisor == 1.0 ? hidden_TD : hidden_TD / config_.logits_divisor;
}

at::Tensor LmHead::logits(const at::Tensor& hidden_TD) const {
  TORCH_CHECK(
      tensor_ranks_.alone(),
      "logits need the whole vocabulary on one rank: parallel.tp is ",
      tensor_ranks_.size());
  return ops::linear(divided(hidden_TD), weight_.value);
}

LossOutput LmHead::loss(
    const at::Tensor& hidden_TD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T) const {
  const ops::CrossEntropyOutput output =
      tensor_ranks_.alone()
          ? ops::cross_entropy(divided(hidden_TD), weight_.value, labels_T, mask_T)
          : vocabulary_loss(
                divided(hidden_TD), weight_.value, labels_T, mask_T, share_, tensor_ranks_);
  return {.loss_sum = output.loss_sum, .nll_T = output.nll_T};
}

} // namespace baton::nn

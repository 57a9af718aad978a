// SPDX-License-Identifier: Apache-2.0
// A hybrid language model: embedding, stack, final norm, head.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/model/config.h"
#include "baton/model/stack.h"
#include "baton/nn/embedding.h"
#include "baton/nn/lm_head.h"
#include "baton/nn/parameter.h"
#include "baton/nn/step_context.h"

namespace baton::model {

class HybridModel {
 public:
  /// Checks the configuration and declares the parameters; `parameters()` then initialises or
  /// allocates them. `tensor_ranks` divide the model among them, each matrix. Throws when a size or
  /// the pattern is wrong, or sizes do not go among so many ranks.
  explicit HybridModel(const ModelConfig& config, parallel::Group tensor_ranks = {});

  /// tokens_T int64 -> hidden_TD behind the final norm. Throws on an id outside the vocabulary.
  /// Ranks that share the model all get the same tokens and give their rows of hidden_TD each, as
  /// `parallel::even_share` divides them; they know only `Form::kTrain`.
  at::Tensor hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const;

  /// hidden_TD -> logits [T, V] in the model's dtype. Throws where ranks share the model.
  at::Tensor logits(const at::Tensor& hidden_TD) const;

  /// hidden_TD as `hidden` gave it; labels and mask of all tokens, the loss too, on every rank.
  /// labels_T int64, -100 where a token has no label; mask_T fp32 weighs tokens, absent means 1.
  nn::LossOutput loss(
      const at::Tensor& hidden_TD,
      const at::Tensor& labels_T,
      const std::optional<at::Tensor>& mask_T) const;

  const ModelConfig& config() const { return config_; }
  nn::ParameterStore& parameters() { return store_; }
  const nn::ParameterStore& parameters() const { return store_; }
  at::Device device() const { return store_.device(); } ///< of the parameters
  std::vector<nn::StateSpec> states() const { return stack_.states(); }

 private:
  ModelConfig config_;
  nn::ParameterStore store_;
  nn::Embedding embedding_;
  Stack stack_;
  nn::LmHead head_;
};

} // namespace baton::model

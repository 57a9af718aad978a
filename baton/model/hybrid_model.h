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
  /// allocates them. Throws when a size or the pattern is wrong.
  explicit HybridModel(const ModelConfig& config);

  /// tokens_T int64 -> hidden_TD behind the final norm. Throws on an id outside the vocabulary.
  at::Tensor hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const;

  /// hidden_TD -> logits [T, V] in the model's dtype.
  at::Tensor logits(const at::Tensor& hidden_TD) const;

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

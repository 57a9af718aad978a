// SPDX-License-Identifier: Apache-2.0
// A hybrid language model: embedding, stack, final norm, head; or the stages of it that one rank of
// a pipeline holds.
#pragma once

#include <cstdint>
#include <deque>
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

/// One rank of a pipeline. By default there is no pipeline, and any pipes of the pattern count for
/// nothing.
struct PipelinePlace {
  std::int64_t ranks = 1;
  std::int64_t virtual_stages = 1; ///< stages a rank
  std::int64_t rank = 0;

  std::int64_t stages() const { return ranks * virtual_stages; }
};

class HybridModel {
 public:
  /// Checks the configuration and declares the parameters that the rank holds, with the names and
  /// start values that they have in the whole model; `parameters()` then initialises or allocates
  /// them. `tensor_ranks` divide the model among them, each matrix; the ranks of a pipeline its
  /// layers: the pattern's pipes say which, and without pipes all stages get equally many. Throws
  /// when a size or the pattern is wrong, or sizes do not go among so many ranks.
  explicit HybridModel(
      const ModelConfig& config,
      parallel::Group tensor_ranks = {},
      const PipelinePlace& place = {});

  /// The whole model: tokens_T int64 -> hidden_TD behind the final norm. Throws on an id outside
  /// the vocabulary. Ranks that share its matrices all get the same tokens and give their rows of
  /// hidden_TD each, as `parallel::even_share` divides them; they know only `Form::kTrain`.
  at::Tensor hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const;

  /// One of this rank's stages, which may have no layers. `input` is tokens_T in the model's first
  /// stage, else the output of the stage before; the output of the last is behind the final norm.
  at::Tensor run_stage(
      std::int64_t virtual_stage,
      const at::Tensor& input,
      const nn::StepContext& context) const;

  /// What stages hand on, whatever they hold: [T, D] of this dtype, of ranks that share matrices
  /// each one's rows.
  at::ScalarType stream_dtype() const;

  /// hidden_TD -> logits [T, V] in the model's dtype. As `loss`, for the rank of the last stage.
  /// Throws where ranks share the model's matrices.
  at::Tensor logits(const at::Tensor& hidden_TD) const;

  /// hidden_TD as `hidden` gave it; labels and mask of all tokens, the loss too, on every rank.
  /// labels_T int64, -100 where a token has no label; mask_T fp32 weighs tokens, absent means 1.
  nn::LossOutput loss(
      const at::Tensor& hidden_TD,
      const at::Tensor& labels_T,
      const std::optional<at::Tensor>& mask_T) const;

  const ModelConfig& config() const { return config_; }
  const PipelinePlace& place() const { return place_; }
  bool holds_first_stage() const { return place_.rank == 0; }
  bool holds_last_stage() const { return place_.rank == place_.ranks - 1; }

  /// The embedding's matrix where it is tied and the first and the last stage are on two ranks,
  /// which both hold it; null elsewhere. Its gradients are to be summed over the two.
  const nn::Parameter* shared_matrix() const;
  nn::ParameterStore& parameters() { return store_; }
  const nn::ParameterStore& parameters() const { return store_; }
  at::Device device() const { return store_.device(); } ///< of the parameters
  std::vector<nn::StateSpec> states() const;

 private:
  at::Tensor embed(const at::Tensor& tokens_T) const;
  const nn::LmHead& head() const;

  ModelConfig config_;
  PipelinePlace place_;
  nn::ParameterStore store_;
  std::optional<nn::Embedding> embedding_; ///< in the first stage, if tied in the last one too
  std::deque<Stack> stages_;               ///< this rank's, in the model's order
  std::optional<nn::LmHead> head_;         ///< in the last stage
};

} // namespace baton::model

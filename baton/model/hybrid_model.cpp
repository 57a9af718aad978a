// SPDX-License-Identifier: Apache-2.0
#include "baton/model/hybrid_model.h"

#include <utility>

#include <ATen/ATen.h>

#include "baton/model/pattern.h"

namespace baton::model {
namespace {

nn::VocabularyOptions vocabulary_options(const ModelConfig& config) {
  return {
      .vocabulary = config.vocabulary,
      .width = config.width,
      .start_deviation = config.start_deviation};
}

ModelConfig checked(const ModelConfig& config) {
  TORCH_CHECK(config.vocabulary > 0, "model.vocabulary must be positive, got ", config.vocabulary);
  TORCH_CHECK(!config.pattern.empty(), "model.pattern must not be empty");
  return config;
}

/// The main pattern's layers, one symbol each.
std::string layers_of(const ModelConfig& config) {
  const LayerPattern pattern = parse_pattern(config.pattern);
  TORCH_CHECK(
      pattern.mtp_depth == 0,
      "model.pattern: a multi-token-prediction part ('/') cannot be built yet: ",
      config.pattern);
  return pattern.layers;
}

Stack make_stack(const ModelConfig& config, nn::ParameterStore& store) {
  const std::string layers = layers_of(config);
  return Stack(layers, config.layer_config(static_cast<std::int64_t>(layers.size())), store);
}

} // namespace

HybridModel::HybridModel(const ModelConfig& config, parallel::Group tensor_ranks)
    : config_(checked(config)),
      store_(std::move(tensor_ranks)),
      embedding_(vocabulary_options(config_), store_),
      stack_(make_stack(config_, store_)),
      head_(
          vocabulary_options(config_),
          {.norm_eps = config_.norm_eps, .logits_divisor = config_.logits_divisor},
          config_.tied ? &embedding_ : nullptr,
          store_) {}

at::Tensor HybridModel::hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const {
  TORCH_CHECK(
      tokens_T.dim() == 1 && tokens_T.size(0) == context.layout.num_tokens,
      "the layout holds ",
      context.layout.num_tokens,
      " tokens, the batch ",
      tokens_T.sizes());
  TORCH_CHECK(
      context.form == nn::Form::kTrain || store_.tensor_ranks().alone(),
      "a model that ranks share has no cache: parallel.tp is ",
      store_.tensor_ranks().size());
  at::Tensor hidden_TD = embedding_(tokens_T);
  if (config_.embedding_multiplier != 1.0) {
    hidden_TD = hidden_TD * config_.embedding_multiplier;
  }
  if (config_.residual_fp32) {
    hidden_TD = hidden_TD.to(at::promote_types(hidden_TD.scalar_type(), at::kFloat));
  }
  return head_.norm(stack_.forward(hidden_TD, context).hidden_TD);
}

at::Tensor HybridModel::logits(const at::Tensor& hidden_TD) const {
  return head_.logits(hidden_TD);
}

nn::LossOutput HybridModel::loss(
    const at::Tensor& hidden_TD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T) const {
  return head_.loss(hidden_TD, labels_T, mask_T);
}

} // namespace baton::model

// SPDX-License-Identifier: Apache-2.0
#include "baton/model/hybrid_model.h"

#include <ATen/ATen.h>

#include "baton/model/pattern.h"
#include "baton/ops/cross_entropy.h"
#include "baton/ops/linear.h"
#include "baton/ops/rms_norm.h"

namespace baton::model {
namespace {

const nn::Parameter&
declare_matrix(nn::ParameterStore& store, const ModelConfig& config, const std::string& name) {
  return store.declare(
      {.name = name,
       .shape = {config.vocabulary, config.width},
       .cut = {.dim = 0, .parts = {}},
       .start = nn::start_normal(config.start_deviation)});
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

HybridModel::HybridModel(const ModelConfig& config)
    : config_(checked(config)),
      embedding_(declare_matrix(store_, config_, "embedding.weight")),
      stack_(make_stack(config_, store_)),
      final_norm_(store_.declare(
          {.name = "final_norm.weight",
           .shape = {config_.width},
           .cut = {},
           .start = nn::start_constant(1.0),
           .weight_decay = false})) {
  if (!config_.tied) {
    lm_head_ = &declare_matrix(store_, config_, "lm_head.weight");
  }
}

at::Tensor HybridModel::hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const {
  TORCH_CHECK(
      tokens_T.dim() == 1 && tokens_T.size(0) == context.layout.num_tokens,
      "the layout holds ",
      context.layout.num_tokens,
      " tokens, the batch ",
      tokens_T.sizes());
  at::Tensor hidden_TD = at::embedding(embedding_.value, tokens_T);
  if (config_.residual_fp32) {
    hidden_TD = hidden_TD.to(at::promote_types(hidden_TD.scalar_type(), at::kFloat));
  }
  const StackOutput output = stack_.forward(hidden_TD, context);
  return ops::rms_norm(
      output.hidden_TD.to(final_norm_.value.scalar_type()), final_norm_.value, config_.norm_eps);
}

at::Tensor HybridModel::logits(const at::Tensor& hidden_TD) const {
  return ops::linear(hidden_TD, head().value, std::nullopt);
}

LossOutput HybridModel::loss(
    const at::Tensor& hidden_TD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T) const {
  const ops::CrossEntropyOutput output =
      ops::cross_entropy(hidden_TD, head().value, labels_T, mask_T);
  return {.loss_sum = output.loss_sum, .nll_T = output.nll_T};
}

} // namespace baton::model

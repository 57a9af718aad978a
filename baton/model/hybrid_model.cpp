// SPDX-License-Identifier: Apache-2.0
#include "baton/model/hybrid_model.h"

#include <utility>

#include <ATen/ATen.h>

#include "baton/model/pattern.h"
#include "baton/parallel/tensor_rows.h"

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

LayerPattern checked_pattern(const ModelConfig& config) {
  LayerPattern pattern = parse_pattern(config.pattern);
  TORCH_CHECK(
      pattern.mtp_depth == 0,
      "model.pattern: a multi-token-prediction part ('/') cannot be built yet: ",
      config.pattern);
  return pattern;
}

std::vector<PipelineStage> stages_at(const LayerPattern& pattern, const PipelinePlace& place) {
  if (place.stages() == 1) {
    return {{.rank = 0, .virtual_stage = 0, .layers = pattern.layers, .offset = 0}};
  }
  TORCH_CHECK(
      place.rank >= 0 && place.rank < place.ranks,
      "pipeline rank must be in [0, ",
      place.ranks,
      "): ",
      place.rank);
  PipelineSplit split;
  split.ranks = place.ranks;
  split.virtual_stages = place.virtual_stages;
  std::vector<PipelineStage> stages = split_pipeline(pattern, split);
  std::erase_if(stages, [&](const PipelineStage& stage) { return stage.rank != place.rank; });
  return stages;
}

} // namespace

HybridModel::HybridModel(
    const ModelConfig& config,
    parallel::Group tensor_ranks,
    const PipelinePlace& place)
    : config_(checked(config)), place_(place), store_(std::move(tensor_ranks)) {
  const LayerPattern pattern = checked_pattern(config_);
  const std::vector<PipelineStage> stages = stages_at(pattern, place);
  if (holds_first_stage() || (holds_last_stage() && config_.tied)) {
    embedding_.emplace(vocabulary_options(config_), store_);
  }
  const nn::LayerConfig layer_config = config_.layer_config(pattern.num_layers());
  for (const PipelineStage& stage : stages) {
    stages_.emplace_back(stage.layers, layer_config, store_, stage.offset);
  }
  if (holds_last_stage()) {
    const nn::LmHeadConfig head{
        .norm_eps = config_.norm_eps, .logits_divisor = config_.logits_divisor};
    head_.emplace(vocabulary_options(config_), head, config_.tied ? &*embedding_ : nullptr, store_);
  }
}

at::ScalarType HybridModel::stream_dtype() const {
  const at::ScalarType dtype = config_.scalar_type();
  return config_.residual_fp32 ? at::promote_types(dtype, at::kFloat) : dtype;
}

at::Tensor HybridModel::embed(const at::Tensor& tokens_T) const {
  at::Tensor hidden_TD = (*embedding_)(tokens_T);
  if (config_.embedding_multiplier != 1.0) {
    hidden_TD = hidden_TD * config_.embedding_multiplier;
  }
  if (config_.residual_fp32) {
    hidden_TD = hidden_TD.to(at::promote_types(hidden_TD.scalar_type(), at::kFloat));
  }
  return hidden_TD;
}

at::Tensor HybridModel::run_stage(
    std::int64_t virtual_stage,
    const at::Tensor& input,
    const nn::StepContext& context) const {
  const bool first = holds_first_stage() && virtual_stage == 0;
  const bool last = holds_last_stage() && virtual_stage == place_.virtual_stages - 1;
  TORCH_CHECK(
      context.form == nn::Form::kTrain || store_.tensor_ranks().alone(),
      "a model that ranks share has no cache: parallel.tp is ",
      store_.tensor_ranks().size());
  const parallel::Group& ranks = store_.tensor_ranks();
  const std::int64_t rows = context.layout.num_tokens;
  TORCH_CHECK(
      first ? input.dim() == 1 && input.size(0) == rows
            : input.dim() == 2 &&
                  input.size(0) == parallel::even_share(rows, ranks.rank(), ranks.size()).count,
      "the layout holds ",
      context.layout.num_tokens,
      " tokens, the batch ",
      input.sizes());
  const at::Tensor hidden_TD = stages_.at(static_cast<std::size_t>(virtual_stage))
                                   .forward(first ? embed(input) : input, context)
                                   .hidden_TD;
  return last ? head().norm(hidden_TD) : hidden_TD;
}

at::Tensor HybridModel::hidden(const at::Tensor& tokens_T, const nn::StepContext& context) const {
  TORCH_CHECK(place_.ranks == 1, "one rank of a pipeline holds a part of the model only");
  at::Tensor stream = tokens_T;
  for (std::int64_t stage = 0; stage < place_.virtual_stages; ++stage) {
    stream = run_stage(stage, stream, context);
  }
  return stream;
}

const nn::LmHead& HybridModel::head() const {
  TORCH_CHECK(head_.has_value(), "the head is on the rank of the last stage only");
  return *head_;
}

const nn::Parameter* HybridModel::shared_matrix() const {
  const bool at_one_end = holds_first_stage() != holds_last_stage();
  return config_.tied && at_one_end ? &embedding_->weight() : nullptr;
}

std::vector<nn::StateSpec> HybridModel::states() const {
  std::vector<nn::StateSpec> specs;
  for (const Stack& stage : stages_) {
    for (nn::StateSpec& spec : stage.states()) {
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

at::Tensor HybridModel::logits(const at::Tensor& hidden_TD) const {
  return head().logits(hidden_TD);
}

nn::LossOutput HybridModel::loss(
    const at::Tensor& hidden_TD,
    const at::Tensor& labels_T,
    const std::optional<at::Tensor>& mask_T) const {
  return head().loss(hidden_TD, labels_T, mask_T);
}

} // namespace baton::model

// SPDX-License-Identifier: Apache-2.0
#include "baton/train/evaluation.h"

#include <ATen/ATen.h>

#include "baton/train/model_ranks.h"

namespace baton::train {
namespace {

std::int64_t count_bytes(const Microbatch& microbatch, const at::Tensor& token_bytes_V) {
  at::Tensor counted = microbatch.labels_T.ge(0);
  if (microbatch.mask_T) {
    counted = counted.logical_and(microbatch.mask_T->gt(0));
  }
  const at::Tensor labels = microbatch.labels_T.masked_select(counted);
  return token_bytes_V.index_select(0, labels).sum().item<std::int64_t>();
}

/// The microbatches of one dp rank, a few of them at once through the model.
class Evaluation {
 public:
  Evaluation(
      const model::HybridModel& model,
      const parallel::Mesh& mesh,
      const parallel::ContextRules& rules)
      : model_(model),
        mesh_(mesh),
        rules_(rules),
        wave_(model.place().ranks == 1 ? 1 : kWavePerRank * model.place().ranks) {}

  void add(const Microbatch& microbatch) {
    const int num_dp = mesh_.shape().along(parallel::Axis::kData);
    const auto number = static_cast<int>(sums_.size()) % num_dp;
    sums_.push_back(at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(model_.device())));
    if (number == mesh_.coordinate(parallel::Axis::kData)) {
      waiting_.push_back(tokens_of_rank(microbatch, mesh_, rules_, model_.device()));
      places_.push_back(sums_.size() - 1);
    }
    if (static_cast<std::int64_t>(waiting_.size()) == wave_) {
      run();
    }
  }

  /// Of each microbatch; on every rank its own part.
  const std::vector<at::Tensor>& finish() {
    run();
    return sums_;
  }

 private:
  // Of microbatches in a pipeline at once: its ends idle for 1 of 1 + this.
  static constexpr std::int64_t kWavePerRank = 8;

  void run() {
    if (waiting_.empty()) {
      return;
    }
    const std::vector<at::Tensor> found = evaluate_microbatches(model_, waiting_, mesh_);
    for (std::size_t i = 0; i < found.size(); ++i) {
      sums_[places_[i]] = found[i];
    }
    waiting_.clear();
    places_.clear();
  }

  const model::HybridModel& model_;
  const parallel::Mesh& mesh_;
  const parallel::ContextRules& rules_;
  std::int64_t wave_;
  std::vector<at::Tensor> sums_; // zero for microbatches of other ranks
  std::vector<RankTokens> waiting_;
  std::vector<std::size_t> places_; // of those in `sums_`
};

} // namespace

std::vector<at::Tensor> evaluate_microbatches(
    const model::HybridModel& model,
    const std::vector<RankTokens>& microbatches,
    const parallel::Mesh& mesh) {
  const auto options = at::TensorOptions().dtype(at::kDouble).device(model.device());
  std::vector<at::Tensor> sums(microbatches.size(), at::zeros({}, options));
  std::vector<model::PipelineMicrobatch> inputs;
  inputs.reserve(microbatches.size());
  for (const RankTokens& tokens : microbatches) {
    inputs.push_back(tokens.input(tokens.context()));
  }
  const auto found = [&](int microbatch, const nn::LossOutput& output) {
    if (mesh.coordinate(parallel::Axis::kTensor) == 0) { // all along tp have the same loss
      sums[static_cast<std::size_t>(microbatch)] = output.loss_sum.to(at::kDouble);
    }
  };
  run_evaluation(model, mesh, inputs.size(), model::evaluation_works(model, inputs, found));
  return sums;
}

EvaluationResult evaluate(
    const model::HybridModel& model,
    const std::shared_ptr<const IndexedDataset>& dataset,
    const EvaluationOptions& options,
    const parallel::Mesh& mesh,
    const parallel::ContextRules& rules) {
  EvalLoader loader(dataset, options.tokens_per_microbatch, model.config().vocabulary);
  EvaluationResult result;
  Evaluation evaluation(model, mesh, rules);
  std::int64_t tokens = 0;
  const at::Tensor token_bytes_V = at::tensor(options.token_bytes, at::kLong);
  while (auto microbatch = loader.next()) {
    evaluation.add(*microbatch);
    result.targets += microbatch->targets;
    if (!options.token_bytes.empty()) {
      result.bytes += count_bytes(*microbatch, token_bytes_V);
    }
    tokens += microbatch->layout.num_tokens;
    if (options.max_tokens > 0 && tokens >= options.max_tokens) {
      break;
    }
  }
  const std::vector<at::Tensor>& sums = evaluation.finish();
  if (sums.empty()) {
    return result;
  }
  const at::Tensor all = at::stack(sums);
  mesh.all().all_reduce_(all);
  const at::Tensor measured = all.cpu();
  for (std::int64_t i = 0; i < measured.numel(); ++i) {
    result.nll_sum += measured.const_data_ptr<double>()[i];
  }
  return result;
}

} // namespace baton::train

// SPDX-License-Identifier: Apache-2.0
#include "baton/train/evaluation.h"

#include <ATen/ATen.h>

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

} // namespace

at::Tensor evaluate_microbatch(const model::HybridModel& model, const RankTokens& tokens) {
  const at::NoGradGuard no_grad;
  const Microbatch& own = tokens.microbatch;
  const at::Tensor hidden_TD = model.hidden(own.tokens_T, tokens.context());
  return model.loss(hidden_TD, own.labels_T, own.mask_T).loss_sum.to(at::kDouble);
}

EvaluationResult evaluate(
    const model::HybridModel& model,
    const std::shared_ptr<const IndexedDataset>& dataset,
    const EvaluationOptions& options,
    const parallel::Mesh& mesh,
    const parallel::ContextRules& rules) {
  EvalLoader loader(dataset, options.tokens_per_microbatch, model.config().vocabulary);
  EvaluationResult result;
  const std::int64_t num_dp = mesh.shape().along(parallel::Axis::kData);
  const std::int64_t own = mesh.coordinate(parallel::Axis::kData);
  const at::Tensor nothing =
      at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(model.device()));
  std::vector<at::Tensor> sums; // of each microbatch, zero for those of other ranks
  std::int64_t tokens = 0;
  const at::Tensor token_bytes_V = at::tensor(options.token_bytes, at::kLong);
  while (auto microbatch = loader.next()) {
    const bool is_own = static_cast<std::int64_t>(sums.size()) % num_dp == own;
    sums.push_back(
        is_own
            ? evaluate_microbatch(model, tokens_of_rank(*microbatch, mesh, rules, model.device()))
            : nothing);
    result.targets += microbatch->targets;
    if (!options.token_bytes.empty()) {
      result.bytes += count_bytes(*microbatch, token_bytes_V);
    }
    tokens += microbatch->layout.num_tokens;
    if (options.max_tokens > 0 && tokens >= options.max_tokens) {
      break;
    }
  }
  if (sums.empty()) {
    return result;
  }
  const at::Tensor all = at::stack(sums);
  mesh.replicas().all_reduce_(all);
  const at::Tensor measured = all.cpu();
  for (std::int64_t i = 0; i < measured.numel(); ++i) {
    result.nll_sum += measured.const_data_ptr<double>()[i];
  }
  return result;
}

} // namespace baton::train

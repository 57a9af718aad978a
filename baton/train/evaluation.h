// SPDX-License-Identifier: Apache-2.0
// Loss on held-out data.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/data/indexed_dataset.h"
#include "baton/data/loader.h"
#include "baton/model/hybrid_model.h"
#include "baton/parallel/mesh.h"
#include "baton/train/rank_tokens.h"

namespace baton::train {

struct EvaluationOptions {
  std::int64_t tokens_per_microbatch = 4096;
  std::int64_t max_tokens = 0; ///< stop behind the microbatch that reaches it; 0 reads all
  std::vector<std::int64_t> token_bytes = {}; ///< bytes of text of every id; empty counts none
};

struct EvaluationResult {
  double nll_sum = 0.0;     ///< nats over the labels that count
  std::int64_t targets = 0; ///< labels that count
  std::int64_t bytes = 0;   ///< of text that these labels stand for, by `token_bytes`

  double loss() const { return targets == 0 ? 0.0 : nll_sum / static_cast<double>(targets); }
};

/// Of each microbatch the negative log-likelihood summed over its tokens, fp64 on the model's
/// device, without gradients; does not wait for it. All ranks of a pipeline call it at once, and
/// the ranks' numbers add up to the whole: some have zeros.
std::vector<at::Tensor> evaluate_microbatches(
    const model::HybridModel& model,
    const std::vector<RankTokens>& microbatches,
    const parallel::Mesh& mesh);

/// Runs the documents of a dataset in their own order through the model, without gradients. The dp
/// ranks of `mesh` take the microbatches in turn; the sum is in the microbatches' order on each of
/// them, so that any number of them gives the same bits. Its other ranks share each microbatch.
EvaluationResult evaluate(
    const model::HybridModel& model,
    const std::shared_ptr<const IndexedDataset>& dataset,
    const EvaluationOptions& options,
    const parallel::Mesh& mesh = {},
    const parallel::ContextRules& rules = {});

} // namespace baton::train

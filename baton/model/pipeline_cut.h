// SPDX-License-Identifier: Apache-2.0
// Where a pipeline cuts a model: what its layers cost, and the cut with the fastest slowest stage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "baton/model/config.h"
#include "baton/parallel/pipeline.h"

namespace baton::model {

/// Work of the parts of a model for one token, forward and backward, counted in operations of a
/// forward product of matrices: what takes as long as n of them counts n. The rates beside it are
/// those that docs/benchmarks gives for an H100; other devices differ, the proportions less so.
struct ModelCosts {
  std::vector<double> layers; ///< in the main pattern's order
  double embedding = 0.0;
  double head = 0.0; ///< with the final norm and the loss
};

/// `tokens` is the length over which attention attends: that of a microbatch, as if it were one
/// document. Throws `Error` for a kind of layer that cannot be built yet.
ModelCosts estimate_costs(const ModelConfig& config, std::int64_t tokens);

/// Layers of each of `stages` stages in order, some maybe none, so that the slowest stage (the
/// embedding is in the first, the head in the last) is as fast as it can be, and among those cuts
/// the sum of squares of the stages' costs the smallest.
std::vector<std::int64_t> cut_layers(const ModelCosts& costs, std::int64_t stages);

struct PipelineCut {
  std::int64_t ranks = 1;
  std::int64_t virtual_stages = 1;
  std::int64_t tokens_per_microbatch = 4096;
};

/// The pattern with the pipes that a run uses, for its resolved recipe: its own where it has some,
/// which must give ranks x virtual stages segments (`Error` otherwise), else those of `cut_layers`.
/// One stage needs none and keeps the pattern as it is.
std::string resolve_pipes(const ModelConfig& config, const PipelineCut& cut);

/// Of a pattern that `resolve_pipes` gave: what its stages cost, for
/// `parallel::estimate_pipeline`; a third of a stage is forward.
parallel::PipelineCosts stage_costs(const ModelConfig& config, const PipelineCut& cut);

} // namespace baton::model

// SPDX-License-Identifier: Apache-2.0
// What all ranks learn from each other in a step, in one reduction.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/parallel/grad_buckets.h"
#include "baton/parallel/mesh.h"

namespace baton::train {

/// What a rank has measured of a step.
struct StepParts {
  std::vector<at::Tensor> losses; ///< of its microbatches, fp64 without dims, in their order
  std::int64_t first = 0;         ///< number of the first of them in the step
  std::int64_t microbatches = 0;  ///< of the step, on all ranks
  bool stop = false;              ///< whether it was asked to stop
};

struct StepSums {
  double loss = 0.0;  ///< added in the order of the microbatches: the same bits on any mesh
  bool stop = false;  ///< whether any rank was asked to
  at::Tensor squares; ///< of each parameter's whole gradient, fp64 on the CPU
};

/// Adds up losses, squares of gradients and stop flags over the ranks that hold the same
/// parameters.
class StepReduction {
 public:
  /// Both must outlive this.
  StepReduction(const parallel::GradBuckets& gradients, const parallel::Group& replicas);

  /// Begins the squares of the gradients that this rank owns, and returns when all ranks' parts are
  /// added up: the one place where a step waits for the device. Throws PeerError when a rank is
  /// gone.
  StepSums sum(const StepParts& parts) const;

 private:
  at::Tensor own_squares(c10::Device device) const;
  at::Tensor squares_by_parameter(const at::Tensor& places) const;

  const parallel::GradBuckets& gradients_;
  const parallel::Group& replicas_;
  std::vector<parallel::SquaresCell> cells_;
  at::Tensor places_; ///< of `cells_`, int64 on the CPU
};

} // namespace baton::train

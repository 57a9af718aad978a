// SPDX-License-Identifier: Apache-2.0
// What all ranks learn from each other in a step, in one reduction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "baton/model/model_share.h"
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
  double loss = 0.0;  ///< added in the order of the microbatches: the same bits on any dp ranks
  bool stop = false;  ///< whether any rank was asked to
  at::Tensor squares; ///< of each whole gradient of the whole model, fp64 on the CPU
};

/// Adds up losses, squares of gradients and stop flags over all ranks of a run.
class StepReduction {
 public:
  /// All must outlive this. All ranks make it at once, and tell each other which parameters they
  /// have.
  StepReduction(
      const parallel::GradBuckets& gradients,
      const model::ModelShare& share,
      const parallel::Mesh& mesh,
      c10::Device device);

  /// Begins the squares of the gradients that this rank owns, and returns when all ranks' parts are
  /// added up: the one place where a step waits for the device. Throws PeerError when a rank is
  /// gone.
  StepSums sum(const StepParts& parts) const;

  /// The norm of all gradients. Throws RunError on all ranks where one is not finite, naming its
  /// parameter.
  double checked_norm(const StepSums& sums) const;

 private:
  /// What this rank sums of one cell of the plan.
  struct Cell {
    std::vector<parallel::BucketSlice> slices; ///< its values that this rank counts
    std::size_t place = 0;                     ///< among the places of this rank's parameters
  };

  void make_cells();
  void exchange_places();
  at::Tensor own_squares() const;
  at::Tensor squares_by_parameter(const at::Tensor& places) const;
  [[noreturn]] void report_bad_values(std::size_t parameter) const;

  const parallel::GradBuckets& gradients_;
  const model::ModelShare& share_;
  const parallel::Mesh& mesh_;
  c10::Device device_;
  std::vector<Cell> cells_;
  /// The parameter of the whole model of each place of a sum of squares. Ranks that hold the same
  /// parameters have the same places, those of others follow each other.
  std::vector<std::size_t> parameter_of_place_;
  std::int64_t first_place_ = 0; ///< of this rank's
};

} // namespace baton::train

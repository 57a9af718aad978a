// SPDX-License-Identifier: Apache-2.0
// A training step on a mesh in numbers: what each pipeline rank holds, does and sends.
#pragma once

#include <cstdint>
#include <vector>

#include "baton/train/layer_costs.h"
#include "baton/train/plan.h"

namespace baton::train {

/// Microbatches that are between their passes on a pipeline rank, at most: min(m, p - r) on rank r
/// of p (1F1B), or min(m v, 2 (p - r - 1) + (v - 1) p + 1) of its v stages (interleaved), over v.
double microbatches_alive(const PlanMesh& mesh, std::int64_t microbatches, std::int64_t rank);

/// The model's own operations for one token, both passes: products, causal attention, scan.
double operations_per_token(const Workload& workload);

/// Seconds of both passes of a layer in one microbatch, without other ranks.
TimePlan layer_time(const LayerCosts& costs, const GpuInfo& gpu, bool fp32);

/// The formulas behind a plan. Arguments must outlive it, and fit together: see `refusal`.
///
/// Memory: weights in the model's dtype; gradients in fp32, or in the model's dtype where one
/// microbatch of one rank is all there is, and as many partial sums as `train.deterministic_reduce`
/// keeps; 8 bytes of moments a value and 4 of a bf16 value's master, over dp x cp; activations of
/// `microbatches_alive`, those of the loss of one.
/// Time: that of the pipeline's schedule, by what each stage takes of a microbatch, the exchanges
/// that nothing hides, the update.
class StepModel {
 public:
  StepModel(
      const Workload& workload,
      const ModelValues& values,
      const PlanMesh& mesh,
      const GpuInfo& gpu);

  std::int64_t microbatches() const { return microbatches_; }
  /// The pipeline rank whose microbatch takes longest.
  std::int64_t slowest_rank() const;

  MemoryPlan memory(std::int64_t rank) const;
  OperationsPlan operations(std::int64_t rank) const;
  std::vector<TrafficPlan> traffic(std::int64_t rank) const;
  TimePlan time(std::int64_t rank) const;
  /// Idle share of the ranks' time, (p - 1) / (m v + p - 1), where all stages are equal.
  double bubble() const;

 private:
  /// All layers of one pipeline rank, in one microbatch.
  struct Part {
    double kept = 0.0;
    double kept_once = 0.0; ///< by the loss, whose backward pass comes at once
    double transient = 0.0; ///< of the layer that needs most
    double layers = 0.0;
    OperationsPlan operations; ///< both passes
    Messages tensor;
    Messages context;
    TimePlan time;              ///< of the GPU's own work
    std::vector<double> stages; ///< seconds of it, for each virtual stage
    PartValues values;
  };

  void add_layer(Part& part, const LayerCosts& costs) const;
  std::vector<Part> make_parts(const ModelValues& values) const;
  const Part& part(std::int64_t rank) const { return parts_[static_cast<std::size_t>(rank)]; }

  /// A group of `ranks`, `stride` apart.
  bool leaves_node(std::int64_t stride, std::int64_t ranks) const;
  double bytes_per_second(std::int64_t stride, std::int64_t ranks) const;
  double seconds(const Messages& messages, std::int64_t stride, std::int64_t ranks) const;

  bool is_bf16() const { return element_ == 2.0; }
  bool sums_gradients() const {
    return microbatches_ > 1 || replicas_ > 1 || workload_.deterministic_reduce;
  }
  /// Sums of gradients that a rank holds at once.
  double partial_sums() const;
  /// Bytes of NCCL.
  double group_bytes() const;
  double num_values(const Part& part) const;
  TrafficPlan tensor_traffic(const Part& part) const;
  TrafficPlan context_traffic(const Part& part) const;
  TrafficPlan gradient_traffic(const Part& part) const;
  /// Hidden states of a microbatch between two layers of a rank.
  double hidden_bytes() const;
  TrafficPlan pipeline_traffic() const;
  double update_seconds(const Part& part) const;
  /// Seconds that a step is longer by for messages that take `taken` seconds, `waited` of these
  /// with nothing beside them.
  double exposed(double taken, double waited) const;
  /// Of the schedule that a run follows, beyond the slowest rank's own work.
  double pipeline_wait(double slowest) const;
  /// Both passes of one microbatch, with its exchanges.
  TimePlan microbatch_time(const Part& part) const;

  const Workload& workload_;
  const PlanMesh& mesh_;
  const GpuInfo& gpu_;
  double element_;
  LayerShare share_;
  std::int64_t microbatches_;
  std::int64_t replicas_; ///< ranks with the same parameters
  std::vector<Part> parts_;
};

} // namespace baton::train

// SPDX-License-Identifier: Apache-2.0
// What a training step needs and takes on a mesh of GPUs, predicted from formulas and measured
// rates: memory, operations, traffic, time. Nothing is allocated or run.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "baton/model/config.h"
#include "baton/model/pattern.h"
#include "baton/parallel/context.h"
#include "baton/parallel/mesh.h"
#include "baton/train/gpu_info.h"
#include "baton/train/model_values.h"
#include "baton/train/optimizer.h"

namespace baton::train {

/// What is to be trained, and how much at once.
struct Workload {
  model::ModelConfig model; ///< with vocabulary and dtype settled
  OptimizerConfig optimizer;
  std::int64_t tokens_per_step = 0;
  std::int64_t tokens_per_microbatch = 0;
  std::int64_t document = 0; ///< tokens of each document, at most those of a microbatch
  bool deterministic_reduce = false;
};

/// A grid of ranks and how they share the work.
struct PlanMesh {
  std::int64_t pp = 1;
  std::int64_t dp = 1;
  std::int64_t cp = 1;
  std::int64_t tp = 1;
  std::int64_t virtual_stages = 1;
  parallel::ContextRules rules{};

  std::int64_t gpus() const { return pp * dp * cp * tp; }
  std::string text() const; ///< "pp 1, dp 2, cp 4 (baton, gather), tp 1"
};

/// The stages of a mesh's pipeline, cut as a run cuts them. Throws `Error` where the pattern has
/// pipes for another number of them.
std::vector<model::PipelineStage> stages_of(const Workload& workload, const PlanMesh& mesh);

/// Bytes of the fullest rank.
struct MemoryPlan {
  double weights = 0.0;
  double gradients = 0.0;   ///< fp32 where ranks or microbatches are added up
  double optimizer = 0.0;   ///< moments and masters, this rank's share
  double activations = 0.0; ///< of all microbatches that are between their passes
  double transient = 0.0;   ///< of the fullest moment of a backward pass
  double runtime = 0.0;     ///< driver, libraries, gaps

  double total() const {
    return weights + gradients + optimizer + activations + transient + runtime;
  }
};

/// Operations of a GPU in a step, both passes.
struct OperationsPlan {
  double products = 0.0;
  double scan = 0.0;
  double attention = 0.0;
};

/// What a rank sends along one axis in a step.
struct TrafficPlan {
  parallel::Axis axis = parallel::Axis::kTensor;
  std::int64_t ranks = 1;
  double bytes = 0.0;
  bool network = false; ///< leaves the node
  double seconds = 0.0;
  double exposed = 0.0; ///< of these, while nothing is computed
};

/// What a step's time is made of.
enum class TimePart {
  kProducts,
  kScan,
  kAttention,
  kPasses,
  kLaunches, ///< waiting for the host
  kUpdate,
  kTensor,
  kContext,
  kData,
  kPipeline, ///< bubble, messages, and stages that wait for the slowest
};
inline constexpr std::size_t kTimeParts = 10;

/// "matrix products", "scan", ...
const char* part_name(TimePart part);

/// Seconds of a step, or of a part of it, that each part takes.
struct TimePlan {
  std::array<double, kTimeParts> parts{};

  double& operator[](TimePart part) { return parts[static_cast<std::size_t>(part)]; }
  double operator[](TimePart part) const { return parts[static_cast<std::size_t>(part)]; }
  TimePlan& add(const TimePlan& other, double factor);
  double total() const;
  TimePart longest() const;
};

/// The prediction for one mesh.
struct Plan {
  PlanMesh mesh;
  std::int64_t microbatches = 0;  ///< of a dp rank in a step
  std::int64_t fullest_stage = 0; ///< the pp coordinate of `memory`
  MemoryPlan memory;
  OperationsPlan operations;        ///< of the busiest pp coordinate
  std::vector<TrafficPlan> traffic; ///< axes with several ranks
  double bubble = 0.0; ///< idle share of the pipeline's ranks where all stages are equal
  TimePlan time;
  double tokens_per_second = 0.0;
  double utilisation = 0.0; ///< the model's operations over the data sheet's peak
  bool fits = false;        ///< with a twentieth of the GPU's memory to spare, as a plan may be off
};

/// Why a mesh cannot run a workload, in one line; "" where it can.
std::string refusal(const Workload& workload, const PlanMesh& mesh);

/// Throws `Error` with the refusal where there is one.
Plan make_plan(
    const Workload& workload,
    const ModelValues& values,
    const PlanMesh& mesh,
    const GpuInfo& gpu);

} // namespace baton::train

// SPDX-License-Identifier: Apache-2.0
// Pipeline parallelism: who works on which microbatch of which stage, and when.
//
// With p ranks and v virtual stages the layers are cut in p v stages, and rank r holds the stages
// r, r + p, r + 2p, ...; so a stage's neighbours are always on the neighbouring ranks of a ring.
// A schedule is data: one list of actions a rank, which a runner carries out (pipeline_runner.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace baton::parallel {

struct PipelineShape {
  int ranks = 1;
  int virtual_stages = 1; ///< stages a rank
  int microbatches = 1;   ///< of one step

  int stages() const { return ranks * virtual_stages; }
  int rank_of(int stage) const { return stage % ranks; }
};

enum class Pass { kForward, kBackward };

enum class Verb {
  kReceive, ///< get ready for what the work of this pass, stage and microbatch needs
  kRun,     ///< do that work
  kSend,    ///< hand on what it made
};

struct PipelineAction {
  Verb verb = Verb::kRun;
  Pass pass = Pass::kForward;
  int stage = 0; ///< of the work, also for a message to or from it
  int microbatch = 0;

  bool operator==(const PipelineAction&) const = default;
};

/// "run forward of microbatch 3 in stage 1".
std::string to_string(const PipelineAction& action);

/// The stage whose output the work of `stage` needs: the one before it, backward the one behind it.
/// None at the model's ends.
std::optional<int> source_of(const PipelineShape& shape, Pass pass, int stage);
/// The stage that needs what the work of `stage` makes.
std::optional<int> target_of(const PipelineShape& shape, Pass pass, int stage);

struct PipelineSchedule {
  PipelineShape shape;
  std::vector<std::vector<PipelineAction>> ranks; ///< what each does, in order
};

/// One stage a rank: 1F1B (Narayanan et al., "Memory-efficient pipeline-parallel DNN training",
/// 2021). Rank r runs p - 1 - r forwards, then one forward and one backward in turn, then the
/// backwards that are left; no more than p - r microbatches are alive in it.
///
/// Several: interleaved 1F1B (Narayanan et al., "Efficient large-scale language model training on
/// GPU clusters using Megatron-LM", 2021, section 2.2). Microbatches go through in groups of p,
/// each group through all virtual stages of a rank. Throws `Error` unless microbatches are a
/// multiple of p.
///
/// Messages between two neighbours are received in the order in which they are sent. The receive of
/// the next message is begun before the work on the one before it, and so no rank waits for ever
/// even where a send waits for its receive.
PipelineSchedule make_pipeline_schedule(const PipelineShape& shape);

/// Forward passes alone, for an evaluation: any number of microbatches, groups as above, the last
/// of them smaller where it must be.
PipelineSchedule make_forward_schedule(const PipelineShape& shape);

/// Seconds, or any unit, of one microbatch in each stage.
struct PipelineCosts {
  std::vector<double> forward;  ///< by stage
  std::vector<double> backward; ///< by stage

  /// Equal stages; a backward pass is twice the work of a forward pass.
  static PipelineCosts equal(const PipelineShape& shape);
};

struct TimedWork {
  PipelineAction work;
  double begin = 0.0;
  double end = 0.0;
};

/// What a schedule comes to where messages take no time.
struct PipelineEstimate {
  double time = 0.0;   ///< of a step
  double bubble = 0.0; ///< share of the ranks' time in which they do nothing
  std::vector<std::vector<TimedWork>> ranks;
  /// Of each rank, the largest number of (microbatch, stage) whose forward pass has run and whose
  /// backward pass has not; all of them where there are no backward passes.
  std::vector<int> alive;
};

/// Throws (our own bug) where a schedule never ends.
PipelineEstimate estimate_pipeline(const PipelineSchedule& schedule, const PipelineCosts& costs);

/// One line for a run's log: "1F1B, 4 stages on 4 ranks, 8 microbatches: bubble 27.3 % for equal
/// stages, 29.0 % for these, at most 4 microbatches alive"; "these" where `costs` are given.
std::string describe_pipeline(
    const PipelineSchedule& schedule,
    const std::optional<PipelineCosts>& costs = std::nullopt);

/// One line a rank, two columns a unit of equal work: a forward pass "F3" of microbatch 3 takes
/// one, a backward pass "B3--" two, idle time is " .". Virtual stages beyond the first have the
/// letters behind these: G and C, H and D, I and E. For at most ten microbatches and four virtual
/// stages.
std::string draw_pipeline(const PipelineSchedule& schedule);

} // namespace baton::parallel

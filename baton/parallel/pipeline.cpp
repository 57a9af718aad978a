// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/pipeline.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <tuple>

#include <c10/util/Exception.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

void check_shape(const PipelineShape& shape) {
  const auto positive = [](const char* what, int value) {
    if (value < 1) {
      throw Error(
          std::string("pipeline: ") + what + " must be at least 1: " + std::to_string(value));
    }
  };
  positive("ranks", shape.ranks);
  positive("virtual stages", shape.virtual_stages);
  positive("microbatches of a step", shape.microbatches);
}

void check_groups(const PipelineShape& shape) {
  if (shape.virtual_stages > 1 && shape.microbatches % shape.ranks != 0) {
    throw Error(
        "pipeline: with several virtual stages the microbatches of a step (on each data-parallel "
        "rank) must be a multiple of the pipeline's ranks: " +
        std::to_string(shape.microbatches) + " vs " + std::to_string(shape.ranks));
  }
}

/// Work `number` of one pass on a rank: groups of p microbatches, each through all virtual stages.
PipelineAction nth_work(const PipelineShape& shape, int rank, Pass pass, int number) {
  if (shape.virtual_stages == 1) {
    return {Verb::kRun, pass, rank, number};
  }
  const int group = number / shape.stages();
  const int within = number % shape.stages();
  const int size = std::min(shape.ranks, shape.microbatches - group * shape.ranks);
  int virtual_stage = within / size;
  if (pass == Pass::kBackward) {
    virtual_stage = shape.virtual_stages - 1 - virtual_stage;
  }
  return {
      Verb::kRun, pass, virtual_stage * shape.ranks + rank, group * shape.ranks + within % size};
}

/// How many forwards a rank runs before it turns to one forward, one backward.
int forwards_ahead(const PipelineShape& shape, int rank) {
  const int behind = shape.ranks - 1 - rank;
  return shape.virtual_stages == 1 ? behind : 2 * behind + (shape.virtual_stages - 1) * shape.ranks;
}

std::vector<PipelineAction> works_of_rank(const PipelineShape& shape, int rank) {
  const int total = shape.microbatches * shape.virtual_stages;
  const int ahead = std::min(forwards_ahead(shape, rank), total);
  std::vector<PipelineAction> works;
  for (int i = 0; i < total + ahead; ++i) {
    if (i < total) {
      works.push_back(nth_work(shape, rank, Pass::kForward, i));
    }
    if (i >= ahead) {
      works.push_back(nth_work(shape, rank, Pass::kBackward, i - ahead));
    }
  }
  return works;
}

bool from_another_rank(const PipelineShape& shape, const PipelineAction& work) {
  return shape.ranks > 1 && source_of(shape, work.pass, work.stage).has_value();
}

bool to_another_rank(const PipelineShape& shape, const PipelineAction& work) {
  return shape.ranks > 1 && target_of(shape, work.pass, work.stage).has_value();
}

/// Adds the messages: of each pass the first receive at the start, every other one before the work
/// on what was received before it; a send right behind its work.
std::vector<PipelineAction> with_messages(
    const PipelineShape& shape,
    const std::vector<PipelineAction>& works) {
  std::array<std::vector<PipelineAction>, 2> receives;
  for (PipelineAction work : works) {
    if (from_another_rank(shape, work)) {
      work.verb = Verb::kReceive;
      receives[static_cast<std::size_t>(work.pass)].push_back(work);
    }
  }
  std::array<std::size_t, 2> begun{0, 0};
  std::vector<PipelineAction> actions;
  const auto begin_next = [&](std::size_t pass) {
    if (begun[pass] < receives[pass].size()) {
      actions.push_back(receives[pass][begun[pass]++]);
    }
  };
  begin_next(0);
  begin_next(1);
  for (PipelineAction work : works) {
    if (from_another_rank(shape, work)) {
      begin_next(static_cast<std::size_t>(work.pass));
    }
    actions.push_back(work);
    if (to_another_rank(shape, work)) {
      work.verb = Verb::kSend;
      actions.push_back(work);
    }
  }
  return actions;
}

/// When each (pass, stage, microbatch) is done.
using Ends = std::map<std::tuple<Pass, int, int>, double>;

/// When the inputs of a work are there; nothing while they are not.
std::optional<double>
ready_at(const PipelineShape& shape, const PipelineAction& work, const Ends& ends) {
  double ready = 0.0;
  const auto needs = [&](Pass pass, int stage) {
    const auto found = ends.find({pass, stage, work.microbatch});
    if (found == ends.end()) {
      return false;
    }
    ready = std::max(ready, found->second);
    return true;
  };
  const std::optional<int> source = source_of(shape, work.pass, work.stage);
  const bool there = (!source || needs(work.pass, *source)) &&
                     (work.pass == Pass::kForward || needs(Pass::kForward, work.stage));
  return there ? std::make_optional(ready) : std::nullopt;
}

int most_alive(const std::vector<TimedWork>& works) {
  int alive = 0;
  int most = 0;
  for (const TimedWork& each : works) {
    alive += each.work.pass == Pass::kForward ? 1 : -1;
    most = std::max(most, alive);
  }
  return most;
}

} // namespace

std::string to_string(const PipelineAction& action) {
  const char* const verbs[] = {"receive for ", "run ", "send from "};
  return std::string(verbs[static_cast<std::size_t>(action.verb)]) +
         (action.pass == Pass::kForward ? "forward" : "backward") + " of microbatch " +
         std::to_string(action.microbatch) + " in stage " + std::to_string(action.stage);
}

std::optional<int> source_of(const PipelineShape& shape, Pass pass, int stage) {
  const int source = pass == Pass::kForward ? stage - 1 : stage + 1;
  return source < 0 || source >= shape.stages() ? std::nullopt : std::make_optional(source);
}

std::optional<int> target_of(const PipelineShape& shape, Pass pass, int stage) {
  return source_of(shape, pass == Pass::kForward ? Pass::kBackward : Pass::kForward, stage);
}

PipelineSchedule make_pipeline_schedule(const PipelineShape& shape) {
  check_shape(shape);
  check_groups(shape);
  PipelineSchedule schedule{.shape = shape, .ranks = {}};
  for (int rank = 0; rank < shape.ranks; ++rank) {
    schedule.ranks.push_back(with_messages(shape, works_of_rank(shape, rank)));
  }
  return schedule;
}

PipelineSchedule make_forward_schedule(const PipelineShape& shape) {
  check_shape(shape);
  PipelineSchedule schedule{.shape = shape, .ranks = {}};
  for (int rank = 0; rank < shape.ranks; ++rank) {
    const int total = shape.microbatches * shape.virtual_stages;
    std::vector<PipelineAction> works;
    works.reserve(static_cast<std::size_t>(total));
    for (int i = 0; i < total; ++i) {
      works.push_back(nth_work(shape, rank, Pass::kForward, i));
    }
    schedule.ranks.push_back(with_messages(shape, works));
  }
  return schedule;
}

PipelineCosts PipelineCosts::equal(const PipelineShape& shape) {
  const auto stages = static_cast<std::size_t>(shape.stages());
  return {std::vector<double>(stages, 1.0), std::vector<double>(stages, 2.0)};
}

PipelineEstimate estimate_pipeline(const PipelineSchedule& schedule, const PipelineCosts& costs) {
  const PipelineShape& shape = schedule.shape;
  const auto ranks = static_cast<std::size_t>(shape.ranks);
  PipelineEstimate estimate;
  estimate.ranks.resize(ranks);
  std::vector<std::size_t> next(ranks, 0);
  Ends ends;
  double busy = 0.0;
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      std::vector<TimedWork>& done = estimate.ranks[rank];
      for (; next[rank] < schedule.ranks[rank].size(); ++next[rank]) {
        const PipelineAction& action = schedule.ranks[rank][next[rank]];
        if (action.verb != Verb::kRun) {
          continue;
        }
        const std::optional<double> ready = ready_at(shape, action, ends);
        if (!ready) {
          break;
        }
        moved = true;
        const std::vector<double>& of_pass =
            action.pass == Pass::kForward ? costs.forward : costs.backward;
        const double cost = of_pass.at(static_cast<std::size_t>(action.stage));
        const double begin = std::max(*ready, done.empty() ? 0.0 : done.back().end);
        done.push_back({action, begin, begin + cost});
        ends[{action.pass, action.stage, action.microbatch}] = begin + cost;
        estimate.time = std::max(estimate.time, begin + cost);
        busy += cost;
      }
    }
  }
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    TORCH_INTERNAL_ASSERT(
        next[rank] == schedule.ranks[rank].size(), "pipeline: rank ", rank, " waits for ever");
    estimate.alive.push_back(most_alive(estimate.ranks[rank]));
  }
  estimate.bubble = estimate.time > 0.0 ? 1.0 - busy / (shape.ranks * estimate.time) : 0.0;
  return estimate;
}

std::string describe_pipeline(
    const PipelineSchedule& schedule,
    const std::optional<PipelineCosts>& costs) {
  const PipelineShape& shape = schedule.shape;
  const auto percent = [](double share) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f %%", 100.0 * share);
    return std::string(text);
  };
  const PipelineEstimate equal = estimate_pipeline(schedule, PipelineCosts::equal(shape));
  const bool interleaved = shape.virtual_stages > 1;
  std::string text = std::string(interleaved ? "interleaved 1F1B, " : "1F1B, ") +
                     std::to_string(shape.stages()) + " stages on " + std::to_string(shape.ranks) +
                     " ranks, " + std::to_string(shape.microbatches) + " microbatches: bubble " +
                     percent(equal.bubble) + " for equal stages, ";
  if (costs) {
    text += percent(estimate_pipeline(schedule, *costs).bubble) + " for these, ";
  }
  return text + "at most " +
         std::to_string(*std::max_element(equal.alive.begin(), equal.alive.end())) +
         (interleaved ? " microbatches of a stage alive" : " microbatches alive");
}

std::string draw_pipeline(const PipelineSchedule& schedule) {
  const PipelineShape& shape = schedule.shape;
  TORCH_CHECK(
      shape.microbatches <= 10 && shape.virtual_stages <= 4,
      "a picture holds at most 10 microbatches and 4 virtual stages");
  const PipelineEstimate estimate = estimate_pipeline(schedule, PipelineCosts::equal(shape));
  const auto units = static_cast<std::size_t>(std::lround(estimate.time));
  std::string picture;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    std::string line;
    for (std::size_t i = 0; i < units; ++i) {
      line += " .";
    }
    for (const TimedWork& each : estimate.ranks[static_cast<std::size_t>(rank)]) {
      const bool forward = each.work.pass == Pass::kForward;
      const char letter = "FGHIBCDE"[each.work.stage / shape.ranks + (forward ? 0 : 4)];
      const std::string cell = std::string(1, letter) +
                               static_cast<char>('0' + each.work.microbatch) +
                               (forward ? "" : "--");
      line.replace(2 * static_cast<std::size_t>(std::lround(each.begin)), cell.size(), cell);
    }
    picture += "rank " + std::to_string(rank) + "  " + line + "\n";
  }
  return picture;
}

} // namespace baton::parallel

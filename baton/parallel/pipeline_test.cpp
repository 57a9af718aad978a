// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/pipeline.h"

#include <algorithm>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::parallel {
namespace {

std::vector<PipelineShape> many_shapes() {
  std::vector<PipelineShape> shapes;
  for (int ranks = 1; ranks <= 6; ++ranks) {
    for (int microbatches = 1; microbatches <= 13; ++microbatches) {
      shapes.push_back({ranks, 1, microbatches});
    }
    for (int virtual_stages = 2; virtual_stages <= 4; ++virtual_stages) {
      for (int groups = 1; groups <= 4; ++groups) {
        shapes.push_back({ranks, virtual_stages, ranks * groups});
      }
    }
  }
  return shapes;
}

std::string text_of(const PipelineShape& shape) {
  return std::to_string(shape.ranks) + " ranks, " + std::to_string(shape.virtual_stages) +
         " virtual stages, " + std::to_string(shape.microbatches) + " microbatches";
}

TEST(PipelineSchedule, RunsEachWorkOnceOnItsRank) {
  for (const PipelineShape& shape : many_shapes()) {
    SCOPED_TRACE(text_of(shape));
    const PipelineSchedule schedule = make_pipeline_schedule(shape);
    std::set<std::tuple<Pass, int, int>> run;
    for (int rank = 0; rank < shape.ranks; ++rank) {
      for (const PipelineAction& action : schedule.ranks[static_cast<std::size_t>(rank)]) {
        EXPECT_EQ(shape.rank_of(action.stage), rank);
        if (action.verb == Verb::kRun) {
          EXPECT_TRUE(run.insert({action.pass, action.stage, action.microbatch}).second);
        }
      }
    }
    EXPECT_EQ(run.size(), static_cast<std::size_t>(2 * shape.stages() * shape.microbatches));
  }
}

// What a rank sends to a neighbour and what that neighbour waits for, in order.
TEST(PipelineSchedule, MessagesAreReceivedInTheOrderInWhichTheyAreSent) {
  for (const PipelineShape& shape : many_shapes()) {
    SCOPED_TRACE(text_of(shape));
    const PipelineSchedule schedule = make_pipeline_schedule(shape);
    for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
      for (int rank = 0; rank < shape.ranks; ++rank) {
        const int target = (rank + (pass == Pass::kForward ? 1 : shape.ranks - 1)) % shape.ranks;
        std::vector<std::pair<int, int>> sent;
        std::vector<std::pair<int, int>> received;
        for (const PipelineAction& action : schedule.ranks[static_cast<std::size_t>(rank)]) {
          if (action.verb == Verb::kSend && action.pass == pass) {
            sent.emplace_back(target_of(shape, pass, action.stage).value(), action.microbatch);
          }
        }
        for (const PipelineAction& action : schedule.ranks[static_cast<std::size_t>(target)]) {
          if (action.verb == Verb::kReceive && action.pass == pass) {
            received.emplace_back(action.stage, action.microbatch);
          }
        }
        EXPECT_EQ(sent, received);
      }
    }
  }
}

// Of two works in a row that need a message each, that of the second is on its way in the first.
TEST(PipelineSchedule, BeginsEachReceiveOneMessageAhead) {
  const PipelineSchedule schedule = make_pipeline_schedule({4, 1, 6});
  for (int rank = 1; rank < 4; ++rank) {
    std::vector<int> begun;
    for (const PipelineAction& action : schedule.ranks[static_cast<std::size_t>(rank)]) {
      if (action.pass == Pass::kForward && action.verb == Verb::kReceive) {
        begun.push_back(action.microbatch);
      } else if (action.pass == Pass::kForward && action.verb == Verb::kRun) {
        EXPECT_EQ(begun.back(), std::min(action.microbatch + 1, 5));
      }
    }
  }
}

TEST(PipelineSchedule, IdleTimeIsThatOfTheFormula) {
  for (const PipelineShape& shape : many_shapes()) {
    SCOPED_TRACE(text_of(shape));
    const PipelineEstimate estimate =
        estimate_pipeline(make_pipeline_schedule(shape), PipelineCosts::equal(shape));
    const double idle = shape.ranks - 1;
    EXPECT_NEAR(estimate.bubble, idle / (shape.virtual_stages * shape.microbatches + idle), 1e-12);
  }
}

TEST(PipelineSchedule, KeepsNoMoreAliveThanItPromises) {
  for (const PipelineShape& shape : many_shapes()) {
    SCOPED_TRACE(text_of(shape));
    const PipelineEstimate estimate =
        estimate_pipeline(make_pipeline_schedule(shape), PipelineCosts::equal(shape));
    for (int rank = 0; rank < shape.ranks; ++rank) {
      const int behind = shape.ranks - 1 - rank;
      const int total = shape.microbatches * shape.virtual_stages;
      const int promised = shape.virtual_stages == 1
                               ? behind + 1
                               : 2 * behind + (shape.virtual_stages - 1) * shape.ranks + 1;
      EXPECT_EQ(estimate.alive[static_cast<std::size_t>(rank)], std::min(promised, total));
    }
  }
}

// A last group that is too small for p makes ranks wait, and nothing worse.
TEST(PipelineSchedule, ForwardPassesAloneTakeAnyNumberOfMicrobatches) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    for (int virtual_stages = 1; virtual_stages <= 3; ++virtual_stages) {
      for (int microbatches = 1; microbatches <= 11; ++microbatches) {
        const PipelineShape shape{ranks, virtual_stages, microbatches};
        SCOPED_TRACE(text_of(shape));
        const PipelineSchedule schedule = make_forward_schedule(shape);
        const PipelineEstimate estimate = estimate_pipeline(schedule, PipelineCosts::equal(shape));
        if (microbatches % ranks == 0) {
          EXPECT_EQ(estimate.time, virtual_stages * microbatches + ranks - 1);
        }
        EXPECT_EQ(estimate.alive.front(), virtual_stages * microbatches);
      }
    }
  }
  EXPECT_THROW(make_forward_schedule({2, 1, 0}), Error);
}

TEST(PipelineSchedule, UnequalStagesWaitForTheSlowest) {
  const PipelineSchedule schedule = make_pipeline_schedule({2, 1, 4});
  const PipelineEstimate estimate = estimate_pipeline(schedule, {{1.0, 3.0}, {2.0, 6.0}});
  EXPECT_DOUBLE_EQ(estimate.time, 1.0 + 4 * 9.0 + 2.0);
  EXPECT_DOUBLE_EQ(estimate.bubble, 1.0 - 48.0 / (2 * 39.0));
}

TEST(PipelineSchedule, RefusesWhatItCannotInterleave) {
  const auto expect_refused = [](const PipelineShape& shape, const std::string& rule) {
    try {
      make_pipeline_schedule(shape);
      FAIL();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(rule));
    }
  };
  expect_refused(
      {4, 2, 6},
      "pipeline: with several virtual stages the microbatches of a step (on each data-parallel "
      "rank) must be a multiple of the pipeline's ranks: 6 vs 4");
  expect_refused({4, 1, 0}, "microbatches of a step must be at least 1: 0");
  expect_refused({0, 1, 1}, "ranks must be at least 1: 0");
}

TEST(PipelineSchedule, IsDescribedInOneLine) {
  EXPECT_EQ(
      describe_pipeline(make_pipeline_schedule({2, 1, 4}), PipelineCosts{{1.0, 3.0}, {2.0, 6.0}}),
      "1F1B, 2 stages on 2 ranks, 4 microbatches: bubble 20.0 % for equal stages, 38.5 % for "
      "these, "
      "at most 2 microbatches alive");
  EXPECT_EQ(
      describe_pipeline(make_pipeline_schedule({4, 1, 8})),
      "1F1B, 4 stages on 4 ranks, 8 microbatches: bubble 27.3 % for equal stages, at most 4 "
      "microbatches alive");
  EXPECT_EQ(
      describe_pipeline(make_pipeline_schedule({4, 2, 8})),
      "interleaved 1F1B, 8 stages on 4 ranks, 8 microbatches: bubble 15.8 % for equal stages, at "
      "most 11 microbatches of a stage alive");
}

// The picture of docs/parallel.md.
TEST(PipelineSchedule, IsDrawn) {
  EXPECT_EQ(
      draw_pipeline(make_pipeline_schedule({3, 1, 4})),
      "rank 0  F0F1F2 . . . .B0--F3B1-- .B2-- .B3--\n"
      "rank 1   .F0F1 . .B0--F2B1--F3B2-- .B3-- . .\n"
      "rank 2   . .F0B0--F1B1--F2B2--F3B3-- . . . .\n");
  EXPECT_EQ(
      draw_pipeline(make_pipeline_schedule({2, 2, 4})),
      "rank 0  F0F1G0G1F2 .C0--F3C1--G2B0--G3B1-- .C2-- .C3--B2--B3--\n"
      "rank 1   .F0F1G0C0--G1C1--F2B0--F3B1--G2C2--G3C3--B2--B3-- . .\n");
}

} // namespace
} // namespace baton::parallel

// SPDX-License-Identifier: Apache-2.0
#include "baton/model/pipeline_cut.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/model/pattern.h"

namespace baton::model {
namespace {

/// Cost of the slowest stage, and the sum of squares.
std::pair<double, double> weigh(const ModelCosts& costs, const std::vector<std::int64_t>& counts) {
  std::pair<double, double> found{0.0, 0.0};
  std::size_t layer = 0;
  for (std::size_t stage = 0; stage < counts.size(); ++stage) {
    double cost =
        (stage == 0 ? costs.embedding : 0.0) + (stage == counts.size() - 1 ? costs.head : 0.0);
    for (std::int64_t i = 0; i < counts[stage]; ++i) {
      cost += costs.layers[layer++];
    }
    found.first = std::max(found.first, cost);
    found.second += cost * cost;
  }
  return found;
}

/// The best of all cuts, by trying them.
std::pair<double, double>
best_of_all(const ModelCosts& costs, std::vector<std::int64_t>& counts, std::size_t stage) {
  const std::int64_t used =
      std::accumulate(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(stage), 0LL);
  const std::int64_t left = static_cast<std::int64_t>(costs.layers.size()) - used;
  if (stage == counts.size() - 1) {
    counts[stage] = left;
    return weigh(costs, counts);
  }
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::pair<double, double> best{kNever, kNever};
  for (std::int64_t count = 0; count <= left; ++count) {
    counts[stage] = count;
    best = std::min(best, best_of_all(costs, counts, stage + 1));
  }
  return best;
}

TEST(PipelineCut, IsTheBestOfAllCuts) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    ModelCosts costs;
    // Whole numbers, so that sums are exact.
    for (unsigned i = random() % 9; i > 0; --i) {
      costs.layers.push_back(static_cast<double>(random() % 10));
    }
    costs.embedding = static_cast<double>(random() % 4);
    costs.head = static_cast<double>(random() % 30);
    const auto stages = static_cast<std::int64_t>(1 + random() % 5);
    const std::vector<std::int64_t> counts = cut_layers(costs, stages);
    ASSERT_EQ(counts.size(), static_cast<std::size_t>(stages));
    ASSERT_EQ(
        std::accumulate(counts.begin(), counts.end(), 0LL),
        static_cast<std::int64_t>(costs.layers.size()));
    std::vector<std::int64_t> tried(static_cast<std::size_t>(stages));
    EXPECT_EQ(weigh(costs, counts), best_of_all(costs, tried, 0));
  }
}

// The 2B model of the pattern language's examples.
ModelConfig large_config() {
  ModelConfig config;
  config.pattern = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-M-M-";
  config.width = 2048;
  config.vocabulary = 131072;
  config.mamba.num_heads = 64;
  config.mamba.head_dim = 64;
  config.mamba.num_groups = 8;
  config.attention.num_heads = 16;
  config.attention.num_kv_heads = 16;
  config.attention.head_dim = 128;
  config.mlp.hidden = 11264;
  config.mlp.activation = "swiglu";
  return config;
}

TEST(PipelineCut, TheHeadTakesTheRoomOfLayers) {
  const ModelConfig config = large_config();
  const PipelineCut cut{.ranks = 4, .virtual_stages = 1, .tokens_per_microbatch = 8192};
  const std::string text = resolve_pipes(config, cut);
  const LayerPattern pattern = parse_pattern(text);
  EXPECT_EQ(pattern.layers, config.pattern);
  ASSERT_EQ(pattern.segments.size(), 4U);
  EXPECT_LT(pattern.segments.back().size() + 4, pattern.segments.front().size()) << text;
  ModelConfig piped = config;
  piped.pattern = text;
  EXPECT_EQ(resolve_pipes(piped, cut), text);
  const parallel::PipelineCosts costs = stage_costs(piped, cut);
  ASSERT_EQ(costs.forward.size(), 4U);
  const double mean = std::accumulate(costs.forward.begin(), costs.forward.end(), 0.0) / 4;
  EXPECT_LT(*std::max_element(costs.forward.begin(), costs.forward.end()), 1.08 * mean) << text;
}

TEST(PipelineCut, LongerMicrobatchesMakeAttentionDearer) {
  ModelConfig config = large_config();
  config.pattern = "M*";
  const ModelCosts brief = estimate_costs(config, 1024);
  const ModelCosts long_one = estimate_costs(config, 65536);
  EXPECT_EQ(brief.layers[0], long_one.layers[0]);
  EXPECT_LT(brief.layers[1], brief.layers[0]);
  EXPECT_GT(long_one.layers[1], long_one.layers[0]);
}

TEST(PipelineCut, OneStageKeepsThePatternAndOthersMustFit) {
  ModelConfig config = large_config();
  config.pattern = "M*|-M|M";
  EXPECT_EQ(resolve_pipes(config, {}), config.pattern);
  EXPECT_EQ(resolve_pipes(config, {.ranks = 3}), config.pattern);
  try {
    resolve_pipes(config, {.ranks = 2});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("2 pipeline ranks x 1 virtual stages need 2"));
  }
}

TEST(PipelineCut, MoreStagesThanLayersLeaveSomeEmpty) {
  ModelConfig config = large_config();
  config.pattern = "M*";
  const std::string text = resolve_pipes(config, {.ranks = 4, .virtual_stages = 1});
  EXPECT_EQ(parse_pattern(text).segments.size(), 4U) << text;
}

} // namespace
} // namespace baton::model

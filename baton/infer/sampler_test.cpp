// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::infer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor row(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

// Share of each token over many places.
std::map<std::int64_t, double>
shares(const at::Tensor& logits_V, const SamplingConfig& config, int draws = 20000) {
  std::map<std::int64_t, double> result;
  for (int i = 0; i < draws; ++i) {
    const SamplePlace place{static_cast<std::uint64_t>(i % 7), static_cast<std::uint64_t>(i / 7)};
    result[sample_token(logits_V, {}, config, place)] += 1.0 / draws;
  }
  return result;
}

// Five deviations of a share of 20000 draws: one test in a million fails by chance, and the seeds
// are fixed.
constexpr double kShareTolerance = 5 * 0.5 / 141;

// The definition, with a full sort: probabilities after all filters, by token.
std::vector<double> plain_distribution(const std::vector<double>& logits, const SamplingConfig& c) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return logits[a] > logits[b];
  });
  const auto softmax = [&](std::size_t count) {
    std::vector<double> p(logits.size(), 0.0);
    double total = 0;
    for (std::size_t i = 0; i < count; ++i) {
      p[order[i]] = std::exp((logits[order[i]] - logits[order[0]]) / c.temperature);
      total += p[order[i]];
    }
    for (double& value : p) {
      value /= total;
    }
    return p;
  };
  std::size_t count = c.top_k > 0 ? std::min<std::size_t>(c.top_k, order.size()) : order.size();
  std::vector<double> p = softmax(count);
  double sum = 0;
  std::size_t kept = 0;
  while (c.top_p < 1 && kept < count && (kept == 0 || sum < c.top_p)) {
    sum += p[order[kept++]];
  }
  count = c.top_p < 1 ? kept : count;
  p = softmax(count);
  while (count > 1 && p[order[count - 1]] < c.min_p * p[order[0]]) {
    --count;
  }
  return softmax(count);
}

TEST(Sampler, TemperatureZeroTakesTheMostLikelyToken) {
  SamplingConfig config;
  config.temperature = 0;
  EXPECT_EQ(sample_token(row({0, 3, 2}), {}, config, {}), 1);
  EXPECT_EQ(sample_token(row({5, 7, 7, 7}), {}, config, {}), 1) << "the smallest id of a tie";
  EXPECT_EQ(sample_token(row({-kInfinity, -4}), {}, config, {}), 1);
}

TEST(Sampler, DrawsFromTheDefinedDistribution) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 12; ++trial) {
    std::vector<double> logits(2 + random() % 12);
    for (double& logit : logits) {
      logit = static_cast<double>(random() % 9) - 4; // coarse, so that there are ties
    }
    SamplingConfig config;
    config.temperature = 0.5 + static_cast<double>(random() % 4) / 2;
    config.top_k = random() % 2 == 0 ? 0 : 1 + random() % 8;
    config.top_p = random() % 2 == 0 ? 1 : 0.15 + 0.2 * static_cast<double>(random() % 4);
    config.min_p = random() % 2 == 0 ? 0 : 0.07 * static_cast<double>(random() % 4);
    config.seed = trial;
    const std::vector<double> expected = plain_distribution(logits, config);
    const auto found = shares(row(logits), config);
    for (std::size_t token = 0; token < logits.size(); ++token) {
      const auto entry = found.find(static_cast<std::int64_t>(token));
      const double share = entry == found.end() ? 0 : entry->second;
      EXPECT_NEAR(share, expected[token], kShareTolerance) << "trial " << trial;
      EXPECT_TRUE(expected[token] > 0 || share == 0) << "a filtered token was drawn";
    }
  }
}

TEST(Sampler, ADrawDependsOnItsPlaceOnly) {
  at::Tensor logits_BV = at::linspace(-2, 2, 5 * 50, at::kFloat).sin().reshape({5, 50});
  SamplingConfig config;
  config.seed = 11;
  const at::Tensor strided_V = logits_BV.t().contiguous().select(1, 3);
  std::set<std::int64_t> tokens;
  for (std::uint64_t position = 0; position < 40; ++position) {
    const std::int64_t token = sample_token(logits_BV[3], {}, config, {3, position});
    EXPECT_EQ(token, sample_token(strided_V, {}, config, {3, position}));
    tokens.insert(token);
  }
  EXPECT_GT(tokens.size(), 10U);
}

TEST(Sampler, SeedSampleAndPositionAllMatter) {
  const at::Tensor logits_V = at::zeros({1000});
  SamplingConfig config;
  const auto base = sample_token(logits_V, {}, config, {0, 0});
  EXPECT_EQ(base, sample_token(logits_V, {}, config, {0, 0}));
  EXPECT_NE(base, sample_token(logits_V, {}, config, {1, 0}));
  EXPECT_NE(base, sample_token(logits_V, {}, config, {0, 1}));
  config.seed = 1;
  EXPECT_NE(base, sample_token(logits_V, {}, config, {0, 0}));
}

TEST(Sampler, FiltersThatKeepAllDoNotChangeTheDraw) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::vector<double> logits(3000);
  for (double& logit : logits) {
    logit = normal(random);
  }
  const SamplingConfig plain;
  SamplingConfig filtered;
  filtered.top_k = 3000;
  // Just below 1 every token of this flat distribution is needed, so that all are sorted.
  filtered.top_p = 1 - 1e-12;
  filtered.min_p = 1e-9;
  for (std::uint64_t position = 0; position < 200; ++position) {
    EXPECT_EQ(
        sample_token(row(logits), {}, plain, {0, position}),
        sample_token(row(logits), {}, filtered, {0, position}));
  }
}

TEST(Sampler, TiesAtTheEdgeOfTopKFallToSmallIds) {
  SamplingConfig config;
  config.top_k = 2;
  const auto found = shares(at::zeros({6}), config, 500);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found.begin()->first, 0);
  EXPECT_EQ(found.rbegin()->first, 1);
  config = {};
  config.top_p = 0.4;
  EXPECT_EQ(shares(at::zeros({5}), config, 500).size(), 2U);
}

TEST(Sampler, TopPAlwaysKeepsAToken) {
  SamplingConfig config;
  config.top_p = 1e-300;
  EXPECT_EQ(sample_token(row({0, 1, 0.5}), {}, config, {}), 1);
}

TEST(Sampler, RepetitionPenaltyPushesBothSignsDownOnce) {
  SamplingConfig config;
  config.temperature = 0;
  config.repetition_penalty = 2;
  const std::vector<std::int64_t> context = {0, 0, 0, 2};
  // 4 -> 2 (not 0.5), -1 -> -2.
  EXPECT_EQ(sample_token(row({4, 1.5, 0}), context, config, {}), 0);
  EXPECT_EQ(sample_token(row({4, 2.5, 0}), context, config, {}), 1);
  EXPECT_EQ(sample_token(row({-5, -1.5, -1}), context, config, {}), 1);
  config.repetition_penalty = 0.5;
  EXPECT_EQ(sample_token(row({2, 3, 0}), context, config, {}), 0) << "below 1 it favours";
}

TEST(Sampler, ThePenaltyComesBeforeTheTemperatureAndTheFilters) {
  SamplingConfig config;
  config.repetition_penalty = 4;
  config.top_k = 1;
  config.temperature = 0.5;
  EXPECT_EQ(sample_token(row({4, 2, 0}), std::vector<std::int64_t>{0}, config, {}), 1);
}

TEST(Sampler, SmallTemperaturesDoNotOverflow) {
  SamplingConfig config;
  config.temperature = 1e-300;
  EXPECT_EQ(sample_token(row({1e30, 2e30, -kInfinity}), {}, config, {}), 1);
}

TEST(Sampler, ForbiddenTokensAreNeverDrawn) {
  const auto found = shares(row({-kInfinity, 0, -kInfinity, 0}), {}, 2000);
  EXPECT_EQ(found.size(), 2U);
  EXPECT_EQ(found.count(1), 1U);
}

TEST(Sampler, AVocabularyOfOne) {
  EXPECT_EQ(sample_token(row({-3}), {}, {}, {}), 0);
}

TEST(Sampler, ReadsEveryFloatingDtype) {
  SamplingConfig config;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor logits_V = row({1, 2, 4, 2}).to(dtype);
    for (std::uint64_t position = 0; position < 20; ++position) {
      EXPECT_EQ(
          sample_token(logits_V, {}, config, {0, position}),
          sample_token(row({1, 2, 4, 2}), {}, config, {0, position}));
    }
  }
}

TEST(Sampler, RefusesWhatMakesNoDistribution) {
  EXPECT_THROW(sample_token(row({0, std::nan("")}), {}, {}, {}), RunError);
  EXPECT_THROW(sample_token(row({0, kInfinity}), {}, {}, {}), RunError);
  EXPECT_THROW(sample_token(row({-kInfinity, -kInfinity}), {}, {}, {}), RunError);
  EXPECT_THROW(sample_token(at::zeros({0}), {}, {}, {}), c10::Error);
  EXPECT_THROW(sample_token(at::zeros({2, 2}), {}, {}, {}), c10::Error);
  EXPECT_THROW(sample_token(at::zeros({2}, at::kLong), {}, {}, {}), c10::Error);
  SamplingConfig config;
  config.repetition_penalty = 1.5;
  EXPECT_THROW(sample_token(row({0, 1}), std::vector<std::int64_t>{2}, config, {}), c10::Error);
  EXPECT_THROW(sample_token(row({0, 1}), std::vector<std::int64_t>{-1}, config, {}), c10::Error);
}

TEST(Sampler, ConfigsAreChecked) {
  const auto refused = [](auto change) {
    SamplingConfig config;
    change(config);
    EXPECT_THROW(config.check(), c10::Error);
  };
  refused([](SamplingConfig& c) { c.temperature = -0.1; });
  refused([](SamplingConfig& c) { c.temperature = kInfinity; });
  refused([](SamplingConfig& c) { c.temperature = std::nan(""); });
  refused([](SamplingConfig& c) { c.top_k = -1; });
  refused([](SamplingConfig& c) { c.top_p = 0; });
  refused([](SamplingConfig& c) { c.top_p = 1.1; });
  refused([](SamplingConfig& c) { c.min_p = -0.1; });
  refused([](SamplingConfig& c) { c.min_p = 1.1; });
  refused([](SamplingConfig& c) { c.repetition_penalty = 0; });
  refused([](SamplingConfig& c) { c.repetition_penalty = std::nan(""); });
}

} // namespace
} // namespace baton::infer

// SPDX-License-Identifier: Apache-2.0
// A model whose stream several ranks share against the same model on one rank.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/model/example_models.h"
#include "baton/model/hybrid_model.h"
#include "baton/parallel/context.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::model {
namespace {

using parallel::Axis;
using parallel::Context;
using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::KeyExchange;
using parallel::Mesh;

// The orders of additions differ: over segments, over ranks.
constexpr double kTolerance = 1e-10;

ModelConfig tiny_config(const std::string& pattern) {
  return example_config(pattern, 6, 3);
}

/// With groups that all_to_all can divide among so many ranks.
ModelConfig tiny_config(const std::string& pattern, int ranks) {
  ModelConfig config = tiny_config(pattern);
  config.mamba.num_groups = config.attention.num_kv_heads = ranks == 2 ? 2 : 3;
  return config;
}

struct Found {
  at::Tensor hidden_TD;
  at::Tensor loss;
  std::vector<at::Tensor> gradients;
};

/// What one rank finds of its tokens: all of them where `shared` is null.
Found work_on(const ModelConfig& config, const SequenceLayout& stream, const Context* shared) {
  HybridModel model(config);
  model.parameters().initialize(3, config.scalar_type(), at::kCPU);
  const SequenceLayout& layout = shared == nullptr ? stream : shared->layout();
  const nn::StepContext context{
      .layout = layout,
      .positions_T = layout.positions(),
      .dropout = true,
      .random_key = RandomKey(11),
      .shared = shared};
  at::Tensor tokens = random_ids(5, stream.num_tokens, config.vocabulary);
  at::Tensor labels = random_ids(6, stream.num_tokens, config.vocabulary);
  if (shared != nullptr) {
    tokens = shared->own_rows(tokens);
    labels = shared->own_rows(labels);
  }
  Found found;
  const at::Tensor hidden_TD = model.hidden(tokens, context);
  found.loss = model.loss(hidden_TD, labels, std::nullopt).loss_sum;
  found.loss.backward();
  found.hidden_TD = hidden_TD.detach();
  found.loss = found.loss.detach().view(1);
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    found.gradients.push_back(parameter.value.grad());
  }
  return found;
}

void expect_close(const at::Tensor& found, const at::Tensor& wanted, const std::string& what) {
  const double scale = 1.0 + (wanted.numel() == 0 ? 0.0 : wanted.abs().max().item<double>());
  const double off = wanted.numel() == 0 ? 0.0 : (found - wanted).abs().max().item<double>();
  EXPECT_LE(off, kTolerance * scale) << what;
}

void expect_equals_one_rank(
    const ModelConfig& config,
    const std::vector<std::int64_t>& lengths,
    int ranks,
    const ContextRules& rules) {
  const SequenceLayout stream = make_layout_from_lengths(lengths);
  const Found wanted = work_on(config, stream, nullptr);
  parallel::run_ranks({{1, ranks, 1, 1}}, [&](const Mesh& mesh) {
    const auto shared =
        c10::make_intrusive<Context>(stream, mesh.along(Axis::kContext), rules, at::kCPU);
    const Found found = work_on(config, stream, shared.get());
    const std::string what = config.pattern + ", " + std::to_string(stream.num_tokens) +
                             " tokens, rank " + std::to_string(mesh.rank()) + " of " +
                             std::to_string(ranks);
    expect_close(found.hidden_TD, shared->own_rows(wanted.hidden_TD), what);
    mesh.all().all_reduce_(found.loss);
    expect_close(found.loss, wanted.loss, what + ": loss");
    for (std::size_t i = 0; i < found.gradients.size(); ++i) {
      const at::Tensor gradient = found.gradients[i].contiguous();
      mesh.all().all_reduce_(gradient);
      expect_close(gradient, wanted.gradients[i], what + ": gradient " + std::to_string(i));
    }
  });
}

class SharedStream : public testing::TestWithParam<ContextRules> {};

TEST_P(SharedStream, EqualsOneRankWithPackedDocuments) {
  for (const int ranks : {2, 3}) {
    expect_equals_one_rank(tiny_config("M*-M", ranks), {37, 1, 0, 50, 2, 2, 31}, ranks, GetParam());
  }
}

TEST_P(SharedStream, EqualsOneRankWithOneLongDocument) {
  for (const int ranks : {2, 3, 6}) {
    expect_equals_one_rank(tiny_config("M*M", ranks), {613}, ranks, GetParam());
  }
}

// Segments shorter than the convolution, and empty ones.
TEST_P(SharedStream, EqualsOneRankWithFewTokens) {
  for (const std::int64_t tokens : {1, 2, 5, 8, 11, 17}) {
    expect_equals_one_rank(tiny_config("M*M"), {tokens}, 3, GetParam());
    expect_equals_one_rank(tiny_config("MM"), {tokens / 2, tokens - tokens / 2}, 3, GetParam());
  }
}

TEST_P(SharedStream, EqualsOneRankWhereDocumentsEndAtTheCuts) {
  expect_equals_one_rank(tiny_config("M*M", 2), {12, 12, 24}, 2, GetParam());
}

const ContextRules kBaton{};
const ContextRules kRing{ContextStrategy::kBaton, KeyExchange::kRing};
const ContextRules kAllToAll{ContextStrategy::kAllToAll};

INSTANTIATE_TEST_SUITE_P(
    Strategies,
    SharedStream,
    testing::Values(kBaton, kRing, kAllToAll),
    [](const auto& parameter) {
      if (parameter.param.strategy == ContextStrategy::kAllToAll) {
        return "AllToAll";
      }
      return parameter.param.keys == KeyExchange::kRing ? "Ring" : "Baton";
    });

// No count has to divide by the ranks.
TEST(Baton, AsksNothingOfHeadsAndGroups) {
  expect_equals_one_rank(tiny_config("M*M"), {40, 61}, 4, kBaton);
  expect_equals_one_rank(tiny_config("M*M"), {40, 61}, 5, kBaton);
}

TEST(AllToAll, RefusesHeadsThatDoNotDivide) {
  EXPECT_THROW(expect_equals_one_rank(tiny_config("M"), {40}, 4, kAllToAll), c10::Error);
  EXPECT_THROW(expect_equals_one_rank(tiny_config("*"), {40}, 4, kAllToAll), c10::Error);
}

// bf16 on several ranks may be 1.5 times as far from the fp32 run as bf16 on one rank is.
constexpr double kBf16Factor = 1.5;

/// Root of the mean square of what all gradients are off, each in proportion to its size.
double distance(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& wanted) {
  double sum = 0.0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const at::Tensor exact = wanted[i].to(at::kDouble);
    sum += ((found[i].to(at::kDouble) - exact).pow(2).sum() / exact.pow(2).sum().clamp_min(1e-30))
               .item<double>();
  }
  return std::sqrt(sum / static_cast<double>(wanted.size()));
}

TEST_P(SharedStream, InBf16IsAsCloseToFp32AsOneRank) {
  ModelConfig config = tiny_config("M*-M", 2);
  config.dtype = "fp32";
  const SequenceLayout stream = make_layout_from_lengths({300, 17, 195});
  const Found exact = work_on(config, stream, nullptr);
  config.dtype = "bf16";
  const double alone = distance(work_on(config, stream, nullptr).gradients, exact.gradients);
  parallel::run_ranks({{1, 2, 1, 1}}, [&](const Mesh& mesh) {
    const auto shared =
        c10::make_intrusive<Context>(stream, mesh.along(Axis::kContext), GetParam(), at::kCPU);
    std::vector<at::Tensor> sums;
    for (const at::Tensor& gradient : work_on(config, stream, shared.get()).gradients) {
      sums.push_back(gradient.to(at::kFloat).contiguous());
      mesh.all().all_reduce_(sums.back());
    }
    EXPECT_LE(distance(sums, exact.gradients), kBf16Factor * alone);
  });
}

// Bytes that each rank sends for a layer of Mamba-2, forward and backward.
std::vector<std::int64_t> traffic_of(std::int64_t tokens, int ranks, const ContextRules& rules) {
  std::vector<std::int64_t> sent(static_cast<std::size_t>(ranks));
  const SequenceLayout stream = make_layout_from_lengths({tokens});
  parallel::run_ranks({{1, ranks, 1, 1}}, [&](const Mesh& mesh) {
    const auto shared =
        c10::make_intrusive<Context>(stream, mesh.along(Axis::kContext), rules, at::kCPU);
    work_on(tiny_config("M", 2), stream, shared.get());
    sent[static_cast<std::size_t>(mesh.rank())] = mesh.along(Axis::kContext).traffic().total();
  });
  return sent;
}

TEST(Baton, TrafficOfALayerDoesNotGrowWithTheLength) {
  const ModelConfig config = tiny_config("M", 2);
  const std::int64_t state =
      8 * config.mamba.num_heads * (config.mamba.head_dim * config.mamba.state_size + 1);
  const std::int64_t channels =
      config.mamba.inner() + 2 * config.mamba.num_groups * config.mamba.state_size;
  const std::int64_t tails = 8 * 2 * channels * (config.mamba.conv_width - 1);
  // One state up, two down in each round: to ranks 1, 2 and 4 away.
  const std::vector<std::pair<int, std::vector<std::int64_t>>> states{
      {2, {1, 2}}, {3, {2, 3, 4}}, {8, {3, 5, 7, 7, 8, 8, 7, 6}}};
  for (const auto& [ranks, counts] : states) {
    std::vector<std::int64_t> expected;
    for (const std::int64_t count : counts) {
      // Tails of both segments; all of it backwards too.
      expected.push_back(2 * (count * state + (ranks - 1) * tails));
    }
    EXPECT_EQ(traffic_of(64, ranks, kBaton), expected);
    EXPECT_EQ(traffic_of(1024, ranks, kBaton), expected);
  }
  EXPECT_EQ(traffic_of(1024, 2, kAllToAll)[0], 16 * traffic_of(64, 2, kAllToAll)[0]);
}

} // namespace
} // namespace baton::model

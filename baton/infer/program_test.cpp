// SPDX-License-Identifier: Apache-2.0
#include "baton/infer/program.h"

#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/random.h"
#include "baton/infer/state_cache.h"

namespace baton::infer {
namespace {

constexpr std::int64_t kVocabulary = 31;

model::ModelConfig tiny_config(const std::string& pattern) {
  model::ModelConfig config;
  config.pattern = pattern;
  config.width = 24;
  config.vocabulary = kVocabulary;
  config.start_deviation = 0.2;
  config.mamba.num_heads = 4;
  config.mamba.head_dim = 8;
  config.mamba.num_groups = 2;
  config.mamba.state_size = 12;
  config.attention.num_heads = 4;
  config.attention.num_kv_heads = 2;
  config.attention.head_dim = 8;
  config.mlp.hidden = 40;
  return config;
}

std::vector<std::int64_t> random_tokens(RandomKey key, std::int64_t count) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int64_t>(
        uniform_at(key, static_cast<std::uint64_t>(i)) * static_cast<double>(kVocabulary)));
  }
  return tokens;
}

at::Tensor whole_pass(const model::HybridModel& model, const std::vector<std::int64_t>& tokens) {
  const at::InferenceMode inference;
  const SequenceLayout layout =
      make_layout_from_lengths({static_cast<std::int64_t>(tokens.size())});
  const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
  return model.hidden(at::tensor(tokens, at::kLong), context);
}

// The largest difference relative to the largest value; fp32 through a few layers stays far below.
constexpr double kRelativeTolerance = 1e-4;

void expect_close(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const double scale = expected.abs().max().item<double>();
  EXPECT_LE((actual - expected).abs().max().item<double>(), kRelativeTolerance * scale) << what;
}

/// Feeds one sequence in random pieces, single tokens among them, and compares with one pass.
void expect_splits_agree(const std::string& pattern) {
  model::HybridModel model(tiny_config(pattern));
  model.parameters().initialize(5, at::kFloat, at::kCPU);
  const std::vector<std::int64_t> tokens = random_tokens(RandomKey(3), 90);
  const at::Tensor expected = whole_pass(model, tokens);
  for (std::uint64_t trial = 0; trial < 6; ++trial) {
    StateCache cache(model.states(), {.num_slots = 1, .num_pages = 20, .page_size = 5});
    Program program(model, cache);
    const std::int32_t slot = cache.acquire();
    std::vector<at::Tensor> pieces;
    std::size_t begin = 0;
    for (std::uint64_t draw = 0; begin < tokens.size(); ++draw) {
      const double u = uniform_at(RandomKey(trial), draw);
      const std::size_t size = u < 0.5 ? 1 : 1 + static_cast<std::size_t>(u * 30.0);
      const std::size_t end = std::min(begin + size, tokens.size());
      pieces.push_back(program.run(
          {{.slot = slot,
            .tokens = {
                tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                tokens.begin() + static_cast<std::ptrdiff_t>(end)}}}));
      begin = end;
    }
    expect_close(at::cat(pieces), expected, pattern + " trial " + std::to_string(trial));
  }
}

TEST(Program, DecodeEqualsPrefillMamba) {
  expect_splits_agree("MM");
}

TEST(Program, DecodeEqualsPrefillAttention) {
  expect_splits_agree("**");
}

TEST(Program, DecodeEqualsPrefillMlp) {
  expect_splits_agree("-");
}

TEST(Program, DecodeEqualsPrefillHybrid) {
  expect_splits_agree("M-M*-M-");
}

TEST(Program, SequencesOfABatchAreIndependent) {
  model::HybridModel model(tiny_config("M*-M"));
  model.parameters().initialize(6, at::kFloat, at::kCPU);
  StateCache cache(model.states(), {.num_slots = 3, .num_pages = 30, .page_size = 4});
  Program program(model, cache);
  std::vector<std::vector<std::int64_t>> tokens;
  std::vector<BatchItem> prompts;
  for (std::uint64_t i = 0; i < 3; ++i) {
    tokens.push_back(random_tokens(RandomKey(20 + i), 11 + 7 * static_cast<std::int64_t>(i)));
    const std::vector<std::int64_t> prompt(tokens[i].begin(), tokens[i].end() - 3);
    prompts.push_back({.slot = cache.acquire(), .tokens = prompt});
  }
  program.run(prompts);
  at::Tensor hidden_BD;
  for (std::size_t step = 3; step >= 1; --step) {
    std::vector<BatchItem> items;
    for (std::size_t i = 0; i < 3; ++i) {
      items.push_back({.slot = prompts[i].slot, .tokens = {tokens[i][tokens[i].size() - step]}});
    }
    hidden_BD = program.run(items);
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const auto row = static_cast<std::int64_t>(i);
    expect_close(hidden_BD[row], whole_pass(model, tokens[i])[-1], std::to_string(i));
  }
}

} // namespace
} // namespace baton::infer

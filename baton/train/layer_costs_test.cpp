// SPDX-License-Identifier: Apache-2.0
// Costs of layers against what autograd keeps and against counts by hand.
#include "baton/train/layer_costs.h"

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/model/hybrid_model.h"
#include "baton/parallel/thread_ranks.h"

namespace baton::train {
namespace {

using parallel::Axis;
using parallel::ContextRules;
using parallel::ContextStrategy;
using parallel::KeyExchange;

// Small tensors per head and per sequence are not in the formulas.
constexpr double kMemoryTolerance = 0.01;

/// Counts the bytes that tensors hold on the CPU. The number of a block's stands before it.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* block = std::aligned_alloc(kAlignment, (bytes / kAlignment + 2) * kAlignment);
    std::memcpy(block, &bytes, sizeof(bytes));
    live += static_cast<std::int64_t>(bytes);
    void* data = static_cast<char*>(block) + kAlignment;
    return {data, data, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  static inline std::atomic<std::int64_t> live{0};

 private:
  static constexpr std::size_t kAlignment = 64;

  static void release(void* data) {
    void* block = static_cast<char*>(data) - kAlignment;
    std::size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof(bytes));
    live -= static_cast<std::int64_t>(bytes);
    std::free(block);
  }
};

void count_allocations() {
  static CountingAllocator allocator;
  static const bool installed = [] {
    constexpr std::uint8_t kHighestPriority = 100;
    c10::SetCPUAllocator(&allocator, kHighestPriority);
    return true;
  }();
  (void)installed;
}

model::ModelConfig small_config(const std::string& pattern) {
  model::ModelConfig config;
  config.pattern = pattern;
  config.width = 48;
  config.vocabulary = 96;
  config.dtype = "fp32";
  config.mamba.num_heads = 8;
  config.mamba.head_dim = 8;
  config.mamba.num_groups = 2;
  config.mamba.state_size = 16;
  config.attention.num_heads = 6;
  config.attention.num_kv_heads = 2;
  config.attention.head_dim = 12;
  config.mlp.hidden = 112;
  return config;
}

constexpr std::int64_t kTokens = 1024;

/// A model on one rank, and its forward pass.
class Forward {
 public:
  Forward(const model::ModelConfig& config, std::int64_t tokens) : model_(config) {
    model_.parameters().initialize(1, config.scalar_type(), at::kCPU);
    tokens_T_ = at::zeros({tokens}, at::kLong);
  }

  void run(const nn::StepContext& context) {
    hidden_TD_ = model_.hidden(tokens_T_, context);
    loss_ = model_.loss(hidden_TD_, tokens_T_, std::nullopt).loss_sum;
  }

 private:
  model::HybridModel model_;
  at::Tensor tokens_T_;
  at::Tensor hidden_TD_;
  at::Tensor loss_;
};

/// Bytes that live from the forward pass to the backward pass, with the final hidden states that a
/// step holds itself, without parameters, token ids and positions.
double measured_kept(const model::ModelConfig& config, const SequenceLayout& layout) {
  count_allocations();
  Forward forward(config, layout.num_tokens);
  const nn::StepContext context{.layout = layout, .positions_T = layout.positions()};
  const std::int64_t before = CountingAllocator::live;
  forward.run(context);
  return static_cast<double>(CountingAllocator::live - before);
}

/// What is held once threads of Gloo have let go of what they have sent: the same three times.
std::int64_t settled_bytes() {
  std::int64_t bytes = CountingAllocator::live;
  for (int same = 0; same < 3;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::int64_t now = CountingAllocator::live;
    same = now == bytes ? same + 1 : 0;
    bytes = now;
  }
  return bytes;
}

/// The same of all ranks together that share one document.
double measured_kept(const model::ModelConfig& config, int ranks, const ContextRules& rules) {
  count_allocations();
  const SequenceLayout stream = make_layout_from_lengths({kTokens});
  std::barrier all(ranks);
  std::int64_t before = 0;
  std::int64_t after = 0;
  parallel::run_ranks({{1, ranks, 1, 1}}, [&](const parallel::Mesh& mesh) {
    const auto shared =
        c10::make_intrusive<parallel::Context>(stream, mesh.along(Axis::kContext), rules, at::kCPU);
    Forward forward(config, shared->layout().num_tokens);
    const nn::StepContext context{
        .layout = shared->layout(),
        .positions_T = shared->layout().positions(),
        .shared = shared.get()};
    all.arrive_and_wait();
    if (mesh.rank() == 0) {
      before = settled_bytes();
    }
    all.arrive_and_wait();
    forward.run(context);
    all.arrive_and_wait();
    if (mesh.rank() == 0) {
      after = settled_bytes();
    }
    all.arrive_and_wait();
  });
  return static_cast<double>(after - before);
}

double predicted_kept(const model::ModelConfig& config, const LayerShare& share) {
  // Token ids are counted where they were made.
  double kept = head_costs(config, share).kept;
  for (const char symbol : config.pattern) {
    kept += layer_costs(symbol, config, share).kept;
  }
  return kept;
}

void expect_kept(const model::ModelConfig& config) {
  const SequenceLayout layout = make_layout_from_lengths({kTokens / 2, kTokens / 2});
  const double measured = measured_kept(config, layout);
  const LayerShare share{.tokens = kTokens, .document = kTokens / 2};
  EXPECT_NEAR(predicted_kept(config, share) / measured, 1.0, kMemoryTolerance) << config.pattern;
}

TEST(LayerCosts, KeptBytesAreWhatAutogradKeeps) {
  for (const char* pattern : {"M", "*", "-", "MMMM", "****", "----", "M-M*-"}) {
    expect_kept(small_config(pattern));
  }
}

TEST(LayerCosts, KeptBytesFollowTheOptionsOfLayers) {
  model::ModelConfig config = small_config("M-*M-*");
  config.mlp.activation = "swiglu";
  config.attention.query_key_norm = true;
  expect_kept(config);
  config.attention.rotary.enabled = false;
  config.mlp.activation = "gelu";
  expect_kept(config);
  config.dtype = "bf16";
  expect_kept(config);
  config.tied = true;
  config.residual_fp32 = true;
  expect_kept(config);
}

TEST(LayerCosts, KeptBytesOfSharedStreamsAreWhatAutogradKeeps) {
  constexpr int kRanks = 2;
  for (const ContextRules& rules :
       {ContextRules{ContextStrategy::kBaton, KeyExchange::kGather},
        ContextRules{ContextStrategy::kBaton, KeyExchange::kRing},
        ContextRules{ContextStrategy::kAllToAll, KeyExchange::kGather}}) {
    for (const char* pattern : {"MM", "**"}) {
      const model::ModelConfig config = small_config(pattern);
      const double of_rank = predicted_kept(
          config, {.tokens = kTokens, .document = kTokens, .cp = kRanks, .rules = rules});
      const double measured = measured_kept(config, kRanks, rules);
      EXPECT_NEAR(kRanks * of_rank / measured, 1.0, kMemoryTolerance)
          << pattern << " strategy " << static_cast<int>(rules.strategy);
    }
  }
}

TEST(LayerCosts, OperationsOfAMixerAreThoseCountedByHand) {
  const model::ModelConfig config = small_config("M");
  const LayerCosts costs = mamba_costs(config, {.tokens = 100, .document = 100});
  // in_proj makes z 64, x 64, B 32, C 32, dt 8 of 48 channels; out_proj 48 of 64.
  EXPECT_EQ(costs.product_operations(), 2.0 * 100 * (48 * (64 + 64 + 32 + 32 + 8) + 64 * 48));
  // A token and head: C B^T 2 * 64 * 16, weights with x 2 * 64 * 8, state in and out 2 * 2 * 16
  // * 8.
  EXPECT_EQ(costs.scan, 100.0 * 8 * (2048 + 1024 + 512));
  EXPECT_EQ(costs.attention, 0.0);
}

TEST(LayerCosts, OperationsOfAttentionAreThoseCountedByHand) {
  const model::ModelConfig config = small_config("*");
  const LayerCosts costs = attention_costs(config, {.tokens = 100, .document = 50});
  EXPECT_EQ(costs.product_operations(), 2.0 * 100 * (48 * (72 + 24 + 24) + 72 * 48));
  // Two documents of 50 tokens with 50 * 51 / 2 pairs; 6 heads of 12 channels, scores and values.
  EXPECT_EQ(costs.attention, 2.0 * 1275 * 6 * 2 * 2 * 12);
}

TEST(LayerCosts, OperationsOfTheOthersAreThoseCountedByHand) {
  model::ModelConfig config = small_config("-");
  const LayerShare share{.tokens = 100, .document = 100};
  EXPECT_EQ(mlp_costs(config, share).operations(), 2.0 * 100 * 48 * 112 * 2);
  config.mlp.activation = "swiglu";
  EXPECT_EQ(mlp_costs(config, share).operations(), 2.0 * 100 * 48 * 112 * 3);
  EXPECT_EQ(head_costs(config, share).operations(), 2.0 * 100 * 48 * 96);
  EXPECT_EQ(embedding_costs(config, share).operations(), 0.0);
}

TEST(LayerCosts, RanksShareOperationsEvenly) {
  const model::ModelConfig config = small_config("M*-");
  const LayerShare alone{.tokens = 4096, .document = 4096};
  for (const char symbol : config.pattern) {
    const double all = layer_costs(symbol, config, alone).operations();
    LayerShare share = alone;
    share.cp = 4;
    EXPECT_NEAR(layer_costs(symbol, config, share).operations(), all / 4, 1e-9 * all);
    share.tp = 2;
    EXPECT_NEAR(layer_costs(symbol, config, share).operations(), all / 8, 1e-9 * all);
  }
}

TEST(LayerCosts, TheBatonsTrafficDoesNotGrowWithTheStream) {
  const model::ModelConfig config = small_config("M");
  const auto sent = [&](std::int64_t tokens, ContextStrategy strategy) {
    return mamba_costs(
               config,
               {.tokens = tokens, .document = tokens, .cp = 4, .rules = {.strategy = strategy}})
        .context.bytes;
  };
  EXPECT_EQ(sent(1024, ContextStrategy::kBaton), sent(65536, ContextStrategy::kBaton));
  EXPECT_EQ(64 * sent(1024, ContextStrategy::kAllToAll), sent(65536, ContextStrategy::kAllToAll));
  // 5 states of 4 * 8 * (8 * 16 + 1) bytes and 3 * 2 tails of 3 rows of 128 channels, both ways.
  EXPECT_EQ(sent(1024, ContextStrategy::kBaton), 2.0 * (5 * 4 * 8 * 129 + 3 * 2 * 3 * 128 * 4));
}

TEST(LayerCosts, StepsOfMessagesAreThoseOneAfterTheOther) {
  const model::ModelConfig config = small_config("M*-");
  const auto of_context = [&](char symbol, std::int64_t cp, const ContextRules& rules) {
    const LayerShare share{.tokens = 1024, .document = 1024, .cp = cp, .rules = rules};
    return layer_costs(symbol, config, share).context.steps;
  };
  const ContextRules gather{ContextStrategy::kBaton, KeyExchange::kGather};
  const ContextRules ring{ContextStrategy::kBaton, KeyExchange::kRing};
  const ContextRules heads{ContextStrategy::kAllToAll, KeyExchange::kGather};
  // States and tails, both passes: three rounds each.
  EXPECT_EQ(of_context('M', 8, gather), 12.0);
  EXPECT_EQ(of_context('M', 5, gather), 12.0);
  // Three gathers, or seven neighbours twice and eight for the gradients on their way home.
  EXPECT_EQ(of_context('*', 8, gather), 9.0);
  EXPECT_EQ(of_context('*', 8, ring), 22.0);
  EXPECT_EQ(of_context('M', 8, heads), 12.0);
  EXPECT_EQ(of_context('*', 8, heads), 12.0);
  for (const std::int64_t tp : {1, 2, 8}) {
    const LayerShare share{.tokens = 1024, .document = 1024, .tp = tp};
    const double rounds = tp == 1 ? 0.0 : tp == 2 ? 1.0 : 3.0;
    EXPECT_EQ(mlp_costs(config, share).tensor.steps, 5.0 * rounds);
    EXPECT_EQ(head_costs(config, share).tensor.steps, 5.0 * rounds);
  }
}

TEST(LayerCosts, TheScansBlocksAreHeadsTimesSequences) {
  const model::ModelConfig config = small_config("M");
  const auto blocks = [&](std::int64_t document, std::int64_t cp, ContextStrategy strategy) {
    return mamba_costs(
               config,
               {.tokens = 1024, .document = document, .cp = cp, .rules = {.strategy = strategy}})
        .scan_blocks;
  };
  EXPECT_EQ(blocks(512, 1, ContextStrategy::kBaton), 8 * 2);
  // A rank has two segments, or the documents in its tokens.
  EXPECT_EQ(blocks(512, 4, ContextStrategy::kBaton), 8 * 2);
  EXPECT_EQ(blocks(32, 4, ContextStrategy::kBaton), 8 * 8);
  // Two of eight heads over all documents of the stream.
  EXPECT_EQ(blocks(1024, 4, ContextStrategy::kAllToAll), 2 * 1);
  EXPECT_EQ(blocks(512, 4, ContextStrategy::kAllToAll), 2 * 2);
  EXPECT_EQ(blocks(32, 4, ContextStrategy::kAllToAll), 2 * 32);
}

TEST(LayerCosts, GradientsOfAMixersColumnsAreJoinedWhereItIsNoSingleOperator) {
  model::ModelConfig config = small_config("M");
  const auto transient = [&](std::int64_t tp, std::int64_t cp) {
    return mamba_costs(config, {.tokens = 1024 * cp, .document = 1024, .tp = tp, .cp = cp})
        .transient;
  };
  // z 64, x 64, B 32, C 32, dt 8, in fp32.
  EXPECT_EQ(transient(1, 2) - transient(1, 1), 4.0 * 1024 * 200);
  // With one group of the norm for two ranks of tp, half of these.
  const double alone = transient(2, 1);
  config.mamba.norm_groups = 1;
  EXPECT_EQ(transient(2, 1) - alone, 4.0 * 1024 * 100);
  config.mamba.norm = false;
  EXPECT_EQ(transient(2, 1), alone);
}

TEST(LayerCosts, AnUnknownKindIsRefused) {
  EXPECT_THROW(layer_costs('E', small_config("M"), {.tokens = 1, .document = 1}), Error);
}

} // namespace
} // namespace baton::train

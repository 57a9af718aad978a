// SPDX-License-Identifier: Apache-2.0
#include "baton/model/hybrid_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "baton/base/random.h"

namespace baton::model {
namespace {

// A model with all layer kinds, odd sizes and groups of several heads.
ModelConfig tiny_config(const std::string& pattern, const std::string& dtype) {
  ModelConfig config;
  config.pattern = pattern;
  config.width = 20;
  config.vocabulary = 23;
  config.dtype = dtype;
  config.start_deviation = 0.2;
  config.mamba.num_heads = 4;
  config.mamba.head_dim = 6;
  config.mamba.num_groups = 2;
  config.mamba.state_size = 5;
  config.attention.num_heads = 4;
  config.attention.num_kv_heads = 2;
  config.attention.head_dim = 6;
  config.attention.rotary.fraction = 0.7;
  config.mlp.hidden = 28;
  return config;
}

at::Tensor random_ids(std::uint64_t key, std::int64_t count, std::int64_t vocabulary) {
  return uniform(RandomKey(key), {count}, 0.0, static_cast<double>(vocabulary))
      .floor()
      .to(at::kLong);
}

nn::StepContext training_context(const SequenceLayout& layout) {
  return {.layout = layout, .positions_T = layout.positions()};
}

at::Tensor loss_of(const HybridModel& model, const SequenceLayout& layout, std::uint64_t key) {
  const at::Tensor tokens = random_ids(key, layout.num_tokens, model.config().vocabulary);
  const at::Tensor labels = random_ids(key + 1, layout.num_tokens, model.config().vocabulary);
  const at::Tensor hidden_TD = model.hidden(tokens, training_context(layout));
  return model.loss(hidden_TD, labels, std::nullopt).loss_sum / layout.num_tokens;
}

// Central differences of a smooth fp64 function err by step^2 and by rounding over step.
constexpr double kStep = 1e-5;
constexpr double kDifferenceTolerance = 1e-6;

void expect_gradients_match_differences(ModelConfig config) {
  HybridModel model(config);
  model.parameters().initialize(3, at::kDouble, at::kCPU);
  const SequenceLayout layout = make_layout_from_lengths({7, 1, 0, 9});
  loss_of(model, layout, 5).backward();
  const at::NoGradGuard no_grad;
  for (const nn::Parameter& parameter : model.parameters().parameters()) {
    ASSERT_TRUE(parameter.value.grad().defined()) << parameter.spec.name;
    const at::Tensor direction =
        normal(RandomKey(9).with(parameter.spec.name), parameter.value.sizes(), 1.0);
    const double analytic = (parameter.value.grad() * direction).sum().item<double>();
    parameter.value.add_(direction, kStep);
    const double above = loss_of(model, layout, 5).item<double>();
    parameter.value.sub_(direction, 2 * kStep);
    const double below = loss_of(model, layout, 5).item<double>();
    parameter.value.add_(direction, kStep);
    const double numeric = (above - below) / (2 * kStep);
    EXPECT_NEAR(numeric, analytic, kDifferenceTolerance * (1.0 + std::abs(numeric)))
        << parameter.spec.name;
  }
}

TEST(HybridModel, GradientsMatchFiniteDifferences) {
  expect_gradients_match_differences(tiny_config("M*-M", "fp64"));
}

TEST(HybridModel, GradientsMatchFiniteDifferencesWithOptions) {
  ModelConfig config = tiny_config("-M*", "fp64");
  config.tied = true;
  config.residual_fp32 = true;
  config.mamba.bias = true;
  config.mamba.d_per_channel = true;
  config.mamba.gate_first = false;
  config.mamba.dt_max = 0.05;
  config.attention.bias = true;
  config.attention.query_key_norm = true;
  config.attention.rotary.interleaved = true;
  config.mlp.bias = true;
  config.mlp.activation = "swiglu";
  expect_gradients_match_differences(config);
  config.mamba.norm = false;
  config.attention.rotary.enabled = false;
  config.mlp.activation = "gelu";
  expect_gradients_match_differences(config);
}

// Packed sequences see each other only through rounding, which fp64 leaves at 1e-12.
TEST(HybridModel, PackedSequencesAreIndependent) {
  HybridModel model(tiny_config("M-*M", "fp64"));
  model.parameters().initialize(4, at::kDouble, at::kCPU);
  const at::NoGradGuard no_grad;
  const std::vector<std::int64_t> lengths{5, 0, 1, 70, 12};
  const SequenceLayout packed = make_layout_from_lengths(lengths);
  const at::Tensor tokens = random_ids(8, packed.num_tokens, 23);
  const at::Tensor together = model.hidden(tokens, training_context(packed));
  std::int64_t begin = 0;
  for (const std::int64_t length : lengths) {
    const SequenceLayout alone = make_layout_from_lengths({length});
    const at::Tensor hidden =
        model.hidden(tokens.slice(0, begin, begin + length), training_context(alone));
    EXPECT_TRUE(at::allclose(hidden, together.slice(0, begin, begin + length), 1e-12, 1e-12));
    begin += length;
  }
}

TEST(HybridModel, StartValuesDependOnSeedAndNameAlone) {
  HybridModel first(tiny_config("MM", "fp32"));
  HybridModel second(tiny_config("MM-", "fp32"));
  first.parameters().initialize(1, at::kFloat, at::kCPU);
  second.parameters().initialize(1, at::kFloat, at::kCPU);
  const std::string name = "layers.1.mixer.in_proj.weight";
  EXPECT_TRUE(at::equal(first.parameters().at(name).value, second.parameters().at(name).value));
  const at::Tensor dt_bias = first.parameters().at("layers.0.mixer.dt_bias").value;
  const at::Tensor dt = at::softplus(dt_bias);
  EXPECT_GE(dt.min().item<double>(), 0.99e-3);
  EXPECT_LE(dt.max().item<double>(), 0.101);
}

TEST(HybridModel, DropoutIsAFunctionOfItsKey) {
  ModelConfig config = tiny_config("M-", "fp32");
  config.dropout = 0.5;
  HybridModel model(config);
  model.parameters().initialize(2, at::kFloat, at::kCPU);
  const at::NoGradGuard no_grad;
  const SequenceLayout layout = make_layout_from_lengths({16});
  const at::Tensor tokens = random_ids(3, 16, 23);
  nn::StepContext context = training_context(layout);
  context.dropout = true;
  context.random_key = RandomKey(1);
  const at::Tensor once = model.hidden(tokens, context);
  EXPECT_TRUE(at::equal(once, model.hidden(tokens, context)));
  context.random_key = RandomKey(2);
  EXPECT_FALSE(at::equal(once, model.hidden(tokens, context)));
}

TEST(HybridModel, RefusesWhatItCannotBuild) {
  EXPECT_THROW(HybridModel(tiny_config("ME-", "fp32")), c10::Error);
  ModelConfig config = tiny_config("M*", "fp32");
  config.attention.sliding_window = 8;
  EXPECT_THROW(HybridModel{config}, c10::Error);
  config = tiny_config("M*", "fp32");
  config.mamba.num_groups = 3;
  EXPECT_THROW(HybridModel{config}, c10::Error);
}

TEST(HybridModel, TapsHiddenStates) {
  const ModelConfig config = tiny_config("M-M", "fp32");
  nn::ParameterStore store;
  const Stack stack(config.pattern, config.layer_config(3), store);
  store.initialize(6, at::kFloat, at::kCPU);
  const at::NoGradGuard no_grad;
  const SequenceLayout layout = make_layout_from_lengths({5});
  const at::Tensor start = normal(RandomKey(4), {5, 20}, 1.0).to(at::kFloat);
  const StackOutput output = stack.forward(start, training_context(layout), {0, 2});
  ASSERT_EQ(output.tapped.size(), 2U);
  EXPECT_TRUE(at::equal(output.tapped[1], output.hidden_TD));
  EXPECT_FALSE(at::equal(output.tapped[0], output.hidden_TD));
}

}  // namespace
}  // namespace baton::model

// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mamba2_step.h"

#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

struct StepCase {
  std::int64_t B, D, H, P, G, N, K;
  bool bias = true;
  bool skip_per_channel = false;
  bool norm = true;
  bool gate_first = true;
};

// Odd sizes leave rests behind every vector and block; the last fills several items of a product.
const std::vector<StepCase> kCases{
    {.B = 1, .D = 7, .H = 2, .P = 3, .G = 1, .N = 5, .K = 4},
    {.B = 2, .D = 33, .H = 4, .P = 9, .G = 2, .N = 16, .K = 2, .bias = false},
    {.B = 3, .D = 64, .H = 3, .P = 32, .G = 3, .N = 7, .K = 3, .skip_per_channel = true},
    {.B = 4, .D = 20, .H = 6, .P = 5, .G = 2, .N = 33, .K = 1, .norm = false},
    {.B = 5, .D = 48, .H = 2, .P = 40, .G = 2, .N = 24, .K = 5, .gate_first = false},
    {.B = 6, .D = 18, .H = 4, .P = 8, .G = 4, .N = 3, .K = 6, .bias = false, .norm = false},
    {.B = 7, .D = 96, .H = 8, .P = 16, .G = 1, .N = 16, .K = 7},
    {.B = 8, .D = 31, .H = 1, .P = 65, .G = 1, .N = 130, .K = 8, .gate_first = false},
    {.B = 9, .D = 16, .H = 2, .P = 8, .G = 1, .N = 8, .K = 4},
    {.B = 1, .D = 512, .H = 16, .P = 64, .G = 2, .N = 128, .K = 4},
};

std::string name_of(const StepCase& sizes) {
  return "B " + std::to_string(sizes.B) + ", D " + std::to_string(sizes.D) + ", K " +
         std::to_string(sizes.K);
}

struct Step {
  Mamba2StepInputs inputs;
  Mamba2StepStates states;
};

/// Sequences take slots from the last one down; the second one has none.
Step make_step(const StepCase& sizes, at::ScalarType dtype) {
  const auto [B, D, H, P, G, N, K, bias, skip_per_channel, norm, gate_first] = sizes;
  const std::int64_t inner = H * P;
  const std::int64_t channels = inner + 2 * G * N;
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto normal = [](at::IntArrayRef shape, at::ScalarType type) {
    return at::randn(shape, at::kDouble).to(type);
  };
  const auto weight = [&](std::int64_t rows, std::int64_t columns) {
    return (at::randn({rows, columns}, at::kDouble) / std::sqrt(columns)).to(dtype);
  };
  const auto if_bias = [&](std::int64_t size) {
    return sizes.bias ? std::optional(normal({size}, dtype)) : std::nullopt;
  };
  at::Tensor slots_B = at::arange(B, 0, -1).to(at::kInt);
  if (B > 1) {
    slots_B[1] = -1;
  }
  return {
      {.hidden_BD = normal({B, D}, dtype),
       .frame = {normal({D}, dtype), 1e-5, 0.75},
       .in_weight_CD = weight(inner + channels + H, D),
       .in_bias_C = if_bias(inner + channels + H),
       .conv_weight_CK = normal({channels, K}, dtype),
       .conv_bias_C = if_bias(channels),
       .A_log_H = at::rand({H}, at::kDouble).to(wide),
       .D = skip_per_channel ? normal({H, P}, wide) : normal({H}, wide),
       .dt_bias_H = bias ? std::optional(normal({H}, wide)) : std::nullopt,
       .dt_min = 0.01,
       .dt_max = 2.0,
       .norm_weight = norm ? std::optional(normal({inner}, dtype)) : std::nullopt,
       .norm = {1e-5, inner / G, gate_first},
       .out_weight_DI = weight(D, inner),
       .out_bias_D = if_bias(D),
       .num_groups = G},
      {.conv_SCK = normal({B + 2, channels, K - 1}, wide),
       .ssm_SHPN = normal({B + 2, H, P, N}, wide),
       .slots_B = slots_B}};
}

Mamba2StepStates copy_of(const Mamba2StepStates& states) {
  return {states.conv_SCK.clone(), states.ssm_SHPN.clone(), states.slots_B};
}

class Mamba2Step : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(Mamba2Step, IsTheOperatorsOneAfterTheOther) {
  at::manual_seed(1);
  for (const StepCase& sizes : kCases) {
    Step step = make_step(sizes, GetParam());
    const Mamba2StepStates expected_states = copy_of(step.states);
    for (int token = 0; token < 3; ++token) {
      const at::Tensor found = mamba2_step_(step.inputs, step.states);
      const at::Tensor expected = mamba2_step_by_operators_(step.inputs, expected_states);
      EXPECT_EQ(found.scalar_type(), GetParam());
      expect_close(found, expected, name_of(sizes));
      expect_close(step.states.conv_SCK, expected_states.conv_SCK, name_of(sizes));
      expect_close(step.states.ssm_SHPN, expected_states.ssm_SHPN, name_of(sizes));
      step.inputs.hidden_BD = found;
    }
  }
}

TEST_P(Mamba2Step, ThreadsDoNotChangeBits) {
  at::manual_seed(2);
  for (const StepCase& sizes : kCases) {
    const Step step = make_step(sizes, GetParam());
    expect_equal_bits_on_threads([&] {
      const Mamba2StepStates states = copy_of(step.states);
      const at::Tensor out = mamba2_step_(step.inputs, states);
      return std::vector<at::Tensor>{out, states.conv_SCK, states.ssm_SHPN};
    });
  }
}

TEST_P(Mamba2Step, RowsDoNotSeeEachOther) {
  at::manual_seed(3);
  const Step step = make_step(kCases[6], GetParam());
  const Mamba2StepStates states = copy_of(step.states);
  const at::Tensor all = mamba2_step_(step.inputs, states);
  for (std::int64_t row = 0; row < all.size(0); ++row) {
    Step alone = step;
    alone.inputs.hidden_BD = step.inputs.hidden_BD.narrow(0, row, 1);
    alone.states.slots_B = step.states.slots_B.narrow(0, row, 1);
    expect_close(
        mamba2_step_(alone.inputs, alone.states), all.narrow(0, row, 1), std::to_string(row));
  }
  expect_close(states.conv_SCK, step.states.conv_SCK, "states of the convolution");
  expect_close(states.ssm_SHPN, step.states.ssm_SHPN, "states of the scan");
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Mamba2Step, ::testing::ValuesIn(kActivationTypes));

TEST(Mamba2StepStreams, MayBeWiderThanTheLayer) {
  at::manual_seed(4);
  const Step step = make_step(kCases[2], at::kBFloat16);
  Mamba2StepInputs wide = step.inputs;
  wide.hidden_BD = step.inputs.hidden_BD.to(at::kFloat);
  const at::Tensor found = mamba2_step_(wide, copy_of(step.states));
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  const at::Tensor narrow = mamba2_step_(step.inputs, copy_of(step.states));
  expect_close(found.to(at::kBFloat16), narrow, "fp32 beside bf16");
}

TEST(Mamba2StepErrors, RefusesGradientsBadSlotsAndBadSizes) {
  const Step step = make_step(kCases[1], at::kFloat);
  const auto expect_refused = [&](auto change) {
    Step changed = step;
    change(changed);
    EXPECT_THROW(mamba2_step_(changed.inputs, changed.states), c10::Error);
  };
  expect_refused([](Step& s) { s.states.slots_B = at::tensor({0, 4}, at::kInt); });
  expect_refused([](Step& s) { s.states.slots_B = at::tensor({1, 1}, at::kInt); });
  expect_refused([](Step& s) { s.states.slots_B = at::tensor({1}, at::kInt); });
  expect_refused([](Step& s) { s.states.conv_SCK = s.states.conv_SCK.narrow(1, 0, 3); });
  expect_refused([](Step& s) { s.states.ssm_SHPN = s.states.ssm_SHPN.transpose(2, 3); });
  expect_refused([](Step& s) { s.inputs.hidden_BD = s.inputs.hidden_BD.narrow(1, 0, 3); });
  expect_refused([](Step& s) { s.inputs.out_weight_DI = s.inputs.out_weight_DI.t(); });
  expect_refused([](Step& s) { s.inputs.out_bias_D = at::zeros({3}); });
  expect_refused([](Step& s) { s.inputs.frame.norm_weight_D = at::zeros({3}); });
  expect_refused([](Step& s) { s.inputs.num_groups = 3; });
  expect_refused(
      [](Step& s) { s.inputs.hidden_BD = s.inputs.hidden_BD.clone().requires_grad_(true); });
}

} // namespace
} // namespace baton::ops

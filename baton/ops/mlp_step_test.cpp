// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/mlp_step.h"

#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/ops/closeness.h"

namespace baton::ops {
namespace {

struct StepCase {
  std::int64_t B, D, F;
  bool bias;
};

// Odd sizes leave rests behind every vector and block; the last fills several items of a product.
const std::vector<StepCase> kCases{
    {1, 1, 1, true},
    {1, 7, 13, false},
    {2, 33, 64, true},
    {3, 64, 30, false},
    {5, 20, 129, true},
    {8, 31, 48, true},
    {9, 16, 24, true},
    {0, 16, 24, false},
    {1, 512, 2048, false}};

MlpStepInputs make_inputs(const StepCase& sizes, at::ScalarType dtype, bool gated) {
  const auto [B, D, F, bias] = sizes;
  const std::int64_t up = gated ? 2 * F : F;
  const auto normal = [&](at::IntArrayRef shape) {
    return at::randn(shape, at::kDouble).to(dtype);
  };
  const auto weight = [&](std::int64_t rows, std::int64_t columns) {
    return (at::randn({rows, columns}, at::kDouble) / std::sqrt(columns)).to(dtype);
  };
  return {
      .hidden_BD = normal({B, D}),
      .frame = {normal({D}), 1e-5, 0.75},
      .up_weight_FD = weight(up, D),
      .up_bias_F = bias ? std::optional(normal({up})) : std::nullopt,
      .down_weight_DF = weight(D, F),
      .down_bias_D = bias ? std::optional(normal({D})) : std::nullopt};
}

std::string name_of(const StepCase& sizes) {
  return "B " + std::to_string(sizes.B) + ", D " + std::to_string(sizes.D) + ", F " +
         std::to_string(sizes.F);
}

class MlpStep : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(MlpStep, IsTheOperatorsOneAfterTheOther) {
  at::manual_seed(1);
  for (const StepCase& sizes : kCases) {
    const MlpStepInputs plain = make_inputs(sizes, GetParam(), /*gated=*/false);
    expect_close(
        squared_relu_mlp_step(plain), squared_relu_mlp_by_operators(plain), name_of(sizes));
    const MlpStepInputs gated = make_inputs(sizes, GetParam(), /*gated=*/true);
    expect_close(swiglu_mlp_step(gated), swiglu_mlp_by_operators(gated), name_of(sizes));
  }
}

TEST_P(MlpStep, ThreadsDoNotChangeBits) {
  at::manual_seed(2);
  for (const StepCase& sizes : kCases) {
    const MlpStepInputs plain = make_inputs(sizes, GetParam(), /*gated=*/false);
    const MlpStepInputs gated = make_inputs(sizes, GetParam(), /*gated=*/true);
    expect_equal_bits_on_threads([&] {
      return std::vector<at::Tensor>{squared_relu_mlp_step(plain), swiglu_mlp_step(gated)};
    });
  }
}

TEST_P(MlpStep, TakesRowsAndWeightsThatLieApart) {
  at::manual_seed(3);
  const MlpStepInputs dense = make_inputs(kCases[2], GetParam(), /*gated=*/false);
  MlpStepInputs apart = dense;
  apart.hidden_BD = with_row_gap(dense.hidden_BD, 3);
  apart.up_weight_FD = with_row_gap(dense.up_weight_FD, 5);
  apart.down_weight_DF = dense.down_weight_DF.t().contiguous().t();
  expect_close(squared_relu_mlp_step(apart), squared_relu_mlp_step(dense), "apart");
}

INSTANTIATE_TEST_SUITE_P(Dtypes, MlpStep, ::testing::ValuesIn(kActivationTypes));

TEST(MlpStepStreams, MayBeWiderThanTheLayer) {
  at::manual_seed(4);
  const MlpStepInputs narrow = make_inputs(kCases[2], at::kBFloat16, /*gated=*/true);
  MlpStepInputs wide = narrow;
  wide.hidden_BD = narrow.hidden_BD.to(at::kFloat);
  const at::Tensor found = swiglu_mlp_step(wide);
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  expect_close(found.to(at::kBFloat16), swiglu_mlp_step(narrow), "fp32 beside bf16");
}

TEST(MlpStepErrors, RefusesGradientsAndBadSizes) {
  const auto expect_refused = [&](auto change) {
    MlpStepInputs inputs = make_inputs(kCases[2], at::kFloat, /*gated=*/false);
    change(inputs);
    EXPECT_THROW(squared_relu_mlp_step(inputs), c10::Error);
  };
  expect_refused([](MlpStepInputs& in) { in.hidden_BD = in.hidden_BD.narrow(1, 0, 3); });
  expect_refused([](MlpStepInputs& in) { in.up_weight_FD = in.up_weight_FD.narrow(0, 0, 3); });
  expect_refused([](MlpStepInputs& in) { in.down_weight_DF = in.down_weight_DF.t(); });
  expect_refused([](MlpStepInputs& in) { in.down_bias_D = at::zeros({3}); });
  expect_refused([](MlpStepInputs& in) { in.frame.norm_weight_D = at::zeros({3}); });
  expect_refused([](MlpStepInputs& in) { in.up_weight_FD.requires_grad_(true); });
}

} // namespace
} // namespace baton::ops

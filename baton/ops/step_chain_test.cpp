// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/step_chain.h"

#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/ops/mamba2_step.h"
#include "baton/ops/mlp_step.h"

namespace baton::ops {
namespace {

constexpr std::int64_t kWidth = 64;

/// A small model: layers of both kinds in turns, and states of the first.
class Layers {
 public:
  explicit Layers(at::ScalarType dtype)
      : mamba2_(
            {.hidden_BD = {},
             .frame = {normal({kWidth}, dtype)},
             .in_weight_CD = normal({2 * 64 + 2 * 16 + 4, kWidth}, dtype) * 0.1,
             .conv_weight_CK = normal({64 + 2 * 16, 4}, dtype),
             .A_log_H = at::rand({4}),
             .D = at::randn({4}),
             .norm = {1e-5, 64, true},
             .out_weight_DI = normal({kWidth, 64}, dtype) * 0.1}),
        mlp_(
            {.hidden_BD = {},
             .frame = {normal({kWidth}, dtype)},
             .up_weight_FD = normal({256, kWidth}, dtype) * 0.1,
             .down_weight_DF = normal({kWidth, 256}, dtype) * 0.1}),
        states_(
            {.conv_SCK = at::zeros({3, 64 + 2 * 16, 3}),
             .ssm_SHPN = at::zeros({3, 4, 16, 16}),
             .slots_B = at::tensor({2, 0}, at::kInt)}) {}

  static at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::randn(sizes).to(dtype);
  }

  at::Tensor mamba2(const at::Tensor& hidden_BD) {
    mamba2_.hidden_BD = hidden_BD;
    return mamba2_step_(mamba2_, states_);
  }
  at::Tensor mlp(const at::Tensor& hidden_BD) {
    mlp_.hidden_BD = hidden_BD;
    return squared_relu_mlp_step(mlp_);
  }
  at::Tensor operator()(const at::Tensor& hidden_BD) { return mlp(mamba2(mlp(mamba2(hidden_BD)))); }

  /// Lays weights column by column, which no step in phases takes.
  void turn_weights() { mlp_.up_weight_FD = mlp_.up_weight_FD.t().contiguous().t(); }

  /// Throws, as its states are those of other sizes.
  at::Tensor refused(const at::Tensor& hidden_BD) {
    mamba2_.hidden_BD = hidden_BD;
    return mamba2_step_(
        mamba2_,
        {.conv_SCK = states_.conv_SCK, .ssm_SHPN = states_.conv_SCK, .slots_B = states_.slots_B});
  }

  Mamba2StepStates copied_states() const {
    return {states_.conv_SCK.clone(), states_.ssm_SHPN.clone(), states_.slots_B};
  }
  void take(const Mamba2StepStates& states) { states_ = states; }
  bool has(const Mamba2StepStates& states) const {
    return states_.conv_SCK.equal(states.conv_SCK) && states_.ssm_SHPN.equal(states.ssm_SHPN);
  }

 private:
  Mamba2StepInputs mamba2_;
  MlpStepInputs mlp_;
  Mamba2StepStates states_;
};

class Chains : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(1); }
};

TEST_P(Chains, GiveTheBitsOfStepsAlone) {
  Layers layers(GetParam());
  const Mamba2StepStates start = layers.copied_states();
  const at::Tensor first_BD = Layers::normal({2, kWidth}, GetParam());
  at::Tensor alone_BD = first_BD;
  for (int token = 0; token < 5; ++token) {
    alone_BD = layers(alone_BD);
  }
  const Mamba2StepStates end = layers.copied_states();
  layers.take(start);
  at::Tensor chained_BD = first_BD;
  {
    const StepChain chain;
    for (int token = 0; token < 5; ++token) {
      chained_BD = layers(chained_BD);
    }
    StepChain::run();
  }
  EXPECT_TRUE(chained_BD.equal(alone_BD));
  EXPECT_TRUE(layers.has(end));
}

TEST_P(Chains, RunBeforeOperatorsThatTakeOver) {
  Layers layers(GetParam());
  Layers others(GetParam());
  others.turn_weights();
  const at::Tensor hidden_BD = Layers::normal({2, kWidth}, GetParam());
  const at::Tensor expected_BD = others.mlp(layers.mlp(hidden_BD));
  const StepChain chain;
  EXPECT_TRUE(others.mlp(layers.mlp(hidden_BD)).equal(expected_BD));
}

TEST_P(Chains, LeaveStatesAloneWhenOneIsRefused) {
  Layers layers(GetParam());
  const Mamba2StepStates before = layers.copied_states();
  const at::Tensor hidden_BD = Layers::normal({2, kWidth}, GetParam());
  {
    const StepChain chain;
    const at::Tensor next_BD = layers.mamba2(hidden_BD);
    EXPECT_THROW(layers.refused(next_BD), c10::Error);
  }
  EXPECT_TRUE(layers.has(before));
  layers.mamba2(hidden_BD); // no chain is left to take it
  EXPECT_FALSE(layers.has(before));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Chains, ::testing::Values(at::kFloat, at::kBFloat16));

TEST(Chain, IsOneOfAThread) {
  StepChain::run(); // of nobody
  const StepChain chain;
  StepChain::run(); // of nothing
  EXPECT_THROW(StepChain(), c10::Error);
  std::thread([] { EXPECT_NO_THROW(StepChain()); }).join();
  EXPECT_THROW(StepChain(), c10::Error);
}

} // namespace
} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_step.h"

#include <gtest/gtest.h>

#include "baton/ops/ssd_recurrence.h"

namespace baton::ops {
namespace {

// A few dozen steps of sums in the accumulating type; bf16 outputs are rounded to 8 bits.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2e-5 : 6e-3;
}

SsdStepInputs token(const SsdInputs& in, std::vector<std::int64_t> rows) {
  const at::Tensor index = at::tensor(rows);
  const auto pick = [&](const at::Tensor& tensor) { return tensor.index_select(0, index); };
  return {
      pick(in.x_THP), pick(in.dt_TH), in.A_H, pick(in.B_TGN), pick(in.C_TGN), in.D, in.time_step};
}

class SsdStep : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(SsdStep, StepByStepIsTheScan) {
  at::manual_seed(1);
  for (const std::int64_t N : {6, 33}) {
    SsdCase shape{{40, 40}, 4, 5, 2, N};
    shape.skip_per_channel = N == 33;
    auto [in, start] = converted(
        shape.make(),
        {at::randn({4, 4, 5, N}, at::kDouble), at::tensor({3, 1}, at::kInt)},
        GetParam());
    const SsdOutput expected = ssd_recurrence(in, start);
    at::Tensor states = start.states_SHPN->clone();
    std::vector<at::Tensor> y;
    for (std::int64_t t = 0; t < 40; ++t) {
      y.push_back(ssd_step_(token(in, {t, 40 + t}), states, *start.slots_B));
    }
    const at::Tensor y_BTHP = at::stack(y, 1);
    EXPECT_EQ(y_BTHP.scalar_type(), GetParam());
    EXPECT_LT(relative_error(y_BTHP.flatten(0, 1), expected.y_THP), tolerance(GetParam()));
    EXPECT_LT(relative_error(states[3], expected.final_states_BHPN[0]), tolerance(GetParam()));
    EXPECT_LT(relative_error(states[1], expected.final_states_BHPN[1]), tolerance(GetParam()));
    EXPECT_TRUE(at::equal(states[0], (*start.states_SHPN)[0]));
    EXPECT_TRUE(at::equal(states[2], (*start.states_SHPN)[2]));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    SsdStep,
    ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST(SsdStepSlots, WithoutASlotNothingIsStored) {
  at::manual_seed(2);
  const SsdInputs in = SsdCase{{1}}.make();
  at::Tensor states = at::randn({2, 4, 5, 6}, at::kDouble);
  const at::Tensor before = states.clone();
  const at::Tensor y = ssd_step_(token(in, {0}), states, at::tensor({-1}, at::kInt));
  EXPECT_LT(relative_error(y, ssd_recurrence(in).y_THP), 1e-12);
  EXPECT_TRUE(at::equal(states, before));
  at::Tensor no_states = states.narrow(0, 0, 0);
  EXPECT_EQ(ssd_step_(token(in, {}), no_states, at::empty({0}, at::kInt)).size(0), 0);
}

TEST(SsdStepSlots, SlotsMayLieApartInMemory) {
  at::manual_seed(3);
  const SsdInputs in = SsdCase{{2}}.make();
  at::Tensor pool = at::randn({3, 2, 4, 5, 6}, at::kDouble);
  at::Tensor states = pool.select(1, 1);
  at::Tensor dense = states.clone();
  const at::Tensor slots = at::tensor({2, 0}, at::kInt);
  const at::Tensor y = ssd_step_(token(in, {0, 1}), states, slots);
  EXPECT_TRUE(at::equal(y, ssd_step_(token(in, {0, 1}), dense, slots)));
  EXPECT_TRUE(at::equal(states, dense));
}

TEST(SsdStepErrors, RefusesGradientsAndBadSlots) {
  const SsdInputs in = SsdCase{{2}}.make();
  at::Tensor states = at::zeros({2, 4, 5, 6}, at::kDouble);
  const SsdStepInputs rows = token(in, {0, 1});
  EXPECT_THROW(ssd_step_(rows, states, at::tensor({0, 2}, at::kInt)), c10::Error);
  EXPECT_THROW(ssd_step_(rows, states, at::tensor({1, 1}, at::kInt)), c10::Error);
  EXPECT_THROW(ssd_step_(rows, states, at::tensor({0}, at::kInt)), c10::Error);
  at::Tensor transposed = states.transpose(2, 3).contiguous().transpose(2, 3);
  EXPECT_THROW(ssd_step_(rows, transposed, at::tensor({0, 1}, at::kInt)), c10::Error);
  SsdStepInputs differentiable = rows;
  differentiable.x_BHP = rows.x_BHP.clone().requires_grad_(true);
  EXPECT_THROW(ssd_step_(differentiable, states, at::tensor({0, 1}, at::kInt)), c10::Error);
  const auto version = states._version();
  at::NoGradGuard no_grad;
  ssd_step_(differentiable, states, at::tensor({0, 1}, at::kInt));
  EXPECT_GT(states._version(), version);
}

} // namespace
} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd_state.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "baton/ops/ssd_recurrence.h"
#include "baton/ops/ssd_snapshots.h"

namespace baton::ops {
namespace {

// Sums of at most a few hundred terms in the accumulating type; bf16 inputs are rounded before
// both.
constexpr double kDoubleTolerance = 1e-12;
constexpr double kFloatTolerance = 2e-5;

double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? kDoubleTolerance : kFloatTolerance;
}

class SsdState : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(SsdState, StateAndDecayGiveTheFinalState) {
  at::manual_seed(1);
  const SsdCase shape{{0, 1, 64, 65, 200, 0}};
  auto [in, start] =
      converted(shape.make(), {at::randn({6, shape.H, shape.P, shape.N}, at::kDouble)}, GetParam());
  const SsdStateOutput output = ssd_state(in);
  const at::Tensor composed =
      output.log_decay_BH.exp().unsqueeze(-1).unsqueeze(-1) * *start.states_SHPN +
      output.states_BHPN;
  EXPECT_LT(
      relative_error(composed, ssd_recurrence(in, start).final_states_BHPN), tolerance(GetParam()));
}

TEST_P(SsdState, StateGradientAndDecayGiveTheGradientOfTheInitialState) {
  at::manual_seed(2);
  const SsdCase shape{{0, 1, 64, 65, 200, 0}};
  auto [in, start] =
      converted(shape.make(), {at::randn({6, shape.H, shape.P, shape.N}, at::kDouble)}, GetParam());
  const at::Tensor dy = at::randn_like(in.x_THP);
  const at::Tensor dfinal = at::randn_like(*start.states_SHPN);
  const SsdStateOutput output = ssd_state_grad(dy, in);
  const at::Tensor composed =
      output.log_decay_BH.exp().unsqueeze(-1).unsqueeze(-1) * dfinal + output.states_BHPN;
  auto [judge, judge_start] = converted(in, start, at::kDouble);
  judge_start.states_SHPN->requires_grad_(true);
  const SsdOutput expected = ssd_recurrence(judge, judge_start);
  const auto wanted = torch::autograd::grad(
      {expected.y_THP, expected.final_states_BHPN},
      {*judge_start.states_SHPN},
      {dy.to(at::kDouble), dfinal.to(at::kDouble)});
  EXPECT_LT(relative_error(composed, wanted[0]), tolerance(GetParam()));
}

TEST_P(SsdState, SnapshotsAreTheStatesAtTheirOffsets) {
  at::manual_seed(3);
  const SsdCase shape{{100, 0, 70}};
  auto [in, start] = converted(
      shape.make(),
      {at::randn({3, shape.H, shape.P, shape.N}, at::kDouble), at::tensor({2, 0, -1}, at::kInt)},
      GetParam());
  const std::vector<std::vector<std::int64_t>> offsets = {{0, 1, 64, 64, 99}, {0}, {70}};
  const SsdSnapshotOutput output = ssd_snapshots(in, start, offsets);
  const SsdOutput whole = ssd_recurrence(in, start);
  const double y_tolerance = GetParam() == at::kBFloat16 ? 6e-3 : tolerance(GetParam());
  EXPECT_LT(relative_error(output.y_THP, whole.y_THP), y_tolerance);
  EXPECT_LT(
      relative_error(output.final_states_BHPN, whole.final_states_BHPN), tolerance(GetParam()));
  std::int64_t snapshot = 0;
  for (std::int64_t b = 0; b < 3; ++b) {
    for (const std::int64_t offset : offsets[b]) {
      SsdInputs prefix = in;
      const std::int64_t first = in.starts[b].item<std::int64_t>();
      for (at::Tensor* tensor : {&prefix.x_THP, &prefix.dt_TH, &prefix.B_TGN, &prefix.C_TGN}) {
        *tensor = tensor->narrow(0, first, offset);
      }
      prefix.starts = at::tensor({std::int64_t{0}, offset}, at::TensorOptions().dtype(at::kInt));
      const SsdOutput expected =
          ssd_recurrence(prefix, {start.states_SHPN, start.slots_B->narrow(0, b, 1)});
      EXPECT_LT(
          relative_error(output.snapshots_EHPN[snapshot], expected.final_states_BHPN[0]),
          tolerance(GetParam()));
      ++snapshot;
    }
  }
  EXPECT_EQ(output.snapshots_EHPN.size(0), snapshot);
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    SsdState,
    ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST(SsdStateErrors, RefuseInputsThatRequireGrad) {
  SsdInputs in = SsdCase{{5}}.make();
  in.B_TGN.requires_grad_(true);
  in.C_TGN.requires_grad_(true);
  const at::Tensor dy = at::randn_like(in.x_THP);
  EXPECT_THROW(ssd_state(in), c10::Error);
  EXPECT_THROW(ssd_state_grad(dy, in), c10::Error);
  EXPECT_THROW(ssd_snapshots(in, {}, {{2}}), c10::Error);
  at::NoGradGuard no_grad;
  EXPECT_NO_THROW(ssd_state(in));
  EXPECT_NO_THROW(ssd_state_grad(dy, in));
  EXPECT_NO_THROW(ssd_snapshots(in, {}, {{2}}));
}

TEST(SsdStateErrors, RefuseBadOffsets) {
  const SsdInputs in = SsdCase{{5}}.make();
  EXPECT_THROW(ssd_snapshots(in, {}, {{6}}), c10::Error);
  EXPECT_THROW(ssd_snapshots(in, {}, {{3, 2}}), c10::Error);
  EXPECT_THROW(ssd_snapshots(in, {}, {}), c10::Error);
}

} // namespace
} // namespace baton::ops

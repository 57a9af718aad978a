// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/ssd.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "baton/ops/ssd_recurrence.h"

namespace baton::ops {
namespace {

// Sums of at most a few hundred terms in the accumulating type.
constexpr double kDoubleTolerance = 1e-12;
constexpr double kFloatTolerance = 2e-5;
// Inputs and outputs are rounded to 8 bits; the recurrence reads the rounded inputs.
constexpr double kHalfTolerance = 6e-3;

double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble  ? kDoubleTolerance
         : dtype == at::kFloat ? kFloatTolerance
                               : kHalfTolerance;
}

const std::vector<std::vector<std::int64_t>> kLayouts =
    {{}, {0}, {1}, {63}, {64}, {65}, {300}, {5, 0, 64, 130, 1, 0}};

at::Tensor slots(std::vector<std::int64_t> values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kInt));
}

at::Tensor random_states(std::int64_t S, const SsdCase& shape) {
  return at::randn({S, shape.H, shape.P, shape.N}, at::kDouble);
}

// Runs the operator and the recurrence, and their gradients for the same random output gradients.
void expect_like_recurrence(
    const SsdInputs& original,
    const SsdStart& original_start,
    at::ScalarType dtype) {
  auto [in, start] = converted(original, original_start, dtype);
  auto [judge, judge_start] = converted(in, start, at::kDouble);
  auto inputs = floating_inputs(in, start);
  auto judge_inputs = floating_inputs(judge, judge_start);
  std::vector<at::Tensor> leaves, judge_leaves;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i]->requires_grad_(true));
    judge_leaves.push_back(judge_inputs[i]->requires_grad_(true));
  }
  const SsdOutput got = ssd(in, start);
  const SsdOutput expected = ssd_recurrence(judge, judge_start);
  EXPECT_EQ(got.y_THP.scalar_type(), dtype);
  EXPECT_LT(relative_error(got.y_THP, expected.y_THP), tolerance(dtype));
  EXPECT_LT(relative_error(got.final_states_BHPN, expected.final_states_BHPN), tolerance(dtype));
  const at::Tensor dy = at::randn_like(got.y_THP);
  const at::Tensor dfinal = at::randn_like(got.final_states_BHPN);
  const auto gradients =
      torch::autograd::grad({got.y_THP, got.final_states_BHPN}, leaves, {dy, dfinal});
  // Without tokens and without initial states the judge's final states are constants.
  std::vector<at::Tensor> judge_outputs{expected.y_THP};
  std::vector<at::Tensor> judge_gradients{dy.to(at::kDouble)};
  if (expected.final_states_BHPN.requires_grad()) {
    judge_outputs.push_back(expected.final_states_BHPN);
    judge_gradients.push_back(dfinal.to(at::kDouble));
  }
  const auto wanted = torch::autograd::grad(
      judge_outputs, judge_leaves, judge_gradients, std::nullopt, false, true);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_EQ(gradients[i].scalar_type(), leaves[i].scalar_type());
    const at::Tensor want = wanted[i].defined() ? wanted[i] : at::zeros_like(judge_leaves[i]);
    EXPECT_LT(relative_error(gradients[i], want), 5 * tolerance(dtype)) << "gradient " << i;
  }
}

class SsdLayouts : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(SsdLayouts, ForwardAndBackwardFollowTheRecurrence) {
  at::manual_seed(1);
  for (const auto& lengths : kLayouts) {
    SCOPED_TRACE(::testing::PrintToString(lengths));
    SsdCase shape{lengths};
    expect_like_recurrence(shape.make(), {}, GetParam());
    const SsdStart start{random_states(static_cast<std::int64_t>(lengths.size()), shape)};
    shape.skip_per_channel = true;
    expect_like_recurrence(shape.make(), start, GetParam());
  }
}

TEST_P(SsdLayouts, ShapesOfManyKinds) {
  at::manual_seed(2);
  for (const auto& [H, P, G, N] : std::vector<std::array<std::int64_t, 4>>{
           {1, 1, 1, 1}, {3, 7, 1, 3}, {4, 32, 2, 64}, {10, 40, 1, 16}, {4, 16, 4, 33}}) {
    SCOPED_TRACE(::testing::Message() << H << " " << P << " " << G << " " << N);
    const SsdCase shape{{70, 3}, H, P, G, N};
    expect_like_recurrence(shape.make(), {random_states(2, shape)}, GetParam());
  }
}

TEST_P(SsdLayouts, SlotsMayBeAbsentSharedOrInAnyOrder) {
  at::manual_seed(3);
  const SsdCase shape{{20, 0, 70, 0, 3}};
  const SsdStart start{random_states(4, shape), slots({2, 2, -1, -1, 2})};
  expect_like_recurrence(shape.make(), start, GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    SsdLayouts,
    ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16));

TEST(Ssd, TimeStepsWithoutSoftplusBiasOrDAndWithLimits) {
  at::manual_seed(4);
  SsdInputs in = SsdCase{{80, 10}}.make();
  in.time_step.min = 0.2;
  in.time_step.max = 0.6;
  expect_like_recurrence(in, {}, at::kDouble);
  in.time_step.softplus = false;
  in.time_step.bias_H = std::nullopt;
  in.D = std::nullopt;
  in.dt_TH = in.dt_TH.abs();
  expect_like_recurrence(in, {}, at::kDouble);
  in.time_step = {};
  in.dt_TH = in.dt_TH * 30; // both sides of the point where softplus becomes the identity
  expect_like_recurrence(in, {}, at::kDouble);
}

TEST(Ssd, TakesRowsOfAWiderProjectionAndTransposedInputs) {
  at::manual_seed(5);
  const SsdInputs plain = SsdCase{{90}}.make();
  const SsdOutput expected = ssd(plain);
  SsdInputs strided = plain;
  const auto widened = [](const at::Tensor& tensor) {
    const at::Tensor flat = tensor.flatten(1);
    return at::cat({flat, flat + 1}, 1).narrow(1, 0, flat.size(1)).view(tensor.sizes());
  };
  strided.x_THP = widened(plain.x_THP);
  strided.B_TGN = widened(plain.B_TGN);
  strided.C_TGN = plain.C_TGN.transpose(1, 2).contiguous().transpose(1, 2);
  strided.dt_TH = plain.dt_TH.t().contiguous().t();
  EXPECT_TRUE(at::equal(ssd(strided).y_THP, expected.y_THP));
  const at::Tensor dy = at::randn({90}, at::kDouble).view({90, 1, 1}).expand({90, 4, 5});
  const SsdGradients a = ssd_backward(dy.contiguous(), std::nullopt, plain);
  const SsdGradients b = ssd_backward(dy, std::nullopt, strided);
  EXPECT_TRUE(at::equal(a.dx_THP, b.dx_THP));
  EXPECT_TRUE(at::equal(a.dB_TGN, b.dB_TGN));
  EXPECT_TRUE(at::equal(a.dC_TGN, b.dC_TGN));
  EXPECT_TRUE(at::equal(a.ddt_TH, b.ddt_TH));
}

TEST(Ssd, WholeIsSplitWithTheStateCarried) {
  at::manual_seed(6);
  const SsdInputs in = SsdCase{{200}}.make();
  const SsdOutput whole = ssd(in);
  std::vector<at::Tensor> pieces;
  SsdStart start;
  std::int64_t first = 0;
  for (const std::int64_t length : {0, 1, 64, 37, 98}) {
    SsdInputs part = in;
    for (at::Tensor* tensor : {&part.x_THP, &part.dt_TH, &part.B_TGN, &part.C_TGN}) {
      *tensor = tensor->narrow(0, first, length);
    }
    part.starts = slots({0, length});
    const SsdOutput output = ssd(part, start);
    pieces.push_back(output.y_THP);
    start.states_SHPN = output.final_states_BHPN;
    first += length;
  }
  EXPECT_LT(relative_error(at::cat(pieces), whole.y_THP), kDoubleTolerance);
  EXPECT_LT(relative_error(*start.states_SHPN, whole.final_states_BHPN), kDoubleTolerance);
}

// States as large as these leave 32 chunks to a window: 2500 tokens take two, each half takes one.
TEST(Ssd, SeveralWindowsAreLikeOne) {
  at::manual_seed(7);
  SsdStart none;
  SsdInputs in = SsdCase{.lengths = {2500}, .H = 2, .P = 64, .G = 2, .N = 512}.make();
  for (at::Tensor* tensor : floating_inputs(in, none)) {
    tensor->requires_grad_(true);
  }
  const at::Tensor dy = at::randn_like(in.x_THP);
  const auto half = [&](std::int64_t first, const SsdStart& start) {
    SsdInputs part = in;
    for (at::Tensor* tensor : {&part.x_THP, &part.dt_TH, &part.B_TGN, &part.C_TGN}) {
      *tensor = tensor->narrow(0, first, 1250);
    }
    part.starts = slots({0, 1250});
    return ssd(part, start);
  };
  const SsdOutput whole = ssd(in);
  const SsdOutput left = half(0, {});
  const SsdOutput right = half(1250, {left.final_states_BHPN, slots({0})});
  const at::Tensor halves = at::cat({left.y_THP, right.y_THP});
  EXPECT_LT(relative_error(halves, whole.y_THP), kDoubleTolerance);
  EXPECT_LT(relative_error(right.final_states_BHPN, whole.final_states_BHPN), kDoubleTolerance);
  std::vector<at::Tensor> leaves;
  for (at::Tensor* tensor : floating_inputs(in, none)) {
    leaves.push_back(*tensor);
  }
  const auto one = torch::autograd::grad({whole.y_THP}, leaves, {dy});
  const auto two = torch::autograd::grad({halves}, leaves, {dy});
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_LT(relative_error(one[i], two[i]), 5 * kDoubleTolerance) << "gradient " << i;
  }
}

TEST(Ssd, OneAndTwoThreadsGiveEqualBits) {
  at::manual_seed(7);
  const int before = at::get_num_threads();
  for (const auto& lengths : std::vector<std::vector<std::int64_t>>{{40}, {700, 3, 200}}) {
    const SsdCase shape{lengths, 4, 32, 1, 48};
    auto [in, start] = converted(
        shape.make(),
        {random_states(static_cast<std::int64_t>(lengths.size()), shape)},
        at::kFloat);
    const at::Tensor dy = at::randn_like(in.x_THP);
    std::vector<SsdOutput> outputs;
    std::vector<SsdGradients> gradients;
    for (const int threads : {1, 2}) {
      at::set_num_threads(threads);
      outputs.push_back(ssd(in, start));
      gradients.push_back(ssd_backward(dy, outputs.back().final_states_BHPN, in, start));
    }
    EXPECT_TRUE(at::equal(outputs[0].y_THP, outputs[1].y_THP));
    EXPECT_TRUE(at::equal(outputs[0].final_states_BHPN, outputs[1].final_states_BHPN));
    const auto list = [](const SsdGradients& g) {
      return std::vector<at::Tensor>{
          g.dx_THP,
          g.ddt_TH,
          g.dA_H,
          g.dB_TGN,
          g.dC_TGN,
          g.dD,
          g.ddt_bias_H,
          g.dinitial_states_SHPN};
    };
    for (std::size_t i = 0; i < list(gradients[0]).size(); ++i) {
      EXPECT_TRUE(at::equal(list(gradients[0])[i], list(gradients[1])[i])) << "gradient " << i;
    }
  }
  at::set_num_threads(before);
}

// The running sum of log decays reaches -1500 inside a chunk: differences of plain fp32 sums would
// be off by 1e-4, and unmasked exponentials would overflow.
TEST(Ssd, StrongDecaysKeepTheirPrecision) {
  at::manual_seed(8);
  SsdInputs in = SsdCase{{150}}.make();
  in.A_H = at::full({4}, -16.0, at::kDouble);
  in.time_step = {std::nullopt, false};
  in.dt_TH = at::where(
      at::rand({150, 4}, at::kDouble) < 0.5,
      at::full({}, 3.0, at::kDouble),
      at::full({}, 0.003, at::kDouble));
  expect_like_recurrence(in, {}, at::kFloat);
}

TEST(Ssd, LossOfTheFinalStateAlone) {
  at::manual_seed(9);
  SsdInputs in = SsdCase{{70}}.make();
  SsdInputs judge = in;
  in.x_THP = in.x_THP.clone().requires_grad_(true);
  judge.x_THP = judge.x_THP.clone().requires_grad_(true);
  ssd(in).final_states_BHPN.square().sum().backward();
  ssd_recurrence(judge).final_states_BHPN.square().sum().backward();
  EXPECT_LT(relative_error(in.x_THP.grad(), judge.x_THP.grad()), kDoubleTolerance);
}

TEST(Ssd, OutputsAndGradientsNeedNoFinalStates) {
  at::manual_seed(10);
  for (const std::vector<std::int64_t>& lengths :
       std::vector<std::vector<std::int64_t>>{{70}, {3, 0, 130, 1}, {0}}) {
    SsdInputs in = SsdCase{lengths}.make();
    in.x_THP = in.x_THP.clone().requires_grad_(true);
    const auto run = [&](bool final_states) {
      const SsdOutput output = ssd(in, {}, final_states);
      EXPECT_EQ(
          output.final_states_BHPN.size(0),
          final_states ? static_cast<std::int64_t>(lengths.size()) : 0);
      in.x_THP.mutable_grad() = at::Tensor();
      output.y_THP.square().sum().backward();
      return std::pair(output.y_THP.detach(), in.x_THP.grad());
    };
    const auto with = run(true);
    const auto without = run(false);
    EXPECT_TRUE(at::equal(with.first, without.first));
    EXPECT_TRUE(at::equal(with.second, without.second));
  }
}

TEST(Ssd, RefusesASecondDerivative) {
  SsdInputs in = SsdCase{{3}}.make();
  in.x_THP.requires_grad_(true);
  const at::Tensor loss = ssd(in).y_THP.square().sum();
  EXPECT_THROW(torch::autograd::grad({loss}, {in.x_THP}, {}, true, true), c10::Error);
}

TEST(Ssd, AbsentInputsHaveEmptyGradients) {
  SsdInputs in = SsdCase{{3}}.make();
  in.D = std::nullopt;
  in.time_step.bias_H = std::nullopt;
  const SsdGradients gradients = ssd_backward(at::randn_like(in.x_THP), std::nullopt, in);
  for (const at::Tensor& tensor :
       {gradients.dD, gradients.ddt_bias_H, gradients.dinitial_states_SHPN}) {
    EXPECT_TRUE(tensor.defined());
    EXPECT_EQ(tensor.numel(), 0);
  }
}

void expect_refused(const std::string& words, const SsdInputs& in, const SsdStart& start = {}) {
  try {
    ssd(in, start);
    ADD_FAILURE() << "not refused: " << words;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Ssd, RefusesBadInputs) {
  const SsdCase shape{{3, 2}};
  const SsdInputs good = shape.make();
  SsdInputs in = good;
  in.B_TGN = at::randn({5, 3, 6}, at::kDouble);
  expect_refused("multiple of groups: 4 vs 3", in);
  in = good;
  in.dt_TH = good.dt_TH.narrow(0, 0, 4);
  expect_refused("dt must have shape [5, 4]", in);
  in = good;
  in.C_TGN = good.C_TGN.to(at::kFloat);
  expect_refused("C must be Double", in);
  in = good;
  in.D = at::randn({3}, at::kDouble);
  expect_refused("D must have shape [4]", in);
  in = good;
  in.time_step.min = 1;
  in.time_step.max = 0.5;
  expect_refused("dt_min must not be above dt_max", in);
  in = good;
  in.starts = slots({0, 3, 4});
  EXPECT_THROW(ssd(in), c10::Error);
  in.starts = slots({0});
  expect_refused("starts names no sequence for 5 tokens", in);
  expect_refused("initial_slots need initial_states", good, {std::nullopt, slots({0, 1})});
  expect_refused("one state a sequence", good, {random_states(3, shape)});
  expect_refused("entry a sequence (2)", good, {random_states(3, shape), slots({0, 1, 2})});
  expect_refused("must lie in [-1, 3): 3", good, {random_states(3, shape), slots({0, 3})});
  expect_refused("states must be Double", good, {random_states(2, shape).to(at::kFloat)});
}

} // namespace
} // namespace baton::ops

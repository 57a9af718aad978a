// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/adamw.h"

#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace baton::ops {
namespace {

// fp64 differs from the formula by the rounding of a reordered product or two a step.
constexpr double kTolerance64 = 1e-13;
// The same for fp32, whose unit is 6e-8, over a few steps.
constexpr double kTolerance32 = 2e-6;

at::Tensor wave(at::IntArrayRef shape, double rate, double scale) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  return (at::arange(count, at::kDouble) * rate).sin().mul(scale).reshape(shape);
}

/// AdamW written out, value by value, in fp64.
struct PlainAdamw {
  std::vector<double> weights, exp_avg, exp_avg_sq;

  explicit PlainAdamw(const at::Tensor& start)
      : weights(static_cast<std::size_t>(start.numel())),
        exp_avg(weights.size()),
        exp_avg_sq(weights.size()) {
    const at::Tensor flat = start.to(at::kDouble).contiguous().view({-1});
    std::copy_n(flat.const_data_ptr<double>(), weights.size(), weights.begin());
  }

  void update(const at::Tensor& grad, const AdamwStep& step) {
    const at::Tensor flat = grad.to(at::kDouble).contiguous().view({-1});
    const double* values = flat.const_data_ptr<double>();
    const double power = static_cast<double>(step.step);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double g = values[i] * step.grad_scale;
      weights[i] -= step.lr * step.weight_decay * weights[i];
      exp_avg[i] = step.beta1 * exp_avg[i] + (1 - step.beta1) * g;
      exp_avg_sq[i] = step.beta2 * exp_avg_sq[i] + (1 - step.beta2) * g * g;
      const double mean = exp_avg[i] / (1 - std::pow(step.beta1, power));
      const double square = exp_avg_sq[i] / (1 - std::pow(step.beta2, power));
      weights[i] -= step.lr * mean / (std::sqrt(square) + step.eps);
    }
  }

  at::Tensor tensor(const std::vector<double>& values, const at::Tensor& like) const {
    return at::tensor(values, at::kDouble).reshape(like.sizes());
  }
};

double largest_difference(const at::Tensor& left, const at::Tensor& right) {
  return left.numel() == 0 ? 0.0 : (left.to(at::kDouble) - right).abs().max().item<double>();
}

AdamwStep step_number(std::int64_t step) {
  return {
      .lr = 0.01,
      .beta1 = 0.9,
      .beta2 = 0.95,
      .eps = 1e-8,
      .weight_decay = 0.1,
      .step = step,
      .grad_scale = 0.5};
}

AdamwMoments zero_moments(const at::Tensor& like, at::ScalarType dtype) {
  return {
      .exp_avg = at::zeros(like.sizes(), dtype),
      .exp_avg_sq = at::zeros(like.sizes(), dtype),
      .master = std::nullopt};
}

void expect_follows_formula(at::IntArrayRef shape, at::ScalarType dtype, double tolerance) {
  const at::Tensor parameter = wave(shape, 0.7, 1.0).to(dtype);
  AdamwMoments moments = zero_moments(parameter, dtype);
  PlainAdamw plain(parameter);
  for (std::int64_t step = 1; step <= 5; ++step) {
    const at::Tensor grad = wave(shape, 0.3 * static_cast<double>(step), 2.0).to(dtype);
    adamw_(parameter, grad, moments, step_number(step));
    plain.update(grad, step_number(step));
  }
  EXPECT_LE(largest_difference(parameter, plain.tensor(plain.weights, parameter)), tolerance);
  EXPECT_LE(largest_difference(moments.exp_avg, plain.tensor(plain.exp_avg, parameter)), tolerance);
  EXPECT_LE(
      largest_difference(moments.exp_avg_sq, plain.tensor(plain.exp_avg_sq, parameter)), tolerance);
}

TEST(Adamw, FollowsTheFormulaForEveryLength) {
  for (const std::int64_t length : {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 16384, 16385, 50000}) {
    SCOPED_TRACE(length);
    expect_follows_formula({length}, at::kDouble, kTolerance64);
    expect_follows_formula({length}, at::kFloat, kTolerance32);
  }
  expect_follows_formula({3, 5, 7}, at::kDouble, kTolerance64);
  expect_follows_formula({}, at::kDouble, kTolerance64);
}

TEST(Adamw, RoundsTheMasterToNearestEvenForBf16) {
  for (const at::ScalarType grad_dtype : {at::kBFloat16, at::kFloat}) {
    const at::Tensor parameter = wave({1001}, 0.7, 1.0).to(at::kBFloat16);
    AdamwMoments moments = zero_moments(parameter, at::kFloat);
    moments.master = parameter.to(at::kFloat);
    PlainAdamw plain(parameter);
    for (std::int64_t step = 1; step <= 5; ++step) {
      const at::Tensor grad = wave({1001}, 0.3, 2.0).to(grad_dtype);
      adamw_(parameter, grad, moments, step_number(step));
      plain.update(grad, step_number(step));
    }
    EXPECT_LE(
        largest_difference(*moments.master, plain.tensor(plain.weights, parameter)), kTolerance32);
    EXPECT_TRUE(at::equal(parameter, moments.master->to(at::kBFloat16)));
  }
}

TEST(Adamw, WithoutMasterABf16ParameterIsRoundedEachStep) {
  const at::Tensor parameter = wave({77}, 0.7, 1.0).to(at::kBFloat16);
  const at::Tensor twin = parameter.to(at::kFloat);
  const AdamwMoments moments = zero_moments(parameter, at::kFloat);
  const AdamwMoments twin_moments = zero_moments(parameter, at::kFloat);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const at::Tensor grad = wave({77}, 0.4, 2.0).to(at::kBFloat16);
    adamw_(parameter, grad, moments, step_number(step));
    adamw_(twin, grad.to(at::kFloat), twin_moments, step_number(step));
    twin.copy_(twin.to(at::kBFloat16));
    EXPECT_TRUE(at::equal(parameter.to(at::kFloat), twin));
  }
}

TEST(Adamw, RoundingKeepsInfinityAndNan) {
  const at::Tensor parameter =
      at::tensor({INFINITY, -INFINITY, NAN, 3.3895314e38F}).to(at::kBFloat16);
  const AdamwMoments moments = zero_moments(parameter, at::kFloat);
  AdamwStep step = step_number(1);
  step.weight_decay = 0.0;
  const at::Tensor before = parameter.clone();
  adamw_(parameter, at::zeros_like(parameter), moments, step);
  EXPECT_TRUE(at::allclose(parameter, before, 0, 0, /*equal_nan=*/true));
}

TEST(Adamw, ReadsStridedGradients) {
  const at::Tensor parameter = wave({6, 10}, 0.7, 1.0);
  const at::Tensor twin = parameter.clone();
  const at::Tensor grad = wave({10, 6}, 0.3, 2.0).t();
  ASSERT_FALSE(grad.is_contiguous());
  adamw_(parameter, grad, zero_moments(parameter, at::kDouble), step_number(1));
  adamw_(twin, grad.contiguous(), zero_moments(parameter, at::kDouble), step_number(1));
  EXPECT_TRUE(at::equal(parameter, twin));
}

TEST(Adamw, GivesEqualBitsForAnyThreadCount) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    const at::Tensor parameter = wave({100003}, 0.7, 1.0).to(at::kFloat);
    const AdamwMoments moments = zero_moments(parameter, at::kFloat);
    adamw_(parameter, wave({100003}, 0.3, 2.0).to(at::kFloat), moments, step_number(1));
    results.push_back(parameter);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

TEST(Adamw, RefusesWhatItCannotUpdate) {
  const at::Tensor parameter = at::ones({4, 4});
  const AdamwMoments moments = zero_moments(parameter, at::kFloat);
  const AdamwStep step = step_number(1);
  EXPECT_THROW(adamw_(parameter, at::ones({4, 3}), moments, step), c10::Error);
  EXPECT_THROW(adamw_(parameter, at::ones({4, 4}, at::kDouble), moments, step), c10::Error);
  EXPECT_THROW(adamw_(parameter.to(at::kLong), at::ones({4, 4}), moments, step), c10::Error);
  EXPECT_THROW(adamw_(parameter.t(), at::ones({4, 4}), moments, step_number(0)), c10::Error);
  EXPECT_THROW(
      adamw_(parameter, parameter, zero_moments(parameter, at::kDouble), step), c10::Error);
  const at::Tensor wants_grad = at::ones({4, 4}).requires_grad_(true);
  EXPECT_THROW(adamw_(wants_grad, parameter, moments, step), c10::Error);
  const at::NoGradGuard guard;
  EXPECT_NO_THROW(adamw_(wants_grad, at::ones({4, 4}), moments, step));
}

TEST(Adamw, MarksWhatItWroteForAutograd) {
  const at::Tensor parameter = at::ones({4});
  const AdamwMoments moments = zero_moments(parameter, at::kFloat);
  const std::int64_t before = parameter._version();
  adamw_(parameter, at::ones({4}), moments, step_number(1));
  EXPECT_GT(parameter._version(), before);
  EXPECT_GT(moments.exp_avg_sq._version(), 0);
}

} // namespace
} // namespace baton::ops

// SPDX-License-Identifier: Apache-2.0
#include "baton/ops/sum_squares.h"

#include <cmath>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace baton::ops {
namespace {

// fp64 sums in two orders: some units in the last place, growing with the root of the length.
constexpr double kRelative = 1e-13;

double plain_sum(const at::Tensor& x) {
  const at::Tensor flat = x.to(at::kDouble).contiguous().view({-1});
  const double* values = flat.const_data_ptr<double>();
  double sum = 0.0;
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    sum += values[i] * values[i];
  }
  return sum;
}

at::Tensor wave(std::int64_t length) {
  return (at::arange(length, at::kDouble) * 0.37).sin();
}

TEST(SumSquares, FollowsThePlainSum) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const std::int64_t length : {0, 1, 2, 7, 31, 32, 33, 63, 64, 65, 16384, 16385, 100003}) {
      const at::Tensor x = wave(length).to(dtype);
      const double expected = plain_sum(x);
      EXPECT_NEAR(sum_squares(x).item<double>(), expected, kRelative * expected) << length;
    }
  }
}

TEST(SumSquares, ReadsStridedTensors) {
  const at::Tensor x = wave(60).reshape({6, 10}).t();
  EXPECT_NEAR(sum_squares(x).item<double>(), plain_sum(x), 1e-13 * 60);
  EXPECT_EQ(sum_squares(at::full({}, 3.0)).item<double>(), 9.0);
}

TEST(SumSquares, IsFiniteExactlyWhenEveryValueIs) {
  at::Tensor x = at::full({100}, 3e38F);
  EXPECT_TRUE(std::isfinite(sum_squares(x).item<double>()));
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    x = at::ones({100});
    x[99] = bad;
    EXPECT_FALSE(std::isfinite(sum_squares(x).item<double>()));
    EXPECT_FALSE(std::isfinite(sum_squares(x.to(at::kBFloat16)).item<double>()));
  }
}

TEST(SumSquares, GivesEqualBitsForAnyThreadCount) {
  const int threads = at::get_num_threads();
  std::vector<double> sums;
  const at::Tensor x = wave(1000003).to(at::kFloat);
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    sums.push_back(sum_squares(x).item<double>());
  }
  at::set_num_threads(threads);
  EXPECT_EQ(sums[0], sums[1]);
}

TEST(SumSquares, HasTheGradientTwoX) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const at::Tensor x = wave(50).to(dtype).requires_grad_(true);
    (sum_squares(x) * 3).backward();
    EXPECT_TRUE(at::equal(x.grad(), x.detach() * 6));
  }
}

TEST(SumSquares, RefusesOtherTypes) {
  EXPECT_THROW(sum_squares(at::ones({3}, at::kLong)), c10::Error);
}

} // namespace
} // namespace baton::ops
